"""Local sky (LDM-151 8.6.2.4, 8.7): what is left in an annulus around a source, with the background's own value added."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin, Record, SourceImage
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.tables import Column


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, float64, "
    "float64, float64[::1])"
)
def annulus_sums(image, variance, excluded, x, y, inner, outer, sums):
    """Fill `sums` (3,): number, light and variance of the pixels that are not `excluded` in an annulus [pixel]."""
    rows, columns = image.shape
    sums[:] = 0.0
    for j in range(max(int(np.ceil(y - outer)), 0), min(int(np.floor(y + outer)) + 1, rows)):
        dy = j - y
        half = np.sqrt(max(outer * outer - dy * dy, 0.0))
        first, last = max(int(np.ceil(x - half)), 0), min(int(np.floor(x + half)), columns - 1)
        hole_from, hole_to = last + 1, last
        if abs(dy) < inner:
            hole = np.sqrt(inner * inner - dy * dy)
            hole_from, hole_to = max(int(np.floor(x - hole)) + 1, first), int(np.ceil(x + hole)) - 1
        for side in range(2):
            begin, end = (
                (first, min(hole_from, last + 1)) if side == 0 else (max(hole_to + 1, first), last + 1)
            )
            for i in range(begin, end):
                if not excluded[j, i]:
                    sums[0] += 1.0
                    sums[1] += np.float64(image[j, i])
                    sums[2] += np.float64(variance[j, i])


@dataclass(frozen=True)
class LocalSkyOptions:
    """The annulus."""

    inner: float = 25.0
    """Inner radius [pixel]."""
    outer: float = 35.0
    """Outer radius [pixel]."""
    least: int = 50
    """Fewest pixels outside of all footprints."""

    def __post_init__(self) -> None:
        if not (0 <= self.inner < self.outer and self.least >= 2):
            raise ValueError(f"localSky needs 0 <= inner < outer and least >= 2, got {self}")


class LocalSky(Plugin):
    """`sky` and `skyErr`: background model plus the mean of the annulus' pixels outside of all footprints."""

    name = "localSky"
    order = 90.0
    columns = (
        Column("sky", "f8", "electron", "Background per pixel in an annulus around the source."),
        Column("skyErr", "f8", "electron", "Error of sky, 1 sigma."),
        Column("skyResidual", "f4", "electron", "sky less the background model that was subtracted."),
    )
    flags = (("sky_flag", "Too few pixels without a source in the annulus."),)
    failure_flag = "sky_flag"
    needs = ("x", "y")
    Options = LocalSkyOptions

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write the annulus' mean; `finish` adds the model."""
        x, y = float(record["x"]), float(record["y"])
        if not (np.isfinite(x) and np.isfinite(y)):
            raise MeasurementFailure("sky_flag")
        sums = np.empty(3)
        annulus_sums(
            source.original,
            source.variance,
            source.no_sky,
            x,
            y,
            float(self.options.inner),
            float(self.options.outer),
            sums,
        )
        count, light, variance = sums.tolist()
        if count < self.options.least:
            raise MeasurementFailure("sky_flag")
        record["sky"] = record["skyResidual"] = light / count
        record["skyErr"] = math.sqrt(variance) / count

    def finish(self, columns: dict[str, np.ndarray], exposure: Exposure) -> None:
        """Add the background model at all sources at once."""
        known = np.isfinite(columns["sky"])
        x, y = columns["x"][known], columns["y"][known]
        for layer in exposure.background.layers if exposure.background is not None else ():
            columns["sky"][known] += layer.evaluate(x, y)
