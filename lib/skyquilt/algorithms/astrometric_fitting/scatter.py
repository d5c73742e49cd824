"""Single Visit Astrometric Fit (LDM-151 8.13.2): scatter of stars beyond their quoted errors."""

from __future__ import annotations

import numpy as np

CLIP = 9.0
"""Squares of pulls count up to this."""


def squared_pulls(residual: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Squares of residuals (n, 2) in units of their covariances (n, 2, 2)."""
    c = covariance
    determinant = c[:, 0, 0] * c[:, 1, 1] - c[:, 0, 1] * c[:, 1, 0]
    x, y = residual.T
    return (c[:, 1, 1] * x**2 - (c[:, 0, 1] + c[:, 1, 0]) * x * y + c[:, 0, 0] * y**2) / determinant


def residual_covariance(covariance: np.ndarray, variance: float, removed: np.ndarray) -> np.ndarray:
    """Covariance of residuals (n, 2, 2): errors and intrinsic variance, less what the fit has taken out of them."""
    whole = covariance + variance * np.eye(2)
    # a star that has a detector for itself has no residual to judge by; the trace bounds the larger share
    determinant = whole[:, 0, 0] * whole[:, 1, 1] - whole[:, 0, 1] * whole[:, 1, 0]
    share = (
        whole[:, 1, 1] * removed[:, 0, 0]
        + whole[:, 0, 0] * removed[:, 1, 1]
        - 2.0 * whole[:, 0, 1] * removed[:, 0, 1]
    ) / determinant
    kept = np.minimum(1.0, 0.95 / np.maximum(share, 1e-12))
    return whole - np.where(share > 0, kept, 1.0)[:, None, None] * removed


def intrinsic_variance(
    residual: np.ndarray, covariance: np.ndarray, removed: np.ndarray, least_variance: float = 0.0
) -> float:
    """Variance per axis [arcsec^2] that has to be added to the errors of stars, at least `least_variance`.

    The equation of maximum likelihood with squares clipped at 9, and their mean under a Gaussian as the aim.

    Parameters
    ----------
    residual : ndarray, shape (n, 2) [arcsec]
    covariance : ndarray, shape (n, 2, 2) [arcsec^2]
        Quoted errors.
    removed : ndarray, shape (n, 2, 2) [arcsec^2]
        Variance that the fit has taken out of the residuals (leverage).
    """
    aim = 2.0 * (1.0 - np.exp(-0.5 * CLIP))

    def excess(variance: float) -> float:
        total = residual_covariance(covariance, variance, removed)
        size = 0.5 * np.trace(covariance, axis1=1, axis2=2) + variance
        return float(((np.minimum(squared_pulls(residual, total), CLIP) - aim) / size).sum())

    if not len(residual) or excess(least_variance) <= 0:
        return least_variance
    low, high = least_variance, float((residual**2).sum(axis=1).max()) + 1e-12
    while excess(high) > 0 and high < 1e12:
        high *= 4.0
    for _ in range(28):
        middle = 0.5 * (low + high) if low == 0 and high < 1e-12 else np.sqrt(max(low, 1e-14) * high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return float(high)


def variance_for_freedom(residual: np.ndarray, covariance: np.ndarray, freedom: float, least: float) -> float:
    """Variance per axis [arcsec^2], at least `least`, with which chi2 of the residuals is no more than its freedom.

    Parameters
    ----------
    residual, covariance : ndarray, shapes (n, 2), (n, 2, 2)
    freedom : float
        Coordinates less effective parameters; below 1 nothing can be said, and the result is `least`.
    """

    def excess(variance: float) -> float:
        return float(squared_pulls(residual, covariance + variance * np.eye(2)).sum()) - freedom

    if freedom < 1.0 or excess(least) <= 0:
        return least
    low, high = least, float((residual**2).sum()) / freedom + least
    for _ in range(28):
        middle = np.sqrt(max(low, 1e-14) * high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return float(high)
