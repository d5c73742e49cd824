"""Basic statistics against plain NumPy, and their quoted errors against the scatter of many samples."""

import math

import numpy as np
import pytest
from astropy.stats import biweight_location, biweight_scale
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.primitives import statistics
from skyquilt.primitives.geometry import Box

ordinary = st.floats(-1e6, 1e6, allow_nan=False, width=32)
quick = settings(deadline=None, max_examples=60)
samples = arrays(np.float32, st.integers(1, 60), elements=st.one_of(ordinary, st.sampled_from([0.0, 1.0])))


@pytest.fixture
def rng():
    return np.random.default_rng(20240131)


def clipped_twin(values, n_sigma, iterations):
    """Sigma clipping in plain NumPy, after the docstring."""
    kept = values = values[np.isfinite(values)].astype(np.float64)
    ratio = statistics.truncation_factors(n_sigma)[0]
    width = 1.482602218505602 * np.median(abs(kept - np.median(kept)))
    if width == 0 and kept.size > 1:
        width = kept.std(ddof=1)
    for _ in range(iterations if values.size > 2 else 0):
        near = kept[abs(kept - np.median(kept)) <= n_sigma * width]
        if near.size == kept.size or not width > 0:
            break
        kept = near
        width = kept.std(ddof=1) / ratio if kept.size > 1 else np.nan
    if values.size <= 2 or iterations == 0:
        ratio = 1.0
    return kept.mean(), np.median(kept), kept.std(ddof=1) / ratio if kept.size > 1 else np.nan, kept.size


def unit_pull(pull):
    """The pulls have mean 0 and width 1 within 4 standard errors of a normal sample of their size."""
    n = pull.size
    assert abs(pull.mean()) < 4 / math.sqrt(n)
    assert_allclose(pull.std(), 1.0, atol=4 / math.sqrt(2 * n))


@quick
@given(samples, st.data())
def test_selection_equals_sorting(values, data):
    """The k-th smallest is what sorting gives, and no value is lost."""
    k = data.draw(st.integers(0, values.size - 1))
    buffer = values.copy()
    assert statistics.select_kth(buffer, buffer.size, k) == np.sort(values)[k]
    assert_array_equal(np.sort(buffer), np.sort(values))


@quick
@given(samples)
def test_median_equals_numpy(values):
    """Odd and even samples, float32 and float64."""
    expected = np.median(values.astype(np.float64))
    assert statistics.median(values) == expected
    assert statistics.median(values.astype(np.float64)) == expected


def test_median_ignores_what_is_not_good(rng):
    """NaN, infinities and values that are not good do not count, and the input is not reordered."""
    values = rng.normal(size=(20, 30)).astype(np.float32)
    good = rng.random(values.shape) < 0.7
    values[3, 4:9] = np.nan
    values[5, 5] = np.inf
    before = values.copy()
    assert statistics.median(values, good) == np.median(values[good & np.isfinite(values)].astype(np.float64))
    assert_array_equal(values, before)


@pytest.mark.parametrize("pattern", [np.arange(200001.0), np.zeros(200001), np.arange(200001.0)[::-1]])
def test_selection_is_linear_on_sorted_input(pattern):
    """Sorted, reversed and constant samples are no worst case (quadratic would take minutes)."""
    assert statistics.median(pattern) == np.sort(pattern)[100000]


def test_mad_width_of_a_gaussian(rng):
    """The MAD width of n normal values is 1 within 4 standard errors (efficiency 37 %)."""
    n = 40_000
    assert_allclose(statistics.mad_width(rng.normal(size=n)), 1.0, atol=4 / math.sqrt(2 * 0.37 * n))
    values = rng.normal(size=101).astype(np.float32)
    assert_allclose(
        statistics.mad_width(values, centre=0.0), 1.4826022 * np.median(np.abs(values)), rtol=1e-6
    )


@quick
@given(samples, st.sampled_from([2.0, 3.0, 4.5]), st.integers(0, 5))
def test_clipping_equals_its_twin(values, n_sigma, iterations):
    """Mean, median, width and count are those of the NumPy twin."""
    got = statistics.clipped(values.astype(np.float64), n_sigma=n_sigma, iterations=iterations)
    mean, middle, width, count = clipped_twin(values, n_sigma, iterations)
    scale = abs(values).max() + 1
    # a value within rounding of the limit may fall to either side
    near = abs(abs(values - middle) - n_sigma * width).min() < 1e-9 * scale if count > 1 else True
    if not near:
        assert got.count == count
    if got.count == count:
        assert_allclose([got.mean, got.median], [mean, middle], atol=1e-12 * scale)
        assert_allclose(got.width, width, atol=1e-9 * scale)


