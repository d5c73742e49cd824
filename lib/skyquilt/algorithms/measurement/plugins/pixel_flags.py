"""Pixel Flag Aggregation (LDM-151 8.6.2.2): mask planes of a source's footprint and of its central 3x3 pixels."""

from __future__ import annotations

import numpy as np

from skyquilt.algorithms.measurement.framework import Plugin, Record, SourceImage
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.tables import Column

FOOTPRINT_PLANES = {
    "bad": "BAD",
    "cr": "COSMIC_RAY",
    "edge": "DETECTION_EDGE",
    "interpolated": "INTERPOLATED",
    "nodata": "NO_DATA",
    "saturated": "SATURATED",
    "suspect": "SUSPECT",
    "spike": "SPIKE",
    "streak": "STREAK",
    "ghost": "GHOST",
    "crosstalk": "CROSSTALK",
}
"""Name of a flag, and the plane that sets it where any pixel of the footprint has it."""

CENTRE_PLANES = ("bad", "cr", "interpolated", "nodata", "saturated", "suspect")
"""Flags that also exist for the central pixels."""


def _columns() -> tuple[Column, ...]:
    anywhere = (
        Column(f"pixelFlags_{name}", "bool", "", f"A pixel of the footprint is {plane}.")
        for name, plane in FOOTPRINT_PLANES.items()
    )
    centre = (
        Column(
            f"pixelFlags_{name}Center",
            "bool",
            "",
            f"One of the central 3x3 pixels is {FOOTPRINT_PLANES[name]}.",
        )
        for name in CENTRE_PLANES
    )
    return (*anywhere, *centre)


@kernel("int64(const(int32[::1]), const(int64[::1]))")
def joined_bits(mask, pixel):
    """All mask bits of pixels given by flat index."""
    bits = np.int32(0)
    for k in range(pixel.size):
        bits |= mask[pixel[k]]
    return bits


@kernel("int64(const(int32[:, ::1]), int64, int64)")
def central_bits(mask, row, column):
    """All mask bits of the 3x3 pixels about (row, column)."""
    bits = np.int32(0)
    for j in range(max(row - 1, 0), min(row + 2, mask.shape[0])):
        for i in range(max(column - 1, 0), min(column + 2, mask.shape[1])):
            bits |= mask[j, i]
    return bits


class PixelFlags(Plugin):
    """`pixelFlags_<x>` and `pixelFlags_<x>Center`; a sky source's footprint is its central 3x3 pixels."""

    name = "pixelFlags"
    order = 30.0
    columns = _columns()
    flags = (("pixelFlags_offimage", "The centre lies off the image."),)
    failure_flag = "pixelFlags_offimage"
    needs = ("x", "y")

    def measure(self, source: SourceImage, record: Record) -> None:
        """Set the flags."""
        mask = source.mask
        rows, columns = mask.shape
        x, y = record["x"], record["y"]
        centre = 0
        if np.isfinite(x) and np.isfinite(y) and -0.5 <= x < columns - 0.5 and -0.5 <= y < rows - 0.5:
            j, i = round(y), round(x)
            centre = central_bits(mask.array, j, i)
        else:
            record["pixelFlags_offimage"] = True
        anywhere = centre if source.is_sky else 0
        if source.pixel.size:
            anywhere |= joined_bits(mask.array.reshape(-1), source.pixel)
        if not anywhere:
            return
        for name, plane in FOOTPRINT_PLANES.items():
            bit = 1 << mask.planes[plane] if plane in mask.planes else 0
            if anywhere & bit:
                record[f"pixelFlags_{name}"] = True
            if centre & bit and name in CENTRE_PLANES:
                record[f"pixelFlags_{name}Center"] = True
