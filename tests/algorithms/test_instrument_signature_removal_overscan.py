"""The overscan: levels, read noise, columns."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.algorithms.instrument_signature_removal.overscan import (
    METHODS,
    OverscanConfig,
    amplifier_levels,
    fit_overscan,
    residual_width,
    row_levels,
)
from skyquilt.primitives.geometry import Box


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "spline"},
        {"smoothing": 0.5},
        {"clip": 1.0},
        {"skip": -1},
        {"region": "all"},
        {"parallel": "rows"},
    ],
)
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


def test_prescan_stands_in_and_joins(detector, rng):
    """Without an overscan the prescan gives the level; with `both` the noise of the level falls with all columns."""
    amplifier = replace(detector.amplifiers[0], raw_prescan=Box(0, 0, 3, 64))
    section = (1000 + rng.normal(0, 4.0, (64, 59))).astype(np.float32)
    section[:, 3:43] += 500
    bare = replace(amplifier, raw_overscan=None)
    fit, _ = amplifier_levels(section, bare, OverscanConfig(method="constant"))
    # 192 pixels; rows of three pixels are averaged first
    assert_allclose(fit.level, 1000.0, atol=5 * 4 / np.sqrt(192))
    both, _ = amplifier_levels(section, amplifier, OverscanConfig(method="rows", region="both", skip=0))
    alone, _ = amplifier_levels(section, amplifier, OverscanConfig(method="rows", region="prescan"))
    expected = section[:, [0, 1, 2, *range(43, 59)]].mean(axis=1)
    assert_allclose(both.level, expected, atol=2.0)
    assert both.level.std() < 0.7 * alone.level.std()


def test_columns_of_the_parallel_overscan(detector, rng):
    """`columns` finds the level of each column from the rows after the data, within its noise; `none` gives nothing."""
    amplifier = replace(
        detector.amplifiers[0],
        raw_section=Box(0, 0, 59, 84),
        raw_overscan=Box(43, 0, 16, 84),
        raw_parallel_overscan=Box(3, 64, 40, 20),
    )
    structure = rng.normal(0, 20.0, 59)
    structure[43:] = 0
    section = (1000 + structure + rng.normal(0, 2.0, (84, 59))).astype(np.float32)
    fit, columns = amplifier_levels(section, amplifier, OverscanConfig(parallel="columns"))
    assert fit.level.shape == (64,)
    assert_allclose(columns, structure[3:43], atol=5 * 2.0 / np.sqrt(20))
    assert amplifier_levels(section, amplifier, OverscanConfig())[1].size == 0
