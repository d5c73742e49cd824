"""Full Visit PSF Estimation (LDM-151 8.10.1): moments of stars, and of what a model leaves of them."""

from __future__ import annotations

import math

import numpy as np

from skyquilt.algorithms.psf_modeling.star_stamps import StarStamps, nearest_pixel
from skyquilt.primitives.compiled import kernel


@kernel("int64(const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, float64, float64[::1])")
def gaussian_star(image, good, x, y, sigma, found):
    """The elliptical Gaussian that fits a star best: 0, or 1 when the iteration does not settle.

    Bad pixels count as those opposite to them, else as the Gaussian's own; after Bernstein and Jarvis (2002),
    AJ 123, 583, section 3.

    Parameters
    ----------
    x, y, sigma : float
        First guess, the place off the middle pixel [pixel].
    found : ndarray, shape (6,)
        Filled with flux, x, y and xx, yy, xy of the Gaussian.
    """
    side = image.shape[0]
    half = side // 2
    xx, yy, xy = sigma * sigma, sigma * sigma, 0.0
    x_first, y_first, flux = x, y, 0.0
    for _ in range(60):
        det = xx * yy - xy * xy
        total, mx, my, mxx, myy, mxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        scale = flux / (2.0 * math.pi * math.sqrt(det))
        for j in range(side):
            dy = j - half - y
            for i in range(side):
                dx = i - half - x
                distance = (yy * dx * dx - 2.0 * xy * dx * dy + xx * dy * dy) / det
                if distance > 30.0:
                    continue
                weight = math.exp(-0.5 * distance)
                if good[j, i]:
                    value = np.float64(image[j, i])
                else:
                    oj = int(np.rint(2.0 * (half + y) - j))
                    oi = int(np.rint(2.0 * (half + x) - i))
                    if 0 <= oj < side and 0 <= oi < side and good[oj, oi]:
                        value = np.float64(image[oj, oi])
                    else:
                        value = scale * weight
                value *= weight
                total += value
                mx += value * dx
                my += value * dy
                mxx += value * dx * dx
                myy += value * dy * dy
                mxy += value * dx * dy
        if not total > 0.0:
            return 1
        x_step, y_step = 2.0 * mx / total, 2.0 * my / total
        nxx, nyy, nxy = 2.0 * mxx / total, 2.0 * myy / total, 2.0 * mxy / total
        flux = 2.0 * total
        if not (nxx > 0.05 and nyy > 0.05 and nxx * nyy > nxy * nxy and nxx + nyy < 0.5 * side * side):
            return 1
        moved = abs(nxx - xx) + abs(nyy - yy) + abs(nxy - xy) + abs(x_step) + abs(y_step)
        x += x_step
        y += y_step
        xx, yy, xy = nxx, nyy, nxy
        if math.hypot(x - x_first, y - y_first) > 0.25 * side:
            return 1
        if moved < 1e-4 * (xx + yy):
            found[0], found[1], found[2] = flux, x, y
            found[3], found[4], found[5] = xx, yy, xy
            return 0
    return 1


