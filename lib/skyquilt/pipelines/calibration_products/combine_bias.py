"""Combined bias (LDM-151 4.1.2.1): the pattern that a detector shows without light and without time.

Frames are assembled, linearized ADU above overscan. An amplifier without overscan keeps its level in the bias; what its
level drifts from frame to frame is fitted out (each frame is shifted to the median level of all) and stated, because
science frames of such a camera are off by as much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
    Replacement,
    assemble,
)
from skyquilt.pipelines.calibration_products.combine import (
    CombinedCalibration,
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
    for_calibration,
    gather,
    odd_levels,
)
from skyquilt.primitives.statistics import median

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Detector
    from skyquilt.instrument.raw import RawFrame


@dataclass(frozen=True)
class CombineBiasConfig:
    """Options of `combine_bias`."""

    min_frames: int = 3
    """Fewest usable frames [count]."""
    clip: float = 5.0
    """Values further than this from the median of the frames are left out [sigma of the expected noise]."""
    near_clip: float = 3.0
    """Beside a value that stands out upwards, others of the same frame are left out from here on [sigma]."""
    reach: int = 1
    """How far `near_clip` reaches [pixel]."""
    max_memory: float = 100.0
    """Largest stack held at a time [MB]."""
    max_level_difference: float = 2.0
    """Frames whose level above overscan differs by more from that of the median frame are left out: they saw
    light [read noise]."""

    def __post_init__(self) -> None:
        check_combine_config(self)
        if self.max_level_difference <= 0:
            raise ValueError(f"max_level_difference must be positive, got {self.max_level_difference}")


def combine_bias(
    read: Callable[[int], RawFrame],
    n_frames: int,
    config: CombineBiasConfig,
    isr: InstrumentSignatureRemovalConfig,
    scratch: Path | None = None,
    replacements: Mapping[str, Replacement] = NO_REPLACEMENTS,
) -> CombinedCalibration:
    """Combined bias of one detector [ADU above overscan] (LDM-151 4.1.2.1).

    Parameters
    ----------
    read : callable
        `read(i)` opens frame i; a ProcessingFailure it raises leaves the frame out with its reason.
    n_frames : int
        Frames 0 .. n_frames - 1.
    config : CombineBiasConfig
    isr : InstrumentSignatureRemovalConfig
        Of the single frames.
    scratch : Path, optional
        Directory of a disk with room for the frames (4 bytes per pixel each) while they are combined; the
        system's directory for temporary files by default.
    replacements : mapping of step to callable
        Of `load_replacements`, for the steps in `isr.replace`.

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS with fewer than `config.min_frames` usable frames.
    """
    isr = for_calibration(isr)
    without_overscan: set[int] = set()

    def look(i: int) -> tuple[Detector, np.ndarray, FrameRecord]:
        raw = read(i)
        detector = raw.detector
        frame = assemble(raw, DetectorCalibrations(), isr, replacements=replacements)
        variance = []
        for number, figures in enumerate(frame.amplifiers):
            variance.append(max((figures.read_noise / figures.gain) ** 2, 1.0 / 12.0))
            if figures.status == "good" and not np.isfinite(figures.overscan_level):
                without_overscan.add(number)
        image = frame.image
        image[frame.mask.any(["SATURATED"])] = np.nan
        levels = amplifier_medians(detector, image)
        return detector, image, FrameRecord(i, median(image), levels, tuple(variance))

    stack = gather(look, n_frames, "bias", config.min_frames, scratch)
    with stack.closing():
        if len(without_overscan) < len(stack.detector.amplifiers):
            _leave_out_lit_frames(stack, without_overscan, config)
        stack.require("bias", config.min_frames)
        drift = _drift(stack, without_overscan)
        shape = drift.shape
        scaling = Scaling(drift, np.ones(shape[0]), stack.read_variance(), np.zeros(shape), 0.0)
        return combine_stack(stack, scaling, config, "adu", figures=_figures(stack, drift, without_overscan))


def _leave_out_lit_frames(stack: Stack, without_overscan: set[int], config: CombineBiasConfig) -> None:
    """Frames whose level above overscan is not that of the others."""
    with_overscan = [n for n in range(len(stack.detector.amplifiers)) if n not in without_overscan]
    offsets = stack.levels()[:, with_overscan]
    noise = np.sqrt(stack.read_variance()[:, with_overscan])
    odd = odd_levels(
        [record.index for record in stack.records],
        _row_medians(offsets),
        config.max_level_difference * _row_medians(noise),
        "level [ADU]",
    )
    stack.leave_out(odd)


def _row_medians(values: np.ndarray) -> np.ndarray:
    return np.array([median(row) for row in values])


def _drift(stack: Stack, without_overscan: set[int]) -> np.ndarray:
    """Level of each frame minus that of the median frame, 0 where the overscan has taken it off."""
    levels = stack.levels()
    drift = np.zeros(levels.shape)
    for number in sorted(without_overscan):
        offset = levels[:, number] - median(levels[:, number])
        drift[:, number] = np.where(np.isfinite(offset), offset, 0.0)
    return drift


def _figures(stack: Stack, drift: np.ndarray, without_overscan: set[int]) -> dict[str, Any]:
    detector = stack.detector
    figures: dict[str, Any] = {
        "read_noise_adu": by_amplifier(detector, np.sqrt(np.median(stack.read_variance(), axis=0))),
    }
    if without_overscan:
        names = [detector.amplifiers[n].name for n in sorted(without_overscan)]
        columns = drift[:, sorted(without_overscan)]
        figures["no_overscan"] = names
        figures["level_drift_adu"] = {n: [float(v) for v in c] for n, c in zip(names, columns.T)}
    return figures
