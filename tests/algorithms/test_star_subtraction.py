"""SubtractStars and ReinsertStars: bits that come back, extended sources left, catalogues merged."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.source_detection import DetectionPassesConfig, detect_in_passes
from skyquilt.algorithms.star_subtraction import merge_detections, subtract_stars
from skyquilt.primitives.psf import MoffatPsf

PSF = MoffatPsf(3.6, 3.2, 0.05)


def star_image(rng, shape, x, y, flux, sky=300.0):
    """Stars of the PSF with photon noise, background subtracted."""
    truth = np.zeros(shape)
    for u, v, f in zip(x, y, flux):
        stamp = PSF.image_at(u, v)
        box = stamp.box.overlap(type(stamp.box)(0, 0, shape[1], shape[0]))
        y0, x0 = box.y0 - stamp.box.y0, box.x0 - stamp.box.x0
        truth[box.slices()] += f * stamp.array[y0 : y0 + box.ny, x0 : x0 + box.nx]
    return (rng.poisson(truth + sky) - sky).astype(np.float32)


@pytest.fixture
def field(rng):
    """Forty stars, some over the edge."""
    x, y = rng.uniform(-1, 200, 40), rng.uniform(-1, 150, 40)
    flux = 10 ** rng.uniform(3, 6, 40)
    return star_image(rng, (150, 200), x, y, flux), x, y, flux


def test_stars_come_back_to_the_bit(field):
    """Subtracting and reinserting restores every bit, NaN and negative zero included."""
    image, x, y, flux = field
    image[10, 10], image[11, 10], image[12, 12] = np.nan, -0.0, np.inf
    taken = subtract_stars(image, PSF, x, y, flux, np.zeros(40, bool), 2000.0)
    assert_array_equal(taken.reinserted().view(np.int32), image.view(np.int32))
    # the sums alone would not do: some pixels had to be kept
    assert 0 < taken.inexact.size < 0.6 * taken.pixel.size


def test_with_a_changed_background_the_sum_is_right_to_rounding(field):
    """After the background changed, reinserting gives image + change within half a spacing of both numbers."""
    image, x, y, flux = field
    taken = subtract_stars(image, PSF, x, y, flux, np.zeros(40, bool), 2000.0)
    change = np.float32(0.37)
    changed = taken.image + change
    restored = taken.reinserted(changed)
    expected = image.astype(float) + float(change)
    spacing = np.spacing(np.abs(taken.image)).astype(float)
    # half a spacing each of: the residual, the changed residual, the restored value; powers of 2 between them
    bound = spacing + np.spacing(np.abs(changed)) + np.spacing(np.abs(restored))
    assert (np.abs(restored - expected) <= bound).all()
    with pytest.raises(ValueError, match="stars are of an image"):
        taken.reinserted(changed[:50])


def test_what_is_left_is_noise(field):
    """Without stars the image has the noise of sky and the stars' photons, and no star."""
    image, x, y, flux = field
    taken = subtract_stars(image, PSF, x, y, flux, np.zeros(40, bool), 0.0)
    pulls = taken.image / np.sqrt(np.maximum(image, 0) + 300.0)
    # photons that fluctuate up count in the variance too: the mean square is within 4 / sqrt(n / 2) of 1 + 1 %
    assert_allclose((pulls**2).mean(), 1, atol=0.01 + 4 * np.sqrt(2 / image.size))


def test_extended_faint_and_unknown_sources_stay(field):
    """Extended sources, those below the limit and those without a place or flux are left as they are."""
    image, x, y, flux = field
    extended = np.arange(40) % 2 == 0
    flux[1], x[3], y[5] = np.nan, np.nan, np.inf
    taken = subtract_stars(image, PSF, x, y, flux, extended, 20_000.0)
    usable = ~extended & np.isfinite(flux) & np.isfinite(x) & np.isfinite(y)
    assert_array_equal(taken.star, np.flatnonzero(usable & (np.nan_to_num(flux) > 20_000)))
    nothing = subtract_stars(image, PSF, x, y, flux, np.ones(40, bool), 0.0)
    assert_array_equal(nothing.image, image)
    assert nothing.pixel.size == nothing.star.size == 0


def test_the_order_of_stars_does_not_matter(field, rng):
    """Stars in another order leave the same bits."""
    image, x, y, flux = field
    first = subtract_stars(image, PSF, x, y, flux, np.zeros(40, bool), 0.0)
    order = rng.permutation(40)
    other = subtract_stars(image, PSF, x[order], y[order], flux[order], np.zeros(40, bool), 0.0)
    assert_array_equal(first.image.view(np.int32), other.image.view(np.int32))


def test_a_faint_star_under_a_bright_one_joins_its_family(rng):
    """Detected only without the bright star, it is merged with that: both once, one family, no pixel lost."""
    x, y = np.array([60.3, 67.1, 120.0]), np.array([50.2, 52.8, 60.0])
    flux = np.array([4e5, 4e3, 5e4])
    image = star_image(rng, (110, 160), x, y, flux)
    sky, bad = np.full(image.shape, 300, np.float32), np.zeros(image.shape, bool)
    config = DetectionPassesConfig(bright_threshold=0)
    first = detect_in_passes(image, sky, bad, PSF, config)
    assert len(first.x) == 2
    taken = subtract_stars(image, PSF, x[[0, 2]], y[[0, 2]], flux[[0, 2]], np.zeros(2, bool), 1e4)
    later = detect_in_passes(taken.image, sky + np.maximum(image - taken.image, 0), bad, PSF, config)
    merged = merge_detections(first, later, 2.0)
    assert len(merged.x) == len(first.x) + 1
    assert_array_equal(np.lexsort((merged.peak_x, merged.peak_y)), np.arange(3))
    hidden = np.argmin(np.hypot(merged.x - 67.1, merged.y - 52.8))
    bright = np.argmin(np.hypot(merged.x - 60.3, merged.y - 50.2))
    assert merged.family[hidden] == merged.family[bright]
    assert merged.blended[[hidden, bright]].all()
    assert_array_equal(merged.segments > 0, (first.segments > 0) | (later.segments > 0))
    assert_array_equal(merged.area, np.bincount(merged.segments.ravel(), minlength=4)[1:])
    # the same again: nothing is doubled
    again = merge_detections(first, first, 2.0)
    assert_array_equal(again.segments, first.segments)
    assert_array_equal(again.peak_snr, first.peak_snr)
    # stars that were not subtracted are the later detection's affair
    part = merge_detections(first, later, 2.0, kept=np.zeros(2, bool))
    assert_array_equal(part.segments, later.segments)
    with pytest.raises(ValueError, match="detections on"):
        merge_detections(first, detect_in_passes(image[:50], sky[:50], bad[:50], PSF, config), 2.0)
