"""Aperture Photometry (LDM-151 8.6.2.4): light within small circles by sinc interpolation.

Pixels are samples of a smooth image; its integral over a circle is a sum over pixels with the weights
circle * sinc (Bickerton and Lupton 2013, MNRAS 431, 1275), without the blur of whole pixels that an exact overlap adds.
The sinc is cut by a Kaiser window of 8 pixels, and the weights are scaled to the circle's area at each place within
a pixel. They are kept at steps of a sixteenth of a pixel and interpolated by cubics.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from skyquilt.primitives.compiled import kernel

ORDER = 8
"""Half length of the windowed sinc [pixel]."""

_PHASES = 16
_STEEPNESS = 4 + 0.5 * ORDER


@lru_cache(maxsize=16)
def sinc_weights(radius: float) -> np.ndarray:
    """Weights of pixels for a circle at all places within a pixel.

    Parameters
    ----------
    radius : float
        [pixel].

    Returns
    -------
    ndarray of float64, shape (19, 19, n, n), n odd
        Index (a, b) is for a centre ((b - 1) / 16 - 0.5, (a - 1) / 16 - 0.5) off the central pixel. Read-only.
    """
    half = int(np.ceil(radius + ORDER))
    n = 2 * half + 1
    phases = (np.arange(_PHASES + 3) - 1) / _PHASES - 0.5
    # offset of each pixel from the centre, for each phase
    offset = (np.arange(n) - half)[None, :] - phases[:, None]
    nodes, weights = np.polynomial.legendre.leggauss(max(200, 40 * int(np.ceil(radius))))
    angle = 0.5 * np.pi * nodes
    u, chord = radius * np.sin(angle), radius * np.cos(angle)
    du = weights * 0.5 * np.pi * chord
    fine = np.linspace(-ORDER, ORDER, 2 * ORDER * 512 + 1)
    integral = np.concatenate([[0.0], np.cumsum(_simpson(fine))])
    across = _windowed_sinc(offset[:, :, None] - u)
    upper = np.interp(offset[:, :, None] + chord, fine, integral)
    lower = np.interp(offset[:, :, None] - chord, fine, integral)
    table = np.einsum("biu,aju->abji", across * du, upper - lower, optimize=True)
    table *= np.pi * radius**2 / table.sum(axis=(2, 3), keepdims=True)
    table = np.ascontiguousarray(table)
    table.setflags(write=False)
    return table


def _windowed_sinc(x: np.ndarray) -> np.ndarray:
    from scipy.special import i0

    window = i0(_STEEPNESS * np.sqrt(np.maximum(1 - (x / ORDER) ** 2, 0))) / i0(_STEEPNESS)
    return np.where(np.abs(x) < ORDER, np.sinc(x) * window, 0.0)


def _simpson(grid: np.ndarray) -> np.ndarray:
    """Integrals of the windowed sinc over the steps of a grid."""
    middle = 0.5 * (grid[1:] + grid[:-1])
    ends = _windowed_sinc(grid)
    return np.diff(grid) * (ends[1:] + ends[:-1] + 4 * _windowed_sinc(middle)) / 6


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, "
    "const(float64[:, :, :, ::1]), float64, float64[::1])"
)
def sinc_sum(image, variance, bad, x, y, table, area, sums):
    """Fill `sums` (4,): light, variance, summed weights, summed |weights| on pixels that are bad or off the image.

    `table` is that of `sinc_weights`, `area` the circle's [pixel].
    """
    rows, columns = image.shape
    n = table.shape[2]
    i0, j0 = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    place_x, place_y = (x - i0 + 0.5) * 16.0 + 1.0, (y - j0 + 0.5) * 16.0 + 1.0
    # cubic through four phases, the second of which is at or before the place
    first_x, first_y = min(int(place_x), 16) - 1, min(int(place_y), 16) - 1
    taps = np.empty((2, 4))
    for axis in range(2):
        t = place_x - first_x - 1.0 if axis == 0 else place_y - first_y - 1.0
        taps[axis, 0] = -t * (t - 1.0) * (t - 2.0) / 6.0
        taps[axis, 1] = (t + 1.0) * (t - 1.0) * (t - 2.0) / 2.0
        taps[axis, 2] = -(t + 1.0) * t * (t - 2.0) / 2.0
        taps[axis, 3] = (t + 1.0) * t * (t - 1.0) / 6.0
    weights = np.zeros((n, n))
    for a in range(4):
        for b in range(4):
            factor = taps[1, a] * taps[0, b]
            for j in range(n):
                for i in range(n):
                    weights[j, i] += factor * table[first_y + a, first_x + b, j, i]
    light = 0.0
    noise = 0.0
    total = 0.0
    missing = 0.0
    for j in range(n):
        jj = j0 + j - n // 2
        for i in range(n):
            ii = i0 + i - n // 2
            weight = weights[j, i]
            if jj < 0 or ii < 0 or jj >= rows or ii >= columns or bad[jj, ii]:
                missing += abs(weight)
                continue
            light += weight * np.float64(image[jj, ii])
            noise += weight * weight * np.float64(variance[jj, ii])
            total += weight
    sums[0] = light
    sums[1] = noise
    sums[2] = total
    sums[3] = missing
