"""Sources are drawn where and as bright as the truth says, and its signal to noise is what a fit reaches."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.optics import pixel_from_sky
from skyquilt.simulation.scene import (
    draw_scene,
    frame_truth,
    galaxy_stamp,
    isolated,
    optimal_snr,
    sky_image,
    star_stamp,
)
from skyquilt.simulation.schedule import science_visit
from skyquilt.simulation.survey import detector_truth, field_sky, science_frame

CONFIG = SimulationConfig(seed=3)
# without motions the places at the epoch are those of the visit
STILL = dataclasses.replace(CONFIG, proper_motion=0.0, parallax=0.0)


@pytest.fixture
def frame(camera):
    """The second, turned detector of the first visit."""
    return science_frame(CONFIG, camera, science_visit(CONFIG, 0), 4)


def shape_of(stamp, where):
    rows, columns = np.mgrid[where]
    total = stamp.sum()
    x, y = (stamp * columns).sum() / total, (stamp * rows).sum() / total
    return total, x, y


def test_star_stamps_hold_their_electrons_at_their_place(frame):
    """The sum of a star's noise-free stamp is its electrons to 1e-3, its centroid its place to 1 mas."""
    profile = frame.profile(80.3, 64.7)
    wide = dataclasses.replace(frame, detector=dataclasses.replace(frame.detector, nx=1200, ny=1100))
    for electrons in (1e3, 1e5, 1e7):
        stamp, where = star_stamp(wide, profile, 600.3, 540.7, electrons)
        total, x, y = shape_of(stamp, where)
        assert 0.999 * electrons < total < electrons
        assert_allclose([x, y], [600.3, 540.7], atol=1e-3 / frame.pixel_arcsec)


def test_galaxy_stamps_hold_their_electrons_at_their_place(camera, frame):
    """The sum of a galaxy's stamp is its electrons to 2e-3, its centroid its place to 0.01 px."""
    sky = field_sky(CONFIG, camera)
    wide = dataclasses.replace(frame, detector=dataclasses.replace(frame.detector, nx=1200, ny=1100))
    for k in np.flatnonzero(~sky.is_star)[:6]:
        stamp, where = galaxy_stamp(wide, frame.profile(80, 64), sky, k, 600.3, 540.7, 5e4)
        total, x, y = shape_of(stamp, where)
        assert_allclose(total, 5e4, rtol=2e-3)
        assert_allclose([x, y], [600.3, 540.7], atol=0.01)


def test_stamps_beside_the_detector_are_cut(frame):
    """A star outside sheds its wings on the detector only, as much as the whole stamp has there."""
    profile = frame.profile(0.0, 60.0)
    stamp, (rows, columns) = star_stamp(frame, profile, -7.4, 60.2, 1e6)
    assert columns.start == 0
    detector = dataclasses.replace(frame.detector, nx=frame.detector.nx + 100)
    wider = dataclasses.replace(frame, detector=detector)
    whole, (all_rows, all_columns) = star_stamp(wider, profile, 92.6, 60.2, 1e6)
    assert rows == all_rows
    assert_allclose(stamp, whole[:, 100 - all_columns.start :], rtol=1e-9)
    assert star_stamp(frame, profile, -1e4, 60.2, 1e6) is None


def test_galaxies_are_sheared_towards_their_direction_on_the_sky(camera):
    """A galaxy stretched to the north is so on the sky, though the detector is turned by 90.3 degrees."""
    visit = science_visit(CONFIG, 0)
    sky = field_sky(CONFIG, camera)
    k = int(np.flatnonzero(~sky.is_star)[0])
    sky = dataclasses.replace(sky, g1=np.full(len(sky), -0.6), g2=np.zeros(len(sky)))
    sky.half_light_radius[k] = 2.0
    for number, along in ((1, 0), (4, 1)):
        detector = dataclasses.replace(camera.detector(number), nx=300, ny=300)
        frame = dataclasses.replace(science_frame(CONFIG, camera, visit, number), detector=detector)
        stamp, where = galaxy_stamp(frame, frame.profile(150, 150), sky, k, 150.0, 150.0, 1e5)
        rows, columns = np.mgrid[where]
        window = stamp * np.exp(-((rows - 150) ** 2 + (columns - 150) ** 2) / 200)
        extent = [(window * (axis - 150) ** 2).sum() for axis in (rows, columns)]
        # rotation 0: north is along y of detector 1, and along x of detector 4, turned by 90 degrees
        assert extent[along] > 1.5 * extent[1 - along]


