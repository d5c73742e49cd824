"""Visits follow from seed and number; time, hour angle, airmass and parallactic angle belong together."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import AltAz, EarthLocation, SkyCoord, get_sun
from astropy.time import Time

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.schedule import night_begin, observing_site, science_visit, science_visits
from skyquilt.simulation.solar_system import airmass_of

PAIRS = SimulationConfig(
    n_visits=12, visits_per_night=4, nights=(0, 2, 5), n_snaps=2, start_date="2027-05-01"
)


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
        assert 0.75 <= visit.seeing <= 1.25 * visit.airmass**0.6
        assert 0 < visit.transparency <= 1


def test_nights_hold_pairs():
    """Each night's second half follows the first by the pair's minutes; nights are those listed."""
    visits = science_visits(PAIRS)
    for night, day in enumerate((1, 3, 6)):
        here = visits[4 * night : 4 * night + 4]
        assert [v.visit for v in here] == [270500000 + 1000 * day + k for k in (1, 2, 3, 4)]
        for first, second in zip(here[:2], here[2:]):
            assert (second.begin - first.begin).total_seconds() == pytest.approx(1800)
        assert here[1].begin > here[0].end
        assert all(v.airmass < 1.5 for v in here)


@pytest.fixture
def offline():
    """Astropy without downloads of the Earth's rotation."""
    from astropy.utils import iers

    settings = {"auto_download": False, "auto_max_age": None, "iers_degraded_accuracy": "ignore"}
    with contextlib.ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(iers.conf.set_temp(name, value))
        yield


@pytest.mark.usefixtures("offline")
def test_the_sky_is_astropys():
    """Altitude, hour angle and airmass are those of astropy's AltAz to 0.01 deg, and the Sun is down."""
    for visit in science_visits(PAIRS)[::5]:
        site = EarthLocation.from_geodetic(-70.75, -30.24, 2700)
        time = Time(visit.mid_mjd_tai, format="mjd", scale="tai")
        time.delta_ut1_utc = 0.0
        frame = AltAz(obstime=time, location=site)
        there = SkyCoord(visit.ra, visit.dec, unit="deg").transform_to(frame)
        # aberration: 20 arcsec
        assert visit.altitude == pytest.approx(there.alt.deg, abs=0.01)
        assert visit.airmass == pytest.approx(airmass_of(there.alt.deg), rel=1e-3)
        assert visit.airmass == pytest.approx(float(there.secz), rel=0.01)
        assert get_sun(time).transform_to(frame).alt < -11 * u.deg
        lst = time.sidereal_time("apparent", longitude=-70.75)
        # precession since 2000 turns right ascensions by a third of a degree
        assert visit.hour_angle == pytest.approx((lst.deg - visit.ra) / 15, abs=0.03)


def test_parallactic_angle_is_that_of_the_triangle():
    """The zenith's position angle obeys the spherical triangle of pole, zenith and field."""
    for visit in science_visits(PAIRS)[::3]:
        h, d, lat = (math.radians(a) for a in (15 * visit.hour_angle, visit.dec, -30.24))
        angle = math.atan2(math.sin(h), math.tan(lat) * math.cos(d) - math.sin(d) * math.cos(h))
        # the pole has precessed by 0.15 deg
        assert abs((visit.parallactic_angle - math.degrees(angle) + 180) % 360 - 180) < 1.0


def test_snaps_share_the_exposure():
    """Two snaps are halves of the exposure, two seconds apart; the visit's middle is between them."""
    visit = science_visit(PAIRS, 2)
    first, second = visit.snaps
    assert first.exposure_time == second.exposure_time == 15.0
    assert (second.begin - first.end).total_seconds() == pytest.approx(2.0)
    assert visit.end == second.end
    assert visit.mid_mjd_tai == pytest.approx(0.5 * (first.mid_mjd_tai + second.mid_mjd_tai), abs=1e-9)
    with pytest.raises(ValueError, match="has 2 snaps, there is no number 2"):
        visit.snap(2)


def test_times_are_tai():
    """The middle of an exposure is astropy's TAI of its UTC times."""
    visit = science_visit(SimulationConfig(), 2)
    begin, end = (Time(t.isoformat(), scale="utc").tai.mjd for t in (visit.begin, visit.end))
    assert visit.mid_mjd_tai == pytest.approx((begin + end) / 2, abs=1e-9)


def test_header_errors_move_the_header_alone():
    """Pointing errors change what headers say, not where the light came from."""
    plain = science_visit(SimulationConfig(), 1)
    wrong = science_visit(SimulationConfig(header_pointing_error=10.0, header_rotation_error=0.1), 1)
    assert (wrong.ra, wrong.dec, wrong.rotation) == (plain.ra, plain.dec, plain.rotation)
    assert 0 < abs(wrong.header_dec - wrong.dec) < 60 / 3600
    assert 0 < abs(wrong.header_rotation - wrong.rotation) < 0.6


def test_a_field_in_daylight_is_refused():
    """A field that is up with the Sun only has no visits, and the message says what to change."""
    with pytest.raises(ValueError, match="not above airmass 3 in the dark"):
        night_begin(SimulationConfig(field_ra=282.0, field_dec=10.0), 0)


@pytest.mark.parametrize("longitude", [-155.0, -70.75, 10.0, 150.0, 179.0])
def test_nights_are_nights_everywhere(longitude):
    """At any longitude visits are made in the dark, and the night ends on its date, by the Sun there."""
    config = dataclasses.replace(SimulationConfig(), site_longitude=longitude)
    visit = science_visit(config, 0)
    sun = observing_site(config).sun_altitude(np.array([visit.mid_mjd_tai]))
    assert sun[0] < -11.5
    local = visit.mid_mjd_tai + longitude / 360
    assert abs(local - 61041.0) < 0.5
