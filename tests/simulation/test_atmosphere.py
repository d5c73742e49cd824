"""Refraction, turbulence, clouds and moonlight are what the papers say, and move nothing on average."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.atmosphere import (
    CLOUD_CONTRAST,
    AtmosphereConfig,
    Waves,
    make_atmosphere,
    moonlight,
    pressure_at,
    refraction_angle,
    refractivity,
    towards_zenith,
)
from skyquilt.simulation.magnitudes import (
    band_wavelengths,
    effective_wavelength,
    njy_from_magnitude,
    reference_flux,
)
from skyquilt.simulation.schedule import science_visit
from skyquilt.simulation.solar_system import direction, tangent_axes

CONFIG = SimulationConfig(n_visits=4)
STILL = dataclasses.replace(CONFIG, atmosphere=AtmosphereConfig(displacement=0.0, clouds=0.0))


def test_refraction_is_erfas():
    """Refraction down to 30 deg of altitude is that of ERFA's model of dry air to 0.1 arcsec."""
    import erfa

    pressure, temperature = 740.0, 10.0
    index = refractivity(550.0, pressure, temperature)
    for altitude in (80.0, 60.0, 45.0, 30.0):
        a, b = erfa.refco(pressure, temperature, 0.0, 0.55)
        tangent = np.tan(np.radians(90 - altitude))
        # constants hold for the observed altitude; one step turns it into the true one's
        first = a * tangent + b * tangent**3
        seen = np.tan(np.radians(90 - altitude) - first)
        expected = a * seen + b * seen**3
        assert abs(refraction_angle(index, altitude) - expected) * 206265 < 0.1
    assert_allclose(pressure_at(0.0), 1013.25)
    assert_allclose(pressure_at(2700.0), 729.6, atol=2)


def test_dispersion_is_filippenkos():
    """Between 400 and 500 nm a star at airmass 1.5 is drawn out by 0.71" at 2 km: Filippenko's table 1."""
    # f of water vapour, 8 mm there, makes less than 1 %
    index = refractivity(np.array([400.0, 500.0]), 600 * 1.33322, 7.0)
    altitude = np.degrees(np.arcsin(1 / 1.5))
    difference = np.ptp(refraction_angle(1.0, altitude) * index) * 206265
    assert_allclose(difference, 0.71, atol=0.02)


def test_the_boresight_stays(rng):
    """A source of the reference spectrum at the boresight is imaged there to 1 micro-arcsec."""
    visit = science_visit(STILL, 1)
    air = make_atmosphere(STILL, visit)
    shares = air.shares(reference_flux())
    ra, dec = air.image(np.array([visit.ra]), np.array([visit.dec]), shares)
    assert_allclose([ra[0], dec[0]], [visit.ra, visit.dec], atol=3e-10)


def test_blue_light_is_nearer_to_the_zenith():
    """Colour moves a source along the zenith's direction by the shift of the table, on the sky and in truth."""
    visit = science_visit(STILL, 1)
    assert visit.band == "g"
    air = make_atmosphere(STILL, visit)
    blue, red = (
        {b: njy_from_magnitude(np.array([20.0 + slope * k])) for k, b in enumerate("ugrizy")}
        for slope in (0.4, -0.4)
    )
    east, north = tangent_axes(visit.ra, visit.dec)
    towards = np.array([air.zenith @ east, air.zenith @ north])
    towards /= np.linalg.norm(towards)
    places = []
    for flux in (blue, red):
        ra, dec = air.image(np.array([visit.ra]), np.array([visit.dec]), air.shares(flux))
        offset = direction(ra, dec)[0] @ np.stack([east, north], axis=1) * 206264.806
        shift, spread = air.dispersion(air.shares(flux))
        # the second order of refraction itself: (60 arcsec)^2
        assert_allclose(offset, shift[0] * towards, atol=1e-3)
        assert 0.02 < spread[0] < 0.3
        places.append(shift[0])
    assert places[0] > places[1] + 0.02
    assert_allclose(
        [np.sin(np.radians(visit.parallactic_angle)), np.cos(np.radians(visit.parallactic_angle))],
        towards,
        atol=1e-3,
    )


def test_the_field_is_compressed_towards_the_zenith():
    """Offsets along the zenith shrink by n - 1 over the squared sine of the altitude, those across by n - 1."""
    visit = science_visit(STILL, 0)
    air = make_atmosphere(STILL, visit)
    east, north = tangent_axes(visit.ra, visit.dec)
    along = np.array([air.zenith @ east, air.zenith @ north])
    along /= np.linalg.norm(along)
    across = np.array([-along[1], along[0]])
    index = air._reference
    for axis, expected in ((along, index / np.sin(np.radians(visit.altitude)) ** 2), (across, index)):
        offset = 0.1 * axis
        ra = visit.ra + offset[0] / np.cos(np.radians(visit.dec))
        seen = air.image(np.array([ra]), np.array([visit.dec + offset[1]]), None)
        start = direction(ra, visit.dec + offset[1]) @ np.stack([east, north], axis=1)
        end = direction(*seen)[0] @ np.stack([east, north], axis=1)
        assert_allclose(1 - (end @ axis) / (start @ axis), expected, rtol=0.03)


