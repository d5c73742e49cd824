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
        Column("kind", "str", "", "star, galaxy, supernova or asteroid."),
        _BAND,
        Column("x", "f8", "pixel", "Place along a row, pixel centres integers from 0, parent frame."),
        Column("y", "f8", "pixel", "Place along a column, pixel centres integers from 0, parent frame."),
        Column("ra", "f8", "deg", "Right ascension (ICRS) as imaged, at the time of the visit."),
        Column("dec", "f8", "deg", "Declination (ICRS) as imaged, at the time of the visit."),
        Column("raIcrs", "f8", "deg", "Right ascension (ICRS) at the time of the visit, without atmosphere."),
        Column("decIcrs", "f8", "deg", "Declination (ICRS) at the time of the visit, without atmosphere."),
        Column("flux", "f8", "nJy", "Flux above the atmosphere in the middle of the visit."),
        Column("electrons", "f8", "electron", "Expected electrons in the whole image of the source."),
        Column("snr", "f8", "", "Signal to noise of an optimal measurement with the PSF."),
        Column("isolated", "bool", "", "No other source near enough to matter."),
        Column(
            "peakElectrons", "f8", "electron", "Electrons of a snap in the brightest pixel, sky included."
        ),
        Column("fullWellFraction", "f8", "", "peakElectrons over the full well."),
        Column("effectiveWavelength", "f8", "nm", "Mean wavelength of its photons in the band."),
        Column(
            "refractionShift",
            "f8",
            "arcsec",
            "Differential refraction towards the zenith by colour, relative to the reference spectrum.",
        ),
        Column(
            "refractionSpread",
            "f8",
            "arcsec",
            "Standard deviation of its light along the direction to the zenith, by refraction within the band.",
        ),
        Column("trailLength", "f8", "pixel", "Way of what moves during the first snap, else 0."),
    ),
)
"""One row per object and visit whose centre falls on a detector."""

OBJECT_TRUTH = TableSchema(
    name="object_truth",
    tap_name="",
    section=SECTION,
    columns=(
        Column("id", "i8", "", "Number of the object."),
        Column("kind", "str", "", "star, galaxy, supernova or asteroid."),
        Column("ra", "f8", "deg", "Right ascension (ICRS) at the reference epoch."),
        Column("dec", "f8", "deg", "Declination (ICRS) at the reference epoch."),
        Column("pmRa", "f8", "mas/yr", "Proper motion in right ascension times cos(dec)."),
        Column("pmDec", "f8", "mas/yr", "Proper motion in declination."),
        Column("parallax", "f8", "mas", "Parallax."),
        Column("halfLightRadius", "f8", "arcsec", "Half-light radius of all light; 0 for points."),
        Column(
            "bulgeRadius",
            "f8",
            "arcsec",
            "Half-light radius of a galaxy's bulge, geometric mean of its axes.",
        ),
        Column("bulgeG1", "f8", "", "Reduced shear of the bulge, first component, towards west."),
        Column("bulgeG2", "f8", "", "Reduced shear of the bulge, second component."),
        Column(
            "diskRadius", "f8", "arcsec", "Half-light radius of a galaxy's disk, geometric mean of its axes."
        ),
        Column("diskG1", "f8", "", "Reduced shear of the disk, first component, towards west."),
        Column("diskG2", "f8", "", "Reduced shear of the disk, second component."),
        Column("redshift", "f8", "", "Redshift of galaxies and supernovae."),
        Column("variability", "str", "", "Type of a variable star, else none."),
        Column("period", "f8", "d", "Period of a variable star."),
        Column("amplitude", "f8", "mag", "Amplitude of a variable star."),
        Column(
            "referenceTime",
            "f8",
            "d",
            "Phase 0 of a variable, peak of a supernova, or time of an orbit's elements, MJD, TAI.",
        ),
        Column("stretch", "f8", "", "Stretch of a supernova's light curve."),
        Column("host", "i8", "", "Number of a supernova's galaxy, else 0."),
        Column(
            "absoluteMagnitude", "f8", "mag", "H of an asteroid, absolute magnitude at peak of a supernova."
        ),
        Column("a", "f8", "au", "Semi-major axis of an asteroid's orbit."),
        Column("e", "f8", "", "Its eccentricity."),
        Column("incl", "f8", "deg", "Its inclination to the ecliptic of J2000."),
        Column("node", "f8", "deg", "Longitude of its ascending node."),
        Column("argperi", "f8", "deg", "Argument of its perihelion."),
        Column("meanAnomaly", "f8", "deg", "Its mean anomaly at referenceTime."),
    ),
    band_columns=(
        Column(
            "flux_{band}",
            "f8",
            "nJy",
            "Flux in band {band} above the atmosphere: mean of a variable, peak of a supernova, that of an "
            "asteroid at referenceTime.",
        ),
        Column(
            "bulgeShare_{band}", "f8", "", "Part of a galaxy's light in band {band} that is in its bulge."
        ),
    ),
)
"""One row per object of the simulated sky; what an object does not have is NaN."""

