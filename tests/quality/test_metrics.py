"""Metrics: matching, comparisons with truth and their errors, on skies that are known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from skyquilt.primitives.statistics import mad_width, median
from skyquilt.quality import metrics
from skyquilt.quality.metrics import Bootstrap

BOOTSTRAP = Bootstrap(resamples=200, most_objects=5000, seed=3)


def brute_match(x, y, tx, ty, brightness, radius):
    """Plain double loop: brightest object first, its nearest free source."""
    matched = np.full(len(x), -1)
    for t in sorted(range(len(tx)), key=lambda i: (-brightness[i], i)):
        best, nearest = None, radius
        for s in range(len(x)):
            distance = math.hypot(x[s] - tx[t], y[s] - ty[t])
            if matched[s] < 0 and (distance < nearest or (best is None and distance <= radius)):
                best, nearest = s, distance
        if best is not None:
            matched[best] = t
    return matched


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 25), st.integers(0, 25))
def test_match_is_the_greedy_double_loop(seed, n, m):
    """The match equals the plain loop over objects by brightness, also in a crowd."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 8, (2, n))
    tx, ty = rng.uniform(0, 8, (2, m))
    brightness = rng.integers(0, 4, m).astype(float)
    found = metrics.match_one_to_one(x, y, tx, ty, brightness, 2.0)
    assert_array_equal(found, brute_match(x, y, tx, ty, brightness, 2.0))
    taken = found[found >= 0]
    assert len(set(taken)) == len(taken)


def test_brightest_takes_the_source_between_two():
    """A source between two objects belongs to the brighter one even when the fainter one is nearer."""
    x, y = np.array([1.0]), np.array([0.0])
    bright_and_faint = np.array([0.0, 1.5]), np.array([0.0, 0.0]), np.array([9.0, 5.0])
    match = metrics.match_one_to_one(x, y, *bright_and_faint, 2.0)
    assert match.tolist() == [0]


def test_sources_match_within_their_visit_detector_only():
    """The same pixel of another visit or detector is no match, and unknown centroids match nothing."""
    sources = pd.DataFrame(
        {"visit": [2, 1, 1, 1], "detector": [0, 1, 0, 0], "x": [5.0, 5, 5, np.nan], "y": [5.0, 5, 5, 5]}
    )
    truth = pd.DataFrame({"visit": [3, 1], "detector": [0, 0], "x": [5.0, 5.5], "y": [5.0, 5.0]})
    truth["electrons"] = 1.0
    assert metrics.match_sources(sources, truth, 2.0).tolist() == [-1, -1, 1, -1]
    assert metrics.nearest_truth(sources, truth, 2.0).tolist() == [-1, -1, 1, -1]


def test_units_of_an_empty_table_are_none():
    """No rows are no units."""
    empty = pd.DataFrame({"visit": np.zeros(0, int), "detector": np.zeros(0, int)})
    assert metrics.unit_rows(empty) == {}


def test_two_sources_of_one_object_are_not_false():
    """Of a source seen twice one is unmatched, but neither is without an object."""
    two = pd.DataFrame({"visit": 1, "detector": 0, "x": [5.0, 6.0], "y": [5.0, 5.0]})
    one = pd.DataFrame({"visit": [1], "detector": [0], "x": [5.2], "y": [5.0], "electrons": [1.0]})
    assert metrics.match_sources(two, one, 2.0).tolist() == [0, -1]
    assert metrics.nearest_truth(two, one, 2.0).tolist() == [0, 0]


def test_perfect_completeness_is_the_normal_distribution():
    """Half of the point sources at the threshold are found, 84 % one sigma above."""
    assert_allclose(metrics.perfect_completeness([5.0, 6.0, 3.0], 5.0), norm.cdf([0, 1, -2]))


def test_position_residuals_are_angles_across_zero_hours():
    """10 mas along each axis are 10 mas at high declination and across ra = 0."""
    dec = np.array([80.0, -60.0])
    ra = np.array([0.0, 359.9999999999])
    shift = 10 / 3.6e6
    d_ra, d_dec = metrics.position_residuals(
        (ra - shift / np.cos(np.radians(dec))) % 360, dec + shift, ra, dec
    )
    # doubles hold ra to 360 * 2^-53 degrees: 1.5e-7 mas
    assert_allclose(d_ra, -10, atol=1e-5)
    assert_allclose(d_dec, 10, atol=1e-5)