def test_displacements_have_the_scatter_asked_for():
    """Over many visits and places turbulence moves sources by 5 mas per axis, without curl, smoothly."""
    rng = np.random.default_rng(11)
    x, y = rng.uniform(-20, 20, (2, 300))
    shifts = np.array([Waves.draw(rng, (1.5, 15.0)).shift(x, y) for _ in range(40)])
    # 40 fields of some hundred patches each
    assert_allclose(shifts.std(axis=(0, 2)), 1.0, atol=0.08)
    waves, h = Waves.draw(rng, (1.5, 15.0)), 1e-4
    curl = (
        waves.shift(x + h, y)[1]
        - waves.shift(x - h, y)[1]
        - waves.shift(x, y + h)[0]
        + waves.shift(x, y - h)[0]
    )
    assert np.abs(curl / (2 * h)).max() < 1e-6
    values = np.array([Waves.draw(rng, (8.0, 60.0)).value(x, y) for _ in range(200)])
    assert_allclose(values.std(), 1.0, atol=0.1)
    config = dataclasses.replace(
        CONFIG, atmosphere=AtmosphereConfig(refraction=False, clouds=0.0, displacement=5.0)
    )
    visit = science_visit(config, 0)
    ra, dec = visit.ra + rng.uniform(-0.1, 0.1, 300), visit.dec + rng.uniform(-0.1, 0.1, 300)
    seen = make_atmosphere(config, visit).image(ra, dec, None)
    assert 2 < (seen[1] - dec).std() * 3.6e6 < 9


def test_clouds_take_the_mean_they_have():
    """Clouds are never clearer than clear air, vary over the field, and their mean loss is the visit's."""
    config = dataclasses.replace(CONFIG, atmosphere=AtmosphereConfig(clouds=0.5, transparency_scatter=0.0))
    visit = science_visit(config, 2)
    air = make_atmosphere(config, visit)
    rng = np.random.default_rng(4)
    ra, dec = visit.ra + rng.uniform(-2, 2, 4000), visit.dec + rng.uniform(-2, 2, 4000)
    loss = -2.5 * np.log10(air.transparency(ra, dec)) + visit.cloud_loss
    assert loss.min() >= -1e-12
    assert_allclose(loss.mean(), visit.cloud_loss, rtol=0.1)
    assert_allclose(loss.std(), CLOUD_CONTRAST * visit.cloud_loss, rtol=0.3)
    clear = config.atmosphere.extinction[visit.band] * (visit.airmass - 1)
    assert_allclose(-2.5 * np.log10(visit.transparency), clear + visit.cloud_loss)


def test_extinction_is_stronger_for_the_blue():
    """A bluer source loses more light in g at high airmass, none against itself."""
    visit = science_visit(STILL, 1)
    air = make_atmosphere(STILL, visit)
    assert_allclose(air.colour_factor(reference_flux()), 1.0)
    blue = dict(reference_flux(), g=2 * reference_flux()["g"])
    slope = STILL.atmosphere.extinction_colour["g"] * visit.airmass
    assert_allclose(air.colour_factor(blue), 10 ** (-0.4 * slope * -2.5 * np.log10(2)))
    assert air.colour_factor(blue)[0] < 1


def test_moonlight_is_that_of_the_paper():
    """A Moon of 7 days brightens a field 60 deg away to some 21 mag, a full one to 19.5 or so; a Moon that is
    down does nothing."""
    bright = {}
    for name, date in (("full", "2026-01-03"), ("new", "2026-01-19")):
        config = dataclasses.replace(CONFIG, start_date=date)
        visit = science_visit(config, 0)
        air = make_atmosphere(config, visit)
        bright[name] = moonlight(visit, air.zenith, 0.15)
        assert moonlight(visit, -air.zenith, 0.15) == 0.0 or name == "new"
    assert 18.0 < -2.5 * np.log10(bright["full"]) < 20.5
    assert bright["new"] < 0.05 * bright["full"]


def test_an_ideal_sky_does_nothing():
    """Without effects positions, fluxes and sky are untouched."""
    config = CONFIG.ideal_sky()
    visit = science_visit(config, 1)
    air = make_atmosphere(config, visit)
    ra, dec = np.array([150.02]), np.array([1.5])
    flux = {b: np.array([100.0 + 5 * k]) for k, b in enumerate("ugrizy")}
    assert_allclose(air.image(ra, dec, air.shares(flux)), [ra, dec], atol=1e-13)
    assert air.transparency(ra, dec)[0] == air.colour_factor(flux)[0] == air.sky_factor == 1.0
    assert_allclose(air.dispersion(air.shares(flux)), 0.0)
    assert_allclose(air.sky_pattern(np.array([0.3]), np.array([0.2])), 1.0)


@pytest.mark.parametrize("band", ["u", "g", "r", "i", "z", "y"])
def test_shares_of_photons_are_a_mean(band):
    """A flat spectrum's photons go as 1 / wavelength; a redder one has a longer mean wavelength."""
    flat = {b: np.array([1.0]) for b in "ugrizy"}
    red = {b: np.array([1.0 + k]) for k, b in enumerate("ugrizy")}
    wavelengths = band_wavelengths(band)
    expected = np.ptp(wavelengths) / np.log(wavelengths.max() / wavelengths.min())
    assert_allclose(effective_wavelength(flat, band), expected, rtol=2e-3)
    assert effective_wavelength(red, band) > effective_wavelength(flat, band)


def test_the_zenith_turns_with_the_camera():
    """In the focal plane the zenith lies along +y when the rotator has the parallactic angle."""
    visit = science_visit(STILL, 0)
    assert_allclose(towards_zenith(visit, visit.parallactic_angle, True), [0, 1], atol=1e-12)
    assert_allclose(towards_zenith(visit, visit.parallactic_angle - 90, True), [1, 0], atol=1e-12)
    assert_allclose(towards_zenith(visit, visit.parallactic_angle - 90, False), [-1, 0], atol=1e-12)
