"""Sky maps (LDM-151 2.3, 5.4): tracts, each one projection, and their patches on a shared pixel grid.

Every tract has an *inner region*; the inner regions of a rings map share out the sphere without gap or
overlap. Its pixels, the *outer region*, reach further, by the tract overlap at least. A patch has an inner
box, and an outer box that is wider by the border. All patches of a tract use the tract's pixels, so where
they overlap their images can be equal to the bit.

A rings map cuts the sky along parallels into rings of equal height and a cap about each pole, and each ring
along meridians into cells not wider than high; the tract's tangent point is the middle of its cell.
"""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from skyquilt.primitives.data_units import OBJECT_ID
from skyquilt.primitives.geometry import (
    Box,
    ConvexPolygon,
    angular_separation,
    project_tangent,
    unit_vectors,
    wrap_ra,
)
from skyquilt.primitives.wcs import Wcs

_EDGE_SAMPLES = 129
_LARGEST_HALF_ANGLE = np.radians(80.0)


@dataclass(frozen=True)
class Patch:
    """A part of a tract small enough for one job.

    Parameters
    ----------
    tract : int
    id : int
        px + py * (patches in a row).
    px, py : int
        Column and row among the tract's patches.
    inner : Box
        Pixels that belong to this patch and no other.
    outer : Box
        `inner` grown by the border, within the tract's box.
    """

    tract: int
    id: int
    px: int
    py: int
    inner: Box
    outer: Box


