"""The noise of a detection image (LDM-151 8.4, 5.1.1.10), measured on the image itself.

In crowded fields stars too faint to be found add to the noise, and in images that were convolved before the noise is
correlated: the width of the detection image is then not the 1 that the variance plane promises.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skyquilt.algorithms.source_detection.flooding import Plane, sample_plane
from skyquilt.algorithms.source_detection.options import DetectionPassesConfig
from skyquilt.primitives.statistics import block_edges

_QUANTILE = 0.158655
_FEWEST = 200


def measured_noise(
    snr: np.ndarray, threshold: float, block: int = 256, reach: int = 6, step: int = 2
) -> np.ndarray:
    """Width of a detection image where nothing is detected, in blocks.

    The width is the distance from the median down to the 15.9 % quantile: sources lie on the other side. Pixels
    within `reach` of one above the threshold do not count.

    Parameters
    ----------
    snr : ndarray of float32, shape (ny, nx)
        Exactly 0 where there is no information.
    threshold : float
        Pixels above it are those of sources.
    block : int
        Side of the blocks [pixel].
    reach : int
        [pixel]
    step : int
        Every so many pixels along both axes are looked at: neighbours tell little new.

    Returns
    -------
    ndarray of float64, shape (n_y, n_x)
        Blocks with fewer than 200 such pixels have the median of the others; 1 where no block has them.
    """
    thin = snr[::step, ::step]
    above = thin > threshold
    near = _grown(above, -(-reach // step))
    usable = ~near & (thin != 0)
    y_edges, x_edges = (block_edges(size, max(block // step, 1)) for size in thin.shape)
    width = np.full((y_edges.size - 1, x_edges.size - 1), np.nan)
    for j in range(width.shape[0]):
        for i in range(width.shape[1]):
            cell = (slice(y_edges[j], y_edges[j + 1]), slice(x_edges[i], x_edges[i + 1]))
            values = thin[cell][usable[cell]]
            if values.size >= _FEWEST:
                low, middle = np.quantile(values, [_QUANTILE, 0.5])
                width[j, i] = middle - low
    known = np.isfinite(width) & (width > 0)
    return np.where(known, width, np.median(width[known]) if known.any() else 1.0)


def _grown(above: np.ndarray, reach: int) -> np.ndarray:
    """All within a square of `reach` pixels."""
    grown = above
    for axis in (0, 1):
        running = grown.copy()
        for shift in range(1, reach + 1):
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            running[tuple(ahead)] |= grown[tuple(behind)]
            running[tuple(behind)] |= grown[tuple(ahead)]
        grown = running
    return grown


def divide_by_noise(snr: np.ndarray, noise: np.ndarray, block: int = 256) -> None:
    """Divide a detection image by the noise of its blocks, in place, between their middles bilinearly.

    Noise below 1 counts as 1: pixels cannot be better than their variance says.
    """
    ny, nx = snr.shape
    noise = np.maximum(noise, 1.0)
    y_edges, x_edges = block_edges(ny, block), block_edges(nx, block)
    middle_y, middle_x = 0.5 * (y_edges[1:] + y_edges[:-1] - 1), 0.5 * (x_edges[1:] + x_edges[:-1] - 1)
    along = np.stack([np.interp(np.arange(nx), middle_x, row) for row in noise])
    for y in range(ny):
        at = np.interp(y, middle_y, np.arange(middle_y.size))
        low = min(int(at), max(middle_y.size - 2, 0))
        high = min(low + 1, middle_y.size - 1)
        snr[y] /= ((1 - (at - low)) * along[low] + (at - low) * along[high]).astype(np.float32)


def in_units_of_noise(snr: np.ndarray, config: DetectionPassesConfig) -> np.ndarray:
    if config.measure_noise:
        noise = measured_noise(snr, config.threshold, config.noise_block)
        divide_by_noise(snr, noise, config.noise_block)
    return snr


def noise_at_peaks(
    variance: np.ndarray | None, sky_variance: Plane, shape: tuple[int, int]
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Noise of the detection image at flat indices: sqrt(variance / sky variance), at least 1."""
    if variance is None:
        return None

    def noise(pixels: np.ndarray) -> np.ndarray:
        y, x = np.divmod(pixels, shape[1])
        sky = sample_plane(sky_variance, y, x, shape[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = variance[y, x] / sky
        return np.sqrt(np.maximum(np.nan_to_num(ratio, nan=1.0, posinf=1.0), 1.0))

    return noise
