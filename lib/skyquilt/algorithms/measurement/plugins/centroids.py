"""Centroids (LDM-151 8.6.2.1): one that needs no PSF, and one that is the fit of the PSF."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.measurement.adaptive_ellipse import ellipse_errors, match_ellipse
from skyquilt.algorithms.measurement.centroids import window_centroids
from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin, Record, SourceImage
from skyquilt.algorithms.measurement.point_source_fit import (
    fit_flux,
    fit_position,
    fit_weighted,
    position_covariance,
    psf_derivatives,
    variance_without_source,
)
from skyquilt.primitives.tables import Column


@dataclass(frozen=True)
class WindowCentroidOptions:
    """Window of the centroid without a PSF."""

    width: float = 0.0
    """Standard deviation of the Gaussian window [pixel]; 0 for that of stars."""
    reach: float = 2.0
    """Largest distance from the start, the larger of this [pixel] and twice the width."""

    def __post_init__(self) -> None:
        if self.width < 0 or self.reach <= 0:
            raise ValueError(f"windowCentroid needs width >= 0 and reach > 0, got {self.width}, {self.reach}")


class WindowCentroid(Plugin):
    """Position under a Gaussian window of a star's width; needs a width, which may be a guess, and no PSF."""

    name = "windowCentroid"
    order = 10.0
    columns = (
        Column("windowX", "f8", "pixel", "Centroid along a row under a Gaussian window."),
        Column("windowY", "f8", "pixel", "Centroid along a column under a Gaussian window."),
        Column("windowXErr", "f4", "pixel", "Error of windowX, 1 sigma."),
        Column("windowYErr", "f4", "pixel", "Error of windowY, 1 sigma."),
        Column("windowXYCov", "f4", "pixel**2", "Covariance of windowX and windowY."),
    )
    flags = (("windowCentroid_flag", "No centroid near the start; windowX and windowY are the start."),)
    Options = WindowCentroidOptions

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write the position; the start where it fails."""
        record["windowX"], record["windowY"] = source.x, source.y
        if source.is_sky:
            return
        sigma = self.options.width or source.width
        result = np.empty((1, 6))
        window_centroids(
            source.image,
            source.variance,
            source.bad,
            np.array([source.x]),
            np.array([source.y]),
            sigma,
            max(self.options.reach, 2.0 * sigma),
            result,
        )
        if result[0, 5] == 0.0:
            record["windowCentroid_flag"] = True
            return
        x, y, xx, yy, xy, _ = result[0]
        record["windowX"], record["windowY"] = x, y
        record["windowXErr"], record["windowYErr"] = np.sqrt(xx), np.sqrt(yy)
        record["windowXYCov"] = xy


@dataclass(frozen=True)
class CentroidOptions:
    """The fit of the PSF's position."""

    settled: float = 0.02
    """The fit ends with a step below this [pixel]; what remains is of second order in it."""
    reach: float = 2.0
    """Largest distance from the window centroid, the larger of this [pixel] and twice the width."""
    extended_share: float = 0.25
    """A source wider than the PSF by this share of its variance, and by 5 sigma, gets a window of its own width."""
    largest: float = 20.0
    """Largest such window [pixel]."""

    def __post_init__(self) -> None:
        if not (0 < self.settled < 0.5 and self.reach > 0 and self.extended_share > 0 and self.largest > 0):
            raise ValueError(f"centroid needs positive options, settled below 0.5, got {self}")


