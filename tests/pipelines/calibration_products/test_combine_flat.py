"""Combined flat."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
)
from skyquilt.io.fits import PixelFile, write_exposure
from skyquilt.pipelines.calibration_products.combine_bias import CombineBiasConfig, combine_bias
from skyquilt.pipelines.calibration_products.combine_dark import CombineDarkConfig, combine_dark
from skyquilt.pipelines.calibration_products.combine_flat import CombineFlatConfig, combine_flat
from skyquilt.primitives.detector_characterization import PhotonTransfer
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box

ISR = InstrumentSignatureRemovalConfig()
CONFIG = CombineFlatConfig()
NONE = DetectorCalibrations()


def response_of(shape):
    """Response of median 1."""
    response = 1.0 + 0.1 * np.sin(np.arange(shape[0]) / 20.0)[:, None] * np.ones(shape)
    return response / np.median(response)


def test_flat_is_the_response(small, rng):
    """The flat of frames of different levels is the response, median 1, with pulls of unit width; sources go."""
    detector, response = small.detector(), response_of(small.SHAPE)
    levels = (20000.0, 30000.0, 25000.0, 5000.0, 300.0)
    frames = [small.frame(detector, level * response, 0.0, rng) for level in levels]
    frames[1].amplifiers["A"][30:34, 10:14] += 3000.0
    frames.append(small.frame(detector, 1.0e5 * response, 0.0, rng))
    found = combine_flat(frames.__getitem__, 6, NONE, CONFIG, ISR)
    reasons = [outcome.reason for outcome in found.frames]
    assert reasons == [None] * 4 + [Reason.EXCLUDED, Reason.SATURATED_FRAME]
    assert_allclose([outcome.value for outcome in found.frames[:4]], levels[:4], rtol=2e-3)
    assert np.median(found.exposure.image) == pytest.approx(1.0, abs=1e-6)
    pull = (found.exposure.image - response) / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size))
    # of 8000 pixels 180 are within their noise of the median of the response: which is known to 0.075 of that noise
    assert abs(pull.mean()) < 4 * 0.075
    assert_array_equal(found.counts[30:34, 10:14], 3)
    total = sum(levels[:4])
    assert_allclose(np.median(found.exposure.variance), 1 / total, rtol=0.05)


def test_three_flats_of_one_level(small, rng):
    """The least set: three flats of one level and nothing else give response and variance."""
    detector, response = small.detector(), response_of(small.SHAPE)
    frames = [small.frame(detector, 20000.0 * response, 0.0, rng) for _ in range(3)]
    found = combine_flat(frames.__getitem__, 3, NONE, CONFIG, ISR)
    pull = (found.exposure.image - response) / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size))
    assert_allclose(found.figures["amplifier_levels"]["A"], 20000 * np.median(response[:, :50]), rtol=2e-3)


def test_flat_subtracts_the_bias_and_the_dark(small, rng):
    """A pattern in bias and dark does not print on the flat, and their noise is in its variance."""
    detector = small.detector()
    pattern, rate = 200.0 * (np.arange(100) % 2), np.full(small.SHAPE, 0.5)
    rate[:, 33] = 30.0
    biases = [small.frame(detector, 0.0, pattern, rng) for _ in range(3)]
    bias = combine_bias(biases.__getitem__, 3, CombineBiasConfig(), ISR).exposure
    known = DetectorCalibrations(bias=bias)
    darks = [small.frame(detector, 100 * rate, pattern, rng, 100.0) for _ in range(3)]
    known = replace(known, dark=combine_dark(darks.__getitem__, 3, known, CombineDarkConfig(), ISR).exposure)
    level = 1500.0
    flats = [small.frame(detector, level + 20 * rate, pattern, rng, 20.0) for _ in range(9)]
    found = combine_flat(flats.__getitem__, 9, known, CONFIG, ISR)
    flat = found.exposure.image
    # noise of a mean of 40 x 80 pixels
    error = np.sqrt(np.median(found.exposure.variance) / 4000)
    assert abs(flat[:, ::2].mean() - flat[:, 1::2].mean()) < 5 * 2**0.5 * error
    pull = (flat - 1) / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size))
    # 600 electrons of dark charge have shot noise, and 40 of the dark frames' own
    assert_allclose(pull[:, 33].std(), 1.0, atol=4 / np.sqrt(160) + 0.1)


def test_measured_gain_makes_amplifiers_agree(small, rng):
    """With wrong nominal gains the flat has steps; with the measured gains it has none."""
    true = small.detector()
    wrong = replace(true, amplifiers=tuple(replace(a, gain=1.0) for a in true.amplifiers))
    flats = [small.frame(true, 20000.0, 0.0, rng) for _ in range(3)]
    for each in flats:
        each.detector = wrong
    step = [combine_flat(flats.__getitem__, 3, known, CONFIG, ISR) for known in (NONE, transfer(small))]
    halves = [f.exposure.image[:, :50].mean() / f.exposure.image[:, 50:].mean() for f in step]
    # 4000 pixels in each half, of variance 1 / 60000
    assert_allclose(halves, [small.GAINS[1] / small.GAINS[0], 1.0], atol=5 * np.sqrt(2 / 6e4 / 4e3))
    # noise that the wrong gain would make wrong is measured
    for each in step:
        part = each.exposure.subimage(Box(0, 0, 50, 80))
        pull = (part.image - part.image.mean()) / np.sqrt(part.variance)
        assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size))


def transfer(small):
    """Calibrations with the true gains and nothing else."""
    unknown = np.full(2, np.nan)
    return DetectorCalibrations(
        photon_transfer=PhotonTransfer(
            ("A", "B"), np.array(small.GAINS), 0 * unknown, unknown, unknown, unknown, unknown,
            np.full((2, 1), np.nan), np.full((2, 1, 2, 2), np.nan), np.full((2, 1, 2, 2), np.nan),
        )
    )  # fmt: skip


def test_a_missing_amplifier_does_not_shift_the_others(small, rng):
    """Frames in which an amplifier is dead are divided by what the whole detector's level would have been."""
    detector = small.detector()
    response = response_of(small.SHAPE)
    response[:, 50:] *= 0.95
    response /= np.median(response)
    frames = [small.frame(detector, 20000.0 * response, 0.0, rng) for _ in range(4)]
    frames[1].amplifiers["B"][...] = np.nan
    found = combine_flat(frames.__getitem__, 4, NONE, CONFIG, ISR)
    pull = (found.exposure.image - response) / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size))
    # divided by the median of one half, frame 1 would be off by a fortieth, 7 of its pixels' noise
    assert abs(pull[:, :50].mean()) < 0.4
    for each in frames:
        each.amplifiers["B" if each is not frames[2] else "A"][...] = np.nan
    lone = combine_flat(frames.__getitem__, 4, NONE, CONFIG, ISR)
    assert np.isfinite(lone.exposure.image).all()
    for each in frames:
        each.amplifiers["B"][...] = np.nan
    with pytest.raises(ProcessingFailure, match="no_good_pixels"):
        combine_flat(lambda i: frames[2], 3, NONE, CONFIG, ISR)


