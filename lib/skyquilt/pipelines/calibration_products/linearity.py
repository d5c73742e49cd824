"""Calibration Products Production (LDM-151 4.1.2.3): linearity of the amplifiers, from flats of one lamp.

The mean of the same pixels in flats of many exposure times; the response of pixels drops out. Linear is what
the limit of little light says. The model is in `linearity_fit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.pipelines.calibration_products.flat_frames import (
    MeasuredFrame,
    measured_frame,
    of_normal_response,
)
from skyquilt.pipelines.calibration_products.flat_pairs import MOST_SATURATED
from skyquilt.pipelines.calibration_products.full_well import turned_over
from skyquilt.pipelines.calibration_products.linearity_fit import Curves, Response, fit_response_curves
from skyquilt.primitives.detector_characterization import Linearizer
from skyquilt.primitives.failure import Outcome, ProcessingFailure, Reason, attempt
from skyquilt.primitives.statistics import binned_statistics

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal import (
        DetectorCalibrations,
        InstrumentSignatureRemovalConfig,
    )
    from skyquilt.instrument.camera import Amplifier, Detector
    from skyquilt.instrument.raw import RawFrame

_LEAST_OFFSET_ERROR = 0.02
"""No zero level is better known than this [ADU]."""

_BEYOND = 1.2
"""Up to so many times its largest level an amplifier's curve goes on, on its tangent."""


@dataclass(frozen=True)
class MeasureLinearityConfig:
    """Options of `measure_linearity`."""

    min_exposure_times: int = 4
    """Fewest different exposure times."""
    min_range: float = 2.0
    """Least ratio of the largest to the smallest exposure time of an amplifier's usable flats."""
    block: int = 32
    """Means are taken in blocks of this side, so that clipping does not see the shape of the light [pixel]."""
    clip: float = 5.0
    """Pixels this much higher than their block's median are left out as hit by particles [sigma]."""
    max_saturated: float = 0.001
    """Blocks with a larger share of saturated pixels are left out; an amplifier without half of them, too."""
    lamp_jitter: float = 0.0005
    """Relative change of the lamp from frame to frame that is expected; what the frames say goes before."""
    max_error: float = 0.005
    """An amplifier whose correction is less certain at its largest level keeps the camera definition's."""
    step: float = 256.0
    """Distance of the knots of the table [ADU]."""

    def __post_init__(self) -> None:
        if self.min_exposure_times < 3 or self.min_range <= 1:
            raise ValueError("linearity needs min_exposure_times >= 3 and min_range > 1")
        if self.block < 4 or self.clip < 3 or self.step <= 0:
            raise ValueError("linearity needs block >= 4 pixels, clip >= 3 sigma and step > 0 ADU")
        if not 0 <= self.max_saturated <= 1 or self.lamp_jitter <= 0 or self.max_error <= 0:
            raise ValueError("linearity needs max_saturated in 0..1, lamp_jitter > 0 and max_error > 0")


@dataclass(frozen=True)
class _Flat:
    """What is kept of a frame: per amplifier means, counts and scatter of blocks, and saturated share."""

    detector: Detector
    exposure_time: float
    time: float
    means: list[np.ndarray]
    counts: list[np.ndarray]
    widths: list[np.ndarray]
    saturated: tuple[float, ...]
    read_noise: tuple[float, ...]


@dataclass(frozen=True)
class _Points:
    """Usable flats of one amplifier: frame numbers, levels of the common blocks (frames, blocks) [ADU]."""

    frames: np.ndarray
    blocks: np.ndarray
    weights: np.ndarray
    offset_error: float

    @property
    def levels(self) -> np.ndarray:
        """Means over the blocks [ADU]."""
        return self.blocks @ self.weights


