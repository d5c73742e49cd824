"""Page of a visit (LDM-151 6.2.1): focal plane, exposure, detectors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.quality.pages import charts, markup
from skyquilt.quality.pages.markup import MISSING, Cell, badge, figures, link, number, table
from skyquilt.quality.site.config import PLANE_FIGURES
from skyquilt.quality.site.failures import failures_table
from skyquilt.quality.site.shell import Site, calibration_page, plain, tiles, way_here

if TYPE_CHECKING:
    import pandas as pd


def begin(visit: Mapping[str, Any]) -> Cell:
    """Begin of an exposure (TAI), from its middle where the header has none."""
    middle, half = visit["expMidptMJD"], 0.5 * visit["expTime"] / 86400
    mjd = visit["obsStartMJD"] if math.isfinite(visit["obsStartMJD"]) else middle - half
    return Cell(markup.date(mjd), mjd)


def middle_of(rows: pd.DataFrame, name: str) -> float:
    """Median of a column over the detectors that have it; NaN when none has."""
    values = rows[name].to_numpy(np.float64)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else math.nan


def write_visit(
    site: Site,
    visit: Mapping[str, Any],
    rows: pd.DataFrame,
    failed: Sequence[Mapping[str, Any]],
    near: tuple[int | None, int | None],
    calibrations: Sequence[tuple[str, str]],
) -> None:
    """Page of a visit; `calibrations` are kind and id of the products it was corrected with."""
    counts = Counter(rows["status"])
    body = f"<h1>Visit {visit['visit']}</h1>\n"
    body += tiles(
        [
            (visit["band"], "band"),
            (number(middle_of(rows, "seeing")), "seeing, median [arcsec]"),
            (number(middle_of(rows, "zeroPoint"), 3), "zero point, median [mag]"),
            (number(middle_of(rows, "magLim")), "depth, median [mag]"),
            (f"{counts['ok'] + counts['flagged']} / {len(rows)}", "detectors with a result"),
            (f"{int(rows['nSources'].sum()):,}", "sources"),
        ]
    )
    body += '<div class="columns"><div>\n<h2>Focal plane</h2>\n' + _focal_plane(site, visit, rows)
    body += "</div><div>\n<h2>Exposure</h2>\n" + _exposure(visit)
    if calibrations:
        pages = [(kind, link(f"../../{calibration_page(kind, name)}", name)) for kind, name in calibrations]
        body += "<h2>Calibration products</h2>\n" + figures(pages)
    body += "</div></div>\n"
    body += "<h2>Detectors</h2>\n" + _detectors_table(site, visit, rows)
    if failed:
        body += "<h2>Failures</h2>\n" + failures_table(failed, site.config.rows_per_page, root="../../")
    crumbs = way_here(
        "../../", [f"Visit {visit['visit']}"], [(f"../{n}/index.html" if n else "") for n in near]
    )
    site.page(f"visits/{visit['visit']}/index.html", f"Visit {visit['visit']}", body, crumbs)


def _exposure(visit: Mapping[str, Any]) -> str:
    return figures(
        [
            ("Filter", f"{visit['physical_filter']} ({visit['band']})"),
            ("Begin (TAI)", begin(visit).shown),
            ("Middle, MJD", number(visit["expMidptMJD"], 6)),
            ("Exposure", f"{number(visit['expTime'], 1)} s"),
            ("RA, Dec", f"{number(visit['ra'], 5)}, {number(visit['dec'], 5)}"),
            ("Rotation", f"{number(visit['skyRotation'], 3)} deg"),
            ("Airmass", number(visit["airmass"], 3)),
            ("Altitude, azimuth", f"{number(visit['altitude'], 2)}, {number(visit['azimuth'], 2)}"),
            ("Grade", visit["qaGrade"] or MISSING),
        ]
    )


def _focal_plane(site: Site, visit: Mapping[str, Any], rows: pd.DataFrame) -> str:
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
                "target": detector_page(detector) if row else "",
                "title": f"{outline['name']}, detector {detector}: {status}{why}",
            }
        )
    options = "".join(
        f'<option value="{name}"{" selected" if name == site.config.plane_figure else ""}>{label}</option>'
        for name, (label, _) in PLANE_FIGURES.items()
    )
    data = {
        "figures": {
            name: {"label": label, "digits": digits, "values": {d: plain(r[name]) for d, r in known.items()}}
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


def _detectors_table(site: Site, visit: Mapping[str, Any], rows: pd.DataFrame) -> str:
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
                Cell(link(detector_page(detector), name), detector),
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


def detector_page(detector: int) -> str:
    """Name of a detector's page in the directory of its visit."""
    return f"detector_{int(detector):03d}.html"
