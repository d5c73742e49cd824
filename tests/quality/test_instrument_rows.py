"""Scorecard: rows about instrument signature and artifacts, from tables whose faults are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skyquilt.quality.scorecard import ScorecardConfig, format_scorecard, make_scorecard
from skyquilt.quality.scorecard.card import TOPICS, Card
from skyquilt.quality.scorecard.instrument_rows import instrument_rows

CONFIG = ScorecardConfig(resamples=80)


def rows_of(**tables):
    """Rows of the scorecard by (name, bin)."""
    card = Card(CONFIG)
    instrument_rows(card, {name: pd.DataFrame(columns) for name, columns in tables.items()})
    return {(row["name"], row["bin"]): row for row in card.rows}


def frames(n=16, **columns):
    """Columns with visit, snap and detector of `n` frames in front: two snaps of each visit and detector."""
    k = np.arange(n)
    keys = {"visit": 100 + k // 4, "snap": k % 2, "detector": k // 2 % 2}
    return keys | {name: np.broadcast_to(value, n) for name, value in columns.items()}


def amplifiers(seed=1, n=64, gain=0.001, noise=0.01, bias=0.0):
    """Gains and read noises with relative errors as quoted, and a relative bias."""
    rng = np.random.default_rng(seed)
    g, r = rng.uniform(1, 2, n), rng.uniform(4, 8, n)
    return {
        "detector": np.arange(n) // 8,
        "amplifier": np.arange(n) % 8,
        "gain": g * (1 + bias + gain * rng.normal(size=n)),
        "gain_error": g * gain,
        "true_gain": g,
        "read_noise": r * (1 + noise * rng.normal(size=n)),
        "read_noise_error": r * noise,
        "true_read_noise": r,
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gain_and_read_noise(seed):
    """Rms errors are those put in, pulls of true errors have an rms of one, and both pass."""
    rows = rows_of(amplifiers=amplifiers(seed))
    gain, noise = (rows[f"{name}, rms error of amplifiers", ""] for name in ("gain", "read noise"))
    # rms of 64 values: 1 +- 1 / sqrt(128)
    assert abs(gain["value"] / 0.001 - 1) < 4 / np.sqrt(128)
    assert abs(noise["value"] / 0.01 - 1) < 4 / np.sqrt(128)
    assert (gain["verdict"], noise["verdict"]) == ("pass", "pass")
    for name in ("gain", "read noise"):
        assert abs(rows[f"pull rms of {name}", ""]["value"] - 1) < 4 / np.sqrt(128)


def test_wrong_gains_fail_and_unmeasured_ones_do_not_count():
    """A bias of 1 % fails; an amplifier without a measured gain is not among the N."""
    table = amplifiers(bias=0.01)
    table["gain"][0] = np.nan
    row = rows_of(amplifiers=table)["gain, rms error of amplifiers", ""]
    assert row["verdict"] == "fail"
    assert row["n"] == 63


def test_crosstalk_and_linearity():
    """Errors of pairs in 1e-5, a pair that was not measured counts with all of its crosstalk; rms of deviations."""
    n = 48
    rng = np.random.default_rng(5)
    true = rng.uniform(-5e-4, 5e-4, n)
    table = {"coefficient": true + 2e-6 * rng.normal(size=n), "error": np.full(n, 2e-6), "true": true}
    rows = rows_of(crosstalk=table)
    row = rows["crosstalk, rms error of pairs", ""]
    assert abs(row["value"] / 0.2 - 1) < 4 / np.sqrt(2 * n)
    assert row["verdict"] == "pass"
    assert abs(rows["pull rms of crosstalk", ""]["value"] - 1) < 4 / np.sqrt(2 * n)
    table["coefficient"][0], table["error"][0], table["true"][0] = 0.0, np.nan, 5e-4
    rows = rows_of(crosstalk=table)
    assert rows["crosstalk, rms error of pairs", ""]["value"] == pytest.approx(50 / np.sqrt(n), rel=0.01)
    assert rows["pull rms of crosstalk", ""]["n"] == n - 1

    table = {
        "detector": np.repeat(np.arange(12), 25),
        "amplifier": "A",
        "deviation": np.tile([3e-4, -3e-4], 150),
    }
    row = rows_of(linearity=table)["nonlinearity left, rms of 1-90 % of full well", ""]
    assert row["value"] == pytest.approx(3e-4)
    assert (row["n"], row["n_objects"], row["verdict"]) == (300, 12, "pass")
    table["deviation"] = 10 * table["deviation"]
    assert rows_of(linearity=table)["nonlinearity left, rms of 1-90 % of full well", ""]["verdict"] == "fail"


def level_table(n=48, lower=100.0, ratio=1.0, seed=1):
    """Sums of a bin in `n` frames with a scatter of 1e-4 in each visit and detector."""
    rng = np.random.default_rng(seed)
    expected = rng.uniform(1e6, 2e6, n)
    table = frames(n, lower=lower, expected=expected) | {"n": np.full(n, 10000)}
    scatter = np.repeat(rng.normal(0, 1e-4, n // 2), 2)
    return table | {"measured": expected * (ratio + scatter)}


def test_levels_off_by_a_percent():
    """The bin that is 1 % off fails, the true one passes, and the two snaps of a detector are one object."""
    good, bad = (pd.DataFrame(level_table(lower=low, ratio=r)) for low, r in ((100.0, 1.0), (1000.0, 1.01)))
    rows = rows_of(levels=pd.concat([good, bad], ignore_index=True))
    name = "electrons received against truth"
    assert rows[name, "100-"]["verdict"] == "pass"
    assert rows[name, "1000-"]["verdict"] == "fail"
    assert rows[name, "1000-"]["value"] == pytest.approx(0.01, abs=1e-4)
    assert rows[name, "100-"]["n_objects"] == 24
    assert rows[name, "100-"]["standard_error"] == pytest.approx(1e-4 / np.sqrt(24), rel=0.5)


def test_pulls_wide_by_a_tenth():
    """The median frame's width of 1.1 fails, 1.00 passes, and frames without a width do not count."""
    rng = np.random.default_rng(1)
    name = "pull width of empty pixels, median frame", ""
    width = 1 + 0.003 * rng.normal(size=48)
    width[0] = np.nan
    row = rows_of(sky=frames(48, width=width))[name]
    assert (row["verdict"], row["n"]) == ("pass", 47)
    assert rows_of(sky=frames(48, width=1.1 * width))[name]["verdict"] == "fail"


