"""Calibration Products Production (LDM-151 4.1.2.3): the brighter-fatter kernel from the covariances of flats.

Each amplifier's covariances give the area changes a_ij (Astier et al. 2019). They are a property of the silicon,
not of the amplifier: they are averaged over the amplifiers, and over detectors with the same pixels, with their
errors unless these disagree. Far lags are small against their noise: a power law of the distance stands for them as
far as they are not significant, and carries on beyond the measured lags, with the sum rule (charge is only moved,
so all a_ij of the plane sum to 0) as one more datum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms.instrument_signature_removal.brighter_fatter import kernel_from_covariances
from skyquilt.pipelines.calibration_products.covariance_fit import fit_covariances, folded
from skyquilt.primitives.detector_characterization import BrighterFatterKernel

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Detector
    from skyquilt.pipelines.calibration_products.photon_transfer import MeasurePhotonTransferConfig
    from skyquilt.primitives.detector_characterization import PhotonTransfer

_EXPONENTS = np.linspace(2.2, 6.0, 39)
_REACH = 60
_TAIL_SCATTER = 0.3
"""How far an area change may lie from the power law, as a share of it."""


@dataclass(frozen=True)
class AreaChanges:
    """Area changes of all amplifiers.

    Parameters
    ----------
    a, errors : ndarray of float64, shape (n, lags, lags)
        Of each amplifier [1 / electron]; NaN where not measured.
    mean, mean_errors : ndarray of float64, shape (lags, lags)
        Weighted over the amplifiers.
    chi_square : float
        Of the amplifiers' nearest lags about their mean, per degree of freedom; NaN for a single one.
    """

    a: np.ndarray
    errors: np.ndarray
    mean: np.ndarray
    mean_errors: np.ndarray
    chi_square: float


def measure_brighter_fatter(
    photon_transfer: PhotonTransfer,
    detector: Detector,
    config: MeasurePhotonTransferConfig,
    siblings: Sequence[AreaChanges] = (),
) -> BrighterFatterKernel | None:
    """Kernel of one detector from its photon transfer (LDM-151 4.1.2.3, 8.1).

    Parameters
    ----------
    photon_transfer : PhotonTransfer
        Of pairs at `config.min_levels` levels at least.
    detector : Detector
    config : MeasurePhotonTransferConfig
    siblings : sequence of AreaChanges
        Of other detectors of the same silicon: their mean counts with the detector's own, unless they disagree.

    Returns
    -------
    BrighterFatterKernel or None
        With the sign, factor and discrete Laplacian of
        `algorithms.instrument_signature_removal.brighter_fatter`; None when no amplifier has enough levels or
        the area changes of nearest neighbours are below `config.min_significance`. `brighter_fatter_figures`
        has the numbers in both cases.
    """
    changes = area_changes(photon_transfer, config)
    if changes is None:
        return None
    pooled = _pooled([changes, *siblings])
    if siblings and pooled.chi_square <= _disagreement(pooled):
        mean, mean_errors = pooled.mean, pooled.mean_errors
    else:
        mean, mean_errors = changes.mean, changes.mean_errors
    if _significance(mean, mean_errors) < config.min_significance:
        return None
    common = _kernel(mean, mean_errors, config)
    kernels, shares = [], []
    for a, errors in zip(changes.a, changes.errors):
        own = common
        if (
            changes.chi_square > _disagreement(changes)
            and _significance(a, errors) >= config.min_significance
        ):
            own = _kernel(a, errors, config)
        kernels.append(own[0])
        shares.append(own[1])
    return BrighterFatterKernel(tuple(detector.amplifier_names), np.array(kernels), np.array(shares))


def area_changes(photon_transfer: PhotonTransfer, config: MeasurePhotonTransferConfig) -> AreaChanges | None:
    """Area changes a_ij of the amplifiers and their mean; None when none has been measured."""
    lags = photon_transfer.covariances.shape[2]
    shape = (len(photon_transfer.amplifiers), lags, lags)
    a, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    for number in range(shape[0]):
        used = np.isfinite(photon_transfer.levels[number])
        # without a fit of covariances there is no a00, and the levels do not determine the rest either
        if not np.isfinite(photon_transfer.a00[number]) or used.sum() < config.min_levels:
            continue
        noise, noise_error = photon_transfer.read_noise[number], photon_transfer.read_noise_error[number]
        fit = fit_covariances(
            photon_transfer.levels[number][used],
            photon_transfer.covariances[number][used],
            photon_transfer.covariance_errors[number][used],
            noise**2,
            max(2 * noise * noise_error, 1e-6 * noise**2),
        )
        # the gain is fitted again about 1: it is part of the error of a_00
        a[number], errors[number] = fit.a, fit.a_error
    return _weighted(a, errors) if np.isfinite(a[:, 0, 0]).any() else None


def _pooled(changes: Sequence[AreaChanges]) -> AreaChanges:
    """Area changes of the amplifiers of several detectors as of one."""
    return _weighted(*(np.concatenate([getattr(each, name) for each in changes]) for name in ("a", "errors")))


def _weighted(a: np.ndarray, errors: np.ndarray) -> AreaChanges:
    known = np.isfinite(a[:, 0, 0])
    weights = 1 / errors[known] ** 2
    mean = (weights * a[known]).sum(axis=0) / weights.sum(axis=0)
    chi_square = np.nan
    if known.sum() > 1:
        pull = ((a[known] - mean) / errors[known])[:, :2, :2]
        chi_square = float((pull**2).sum() / (4 * (known.sum() - 1)))
    return AreaChanges(a, errors, mean, 1 / np.sqrt(weights.sum(axis=0)), chi_square)


def significance(changes: AreaChanges) -> float:
    """Area changes of the eight nearest neighbours, weighted mean over its error."""
    return _significance(changes.mean, changes.mean_errors)


def _significance(a: np.ndarray, errors: np.ndarray) -> float:
    near, error = a[:2, :2].ravel()[1:], errors[:2, :2].ravel()[1:]
    if not np.isfinite(near).all():
        return 0.0
    weights = 1 / error**2
    return float((weights * near).sum() / np.sqrt(weights.sum()))


def _disagreement(changes: AreaChanges) -> float:
    """Chi-square per degree of freedom that chance exceeds once in 3 million: five standard deviations."""
    from scipy.stats import chi2

    freedom = max(4 * (int(np.isfinite(changes.a[:, 0, 0]).sum()) - 1), 1)
    return float(chi2.isf(3e-7, freedom) / freedom)


def _kernel(
    a: np.ndarray, errors: np.ndarray, config: MeasurePhotonTransferConfig
) -> tuple[np.ndarray, float]:
    """Kernel, and the share of a_00 that the lags under it account for."""
    smooth = with_power_law(a, errors, config.tail_start)
    inside = folded(smooth).sum() - smooth[0, 0]
    share = float(np.clip(-inside / smooth[0, 0], 0.0, 1.0)) if smooth[0, 0] < 0 else 0.0
    return kernel_from_covariances(smooth), share


def with_power_law(a: np.ndarray, errors: np.ndarray, start: int) -> np.ndarray:
    """Area changes with the far lags drawn to a power law of the distance, as far as they are uncertain.

    Parameters
    ----------
    a, errors : ndarray, shape (lags, lags) [1 / electron]
    start : int
        Lags nearer than this stay as measured [pixel].
    """
    lags = a.shape[0]
    distance = np.hypot(*np.mgrid[:lags, :lags])
    far = distance >= start
    if not far.any():
        return a
    amplitude, exponent = _fitted_power_law(a, errors, distance, far)
    law = amplitude * np.where(far, distance, 1.0) ** -exponent
    spread = (_TAIL_SCATTER * law) ** 2
    trust = np.divide(spread, spread + errors**2, out=np.zeros_like(a), where=far)
    return np.where(far, law + trust * (a - law), a)


def _fitted_power_law(
    a: np.ndarray, errors: np.ndarray, distance: np.ndarray, far: np.ndarray
) -> tuple[float, float]:
    """Amplitude (not negative) and exponent from the far lags and the sum rule."""
    times = _multiplicity(a.shape[0])
    near_sum = float((times * a)[~far].sum())
    near_error = float(np.sqrt(((times * errors)[~far] ** 2).sum()))
    plane = np.hypot(*np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1])
    outside = plane[plane >= distance[far].min()]
    best = (np.inf, 0.0, 3.0)
    for exponent in _EXPONENTS:
        # the last row is the sum rule: what all far lags of the plane must make up for
        design = np.append(distance[far] ** -exponent / errors[far], (outside**-exponent).sum() / near_error)
        values = np.append(a[far] / errors[far], -near_sum / near_error)
        amplitude = max(float(design @ values) / float(design @ design), 0.0)
        cost = float(((values - amplitude * design) ** 2).sum())
        if cost < best[0]:
            best = (cost, amplitude, float(exponent))
    return best[1], best[2]


def _multiplicity(lags: int) -> np.ndarray:
    """How often each lag of the quadrant occurs in the plane."""
    along = np.where(np.arange(lags) == 0, 1.0, 2.0)
    return along[:, None] * along[None, :]


def brighter_fatter_figures(
    photon_transfer: PhotonTransfer,
    kernel: BrighterFatterKernel | None,
    config: MeasurePhotonTransferConfig,
) -> dict[str, Any]:
    """Plain numbers for manifest and page: area changes with errors, their significance, the kernel's image."""
    changes = area_changes(photon_transfer, config)
    if changes is None:
        return {"status": "too_few_inputs", "levels_needed": config.min_levels}
    measured = np.isfinite(changes.a[:, 0, 0])
    return {
        "status": "made" if kernel is not None else "not_significant",
        "significance": significance(changes),
        "significance_needed": config.min_significance,
        "a": changes.mean.tolist(),
        "a_error": changes.mean_errors.tolist(),
        "sum": float(folded(changes.mean).sum()),
        "sum_error": float(
            np.sqrt(((_multiplicity(changes.mean.shape[0]) * changes.mean_errors) ** 2).sum())
        ),
        "chi_square_of_amplifiers": None if np.isnan(changes.chi_square) else changes.chi_square,
        "amplifiers": [name for name, good in zip(photon_transfer.amplifiers, measured) if good],
        "kernel": None if kernel is None else kernel.kernel[0].tolist(),
        "level_correction": None if kernel is None else kernel.level_correction.tolist(),
    }
