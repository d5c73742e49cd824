"""Blendedness (LDM-151 8.6.3): which share of the light at a source is its neighbours'.

1 - c / t under the Gaussian of the source's moments, with c the light of the source alone and t that of the image with
all sources (Bosch et al. 2018, PASJ 70, S5, section 4.9.11). Absolute values keep negative pixels from hiding a
neighbour; what noise adds to them, E|N(m, s)| - m for a true value m (taken as the larger of the pixel and 0), is
subtracted.
"""

from __future__ import annotations

import math

import numpy as np

from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin, Record, SourceImage
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.tables import Column


@kernel("float64(float64, float64)")
def unbiased_size(value, variance):
    """|value| less what noise of this variance adds to the absolute value of max(value, 0)."""
    size = abs(value)
    if variance <= 0.0:
        return size
    mean = max(value, 0.0)
    sigma = np.sqrt(variance)
    ratio = mean / sigma
    if ratio > 6.0:
        return size
    expected = sigma * 0.7978845608028654 * np.exp(-0.5 * ratio * ratio) + mean * math.erf(
        ratio * 0.7071067811865476
    )
    return size - (expected - mean)


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), float64, "
    "float64, float64, float64, float64, float64[::1])"
)
def weighted_sizes(image, original, variance, bad, x, y, wxx, wyy, wxy, result):
    """Fill `result` (2,): light of `image` and of `original` under the Gaussian (wxx, wyy, wxy) at (x, y)."""
    rows, columns = image.shape
    det = wxx * wyy - wxy * wxy
    ixx, iyy, ixy = wyy / det, wxx / det, -wxy / det
    reach_x, reach_y = 4.0 * np.sqrt(wxx), 4.0 * np.sqrt(wyy)
    result[:] = 0.0
    for j in range(max(int(np.ceil(y - reach_y)), 0), min(int(np.floor(y + reach_y)) + 1, rows)):
        dy = j - y
        for i in range(max(int(np.ceil(x - reach_x)), 0), min(int(np.floor(x + reach_x)) + 1, columns)):
            if bad[j, i]:
                continue
            dx = i - x
            square = ixx * dx * dx + iyy * dy * dy + 2.0 * ixy * dx * dy
            if square > 16.0:
                continue
            weight = np.exp(-0.5 * square)
            noise = np.float64(variance[j, i])
            alone, together = np.float64(image[j, i]), np.float64(original[j, i])
            size = unbiased_size(alone, noise)
            result[0] += weight * size
            result[1] += weight * (size if alone == together else unbiased_size(together, noise))


class Blendedness(Plugin):
    """`blendedness_abs`, 0 where a source is alone in its pixels."""

    name = "blendedness"
    order = 95.0
    columns = (
        Column("blendedness_abs", "f8", "", "Share of the light at the source that is its neighbours'."),
    )
    flags = (("blendedness_flag", "Moments of the source, or its light, are not positive."),)
    needs = ("x", "y", "ixx", "iyy", "ixy")

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write the share."""
        x, y, xx, yy, xy = (float(record[name]) for name in self.needs)
        if not (np.isfinite(x + y) and xx > 0 and xx * yy > xy * xy):
            raise MeasurementFailure("blendedness_flag")
        sizes = np.empty(2)
        weighted_sizes(source.image, source.original, source.variance, source.bad, x, y, xx, yy, xy, sizes)
        if not sizes[1] > 0:
            raise MeasurementFailure("blendedness_flag")
        record["blendedness_abs"] = min(max(1.0 - max(sizes[0], 0.0) / sizes[1], 0.0), 1.0)