VISIT_DETECTOR_TRUTH = TableSchema(
    name="visit_detector_truth",
    tap_name="",
    section=SECTION,
    columns=(
        *_KEYS,
        _BAND,
        Column(
            "nJyPerElectron",
            "f8",
            "nJy/electron",
            "Flux of the reference spectrum that gives one electron in all snaps, under mean clouds.",
        ),
        Column(
            "skyElectrons", "f8", "electron", "Expected sky per pixel in the middle of the field, all snaps."
        ),
        Column("noiseElectrons", "f8", "electron", "Expected noise of an empty pixel, all snaps."),
        Column("fwhmArcsec", "f8", "arcsec", "FWHM of the PSF."),
        Column("fwhmPixels", "f8", "pixel", "FWHM of the PSF."),
        Column("cloudFactor", "f8", "", "Flux let through in the detector's middle over the visit's mean."),
        Column("centreXmm", "f8", "mm", "True place of the detector's middle in the focal plane."),
        Column("centreYmm", "f8", "mm", "True place of the detector's middle in the focal plane."),
        Column("rotationDeg", "f8", "deg", "True rotation of the detector in the focal plane."),
        *(
            Column(f"zernike{n}", "f8", "um", f"Noll's Z{n} of a wavefront sensor besides its defocus.")
            for n in range(4, 12)
        ),
        Column("fringeScale", "f8", "", "Height of the fringes over that of the band in detector_NNN.fits."),
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
        Column("nSnaps", "i4", "", "Number of snaps."),
        Column("airmass", "f8", "", "In the middle of the exposure."),
        Column("hourAngle", "f8", "h", "Of the boresight, positive in the west."),
        Column("altitude", "f8", "deg", "Of the boresight, without refraction."),
        Column("parallacticAngle", "f8", "deg", "Position angle of the zenith, east of north."),
        Column("seeing", "f8", "arcsec", "FWHM of the turbulence in the band."),
        Column("transparency", "f8", "", "Flux let through over that at airmass 1 in clear air."),
        Column("cloudLoss", "f8", "mag", "Mean extinction by clouds, part of the transparency."),
        Column("skyFactor", "f8", "", "Sky brightness over that of the dark sky at the zenith."),
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
        Column("gain", "f8", "electron/adu", "True gain of small signals."),
        Column("readNoise", "f8", "electron", "True read-out noise."),
        Column("saturationAdu", "f8", "adu", "Level at which the amplifier saturates."),
        Column("fullWell", "f8", "electron", "Charge that a pixel holds."),
        Column("biasLevel", "f8", "adu", "Mean bias level, fixed pattern and drift not included."),
        Column("linearityLoss", "f8", "", "Relative loss of signal by the bend at linearityScale."),
        Column(
            "linearityKnee", "f8", "", "Square of the signal over linearityScale at which half of it is lost."
        ),
        Column("linearityWave", "f8", "", "Height of the relative wave of the signal."),
        Column("linearityWaves", "f8", "", "Half waves up to linearityScale."),
        Column(
            "linearityScale",
            "f8",
            "adu",
            "Signal above bias at which that loss is reached: a full well as stored.",
        ),
    ),
)
"""One row per simulated amplifier; signals v above bias are read as
v (1 - loss (1 + knee) u^2 / (knee + u^2) + wave sin^2(pi waves u)), u = v / scale."""

EVENT_TRUTH = TableSchema(
    name="event_truth",
    tap_name="",
    section=SECTION,
    columns=(
        _KEYS[0],
        Column("snap", "i2", "", "Number of the snap within the visit."),
        _KEYS[1],
        Column("kind", "str", "", "cosmic_ray, saturated, bled, streak or ghost."),
        Column(
            "event",
            "i4",
            "",
            "Number among those of its kind in the snap and detector; bled charge has that of its saturated "
            "pixels, streaks and ghosts the same on all detectors.",
        ),
        Column("peakElectrons", "f4", "electron", "Brightest pixel of the event alone."),
        Column(
            "peakSnr",
            "f4",
            "",
            "peakElectrons over the noise of that pixel (sky, sources, dark current, read-out) of a cosmic ray; "
            "NaN for other kinds.",
        ),
        Column("nPixels", "i4", "", "Rows of the event in pixel_truth."),
        Column("surfaceBrightness", "f4", "electron", "Mean of its pixels."),
        Column(
            "width", "f4", "pixel", "Full width at half maximum of a streak, diameter of a ghost, else 0."
        ),
        Column("x0", "f8", "pixel", "Beginning of a track, or lower left corner."),
        Column("y0", "f8", "pixel", "Beginning of a track, or lower left corner."),
        Column("x1", "f8", "pixel", "End of a track, or upper right corner."),
        Column("y1", "f8", "pixel", "End of a track, or upper right corner."),
    ),
)
"""One row per event in a frame of any kind."""

PIXEL_TRUTH = TableSchema(
    name="pixel_truth",
    tap_name="",
    section=SECTION,
    columns=(
        _KEYS[0],
        EVENT_TRUTH["snap"],
        _KEYS[1],
        EVENT_TRUTH["kind"],
        EVENT_TRUTH["event"],
        Column("x", "i4", "pixel", "Along a row, parent frame."),
        Column("y", "i4", "pixel", "Along a column, parent frame."),
        Column(
            "electrons",
            "f4",
            "electron",
            "What the event left there; what a saturated pixel would hold without full wells.",
        ),
    ),
)
"""One row per pixel and event in a frame of any kind."""

PSF_TRUTH = TableSchema(
    name="psf_truth",
    tap_name="",
    section=SECTION,
    columns=(
        *_KEYS,
        Column("x", "f8", "pixel", "Place along a row, parent frame."),
        Column("y", "f8", "pixel", "Place along a column, parent frame."),
        Column("T", "f8", "pixel2", "Trace of the adaptive moments of the noise-free PSF with the pixel."),
        Column("e1", "f8", "", "(xx - yy) / T of these moments."),
        Column("e2", "f8", "", "2 xy / T of these moments."),
        Column("fwhm", "f8", "pixel", "Diameter of the circle with the area above half of the peak."),
    ),
)
"""Five by five places on each science detector of a visit; a star of the reference spectrum."""
