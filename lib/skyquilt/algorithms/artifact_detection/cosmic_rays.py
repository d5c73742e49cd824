"""Single-Exposure Morphology (LDM-151 8.2.1): cosmic rays in one image.

Charge that a particle leaves in the silicon is sharper than any light that came through the optics.
`find_cosmic_rays`

1. takes the sky's level and noise from low percentiles of blocks,
2. takes the sharpest profile of a point source from the caller (a PSF, a width) or from the image's own stars,
3. keeps the few pixels that stand out of the noise and of a pair of opposite neighbours,
4. tries shapes of hits there with filters that no scene of stars and galaxies excites (`sharpness`),
5. follows what it found into fainter pixels, leaving pixels already found out of the comparison, so that fat and
   long tracks, and tracks across stars and galaxies, come out whole.

It needs no PSF model (first pass of 5.1.1) and uses one if it is there (5.1.1.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from skyquilt.algorithms.artifact_detection import cosmic_ray_growth as growth
from skyquilt.algorithms.artifact_detection import cosmic_ray_kernels as kernels
from skyquilt.algorithms.artifact_detection.sharpness import LEAST_FWHM, filters_for
from skyquilt.algorithms.artifact_detection.star_widths import fwhm_of_psf, sharpest_profile
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.psf import Psf


@dataclass(frozen=True)
class CosmicRayConfig:
    """Thresholds of the search for cosmic rays."""

    sharper: float = 3.8
    """Least response of a filter that is blind to light [sigma]."""
    weak: float = 2.6
    """Least response of a filter that counts in a chain of responses [sigma]."""
    together: float = 4.8
    """Least significance of a chain: sum of n independent responses over sqrt(n) [sigma]."""
    stronger: float = 4.6
    """Least charge in the shape of a hit, for a single pixel [sigma]; more pixels need up to 1.5 times as much."""
    grow: float = 2.2
    """Least excess of a pixel next to a hit [sigma]."""
    grow_gap: float = 4.0
    """Least excess of a pixel two pixels from a hit, and next to it in the light of a source [sigma]."""
    model_error: float = 0.02
    """Error of the light expected in a pixel, as a share of it."""
    width_margin: float = 0.02
    """Point sources may be so much sharper than the width given or measured, as a share of it."""
    unknown_fwhm: float = 2.1
    """Sharpest point source where there is neither a PSF nor stars to measure [pixel]."""
    block: int = 64
    """Side of the blocks for sky level and noise [pixel]."""
    max_pixels: float = 0.02
    """With a larger share of the pixels hit the image is not what this search is for."""

    def __post_init__(self) -> None:
        for name in ("sharper", "weak", "together", "stronger", "grow", "grow_gap"):
            if getattr(self, name) <= 0:
                raise ValueError(f"cosmic rays need a positive {name}, got {getattr(self, name)}")
        if self.grow > self.grow_gap:
            raise ValueError(f"cosmic rays need grow <= grow_gap, got {self.grow} and {self.grow_gap}")
        if self.model_error < 0 or not 0 <= self.width_margin < 0.5:
            raise ValueError(
                "cosmic rays need model_error >= 0 and width_margin in 0..0.5, got "
                f"{self.model_error} and {self.width_margin}"
            )
        if self.unknown_fwhm < LEAST_FWHM or self.block < 16 or not 0 < self.max_pixels <= 1:
            raise ValueError(
                f"cosmic rays need unknown_fwhm >= {LEAST_FWHM}, block >= 16 and max_pixels in 0..1, got "
                f"{self.unknown_fwhm}, {self.block} and {self.max_pixels}"
            )


@dataclass(frozen=True)
class CosmicRays:
    """Hits, in ascending order of their first pixel; none is a result, not an error.

    Parameters
    ----------
    pixels : ndarray of bool, shape (ny, nx)
        Hit pixels.
    x, y : ndarray of float64, shape (n,)
        Barycentre of an event's charge [pixel].
    n_pixels : ndarray of int64, shape (n,)
    peak, flux : ndarray of float64, shape (n,)
        Charge in the brightest pixel and in all pixels, above the mean of neighbours that are not hit
        [unit of the image].
    pixel_index : ndarray of int64, shape (m,)
        Flat indices of the hit pixels, ascending.
    pixel_event : ndarray of int32, shape (m,)
        Number of the event of each of them, from 0.
    fwhm : float
        Sharpest point source that the search allowed [pixel].
    n_stars : int
        Stars that it was measured from; 0 where it was given or assumed.
    """

    pixels: np.ndarray
    x: np.ndarray
    y: np.ndarray
    n_pixels: np.ndarray
    peak: np.ndarray
    flux: np.ndarray
    pixel_index: np.ndarray
    pixel_event: np.ndarray
    fwhm: float
    n_stars: int


def find_cosmic_rays(
    image: np.ndarray,
    unusable: np.ndarray,
    variance: np.ndarray,
    config: CosmicRayConfig,
    psf: Psf | None = None,
    fwhm: float | None = None,
    defects: np.ndarray | None = None,
) -> CosmicRays:
    """Find cosmic rays in one image, background subtracted or not.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Any unit; NaN only where unusable.
    unusable : ndarray of bool, shape (ny, nx)
        Pixels that must not be used: bad, saturated, bled into, without data. Not changed.
    variance : ndarray of float32, shape (ny, nx) [unit^2]
    config : CosmicRayConfig
    psf : Psf, optional
        Its narrowest width over the image is used; pixel (0, 0) of the image is that of its frame.
    fwhm : float, optional
        Width of the sharpest point sources, pixel response included [pixel]; ignored with a `psf`. Without both
        it is measured (`star_widths.sharpest_profile`).
    defects : ndarray of bool, shape (ny, nx), optional
        Unusable pixels that are not saturated. Next to them hits are looked for; next to other unusable pixels
        they are not, for bled charge is as sharp.

    Raises
    ------
    ProcessingFailure
        NO_GOOD_PIXELS when no block has enough usable pixels for a sky level.
    ValueError
        When shapes differ.
    """
    if (
        not image.shape
        == unusable.shape
        == variance.shape
        == (unusable if defects is None else defects).shape
    ):
        raise ValueError(
            f"image {image.shape}, mask {unusable.shape} and variance {variance.shape} must have one shape"
        )
    level, floor = sky_of(image, unusable, variance, config.block)
    planes = (image, variance, unusable)
    sky = (level, floor, config.block)
    sharpest, n_stars = _sharpest(planes, sky, config, psf, fwhm)
    filters = filters_for(max(sharpest * (1 - config.width_margin), LEAST_FWHM))
    hit = np.zeros(image.shape, np.uint8)
    places = _candidates(planes, sky, min(config.sharper, 3.2), filters.pair_factors)
    _judge(planes, sky, places, filters, config, hit)
    full = unusable if defects is None else unusable & ~defects
    limits = (filters.pair_factors, config.sharper, config.stronger, config.model_error)
    growth.judge_incomplete(*planes, *sky, places, *limits, full, hit)
    seeds = np.flatnonzero(hit.view(bool))
    queue = np.empty(seeds.size + int(config.max_pixels * image.size) + 1, np.int64)
    queue[: seeds.size] = seeds
    n = growth.grow(
        *planes,
        *sky,
        filters.pair_factors,
        config.grow,
        config.grow_gap,
        config.model_error,
        hit,
        queue,
        seeds.size,
    )
    return _events(planes, sky, hit, np.sort(queue[:n]), filters.fwhm, n_stars)


def sky_of(
    image: np.ndarray, unusable: np.ndarray, variance: np.ndarray, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Level and variance of the sky on a grid of blocks; float64, shape (m, n).

    The variance is the plane's own, corrected by one factor for the image so that it is the scatter seen.

    Raises
    ------
    ProcessingFailure
        NO_GOOD_PIXELS.
    """
    shape = tuple(-(-size // block) for size in image.shape)
    level, width, floor = (np.empty(shape) for _ in range(3))
    kernels.sky_blocks(image, variance, unusable, block, 3, level, width, floor)
    good = np.isfinite(level)
    if not good.any():
        raise ProcessingFailure(
            Reason.NO_GOOD_PIXELS, f"no block of {block} pixels has 32 usable pixels in a sample of a ninth"
        )
    ratio = float(np.median(width[good] ** 2 / floor[good]))
    floor *= min(max(ratio, 0.8), 1.5)
    return _filled(level, good), _filled(floor, good)


def _filled(grid: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Empty blocks get the nearest value; a block unlike those around it (a large source) their median."""
    if not good.all():
        nearest = ndimage.distance_transform_edt(~good, return_distances=False, return_indices=True)
        grid = grid[tuple(nearest)]
    return np.ascontiguousarray(ndimage.median_filter(grid, size=3, mode="nearest"))


def _sharpest(planes, sky, config, psf, fwhm) -> tuple[float, int]:
    """Width of the sharpest point sources, and the stars that it was measured from."""
    if psf is not None:
        return fwhm_of_psf(psf, planes[0].shape), 0
    if fwhm is not None:
        return float(fwhm), 0
    profile = sharpest_profile(*planes, *sky, LEAST_FWHM)
    if profile is None:
        return config.unknown_fwhm, 0
    return profile.fwhm, profile.n_stars


def _candidates(planes, sky, threshold: float, factors: np.ndarray) -> np.ndarray:
    """Flat indices of the pixels worth a closer look."""
    found = np.empty(planes[0].size // 64 + 1024, np.int64)
    n = kernels.candidates(*planes, *sky, threshold, factors, found)
    if n > found.size:
        found = np.empty(n, np.int64)
        kernels.candidates(*planes, *sky, threshold, factors, found)
    return found[:n]


def _judge(planes, sky, places, filters, config, hit) -> None:
    """Mark what single shapes show, and chains of them."""
    response, amplitude, shape = (np.empty(places.size, kind) for kind in (float, float, np.int64))
    kernels.judge(
        *planes,
        *sky,
        places,
        filters.shapes,
        filters.weights,
        config.sharper,
        config.weak,
        config.stronger,
        config.model_error,
        filters.flank,
        hit,
        response,
        shape,
        amplitude,
    )
    some = np.flatnonzero((shape >= 0) & (response <= config.sharper))
    scratch = np.empty(some.size, np.int64)
    weak = (places[some], response[some], shape[some], amplitude[some])
    kernels.link_weak(*planes, *sky, *weak, filters.shapes, config.together, scratch, hit)


def _events(planes, sky, hit, pixels, fwhm: float, n_stars: int) -> CosmicRays:
    event = np.full(pixels.size, -1, np.int32)
    sums = np.zeros((pixels.size, 6))
    n = growth.gather_events(*planes, *sky, hit, pixels, event, np.empty_like(pixels), sums)
    sums = sums[:n]
    positive = np.maximum(sums[:, 5], np.finfo(float).tiny)
    return CosmicRays(
        hit.view(bool),
        sums[:, 1] / positive,
        sums[:, 2] / positive,
        sums[:, 4].astype(np.int64),
        sums[:, 3].copy(),
        sums[:, 0].copy(),
        pixels,
        event,
        fwhm,
        n_stars,
    )
