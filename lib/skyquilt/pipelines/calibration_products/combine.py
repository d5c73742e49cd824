"""Calibration Products Production (LDM-151 4.1.2.1): what the combinations of calibration frames share.

Frames wait in a file (`frame_stack`) and are combined in blocks of rows: the stack in memory is frames x rows x nx
x 5 bytes, at most `max_memory` of the configuration, plus the result (12 bytes per pixel). Before, one raw frame
and its assembled image and mask are in memory.

Outliers are found against the noise that each frame is expected to have (read noise measured in its overscan,
photon noise of the median), not against the scatter of a few values, so that one cosmic ray among three
frames, and among two, goes. Expected noise is scaled by what differences of frames show (`noise_ratio`), so that
neither a wrong gain nor a camera without overscan spoils the clipping or the variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from skyquilt.pipelines.calibration_products.frame_stack import Stack, by_amplifier
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import Outcome
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.statistics import clipped, median

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal import CalibrationPixels
    from skyquilt.instrument.camera import Detector

BYTES_PER_VALUE = 5
"""Of a stack in memory: the value and its flags."""

_SAMPLED_ROWS = 64


class CombineConfig(Protocol):
    """Options that all combinations have."""

    min_frames: int
    clip: float
    near_clip: float
    reach: int
    max_memory: float


def check_combine_config(config: CombineConfig) -> None:
    """Raise ValueError for options outside their range."""
    if config.min_frames < 1 or config.clip < 2 or config.max_memory <= 0:
        raise ValueError(
            "combining needs min_frames >= 1, clip >= 2 and max_memory > 0, got "
            f"{config.min_frames}, {config.clip}, {config.max_memory}"
        )
    if config.reach < 0 or not 1 <= config.near_clip <= config.clip:
        raise ValueError(
            f"combining needs reach >= 0 and near_clip in 1..clip, got {config.reach}, {config.near_clip}"
        )


@dataclass(frozen=True)
class CombinedCalibration:
    """A combined calibration frame.

    Parameters
    ----------
    exposure : Exposure
        Image, variance of the mean, mask (BAD and NaN where no frame has a value).
    counts : ndarray of int16, shape (ny, nx)
        Frames used at each pixel.
    frames : tuple of Outcome
        One per frame handed in; the value is its level (bias [ADU], others [electron]).
    rejected : float
        Share of values left out as outliers.
    figures : dict
        Plain JSON: what else is known of the frames.
    """

    exposure: Exposure
    counts: np.ndarray
    frames: tuple[Outcome, ...]
    rejected: float
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scaling:
    """How stored pixels become the values that are averaged, and what noise they are expected to have.

    Parameters
    ----------
    offset : ndarray of float64, shape (frames, amplifiers)
        value = (stored - offset) * scale.
    scale : ndarray of float64, shape (frames,)
    constant, photon : ndarray of float64, shape (frames, amplifiers)
        Expected variance of a value: constant + photon * max(median, 0).
    typical : float
        Value for which weights are 1 / (constant + photon * typical): one number per frame and amplifier, so
        that bright pixels are not weighted down.
    """

    offset: np.ndarray
    scale: np.ndarray
    constant: np.ndarray
    photon: np.ndarray
    typical: float

    @property
    def weights(self) -> np.ndarray:
        """Of the mean, largest 1; float64, shape (frames, amplifiers)."""
        weights = 1.0 / np.maximum(self.constant + self.photon * self.typical, 1e-30)
        return weights / weights.max(axis=0)


@dataclass(frozen=True, eq=False)
class CommonNoise:
    """A calibration that was subtracted from all frames: its noise does not average out.

    Parameters
    ----------
    pixels : CalibrationPixels
    factors : ndarray of float64, shape (frames, amplifiers)
        By what its pixels were multiplied in each frame's values.
    """

    pixels: CalibrationPixels
    factors: np.ndarray


@kernel(
    "UniTuple(int64, 2)(const(float32[:, :, :]), const(int16[:, :]), const(float32[:, :]), "
    "const(float64[:, :]), const(float64[:]), const(float64[:, :]), const(float64[:, :]), "
    "const(float64[:, :]), float64, float64, int64, int64, int64, "
    "float32[:, :], float32[:, :], int16[:, :], int16[:, :])"
)
def clipped_combination(
    stack, amplifier, spread, offset, scale, constant, photon, weights, clip, near_clip, reach, first, last,
    mean, variance, counts, lost,
):  # fmt: skip
    """Weighted mean over frames of what lies within `clip` expected sigma of the median.

    The reference is the median, in which frames vote by 1 / sigma, none by more than all others together; where its
    nearest companions are too far from it to be the same signal (one hit in two frames, two in three or four) it is the
    lower value, because hits and sources add light. Values next to one that stands out upwards are left out
    from `near_clip` on: the skirt of a hit.

    Parameters
    ----------
    stack : float32, shape (frames, rows, columns)
        Values that are not finite do not count.
    amplifier : int16, shape (rows, columns)
        Number of the amplifier; pixels of none (-1) are left empty.
    spread : float32, shape (rows, columns) or (0, 0)
        Factor of the expected variance of each pixel; empty for 1.
    offset, constant, photon, weights : float64, shape (frames, amplifiers)
        As of `Scaling`.
    scale : float64, shape (frames,)
    clip, near_clip : float
        [sigma].
    reach : int
        Neighbours of an outlier that are looked at [pixel]. Give as many more rows on either side.
    first, last : int
        Rows of the stack that are written.
    mean, variance, counts, lost : float32, float32, int16, int16, shape (last - first, columns)
        Written: mean, its variance, values used and left out; NaN, NaN and 0 where there is none.

    Returns
    -------
    values, rejected : int
        Finite values and those left out in the written rows.
    """
    frames, rows, columns = stack.shape
    flags = np.zeros((frames, rows, columns), np.int8)
    middles = np.empty((rows, columns))
    values = np.empty(frames)
    order = np.empty(frames, np.int64)
    noise = np.empty(frames)
    has_spread = spread.size > 0
    for j in range(rows):
        for i in range(columns):
            a = amplifier[j, i]
            middles[j, i] = np.nan
            if a < 0:
                continue
            factor = np.float64(spread[j, i]) if has_spread else 1.0
            n = 0
            total = 0.0
            largest = 0.0
            for k in range(frames):
                value = (np.float64(stack[k, j, i]) - offset[k, a]) * scale[k]
                if np.isfinite(value):
                    # insertion keeps the values sorted: frames are few
                    m = n
                    while m > 0 and values[m - 1] > value:
                        values[m] = values[m - 1]
                        order[m] = order[m - 1]
                        m -= 1
                    values[m] = value
                    order[m] = k
                    n += 1
                    total += np.sqrt(weights[k, a])
                    largest = max(largest, np.sqrt(weights[k, a]))
            if n == 0:
                continue
            if n > 1 and 2.0 * largest > total:
                # no frame outvotes the others
                total = 2.0 * (total - largest)
                largest = 0.5 * total
            low, high = n - 1, n - 1
            reached = 0.0
            for m in range(n):
                reached += min(np.sqrt(weights[order[m], a]), largest)
                if low == n - 1 and reached >= 0.5 * total * (1.0 - 1e-9):
                    low = m
                if reached > 0.5 * total * (1.0 + 1e-9):
                    high = m
                    break
            middle = values[low]
            for m in range(n):
                k = order[m]
                noise[m] = factor * (constant[k, a] + photon[k, a] * max(middle, 0.0))
            if high > low:
                if (values[high] - middle) ** 2 <= clip * clip * (noise[low] + noise[high]):
                    share = noise[low] / max(noise[low] + noise[high], 1e-30)
                    middle += share * (values[high] - middle)
            elif n == 3 and low == 1:
                above = (values[2] - middle) ** 2 > clip * clip * (noise[1] + noise[2])
                below = (middle - values[0]) ** 2 > clip * clip * (noise[0] + noise[1])
                if above and below:
                    middle = values[0]
            middles[j, i] = middle
            for k in range(frames):
                value = (np.float64(stack[k, j, i]) - offset[k, a]) * scale[k]
                expected = factor * (constant[k, a] + photon[k, a] * max(middle, 0.0))
                if not np.isfinite(value) or (value - middle) ** 2 <= clip * clip * expected:
                    continue
                flags[k, j, i] |= 1
                if value > middle:
                    for y in range(max(j - reach, 0), min(j + reach + 1, rows)):
                        for x in range(max(i - reach, 0), min(i + reach + 1, columns)):
                            flags[k, y, x] |= 2
    total_values = 0
    total_lost = 0
    for j in range(first, last):
        for i in range(columns):
            a = amplifier[j, i]
            middle = middles[j, i]
            total = 0.0
            weight = 0.0
            square = 0.0
            used = 0
            left = 0
            factor = np.float64(spread[j, i]) if has_spread else 1.0
            for k in range(frames if a >= 0 else 0):
                value = (np.float64(stack[k, j, i]) - offset[k, a]) * scale[k]
                if not np.isfinite(value):
                    continue
                noise[k] = factor * (constant[k, a] + photon[k, a] * max(middle, 0.0))
                beyond = value - middle > near_clip * np.sqrt(noise[k])
                if flags[k, j, i] & 1 or (flags[k, j, i] & 2 and beyond):
                    left += 1
                    continue
                total += weights[k, a] * value
                weight += weights[k, a]
                square += weights[k, a] * weights[k, a] * noise[k]
                used += 1
            total_values += used + left
            total_lost += left
            counts[j - first, i] = used
            lost[j - first, i] = left
            if used == 0:
                mean[j - first, i] = np.nan
                variance[j - first, i] = np.nan
            else:
                mean[j - first, i] = total / weight
                variance[j - first, i] = square / (weight * weight)
    return total_values, total_lost


def combine_stack(
    stack: Stack,
    scaling: Scaling,
    config: CombineConfig,
    unit: str,
    common: Iterable[CommonNoise] = (),
    spread: Callable[[Box], np.ndarray] | None = None,
    figures: Mapping[str, Any] | None = None,
) -> CombinedCalibration:
    """Combine the frames of a stack, some rows at a time.

    Parameters
    ----------
    common : iterable of CommonNoise
        Calibrations whose noise all frames share: it is added to the variance.
    spread : callable, optional
        Factor of the expected variance in a box (float32), where noise is not the same for all pixels.
    """
    detector = stack.detector
    ratio = noise_ratio(stack, scaling, spread)
    applied = np.where(np.isfinite(ratio), ratio, 1.0) ** 2
    constant, photon = scaling.constant * applied, scaling.photon * applied
    weights = scaling.weights
    shape = (detector.ny, detector.nx)
    mean, variance = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    counts, lost = np.zeros(shape, np.int16), np.zeros(shape, np.int16)
    values = rejected = 0
    step = _block_rows(len(stack.places), detector, config)
    for start in range(0, detector.ny, step):
        stop = min(start + step, detector.ny)
        lower, upper = max(start - config.reach, 0), min(stop + config.reach, detector.ny)
        strip = Box(0, lower, detector.nx, upper - lower)
        block = slice(start, stop)
        n, left = clipped_combination(
            stack.store.rows(stack.places, lower, upper),
            stack.amplifier_numbers(lower, upper),
            spread(strip) if spread else _EMPTY,
            scaling.offset,
            scaling.scale,
            constant,
            photon,
            weights,
            float(config.clip),
            float(config.near_clip),
            config.reach,
            start - lower,
            stop - lower,
            mean[block],
            variance[block],
            counts[block],
            lost[block],
        )
        values, rejected = values + n, rejected + left
        _add_common_noise(variance[block], stack.amplifier_numbers(start, stop), start, weights, common)
    mask = Mask.blank(shape)
    mask.set(["BAD"], counts == 0)
    # a hit strikes a pixel once: what several frames reject there is not steady
    mask.set(["SUSPECT"], lost >= np.maximum(2, (counts + lost + 2) // 3))
    exposure = Exposure(
        image=mean, mask=mask, variance=variance, box=Box(0, 0, detector.nx, detector.ny), unit=unit
    )
    found = {"noise_ratio": by_amplifier(detector, ratio), **(figures or {})}
    return CombinedCalibration(exposure, counts, tuple(stack.outcomes), rejected / max(values, 1), found)


def _add_common_noise(
    variance: np.ndarray, numbers: np.ndarray, start: int, weights: np.ndarray, common: Iterable[CommonNoise]
) -> None:
    """Variance of what all frames share, added in place to the rows from `start` on."""
    strip = Box(0, start, variance.shape[1], variance.shape[0])
    for each in common:
        mean_factor = (weights * each.factors).sum(axis=0) / weights.sum(axis=0)
        factor = np.append(mean_factor, 0.0).astype(np.float32)[numbers] ** 2
        noise = each.pixels.subimage(strip).variance
        variance += np.where(np.isfinite(noise), noise, np.float32(0)) * factor


def noise_ratio(
    stack: Stack, scaling: Scaling, spread: Callable[[Box], np.ndarray] | None = None
) -> np.ndarray:
    """Measured over expected noise of a pixel, per amplifier; NaN where it cannot be told.

    From clipped widths of differences of consecutive frames in some rows over the detector: what is steady cancels, and
    the median of each row is taken off, so that neither overscan nor changing illumination count.
    """
    n_amplifiers = len(stack.detector.amplifiers)
    found: list[list[float]] = [[] for _ in range(n_amplifiers)]
    for one, other in zip(range(len(stack.places) - 1), range(1, len(stack.places))):
        parts: list[list[np.ndarray]] = [[] for _ in range(n_amplifiers)]
        for strip in _sampled_strips(stack.detector):
            pair = stack.store.rows([stack.places[one], stack.places[other]], strip.y0, strip.y1)
            factor = spread(strip) if spread else None
            for number, amplifier in enumerate(stack.detector.amplifiers):
                box = amplifier.data.overlap(strip)
                if box is not None:
                    inside = box.slices(strip)
                    pulls = _pair_pulls(pair[(slice(None), *inside)], (one, other), number, scaling)
                    parts[number].append(pulls if factor is None else pulls / np.sqrt(factor[inside]))
        for number, pieces in enumerate(parts):
            sample = np.concatenate([piece.ravel() for piece in pieces]) if pieces else np.empty(0)
            width = clipped(sample, n_sigma=4.0)
            if width.count >= 100:
                found[number].append(width.width)
    return np.array([np.median(each) if each else np.nan for each in found])


def _pair_pulls(pair: np.ndarray, frames: tuple[int, int], number: int, scaling: Scaling) -> np.ndarray:
    """Difference of two frames over its expected noise, without the median of each row."""
    values = [
        (part.astype(np.float64) - scaling.offset[k, number]) * scaling.scale[k]
        for part, k in zip(pair, frames)
    ]
    middle = np.maximum(0.5 * (values[0] + values[1]), 0.0)
    expected = sum(scaling.constant[k, number] + scaling.photon[k, number] * middle for k in frames)
    pulls = (values[1] - values[0]) / np.sqrt(np.maximum(expected, 1e-30))
    lines = np.array([median(row) for row in pulls])
    # a row's own median takes a share of its variance away: pi / 2 of that of a mean less the covariance
    n = max(pulls.shape[1], 2)
    return (pulls - lines[:, None]) / np.sqrt(1.0 - (2.0 - np.pi / 2) / n)


def _sampled_strips(detector: Detector) -> list[Box]:
    """Rows spread over the detector in four strips."""
    rows = min(_SAMPLED_ROWS // 4, max(detector.ny // 4, 1))
    starts = sorted({round(f * (detector.ny - rows)) for f in (0.125, 0.375, 0.625, 0.875)})
    return [Box(0, start, detector.nx, rows) for start in starts]


def _block_rows(n_frames: int, detector: Detector, config: CombineConfig) -> int:
    rows = config.max_memory * 1e6 // (BYTES_PER_VALUE * n_frames * detector.nx) - 2 * config.reach
    return int(np.clip(rows, 1, detector.ny))


_EMPTY = np.empty((0, 0), dtype=np.float32)
