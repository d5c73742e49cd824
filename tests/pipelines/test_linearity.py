"""Linearity: response curves of known amplifiers, from flats of a lamp that is not quite steady."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
)
from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.pipelines.calibration_products.linearity import MeasureLinearityConfig, measure_linearity
from skyquilt.pipelines.calibration_products.linearity_fit import (
    Response,
    fit_response_curves,
    process_covariance,
)
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box

SIDE, GAIN = 64, 1.5
CONFIG = MeasureLinearityConfig()
ISR = InstrumentSignatureRemovalConfig()
TIMES = np.repeat(np.geomspace(0.7, 60.0, 16), 2)


def make_detector(saturation=64000.0, linearity=()):
    """Three amplifiers side by side."""
    amplifiers = tuple(
        Amplifier(
            name=f"A{k}",
            extension=None,
            raw_section=Box(0, 0, SIDE + 40, SIDE),
            raw_data=Box(0, 0, SIDE, SIDE),
            raw_prescan=None,
            raw_overscan=Box(SIDE, 0, 40, SIDE),
            raw_parallel_overscan=None,
            data=Box(SIDE * k, 0, SIDE, SIDE),
            flip_x=False,
            flip_y=False,
            gain=GAIN,
            read_noise=5.0,
            saturation=saturation,
            linearity=linearity,
        )
        for k in range(3)
    )
    return Detector(2, "test", "science", 3 * SIDE, SIDE, 0.01, (0.0, 0.0), 0.0, amplifiers)


def curve(number, stored):
    """Linear level of a stored one [ADU]: a parabola of its own, and a step that no low polynomial follows."""
    size = (0.004, 0.003, 0.0)[number]
    step = size / (1 + np.exp(-(stored - 22000) / 4000)) - size / (1 + math.exp(5.5))
    return stored * (1 + (1.2e-7, -3e-7, 5e-7)[number] * stored + step)


def stored_level(number, linear):
    """The inverse of `curve`, on a fine grid."""
    grid = np.linspace(0, 66000, 6601)
    return np.interp(linear, curve(number, grid), grid)


def make_frames(detector, times, rng, rate=950.0, jitter=5e-4, drift=0.0, noise=True, dust=0.0):
    """Flats at these exposure times, in the order given: vignetted, pixel response, dust, whole ADU."""
    ny, nx = detector.ny, detector.nx
    response = (1 + 0.01 * rng.normal(size=(ny, nx))) * (1 - 0.1 * np.linspace(0, 1, ny)[:, None])
    shaded = rng.random((ny, nx)) < dust
    response[shaded] *= rng.uniform(0.8, 1.0, shaded.sum())
    frames = []
    for number, time in enumerate(times):
        lamp = 1 + jitter * rng.normal() + drift * number / len(times)
        electrons = GAIN * rate * time * lamp * response
        charge = rng.poisson(electrons) if noise else electrons
        sections = {}
        for k, amplifier in enumerate(detector.amplifiers):
            section = np.zeros(amplifier.raw_section.shape)
            part = amplifier.from_assembled(charge) / GAIN
            section[amplifier.raw_data.slices()] = stored_level(k, part)
            section += 1000 + rng.normal(0, 5.0 / GAIN, section.shape)
            sections[amplifier.name] = np.clip(np.rint(section), 0, 65535).astype(np.float32)
        info = SimpleNamespace(
            exposure_time=float(time), datetime_mid=60000.0 + number / 1000.0, visit=number
        )
        frames.append(SimpleNamespace(detector=detector, info=info, amplifiers=sections, header_wcs=None))
    return frames


def measure(frames, config=CONFIG):
    return measure_linearity(frames.__getitem__, len(frames), DetectorCalibrations(), config, ISR)


def relative_errors(linearizer, number, levels):
    return linearizer.linear(number, levels) / curve(number, levels) - 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_levels_come_out_linear(seed):
    """From 1 % to 90 % of the range linear levels are right to 0.1 %, with a jittering, drifting lamp."""
    rng = np.random.default_rng(seed)
    times = rng.permutation(TIMES)
    found, figures = measure(make_frames(make_detector(), times, rng, drift=0.001))
    assert found.measured == (True,) * 3
    levels = np.geomspace(600.0, 0.9 * 56000.0, 60)
    for number in range(3):
        assert np.abs(relative_errors(found, number, levels)).max() < 1e-3
        truth = curve(number, levels) - levels
        assert np.abs(truth / levels).max() > 2e-3, "there is something to be corrected"
    # the jitter is 0.05 % in truth; 32 frames tell a standard deviation to an eighth of it, and it shares with the drift
    assert 2e-4 < figures["lamp_jitter"] < 9e-4
    assert len(figures["amplifiers"]["A1"]["residual"]) == 32


def test_dust_is_no_nonlinearity():
    """A tenth of the pixels shaded by up to 20 %, which noise hides in faint flats only, bends no curve."""
    rng = np.random.default_rng(6)
    detector = make_detector()
    found, _ = measure(make_frames(detector, rng.permutation(TIMES), rng, jitter=1e-5, dust=0.1))
    levels = np.geomspace(1000.0, 50000.0, 40)
    for number in range(3):
        # the noise of the flats and the step of the tables; to leave out dust as it shows would bend by 5e-3
        assert np.abs(relative_errors(found, number, levels)).max() < 5e-4


def test_errors_are_honest():
    """Over 24 surveys of arrays the pulls of the curves have a width near 1."""
    pulls = []
    for seed in range(24):
        rng = np.random.default_rng(100 + seed)
        times = rng.permutation(np.repeat(np.linspace(0.02, 1, 12), 2))
        lamp = 1 + 5e-4 * rng.normal(size=times.size)
        curvature, responses = rng.normal(0, 0.01, 2), []
        for k in range(2):
            light = 0.9 * times * lamp
            grid = np.linspace(0, 1, 4001)
            level = np.interp(light, grid * np.exp(curvature[k] * grid**1.5), grid)
            noise = np.full(times.size, 1e-10)
            responses.append(Response(np.arange(times.size), level, np.log(level / times), noise))
        curves = fit_response_curves(responses, np.linspace(0, 1, times.size), 5e-4)
        at = np.array([0.1, 0.4, 0.85])
        for k in range(2):
            value, error = curves.at(k, at)
            pulls.append((value - curvature[k] * at**1.5) / error)
    # pulls of one survey are not independent: take 24 x 2 of them for the error of the width
    width = np.sqrt(np.mean(np.square(pulls)))
    assert 1 - 4 / np.sqrt(2 * 48) < width < 1 + 4 / np.sqrt(2 * 48)


def test_a_linear_amplifier_stays_so():
    """Without nonlinearity the correction is 0 within its error, which is below 0.1 % of the level."""
    times = np.random.default_rng(0).permutation(TIMES)
    level = 0.95 * times / times.max()
    jitter = 5e-4 * np.random.default_rng(1).normal(size=times.size)
    response = Response(
        np.arange(times.size), level, np.log(level / times) + jitter, np.full(times.size, 1e-9)
    )
    value, error = fit_response_curves([response], np.zeros(times.size), 5e-4).at(
        0, np.linspace(0.01, 0.9, 9)
    )
    assert (np.abs(value) < 4 * error + 1e-6).all()
    assert (error < 1e-3).all()


def test_nothing_is_claimed_beyond_the_highest_flat():
    """Above the highest flat errors are NaN, the curve goes on a little and is held then; 0 at 0; steps as configured."""
    rng = np.random.default_rng(4)
    frames = make_frames(make_detector(), rng.permutation(TIMES[TIMES < 30]), rng)
    found, figures = measure(frames)
    highest = figures["amplifiers"]["A0"]["largest_adu"]
    assert found.largest[0] == highest
    assert found.step == CONFIG.step
    knots = found.step * np.arange(found.corrections.shape[1])
    assert_array_equal(np.isfinite(found.errors[0]), knots <= highest)
    assert found.corrections[0, 0] == 0
    # a fifth beyond the flats the curve is certain to 0.5 % or it is not used; held it would be wrong by its slope
    above = np.linspace(1.0, 1.1, 6) * highest
    assert (np.abs(relative_errors(found, 0, above)) < 3 * CONFIG.max_error).all()
    last = 1.2 * highest
    far = found.linear(0, np.array([last + 2000.0, last + 9000.0]))
    assert_allclose(np.diff(far), 7000.0, rtol=1e-12)
    assert abs(relative_errors(found, 0, np.array([highest]))[0]) < 1e-3


def test_the_error_of_the_slope_is_true():
    """Slopes of curves drawn from the process itself scatter by the quoted error about what is found."""
    levels = np.linspace(0.02, 1.0, 14)
    grid = np.sort(np.append(levels, [0.31, 0.33, 0.62, 0.64, 0.9, 0.92]))
    below = np.searchsorted(grid, [0.31, 0.62, 0.9])
    root = np.linalg.cholesky(process_covariance(grid, grid, 0.03) + 1e-14 * np.eye(grid.size))
    pulls = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        curve = root @ rng.normal(size=grid.size)
        at_levels = curve[np.searchsorted(grid, levels)]
        noise = 1e-4 * rng.normal(size=levels.size)
        response = Response(np.arange(levels.size), levels, -at_levels + noise, np.full(levels.size, 1e-8))
        curves = fit_response_curves([response], np.zeros(levels.size), 1e-6)
        value, _ = curves.at(0, grid)
        error = curves.slope_error(0, grid[below], 0.02)
        pulls.append((np.diff(value)[below] - np.diff(curve)[below]) / 0.02 / error)
    width = np.sqrt(np.mean(np.square(pulls)))
    # three slopes of 40 curves, and a curvature that is itself estimated from 14 levels
    assert 1 - 4 / np.sqrt(2 * 40) < width < 1 + 4 / np.sqrt(2 * 40)


def test_saturated_flats_are_left_out_for_their_amplifier():
    """Flats at the converter's limit, marked or not, do not bend the curve."""
    rng = np.random.default_rng(5)
    times = rng.permutation(np.append(TIMES, [75.0, 90.0]))
    detector = make_detector(saturation=200000.0)
    found, figures = measure(make_frames(detector, times, rng))
    levels = np.geomspace(600.0, 50000.0, 30)
    for number in range(3):
        assert figures["amplifiers"][f"A{number}"]["points"] <= 33
        assert np.abs(relative_errors(found, number, levels)).max() < 1.2e-3


