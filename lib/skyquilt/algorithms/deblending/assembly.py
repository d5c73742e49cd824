"""From shares of pixels to the rows of `Deblended` (LDM-151 8.5.1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from skyquilt.algorithms.deblending.deblended import Deblended
from skyquilt.algorithms.deblending.templates import Templates
from skyquilt.algorithms.source_detection.flooding import Detections
from skyquilt.primitives.compiled import kernel


class BlendedPixels(NamedTuple):
    """Pixels of blended footprints.

    Parameters
    ----------
    flat : ndarray of int64, shape (n_slot,)
        Flat indices, ascending.
    family : ndarray of int64, shape (n_slot,)
    slots : ndarray of int32, shape (ny, nx)
        Number of a pixel in `flat`, -1 for others.
    owner : ndarray of int64, shape (n_slot,)
        Source that the detection's flood gave the pixel to.
    """

    flat: np.ndarray
    family: np.ndarray
    slots: np.ndarray
    owner: np.ndarray


def blended_pixels(detections: Detections, index: np.ndarray) -> BlendedPixels:
    """Pixels of the footprints of some sources."""
    chosen = np.zeros(len(detections.x) + 1, bool)
    chosen[index + 1] = True
    segments = detections.segments.reshape(-1)
    flat = np.flatnonzero(chosen[segments]) if index.size else np.empty(0, np.int64)
    owner = segments[flat].astype(np.int64) - 1
    slots = np.full(detections.segments.shape, -1, np.int32)
    slots.reshape(-1)[flat] = np.arange(flat.size, dtype=np.int32)
    family = detections.family[owner] if flat.size else np.empty(0, np.int64)
    return BlendedPixels(flat, family.astype(np.int64), slots, owner)


def assemble(
    image: np.ndarray,
    detections: Detections,
    pixels: BlendedPixels,
    shared: tuple[np.ndarray, Templates, np.ndarray] | None,
    left_over: tuple[np.ndarray, np.ndarray] | None,
    flags: dict[str, np.ndarray],
) -> Deblended:
    """Rows of sources and parents.

    Parameters
    ----------
    shared : (index, templates, child), optional
        Rows of the blended sources, their templates and the shares of those pixels.
    left_over : (stray, kept), optional
        Which slots no template covers; which of the blended sources are kept. Stray light goes to the source that
        the flood gave the pixel to; where that one was dropped to the brightest kept one of the footprint.
    flags : dict
        Of the sources; those of the parents are added, set where one of the children's is (NOT_DEBLENDED only).
    """
    n = len(detections.x)
    segments = np.ascontiguousarray(detections.segments.reshape(-1))
    blended = np.asarray(detections.blended, bool)
    families = np.unique(detections.family[blended])
    row_of_family = np.full(int(detections.family.max(initial=-1)) + 1, -1, np.int64)
    row_of_family[families] = n + np.arange(families.size)
    rows = n + families.size
    whole = blended & ~flags["not_deblended"]
    # what the flood says goes for sources alone and footprints that are not deblended
    count = np.zeros(rows, np.int64)
    count[:n] = np.where(whole, 0, detections.area)
    np.add.at(count, row_of_family[detections.family[blended]], detections.area[blended])
    stray_row = np.empty(0, np.int64)
    stray_flat = stray_row
    if shared is not None:
        index, templates, child = shared
        stray, kept = left_over
        heir = _heirs(detections, index, kept, templates, child)
        stray_flat = pixels.flat[stray]
        stray_row = heir[pixels.owner[stray]]
        used = (child != 0) | np.isnan(child)
        taken = np.append(0, np.cumsum(used))
        count[index] = taken[templates.start[1:]] - taken[templates.start[:-1]]
        np.add.at(count, stray_row, 1)
    start = np.append(0, np.cumsum(count)).astype(np.int64)
    pixel, value = np.empty(start[-1], np.int64), np.empty(start[-1], np.float32)
    cursor = start[:-1].copy()
    parent_row = np.append(-1, np.where(blended, row_of_family[detections.family], -1)).astype(np.int64)
    own = np.append(False, ~whole)
    fill_by_flood(segments, image.reshape(-1), own, parent_row, cursor, pixel, value)
    if shared is not None:
        fill_shares(
            index,
            templates.start,
            templates.slot,
            child,
            pixels.flat,
            stray_row[np.argsort(stray_row, kind="stable")],
            stray_flat[np.argsort(stray_row, kind="stable")],
            image.reshape(-1),
            start,
            pixel,
            value,
        )
        total = np.zeros(rows)
        np.add.at(total, stray_row, np.abs(np.nan_to_num(image.reshape(-1)[stray_flat])))
        sums = np.add.reduceat(np.abs(np.nan_to_num(np.append(value, 0))), np.minimum(start[:-1], value.size))
        flags["stray"][:] = (total > 0.1 * sums)[:n] & whole & (total[:n] > 0)
    n_child = np.zeros(rows, np.int64)
    np.add.at(n_child, row_of_family[detections.family[blended]], 1)
    parent = np.full(rows, -1, np.int64)
    parent[:n] = parent_row[1:]
    names = {}
    for name, values in flags.items():
        names[name] = np.append(values, np.zeros(families.size, bool))
    failed = flags["not_deblended"] & blended
    names["not_deblended"][row_of_family[detections.family[failed]]] = True
    return Deblended(start, pixel, value, parent, n_child, names, image.shape)


def _heirs(
    detections: Detections,
    index: np.ndarray,
    kept: np.ndarray,
    templates: Templates,
    child: np.ndarray,
) -> np.ndarray:
    """Source that gets the stray pixels of each source: itself if kept, else the footprint's brightest kept one."""
    sums = np.append(0.0, np.cumsum(np.nan_to_num(child), dtype=np.float64))
    light = sums[templates.start[1:]] - sums[templates.start[:-1]]
    heir = np.arange(len(detections.x))
    # of a footprint the last in this order is kept and brightest, the first row among equals
    order = np.lexsort((-index, light, kept, detections.family[index]))
    family = detections.family[index][order]
    last = np.append(family[1:] != family[:-1], True)
    best = np.full(int(detections.family.max(initial=-1)) + 1, -1, np.int64)
    best[family[last]] = index[order][last]
    heir[index] = np.where(kept, index, best[detections.family[index]])
    return heir


