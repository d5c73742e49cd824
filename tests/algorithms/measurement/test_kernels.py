"""Kernels of the measurement: plain twins and known answers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import brentq

from skyquilt.algorithms.measurement.adaptive_ellipse import match_ellipse, regularised
from skyquilt.algorithms.measurement.elliptical_apertures import nested_ellipses
from skyquilt.algorithms.measurement.framework import Record
from skyquilt.algorithms.measurement.neighbour_noise import stream_seed, unit_normal
from skyquilt.algorithms.measurement.plugin_list import make_plugins
from skyquilt.algorithms.measurement.plugins.blendedness import unbiased_size
from skyquilt.algorithms.measurement.plugins.local_sky import annulus_sums
from skyquilt.algorithms.measurement.point_source_fit import psf_derivatives
from skyquilt.algorithms.measurement.psf_sampler import PsfSampler
from skyquilt.algorithms.measurement.sinc_apertures import sinc_sum, sinc_weights
from skyquilt.algorithms.measurement.variants.deblended_frame import (
    MeasureSourcesConfig,
    measure_deblended_frame,
)
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.psf import GaussianPsf, PolynomialPsf


def gaussian(shape, x, y, xx, yy, xy, flux=1.0):
    """Samples of a Gaussian, not integrated over pixels."""
    j, i = np.mgrid[: shape[0], : shape[1]].astype(float)
    det = xx * yy - xy**2
    square = (yy * (i - x) ** 2 + xx * (j - y) ** 2 - 2 * xy * (i - x) * (j - y)) / det
    return flux * np.exp(-0.5 * square) / (2 * np.pi * np.sqrt(det))


@pytest.mark.parametrize("form", [(1.0, 1.0, 0.0), (0.5, 2.0, 0.3), (3.0, 0.7, -1.1)])
def test_nested_ellipses_equal_a_fine_grid(form):
    """Sums are those of 40 x 40 points per pixel: to the points' own error, 1 / 40 of the cut pixels' root."""
    rng = np.random.default_rng(2)
    image = rng.uniform(1, 2, (60, 64)).astype(np.float32)
    bad = np.zeros(image.shape, bool)
    x, y, radii = 30.37, 28.81, np.array([0.7, 2.0, 3.5, 9.0, 13.0])
    sums = np.empty((radii.size, 4))
    nested_ellipses(image, image, bad, x, y, *form, radii, sums)
    fine = (np.arange(40) + 0.5) / 40 - 0.5
    v = (np.arange(60)[:, None] + fine).ravel()[:, None] - y
    u = (np.arange(64)[:, None] + fine).ravel() - x
    square = form[0] * u**2 + form[1] * v**2 + 2 * form[2] * u * v
    for m, radius in enumerate(radii):
        inside = (square <= radius**2).reshape(60, 40, 64, 40).mean((1, 3))
        cut = ((inside > 0) & (inside < 1)).sum()
        tolerance = 2 * np.sqrt(cut) / 40 + 1e-3 * cut
        assert sums[m, 0] == pytest.approx((inside * image).sum(), abs=tolerance)
        assert sums[m, 2] == pytest.approx(inside.sum(), abs=tolerance)
        assert sums[m, 3] == pytest.approx(np.pi * radius**2 / np.sqrt(form[0] * form[1] - form[2] ** 2))
        assert sums[m, 1] == pytest.approx((inside**2 * image).sum(), abs=tolerance)


def test_missing_pixels_take_the_mean_of_their_ring_and_edges_are_cut():
    """On a constant image bad pixels and the edge change nothing; a ring without any pixel is NaN from there on."""
    image, bad = np.full((50, 50), 3.0, np.float32), np.zeros((50, 50), bool)
    bad[25, 27:30] = True
    image[bad] = 0
    sums, radii = np.empty((3, 4)), np.array([2.0, 6.0, 9.0])
    nested_ellipses(image, image, bad, 25.0, 25.0, 1.0, 1.0, 0.0, radii, sums)
    assert_allclose(sums[:, 0], 3 * np.pi * radii**2, rtol=2e-4)
    assert sums[2, 2] == pytest.approx(np.pi * 81 - 3, rel=2e-4)
    nested_ellipses(image, image, bad, 1.0, 49.0, 1.0, 1.0, 0.0, radii, sums)
    assert_allclose(sums[:, 0], 3 * np.pi * radii**2, rtol=2e-3)
    nested_ellipses(image, image, np.ones_like(bad), 25.0, 25.0, 1.0, 1.0, 0.0, radii, sums)
    assert np.isnan(sums[:, 0]).all()


@pytest.mark.parametrize("radius", [2.0, 3.0, 6.0])
def test_sinc_apertures_are_exact_for_smooth_light(radius):
    """Samples of a Gaussian of sigma 1.4 give its integral over the circle at all places within a pixel.

    Its spectrum at the sampling frequency's half is exp(-(pi 1.4)^2 / 2) = 6e-5: what aliasing can do.
    """
    bad, table = np.zeros((61, 61), bool), sinc_weights(radius)
    area, sums = np.pi * radius**2, np.empty(4)
    true = 1 - np.exp(-0.5 * (radius / 1.4) ** 2)
    for x, y in np.random.default_rng(4).uniform(29.5, 30.5, (40, 2)):
        image = gaussian(bad.shape, x, y, 1.96, 1.96, 0.0, 1e4).astype(np.float32)
        sinc_sum(image, image, bad, x, y, table, area, sums)
        assert sums[0] == pytest.approx(1e4 * true, rel=3e-4)
        assert sums[2] == pytest.approx(area, rel=1e-6)
        assert sums[3] == 0


def test_the_sampler_gives_what_the_model_gives():
    """Stamps are those of `image_at` to 2e-4 of the peak, anywhere; a model that jumps is asked itself."""
    rng = np.random.default_rng(6)
    j, i = np.mgrid[-40:41, -40:41] * 0.5
    base = [np.exp(-0.5 * (i**2 + j**2) / s**2) / s**2 for s in (1.5, 1.9, 2.6)]
    model = PolynomialPsf.from_arrays(
        np.array([base[0], base[1] - base[0], base[2] - base[0]]),
        np.column_stack([[1.0, 0.2, 0.1], rng.normal(0, 0.05, (3, 5))]),
        2,
        Box(0, 0, 900, 700),
        0.5,
    )
    sampler = PsfSampler(model, (700, 900))
    assert not sampler.direct
    for x, y in rng.uniform(0, 1, (30, 2)) * [899, 699]:
        stamp, exact = sampler.stamp(x, y), model.image_at(x, y)
        assert (stamp.x0, stamp.y0) == (exact.box.x0, exact.box.y0)
        assert_allclose(stamp.array, exact.array, atol=2e-4 * exact.array.max())
        assert stamp.array.sum() == pytest.approx(1)

    class Jumping(GaussianPsf):
        def _stamp(self, x, y, dx, dy):
            return GaussianPsf(3.0 if x < 300 else 6.0, 3.0, 0.0, self.size)._stamp(x, y, dx, dy)

    sampler = PsfSampler(Jumping(3.0, 3.0), (700, 900))
    assert sampler.direct
    assert_allclose(sampler.stamp(320.2, 5.0).array, Jumping(3.0, 3.0).image_at(320.2, 5.0).array)


def test_derivatives_of_a_stamp():
    """Differences are those of a Gaussian of sigma 1.5.

    The tenth order leaves h^10 f11 / 2772 of the first derivative: 3500 / (2772 sigma^10 0.607) = 3.6 % of its
    maximum at most (3500 bounds the 11th Hermite function), and about as much of the second.
    """
    x, y, s2 = 15.2, 14.9, 2.25
    stamp = gaussian((31, 31), x, y, s2, s2, 0.0)
    found = np.empty((5, 31, 31))
    psf_derivatives(stamp, found)
    j, i = np.mgrid[:31, :31]
    u, v = (i - x) / s2, (j - y) / s2
    exact = [u * stamp, v * stamp, (u**2 - 1 / s2) * stamp, (v**2 - 1 / s2) * stamp, u * v * stamp]
    for one, true in zip(found, exact):
        assert_allclose(one, true, atol=0.036 * np.abs(true).max())


def test_noise_is_normal_and_belongs_to_its_pixel():
    """Mean, variance, kurtosis and neighbours' correlation of 40,000 draws; the same again, another for another seed."""
    seed = stream_seed(7, 3)
    draws = np.array([unit_normal(seed, k) for k in range(40000)])
    other = np.array([unit_normal(stream_seed(7, 4), k) for k in range(40000)])
    bound = 4 / np.sqrt(40000)
    assert abs(draws.mean()) < bound
    assert abs(draws.var() - 1) < np.sqrt(2) * bound
    assert abs((draws**4).mean() - 3) < np.sqrt(96) * bound
    assert abs((draws[1:] * draws[:-1]).mean()) < bound
    assert abs((draws * other).mean()) < bound
    assert unit_normal(seed, 11) == draws[11]


