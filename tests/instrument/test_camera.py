"""Cameras (LDM-151 4.1.2.3, 9.3): flips, focal-plane geometry, nominal WCS."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.instrument.camera import Amplifier
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box


@st.composite
def amplifiers(draw):
    """Any amplifier: sizes, prescan, overscan, place and flips."""
    size = st.integers(1, 6)
    nx, ny, before, after, x0, y0 = (draw(size) for _ in range(6))
    return Amplifier(
        name="A",
        extension=None,
        raw_section=Box(0, 0, before + nx + after, ny + after),
        raw_data=Box(before, 0, nx, ny),
        raw_prescan=Box(0, 0, before, ny),
        raw_overscan=Box(before + nx, 0, after, ny),
        raw_parallel_overscan=None,
        data=Box(x0, y0, nx, ny),
        flip_x=draw(st.booleans()),
        flip_y=draw(st.booleans()),
        gain=1.0,
        read_noise=1.0,
        saturation=1.0,
    )


@settings(max_examples=60, deadline=None)
@given(amplifiers())
def test_pixels_and_positions_move_alike(amplifier):
    """Each raw data pixel lands where `assembled_position` says, and `raw_position` brings it back."""
    shape = amplifier.raw_section.shape
    section = np.arange(shape[0] * shape[1]).reshape(shape)
    image = np.full((amplifier.data.y1, amplifier.data.x1), -1)
    image[amplifier.data.slices()] = amplifier.to_assembled(section)
    for y in range(amplifier.raw_data.y0, amplifier.raw_data.y1):
        for x in range(amplifier.raw_data.x0, amplifier.raw_data.x1):
            new_x, new_y = amplifier.assembled_position(x, y)
            assert image[new_y, new_x] == section[y, x]
            assert amplifier.raw_position(new_x, new_y) == (x, y)


@settings(max_examples=60, deadline=None)
@given(amplifiers())
def test_from_assembled_is_the_inverse_of_to_assembled(amplifier):
    """Storing an assembled image and assembling it again changes nothing."""
    image = np.random.default_rng(1).normal(size=(amplifier.data.y1, amplifier.data.x1))
    section = np.zeros(amplifier.raw_section.shape)
    section[amplifier.raw_data.slices()] = amplifier.from_assembled(image)
    assert_array_equal(amplifier.to_assembled(section), image[amplifier.data.slices()])


def test_absent_amplifiers_are_nan(make_camera):
    """A detector assembled without one amplifier is NaN there and nowhere else."""
    detector = make_camera().detectors[0]
    sections = {a.name: np.ones(a.raw_section.shape, np.float32) for a in detector.amplifiers[1:]}
    image = detector.assemble(sections)
    assert image.shape == (8, 12)
    assert np.isnan(image[:4, :6]).all()
    assert np.isfinite(image).sum() == 3 * 24


def test_focal_plane_of_a_rotated_detector(cameras):
    """Detector 2 of demo hangs upside down: its first pixel is at the upper right of its place."""
    detector = cameras["demo"].detector(2)
    transform = detector.to_focal_plane()
    # the middle stays, +x of the detector is -x of the focal plane
    assert_allclose(transform.forward(511.5, 511.5), (-5.32, 5.32), atol=1e-12)
    assert_allclose(transform.forward(0.0, 0.0), (-5.32 + 5.115, 5.32 + 5.115), atol=1e-12)
    # quarter turns are exact
    assert_array_equal(transform.matrix, [[-0.01, 0.0], [0.0, -0.01]])


@pytest.mark.parametrize(("name", "size", "scale"), [("demo", 1024, 0.25), ("tiny", 320, 0.5)])
def test_mosaics_are_as_documented(cameras, name, size, scale):
    """Four detectors 40 pixels apart, the documented scale, and 0.1 % distortion at the outer corners."""
    camera = cameras[name]
    science = camera.detector_ids("science")
    assert science == [0, 1, 2, 3]
    gap = (camera.detector(1).centre_mm[0] - camera.detector(0).centre_mm[0]) / 0.01 - size
    assert gap == pytest.approx(40, abs=1e-9)
    corners = np.hstack([camera.corners_mm(camera.detector(i)) for i in science])
    radius = np.hypot(*corners).max()
    field = np.hypot(*camera.to_field().forward(radius, 0.0)) * 3600
    # 0.1 % to the three digits that radius_mm has
    assert field / (radius * camera.plate_scale) - 1 == pytest.approx(1e-3, rel=0.01)
    assert camera.nominal_wcs(0, 10.0, -30.0, 20.0).pixel_scale(size - 1, size - 1) == pytest.approx(
        scale, rel=1e-4
    )


@pytest.mark.parametrize("parity", [1, -1])
@pytest.mark.parametrize("rotation", [0.0, 33.0, 182.0])
def test_nominal_wcs_against_the_definition_of_position_angle(make_camera, parity, rotation):
    """From the boresight, +y lies at the position angle; +x a quarter turn on, by parity."""
    camera = make_camera({"focal_plane.mirrored": parity == -1})
    wcs = camera.nominal_wcs(3, 50.0, 20.0, rotation)
    x, y = 5.5, 3.5
    ra, dec = wcs.pixel_to_sky(np.array([x, x, x + 1]), np.array([y, y + 1, y]))
    assert_allclose((ra[0], dec[0]), (50.0, 20.0), atol=1e-10)
    east, north = (ra - 50.0) * np.cos(np.radians(20.0)), dec - 20.0
    angles = np.degrees(np.arctan2(east[1:], north[1:]))
    # one pixel of 0.3 arcsec: the sky is flat to 1e-6 of it, an angle of 1e-4 deg
    wanted = [rotation, rotation - 90.0 * parity]
    assert_allclose((angles - wanted + 180) % 360 - 180, 0.0, atol=1e-3)


def test_nominal_wcs_equals_its_own_fits_header(cameras):
    """The TAN-SIP header that a simulator writes of the nominal WCS gives the same sky to 1 mas."""
    from skyquilt.primitives.wcs import Wcs

    camera = cameras["demo"]
    for detector in camera.detectors:
        wcs = camera.nominal_wcs(detector.id, 150.0, 2.0, 30.0)
        cards, residual = wcs.to_fits_header(detector.box)
        assert residual < 1.0
        read = Wcs.from_fits_header(cards)
        x, y = np.meshgrid(np.linspace(0, 1023, 5), np.linspace(0, 1023, 5))
        there, here = wcs.pixel_to_sky(x, y), read.pixel_to_sky(x, y)
        assert_allclose(here, there, atol=2.0 / 3.6e6)


def test_field_radius_holds_all_corners(cameras):
    """No corner of any detector is farther from the boresight than `field_radius_deg`, and one reaches it."""
    camera = cameras["tiny"]
    farthest = 0.0
    for detector in camera.detectors:
        ra, dec = camera.nominal_wcs(detector.id, 0.0, 0.0, 40.0).pixel_to_sky(*detector.box.corners())
        ra = np.radians((ra + 180) % 360 - 180)
        distance = np.degrees(np.arccos(np.cos(np.radians(dec)) * np.cos(ra))).max()
        farthest = max(farthest, distance)
    # arccos near 1 keeps 1e-8 rad
    assert farthest == pytest.approx(camera.field_radius_deg(), abs=1e-6)


def test_unknown_detectors_are_a_documented_failure(cameras):
    """Asking for a detector that is not there says which there are."""
    with pytest.raises(ProcessingFailure, match="no detector 9, it has 0, 1, 2, 3") as caught:
        cameras["demo"].detector(9)
    assert caught.value.reason is Reason.UNKNOWN_DETECTOR
    with pytest.raises(ProcessingFailure, match="named 'S9', it has D0"):
        cameras["demo"].detector_named("S9")


def test_cameras_can_be_sent_to_workers(cameras):
    """A camera survives pickling."""
    for camera in cameras.values():
        assert pickle.loads(pickle.dumps(camera)) == camera
