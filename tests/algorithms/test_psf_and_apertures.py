"""Star selection, PSF, curve of growth, and star/galaxy separation."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.algorithms.aperture_correction import ApertureCorrectionConfig, fit_aperture_correction
from skyquilt.algorithms.psf_estimation import PsfEstimationConfig, fit_psf, median_moments, select_stars
from skyquilt.algorithms.star_galaxy_classification import (
    StarGalaxyConfig,
    extendedness,
    size_extendedness,
)

RADII = (3.0, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0)


def test_stars_are_the_most_frequent_size(rng):
    """Among as many galaxies of all sizes and some cosmic rays, the stars' locus is taken and nearly
    nothing else."""
    size = np.concatenate([rng.normal(2.0, 0.02, 100), rng.uniform(2.2, 6, 100), rng.uniform(0.5, 1.2, 20)])
    snr = rng.uniform(40, 500, size.size)
    stars = select_stars(size, snr, np.ones(size.size, bool), PsfEstimationConfig())
    assert stars[:100].mean() > 0.95
    assert not stars[100:].any()


def test_too_few_stars_are_none(rng):
    """Fewer clean bright sources than the least number select nothing, NaN sizes included."""
    size = np.array([2.0, np.nan, 2.0, 2.0])
    clean = np.array([True, True, True, False])
    assert not select_stars(size, np.full(4, 100.0), clean, PsfEstimationConfig(min_stars=3)).any()
    assert not select_stars(size, np.full(4, 5.0), ~clean, PsfEstimationConfig()).any()


@pytest.mark.parametrize("moments", [(4.0, 4.0, 0.0), (5.0, 3.0, 0.6), (1.0, 1.2, -0.2)])
def test_psf_has_the_moments_of_its_stars(moments):
    """Adaptive moments of the model's pixels are the moments handed in, to 1 %: a square pixel is no
    Gaussian."""
    found = fit_psf(*moments).moments_at(100.0, 100.0)
    assert_allclose([found.xx, found.yy, found.xy], moments, atol=0.01 * (moments[0] + moments[1]))
    assert_allclose(median_moments(*np.array([moments] * 3).T), moments)


def growth(radius, sigma=3.0, halo=0.05, scale=9.0):
    """Enclosed share of a star with a core and a halo."""
    return (1 - halo) * (1 - np.exp(-0.5 * radius**2 / sigma**2)) + halo * (
        1 - np.exp(-0.5 * radius**2 / scale**2)
    )


def aperture_table(rng, n, flux=1e5, sky=200.0):
    """Aperture sums of isolated stars: independent noise of each ring."""
    radii = np.array(RADII)
    rings = np.diff(np.concatenate([[0.0], growth(radii)])) * flux
    variance = rings + sky * np.pi * np.diff(np.concatenate([[0.0], radii**2]))
    noise = rng.normal(size=(n, radii.size)) * np.sqrt(variance)
    return np.cumsum(rings + noise, axis=1), np.sqrt(np.cumsum(variance)) * np.ones((n, 1))


def test_aperture_correction_and_its_error(rng):
    """Over 200 detectors of 30 stars the correction is unbiased and scatters by its quoted error."""
    config = ApertureCorrectionConfig()
    x = np.arange(30) * 200.0
    pulls = []
    for _ in range(200):
        flux, error = aperture_table(rng, 30)
        found = fit_aperture_correction(
            x, np.zeros(30), flux, error, np.ones(flux.shape, bool), RADII, np.ones(30, bool), config
        )
        assert found.reached == 35.0
        pulls.append((found.factor - growth(35.0) / growth(12.0)) / found.error)
    # clipping, the weights' own noise and the floor of chi^2 at 1 together: 10 %
    assert_allclose(np.std(pulls), 1.0, atol=4 / np.sqrt(400) + 0.1)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(200) + 0.1


def test_neighbours_end_the_curve_of_growth(rng):
    """Stars with bright neighbours 20 pixels away serve up to 17 pixels only; with none there is no
    correction."""
    flux, error = aperture_table(rng, 20)
    x = np.repeat(np.arange(10) * 500.0, 2) + np.tile([0.0, 20.0], 10)
    usable = np.ones(flux.shape, bool)
    config = ApertureCorrectionConfig()
    found = fit_aperture_correction(x, np.zeros(20), flux, error, usable, RADII, np.ones(20, bool), config)
    assert found.reached == 17.0
    assert_allclose(found.factor, growth(17.0) / growth(12.0), atol=5 * found.error)
    none = fit_aperture_correction(x, np.zeros(20), flux, error, usable, RADII, np.zeros(20, bool), config)
    assert none.factor == 1.0
    assert np.isnan(none.error)
    with pytest.raises(ValueError, match="radius 12"):
        fit_aperture_correction(x, x, flux, error, usable, (3.0, 35.0), usable[:, 0], config)


def test_extendedness_by_fluxes_and_sizes(rng):
    """Stars are 0 and clear galaxies 1 in both kinds; without stars fluxes say nothing."""
    n = 400
    inner = np.full(n, 1e4)
    galaxy = np.arange(n) >= n // 2
    outer = inner * np.where(galaxy, 1.6, 1.3) + rng.normal(0, 150.0, n)
    errors = np.full(n, 100.0), np.full(n, 180.0)
    stars = ~galaxy & (np.arange(n) < 50)
    found = extendedness(inner, errors[0], outer, errors[1], stars, StarGalaxyConfig())
    # ratio error 0.015; limit 0.05: 3.3 sigma
    assert found[~galaxy].mean() < 0.01
    assert (found[galaxy] == 1).all()
    assert np.isnan(
        extendedness(inner, *errors[:1], outer, errors[1], stars & False, StarGalaxyConfig())
    ).all()
    chance = size_extendedness(np.array([8.0, 8.8, 12.0, np.nan]), 8.0, np.full(4, 200.0), StarGalaxyConfig())
    assert chance[0] < 0.01
    assert_allclose(chance[1], 0.5, atol=0.01)
    assert chance[2] > 0.99
    assert np.isnan(chance[3])


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (PsfEstimationConfig, {"min_stars": 0}),
        (PsfEstimationConfig, {"clip": 0.0}),
        (ApertureCorrectionConfig, {"total_radius": 3.0}),
        (ApertureCorrectionConfig, {"min_stars": 1}),
        (StarGalaxyConfig, {"flux_excess": 0.0}),
    ],
)
def test_options_are_checked(kind, wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError):
        kind(**wrong)
