"""Static Point Source Models (LDM-151 8.6.2.5): the flux of the PSF at the centroid.

All pixels count alike: flux = sum(d p) / sum(p^2), whose bias does not change with brightness when the PSF is not
quite right; beside it, to compare, the flux with the weights of a model's variance.

The centroid follows the noise to where the flux is larger: by s^2 / f (1 + s^2 / f^2), with s the error of f, 4 % at a
signal to noise of 5. (The mean of the maximum over two coordinates of f rho + noise with correlation rho, for a
Gaussian PSF, to third order in s / f.) This term is subtracted and kept in a column; its scatter, as large as itself,
is in the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin, Record, SourceImage
from skyquilt.algorithms.measurement.point_source_fit import (
    fit_flux,
    fit_weighted,
    psf_derivatives,
    variance_without_source,
)
from skyquilt.primitives.tables import Column


def centroid_term(flux: float, variance: float) -> float:
    """How much too large a flux is at the place that makes it largest; damped below twice its error."""
    if not flux > 0.0:
        return 0.0
    ratio = variance / flux**2
    return flux * ratio * (1.0 + ratio) * min(1.0, 0.25 / ratio)


@dataclass(frozen=True)
class PsfFluxOptions:
    """PSF fluxes."""

    min_usable: float = 0.5
    """Least share of sum(p^2) on usable pixels without the flag."""
    systematic_floor: float = 0.0
    """Share of the flux that goes into psfFluxFloor: what PSF and flat field are known to."""

    def __post_init__(self) -> None:
        if not (0 < self.min_usable <= 1 and self.systematic_floor >= 0):
            raise ValueError(f"psfFlux needs min_usable in 0..1 and systematic_floor >= 0, got {self}")


class PsfFlux(Plugin):
    """Flux of the PSF model with the centre held at the centroid."""

    name = "psfFlux"
    order = 60.0
    columns = (
        Column("psfFlux", "f8", "electron", "Flux by a least-squares fit of the PSF model."),
        Column("psfFluxErr", "f8", "electron", "Error of psfFlux, 1 sigma."),
        Column("psfFlux_area", "f4", "pixel", "Effective area of the PSF, sum(p)^2 / sum(p^2)."),
        Column(
            "psfFlux_centroidTerm",
            "f4",
            "electron",
            "What psfFlux was lowered by: the centroid follows noise.",
        ),
        Column("psfFluxFloor", "f4", "electron", "Systematic error of psfFlux, not part of psfFluxErr."),
        Column("psfFlux_chi2", "f4", "", "Chi-squared of the fit under the model's variance."),
        Column("psfFlux_nPix", "i4", "pixel", "Pixels of the fit."),
        Column("weightedPsfFlux", "f8", "electron", "PSF flux weighted by the model's variance."),
        Column("weightedPsfFluxErr", "f8", "electron", "Error of weightedPsfFlux, 1 sigma."),
        Column("sizeExcess", "f4", "pixel**2", "Variance of the Gaussian that widens the PSF to the source."),
        Column("sizeExcessErr", "f4", "pixel**2", "Error of sizeExcess, 1 sigma."),
    )
    flags = (
        ("psfFlux_flag", "psfFlux could not be measured, or too little of the PSF is on usable pixels."),
        ("invalidPsfFlag", "There is no PSF model at the source."),
    )
    needs = ("x", "y", "xErr")
    Options = PsfFluxOptions

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write fluxes, errors and figures of the fit."""
        x, y = float(record["x"]), float(record["y"])
        stamp = source.psf_at(x, y)
        planes = source.image, source.variance, source.bad
        place = stamp.array, stamp.x0, stamp.y0
        result = np.empty(4)
        fit_flux(*planes, *place, result)
        flux, variance, lever, usable = result
        if not (np.isfinite(flux) and variance > 0.0):
            raise MeasurementFailure("psfFlux_flag")
        slopes = np.empty((5, *stamp.array.shape))
        psf_derivatives(stamp.array, slopes)
        term = centroid_term(flux, variance) if np.isfinite(record["xErr"]) else 0.0
        background = source.background_error * lever
        record["psfFlux"] = flux - term
        record["psfFluxErr"] = np.sqrt(variance + term**2 + background**2)
        record["psfFlux_centroidTerm"] = term
        record["psfFluxFloor"] = self.options.systematic_floor * abs(flux)
        record["psfFlux_area"] = 1.0 / (stamp.array**2).sum()
        record["psfFlux_flag"] = usable < self.options.min_usable
        base = variance_without_source(*planes, *place, flux)
        if not base > 0.0:
            return
        more = np.empty(6)
        fit_weighted(*planes, stamp.array, slopes, stamp.x0, stamp.y0, flux, base, more)
        record["weightedPsfFlux"] = more[0] - term
        record["weightedPsfFluxErr"] = np.sqrt(more[1] + term**2 + background**2)
        record["psfFlux_chi2"], record["psfFlux_nPix"] = more[2], more[3]
        record["sizeExcess"], record["sizeExcessErr"] = more[4], np.sqrt(more[5])
