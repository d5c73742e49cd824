"""The simulation's own mapping: against astropy, inverse, orientation, and the WCS that headers get."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.optics import (
    PlacementConfig,
    Pointing,
    camera_optics,
    focal_from_pixel,
    header_wcs,
    pixel_from_sky,
    pixel_jacobian,
    placed_detector,
    sky_from_pixel,
    sky_from_tangent,
    tangent_from_sky,
)

MAS_IN_DEG = 1 / 3.6e6


def pixels(detector, rng, n=200):
    return rng.uniform(-0.5, detector.nx - 0.5, n), rng.uniform(-0.5, detector.ny - 0.5, n)


def separation(ra1, dec1, ra2, dec2):
    """Small angle between positions [deg]."""
    d_ra = ((np.asarray(ra1) - ra2 + 180) % 360 - 180) * np.cos(np.radians(dec1))
    return np.hypot(d_ra, np.asarray(dec1) - dec2)


@settings(max_examples=40, deadline=None)
@given(
    ra=st.floats(0, 360, exclude_max=True),
    dec=st.floats(-89, 89),
    xi=st.floats(-0.03, 0.03),
    eta=st.floats(-0.03, 0.03),
)
def test_gnomonic_projection_is_its_inverse(ra, dec, xi, eta):
    """Tangent plane to sky and back is the identity to 1e-13 rad (0.02 micro-arcsec), also across RA 0."""
    there = sky_from_tangent(np.array([xi]), np.array([eta]), ra, dec)
    back = tangent_from_sky(*there, ra, dec)
    assert_allclose(np.ravel(back), [xi, eta], atol=1e-13)


def test_gnomonic_projection_is_astropys():
    """The formulas agree with astropy's TAN to 1e-11 deg."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [359.9, -71.3], [1, 1], [1, 1]
    xi, eta = (c.ravel() for c in np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 7)))
    ra, dec = wcs.wcs_pix2world(xi, eta, 0)
    ours = sky_from_tangent(np.radians(xi), np.radians(eta), 359.9, -71.3)
    assert separation(*ours, ra, dec).max() < 1e-11


@pytest.mark.parametrize("parity", [1, -1])
@pytest.mark.parametrize("rotation", [0.0, 37.0, -120.0])
def test_pixels_return_from_the_sky(make_camera, rng, parity, rotation):
    """Pixel to sky to pixel is the identity to 1e-7 px, with distortion, in both parities."""
    camera = make_camera(parity=parity)
    optics = camera_optics(camera)
    for detector in camera.detectors:
        x, y = pixels(detector, rng)
        pointing = Pointing(0.002, -35.0, rotation)
        back = pixel_from_sky(optics, detector, pointing, *sky_from_pixel(optics, detector, pointing, x, y))
        assert_allclose(back, [x, y], atol=1e-7)


@pytest.mark.parametrize("parity", [1, -1])
@pytest.mark.parametrize("rotation", [0.0, 37.0, -120.0])
@pytest.mark.parametrize("dec", [-60.0, 2.2])
def test_header_wcs_is_the_truth(make_camera, rng, parity, rotation, dec):
    """The header's TAN-SIP, read back by astropy, is within 3 mas of the true mapping, in both directions."""
    camera = make_camera(parity=parity)
    optics = camera_optics(camera)
    for detector in camera.detectors:
        pointing = Pointing(0.002, dec, rotation)
        wcs = WCS(header_wcs(optics, detector, pointing).to_header(relax=True))
        x, y = pixels(detector, rng)
        ra, dec_true = sky_from_pixel(optics, detector, pointing, x, y)
        assert separation(ra, dec_true, *wcs.all_pix2world(x, y, 0)).max() < 3 * MAS_IN_DEG
        back = np.array(wcs.all_world2pix(ra, dec_true, 0))
        scale = optics.plate_scale * detector.pixel_size / 3600
        assert np.hypot(*(back - [x, y])).max() * scale < 3 * MAS_IN_DEG


def test_header_wcs_without_distortion_is_plain_tan(camera):
    """Optics without distortion need no SIP terms."""
    optics = camera_optics(dataclasses.replace(camera, distortion_coefficients=()))
    wcs = header_wcs(optics, camera.detectors[0], Pointing(10.0, 20.0, 5.0))
    assert list(wcs.wcs.ctype) == ["RA---TAN", "DEC--TAN"]


