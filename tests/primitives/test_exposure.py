"""Exposure (LDM-151 9.1.1)."""

import numpy as np
import pytest

from skyquilt.primitives.background import Background, ConstantLayer, MeshLayer
from skyquilt.primitives.chebyshev import ChebyshevSurface
from skyquilt.primitives.component import (
    State,
    from_state,
    join_states,
    register,
    registered_kinds,
    split_state,
)
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.photo_calib import PhotoCalib

BOX = Box(100, 200, 12, 9)
CALIB = PhotoCalib.from_surface(ChebyshevSurface.over(BOX, [[2.0, 0.1], [0.05, 0.0]]), 0.01)


def exposure(seed=1, sky=3.0, **changes):
    """Noise on a faint sky, where subtraction is inexact in many pixels."""
    rng = np.random.default_rng(seed)
    image = rng.normal(sky, 2, BOX.shape).astype(np.float32)
    image[2, 3] = np.nan
    variance = rng.uniform(3, 5, BOX.shape).astype(np.float32)
    mask = Mask.blank(BOX.shape)
    mask.set("SATURATED", image > 5)
    values = {"photo_calib": CALIB, "info": {"visit": 7}} | changes
    return Exposure(image, mask, variance, BOX, **values)


def bits_of(image):
    """Bit patterns of the pixels."""
    return np.ascontiguousarray(image).view(np.int32)


def test_with_replaces_a_component_and_shares_the_pixels():
    """A new PhotoCalib leaves the pixels where they are and the first Exposure as it was."""
    first = exposure()
    second = first.with_(photo_calib=PhotoCalib(3.0))
    assert second.image is first.image
    assert first.photo_calib == CALIB
    assert first.differences(second) == ["photo_calib"]


def test_subimage_is_a_view_in_the_parent_frame():
    """Pixels of a subimage are those at the same parent coordinates, and writing goes through."""
    whole = exposure()
    box = Box(103, 202, 4, 5)
    part = whole.subimage(box)
    assert part.box == box
    np.testing.assert_array_equal(part.image, whole.image[2:7, 3:7])
    part.image[0, 1] = -5
    part.mask.set("BAD", (0, 1))
    assert (whole.image[2, 4], whole.mask.any("BAD")[2, 4]) == (-5, True)
    inner = Box(104, 203, 2, 2)
    assert part.subimage(inner) == whole.subimage(inner)
    with pytest.raises(ValueError, match="not inside"):
        whole.subimage(Box(99, 202, 4, 5))


def test_equality_sees_every_part():
    """Exposures are equal to their copies, NaN included, and differ after a change of any one part."""
    whole = exposure()
    assert whole == whole.copy()
    changed = whole.copy()
    changed.image[0, 0] += 1
    changed.mask.set("BAD", (0, 0))
    changed.variance[0, 0] += 1
    changed.info["visit"] = 8
    assert whole.differences(changed) == ["info", "image", "variance", "mask"]
    assert whole != whole.with_(background=Background((ConstantLayer(1.0),)))
    assert whole != whole.with_(noise_covariance=np.ones((1, 1)))


def test_backgrounds_replace_each_other_without_loss():
    """After two stages and after taking all away, the unsubtracted pixels are the first ones bit for bit."""
    first = exposure()
    once = first.with_background(Background((ConstantLayer(3.1),)))
    mesh = MeshLayer.over(BOX, np.arange(6.0).reshape(2, 3))
    twice = once.with_background(once.background.plus(mesh))
    assert len(twice.background.kept) > 0
    np.testing.assert_array_equal(bits_of(twice.unsubtracted_image()), bits_of(first.image))
    assert twice.with_background(None) == first
    part = twice.subimage(Box(104, 203, 3, 3))
    np.testing.assert_array_equal(bits_of(part.unsubtracted_image()), bits_of(first.image[3:6, 4:7]))


def test_calibration_scales_image_variance_and_background():
    """Pixels are multiplied by the local calibration, variances by its square; pulls stay what they were."""
    plain = exposure()
    calibrated = plain.calibrated()
    y, x = np.mgrid[BOX.y0 : BOX.y0 + BOX.ny, BOX.x0 : BOX.x0 + BOX.nx]
    local = CALIB.local_calibration(x, y)
    np.testing.assert_allclose(calibrated.image, plain.image * local, rtol=2**-23)
    pull, before = calibrated.image / np.sqrt(calibrated.variance), plain.image / np.sqrt(plain.variance)
    np.testing.assert_allclose(pull, before, rtol=2**-21)
    assert (calibrated.unit, calibrated.photo_calib) == ("nJy", CALIB)


def test_calibrated_unsubtracted_image_is_exact():
    """Restoring the calibrated Exposure is calibrating the restored one, bit for bit."""
    subtracted = exposure().with_background(Background((ConstantLayer(3.1),)))
    calibrated = subtracted.calibrated()
    expected = CALIB.image_to_njy(exposure().image, BOX)
    np.testing.assert_array_equal(bits_of(calibrated.unsubtracted_image()), bits_of(expected))
    # two roundings to float32 of unsubtracted pixels up to 32 nJy
    np.testing.assert_allclose(calibrated.image, CALIB.image_to_njy(subtracted.image, BOX), rtol=0, atol=4e-6)


def test_calibration_is_refused_twice_and_without_a_calibration():
    """An image in nJy, or without PhotoCalib, is not calibrated again."""
    with pytest.raises(ValueError, match="nJy"):
        exposure().calibrated().calibrated()
    with pytest.raises(ValueError, match="no PhotoCalib"):
        exposure(photo_calib=None).calibrated()


def test_senseless_planes_are_refused():
    """Other dtypes, shapes that disagree and an asymmetric covariance are errors."""
    good = exposure()
    with pytest.raises(TypeError, match="float32"):
        good.with_(image=good.image.astype(float))
    with pytest.raises(ValueError, match="shapes"):
        good.with_(variance=good.variance[1:])
    with pytest.raises(ValueError, match="symmetric"):
        exposure(noise_covariance=np.array([[0.1, 1.0, 0.2]]))
    with pytest.raises(ValueError, match="odd"):
        exposure(noise_covariance=np.ones((2, 1)))


def test_unknown_kinds_and_second_owners_are_refused():
    """A kind without a class is named with those known; a kind cannot have two classes."""
    with pytest.raises(KeyError, match="no component is registered as 'nonsense'"):
        from_state(State("nonsense"))
    assert {"photo_calib", "background", "background_mesh"} <= set(registered_kinds())
    with pytest.raises(ValueError, match="already"):

        @register("photo_calib")
        class Other:
            pass


def test_joined_states_come_apart_again():
    """Parts keep kind, metadata and arrays, nested twice and with dots in names."""
    inner = join_states(
        "inner", {"a": [1, None]}, {"x.y": State("leaf", {"n": float("nan")}, {"v": np.arange(3)})}
    )
    outer = join_states("outer", {}, {"one": inner, "two": State("leaf", {}, {"v": np.zeros((0, 2))})})
    parts = split_state(outer)
    assert list(parts) == ["one", "two"]
    assert parts["one"] == inner
    assert split_state(parts["one"])["x.y"].arrays["v"][2] == 2
    assert inner != State("inner", inner.meta, {})
