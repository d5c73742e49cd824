"""Templates of deblending (LDM-151 8.5.1): what a source looks like without its neighbours.

An extended source's template is symmetric under rotation by half a turn: in each pixel the smaller of the image and its
mirror image about the peak (Lupton 2005, the SDSS deblender); their mean where they agree within the noise, whose
smaller values would make templates too faint. Three more rules keep noise from making templates: below 5 sigma the image is
smoothed with a 3 x 3 kernel first; going outwards a template does not rise; and it ends where it falls under a
share of the noise. A point source's template is the PSF.

Templates are lists of pixels ("slots": numbers of the pixels of blended footprints), one after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from skyquilt.algorithms.source_detection.point_source_kernels import draw
from skyquilt.algorithms.source_detection.point_sources import PsfSampler
from skyquilt.primitives.compiled import kernel

EDGE, MASKED, CUT = 1, 2, 4


class Templates(NamedTuple):
    """Source k has `slot[start[k]:start[k + 1]]`, ascending, with the values there [electron]; flags by bit."""

    start: np.ndarray
    slot: np.ndarray
    value: np.ndarray
    flags: np.ndarray


def make_templates(
    image: np.ndarray,
    unusable: np.ndarray,
    slots: np.ndarray,
    slot_family: np.ndarray,
    family: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    point: np.ndarray,
    sigma: np.ndarray,
    sampler: PsfSampler,
    reach: np.ndarray,
    most: np.ndarray,
    floor: float,
) -> Templates:
    """Templates of all sources.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Without the point sources.
    unusable : ndarray of bool, shape (ny, nx)
    slots : ndarray of int32, shape (ny, nx)
        Number of a pixel among those of blended footprints, -1 for others.
    slot_family : ndarray of int64, shape (n_slot,)
        Footprint of each of those.
    family, x, y, flux, point, sigma, reach : ndarray, shape (n,)
        Footprint, place, flux, whether the template is the PSF, noise of a pixel [electron], reach of the PSF [pixel].
    most : ndarray of int64, shape (n,)
        Most pixels from the centre of a symmetric template.
    floor : float
        Symmetric templates end here [sigma].
    """
    return Templates(
        *fill_templates(
            image,
            unusable,
            slots,
            slot_family,
            family,
            x,
            y,
            flux,
            point,
            sigma,
            reach,
            np.ascontiguousarray(most, dtype=np.int64),
            float(floor),
            sampler.tables,
            sampler.y_nodes,
            sampler.x_nodes,
        )
    )


@kernel("boolean(const(float32[:, ::1]), const(boolean[:, ::1]), int64, int64)")
def usable_at(image, unusable, j, i):
    """Whether a pixel is on the image, usable and finite."""
    if j < 0 or i < 0 or j >= image.shape[0] or i >= image.shape[1]:
        return False
    return not unusable[j, i] and abs(image[j, i]) < np.inf


@kernel("float64(const(float32[:, ::1]), const(boolean[:, ::1]), int64, int64)")
def smoothed_at(image, unusable, j, i):
    """Mean over 3 x 3 pixels with weights 1, 2, 1 along each axis, of those that are usable; NaN without any."""
    total = 0.0
    weight = 0.0
    for b in range(-1, 2):
        for a in range(-1, 2):
            if usable_at(image, unusable, j + b, i + a):
                w = (2.0 - abs(b)) * (2.0 - abs(a))
                total += w * image[j + b, i + a]
                weight += w
    return total / weight if weight > 0 else np.nan


@kernel("float64(const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, float64)")
def level_at(image, unusable, y, x, limit):
    """The image at a place, linearly between pixels: as it is above `limit`, else smoothed; NaN if not usable."""
    j, i = int(np.floor(y)), int(np.floor(x))
    fy, fx = y - j, x - i
    total = 0.0
    for b in range(2):
        for a in range(2):
            w = (fy if b else 1.0 - fy) * (fx if a else 1.0 - fx)
            if w < 1e-9:
                continue
            if not usable_at(image, unusable, j + b, i + a):
                return np.nan
            total += w * image[j + b, i + a]
    if total > limit:
        return total
    total = 0.0
    for b in range(2):
        for a in range(2):
            w = (fy if b else 1.0 - fy) * (fx if a else 1.0 - fx)
            if w >= 1e-9:
                total += w * smoothed_at(image, unusable, j + b, i + a)
    return total


@kernel(
    "UniTuple(int64, 2)(const(float32[:, ::1]), const(boolean[:, ::1]), float64, float64, float64, float64, int64, "
    "float32[:, ::1])"
)
def symmetric_template(image, unusable, y, x, sigma, floor, most, out):
    """Fill the middle of `out`, which is square, with a symmetric template; its reach, at most `most`, and flags.

    Rings are made outwards until one is below the floor everywhere.
    """
    row, column = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
    flags = 0
    least = floor * sigma
    limit = 5.0 * sigma
    least_noise = sigma * sigma
    largest = out.shape[0] // 2
    for r in range(most + 1):
        alive = False
        for dy in range(-r, r + 1):
            step = 1 if abs(dy) == r else max(2 * r, 1)
            for dx in range(-r, r + 1, step):
                j, i = row + dy, column + dx
                out[largest + dy, largest + dx] = 0
                ceiling = np.inf
                if r > 0:
                    ceiling = 0.0
                    v = int(np.rint(dy * (r - 1) / r))
                    u = int(np.rint(dx * (r - 1) / r))
                    for s in range(-1, 2):
                        b, a = (v, u + s) if abs(dy) >= abs(dx) else (v + s, u)
                        if abs(b) <= r - 1 and abs(a) <= r - 1:
                            ceiling = max(ceiling, np.float64(out[largest + b, largest + a]))
                if ceiling < least:
                    continue
                here = level_at(image, unusable, np.float64(j), np.float64(i), limit)
                there = level_at(image, unusable, 2.0 * y - j, 2.0 * x - i, limit)
                if np.isnan(here) or np.isnan(there):
                    off = 2.0 * y - j
                    across = 2.0 * x - i
                    inside = (
                        0 <= j < image.shape[0]
                        and 0 <= i < image.shape[1]
                        and 0 <= off <= image.shape[0] - 1
                        and 0 <= across <= image.shape[1] - 1
                    )
                    flags |= MASKED if inside else EDGE
                    if np.isnan(here):
                        here = there
                    if np.isnan(there):
                        there = here
                value = min(here, there)
                # where both agree within the noise their mean is the better estimate: the smaller is biased
                noise = np.sqrt(least_noise + max(value, 0.0)) if value > limit else 0.4 * sigma
                if abs(here - there) < 2.0 * noise:
                    value = 0.5 * (here + there)
                if np.isnan(value):
                    # neither is known: as the pixels further in
                    value = ceiling if ceiling < np.inf else 0.0
                value = min(value, ceiling)
                if r == 0:
                    value = max(value, least)
                if value >= least:
                    out[largest + dy, largest + dx] = value
                    alive = True
        if not alive:
            return r - 1, flags
    return most, flags | CUT


@kernel(
    "Tuple((int64[::1], int32[::1], float32[::1], int64[::1]))(const(float32[:, ::1]), const(boolean[:, ::1]), "
    "const(int32[:, ::1]), const(int64[::1]), const(int64[::1]), const(float64[::1]), const(float64[::1]), "
    "const(float64[::1]), const(boolean[::1]), const(float64[::1]), const(int64[::1]), const(int64[::1]), float64, "
    "const(float32[:, :, :, :, :, ::1]), const(float64[::1]), const(float64[::1]))"
)
def fill_templates(
    image,
    unusable,
    slots,
    slot_family,
    family,
    x,
    y,
    flux,
    point,
    sigma,
    reach,
    most,
    floor,
    tables,
    y_nodes,
    x_nodes,
):
    """start, slot, value and flags of `Templates`."""
    ny, nx = image.shape
    n = x.size
    start = np.zeros(n + 1, np.int64)
    flags = np.zeros(n, np.int64)
    slot = np.empty(max(256 * n, 1024), np.int32)
    value = np.empty(slot.size, np.float32)
    largest = most.max() if n > 0 else np.int64(0)
    scratch = np.empty((2 * largest + 1, 2 * largest + 1), np.float32)
    count = 0
    for k in range(n):
        row, column = int(np.floor(y[k] + 0.5)), int(np.floor(x[k] + 0.5))
        half = reach[k]
        stamp = np.empty((1, 1))
        if point[k]:
            stamp = np.empty((2 * half + 1, 2 * half + 1))
            draw(tables, y_nodes, x_nodes, x[k], y[k], half, stamp)
            if row < half or column < half or row + half >= ny or column + half >= nx:
                flags[k] |= EDGE
        else:
            half, flags[k] = symmetric_template(
                image, unusable, y[k], x[k], sigma[k], floor, most[k], scratch
            )
        area = (2 * half + 1) ** 2
        if count + area > slot.size:
            wider_slot = np.empty(2 * slot.size + area, np.int32)
            wider_value = np.empty(2 * slot.size + area, np.float32)
            wider_slot[:count] = slot[:count]
            wider_value[:count] = value[:count]
            slot, value = wider_slot, wider_value
        for dy in range(-half, half + 1):
            j = row + dy
            if j < 0 or j >= ny:
                continue
            for dx in range(-half, half + 1):
                i = column + dx
                if i < 0 or i >= nx:
                    continue
                at = slots[j, i]
                if at < 0 or slot_family[at] != family[k]:
                    continue
                if point[k]:
                    level = np.float32(flux[k] * stamp[dy + half, dx + half])
                    if unusable[j, i] and abs(dy) <= 1 and abs(dx) <= 1:
                        flags[k] |= MASKED
                else:
                    level = scratch[largest + dy, largest + dx]
                if level > 0:
                    slot[count] = at
                    value[count] = level
                    count += 1
        start[k + 1] = count
    return start, slot[:count].copy(), value[:count].copy(), flags
