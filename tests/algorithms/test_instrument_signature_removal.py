"""Instrument signature removal: levels, places, variances and masks."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms import instrument_signature_removal
from skyquilt.algorithms.instrument_signature_removal import (
    InstrumentSignatureRemovalConfig,
    run_isr,
)
from skyquilt.algorithms.instrument_signature_removal.assembly import assemble_section, grow_bits
from skyquilt.algorithms.instrument_signature_removal.full_frame import correct_section
from skyquilt.algorithms.instrument_signature_removal.overscan import (
    METHODS,
    OverscanConfig,
    fit_overscan,
    residual_width,
    row_levels,
)
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.mask import Mask

CONFIG = InstrumentSignatureRemovalConfig()


def calibration(image, variance=0.0):
    """Exposure with a clear mask."""
    image = np.asarray(image, np.float32)
    return Exposure(
        image=image, mask=Mask.blank(image.shape), variance=np.full_like(image, variance), unit="adu"
    )


@pytest.mark.parametrize("method", METHODS)
def test_overscan_level_and_read_noise(rng, method):
    """Levels follow a slow drift within their noise, and the read noise is found within 4 standard errors."""
    rows, columns, noise = 400, 24, 4.0
    drift = 1000.0 + (0.0 if method == "constant" else 3.0) * np.sin(np.arange(rows) / 80.0)
    pixels = (drift[:, None] + rng.normal(0, noise, (rows, columns))).astype(np.float32)
    pixels[rng.integers(0, rows, 30), rng.integers(0, columns, 30)] += 3000.0
    fit = fit_overscan(pixels, OverscanConfig(method=method))
    spread = {"rows": 1.0, "constant": 1 / np.sqrt(rows), "smooth": 1.0 / np.sqrt(10)}[method]
    # smooth: at least 10 rows count; a straight line over 51 rows leaves 0.1 of a sine of 500 rows at its
    # ends
    assert_allclose(fit.level, drift, atol=5 * spread * noise / np.sqrt(columns))
    # clipping at 4 sigma takes 0.05 % off; standard error of a width is 1/sqrt(2 n)
    assert_allclose(fit.read_noise, noise, rtol=4 / np.sqrt(2 * rows * columns) + 1.5e-3)


def test_smooth_overscan_level_has_the_stated_noise(rng):
    """Smoothing over w rows of n columns leaves a level noise of at most about 2 / sqrt(n w) read noises."""
    pixels = rng.normal(0, 1.0, (3000, 24)).astype(np.float32)
    config = OverscanConfig(smoothing=51)
    assert fit_overscan(pixels, config).level.std() < 2.0 / np.sqrt(24 * 51)


def test_overscan_without_finite_pixels():
    """An overscan of NaN has no level and no read noise, and does not fail."""
    fit = fit_overscan(np.full((20, 8), np.nan, np.float32), OverscanConfig())
    assert np.isnan(fit.level).all()
    assert np.isnan(fit.read_noise)


@pytest.mark.parametrize("wrong", [{"method": "spline"}, {"smoothing": 0.5}, {"clip": 1.0}, {"skip": -1}])
def test_overscan_options_are_checked(wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match="overscan"):
        OverscanConfig(**wrong)


def test_overscan_kernels_equal_their_python_twins(rng):
    """The compiled kernels give the plain Python results."""
    pixels = rng.normal(100, 3, (7, 12)).astype(np.float32)
    pixels[2, 3], pixels[4] = 1e4, np.nan
    levels = row_levels(pixels, 4.0)
    assert_allclose(levels, row_levels.py_func(pixels, 4.0), rtol=1e-12)
    assert_allclose(
        residual_width(pixels, levels, 4.0), residual_width.py_func(pixels, levels, 4.0), rtol=1e-12
    )
    assert np.isnan(levels[4])
    keep = np.delete(pixels[2], 3).astype(float)
    assert_allclose(levels[2], keep.mean(), rtol=1e-6)


def test_isr_restores_electrons_in_place(detector, raw_frame, rng):
    """Without noise every pixel of both amplifiers, one of them flipped, comes back where it was."""
    electrons = rng.uniform(100, 50000, (64, 90))
    bias, flat = rng.uniform(-20, 20, (64, 90)), rng.uniform(0.8, 1.2, (64, 90))
    raw = raw_frame(detector, electrons * flat, rng, read_noise=1e-3, bias=bias)
    result = run_isr(raw, calibration(bias), calibration(flat), CONFIG)
    # float32 ADU of 3e4 are 2e-3 apart; a straight line over 51 rows leaves at most 51^2 / 12 of the
    # drift's second
    # derivative (5 / 80^2 ADU) at the first row, times the gain and over the flat
    assert_allclose(result.exposure.image, electrons, rtol=1e-5, atol=51**2 / 12 * 5 / 80**2 * 2.0 / 0.8)
    assert not result.exposure.mask.any().any()
    assert [each.status for each in result.amplifiers] == ["good", "good"]


def test_quoted_variance_is_the_scatter(detector, raw_frame, rng):
    """Pulls of pixels with photon and read noise, noisy bias and noisy flat have unit variance."""
    shape = (64, 90)
    flat = np.linspace(0.7, 1.3, 90)[None, :] * np.ones((64, 1))
    pulls = []
    for level in (50.0, 2000.0, 40000.0):
        electrons = rng.poisson(level * flat).astype(float)
        noisy_bias = calibration(rng.normal(0, 2.0, shape), 4.0)
        noisy_flat = calibration(flat + rng.normal(0, 0.004, shape), 0.004**2)
        exposure = run_isr(raw_frame(detector, electrons, rng), noisy_bias, noisy_flat, CONFIG).exposure
        pulls.append((exposure.image - level) / np.sqrt(exposure.variance))
    n = pulls[0].size
    # 1.2 %: the read noise is measured from 900 pixels per amplifier, 2.4 % of it in the variance at the
    # faint end
    assert_allclose([p.var() for p in pulls], 1.0, atol=4 * np.sqrt(2 / n) + 0.03)
    # at 50 electrons variance and pixel go together: the mean pull is -var(pixel noise)/... of order 1/(2
    # sqrt(var))
    assert_allclose([p.mean() for p in pulls[1:]], 0.0, atol=0.15)


def test_strips_change_no_bit(detector, raw_frame, rng, monkeypatch):
    """Calibrations asked for a few rows at a time give what they give whole, in amplifiers side by side."""
    electrons = rng.uniform(100, 50000, (64, 90))
    bias = calibration(rng.uniform(-20, 20, (64, 90)), 2.0)
    flat = calibration(rng.uniform(0.1, 1.2, (64, 90)), 1e-4)
    bias.mask.set(["BAD"], rng.uniform(size=(64, 90)) < 0.05)
    raw = raw_frame(detector, electrons, rng)
    whole = run_isr(raw, bias, flat, CONFIG).exposure
    monkeypatch.setattr(instrument_signature_removal, "_ROWS", 7)
    asked = []

    @dataclass
    class Rows:
        pixels: Exposure

        def __post_init__(self):
            self.box = self.pixels.box

        def subimage(self, box):
            asked.append(box.ny)
            return self.pixels.subimage(box)

    parts = run_isr(raw, Rows(bias), Rows(flat), CONFIG).exposure
    assert max(asked) == 7
    assert sum(asked) == 2 * 64
    assert whole.differences(parts) == []


def test_pixels_of_no_amplifier_are_nan(detector, raw_frame, rng):
    """Where no amplifier reads, image and variance are NaN and the mask says so."""
    raw = raw_frame(detector, np.full((64, 90), 1000.0), rng)
    raw.detector = replace(detector, amplifiers=detector.amplifiers[:1])
    exposure = run_isr(raw, None, None, CONFIG).exposure
    for plane in (exposure.image, exposure.variance):
        assert np.isnan(plane[:, 40:]).all()
        assert np.isfinite(plane[:, :40]).all()
    assert_array_equal(exposure.mask.any(["NO_DATA"]).all(axis=0), np.arange(90) >= 40)


def test_flags_of_pixels(detector, raw_frame, rng):
    """Non-finite, saturated, suspect, badly flat-fielded and vignetted pixels carry their planes."""
    electrons = np.full((64, 90), 1000.0)
    electrons[20, 20] = 70000 * 1.5
    electrons[40, 20] = 57500 * 1.5
    flat = np.ones((64, 90))
    flat[5, 5], flat[6, 70], flat[7, 70] = 0.1, 0.5, np.nan
    raw = raw_frame(detector, electrons, rng)
    raw.amplifiers["A"][50, 13] = np.nan
    mask = run_isr(raw, None, calibration(flat), CONFIG).exposure.mask
    expected = np.zeros((64, 90), bool)
    expected[19:22, 19:22] = True
    assert_array_equal(mask.any(["SATURATED"]), expected)
    assert_array_equal(np.argwhere(mask.any(["SUSPECT"])), [[40, 20]])
    assert_array_equal(np.argwhere(mask.any(["NO_DATA"])), [[50, 10]])
    assert_array_equal(np.argwhere(mask.any(["BAD"])), [[5, 5], [7, 70], [50, 10]])
    assert_array_equal(np.argwhere(mask.any(["VIGNETTED"])), [[6, 70]])


@pytest.mark.parametrize("kind", ["nan", "constant", "absent"])
def test_a_lost_amplifier_does_not_stop_the_rest(detector, raw_frame, rng, kind):
    """An amplifier that is all NaN, constant or absent is masked; the other one is as before."""
    raw = raw_frame(detector, np.full((64, 90), 1000.0), rng)
    before = run_isr(raw, None, None, CONFIG).exposure
    if kind == "absent":
        del raw.amplifiers["A"]
    else:
        raw.amplifiers["A"][...] = np.nan if kind == "nan" else 0.0
    result = run_isr(raw, None, None, CONFIG)
    assert result.exposure.mask.all(["BAD", "NO_DATA"])[:, :40].all()
    assert np.isnan(result.exposure.image[:, :40]).all()
    assert np.isnan(result.exposure.variance[:, :40]).all()
    assert_array_equal(result.exposure.image[:, 40:], before.image[:, 40:])
    assert result.amplifiers[0].status == ("dead" if kind == "constant" else "no_data")


def test_frames_without_hope_have_reasons(detector, raw_frame, rng):
    """All amplifiers lost, most pixels saturated, a missing required or ill-fitting calibration: the reason
    says so."""
    raw = raw_frame(detector, np.full((64, 90), 1000.0), rng)
    nan = replace_amplifiers(raw, np.nan)
    full = replace_amplifiers(raw, 65535.0)
    wrong = calibration(np.zeros((64, 80)))
    cases = [
        (nan, None, CONFIG, Reason.NO_GOOD_PIXELS),
        (full, None, CONFIG, Reason.SATURATED_FRAME),
        (raw, None, replace(CONFIG, require_bias=True), Reason.NO_CALIBRATION),
        (raw, wrong, CONFIG, Reason.WRONG_SHAPE),
    ]
    for frame, bias, config, reason in cases:
        with pytest.raises(ProcessingFailure) as failure:
            run_isr(frame, bias, None, config)
        assert failure.value.reason is reason


def replace_amplifiers(raw, value):
    """The same frame with one value everywhere."""
    changed = type(raw)(**vars(raw))
    changed.amplifiers = {name: np.full_like(section, value) for name, section in raw.amplifiers.items()}
    return changed


def test_read_noise_without_overscan_is_the_nominal_one(detector, raw_frame, rng):
    """An amplifier without overscan keeps its level and takes the camera definition's read noise."""
    bare = replace(detector, amplifiers=tuple(replace(a, raw_overscan=None) for a in detector.amplifiers))
    raw = raw_frame(bare, np.full((64, 90), 3000.0), rng, offset=0.0)
    figures = run_isr(raw, None, None, CONFIG).amplifiers
    assert [each.read_noise for each in figures] == [6.0, 6.0]


