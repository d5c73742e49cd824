"""Source detection and deblending."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage
from scipy.stats import norm

from skyquilt.algorithms.source_detection import (
    SourceDetectionConfig,
    detect_sources,
    detected_pixels,
    detection_image,
    flood,
)


def noise_image(rng, shape, sigma=1.0):
    """White noise, its variance and no bad pixel."""
    image = rng.normal(0, sigma, shape).astype(np.float32)
    return image, np.full(shape, sigma**2, np.float32), np.zeros(shape, bool)


def test_detection_image_of_noise_has_unit_width(rng):
    """Pure noise of uneven variance, with masked pixels, becomes a map of unit standard deviation."""
    shape = (500, 500)
    scale = np.linspace(1, 4, 500)[None, :]
    image = (rng.normal(size=shape) * scale).astype(np.float32)
    bad = rng.uniform(size=shape) < 0.02
    image[bad] = np.nan
    snr = detection_image(image, (scale**2 * np.ones(shape)).astype(np.float32), bad, 1.7)
    inside = snr[20:-20, 20:-20]
    # one independent value per 4 pi sigma^2 pixels
    n = inside.size / (4 * np.pi * 1.7**2)
    assert_allclose(inside.std(), 1.0, atol=4 / np.sqrt(2 * n))
    assert np.isfinite(snr).all()


def test_signal_to_noise_and_completeness_of_stars(star_grid):
    """Peaks have the matched filter's signal to noise, and stars at nu sigma are found Phi(S/N - nu) of the
    time."""
    sky = 200.0 + 25.0
    flux = 6.0 * np.sqrt(4 * np.pi * 4 * sky)
    stars = star_grid(flux=flux, spacing=30, n_side=22)
    snr = detection_image(stars.image, np.full_like(stars.image, sky), stars.bad, 2.0)
    at_stars = snr[np.rint(stars.y).astype(int), np.rint(stars.x).astype(int)]
    n = len(stars.x)
    # up to half a pixel off the peak costs exp(-d^2 / 16): 1 % on average; integration over pixels 1 % more
    assert_allclose(at_stars.mean(), 6.0, atol=0.02 * 6 + 4 * 1.1 / np.sqrt(n))
    found = detect_sources(snr, SourceDetectionConfig(threshold=6.0))
    distance = np.hypot(found.x[:, None] - stars.x, found.y[:, None] - stars.y).min(axis=0)
    share = (distance < 3.0).mean()
    # half of them at the value itself; the best of the pixels around is higher by about 0.5 sigma
    assert norm.cdf(-0.2) - 4 * 0.5 / np.sqrt(n) < share < norm.cdf(0.8) + 4 * 0.5 / np.sqrt(n)


def test_false_detections_are_as_rare_as_gaussian_noise(rng):
    """In pure noise the number of peaks above 4 sigma is that of a Gaussian field."""
    sigma, n = 2.0, 1000
    snr = detection_image(*noise_image(rng, (n, n)), sigma)
    found = detect_sources(snr, SourceDetectionConfig(threshold=4.0))
    # peaks per area above nu: nu exp(-nu^2 / 2) / ((2 pi)^1.5 * 2 sigma^2) (Rice; the field's width is
    # sqrt(2) sigma)
    expected = n * n * 4.0 * np.exp(-8.0) / ((2 * np.pi) ** 1.5 * 2 * sigma**2)
    assert abs(len(found.x) - expected) < 4 * np.sqrt(expected)


def test_footprints_are_connected_pixels(rng):
    """Without deblending sources are the 8-connected regions above the threshold; segments agree."""
    snr = ndimage.gaussian_filter(rng.normal(size=(120, 130)), 1.5).astype(np.float32)
    snr /= snr.std()
    found = detect_sources(snr, SourceDetectionConfig(threshold=1.5, deblend_contrast=1.0))
    labels, n = ndimage.label(snr > 1.5, structure=np.ones((3, 3)))
    assert len(found.x) == n
    assert_array_equal(found.segments > 0, labels > 0)
    pairs = set(zip(found.segments[labels > 0], labels[labels > 0]))
    assert len(pairs) == n
    assert_array_equal(found.area, np.bincount(found.segments.ravel(), minlength=n + 1)[1:])
    assert not found.blended.any()
    x = [
        np.average(np.nonzero(found.segments == k + 1)[1], weights=snr[found.segments == k + 1])
        for k in range(n)
    ]
    assert_allclose(found.x, x, rtol=1e-6)


def test_without_limits_every_local_maximum_is_a_source(rng):
    """With no significance or contrast asked for, sources are the local maxima above the threshold."""
    snr = ndimage.gaussian_filter(rng.normal(size=(100, 100)), 1.5).astype(np.float32)
    snr /= snr.std()
    config = SourceDetectionConfig(threshold=0.5, deblend_significance=0.0, deblend_contrast=0.0)
    found = detect_sources(snr, config)
    maxima = (snr == ndimage.maximum_filter(snr, 3, mode="constant", cval=-9)) & (snr > 0.5)
    assert_array_equal(np.argwhere(maxima), np.column_stack([found.peak_y, found.peak_x]))
    labels, _ = ndimage.label(snr > 0.5, structure=np.ones((3, 3)))
    family = {(int(f), int(labels[y, x])) for f, x, y in zip(found.family, found.peak_x, found.peak_y)}
    assert len(family) == len({f for f, _ in family}) == len({label for _, label in family})


def test_prominence_decides(rng):
    """Two peaks are two sources exactly when the lower one stands out of the saddle by the asked
    significance."""
    profile = np.array([0, 6, 20, 10, 16, 6, 0], np.float32)
    snr = np.zeros((5, 7), np.float32)
    snr[2] = profile
    for significance, noise, n in ((5.9, 1.0, 2), (6.1, 1.0, 1), (3.1, 2.0, 1)):
        config = SourceDetectionConfig(deblend_significance=significance, deblend_contrast=0.0)
        assert len(detect_sources(snr, config, np.full_like(snr, noise)).x) == n
    config = SourceDetectionConfig(deblend_significance=1.0, deblend_contrast=0.4)
    assert len(detect_sources(snr, config).x) == 1


def test_blended_stars_are_told_apart(paint_stars, rng):
    """Equal bright stars 4 sigma apart are two sources of one family; a lone one is not blended."""
    image = np.zeros((80, 120))
    paint_stars(image, [40.0, 48.0, 90.0], [40.0, 40.0, 40.0], [20000.0, 20000.0, 20000.0], 2.0)
    noisy = (rng.poisson(image + 100) - 100.0).astype(np.float32)
    sky = np.full_like(noisy, 100.0)
    snr = detection_image(noisy, sky, np.zeros(noisy.shape, bool), 2.0)
    noise = np.sqrt(np.maximum((noisy + 100) / 100, 1)).astype(np.float32)
    found = detect_sources(snr, SourceDetectionConfig(), noise)
    assert_array_equal(found.blended, [True, True, False])
    assert found.family[0] == found.family[1] != found.family[2]
    assert_allclose(found.x, [40, 48, 90], atol=0.8)


def test_order_and_emptiness(rng):
    """Sources are numbered by rows of their peaks; an empty image gives none."""
    snr = detection_image(*noise_image(rng, (300, 300)), 1.5)
    found = detect_sources(snr, SourceDetectionConfig(threshold=3.0))
    assert_array_equal(np.lexsort((found.peak_x, found.peak_y)), np.arange(len(found.x)))
    assert_array_equal(found.segments[found.peak_y, found.peak_x], np.arange(len(found.x)) + 1)
    empty = detect_sources(np.zeros((20, 30), np.float32), SourceDetectionConfig())
    assert len(empty.x) == 0
    assert not empty.segments.any()


def test_least_area_counts_whole_footprints(rng):
    """Footprints smaller than the least area disappear from list and segments; larger ones stay."""
    snr = np.zeros((20, 20), np.float32)
    snr[3, 3] = 9
    snr[10:12, 10:12] = 9
    found = detect_sources(snr, SourceDetectionConfig(min_area=3))
    assert len(found.x) == 1
    assert found.segments[3, 3] == 0
    assert found.area[0] == 4


def test_grown_pixels():
    """Growing by n sets the square of n pixels around each pixel above the threshold."""
    snr = np.zeros((15, 15), np.float32)
    snr[7, 5] = 4
    grown = detected_pixels(snr, 3.0, 2)
    expected = np.zeros((15, 15), bool)
    expected[5:10, 3:8] = True
    assert_array_equal(grown, expected)


def whole_detection_image(image, sky_variance, bad, sigma):
    """The formula of the module, on whole planes."""
    weight = np.where(bad, np.float32(0), 1 / sky_variance)
    signal = np.where(bad, np.float32(0), image) * weight
    options = {"mode": "constant", "truncate": 4.0, "output": np.float32}
    top = ndimage.gaussian_filter(signal, sigma, **options)
    bottom = ndimage.gaussian_filter(weight, sigma / np.sqrt(2.0), **options)
    usable = bottom > 0.1 * np.median(weight[~bad])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.float32(2.0 * np.sqrt(np.pi) * sigma) * top / np.sqrt(bottom)
    return np.where(usable, ratio, np.float32(0))


@pytest.mark.parametrize("sigma", [1.3, 40.0])
def test_strips_change_no_bit(rng, sigma):
    """An image of many strips, with planes or functions of rows, has the bits of whole planes, also where the
    kernel is larger than a strip; so has the mask of grown detections."""
    shape = (300, 70)
    image = rng.normal(0, 5, shape).astype(np.float32)
    sky = rng.uniform(20, 30, shape).astype(np.float32)
    bad = rng.uniform(size=shape) < 0.1
    bad[120:140] = True
    image[bad] = np.nan
    expected = whole_detection_image(image, sky, bad, sigma)
    assert_array_equal(detection_image(image, sky, bad, sigma), expected)
    assert_array_equal(
        detection_image(lambda rows: image[rows], lambda rows: sky[rows], bad, sigma), expected
    )
    grown = ndimage.binary_dilation(expected > 2.0, np.ones((9, 9)))
    assert_array_equal(detected_pixels(expected, 2.0, 4), grown)


def test_nothing_usable_has_no_signal():
    """With every pixel bad the detection image is 0."""
    shape = (9, 8)
    nothing = detection_image(
        np.full(shape, np.nan, np.float32), np.ones(shape, np.float32), np.ones(shape, bool), 2.0
    )
    assert_array_equal(nothing, np.zeros(shape))


def test_noise_may_be_a_function_of_pixels(rng):
    """Noise asked for at the pixels that need it gives the sources that a plane of it gives."""
    snr = (4 * ndimage.gaussian_filter(rng.normal(size=(90, 110)), 1.5)).astype(np.float32)
    noise = rng.uniform(0.02, 0.3, snr.shape).astype(np.float32)
    config = SourceDetectionConfig(threshold=0.5)
    plane = detect_sources(snr, config, noise)
    assert 0 < plane.blended.sum() < len(plane.x) < len(detect_sources(snr, config, 0 * noise).x)
    asked = detect_sources(snr, config, lambda pixels: noise.ravel()[pixels])
    for name in plane.__dataclass_fields__:
        assert_array_equal(getattr(asked, name), getattr(plane, name))


def test_flood_equals_its_python_twin(rng):
    """The compiled flood gives the plain Python result."""
    snr = ndimage.gaussian_filter(rng.normal(size=(24, 24)), 1.2).astype(np.float32)
    snr /= snr.std()
    above = np.flatnonzero(snr > 0.3)
    order = above[np.argsort(-snr.ravel()[above], kind="stable")]
    noise = rng.uniform(0.5, 2.0, order.size).astype(np.float32)
    results = []
    for function in (flood, flood.py_func):
        arrays = [np.zeros(snr.shape, np.int32)] + [np.zeros(order.size + 1, np.int64) for _ in range(3)]
        results.append((function(snr, noise, order, 0.3, 0.1, *arrays), *arrays))
    for one, other in zip(*results):
        assert_array_equal(one, other)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.0}, {"min_area": 0}, {"deblend_contrast": 1.5}, {"first_fwhm": -1.0}]
)
def test_options_are_checked(wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match=r"detection|deblend"):
        SourceDetectionConfig(**wrong)
