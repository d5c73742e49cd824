"""Footprints against boolean arrays, scipy.ndimage and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from skyquilt.primitives import footprints
from skyquilt.primitives.component import from_state
from skyquilt.primitives.footprints import Families, Footprint, HeavyFootprint
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

quick = settings(deadline=None, max_examples=60)
shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
pixel_sets = arrays(bool, shapes)
places = st.tuples(st.integers(-50, 50), st.integers(-50, 50))
corners, sides = st.integers(0, 20), st.integers(1, 5)
SQUARE, CROSS = np.ones((3, 3), dtype=bool), ndimage.generate_binary_structure(2, 1)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def at(where, place):
    """The box of an array put at a place, and the footprint there."""
    box = Box(place[0], place[1], where.shape[1], where.shape[0])
    return box, Footprint.from_array(where, box)


def assert_normal(footprint):
    """Spans are sorted and neither empty, overlapping nor touching."""
    y, x0, x1 = footprint.spans.T
    assert (x0 < x1).all()
    assert ((y[1:] > y[:-1]) | ((y[1:] == y[:-1]) & (x0[1:] > x1[:-1]))).all()
    assert footprint.spans.dtype == np.int32


def structure(radius, shape):
    """Pixels within a radius of the centre, from the definition."""
    n = int(radius)
    y, x = np.mgrid[-n : n + 1, -n : n + 1]
    return x**2 + y**2 <= radius**2 if shape == "disc" else abs(x) + abs(y) <= n


@quick
@given(pixel_sets, places)
def test_array_round_trip(where, place):
    """From an array to spans and back; area, box, pixels and centroid are those of the array."""
    box, footprint = at(where, place)
    assert_normal(footprint)
    assert_array_equal(footprint.to_array(box), where)
    assert footprint.area == where.sum()
    y, x = np.nonzero(where)
    got_y, got_x = footprint.pixels()
    assert_array_equal(got_y, y + box.y0)
    assert_array_equal(got_x, x + box.x0)
    if where.any():
        x0, y0 = int(got_x.min()), int(got_y.min())
        assert footprint.box == Box(x0, y0, got_x.max() - x0 + 1, got_y.max() - y0 + 1)
        assert_allclose(footprint.centroid, (got_x.mean(), got_y.mean()), atol=1e-12)
    else:
        assert footprint.box.is_empty


@quick
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-9, 9), st.integers(0, 6)), max_size=25))
def test_any_spans_are_made_normal(rows):
    """Overlapping spans in any order give the footprint of their pixels."""
    spans = np.array([(y, x, x + n) for y, x, n in rows], dtype=np.int32).reshape(-1, 3)
    box = Box(-10, -5, 30, 10)
    where = np.zeros(box.shape, dtype=bool)
    for y, x0, x1 in spans:
        where[y + 5, x0 + 10 : x1 + 10] = True
    footprint = Footprint(spans)
    assert_normal(footprint)
    assert footprint == Footprint.from_array(where, box)
    assert hash(footprint) == hash(Footprint.from_array(where, box))


@quick
@given(pixel_sets, pixel_sets, places, places)
def test_set_operations_are_those_of_pixels(one, other, first, second):
    """Union, intersection, difference and overlap, wherever the two lie."""
    box_a, a = at(one, first)
    box_b, b = at(other, tuple(f + s % 9 - 4 for f, s in zip(first, second, strict=True)))
    frame = box_a.union(box_b)
    in_a, in_b = a.to_array(frame), b.to_array(frame)
    for made, expected in (
        (a.union(b), in_a | in_b),
        (a.intersection(b), in_a & in_b),
        (a.difference(b), in_a & ~in_b),
    ):
        assert_normal(made)
        assert made == Footprint.from_array(expected, frame)
    assert a.overlaps(b) == (in_a & in_b).any()
    assert a.clipped(box_b) == a.intersection(Footprint.from_box(box_b))
    assert a.shifted(3, -2).shifted(-3, 2) == a


@quick
@given(pixel_sets, places, st.sampled_from([0, 1, 1.5, 2, 2.9, 4]), st.sampled_from(["disc", "diamond"]))
def test_growing_is_dilation(where, place, radius, shape):
    """Grow and shrink are scipy's dilation and erosion with the pixels within the radius."""
    box, footprint = at(where, place)
    frame = box.grown(5)
    inside, element = footprint.to_array(frame), structure(radius, shape)
    grown, shrunk = footprint.grown(radius, shape), footprint.shrunk(radius, shape)
    assert grown == Footprint.from_array(ndimage.binary_dilation(inside, element), frame)
    assert shrunk == Footprint.from_array(ndimage.binary_erosion(inside, element), frame)
    opened = ndimage.binary_opening(inside, element)
    assert footprint.opened(radius, shape) == Footprint.from_array(opened, frame)
    # extensive and idempotent
    closed = footprint.closed(radius, shape)
    assert footprint.difference(closed).area == 0
    assert closed.closed(radius, shape) == closed


