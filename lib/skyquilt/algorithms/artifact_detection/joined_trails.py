"""Satellite trails (LDM-151 8.2): trails of a visit's detectors joined in the focal plane, and looked for beyond.

A trail crosses the focal plane; where it is bright on one detector, its neighbours may be searched for it at a lower
threshold. Places are mm in the focal plane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.artifact_detection.trail_measurement import Trail
from skyquilt.algorithms.artifact_detection.trail_profile import line_in_box

BEND = 0.006
"""Distance by which a trail may leave the straight line of another detector's, over the distance between them:
distortion and errors of the angles."""

NEAR = 8.0
"""The same where they meet [pixel]."""


@dataclass(frozen=True)
class DetectorPlace:
    """Where a detector is: focal plane = matrix @ (x, y) + offset [mm], as of `Detector.focal_plane_matrix()`."""

    matrix: np.ndarray
    offset: np.ndarray
    shape: tuple[int, int]

    @property
    def pixel(self) -> float:
        """Size of a pixel [mm]."""
        return math.sqrt(abs(float(np.linalg.det(self.matrix))))

    def to_mm(self, x: float, y: float) -> np.ndarray:
        """Place in the focal plane of a pixel, shape (2,) [mm]."""
        return np.asarray(self.matrix) @ (x, y) + self.offset

    def to_pixel(self, place: np.ndarray) -> np.ndarray:
        """Pixel (x, y) of a place in the focal plane [mm]."""
        return np.linalg.solve(self.matrix, np.asarray(place) - self.offset)


@dataclass(frozen=True)
class JoinedTrail:
    """Trails of several detectors that are one.

    Attributes
    ----------
    members : tuple of (int, int)
        Detector, and number in its list of trails.
    x0, y0, x1, y1 : float
        Line through all of them, from the first to the last end [mm].
    open_start, open_end : bool
        Whether the first or the last end lies within a detector: there it goes on no further.
    """

    members: tuple[tuple[int, int], ...]
    x0: float
    y0: float
    x1: float
    y1: float
    open_start: bool
    open_end: bool


@dataclass(frozen=True)
class _Piece:
    detector: int
    number: int
    ends: np.ndarray
    is_open: tuple[bool, bool]
    pixel: float


def join_trails(
    trails: Mapping[int, Sequence[Trail]], places: Mapping[int, DetectorPlace]
) -> list[JoinedTrail]:
    """Join the trails of all detectors of a snap that lie on one line, each trail in one group.

    Parameters
    ----------
    trails : mapping of detector to its trails
    places : mapping of detector to DetectorPlace
    """
    pieces = [
        _Piece(
            detector,
            number,
            np.stack([places[detector].to_mm(t.x0, t.y0), places[detector].to_mm(t.x1, t.y1)]),
            (t.open_start, t.open_end),
            places[detector].pixel,
        )
        for detector in sorted(trails)
        for number, t in enumerate(trails[detector])
    ]
    root = list(range(len(pieces)))
    for i in range(len(pieces)):
        for j in range(i):
            if pieces[i].detector != pieces[j].detector and _one_line(pieces[i], pieces[j]):
                a, b = _root(root, i), _root(root, j)
                root[max(a, b)] = min(a, b)
    groups: dict[int, list[_Piece]] = {}
    for i, piece in enumerate(pieces):
        groups.setdefault(_root(root, i), []).append(piece)
    return [_joined(group) for group in groups.values()]


def _root(root, i):
    while root[i] != i:
        i = root[i]
    return i


def _one_line(a: _Piece, b: _Piece) -> bool:
    """Whether the ends of each lie on the line of the other, and neither ends towards the other."""
    for line, other in ((a, b), (b, a)):
        direction = line.ends[1] - line.ends[0]
        length = float(np.hypot(*direction))
        if length == 0:
            return False
        direction = direction / length
        relative = other.ends - line.ends[0]
        along = relative @ direction
        across = relative @ np.array([-direction[1], direction[0]])
        beyond = np.maximum(np.maximum(-along, along - length), 0.0)
        # the shorter the line, the worse it tells where it goes
        bend = BEND + 2 * line.pixel / length
        if np.any(np.abs(across) > NEAR * line.pixel + bend * beyond):
            return False
        if (line.is_open[0] and along.mean() < 0) or (line.is_open[1] and along.mean() > length):
            return False
    return True


def _joined(group: list[_Piece]) -> JoinedTrail:
    """The line of the longest distance of ends fits all: least squares over their ends."""
    points = np.concatenate([piece.ends for piece in group])
    middle = points.mean(axis=0)
    direction = np.linalg.svd(points - middle)[2][0]
    # the sign of a singular vector is arbitrary
    direction = direction * (1.0 if tuple(direction) > (0.0, 0.0) else -1.0)
    along = (points - middle) @ direction
    is_open = [flag for piece in group for flag in piece.is_open]
    first, last = int(np.argmin(along)), int(np.argmax(along))
    start, end = middle + along[first] * direction, middle + along[last] * direction
    return JoinedTrail(
        tuple((piece.detector, piece.number) for piece in group),
        float(start[0]),
        float(start[1]),
        float(end[0]),
        float(end[1]),
        is_open[first],
        is_open[last],
    )


def expected_lines(
    joined: Sequence[JoinedTrail], places: Mapping[int, DetectorPlace], least_length: float = 80.0
) -> dict[int, list[tuple[float, float, float, float]]]:
    """Where trails should go on, on detectors that have none of their members: `expected` of `find_trails`.

    Parameters
    ----------
    joined : sequence of JoinedTrail
    places : mapping of detector to DetectorPlace
    least_length : float
        Shorter crossings are left out [pixel].

    Returns
    -------
    dict of detector to list of (x0, y0, x1, y1)
        Ends of the crossing [pixel]; detectors without any are absent.
    """
    lines: dict[int, list[tuple[float, float, float, float]]] = {}
    for trail in joined:
        members = {detector for detector, _ in trail.members}
        for detector in sorted(places):
            if detector not in members:
                ends = _crossing(trail, places[detector], least_length)
                if ends:
                    lines.setdefault(detector, []).append(ends)
    return lines


def _crossing(trail, place, least_length) -> tuple[float, float, float, float] | None:
    """Ends of a joined trail's line on a detector, or None."""
    ends = place.to_pixel(np.array([trail.x0, trail.y0])), place.to_pixel(np.array([trail.x1, trail.y1]))
    (x0, y0), (x1, y1) = ends
    angle = math.atan2(y1 - y0, x1 - x0)
    inside = line_in_box(x0, y0, angle, place.shape)
    if inside is None or inside[2] < least_length:
        return None
    c, s = math.cos(angle), math.sin(angle)
    x2, y2 = inside[0] + c * inside[2], inside[1] + s * inside[2]
    middle = (0.5 * (inside[0] + x2) - x0) * c + (0.5 * (inside[1] + y2) - y0) * s
    if (trail.open_start and middle < 0) or (trail.open_end and middle > math.hypot(x1 - x0, y1 - y0)):
        return None
    return float(inside[0]), float(inside[1]), float(x2), float(y2)
