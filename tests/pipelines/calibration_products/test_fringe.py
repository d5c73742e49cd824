"""Combined fringe frame."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage, signal

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
)
from skyquilt.pipelines.calibration_products.fringe import (
    CombineFringeConfig,
    block_means,
    combine_fringe,
    source_pixels,
    subtract_smooth,
)
from skyquilt.pipelines.calibration_products.pattern_smoothing import (
    WIDTHS,
    PatternSmoothing,
    best_width,
    smoothing_kernel,
)
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.mask import Mask

SHAPE = (384, 400)
ISR = InstrumentSignatureRemovalConfig()
CONFIG = CombineFringeConfig()


def fringes(rng):
    """Thin-film interference of two lines in a layer of smoothly varying thickness; mean 0."""
    grid = (SHAPE[0] / 6, SHAPE[1] / 6)
    thickness = 0.5 * ndimage.zoom(rng.normal(0, 1, (6, 6)), grid, order=3, grid_mode=True, mode="nearest")
    # waves of 60 pixels and more
    thickness += np.add.outer(np.arange(SHAPE[0]) / 160, np.arange(SHAPE[1]) / 90)
    pattern = 0.7 * np.cos(2 * np.pi * thickness) + 0.4 * np.cos(2 * np.pi * 1.07 * thickness + 1)
    return 0.03 * (pattern - pattern.mean())


def sky_frames(small, rng, pattern, levels, strengths, n_stars=0, response=1.0):
    """Frames of a sky with gradient, fringes and stars at other places in each."""
    detector = small.detector(shape=SHAPE)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frames = []
    for level, strength in zip(levels, strengths):
        slope = rng.uniform(-0.05, 0.05, 2)
        light = level * (1 + slope[0] * (x / 400 - 0.5) + slope[1] * (y / 384 - 0.5)) + strength * pattern
        for _ in range(n_stars):
            j, i, flux = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1]), 300 * rng.pareto(0.8) + 300
            radius = (y - j) ** 2 + (x - i) ** 2
            # Moffat wings
            light += min(flux, 5e5) * 1.5 / (np.pi * 6) * (1 + radius / 6) ** -2.5
        frames.append(small.frame(detector, light * response, 0.0, rng, 60.0))
    return frames


def error_of(found, pattern):
    """Rms difference of a found pattern and the true one over half its height, both without the smooth sky."""
    truth = pattern.astype(np.float32)
    subtract_smooth(truth, CONFIG.sky_degree)
    return np.sqrt(np.nanmean((found.exposure.image - truth) ** 2)) / (0.5 * np.ptp(truth))


@pytest.mark.parametrize("seed", range(2))
def test_fringes_come_back_among_stars(small, seed):
    """The pattern of 3 % of the sky is found to 5 % of itself in ten dithered frames with stars; stars leave nothing."""
    rng = np.random.default_rng(seed)
    pattern = fringes(rng)
    levels = rng.uniform(2500, 5000, 10)
    frames = sky_frames(small, rng, pattern, levels, levels, n_stars=25)
    found = combine_fringe(frames.__getitem__, 10, DetectorCalibrations(), CONFIG, ISR)
    assert error_of(found, pattern) < 0.035
    # hardly more than photon noise: the smoothing chosen shares the error between noise and lost crests
    assert error_of(found, pattern) < 2**0.5 * found.figures["pixel_noise"] / (0.5 * np.ptp(pattern))
    assert abs(np.nanmean(found.exposure.image)) < 1e-6
    truth = pattern.astype(np.float32)
    subtract_smooth(truth, CONFIG.sky_degree)
    binned = (found.exposure.image - truth)[:384, :400].reshape(24, 16, 25, 16).mean(axis=(1, 3))
    # where stars were there is no more light than elsewhere: photons of ten frames in 16 x 16 pixels, and crests
    assert np.abs(binned - np.median(binned)).max() < 6 * 0.018 / 10**0.5 / 16 + 0.02 * np.ptp(truth)
    assert_allclose(found.figures["strengths_per_sky"], 1.0, atol=0.03)
    assert_allclose(found.figures["rms"], truth.std(), rtol=0.03)
    assert max(found.figures["masked_share"]) < 0.5


@pytest.mark.parametrize("seed", range(2))
def test_errors_of_the_pattern_are_true(small, seed):
    """Without smoothing and stars the pulls of the pixels are of unit width, dim corners too; with smoothing as well."""
    rng = np.random.default_rng(10 + seed)
    pattern = fringes(rng)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    response = 1 - 0.4 * ((x - 200) ** 2 + (y - 192) ** 2) / 200**2 / 2
    flat = Exposure(response.astype(np.float32), Mask.blank(SHAPE), np.full(SHAPE, 1e-6, np.float32), unit="")
    known = DetectorCalibrations(flat=flat)
    frames = sky_frames(small, rng, pattern, [3000.0] * 6, [3000.0] * 6, response=response)
    truth = pattern.astype(np.float32)
    subtract_smooth(truth, CONFIG.sky_degree)
    for smoothing in (0.0, 1.5):
        config = replace(CONFIG, smoothing=smoothing)
        found = combine_fringe(frames.__getitem__, 6, known, config, ISR)
        pull = (found.exposure.image - truth) / np.sqrt(found.exposure.variance)
        # of smoothed noise a thirtieth of the pixels is independent
        n = pull.size if smoothing == 0 else pull.size / 30
        assert_allclose(np.nanstd(pull), 1.0, atol=4 / np.sqrt(2 * n) + 0.02)
        edge = np.concatenate([pull[:3].ravel(), pull[:, -3:].ravel()])
        assert_allclose(np.nanstd(edge), 1.0, atol=0.15)
    covariance = found.exposure.noise_covariance
    middle = covariance.shape[0] // 2
    assert_allclose(covariance[middle, middle : middle + 3], correlation(1.5), atol=1e-6)


def correlation(width):
    """Correlation of neighbours after smoothing, at distances 0, 1, 2."""
    kernel = smoothing_kernel(width)
    whole = signal.correlate2d(kernel, kernel, mode="same")
    middle = kernel.shape[0] // 2
    return whole[middle, middle : middle + 3] / whole[middle, middle]


def test_moonlight_has_no_fringes(small, rng):
    """Frames whose sky is half moonlight have half the strength; the pattern is that of the dark sky's frames."""
    pattern = fringes(rng)
    levels = np.array([3000.0, 3000.0, 3000.0, 6000.0, 6000.0, 3000.0])
    strengths = np.array([1.0, 1.0, 1.0, 0.5, 0.0, 1.0]) * levels
    frames = sky_frames(small, rng, pattern, levels, strengths)
    found = combine_fringe(frames.__getitem__, 6, DetectorCalibrations(), CONFIG, ISR)
    assert found.frames[4].reason is Reason.EXCLUDED
    assert_allclose(found.figures["strengths_per_sky"], [1, 1, 1, 0.5, 1], atol=0.03)
    assert error_of(found, pattern) < 0.05