def test_a_dead_amplifier_keeps_the_definition():
    """An amplifier that could not be measured has the camera definition's correction, and says so."""
    rng = np.random.default_rng(6)
    frames = make_frames(make_detector(linearity=(1e-7,)), rng.permutation(TIMES), rng)
    for frame in frames:
        frame.amplifiers["A2"][:] = 1000.0
    found, figures = measure(frames)
    assert found.measured == (True, True, False)
    assert not figures["amplifiers"]["A2"]["measured"]
    assert np.isnan(found.errors[2]).all()
    assert_allclose(found.linear(2, np.array([30000.0])), 30000.0 + 1e-7 * 30000.0**2, rtol=1e-6)
    # the definition's polynomial must not be applied before measuring
    assert np.abs(relative_errors(found, 0, np.geomspace(600.0, 50000.0, 30))).max() < 1e-3


def test_too_few_exposure_times():
    """Three exposure times, or many alike, are not enough; the message says what was found."""
    rng = np.random.default_rng(7)
    frames = make_frames(make_detector(), np.repeat([5.0, 20.0, 50.0], 4), rng)
    with pytest.raises(ProcessingFailure, match="3 exposure times, at least 4") as caught:
        measure(frames)
    assert caught.value.reason is Reason.TOO_FEW_INPUTS
    with pytest.raises(ProcessingFailure, match="too_few_inputs"):
        measure(make_frames(make_detector(), [30.0, 31.0, 32.0, 33.0, 34.0], rng))


