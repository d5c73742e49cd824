"""Quality pages (LDM-151 6.2.1): a site that opens from disk, from the survey down to a source on its pixels.

    index.html                                  survey, scorecard, map of the sky, visits, failures, costs
    failures.html                               every failure with its reason
    visits/<visit>/index.html                   focal plane and detectors of a visit
    visits/<visit>/detector_<detector>.html     picture of a detector with its mask and sources
    assets/style.css, assets/site.js
    resources.js                                CPU and memory of the stages, which differ from run to run

No server, no resource from elsewhere, nothing fetched: data is part of the pages. All but resources.js has
the same bytes for the same input.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from skyquilt.io.atomic import write_bytes
from skyquilt.primitives.failure import REASON_TEXTS
from skyquilt.quality.pages import charts, markup
from skyquilt.quality.pages.markup import MISSING, Cell, Raw, badge, figures, link, number, table
from skyquilt.quality.pages.script import SCRIPT
from skyquilt.quality.pages.style import STYLE
from skyquilt.quality.scorecard import format_value
from skyquilt.quality.visit_pictures import MASK_GROUPS, SOURCE_CLASSES

if TYPE_CHECKING:
    import pandas as pd

RESOURCES = "resources.js"

PLANE_FIGURES = {
    "seeing": ("seeing [arcsec]", 3),
    "skyBg": ("sky [adu]", 1),
    "skyNoise": ("sky noise [adu]", 2),
    "zeroPoint": ("zero point [mag]", 3),
    "magLim": ("depth, 5 sigma [mag]", 2),
    "nSources": ("sources", 0),
    "nPsfStar": ("PSF stars", 0),
    "psfSigma": ("PSF sigma [px]", 3),
}
"""Columns of visit_detector_table that colour the focal plane: label and digits."""


@dataclass(frozen=True)
class QualitySiteConfig:
    """Quality pages."""

    rows_per_page: int = 50
    """Rows of a table shown at once [count]."""

    map_detectors: int = 10_000
    """With more visit-detectors than this the map shows a hull for each visit [count]."""

    map_patches: int = 5_000
    """With more patches than this the map shows tracts only [count]."""

    plane_figure: str = "seeing"
    """Figure that colours the focal plane when a page opens: a column such as seeing, zeroPoint, magLim."""

    def __post_init__(self) -> None:
        if self.rows_per_page < 5:
            raise ValueError(f"rows_per_page must be at least 5, got {self.rows_per_page}")
        for name in ("map_detectors", "map_patches"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.plane_figure not in PLANE_FIGURES:
            raise ValueError(
                f"plane_figure must be one of {', '.join(PLANE_FIGURES)}, got {self.plane_figure!r}"
            )


@dataclass(frozen=True, eq=False)
class _Site:
    """What all pages need."""

    directory: Path
    survey: Mapping[str, str]
    outlines: Mapping[int, Mapping[str, Any]]
    pictures: Mapping[tuple[int, int], str | Mapping[str, str]]
    figures_of_detector: Callable[[int, int], Mapping[str, Any] | None]
    failures: Sequence[Mapping[str, Any]]
    config: QualitySiteConfig
    written: list[Path]

    def write(self, name: str, content: str) -> None:
        path = self.directory / name
        write_bytes(path, content.encode())
        self.written.append(path)

    def page(
        self, name: str, title: str, body: str, crumbs: Sequence[Any] = (), scripts: Sequence[str] = ()
    ) -> None:
        depth = name.count("/")
        heading = f"{title} - {self.survey['name']}" if depth or crumbs else title
        shell = markup.page(
            title=heading, survey=self.survey["name"], depth=depth, body=body, crumbs=crumbs, scripts=scripts
        )
        self.write(name, shell)

    def detector_name(self, detector: int) -> str:
        return str(self.outlines.get(detector, {}).get("name", detector))


def write_site(
    directory: Path,
    *,
    survey: Mapping[str, str],
    visits: pd.DataFrame,
    visit_detectors: pd.DataFrame,
    detector_outlines: Mapping[int, Mapping[str, Any]],
    tracts: Sequence[Mapping[str, Any]],
    scorecard: Mapping[str, Any],
    pictures: Mapping[tuple[int, int], str | Mapping[str, str]],
    failures: Sequence[Mapping[str, Any]],
    figures_of_detector: Callable[[int, int], Mapping[str, Any] | None] | None = None,
    config: QualitySiteConfig = QualitySiteConfig(),
) -> list[Path]:
    """Write the pages.

    Parameters
    ----------
    directory : Path
    survey : mapping
        name, camera, sky_map: one line of text each.
    visits, visit_detectors : DataFrame
        Schemas VISIT and VISIT_DETECTOR.
    detector_outlines : mapping of detector number to mapping
        name, and corners: four (x, y) in the focal plane [mm].
    tracts : sequence of mappings
        id, outline (sequence of (ra, dec) [deg]), patches (sequence of mappings of id and outline).
    scorecard : mapping
        Of `make_scorecard`.
    pictures : mapping of (visit, detector) to path or mapping
        Path of the picture relative to `directory`, or paths of ``picture``, ``image`` and ``mask``: only
        with these layers can mask and sources be switched on and off.
    failures : sequence of mappings
        stage, visit and detector (either may be None), reason (code), detail.
    figures_of_detector : callable, optional
        Gives what `detector_figures` made of a detector of a visit, or None; called when the page is written,
        once for each detector with a picture in layers.
    config : QualitySiteConfig

    Returns
    -------
    list of Path
        Files written, in a fixed order; resources.js is not one of them.
    """
    ordered = sorted(failures, key=_failure_order)
    find = figures_of_detector or (lambda visit, detector: None)
    site = _Site(Path(directory), survey, detector_outlines, pictures, find, ordered, config, [])
    site.write("assets/style.css", STYLE)
    site.write("assets/site.js", SCRIPT.lstrip())
    visits = visits.sort_values("visit", ignore_index=True)
    units = {int(v): rows.sort_values("detector") for v, rows in visit_detectors.groupby("visit")}
    nothing = visit_detectors.iloc[:0]
    _write_index(site, visits, units, nothing, tracts, scorecard)
    _write_failures(site)
    by_visit = _grouped_failures(ordered)
    numbers = [int(v) for v in visits["visit"]]
    for i, (number_, visit) in enumerate(zip(numbers, visits.to_dict("records"))):
        near = (numbers[i - 1] if i else None, numbers[i + 1] if i + 1 < len(numbers) else None)
        rows, failed = units.get(number_, nothing), by_visit.get(number_, [])
        _write_visit(site, visit, rows, failed, near)
        _write_detectors(site, visit, rows, failed)
    return site.written


def write_resources(directory: Path, resources: Mapping[str, Any]) -> Path:
    """Write what the stages cost, beside index.html; not part of a manifest.

    Parameters
    ----------
    resources : mapping
        ``stages``: a list of mappings with name and, where known, jobs, cpu_seconds,
        cpu_seconds_per_megapixel, wall_seconds (summed over jobs), peak_megabytes, megapixels.
    """
    path = Path(directory) / RESOURCES
    content = json.dumps(_plain(resources), allow_nan=False, sort_keys=True).replace("<", "\\u003c")
    write_bytes(path, f"window.RESOURCES = {content};\n".encode())
    return path


# --- index --------------------------------------------------------------------------------------------------


def _write_index(
    site: _Site,
    visits: pd.DataFrame,
    units: Mapping[int, pd.DataFrame],
    nothing: pd.DataFrame,
    tracts: Sequence[Mapping[str, Any]],
    scorecard: Mapping[str, Any],
) -> None:
    counts = Counter(status for rows in units.values() for status in rows["status"])
    sources = sum(int(rows["nSources"].sum()) for rows in units.values())
    judged = scorecard["counts"]
    tiles = [
        (f"{len(visits):,}", "visits"),
        (f"{sum(counts.values()):,}", "visit-detectors"),
        (f"{counts['failed']:,}", "of them failed"),
        (f"{counts['flagged']:,}", "of them flagged"),
        (f"{sources:,}", "sources"),
        (f"{judged['pass']} / {judged['fail']} / {judged['undecided']}", "bounds passed, failed, undecided"),
    ]
    body = f"<h1>{markup.text(site.survey['name'])}</h1>\n"
    about = f"Camera {site.survey['camera']}. Sky map: {site.survey['sky_map']}."
    body += f'<p class="lead">{markup.text(about)}</p>\n'
    body += _tiles(tiles)
    body += '<h2 id="scorecard-title">Scorecard</h2>\n' + scorecard_table(scorecard)
    body += '<h2 id="sky-title">Sky</h2>\n' + _sky(site, visits, units, tracts)
    body += '<h2 id="visits-title">Visits</h2>\n' + _visits_table(site, visits, units, nothing)
    body += '<h2 id="failures-title">Failures</h2>\n' + _failure_summary(site)
    body += '<h2 id="resources-title">Cost of stages</h2>\n' + _resources_table()
    site.page("index.html", site.survey["name"], body, scripts=[RESOURCES])


def scorecard_table(scorecard: Mapping[str, Any]) -> str:
    """The scorecard as HTML, with buttons that choose rows by verdict."""
    counts = scorecard["counts"]
    total = sum(counts.values())
    verdicts = ("pass", "fail", "undecided", "info")
    choices = [("all", f"All {total}", "true"), ("judged", f"With a bound {total - counts['info']}", "false")]
    choices += [(name, f"{name.capitalize()} {counts[name]}", "false") for name in verdicts]
    buttons = "".join(
        f'<button type="button" data-verdict-filter="{name}" aria-pressed="{pressed}">{label}</button>'
        for name, label, pressed in choices
    )
    heads = (
        ("Verdict", 0), ("Figure", 0), ("Band", 0), ("Bin", 0), ("Value ± standard error", 1), ("Bound", 0),
        ("Perfect", 1), ("Beyond 5 sigma", 1), ("N", 1), ("Note", 0),
    )  # fmt: skip
    head = "".join(f'<th scope="col"{" class=n" if n else ""}>{name}</th>' for name, n in heads)
    topics = list(dict.fromkeys(row["topic"] for row in scorecard["rows"]))
    bodies = "".join(_topic(topic, [r for r in scorecard["rows"] if r["topic"] == topic]) for topic in topics)
    against = "truth and requirements" if scorecard["truth"] else "requirements; the survey has no truth"
    return (
        f'<div class="tools" role="group" aria-label="Rows by verdict">{buttons}</div>\n'
        f'<div class="scroll"><table id="scorecard"><caption>Figures against {against}. Pass: all of value '
        "± 2 standard errors lies inside the bound; fail: all outside; else undecided. Errors by bootstrap "
        "over objects; N counts measurements.</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n{bodies}</table></div>\n"
    )


def _topic(topic: str, rows: Sequence[Mapping[str, Any]]) -> str:
    title = f"{topic.capitalize()} ({rows[0]['stage']})"
    lines = [f'<tbody><tr class="topic"><th colspan="10" scope="colgroup">{markup.text(title)}</th></tr>']
    for row in rows:
        unit = "" if row["unit"] == "fraction" else row["unit"]
        bound = f"{row['bound']} ({row['bound_source']})" if row["bound"] else ""
        tail = "" if row["tail"] is None else f"{100 * row['tail']:.2f} %"
        cells = (
            (badge(row["verdict"]), 0),
            (row["name"], 0),
            (row["band"], 0),
            (row["bin"], 0),
            (f"{format_value(row['value'], row['standard_error'])} {unit}".strip(), 1),
            (bound, 0),
            ("" if row["expected"] is None else f"{row['expected']:.3f}", 1),
            (tail, 1),
            (f"{row['n']:,}", 1),
            (row["note"], 0),
        )
        inside = "".join(f"<td{' class=n' if n else ''}>{markup.text(v)}</td>" for v, n in cells)
        lines.append(f'<tr data-verdict="{markup.text(row["verdict"])}">{inside}</tr>')
    return "\n".join(lines) + "</tbody>\n"


def _sky(
    site: _Site,
    visits: pd.DataFrame,
    units: Mapping[int, pd.DataFrame],
    tracts: Sequence[Mapping[str, Any]],
) -> str:
    bands = list(dict.fromkeys(sorted(visits["band"])))
    colours = charts.band_colours(bands)
    hulls = sum(map(len, units.values())) > site.config.map_detectors
    outlines = []
    for visit, band in zip(visits["visit"].tolist(), visits["band"]):
        polygons = _corners(units[visit]) if visit in units else np.empty((0, 4, 2))
        if hulls:
            hull = charts.convex_hull(polygons.reshape(-1, 2))
            polygons = hull[None] if len(hull) else np.empty((0, 4, 2))
        label = f"Visit {visit}, {band}, {len(units.get(visit, ()))} detectors"
        outlines.append(charts.Outline(label, polygons, f"visits/{visit}/index.html", colours[band]))
    tract_outlines = [charts.Outline(f"tract {t['id']}", _polygon(t["outline"])) for t in tracts]
    patches = [
        charts.Outline(f"patch {p['id']}", _polygon(p["outline"]))
        for t in tracts
        for p in t.get("patches", ())
    ]
    if len(patches) > site.config.map_patches:
        patches = []
    shown = "Hulls of visits" if hulls else "Detectors of visits"
    note = f"{shown} over tracts (dashed) and patches; east is left. A visit opens its page."
    shape = charts.sky_map(outlines, tract_outlines, patches)
    return shape + markup.legend(colours) + f'<p class="note">{note}</p>\n'


def _corners(rows: pd.DataFrame) -> np.ndarray:
    """Outlines of detectors on the sky, shape (n, 4, 2) [deg]."""
    names = [f"{corner}c{axis}" for corner in ("ll", "lr", "ur", "ul") for axis in ("ra", "dec")]
    return rows[names].to_numpy(np.float64).reshape(len(rows), 4, 2)


def _polygon(outline: Any) -> np.ndarray:
    return np.asarray(outline, np.float64).reshape(1, -1, 2)


def _visits_table(
    site: _Site, visits: pd.DataFrame, units: Mapping[int, pd.DataFrame], nothing: pd.DataFrame
) -> str:
    columns = [
        ("Visit", False), ("Band", False), ("Begin (TAI)", False), ("Exposure [s]", True), ("Airmass", True),
        ("Detectors", True), ("Failed", True), ("Seeing [arcsec]", True), ("Zero point [mag]", True),
        ("Depth [mag]", True), ("Sky noise [adu]", True), ("Sources", True), ("Grade", False),
    ]  # fmt: skip
    rows = []
    for visit in visits.to_dict("records"):
        detectors = units.get(visit["visit"], nothing)
        rows.append(
            [
                Cell(link(f"visits/{visit['visit']}/index.html", visit["visit"]), visit["visit"]),
                visit["band"],
                _begin(visit),
                number(visit["expTime"], 1),
                number(visit["airmass"]),
                len(detectors),
                int((detectors["status"] == "failed").sum()),
                *(number(_middle(detectors, name), digits) for name, digits in _VISIT_COLUMNS.items()),
                Cell(f"{int(detectors['nSources'].sum()):,}", int(detectors["nSources"].sum())),
                visit["qaGrade"] or MISSING,
            ]
        )
    caption = "Medians over the detectors of a visit. Depth: point source at 5 sigma."
    return table(columns, rows, caption=caption, identity="visits", page=site.config.rows_per_page)


_VISIT_COLUMNS = {"seeing": 2, "zeroPoint": 3, "magLim": 2, "skyNoise": 1}


def _begin(visit: Mapping[str, Any]) -> Cell:
    middle, half = visit["expMidptMJD"], 0.5 * visit["expTime"] / 86400
    mjd = visit["obsStartMJD"] if math.isfinite(visit["obsStartMJD"]) else middle - half
    return Cell(markup.date(mjd), mjd)


def _middle(rows: pd.DataFrame, name: str) -> float:
    values = rows[name].to_numpy(np.float64)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else math.nan


def _failure_summary(site: _Site) -> str:
    if not site.failures:
        return "<p>Nothing failed.</p>\n"
    counts = Counter((f.get("stage") or "", f.get("reason") or "") for f in site.failures)
    rows = [
        [stage, Cell(Raw(f"<code>{markup.text(reason)}</code>"), reason), _reason_text(reason), number_]
        for (stage, reason), number_ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    columns = [("Stage", False), ("Reason", False), ("Meaning", False), ("Units", True)]
    everything = link("failures.html", f"All {len(site.failures):,} failures")
    return table(columns, rows, caption="Failures by reason") + f"<p>{everything.html}</p>\n"


def _resources_table() -> str:
    columns = (
        ("name", "Stage"), ("jobs", "Jobs"), ("cpu_seconds", "CPU [s]"),
        ("cpu_seconds_per_megapixel", "CPU per raw Mpix [s]"), ("wall_seconds", "Elapsed, all jobs [s]"),
        ("peak_megabytes", "Peak memory of a job [MB]"), ("megapixels", "Raw Mpix"),
    )  # fmt: skip
    head = "".join(
        f'<th scope="col" data-key="{key}"{"" if key == "name" else " class=n"}>{label}</th>'
        for key, label in columns
    )
    return (
        '<p id="no-resources" class="note">Not recorded: resources.js is not beside this page.</p>\n'
        '<div class="scroll"><table id="resources" hidden><caption>User and system time with children. It '
        "differs from run to run and is no part of the release.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody></tbody></table></div>\n"
    )


def _tiles(tiles: Iterable[tuple[str, str]]) -> str:
    inside = "".join(
        f'<div class="tile"><b>{markup.text(v)}</b><span>{markup.text(n)}</span></div>' for v, n in tiles
    )
    return f'<div class="tiles">{inside}</div>\n'


# --- failures -----------------------------------------------------------------------------------------------


def _write_failures(site: _Site) -> None:
    body = "<h1>Failures</h1>\n"
    if site.failures:
        body += _failures_table(site.failures, site.config.rows_per_page, root="")
    else:
        body += "<p>Nothing failed.</p>\n"
    site.page("failures.html", "Failures", body, [link("index.html", "Overview"), "Failures"])


def _failures_table(failures: Sequence[Mapping[str, Any]], rows_per_page: int, *, root: str) -> str:
    columns = [
        ("Stage", False),
        ("Visit", True),
        ("Detector", True),
        ("Reason", False),
        ("What was found", False),
    ]
    rows = []
    for failure in failures:
        visit, detector, reason = failure.get("visit"), failure.get("detector"), failure.get("reason") or ""
        where = MISSING if visit is None else link(f"{root}visits/{visit}/index.html", visit)
        which = MISSING if detector is None else detector
        found = failure.get("detail") or _reason_text(reason)
        code = Cell(Raw(f"<code>{markup.text(reason)}</code>"), reason)
        rows.append(
            [failure.get("stage") or "", Cell(where, "" if visit is None else visit), which, code, found]
        )
    return table(columns, rows, caption="Units without a result, or with a flagged one", page=rows_per_page)


def _reason_text(reason: str) -> str:
    return {code.value: sentence for code, sentence in REASON_TEXTS.items()}.get(reason, "")


def _failure_order(failure: Mapping[str, Any]) -> tuple[Any, ...]:
    visit, detector = failure.get("visit"), failure.get("detector")
    return (
        -1 if visit is None else int(visit),
        -1 if detector is None else int(detector),
        *(str(failure.get(name) or "") for name in ("stage", "reason", "detail")),
    )


def _grouped_failures(failures: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for failure in failures:
        if failure.get("visit") is not None:
            groups.setdefault(int(failure["visit"]), []).append(failure)
    return groups


# --- a visit ------------------------------------------------------------------------------------------------


def _write_visit(
    site: _Site,
    visit: Mapping[str, Any],
    rows: pd.DataFrame,
    failed: Sequence[Mapping[str, Any]],
    near: tuple[int | None, int | None],
) -> None:
    counts = Counter(rows["status"])
    body = f"<h1>Visit {visit['visit']}</h1>\n"
    body += _tiles(
        [
            (visit["band"], "band"),
            (number(_middle(rows, "seeing")), "seeing, median [arcsec]"),
            (number(_middle(rows, "zeroPoint"), 3), "zero point, median [mag]"),
            (number(_middle(rows, "magLim")), "depth, median [mag]"),
            (f"{counts['ok'] + counts['flagged']} / {len(rows)}", "detectors with a result"),
            (f"{int(rows['nSources'].sum()):,}", "sources"),
        ]
    )
    body += '<div class="columns"><div>\n<h2>Focal plane</h2>\n' + _focal_plane(site, visit, rows)
    body += "</div><div>\n<h2>Exposure</h2>\n" + _exposure(visit) + "</div></div>\n"
    body += "<h2>Detectors</h2>\n" + _detectors_table(site, visit, rows)
    if failed:
        body += "<h2>Failures</h2>\n" + _failures_table(failed, site.config.rows_per_page, root="../../")
    crumbs = _crumbs(
        "../../", [f"Visit {visit['visit']}"], [(f"../{n}/index.html" if n else "") for n in near]
    )
    site.page(f"visits/{visit['visit']}/index.html", f"Visit {visit['visit']}", body, crumbs)


def _crumbs(root: str, here: Sequence[Any], near: Sequence[str]) -> list[Any]:
    steps = [link(target, word).html for target, word in zip(near, ("previous", "next")) if target]
    beside = [Raw(f'<span class="right">{" | ".join(steps)}</span>')] if steps else []
    first, *rest = [link(f"{root}index.html", "Overview"), *here]
    last = rest.pop()
    # the way back belongs to the last step, so that no separator stands before it
    return [first, *rest, Raw(markup.text(last) + "".join(f" &nbsp; {b.html}" for b in beside))]


def _exposure(visit: Mapping[str, Any]) -> str:
    return figures(
        [
            ("Filter", f"{visit['physical_filter']} ({visit['band']})"),
            ("Begin (TAI)", _begin(visit).shown),
            ("Middle, MJD", number(visit["expMidptMJD"], 6)),
            ("Exposure", f"{number(visit['expTime'], 1)} s"),
            ("RA, Dec", f"{number(visit['ra'], 5)}, {number(visit['dec'], 5)}"),
            ("Rotation", f"{number(visit['skyRotation'], 3)} deg"),
            ("Airmass", number(visit["airmass"], 3)),
            ("Altitude, azimuth", f"{number(visit['altitude'], 2)}, {number(visit['azimuth'], 2)}"),
            ("Grade", visit["qaGrade"] or MISSING),
        ]
    )


def _focal_plane(site: _Site, visit: Mapping[str, Any], rows: pd.DataFrame) -> str:
    known = {int(row["detector"]): row for row in rows.to_dict("records")}
    detectors = []
    for detector, outline in sorted(site.outlines.items()):
        row = known.get(detector)
        status = row["status"] if row else "absent"
        why = f" ({row['reasonCode']})" if row and row["reasonCode"] else ""
        detectors.append(
            {
                "number": int(detector),
                "name": outline["name"],
                "corners": outline["corners"],
                "status": status if status in ("ok", "flagged", "failed") else "absent",
                "target": _detector_page(detector) if row else "",
                "title": f"{outline['name']}, detector {detector}: {status}{why}",
            }
        )
    options = "".join(
        f'<option value="{name}"{" selected" if name == site.config.plane_figure else ""}>{label}</option>'
        for name, (label, _) in PLANE_FIGURES.items()
    )
    data = {
        "figures": {
            name: {"label": label, "digits": digits, "values": {d: _plain(r[name]) for d, r in known.items()}}
            for name, (label, digits) in PLANE_FIGURES.items()
        }
    }
    return (
        f'<div class="tools"><label>Colour <select id="figure">{options}'
        '<option value="">status</option></select></label></div>\n'
        f"{charts.focal_plane(detectors)}"
        '<div id="scale" hidden><div class="scale"></div>'
        '<div class="ends"><span></span><span></span></div></div>\n'
        '<p class="note">Failed detectors have a red outline, absent ones a dashed outline.</p>\n'
        f"{markup.inlined('focal-plane', data)}"
    )


def _detectors_table(site: _Site, visit: Mapping[str, Any], rows: pd.DataFrame) -> str:
    columns = [
        ("Detector", False), ("Status", False), ("Reason", False), ("Seeing [arcsec]", True),
        ("Sky [adu]", True), ("Sky noise [adu]", True), ("Zero point [mag]", True), ("Depth [mag]", True),
        ("PSF stars", True), ("Sources", True), ("Picture", False),
    ]  # fmt: skip
    lines = []
    for row in rows.to_dict("records"):
        detector, picture = (
            int(row["detector"]),
            site.pictures.get((int(visit["visit"]), int(row["detector"]))),
        )
        name = f"{site.detector_name(detector)} ({detector})"
        path = picture if isinstance(picture, str) or picture is None else picture.get("picture")
        lines.append(
            [
                Cell(link(_detector_page(detector), name), detector),
                badge(row["status"]),
                row["reasonCode"],
                number(row["seeing"], 3),
                number(row["skyBg"], 1),
                number(row["skyNoise"], 2),
                number(row["zeroPoint"], 3),
                number(row["magLim"], 2),
                row["nPsfStar"],
                row["nSources"],
                link(f"../../{path}", "PNG") if path else MISSING,
            ]
        )
    return table(
        columns, lines, caption="A detector opens its picture and sources.", page=site.config.rows_per_page
    )


def _detector_page(detector: int) -> str:
    return f"detector_{int(detector):03d}.html"


# --- a detector ---------------------------------------------------------------------------------------------


def _write_detectors(
    site: _Site,
    visit: Mapping[str, Any],
    rows: pd.DataFrame,
    failed: Sequence[Mapping[str, Any]],
) -> None:
    records = rows.to_dict("records")
    for i, row in enumerate(records):
        detector = int(row["detector"])
        title = f"Visit {visit['visit']}, detector {site.detector_name(detector)} ({detector})"
        own = [f for f in failed if f.get("detector") is not None and int(f["detector"]) == detector]
        body = f"<h1>{markup.text(title)} {badge(row['status']).html}</h1>\n"
        if own:
            body += _failures_table(own, site.config.rows_per_page, root="../../")
        body += _picture(site, int(visit["visit"]), row)
        near = [
            _detector_page(records[k]["detector"]) if 0 <= k < len(records) else "" for k in (i - 1, i + 1)
        ]
        way = [link("index.html", f"Visit {visit['visit']}"), f"Detector {detector}"]
        name = f"visits/{visit['visit']}/{_detector_page(detector)}"
        site.page(name, title, body, _crumbs("../../", way, near))


def _picture(site: _Site, visit: int, row: Mapping[str, Any]) -> str:
    detector = int(row["detector"])
    picture = site.pictures.get((visit, detector))
    if picture is None:
        return (
            '<p>There is no picture of this detector.</p>\n<div class="columns"><div>'
            + _numbers(row)
            + "</div></div>\n"
        )
    paths = {"picture": picture} if isinstance(picture, str) else picture
    layered = {"image", "mask"} <= paths.keys()
    sources = site.figures_of_detector(visit, detector) if layered else None
    if sources is None:
        whole = f'<img src="{_source_path(paths["picture"])}" alt="Pixels, mask and sources of the detector">'
        stage = f'<div class="viewer"><div class="stage">{whole}</div></div>\n'
        return f'<div class="columns"><div>{stage}</div><div>{_numbers(row)}</div></div>\n'
    left = _layers(paths) + _legends()
    right = "<h2>Source</h2>\n" + figures([("", "Point at a source, or choose one below.")], "source")
    right += "<h2>Detector</h2>\n" + _numbers(row)
    if "picture" in paths:
        right += f"<p>{link('../../' + paths['picture'], 'Whole picture as PNG').html}</p>\n"
    body = f'<div class="columns"><div>{left}</div><div>{right}</div></div>\n'
    return body + _sources_table(sources, site.config) + _detector_data(sources)


def _layers(paths: Mapping[str, str]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" data-layer="{name}" checked> {label}</label>'
        for name, label in (("image", "Image"), ("mask", "Mask planes"), ("sources", "Sources"))
    )
    zoom = "".join(
        f'<option value="{width}%">{label}</option>'
        for width, label in ((100, "fit"), (200, "2 x"), (400, "4 x"), (800, "8 x"))
    )
    return (
        f'<div class="tools">{boxes}<label>Zoom <select id="zoom">{zoom}</select></label></div>\n'
        '<div class="viewer" id="viewer" tabindex="0" role="group" aria-label="Picture of the detector; '
        'keys n and p choose the next and previous source by brightness"><div class="stage" id="stage">'
        f'<img id="layer-image" src="{_source_path(paths["image"])}" alt="Pixels of the detector">'
        f'<img id="layer-mask" class="over" src="{_source_path(paths["mask"])}" alt="Mask planes">'
        "</div></div>\n"
    )


def _legends() -> str:
    classes = {name: _rgb(colour) for name, colour in SOURCE_CLASSES.items()}
    planes = {group.label: _rgb(group.colour) for group in MASK_GROUPS}
    note = "Row 0 is at the bottom. In the picture, keys n and p go through the sources by brightness."
    return markup.legend(classes, ring=True) + markup.legend(planes) + f'<p class="note">{note}</p>\n'


def _numbers(row: Mapping[str, Any]) -> str:
    pairs = [(label, number(row[name], digits)) for name, (label, digits) in PLANE_FIGURES.items()]
    return figures(
        [
            ("Status", badge(row["status"])),
            ("Reason", row["reasonCode"] or MISSING),
            *pairs,
            ("RA, Dec of centre", f"{number(row['ra'], 5)}, {number(row['dec'], 5)}"),
            ("Pixel scale", f"{number(row['pixelScale'], 4)} arcsec"),
            ("Configuration", row["configHash"] or MISSING),
        ]
    )


def _sources_table(sources: Mapping[str, Any], config: QualitySiteConfig) -> str:
    columns = [
        ("Source", False), ("Class", False), ("x [px]", True), ("y [px]", True), ("RA [deg]", True),
        ("Dec [deg]", True), ("calibFlux [nJy]", True), ("S/N of peak", True),
    ]  # fmt: skip
    shown, total = len(sources["rows"]), sources["n_sources"]
    caption = f"{total:,} primary sources" + (f", the {shown:,} brightest shown" if shown < total else "")
    page = min(config.rows_per_page, 25)
    return "<h2>Sources</h2>\n" + table(columns, [], caption=caption, identity="sources", page=page)


def _detector_data(sources: Mapping[str, Any]) -> str:
    names = ("shape", "block", "rows", "columns", "flags", "classes")
    colours = [_rgb(SOURCE_CLASSES[name]) for name in sources["classes"]]
    return markup.inlined("detector", {name: sources[name] for name in names} | {"colours": colours})


def _source_path(path: str) -> str:
    return markup.text(quote(f"../../{path}"))


def _rgb(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def _plain(value: Any) -> Any:
    """Plain JSON types; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
