"""Second-Moment Shapes (LDM-151 8.6.2.3): moments under a Gaussian weight that adapts to the source.

The weight's covariance W and the weighted moments M settle where M^-1 = W^-1 + C^-1 with C = W: for a
Gaussian source C is its own covariance, for others that of the best-matching Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel


@dataclass(frozen=True)
class Shapes:
    """Adaptive moments [pixel^2], float64 arrays of one length, NaN where `flag` (bool) is set."""

    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    flag: np.ndarray


@kernel(
    "void(const(float32[:, :]), const(boolean[:, :]), const(float64[:]), const(float64[:]), float64, "
    "float64, "
    "float64[:, :])"
)
def adaptive_moments(image, bad, x_centre, y_centre, sigma, sigma_max, result):
    """Fill `result` (sources, 4): xx, yy, xy [pixel^2], 1 for success.

    `sigma` [pixel] starts the weight; one that grows beyond `sigma_max` fails.
    """
    rows, columns = image.shape
    for k in range(x_centre.size):
        x, y = x_centre[k], y_centre[k]
        result[k, 0:3] = np.nan
        result[k, 3] = 0.0
        if not (np.isfinite(x) and np.isfinite(y)):
            continue
        wxx, wyy, wxy = sigma * sigma, sigma * sigma, 0.0
        for _iteration in range(100):
            det = wxx * wyy - wxy * wxy
            reach_x = 5.0 * np.sqrt(wxx)
            reach_y = 5.0 * np.sqrt(wyy)
            flux = 0.0
            mxx = 0.0
            myy = 0.0
            mxy = 0.0
            for j in range(max(int(np.ceil(y - reach_y)), 0), min(int(np.floor(y + reach_y)) + 1, rows)):
                dy = j - y
                for i in range(
                    max(int(np.ceil(x - reach_x)), 0), min(int(np.floor(x + reach_x)) + 1, columns)
                ):
                    dx = i - x
                    square = (wyy * dx * dx - 2.0 * wxy * dx * dy + wxx * dy * dy) / det
                    if square > 25.0:
                        continue
                    jj, ii = j, i
                    if bad[j, i]:
                        jj, ii = int(np.rint(y - dy)), int(np.rint(x - dx))
                        if jj < 0 or ii < 0 or jj >= rows or ii >= columns or bad[jj, ii]:
                            continue
                    # continuous at the cut: pixels that come and go there would keep it from settling
                    light = (np.exp(-0.5 * square) - 3.7266531720786711e-06) * image[jj, ii]
                    flux += light
                    mxx += light * dx * dx
                    myy += light * dy * dy
                    mxy += light * dx * dy
            if not flux > 0.0:
                break
            mxx /= flux
            myy /= flux
            mxy /= flux
            # twice the weighted moments: halves the error each turn and cannot become indefinite unless M is
            nxx, nyy, nxy = 2.0 * mxx, 2.0 * myy, 2.0 * mxy
            new_det = nxx * nyy - nxy * nxy
            if not (nxx > 0.1 and nyy > 0.1 and new_det > 0.01 and nxx + nyy < 2.0 * sigma_max * sigma_max):
                break
            change = abs(nxx - wxx) + abs(nyy - wyy) + abs(nxy - wxy)
            wxx, wyy, wxy = nxx, nyy, nxy
            if change < 1e-6 * (wxx + wyy):
                result[k, 0] = wxx
                result[k, 1] = wyy
                result[k, 2] = wxy
                result[k, 3] = 1.0
                break


def second_moment_shapes(
    image: np.ndarray,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    sigma: float,
    sigma_max: float,
) -> Shapes:
    """Adaptive moments about given centres; parameters as of `adaptive_moments`."""
    result = np.empty((len(x), 4))
    adaptive_moments(
        image, bad, np.asarray(x, float), np.asarray(y, float), float(sigma), float(sigma_max), result
    )
    return Shapes(result[:, 0], result[:, 1], result[:, 2], result[:, 3] == 0.0)


def determinant_radius(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Size of moments [pixel^2]: the fourth root of their determinant [pixel]; NaN where they are unknown."""
    with np.errstate(invalid="ignore"):
        return np.maximum(xx * yy - xy * xy, 0.0) ** 0.25
