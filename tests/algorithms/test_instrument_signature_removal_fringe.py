"""Fringes and amplifier offsets: scales and steps against the truth, with their errors."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
    run_isr,
)
from skyquilt.algorithms.instrument_signature_removal.amplifier_offsets import (
    AmplifierOffsetsConfig,
    edge_step,
    fit_offsets,
)
from skyquilt.algorithms.instrument_signature_removal.fringe import FringeConfig, block_means, fit_scale
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

SIDE = 512


def pattern(side, period=37.0):
    """Bent fringes of mean 0 and amplitude 1."""
    y, x = np.mgrid[:side, :side] / period
    fringes = np.sin(2 * np.pi * (x + 0.4 * np.sin(y / 3)) + y)
    return (fringes - fringes.mean()).astype(np.float32)


def crowd(rng, side, number):
    """Stars and a few extended objects [electron]."""
    y, x = np.mgrid[:side, :side]
    light = np.zeros((side, side))
    for k in range(number):
        radius = 2.0 if k % 10 else 12.0
        cx, cy = rng.integers(0, side, 2)
        part = (slice(max(cy - 60, 0), cy + 60), slice(max(cx - 60, 0), cx + 60))
        square = (x[part] - cx) ** 2 + (y[part] - cy) ** 2
        light[part] += 10 ** rng.uniform(1.5, 4.5) * (1 + square / radius**2) ** -2.5
    return light


def scale_of(image, fringes, config=FringeConfig()):  # noqa: B008
    """Scale and error as of a detector."""
    shape = tuple(n // config.block for n in image.shape)
    mean, model, weight = (np.zeros(shape, np.float32) for _ in range(3))
    mask = np.zeros(image.shape, np.int32)
    block_means(image.astype(np.float32), mask, fringes, 1, config.block, mean, model, weight)
    return fit_scale(mean, model, weight, config)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_scale_among_sources_and_gradients(seed):
    """With stars, galaxies and a sky gradient the scale is found to 5 % of the fringe, and by its error."""
    rng = np.random.default_rng(seed)
    fringes = pattern(SIDE)
    gradient = 1 + 0.1 * np.mgrid[:SIDE, :SIDE][0] / SIDE
    sky, amplitude = 800.0, 16.0
    image = rng.poisson(sky * gradient + amplitude * fringes + crowd(rng, SIDE, 150)).astype(float)
    scale, error = scale_of(image, fringes)
    assert abs(scale / amplitude - 1) < 0.05
    assert abs(scale - amplitude) < 4 * error
    assert error < 0.03 * amplitude


def test_errors_of_scales_are_their_scatter():
    """Over 60 noisy skies the pulls of the scale have mean 0 and unit width."""
    rng = np.random.default_rng(4)
    fringes = pattern(256, 25.0)
    pulls = []
    for _ in range(60):
        image = rng.normal(400 + 3.0 * fringes, 20.0)
        scale, error = scale_of(image, fringes)
        pulls.append((scale - 3.0) / error)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(60)
    # each error comes from 16 groups, which widens pulls by 7 %
    assert 0.7 < np.std(pulls) < 1.4


def test_a_flat_sky_has_no_scale(rng):
    """Without fringes the scale is 0 within its error; without good blocks or structure it is NaN."""
    fringes = pattern(256)
    scale, error = scale_of(rng.normal(500, 20, (256, 256)), fringes)
    assert abs(scale) < 4 * error
    assert np.isnan(scale_of(np.full((256, 256), np.nan), fringes)).all()
    assert np.isnan(scale_of(rng.normal(500, 20, (256, 256)), np.zeros((256, 256), np.float32))).all()


def fringe_exposure(image):
    """Calibration without errors."""
    return Exposure(image=image, mask=Mask.blank(image.shape), variance=np.zeros_like(image), unit="")


def grid(detector, side):
    """Four amplifiers in a square."""
    half = side // 2
    raw = Box(0, 0, half, half)
    parts = tuple(
        replace(
            detector.amplifiers[0],
            name=f"A{k}",
            data=Box(half * (k % 2), half * (k // 2), half, half),
            raw_data=raw,
            raw_section=Box(0, 0, half + 20, half),
            raw_overscan=Box(half, 0, 20, half),
        )
        for k in range(4)
    )
    return replace(detector, nx=side, ny=side, amplifiers=parts)


def test_isr_subtracts_significant_fringes_only(detector, raw_frame, rng):
    """A frame with fringes loses 95 % of them; one without is not touched, and says so."""
    four = grid(detector, 256)
    fringes = 0.05 * pattern(256)
    given = DetectorCalibrations(fringe=fringe_exposure(fringes))
    config = InstrumentSignatureRemovalConfig(skip=("amplifier_offsets",))
    for scale in (600.0, 0.0):
        raw = raw_frame(four, rng.poisson(600.0 + scale * fringes).astype(float), rng)
        result = run_isr(raw, given, config)
        assert result.fringe_applied == (scale > 0)
        plain = run_isr(raw, DetectorCalibrations(), config).exposure.image
        expected = plain - (result.fringe_scale * fringes if scale else 0)
        assert_allclose(result.exposure.image, expected, atol=1e-2)
        if scale:
            assert abs(result.fringe_scale / scale - 1) < 0.05


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_offsets_of_amplifiers(detector, seed):
    """Steps between four amplifiers on a sky with gradients and sources are found within four errors."""
    rng = np.random.default_rng(seed)
    four = grid(detector, SIDE)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    truth = np.array([9.0, -6.0, 0.0, -3.0])
    image = rng.poisson(500 + 40 * x + 30 * y + 20 * x * y + crowd(rng, SIDE, 80)).astype(np.float32)
    for amplifier, offset in zip(four.amplifiers, truth):
        image[amplifier.data.slices()] += offset
    fit = fit_offsets(image, Mask.blank(image.shape), four, 22.0, AmplifierOffsetsConfig())
    assert fit.applied
    assert (np.abs(fit.offsets - truth) < 4 * fit.errors).all()
    # 256 rows of pure noise of 22 electrons give 0.6; galaxies lie on the edges
    assert (fit.errors < 1.5).all()
    too_small = AmplifierOffsetsConfig(max_offset=0.01)
    assert not fit_offsets(image, Mask.blank(image.shape), four, 22.0, too_small).applied


def test_flat_skies_keep_their_pixels(detector, raw_frame, rng):
    """Without steps nothing is applied; the errors are right: pulls of 40 skies have unit width."""
    four = grid(detector, 256)
    pulls = []
    for _ in range(40):
        image = rng.normal(500, 22, (256, 256)).astype(np.float32)
        fit = fit_offsets(image, Mask.blank(image.shape), four, 22.0, AmplifierOffsetsConfig())
        pulls.extend(fit.offsets / fit.errors)
        assert not fit.applied
    # offsets of a detector sum to 0: three of four are independent
    assert 0.8 < np.std(pulls) < 1.25
    step, error = edge_step(np.full((5, 16), 1.0), np.full((5, 16), 2.0), 3.0)
    assert np.isnan([step, error]).all()


def test_offsets_are_in_the_figures(detector, raw_frame, rng):
    """ISR takes a step of 12 electrons off and states it; an amplifier without data has none."""
    four = grid(detector, 512)
    electrons = rng.poisson(np.full((512, 512), 400.0)).astype(float)
    electrons[:256, :256] += 12
    raw = raw_frame(four, electrons, rng)
    del raw.amplifiers["A3"]
    result = run_isr(raw, DetectorCalibrations(), InstrumentSignatureRemovalConfig())
    figures = result.amplifiers
    assert [each.offset_applied for each in figures] == [True, True, True, False]
    assert np.isnan(figures[3].offset)
    pulls = [(each.offset - true) / each.offset_error for each, true in zip(figures, (8, -4, -4))]
    assert np.abs(pulls).max() < 4
    means = [result.exposure.image[each.data.slices()].mean() for each in four.amplifiers[:3]]
    assert np.ptp(means) < 6 * max(each.offset_error for each in figures[:3])


@pytest.mark.parametrize("config", [FringeConfig, AmplifierOffsetsConfig])
def test_options_are_checked(config):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match="clip"):
        config(clip=1.0)