def measure_linearity(
    read: Callable[[int], RawFrame],
    n_frames: int,
    calibrations: DetectorCalibrations,
    config: MeasureLinearityConfig,
    isr: InstrumentSignatureRemovalConfig,
) -> tuple[Linearizer, dict[str, Any]]:
    """Linearizer of one detector (LDM-151 4.1.2.3).

    Parameters
    ----------
    read : callable
        `read(i)` opens flat i; a ProcessingFailure it raises leaves the frame out with its reason.
    n_frames : int
        Flats 0 .. n_frames - 1 of one filter and a constant lamp, in any order.
    calibrations : DetectorCalibrations
        Bias, crosstalk and defects are used as far as they are there.
    config : MeasureLinearityConfig
    isr : InstrumentSignatureRemovalConfig

    Returns
    -------
    Linearizer
        An amplifier that could not be measured has the camera definition's correction.
    dict
        Plain JSON: frames, lamp, and per amplifier the points, the residuals and the curve.

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS when no amplifier has flats of `config.min_exposure_times` exposure times, or none is
        certain enough.
    """

    def opened(raw: RawFrame) -> MeasuredFrame:
        return measured_frame(
            raw, calibrations, isr, without=("linearity",), max_saturated=config.max_saturated
        )

    def look(i: int) -> _Flat:
        return _flat(opened(read(i)), config)

    outcomes = [attempt(look, i) for i in range(n_frames)]
    flats = [each.value for each in outcomes if each.ok]
    if not flats:
        raise ProcessingFailure(Reason.TOO_FEW_INPUTS, _too_few(0, config, outcomes))
    detector = flats[0].detector
    points = [_points(flats, number, isr.overscan.skip, config) for number in range(len(detector.amplifiers))]
    chosen = [number for number, each in enumerate(points) if each is not None]
    if not chosen:
        most = len({round(flat.exposure_time, 6) for flat in flats})
        raise ProcessingFailure(Reason.TOO_FEW_INPUTS, _too_few(most, config, outcomes))
    used = {number: each for number, each in enumerate(points) if each is not None}
    top = max(float(each.levels.max()) for each in used.values())
    curves = _fit(used, flats, detector, top, config)
    linearizer = _table(detector, used, curves, chosen, top, config)
    if not any(linearizer.measured):
        raise ProcessingFailure(
            Reason.TOO_FEW_INPUTS,
            f"linearity: no amplifier's correction is certain to {config.max_error:.2%} of its largest level "
            f"(lamp jitter {curves.jitter:.2%} between {len(flats)} flats)",
        )
    return linearizer, _figures(detector, flats, outcomes, used, curves, chosen, top, linearizer)


def _too_few(most: int, config: MeasureLinearityConfig, outcomes: list[Outcome]) -> str:
    reasons = ", ".join(sorted(each.reason.value for each in outcomes if each.reason)) or "none"
    return (
        f"linearity: flats of {most} exposure times, at least {config.min_exposure_times} that differ by a factor "
        f"{config.min_range:g} and are not saturated are needed; left out: {reasons}"
    )


def _flat(frame: MeasuredFrame, config: MeasureLinearityConfig) -> _Flat:
    """Blocks of one frame."""
    if not frame.exposure_time > 0:
        raise ProcessingFailure(
            Reason.BAD_HEADER, f"exposure time of a flat is {frame.exposure_time}, expected > 0 s"
        )
    means, counts, widths = [], [], []
    for amplifier in frame.detector.amplifiers:
        part = amplifier.data.slices()
        image, good, block = frame.image[part], frame.good[part], (config.block, config.block)
        cells = binned_statistics(image, block, good, n_sigma=config.clip)
        kept = of_normal_response(image, good, cells, config.block, config.clip, hits=True)
        binned = binned_statistics(image, block, kept, n_sigma=math.inf, iterations=0)
        means.append(binned.mean)
        counts.append(binned.count)
        widths.append(cells.width)
    return _Flat(
        frame.detector,
        frame.exposure_time,
        frame.time,
        means,
        counts,
        widths,
        frame.saturated,
        frame.read_noise,
    )


