"""Altitude and azimuth of visits."""

import pytest
from astropy.time import Time, TimeDelta
from astropy.utils import iers

from skyquilt.instrument.camera import Observatory
from skyquilt.pipelines.make_visit_tables import horizontal

SITE = Observatory(latitude=31.5, longitude=-111.6, elevation=2000.0)


def visit(mjd, ra=0.0, dec=90.0):
    return {"ra": ra, "dec": dec, "mjd_mid": mjd}


@pytest.mark.parametrize("mjd", [59000.0, 61366.4, 62000.0])
def test_the_pole_stands_at_the_latitude(mjd):
    """The pole of 2000 is as high as the site is north, but for the precession since (20 arcsec a year), on any date."""
    years = (mjd - 51544.5) / 365.25
    altitude, azimuth = horizontal(SITE, visit(mjd))
    assert altitude == pytest.approx(SITE.latitude, abs=20.1 / 3600 * years)
    assert min(azimuth, 360 - azimuth) < 1.0


def test_the_day_of_the_run_changes_nothing(monkeypatch):
    """With Earth rotation tables three years out of date the same angles come out, and nothing is raised."""
    infos = [visit(59000.3, 20.0, 5.0), visit(61366.4, 150.0, 2.2)]
    today = [horizontal(SITE, info) for info in infos]
    later = Time.now().tai + TimeDelta(1000, format="jd")
    monkeypatch.setattr(iers.IERS_Auto, "time_now", property(lambda self: later))
    assert [horizontal(SITE, info) for info in infos] == today
