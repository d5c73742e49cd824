"""Cosmic rays by morphology: filters against brute force, and events of known charge in fields of known light."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize

from skyquilt.algorithms.artifact_detection import cosmic_ray_growth as growth
from skyquilt.algorithms.artifact_detection import cosmic_ray_kernels as kernels
from skyquilt.algorithms.artifact_detection.cosmic_rays import CosmicRayConfig, find_cosmic_rays, sky_of
from skyquilt.algorithms.artifact_detection.sharpness import (
    LEAST_FWHM,
    _basic_shapes,
    _point_sources,
    filters_for,
    fit_nonnegative,
)
from skyquilt.algorithms.artifact_detection.star_widths import fwhm_of_psf, sharpest_profile
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.psf import FWHM_OF_SIGMA, GaussianPsf

CONFIG = CosmicRayConfig()


@pytest.fixture(scope="module")
def model():
    """The forward model of the benchmark: stars, galaxies and hits made without the pipeline."""
    path = Path(__file__).parents[2] / "benchmarks" / "cosmic_rays_beside_astroscrappy.py"
    spec = importlib.util.spec_from_file_location("cosmic_ray_fields", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def find(truth, **changes):
    return find_cosmic_rays(truth.image, truth.saturated, truth.variance, CONFIG, **changes)


def empty_sky(rng, shape=(256, 256), sky=400.0, read_noise=5.0):
    image = rng.poisson(sky, shape) + rng.normal(0, read_noise, shape)
    variance = np.maximum(image, 0) + read_noise**2
    return SimpleNamespace(
        image=image.astype(np.float32),
        variance=variance.astype(np.float32),
        saturated=np.zeros(shape, bool),
        noise=np.sqrt(sky + read_noise**2),
    )


@pytest.mark.parametrize("fwhm", [2.0, 2.3, 3.0, 6.0])
def test_no_scene_of_point_sources_excites_a_filter(fwhm):
    """Every filter's response to a point source at any sub-pixel place, in the stamp or outside, is not positive."""
    filters = filters_for(fwhm)
    sigma = filters.fwhm / FWHM_OF_SIGMA
    for width in (sigma, 1.2 * sigma, 2 * sigma):
        sources = _point_sources(width, 0.11 * sigma, 2.0)
        response = sources @ filters.weights.reshape(len(filters.weights), -1).T.astype(float)
        assert response.max() < 2e-3


@pytest.mark.parametrize("fwhm", [2.3, 4.0])
def test_filters_are_the_best_there_are(fwhm):
    """The signal to noise of each shape behind its filter is within 7 % of what non-negative least squares allows.

    The rest is the price of a response that is nowhere positive, also between the places of the fit.
    """
    filters = filters_for(fwhm)
    sources = _point_sources(filters.fwhm / FWHM_OF_SIGMA, 0.5, 1.5)
    for shape in _basic_shapes()[:4]:
        _, best = optimize.nnls(sources.T, shape.ravel())
        index = int(np.argmin(((filters.shapes - shape) ** 2).sum(axis=(1, 2))))
        weight = filters.weights[index].astype(float)
        assert (weight * shape).sum() / np.linalg.norm(weight) == pytest.approx(best, rel=0.07)


def test_coordinate_descent_agrees_with_lawson_and_hanson(rng):
    """On a small well-conditioned problem the compiled fit reaches the minimum of scipy's to 1e-8."""
    sources, target = np.abs(rng.normal(size=(6, 20))), rng.normal(size=20)
    residual = target.copy()
    fit_nonnegative(sources, residual, 3000)
    _, best = optimize.nnls(sources.T, target)
    assert np.linalg.norm(residual) == pytest.approx(best, rel=1e-8)


def test_pair_factors_bound_a_gaussian():
    """A sampled Gaussian is nowhere more than the factor times the mean of two opposite neighbours."""
    filters = filters_for(2.5)
    sigma = filters.fwhm / FWHM_OF_SIGMA
    u = np.arange(-3, 3, 0.01)
    for factor, step in zip(filters.pair_factors, (1.0, np.sqrt(2.0))):
        profile = [np.exp(-((u + d) ** 2) / (2 * sigma**2)) for d in (-step, 0, step)]
        assert (profile[1] <= factor * 0.5 * (profile[0] + profile[2]) * (1 + 1e-12)).all()


