"""Second-Moment Shapes (LDM-151 8.6.2.3): the elliptical Gaussian that matches one source, its errors and fallbacks.

The weight is a Gaussian of covariance W about c; it is right when the weighted moments about c are (0, W / 2) (Bernstein
and Jarvis 2002, section 3.1). For a Gaussian source, moments M answer to noise n in the pixels by
dM = 4 sum w (r r^T - M / 2) n / sum w I, and the centre by dc = 2 sum w r n / sum w I: the errors are these sums under the
variance plane.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel

SETTLED, FIXED, FAILED = 0, 1, 2
"""How moments were found: adaptively, under a fixed weight, not at all."""


@kernel(
    "void(const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, float64, float64, float64, float64[::1])"
)
def weighted_sums(image, bad, x, y, wxx, wyy, wxy, sums):
    """Fill `sums` (6,): flux, x, y, xx, yy, xy of the image about (x, y) under a Gaussian, cut at 4 sigma.

    A pixel that must not be used takes the value of its mirror image; where that is unusable too both are left out.
    """
    rows, columns = image.shape
    det = wxx * wyy - wxy * wxy
    ixx, iyy, ixy = wyy / det, wxx / det, -wxy / det
    reach_x, reach_y = 4.0 * np.sqrt(wxx), 4.0 * np.sqrt(wyy)
    sums[:] = 0.0
    for j in range(max(int(np.ceil(y - reach_y)), 0), min(int(np.floor(y + reach_y)) + 1, rows)):
        dy = j - y
        for i in range(max(int(np.ceil(x - reach_x)), 0), min(int(np.floor(x + reach_x)) + 1, columns)):
            dx = i - x
            square = ixx * dx * dx + iyy * dy * dy + 2.0 * ixy * dx * dy
            if square > 16.0:
                continue
            jj, ii = j, i
            if bad[j, i]:
                jj, ii = int(np.rint(y - dy)), int(np.rint(x - dx))
                if jj < 0 or ii < 0 or jj >= rows or ii >= columns or bad[jj, ii]:
                    continue
            # continuous at the cut: pixels that come and go there would keep it from settling
            light = (np.exp(-0.5 * square) - 3.3546262790251185e-04) * np.float64(image[jj, ii])
            sums[0] += light
            sums[1] += light * dx
            sums[2] += light * dy
            sums[3] += light * dx * dx
            sums[4] += light * dy * dy
            sums[5] += light * dx * dy


@kernel(
    "void(const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, float64, float64, float64, float64, "
    "boolean, float64, float64[::1])"
)
def match_ellipse(image, bad, x, y, wxx, wyy, wxy, largest, move, reach, result):
    """Fill `result` (7,): x, y, xx, yy, xy [pixel^2], weighted flux, 1 when settled.

    Starts from the weight (wxx, wyy, wxy) [pixel^2] at (x, y) [pixel]; fails beyond `largest` [pixel] of size or, when it
    may `move`, beyond `reach` [pixel] from the start.
    """
    sums = np.empty(6)
    start_x, start_y = x, y
    result[:] = np.nan
    result[6] = 0.0
    for _round in range(100):
        weighted_sums(image, bad, x, y, wxx, wyy, wxy, sums)
        flux = sums[0]
        if not flux > 0.0:
            return
        step_x, step_y = 0.0, 0.0
        if move:
            step_x, step_y = 2.0 * sums[1] / flux, 2.0 * sums[2] / flux
            x += step_x
            y += step_y
            if not (x - start_x) ** 2 + (y - start_y) ** 2 <= reach * reach:
                return
        mxx, myy, mxy = sums[3] / flux, sums[4] / flux, sums[5] / flux
        seen = mxx * myy - mxy * mxy
        if not (mxx > 0.05 and myy > 0.05 and seen > 0.0025):
            return
        # a Gaussian that gives these moments under this weight: settles sooner than twice the moments, but noise
        # may leave none
        given = wxx * wyy - wxy * wxy
        ixx, iyy, ixy = myy / seen - wyy / given, mxx / seen - wxx / given, wxy / given - mxy / seen
        left = ixx * iyy - ixy * ixy
        nxx, nyy, nxy = 2.0 * mxx, 2.0 * myy, 2.0 * mxy
        if ixx > 0.0 and left * given > 0.25 and left * given < 4.0:
            nxx, nyy, nxy = iyy / left, ixx / left, -ixy / left
        det = nxx * nyy - nxy * nxy
        if not (nxx > 0.1 and nyy > 0.1 and det > 0.01 and nxx + nyy < 2.0 * largest * largest):
            return
        change = abs(nxx - wxx) + abs(nyy - wyy) + abs(nxy - wxy) + abs(step_x) + abs(step_y)
        wxx, wyy, wxy = nxx, nyy, nxy
        if change < 1e-5 * (wxx + wyy):
            result[0], result[1] = x, y
            result[2], result[3], result[4] = wxx, wyy, wxy
            result[5] = flux
            result[6] = 1.0
            return


@kernel(
    "void(const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, float64, float64, float64, float64, "
    "float64[::1])"
)
def ellipse_errors(variance, bad, x, y, wxx, wyy, wxy, flux, result):
    """Fill `result` (6,): variances of xx, yy, xy [pixel^4], of x, y and their covariance [pixel^2].

    `flux` is the weighted flux under the Gaussian (wxx, wyy, wxy) at (x, y).
    """
    rows, columns = variance.shape
    det = wxx * wyy - wxy * wxy
    ixx, iyy, ixy = wyy / det, wxx / det, -wxy / det
    reach_x, reach_y = 4.0 * np.sqrt(wxx), 4.0 * np.sqrt(wyy)
    result[:] = 0.0
    for j in range(max(int(np.ceil(y - reach_y)), 0), min(int(np.floor(y + reach_y)) + 1, rows)):
        dy = j - y
        for i in range(max(int(np.ceil(x - reach_x)), 0), min(int(np.floor(x + reach_x)) + 1, columns)):
            if bad[j, i]:
                continue
            dx = i - x
            square = ixx * dx * dx + iyy * dy * dy + 2.0 * ixy * dx * dy
            if square > 16.0:
                continue
            noise = np.exp(-square) * np.float64(variance[j, i])
            result[0] += noise * (dx * dx - 0.5 * wxx) ** 2
            result[1] += noise * (dy * dy - 0.5 * wyy) ** 2
            result[2] += noise * (dx * dy - 0.5 * wxy) ** 2
            result[3] += noise * dx * dx
            result[4] += noise * dy * dy
            result[5] += noise * dx * dy
    for a in range(6):
        result[a] *= (16.0 if a < 3 else 4.0) / (flux * flux)


def deconvolved(sums: np.ndarray, weight: tuple[float, float, float]) -> tuple[float, float, float] | None:
    """Moments xx, yy, xy of the Gaussian that has the sums of `weighted_sums` under a weight; None if none does."""
    if not sums[0] > 0:
        return None
    seen = np.array([[sums[3], sums[5]], [sums[5], sums[4]]]) / sums[0]
    given = np.array([[weight[0], weight[2]], [weight[2], weight[1]]])
    if np.linalg.det(seen) <= 1e-6 or seen[0, 0] <= 0:
        return None
    inverse = np.linalg.inv(seen) - np.linalg.inv(given)
    if np.linalg.eigvalsh(inverse)[0] <= 1e-4:
        return None
    moments = np.linalg.inv(inverse)
    return float(moments[0, 0]), float(moments[1, 1]), float(moments[0, 1])


def regularised(
    moments: tuple[float, float, float], psf: tuple[float, float, float], least: float
) -> tuple[tuple[float, float, float], bool]:
    """Moments whose size along any axis is at least `least` times the PSF's (in pixel^2), and whether they changed.

    Noise makes faint unresolved sources smaller than the PSF along one axis: their ellipticity means nothing.
    """
    xx, yy, xy = (one - least * other for one, other in zip(moments, psf))
    if xx > 0 and xx * yy > xy * xy:
        return moments, False
    root = np.linalg.cholesky([[psf[0], psf[2]], [psf[2], psf[1]]])
    inverse = np.linalg.inv(root)
    ratio, axes = np.linalg.eigh(
        inverse @ np.array([[moments[0], moments[2]], [moments[2], moments[1]]]) @ inverse.T
    )
    back = root @ axes @ np.diag(np.maximum(ratio, least)) @ axes.T @ root.T
    return (float(back[0, 0]), float(back[1, 1]), float(back[0, 1])), True
