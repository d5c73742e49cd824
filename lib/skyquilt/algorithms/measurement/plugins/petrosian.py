"""Petrosian Photometry (LDM-151 8.6.2.7): light within twice the radius where the surface brightness has fallen
to a fifth of its mean inside (Petrosian 1976, ApJ 209, L1; ratio and annulus as of Blanton et al. 2001, AJ 121, 2358).

eta(r) is the mean in the annulus 0.8 r..1.25 r over the mean within r. Sums are exact areas, at radii in steps of the root
of 1.25, so that no spline is needed; the crossing is interpolated in log r. The error is that of the sum, and that of the
radius (through the noise of eta) times the light at the edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin, Record, SourceImage
from skyquilt.algorithms.measurement.plugins.elliptical_apertures import Ellipse, sums_in
from skyquilt.primitives.tables import Column

_STEP = 1.25**0.5
_LEAST_SIZE = 0.6


@dataclass(frozen=True)
class PetrosianOptions:
    """Petrosian radius and aperture."""

    ratio: float = 0.2
    """eta at the Petrosian radius."""
    scale: float = 2.0
    """Size of the flux aperture [Petrosian radii]."""
    search: float = 16.0
    """Largest radius of the search [sigma of the source's ellipse]."""
    max_masked: float = 0.1
    """Larger shares of unusable area set the flag."""

    def __post_init__(self) -> None:
        if not (0 < self.ratio < 1 and self.scale > 0 and self.search > 3 and 0 <= self.max_masked <= 1):
            raise ValueError(f"petrosianFlux needs ratio in 0..1, scale > 0 and search > 3, got {self}")


class Petrosian(Plugin):
    """`petrosianFlux` and `petrosianRad`."""

    name = "petrosianFlux"
    order = 85.0
    columns = (
        Column("petrosianFlux", "f4", "electron", "Flux within the Petrosian ellipse."),
        Column("petrosianFluxErr", "f4", "electron", "Error of petrosianFlux, 1 sigma."),
        Column("petrosianRad", "f4", "pixel", "Petrosian radius, geometric mean of the axes."),
        Column("petrosianRadErr", "f4", "pixel", "Error of petrosianRad, 1 sigma."),
    )
    flags = (
        (
            "petrosianFlux_flag",
            "petrosianFlux could not be measured, leaves the image or is masked too much.",
        ),
        (
            "petrosianFlux_noRadius_flag",
            "The surface brightness does not fall to the ratio within the search.",
        ),
    )
    needs = ("x", "y", "ixx", "iyy", "ixy")
    Options = PetrosianOptions

    def __init__(self, options: PetrosianOptions | None = None) -> None:
        super().__init__(options)
        n = int(np.log(self.options.search / _LEAST_SIZE) / np.log(_STEP)) + 3
        self._sizes = _LEAST_SIZE * _STEP ** np.arange(n)

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write flux, radius and their errors."""
        try:
            ellipse = Ellipse.of(record)
        except ValueError:
            raise MeasurementFailure("petrosianFlux_flag") from None
        found = None
        for n in (16, 24, self._sizes.size):
            sizes = self._sizes[:n]
            if n > self._sizes.size:
                continue
            found = self._crossing(sizes, sums_in(source, ellipse, sizes))
            if found is not None:
                break
        if found is None:
            record["petrosianFlux_noRadius_flag"] = True
            raise MeasurementFailure("petrosianFlux_flag")
        radius, error = found
        size = self.options.scale * radius
        inner, outer = sums_in(source, ellipse, np.array([size, 1.05 * size]))
        slope = (outer[0] - inner[0]) / 0.05
        record["petrosianFlux"] = inner[0]
        record["petrosianFluxErr"] = np.sqrt(inner[1] + (slope * error) ** 2)
        record["petrosianRad"] = radius * ellipse.sigma
        record["petrosianRadErr"] = radius * ellipse.sigma * error
        masked = 1.0 - inner[2] / inner[3] > self.options.max_masked
        lost = masked or not np.isfinite(inner[0]) or not ellipse.inside(source.image.shape, size)
        record["petrosianFlux_flag"] = lost

    def _crossing(self, sizes: np.ndarray, sums: np.ndarray) -> tuple[float, float] | None:
        """Radius [sigma] where eta first falls below the ratio, and the error of its logarithm."""
        light, variance, _, area = sums.T
        ring = area[4:] - area[:-4]
        # means over areas: of the annulus, and inside
        outer, inner = (light[4:] - light[:-4]) / ring, light[2:-2] / area[2:-2]
        with np.errstate(divide="ignore", invalid="ignore"):
            eta = np.where(inner > 0, outer / inner, np.nan)
        below = np.flatnonzero(eta[1:] < self.options.ratio)
        if not below.size:
            return None
        k = int(below[0])
        if not eta[k] >= self.options.ratio:
            return None
        slope = (eta[k + 1] - eta[k]) / np.log(_STEP)
        at = (self.options.ratio - eta[k]) / slope
        noise = np.sqrt(max(variance[k + 4] - variance[k], 0.0)) / ring[k] / inner[k]
        return float(sizes[k + 2] * np.exp(at)), float(abs(noise / slope))
