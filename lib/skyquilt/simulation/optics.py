"""Simulation (design 7): where light of a sky position falls, by the simulation's own formulas.

Pixels go to the focal plane [mm] by place and rotation of the detector, from there to field angles by plate
scale and radial distortion, and on to the sky by the gnomonic projection about the boresight. Nothing of the
pipeline's transforms is used, so that agreement with them means something. Headers are made with nominal
places of detectors, light falls on true ones.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.schedule import random_stream

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from skyquilt.instrument import Camera, Detector
    from skyquilt.simulation.config import SimulationConfig

ARCSEC_PER_RADIAN = 3600 * math.degrees(1)
SIP_TOLERANCE_ARCSEC = 1e-3
SIP_ORDERS = (1, 2, 3, 4, 5, 6, 7)


@dataclass(frozen=True)
class PlacementConfig:
    """How far detectors are from where the camera's definition has them; the same in all visits."""

    offset: float = 0.0
    """Standard deviation per axis of a detector's place about the nominal one [pixel]."""

    rotation: float = 0.0
    """Standard deviation of its rotation about the nominal one [deg]."""

    def __post_init__(self) -> None:
        if self.offset < 0 or self.rotation < 0:
            raise ValueError(
                f"offset and rotation must not be negative, got {self.offset} and {self.rotation}"
            )


