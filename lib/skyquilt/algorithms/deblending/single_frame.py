"""Single Frame Deblending (LDM-151 8.5.1, 5.1.1.11): footprints with several peaks become families of sources.

PSFs are fitted to all peaks of blended footprints together; those that they fit are point sources, with the PSF as
their template. The others get symmetric templates of the image without the point sources. What looked extended only
since it lies on an extended neighbour is tried again with that one subtracted. Weights are fitted together, and the
light of each pixel is shared by template.

All is done for all footprints of a detector at once, in lists of the pixels of templates: time and memory grow with
the pixels of the templates, not with the square of the peaks in a footprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skyquilt.algorithms.deblending.apportion import find_degenerate, fit_weights, share
from skyquilt.algorithms.deblending.assembly import assemble, blended_pixels
from skyquilt.algorithms.deblending.deblended import Deblended
from skyquilt.algorithms.deblending.retrial import try_points
from skyquilt.algorithms.deblending.templates import CUT, EDGE, MASKED, Templates, make_templates
from skyquilt.algorithms.source_detection.flooding import Detections, Plane, sample_plane
from skyquilt.algorithms.source_detection.point_sources import (
    PointSourceFits,
    PsfSampler,
    add_stars,
    fit_point_sources,
    guessed_psf,
)
from skyquilt.primitives.psf import FWHM_OF_SIGMA, Psf


@dataclass(frozen=True)
class SingleFrameDeblendingConfig:
    """How the light of blended footprints is shared."""

    point_limit: float = 4.0
    """A peak is a point source when the chi2 of a PSF is within this of its expectation [its own scatter]."""
    psf_error: float = 0.02
    """Share of a star by which the PSF model may be wrong in each pixel."""
    guessed_psf_error: float = 0.15
    """The same, where only a width is known."""
    largest_template: int = 150
    """Most pixels from the peak to which a symmetric template reaches [pixel]; less in crowds, where it reaches three
    times as far as the source's part of the footprint would as a disc, and 2 FWHM."""
    template_floor: float = 0.3
    """Symmetric templates end where they fall below this [sigma of a pixel]."""
    degenerate_limit: float = 0.97
    """Of two templates with a greater cosine between them the fainter is dropped."""
    least_significance: float = 2.0
    """Templates whose fitted weight is below this are dropped [sigma]."""
    turns: int = 20
    """Most turns of the fit of weights."""
    most_peaks: int = 50_000
    """Footprints with more peaks are not deblended."""
    most_pixels: int = 20_000_000
    """Footprints with more pixels are not deblended."""

    def __post_init__(self) -> None:
        if min(self.point_limit, self.psf_error, self.guessed_psf_error, self.least_significance) < 0:
            raise ValueError(f"deblending needs limits that are not negative, got {self}")
        if not (0 < self.degenerate_limit <= 1 and self.template_floor > 0):
            raise ValueError(
                "deblending needs degenerate_limit in 0..1 and template_floor > 0, got "
                f"{self.degenerate_limit}, {self.template_floor}"
            )
        if min(self.largest_template, self.turns, self.most_peaks, self.most_pixels) < 1:
            raise ValueError(f"deblending needs sizes and turns of at least 1, got {self}")


class _Sources(NamedTuple):
    """The sources of blended footprints; `index` are their rows among the detections."""

    index: np.ndarray
    family: np.ndarray
    x: np.ndarray
    y: np.ndarray
    pixel_y: np.ndarray
    pixel_x: np.ndarray


