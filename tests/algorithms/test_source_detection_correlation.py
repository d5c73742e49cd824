"""Correlation with the PSF: against the plain sum, its noise, donuts, and the twins of its kernels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.source_detection import MatchedFilter, correlated_image, preconvolved_image
from skyquilt.algorithms.source_detection import correlation as module
from skyquilt.algorithms.source_detection import correlation_kernels as kernels
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.psf import KernelPsf, MoffatPsf, PolynomialPsf


def plain_correlation(image, variance, bad, kernel):
    """The definition, pixel by pixel."""
    ny, nx = image.shape
    half = kernel.shape[0] // 2
    usable = ~bad & np.isfinite(image)
    weight = np.where(usable, 1 / variance, 0.0)
    signal = np.where(usable, image, 0.0) * weight
    result = np.zeros(image.shape)
    for y in range(ny):
        for x in range(nx):
            rows = slice(max(y - half, 0), min(y + half + 1, ny))
            columns = slice(max(x - half, 0), min(x + half + 1, nx))
            part = kernel[
                rows.start - y + half : rows.stop - y + half,
                columns.start - x + half : columns.stop - x + half,
            ]
            bottom = (part**2 * weight[rows, columns]).sum()
            if bottom > 0.1 * np.median(weight[usable]) * (kernel**2).sum():
                result[y, x] = (part * signal[rows, columns]).sum() / np.sqrt(bottom)
    return result


def varying_psf(shape):
    """A PSF that is 10 % wider on the right than on the left."""
    narrow, wide = (MoffatPsf(f, 3.0, 0.1).kernel_at(0, 0) for f in (3.6, 4.0))
    size = min(len(narrow), len(wide))

    def middle(stamp):
        off = (len(stamp) - size) // 2
        return stamp[off : off + size, off : off + size]

    basis = np.stack([0.5 * (middle(narrow) + middle(wide)), 0.5 * (middle(wide) - middle(narrow))])
    box = Box(0, 0, shape[1], shape[0])
    return PolynomialPsf.from_arrays(basis, np.array([[1.0, 0, 0], [0, 1.0, 0]]), 1, box)


@pytest.mark.parametrize("uneven", [False, True])
def test_it_is_the_plain_sum(rng, uneven):
    """The image is the definition's with the full PSF: even noise or not, masked pixels, NaN, edges.

    Half of what is cut from the squared kernel, 3e-4 of it, may be lost of each value, and turns noise by the
    root of it; where the noise is even its sums are those of the local weight, exact for equal weights.
    """
    shape = (40, 47)
    image = rng.normal(0, 30, shape).astype(np.float32)
    image[20, 20] += 3000
    variance = np.full(shape, 900.0, np.float32)
    if uneven:
        variance *= rng.uniform(0.5, 2, shape).astype(np.float32)
    bad = rng.uniform(size=shape) < 0.02
    bad[5:14, 30:40] = True
    image[3, 3] = np.nan
    psf = MoffatPsf(3.8, 3.0, 0.1, 0.05)
    found = correlated_image(image, variance, bad, MatchedFilter.of(psf, shape))
    expected = plain_correlation(image, variance, bad, psf.kernel_at(0, 0))
    # the brightest value times the loss, and 5 sigma of the turned noise
    assert_allclose(found, expected, atol=5 * np.sqrt(3e-4) + 2e-3 * np.abs(expected).max())
    assert np.abs(found - expected).std() < 2 * np.sqrt(3e-4) + 1e-3 * np.abs(expected).std()


@pytest.mark.parametrize("sharpness", [0.0, 0.98])
def test_noise_has_unit_width_everywhere(rng, sharpness):
    """Noise that varies, seen with a PSF that varies, becomes unit noise: in each quarter, sharpened too."""
    shape = (700, 1300)
    scale = np.linspace(10, 40, shape[1])[None, :] * np.ones(shape)
    image = (rng.normal(size=shape) * scale).astype(np.float32)
    bad = rng.uniform(size=shape) < 0.01
    image[bad] = 1e6
    psf = varying_psf(shape)
    matched = MatchedFilter.of(psf, shape, sharpness=sharpness)
    assert len(matched.kernels) * len(matched.kernels[0]) > 1
    snr = correlated_image(image, (scale**2).astype(np.float32), bad, matched)
    for part in (snr[:350, :650], snr[350:, :650], snr[:350, 650:], snr[350:, 650:]):
        # independent values are at least one per area of the kernel, about 60 pixels
        assert_allclose(part.std(), 1, atol=4 / np.sqrt(2 * part.size / 60))


def test_a_star_has_its_signal_to_noise():
    """A star without noise, between pixels too, has the S/N of the optimal measurement where it stands."""
    shape = (101, 101)
    psf = MoffatPsf(3.8, 3.0)
    sky = np.full(shape, 400.0, np.float32)
    image = np.zeros(shape, np.float32)
    half = psf.size // 2
    image[50 - half : 51 + half, 50 - half : 51 + half] = 5000 * psf.kernel_at(0, 0)
    snr = correlated_image(image, sky, np.zeros(shape, bool), MatchedFilter.of(psf, shape))
    best = 5000 * np.sqrt((psf.kernel_at(0, 0) ** 2).sum() / 400.0)
    assert_allclose(snr.max(), best, rtol=3e-4)
    assert np.unravel_index(snr.argmax(), shape) == (50, 50)


def test_a_donut_is_found_with_its_own_kernel(rng):
    """An out-of-focus PSF goes through Fourier space and gives the plain sum; the donut is at its centre."""
    v, u = np.mgrid[-30:31, -30:31]
    radius = np.hypot(v, u + 0.2 * v)
    donut = ((radius < 25) & (radius > 11)) * (1 + 0.3 * np.sin(3 * np.arctan2(v, u)))
    psf = KernelPsf(donut / donut.sum())
    shape = (140, 150)
    image = rng.normal(0, 5, shape)
    image[40:101, 50:111] += 4000 * psf.kernel_at(0, 0)
    image = image.astype(np.float32)
    variance = np.full(shape, 25, np.float32)
    bad = np.zeros(shape, bool)
    bad[60] = True
    matched = MatchedFilter.of(psf, shape)
    assert not matched.kernels[0][0].separable
    snr = correlated_image(image, variance, bad, matched)
    y, x = np.unravel_index(snr.argmax(), shape)
    assert np.hypot(y - 70, x - 80) <= 1
    kernel = psf.kernel_at(0, 0)
    window = (slice(60, 80), slice(70, 90))
    expected = plain_correlation(image[25:115, 35:125], variance[25:115, 35:125], bad[25:115, 35:125], kernel)
    assert_allclose(
        snr[window], expected[35:55, 35:55], atol=5 * np.sqrt(3e-4) + 2e-3 * np.abs(expected).max()
    )


def test_blocks_that_are_wanted_have_the_bits_of_the_whole(rng):
    """Blocks asked for are those of the whole image to rounding, the others are 0."""
    shape = (200, 300)
    image = rng.normal(0, 5, shape).astype(np.float32)
    variance = rng.uniform(20, 30, shape).astype(np.float32)
    bad = rng.uniform(size=shape) < 0.05
    matched = MatchedFilter.of(varying_psf(shape), shape)
    where = rng.uniform(size=(4, 5)) < 0.5
    found = correlated_image(image, variance, bad, matched, where)
    wanted = np.kron(where, np.ones((module.BLOCK, module.BLOCK), bool))[: shape[0], : shape[1]]
    whole = correlated_image(image, variance, bad, matched)
    assert_allclose(found[wanted], whole[wanted], atol=2e-2)
    assert not found[~wanted].any()


def test_nothing_usable_has_no_signal():
    """Without usable pixels, or with no variance, all is 0."""
    shape = (30, 20)
    image, variance = np.full(shape, np.nan, np.float32), np.ones(shape, np.float32)
    matched = MatchedFilter.of(2.0, shape)
    assert not correlated_image(image, variance, np.zeros(shape, bool), matched).any()
    assert not correlated_image(variance, 0 * variance, np.zeros(shape, bool), matched).any()
    assert not correlated_image(variance, variance, np.ones(shape, bool), matched).any()


def test_preconvolved_images_are_divided_by_their_noise():
    """An image that was correlated before becomes image / sigma, 0 where it says nothing."""
    image = np.array([[2.0, np.nan, 4.0, 5.0]], np.float32)
    found = preconvolved_image(image, np.array([[4.0, 4, 0, 1]], np.float32), np.array([[0, 0, 0, 1]], bool))
    assert_array_equal(found, [[1, 0, 0, 0]])


def test_kernels_equal_their_python_twins(rng):
    """The compiled kernels give the plain Python results."""
    image = rng.normal(size=(20, 22)).astype(np.float32)
    variance = rng.uniform(-0.2, 2, (20, 22)).astype(np.float32)
    bad = rng.uniform(size=(20, 22)) < 0.2
    columns, rows = rng.normal(size=(2, 2, 5))
    results = []
    for version in ("compiled", "plain"):

        def call(function, *arguments, version=version):
            return (function if version == "compiled" else function.py_func)(*arguments)

        signal, weight, top = (np.zeros((20, 22), np.float32) for _ in range(3))
        snr, squares = np.zeros((8, 9), np.float32), np.zeros((8, 9), np.float32)
        part = np.zeros((8, 9), np.float32)
        with np.errstate(all="ignore"):
            call(kernels.weigh, image, variance, bad, signal, weight)
            call(kernels.correlate_products, signal, columns, rows, 3, 4, part)
            call(
                module.sum_squares, weight, np.abs(columns.T @ rows) ** 2, 3, 4, 8, 9, np.float32(1), squares
            )
            call(kernels.divide, part, squares, np.float32(0.1), snr)
        results.append((signal, weight, part, squares, snr, np.array(call(kernels.extremes, weight)), top))
    for one, other in zip(*results):
        assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_a_width_must_be_positive():
    """A width of zero is refused."""
    with pytest.raises(ValueError, match="moments"):
        MatchedFilter.of(0.0, (10, 10))
