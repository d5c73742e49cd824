"""Search for defective pixels and columns (LDM-151 4.1.2.3): kernels, and boxes from pixels.

Pixels are compared with the running median of their row within the amplifier: a column, or up to half a window
of columns, that is off does not move it. Columns are searched for stretches of any place and length: sums of
standardized residuals over windows of lengths in steps of two find them; the ends are then where the sum of
(residual - half the mean of the window) is largest, the likelihood estimate of two change points.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel

LIMIT = 3.0
"""Standardized residuals are cut at this in sums along columns, so that one pixel makes no column."""


@kernel("void(const(float32[:, :]), int64, float32[:, :])")
def running_median(image, half, result):
    """Median of the finite pixels within `half` columns on either side in the same row.

    Parameters
    ----------
    image, result : float32, shape (ny, nx)
        The result is NaN where the window has no finite pixel. At the ends the window is as wide, moved inwards.
    """
    rows, columns = image.shape
    width = min(2 * half + 1, columns)
    window = np.empty(width + 1, np.float32)
    for j in range(rows):
        n = 0
        first, last = 0, 0
        for i in range(columns):
            start = min(max(i - half, 0), columns - width)
            while last < start + width:
                value = image[j, last]
                if np.isfinite(value):
                    m = n
                    while m > 0 and window[m - 1] > value:
                        window[m] = window[m - 1]
                        m -= 1
                    window[m] = value
                    n += 1
                last += 1
                if last - first > width:
                    n = _drop(window, n, image[j, first])
                    first += 1
            result[j, i] = np.float32(0.5) * (window[(n - 1) // 2] + window[n // 2]) if n else np.nan


@kernel("int64(float32[:], int64, float32)")
def _drop(window, n, value):
    """Remove a value from the first n, which are sorted; the new number."""
    if not np.isfinite(value):
        return n
    low, high = 0, n - 1
    while low < high:
        middle = (low + high) // 2
        if window[middle] < value:
            low = middle + 1
        else:
            high = middle
    for m in range(low, n - 1):
        window[m] = window[m + 1]
    return n - 1


@kernel("int64(const(float32[:, :]), float64, int64, int32[:, :], float64[:])")
def column_segments(pulls, threshold, shortest, segments, scores):
    """Stretches of columns whose pulls are off together.

    Parameters
    ----------
    pulls : float32, shape (ny, nx)
        Standardized residuals; NaN where there is none.
    threshold : float
        Least sum of pulls (cut at `LIMIT`) over the root of their number.
    shortest : int
        Least length [pixel].
    segments : int32, shape (most, 3)
        Written: column, first row, row after the last.
    scores : float64, shape (most,)
        Written: the sum over the root of the number, signed.

    Returns
    -------
    int
        Number found, at most `most`; order of columns, then of strength.
    """
    rows, columns = pulls.shape
    most = scores.size
    found = 0
    value = np.empty(rows)
    sums = np.empty(rows + 1)
    counts = np.empty(rows + 1, np.int64)
    for i in range(columns):
        for j in range(rows):
            value[j] = min(max(np.float64(pulls[j, i]), -LIMIT), LIMIT)
        while found < most:
            sums[0], counts[0] = 0.0, 0
            for j in range(rows):
                there = np.isfinite(value[j])
                sums[j + 1] = sums[j] + (value[j] if there else 0.0)
                counts[j + 1] = counts[j] + (1 if there else 0)
            best, start, stop = 0.0, 0, 0
            length = shortest
            while True:
                length = min(length, rows)
                for j in range(rows - length + 1):
                    n = counts[j + length] - counts[j]
                    if 2 * n < length or n == 0:
                        continue
                    score = (sums[j + length] - sums[j]) / np.sqrt(n)
                    if abs(score) > abs(best):
                        best, start, stop = score, j, j + length
                if length == rows:
                    break
                length *= 2
            if abs(best) < threshold:
                break
            sign = 1.0 if best > 0 else -1.0
            n = counts[stop] - counts[start]
            level = 0.5 * sign * (sums[stop] - sums[start]) / n
            # the best stretch that begins before the middle of the window and ends after it
            centre = (start + stop) // 2
            total, top, first = 0.0, 0.0, centre
            for j in range(centre - 1, -1, -1):
                if np.isfinite(value[j]):
                    total += sign * value[j] - level
                    if total > top:
                        top, first = total, j
            total, top, last = 0.0, 0.0, centre
            for j in range(centre, rows):
                if np.isfinite(value[j]):
                    total += sign * value[j] - level
                    if total > top:
                        top, last = total, j + 1
            # where all pixels are far off the cut values know no edge: half of the strength does
            strong = np.sort(sign * pulls[first:last, i][np.isfinite(value[first:last])])
            half = 0.5 * strong[strong.size // 2] if strong.size else 0.0
            if half > LIMIT:
                while last > first and not sign * pulls[last - 1, i] > half:
                    last -= 1
                while last > first and not sign * pulls[first, i] > half:
                    first += 1
            if last == first:
                first, last = start, stop
            elif last - first >= shortest:
                n = counts[last] - counts[first]
                segments[found, 0], segments[found, 1], segments[found, 2] = i, first, last
                scores[found] = (sums[last] - sums[first]) / np.sqrt(max(n, 1))
                found += 1
            # few pixels that are far off are no column; what is left of it is looked at again
            for j in range(first, last):
                value[j] = np.nan
    return found


def boxes_of_pixels(where: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Disjoint boxes (x0, y0, nx, ny) that cover exactly the pixels of a mask, shape (ny, nx).

    Runs along one axis, equal neighbouring runs joined; of both axes the one with fewer boxes.
    """
    if not where.any():
        return []
    upright = _joined_runs(where.T)
    flat = _joined_runs(where)
    if len(upright) < len(flat):
        return sorted((y0, x0, ny, nx) for x0, y0, nx, ny in upright)
    return sorted(flat)


def _joined_runs(where: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes of runs along rows, each joined with the same run of the row above."""
    rows, starts, stops = _runs(where)
    boxes: list[list[int]] = []
    growing: dict[tuple[int, int], int] = {}
    last_row = -2
    current: dict[tuple[int, int], int] = {}
    for row, start, stop in zip(rows.tolist(), starts.tolist(), stops.tolist()):
        if row != last_row:
            growing = current if row == last_row + 1 else {}
            current, last_row = {}, row
        number = growing.get((start, stop))
        if number is None:
            number = len(boxes)
            boxes.append([start, row, stop - start, 0])
        boxes[number][3] += 1
        current[start, stop] = number
    return [tuple(box) for box in boxes]  # type: ignore[misc]


def _runs(where: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, first column and column after the last of each run of a mask, in order of rows."""
    y, x = np.nonzero(where)
    begins = np.ones(y.size, dtype=bool)
    begins[1:] = (np.diff(y) != 0) | (np.diff(x) != 1)
    ends = np.append(begins[1:], True)
    return y[begins], x[begins], x[ends] + 1
