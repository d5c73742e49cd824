"""Aperture Photometry (LDM-151 8.6.2.4): sums in nested ellipses of one shape, cut pixels by their area inside.

Whole pixels are summed once, in runs along rows, however many apertures there are. Of cut pixels the area is an integral
over the row's height of how much of the pixel lies between the ellipse's left and right edge, by 8 nodes (4 for ellipses
larger than 12 pixels): good to 1e-3 of a pixel, 1e-4 of the area of a circle of 3 pixels.

Pixels that must not be used are replaced, ring by ring, by the mean of the ring's others.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel

_NODES, _WEIGHTS = (tuple(values.tolist()) for values in np.polynomial.legendre.leggauss(8))
_FEW_NODES, _FEW_WEIGHTS = (tuple(values.tolist()) for values in np.polynomial.legendre.leggauss(4))


@kernel("void(float64, float64, float64, float64, float64, float64[::1])")
def _row_limits(dy, cxx, cyy, cxy, radius, limits):
    """Fill `limits`: where the row of pixels about dy is touched (0, 1) and wholly inside (2, 3), as offsets in x.

    Nothing is touched, or inside, where the second is below the first.
    """
    det = cxx * cyy - cxy * cxy
    limits[0] = limits[2] = 1.0
    limits[1] = limits[3] = -1.0
    top = radius * np.sqrt(cxx / det)
    if dy - 0.5 >= top or dy + 0.5 <= -top:
        return
    low, high = max(dy - 0.5, -top), min(dy + 0.5, top)
    half_low = np.sqrt(max(radius * radius * cxx - det * low * low, 0.0)) / cxx
    half_high = np.sqrt(max(radius * radius * cxx - det * high * high, 0.0)) / cxx
    centre_low, centre_high = -cxy * low / cxx, -cxy * high / cxx
    left = min(centre_low - half_low, centre_high - half_high)
    right = max(centre_low + half_low, centre_high + half_high)
    # the extreme points of the ellipse, where they are in this row
    extreme = radius * np.sqrt(cyy / det)
    at = -cxy / cyy * extreme
    if low <= at <= high:
        right = extreme
    if low <= -at <= high:
        left = -extreme
    limits[0], limits[1] = left, right
    if dy - 0.5 >= -top and dy + 0.5 <= top:
        limits[2] = max(centre_low - half_low, centre_high - half_high)
        limits[3] = min(centre_low + half_low, centre_high + half_high)


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, "
    "float64, float64, float64, const(float64[::1]), float64[:, ::1])"
)
def nested_ellipses(image, variance, bad, x, y, cxx, cyy, cxy, radii, sums):
    """Fill `sums` (n, 4): light, variance, usable area, whole area [pixel] of each ellipse.

    `image` and `variance` are 0 where `bad`. Ellipses are cxx u^2 + cyy v^2 + 2 cxy u v <= r^2 about (x, y), r of
    `radii` (n,) ascending. Light and variance are those of the whole area: a ring's missing pixels have the
    mean of its others; NaN from the ring on that has none.
    """
    rows, columns = image.shape
    n = radii.size
    det = cxx * cyy - cxy * cxy
    whole = np.zeros((n, 3))
    cut = np.zeros((n, 3))
    limits = np.empty(4)
    left, right, share = np.empty(8), np.empty(8), np.empty(8)
    largest = radii[n - 1] * np.sqrt(cxx / det)
    for j in range(max(int(np.ceil(y - largest - 0.5)), 0), min(int(np.floor(y + largest + 0.5)) + 1, rows)):
        dy = j - y
        # columns inside the next smaller ellipse: first (from) to last
        held_from, held_to = 0, -1
        for m in range(n):
            _row_limits(dy, cxx, cyy, cxy, radii[m], limits)
            if limits[1] < limits[0]:
                continue
            outer_from = max(int(np.ceil(x + limits[0] - 0.5)), 0)
            outer_to = min(int(np.floor(x + limits[1] + 0.5)), columns - 1)
            inner_from, inner_to = 0, -1
            if limits[3] - limits[2] >= 1.0:
                inner_from = max(int(np.ceil(x + limits[2] + 0.5)), 0)
                inner_to = min(int(np.floor(x + limits[3] - 0.5)), columns - 1)
            if inner_to < inner_from:
                inner_from, inner_to = outer_to + 1, outer_to
            top = radii[m] * np.sqrt(cxx / det)
            low, high = max(dy - 0.5, -top), min(dy + 0.5, top)
            n_nodes = 4 if radii[m] * radii[m] > 144.0 * max(cxx, cyy) else 8
            for q in range(n_nodes):
                node = _FEW_NODES[q] if n_nodes == 4 else _NODES[q]
                v = 0.5 * (low + high) + 0.5 * (high - low) * node
                half = np.sqrt(max(radii[m] * radii[m] * cxx - det * v * v, 0.0)) / cxx
                left[q] = x - cxy * v / cxx - half
                right[q] = left[q] + 2.0 * half
                share[q] = 0.5 * (high - low) * (_FEW_WEIGHTS[q] if n_nodes == 4 else _WEIGHTS[q])
            for side in range(2):
                begin, end = (outer_from, inner_from) if side == 0 else (inner_to + 1, outer_to + 1)
                for i in range(begin, end):
                    if bad[j, i]:
                        continue
                    area = 0.0
                    for q in range(n_nodes):
                        area += share[q] * max(min(right[q], i + 0.5) - max(left[q], i - 0.5), 0.0)
                    cut[m, 0] += area * np.float64(image[j, i])
                    cut[m, 1] += area * area * np.float64(variance[j, i])
                    cut[m, 2] += area
            if inner_to < inner_from:
                continue
            light = 0.0
            noise = 0.0
            count = 0
            if held_to < held_from:
                held_from, held_to = inner_to + 1, inner_to
            for side in range(2):
                begin, end = (inner_from, held_from) if side == 0 else (held_to + 1, inner_to + 1)
                for i in range(begin, end):
                    light += np.float64(image[j, i])
                    noise += np.float64(variance[j, i])
                    count += 0 if bad[j, i] else 1
            whole[m, 0] += light
            whole[m, 1] += noise
            whole[m, 2] += count
            held_from, held_to = inner_from, inner_to
    _join_rings(whole, cut, radii, 1.0 / np.sqrt(det), sums)


@kernel("void(float64[:, ::1], float64[:, ::1], const(float64[::1]), float64, float64[:, ::1])")
def _join_rings(whole, cut, radii, shape, sums):
    """From sums over whole pixels of rings and cut pixels of ellipses to those of `nested_ellipses`."""
    total = np.zeros(2)
    inner = np.zeros(3)
    held = np.zeros(3)
    inner_true = 0.0
    for m in range(radii.size):
        true = np.pi * radii[m] ** 2 * shape
        held += whole[m]
        here = held + cut[m]
        ring = true - inner_true
        good = here[2] - inner[2]
        # rounding of a thousand areas must not look like a missing pixel
        scale = ring / good if good < ring * (1.0 - 1e-9) else 1.0
        if good < 1e-3 * ring:
            scale = np.nan
        total[0] += scale * (here[0] - inner[0])
        total[1] += scale * scale * (here[1] - inner[1])
        inner[:] = here
        inner_true = true
        sums[m, 0] = total[0]
        sums[m, 1] = total[1]
        sums[m, 2] = here[2]
        sums[m, 3] = true


def inside_image(shape: tuple[int, int], x: float, y: float, reach_x: float, reach_y: float) -> bool:
    """Whether the box of half sides reach_x, reach_y [pixel] about (x, y) is inside of an image (ny, nx)."""
    return (
        x - reach_x >= -0.5
        and y - reach_y >= -0.5
        and x + reach_x <= shape[1] - 0.5
        and y + reach_y <= shape[0] - 0.5
    )
