"""Satellite trails (LDM-151 8.2): the image in which lines are sought: binned, flat, of even noise, and limited."""

from __future__ import annotations

import math

import numpy as np

from skyquilt.algorithms.artifact_detection.line_transform import bin_image
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.statistics import block_edges, clip_blocks, truncation_factors

CELL = 24
"""Binned pixels to a side of the cells in which background and scatter are taken."""


LIMIT, GREATEST = 3.0, 15.0
"""Binned pixels beyond `LIMIT` sigma count by their logarithm, up to `GREATEST`: the middle of a bright trail is
to stand out of its wings, a star on a line is not to make a trail."""


LONG, THIN = 12.0, 4.0
"""Bright things with a diagonal at least this long [binned pixel], and its square over their area at least this,
may be trails; others are limited to `COMPACT_LIMIT`."""


COMPACT_LIMIT = 2.0


def search_image(image, variance, unusable, b) -> tuple[np.ndarray, np.ndarray]:
    """Binned image in units of its local scatter, limited, and where it is valid (1.0 or 0.0), float32."""
    shape = -(-image.shape[0] // b), -(-image.shape[1] // b)
    mean, error = (np.empty(shape, np.float32) for _ in range(2))
    bin_image(image, variance, unusable, b, mean, error)
    good = np.isfinite(mean)
    snr = np.zeros(shape, np.float32)
    level, scatter = _cells(mean, good)
    over_scatter(mean, error, level, scatter, CELL, snr)
    compact = _compact_things(snr)
    bright = snr > LIMIT
    snr[bright] = np.minimum(LIMIT * (1 + np.log(snr[bright] / LIMIT)), GREATEST)
    most = np.where(compact, np.float32(COMPACT_LIMIT), np.float32(GREATEST))
    return np.where(good, np.clip(snr, -LIMIT, most), 0).astype(np.float32), good.astype(np.float32)


def _cells(mean, good):
    """Background and scatter of a binned image in cells, from clipped medians, float64 (n_rows, n_columns)."""
    from scipy.ndimage import median_filter

    edges = [block_edges(n, CELL) for n in mean.shape]
    shape = edges[0].size - 1, edges[1].size - 1
    cell_mean, middle, width = (np.empty(shape) for _ in range(3))
    count = np.empty(shape, np.int64)
    clip_blocks(mean, good, *edges, 3.0, 3, truncation_factors(3.0)[0], cell_mean, middle, width, count)
    known = count > CELL
    if not known.any():
        return np.zeros(shape), np.ones(shape)
    # a trail along a row of cells must not become their background
    filled = (np.where(known, cells, np.median(cells[known])) for cells in (middle, width))
    return tuple(median_filter(cells, size=3, mode="nearest") for cells in filled)


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(float64[:, ::1]), const(float64[:, ::1]), int64,"
    " float32[:, ::1])"
)
def over_scatter(mean, variance, level, scatter, cell, snr):
    """(mean - level) / max(scatter, noise), level and scatter linear between the middles of cells; NaN stays 0.

    Parameters
    ----------
    mean, variance : ndarray, shape (ny, nx)
    level, scatter : ndarray, shape (n_rows, n_columns)
        Of cells of `cell` pixels.
    snr : ndarray, shape (ny, nx)
        Output, 0 beforehand.
    """
    ny, nx = mean.shape
    n_rows, n_columns = level.shape
    for y in range(ny):
        v = min(max((y + 0.5) / cell - 0.5, 0.0), n_rows - 1.0)
        j = min(int(v), max(n_rows - 2, 0))
        q = v - j
        up = min(j + 1, n_rows - 1)
        for x in range(nx):
            if not np.isfinite(mean[y, x]):
                continue
            u = min(max((x + 0.5) / cell - 0.5, 0.0), n_columns - 1.0)
            i = min(int(u), max(n_columns - 2, 0))
            p = u - i
            right = min(i + 1, n_columns - 1)
            background = (1 - q) * ((1 - p) * level[j, i] + p * level[j, right]) + q * (
                (1 - p) * level[up, i] + p * level[up, right]
            )
            width = (1 - q) * ((1 - p) * scatter[j, i] + p * scatter[j, right]) + q * (
                (1 - p) * scatter[up, i] + p * scatter[up, right]
            )
            noise = math.sqrt(variance[y, x])
            # the scatter of a cell may be that of its sources; the pixels' own noise may be larger than that
            width = max(width, noise)
            if width > 0:
                snr[y, x] = (mean[y, x] - background) / width


def _compact_things(snr):
    """Pixels of bright things that are not long and thin, and those around them.

    A trail that is bright enough to be one thing is long and thin; one of dashes or of faint pieces is not, so
    that these pixels are not left out, only limited more.
    """
    from scipy import ndimage

    labels, n = ndimage.label(snr > LIMIT, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=n + 1)
    compact = np.ones(n + 1, dtype=bool)
    compact[0] = False
    for k, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        diagonal = math.hypot(rows.stop - rows.start, columns.stop - columns.start)
        edges = (
            (rows.start == 0)
            + (rows.stop == snr.shape[0])
            + (columns.start == 0)
            + (columns.stop == snr.shape[1])
        )
        compact[k] = diagonal < LONG or (edges < 2 and diagonal**2 < THIN * areas[k])
    return ndimage.binary_dilation(compact[labels], np.ones((3, 3)))