def test_clipping_finds_the_gaussian_under_outliers(rng):
    """With 5 % of outliers far away, clipped mean and width are the Gaussian's within 4 standard errors."""
    n = 20_000
    values = rng.normal(10, 2, n)
    values[: n // 20] = rng.uniform(100, 1e6, n // 20)
    got = statistics.clipped(values)
    assert abs(got.mean - 10) < 4 * got.mean_error
    # the sample variance of a Gaussian truncated at 3 sigma and scaled back: standard error below 0.8 width /
    # sqrt(n)
    assert_allclose(got.width, 2, atol=4 * 2 * 0.8 / math.sqrt(got.count))
    assert got.count <= 0.95 * n


@pytest.mark.parametrize("n_sigma", [2.5, 3.0, math.inf])
def test_errors_of_clipped_mean_and_median_are_the_scatter(rng, n_sigma):
    """Over 4000 samples of 200 values the quoted errors of mean and median give unit pulls."""
    results = [statistics.clipped(sample, n_sigma=n_sigma) for sample in rng.normal(5, 3, (4000, 200))]
    unit_pull(np.array([(r.mean - 5) / r.mean_error for r in results]))
    unit_pull(np.array([(r.median - 5) / r.median_error for r in results]))


def test_clipping_does_not_creep(rng):
    """Many rounds leave the share of a Gaussian within 3 sigma, 99.73 %, and its width."""
    n = 100_000
    got = statistics.clipped(rng.normal(size=n), iterations=50)
    share = math.erf(3 / math.sqrt(2))
    # the limits follow the width, whose relative error is 0.8 / sqrt(n): 2 * 3 phi(3) of that, beside the
    # binomial
    error = math.sqrt(share * (1 - share) / n) + 6 * 0.00443 * 0.8 / math.sqrt(n)
    assert_allclose(got.count / n, share, atol=4 * error)
    assert_allclose(got.width, 1, atol=4 * 0.8 / math.sqrt(n))


def test_empty_and_tiny_samples():
    """Nothing gives NaN and count 0, one value itself without a width, constants a width of 0."""
    nothing = statistics.clipped(np.full(5, np.nan))
    assert nothing.count == 0
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.mean_error)
    assert math.isnan(statistics.median(np.array([])))
    one = statistics.clipped(np.array([7.0]))
    assert (one.mean, one.median, one.count) == (7, 7, 1)
    assert math.isnan(one.width)
    assert statistics.clipped(np.full(9, 3.0)).width == 0
    mostly_equal = statistics.clipped(np.append(np.zeros(40), [1000.0]))
    assert (mostly_equal.mean, mostly_equal.count) == (0, 40)
    with pytest.raises(ValueError, match="n_sigma"):
        statistics.clipped(np.zeros(3), n_sigma=0.5)


def test_weighted_mean_and_error(rng):
    """Inverse-variance and free weights both quote the scatter of the mean."""
    variances = rng.uniform(0.5, 4, (3000, 20))
    values = rng.normal(2, np.sqrt(variances))
    weights = rng.random(20)
    for w in (None, weights):
        pairs = np.array([statistics.weighted_mean(v, s, w) for v, s in zip(values, variances, strict=True)])
        unit_pull((pairs[:, 0] - 2) / pairs[:, 1])
    values[0, :10] = np.nan
    mean, error = statistics.weighted_mean(values[0], variances[0])
    assert_allclose(mean, np.average(values[0, 10:], weights=1 / variances[0, 10:]), rtol=1e-13)
    assert_allclose(error, 1 / np.sqrt((1 / variances[0, 10:]).sum()), rtol=1e-13)
    assert np.isnan(statistics.weighted_mean(np.array([np.nan]), np.ones(1))).all()


@quick
@given(samples, st.floats(0, 100))
def test_equal_weights_give_hazen_percentiles(values, percent):
    """With equal weights the percentile is NumPy's with method 'hazen'."""
    values = values.astype(np.float64)
    got = statistics.weighted_percentile(values, np.full(values.size, 2.5), percent)
    assert_allclose(got, np.percentile(values, percent, method="hazen"), rtol=1e-9, atol=1e-8)


