"""PhotoCalib (LDM-151 9.1.1)."""

import math

import numpy as np
import pytest

from skyquilt.primitives.chebyshev import ChebyshevSurface
from skyquilt.primitives.component import from_state
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.photo_calib import (
    PhotoCalib,
    magnitude_to_njy,
    njy_to_magnitude,
    njy_to_magnitude_error,
)

BOX = Box(3, -4, 40, 600)


def tilted(seed=1, orders=(3, 4), mean=2.5, error=0.02):
    """A calibration that varies by some per cent over BOX."""
    coefficients = np.random.default_rng(seed).normal(0, 0.02, orders)
    coefficients[0, 0] = 1.0
    return PhotoCalib.from_surface(ChebyshevSurface.over(BOX, mean * coefficients), error)


def test_surface_is_mean_times_normalised_variation():
    """Splitting loses nothing: mean times variation is the surface, and the variation has mean 1."""
    surface = ChebyshevSurface.over(BOX, [[2.0, 0.1], [-0.2, 0.05], [0.3, 0.0]])
    calib = PhotoCalib.from_surface(surface)
    np.testing.assert_allclose(calib.variation.mean, 1.0, rtol=0, atol=1e-14)
    np.testing.assert_allclose(calib.local_calibration(10.0, 33.0), surface.evaluate(10.0, 33.0), rtol=1e-14)


def test_image_equals_fluxes_pixel_by_pixel():
    """An image, its variance and fluxes at the same pixels agree, in nJy and back in electrons."""
    calib = tilted()
    image = np.random.default_rng(2).normal(100, 10, BOX.shape).astype(np.float32)
    y, x = np.mgrid[BOX.y0 : BOX.y0 + BOX.ny, BOX.x0 : BOX.x0 + BOX.nx]
    expected = calib.flux_to_njy(image, x, y)
    np.testing.assert_array_equal(calib.image_to_njy(image, BOX), expected.astype(np.float32))
    c = calib.local_calibration(x, y)
    np.testing.assert_allclose(calib.variance_to_njy2(image, BOX), image * c**2, rtol=2**-23)
    np.testing.assert_allclose(calib.njy_to_flux(expected, x, y), image, rtol=1e-14)
    # two float32 roundings, each of half a unit in the last place
    np.testing.assert_allclose(
        calib.image_to_electrons(calib.image_to_njy(image, BOX), BOX), image, rtol=2**-23
    )


def test_magnitudes_are_ab():
    """One nJy is 31.4 mag, 3631 Jy is magnitude 0, and fluxes come back from magnitudes."""
    assert njy_to_magnitude(1.0) == 31.4
    # 3631 is rounded to whole Jy: half a unit is 0.15 mmag
    np.testing.assert_allclose(njy_to_magnitude(3631e9), 0.0, atol=1.5e-4)
    flux = np.array([0.3, 1.0, 1e9])
    np.testing.assert_allclose(magnitude_to_njy(njy_to_magnitude(flux)), flux, rtol=1e-14)
    assert np.isnan(njy_to_magnitude([0.0, -1.0, np.nan])).all()
    calib = PhotoCalib(2.5)
    np.testing.assert_allclose(calib.magnitude(4.0, 0, 0), 31.4 - 2.5)
    np.testing.assert_allclose(calib.zero_point, calib.magnitude(1.0, 0, 0))


def test_magnitude_errors_are_the_scatter_of_magnitudes():
    """Pulls of magnitudes of noisy fluxes have unit variance."""
    n, flux, error = 40000, 1000.0, 5.0
    noisy = flux + error * np.random.default_rng(3).normal(size=n)
    calib = PhotoCalib(2.5)
    pull = (calib.magnitude(noisy, 0, 0) - calib.magnitude(flux, 0, 0)) / calib.magnitude_error(noisy, error)
    # standard error of the variance sqrt(2/n), allow 4; curvature of the logarithm adds order (error/flux)^2
    np.testing.assert_allclose(pull.var(), 1.0, atol=4 * math.sqrt(2 / n) + 4 * (error / flux) ** 2)
    assert np.isnan(njy_to_magnitude_error(-1.0, 1.0))


def test_calibration_and_photon_errors_add_up_to_the_scatter():
    """Over many calibrations of known error, fluxes scatter by the total error, and by the photon error alone
    when the calibration is the same."""
    rng, n, truth = np.random.default_rng(4), 20000, 800.0
    calib = PhotoCalib(2.5, 0.02)
    photon = 3.0
    means = calib.mean + calib.error * rng.normal(size=n)
    flux_njy = truth * means + photon * rng.normal(size=n)
    total = calib.total_error(truth * calib.mean, photon)
    np.testing.assert_allclose(((flux_njy - truth * 2.5) / total).var(), 1.0, atol=4 * math.sqrt(2 / n))
    assert calib.calibration_error(-2000.0) == 2000.0 * 0.02 / 2.5


def test_composition_is_the_product_of_both():
    """Local calibrations multiply, over another domain too, and relative errors add in quadrature."""
    local = tilted(1)
    other = PhotoCalib.from_surface(
        ChebyshevSurface(np.array([[3.0, 0.2], [0.1, 0.1]]), -100, 200, -50, 900), error=0.06
    )
    product = local.compose(other)
    x, y = np.meshgrid(np.linspace(3, 42, 7), np.linspace(-4, 595, 9))
    np.testing.assert_allclose(
        product.local_calibration(x, y),
        local.local_calibration(x, y) * other.local_calibration(x, y),
        rtol=1e-13,
    )
    np.testing.assert_allclose(
        product.error / product.mean, math.hypot(local.error / local.mean, other.error / other.mean)
    )
    scaled = local.scaled(4.0, relative_error=0.01)
    np.testing.assert_allclose(scaled.local_calibration(x, y), 4 * local.local_calibration(x, y), rtol=1e-15)
    np.testing.assert_allclose(scaled.error / scaled.mean, math.hypot(0.02 / local.mean, 0.01))


def test_unknown_zero_point_makes_everything_nan():
    """Without a zero point fluxes, magnitudes and images are NaN, and the state survives."""
    calib = PhotoCalib.unknown()
    assert np.isnan(calib.flux_to_njy([1.0], 0, 0)).all()
    assert np.isnan(calib.magnitude(1.0, 0, 0))
    assert np.isnan(calib.image_to_njy(np.ones(BOX.shape, np.float32), BOX)).all()
    assert math.isnan(calib.zero_point)
    assert math.isnan(calib.compose(tilted()).mean)
    assert from_state(calib.to_state()) == calib


def test_state_gives_the_calibration_back():
    """With and without a variation."""
    for calib in (tilted(), PhotoCalib(1.5, 0.1)):
        assert from_state(calib.to_state()) == calib
    assert tilted(1) != tilted(2)


def test_senseless_calibrations_are_refused():
    """Zero, negative and unnormalised calibrations, and images of another shape, are errors."""
    for mean, error in ((0.0, 0.0), (-1.0, 0.0), (math.inf, 0.0), (1.0, -0.1)):
        with pytest.raises(ValueError, match="calibration"):
            PhotoCalib(mean, error)
    with pytest.raises(ValueError, match="mean 1"):
        PhotoCalib(1.0, 0.0, ChebyshevSurface.over(BOX, [[1.01]]))
    with pytest.raises(ValueError, match="positive"):
        PhotoCalib.from_surface(ChebyshevSurface.over(BOX, [[-1.0]]))
    with pytest.raises(ValueError, match="does not cover"):
        tilted().image_to_njy(np.zeros((2, 2), np.float32), BOX)
