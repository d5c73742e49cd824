"""Full Visit PSF Estimation (LDM-151 8.10.1): numbers that say how good a PSF is (5.1.1.17)."""

from __future__ import annotations

import numpy as np

from skyquilt.algorithms.psf_modeling.rejection import middle_and_spread
from skyquilt.algorithms.psf_modeling.results import StarFits

_NAMES = ("size", "e1", "e2")


def reserved_figures(stars: StarFits, chosen: np.ndarray) -> dict[str, float]:
    """Residuals of stars that took no part in the fit, or of any others.

    Parameters
    ----------
    stars : StarFits
    chosen : ndarray of bool, shape (n,)
        Rejected ones do not count.

    Returns
    -------
    dict of str to float
        `n`; for size (relative) and e1, e2: `<name>_mean`, its standard error `<name>_error` and the spread
        of stars beyond noise, `<name>_spread`. The mean is weighted by noise and spread, its error follows
        from both. NaN without stars.
    """
    chosen = chosen & ~stars.rejected & np.isfinite(stars.size_residual)
    figures = {"n": float(chosen.sum())}
    for name in _NAMES:
        mean = error = spread = float("nan")
        if chosen.any():
            residual = getattr(stars, f"{name}_residual")[chosen]
            noise = getattr(stars, f"{name}_error")[chosen]
            spread = middle_and_spread(residual, noise)[1] if residual.size > 2 else 0.0
            weight = 1 / (noise**2 + spread**2)
            mean, error = float((weight * residual).sum() / weight.sum()), float(weight.sum() ** -0.5)
        figures |= {f"{name}_mean": mean, f"{name}_error": error, f"{name}_spread": spread}
    return figures
