"""Single Frame S/G (LDM-151 8.21.1): whether a source is larger than the PSF, by fluxes and by moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from skyquilt.primitives.psf import FWHM_OF_SIGMA


@dataclass(frozen=True)
class StarGalaxyConfig:
    """Limits between point sources and extended ones."""

    flux_excess: float = 0.05
    """Extended when the light outside of the inner aperture exceeds a star's by this share of the inner
    flux, and by 3 sigma."""
    size_excess: float = 0.1
    """Excess of the trace of the moments over the PSF's at which extended and point-like are equally
    likely."""
    size_error: float = 0.02
    """Relative error of the PSF's trace, added to that of the source."""

    def __post_init__(self) -> None:
        if self.flux_excess <= 0 or self.size_excess <= 0 or self.size_error <= 0:
            raise ValueError(f"star/galaxy limits must be positive, got {self}")


def core_and_whole(radii: tuple[float, ...], trace: float) -> tuple[int, int]:
    """Which two of some apertures tell stars from larger sources: one in a star's core, one around it.

    Parameters
    ----------
    radii : tuple of float
        [pixel], ascending, two or more.
    trace : float
        Of the PSF's moments [pixel^2]; a FWHM of 4 pixels is assumed where it is NaN.
    """
    fwhm = FWHM_OF_SIGMA * np.sqrt(max(trace, 0.0) / 2.0) if np.isfinite(trace) else 4.0
    core = min(int(np.argmin(np.abs(np.array(radii) - 0.8 * fwhm))), len(radii) - 2)
    whole = int(np.argmin(np.abs(np.array(radii) - 2.0 * fwhm)))
    return core, max(whole, core + 1)


def extendedness(
    inner: np.ndarray,
    inner_error: np.ndarray,
    outer: np.ndarray,
    outer_error: np.ndarray,
    stars: np.ndarray,
    config: StarGalaxyConfig,
) -> np.ndarray:
    """0 for point sources, 1 for extended ones, by the ratio of two nested apertures; NaN if unknown.

    Parameters
    ----------
    inner, inner_error, outer, outer_error : ndarray, shape (n,)
        Sums in two circles and their errors.
    stars : ndarray of bool, shape (n,)
        Known stars: their median ratio is a point source's. Without any all is unknown.
    """
    result = np.full(len(inner), np.nan)
    if not stars.any():
        return result
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = outer / inner
        point = np.median(ratio[stars])
        ring = np.maximum(outer_error**2 - inner_error**2, 0.0)
        error = np.sqrt(ring + ((ratio - 1.0) * inner_error) ** 2) / inner
        known = np.isfinite(ratio) & np.isfinite(error) & (inner > 0)
        excess = ratio - point
        result[known] = (excess > np.maximum(config.flux_excess, 3.0 * error))[known]
    return result


def size_extendedness(
    trace: np.ndarray, psf_trace: float, snr: np.ndarray, config: StarGalaxyConfig
) -> np.ndarray:
    """Probability in 0..1 that the trace of a source's moments [pixel^2] exceeds the PSF's; NaN if unknown.

    The relative error of a trace is 2 / snr (a Gaussian's best case); the limit is `config.size_excess`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.hypot(2.0 / snr, config.size_error)
        return ndtr((trace / psf_trace - 1.0 - config.size_excess) / error)
