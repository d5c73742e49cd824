"""Measurements: known stars, quoted errors, plain-loop twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.measurement.aperture_photometry import (
    aperture_photometry,
    nested_circles,
    pixel_in_circle,
)
from skyquilt.algorithms.measurement.centroids import centroids, window_centroids
from skyquilt.algorithms.measurement.kron_photometry import KronConfig, kron_photometry, kron_sums
from skyquilt.algorithms.measurement.local_background import annulus_means
from skyquilt.algorithms.measurement.pixel_flags import centre_bits, footprint_bits
from skyquilt.algorithms.measurement.second_moment_shapes import adaptive_moments, second_moment_shapes

RADII = (3.0, 6.0, 9.0, 12.0, 17.0)


def pull_width_bound(n):
    """Four standard errors of the width of n unit normals."""
    return 4 / np.sqrt(2 * n)


@settings(max_examples=60, deadline=None)
@given(st.floats(-9, 9), st.floats(-9, 9), st.floats(0.05, 8))
def test_pixel_in_circle_is_the_exact_area(dx, dy, radius):
    """The overlap equals the integral of clipped chords over a pixel, for circles of any size and place."""
    x = dx + (np.arange(4000) + 0.5) / 4000 - 0.5
    chord = np.sqrt(np.maximum(radius**2 - x**2, 0.0))
    height = np.minimum(chord, dy + 0.5) - np.maximum(-chord, dy - 0.5)
    # midpoints of 4000 strips: the chord's end has an infinite slope, error below width * sqrt(2 r width)
    assert pixel_in_circle(dx, dy, radius) == pytest.approx(np.maximum(height, 0.0).mean(), abs=3e-5)


def test_nested_circles_equal_a_plain_loop(rng):
    """Sums, variances and masked shares equal those from pixel by pixel overlaps, aperture by aperture."""
    image = rng.normal(5, 2, (40, 44)).astype(np.float32)
    variance = rng.uniform(1, 3, image.shape).astype(np.float32)
    bad = np.zeros(image.shape, bool)
    x, y = np.array([20.3, 15.0, 38.0]), np.array([18.9, 22.0, 4.2])
    found = aperture_photometry(image, variance, bad, x, y, (2.0, 3.5, 9.0))
    for k in range(2):
        for m, radius in enumerate((2.0, 3.5, 9.0)):
            area = np.array(
                [[pixel_in_circle(i - x[k], j - y[k], radius) for i in range(44)] for j in range(40)]
            )
            assert_allclose(area.sum(), np.pi * radius**2, rtol=1e-10)
            assert_allclose(found.flux[k, m], (area * image).sum(), rtol=1e-7)
            assert_allclose(found.error[k, m], np.sqrt((area**2 * variance).sum()), rtol=1e-7)
    assert_array_equal(found.truncated, [[False] * 3, [False] * 3, [False, False, True]])
    assert_allclose(found.masked[:2], 0.0, atol=1e-12)


def test_masked_pixels_take_the_mean_of_their_ring():
    """On a radially constant image masked pixels change neither flux nor, beyond the lost pixels, the
    error."""
    image = np.full((41, 41), 3.0, np.float32)
    variance = np.ones_like(image)
    bad = np.zeros(image.shape, bool)
    bad[20, 22:25] = True
    clean = aperture_photometry(image, variance, ~image.astype(bool), [20.0], [20.0], (2.0, 6.0, 10.0))
    found = aperture_photometry(image, variance, bad, [20.0], [20.0], (2.0, 6.0, 10.0))
    assert_allclose(found.flux, clean.flux, rtol=1e-9)
    assert (found.error >= clean.error).all()
    assert_allclose(found.masked[0, 2], 3 / (np.pi * 100), rtol=1e-6)


def test_aperture_pulls(star_grid):
    """Aperture fluxes of isolated stars scatter about the truth by their quoted errors, at every radius."""
    stars = star_grid(flux=5000.0)
    found = aperture_photometry(stars.image, stars.variance, stars.bad, stars.x, stars.y, RADII)
    truth = aperture_photometry(
        stars.truth.astype(np.float32), stars.variance, stars.bad, stars.x, stars.y, RADII
    )
    pulls = (found.flux - truth.flux) / found.error
    n = len(stars.x)
    assert_allclose(pulls.std(axis=0), 1.0, atol=pull_width_bound(n))
    # variance from the pixels themselves makes no bias of a plain sum
    assert_allclose(pulls.mean(axis=0), 0.0, atol=4 / np.sqrt(n))


@pytest.mark.parametrize(("flux", "bound"), [(50000.0, 0.0), (3000.0, 0.04)])
def test_centroid_pulls(star_grid, flux, bound):
    """Centroids are unbiased and scatter by their quoted errors.

    At a signal to noise of 24 the slope is noisy (a tenth) and the error rounds to second order: 4 % more.
    """
    stars = star_grid(flux=flux)
    start = np.rint(stars.x), np.rint(stars.y)
    found = centroids(stars.image, stars.variance, stars.bad, *start, stars.sigma, 4.0)
    n = len(stars.x)
    assert not found.flag.any()
    for value, truth, error in ((found.x, stars.x, found.x_err), (found.y, stars.y, found.y_err)):
        pull = (value - truth) / error
        assert_allclose(pull.std(), 1.0, atol=pull_width_bound(n) + bound)
        assert_allclose(pull.mean(), 0.0, atol=4 / np.sqrt(n))
    # a window of the star's width: 2 sigma^2 over S/N^2 from the sky and 16/9 sigma^2 over flux from its
    # photons
    expected = 2.0 * 4 * 4 * np.pi * 4 * 225 / flux**2 + 16 / 9 * 4 / flux
    assert_allclose(np.median(found.x_err), np.sqrt(expected), rtol=0.05)


def test_a_masked_pixel_hardly_moves_a_centroid(star_grid):
    """A bad column beside the centre is replaced by its mirror image: the shift stays below its effect."""
    stars = star_grid(n_side=4, flux=1e6)
    column = np.rint(stars.x).astype(int) + 1
    bad = stars.bad.copy()
    for x, y in zip(column, np.rint(stars.y).astype(int)):
        bad[y - 10 : y + 11, x] = True
    found = centroids(stars.image, stars.variance, bad, stars.x, stars.y, 2.0, 4.0)
    # a fifth of the light, one pixel off, is missing: 0.2 pixels without the mirror image; the nearest
    # pixel is up
    # to 0.7 pixels from the true mirror image
    assert np.abs(found.x - stars.x).max() < 0.1


def test_hopeless_sources_are_flagged(rng):
    """Empty, negative and unusable places give flags and NaN errors, and the starting position."""
    image = np.full((40, 40), -1.0, np.float32)
    bad = np.zeros(image.shape, bool)
    bad[20:] = True
    found = centroids(image, np.ones_like(image), bad, [10.0, 30.0], [10.0, 30.0], 2.0, 4.0)
    assert found.flag.all()
    assert np.isnan(found.x_err).all()
    assert_array_equal(found.x, [10.0, 30.0])
    shape = second_moment_shapes(image, bad, [10.0, np.nan], [10.0, 30.0], 2.0, 20.0)
    assert shape.flag.all()
    kron = kron_photometry(
        image,
        np.ones_like(image),
        bad,
        [10.0],
        [10.0],
        shape.xx[:1],
        shape.yy[:1],
        shape.xy[:1],
        KronConfig(),
    )
    assert kron.flag.all()
    assert np.isnan(kron.flux).all()


@settings(max_examples=25, deadline=None)
@given(st.floats(1.2, 5.0), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(-0.5, 0.5))
def test_adaptive_moments_of_a_gaussian_are_its_own(sigma, e1, e2, dx):
    """For an elliptical Gaussian sampled on pixels the adaptive moments are its covariance, to 1 %."""
    e = np.hypot(e1, e2)
    e1, e2 = (e1, e2) if e < 0.6 else (0.6 * e1 / e, 0.6 * e2 / e)
    trace = 2 * sigma**2
    xx, yy, xy = trace / 2 * (1 + e1), trace / 2 * (1 - e1), trace / 2 * e2
    minor = trace / 2 * (1 - np.hypot(e1, e2))
    if minor < 0.8:
        return
    j, i = np.mgrid[:101, :101]
    u, v = i - 50 - dx, j - 50.0
    det = xx * yy - xy * xy
    image = (1e4 * np.exp(-0.5 * (yy * u * u - 2 * xy * u * v + xx * v * v) / det)).astype(np.float32)
    found = second_moment_shapes(image, np.zeros(image.shape, bool), [50 + dx], [50.0], 2.0, 20.0)
    assert not found.flag[0]
    assert_allclose([found.xx[0], found.yy[0], found.xy[0]], [xx, yy, xy], atol=0.01 * trace)


def test_kron_flux_of_stars(star_grid):
    """Kron apertures hold 96 % or more of Gaussian stars, and scatter by their quoted errors to 15 %.

    The radius moves with the noise, which the error leaves out.
    """
    stars = star_grid(flux=20000.0)
    shape = second_moment_shapes(stars.image, stars.bad, stars.x, stars.y, 2.0, 20.0)
    found = kron_photometry(
        stars.image,
        stars.variance,
        stars.bad,
        stars.x,
        stars.y,
        shape.xx,
        shape.yy,
        shape.xy,
        KronConfig(),
    )
    assert not found.flag.any()
    # within 3.5 sigma lies 1 - exp(-3.5^2 / 2) = 0.998 of a Gaussian
    assert_allclose(np.median(found.flux), 20000.0, rtol=0.04)
    pull = (found.flux - np.median(found.flux)) / found.error
    assert_allclose(pull.std(), 1.0, atol=pull_width_bound(len(pull)) + 0.15)
    assert (found.radius >= 3.5 * 0.9 * 2.0).all()


def test_pixel_flags_equal_a_plain_loop(rng):
    """Bits of footprints and of central pixels are the or over exactly their pixels."""
    mask = (1 << rng.integers(0, 6, (30, 31))).astype(np.int32) * (rng.uniform(size=(30, 31)) < 0.2)
    mask = mask.astype(np.int32)
    segments = rng.integers(0, 5, mask.shape).astype(np.int32)
    bits = np.zeros(4, np.int32)
    footprint_bits(mask, segments, bits)
    assert_array_equal(bits, [np.bitwise_or.reduce(mask[segments == k + 1]) for k in range(4)])
    x, y = np.array([0.0, 15.4, 31.0, np.nan]), np.array([0.0, 7.6, 3.0, 1.0])
    bits, outside = np.zeros(4, np.int32), np.zeros(4, bool)
    centre_bits(mask, x, y, bits, outside)
    assert bits[0] == np.bitwise_or.reduce(mask[:2, :2].ravel())
    assert bits[1] == np.bitwise_or.reduce(mask[7:10, 14:17].ravel())
    assert_array_equal(outside, [False, False, True, True])


def test_annulus_mean_and_its_error(rng):
    """The mean over an annulus is that of its usable pixels, with pulls of unit width; too few give NaN."""
    n = 200
    image = rng.normal(10.0, 3.0, (400, 400)).astype(np.float32)
    variance = np.full(image.shape, 9.0, np.float32)
    excluded = rng.uniform(size=image.shape) < 0.3
    x, y = rng.uniform(40, 360, (2, n))
    level, error = np.empty(n), np.empty(n)
    annulus_means(image, variance, excluded, x, y, 8.0, 12.0, 50, level, error)
    distance = np.hypot(*(np.mgrid[:400, :400] - np.array([y[0], x[0]])[:, None, None]))
    inside = (distance >= 8) & (distance <= 12) & ~excluded
    assert_allclose(level[0], image[inside].astype(float).mean(), rtol=1e-10)
    assert_allclose(((level - 10.0) / error).std(), 1.0, atol=pull_width_bound(n))
    annulus_means(image, variance, ~np.zeros_like(excluded), x, y, 8.0, 12.0, 50, level, error)
    assert np.isnan(level).all()


def test_measurement_kernels_equal_their_python_twins(star_grid):
    """The compiled kernels give the plain Python results on a pair of stars with masked pixels."""
    stars = star_grid(n_side=2, spacing=24)
    bad = stars.bad.copy()
    bad[10:13, 10] = True
    x, y = stars.x[:2] + 0.3, stars.y[:2]
    cases = [
        (window_centroids, (stars.image, stars.variance, bad, x, y, 2.0, 4.0), (2, 6)),
        (adaptive_moments, (stars.image, bad, x, y, 2.0, 10.0), (2, 4)),
    ]
    ellipses = np.column_stack([x, y, [4.0, 5.0], [4.0, 3.0], [0.0, 1.0]])
    cases.append((kron_sums, (stars.image, stars.variance, bad, ellipses, 6.0, 2.5, 3.5), (2, 5)))
    for function, arguments, shape in cases:
        one, other = np.empty(shape), np.empty(shape)
        function(*arguments, one)
        function.py_func(*arguments, other)
        assert_allclose(one, other, rtol=1e-9)
    outputs = []
    for function in (nested_circles, nested_circles.py_func):
        planes = [np.empty((2, 2)) for _ in range(3)] + [np.empty((2, 2), bool)]
        function(stars.image, stars.variance, bad, x, y, np.array([3.0, 6.0]), *planes)
        outputs.append(planes)
    for one, other in zip(*outputs):
        assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("wrong", [{"search": 0.0}, {"scale": -1.0}, {"max_masked": 2.0}])
def test_kron_options_are_checked(wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match="KronConfig"):
        KronConfig(**wrong)
