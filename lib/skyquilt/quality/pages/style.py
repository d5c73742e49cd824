"""Style of the quality site (LDM-151 6.2.1): light, or dark where the reader's system asks for it.

Charts keep their light paper in both, so that colours of bands, detectors and maps mean the same. No font or picture
comes from elsewhere.
"""

STYLE = """\
:root {
  --ink: #1c2430; --soft: #55606e; --line: #d8dde4; --panel: #f5f7f9; --paper: #ffffff; --link: #0b57a4;
  --pass: #17683d; --pass-bg: #e2f3e9; --fail: #a3231b; --fail-bg: #fbe6e4;
  --field: #ffffff; --edge: #aab3bf; --faint: #98a2ae; --topic: #b8c0ca; --chosen: #fff6cf; --press: #ffffff;
  color-scheme: light dark;
  --undecided: #7a5200; --undecided-bg: #fdf1d3; --info: #465264; --info-bg: #eaeef2;
}
@media (prefers-color-scheme: dark) { :root {
  --ink: #e3e7ec; --soft: #a2adba; --line: #343c46; --panel: #1d232a; --paper: #14181d; --link: #7db8f0;
  --pass: #8fd8ad; --pass-bg: #173826; --fail: #f3a49d; --fail-bg: #4a1d1a; --undecided: #f0cd7c;
  --undecided-bg: #443410; --info: #bcc7d4; --info-bg: #2b333d;
  --field: #1d232a; --edge: #56616e; --faint: #6d7884; --topic: #56616e; --chosen: #3d3718; --press: #14181d;
} }
* { box-sizing: border-box; }
html { font: 15px/1.45 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
body { margin: 0; color: var(--ink); background: var(--paper); }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }
a:hover { text-decoration-thickness: 2px; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 8px; top: 8px; background: var(--paper); padding: 4px 8px; z-index: 9; }
header.top { border-bottom: 1px solid var(--line); background: var(--panel); }
header.top > div, main, footer.bottom { max-width: 1240px; margin: 0 auto; padding: 0 20px; }
header.top > div { display: flex; gap: 24px; align-items: baseline; min-height: 46px; padding-top: 10px; }
header.top .name { font-weight: 650; }
header.top nav a { margin-right: 16px; }
main { padding-top: 18px; padding-bottom: 40px; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 1.13rem; margin: 30px 0 10px; padding-top: 6px; }
p { margin: 6px 0; }
.lead, .note, footer.bottom { color: var(--soft); }
.note { font-size: .87rem; }
footer.bottom { border-top: 1px solid var(--line); padding-top: 10px; padding-bottom: 24px; font-size: .87rem; }
.crumbs { color: var(--soft); font-size: .87rem; margin-bottom: 6px; display: flex; gap: 6px; flex-wrap: wrap; }
.crumbs .right { margin-left: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(135px, 1fr)); gap: 10px; margin: 14px 0; }
.tile { border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px; }
.tile b { display: block; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .87rem; }
.columns { display: grid; grid-template-columns: minmax(0, 1fr) 340px; gap: 24px; align-items: start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; color: var(--soft); padding-bottom: 4px; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; white-space: nowrap; vertical-align: bottom; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.n + td:not(.n), th.n + th:not(.n) { padding-left: 10px; }
#visits td, #scorecard td:not(:last-child) { white-space: nowrap; }
#scorecard td:last-child { color: var(--soft); min-width: 170px; }
td button { all: unset; color: var(--link); text-decoration: underline 1px; text-underline-offset: 2px; cursor: pointer; }
td button:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
tbody tr:hover { background: var(--panel); }
tr.topic th { padding-top: 14px; font-weight: 650; border-bottom: 1px solid var(--topic); }
tr.topic:hover { background: none; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tr.chosen { background: var(--chosen); }
.badge { display: inline-block; min-width: 76px; text-align: center; border-radius: 3px; padding: 0 6px;
  font-size: .82rem; font-weight: 600; }
.pass, .ok { color: var(--pass); background: var(--pass-bg); }
.fail, .failed { color: var(--fail); background: var(--fail-bg); }
.undecided, .flagged { color: var(--undecided); background: var(--undecided-bg); }
.info { color: var(--info); background: var(--info-bg); }
.tools { display: flex; gap: 14px; align-items: center; flex-wrap: wrap; margin: 6px 0; font-size: .9rem; }
.tools .right { margin-left: auto; }
input, select, button { font: inherit; color: inherit; }
input[type=search], select { border: 1px solid var(--edge); border-radius: 4px; padding: 3px 6px;
  background: var(--field); }
.tools button { border: 1px solid var(--edge); border-radius: 4px; background: var(--field);
  padding: 2px 10px; cursor: pointer; }
.tools button:disabled { color: var(--faint); border-color: var(--line); cursor: default; }
.tools button[aria-pressed=true] { background: var(--ink); color: var(--press); border-color: var(--ink); }
dl.figures { display: grid; grid-template-columns: auto 1fr; gap: 2px 14px; margin: 0; font-size: .9rem; }
dl.figures dt { color: var(--soft); }
dl.figures dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
svg.chart { display: block; width: 100%; height: auto; max-height: 78vh; border: 1px solid var(--line); background: #fff; }
svg text { font-family: inherit; }
.graticule { fill: none; stroke: #e4e8ed; stroke-width: 1; }
.axis { fill: #55606e; font-size: 12px; }
.patch { fill: none; stroke: #c3cbd5; stroke-width: .7; }
.tract { fill: none; stroke: #4b5766; stroke-width: 1.6; stroke-dasharray: 7 4; }
.tract-name { fill: #3a4655; font-size: 13px; font-weight: 600; }
.visit { fill-opacity: .1; stroke-width: 1.1; cursor: pointer; }
a:hover > .visit, a:focus > .visit { fill-opacity: .45; stroke-width: 2.4; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: .87rem; margin: 6px 0; }
.legend i { display: inline-block; width: 12px; height: 12px; margin-right: 6px; border-radius: 2px;
  vertical-align: -1px; }
.legend i.ring { border: 2px solid; border-radius: 50%; background: none; }
.detector { stroke: #5b6675; stroke-width: 1; }
.detector.failed { fill: #f6d5d2; stroke: #a3231b; stroke-width: 2; }
.detector.flagged { fill: #fbe7b6; }
.detector.ok { fill: #d5ecdf; }
.detector.absent { fill: #f3f4f6; stroke-dasharray: 4 3; }
a:hover > .detector, a:focus > .detector { stroke: #0b57a4; stroke-width: 3; }
.detector-name { font-size: 13px; text-anchor: middle; dominant-baseline: central; pointer-events: none; }
.scale { background: linear-gradient(90deg, rgb(68,1,84), rgb(59,82,139), rgb(33,145,140), rgb(94,201,98),
  rgb(253,231,37)); height: 12px; border: 1px solid var(--line); border-radius: 2px; }
.ends { display: flex; justify-content: space-between; font-size: .85rem; font-variant-numeric: tabular-nums; }
.viewer { border: 1px solid var(--line); background: #14181d; overflow: auto; max-height: 82vh; }
.stage { position: relative; width: 100%; line-height: 0; }
.stage img { width: 100%; image-rendering: pixelated; display: block; }
.stage img.over, .stage svg { position: absolute; left: 0; top: 0; width: 100%; height: 100%; }
.stage img.over { opacity: .5; }
.stage ellipse { fill: transparent; stroke-width: 1.3; vector-effect: non-scaling-stroke; cursor: pointer; }
.stage ellipse:hover { stroke-width: 3; }
.stage ellipse.chosen { stroke: #ffe14d !important; stroke-width: 3.5; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 12px; margin: 8px 0; }
.plots > svg { max-width: 760px; }
.pair { display: grid; grid-template-columns: minmax(260px, 420px) minmax(0, 1fr); gap: 20px; align-items: start; }
.unit { content-visibility: auto; contain-intrinsic-size: auto 700px; border-top: 1px solid var(--line); margin-top: 26px; }
h3 { font-size: 1rem; margin: 18px 0 6px; }
svg.map { max-width: 420px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 16px; margin: 10px 0; }
.gallery figure { margin: 0; }
.gallery figcaption { font-size: .85rem; color: var(--soft); margin-top: 4px; font-variant-numeric: tabular-nums; }
img.frame { display: block; width: 100%; height: auto; image-rendering: pixelated;
  border: 1px solid var(--line); }
.graticule.zero { stroke: #8893a0; }
.axis.name { font-size: 13px; }
.series { fill: none; stroke: var(--c); vector-effect: non-scaling-stroke; }
.series.line { stroke-width: 1.4; }
.series.bar { stroke-width: 1; opacity: .45; }
.series.point { stroke-width: 5; stroke-linecap: round; }
.series.cross { stroke-width: 1.4; }
.box { fill: var(--c); }
.legend i[class^=s] { background: var(--c); }
.s0 { --c: #1f6fb2; } .s1 { --c: #c8372d; } .s2 { --c: #1f8a4c; } .s3 { --c: #b06a00; } .s4 { --c: #7b3fb0; }
.s5 { --c: #3b8d8d; } .s6 { --c: #a1387f; } .s7 { --c: #8a7a00; } .s8 { --c: #7a4a2b; } .s9 { --c: #5d6b7c; }
table.matrix { width: auto; }
table.matrix th, table.matrix td { padding: 3px 9px; white-space: nowrap; }
table.matrix td { text-align: right; color: #1c2430; }
table.matrix td.pale { color: #fff; }
table.matrix small { opacity: .75; }
[hidden] { display: none !important; }
@media (max-width: 900px) { .columns { grid-template-columns: 1fr; } }
@media print { .tools, header.top nav { display: none; } }
"""