def test_fringes_left():
    """A tenth of the fringes left fails; frames without fringes have no row."""
    rng = np.random.default_rng(1)
    name = "fringes left, share of their height", ""
    left = 0.1 + 0.005 * rng.normal(size=48)
    assert rows_of(fringes=frames(48, residual=left))[name]["verdict"] == "fail"
    assert rows_of(fringes=frames(48, residual=left - 0.1))[name]["verdict"] == "pass"
    assert name not in rows_of(fringes=frames(48, residual=np.nan))


def star_table(share, n=400, slope=0.03, seed=1):
    """Sizes that grow by `slope` up to full well, of which `share` is left."""
    rng = np.random.default_rng(seed)
    peak = rng.uniform(0.02, 0.75, n)
    error = 0.002 * np.sqrt(0.1 / peak)
    noise = error * rng.normal(size=n)
    # the same photons: noise is common to both
    return frames(n, peak=peak, error=error) | {
        "corrected": 0.01 + share * slope * peak + noise,
        "uncorrected": 0.01 + slope * peak + noise,
    }


@pytest.mark.parametrize(("share", "expected"), [(0.05, "pass"), (0.6, "fail"), (-0.6, "fail")])
def test_brighter_fatter_slope_left(share, expected):
    """Slopes at full well and the share that is left are those put in, whatever all sizes are off by."""
    rows = rows_of(stars=star_table(share))
    row = rows["brighter-fatter slope left, share", ""]
    assert row["verdict"] == expected
    assert abs(row["value"] - share) < 4 * row["standard_error"]
    assert row["standard_error"] < 0.05
    for name, true in (("corrected", 0.03 * share), ("uncorrected", 0.03)):
        found = rows[f"star size against flux, {name}", ""]
        assert abs(found["value"] - true) < 4 * found["standard_error"]


def test_stars_of_one_peak_have_no_slope():
    """Without a range of peaks there is no slope: undecided, not a warning."""
    row = rows_of(stars=star_table(0.1) | {"peak": np.full(400, 0.3)})[
        "brighter-fatter slope left, share", ""
    ]
    assert row["value"] is None
    assert row["verdict"] == "undecided"