@quick
@given(pixel_sets, places, st.sampled_from([4, 8]))
def test_split_is_labelling(where, place, connectivity):
    """Components are scipy's, in the order of their first pixels, and make up the whole."""
    box, footprint = at(where, place)
    labels, n = ndimage.label(where, SQUARE if connectivity == 8 else CROSS)
    parts = footprint.split(connectivity)
    assert parts == [Footprint.from_array(labels == label, box) for label in range(1, n + 1)]
    assert footprint.is_connected(connectivity) == (n <= 1)


def test_contains_is_looked_up_per_pixel(rng):
    """A position is inside when its nearest pixel is; NaN and far places are not; the shape is kept."""
    where = rng.random((9, 14)) < 0.5
    _, footprint = at(where, (-20, 33))
    y, x = np.mgrid[30:45, -23:-2]
    dy, dx = rng.uniform(-0.49, 0.49, (2, *y.shape))
    assert_array_equal(footprint.contains(x + dx, y + dy), footprint.to_array(Box(-23, 30, 21, 15)))
    assert not footprint.contains(np.nan, 35.0)
    pixel = Footprint.from_box(Box(0, 0, 1, 1))
    edges = np.array([-0.5, np.nextafter(0.5, 0), 0.5, np.nextafter(-0.5, -1)])
    assert pixel.contains(edges, 0.0).tolist() == [True, True, False, False]
    assert footprint.contains(*footprint.pixels()[::-1]).all()
    assert footprint.contains(0.0, 0.0).shape == ()
    assert not Footprint(np.empty((0, 3))).contains(0, 0)


def brute_force_regions(image, threshold):
    """Regions and peaks by scipy and a maximum filter, for images without equal pixels."""
    labels, n = ndimage.label(image >= threshold, SQUARE)
    maxima = image == ndimage.maximum_filter(image, 3, mode="constant", cval=-np.inf)
    return [(labels == i, maxima & (labels == i)) for i in range(1, n + 1)]


@quick
@given(shapes, st.integers(0, 10**6), st.integers(1, 4))
def test_threshold_finds_regions_and_peaks(shape, seed, min_area):
    """Regions and peaks of a smooth noise image are those of scipy; small regions are left out."""
    noise = np.random.default_rng(seed).normal(size=shape)
    image = ndimage.gaussian_filter(noise, 0.7).astype(np.float32)
    box = Box(100, -7, shape[1], shape[0])
    got = footprints.footprints_from_threshold(image, 0.3, min_area=min_area, box=box)
    expected = [pair for pair in brute_force_regions(image, 0.3) if pair[0].sum() >= min_area]
    assert len(got) == len(expected)
    for footprint, (where, maxima) in zip(got, expected, strict=True):
        assert_array_equal(footprint.to_array(box), where)
        y, x = np.nonzero(maxima)
        assert {(p["x"], p["y"], p["value"]) for p in footprint.peaks} == {
            (u + 100, v - 7, image[v, u]) for v, u in zip(y, x, strict=True)
        }
        assert (np.diff(footprint.peaks["value"]) <= 0).all()


def test_polarity_mask_and_threshold_image():
    """Negative regions have negative peaks; bad and NaN pixels belong to no region; thresholds may vary."""
    image = np.zeros((8, 9), dtype=np.float32)
    image[2, 2:5] = 5
    image[6, 6] = -7
    image[4, 4] = np.nan
    both = footprints.footprints_from_threshold(image, 3, polarity="both")
    assert [f.area for f in both] == [3, 1]
    assert both[1].peaks["value"].tolist() == [-7]
    # of three equal pixels the first is the peak
    assert both[0].peaks[["x", "y"]].tolist() == [(2, 2)]
    assert footprints.footprints_from_threshold(image, 3, polarity="negative") == both[1:]
    good = np.ones(image.shape, dtype=bool)
    good[2, 3] = False
    assert [f.area for f in footprints.footprints_from_threshold(image, 3, good=good)] == [1, 1]
    assert footprints.footprints_from_threshold(image, np.where(good, 9, 4)) == [
        Footprint(np.array([[2, 3, 4]]))
    ]
    assert footprints.footprints_from_threshold(np.full((4, 4), np.nan), 0.0) == []
    with pytest.raises(ValueError, match="positive"):
        footprints.footprints_from_threshold(image, 0.0, polarity="both")


