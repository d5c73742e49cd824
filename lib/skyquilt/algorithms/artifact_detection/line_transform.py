"""Satellite trails (LDM-151 8.2): sums of pixels along all straight lines through an image, and along their parts.

The fast discrete Radon transform (Goetz and Druck 1996, Pattern Recognition 29, 711; Brady 1998, SIAM J. Comput. 27,
107; for streaks Nir, Zackay and Ofek 2018, AJ 156, 229): the sum along a line over h rows is that over its lower
half plus that over its upper half, which other lines share. n rows cost n log2(n) additions per column instead
of n^2, and every stage holds the sums over strips of rows: trails that end within the image. Rows need not be a
power of two. A line has |dx| <= |dy|; flips and the transposed image give the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from skyquilt.primitives.compiled import kernel

GAP = 3
BAND = 10
"""Lines between a line and those beside it that it is compared with, and how many these are to each side."""

SIDE_SHARE = 0.1
"""Least share of valid pixels in a side, of what the line itself has."""


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), int64,"
    " float32[:, ::1], float32[:, ::1])"
)
def bin_image(image, variance, unusable, size, mean, error):
    """Mean of the usable pixels in blocks of `size` x `size`, and its variance; NaN where half are unusable.

    Parameters
    ----------
    image, variance, unusable : ndarray, shape (ny, nx)
        Pixels whose image or variance is not finite are unusable too.
    mean, error : ndarray, shape (ceil(ny / size), ceil(nx / size))
        Output: mean and variance of the mean.
    """
    ny, nx = image.shape
    my, mx = mean.shape
    sums, squares, counts = np.empty(mx), np.empty(mx), np.empty(mx)
    for row in range(my):
        sums[:] = 0.0
        squares[:] = 0.0
        counts[:] = 0.0
        rows = min(size, ny - row * size)
        for y in range(row * size, row * size + rows):
            for column in range(mx):
                total, square, n = 0.0, 0.0, 0
                for x in range(column * size, min(column * size + size, nx)):
                    value, noise = image[y, x], variance[y, x]
                    # false for NaN and infinities alike
                    if not unusable[y, x] and abs(value) < np.inf and noise < np.inf:
                        total += value
                        square += noise
                        n += 1
                sums[column] += total
                squares[column] += square
                counts[column] += n
        for column in range(mx):
            pixels = rows * min(size, nx - column * size)
            n = counts[column]
            if n > 0 and 2 * n >= pixels:
                mean[row, column] = sums[column] / n
                error[row, column] = squares[column] / (n * n)
            else:
                mean[row, column] = np.nan
                error[row, column] = np.nan


@kernel("void(const(float32[:, ::1]), int64, int64, int64, float32[:, ::1])")
def join_strips(lower, strips, n_columns, first, upper):
    """One stage of the transform: sums over strips of rows from those over their halves.

    Parameters
    ----------
    lower : ndarray, shape (n, n - 1 + n_columns)
        Sums over 2 * `strips` strips; 0 images: `first` is true and it holds the pixels. A strip from row r of
        height h keeps its line with shift s (0 to h - 1) in row r + s; column n - 1 + x is the line that starts
        at x in its first row.
    strips : int
        Number of strips after this stage; strip i begins at row i * n // strips.
    first : int
        1 for the stage that begins with pixels: strips have 1 or 2 rows then.
    upper : ndarray, shape of `lower`
        Output; columns that no line of a stage reaches are left alone and must be 0.
    """
    n = lower.shape[0]
    pad = n - 1
    end = pad + n_columns
    for strip in range(strips):
        begin, stop = strip * n // strips, (strip + 1) * n // strips
        height = stop - begin
        middle = (2 * strip + 1) * n // (2 * strips)
        h1, h2 = middle - begin, stop - middle
        if first == 1:
            h1, h2 = 1, height - 1
            middle = begin + 1
        for s in range(height):
            slope = s / (height - 1) if height > 1 else 0.0
            s1 = int(slope * (h1 - 1) + 0.5)
            left = pad - s
            if h2 == 0:
                for c in range(left, end):
                    upper[begin + s, c] = lower[begin + s1, c]
                continue
            s2 = int(slope * (h2 - 1) + 0.5)
            offset = s - s2
            for c in range(left, end - offset):
                upper[begin + s, c] = lower[begin + s1, c] + lower[middle + s2, c + offset]
            for c in range(max(left, end - offset), end):
                upper[begin + s, c] = lower[begin + s1, c]


def line_sums(image: np.ndarray, least_height: int) -> Iterator[tuple[int, np.ndarray]]:
    """Sums along the lines x = x0 + s (y - y0) / (h - 1), 0 <= s < h, over strips of rows.

    Parameters
    ----------
    image : ndarray of float32, shape (n, nx)
    least_height : int
        Strips of fewer rows are not given, but for the whole image.

    Yields
    ------
    strips : int
        Number of strips, down to 1.
    sums : ndarray of float32, shape (n, n - 1 + nx)
        As in `join_strips`; valid until the next one is asked for.
    """
    n, nx = image.shape
    lower, upper = (np.zeros((n, n - 1 + nx), np.float32) for _ in range(2))
    lower[:, n - 1 :] = image
    strips = 1 << int(math.log2(n))
    join_strips(lower, strips, nx, 1, upper)
    while True:
        lower, upper = upper, lower
        if strips == 1 or n // strips >= least_height:
            yield strips, lower
        if strips == 1:
            return
        strips //= 2
        join_strips(lower, strips, nx, 0, upper)


def packing_unit(n: int, limit: float) -> float:
    """Power of two that keeps counts and sums of up to n pixels of at most `limit` apart in one float32.

    The transform of valid * unit + value holds both, at half the cost. Rounding adds N unit 2^-24 to a sum over N
    pixels: 0.5 of the pixels' noise for n = N = 1024 and limit 3, where the sum's own noise is 32.
    """
    return 2.0 ** math.ceil(math.log2(2.0 * n * limit + 2.0))


@kernel(
    "int64(const(float32[:, ::1]), float64, int64, int64, int64, const(float32[::1]), int64, int64[:, ::1],"
    " float64[::1])"
)
def lines_above(sums, unit, strips, n_columns, width, limit, tile, found, ratios):
    """Lines whose excess over both sides exceeds the limit for their number of pixels, the best of each tile.

    The excess is the sum less that of as many pixels at the mean of the brighter side: the `BAND` lines beyond `GAP`
    to the left, and to the right. A line without pixels on one side is left out.

    Parameters
    ----------
    sums : ndarray, shape (n, n - 1 + n_columns)
        A stage of the transform of valid * unit + value.
    unit : float
        Of `packing_unit`.
    strips, n_columns, width : int
        Lines are `width` columns wide: sums over adjacent starts.
    limit : ndarray of float32, shape (n * width + 1,)
        Least excess by number of pixels, positive.
    tile : int
        Shifts and starts by tile.
    found : ndarray of int64, shape (m, 3)
        Output: first row of the strip, shift, start of its first column.
    ratios : ndarray, shape (m,)
        Output: excess over limit.

    Returns
    -------
    int
        How many were found, at most m.
    """
    n, size = sums.shape
    pad = n - 1
    total = 0
    n_tiles = size // tile + 1
    margin = BAND + GAP
    values, counts = np.zeros(size + 2 * margin + 8), np.zeros(size + 2 * margin + 8)
    best, place, shift = np.zeros(n_tiles), np.zeros(n_tiles, np.int64), np.zeros(n_tiles, np.int64)
    scale = np.float32(1.0 / unit)
    whole = np.float32(unit)
    for strip in range(strips):
        begin, stop = strip * n // strips, (strip + 1) * n // strips
        for s0 in range(0, stop - begin, tile):
            best[:] = 0.0
            for s in range(s0, min(s0 + tile, stop - begin)):
                row = begin + s
                # sums of all columns before each, from `margin` columns before the first
                left, length = pad - s, n_columns + s
                value, number = 0.0, 0.0
                values[: margin + 1] = 0.0
                counts[: margin + 1] = 0.0
                for i in range(length):
                    here = sums[row, left + i]
                    many = np.floor(here * scale + np.float32(0.5))
                    value += here - many * whole
                    number += many
                    values[margin + i + 1] = value
                    counts[margin + i + 1] = number
                for i in range(margin + length + 1, 2 * margin + length + 1):
                    values[i] = value
                    counts[i] = number
                for i in range(length - width + 1):
                    k = margin + i
                    number = counts[k + width] - counts[k]
                    least = limit[int(number)]
                    value = values[k + width] - values[k]
                    if value < 0.6 * least:
                        continue
                    a = counts[k - GAP] - counts[k - GAP - BAND]
                    b = counts[k + width + GAP + BAND] - counts[k + width + GAP]
                    if a * width < SIDE_SHARE * BAND * number or b * width < SIDE_SHARE * BAND * number:
                        continue
                    a = (values[k - GAP] - values[k - GAP - BAND]) / a
                    b = (values[k + width + GAP + BAND] - values[k + width + GAP]) / b
                    value -= number * max(a, b)
                    if value > least:
                        ratio = value / least
                        t = (left + i) // tile
                        if ratio > best[t]:
                            best[t] = ratio
                            place[t] = i - s
                            shift[t] = s
            for t in range(n_tiles):
                if best[t] > 0.0 and total < found.shape[0]:
                    found[total, 0] = begin
                    found[total, 1] = shift[t]
                    found[total, 2] = place[t]
                    ratios[total] = best[t]
                    total += 1
    return total


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(float64[:, ::1]), const(int64[::1]), float64[::1],"
    " float64[::1])"
)
def excess_between(image, valid, ends, widths, excess, counts):
    """Excess of single lines over their brighter side, as in `lines_above`, from the pixels.

    Parameters
    ----------
    image, valid : ndarray of float32, shape (ny, nx)
        `image` is 0 where `valid` is 0.
    ends : ndarray, shape (n, 4)
        x0, y0, x1, y1 of the middles; what is outside the image counts nothing.
    widths : ndarray of int64, shape (n,)
        Pixels across the line at each step of its longer axis.
    excess, counts : ndarray, shape (n,)
        Output; NaN where a side has too few pixels.
    """
    ny, nx = image.shape
    for line in range(ends.shape[0]):
        x0, y0, x1, y1 = ends[line, 0], ends[line, 1], ends[line, 2], ends[line, 3]
        steep = abs(y1 - y0) >= abs(x1 - x0)
        a0, a1, b0, b1 = (y0, y1, x0, x1) if steep else (x0, x1, y0, y1)
        if a0 > a1:
            a0, a1, b0, b1 = a1, a0, b1, b0
        slope = (b1 - b0) / (a1 - a0) if a1 > a0 else 0.0
        length, across = (ny, nx) if steep else (nx, ny)
        width = widths[line]
        total, number = 0.0, 0.0
        low, n_low, high, n_high = 0.0, 0.0, 0.0, 0.0
        for a in range(max(int(np.ceil(a0 - 0.25)), 0), min(int(a1 + 0.25), length - 1) + 1):
            b = int(np.floor(b0 + slope * (a - a0) - 0.5 * (width - 1) + 0.5))
            for k in range(max(b - GAP - BAND, 0), min(b + width + GAP + BAND, across)):
                value = image[a, k] if steep else image[k, a]
                good = valid[a, k] if steep else valid[k, a]
                if k < b - GAP:
                    low += value
                    n_low += good
                elif k >= b + width + GAP:
                    high += value
                    n_high += good
                elif b <= k < b + width:
                    total += value
                    number += good
        counts[line] = number
        least = SIDE_SHARE * BAND * number / width
        if n_low < least or n_high < least or number == 0.0:
            excess[line] = np.nan
        else:
            excess[line] = total - number * max(low / n_low, high / n_high)
