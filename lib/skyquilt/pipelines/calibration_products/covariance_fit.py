"""Calibration Products Production (LDM-151 4.1.2.3): the model of variance and covariances against level.

Astier et al. 2019 (A&A 629, A36), equations 15 and 20 with b = 0: charge Q that has gathered in the pixel at
lag (i, j) changes the area of a pixel by a_ij Q. With it the power spectrum of the noise of a flat of level mu
electrons is, at every spatial frequency and exactly::

    P(mu) = (exp(2 a mu) - 1) / (2 a) + n^2         a: transform of a_ij [1 / electron]

of which C_ij = mu (delta + a_ij mu + 2/3 (a*a)_ij mu^2 + ...) is the series.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CovarianceFit:
    """Result of `fit_covariances` for one amplifier.

    Parameters
    ----------
    gain, gain_error : float
        [electron / ADU].
    noise, noise_error : float
        Variance of what does not depend on the light [ADU^2].
    a, a_error : ndarray of float64, shape (lags, lags)
        [1 / electron].
    chi_square : float
        Of all covariances, per degree of freedom.
    model : ndarray of float64, shape (pairs, lags, lags)
        [ADU^2].
    """

    gain: float
    gain_error: float
    noise: float
    noise_error: float
    a: np.ndarray
    a_error: np.ndarray
    chi_square: float
    model: np.ndarray


def folded(quadrant: np.ndarray) -> np.ndarray:
    """The whole symmetric grid, shape (2 r + 1, 2 r + 1), of lags 0 .. r."""
    half = np.concatenate([quadrant[:0:-1], quadrant])
    return np.concatenate([half[:, :0:-1], half], axis=1)


def covariance_model(levels: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Covariances without read noise, shape (levels, lags, lags), for levels [electron] and a [1 / electron].

    The sum of a need not vanish: what it lacks is charge from beyond the lags.
    """
    lags = a.shape[0]
    size = 1 << math.ceil(math.log2(6 * lags))
    transform = np.fft.rfft2(_around_origin(a, size)).real
    exponent = 2 * transform * np.asarray(levels)[:, None, None]
    # expm1(x) / x, whose limit at 0 is 1
    small = np.abs(exponent) < 1e-12
    growth = np.where(small, 1.0, np.expm1(exponent) / np.where(small, 1.0, exponent))
    noise = np.fft.irfft2(growth, s=(size, size))[:, :lags, :lags]
    return noise * np.asarray(levels)[:, None, None]


