"""Combined bias and flat."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.io.fits import write_exposure
from skyquilt.pipelines.calibration_products import (
    CombineBiasConfig,
    CombineFlatConfig,
    clipped_combination,
    combine_bias,
    combine_flat,
)
from skyquilt.pipelines.visit_files import CalibrationFile
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box

SHAPE = (80, 100)
GAINS, READ_NOISE = (1.5, 2.0), 6.0


@pytest.fixture
def rng():
    """Generator with a fixed seed."""
    return np.random.default_rng(20260102)


@pytest.fixture
def detector():
    """Two amplifiers side by side, the second flipped in x, each with 20 columns of overscan."""
    amplifiers = [
        Amplifier(
            name=name,
            extension=None,
            raw_section=Box(0, 0, 70, 80),
            raw_data=Box(0, 0, 50, 80),
            raw_prescan=None,
            raw_overscan=Box(50, 0, 20, 80),
            raw_parallel_overscan=None,
            data=Box(50 * k, 0, 50, 80),
            flip_x=k == 1,
            flip_y=False,
            gain=GAINS[k],
            read_noise=READ_NOISE,
            saturation=60000.0,
        )
        for k, name in enumerate("AB")
    ]
    return Detector(3, "test", "science", 100, 80, 0.01, (0.0, 0.0), 0.0, tuple(amplifiers))


def frame(detector, electrons, pattern, rng):
    """Raw frame of `electrons` with photon and read noise over a bias pattern [ADU]."""
    noisy = rng.poisson(electrons) if np.any(electrons) else np.zeros(SHAPE)
    sections = {}
    for amplifier in detector.amplifiers:
        section = 1000.0 + rng.normal(0, READ_NOISE / amplifier.gain, (80, 70))
        part = (noisy / amplifier.gain + pattern * np.ones(SHAPE))[amplifier.data.slices()]
        section[:, :50] += part[:, :: -1 if amplifier.flip_x else 1]
        sections[amplifier.name] = section.astype(np.float32)
    return SimpleNamespace(detector=detector, info=SimpleNamespace(), amplifiers=sections, header_wcs=None)


def gain_image():
    """Gain of each pixel's amplifier."""
    return np.repeat(GAINS, 50)[None, :] * np.ones(SHAPE)


def test_bias_pattern_variance_and_outliers(detector, rng):
    """The pattern comes back with pulls of unit width; cosmic rays are left out and counted."""
    pattern = 3.0 * np.sin(np.arange(SHAPE[1]) / 3.0)
    frames = [frame(detector, 0.0, pattern, rng) for _ in range(9)]
    for k, each in enumerate(frames):
        each.amplifiers["A"][10 + k, 5:15] += 5000.0
    found = combine_bias(frames.__getitem__, 9, CombineBiasConfig())
    pull = (found.exposure.image - pattern) / np.sqrt(found.exposure.variance)
    # the overscan levels, smoothed over 51 rows, add a thousandth of the pixel's variance, but 1 % of the
    # mean's
    assert_allclose(pull.std(), 1.0, atol=4 / np.sqrt(2 * pull.size) + 0.02)
    assert_array_equal(found.counts[10:19, 5:15], 8)
    assert found.rejected == pytest.approx(90 / (9 * pull.size), abs=2e-5)
    assert_allclose(found.exposure.variance[:, :50].mean(), (READ_NOISE / GAINS[0]) ** 2 / 9, rtol=0.05)


def test_flat_is_the_response(detector, rng):
    """The flat is response times gain error, median 1; its pulls are of unit width; sources in one frame
    go."""
    response = 1.0 + 0.1 * np.sin(np.arange(SHAPE[0]) / 20.0)[:, None] * np.ones(SHAPE)
    response /= np.median(response)
    levels = (20000.0, 30000.0, 25000.0, 5000.0, 300.0)
    frames = [frame(detector, level * response, 0.0, rng) for level in levels]
    frames[1].amplifiers["A"][30:34, 10:14] += 3000.0
    frames.append(frame(detector, 1.0e5 * response, 0.0, rng))
    found = combine_flat(frames.__getitem__, 6, None, CombineFlatConfig())
    assert [outcome.reason for outcome in found.frames] == [None] * 4 + [
        Reason.EXCLUDED,
        Reason.SATURATED_FRAME,
    ]
    assert_allclose([outcome.value for outcome in found.frames[:4]], levels[:4], rtol=2e-3)
    pull = (found.exposure.image - response) / np.sqrt(found.exposure.variance)
    # the frames' medians of 8000 pixels are off by 1.25 / sqrt(8000) of a pixel's noise, common to all pixels
    assert_allclose(pull.std(), 1.0, atol=4 / np.sqrt(2 * pull.size) + 0.02)
    assert abs(pull.mean()) < 0.06
    assert_array_equal(found.counts[30:34, 10:14], 3)


def test_flat_subtracts_the_bias(detector, rng):
    """A pattern in the bias does not print on the flat."""
    pattern = 200.0 * (np.arange(SHAPE[1]) % 2)
    biases = [frame(detector, 0.0, pattern, rng) for _ in range(5)]
    bias = combine_bias(biases.__getitem__, 5, CombineBiasConfig()).exposure
    flats = [frame(detector, np.full(SHAPE, 20000.0), pattern, rng) for _ in range(3)]
    flat = combine_flat(flats.__getitem__, 3, bias, CombineFlatConfig()).exposure.image
    # noise of a mean of 40 x 80 pixels of 1/245 relative noise
    assert abs(flat[:, ::2].mean() - flat[:, 1::2].mean()) < 5 * 2**0.5 / np.sqrt(60000) / np.sqrt(4000)