@kernel(
    "int64(const(float64[:, :, ::1]), const(boolean[:, ::1]), float64, float64, float64, float64, float64[::1])"
)
def moment_residuals(layers, good, amplitude, x, y, sigma, found):
    """Adaptive moments of a star's model, and what its residuals change of them; 0, or 1 for no result.

    With weight W, the Gaussian of moments M of the model, sum W (r r^T - M / 2) P = 0. To first order the
    residuals R move M by the solution of J dM = -sum W (r r^T - M / 2) R / amplitude: linear in the noise, so
    its error is known and it has no bias from noise.

    Parameters
    ----------
    layers : ndarray, shape (3, s, s)
        Profile, residual (0 where bad) and variance of `star_equations`.
    good : ndarray of bool, shape (s, s)
    amplitude, x, y : float
        Of the star; its centre off the middle pixel.
    sigma : float
        First guess of the width [pixel].
    found : ndarray, shape (7,)
        Filled with the size T = xx + yy of the model [pixel^2]; of the residuals dT / T, de1, de2; and the
        standard errors of these.
    """
    side = layers.shape[1]
    half = side // 2
    xx, yy, xy = sigma * sigma, sigma * sigma, 0.0
    settled = False
    for _ in range(80):
        det = xx * yy - xy * xy
        total, mxx, myy, mxy = 0.0, 0.0, 0.0, 0.0
        for j in range(side):
            dy = j - half - y
            for i in range(side):
                dx = i - half - x
                distance = (yy * dx * dx - 2.0 * xy * dx * dy + xx * dy * dy) / det
                if distance > 30.0:
                    continue
                value = math.exp(-0.5 * distance) * layers[0, j, i]
                total += value
                mxx += value * dx * dx
                myy += value * dy * dy
                mxy += value * dx * dy
        nxx, nyy, nxy = 2.0 * mxx / total, 2.0 * myy / total, 2.0 * mxy / total
        if not (total > 0.0 and nxx > 0.01 and nyy > 0.01 and nxx * nyy > nxy * nxy):
            return 1
        moved = abs(nxx - xx) + abs(nyy - yy) + abs(nxy - xy)
        xx, yy, xy = nxx, nyy, nxy
        if moved < 1e-7 * (xx + yy):
            settled = True
            break
    if not settled:
        return 1
    det = xx * yy - xy * xy
    moment = np.array([xx, yy, xy])
    jacobian, change, noise = np.zeros((3, 3)), np.zeros(3), np.zeros((3, 3))
    product, slope = np.empty(3), np.empty(3)
    total = 0.0
    for j in range(side):
        dy = j - half - y
        for i in range(side):
            dx = i - half - x
            distance = (yy * dx * dx - 2.0 * xy * dx * dy + xx * dy * dy) / det
            if distance > 30.0:
                continue
            weight = math.exp(-0.5 * distance)
            p, q = (yy * dx - xy * dy) / det, (xx * dy - xy * dx) / det
            product[0], product[1], product[2] = dx * dx, dy * dy, dx * dy
            slope[0], slope[1], slope[2] = 0.5 * p * p, 0.5 * q * q, p * q
            value = weight * layers[0, j, i]
            total += value
            for m in range(3):
                part = product[m] - 0.5 * moment[m]
                for n in range(3):
                    jacobian[m, n] += value * part * slope[n]
            if good[j, i]:
                for m in range(3):
                    part = weight * (product[m] - 0.5 * moment[m])
                    change[m] += part * layers[1, j, i]
                    for n in range(3):
                        other = weight * (product[n] - 0.5 * moment[n])
                        noise[m, n] += part * other * layers[2, j, i]
    for m in range(3):
        jacobian[m, m] -= 0.5 * total
    inverse = -np.linalg.inv(jacobian) / amplitude
    step = inverse @ change
    covariance = inverse @ noise @ inverse.T
    size = xx + yy
    e1, e2 = (xx - yy) / size, 2.0 * xy / size
    to_shape = np.array([[1.0, 1.0, 0.0], [1.0 - e1, -1.0 - e1, 0.0], [-e2, -e2, 2.0]]) / size
    shape = to_shape @ step
    spread = to_shape @ covariance @ to_shape.T
    found[0] = size
    for m in range(3):
        found[1 + m] = shape[m]
        found[4 + m] = math.sqrt(max(spread[m, m], 0.0))
    return 0


def first_look(stamps: StarStamps, good: np.ndarray) -> np.ndarray:
    """Flux, centre off the middle pixel and moments xx, yy, xy of each star's Gaussian, (n, 6); NaN for none.

    Stars of a pixel or two may have no such Gaussian: they have the others' width, their place as it was given,
    and the light of the pixels about it.
    """
    found = np.full((len(stamps), 6), np.nan)
    dx, dy = stamps.x - nearest_pixel(stamps.x), stamps.y - nearest_pixel(stamps.y)
    one = np.empty(6)
    for k in range(len(stamps)):
        if not good[k].any():
            continue
        for sigma in (1.5, 3.0):
            if gaussian_star(stamps.image[k], good[k], dx[k], dy[k], sigma, one) == 0:
                found[k] = one
                break
    missing = np.isnan(found[:, 0])
    if missing.any() and not missing.all():
        middle = stamps.side // 2
        near = np.s_[missing, max(middle - 2, 0) : middle + 3, max(middle - 2, 0) : middle + 3]
        light = np.where(good[near], stamps.image[near], 0).sum(axis=(1, 2), dtype=np.float64)
        width = np.median(found[~missing, 3:5])
        guess = np.column_stack(
            [light, dx[missing], dy[missing], *(np.full(light.size, w) for w in (width, width, 0))]
        )
        whole = good[near].mean(axis=(1, 2)) > 0.5
        found[missing] = np.where((whole & (light > 0))[:, None], guess, np.nan)
    return found
