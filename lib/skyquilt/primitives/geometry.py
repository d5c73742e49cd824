"""Spherical Geometry and Boxes (LDM-151 9.7, 2.3): pixel boxes, and convex polygons on the sky.

Pixels are counted in the parent frame; the centre of pixel (x, y) is at the integers (x, y) and the pixel
covers -0.5..+0.5 around it. Sky positions are ICRS degrees, or unit vectors (x towards RA 0, z towards the
north pole), for which the poles and RA 0 are places like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels in the parent frame: x0 <= x < x0 + nx, y0 <= y < y0 + ny.

    Parameters
    ----------
    x0, y0 : int
        First column and row [pixel].
    nx, ny : int
        Width and height [pixel]; zero makes an empty box, negative raises ValueError.
    """

    x0: int
    y0: int
    nx: int
    ny: int

    def __post_init__(self) -> None:
        for name in ("x0", "y0", "nx", "ny"):
            value = getattr(self, name)
            if int(value) != value:
                raise ValueError(f"Box {name} must be a whole number of pixels, got {value!r}")
            object.__setattr__(self, name, int(value))
        if self.nx < 0 or self.ny < 0:
            raise ValueError(f"Box size must not be negative, got nx={self.nx}, ny={self.ny}")

    @classmethod
    def of(cls, array: np.ndarray) -> Box:
        """Box at the origin with the shape (ny, nx) of an image."""
        ny, nx = array.shape
        return cls(0, 0, nx, ny)

    @property
    def x1(self) -> int:
        """First column beyond the box."""
        return self.x0 + self.nx

    @property
    def y1(self) -> int:
        """First row beyond the box."""
        return self.y0 + self.ny

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx) of an image of this box."""
        return self.ny, self.nx

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.nx * self.ny

    @property
    def is_empty(self) -> bool:
        """True when the box has no pixel."""
        return self.area == 0

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the middle of the box [pixel]."""
        return self.x0 + 0.5 * (self.nx - 1), self.y0 + 0.5 * (self.ny - 1)

    def slices(self, parent: Box | None = None) -> tuple[slice, slice]:
        """(y, x) slices of this box in an image of `parent`, or of an image whose first pixel is (0, 0).

        Raises
        ------
        ValueError
            When the box is not wholly inside its parent (a negative slice would wrap round silently).
        """
        if parent is None:
            parent = Box(0, 0, max(self.x1, 0), max(self.y1, 0))
        if not self.within(parent):
            raise ValueError(f"{self} is not inside its parent {parent}")
        x, y = self.x0 - parent.x0, self.y0 - parent.y0
        return slice(y, y + self.ny), slice(x, x + self.nx)

    def within(self, parent: Box) -> bool:
        """True when every pixel of this box is one of `parent`."""
        return self.x0 >= parent.x0 and self.y0 >= parent.y0 and self.x1 <= parent.x1 and self.y1 <= parent.y1

    def contains(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Whether positions [pixel] lie on a pixel of the box, as bool of their shape; NaN is outside."""
        x, y = np.asarray(x), np.asarray(y)
        # pixel i covers i-0.5 <= x < i+0.5, so that neighbouring boxes share no position
        inside_x = (x >= self.x0 - 0.5) & (x < self.x1 - 0.5)
        return inside_x & (y >= self.y0 - 0.5) & (y < self.y1 - 0.5)

    def overlap(self, other: Box) -> Box | None:
        """Pixels common to both, or None."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        nx, ny = min(self.x1, other.x1) - x0, min(self.y1, other.y1) - y0
        return Box(x0, y0, nx, ny) if nx > 0 and ny > 0 else None

    def union(self, other: Box) -> Box:
        """Smallest box that holds both."""
        x0, y0 = min(self.x0, other.x0), min(self.y0, other.y0)
        return Box(x0, y0, max(self.x1, other.x1) - x0, max(self.y1, other.y1) - y0)

    def grown(self, n: int) -> Box:
        """Box larger by `n` pixels on each side; a negative `n` shrinks it, down to an empty box."""
        nx, ny = max(self.nx + 2 * n, 0), max(self.ny + 2 * n, 0)
        return Box(self.x0 - n, self.y0 - n, nx, ny)

    def shifted(self, dx: int, dy: int) -> Box:
        """Box moved by (dx, dy) pixels."""
        return Box(self.x0 + dx, self.y0 + dy, self.nx, self.ny)

    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y, shape (4,), of the outer edges of the corner pixels, counter-clockwise from (x0, y0)."""
        left, right = self.x0 - 0.5, self.x1 - 0.5
        low, high = self.y0 - 0.5, self.y1 - 0.5
        return np.array([left, right, right, left]), np.array([low, low, high, high])


def unit_vectors(ra: float | np.ndarray, dec: float | np.ndarray) -> np.ndarray:
    """Unit vectors, shape (..., 3), of sky positions [deg]."""
    ra, dec = np.broadcast_arrays(np.radians(ra), np.radians(dec))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def sky_positions(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RA in 0 <= ra < 360 and dec [deg] of vectors of any length, shape (..., 3)."""
    x, y, z = np.moveaxis(np.asarray(vectors, dtype=float), -1, 0)
    return wrap_ra(np.degrees(np.arctan2(y, x))), np.degrees(np.arctan2(z, np.hypot(x, y)))


def wrap_ra(ra: float | np.ndarray) -> np.ndarray:
    """RA [deg] brought to 0 <= ra < 360."""
    wrapped = np.mod(ra, 360.0)
    # np.mod of a tiny negative number rounds up to 360 itself
    return np.where(wrapped >= 360.0, 0.0, wrapped)[()]


def _ra_difference(ra: np.ndarray, ra0: np.ndarray) -> np.ndarray:
    """ra - ra0 in radians within -pi..pi; in degrees the subtractions of near positions lose no digits."""
    turn = np.subtract(ra, ra0)
    return np.radians(turn - 360.0 * np.round(turn / 360.0))


def _offset_parts(
    ra: np.ndarray, dec: np.ndarray, ra0: np.ndarray, dec0: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Components (east, north, forward) of the unit vector at (ra, dec) in the frame of (ra0, dec0).

    Written with differences and half-angle sines, so that east and north keep their relative precision for
    the smallest angles (the textbook form cancels at 1e-16 rad absolute).
    """
    dra = _ra_difference(ra, ra0)
    d, d0 = np.radians(dec), np.radians(dec0)
    ddec = np.radians(np.subtract(dec, dec0))
    half = 2.0 * np.sin(0.5 * dra) ** 2 * np.cos(d)
    return np.cos(d) * np.sin(dra), np.sin(ddec) + half * np.sin(d0), np.cos(ddec) - half * np.cos(d0)


def angular_separation(
    ra1: float | np.ndarray, dec1: float | np.ndarray, ra2: float | np.ndarray, dec2: float | np.ndarray
) -> np.ndarray:
    """Angle [deg] between sky positions [deg], broadcast; its relative precision holds at any size."""
    east, north, forward = _offset_parts(ra1, dec1, ra2, dec2)
    return np.degrees(np.arctan2(np.hypot(east, north), forward))


def position_angle(
    ra1: float | np.ndarray, dec1: float | np.ndarray, ra2: float | np.ndarray, dec2: float | np.ndarray
) -> np.ndarray:
    """Direction [deg, 0..360, east of north] in which position 2 is seen from position 1, broadcast."""
    east, north, _ = _offset_parts(ra2, dec2, ra1, dec1)
    return wrap_ra(np.degrees(np.arctan2(east, north)))


def offset_position(
    ra: float | np.ndarray, dec: float | np.ndarray, angle: float | np.ndarray, separation: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Position (ra, dec) [deg] at a separation [deg] in the direction `angle` [deg, east of north]."""
    direction, distance, d = np.radians(angle), np.radians(separation), np.radians(dec)
    east, north = np.sin(distance) * np.sin(direction), np.sin(distance) * np.cos(direction)
    forward = np.cos(distance)
    outward = forward * np.cos(d) - north * np.sin(d)
    up = forward * np.sin(d) + north * np.cos(d)
    new_ra = np.add(ra, np.degrees(np.arctan2(east, outward)))
    return wrap_ra(new_ra), np.degrees(np.arctan2(up, np.hypot(outward, east)))


def project_tangent(
    ra: float | np.ndarray, dec: float | np.ndarray, ra0: float | np.ndarray, dec0: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gnomonic projection: (xi, eta) [deg on the tangent plane, xi to the east, eta to the north], broadcast.

    Positions 90 deg or more from the tangent point (ra0, dec0) [deg] have no image and give NaN.
    """
    east, north, forward = _offset_parts(ra, dec, ra0, dec0)
    # at 90 deg rounding leaves up to 1e-16 of either sign
    forward = np.where(forward > 1e-14, forward, np.nan)
    return np.degrees(east / forward), np.degrees(north / forward)


def deproject_tangent(
    xi: float | np.ndarray, eta: float | np.ndarray, ra0: float | np.ndarray, dec0: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `project_tangent`: (ra, dec) [deg], 0 <= ra < 360."""
    east, north, d0 = np.radians(xi), np.radians(eta), np.radians(dec0)
    outward = np.cos(d0) - north * np.sin(d0)
    up = np.sin(d0) + north * np.cos(d0)
    ra = np.add(ra0, np.degrees(np.arctan2(east, outward)))
    return wrap_ra(ra), np.degrees(np.arctan2(up, np.hypot(outward, east)))


_EDGE_TOLERANCE = 1e-14
"""Rounding allowed when a point lies on an edge [radian]: 2e-9 arcsec."""


class ConvexPolygon:
    """A convex region on the sky bounded by great circles, inside one hemisphere.

    Parameters
    ----------
    vertices : ndarray, shape (n, 3)
        Unit vectors of three or more corners in order round the polygon, in either sense; repeated corners
        are dropped.

    Raises
    ------
    ValueError
        When fewer than three different corners are left, or they are not convex or fill a hemisphere.
    """

    def __init__(self, vertices: np.ndarray) -> None:
        vertices = _without_repeats(np.asarray(vertices, dtype=float))
        normals = _edge_normals(vertices)
        sense = np.sign(np.sum(normals @ vertices.mean(axis=0)))
        if sense < 0:
            vertices = vertices[::-1].copy()
            normals = _edge_normals(vertices)
        if np.any(normals @ vertices.T < -1e-12):
            raise ValueError(f"polygon corners {self._text(vertices)} are not convex")
        centre = vertices.mean(axis=0)
        if np.linalg.norm(centre) < 1e-9 or np.any(vertices @ centre <= 0):
            raise ValueError(f"polygon corners {self._text(vertices)} do not lie inside one hemisphere")
        self.vertices = vertices
        self.normals = normals
        self.centre_vector = centre / np.linalg.norm(centre)
        for array in (self.vertices, self.normals, self.centre_vector):
            array.flags.writeable = False

    @classmethod
    def from_sky(cls, ra: Sequence[float] | np.ndarray, dec: Sequence[float] | np.ndarray) -> ConvexPolygon:
        """Polygon from corners [deg] in order round it."""
        return cls(unit_vectors(ra, dec))

    @classmethod
    def hull(cls, ra: np.ndarray, dec: np.ndarray) -> ConvexPolygon:
        """Smallest convex polygon that holds all points [deg]; they must lie well inside one hemisphere.

        Raises
        ------
        ValueError
            For fewer than three points, points on one great circle, or spread over a hemisphere.
        """
        from scipy.spatial import ConvexHull, QhullError

        vectors = unit_vectors(np.ravel(ra), np.ravel(dec))
        ra0, dec0 = sky_positions(vectors.mean(axis=0))
        plane = np.column_stack(project_tangent(np.ravel(ra), np.ravel(dec), ra0, dec0))
        if not np.all(np.isfinite(plane)):
            raise ValueError(f"the {len(plane)} points of a hull do not lie inside one hemisphere")
        try:
            order = ConvexHull(plane).vertices
        except QhullError as error:
            raise ValueError(f"the {len(plane)} points of a hull do not span an area") from error
        return cls(vectors[order])

    @classmethod
    def circle(cls, ra: float, dec: float, radius: float, corners: int = 32) -> ConvexPolygon:
        """Polygon round the circle of `radius` [deg, below 90] about a position, its edges touching it."""
        if not 0.0 < radius < 90.0:
            raise ValueError(f"radius of a circle must be in 0..90 deg, got {radius}")
        reach = np.degrees(np.arctan(np.tan(np.radians(radius)) / np.cos(np.pi / corners)))
        angles = np.arange(corners) * 360.0 / corners
        return cls.from_sky(*offset_position(ra, dec, angles, reach))

    @staticmethod
    def _text(vertices: np.ndarray) -> str:
        ra, dec = sky_positions(vertices)
        return ", ".join(f"({a:.5f}, {d:+.5f})" for a, d in zip(ra, dec))

    def __repr__(self) -> str:
        return f"ConvexPolygon[{self._text(self.vertices)}]"

    @property
    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """RA and dec [deg] of the corners, counter-clockwise as seen from outside the sphere."""
        return sky_positions(self.vertices)

    @property
    def centre(self) -> tuple[float, float]:
        """RA and dec [deg] of the mean of the corners."""
        ra, dec = sky_positions(self.centre_vector)
        return float(ra), float(dec)

    @property
    def radius(self) -> float:
        """Largest angle [deg] between the centre and a corner."""
        return float(np.degrees(_angle(self.vertices, self.centre_vector).max()))

    @property
    def area(self) -> float:
        """Solid angle [deg^2]."""
        a, b, c = self.vertices[0], self.vertices[1:-1], self.vertices[2:]
        triple = np.einsum("ij,ij->i", b, np.cross(c, a))
        base = 1.0 + b @ a + np.einsum("ij,ij->i", b, c) + c @ a
        return float(np.sum(2.0 * np.arctan2(triple, base)) * np.degrees(1.0) ** 2)

    def contains(self, ra: float | np.ndarray, dec: float | np.ndarray) -> np.ndarray:
        """Whether points [deg] lie in the polygon or on its edge, as bool of their shape; NaN is outside."""
        return self.contains_vectors(unit_vectors(ra, dec))

    def contains_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """As `contains`, for unit vectors of shape (..., 3)."""
        return np.all(vectors @ self.normals.T >= -_EDGE_TOLERANCE, axis=-1)

    def contains_disc(self, ra: float | np.ndarray, dec: float | np.ndarray, radius: float) -> np.ndarray:
        """Whether discs of `radius` [deg] about points [deg] lie in the polygon, as bool of their shape."""
        depth = unit_vectors(ra, dec) @ self.normals.T
        return np.all(depth >= np.sin(np.radians(radius)) - _EDGE_TOLERANCE, axis=-1)

    def intersects(self, other: ConvexPolygon) -> bool:
        """True when the polygons have a point in common, be it on an edge."""
        if np.any(other.contains_vectors(self.vertices)) or np.any(self.contains_vectors(other.vertices)):
            return True
        return _any_edges_cross(self, other)

    def intersection(self, other: ConvexPolygon) -> ConvexPolygon | None:
        """The region common to both, or None when it has no area."""
        vertices = self.vertices
        for normal in other.normals:
            vertices = _clip(vertices, normal)
            if len(vertices) < 3:
                return None
        try:
            return ConvexPolygon(vertices)
        except ValueError:
            return None  # corners that rounding has made coincide or fold: a sliver without area

    def grown(self, angle: float) -> ConvexPolygon:
        """Polygon that holds every point within `angle` [deg, not negative] of this one.

        Each edge is turned outward about its middle until all corners are `angle` away from it; discs of that
        radius about any point of the polygon then lie inside, as a spherical cap is convex. It holds somewhat
        more: corners stay sharp.

        Raises
        ------
        ValueError
            When the result would not fit inside a hemisphere.
        """
        if angle < 0:
            raise ValueError(f"a polygon can only be grown outward, got {angle} deg")
        if angle == 0:
            return self
        depth = np.sin(np.radians(angle))
        middles = self.vertices + np.roll(self.vertices, -1, axis=0)
        middles /= np.linalg.norm(middles, axis=1, keepdims=True)
        inward, along = self.normals @ self.vertices.T, middles @ self.vertices.T
        length = np.hypot(inward, along)
        if np.any(length <= depth):
            raise ValueError(f"{self} grown by {angle} deg does not fit inside a hemisphere")
        turn = np.max(np.arcsin(depth / length) - np.arctan2(inward, along), axis=1)
        normals = self.normals * np.cos(turn)[:, None] + middles * np.sin(turn)[:, None]
        if np.any(turn >= np.pi / 2) or np.any(normals @ self.vertices.T < depth - 1e-12):
            raise ValueError(f"{self} grown by {angle} deg does not fit inside a hemisphere")
        return self._bounded_by(normals, self.radius + angle)

    def _bounded_by(self, normals: np.ndarray, reach: float) -> ConvexPolygon:
        """Polygon inside great circles that each belong to an edge, and within about `reach` [deg]."""
        corners = np.cross(np.roll(normals, 1, axis=0), normals)
        size = np.linalg.norm(corners, axis=1, keepdims=True)
        if size.min() > 1e-9:
            corners /= size
            if np.all(corners @ normals.T >= -1e-13) and np.all(corners @ self.centre_vector > 0):
                return ConvexPolygon(corners)
        # neighbours that are nearly one line, of which one may be needless or their crossing far away
        if reach >= 89.9:
            raise ValueError(f"{self} with a reach of {reach} deg does not fit inside a hemisphere")
        vertices = ConvexPolygon.circle(*self.centre, reach).vertices
        for normal in normals:
            vertices = _clip(vertices, normal)
        return ConvexPolygon(vertices)


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle [radian] between unit vectors, precise for small and large angles."""
    return 2.0 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))


def _edge_normals(vertices: np.ndarray) -> np.ndarray:
    """Unit normals of the edges from each vertex to the next; inward when they go counter-clockwise."""
    following = np.roll(vertices, -1, axis=0)
    # (a + b) x (b - a) = 2 a x b, and loses no digits when a and b are close
    normals = np.cross(vertices + following, following - vertices)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _without_repeats(vertices: np.ndarray) -> np.ndarray:
    """Vertices that differ from the one before by more than rounding (1e-13 rad)."""
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.all(np.isfinite(vertices)):
        raise ValueError(f"polygon corners must be finite with shape (n, 3), got {vertices.shape}")
    apart = np.linalg.norm(vertices - np.roll(vertices, 1, axis=0), axis=1) > 1e-13
    if apart.sum() < 3:
        raise ValueError(f"a polygon needs three different corners, got {int(apart.sum())}")
    return vertices[apart]


def _clip(vertices: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Part of a convex polygon on the positive side of a great circle (Sutherland and Hodgman 1974)."""
    depth = vertices @ normal
    corners = []
    for here, after, d, d_after in zip(vertices, np.roll(vertices, -1, axis=0), depth, np.roll(depth, -1)):
        if d >= 0:
            corners.append(here)
        if d * d_after < 0:
            crossing = here * d_after - after * d
            corners.append(crossing / np.linalg.norm(crossing) * np.sign(d_after))
    return np.array(corners).reshape(-1, 3)


def _any_edges_cross(one: ConvexPolygon, two: ConvexPolygon) -> bool:
    """True when an edge of one polygon and an edge of the other have a point in common."""
    points = np.cross(one.normals[:, None, :], two.normals[None, :, :])
    size = np.linalg.norm(points, axis=-1)
    points = points / np.where(size > 1e-13, size, np.inf)[..., None]

    def on_arc(polygon: ConvexPolygon, candidates: np.ndarray, axis: int) -> np.ndarray:
        shape = (-1, 1, 3) if axis == 0 else (1, -1, 3)
        following = np.roll(polygon.vertices, -1, axis=0)
        start = np.cross(polygon.normals, polygon.vertices).reshape(shape)
        end = np.cross(following, polygon.normals).reshape(shape)
        after = np.sum(candidates * start, axis=-1) >= -_EDGE_TOLERANCE
        return after & (np.sum(candidates * end, axis=-1) >= -_EDGE_TOLERANCE)

    for candidates in (points, -points):
        if np.any(on_arc(one, candidates, 0) & on_arc(two, candidates, 1) & (size > 1e-13)):
            return True
    return False
