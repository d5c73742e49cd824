"""Convolution kernels against double loops, algebra and other libraries."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from skyquilt.primitives import kernels
from skyquilt.primitives.component import from_state
from skyquilt.primitives.geometry import Box

EPS32, EPS64 = np.finfo(np.float32).eps, np.finfo(np.float64).eps

quick = settings(deadline=None, max_examples=40)
sizes = st.tuples(st.integers(1, 14), st.integers(1, 14))
kernel_sizes = st.tuples(st.integers(1, 8), st.integers(1, 8))
seeds = st.integers(0, 10**6)


@pytest.fixture
def rng():
    return np.random.default_rng(42)


def loops(image, kernel, sign):
    """Convolution (sign -1) or correlation (+1) with zeros outside, from the definition."""
    out = np.zeros(image.shape)
    (ny, nx), (ky, kx) = image.shape, kernel.shape
    for y in range(ny):
        for x in range(nx):
            for j in range(ky):
                for i in range(kx):
                    v, u = y + sign * (j - ky // 2), x + sign * (i - kx // 2)
                    if 0 <= v < ny and 0 <= u < nx:
                        out[y, x] += kernel[j, i] * float(image[v, u])
    return out


def tolerance(image, kernel):
    """Bound of the difference of two ways: rounding of the result, and of an FFT's largest term."""
    largest = np.nanmax(np.abs(image)) * np.abs(kernel).sum()
    return {"rtol": 2 * EPS32, "atol": 100 * EPS64 * largest}


def draw(seed, shape, kernel_shape):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 100, shape).astype(np.float32), rng.normal(size=kernel_shape)


@quick
@given(sizes, kernel_sizes, seeds)
def test_every_method_equals_the_double_loop(shape, kernel_shape, seed):
    """Direct, FFT and automatic convolution and correlation follow their definitions, even sizes included."""
    image, kernel = draw(seed, shape, kernel_shape)
    for method in ("direct", "fft", "auto"):
        tol = tolerance(image, kernel)
        assert_allclose(kernels.convolve(image, kernel, method=method), loops(image, kernel, -1), **tol)
        assert_allclose(kernels.correlate(image, kernel, method=method), loops(image, kernel, +1), **tol)
    row, column = kernel[:1], kernel[:, :1]
    assert_allclose(
        kernels.convolve(image, row * column, method="separable"),
        loops(image, row * column, -1),
        **tolerance(image, row * column),
    )


def test_compiled_loops_equal_their_python_twins(rng):
    """The compiled kernels and their `py_func` give the same bits."""
    image, kernel = rng.normal(size=(7, 9)).astype(np.float32), rng.normal(size=(4, 3))
    for function, factors in (
        (kernels.convolve_direct, (kernel,)),
        (kernels.convolve_column_row, (kernel[:, 0].copy(), kernel[0].copy())),
    ):
        compiled, plain = np.zeros(image.shape), np.zeros(image.shape)
        function(image, *factors, compiled)
        function.py_func(image, *factors, plain)
        assert_array_equal(compiled, plain)


@pytest.mark.parametrize("kernel_shape", [(21, 21), (40, 13), (1, 64)])
def test_large_images_in_tiles(rng, kernel_shape):
    """Several FFT tiles join without seams: the result is scipy's and the direct one."""
    image, kernel = rng.normal(size=(530, 611)).astype(np.float32), rng.normal(size=kernel_shape)
    got = kernels.convolve(image, kernel, method="fft")
    tol = tolerance(image, kernel)
    assert_allclose(got, kernels.convolve(image, kernel, method="direct"), **tol)
    origin = [-1 if n % 2 == 0 else 0 for n in kernel_shape]
    # scipy puts the centre of an even kernel half a pixel later in a convolution
    padded = np.pad(kernel, [(0, -o) for o in origin])
    assert_allclose(got, ndimage.convolve(image.astype(float), padded, mode="constant"), **tol)


