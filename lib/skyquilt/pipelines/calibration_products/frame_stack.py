"""Calibration Products Production (LDM-151 4.1.2.1): the frames of one detector that wait to be combined.

Frames are read and assembled once, one after the other, and wait in a file without a name, 4 bytes per pixel. In memory
is only what is said of each (`FrameRecord`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.primitives.failure import Outcome, ProcessingFailure, Reason, attempt
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.statistics import median

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal import (
        AmplifierFigures,
        InstrumentSignatureRemovalConfig,
        Replacement,
    )
    from skyquilt.instrument.camera import Detector

NO_REPLACEMENTS: Mapping[str, Replacement] = {}
"""Replaced steps of signature removal: none."""


@dataclass(frozen=True)
class FrameRecord:
    """What is kept of a frame in memory.

    Parameters
    ----------
    index : int
        Number of the frame among those handed in.
    level : float
        Median of the detector, in the unit of the stored pixels.
    amplifier_levels : tuple of float
        Medians of the amplifiers; NaN for one without data.
    read_variance : tuple of float
        Variance of read-out of a pixel, per amplifier, in the square of the unit.
    exposure_time : float
        [s].
    """

    index: int
    level: float
    amplifier_levels: tuple[float, ...]
    read_variance: tuple[float, ...]
    exposure_time: float = 0.0


class FrameStore:
    """Assembled frames of one shape, in a file without a name."""

    def __init__(self, shape: tuple[int, int], scratch: Path | None) -> None:
        self.shape = shape
        self.size = 0
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def append(self, image: np.ndarray) -> None:
        """Store a float32 frame; ProcessingFailure WRONG_SHAPE when it has another shape."""
        if image.shape != self.shape:
            raise ProcessingFailure(
                Reason.WRONG_SHAPE, f"the frame has shape {image.shape}, the detector {self.shape}"
            )
        self.replace(self.size, image)
        self.size += 1

    def replace(self, number: int, image: np.ndarray) -> None:
        """Store a frame in the place of another."""
        self._file.seek(4 * number * image.size)
        self._file.write(np.ascontiguousarray(image, dtype=np.float32).data)

    def frame(self, number: int) -> np.ndarray:
        """One frame, float32, shape (ny, nx)."""
        return self.rows([number], 0, self.shape[0])[0]

    def rows(self, numbers: Sequence[int], start: int, stop: int) -> np.ndarray:
        """Rows start .. stop of some frames, float32, shape (frames, rows, nx)."""
        ny, nx = self.shape
        stack = np.empty((len(numbers), stop - start, nx), dtype=np.float32)
        for number, part in zip(numbers, stack):
            self._file.seek(4 * nx * (number * ny + start))
            self._file.readinto(part)
        return stack


@dataclass(eq=False)
class Stack:
    """Usable frames of one detector, waiting to be combined.

    Parameters
    ----------
    detector : Detector
    store : FrameStore
    records : list of FrameRecord
        Of the frames in use, and `places` their numbers in the store.
    outcomes : list of Outcome
        One per frame handed in.
    """

    detector: Detector
    store: FrameStore
    records: list[FrameRecord]
    places: list[int]
    outcomes: list[Outcome]

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Let the stored frames go at the end."""
        try:
            yield
        finally:
            self.store.close()

    def leave_out(self, reasons: Mapping[int, str]) -> None:
        """Leave frames out by their index, EXCLUDED for the reason given."""
        for index, detail in reasons.items():
            self.outcomes[index] = Outcome(index, None, Reason.EXCLUDED, detail)
        kept = [(r, p) for r, p in zip(self.records, self.places) if r.index not in reasons]
        self.records, self.places = [r for r, _ in kept], [p for _, p in kept]

    def require(self, kind: str, least: int) -> None:
        """Raise ProcessingFailure TOO_FEW_INPUTS with fewer frames than `least`."""
        if len(self.records) >= least:
            return
        reasons = sorted(f"{o.reason.value} ({o.detail})" for o in self.outcomes if not o.ok)
        raise ProcessingFailure(
            Reason.TOO_FEW_INPUTS,
            f"{kind}: {len(self.records)} usable frames, at least {least} are needed; left out: "
            + ("; ".join(reasons) or "none"),
        )

    def amplifier_numbers(self, start: int, stop: int) -> np.ndarray:
        """Number of the amplifier of each pixel in some rows, -1 for none; int16, shape (rows, nx)."""
        numbers = np.full((stop - start, self.detector.nx), -1, np.int16)
        strip = Box(0, start, self.detector.nx, stop - start)
        for number, amplifier in enumerate(self.detector.amplifiers):
            box = amplifier.data.overlap(strip)
            if box is not None:
                numbers[box.slices(strip)] = number
        return numbers

    def levels(self) -> np.ndarray:
        """Levels of the amplifiers, float64, shape (frames, amplifiers)."""
        return np.array([record.amplifier_levels for record in self.records])

    def read_variance(self) -> np.ndarray:
        """Variance of read-out, float64, shape (frames, amplifiers)."""
        return np.array([record.read_variance for record in self.records])

    def exposure_times(self) -> np.ndarray:
        """[s], float64, shape (frames,)."""
        return np.array([record.exposure_time for record in self.records])