def test_kernels_agree_with_plain_code(rng):
    """Interpolation, candidates and the test of a pixel are what plain Python makes of the same arrays."""
    truth = empty_sky(rng, (70, 64))
    truth.image[30, 30] += 300
    level, floor = sky_of(truth.image, truth.saturated, truth.variance, 32)
    planes, sky = (truth.image, truth.variance, truth.saturated), (level, floor, 32)
    factors = filters_for(3.0).pair_factors
    for kernel, arguments in (
        (kernels.between, (level, 32, 17, 40)),
        (growth.pixel_excess, (*planes, 400.0, 425.0, np.zeros((70, 64), np.uint8), factors, 0.02, 30, 30)),
    ):
        np.testing.assert_allclose(kernel(*arguments), kernel.py_func(*arguments), rtol=1e-6)
    found = [np.empty(100, np.int64) for _ in range(2)]
    n = kernels.candidates(*planes, *sky, 3.0, factors, found[0])
    assert n == kernels.candidates.py_func(*planes, *sky, 3.0, factors, found[1])
    np.testing.assert_array_equal(found[0][:n], found[1][:n])
    assert 30 * 64 + 30 in found[0][:n]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_level_and_noise_of_the_sky_are_measured(seed, model):
    """Among 1500 stars per Mpix the sky's level is right to a fifth of its noise, and the noise to 9 %.

    Stars add 4 % to the noise, and 36 blocks of a ninth of the pixels scatter by 1.4 %.
    """
    truth = model.make_field(model.Field(size=384, fwhm=3.0, n_events=100, sky=300.0), seed)
    level, floor = sky_of(truth.image, truth.saturated, truth.variance, 64)
    noise = np.sqrt(300.0 + 25.0)
    assert abs(np.median(level) - 300.0) < 0.2 * noise
    assert abs(np.sqrt(np.median(floor)) / noise - 1) < 0.09


def test_wrong_variance_is_corrected(rng):
    """A variance plane 10 % too small does not make the sky's noise too small: it is the scatter that counts."""
    truth = empty_sky(rng)
    _, floor = sky_of(truth.image, truth.saturated, np.float32(0.9) * truth.variance, 64)
    # 16 blocks of 1024 values: the quantile of differences is good to 2 % of the variance
    assert np.median(floor) == pytest.approx(425.0, rel=0.05)


@pytest.mark.parametrize(("fwhm", "profile"), [(2.3, "kolmogorov"), (3.0, "kolmogorov"), (6.0, "gaussian")])
def test_width_of_the_sharpest_stars_is_measured_among_hits(fwhm, profile, model):
    """With 300 hits per Mpix the narrowest width of round stars is that of their sampled profile, to 6 %."""
    field = model.Field(size=512, fwhm=fwhm, profile=profile, n_events=300, ellipticity=0.0, n_galaxies=50)
    truth = model.make_field(field, 4)
    level, floor = sky_of(truth.image, truth.saturated, truth.variance, 64)
    found = sharpest_profile(truth.image, truth.variance, truth.saturated, level, floor, 64, LEAST_FWHM)
    stamps = model.point_stamps(profile, fwhm, 0.0, 0.0)
    half = stamps.shape[-1] // 2
    middle = stamps[3:5, 3:5].mean(axis=(0, 1))
    step = 1 if fwhm < 3.5 else 3
    curvature = -2 * np.log(middle[half, half + step] / middle[half, half]) / step**2
    assert found.n_stars >= 8
    assert found.fwhm == pytest.approx(FWHM_OF_SIGMA / np.sqrt(curvature), rel=0.06)


def test_an_image_without_stars_has_no_width(rng, model):
    """Hits on an empty sky are not taken for stars."""
    field = model.Field(size=384, n_stars=0, n_galaxies=0, n_events=400)
    truth = model.make_field(field, 2)
    level, floor = sky_of(truth.image, truth.saturated, truth.variance, 64)
    assert sharpest_profile(truth.image, truth.variance, truth.saturated, level, floor, 64, 1.6) is None
    assert find(truth).n_stars == 0


