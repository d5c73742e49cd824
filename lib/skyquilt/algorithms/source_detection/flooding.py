"""Peaks and footprints (LDM-151 8.4) of a PSF-correlated image, and a first deblending (8.5.1) by flooding.

The detection image is the signal to noise of a point source at each pixel, against the noise of the sky::

    s = G * (w d) / sqrt(G^2 * w),    w = 1 / sky variance, 0 for pixels that must not be used

with G a Gaussian of the PSF's width and * a convolution. The sky's variance, without the photons of the
sources, keeps s proportional to the light.

Footprints are 8-connected pixels above the threshold. They are taken apart by flooding from the highest pixel
down: a peak that meets a higher one at a saddle stays a source of its own when it stands out of the saddle by
`deblend_significance` times the local noise of s (with the photons of the sources) and by `deblend_contrast`
of its height; else it joins the higher one. The cost is a sort of the pixels above the threshold, however
crowded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from skyquilt.primitives.compiled import kernel

Plane = np.ndarray | Callable[[slice], np.ndarray]
"""Float32 pixels of shape (ny, nx), or a function that makes those of some rows when they are needed."""

_ROWS = 128
_TRUNCATE = 4.0


@dataclass(frozen=True)
class SourceDetectionConfig:
    """Threshold and deblending."""

    threshold: float = 5.0
    """Least signal to noise of a peak in the PSF-correlated image."""
    min_area: int = 1
    """Least number of connected pixels above the threshold [pixel]."""
    deblend_significance: float = 4.0
    """Least height of a peak above the saddle to a higher one [sigma of the detection image at the peak]."""
    deblend_contrast: float = 0.03
    """Least height of a peak above that saddle, as a share of the peak's height; 1 takes nothing apart."""
    first_fwhm: float = 4.0
    """FWHM of the kernel before the seeing is known [pixel]."""
    mask_threshold: float = 4.0
    """Pixels above this signal to noise do not count for the background; at 3 so many peaks of mere noise go
    that a sky of 150 electrons is found 0.1 too low."""
    mask_grow: int = 4
    """Footprints are grown by this for the background [pixel]."""

    def __post_init__(self) -> None:
        if self.threshold <= 0 or self.mask_threshold <= 0 or self.first_fwhm <= 0:
            raise ValueError(
                "source detection needs positive threshold, mask_threshold and first_fwhm, got "
                f"{self.threshold}, {self.mask_threshold}, {self.first_fwhm}"
            )
        if self.min_area < 1 or self.deblend_significance < 0 or self.mask_grow < 0:
            raise ValueError(
                "source detection needs min_area >= 1, deblend_significance >= 0 and mask_grow >= 0, got "
                f"{self.min_area}, {self.deblend_significance}, {self.mask_grow}"
            )
        if not 0 <= self.deblend_contrast <= 1:
            raise ValueError(f"deblend_contrast must be in 0..1, got {self.deblend_contrast}")


@dataclass(frozen=True)
class Detections:
    """Peaks in ascending (y, x) of the peak's pixel, and the footprints.

    Parameters
    ----------
    x, y : ndarray of float64, shape (n,)
        Barycentre of the detection image in the footprint [pixel].
    peak_x, peak_y : ndarray of int64, shape (n,)
        Pixel of the greatest signal to noise.
    peak_snr : ndarray of float64, shape (n,)
        Signal to noise there.
    area : ndarray of int64, shape (n,)
        Pixels of the source's part of the footprint.
    family : ndarray of int64, shape (n,)
        Number of the footprint, from 0: sources of one footprint share it.
    blended : ndarray of bool, shape (n,)
        Taken out of a footprint with several sources.
    segments : ndarray of int32, shape (ny, nx)
        Number of the source (from 1, in the order above) that owns a pixel, 0 for none.
    """

    x: np.ndarray
    y: np.ndarray
    peak_x: np.ndarray
    peak_y: np.ndarray
    peak_snr: np.ndarray
    area: np.ndarray
    family: np.ndarray
    blended: np.ndarray
    segments: np.ndarray


def detection_image(image: Plane, sky_variance: Plane, bad: np.ndarray, sigma: float) -> np.ndarray:
    """Signal to noise of a point source of width `sigma` [pixel] at each pixel.

    It is made some rows at a time, so that nothing but the result is as large as the image.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx), or function of rows
        Background subtracted.
    sky_variance : ndarray of float32, shape (ny, nx), or function of rows
        Variance of empty sky.
    bad : ndarray of bool, shape (ny, nx)
        Pixels that must not be used.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        0 where less than a tenth of the kernel's weight lies on usable pixels.
    """
    snr = np.empty(bad.shape, dtype=np.float32)
    typical = _typical_weight(sky_variance, bad, snr)
    reach = int(_TRUNCATE * sigma + 0.5)
    # the filter normalises kernels to 1: G = 2 pi s^2 g_s, G^2 = pi s^2 g_{s / sqrt 2}
    factor = np.float32(2.0 * np.sqrt(np.pi) * sigma)
    for rows, around, inside in _strips(bad.shape[0], reach):
        weight = _weight(sky_variance, bad, around)
        signal = np.where(bad[around], np.float32(0), plane_rows(image, around)) * weight
        top = _blurred(signal, sigma)[inside]
        bottom = _blurred(weight, sigma / np.sqrt(2.0))[inside]
        usable = bottom > 0.1 * typical
        np.sqrt(bottom, out=bottom, where=usable)
        snr[rows] = 0
        np.divide(factor * top, bottom, out=snr[rows], where=usable)
    return snr