@dataclass(frozen=True)
class Optics:
    """The camera as light sees it.

    Attributes
    ----------
    plate_scale : float [arcsec/mm]
    radial : tuple of float
        Distortion: field angle = plate_scale r (1 + radial[0] r^2 + radial[1] r^4 + ...), r in mm.
    mirrored : bool
        False: looking at the focal plane with north up (rotation 0, +y), +x is west, as on the sky.
    radius : float
        Distance of the farthest detector corner from the axis [mm].
    """

    plate_scale: float
    radial: tuple[float, ...]
    mirrored: bool
    radius: float

    def field_angle(self, x_mm: np.ndarray, y_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tangent-plane place [rad] along focal plane x and y of a place in the focal plane [mm]."""
        factor = self._stretch(np.hypot(x_mm, y_mm)) * self.plate_scale / ARCSEC_PER_RADIAN
        return x_mm * factor, y_mm * factor

    def focal_plane(self, p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inverse of `field_angle`, by Newton's method to 1e-12 mm.

        Raises
        ------
        ArithmeticError
            Where the distortion has no inverse.
        """
        target = np.hypot(p, q) * ARCSEC_PER_RADIAN / self.plate_scale
        radius = np.array(target, dtype=float)
        for _ in range(30):
            step = (radius * self._stretch(radius) - target) / self._slope(radius)
            radius = radius - step
            # far outside the field the polynomial folds back; such light falls on no detector
            radius = np.clip(radius, 0, 3 * self.radius + 1)
            if np.all(np.abs(step) < 1e-12):
                break
        factor = np.divide(radius, target, out=np.ones_like(radius), where=target > 0)
        scale = factor * ARCSEC_PER_RADIAN / self.plate_scale
        return p * scale, q * scale

    def magnification(self, x_mm: float, y_mm: float) -> np.ndarray:
        """d(field angle)/d(place) at a place in the focal plane, shape (2, 2) [arcsec/mm]; symmetric."""
        r = math.hypot(x_mm, y_mm)
        along = np.array([x_mm, y_mm]) / r if r > 0 else np.zeros(2)
        stretch, slope = float(self._stretch(r)), float(self._slope(r))
        return self.plate_scale * (stretch * np.eye(2) + (slope - stretch) * np.outer(along, along))

    def area_factor(self, x_mm: np.ndarray, y_mm: np.ndarray) -> np.ndarray:
        """Solid angle seen by a pixel at a place in the focal plane [mm], over that on the axis.

        Of the tangent plane's area, whose own difference from the sphere's is below 1e-4 within 0.5 deg.
        """
        r = np.hypot(x_mm, y_mm)
        return self._stretch(r) * self._slope(r)

    def _stretch(self, r):
        return 1 + sum(k * r ** (2 * n) for n, k in enumerate(self.radial, start=1))

    def _slope(self, r):
        return 1 + sum((2 * n + 1) * k * r ** (2 * n) for n, k in enumerate(self.radial, start=1))


def camera_optics(camera: Camera) -> Optics:
    """The optics that a camera definition describes."""
    unit = camera.distortion_radius
    corners = []
    for detector in camera.detectors:
        x, y = np.array([-0.5, detector.nx - 0.5] * 2), np.repeat([-0.5, detector.ny - 0.5], 2)
        corners.append(np.hypot(*focal_from_pixel(detector, x, y)).max())
    radial = tuple(c / unit ** (2 * n) for n, c in enumerate(camera.distortion_coefficients, start=1))
    return Optics(camera.plate_scale, radial, camera.parity < 0, float(max(corners)))


def placed_detector(config: SimulationConfig, detector: Detector) -> Detector:
    """A detector where it truly is; the definition itself when nothing is out of place."""
    placement = config.placement
    if placement.offset == 0 and placement.rotation == 0:
        return detector
    rng = random_stream(config, "placement", 0, detector.id)
    dx, dy, turn = rng.normal(size=3)
    step = placement.offset * detector.pixel_size
    return dataclasses.replace(
        detector,
        centre_mm=(detector.centre_mm[0] + step * dx, detector.centre_mm[1] + step * dy),
        rotation_deg=detector.rotation_deg + placement.rotation * turn,
    )


@dataclass(frozen=True)
class Pointing:
    """Boresight (ICRS) and position angle of focal plane +y, east of north [deg]."""

    ra: float
    dec: float
    rotation: float


def focal_from_pixel(detector: Detector, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place in the focal plane [mm] of assembled pixels."""
    angle = math.radians(detector.rotation_deg)
    dx = (np.asarray(x, dtype=float) - 0.5 * (detector.nx - 1)) * detector.pixel_size
    dy = (np.asarray(y, dtype=float) - 0.5 * (detector.ny - 1)) * detector.pixel_size
    return (
        detector.centre_mm[0] + math.cos(angle) * dx - math.sin(angle) * dy,
        detector.centre_mm[1] + math.sin(angle) * dx + math.cos(angle) * dy,
    )


def pixel_from_focal(detector: Detector, x_mm: np.ndarray, y_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Assembled pixel of a place in the focal plane [mm]."""
    angle = math.radians(detector.rotation_deg)
    dx, dy = x_mm - detector.centre_mm[0], y_mm - detector.centre_mm[1]
    return (
        (math.cos(angle) * dx + math.sin(angle) * dy) / detector.pixel_size + 0.5 * (detector.nx - 1),
        (-math.sin(angle) * dx + math.cos(angle) * dy) / detector.pixel_size + 0.5 * (detector.ny - 1),
    )


def sky_from_tangent(xi: np.ndarray, eta: np.ndarray, ra: float, dec: float) -> tuple[np.ndarray, np.ndarray]:
    """ICRS [deg] of standard coordinates (xi east, eta north) [rad] about a tangent point [deg].

    Green, Spherical Astronomy (1985), section 13.2.
    """
    sin0, cos0 = math.sin(math.radians(dec)), math.cos(math.radians(dec))
    below = cos0 - eta * sin0
    alpha = math.radians(ra) + np.arctan2(xi, below)
    delta = np.arctan2(sin0 + eta * cos0, np.hypot(xi, below))
    return np.degrees(alpha) % 360, np.degrees(delta)


def tangent_from_sky(
    ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float
) -> tuple[np.ndarray, np.ndarray]:
    """Standard coordinates (xi east, eta north) [rad] about (ra0, dec0); NaN beyond 80 deg.

    Differences of small angles are formed first, so that rounding stays below 1e-15 rad.
    """
    d_alpha, delta = np.radians((np.asarray(ra) - ra0 + 180) % 360 - 180), np.radians(dec)
    delta0 = math.radians(dec0)
    # cos(a) - 1 written as -2 sin^2(a/2) keeps the digits of positions near the boresight
    versine = 2 * np.sin(d_alpha / 2) ** 2
    cosine = np.cos(delta - delta0) - math.cos(delta0) * np.cos(delta) * versine
    with np.errstate(divide="ignore", invalid="ignore"):
        xi = np.cos(delta) * np.sin(d_alpha) / cosine
        eta = (np.sin(delta - delta0) + math.sin(delta0) * np.cos(delta) * versine) / cosine
    visible = cosine > math.cos(math.radians(80))
    return np.where(visible, xi, np.nan), np.where(visible, eta, np.nan)


def sky_from_pixel(
    optics: Optics, detector: Detector, pointing: Pointing, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """ICRS [deg] of assembled pixels."""
    p, q = optics.field_angle(*focal_from_pixel(detector, x, y))
    xi, eta = _turn(optics, pointing.rotation, p, q)
    return sky_from_tangent(xi, eta, pointing.ra, pointing.dec)


def pixel_from_sky(
    optics: Optics, detector: Detector, pointing: Pointing, ra: np.ndarray, dec: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Assembled pixels of ICRS positions [deg]."""
    xi, eta = tangent_from_sky(ra, dec, pointing.ra, pointing.dec)
    # the matrix is its own inverse but for the order: orthogonal, so its transpose turns back
    p, q = _turn_back(optics, pointing.rotation, xi, eta)
    return pixel_from_focal(detector, *optics.focal_plane(p, q))


def pixel_jacobian(optics: Optics, detector: Detector, pointing: Pointing, x: float, y: float) -> np.ndarray:
    """d(west, north)/d(x, y) at a pixel, shape (2, 2) [arcsec/px]."""
    ra, dec = sky_from_pixel(optics, detector, pointing, np.array([x]), np.array([y]))
    px, py = np.array([x - 0.5, x + 0.5, x, x]), np.array([y, y, y - 0.5, y + 0.5])
    xi, eta = tangent_from_sky(
        *sky_from_pixel(optics, detector, pointing, px, py), float(ra[0]), float(dec[0])
    )
    west, north = -xi * ARCSEC_PER_RADIAN, eta * ARCSEC_PER_RADIAN
    return np.array([[west[1] - west[0], west[3] - west[2]], [north[1] - north[0], north[3] - north[2]]])


def _turn(optics, rotation, p, q):
    """Focal plane axes to (east, north)."""
    angle = math.radians(rotation)
    sign = 1 if optics.mirrored else -1
    return (
        sign * math.cos(angle) * p + math.sin(angle) * q,
        -sign * math.sin(angle) * p + math.cos(angle) * q,
    )


def _turn_back(optics, rotation, xi, eta):
    """(East, north) to focal plane axes."""
    angle = math.radians(rotation)
    sign = 1 if optics.mirrored else -1
    return (
        sign * (math.cos(angle) * xi - math.sin(angle) * eta),
        math.sin(angle) * xi + math.cos(angle) * eta,
    )


def header_wcs(optics: Optics, detector: Detector, pointing: Pointing) -> WCS:
    """FITS WCS (TAN or TAN-SIP) of the assembled detector about its middle.

    The order of SIP is raised until it is within 1 mas of the true mapping on a grid, in both directions.

    Raises
    ------
    ValueError
        When order 7 does not get there: the distortion is no smooth function.
    """
    from astropy.wcs import WCS, Sip

    x0, y0 = 0.5 * (detector.nx - 1), 0.5 * (detector.ny - 1)
    ra0, dec0 = (
        float(c[0]) for c in sky_from_pixel(optics, detector, pointing, np.array([x0]), np.array([y0]))
    )
    grid_x, grid_y = np.meshgrid(np.linspace(0, detector.nx - 1, 17), np.linspace(0, detector.ny - 1, 17))
    u, v = grid_x.ravel() - x0, grid_y.ravel() - y0
    sky = sky_from_pixel(optics, detector, pointing, grid_x.ravel(), grid_y.ravel())
    xi, eta = (np.degrees(c) for c in tangent_from_sky(*sky, ra0, dec0))
    for order in SIP_ORDERS:
        linear, forward = _fit_sip(u, v, xi, eta, order)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"] if order > 1 else ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [ra0, dec0]
        wcs.wcs.crpix = [x0 + 1, y0 + 1]
        wcs.wcs.cd = linear
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.radesys = "ICRS"
        if order > 1:
            inverse = _fit_inverse(u, v, forward, order)
            wcs.sip = Sip(*forward, *inverse, [x0 + 1, y0 + 1])
        wcs.wcs.set()
        if _wcs_residual(wcs, grid_x.ravel(), grid_y.ravel(), sky) < SIP_TOLERANCE_ARCSEC:
            return wcs
    raise ValueError(
        f"SIP of order {SIP_ORDERS[-1]} does not follow the distortion of detector {detector.id} to 1 mas"
    )


def _powers(order: int, least: int) -> list[tuple[int, int]]:
    return [(i, n - i) for n in range(least, order + 1) for i in range(n, -1, -1)]


def _design(u, v, powers):
    return np.stack([u**i * v**j for i, j in powers], axis=1)


def _fit_sip(u, v, xi, eta, order):
    """CD matrix and the A and B coefficients (arrays [i, j] of u^i v^j), by linear least squares."""
    scale = max(np.abs(u).max(), np.abs(v).max())
    powers = _powers(order, 0)
    design = _design(u / scale, v / scale, powers)
    solution = np.linalg.lstsq(design, np.stack([xi, eta], axis=1), rcond=None)[0]
    solution = solution / np.array([scale ** (i + j) for i, j in powers])[:, None]
    terms = {power: solution[k] for k, power in enumerate(powers)}
    linear = np.stack([terms[1, 0], terms[0, 1]], axis=1)
    inverse = np.linalg.inv(linear)
    a, b = np.zeros((order + 1, order + 1)), np.zeros((order + 1, order + 1))
    for (i, j), value in terms.items():
        if i + j >= 2:
            a[i, j], b[i, j] = inverse @ value
    return linear, (a, b)


def _fit_inverse(u, v, forward, order):
    """AP and BP coefficients: what to add to distortion-free pixels."""
    f = u + np.polynomial.polynomial.polyval2d(u, v, forward[0])
    g = v + np.polynomial.polynomial.polyval2d(u, v, forward[1])
    scale = max(np.abs(f).max(), np.abs(g).max())
    powers = _powers(order + 1, 0)
    design = _design(f / scale, g / scale, powers)
    solution = np.linalg.lstsq(design, np.stack([u - f, v - g], axis=1), rcond=None)[0]
    ap, bp = np.zeros((order + 2, order + 2)), np.zeros((order + 2, order + 2))
    for k, (i, j) in enumerate(powers):
        ap[i, j], bp[i, j] = solution[k] / scale ** (i + j)
    return ap, bp


def _wcs_residual(wcs, x, y, sky):
    """Largest distance between a FITS WCS and the truth, forwards and backwards [arcsec]."""
    ra, dec = wcs.all_pix2world(x, y, 0)
    xi = ((ra - sky[0] + 180) % 360 - 180) * np.cos(np.radians(dec))
    forwards = np.hypot(xi, dec - sky[1]).max() * 3600
    scale = 3600 * math.sqrt(abs(np.linalg.det(wcs.wcs.cd)))
    # the inverse as readers without iteration take it: the AP and BP polynomials
    back_x, back_y = wcs.wcs_world2pix(*sky, 0)
    if wcs.sip is not None:
        crpix = wcs.wcs.crpix - 1
        f, g = back_x - crpix[0], back_y - crpix[1]
        back_x = back_x + np.polynomial.polynomial.polyval2d(f, g, wcs.sip.ap)
        back_y = back_y + np.polynomial.polynomial.polyval2d(f, g, wcs.sip.bp)
    return max(forwards, scale * np.hypot(back_x - x, back_y - y).max())
