"""Background estimation."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.algorithms.background_estimation import (
    BackgroundEstimationConfig,
    estimate_background,
    estimate_sky_variance,
    filled,
)
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box


def poisson_sky(rng, shape=(768, 768), level=300.0, slope=20.0):
    """Sky with a gradient along x [electron]: noisy image and truth."""
    truth = level + slope * (np.arange(shape[1]) / shape[1] - 0.5) * np.ones((shape[0], 1))
    return (rng.poisson(truth) + rng.normal(0, 5, shape)).astype(np.float32), truth


@pytest.mark.parametrize("statistic", ["mean", "median", "mode"])
def test_background_of_empty_sky(rng, statistic):
    """Nodes scatter about the true gradient as quoted; skewed photon noise moves the mean least.

    A Poisson's mean less its median is about 1/6 electron, which the mode overcorrects 2.5-fold.
    """
    image, truth = poisson_sky(rng)
    config = BackgroundEstimationConfig(cell=64, statistic=statistic)
    found = estimate_background(image, np.ones(image.shape, bool), Box.of(image), config)
    box = Box.of(image)
    residual = found.layer.values - truth[0, np.rint(found.layer.x).astype(int)]
    bias = {"mean": 0.02, "median": 0.25, "mode": 0.55}[statistic]
    n = residual.size
    pull = residual / found.level_error
    assert abs(residual.mean()) < bias + 4 * found.level_error / np.sqrt(n)
    assert_allclose(pull.std(), 1.0, atol=4 / np.sqrt(2 * n) + 0.05)
    assert_allclose(found.noise, np.sqrt(325.0), rtol=0.01)
    model = found.layer.on_grid(box)
    assert np.abs(model - truth).max() < bias + 6 * found.level_error + 0.2


def test_masked_sources_do_not_count(rng):
    """A cell hidden by a masked source takes its neighbours' level; the rest is not touched by it."""
    image, _ = poisson_sky(rng, (640, 640), slope=0.0)
    good = np.ones(image.shape, bool)
    image[100:300, 100:300] += 1e5
    good[100:300, 100:300] = False
    found = estimate_background(image, good, Box.of(image), BackgroundEstimationConfig(cell=64))
    assert_allclose(found.layer.values, 300.0, atol=6 * found.level_error)


def test_bright_cell_is_an_outlier(rng):
    """A cell raised by an unmasked halo takes the median of its neighbourhood."""
    image, _ = poisson_sky(rng, (640, 640))
    image[256:320, 256:320] += 50.0
    found = estimate_background(
        image, np.ones(image.shape, bool), Box.of(image), BackgroundEstimationConfig(cell=64)
    )
    assert_allclose(found.layer.values[4, 4], 300.0, atol=3.0)


def test_no_usable_cell_has_a_reason(rng):
    """An image without usable pixels fails with NO_GOOD_PIXELS."""
    image, _ = poisson_sky(rng, (128, 128))
    for estimate in (estimate_background, estimate_sky_variance):
        with pytest.raises(ProcessingFailure) as failure:
            estimate(image, np.zeros(image.shape, bool), Box.of(image), BackgroundEstimationConfig())
        assert failure.value.reason is Reason.NO_GOOD_PIXELS


def test_sky_variance_is_positive_and_without_pixel_noise(rng):
    """The sky's variance from a variance plane of Poisson values is the expectation, to its median's skew."""
    image, truth = poisson_sky(rng, slope=200.0)
    variance = np.maximum(image, 0) + 25.0
    layer = estimate_sky_variance(
        variance.astype(np.float32),
        np.ones(image.shape, bool),
        Box.of(image),
        BackgroundEstimationConfig(cell=64),
    )
    inside = slice(64, -64)
    assert_allclose(layer.on_grid(Box.of(image))[inside, inside], (truth + 25.0)[inside, inside], rtol=0.02)


def test_filled_keeps_known_values(rng):
    """Unknown nodes lie within the range of known ones, which stay."""
    values = rng.normal(size=(6, 7))
    known = rng.uniform(size=values.shape) < 0.5
    result = filled(values, known)
    np.testing.assert_array_equal(result[known], values[known])
    assert result.min() >= values[known].min()
    assert result.max() <= values[known].max()


@pytest.mark.parametrize("wrong", [{"cell": 2}, {"statistic": "best"}, {"clip": 0.5}])
def test_options_are_checked(wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match="background"):
        BackgroundEstimationConfig(**wrong)
