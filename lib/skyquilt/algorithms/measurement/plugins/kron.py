"""Kron Photometry (LDM-151 8.6.2.6): light in an ellipse scaled by the first radial moment (Kron 1980, ApJS 43, 305).

The quoted error is that of the sum, and that of the radius times the light at the ellipse's edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin, Record, SourceImage
from skyquilt.algorithms.measurement.plugins.elliptical_apertures import Ellipse, sums_in
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.tables import Column


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, "
    "float64, float64, float64, float64, float64[::1])"
)
def radial_moment(image, variance, bad, x, y, cxx, cyy, cxy, search, result):
    """Fill `result` (2,): mean radius of the light within `search`, in units of the ellipse, and its variance.

    NaN where the light or its moment is not positive.
    """
    rows, columns = image.shape
    det = cxx * cyy - cxy * cxy
    reach_x, reach_y = search * np.sqrt(cyy / det), search * np.sqrt(cxx / det)
    light = 0.0
    moment = 0.0
    noise = np.zeros(3)
    for j in range(max(int(np.ceil(y - reach_y)), 0), min(int(np.floor(y + reach_y)) + 1, rows)):
        dy = j - y
        for i in range(max(int(np.ceil(x - reach_x)), 0), min(int(np.floor(x + reach_x)) + 1, columns)):
            dx = i - x
            square = cxx * dx * dx + cyy * dy * dy + 2.0 * cxy * dx * dy
            if square > search * search or bad[j, i]:
                continue
            radius = np.sqrt(square)
            value, here = np.float64(image[j, i]), np.float64(variance[j, i])
            light += value
            moment += value * radius
            noise[0] += here
            noise[1] += here * radius
            noise[2] += here * square
    result[:] = np.nan
    if light > 0.0 and moment > 0.0:
        mean = moment / light
        result[0] = mean
        result[1] = (noise[2] - 2.0 * mean * noise[1] + mean * mean * noise[0]) / (light * light)


@dataclass(frozen=True)
class KronOptions:
    """Size of the Kron ellipse."""

    search: float = 6.0
    """The radial moment is taken out to this many sigma of the source's ellipse."""
    scale: float = 2.5
    """Size of the flux aperture [Kron radii]."""
    smallest: float = 3.5
    """Least size of the flux aperture [sigma of the source's ellipse]."""
    max_masked: float = 0.1
    """Larger shares of unusable area set the flag."""

    def __post_init__(self) -> None:
        if not (self.search > 0 and self.scale > 0 and self.smallest > 0 and 0 <= self.max_masked <= 1):
            raise ValueError(f"kron needs positive sizes and max_masked in 0..1, got {self}")


class Kron(Plugin):
    """`kronFlux` and `kronRad`."""

    name = "kronFlux"
    order = 80.0
    columns = (
        Column("kronFlux", "f4", "electron", "Flux within the Kron ellipse."),
        Column("kronFluxErr", "f4", "electron", "Error of kronFlux, 1 sigma."),
        Column("kronRad", "f4", "pixel", "Geometric mean radius of the Kron ellipse."),
    )
    flags = (
        (
            "kronFlux_flag",
            "kronFlux could not be measured, leaves the image or has too many unusable pixels.",
        ),
        (
            "kronFlux_smallest_flag",
            "The Kron radius is unknown or below the least; the ellipse has the least size.",
        ),
    )
    needs = ("x", "y", "ixx", "iyy", "ixy")
    Options = KronOptions

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write flux, error and radius."""
        try:
            ellipse = Ellipse.of(record)
        except ValueError:
            raise MeasurementFailure("kronFlux_flag") from None
        options, found = self.options, np.empty(2)
        radial_moment(
            source.image,
            source.variance,
            source.bad,
            ellipse.x,
            ellipse.y,
            *ellipse.form,
            options.search,
            found,
        )
        size = options.scale * found[0]
        largest = options.scale * options.search
        free = options.smallest < size < largest
        if not free:
            # unknown (NaN) is the least too
            size = largest if size >= largest else options.smallest
        record["kronFlux_smallest_flag"] = size == options.smallest
        inner, outer = sums_in(source, ellipse, np.array([size, 1.05 * size]))
        slope = (outer[0] - inner[0]) / (0.05 * size)
        of_radius = (slope * options.scale) ** 2 * found[1] if free else 0.0
        record["kronFlux"] = inner[0]
        record["kronFluxErr"] = np.sqrt(inner[1] + (of_radius if np.isfinite(of_radius) else 0.0))
        record["kronRad"] = size * ellipse.sigma
        masked = 1.0 - inner[2] / inner[3] > options.max_masked
        lost = masked or not np.isfinite(inner[0]) or not ellipse.inside(source.image.shape, size)
        record["kronFlux_flag"] = lost
