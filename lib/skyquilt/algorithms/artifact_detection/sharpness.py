"""Single-Exposure Morphology (LDM-151 8.2.1): what light cannot do, and the filters that see it.

Whatever the sky holds, an image without artifacts is sky level + sum of f_i P(x - x_i) with f_i >= 0 and P the
point-spread function. A filter w with sum_j w_j P(x_j - u) <= 0 for every u thus has no positive response
to any scene of stars, galaxies and their blends; a response that noise cannot explain is charge that never
passed the optics. For a hit of shape h the best such filter against white noise is what remains of h after a
fit of non-negative amounts of P at all sub-pixel places,

    w = h - sum_u l_u P_u,    l = argmin_{l >= 0} |h - sum_u l_u P_u|^2,

for w P_u <= 0 and w h = |w|^2 are the conditions of that minimum (Lawson & Hanson 1974). It takes the place of
the Laplacian of van Dokkum (2001, PASP 113, 1420); the comparison with pairs of opposite neighbours of Lupton's
photometric pipeline (Lupton et al. 2001, ASP Conf. 238, 269) is such a filter too, and `pair_factors` has its
limits, for pixels whose surroundings are incomplete.

A PSF that is broader in some direction is a sum of sharper ones, so the sharpest round one stands for all of an
image.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy import special

from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.psf import FWHM_OF_SIGMA

HALF = 3
SIDE = 2 * HALF + 1
DIFFUSION = 0.35
"""Width of a hit's charge cloud that the shapes assume [pixel]; between 0.2 and 0.5 little depends on it."""

LEAST_FWHM = 1.6
"""Sharper PSFs cannot be told from hits [pixel]."""

_STEPS_PER_E = 128
"""Widths are rounded down by up to 0.8 %, so that images of a night share their filters."""
_SWEEPS = 150


@dataclass(frozen=True)
class SharpnessFilters:
    """Filters for one width of the PSF.

    Parameters
    ----------
    fwhm : float
        Of the sampled PSF, pixel response included [pixel].
    shapes, weights : ndarray of float32, shape (n, 7, 7)
        What hits look like, peak 1, and the filter w of each.
    pair_factors : ndarray of float64, shape (2,)
        For offsets (0, 1) and (1, 1): a pixel is at most so many times the mean of its two neighbours at
        +- the offset.
    flank : float
        What a point source has 3 pixels from its peak, as a share of the peak.
    """

    fwhm: float
    shapes: np.ndarray
    weights: np.ndarray
    pair_factors: np.ndarray
    flank: float


def filters_for(fwhm: float) -> SharpnessFilters:
    """The filters for point sources not sharper than `fwhm` [pixel], which is rounded down by up to 0.8 %.

    Raises
    ------
    ValueError
        When the width is not finite or below `LEAST_FWHM`.
    """
    if not np.isfinite(fwhm) or fwhm < LEAST_FWHM:
        raise ValueError(f"cosmic rays need point sources of FWHM {LEAST_FWHM} pixels at least, got {fwhm}")
    return _filters(int(np.floor(np.log(fwhm) * _STEPS_PER_E + 1e-9)))


@functools.lru_cache(maxsize=32)
def _filters(step: int) -> SharpnessFilters:
    fwhm = float(np.exp(step / _STEPS_PER_E))
    sigma = fwhm / FWHM_OF_SIGMA
    coarse = _point_sources(sigma, 0.6 * sigma, 1.5)
    fine = _point_sources(sigma, 0.2 * sigma, 0.0)
    # beyond the reach of the fit a scene may still lend its flanks; the sum of all sources is flat inside
    flat = coarse.sum(axis=0)
    flat /= (fine @ flat).min()
    shapes, weights = [], []
    for shape in _basic_shapes():
        residual = shape.ravel().copy()
        fit_nonnegative(coarse, residual, _SWEEPS)
        leak = max(float((fine @ residual).max()), 0.0)
        weight = (residual - leak * flat).reshape(SIDE, SIDE)
        for turned, other in _turned(shape, weight):
            if not any(np.allclose(turned, known, atol=1e-6) for known in shapes):
                shapes.append(turned)
                weights.append(other)
    factors = np.exp(np.array([1.0, 2.0]) / (2 * sigma**2))
    return SharpnessFilters(
        fwhm,
        np.ascontiguousarray(shapes, dtype=np.float32),
        np.ascontiguousarray(weights, dtype=np.float32),
        factors,
        float(np.exp(-(HALF**2) / (2 * sigma**2))),
    )


def _point_sources(sigma: float, step: float, beyond: float) -> np.ndarray:
    """Stamps of Gaussians at places up to `beyond` sigma outside of the stamp; shape (n, 49)."""
    reach = HALF + beyond * sigma
    places = np.linspace(-reach, reach, 2 * int(np.ceil(reach / step)) + 1)
    pixels = np.arange(-HALF, HALF + 1.0)
    along = np.exp(-((pixels[None, :] - places[:, None]) ** 2) / (2 * sigma**2))
    return np.einsum("aj,bi->abji", along, along).reshape(-1, SIDE * SIDE)


def _basic_shapes() -> list[np.ndarray]:
    """Points and pieces of tracks, peak 1, one of each class of mirror images."""
    shapes = [_track(x, y, 0.0, 0.0) for x, y in ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5))]
    for angle in (0.0, np.pi / 8, np.pi / 4):
        for offset in (0.0, 0.5):
            shapes.append(_track(-offset * np.sin(angle), offset * np.cos(angle), angle, 3.0))
    return [shape / shape.max() for shape in shapes]


def _track(x: float, y: float, angle: float, length: float) -> np.ndarray:
    """Charge left evenly along a line through (x, y), diffused."""
    along = ((np.arange(24) + 0.5) / 24 - 0.5) * length
    return sum(np.outer(_in_pixels(y + t * np.sin(angle)), _in_pixels(x + t * np.cos(angle))) for t in along)


def _in_pixels(centre: float) -> np.ndarray:
    edges = np.arange(-HALF - 0.5, HALF + 1.0)
    return np.diff(special.ndtr((edges - centre) / DIFFUSION))


def _turned(shape: np.ndarray, weight: np.ndarray):
    """The eight mirror images of both."""
    for turns in range(4):
        one, other = np.rot90(shape, turns), np.rot90(weight, turns)
        yield one, other
        yield one.T, other.T


@kernel("void(const(float64[:, ::1]), float64[::1], int64)")
def fit_nonnegative(sources, residual, sweeps):
    """Coordinate descent of |h - sum_k l_k sources_k|^2 over l >= 0; `residual` holds h, then the rest."""
    n, size = sources.shape
    amount = np.zeros(n)
    for _ in range(sweeps):
        for k in range(n):
            product = 0.0
            norm = 0.0
            for i in range(size):
                product += sources[k, i] * residual[i]
                norm += sources[k, i] * sources[k, i]
            new = max(amount[k] + product / norm, 0.0)
            change = new - amount[k]
            if change != 0.0:
                amount[k] = new
                for i in range(size):
                    residual[i] -= change * sources[k, i]
