"""What detectors do: full wells, gain, read noise, bias and the order of read-out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.detector_effects import (
    add_cosmic_rays,
    collect,
    compressed,
    read_out,
    row_drift,
    spill_full_wells,
)
from skyquilt.simulation.survey import detector_truth


def spilled(column, well, bleeding=True):
    charge = np.array(column, dtype=float)[:, None].copy()
    lost = spill_full_wells(charge, np.full_like(charge, well), bleeding)
    return charge[:, 0], lost


def test_charge_bleeds_half_each_way():
    """One overfull pixel fills its neighbours up and down alike."""
    column, lost = spilled([0, 0, 0, 0, 500, 0, 0, 0, 0], 100)
    assert_array_equal(column, [0, 0, 100, 100, 100, 100, 100, 0, 0])
    assert lost == 0


def test_charge_leaves_at_the_end_of_a_column():
    """What finds no room up to the edge is lost; the other half stays."""
    column, lost = spilled([300, 0, 0, 0], 100)
    assert_array_equal(column, [100, 100, 0, 0])
    assert lost == 100


def test_without_bleeding_the_excess_is_lost():
    """Switched off, a pixel is cut at its full well and nothing moves."""
    column, lost = spilled([10, 500, 20], 100, bleeding=False)
    assert_array_equal(column, [10, 100, 20])
    assert lost == 400


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1000), min_size=1, max_size=25))
def test_bleeding_conserves_charge(column):
    """No pixel ends above its full well, none loses what it could hold, and charge kept and lost add up."""
    after, lost = spilled(column, 100.0)
    assert (after <= 100 * (1 + 1e-12)).all()
    assert (after >= np.minimum(column, 100) - 1e-9).all()
    assert_allclose(after.sum() + lost, np.sum(column), rtol=1e-12)


def test_spilling_kernel_is_its_plain_twin(rng):
    """The compiled loop and the same text in Python give the same charge."""
    charge = rng.exponential(80, (30, 4))
    twin, well = charge.copy(), np.full(charge.shape, 100.0)
    assert spill_full_wells(charge, well, True) == spill_full_wells.py_func(twin, well, True)
    assert_array_equal(charge, twin)


def test_gain_and_read_noise_come_back_from_flats_and_biases(camera):
    """The photon transfer of flat and bias pairs gives the true gain and read noise within four sigma."""
    config = SimulationConfig(flat_level=30000.0)
    detector = camera.detectors[0]
    truth = detector_truth(config, camera, detector)
    rng = np.random.default_rng(5)
    flats = [collect(config, rng, truth, config.flat_level * truth.response, 5.0) for _ in range(2)]
    dark = np.zeros(truth.response.shape)
    for amplifier in truth.amplifiers:
        one, two = (_trimmed(read_out(config, rng, amplifier, flat), amplifier) for flat in flats)
        zero, other = (read_out(config, rng, amplifier, dark).astype(float) for _ in range(2))
        # row by row, so that the wandering level does not count as noise
        bias_noise = (zero - other - (zero - other).mean(axis=1, keepdims=True)) / np.sqrt(2)
        n, n_row = bias_noise.size, bias_noise.shape[0]
        read_variance = (bias_noise**2).sum() / (n - n_row)
        # rounding to whole ADU adds 1/12
        noise = np.sqrt(read_variance - 1 / 12) * amplifier.gain
        assert abs(noise / amplifier.read_noise - 1) < 4 / np.sqrt(2 * n)
        signal = 0.5 * (one + two).mean() - amplifier.bias_level
        difference = one - two
        variance = 0.5 * difference.var() - read_variance
        # the sample variance of n pixels has relative error sqrt(2/n); drift (1 ADU) and pattern (3 ADU) of
        # 20000 ADU and its (0.7 ADU)^2 of 13000 ADU^2 are a tenth of that
        assert abs(signal / variance / amplifier.gain - 1) < 4 * np.sqrt(2 / one.size)


def _trimmed(raw, amplifier):
    return raw[amplifier.definition.raw_data.slices()].astype(float)


def test_assembling_by_the_camera_restores_the_image(camera):
    """Raw sections in their own order, assembled as the camera says, are the image that was exposed."""
    config = SimulationConfig(read_noise_scatter=0.0).without_effects()
    detector = camera.detectors[1]
    quiet = tuple(dataclasses.replace(a, read_noise=0.0) for a in detector.amplifiers)
    detector = dataclasses.replace(detector, amplifiers=quiet)
    truth = detector_truth(config, camera, detector)
    ny, nx = truth.response.shape
    charge = 1.5 * np.arange(ny * nx, dtype=float).reshape(ny, nx)
    rng = np.random.default_rng(1)
    sections = {a.definition.name: read_out(config, rng, a, charge) - a.bias_level for a in truth.amplifiers}
    # half an ADU of rounding
    assert_allclose(detector.assemble(sections), charge / 1.5, atol=0.51)


def test_overscan_holds_bias_alone(camera):
    """The overscan of a bright flat has the bias level, read noise and nothing of the light."""
    config = SimulationConfig(bias_structure=0.0, bias_drift=0.0)
    truth = detector_truth(config, camera, camera.detectors[0])
    rng = np.random.default_rng(2)
    charge = collect(config, rng, truth, 50000.0 * truth.response, 5.0)
    for amplifier in truth.amplifiers:
        overscan = read_out(config, rng, amplifier, charge)[amplifier.definition.raw_overscan.slices()]
        error = amplifier.read_noise / amplifier.gain / np.sqrt(overscan.size)
        assert abs(overscan.mean() - amplifier.bias_level) < 4 * error


def test_full_pixels_are_stored_above_the_cameras_saturation(camera):
    """Wherever charge reached full well, the stored value is the truth's level, above the definition's."""
    config = SimulationConfig(bias_structure=0.0, bias_drift=0.0)
    truth = detector_truth(config, camera, camera.detectors[0])
    rng = np.random.default_rng(3)
    charge = collect(config, rng, truth, np.full(truth.response.shape, 1e6), 5.0)
    for amplifier in truth.amplifiers:
        stored = _trimmed(read_out(config, rng, amplifier, charge), amplifier)
        assert stored.min() > amplifier.definition.saturation
        assert_allclose(np.median(stored), amplifier.saturation_adu, atol=1.0)


def test_bleeding_trails_are_vertical(camera):
    """A pixel of four full wells fills its column over about four pixels and leaves its row alone."""
    config = SimulationConfig(photon_noise=False)
    truth = detector_truth(config, camera, camera.detectors[0])
    expected = np.full(truth.response.shape, 100.0)
    well = truth.full_well[30, 50]
    expected[30, 50] = 4 * well
    charge = collect(config, np.random.default_rng(4), truth, expected, 30.0)
    full = np.argwhere(charge >= 0.999 * truth.full_well)
    assert set(full[:, 1]) == {50}
    assert set(full[:, 0]) == {29, 30, 31}
    assert_allclose(charge.sum(), expected.sum(), rtol=1e-12)


def test_nonlinearity_is_the_inverse_of_the_cameras(rng):
    """The camera's polynomial applied to what is read gives the linear signal back."""
    coefficients = (-2e-7, 1e-12)
    linear = np.linspace(0, 60000, 50)
    read = compressed(linear, coefficients)
    assert_allclose(read + coefficients[0] * read**2 + coefficients[1] * read**3, linear, atol=1e-6)
    assert np.abs(read - linear).max() > 100
    assert_array_equal(compressed(linear, ()), linear)


