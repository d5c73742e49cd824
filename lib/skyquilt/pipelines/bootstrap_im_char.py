"""BootstrapImChar (LDM-151 5.1.1): first sources, PSF, aperture correction and zero point of a visit.

Per detector, in workers: RunISR, SubtractBackground, DetectSources, DeblendSources, MeasureSources,
SelectStars, FitPSF, FitApCorr, ApplyApCorr. Then for the visit, in the parent: MatchSemiBlind and the zero
point. Order of the work on pixels::

    background (mode, nothing masked) > detection image > background again without detected pixels
    > seeing from the brightest sources > detection image of that width > sources > measurements

The WCS is the one that the raw frame came with; its shift against the reference is measured and reported, not
applied. A detector that fails costs itself; one without stars, position or zero point is complete and
flagged.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from skyquilt.algorithms.aperture_correction import (
    ApertureCorrection,
    ApertureCorrectionConfig,
    fit_aperture_correction,
    neighbour_share,
)
from skyquilt.algorithms.association_and_matching.single_visit_to_reference import (
    MatchConfig,
    ReferenceMatch,
    match_reference,
    no_match,
)
from skyquilt.algorithms.background_estimation import (
    BackgroundEstimate,
    BackgroundEstimationConfig,
    estimate_background,
    estimate_sky_variance,
)
from skyquilt.algorithms.instrument_signature_removal import (
    InstrumentSignatureRemovalConfig,
    IsrResult,
    run_isr,
)
from skyquilt.algorithms.measurement.aperture_photometry import aperture_photometry
from skyquilt.algorithms.measurement.centroids import centroids
from skyquilt.algorithms.measurement.kron_photometry import KronConfig, kron_photometry
from skyquilt.algorithms.measurement.local_background import annulus_means
from skyquilt.algorithms.measurement.pixel_flags import centre_bits, footprint_bits
from skyquilt.algorithms.measurement.second_moment_shapes import second_moment_shapes
from skyquilt.algorithms.photometric_fitting import (
    PhotometricFittingConfig,
    ZeroPointFit,
    fit_zero_point,
)
from skyquilt.algorithms.psf_estimation import PsfEstimationConfig, fit_psf, median_moments, select_stars
from skyquilt.algorithms.source_detection import (
    Detections,
    SourceDetectionConfig,
    detect_sources,
    detected_pixels,
    detection_image,
)
from skyquilt.algorithms.star_galaxy_classification import (
    StarGalaxyConfig,
    extendedness,
    size_extendedness,
)
from skyquilt.primitives.background import Background
from skyquilt.primitives.data_units import SOURCE_ID
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import Outcome, ProcessingFailure, Reason, serial_map
from skyquilt.primitives.photo_calib import PhotoCalib
from skyquilt.primitives.schemas import APERTURE_RADII, SOURCE

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.instrument.raw import RawFrame
    from skyquilt.primitives.psf import Psf
    from skyquilt.primitives.wcs import Wcs

FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
RADII = tuple(float(radius) for radius in APERTURE_RADII)

Columns = dict[str, np.ndarray]


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
class BootstrapImCharConfig:
    """Options of BootstrapImChar."""

    isr: InstrumentSignatureRemovalConfig = field(default_factory=InstrumentSignatureRemovalConfig)
    """Instrument signature removal."""
    background: BackgroundEstimationConfig = field(default_factory=BackgroundEstimationConfig)
    """Background of a detector."""
    detection: SourceDetectionConfig = field(default_factory=SourceDetectionConfig)
    """Detection and deblending."""
    measurement: MeasurementConfig = field(default_factory=MeasurementConfig)
    """Measurements of sources."""
    psf: PsfEstimationConfig = field(default_factory=PsfEstimationConfig)
    """PSF stars."""
    aperture_correction: ApertureCorrectionConfig = field(default_factory=ApertureCorrectionConfig)
    """Curve of growth."""
    star_galaxy: StarGalaxyConfig = field(default_factory=StarGalaxyConfig)
    """Extendedness."""
    match: MatchConfig = field(default_factory=MatchConfig)
    """Match with the reference catalogue."""
    photometry: PhotometricFittingConfig = field(default_factory=PhotometricFittingConfig)
    """Zero point."""


@dataclass(frozen=True)
class Visit:
    """What is processed: number, band, the filter's name in the camera, and home tract (-1 for none)."""

    visit: int
    band: str
    physical_filter: str
    tract: int = -1


