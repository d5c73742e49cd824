"""Kernels of PSF correlation (LDM-151 8.4); `correlation` says what for."""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, :]), float32[:, ::1], float32[:, ::1])"
)
def weigh(image, variance, bad, signal, weight):
    """Fill image / variance and 1 / variance, 0 where a pixel must not be used."""
    for j in range(image.shape[0]):
        for i in range(image.shape[1]):
            value = image[j, i]
            v = variance[j, i]
            # comparisons with NaN are false
            usable = (not bad[j, i]) & (v > 0) & (v < np.inf) & (abs(value) < np.inf)
            w = np.float32(1) / v if usable else np.float32(0)
            weight[j, i] = w
            signal[j, i] = value * w if usable else np.float32(0)


@kernel(
    "void(const(float32[:, ::1]), const(float64[:, ::1]), const(float64[:, ::1]), int64, int64, float32[:, ::1])"
)
def correlate_products(image, columns, rows, first_row, first_column, out):
    """Add sum over k and u of columns[k, u_y] rows[k, u_x] image[p + u] to `out`; zeros outside the image.

    `out` (n, m) lies at `first_row`, `first_column` of the image. Sums are of as many terms as the
    kernel has rows, in float32: their rounding is 1e-6 of the brightest pixel near, far below its photons.
    """
    ny, nx = image.shape
    n, m = out.shape
    side = columns.shape[1]
    half = side // 2
    along = np.empty(m, np.float32)
    lines = np.empty((n + 2 * half, m), np.float32)
    total = np.empty(m, np.float32)
    for k in range(columns.shape[0]):
        for v in range(n + 2 * half):
            row = first_row + v - half
            if row < 0 or row >= ny:
                lines[v] = np.float32(0)
                continue
            along[:] = np.float32(0)
            for i in range(side):
                shift = first_column + i - half
                first, last = max(0, -shift), min(m, nx - shift)
                if last <= first:
                    continue
                weight = np.float32(rows[k, i])
                source = image[row, first + shift : last + shift]
                target = along[first:last]
                for p in range(target.size):
                    target[p] += weight * source[p]
            for p in range(m):
                lines[v, p] = along[p]
        for v in range(n):
            total[:] = np.float32(0)
            for j in range(side):
                weight = np.float32(columns[k, j])
                source = lines[v + j]
                for p in range(m):
                    total[p] += weight * source[p]
            for p in range(m):
                out[v, p] += total[p]


@kernel("void(const(float32[:, ::1]), const(float32[:, ::1]), float32, float32[:, :])")
def divide(top, bottom, least, out):
    """Fill top / sqrt(bottom), 0 where bottom is not above `least`."""
    for j in range(top.shape[0]):
        for i in range(top.shape[1]):
            root = np.sqrt(bottom[j, i])
            out[j, i] = top[j, i] / root if bottom[j, i] > least else np.float32(0)


@kernel("UniTuple(float32, 2)(const(float32[:, :]))")
def extremes(weight):
    """Smallest and largest of the weights above 0; (inf, 0) without any."""
    low, high = np.float32(np.inf), np.float32(0)
    for j in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            value = weight[j, i]
            high = max(high, value)
            low = min(low, value if value > 0 else np.float32(np.inf))
    return low, high


@kernel(
    "void(const(float32[:, ::1]), const(float64[:, ::1]), int64, int64, int64, int64, float32, float32[:, ::1])"
)
def sum_squares(weight, square, first_row, first_column, n_row, n_column, typical, out):
    """Fill sum over u of square[u] weight[p + u] where weights are nearly equal, or 0.

    The image has a border of zero weight. `typical` stands for the weights of pixels that have none.
    """
    ny, nx = weight.shape
    half = square.shape[0] // 2
    total = np.float32(square.sum())
    for j in range(n_row):
        for i in range(n_column):
            w = weight[first_row + j, first_column + i]
            out[j, i] = total * (w if w > 0 else typical)
    for v in range(first_row - half, first_row + n_row + half):
        for u in range(first_column - half, first_column + n_column + half):
            if v >= 0 and v < ny and u >= 0 and u < nx and weight[v, u] > 0:
                continue
            for j in range(max(v - half, first_row), min(v + half + 1, first_row + n_row)):
                for i in range(max(u - half, first_column), min(u + half + 1, first_column + n_column)):
                    out[j - first_row, i - first_column] -= typical * square[v - j + half, u - i + half]
