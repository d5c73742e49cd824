"""Deblending: shares that sum to the last bit, families, and fluxes of blends of known sources."""

import time

import galsim
import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import nnls

from skyquilt.algorithms.deblending import SingleFrameDeblendingConfig, apportion, deblend_sources, templates
from skyquilt.algorithms.deblending.deblended import FLAGS
from skyquilt.algorithms.source_detection import (
    DetectionPassesConfig,
    Peaks,
    SourceDetectionConfig,
    detect_in_passes,
    detect_sources,
    detections_from_peaks,
)
from skyquilt.primitives.footprints import children_excess
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.psf import FWHM_OF_SIGMA, KernelPsf, MoffatPsf

SKY = 400.0
TRUE = galsim.Kolmogorov(fwhm=3.6)
CONFIG = SingleFrameDeblendingConfig()


def sampled():
    """The PSF with the pixels' response, from samples."""
    profile = galsim.Convolve(TRUE, galsim.Pixel(1.0))
    return KernelPsf(profile.drawImage(nx=161, ny=161, scale=0.25, method="sb").array, 0.25)


PSF = sampled()
FWHM = PSF.fwhm_at(0, 0)
UNIT = np.sqrt(SKY / (PSF.kernel_at(0, 0) ** 2).sum())


def star(snr):
    """A star of a S/N."""
    return TRUE.withFlux(snr * UNIT)


def galaxy(snr, radius=3.5, angle=0.5):
    """A galaxy of about that S/N and half-light radius [pixel]."""
    disc = galsim.Exponential(half_light_radius=radius, flux=2 * snr * UNIT).shear(
        q=0.7, beta=angle * galsim.radians
    )
    return galsim.Convolve(disc, TRUE)


def paint(image, profile, x, y, reach=30):
    """Add an object; pixels off the image are left out."""
    plane = galsim.Image(image, xmin=0, ymin=0, scale=1.0)
    around = galsim.BoundsI(int(x) - reach, int(x) + reach, int(y) - reach, int(y) + reach) & plane.bounds
    plane[around] += profile.drawImage(bounds=around, scale=1.0, center=galsim.PositionD(x, y), dtype=float)


def observed(rng, truth):
    """Image, sky variance, bad pixels, variance."""
    image = (rng.poisson(truth + SKY) - SKY).astype(np.float32)
    sky = np.full(truth.shape, SKY, np.float32)
    return image, sky, np.zeros(truth.shape, bool), np.maximum(image + SKY, SKY / 2).astype(np.float32)


@pytest.fixture
def crowd(crowded_truth):
    """Image, sky, bad and variance of stars and galaxies at random places, many blended."""
    return observed(np.random.default_rng(5), crowded_truth)


@pytest.fixture(scope="module")
def crowded_truth():
    """Their light without noise."""
    rng = np.random.default_rng(4)
    shape, n = (200, 220), 80
    truth = np.zeros(shape)
    for k in range(n):
        x, y = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        snr = min(8 * rng.uniform() ** -1.25, 2000)
        paint(truth, star(snr) if k % 3 else galaxy(snr, rng.uniform(1.5, 5), rng.uniform(0, 3)), x, y)
    return truth


def detected(image, sky, bad, variance, psf=PSF):
    """Detections with the default options."""
    return detect_in_passes(image, sky, bad, psf, DetectionPassesConfig(), variance=variance)


def check_sums(rows, image, found):
    """Children and sources alone cover the footprints, and sum in float32, in two orders, to the image's bits."""
    n = len(found.x)
    for order in (range(n), range(n - 1, -1, -1)):
        total = np.zeros(image.size, np.float32)
        for k in order:
            pixel, value = rows.row(k)
            assert (np.diff(pixel) > 0).all()
            total[pixel] += value
        inside = found.segments.ravel() > 0
        assert_array_equal(total[inside], image.ravel()[inside])
        assert not total[~inside].any()


