"""Stars drawn from the tabulated profile are those that galsim draws from the formula."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.simulation.point_spread import (
    LEAST_RADIUS_FWHM,
    NODES,
    TABLE_STEP,
    WEIGHTS,
    PointSpread,
    add_component,
    add_star,
    drawing_radius,
    kolmogorov_table,
    moffat_table,
    pixel_values,
    sample_component,
)
from skyquilt.simulation.point_spread_truth import adaptive_moments, effective_fwhm, profile_moments

PHASES = tuple(np.linspace(0.3, 5.9, 12))
UPRIGHT = np.eye(2)


def point_spread(**changes) -> PointSpread:
    values = {
        "seeing": 0.9,
        "optics_fwhm": 0.45,
        "optics_share": 0.12,
        "ellipticity": 0.05,
        "size_variation": 0.03,
        "phases": PHASES,
    }
    return PointSpread(**(values | changes))


def moments(image, x, y, width):
    """Centroid and second moments under a round Gaussian window about (x, y)."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    weight = image * np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / width**2)
    total = weight.sum()
    dx, dy = columns - x, rows - y
    return np.array([(weight * f).sum() / total for f in (dx, dy, dx * dx, dy * dy, dx * dy)])


@pytest.mark.parametrize("scale", [0.25, 0.4])
@pytest.mark.parametrize("mirror", [1, -1])
def test_stars_are_galsims(scale, mirror):
    """Sum of absolute differences below 1e-3 of the flux, centroids below 0.1 mas, at 3.7 and 2.3 px FWHM."""
    import galsim

    cos, sin = np.cos(0.7), np.sin(0.7)
    profile = point_spread().at(0.4, -0.6, scale * np.array([[cos, -sin], [mirror * sin, mirror * cos]]))
    size, offset = 161, (0.31, -0.42)
    ours = np.zeros((size, size))
    add_star(ours, profile, 80 + offset[0], 80 + offset[1], 1.0, 500.0)
    # folding of wings is galsim's own error: 4e-4 of the light at its least distance of repetition
    params = galsim.GSParams(folding_threshold=4e-4, maxk_threshold=1e-4, maximum_fft_size=8192)
    theirs = galsim.ImageD(size, size)
    profile.galsim_profile(params).drawImage(theirs, scale=1.0, offset=offset, method="auto")
    assert np.abs(ours - theirs.array).sum() < 1e-3
    assert abs(ours - theirs.array).max() < 1e-4 * ours.max()
    mine, other = (moments(a, 80.31, 79.58, 3.0) for a in (ours, theirs.array))
    assert_allclose(mine[:2], other[:2], atol=1e-4 / scale)
    assert_allclose(mine[2:], other[2:], atol=1e-3)


def test_kernel_is_its_plain_twin(rng):
    """The compiled loop and the same text in Python give the same pixels."""
    table = kolmogorov_table()
    middles = 0.5 * (table + np.append(table[1:], 0.0))
    compiled, plain = np.zeros((21, 17)), np.zeros((21, 17))
    args = (table, middles, NODES, WEIGHTS, 7.3, 11.8, 1e4, 0.31, 0.02, -0.01, 0.28, 12.5)
    add_component(compiled, *args)
    add_component.py_func(plain, *args)
    assert_allclose(compiled, plain, rtol=1e-12, atol=0)


def test_samples_are_the_pixels_of_an_image():
    """Values at offsets from a star are the pixels of its image, compiled or not."""
    profile = point_spread().at(0.4, -0.6, 0.3 * UPRIGHT)
    image = np.zeros((13, 13))
    add_star(image, profile, 6.2, 5.9, 1.0, 5.0)
    rows, columns = np.mgrid[4:9, 4:9]
    values = pixel_values(profile, columns - 6.2, rows - 5.9)
    assert_allclose(values, image[4:9, 4:9], rtol=1e-12)
    table = kolmogorov_table()
    compiled, plain = np.zeros(3), np.zeros(3)
    args = (
        np.array([0.0, 1.2, -3.0]),
        np.array([0.3, 0.0, 2.0]),
        table,
        table,
        NODES,
        WEIGHTS,
        2.0,
        0.3,
        0.02,
        0.25,
    )
    sample_component(compiled, *args)
    sample_component.py_func(plain, *args)
    assert_allclose(compiled, plain, rtol=1e-12)


@pytest.mark.parametrize("table", [kolmogorov_table, moffat_table])
def test_profiles_have_unit_flux_and_width(table):
    """Each table is a profile of unit flux and unit FWHM."""
    values = table()
    r = np.arange(values.size) * TABLE_STEP
    # the trapezoid's error is step^2/12 times the change of slope: 1e-4; 1e-5 of the light lies outside
    assert_allclose(np.trapezoid(2 * np.pi * r * values, r), 1.0, atol=2e-4)
    assert_allclose(np.interp(0.5, r, values), 0.5 * values[0], rtol=1e-4)


