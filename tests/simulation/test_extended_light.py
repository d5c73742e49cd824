"""Transforms of galaxies and of the PSF are those of their profiles, compiled or not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.simulation.extended_light import (
    KOLMOGOROV,
    MOFFAT_SCALE,
    TABLE_SCALE,
    TABLE_STEP,
    bulge_transform,
    fill_transform,
    galaxy_image,
    shear_form,
    stamp_radius,
)
from skyquilt.simulation.point_spread import PointSpread
from skyquilt.simulation.sky.galaxies import (
    EXPONENTIAL_HALF_LIGHT,
    bulge_growth,
    composite_half_light_radius,
    disk_growth,
)


def test_kernel_is_its_plain_twin():
    """The compiled loop and the same text in Python give the same transform."""
    n = 12
    galaxy = np.array([0.3, 0.7, 2.0, 0.3, 1.1, 0.8, -0.1, 1.4])
    spread = np.array([0.88, 0.12, 9.0, 0.4, 8.0, 14.0, -0.3, 13.0])
    phase = np.exp(-1j * np.arange(n))
    compiled, plain = np.zeros((2, n, n // 2 + 1), complex)
    args = (0.5, bulge_transform(), galaxy, spread, phase[: n // 2 + 1].copy(), phase)
    fill_transform(compiled, *args)
    fill_transform.py_func(plain, *args)
    assert_allclose(compiled, plain, rtol=1e-12)


def test_transforms_are_galsims():
    """Formulas and table give galsim's transforms to 1e-4 of the light."""
    import galsim

    k = np.array([0.05, 0.3, 1.0, 3.0])
    turbulence, optics = galsim.Kolmogorov(fwhm=1.0), galsim.Moffat(beta=2.5, fwhm=1.0)
    disk = galsim.Exponential(half_light_radius=1.0)
    bulge = galsim.DeVaucouleurs(half_light_radius=1.0)
    x = k * MOFFAT_SCALE
    index = np.log1p(TABLE_SCALE * k**2) / TABLE_STEP
    ours = {
        turbulence: np.exp(-KOLMOGOROV * k ** (5 / 3)),
        optics: (1 + x) * np.exp(-x),
        disk: (1 + (k / EXPONENTIAL_HALF_LIGHT) ** 2) ** -1.5,
        bulge: np.interp(index, np.arange(bulge_transform().size), bulge_transform()),
    }
    for profile, values in ours.items():
        assert_allclose(values, [profile.kValue(q, 0.0).real for q in k], atol=1e-4)


@pytest.mark.parametrize("seeing", [0.55, 1.0])
def test_a_point_is_a_star(seeing):
    """A galaxy of no size is a star of the same PSF, at 2.2 and 4 px of FWHM, to 1e-3 of its peak."""
    from skyquilt.simulation.point_spread import add_star

    spread = PointSpread(seeing, 0.45, 0.12, 0.05, 0.03, tuple(np.linspace(0.3, 5.9, 12)))
    profile = spread.at(0.3, 0.2, 0.25 * np.eye(2))
    galaxy = np.array([0.0, 1.0, *[1e-8] * 6])
    image, column, row = galaxy_image(galaxy, profile, 100.3, 99.6, 60.0)
    star = np.zeros((201, 201))
    add_star(star, profile, 100.3, 99.6, 1.0, 150.0)
    part = star[row : row + image.shape[0], column : column + image.shape[1]]
    assert_allclose(image, part, atol=1e-3 * star.max())
    assert_allclose(image.sum(), 1.0, rtol=2e-3)


def test_shears_are_quadratic_forms():
    """A circle of radius r, sheared by g along x, has half axes r sqrt((1 + g) / (1 - g)) and its inverse."""
    assert_allclose(
        shear_form(2.0, 0.3, 0.0, np.eye(2) / 0.25), (64 * 1.3 / 0.7, 0.0, 64 * 0.7 / 1.3), atol=1e-9
    )


def test_stamps_reach_to_the_faintest_light():
    """At the stamp's edge disk and bulge are at most as bright as asked for, where they dominate."""
    scale = 8 / EXPONENTIAL_HALF_LIGHT
    reach = stamp_radius((0.0, 1.0), (1e6, 8.0), 2.0, 1.0, 1.0)
    assert 1e6 / (2 * math.pi * scale**2) * math.exp(-reach / scale) <= 1.0
    reach = stamp_radius((1e6, 8.0), (0.0, 1.0), 2.0, 1.0, 1.0)
    assert 1e6 / (22.67 * 64) * math.exp(-7.669 * ((reach / 8) ** 0.25 - 1)) <= 1.0


def test_growth_curves_hold_half_at_one():
    """Both profiles have half of their light within one half-light radius, and so has their sum in its own."""
    assert_allclose(disk_growth(1.0), 0.5, rtol=1e-9)
    assert_allclose(np.interp(1.0, *bulge_growth()), 0.5, rtol=1e-3)
    share, bulge, disk = np.array([0.0, 1.0, 0.4]), np.array([1.0, 0.3, 0.5]), np.array([0.7, 2.0, 1.5])
    radius = composite_half_light_radius(share, bulge, disk)
    assert_allclose(radius[:2], [0.7, 0.3], rtol=2e-3)
    within = share * np.interp(radius / bulge, *bulge_growth()) + (1 - share) * disk_growth(radius / disk)
    assert_allclose(within, 0.5, atol=1e-6)