@pytest.mark.parametrize("psf", [PSF, FWHM / FWHM_OF_SIGMA], ids=["psf", "width"])
def test_children_sum_to_their_parents_exactly(crowd, psf):
    """In a crowd, with NaN and bad pixels, with and without a PSF, each pixel's light is shared to the last bit."""
    image, sky, bad, variance = crowd
    bad[::17, ::13] = True
    image[40, 50], image[100:103, 100] = np.nan, np.nan
    bad[40, 50] = True
    found = detected(image, sky, bad, variance)
    rows = deblend_sources(image, variance, bad, found, psf, CONFIG)
    check_sums(rows, image, found)
    n = len(found.x)
    assert found.blended.sum() > 25
    # families: blended sources have a parent, which counts them and has their pixels
    assert_array_equal(rows.parent[:n] >= 0, found.blended)
    assert (rows.parent[n:] == -1).all()
    assert_array_equal(rows.n_child, np.bincount(rows.parent[:n][found.blended], minlength=len(rows)))
    for k in range(n, len(rows)):
        children = np.flatnonzero(rows.parent == k)
        assert len(set(found.family[children])) == 1
        pixel, value = rows.row(k)
        assert_array_equal(pixel, np.flatnonzero(np.isin(found.segments, children + 1)))
        assert_array_equal(value, image.ravel()[pixel])
    assert set(rows.flags) == set(FLAGS)
    assert all(v.shape == (len(rows),) for v in rows.flags.values())


def test_heavy_footprints_are_made_of_the_rows(crowd):
    """Heavy footprints of children and parent agree with `children_excess`, in the parent frame; families too."""
    image, sky, bad, variance = crowd
    found = detected(image, sky, bad, variance)
    rows = deblend_sources(image, variance, bad, found, PSF, CONFIG, origin=(0, 0))
    parent = len(found.x) + int(np.argmax(rows.n_child[len(found.x) :]))
    children = [rows.heavy_footprint(k, (10, 20)) for k in np.flatnonzero(rows.parent == parent)]
    whole = rows.heavy_footprint(parent, (10, 20))
    assert len(children) > 1
    assert not children_excess(whole, children).any()
    box = Box(5, 6, 90, 80)
    assert_array_equal(rows.image_of(parent, box), whole.to_image(Box(15, 26, 90, 80)))
    families = rows.families(np.arange(len(rows)) + 100)
    assert families.children(parent + 100) == [k + 100 for k in np.flatnonzero(rows.parent == parent)]
    assert_allclose(rows.fluxes()[parent], whole.flux, rtol=1e-6)


def blend_errors(rng, one, two, apart, psf=PSF, n_side=6, cell=64):
    """Relative errors of light within 1.5 FWHM of both of many pairs, of children and of the image; share found."""
    size = n_side * cell
    planes = np.zeros((2, size, size))
    places = []
    for j in range(n_side):
        for i in range(n_side):
            angle = rng.uniform(0, 2 * np.pi)
            x, y = (np.array([i, j]) + 0.5) * cell + rng.uniform(-0.5, 0.5, 2)
            places.append([(x, y), (x + apart * FWHM * np.cos(angle), y + apart * FWHM * np.sin(angle))])
            for plane, profile, at in zip(planes, (one, two), places[-1]):
                paint(plane, profile, *at, reach=31)
    image, sky, bad, variance = observed(rng, planes.sum(0))
    found = detected(image, sky, bad, variance)
    rows = deblend_sources(image, variance, bad, found, psf, CONFIG, sky_variance=sky)
    v, u = np.mgrid[:size, :size]
    errors, plain, both = ([], []), ([], []), 0
    for pair in places:
        distance = [np.hypot(found.x - x, found.y - y) for x, y in pair]
        hits = [int(d.argmin()) for d in distance]
        good = all(d.min() < 2 for d in distance) and hits[0] != hits[1]
        both += good
        for k, (x, y) in enumerate(pair):
            rows_of = slice(max(int(y) - 12, 0), int(y) + 13)
            columns = slice(max(int(x) - 12, 0), int(x) + 13)
            circle = np.hypot(v - y, u - x)[rows_of, columns] < 1.5 * FWHM
            true = planes[k][rows_of, columns][circle].sum()
            plain[k].append(image[rows_of, columns][circle].sum(dtype=float) / true - 1)
            if good:
                box = Box(columns.start, rows_of.start, circle.shape[1], circle.shape[0])
                errors[k].append(rows.image_of(hits[k], box)[circle].sum(dtype=float) / true - 1)
    noise = [
        np.sqrt(SKY * np.pi * (1.5 * FWHM) ** 2 + true) / true
        for true in (p.sum() / n_side**2 for p in planes)
    ]
    return [np.array(e) for e in errors], [np.array(e) for e in plain], noise, both / len(places)