def test_a_lamp_that_flickers_is_no_measurement():
    """Light that changes by a tenth between a few flats leaves the definition's correction in force."""
    rng = np.random.default_rng(8)
    frames = make_frames(make_detector(), [3.0, 8.0, 20.0, 35.0, 50.0], rng, jitter=0.1)
    with pytest.raises(ProcessingFailure, match="lamp jitter"):
        measure(frames)


def test_frames_that_fail_are_left_out():
    """An unreadable flat is named with its reason and does no harm."""
    rng = np.random.default_rng(9)
    frames = make_frames(make_detector(), rng.permutation(TIMES), rng)

    def read(i):
        if i == 3:
            raise ProcessingFailure(Reason.MISSING_FILE, "gone")
        return frames[i]

    found, figures = measure_linearity(read, len(frames), DetectorCalibrations(), CONFIG, ISR)
    assert [(each["frame"], each["reason"]) for each in figures["left_out"]] == [(3, "missing_file")]
    assert all(found.measured)


def test_options_are_checked():
    """Options outside their range are refused."""
    for wrong in ({"min_exposure_times": 2}, {"step": 0.0}, {"lamp_jitter": 0.0}, {"clip": 1.0}):
        with pytest.raises(ValueError, match="linearity needs"):
            MeasureLinearityConfig(**wrong)
