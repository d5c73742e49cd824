"""Astrometric Fitting (LDM-151 8.13.2): where detectors lie, where the telescope points, and both as one map.

The chain is pixel -> focal plane [mm] -> field [deg] -> tangent plane (xi, eta) [deg] -> sky, as in LDM-151 9.7.
Matching and fitting work with places on the tangent plane in arcsec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import (
    Box,
    deproject_tangent,
    offset_position,
    project_tangent,
    sky_positions,
    unit_vectors,
)
from skyquilt.primitives.transforms import Affine, Composed, Transform
from skyquilt.primitives.wcs import Wcs

ARCSEC = 3600.0
"""Arcsec in a degree."""


@dataclass(frozen=True)
class Pointing:
    """Where the middle of the focal plane looks.

    Parameters
    ----------
    ra, dec : float
        Sky position of the focal plane's origin, ICRS [deg].
    rotation_deg : float
        Position angle of the focal plane's +y, east of north [deg].
    parity : int
        +1 for the sky as it looks (+y north, +x west), -1 for its mirror image, as in `Wcs.from_focal_plane`.
    """

    ra: float
    dec: float
    rotation_deg: float = 0.0
    parity: int = 1

    def __post_init__(self) -> None:
        if self.parity not in (-1, 1):
            raise ValueError(f"parity must be -1 or +1, got {self.parity}")
        if not (np.isfinite([self.ra, self.dec, self.rotation_deg]).all() and abs(self.dec) <= 90.0):
            raise ValueError(f"pointing must be finite with |dec| <= 90 deg, got {self}")

    @property
    def orientation(self) -> Affine:
        """Field [deg] to tangent plane [deg]."""
        c, s = np.cos(np.radians(self.rotation_deg)), np.sin(np.radians(self.rotation_deg))
        return Affine([[-self.parity * c, s], [self.parity * s, c]])

    def moved(self, matrix: np.ndarray, shift: np.ndarray) -> Pointing:
        """The pointing whose tangent plane is matrix @ (xi, eta) + shift [arcsec] of this one's.

        The scale and shear of the matrix are left out.
        """
        ra, dec = deproject_tangent(*(np.asarray(shift) / ARCSEC), self.ra, self.dec)
        # north at the new tangent point is another direction than at the old one
        axes = sky_to_plane_axes(np.atleast_1d(ra), np.atleast_1d(dec), self)[0]
        both = np.linalg.inv(axes) @ np.asarray(matrix) @ self.orientation.matrix
        parity = -int(np.sign(np.linalg.det(both)))
        # of all rotations the nearest to the matrix: mean of what both axes say
        angle = np.arctan2(both[0, 1] + parity * both[1, 0], both[1, 1] - parity * both[0, 0])
        return Pointing(float(ra), float(dec), float(np.degrees(angle)) % 360.0, parity)


@dataclass(frozen=True)
class FocalPlane:
    """Nominal places of detectors and the camera's distortion.

    Parameters
    ----------
    ids : sequence of int
        Detector numbers, all different (ValueError).
    places : sequence of Affine
        Pixel to focal plane [mm] of each.
    boxes : sequence of Box
        Pixels of each.
    to_field : Transform
        Focal plane [mm] to field angle on the tangent plane [deg].
    """

    ids: Sequence[int]
    places: Sequence[Affine]
    boxes: Sequence[Box]
    to_field: Transform

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.places) == len(self.boxes) == len(set(self.ids)) > 0:
            raise ValueError("a focal plane needs detectors with different ids, and a place and box for each")

    def rows(self, detector: np.ndarray) -> np.ndarray:
        """Place of detector numbers in `ids`, -1 for those that are not there."""
        order = np.argsort(self.ids)
        known = np.asarray(self.ids)[order]
        at = np.clip(np.searchsorted(known, detector), 0, len(known) - 1)
        return np.where(known[at] == detector, order[at], -1)

    def centres_mm(self) -> np.ndarray:
        """Middle of each detector [mm], shape (n, 2)."""
        return np.array([place.forward(*box.centre) for place, box in zip(self.places, self.boxes)])

    def to_mm(self, row: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Focal plane [mm] of pixels of detectors in `row` (places in `ids`), shape (n, 2)."""
        matrix = np.array([place.matrix for place in self.places])[row]
        offset = np.array([place.offset for place in self.places])[row]
        return np.einsum("nij,nj->ni", matrix, np.column_stack([x, y])) + offset

    def field_radius(self) -> float:
        """Largest distance of a detector's corner from the origin [arcsec on the tangent plane]."""
        corners = np.hstack([place.forward(*box.corners()) for place, box in zip(self.places, self.boxes)])
        u, v = self.to_field.forward(*corners)
        return float(np.hypot(u, v).max()) * ARCSEC

    def pixel_scale(self) -> float:
        """Largest side of a pixel in the middles of the detectors [arcsec]."""
        sizes = np.array([np.sqrt(abs(place.determinant)) for place in self.places])
        jacobian = self.to_field.jacobian(*self.centres_mm().T)
        return float((sizes * np.sqrt(np.abs(np.linalg.det(jacobian)))).max()) * ARCSEC

    def plane(self, mm: np.ndarray, pointing: Pointing) -> np.ndarray:
        """Tangent plane [arcsec] of places [mm], both of shape (n, 2)."""
        there = pointing.orientation.forward(*self.to_field.forward(*mm.T))
        return np.column_stack(there) * ARCSEC

    def wcs(
        self,
        row: int,
        pointing: Pointing,
        correction: Transform | None = None,
        perturbation: Affine | None = None,
    ) -> Wcs:
        """The chain of a detector; `correction` acts on the tangent plane [deg], `perturbation` in mm."""
        middle = [] if perturbation is None else [perturbation]
        last = [] if correction is None else [correction]
        chain = [self.places[row], *middle, self.to_field, pointing.orientation, *last]
        return Wcs(pointing.ra, pointing.dec, Composed(chain))