def test_annulus_sums_equal_a_plain_loop():
    """Count, light and variance of the pixels between two radii, at the edge too."""
    rng = np.random.default_rng(9)
    image = rng.normal(0, 1, (50, 60)).astype(np.float32)
    excluded = rng.uniform(size=image.shape) < 0.2
    j, i = np.mgrid[:50, :60]
    for x, y in ((30.2, 25.1), (1.0, 48.7), (200.0, 5.0)):
        distance = np.hypot(i - x, j - y)
        chosen = (distance >= 6.3) & (distance <= 14.9) & ~excluded
        sums = np.empty(3)
        annulus_sums(image, image**2, excluded, x, y, 6.3, 14.9, sums)
        assert_allclose(
            sums, [chosen.sum(), image[chosen].sum(), (image[chosen] ** 2).sum()], rtol=1e-5, atol=1e-5
        )


def test_adaptive_moments_of_a_gaussian_and_their_regularisation():
    """Moments of an elliptical Gaussian are its own to 1 %; smaller ones than a PSF makes are raised, others kept."""
    image = gaussian((61, 61), 30.3, 29.8, 6.0, 3.5, 1.2, 1e4).astype(np.float32)
    found = np.empty(7)
    match_ellipse(image, np.zeros(image.shape, bool), 30.0, 30.0, 4.0, 4.0, 0.0, 20.0, True, 3.0, found)
    assert found[6] == 1
    assert_allclose(found[:2], [30.3, 29.8], atol=1e-3)
    assert_allclose(found[2:5], [6.0, 3.5, 1.2], rtol=0.01)
    psf = (4.0, 3.0, 0.5)
    assert regularised((6.0, 3.5, 1.2), psf, 0.3) == ((6.0, 3.5, 1.2), False)
    raised, changed = regularised((4.0, 0.1, 0.0), psf, 0.3)
    assert changed
    least = np.array([[raised[0] - 1.2, raised[2] - 0.15], [raised[2] - 0.15, raised[1] - 0.9]])
    assert np.linalg.eigvalsh(least)[0] > -1e-12