@pytest.mark.parametrize(("statistic", "expected"), [(median, math.sqrt(math.pi / 2)), (mad_width, 1.167)])
def test_bootstrap_error_is_the_scatter_of_the_statistic(rng, statistic, expected):
    """For 4000 unit normals the errors are those of theory: sqrt(pi/2/n) of the median, 1.167/sqrt(n) of the
    MAD width."""
    values = rng.normal(size=4000)
    found = metrics.estimate(statistic, np.arange(4000), [values], rng, BOOTSTRAP)
    # 200 resamples give the error to 5 %; quantile bootstraps of 4000 add some; allow 4
    assert_allclose(found.standard_error, expected / math.sqrt(4000), rtol=0.25)
    assert (found.n, found.n_objects) == (4000, 4000)


def test_measurements_of_an_object_are_drawn_together(rng):
    """Nine copies of each object do not make the error smaller."""
    objects = np.repeat(np.arange(500), 9)
    values = np.repeat(rng.normal(size=500), 9)
    found = metrics.estimate(np.mean, objects, [values], rng, BOOTSTRAP)
    assert_allclose(found.standard_error, 1 / math.sqrt(500), rtol=0.25)
    assert found.n_objects == 500
    ratio = metrics.estimate_ratio(values, np.ones(values.size), objects, rng, BOOTSTRAP)
    assert_allclose(ratio.standard_error, 1 / math.sqrt(500), rtol=0.25)


def test_a_subset_of_objects_gives_the_error_of_all(rng):
    """With more objects than are drawn the error is still that of all of them."""
    few = Bootstrap(resamples=200, most_objects=400, seed=0)
    values = rng.normal(size=10_000)
    for found in (
        metrics.estimate(np.mean, np.arange(10_000), [values], rng, few),
        metrics.estimate_ratio(values, np.ones(10_000), np.arange(10_000), rng, few),
    ):
        # 5 % of 200 resamples and 3.5 % of 400 values; allow 4
        assert_allclose(found.standard_error, 0.01, rtol=0.25)