def gather(
    look: Callable[[int], tuple[Detector, np.ndarray, FrameRecord]],
    n_frames: int,
    kind: str,
    least: int,
    scratch: Path | None,
) -> Stack:
    """Every usable frame into a store, one after the other.

    Parameters
    ----------
    look : callable
        `look(i)` gives detector, float32 image and record of frame i; a ProcessingFailure leaves it out.
    least : int
        TOO_FEW_INPUTS with fewer usable frames.
    """
    stack: Stack | None = None
    outcomes: list[Outcome] = []

    def keep(i: int) -> FrameRecord:
        nonlocal stack
        detector, image, record = look(i)
        if stack is None:
            stack = Stack(detector, FrameStore((detector.ny, detector.nx), scratch), [], [], outcomes)
        stack.store.append(image)
        stack.records.append(record)
        stack.places.append(stack.store.size - 1)
        return record

    try:
        for i in range(n_frames):
            outcome = attempt(keep, i)
            outcomes.append(Outcome(i, outcome.value.level) if outcome.ok else outcome)
        if stack is None:
            Stack(None, None, [], [], outcomes).require(kind, max(least, 1))  # type: ignore[arg-type]
        stack.require(kind, least)
    except BaseException:
        if stack is not None:
            stack.store.close()
        raise
    return stack


def amplifier_medians(detector: Detector, image: np.ndarray) -> tuple[float, ...]:
    """Median of each amplifier's pixels, NaN for one without data."""
    return tuple(median(image[amplifier.data.slices()]) for amplifier in detector.amplifiers)


def for_calibration(isr: InstrumentSignatureRemovalConfig) -> InstrumentSignatureRemovalConfig:
    """Signature removal of calibration frames: what science frames require is being made only now."""
    return replace(isr, require=())


def electron_noise(amplifiers: Sequence[AmplifierFigures]) -> tuple[float, ...]:
    """Variance of read-out of a pixel per amplifier [electron^2], at least that of whole ADU."""
    return tuple(max(each.read_noise**2, each.gain**2 / 12.0) for each in amplifiers)


def odd_levels(indices: Sequence[int], levels: np.ndarray, limits: np.ndarray, what: str) -> dict[int, str]:
    """Frames whose level is further than its limit from the median of three or more: index -> detail."""
    if len(indices) < 3:
        return {}
    middle = float(np.median(levels))
    return {
        index: f"{what} is {level:.6g}, that of the median frame {middle:.6g} (limit of the difference {limit:.3g})"
        for index, level, limit in zip(indices, levels, limits)
        if not abs(level - middle) <= limit
    }


def by_amplifier(detector: Detector, values: Iterable[Any]) -> dict[str, Any]:
    """Numbers by amplifier name, None for those that are not finite: plain JSON."""
    return {
        amplifier.name: plain(value) for amplifier, value in zip(detector.amplifiers, values, strict=True)
    }


def plain(value: Any) -> Any:
    """A number, or nested arrays of numbers, as JSON; None for those that are not finite."""
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(each) for each in value]
    number = float(value)
    return number if np.isfinite(number) else None
