"""Calibration Products Production (LDM-151 4.1.2.3): response curves of amplifiers that see one lamp.

With v the stored level, t the exposure time and ``v exp(H(v))`` the linear level, H(0) = 0::

    ln(v / t) = ln F - H(v) + e + noise

F is the lamp's light in the amplifier (free) and e the lamp's own deviation in the frame, the same in all
amplifiers: jitter plus a random walk in time. H is the curve of the amplifier, one part common to all (they
are built alike) and one its own, each a line through 0 plus an integrated Wiener process, of which the
posterior mean is a cubic smoothing spline (Wahba 1978; Rasmussen and Williams 2006, 6.3). How smooth and how
steady is found by the restricted likelihood, in which the free F are integrated out. All is linear
and Gaussian; amplifiers are eliminated one by one, so the cost is amplifiers x frames^3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_SLOPE = 0.3
"""Prior standard deviation of the straight part of a curve at the largest level."""
_KNOTS = np.linspace(0, 1, 49)[1:]
"""Levels at which the common curve is known; between them it is interpolated."""
_RANGES = ((1e-6, 0.1), (1e-7, 0.1), (1e-4, 3.0), (1e-4, 3.0))
"""Least and largest jitter, drift, curvature of the common and of the own parts."""
_CURVATURE = 0.03
_WIDTHS = np.array([1.0, 1.0, 2.3, 2.3])
"""Widths of the log-normal priors; they count only where levels are few."""


@dataclass(frozen=True)
class Response:
    """Points of one amplifier.

    Parameters
    ----------
    frames : ndarray of int, shape (k,)
        Numbers of the frames.
    levels : ndarray of float64, shape (k,)
        Over the largest of all amplifiers.
    values : ndarray of float64, shape (k,)
        ln(v / t).
    noise : ndarray of float64, shape (k,)
        Variance of the values, the lamp's not included.
    """

    frames: np.ndarray
    levels: np.ndarray
    values: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True)
class Curves:
    """What was fitted.

    Parameters
    ----------
    jitter, drift : float
        Standard deviations: of the lamp between frames, of the lamp's walk over all frames; relative.
    curvature : (float, float)
        Standard deviation of the common and of the own processes at level 1, relative.
    lamp, lamp_error : ndarray of float64, shape (frames,)
        Deviation of the lamp in each frame, relative; 0 expected.
    """

    jitter: float
    drift: float
    curvature: tuple[float, float]
    lamp: np.ndarray
    lamp_error: np.ndarray
    _shared: np.ndarray
    _covariance: np.ndarray
    _projections: tuple[np.ndarray, ...]
    _responses: tuple[Response, ...]

    def at(self, number: int, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """H and its standard error for amplifier `number`, at levels over the largest."""
        response, projection = self._responses[number], self._projections[number]
        design = _design(response, self.lamp.size)
        cross = process_covariance(levels, response.levels, self.curvature[1])
        weights = cross @ projection
        common = np.concatenate([np.zeros((len(levels), self.lamp.size)), _interpolation(levels)], axis=1)
        own = weights @ (response.values - design @ self._shared)
        change = common - weights @ design
        # the diagonal of `process_covariance`: the whole of it is the square of many levels
        variance = (_SLOPE * levels) ** 2 + self.curvature[1] ** 2 * levels**3
        variance = (
            variance - (weights * cross).sum(axis=1) + ((change @ self._covariance) * change).sum(axis=1)
        )
        return -(own + common @ self._shared), np.sqrt(np.maximum(variance, 0.0))

    def slope_error(self, number: int, levels: np.ndarray, step: float) -> np.ndarray:
        """Standard error of (H(v + step) - H(v)) / step for amplifier `number`, at levels over the largest."""
        response, projection = self._responses[number], self._projections[number]
        levels = np.asarray(levels, np.float64)
        above = levels + step
        curvature = self.curvature[1]
        cross = process_covariance(above, response.levels, curvature)
        cross = (cross - process_covariance(levels, response.levels, curvature)) / step
        weights = cross @ projection
        common = (_interpolation(above) - _interpolation(levels)) / step
        common = np.concatenate([np.zeros((len(levels), self.lamp.size)), common], axis=1)
        change = common - weights @ _design(response, self.lamp.size)
        # variance of the difference of an integrated Wiener process, elementwise
        variance = (
            _SLOPE**2 + curvature**2 * (above**3 + levels**3 - levels**2 * (3 * above - levels)) / step**2
        )
        variance = (
            variance - (weights * cross).sum(axis=1) + ((change @ self._covariance) * change).sum(axis=1)
        )
        return np.sqrt(np.maximum(variance, 0.0))

    def residuals(self, number: int) -> np.ndarray:
        """ln(v / t) less curve, light and lamp, of the points of amplifier `number`."""
        response = self._responses[number]
        rest = response.values + self.at(number, response.levels)[0] - self.lamp[response.frames]
        return rest - np.average(rest, weights=1 / response.noise)


def process_covariance(u: np.ndarray, v: np.ndarray, curvature: float) -> np.ndarray:
    """Covariance of H at levels u (rows) and v (columns): line through 0 and integrated Wiener process."""
    u, v = np.asarray(u)[:, None], np.asarray(v)[None, :]
    low, high = np.minimum(u, v), np.maximum(u, v)
    # the factor makes the process' standard deviation `curvature` at level 1
    return _SLOPE**2 * u * v + curvature**2 * 0.5 * low**2 * (3 * high - low)


def fit_response_curves(responses: list[Response], times: np.ndarray, expected_jitter: float) -> Curves:
    """Curves of all amplifiers and the lamp's deviations in all frames.

    Parameters
    ----------
    responses : list of Response
    times : ndarray of float64, shape (frames,)
        Of the frames, from 0 to 1; all 0 when they are not known.
    expected_jitter : float
        Prior of the lamp's jitter: log-normal about this with a width of a factor e; it counts only where
        levels are few.
    """
    from scipy.optimize import minimize

    centre = np.log([expected_jitter, expected_jitter, _CURVATURE, _CURVATURE])
    low, high = np.log(np.array(_RANGES)).T

    def cost(logarithms: np.ndarray) -> float:
        inside = np.clip(logarithms, low, high)
        prior = 0.5 * float((((logarithms - centre) / _WIDTHS) ** 2).sum())
        return _eliminate(responses, times, *np.exp(inside)).cost + prior

    found = minimize(
        cost, centre, method="Nelder-Mead", options={"xatol": 0.05, "fatol": 0.02, "maxiter": 300}
    )
    jitter, drift, common, own = (float(each) for each in np.exp(np.clip(found.x, low, high)))
    parts = _eliminate(responses, times, jitter, drift, common, own)
    covariance = np.linalg.inv(parts.precision)
    shared = covariance @ parts.right
    return Curves(
        jitter,
        drift,
        (common, own),
        shared[: times.size],
        np.sqrt(np.diag(covariance))[: times.size],
        shared,
        covariance,
        tuple(parts.projections),
        tuple(responses),
    )


@dataclass(frozen=True)
class _Elimination:
    """Normal equations of what amplifiers share, after their own parts; `cost` is -ln of the likelihood."""

    precision: np.ndarray
    right: np.ndarray
    projections: list[np.ndarray]
    cost: float


def _eliminate(
    responses: list[Response], times: np.ndarray, jitter: float, drift: float, common: float, own: float
) -> _Elimination:
    n = times.size
    lamp = jitter**2 * np.eye(n) + drift**2 * np.minimum(times[:, None], times[None, :])
    curve = process_covariance(_KNOTS, _KNOTS, common)
    precision = np.zeros((n + _KNOTS.size, n + _KNOTS.size))
    precision[:n, :n], precision[n:, n:] = np.linalg.inv(lamp), np.linalg.inv(curve)
    right = np.zeros(len(precision))
    cost = 0.5 * (np.linalg.slogdet(lamp)[1] + np.linalg.slogdet(curve)[1])
    projections = []
    for each in responses:
        covariance = process_covariance(each.levels, each.levels, own) + np.diag(each.noise)
        inverse = np.linalg.inv(covariance)
        sums = inverse.sum(axis=1)
        # the light F may be anything: only what is orthogonal to a constant counts
        projection = inverse - np.outer(sums, sums) / sums.sum()
        projections.append(projection)
        design, weighted = _design(each, n), projection @ each.values
        precision += design.T @ projection @ design
        right += design.T @ weighted
        cost += 0.5 * (np.linalg.slogdet(covariance)[1] + math.log(sums.sum()) + each.values @ weighted)
    cost += 0.5 * np.linalg.slogdet(precision)[1] - 0.5 * right @ np.linalg.solve(precision, right)
    return _Elimination(precision, right, projections, float(cost))


def _design(response: Response, n_frames: int) -> np.ndarray:
    """How the points depend on the lamp of each frame and the common curve at the knots (sign: -H)."""
    lamp = np.zeros((response.frames.size, n_frames))
    lamp[np.arange(response.frames.size), response.frames] = 1.0
    return np.concatenate([lamp, _interpolation(response.levels)], axis=1)


def _interpolation(levels: np.ndarray) -> np.ndarray:
    """Linear interpolation between the knots and 0 at level 0: shape (levels, knots)."""
    knots = np.append(0.0, _KNOTS)
    place = np.clip(np.searchsorted(knots, levels, side="right") - 1, 0, knots.size - 2)
    share = (np.asarray(levels) - knots[place]) / (knots[place + 1] - knots[place])
    result = np.zeros((len(levels), knots.size))
    rows = np.arange(len(levels))
    result[rows, place] = 1 - share
    result[rows, place + 1] = share
    return result[:, 1:]
