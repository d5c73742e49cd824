"""Full Visit PSF Estimation (LDM-151 8.10.1): the profiles that are PSFs - of unit flux, centred on their star.

Centre: the first moments of a profile under one round Gaussian (in the axes of the focal plane, of the width
of the visit's stars) vanish. Flux: the integral to infinity is 1. Both are linear in the coefficients of the
basis, and hold exactly at every place and colour, because all that varies is taken from profiles that have
neither flux nor first moments. Stars' places are by this rule the same on all of the focal plane, and no
change of the PSF can take up an error of the WCS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.profile_basis import ProfileBasis, coarse_splines, spline_values

_ROUND, _ANGULAR, _VARYING = 1.0, 0.1, 0.05
"""Expected relative size of changes before stars tell: of the round part about its start, of the rest, and
over the field."""

_SMOOTH = 3.0
"""Changes of a profile are alike over so many fine knot intervals (a width of 1.8 in ln(1 + q))."""

_ROUGH = 0.1
"""Share of changes that differ from knot to knot."""


@dataclass(frozen=True, eq=False)
class ProfileSpace:
    """Profiles base + changes @ a: of unit flux and centred for every vector a (n_change,).

    The changes are scaled and mixed such that vectors of independent numbers of unit variance are relative
    changes of the profile which are smooth in ln(1 + q), as changes of width and shape are.

    Parameters
    ----------
    basis : ProfileBasis
    base : ndarray, shape (basis.size,)
    changes : ndarray, shape (basis.size, n_change)
    order : ndarray of int64, shape (n_change,)
        Angular order m of each change.
    """

    basis: ProfileBasis
    base: np.ndarray
    changes: np.ndarray
    order: np.ndarray

    @property
    def n_change(self) -> int:
        """Number of free coefficients."""
        return self.changes.shape[1]

    def expected(self, degrees: np.ndarray) -> np.ndarray:
        """Standard deviation of coefficients of terms of these total degrees, (n_term, n_change)."""
        constant = np.where(self.order == 0, _ROUND, _ANGULAR)
        varying = np.full(self.n_change, _VARYING)
        return np.array([varying / degree if degree else constant for degree in degrees])


def flux_of(basis: ProfileBasis, coefficients: np.ndarray) -> float:
    """Integral over the plane of a profile."""
    return float(basis.radial(0) @ coefficients.reshape(basis.n_radial, -1)[:, 0])


def centroid_of(basis: ProfileBasis, coefficients: np.ndarray, sigma: float) -> tuple[float, float]:
    """Integrals of (u, v) times a profile times a round Gaussian of width sigma."""
    if basis.order == 0:
        return 0.0, 0.0
    moment = 0.5 * basis.radial(1, sigma, 1)
    rows = coefficients.reshape(basis.n_radial, -1)
    return float(moment @ rows[:, 1]), float(moment @ rows[:, 2])


def profile_space(basis: ProfileBasis, sigma: float, fwhm: float) -> ProfileSpace:
    """The space about a Moffat profile of exponent 3.

    Parameters
    ----------
    sigma : float
        Width of the Gaussian that defines the centre [pixel].
    fwhm : float
        Of the profile to start from [pixel].
    """
    n_radial, n_harmonic = basis.n_radial, basis.n_harmonic
    fine = _level_at_end(n_radial)
    coarse = coarse_splines(basis.n_interval) @ _level_at_end(basis.n_interval // 2 + 3)
    base = fine @ _moffat(basis, fwhm, fine)
    knot = np.arange(n_radial)
    alike = np.exp(-0.5 * ((knot[:, None] - knot) / _SMOOTH) ** 2) + _ROUGH**2 * np.eye(n_radial)
    covariance = alike * base[:, None] * base
    columns, order = [], []
    for h in range(n_harmonic):
        splines = fine if h == 0 else coarse
        if h == 0:
            splines = splines @ _without(basis.radial(0) @ splines)
        elif h <= 2:
            splines = splines @ _without(basis.radial(1, sigma, 1) @ splines)
        inside = np.linalg.pinv(splines)
        splines = splines @ np.linalg.cholesky(inside @ covariance @ inside.T)
        for spline in splines.T:
            column = np.zeros((n_radial, n_harmonic))
            column[:, h] = spline
            columns.append(column.ravel())
            order.append((h + 1) // 2)
    whole = np.zeros((n_radial, n_harmonic))
    whole[:, 0] = base
    flux = flux_of(basis, whole)
    return ProfileSpace(basis, whole.ravel() / flux, np.array(columns).T / flux, np.array(order))


def _moffat(basis: ProfileBasis, fwhm: float, splines: np.ndarray) -> np.ndarray:
    """Coefficients of the round splines for the Moffat profile over the power law."""
    t = np.linspace(0, basis.n_interval, 20 * basis.n_interval)
    q = np.expm1(t * basis.step)
    radius2 = q * basis.scale**2
    core2 = (0.5 * fwhm) ** 2 / (2 ** (1 / 3) - 1)
    ratio = (1 + radius2 / core2) ** -3.0 * (1 + q) ** (11 / 6)
    return np.linalg.lstsq(spline_values(t, basis.n_interval) @ splines, ratio, rcond=None)[0]


def _level_at_end(n: int) -> np.ndarray:
    """The last three splines as one, so that profiles join their wings with the slope of the power law."""
    merged = np.zeros((n, n - 2))
    merged[np.arange(n - 2), np.arange(n - 2)] = 1
    merged[-2:, -1] = 1
    return merged


def _without(functional: np.ndarray) -> np.ndarray:
    """Orthonormal vectors on which a functional vanishes, shape (n, n - 1); a reflection, hence reproducible."""
    n = functional.size
    unit = functional / np.linalg.norm(functional)
    sign = 1.0 if unit[0] >= 0 else -1.0
    mirror = unit.copy()
    mirror[0] += sign
    return (np.eye(n) - 2 * np.outer(mirror, mirror) / (mirror @ mirror))[:, 1:]
