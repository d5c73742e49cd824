"""Combined bias."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.instrument_signature_removal import InstrumentSignatureRemovalConfig
from skyquilt.pipelines.calibration_products.combine_bias import CombineBiasConfig, combine_bias
from skyquilt.primitives.failure import ProcessingFailure, Reason

ISR = InstrumentSignatureRemovalConfig()
CONFIG = CombineBiasConfig()


def test_bias_pattern_variance_and_outliers(small, rng):
    """The pattern comes back with pulls of unit width; cosmic rays are left out and counted."""
    detector = small.detector()
    pattern = 3.0 * np.sin(np.arange(100) / 3.0)
    frames = [small.frame(detector, 0.0, pattern, rng) for _ in range(9)]
    for k, each in enumerate(frames):
        each.amplifiers["A"][10 + k, 5:15] += 5000.0
    found = combine_bias(frames.__getitem__, 9, CONFIG, ISR)
    pull = (found.exposure.image - pattern) / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size))
    # beside a hit, values from 3 sigma on go too: about one of 250 beside each
    assert (found.counts[10:19, 5:15] <= 8).all()
    assert (found.counts[10:19, 5:15] >= 7).all()
    assert found.rejected == pytest.approx(90 / (9 * pull.size), rel=0.05)
    assert_allclose(
        found.exposure.variance[:, :50].mean(), (small.READ_NOISE / small.GAINS[0]) ** 2 / 9, rtol=0.05
    )
    assert found.exposure.unit == "adu"
    assert_allclose(list(found.figures["noise_ratio"].values()), 1.0, atol=0.04)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_any_number_of_frames(small, rng, n):
    """From one frame on, as many as the options ask for, pulls are of unit width."""
    detector = small.detector()
    frames = [small.frame(detector, 0.0, 0.0, rng) for _ in range(n)]
    found = combine_bias(frames.__getitem__, n, replace(CONFIG, min_frames=1), ISR)
    pull = found.exposure.image / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size))
    with pytest.raises(ProcessingFailure, match=f"{n} usable frames, at least {n + 1}"):
        combine_bias(frames.__getitem__, n, replace(CONFIG, min_frames=n + 1), ISR)


def test_without_overscan_the_level_stays_and_its_drift_is_stated(small, rng):
    """Levels of frames that differ by more than the noise do not spoil clipping or variance; the median level stays."""
    detector = small.detector(overscan=False)
    pattern = 3.0 * np.sin(np.arange(100) / 3.0)
    drift = np.array([-40.0, 0.0, 25.0, 3.0, -7.0])
    # the definition's read noise is half the true one
    wrong = replace(
        detector, amplifiers=tuple(replace(a, read_noise=0.5 * small.READ_NOISE) for a in detector.amplifiers)
    )
    frames = [small.frame(wrong, 0.0, pattern, rng, level=1000.0 + d) for d in drift]
    frames[2].amplifiers["A"][10:12, 10:12] += 500.0
    found = combine_bias(frames.__getitem__, 5, CONFIG, ISR)
    residual = found.exposure.image - pattern - 1000.0
    pull = residual / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size))
    # median of 4000 pixels, and of frames whose drifts have the median 0
    assert abs(residual.mean()) < 5 * 1.25 * small.READ_NOISE / np.sqrt(4000)
    assert_array_equal(found.counts[10:12, 10:12], 4)
    assert found.figures["no_overscan"] == ["A", "B"]
    assert_allclose(found.figures["level_drift_adu"]["B"], drift, atol=0.5)
    assert_allclose(list(found.figures["noise_ratio"].values()), 2.0, rtol=0.04)


def test_a_frame_that_saw_light_is_left_out(small, rng):
    """A frame whose level above overscan is not the others' is left out with the reason."""
    detector = small.detector()
    frames = [small.frame(detector, 200.0 * (k == 1), 0.0, rng) for k in range(4)]
    found = combine_bias(frames.__getitem__, 4, CONFIG, ISR)
    assert [outcome.reason for outcome in found.frames] == [None, Reason.EXCLUDED, None, None]
    assert "level" in found.frames[1].detail
    assert abs(found.exposure.image.mean()) < 0.5


def test_lost_frames_and_amplifiers(small, rng):
    """A frame that cannot be read, has no data or another shape is left out; pixels that no frame has are BAD and NaN."""
    detector = small.detector()
    frames = [small.frame(detector, 0.0, 0.0, rng) for _ in range(6)]
    for each in frames:
        each.amplifiers["B"][...] = np.nan
    frames[3].amplifiers["A"][...] = np.nan
    del frames[4].amplifiers["B"]
    frames[5] = small.frame(small.detector(shape=(40, 100)), 0.0, 0.0, rng)

    def read(i):
        if i == 2:
            raise ProcessingFailure(Reason.UNREADABLE_FILE, "truncated")
        return frames[i]

    found = combine_bias(read, 6, CONFIG, ISR)
    reasons = [None, None, Reason.UNREADABLE_FILE, Reason.NO_GOOD_PIXELS, None, Reason.WRONG_SHAPE]
    assert [outcome.reason for outcome in found.frames] == reasons
    assert found.exposure.mask.any(["BAD"])[:, 50:].all()
    assert np.isnan(found.exposure.image[:, 50:]).all()
    assert np.isfinite(found.exposure.image[:, :50]).all()
    assert found.figures["noise_ratio"]["B"] is None
    with pytest.raises(ProcessingFailure, match=r"3 usable frames, at least 4 .*unreadable_file") as failure:
        combine_bias(read, 6, CombineBiasConfig(min_frames=4), ISR)
    assert failure.value.reason is Reason.TOO_FEW_INPUTS
    with pytest.raises(ProcessingFailure):
        combine_bias(read, 0, CONFIG, ISR)


@pytest.mark.parametrize(
    "wrong", [{"clip": 1.0}, {"min_frames": 0}, {"near_clip": 9.0}, {"max_level_difference": 0}]
)
def test_options_are_checked(wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match=r"combining|max_level"):
        CombineBiasConfig(**wrong)