def test_saturated_pixels_unmarked():
    """A hundredth unmarked fails, a thousandth passes; frames without any full pixel add nothing."""
    name = "saturated and bled pixels marked", ""
    pixels = np.full(48, 1000)
    pixels[::4] = 0
    few = rows_of(saturation=frames(48, pixels=pixels, marked=pixels * 999 // 1000))[name]
    assert few["verdict"] == "pass"
    assert few["value"] == pytest.approx(0.999)
    assert rows_of(saturation=frames(48, pixels=pixels, marked=pixels * 99 // 100))[name]["verdict"] == "fail"
    none = rows_of(saturation=frames(48, pixels=0, marked=0))[name]
    assert (none["value"], none["verdict"]) == (None, "undecided")


def cosmic_rays(n, share_found, snr=20.0, seed=1):
    """Events of which a share is found."""
    return frames(
        n,
        peak_snr=snr,
        found=np.random.default_rng(seed).permutation(n) < share_found * n,
        share=0.9,
        visible=True,
    )


def test_cosmic_rays_found_by_their_height():
    """Bins of peak S/N have the shares put in; events on saturated pixels and below 5 sigma do not count."""
    parts = [
        cosmic_rays(2000, 0.998),
        cosmic_rays(1000, 0.95, snr=7.0),
        cosmic_rays(500, 0.0, snr=4.0),
        cosmic_rays(500, 0.0) | {"visible": np.zeros(500, bool)},
    ]
    rows = rows_of(cosmic_rays=pd.concat([pd.DataFrame(part) for part in parts]))
    bright, faint = (rows["cosmic rays found", label] for label in (">10", "5-10"))
    assert bright["value"] == pytest.approx(0.998)
    assert faint["value"] == pytest.approx(0.95)
    assert (bright["verdict"], faint["verdict"]) == ("pass", "pass")
    assert (bright["n"], faint["n"]) == (2000, 1000)
    assert rows["their pixels above 3 sigma marked", ">10"]["value"] == pytest.approx(0.9)


def test_missed_cosmic_rays_fail():
    """Nine of ten bright ones fail; a handful, all found, shows nothing."""
    assert rows_of(cosmic_rays=cosmic_rays(1000, 0.9))["cosmic rays found", ">10"]["verdict"] == "fail"
    assert rows_of(cosmic_rays=cosmic_rays(20, 1.0))["cosmic rays found", ">10"]["verdict"] == "undecided"
    rows = rows_of(cosmic_rays=cosmic_rays(30, 1.0, snr=6.0))
    assert ("cosmic rays found", ">10") not in rows
    assert rows["their pixels above 3 sigma marked", ">10"]["value"] is None


def marks(n=48, **columns):
    """Marks without a cause of frames of 4 Mpix with 50 stars each."""
    blank = {"megapixels": 4.0, "false_cosmic_rays": 0, "stars": 50, "cores_hit": 0, "false_trails": 0}
    return frames(n, **(blank | columns))


def test_false_marks():
    """False cosmic rays per Mpix, star cores and false trails per frame are those put in."""
    rows = rows_of(marks=marks(false_cosmic_rays=4, cores_hit=1, false_trails=np.arange(48) == 0))
    assert rows["false cosmic rays", ""]["value"] == pytest.approx(1.0)
    assert rows["false cosmic rays", ""]["verdict"] == "pass"
    assert rows["star cores taken for cosmic rays", ""]["value"] == pytest.approx(0.02)
    assert rows["star cores taken for cosmic rays", ""]["note"] == "48 of 2400 stars"
    assert rows["false trails", ""]["value"] == pytest.approx(1 / 48)
    assert rows_of(marks=marks(false_cosmic_rays=40))["false cosmic rays", ""]["verdict"] == "fail"


def trails(n, **columns):
    """n trails of 900 pixels that are all marked, at 5 sigma, each in a visit of its own."""
    rows = {"snap": 0, "event": 0, "brightness": 5.0, "pixels": 900, "marked": 900, "length": 900.0}
    return pd.DataFrame({"visit": np.arange(n), "detector": 0, **rows, **columns})


def test_trails():
    """Trails above one sigma and longer than 100 pixels are found when half is marked; others do not count."""
    n = 200
    marked = np.where(np.arange(n) < 6, 0, 873)
    table = trails(n, marked=marked)
    faint = trails(50, brightness=0.5, marked=0)
    short = trails(50, length=40.0, marked=0)
    faint["visit"] += 1000
    short["visit"] += 2000
    rows = rows_of(trails=pd.concat([table, faint, short]))
    found = rows["satellite trails found", ""]
    assert found["value"] == pytest.approx(0.97)
    assert found["n"] == n
    assert rows["pixels of satellite trails marked", ""]["value"] == pytest.approx(0.97**2)
    assert rows["pixels of satellite trails marked", ""]["verdict"] == "pass"
    rows = rows_of(trails=trails(n, marked=np.where(np.arange(n) % 2, 400, 810)))
    assert rows["satellite trails found", ""]["verdict"] == "fail"
    assert rows["pixels of satellite trails marked", ""]["verdict"] == "fail"
    assert not rows_of(trails=faint)


def test_a_trail_is_one_on_all_detectors():
    """A corner that is missed does not lose the trail; as a piece on its detector it counts."""
    whole, corner = trails(50), trails(50, detector=1, pixels=150, length=150.0, marked=0)
    rows = rows_of(trails=pd.concat([whole, corner]))
    assert rows["satellite trails found", ""]["value"] == 1.0
    assert rows["satellite trails found", ""]["n"] == 50
    assert rows["pixels of satellite trails marked", ""]["value"] == pytest.approx(900 / 1050)
    assert rows["pieces of trails on a detector found", ""]["value"] == 0.5


def test_only_rows_for_which_there_are_tables():
    """No tables, or empty ones: no rows."""
    assert rows_of() == {}
    assert rows_of(trails={"brightness": []}, levels={}) == {}


def test_rows_stand_in_the_scorecard(make_survey):
    """With tables the scorecard has their rows between production and sources, and prints them in 120 columns."""
    survey = make_survey(n_visits=2, n_stars=80)
    tables = {"levels": pd.DataFrame(level_table()), "marks": pd.DataFrame(marks())}
    card = make_scorecard(survey.sources, survey.truth, survey.visit_detectors, CONFIG, tables)
    topics = list(dict.fromkeys(row["topic"] for row in card["rows"]))
    assert topics == [topic for topic in TOPICS if topic in topics]
    assert {"instrument signature", "artifacts"} <= set(topics)
    text = format_scorecard(card)
    assert "electrons received against truth" in text
    assert max(len(line) for line in text.splitlines()) <= 120
