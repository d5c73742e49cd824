"""Calibration products on the quality pages (LDM-151 6.2.1): their table on the first page, and a page of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skyquilt.quality.pages import markup
from skyquilt.quality.pages.markup import MISSING, Cell, Raw, badge, figures, link, table
from skyquilt.quality.site.calibration_figures import (
    frame_names,
    frames_left_out,
    frames_used,
    spread,
)
from skyquilt.quality.site.calibration_sections import detector_columns, sections
from skyquilt.quality.site.failures import reason_text
from skyquilt.quality.site.shell import Site, calibration_page, tiles

if TYPE_CHECKING:
    from skyquilt.quality.calibration_pages import CalibrationProduct

TITLES = {
    "bias": "Combined bias",
    "crosstalk": "Crosstalk",
    "linearizer": "Linearizer",
    "ptc": "Photon transfer and brighter-fatter kernel",
    "dark": "Combined dark",
    "flat": "Combined flat",
    "defects": "Defects",
    "fringe": "Fringe pattern",
}


@dataclass(frozen=True)
class CalibrationSummary:
    """What the first page, and those of visits, say of a product whose page is written."""

    kind: str
    name: str
    status: str
    physical_filter: str
    night: float
    validity: tuple[float, float]
    used: str
    left_out: str
    made: int
    failed: int
    reasons: str
    visits: tuple[int, ...]


def calibrations_table(products: Sequence[CalibrationSummary], rows_per_page: int) -> str:
    """All products with links to their pages, as HTML."""
    if not products:
        return "<p>No visit uses a calibration product.</p>\n"
    columns = [
        ("Kind", False), ("Id", False), ("Status", False), ("Filter", False), ("Night", False),
        ("Serves from", False), ("to", False), ("Frames used", True), ("Left out", True),
        ("Detectors", True), ("Failed", True), ("Reasons", False), ("Visits", True),
    ]  # fmt: skip
    rows = [
        [
            each.kind,
            Cell(link(calibration_page(each.kind, each.name), each.name), each.name),
            badge(each.status),
            each.physical_filter or MISSING,
            day(each.night),
            *(day(end) for end in each.validity),
            each.used,
            each.left_out,
            each.made,
            each.failed,
            each.reasons,
            len(each.visits),
        ]
        for each in products
    ]
    caption = "Nights are those on which an observing night began. Frames: least and most of the detectors."
    return table(columns, rows, caption=caption, identity="calibrations", page=rows_per_page)


def served_by(products: Sequence[CalibrationSummary]) -> dict[int, list[tuple[str, str]]]:
    """Visit -> kind and id of the products it was corrected with."""
    found: dict[int, list[tuple[str, str]]] = {}
    for each in products:
        for visit in each.visits:
            found.setdefault(visit, []).append((each.kind, each.name))
    return found


def write_calibration(site: Site, product: CalibrationProduct) -> CalibrationSummary:
    """Write the page of a product."""
    summary = _summary(product)
    title = f"{TITLES.get(product.kind, product.kind)} {product.name}"
    body = f"<h1>{markup.text(title)} {badge(product.status).html}</h1>\n"
    body += tiles(
        [
            (summary.physical_filter or "all", "filter"),
            (day(summary.night).shown, "night"),
            (summary.used, "frames used"),
            (summary.left_out, "frames left out"),
            (f"{summary.made} / {summary.made + summary.failed}", "detectors with a result"),
            (f"{len(summary.visits):,}", "visits corrected with it"),
        ]
    )
    body += "<h2>Validity and inputs</h2>\n" + _origin(product)
    body += "<h2>Detectors</h2>\n" + _detectors(site, product)
    body += sections(site, product)
    if (left := _left_out(product)) is not None:
        body += "<h2>Frames left out</h2>\n" + left
    crumbs = [
        link("../index.html", "Overview"),
        link("../index.html#calibrations-title", "Calibration products"),
        f"{product.kind} {product.name}",
    ]
    site.page(calibration_page(product.kind, product.name), title, body, crumbs)
    return summary


def day(mjd: float) -> Cell:
    """Date of the night that began on an MJD."""
    return Cell(markup.date(mjd).split(" ")[0], mjd)


def _summary(product: CalibrationProduct) -> CalibrationSummary:
    lost = [part for part in product.parts.values() if part["status"] == "failed"]
    reasons = sorted({part.get("reason") or "" for part in product.parts.values()} - {""})
    return CalibrationSummary(
        product.kind,
        product.name,
        product.status,
        product.physical_filter,
        product.night,
        (product.valid_from, product.valid_to),
        spread([frames_used(product, d) for d in sorted(product.figures)]),
        spread([len(frames_left_out(product, d)) for d in sorted(product.figures)]),
        len(product.parts) - len(lost),
        len(lost),
        ", ".join(reasons),
        tuple(product.visits),
    )


def _origin(product: CalibrationProduct) -> str:
    serves = f"{day(product.valid_from).shown} to {day(product.valid_to).shown}"
    nights = (
        f" (MJD {product.valid_from:g} to {product.valid_to:g})" if math.isfinite(product.valid_from) else ""
    )
    return figures(
        [
            ("Stage", product.stage),
            ("May serve nights", serves + nights),
            ("Made with", _linked(product.uses)),
            ("Serves products", _linked(product.serves)),
            ("Serves visits", _visits(product)),
        ]
    )


def _linked(names: Mapping[str, Sequence[str]]) -> Any:
    links = [
        link(f"../{calibration_page(kind, name)}", f"{kind} {name}").html
        for kind, own in names.items()
        for name in own
    ]
    return Raw(", ".join(links)) if links else "none"


def _visits(product: CalibrationProduct) -> Any:
    if not product.visits:
        return "none"
    links = " ".join(link(f"../visits/{visit}/index.html", visit).html for visit in product.visits)
    if len(product.visits) <= 12:
        return Raw(links)
    return Raw(f"<details><summary>{len(product.visits):,} visits</summary>{links}</details>")


def _detectors(site: Site, product: CalibrationProduct) -> str:
    own = detector_columns(product)
    columns = [
        ("Detector", False), ("Status", False), ("Frames used", True), ("Left out", True),
        *((name, True) for name in own), ("Why", False),
    ]  # fmt: skip
    rows = []
    for detector, part in sorted(product.parts.items()):
        known = detector in product.figures
        name = f"{site.detector_name(detector)} ({detector})"
        shown = link(f"#detector-{detector}", name) if known else name
        why = part.get("detail") or reason_text(part.get("reason") or "")
        code = (
            Raw(f"<code>{markup.text(part['reason'])}</code> {markup.text(why)}")
            if part.get("reason")
            else ""
        )
        used = frames_used(product, detector) if known else None
        rows.append(
            [
                Cell(shown, detector),
                badge(part["status"]),
                MISSING if used is None else used,
                len(frames_left_out(product, detector)) if known else MISSING,
                *(make(detector) if known else MISSING for make in own.values()),
                code,
            ]
        )
    caption = "Medians over amplifiers where a detector has several numbers."
    return table(columns, rows, caption=caption, page=site.config.rows_per_page)


def _left_out(product: CalibrationProduct) -> str | None:
    """Frames that were not used, those left out for the same reason in several detectors in one row."""
    found: dict[tuple[str, str], list[int]] = {}
    for detector in sorted(product.figures):
        names = frame_names(product, detector)
        for frame, why in frames_left_out(product, detector):
            name = MISSING if frame is None else names[frame] if frame < len(names) else f"frame {frame}"
            found.setdefault((name, why), []).append(detector)
    if not found:
        return None
    rows = [[name, ", ".join(map(str, detectors)), why] for (name, why), detectors in found.items()]
    columns = [("Frame", False), ("Detectors", False), ("Why", False)]
    return table(columns, rows, caption="Frames that were read and not used, or could not be read")