def test_bright_star_leaves_far_pixels_exact():
    """Rounding errors of a star of 1e7 stay in its FFT tiles: far away the result is exactly 0."""
    image = np.zeros((800, 800), dtype=np.float32)
    image[10, 10] = 1e7
    got = kernels.convolve(image, np.full((15, 15), 1 / 225), method="fft")
    assert not got[300:, 300:].any()
    assert_allclose(got[3:18, 3:18], 1e7 / 225, rtol=EPS32)


@quick
@given(sizes, kernel_sizes, seeds)
def test_delta_kernels_move_pixels(shape, kernel_shape, seed):
    """A kernel with a single 1 moves the image by its offset from the centre, bit for bit."""
    image, _ = draw(seed, shape, kernel_shape)
    rng = np.random.default_rng(seed)
    j, i = (int(rng.integers(n)) for n in kernel_shape)
    delta = np.zeros(kernel_shape)
    delta[j, i] = 1
    dy, dx = j - kernel_shape[0] // 2, i - kernel_shape[1] // 2
    moved = ndimage.shift(image, (dy, dx), order=0)
    assert_array_equal(kernels.convolve(image, delta), moved)
    assert_array_equal(kernels.correlate(image, delta), ndimage.shift(image, (-dy, -dx), order=0))


@quick
@given(kernel_sizes, kernel_sizes, seeds)
def test_composition_is_convolution_twice(first_shape, second_shape, seed):
    """Away from edges two convolutions, in either order, are one with the composed kernel."""
    rng = np.random.default_rng(seed)
    first, second = rng.random(first_shape), rng.random(second_shape)
    image = np.zeros((40, 42), dtype=np.float32)
    image[18:22, 18:24] = rng.random((4, 6))
    once = kernels.convolve(image, kernels.compose(first, second))
    for a, b in ((first, second), (second, first)):
        twice = kernels.convolve(kernels.convolve(image, a), b)
        assert_allclose(twice, once, rtol=4 * EPS32, atol=1e-12 * first.sum() * second.sum())
    # flux: the sum of the result is the product of the sums
    expected = image.sum(dtype=float) * first.sum() * second.sum()
    assert_allclose(once.sum(dtype=float), expected, rtol=4 * EPS32)


