"""Simulation (design 7): from charge to stored numbers, through transfers, amplifiers and the converter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.simulation.detector_effects.amplifiers import (
    ADC_MAXIMUM,
    LinearityCurve,
    row_drift,
)
from skyquilt.simulation.detector_effects.charge_transfer import (
    RELEASE,
    defer_along_columns,
    defer_along_rows,
    pass_traps,
)
from skyquilt.simulation.detector_effects.defects import as_read
from skyquilt.simulation.detector_effects.streams import effect_stream

if TYPE_CHECKING:
    from skyquilt.instrument import Amplifier
    from skyquilt.simulation.detector_effects.true_detector import TrueDetector

CURVE_STEP = 8.0
"""Distance of the knots between which nonlinearity is interpolated; 1e-6 ADU off [ADU]."""


def read_out(truth: TrueDetector, charge: np.ndarray, visit: int = 0, snap: int = 0) -> dict[str, np.ndarray]:
    """Raw sections of all amplifiers of a detector.

    All amplifiers are read at the same pace: crosstalk is between pixels of the same number in the order of
    read-out.

    Parameters
    ----------
    charge : ndarray of float32, shape (ny, nx) [e]
        Of the assembled detector.
    visit, snap : int
        Of the random streams.

    Returns
    -------
    dict of str to ndarray of uint16
        By amplifier, shape of its `raw_section` [ADU].
    """
    config = truth.config
    unit = (visit, snap, truth.definition.id)
    noise, drift = (effect_stream(truth.seed, effect, *unit) for effect in ("read_out", "drift"))
    signals = [amplifier_signal(truth, k, charge) for k in range(len(truth.amplifiers))]
    sections = {}
    for victim, amplifier in enumerate(truth.amplifiers):
        total = signals[victim].copy()
        for source, coefficient in enumerate(truth.crosstalk[victim]):
            if coefficient != 0:
                add_scaled(total, signals[source], coefficient)
        level = amplifier.bias_level + config.bias_drift * row_drift(drift, total.shape[0])
        stored = np.empty(total.shape, dtype=np.uint16)
        normal = noise.standard_normal(total.shape, dtype=np.float32)
        digitize(total, normal, amplifier.read_noise / amplifier.gain, level, amplifier.pattern, stored)
        sections[amplifier.definition.name] = np.ascontiguousarray(_turned(amplifier.definition, stored))
    return sections


def amplifier_signal(truth: TrueDetector, number: int, charge: np.ndarray) -> np.ndarray:
    """Signal of one amplifier above bias, nonlinearity included, before crosstalk.

    Returns
    -------
    ndarray of float32, shape of the raw section, in the order of read-out [ADU]
    """
    config, amplifier = truth.config, truth.amplifiers[number]
    definition = amplifier.definition
    section = np.zeros(definition.raw_section.shape, dtype=np.float32)
    data = _turned(definition, section)[definition.raw_data.slices()]
    # a view of `section`: stored order has been undone, so that this is its place in the order of read-out
    data = data[:: _direction_y(definition), :: _direction_x(definition)]
    data[...] = as_read(definition, charge)
    traps = truth.traps[number]
    pass_traps(data, traps.rows, traps.columns, traps.depths)
    if config.cti_parallel > 0:
        defer_along_columns(section, config.cti_parallel, RELEASE)
    if config.cti_serial > 0:
        defer_along_rows(section, config.cti_serial, RELEASE)
    convert(section, 1 / amplifier.gain, _table(amplifier.curve), CURVE_STEP)
    return section


def _direction_x(definition: Amplifier) -> int:
    """1 where raw columns are stored as they are read, -1 where the other way round."""
    return 1 if definition.flip_x == definition.read_out.endswith("right") else -1


def _direction_y(definition: Amplifier) -> int:
    return 1 if definition.flip_y == definition.read_out.startswith("upper") else -1


def _turned(definition: Amplifier, section: np.ndarray) -> np.ndarray:
    """A section in the order of read-out as it is stored, and back: a view."""
    return section[:: _direction_y(definition), :: _direction_x(definition)]


def _table(curve: LinearityCurve) -> np.ndarray:
    """Signals read at linear signals 0, `CURVE_STEP` ... to beyond the converter's end; one knot when straight."""
    if curve.straight:
        return np.zeros(1)
    return curve.read(np.arange(0, 1.3 * ADC_MAXIMUM, CURVE_STEP))


@kernel("void(float32[:, ::1], float64, const(float64[::1]), float64)")
def convert(section, per_electron, table, step):
    """Electrons to signal [ADU above bias], in place.

    Parameters
    ----------
    section : ndarray of float32, shape (ny, nx)
    per_electron : float [ADU/e]
    table : ndarray of float64, shape (n,)
        Signal read at linear signals 0, `step` ...; beyond them in a straight line; one number: all is linear.
    step : float [ADU]
    """
    ny, nx = section.shape
    last = table.size - 2
    for j in range(ny):
        for i in range(nx):
            value = section[j, i] * per_electron
            if value > 0 and last >= 0:
                knot = min(int(value / step), last)
                part = value / step - knot
                value = table[knot] + part * (table[knot + 1] - table[knot])
            section[j, i] = np.float32(value)


@kernel("void(float32[:, ::1], const(float32[:, ::1]), float64)")
def add_scaled(total, other, factor):
    """Add `factor` times another image to `total` in place, where both have pixels."""
    ny, nx = min(total.shape[0], other.shape[0]), min(total.shape[1], other.shape[1])
    scale = np.float32(factor)
    for j in range(ny):
        for i in range(nx):
            total[j, i] += scale * other[j, i]


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), float64, const(float64[::1]),"
    " const(float32[:, ::1]), uint16[:, ::1])"
)
def digitize(signal, normal, noise, level, pattern, stored):
    """What the converter stores: signal, read noise, the row's level and the fixed pattern, rounded.

    Parameters
    ----------
    signal, normal, pattern : ndarray of float32, shape (ny, nx)
        [ADU above bias], unit normal numbers, [ADU].
    noise : float [ADU]
    level : ndarray of float64, shape (ny,) [ADU]
    stored : ndarray of uint16, shape (ny, nx)
        Result, between 0 and the converter's maximum [ADU].
    """
    ny, nx = signal.shape
    for j in range(ny):
        for i in range(nx):
            value = signal[j, i] + noise * normal[j, i] + level[j] + pattern[j, i]
            stored[j, i] = np.uint16(min(max(math.floor(value + 0.5), 0.0), 65535.0))