class VisitData(Protocol):
    """Where pixels come from and go to; small and picklable, made by the caller."""

    def read_raw(self, detector: int) -> RawFrame:
        """Raw frame with the WCS to start from as `header_wcs`; ProcessingFailure when it cannot be had."""
        ...

    def read_calibration(self, kind: str, detector: int) -> Exposure | None:
        """The `bias` or `flat` that serves this visit, or None."""
        ...

    def write_exposure(self, detector: int, exposure: Exposure) -> None:
        """Keep the calibrated image [electron, background subtracted]."""
        ...


@dataclass(frozen=True)
class DetectorResult:
    """What a worker hands back of one detector: tables and models, no pixels.

    Parameters
    ----------
    detector : int
    columns : dict of str to ndarray, one length
        Measurements in electrons and pixels by their Source names (`...Flux` is still in electrons), with
        xyCov [pixel^2] and neighbours (their share of the source's flux in the calibrated aperture) besides.
    psf, wcs : Psf or None, Wcs or None
    background : Background
    aperture_correction : ApertureCorrection
    figures : dict
        Numbers for the manifest and `visit_detector_table`.
    flags : tuple of Reason
        What is missing although the detector is complete.
    mjd : float or None
        Middle of the exposure (TAI).
    """

    detector: int
    columns: Columns
    psf: Psf | None
    wcs: Wcs | None
    background: Background
    aperture_correction: ApertureCorrection
    figures: dict[str, Any]
    flags: tuple[Reason, ...]
    mjd: float | None


@dataclass(frozen=True)
class VisitResult:
    """What BootstrapImChar makes of a visit, besides the pixels that workers wrote.

    Parameters
    ----------
    sources : DataFrame
        `primitives.schemas.SOURCE`, by detector and number.
    psf, wcs, photo_calib, background : dict of detector id to component
        Detectors that failed are not in them; nor those without a PSF or WCS in these two.
    outcomes : tuple of Outcome
        Per detector, in the order asked for; the value is the tuple of its flags (Reasons, empty when all is
        well).
    detector_figures : dict of detector id to dict
        n_sources, n_psf_stars, psf_sigma [pixel], seeing [arcsec], pixel_scale [arcsec], ra, dec, corner_ra,
        corner_dec [deg], sky_level, sky_noise, background_error [electron], sky_adu, sky_noise_adu [ADU],
        aperture_correction, zero_point [mag] with errors, mag_lim [mag], astrom_offset_* [arcsec] and others.
    visit_figures : dict
        Shift and scatter against the reference [arcsec], matches, zero point.
    """

    sources: pd.DataFrame
    psf: dict[int, Psf]
    wcs: dict[int, Wcs]
    photo_calib: dict[int, PhotoCalib]
    background: dict[int, Background]
    outcomes: tuple[Outcome, ...]
    detector_figures: dict[int, dict[str, Any]]
    visit_figures: dict[str, Any]


def bootstrap_im_char(
    visit: Visit,
    detector_ids: Iterable[int],
    data: VisitData,
    reference: pd.DataFrame | None,
    config: BootstrapImCharConfig,
    map: Callable[[Callable[[int], Any], Iterable[int]], list[Outcome]] = serial_map,
) -> VisitResult:
    """Characterise the images of one visit.

    Parameters
    ----------
    visit : Visit
    detector_ids : iterable of int
    data : VisitData
    reference : DataFrame or None
        `primitives.schemas.REFERENCE` with stars around the visit; None for none.
    config : BootstrapImCharConfig
    map : callable
        `map(function, items)` gives Outcomes in the order of the items; `serial_map` or a pool's. Memory is
        workers x one detector: about 40 bytes per pixel of a detector each.
    """
    work = functools.partial(process_detector, data=data, config=config)
    outcomes = map(work, list(detector_ids))
    results = [outcome.value for outcome in outcomes if outcome.ok]
    match = _match(results, reference, visit.band, config.match)
    calibrations = _zero_points(results, match, config.photometry)
    import pandas as pd

    tables = []
    for result, calibration in zip(results, calibrations.detectors):
        tables.append(pd.DataFrame(source_columns(visit, result, calibration)))
    sources = SOURCE.concat(tables)
    figures = {
        result.detector: _detector_figures(result, calibration, match, number)
        for number, (result, calibration) in enumerate(zip(results, calibrations.detectors))
    }
    return VisitResult(
        sources,
        {r.detector: r.psf for r in results if r.psf is not None},
        {r.detector: r.wcs for r in results if r.wcs is not None},
        {r.detector: c.photo_calib for r, c in zip(results, calibrations.detectors)},
        {r.detector: r.background for r in results},
        tuple(_small(outcome, match, calibrations) for outcome in outcomes),
        figures,
        _visit_figures(results, match, calibrations),
    )


# ---------------------------------------------------------------- per detector


