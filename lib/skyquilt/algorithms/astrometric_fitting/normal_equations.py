"""Single Visit Astrometric Fit (LDM-151 8.13.2): normal equations of terms of the visit and terms of detectors.

Each star knows the visit's terms and its own detector's: the matrix has an arrow's shape, and detectors are
eliminated one by one (Schur complement), so the cost grows with their number and not with its cube.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class NormalEquations:
    """Sums over stars of weighted products; added over parts of the stars.

    Parameters
    ----------
    visit : ndarray, shape (p, p)
    cross : ndarray, shape (d, q, p)
        Terms of each detector with those of the visit.
    local : ndarray, shape (d, q, q)
    right_visit, right_local : ndarray, shapes (p,), (d, q)
    coordinates : int
        Twice the number of stars.
    """

    visit: np.ndarray
    cross: np.ndarray
    local: np.ndarray
    right_visit: np.ndarray
    right_local: np.ndarray
    coordinates: int

    def __sub__(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(*(a - b for a, b in zip(vars(self).values(), vars(other).values())))

    def __add__(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))

    def dense(self) -> np.ndarray:
        """The whole matrix, shape (p + d q, p + d q)."""
        n, q, p = self.cross.shape
        cross = self.cross.reshape(n * q, p)
        matrix = np.block([[self.visit, cross.T], [cross, np.zeros((n * q, n * q))]])
        for d in range(n):
            own = slice(p + d * q, p + (d + 1) * q)
            matrix[own, own] = self.local[d]
        return matrix

    def chosen(self, columns: np.ndarray, own: np.ndarray) -> NormalEquations:
        """The equations of some terms only."""
        return NormalEquations(
            self.visit[np.ix_(columns, columns)],
            self.cross[:, own][:, :, columns],
            self.local[:, own][:, :, own],
            self.right_visit[columns],
            self.right_local[:, own],
            self.coordinates,
        )


@dataclass(frozen=True)
class Solved:
    """Parameters and their covariance.

    Parameters
    ----------
    visit, local : ndarray, shapes (p,), (d, q)
        Parameters.
    covariance : ndarray, shape (p, p)
        Of the visit's.
    pull : ndarray, shape (d, q, p)
        Local covariances are inner_d + pull_d covariance pull_d^T; with the visit's -pull_d covariance.
    inner : ndarray, shape (d, q, q)
    """

    visit: np.ndarray
    local: np.ndarray
    covariance: np.ndarray
    pull: np.ndarray
    inner: np.ndarray

    def of_detectors(self) -> np.ndarray:
        """Covariance of (visit, own detector's) parameters of each detector, shape (d, p + q, p + q)."""
        cross = -self.pull @ self.covariance
        own = self.inner - cross @ self.pull.swapaxes(1, 2)
        top = np.broadcast_to(self.covariance, (len(own), *self.covariance.shape))
        return np.block([[top, cross.swapaxes(1, 2)], [cross, own]])


def accumulate(
    visit: np.ndarray, local: np.ndarray, residual: np.ndarray, row: np.ndarray, n_detector: int
) -> NormalEquations:
    """Normal equations of whitened rows.

    Parameters
    ----------
    visit, local : ndarray, shapes (n, 2, p), (n, 2, q)
        Design, each star's two rows divided by its errors.
    residual : ndarray, shape (n, 2)
        In units of its errors.
    row : ndarray of int, shape (n,)
        Detector of each star, ascending.
    n_detector : int
    """
    n, _, p = visit.shape
    q = local.shape[2]
    edges = np.searchsorted(row, np.arange(n_detector + 1))
    all_rows = np.ascontiguousarray(visit.reshape(2 * n, p))
    own_rows, right = local.reshape(2 * n, q), residual.ravel()
    cross, own = np.zeros((n_detector, q, p)), np.zeros((n_detector, q, q))
    right_own = np.zeros((n_detector, q))
    for d in range(n_detector):
        part = slice(2 * edges[d], 2 * edges[d + 1])
        cross[d] = own_rows[part].T @ all_rows[part]
        own[d] = own_rows[part].T @ own_rows[part]
        right_own[d] = own_rows[part].T @ right[part]
    return NormalEquations(all_rows.T @ all_rows, cross, own, all_rows.T @ right, right_own, 2 * n)


def solve(equations: NormalEquations, precision: np.ndarray, own_precision: np.ndarray) -> Solved:
    """Least squares with Gaussian priors of mean zero.

    Parameters
    ----------
    precision, own_precision : ndarray, shapes (p,), (q,)
        1 / variance of the priors, positive.
    """
    local = equations.local + np.diag(own_precision)
    inner = np.linalg.inv(local)
    pull = inner @ equations.cross
    first = np.einsum("dij,dj->di", inner, equations.right_local)
    reduced = (
        equations.visit + np.diag(precision) - np.einsum("dqp,dqr->pr", equations.cross, pull, optimize=True)
    )
    right = equations.right_visit - np.einsum("dqp,dq->p", equations.cross, first)
    # unit diagonal before inverting: terms differ by orders of magnitude in what is known of them
    # never less is known than the prior says; rounding may say so
    size = 1.0 / np.sqrt(np.maximum(np.diag(reduced), precision))
    covariance = np.linalg.inv(reduced * size[:, None] * size[None, :]) * size[:, None] * size[None, :]
    parameters = covariance @ right
    return Solved(parameters, first - pull @ parameters, covariance, pull, inner)
