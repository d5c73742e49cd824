"""Full frame corrections (LDM-151 8.1): bias, gain, dark; flat; and the variance.

Variance of a science pixel that gathered a charge of C electrons of light, divided by the flat f, S = C / f::

    variance = (C + D t + r^2 + g^2 var(bias) + t^2 var(D)) / f^2 + S^2 var(f) / f^2

with the dark current D [electron / s], the time t, the read noise r and the gain g. C would be known without
noise only from a model. Taken from the noisy pixel itself (`smoothing` off) it makes low pixels weigh too much: pulls
of a sky of 10 electrons have a width of 1.09 with a read noise of 2, of 50 electrons 1.02. So by default C / f is the mean
over 3 x 3 pixels of the divided image (weights 1 2 1 in both directions), where the widths are 1.004 and 1.001; where
the pixel is further from that mean than the noise allows, as in stars, it is the pixel's own.

The terms of bias, dark and flat are true for a single frame; among frames that share the calibrations they are
common, not independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.algorithms.instrument_signature_removal.calibrations import EMPTY, planes_of, strips_of
from skyquilt.primitives.compiled import kernel

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal.calibrations import CalibrationPixels
    from skyquilt.algorithms.instrument_signature_removal.state import IsrState


@dataclass(frozen=True)
class FlatConfig:
    """Use of the flat."""

    bad_below: float = 0.2
    """Pixels with a lower response are BAD and left undivided."""
    vignetted_below: float = 0.6
    """Pixels with a lower response are VIGNETTED."""

    def __post_init__(self) -> None:
        if not 0 < self.bad_below <= self.vignetted_below:
            raise ValueError(
                f"flat needs 0 < bad_below <= vignetted_below, got {self.bad_below}, {self.vignetted_below}"
            )


@dataclass(frozen=True)
class VarianceConfig:
    """Variance of the pixels."""

    smoothing: bool = True
    """Take photon noise from the mean over 3 x 3 pixels (1 2 1), so that it hardly follows the pixel's own noise."""
    outlier: float = 3.0
    """Pixels further than this from that mean use their own value [sigma]."""

    def __post_init__(self) -> None:
        if self.outlier < 1:
            raise ValueError(f"variance.outlier must be at least 1, got {self.outlier}")


@kernel(
    "void(float32[:, :], int32[:, :], float32[:, :], const(float32[:, :]), const(float32[:, :]), "
    "const(float32[:, :]), const(float32[:, :]), float64, float64, float64, int32)"
)
def bias_gain_dark(
    image, mask, noise, bias, bias_variance, dark, dark_variance, gain, read_noise, exposure_time, bad_bits
):
    """ADU of one amplifier become electrons without bias and dark current, in place.

    Parameters
    ----------
    image : float32, shape (ny, nx)
        [ADU] above overscan; NaN stays NaN.
    mask : int32, shape (ny, nx)
        Where bias or dark is not finite the pixel gets `bad_bits` and is left uncorrected by it.
    noise : float32, shape (ny, nx) or (0, 0)
        Written: variance without the photons of the light [electron^2]; NaN where the image is.
    bias, bias_variance : float32, shape (ny, nx) or (0, 0)
        [ADU], [ADU^2]; an empty array leaves the correction out.
    dark, dark_variance : float32, shape (ny, nx) or (0, 0)
        [electron / s] and its square.
    gain, read_noise, exposure_time : float
        [electron / ADU], [electron], [s].
    """
    rows, columns = image.shape
    has_bias, has_dark, has_noise = bias.size > 0, dark.size > 0, noise.size > 0
    time = np.float32(exposure_time)
    scale = np.float32(gain)
    zero = np.float32(0)
    for j in range(rows):
        for i in range(columns):
            value = image[j, i]
            variance = np.float32(read_noise * read_noise)
            if has_bias:
                level = bias[j, i]
                if np.isfinite(level):
                    value -= level
                    extra = bias_variance[j, i] * scale * scale
                    variance += extra if extra > zero else zero
                else:
                    mask[j, i] |= bad_bits
            value *= scale
            if has_dark:
                current = dark[j, i]
                if np.isfinite(current):
                    value -= current * time
                    extra = dark_variance[j, i] * time * time
                    variance += (extra if extra > zero else zero) + max(current * time, zero)
                else:
                    mask[j, i] |= bad_bits
            image[j, i] = value
            if has_noise:
                noise[j, i] = variance if np.isfinite(value) else np.float32(np.nan)


@kernel("void(float32[:, :], int32[:, :], const(float32[:, :]), float32, float32, int32, int32)")
def divide_by_flat(image, mask, flat, bad_below, vignetted_below, bad_bits, vignetted_bits):
    """Divide rows by the response, in place; where it is not finite or below `bad_below` the pixel is BAD and undivided."""
    rows, columns = image.shape
    for j in range(rows):
        for i in range(columns):
            response = flat[j, i]
            if response >= bad_below and np.isfinite(response):
                image[j, i] /= response
                if response < vignetted_below:
                    mask[j, i] |= vignetted_bits
            else:
                mask[j, i] |= bad_bits


