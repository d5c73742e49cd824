"""Semi-blind matching of simulated visits: what is solved, what is refused, and that order does not matter."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_visits import Sky, make_visit

from skyquilt.algorithms.association_and_matching.semi_blind import SemiBlindConfig, match_semi_blind
from skyquilt.primitives.failure import ProcessingFailure, Reason

NEAR = {"arcsec": 30.0, "angle": 40.0, "rotation": 0.3}
WIDE = {"arcsec": 300.0, "angle": 120.0, "rotation": 211.0}
MIRRORED = {**WIDE, "parity": -1}


def assert_solved(visit, guess, complete=0.9, true=0.97):
    """Nearly all true pairs, nearly no false ones, and the pointing found."""
    match = match_semi_blind(*visit.guess_arguments(visit.wrong(**guess)))
    right = (visit.star[match.source] == visit.reference[match.reference]) & (visit.star[match.source] >= 0)
    possible = np.isin(visit.star, visit.reference[visit.reference >= 0]) & (visit.star >= 0)
    assert right.sum() >= complete * possible.sum()
    assert right.mean() >= true
    assert len(np.unique(match.source)) == len(match.source) == len(np.unique(match.reference))
    assert np.all(np.diff(match.source) > 0)
    # detectors off by 3 pixels (0.6 arcsec), each: the pointing cannot be better than that
    north = 3600 * (match.pointing.dec - visit.pointing.dec)
    east = 3600 * (match.pointing.ra - visit.pointing.ra) * np.cos(np.radians(visit.pointing.dec))
    assert np.hypot(east, north) < 1.5
    assert match.pointing.parity == visit.pointing.parity
    turn = (match.pointing.rotation_deg - visit.pointing.rotation_deg + 180) % 360 - 180
    assert abs(np.radians(turn)) * visit.focal_plane.field_radius() < 1.5
    assert match.log10_chance < -6
    return match


SKIES = {
    "plain": Sky(),
    "other side": Sky(parity=-1, rotation=250.0, dec=-70.0, seed=2),
    "pole": Sky(dec=89.95, seed=3),
    "scale 1 per cent": Sky(scale_error=0.01, seed=4),
    "twenty reference stars": Sky(reference_limit=17.3, seed=1),
    "shallow sources, deep reference": Sky(n_star=300, reference_limit=23.0, reference_extra=30000, seed=5),
    "crowded reference": Sky(rows=5, columns=5, n_star=1000, reference_extra=100000, seed=6),
    "deep sources, shallow reference": Sky(rows=4, columns=4, n_star=20000, reference_limit=16.9, seed=7),
    "spurious and blends": Sky(n_star=3000, spurious=0.43, blends=0.3, seed=8),
    "dead detectors": Sky(dead=(14, 20, 22), seed=9),
    "one detector": Sky(rows=1, columns=1, n_star=80, seed=10),
}


@pytest.mark.parametrize("name", SKIES)
def test_wrong_pointings_are_solved(name):
    """By 30 arcsec and 0.3 deg; by 5 arcmin with any rotation and the other parity."""
    visit = make_visit(SKIES[name])
    assert_solved(visit, NEAR)
    assert_solved(visit, MIRRORED)


def test_a_wrong_rotation_alone_is_solved():
    """Any rotation, the right parity."""
    visit = make_visit(Sky(seed=16))
    for rotation in (90.0, 180.0, 271.3):
        assert_solved(visit, {**WIDE, "rotation": rotation})


@pytest.mark.parametrize("seed", range(2))
def test_a_degree_off_is_refused(seed):
    """No solution within the limits exists: none is given, with a reason."""
    visit = make_visit(Sky(seed=seed))
    far = make_visit(Sky(seed=seed + 100))
    other = dataclasses.replace(
        visit,
        reference_ra=far.reference_ra,
        reference_dec=far.reference_dec,
        reference_flux=far.reference_flux,
    )
    with pytest.raises(ProcessingFailure) as failure:
        match_semi_blind(*other.guess_arguments(visit.pointing))
    assert failure.value.reason == Reason.NO_MATCH
    # the right reference, but nothing of it where the telescope is said to point
    with pytest.raises(ProcessingFailure) as failure:
        match_semi_blind(*visit.guess_arguments(visit.wrong(arcsec=3600)))
    assert failure.value.reason == Reason.NO_REFERENCE


def test_a_degree_off_in_a_large_field_is_refused():
    """The true stars lie in the field, beyond the largest shift: they are not taken."""
    visit = make_visit(Sky(rows=12, columns=12, n_star=3000, seed=11))
    with pytest.raises(ProcessingFailure) as failure:
        match_semi_blind(*visit.guess_arguments(visit.wrong(arcsec=3600.0, angle=10.0)))
    assert failure.value.reason == Reason.NO_MATCH


def test_order_and_repetition_change_nothing():
    """The same pairs and the same bits of the pointing from sources and stars in any order."""
    visit = make_visit(Sky(n_star=1500, spurious=0.3, seed=12))
    guess = visit.wrong(**WIDE)
    first = match_semi_blind(*visit.guess_arguments(guess))
    rng = np.random.default_rng(1)
    s, r = rng.permutation(len(visit.x)), rng.permutation(len(visit.reference_ra))
    given = list(visit.guess_arguments(guess))
    given[:4] = [each[s] for each in given[:4]]
    given[4:7] = [each[r] for each in given[4:7]]
    second = match_semi_blind(*given)
    assert second.pointing == first.pointing
    assert second.log10_chance == first.log10_chance
    pairs = sorted(zip(s[second.source].tolist(), r[second.reference].tolist()))
    assert pairs == list(zip(first.source.tolist(), first.reference.tolist()))


def test_unusable_rows_match_nothing():
    """NaN positions, unknown detectors and NaN fluxes do no harm."""
    visit = make_visit(Sky(seed=13))
    n = len(visit.x)
    bad = np.arange(n) % 5
    visit.x[bad == 0] = np.nan
    visit.detector[bad == 1] = 999
    visit.flux[bad == 2] = np.nan
    visit.reference_ra[::7] = np.nan
    match = match_semi_blind(*visit.guess_arguments(visit.wrong(**NEAR)))
    assert not np.isin(bad[match.source], (0, 1)).any()
    assert len(match.source) > 0.3 * 0.9 * np.isin(visit.star, visit.reference).sum()
    assert np.isfinite(visit.reference_ra[match.reference]).all()


def test_fluxes_that_say_nothing_are_survived():
    """Without any flux the deeper lists are tried."""
    visit = make_visit(Sky(n_star=600, seed=14))
    visit.flux[:] = np.nan
    visit.reference_flux[:] = np.nan
    assert_solved(visit, NEAR)


def test_too_little_is_refused_with_its_reason():
    """No sources, no reference stars, nothing in common."""
    visit = make_visit(Sky(n_star=50, seed=15))
    given = list(visit.guess_arguments(visit.pointing))
    for columns, reason in (((0, 1, 2, 3), Reason.NO_SOURCES), ((4, 5, 6), Reason.NO_REFERENCE)):
        for n in (0, 3):
            cut = [each[:n] if k in columns else each for k, each in enumerate(given)]
            with pytest.raises(ProcessingFailure) as failure:
                match_semi_blind(*cut)
            assert failure.value.reason == reason
    same_place = [np.full_like(each, 100.0) if k in (1, 2) else each for k, each in enumerate(given)]
    with pytest.raises(ProcessingFailure) as failure:
        match_semi_blind(*same_place)
    assert failure.value.reason == Reason.NO_MATCH


def test_bad_options_are_errors():
    """Limits that make no sense."""
    for wrong in ({"near_shift": 0.0}, {"scale": 0.5}, {"max_chance": 0.0}, {"wide_shift": 5000.0}):
        with pytest.raises(ValueError):
            SemiBlindConfig(**wrong)