def _points(flats: list[_Flat], number: int, skip: int, config: MeasureLinearityConfig) -> _Points | None:
    """Usable flats of amplifier `number`, in blocks that all of them have; None when they are too few."""
    amplifier = flats[0].detector.amplifiers[number]
    means = np.array([flat.means[number].ravel() for flat in flats])
    counts = np.array([flat.counts[number].ravel() for flat in flats])
    scatter = np.array([flat.widths[number].ravel() for flat in flats]) ** 2
    lit = (counts > 0).any(axis=1)
    usable = lit & (np.array([flat.saturated[number] for flat in flats]) <= MOST_SATURATED)
    if not usable.any():
        return None
    # a block must keep half of the pixels it has at most, in every flat
    common = (counts[usable] >= 0.5 * counts.max(axis=0)).all(axis=0) & (counts[usable] > 1).all(axis=0)
    if not common.any():
        return None
    weights = np.where(common, counts.max(axis=0), 0)[common] / counts.max(axis=0)[common].sum()
    levels = np.where(usable, np.where(np.isfinite(means[:, common]), means[:, common], 0) @ weights, np.nan)
    usable &= levels > 0
    variance = np.where(usable, np.nanmedian(np.where(usable[:, None], scatter[:, common], 0), axis=1), 0.0)
    # where wells are full the scatter falls, and the response ends; a median of robust widths squared of n pixels
    # has an error of 1.25 x 2.3 / sqrt(n)
    error = 2.9 / math.sqrt(counts.max(axis=0)[common].sum()) * variance
    usable &= turned_over(levels, variance, error, usable)[0]
    times = np.array([flat.exposure_time for flat in flats])[usable]
    if (
        len(set(np.round(times, 6))) < config.min_exposure_times
        or times.max() < config.min_range * times.min()
    ):
        return None
    noise = np.array([flat.read_noise[number] for flat in flats])
    noise = float(np.nanmedian(noise)) if np.isfinite(noise).any() else amplifier.read_noise / amplifier.gain
    pixels = _overscan_pixels(amplifier, skip)
    return _Points(
        np.flatnonzero(usable),
        means[usable][:, common],
        weights,
        math.hypot(noise / math.sqrt(pixels), _LEAST_OFFSET_ERROR),
    )


def _overscan_pixels(amplifier: Amplifier, skip: int) -> int:
    box = amplifier.raw_overscan
    return max(amplifier.data.ny, 1) if box is None else max(box.nx - skip, 1) * box.ny


def _fit(
    used: dict[int, _Points],
    flats: list[_Flat],
    detector: Detector,
    top: float,
    config: MeasureLinearityConfig,
) -> Curves:
    """Curves of the amplifiers; a second turn takes the spread of levels within an amplifier into account."""
    exposure = np.array([flat.exposure_time for flat in flats])
    times = _times(flats)
    responses = []
    for number, points in used.items():
        amplifier = detector.amplifiers[number]
        levels = points.levels
        electrons = levels * amplifier.gain * amplifier.data.nx * amplifier.data.ny
        noise = 1 / electrons + (points.offset_error / levels) ** 2
        responses.append(
            Response(points.frames, levels / top, np.log(levels / exposure[points.frames]), noise)
        )
    curves = fit_response_curves(responses, times, config.lamp_jitter)
    corrected = []
    for k, (response, points) in enumerate(zip(responses, used.values())):
        shape = points.blocks.shape
        blocks = points.blocks * np.exp(curves.at(k, points.blocks.ravel() / top)[0].reshape(shape))
        single = points.levels * np.exp(curves.at(k, response.levels)[0])
        ratio = np.log(blocks @ points.weights / single)
        corrected.append(Response(response.frames, response.levels, response.values + ratio, response.noise))
    return fit_response_curves(corrected, times, config.lamp_jitter)


def _times(flats: list[_Flat]) -> np.ndarray:
    """Times of the flats from 0 to 1; all 0 when they are not known."""
    times = np.array([flat.time for flat in flats])
    if not np.isfinite(times).all() or times.max() == times.min():
        return np.zeros(times.size)
    return (times - times.min()) / (times.max() - times.min())