def _strips(n_rows: int, reach: int) -> Iterator[tuple[slice, slice, slice]]:
    """Rows of an image a few at a time, the same with `reach` rows around, and where they are in those."""
    for start in range(0, n_rows, _ROWS):
        stop = min(start + _ROWS, n_rows)
        first = max(start - reach, 0)
        yield (
            slice(start, stop),
            slice(first, min(stop + reach, n_rows)),
            slice(start - first, stop - first),
        )


def plane_rows(plane: Plane, rows: slice) -> np.ndarray:
    """Some rows of a plane."""
    return plane(rows) if callable(plane) else plane[rows]


def sample_plane(plane: Plane, y: np.ndarray, x: np.ndarray, n_rows: int) -> np.ndarray:
    """Values of a plane at pixels; float64, shape (n,). Rows are asked for 128 at a time."""
    values = np.empty(y.size)
    order = np.argsort(y, kind="stable")
    edges = np.searchsorted(y[order], np.arange(0, n_rows + 128, 128))
    for k, (first, last) in enumerate(itertools.pairwise(edges)):
        if last > first:
            chosen = order[first:last]
            rows = np.asarray(plane_rows(plane, slice(k * 128, min((k + 1) * 128, n_rows))))
            values[chosen] = rows[y[chosen] - k * 128, x[chosen]]
    return values


def _weight(sky_variance: Plane, bad: np.ndarray, rows: slice) -> np.ndarray:
    """1 / sky variance of some rows, 0 where a pixel must not be used; float32."""
    variance = plane_rows(sky_variance, rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bad[rows] | ~(variance > 0), np.float32(0), 1 / variance).astype(
            np.float32, copy=False
        )


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(image, sigma, mode="constant", truncate=_TRUNCATE, output=np.float32)


def _typical_weight(sky_variance: Plane, bad: np.ndarray, buffer: np.ndarray) -> np.floating:
    """Median weight of the pixels that are not bad, 0 without any; `buffer` (ny, nx) is overwritten."""
    values = buffer.reshape(-1)
    n = 0
    for rows, _, _ in _strips(bad.shape[0], 0):
        chosen = _weight(sky_variance, bad, rows)[~bad[rows]]
        values[n : n + chosen.size] = chosen
        n += chosen.size
    return np.median(values[:n], overwrite_input=True) if n else np.float32(0)


def detected_pixels(snr: np.ndarray, threshold: float, grow: int) -> np.ndarray:
    """Pixels of the detection image above a threshold, grown by `grow` pixels; bool, shape (ny, nx)."""
    above = snr > threshold
    if grow == 0 or not above.any():
        return above
    grown = np.empty_like(above)
    for rows, around, inside in _strips(snr.shape[0], grow):
        share = ndimage.uniform_filter(above[around].astype(np.float32), size=2 * grow + 1, mode="constant")
        grown[rows] = share[inside] > 1e-4
    return grown


