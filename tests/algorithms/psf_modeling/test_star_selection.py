"""Selection of PSF stars: the locus, the spread, the reference, the reserve."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skyquilt.algorithms.psf_modeling.star_selection import (
    GALAXY,
    STAR,
    UNKNOWN,
    StarSelectionConfig,
    reserved_by_place,
    select_stars,
)
from skyquilt.primitives.geometry import Box

BOX = Box(0, 0, 2000, 2000)


def field(rng, stars=200, galaxies=200, hits=30, slope=0.04):
    """Places, sizes and S/N of stars (their size varies over the detector), galaxies and hits; truth."""
    n = stars + galaxies + hits
    x, y = rng.uniform(0, 2000, (2, n))
    kind = np.repeat([STAR, GALAXY, UNKNOWN], [stars, galaxies, hits])
    snr = np.exp(rng.uniform(np.log(30), np.log(1000), n))
    size = 2.0 * np.exp(slope * (x - 1000) / 1000)
    size[kind == GALAXY] *= rng.uniform(1.15, 4, galaxies)
    size[kind == UNKNOWN] = rng.uniform(0.5, 1.2, hits)
    return x, y, size * np.exp(rng.normal(size=n) / snr), snr, kind


@pytest.mark.parametrize("seed", range(3))
def test_stars_are_the_locus(seed):
    """Nearly all stars and nearly nothing else, without a reference. Of stars 6e-5 are beyond 4 sigma; sizes of
    galaxies are drawn 15 % and more above, where 4 sigma of the faintest are 13 %."""
    x, y, size, snr, kind = field(np.random.default_rng(seed))
    found = select_stars(BOX, x, y, size, snr, np.ones(x.size, bool), StarSelectionConfig()).selected
    assert found[kind == STAR].mean() > 0.97
    assert found[kind != STAR].sum() <= 4


def test_the_reference_wins(rng):
    """Where compact galaxies outnumber stars, reference stars say where the locus is; its galaxies are out."""
    x, y, size, snr, kind = field(rng, stars=30, galaxies=300, slope=0)
    size[kind == GALAXY] = 2.6 * np.exp(rng.normal(size=300) / snr[kind == GALAXY])
    clean = np.ones(x.size, bool)
    config = StarSelectionConfig()
    assert select_stars(BOX, x, y, size, snr, clean, config).selected[kind == GALAXY].any()
    known = np.where(kind == STAR, STAR, UNKNOWN)
    found = select_stars(BOX, x, y, size, snr, clean, config, known).selected
    assert found[kind == STAR].mean() > 0.9
    assert not found[kind == GALAXY].any()
    labelled = select_stars(BOX, x, y, size, snr, clean, config, np.where(kind == GALAXY, GALAXY, UNKNOWN))
    assert not labelled.selected[kind == GALAXY].any()


def test_stars_are_spread_over_the_detector(rng):
    """With nine tenths of 600 stars in one corner, all occupied cells have stars among the 100 selected."""
    x, y = rng.uniform(0, 2000, (2, 600))
    x[:540] *= 0.25
    y[:540] *= 0.25
    snr = np.full(600, 200.0)
    size = 2 * np.exp(rng.normal(size=600) / 200)
    config = StarSelectionConfig(max_stars=100, cell=500)
    found = select_stars(BOX, x, y, size, snr, np.ones(600, bool), config).selected
    assert found.sum() == 100
    cells = set(zip(x // 500, y // 500))
    assert set(zip(x[found] // 500, y[found] // 500)) == cells
    counts = [np.sum((x[found] // 500 == a) & (y[found] // 500 == b)) for a, b in cells]
    assert max(counts) > 30
    assert sum(counts) == 100


def test_unclean_faint_and_unknown_are_never_selected(rng):
    """Flags, NaN sizes, low S/N; nothing at all is no trouble."""
    x, y, size, snr, _ = field(rng, galaxies=0, hits=0)
    clean = rng.random(x.size) > 0.3
    size[:20] = np.nan
    snr[20:40] = 10.0
    snr[40], x[41] = np.nan, np.nan
    found = select_stars(BOX, x, y, size, snr, clean, StarSelectionConfig())
    assert not found.selected[~clean].any()
    assert not found.selected[:42].any()
    assert not (found.reserved & ~found.selected).any()
    for few in (slice(0, 0), slice(100, 103)):
        rows = [c[few] for c in (x, y, size, snr)]
        assert not select_stars(BOX, *rows, clean[few], StarSelectionConfig()).selected.any()


def test_rows_in_any_order_select_the_same(rng):
    """Selection and reserve belong to the source, not to its row; the share is met; seeds differ."""
    x, y, size, snr, _ = field(rng)
    order = rng.permutation(x.size)
    clean = np.ones(x.size, bool)
    config = StarSelectionConfig(max_stars=80, reserved_share=0.2)
    one = select_stars(BOX, x, y, size, snr, clean, config)
    other = select_stars(BOX, *(c[order] for c in (x, y, size, snr)), clean, config)
    assert_array_equal(one.selected[order], other.selected)
    assert_array_equal(one.reserved[order], other.reserved)
    assert one.reserved.sum() == 16
    assert (reserved_by_place(x, y, 0.2, 1) != reserved_by_place(x, y, 0.2, 2)).any()
