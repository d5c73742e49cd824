"""The simulated sky has the densities, counts and motions it is told to, and the reference its errors."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.magnitudes import magnitude_from_njy, njy_from_magnitude
from skyquilt.simulation.sky import object_truth, reference_catalogue, simulate_sky
from skyquilt.simulation.sky.places import TO_GALACTIC, luminosity_distance
from skyquilt.simulation.sky.stars import (
    DISTANCES_KPC,
    DUST_COEFFICIENTS,
    MAGNITUDE_STEP,
    POPULATIONS,
    SEQUENCES,
    ClusterConfig,
    StarsConfig,
    density,
    dust_in_front,
)
from skyquilt.simulation.solar_system import direction, earth_barycentric, earth_position

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
    assert distance[sky.is_star | sky.is_galaxy].max() <= 0.2 + 1e-9
    area = np.pi * 12.0**2
    variables = CONFIG.variables
    density = 15 + CONFIG.stars.fast + variables.rr_lyrae + variables.cepheids
    density += variables.eclipsing + variables.flaring
    assert sky.is_star.sum() == pytest.approx(density * area, rel=2e-3)
    assert sky.is_galaxy.sum() == pytest.approx(18 * area, rel=1e-3)
    assert abs((distance < 0.2 / np.sqrt(2)).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(sky))


def test_counts_of_stars_are_the_galaxys(sky):
    """Shares of stars brighter than m are those of a plain sum over populations, luminosities and distances."""
    towards = TO_GALACTIC @ direction(CONFIG.field_ra, CONFIG.field_dec)
    dust = DUST_COEFFICIENTS["r"] * dust_in_front(DISTANCES_KPC, towards, CONFIG.stars.dust)
    step = 0.05
    below = dict.fromkeys((17.0, 19.0, 21.0, 23.0, 24.0), 0.0)
    bright = 0.0
    for k, locus in enumerate(SEQUENCES):
        for absolute in np.arange(locus.magnitude[0] + step / 2, locus.magnitude[-1], step):
            for p, population in enumerate(POPULATIONS):
                if k == 0 and absolute < population.turn_off:
                    continue
                number = np.interp(absolute, locus.magnitude, locus.number)
                weight = number * density(p, DISTANCES_KPC, towards) * DISTANCES_KPC**3
                apparent = absolute + 5 * np.log10(100 * DISTANCES_KPC) + dust
                bright += weight[apparent < 15.0].sum()
                for limit in below:
                    below[limit] += weight[apparent < limit].sum()
    ordinary = slice(0, round(15 * np.pi * 12.0**2))
    magnitude = magnitude_from_njy(sky.flux["r"][ordinary])
    total = below[24.0] - bright
    for limit in (17.0, 19.0, 21.0, 23.0):
        expected = (below[limit] - bright) / total
        # cells of a quarter of a magnitude
        assert abs((magnitude < limit).mean() - expected) < 4 * np.sqrt(expected / magnitude.size) + 0.01
    assert magnitude.min() >= 15.0 - 1e-9
    assert magnitude.max() <= 24.0 + 1e-9
    assert MAGNITUDE_STEP == 0.25


def test_stars_hang_together(sky):
    """Absolute magnitudes from parallax are those of stars; the bluer dwarfs are the brighter; motions fall with
    distance, and some exceed 0.1 arcsec a year."""
    star = sky.is_star & (sky.variability == 0)
    distance = 1 / sky.parallax[star]
    absolute = magnitude_from_njy(sky.flux["r"][star]) - 5 * np.log10(100 * distance)
    assert absolute.min() > -3
    assert absolute.max() < 18
    colour = (magnitude_from_njy(sky.flux["g"]) - magnitude_from_njy(sky.flux["r"]))[star]
    dwarf = (absolute > 4.5) & (absolute < 9) & (colour > 0)
    assert np.corrcoef(colour[dwarf], absolute[dwarf])[0, 1] > 0.9
    speed = 4.74 * np.hypot(sky.pm_ra, sky.pm_dec)[star] * distance
    assert 20 < np.median(speed) < 300
    motion = np.hypot(sky.pm_ra, sky.pm_dec)
    assert (motion > 100).sum() >= 20


def test_options_of_one_population_leave_the_others(sky):
    """Without motions, with another density of galaxies or a cluster, stars are where they were."""
    config = SimulationConfig(
        field_ra=0.05,
        field_dec=-40.0,
        stars=StarsConfig(motions=False, parallaxes=False),
        galaxy_density=3.0,
        cluster=ClusterConfig(density=100.0),
    )
    other = simulate_sky(config, 0.2)
    n = round(15 * np.pi * 12.0**2)
    assert_array_equal(other.ra[:n], sky.ra[:n])
    assert not other.pm_ra.any()
    assert not other.parallax.any()


def test_cluster_is_dense_where_it_is():
    """The cluster's stars lie within its circle, as many as its density says, at one distance."""
    cluster = ClusterConfig(density=120.0, radius=60.0, east=100.0, north=-50.0)
    config = SimulationConfig(star_density=0.0, galaxy_density=0.0, cluster=cluster)
    sky = simulate_sky(config, 0.1)
    stars = sky.select(sky.is_star)
    assert len(stars) == round(120 * np.pi)
    east = (stars.ra - config.field_ra) * np.cos(np.radians(config.field_dec)) * 3600 - 100.0
    north = (stars.dec - config.field_dec) * 3600 + 50.0
    assert np.hypot(east, north).max() < 60.1
    assert_allclose(stars.parallax, 1 / 12.0)
    magnitude = magnitude_from_njy(stars.flux["r"])
    assert magnitude.min() >= 15
    assert magnitude.max() <= 24.01


