"""Companions of bright sources (LDM-151 8.4): what a sharper kernel, and the image without the stars, show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from skyquilt.algorithms.source_detection.correlation import BLOCK, MatchedFilter, correlated_image
from skyquilt.algorithms.source_detection.flooding import Plane, plane_rows, sample_plane
from skyquilt.algorithms.source_detection.noise import in_units_of_noise, noise_at_peaks
from skyquilt.algorithms.source_detection.options import DetectionPassesConfig
from skyquilt.algorithms.source_detection.peaks import Peaks, find_peaks, merge_peaks
from skyquilt.algorithms.source_detection.point_source_kernels import add_stamp
from skyquilt.algorithms.source_detection.point_sources import (
    PointSourceFits,
    PsfSampler,
    fit_point_sources,
)
from skyquilt.primitives.psf import Psf


def peaks_above(snr: np.ndarray, config: DetectionPassesConfig, noise: Callable | None) -> Peaks:
    # a star between four pixels of a narrow PSF loses up to 15 % of its height, which the parabolas give back
    floor = 0.8 * config.threshold
    return find_peaks(snr, config.threshold, config.significance, config.contrast, floor, noise)


def told_apart(
    image: np.ndarray,
    sky_variance: Plane,
    variance: np.ndarray | None,
    unusable: np.ndarray,
    psf: Psf,
    sampler: PsfSampler,
    snr: np.ndarray,
    peaks: Peaks,
    config: DetectionPassesConfig,
    fwhm: float,
    origin: tuple[int, int],
    model_error: float,
) -> Peaks:
    """Peaks in which what the sharp kernel tells apart stands for what the best kernel blends.

    Only about bright sources that a PSF does not fit, and away from pixels that cannot be used: a kernel with both
    signs makes peaks of holes.
    """
    matched = MatchedFilter.of(psf, image.shape, origin, config.sharpness)
    bright = peaks.chosen(peaks.snr >= config.bright_threshold)
    fits, _ = fit_stars(image, snr, sky_variance, unusable, sampler, bright, model_error)
    odd = bright.chosen(~fits.point_like())
    where = np.zeros((-(-image.shape[0] // BLOCK), -(-image.shape[1] // BLOCK)), bool)
    reach = int(np.ceil(3 * fwhm))
    for dy in (-reach, 0, reach):
        for dx in (-reach, 0, reach):
            v = np.clip(odd.pixel_y + dy, 0, image.shape[0] - 1) // BLOCK
            where[v, np.clip(odd.pixel_x + dx, 0, image.shape[1] - 1) // BLOCK] = True
    if not where.any():
        return peaks
    sharp = correlated_image(image, sky_variance, unusable, matched, where)
    local = noise_at_peaks(variance, sky_variance, image.shape)
    found = whole_peaks(sharp, peaks_above(sharp, config, local))
    height = snr[found.pixel_y, found.pixel_x].astype(np.float64)
    hole = near_unusable(unusable, found.pixel_y, found.pixel_x, int(np.ceil(0.5 * fwhm)))
    outshone = _outshone(found, 3.0 * fwhm, 0.1)
    found = replace(found, snr=height).chosen((height >= config.bright_threshold) & ~hole & ~outshone)
    return merge_peaks(found, peaks, 0.6 * fwhm).peaks


def whole_peaks(snr: np.ndarray, peaks: Peaks) -> Peaks:
    """Peaks without a neighbour that is 0: flanks that the edge of a wanted block cuts look like peaks."""
    whole = np.ones(len(peaks), bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            v = np.clip(peaks.pixel_y + dy, 0, snr.shape[0] - 1)
            whole &= snr[v, np.clip(peaks.pixel_x + dx, 0, snr.shape[1] - 1)] != 0
    return peaks.chosen(whole)


def _outshone(peaks: Peaks, radius: float, share: float) -> np.ndarray:
    """Peaks below a share of one within a radius [pixel]: the sharp kernel rings, and later passes find those."""
    outshone = np.zeros(len(peaks), bool)
    if len(peaks) > 1:
        pairs = cKDTree(np.column_stack([peaks.x, peaks.y])).query_pairs(radius, output_type="ndarray")
        for one, other in (pairs.T, pairs.T[::-1]):
            outshone[one[peaks.snr[one] < share * peaks.snr[other]]] = True
    return outshone


def near_unusable(unusable: np.ndarray, y: np.ndarray, x: np.ndarray, reach: int) -> np.ndarray:
    """Whether a pixel within a square of `reach` pixels about each place is unusable; bool, shape (n,)."""
    near = np.zeros(y.size, bool)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            v = np.clip(y + dy, 0, unusable.shape[0] - 1)
            u = np.clip(x + dx, 0, unusable.shape[1] - 1)
            near |= unusable[v, u]
    return near


def fit_stars(
    image: np.ndarray,
    snr: np.ndarray,
    sky_variance: Plane,
    unusable: np.ndarray,
    sampler: PsfSampler,
    peaks: Peaks,
    model_error: float,
) -> tuple[PointSourceFits, np.ndarray]:
    """`fit_point_sources` from peaks of a detection image, which say what the fluxes are about."""
    sky = sample_plane(sky_variance, peaks.pixel_y, peaks.pixel_x, image.shape[0])
    # the peak of a blend is of both: what is too much goes in the first turn
    flux = 0.8 * np.maximum(snr[peaks.pixel_y, peaks.pixel_x], 0) * np.sqrt(np.maximum(sky, 0) * sampler.area)
    return fit_point_sources(
        image,
        unusable,
        sky,
        sampler,
        peaks.x,
        peaks.y,
        flux,
        model_error=model_error,
        rounds=3,
        farthest=0.25 * sampler.fwhm,
    )


def without_stars(
    image: np.ndarray,
    snr: np.ndarray,
    sky_variance: Plane,
    unusable: np.ndarray,
    sampler: PsfSampler,
    peaks: Peaks,
    config: DetectionPassesConfig,
) -> np.ndarray:
    """The image without the bright peaks that fit a PSF, or that a PSF brings nearer to the sky; float32.

    A star with a companion does not fit a PSF, and is subtracted: what the PSF leaves of it has to be less than a
    tenth of its light. A galaxy leaves more, and stays.
    """
    bright = peaks.chosen(peaks.snr >= config.bright_threshold)
    fits, residual = fit_stars(image, snr, sky_variance, unusable, sampler, bright, config.model_error)
    misfit = _misfit(residual, unusable, fits, sampler)
    extended = ~fits.point_like() & ~(misfit < 0.1)
    for k in np.flatnonzero(extended):
        stamp = sampler.stamp(fits.x[k], fits.y[k], int(fits.reach[k]))
        _add(residual, stamp, fits.x[k], fits.y[k], fits.flux[k])
    return residual


def _misfit(
    residual: np.ndarray, unusable: np.ndarray, fits: PointSourceFits, sampler: PsfSampler
) -> np.ndarray:
    """Light that stars leave between 0.5 and 2 FWHM of them, as a share of their flux; shape (n,)."""
    share = np.full(len(fits.x), np.inf)
    reach = int(np.ceil(2 * sampler.fwhm))
    for k, (x, y, flux) in enumerate(zip(fits.x, fits.y, fits.flux)):
        row, column = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
        rows = slice(max(row - reach, 0), row + reach + 1)
        columns = slice(max(column - reach, 0), column + reach + 1)
        v, u = np.ogrid[
            rows.start : min(rows.stop, residual.shape[0]),
            columns.start : min(columns.stop, residual.shape[1]),
        ]
        ring = ((v - y) ** 2 + (u - x) ** 2 < (2 * sampler.fwhm) ** 2) & ~unusable[rows, columns]
        if flux > 0 and ring.any():
            share[k] = abs(float(residual[rows, columns][ring].sum(dtype=np.float64))) / flux
    return share


def _add(image: np.ndarray, stamp: np.ndarray, x: float, y: float, flux: float) -> None:
    add_stamp(image, stamp, int(np.floor(y + 0.5)), int(np.floor(x + 0.5)), float(flux))


def residual_snr(
    image: np.ndarray,
    residual: np.ndarray,
    sky_variance: Plane,
    unusable: np.ndarray,
    matched: MatchedFilter,
    sampler: PsfSampler,
    config: DetectionPassesConfig,
) -> np.ndarray:
    """Detection image of what stars leave, in the noise of sky, stars' photons and model error.

    Only in blocks that had light of a star: in the others nothing is new.
    """
    coherent = np.float32(config.model_error**2 * sampler.area)

    def variance(rows: slice) -> np.ndarray:
        model = np.maximum(np.nan_to_num(image[rows] - residual[rows]), np.float32(0))
        return plane_rows(sky_variance, rows) + model + coherent * model * model

    where = _changed_blocks(image, residual, sky_variance)
    # the middle of a bright star has little weight, yet is no hole
    return in_units_of_noise(correlated_image(residual, variance, unusable, matched, where, 1e-9), config)


def _changed_blocks(image: np.ndarray, residual: np.ndarray, sky_variance: Plane) -> np.ndarray:
    """Blocks of 64 x 64 pixels in which more than half of the sky's noise was subtracted from a pixel."""
    ny, nx = image.shape
    where = np.zeros((-(-ny // BLOCK), -(-nx // BLOCK)), bool)
    for j in range(where.shape[0]):
        rows = slice(j * BLOCK, min((j + 1) * BLOCK, ny))
        sky = plane_rows(sky_variance, rows)
        with np.errstate(invalid="ignore"):
            typical = np.sqrt(np.nanmedian(np.where(sky[::4, ::16] > 0, sky[::4, ::16], np.nan)))
            changed = ((image[rows] - residual[rows]) > 0.5 * typical).any(axis=0)
        where[j] = np.logical_or.reduceat(changed, np.arange(0, nx, BLOCK))
    return where