def deblend_sources(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    detections: Detections,
    psf: Psf | float,
    config: SingleFrameDeblendingConfig,
    *,
    sky_variance: Plane | None = None,
    saturated: np.ndarray | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Deblended:
    """Share the light of blended footprints.

    Parameters
    ----------
    image, variance : ndarray of float32, shape (ny, nx)
        Background subtracted [electron], its variance [electron^2].
    bad : ndarray of bool, shape (ny, nx)
        Pixels that must not be used. Their light is shared all the same.
    detections : Detections
    psf : Psf or float
        Or sigma of the stars [pixel] where there is no PSF yet: a Moffat profile is guessed.
    config : SingleFrameDeblendingConfig
    sky_variance : ndarray of float32, shape (ny, nx), or function of rows, optional
        Of empty sky [electron^2]; by default the median of `variance` off the footprints.
    saturated : ndarray of bool, shape (ny, nx), optional
        Pixels that PSFs are not fitted to.
    origin : (int, int)
        (x, y) of the first pixel in the PSF's frame.

    Raises
    ------
    ValueError
        When shapes differ, or the width is not positive.
    """
    shapes = {image.shape, variance.shape, bad.shape, detections.segments.shape}
    if len(shapes) > 1:
        raise ValueError(f"image, variance, bad and segments have different shapes: {sorted(shapes)}")
    image, variance = (np.ascontiguousarray(plane, dtype=np.float32) for plane in (image, variance))
    bad = np.ascontiguousarray(bad, dtype=bool)
    n = len(detections.x)
    guessed = not isinstance(psf, Psf)
    if guessed and not psf > 0:
        raise ValueError(f"deblending needs a PSF or a positive width, got {psf}")
    flags = _no_flags(n)
    flags["not_deblended"] = _too_large(detections, config)
    index = np.flatnonzero(detections.blended & ~flags["not_deblended"])
    names = ("family", "x", "y", "peak_y", "peak_x")
    sources = _Sources(index, *(getattr(detections, name)[index] for name in names))
    pixels = blended_pixels(detections, index)
    if not index.size:
        return assemble(image, detections, pixels, None, None, flags)
    sampler = PsfSampler.of(
        guessed_psf(psf * FWHM_OF_SIGMA) if guessed else psf, image.shape, (0, 0) if guessed else origin
    )
    sky = _sky_at(sky_variance, variance, bad, detections, sources)
    unusable = bad if saturated is None else bad | saturated
    error = config.guessed_psf_error if guessed else config.psf_error
    fits, residual = fit_point_sources(
        image,
        unusable,
        sky,
        sampler,
        detections.x[index],
        detections.y[index],
        0.7 * np.maximum(detections.peak_snr[index], 0) * np.sqrt(sky * sampler.area),
        model_error=error,
        rounds=4,
        farthest=max(0.25 * sampler.fwhm, 0.5),
    )
    point = fits.point_like(config.point_limit)
    templates, weight, kept, fits, point = _fitted(
        image,
        variance,
        bad,
        unusable,
        residual,
        pixels,
        sources,
        fits,
        point,
        sky,
        sampler,
        error,
        config,
        flags,
    )
    slot_image = np.ascontiguousarray(image.reshape(-1)[pixels.flat])
    child = np.empty(templates.slot.size, np.float32)
    stray = np.empty(pixels.flat.size, bool)
    share(templates.start, templates.slot, templates.value, weight, slot_image, child, stray)
    flags["point_source"][index] = point & kept
    flags["dropped"][index] = ~kept
    for name, bit in (("edge", EDGE), ("masked", MASKED), ("template_cut", CUT)):
        flags[name][index] = (templates.flags & bit) > 0
    return assemble(image, detections, pixels, (index, templates, child), (stray, kept), flags)


def _fitted(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    unusable: np.ndarray,
    residual: np.ndarray,
    pixels,
    sources: _Sources,
    fits: PointSourceFits,
    point: np.ndarray,
    sky: np.ndarray,
    sampler: PsfSampler,
    error: float,
    config: SingleFrameDeblendingConfig,
    flags: dict[str, np.ndarray],
) -> tuple[Templates, np.ndarray, np.ndarray, PointSourceFits, np.ndarray]:
    """Templates and their weights, and which sources are kept; extended ones are tried as points once more."""
    slot_image = np.nan_to_num(image.reshape(-1)[pixels.flat], nan=0.0, posinf=0.0, neginf=0.0)
    inverse = _inverse_variance(variance, bad, image, pixels.flat)
    sigma = np.sqrt(np.where(np.isfinite(sky), sky, 0))
    peak_slot = pixels.slots[sources.pixel_y, sources.pixel_x].astype(np.int64)
    extended = ~point
    # the flood's regions share the footprint: templates in proportion to them cost the footprint a few times over
    own = 3.0 * np.sqrt(np.bincount(pixels.owner, minlength=sources.index.max() + 1)[sources.index] / np.pi)
    most = np.minimum(np.ceil(own + 2 * sampler.fwhm), config.largest_template).astype(np.int64)
    add_stars(residual, sampler, fits, extended)
    for last in (False, False, True):
        templates = make_templates(
            residual,
            bad,
            pixels.slots,
            pixels.family,
            sources.family,
            # a PSF fitted to a galaxy with a star on it is drawn towards the star
            np.where(point, fits.x, sources.x),
            np.where(point, fits.y, sources.y),
            fits.flux,
            point,
            sigma,
            sampler,
            fits.reach,
            most,
            config.template_floor,
        )
        degenerate = np.zeros(point.size, bool)
        find_degenerate(
            templates.start,
            templates.slot,
            templates.value,
            peak_slot,
            pixels.flat.size,
            config.degenerate_limit,
            degenerate,
        )
        weight, kept = _weights(templates, slot_image, inverse, ~degenerate, config)
        if last or extended.sum() < 2:
            break
        changed, fits = try_points(
            image,
            unusable,
            pixels,
            templates,
            weight,
            kept & extended,
            fits,
            sky,
            sampler,
            error,
            config.point_limit,
        )
        if not changed.any():
            break
        add_stars(residual, sampler, fits, changed, -1.0)
        point = point | changed
        extended = ~point
    flags["degenerate"][sources.index] = degenerate
    return templates, weight, kept, fits, point


def _weights(
    templates: Templates,
    image: np.ndarray,
    inverse: np.ndarray,
    kept: np.ndarray,
    config: SingleFrameDeblendingConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the templates kept, and those that are significant; the rest gets 0."""
    weight, significance = kept.astype(np.float64), np.zeros(kept.size)
    for _ in range(2):
        fit_weights(
            templates.start,
            templates.slot,
            templates.value,
            image,
            inverse,
            kept,
            config.turns,
            1e-3,
            weight,
            significance,
        )
        junk = kept & ~((significance >= config.least_significance) & (weight > 0))
        if not junk.any():
            break
        kept = kept & ~junk
    return np.where(kept, weight, 0.0), kept


def _no_flags(n: int) -> dict[str, np.ndarray]:
    from skyquilt.algorithms.deblending.deblended import FLAGS

    return {name: np.zeros(n, bool) for name in FLAGS}


def _too_large(detections: Detections, config: SingleFrameDeblendingConfig) -> np.ndarray:
    """Sources of blended footprints with too many peaks or pixels."""
    if not len(detections.x):
        return np.zeros(0, bool)
    peaks = np.bincount(detections.family)
    area = np.bincount(detections.family, weights=detections.area)
    large = (peaks > config.most_peaks) | (area > config.most_pixels)
    return large[detections.family] & detections.blended


def _inverse_variance(
    variance: np.ndarray, bad: np.ndarray, image: np.ndarray, flat: np.ndarray
) -> np.ndarray:
    """1 / variance of pixels, 0 where they must not count; float32."""
    values = variance.reshape(-1)[flat]
    usable = ~bad.reshape(-1)[flat] & (values > 0) & np.isfinite(image.reshape(-1)[flat])
    inverse = np.zeros(flat.size, np.float32)
    np.divide(np.float32(1), values, out=inverse, where=usable)
    return inverse


def _sky_at(
    sky_variance: Plane | None,
    variance: np.ndarray,
    bad: np.ndarray,
    detections: Detections,
    sources: _Sources,
) -> np.ndarray:
    """Variance of the sky at the sources; where none is known the median of all, 1 without any."""
    if sky_variance is None:
        step = max(1, int(np.sqrt(variance.size / 1_000_000)))
        thin = (slice(None, None, step), slice(None, None, step))
        empty = (detections.segments[thin] == 0) & ~bad[thin] & (variance[thin] > 0)
        values = variance[thin][empty]
        if not values.size:
            values = variance[(variance > 0) & ~bad]
        sky = np.full(sources.index.size, np.median(values) if values.size else 1.0, dtype=np.float64)
    else:
        sky = sample_plane(sky_variance, sources.pixel_y, sources.pixel_x, variance.shape[0])
    known = np.isfinite(sky) & (sky > 0)
    return np.where(known, sky, np.median(sky[known]) if known.any() else 1.0)
