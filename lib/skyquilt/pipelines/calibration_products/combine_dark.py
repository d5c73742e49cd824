"""Combined dark (LDM-151 4.1.2.1): the charge that gathers without light, in electrons per second.

Frames may have any exposure times: rates are averaged with weights by read noise and dark current, which grow
with the square of the time while read noise counts. Hot pixels stay in the dark; those whose rate differs from
frame to frame (nonlinear or unsteady ones) are SUSPECT, for `find_defects`. Cosmic rays stand out against the noise that
each frame is expected to have: with two frames the lower value holds, with a single one tracks of
several pixels are masked by their shape, while a hit of one pixel cannot be told from a hot pixel.
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
from skyquilt.pipelines.calibration_products.defect_search import running_median
from skyquilt.pipelines.calibration_products.frame_stack import (
    NO_REPLACEMENTS,
    FrameRecord,
    Stack,
    amplifier_medians,
    by_amplifier,
    electron_noise,
    for_calibration,
    gather,
    odd_levels,
    plain,
)
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.statistics import median

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Detector
    from skyquilt.instrument.raw import RawFrame


_HALF_WINDOW = 20


@dataclass(frozen=True)
class CombineDarkConfig:
    """Options of `combine_dark`."""

    min_frames: int = 1
    """Fewest usable frames [count]; with one, only cosmic rays of several pixels are known."""
    clip: float = 5.0
    """Values further than this from the median of the frames are left out [sigma of the expected noise]."""
    near_clip: float = 2.5
    """Beside a value that stands out upwards, others of the same frame are left out from here on [sigma]."""
    reach: int = 2
    """How far `near_clip` reaches [pixel]."""
    max_memory: float = 100.0
    """Largest stack held at a time [MB]."""
    max_level_difference: float = 2.0
    """Frames whose charge differs by more from what the median frame's rate gives are left out: they saw light
    [its noise in a pixel]."""
    track_pixels: int = 3
    """With a single frame: connected pixels above `clip` in this number or more are a cosmic ray [pixel]."""

    def __post_init__(self) -> None:
        check_combine_config(self)
        if self.max_level_difference <= 0 or self.track_pixels < 2:
            raise ValueError(
                "combine_dark needs max_level_difference > 0 and track_pixels >= 2, got "
                f"{self.max_level_difference}, {self.track_pixels}"
            )


def combine_dark(
    read: Callable[[int], RawFrame],
    n_frames: int,
    calibrations: DetectorCalibrations,
    config: CombineDarkConfig,
    isr: InstrumentSignatureRemovalConfig,
    scratch: Path | None = None,
    replacements: Mapping[str, Replacement] = NO_REPLACEMENTS,
) -> CombinedCalibration:
    """Combined dark of one detector [electron / s] (LDM-151 4.1.2.1).

    Parameters
    ----------
    read, n_frames, isr, scratch, replacements
        As of `combine_bias`.
    calibrations : DetectorCalibrations
        Bias, crosstalk, linearizer and photon transfer are used as far as they are there.
    config : CombineDarkConfig

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS; NO_CALIBRATION when an amplifier has no overscan and there is no bias.
    """
    isr = for_calibration(isr)
    calibrations = replace(calibrations, dark=None, flat=None, fringe=None, brighter_fatter=None)
    gains: list[float] = []

    def look(i: int) -> tuple[Detector, np.ndarray, FrameRecord]:
        raw = read(i)
        seconds = getattr(raw.info, "exposure_time", None)
        if seconds is None or not 0 < seconds < np.inf:
            raise ProcessingFailure(Reason.BAD_HEADER, f"exposure time of a dark is {seconds!r} s")
        frame = assemble(raw, calibrations, isr, replacements=replacements)
        frame = to_electrons(raw, frame, calibrations, isr, replacements=replacements)
        _require_level(frame.amplifiers, calibrations)
        gains[:] = [figures.gain for figures in frame.amplifiers]
        image = frame.image
        image[frame.mask.any(["SATURATED", "BAD"])] = np.nan
        levels = amplifier_medians(raw.detector, image)
        record = FrameRecord(i, median(image), levels, electron_noise(frame.amplifiers), float(seconds))
        return raw.detector, image, record

    stack = gather(look, n_frames, "dark", config.min_frames, scratch)
    with stack.closing():
        _leave_out_lit_frames(stack, config)
        stack.require("dark", config.min_frames)
        scaling = _scaling(stack)
        common = []
        if calibrations.bias is not None:
            common.append(CommonNoise(calibrations.bias, np.outer(scaling.scale, gains)))
        tracks = _mask_tracks(stack, config) if len(stack.records) == 1 else None
        combined = combine_stack(stack, scaling, config, "electron/s", common, figures=_figures(stack))
        if tracks is not None:
            combined.exposure.mask.set(["COSMIC_RAY"], tracks)
            combined.figures["cosmic_ray_pixels"] = int(tracks.sum())
        return combined


def _require_level(amplifiers: Any, calibrations: DetectorCalibrations) -> None:
    bare = [a.name for a in amplifiers if a.status == "good" and not np.isfinite(a.overscan_level)]
    if bare and calibrations.bias is None:
        raise ProcessingFailure(
            Reason.NO_CALIBRATION, f"amplifiers {', '.join(bare)} have no overscan, so a dark needs a bias"
        )


def _leave_out_lit_frames(stack: Stack, config: CombineDarkConfig) -> None:
    """Frames whose rate is not that of the median frame, by more than noise of their pixels allows."""
    seconds = stack.exposure_times()
    charge = np.array([record.level for record in stack.records])
    noise = np.sqrt(np.median(stack.read_variance(), axis=1) + max(float(np.median(charge)), 0.0))
    odd = odd_levels(
        [record.index for record in stack.records],
        charge / seconds,
        config.max_level_difference * noise / seconds,
        "dark current [electron / s]",
    )
    stack.leave_out(odd)


def _scaling(stack: Stack) -> Scaling:
    seconds = stack.exposure_times()[:, None]
    read_variance = stack.read_variance()
    rates = np.array([record.level for record in stack.records]) / seconds[:, 0]
    return Scaling(
        np.zeros(read_variance.shape),
        1.0 / seconds[:, 0],
        read_variance / seconds**2,
        np.broadcast_to(1.0 / seconds, read_variance.shape).copy(),
        max(float(np.median(rates)), 0.0),
    )


def _mask_tracks(stack: Stack, config: CombineDarkConfig) -> np.ndarray:
    """Cosmic rays of a single frame: NaN in the store; where they are, bool, shape (ny, nx).

    Connected pixels above `clip` are a track when they are `track_pixels` or more.
    """
    from scipy import ndimage

    image = stack.store.frame(stack.places[0])
    where = np.zeros(image.shape, dtype=bool)
    for number, amplifier in enumerate(stack.detector.amplifiers):
        part = image[amplifier.data.slices()]
        level = _local_level(part)
        noise = np.sqrt(stack.records[0].read_variance[number] + np.maximum(level, 0.0))
        # NaN compares as False
        where[amplifier.data.slices()] = part - level > config.clip * noise
    labels, n = ndimage.label(where, structure=np.ones((3, 3)))
    tracks = np.zeros(n + 1, dtype=bool)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        tracks[label] = (labels[box] == label).sum() >= config.track_pixels
    hit = tracks[labels]
    hit = ndimage.binary_dilation(hit, structure=np.ones((3, 3))) if hit.any() else hit
    image[hit] = np.nan
    stack.store.replace(stack.places[0], image)
    return hit


def _local_level(part: np.ndarray) -> np.ndarray:
    """The higher of the running medians along row and column; float32, shape of `part`.

    So neither a glow at an edge nor a bright column is a track.
    """
    along, across = np.empty(part.shape, np.float32), np.empty(part.shape[::-1], np.float32)
    running_median(part, _HALF_WINDOW, along)
    running_median(np.ascontiguousarray(part.T), _HALF_WINDOW, across)
    return np.fmax(along, across.T)


def _figures(stack: Stack) -> dict[str, Any]:
    seconds = stack.exposure_times()
    rates = stack.levels() / seconds[:, None]
    return {
        "exposure_times": plain(seconds),
        "dark_current": by_amplifier(stack.detector, [median(column) for column in rates.T]),
        "read_noise": by_amplifier(stack.detector, np.sqrt(np.median(stack.read_variance(), axis=0))),
    }
