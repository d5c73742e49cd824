"""Simulation (design 7): the calibration frames of a survey and when they are taken."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.detector_effects.defects import as_read
from skyquilt.simulation.detector_effects.streams import effect_stream

if TYPE_CHECKING:
    from skyquilt.instrument import Detector
    from skyquilt.simulation.config import SimulationConfig
    from skyquilt.simulation.detector_effects.true_detector import TrueDetector
    from skyquilt.simulation.schedule import Visit

# numbers within a night, after science from 1: blocks, so that more frames of one kind renumber no other
BIAS_NUMBER, DARK_NUMBER, CROSSTALK_NUMBER, FRINGE_NUMBER = 500, 540, 580, 600
PAIR_NUMBER, FLAT_NUMBER = 640, 820
FRINGES_PER_BAND, FLATS_PER_BAND = 4, 20

SECONDS_BETWEEN_FRAMES = 10.0
"""From the end of a calibration frame to the next."""

SPOT_SECONDS, FRINGE_SECONDS = 5.0, 60.0
"""Exposure times of frames of projected spots and of the empty sky."""

SPOT_CELL, SPOT_RADIUS = 40, 12.0
"""Distance of projected spots and their radius [pixel]."""

HOURS_BEFORE_NIGHT = 6.0
"""Calibration frames begin this long before the first science visit."""


@dataclass(frozen=True)
class CalibrationFramesConfig:
    """Calibration frames of the first afternoon, of all detectors; 0 leaves a kind out."""

    n_bias: int = 5
    """Bias frames."""

    n_dark: int = 0
    """Dark frames."""

    dark_exposure_times: tuple[float, ...] = (30.0, 120.0)
    """Exposure times of dark frames, taken in turn [s]."""

    n_flat: int = 3
    """Dome flats per band of the visits."""

    flat_level: float = 30000.0
    """Signal of a dome flat where the response is one [e]."""

    lamp_rate: float = 1000.0
    """Signal of the lamp of dome flats where the response is one; exposure times follow from it [e/s]."""

    pair_band: str = ""
    """Band of the pairs of flats for the photon transfer and linearity; empty: the first of the visits."""

    n_pair_levels: int = 0
    """Levels of pairs of flats, at equal steps of the fourth root from the lowest to the highest, in mixed order."""

    pair_levels: tuple[float, float] = (500.0, 90000.0)
    """Lowest and highest signal of the pairs where the response is one [e]."""

    pairs_per_level: int = 1
    """Pairs of flats of equal exposure at each level."""

    n_fringe: int = 0
    """Frames of the empty sky for fringes, per band of the visits that has any."""

    fringe_level: float = 5000.0
    """Signal of the sky in them where the response is one [e]."""

    n_crosstalk: int = 0
    """Frames of projected spots; no two amplifiers have one at the same place in the order of read-out."""

    spot_level: float = 60000.0
    """Signal of the spots where the response is one [e]."""

    def __post_init__(self) -> None:
        for name, most in _COUNTS.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in 0..{most}, got {getattr(self, name)}")
        for name in ("flat_level", "lamp_rate", "fringe_level", "spot_level"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.dark_exposure_times or min(self.dark_exposure_times) <= 0:
            raise ValueError(f"dark_exposure_times must be positive, got {self.dark_exposure_times}")
        if len(self.pair_levels) != 2 or not 0 < self.pair_levels[0] <= self.pair_levels[1]:
            raise ValueError(f"pair_levels must be two ascending numbers, got {self.pair_levels}")
        if 2 * self.n_pair_levels * self.pairs_per_level > FLAT_NUMBER - PAIR_NUMBER:
            raise ValueError(
                f"n_pair_levels {self.n_pair_levels} times pairs_per_level {self.pairs_per_level} must be "
                f"at most {(FLAT_NUMBER - PAIR_NUMBER) // 2}"
            )

    def pair_signals(self) -> list[float]:
        """Signals of the levels of flat pairs in the order in which they are taken [e].

        Steps between those of equal ratios, which leave half of the range with two levels, and those of equal noise,
        which leave little light with one. Mixed by the golden ratio, so that a drift of the lamp would be no curve.
        """
        lowest, highest = (level**0.25 for level in self.pair_levels)
        steps = max(self.n_pair_levels - 1, 1)
        ascending = [(lowest + (highest - lowest) * k / steps) ** 4 for k in range(self.n_pair_levels)]
        golden = (math.sqrt(5) - 1) / 2
        return [ascending[k] for k in np.argsort([k * golden % 1 for k in range(self.n_pair_levels)])]


_COUNTS = {"n_bias": 40, "n_dark": 40, "n_crosstalk": 20, "n_flat": 20, "n_fringe": 4, "n_pair_levels": 90}


def calibration_visits(config: SimulationConfig) -> list[Visit]:
    """All calibration frames, of the afternoon before the first night, in order of time.

    Flats have the exposure time in which the lamp gives their signal; `band` is empty for bias, dark and
    crosstalk frames.

    Raises
    ------
    ValueError
        When they do not fit between the afternoon's beginning and the first science visit.
    """
    # the schedule's module knows the configuration, which holds this module's
    from skyquilt.simulation.schedule import Visit, night_begin, night_date, visit_id

    evening = night_begin(config, 0)
    begin = evening - datetime.timedelta(hours=HOURS_BEFORE_NIGHT)
    visits = []
    for kind, band, number, exposure_time in _plan(config):
        name = visit_id(night_date(config, 0), number)
        visits.append(Visit(name, kind, band, begin, exposure_time))
        begin = begin + datetime.timedelta(seconds=exposure_time + SECONDS_BETWEEN_FRAMES)
    if begin > evening:
        raise ValueError(
            f"calibration frames take {(begin - evening).total_seconds() / 3600 + HOURS_BEFORE_NIGHT:.1f} "
            f"hours, more than the {HOURS_BEFORE_NIGHT:g} before the night: raise "
            "calibration_frames.lamp_rate or take fewer"
        )
    return visits


def _plan(config: SimulationConfig) -> list[tuple[str, str, int, float]]:
    """Kind, band, number within the night and exposure time [s] of all frames."""
    frames = config.calibration_frames
    times = frames.dark_exposure_times
    plan = [("bias", "", BIAS_NUMBER + i, 0.0) for i in range(frames.n_bias)]
    plan += [("dark", "", DARK_NUMBER + i, times[i % len(times)]) for i in range(frames.n_dark)]
    plan += [("crosstalk", "", CROSSTALK_NUMBER + i, SPOT_SECONDS) for i in range(frames.n_crosstalk)]
    pair_band = frames.pair_band or config.distinct_bands[0]
    signals = [s for s in frames.pair_signals() for _ in range(2 * frames.pairs_per_level)]
    plan += [("flat", pair_band, PAIR_NUMBER + i, s / frames.lamp_rate) for i, s in enumerate(signals)]
    for k, band in enumerate(config.distinct_bands):
        number = FLAT_NUMBER + FLATS_PER_BAND * k
        time = frames.flat_level / frames.lamp_rate
        plan += [("flat", band, number + i, time) for i in range(frames.n_flat)]
        if config.detector.fringes.get(band, 0) > 0:
            number = FRINGE_NUMBER + FRINGES_PER_BAND * k
            plan += [("fringe", band, number + i, FRINGE_SECONDS) for i in range(frames.n_fringe)]
    return plan


def calibration_light(config: SimulationConfig, truth: TrueDetector, visit: Visit) -> np.ndarray:
    """Light of a calibration frame where the response is one, float32 (ny, nx) [e]; fringes are not in it."""
    frames = config.calibration_frames
    shape = truth.response.shape
    if visit.kind == "flat":
        rng = effect_stream(config.seed, "lamp", visit.visit)
        lamp = 1 + config.detector.lamp_jitter * float(np.clip(rng.normal(), -4, 4))
        return truth.dome * np.float32(frames.lamp_rate * visit.exposure_time * lamp)
    if visit.kind == "fringe":
        return np.full(shape, frames.fringe_level, dtype=np.float32)
    if visit.kind == "crosstalk":
        return projected_spots(truth.definition, visit.visit, frames.spot_level)
    return np.zeros(shape, dtype=np.float32)


def projected_spots(detector: Detector, turn: int, level: float) -> np.ndarray:
    """Round spots on a grid, float32 (ny, nx) [e].

    The grid is that of the order of read-out, and its cells take turns: of all amplifiers one has a spot in
    each cell, another in the next, and so on with `turn`.
    """
    image = np.zeros((detector.ny, detector.nx), dtype=np.float32)
    n = len(detector.amplifiers)
    offset = np.arange(SPOT_CELL) - 0.5 * (SPOT_CELL - 1)
    # soft over a pixel, so that a spot's outline has no lattice in it
    spot = level * np.clip(SPOT_RADIUS + 0.5 - np.hypot(offset[:, None], offset[None, :]), 0, 1)
    for k, amplifier in enumerate(detector.amplifiers):
        part = as_read(amplifier, image)
        rows, columns = part.shape[0] // SPOT_CELL, part.shape[1] // SPOT_CELL
        for row in range(rows):
            for column in range(columns):
                if (row + column + turn + k) % n == 0:
                    y, x = row * SPOT_CELL, column * SPOT_CELL
                    part[y : y + SPOT_CELL, x : x + SPOT_CELL] = spot
    return image
