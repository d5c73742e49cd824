"""Tables (LDM-151 5.1): columns of the visit and visit-detector tables."""

from __future__ import annotations

from skyquilt.primitives.tables import Column, TableSchema

VISIT = TableSchema(
    name="visit_table",
    tap_name="Visit",
    section="5.1",
    columns=(
        Column("visit", "i8", "", "Number of the visit.", tap_principal=True),
        Column("physical_filter", "str", "", "Filter by the instrument's name for it."),
        Column("band", "str", "", "Band, without regard to the instrument.", tap_principal=True),
        Column("ra", "f8", "deg", "Right ascension (ICRS) of the focal plane's centre.", tap_principal=True),
        Column("dec", "f8", "deg", "Declination (ICRS) of the focal plane's centre.", tap_principal=True),
        Column(
            "skyRotation",
            "f8",
            "deg",
            "Position angle of the focal plane's +y, east of north.",
            tap_principal=True,
        ),
        Column("azimuth", "f8", "deg", "Azimuth of the centre at mid-exposure; NaN without a site."),
        Column("altitude", "f8", "deg", "Altitude of the centre at mid-exposure; NaN without a site."),
        Column("zenithDistance", "f8", "deg", "Zenith distance at mid-exposure; NaN without a site."),
        Column("airmass", "f8", "", "Airmass at mid-exposure; NaN if unknown.", tap_principal=True),
        Column("expTime", "f8", "s", "Time of exposure.", tap_principal=True),
        Column("expMidptMJD", "f8", "d", "Middle of the exposure, MJD, TAI.", tap_principal=True),
        Column("obsStartMJD", "f8", "d", "Begin of the exposure, MJD, TAI."),
        Column("nDetectors", "i4", "", "Detectors for which a raw frame was ingested.", ours=True),
        Column("nDetectorsGood", "i4", "", "Detectors that came through without failure.", ours=True),
        Column(
            "qaGrade", "str", "", "Grade that quality analysis gave; empty when it has not judged.", ours=True
        ),
    ),
)
"""One row per visit."""


def _corners() -> tuple[Column, ...]:
    corners = {"ll": "lower left", "ul": "upper left", "ur": "upper right", "lr": "lower right"}
    return tuple(
        Column(f"{short}c{axis}", "f8", "deg", f"{text} of the detector's {place} corner; NaN without a WCS.")
        for short, place in corners.items()
        for axis, text in (("ra", "Right ascension (ICRS)"), ("dec", "Declination (ICRS)"))
    )


VISIT_DETECTOR = TableSchema(
    name="visit_detector_table",
    tap_name="VisitDetector",
    section="5.1",
    columns=(
        Column("visit", "i8", "", "Number of the visit; `visitId` in Data Preview 2.", ours=True),
        Column(
            "detector", "i8", "", "Number of the detector in the camera's definition.", tap_principal=True
        ),
        Column("band", "str", "", "Band, without regard to the instrument.", tap_principal=True),
        Column("physical_filter", "str", "", "Filter by the instrument's name for it."),
        Column("ra", "f8", "deg", "Right ascension (ICRS) of the detector's centre.", tap_principal=True),
        Column("dec", "f8", "deg", "Declination (ICRS) of the detector's centre.", tap_principal=True),
        *_corners(),
        Column(
            "pixelScale", "f4", "arcsec/pixel", "Root of the pixel area on the sky at the detector's centre."
        ),
        Column("seeing", "f8", "arcsec", "Mean FWHM of the PSF.", tap_principal=True),
        Column(
            "psfSigma",
            "f4",
            "pixel",
            "Determinant radius of the PSF at the detector's centre.",
            tap_principal=True,
        ),
        Column("skyBg", "f4", "adu", "Mean background per pixel: electrons over the detector's mean gain."),
        Column(
            "skyNoise", "f4", "adu", "Robust width of the background per pixel: electrons over the mean gain."
        ),
        Column("zeroPoint", "f4", "mag", "AB magnitude of one electron in the whole exposure."),
        Column("magLim", "f8", "mag", "AB magnitude of a point source at 5 sigma.", tap_principal=True),
        Column(
            "effTime",
            "f8",
            "s",
            "Exposure under reference conditions that would go as deep; NaN without them.",
        ),
        Column("nPsfStar", "i4", "", "Stars used for the PSF model."),
        Column("expTime", "f8", "s", "Time of exposure.", tap_principal=True),
        Column("expMidptMJD", "f8", "d", "Middle of the exposure, MJD, TAI.", tap_principal=True),
        Column("nSources", "i4", "", "Rows in the source table.", ours=True),
        Column("status", "str", "", "ok, flagged or failed.", ours=True),
        Column(
            "reasonCode", "str", "", "Code of what failed or was flagged; empty when nothing did.", ours=True
        ),
        Column("configHash", "str", "", "Digest of the configuration that made the row.", ours=True),
    ),
)
"""One row per visit and detector, the failed ones too."""

PLANNED_VISIT_DETECTOR = TableSchema(
    name="visit_detector_table",
    tap_name="VisitDetector",
    section="5.1",
    columns=(
        Column("psfStarDeltaE1Median", "f8", "", "Median of star minus PSF model in e1."),
        Column("psfStarDeltaE2Median", "f8", "", "Median of star minus PSF model in e2."),
        Column("psfStarDeltaE1Scatter", "f8", "", "Robust width of star minus PSF model in e1."),
        Column("psfStarDeltaE2Scatter", "f8", "", "Robust width of star minus PSF model in e2."),
        Column("psfStarDeltaSizeMedian", "f8", "pixel", "Median of star minus PSF model in size."),
        Column("psfStarDeltaSizeScatter", "f8", "pixel", "Robust width of star minus PSF model in size."),
        Column("psfTraceRadiusDelta", "f8", "pixel", "Range of the PSF's trace radius over the detector."),
        Column("psfApCorrSigmaScaledDelta", "f8", "", "Range of the aperture correction over psfSigma."),
        Column(
            "maxDistToNearestPsf", "f8", "pixel", "Farthest that a pixel is from a star of the PSF model."
        ),
        Column("astromOffsetMean", "f8", "arcsec", "Mean offset of the matches of the WCS."),
        Column("astromOffsetStd", "f8", "arcsec", "Scatter of the offsets of the matches of the WCS."),
        Column("wcsCornerMaxOffset", "f8", "arcsec", "Farthest that the final WCS moves a corner."),
    ),
)
"""Visit-detector columns not measured yet."""