@kernel("int64(int64[:], int64)")
def find_root(parent, node):
    """Root of a node, halving paths on the way."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@kernel(
    "int64(const(float32[:, ::1]), const(float32[:]), const(int64[:]), float64, float64, int32[:, ::1], "
    "int64[:], int64[:], int64[:])"
)
def flood(snr, noise, order, significance, contrast, region, parent, family, peak):
    """Take footprints apart; the number of peaks, before those that joined others are left out.

    Parameters
    ----------
    snr : float32, shape (ny, nx)
        Detection image.
    noise : float32, shape (n,)
        Noise of the detection image at the pixels of `order`.
    order : int64, shape (n,)
        Flat indices of the pixels above the threshold, the highest first.
    significance, contrast : float
        As configured.
    region : int32, shape (ny, nx)
        Zero; filled with the number (from 1) of the peak that first claimed a pixel.
    parent, family, peak : int64, shape (n + 1,)
        Union-find of peaks that joined others; of peaks of one footprint; flat index of a peak's pixel.
    """
    rows, columns = snr.shape
    n = 0
    roots = np.empty(8, np.int64)
    noise_of_peak = np.empty(order.size + 1, np.float32)
    for k in range(order.size):
        j, i = order[k] // columns, order[k] % columns
        value = np.float64(snr[j, i])
        count = 0
        best = 0
        best_value = -np.inf
        steepest = 0
        steepest_value = -np.inf
        for jj in range(max(j - 1, 0), min(j + 2, rows)):
            for ii in range(max(i - 1, 0), min(i + 2, columns)):
                if region[jj, ii] == 0:
                    continue
                root = find_root(parent, np.int64(region[jj, ii]))
                roots[count] = root
                count += 1
                height = np.float64(snr[peak[root] // columns, peak[root] % columns])
                # of equal peaks the first found is the higher one
                if height > best_value or (height == best_value and root < best):
                    best_value = height
                    best = root
                if np.float64(snr[jj, ii]) > steepest_value:
                    steepest_value = np.float64(snr[jj, ii])
                    steepest = root
        if count == 0:
            n += 1
            parent[n] = n
            family[n] = n
            peak[n] = order[k]
            noise_of_peak[n] = noise[k]
            region[j, i] = n
            continue
        for m in range(count):
            root = find_root(parent, roots[m])
            one, other = find_root(family, root), find_root(family, best)
            if one != other:
                family[max(one, other)] = min(one, other)
            if root == best:
                continue
            py, px = peak[root] // columns, peak[root] % columns
            height = np.float64(snr[py, px])
            if height - value < max(significance * np.float64(noise_of_peak[root]), contrast * height):
                parent[root] = best
        region[j, i] = find_root(parent, steepest)
    return n


@kernel(
    "void(const(float32[:, ::1]), const(int64[:]), const(int32[:, ::1]), const(int64[:]), "
    "int64[:], float64[:], float64[:], float64[:])"
)
def region_sums(snr, order, region, number, area, sum_s, sum_x, sum_y):
    """Pixels and first moments of the detection image per source; `number[region]` is the source, or -1."""
    columns = snr.shape[1]
    for k in range(order.size):
        j, i = order[k] // columns, order[k] % columns
        source = number[region[j, i]]
        if source < 0:
            continue
        value = np.float64(snr[j, i])
        area[source] += 1
        sum_s[source] += value
        sum_x[source] += value * i
        sum_y[source] += value * j


def detect_sources(
    snr: np.ndarray,
    config: SourceDetectionConfig,
    noise: np.ndarray | Callable[[np.ndarray], np.ndarray] | None = None,
) -> Detections:
    """Footprints and peaks in a detection image; none is a result, not an error.

    Parameters
    ----------
    snr : ndarray of float32, shape (ny, nx)
    config : SourceDetectionConfig
    noise : ndarray of float32, shape (ny, nx), or function, optional
        Noise of `snr` at each pixel: sqrt(variance / sky variance); or a function that gives it for an array
        of flat indices of pixels, which then are few; 1 by default.
    """
    snr = np.ascontiguousarray(snr, dtype=np.float32)
    above = np.flatnonzero(snr > config.threshold)
    order = above[np.argsort(-snr.ravel()[above], kind="stable")].astype(np.int64)
    region = np.zeros(snr.shape, np.int32)
    parent, family, peak = (np.zeros(order.size + 1, np.int64) for _ in range(3))
    n = flood(
        snr,
        _noise_at(noise, order),
        order,
        float(config.deblend_significance),
        float(config.deblend_contrast),
        region,
        parent,
        family,
        peak,
    )
    root, footprint = _resolved(parent[: n + 1]), _resolved(family[: n + 1])
    sources = np.flatnonzero(root[1:] == np.arange(1, n + 1)) + 1
    sources = sources[np.argsort(peak[sources], kind="stable")]
    areas = _footprint_areas(region.ravel()[order], footprint)
    sources = sources[areas[footprint[sources]] >= config.min_area]
    number = np.full(n + 1, -1, np.int64)
    number[sources] = np.arange(sources.size)
    number = np.where(root > 0, number[root], -1)
    area = np.zeros(sources.size, np.int64)
    sums = [np.zeros(sources.size) for _ in range(3)]
    region_sums(snr, order, region, number, area, *sums)
    _, members, sizes = np.unique(footprint[sources], return_inverse=True, return_counts=True)
    peak_y, peak_x = np.divmod(peak[sources], snr.shape[1])
    # regions become segments in place; all others of the image's pixels are 0 in both
    segments = region.reshape(-1)
    segments[order] = (number + 1).astype(np.int32)[segments[order]]
    return Detections(
        sums[1] / sums[0],
        sums[2] / sums[0],
        peak_x,
        peak_y,
        snr[peak_y, peak_x].astype(float),
        area,
        members.astype(np.int64),
        sizes[members] > 1,
        region,
    )


def _noise_at(
    noise: np.ndarray | Callable[[np.ndarray], np.ndarray] | None, pixels: np.ndarray
) -> np.ndarray:
    """Noise of the pixels of these flat indices, float32."""
    if noise is None:
        return np.ones(pixels.size, np.float32)
    values = noise(pixels) if callable(noise) else np.ravel(noise)[pixels]
    return np.ascontiguousarray(values, dtype=np.float32)


def _resolved(parent: np.ndarray) -> np.ndarray:
    """Root of every node of a union-find; node 0 stays 0."""
    root = parent.copy()
    while True:
        further = root[root]
        if np.array_equal(further, root):
            return root
        root = further


def _footprint_areas(region: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Pixels of each footprint, indexed by its root, from the regions of all pixels above the threshold."""
    pixels = np.bincount(region, minlength=footprint.size)
    return np.bincount(footprint, weights=pixels, minlength=footprint.size)
