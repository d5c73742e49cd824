"""Simulation (design 7): charge gathers in the pixels: photons, moved boundaries, dark current, particles, full wells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.simulation.detector_effects.cosmic_rays import Hit, add_cosmic_rays
from skyquilt.simulation.detector_effects.pixel_boundaries import move_light
from skyquilt.simulation.detector_effects.streams import effect_stream

if TYPE_CHECKING:
    from skyquilt.simulation.detector_effects.true_detector import TrueDetector

POISSON_ROWS = 256
"""Rows for which counts are drawn at a time: NumPy needs five times the memory of the image."""


@dataclass(frozen=True)
class ChargeEvent:
    """What one event left in the pixels of a frame: a row of event_truth and its rows of pixel_truth.

    Attributes
    ----------
    kind : str
        cosmic_ray, saturated, bled, streak or ghost.
    event : int
        Number among those of its kind in the frame; bled charge has the number of the saturated pixels.
    x, y : ndarray of int32, shape (n,)
    electrons : ndarray of float32, shape (n,)
        What it left there; of saturated pixels what they would hold without full wells [e].
    peak_snr : float
        Its brightest pixel over the noise of that pixel (sky, source, dark current, read-out); NaN where that
        means nothing.
    width : float [pixel]
    ends : tuple of float
        x0, y0, x1, y1 [pixel].
    """

    kind: str
    event: int
    x: np.ndarray
    y: np.ndarray
    electrons: np.ndarray
    peak_snr: float
    width: float
    ends: tuple[float, float, float, float]

    @property
    def surface_brightness(self) -> float:
        """Mean of its pixels [e]."""
        return float(self.electrons.mean(dtype=np.float64))


@dataclass(frozen=True)
class Collected:
    """Charge at the end of an exposure, float32 (ny, nx) [e], and the events in it."""

    charge: np.ndarray
    events: tuple[ChargeEvent, ...]


def collect(
    truth: TrueDetector, expected: np.ndarray, exposure_time: float, visit: int = 0, snap: int = 0
) -> Collected:
    """Charge in the pixels at the end of an exposure.

    Parameters
    ----------
    expected : ndarray of float32, shape (ny, nx) [e]
        Photoelectrons expected, response included.
    exposure_time : float [s]
    visit, snap : int
        Of the random streams.
    """
    config, detector = truth.config, truth.definition
    unit = (visit, snap, detector.id)
    expected = np.ascontiguousarray(expected, dtype=np.float32)
    dark = truth.dark * np.float32(exposure_time)
    charge = gathered(truth, effect_stream(truth.seed, "photons", *unit), expected, dark)
    hits: list[Hit] = []
    if config.cosmic_rays > 0 and exposure_time > 0:
        rng = effect_stream(truth.seed, "cosmic_rays", *unit)
        hits = add_cosmic_rays(config, rng, charge, 1000 * detector.pixel_size, exposure_time)
    events = [_particle(truth, expected, dark, number, hit) for number, hit in enumerate(hits)]
    events += spilled(truth, charge)
    return Collected(charge, tuple(events))


def gathered(
    truth: TrueDetector, rng: np.random.Generator, expected: np.ndarray, dark: np.ndarray
) -> np.ndarray:
    """Photoelectrons and dark current of an exposure, float32 (ny, nx) [e].

    Boundaries move as charge gathers. The counts are drawn about the expectation with moved boundaries, and
    light is then moved step by step by the charge that is there in the middle of each step: the final count
    times the time gone by, what boundaries have brought, and a deviation that stands for the random order in
    which photons come (the mean over time of a Brownian bridge has variance 1/12). Covariances of flats are
    those of Astier et al. (2019), A&A 629, A36, to the second order in `area_changes`.
    """
    config = truth.config
    if not config.brighter_fatter:
        return _counts(rng, expected + dark) if config.photon_noise else expected + dark
    along_row, along_column = (np.ascontiguousarray(b, np.float32) for b in truth.boundaries)
    steps = config.brighter_fatter_steps
    increment = expected + dark
    deviation = None
    if config.photon_noise:
        mean = increment.copy()
        move_light(expected, increment, along_row, along_column, 0.5, mean)
        counts = _counts(rng, mean)
        deviation = rng.standard_normal(mean.shape, dtype=np.float32)
        deviation *= np.sqrt(np.maximum(expected, 0) * np.float32(1 / 12))
        counts -= mean
        increment += counts
        del counts, mean
    increment /= np.float32(steps)
    charge, middle, moved = np.zeros_like(expected), np.empty_like(expected), np.zeros_like(expected)
    for step in range(steps):
        # what boundaries bring grows linearly: half of this step's follows from the step before
        np.multiply(moved, np.float32(0.5 * (step + 0.5) / (step - 0.5)), out=middle)
        middle += charge
        middle += np.float32(0.5) * increment
        if deviation is not None:
            middle += deviation
        moved[...] = 0
        move_light(expected, middle, along_row, along_column, 1 / steps, moved)
        charge += increment
        charge += moved
    return charge


def _counts(rng, mean):
    """Poisson counts as float32; expectations below 0 (charge that boundaries took away) count as 0."""
    counts = np.empty(mean.shape, dtype=np.float32)
    for row in range(0, mean.shape[0], POISSON_ROWS):
        part = slice(row, row + POISSON_ROWS)
        counts[part] = rng.poisson(np.maximum(mean[part], 0))
    return counts


def _particle(truth, expected, dark, number, hit):
    peak = int(np.argmax(hit.electrons))
    x, y = int(hit.x[peak]), int(hit.y[peak])
    noise = math.sqrt(max(float(expected[y, x]), 0.0) + float(dark[y, x]) + _read_noise(truth, x, y) ** 2)
    snr = float(hit.electrons[peak]) / noise if noise > 0 else math.inf
    return ChargeEvent("cosmic_ray", number, hit.x, hit.y, hit.electrons, snr, 0.0, hit.ends)


def _read_noise(truth, x, y):
    """Read noise of the amplifier of an assembled pixel [e]."""
    for amplifier in truth.amplifiers:
        box = amplifier.definition.data
        if box.x0 <= x < box.x1 and box.y0 <= y < box.y1:
            return amplifier.read_noise
    return 0.0


def spilled(truth: TrueDetector, charge: np.ndarray) -> list[ChargeEvent]:
    """Spill full wells of a detector's charge in place; the saturated and bled pixels, group by group."""
    from scipy import ndimage

    over = np.zeros(charge.shape, dtype=bool)
    for amplifier in truth.amplifiers:
        where = amplifier.definition.data.slices()
        # full wells are stored in single precision
        over[where] = charge[where] >= np.float32(amplifier.saturation_electrons)
    if not over.any():
        return []
    columns = np.flatnonzero((charge > truth.full_well).any(axis=0))
    before = charge[:, columns]
    held = charge[over]
    spill_full_wells(charge, truth.full_well, truth.config.bleeding)
    received = np.zeros(charge.shape, dtype=np.float32)
    received[:, columns] = charge[:, columns] - before
    bled = (received > 0) & ~over
    electrons = np.where(bled, received, np.float32(0))
    electrons[over] = held
    labels, _ = ndimage.label(over | bled, np.ones((3, 3)))
    events = []
    for number, box in enumerate(ndimage.find_objects(labels)):
        inside = labels[box] == number + 1
        for kind, where in (("saturated", over), ("bled", bled)):
            y, x = np.nonzero(inside & where[box])
            if y.size:
                events.append(_group(kind, number, x + box[1].start, y + box[0].start, electrons))
    return events