def test_dithered_stars_go(small, rng):
    """Stars of twilight flats, at another place in each frame, leave less than a pixel's noise."""
    detector = small.detector()
    y, x = np.mgrid[:80, :100]
    frames = []
    for k in range(5):
        light = np.full(small.SHAPE, 20000.0)
        for j, i in ((15 + 12 * k, 20 + 3 * k), (70 - 12 * k, 75 - 2 * k)):
            light += 3e4 * np.exp(-((y - j) ** 2 + (x - i) ** 2) / 8.0)
        frames.append(small.frame(detector, light, 0.0, rng))
    found = combine_flat(frames.__getitem__, 5, NONE, replace(CONFIG, reach=4), ISR)
    pull = (found.exposure.image - 1) / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=small.tolerance(pull.size) + 0.02)
    assert pull.max() < 6


def test_flat_takes_calibrations_from_files(small, rng, tmp_path):
    """A bias that is read from its file some rows at a time gives the flat that one in memory gives."""
    detector = small.detector()
    biases = [small.frame(detector, 0.0, 50.0 * (np.arange(100) % 2), rng) for _ in range(3)]
    bias = combine_bias(biases.__getitem__, 3, CombineBiasConfig(), ISR, tmp_path).exposure
    assert list(tmp_path.iterdir()) == []
    write_exposure(tmp_path / "bias.fits", bias)
    file = PixelFile.open(tmp_path / "bias.fits")
    box = Box(3, 5, 40, 20)
    assert file.box == bias.box
    assert file.subimage(box).differences(bias.subimage(box)) == []
    flats = [small.frame(detector, np.full(small.SHAPE, 20000.0), 0.0, rng) for _ in range(3)]
    one, other = (
        combine_flat(flats.__getitem__, 3, DetectorCalibrations(bias=each), CONFIG, ISR)
        for each in (bias, file)
    )
    assert one.exposure.differences(other.exposure) == []
    wrong = DetectorCalibrations(bias=replace(file, box=Box(0, 0, 10, 10)))
    with pytest.raises(ProcessingFailure, match="wrong_shape"):
        combine_flat(flats.__getitem__, 3, wrong, CONFIG, ISR)


@pytest.mark.parametrize("wrong", [{"min_level": 0.0}, {"min_frames": 0}, {"max_saturated": 2.0}])
def test_options_are_checked(wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match="combin"):
        CombineFlatConfig(**wrong)