@pytest.mark.parametrize(("apart", "ratio"), [(1.0, 1), (1.5, 3), (2.0, 10), (3.0, 30)])
def test_stars_in_blends_have_their_flux(rng, apart, ratio):
    """Two stars 1 to 3 FWHM apart, 1 to 30 times as bright, get their flux back: within 4 errors of the median.

    Beyond the noise the PSF's samples, which end at 20 pixels, leave 0.3 % of the brighter star around it.
    """
    errors, plain, noise, both = blend_errors(rng, star(600), star(600 / ratio), apart)
    assert both > 0.9
    for k, share in ((0, 1 / ratio), (1, ratio)):
        median = np.median(errors[k])
        scatter = 1.4826 * np.median(np.abs(errors[k] - median))
        assert abs(median) < 4 * 1.25 * scatter / np.sqrt(errors[k].size) + 0.003 * share + 0.001
        # sharing costs noise where stars overlap: at most twice that of the star alone in the circle
        assert scatter < 2 * noise[k] * (1 + 1 / np.sqrt(errors[k].size))
    if apart <= 2 and ratio > 1:
        assert np.median(plain[1]) > 5 * abs(np.median(errors[1]))


def test_a_star_on_a_galaxy_has_its_flux(rng):
    """A star 2.5 FWHM from a galaxy eight times as bright is right to 5 %, without deblending to 50 %."""
    errors, plain, _, both = blend_errors(rng, galaxy(400), star(100), 2.5)
    assert both > 0.9
    assert abs(np.median(errors[1])) < 0.05
    assert np.median(plain[1]) > 0.3
    assert abs(np.median(errors[0])) < 0.01


def test_galaxies_told_apart_have_their_flux(rng):
    """Galaxies 3.5 FWHM apart, one four times as bright, are right to 2 % and 5 %."""
    errors, plain, _, both = blend_errors(rng, galaxy(400, 3.0), galaxy(100, 2.5), 3.5)
    assert both > 0.8
    assert abs(np.median(errors[0])) < 0.02
    assert abs(np.median(errors[1])) < 0.05
    assert np.median(plain[1]) > 2 * abs(np.median(errors[1]))


def test_without_a_psf_the_width_does(rng):
    """With a width only, stars 2 FWHM apart are right to 3 % and 10 %, where nothing done gives 3 % and 60 %."""
    errors, plain, _, both = blend_errors(rng, star(500), star(125), 2.0, psf=FWHM / FWHM_OF_SIGMA)
    assert both > 0.9
    assert abs(np.median(errors[0])) < 0.03
    assert abs(np.median(errors[1])) < 0.1 < np.median(plain[1])


def given_peaks(places, image, snr=20.0, floor=30.0):
    """Detections with peaks at given places, on pixels above a floor."""
    places = sorted(places, key=lambda p: (round(p[1]), round(p[0])))
    x, y = (np.array(v, float) for v in zip(*places))
    peaks = Peaks(x, y, np.rint(x).astype(np.int64), np.rint(y).astype(np.int64), np.full(x.size, snr))
    return detections_from_peaks(peaks, image, floor, 1)