def test_no_fringes_give_no_pattern(small, rng):
    """A sky without fringes gives zero within the errors."""
    frames = sky_frames(small, rng, np.zeros(SHAPE), [3000.0] * 4, [0.0] * 4)
    found = combine_fringe(frames.__getitem__, 4, DetectorCalibrations(), replace(CONFIG, smoothing=0.0), ISR)
    pull = found.exposure.image / np.sqrt(found.exposure.variance)
    assert_allclose(pull.std(), 1.0, atol=0.03)
    # noise of four frames of 0.018 each, known to a hundredth
    assert found.figures["rms"] < (0.02 * 0.018**2 / 4) ** 0.5


def test_frames_left_out(small, rng):
    """Too little sky, nothing but sources and unreadable frames are left out with their reasons."""
    frames = sky_frames(small, rng, np.zeros(SHAPE), [3000.0, 20.0, 3000.0], [0.0] * 3)
    known = DetectorCalibrations()
    found = combine_fringe(frames.__getitem__, 3, known, CONFIG, ISR)
    assert [outcome.reason for outcome in found.frames] == [None, Reason.EXCLUDED, None]
    with pytest.raises(ProcessingFailure, match="fringe: 2 usable frames, at least 3"):
        combine_fringe(frames.__getitem__, 3, known, replace(CONFIG, min_frames=3), ISR)
    with pytest.raises(ProcessingFailure, match="sources cover"):
        combine_fringe(frames.__getitem__, 3, known, replace(CONFIG, max_masked=1e-9), ISR)


def test_smoothing_keeps_waves():
    """Waves of 30 pixels lose the stated share, a slope nothing, up to the edges; holes are filled."""
    x = np.arange(240.0)
    wave = np.cos(2 * np.pi * x / 30)[None, :] * np.ones((120, 1))
    smoothing = PatternSmoothing((120, 240), 2.0)
    found = smoothing.apply(wave.astype(np.float32))
    loss = (1 - np.exp(-0.5 * (2 * np.pi * 2 / 30) ** 2)) ** 2
    assert_allclose(found[:, 20:-20], (1 - loss) * wave[:, 20:-20], atol=1e-4)
    assert loss < (2 * np.pi * 2 / 30) ** 4 / 4
    plane = (np.add.outer(np.arange(120.0), -2 * x) / 100).astype(np.float32)
    assert_allclose(smoothing.apply(plane), plane, atol=2e-5)
    plane[50:53, 60:62] = np.nan
    assert_allclose(
        smoothing.apply(plane)[50:53, 60:62], np.add.outer(np.arange(50, 53), [-120, -122]) / 100, atol=0.02
    )
    plane[:, :60] = np.nan
    assert np.isnan(smoothing.apply(plane)[:, :50]).all()


