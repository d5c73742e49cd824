"""Kernels that draw and fit point sources (LDM-151 8.4); `point_sources` says what for."""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel


@kernel(
    "void(const(float32[:, :, :, :, :, ::1]), const(float64[::1]), const(float64[::1]), float64, float64, int64, "
    "float64[:, ::1])"
)
def draw(tables, y_nodes, x_nodes, x, y, half, out):
    """Fill `out` (2 half + 1 squared) with the PSF of a star at (x, y), around the pixel nearest to it."""
    n = tables.shape[4]
    centre = n // 2
    out[:, :] = 0.0
    place = (y, x)
    tap_phase = np.empty((2, 6), np.int64)
    tap_shift = np.empty((2, 6), np.int64)
    tap_weight = np.empty((2, 6), np.float64)
    node = np.zeros((2, 2), np.int64)
    node_weight = np.zeros((2, 2), np.float64)
    for axis in range(2):
        at = place[axis]
        base = 4.0 * (0.375 - (at - np.floor(at + 0.5)))
        low = int(np.floor(base))
        t = base - low
        for a in range(6):
            m = low + a - 2
            tap_phase[axis, a] = m % 4
            tap_shift[axis, a] = m // 4
            weight = 1.0
            for b in range(6):
                if b != a:
                    weight *= (t - (b - 2)) / (a - b)
            tap_weight[axis, a] = weight
        nodes = y_nodes if axis == 0 else x_nodes
        if nodes.size == 1:
            node_weight[axis, 0] = 1.0
        else:
            k = min(max(int(np.searchsorted(nodes, at)) - 1, 0), nodes.size - 2)
            share = min(max((at - nodes[k]) / (nodes[k + 1] - nodes[k]), 0.0), 1.0)
            node[axis, 0] = k
            node[axis, 1] = k + 1
            node_weight[axis, 0] = 1.0 - share
            node_weight[axis, 1] = share
    for q in range(2):
        for p in range(2):
            outer = node_weight[0, q] * node_weight[1, p]
            if outer == 0.0:
                continue
            for b in range(6):
                for a in range(6):
                    weight = outer * tap_weight[0, b] * tap_weight[1, a]
                    if weight == 0.0:
                        continue
                    table = tables[node[0, q], node[1, p], tap_phase[0, b], tap_phase[1, a]]
                    dy, dx = centre - half + tap_shift[0, b], centre - half + tap_shift[1, a]
                    first, last = max(0, -dx), min(2 * half + 1, n - dx)
                    for j in range(max(0, -dy), min(2 * half + 1, n - dy)):
                        target = out[j, first:last]
                        source = table[j + dy, first + dx : last + dx]
                        for i in range(target.size):
                            target[i] += weight * source[i]


@kernel("void(float32[:, ::1], const(float64[:, ::1]), int64, int64, float64)")
def add_stamp(image, stamp, row, column, factor):
    """Add `factor` times a stamp whose middle lies on a pixel; what is off the image is left out."""
    ny, nx = image.shape
    half = stamp.shape[0] // 2
    for j in range(max(0, half - row), min(stamp.shape[0], ny - row + half)):
        for i in range(max(0, half - column), min(stamp.shape[1], nx - column + half)):
            image[row + j - half, column + i - half] += factor * stamp[j, i]


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), const(float64[:, ::1]), "
    "float64, float64, float64, float64, float64, float64, boolean, float64[::1])"
)
def fit_one(image, residual, unusable, stamp, x, y, flux, variance, radius, error2, moving, result):
    """One step of flux and place of a star whose model is still subtracted from `residual`.

    `stamp` is its PSF. Fills `result` with flux, step in x and y, variance of the flux, chi2 of the data about the
    model as it was, and number of pixels. Variance of a pixel: sky, photons of all models there, `error2` times
    their square.
    """
    ny, nx = image.shape
    half = stamp.shape[0] // 2
    row, column = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
    m = np.zeros((3, 3))
    v = np.zeros(3)
    chi2 = 0.0
    count = 0
    reach = min(int(np.ceil(radius)), half)
    for j in range(max(row - reach, 0), min(row + reach + 1, ny)):
        for i in range(max(column - reach, 0), min(column + reach + 1, nx)):
            if (j - y) ** 2 + (i - x) ** 2 > radius**2 or unusable[j, i]:
                continue
            left = np.float64(residual[j, i])
            if not abs(left) < np.inf:
                continue
            b, a = j - row + half, i - column + half
            p = stamp[b, a]
            model = max(np.float64(image[j, i]) - left, 0.0)
            w = 1.0 / (variance + model + error2 * model * model)
            if not w > 0.0:
                continue
            count += 1
            chi2 += w * left * left
            data = left + flux * p
            m[0, 0] += w * p * p
            v[0] += w * p * data
            if not moving or b == 0 or a == 0 or b == 2 * half or a == 2 * half:
                continue
            # the star at x + dx is P - dx dP/du
            px = -0.5 * (stamp[b, a + 1] - stamp[b, a - 1])
            py = -0.5 * (stamp[b + 1, a] - stamp[b - 1, a])
            m[0, 1] += w * p * px
            m[0, 2] += w * p * py
            m[1, 1] += w * px * px
            m[1, 2] += w * px * py
            m[2, 2] += w * py * py
            v[1] += w * px * data
            v[2] += w * py * data
    result[:] = 0.0
    result[3] = np.inf
    result[4] = chi2
    result[5] = count
    if m[0, 0] <= 0.0:
        return
    # places by elimination of the flux; a singular matrix leaves the place alone
    c11 = m[1, 1] - m[0, 1] * m[0, 1] / m[0, 0]
    c22 = m[2, 2] - m[0, 2] * m[0, 2] / m[0, 0]
    c12 = m[1, 2] - m[0, 1] * m[0, 2] / m[0, 0]
    r1 = v[1] - m[0, 1] * v[0] / m[0, 0]
    r2 = v[2] - m[0, 2] * v[0] / m[0, 0]
    determinant = c11 * c22 - c12 * c12
    gx, gy = 0.0, 0.0
    if moving and determinant > 1e-6 * c11 * c22 and c11 > 0.0:
        gx = (c22 * r1 - c12 * r2) / determinant
        gy = (c11 * r2 - c12 * r1) / determinant
    new = (v[0] - m[0, 1] * gx - m[0, 2] * gy) / m[0, 0]
    result[0] = new
    result[3] = 1.0 / m[0, 0]
    if new * new * m[0, 0] > 9.0:
        result[1] = min(max(gx / new, -0.5), 0.5)
        result[2] = min(max(gy / new, -0.5), 0.5)


