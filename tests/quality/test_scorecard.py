"""Scorecard: verdicts, and rows that find the faults of toy surveys."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyquilt.primitives.schemas import SOURCE, SOURCE_TRUTH, VISIT_DETECTOR
from skyquilt.quality.metrics import Estimate
from skyquilt.quality.scorecard import (
    SOURCE_COLUMNS,
    ScorecardConfig,
    detector_sizes,
    format_scorecard,
    format_value,
    make_scorecard,
    verdict,
)

CONFIG = ScorecardConfig(resamples=60, pull_objects=200)
PRODUCTION_KEYS = {
    "topic", "name", "stage", "unit", "value", "standard_error", "tail", "expected", "n", "n_objects", "band",
    "bin", "bound", "lower", "upper", "bound_source", "verdict", "note",
}  # fmt: skip


def card_of(survey, config=CONFIG):
    return make_scorecard(survey.sources, survey.truth, survey.visit_detectors, config)


def row(card, name, bin=None):
    (found,) = [r for r in card["rows"] if r["name"] == name and (bin is None or r["bin"] == bin)]
    return found


@pytest.mark.parametrize("simulated", [True, False])
def test_source_columns_are_enough(make_survey, simulated):
    """With and without truth a scorecard is the same from SOURCE_COLUMNS as from the whole table."""
    survey = make_survey(n_visits=2, n_stars=80)
    config, truth = ScorecardConfig(resamples=20), survey.truth if simulated else {}
    whole = make_scorecard(survey.sources, truth, survey.visit_detectors, config)
    few = survey.sources[list(SOURCE_COLUMNS)]
    assert make_scorecard(few, truth, survey.visit_detectors, config) == whole
    # taken into account where a table has them: to be read as soon as ours does
    assert {"sky_source", "calib_photometry_reserved"} & set(SOURCE.names) <= set(SOURCE_COLUMNS)


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.0, 4.9, "pass"),
        (5.0, 2.4, "pass"),
        (5.0, 2.6, "undecided"),
        (12.0, 1.1, "undecided"),
        (12.1, 1.0, "fail"),
        (-15.0, 2.0, "fail"),
        (0.0, 6.0, "undecided"),
        (math.nan, 1.0, "undecided"),
        (0.0, math.nan, "undecided"),
    ],
)
def test_verdict_takes_all_of_two_errors(value, error, expected):
    """Within +-10: pass when all of value +- 2 errors is inside, fail when all is outside, else undecided."""
    assert verdict(Estimate(value, error, 99, 99), -10.0, 10.0) == expected


@given(st.floats(-30, 30), st.floats(0, 20), st.floats(-10, 10), st.floats(0, 10))
def test_verdict_of_a_larger_run_only_decides(value, error, middle, half):
    """A smaller error around the same value never turns a pass into a fail or back."""
    lower, upper = middle - half, middle + half
    before = verdict(Estimate(value, error, 99, 99), lower, upper)
    after = verdict(Estimate(value, error / 2, 99, 99), lower, upper)
    assert before in (after, "undecided")


def test_few_objects_decide_nothing():
    """Below the least number of objects a row is undecided; without a bound it informs."""
    estimate = Estimate(0.0, 0.1, 900, 9)
    assert verdict(estimate, None, 1.0, least_objects=10) == "undecided"
    assert verdict(estimate, None, None, least_objects=10) == "info"


def test_a_good_survey_passes(make_survey):
    """Unbiased measurements with true errors pass every bound, and pulls have unit width within 4 errors."""
    card = card_of(make_survey(seed=4))
    bounded = [r for r in card["rows"] if r["bound"] and r["name"] != "repeatability"]
    assert len(bounded) == 4
    assert {r["verdict"] for r in bounded} == {"pass"}
    assert row(card, "repeatability")["verdict"] != "fail"
    pulls = [r for r in card["rows"] if r["topic"] == "quoted errors"]
    assert {r["name"].split()[2].strip(",") for r in pulls} == {"x", "y", "ra", "dec", "calibFlux"}
    for r in pulls:
        assert abs(r["value"] - 1) < 4.5 * r["standard_error"]
        assert r["n_objects"] >= 200
        # P(|N| > 5) is 6e-7
        assert r["tail"] == 0


def test_completeness_is_the_perfect_detectors(make_survey):
    """Sources found when their noisy S/N exceeds the threshold: each bin is complete to the perfect value."""
    card = card_of(make_survey(seed=5, n_visits=6))
    bins = [r for r in card["rows"] if r["name"] == "completeness, isolated stars"]
    assert len(bins) >= 10
    for r in bins:
        assert abs(r["value"] - r["expected"]) < 4 * r["standard_error"]


def test_faults_are_found(make_survey):
    """Biases beyond the bounds fail, errors quoted half too small give pulls of two, scatter is measured."""
    survey = make_survey(
        seed=6, n_visits=6, position_bias_mas=(40.0, -5.0), flux_bias=0.03, quoted=0.5, scatter_mmag=30.0
    )
    card = card_of(survey)
    ra, dec = (row(card, f"position bias {axis}, clean stars") for axis in ("ra", "dec"))
    assert ra["verdict"] == "fail"
    assert abs(ra["value"] - 40) < 4 * ra["standard_error"]
    assert dec["verdict"] == "pass"
    flux = row(card, "flux bias, clean stars")
    assert flux["verdict"] == "fail"
    assert abs(flux["value"] - 0.03) < 4 * flux["standard_error"]
    for axis in ("x", "y"):
        for r in card["rows"]:
            if r["name"] == f"pull width {axis}, clean & isolated":
                assert abs(r["value"] - 2) < 4.5 * r["standard_error"]
    again = row(card, "repeatability")
    assert again["verdict"] == "fail"
    # errors quoted half too small leave the photons' other three quarters of variance (at most 9.4 mmag)
    assert (
        30 - 4 * again["standard_error"] < again["value"] < math.hypot(30, 9.4) + 4 * again["standard_error"]
    )


def test_false_sources_lower_purity_and_count_per_megapixel(make_survey):
    """20 false sources on each detector are found as such: purity, and 20 per area inside the margins."""
    survey = make_survey(seed=7, false_per_unit=20)
    card = card_of(survey)
    rate = row(card, "false sources")
    megapixels = (1000 - 32) * (800 - 32) / 1e6
    assert rate["value"] == pytest.approx(20 / megapixels, rel=1e-9)
    assert rate["n"] == 20 * 8
    assert rate["standard_error"] >= math.sqrt(160) / (8 * megapixels)
    inside = survey.sources.query("16 <= x + 0.5 and x <= 983.5 and 16 <= y + 0.5 and y <= 783.5")
    assert row(card, "purity", "sparse")["value"] == pytest.approx(1 - 160 / len(inside))


def test_failed_detectors_are_counted_and_their_truth_is_not(make_survey):
    """A failed detector is a row of its own; its stars do not lower the completeness of the others."""
    survey = make_survey(seed=8)
    bad = (survey.visit_detectors["visit"] == 100) & (survey.visit_detectors["detector"] == 1)
    survey.visit_detectors.loc[bad, "status"] = "failed"
    survey.visit_detectors.loc[bad, ["pixelScale", "zeroPoint", "seeing", "magLim"]] = np.nan
    lost = (survey.sources["visit"] == 100) & (survey.sources["detector"] == 1)
    survey.sources = survey.sources[~lost].reset_index(drop=True)
    card = card_of(survey)
    assert row(card, "detectors that failed")["value"] == 1 / 8
    assert row(card, "completeness, isolated stars", ">10")["verdict"] == "pass"


def test_blends_and_sky_sources_do_not_count(make_survey):
    """Rows that are not primary change nothing."""
    survey = make_survey(seed=9, n_visits=2, n_stars=100)
    card = card_of(survey)
    parents = survey.sources.assign(detect_isPrimary=False, x=survey.sources["x"] + 3)
    survey.sources = SOURCE.concat([survey.sources, parents])
    assert card_of(survey) == card


def test_real_skies_have_the_rows_that_need_no_truth(make_survey):
    """Without truth: what was produced, its quality, and repeatability of stars found by position."""
    survey = make_survey(seed=10, n_visits=6, scatter_mmag=30.0)
    card = make_scorecard(survey.sources, {}, survey.visit_detectors, CONFIG)
    assert not card["truth"]
    assert {r["topic"] for r in card["rows"]} == {"production", "image quality", "photometry"}
    again = row(card, "repeatability")
    assert abs(again["value"] - 30) < 4 * again["standard_error"]
    assert row(card, "depth (5 sigma), median")["value"] == 24.0


def test_withheld_stars_are_preferred(make_survey):
    """When stars were kept out of the zero point's fit, repeatability is theirs alone."""
    survey = make_survey(seed=11)
    reserved = (survey.sources["sourceId"] % 2 == 0).to_numpy()
    survey.sources["calib_photometry_reserved"] = reserved
    some = row(card_of(survey), "repeatability")
    assert some["note"] == "stars withheld from the fit"
    everyone = row(card_of(make_survey(seed=11)), "repeatability")
    assert 0.3 < some["n"] / everyone["n"] < 0.7


