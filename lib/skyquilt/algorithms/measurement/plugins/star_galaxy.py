"""Single Frame S/G (LDM-151 8.21.1): trace radius and extendedness of a source beside the PSF's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin, Record, SourceImage
from skyquilt.primitives.tables import Column


@dataclass(frozen=True)
class ExtendednessOptions:
    """Limits between point sources and extended ones."""

    size_excess: float = 0.1
    """Excess of the variance over the PSF's, as a share, from which a source is extended."""
    significance: float = 3.0
    """And by so many errors."""
    size_error: float = 0.02
    """Relative error of the PSF's variance, added to that of the source."""

    def __post_init__(self) -> None:
        if self.size_excess <= 0 or self.significance <= 0 or self.size_error <= 0:
            raise ValueError(f"limits of extendedness must be positive, got {self}")


class Extendedness(Plugin):
    """Whether a source is larger than the PSF, by the excess variance of the fit of PSF and its Laplacian.

    `extendedness` is 1 or 0, `sizeExtendedness` the probability that the excess is above the limit,
    `traceRadiusDelta` the root of half the trace of the moments less that of the PSF's.
    """

    name = "extendedness"
    order = 96.0
    columns = (
        Column("extendedness", "f8", "", "0 for a point source, 1 for an extended one."),
        Column("sizeExtendedness", "f8", "", "Probability that it is extended, by second moments."),
        Column("traceRadius", "f4", "pixel", "Root of half the trace of the source's moments."),
        Column("traceRadiusDelta", "f4", "pixel", "traceRadius less the PSF's."),
        Column("traceRadiusErr", "f4", "pixel", "Error of traceRadius, 1 sigma."),
    )
    flags = (("extendedness_flag", "The size of the source or of the PSF is unknown."),)
    needs = ("ixx", "iyy", "ixxErr", "iyyErr", "ixxPSF", "iyyPSF", "sizeExcess", "sizeExcessErr")
    Options = ExtendednessOptions

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write sizes and classes."""
        xx, yy, xx_err, yy_err, psf_xx, psf_yy, excess, error = (float(record[name]) for name in self.needs)
        radius = math.sqrt(max(0.5 * (xx + yy), 0.0)) if math.isfinite(xx + yy) else math.nan
        psf2 = 0.5 * (psf_xx + psf_yy)
        record["traceRadius"] = radius
        if radius > 0:
            record["traceRadiusErr"] = 0.25 * math.hypot(xx_err, yy_err) / radius
        if not psf2 > 0:
            raise MeasurementFailure("extendedness_flag")
        record["traceRadiusDelta"] = radius - math.sqrt(psf2)
        if not (math.isfinite(excess) and error > 0):
            raise MeasurementFailure("extendedness_flag")
        options = self.options
        limit = max(options.size_excess * psf2, options.significance * error)
        record["extendedness"] = float(excess > limit)
        share = (excess / psf2 - options.size_excess) / np.hypot(error / psf2, options.size_error)
        record["sizeExtendedness"] = 0.5 * math.erfc(-share / math.sqrt(2.0))