def test_flat_takes_the_bias_from_its_file(detector, rng, tmp_path):
    """A bias that is read from its file some rows at a time gives the flat that one in memory gives."""
    biases = [frame(detector, 0.0, 50.0 * (np.arange(SHAPE[1]) % 2), rng) for _ in range(3)]
    bias = combine_bias(biases.__getitem__, 3, CombineBiasConfig(), tmp_path).exposure
    assert list(tmp_path.iterdir()) == []
    write_exposure(tmp_path / "bias.fits", bias)
    file = CalibrationFile.open(tmp_path / "bias.fits")
    box = Box(3, 5, 40, 20)
    assert file.box == bias.box
    assert file.subimage(box).differences(bias.subimage(box)) == []
    flats = [frame(detector, np.full(SHAPE, 20000.0), 0.0, rng) for _ in range(3)]
    one, other = (combine_flat(flats.__getitem__, 3, each, CombineFlatConfig()) for each in (bias, file))
    assert one.exposure.differences(other.exposure) == []
    small = replace(file, box=Box(0, 0, 10, 10))
    with pytest.raises(ProcessingFailure, match="wrong_shape"):
        combine_flat(flats.__getitem__, 3, small, CombineFlatConfig())


def test_blocks_give_the_same_bytes(detector, rng):
    """Combining in many row blocks gives what one block gives, and each frame is read once."""
    frames = [frame(detector, 0.0, 0.0, rng) for _ in range(4)]
    reads = []

    def read(i):
        reads.append(i)
        return frames[i]

    whole = combine_bias(read, 4, CombineBiasConfig())
    parts = combine_bias(read, 4, CombineBiasConfig(max_memory=4 * 4 * 100 * 7 / 1e6))
    assert reads == 2 * [0, 1, 2, 3]
    assert_array_equal(whole.exposure.image, parts.exposure.image)
    assert_array_equal(whole.exposure.variance, parts.exposure.variance)


def test_lost_frames_and_amplifiers(detector, rng):
    """A frame that cannot be read is left out with its reason; pixels that no frame has are BAD and NaN."""
    frames = [frame(detector, 0.0, 0.0, rng) for _ in range(4)]
    for each in frames:
        each.amplifiers["B"][...] = np.nan

    def read(i):
        if i == 2:
            raise ProcessingFailure(Reason.UNREADABLE_FILE, "truncated")
        return frames[i]

    found = combine_bias(read, 4, CombineBiasConfig())
    assert found.frames[2].reason is Reason.UNREADABLE_FILE
    assert found.exposure.mask.any(["BAD"])[:, 50:].all()
    assert np.isnan(found.exposure.image[:, 50:]).all()
    assert np.isfinite(found.exposure.image[:, :50]).all()
    with pytest.raises(ProcessingFailure, match=r"3 usable frames, at least 4 .*unreadable_file") as failure:
        combine_bias(read, 4, CombineBiasConfig(min_frames=4))
    assert failure.value.reason is Reason.TOO_FEW_INPUTS
    with pytest.raises(ProcessingFailure):
        combine_bias(read, 0, CombineBiasConfig())


def test_combination_equals_a_plain_loop(rng):
    """The kernel equals NumPy pixel by pixel, with outliers and missing values."""
    stack = rng.normal(10, 1, (6, 5, 4)).astype(np.float32)
    stack[0, 0, 0], stack[2, 1] = 100, np.nan
    stack[:, 4, 3] = np.nan
    constant, photon, weights = np.full(6, 0.5), np.full(6, 0.05), rng.uniform(0.5, 1, 6)
    mean, variance = np.empty((5, 4), np.float32), np.empty((5, 4), np.float32)
    counts = np.empty((5, 4), np.int16)
    rejected = clipped_combination(stack, constant, photon, weights, 3.0, mean, variance, counts)
    lost = 0
    for j in range(5):
        for i in range(4):
            values = stack[:, j, i].astype(float)
            good = np.isfinite(values)
            if not good.any():
                assert np.isnan(mean[j, i])
                continue
            middle = np.median(values[good])
            expected = constant + photon * max(middle, 0)
            with np.errstate(invalid="ignore"):
                keep = good & ((values - middle) ** 2 <= 9 * expected)
            lost += good.sum() - keep.sum()
            assert counts[j, i] == keep.sum()
            assert_allclose(mean[j, i], np.average(values[keep], weights=weights[keep]), rtol=1e-6)
            noise = (weights[keep] ** 2 * expected[keep]).sum() / weights[keep].sum() ** 2
            assert_allclose(variance[j, i], noise, rtol=1e-6)
    assert rejected == lost


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (CombineBiasConfig, {"clip": 1.0}),
        (CombineFlatConfig, {"min_level": 0.0}),
        (CombineFlatConfig, {"min_frames": 0}),
    ],
)
def test_options_are_checked(kind, wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match="combin"):
        kind(**wrong)
