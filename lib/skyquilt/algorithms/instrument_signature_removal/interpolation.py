"""Interpolation (LDM-151 8.1, 8.2): values for bad pixels from their neighbours, without a PSF.

Each pixel takes the straight line between the nearest good pixels on both sides, along the row or along the column,
whichever gap is shorter (both, averaged, where equal); at an edge the one neighbour. The
variance is that of the pixels used, times the squares of their weights: it holds where the image is smooth over the
gap (a sky), not in the core of a star. The planes that said why the pixel is bad stay; INTERPOLATED says that it
has a value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.mask import Mask


@dataclass(frozen=True)
class InterpolationConfig:
    """Interpolation of bad pixels."""

    planes: tuple[str, ...] = ("BAD",)
    """Mask planes whose pixels are interpolated; those of NO_DATA never are."""
    avoid: tuple[str, ...] = ("SATURATED", "COSMIC_RAY")
    """Planes whose pixels are no good neighbours, besides the interpolated and those without data."""
    max_gap: int = 12
    """Wider gaps, in the better direction, are left as they are [pixel]."""

    def __post_init__(self) -> None:
        if self.max_gap < 1:
            raise ValueError(f"interpolation.max_gap must be at least 1, got {self.max_gap}")


@kernel(
    "UniTuple(int64, 2)(float32[:, :], float32[:, :], int32[:, :], const(boolean[:, :]), int64, int32, int32, int32, "
    "boolean)"
)
def interpolate_linear(
    image, variance, mask, where, max_gap, never_bits, unusable_bits, done_bits, between_filled
):
    """Fill pixels in place; returns how many were filled and how many were not.

    Parameters
    ----------
    image, variance : float32, shape (ny, nx)
    mask : int32, shape (ny, nx)
        `done_bits` are added where a pixel was filled.
    where : bool, shape (ny, nx)
        Pixels to be filled, save those with any of `never_bits`.
    max_gap : int
        Longest gap that is bridged; a pixel at distance d of a single neighbour has a gap of 2 d.
    unusable_bits : int32
        Pixels with any of them are no neighbours; nor are those of `where`.
    between_filled : bool
        Pixels that were filled are neighbours too, but there must be one on both sides.
    """
    ny, nx = image.shape
    filled, left = 0, 0
    ends = np.zeros((2, 2), np.int64)
    gaps = np.zeros(2, np.int64)
    for j in range(ny):
        for i in range(nx):
            if not where[j, i] or mask[j, i] & never_bits:
                continue
            for axis in range(2):
                for side in range(2):
                    ends[axis, side] = 0
                    for step in range(1, max_gap + 1):
                        move = step if side else -step
                        y, x = (j, i + move) if axis == 0 else (j + move, i)
                        if y < 0 or x < 0 or y >= ny or x >= nx:
                            break
                        usable = not mask[y, x] & unusable_bits
                        usable |= between_filled and mask[y, x] & done_bits != 0
                        if usable and not where[y, x] and np.isfinite(image[y, x]):
                            ends[axis, side] = step
                            break
                low, high = ends[axis, 0], ends[axis, 1]
                if low and high:
                    gaps[axis] = low + high - 1
                elif (low or high) and not between_filled:
                    gaps[axis] = 2 * (low + high)
                else:
                    gaps[axis] = max_gap + 1
            best = min(gaps[0], gaps[1])
            if best > max_gap:
                left += 1
                continue
            value = 0.0
            noise = 0.0
            number = 0
            for axis in range(2):
                if gaps[axis] != best:
                    continue
                number += 1
                low, high = ends[axis, 0], ends[axis, 1]
                for side in range(2):
                    if ends[axis, side] == 0:
                        continue
                    move = high if side else -low
                    y, x = (j, i + move) if axis == 0 else (j + move, i)
                    share = (low if side else high) / (low + high) if low and high else 1.0
                    value += share * image[y, x]
                    noise += share * share * variance[y, x]
            image[j, i] = value / number
            variance[j, i] = noise / (number * number)
            mask[j, i] |= done_bits
            filled += 1
    return filled, left


def interpolate_pixels(
    image: np.ndarray,
    mask: Mask,
    variance: np.ndarray,
    where: np.ndarray,
    config: InterpolationConfig,
) -> int:
    """Fill the pixels of `where` from their neighbours, in place, and set INTERPOLATED on them.

    Parameters
    ----------
    image, variance : ndarray of float32, shape (ny, nx)
    mask : Mask
    where : ndarray of bool, shape (ny, nx)
        Pixels wanted; those of NO_DATA are left.
    config : InterpolationConfig

    Returns
    -------
    int
        Pixels that were filled; the others have a gap wider than `config.max_gap` in both directions.
    """
    # a pixel that was filled before, for another reason, is no measurement
    avoid = mask.bits(["NO_DATA", "INTERPOLATED", *config.planes, *config.avoid])
    never, done = mask.bits(["NO_DATA"]), mask.bits(["INTERPOLATED"])
    planes = image, variance, mask.array
    filled, left = interpolate_linear(*planes, where, config.max_gap, never, avoid, done, False)
    if left:
        # where bad rows and columns cross there was no neighbour in either direction
        rest = where & ((mask.array & np.int32(done | never)) == 0)
        filled += interpolate_linear(*planes, rest, config.max_gap, never, avoid, done, True)[0]
    return int(filled)
