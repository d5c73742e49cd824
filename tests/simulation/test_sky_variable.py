"""Light curves: periods, amplitudes and colours of variable stars, rise and fall of supernovae."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.magnitudes import magnitude_from_njy
from skyquilt.simulation.sky import simulate_sky
from skyquilt.simulation.sky.catalogue import SUPERNOVA
from skyquilt.simulation.sky.supernovae import SupernovaeConfig, faded
from skyquilt.simulation.sky.variables import (
    CEPHEID,
    ECLIPSING,
    FLARING,
    RR_LYRAE,
    VariablesConfig,
    relative_brightness,
)

CONFIG = SimulationConfig(
    variables=VariablesConfig(rr_lyrae=0.3, cepheids=0.3, eclipsing=0.3, flaring=0.3),
    supernovae=SupernovaeConfig(density=0.5),
    star_density=2.0,
)
START = 61041.0


@pytest.fixture(scope="module")
def sky():
    return simulate_sky(CONFIG, 0.1)


@pytest.mark.parametrize("kind", [RR_LYRAE, CEPHEID, ECLIPSING])
def test_periodic_stars_repeat(sky, kind):
    """Brightness is the same a period later, and its range over a period is the amplitude."""
    stars = sky.select(sky.variability == kind)
    assert len(stars) > 20
    for k in range(5):
        one = stars.select(np.array([k]))
        times = START + one.period[0] * np.linspace(0, 1, 400)
        curve = np.array([relative_brightness(one, t)["r"][0] for t in times])
        assert_allclose(relative_brightness(one, START + one.period[0])["r"][0], curve[0], rtol=1e-9)
        swing = 2.5 * np.log10(curve.max() / curve.min())
        assert_allclose(swing, one.amplitude[0], rtol=0.05)


def test_pulsations_are_greater_in_the_blue(sky):
    """An RR Lyrae star varies more in g than in i; an eclipse is grey."""
    for kind, ratio in ((RR_LYRAE, 1.3 / 0.78), (ECLIPSING, 1.0)):
        one = sky.select(sky.variability == kind).select(np.array([0]))
        curves = [relative_brightness(one, START + t) for t in np.linspace(0, 3, 800)]
        swing = {b: np.ptp(np.log10([c[b][0] for c in curves])) for b in "gi"}
        assert_allclose(swing["g"] / swing["i"], ratio, rtol=1e-3)


def test_flares_are_rare_blue_and_the_same_each_time_they_are_asked_for(sky):
    """Flaring stars brighten for some per cent of the time, in u most; asking again gives the same."""
    stars = sky.select(sky.variability == FLARING)
    times = START + np.random.default_rng(2).uniform(0, 30, 60)
    seen = [relative_brightness(stars, t) for t in times]
    bright = np.array([s["g"] for s in seen]) > 1.05
    # three flares a day, each above a twentieth for about an hour
    assert 0.02 < bright.mean() < 0.3
    excess = {b: np.array([s[b] for s in seen])[bright] - 1 for b in "ugr"}
    assert_allclose(excess["u"], 5 * excess["g"])
    assert_allclose(excess["r"], 0.35 * excess["g"])
    assert_array_equal(relative_brightness(stars, times[0])["g"], seen[0]["g"])


def test_supernovae_rise_and_fall(sky):
    """The peak is at the reference time with the catalogue's flux; 15 days of rest later B has lost 1.1 mag;
    a month before there is nothing."""
    supernovae = sky.select(sky.kind == SUPERNOVA)
    assert len(supernovae) > 20
    assert_allclose(faded(np.array([0.0, 15.0, -30.0])), [0.0, 1.1, np.inf], atol=1e-9)
    for k in range(5):
        one = supernovae.select(np.array([k]))
        peak = one.reference_time[0]
        curve = {t: one.flux_at(peak + t)["r"][0] for t in (-60, -15, 0, 40, 80)}
        assert_allclose(curve[0], one.flux["r"][0])
        assert curve[-60] < 1e-5
        assert curve[-15] < curve[0]
        assert curve[80] < curve[40] < curve[0]


def test_supernovae_are_standard(sky):
    """Peak magnitudes follow the redshift: Hubble's line with a scatter of some tenths of a magnitude."""
    supernovae = sky.select(sky.kind == SUPERNOVA)
    z, magnitude = supernovae.redshift, magnitude_from_njy(supernovae.flux["i"])
    near = z < 0.5
    fit = np.polynomial.Polynomial.fit(np.log10(z[near]), magnitude[near], 1)
    assert 4 < fit.convert().coef[1] < 7.5
    assert (magnitude[near] - fit(np.log10(z[near]))).std() < 0.4


def test_steady_sources_stay(sky):
    """What does not vary has the catalogue's flux at any time."""
    steady = sky.select((sky.variability == 0) & (sky.is_star | sky.is_galaxy))
    for band, flux in steady.flux_at(START + 12.3).items():
        assert_array_equal(flux, steady.flux[band])
