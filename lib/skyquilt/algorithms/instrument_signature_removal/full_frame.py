"""Full frame corrections (LDM-151 8.1): bias, gain, variance and flat, in one pass over the pixels.

Variance of a science pixel of S electrons after bias, divided by the flat f::

    variance = (max(S, 0) + r^2 + g^2 var(bias)) / f^2 + (S / f)^2 var(f) / f^2

with r the read noise in electrons and g the gain. Photon noise is taken from the pixel itself. The terms of
bias and flat are true for a single frame; among frames that share the calibrations they are common, not
independent.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel


@kernel(
    "void(float32[:, :], int32[:, :], float32[:, :], const(float32[:, :]), const(float32[:, :]), "
    "const(float32[:, :]), const(float32[:, :]), float64, float64, float64, float64, int32, int32)"
)
def correct_section(
    image,
    mask,
    variance,
    bias,
    bias_variance,
    flat,
    flat_variance,
    gain,
    read_noise,
    flat_bad,
    flat_vignetted,
    bad_bits,
    vignetted_bits,
):
    """Calibrate the pixels of one amplifier, in place.

    Parameters
    ----------
    image : float32, shape (ny, nx)
        [ADU] without overscan; becomes electrons per the flat's unit response. NaN stays NaN.
    mask : int32, shape (ny, nx)
        Bits are added.
    variance : float32, shape (ny, nx)
        Written [electron^2].
    bias, bias_variance, flat, flat_variance : float32, shape (ny, nx) or (0, 0)
        [ADU], [ADU^2], dimensionless; an empty array leaves the correction out. Where the bias is not finite,
        or the flat not finite or below `flat_bad`, the pixel is BAD and left uncorrected by it.
    gain : float
        [electron / ADU].
    read_noise : float
        [electron].
    """
    rows, columns = image.shape
    has_bias = bias.size > 0
    has_bias_variance = bias_variance.size > 0
    has_flat = flat.size > 0
    has_flat_variance = flat_variance.size > 0
    for j in range(rows):
        for i in range(columns):
            value = np.float64(image[j, i])
            if not np.isfinite(value):
                variance[j, i] = np.nan
                continue
            noise = read_noise * read_noise
            if has_bias:
                level = np.float64(bias[j, i])
                if np.isfinite(level):
                    value -= level
                    if has_bias_variance:
                        noise += gain * gain * bias_variance[j, i]
                else:
                    mask[j, i] |= bad_bits
            value *= gain
            noise += max(value, 0.0)
            if has_flat:
                response = np.float64(flat[j, i])
                if response >= flat_bad and np.isfinite(response):
                    if response < flat_vignetted:
                        mask[j, i] |= vignetted_bits
                    value /= response
                    noise /= response * response
                    if has_flat_variance:
                        noise += value * value * flat_variance[j, i] / (response * response)
                else:
                    mask[j, i] |= bad_bits
            image[j, i] = value
            variance[j, i] = noise