def test_bias_level_wanders_by_its_width():
    """The rows' levels scatter by one over many read-outs, and forget their start after some 60 rows."""
    drifts = np.array([row_drift(np.random.default_rng(i), 400) for i in range(400)])
    # 400 independent walks: the sample variance has relative error sqrt(2/400) in each row, less in the mean
    assert_allclose(drifts.var(axis=0).mean(), 1.0, atol=4 * np.sqrt(2 / 400))
    assert abs((drifts[:, 0] * drifts[:, 399]).mean()) < 4 / np.sqrt(400)
    assert_allclose((drifts[:, 0] * drifts[:, 60]).mean(), np.exp(-1), atol=4 * np.sqrt(1.14 / 400))


def test_response_is_vignetting_and_pixels(camera):
    """The response falls with radius and scatters by the configured amount; all visits share it."""
    config = SimulationConfig(vignetting=0.2, pixel_response=0.01)
    truth = detector_truth(config, camera, camera.detectors[0])
    plain = detector_truth(dataclasses.replace(config, pixel_response=0.0), camera, camera.detectors[0])
    ratio = truth.response / plain.response
    assert_allclose(ratio.std(), 0.01, rtol=4 / np.sqrt(2 * ratio.size))
    assert plain.response.max() > 0.99
    assert plain.response.min() == pytest.approx(0.8, abs=0.1)
    assert_array_equal(truth.response, detector_truth(config, camera, camera.detectors[0]).response)


def test_cosmic_rays_come_in_the_number_asked_for(rng):
    """The mean number of tracks is the expected one, each of at least a pixel, all of them inside."""
    charge = np.zeros((200, 200))
    hit = add_cosmic_rays(rng, charge, 30.0)
    assert hit.sum() > 30 - 4 * np.sqrt(30)
    assert_array_equal(hit, charge > 0)
