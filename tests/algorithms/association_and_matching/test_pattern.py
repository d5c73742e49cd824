"""The search for a similarity: its kernels against plain twins, its chances against what happens by chance."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from skyquilt.algorithms.association_and_matching.pattern import (
    Limits,
    candidate_rotations,
    find_similarity,
    log10_tail,
)
from skyquilt.algorithms.association_and_matching.votes import count_pairs, vote_for_shifts


def plain_votes(x, y, u, v, factor, shift, cell):
    """Votes in every square of 2 x 2 cells, by definition."""
    t = (u + 1j * v) - factor * (x + 1j * y)
    t = t[np.abs(t) <= shift]
    i, j = ((t.real + shift) / cell).astype(int) + 1, ((t.imag + shift) / cell).astype(int) + 1
    n = int(np.ceil(2 * shift / cell)) + 4
    cells = np.zeros((n, n), int)
    np.add.at(cells, (j, i), 1)
    return cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]


def test_votes_equal_the_plain_twin():
    """The largest number of votes, a square that has it, and a work space that is zero again."""
    rng = np.random.default_rng(3)
    x, y, u, v = rng.uniform(-100, 100, (4, 4000))
    factors = np.exp(1j * rng.uniform(-0.1, 0.1, 5)) * rng.uniform(0.98, 1.02, 5)
    shift, cell = 30.0, 4.0
    counts, best = np.zeros((19, 19), np.int32), np.zeros((5, 3))
    vote_for_shifts(x, y, u, v, factors.real.copy(), factors.imag.copy(), shift, cell, counts, best)
    assert not counts.any()
    for factor, (votes, tx, ty) in zip(factors, best):
        squares = plain_votes(x, y, u, v, factor, shift, cell)
        assert votes == squares.max()
        assert squares[round((ty + shift) / cell), round((tx + shift) / cell)] == votes


def test_pairs_equal_the_plain_twin():
    """Every ordered pair, by logarithm of distance and direction; opposite directions half the columns apart."""
    rng = np.random.default_rng(4)
    x, y = rng.uniform(0, 100, (2, 60))
    low, step = np.log(5.0), 0.05
    histogram = np.zeros((40, 72))
    count_pairs(x, y, low, step, histogram)
    i, j = np.tril_indices(60, -1)
    distance = np.hypot(x[j] - x[i], y[j] - y[i])
    row = np.floor((np.log(distance) - low) / step).astype(int)
    column = np.floor(np.degrees(np.arctan2(y[j] - y[i], x[j] - x[i])) / 5).astype(int)
    expected = np.zeros_like(histogram)
    inside = (row >= 0) & (row < 40)
    for turn in (0, 36):
        np.add.at(expected, (row[inside], (column[inside] + turn) % 72), 1)
    assert_array_equal(histogram, expected)


def test_tails_are_those_of_poisson_and_negative_binomial():
    """Against scipy where it can represent them, and finite far beyond."""
    for count, mean in ((3, 0.5), (12, 4.0), (60, 10.0)):
        assert_allclose(log10_tail(count, mean, mean), np.log10(stats.poisson.sf(count - 1, mean)), rtol=1e-9)
        n, p = mean**2 / mean, 0.5
        assert_allclose(
            log10_tail(count, mean, 2 * mean), np.log10(stats.nbinom.sf(count - 1, n, p)), rtol=1e-9
        )
    assert log10_tail(0, 1.0, 1.0) == 0
    assert -5000 < log10_tail(900, 0.1, 0.1) < -290


def test_chance_of_unrelated_lists_is_what_it_says():
    """Of 300 pairs of unrelated lists a chance of 10^-2 is undershot in few: at most 3 expected, 10 at 4 sigma."""
    limits = Limits(40.0, 0.01, 0.01, 2.0)
    below = 0
    for seed in range(300):
        rng = np.random.default_rng([5, seed])
        first, second = rng.uniform(-300, 300, (60, 2)), rng.uniform(-340, 340, (150, 2))
        found = find_similarity(first, second, limits)
        below += found is not None and found.log10_chance < -2
    assert below <= 10


def test_chance_of_clumpy_lists_is_not_underestimated():
    """Clusters of sources over clusters of stars agree by chance more often: that is seen, and nothing is accepted."""
    limits = Limits(40.0, 0.01, 0.01, 2.0)
    worst = 0.0
    for seed in range(60):
        rng = np.random.default_rng([6, seed])
        one, two = rng.uniform(-300, 300, (6, 2)), rng.uniform(-300, 300, (6, 2))
        first = (one[:, None] + rng.normal(0, 6, (6, 15, 2))).reshape(-1, 2)
        second = (two[:, None] + rng.normal(0, 6, (6, 40, 2))).reshape(-1, 2)
        found = find_similarity(first, second, limits)
        if found is not None:
            worst = min(worst, found.log10_chance)
    assert worst > -6


@pytest.mark.parametrize("angle", [0.0, 77.3, 200.0, 359.9])
def test_rotations_are_found_among_unrelated_stars(angle):
    """With half of both lists in common the true rotation is the best or opposite to it, to two bins."""
    rng = np.random.default_rng(7)
    common = rng.uniform(-300, 300, (60, 2))
    a = np.radians(angle)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    first = np.concatenate([common, rng.uniform(-300, 300, (60, 2))])
    second = np.concatenate([common, rng.uniform(-300, 300, (60, 2))]) @ turn.T * 1.004 + [200.0, -90.0]
    votes = candidate_rotations(first, second, 0.02, 2)
    differences = [(np.degrees(found) - angle + 90) % 180 - 90 for _, found, _ in votes]
    assert np.abs(differences).max() < 1.0
    assert all(abs(scale - 1.004) < 0.01 for _, _, scale in votes)


def test_few_or_empty_lists_give_nothing():
    """No pair, no solution."""
    limits = Limits(40.0, 0.01, 0.01, 2.0)
    for n in (0, 3):
        assert find_similarity(np.zeros((n, 2)), np.zeros((10, 2)), limits) is None
    # all at one place: one match
    assert find_similarity(np.zeros((10, 2)), np.zeros((10, 2)), limits) is None
