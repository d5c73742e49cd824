"""Simulation (design 7): what detectors do to light: response, full wells, amplifiers, bias and read-out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.simulation.config import SimulationConfig
from skyquilt.simulation.schedule import random_stream

if TYPE_CHECKING:
    from skyquilt.instrument import Amplifier, Detector

ADC_MAXIMUM = 65535
GLOW_ROWS = 20.0
"""Scale over which the glow at the start of read-out fades [rows]."""

DRIFT_ROWS = 60.0
"""Correlation length of the wandering bias level [rows]."""

DEPOSIT = 6000.0
"""Charge that a cosmic ray leaves in a pixel it crosses along an edge, on average [e]."""


@dataclass(frozen=True)
class TrueAmplifier:
    """An amplifier as it really is.

    Attributes
    ----------
    definition : Amplifier
        The camera's: geometry only is taken from it.
    gain [e/ADU], read_noise [e], full_well [e], bias_level [ADU] : float
    pattern : ndarray, shape of the whole raw section [ADU]
        What every bias frame has beside its level.
    """

    definition: Amplifier
    gain: float
    read_noise: float
    full_well: float
    bias_level: float
    pattern: np.ndarray

    @property
    def saturation_adu(self) -> float:
        """Level at which a full pixel is stored [ADU]."""
        return min(
            self.bias_level + compressed(self.full_well / self.gain, self.definition.linearity), ADC_MAXIMUM
        )


@dataclass(frozen=True)
class TrueDetector:
    """A detector as it really is.

    Attributes
    ----------
    definition : Detector
    amplifiers : tuple of TrueAmplifier
    response : ndarray, shape (ny, nx)
        Electrons per electron expected in the middle of the focal plane.
    full_well : ndarray, shape (ny, nx) [e]
    """

    definition: Detector
    amplifiers: tuple[TrueAmplifier, ...]
    response: np.ndarray
    full_well: np.ndarray


def true_amplifiers(config: SimulationConfig, detector: Detector) -> tuple[TrueAmplifier, ...]:
    """The amplifiers of a detector with their true numbers and patterns."""
    rng = random_stream(config, "detector", 0, detector.id)
    truths = []
    for definition in detector.amplifiers:
        gain = definition.gain * _positive_factor(rng, config.gain_scatter)
        read_noise = definition.read_noise * _positive_factor(rng, config.read_noise_scatter)
        bias_level = config.bias_level * (1 + 0.05 * rng.uniform(-1, 1))
        # counted in stored ADU, so that a full pixel lies above the definition's saturation whatever the gain
        full_well = config.full_well * (definition.saturation - bias_level) * gain
        pattern = config.bias_structure * bias_pattern(rng, definition.raw_section.shape)
        truths.append(TrueAmplifier(definition, gain, read_noise, full_well, bias_level, pattern))
    return tuple(truths)


def true_detector(config: SimulationConfig, detector: Detector, u: np.ndarray, v: np.ndarray) -> TrueDetector:
    """A detector's truth; it is the same in all visits.

    Parameters
    ----------
    u, v : ndarray, shape (ny, nx)
        Place of its pixels in the focal plane over the radius of the farthest corner.
    """
    amplifiers = true_amplifiers(config, detector)
    rng = random_stream(config, "detector", 1, detector.id)
    response = 1 - config.vignetting * np.hypot(u, v) ** 3
    if config.pixel_response > 0:
        response = response * (1 + config.pixel_response * np.clip(rng.normal(size=response.shape), -5, 5))
    full_well = np.full(response.shape, np.inf)
    for amplifier in amplifiers:
        full_well[amplifier.definition.data.slices()] = amplifier.full_well
    return TrueDetector(detector, amplifiers, response, full_well)


def _positive_factor(rng, scatter):
    return math.exp(scatter * float(np.clip(rng.normal(), -3, 3)))


def bias_pattern(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Fixed pattern of unit height: a glow over the first rows read out, and columns of their own level."""
    glow = np.exp(-np.arange(shape[0]) / GLOW_ROWS)[:, None]
    return glow + 0.3 * np.clip(rng.normal(size=(1, shape[1])), -3, 3)


def row_drift(rng: np.random.Generator, n_row: int) -> np.ndarray:
    """Wandering level of unit standard deviation, an AR(1) process with a length of 60 rows."""
    from scipy.signal import lfilter

    memory = math.exp(-1 / DRIFT_ROWS)
    steps = rng.normal(size=n_row) * math.sqrt(1 - memory**2)
    steps[0] /= math.sqrt(1 - memory**2)
    return lfilter([1.0], [1.0, -memory], steps)


