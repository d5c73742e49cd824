"""Asteroids: two-body orbits, light time and parallax of the site, and that they are there to be linked."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.schedule import night_begin, science_visits, tai_mjd
from skyquilt.simulation.sky import simulate_sky
from skyquilt.simulation.sky.asteroids import AsteroidsConfig, ephemeris, night_middles
from skyquilt.simulation.sky.catalogue import ASTEROID
from skyquilt.simulation.sky.orbits import GAUSS, eccentric_anomaly, elements, place
from skyquilt.simulation.solar_system import LIGHT_AU_PER_DAY, Site, direction

CONFIG = SimulationConfig(
    start_date="2027-05-01",
    nights=(0, 2, 5, 9),
    visits_per_night=4,
    n_visits=16,
    asteroids=AsteroidsConfig(main_belt=12, near_earth=3),
    star_density=0.0,
    galaxy_density=0.0,
)
RADIUS = 0.12


@pytest.fixture(scope="module")
def asteroids():
    sky = simulate_sky(CONFIG, RADIUS)
    return sky.select(sky.kind == ASTEROID)


def test_keplers_equation_is_solved(rng):
    """E - e sin E is the mean anomaly to 1e-13."""
    mean, e = rng.uniform(-np.pi, np.pi, 500), rng.uniform(0, 0.95, 500)
    anomaly = eccentric_anomaly(mean, e)
    assert_allclose(anomaly - e * np.sin(anomaly), mean, atol=1e-13)


def test_orbits_are_those_of_newton(asteroids):
    """Integrated by Newton's law in small steps, an asteroid is where its elements say; they are conserved."""
    orbit = asteroids.orbit
    h = 0.02
    zero = np.zeros(len(orbit))
    r = place(orbit, zero)
    v = (place(orbit, zero + 1e-3) - place(orbit, zero - 1e-3)) / 2e-3
    assert_allclose(elements(r, v)[:, :5], orbit[:, :5], rtol=1e-5, atol=1e-4)

    def pull(r):
        return -(GAUSS**2) * r / np.linalg.norm(r, axis=1)[:, None] ** 3

    for _ in range(1000):
        v += 0.5 * h * pull(r)
        r += h * v
        v += 0.5 * h * pull(r)
    # a leapfrog's error grows with (h n)^2: 1e-7 at the perihelia met here
    assert_allclose(r, place(orbit, zero + 20.0), atol=3e-6)


def test_ephemeris_is_that_of_skyfields_arithmetic(asteroids):
    """Directions are those of the place when the light left, seen from the site; light time is consistent."""
    mjd = night_middles(CONFIG)[1]
    site = asteroids.site
    seen = ephemeris(asteroids.orbit, asteroids.reference_time, mjd, site)
    left = mjd - seen.distance / LIGHT_AU_PER_DAY
    where = place(asteroids.orbit, left - asteroids.reference_time)
    towards = where - site.place(mjd)
    assert_allclose(np.linalg.norm(towards, axis=1), seen.distance, rtol=1e-9)
    towards /= seen.distance[:, None]
    assert_allclose(direction(seen.ra, seen.dec), towards, atol=1e-9)


def test_the_site_has_a_parallax(asteroids):
    """From the other side of the Earth an asteroid stands up to 2 Earth radii over its distance elsewhere."""
    mjd = night_middles(CONFIG)[0]
    here, there = (
        ephemeris(asteroids.orbit, asteroids.reference_time, mjd, site)
        for site in (asteroids.site, Site(109.25, 30.24, 2700.0))
    )
    away = np.linalg.norm(direction(here.ra, here.dec) - direction(there.ra, there.dec), axis=1)
    most = 2 * 6378.1 / 149597870.7 / here.distance
    assert (away < 1.01 * most).all()
    assert away.max() > 0.3 * most[away.argmax()]


def test_brightness_follows_distance_and_phase(asteroids):
    """V = H + 5 log(r d) plus a phase function of 0 at opposition and 1.3 mag at 30 degrees."""
    from skyquilt.simulation.sky.asteroids import Seen

    angles = np.array([0.0, 30.0])
    seen = Seen(np.zeros(2), np.zeros(2), np.array([2.0, 2.0]), np.array([1.5, 1.5]), angles)
    first, second = seen.magnitude_offset - 5 * np.log10(3.0)
    assert_allclose(first, 0.0, atol=1e-9)
    # Bowell et al. (1989): G = 0.15
    assert_allclose(second, 1.30, atol=0.01)


def test_most_can_be_linked(asteroids):
    """Of the main belt's three quarters are in the field on three nights of the fortnight; near ones on one."""
    centre = direction(CONFIG.field_ra, CONFIG.field_dec)
    inside = np.zeros((4, len(asteroids)), bool)
    for night in range(4):
        begin = tai_mjd(night_begin(CONFIG, night) + datetime.timedelta(minutes=16))
        ra, dec = asteroids.positions_at(begin)
        inside[night] = direction(ra, dec) @ centre > np.cos(np.radians(RADIUS))
    nights = inside.sum(axis=0)
    assert (nights[:12] >= 3).sum() >= 9
    assert (nights >= 1).all()


def test_pairs_of_visits_show_motion(asteroids):
    """Between the visits of a pair asteroids move, those that stay for nights by a third of an arcsecond or
    more, near ones by tens."""
    visits = science_visits(CONFIG)[:4]
    first, second = (asteroids.positions_at(v.mid_mjd_tai) for v in (visits[0], visits[2]))
    moved = np.linalg.norm(direction(*first) - direction(*second), axis=1) * 206265
    assert (moved[:9] > 0.15).all()
    assert np.median(moved) > 0.4
    assert moved[12:].max() > 20.0


def test_far_from_the_ecliptic_there_are_asteroids_too():
    """A field at high ecliptic latitude gets its asteroids, on inclined orbits."""
    config = SimulationConfig(
        field_ra=0.05, field_dec=-40.0, star_density=0.0, galaxy_density=0.0, asteroids=AsteroidsConfig(5, 2)
    )
    sky = simulate_sky(config, RADIUS)
    assert len(sky) == 7
    assert (sky.orbit[:, 2] > 20).all()