@quick
@given(kernel_sizes, seeds)
def test_flipping_makes_correlation(kernel_shape, seed):
    """Correlation is the adjoint of convolution, <a, k * b> = <k corr a, b>; flipping twice is nothing."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=kernel_shape)
    a, b = rng.normal(size=(2, 12, 15)).astype(np.float32)
    one = (a * kernels.convolve(b, kernel).astype(float)).sum()
    other = (kernels.correlate(a, kernel).astype(float) * b).sum()
    assert_allclose(one, other, atol=4 * EPS32 * np.abs(a).sum() * np.abs(kernel).sum() * np.abs(b).max())
    twice = kernels.flipped(kernels.flipped(kernel))
    centre = [n // 2 - k // 2 for n, k in zip(twice.shape, kernel.shape, strict=True)]
    inner = twice[centre[0] : centre[0] + kernel.shape[0], centre[1] : centre[1] + kernel.shape[1]]
    assert_array_equal(inner, kernel)


def test_convolution_theorem(rng):
    """On a period the transform of the result is the product of the transforms."""
    kernel = rng.random((5, 7))
    tile = rng.random((32, 48)).astype(np.float32)
    image = np.tile(tile, (3, 3))
    got = kernels.convolve(image, kernel)[32:64, 48:96]
    padded = np.zeros(tile.shape)
    padded[:5, :7] = kernel
    padded = np.roll(padded, (-2, -3), axis=(0, 1))
    expected = np.fft.ifft2(np.fft.fft2(tile.astype(float)) * np.fft.fft2(padded)).real
    assert_allclose(got, expected, rtol=4 * EPS32)


@pytest.mark.parametrize("method", ["direct", "fft", "auto"])
@pytest.mark.parametrize("holes", [False, True])
def test_boundaries(rng, method, holes):
    """Each boundary does at edges, NaN and bad pixels what its definition says (double loop)."""
    image = rng.normal(50, 5, (17, 15)).astype(np.float32)
    kernel = rng.random((5, 4))
    kernel[0, 0] = 0
    good = np.ones(image.shape, dtype=bool)
    if holes:
        image[4, 5] = np.nan
        good[10:12, 3] = False
        image[10, 3] = 1e30
    usable = good & np.isfinite(image)
    clean = np.where(usable, image, 0)
    sums, share = loops(clean, kernel, -1), loops(usable, kernel, -1) / kernel.sum()
    met = np.rint(loops(usable, kernel != 0, -1))
    args = (image, kernel, good if holes else None)
    tol = tolerance(clean, kernel)
    assert_allclose(kernels.convolve(*args, "zero", method), sums, **tol)
    valid = np.where(met == (kernel != 0).sum(), sums, np.nan)
    assert_allclose(kernels.convolve(*args, "valid", method), valid, **tol)
    kept = np.where(share >= 0.5, sums / share, np.nan)
    got = kernels.convolve(*args, "normalised", method, min_coverage=0.5)
    assert_allclose(got, kept, rtol=2 * EPS32, atol=2 * tol["atol"])


def test_constant_image_stays_constant_when_normalised(rng):
    """With bad pixels and edges, 'normalised' keeps a constant and 'zero' does not."""
    good = rng.random((40, 40)) < 0.8
    image = np.where(good, 7, np.nan).astype(np.float32)
    kernel = rng.random((7, 7))
    kernel /= kernel.sum()
    assert_allclose(kernels.convolve(image, kernel, boundary="normalised"), 7, rtol=4 * EPS32)
    assert kernels.convolve(image, kernel).min() < 6
    with pytest.raises(ValueError, match="sums to 0"):
        kernels.convolve(image, np.array([[1.0, -1.0]]), boundary="normalised")


@pytest.mark.parametrize("boundary", ["zero", "normalised"])
def test_propagated_variance_is_the_scatter(rng, boundary):
    """The variance of 3000 convolved noise images is the propagated one in every pixel, at edges too."""
    n, shape = 3000, (12, 13)
    variance = rng.uniform(0.5, 3, shape).astype(np.float32)
    good = np.ones(shape, dtype=bool)
    good[5, 5:8] = False
    kernel = rng.random((3, 5))
    expected = kernels.convolve_variance(variance, kernel, good, boundary)
    noise = rng.normal(0, np.sqrt(variance), (n, *shape)).astype(np.float32)
    made = np.array([kernels.convolve(image, kernel, good, boundary, "direct") for image in noise])
    ratio = made.var(axis=0) / expected
    # 156 sample variances of relative standard error sqrt(2 / n): all within 4.5, their mean within 4 of
    # its own error were they independent; neighbours are not, so 4 times that of 156 / 15 independent ones
    assert np.abs(ratio - 1).max() < 4.5 * np.sqrt(2 / n)
    assert abs(ratio.mean() - 1) < 4 * np.sqrt(2 / n / (156 / 15))


def test_variance_and_image_agree_on_valid(rng):
    """Given the same good pixels, image and variance are NaN at the same places."""
    image, good = rng.random((20, 22)).astype(np.float32), rng.random((20, 22)) < 0.95
    kernel = rng.random((3, 4))
    one = kernels.convolve(image, kernel, good, "valid")
    other = kernels.convolve_variance(image, kernel, good, "valid")
    assert_array_equal(np.isnan(one), np.isnan(other))
    assert np.isfinite(one).any()


@quick
@given(kernel_sizes, seeds)
def test_mask_spreads_where_the_kernel_reaches(kernel_shape, seed):
    """Each bit appears exactly where the relevant kernel pixels carry it (one dilation per bit)."""
    rng = np.random.default_rng(seed)
    kernel = rng.random(kernel_shape)
    mask = (rng.integers(0, 8, (15, 14)) * (rng.random((15, 14)) < 0.05)).astype(np.int32)
    got = kernels.spread_mask(mask, kernel, fraction=0.2)
    relevant = kernels.relevant_pixels(kernel, 0.2)
    assert kernel[~relevant].sum() <= 0.2 * kernel.sum()
    for bit in (1, 2, 4):
        reached = loops((mask & bit > 0).astype(float), relevant.astype(float), -1) > 0
        assert_array_equal(got & bit > 0, reached)


def test_separate_finds_products(rng):
    """A product of column and row is found again; anything else is not taken for one."""
    column, row = rng.random(7), rng.normal(size=5)
    assert_allclose(np.outer(*kernels.separate(np.outer(column, row))), np.outer(column, row), atol=1e-14)
    assert kernels.separate(rng.random((5, 5))) is None
    with pytest.raises(ValueError, match="not separable"):
        kernels.convolve(np.zeros((9, 9)), rng.random((5, 5)), method="separable")


def transfer_error(weights, shift, sigma):
    """Bound of the error of moving a Gaussian: integral of its spectrum times |transfer - exact phase|."""
    frequency = np.linspace(-0.5, 0.5, 4001)
    place = np.arange(weights.size) - weights.size // 2
    response = np.exp(-2j * np.pi * frequency[:, None] * place) @ weights
    spectrum = np.sqrt(2 * np.pi) * sigma * np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    error = np.abs(response - np.exp(-2j * np.pi * frequency * shift)) * spectrum
    # frequencies beyond 0.5 are passed as aliases, and are missing as themselves
    beyond = 1 + np.abs(response).max()
    return np.trapezoid(error, frequency) + beyond * math.erfc(np.sqrt(0.5) * np.pi * sigma)


shifts = st.floats(-0.5, 0.5)


PEAK_ERRORS = {("kaiser", 8): (7e-3, 1.6e-4, 1e-4), ("lanczos", 5): (1.1e-2, 2.2e-3, 1.3e-3)}


@settings(deadline=None, max_examples=25)
@given(shifts, shifts, st.sampled_from([1.0, 1.5, 2.0]), st.sampled_from(sorted(PEAK_ERRORS)))
def test_shift_moves_a_smooth_image(dx, dy, sigma, kind):
    """A Gaussian is moved within what the transfer function of the weights allows: the stated errors."""
    window, order = kind
    y, x = np.mgrid[-20:21, -20:21]
    image = np.exp(-(x**2 + y**2) / (2 * sigma**2)).astype(np.float32)
    moved = np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / (2 * sigma**2))
    error_x, error_y = (transfer_error(kernels.shift_weights(d, order, window), d, sigma) for d in (dx, dy))
    assert max(error_x, error_y) < PEAK_ERRORS[kind][(1.0, 1.5, 2.0).index(sigma)]
    bound = error_x + error_y + error_x * error_y + 2 * EPS32
    got = kernels.convolve(image, kernels.shift_kernel(dx, dy, order, window))
    assert_allclose(got, moved, rtol=0, atol=bound)


@quick
@given(shifts, st.integers(3, 9), st.sampled_from(["kaiser", "lanczos"]))
def test_shift_weights_keep_moments(shift, order, window):
    """The weights sum to 1, with their centroid at the shift and no second or third moment about it."""
    weights = kernels.shift_weights(shift, order, window)
    offset = np.arange(-order, order + 1) - shift
    # the solution of four equations in powers of offset / order: rounding grows by their condition, below 1e3
    moments = [weights @ (offset / order) ** k for k in range(4)]
    assert_allclose(moments, [1, 0, 0, 0], atol=1e3 * EPS64)
    if shift == 0:
        assert_allclose(weights, offset == 0, atol=1e3 * EPS64)


def test_sampling_matrix_is_the_shift(rng):
    """At a constant fraction the matrix does what the shift does; a cubic is interpolated anywhere."""
    line = rng.random((1, 40)).astype(np.float32)
    places = np.arange(40) - 0.3
    moved = kernels.convolve(line, kernels.shift_weights(0.3)[None, :])
    assert_allclose(kernels.sampling_matrix(places, 40) @ line[0], moved[0], rtol=4 * EPS32)
    places = rng.uniform(8, 31, 25)
    cubic = np.polynomial.Polynomial([3, -1, 0.5, 0.01])
    assert_allclose(kernels.sampling_matrix(places, 40) @ cubic(np.arange(40)), cubic(places), rtol=1e-11)
    assert not kernels.sampling_matrix(np.array([-20.0]), 40).any()


def test_shift_refuses_more_than_half_a_pixel():
    """Whole pixels are the caller's."""
    with pytest.raises(ValueError, match="half a pixel"):
        kernels.shift_weights(0.6)
    with pytest.raises(ValueError, match="window"):
        kernels.shift_weights(0.1, window="boxcar")
    assert_array_equal(kernels.lanczos_kernel(0.1, 0.2), kernels.shift_kernel(0.1, 0.2, 5, "lanczos"))


