"""Full Visit PSF Estimation (LDM-151 8.10.1): pixels of stars, where their detectors are, and their noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.geometry import Box
from skyquilt.primitives.transforms import Affine

_RING = 0.8
"""Pixels beyond this share of the stamp's half side tell the variance of the sky."""


@dataclass(frozen=True, eq=False)
class StarStamps:
    """Pixels about stars of a visit, background subtracted.

    Stamp (j, i) is pixel (round(y) - s // 2 + j, round(x) - s // 2 + i), halves rounded up.

    Parameters
    ----------
    detector : ndarray of int64, shape (n,)
    x, y : ndarray of float64, shape (n,) [pixel]
    image, variance : ndarray of float32, shape (n, s, s), s odd [electron, electron^2]
    good : ndarray of bool, shape (n, s, s)
        Pixels that may be used: inside the detector, not saturated, no other trouble.
    flux : ndarray of float64, shape (n,) [electron]
        First guesses; NaN where there is none.
    colour : ndarray of float64, shape (n,) [mag]
        NaN if unknown.
    reserved : ndarray of bool, shape (n,)
        Stars that judge the model and take no part in it.
    """

    detector: np.ndarray
    x: np.ndarray
    y: np.ndarray
    image: np.ndarray
    variance: np.ndarray
    good: np.ndarray
    flux: np.ndarray
    colour: np.ndarray
    reserved: np.ndarray

    def __post_init__(self) -> None:
        types = {"detector": np.int64, "image": np.float32, "variance": np.float32}
        types |= {"good": np.bool_, "reserved": np.bool_}
        for name in self.__dataclass_fields__:
            kind = types.get(name, np.float64)
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=kind))
        n, side = len(self.x), self.image.shape[-1]
        cube = ("image", "variance", "good")
        flat = [name for name in self.__dataclass_fields__ if name not in cube]
        if any(getattr(self, name).shape != (n,) for name in flat) or side % 2 == 0:
            raise ValueError("columns of StarStamps must have one length, and stamps an odd side")
        if any(getattr(self, name).shape != (n, side, side) for name in cube):
            raise ValueError(f"StarStamps of {n} stars need pixels of shape ({n}, {side}, {side})")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def side(self) -> int:
        """Side of the stamps [pixel]."""
        return self.image.shape[-1]

    def take(self, rows: np.ndarray) -> StarStamps:
        """Some of the stars."""
        return StarStamps(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def ordered(self) -> np.ndarray:
        """Rows by detector, y and x: the order in which sums are taken, whatever the order of the rows."""
        return np.lexsort((self.x, self.y, self.detector))


@dataclass(frozen=True)
class DetectorPlace:
    """Where a detector is: its number, its pixels, and the map from pixel to focal plane [mm]."""

    detector: int
    box: Box
    to_focal_plane: Affine


def nearest_pixel(place: np.ndarray) -> np.ndarray:
    """The pixel that covers a place, halves up; as `Psf.image_at` has it."""
    whole = np.floor(place)
    return (whole + (place - whole >= 0.5)).astype(np.int64)


def cut_stamps(
    detector: int,
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    side: int,
    flux: np.ndarray | None = None,
    colour: np.ndarray | None = None,
    reserved: np.ndarray | None = None,
) -> StarStamps:
    """Stamps of stars of one detector.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx) [electron, electron^2]
    bad : ndarray of bool, shape (ny, nx)
        Pixels that must not be used, saturated ones among them.
    x, y, flux, colour, reserved : ndarray, shape (n,)
        As in `StarStamps`.
    side : int
        Odd [pixel].
    """
    n, half = len(x), side // 2
    shape = (n, side, side)
    pixels, spread, good = np.zeros(shape, np.float32), np.ones(shape, np.float32), np.zeros(shape, bool)
    ny, nx = image.shape
    for k, (i, j) in enumerate(zip(nearest_pixel(np.asarray(x)), nearest_pixel(np.asarray(y)))):
        x0, x1 = max(i - half, 0), min(i + half + 1, nx)
        y0, y1 = max(j - half, 0), min(j + half + 1, ny)
        if x0 >= x1 or y0 >= y1:
            continue
        source = np.s_[y0:y1, x0:x1]
        target = np.s_[k, y0 - j + half : y1 - j + half, x0 - i + half : x1 - i + half]
        pixels[target], spread[target], good[target] = image[source], variance[source], ~bad[source]
    unknown = np.full(n, np.nan)
    return StarStamps(
        np.full(n, detector),
        np.asarray(x),
        np.asarray(y),
        pixels,
        spread,
        good,
        unknown if flux is None else flux,
        unknown if colour is None else colour,
        np.zeros(n, bool) if reserved is None else reserved,
    )


def usable_pixels(stamps: StarStamps) -> np.ndarray:
    """`good` without pixels that are not finite or have no positive variance, (n, s, s)."""
    return stamps.good & np.isfinite(stamps.image) & (stamps.variance > 0) & np.isfinite(stamps.variance)


def sky_variance(stamps: StarStamps, good: np.ndarray) -> tuple[np.ndarray, float]:
    """Variance of each star's sky, and variance per unit of light: what a model's noise is made of.

    The variance of a pixel goes with its own noise; weights made of it would make stars too faint. So the
    relation of variance and image is found over many pixels, and the variance then follows the model.

    Returns
    -------
    ndarray, shape (n,)
        [electron^2]; NaN for a star without good pixels.
    float
        [electron], not negative.
    """
    side = stamps.side
    offset = np.arange(side) - side // 2
    outer = np.hypot(offset, offset[:, None]) > _RING * (side // 2)
    level, light = (_medians(values[:, outer], good[:, outer]) for values in (stamps.variance, stamps.image))
    bare = np.isnan(level)
    if bare.any():
        level[bare] = _medians(
            stamps.variance[bare].reshape(bare.sum(), -1), good[bare].reshape(bare.sum(), -1)
        )
        light[bare] = 0.0
    middle = np.s_[:, side // 2 - side // 6 : side // 2 + side // 6 + 1]
    middle = middle + (middle[1],)
    used = good[middle]
    excess = np.where(used, stamps.variance[middle] - level[:, None, None], 0.0).astype(np.float64)
    above = np.where(used, stamps.image[middle] - light[:, None, None], 0.0).astype(np.float64)
    below = np.einsum("nij,nij->n", above, above)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.einsum("nij,nij->n", excess, above) / below
    slopes = slopes[np.isfinite(slopes)]
    slope = max(float(np.median(slopes)), 0.0) if slopes.size else 0.0
    sky = level - slope * np.nan_to_num(light)
    return np.where(sky > 0.1 * level, sky, level), slope


def _medians(values: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Median of the good values of each row; NaN without any."""
    found = np.full(len(values), np.nan)
    for k, row in enumerate(good):
        if row.any():
            found[k] = np.median(values[k, row])
    return found


def places_of(detectors: Sequence[DetectorPlace]) -> tuple[np.ndarray, float, float]:
    """Middle and radius of the focal plane [mm], and the pixels' size [mm] (median over detectors)."""
    corners = np.array([_corners(place) for place in detectors]).reshape(-1, 2)
    middle = 0.5 * (corners.min(axis=0) + corners.max(axis=0))
    radius = float(np.hypot(*(corners - middle).T).max())
    pixel = float(np.median([abs(place.to_focal_plane.determinant) ** 0.5 for place in detectors]))
    return middle, radius, pixel


def _corners(place: DetectorPlace) -> np.ndarray:
    box = place.box
    x = np.array([box.x0, box.x1 - 1, box.x0, box.x1 - 1], dtype=np.float64)
    y = np.array([box.y0, box.y0, box.y1 - 1, box.y1 - 1], dtype=np.float64)
    return np.array(place.to_focal_plane.forward(x, y)).T
