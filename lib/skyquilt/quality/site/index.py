"""First of the quality pages (LDM-151 6.2.1): survey, scorecard, map of the sky, visits, failures, costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.quality.pages import charts, markup
from skyquilt.quality.pages.markup import MISSING, Cell, badge, link, number, table
from skyquilt.quality.scorecard import format_value
from skyquilt.quality.site.calibrations import CalibrationSummary, calibrations_table
from skyquilt.quality.site.failures import failure_summary
from skyquilt.quality.site.shell import RESOURCES, Site, tiles
from skyquilt.quality.site.visits import begin, middle_of

if TYPE_CHECKING:
    import pandas as pd


def write_index(
    site: Site,
    visits: pd.DataFrame,
    units: Mapping[int, pd.DataFrame],
    nothing: pd.DataFrame,
    tracts: Sequence[Mapping[str, Any]],
    scorecard: Mapping[str, Any],
    calibrations: Sequence[CalibrationSummary],
) -> None:
    """The page that a reader opens first."""
    counts = Counter(status for rows in units.values() for status in rows["status"])
    sources = sum(int(rows["nSources"].sum()) for rows in units.values())
    judged = scorecard["counts"]
    totals = [
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
    body += tiles(totals)
    body += '<h2 id="scorecard-title">Scorecard</h2>\n' + scorecard_table(scorecard)
    body += '<h2 id="sky-title">Sky</h2>\n' + _sky(site, visits, units, tracts)
    body += '<h2 id="calibrations-title">Calibration products</h2>\n'
    body += calibrations_table(calibrations, site.config.rows_per_page)
    body += '<h2 id="visits-title">Visits</h2>\n' + _visits_table(site, visits, units, nothing)
    body += '<h2 id="failures-title">Failures</h2>\n' + failure_summary(site)
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
    site: Site,
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
    site: Site, visits: pd.DataFrame, units: Mapping[int, pd.DataFrame], nothing: pd.DataFrame
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
                begin(visit),
                number(visit["expTime"], 1),
                number(visit["airmass"]),
                len(detectors),
                int((detectors["status"] == "failed").sum()),
                *(number(middle_of(detectors, name), digits) for name, digits in _VISIT_COLUMNS.items()),
                Cell(f"{int(detectors['nSources'].sum()):,}", int(detectors["nSources"].sum())),
                visit["qaGrade"] or MISSING,
            ]
        )
    caption = "Medians over the detectors of a visit. Depth: point source at 5 sigma."
    return table(columns, rows, caption=caption, identity="visits", page=site.config.rows_per_page)


_VISIT_COLUMNS = {"seeing": 2, "zeroPoint": 3, "magLim": 2, "skyNoise": 1}


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
