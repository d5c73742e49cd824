"""Simulation (design 7): charge and crystal rings move the boundaries between pixels.

Charge in a pixel draws the boundaries around it towards itself (Antilogus et al. 2014, JINST 9 C03048; Guyonnet
et al. 2015, A&A 575, A41): light that falls between the old place of a boundary and the new one goes to the
neighbour. Each boundary has a shift per electron for every pixel around it; the shifts along rows and columns
are independent of one another and come from no potential. What leaves one pixel enters another, so the total
is kept, and a uniform light stays uniform on average.

For light of rate r the covariance of two pixels of a flat of mean mu becomes mu^2 times the relative change of
area per electron. Charge between the start and the end grows evenly given its final number, so that it stands
at half of it on average: stepping with that middle gives these covariances whatever the number of steps.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel


def boundary_coefficients(
    serial: float, parallel: float, slope: float, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts of boundaries by one electron, away from it [pixel/e].

    Parameters
    ----------
    serial, parallel : float
        Size of the shift of the boundary at distance 1/2, along the row and along the column [pixel/e].
    slope : float
        The shift falls as distance^-slope, times the cosine to the boundary's normal.
    reach : int
        Boundaries farther than this from the charge, along either axis, stay.

    Returns
    -------
    along_row : ndarray of float64, shape (reach + 1, reach)
        [j, i]: of a boundary whose middle is i + 1/2 columns and j rows from the charge; the boundary
        towards greater x moves by minus this (towards the charge).
    along_column : ndarray of float64, shape (reach, reach + 1)
        [j, i]: of a boundary that is j + 1/2 rows and i columns away.
    """
    across = np.arange(reach + 1.0)
    normal = np.arange(reach) + 0.5
    distance = np.hypot(across[:, None], normal[None, :])
    shape = (normal[None, :] / distance) * (2 * distance) ** -slope
    return serial * shape, np.ascontiguousarray(parallel * shape.T)