def test_galaxies_hang_together(sky):
    """Fainter galaxies are farther and smaller; bulges are redder than disks; counts follow the slope."""
    galaxies = sky.select(sky.is_galaxy)
    magnitude = magnitude_from_njy(galaxies.flux["r"])
    low, high = (10 ** (0.35 * m) for m in CONFIG.galaxy_magnitudes)
    for limit in (22.0, 23.5):
        expected = (10 ** (0.35 * limit) - low) / (high - low)
        assert abs((magnitude < limit).mean() - expected) < 4 * np.sqrt(expected / magnitude.size)
    bright, faint = magnitude < 21, magnitude > 23.5
    for values in (galaxies.redshift, -galaxies.half_light_radius):
        assert np.median(values[bright]) < np.median(values[faint])
    assert 0.3 < np.median(galaxies.redshift) < 0.9
    assert np.mean(galaxies.bulge_share["i"] - galaxies.bulge_share["g"]) > 0.01
    low = np.minimum(galaxies.bulge_radius, galaxies.disk_radius)
    high = np.maximum(galaxies.bulge_radius, galaxies.disk_radius)
    assert ((galaxies.half_light_radius >= low) & (galaxies.half_light_radius <= high)).all()
    shear = np.hypot(galaxies.disk_g1, galaxies.disk_g2)
    assert 0.15 < np.sqrt((galaxies.disk_g1**2).mean()) < 0.35
    assert shear.max() < 0.7 + 1e-9


def test_distances_are_astropys():
    """Luminosity distances are those of the same flat universe to 1e-4."""
    from astropy.cosmology import FlatLambdaCDM

    z = np.array([0.01, 0.3, 1.0, 2.5])
    expected = FlatLambdaCDM(H0=70, Om0=0.3).luminosity_distance(z).value
    assert_allclose(luminosity_distance(z), expected, rtol=1e-4)


def test_galactic_axes_are_astropys():
    """The matrix to Galactic axes is astropy's to 30 mas."""
    from astropy.coordinates import SkyCoord

    there = SkyCoord(150.0, 2.2, unit="deg").galactic
    ours = TO_GALACTIC @ direction(150.0, 2.2)
    assert_allclose(ours, direction(there.l.deg, there.b.deg), atol=1.5e-7)


def test_magnitudes_are_ab():
    """20 mag AB is 36307.8 nJy, and back."""
    assert_allclose(njy_from_magnitude(20.0), 36307.8, rtol=1e-6)
    assert_allclose(magnitude_from_njy(njy_from_magnitude(17.3)), 17.3)


