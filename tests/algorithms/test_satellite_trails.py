"""Trails are found, measured and masked; what only looks like one is not."""

import dataclasses
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.artifact_detection.joined_trails import (
    DetectorPlace,
    expected_lines,
    join_trails,
)
from skyquilt.algorithms.artifact_detection.line_transform import (
    BAND,
    GAP,
    bin_image,
    excess_between,
    line_sums,
    lines_above,
    packing_unit,
)
from skyquilt.algorithms.artifact_detection.satellite_trails import (
    SatelliteTrailsConfig,
    Trail,
    find_trails,
    paint_line,
    trail_mask,
)
from skyquilt.algorithms.artifact_detection.trail_line import extent
from skyquilt.algorithms.artifact_detection.trail_profile import line_in_box, median_of_known, strip_along
from skyquilt.algorithms.artifact_detection.trail_search_image import over_scatter

CONFIG = SatelliteTrailsConfig()
SIZE = 512
SKY, READ_NOISE = 400.0, 6.0
NOISE = math.sqrt(SKY + READ_NOISE**2)
FWHM = 3.0


def geometry(angle, offset, size=SIZE):
    """Distance along and across a line through the image's middle plus `offset`, at all pixels."""
    y, x = np.mgrid[:size, :size] - 0.5 * (size - 1)
    c, s = math.cos(angle), math.sin(angle)
    return x * c + y * s, y * c - x * s - offset


def trail_light(angle, offset, brightness, width, first=-1e9, last=1e9, size=SIZE):
    """A Gaussian ridge whose mean above a fifth of its peak is `brightness` times the noise [e]."""
    along, across = geometry(angle, offset, size)
    sigma = width / 2.3548
    reach = sigma * math.sqrt(2 * math.log(5))
    mean = sigma * math.sqrt(2 * math.pi) * math.erf(reach / sigma / math.sqrt(2)) / (2 * reach)
    profile = np.exp(-0.5 * (across / sigma) ** 2) / mean
    return brightness * NOISE * profile * ((along >= first) & (along <= last)), np.abs(across) < reach


def expose(rng, light, size=SIZE):
    """Image and variance of light on a sky with noise."""
    mean = light + SKY
    image = rng.poisson(mean) + rng.normal(0, READ_NOISE, (size, size))
    return image.astype(np.float32), (np.maximum(image, 1) + READ_NOISE**2).astype(np.float32)


def stars(rng, paint_stars, n=60, size=SIZE):
    """Stars down to the noise."""
    flux = 5 * NOISE * 1.5 * FWHM * rng.uniform(size=n) ** -1.2
    return paint_stars(
        np.zeros((size, size)), *rng.uniform(0, size, (2, n)), np.minimum(flux, 3e6), FWHM / 2.3548
    )


CLEAR = np.zeros((SIZE, SIZE), dtype=bool)