@kernel(
    "void(const(float32[:, :]), const(int32[:, :]), float32[:, :], const(float32[:, :]), const(float32[:, :]), "
    "int64, int32, float32, float32, boolean)"
)
def add_photon_noise(
    image, mask, variance, flat, flat_variance, first, bad_bits, bad_below, outlier, smoothing
):
    """Variance of some rows from their noise without photons, in place.

    Parameters
    ----------
    image : float32, shape (ny, nx)
        The whole detector divided by the flat, at least down to a row after those asked for [electron].
    mask : int32, shape (ny, nx)
        Pixels with any of `bad_bits` do not count among the neighbours.
    variance : float32, shape (rows, nx)
        Of rows `first` ... of the image: the noise before the flat on entry [electron^2], the variance on return.
    flat, flat_variance : float32, shape (rows, nx) or (0, 0)
        Response in these rows.
    bad_below : float
        Pixels of lower response were not divided.
    outlier : float
        [sigma]
    """
    ny, nx = image.shape
    rows = variance.shape[0]
    has_flat, has_flat_variance = flat.size > 0, flat_variance.size > 0
    total = np.empty(nx + 2, np.float32)
    weight = np.empty(nx + 2, np.float32)
    level = np.empty(nx, np.float32)
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    for j in range(rows):
        y = first + j
        centre = image[y]
        if smoothing:
            upper, lower = min(y + 1, ny - 1), max(y - 1, 0)
            above, below = image[upper], image[lower]
            mask_above, mask_centre, mask_below = mask[upper], mask[y], mask[lower]
            for i in range(nx):
                a, b, c = below[i], centre[i], above[i]
                has_a = one if np.isfinite(a) and not mask_below[i] & bad_bits else zero
                has_b = two if np.isfinite(b) and not mask_centre[i] & bad_bits else zero
                has_c = one if np.isfinite(c) and not mask_above[i] & bad_bits else zero
                total[i + 1] = (
                    (a if has_a > zero else zero)
                    + two * (b if has_b > zero else zero)
                    + (c if has_c > zero else zero)
                )
                weight[i + 1] = has_a + has_b + has_c
            total[0], weight[0] = total[1], weight[1]
            total[nx + 1], weight[nx + 1] = total[nx], weight[nx]
            for i in range(nx):
                level[i] = (total[i] + two * total[i + 1] + total[i + 2]) / max(
                    weight[i] + two * weight[i + 1] + weight[i + 2], one
                )
        out = variance[j]
        for i in range(nx):
            value = centre[i]
            noise = out[i]
            response = one
            if has_flat:
                found = flat[j, i]
                if found >= bad_below and np.isfinite(found):
                    response = found
            inverse = one / response
            # photons of the light, over the squared response: response * S / response^2
            photons = max(value, zero) * inverse
            constant = noise * inverse * inverse
            if smoothing:
                smooth = max(level[i], zero) * inverse
                distance = value - level[i]
                if distance * distance <= outlier * outlier * (smooth + constant):
                    photons = smooth
            result = constant + photons
            if has_flat_variance and response != one:
                extra = value * value * flat_variance[j, i] * inverse * inverse
                result += extra if extra > zero else zero
            out[i] = result if np.isfinite(value) else np.float32(np.nan)


def calibrate_charge(
    state: IsrState, bias: CalibrationPixels | None, dark: CalibrationPixels | None, noise: bool
) -> None:
    """Bias, gain and dark of a whole frame, in place; with `noise` its variance without the photons of the light.

    Raises
    ------
    ProcessingFailure
        BAD_HEADER when there is a dark and the frame has no exposure time.
    """
    time = state.exposure_time if dark is not None else 0.0
    if noise:
        state.variance = np.full_like(state.image, np.nan)
    bad = state.mask.bits(["BAD"])
    for strip in strips_of(state.detector.box):
        planes = (*planes_of(bias, strip), *planes_of(dark, strip))
        for amplifier, figures in zip(state.detector.amplifiers, state.amplifiers):
            box = amplifier.data.overlap(strip)
            if box is None:
                continue
            part, inside = box.slices(), box.slices(strip)
            bias_gain_dark(
                state.image[part],
                state.mask.array[part],
                state.variance[part] if noise else EMPTY,
                *(plane[inside] if plane.size else plane for plane in planes),
                figures.gain,
                figures.read_noise,
                time,
                bad,
            )


def flat_and_variance(state: IsrState, flat: CalibrationPixels | None, variance: bool) -> None:
    """Divide a whole frame by the flat, and its variance, in place."""
    config, box = state.config, state.detector.box
    bits = state.mask.bits(["BAD"]), state.mask.bits(["VIGNETTED"])
    behind = (EMPTY, EMPTY)
    for strip in strips_of(box):
        planes = planes_of(flat, strip)
        if planes[0].size:
            divide_by_flat(
                state.image[strip.slices()],
                state.mask.array[strip.slices()],
                planes[0],
                config.flat.bad_below,
                config.flat.vignetted_below,
                *bits,
            )
        elif state.response is not None:
            planes = state.response[strip.slices()], EMPTY
        if not variance:
            continue
        # one row behind: the variance looks at the rows around it
        first = max(strip.y0 - 1, 0)
        last = strip.y1 if strip.y1 == box.y1 else strip.y1 - 1
        rows = [np.concatenate([old[-1:], new]) if old.size else new for old, new in zip(behind, planes)]
        add_photon_noise(
            state.image,
            state.mask.array,
            state.variance[first:last],
            *(each[: last - first] for each in rows),
            first,
            bits[0],
            config.flat.bad_below,
            config.variance.outlier,
            config.variance.smoothing,
        )
        behind = planes