class Centroid(Plugin):
    """Position: the PSF's least-squares fit; for extended sources under a Gaussian that adapts to them.

    Without a PSF, or where the fit fails, it is the window centroid; where that failed too, the start.
    """

    name = "centroid"
    order = 20.0
    columns = (
        Column("x", "f8", "pixel", "Centroid along a row, pixel centres integers from 0, parent frame."),
        Column("y", "f8", "pixel", "Centroid along a column, pixel centres integers from 0, parent frame."),
        Column("xErr", "f4", "pixel", "Error of x, 1 sigma."),
        Column("yErr", "f4", "pixel", "Error of y, 1 sigma."),
        Column("xyCov", "f8", "pixel**2", "Covariance of x and y."),
    )
    flags = (
        ("centroid_flag", "No centroid: x and y are those of the detection."),
        ("centroid_noFit_flag", "x and y are not from a fit of the PSF but from the Gaussian window."),
        ("centroid_extended_flag", "x and y are under a Gaussian as large as the source."),
    )
    needs = ("windowX", "windowY", "windowCentroid_flag")
    Options = CentroidOptions

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write the position and its covariance."""
        if source.is_sky:
            record["x"], record["y"] = source.x, source.y
            return
        lost = bool(record["windowCentroid_flag"])
        x, y = record["windowX"], record["windowY"]
        found = self._fit(source, float(x), float(y)) if source.has_psf else None
        if found is None:
            record["centroid_noFit_flag"] = True
            record["centroid_flag"] = lost
            xx = float(record["windowXErr"]) ** 2
            yy = float(record["windowYErr"]) ** 2
            xy = record["windowXYCov"]
        else:
            x, y, xx, yy, xy, width2 = found
            if width2 > 0.0:
                wide = self._under_ellipse(source, x, y, width2)
                if wide is not None:
                    x, y, xx, yy, xy = wide
                    record["centroid_extended_flag"] = True
        record["x"], record["y"] = x, y
        record["xErr"], record["yErr"], record["xyCov"] = np.sqrt(xx), np.sqrt(yy), xy

    def _fit(self, source: SourceImage, x: float, y: float) -> tuple[float, ...] | None:
        """x, y, variances and covariance, and the variance per axis [pixel^2] of an extended source (else 0)."""
        planes = source.image, source.variance, source.bad
        start_x, start_y = x, y
        reach = max(self.options.reach, 2.0 * source.width)
        one, step, covariance, extended = np.empty(4), np.empty(3), np.empty(3), np.empty(6)
        slopes = None
        for _ in range(20):
            try:
                stamp = source.psf_at(x, y)
            except MeasurementFailure:
                return None
            place = stamp.array, stamp.x0, stamp.y0
            if slopes is None:
                slopes = np.empty((5, *stamp.array.shape))
            psf_derivatives(stamp.array, slopes)
            fit_flux(*planes, *place, one)
            base = variance_without_source(*planes, *place, one[0])
            if not (one[0] > 0.0 and base > 0.0 and one[3] > 0.2):
                return None
            place = stamp.array, slopes, stamp.x0, stamp.y0
            if not fit_position(source.image, source.bad, *place, one[0], base, step) or not step[0] > 0.0:
                return None
            length = math.hypot(step[1], step[2])
            factor = min(1.0, 0.5 / length) if length > 0.0 else 1.0
            x, y = x + factor * step[1], y + factor * step[2]
            if math.hypot(x - start_x, y - start_y) > reach:
                return None
            if length < self.options.settled:
                break
        else:
            return None
        if not position_covariance(*planes, *place, step, base, covariance):
            return None
        fit_weighted(*planes, *place, one[0], base, extended)
        width2, s2 = source.width**2, extended[4]
        large = s2 > max(self.options.extended_share * width2, 5.0 * math.sqrt(extended[5]))
        return x, y, *covariance, width2 + s2 if large else 0.0

    def _under_ellipse(
        self, source: SourceImage, x: float, y: float, width2: float
    ) -> tuple[float, ...] | None:
        found, errors = np.empty(7), np.empty(6)
        largest = self.options.largest
        width2 = min(width2, 0.25 * largest**2)
        reach = max(self.options.reach, 2.0 * np.sqrt(width2))
        match_ellipse(source.image, source.bad, x, y, width2, width2, 0.0, largest, True, reach, found)
        if found[6] == 0.0:
            return None
        at_x, at_y, *moments, flux, _ = found
        ellipse_errors(source.variance, source.bad, at_x, at_y, *moments, flux, errors)
        return at_x, at_y, errors[3], errors[4], errors[5]