def test_peaks_that_are_nothing_are_dropped(rng):
    """A second peak on one star's core is degenerate, one on its wing gets nothing; the star keeps its light."""
    truth = np.zeros((61, 61))
    paint(truth, star(900), 30.2, 29.8)
    image, sky, bad, variance = observed(rng, truth)
    found = given_peaks([(30.2, 29.8), (31.0, 30.0), (37.0, 33.0)], image)
    assert found.blended.all()
    rows = deblend_sources(image, variance, bad, found, PSF, CONFIG, sky_variance=sky)
    check_sums(rows, image, found)
    bright = int(np.argmax(rows.fluxes()[:3]))
    assert rows.flags["dropped"][:3].sum() == 2
    assert_allclose(rows.fluxes()[bright], image[found.segments > 0].sum(dtype=float), rtol=1e-6)
    assert (rows.child_start[1:] - rows.child_start[:-1])[:3][rows.flags["dropped"][:3]].sum() == 0
    assert_array_equal(rows.parent, [3, 3, 3, -1])


def test_edges_and_masks_are_flagged(rng):
    """Templates that meet the image's edge or masked pixels are made all the same, and say so."""
    truth = np.zeros((80, 120))
    for x, y, profile in (
        (1.0, 40, star(400)),
        (9.0, 40, star(300)),
        (60, 40, galaxy(300)),
        (72, 40, galaxy(200)),
    ):
        paint(truth, profile, x, y)
    image, sky, bad, variance = observed(rng, truth)
    bad[38:40, 61:63] = True
    image[bad] = -5e4
    found = given_peaks([(1.0, 40), (9.0, 40), (60, 40), (72, 40)], np.where(bad, 100, image))
    rows = deblend_sources(image, variance, bad, found, PSF, CONFIG, sky_variance=sky)
    check_sums(rows, image, found)
    assert rows.flags["edge"][0]
    assert rows.flags["masked"][2]
    assert not rows.flags["edge"][3]
    truth_flux = truth[found.segments == 4].sum()
    assert_allclose(rows.fluxes()[3], truth_flux, rtol=0.3)


def test_too_large_footprints_are_left_and_flagged(crowd):
    """Footprints with too many peaks keep the flood's partition, exactly, and are flagged; others are deblended."""
    image, sky, bad, variance = crowd
    found = detected(image, sky, bad, variance)
    sizes = np.bincount(found.family)
    limit = int(np.unique(sizes)[-2])
    rows = deblend_sources(image, variance, bad, found, PSF, SingleFrameDeblendingConfig(most_peaks=limit))
    large = sizes[found.family] > limit
    assert 0 < large.sum() < found.blended.sum()
    assert_array_equal(rows.flags["not_deblended"][: len(found.x)], large)
    assert rows.flags["not_deblended"][rows.parent[np.flatnonzero(large)]].all()
    check_sums(rows, image, found)
    for k in np.flatnonzero(large):
        assert_array_equal(rows.row(k)[0], np.flatnonzero(found.segments == k + 1))


@pytest.mark.parametrize("case", ["none", "nan", "all bad", "zero variance", "one pixel"])
def test_senseless_images_give_no_error(crowd, case):
    """No sources, no finite or usable pixel, no variance: rows all the same, exact sums, no error."""
    image, sky, bad, variance = crowd
    found = detected(image, sky, bad, variance)
    if case == "none":
        found = detect_in_passes(0 * image, sky, bad, PSF, DetectionPassesConfig())
    elif case == "nan":
        image[:] = np.nan
    elif case == "all bad":
        bad[:] = True
    elif case == "zero variance":
        variance[:] = 0
    elif case == "one pixel":
        image, variance, bad = image[:1, :1], variance[:1, :1], bad[:1, :1]
        found = detect_in_passes(image, variance, bad, PSF, DetectionPassesConfig())
    rows = deblend_sources(image, variance, bad, found, PSF, CONFIG)
    assert len(rows) >= len(found.x)
    check_sums(rows, image, found)


