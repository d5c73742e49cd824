"""Coordinate Transformations (LDM-151 9.7): detector pixel to focal plane to sky.

A `Wcs` is a chain of plane maps from pixel to tangent plane, and a gnomonic (TAN) projection about a tangent
point. Sky positions are ICRS degrees; (xi, eta) are degrees on the tangent plane, xi to the east, eta to the
north; pixels are those of the parent frame, centres at integers from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skyquilt.primitives.component import State, from_state, join_states, register, split_state
from skyquilt.primitives.geometry import (
    Box,
    ConvexPolygon,
    deproject_tangent,
    project_tangent,
    unit_vectors,
    wrap_ra,
)
from skyquilt.primitives.transforms import (
    Affine,
    Composed,
    Polynomial,
    RadialPolynomial,
    RadialTerms,
    Transform,
)

__all__ = ["Affine", "Composed", "Polynomial", "RadialPolynomial", "RadialTerms", "Transform", "Wcs"]

_ARCSEC = 3600.0
_EDGE_SAMPLES = 9


@register("wcs")
class Wcs:
    """The map between pixels and sky. Not changed but replaced.

    Parameters
    ----------
    ra, dec : float
        Tangent point [deg, ICRS].
    transform : Transform
        Pixel (x, y) to tangent plane (xi, eta) [deg].
    """

    kind: str

    def __init__(self, ra: float, dec: float, transform: Transform) -> None:
        if not (np.isfinite(ra) and abs(dec) <= 90.0):
            raise ValueError(f"tangent point must be finite with |dec| <= 90 deg, got ({ra}, {dec})")
        self.ra = float(wrap_ra(ra))
        self.dec = float(dec)
        self.transform = Composed([transform])

    @classmethod
    def tan(cls, crval: Sequence[float], crpix: Sequence[float], cd: Sequence | np.ndarray) -> Wcs:
        """A plain TAN projection.

        Parameters
        ----------
        crval : (ra, dec) [deg]
        crpix : (x, y)
            Pixel of the tangent point in the parent frame (counted from 0, not from 1 as in FITS).
        cd : array, shape (2, 2)
            d(xi, eta)/d(x, y) [deg/pixel].
        """
        cd = np.asarray(cd, dtype=float)
        return cls(*crval, Affine(np.eye(2), -np.asarray(crpix, dtype=float)).then(Affine(cd)))

    @classmethod
    def from_focal_plane(
        cls,
        to_focal_plane: Transform,
        to_field: Transform,
        ra: float,
        dec: float,
        rotation_deg: float = 0.0,
        parity: int = 1,
        perturbation: Transform | None = None,
    ) -> Wcs:
        """The chain of LDM-151 9.7 from detector pixel by focal plane and field angle to sky.

        Parameters
        ----------
        to_focal_plane : Transform
            Pixel to focal plane [mm].
        to_field : Transform
            Focal plane [mm] to field angle on the tangent plane [deg], distortion included.
        ra, dec : float
            Boresight [deg]: where field angle (0, 0) points.
        rotation_deg : float
            Position angle of the field's +y, east of north.
        parity : int
            +1 for the sky as it looks (where +y is north, +x is west), -1 for its mirror image (+x is
            east), as `Camera.parity` has it.
        perturbation : Transform, optional
            The detector's own departure from its nominal place, focal plane [mm] to focal plane [mm].
        """
        if parity not in (-1, 1):
            raise ValueError(f"parity must be -1 or +1, got {parity}")
        c, s = np.cos(np.radians(rotation_deg)), np.sin(np.radians(rotation_deg))
        orientation = Affine([[-parity * c, s], [parity * s, c]])
        middle = [] if perturbation is None else [perturbation]
        return cls(ra, dec, Composed([to_focal_plane, *middle, to_field, orientation]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Wcs):
            return NotImplemented
        return self.to_state() == other.to_state()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        names = " > ".join(layer.kind for layer in self.transform.layers)
        return f"Wcs(ra={self.ra:.6f}, dec={self.dec:+.6f}, {names})"

    def to_state(self) -> State:
        """Plain data from which `from_state` makes an equal Wcs."""
        meta = {"ra": self.ra, "dec": self.dec}
        return join_states(self.kind, meta, {"transform": self.transform.to_state()})

    @classmethod
    def from_state(cls, state: State) -> Wcs:
        """Make the Wcs again."""
        return cls(state.meta["ra"], state.meta["dec"], from_state(split_state(state)["transform"]))

    def shifted(self, dx: float, dy: float) -> Wcs:
        """Wcs of a frame in which what was at pixel (x, y) is at (x + dx, y + dy)."""
        return Wcs(self.ra, self.dec, Composed([Affine(np.eye(2), (-dx, -dy)), self.transform]))

    def pointed_at(self, ra: float, dec: float) -> Wcs:
        """The same chain with another tangent point [deg]."""
        return Wcs(ra, dec, self.transform)

    def then(self, correction: Transform) -> Wcs:
        """This Wcs with one more map on its tangent plane [deg], such as the result of a fit."""
        return Wcs(self.ra, self.dec, self.transform.then(correction))

    def pixel_to_plane(self, x: float | np.ndarray, y: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(xi, eta) on the tangent plane [deg] of pixels, broadcast."""
        return self.transform.forward(x, y)

    def pixel_to_sky(self, x: float | np.ndarray, y: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ra, dec) [deg, 0 <= ra < 360] of pixels, broadcast."""
        return deproject_tangent(*self.transform.forward(x, y), self.ra, self.dec)

    def sky_to_pixel(self, ra: float | np.ndarray, dec: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) of sky positions [deg], broadcast: the exact inverse of `pixel_to_sky`.

        NaN for positions 90 deg or more from the tangent point and where the distortion has no inverse.
        """
        return self.transform.inverse(*project_tangent(ra, dec, self.ra, self.dec))

    def local_jacobian(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """d(east, north)/d(x, y) [arcsec/pixel on the sky at the pixel itself], shape (..., 2, 2)."""
        xi, eta = self.transform.forward(x, y)
        return _ARCSEC * self._sky_per_plane(xi, eta) @ self.transform.jacobian(x, y)

    def _sky_per_plane(self, xi: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """d(east, north on the sky)/d(xi, eta), shape (..., 2, 2): 1 at the tangent point only."""
        ra, dec = deproject_tangent(xi, eta, self.ra, self.dec)
        here = _east_north(ra, dec)
        frame = _east_north(self.ra, self.dec)
        distance = np.sqrt(1.0 + np.radians(xi) ** 2 + np.radians(eta) ** 2)
        return here @ frame.T / distance[..., None, None]

    def pixel_area(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Solid angle of pixels [arcsec^2]."""
        return np.abs(np.linalg.det(self.local_jacobian(x, y)))

    def pixel_scale(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Side of a square of the pixel's area [arcsec]."""
        return np.sqrt(self.pixel_area(x, y))

    def rotation(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Position angle of +y [deg, 0..360, east of north] at pixels."""
        jacobian = self.local_jacobian(x, y)
        return wrap_ra(np.degrees(np.arctan2(jacobian[..., 0, 1], jacobian[..., 1, 1])))

    def sky_errors(
        self,
        x: float | np.ndarray,
        y: float | np.ndarray,
        x_err: float | np.ndarray,
        y_err: float | np.ndarray,
        xy_cov: float | np.ndarray = 0.0,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Errors of sky positions from errors of pixel positions (first order).

        Parameters
        ----------
        x, y : positions [pixel]
        x_err, y_err : their standard deviations [pixel]
        xy_cov : their covariance [pixel^2]

        Returns
        -------
        ra_err, dec_err, ra_dec_cov
            Standard deviations [deg] and covariance [deg^2] of **ra cos(dec)** and dec: angles on the sky, of
            the same size at every declination.
        """
        jacobian = self.local_jacobian(x, y) / _ARCSEC
        x_err, y_err, xy_cov = np.broadcast_arrays(*(np.asarray(e, float) for e in (x_err, y_err, xy_cov)))
        covariance = np.array([[x_err**2, xy_cov], [xy_cov, y_err**2]])
        covariance = np.moveaxis(covariance, (0, 1), (-2, -1))
        sky = jacobian @ covariance @ np.swapaxes(jacobian, -1, -2)
        return np.sqrt(sky[..., 0, 0]), np.sqrt(sky[..., 1, 1]), sky[..., 0, 1]

    def polygon(self, box: Box) -> ConvexPolygon:
        """A convex polygon on the sky that holds all pixels of a box, edges included.

        It has the box's four corners, moved outward by as much as curved edges stand out between them.

        Raises
        ------
        ValueError
            When the box is empty, or the image of its corners not convex and inside a hemisphere.
        """
        if box.is_empty:
            raise ValueError(f"{box} has no pixel and so no polygon")
        xi, eta = self.transform.forward(*_edge_points(box))
        ra, dec = deproject_tangent(xi, eta, self.ra, self.dec)
        outline = ConvexPolygon.from_sky(ra[:, 0], dec[:, 0])
        outside = np.degrees(np.arcsin(max(0.0, -np.min(unit_vectors(ra, dec) @ outline.normals.T))))
        bulge = outside + _between_samples(xi, eta)
        # below 1e-6 arcsec straight edges differ by rounding only
        return outline.grown(bulge) if bulge > 1e-6 / _ARCSEC else outline

    @classmethod
    def from_fits_header(cls, header: Mapping[str, Any], x0: int = 0, y0: int = 0) -> Wcs:
        """Read a celestial FITS header; see `fits_wcs.read_header`."""
        from skyquilt.primitives.fits_wcs import read_header

        return read_header(header, x0, y0)

    def to_fits_header(
        self, box: Box, kind: str = "TAN-SIP", tolerance_mas: float = 1.0
    ) -> tuple[dict[str, Any], float]:
        """FITS cards that come near this Wcs over a box, and by how much; see `fits_wcs.make_header`."""
        from skyquilt.primitives.fits_wcs import make_header

        return make_header(self, box, kind, tolerance_mas)


def _east_north(ra: float | np.ndarray, dec: float | np.ndarray) -> np.ndarray:
    """Unit vectors to the east and north at sky positions [deg], shape (..., 2, 3)."""
    a, d = np.broadcast_arrays(np.radians(ra), np.radians(dec))
    east = np.stack([-np.sin(a), np.cos(a), np.zeros_like(a)], axis=-1)
    north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)], axis=-1)
    return np.stack([east, north], axis=-2)


def _edge_points(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Points along the four sides of a box, both ends included, each of shape (4, n), in order round it."""
    (left, right, _, _), (low, _, high, _) = box.corners()
    x = np.linspace(left, right, _EDGE_SAMPLES)
    y = np.linspace(low, high, _EDGE_SAMPLES)
    ones = np.ones(_EDGE_SAMPLES)
    return np.array([x, right * ones, x[::-1], left * ones]), np.array([low * ones, y, high * ones, y[::-1]])


def _between_samples(xi: np.ndarray, eta: np.ndarray) -> float:
    """Bound on the distance of smooth curves from the chords of their samples along axis 1 [deg].

    Between samples a curve leaves its chord by an eighth of its second difference; twice that is taken.
    """
    second = np.hypot(np.diff(xi, 2, axis=1), np.diff(eta, 2, axis=1))
    return float(second.max()) / 4.0
