"""Photometric Fitting (LDM-151 8.14.1, 8.14.2): the zero point of a detector or visit from reference stars.

The scale s [nJy / electron] minimises the scatter of log(reference / instrumental flux): a weighted mean of
the logarithms, clipped until nothing changes. Stars differ from the catalogue by more than their quoted
errors (colour terms, variability), so an intrinsic scatter is found that makes chi-squared one per degree of
freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAG = 2.5 / np.log(10.0)


@dataclass(frozen=True)
class PhotometricFittingConfig:
    """Choice of stars and clipping for the zero point."""

    min_stars: int = 3
    """Fewest stars for a zero point of the visit."""
    min_stars_per_detector: int = 8
    """With fewer on a detector the zero point of the whole visit is used for it."""
    min_snr: float = 10.0
    """Least signal to noise of the instrumental flux."""
    clip: float = 3.5
    """Stars further than this from the mean are left out [sigma, intrinsic scatter included]."""

    max_neighbour: float = 0.01
    """Stars whose neighbours in the aperture have a larger share of their flux are used only on detectors
    where fewer than min_stars_per_detector others are left."""

    def __post_init__(self) -> None:
        if self.min_stars < 1 or self.min_stars_per_detector < self.min_stars:
            raise ValueError(
                "photometric fitting needs 1 <= min_stars <= min_stars_per_detector, got "
                f"{self.min_stars} and {self.min_stars_per_detector}"
            )
        if self.min_snr <= 0 or self.clip < 1.5:
            raise ValueError(f"photometric fitting needs min_snr > 0 and clip >= 1.5, got {self}")


@dataclass(frozen=True)
class ZeroPointFit:
    """Result of `fit_zero_point`.

    Parameters
    ----------
    scale, scale_error : float
        [nJy / electron].
    scatter : float
        Intrinsic scatter about it [mag].
    used : ndarray of bool
        Which of the stars handed in were kept.
    """

    scale: float
    scale_error: float
    scatter: float
    used: np.ndarray

    @property
    def n_stars(self) -> int:
        """Stars kept."""
        return int(self.used.sum())

    @property
    def magnitude(self) -> float:
        """AB magnitude of one electron in the exposure."""
        return float(31.4 - 2.5 * np.log10(self.scale))


def fit_zero_point(
    flux: np.ndarray,
    error: np.ndarray,
    reference: np.ndarray,
    reference_error: np.ndarray,
    config: PhotometricFittingConfig,
) -> ZeroPointFit | None:
    """Scale from instrumental fluxes [electron] to reference fluxes [nJy] of matched stars, shape (n,).

    Fluxes that are not positive, or not `config.min_snr` times their error, are not used; a reference error
    that is not finite counts as zero. None with fewer than `config.min_stars` usable stars.
    """
    reference_error = np.where(np.isfinite(reference_error), reference_error, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = (flux > 0) & (reference > 0) & (flux >= config.min_snr * error) & np.isfinite(error)
        value = np.log(np.where(usable, reference, 1.0)) - np.log(np.where(usable, flux, 1.0))
        variance = (np.where(usable, error, 0.0) / np.where(usable, flux, 1.0)) ** 2
        variance += (np.where(usable, reference_error, 0.0) / np.where(usable, reference, 1.0)) ** 2
    if usable.sum() < config.min_stars:
        return None
    centre = float(np.median(value[usable]))
    width = 1.4826 * float(np.median(np.abs(value[usable] - centre)))
    intrinsic = max(width**2 - float(np.median(variance[usable])), 0.0)
    used = usable
    for _ in range(20):
        keep = usable & (np.abs(value - centre) <= config.clip * np.sqrt(variance + intrinsic) + 1e-12)
        if keep.sum() < config.min_stars:
            break
        intrinsic = _intrinsic_variance(value[keep], variance[keep])
        weight = 1.0 / (variance[keep] + intrinsic + 1e-30)
        centre = float(np.sum(weight * value[keep]) / weight.sum())
        if np.array_equal(keep, used):
            break
        used = keep
    weight = 1.0 / (variance[used] + intrinsic + 1e-30)
    scale = float(np.exp(centre))
    return ZeroPointFit(
        scale, scale * float(np.sqrt(1.0 / weight.sum())), float(MAG * np.sqrt(intrinsic)), used
    )


def _intrinsic_variance(value: np.ndarray, variance: np.ndarray) -> float:
    """Variance to be added to `variance` so that chi-squared per degree of freedom is one; 0 when it is
    less."""
    if value.size < 2:
        return 0.0

    def excess(extra: float) -> float:
        weight = 1.0 / (variance + extra + 1e-30)
        mean = np.sum(weight * value) / weight.sum()
        return float(np.sum(weight * (value - mean) ** 2) / (value.size - 1) - 1.0)

    if excess(0.0) <= 0.0:
        return 0.0
    low, high = 0.0, float(np.var(value, ddof=1)) + 1e-30
    while excess(high) > 0.0:
        high *= 2.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0.0 else (low, middle)
    return 0.5 * (low + high)