def test_the_same_input_gives_the_same_bytes(crowd):
    """Two runs give equal bits, and the input is left alone."""
    image, sky, bad, variance = crowd
    before = image.copy(), variance.copy(), bad.copy()
    found = detected(image, sky, bad, variance)
    one, two = (deblend_sources(image, variance, bad, found, PSF, CONFIG) for _ in range(2))
    assert_array_equal(one.value.view(np.int32), two.value.view(np.int32))
    assert_array_equal(one.pixel, two.pixel)
    for now, then in zip((image, variance, bad), before):
        assert_array_equal(now, then)


def test_five_thousand_peaks_in_one_footprint_are_shared(rng):
    """The time per peak of a footprint of 5,000 is within 3 of that of one of 600 (with n^2 it were 8)."""
    spent = []
    for n_side in (25, 71):
        spacing = 6
        size = n_side * spacing
        image = rng.normal(0, 20, (size, size)).astype(np.float32) + 60
        psf = MoffatPsf(3.6, 3.0, size=25)
        centre = (np.arange(n_side) + 0.5) * spacing
        x, y = (v.ravel() for v in np.meshgrid(centre, centre))
        for u, v in zip(x, y):
            stamp = psf.image_at(u, v)
            box = stamp.box.overlap(Box(0, 0, size, size))
            image[box.slices()] += (
                2e4
                * stamp.array[
                    box.y0 - stamp.box.y0 : box.y1 - stamp.box.y0,
                    box.x0 - stamp.box.x0 : box.x1 - stamp.box.x0,
                ]
            )
        variance, bad = image.clip(0) + 400, np.zeros(image.shape, bool)
        peaks = Peaks(x, y, np.rint(x).astype(np.int64), np.rint(y).astype(np.int64), np.full(x.size, 80.0))
        found = detections_from_peaks(peaks, image, 1.0, 1)
        assert len(np.unique(found.family)) == 1
        deblend_sources(
            image[:40, :40].copy(),
            variance[:40, :40].copy(),
            bad[:40, :40],
            given_peaks([(9, 9), (15, 9)], image[:40, :40].copy(), floor=1.0),
            psf,
            CONFIG,
        )
        begin = time.process_time()
        rows = deblend_sources(image, variance, bad, found, psf, CONFIG)
        spent.append((time.process_time() - begin) / x.size)
        check_sums(rows, image, found)
        assert not rows.flags["not_deblended"].any()
    assert x.size > 5000
    assert spent[1] < 3 * spent[0]


def test_templates_are_symmetric_smooth_and_end(rng):
    """A symmetric template is the same on both sides, does not rise outwards, and follows the galaxy within noise."""
    truth = np.zeros((81, 81))
    paint(truth, galaxy(400), 40.0, 40.0, reach=40)
    image, _, bad, _ = observed(rng, truth)
    out = np.zeros((121, 121), np.float32)
    reach, flags = templates.symmetric_template(image, bad, 40.0, 40.0, np.sqrt(SKY), 0.3, 60, out)
    assert flags == 0
    assert 10 < reach < 40
    middle = out[60 - reach : 61 + reach, 60 - reach : 61 + reach]
    # smoothing and ceilings treat both sides alike
    assert_allclose(middle, middle[::-1, ::-1], rtol=1e-5)
    total = middle.sum() / truth.sum()
    assert 0.95 < total < 1.02
    assert middle[reach, reach] == middle.max()
    # noise alone makes no template to speak of
    noise, _, bad, _ = observed(rng, np.zeros((81, 81)))
    reach, _ = templates.symmetric_template(noise, bad, 40.0, 40.0, np.sqrt(SKY), 0.3, 60, out)
    assert reach < 8


