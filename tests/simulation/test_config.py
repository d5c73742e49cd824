"""Options are checked at once, and visits follow from seed and number alone."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import pytest
from astropy.time import Time

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation import config as config_module
from skyquilt.simulation.schedule import calibration_visits, science_visit, science_visits


def test_every_option_has_its_text():
    """Each field of the configuration is followed by a docstring."""
    text = pathlib.Path(config_module.__file__).read_text()
    for item in dataclasses.fields(SimulationConfig):
        assert re.search(rf'^    {item.name}: .*?\n    """', text, re.MULTILINE | re.DOTALL), item.name
        after = text.split(f"\n    {item.name}: ", 1)[1]
        assert after.split("\n\n", 1)[0].rstrip().endswith('"""'), item.name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_visits": -1}, "n_visits must not be negative"),
        ({"bands": ()}, "bands must name"),
        ({"bands": ("r", "w")}, "'w' is not one of"),
        ({"sky_brightness": {"r": 21.0}}, "sky_brightness has no value for band 'g'"),
        ({"seeing": (1.2, 0.8)}, "seeing must be two ascending numbers"),
        ({"airmass_range": (0.5, 1.0)}, "airmass at least 1"),
        ({"field_dec": 89.0}, "field_dec must be within 85 deg"),
        ({"field_ra": 360.0}, "field_ra must be in"),
        ({"rotations": ()}, "rotations must hold"),
        ({"exposure_time": 0.0}, "exposure_time must be positive"),
        ({"cosmic_rays": -1.0}, "cosmic_rays must not be negative"),
        ({"n_flat": 31}, "n_flat must be in 0..30"),
        ({"vignetting": 0.95}, "vignetting must be below 0.9"),
        ({"psf_ellipticity": 0.5}, "psf_ellipticity must be at most 0.2"),
        ({"start_date": "tomorrow"}, "tomorrow"),
        ({"visits_per_night": 500}, "visits_per_night must be in 1..499"),
        ({"days_between_nights": 0}, "days_between_nights must be at least 1"),
    ],
)
def test_nonsense_is_refused(change, words):
    """A value that cannot be stops with the option's name and what was expected."""
    with pytest.raises(ValueError, match=re.escape(words)):
        SimulationConfig(**change)


def test_visits_do_not_know_their_number():
    """The first visits of a longer survey are those of a shorter one."""
    few, many = (science_visits(SimulationConfig(n_visits=n)) for n in (3, 9))
    assert many[:3] == few


def test_visits_cycle_through_bands_and_rotations_within_the_dither():
    """Band and rotation go in turn; boresights lie within the dither's radius; ids are night and number."""
    config = SimulationConfig(n_visits=8, visits_per_night=5, days_between_nights=3, dither_radius=30.0)
    visits = science_visits(config)
    assert [v.band for v in visits] == list("rgirgirg")
    assert [v.rotation for v in visits][:4] == [0.0, 1.5, -2.0, 0.0]
    assert [v.visit for v in visits][3:7] == [260101004, 260101005, 260104001, 260104002]
    for visit in visits:
        assert abs(visit.dec - config.field_dec) <= 30.0 / 3600
        assert (visit.header_ra, visit.header_dec) == (visit.ra, visit.dec)
        assert 0.8 <= visit.seeing <= 1.2 * 1.4**0.6
        assert 0 < visit.transparency <= 1


def test_times_are_tai():
    """The middle of an exposure is astropy's TAI of its UTC times."""
    visit = science_visit(SimulationConfig(), 2)
    begin, end = (Time(t.isoformat(), scale="utc").tai.mjd for t in (visit.begin, visit.end))
    assert visit.mid_mjd_tai == pytest.approx((begin + end) / 2, abs=1e-9)


def test_calibration_frames_have_ids_of_their_own():
    """Biases, darks and flats of every band come in the numbers asked for, with ids no science visit has."""
    config = SimulationConfig(n_bias=4, n_dark=2, n_flat=30, visits_per_night=499, n_visits=499)
    frames = calibration_visits(config)
    kinds = [f.kind for f in frames]
    assert [kinds.count(k) for k in ("bias", "dark", "flat")] == [4, 2, 90]
    ids = [f.visit for f in frames] + [v.visit for v in science_visits(config)]
    assert len(set(ids)) == len(ids)
    assert max(f.end for f in frames) < science_visit(config, 0).begin


def test_header_errors_move_the_header_alone():
    """Pointing errors change what headers say, not where the light came from."""
    plain = science_visit(SimulationConfig(), 1)
    wrong = science_visit(SimulationConfig(header_pointing_error=10.0, header_rotation_error=0.1), 1)
    assert (wrong.ra, wrong.dec, wrong.rotation) == (plain.ra, plain.dec, plain.rotation)
    assert 0 < abs(wrong.header_dec - wrong.dec) < 60 / 3600
    assert 0 < abs(wrong.header_rotation - wrong.rotation) < 0.6