def _table(
    detector: Detector,
    used: dict[int, _Points],
    curves: Curves,
    chosen: list[int],
    top: float,
    config: MeasureLinearityConfig,
) -> Linearizer:
    """Table of all amplifiers; well beyond its largest level an amplifier keeps the last correction."""
    names = detector.amplifier_names
    defined = Linearizer.from_polynomials(
        names, [amplifier.linearity for amplifier in detector.amplifiers], config.step
    )
    n_knots = math.ceil(_BEYOND * top / config.step) + 1
    if len(chosen) < len(names):
        n_knots = max(n_knots, defined.corrections.shape[1])
    knots = config.step * np.arange(n_knots)
    corrections = np.zeros((len(names), n_knots))
    errors = np.full((len(names), n_knots), np.nan)
    slope_errors = errors.copy()
    measured, largest = [False] * len(names), np.full(len(names), np.nan)
    for number in range(len(names)):
        held = np.minimum(np.arange(n_knots), defined.corrections.shape[1] - 1)
        corrections[number] = defined.corrections[number][held]
    for k, number in enumerate(chosen):
        highest = float(used[number].levels.max())
        curve, error = curves.at(k, knots / top)
        linear = knots * np.exp(curve)
        rising = np.append(np.diff(linear) > 0, False)
        inside = knots <= highest
        if curves.at(k, np.array([highest / top]))[1][0] > config.max_error or not rising[inside].all():
            continue
        # Pixels of the brightest flats are above their mean: the curve goes on as long as it is certain enough.
        good = inside | ((knots <= _BEYOND * highest) & (error <= config.max_error) & rising)
        end = int(np.argmin(good)) if not good.all() else n_knots
        measured[number], largest[number] = True, highest
        corrections[number] = (linear - knots)[np.minimum(np.arange(n_knots), end - 1)]
        errors[number] = np.where(inside, linear * error, np.nan)
        # of v exp(H); the part that H itself has is common to neighbouring levels
        levels = np.minimum(knots, highest) / top
        slope = levels * curves.slope_error(k, levels, config.step / top)
        slope_errors[number] = np.where(inside, np.exp(curve) * slope, np.nan)
    return Linearizer(
        tuple(names), float(config.step), corrections, errors, slope_errors, tuple(measured), largest
    )


def _figures(
    detector: Detector,
    flats: list[_Flat],
    outcomes: list[Outcome],
    used: dict[int, _Points],
    curves: Curves,
    chosen: list[int],
    top: float,
    linearizer: Linearizer,
) -> dict[str, Any]:
    """Plain numbers for manifest and page."""
    amplifiers: dict[str, Any] = {name: {"measured": False, "points": 0} for name in detector.amplifier_names}
    exposure = np.array([flat.exposure_time for flat in flats])
    for k, number in enumerate(chosen):
        points = used[number]
        grid = np.linspace(0, points.levels.max(), 65)
        curve, error = curves.at(k, grid / top)
        amplifiers[detector.amplifier_names[number]] = {
            "measured": linearizer.measured[number],
            "points": int(points.frames.size),
            "largest_adu": float(points.levels.max()),
            "largest_error": float(error[-1]),
            "exposure_time": exposure[points.frames].tolist(),
            "level_adu": points.levels.tolist(),
            "residual": curves.residuals(k).tolist(),
            "curve_level_adu": grid.tolist(),
            "curve": np.expm1(curve).tolist(),
            "curve_error": error.tolist(),
        }
    return {
        "lamp_jitter": curves.jitter,
        "lamp_drift": curves.drift,
        "curvature": list(curves.curvature),
        "lamp": curves.lamp.tolist(),
        "lamp_error": curves.lamp_error.tolist(),
        "exposure_time": exposure.tolist(),
        "left_out": [
            {"frame": each.item, "reason": each.reason.value, "detail": each.detail}
            for each in outcomes
            if each.reason
        ],
        "amplifiers": amplifiers,
    }
