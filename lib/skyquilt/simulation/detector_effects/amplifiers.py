"""Simulation (design 7): amplifiers as they really are: gain, noise, bias, nonlinearity, crosstalk."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.detector_effects.config import DetectorEffectsConfig
from skyquilt.simulation.detector_effects.streams import effect_stream

if TYPE_CHECKING:
    from skyquilt.instrument import Amplifier, Detector

ADC_MAXIMUM = 65535

GLOW_ROWS = 20.0
"""Scale over which the glow at the start of read-out fades [rows]."""

DRIFT_ROWS = 60.0
"""Correlation length of the wandering bias level [rows]."""


@dataclass(frozen=True)
class LinearityCurve:
    """What an amplifier reads for a linear signal v [ADU above bias]:

    v (1 - a (1 + k) u^2 / (k + u^2) + w sin^2(pi f u)) with u = v / scale: straight near zero, bent by `a`
    about full well, with a shallow wave; no polynomial of low order follows it.

    Attributes
    ----------
    loss, knee, wave, waves, scale : float
        a, k, w, f and scale [ADU].
    polynomial : tuple of float
        (c2, c3, ...) of the camera definition: linear = v + c2 v^2 + c3 v^3 ..., applied first.
    """

    loss: float = 0.0
    knee: float = 1.0
    wave: float = 0.0
    waves: float = 1.0
    scale: float = 1.0
    polynomial: tuple[float, ...] = ()

    @property
    def straight(self) -> bool:
        """Whether it changes nothing."""
        return self.loss == 0 and self.wave == 0 and not any(self.polynomial)

    def read(self, linear: np.ndarray) -> np.ndarray:
        """Signal read [ADU] for a linear one [ADU above bias]."""
        v = compressed(linear, self.polynomial)
        if self.loss == 0 and self.wave == 0:
            return v
        u = v / self.scale
        bend = self.loss * (1 + self.knee) * u**2 / (self.knee + u**2)
        return v * (1 - bend + self.wave * np.sin(math.pi * self.waves * u) ** 2)

    def linear(self, read: float) -> float:
        """Inverse of `read`, by secant steps to 1e-9 ADU."""
        linear = read
        for _ in range(60):
            miss = read - float(self.read(np.array(linear)))
            linear += miss
            if abs(miss) < 1e-9:
                break
        return linear


@dataclass(frozen=True)
class TrueAmplifier:
    """An amplifier as it really is.

    Attributes
    ----------
    definition : Amplifier
        The camera's: geometry only is taken from it.
    gain [e/ADU], read_noise [e], full_well [e], bias_level [ADU] : float
    pattern : ndarray of float32, shape of the whole raw section, in the order of read-out [ADU]
        What every bias frame has beside its level.
    curve : LinearityCurve
    """

    definition: Amplifier
    gain: float
    read_noise: float
    full_well: float
    bias_level: float
    pattern: np.ndarray
    curve: LinearityCurve = LinearityCurve()

    @property
    def saturation_electrons(self) -> float:
        """Charge at which a pixel is full, or the converter ends if that is less [e]."""
        return min(self.full_well, self.curve.linear(ADC_MAXIMUM - self.bias_level) * self.gain)

    @property
    def saturation_adu(self) -> float:
        """Level at which a full pixel is stored [ADU]."""
        return min(
            self.bias_level + float(self.curve.read(np.array(self.full_well / self.gain))), ADC_MAXIMUM
        )


def true_amplifiers(
    config: DetectorEffectsConfig, seed: int, detector: Detector
) -> tuple[TrueAmplifier, ...]:
    """The amplifiers of a detector with their true numbers and patterns."""
    rng = effect_stream(seed, "amplifier", detector.id)
    patterns = effect_stream(seed, "bias_pattern", detector.id)
    bends = effect_stream(seed, "linearity", detector.id)
    truths = []
    for definition in detector.amplifiers:
        gain = definition.gain * _positive_factor(rng, config.gain_scatter)
        read_noise = definition.read_noise * _positive_factor(rng, config.read_noise_scatter)
        bias_level = config.bias_level * (1 + 0.05 * rng.uniform(-1, 1))
        # counted in stored ADU, so that a full pixel lies above the definition's saturation whatever the gain
        stored = config.full_well * (definition.saturation - bias_level)
        curve = linearity_curve(bends, config.nonlinearity, stored, definition.linearity)
        pattern = config.bias_structure * bias_pattern(patterns, definition.raw_section.shape)
        full_well = curve.linear(stored) * gain
        truths.append(
            TrueAmplifier(
                definition, gain, read_noise, full_well, bias_level, pattern.astype(np.float32), curve
            )
        )
    return tuple(truths)


def linearity_curve(
    rng: np.random.Generator, nonlinearity: float, scale: float, polynomial: tuple[float, ...] = ()
) -> LinearityCurve:
    """A curve that loses `nonlinearity` at `scale` [ADU], give or take a fifth."""
    loss = nonlinearity * rng.uniform(0.8, 1.2)
    knee, waves = rng.uniform(0.08, 0.25), rng.uniform(1.0, 1.6)
    return LinearityCurve(loss, knee, 0.15 * nonlinearity, waves, scale, tuple(polynomial))


def _positive_factor(rng, scatter):
    return math.exp(scatter * float(np.clip(rng.normal(), -3, 3)))


def bias_pattern(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Fixed pattern of unit height: a glow over the first rows read out, and columns of their own level."""
    glow = np.exp(-np.arange(shape[0]) / GLOW_ROWS)[:, None]
    return glow + 0.3 * np.clip(rng.normal(size=(1, shape[1])), -3, 3)


def row_drift(rng: np.random.Generator, n_row: int) -> np.ndarray:
    """Wandering level of unit standard deviation, an AR(1) process with a length of 60 rows."""
    memory = math.exp(-1 / DRIFT_ROWS)
    steps = (rng.normal(size=n_row) * math.sqrt(1 - memory**2)).tolist()
    steps[0] /= math.sqrt(1 - memory**2)
    return np.array(list(itertools.accumulate(steps, lambda level, step: memory * level + step)))


def compressed(linear: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    """What an amplifier reads for a linear signal: v of linear = v + c2 v^2 + c3 v^3 ... [ADU], by Newton."""
    read = np.array(linear, dtype=float)
    if any(coefficients):
        polynomial = np.polynomial.Polynomial([0.0, 1.0, *coefficients])
        slope = polynomial.deriv()
        for _ in range(8):
            read = read - (polynomial(read) - linear) / slope(read)
    return read


def crosstalk_matrix(config: DetectorEffectsConfig, seed: int, detector: Detector) -> np.ndarray:
    """Crosstalk of a detector's amplifiers, shape (n, n).

    Returns
    -------
    ndarray of float64
        [victim, source]: ADU in the victim for each ADU above bias of the source; the diagonal is 0.
    """
    rng = effect_stream(seed, "crosstalk", detector.id)
    n = len(detector.amplifiers)
    size = config.crosstalk * rng.uniform(0.4, 1.0, (n, n))
    matrix = size * np.where(rng.uniform(size=(n, n)) < 0.35, -1.0, 1.0)
    np.fill_diagonal(matrix, 0.0)
    return matrix