def plain_shares(templates_of, weight, image):
    """Shares in proportion to weighted templates, without rounding."""
    total = sum(w * t for w, t in zip(weight, templates_of))
    return [image * w * t / total for w, t in zip(weight, templates_of)]


def as_lists(dense):
    """Dense templates (n, m) as the lists that the kernels take."""
    slots = [np.flatnonzero(row) for row in dense]
    start = np.append(0, np.cumsum([s.size for s in slots])).astype(np.int64)
    slot = np.concatenate(slots).astype(np.int32)
    return start, slot, np.concatenate([row[s] for row, s in zip(dense, slots)]).astype(np.float32)


def test_shares_are_proportional_and_exact(rng):
    """Shares equal the plain proportion to a spacing per template, sums are exact: numbers of all sizes and signs."""
    m = 3000
    dense = rng.uniform(0.1, 9, (5, m)) * (rng.uniform(size=(5, m)) < 0.7)
    dense[0] = np.maximum(dense[0], 1e-3)
    dense = dense.astype(np.float32)
    image = (rng.choice([-1, 1], m) * 10 ** rng.uniform(-44, 30, m)).astype(np.float32)
    image[:3] = 0, 1, np.float32(2**24) - 1
    weight = np.array([1.0, 0.3, 2.0, 1e-6, 50.0])
    start, slot, value = as_lists(dense)
    child, stray = np.zeros(slot.size, np.float32), np.zeros(m, bool)
    apportion.share(start, slot, value, weight, image, child, stray)
    assert not stray.any()
    expected = np.stack(plain_shares(dense.astype(float), weight, image.astype(float)))
    found = np.zeros((5, m), np.float32)
    for k in range(5):
        found[k, slot[start[k] : start[k + 1]]] = child[start[k] : start[k + 1]]
    spacing = np.array([apportion.spacing(v) for v in image])
    assert_allclose(spacing[image != 0], np.spacing(np.abs(image[image != 0])))
    assert (np.abs(found - expected) <= 5 * spacing + 1e-6 * np.abs(image)).all()
    for order in (slice(None), slice(None, None, -1)):
        total = np.zeros(m, np.float32)
        for row in found[order]:
            total += row
        assert_array_equal(total, image)
    twin = np.zeros(slot.size, np.float32)
    with np.errstate(all="ignore"):
        apportion.share.py_func(start, slot, value, weight, image, twin, stray)
    assert_array_equal(child, twin)


def test_weights_are_the_least_squares_ones(rng):
    """Coordinate descent finds the weights of SciPy's non-negative least squares; what is not kept gets 0."""
    dense = np.exp(-0.5 * ((np.arange(60) - rng.uniform(5, 55, (7, 1))) / 3) ** 2).astype(np.float32)
    true = np.array([3.0, 0, 1, 5, 0.2, 2, 1])
    image = (true @ dense + rng.normal(0, 0.05, 60)).astype(np.float32)
    inverse = rng.uniform(0.5, 2, 60).astype(np.float32)
    inverse[10] = 0
    kept = np.array([1, 1, 1, 1, 1, 0, 1], bool)
    weight, significance = kept.astype(float), np.zeros(7)
    arguments = (*as_lists(dense), image, inverse, kept, 4000, 1e-9, weight, significance)
    apportion.fit_weights(*arguments)
    root = np.sqrt(inverse)
    expected, _ = nnls((dense[kept] * root).T, image * root)
    assert_allclose(weight[kept], expected, atol=2e-3)
    assert weight[5] == 0
    assert_allclose(significance, weight * np.sqrt((inverse * dense**2).sum(axis=1)), rtol=1e-5)


def test_degenerate_templates_are_marked():
    """Of two templates that differ by a factor the fainter is marked; different ones are not."""
    one = np.exp(-0.5 * ((np.arange(40) - 15) / 3.0) ** 2) + 1e-4
    other = np.exp(-0.5 * ((np.arange(40) - 24) / 3.0) ** 2) + 1e-4
    lists = as_lists(np.stack([one, 0.4 * one, other]).astype(np.float32))
    for function in (apportion.find_degenerate, apportion.find_degenerate.py_func):
        marked = np.zeros(3, bool)
        function(*lists, np.array([15, 16, 24]), 40, 0.97, marked)
        assert_array_equal(marked, [False, True, False])


