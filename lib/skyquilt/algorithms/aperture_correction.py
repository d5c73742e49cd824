"""Aperture Correction (LDM-151 8.12): from the flux in one aperture to the total flux of a point source.

The curve of growth is built in steps between neighbouring apertures. Each step uses the stars that are clean
and alone out to its own radius, so that crowded fields lose the large radii last; steps multiply.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from skyquilt.primitives.statistics import mad_width


@dataclass(frozen=True)
class ApertureCorrectionConfig:
    """Stars and radii of the curve of growth."""

    radius: float = 12.0
    """Aperture that is corrected [pixel]; one of the measured radii."""
    total_radius: float = 35.0
    """Aperture taken to hold all light of a star [pixel]; one of the measured radii."""
    min_snr: float = 50.0
    """Least signal to noise of the flux in `radius`."""
    min_stars: int = 3
    """A step with fewer stars ends the curve of growth."""
    max_neighbour: float = 0.005
    """Largest share of the star's flux that neighbours within the step's aperture may have."""
    clip: float = 3.5
    """Stars whose step is further than this from the median are left out [sigma]."""

    def __post_init__(self) -> None:
        if not 0 < self.radius < self.total_radius:
            raise ValueError(
                f"aperture correction needs 0 < radius < total_radius, got {self.radius}, {self.total_radius}"
            )
        if self.min_stars < 2 or self.min_snr <= 0 or self.max_neighbour <= 0 or self.clip < 1.5:
            raise ValueError(
                "aperture correction needs min_stars >= 2, min_snr > 0, max_neighbour > 0, clip >= 1.5"
            )


@dataclass(frozen=True)
class ApertureCorrection:
    """Factor from the flux in `radius` to that in `reached` [pixel], and its standard error.

    `n_stars` is the least number of stars of a step. `reached` below the wanted total radius means that the
    outer steps had too few stars; `reached == radius` is no correction at all (factor 1, error NaN).
    """

    factor: float
    error: float
    radius: float
    reached: float
    n_stars: int


def fit_aperture_correction(
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    error: np.ndarray,
    usable: np.ndarray,
    radii: tuple[float, ...],
    stars: np.ndarray,
    config: ApertureCorrectionConfig,
) -> ApertureCorrection:
    """Curve of growth of the stars of one detector (FitApCorr, 5.1.1.21).

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Positions of all sources [pixel]; neighbours are sought among them.
    flux, error : ndarray, shape (n, radii)
        Aperture sums and their errors.
    usable : ndarray of bool, shape (n, radii)
        The aperture is whole and without unusable pixels.
    radii : tuple of float
        Ascending [pixel].
    stars : ndarray of bool, shape (n,)
        Point sources to be used.

    Raises
    ------
    ValueError
        When a configured radius was not measured.
    """
    steps = _steps(radii, config)
    start = radii.index(steps[0][0])
    with np.errstate(invalid="ignore"):
        bright = stars & (flux[:, start] > config.min_snr * error[:, start])
    factor, relative, reached, least = 1.0, 0.0, steps[0][0], 0
    for inner, outer in steps:
        i, o = radii.index(inner), radii.index(outer)
        chosen = np.flatnonzero(bright & usable[:, o] & usable[:, i] & (flux[:, i] > 0))
        chosen = chosen[neighbour_share(x, y, flux[:, 0], chosen, outer) <= config.max_neighbour]
        step = _mean_step(flux[chosen, i], flux[chosen, o], error[chosen, i], error[chosen, o], config)
        if step is None:
            break
        factor *= step[0]
        relative = float(np.hypot(relative, step[1] / step[0]))
        reached, least = outer, step[2] if least == 0 else min(least, step[2])
    if reached == steps[0][0]:
        return ApertureCorrection(1.0, float("nan"), reached, reached, 0)
    return ApertureCorrection(factor, factor * relative, steps[0][0], reached, least)


def _steps(radii: tuple[float, ...], config: ApertureCorrectionConfig) -> list[tuple[float, float]]:
    for wanted in (config.radius, config.total_radius):
        if wanted not in radii:
            raise ValueError(f"aperture correction wants radius {wanted} pixels; measured are {radii}")
    between = [radius for radius in radii if config.radius <= radius <= config.total_radius]
    return list(itertools.pairwise(between))


def neighbour_share(
    x: np.ndarray, y: np.ndarray, flux: np.ndarray, chosen: np.ndarray, radius: float
) -> np.ndarray:
    """Flux of all other sources centred within `radius` of each chosen one, over its own flux.

    Parameters
    ----------
    x, y, flux : ndarray, shape (n,)
        Of all sources; fluxes in an aperture small enough to be each one's own; NaN and negative count as 0.
    chosen : ndarray of int, shape (m,)
        Rows wanted.
    radius : float
        [pixel].

    Returns
    -------
    ndarray of float64, shape (m,)
    """
    share = np.zeros(chosen.size)
    if not chosen.size:
        return share
    positions = np.column_stack([x, y])
    light = np.where(np.isfinite(flux), np.maximum(flux, 0.0), 0.0)
    near = cKDTree(positions).query_ball_point(positions[chosen], radius)
    for k, (source, others) in enumerate(zip(chosen, near)):
        share[k] = (light[np.sort(others)].sum() - light[source]) / max(light[source], 1e-30)
    return share


def _mean_step(
    inner: np.ndarray,
    outer: np.ndarray,
    inner_error: np.ndarray,
    outer_error: np.ndarray,
    config: ApertureCorrectionConfig,
) -> tuple[float, float, int] | None:
    """Clipped weighted mean of outer / inner, its standard error and the number of stars; None with too
    few."""
    if inner.size < config.min_stars:
        return None
    ratio = outer / inner
    # the outer aperture holds the inner one's noise: only the ring's is new
    ring = np.maximum(outer_error**2 - inner_error**2, 0.0)
    variance = (ring + ((ratio - 1.0) * inner_error) ** 2) / inner**2
    middle = float(np.median(ratio))
    intrinsic = max(mad_width(ratio) ** 2 - float(np.median(variance)), 0.0)
    variance = variance + intrinsic
    keep = np.abs(ratio - middle) <= config.clip * np.sqrt(variance) + 1e-12
    if keep.sum() < config.min_stars:
        return None
    weight = 1.0 / (variance[keep] + 1e-30)
    mean = float(np.sum(weight * ratio[keep]) / weight.sum())
    # the scatter found, where it is larger than the errors say (neighbours below the threshold)
    chi2 = float(np.sum(weight * (ratio[keep] - mean) ** 2) / max(keep.sum() - 1, 1))
    return mean, float(np.sqrt(max(chi2, 1.0) / weight.sum())), int(keep.sum())
