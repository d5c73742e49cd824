"""Combined flat (LDM-151 4.1.2.1): the response of the pixels of a detector, with median 1.

Frames are brought to electrons (crosstalk, linearity, bias, gain, dark, brighter-fatter) and divided by their own level. So
the flat holds the response of pixels and amplifiers within the detector; that of detectors among each other stays in
the science frames and goes into the zero point of each detector. Levels are stated, so that detectors can be
compared. Stars on twilight flats, which were dithered, are outliers of single frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
    Replacement,
    assemble,
    to_electrons,
)
from skyquilt.pipelines.calibration_products.combine import (
    CombinedCalibration,
    CommonNoise,
    Scaling,
    check_combine_config,
    combine_stack,
)
from skyquilt.pipelines.calibration_products.frame_stack import (
    NO_REPLACEMENTS,
    FrameRecord,
    Stack,
    amplifier_medians,
    by_amplifier,
    electron_noise,
    for_calibration,
    gather,
    plain,
)
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.statistics import median

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Detector
    from skyquilt.instrument.raw import RawFrame


@dataclass(frozen=True)
class CombineFlatConfig:
    """Options of `combine_flat`."""

    min_frames: int = 2
    """Fewest usable frames [count]."""
    clip: float = 5.0
    """Values further than this from the median of the frames are left out [sigma of the expected noise]."""
    near_clip: float = 2.5
    """Beside a value that stands out upwards, others of the same frame are left out from here on [sigma]."""
    reach: int = 2
    """How far `near_clip` reaches [pixel]; more for twilight flats with wide stars."""
    max_memory: float = 100.0
    """Largest stack held at a time [MB]."""
    min_level: float = 1000.0
    """Frames with a lower median are not used [electron]."""
    max_saturated: float = 0.02
    """Frames with a larger share of saturated pixels are not used."""

    def __post_init__(self) -> None:
        check_combine_config(self)
        if self.min_level <= 0 or not 0 <= self.max_saturated <= 1:
            raise ValueError("combine_flat needs min_level > 0 and max_saturated in 0..1")


def combine_flat(
    read: Callable[[int], RawFrame],
    n_frames: int,
    calibrations: DetectorCalibrations,
    config: CombineFlatConfig,
    isr: InstrumentSignatureRemovalConfig,
    scratch: Path | None = None,
    replacements: Mapping[str, Replacement] = NO_REPLACEMENTS,
) -> CombinedCalibration:
    """Combined flat of one detector: the response, with median 1 over the detector (LDM-151 4.1.2.1).

    Parameters
    ----------
    read, n_frames, isr, scratch, replacements
        As of `combine_bias`.
    calibrations : DetectorCalibrations
        All but flat and fringe are used, as far as they are there; asked for some rows at a time.
    config : CombineFlatConfig

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS. Frames that are too dark or saturated are left out with their reason.
    """
    isr = for_calibration(isr)
    calibrations = replace(calibrations, flat=None, fringe=None)
    gains: list[float] = []

    def look(i: int) -> tuple[Detector, np.ndarray, FrameRecord]:
        raw = read(i)
        frame = assemble(raw, calibrations, isr, replacements=replacements)
        frame = to_electrons(raw, frame, calibrations, isr, replacements=replacements)
        image = frame.image
        saturated = frame.mask.any(["SATURATED"])
        share = float(saturated.mean())
        if share > config.max_saturated:
            raise ProcessingFailure(
                Reason.SATURATED_FRAME,
                f"{share:.1%} of the flat is saturated (limit {config.max_saturated:.1%})",
            )
        image[saturated | frame.mask.any(["BAD"])] = np.nan
        level = median(image)
        if not level >= config.min_level:
            raise ProcessingFailure(
                Reason.EXCLUDED,
                f"median of the flat is {level:.0f} electron (least {config.min_level:.0f})",
            )
        gains[:] = [figures.gain for figures in frame.amplifiers]
        levels = amplifier_medians(raw.detector, image)
        seconds = float(getattr(raw.info, "exposure_time", None) or 0.0)
        return raw.detector, image, FrameRecord(i, level, levels, electron_noise(frame.amplifiers), seconds)

    stack = gather(look, n_frames, "flat", config.min_frames, scratch)
    with stack.closing():
        levels = _common_levels(stack)
        read_variance = stack.read_variance()
        # charge of the dark current was subtracted, its noise was not
        constant = (read_variance + _dark_charge(stack, calibrations)) / levels[:, None] ** 2
        photon = np.broadcast_to(1.0 / levels[:, None], read_variance.shape).copy()
        scaling = Scaling(np.zeros(read_variance.shape), 1.0 / levels, constant, photon, 1.0)
        common = _common_noise(stack, calibrations, scaling.scale, gains)
        combined = combine_stack(stack, scaling, config, "", common, figures=_figures(stack))
    return _normalised(combined)


def _common_levels(stack: Stack) -> np.ndarray:
    """Level of the whole detector in each frame [electron], also in frames that lack an amplifier.

    Medians of the amplifiers are level of the frame times response of the amplifier; with all amplifiers there,
    the level is the frame's own median.
    """
    medians = stack.levels()
    levels = np.array([record.level for record in stack.records])
    complete = (np.isfinite(medians) | ~np.isfinite(medians).any(axis=0)).all(axis=1)
    reference = complete if complete.any() else np.ones(complete.shape, dtype=bool)
    # with a complete frame one turn is exact; otherwise levels and responses follow from each other
    for _ in range(1 if complete.any() else 20):
        response = _column_medians(medians[reference] / levels[reference, None])
        levels = np.where(complete, levels, _column_medians((medians / response).T))
    return levels


def _column_medians(values: np.ndarray) -> np.ndarray:
    return np.array([median(column) for column in values.T])


def _dark_charge(stack: Stack, calibrations: DetectorCalibrations) -> np.ndarray:
    """Median charge of the dark current, float64, shape (frames, amplifiers) [electron]."""
    charge = np.zeros((len(stack.records), len(stack.detector.amplifiers)))
    if calibrations.dark is None:
        return charge
    for number, amplifier in enumerate(stack.detector.amplifiers):
        middle = amplifier.data.y0 + amplifier.data.ny // 2
        box = replace(amplifier.data, y0=middle, ny=1)
        rate = median(calibrations.dark.subimage(box).image)
        charge[:, number] = max(rate, 0.0) * stack.exposure_times() if np.isfinite(rate) else 0.0
    return charge


def _common_noise(
    stack: Stack, calibrations: DetectorCalibrations, scale: np.ndarray, gains: list[float]
) -> list[CommonNoise]:
    """Noise of bias and dark, which all frames share."""
    common = []
    if calibrations.bias is not None:
        common.append(CommonNoise(calibrations.bias, np.outer(scale, gains)))
    if calibrations.dark is not None:
        factors = np.outer(scale * stack.exposure_times(), np.ones(len(gains)))
        common.append(CommonNoise(calibrations.dark, factors))
    return common


def _normalised(combined: CombinedCalibration) -> CombinedCalibration:
    """The flat with median exactly 1; what frames were divided by leaves it a few 1e-4 off."""
    exposure = combined.exposure
    level = median(exposure.image)
    if not level > 0:
        raise ProcessingFailure(Reason.NO_GOOD_PIXELS, f"median of the combined flat is {level}")
    np.divide(exposure.image, np.float32(level), out=exposure.image)
    np.divide(exposure.variance, np.float32(level**2), out=exposure.variance)
    return combined


def _figures(stack: Stack) -> dict[str, Any]:
    medians = stack.levels()
    own = np.array([record.level for record in stack.records])
    return {
        "exposure_times": plain(stack.exposure_times()),
        "amplifier_levels": by_amplifier(stack.detector, list(medians.T)),
        "amplifier_response": by_amplifier(
            stack.detector, [median(column) for column in (medians / own[:, None]).T]
        ),
        "read_noise": by_amplifier(stack.detector, np.sqrt(np.median(stack.read_variance(), axis=0))),
    }
