"""Calibration Products Production (LDM-151 4): combined bias and flat of one detector.

Each frame is read and assembled once and waits in a file without a name, 4 bytes per pixel. Frames are then
combined in blocks of rows: the stack in memory is frames x rows x nx x 4 bytes, at most `max_memory` of the
configuration, plus the result (10 bytes per pixel). Before, one raw frame and its assembled image and mask are
in memory.

Outliers are found against the noise that each frame is expected to have (read noise measured in its overscan,
photon noise of the median), not against the scatter of a few values, so that one cosmic ray among three
frames goes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.algorithms.instrument_signature_removal import (
    InstrumentSignatureRemovalConfig,
    assemble,
)
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import Outcome, ProcessingFailure, Reason, attempt
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.statistics import median

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal import CalibrationPixels
    from skyquilt.instrument.camera import Detector
    from skyquilt.instrument.raw import RawFrame


_ROWS = 256


@dataclass(frozen=True)
class CombineBiasConfig:
    """Options of `combine_bias`."""

    min_frames: int = 3
    """Fewest usable frames."""
    clip: float = 5.0
    """Values further than this from the median of the frames are left out [sigma of the expected noise]."""
    max_memory: float = 100.0
    """Largest stack held at a time [MB]."""
    isr: InstrumentSignatureRemovalConfig = field(default_factory=InstrumentSignatureRemovalConfig)
    """Overscan and masks of the single frames."""

    def __post_init__(self) -> None:
        _check(self.min_frames, self.clip, self.max_memory)


@dataclass(frozen=True)
class CombineFlatConfig:
    """Options of `combine_flat`."""

    min_frames: int = 2
    """Fewest usable frames."""
    clip: float = 5.0
    """Values further than this from the median of the frames are left out [sigma of the expected noise]."""
    max_memory: float = 100.0
    """Largest stack held at a time [MB]."""
    min_level: float = 1000.0
    """Frames with a lower median are not used [electron]."""
    max_saturated: float = 0.02
    """Frames with a larger share of saturated pixels are not used."""
    isr: InstrumentSignatureRemovalConfig = field(default_factory=InstrumentSignatureRemovalConfig)
    """Overscan and masks of the single frames."""

    def __post_init__(self) -> None:
        _check(self.min_frames, self.clip, self.max_memory)
        if self.min_level <= 0 or not 0 <= self.max_saturated <= 1:
            raise ValueError("combine_flat needs min_level > 0 and max_saturated in 0..1")


def _check(min_frames: int, clip: float, max_memory: float) -> None:
    if min_frames < 1 or clip < 2 or max_memory <= 0:
        raise ValueError(
            "combining needs min_frames >= 1, clip >= 2 and max_memory > 0, got "
            f"{min_frames}, {clip}, {max_memory}"
        )


@dataclass(frozen=True)
class CombinedCalibration:
    """A combined calibration frame.

    Parameters
    ----------
    exposure : Exposure
        Image, variance of the mean, mask (BAD and NaN where no frame has a value).
    counts : ndarray of int16, shape (ny, nx)
        Frames used at each pixel.
    frames : tuple of Outcome
        One per frame handed in; the value is its level (0 for bias [ADU], median for flats [electron]).
    rejected : float
        Share of values left out as outliers.
    """

    exposure: Exposure
    counts: np.ndarray
    frames: tuple[Outcome, ...]
    rejected: float


@dataclass(frozen=True)
class _Frame:
    """What is kept of a frame between blocks: index, level, and per amplifier noise constants."""

    index: int
    level: float
    constant: tuple[float, ...]
    photon: tuple[float, ...]


@kernel(
    "int64(const(float32[:, :, :]), const(float64[:]), const(float64[:]), const(float64[:]), float64, "
    "float32[:, :], float32[:, :], int16[:, :])"
)
def clipped_combination(stack, constant, photon, weights, clip, mean, variance, counts):
    """Weighted mean over frames of what lies within `clip` expected sigma of the median; number left out.

    Parameters
    ----------
    stack : float32, shape (frames, ny, nx)
        Values that are not finite do not count.
    constant, photon : float64, shape (frames,)
        Expected variance of a value: constant + photon * max(median, 0).
    weights : float64, shape (frames,)
        Of the mean: one number per frame, so that bright pixels are not weighted down.
    mean, variance, counts : float32, float32, int16, shape (ny, nx)
        Written; NaN, NaN and 0 where no frame has a value.
    """
    frames, rows, columns = stack.shape
    values = np.empty(frames)
    rejected = 0
    for j in range(rows):
        for i in range(columns):
            n = 0
            for k in range(frames):
                value = np.float64(stack[k, j, i])
                if np.isfinite(value):
                    # insertion keeps the values sorted: frames are few
                    m = n
                    while m > 0 and values[m - 1] > value:
                        values[m] = values[m - 1]
                        m -= 1
                    values[m] = value
                    n += 1
            if n == 0:
                mean[j, i] = np.nan
                variance[j, i] = np.nan
                counts[j, i] = 0
                continue
            middle = 0.5 * (values[(n - 1) // 2] + values[n // 2])
            total = 0.0
            weight = 0.0
            noise = 0.0
            used = 0
            for k in range(frames):
                value = np.float64(stack[k, j, i])
                if not np.isfinite(value):
                    continue
                expected = constant[k] + photon[k] * max(middle, 0.0)
                # with two frames the median is midway: both would go at once
                if n > 2 and (value - middle) ** 2 > clip * clip * expected:
                    rejected += 1
                    continue
                total += weights[k] * value
                weight += weights[k]
                noise += weights[k] * weights[k] * expected
                used += 1
            if used == 0:
                mean[j, i] = middle
                variance[j, i] = np.nan
                counts[j, i] = 0
                continue
            mean[j, i] = total / weight
            variance[j, i] = noise / (weight * weight)
            counts[j, i] = used
    return rejected


def combine_bias(
    read: Callable[[int], RawFrame], n_frames: int, config: CombineBiasConfig, scratch: Path | None = None
) -> CombinedCalibration:
    """Combined bias of one detector [ADU above overscan] (LDM-151 4).

    Parameters
    ----------
    read : callable
        `read(i)` opens frame i; a ProcessingFailure it raises leaves the frame out with its reason.
    n_frames : int
        Frames 0 .. n_frames - 1.
    config : CombineBiasConfig
    scratch : Path, optional
        Directory of a disk with room for the frames (4 bytes per pixel each) while they are combined; the
        system's directory for temporary files by default.

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS with fewer than `config.min_frames` usable frames.
    """

    def look(i: int) -> tuple[Detector, np.ndarray, _Frame]:
        raw = read(i)
        frame = assemble(raw, config.isr)
        noise = tuple(
            (figures.read_noise / amplifier.gain) ** 2
            for amplifier, figures in zip(raw.detector.amplifiers, frame.amplifiers)
        )
        return raw.detector, frame.image, _Frame(i, 0.0, noise, (0.0,) * len(noise))

    return _combine(look, n_frames, config, "adu", "bias", scratch)


def combine_flat(
    read: Callable[[int], RawFrame],
    n_frames: int,
    bias: CalibrationPixels | None,
    config: CombineFlatConfig,
    scratch: Path | None = None,
) -> CombinedCalibration:
    """Combined flat of one detector: the response, with median 1 over the detector (LDM-151 4).

    Each frame is divided by its own median over the detector after bias and gain. So the flat holds the
    response of pixels and amplifiers within the detector; that of detectors among each other stays in the
    science frames and goes into the zero point of each detector.

    Parameters
    ----------
    read, n_frames, scratch
        As of `combine_bias`.
    bias : Exposure, CalibrationPixels or None
        [ADU]; asked for some rows at a time, for every frame.
    config : CombineFlatConfig

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS; WRONG_SHAPE when the bias does not fit.
    """

    def look(i: int) -> tuple[Detector, np.ndarray, _Frame]:
        detector, image, saturated, read_noise = _assembled(read(i), config.isr)
        level = _to_electrons(detector, image, bias)
        share = float(saturated.mean())
        if share > config.max_saturated:
            raise ProcessingFailure(
                Reason.SATURATED_FRAME,
                f"{share:.1%} of the flat is saturated (limit {config.max_saturated:.1%})",
            )
        image[saturated] = np.nan
        if not level >= config.min_level:
            raise ProcessingFailure(
                Reason.EXCLUDED,
                f"median of the flat is {level:.0f} electron (least {config.min_level:.0f})",
            )
        np.divide(image, np.float32(level), out=image)
        noise = tuple((each / level) ** 2 for each in read_noise)
        return detector, image, _Frame(i, level, noise, (1.0 / level,) * len(noise))

    return _combine(look, n_frames, config, "", "flat", scratch)


def _assembled(
    raw: RawFrame, isr: InstrumentSignatureRemovalConfig
) -> tuple[Detector, np.ndarray, np.ndarray, list[float]]:
    """Detector, image [ADU], saturated pixels and read noise of the amplifiers; raw and mask are let go."""
    frame = assemble(raw, isr)
    read_noise = [figures.read_noise for figures in frame.amplifiers]
    return raw.detector, frame.image, frame.mask.any(["SATURATED"]), read_noise


def _to_electrons(detector: Detector, image: np.ndarray, bias: CalibrationPixels | None) -> float:
    """Subtract the bias and multiply by the gain, in place; the median of the detector [electron]."""
    if bias is not None:
        if bias.box.shape != image.shape:
            raise ProcessingFailure(
                Reason.WRONG_SHAPE, f"bias has shape {bias.box.shape}, the detector {image.shape}"
            )
        for start in range(0, detector.ny, _ROWS):
            strip = Box(0, start, detector.nx, min(_ROWS, detector.ny - start))
            image[strip.slices()] -= bias.subimage(strip).image
    for amplifier in detector.amplifiers:
        image[amplifier.data.slices()] *= np.float32(amplifier.gain)
    return median(image)


def _combine(
    look: Callable[[int], tuple[Detector, np.ndarray, _Frame]],
    n_frames: int,
    config: CombineBiasConfig | CombineFlatConfig,
    unit: str,
    kind: str,
    scratch: Path | None,
) -> CombinedCalibration:
    """Every frame into a file, one after the other; then row blocks of all frames, combined."""
    outcomes: list[Outcome] = []
    frames: list[_Frame] = []
    detector: Detector | None = None
    with tempfile.TemporaryFile(dir=scratch) as waiting:
        for i in range(n_frames):
            outcome = attempt(look, i)
            if outcome.ok:
                detector, image, frame = outcome.value
                waiting.write(np.ascontiguousarray(image).data)
                frames.append(frame)
                outcome = Outcome(i, frame.level)
                # pixels of this frame must not stay while the next one is read
                del image
            outcomes.append(outcome)
        if detector is None or len(frames) < config.min_frames:
            raise ProcessingFailure(
                Reason.TOO_FEW_INPUTS, _too_few(kind, len(frames), config.min_frames, outcomes)
            )
        result = _Result(detector)
        rows = _block_rows(len(frames), detector, config.max_memory)
        for start in range(0, detector.ny, rows):
            stack = np.empty((len(frames), min(rows, detector.ny - start), detector.nx), dtype=np.float32)
            for number, part in enumerate(stack):
                waiting.seek(4 * detector.nx * (number * detector.ny + start))
                waiting.readinto(part)
            result.add_block(stack, frames, start, config.clip)
            del stack
    return result.finished(unit, tuple(outcomes))


def _block_rows(n_frames: int, detector: Detector, max_memory: float) -> int:
    return int(np.clip(max_memory * 1e6 // (4 * n_frames * detector.nx), 1, detector.ny))


def _too_few(kind: str, found: int, least: int, outcomes: list[Outcome]) -> str:
    reasons = sorted(outcome.reason.value for outcome in outcomes if not outcome.ok)
    left_out = ", ".join(reasons) or "none"
    return f"{kind}: {found} usable frames, at least {least} are needed; left out: {left_out}"


class _Result:
    """Planes of the combined frame, filled block by block."""

    def __init__(self, detector: Detector) -> None:
        shape = (detector.ny, detector.nx)
        self.detector = detector
        self.mean = np.full(shape, np.nan, np.float32)
        self.variance = np.full(shape, np.nan, np.float32)
        self.counts = np.zeros(shape, np.int16)
        self.rejected = 0
        self.values = 0

    def add_block(self, stack: np.ndarray, frames: list[_Frame], start: int, clip: float) -> None:
        """Combine rows start .. start + stack.shape[1], amplifier by amplifier."""
        for number, rows, columns in _amplifier_parts(self.detector, start, stack.shape[1]):
            constant = np.array([frame.constant[number] for frame in frames])
            photon = np.array([frame.photon[number] for frame in frames])
            weights = 1.0 / np.maximum(constant + photon, 1e-30)
            part = (slice(start + rows.start, start + rows.stop), columns)
            block = stack[:, rows, columns]
            self.values += int(np.isfinite(block).sum())
            self.rejected += clipped_combination(
                block,
                constant,
                photon,
                weights / weights.max(),
                float(clip),
                self.mean[part],
                self.variance[part],
                self.counts[part],
            )

    def finished(self, unit: str, outcomes: tuple[Outcome, ...]) -> CombinedCalibration:
        """The combined calibration."""
        mask = Mask.blank(self.mean.shape)
        mask.set(["BAD"], self.counts == 0)
        self.mean[self.counts == 0] = np.nan
        box = Box(0, 0, self.detector.nx, self.detector.ny)
        exposure = Exposure(image=self.mean, mask=mask, variance=self.variance, box=box, unit=unit)
        return CombinedCalibration(exposure, self.counts, outcomes, self.rejected / max(self.values, 1))


def _amplifier_parts(detector: Detector, start: int, n_rows: int) -> Iterator[tuple[int, slice, slice]]:
    """Number, rows (counted from `start`) and columns of each amplifier that has rows in the block."""
    for number, amplifier in enumerate(detector.amplifiers):
        first = max(amplifier.data.y0 - start, 0)
        last = min(amplifier.data.y1 - start, n_rows)
        if first < last:
            yield number, slice(first, last), slice(amplifier.data.x0, amplifier.data.x1)
