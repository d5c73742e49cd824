"""Satellite trails (LDM-151 8.2): the pixels along one line, and the trail that fits them.

A strip follows the line, cut into blocks along it: an array (block, distance across). All sums over blocks limit what
one block may add, so that a star on the line counts as one block at most. Distances are pixels, angles radians.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel

REACH = 48
"""Half of the strip's breadth [pixel]."""

WIDTHS = (3, 5, 9, 15)
"""Breadths of the boxes with which a line is sought in a strip [pixel]."""


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, float64, float64,"
    " int64, float32[:, ::1], float32[:, ::1])"
)
def cut_strip(image, variance, unusable, x0, y0, cosine, sine, block, mean, error):
    """Clipped means of the pixels nearest to the points of a strip, in blocks along it.

    Parameters
    ----------
    image, variance, unusable : ndarray, shape (ny, nx)
    x0, y0 : float
        Where the line begins [pixel].
    cosine, sine : float
        Its direction.
    block : int
        Points along the line in a block, a pixel apart.
    mean, error : ndarray, shape (n_blocks, 2 r + 1)
        Output: mean of the points within three sigma of the middle one of three parts' means, and its variance;
        NaN with fewer than half of the points.
    """
    ny, nx = image.shape
    n_blocks, breadth = mean.shape
    reach = breadth // 2
    values, thirds = np.empty(block), np.empty(3)
    for k in range(n_blocks):
        for j in range(breadth):
            d = j - reach
            n = 0
            noise = 0.0
            for i in range(block):
                t = k * block + i + 0.5
                x = int(np.floor(x0 + cosine * t - sine * d + 0.5))
                y = int(np.floor(y0 + sine * t + cosine * d + 0.5))
                if x < 0 or y < 0 or x >= nx or y >= ny or unusable[y, x]:
                    continue
                if abs(image[y, x]) < np.inf and variance[y, x] < np.inf:
                    values[n] = image[y, x]
                    noise += variance[y, x]
                    n += 1
            if 2 * n < block:
                mean[k, j] = np.nan
                error[k, j] = np.nan
                continue
            noise /= n
            # the middle one of the means of three parts: a star or a hit spoils one of them
            thirds[:] = 0.0
            for part in range(3):
                start, stop = part * n // 3, (part + 1) * n // 3
                for i in range(start, stop):
                    thirds[part] += values[i]
                thirds[part] /= stop - start
            middle = max(min(thirds[0], thirds[1]), min(max(thirds[0], thirds[1]), thirds[2]))
            limit = 3 * math.sqrt(noise)
            total, kept = 0.0, 0
            for i in range(n):
                if abs(values[i] - middle) <= limit:
                    total += values[i]
                    kept += 1
            mean[k, j] = total / kept if kept > 0 else middle
            error[k, j] = noise / max(kept, 1)