def search(image, variance, unusable=CLEAR, **options):
    """Trails with the seeing given."""
    return find_trails(image, variance, unusable, CONFIG, FWHM, **options)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_trails_of_one_sigma_are_found_and_masked(seed, paint_stars):
    """Random trails of one sigma per pixel and more among stars: all found, 90 % of their pixels masked, and no
    other line."""
    rng = np.random.default_rng(seed)
    for _ in range(4):
        angle, offset = rng.uniform(0, math.pi), rng.uniform(-150, 150)
        light, ridge = trail_light(angle, offset, 10 ** rng.uniform(0.0, 1.5), rng.uniform(FWHM, 12))
        image, variance = expose(rng, light + stars(rng, paint_stars))
        trails = search(image, variance)
        assert len(trails) == 1
        mask = trail_mask(trails, image.shape, CONFIG)
        assert mask[ridge].mean() > 0.9
        assert not mask[np.abs(geometry(angle, offset)[1]) > 45].any()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_is_found_where_there_is_nothing(seed, paint_stars):
    """Stars, an edge-on galaxy, saturated columns, bad columns with dirty neighbours, steps and edges."""
    rng = np.random.default_rng(seed)
    for kind in ("stars", "galaxy", "columns", "steps", "spikes"):
        light = stars(rng, paint_stars, 80)
        unusable = CLEAR.copy()
        along, across = geometry(rng.uniform(0, math.pi), rng.uniform(-100, 100))
        if kind == "galaxy":
            light += 30 * NOISE * np.exp(-np.hypot(along / 30, across / 3))
        elif kind == "columns":
            light[:, 200] += 20 * NOISE
            light[:, 199] += 0.8 * NOISE
            light[100:, 300:302] += 1e4
            light[60:100, 300] += 20 * NOISE
            unusable[:, 200] = unusable[100:, 300:302] = True
        elif kind == "steps":
            light[:, : SIZE // 2] += NOISE
            light[: SIZE // 3] += 0.7 * NOISE
            light += (NOISE * np.exp(-np.arange(SIZE) / 5))[:, None]
        elif kind == "spikes":
            for a, b in ((along, across), (across, along)):
                light += 300 * NOISE * np.exp(-0.5 * (b / 1.5) ** 2) / (1 + np.abs(a) / 3) ** 1.5
        image, variance = expose(rng, light)
        assert search(image, variance, unusable) == [], kind


def test_quoted_brightness_angle_and_width(rng):
    """Pulls of the surface brightness of 24 trails are unit normal; angle, offset and width are the true ones."""
    pulls = []
    for _ in range(24):
        angle, offset, brightness, width = (
            rng.uniform(-1.4, 1.4),
            rng.uniform(-120, 120),
            rng.uniform(1, 3),
            rng.uniform(4, 10),
        )
        light, _ = trail_light(angle, offset, brightness, width)
        (trail,) = search(*expose(rng, light))
        # the median background of a strip holds an eighth of the trail's wings at most
        pulls.append(
            (trail.surface_brightness - brightness * NOISE)
            / math.hypot(trail.surface_brightness_error, 0.06 * brightness * NOISE)
        )
        assert abs((trail.angle - angle + math.pi / 2) % math.pi - math.pi / 2) < 0.01
        middle = 0.5 * (SIZE - 1)
        distance = trail.offset - middle * (math.cos(trail.angle) - math.sin(trail.angle))
        assert abs(distance + trail.bow - offset) < 1.5
        assert_allclose(trail.width, width, atol=1.2 + 0.15 * width)
        assert not trail.open_start
        assert not trail.open_end
    assert abs(np.mean(pulls)) < 1.0
    assert 0.3 < np.std(pulls) < 2.0


def test_ends_within_the_detector(rng):
    """A trail that ends in the field is followed to its end, to two blocks, and masked no further than that."""
    light, _ = trail_light(0.4, 20.0, 3.0, 5.0, first=-1e9, last=60.0)
    (trail,) = search(*expose(rng, light))
    assert (trail.open_start, trail.open_end) == (False, True)
    middle = 0.5 * (SIZE - 1)
    end = (trail.x1 - middle) * math.cos(0.4) + (trail.y1 - middle) * math.sin(0.4)
    assert abs(end - 60) < 50
    along, _ = geometry(0.4, 20.0)
    mask = trail_mask([trail], (SIZE, SIZE), CONFIG)
    assert not mask[along > 60 + 75].any()


def test_two_crossing_trails_and_a_pair_of_lights(rng):
    """Both of two crossing trails are found, and both lights of an aeroplane are masked."""
    first, ridge_1 = trail_light(0.3, 40.0, 4.0, 4.0)
    second, ridge_2 = trail_light(1.9, -60.0, 2.0, 6.0)
    image, variance = expose(rng, first + second)
    trails = search(image, variance)
    assert len(trails) == 2
    mask = trail_mask(trails, image.shape, CONFIG)
    assert mask[ridge_1 | ridge_2].mean() > 0.95
    pair = [trail_light(0.7, d, 5.0, 4.0) for d in (-10.0, 10.0)]
    image, variance = expose(rng, pair[0][0] + pair[1][0])
    mask = trail_mask(search(image, variance), image.shape, CONFIG)
    assert mask[pair[0][1]].mean() > 0.9
    assert mask[pair[1][1]].mean() > 0.9


def test_inputs_stay_as_they_are(rng):
    """Image, variance and unusable pixels are not written to; unusable, missing and NaN pixels do no harm."""
    light, ridge = trail_light(1.1, 0.0, 3.0, 5.0)
    image, variance = expose(rng, light)
    image[:40] = np.nan
    variance[:, 100] = np.inf
    unusable = CLEAR.copy()
    unusable[200:230, 50:400] = True
    for array in (image, variance, unusable):
        array.setflags(write=False)
    copies = [array.copy() for array in (image, variance, unusable)]
    trails = search(image, variance, unusable)
    for array, copy in zip((image, variance, unusable), copies, strict=True):
        assert_array_equal(array, copy)
    assert trail_mask(trails, image.shape, CONFIG)[ridge].mean() > 0.9
    assert search(np.full_like(image, np.nan), variance) == []
    assert search(np.ones_like(image), variance) == []
    assert search(np.ones_like(image), np.zeros_like(image)) == []
    for shape in ((5, 5), (40, 700), (130, 90)):
        small = rng.normal(size=shape).astype(np.float32)
        assert search(small, np.ones_like(small), np.zeros(shape, bool)) == []
    assert search(copies[0], copies[1], np.ones_like(CLEAR)) == []


def test_the_same_answer_each_time(rng):
    """Two searches of one image give equal trails, and so does the image with a sky added."""
    light, _ = trail_light(2.2, -30.0, 1.5, 6.0)
    image, variance = expose(rng, light)
    assert search(image, variance) == search(image, variance)
    (one,), (other,) = search(image, variance), search(image + np.float32(1024), variance)
    assert abs(one.offset - other.offset) < 0.1


@pytest.mark.parametrize(("n", "nx"), [(13, 9), (16, 21), (37, 30)])
def test_transform_sums_are_lines(rng, n, nx):
    """Every sum of every stage is that of one pixel a row, within a pixel and a half of the straight line, and
    every line of the stage is there."""
    image = np.zeros((n, nx), np.float32)
    paths = {}
    for k in rng.permutation(n * nx)[:40]:
        image[:] = 0
        image.ravel()[k] = 1
        y, x = divmod(int(k), nx)
        for strips, sums in line_sums(image, 1):
            for row, column in np.argwhere(sums):
                strip = next(i for i in range(strips) if i * n // strips <= row < (i + 1) * n // strips)
                begin, height = strip * n // strips, (strip + 1) * n // strips - strip * n // strips
                shift, start = row - begin, column - (n - 1)
                straight = start + (shift * (y - begin) / (height - 1) if height > 1 else 0)
                assert sums[row, column] == 1
                assert abs(x - straight) <= 1.5
                paths.setdefault((strips, row, y), set()).add(column - x)
            # a pixel is on exactly one line of each shift of its strip
            mine = next(i for i in range(strips) if i * n // strips <= y < (i + 1) * n // strips)
            assert np.count_nonzero(sums) == (mine + 1) * n // strips - mine * n // strips
    # a line passes each row at one place only, wherever it starts
    assert all(len(shifts) == 1 for shifts in paths.values())


def test_packed_sums_hold_values_and_counts(rng):
    """The transform of valid * unit + value gives back sum and count, to the rounding it is said to have."""
    n = 128
    valid = rng.uniform(size=(n, n)) < 0.9
    values = np.where(valid, np.clip(rng.normal(size=(n, n)), -3, 3), 0).astype(np.float32)
    unit = packing_unit(n, 3.0)
    packed = values + np.float32(unit) * valid
    for (_, one), (_, sums), (_, counts) in zip(
        line_sums(packed.astype(np.float32), n),
        line_sums(values, n),
        line_sums(valid.astype(np.float32), n),
        strict=True,
    ):
        number = np.floor(one / unit + 0.5)
        assert_array_equal(number, counts)
        assert_allclose(one - number * unit, sums, atol=n * unit * 2.0**-24 * 8)


def test_excess_of_lines_is_that_of_a_plain_loop(rng):
    """The sum along a line less that of its brighter side, by a double loop; the transform's best line has it too."""
    ny, nx = 60, 50
    valid = (rng.uniform(size=(ny, nx)) < 0.9).astype(np.float32)
    image = rng.normal(size=(ny, nx)).astype(np.float32) * valid
    ends = np.array([[20.0, 0.0, 30.0, 59.0], [25.0, 10.0, 26.0, 40.0], [0.0, 20.0, 49.0, 30.0]])
    widths = np.array([1, 3, 2])
    excess, counts = np.empty(3), np.empty(3)
    excess_between(image, valid, ends, widths, excess, counts)
    for k, (x0, y0, x1, y1) in enumerate(ends):
        steep = abs(y1 - y0) >= abs(x1 - x0)
        a0, a1, b0, b1 = (y0, y1, x0, x1) if steep else (x0, x1, y0, y1)
        parts = {"line": [], "low": [], "high": []}
        for a in range(int(a0), int(a1) + 1):
            first = math.floor(b0 + (b1 - b0) * (a - a0) / (a1 - a0) - 0.5 * (widths[k] - 1) + 0.5)
            pixels = image[a] if steep else image[:, a]
            good = valid[a] if steep else valid[:, a]
            for b in range(pixels.size):
                if first <= b < first + widths[k]:
                    parts["line"].append((pixels[b], good[b]))
                elif first - GAP - BAND <= b < first - GAP:
                    parts["low"].append((pixels[b], good[b]))
                elif first + widths[k] + GAP <= b < first + widths[k] + GAP + BAND:
                    parts["high"].append((pixels[b], good[b]))
        sums = {name: np.sum(np.array(part), axis=0) for name, part in parts.items()}
        side = max(sums["low"][0] / sums["low"][1], sums["high"][0] / sums["high"][1])
        assert_allclose(counts[k], sums["line"][1])
        assert_allclose(excess[k], sums["line"][0] - sums["line"][1] * side, rtol=1e-5, atol=1e-5)


def test_best_line_of_the_transform(rng):
    """A bright line in noise is the best of its tile, with the excess that its pixels have."""
    n = 64
    image = rng.normal(0, 0.1, (n, n)).astype(np.float32)
    for y in range(n):
        image[y, round(10 + 20 * y / (n - 1))] += 2
    unit = packing_unit(n, 3.0)
    found, ratios = np.empty((100, 3), np.int64), np.empty(100)
    limit = np.full(n + 1, 60.0, np.float32)
    packed = (image + np.float32(unit)).astype(np.float32)
    ((_, sums),) = line_sums(packed, n + 1)
    total = lines_above(sums, unit, 1, n, 1, limit, 8, found, ratios)
    assert total >= 1
    best = int(np.argmax(ratios[:total]))
    assert_allclose(found[best, 1:], [20, 10], atol=1)
    assert 1.5 < ratios[best] < 2.3


def test_binned_image_is_the_mean_of_usable_pixels(rng):
    """Blocks, whole or cut at the edge, hold mean and variance of the mean; NaN below half."""
    image = rng.normal(size=(11, 14)).astype(np.float32)
    variance = rng.uniform(1, 2, (11, 14)).astype(np.float32)
    unusable = rng.uniform(size=(11, 14)) < 0.35
    image[3, 3], variance[5, 5] = np.nan, np.inf
    mean, error = np.empty((3, 4), np.float32), np.empty((3, 4), np.float32)
    bin_image(image, variance, unusable, 4, mean, error)
    good = ~unusable & np.isfinite(image) & np.isfinite(variance)
    for j in range(3):
        for i in range(4):
            block = slice(4 * j, 4 * j + 4), slice(4 * i, 4 * i + 4)
            use = good[block]
            if 2 * use.sum() < use.size:
                assert np.isnan(mean[j, i])
            else:
                assert_allclose(mean[j, i], image[block][use].mean(), rtol=1e-5, atol=1e-6)
                assert_allclose(error[j, i], variance[block][use].sum() / use.sum() ** 2, rtol=1e-5)


def test_scatter_is_linear_between_cells(rng):
    """Levels and scatters of cells that lie on a plane are that plane, inside the outer middles."""
    level = np.add.outer(np.arange(3.0), 2 * np.arange(4.0))
    mean = rng.normal(size=(30, 40)).astype(np.float32)
    snr = np.zeros((30, 40), np.float32)
    over_scatter(mean, np.full((30, 40), 0.25, np.float32), level, np.full((3, 4), 0.1), 10, snr)
    v, u = (np.arange(30) + 0.5) / 10 - 0.5, (np.arange(40) + 0.5) / 10 - 0.5
    plane = np.add.outer(np.clip(v, 0, 2), 2 * np.clip(u, 0, 3))
    assert_allclose(snr, (mean - plane) / 0.5, atol=1e-4)


def test_painted_lines_are_those_of_the_distance():
    """Pixels within half a breadth of a bowed line, and beyond its ends, as by the formula."""
    for x0, y0, x1, y1, bow in ((5, 3, 40, 20, 2.0), (10, 45, 14, 2, -1.5), (0, 8, 49, 8, 0.0)):
        mask = np.zeros((50, 50), dtype=bool)
        paint_line(mask, x0, y0, x1, y1, bow, 3.0, 4.0)
        y, x = np.mgrid[:50, :50]
        length = math.hypot(x1 - x0, y1 - y0)
        t = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length
        d = ((y - y0) * (x1 - x0) - (x - x0) * (y1 - y0)) / length
        u = t / length
        plain = (np.abs(d - 4 * bow * u * (1 - u)) <= 3) & (t >= -4) & (t <= length + 4)
        assert_array_equal(mask, plain)


def test_strips_hold_the_pixels_of_their_places(rng):
    """Without noise a strip's blocks are the image's values along the line."""
    y, x = np.mgrid[:200, :300].astype(np.float32)
    ramp = np.hypot(x - 100, y - 80).astype(np.float32) < 60
    image = (ramp * 5.0).astype(np.float32)
    strip = strip_along(image, np.ones_like(image), np.zeros(image.shape, bool), 100, 80, 0.3)
    middle = strip.mean.shape[1] // 2
    for k in range(strip.mean.shape[0]):
        px, py = strip.place((k + 0.5) * strip.block, 0.0)
        distance = math.hypot(px - 100, py - 80)
        if distance < 40:
            assert_allclose(strip.mean[k, middle] + 0, strip.mean[k].max(), atol=1e-5)
    assert line_in_box(0, 400, 0.0, (200, 300)) is None
    assert_allclose(line_in_box(10, 50, 0.0, (200, 300)), (-0.5, 50, 300))


def test_extent_is_the_run_that_shines():
    """Blocks of light between dark ones, with a gap and a star outside, are found to a block."""
    rng = np.random.default_rng(2)
    level = np.zeros(60)
    level[20:45] = 5.0
    level[30:32] = 0.0
    level[3] = 40.0
    brightness = level + rng.normal(size=60)
    assert_allclose(extent(brightness, np.ones(60)), (20, 44), atol=1)
    assert extent(-np.ones(30), np.ones(30)) == (0, -1)


def test_median_of_known_leaves_nan_out(rng):
    """As numpy.nanmedian, without its warning where all are NaN."""
    values = rng.normal(size=(7, 9))
    values[rng.uniform(size=values.shape) < 0.4] = np.nan
    values[2], values[:, 0] = 1.5, rng.normal(size=7)
    assert_allclose(median_of_known(values, 1), np.nanmedian(values, axis=1))
    assert np.isnan(median_of_known(np.full((2, 3), np.nan), 1)).all()


def places():
    """Two by two detectors of 400 pixels of 0.01 mm with gaps, one turned by a quarter."""
    found = {}
    for number, (cx, cy, turn) in enumerate(((-2.2, -2.2, 0), (2.2, -2.2, 1), (-2.2, 2.2, 0), (2.2, 2.2, 2))):
        c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[turn]
        matrix = 0.01 * np.array([[c, -s], [s, c]], dtype=float)
        found[number] = DetectorPlace(matrix, np.array([cx, cy]) - matrix @ (199.5, 199.5), (400, 400))
    return found


def crossing(place, start, end, **changes):
    """The trail that a line of the focal plane [mm] is on a detector, or None."""
    (x0, y0), (x1, y1) = place.to_pixel(np.array(start)), place.to_pixel(np.array(end))
    inside = line_in_box(x0, y0, math.atan2(y1 - y0, x1 - x0), place.shape)
    if inside is None:
        return None
    x0, y0, length = inside
    angle = math.atan2(y1 - place.to_pixel(np.array(start))[1], x1 - place.to_pixel(np.array(start))[0])
    ends = {"x0": x0, "y0": y0, "x1": x0 + length * math.cos(angle), "y1": y0 + length * math.sin(angle)}
    values = {"angle": angle, "offset": 0.0, "bow": 0.0, "width": 4.0, "half_mask": 5.0, "snr": 10.0}
    values |= {"surface_brightness": 10.0, "surface_brightness_error": 1.0}
    values |= {"open_start": False, "open_end": False} | ends
    return Trail(**(values | changes))


def test_trails_of_detectors_are_joined():
    """Pieces of one line are one group, others are not; a line goes on where it has no piece yet."""
    place = places()
    line, other = ((-4.0, -3.5), (4.5, 3.0)), ((-4.2, 1.0), (-0.5, 4.4))
    pieces = {d: crossing(place[d], *line) for d in place}
    assert pieces[0] is not None
    assert pieces[3] is not None
    second = crossing(place[2], *other)
    trails = {0: [pieces[0]], 2: [second], 3: [pieces[3]]}
    joined = join_trails(trails, place)
    assert sorted(trail.members for trail in joined) == [((0, 0), (3, 0)), ((2, 0),)]
    only = join_trails({0: [pieces[0]]}, place)
    lines = expected_lines(only, place)
    assert 3 in lines
    truth = pieces[3]
    (x0, y0, x1, y1), (c, s) = lines[3][0], (math.cos(truth.angle), math.sin(truth.angle))
    for x, y in ((x0, y0), (x1, y1)):
        assert abs((y - truth.y0) * c - (x - truth.x0) * s) < 1e-6
    ended = dataclasses.replace(pieces[0], open_start=True, open_end=True)
    assert expected_lines(join_trails({0: [ended]}, place), place) == {}


def test_a_neighbour_is_searched_at_lower_threshold(rng):
    """A trail too faint to be found alone is found where it is expected, and an empty expectation finds nothing."""
    light, ridge = trail_light(0.5, 10.0, 0.35, 5.0)
    image, variance = expose(rng, light)
    middle, d = 0.5 * (SIZE - 1), 10.0
    x, y = middle - math.sin(0.5) * d, middle + math.cos(0.5) * d
    ends = (
        x - 200 * math.cos(0.5),
        y - 200 * math.sin(0.5),
        x + 200 * math.cos(0.5),
        y + 200 * math.sin(0.5),
    )
    (trail,) = search(image, variance, expected=[ends])
    assert trail_mask([trail], image.shape, CONFIG)[ridge].mean() > 0.9
    assert search(*expose(rng, np.zeros_like(light)), expected=[ends]) == []


def test_options_are_checked():
    """Options that make no sense are refused with what was found."""
    for bad in ({"bin_size": -1}, {"false_alarm": 0.0}, {"least_length": 0.0}, {"least_shining": 1.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SatelliteTrailsConfig(**bad)
