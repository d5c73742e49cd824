"""Simulation (design 7): dark current, hot and dead pixels, and columns that are dead, hot or trap charge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.detector_effects.config import DetectorEffectsConfig
from skyquilt.simulation.detector_effects.streams import effect_stream

if TYPE_CHECKING:
    from skyquilt.instrument import Amplifier, Detector

HOT_PIXEL, DEAD_PIXEL, HOT_COLUMN, DEAD_COLUMN, TRAP = 1, 2, 4, 8, 16
"""Bits of the DEFECTS image."""

HOT_CURRENT = (2.0, 500.0)
HOT_COLUMN_CURRENT = (3.0, 60.0)
"""Dark current [e/s], uniform in its logarithm."""

DEAD_RESPONSE = (0.0, 0.5)
DEAD_COLUMN_RESPONSE = (0.0, 0.3)
TRAP_DEPTH = (150.0, 1500.0)
"""What a packet loses that passes [e]."""


@dataclass(frozen=True)
class Traps:
    """Traps of one amplifier: rows and columns in the order of read-out, depths [e]; ndarrays, shape (n,)."""

    rows: np.ndarray
    columns: np.ndarray
    depths: np.ndarray


def dark_current(
    config: DetectorEffectsConfig, seed: int, detector: int, shape: tuple[int, int]
) -> np.ndarray:
    """Dark current of ordinary pixels, float32 `shape` [e/s]."""
    if config.dark_current == 0:
        return np.zeros(shape, dtype=np.float32)
    rng = effect_stream(seed, "dark", detector)
    dark = rng.standard_normal(shape, dtype=np.float32)
    np.clip(dark, -4, 4, out=dark)
    dark *= np.float32(config.dark_scatter)
    np.exp(dark, out=dark)
    dark *= np.float32(config.dark_current)
    return dark


def bad_pixels(
    config: DetectorEffectsConfig,
    seed: int,
    detector: int,
    dark: np.ndarray,
    response: np.ndarray,
    defects: np.ndarray,
) -> None:
    """Put hot and dead pixels into a dark current, a response and a map of defects, in place."""
    size = dark.size
    rng = effect_stream(seed, "hot_pixels", detector)
    hot = rng.choice(size, rng.poisson(config.hot_pixels * size), replace=False, shuffle=False)
    dark.ravel()[hot] = np.exp(rng.uniform(*np.log(HOT_CURRENT), hot.size))
    defects.ravel()[hot] |= HOT_PIXEL
    rng = effect_stream(seed, "dead_pixels", detector)
    dead = rng.choice(size, rng.poisson(config.dead_pixels * size), replace=False, shuffle=False)
    response.ravel()[dead] *= rng.uniform(*DEAD_RESPONSE, dead.size)
    defects.ravel()[dead] |= DEAD_PIXEL


def bad_columns(
    config: DetectorEffectsConfig,
    seed: int,
    detector: Detector,
    dark: np.ndarray,
    response: np.ndarray,
    defects: np.ndarray,
) -> tuple[Traps, ...]:
    """Put bad columns into a dark current, a response and a map of defects, in place.

    Each begins at a row and goes on to the last one read.

    Returns
    -------
    tuple of Traps
        Per amplifier.
    """
    rng = effect_stream(seed, "bad_columns", detector.id)
    traps = []
    for amplifier in detector.amplifiers:
        pixels = as_read(amplifier, dark), as_read(amplifier, response), as_read(amplifier, defects)
        ny, nx = pixels[0].shape
        for row, column in _places(rng, config.bad_columns, ny, nx):
            pixels[0][row:, column] += np.float32(math.exp(rng.uniform(*np.log(HOT_COLUMN_CURRENT))))
            pixels[2][row:, column] |= HOT_COLUMN
        for row, column in _places(rng, config.bad_columns, ny, nx):
            pixels[1][row:, column] *= np.float32(rng.uniform(*DEAD_COLUMN_RESPONSE))
            pixels[2][row:, column] |= DEAD_COLUMN
        places = _places(rng, config.bad_columns, ny, nx)
        depths = np.exp(rng.uniform(*np.log(TRAP_DEPTH), len(places)))
        for row, column in places:
            pixels[2][row:, column] |= TRAP
        where = np.array(places, dtype=np.int64).reshape(-1, 2)
        traps.append(Traps(where[:, 0], where[:, 1], depths))
    return tuple(traps)


def _places(rng, mean, ny, nx):
    """Rows where bad columns begin, and their columns."""
    n = min(rng.poisson(mean), nx)
    rows = (ny * rng.uniform(0, 0.9, n)).astype(int)
    return list(zip(rows.tolist(), rng.choice(nx, n, replace=False).tolist(), strict=True))


def as_read(amplifier: Amplifier, image: np.ndarray) -> np.ndarray:
    """An amplifier's part of an assembled image in the order of read-out: a view, first pixel read first."""
    part = image[amplifier.data.slices()]
    return part[
        :: -1 if amplifier.read_out.startswith("upper") else 1,
        :: -1 if amplifier.read_out.endswith("right") else 1,
    ]
