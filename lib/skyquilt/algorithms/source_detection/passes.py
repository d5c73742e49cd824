"""Detection in passes (LDM-151 8.4, 5.1.1.10): bright sources first, fainter ones with the stars subtracted.

What is left around a subtracted star is not trusted beyond the PSF model: the variance of the later detection image
has the star's photons, and a share of its light (`model_error`) that is wrong in the same direction over the whole
PSF. A companion has to stand out of both.
"""

from __future__ import annotations

import numpy as np

from skyquilt.algorithms.source_detection.companions import (
    peaks_above,
    residual_snr,
    told_apart,
    whole_peaks,
    without_stars,
)
from skyquilt.algorithms.source_detection.correlation import MatchedFilter, correlated_image
from skyquilt.algorithms.source_detection.flooding import Detections, Plane
from skyquilt.algorithms.source_detection.noise import in_units_of_noise, noise_at_peaks
from skyquilt.algorithms.source_detection.options import DetectionPassesConfig
from skyquilt.algorithms.source_detection.peaks import detections_from_peaks, merge_peaks
from skyquilt.algorithms.source_detection.point_sources import PsfSampler, guessed_psf
from skyquilt.primitives.psf import FWHM_OF_SIGMA, Psf


def detect_in_passes(
    image: np.ndarray,
    sky_variance: Plane,
    bad: np.ndarray,
    psf: Psf | float,
    config: DetectionPassesConfig,
    *,
    variance: np.ndarray | None = None,
    saturated: np.ndarray | None = None,
    origin: tuple[int, int] = (0, 0),
    negative: bool = False,
) -> Detections:
    """Sources of an image; none is a result, not an error.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Background subtracted, or a difference image [electron].
    sky_variance : ndarray of float32, shape (ny, nx), or function of rows
        Of empty sky [electron^2]. For a difference image its own variance, with the photons of what was subtracted.
    bad : ndarray of bool, shape (ny, nx)
        Pixels that must not be used.
    psf : Psf or float
        Or sigma of the stars [pixel] where there is no PSF yet: close sources are told apart with a guessed one,
        but nothing is subtracted.
    config : DetectionPassesConfig
    variance : ndarray of float32, shape (ny, nx), optional
        With the photons of sources: peaks have to stand out of saddles by the noise that is there.
    saturated : ndarray of bool, shape (ny, nx), optional
        Pixels that stars are not fitted to, and in which nothing is searched once a star is subtracted.
    origin : (int, int)
        (x, y) of the first pixel in the PSF's frame.
    negative : bool
        Find sources that are below the background: those of the image with its sign turned.

    Returns
    -------
    Detections
        Where stars were subtracted, peaks between bright pixels included.
    """
    if image.shape != bad.shape:
        raise ValueError(f"image of shape {image.shape} and bad pixels of shape {bad.shape} differ")
    image = np.ascontiguousarray(-image if negative else image, dtype=np.float32)
    bad = np.ascontiguousarray(bad, dtype=bool)
    matched = MatchedFilter.of(psf, image.shape, origin)
    snr = in_units_of_noise(correlated_image(image, sky_variance, bad, matched), config)
    local = noise_at_peaks(variance, sky_variance, image.shape)
    peaks = peaks_above(snr, config, local)
    fwhm = float(psf) * FWHM_OF_SIGMA if isinstance(psf, float | int) else _fwhm(psf, image.shape, origin)
    also = None
    if config.bright_threshold > 0 and (peaks.snr >= config.bright_threshold).any():
        unusable = bad if saturated is None else bad | saturated
        known = isinstance(psf, Psf)
        model = psf if known else guessed_psf(fwhm)
        sampler = PsfSampler.of(model, image.shape, origin)
        if config.sharpness > 0:
            error = config.model_error if known else config.guessed_psf_error
            peaks = told_apart(
                image,
                sky_variance,
                variance,
                unusable,
                model,
                sampler,
                snr,
                peaks,
                config,
                fwhm,
                origin,
                error,
            )
        for _ in range(config.rounds if known else 0):
            residual = without_stars(image, snr, sky_variance, unusable, sampler, peaks, config)
            also = residual_snr(image, residual, sky_variance, unusable, matched, sampler, config)
            found = whole_peaks(also, peaks_above(also, config, None))
            peaks = merge_peaks(peaks, found, config.merge_radius * fwhm).peaks
    grow = int(np.ceil(config.grow * fwhm)) if config.grow else 0
    return detections_from_peaks(peaks, snr, config.footprint_threshold, grow, also)


def detect_both_signs(*args, **options) -> tuple[Detections, Detections]:
    """`detect_in_passes` for the positive and the negative sources of a difference image."""
    return detect_in_passes(*args, **options), detect_in_passes(*args, **options, negative=True)


def _fwhm(psf: Psf, shape: tuple[int, int], origin: tuple[int, int]) -> float:
    """FWHM at the middle; for a donut, which has no half-maximum circle, that of a disc of its area."""
    x, y = origin[0] + shape[1] // 2, origin[1] + shape[0] // 2
    try:
        return psf.fwhm_at(x, y)
    except ValueError:
        return float(np.sqrt(4 * psf.effective_area_at(x, y) / np.pi))
