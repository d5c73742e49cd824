"""Tables (LDM-151 5.1): columns of the Source table, one row per source and visit."""

from __future__ import annotations

from skyquilt.primitives.tables import Column, TableSchema

APERTURE_RADII = (3, 6, 9, 12, 17, 25, 35, 50, 70)
"""Radii of the circular apertures [pixel]."""

PIXEL_FLAGS = {
    "bad": "a bad pixel in the footprint",
    "cr": "a cosmic ray in the footprint",
    "crCenter": "a cosmic ray in the central 3x3 pixels",
    "edge": "the footprint touches the edge of the detector",
    "interpolated": "an interpolated pixel in the footprint",
    "interpolatedCenter": "an interpolated pixel in the central 3x3 pixels",
    "nodata": "a pixel without data in the footprint",
    "offimage": "the centre lies off the image",
    "saturated": "a saturated pixel in the footprint",
    "saturatedCenter": "a saturated pixel in the central 3x3 pixels",
    "suspect": "a pixel near saturation in the footprint",
    "suspectCenter": "a pixel near saturation in the central 3x3 pixels",
}
"""What each ``pixelFlags_<name>`` says."""


def _identity() -> tuple[Column, ...]:
    return (
        Column("sourceId", "i8", "", "Unique number of the source: visit, detector and number packed."),
        Column("parentSourceId", "i8", "", "sourceId of the blend it was taken out of; 0 if none."),
        Column("visit", "i8", "", "Number of the visit."),
        Column("detector", "i2", "", "Number of the detector in the camera's definition."),
        Column("band", "str", "", "Band of the visit, without regard to the instrument."),
        Column("physical_filter", "str", "", "Filter of the visit by the instrument's name for it."),
    )


def _position() -> tuple[Column, ...]:
    return (
        Column("ra", "f8", "deg", "Right ascension (ICRS) of the centroid; NaN without a WCS."),
        Column("dec", "f8", "deg", "Declination (ICRS) of the centroid; NaN without a WCS."),
        Column("raErr", "f4", "deg", "Error of ra times cos(dec), 1 sigma."),
        Column("decErr", "f4", "deg", "Error of dec, 1 sigma."),
        Column("ra_dec_Cov", "f4", "deg**2", "Covariance of ra times cos(dec) with dec."),
        Column("x", "f8", "pixel", "Centroid along a row, pixel centres integers from 0, parent frame."),
        Column("y", "f8", "pixel", "Centroid along a column, pixel centres integers from 0, parent frame."),
        Column("xErr", "f4", "pixel", "Error of x, 1 sigma."),
        Column("yErr", "f4", "pixel", "Error of y, 1 sigma."),
    )


def _aperture(radius: int) -> tuple[Column, ...]:
    name = f"ap{radius:02d}Flux"
    return (
        Column(name, "f8", "nJy", f"Flux within {radius} pixels of the centroid."),
        Column(f"{name}Err", "f8", "nJy", f"Error of {name}, 1 sigma."),
        Column(f"{name}_flag", "bool", "", f"{name} could not be measured or its aperture leaves the image."),
    )


def _fluxes() -> tuple[Column, ...]:
    apertures = tuple(column for radius in APERTURE_RADII for column in _aperture(radius))
    return apertures + (
        Column("calibFlux", "f8", "nJy", "Flux within 12 pixels corrected to the total of a point source."),
        Column("calibFluxErr", "f8", "nJy", "Error of calibFlux, 1 sigma."),
        Column("ap12InstFlux", "f8", "electron", "Twin of ap12Flux before the zero point.", ours=True),
        Column("ap12InstFluxErr", "f8", "electron", "Error of ap12InstFlux, 1 sigma.", ours=True),
        Column("calibInstFlux", "f8", "electron", "Twin of calibFlux before the zero point.", ours=True),
        Column("calibInstFluxErr", "f8", "electron", "Error of calibInstFlux, 1 sigma.", ours=True),
        Column("kronFlux", "f4", "nJy", "Flux within the Kron ellipse.", ours=True),
        Column("kronFluxErr", "f4", "nJy", "Error of kronFlux, 1 sigma.", ours=True),
        Column("kronFlux_flag", "bool", "", "kronFlux could not be measured.", ours=True),
        Column("kronRad", "f4", "pixel", "Geometric mean radius of the Kron ellipse.", ours=True),
    )