@quick
@given(st.lists(st.tuples(corners, corners, sides, sides), max_size=12))
def test_merging_is_labelling_of_the_union(boxes):
    """Overlapping or touching footprints become one, and every peak ends in the one that holds it."""
    parts = []
    for number, (x, y, nx, ny) in enumerate(boxes):
        peak = footprints.peaks_table(x, y, number)
        parts.append(Footprint.from_box(Box(x, y, nx, ny)).with_peaks(peak))
    where = np.zeros((26, 26), dtype=bool)
    for x, y, nx, ny in boxes:
        where[y : y + ny, x : x + nx] = True
    merged = footprints.merge_overlapping(parts)
    labels, n = ndimage.label(where, SQUARE)
    assert [f.with_peaks(footprints.NO_PEAKS) for f in merged] == [
        Footprint.from_array(labels == i) for i in range(1, n + 1)
    ]
    for footprint in merged:
        assert footprint.contains(footprint.peaks["x"], footprint.peaks["y"]).all()
    assert sorted(v for f in merged for v in f.peaks["value"]) == list(range(len(boxes)))


def test_peaks_follow_the_pixels():
    """Split, intersection and clipping hand each peak to the footprint with its pixel."""
    spans = np.array([[0, 0, 3], [5, 10, 12]])
    peaks = footprints.peaks_table([1, 11, 50], [0, 5, 50], [3, 8, 9])
    footprint = Footprint(spans, peaks)
    assert footprint.peaks["value"].tolist() == [9, 8, 3]
    one, other = footprint.split()
    assert one.peaks["value"].tolist() == [3]
    assert other.peaks["value"].tolist() == [8]
    assert footprint.clipped(Box(0, 0, 5, 5)) == one
    assert footprint.intersection(Footprint.from_box(Box(9, 4, 9, 9))) == other
    assert one.union(other) == footprint.with_peaks(footprint.peaks[1:])


def test_mask_planes_round_trip(rng):
    """Footprints set a plane of a mask and are found in it again; the part beyond the mask is cut."""
    box = Box(10, 20, 30, 25)
    where = rng.random(box.shape) < 0.3
    mask = Mask.blank(box.shape)
    parts = Footprint.from_array(where, box).split()
    beyond = Footprint.from_box(Box(39, 30, 5, 1))
    footprints.set_mask([*parts, beyond], mask, "DETECTED", box)
    where[10, 29] = True
    assert_array_equal(mask.any("DETECTED"), where)
    found = footprints.footprints_from_mask(mask, "DETECTED", box=box)
    assert found == Footprint.from_array(where, box).split()
    assert mask.any("BAD").sum() == 0


def test_heavy_footprint_takes_and_gives_back_exactly(rng):
    """Insert puts the very bits back; add and subtract change the footprint's pixels only."""
    box = Box(-5, 3, 20, 18)
    image, variance = rng.normal(size=(2, *box.shape)).astype(np.float32)
    mask = rng.integers(0, 8, box.shape).astype(np.int32)
    image[4, 4] = np.nan
    _, footprint = at(rng.random((9, 9)) < 0.6, (0, 6))
    heavy = HeavyFootprint.from_images(footprint, image, mask, variance, box)
    inside = footprint.to_array(box)
    assert_array_equal(heavy.image, image[inside])
    blank = (np.zeros_like(image), np.zeros_like(mask), np.zeros_like(variance))
    heavy.insert(*blank, box=box)
    for plane, original in zip(blank, (image, mask, variance), strict=True):
        assert_array_equal(plane, np.where(inside, original, 0))
    assert_array_equal(heavy.to_image(box, fill=0), np.where(inside, image, 0))
    changed = image.copy()
    heavy.subtract_from(changed, box)
    assert_array_equal(changed[inside], np.where(np.isnan(image[inside]), np.nan, 0))
    assert_array_equal(changed[~inside], image[~inside])
    heavy.add_to(changed, box)
    assert_array_equal(changed, image)
    assert heavy == HeavyFootprint.from_images(footprint, image, mask, variance, box)
    assert heavy != HeavyFootprint(footprint, heavy.image)
    with pytest.raises(ValueError, match="leaves the image"):
        HeavyFootprint.from_images(footprint.shifted(-30, 0), image, box=box)
    with pytest.raises(ValueError, match="no mask"):
        HeavyFootprint(footprint, heavy.image).insert(image, mask, box=box)
    with pytest.raises(ValueError, match="pixels"):
        HeavyFootprint(footprint, heavy.image[1:])


