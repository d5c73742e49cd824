"""Calibration Products Production (LDM-151 4.1.2.3): photon transfer of a detector, from pairs of flats.

Gain, read noise, full well and the covariances that the brighter-fatter kernel is made of. With pairs at
several levels the covariances are fitted after Astier et al. 2019; with fewer the gain is level over variance,
and what brighter-fatter may have taken from the variance is part of its error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.pipelines.calibration_products.covariance_fit import (
    CovarianceFit,
    area_changes_of_others,
    fit_covariances,
)
from skyquilt.pipelines.calibration_products.flat_frames import MeasuredFrame, measured_frame
from skyquilt.pipelines.calibration_products.flat_pairs import (
    MOST_SATURATED,
    FlatPair,
    OpenFrames,
    flat_pairs,
)
from skyquilt.pipelines.calibration_products.full_well import response_end, turned_over
from skyquilt.pipelines.calibration_products.read_noise import error_weighted_mean, measure_read_noise
from skyquilt.primitives.detector_characterization import PhotonTransfer
from skyquilt.primitives.failure import ProcessingFailure, Reason

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal import (
        DetectorCalibrations,
        InstrumentSignatureRemovalConfig,
    )
    from skyquilt.instrument.camera import Detector
    from skyquilt.instrument.raw import RawFrame
    from skyquilt.primitives.detector_characterization import Linearizer


@dataclass(frozen=True)
class MeasurePhotonTransferConfig:
    """Options of `measure_photon_transfer` and `measure_brighter_fatter`."""

    lags: int = 6
    """Covariances are measured at lags 0 .. lags - 1 in rows and columns [pixel]."""
    clip: float = 5.0
    """Pixels whose difference in a pair is further off, and their neighbours, are left out [sigma]."""
    block: int = 64
    """Side of the blocks in which the ratio of the two flats of a pair is measured [pixel]."""
    max_level_ratio: float = 1.3
    """Largest ratio of the levels of two flats that make a pair."""
    max_saturated: float = 0.001
    """Blocks with a larger share of saturated pixels are left out; a pair without half of them, too."""
    min_levels: int = 4
    """Fewest pairs at different levels for a fit of the covariances; with fewer, level over variance."""
    min_range: float = 2.0
    """Least ratio of the largest to the smallest level of such a fit."""
    min_significance: float = 5.0
    """A brighter-fatter kernel is made when the covariances of nearest neighbours are this significant."""
    tail_start: int = 2
    """From this distance on the area changes are replaced by a power law of the distance [pixel]."""

    def __post_init__(self) -> None:
        if self.lags < 2 or self.clip < 3 or self.block < 8:
            raise ValueError(
                "photon transfer needs lags >= 2, clip >= 3 sigma and block >= 8 pixels, got "
                f"{self.lags}, {self.clip}, {self.block}"
            )
        if self.max_level_ratio < 1 or not 0 <= self.max_saturated <= 1:
            raise ValueError("photon transfer needs max_level_ratio >= 1 and max_saturated in 0..1")
        if self.min_levels < 3 or self.min_range <= 1:
            raise ValueError("photon transfer needs min_levels >= 3 and min_range > 1")
        if self.min_significance <= 0 or self.tail_start < 1:
            raise ValueError("photon transfer needs min_significance > 0 and tail_start >= 1 pixel")


@dataclass(frozen=True)
class _Result:
    """What is known of one amplifier [ADU, and electron per ADU]."""

    gain: float
    gain_error: float
    read_noise: float
    read_noise_error: float
    full_well: float
    a00: float
    used: np.ndarray
    method: str
    fit: CovarianceFit | None


def measure_photon_transfer(
    read: Callable[[int], RawFrame],
    n_frames: int,
    calibrations: DetectorCalibrations,
    config: MeasurePhotonTransferConfig,
    isr: InstrumentSignatureRemovalConfig,
    read_bias: Callable[[int], RawFrame] | None = None,
    n_bias: int = 0,
) -> tuple[PhotonTransfer, dict[str, Any]]:
    """Photon transfer of one detector (LDM-151 4.1.2.3).

    Parameters
    ----------
    read : callable
        `read(i)` opens flat i; a ProcessingFailure it raises leaves the frame out with its reason.
    n_frames : int
        Flats 0 .. n_frames - 1 of one filter. Pairs are flats of equal exposure time and level, then those
        nearest in level.
    calibrations : DetectorCalibrations
        Bias, crosstalk, linearizer and defects are used as far as they are there.
    config : MeasurePhotonTransferConfig
    isr : InstrumentSignatureRemovalConfig
    read_bias, n_bias
        Bias frames for the read noise; without two of them it comes from the overscan of the flats.

    Returns
    -------
    PhotonTransfer
    dict
        Plain JSON: frames, and per amplifier the numbers with their errors, the points and the fitted curve.

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS without a pair of flats that an amplifier can be measured with.
    """

    def measured(raw: RawFrame) -> MeasuredFrame:
        return measured_frame(raw, calibrations, isr, max_saturated=config.max_saturated)

    store = OpenFrames(read, n_frames, measured)
    pairs = flat_pairs(store, config)
    detector = store.detector
    if detector is None or not pairs:
        raise ProcessingFailure(
            Reason.TOO_FEW_INPUTS,
            f"photon transfer: no two of {n_frames} flats make a pair; {store.what_failed()}",
        )
    pairs = [_with_linearity_errors(pair, calibrations.linearizer) for pair in pairs]
    noise, noise_error, source = measure_read_noise(read_bias, n_bias, store, calibrations, config, isr)
    results = [
        _measure_amplifier(
            number, pairs, noise[number], noise_error[number], _limit(calibrations, number), config
        )
        for number in range(len(detector.amplifiers))
    ]
    if not any(math.isfinite(each.gain) for each in results):
        raise ProcessingFailure(
            Reason.TOO_FEW_INPUTS,
            f"photon transfer: none of {len(pairs)} pairs of flats is usable in any amplifier "
            f"(saturated, without light, or without good pixels)",
        )
    results = _with_common_area_changes(results, pairs, noise, noise_error)
    component = _component(detector, pairs, results)
    return component, _figures(detector, pairs, results, component, store, source)


def _with_linearity_errors(pair: FlatPair, linearizer: Linearizer | None) -> FlatPair:
    """The pair with what the linearizer's slope may be wrong by in the errors of its variances.

    Between the levels of flats the slope is less certain than the correction, and the variance goes as its square.
    """
    if linearizer is None:
        return pair
    statistics = []
    for number, each in enumerate(pair.statistics):
        slope = float(linearizer.slope_error(number, np.array([max(each.level, 0.0)]))[0])
        errors = each.errors.copy()
        if math.isfinite(slope):
            errors[0, 0] = math.hypot(errors[0, 0], 2 * slope * each.covariances[0, 0])
        statistics.append(replace(each, errors=errors))
    return replace(pair, statistics=tuple(statistics))


def _limit(calibrations: DetectorCalibrations, number: int) -> float:
    """Level up to which the linearizer was measured [ADU]; infinite without one."""
    linearizer = calibrations.linearizer
    if linearizer is None or not math.isfinite(linearizer.largest[number]):
        return math.inf
    largest = linearizer.largest[number]
    return 1.01 * float(linearizer.linear(number, np.array([largest]))[0])


def _measure_amplifier(
    number: int,
    pairs: list[FlatPair],
    noise: float,
    noise_error: float,
    limit: float,
    config: MeasurePhotonTransferConfig,
) -> _Result:
    """Everything of one amplifier; gain NaN when no pair can be used."""
    levels = np.array([pair.statistics[number].level for pair in pairs])
    variances = np.array([pair.statistics[number].covariances[0, 0] for pair in pairs])
    errors = np.array([pair.inflation * pair.statistics[number].errors[0, 0] for pair in pairs])
    saturated = np.array([pair.saturated[number] for pair in pairs])
    exposures = np.array([pair.exposure_time for pair in pairs])
    usable = np.isfinite(levels) & (variances > 0) & (errors > 0)
    usable &= (saturated <= MOST_SATURATED) & (levels <= limit)
    before, _ = turned_over(levels, variances, errors, usable)
    full_well = response_end(levels, exposures, np.isfinite(levels), before)
    usable &= before
    if not usable.any():
        nothing = math.nan
        return _Result(nothing, nothing, noise, noise_error, full_well, nothing, usable, "none", None)
    if _enough(levels[usable], config):
        usable, fit = _fit(number, pairs, usable, noise, noise_error)
        return _Result(
            fit.gain,
            fit.gain_error,
            noise if math.isfinite(noise) else math.sqrt(max(fit.noise, 0.0)),
            noise_error,
            full_well,
            float(fit.a[0, 0]),
            usable,
            "covariances",
            fit,
        )
    gain, gain_error = _level_over_variance(number, pairs, usable, noise, noise_error)
    return _Result(gain, gain_error, noise, noise_error, full_well, math.nan, usable, "variance", None)


def _enough(levels: np.ndarray, config: MeasurePhotonTransferConfig) -> bool:
    """Whether the levels of the usable pairs determine the fit; levels within 5 % count once."""
    ordered = np.sort(levels)
    distinct, last = 0, 0.0
    for level in ordered:
        if level > 1.05 * last:
            distinct, last = distinct + 1, level
    return distinct >= config.min_levels and ordered[-1] >= config.min_range * ordered[0]


def _fit(
    number: int, pairs: list[FlatPair], usable: np.ndarray, noise: float, noise_error: float
) -> tuple[np.ndarray, CovarianceFit]:
    """Fit; the highest pairs go while their variance is too small for it: the well begins to be full."""
    used = usable.copy()
    while True:
        fit, shortage = _fit_used(number, pairs, used, noise, noise_error)
        top = int(np.argmax([pair.statistics[number].level for pair, use in zip(pairs, used) if use]))
        if shortage[top] < 5 or used.sum() <= 4:
            return used, fit
        used[np.flatnonzero(used)[top]] = False


def _fit_used(
    number: int,
    pairs: list[FlatPair],
    used: np.ndarray,
    noise: float,
    noise_error: float,
    prior: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[CovarianceFit, np.ndarray]:
    """Fit of the used pairs, and by how much their variances fall short of it [sigma]."""
    chosen = [pair for pair, use in zip(pairs, used) if use]
    statistics = [pair.statistics[number] for pair in chosen]
    inflation = np.array([pair.inflation for pair in chosen])
    covariances = np.array([each.covariances for each in statistics])
    errors = inflation[:, None, None] * np.array([each.errors for each in statistics])
    fit = fit_covariances(
        np.array([each.level for each in statistics]),
        covariances,
        errors,
        noise**2,
        max(2 * noise * noise_error, 1e-6 * noise**2),
        np.array([each.noise_factor for each in statistics]),
        prior=prior,
    )
    return fit, ((fit.model - covariances) / errors)[:, 0, 0]


def _with_common_area_changes(
    results: list[_Result], pairs: list[FlatPair], noise: np.ndarray, noise_error: np.ndarray
) -> list[_Result]:
    """Fits repeated with what the other amplifiers say of a_ij: they share the silicon.

    The gain's error is mostly that of a_00, which bends the variance: it halves with some amplifiers.
    """
    fitted = [number for number, each in enumerate(results) if each.fit is not None]
    if len(fitted) < 2:
        return results
    results = list(results)
    fits = [fit for each in results if (fit := each.fit) is not None]
    for number, prior in zip(fitted, area_changes_of_others(fits)):
        used = results[number].used
        fit, _ = _fit_used(number, pairs, used, float(noise[number]), float(noise_error[number]), prior)
        results[number] = replace(
            results[number], gain=fit.gain, gain_error=fit.gain_error, a00=float(fit.a[0, 0]), fit=fit
        )
    return results


def _level_over_variance(
    number: int, pairs: list[FlatPair], usable: np.ndarray, noise: float, noise_error: float
) -> tuple[float, float]:
    """Gain and error from level over variance [electron / ADU].

    The variance lacks what brighter-fatter moved into the covariances of neighbours: their sum over the eight
    nearest is the bias that is possible, and goes into the error.
    """
    nominal = 0.0 if not math.isfinite(noise) else noise
    nominal_error = 0.0 if not math.isfinite(noise) else noise_error
    values, errors, shares, share_errors = [], [], [], []
    for pair, use in zip(pairs, usable):
        if not use:
            continue
        one = pair.statistics[number]
        photon = one.covariances[0, 0] - one.noise_factor * nominal**2
        values.append(photon / one.level)
        errors.append(pair.inflation * one.errors[0, 0] / one.level)
        ring, ring_errors = one.covariances[:2, :2], one.errors[:2, :2]
        times = np.array([[0.0, 2.0], [2.0, 4.0]])
        shares.append(float((times * ring).sum()) / photon)
        share_errors.append(pair.inflation * float(np.sqrt((times**2 * ring_errors**2).sum())) / photon)
    inverse, error = (float(each) for each in error_weighted_mean(np.array(values), np.array(errors)))
    share, share_error = (
        float(each) for each in error_weighted_mean(np.array(shares), np.array(share_errors))
    )
    level = float(np.mean([p.statistics[number].level for p, use in zip(pairs, usable) if use]))
    read_noise_part = 2 * nominal * nominal_error / level
    bias = math.hypot(max(share, 0.0), share_error) * inverse
    if not inverse > 0:
        return math.nan, math.nan
    return 1 / inverse, math.sqrt(error**2 + read_noise_part**2 + bias**2) / inverse**2


def _component(detector: Detector, pairs: list[FlatPair], results: list[_Result]) -> PhotonTransfer:
    """The results in electrons."""
    n, lags = len(results), pairs[0].statistics[0].covariances.shape[0]
    levels = np.full((n, len(pairs)), np.nan)
    covariances = np.full((n, len(pairs), lags, lags), np.nan)
    errors = np.full_like(covariances, np.nan)
    for number, result in enumerate(results):
        for k, pair in enumerate(pairs):
            if result.used[k] and math.isfinite(result.gain):
                one = pair.statistics[number]
                levels[number, k] = result.gain * one.level
                covariances[number, k] = result.gain**2 * one.covariances
                errors[number, k] = result.gain**2 * pair.inflation * one.errors
    gain = np.array([each.gain for each in results])
    noise = np.array([each.read_noise for each in results])
    noise_error = np.array([each.read_noise_error for each in results])
    gain_error = np.array([each.gain_error for each in results])
    return PhotonTransfer(
        amplifiers=tuple(detector.amplifier_names),
        gain=gain,
        gain_error=gain_error,
        read_noise=gain * noise,
        read_noise_error=np.hypot(gain * noise_error, gain_error * noise),
        full_well=gain * np.array([each.full_well for each in results]),
        a00=np.array([each.a00 for each in results]),
        levels=levels,
        covariances=covariances,
        covariance_errors=errors,
    )


def _figures(
    detector: Detector,
    pairs: list[FlatPair],
    results: list[_Result],
    component: PhotonTransfer,
    store: OpenFrames,
    source: str,
) -> dict[str, Any]:
    """Plain numbers for manifest and page; None stands for what was not measured."""
    amplifiers = {}
    for number, (name, result) in enumerate(zip(detector.amplifier_names, results)):
        statistics = [pair.statistics[number] for pair in pairs]
        fit, used = result.fit, np.flatnonzero(result.used)
        curve: list[float | None] = [None] * len(pairs)
        if fit is not None:
            for k, value in zip(used, fit.model[:, 0, 0]):
                curve[k] = _plain(value)
        amplifiers[name] = {
            "method": result.method,
            "gain": _plain(component.gain[number]),
            "gain_error": _plain(component.gain_error[number]),
            "gain_defined": float(detector.amplifiers[number].gain),
            "read_noise": _plain(component.read_noise[number]),
            "read_noise_error": _plain(component.read_noise_error[number]),
            "full_well": _plain(component.full_well[number]),
            "a": None if fit is None else fit.a.tolist(),
            "a_error": None if fit is None else fit.a_error.tolist(),
            "chi_square": None if fit is None else _plain(fit.chi_square),
            "level_adu": [_plain(each.level) for each in statistics],
            "variance_adu": [_plain(each.covariances[0, 0]) for each in statistics],
            "variance_error_adu": [
                _plain(pair.inflation * each.errors[0, 0]) for pair, each in zip(pairs, statistics)
            ],
            "next_row_adu": [_plain(each.covariances[1, 0]) for each in statistics],
            "next_column_adu": [_plain(each.covariances[0, 1]) for each in statistics],
            "model_adu": curve,
            "used": [bool(use) for use in result.used],
            "saturated": [_plain(pair.saturated[number]) for pair in pairs],
            "rejected": [_plain(each.rejected) for each in statistics],
        }
    return {
        "pairs": [list(pair.frames) for pair in pairs],
        "exposure_time": [_plain(pair.exposure_time) for pair in pairs],
        "left_out": store.left_out(),
        "read_noise_source": source,
        "amplifiers": amplifiers,
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
