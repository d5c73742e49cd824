"""Association and Matching (LDM-151 8.24.2): the counting of shifts and of pairs, for `pattern`."""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel


@kernel(
    "void(const(float64[::1]), const(float64[::1]), const(float64[::1]), const(float64[::1]),"
    " const(float64[::1]), const(float64[::1]), float64, float64, int32[:, ::1], float64[:, ::1])"
)
def vote_for_shifts(x, y, u, v, real, imag, shift, cell, counts, best):
    """For each factor the most frequent shift between candidate pairs.

    Parameters
    ----------
    x, y, u, v : ndarray, shape (n,)
        Places (x, y) and their candidates (u, v).
    real, imag : ndarray, shape (k,)
        Factors that turn and stretch (x, y).
    shift : float
        Largest shift that counts.
    cell : float
        Squares of 2 x 2 cells are counted, in steps of a cell.
    counts : ndarray of int32, shape (m, m), m >= 2 shift / cell + 3
        Work space; zero before and after.
    best : ndarray, shape (k, 3)
        Receives the number of votes and the middle of the square.
    """
    for h in range(real.size):
        most, best_i, best_j = 0, 0, 0
        for k in range(x.size):
            tx = u[k] - (real[h] * x[k] - imag[h] * y[k])
            ty = v[k] - (imag[h] * x[k] + real[h] * y[k])
            if tx * tx + ty * ty > shift * shift:
                continue
            counts[int((ty + shift) / cell) + 1, int((tx + shift) / cell) + 1] += 1
        for j in range(counts.shape[0] - 1):
            for i in range(counts.shape[1] - 1):
                votes = counts[j, i] + counts[j, i + 1] + counts[j + 1, i] + counts[j + 1, i + 1]
                if votes > most:
                    most, best_i, best_j = votes, i, j
        counts[:] = 0
        best[h, 0] = most
        best[h, 1] = best_i * cell - shift
        best[h, 2] = best_j * cell - shift


@kernel("void(const(float64[::1]), const(float64[::1]), float64, float64, float64[:, ::1])")
def count_pairs(x, y, low, step, histogram):
    """Add all pairs, in both directions, to a histogram of log distance (rows, from `low`) and direction.

    The number of directions (columns) must be even.
    """
    rows, columns = histogram.shape
    per_radian = columns / (2.0 * np.pi)
    least, most = np.exp(2.0 * low), np.exp(2.0 * (low + step * rows))
    for i in range(x.size):
        for j in range(i):
            dx, dy = x[j] - x[i], y[j] - y[i]
            square = dx * dx + dy * dy
            if not least <= square < most:
                continue
            row = int(np.floor((0.5 * np.log(square) - low) / step))
            if row < 0 or row >= rows:
                continue
            column = int(np.floor(np.arctan2(dy, dx) * per_radian))
            histogram[row, column % columns] += 1.0
            histogram[row, (column + columns // 2) % columns] += 1.0