def test_noise_of_smoothed_pixels(rng):
    """Kernel, variance at each pixel and own weight are those of the smoothing of single points."""
    smoothing = PatternSmoothing((41, 36), 1.5)
    power, own = np.zeros((41, 36)), 0.0
    for j, i in np.ndindex(41, 36):
        point = np.zeros((41, 36), np.float32)
        point[j, i] = 1
        image = smoothing.apply(point)
        power += image.astype(float) ** 2
        own += image[j, i] / (41 * 36)
        if (j, i) == (20, 18):
            kernel = smoothing_kernel(1.5)
            half = kernel.shape[0] // 2
            assert_allclose(
                image[8:33, 6:31], kernel[half - 12 : half + 13, half - 12 : half + 13], atol=1e-6
            )
            assert kernel.sum() == pytest.approx(1.0)
    assert_allclose(smoothing.noise_power(), power, rtol=1e-4)
    assert smoothing.own_weight() == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize("period", [12, 40, 160])
def test_width_is_the_best_there_is(rng, period):
    """The width chosen without the truth has, to a tenth, the least error of all."""
    x = np.arange(300.0)
    wave = (
        0.02 * np.cos(2 * np.pi * x / period)[None, :] * np.cos(2 * np.pi * x / period / 2)[:, None]
    ).astype(np.float32)
    image = wave + rng.normal(0, 0.01, wave.shape).astype(np.float32)
    variance = np.full(wave.shape, 1e-4, np.float32)

    def error(width):
        return np.sqrt(np.mean((PatternSmoothing(wave.shape, width).apply(image) - wave) ** 2))

    errors = [error(width) for width in (0, 1, 2**0.5, 2, 2**1.5, 4, 2**2.5, 8, 2**3.5, 16)]
    assert error(best_width(image, variance)) < 1.1 * min(errors)
    nothing = rng.normal(0, 0.01, wave.shape).astype(np.float32)
    # the widest that a tile of 256 pixels can judge
    assert best_width(nothing, variance) == max(width for width in WIDTHS if 12 * width <= 256)


def test_the_finest_waves_decide(rng):
    """Waves that are fine in one corner only are not smoothed away there."""
    y, x = np.mgrid[:600, :600]
    fine = 0.02 * np.cos(2 * np.pi * x / 9) * np.exp(-((x - 500) ** 2 + (y - 500) ** 2) / 60**2)
    wave = (fine + 0.02 * np.cos(2 * np.pi * y / 120)).astype(np.float32)
    image = wave + rng.normal(0, 0.004, wave.shape).astype(np.float32)
    width = best_width(image, np.full(wave.shape, 1.6e-5, np.float32))
    corner = (slice(440, 560), slice(440, 560))
    smooth = PatternSmoothing(wave.shape, width).apply(image)
    height = (smooth[corner] * fine[corner]).sum() / (fine[corner] ** 2).sum()
    # twicing by a width that the corner asks for loses (2 pi width / 9)^4 / 4, by the others' all of it
    assert height > 0.8


def test_block_means_equal_a_plain_loop(rng):
    """Means of blocks, at the ends too, over finite pixels; NaN where less than half are."""
    image = rng.normal(0, 1, (13, 10)).astype(np.float32)
    image[rng.random(image.shape) < 0.4] = np.nan
    means = np.empty((4, 3), np.float32)
    block_means(image, 4, means)
    for j in range(4):
        for i in range(3):
            block = image[4 * j : 4 * j + 4, 4 * i : 4 * i + 4]
            enough = np.isfinite(block).mean() >= 0.5
            assert_allclose(means[j, i], np.nanmean(block) if enough else np.nan, rtol=1e-5)


def test_waves_are_no_sources(rng):
    """Crests of fringes far above the noise are not masked, stars are."""
    residual = (60 * np.cos(np.arange(256) / 8)[None, :] + rng.normal(0, 20, (256, 256))).astype(np.float32)
    assert source_pixels(residual, CONFIG).mean() < 1e-3
    residual[100:104, 50:54] += 2000
    assert source_pixels(residual, CONFIG)[100:104, 50:54].all()


@pytest.mark.parametrize(
    "wrong", [{"sky_degree": 20}, {"source_clip": 1.0}, {"iterations": -1}, {"clip": 1.0}]
)
def test_options_are_checked(wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match="combin"):
        CombineFringeConfig(**wrong)