def pointing_of(focal_plane: FocalPlane, wcs: Mapping[int, Wcs]) -> Pointing:
    """The pointing that WCSs of detectors (such as those of raw headers) agree on best.

    Parameters
    ----------
    wcs : mapping of detector number to Wcs

    Raises
    ------
    ProcessingFailure
        NO_WCS when none is of a detector of the focal plane, or they have no common orientation.
    """
    mm, sky = [], []
    for row, number in enumerate(focal_plane.ids):
        if number in wcs:
            corners = focal_plane.boxes[row].corners()
            mm.append(np.column_stack(focal_plane.places[row].forward(*corners)))
            sky.append(unit_vectors(*wcs[number].pixel_to_sky(*corners)))
    if not mm:
        raise ProcessingFailure(Reason.NO_WCS, "no detector of the focal plane has a WCS")
    places, vectors = np.concatenate(mm), np.concatenate(sky)
    field = np.column_stack(focal_plane.to_field.forward(*places.T)) * ARCSEC
    ra, dec = sky_positions(vectors.mean(axis=0))
    for _ in range(5):
        plane = np.column_stack(project_tangent(*sky_positions(vectors), ra, dec)) * ARCSEC
        if not np.isfinite(plane).all():
            raise ProcessingFailure(Reason.NO_WCS, "the WCSs of the detectors lie far apart on the sky")
        try:
            map_ = Affine.fit(*field.T, *plane.T)
        except ValueError as error:
            raise ProcessingFailure(Reason.NO_WCS, f"the WCSs of the detectors disagree: {error}") from None
        start = Pointing(float(ra), float(dec))
        pointing = start.moved(map_.matrix @ np.linalg.inv(start.orientation.matrix), map_.offset)
        ra, dec = pointing.ra, pointing.dec
    return pointing


def sky_to_plane_axes(ra: np.ndarray, dec: np.ndarray, pointing: Pointing) -> np.ndarray:
    """d(xi, eta) / d(east, north) at sky positions [deg], shape (n, 2, 2); at the poles too."""
    step = 1.0 / ARCSEC
    columns = []
    for angle in (90.0, 0.0):
        ahead = project_tangent(*offset_position(ra, dec, angle, step), pointing.ra, pointing.dec)
        behind = project_tangent(*offset_position(ra, dec, angle + 180.0, step), pointing.ra, pointing.dec)
        columns.append((np.array(ahead) - np.array(behind)) / (2.0 * step))
    return np.moveaxis(np.array(columns), -1, 0).swapaxes(1, 2)
