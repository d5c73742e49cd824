"""Peaks between pixels, peaks of several passes, and the footprints around them (LDM-151 8.4, 5.1.1.19)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from skyquilt.algorithms.source_detection.flooding import (
    Detections,
    find_root,
    flood,
)
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.footprints import count_spans, find_spans, label_spans


@dataclass(frozen=True)
class Peaks:
    """Peaks of a detection image, each of shape (n,), in ascending (y, x) of their pixels.

    Parameters
    ----------
    x, y : ndarray of float64
        Top of the parabolas through the pixel and its neighbours [pixel].
    pixel_x, pixel_y : ndarray of int64
    snr : ndarray of float64
        Height of the parabolas' top.
    """

    x: np.ndarray
    y: np.ndarray
    pixel_x: np.ndarray
    pixel_y: np.ndarray
    snr: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def chosen(self, which: np.ndarray) -> Peaks:
        """The peaks of an index or a mask."""
        return Peaks(*(getattr(self, each.name)[which] for each in fields(self)))


def find_peaks(
    snr: np.ndarray, threshold: float, significance: float, contrast: float, floor: float, noise=None
) -> Peaks:
    """Peaks whose interpolated height reaches a threshold.

    Stars between pixels lose up to 12 % of the height at FWHM 2.4 px; the parabolas give back all but 1 %.

    Parameters
    ----------
    snr : ndarray of float32, shape (ny, nx)
    threshold : float
        Of the interpolated height.
    significance, contrast : float
        As in `SourceDetectionConfig`.
    floor : float
        Peaks are followed down to this height; below the threshold.
    noise : function of flat indices, optional
        As in `detect_sources`.
    """
    order = falling_pixels(snr, snr > floor)
    local = np.ones(order.size, np.float32) if noise is None else noise(order)
    region = np.zeros(snr.shape, np.int32)
    parent, family, top = (np.zeros(order.size + 1, np.int64) for _ in range(3))
    local = np.ascontiguousarray(local, dtype=np.float32)
    n = flood(snr, local, order, float(significance), float(contrast), region, parent, family, top)
    own = np.flatnonzero(parent[1 : n + 1] == np.arange(1, n + 1)) + 1
    peak_y, peak_x = np.divmod(np.sort(top[own]), snr.shape[1])
    x, y, height = interpolated_peaks(snr, peak_x, peak_y)
    return Peaks(x, y, peak_x, peak_y, height).chosen(height >= threshold)


def falling_pixels(snr: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Flat indices of pixels, one connected region after the other, each with its highest pixel first.

    A flood that goes from region to region finds its neighbours in the cache.
    """
    spans = np.empty((count_spans(above), 3), dtype=np.int32)
    find_spans(above, spans)
    labels = np.empty(len(spans), dtype=np.int64)
    label_spans(spans, 1, labels)
    length = spans[:, 2] - spans[:, 1]
    first = spans[:, 0].astype(np.int64) * snr.shape[1] + spans[:, 1]
    start = np.append(0, np.cumsum(length, dtype=np.int64))
    pixel = np.arange(start[-1]) + np.repeat(first - start[:-1], length)
    return pixel[np.lexsort((-snr.reshape(-1)[pixel], np.repeat(labels, length)))]


