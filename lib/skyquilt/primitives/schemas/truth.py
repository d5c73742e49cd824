"""Tables (design 7): columns of the truth that a simulation writes beside its raw frames."""

from __future__ import annotations

from skyquilt.primitives.tables import Column, TableSchema

SECTION = "9.2"

_KEYS = (
    Column("visit", "i8", "", "Number of the visit."),
    Column("detector", "i2", "", "Number of the detector in the camera's definition."),
)
_BAND = Column("band", "str", "", "Band of the visit.")

SOURCE_TRUTH = TableSchema(
    name="source_truth",
    tap_name="",
    section=SECTION,
    columns=(
        *_KEYS,
        Column("id", "i8", "", "Number of the object in object_truth."),
        Column("kind", "str", "", "star or galaxy."),
        _BAND,
        Column("x", "f8", "pixel", "Place along a row, pixel centres integers from 0, parent frame."),
        Column("y", "f8", "pixel", "Place along a column, pixel centres integers from 0, parent frame."),
        Column("ra", "f8", "deg", "Right ascension (ICRS) as imaged, at the time of the visit."),
        Column("dec", "f8", "deg", "Declination (ICRS) as imaged, at the time of the visit."),
        Column("flux", "f8", "nJy", "Flux above the atmosphere."),
        Column("electrons", "f8", "electron", "Expected electrons in the whole image of the source."),
        Column("snr", "f8", "", "Signal to noise of an optimal measurement with the PSF."),
        Column("isolated", "bool", "", "No other source near enough to matter."),
        Column("peakElectrons", "f8", "electron", "Expected electrons in the brightest pixel, sky included."),
        Column("fullWellFraction", "f8", "", "peakElectrons over the full well."),
    ),
)
"""One row per object and visit whose centre falls on a detector."""

OBJECT_TRUTH = TableSchema(
    name="object_truth",
    tap_name="",
    section=SECTION,
    columns=(
        Column("id", "i8", "", "Number of the object."),
        Column("kind", "str", "", "star or galaxy."),
        Column("ra", "f8", "deg", "Right ascension (ICRS) at the reference epoch."),
        Column("dec", "f8", "deg", "Declination (ICRS) at the reference epoch."),
        Column("halfLightRadius", "f8", "arcsec", "Half-light radius; 0 for stars."),
    ),
    band_columns=(Column("flux_{band}", "f8", "nJy", "Flux in band {band} above the atmosphere."),),
)
"""One row per object of the simulated sky."""

VISIT_DETECTOR_TRUTH = TableSchema(
    name="visit_detector_truth",
    tap_name="",
    section=SECTION,
    columns=(
        *_KEYS,
        _BAND,
        Column("nJyPerElectron", "f8", "nJy/electron", "Flux that gives one electron in the exposure."),
        Column("skyElectrons", "f8", "electron", "Expected sky per pixel."),
        Column("noiseElectrons", "f8", "electron", "Expected noise of an empty pixel, sky and read-out."),
        Column("fwhmArcsec", "f8", "arcsec", "FWHM of the PSF."),
        Column("fwhmPixels", "f8", "pixel", "FWHM of the PSF."),
    ),
)
"""One row per simulated detector of a visit."""

VISIT_TRUTH = TableSchema(
    name="visit_truth",
    tap_name="",
    section=SECTION,
    columns=(
        _KEYS[0],
        _BAND,
        Column("ra", "f8", "deg", "True right ascension (ICRS) of the boresight."),
        Column("dec", "f8", "deg", "True declination (ICRS) of the boresight."),
        Column("rotation", "f8", "deg", "True position angle of the focal plane's +y, east of north."),
        Column("expMidptMJD", "f8", "d", "Middle of the exposure, MJD, TAI."),
    ),
)
"""One row per simulated visit."""

AMPLIFIER_TRUTH = TableSchema(
    name="amplifier_truth",
    tap_name="",
    section=SECTION,
    columns=(
        _KEYS[1],
        Column("amplifier", "str", "", "Name of the amplifier."),
        Column("gain", "f8", "electron/adu", "True gain."),
        Column("readNoise", "f8", "electron", "True read-out noise."),
        Column("saturationAdu", "f8", "adu", "Level at which the amplifier saturates."),
    ),
)
"""One row per simulated amplifier."""
