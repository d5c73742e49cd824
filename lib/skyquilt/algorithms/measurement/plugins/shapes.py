"""Second-Moment Shapes (LDM-151 8.6.2.3): of the PSF at the source's place, and of the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.measurement.adaptive_ellipse import (
    deconvolved,
    ellipse_errors,
    match_ellipse,
    regularised,
    weighted_sums,
)
from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin, Record, SourceImage
from skyquilt.primitives.tables import Column

_USABLE: dict[tuple[int, int], np.ndarray] = {}


class PsfShape(Plugin):
    """Adaptive moments of the PSF, drawn as the source lies on its pixels."""

    name = "psfShape"
    order = 40.0
    columns = (
        Column("ixxPSF", "f8", "pixel**2", "ixx of the PSF at the source's place."),
        Column("iyyPSF", "f8", "pixel**2", "iyy of the PSF at the source's place."),
        Column("ixyPSF", "f8", "pixel**2", "ixy of the PSF at the source's place."),
    )
    flags = (
        ("psfShape_flag", "The PSF has no moments at the source's place."),
        ("invalidPsfFlag", "There is no PSF model at the source."),
    )
    needs = ("x", "y")

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write the moments."""
        x, y = float(record["x"]), float(record["y"])
        stamp = source.psf_at(x, y)
        shape = stamp.array.shape
        bad = _USABLE.setdefault(shape, np.zeros(shape, dtype=bool))
        found = np.empty(7)
        match_ellipse(
            stamp.array.astype(np.float32),
            bad,
            x - stamp.x0,
            y - stamp.y0,
            source.width**2,
            source.width**2,
            0.0,
            float(shape[0]),
            False,
            1.0,
            found,
        )
        if found[6] == 0.0:
            raise MeasurementFailure("psfShape_flag")
        record["ixxPSF"], record["iyyPSF"], record["ixyPSF"] = found[2:5]


@dataclass(frozen=True)
class ShapeOptions:
    """Moments of sources."""

    largest: float = 20.0
    """A weight that grows beyond this fails [pixel]."""
    least: float = 0.3
    """Moments are raised to this share of the PSF's along any axis: smaller ones are noise."""

    def __post_init__(self) -> None:
        if not (self.largest > 1 and 0 <= self.least < 1):
            raise ValueError(f"shape needs largest > 1 pixel and least in 0..1, got {self}")


class Shape(Plugin):
    """Adaptive moments about the centroid; where they do not settle, those under a weight of the PSF's shape, and then
    the PSF's own."""

    name = "shape"
    order = 50.0
    columns = (
        Column("ixx", "f8", "pixel**2", "Adaptive second moment along x."),
        Column("iyy", "f8", "pixel**2", "Adaptive second moment along y."),
        Column("ixy", "f8", "pixel**2", "Adaptive mixed second moment."),
        Column("ixxErr", "f4", "pixel**2", "Error of ixx, 1 sigma; NaN where it was not found adaptively."),
        Column("iyyErr", "f4", "pixel**2", "Error of iyy, 1 sigma; NaN where it was not found adaptively."),
        Column("ixyErr", "f4", "pixel**2", "Error of ixy, 1 sigma; NaN where it was not found adaptively."),
    )
    flags = (
        ("shape_flag", "No moments of the source's own: they are the PSF's, or a round star's without one."),
        ("shape_fixedWeight_flag", "Adaptive moments did not settle: the weight has the PSF's shape."),
        ("shape_regularised_flag", "The source was smaller than a PSF can make it; its moments were raised."),
    )
    needs = ("x", "y", "ixxPSF", "iyyPSF", "ixyPSF")
    Options = ShapeOptions

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write the moments and their errors."""
        x, y = float(record["x"]), float(record["y"])
        psf = (float(record["ixxPSF"]), float(record["iyyPSF"]), float(record["ixyPSF"]))
        if not np.isfinite(psf[0]):
            psf = (source.width**2, source.width**2, 0.0)
        if not (np.isfinite(x) and np.isfinite(y)):
            record["ixx"], record["iyy"], record["ixy"] = psf
            raise MeasurementFailure("shape_flag")
        found, sums, errors = np.empty(7), np.empty(6), np.empty(6)
        if not source.is_sky:
            match_ellipse(source.image, source.bad, x, y, *psf, self.options.largest, False, 1.0, found)
        moments = None
        if not source.is_sky and found[6] == 1.0:
            moments = float(found[2]), float(found[3]), float(found[4])
            ellipse_errors(source.variance, source.bad, x, y, *moments, found[5], errors)
            record["ixxErr"], record["iyyErr"], record["ixyErr"] = np.sqrt(errors[:3])
        else:
            record["shape_fixedWeight_flag"] = True
            weighted_sums(source.image, source.bad, x, y, *psf, sums)
            moments = deconvolved(sums, psf)
            if moments is not None and not moments[0] + moments[1] < 2 * self.options.largest**2:
                moments = None
        if moments is None:
            record["shape_flag"] = True
            moments = psf
        else:
            moments, record["shape_regularised_flag"] = regularised(moments, psf, self.options.least)
        record["ixx"], record["iyy"], record["ixy"] = moments