def process_detector(detector: int, data: VisitData, config: BootstrapImCharConfig) -> DetectorResult:
    """All that needs the pixels of one detector; writes its exposure.

    Raises
    ------
    ProcessingFailure
        Of reading and ISR; a detector without sources or stars is no failure.
    """
    raw = data.read_raw(detector)
    isr = run_isr(
        raw, data.read_calibration("bias", detector), data.read_calibration("flat", detector), config.isr
    )
    wcs = raw.header_wcs
    mjd = getattr(raw.info, "datetime_mid", None)
    gain = float(np.mean([amplifier.gain for amplifier in raw.detector.amplifiers]))
    del raw
    exposure, sky_variance, estimate = subtract_background(isr.exposure, config)
    sigma = measure_seeing(exposure, sky_variance, config)
    detections = detect(exposure, sky_variance, sigma, config)
    columns = measure_sources(exposure, detections, sigma, config.measurement)
    stars = _psf_stars(columns, config.psf)
    psf, psf_sigma = None, float("nan")
    if stars.any():
        moments = median_moments(columns["ixx"][stars], columns["iyy"][stars], columns["ixy"][stars])
        psf = fit_psf(*moments)
        psf_sigma = (moments[0] * moments[1] - moments[2] ** 2) ** 0.25
    correction = _aperture_correction(columns, stars, config.aperture_correction)
    columns |= apply_aperture_correction(columns, correction)
    columns |= _compare_with_psf(columns, stars, config.star_galaxy)
    # a neighbour's core reaches 3 sigma into the aperture that is calibrated
    reach = correction.radius + 3.0 * sigma
    everything = np.arange(len(columns["x"]))
    columns["neighbours"] = neighbour_share(
        columns["x"], columns["y"], columns["ap03Flux"], everything, reach
    )
    exposure = exposure.with_(psf=psf, wcs=wcs)
    data.write_exposure(detector, exposure)
    figures = _pixel_figures(isr, exposure, estimate, gain)
    figures |= {
        "n_sources": len(columns["x"]),
        "n_psf_stars": int(stars.sum()),
        "psf_sigma": psf_sigma,
        "seeing_pixels": FWHM * (psf_sigma if psf is not None else sigma),
        "aperture_correction": correction.factor,
        "aperture_correction_error": correction.error,
        "aperture_correction_reached": correction.reached,
    }
    flags = []
    if not len(columns["x"]):
        flags.append(Reason.NO_SOURCES)
    elif psf is None:
        flags.append(Reason.NO_STARS)
    if wcs is None:
        flags.append(Reason.NO_WCS)
    return DetectorResult(
        detector,
        {name: values for name, values in columns.items() if not name.startswith("_")},
        psf,
        wcs,
        exposure.background,
        correction,
        figures,
        tuple(flags),
        mjd,
    )


def unusable(exposure: Exposure) -> np.ndarray:
    """Pixels that hold nothing (saturated ones do: they are flagged, not left out); bool, shape (ny, nx)."""
    return exposure.mask.any(["BAD", "NO_DATA"])


def subtract_background(
    exposure: Exposure, config: BootstrapImCharConfig
) -> tuple[Exposure, np.ndarray, BackgroundEstimate]:
    """SubtractBackground (5.1.1.9), twice: before and after the sources are known.

    Returns
    -------
    exposure : Exposure
        With the background subtracted and kept as a component.
    sky_variance : ndarray of float32, shape (ny, nx)
        Variance of empty sky [electron^2].
    estimate : BackgroundEstimate
    """
    bad = unusable(exposure)
    # stars that saturate tell nothing of the sky
    good = ~(bad | exposure.mask.any(["SATURATED"]))
    box = exposure.box
    first = estimate_background(exposure.image, good, box, config.background, statistic="mode")
    image = exposure.image - Background([first.layer]).image(box)
    sky = estimate_sky_variance(exposure.variance, good, box, config.background)
    sky_variance = Background([sky]).image(box)
    snr = detection_image(image, sky_variance, bad, config.detection.first_fwhm / FWHM)
    del image
    empty = good & ~detected_pixels(snr, config.detection.mask_threshold, config.detection.mask_grow)
    del snr
    try:
        estimate = estimate_background(exposure.image, empty, box, config.background)
        sky = estimate_sky_variance(exposure.variance, empty, box, config.background)
        sky_variance = Background([sky]).image(box)
    except ProcessingFailure as failure:
        if failure.reason is not Reason.NO_GOOD_PIXELS:
            raise
        # a field so crowded that no cell has empty sky: the mode of all pixels is what there is
        estimate = first
    return exposure.with_background(Background([estimate.layer])), sky_variance, estimate