@pytest.mark.parametrize("mean", [0.0, 0.7, 3.0, 20.0])
def test_absolute_values_without_the_share_of_noise(mean):
    """Where the light is known to be positive, the mean of |pixel| less the correction at the truth is the light."""
    draws = np.random.default_rng(1).normal(mean, 1.0, 40000)
    excess = mean - unbiased_size(mean, 1.0)
    # the error of a mean of 40,000
    assert np.abs(draws).mean() - excess == pytest.approx(mean, abs=4 / 200)


def test_kron_and_petrosian_of_gaussian_sources(draw):
    """Radii and fluxes are the analytic ones of an elliptical Gaussian; their scatter is what the errors say.

    The first radial moment is sqrt(pi / 2) sigma, so Kron's ellipse is 3.133 sigma, below the least, 3.5; with a least of 1
    it holds 1 - exp(-3.133^2 / 2). The Petrosian radius solves the ratio of means by hand.
    """
    rng, side, n_side = np.random.default_rng(12), 61, 16
    one = gaussian((side, side), 30.0, 30.0, 7.0, 4.0, 1.0, 60000.0)
    n, sky = n_side**2, 100.0
    light = np.tile(one, (n_side, n_side))
    at = np.arange(n_side) * side + 30.0
    y, x = (v.ravel() for v in np.meshgrid(at, at, indexing="ij"))
    nothing = (np.empty(0, np.int64), np.empty(0, np.float32))
    names = (
        "windowCentroid",
        "centroid",
        "psfShape",
        "shape",
        "kronFlux",
        "petrosianFlux",
        "ellipticalApertures",
    )
    config = MeasureSourcesConfig(names, {"kronFlux": {"smallest": 1.0}}, 0)
    measured = []
    for counts in (light + sky, rng.poisson(light + sky)):
        exposure = draw.exposure_of(counts - sky, counts)
        bad = np.zeros(light.shape, bool)
        measured.append(
            measure_deblended_frame(
                exposure, bad, draw.places(x, y), draw.deblended([nothing] * n), config, width=2.3
            ).columns
        )
    clean, noisy = measured

    def within(r):
        return 1 - np.exp(-0.5 * r**2)

    def eta(r):
        ring = (within(1.25 * r) - within(0.8 * r)) / ((1.25**2 - 0.8**2) * r**2)
        return ring / (within(r) / r**2) - 0.2

    sigma, petrosian = (7.0 * 4.0 - 1.0) ** 0.25, brentq(eta, 0.5, 5)
    kron = 2.5 * np.sqrt(np.pi / 2)
    assert_allclose(clean["kronRad"], kron * sigma, rtol=0.01)
    assert_allclose(clean["kronFlux"], 60000 * within(kron), rtol=5e-3)
    # linear interpolation of eta over a step of 12 % in radius, and pixels as wide as half a sigma
    assert_allclose(clean["petrosianRad"], petrosian * sigma, rtol=0.02)
    assert_allclose(clean["petrosianFlux"], 60000 * within(2 * petrosian), rtol=2e-3)
    assert_allclose(clean["ell30Flux"], 60000 * within(3), rtol=5e-3)
    for name, low, high in (("kronFlux", 0.9, 1.1), ("petrosianFlux", 0.9, 1.1), ("ell60Flux", 0.9, 1.1)):
        pull = (noisy[name] - clean[name]) / noisy[f"{name}Err"]
        # 1.48 MAD of 256 normals has an error of 7 %
        assert low - 0.14 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < high + 0.14, name