@kernel(
    "void(const(float32[:, ::1]), float32[:, ::1], const(boolean[:, ::1]), const(float32[:, :, :, :, :, ::1]), "
    "const(float64[::1]), const(float64[::1]), const(int64[::1]), const(float64[::1]), const(float64[::1]), "
    "const(float64[::1]), const(int64[::1]), const(boolean[::1]), float64, float64, float64, int64, float64[::1], "
    "float64[::1], float64[::1], float64[::1], float64[::1], int64[::1])"
)
def fit_by_turns(
    image,
    residual,
    unusable,
    tables,
    y_nodes,
    x_nodes,
    order,
    x_first,
    y_first,
    variance,
    reach,
    moving,
    radius,
    error2,
    farthest,
    rounds,
    x,
    y,
    flux,
    flux_error,
    chi2,
    n_pixel,
):
    """Fit stars in the given order, `rounds` times, each to the image without the others.

    `residual` is the image at first, and without all stars at the end. The last turn moves nothing: it finds chi2
    and errors.
    """
    result = np.empty(6)
    for k in order:
        stamp = np.empty((2 * reach[k] + 1, 2 * reach[k] + 1))
        draw(tables, y_nodes, x_nodes, x[k], y[k], reach[k], stamp)
        add_stamp(residual, stamp, int(np.floor(y[k] + 0.5)), int(np.floor(x[k] + 0.5)), -flux[k])
    for turn in range(rounds + 1):
        for k in order:
            stamp = np.empty((2 * reach[k] + 1, 2 * reach[k] + 1))
            draw(tables, y_nodes, x_nodes, x[k], y[k], reach[k], stamp)
            fit_one(
                image,
                residual,
                unusable,
                stamp,
                x[k],
                y[k],
                flux[k],
                variance[k],
                radius,
                error2,
                moving[k],
                result,
            )
            if turn == rounds:
                parameters = 3 if moving[k] else 1
                n_pixel[k] = int(result[5])
                flux_error[k] = np.sqrt(result[3])
                chi2[k] = result[4] / (n_pixel[k] - parameters) if n_pixel[k] > parameters else np.nan
                continue
            if result[5] == 0.0:
                continue
            row, column = int(np.floor(y[k] + 0.5)), int(np.floor(x[k] + 0.5))
            add_stamp(residual, stamp, row, column, flux[k])
            flux[k] = max(result[0], 0.0)
            x[k] = min(max(x[k] + result[1], x_first[k] - farthest), x_first[k] + farthest)
            y[k] = min(max(y[k] + result[2], y_first[k] - farthest), y_first[k] + farthest)
            draw(tables, y_nodes, x_nodes, x[k], y[k], reach[k], stamp)
            row, column = int(np.floor(y[k] + 0.5)), int(np.floor(x[k] + 0.5))
            add_stamp(residual, stamp, row, column, -flux[k])


@kernel(
    "void(float32[:, ::1], const(float32[:, :, :, :, :, ::1]), const(float64[::1]), const(float64[::1]), "
    "const(float64[::1]), const(float64[::1]), const(float64[::1]), const(int64[::1]))"
)
def add_models(image, tables, y_nodes, x_nodes, x, y, flux, reach):
    """Add stars of some fluxes."""
    for k in range(x.size):
        stamp = np.empty((2 * reach[k] + 1, 2 * reach[k] + 1))
        draw(tables, y_nodes, x_nodes, x[k], y[k], reach[k], stamp)
        add_stamp(image, stamp, int(np.floor(y[k] + 0.5)), int(np.floor(x[k] + 0.5)), flux[k])
