"""Assembly, defects and saturation (LDM-151 8.1): amplifier sections become one detector image in ADU.

One pass over the raw pixels: pixels that are not finite, saturated or suspect are marked in ADU before
anything is subtracted, the overscan level of the row (and of the column, where it was fitted) is taken off, and
the value goes to its place in the detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.algorithms.instrument_signature_removal.overscan import amplifier_levels
from skyquilt.algorithms.instrument_signature_removal.state import AmplifierFigures
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.failure import ProcessingFailure, Reason

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal.state import IsrState
    from skyquilt.instrument.camera import Amplifier


@kernel(
    "Tuple((int64, int64, float64, float64))"
    "(const(float32[:, :]), const(float64[:]), const(float32[:]), float64, float64, float64, float64, "
    "int32, int32, int32, float32[:, :], int32[:, :])"
)
def assemble_section(
    section,
    level,
    columns_level,
    saturation,
    suspect,
    full_well,
    linear_to,
    no_data_bits,
    saturated_bits,
    suspect_bits,
    image,
    mask,
):
    """Copy a raw section into views of the detector's image and mask (already flipped as needed).

    Parameters
    ----------
    section : float32, shape (ny, nx)
        Raw pixels [ADU].
    level : float64, shape (ny,)
        Overscan level of each row [ADU].
    columns_level : float32, shape (nx,) or (0,)
        Level of each column besides [ADU].
    saturation, suspect : float
        From these stored values [ADU] on a pixel is saturated, or suspect.
    full_well, linear_to : float
        From these values above the level [ADU] on a pixel is saturated, or suspect.
    no_data_bits, saturated_bits, suspect_bits : int32
        Mask bits to be set.
    image, mask : float32 and int32, shape (ny, nx)
        Written; pixels that are not finite become NaN.

    Returns
    -------
    good, saturated : int
        Finite pixels, and how many of them are saturated.
    lowest, highest : float
        Range of the finite raw values [ADU].
    """
    rows, columns = section.shape
    good = 0
    saturated = 0
    lowest, highest = np.float32(np.inf), np.float32(-np.inf)
    with_columns = columns_level.size > 0
    for j in range(rows):
        base = np.float32(level[j])
        # in stored values: one comparison per pixel for both limits
        from_full = np.float32(min(saturation, full_well + level[j]))
        from_suspect = min(np.float32(min(suspect, linear_to + level[j])), from_full)
        for i in range(columns):
            value = section[j, i]
            if not np.isfinite(value):
                image[j, i] = np.nan
                mask[j, i] |= no_data_bits
                continue
            good += 1
            lowest = min(lowest, value)
            highest = max(highest, value)
            if value >= from_suspect:
                if value >= from_full:
                    mask[j, i] |= saturated_bits
                    saturated += 1
                else:
                    mask[j, i] |= suspect_bits
            value -= base
            if with_columns:
                value -= columns_level[i]
            image[j, i] = value
    return good, saturated, np.float64(lowest), np.float64(highest)


@dataclass(frozen=True)
class _Levels:
    """Saturation of one amplifier: stored [ADU], and above bias [ADU]."""

    stored: float
    full_well: float
    linear_to: float


def assemble_amplifier(state: IsrState, amplifier: Amplifier, saturation: bool, overscan: bool) -> float:
    """Put one amplifier into the image and mask of the state, and its figures into the list.

    Parameters
    ----------
    saturation, overscan : bool
        Whether pixels are marked by level, and whether the overscan is subtracted.

    Returns
    -------
    float
        Its saturation level above bias [ADU], NaN without data.

    Raises
    ------
    ProcessingFailure
        WRONG_SHAPE when the section has another size than the definition says.
    """
    config, mask = state.config, state.mask
    gain, source = state.calibrations.gain(amplifier)
    part = amplifier.data.slices()
    no_data = mask.bits(["BAD", "NO_DATA"])
    section = state.raw.amplifiers.get(amplifier.name)
    if section is None:
        mask.array[part] |= np.int32(no_data)
        noise = _read_noise(state, amplifier, float("nan"))
        state.amplifiers.append(
            AmplifierFigures(amplifier.name, "no_data", float("nan"), noise, 0, gain, source)
        )
        return float("nan")
    if section.shape != amplifier.raw_section.shape:
        raise ProcessingFailure(
            Reason.WRONG_SHAPE,
            f"amplifier {amplifier.name} has shape {section.shape}, expected {amplifier.raw_section.shape}",
        )
    fit, columns = amplifier_levels(section, amplifier, config.overscan)
    known = overscan and bool(np.isfinite(fit.level).all())
    level = fit.level if known else np.zeros(amplifier.raw_data.ny)
    limits = _levels(state, amplifier, gain) if saturation else _Levels(np.inf, np.inf, np.inf)
    good, saturated, lowest, highest = assemble_section(
        section[amplifier.raw_data.slices()],
        level,
        columns if known else np.empty(0, np.float32),
        limits.stored,
        config.saturation.suspect_fraction * limits.stored,
        limits.full_well,
        limits.linear_to,
        no_data,
        mask.bits(["SATURATED"]),
        mask.bits(["SUSPECT"]),
        amplifier.from_assembled(state.image),
        amplifier.from_assembled(mask.array),
    )
    status = "good" if good else "no_data"
    if good > 1 and lowest == highest and not saturated:
        status = "dead"
        state.image[part] = np.nan
        mask.array[part] |= np.int32(no_data)
    mean_level = float(level.mean()) if known else float("nan")
    noise = _read_noise(state, amplifier, fit.read_noise * gain)
    state.amplifiers.append(
        AmplifierFigures(amplifier.name, status, mean_level, noise, int(saturated), gain, source)
    )
    if status != "good":
        return float("nan")
    return min(limits.stored - float(level.mean()), limits.full_well)


def _read_noise(state: IsrState, amplifier: Amplifier, from_overscan: float) -> float:
    """[electron] of the overscan, else of the photon transfer, else of the definition."""
    if state.config.overscan.measured_read_noise:
        for noise in (from_overscan, state.calibrations.measured("read_noise", amplifier)):
            if noise > 0:
                return float(noise)
    return float(amplifier.read_noise)


def _levels(state: IsrState, amplifier: Amplifier, gain: float) -> _Levels:
    config, calibrations = state.config.saturation, state.calibrations
    # the photon transfer's is linear; what is compared is stored: their difference is small beside the margin
    full_well = config.full_well_fraction * calibrations.measured("full_well", amplifier) / gain
    linear_to = float("inf")
    linearizer = calibrations.linearizer
    if config.suspect_beyond_linearity and linearizer is not None:
        number = linearizer.amplifiers.index(amplifier.name)
        if linearizer.measured[number] and linearizer.largest[number] > 0:
            linear_to = float(linearizer.largest[number])
    return _Levels(float(amplifier.saturation), full_well if full_well > 0 else float("inf"), linear_to)
