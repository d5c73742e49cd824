"""BootstrapImChar (LDM-151 5.1.1): first sources, PSF, aperture correction and zero point of a visit.

Per detector, in workers: RunISR, SubtractSnaps, CombineSnaps (`detector_image`), SubtractBackground, DetectSources,
DeblendSources, MeasureSources, SelectStars, FitPSF, FitApCorr, ApplyApCorr. Then for the visit, in the parent:
MatchSemiBlind and the zero point. Order of the work on pixels::

    background (mode, nothing masked) > detection image > background again without detected pixels
    > seeing from the brightest sources > detection image of that width > sources > measurements

The WCS is the one that the raw frame came with; its shift against the reference is measured and reported, not
applied. A detector that fails costs itself; one without stars, position or zero point is complete and
flagged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms import aperture_correction, psf_estimation, source_detection
from skyquilt.algorithms.aperture_correction import (
    ApertureCorrection,
    ApertureCorrectionConfig,
    neighbour_share,
)
from skyquilt.algorithms.association_and_matching.single_visit_to_reference import (
    MatchConfig,
    match_reference,
)
from skyquilt.algorithms.background_estimation import (
    BackgroundEstimate,
    BackgroundEstimationConfig,
    estimate_background,
    estimate_sky_variance,
)
from skyquilt.algorithms.measurement.pixel_flags import footprint_bits
from skyquilt.algorithms.measurement.second_moment_shapes import determinant_radius, second_moment_shapes
from skyquilt.algorithms.measurement.variants.single_frame import (
    FLAG_PLANES,
    RADII,
    Columns,
    MeasurementConfig,
    SingleFrameMeasurements,
    measure_single_frame,
)
from skyquilt.algorithms.photometric_fitting import PhotometricFittingConfig
from skyquilt.algorithms.psf_estimation import PsfEstimationConfig
from skyquilt.algorithms.source_detection import (
    Detections,
    SourceDetectionConfig,
    detected_pixels,
    detection_image,
)
from skyquilt.algorithms.star_galaxy_classification import (
    StarGalaxyConfig,
    core_and_whole,
    extendedness,
    size_extendedness,
)
from skyquilt.io.reference_catalog import positions_at
from skyquilt.pipelines.detector_image import (
    DetectorImage,
    DetectorImageConfig,
    SignatureRemoval,
    detector_image,
)
from skyquilt.pipelines.image_characterization import (
    DetectorResult,
    Visit,
    VisitData,
    VisitResult,
)
from skyquilt.pipelines.source_tables import compact_columns, sky_positions
from skyquilt.pipelines.visit_calibration import (
    VisitCalibration,
    VisitMatch,
    fit_zero_points,
    reference_fluxes,
)
from skyquilt.pipelines.visit_figures import detector_figures, pixel_figures, star_figures, visit_figures
from skyquilt.primitives.background import Background
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import Outcome, ProcessingFailure, Reason, serial_map
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.psf import FWHM_OF_SIGMA, GaussianPsf

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.pipelines.ghost_prediction import GhostPrediction
    from skyquilt.primitives.wcs import Wcs


@dataclass(frozen=True)
class BootstrapImCharConfig:
    """Options of BootstrapImChar."""

    image: DetectorImageConfig = field(default_factory=DetectorImageConfig)
    """Artifacts and snaps."""
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


def bootstrap_im_char(
    visit: Visit,
    detector_ids: Iterable[int],
    data: VisitData,
    reference: pd.DataFrame | None,
    removal: SignatureRemoval,
    config: BootstrapImCharConfig,
    map: Callable[[Callable[[int], Any], Iterable[int]], list[Outcome]] = serial_map,
    ghosts: GhostPrediction | None = None,
) -> VisitResult:
    """Characterise the images of one visit.

    Parameters
    ----------
    visit : Visit
    detector_ids : iterable of int
    data : VisitData
    reference : DataFrame or None
        `primitives.schemas.REFERENCE` with stars around the visit; None for none.
    removal : SignatureRemoval
        RunISR with the survey's options.
    config : BootstrapImCharConfig
    map : callable
        `map(function, items)` gives Outcomes in the order of the items; `serial_map` or a pool's. Memory is
        workers x one detector: about 40 bytes per pixel of a detector each; and in the caller's process about
        400 bytes per source of the visit.
    ghosts : GhostPrediction, optional
        Where reflections of bright stars are.
    """
    work = functools.partial(_process_compactly, data=data, removal=removal, config=config, ghosts=ghosts)
    outcomes = map(work, list(detector_ids))
    results = [outcome.value for outcome in outcomes if outcome.ok]
    match = match_semi_blind(results, reference, visit.band, config.match)
    calibrations = fit_zero_points(results, match, config.photometry)
    figures = {
        result.detector: detector_figures(result, calibration, match, number)
        for number, (result, calibration) in enumerate(zip(results, calibrations.detectors))
    }
    return VisitResult(
        visit,
        tuple(results),
        calibrations.detectors,
        tuple(_with_flags(outcome, match, calibrations) for outcome in outcomes),
        figures,
        visit_figures(results, match, calibrations),
    )


def _process_compactly(
    detector: int,
    data: VisitData,
    removal: SignatureRemoval,
    config: BootstrapImCharConfig,
    ghosts: GhostPrediction | None,
) -> DetectorResult:
    """`process_detector` with its columns in the types that they will have in the Source table."""
    result = process_detector(detector, data, removal, config, ghosts)
    return replace(result, columns=compact_columns(result.columns))


def process_detector(
    detector: int,
    data: VisitData,
    removal: SignatureRemoval,
    config: BootstrapImCharConfig,
    ghosts: GhostPrediction | None = None,
) -> DetectorResult:
    """All that needs the pixels of one detector; writes its exposure.

    Raises
    ------
    ProcessingFailure
        Of reading and ISR; a detector without sources or stars is no failure.
    """
    image = detector_image(detector, data, removal, config.image, ghosts)
    first = image.snaps[0]
    wcs, mjd = first.wcs, _middle(image)
    exposure, sky_variance, estimate = subtract_background(image.exposure, config)
    # from here on the only pixels in memory are the subtracted ones
    isr = replace(first.isr, exposure=exposure)
    image = replace(image, exposure=exposure, snaps=())
    if first.purpose != "science":
        # nothing is detected in donuts until FitWavefront models them
        config = replace(config, detection=replace(config.detection, threshold=np.inf))
        image = replace(image, flags=(Reason.NOT_SCIENCE, *image.flags))
    sigma = measure_seeing(exposure, sky_variance, config)
    detections = detect_sources(exposure, sky_variance, sigma, config)
    measured = measure_sources(exposure, detections, sigma, config)
    del detections
    stars = select_stars(measured, config.psf)
    moments = star_moments(measured.columns, stars)
    psf = fit_psf(moments)
    correction = fit_ap_corr(measured, stars, config.aperture_correction)
    columns = measured.columns | apply_ap_corr(measured.columns, correction)
    columns |= compare_with_psf(measured, stars, moments, config.star_galaxy)
    columns["neighbours"] = _neighbours(columns, correction, sigma)
    exposure = exposure.with_(psf=psf, wcs=wcs)
    data.write_exposure(detector, exposure)
    figures = pixel_figures(isr, exposure, estimate) | image.figures
    figures |= star_figures(stars, moments, sigma, correction)
    return DetectorResult(
        detector,
        columns,
        psf,
        wcs,
        exposure.background,
        correction,
        figures,
        _expected((*image.flags, *_missing(columns, psf, wcs))),
        mjd,
    )


def _middle(image: DetectorImage) -> float | None:
    """Middle of the exposure (TAI MJD), of the snaps that are in it."""
    times = [one.mjd for one in image.snaps if one.mjd is not None]
    return float(np.mean(times)) if times else None


def _expected(flags: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """Without what a detector that is not for science is not expected to have."""
    if Reason.NOT_SCIENCE in flags:
        flags = tuple(flag for flag in flags if flag not in (Reason.NO_SOURCES, Reason.NO_STARS))
    return tuple(dict.fromkeys(flags))


def _missing(columns: Columns, psf: GaussianPsf | None, wcs: Wcs | None) -> tuple[Reason, ...]:
    """What a complete detector lacks."""
    flags = []
    if not len(columns["x"]):
        flags.append(Reason.NO_SOURCES)
    elif psf is None:
        flags.append(Reason.NO_STARS)
    if wcs is None:
        flags.append(Reason.NO_WCS)
    return tuple(flags)


def _with_flags(outcome: Outcome, match: VisitMatch, calibrations: VisitCalibration) -> Outcome:
    """The outcome with its flags for a value."""
    if not outcome.ok:
        return outcome
    flags = list(outcome.value.flags)
    if calibrations.visit is None:
        flags.append(match.reason or Reason.NO_MATCH)
    return Outcome(outcome.item, tuple(flags))


def unusable(exposure: Exposure) -> np.ndarray:
    """Pixels that hold nothing (saturated ones do: they are flagged, not left out); bool, shape (ny, nx)."""
    return exposure.mask.any(["BAD", "NO_DATA"])


def subtract_background(
    exposure: Exposure, config: BootstrapImCharConfig
) -> tuple[Exposure, Background, BackgroundEstimate]:
    """SubtractBackground (5.1.1.9), twice: before and after the sources are known.

    Returns
    -------
    exposure : Exposure
        With the background subtracted and kept as a component.
    sky_variance : Background
        Variance of empty sky [electron^2]; a model, for a plane of it is as large as the image.
    estimate : BackgroundEstimate
    """
    bad = unusable(exposure)
    # stars that saturate tell nothing of the sky
    good = ~exposure.mask.any(["BAD", "NO_DATA", "SATURATED"])
    box = exposure.box
    first = estimate_background(exposure.image, good, box, config.background, statistic="mode")
    sky_level = _rows_of(Background([first.layer]), box)
    sky_variance = Background([estimate_sky_variance(exposure.variance, good, box, config.background)])
    snr = detection_image(
        lambda rows: exposure.image[rows] - sky_level(rows),
        _rows_of(sky_variance, box),
        bad,
        config.detection.first_fwhm / FWHM_OF_SIGMA,
    )
    empty = good & ~detected_pixels(snr, config.detection.mask_threshold, config.detection.mask_grow)
    del snr
    try:
        estimate = estimate_background(exposure.image, empty, box, config.background)
        sky_variance = Background([estimate_sky_variance(exposure.variance, empty, box, config.background)])
    except ProcessingFailure as failure:
        if failure.reason is not Reason.NO_GOOD_PIXELS:
            raise
        # a field so crowded that no cell has empty sky: the mode of all pixels is what there is
        estimate = first
    image, background = Background([estimate.layer]).subtract(exposure.image, box)
    return exposure.with_(image=image, background=background), sky_variance, estimate


def _rows_of(model: Background, box: Box) -> Callable[[slice], np.ndarray]:
    """Function that makes the model at some rows of a box, float32."""
    return lambda rows: model.image(Box(box.x0, box.y0 + rows.start, box.nx, rows.stop - rows.start))


def measure_seeing(exposure: Exposure, sky_variance: Background, config: BootstrapImCharConfig) -> float:
    """Sigma of the stars [pixel] from the brightest sources; the configured first one without any.

    What FitWavefront (5.1.1.8) is for: a width good enough to detect with.
    """
    first = config.detection.first_fwhm / FWHM_OF_SIGMA
    bad = unusable(exposure)
    snr = detection_image(exposure.image, _rows_of(sky_variance, exposure.box), bad, first)
    bright = SourceDetectionConfig(
        threshold=config.measurement.min_snr_seeing, min_area=3, deblend_contrast=1.0
    )
    found = source_detection.detect_sources(snr, bright)
    del snr
    bits = np.zeros(len(found.x), np.int32)
    footprint_bits(exposure.mask.array, found.segments, bits)
    clean = (bits & exposure.mask.bits(["BAD", "NO_DATA", "SATURATED", "SUSPECT", "COSMIC_RAY"])) == 0
    chosen = np.flatnonzero(clean)
    chosen = np.sort(chosen[np.argsort(-found.peak_snr[chosen], kind="stable")[:300]])
    shapes = second_moment_shapes(
        exposure.image, bad, found.x[chosen], found.y[chosen], first, config.measurement.largest_sigma
    )
    size = determinant_radius(shapes.xx, shapes.yy, shapes.xy)
    stars = psf_estimation.select_stars(size, found.peak_snr[chosen], ~shapes.flag, config.psf)
    return float(np.median(size[stars])) if stars.any() else first


def detect_sources(
    exposure: Exposure, sky_variance: Background, sigma: float, config: BootstrapImCharConfig
) -> Detections:
    """DetectSources and DeblendSources (5.1.1.10, 5.1.1.11); sets DETECTED and DETECTION_EDGE of the mask."""
    snr = detection_image(exposure.image, _rows_of(sky_variance, exposure.box), unusable(exposure), sigma)

    def noise(pixels: np.ndarray) -> np.ndarray:
        y, x = np.divmod(pixels, exposure.box.nx)
        sky = np.zeros(pixels.size)
        for layer in sky_variance.layers:
            sky += layer.evaluate(x + exposure.box.x0, y + exposure.box.y0)
        ratio = exposure.variance[y, x] / sky.astype(np.float32)
        return np.nan_to_num(np.sqrt(np.maximum(ratio, np.float32(1))), copy=False, nan=1.0)

    detections = source_detection.detect_sources(snr, config.detection, noise)
    del snr
    exposure.mask.set(["DETECTED"], detections.segments > 0)
    border = int(np.ceil(2.0 * sigma))
    edge = np.ones(exposure.shape, dtype=bool)
    edge[border:-border, border:-border] = False
    exposure.mask.set(["DETECTION_EDGE"], edge)
    return detections


def measure_sources(
    exposure: Exposure, detections: Detections, sigma: float, config: BootstrapImCharConfig
) -> SingleFrameMeasurements:
    """MeasureSources (5.1.1.12)."""
    return measure_single_frame(exposure, unusable(exposure), detections, sigma, config.measurement)


def match_semi_blind(
    results: Sequence[DetectorResult], reference: pd.DataFrame | None, band: str, config: MatchConfig
) -> VisitMatch:
    """MatchSemiBlind (5.1.1.13): the sources of all detectors with the reference stars.

    `reference` has columns of `REFERENCE`; its stars are moved to the middle of the exposure.
    """
    if reference is None or not len(reference):
        return VisitMatch.none(len(results), Reason.NO_REFERENCE)
    if not results:
        return VisitMatch.none(0, Reason.NO_MATCH)
    ra, dec = (np.concatenate(each) for each in zip(*(sky_positions(result)[:2] for result in results)))
    light = np.concatenate([result.columns["calibInstFlux"] for result in results])
    times = [result.mjd for result in results if result.mjd is not None]
    stars = positions_at(reference, float(np.median(times))) if times else reference
    flux, _ = reference_fluxes(stars, band)
    whole = match_reference(ra, dec, light, stars["ra"].to_numpy(), stars["dec"].to_numpy(), flux, config)
    if not whole.source.size:
        return VisitMatch.none(len(results), Reason.NO_MATCH)
    return VisitMatch.split(whole, [len(result.columns["x"]) for result in results], reference, band)


def select_stars(measured: SingleFrameMeasurements, config: PsfEstimationConfig) -> np.ndarray:
    """SelectStars (5.1.1.14): first among sources alone in their footprint, else among all; bool, (n,)."""
    columns = measured.columns
    size = determinant_radius(columns["ixx"], columns["iyy"], columns["ixy"])
    spoilt = columns["centroid_flag"] | columns["pixelFlags_offimage"]
    for name in FLAG_PLANES:
        spoilt = spoilt | columns[f"pixelFlags_{name}"]
    for clean in (~spoilt & ~measured.blended, ~spoilt):
        stars = psf_estimation.select_stars(size, columns["peakSnr"], clean, config)
        if stars.any():
            return stars
    return np.zeros(len(size), dtype=bool)


def star_moments(columns: Columns, stars: np.ndarray) -> tuple[float, float, float]:
    """Median moments xx, yy, xy of the stars [pixel^2]; NaN without any."""
    if not stars.any():
        return np.nan, np.nan, np.nan
    return psf_estimation.median_moments(columns["ixx"][stars], columns["iyy"][stars], columns["ixy"][stars])


def fit_psf(moments: tuple[float, float, float]) -> GaussianPsf | None:
    """FitPSF (5.1.1.16), from the stars' moments [pixel^2]; None without stars."""
    return psf_estimation.fit_psf(*moments) if np.isfinite(moments[0]) else None