def test_extendedness_tells_galaxies_from_stars(draw):
    """Stars are 0 and sources half again as wide 1; the probability and the difference of trace radii agree."""
    rng, side = np.random.default_rng(5), 61
    psf = GaussianPsf(3.0, 3.0)
    star = np.zeros((side, side))
    stamp = psf.image_at(30.0, 30.0)
    star[stamp.box.slices()] = stamp.array
    wide = gaussian((side, side), 30.0, 30.0, 5.5, 5.5, 0.0)
    light = 30000 * np.concatenate([np.tile(star, (1, 20)), np.tile(wide, (1, 20))])
    counts = rng.poisson(light + 100.0)
    x, y = np.tile(np.arange(20) * side + 30.0, 2), np.repeat([30.0, side + 30.0], 20)
    nothing = (np.empty(0, np.int64), np.empty(0, np.float32))
    config = MeasureSourcesConfig(sky_sources=0)
    found = measure_deblended_frame(
        draw.exposure_of(counts - 100.0, counts),
        np.zeros(light.shape, bool),
        draw.places(x, y),
        draw.deblended([nothing] * 40),
        config,
        psf=psf,
    ).columns
    assert_allclose(found["extendedness"], [0.0] * 20 + [1.0] * 20)
    assert (found["sizeExtendedness"][:20] < 0.05).all()
    assert (found["sizeExtendedness"][20:] > 0.95).all()
    pull = found["traceRadiusDelta"][:20] / found["traceRadiusErr"][:20]
    assert abs(pull.mean()) < 4 / np.sqrt(20)
    assert found["centroid_extended_flag"][20:].all()
    assert_allclose(found["x"], x, atol=6 * found["xErr"].max())


def test_plugins_run_in_their_order_and_say_what_they_write():
    """The library's list is in ascending order; every column has a unit or none, and a text; a record writes into rows."""
    plugins = make_plugins(MeasureSourcesConfig().plugins[::-1], {})
    assert [plugin.order for plugin in plugins] == sorted(plugin.order for plugin in plugins)
    columns = {"a": np.zeros(3)}
    record = Record(columns, 1)
    record["a"] = 5.0
    assert record["a"] == 5.0
    assert "b" not in record
    assert_allclose(columns["a"], [0, 5, 0])
