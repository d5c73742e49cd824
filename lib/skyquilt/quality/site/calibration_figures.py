"""Figures of calibration products as the pages say them (LDM-151 6.2.1): counts of frames, spreads, errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.quality.pages.markup import MISSING

if TYPE_CHECKING:
    from skyquilt.quality.calibration_pages import CalibrationProduct


def frame_names(product: CalibrationProduct, detector: int) -> Sequence[str]:
    """Names of the raw frames of a detector, in the order in which they were read."""
    return product.frames.get(detector, ())


def frames_left_out(product: CalibrationProduct, detector: int) -> list[tuple[int | None, str]]:
    """(number of the frame where it is known, reason with detail) of the frames of a detector not used."""
    entries = product.figures[detector].get("left_out", ())
    return [
        (int(each["frame"]), f"{each['reason']}: {each['detail']}")
        if isinstance(each, Mapping)
        else (None, str(each))
        for each in entries
    ]


def frames_used(product: CalibrationProduct, detector: int) -> int | None:
    """Frames that a detector's product was made from; None where it was made from other products."""
    own = product.figures[detector]
    if "n_frames" in own:
        return int(own["n_frames"])
    if isinstance(own.get("frames"), Mapping):
        return sum(int(n) for n in own["frames"].values())
    given = len(frame_names(product, detector))
    return given - len(frames_left_out(product, detector)) if given else None


def spread(counts: Sequence[int | None]) -> str:
    """Least and most of counts, one number where they agree; a dash where there is none."""
    known = [count for count in counts if count is not None]
    if not known:
        return MISSING
    low, high = min(known), max(known)
    return f"{low}" if low == high else f"{low}–{high}"


def finite(values: Any) -> list[float]:
    """The numbers among the values of a mapping, or of a sequence that may be nested."""
    values = values.values() if isinstance(values, Mapping) else values or ()
    found: list[float] = []
    for value in values:
        if isinstance(value, list | tuple):
            found += finite(value)
        elif value is not None and math.isfinite(value):
            found.append(float(value))
    return found


def largest(values: Any) -> float:
    """The number of largest size, with its sign; NaN where there is none."""
    return max(finite(values), key=abs, default=math.nan)


def percent(value: float | None) -> float:
    """A fraction as percents; NaN for None."""
    return math.nan if value is None else 100 * value


def median_of(values: Any) -> float:
    """Median of the numbers in a mapping or sequence; NaN when it has none."""
    known = finite(values)
    return float(np.median(known)) if known else math.nan


def measured(value: float | None, error: float | None, least: int = 1) -> str:
    """A value and its standard error to two digits of the latter; a dash for what is not finite."""
    if value is None or not math.isfinite(value):
        return MISSING
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.4g}"
    digits = min(max(1 - math.floor(math.log10(error)), least), 9)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def scaled(values: Any, factor: float) -> list[Any]:
    """Nested numbers times a factor; None stays."""
    return [
        scaled(v, factor) if isinstance(v, list | tuple) else None if v is None else v * factor
        for v in values
    ]


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many digits, those before the point always; a dash for what is not finite."""
    if value is None or not math.isfinite(value):
        return MISSING
    if 10**digits <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
