"""Centroids (LDM-151 8.6.2.1): position in a Gaussian window of the PSF's width, with its covariance.

The centre c solves sum_i w(r_i - c) I_i (r_i - c) = 0. For a Gaussian star and a window of the same width
this is nearly the maximum-likelihood position. A pixel that must not be used takes the value of its mirror
image about the present centre; where that is unusable too, both are left out. The covariance is that of the
linearised solution, J^-1 S J^-1 with S = sum w^2 var (r - c)(r - c)^T and J the slope of the sum against c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel


@dataclass(frozen=True)
class Centroids:
    """Positions and errors, float64 arrays of one length.

    Parameters
    ----------
    x, y : ndarray
        [pixel]; where `flag` is set those that were handed in.
    x_err, y_err, xy_cov : ndarray
        Standard errors [pixel] and covariance [pixel^2]; NaN where `flag` is set.
    flag : ndarray of bool
        No position was found within `reach` of the start.
    """

    x: np.ndarray
    y: np.ndarray
    x_err: np.ndarray
    y_err: np.ndarray
    xy_cov: np.ndarray
    flag: np.ndarray


@kernel(
    "void(const(float32[:, :]), const(float32[:, :]), const(boolean[:, :]), const(float64[:]), "
    "const(float64[:]), "
    "float64, float64, float64[:, :])"
)
def window_centroids(image, variance, bad, x_start, y_start, sigma, reach, result):
    """Fill `result` (sources, 6): x, y, var(x), var(y), cov(x, y), 1 for success.

    `sigma` [pixel] is the window's, cut at 4 sigma; `reach` [pixel] the largest distance from the start.
    """
    rows, columns = image.shape
    radius = 4.0 * sigma
    for k in range(x_start.size):
        x, y = x_start[k], y_start[k]
        result[k, 0] = x
        result[k, 1] = y
        result[k, 2:5] = np.nan
        result[k, 5] = 0.0
        for _iteration in range(50):
            flux = 0.0
            sum_x = 0.0
            sum_y = 0.0
            sum_xx = 0.0
            sum_yy = 0.0
            noise_xx = 0.0
            noise_yy = 0.0
            noise_xy = 0.0
            for j in range(max(int(np.ceil(y - radius)), 0), min(int(np.floor(y + radius)) + 1, rows)):
                dy = j - y
                for i in range(max(int(np.ceil(x - radius)), 0), min(int(np.floor(x + radius)) + 1, columns)):
                    dx = i - x
                    square = dx * dx + dy * dy
                    if square > radius * radius:
                        continue
                    jj, ii = j, i
                    if bad[j, i]:
                        jj, ii = int(np.rint(y - dy)), int(np.rint(x - dx))
                        # rounding makes the mirror image approximate: good to a fraction of the masked flux
                        if jj < 0 or ii < 0 or jj >= rows or ii >= columns or bad[jj, ii]:
                            continue
                    # continuous at the cut: pixels that come and go there would keep it from settling
                    weight = np.exp(-0.5 * square / (sigma * sigma)) - 3.3546262790251185e-04
                    light = weight * image[jj, ii]
                    noise = weight * weight * variance[jj, ii]
                    flux += light
                    sum_x += light * dx
                    sum_y += light * dy
                    sum_xx += light * dx * dx
                    sum_yy += light * dy * dy
                    noise_xx += noise * dx * dx
                    noise_yy += noise * dy * dy
                    noise_xy += noise * dx * dy
            if not flux > 0.0:
                break
            # a star gives 1/2; noise must not send a faint source away
            slope_x = flux * min(max(1.0 - sum_xx / (flux * sigma * sigma), 0.25), 0.75)
            slope_y = flux * min(max(1.0 - sum_yy / (flux * sigma * sigma), 0.25), 0.75)
            step_x = sum_x / slope_x
            step_y = sum_y / slope_y
            x += step_x
            y += step_y
            if not (x - x_start[k]) ** 2 + (y - y_start[k]) ** 2 <= reach * reach:
                break
            if step_x * step_x + step_y * step_y < 1e-10:
                result[k, 0] = x
                result[k, 1] = y
                result[k, 2] = noise_xx / (slope_x * slope_x)
                result[k, 3] = noise_yy / (slope_y * slope_y)
                result[k, 4] = noise_xy / (slope_x * slope_y)
                result[k, 5] = 1.0
                break


def centroids(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    sigma: float,
    reach: float,
) -> Centroids:
    """Window centroids from starting positions.

    Parameters
    ----------
    image, variance, bad : ndarray of float32, float32, bool, shape (ny, nx)
    x, y : ndarray, shape (n,)
        Starting positions [pixel].
    sigma : float
        Width of the window [pixel]: that of the PSF.
    reach : float
        Largest distance from the start [pixel].
    """
    result = np.empty((len(x), 6))
    window_centroids(
        image, variance, bad, np.asarray(x, float), np.asarray(y, float), float(sigma), float(reach), result
    )
    return Centroids(
        result[:, 0],
        result[:, 1],
        np.sqrt(result[:, 2]),
        np.sqrt(result[:, 3]),
        result[:, 4],
        result[:, 5] == 0.0,
    )
