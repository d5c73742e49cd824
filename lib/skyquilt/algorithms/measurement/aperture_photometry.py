"""Aperture Photometry (LDM-151 8.6.2.4): sums in nested circles, all radii in one pass over the pixels.

A pixel cut by a circle counts with the exact area inside, and its variance with that area squared. Pixels
that must not be used are replaced, ring by ring, by the mean of the ring's others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel


@dataclass(frozen=True)
class ApertureFluxes:
    """Sums in circles, shape (sources, radii).

    Parameters
    ----------
    flux, error : ndarray of float64
        Sum and its standard error [units of the image]; NaN where a whole ring has no usable pixel.
    masked : ndarray of float64
        Fraction of the aperture's area on unusable pixels or outside the image.
    truncated : ndarray of bool
        The aperture leaves the image.
    """

    flux: np.ndarray
    error: np.ndarray
    masked: np.ndarray
    truncated: np.ndarray


@kernel("float64(float64, float64, float64, float64, float64)")
def _quadrant_overlap(x0, x1, y0, y1, radius):
    """Area of the circle about the origin inside a rectangle of the first quadrant (0 <= x0 <= x1, 0 <= y0
    <= y1)."""
    if x1 <= x0 or y1 <= y0 or x0 * x0 + y0 * y0 >= radius * radius:
        return 0.0
    full_until = np.sqrt(max(radius * radius - y1 * y1, 0.0))
    ends_at = np.sqrt(max(radius * radius - y0 * y0, 0.0))
    a = min(max(full_until, x0), x1)
    b = min(max(ends_at, a), x1)
    area = (a - x0) * (y1 - y0) - y0 * (b - a)
    if b > a:
        upper = b * np.sqrt(max(radius * radius - b * b, 0.0)) + radius * radius * np.arcsin(
            min(b / radius, 1.0)
        )
        lower = a * np.sqrt(max(radius * radius - a * a, 0.0)) + radius * radius * np.arcsin(
            min(a / radius, 1.0)
        )
        area += 0.5 * (upper - lower)
    return area


@kernel("float64(float64, float64, float64)")
def pixel_in_circle(dx, dy, radius):
    """Area of a unit pixel centred at (dx, dy) from the centre that lies inside the circle."""
    ax, ay = abs(dx), abs(dy)
    x0, x1, y0, y1 = ax - 0.5, ax + 0.5, ay - 0.5, ay + 0.5
    area = 0.0
    # a pixel on an axis is folded into one quadrant
    for fold_x in range(2):
        for fold_y in range(2):
            u0, u1 = (max(x0, 0.0), x1) if fold_x == 0 else (0.0, -x0)
            v0, v1 = (max(y0, 0.0), y1) if fold_y == 0 else (0.0, -y0)
            area += _quadrant_overlap(u0, u1, v0, v1, radius)
    return area


@kernel(
    "void(const(float32[:, :]), const(float32[:, :]), const(boolean[:, :]), const(float64[:]), "
    "const(float64[:]), "
    "const(float64[:]), float64[:, :], float64[:, :], float64[:, :], boolean[:, :])"
)
def nested_circles(image, variance, bad, x_centre, y_centre, radii, flux, error, masked, truncated):
    """Fill flux, error, masked and truncated, each (sources, radii); `radii` [pixel] ascend."""
    rows, columns = image.shape
    n_radii = radii.size
    largest = radii[n_radii - 1]
    # of a pixel: value, variance, usable area; by the smallest circle that holds it whole, and by each that
    # cuts it
    whole = np.empty((n_radii, 3))
    cut = np.empty((n_radii, 3))
    for k in range(x_centre.size):
        x, y = x_centre[k], y_centre[k]
        whole[:] = 0.0
        cut[:] = 0.0
        for j in range(
            max(int(np.ceil(y - largest - 0.5)), 0), min(int(np.floor(y + largest + 0.5)) + 1, rows)
        ):
            dy = j - y
            # columns that the largest circle can touch in this row
            half = abs(dy) - 0.5
            half = np.sqrt(max(largest * largest - max(half, 0.0) ** 2, 0.0)) + 0.5
            for i in range(max(int(np.ceil(x - half)), 0), min(int(np.floor(x + half)) + 1, columns)):
                if bad[j, i]:
                    continue
                dx = i - x
                distance = np.sqrt(dx * dx + dy * dy)
                value = np.float64(image[j, i])
                noise = np.float64(variance[j, i])
                m = 0
                # 0.7072: half the diagonal; beyond it on either side the circle cannot cut the pixel
                while m < n_radii and distance + 0.7072 > radii[m]:
                    if distance - 0.7072 < radii[m]:
                        area = pixel_in_circle(dx, dy, radii[m])
                        cut[m, 0] += area * value
                        cut[m, 1] += area * area * noise
                        cut[m, 2] += area
                    m += 1
                if m < n_radii:
                    whole[m, 0] += value
                    whole[m, 1] += noise
                    whole[m, 2] += 1.0
        inner_flux = 0.0
        inner_variance = 0.0
        inner_area = 0.0
        sum_flux = 0.0
        sum_variance = 0.0
        held_flux = 0.0
        held_variance = 0.0
        held_area = 0.0
        for m in range(n_radii):
            held_flux += whole[m, 0]
            held_variance += whole[m, 1]
            held_area += whole[m, 2]
            this_flux = held_flux + cut[m, 0]
            this_variance = held_variance + cut[m, 1]
            this_area = held_area + cut[m, 2]
            true_area = np.pi * radii[m] ** 2
            ring_area = true_area - (np.pi * radii[m - 1] ** 2 if m > 0 else 0.0)
            good_area = this_area - inner_area
            # rounding of a thousand areas must not look like a missing pixel
            scale = ring_area / good_area if good_area < ring_area * (1.0 - 1e-9) else 1.0
            if good_area < 1e-3 * ring_area:
                scale = np.nan
            sum_flux += scale * (this_flux - inner_flux)
            sum_variance += scale * scale * (this_variance - inner_variance)
            inner_flux, inner_variance, inner_area = this_flux, this_variance, this_area
            flux[k, m] = sum_flux
            error[k, m] = np.sqrt(max(sum_variance, 0.0)) if np.isfinite(sum_variance) else np.nan
            masked[k, m] = min(max(1.0 - this_area / true_area, 0.0), 1.0)
            truncated[k, m] = (
                x - radii[m] < -0.5
                or y - radii[m] < -0.5
                or x + radii[m] > columns - 0.5
                or y + radii[m] > rows - 0.5
            )


def aperture_photometry(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    radii: tuple[float, ...],
) -> ApertureFluxes:
    """Sums of the image in circles about (x, y).

    Parameters
    ----------
    image, variance, bad : ndarray of float32, float32, bool, shape (ny, nx)
    x, y : ndarray, shape (n,)
        Centres [pixel].
    radii : tuple of float
        Ascending [pixel].
    """
    shape = (len(x), len(radii))
    flux, error, masked = np.empty(shape), np.empty(shape), np.empty(shape)
    truncated = np.empty(shape, dtype=bool)
    nested_circles(
        image,
        variance,
        bad,
        np.asarray(x, float),
        np.asarray(y, float),
        np.asarray(radii, float),
        flux,
        error,
        masked,
        truncated,
    )
    return ApertureFluxes(flux, error, masked, truncated)
