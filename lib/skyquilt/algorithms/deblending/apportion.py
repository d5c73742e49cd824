"""Weights of templates and shares of the light (LDM-151 8.5.1, 8.6.3.1).

Weights are the least-squares solution, not negative, of image = sum of weight times template over all pixels of all
blended footprints, by coordinate descent: each turn costs the pixels of the templates, however many overlap. The
light of a pixel is shared in proportion to weighted templates.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel


@kernel(
    "void(const(int64[::1]), const(int32[::1]), const(float32[::1]), const(float32[::1]), const(float32[::1]), "
    "const(boolean[::1]), int64, float64, float64[::1], float64[::1])"
)
def fit_weights(start, slot, value, image, inverse_variance, kept, turns, tolerance, weight, significance):
    """Fit the weights of templates together, from the weights given.

    Parameters
    ----------
    start, slot, value
        The templates.
    image, inverse_variance : float32, shape (n_slot,)
        Of the pixels; inverse variance 0 where a pixel must not count.
    kept : bool, shape (n,)
        Others get weight 0.
    turns : int
        At most; fewer when no weight moves by more than `tolerance` of itself.
    weight : float64, shape (n,)
        In: first weights; out: fitted ones.
    significance : float64, shape (n,)
        Filled with weight over its error, the other weights held.
    """
    n = start.size - 1
    left = image.copy()
    for k in range(n):
        if not kept[k]:
            weight[k] = 0.0
        for m in range(start[k], start[k + 1]):
            left[slot[m]] -= weight[k] * value[m]
    norm = np.zeros(n)
    for k in range(n):
        for m in range(start[k], start[k + 1]):
            norm[k] += np.float64(inverse_variance[slot[m]]) * value[m] * value[m]
    for _ in range(turns):
        moved = 0.0
        for k in range(n):
            if not kept[k] or norm[k] <= 0.0:
                continue
            top = 0.0
            for m in range(start[k], start[k + 1]):
                w = inverse_variance[slot[m]]
                if w > 0:
                    top += np.float64(w) * value[m] * left[slot[m]]
            step = max(top / norm[k], -weight[k])
            if step == 0.0:
                continue
            weight[k] += step
            moved = max(moved, abs(step) / max(weight[k], 0.1))
            for m in range(start[k], start[k + 1]):
                left[slot[m]] -= step * value[m]
        if moved < tolerance:
            break
    for k in range(n):
        significance[k] = weight[k] * np.sqrt(norm[k])


@kernel(
    "void(const(int64[::1]), const(int32[::1]), const(float32[::1]), const(int64[::1]), int64, float64, boolean[::1])"
)
def find_degenerate(start, slot, value, peak_slot, n_slot, limit, degenerate):
    """Mark the fainter of two templates that are equal up to a factor: cosine of the angle above `limit`.

    Only pairs in which the peak of one lies on the other's template are looked at.
    """
    n = start.size - 1
    source_at = np.full(n_slot, -1, np.int64)
    total, square = np.zeros(n), np.zeros(n)
    for k in range(n):
        for m in range(start[k], start[k + 1]):
            total[k] += value[m]
            square[k] += np.float64(value[m]) * value[m]
        if peak_slot[k] >= 0:
            source_at[peak_slot[k]] = k
    scratch = np.zeros(n_slot, np.float32)
    for k in range(n):
        for m in range(start[k], start[k + 1]):
            scratch[slot[m]] = value[m]
        for m in range(start[k], start[k + 1]):
            other = source_at[slot[m]]
            if other < 0 or other == k:
                continue
            dot = 0.0
            for q in range(start[other], start[other + 1]):
                dot += np.float64(value[q]) * scratch[slot[q]]
            if dot > limit * np.sqrt(square[k] * square[other]):
                if total[k] < total[other] or (total[k] == total[other] and k > other):
                    degenerate[k] = True
                else:
                    degenerate[other] = True
        for m in range(start[k], start[k + 1]):
            scratch[slot[m]] = 0


@kernel("float32(float32)")
def spacing(value):
    """Distance of float32 numbers at a finite value (toward larger sizes); the least one at 0."""
    size = abs(np.float64(value))
    if size == 0.0:
        return np.float32(2.0**-149)
    exponent = int(np.floor(np.log2(size)))
    # log2 may round up at a number just below a power of 2
    if 2.0**exponent > size:
        exponent -= 1
    return np.float32(2.0 ** max(exponent - 23, -149))


@kernel(
    "void(const(int64[::1]), const(int32[::1]), const(float32[::1]), const(float64[::1]), const(float32[::1]), "
    "float32[::1], boolean[::1])"
)
def share(start, slot, value, weight, image, child, stray):
    """Share the image among templates; `child` (m,) gets the shares, `stray` (n_slot,) is set where no template is.

    Parameters
    ----------
    weight : float64, shape (n,)
    image : float32, shape (n_slot,)

    All shares but the largest are cut, toward 0, to multiples of the spacing of float32 numbers at the pixel's value;
    the largest is what is left. All have the pixel's sign, so that no partial sum of them exceeds it: each is a
    multiple of the spacing no larger than the value, hence a float32 number, and sums are exact in any order.
    """
    n_slot = image.size
    n = start.size - 1
    total = np.zeros(n_slot, np.float64)
    largest = np.zeros(n_slot, np.float32)
    holder = np.full(n_slot, -1, np.int64)
    for k in range(n):
        if weight[k] <= 0.0:
            continue
        for m in range(start[k], start[k + 1]):
            part = weight[k] * value[m]
            at = slot[m]
            total[at] += part
            if np.float32(part) > largest[at]:
                largest[at] = part
                holder[at] = m
    left = image.copy()
    for at in range(n_slot):
        stray[at] = holder[at] < 0
    for k in range(n):
        for m in range(start[k], start[k + 1]):
            child[m] = 0
            at = slot[m]
            if weight[k] <= 0.0 or stray[at] or holder[at] == m:
                continue
            whole = np.float64(image[at])
            if not abs(whole) < np.inf:
                continue
            unit = np.float64(spacing(image[at]))
            size = np.floor(abs(whole) * (weight[k] * value[m] / total[at]) / unit) * unit
            size = min(size, abs(np.float64(left[at])))
            part = np.float32(size if whole >= 0 else -size)
            child[m] = part
            left[at] -= part
    for at in range(n_slot):
        if holder[at] >= 0:
            child[holder[at]] = left[at]
