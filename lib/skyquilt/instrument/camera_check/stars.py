"""Camera check (LDM-151 4.1.2.3): bright stars of a frame, good enough to see orientation and scale.

Not the production's detection (8.5), which needs calibrated images; here a frame is as raw as it came.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

THRESHOLD = 8.0
"""Least height of a star's smoothed image, in units of the smoothed noise."""

SMOOTHING = 1.5
"""Standard deviation of the Gaussian that smooths the image [pixel]."""

BLOCK = 32
"""Side of the squares whose medians are the sky [pixel]."""


class Stars(NamedTuple):
    """Positions [pixel, assembled] and fluxes [ADU], brightest first."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray


def find_stars(image: np.ndarray, most: int = 60) -> Stars:
    """The brightest stars of an image, shape (ny, nx) [ADU]; NaN pixels count as sky."""
    from scipy import ndimage

    flat = image - _sky(image)
    flat[~np.isfinite(flat)] = 0.0
    smooth = ndimage.gaussian_filter(flat, SMOOTHING)
    noise = 1.4826 * float(np.median(np.abs(smooth - np.median(smooth))))
    peaks = (smooth == ndimage.maximum_filter(smooth, 9)) & (smooth > THRESHOLD * max(noise, 1e-6))
    rows, columns = np.nonzero(peaks)
    inside = (rows > 7) & (columns > 7) & (rows < image.shape[0] - 8) & (columns < image.shape[1] - 8)
    rows, columns = rows[inside], columns[inside]
    order = np.argsort(-smooth[rows, columns], kind="stable")
    found = []
    for row, column in zip(rows[order], columns[order], strict=True):
        star = _measured(flat, int(row), int(column))
        if star is not None:
            found.append(star)
        if len(found) >= 3 * most:
            break
    found.sort(key=lambda star: -star[2])
    x, y, flux = (np.array(values) for values in zip(*found[:most], strict=True)) if found else ([],) * 3
    return Stars(np.asarray(x, float), np.asarray(y, float), np.asarray(flux, float))


def _sky(image: np.ndarray) -> np.ndarray:
    """Medians of squares, interpolated linearly, shape of the image."""
    from scipy import ndimage

    ny, nx = image.shape
    rows, columns = max(ny // BLOCK, 1), max(nx // BLOCK, 1)
    medians = np.empty((rows, columns), np.float32)
    for j in range(rows):
        for i in range(columns):
            part = image[j * ny // rows : (j + 1) * ny // rows, i * nx // columns : (i + 1) * nx // columns]
            good = part[np.isfinite(part)]
            medians[j, i] = np.median(good) if good.size else np.nan
    medians[~np.isfinite(medians)] = np.nanmedian(medians) if np.isfinite(medians).any() else 0.0
    smooth = ndimage.median_filter(medians, 3)
    y = (np.arange(ny) + 0.5) * rows / ny - 0.5
    x = (np.arange(nx) + 0.5) * columns / nx - 0.5
    grid = np.meshgrid(y, x, indexing="ij")
    return ndimage.map_coordinates(smooth, grid, order=1, mode="nearest").astype(np.float32)


def _measured(flat: np.ndarray, row: int, column: int) -> tuple[float, float, float] | None:
    """Centroid and flux; None for hot pixels, cosmic rays, bad columns and trails."""
    stamp = flat[row - 4 : row + 5, column - 4 : column + 5].astype(np.float64)
    peak = stamp[3:6, 3:6].max()
    sides = [stamp[4, 3], stamp[4, 5], stamp[3, 4], stamp[5, 4]]
    # a star of FWHM 1.5 pixels has 0.07 of its peak in the next pixels, a hot pixel none
    if peak <= 0 or min(sides) < 0.05 * peak:
        return None
    y, x = np.mgrid[-4:5, -4:5]
    weight = np.maximum(stamp, 0.0) * np.exp(-0.5 * (x**2 + y**2) / 2.5**2)
    total = weight.sum()
    dx, dy = float((weight * x).sum() / total), float((weight * y).sum() / total)
    xx = float((weight * (x - dx) ** 2).sum() / total)
    yy = float((weight * (y - dy) ** 2).sum() / total)
    if not 0.2 < xx / max(yy, 1e-9) < 5.0:
        return None
    return column + dx, row + dy, float(stamp.sum())