def area_changes(along_row: np.ndarray, along_column: np.ndarray) -> np.ndarray:
    """Relative change of a pixel's area by an electron j rows and i columns away [1/e].

    These are the coefficients a_ij of Antilogus et al.: covariance over squared mean, to first order.

    Returns
    -------
    ndarray of float64, shape (reach + 1, reach + 1)
        Over all four quadrants their sum is 0.
    """
    reach = along_row.shape[1]
    far_row = np.zeros((reach + 1, reach + 1))
    far_row[:, :reach] = along_row
    far_column = np.zeros((reach + 1, reach + 1))
    far_column[:reach] = along_column
    # both boundaries of a pixel move towards the charge: the far one takes area, the near one gives
    near_row = np.concatenate([-far_row[:, :1], far_row[:, :-1]], axis=1)
    near_column = np.concatenate([-far_column[:1], far_column[:-1]])
    return near_row - far_row + near_column - far_column


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(float32[:, ::1]), const(float32[:, ::1]),"
    " float32, float32[:, ::1])"
)
def move_light(light, charge, along_row, along_column, weight, out):
    """Add to `out` what boundaries that charge has moved bring to each pixel and take from it.

    Parameters
    ----------
    light : ndarray of float32, shape (ny, nx) [e]
        Falls while the boundaries are where they are.
    charge : ndarray of float32, shape (ny, nx) [e]
        In the pixels; beyond the edges the outermost pixels go on.
    along_row, along_column : ndarray of float32
        As of `boundary_coefficients`.
    weight : float
        Part of the light that falls.
    out : ndarray of float32, shape (ny, nx) [e]
        Changed in place. Light at a boundary is that of the fifth-degree polynomial through the sums of the six
        pixels across it (their mean is 10 % off in the core of a star of 3 pixels), of two near the edges; none
        crosses the edges.
    """
    ny, nx = light.shape
    reach = along_row.shape[1]
    width, n_slot = nx + 2 * reach, 2 * reach + 1
    # the padded rows j - reach ... j + reach, each at its number modulo n_slot
    rows = np.empty((n_slot, width), dtype=np.float32)
    pair = np.empty(width, dtype=np.float32)
    shift = np.empty(nx, dtype=np.float32)
    half = np.float32(0.5) * weight
    near, middle, far = np.float32(37 / 60), np.float32(-8 / 60), np.float32(1 / 60)
    density = np.empty(nx, dtype=np.float32)
    for k in range(-reach, ny + reach):
        padded, row = rows[(k + n_slot) % n_slot], charge[min(max(k, 0), ny - 1)]
        padded[:reach] = row[0]
        padded[reach : reach + nx] = row
        padded[reach + nx :] = row[nx - 1]
        j = k - reach
        if j < 0:
            continue
        shift[:] = 0
        for b in range(reach + 1):
            up, down = rows[(j + b) % n_slot], rows[(j - b + n_slot) % n_slot]
            for i in range(width):
                pair[i] = up[i] + down[i]
            for a in range(reach):
                c = along_row[b, a] * (np.float32(0.5) if b == 0 else np.float32(1))
                right, left = pair[reach + 1 + a : reach + a + nx], pair[reach - a : reach - a + nx - 1]
                for i in range(nx - 1):
                    shift[i] += c * (right[i] - left[i])
        for i in range(nx - 1):
            density[i] = half * (light[j, i] + light[j, i + 1])
        for i in range(2, nx - 3):
            a, b = light[j, i] + light[j, i + 1], light[j, i - 1] + light[j, i + 2]
            smooth = near * a + middle * b + far * (light[j, i - 2] + light[j, i + 3])
            density[i] = max(weight * smooth, np.float32(0))
        for i in range(nx - 1):
            shift[i] *= density[i]
        for i in range(nx - 1):
            out[j, i] += shift[i]
        for i in range(nx - 1):
            out[j, i + 1] -= shift[i]
        if j == ny - 1:
            break
        shift[:] = 0
        for b in range(reach):
            up, down = rows[(j + 1 + b) % n_slot], rows[(j - b + n_slot) % n_slot]
            for i in range(width):
                pair[i] = up[i] - down[i]
            for a in range(reach + 1):
                c = along_column[b, a] * (np.float32(0.5) if a == 0 else np.float32(1))
                right, left = pair[reach + a : reach + a + nx], pair[reach - a : reach - a + nx]
                for i in range(nx):
                    shift[i] += c * (right[i] + left[i])
        if 2 <= j < ny - 3:
            for i in range(nx):
                a, b = light[j, i] + light[j + 1, i], light[j - 1, i] + light[j + 2, i]
                smooth = near * a + middle * b + far * (light[j - 2, i] + light[j + 3, i])
                density[i] = max(weight * smooth, np.float32(0))
        else:
            for i in range(nx):
                density[i] = half * (light[j, i] + light[j + 1, i])
        for i in range(nx):
            shift[i] *= density[i]
        for i in range(nx):
            out[j, i] += shift[i]
        for i in range(nx):
            out[j + 1, i] -= shift[i]


@kernel(
    "float32[:, ::1](const(float32[:, ::1]), const(float32[:, ::1]), const(float32[:, ::1]))",
)
def displaced(light, shift_x, shift_y):
    """Light in pixels whose boundaries are displaced once and for all.

    Parameters
    ----------
    light : ndarray of float32, shape (ny, nx) [e]
    shift_x, shift_y : ndarray of float32, shape (ny, nx) [pixel]
        Of each pixel's boundary towards greater x (y); the last column (row) is not used.

    Returns
    -------
    ndarray of float32, shape (ny, nx) [e]
        Of the same sum.
    """
    ny, nx = light.shape
    half = np.float32(0.5)
    out = light.copy()
    for j in range(ny):
        for i in range(nx - 1):
            moved = shift_x[j, i] * half * (light[j, i] + light[j, i + 1])
            out[j, i] += moved
            out[j, i + 1] -= moved
        if j < ny - 1:
            for i in range(nx):
                moved = shift_y[j, i] * half * (light[j, i] + light[j + 1, i])
                out[j, i] += moved
                out[j + 1, i] -= moved
    return out
