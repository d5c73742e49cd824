"""Full Visit PSF Estimation (LDM-151 8.10.1): how the wings of bright stars fall."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from skyquilt.algorithms.psf_modeling.profile_space import ProfileSpace
from skyquilt.algorithms.psf_modeling.star_stamps import (
    DetectorPlace,
    StarStamps,
    nearest_pixel,
    sky_variance,
    usable_pixels,
)

_STEEPEST, _FLATTEST = 6.0, 2.2
_N_RING = 8
_LEAST_PIXELS = 30


def fit_wing_slope(
    bright: StarStamps,
    detectors: Mapping[int, DetectorPlace],
    frames: Mapping[int, np.ndarray],
    space: ProfileSpace,
    changes: np.ndarray,
    otherwise: float,
) -> float:
    """Slope p of wings r^-p beyond the join.

    Each star's light is scaled by its good pixels inside the join (saturated ones are not good), beyond it
    medians over rings, in which neighbours do not count, are compared with the profile at the join.

    Parameters
    ----------
    bright : StarStamps
        Larger than the join; others tell nothing.
    detectors : mapping of int to DetectorPlace
    frames : mapping of int to ndarray, shape (2, 2)
    space : ProfileSpace
    changes : ndarray, shape (n_change,)
        The profile of the visit.
    otherwise : float
        Result when no star tells.
    """
    basis = space.basis
    coefficients = space.base + space.changes @ changes
    good, side = usable_pixels(bright), bright.side
    sky, slope = sky_variance(bright, good)
    offset = np.arange(side) - side // 2
    radius, value, weight = [], [], []
    for k in bright.ordered():
        if int(bright.detector[k]) not in detectors or not np.isfinite(sky[k]):
            continue
        dx = offset - (bright.x[k] - nearest_pixel(bright.x[k]))
        dy = (offset - (bright.y[k] - nearest_pixel(bright.y[k])))[:, None]
        (a, b), (c, d) = frames[int(bright.detector[k])]
        u, v = a * dx + b * dy, c * dx + d * dy
        r = np.hypot(u, v)
        profile = basis.values(coefficients, u, v)
        image = bright.image[k].astype(np.float64)
        inside = good[k] & (r < basis.join)
        if inside.sum() < _LEAST_PIXELS:
            continue
        amplitude = float(np.median(_ratios(image[inside], profile[inside])))
        if not amplitude > 0:
            continue
        edges = np.geomspace(basis.join, max(0.5 * side, basis.join), _N_RING + 1)
        at_join = profile * (r / basis.join) ** basis.slope
        for low, high in itertools.pairwise(edges):
            ring = good[k] & (r >= low) & (r < high)
            if ring.sum() < _LEAST_PIXELS:
                continue
            level = float(np.median(image[ring] / at_join[ring])) / amplitude
            light = amplitude * at_join[ring].mean()
            noise = np.pi / 2 * (sky[k] + slope * light) / (light**2 * ring.sum())
            radius.append(float(np.exp(np.log(r[ring] / basis.join).mean())))
            value.append(level)
            weight.append(1 / (noise + (0.05 * level) ** 2))
    if not radius:
        return otherwise
    radius, value, weight = np.array(radius), np.array(value), np.array(weight)
    trial = np.linspace(_FLATTEST, _STEEPEST, 381)
    chi2 = (weight[:, None] * (value[:, None] - radius[:, None] ** -trial) ** 2).sum(axis=0)
    # without light beyond the noise all steep slopes fit alike: then nothing is known
    if chi2[-1] - chi2.min() < 4:
        return otherwise
    return float(trial[np.argmin(chi2)])


def _ratios(image: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Image over profile where the profile is high: the brighter half of the pixels."""
    bright = profile >= np.median(profile)
    return image[bright] / profile[bright]