def test_bootstrap_depends_on_the_row_name_only():
    """The same row has the same random numbers; another row has others."""
    one, again, other = (BOOTSTRAP.rng(name).random(3) for name in ("a", "a", "b"))
    assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_quoted_error_of_a_fraction_covers_it():
    """In 200 samples of 60 at 90 %, the interval of two errors holds the truth about 95 % of the time."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = metrics.estimate_fraction(rng.random(60) < 0.9, np.arange(60), rng, BOOTSTRAP)
        hits += abs(found.value - 0.9) < 2 * found.standard_error
    # binomial scatter of 200 trials at 95 % is 3; allow 4 of them
    assert hits > 0.95 * 200 - 4 * math.sqrt(200 * 0.95 * 0.05)


def test_all_or_none_still_have_an_error(rng):
    """Twenty of twenty do not show a completeness of 1, nor no event in 2 Mpix a rate of 0."""
    full = metrics.estimate_fraction(np.ones(20), np.arange(20), rng, BOOTSTRAP)
    p = 22 / 24
    assert (full.value, full.standard_error) == (1.0, pytest.approx(math.sqrt(p * (1 - p) / 24)))
    none = metrics.estimate_rate(np.zeros(4), np.full(4, 0.5), rng, BOOTSTRAP)
    assert (none.value, none.standard_error) == (0.0, 0.5)


def test_nothing_gives_no_figure(rng):
    """Without objects the figures are NaN, not an error; of one object there is no standard error."""
    none = np.zeros(0)
    for found in (
        metrics.estimate(median, none, [none], rng, BOOTSTRAP),
        metrics.estimate_fraction(none, none, rng, BOOTSTRAP),
        metrics.estimate_rate(none, none, rng, BOOTSTRAP),
    ):
        assert math.isnan(found.value)
        assert found.n == 0
    assert math.isnan(metrics.estimate(median, np.zeros(3), [np.arange(3)], rng, BOOTSTRAP).standard_error)


def test_values_that_are_not_finite_do_not_count(rng):
    """A NaN flux neither spoils the median nor is counted."""
    found = metrics.estimate(median, np.arange(4), [np.array([1.0, np.nan, 3.0, np.inf])], rng, BOOTSTRAP)
    assert (found.value, found.n) == (2.0, 2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=0, max_size=150),
    st.integers(1, 40),
)
def test_merged_bins_hold_every_row_once_and_enough_objects(objects, least):
    """Merged bins part the rows that lie above the first edge, and each holds enough different objects."""
    objects = np.array(objects, dtype=int)
    values = np.random.default_rng(len(objects)).uniform(0, 120, objects.size)
    bins = metrics.merged_bins(values, objects, (10, 20, 50, 100), least)
    rows = np.sort(np.concatenate([np.zeros(0, int), *[b.rows for b in bins]]))
    assert_array_equal(rows, np.flatnonzero(values >= 10))
    for item in bins:
        assert ((values[item.rows] >= item.low) & (values[item.rows] < item.high)).all()
    if len(set(objects[values >= 10])) >= least:
        assert all(len(set(objects[b.rows])) >= least for b in bins)
    else:
        assert len(bins) <= 1


def test_bin_labels():
    """A bin says its edges; the last one is open."""
    labels = [b.label for b in metrics.bins_of(np.zeros(0), (2.5, 10, 50))]
    assert labels == ["2.5-10", "10-50", ">50"]


def test_crowded_is_a_star_per_fifteen_psf_areas():
    """A detector of 1500 PSF areas is crowded from 100 stars on."""
    area = 4 * math.pi * (4.0 / 2.354820045) ** 2
    found = metrics.crowded(np.array([99, 101]), np.full(2, 4.0), np.full(2, 1500 * area))
    assert found.tolist() == [False, True]


def test_groups_are_friends_of_friends_on_the_sphere():
    """Positions within the radius join, across ra = 0 and near the pole too."""
    step = 0.3 / 3600
    low, high = step / math.cos(math.radians(60)), step / math.cos(math.radians(89.9))
    ra = np.array([0.0, 360 - low, 10.0, 10 + high, 10.1])
    groups = metrics.group_by_position(ra, np.array([60.0, 60.0, 89.9, 89.9, 60.0]), 0.5)
    assert groups[0] == groups[1]
    assert groups[2] == groups[3]
    assert len(set(groups.tolist())) == 3
    assert metrics.group_by_position(np.zeros(0), np.zeros(0), 0.5).size == 0


@pytest.mark.parametrize("extra", [0.0, 5.0])
def test_excess_scatter_is_what_photons_do_not_explain(extra):
    """Of stars with errors of 1 to 10 mmag seen four times, the extra scatter comes out without bias."""
    rng = np.random.default_rng(8)
    n = 4000
    sigma = np.repeat(rng.uniform(1, 10, n), 4) * rng.uniform(0.7, 1.3, 4 * n)
    values = np.repeat(rng.normal(0, 500, n), 4) + np.hypot(sigma, extra) * rng.normal(size=4 * n)
    objects = np.repeat(np.arange(n), 4)
    deviation, variance = metrics.deviations_from_mean(values, sigma**2, objects)
    few = Bootstrap(40, 4000, 0)
    found = metrics.estimate(metrics.excess_scatter, objects, [deviation, variance], rng, few)
    if extra:
        # 40 resamples give the error to 11 %; allow 4 errors
        assert abs(found.value - extra) < 4.5 * found.standard_error
        assert found.standard_error < 0.2
    else:
        # the excess of a width of 1 +- 1.17 / sqrt(12000) is the root of twice that, in units of sigma
        assert abs(found.value) < math.sqrt(2 * 4 * 1.17 / math.sqrt(3 * n)) * median(sigma)


def test_stars_seen_once_have_no_deviation():
    """One measurement says nothing on repeatability; of two the deviations are opposite."""
    deviation, variance = metrics.deviations_from_mean(
        np.array([7.0, 1.0, 3.0]), np.array([1.0, 4.0, 4.0]), np.array([5, 9, 9])
    )
    assert_allclose(deviation, [np.nan, -math.sqrt(2), math.sqrt(2)])
    assert_allclose(variance, [np.nan, 4, 4])


def test_clean_sources_have_no_plane_in_the_core_and_half_a_well(make_survey):
    """A saturated core, a bad pixel or a peak above half of full well makes a source unclean."""
    sources = make_survey(n_visits=1, n_detectors=1, n_stars=20).sources.head(4).copy()
    sources.loc[1, "pixelFlags_saturatedCenter"] = True
    sources.loc[2, "pixelFlags_bad"] = True
    sources.loc[0, "pixelFlags_cr"] = True  # in the footprint, not in the core
    assert metrics.clean(sources, np.array([0.49, 0.1, 0.1, 0.5])).tolist() == [True, False, False, False]
