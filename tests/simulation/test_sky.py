"""The simulated sky has the densities, counts and motions it is told to, and the reference its errors."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.magnitudes import magnitude_from_njy, njy_from_magnitude
from skyquilt.simulation.sky import earth_position, reference_catalogue, simulate_sky

CONFIG = SimulationConfig(field_ra=0.05, field_dec=-40.0)


@pytest.fixture(scope="module")
def sky():
    return simulate_sky(CONFIG, 0.2)


def unit(ra, dec):
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])


def test_sources_fill_the_cap_evenly(sky):
    """All lie within the radius, numbers are density times area, and half of them within half of the area."""
    cosine = unit(CONFIG.field_ra, CONFIG.field_dec) @ unit(sky.ra, sky.dec)
    distance = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    assert distance.max() <= 0.2 + 1e-9
    area = np.pi * 12.0**2
    assert sky.is_star.sum() == pytest.approx(15 * area, rel=1e-3)
    assert (~sky.is_star).sum() == pytest.approx(18 * area, rel=1e-3)
    assert abs((distance < 0.2 / np.sqrt(2)).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(sky))


def test_counts_follow_the_slope(sky):
    """The share of stars brighter than m is that of counts 10^(slope m) between the limits."""
    magnitude = magnitude_from_njy(sky.flux["r"][sky.is_star])
    bright, faint = CONFIG.star_magnitudes
    low, high = (10 ** (CONFIG.star_slope * m) for m in (bright, faint))
    for limit in (18.0, 20.0, 22.0):
        expected = (10 ** (CONFIG.star_slope * limit) - low) / (high - low)
        assert abs((magnitude < limit).mean() - expected) < 4 * np.sqrt(expected / magnitude.size)
    assert magnitude.min() >= bright - 1e-9
    assert magnitude.max() <= faint + 1e-9


def test_magnitudes_are_ab():
    """20 mag AB is 36307.8 nJy, and back."""
    assert_allclose(njy_from_magnitude(20.0), 36307.8, rtol=1e-6)
    assert_allclose(magnitude_from_njy(njy_from_magnitude(17.3)), 17.3)


def test_motion_is_that_of_a_vector_in_space(sky):
    """Positions at a time are directions from the moving Earth of stars that move through space."""
    mjd = 61041.1
    ra, dec = sky.positions_at(mjd)
    years = 2000 + (mjd - 51544.5) / 365.25 - sky.epoch
    mas = np.pi / 180 / 3.6e6
    a, d = np.radians(sky.ra), np.radians(sky.dec)
    east = np.stack([-np.sin(a), np.cos(a), np.zeros(len(sky))])
    north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])
    seen = unit(sky.ra, sky.dec) + mas * years * (sky.pm_ra * east + sky.pm_dec * north)
    seen = seen - mas * sky.parallax * earth_position(mjd)[:, None]
    seen /= np.linalg.norm(seen, axis=0)
    # second order in 100 mas: 0.05 micro-arcsec; arithmetic of unit vectors: 0.1
    assert np.linalg.norm(seen - unit(ra, dec), axis=0).max() / mas < 1e-3
    moved = np.hypot(ra - sky.ra, dec - sky.dec)[~sky.is_star]
    assert_array_equal(moved, 0.0)


def test_earth_is_where_the_ephemeris_has_it():
    """The Earth's heliocentric place is astropy's to 3e-4 au, over the year."""
    from astropy.coordinates import get_body_barycentric
    from astropy.time import Time

    for mjd in (61041.0, 61130.0, 61222.0, 61314.0):
        time = Time(mjd, format="mjd", scale="tdb")
        bodies = [get_body_barycentric(name, time, ephemeris="builtin") for name in ("earth", "sun")]
        earth, sun = (body.xyz.to_value("au") for body in bodies)
        assert_allclose(earth_position(mjd), earth - sun, atol=3e-4)


def test_sky_does_not_depend_on_the_visits():
    """More visits, other bands or another exposure time leave the catalogue as it was."""
    other = SimulationConfig(field_ra=0.05, field_dec=-40.0, n_visits=60, bands=("i",), exposure_time=5.0)
    assert_array_equal(simulate_sky(CONFIG, 0.05).ra, simulate_sky(other, 0.05).ra)


def test_reference_errors_are_its_scatter(sky):
    """Pulls of the stars' positions, motions, parallaxes and magnitudes in the reference are unit normal."""
    columns = reference_catalogue(CONFIG, sky)
    index = (columns["source_id"] - 4_000_000_000_000) // 137 - 1
    star = sky.is_star[index]
    mine = sky.select(index)
    mas = 3.6e6
    pulls = {
        "ra": ((columns["ra"] - mine.ra + 180) % 360 - 180) * np.cos(np.radians(mine.dec)) * mas,
        "dec": (columns["dec"] - mine.dec) * mas,
        "parallax": columns["parallax"] - mine.parallax,
        "pmra": columns["pmra"] - mine.pm_ra,
        "pmdec": columns["pmdec"] - mine.pm_dec,
        "phot_g_mag": columns["phot_g_mag"] - magnitude_from_njy(mine.flux["g"]),
    }
    n = star.sum()
    assert n > 500
    for name, difference in pulls.items():
        pull = (difference / columns[f"{name}_error"])[star]
        assert abs(pull.mean()) < 4 / np.sqrt(n)
        assert abs(pull.var() - 1) < 4 * np.sqrt(2 / n)
    for name, least, most in (("ra_error", 0.2, 2.0), ("phot_r_mag_error", 0.002, 0.02)):
        assert columns[name][star].min() >= least
        assert columns[name][star].max() <= most


def test_reference_has_a_few_galaxies_wrongly_in(sky):
    """Besides the stars to the limit there are galaxies, fewer than a tenth, without motions."""
    columns = reference_catalogue(CONFIG, sky)
    galaxy = ~sky.is_star[(columns["source_id"] - 4_000_000_000_000) // 137 - 1]
    assert 0 < galaxy.sum() < 0.1 * galaxy.size
    assert np.isnan(columns["pmra"][galaxy]).all()
    assert np.isfinite(columns["pmra"][~galaxy]).all()
    bright = sky.is_star & (magnitude_from_njy(sky.flux["r"]) < CONFIG.reference_faint_limit)
    assert (~galaxy).sum() == bright.sum()