def measure_seeing(exposure: Exposure, sky_variance: np.ndarray, config: BootstrapImCharConfig) -> float:
    """Sigma of the stars [pixel] from the brightest sources; the configured first one without any."""
    first = config.detection.first_fwhm / FWHM
    bad = unusable(exposure)
    snr = detection_image(exposure.image, sky_variance, bad, first)
    bright = SourceDetectionConfig(
        threshold=config.measurement.min_snr_seeing, min_area=3, deblend_contrast=1.0
    )
    found = detect_sources(snr, bright)
    bits = np.zeros(len(found.x), np.int32)
    footprint_bits(exposure.mask.array, found.segments, bits)
    clean = (bits & exposure.mask.bits(["BAD", "NO_DATA", "SATURATED", "SUSPECT", "COSMIC_RAY"])) == 0
    chosen = np.flatnonzero(clean)
    chosen = np.sort(chosen[np.argsort(-found.peak_snr[chosen], kind="stable")[:300]])
    shapes = second_moment_shapes(
        exposure.image, bad, found.x[chosen], found.y[chosen], first, config.measurement.largest_sigma
    )
    size = _radius(shapes.xx, shapes.yy, shapes.xy)
    stars = select_stars(size, found.peak_snr[chosen], ~shapes.flag, config.psf)
    return float(np.median(size[stars])) if stars.any() else first


def detect(
    exposure: Exposure, sky_variance: np.ndarray, sigma: float, config: BootstrapImCharConfig
) -> Detections:
    """DetectSources and DeblendSources (5.1.1.10, 5.1.1.11); sets DETECTED and DETECTION_EDGE of the mask."""
    snr = detection_image(exposure.image, sky_variance, unusable(exposure), sigma)
    with np.errstate(invalid="ignore"):
        noise = np.sqrt(np.maximum(exposure.variance / sky_variance, np.float32(1)))
    detections = detect_sources(snr, config.detection, np.nan_to_num(noise, copy=False, nan=1.0))
    exposure.mask.set(["DETECTED"], detections.segments > 0)
    border = int(np.ceil(2.0 * sigma))
    edge = np.ones(exposure.shape, dtype=bool)
    edge[border:-border, border:-border] = False
    exposure.mask.set(["DETECTION_EDGE"], edge)
    return detections


def measure_sources(
    exposure: Exposure, detections: Detections, sigma: float, config: MeasurementConfig
) -> Columns:
    """MeasureSources (5.1.1.12): Source columns in electrons and pixels; names with _ are for this module
    only."""
    image, variance, bad = exposure.image, exposure.variance, unusable(exposure)
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
        "_blended": detections.blended,
        "_apertures_whole": ~apertures.truncated & (apertures.masked == 0.0),
        "_apFlux": apertures.flux,
        "_apFluxErr": apertures.error,
    }
    for number, radius in enumerate(APERTURE_RADII):
        columns[f"ap{radius:02d}Flux"] = apertures.flux[:, number]
        columns[f"ap{radius:02d}FluxErr"] = apertures.error[:, number]
        columns[f"ap{radius:02d}Flux_flag"] = flags[:, number]
    return columns | _pixel_flags(exposure, detections, x, y) | _local_sky(exposure, bad, x, y, config)


def _local_sky(
    exposure: Exposure, bad: np.ndarray, x: np.ndarray, y: np.ndarray, config: MeasurementConfig
) -> Columns:
    """Sky per pixel: background model at the source plus what the annulus still has [electron]."""
    level, error = np.empty(len(x)), np.empty(len(x))
    excluded = bad | exposure.mask.any(["DETECTED", "SATURATED"])
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


_FLAG_PLANES = {
    "bad": "BAD",
    "cr": "COSMIC_RAY",
    "edge": "DETECTION_EDGE",
    "interpolated": "INTERPOLATED",
    "nodata": "NO_DATA",
    "saturated": "SATURATED",
    "suspect": "SUSPECT",
}
_CENTRE_PLANES = {name: _FLAG_PLANES[name] for name in ("cr", "interpolated", "saturated", "suspect")}


def _pixel_flags(exposure: Exposure, detections: Detections, x: np.ndarray, y: np.ndarray) -> Columns:
    mask = exposure.mask
    anywhere, centre = np.zeros(len(x), np.int32), np.zeros(len(x), np.int32)
    outside = np.zeros(len(x), dtype=bool)
    footprint_bits(mask.array, detections.segments, anywhere)
    centre_bits(mask.array, x, y, centre, outside)
    columns: Columns = {"pixelFlags_offimage": outside}
    for name, plane in _FLAG_PLANES.items():
        columns[f"pixelFlags_{name}"] = (anywhere & mask.bits([plane])) != 0
    for name, plane in _CENTRE_PLANES.items():
        columns[f"pixelFlags_{name}Center"] = (centre & mask.bits([plane])) != 0
    return columns


