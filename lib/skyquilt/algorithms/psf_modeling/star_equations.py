"""Full Visit PSF Estimation (LDM-151 8.10.1): what the pixels of one star say about the profile.

A star is amplitude * sum_k c_k phi_k(frame (pixel - centre)). Its residuals are linearised in the c_k, the
amplitude and the centre; weights come from the model, never from the star's own pixels.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.profile_basis import basis_at, profile_values

N_SCALARS = 12


@kernel(
    "void(const(float32[:, ::1]), const(boolean[:, ::1]), float64[::1], const(float64[::1]),"
    " const(float64[:, ::1]), const(float64[::1]), const(float64[::1]), boolean,"
    " float64[:, ::1], float64[:, ::1], float64[::1], float64[:, :, ::1])"
)
def star_equations(
    image, good, star, noise, frame, coefficients, numbers, whole, matrix, columns, scalars, layers
):
    """Sums over the good pixels of a star.

    Parameters
    ----------
    image, good : ndarray, shape (s, s)
    star : ndarray, shape (6,)
        Amplitude, centre (x, y) off the middle pixel [pixel], its covariance xx, xy, yy [pixel^2].
    noise : ndarray, shape (3,)
        Variance of the sky, variance per unit of light, and the model's relative error in a pixel.
    frame : ndarray, shape (2, 2)
    coefficients : ndarray, shape (K,)
    numbers : ndarray
        `ProfileBasis.numbers`.
    whole : bool
        False leaves `matrix` and `columns` out.
    matrix : ndarray, shape (K, K)
        Filled with sum phi_k phi_l / variance.
    columns : ndarray, shape (K, 3)
        Filled with sum phi_k (P_x, P_y, residual) / variance: derivatives by pixel offset, and the residual
        without what the noise of the centre does to it.
    scalars : ndarray, shape (12,)
        Filled with sums of P_x P_x, P_x P_y, P_y P_y, P_x residual, P_y residual, residual^2 (each over the
        variance; the last is chi2), number of pixels, share of sum P^2 that good pixels have, and sums of P P,
        P P_x, P P_y, P residual over the variance.
    layers : ndarray, shape (3, s, s)
        Filled with the profile, the residual and the variance.

    Notes
    -----
    A centre fitted to noisy pixels with covariance C makes residuals smaller by half of C_ij P_ij on average,
    and profiles fitted to them too sharp; that term is added to the residual. It follows from the expansion of
    the score to second order, where the product of noise and centre vanishes for weights 1 / variance.
    """
    side = image.shape[0]
    half = side // 2
    order = int(numbers[3])
    width = 2 * order + 1
    block = 4 * width
    weights, harmonics, values = np.empty(10), np.empty(width), np.empty(block)
    (a, b), (c, d) = (frame[0, 0], frame[0, 1]), (frame[1, 0], frame[1, 1])
    n_pixel = side * side
    u, v, found = np.empty(n_pixel), np.empty(n_pixel), np.empty((n_pixel, 3))
    for j in range(side):
        dy = j - half - star[2]
        for i in range(side):
            dx = i - half - star[1]
            u[j * side + i] = a * dx + b * dy
            v[j * side + i] = c * dx + d * dy
    profile_values(coefficients, numbers, u, v, found)
    amplitude = star[0]
    columns[:, :] = 0.0
    scalars[:] = 0.0
    if whole:
        matrix[:, :] = 0.0
    total_square = 0.0
    for j in range(side):
        for i in range(side):
            k = j * side + i
            profile = found[k, 0]
            light = amplitude * profile
            variance = noise[0] + noise[1] * max(light, 0.0) + (noise[2] * light) ** 2
            layers[0, j, i] = profile
            layers[2, j, i] = variance
            total_square += profile * profile
            if not good[j, i]:
                layers[1, j, i] = 0.0
                continue
            residual = image[j, i] - light
            layers[1, j, i] = residual
            weight = 1.0 / variance
            scalars[5] += weight * residual * residual
            scalars[6] += 1.0
            scalars[7] += profile * profile
            if 0 < j < side - 1 and 0 < i < side - 1:
                xx = found[k + 1, 0] - 2.0 * profile + found[k - 1, 0]
                yy = found[k + side, 0] - 2.0 * profile + found[k - side, 0]
                xy = 0.25 * (
                    found[k + side + 1, 0]
                    - found[k + side - 1, 0]
                    - found[k - side + 1, 0]
                    + found[k - side - 1, 0]
                )
                residual += 0.5 * amplitude * (star[3] * xx + 2.0 * star[4] * xy + star[5] * yy)
            slope_x = a * found[k, 1] + c * found[k, 2]
            slope_y = b * found[k, 1] + d * found[k, 2]
            scalars[0] += weight * slope_x * slope_x
            scalars[1] += weight * slope_x * slope_y
            scalars[2] += weight * slope_y * slope_y
            scalars[3] += weight * slope_x * residual
            scalars[4] += weight * slope_y * residual
            scalars[8] += weight * profile * profile
            scalars[9] += weight * profile * slope_x
            scalars[10] += weight * profile * slope_y
            scalars[11] += weight * profile * residual
            if not whole:
                continue
            first = basis_at(u[k], v[k], numbers, weights, harmonics)
            start = first * width
            for n in range(4):
                for h in range(width):
                    values[n * width + h] = weights[n] * harmonics[h]
            for p in range(block):
                part = weight * values[p]
                columns[start + p, 0] += part * slope_x
                columns[start + p, 1] += part * slope_y
                columns[start + p, 2] += part * residual
                row = matrix[start + p, start:]
                for q in range(p, block):
                    row[q] += part * values[q]
    scalars[7] /= total_square
    if whole:
        for p in range(matrix.shape[0]):
            for q in range(p):
                matrix[p, q] = matrix[q, p]
