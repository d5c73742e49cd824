"""Full Visit PSF Estimation (LDM-151 8.10.1): what the fit of a visit's PSF hands back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.visit_psf import VisitPsf


@dataclass(frozen=True, eq=False)
class StarFits:
    """What became of each star; arrays of shape (n,), rows as in the stamps that were given.

    Parameters
    ----------
    used : ndarray of bool
        Took part in the last fit. Reserved stars never do.
    rejected : ndarray of bool
        Left out as no clean star: no fit, bad pixels in the core, or another size, shape or chi2 than the
        model's.
    x, y : ndarray
        Centre by the PSF's convention [pixel]; NaN without a fit, as all that follow.
    flux, flux_error : ndarray
        To infinity, and its standard error [electron].
    chi2 : ndarray
    n_pixel : ndarray of int64
        Good pixels.
    size : ndarray
        Trace of the adaptive moments of the model there [pixel^2].
    size_residual, e1_residual, e2_residual : ndarray
        The star's adaptive moments less the model's, to first order: relative for the size; e as in
        `primitives.psf.Moments`.
    size_error, e1_error, e2_error : ndarray
        Their standard errors from the pixels' noise.
    """

    used: np.ndarray
    rejected: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    chi2: np.ndarray
    n_pixel: np.ndarray
    size: np.ndarray
    size_residual: np.ndarray
    e1_residual: np.ndarray
    e2_residual: np.ndarray
    size_error: np.ndarray
    e1_error: np.ndarray
    e2_error: np.ndarray


@dataclass(frozen=True, eq=False)
class VisitPsfFit:
    """PSFs of a visit.

    Parameters
    ----------
    psfs : dict of int to VisitPsf
        Of every detector that was asked for.
    stars : StarFits
    figures : dict of str to float
        Of the visit: degree, wing slope, FWHM [pixel], numbers of stars, and `reserved_*`, those of
        `quality.reserved_figures`.
    by_detector : dict of int to dict of str to float
        The latter for the reserved stars of each detector, and `n_used`.
    """

    psfs: dict[int, VisitPsf]
    stars: StarFits
    figures: dict[str, float]
    by_detector: dict[int, dict[str, float]]