def fit_ap_corr(
    measured: SingleFrameMeasurements, stars: np.ndarray, config: ApertureCorrectionConfig
) -> ApertureCorrection:
    """FitApCorr (5.1.1.21)."""
    return aperture_correction.fit_aperture_correction(
        measured.columns["x"],
        measured.columns["y"],
        measured.aperture_flux,
        measured.aperture_error,
        measured.apertures_whole,
        RADII,
        stars,
        config,
    )


def apply_ap_corr(columns: Columns, correction: ApertureCorrection) -> Columns:
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


def _neighbours(columns: Columns, correction: ApertureCorrection, sigma: float) -> np.ndarray:
    """Share of each source's flux that neighbours have in the aperture that is calibrated."""
    # a neighbour's core reaches 3 sigma into it
    reach = correction.radius + 3.0 * sigma
    everything = np.arange(len(columns["x"]))
    return neighbour_share(columns["x"], columns["y"], columns["ap03Flux"], everything, reach)


def compare_with_psf(
    measured: SingleFrameMeasurements,
    stars: np.ndarray,
    moments: tuple[float, float, float],
    config: StarGalaxyConfig,
) -> Columns:
    """Moments of the PSF at the sources, and both kinds of extendedness."""
    columns = measured.columns
    n = len(columns["x"])
    trace = moments[0] + moments[1]
    inner, outer = core_and_whole(RADII, trace)
    flux, error = measured.aperture_flux, measured.aperture_error
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
