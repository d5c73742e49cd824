"""Pages of combined frames and defects (LDM-151 6.2.1): pictures of all detectors, levels, maps of boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from skyquilt.primitives.detector_characterization import DEFECT_KINDS
from skyquilt.quality.pages import markup, plots
from skyquilt.quality.pages.markup import Cell, number, table
from skyquilt.quality.pages.plots import Axis, Series
from skyquilt.quality.site.calibration_figures import significant
from skyquilt.quality.site.shell import Site

if TYPE_CHECKING:
    from skyquilt.quality.calibration_pages import CalibrationProduct

_UNITS = {
    "bias": "ADU",
    "dark": "electron/s",
    "flat": "response of median 1",
    "fringe": "electron per electron of sky",
}
_LEVELS = {"bias": "ADU", "dark": "electron", "flat": "electron", "fringe": "electron"}


def combined_frames(site: Site, product: CalibrationProduct) -> str:
    """Pictures, levels of the frames that went in, figures of all amplifiers."""
    return (
        _gallery(site, product)
        + "<h2>Levels of the frames</h2>\n"
        + _levels(site, product)
        + "<h2>Amplifiers</h2>\n"
        + _amplifier_figures(site, product)
    )


def _levels(site: Site, product: CalibrationProduct) -> str:
    series, timed = [], False
    for i, (detector, own) in enumerate(sorted(product.figures.items())):
        levels, times = own.get("levels", []), own.get("exposure_times") or []
        timed = len(times) == len(levels) and len(set(times)) > 1
        x = times if timed else list(range(1, len(levels) + 1))
        series.append(Series(f"detector {site.detector_name(detector)}", x, levels, colour=i))
    x = Axis("exposure time [s]" if timed else "frame, in the order of the files")
    unit = _LEVELS[product.kind]
    legend = plots.series_legend(each.name for each in series) if len(series) <= 16 else ""
    shape = plots.plot(series, x, Axis(f"median of a frame [{unit}]"), "Medians of the frames used")
    return f'<div class="plots">{shape}</div>\n{legend}'


_AMPLIFIER_FIGURES = {
    "read_noise_adu": ("Read noise [ADU]", 3),
    "read_noise": ("Read noise [electron]", 3),
    "dark_current": ("Dark current [electron/s]", 5),
    "amplifier_response": ("Response, detector 1", 4),
    "noise_ratio": ("Scatter over expectation", 3),
}


def _amplifier_figures(site: Site, product: CalibrationProduct) -> str:
    shown = [
        name
        for name in _AMPLIFIER_FIGURES
        if any(isinstance(own.get(name), Mapping) for own in product.figures.values())
    ]
    columns = [("Detector", False), ("Amplifier", False), *((_AMPLIFIER_FIGURES[n][0], True) for n in shown)]
    rows = []
    for detector, own in sorted(product.figures.items()):
        names = dict.fromkeys(name for figure in shown for name in own.get(figure, {}))
        for amplifier in names:
            values = [number(own.get(f, {}).get(amplifier), _AMPLIFIER_FIGURES[f][1]) for f in shown]
            rows.append([Cell(site.detector_name(detector), detector), amplifier, *values])
    caption = "Scatter: of the frames' pixels about the combined frame, over what their noise makes."
    return table(columns, rows, caption=caption, page=site.config.rows_per_page)


_PICTURE_FIGURES = {
    "rejected_share": "rejected",
    "cosmic_ray_pixels": "pixels of tracks",
    "rms": "rms of the pattern",
    "pixel_noise": "noise of a pixel",
    "smoothing": "smoothed by [px]",
}


def _gallery(site: Site, product: CalibrationProduct) -> str:
    """Small pictures of all detectors, each with its stretch."""
    unit = _UNITS[product.kind]
    inside = "".join(_figure(site, product, detector) for detector in sorted(product.figures))
    note = (
        f'<p class="note">Greys are linear between the 1st (black) and the 99th (white) percentile of a picture, '
        f"given below it in {markup.text(unit)}. Row 0 is at the bottom.</p>\n"
    )
    return f'<h2>Pictures</h2>\n{note}<div class="gallery">\n{inside}</div>\n'


def _figure(site: Site, product: CalibrationProduct, detector: int) -> str:
    own, picture = product.figures[detector], product.pictures.get(detector)
    name = f"{site.detector_name(detector)} ({detector})"
    lines = [
        f"{label} {significant(own[figure], 4)}"
        for figure, label in _PICTURE_FIGURES.items()
        if own.get(figure) is not None
    ]
    if picture is None:
        shape = "<p>There is no picture.</p>"
    else:
        shape = (
            f'<img class="frame" src="{markup.text(quote(f"../{picture.path}"))}" width="{picture.width}" '
            f'height="{picture.height}" loading="lazy" alt="Pixels of detector {markup.text(name)}">'
        )
        scale = f"{significant(picture.black, 5)} to {significant(picture.white, 5)}"
        lines = [f"{scale}; blocks of {picture.block} x {picture.block} px", *lines]
    caption = "<br>".join(markup.text(line) for line in lines)
    return (
        f'<figure id="detector-{detector}">{shape}<figcaption><b>{markup.text(name)}</b><br>{caption}'
        "</figcaption></figure>\n"
    )


def fringe_frames(site: Site, product: CalibrationProduct) -> str:
    """Strength of the pattern in the frames, then what all combined frames show."""
    series = [
        Series(f"detector {site.detector_name(d)}", own["levels"], own["strengths"], colour=i)
        for i, (d, own) in enumerate(sorted(product.figures.items()))
        if len(own.get("strengths") or ()) == len(own.get("levels") or ())
    ]
    shape = plots.plot(
        series,
        Axis("sky [electron]"),
        Axis("strength of the pattern [electron]"),
        "Strength of the fringes against the sky of the frames",
    )
    body = f'<h2>Strength of the fringes</h2>\n<div class="plots">{shape}</div>\n'
    return body + combined_frames(site, product)


def defects_table(site: Site, product: CalibrationProduct) -> str:
    """Counts of defects by kind and detector."""
    kinds = _defect_kinds(product)
    columns = [
        ("Detector", False), *((kind.replace("_", " "), True) for kind in kinds),
        ("Boxes", True), ("Pixels", True), ("Share [%]", True),
    ]  # fmt: skip
    rows = []
    for detector, own in sorted(product.figures.items()):
        counts = [own["kinds"].get(kind, {"boxes": 0, "pixels": 0}) for kind in kinds]
        cells = [Cell(f"{each['boxes']:,} ({each['pixels']:,} px)", each["boxes"]) for each in counts]
        share = number(100 * own["share"], 3)
        rows.append(
            [Cell(site.detector_name(detector), detector), *cells, own["boxes"], own["pixels"], share]
        )
    caption = "Boxes of each kind, and their pixels"
    return "<h2>Kinds</h2>\n" + table(columns, rows, caption=caption, page=site.config.rows_per_page)


def _defect_kinds(product: CalibrationProduct) -> list[str]:
    return list(dict.fromkeys(kind for own in product.figures.values() for kind in own["kinds"]))


def defects(product: CalibrationProduct, detector: int) -> str:
    """Map of the boxes of a detector."""
    if detector not in product.boxes or detector not in product.shapes:
        return "<p>There is no list of boxes.</p>\n"
    boxes, kinds = product.boxes[detector]
    by_kind = {
        f"{kind.replace('_', ' ')} ({np.count_nonzero(kinds == k):,})": boxes[kinds == k]
        for k, kind in enumerate(DEFECT_KINDS)
    }
    ny, nx = product.shapes[detector]
    shape = plots.box_map((ny, nx), by_kind, "Map of defects")
    note = f'<p class="note">{nx} x {ny} pixels, row 0 at the bottom; small boxes are drawn larger.</p>\n'
    return f'<div class="pair"><div>{shape}</div><div>{plots.series_legend(by_kind)}{note}</div></div>\n'
