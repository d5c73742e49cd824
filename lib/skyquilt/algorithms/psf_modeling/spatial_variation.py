"""Model Spatial Variation of PSF (LDM-151 8.11): how the profile's coefficients go over detector and focal plane.

The visit's model is a polynomial over the focal plane (8.11.2) with a colour term, each detector with enough
stars has a polynomial of its own beside it (8.11.1). Degrees follow the number of stars: `stars_per_term` for
each polynomial term. Within them the stars themselves tell how much varies: coefficients of one degree and one
angular order have a normal prior about zero, whose width is the one under which the data are most probable
(MacKay 1992, Neural Computation 4, 415). Faint stars give a smooth model, bright ones all that they show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.kernels import polynomial_powers

_MOST_CHANGE = 30.0
"""Widths of priors are found within this factor of the expected ones."""


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """What stars say about their own profiles: rows (n, m, m) and (n, m) of normal equations."""

    matrix: np.ndarray
    gradient: np.ndarray


def degree_for(n_stars: int, stars_per_term: float, most: int) -> int:
    """Largest degree with enough stars for each of its terms, -1 when there are not enough for a constant."""
    degree = -1
    while degree < most and n_stars >= stars_per_term * len(polynomial_powers(degree + 1)):
        degree += 1
    return degree


def terms(u: np.ndarray, v: np.ndarray, degree: int) -> np.ndarray:
    """Polynomial terms up to a total degree at places (n,) in -1..1, shape (n, n_term)."""
    return np.array([u**p * v**q for p, q in polynomial_powers(degree)]).T.reshape(len(u), -1)


def term_degrees(degree: int) -> np.ndarray:
    """Total degree of each term, shape (n_term,)."""
    return polynomial_powers(degree).sum(axis=1)


class Accumulated:
    """Normal equations of coefficients (n_term, m), summed over stars.

    Parameters
    ----------
    n_term, n_change : int
    """

    def __init__(self, n_term: int, n_change: int) -> None:
        self.n_term, self.n_change = n_term, n_change
        self._pairs = np.triu_indices(n_term)
        self.matrix = np.zeros((len(self._pairs[0]), n_change * n_change))
        self.gradient = np.zeros((n_term, n_change))

    def add(self, values: np.ndarray, equations: NormalEquations) -> None:
        """Stars whose terms are `values` (n, n_term)."""
        products = values[:, self._pairs[0]] * values[:, self._pairs[1]]
        self.matrix += products.T @ equations.matrix.reshape(len(values), -1)
        self.gradient += values.T @ equations.gradient

    def solve(
        self, now: np.ndarray, expected: np.ndarray, groups: np.ndarray, rounds: int = 6
    ) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (n_term, m) and the widths that their priors came to have.

        Parameters
        ----------
        now : ndarray, shape (n_term, m)
            Coefficients about which the equations were taken.
        expected : ndarray, shape (n_term, m)
            Standard deviation of each before stars tell.
        groups : ndarray of int64, shape (n_term, m)
            Coefficients of one number share the factor by which `expected` is changed; -1: it is kept.
        rounds : int
            Of finding the factors.
        """
        from scipy.linalg import cho_factor, cho_solve
        from scipy.linalg.lapack import dpotri

        size = self.n_term * self.n_change
        whole = self._whole()
        drive = whole @ now.ravel() + self.gradient.ravel()
        width, group = expected.ravel().copy(), groups.ravel()
        start = width.copy()
        members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
        for round_ in range(rounds + 1):
            # in units of the widths the prior is the unit matrix
            system = whole * width[:, None] * width
            system[np.arange(size), np.arange(size)] += 1.0
            factor = cho_factor(system, lower=True, overwrite_a=True)
            scaled = cho_solve(factor, drive * width)
            if round_ == rounds or not members:
                break
            uncertain = np.diagonal(dpotri(factor[0], lower=1)[0])
            for rows in members:
                told = max(float(rows.size - uncertain[rows].sum()), 1e-3)
                change = math.sqrt(float((scaled[rows] ** 2).sum()) / told)
                low, high = start[rows[0]] / _MOST_CHANGE, start[rows[0]] * _MOST_CHANGE
                width[rows] *= min(max(width[rows[0]] * change, low), high) / width[rows[0]]
        shape = (self.n_term, self.n_change)
        return (scaled * width).reshape(shape), width.reshape(shape)

    def _whole(self) -> np.ndarray:
        size = self.n_term * self.n_change
        blocks = self.matrix.reshape(-1, self.n_change, self.n_change)
        whole = np.empty((self.n_term, self.n_change, self.n_term, self.n_change))
        for k, (i, j) in enumerate(zip(*self._pairs)):
            whole[i, :, j] = blocks[k]
            whole[j, :, i] = blocks[k].T
        return whole.reshape(size, size)


def prior_groups(degrees: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Groups of `Accumulated.solve`: one for each degree from 1 and angular order; constants keep theirs.

    Parameters
    ----------
    degrees : ndarray of int64, shape (n_term,)
    order : ndarray of int64, shape (m,)
    """
    most = int(order.max()) + 1
    numbers = (degrees[:, None] - 1) * most + order
    return np.where(degrees[:, None] > 0, numbers, -1)
