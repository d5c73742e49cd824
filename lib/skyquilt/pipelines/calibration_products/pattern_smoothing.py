"""Smoothing of a pattern (LDM-151 4.1.2.1): a kernel that keeps waves, and the width that the data ask for.

Along each axis a line is smoothed by local linear regression with Gaussian weights, which within the image is a
Gaussian and at its ends still follows a slope. With L the two axes together, the image becomes 2 L - L L of itself
("twicing", Stuetzle and Mittal 1979): without a second moment, so that a wave of period P loses only about
(2 pi width / P)^4 / 4. Widths are chosen by Stein's unbiased estimate of the risk (Stein 1981), which needs the noise of
the pixels and nothing of the pattern.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage, signal, sparse

WIDTHS = tuple(2.0 ** (k / 2) for k in range(11))
"""Widths that are tried [pixel]."""

_REACH = 4.0
_COVERED = 0.25
_TILE = 256


@dataclass(frozen=True)
class PatternSmoothing:
    """The smoothing of images of one shape by one width.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx).
    width : float
        Standard deviation of the Gaussian [pixel]; 0 leaves images as they are.
    """

    shape: tuple[int, int]
    width: float

    @cached_property
    def _lines(self) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        return tuple(line_smoothing(size, self.width) for size in self.shape)  # type: ignore[return-value]

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Smoothed image, float32; holes (NaN) take their surroundings' value, large ones stay NaN."""
        if not self.width:
            return image.copy()
        whole, known = _filled(image, self.width)
        once = self._once(whole)
        result = 2 * once - self._once(once)
        result[~known] = np.nan
        return result

    def noise_power(self) -> np.ndarray:
        """Variance of a smoothed pixel over that of a pixel, for white noise; float64, `shape`."""
        if not self.width:
            return np.ones(self.shape)
        one, cross, two = zip(*(_products(line) for line in self._lines))
        return 4 * np.outer(*one) - 4 * np.outer(*cross) + np.outer(*two)

    def own_weight(self) -> float:
        """Mean weight of a pixel in its own smoothed value."""
        if not self.width:
            return 1.0
        once, twice = zip(*((line.diagonal().sum(), (line @ line).diagonal().sum()) for line in self._lines))
        return float((2 * once[0] * once[1] - twice[0] * twice[1]) / (self.shape[0] * self.shape[1]))

    def noise_covariance(self) -> np.ndarray:
        """Correlation of the noise of pixels at each offset, within the image; odd, 1 in the middle."""
        covariance = signal.fftconvolve(*2 * (smoothing_kernel(self.width),))
        covariance = 0.5 * (covariance + covariance[::-1, ::-1])
        middle = covariance.shape[0] // 2
        covariance /= covariance[middle, middle]
        covariance[middle, middle] = 1.0
        return covariance

    def _once(self, image: np.ndarray) -> np.ndarray:
        down, across = self._lines
        return np.ascontiguousarray((across @ (down @ image).T).T)


def best_width(image: np.ndarray, variance: np.ndarray) -> float:
    """Width of the smoothing that brings a noisy pattern nearest to the true one, 0 for none [pixel].

    The least of the widths that tiles all over the image ask for: where waves are finest as much must stay of them
    as their noise allows, and a little more noise elsewhere harms less.

    Parameters
    ----------
    image, variance : ndarray of float32, shape (ny, nx)
        White noise; NaN where there is no value. Sixteen tiles of at most 256 pixels decide.
    """
    found = [_best_of_tile(image[tile], variance[tile]) for tile in _tiles(image.shape)]
    known = [width for width in found if width is not None]
    return min(known, default=0.0)


def _tiles(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    sides = []
    for size in shape:
        tile = min(_TILE, size)
        starts = sorted({round(k * (size - tile) / 3) for k in range(4)})
        sides.append([slice(start, start + tile) for start in starts])
    return [(rows, columns) for rows in sides[0] for columns in sides[1]]


def _best_of_tile(sample: np.ndarray, noise: np.ndarray) -> float | None:
    """Width for one tile; None when less than half of it has values."""
    good = np.isfinite(sample) & np.isfinite(noise)
    if good.mean() < 0.5:
        return None
    power = float(noise[good].mean(dtype=np.float64))
    best, least = 0.0, power
    for width in WIDTHS:
        if 12 * width > min(sample.shape):
            break
        smoothing = PatternSmoothing(sample.shape, width)
        residual = (sample - smoothing.apply(sample))[good]
        residual = residual[np.isfinite(residual)]
        risk = float(np.mean(residual.astype(np.float64) ** 2)) + (2 * smoothing.own_weight() - 1) * power
        if risk < least:
            best, least = width, risk
    return best


def smoothing_kernel(width: float) -> np.ndarray:
    """Kernel of the smoothing away from edges, float64, odd and square."""
    line = _gaussian(int(np.ceil(_REACH * width)), width)
    once = np.outer(line, line)
    twice = np.convolve(line, line)
    margin = (twice.size - line.size) // 2
    return 2 * np.pad(once, margin) - np.outer(twice, twice)


def line_smoothing(size: int, width: float) -> sparse.csr_matrix:
    """Local linear regression with Gaussian weights along a line, float32, shape (size, size)."""
    reach = int(np.ceil(_REACH * width))
    offsets = np.arange(-reach, reach + 1)
    weights = _gaussian(reach, width)
    places = np.arange(size)[:, None] + offsets[None, :]
    inside = (places >= 0) & (places < size)
    w = np.where(inside, weights, 0.0)
    first, second = (w * offsets).sum(axis=1), (w * offsets**2).sum(axis=1)
    w *= second[:, None] - first[:, None] * offsets
    w /= w.sum(axis=1, keepdims=True)
    rows = np.broadcast_to(np.arange(size)[:, None], places.shape)
    matrix = sparse.csr_matrix((w[inside], (rows[inside], places[inside])), shape=(size, size))
    return matrix.astype(np.float32)


def _gaussian(reach: int, width: float) -> np.ndarray:
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return line / line.sum()


def _products(line: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over each row of M M, M (MM) and (MM) (MM), element by element."""
    line = line.astype(np.float64)
    twice = line @ line
    pairs = (line.multiply(line), line.multiply(twice), twice.multiply(twice))
    return tuple(np.asarray(each.sum(axis=1)).ravel() for each in pairs)  # type: ignore[return-value]


def _filled(image: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """The image with holes filled by a weighted mean, and where a value is known (bool)."""
    good = np.isfinite(image)
    if good.all():
        return image, good
    weight = ndimage.gaussian_filter(good.astype(np.float32), width, mode="nearest")
    total = ndimage.gaussian_filter(np.where(good, image, np.float32(0)), width, mode="nearest")
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-3)
    return np.where(good, image, mean), good | (weight >= _COVERED)
