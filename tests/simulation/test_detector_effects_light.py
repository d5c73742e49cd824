"""What light finds on its way: vignetting, unequal pixels, dust, fringes, the dome flat's light."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.simulation.detector_effects import DetectorEffectsConfig, true_detector
from skyquilt.simulation.detector_effects.response import fringe_pattern, thickness_map

NONE = DetectorEffectsConfig.none


def place(detector):
    y, x = np.mgrid[: detector.ny, : detector.nx]
    return (x - detector.nx / 2) / 150, (y - detector.ny / 2) / 150


def true_one(camera, config, seed=3):
    return true_detector(config, seed, camera.detectors[0], *place(camera.detectors[0]))


def test_response_is_vignetting_and_pixels(camera):
    """The response falls with radius and scatters by the configured amount; all visits share it."""
    config = NONE(vignetting=0.2, pixel_response=0.01)
    truth = true_one(camera, config)
    plain = true_one(camera, dataclasses.replace(config, pixel_response=0.0))
    ratio = truth.response / plain.response
    assert_allclose(ratio.std(dtype=float), 0.01, rtol=4 / np.sqrt(2 * ratio.size))
    assert plain.response.max() > 0.99
    assert plain.response.min() == pytest.approx(1 - 0.2 * np.hypot(80 / 150, 64 / 150) ** 3, abs=1e-4)
    assert_array_equal(truth.response, true_one(camera, config).response)


def test_dust_casts_shallow_rings(camera):
    """Shadows dim by 1 to 5 % at most each, in an annulus, over a small part of the detector."""
    clean, dusty = (true_one(camera, NONE(dust=d)).response for d in (0.0, 300.0))
    ratio = dusty / clean
    assert ratio.max() == 1
    assert 0.9**2 < ratio.min() < 0.99
    assert 0.01 < (ratio < 0.999).mean() < 0.95


@pytest.mark.parametrize("band", ["i", "y"])
def test_fringes_have_mean_zero_and_their_height(camera, band):
    """Fringes vary about 0 by the configured share of the sky and are the detector's own."""
    config = NONE(fringes={"i": 0.01, "y": 0.02})
    shape = (300, 320)
    pattern = fringe_pattern(config, 3, 0, band, shape, 0.01)
    assert abs(pattern.mean(dtype=float)) < 1e-6
    assert_allclose(np.abs(pattern).max(), config.fringes[band], rtol=1e-6)
    assert pattern.std() > 0.2 * config.fringes[band]
    # several maxima across, none as small as a few pixels
    row = pattern[150]
    crossings = (np.diff(np.sign(row)) != 0).sum()
    assert 2 <= crossings <= 64
    assert (pattern != fringe_pattern(config, 3, 1, band, shape, 0.01)).mean() > 0.9
    truth = true_one(camera, config)
    assert truth.fringe("g") is None
    assert truth.fringe(band) is truth.fringe(band)
    assert truth.fringe(band).shape == truth.response.shape


def test_fringes_follow_lines_of_equal_thickness():
    """Where the silicon is equally thick, light of one line interferes alike."""
    config = NONE(fringes={"g": 0.01})
    pattern = fringe_pattern(config, 5, 2, "g", (200, 200), 0.01)
    thickness = thickness_map(5, 2, (200, 200), 0.01)
    order = np.argsort(thickness, axis=None)
    sorted_pattern = pattern.ravel()[order]
    close = np.diff(thickness.ravel()[order]) < 1e-5
    # g has one line: a phase of 4 pi 3.6 / 0.5577 per micron changes the pattern by 1e-5 at most
    assert np.abs(np.diff(sorted_pattern)[close]).max() < 2e-5


def test_the_dome_is_not_the_sky(camera):
    """A dome flat's light differs from a uniform one by the configured share, smoothly."""
    u, v = place(camera.detectors[0])
    truth = true_one(camera, NONE(flat_illumination=0.01))
    expected = 1 + 0.01 * (0.4 * u - 0.3 * v + 0.5 - u**2 - v**2)
    assert_allclose(truth.dome, expected, atol=1e-6)
    assert (true_one(camera, NONE()).dome == 1).all()


def test_received_light_is_area_and_response(camera):
    """Light frees electrons by the response of the pixel it falls into, boundaries displaced."""
    config = NONE(tree_rings=0.02, pixel_response=0.01)
    truth = true_one(camera, config)
    light = np.full(truth.response.shape, 1000.0)
    area = truth.received(light) / (1000 * truth.response)
    assert 5e-4 < area.std(dtype=float) < 0.02
    assert_allclose(area.mean(dtype=float), 1, atol=1e-6)
    assert_array_equal(true_one(camera, NONE()).received(light), light)
