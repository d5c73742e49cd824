"""Plots of the quality site (LDM-151 6.2.1): points and curves on axes, maps of small matrices, as SVG and HTML.

Colours are classes (``s0`` to ``s9``) of the style; numbers are written with fixed digits, so that the same input
gives the same bytes. Points that are not finite, or not positive on a logarithmic axis, are left out.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COLOURS = 10
"""Colours of series; with more series they take turns."""

_WIDTH, _HEIGHT = 560.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 12.0, 10.0, 40.0
_LOW, _MIDDLE, _HIGH = (33, 102, 172), (247, 247, 247), (178, 24, 43)


@dataclass(frozen=True)
class Axis:
    """Label with unit, and whether it is logarithmic."""

    label: str
    log: bool = False


@dataclass(frozen=True, eq=False)
class Series:
    """Points or a line.

    Parameters
    ----------
    name : str
        What one sees when the pointer rests on it.
    x, y : sequence of float or None
    errors : sequence of float or None, optional
        Half lengths of vertical bars.
    style : str
        ``points``, ``crosses`` (points that were left out) or ``line``.
    colour : int
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    errors: Sequence[float | None] | None = None
    style: str = "points"
    colour: int = 0


def plot(series: Sequence[Series], x: Axis, y: Axis, label: str) -> str:
    """SVG of series on common axes; a sentence where there is no point.

    Parameters
    ----------
    label : str
        What the plot shows, for those who cannot see it.
    """
    points = [_finite(each, x, y) for each in series]
    everything = np.concatenate([p[:, :2] for p in points] or [np.empty((0, 2))])
    if not len(everything):
        return f'<p class="note">No points: {html.escape(label)}.</p>\n'
    across = _Scale.around(everything[:, 0], x.log, _LEFT, _WIDTH - _RIGHT)
    with_bars = [everything[:, 1]]
    if not y.log:
        with_bars += [p[:, 1] + sign * p[:, 2] for p in points for sign in (-1, 1)]
    up = _Scale.around(np.concatenate(with_bars), y.log, _HEIGHT - _BOTTOM, _TOP)
    lines = [_grid(across, up, x, y)]
    lines += [_drawn(each, p, across, up) for each, p in zip(series, points) if len(p)]
    return (
        f'<svg class="chart plot" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="{html.escape(label)}">\n' + "\n".join(lines) + "\n</svg>\n"
    )


def _finite(series: Series, x: Axis, y: Axis) -> np.ndarray:
    """x, y and error (0 where there is none) of the points that can be shown, shape (n, 3)."""
    columns = [np.array(list(v), dtype=np.float64) for v in (series.x, series.y)]
    n = len(columns[1])
    errors = np.zeros(n) if series.errors is None else np.array(list(series.errors), dtype=np.float64)
    points = np.stack([columns[0], columns[1], np.nan_to_num(errors, nan=0.0, posinf=0.0)], axis=1)
    shown = np.isfinite(points).all(axis=1)
    for column, axis in enumerate((x, y)):
        if axis.log:
            shown &= points[:, column] > 0
    return points[shown]


