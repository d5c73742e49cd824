"""Matching with a good WCS: against a plain twin, by the errors, one to one, with doubtful pairs flagged."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.association_and_matching.non_blind import NonBlindConfig, match_non_blind
from skyquilt.primitives.geometry import angular_separation

NO_EXTRA = NonBlindConfig(extra_error=1e-6, max_radius=5.0)


def field(n, rng, dec=0.0, size=600.0):
    """Positions [deg] in a square of `size` arcsec."""
    d = dec + rng.uniform(-0.5, 0.5, n) * size / 3600
    return (rng.uniform(-0.5, 0.5, n) * size / 3600 / np.cos(np.radians(d))) % 360, d


def moved(ra, dec, error, rng):
    """Positions with errors [arcsec] added."""
    east, north = rng.normal(size=(2, len(ra))) * error / 3600
    return (ra + east / np.cos(np.radians(dec))) % 360, dec + north


def test_pairs_equal_the_plain_twin():
    """Greedy by density over all pairs."""
    rng = np.random.default_rng(1)
    ra, dec = field(150, rng, size=60)
    other_ra, other_dec = moved(ra, dec, 0.3, rng)
    error, other_error = rng.uniform(0.1, 0.5, (2, 150))
    one, two = error[:, None, None] ** 2 * np.eye(2), other_error[:, None, None] ** 2 * np.eye(2)
    match = match_non_blind(ra, dec, one, other_ra, other_dec, two, NO_EXTRA)
    distance = 3600 * angular_separation(ra[:, None], dec[:, None], other_ra, other_dec)
    variance = error[:, None] ** 2 + other_error**2
    log_density = -0.5 * distance**2 / variance - np.log(variance)
    log_density[(distance**2 / variance > -2 * np.log(1e-4)) | (distance > 5.0)] = -np.inf
    pairs = []
    while np.isfinite(log_density.max()):
        i, j = np.unravel_index(np.argmax(log_density), log_density.shape)
        pairs.append((int(i), int(j)))
        log_density[i], log_density[:, j] = -np.inf, -np.inf
    assert sorted(pairs) == list(zip(match.source.tolist(), match.reference.tolist()))


@pytest.mark.parametrize("dec", [0.0, 60.0, 89.9])
def test_true_pairs_are_lost_as_often_as_said(dec):
    """With Gaussian errors a share `max_missed` is lost: 1 % of 20000, within 5 sigma of the binomial."""
    rng = np.random.default_rng(2)
    n = 20000
    ra, dec = field(n, rng, dec=dec, size=20000.0 if dec < 80 else 600.0)
    if dec.max() > 80:
        ra, dec, n = ra[:300], dec[:300], 300
    other_ra, other_dec = moved(ra, dec, 0.05, rng)
    config = NonBlindConfig(max_missed=0.01, extra_error=1e-6)
    match = match_non_blind(ra, dec, 0.03**2, other_ra, other_dec, 0.04**2, config)
    lost = n - (match.source == match.reference).sum()
    assert abs(lost - 0.01 * n) < 5 * np.sqrt(0.0099 * n)


def test_one_to_one_in_any_order():
    """Crowded to the errors: each row once, and the same pairs from permuted lists."""
    rng = np.random.default_rng(3)
    ra, dec = field(2000, rng, size=100)
    other_ra, other_dec = moved(ra, dec, 0.3, rng)
    match = match_non_blind(ra, dec, 0.2**2, other_ra, other_dec, 0.2**2)
    for rows in (match.source, match.reference):
        assert len(np.unique(rows)) == len(rows)
    s, r = rng.permutation(2000), rng.permutation(2000)
    other = match_non_blind(ra[s], dec[s], 0.2**2, other_ra[r], other_dec[r], 0.2**2)
    pairs = sorted(zip(s[other.source].tolist(), r[other.reference].tolist()))
    assert pairs == list(zip(match.source.tolist(), match.reference.tolist()))


def test_shares_are_probabilities():
    """Of pairs with a share near p, a part p is true; a star has a neighbour within its errors and one is observed."""
    rng = np.random.default_rng(4)
    n = 4000
    ra, dec = np.arange(n) * 0.01, np.zeros(n)
    near_ra, near_dec = moved(ra, dec, 0.3, rng)
    true = rng.random(n) < 0.5
    seen_ra, seen_dec = moved(np.where(true, ra, near_ra), np.where(true, dec, near_dec), 0.1, rng)
    match = match_non_blind(
        seen_ra, seen_dec, 0.1**2, np.r_[ra, near_ra], np.r_[dec, near_dec], 1e-12, NO_EXTRA
    )
    right = (match.reference < n) == true[match.source]
    assert_array_equal(match.ambiguous, match.share < NO_EXTRA.min_share)
    assert 0.05 < match.ambiguous.mean() < 0.9
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 0.99), (0.99, 1.01)):
        some = (match.share >= low) & (match.share < high)
        expected = match.share[some].mean()
        sigma = np.sqrt(max(expected * (1 - expected), 1e-3) / some.sum())
        assert abs(right[some].mean() - expected) < 5 * sigma


def test_errors_have_a_direction():
    """A source uncertain along one axis matches along it, and not across."""
    c = np.array([[[1.0, 0.0], [0.0, 0.01**2]]])
    for east, north, matched in ((2.0, 0.0, 1), (0.0, 2.0, 0)):
        match = match_non_blind(
            [10.0], [0.0], c, [10.0 + east / 3600], [north / 3600], 1e-6, NonBlindConfig(max_radius=5.0)
        )
        assert len(match.source) == matched
    # east in units of its error, the extra one included
    sigma = match_non_blind(
        [10.0], [0.0], c, [10.0 + 2 / 3600], [0.0], 1e-6, NonBlindConfig(max_radius=5)
    ).sigma
    assert_allclose(sigma, 2.0 / np.sqrt(1.0 + 0.02**2), rtol=1e-6)


def test_nothing_in_nothing_out():
    """Empty lists and rows that are not finite."""
    for n, m in ((0, 5), (5, 0), (0, 0)):
        match = match_non_blind(np.zeros(n), np.zeros(n), 1.0, np.zeros(m), np.zeros(m), 1.0)
        assert len(match.source) == len(match.ambiguous) == 0
    match = match_non_blind([np.nan, 1.0], [0.0, 0.0], 1e-4, [1.0, 1.0], [np.nan, 0.0], 1e-4)
    assert match.source.tolist() == [1]
    assert match.reference.tolist() == [1]
    bad = np.full((1, 2, 2), np.nan)
    assert len(match_non_blind([1.0], [0.0], bad, [1.0], [0.0], 1e-4).source) == 0
