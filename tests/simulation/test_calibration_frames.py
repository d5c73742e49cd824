"""Calibration frames: their schedule, exposure times and light."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation import calibration_frames as module
from skyquilt.simulation.calibration_frames import (
    CalibrationFramesConfig,
    calibration_light,
    calibration_visits,
    projected_spots,
)
from skyquilt.simulation.detector_effects import DetectorEffectsConfig
from skyquilt.simulation.detector_effects.defects import as_read
from skyquilt.simulation.schedule import science_visits
from skyquilt.simulation.survey import detector_truth


def config_of(detector=None, **frames):
    """A survey in r and i with given calibration frames."""
    return SimulationConfig(
        bands=("r", "i"),
        detector=detector or DetectorEffectsConfig.none(),
        calibration_frames=CalibrationFramesConfig(**frames),
    )


def test_every_option_has_its_text():
    """Each field of the configuration is followed by a docstring."""
    text = Path(module.__file__).read_text()
    for item in dataclasses.fields(CalibrationFramesConfig):
        after = re.split(rf"\n    {item.name}: ", text, maxsplit=1)[1]
        assert after.split("\n\n", 1)[0].rstrip().endswith('"""'), item.name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_flat": 21}, "n_flat must be in 0..20"),
        ({"n_bias": -1}, "n_bias must be in 0..40"),
        ({"flat_level": 0.0}, "flat_level must be positive"),
        ({"dark_exposure_times": ()}, "dark_exposure_times must be positive"),
        ({"pair_levels": (9.0, 1.0)}, "pair_levels must be two ascending"),
        ({"n_pair_levels": 50, "pairs_per_level": 2}, "at most 90"),
    ],
)
def test_nonsense_is_refused(change, words):
    """A value that cannot be stops with the option's name and what was expected."""
    with pytest.raises(ValueError, match=re.escape(words)):
        CalibrationFramesConfig(**change)


def test_frames_come_in_the_numbers_asked_for():
    """Every kind has its frames, one after the other before the first science visit, with ids of their own."""
    detector = DetectorEffectsConfig.none(fringes={"i": 0.01})
    config = config_of(
        detector, n_bias=4, n_dark=3, n_flat=20, n_pair_levels=7, pairs_per_level=2, n_fringe=2, n_crosstalk=5
    )
    frames = calibration_visits(config)
    assert Counter((f.kind, f.band) for f in frames) == {
        ("bias", ""): 4,
        ("dark", ""): 3,
        ("flat", "r"): 20 + 28,
        ("flat", "i"): 20,
        ("fringe", "i"): 2,
        ("crosstalk", ""): 5,
    }
    science = science_visits(config)
    ids = [f.visit for f in frames]
    assert len(set(ids)) == len(ids)
    # science visits have the numbers below 500 of a night
    assert {i // 1000 for i in ids} == {science[0].visit // 1000}
    assert all(i % 1000 >= 500 for i in ids)
    for one, other in itertools.pairwise(frames):
        assert one.end < other.begin
    assert frames[-1].end < science[0].begin


def test_numbers_of_a_kind_do_not_depend_on_others():
    """More frames of one kind leave ids and exposure times of the others."""
    few = {f.visit: f for f in calibration_visits(config_of(n_bias=2, n_flat=2, n_dark=1))}
    many = {f.visit: f for f in calibration_visits(config_of(n_bias=9, n_flat=4, n_dark=3, n_pair_levels=3))}
    assert set(few) < set(many)
    for name, frame in few.items():
        assert (frame.kind, frame.band) == (many[name].kind, many[name].band)
        assert frame.exposure_time == many[name].exposure_time


def test_flats_of_a_constant_lamp():
    """Exposure times of flats are in proportion to their signal; the frames of a pair have the same."""
    frames = calibration_visits(
        config_of(
            n_flat=1, flat_level=24000.0, lamp_rate=800.0, n_pair_levels=5, pair_levels=(500.0, 80000.0)
        )
    )
    flats = [f for f in frames if f.kind == "flat"]
    times = [f.exposure_time for f in flats[:10]]
    assert times[::2] == times[1::2]
    levels = np.array([t * 800 for t in times[::2]])
    assert_allclose(np.sort(levels), np.linspace(500**0.25, 80000**0.25, 5) ** 4)
    assert not (np.diff(levels) > 0).all()
    assert flats[10].exposure_time * 800 == 24000
    assert {f.band for f in flats[:10]} == {"r"}


def test_frames_that_take_too_long_are_refused():
    """A lamp too weak for the afternoon stops with the option that helps."""
    with pytest.raises(ValueError, match=r"calibration_frames\.lamp_rate"):
        calibration_visits(config_of(n_flat=20, lamp_rate=1.0))


def test_light_of_flats_is_the_lamps(camera):
    """A flat's light is rate times time over the dome's pattern, and jitters from frame to frame as told."""
    detector = DetectorEffectsConfig.none(lamp_jitter=5e-4, flat_illumination=0.01)
    config = config_of(detector, n_flat=20, n_bias=1, n_pair_levels=40)
    truth = detector_truth(config, camera, camera.detectors[0])
    flats = [f for f in calibration_visits(config) if f.kind == "flat"]
    ratios = []
    for flat in flats:
        light = calibration_light(config, truth, flat)
        ratio = light / (1000.0 * flat.exposure_time * truth.dome)
        assert np.ptp(ratio) < 1e-6
        ratios.append(float(ratio.mean(dtype=float)))
    n = len(ratios)
    assert abs(np.std(ratios) / 5e-4 - 1) < 4 / np.sqrt(2 * n)
    assert abs(np.mean(ratios) - 1) < 4 * 5e-4 / np.sqrt(n)
    bias = next(f for f in calibration_visits(config) if f.kind == "bias")
    assert (calibration_light(config, truth, bias) == 0).all()


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_spots_of_amplifiers_are_never_read_together(camera, turn):
    """Over a detector each amplifier has spots, at moments of read-out when no other has one."""
    detector = camera.detectors[0]
    spots = projected_spots(detector, turn, 50000.0)
    parts = [as_read(amplifier, spots) > 0 for amplifier in detector.amplifiers]
    lit = np.sum(parts, axis=0)
    assert lit.max() == 1
    turns = [
        [as_read(amplifier, projected_spots(detector, turn + k, 1.0)).sum() for k in range(4)]
        for amplifier in detector.amplifiers
    ]
    assert (np.sum(turns, axis=1) > 0).all()
    assert spots.max() == 50000
