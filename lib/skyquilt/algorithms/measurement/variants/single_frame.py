"""Single Frame Measurement (LDM-151 8.6.1.1): the sources of one detector's image of one visit.

The driver runs the algorithms of 8.6.2 in their order; neighbours are not replaced, overlapping sources share
their pixels. Columns have their names in the Source table; fluxes are in electrons.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from skyquilt.algorithms.measurement.aperture_photometry import aperture_photometry
from skyquilt.algorithms.measurement.centroids import centroids
from skyquilt.algorithms.measurement.kron_photometry import KronConfig, kron_photometry
from skyquilt.algorithms.measurement.local_background import annulus_means
from skyquilt.algorithms.measurement.pixel_flags import centre_bits, footprint_bits
from skyquilt.algorithms.measurement.second_moment_shapes import second_moment_shapes
from skyquilt.algorithms.source_detection import Detections
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.schemas import APERTURE_RADII

RADII = tuple(float(radius) for radius in APERTURE_RADII)
"""Radii of the apertures [pixel]."""

FLAG_PLANES = {
    "bad": "BAD",
    "cr": "COSMIC_RAY",
    "edge": "DETECTION_EDGE",
    "interpolated": "INTERPOLATED",
    "nodata": "NO_DATA",
    "saturated": "SATURATED",
    "suspect": "SUSPECT",
}
"""Mask planes that become flags where a footprint has them: name of the flag, plane."""

_CENTRE_PLANES = {name: FLAG_PLANES[name] for name in ("cr", "interpolated", "saturated", "suspect")}

Columns = dict[str, np.ndarray]
"""Columns of a table, by name and of one length."""


@dataclass(frozen=True)
class MeasurementConfig:
    """Measurements of single sources."""

    kron: KronConfig = field(default_factory=KronConfig)
    """Size of Kron apertures."""
    max_masked: float = 0.1
    """Apertures with a larger share of unusable area are flagged."""
    sky_inner: float = 25.0
    """Inner radius of the annulus for `sky` [pixel]."""
    sky_outer: float = 35.0
    """Outer radius of the annulus for `sky` [pixel]."""
    largest_sigma: float = 20.0
    """Shapes that grow beyond this fail [pixel]."""
    min_snr_seeing: float = 30.0
    """Least signal to noise of the sources that give the first seeing."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_masked <= 1:
            raise ValueError(f"max_masked must be in 0..1, got {self.max_masked}")
        if not 0 <= self.sky_inner < self.sky_outer:
            raise ValueError(
                f"measurement needs 0 <= sky_inner < sky_outer, got {self.sky_inner}, {self.sky_outer}"
            )
        if self.largest_sigma <= 1 or self.min_snr_seeing <= 0:
            raise ValueError("measurement needs largest_sigma > 1 pixel and min_snr_seeing > 0")


@dataclass(frozen=True)
class SingleFrameMeasurements:
    """What is measured of the sources of one detector.

    Parameters
    ----------
    columns : dict of str to ndarray, shape (n,)
        By their Source names, in electrons and pixels; xyCov [pixel^2] besides.
    aperture_flux, aperture_error : ndarray, shape (n, radii)
        Sums within `RADII` [electron].
    apertures_whole : ndarray of bool, shape (n, radii)
        The aperture is inside the image and without unusable pixels.
    blended : ndarray of bool, shape (n,)
        The source shares its footprint with others.
    """

    columns: Columns
    aperture_flux: np.ndarray
    aperture_error: np.ndarray
    apertures_whole: np.ndarray
    blended: np.ndarray


def measure_single_frame(
    exposure: Exposure, bad: np.ndarray, detections: Detections, sigma: float, config: MeasurementConfig
) -> SingleFrameMeasurements:
    """Measure the detected sources of a detector.

    Parameters
    ----------
    exposure : Exposure
        In electrons, the background subtracted and kept as a component; detections are in its mask.
    bad : ndarray of bool, shape (ny, nx)
        Pixels that must not be used.
    detections : Detections
    sigma : float
        Width of the stars [pixel].
    config : MeasurementConfig
    """
    image, variance = exposure.image, exposure.variance
    place = centroids(image, variance, bad, detections.x, detections.y, sigma, max(2.0, 2.0 * sigma))
    x = np.where(place.flag, detections.peak_x, place.x)
    y = np.where(place.flag, detections.peak_y, place.y)
    shape = second_moment_shapes(image, bad, x, y, sigma, config.largest_sigma)
    apertures = aperture_photometry(image, variance, bad, x, y, RADII)
    kron = kron_photometry(image, variance, bad, x, y, shape.xx, shape.yy, shape.xy, config.kron)
    flags = apertures.truncated | (apertures.masked > config.max_masked) | ~np.isfinite(apertures.flux)
    columns: Columns = {
        "x": x,
        "y": y,
        "xErr": place.x_err,
        "yErr": place.y_err,
        "xyCov": place.xy_cov,
        "ixx": shape.xx,
        "iyy": shape.yy,
        "ixy": shape.xy,
        "kronFlux": kron.flux,
        "kronFluxErr": kron.error,
        "kronFlux_flag": kron.flag,
        "kronRad": kron.radius,
        "footprintArea_value": detections.area,
        "centroid_flag": place.flag,
        "peakSnr": detections.peak_snr,
    }
    for number, radius in enumerate(APERTURE_RADII):
        columns[f"ap{radius:02d}Flux"] = apertures.flux[:, number]
        columns[f"ap{radius:02d}FluxErr"] = apertures.error[:, number]
        columns[f"ap{radius:02d}Flux_flag"] = flags[:, number]
    columns |= _pixel_flags(exposure, detections, x, y)
    columns |= _local_sky(exposure, bad, x, y, config)
    whole = ~apertures.truncated & (apertures.masked == 0.0)
    return SingleFrameMeasurements(columns, apertures.flux, apertures.error, whole, detections.blended)


def _local_sky(
    exposure: Exposure, bad: np.ndarray, x: np.ndarray, y: np.ndarray, config: MeasurementConfig
) -> Columns:
    """Sky per pixel: background model at the source plus what the annulus still has [electron]."""
    level, error = np.empty(len(x)), np.empty(len(x))
    excluded = exposure.mask.any(["DETECTED", "SATURATED"])
    excluded |= bad
    annulus_means(
        exposure.image,
        exposure.variance,
        excluded,
        x,
        y,
        float(config.sky_inner),
        float(config.sky_outer),
        50,
        level,
        error,
    )
    for layer in exposure.background.layers:
        level = level + layer.evaluate(x, y)
    return {"sky": level, "skyErr": error}


def _pixel_flags(exposure: Exposure, detections: Detections, x: np.ndarray, y: np.ndarray) -> Columns:
    mask = exposure.mask
    anywhere, centre = np.zeros(len(x), np.int32), np.zeros(len(x), np.int32)
    outside = np.zeros(len(x), dtype=bool)
    footprint_bits(mask.array, detections.segments, anywhere)
    centre_bits(mask.array, x, y, centre, outside)
    columns: Columns = {"pixelFlags_offimage": outside}
    for name, plane in FLAG_PLANES.items():
        columns[f"pixelFlags_{name}"] = (anywhere & mask.bits([plane])) != 0
    for name, plane in _CENTRE_PLANES.items():
        columns[f"pixelFlags_{name}Center"] = (centre & mask.bits([plane])) != 0
    return columns