@kernel("float64(float64[:, ::1], const(float64[:, ::1]), boolean)")
def spill_full_wells(charge, full_well, bleeding):
    """Move charge above full well to the nearest pixels of the column that have room, half each way.

    Parameters
    ----------
    charge : ndarray, shape (ny, nx) [e]
        Changed in place; no pixel holds more than its full well afterwards.
    full_well : ndarray, shape (ny, nx) [e]
    bleeding : bool
        False: the excess is lost where it is.

    Returns
    -------
    float
        Charge that was lost, over the ends of columns or without bleeding [e].
    """
    ny, nx = charge.shape
    lost = 0.0
    excess = np.zeros(ny)
    for i in range(nx):
        any_excess = False
        for j in range(ny):
            excess[j] = max(charge[j, i] - full_well[j, i], 0.0)
            if excess[j] > 0:
                charge[j, i] = full_well[j, i]
                any_excess = True
                if not bleeding:
                    lost += excess[j]
        if not any_excess or not bleeding:
            continue
        for j in range(ny):
            for step in (-1, 1):
                rest = 0.5 * excess[j]
                k = j + step
                while rest > 0 and 0 <= k < ny:
                    moved = min(rest, full_well[k, i] - charge[k, i])
                    charge[k, i] += moved
                    rest -= moved
                    k += step
                lost += rest
    return lost


def add_cosmic_rays(rng: np.random.Generator, charge: np.ndarray, expected_number: float) -> np.ndarray:
    """Add straight tracks of charge in place; returns where they are (bool, shape of `charge`).

    Tracks start uniformly, with an exponential length of 8 px on average, and cross pixels in steps of 1/10.
    """
    ny, nx = charge.shape
    hit = np.zeros(charge.shape, dtype=bool)
    for _ in range(rng.poisson(expected_number)):
        x, y, angle = rng.uniform(-0.5, nx - 0.5), rng.uniform(-0.5, ny - 0.5), rng.uniform(0, 2 * math.pi)
        steps = np.arange(0, 1 + rng.exponential(8.0), 0.1)
        columns = np.rint(x + steps * math.cos(angle)).astype(int)
        rows = np.rint(y + steps * math.sin(angle)).astype(int)
        inside = (columns >= 0) & (columns < nx) & (rows >= 0) & (rows < ny)
        deposit = 0.1 * DEPOSIT * rng.exponential()
        np.add.at(charge, (rows[inside], columns[inside]), deposit)
        hit[rows[inside], columns[inside]] = True
    return hit


def collect(
    config: SimulationConfig,
    rng: np.random.Generator,
    truth: TrueDetector,
    expected: np.ndarray,
    exposure_time: float,
) -> np.ndarray:
    """Charge in the pixels at the end of an exposure [e].

    Parameters
    ----------
    expected : ndarray, shape (ny, nx) [e]
        Photoelectrons expected, response included.
    exposure_time : float [s]
    """
    mean = expected + config.dark_current * exposure_time
    charge = rng.poisson(mean).astype(np.float64) if config.photon_noise else np.array(mean, dtype=np.float64)
    if config.cosmic_rays > 0 and exposure_time > 0:
        area = truth.definition.nx * truth.definition.ny * (truth.definition.pixel_size / 10) ** 2
        add_cosmic_rays(rng, charge, config.cosmic_rays * area * exposure_time / 60)
    spill_full_wells(charge, truth.full_well, config.bleeding)
    return charge


def read_out(
    config: SimulationConfig, rng: np.random.Generator, amplifier: TrueAmplifier, charge: np.ndarray
) -> np.ndarray:
    """Raw section of one amplifier, uint16 [ADU].

    Parameters
    ----------
    charge : ndarray, shape (ny, nx) [e]
        Of the whole assembled detector.
    """
    definition = amplifier.definition
    electrons = np.zeros(definition.raw_section.shape)
    electrons[definition.raw_data.slices()] = definition.from_assembled(charge)
    electrons += amplifier.read_noise * rng.normal(size=electrons.shape)
    level = amplifier.bias_level + config.bias_drift * row_drift(rng, electrons.shape[0])
    signal = compressed(electrons / amplifier.gain, definition.linearity)
    counts = signal + level[:, None] + amplifier.pattern
    return np.clip(np.rint(counts), 0, ADC_MAXIMUM).astype(np.uint16)


def compressed(linear: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    """What an amplifier reads for a linear signal: v of linear = v + c2 v^2 + c3 v^3 ... [ADU], by Newton."""
    read = np.array(linear, dtype=float)
    if any(coefficients):
        polynomial = np.polynomial.Polynomial([0.0, 1.0, *coefficients])
        slope = polynomial.deriv()
        for _ in range(8):
            read = read - (polynomial(read) - linear) / slope(read)
    return read
