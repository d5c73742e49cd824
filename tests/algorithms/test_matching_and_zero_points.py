"""Match to a reference catalogue, and zero points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skyquilt.algorithms.association_and_matching.single_visit_to_reference import (
    MatchConfig,
    match_reference,
)
from skyquilt.algorithms.photometric_fitting import PhotometricFittingConfig, fit_zero_point
from skyquilt.primitives.geometry import deproject_tangent, project_tangent


def field(rng, n, ra0, dec0, size=0.2):
    """Positions around a point, even on the sky [deg]."""
    ra = ra0 + rng.uniform(-size, size, n) / np.cos(np.deg2rad(dec0))
    return ra % 360, np.clip(dec0 + rng.uniform(-size, size, n), -90, 90)


@settings(max_examples=20, deadline=None)
@given(
    st.floats(-20, 20),
    st.floats(-20, 20),
    st.sampled_from([(0.01, 0.0), (150.0, 2.2), (359.99, -60.0), (20.0, 88.0)]),
    st.integers(0, 2**31),
)
def test_shifts_are_found(east, north, centre, seed):
    """With a third of the sources unknown to the reference, any shift within the radius is found, RA 0 and
    poles too."""
    rng = np.random.default_rng(seed)
    ra, dec = field(rng, 60, *centre)
    order = rng.permutation(60)[:40]
    x, y = project_tangent(ra, dec, *centre)
    x, y = (value + rng.normal(shift, 0.1, 60) / 3600 for value, shift in ((x, east), (y, north)))
    seen_ra, seen_dec = deproject_tangent(x, y, *centre)
    flux = rng.uniform(1, 100, 60)
    found = match_reference(seen_ra, seen_dec, flux, ra[order], dec[order], flux[order], MatchConfig())
    wanted = order[found.reference] == found.source
    assert len(found.source) >= 36
    assert wanted.mean() > 0.95
    # the plane is tangent at the sources' mean: a few hundredths of a degree off, it turns by a thousandth,
    # at 88 deg
    # by 0.04; medians of 40 have errors of 0.02
    assert_allclose([found.shift_ra, found.shift_dec], [east, north], atol=0.1 + 0.05 * 28 * (centre[1] > 80))
    assert (np.diff(found.source) > 0).all()


def test_unrelated_positions_do_not_match(rng):
    """Random positions give no match in nearly all of 50 trials: the chance of one is limited to 1 %."""
    matched = 0
    for _ in range(50):
        a, b = field(rng, 150, 10.0, 10.0, 0.05), field(rng, 6, 10.0, 10.0, 0.05)
        matched += len(match_reference(*a, np.ones(150), *b, np.ones(6), MatchConfig()).source) > 0
    assert matched <= 4


def test_nothing_to_match():
    """Empty or NaN positions, or a reference on the other side of the sky, are no match."""
    ra, dec = np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4)
    for other in (np.zeros(0), ra + 180, np.full(4, np.nan)):
        found = match_reference(ra, dec, ra, other, np.zeros(other.size), other, MatchConfig())
        assert found.source.size == 0
        assert np.isnan(found.shift_ra)


def test_zero_point_and_its_error(rng):
    """Over 300 fields the scale is unbiased with pulls of unit width, with variables and colour scatter in
    them."""
    scale, pulls = 37.0, []
    for _ in range(300):
        n = 40
        reference = 10 ** rng.uniform(3.5, 5.5, n)
        flux = reference / scale * np.exp(rng.normal(0, 0.03, n))
        error = np.sqrt(flux + 500)
        noisy = flux + rng.normal(0, 1, n) * error
        noisy[:2] *= 3.0
        found = fit_zero_point(
            noisy,
            error,
            reference * (1 + rng.normal(0, 0.01, n)),
            0.01 * reference,
            PhotometricFittingConfig(),
        )
        pulls.append((found.scale - scale) / found.scale_error)
        assert not found.used[:2].any()
    # faint stars near the S/N cut bias logarithms by about half their relative variance: below 0.3 of the
    # error
    assert_allclose(np.std(pulls), 1.0, atol=4 / np.sqrt(600) + 0.05)
    assert abs(np.mean(pulls)) < 0.3 + 4 / np.sqrt(300)


def test_zero_point_without_scatter_is_exact():
    """Equal ratios give their value, no scatter, and the photon error of the mean."""
    flux = np.array([1e4, 2e4, 4e4])
    found = fit_zero_point(flux, 0.01 * flux, 5 * flux, np.full(3, np.nan), PhotometricFittingConfig())
    assert_allclose(found.scale, 5.0, rtol=1e-12)
    assert_allclose(found.scale_error, 5 * 0.01 / np.sqrt(3), rtol=1e-6)
    assert_allclose(found.magnitude, 31.4 - 2.5 * np.log10(5.0))
    assert found.scatter == 0.0


def test_no_usable_stars_are_no_zero_point():
    """Faint, negative and NaN fluxes do not count; too few of the rest give None."""
    flux = np.array([1e4, 1e4, -5.0, np.nan, 20.0])
    found = fit_zero_point(flux, np.full(5, 10.0), np.full(5, 1e5), np.zeros(5), PhotometricFittingConfig())
    assert found is None


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (MatchConfig, {"match_radius": 60.0}),
        (MatchConfig, {"max_chance": 0.0}),
        (PhotometricFittingConfig, {"min_stars": 0}),
        (PhotometricFittingConfig, {"clip": 1.0}),
    ],
)
def test_options_are_checked(kind, wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError):
        kind(**wrong)