def interpolated_peaks(
    snr: np.ndarray, peak_x: np.ndarray, peak_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y [pixel] and height of the parabolas through pixels and their neighbours along each axis.

    Within half a pixel of the pixel; the pixel itself beside the image's edge.
    """
    ny, nx = snr.shape
    at = snr[peak_y, peak_x].astype(np.float64)
    place, height = [], at.copy()
    for dy, dx, size, index in ((0, 1, nx, peak_x), (1, 0, ny, peak_y)):
        inside = (index > 0) & (index < size - 1)
        y, x = np.where(inside, peak_y, 1), np.where(inside, peak_x, 1)
        if min(ny, nx) < 3:
            place.append(index.astype(np.float64))
            continue
        before, after = (snr[y + s * dy, x + s * dx].astype(np.float64) for s in (-1, 1))
        bend = 2 * at - before - after
        usable = inside & (bend > 0) & (before != 0) & (after != 0)
        step = np.where(usable, 0.5 * (after - before) / np.where(usable, bend, 1), 0).clip(-0.5, 0.5)
        height += np.where(usable, 0.25 * (after - before) * step, 0)
        place.append(index + step)
    return place[0], place[1], height


class MergedPeaks(NamedTuple):
    """Peaks of two passes, and the pass (0 or 1) that each is from."""

    peaks: Peaks
    second: np.ndarray


def merge_peaks(first: Peaks, second: Peaks, radius: float) -> MergedPeaks:
    """Peaks of both; those of the second within `radius` [pixel] of one of the first are left out.

    Sorted by (y, x) of their pixels; of two on one pixel that of the first pass stays.
    """
    if len(first) and len(second):
        near, _ = cKDTree(np.column_stack([first.x, first.y])).query(
            np.column_stack([second.x, second.y]), distance_upper_bound=radius
        )
        second = second.chosen(~np.isfinite(near))
    joined = [np.concatenate([getattr(p, each.name) for p in (first, second)]) for each in fields(Peaks)]
    which = np.repeat([False, True], [len(first), len(second)])
    order = np.lexsort((which, joined[2], joined[3]))
    pixel = joined[3][order] * 2**32 + joined[2][order]
    order = order[np.append(True, pixel[1:] != pixel[:-1])[: order.size]]
    return MergedPeaks(Peaks(*(each[order] for each in joined)), which[order])


def detections_from_peaks(
    peaks: Peaks, snr: np.ndarray, floor: float, grow: int, also: np.ndarray | None = None
) -> Detections:
    """Footprints around given peaks: pixels above `floor` that are connected to them, grown.

    Pixels go to peaks as water that rises would: the highest first, each to the peak of its highest neighbour. A
    peak on the slope of a brighter one gets what lies below it. Regions without a peak are left out.

    Parameters
    ----------
    peaks : Peaks
    snr : ndarray of float32, shape (ny, nx)
        Detection image.
    floor : float
    grow : int
        Rings of pixels around, alternately of 4 and 8 neighbours [pixel]. Footprints that touch are one.
    also : ndarray of float32, shape (ny, nx), optional
        Another detection image: pixels above the floor in it belong to footprints too.

    Returns
    -------
    Detections
        Sources in the order of `peaks`, positions those of the peaks.
    """
    n = len(peaks)
    seed = peaks.pixel_y * snr.shape[1] + peaks.pixel_x
    above = snr > floor if also is None else (snr > floor) | (also > floor)
    above.reshape(-1)[seed] = True
    order = falling_pixels(snr, above)
    del above
    region = np.zeros(snr.shape, np.int32)
    parent, family = np.zeros(order.size + n + 1, np.int64), np.zeros(order.size + n + 1, np.int64)
    region.reshape(-1)[seed] = -np.arange(1, n + 1, dtype=np.int32)
    seeded_flood(snr, order, n, region, parent, family)
    label_roots(region, parent, order, n)
    rings(region, family, grow, np.sort(order))
    root = np.array([find_root(family, k) for k in range(1, n + 1)], dtype=np.int64)
    _, members, sizes = np.unique(root, return_inverse=True, return_counts=True)
    area = np.bincount(region.reshape(-1), minlength=n + 1)[1:]
    return Detections(
        peaks.x,
        peaks.y,
        peaks.pixel_x,
        peaks.pixel_y,
        peaks.snr,
        area.astype(np.int64),
        members.astype(np.int64),
        sizes[members] > 1 if n else np.zeros(0, bool),
        region,
    )


@kernel("void(const(float32[:, ::1]), const(int64[:]), int64, int32[:, ::1], int64[:], int64[:])")
def seeded_flood(snr, order, n_seed, region, parent, family):
    """Flood from the highest pixel down; labels up to `n_seed` are seeds, those above have to join one.

    Parameters
    ----------
    snr : float32, shape (ny, nx)
    order : int64, shape (n,)
        Flat indices of pixels, of each connected region the highest first.
    region : int32, shape (ny, nx)
        -k on the pixel of seed k (from 1), else 0; filled with labels.
    parent, family : int64, shape (n + n_seed + 1,)
        Filled: union-find of labels without a seed that joined one; of labels of one footprint.
    """
    rows, columns = region.shape
    for k in range(1, n_seed + 1):
        parent[k] = k
        family[k] = k
    last = n_seed
    near = np.empty(8, np.int64)
    for k in range(order.size):
        j, i = order[k] // columns, order[k] % columns
        own = -np.int64(region[j, i])
        count = 0
        best = own
        best_height = np.float32(-np.inf)
        for jj in range(max(j - 1, 0), min(j + 2, rows)):
            for ii in range(max(i - 1, 0), min(i + 2, columns)):
                if region[jj, ii] <= 0:
                    continue
                root = find_root(parent, np.int64(region[jj, ii]))
                near[count] = root
                count += 1
                if own == 0 and root <= n_seed and (best == 0 or snr[jj, ii] > best_height):
                    best = root
                    best_height = snr[jj, ii]
        if best == 0:
            if count > 0:
                best = near[0]
            else:
                last += 1
                best = last
                parent[best] = best
                family[best] = best
        region[j, i] = best
        for m in range(count):
            root = find_root(parent, near[m])
            if root > n_seed and root != best:
                parent[root] = best
            one, other = find_root(family, near[m]), find_root(family, best)
            if one != other:
                family[max(one, other)] = min(one, other)


@kernel("void(int32[:, ::1], int64[:], const(int64[:]), int64)")
def label_roots(region, parent, order, n_seed):
    """Replace labels by their seeds, 0 where they joined none."""
    columns = region.shape[1]
    for k in range(order.size):
        j, i = order[k] // columns, order[k] % columns
        root = find_root(parent, np.int64(region[j, i]))
        region[j, i] = root if root <= n_seed else 0


@kernel("void(int32[:, ::1], int64[:], int64, const(int64[:]))")
def rings(region, family, grow, order):
    """Grow labels by rings into pixels without one; where labels touch their families become one."""
    rows, columns = region.shape
    front = order.copy()
    for turn in range(grow):
        corners = turn % 2 == 1
        count = 0
        # the ring is at most 8 pixels for each of the front
        following = np.empty(min(8 * front.size, region.size), np.int64)
        for k in range(front.size):
            j, i = front[k] // columns, front[k] % columns
            label = region[j, i]
            if label <= 0:
                continue
            for jj in range(max(j - 1, 0), min(j + 2, rows)):
                for ii in range(max(i - 1, 0), min(i + 2, columns)):
                    if not corners and jj != j and ii != i:
                        continue
                    if region[jj, ii] == 0:
                        # marked, so that a ring does not grow upon itself
                        region[jj, ii] = -label
                        following[count] = jj * columns + ii
                        count += 1
        front = following[:count].copy()
        for k in range(count):
            j, i = front[k] // columns, front[k] % columns
            region[j, i] = -region[j, i]
        for k in range(count):
            j, i = front[k] // columns, front[k] % columns
            for jj in range(max(j - 1, 0), min(j + 2, rows)):
                for ii in range(max(i - 1, 0), min(i + 2, columns)):
                    if region[jj, ii] > 0:
                        one = find_root(family, np.int64(region[jj, ii]))
                        other = find_root(family, np.int64(region[j, i]))
                        if one != other:
                            family[max(one, other)] = min(one, other)