def test_motion_is_that_of_a_vector_in_space(sky):
    """Positions at a time are directions from the moving Earth of stars that move through space."""
    mjd = 61041.1
    sky = sky.select(~sky.moves)
    ra, dec = sky.positions_at(mjd)
    years = 2000 + (mjd - 51544.5) / 365.25 - sky.epoch
    mas = np.pi / 180 / 3.6e6
    a, d = np.radians(sky.ra), np.radians(sky.dec)
    east = np.stack([-np.sin(a), np.cos(a), np.zeros(len(sky))])
    north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])
    seen = unit(sky.ra, sky.dec) + mas * years * (sky.pm_ra * east + sky.pm_dec * north)
    seen = seen - mas * sky.parallax * earth_barycentric(mjd)[:, None]
    seen /= np.linalg.norm(seen, axis=0)
    # second order in the fastest star's 20 arcsec: 1 mas
    assert np.linalg.norm(seen - unit(ra, dec), axis=0).max() / mas < 2.0
    slow = np.hypot(sky.pm_ra, sky.pm_dec) < 20
    # second order in 200 mas: 0.2 micro-arcsec; arithmetic of unit vectors: 0.1
    assert np.linalg.norm(seen - unit(ra, dec), axis=0)[slow].max() / mas < 1e-3
    moved = np.hypot(ra - sky.ra, dec - sky.dec)[sky.is_galaxy]
    assert_array_equal(moved, 0.0)


def test_earth_is_where_the_ephemeris_has_it():
    """The Earth's heliocentric place is astropy's to 1e-6 au, over the year."""
    from astropy.coordinates import get_body_barycentric
    from astropy.time import Time

    for mjd in (61041.0, 61130.0, 61222.0, 61314.0):
        time = Time(mjd, format="mjd", scale="tai")
        bodies = [get_body_barycentric(name, time, ephemeris="builtin") for name in ("earth", "sun")]
        earth, sun = (body.xyz.to_value("au") for body in bodies)
        assert_allclose(earth_position(mjd), earth - sun, atol=1e-6)


def test_sky_does_not_depend_on_the_visits():
    """More visits, other bands or another exposure time leave the catalogue as it was."""
    other = SimulationConfig(field_ra=0.05, field_dec=-40.0, n_visits=60, bands=("i",), exposure_time=5.0)
    one, two = simulate_sky(CONFIG, 0.05), simulate_sky(other, 0.05)
    # the middle of a night's visits, at which asteroids are placed, moves with their length
    assert_array_equal(one.ra[~one.moves], two.ra[~two.moves])


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
    # what varies has another mean in the catalogue
    star &= mine.variability == 0
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
    galaxy = sky.is_galaxy[(columns["source_id"] - 4_000_000_000_000) // 137 - 1]
    assert 0 < galaxy.sum() < 0.1 * galaxy.size
    assert np.isnan(columns["pmra"][galaxy]).all()
    assert np.isfinite(columns["pmra"][~galaxy]).all()
    bright = sky.is_star & (magnitude_from_njy(sky.flux["r"]) < CONFIG.reference.faint_limit)
    steady = sky.variability == 0
    index = (columns["source_id"] - 4_000_000_000_000) // 137 - 1
    assert steady[index[~galaxy]].sum() == (bright & steady).sum()
    # variable stars are in it without a mark
    assert 0 < (~steady[index]).sum() < 0.1 * index.size
    assert np.isfinite(columns["bp_rp"]).all()


def test_truth_has_the_columns_of_its_schema(sky):
    """The object table conforms to OBJECT_TRUTH, and hosts are galaxies."""
    from skyquilt.primitives.schemas.truth import OBJECT_TRUTH

    table = OBJECT_TRUTH.conform(object_truth(sky, ("g", "r")))
    assert set(table["kind"]) == {"star", "galaxy", "supernova", "asteroid"}
    supernovae = table[table["kind"] == "supernova"]
    hosts = table.set_index("id").loc[supernovae["host"]]
    assert set(hosts["kind"]) == {"galaxy"}
    assert_allclose(hosts["redshift"].to_numpy(), supernovae["redshift"].to_numpy())
    away = np.hypot(hosts["ra"].to_numpy() - supernovae["ra"], hosts["dec"].to_numpy() - supernovae["dec"])
    assert away.max() < 30 / 3600
