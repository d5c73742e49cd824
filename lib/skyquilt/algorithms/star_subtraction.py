"""SubtractStars and ReinsertStars (LDM-151 5.1.1.18, 5.1.1.19): bright stars out of an image and back.

In crowded fields background and faint sources are found better without the bright stars. What is subtracted is kept
pixel by pixel as float32 numbers, with the bits of the pixels that a sum would not restore: an image that nothing
else changed comes back to the last bit. Where something did change (a new background), reinserting adds the same
numbers, and each pixel is the true sum to half a float32 spacing of the image without stars and half a spacing of
the one with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.source_detection import Detections, Peaks, merge_peaks
from skyquilt.algorithms.source_detection.flooding import find_root
from skyquilt.algorithms.source_detection.point_source_kernels import add_models
from skyquilt.algorithms.source_detection.point_sources import PsfSampler
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.psf import Psf


@dataclass(frozen=True)
class SubtractedStars:
    """Stars taken out of an image.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Without the stars [electron].
    star : ndarray of int64, shape (n_star,)
        Rows of the sources that were subtracted.
    pixel, model : ndarray of int64 and float32, shape (m,)
        Flat index, ascending, and what was subtracted there.
    inexact, without, with_stars : ndarray of int64, float32 and float32, shape (k,)
        Pixels whose sum would differ, as they were left and as they had been.
    """

    image: np.ndarray
    star: np.ndarray
    pixel: np.ndarray
    model: np.ndarray
    inexact: np.ndarray
    without: np.ndarray
    with_stars: np.ndarray

    def reinserted(self, image: np.ndarray | None = None) -> np.ndarray:
        """ReinsertStars: an image (by default the one without stars) with the stars again; float32.

        Raises
        ------
        ValueError
            For an image of another shape.
        """
        image = self.image if image is None else image
        if image.shape != self.image.shape:
            raise ValueError(f"the stars are of an image of {self.image.shape}, not of {image.shape}")
        restored = np.array(image, dtype=np.float32)
        flat = restored.reshape(-1)
        same = _bits(flat[self.inexact]) == _bits(self.without)
        flat[self.pixel] += self.model
        flat[self.inexact[same]] = self.with_stars[same]
        return restored


def subtract_stars(
    image: np.ndarray,
    psf: Psf,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    extended: np.ndarray,
    flux_limit: float,
    *,
    noise: float = 0.0,
    origin: tuple[int, int] = (0, 0),
) -> SubtractedStars:
    """Subtract all stars above a flux limit.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx) [electron]
    psf : Psf
        Drawn by `PsfSampler`: within 2e-5 of each star's peak of the model where that does not vary.
    x, y : ndarray of float64, shape (n,) [pixel of the image]
    flux : ndarray of float64, shape (n,) [electron]
    extended : ndarray of bool, shape (n,)
        These are never subtracted.
    flux_limit : float
        Stars above it are subtracted [electron].
    noise : float
        Stars are drawn out to where they fall to 1 % of it [electron]; 0 for the whole stamp.
    origin : (int, int)
        (x, y) of the first pixel in the PSF's frame.

    Returns
    -------
    SubtractedStars
        A source without a finite place and flux is left alone.
    """
    x, y, flux = (np.asarray(v, dtype=np.float64) for v in (x, y, flux))
    with np.errstate(invalid="ignore"):
        chosen = (flux > flux_limit) & (flux > 0) & ~np.asarray(extended, bool)
    chosen &= np.isfinite(x) & np.isfinite(y) & np.isfinite(flux)
    star = np.flatnonzero(chosen)
    image = np.array(image, dtype=np.float32)
    plane = np.zeros(image.shape, np.float32)
    if star.size:
        sampler = PsfSampler.of(psf, image.shape, origin)
        reach = sampler.reach(flux[star], 0.01 * noise, least=int(np.ceil(2 * sampler.fwhm)))
        tables = (sampler.tables, sampler.y_nodes, sampler.x_nodes)
        # sums in float32 depend on their order: brightest first, of equals by place, whatever the order given
        order = np.lexsort((x[star], y[star], -flux[star]))
        add_models(plane, *tables, x[star][order], y[star][order], flux[star][order], reach[order])
    pixel = np.flatnonzero(plane)
    model = plane.reshape(-1)[pixel]
    del plane
    before = image.reshape(-1)[pixel]
    after = before - model
    inexact = _bits(after + model) != _bits(before)
    image.reshape(-1)[pixel] = after
    return SubtractedStars(image, star, pixel, model, pixel[inexact], after[inexact], before[inexact])


def _bits(values: np.ndarray) -> np.ndarray:
    """The bits of float32 numbers, so that NaN equals itself and 0 is not -0."""
    return np.ascontiguousarray(values, dtype=np.float32).view(np.int32)


def merge_detections(
    first: Detections, later: Detections, radius: float, kept: np.ndarray | None = None
) -> Detections:
    """Footprints and peaks of stars that were subtracted, with those found without them (5.1.1.19).

    Parameters
    ----------
    first : Detections
        Found with the stars in the image.
    later : Detections
        Found without them, on the same pixels.
    radius : float
        A later peak within this of an earlier one is the same source; the earlier one stays [pixel].
    kept : ndarray of bool, shape (n,), optional
        Which of the first to keep: those that were subtracted; by default all.

    Returns
    -------
    Detections
        Pixels that both have go to the later source, peaks' own pixels to their sources; footprints that overlap or
        touch are one.
    """
    if first.segments.shape != later.segments.shape:
        raise ValueError(f"detections on {first.segments.shape} and {later.segments.shape} pixels")
    kept = np.ones(len(first.x), bool) if kept is None else np.asarray(kept, bool)
    one, two = _peaks(first).chosen(kept), _peaks(later)
    merged = merge_peaks(one, two, radius).peaks
    pixel = merged.pixel_y * first.segments.shape[1] + merged.pixel_x
    number = np.argsort(pixel, kind="stable")
    region = np.zeros(first.segments.shape, np.int32)
    # a later source that is an earlier one gives its pixels to that
    labels_first = np.zeros(len(first.x) + 1, np.int32)
    labels_first[np.flatnonzero(kept) + 1] = _rows_of(pixel, number, one, region.shape[1]) + 1
    labels_later = np.zeros(len(later.x) + 1, np.int32)
    labels_later[1:] = _rows_of(pixel, number, two, region.shape[1]) + 1
    lost = np.flatnonzero(labels_later[1:] == 0)
    if lost.size:
        from scipy.spatial import cKDTree

        _, near = cKDTree(np.column_stack([merged.x, merged.y])).query(
            np.column_stack([later.x[lost], later.y[lost]])
        )
        labels_later[lost + 1] = near + 1
    np.copyto(region, labels_later[later.segments])
    earlier = labels_first[first.segments]
    family = np.arange(len(merged) + 1, dtype=np.int64)
    join_families(region, earlier, family)
    np.copyto(region, earlier, where=region == 0)
    del earlier
    region.reshape(-1)[pixel] = np.arange(1, len(merged) + 1, dtype=np.int32)
    join_touching(region, family)
    root = np.array([find_root(family, k) for k in range(1, len(merged) + 1)], dtype=np.int64)
    _, members, sizes = np.unique(root, return_inverse=True, return_counts=True)
    return Detections(
        merged.x,
        merged.y,
        merged.pixel_x,
        merged.pixel_y,
        merged.snr,
        np.bincount(region.reshape(-1), minlength=len(merged) + 1)[1:].astype(np.int64),
        members.astype(np.int64),
        sizes[members] > 1 if len(merged) else np.zeros(0, bool),
        region,
    )


def _peaks(detections: Detections) -> Peaks:
    return Peaks(detections.x, detections.y, detections.peak_x, detections.peak_y, detections.peak_snr)


def _rows_of(pixel: np.ndarray, order: np.ndarray, peaks: Peaks, width: int) -> np.ndarray:
    """Rows of the merged peaks on the pixels of given ones, -1 for those that were left out; int64, shape (n,)."""
    wanted = peaks.pixel_y * width + peaks.pixel_x
    if not pixel.size:
        return np.full(wanted.size, -1)
    at = np.searchsorted(pixel[order], wanted).clip(max=pixel.size - 1)
    return np.where(pixel[order][at] == wanted, order[at], -1)


@kernel("void(const(int32[:, ::1]), const(int32[:, ::1]), int64[:])")
def join_families(one, other, family):
    """Labels that lie on one another are of one family."""
    for j in range(one.shape[0]):
        for i in range(one.shape[1]):
            if one[j, i] > 0 and other[j, i] > 0 and one[j, i] != other[j, i]:
                a = find_root(family, np.int64(one[j, i]))
                b = find_root(family, np.int64(other[j, i]))
                family[max(a, b)] = min(a, b)


@kernel("void(const(int32[:, ::1]), int64[:])")
def join_touching(region, family):
    """Labels on neighbouring pixels, at corners too, are of one family."""
    ny, nx = region.shape
    for j in range(ny):
        for i in range(nx):
            here = region[j, i]
            if here <= 0:
                continue
            for step in range(4):
                v = j if step == 0 else j + 1
                u = i + 1 if step == 0 else i + step - 2
                if v >= ny or u < 0 or u >= nx or region[v, u] <= 0 or region[v, u] == here:
                    continue
                a, b = find_root(family, np.int64(here)), find_root(family, np.int64(region[v, u]))
                family[max(a, b)] = min(a, b)
