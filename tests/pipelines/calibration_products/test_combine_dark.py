"""Combined dark."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
)
from skyquilt.pipelines.calibration_products.combine_bias import CombineBiasConfig, combine_bias
from skyquilt.pipelines.calibration_products.combine_dark import CombineDarkConfig, combine_dark
from skyquilt.primitives.failure import ProcessingFailure, Reason

ISR = InstrumentSignatureRemovalConfig()
CONFIG = CombineDarkConfig()
NONE = DetectorCalibrations()


def current():
    """Dark current with a glow at an edge and a hot pixel [electron / s]."""
    rate = 0.05 + 0.3 * np.exp(-np.arange(80) / 10)[:, None] * np.ones((80, 100))
    rate[40, 30] = 20.0
    return rate


@pytest.mark.parametrize("times", [(300.0,) * 3, (30.0, 600.0, 120.0, 600.0), (900.0, 900.0)])
def test_dark_current_of_any_exposure_times(small, rng, times):
    """The current comes back with pulls of unit width from frames of any times; the hot pixel stays, hits go."""
    detector, rate = small.detector(), current()
    frames = [small.frame(detector, rate * t, 0.0, rng, t) for t in times]
    for k, each in enumerate(frames):
        # tracks of 300 electrons a pixel with a skirt
        each.amplifiers["A"][5 + 6 * k, 10:30] += 200.0
        each.amplifiers["A"][6 + 6 * k, 10:30] += 15.0
    found = combine_dark(frames.__getitem__, len(times), NONE, CONFIG, ISR)
    assert found.exposure.unit == "electron/s"
    pull = (found.exposure.image - rate) / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size))
    assert abs(pull[40, 30]) < 5
    # a skirt of 22 electrons is 3.5 sigma of the shortest frame and hardly any of one with dark current
    assert np.abs(pull[5 : 6 * len(times) + 1, 10:30]).max() < 6
    # the best mean possible has weights t / (t + r^2 / rate)
    seconds = np.array(times)
    ideal = 1 / np.sum(1 / ((36 + 0.05 * seconds) / seconds**2))
    assert_allclose(np.median(found.exposure.variance[60:]), ideal, rtol=0.12)
    assert found.figures["exposure_times"] == list(times)


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_the_bias_is_in_the_variance(small, seed):
    """With a bias of few frames the error common to all darks is in the variance: pulls are of unit width."""
    rng = np.random.default_rng(seed)
    detector, rate = small.detector(), np.full(small.SHAPE, 0.1)
    pattern = 20.0 * (np.arange(100) % 2)
    biases = [small.frame(detector, 0.0, pattern, rng) for _ in range(3)]
    bias = combine_bias(biases.__getitem__, 3, CombineBiasConfig(), ISR).exposure
    frames = [small.frame(detector, rate * 100, pattern, rng, 100.0) for _ in range(9)]
    found = combine_dark(frames.__getitem__, 9, DetectorCalibrations(bias=bias), CONFIG, ISR)
    pull = (found.exposure.image - rate) / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size))


def test_one_dark(small, rng):
    """Of a single frame tracks are masked by their shape; hot pixels and columns stay."""
    detector, rate = small.detector(), current()
    rate[:, 70] += 1.0
    one = small.frame(detector, rate * 300, 0.0, rng, 300.0)
    one.amplifiers["A"][20:24, 20:24] += 300.0
    found = combine_dark(lambda i: one, 1, NONE, CONFIG, ISR)
    hit = found.exposure.mask.any(["COSMIC_RAY"])
    assert hit[20:24, 20:24].all()
    assert hit.sum() == found.figures["cosmic_ray_pixels"] == 36
    assert_array_equal(np.isnan(found.exposure.image), hit)
    assert_allclose(found.exposure.image[40, 30], 20.0, atol=5 * np.sqrt(6036) / 300)
    assert_allclose(np.median(found.exposure.image[40:, 70]), 1.05, atol=0.05)
    with pytest.raises(ProcessingFailure, match="at least 2"):
        combine_dark(lambda i: one, 1, NONE, replace(CONFIG, min_frames=2), ISR)


def test_unsteady_hot_pixels_are_suspect(small, rng):
    """A pixel whose charge is not proportional to time is SUSPECT, a steady hot one is not."""
    detector = small.detector()
    times = (60.0, 60.0, 60.0, 600.0, 600.0)
    frames = []
    for t in times:
        charge = 0.05 * t * np.ones(small.SHAPE)
        charge[10, 10], charge[20, 20] = 5.0 * t, 800.0 * np.sqrt(t)
        frames.append(small.frame(detector, charge, 0.0, rng, t))
    found = combine_dark(frames.__getitem__, 5, NONE, CONFIG, ISR)
    assert np.argwhere(found.exposure.mask.any(["SUSPECT"])).tolist() == [[20, 20]]


def test_frames_left_out(small, rng):
    """Without an exposure time, lit, or with another size a frame is left out with its reason."""
    detector = small.detector()
    frames = [small.frame(detector, 15.0 + 500.0 * (k == 1), 0.0, rng, 300.0) for k in range(4)]
    frames.append(small.frame(detector, 0.0, 0.0, rng, 0.0))
    frames.append(small.frame(small.detector(shape=(40, 100)), 15.0, 0.0, rng, 300.0))
    found = combine_dark(frames.__getitem__, 6, NONE, CONFIG, ISR)
    reasons = [None, Reason.EXCLUDED, None, None, Reason.BAD_HEADER, Reason.WRONG_SHAPE]
    assert [outcome.reason for outcome in found.frames] == reasons
    assert_allclose(found.exposure.image.mean(), 0.05, atol=5 * np.sqrt(51 / 3 / 8000) / 300)
    bare = small.detector(overscan=False)
    lone = small.frame(bare, 15.0, 0.0, rng, 300.0)
    with pytest.raises(ProcessingFailure, match=r"no_calibration.*no overscan"):
        combine_dark(lambda i: lone, 1, NONE, CONFIG, ISR)


@pytest.mark.parametrize("wrong", [{"track_pixels": 1}, {"max_level_difference": 0.0}, {"reach": -1}])
def test_options_are_checked(wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match="combin"):
        CombineDarkConfig(**wrong)