def test_pixel_kernels_equal_plain_loops(rng):
    """Assembly, correction and growth of masks equal their Python twins."""
    section = rng.uniform(0, 70000, (6, 5)).astype(np.float32)
    section[2, 2] = np.nan
    arguments = (section, np.arange(6.0), 60000.0, 50000.0, 3, 4, 8)
    results = []
    for function in (assemble_section, assemble_section.py_func):
        image, mask = np.zeros((6, 5), np.float32), np.zeros((6, 5), np.int32)
        results.append((function(*arguments, image, mask), image, mask))
    for one, other in zip(*results):
        assert_allclose(one, other, rtol=1e-6)
    planes = [rng.uniform(0.1, 1.2, (6, 5)).astype(np.float32) for _ in range(4)]
    results = []
    for function in (correct_section, correct_section.py_func):
        image, mask, variance = results_of(section)
        function(image, mask, variance, *planes, 1.5, 6.0, 0.2, 0.6, 1, 2)
        results.append((image, mask, variance))
    for one, other in zip(*results):
        assert_allclose(one, other, rtol=1e-6)
    mask = (rng.uniform(size=(20, 21)) < 0.03).astype(np.int32) * 4
    grown = mask.copy()
    grow_bits(grown, 4, 2)
    padded = np.pad(mask, 2)
    twin = np.zeros_like(mask)
    for j in range(5):
        for i in range(5):
            twin |= padded[j : j + 20, i : i + 21]
    assert_array_equal(grown, twin)


def results_of(section):
    """Fresh planes for a kernel to write."""
    return section.copy(), np.zeros(section.shape, np.int32), np.empty_like(section)