@pytest.fixture
def varying(rng):
    """Two terms of the kernel change over the image, in quadratic polynomials."""
    basis = rng.random((3, 5, 4))
    coefficients = rng.normal(size=(3, 6))
    return kernels.LinearCombinationKernel(basis, coefficients, 2, Box(100, -50, 30, 40))


def test_varying_kernel_equals_its_kernel_at_each_pixel(varying, rng):
    """Each output pixel is the sum with the kernel of its own position, for a part of the domain too."""
    box = Box(105, -45, 17, 15)
    image = rng.normal(size=box.shape).astype(np.float32)
    expected = np.zeros(box.shape)
    for y in range(box.ny):
        for x in range(box.nx):
            expected[y, x] = loops(image, varying.at(box.x0 + x, box.y0 + y), -1)[y, x]
    assert_allclose(varying.convolve(image, box), expected, rtol=2 * EPS32, atol=1e-12)
    valid = varying.convolve(image, box, boundary="valid")
    assert_allclose(valid[2:-2, 1:-2], expected[2:-2, 1:-2], rtol=2 * EPS32, atol=1e-12)
    assert np.isnan(valid[:2]).all()


def test_varying_variance_is_taken_per_cell(varying, rng):
    """The variance inside a cell is that of the cell's kernel; no seams where the kernel is constant."""
    box = Box(100, -50, 30, 40)
    variance = rng.uniform(1, 2, box.shape).astype(np.float32)
    got = varying.convolve_variance(variance, box, cell=10)
    kernel = varying.at(100 + 10 + 4.5, -50 + 20 + 4.5)
    assert_allclose(
        got[20:30, 10:20], kernels.convolve_variance(variance, kernel)[20:30, 10:20], rtol=1e-6, atol=1e-9
    )
    constant = kernels.LinearCombinationKernel(varying.basis, varying.coefficients[:, :1], 0, box)
    assert_allclose(
        constant.convolve_variance(variance, box, cell=7),
        kernels.convolve_variance(variance, constant.at(0, 0)),
        rtol=1e-6,
    )


def test_varying_kernel_survives_its_state(varying):
    """From its state comes the same kernel."""
    again = from_state(varying.to_state())
    assert_array_equal(again.at(110, -20), varying.at(110, -20))
    assert again.to_state() == varying.to_state()


def test_wrong_arguments_are_refused(varying):
    """Unknown options, shapes that do not fit and kernels with NaN are named."""
    image = np.zeros((5, 5))
    with pytest.raises(ValueError, match="boundary"):
        kernels.convolve(image, np.ones((3, 3)), boundary="reflect")
    with pytest.raises(ValueError, match="method"):
        kernels.convolve(image, np.ones((3, 3)), method="magic")
    with pytest.raises(ValueError, match="finite"):
        kernels.convolve(image, np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="does not fill"):
        varying.convolve(image, Box(0, 0, 6, 5))
    with pytest.raises(ValueError, match="coefficients of shape"):
        kernels.LinearCombinationKernel(np.ones((2, 3, 3)), np.ones((2, 2)), 1, Box(0, 0, 9, 9))