class Tract:
    """A part of the sky with one TAN projection, cut into patches.

    Attributes
    ----------
    id : int
    wcs : Wcs
        North up, east left, tangent point in the middle of the box.
    box : Box
        All pixels, from (0, 0): the outer region.
    patch_grid : (int, int)
        Patches along x and y.
    """

    def __init__(self, sky_map: SkyMap, tract_id: int) -> None:
        ids = np.array([tract_id])
        ra, dec = (float(value[0]) for value in sky_map.centres(ids))
        self.id = int(tract_id)
        self.sky_map = sky_map
        self.patch_grid = tuple(int(count[0]) for count in sky_map.patch_grids(ids))
        size = sky_map.patch_inner_pixels
        self.box = Box(0, 0, self.patch_grid[0] * size, self.patch_grid[1] * size)
        scale = sky_map.pixel_scale_arcsec / 3600.0
        self.wcs = Wcs.tan((ra, dec), self.box.centre, [[-scale, 0.0], [0.0, scale]])

    def __repr__(self) -> str:
        return f"Tract({self.id}, ra={self.wcs.ra:.4f}, dec={self.wcs.dec:+.4f}, patches={self.patch_grid})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tract):
            return NotImplemented
        return self.id == other.id and self.sky_map == other.sky_map

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def num_patches(self) -> int:
        """Number of patches."""
        return self.patch_grid[0] * self.patch_grid[1]

    @cached_property
    def polygon(self) -> ConvexPolygon:
        """Outer region on the sky (exact: straight lines of a TAN image are great circles)."""
        return ConvexPolygon.from_sky(*self.wcs.pixel_to_sky(*self.box.corners()))

    def patch(self, patch_id: int) -> Patch:
        """Patch by its number; IndexError when the tract has no such patch."""
        if not 0 <= patch_id < self.num_patches:
            raise IndexError(f"tract {self.id} has patches 0..{self.num_patches - 1}, not {patch_id}")
        py, px = divmod(int(patch_id), self.patch_grid[0])
        size = self.sky_map.patch_inner_pixels
        inner = Box(px * size, py * size, size, size)
        outer = inner.grown(self.sky_map.patch_border_pixels).overlap(self.box)
        return Patch(self.id, int(patch_id), px, py, inner, outer)

    def patches(self) -> list[Patch]:
        """All patches, by number."""
        return [self.patch(i) for i in range(self.num_patches)]

    def contains_inner(self, ra: float | np.ndarray, dec: float | np.ndarray) -> np.ndarray:
        """Whether positions [deg] belong to this tract's inner region, as bool of their shape."""
        return self.sky_map.find_tract(ra, dec) == self.id

    def contains(self, ra: float | np.ndarray, dec: float | np.ndarray) -> np.ndarray:
        """Whether positions [deg] lie on a pixel of this tract, as bool of their shape."""
        return self.box.contains(*self.wcs.sky_to_pixel(ra, dec))

    def patch_of(self, ra: float | np.ndarray, dec: float | np.ndarray) -> np.ndarray:
        """Number of the patch whose inner box holds each position [deg], int64; -1 outside the tract."""
        return self.patch_at(*self.wcs.sky_to_pixel(ra, dec))

    def patch_at(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Number of the patch whose inner box holds each tract pixel, int64; -1 outside the tract."""
        inside = self.box.contains(x, y)
        size = self.sky_map.patch_inner_pixels
        px = np.floor((np.where(inside, x, 0.0) + 0.5) / size).astype(np.int64)
        py = np.floor((np.where(inside, y, 0.0) + 0.5) / size).astype(np.int64)
        return np.where(inside, px + py * self.patch_grid[0], -1)[()]

    def patches_overlapping(self, polygon: ConvexPolygon) -> list[Patch]:
        """Patches whose outer boxes have an area in common with a polygon, by number."""
        common = self.polygon.intersection(polygon)
        if common is None:
            return []
        x, y = self.wcs.sky_to_pixel(*common.corners)
        size, border = self.sky_map.patch_inner_pixels, self.sky_map.patch_border_pixels
        low_x, high_x = _outer_edges(self.patch_grid[0], size, border)
        low_y, high_y = _outer_edges(self.patch_grid[1], size, border)
        columns = np.flatnonzero((high_x >= x.min()) & (low_x <= x.max()))
        rows = np.flatnonzero((high_y >= y.min()) & (low_y <= y.max()))
        touched = _rectangles_touch_polygon(
            (low_x[columns], high_x[columns]), (low_y[rows], high_y[rows]), np.column_stack([x, y])
        )
        row, column = np.nonzero(touched)
        return [self.patch(i) for i in rows[row] * self.patch_grid[0] + columns[column]]


def _outer_edges(count: int, size: int, border: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper pixel edges of the outer boxes along one axis."""
    start = np.arange(count) * size
    low, high = np.maximum(start - border, 0), np.minimum(start + size + border, count * size)
    return low - 0.5, high - 0.5


def _rectangles_touch_polygon(
    x_edges: tuple[np.ndarray, np.ndarray], y_edges: tuple[np.ndarray, np.ndarray], corners: np.ndarray
) -> np.ndarray:
    """Whether rectangles of a grid touch a convex polygon, bool of shape (n_y, n_x).

    The rectangles' bounds must already meet the polygon's: then only its edges can separate them.
    """
    centre = corners.mean(axis=0)
    touched = np.ones((len(y_edges[0]), len(x_edges[0])), dtype=bool)
    for start, end in zip(corners, np.roll(corners, -1, axis=0)):
        normal = np.array([end[1] - start[1], start[0] - end[0]])
        if normal @ (start - centre) < 0:
            normal = -normal
        # the rectangle's corner that lies deepest inside the edge
        x = x_edges[0] if normal[0] > 0 else x_edges[1]
        y = y_edges[0] if normal[1] > 0 else y_edges[1]
        depth = normal @ start - (normal[0] * x[None, :] + normal[1] * y[:, None])
        touched &= depth >= -1e-9 * np.abs(normal).sum()
    return touched


class SkyMap(ABC):
    """What all tilings of the sky have in common.

    Parameters
    ----------
    pixel_scale_arcsec : float
        Pixel at a tract's tangent point [arcsec].
    patch_inner_pixels : int
        Side of a patch's inner box [pixel].
    patch_border_pixels : int
        How far its outer box reaches beyond [pixel].
    """

    kind: str

    def __init__(self, pixel_scale_arcsec: float, patch_inner_pixels: int, patch_border_pixels: int) -> None:
        self.pixel_scale_arcsec = float(pixel_scale_arcsec)
        self.patch_inner_pixels = int(patch_inner_pixels)
        self.patch_border_pixels = int(patch_border_pixels)
        if not self.pixel_scale_arcsec > 0:
            raise ValueError(f"pixel_scale_arcsec must be positive, got {pixel_scale_arcsec}")
        if self.patch_inner_pixels < 1 or self.patch_border_pixels < 0:
            raise ValueError(
                f"patch_inner_pixels must be at least 1 and patch_border_pixels at least 0, "
                f"got {patch_inner_pixels} and {patch_border_pixels}"
            )
        self._tracts = lru_cache(maxsize=4096)(self._make_tract)

    def __reduce__(self) -> tuple:
        return from_config, (self.to_config(),)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SkyMap):
            return NotImplemented
        return self.to_config() == other.to_config()

    def __hash__(self) -> int:
        return hash(self.kind)

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.to_config().items() if key != "kind")
        return f"{type(self).__name__}({options})"

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """The dict from which `from_config` makes an equal map."""

    @property
    @abstractmethod
    def num_tracts(self) -> int:
        """Number of tracts; they are numbered from 0."""

    @abstractmethod
    def find_tract(self, ra: float | np.ndarray, dec: float | np.ndarray) -> np.ndarray:
        """Tract whose inner region holds each position [deg], int64; -1 where there is none (or NaN).

        Raises
        ------
        ValueError
            When a declination is beyond +-90.
        """

    @abstractmethod
    def centres(self, tracts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ra, dec) [deg] of the tangent points of tracts, shape (n,)."""

    @abstractmethod
    def patch_grids(self, tracts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of patches along x and y of tracts, shape (n,)."""

    @abstractmethod
    def _near(self, ra: float, dec: float, radius: float) -> np.ndarray:
        """Numbers of all tracts that may reach a disc [deg], ascending; some may not."""

    @property
    @abstractmethod
    def guard_radius_deg(self) -> float:
        """Radius of a disc that is sure to lie inside one tract and one patch (of one tract: see there)."""

    def _make_tract(self, tract_id: int) -> Tract:
        return Tract(self, tract_id)

    def tract(self, tract_id: int) -> Tract:
        """Tract by its number; IndexError when there is none."""
        if not 0 <= tract_id < self.num_tracts:
            raise IndexError(f"the sky map has tracts 0..{self.num_tracts - 1}, not {tract_id}")
        return self._tracts(int(tract_id))

    def tracts_overlapping(self, polygon: ConvexPolygon) -> list[Tract]:
        """Tracts whose outer regions touch a polygon, by number."""
        near = self._near(*polygon.centre, polygon.radius)
        return [tract for tract in map(self.tract, near) if tract.polygon.intersects(polygon)]

    def tracts_containing(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All tracts that have a pixel at positions [deg] of shape (n,).

        Returns
        -------
        index, tract : ndarray of int64, shape (m,)
            Position and tract of each of the m pairs, ordered by position, then tract.
        """
        ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        index, tract = self._pairs(ra, dec)
        x, y, box_x, box_y = self._pixels(tract, ra[index], dec[index])
        inside = (x >= -0.5) & (x < box_x - 0.5) & (y >= -0.5) & (y < box_y - 0.5)
        index, tract = index[inside], tract[inside]
        order = np.lexsort((tract, index))
        return index[order], tract[order]

    @abstractmethod
    def _pairs(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (index of position, tract), among them all of `tracts_containing`, each once."""

    def _pixels(
        self, tracts: np.ndarray, ra: np.ndarray, dec: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(x, y, nx, ny): pixel of each position in the tract of the same index, and that tract's size."""
        ra0, dec0 = self.centres(tracts)
        columns, rows = self.patch_grids(tracts)
        nx, ny = columns * self.patch_inner_pixels, rows * self.patch_inner_pixels
        xi, eta = project_tangent(ra, dec, ra0, dec0)
        scale = self.pixel_scale_arcsec / 3600.0
        return 0.5 * (nx - 1) - xi / scale, 0.5 * (ny - 1) + eta / scale, nx, ny

    def find_patch(self, ra: float | np.ndarray, dec: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tract, patch) to which positions [deg] belong, int64; -1, -1 where there is none."""
        ra, dec = np.broadcast_arrays(np.asarray(ra, float), np.asarray(dec, float))
        tract = np.asarray(self.find_tract(ra, dec))
        x, y, nx, ny = self._pixels(np.maximum(tract, 0), ra, dec)
        size = self.patch_inner_pixels
        found = tract >= 0
        px = np.clip(np.floor((np.where(found, x, 0) + 0.5) / size).astype(np.int64), 0, nx // size - 1)
        py = np.clip(np.floor((np.where(found, y, 0) + 0.5) / size).astype(np.int64), 0, ny // size - 1)
        return tract[()], np.where(found, px + py * (nx // size), -1)[()]

    def wholly_inside(
        self, ra: float | np.ndarray, dec: float | np.ndarray, radius: float | np.ndarray
    ) -> np.ndarray:
        """Whether discs lie in the outer box of the patch to which their centres belong.

        Parameters
        ----------
        ra, dec, radius : arrays, broadcast [deg]

        Returns
        -------
        ndarray of bool
            True everywhere in a rings map for radii up to `guard_radius_deg`.
        """
        ra, dec, radius = np.broadcast_arrays(*(np.asarray(each, float) for each in (ra, dec, radius)))
        tract, patch = (np.asarray(each) for each in self.find_patch(ra, dec))
        home = np.maximum(tract, 0)
        ra0, dec0 = self.centres(home)
        grids = self.patch_grids(home)
        py, px = np.divmod(np.maximum(patch, 0), grids[0])
        axes = _frames(ra0, dec0)
        point = unit_vectors(ra, dec)
        west, north, forward = (np.sum(axis * point, axis=-1) for axis in axes)
        inside = tract >= 0
        for position, along, count in ((px, west, grids[0]), (py, north, grids[1])):
            low, high = self._outer_tangents(position, count)
            sine = np.sin(np.radians(radius))
            # depth below the great circle of a box edge; TAN maps the edge onto a straight line
            inside &= (along - low * forward) / np.hypot(1.0, low) >= sine - 1e-15
            inside &= (high * forward - along) / np.hypot(1.0, high) >= sine - 1e-15
        return inside[()]

    def _outer_tangents(self, position: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper edges of outer boxes along one axis, as distances on the tangent plane [radian]."""
        size, border = self.patch_inner_pixels, self.patch_border_pixels
        middle = 0.5 * count * size
        low = np.maximum(position * size - border, 0) - middle
        high = np.minimum((position + 1) * size + border, count * size) - middle
        pixel = np.radians(self.pixel_scale_arcsec / 3600.0)
        return low * pixel, high * pixel

    def _patches_for(self, half_angle: np.ndarray) -> np.ndarray:
        """Number of patches that covers +-half_angle [radian] about the tangent point along one axis."""
        pixels = 2.0 * np.tan(half_angle) / np.radians(self.pixel_scale_arcsec / 3600.0)
        return np.maximum(np.ceil(pixels / self.patch_inner_pixels), 1).astype(np.int64)

    def _check_capacity(self, largest_patches: int) -> None:
        for name, count in (("tract", self.num_tracts), ("patch", largest_patches)):
            if count > OBJECT_ID.capacity(name):
                raise ValueError(
                    f"the sky map has {count} {name} numbers; object ids hold {OBJECT_ID.capacity(name)}"
                )

    def _border_guard(self, field_angle: float | np.ndarray) -> np.ndarray:
        """Radius [deg] of the largest disc that its centre in the inner box keeps inside the outer box.

        Away from the tangent point a disc's image stretches, most along the radius: tan(t + g) - tan(t).
        """
        border = self.patch_border_pixels * np.radians(self.pixel_scale_arcsec / 3600.0)
        angle = np.radians(field_angle)
        return np.degrees(np.arctan(np.tan(angle) + border) - angle)


def _frames(ra0: np.ndarray, dec0: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (west, north, forward), each (..., 3), at tangent points: the way x and y go."""
    a, d = np.broadcast_arrays(np.radians(ra0), np.radians(dec0))
    west = np.stack([np.sin(a), -np.cos(a), np.zeros_like(a)], axis=-1)
    north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)], axis=-1)
    return west, north, unit_vectors(ra0, dec0)


class RingsSkyMap(SkyMap):
    """The whole sky in rings of equal height and two polar caps.

    Tract 0 is the south cap; then come the rings from south to north, each eastward from `ra_start_deg`,
    where its first tract has its middle; the north cap is last. Tracts are made when they are asked for.

    Parameters
    ----------
    num_rings : int
        Rings between the caps; their height is 180 deg / (num_rings + 1).
    pixel_scale_arcsec, patch_inner_pixels, patch_border_pixels
        See `SkyMap`.
    tract_overlap_deg : float
        How far a tract's pixels reach at least beyond its inner region [deg].
    ra_start_deg : float
        RA of the middle of the first tract of each ring [deg].

    Raises
    ------
    ValueError
        For values out of range, tracts too large for a TAN projection, or more tracts or patches than object
        ids can hold.
    """

    kind = "rings"

    def __init__(
        self,
        num_rings: int,
        pixel_scale_arcsec: float,
        patch_inner_pixels: int,
        patch_border_pixels: int,
        tract_overlap_deg: float,
        ra_start_deg: float = 0.0,
    ) -> None:
        super().__init__(pixel_scale_arcsec, patch_inner_pixels, patch_border_pixels)
        self.num_rings = int(num_rings)
        self.tract_overlap_deg = float(tract_overlap_deg)
        self.ra_start_deg = float(ra_start_deg)
        if self.num_rings < 1 or self.num_rings != num_rings:
            raise ValueError(f"num_rings must be a whole number above 0, got {num_rings}")
        if not 0 <= self.tract_overlap_deg < 45 or not np.isfinite(self.ra_start_deg):
            raise ValueError(
                f"tract_overlap_deg must be in 0..45 and ra_start_deg finite, "
                f"got {tract_overlap_deg} and {ra_start_deg}"
            )
        self.ring_height_deg = 180.0 / (self.num_rings + 1)
        self._make_rings()
        self._check_capacity(int((self._columns * self._rows).max()))

    def _make_rings(self) -> None:
        """Declinations, numbers of tracts and sizes in patches by ring; ring 0 and the last are the caps."""
        ring = np.arange(self.num_rings + 2)
        self._dec = np.where(ring > self.num_rings, 90.0, -90.0 + ring * self.ring_height_deg)
        low = np.maximum(self._dec - 0.5 * self.ring_height_deg, -90.0)
        high = np.minimum(self._dec + 0.5 * self.ring_height_deg, 90.0)
        nearest = np.where(low * high < 0, 0.0, np.minimum(np.abs(low), np.abs(high)))
        # the smallest number that makes no cell wider than high; rounding must not add one on the equator
        count = np.ceil(360.0 * np.cos(np.radians(nearest)) / self.ring_height_deg - 1e-9).astype(np.int64)
        count[[0, -1]] = 1
        self._count = count
        self._first = np.concatenate([[0], np.cumsum(count)])
        half_width = 180.0 / count
        half_x, half_y = _covering_half_angles(self._dec, low, high, half_width, self.tract_overlap_deg)
        if max(half_x.max(), half_y.max()) > _LARGEST_HALF_ANGLE:
            raise ValueError(
                f"tracts of {self.num_rings} rings with an overlap of {self.tract_overlap_deg} deg "
                "are too large for a TAN projection"
            )
        self._columns, self._rows = self._patches_for(half_x), self._patches_for(half_y)
        self._low, self._high, self._half_width = low, high, half_width
        pixel = np.radians(self.pixel_scale_arcsec / 3600.0) * self.patch_inner_pixels
        corner = np.hypot(0.5 * self._columns * pixel, 0.5 * self._rows * pixel)
        self._reach = np.degrees(np.arctan(corner)) + 1e-9

    def to_config(self) -> dict[str, Any]:
        """See `SkyMap.to_config`."""
        names = (
            "num_rings",
            "pixel_scale_arcsec",
            "patch_inner_pixels",
            "patch_border_pixels",
            "tract_overlap_deg",
            "ra_start_deg",
        )
        return {"kind": self.kind, **{name: getattr(self, name) for name in names}}

    @property
    def num_tracts(self) -> int:
        """See `SkyMap.num_tracts`."""
        return int(self._first[-1])

    @cached_property
    def guard_radius_deg(self) -> float:
        """Every disc of this radius [deg] lies inside the patch, and the tract, to which its centre belongs.

        Half the tract overlap, or less where the patch border is narrower than that on the sky.
        """
        corners = [
            angular_separation(self._half_width, dec, 0.0, self._dec)
            for dec in (self._low, self._high, np.clip(0.0, self._low, self._high))
        ]
        farthest = np.where(self._count == 1, 0.5 * self.ring_height_deg, np.max(corners, axis=0))
        return float(min(0.5 * self.tract_overlap_deg, self._border_guard(farthest).min()))

    def find_tract(self, ra: float | np.ndarray, dec: float | np.ndarray) -> np.ndarray:
        """See `SkyMap.find_tract`; exactly one for every point of the sphere."""
        ra, dec = np.broadcast_arrays(np.asarray(ra, float), np.asarray(dec, float))
        if np.any(np.abs(dec) > 90.0):
            raise ValueError(f"declinations must be in -90..90 deg, got {np.nanmin(dec)}..{np.nanmax(dec)}")
        valid = np.isfinite(ra) & np.isfinite(dec)
        ring = self._ring_of(np.where(valid, dec, 0.0))
        count = self._count[ring]
        turn = np.mod(np.where(valid, ra, 0.0) - self.ra_start_deg, 360.0) / 360.0
        place = np.floor(turn * count + 0.5).astype(np.int64) % count
        return np.where(valid, self._first[ring] + place, -1)[()]

    def _ring_of(self, dec: np.ndarray) -> np.ndarray:
        ring = np.floor((dec + 90.0) / self.ring_height_deg + 0.5).astype(np.int64)
        return np.clip(ring, 0, self.num_rings + 1)

    def _ring_and_place(self, tracts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ring = np.searchsorted(self._first, tracts, side="right") - 1
        return ring, np.asarray(tracts) - self._first[ring]

    def centres(self, tracts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `SkyMap.centres`."""
        ring, place = self._ring_and_place(tracts)
        return wrap_ra(self.ra_start_deg + place * 360.0 / self._count[ring]), self._dec[ring]

    def patch_grids(self, tracts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `SkyMap.patch_grids`."""
        ring, _ = self._ring_and_place(tracts)
        return self._columns[ring], self._rows[ring]

    def inner_bounds(self, tract_id: int) -> tuple[float, float, float, float]:
        """(ra_min, ra_max, dec_min, dec_max) [deg] of an inner region.

        ra_min may be above ra_max, where the cell holds RA 0; a cap has 0 and 360.
        """
        ring, _ = self._ring_and_place(np.array([tract_id]))
        ra, _ = self.centres(np.array([tract_id]))
        low, high, half = self._low[ring[0]], self._high[ring[0]], self._half_width[ring[0]]
        if self._count[ring[0]] == 1:
            return 0.0, 360.0, float(low), float(high)
        return float(wrap_ra(ra[0] - half)), float(wrap_ra(ra[0] + half)), float(low), float(high)

    def _near(self, ra: float, dec: float, radius: float) -> np.ndarray:
        found = []
        for ring in np.flatnonzero(np.abs(self._dec - dec) <= self._reach + radius):
            tracts = self._first[ring] + np.arange(self._count[ring])
            ra0, dec0 = self.centres(tracts)
            close = angular_separation(ra0, dec0, ra, dec) <= self._reach[ring] + radius
            found.append(tracts[close])
        return np.concatenate(found)

    def _pairs(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(dec, kind="stable")
        indices, tracts = [], []
        for ring in range(self.num_rings + 2):
            first, last = np.searchsorted(
                dec[order], [self._dec[ring] - self._reach[ring], self._dec[ring] + self._reach[ring]]
            )
            index = order[first:last]
            index = index[np.isfinite(ra[index])]
            places = self._places_near(ring, ra[index])
            indices.append(np.repeat(index, places.shape[1]))
            tracts.append(self._first[ring] + places.ravel())
        return np.concatenate(indices), np.concatenate(tracts)

    def _places_near(self, ring: int, ra: np.ndarray) -> np.ndarray:
        """Places in a ring whose tracts can reach each RA, shape (n, m)."""
        count, width = self._count[ring], 2.0 * self._half_width[ring]
        reach, dec = np.radians(self._reach[ring]), np.radians(self._dec[ring])
        spread = np.sin(reach) / max(np.cos(dec), 1e-300)
        steps = count
        if reach + abs(dec) < 0.5 * np.pi and spread < 1.0:
            steps = int(np.degrees(np.arcsin(spread)) / width) + 1
        if 2 * steps + 1 >= count:
            return np.broadcast_to(np.arange(count), (len(ra), count))
        nearest = np.floor(np.mod(ra - self.ra_start_deg, 360.0) / width + 0.5).astype(np.int64)
        return (nearest[:, None] + np.arange(-steps, steps + 1)) % count


def _covering_half_angles(
    dec0: np.ndarray, low: np.ndarray, high: np.ndarray, half_width: np.ndarray, overlap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Half angles [radian] of TAN boxes that hold cells of the sky grown by an overlap.

    A box edge at angle b from the tangent point lies on a great circle. A disc of radius o about a point
    stays inside when the point is o below it: sin(o) <= r sin(b - a), with a the point's angle towards the
    edge and r its distance from the axis about which a turns. So b = max over the cell of
    a + arcsin(sin(o) / r); the maximum is on the cell's border, which is sampled.

    Parameters
    ----------
    dec0, low, high, half_width : ndarray, shape (n,) [deg]
        Tangent point, bounds in declination, half the width in RA (180: a cap).
    overlap : float [deg]

    Returns
    -------
    half_x, half_y : ndarray, shape (n,)
    """
    t = np.linspace(0.0, 1.0, _EDGE_SAMPLES)
    ones = np.ones_like(t)
    width = half_width[:, None]
    along = low[:, None] + (high - low)[:, None] * t
    # by symmetry the eastern half of the border will do: two parallels and a meridian
    edges = [
        (width * t, low[:, None] * ones),
        (width * t, high[:, None] * ones),
        (width * ones, along),
    ]
    half_x, half_y = np.zeros(len(dec0)), np.zeros(len(dec0))
    west, north, forward = _frames(np.zeros_like(dec0), dec0)
    sine = np.sin(np.radians(overlap))
    for ra, dec in edges:
        point = unit_vectors(ra, dec)
        e, n, f = (np.einsum("ri,rsi->rs", axis, point) for axis in (-west, north, forward))
        half_x = np.maximum(half_x, _reach_towards(e, f, n, sine))
        half_y = np.maximum(half_y, _reach_towards(n, f, e, sine))
        half_y = np.maximum(half_y, _reach_towards(-n, f, e, sine))
    return half_x, half_y


def _reach_towards(along: np.ndarray, forward: np.ndarray, across: np.ndarray, sine: float) -> np.ndarray:
    """Largest a + arcsin(sin(overlap) / r) over samples along axis 1, and what may lie between them."""
    distance = np.sqrt(np.maximum(1.0 - across**2, 1e-30))
    values = np.arctan2(along, forward) + np.arcsin(np.minimum(sine / distance, 1.0))
    # a smooth curve exceeds its samples by an eighth of the second difference; twice that is taken
    return values.max(axis=1) + 0.25 * np.abs(np.diff(values, 2, axis=1)).max(axis=1)


class SingleTractSkyMap(SkyMap):
    """One tract about a position, for a small field; the inner region is all of its pixels.

    Parameters
    ----------
    ra, dec : float
        Middle of the field [deg].
    size_deg : float or (float, float)
        Least width and height [deg on the tangent plane]; rounded up to whole patches.
    pixel_scale_arcsec, patch_inner_pixels, patch_border_pixels
        See `SkyMap`.
    """

    kind = "single"

    def __init__(
        self,
        ra: float,
        dec: float,
        size_deg: float | Sequence[float],
        pixel_scale_arcsec: float,
        patch_inner_pixels: int,
        patch_border_pixels: int,
    ) -> None:
        super().__init__(pixel_scale_arcsec, patch_inner_pixels, patch_border_pixels)
        width, height = np.broadcast_to(np.asarray(size_deg, float), (2,))
        if not (0 < width < 120 and 0 < height < 120):
            raise ValueError(f"size_deg must be in 0..120 deg, got {size_deg}")
        if not (np.isfinite(ra) and abs(dec) <= 90):
            raise ValueError(f"ra must be finite and dec in -90..90 deg, got {ra}, {dec}")
        self.ra, self.dec = float(wrap_ra(ra)), float(dec)
        self.size_deg = [float(width), float(height)]
        half = np.arctan(np.radians([width, height]) / 2)
        self._columns, self._rows = self._patches_for(half * (1.0 - 1e-12))
        self._check_capacity(int(self._columns * self._rows))

    def to_config(self) -> dict[str, Any]:
        """See `SkyMap.to_config`."""
        names = ("ra", "dec", "size_deg", "pixel_scale_arcsec", "patch_inner_pixels", "patch_border_pixels")
        return {"kind": self.kind, **{name: getattr(self, name) for name in names}}

    @property
    def num_tracts(self) -> int:
        """See `SkyMap.num_tracts`."""
        return 1

    @cached_property
    def guard_radius_deg(self) -> float:
        """As `RingsSkyMap.guard_radius_deg`, for discs that do not reach beyond the field."""
        return float(self._border_guard(self.tract(0).polygon.radius))

    def find_tract(self, ra: float | np.ndarray, dec: float | np.ndarray) -> np.ndarray:
        """See `SkyMap.find_tract`; -1 outside the field."""
        if np.any(np.abs(dec) > 90.0):
            raise ValueError(f"declinations must be in -90..90 deg, got {np.nanmin(dec)}..{np.nanmax(dec)}")
        return np.where(self.tract(0).contains(ra, dec), 0, -1)[()]

    def centres(self, tracts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `SkyMap.centres`."""
        return np.full(np.shape(tracts), self.ra), np.full(np.shape(tracts), self.dec)

    def patch_grids(self, tracts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `SkyMap.patch_grids`."""
        return np.full(np.shape(tracts), self._columns), np.full(np.shape(tracts), self._rows)

    def _near(self, ra: float, dec: float, radius: float) -> np.ndarray:
        return np.array([0])

    def _pairs(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index = np.arange(ra.size)
        return index, np.zeros_like(index)


KINDS: dict[str, type[SkyMap]] = {"rings": RingsSkyMap, "single": SingleTractSkyMap}


def from_config(config: Mapping[str, Any]) -> SkyMap:
    """Make a sky map from a section of the configuration: `kind`, and the parameters of that kind.

    Raises
    ------
    ValueError
        For an unknown kind, unknown or missing keys, or values out of range.
    """
    options = dict(config)
    kind = options.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"sky_map.kind: {kind!r} is not one of {', '.join(KINDS)}")
    parameters = inspect.signature(KINDS[kind]).parameters
    for key in options:
        if key not in parameters:
            close = difflib.get_close_matches(key, parameters, 1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(parameters)}"
            raise ValueError(f"sky_map.{key}: no such option of kind {kind}; {hint}")
    missing = [
        name
        for name, each in parameters.items()
        if each.default is inspect.Parameter.empty and name not in options
    ]
    if missing:
        raise ValueError(f"sky_map: kind {kind} needs {', '.join(missing)}")
    return KINDS[kind](**options)
