"""Single CCD and Single Visit Astrometric Fit (LDM-151 8.13.1, 8.13.2): FitWCS.

The map of each detector is pixel -> nominal place -> the detector's own shift, rotation, scale and shear -> nominal
distortion -> rotation and parity -> a polynomial common to all detectors -> tangent plane -> sky. Parameters have
Gaussian priors; which of them are used is found by cross-validation (`selection`), and where many detectors tell of the
width of a prior, it is taken from them (MacKay 1992, Neural Computation 4, 415). Errors of centroids and of the
reference, and an intrinsic scatter that is estimated, weight the stars; outliers first lose weight (Student's t), then
are left out. A single CCD is a focal plane with one detector: it has the visit's terms only.
"""

from __future__ import annotations

import numpy as np

from skyquilt.algorithms.astrometric_fitting.focal_plane import FocalPlane, Pointing
from skyquilt.algorithms.astrometric_fitting.iterated_fit import IteratedFit
from skyquilt.algorithms.astrometric_fitting.options import FitWcsConfig
from skyquilt.algorithms.astrometric_fitting.visit_astrometry import VisitAstrometry

__all__ = ["FitWcsConfig", "fit_wcs"]


def fit_wcs(
    detector: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    covariance: np.ndarray,
    reference_ra: np.ndarray,
    reference_dec: np.ndarray,
    reference_covariance: np.ndarray,
    focal_plane: FocalPlane,
    pointing: Pointing,
    config: FitWcsConfig | None = None,
) -> VisitAstrometry:
    """Fit the WCS of all detectors of a visit to matched stars.

    Parameters
    ----------
    detector : ndarray of int, shape (n,)
    x, y : ndarray, shape (n,) [pixel]
    covariance : ndarray, shape (n, 2, 2) [pixel^2]
        Of the centroids.
    reference_ra, reference_dec : ndarray, shape (n,) [deg, ICRS]
        Of each star's partner, at the visit's epoch.
    reference_covariance : ndarray, shape (n, 2, 2) [arcsec^2]
        Of (ra cos dec, dec).
    focal_plane : FocalPlane
    pointing : Pointing
        Right to about the width of its prior: that of `match_semi_blind`.

    Returns
    -------
    VisitAstrometry
        Rows that are not finite, or not of the focal plane, are not used.

    Raises
    ------
    ProcessingFailure
        NO_MATCH when fewer than `min_stars` are left.
    """
    config = config or FitWcsConfig()
    return IteratedFit(
        np.asarray(detector, np.int64),
        *(np.asarray(each, float) for each in (x, y, covariance, reference_ra, reference_dec)),
        np.asarray(reference_covariance, float),
        focal_plane,
        pointing,
        config,
    ).run()
