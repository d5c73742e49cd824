"""Assembly, defects and saturation (LDM-151 8.1): amplifier sections become one detector image in ADU.

One pass over the raw pixels: pixels that are not finite, saturated or suspect are marked in ADU before
anything is subtracted, the overscan level of the row is taken off, and the value goes to its place in the
detector.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel


@kernel(
    "Tuple((int64, int64, float64, float64))"
    "(const(float32[:, :]), const(float64[:]), float64, float64, int32, int32, int32, "
    "float32[:, :], int32[:, :])"
)
def assemble_section(
    section, level, saturation, suspect, no_data_bits, saturated_bits, suspect_bits, image, mask
):
    """Copy a raw section into views of the detector's image and mask (already flipped as needed).

    Parameters
    ----------
    section : float32, shape (ny, nx)
        Raw pixels [ADU].
    level : float64, shape (ny,)
        Overscan level of each row [ADU].
    saturation, suspect : float
        From these values [ADU] on a pixel is saturated, or suspect.
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
    lowest, highest = np.inf, -np.inf
    for j in range(rows):
        for i in range(columns):
            value = np.float64(section[j, i])
            if not np.isfinite(value):
                image[j, i] = np.nan
                mask[j, i] |= no_data_bits
                continue
            good += 1
            lowest = min(lowest, value)
            highest = max(highest, value)
            if value >= saturation:
                mask[j, i] |= saturated_bits
                saturated += 1
            elif value >= suspect:
                mask[j, i] |= suspect_bits
            image[j, i] = value - level[j]
    return good, saturated, lowest, highest


@kernel("void(int32[:, :], int32, int64)")
def grow_bits(mask, bits, reach):
    """Set `bits` on all pixels within `reach` rows and columns of a pixel that has any of them, in place."""
    rows, columns = mask.shape
    n = 0
    for j in range(rows):
        for i in range(columns):
            if mask[j, i] & bits:
                n += 1
    seeds = np.empty((n, 2), np.int64)
    n = 0
    for j in range(rows):
        for i in range(columns):
            if mask[j, i] & bits:
                seeds[n, 0] = j
                seeds[n, 1] = i
                n += 1
    for k in range(n):
        for j in range(max(seeds[k, 0] - reach, 0), min(seeds[k, 0] + reach + 1, rows)):
            for i in range(max(seeds[k, 1] - reach, 0), min(seeds[k, 1] + reach + 1, columns)):
                mask[j, i] |= bits