def _shape() -> tuple[Column, ...]:
    return (
        Column("ixx", "f8", "pixel**2", "Adaptive second moment along x."),
        Column("iyy", "f8", "pixel**2", "Adaptive second moment along y."),
        Column("ixy", "f8", "pixel**2", "Adaptive mixed second moment."),
        Column("ixxPSF", "f8", "pixel**2", "ixx of the PSF at the source's place."),
        Column("iyyPSF", "f8", "pixel**2", "iyy of the PSF at the source's place."),
        Column("ixyPSF", "f8", "pixel**2", "ixy of the PSF at the source's place."),
        Column("extendedness", "f8", "", "0 for a point source, 1 for an extended one, by fluxes."),
        Column("sizeExtendedness", "f8", "", "Probability that it is extended, by second moments."),
    )


def _circumstances() -> tuple[Column, ...]:
    return (
        Column("sky", "f8", "nJy", "Background per pixel in an annulus around the source."),
        Column("skyErr", "f8", "nJy", "Error of sky, 1 sigma."),
        Column("footprintArea_value", "i4", "pixel", "Pixels in the detection footprint."),
        Column("deblend_nChild", "i4", "", "Sources that this blend was taken apart into; 0 if none."),
        Column("detect_isPrimary", "bool", "", "The row to use: not a blend that has children.", ours=True),
        Column("calib_photometry_used", "bool", "", "Used for the zero point."),
        Column("centroid_flag", "bool", "", "The centroid failed; x, y are the peak's."),
        Column("noZeroPoint_flag", "bool", "", "No zero point: fluxes in nJy are NaN.", ours=True),
        Column("noWcs_flag", "bool", "", "No WCS: ra and dec are NaN.", ours=True),
        Column("peakSnr", "f4", "", "Signal to noise of the peak on the detection image.", ours=True),
    )


def _pixel_flags() -> tuple[Column, ...]:
    return tuple(
        Column(f"pixelFlags_{name}", "bool", "", f"Set by {doc}.") for name, doc in PIXEL_FLAGS.items()
    )


SOURCE = TableSchema(
    name="source",
    tap_name="Source",
    section="5.1",
    columns=_identity()
    + _position()
    + _fluxes()
    + _shape()
    + _circumstances()
    + _pixel_flags()
    + (
        Column(
            "tract", "i8", "", "Tract whose processing of the visit the row is from; -1 if none.", ours=True
        ),
    ),
)
"""One row per source and visit (5.1)."""

PLANNED_SOURCE = TableSchema(
    name="source",
    tap_name="Source",
    section="5.1",
    columns=(
        Column("psfFlux", "f8", "nJy", "Flux by a least-squares fit of the PSF model."),
        Column("psfFluxErr", "f8", "nJy", "Error of psfFlux, 1 sigma."),
        Column("psfFlux_flag", "bool", "", "psfFlux could not be measured."),
        Column("psfFlux_apCorr", "f8", "", "Aperture correction that psfFlux was multiplied with."),
        Column("psfFlux_apCorrErr", "f8", "", "Error of psfFlux_apCorr, 1 sigma."),
        Column("psfFlux_area", "f4", "pixel", "Effective area of the PSF."),
        Column("petrosianFlux", "f4", "nJy", "Flux within the Petrosian ellipse.", ours=True),
        Column("petrosianFluxErr", "f4", "nJy", "Error of petrosianFlux, 1 sigma.", ours=True),
        Column("petrosianFlux_flag", "bool", "", "petrosianFlux could not be measured.", ours=True),
        Column("petrosianRad", "f4", "pixel", "Petrosian radius.", ours=True),
        Column("blendedness_abs", "f8", "", "Share of the flux at the source that is its neighbours'."),
        Column("sky_source", "bool", "", "Not a source: measured on empty sky."),
        Column("calib_psf_candidate", "bool", "", "Was a candidate for the PSF model."),
        Column("calib_psf_used", "bool", "", "Used for the PSF model."),
        Column("calib_psf_reserved", "bool", "", "Kept out of the PSF model to test it."),
        Column("calib_astrometry_used", "bool", "", "Used for the WCS."),
        Column("calib_photometry_reserved", "bool", "", "Kept out of the zero point to test it."),
        Column("invalidPsfFlag", "bool", "", "There is no PSF model at the source."),
        Column("objectId", "i8", "", "Object it belongs to; 0 if none.", ours=True),
    ),
)
"""Source columns not measured yet."""
