"""Single Visit Astrometric Fit (LDM-151 8.13.2): displacements that neighbouring stars share.

The atmosphere displaces neighbouring stars together (Fortino et al. 2021, AJ 162, 106), and so does a distortion that
the model does not have. The fit follows part of it: its parameters are less certain than independent errors would
make them, and residuals show less of it than there is. Variance and length of the correlation are therefore found by
restricted maximum likelihood (Patterson and Thompson 1971, Biometrika 58, 545) of means over cells, which knows what
the fit has taken out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from skyquilt.algorithms.astrometric_fitting.normal_equations import accumulate

_MOST_CELLS = 300
_MOST_DETECTORS = 60
_IN_CELL = 0.52
"""Mean distance of two points of a square, over its side."""


@dataclass(frozen=True)
class Correlation:
    """Covariance of two stars' displacements along an axis: variance exp(-(distance / length)^power / power).

    Parameters
    ----------
    variance : float [arcsec^2]
        0: none is seen.
    length : float [arcsec]
    power : int
        1 for a rough field, 2 for a smooth one.
    """

    variance: float
    length: float
    power: int = 1

    def between(self, distance: np.ndarray) -> np.ndarray:
        """Covariance [arcsec^2] at distances [arcsec]."""
        return self.variance * np.exp(-((distance / self.length) ** self.power) / self.power)


@dataclass(frozen=True)
class Cells:
    """Weighted means of stars near together, each cell in one detector.

    Parameters
    ----------
    residual, place : ndarray, shape (c, 2) [arcsec]
    design : ndarray, shape (c, 2, m)
        Of the visit's terms, then those of each detector that has cells.
    weight : ndarray, shape (c,)
        Sum of the weights of the stars.
    count : ndarray of int, shape (c,)
    side : float
        [arcsec].
    n_detector : int
        Detectors that have cells.
    """

    residual: np.ndarray
    place: np.ndarray
    design: np.ndarray
    weight: np.ndarray
    count: np.ndarray
    side: float
    n_detector: int


def make_cells(
    residual: np.ndarray,
    visit: np.ndarray,
    local: np.ndarray,
    place: np.ndarray,
    row: np.ndarray,
    variance: np.ndarray,
) -> Cells:
    """Means over cells of all stars, or of those of some sixty detectors.

    Parameters
    ----------
    residual, place : ndarray, shape (n, 2) [arcsec]
    visit, local : ndarray, shapes (n, 2, p), (n, 2, q)
        Design.
    row : ndarray of int, shape (n,)
        Detector of each star.
    variance : ndarray, shape (n,) [arcsec^2]
        Of each star's coordinate.
    """
    live = np.unique(row)
    live = live[:: -(-len(live) // _MOST_DETECTORS)]
    part = np.isin(row, live)
    residual, visit, local, place, row = (each[part] for each in (residual, visit, local, place, row))
    weight = 1.0 / variance[part]
    extent = max(float(np.ptp(place[row == d], axis=0).max()) for d in live)
    side = max(extent, 1e-6) / max(1, int(np.sqrt(_MOST_CELLS / len(live))))
    square = np.floor((place - place.min(axis=0)) / side).astype(np.int64)
    number = row * (1 << 40) + square[:, 1] * (1 << 20) + square[:, 0]
    known, number = np.unique(number, return_inverse=True)
    order = np.argsort(number, kind="stable")
    start = np.searchsorted(number[order], np.arange(len(known)))
    sums = np.add.reduceat(weight[order], start)

    def mean(values: np.ndarray) -> np.ndarray:
        shape = (-1,) + (1,) * (values.ndim - 1)
        total = np.add.reduceat(values[order] * weight[order].reshape(shape), start, axis=0)
        return total / sums.reshape(shape)

    of_cell = np.searchsorted(live, row[order][start])
    design = _in_own_columns(mean(visit), mean(local), of_cell, len(live))
    count = np.bincount(number)
    return Cells(mean(residual), mean(place), design, sums, count, side, len(live))


def _in_own_columns(visit: np.ndarray, local: np.ndarray, row: np.ndarray, n_detector: int) -> np.ndarray:
    """Design (n, 2, p + d q) with each detector's terms in their own columns."""
    n, _, p = visit.shape
    q = local.shape[2]
    design = np.zeros((n, 2, p + n_detector * q))
    design[:, :, :p] = visit
    for k in range(q):
        design[np.arange(n), :, p + row * q + k] = local[:, :, k]
    return design