def test_states_give_equal_objects(rng):
    """Footprints, heavy or not, come back from their states."""
    _, footprint = at(rng.random((5, 6)) < 0.5, (4, -2))
    footprint = footprint.with_peaks(footprints.peaks_table([4.25, 5], [0, -1], [1, 2]))
    assert from_state(footprint.to_state()) == footprint
    image = rng.normal(size=footprint.area)
    for heavy in (HeavyFootprint(footprint, image), HeavyFootprint(footprint, image, None, image**2)):
        assert from_state(heavy.to_state()) == heavy


def test_children_that_keep_the_flux_leave_no_excess(rng):
    """Shares that add up to 1 in each pixel leave float32 rounding; a child beyond its parent is refused."""
    box = Box(3, 4, 12, 11)
    image = rng.uniform(1, 100, box.shape).astype(np.float32)
    parent = HeavyFootprint.from_images(Footprint.from_box(box), image, box=box)
    share = rng.random(box.shape)
    left, right = Footprint.from_box(Box(3, 4, 8, 11)), Footprint.from_box(Box(7, 4, 8, 11))
    columns = np.arange(3, 15)
    share = np.where(columns < 7, 1, np.where(columns >= 11, 0, share))
    children = [
        HeavyFootprint.from_images(left, (image * share).astype(np.float32), box=box),
        HeavyFootprint.from_images(right, (image * (1 - share)).astype(np.float32), box=box),
    ]
    excess = footprints.children_excess(parent, children)
    assert np.abs(excess / parent.image).max() < 2 * np.finfo(np.float32).eps
    assert_allclose(sum(child.flux for child in children), parent.flux, rtol=1e-7)
    with pytest.raises(ValueError, match="leaves its parent"):
        footprints.children_excess(children[0], [parent])


def test_families_may_be_nested():
    """Children may be parents: relations are found both ways, and flux is shared by leaves."""
    families = Families(np.array([1, 2, 3, 4, 5, 6]), np.array([0, 1, 1, 3, 3, 0]))
    assert len(families) == 6
    assert families.tops() == [1, 6]
    assert families.children(1) == [2, 3]
    assert families.children(6) == []
    assert list(families.descendants(1)) == [2, 3, 4, 5]
    assert (families.parent(4), families.top_of(5), families.depth(5), families.depth(6)) == (3, 1, 2, 0)
    assert families.leaves().tolist() == [False, True, False, True, True, True]
    assert families.n_children().tolist() == [2, 0, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("ids", "parents", "message"),
    [
        ([1, 1], [0, 0], "differ"),
        ([0, 1], [0, 0], "differ"),
        ([1, 2], [0, 7], "not among"),
        ([1, 2, 3], [0, 3, 2], "own ancestors"),
        ([1, 2], [0], "do not fit"),
    ],
)
def test_impossible_families_are_refused(ids, parents, message):
    """Doubled ids, missing parents and circles are named."""
    with pytest.raises(ValueError, match=message):
        Families(np.array(ids), np.array(parents))


def test_wrong_arguments_are_refused():
    """Backward spans, wrong tables and unknown options are named."""
    whole = Footprint.from_box(Box(0, 0, 3, 3))
    for call, message in (
        (lambda: Footprint(np.array([[0, 5, 3]])), "x0 <= x1"),
        (lambda: whole.with_peaks(np.zeros(3)), "dtype"),
        (lambda: whole.grown(-1), "negative"),
        (lambda: whole.grown(1, "star"), "diamond"),
        (lambda: whole.split(6), "connectivity"),
        (lambda: Footprint.from_array(np.ones((2, 2)), Box(0, 0, 3, 2)), "does not fill"),
        (lambda: footprints.footprints_from_threshold(np.zeros((2, 2)), 1, polarity="up"), "polarity"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_footprints_do_not_change():
    """Spans, peaks and pixel values are read-only, and the caller's arrays are not taken over."""
    spans = np.array([[0, 0, 3]], dtype=np.int32)
    footprint = Footprint(spans)
    spans[0, 0] = 9
    assert footprint.spans[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        footprint.spans[0, 0] = 1
