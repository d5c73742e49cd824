"""Static Point Source Models and the PSF fit of centroids (LDM-151 8.6.2.5, 8.6.2.1): sums over a stamp of the PSF.

Templates are the PSF p, its gradient and its Laplacian, by differences of the tenth order (at a FWHM of 2.3
pixels the sixth makes position errors 4 % too large). Weights, where there are
any, are those of a model: 1 / (v + f p) with v the variance without the source's photons, never of the noisy variance
plane, which is low where noise made the image low. Covariances are those of the sums under the variance plane
(sandwich), so they hold for any weight.

The position solves sum w (d - f p) grad p = 0; how exact the gradient is matters for its error only. Convolution of
a source with a narrow Gaussian of variance s^2 adds (s^2 / 2) Laplacian p: its amplitude tells how much wider than the
PSF a source is, without iteration.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel

_FIRST = (5.0 / 6.0, -5.0 / 21.0, 5.0 / 84.0, -5.0 / 504.0, 1.0 / 1260.0)
_SECOND = (5.0 / 3.0, -5.0 / 21.0, 5.0 / 126.0, -5.0 / 1008.0, 1.0 / 3150.0)


@kernel("void(const(float64[:, ::1]), float64[:, :, ::1])")
def psf_derivatives(stamp, result):
    """Fill `result` (5, n, n): what a shift of the source by dx, dy, dx^2 / 2, dy^2 / 2, dx dy adds to the stamp.

    These are minus the first derivatives in x and y, and xx, yy, xy. Beyond the stamp the PSF is taken to be 0.
    """
    n = stamp.shape[0]
    padded = np.zeros((n + 10, n + 10))
    padded[5 : n + 5, 5 : n + 5] = stamp
    across = np.zeros((n + 10, n))
    for j in range(n):
        for i in range(n):
            v, u = j + 5, i + 5
            x = 0.0
            y = 0.0
            xx = -5269.0 / 1800.0 * padded[v, u]
            yy = xx
            for m in range(5):
                left, right = padded[v, u - m - 1], padded[v, u + m + 1]
                below, above = padded[v - m - 1, u], padded[v + m + 1, u]
                x += _FIRST[m] * (left - right)
                y += _FIRST[m] * (below - above)
                xx += _SECOND[m] * (left + right)
                yy += _SECOND[m] * (below + above)
            across[v, i] = x
            result[0, j, i] = x
            result[1, j, i] = y
            result[2, j, i] = xx
            result[3, j, i] = yy
    for j in range(n):
        for i in range(n):
            mixed = 0.0
            for m in range(5):
                mixed += _FIRST[m] * (across[j + 4 - m, i] - across[j + 6 + m, i])
            result[4, j, i] = mixed


@kernel(
    "float64(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), const(float64[:, ::1]), "
    "int64, int64, float64)"
)
def variance_without_source(image, variance, bad, stamp, x0, y0, flux):
    """Mean variance in the stamp's place without the photons of a source of this flux.

    Where that leaves less than half of the least variance there, that half: the variance plane then does not
    follow the photons.
    """
    rows, columns = image.shape
    n = stamp.shape[0]
    total = 0.0
    share = 0.0
    count = 0
    least = np.inf
    for j in range(max(-y0, 0), min(n, rows - y0)):
        for i in range(max(-x0, 0), min(n, columns - x0)):
            if bad[y0 + j, x0 + i]:
                continue
            here = np.float64(variance[y0 + j, x0 + i])
            total += here
            share += stamp[j, i]
            least = min(least, here)
            count += 1
    if count == 0:
        return np.nan
    return max((total - max(flux, 0.0) * share) / count, 0.5 * least)


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), const(float64[:, ::1]), "
    "int64, int64, float64[::1])"
)
def fit_flux(image, variance, bad, stamp, x0, y0, result):
    """Flux of the PSF at a given place, all pixels alike: sum(d p) / sum(p^2).

    Fill `result` (4,): flux, its variance, sum(p) / sum(p^2) [pixel] (what an error of the background is multiplied
    with), share of sum(p^2) of the whole stamp that lies on usable pixels.
    """
    rows, columns = image.shape
    n = stamp.shape[0]
    dp = 0.0
    pp = 0.0
    p = 0.0
    noise = 0.0
    whole = 0.0
    for j in range(n):
        jj = y0 + j
        for i in range(n):
            ii = x0 + i
            value = stamp[j, i]
            whole += value * value
            if jj < 0 or ii < 0 or jj >= rows or ii >= columns or bad[jj, ii]:
                continue
            dp += value * np.float64(image[jj, ii])
            pp += value * value
            p += value
            noise += value * value * np.float64(variance[jj, ii])
    result[0] = dp / pp
    result[1] = noise / (pp * pp)
    result[2] = p / pp
    result[3] = pp / whole


@kernel("boolean(const(float64[:, ::1]), float64[:, ::1])")
def _inverted(m, inverse):
    """Fill `inverse` with that of a symmetric matrix (3, 3); False where it is not positive definite to rounding."""
    inverse[0, 0] = m[1, 1] * m[2, 2] - m[1, 2] ** 2
    inverse[0, 1] = m[0, 2] * m[1, 2] - m[0, 1] * m[2, 2]
    inverse[0, 2] = m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1]
    inverse[1, 1] = m[0, 0] * m[2, 2] - m[0, 2] ** 2
    inverse[2, 2] = m[0, 0] * m[1, 1] - m[0, 1] ** 2
    inverse[1, 2] = m[0, 1] * m[0, 2] - m[0, 0] * m[1, 2]
    det = m[0, 0] * inverse[0, 0] + m[0, 1] * inverse[0, 1] + m[0, 2] * inverse[0, 2]
    if not (m[0, 0] > 0.0 and inverse[2, 2] > 0.0 and det > 1e-12 * abs(m[0, 0] * m[1, 1] * m[2, 2])):
        return False
    for a in range(3):
        for b in range(a, 3):
            inverse[a, b] /= det
            inverse[b, a] = inverse[a, b]
    return True


@kernel(
    "boolean(const(float32[:, ::1]), const(boolean[:, ::1]), const(float64[:, ::1]), const(float64[:, :, ::1]), "
    "int64, int64, float64, float64, float64[::1])"
)
def fit_position(image, bad, stamp, slopes, x0, y0, flux, base, result):
    """One step of the fit of flux and position, with weights 1 / (base + flux p).

    Fill `result` (3,): flux, steps in x and y [pixel]. False where the templates are degenerate.
    """
    rows, columns = image.shape
    n = stamp.shape[0]
    matrix = np.zeros((3, 3))
    inverse = np.empty((3, 3))
    vector = np.zeros(3)
    row = np.empty(3)
    flux = max(flux, 0.0)
    for j in range(max(-y0, 0), min(n, rows - y0)):
        for i in range(max(-x0, 0), min(n, columns - x0)):
            if bad[y0 + j, x0 + i]:
                continue
            weight = 1.0 / (base + flux * max(stamp[j, i], 0.0))
            row[0], row[1], row[2] = stamp[j, i], slopes[0, j, i], slopes[1, j, i]
            value = np.float64(image[y0 + j, x0 + i])
            for a in range(3):
                part = weight * row[a]
                vector[a] += part * value
                for b in range(a, 3):
                    matrix[a, b] += part * row[b]
    matrix[1, 0], matrix[2, 0], matrix[2, 1] = matrix[0, 1], matrix[0, 2], matrix[1, 2]
    if not _inverted(matrix, inverse):
        return False
    found = inverse @ vector
    result[0] = found[0]
    result[1] = found[1] / found[0]
    result[2] = found[2] / found[0]
    return True


@kernel(
    "boolean(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), const(float64[:, ::1]), "
    "const(float64[:, :, ::1]), int64, int64, const(float64[::1]), float64, float64[::1])"
)
def position_covariance(image, variance, bad, stamp, slopes, x0, y0, fitted, base, result):
    """Fill `result` (3,) with variances and covariance of the position that `fit_position` found (`fitted`).

    The slopes of the equations are those observed, with the second derivatives times the residuals: at a signal to
    noise of 5 the expected ones are wrong by a third (Efron and Hinkley 1978, Biometrika 65, 457). False where
    they are not those of a minimum.
    """
    rows, columns = image.shape
    n = stamp.shape[0]
    flux, dx, dy = fitted[0], fitted[1], fitted[2]
    slope = np.zeros((3, 3))
    noise = np.zeros((3, 3))
    inverse = np.empty((3, 3))
    row = np.empty(3)
    for j in range(max(-y0, 0), min(n, rows - y0)):
        for i in range(max(-x0, 0), min(n, columns - x0)):
            if bad[y0 + j, x0 + i]:
                continue
            weight = 1.0 / (base + flux * max(stamp[j, i], 0.0))
            row[0] = stamp[j, i] + dx * slopes[0, j, i] + dy * slopes[1, j, i]
            row[1] = flux * (slopes[0, j, i] + dx * slopes[2, j, i] + dy * slopes[4, j, i])
            row[2] = flux * (slopes[1, j, i] + dx * slopes[4, j, i] + dy * slopes[3, j, i])
            residual = weight * flux * (np.float64(image[y0 + j, x0 + i]) - flux * row[0])
            here = weight * weight * np.float64(variance[y0 + j, x0 + i])
            for a in range(3):
                for b in range(a, 3):
                    slope[a, b] += weight * row[a] * row[b]
                    noise[a, b] += here * row[a] * row[b]
            slope[1, 1] -= residual * slopes[2, j, i]
            slope[2, 2] -= residual * slopes[3, j, i]
            slope[1, 2] -= residual * slopes[4, j, i]
    for a in range(3):
        for b in range(a):
            slope[a, b] = slope[b, a]
            noise[a, b] = noise[b, a]
    if not _inverted(slope, inverse):
        return False
    covariance = inverse @ noise @ inverse
    result[0] = covariance[1, 1]
    result[1] = covariance[2, 2]
    result[2] = covariance[1, 2]
    return True


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), const(float64[:, ::1]), "
    "const(float64[:, :, ::1]), int64, int64, float64, float64, float64[::1])"
)
def fit_weighted(image, variance, bad, stamp, slopes, x0, y0, flux, base, result):
    """Fits at a given place with weights 1 / (base + flux p).

    Fill `result` (6,): flux of the PSF alone and its variance, chi^2 of `flux` p under the model's variance, number of
    pixels, excess variance s^2 [pixel^2] of a Gaussian that widens the PSF, and its variance.
    """
    rows, columns = image.shape
    n = stamp.shape[0]
    pp = 0.0
    pq = 0.0
    qq = 0.0
    dp = 0.0
    dq = 0.0
    npp = 0.0
    npq = 0.0
    nqq = 0.0
    chi2 = 0.0
    count = 0
    bright = max(flux, 0.0)
    for j in range(max(-y0, 0), min(n, rows - y0)):
        for i in range(max(-x0, 0), min(n, columns - x0)):
            jj, ii = y0 + j, x0 + i
            if bad[jj, ii]:
                continue
            p = stamp[j, i]
            q = 0.5 * (slopes[2, j, i] + slopes[3, j, i])
            weight = 1.0 / (base + bright * max(p, 0.0))
            value = np.float64(image[jj, ii])
            here = weight * weight * np.float64(variance[jj, ii])
            pp += weight * p * p
            pq += weight * p * q
            qq += weight * q * q
            dp += weight * p * value
            dq += weight * q * value
            npp += here * p * p
            npq += here * p * q
            nqq += here * q * q
            chi2 += weight * (value - flux * p) ** 2
            count += 1
    result[0] = dp / pp
    result[1] = npp / (pp * pp)
    result[2] = chi2
    result[3] = count
    det = pp * qq - pq * pq
    result[4] = np.nan
    result[5] = np.nan
    total = (qq * dp - pq * dq) / det
    if det > 1e-9 * pp * qq and total > 0.0:
        excess = (pp * dq - pq * dp) / det
        s2 = excess / total
        # of excess - s2 total, a linear function of the pixels
        up, uq = (-pq - s2 * qq) / det, (pp + s2 * pq) / det
        result[4] = s2
        result[5] = (up * up * npp + 2.0 * up * uq * npq + uq * uq * nqq) / (total * total)
