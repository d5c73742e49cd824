"""What the page of each kind of calibration product shows (LDM-151 6.2.1).

Everything comes from the figures of the manifest, the pictures and the defects of a `CalibrationProduct`. A kind that
is not known here shows its plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from skyquilt.quality.pages import markup
from skyquilt.quality.pages.markup import MISSING, Cell, figures
from skyquilt.quality.site.calibration_figures import largest, median_of, percent, significant
from skyquilt.quality.site.calibration_fits import crosstalk, crosstalk_note, linearity, photon_transfer
from skyquilt.quality.site.calibration_frames import combined_frames, defects, defects_table, fringe_frames
from skyquilt.quality.site.shell import Site

if TYPE_CHECKING:
    from skyquilt.quality.calibration_pages import CalibrationProduct

Figures = Mapping[str, Any]


def detector_columns(product: CalibrationProduct) -> dict[str, Callable[[int], Any]]:
    """Heading -> what the table of detectors says there of a detector."""
    makers = _COLUMNS.get(product.kind, {})
    return {
        heading: lambda detector, make=make: _sortable(make(product.figures[detector]))
        for heading, make in makers.items()
    }


def sections(site: Site, product: CalibrationProduct) -> str:
    """The part of the page that differs from kind to kind."""
    of_product, of_detector = _SECTIONS.get(product.kind, (None, _plain_figures))
    body = of_product(site, product) if of_product else ""
    for detector in sorted(product.figures) if of_detector else ():
        name = markup.text(f"Detector {site.detector_name(detector)} ({detector})")
        inside = of_detector(product, detector)
        body += f'<section class="unit" id="detector-{detector}"><h2>{name}</h2>\n{inside}</section>\n'
    return body


def _sortable(value: Any) -> Any:
    if isinstance(value, float):
        return Cell(significant(value, 4), value)
    return MISSING if value is None else value


def _plain_figures(product: CalibrationProduct, detector: int) -> str:
    pairs = [
        (name, significant(value, 6) if isinstance(value, float) else value)
        for name, value in sorted(product.figures[detector].items())
        if isinstance(value, str | int | float)
    ]
    return figures(pairs)


def _crosstalk_error(own: Figures) -> float:
    return 1e6 * median_of([e for i, row in enumerate(own["errors"]) for j, e in enumerate(row) if i != j])


def _of_amplifiers(own: Figures, name: str) -> float:
    return median_of([each.get(name) for each in own.get("amplifiers", {}).values()])


def _largest_correction(own: Figures) -> float:
    return 100 * largest([each.get("curve") or [] for each in own.get("amplifiers", {}).values()])


def _median(name: str) -> Callable[[Figures], float]:
    return lambda own: median_of(own.get(name))


_COMMON: dict[str, Callable[[Figures], Any]] = {
    "Rejected share": lambda own: own.get("rejected_share"),
    "Scatter over expectation": _median("noise_ratio"),
}
_COLUMNS: dict[str, dict[str, Callable[[Figures], Any]]] = {
    "bias": {
        "Level [ADU]": _median("levels"),
        **_COMMON,
        "Read noise [ADU]": _median("read_noise_adu"),
    },
    "dark": {
        "Level [electron]": _median("levels"),
        **_COMMON,
        "Dark current [electron/s]": _median("dark_current"),
    },
    "flat": {
        "Level [electron]": _median("levels"),
        **_COMMON,
        "Read noise [electron]": _median("read_noise"),
    },
    "fringe": {"Level [electron]": _median("levels"), **_COMMON, "Pattern, rms": lambda own: own.get("rms")},
    "crosstalk": {
        "Largest [1e-6]": lambda own: 1e6 * largest(own["coefficients"]),
        "Median error [1e-6]": _crosstalk_error,
    },
    "linearizer": {
        "Largest correction [%]": _largest_correction,
        "Jitter of the lamp [%]": lambda own: percent(own.get("lamp_jitter")),
    },
    "ptc": {
        "Gain [electron/ADU]": lambda own: _of_amplifiers(own, "gain"),
        "Read noise [electron]": lambda own: _of_amplifiers(own, "read_noise"),
        "Reduced chi square": lambda own: _of_amplifiers(own, "chi_square"),
        "Kernel": lambda own: (own.get("brighter_fatter") or {}).get("status", MISSING).replace("_", " "),
    },
    "defects": {"Boxes": lambda own: own["boxes"], "Pixels [%]": lambda own: 100 * own["share"]},
}

# of the whole product, of each detector
_SECTIONS: dict[
    str,
    tuple[Callable[[Site, CalibrationProduct], str] | None, Callable[[CalibrationProduct, int], str] | None],
] = {
    "bias": (combined_frames, None),
    "dark": (combined_frames, None),
    "flat": (combined_frames, None),
    "fringe": (fringe_frames, None),
    "linearizer": (None, linearity),
    "ptc": (None, photon_transfer),
    "crosstalk": (crosstalk_note, crosstalk),
    "defects": (defects_table, defects),
}