def correlation_of(
    cells: Cells, precision: np.ndarray, own_precision: np.ndarray, scatter: float, radius: float
) -> Correlation:
    """The correlation for which the restricted likelihood is largest.

    Parameters
    ----------
    cells : Cells
        Of residuals from parameters zero.
    precision, own_precision : ndarray, shapes (p,), (q,)
        1 / variance of the priors of the visit's terms and a detector's.
    scatter : float
        Intrinsic scatter that the stars' weights have [arcsec].
    radius : float
        Of the field [arcsec].
    """
    if len(cells.count) < 12 or not scatter > 0:
        return Correlation(0.0, radius)
    precision = np.concatenate([precision, np.tile(own_precision, cells.n_detector)])
    apart = cells.place[:, None] - cells.place[None]
    # stars of a cell are apart too; in this form the covariance stays positive definite (Schoenberg)
    distance = np.sqrt((apart**2).sum(axis=2) + (_IN_CELL * cells.side) ** 2)

    def tried(ratio: float, length: float, power: int) -> tuple[float, Correlation]:
        correlation = Correlation(ratio * scatter**2, float(length), power)
        # what is correlated is not independent as well
        white = (1.0 - min(ratio, 0.9) * scatter**2 * cells.weight / cells.count) / cells.weight
        white = np.maximum(white, 0.1 / cells.weight)
        kernel = correlation.between(distance)
        kernel[np.diag_indices_from(kernel)] += white
        return _restricted_likelihood(cells, kernel, precision), correlation

    results = [tried(0.0, radius, 1)]
    for power in (1, 2):
        for length in radius * np.array([0.03, 0.07, 0.15, 0.3, 0.6]):
            results += [tried(ratio, length, power) for ratio in (0.1, 0.3, 1.0, 3.0, 9.0)]
    for step in (1.5, 1.2):
        _, best = max(results, key=lambda result: result[0])
        if best.variance == 0:
            break
        ratio = best.variance / scatter**2
        for more in (1.0 / step, 1.0, step):
            results += [
                tried(ratio * more, best.length * longer, best.power) for longer in (1.0 / step, 1.0, step)
            ]
    return max(results, key=lambda result: result[0])[1]


def _restricted_likelihood(cells: Cells, kernel: np.ndarray, precision: np.ndarray) -> float:
    """Logarithm, up to a constant, of the likelihood of both axes with the parameters integrated out."""
    c, _, m = cells.design.shape
    factor = cho_factor(kernel, lower=True, check_finite=False)
    right = np.concatenate([cells.residual, cells.design.reshape(c, 2 * m)], axis=1)
    solved = cho_solve(factor, right, check_finite=False)
    square, gradient, information = 0.0, np.zeros(m), np.diag(precision)
    for axis in range(2):
        design, residual = cells.design[:, axis], cells.residual[:, axis]
        of_design = solved[:, 2 + axis * m : 2 + (axis + 1) * m]
        square += float(residual @ solved[:, axis])
        gradient += of_design.T @ residual
        information = information + design.T @ of_design
    of_parameters = cho_factor(0.5 * (information + information.T), lower=True, check_finite=False)
    square -= float(gradient @ cho_solve(of_parameters, gradient, check_finite=False))
    logs = 4.0 * np.log(np.diag(factor[0])).sum() + 2.0 * np.log(np.diag(of_parameters[0])).sum()
    return float(-0.5 * (logs + square))


def correlated_products(
    visit: np.ndarray,
    local: np.ndarray,
    row: np.ndarray,
    n_detector: int,
    plane: np.ndarray,
    correlation: Correlation,
    counted: float,
) -> np.ndarray:
    """Sum over pairs of stars of gradient_i covariance_ij gradient_j, shape (p + d q, p + d q).

    Stars of a detector in cells of a third of the correlation length are taken as one.

    Parameters
    ----------
    visit, local : ndarray, shapes (n, 2, p), (n, 2, q)
        Gradient: weighted design of the visit's terms and the own detector's.
    row : ndarray of int, shape (n,)
        Detector of each star, ascending.
    n_detector : int
    plane : ndarray, shape (n, 2) [arcsec]
    correlation : Correlation
    counted : float
        Of a star's own correlated variance, what its weight has counted already as independent [arcsec^2].
    """
    p, q = visit.shape[2], local.shape[2]
    size = p + n_detector * q
    if correlation.variance == 0:
        return np.zeros((size, size))
    # bounded work: about a thousand cells where there are many terms
    most = 50.0 if size < 600 else 30.0
    side = max(correlation.length / 3.0, float(np.ptp(plane, axis=0).max()) / most)
    square = np.floor((plane - plane.min(axis=0)) / side).astype(np.int64)
    number = row * (1 << 40) + square[:, 1] * (1 << 20) + square[:, 0]
    known, number = np.unique(number, return_inverse=True)
    order = np.argsort(number, kind="stable")
    start = np.searchsorted(number[order], np.arange(len(known)))
    count = np.bincount(number)
    middle = np.column_stack([np.bincount(number, axis) / count for axis in plane.T])
    apart = ((middle[:, None] - middle[None]) ** 2).sum(axis=2)
    kernel = correlation.between(np.sqrt(apart + (_IN_CELL * side) ** 2))
    total = np.zeros((size, size))
    for axis in range(2):
        sums = np.add.reduceat(visit[order, axis], start, axis=0)[:, None]
        own = (
            np.add.reduceat(local[order, axis], start, axis=0)[:, None] if q else np.zeros((len(known), 1, 0))
        )
        whole = _in_own_columns(sums.repeat(2, 1), own.repeat(2, 1), row[order][start], n_detector)[:, 0]
        total += whole.T @ kernel @ whole
    alone = accumulate(visit, local, np.zeros(visit.shape[:2]), row, n_detector)
    return total - min(counted, correlation.variance) * alone.dense()