def _around_origin(quadrant: np.ndarray, size: int) -> np.ndarray:
    """The symmetric grid of a quadrant with lag 0 at [0, 0], periodic."""
    lags = quadrant.shape[0]
    place = np.abs((np.arange(size) + size // 2) % size - size // 2)
    padded = np.zeros((size // 2 + 1, size // 2 + 1))
    padded[:lags, :lags] = quadrant
    return padded[np.ix_(place, place)]


def fit_covariances(
    levels: np.ndarray,
    covariances: np.ndarray,
    errors: np.ndarray,
    noise: float,
    noise_error: float,
    noise_factor: np.ndarray | None = None,
    gain: float | None = None,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
) -> CovarianceFit:
    """Gain, noise and a_ij of one amplifier from all its covariances at once, by least squares.

    Parameters
    ----------
    levels : ndarray, shape (pairs,)
        [ADU], at least two that differ.
    covariances, errors : ndarray, shape (pairs, lags, lags)
        [ADU^2].
    noise, noise_error : float
        Measured variance of the read noise [ADU^2], a datum of the fit; NaN when not measured.
    noise_factor : ndarray, shape (pairs,), optional
        Share of the read noise in each variance, 1 by default.
    gain : float, optional
        Held at this value [electron / ADU] when given.
    prior : (ndarray, ndarray), optional
        What is known of a_ij from elsewhere, and its errors, shape (lags, lags) [1 / electron].
    """
    from scipy.optimize import least_squares

    lags, top = covariances.shape[1], float(levels.max())
    factor = np.ones(levels.size) if noise_factor is None else noise_factor
    start_noise = noise if math.isfinite(noise) else 0.0
    line = _straight_line(levels, covariances[:, 0, 0] - start_noise, errors[:, 0, 0])
    # variance in units of the expected noise, a in units of 1 / (largest level): all parameters near 1
    unit = max(start_noise, 1.0)
    first = gain or 1 / max(line[0], 1e-6)
    begin = np.zeros(lags * lags + 2)
    begin[0], begin[1] = 1.0, start_noise / unit
    begin[2] = line[1] / max(line[0], 1e-6) * top

    def model(parameters: np.ndarray) -> np.ndarray:
        inverse = 1 / first if gain else parameters[0] / first
        shapes = covariance_model(levels / top, parameters[2:].reshape(lags, lags))
        result = inverse * top * shapes
        result[:, 0, 0] += parameters[1] * unit * factor
        return result

    def residuals(parameters: np.ndarray) -> np.ndarray:
        own = ((covariances - model(parameters)) / errors).ravel()
        known = (parameters[1] * unit - noise) / noise_error if math.isfinite(noise) else 0.0
        held = parameters[0] - 1 if gain else 0.0
        electrons = top * (gain or first / parameters[0])
        elsewhere = (
            [] if prior is None else (parameters[2:] / electrons - prior[0].ravel()) / prior[1].ravel()
        )
        return np.concatenate([own, [known, held], elsewhere])

    found = least_squares(residuals, begin, method="trf", x_scale="jac")
    covariance = _covariance(found.jac)
    n_known = math.isfinite(noise) + (0 if prior is None else lags * lags)
    chi_square = 2 * found.cost / max(covariances.size - begin.size + n_known, 1)
    value, sigma = found.x, np.sqrt(np.diag(covariance))
    best = gain if gain else first / value[0]
    per_electron = 1 / (best * top)
    return CovarianceFit(
        best,
        0.0 if gain else best * sigma[0] / abs(value[0]),
        value[1] * unit,
        sigma[1] * unit,
        value[2:].reshape(lags, lags) * per_electron,
        sigma[2:].reshape(lags, lags) * per_electron,
        float(chi_square),
        model(value),
    )


def area_changes_of_others(fits: Sequence[CovarianceFit]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each of several amplifiers: a_ij that the others predict, and its error [1 / electron].

    How far amplifiers differ beyond their errors is part of the error (DerSimonian and Laird 1986).
    """
    a, variance = np.array([fit.a for fit in fits]), np.array([fit.a_error for fit in fits]) ** 2
    weights = 1 / variance
    total = weights.sum(axis=0)
    excess = (weights * (a - (weights * a).sum(axis=0) / total) ** 2).sum(axis=0) - (len(fits) - 1)
    scatter = np.maximum(excess, 0.0) / (total - (weights**2).sum(axis=0) / total)
    result = []
    for k in range(len(fits)):
        others = np.arange(len(fits)) != k
        weights = 1 / (variance[others] + scatter)
        total = weights.sum(axis=0)
        result.append(((weights * a[others]).sum(axis=0) / total, np.sqrt(1 / total + scatter)))
    return result


def _straight_line(levels: np.ndarray, variances: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Slope at 0 and curvature of variance = slope level + curvature level^2: where the fit starts."""
    design = np.column_stack([levels, levels**2]) / errors[:, None]
    solution = np.linalg.lstsq(design / np.array([levels.max(), levels.max() ** 2]), variances / errors)[0]
    return float(solution[0] / levels.max()), float(solution[1] / levels.max() ** 2)


def _covariance(jacobian: np.ndarray) -> np.ndarray:
    """Inverse of the normal matrix; a parameter without data gets an infinite variance."""
    scale = np.sqrt((jacobian**2).sum(axis=0))
    known = scale > 0
    scaled = jacobian[:, known] / scale[known]
    result = np.full((scale.size, scale.size), np.inf)
    result[np.ix_(known, known)] = np.linalg.pinv(scaled.T @ scaled) / np.outer(scale[known], scale[known])
    return result