def _group(kind, number, x, y, electrons):
    ends = (float(x.min()), float(y.min()), float(x.max()), float(y.max()))
    values = electrons[y, x]
    return ChargeEvent(kind, number, x.astype(np.int32), y.astype(np.int32), values, math.nan, 0.0, ends)


@kernel("float64(float32[:, ::1], const(float32[:, ::1]), boolean)")
def spill_full_wells(charge, full_well, bleeding):
    """Move charge above full well to the nearest pixels of the column that have room, half each way.

    Parameters
    ----------
    charge : ndarray of float32, shape (ny, nx) [e]
        Changed in place; no pixel holds more than its full well afterwards.
    full_well : ndarray of float32, shape (ny, nx) [e]
    bleeding : bool
        False: the excess is lost where it is.

    Returns
    -------
    float
        Charge that was lost, over the ends of columns or without bleeding [e].
    """
    ny, nx = charge.shape
    lost = 0.0
    # rows are contiguous: find the few columns first
    overfull = np.zeros(nx, dtype=np.bool_)
    for j in range(ny):
        for i in range(nx):
            overfull[i] |= charge[j, i] > full_well[j, i]
    excess = np.zeros(ny)
    for i in range(nx):
        if not overfull[i]:
            continue
        for j in range(ny):
            excess[j] = max(np.float64(charge[j, i]) - full_well[j, i], 0.0)
            if excess[j] > 0:
                charge[j, i] = full_well[j, i]
                if not bleeding:
                    lost += excess[j]
        if not bleeding:
            continue
        for j in range(ny):
            for step in (-1, 1):
                rest = 0.5 * excess[j]
                k = j + step
                while rest > 0 and 0 <= k < ny:
                    moved = min(rest, np.float64(full_well[k, i]) - charge[k, i])
                    charge[k, i] = np.float32(charge[k, i] + moved)
                    rest -= moved
                    k += step
                lost += rest
    return lost