def test_empty_tables_make_a_card(make_survey):
    """A survey in which nothing was found, or nothing processed, has a scorecard without figures."""
    survey = make_survey(n_visits=1, n_detectors=1, n_stars=30)
    nothing = make_scorecard(SOURCE.empty(), survey.truth, survey.visit_detectors, CONFIG)
    assert row(nothing, "completeness, isolated stars", ">10")["verdict"] == "fail"
    truth = {"source": SOURCE_TRUTH.empty()}
    card = make_scorecard(SOURCE.empty(), truth, VISIT_DETECTOR.empty(), CONFIG)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert "undecided" not in {r["verdict"] for r in card["rows"] if not r["bound"]}
    format_scorecard(card)


def test_card_is_json_and_the_same_again(make_survey):
    """The card survives JSON without NaN, has all keys in each row, and does not depend on the run."""
    survey = make_survey(seed=12, n_visits=2, n_stars=150)
    card = card_of(survey)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert all(set(r) == PRODUCTION_KEYS for r in card["rows"])
    assert card == card_of(survey)
    assert sum(card["counts"].values()) == len(card["rows"])


def test_table_fits_a_terminal(make_survey):
    """The printed table is under 120 columns and has a line for each row."""
    card = card_of(make_survey(seed=13, n_visits=2, n_stars=150))
    lines = format_scorecard(card).splitlines()
    assert max(map(len, lines)) < 120
    assert sum(line.startswith(("pass", "fail", "undecided", "info")) for line in lines) == len(card["rows"])


def test_values_show_two_digits_of_their_error():
    """Digits follow the error; counts are whole; nothing is a dash."""
    assert format_value(1.23456, 0.0312) == "1.235 ±0.031"
    assert format_value(123.4, 31.2) == "123 ±31"
    assert format_value(0.3, 0.0) == "0.3 ±0"
    assert format_value(12.0, None) == "12"
    assert format_value(None, None) == "-"


def test_size_of_detectors_comes_from_their_corners(make_survey):
    """Corners and scale give the size to a pixel; a detector without WCS has its size in other visits."""
    units = make_survey(n_visits=3, n_stars=10).visit_detectors
    assert detector_sizes(units) == pytest.approx(np.tile([1000, 800], (6, 1)), abs=1)
    units.loc[0, ["llcra", "llcdec", "pixelScale"]] = np.nan
    assert detector_sizes(units)[0] == pytest.approx([1000, 800], abs=1)


@pytest.mark.parametrize(
    "wrong", [{"match_radius": 0.0}, {"pull_edges": (5.0, 5.0)}, {"resamples": 1}, {"completeness_edges": ()}]
)
def test_wrong_options_are_refused(wrong):
    """Options that cannot be meant stop at once and say which."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScorecardConfig(**wrong)