def test_width_of_a_psf_is_that_of_its_narrow_axis():
    """An elliptical Gaussian's narrow axis, with the pixel's 1/12 added, to 2 %."""
    psf = GaussianPsf(xx=2.25, yy=1.44, xy=0.0)
    assert fwhm_of_psf(psf, (100, 100)) == pytest.approx(FWHM_OF_SIGMA * np.sqrt(1.44 + 1 / 12), rel=0.02)


@pytest.mark.parametrize("fwhm", [2.3, 4.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_false_events_of_noise_are_few(fwhm, seed):
    """Noise alone makes fewer than 5 events per Mpix."""
    truth = empty_sky(np.random.default_rng(seed), (1000, 1000))
    assert len(find(truth, fwhm=fwhm).x) < 5


def test_events_are_found_and_stars_spared(model):
    """Of fields at three seeds: S/N > 10 found to 98.5 %, 5-10 to 85 %, fewer than 5 false per Mpix, no star hit.

    The bounds are those of the issue (99 %, 90 %) less what 500 and 100 events can tell (2 standard errors).
    """
    counts = {5: [0, 0], 10: [0, 0], 30: [0, 0]}
    false = cores = pixels = 0
    for seed in (11, 12, 13):
        field = model.Field(size=512, fwhm=(3.0, 4.0, 5.0)[seed % 3], n_events=500, scaled=0.8, n_galaxies=50)
        truth = model.make_field(field, seed)
        result = model.judge(truth, find(truth).pixels, field.fwhm)
        for low, (hit, total) in result["bins"].items():
            counts[low][0] += hit
            counts[low][1] += total
        false, cores, pixels = false + result["false"], cores + result["cores"], pixels + truth.image.size
    bright = (counts[10][0] + counts[30][0]) / (counts[10][1] + counts[30][1])
    assert bright > 0.985
    assert counts[5][0] / counts[5][1] > 0.85
    assert false / (pixels / 1e6) < 5
    assert cores == 0


@pytest.mark.parametrize(("fwhm", "profile"), [(2.3, "moffat"), (3.0, "kolmogorov"), (6.0, "kolmogorov")])
def test_no_star_core_is_hit(fwhm, profile, model):
    """8000 stars per Mpix from faint to saturated, pairs, elliptical and varying: no core is marked."""
    field = model.Field(
        size=320, fwhm=fwhm, profile=profile, n_stars=8000, n_events=0, ellipticity=0.2, n_galaxies=100
    )
    truth = model.make_field(field, 7)
    result = model.judge(truth, find(truth).pixels, fwhm)
    assert result["stars"] > 200
    assert result["cores"] == 0


@pytest.mark.parametrize(("fwhm", "density"), [(4.0, 40_000), (6.0, 20_000)])
def test_faint_stars_of_a_globular_cluster_are_no_hits(fwhm, density, model):
    """Where stars overlap and no block has empty sky, under 1 in 100 stars is marked; before the sky's level in gaps
    between them was looked at, 1 in 50 was."""
    field = model.Field(size=384, fwhm=fwhm, n_stars=density, n_events=0, n_galaxies=0)
    truth = model.make_field(field, 1)
    found = find(truth)
    assert model.judge(truth, found.pixels, fwhm)["stars"] > 1000
    assert len(found.x) < 0.01 * model.judge(truth, found.pixels, fwhm)["stars"]


def test_a_hit_on_a_star_is_found_and_the_star_left(model, rng):
    """A point of 3 times a star's peak on its flank is marked, the star's peak two pixels off is not."""
    stamps = model.point_stamps("kolmogorov", 3.5, 0.1, 0.8)
    light = np.full((256, 256), 300.0)
    places = [(y, x) for y in range(20, 250, 36) for x in range(20, 250, 36)]
    for k, (y, x) in enumerate(places):
        model._add(light, stamps, x + 0.1 * (k % 5 - 2), y, 4e4)
    image = rng.poisson(light).astype(np.float32)
    for y, x in places:
        image[y, x + 2] += 3 * (light[y, x] - 300)
    truth = SimpleNamespace(image=image, variance=image + 25, saturated=np.zeros(image.shape, bool))
    found = find(truth)
    assert found.n_stars == 0 or found.fwhm < 3.7
    assert all(found.pixels[y, x + 2] for y, x in places)
    assert not any(found.pixels[y, x] for y, x in places)


def test_background_subtracted_or_not(model):
    """The same pixels with the sky in the image and without."""
    truth = model.make_field(model.Field(size=384, sky=1000.0, n_events=200), 5)
    with_sky = find(truth).pixels
    truth.image -= np.float32(1000.0)
    assert np.mean(with_sky != find(truth).pixels) < 2e-5


def test_events_are_measured(rng):
    """Place, peak, flux and pixels of three hits on empty sky."""
    truth = empty_sky(rng)
    for y, x, charge in ((40, 60, 900.0), (100, 101, 2000.0), (200, 30, 700.0)):
        truth.image[y, x] += charge
        truth.variance[y, x] += charge
        truth.image[y, x + 1] += charge / 2
        truth.variance[y, x + 1] += charge / 2
    found = find(truth, fwhm=3.0)
    assert len(found.x) == 3
    np.testing.assert_allclose(found.x, [60.33, 101.33, 30.33], atol=0.1)
    np.testing.assert_allclose(found.y, [40, 100, 200], atol=0.1)
    # 5 sigma of the sky in 2 pixels and their neighbours
    np.testing.assert_allclose(found.flux, [1350, 3000, 1050], atol=5 * 1.7 * truth.noise)
    np.testing.assert_allclose(found.peak, [900, 2000, 700], atol=5 * 1.2 * truth.noise)
    assert found.n_pixels.sum() == found.pixels.sum() == found.pixel_index.size
    np.testing.assert_array_equal(np.flatnonzero(found.pixels), found.pixel_index)
    assert set(found.pixel_event) == {0, 1, 2}


def test_unusable_pixels_are_neither_used_nor_marked(rng):
    """NaN and huge values under the mask change nothing; hits beside a bad column count only if it is a defect."""
    truth = empty_sky(rng)
    truth.saturated[:, 100] = True
    truth.image[:, 100] = np.where(np.arange(256) % 2, np.nan, 1e6)
    truth.variance[:, 100] = np.nan
    truth.image[50, 101] += 800
    truth.image[80, 103] += 800
    found = find(truth, fwhm=3.0)
    assert not found.pixels[:, 100].any()
    assert found.pixels[80, 103]
    assert not found.pixels[50, 101]
    assert find(truth, fwhm=3.0, defects=truth.saturated).pixels[50, 101]


def test_edges_and_corners_are_searched(rng):
    """A hit in the last row or column is found."""
    truth = empty_sky(rng)
    for y, x in ((0, 50), (255, 90), (120, 0), (130, 255)):
        truth.image[y, x] += 1000
    found = find(truth, fwhm=3.0)
    assert found.pixels[[0, 255, 120, 130], [50, 90, 0, 255]].all()


def test_nothing_is_changed_and_nothing_is_random(model):
    """Inputs stay as they are, and a second run gives the same events."""
    truth = model.make_field(model.Field(size=256, n_events=200), 9)
    before = [plane.copy() for plane in (truth.image, truth.variance, truth.saturated)]
    one, two = find(truth), find(truth)
    for plane, copy in zip((truth.image, truth.variance, truth.saturated), before):
        np.testing.assert_array_equal(plane, copy)
    np.testing.assert_array_equal(one.pixel_event, two.pixel_event)
    np.testing.assert_array_equal(one.flux, two.flux)


def test_an_image_without_usable_pixels_is_a_failure(rng):
    """NO_GOOD_PIXELS when every pixel is masked."""
    truth = empty_sky(rng, (64, 64))
    truth.saturated[:] = True
    with pytest.raises(ProcessingFailure) as failure:
        find(truth)
    assert failure.value.reason is Reason.NO_GOOD_PIXELS


@pytest.mark.parametrize("changes", [{"sharper": 0}, {"grow": 9.0}, {"unknown_fwhm": 1.0}, {"block": 4}])
def test_impossible_options_are_refused(changes):
    """Each impossible option is named in the message."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        CosmicRayConfig(**changes)