def test_percentiles_follow_weights():
    """A weight of 0 is as good as absence, and the median moves to the heavy value."""
    values, weights = np.array([1.0, 2.0, 3.0, 50.0]), np.array([1.0, 1.0, 8.0, 0.0])
    got = statistics.weighted_percentile(values, weights, np.array([0, 5, 60, 100]))
    assert_allclose(got, [1, 1, 3, 3])
    assert np.isnan(statistics.weighted_percentile(values, np.zeros(4), 50.0))


def test_biweight_equals_astropy(rng):
    """Location and scale agree with astropy's, an independent implementation."""
    values = np.append(rng.normal(3, 2, 500), [1e3, -1e4, 40])
    location, scale = statistics.biweight(values)
    assert_allclose(location, biweight_location(values, c=6), rtol=1e-13)
    assert_allclose(scale, biweight_scale(values, c=9), rtol=1e-12)
    assert statistics.biweight(np.full(5, 2.0)) == (2.0, 0.0)


def test_clipped_plane(rng):
    """A plane under outliers: coefficients within their covariance, over many planes a unit pull."""
    pulls = []
    for _ in range(300):
        x, y = rng.uniform(0, 1000, (2, 150))
        sigma = rng.uniform(0.5, 2, 150)
        values = 3 + 0.01 * x - 0.02 * y + rng.normal(0, sigma)
        values[:5] += 500
        design = np.column_stack([np.ones_like(x), x, y])
        fit = statistics.clipped_linear_fit(design, values, sigma**2, n_sigma=5.0)
        assert not fit.used[:5].any()
        pulls.append((fit.coefficients - [3, 0.01, -0.02]) / np.sqrt(np.diag(fit.covariance)))
    for column in np.transpose(pulls):
        unit_pull(column)


def test_exact_line_is_not_clipped_by_rounding():
    """An exact line keeps all its points; a design that cannot determine the line is refused."""
    x = np.linspace(0, 1, 50)
    fit = statistics.clipped_linear_fit(np.column_stack([np.ones(50), x]), 1e3 + 7 * x)
    assert fit.used.all()
    assert_allclose(fit.coefficients, [1e3, 7], rtol=1e-12)
    with pytest.raises(ValueError, match="determine"):
        statistics.clipped_linear_fit(np.ones((50, 2)), x)
    with pytest.raises(ValueError, match="determine"):
        statistics.clipped_linear_fit(np.ones((1, 2)), x[:1])


def test_bootstrap_error_of_a_mean(rng):
    """The bootstrap's error of the mean is sigma / sqrt(n) within 4 standard errors; seeded, it repeats."""
    values = rng.normal(0, 2, 400)
    error = statistics.bootstrap_error(np.mean, values, np.random.default_rng(1), 500)
    assert_allclose(error, values.std() / 20, rtol=4 / math.sqrt(2 * 500))
    assert error == statistics.bootstrap_error(np.mean, values, np.random.default_rng(1), 500)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_blocks_equal_clipping_each(ny, nx, by, bx, seed):
    """Every block of an image, ragged edges included, has the statistics of its pixels alone."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 5, (ny, nx)).astype(np.float32)
    image[rng.random((ny, nx)) < 0.1] = 1e5
    image[rng.random((ny, nx)) < 0.1] = np.nan
    good = rng.random((ny, nx)) < 0.9
    binned = statistics.binned_statistics(image, (by, bx), good, box=Box(-3, 7, nx, ny))
    assert binned.mean.shape == (-(-ny // by), -(-nx // bx))
    for i in range(binned.mean.shape[0]):
        for j in range(binned.mean.shape[1]):
            block = np.s_[i * by : (i + 1) * by, j * bx : (j + 1) * bx]
            alone = statistics.clipped(image[block], good[block])
            for name in ("mean", "median", "width", "count", "mean_error", "median_error"):
                assert_allclose(getattr(binned, name)[i, j], getattr(alone, name), rtol=1e-12)
            ys, xs = np.mgrid[7 : 7 + ny, -3 : nx - 3]
            assert (binned.y[i], binned.x[j]) == (ys[block].mean(), xs[block].mean())


def test_wrong_shapes_are_refused():
    """An image and its mask must have one shape."""
    with pytest.raises(ValueError, match="shape"):
        statistics.binned_statistics(np.zeros((4, 4)), (2, 2), np.ones((4, 5), dtype=bool))
    with pytest.raises(ValueError, match="shape"):
        statistics.median(np.zeros(4), np.ones(5, dtype=bool))
    with pytest.raises(ValueError, match="at least 1"):
        statistics.binned_statistics(np.zeros((4, 4)), (0, 2))
