"""Fringes (LDM-151 8.1): interference of night-sky lines in the detector, a fixed pattern of varying strength.

Image and pattern are averaged over small blocks without masked pixels, both lose the same running mean (weighted by the
same good blocks, so that the scale stays unbiased whatever its width), and the scale is the weighted
least-squares ratio. Blocks that differ from the scaled pattern, sources, are left out and the whole is repeated.
The quoted error comes from the scatter of the blocks that were used, with blocks of the correlated remainder counted
as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.algorithms.instrument_signature_removal.calibrations import ROWS, planes_of, strips_of
from skyquilt.primitives.compiled import kernel

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal.calibrations import CalibrationPixels
    from skyquilt.algorithms.instrument_signature_removal.state import IsrState


@dataclass(frozen=True)
class FringeConfig:
    """Scale of the fringe pattern."""

    block: int = 8
    """Side of the blocks over which pixels are averaged [pixel]."""
    high_pass: int = 256
    """Side of the running mean that is taken off before fitting: sky gradients go, fringes stay [pixel]."""
    clip: float = 3.0
    """Blocks further than this from the scaled pattern are left out [sigma]."""
    min_significance: float = 3.0
    """A pattern whose scale is not that many errors above 0 is not subtracted [sigma]."""
    ignore: tuple[str, ...] = ("BAD", "SATURATED", "NO_DATA", "VIGNETTED")
    """Pixels with these planes do not count."""

    def __post_init__(self) -> None:
        if self.block < 1 or self.high_pass < 4 * self.block or self.clip < 1.5:
            raise ValueError(
                "fringe needs block >= 1 pixel, high_pass >= 4 blocks and clip >= 1.5 sigma, got "
                f"{self.block}, {self.high_pass}, {self.clip}"
            )


@kernel(
    "void(const(float32[:, :]), const(int32[:, :]), const(float32[:, :]), int32, int64, "
    "float32[:, :], float32[:, :], float32[:, :])"
)
def block_means(image, mask, pattern, ignore_bits, block, mean, pattern_mean, weight):
    """Means over blocks of the pixels that are good in image and pattern; incomplete blocks at the end are dropped.

    Parameters
    ----------
    image, pattern : float32, shape (ny, nx)
    mask : int32, shape (ny, nx)
    mean, pattern_mean, weight : float32, shape (ny // block, nx // block)
        Written; weight is the number of good pixels, 0 where fewer than half are.
    """
    ny, nx = mean.shape
    for j in range(ny):
        for i in range(nx):
            total = np.float32(0)
            total_pattern = np.float32(0)
            number = 0
            for y in range(j * block, (j + 1) * block):
                for x in range(i * block, (i + 1) * block):
                    value, other = image[y, x], pattern[y, x]
                    if np.isfinite(value) and np.isfinite(other) and not mask[y, x] & ignore_bits:
                        total += value
                        total_pattern += other
                        number += 1
            if 2 * number >= block * block:
                mean[j, i] = total / number
                pattern_mean[j, i] = total_pattern / number
                weight[j, i] = number
            else:
                mean[j, i] = 0
                pattern_mean[j, i] = 0
                weight[j, i] = 0


def fit_scale(
    mean: np.ndarray, pattern: np.ndarray, weight: np.ndarray, config: FringeConfig
) -> tuple[float, float]:
    """Scale of the pattern and its standard error, from block means.

    Parameters
    ----------
    mean, pattern, weight : ndarray of float32, shape (ny, nx)
        Of `block_means`.

    Returns
    -------
    scale, error : float
        NaN when fewer than 20 blocks are good or the pattern is flat.
    """
    weight = weight.astype(np.float32)
    size = max(config.high_pass // config.block | 1, 3)
    scale, error = float("nan"), float("nan")
    # a first guess without sources: what lies far above the local middle goes first
    good = (weight > 0) & ~_far(mean, weight > 0, config.clip)
    for turn in range(4):
        used = np.where(good, weight, 0)
        if np.count_nonzero(used) < 20:
            return float("nan"), float("nan")
        norm = _running(used, size)
        data = mean - _running(used * mean, size) / np.maximum(norm, 1e-6)
        model = pattern - _running(used * pattern, size) / np.maximum(norm, 1e-6)
        power = float((used * model * model).sum(dtype=np.float64))
        if power <= 0:
            return float("nan"), float("nan")
        scale = float((used * model * data).sum(dtype=np.float64)) / power
        residual = data - np.float32(scale) * model
        error = _error(used, model, residual, power)
        if turn < 3:
            good = (weight > 0) & ~_grown(_far(residual, weight > 0, config.clip))
    return scale, error


def _running(values: np.ndarray, size: int) -> np.ndarray:
    from scipy import ndimage

    return ndimage.uniform_filter(values, size, mode="constant")


def _far(values: np.ndarray, good: np.ndarray, clip: float) -> np.ndarray:
    sample = values[good]
    if not sample.size:
        return ~good
    sample = sample[:: max(sample.size // 200_000, 1)]
    middle = np.median(sample)
    width = 1.4826 * np.median(np.abs(sample - middle))
    return np.abs(values - middle) > clip * max(width, 1e-30)


def _grown(where: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return ndimage.binary_dilation(where, np.ones((3, 3), bool))


def _error(used: np.ndarray, model: np.ndarray, residual: np.ndarray, power: float) -> float:
    """Standard error of the scale: the scatter of sums over groups of 8 x 8 blocks, whose remainders may be correlated."""
    group = 8
    ny, nx = (max(n // group, 1) * group for n in used.shape)
    terms = (used * model * residual)[:ny, :nx].astype(np.float64)
    if min(used.shape) < group:
        return float(np.sqrt((terms**2).sum()) / power)
    sums = terms.reshape(ny // group, group, nx // group, group).sum(axis=(1, 3))
    return float(np.sqrt((sums**2).sum()) / power)


def subtract_fringe(state: IsrState, fringe: CalibrationPixels) -> None:
    """Fit the scale of the pattern in a frame and subtract it, in place, when it is significant."""
    config = state.config.fringe
    block = config.block
    ny, nx = (n // block for n in state.image.shape)
    mean, pattern, weight = (np.zeros((ny, nx), np.float32) for _ in range(3))
    ignore = state.mask.bits(config.ignore)
    rows = max(ROWS // block, 1) * block
    for strip in strips_of(state.detector.box, rows):
        part = slice(strip.y0 // block, strip.y1 // block)
        block_means(
            state.image[strip.slices()],
            state.mask.array[strip.slices()],
            planes_of(fringe, strip)[0],
            ignore,
            block,
            mean[part],
            pattern[part],
            weight[part],
        )
    state.fringe_scale, state.fringe_error = fit_scale(mean, pattern, weight, config)
    state.fringe_applied = bool(state.fringe_scale > config.min_significance * state.fringe_error)
    if not state.fringe_applied:
        return
    scale = np.float32(state.fringe_scale)
    for strip in strips_of(state.detector.box):
        image = planes_of(fringe, strip)[0]
        state.image[strip.slices()] -= scale * np.nan_to_num(image, copy=False)
