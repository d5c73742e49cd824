"""Stars on galaxies (LDM-151 8.5.1): sources that look extended are held against the PSF without their neighbours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skyquilt.algorithms.deblending.assembly import BlendedPixels
from skyquilt.algorithms.deblending.templates import Templates
from skyquilt.algorithms.source_detection.point_source_kernels import draw, fit_one
from skyquilt.algorithms.source_detection.point_sources import PointSourceFits, PsfSampler
from skyquilt.primitives.compiled import kernel


def try_points(
    image: np.ndarray,
    unusable: np.ndarray,
    pixels: BlendedPixels,
    templates: Templates,
    weight: np.ndarray,
    candidates: np.ndarray,
    fits: PointSourceFits,
    sky: np.ndarray,
    sampler: PsfSampler,
    error: float,
    limit: float,
) -> tuple[np.ndarray, PointSourceFits]:
    """Which of the candidates are point sources once all other templates are subtracted, and their fits.

    A candidate that overlaps no brighter one has nothing to gain, but costs little.
    """
    left = image.copy()
    subtract_templates(
        left.reshape(-1), pixels.flat, templates.start, templates.slot, templates.value, weight
    )
    values = [np.array(v) for v in (fits.x, fits.y, fits.flux, fits.flux_err, fits.chi2)]
    counts = fits.n_pixel.copy()
    reach = np.maximum(fits.reach, min(int(np.ceil(1.5 * sampler.fwhm)), sampler.half)).astype(np.int64)
    fit_candidates(
        image,
        left,
        unusable,
        pixels.flat,
        templates.start,
        templates.slot,
        templates.value,
        weight,
        np.flatnonzero(candidates),
        sky,
        reach,
        max(1.0 * sampler.fwhm, 1.5),
        float(error) ** 2,
        max(0.25 * sampler.fwhm, 0.5),
        sampler.tables,
        sampler.y_nodes,
        sampler.x_nodes,
        *values,
        counts,
    )
    tried = PointSourceFits(*values, counts, reach)
    changed = candidates & tried.point_like(limit)
    names = ("x", "y", "flux", "flux_err", "chi2", "n_pixel", "reach")
    joined = {name: np.where(changed, getattr(tried, name), getattr(fits, name)) for name in names}
    return changed, replace(fits, **joined)


@kernel(
    "void(float32[::1], const(int64[::1]), const(int64[::1]), const(int32[::1]), const(float32[::1]), "
    "const(float64[::1]))"
)
def subtract_templates(image, flat, start, slot, value, weight):
    """Subtract weighted templates from the flat image."""
    for k in range(weight.size):
        for m in range(start[k], start[k + 1]):
            image[flat[slot[m]]] -= weight[k] * value[m]


@kernel(
    "void(const(float32[:, ::1]), float32[:, ::1], const(boolean[:, ::1]), const(int64[::1]), const(int64[::1]), "
    "const(int32[::1]), const(float32[::1]), const(float64[::1]), const(int64[::1]), const(float64[::1]), "
    "const(int64[::1]), float64, float64, float64, const(float32[:, :, :, :, :, ::1]), const(float64[::1]), "
    "const(float64[::1]), float64[::1], float64[::1], float64[::1], float64[::1], float64[::1], int64[::1])"
)
def fit_candidates(
    image,
    left,
    unusable,
    flat,
    start,
    slot,
    value,
    weight,
    candidates,
    sky,
    reach,
    radius,
    error2,
    farthest,
    tables,
    y_nodes,
    x_nodes,
    x,
    y,
    flux,
    flux_error,
    chi2,
    n_pixel,
):
    """Fit a PSF in place of each candidate's template; `left` is the image without all templates, and stays so."""
    result = np.empty(6)
    columns = image.shape[1]
    for k in candidates:
        for m in range(start[k], start[k + 1]):
            at = flat[slot[m]]
            left[at // columns, at % columns] += weight[k] * value[m]
        half = reach[k]
        stamp = np.empty((2 * half + 1, 2 * half + 1))
        side = 2 * half + 1
        around = np.empty((side, side), np.float32)
        x0, y0 = x[k], y[k]
        u, v, f = x0, y0, 0.0
        for turn in range(4):
            draw(tables, y_nodes, x_nodes, u, v, half, stamp)
            row, column = int(np.floor(v + 0.5)), int(np.floor(u + 0.5))
            for j in range(side):
                for i in range(side):
                    q, p = row + j - half, column + i - half
                    if 0 <= q < image.shape[0] and 0 <= p < columns:
                        around[j, i] = left[q, p]
                        left[q, p] -= f * stamp[j, i]
            fit_one(image, left, unusable, stamp, u, v, f, sky[k], radius, error2, True, result)
            for j in range(side):
                for i in range(side):
                    q, p = row + j - half, column + i - half
                    if 0 <= q < image.shape[0] and 0 <= p < columns:
                        left[q, p] = around[j, i]
            if turn == 3:
                break
            f = max(result[0], 0.0)
            u = min(max(u + result[1], x0 - farthest), x0 + farthest)
            v = min(max(v + result[2], y0 - farthest), y0 + farthest)
        x[k], y[k], flux[k] = u, v, f
        flux_error[k] = np.sqrt(result[3])
        n_pixel[k] = int(result[5])
        chi2[k] = result[4] / (n_pixel[k] - 3) if n_pixel[k] > 3 else np.nan
        for m in range(start[k], start[k + 1]):
            at = flat[slot[m]]
            left[at // columns, at % columns] -= weight[k] * value[m]