def test_template_kernels_equal_their_python_twins(rng):
    """The compiled symmetric template is the plain Python one, with bad pixels and beside the edge."""
    image = (
        rng.normal(0, 1, (14, 15)) + 30 * np.exp(-((np.mgrid[:14, :15] - 4).astype(float) ** 2).sum(0) / 9)
    ).astype(np.float32)
    bad = rng.uniform(size=image.shape) < 0.1
    made = [np.zeros((13, 13), np.float32) for _ in range(2)]
    kernel = templates.symmetric_template
    results = [f(image, bad, 4.2, 3.8, 1.0, 0.3, 6, out) for f, out in zip((kernel, kernel.py_func), made)]
    assert results[0] == results[1]
    assert_allclose(made[0], made[1], rtol=1e-6)


def test_works_on_the_first_detection_too(crowd):
    """Detections of the flood that came first are deblended as well."""
    image, _, bad, variance = crowd
    snr = (image / 20).astype(np.float32)
    found = detect_sources(snr, SourceDetectionConfig())
    rows = deblend_sources(image, variance, bad, found, PSF, CONFIG)
    check_sums(rows, image, found)


@pytest.mark.parametrize(
    "wrong", [{"point_limit": -1.0}, {"degenerate_limit": 1.5}, {"template_floor": 0.0}, {"turns": 0}]
)
def test_options_are_checked(wrong):
    """Options outside their range, and images that do not fit, are refused."""
    with pytest.raises(ValueError, match="deblending"):
        SingleFrameDeblendingConfig(**wrong)


def test_planes_have_to_fit(crowd):
    """Planes of different shapes and widths that are not positive are refused."""
    image, sky, bad, variance = crowd
    found = detected(image, sky, bad, variance)
    with pytest.raises(ValueError, match="different shapes"):
        deblend_sources(image[:50], variance, bad, found, PSF, CONFIG)
    with pytest.raises(ValueError, match="positive width"):
        deblend_sources(image, variance, bad, found, 0.0, CONFIG)


def test_a_globular_cluster_is_one_family_in_bounded_time(shared_data):
    """M13, without a PSF: over a thousand stars, most in one footprint, shared exactly in a few ms per star."""
    place = shared_data / "nickel-20240512" / "d1059.fits.gz"
    if not place.is_file():
        pytest.skip("the frame of M13 is not here")
    raw = fits.getdata(place).astype(float)
    image = raw[100:500, 250:650] - np.median(raw[100:500, 1030:1054])
    image = ((image - np.percentile(image, 5)) * 1.8).astype(np.float32)

    sky = np.full(image.shape, 1.8 * np.percentile(raw[:, :1024], 5) + 100, np.float32)
    bad = ~np.isfinite(image)
    variance = np.maximum(image, 0) + sky
    found = detected(image, sky, bad, variance, 2.6)
    part = tuple(np.ascontiguousarray(plane[:99, :99]) for plane in (image, sky, bad, variance))
    # compiled before time is taken
    deblend_sources(part[0], part[3], part[2], detected(*part, 2.6), 2.6, CONFIG)
    begin = time.process_time()
    rows = deblend_sources(image, variance, bad, found, 2.6, CONFIG, sky_variance=sky)
    spent = time.process_time() - begin
    n = len(found.x)
    assert n > 300
    assert np.bincount(found.family).max() > 0.5 * n
    # 1 to 2 ms each were measured; templates that spread over the cluster's light took 20
    assert spent < 0.008 * n
    assert not rows.flags["not_deblended"].any()
    assert rows.flags["dropped"][:n].mean() < 0.15
    check_sums(rows, image, found)
