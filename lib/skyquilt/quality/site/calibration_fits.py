"""Pages of what was fitted to calibration frames (LDM-151 6.2.1): linearity, photon transfer, crosstalk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.quality.pages import markup, plots
from skyquilt.quality.pages.markup import MISSING, Cell, figures, number, table
from skyquilt.quality.pages.plots import Axis, Series
from skyquilt.quality.site.calibration_figures import (
    finite,
    largest,
    measured,
    median_of,
    percent,
    scaled,
    significant,
)
from skyquilt.quality.site.shell import Site

if TYPE_CHECKING:
    from skyquilt.quality.calibration_pages import CalibrationProduct

Figures = Mapping[str, Any]


# --- linearity ----------------------------------------------------------------------------------------------


def linearity(product: CalibrationProduct, detector: int) -> str:
    """Correction and residuals against level, and a table of the amplifiers of a detector."""
    own = product.figures[detector]
    curves, residuals = [], []
    amplifiers = own.get("amplifiers", {})
    for i, (name, each) in enumerate(amplifiers.items()):
        if not each.get("measured"):
            continue
        levels, rest = each["level_adu"], np.array(each["residual"], np.float64)
        grid, curve = each["curve_level_adu"], np.array(each["curve"], np.float64)
        points = asked_corrections(levels, rest, grid, curve)
        curves.append(Series(name, levels, (100 * points).tolist(), colour=i))
        curves.append(Series(f"{name}, fit", grid, (100 * curve).tolist(), style="line", colour=i))
        residuals.append(Series(name, levels, (100 * rest).tolist(), colour=i))
    level = Axis("level above overscan [ADU]")
    shapes = plots.plot(curves, level, Axis("correction [%]"), "Correction of nonlinearity")
    shapes += plots.plot(
        residuals, Axis(level.label, log=True), Axis("residual of the fit [%]"), "Residuals of the fit"
    )
    head = figures(
        [
            ("Jitter of the lamp [%]", number(percent(own.get("lamp_jitter")), 4)),
            ("Drift of the lamp [%]", number(percent(own.get("lamp_drift")), 4)),
        ]
    )
    columns = [
        ("Amplifier", False), ("Source", False), ("Frames", True), ("Highest level [ADU]", True),
        ("Largest correction [%]", True), ("Error at the highest level [%]", True), ("Residual, rms [%]", True),
    ]  # fmt: skip
    rows = [[name, *_linearity_row(each)] for name, each in amplifiers.items()]
    return f'<div class="plots">{shapes}</div>\n{plots.series_legend(amplifiers)}{head}' + table(
        columns, rows, caption="Corrections are relative to the level; residuals those of single flats."
    )


def asked_corrections(
    levels: Sequence[float], residuals: np.ndarray, grid: Sequence[float], curve: np.ndarray
) -> np.ndarray:
    """Relative correction that each flat asks for by itself: light over stored level, less 1.

    Parameters
    ----------
    levels : sequence of float, shape (n,)
        Stored levels of the flats [ADU].
    residuals : ndarray, shape (n,)
        ln of level over light, after correction by the curve.
    grid, curve : sequences of float, shape (m,)
        Levels [ADU] and the curve's relative correction there.
    """
    return np.expm1(np.log1p(np.interp(levels, grid, curve)) - residuals)


def _linearity_row(own: Figures) -> list[Any]:
    if not own.get("measured"):
        return ["camera definition", own.get("points", 0), MISSING, MISSING, MISSING, MISSING]
    return [
        "flats",
        own["points"],
        number(own["largest_adu"], 0),
        number(100 * largest(own["curve"]), 4),
        number(percent(own["largest_error"]), 4),
        number(100 * _rms(own["residual"]), 4),
    ]


def _rms(values: Sequence[float | None]) -> float:
    known = finite(values)
    return float(np.sqrt(np.mean(np.square(known)))) if known else math.nan


# --- photon transfer ----------------------------------------------------------------------------------------


def photon_transfer(product: CalibrationProduct, detector: int) -> str:
    """Variance against level with residuals, gains and noise, covariances and kernel of a detector."""
    own = product.figures[detector]
    amplifiers = own.get("amplifiers", {})
    transfer, residuals = [], []
    for i, (name, each) in enumerate(amplifiers.items()):
        transfer += _transfer_series(name, each, i)
        residuals.append(_transfer_residual(name, each, i))
    level = Axis("level [ADU]")
    shapes = plots.plot(transfer, level, Axis("variance [ADU²]"), "Variance against level, with the fit")
    shapes += plots.plot(
        residuals,
        Axis("level [ADU]", log=True),
        Axis("variance less fit [%]"),
        "Residuals of the variance",
    )
    note = '<p class="note">A point is a pair of flats; crosses were not used in the fit.</p>\n'
    return (
        f'<div class="plots">{shapes}</div>\n{plots.series_legend(amplifiers)}{note}'
        + _gains(own, amplifiers)
        + _brighter_fatter(own)
    )


def _transfer_series(name: str, own: Figures, colour: int) -> list[Series]:
    levels, variances, used = own["level_adu"], own["variance_adu"], own["used"]
    found = []
    for style, wanted, what in (("points", True, ""), ("crosses", False, ", not used")):
        chosen = [i for i, each in enumerate(used) if each is wanted]
        if chosen:
            x, y = ([values[i] for i in chosen] for values in (levels, variances))
            found.append(Series(name + what, x, y, style=style, colour=colour))
    order = sorted(
        (i for i in range(len(levels)) if None not in (levels[i], own["model_adu"][i])),
        key=levels.__getitem__,
    )
    if order:
        x, y = ([values[i] for i in order] for values in (levels, own["model_adu"]))
        found.append(Series(f"{name}, fit", x, y, style="line", colour=colour))
    return found


def _transfer_residual(name: str, own: Figures, colour: int) -> Series:
    rows = [
        (level, 100 * (variance / model - 1), None if error is None else 100 * error / model)
        for level, variance, error, model in zip(
            own["level_adu"], own["variance_adu"], own["variance_error_adu"], own["model_adu"]
        )
        if None not in (level, variance, model) and model > 0
    ]
    x, y, errors = zip(*rows) if rows else ((), (), ())
    return Series(name, x, y, errors, colour=colour)


def _gains(own: Figures, amplifiers: Mapping[str, Figures]) -> str:
    columns = [
        ("Amplifier", False), ("Fit", False), ("Gain [electron/ADU]", True), ("Defined", True),
        ("Difference [%]", True), ("Read noise [electron]", True), ("Full well [electron]", True),
        ("Pairs used", True), ("Reduced chi square", True),
    ]  # fmt: skip
    rows = []
    for name, each in amplifiers.items():
        gain, defined = each["gain"], each["gain_defined"]
        rows.append(
            [
                name,
                each.get("method") or MISSING,
                Cell(measured(gain, each["gain_error"]), gain or ""),
                significant(defined, 5),
                number(None if gain is None or not defined else 100 * (gain / defined - 1)),
                Cell(measured(each["read_noise"], each["read_noise_error"]), each["read_noise"] or ""),
                "not reached" if each["full_well"] is None else number(each["full_well"], 0),
                sum(each["used"]),
                number(each["chi_square"]),
            ]
        )
    caption = f"Gain, noise and full well; read noise from {own.get('read_noise_source', 'the fit')}"
    return table(columns, rows, caption=caption)


_CHANGE = 1e-7


def _brighter_fatter(own: Figures) -> str:
    found = own.get("brighter_fatter") or {}
    if found.get("a") is None:
        why = (found.get("status") or "not made").replace("_", " ")
        return (
            _amplifier_covariances(own)
            + f"<h3>Brighter-fatter kernel</h3>\n<p>None: {markup.text(why)}.</p>\n"
        )
    lags = range(len(found["a"]))
    changes = plots.matrix_table(
        scaled(found["a"], 1 / _CHANGE),
        scaled(found["a_error"], 1 / _CHANGE),
        (lags, lags),
        caption="Covariances: change of a pixel's area per electron at a lag of (row, column), mean of the "
        "amplifiers ± standard error [1e-7 / electron]; colours by square root",
        corner="Row \\ column",
        digits=2,
    )
    pairs = [
        ("Status", found["status"].replace("_", " ")),
        (
            "Significance",
            f"{number(found['significance'], 1)} (at least {found['significance_needed']:g} needed)",
        ),
        (
            "Sum of area changes",
            f"{measured(*scaled([found['sum'], found['sum_error']], 1 / _CHANGE))} x 1e-7",
        ),
        ("Chi square of amplifiers", number(found.get("chi_square_of_amplifiers"))),
        ("Amplifiers", ", ".join(found["amplifiers"])),
    ]
    body = f"<h3>Covariances</h3>\n{changes}<h3>Brighter-fatter kernel</h3>\n"
    kernel = found.get("kernel")
    if kernel is None:
        return body + figures(pairs)
    share = median_of(found.get("level_correction"))
    pairs.append(("Share of the covariances", number(share, 4)))
    shape = plots.matrix_map(kernel, "Kernel of the detector", scale=_CHANGE)
    note = (
        '<p class="note">Potential of one electron at its middle; red positive, blue negative, colours by square '
        f"root, strongest {largest(kernel) / _CHANGE:.2f} x 1e-7 / electron.</p>\n"
    )
    return f'{body}<div class="pair"><div>{shape}{note}</div><div>{figures(pairs)}</div></div>\n'


def _amplifier_covariances(own: Figures) -> str:
    """Area changes of single amplifiers, where there is no mean of the detector."""
    parts = []
    for name, each in own.get("amplifiers", {}).items():
        if each.get("a") is not None:
            lags = range(len(each["a"]))
            values, errors = (scaled(each[key], 1 / _CHANGE) for key in ("a", "a_error"))
            caption = f"Amplifier {name}: change of a pixel's area per electron [1e-7 / electron]"
            parts.append(
                plots.matrix_table(
                    values, errors, (lags, lags), caption=caption, corner="Row \\ column", digits=2
                )
            )
    return "<h3>Covariances</h3>\n" + "".join(parts) if parts else ""


def crosstalk_note(site: Site, product: CalibrationProduct) -> str:
    """What the matrices below mean."""
    return (
        '<h2>Coefficients</h2>\n<p class="note">ADU in the victim (row) per million ADU of the source (column), ± '
        "standard error; colours by square root. What has no error was not measured and is taken as 0.</p>\n"
    )


def crosstalk(product: CalibrationProduct, detector: int) -> str:
    """Matrix of a detector with its errors."""
    own = product.figures[detector]
    names = own["amplifiers"]
    values = scaled(own["coefficients"], 1e6)
    for i in range(len(names)):
        values[i][i] = None
    return plots.matrix_table(
        values,
        scaled(own["errors"], 1e6),
        (names, names),
        caption=f"Coefficients [1e-6], from {own['blocks']:,} places",
        corner="Victim \\ source",
    )