@kernel(
    "void(const(int32[::1]), const(float32[::1]), const(boolean[::1]), const(int64[::1]), int64[::1], int64[::1], "
    "float32[::1])"
)
def fill_by_flood(segments, image, own, parent_row, cursor, pixel, value):
    """Give pixels to the flood's owners where `own[label]`, and to the rows of their parents; cursors move."""
    for at in range(segments.size):
        label = segments[at]
        if label <= 0:
            continue
        if own[label]:
            row = label - 1
            pixel[cursor[row]] = at
            value[cursor[row]] = image[at]
            cursor[row] += 1
        row = parent_row[label]
        if row >= 0:
            pixel[cursor[row]] = at
            value[cursor[row]] = image[at]
            cursor[row] += 1


@kernel(
    "void(const(int64[::1]), const(int64[::1]), const(int32[::1]), const(float32[::1]), const(int64[::1]), "
    "const(int64[::1]), const(int64[::1]), const(float32[::1]), const(int64[::1]), int64[::1], float32[::1])"
)
def fill_shares(index, start, slot, child, flat, stray_row, stray_flat, image, row_start, pixel, value):
    """Merge shares and stray pixels of each blended source, both ascending; `stray_row` is ascending too."""
    next_stray = 0
    for k in range(index.size):
        row = index[k]
        at = row_start[row]
        while next_stray < stray_row.size and stray_row[next_stray] < row:
            next_stray += 1
        m = start[k]
        while True:
            while m < start[k + 1] and child[m] == 0:
                m += 1
            more = m < start[k + 1]
            also = next_stray < stray_row.size and stray_row[next_stray] == row
            if not more and not also:
                break
            if more and (not also or flat[slot[m]] < stray_flat[next_stray]):
                pixel[at] = flat[slot[m]]
                value[at] = child[m]
                m += 1
            else:
                pixel[at] = stray_flat[next_stray]
                value[at] = image[stray_flat[next_stray]]
                next_stray += 1
            at += 1