@dataclass(frozen=True, eq=False)
class Strip:
    """Blocks along a line.

    Attributes
    ----------
    x0, y0, angle, length : float
        Where the line begins [pixel], its direction [rad], length [pixel].
    block : int
        Length of a block [pixel].
    mean, error : ndarray, shape (n_blocks, 2 `REACH` + 1)
        As of `cut_strip`; the means less their median across.
    """

    x0: float
    y0: float
    angle: float
    length: float
    block: int
    mean: np.ndarray
    error: np.ndarray

    @functools.cached_property
    def boxes(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """`box_means` for each of `WIDTHS`."""
        return {width: box_means(self, width) for width in WIDTHS}

    def place(self, t: float, d: float) -> tuple[float, float]:
        """Pixel of a place along and across the line."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return self.x0 + c * t - s * d, self.y0 + s * t + c * d


def line_in_box(
    x: float, y: float, angle: float, shape: tuple[int, int]
) -> tuple[float, float, float] | None:
    """(x0, y0, length) of the part of a line within an image, or None."""
    low, high = -math.inf, math.inf
    for start, step, size in ((x, math.cos(angle), shape[1]), (y, math.sin(angle), shape[0])):
        if abs(step) < 1e-12:
            if not -0.5 <= start <= size - 0.5:
                return None
            continue
        a, b = sorted(((-0.5 - start) / step, (size - 0.5 - start) / step))
        low, high = max(low, a), min(high, b)
    if high <= low:
        return None
    return float(x + low * math.cos(angle)), float(y + low * math.sin(angle)), float(high - low)


def strip_along(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    x: float,
    y: float,
    angle: float,
    seen: float | None = None,
) -> Strip | None:
    """The strip along the whole line through a pixel; None when less than 16 pixels of it are in the image.

    Blocks are a sixteenth of the length `seen` (by default of the line), 8 to 32 pixels.
    """
    inside = line_in_box(x, y, angle, image.shape)
    if inside is None or inside[2] < 16:
        return None
    x0, y0, length = inside
    block = min(max(int((seen or length) / 16), 8), 32)
    n = int(length / block)
    mean, error = (np.empty((n, 2 * REACH + 1), np.float32) for _ in range(2))
    # blocks are set in the middle of the line: less than half a block is lost at each end
    start = 0.5 * (length - n * block)
    x0, y0 = x0 + start * math.cos(angle), y0 + start * math.sin(angle)
    cut_strip(image, variance, unusable, x0, y0, math.cos(angle), math.sin(angle), block, mean, error)
    filled = np.isfinite(mean).sum(axis=1) > REACH // 2
    mean[~filled] = np.nan
    level = np.where(filled, median_of_known(mean, 1), np.float32(0))
    return Strip(x0, y0, angle, n * block, block, mean - level[:, None], error)


def median_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Median of the values that are not NaN along an axis; NaN where there are none."""
    ordered = np.sort(values, axis=axis)
    count = np.isfinite(ordered).sum(axis=axis, keepdims=True)
    pair = [
        np.take_along_axis(ordered, np.maximum(k, 0), axis)
        for k in ((count - 1) // 2, np.minimum(count // 2, np.maximum(count - 1, 0)))
    ]
    return np.squeeze(0.5 * (pair[0] + pair[1]), axis)


def box_means(strip: Strip, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over `width` pixels across at each distance, and their noise, shape of `strip.mean`.

    NaN where more than half of the box is.
    """
    good = np.isfinite(strip.mean)
    sums = [_box(np.where(good, a, 0).astype(float), width) for a in (good, strip.mean, strip.error)]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(2 * sums[0] >= width, sums[1] / sums[0], np.nan)
        noise = np.where(2 * sums[0] >= width, np.sqrt(sums[2]) / sums[0], np.nan)
    return mean, noise


def _box(values: np.ndarray, width: int) -> np.ndarray:
    """Sums over `width` (odd) columns about each; what lies outside counts 0."""
    half = width // 2
    total = np.concatenate([np.zeros((values.shape[0], 1)), np.cumsum(values, axis=1)], axis=1)
    j = np.arange(values.shape[1])
    return total[:, np.minimum(j + half + 1, values.shape[1])] - total[:, np.maximum(j - half, 0)]


@dataclass(frozen=True)
class LineFit:
    """Where a line lies in a strip: distance across at its two ends, and of its middle from the chord [pixel]."""

    first: float
    last: float
    bow: float
    width: int
    score: float

    def across(self, u: np.ndarray) -> np.ndarray:
        """Distance at places 0..1 along the strip."""
        return self.first + (self.last - self.first) * u + 4 * self.bow * u * (1 - u)


def fit_line(
    strip: Strip, blocks: slice, around: LineFit | None = None, greatest_bow: float = 0.0
) -> LineFit:
    """The line and breadth with the most significant sum over blocks.

    Parameters
    ----------
    blocks : slice
        Of the strip that count.
    around : LineFit, optional
        Finer steps near it, and a bow; by default coarse steps over the strip's middle.
    greatest_bow : float
        [pixel].
    """
    n = strip.mean.shape[0]
    u = (np.arange(n)[blocks] + 0.5) / n
    best = LineFit(0.0, 0.0, 0.0, WIDTHS[0], -math.inf)
    grid = _grid(around, greatest_bow)
    d = grid[:, :1] + (grid[:, 1:2] - grid[:, :1]) * u + 4 * grid[:, 2:] * u * (1 - u)
    column = np.clip(np.rint(d).astype(np.int64) + REACH, 0, 2 * REACH)
    for width in WIDTHS:
        mean, noise = strip.boxes[width]
        snr = np.where(np.isfinite(mean), mean / noise, 0.0)[blocks]
        limit = 4.0
        if around is not None:
            own = snr[
                np.arange(snr.shape[0]), np.clip(np.rint(around.across(u)) + REACH, 0, 2 * REACH).astype(int)
            ]
            limit = max(limit, 1.5 * float(np.percentile(own, 60)))
        snr = np.clip(snr, -4.0, limit)
        scores = snr[np.arange(snr.shape[0]), column].sum(axis=1) / math.sqrt(snr.shape[0])
        # a bow is one more number to fit: it must gain two sigma
        scores = np.where(grid[:, 2] == 0, scores, np.sqrt(np.maximum(scores**2 - 4, 0)))
        k = int(np.argmax(scores))
        # limited blocks score alike in all boxes that the trail fills: broader ones must be clearly better
        if scores[k] > max(1.03 * best.score, best.score):
            best = LineFit(float(grid[k, 0]), float(grid[k, 1]), float(grid[k, 2]), width, float(scores[k]))
    return best


def _grid(around: LineFit | None, greatest_bow: float) -> np.ndarray:
    """Trial lines, shape (m, 3): first, last, bow."""
    if around is None:
        steps = np.arange(-20.0, 21.0, 2.5)
        first, last = np.meshgrid(steps, steps)
        return np.stack([first.ravel(), last.ravel(), np.zeros(first.size)], axis=1)
    steps = np.arange(-2.5, 2.6, 0.5)
    half = math.floor(greatest_bow)
    bows = np.linspace(-half, half, 2 * min(half, 4) + 1)
    first, last, bow = np.meshgrid(around.first + steps, around.last + steps, bows)
    return np.stack([first.ravel(), last.ravel(), bow.ravel()], axis=1)
