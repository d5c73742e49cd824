"""Interpolation of bad pixels: values, errors, planes, limits."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.instrument_signature_removal.interpolation import (
    InterpolationConfig,
    interpolate_linear,
    interpolate_pixels,
)
from skyquilt.primitives.mask import Mask

CONFIG = InterpolationConfig()


def plane(shape, dtype=np.float32):
    """A sloping sky."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (100 + 2.0 * x - 3.0 * y).astype(dtype)


def test_a_plane_is_restored():
    """Across columns, rows, corners and blobs a plane comes back, save beyond an edge; planes are set."""
    image = plane((40, 40))
    truth = image.copy()
    where = np.zeros(image.shape, bool)
    where[:, 7], where[20, :], where[30:33, 25:29] = True, True, True
    mask = Mask.blank(image.shape)
    mask.set(["BAD"], where)
    image[where] = -1e6
    variance = np.ones_like(image)
    assert interpolate_pixels(image, mask, variance, where, CONFIG) == where.sum()
    assert_allclose(image, truth, atol=1e-3)
    assert_array_equal(mask.any(["INTERPOLATED"]), where)
    assert_array_equal(mask.any(["BAD"]), where)


@pytest.mark.parametrize("width", [1, 3])
def test_stated_variance_is_the_scatter(rng, width):
    """Pulls of filled pixels of a noisy sky have unit width; the variance of a single column is half of a pixel's."""
    sigma = 5.0
    image = plane((600, 58)) + rng.normal(0, sigma, (600, 58)).astype(np.float32)
    where = np.zeros(image.shape, bool)
    for k in range(width):
        where[:, 5 + k :: 9] = True
    mask = Mask.blank(image.shape)
    mask.set(["BAD"], where)
    variance = np.full(image.shape, sigma**2, np.float32)
    interpolate_pixels(image, mask, variance, where, CONFIG)
    pulls = ((image - plane(image.shape)) / np.sqrt(variance))[where]
    # of the pixels of a gap the outer share their neighbours
    assert_allclose(pulls.std(), 1.0, atol=4 * np.sqrt(width / (2 * pulls.size)) + 0.01)
    if width == 1:
        assert_allclose(variance[where], sigma**2 / 2)


def test_what_is_no_neighbour_and_what_is_left():
    """Saturated and lost pixels are not used, NO_DATA stays NaN, wide gaps stay as they are, edges take one side."""
    image = np.full((30, 30), 10.0, np.float32)
    mask = Mask.blank(image.shape)
    where = np.zeros(image.shape, bool)
    where[5, 5] = where[15, 0] = True
    where[18:30, 8:30] = True
    image[where] = 99
    image[5, 6] = 1e5
    mask.set(["SATURATED"], (np.array([5]), np.array([6])))
    image[25, 2] = np.nan
    mask.set(["BAD", "NO_DATA"], (np.array([25]), np.array([2])))
    where[25, 2] = True
    variance = np.ones_like(image)
    config = InterpolationConfig(max_gap=6)
    filled = interpolate_pixels(image, mask, variance, where, config)
    assert image[5, 5] == 10
    assert image[15, 0] == 10
    assert np.isnan(image[25, 2])
    # one side only: up to a distance of three
    assert (image[18:21, 8:] == 10).all()
    assert (image[22:, 12:] == 99).all()
    assert not mask.any(["INTERPOLATED"])[22:, 12:].any()
    assert filled == mask.any(["INTERPOLATED"]).sum()


def test_pixels_filled_before_are_no_measurement(rng):
    """A second call, for pixels found later, does not lean on those filled at first."""
    image = plane((20, 20))
    truth = image.copy()
    mask = Mask.blank(image.shape)
    variance = np.ones_like(image)
    first = np.zeros(image.shape, bool)
    first[:, 10] = True
    interpolate_pixels(image, mask, variance, first, CONFIG)
    second = np.zeros(image.shape, bool)
    second[:, 11] = True
    image[:, 10:12] = 1e6
    interpolate_pixels(image, mask, variance, second, CONFIG)
    assert_allclose(image[:, 11], truth[:, 11], rtol=1e-5)


def test_kernel_equals_its_python_twin(rng):
    """The compiled kernel gives the plain result."""
    image = rng.normal(size=(20, 25)).astype(np.float32)
    mask = (rng.uniform(size=image.shape) < 0.1).astype(np.int32) * 4
    where = rng.uniform(size=image.shape) < 0.3
    results = []
    for function in (interpolate_linear, interpolate_linear.py_func):
        planes = image.copy(), np.ones_like(image), mask.copy()
        results.append((function(*planes, where, 5, 1, 4, 8, False), *planes))
    for one, other in zip(*results):
        assert_allclose(one, other, rtol=1e-6)


def test_options_are_checked():
    """A gap of nothing is refused."""
    with pytest.raises(ValueError, match="max_gap"):
        InterpolationConfig(max_gap=0)