def test_distortion_that_sip_cannot_follow_is_refused(camera):
    """A distortion beyond order 7 is said to be so, not written wrongly."""
    wild = dataclasses.replace(camera, distortion_coefficients=(0.0, 0.0, 0.0, 0.0, 0.0, 0.02))
    with pytest.raises(ValueError, match="does not follow the distortion of detector 1"):
        header_wcs(camera_optics(wild), wild.detectors[0], Pointing(10.0, 20.0, 5.0))


@pytest.mark.parametrize("parity", [1, -1])
def test_orientation_is_the_cameras(make_camera, parity):
    """At rotation r the focal plane's +y points to position angle r, and +x to r - 90 parity degrees."""
    camera = make_camera(parity=parity)
    optics, detector = camera_optics(camera), camera.detectors[0]
    centre = detector.nx / 2, detector.ny / 2
    for rotation in (0.0, 30.0, 200.0):
        west, north = pixel_jacobian(optics, detector, Pointing(80.0, 10.0, rotation), *centre)
        for axis, angle in ((1, rotation), (0, rotation - 90 * parity)):
            found = math.degrees(math.atan2(-west[axis], north[axis]))
            # the distortion turns axes by up to 1e-3 rad, and off the boresight meridians converge
            assert abs((found - angle + 180) % 360 - 180) < 0.2


def test_distortion_is_the_cameras_formula(camera):
    """Field angle over plate scale is r (1 + c1 (r/R)^2 + c2 (r/R)^4)."""
    optics = camera_optics(camera)
    r = np.linspace(0, 2, 9)
    c1, c2 = camera.distortion_coefficients
    s = (r / camera.distortion_radius) ** 2
    p, q = optics.field_angle(r * 0.6, r * 0.8)
    assert_allclose(np.hypot(p, q) * 206264.80624709636 / 50.0, r * (1 + c1 * s + c2 * s * s), rtol=1e-12)


def test_positions_behind_the_telescope_are_nowhere(camera):
    """A source on the other side of the sky has no place in the focal plane."""
    behind = np.array([190.0]), np.array([-20.0])
    x, y = pixel_from_sky(camera_optics(camera), camera.detectors[0], Pointing(10.0, 20.0, 0.0), *behind)
    assert np.isnan(x).all()
    assert np.isnan(y).all()


def test_magnification_and_area_are_the_derivatives(camera):
    """Local scale and pixel area are those of finite differences of the field angle."""
    optics = camera_optics(camera)
    x, y, h = 1.3, -0.7, 1e-4
    steps = np.array([[x + h, x - h, x, x], [y, y, y + h, y - h]])
    angles = np.array(optics.field_angle(*steps)) * 206264.80624709636
    derivative = np.stack([(angles[:, 0] - angles[:, 1]), (angles[:, 2] - angles[:, 3])], axis=1) / (2 * h)
    assert_allclose(optics.magnification(x, y), derivative, rtol=1e-7, atol=1e-6)
    assert_allclose(optics.area_factor(x, y), np.linalg.det(derivative) / 50.0**2, rtol=1e-7)
    assert_allclose(optics.magnification(0.0, 0.0), 50.0 * np.eye(2))


def test_detectors_are_out_of_place_by_the_scatter_asked_for(camera):
    """Offsets of many detectors have the configured scatter; without it the definition itself is returned."""
    config = SimulationConfig(placement=PlacementConfig(offset=3.0, rotation=0.05))
    detector = camera.detectors[0]
    assert placed_detector(SimulationConfig(), detector) is detector
    shifts = []
    for number in range(200):
        placed = placed_detector(config, dataclasses.replace(detector, id=number))
        middle = focal_from_pixel(placed, 0.5 * (placed.nx - 1), 0.5 * (placed.ny - 1))
        shift = (np.array(middle) - detector.centre_mm) / detector.pixel_size
        shifts.append([*(shift / 3.0), (placed.rotation_deg - detector.rotation_deg) / 0.05])
    # 200 draws: a standard deviation has a relative error of 5 %
    assert_allclose(np.std(shifts, axis=0), 1.0, atol=0.2)
    assert_allclose(np.mean(shifts, axis=0), 0.0, atol=4 / np.sqrt(200))
