"""Single-Exposure Morphology (LDM-151 8.2.1): the sharpest point sources of an image, before there is a PSF.

The logarithm of a profile is close to a parabola near its peak. Second differences of the logarithm about a local
maximum, at the distance where the profile has fallen to less than three quarters, give the curvature matrix
without a fit and hardly depend on where the star lies in its pixel. Hits fail: their neighbours are empty, or
their diagonals do not follow from their rows and columns. Stars are the narrowest dense group of widths; their
sharpest tenth counts, along the narrow axis, for PSFs are elliptical and change over a detector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.artifact_detection.cosmic_ray_kernels import between
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.psf import FWHM_OF_SIGMA, Psf

_LEAST_STARS = 8
_PEAK_SNR = 25.0
_GROUP = 0.15
"""Half width of the group of stars [ln of the width]."""
_WIDEST_FWHM = 20.0
_CAPACITY = 20000
_GRID = 5


@dataclass(frozen=True)
class SharpestProfile:
    """FWHM of the sharpest point sources, pixel response included [pixel], and how many stars say so."""

    fwhm: float
    n_stars: int


def sharpest_profile(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    level: np.ndarray,
    floor: np.ndarray,
    block: int,
    least_fwhm: float,
) -> SharpestProfile | None:
    """The sharpest point sources of an image, from its own stars; None with fewer than 8 stars.

    Parameters
    ----------
    image, variance : ndarray of float32, shape (ny, nx)
    unusable : ndarray of bool, shape (ny, nx)
    level, floor : ndarray of float64, shape (m, n)
        Level and variance of the sky on blocks of `block` pixels (`cosmic_rays.sky_of`).
    least_fwhm : float
        What is sharper is no star [pixel].
    """
    found = np.empty((_CAPACITY, 6))
    n = peak_curvatures(image, variance, unusable, level, floor, block, _PEAK_SNR, found)
    xx, yy, xy, diagonal, error, _ = found[: min(n, _CAPACITY)].T
    trace = xx + yy
    root = np.hypot(0.5 * (xx - yy), xy)
    steep, shallow = 0.5 * trace + root, 0.5 * trace - root
    with np.errstate(divide="ignore", invalid="ignore"):
        width = FWHM_OF_SIGMA * np.sqrt(2 / trace)
        star = (
            (trace > 0)
            & (shallow > 0.4 * steep)
            & (np.abs(diagonal / trace - 1) < 0.2 + 2 * error)
            & (error < 0.15)
            & (width > least_fwhm)
            & (width < _WIDEST_FWHM)
        )
    if np.count_nonzero(star) < _LEAST_STARS:
        return None
    width, steep, error = width[star], steep[star], error[star]
    group = np.flatnonzero(_narrowest_group(np.log(width)))
    if group.size < _LEAST_STARS:
        return None
    # noise alone would make the sharpest tenth of faint stars too sharp: the better half counts
    better = group[np.argsort(error[group], kind="stable")][: max(group.size // 2, 2 * _LEAST_STARS)]
    sharp = float(np.quantile(FWHM_OF_SIGMA / np.sqrt(steep[better]), 0.1))
    return SharpestProfile(max(sharp, least_fwhm), group.size)


def _narrowest_group(width: np.ndarray) -> np.ndarray:
    """Members of the narrowest group that is at least half as large as the largest; bool."""
    ordered = np.sort(width)
    members = np.searchsorted(ordered, ordered + 2 * _GROUP, side="right") - np.arange(ordered.size)
    enough = np.flatnonzero(members >= max(0.5 * members.max(), _LEAST_STARS))
    if enough.size == 0:
        return np.zeros(width.size, bool)
    # the densest start among the first group's neighbours: the lower edge of a group is thin
    start = enough[0]
    near = enough[ordered[enough] <= ordered[start] + 2 * _GROUP]
    start = near[np.argmax(members[near])]
    return (width >= ordered[start]) & (width <= ordered[start] + 2 * _GROUP)


def fwhm_of_psf(psf: Psf, shape: tuple[int, int]) -> float:
    """Width of a PSF along its narrowest axis, the least over a grid of 5 x 5 places [pixel].

    From the curvature at the peak, as of stars: what a filter of a few pixels sees.
    """
    ny, nx = shape
    found = np.empty((4, 6))
    least = np.inf
    for y in np.linspace(0, ny - 1, _GRID):
        for x in np.linspace(0, nx - 1, _GRID):
            stamp = np.ascontiguousarray(psf.kernel_at(float(x), float(y)) * 1e9, dtype=np.float32)
            ones = np.ones((1, 1))
            n = peak_curvatures(
                stamp, np.ones_like(stamp), np.zeros(stamp.shape, bool), 0 * ones, ones, 64, 1e3, found
            )
            if n:
                xx, yy, xy = found[np.argmax(found[: min(n, 4), 5]), :3]
                steep = 0.5 * (xx + yy) + np.hypot(0.5 * (xx - yy), xy)
                least = min(least, FWHM_OF_SIGMA / np.sqrt(steep))
            else:
                least = min(least, psf.fwhm_at(float(x), float(y)))
    return float(least)


@kernel(
    "int64(const(float32[:, :]), const(float32[:, :]), const(boolean[:, :]), const(float64[:, ::1]),"
    " const(float64[:, ::1]), int64, float64, float64[:, ::1])"
)
def peak_curvatures(image, variance, unusable, level, floor, block, snr, found):
    """Curvature of the logarithm at local maxima; how many, of which `found` holds the first.

    Columns of `found`: curvature xx, yy, xy [pixel^-2]; the trace as the diagonals have it; relative error of
    the trace from noise; the peak. Maxima of 5 x 5 pixels above `snr` sigma whose eight neighbours at the
    chosen distance are above 3 sigma and a thirtieth of the peak.
    """
    rows, columns = image.shape
    n = 0
    ring = np.empty(8)
    for y in range(4, rows - 4):
        for x in range(4, columns - 4):
            top = image[y, x]
            if not (top > image[y, x - 1] and top >= image[y, x + 1]) or unusable[y, x]:
                continue
            if not (top > image[y - 1, x] and top >= image[y + 1, x]):
                continue
            noise = max(variance[y, x], np.float32(0))
            peak = top - between(level, block, y, x)
            if not (peak > 0 and peak * peak > snr * snr * noise):
                continue
            highest = True
            for j in range(y - 2, y + 3):
                for i in range(x - 2, x + 3):
                    if unusable[j, i] or image[j, i] > top:
                        highest = False
            if not highest:
                continue
            sky = np.float64(top) - peak
            least = between(floor, block, y, x)
            distance = 1
            while distance <= 4:
                mean = 0.25 * (
                    image[y, x - distance]
                    + image[y, x + distance]
                    + image[y - distance, x]
                    + image[y + distance, x]
                )
                if mean - sky < 0.72 * peak:
                    break
                distance += 1
            if distance > 4:
                continue
            good = True
            error = 0.0
            for k, (dy, dx) in enumerate(
                ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
            ):
                j, i = y + distance * dy, x + distance * dx
                value = image[j, i] - sky
                spread = max(np.float64(variance[j, i]), least)
                if unusable[j, i] or not (value > 0.033 * peak and value * value > 9 * spread):
                    good = False
                    break
                ring[k] = np.log(value / peak)
                if k < 4:
                    error += spread / (value * value)
            if not good:
                continue
            error += 16 * noise / (peak * peak)
            scale = 1.0 / (distance * distance)
            if n < found.shape[0]:
                found[n, 0] = -scale * (ring[0] + ring[1])
                found[n, 1] = -scale * (ring[2] + ring[3])
                found[n, 2] = -0.25 * scale * (ring[4] + ring[5] - ring[6] - ring[7])
                found[n, 3] = -0.5 * scale * (ring[4] + ring[5] + ring[6] + ring[7])
                found[n, 4] = scale * np.sqrt(error) / max(found[n, 0] + found[n, 1], 1e-9)
                found[n, 5] = peak
            n += 1
    return n
