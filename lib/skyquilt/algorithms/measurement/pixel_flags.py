"""Pixel Flag Aggregation (LDM-151 8.6.2.2): which mask bits lie in a source's footprint and in its central
3x3 pixels."""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel


@kernel("void(const(int32[:, :]), const(int32[:, :]), int32[:])")
def footprint_bits(mask, segments, bits):
    """Or the mask bits of each segment into `bits[segment - 1]`; segment 0 is no source."""
    rows, columns = mask.shape
    for j in range(rows):
        for i in range(columns):
            if segments[j, i] > 0:
                bits[segments[j, i] - 1] |= mask[j, i]


@kernel("void(const(int32[:, :]), const(float64[:]), const(float64[:]), int32[:], boolean[:])")
def centre_bits(mask, x, y, bits, outside):
    """Or the mask bits of the 3x3 pixels about (x, y) [pixel] into `bits`; `outside` is set off the image."""
    rows, columns = mask.shape
    for k in range(x.size):
        if not (x[k] >= -0.5 and y[k] >= -0.5 and x[k] < columns - 0.5 and y[k] < rows - 0.5):
            outside[k] = True
            continue
        ci, cj = int(np.rint(x[k])), int(np.rint(y[k]))
        for j in range(max(cj - 1, 0), min(cj + 2, rows)):
            for i in range(max(ci - 1, 0), min(ci + 2, columns)):
                bits[k] |= mask[j, i]