@dataclass(frozen=True)
class _Scale:
    """From values to the picture."""

    low: float
    high: float
    log: bool
    begin: float
    end: float

    @classmethod
    def around(cls, values: np.ndarray, log: bool, begin: float, end: float) -> _Scale:
        values = np.log10(values) if log else values
        low, high = float(values.min()), float(values.max())
        margin = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
        return cls(low - margin, high + margin, log, begin, end)

    def __call__(self, values: Any) -> Any:
        values = np.asarray(values, dtype=np.float64)
        values = np.log10(values) if self.log else values
        return self.begin + (values - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels of ticks."""
        if not self.log:
            step = nice_step((self.high - self.low) / 5)
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            return [(k * step, _tick(k * step, step)) for k in range(first, last + 1)]
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 3 else (1,)
        values = [step * 10.0**decade for decade in decades for step in steps]
        return [(v, f"{v:,.10g}") for v in values if self.low <= math.log10(v) <= self.high]


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def _tick(value: float, step: float) -> str:
    digits = max(-math.floor(math.log10(step) + 1e-9), 0)
    return f"{value:,.{digits}f}" if digits < 6 else f"{value:.1e}"


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> str:
    lines = []
    for value, text in across.ticks():
        place = float(across(value))
        lines.append(
            f'<path class="graticule" d="M{place:.1f} {_TOP:g}V{_HEIGHT - _BOTTOM:g}"/>'
            f'<text class="axis" text-anchor="middle" x="{place:.1f}" y="{_HEIGHT - _BOTTOM + 15:g}">{text}</text>'
        )
    for value, text in up.ticks():
        place = float(up(value))
        kind = "graticule zero" if value == 0 else "graticule"
        lines.append(
            f'<path class="{kind}" d="M{_LEFT:g} {place:.1f}H{_WIDTH - _RIGHT:g}"/>'
            f'<text class="axis" text-anchor="end" x="{_LEFT - 5:g}" y="{place + 4:.1f}">{text}</text>'
        )
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    lines.append(
        f'<text class="axis name" text-anchor="middle" x="{(_LEFT + _WIDTH - _RIGHT) / 2:g}" '
        f'y="{_HEIGHT - 7:g}">{html.escape(x.label)}</text>'
        f'<text class="axis name" text-anchor="middle" transform="translate(13 {middle:g}) rotate(-90)">'
        f"{html.escape(y.label)}</text>"
    )
    return "\n".join(lines)


def _drawn(series: Series, points: np.ndarray, across: _Scale, up: _Scale) -> str:
    u, v = across(points[:, 0]), up(points[:, 1])
    title = f"<title>{html.escape(series.name)}</title>"
    colour = f"s{series.colour % COLOURS}"
    if series.style == "line":
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(u, v))
        return f'<path class="series line {colour}" d="{path}">{title}</path>'
    if series.style == "crosses":
        path = "".join(f"M{a - 3:.1f} {b - 3:.1f}l6 6m0-6l-6 6" for a, b in zip(u, v))
        return f'<path class="series cross {colour}" d="{path}">{title}</path>'
    path = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(u, v))
    return f'{_bars(points, u, up, colour)}<path class="series point {colour}" d="{path}">{title}</path>'


def _bars(points: np.ndarray, u: np.ndarray, up: _Scale, colour: str) -> str:
    barred = points[:, 2] > 0
    if up.log or not barred.any():
        return ""
    low, high = (up(points[barred, 1] + sign * points[barred, 2]) for sign in (-1, 1))
    path = "".join(f"M{a:.1f} {b:.1f}V{c:.1f}" for a, b, c in zip(u[barred], low, high))
    return f'<path class="series bar {colour}" d="{path}"/>'


def series_legend(names: Iterable[str]) -> str:
    """Names of series beside their colours, in the order of their numbers."""
    return (
        '<div class="legend">'
        + "".join(
            f'<span><i class="s{i % COLOURS}"></i>{html.escape(name)}</span>' for i, name in enumerate(names)
        )
        + "</div>\n"
    )


# --- matrices -----------------------------------------------------------------------------------------------


def colour_of(part: float) -> str:
    """Colour between blue (-1), nearly white (0) and red (1)."""
    part = min(max(part, -1.0), 1.0)
    end = _HIGH if part > 0 else _LOW
    return "#" + "".join(f"{round(m + abs(part) * (e - m)):02x}" for m, e in zip(_MIDDLE, end))


def _is_dark(part: float) -> bool:
    """Whether text on that colour must be light."""
    red, green, blue = (int(colour_of(part)[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140


def _strength(value: float, limit: float) -> float:
    """Place of a value on the scale of colours: its square root, since one number often outweighs the rest."""
    return math.copysign(math.sqrt(min(abs(value) / limit, 1.0)), value) if limit > 0 else 0.0


def matrix_table(
    values: Sequence[Sequence[float | None]],
    errors: Sequence[Sequence[float | None]] | None,
    names: tuple[Sequence[Any], Sequence[Any]],
    *,
    caption: str,
    corner: str,
    digits: int = 1,
) -> str:
    """A matrix as a table with coloured cells.

    Parameters
    ----------
    values : sequence of sequences, shape (n, m)
        None where there is no value.
    errors : sequence of sequences, optional
        Standard errors, written behind the values.
    names : (sequence, sequence)
        Of rows and columns.
    """
    finite = [abs(v) for row in values for v in row if _known(v)]
    limit = max(finite, default=0.0)
    head = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in names[1])
    lines = []
    for i, (name, row) in enumerate(zip(names[0], values)):
        cells = "".join(
            _matrix_cell(v, errors[i][j] if errors is not None else None, limit, digits)
            for j, v in enumerate(row)
        )
        lines.append(f'<tr><th scope="row">{html.escape(str(name))}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll"><table class="matrix"><caption>{html.escape(caption)}</caption>\n<thead><tr>'
        f'<th scope="col">{html.escape(corner)}</th>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n'
    )


def _matrix_cell(value: float | None, error: float | None, limit: float, digits: int) -> str:
    if not _known(value):
        return "<td>–</td>"
    part = _strength(value, limit)
    ink = " class=pale" if _is_dark(part) else ""
    behind = f" <small>±{error:.{digits}f}</small>" if _known(error) else ""
    # so that what rounds to nothing has no sign
    shown = f"{value:.{digits}f}"
    shown = shown.removeprefix("-") if float(shown) == 0 else shown
    return f'<td{ink} style="background:{colour_of(part)}">{shown}{behind}</td>'


def matrix_map(values: Sequence[Sequence[float]], label: str, *, scale: float = 1.0) -> str:
    """A matrix as a map of squares, first row at the bottom; the pointer shows a square's value over `scale`."""
    rows, side = len(values), 16
    limit = max((abs(v) for row in values for v in row if _known(v)), default=0.0)
    middle = rows // 2
    squares = [
        f'<rect x="{side * j}" y="{side * (rows - 1 - i)}" width="{side}" height="{side}" '
        f'fill="{colour_of(_strength(v, limit))}"><title>{i - middle:+d}, {j - middle:+d}: {v / scale:.3f}</title></rect>'
        for i, row in enumerate(values)
        for j, v in enumerate(row)
        if v
    ]
    size = side * rows
    return (
        f'<svg class="chart map" viewBox="0 0 {size} {size}" role="img" aria-label="{html.escape(label)}">\n'
        + f'<rect width="{size}" height="{size}" fill="{colour_of(0)}"/>\n'
        + "\n".join(squares)
        + "\n</svg>\n"
    )


def box_map(shape: tuple[int, int], boxes: Mapping[str, np.ndarray], label: str) -> str:
    """Boxes of pixels on a detector, row 0 at the bottom; those too small to be seen are drawn larger.

    Parameters
    ----------
    shape : (ny, nx)
    boxes : mapping of name to ndarray of int, shape (n, 4)
        x0, y0, nx, ny; a colour for each name, in their order.
    """
    ny, nx = shape
    least = max(shape) / 150
    paths = []
    for i, (name, own) in enumerate(boxes.items()):
        corners = np.asarray(own, np.float64).reshape(-1, 4)
        size = np.maximum(corners[:, 2:], least)
        low = corners[:, :2] - (size - corners[:, 2:]) / 2
        path = "".join(
            f"M{x:.1f} {ny - y:.1f}v{-h:.1f}h{w:.1f}v{h:.1f}z" for (x, y), (w, h) in zip(low, size)
        )
        if path:
            paths.append(
                f'<path class="box s{i % COLOURS}" d="{path}"><title>{html.escape(name)}</title></path>'
            )
    return (
        f'<svg class="chart map" viewBox="0 0 {nx} {ny}" role="img" aria-label="{html.escape(label)}">\n'
        + "\n".join(paths)
        + "\n</svg>\n"
    )


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)
