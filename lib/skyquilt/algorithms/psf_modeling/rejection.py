"""SelectStars (LDM-151 5.1.1.14): stars that turn out to be none, by what the PSF's model leaves of them."""

from __future__ import annotations

import numpy as np

from skyquilt.algorithms.psf_modeling.config import VisitPsfConfig
from skyquilt.algorithms.psf_modeling.visit_state import VisitState

_LEAST_SPREAD = (0.003, 0.001, 0.001)
"""Of size and shape among stars, beyond noise: the model is no better than this."""


_UNSURE = 6
"""Stars of which the measured spread is taken doubled."""


def outliers(state: VisitState, config: VisitPsfConfig, reserved: np.ndarray) -> np.ndarray:
    """Which stars are binaries, galaxies, hits or faulty; bool (n,).

    Size and ellipticity residuals are compared with their noise and the spread that stars have beside it (the
    model may still lack their variation); chi2 per pixel with that of the others. Reserved stars are judged in
    the same way, but not counted. A star of a pixel or two may have no adaptive moments: chi2 judges it.
    """
    found = state.failed | ~(state.covered >= config.min_coverage)
    basis = ~(found | reserved)
    if basis.sum() < 3:
        return found
    result = found.copy()
    # the spread of a handful is not known: it may be larger
    unsure = 1 + _UNSURE / basis.sum()
    shaped = basis & np.isfinite(state.moments).all(axis=1)
    for k in range(3 if shaped.sum() >= 3 else 0):
        residual, error = state.moments[:, 1 + k], state.moments[:, 4 + k]
        middle, spread = middle_and_spread(residual[shaped], error[shaped])
        spread = max(unsure * spread, _LEAST_SPREAD[k])
        with np.errstate(invalid="ignore"):
            result |= np.abs(residual - middle) > config.star_clip * np.hypot(error, spread)
    with np.errstate(invalid="ignore", divide="ignore"):
        reduced = state.chi2 / state.n_pixel
        middle = np.median(reduced[basis])
        width = 1.4826 * np.median(np.abs(reduced[basis] - middle))
        excess = reduced - middle
        noise = np.sqrt(2 / np.maximum(state.n_pixel, 1)) * middle
        result |= excess > np.maximum(2 * config.star_clip * np.maximum(width, noise), 0.5 * middle)
    return result | found


def middle_and_spread(values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Middle of values, and their standard deviation beside errors, from the better half of them.

    Weighted median; the spread is such that half of |value - middle| / hypot(error, spread) are below 0.6745.
    """
    order = np.argsort(values, kind="stable")
    weight = 1 / np.maximum(errors[order], 1e-12) ** 2
    weight = np.minimum(weight, 9 * np.median(weight))
    share = np.cumsum(weight) - 0.5 * weight
    middle = float(np.interp(0.5 * weight.sum(), share, values[order]))
    away = np.abs(values - middle)
    low, high = 0.0, float(away.max()) * 3 + 1e-12
    for _ in range(40):
        spread = 0.5 * (low + high)
        if np.mean(away < 0.6745 * np.hypot(errors, spread)) < 0.5:
            low = spread
        else:
            high = spread
    return middle, 0.5 * (low + high)
