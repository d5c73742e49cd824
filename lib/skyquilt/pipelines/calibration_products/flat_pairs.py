"""Calibration Products Production (LDM-151 4.1.2.3): which flats make a pair, a few frames in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.pipelines.calibration_products.flat_frames import MeasuredFrame
from skyquilt.pipelines.calibration_products.pair_covariances import PairStatistics, pair_statistics
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.statistics import median

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Detector
    from skyquilt.instrument.raw import RawFrame
    from skyquilt.pipelines.calibration_products.photon_transfer import MeasurePhotonTransferConfig

_HELD = 3
"""Frames of which the pixels are kept; an older one is read again when its partner comes."""

_EQUAL_LEVELS = 1.1
"""Ratio of levels up to which flats of equal exposure time are a pair at once."""

MOST_SATURATED = 0.5
"""An amplifier of which a larger share of blocks is saturated says nothing of noise or linearity."""


@dataclass(frozen=True)
class FlatPair:
    """Two flats and what they say of each amplifier.

    Parameters
    ----------
    frames : (int, int)
    exposure_time : float
        [s]; NaN when the two differ.
    statistics : tuple of PairStatistics
        One per amplifier.
    saturated : tuple of float
        Share of blocks left out as saturated, the larger of both frames.
    inflation : float
        Factor on the errors of what is averaged over pairs that share frames.
    """

    frames: tuple[int, int]
    exposure_time: float
    statistics: tuple[PairStatistics, ...]
    saturated: tuple[float, ...]
    inflation: float


class OpenFrames:
    """Frames by number, opened when wanted; the last few stay in memory.

    Parameters
    ----------
    read : callable
        Opens frame i, or raises ProcessingFailure.
    n_frames : int
    measure : callable
        From a RawFrame to a MeasuredFrame.
    """

    def __init__(
        self,
        read: Callable[[int], RawFrame],
        n_frames: int,
        measure: Callable[[RawFrame], MeasuredFrame],
    ) -> None:
        self.n_frames = n_frames
        self.detector: Detector | None = None
        self.read_noise: list[tuple[float, ...]] = []
        self._read, self._measure = read, measure
        self._held: dict[int, MeasuredFrame] = {}
        self._failed: dict[int, tuple[Reason, str]] = {}
        self._seen: set[int] = set()

    def get(self, index: int) -> MeasuredFrame | None:
        """Frame `index`, or None when it is not usable."""
        if index in self._failed:
            return None
        if index not in self._held:
            while len(self._held) >= _HELD:
                del self._held[min(self._held)]
            try:
                frame = self._measure(self._read(index))
            except ProcessingFailure as failure:
                self._failed[index] = (failure.reason, failure.detail)
                return None
            self.detector = frame.detector
            self._held[index] = frame
            if index not in self._seen:
                self._seen.add(index)
                self.read_noise.append(frame.read_noise)
        return self._held[index]

    def must_get(self, index: int) -> MeasuredFrame:
        """Frame `index`; the ProcessingFailure that keeps it from being used."""
        frame = self.get(index)
        if frame is None:
            raise ProcessingFailure(*self._failed[index])
        return frame

    def release(self, *indices: int) -> None:
        """Let the pixels of frames go."""
        for index in indices:
            self._held.pop(index, None)

    def left_out(self) -> list[dict[str, str | int]]:
        """The frames that could not be used, with their reasons: plain JSON."""
        return [
            {"frame": index, "reason": reason.value, "detail": detail}
            for index, (reason, detail) in sorted(self._failed.items())
        ]

    def what_failed(self) -> str:
        """Reasons of the frames left out, for a message."""
        reasons = ", ".join(sorted(reason.value for reason, _ in self._failed.values()))
        return f"left out: {reasons or 'none'}"


def flat_pairs(store: OpenFrames, config: MeasurePhotonTransferConfig) -> list[FlatPair]:
    """All pairs that the frames of a store make, in the order of their frames.

    Flats of equal exposure time and nearly equal level come first; what is left over is joined with its
    neighbour in level, up to `config.max_level_ratio`. When there are few pairs, a last single flat makes two
    more with the pair nearest to it, and the errors of the three grow as three frames have two differences.
    """
    waiting: dict[int, tuple[float, float]] = {}
    seen: dict[int, tuple[float, float]] = {}
    pairs: list[FlatPair] = []
    for index in range(store.n_frames):
        frame = store.get(index)
        if frame is None:
            continue
        level = _level(frame)
        if not level > 0:
            store.release(index)
            continue
        seen[index] = (level, frame.exposure_time)
        partner = _partner(waiting, *seen[index])
        if partner is None:
            waiting[index] = seen[index]
            continue
        del waiting[partner]
        pairs.append(_pair(store, partner, index, 1.0, config))
        store.release(partner, index)
    _join_the_rest(store, waiting, pairs, config)
    if len(waiting) == 1 and len(pairs) < config.min_levels:
        _triangle(store, next(iter(waiting)), seen, pairs, config)
    return sorted(pairs, key=lambda pair: pair.frames)


def _level(frame: MeasuredFrame) -> float:
    """Median of the finite pixels, every 16th row: enough to find partners by [ADU]."""
    image = frame.image[:: 16 if frame.image.shape[0] > 512 else 4]
    return median(image)


def _partner(waiting: dict[int, tuple[float, float]], level: float, exposure_time: float) -> int | None:
    """The first waiting frame of equal exposure time and nearly equal level."""
    for index, (other, other_time) in waiting.items():
        equal = math.isclose(other_time, exposure_time, rel_tol=1e-3, abs_tol=1e-6)
        if equal and max(level, other) <= _EQUAL_LEVELS * min(level, other):
            return index
    return None


def _join_the_rest(
    store: OpenFrames,
    waiting: dict[int, tuple[float, float]],
    pairs: list[FlatPair],
    config: MeasurePhotonTransferConfig,
) -> None:
    """Pairs of neighbours in level, from the highest down: those hold most light."""
    order = sorted(waiting, key=lambda index: -waiting[index][0])
    k = 0
    while k + 1 < len(order):
        high, low = order[k], order[k + 1]
        if waiting[high][0] > config.max_level_ratio * waiting[low][0]:
            k += 1
            continue
        pairs.append(_pair(store, min(high, low), max(high, low), 1.0, config))
        store.release(high, low)
        del waiting[high], waiting[low]
        k += 2


def _triangle(
    store: OpenFrames,
    single: int,
    seen: dict[int, tuple[float, float]],
    pairs: list[FlatPair],
    config: MeasurePhotonTransferConfig,
) -> None:
    """Join a single flat with both frames of the pair nearest in level."""
    level = seen[single][0]

    def ratio(pair: FlatPair) -> float:
        others = [seen[index][0] for index in pair.frames]
        return max(max(level, other) / min(level, other) for other in others)

    near = min(pairs, key=ratio, default=None)
    if near is None or ratio(near) > config.max_level_ratio:
        return
    inflation = math.sqrt(1.5)
    pairs.remove(near)
    pairs.append(FlatPair(near.frames, near.exposure_time, near.statistics, near.saturated, inflation))
    for index in near.frames:
        pairs.append(_pair(store, min(index, single), max(index, single), inflation, config))


def _pair(
    store: OpenFrames, first: int, second: int, inflation: float, config: MeasurePhotonTransferConfig
) -> FlatPair:
    """Statistics of two frames, amplifier by amplifier."""
    one, two = store.must_get(first), store.must_get(second)
    statistics, saturated = [], []
    for number, amplifier in enumerate(one.detector.amplifiers):
        part = amplifier.data.slices()
        full = max(one.saturated[number], two.saturated[number])
        # where most is saturated the rest is no sample of the level; then all finite pixels tell of it
        good = one.good[part] & two.good[part]
        if full > MOST_SATURATED:
            good = np.isfinite(one.image[part]) & np.isfinite(two.image[part])
        statistics.append(
            pair_statistics(one.image[part], two.image[part], good, config.lags, config.clip, config.block)
        )
        saturated.append(full)
    equal = math.isclose(one.exposure_time, two.exposure_time, rel_tol=1e-3, abs_tol=1e-6)
    return FlatPair(
        (first, second),
        one.exposure_time if equal else math.nan,
        tuple(statistics),
        tuple(saturated),
        inflation,
    )