def _radius(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Determinant radius [pixel]; NaN where the moments are unknown."""
    with np.errstate(invalid="ignore"):
        return np.maximum(xx * yy - xy * xy, 0.0) ** 0.25


def _psf_stars(columns: Columns, config: PsfEstimationConfig) -> np.ndarray:
    """SelectStars (5.1.1.14): first among sources alone in their footprint, else among all."""
    size = _radius(columns["ixx"], columns["iyy"], columns["ixy"])
    spoilt = columns["centroid_flag"] | columns["pixelFlags_offimage"]
    for name in _FLAG_PLANES:
        spoilt = spoilt | columns[f"pixelFlags_{name}"]
    for clean in (~spoilt & ~columns["_blended"], ~spoilt):
        stars = select_stars(size, columns["peakSnr"], clean, config)
        if stars.any():
            return stars
    return np.zeros(len(size), dtype=bool)


def _aperture_correction(
    columns: Columns, stars: np.ndarray, config: ApertureCorrectionConfig
) -> ApertureCorrection:
    """FitApCorr (5.1.1.21)."""
    return fit_aperture_correction(
        columns["x"],
        columns["y"],
        columns["_apFlux"],
        columns["_apFluxErr"],
        columns["_apertures_whole"],
        RADII,
        stars,
        config,
    )


def apply_aperture_correction(columns: Columns, correction: ApertureCorrection) -> Columns:
    """ApplyApCorr (5.1.1.22): total fluxes of point sources [electron].

    The error has the photons' and the correction's own; the latter is common to the sources of a detector.
    """
    name = f"ap{round(correction.radius):02d}Flux"
    flux, error = columns[name], columns[f"{name}Err"]
    common = correction.error if np.isfinite(correction.error) else 0.0
    return {
        "ap12InstFlux": columns["ap12Flux"],
        "ap12InstFluxErr": columns["ap12FluxErr"],
        "calibInstFlux": flux * correction.factor,
        "calibInstFluxErr": np.hypot(error * correction.factor, flux * common),
    }


def _compare_with_psf(columns: Columns, stars: np.ndarray, config: StarGalaxyConfig) -> Columns:
    """Moments of the PSF at the sources, and both kinds of extendedness."""
    n = len(columns["x"])
    moments = (np.nan, np.nan, np.nan)
    if stars.any():
        moments = median_moments(columns["ixx"][stars], columns["iyy"][stars], columns["ixy"][stars])
    trace = moments[0] + moments[1]
    # inside the core, and where a star's light ends
    fwhm = FWHM * np.sqrt(max(trace, 0.0) / 2.0) if np.isfinite(trace) else 4.0
    inner = int(np.argmin(np.abs(np.array(RADII) - 0.8 * fwhm)))
    outer = max(int(np.argmin(np.abs(np.array(RADII) - 2.0 * fwhm))), inner + 1)
    flux, error = columns["_apFlux"], columns["_apFluxErr"]
    return {
        "ixxPSF": np.full(n, moments[0]),
        "iyyPSF": np.full(n, moments[1]),
        "ixyPSF": np.full(n, moments[2]),
        "extendedness": extendedness(
            flux[:, inner], error[:, inner], flux[:, outer], error[:, outer], stars, config
        ),
        "sizeExtendedness": size_extendedness(
            columns["ixx"] + columns["iyy"], trace, columns["peakSnr"], config
        ),
    }


def _pixel_figures(
    isr: IsrResult, exposure: Exposure, estimate: BackgroundEstimate, gain: float
) -> dict[str, Any]:
    mask = exposure.mask
    return {
        "sky_level": estimate.level,
        "sky_noise": estimate.noise,
        "background_error": estimate.level_error,
        "sky_adu": estimate.level / gain,
        "sky_noise_adu": estimate.noise / gain,
        "fraction_bad": float(mask.any(["BAD", "NO_DATA"]).mean()),
        "fraction_saturated": float(mask.any(["SATURATED"]).mean()),
        "fraction_detected": float(mask.any(["DETECTED"]).mean()),
        "read_noise": {each.name: each.read_noise for each in isr.amplifiers},
        "amplifiers_lost": [each.name for each in isr.amplifiers if each.status != "good"],
        "nx": exposure.box.nx,
        "ny": exposure.box.ny,
    }


# ---------------------------------------------------------------- the visit


@dataclass(frozen=True)
class VisitMatch:
    """Match of the visit, told apart by detector.

    Parameters
    ----------
    whole : ReferenceMatch
        `source` counts the sources of all results one after the other.
    rows : tuple of ndarray
        Per result: the rows of its columns that are matched.
    partners : tuple of ndarray
        Per result: rows of the reference catalogue.
    flux, flux_error : ndarray
        Of the reference in the visit's band [nJy], NaN without; by its row.
    is_star : ndarray of bool
        False where the catalogue calls it extended.
    members : tuple of slice
        Per result: its pairs within `whole`.
    reason : Reason or None
        Why there is no match.
    """

    whole: ReferenceMatch
    rows: tuple[np.ndarray, ...]
    partners: tuple[np.ndarray, ...]
    flux: np.ndarray
    flux_error: np.ndarray
    is_star: np.ndarray
    members: tuple[slice, ...]
    reason: Reason | None


@dataclass(frozen=True)
class DetectorCalibration:
    """PhotoCalib of a detector, stars it rests on (rows of the result) and where they are from."""

    photo_calib: PhotoCalib
    used: np.ndarray
    n_stars: int
    scatter: float
    whole_visit: bool


@dataclass(frozen=True)
class VisitCalibration:
    """Zero points of the detectors, and the visit's own."""

    detectors: tuple[DetectorCalibration, ...]
    visit: ZeroPointFit | None


def _match(
    results: list[DetectorResult], reference: pd.DataFrame | None, band: str, config: MatchConfig
) -> VisitMatch:
    """MatchSemiBlind (5.1.1.13)."""
    counts = [len(result.columns["x"]) for result in results]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    if reference is None or not len(reference):
        return _without_match(len(results), Reason.NO_REFERENCE)
    positions = [_sky_positions(result)[:2] for result in results]
    ra = np.concatenate([each[0] for each in positions]) if results else np.zeros(0)
    dec = np.concatenate([each[1] for each in positions]) if results else np.zeros(0)
    light = np.concatenate([r.columns["calibInstFlux"] for r in results]) if results else np.zeros(0)
    reference_ra, reference_dec = _at_epoch(reference, results)
    flux, flux_error = _reference_fluxes(reference, band)
    whole = match_reference(ra, dec, light, reference_ra, reference_dec, flux, config)
    if not whole.source.size:
        return _without_match(len(results), Reason.NO_MATCH)
    edges = np.searchsorted(whole.source, starts)
    members = tuple(slice(int(a), int(b)) for a, b in itertools.pairwise(edges))
    return VisitMatch(
        whole,
        tuple(whole.source[each] - start for each, start in zip(members, starts)),
        tuple(whole.reference[each] for each in members),
        flux,
        flux_error,
        _is_star(reference),
        members,
        None,
    )


def _without_match(n: int, reason: Reason) -> VisitMatch:
    none = tuple(np.zeros(0, int) for _ in range(n))
    empty = np.zeros(0)
    return VisitMatch(no_match(), none, none, empty, empty, np.zeros(0, bool), (slice(0, 0),) * n, reason)


def _sky_positions(result: DetectorResult) -> tuple[np.ndarray, ...]:
    """ra, dec [deg], their errors (ra times cos dec) and covariance; NaN without a WCS."""
    columns = result.columns
    n = len(columns["x"])
    if result.wcs is None or n == 0:
        return tuple(np.full(n, np.nan) for _ in range(5))
    ra, dec = result.wcs.pixel_to_sky(columns["x"], columns["y"])
    errors = result.wcs.sky_errors(
        columns["x"], columns["y"], columns["xErr"], columns["yErr"], result.columns["xyCov"]
    )
    return ra, dec, *errors


def _at_epoch(reference: pd.DataFrame, results: list[DetectorResult]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the reference stars [deg] moved to the visit's time where motion and epoch are known."""
    ra, dec = reference["ra"].to_numpy(float), reference["dec"].to_numpy(float)
    times = [result.mjd for result in results if result.mjd is not None]
    if not times or not {"pmRa", "pmDec", "epoch"} <= set(reference.columns):
        return ra, dec
    years = (float(np.median(times)) - reference["epoch"].to_numpy(float)) / 365.25
    east = np.nan_to_num(reference["pmRa"].to_numpy(float) * years) / 3.6e6
    north = np.nan_to_num(reference["pmDec"].to_numpy(float) * years) / 3.6e6
    # at the pole itself a motion in ra means nothing
    return ra + east / np.maximum(np.cos(np.deg2rad(dec)), 1e-6), np.clip(dec + north, -90.0, 90.0)


def _reference_fluxes(reference: pd.DataFrame, band: str) -> tuple[np.ndarray, np.ndarray]:
    unknown = np.full(len(reference), np.nan)
    flux = reference[f"flux_{band}"].to_numpy(float) if f"flux_{band}" in reference.columns else unknown
    name = f"fluxErr_{band}"
    return flux, reference[name].to_numpy(float) if name in reference.columns else unknown


def _is_star(reference: pd.DataFrame) -> np.ndarray:
    if "isStar" not in reference.columns:
        return np.ones(len(reference), dtype=bool)
    return reference["isStar"].fillna(True).to_numpy(dtype=bool)


def _zero_points(
    results: list[DetectorResult], match: VisitMatch, config: PhotometricFittingConfig
) -> VisitCalibration:
    """Zero point per detector, from its own stars where there are enough, else from all of the visit's."""
    stars = [_photometric_stars(result, match, number, config) for number, result in enumerate(results)]
    whole = None
    if stars:
        whole = fit_zero_point(*(np.concatenate(each) for each in zip(*(s[1:] for s in stars))), config)
    fits = []
    offset = 0
    for result, (rows, *fluxes) in zip(results, stars):
        own = None
        if rows.size >= config.min_stars_per_detector:
            own = fit_zero_point(*fluxes, config)
            if own is not None and own.n_stars < config.min_stars_per_detector:
                own = None
        chosen = own or whole
        used = np.zeros(len(result.columns["x"]), dtype=bool)
        if chosen is None:
            fits.append(DetectorCalibration(PhotoCalib.unknown(), used, 0, float("nan"), False))
        else:
            kept = own.used if own is not None else whole.used[offset : offset + rows.size]
            used[rows[kept]] = True
            calib = PhotoCalib(chosen.scale, chosen.scale_error)
            fits.append(DetectorCalibration(calib, used, chosen.n_stars, chosen.scatter, own is None))
        offset += rows.size
    return VisitCalibration(tuple(fits), whole)


def _photometric_stars(
    result: DetectorResult, match: VisitMatch, number: int, config: PhotometricFittingConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of clean matched stars; flux and photon error [electron]; reference flux and error [nJy]."""
    rows, partners = match.rows[number], match.partners[number]
    columns = result.columns
    spoilt = columns["ap12Flux_flag"] | columns["centroid_flag"]
    for name in ("bad", "saturated", "suspect", "cr", "nodata", "edge"):
        spoilt = spoilt | columns[f"pixelFlags_{name}"]
    keep = ~spoilt[rows] & ~(columns["extendedness"][rows] > 0.5)
    if partners.size:
        keep &= match.is_star[partners]
    alone = keep & (columns["neighbours"][rows] < config.max_neighbour)
    if alone.sum() >= config.min_stars_per_detector:
        keep = alone
    rows, partners = rows[keep], partners[keep]
    error = columns["ap12InstFluxErr"][rows] * result.aperture_correction.factor
    return rows, columns["calibInstFlux"][rows], error, match.flux[partners], match.flux_error[partners]


def source_columns(visit: Visit, result: DetectorResult, calibration: DetectorCalibration) -> Columns:
    """Columns of the Source table for one detector: fluxes in nJy, positions on the sky, ids."""
    columns = dict(result.columns)
    n = len(columns["x"])
    calib = calibration.photo_calib
    fluxes = [f"ap{radius:02d}Flux" for radius in APERTURE_RADII] + ["kronFlux"]
    for name in fluxes:
        for each in (name, f"{name}Err"):
            columns[each] = calib.flux_to_njy(columns[each], columns["x"], columns["y"])
    for each in ("", "Err"):
        columns[f"calibFlux{each}"] = calib.flux_to_njy(
            columns[f"calibInstFlux{each}"], columns["x"], columns["y"]
        )
        columns[f"sky{each}"] = calib.flux_to_njy(columns[f"sky{each}"], columns["x"], columns["y"])
    positions = zip(("ra", "dec", "raErr", "decErr", "ra_dec_Cov"), _sky_positions(result))
    del columns["xyCov"], columns["neighbours"]
    # 0 says "no parent", so numbers begin with 1
    ids = SOURCE_ID.pack(visit=visit.visit, detector=result.detector, number=np.arange(1, n + 1))
    return (
        columns
        | dict(positions)
        | {
            "sourceId": ids,
            "parentSourceId": np.zeros(n, np.int64),
            "visit": np.full(n, visit.visit, np.int64),
            "detector": np.full(n, result.detector, np.int16),
            "band": np.full(n, visit.band, dtype=object),
            "physical_filter": np.full(n, visit.physical_filter, dtype=object),
            "deblend_nChild": np.zeros(n, np.int32),
            "detect_isPrimary": np.ones(n, bool),
            "calib_photometry_used": calibration.used,
            "noZeroPoint_flag": np.full(n, not np.isfinite(calib.mean)),
            "noWcs_flag": np.full(n, result.wcs is None),
            "tract": np.full(n, visit.tract, np.int64),
        }
    )


def _small(outcome: Outcome, match: VisitMatch, calibrations: VisitCalibration) -> Outcome:
    """The outcome with its flags for a value."""
    if not outcome.ok:
        return outcome
    flags = list(outcome.value.flags)
    if calibrations.visit is None:
        flags.append(match.reason or Reason.NO_MATCH)
    return Outcome(outcome.item, tuple(flags))


def _detector_figures(
    result: DetectorResult, calibration: DetectorCalibration, match: VisitMatch, number: int
) -> dict[str, Any]:
    figures = dict(result.figures)
    calib = calibration.photo_calib
    known = np.isfinite(calib.mean)
    figures |= {
        "zero_point": calib.zero_point if known else float("nan"),
        "zero_point_error": calib.zero_point_error if known else float("nan"),
        "zero_point_stars": calibration.n_stars,
        "zero_point_scatter": calibration.scatter,
        "zero_point_of_visit": calibration.whole_visit,
        "mag_lim": _limiting_magnitude(figures, calib),
    }
    return figures | _position_figures(result, figures) | _offsets(match, match.members[number])


def _limiting_magnitude(figures: Mapping[str, Any], calib: PhotoCalib) -> float:
    """AB magnitude of a star at 5 sigma of sky noise in a PSF fit: noise area of a Gaussian, 4 pi sigma^2."""
    sigma = figures["seeing_pixels"] / FWHM
    flux = 5.0 * figures["sky_noise"] * np.sqrt(4.0 * np.pi) * sigma * calib.mean
    return float(31.4 - 2.5 * np.log10(flux)) if flux > 0 else float("nan")


def _position_figures(result: DetectorResult, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Centre and outer corners on the sky (counter-clockwise from lower left), pixel scale and seeing."""
    nan = float("nan")
    if result.wcs is None:
        return {
            "ra": nan,
            "dec": nan,
            "corner_ra": [nan] * 4,
            "corner_dec": [nan] * 4,
            "pixel_scale": nan,
            "seeing": nan,
        }
    nx, ny = figures["nx"], figures["ny"]
    x, y = 0.5 * (nx - 1), 0.5 * (ny - 1)
    left, right, low, high = -0.5, nx - 0.5, -0.5, ny - 0.5
    ra, dec = result.wcs.pixel_to_sky(
        np.array([x, left, right, right, left]), np.array([y, low, low, high, high])
    )
    scale = float(result.wcs.pixel_scale(x, y))
    return {
        "ra": float(ra[0]),
        "dec": float(dec[0]),
        "corner_ra": [float(v) for v in ra[1:]],
        "corner_dec": [float(v) for v in dec[1:]],
        "pixel_scale": scale,
        "seeing": scale * figures["seeing_pixels"],
    }


def _offsets(match: VisitMatch, members: slice) -> dict[str, Any]:
    """Source minus reference of some pairs [arcsec]: medians, widths and number."""
    dx = match.whole.residual_ra[members] + match.whole.shift_ra
    dy = match.whole.residual_dec[members] + match.whole.shift_dec
    nan = float("nan")
    if not dx.size:
        return {"astrom_offset_ra": nan, "astrom_offset_dec": nan, "astrom_offset_std": nan, "n_matches": 0}
    ra, dec = float(np.median(dx)), float(np.median(dy))
    widths = [1.4826 * float(np.median(np.abs(d - m))) for d, m in ((dx, ra), (dy, dec))]
    return {
        "astrom_offset_ra": ra,
        "astrom_offset_dec": dec,
        "astrom_offset_std": float(np.hypot(*widths)),
        "n_matches": int(dx.size),
    }


def _visit_figures(
    results: list[DetectorResult], match: VisitMatch, calibrations: VisitCalibration
) -> dict[str, Any]:
    whole = calibrations.visit
    nan = float("nan")
    return {
        "n_detectors": len(results),
        "n_sources": sum(len(result.columns["x"]) for result in results),
        "zero_point": whole.magnitude if whole else nan,
        "zero_point_error": 2.5 / np.log(10.0) * whole.scale_error / whole.scale if whole else nan,
        "zero_point_scatter": whole.scatter if whole else nan,
        "zero_point_stars": whole.n_stars if whole else 0,
        **_offsets(match, slice(None)),
    }
