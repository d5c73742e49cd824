"""Single Visit Astrometric Fit (LDM-151 8.13.2): what the fit gives: WCSs, their errors, residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.astrometric_fitting.correlation import Correlation
from skyquilt.algorithms.astrometric_fitting.focal_plane import ARCSEC, FocalPlane, Pointing
from skyquilt.algorithms.astrometric_fitting.normal_equations import Solved
from skyquilt.algorithms.astrometric_fitting.terms import DetectorTerms, VisitTerms
from skyquilt.primitives.wcs import Wcs


@dataclass(frozen=True)
class VisitAstrometry:
    """The fitted map of a visit.

    Parameters
    ----------
    focal_plane, pointing
        As given to the fit.
    terms, own_terms
        The model's terms.
    widths : dict of str to float
        Groups of terms in use and the widths of their priors over the nominal ones.
    parameters : ndarray, shape (p,)
        Of the visit's terms, zero where not in use.
    local : ndarray, shape (d, q)
        Of each detector's terms.
    columns, own_columns : ndarray of int
        Terms in use.
    covariance : ndarray, shape (m, m)
        Of the parameters in use: the visit's, then each detector's.
    used : ndarray of bool, shape (n,)
        Whether each given star was used.
    residual : ndarray, shape (n, 2) [arcsec]
        Reference minus model on the tangent plane; NaN where there is none.
    star_count : ndarray of int, shape (d,)
        Stars used, by detector. Where it is 0 the WCS comes from the visit's terms and the nominal place.
    intrinsic_scatter : float
        Scatter per axis beyond the quoted errors [arcsec].
    correlation : Correlation
        Of the residuals.
    chi2 : float
        Of the stars used, intrinsic scatter included.
    n_free : float
        Effective number of parameters: each counts by what the stars, rather than its prior, say of it.
    """

    focal_plane: FocalPlane
    pointing: Pointing
    terms: VisitTerms
    own_terms: DetectorTerms
    widths: dict[str, float]
    parameters: np.ndarray
    local: np.ndarray
    columns: np.ndarray
    own_columns: np.ndarray
    covariance: np.ndarray
    used: np.ndarray
    residual: np.ndarray
    star_count: np.ndarray
    intrinsic_scatter: float
    correlation: Correlation
    chi2: float
    n_free: float

    @property
    def n_parameters(self) -> int:
        """Number of parameters in use, whatever their priors."""
        return len(self.columns) + len(self.own_columns) * int((self.star_count > 0).sum())

    @property
    def from_visit_alone(self) -> np.ndarray:
        """Detectors whose WCS has no star of their own, bool by place in `focal_plane.ids`."""
        return self.star_count == 0

    def wcs(self, detector: int) -> Wcs:
        """WCS of a detector number; KeyError when it is not in the focal plane."""
        row = self._row(detector)
        centre = np.array(self.focal_plane.places[row].forward(*self.focal_plane.boxes[row].centre))
        perturbation = self.own_terms.perturbation(self.local[row], centre)
        correction = self.terms.correction(self.parameters)
        return self.focal_plane.wcs(row, self.pointing, correction, perturbation)

    def position_covariance(self, detector: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Covariance of the map's error at pixels, on the tangent plane [arcsec^2], shape (n, 2, 2).

        It is that of the model: a single star's displacement by the atmosphere (`intrinsic_scatter`) comes on top.
        """
        row = self._row(detector)
        x, y = np.broadcast_arrays(np.atleast_1d(x), np.atleast_1d(y))
        rows = np.full(x.size, row)
        mm = self.focal_plane.to_mm(rows, x.ravel(), y.ravel())
        centre = np.array(self.focal_plane.places[row].forward(*self.focal_plane.boxes[row].centre))
        orientation = self.pointing.orientation
        slope = ARCSEC * orientation.matrix @ self.focal_plane.to_field.jacobian(*mm.T)
        plane = self.focal_plane.plane(mm, self.pointing)
        visit = self.terms.design(plane, self.columns)
        own = self.own_terms.design(mm, np.broadcast_to(centre, mm.shape), slope)[:, :, self.own_columns]
        p, q = len(self.columns), len(self.own_columns)
        at = np.r_[np.arange(p), p + row * q + np.arange(q)]
        design = np.concatenate([visit, own], axis=2)
        return design @ self.covariance[np.ix_(at, at)] @ design.swapaxes(1, 2)

    def _row(self, detector: int) -> int:
        row = int(self.focal_plane.rows(np.array([detector]))[0])
        if row < 0:
            raise KeyError(
                f"detector {detector} is not in the focal plane, which has {list(self.focal_plane.ids)}"
            )
        return row


def full_covariance(solved: Solved) -> np.ndarray:
    """Covariance of all parameters, the visit's first, then each detector's."""
    pull = solved.pull.reshape(-1, len(solved.visit))
    cross = -pull @ solved.covariance
    own = -cross @ pull.T
    n, q = solved.local.shape
    for d in range(n):
        own[d * q : (d + 1) * q, d * q : (d + 1) * q] += solved.inner[d]
    return np.block([[solved.covariance, cross.T], [cross, own]])