def test_least_drawing_radius_holds_the_light():
    """At least 0.999 of the light of the faintest star lies within the radius to which it is drawn."""
    profile = point_spread(ellipticity=0.0, optics_share=0.0).at(0.0, 0.0, 0.25 * UPRIGHT)
    radius = drawing_radius(profile.fwhm[0], 1.0, 10.0)
    assert radius == pytest.approx(LEAST_RADIUS_FWHM * profile.fwhm[0])
    image = np.zeros((2 * int(radius) + 3,) * 2)
    add_star(image, profile, image.shape[1] // 2, image.shape[0] // 2, 1.0, radius)
    assert 0.999 < image.sum() < 1.0


def test_bright_stars_end_at_the_faintest_brightness():
    """The surface brightness at the drawing radius of a bright star is the one asked for."""
    profile = point_spread(ellipticity=0.0, optics_share=0.0).at(0.0, 0.0, 0.25 * UPRIGHT)
    radius = drawing_radius(profile.fwhm[0], 1e8, 0.3)
    image = np.zeros((1, 801))
    add_star(image, profile, 0.0, 0.0, 1e8, 800.0)
    assert_allclose(np.interp(radius, np.arange(801), image[0]), 0.3, rtol=0.02)


def test_shears_turn_with_the_detector():
    """A detector turned by 90 degrees sees the shear with the opposite sign, one mirrored only g2."""
    spread = point_spread()
    straight = spread.at(0.2, 0.3, 0.25 * UPRIGHT)
    turned = spread.at(0.2, 0.3, 0.25 * np.array([[0.0, -1.0], [1.0, 0.0]]))
    mirrored = spread.at(0.2, 0.3, 0.25 * np.diag([-1.0, 1.0]))
    for one, other, third in zip(straight.shears, turned.shears, mirrored.shears):
        assert_allclose(other, [-one[0], -one[1]], atol=1e-15)
        assert_allclose(third, [one[0], -one[1]], atol=1e-15)


def test_effective_fwhm_of_a_wide_psf_is_the_profiles():
    """For a PSF much wider than a pixel the effective FWHM is the profile's, broadened by the pixel."""
    profile = point_spread(ellipticity=0.0, size_variation=0.0, optics_share=0.0).at(0, 0, 0.08 * UPRIGHT)
    # a pixel adds 1/12 px^2 to the variance
    expected = np.hypot(0.9 / 0.08, 2.3548 / np.sqrt(12))
    assert_allclose(effective_fwhm(profile), expected, rtol=3e-3)


def test_psf_varies_smoothly_over_the_field():
    """Size and both shears differ over the field by about their configured amplitudes."""
    places = [(u, v) for u in np.linspace(-0.7, 0.7, 5) for v in np.linspace(-0.7, 0.7, 5)]
    values = np.array([point_spread().components(u, v)[0] for u, v in places])
    assert 0.01 < np.ptp(values[:, 0]) / 0.9 < 0.07
    assert (np.ptp(values[:, 1:], axis=0) > 0.03).all()
    assert (np.abs(values[:, 1:]) < 0.08).all()


def test_moments_of_a_gaussian_are_its_own():
    """Adaptive moments of an elliptical Gaussian are its covariance, compiled or not."""
    rows, columns = np.mgrid[:41, :41]
    dx, dy = columns - 20.0, rows - 20.0
    covariance = np.array([[9.0, 2.0], [2.0, 5.0]])
    inverse = np.linalg.inv(covariance)
    image = np.exp(-0.5 * (inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2))
    expected = (9.0, 2.0, 5.0)
    assert_allclose(adaptive_moments(image, 20.0, 20.0, 1.0, 2.0, 1e-12, 200), expected, rtol=1e-6)
    assert_allclose(adaptive_moments.py_func(image, 20.0, 20.0, 1.0, 2.0, 1e-6, 60), expected, rtol=1e-4)


def test_moments_are_galsims():
    """T, e1 and e2 of the PSF with the pixel are those of galsim's adaptive moments of its finely drawn image."""
    import galsim

    profile = point_spread(ellipticity=0.08).at(0.4, -0.6, 0.3 * UPRIGHT)
    t, e1, e2 = profile_moments(profile)
    image = galsim.Convolve(profile.galsim_profile(), galsim.Pixel(1.0)).drawImage(
        nx=161, ny=161, scale=0.25, method="no_pixel"
    )
    found = image.FindAdaptiveMom()
    shape = found.observed_shape
    assert_allclose([e1, e2], [shape.e1, shape.e2], atol=2e-5)
    # T = 2 sigma^2 / sqrt(1 - e^2), sigma^4 the determinant
    assert_allclose(t, 2 * (0.25 * found.moments_sigma) ** 2 / np.sqrt(1 - shape.e**2), rtol=1e-4)


def test_a_spread_of_light_widens_along_itself():
    """A spread of sigma adds 8 ln 2 sigma^2 to the square of the FWHM along it, nothing across."""
    spread = point_spread(ellipticity=0.0, optics_share=0.0, size_variation=0.0)
    plain, wide = (spread.at(0, 0, 0.25 * UPRIGHT, 1.0, s) for s in ((0.0, 0.0), (0.0, 0.1)))
    (xx, xy, yy), (_, _, along) = plain.squares[0], wide.squares[0]
    assert_allclose(wide.squares[0][:2], (xx, xy), atol=1e-12)
    assert_allclose(along - yy, 8 * np.log(2) * (0.1 / 0.25) ** 2)
    assert_allclose(spread.at(0, 0, 0.25 * UPRIGHT, 0.9).fwhm[0], 0.9 * plain.fwhm[0])