def test_snr_is_the_scatter_of_an_optimal_fit(frame, rng):
    """The inverse relative scatter of the fitted amplitude over 4000 noisy images is the truth's snr."""
    profile = frame.profile(80.0, 60.0)
    n = 4000
    for electrons in (2e3, 5e4):
        stamp, _ = star_stamp(frame, profile, 80.2, 60.1, electrons)
        core = stamp[40:85, 55:105]
        level = frame.sky_electrons
        snr = optimal_snr(core, np.full(core.shape, level + frame.read_noise**2))
        variance = core + level + frame.read_noise**2
        weight = (core / variance) / (core**2 / variance).sum()
        counts = rng.poisson(core + level, (n, *core.shape)) - level
        counts = counts + frame.read_noise * rng.normal(size=counts.shape)
        amplitudes = (counts * weight).sum(axis=(1, 2))
        # amplitude is one on average; a sample standard deviation has relative error 1/sqrt(2n)
        assert abs(amplitudes.std() * snr - 1) < 4 / math.sqrt(2 * n)
        assert abs(amplitudes.mean() - 1) < 4 / snr / math.sqrt(n)


def test_isolation_is_the_pairwise_sum(rng):
    """The tree's answer is the double loop's."""
    n, radius = 60, 6.0
    x, y, flux = rng.uniform(0, 60, n), rng.uniform(0, 60, n), 10 ** rng.uniform(0, 4, n)
    chosen = np.arange(0, n, 2)
    expected = []
    for k in chosen:
        around = sum(flux[j] for j in range(n) if j != k and math.hypot(x[j] - x[k], y[j] - y[k]) <= radius)
        expected.append(around < 0.01 * flux[k])
    assert isolated(x, y, flux, chosen, radius).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_truth_of_a_scene_describes_its_sources(camera):
    """Rows are the sources centred on the detector; electrons, peaks and places follow from the sky's."""
    visit = science_visit(STILL, 0)
    frame = science_frame(STILL, camera, visit, 1)
    truth = detector_truth(STILL, camera, frame.detector)
    sky = field_sky(STILL, camera)
    scene = draw_scene(STILL, frame, sky, truth)
    x, y = pixel_from_sky(frame.optics, frame.detector, frame.pointing, sky.ra, sky.dec)
    nx, ny = frame.detector.nx, frame.detector.ny
    inside = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    assert scene.truth["id"].tolist() == sky.id[inside].tolist()
    assert_allclose(scene.truth["x"], x[inside], atol=1e-6)
    electrons = sky.flux["r"][inside] / frame.njy_per_electron
    assert_allclose(scene.truth["electrons"], electrons)
    # a source is no brighter in one pixel than in all, and no fainter than the sky alone
    peak = scene.truth["peakElectrons"]
    assert (peak < 1.05 * (electrons + 1.05 * frame.sky_electrons)).all()
    assert (peak > 0.7 * frame.sky_electrons).all()
    # no measurement beats the source's own photon noise
    assert (scene.truth["snr"] < np.sqrt(1.05 * electrons)).all()


def test_light_adds_up(camera):
    """Expected electrons are sky and stamps times the response: stars and galaxies alone sum to the whole."""
    frame = science_frame(STILL, camera, science_visit(STILL, 1), 4)
    truth = detector_truth(STILL, camera, frame.detector)
    sky = field_sky(STILL, camera)
    background = sky_image(STILL, frame) * truth.response
    whole = draw_scene(STILL, frame, sky, truth).expected - background
    parts = [sky.select(sky.is_star), sky.select(~sky.is_star)]
    halves = [draw_scene(STILL, frame, part, truth).expected - background for part in parts]
    assert_allclose(whole, halves[0] + halves[1], atol=1e-6)
    assert whole.min() > -1e-9


def test_zero_point_and_sky_are_the_configurations(camera):
    """A star of 20 mag gives the configured electrons; the sky its magnitude per square arcsec."""
    config = dataclasses.replace(CONFIG, transparency_scatter=0.0, airmass_range=(1.0, 1.0))
    frame = science_frame(config, camera, science_visit(config, 0), 1)
    star = 10 ** ((31.4 - 20) / 2.5) / frame.njy_per_electron
    assert_allclose(star, 3300.0 * 30)
    assert_allclose(frame.sky_electrons, 3300.0 * 30 * 10 ** (-0.4 * 1.2) * 0.25)
    row = frame_truth(frame)
    assert_allclose(row["noiseElectrons"] ** 2, frame.sky_electrons + frame.read_noise**2)
    assert_allclose(row["fwhmArcsec"], row["fwhmPixels"] * 0.5)
    # the effective PSF is wider than the atmosphere by the optics and the pixel of half an arcsec
    assert 0.8 < row["fwhmArcsec"] < 1.7
