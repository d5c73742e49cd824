"""Single CCD PSF Estimation (LDM-151 8.9.1): clean stars by size, and one Gaussian from their moments.

Stars are the sources whose size is the most frequent among the bright, clean ones. The model is constant over
the detector and has the median adaptive moments, so that sizes agree with measured ones by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.psf import GaussianPsf


@dataclass(frozen=True)
class PsfEstimationConfig:
    """Choice of PSF stars."""

    min_snr: float = 30.0
    """Least signal to noise of the peak."""
    min_stars: int = 3
    """Fewer stars than this make no PSF model."""
    locus_width: float = 0.1
    """Width of the window in ln(size) in which the most stars are sought."""
    clip: float = 3.0
    """Stars further than this from the median size are left out [sigma of the sizes in the window]."""
    max_stars: int = 300
    """At most this many, the brightest."""

    def __post_init__(self) -> None:
        if self.min_stars < 1 or self.max_stars < self.min_stars:
            raise ValueError(
                f"PSF estimation needs 1 <= min_stars <= max_stars, got {self.min_stars}, {self.max_stars}"
            )
        if self.min_snr <= 0 or self.locus_width <= 0 or self.clip < 1:
            raise ValueError("PSF estimation needs min_snr > 0, locus_width > 0 and clip >= 1")


def select_stars(
    size: np.ndarray, snr: np.ndarray, clean: np.ndarray, config: PsfEstimationConfig
) -> np.ndarray:
    """Which sources are stars (SelectStars, 5.1.1.14).

    Parameters
    ----------
    size : ndarray, shape (n,)
        Determinant radius of the adaptive moments [pixel]; NaN if unknown.
    snr : ndarray, shape (n,)
        Peak signal to noise.
    clean : ndarray of bool, shape (n,)
        No flag speaks against the source.

    Returns
    -------
    ndarray of bool, shape (n,)
        None set when fewer than `config.min_stars` would be.
    """
    stars = np.zeros(len(size), dtype=bool)
    candidates = np.flatnonzero(clean & np.isfinite(size) & (size > 0) & (snr >= config.min_snr))
    if candidates.size < config.min_stars:
        return stars
    brightest = candidates[np.argsort(-snr[candidates], kind="stable")[: 2 * config.max_stars]]
    value = np.sort(np.log(size[brightest]))
    inside = np.searchsorted(value, value + config.locus_width, side="right") - np.arange(value.size)
    first = int(np.argmax(inside))
    window = value[first : first + inside[first]]
    middle = float(np.median(window))
    # 1 %: moments of bright stars agree better than a constant PSF does over a detector
    width = max(1.4826 * float(np.median(np.abs(window - middle))), 0.01)
    kept = brightest[np.abs(np.log(size[brightest]) - middle) <= config.clip * width][: config.max_stars]
    if kept.size >= config.min_stars:
        stars[kept] = True
    return stars


def median_moments(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> tuple[float, float, float]:
    """Medians of moments [pixel^2]: those of the Gaussian PSF of these stars."""
    return float(np.median(xx)), float(np.median(yy)), float(np.median(xy))


def fit_psf(xx: float, yy: float, xy: float) -> GaussianPsf:
    """FitPSF (5.1.1.16): the Gaussian whose pixels have these moments [pixel^2], everywhere the same.

    The model is integrated over pixels, which adds 1/12 to the variances; at least a sigma of 0.3 pixels is
    left.
    """
    xx, yy = max(xx - 1.0 / 12.0, 0.09), max(yy - 1.0 / 12.0, 0.09)
    largest = 0.99 * (xx * yy) ** 0.5
    return GaussianPsf(xx, yy, min(max(xy, -largest), largest))
