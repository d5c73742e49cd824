"""Defects found in combined darks, flats and bias."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.pipelines.calibration_products.defect_search import (
    boxes_of_pixels,
    column_segments,
    running_median,
)
from skyquilt.pipelines.calibration_products.defects import FindDefectsConfig, compare_defects, find_defects
from skyquilt.primitives.detector_characterization import DEFECT_KINDS, Defects
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

SHAPE = (300, 240)
DARK_ERROR, FLAT_ERROR = 0.04, 0.003
CONFIG = FindDefectsConfig()


@pytest.fixture
def detector():
    """Two amplifiers side by side, read from below and from above."""
    amplifiers = [
        Amplifier(
            name=name,
            extension=None,
            raw_section=Box(0, 0, 120, 300),
            raw_data=Box(0, 0, 120, 300),
            raw_prescan=None,
            raw_overscan=None,
            raw_parallel_overscan=None,
            data=Box(120 * k, 0, 120, 300),
            flip_x=False,
            flip_y=False,
            gain=1.5,
            read_noise=6.0,
            saturation=60000.0,
            read_out=("lower_left", "upper_left")[k],
        )
        for k, name in enumerate("AB")
    ]
    return Detector(1, "test", "science", 240, 300, 0.01, (0.0, 0.0), 0.0, tuple(amplifiers))


def plane(truth, error, rng):
    """Combined frame of `truth` with Gaussian noise of known variance."""
    image = (truth + rng.normal(0, error, SHAPE)).astype(np.float32)
    return Exposure(image, Mask.blank(SHAPE), np.full(SHAPE, error**2, np.float32), unit="")


def truths():
    """Dark current and response without defects: gradient, amplifiers of different gain, vignetting."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    dark = 0.02 + 0.0003 * x
    flat = (1 + 0.03 * (x >= 120)) * (1 - 0.03 * ((y / 300) ** 2 + (x / 240) ** 2))
    return dark, flat / np.median(flat)


def kinds_image(defects):
    """Number of the kind of each pixel, -1 for none; fails when two boxes overlap."""
    image = np.full(SHAPE, -1)
    for (x0, y0, nx, ny), kind in zip(defects.boxes, defects.kinds):
        part = image[y0 : y0 + ny, x0 : x0 + nx]
        assert part.shape == (ny, nx)
        assert (part == -1).all()
        part[...] = kind
    return image


@pytest.mark.parametrize("seed", range(3))
def test_clean_frames_have_hardly_a_defect(detector, seed):
    """In 5 darks and flats of pure noise per seed the false pixels are as few as a Gaussian has beyond 6 sigma."""
    rng = np.random.default_rng(seed)
    dark, flat = truths()
    config = replace(
        CONFIG, hot_noise=1e-3, low_response=0.9999, dark_column=1e-6, bright_column=1e-6, trap=1e-6
    )
    pixels = 0
    for _ in range(5):
        _, figures = find_defects(
            plane(300 + 0 * dark, 1.0, rng),
            [plane(dark, DARK_ERROR, rng)],
            [plane(flat, FLAT_ERROR, rng)],
            detector,
            config,
        )
        pixels += figures["pixels"]
        # a median of 21 pixels, itself among them, takes (2 - pi / 2) / 21 of the variance; 36000 pixels: 0.4 %
        for each in figures["noise_ratio"].values():
            assert_allclose(list(each.values()), (1 - (2 - np.pi / 2) / 21) ** 0.5, atol=4 * 0.004)
    # 15 planes of 72 000 pixels times 1e-9, and columns 1e-12 of their trials: none is expected
    assert pixels == 0


@pytest.mark.parametrize("seed", range(3))
def test_every_kind_is_found(detector, seed):
    """Hot, dead, dim pixels, columns whole and in part, a trap and a dead patch get exactly their boxes."""
    rng = np.random.default_rng(100 + seed)
    dark, flat = truths()
    # above read noise^2 / 30 s = 1.2 electron / s
    dark[50, 30], dark[51:53, 200:203] = 3.0, 40.0
    # 1.5 sigma a pixel, over 150 rows
    dark[100:250, 60] += 0.06
    flat[70, 70], flat[71, 71], flat[200:206, 150:153] = 0.05, 0.7, 0.1
    flat[:, 20] *= 0.5
    # 2 sigma a pixel: behind a trap, away from the read-out
    flat[180:, 90] *= 0.994
    flat[:140, 220] *= 0.99
    found, figures = find_defects(
        None,
        [plane(dark, DARK_ERROR, rng)],
        [plane(flat, FLAT_ERROR, rng) for _ in range(2)],
        detector,
        CONFIG,
    )
    kinds = kinds_image(found)
    truth = np.full(SHAPE, -1)
    truth[50, 30] = truth[51, 200:203] = truth[52, 200:203] = DEFECT_KINDS.index("hot")
    truth[70, 70] = DEFECT_KINDS.index("dead")
    truth[200:206, 150:153] = DEFECT_KINDS.index("dead")
    truth[71, 71] = DEFECT_KINDS.index("low_response")
    truth[:, 20] = DEFECT_KINDS.index("dark_column")
    truth[100:250, 60] = DEFECT_KINDS.index("bright_column")
    truth[180:, 90] = truth[:140, 220] = DEFECT_KINDS.index("trap")
    wrong = kinds != truth
    # the ends of stretches of p sigma a pixel are known to about 2 / p^2 pixels, seldom to 12 / p^2
    assert not wrong[:, [c for c in range(240) if c not in (60, 90, 220)]].any()
    assert wrong[:, 60].sum() <= 12
    assert wrong[:, [90, 220]].sum() <= 12
    assert figures["pixels"] == (kinds >= 0).sum()
    assert figures["boxes"] == 9
    hot = found.values[found.kinds == DEFECT_KINDS.index("hot")]
    assert_allclose(sorted(hot), [3, 40], atol=5 * DARK_ERROR + 0.1)
    assert_allclose(found.values[found.kinds == DEFECT_KINDS.index("dark_column")], 0.5, atol=0.01)


def test_with_what_there_is(detector):
    """One frame of any kind is enough, nothing at all is not; lost amplifiers and pixels do no harm."""
    rng = np.random.default_rng(3)
    dark, _ = truths()
    dark[10, 10] = 30.0
    one = plane(dark, DARK_ERROR, rng)
    one.image[:, 120:] = np.nan
    one.mask.set("BAD", np.isnan(one.image))
    one.image[20, 20] = np.nan
    found, figures = find_defects(None, [one], [], detector, CONFIG)
    assert sorted(found.boxes.tolist()) == [[10, 10, 1, 1], [20, 20, 1, 1]]
    assert figures["noise_ratio"]["dark"]["B"] is None
    bias = plane(0 * dark, 1.0, rng)
    bias.image[:, 40] += 400
    found, _ = find_defects(bias, [], [], detector, CONFIG)
    assert found.boxes.tolist() == [[40, 0, 1, 300]]
    named = replace(detector, defects=(Box(-5, 290, 20, 100), Box(500, 0, 3, 3)))
    found, figures = find_defects(None, [], [], named, CONFIG)
    assert found.boxes.tolist() == [[0, 290, 15, 10]]
    assert figures["kinds"]["manual"] == {"boxes": 1, "pixels": 150}
    with pytest.raises(ProcessingFailure) as failure:
        find_defects(None, [], [], detector, CONFIG)
    assert failure.value.reason is Reason.TOO_FEW_INPUTS
    small = Exposure(np.ones((4, 4), np.float32), Mask.blank((4, 4)), np.ones((4, 4), np.float32))
    with pytest.raises(ProcessingFailure, match="wrong_shape"):
        find_defects(None, [], [small], detector, CONFIG)


def test_unsteady_pixels_are_hot_when_weak(detector):
    """A pixel that darks disagree on is a defect at a current that a steady one may have."""
    rng = np.random.default_rng(4)
    dark, _ = truths()
    dark[40, 40] = dark[60, 60] = 0.7
    frame = plane(dark, DARK_ERROR, rng)
    frame.mask.set("SUSPECT", (slice(60, 61), slice(60, 61)))
    found, _ = find_defects(None, [frame], [], detector, CONFIG)
    assert found.boxes.tolist() == [[60, 60, 1, 1]]


def test_changes_between_nights():
    """New and gone defects are told pixel by pixel; what stays is in neither."""

    def made(*rows):
        boxes = np.array([row[0] for row in rows], np.int32).reshape(-1, 4)
        return Defects(boxes, np.zeros(len(rows), np.int16), np.array([row[1] for row in rows], float))

    before = made(((5, 5, 1, 1), 1.0), ((10, 0, 2, 20), 2.0))
    after = made(((10, 0, 2, 30), 3.0), ((50, 60, 3, 1), 4.0))
    new, gone = compare_defects(before, after)
    assert new.boxes.tolist() == [[10, 20, 2, 10], [50, 60, 3, 1]]
    assert_array_equal(new.values, [3, 4])
    assert gone.boxes.tolist() == [[5, 5, 1, 1]]
    assert [each.kinds.size for each in compare_defects(after, after)] == [0, 0]
    assert compare_defects(Defects(), Defects())[0].boxes.shape == (0, 4)


@pytest.mark.parametrize("half", [1, 3, 40])
def test_running_median_equals_a_plain_loop(half):
    """The kernel is the median of each window, NaN left out, windows at the ends moved inwards."""
    rng = np.random.default_rng(half)
    image = np.round(rng.normal(0, 3, (6, 25)), 0).astype(np.float32)
    image[rng.random(image.shape) < 0.2] = np.nan
    image[3] = np.nan
    result = np.empty_like(image)
    running_median(image, half, result)
    width = min(2 * half + 1, 25)
    for j in range(6):
        for i in range(25):
            start = min(max(i - half, 0), 25 - width)
            window = image[j, start : start + width]
            window = window[np.isfinite(window)]
            assert_allclose(result[j, i], np.median(window) if window.size else np.nan)


def test_column_segments_equal_brute_force():
    """Stretches are found where a window's sum is significant, with their true ends, and nowhere else."""
    rng = np.random.default_rng(11)
    pulls = rng.normal(0, 1, (120, 30)).astype(np.float32)
    pulls[40:90, 7] += 2.0
    pulls[:20, 8] -= 2.5
    pulls[100, 9] = 1000.0
    pulls[50:60, 7] = np.nan
    segments, scores = np.zeros((50, 3), np.int32), np.zeros(50)
    n = column_segments(pulls, 7.0, 8, segments, scores)
    assert segments[:n, 0].tolist() == [7, 8]
    for (column, first, last), score in zip(segments[:n], scores):
        value = np.clip(pulls[:, column].astype(float), -3, 3)
        finite = np.isfinite(value[first:last])
        assert_allclose(score, np.nansum(value[first:last]) / np.sqrt(finite.sum()))
        best = 0.0
        for length in (8, 16, 32, 64, 120):
            for j in range(120 - length + 1):
                part = value[j : j + length]
                good = np.isfinite(part)
                if 2 * good.sum() >= length:
                    best = max(best, abs(part[good].sum()) / np.sqrt(good.sum()))
        assert best >= 7
    assert_allclose(segments[0], [7, 40, 90], atol=3)
    assert_allclose(segments[1], [8, 0, 20], atol=3)


def test_boxes_cover_exactly_and_are_few():
    """Boxes of any mask cover each of its pixels once; columns, rows and blocks are one box each."""
    rng = np.random.default_rng(5)
    for fraction in (0.02, 0.3, 0.7):
        where = rng.random((40, 50)) < fraction
        covered = np.zeros(where.shape, int)
        boxes = boxes_of_pixels(where)
        for x0, y0, nx, ny in boxes:
            covered[y0 : y0 + ny, x0 : x0 + nx] += 1
        assert_array_equal(covered, where)
        assert len(boxes) <= where.sum()
    assert boxes_of_pixels(np.zeros((3, 4), bool)) == []
    where = np.zeros((40, 50), bool)
    where[3:30, 7] = where[5, 20:40] = where[10:15, 30:35] = True
    assert boxes_of_pixels(where) == [(7, 3, 1, 27), (20, 5, 20, 1), (30, 10, 5, 5)]


@pytest.mark.parametrize(
    "wrong",
    [{"sigma": 1.0}, {"low_response": 0.1}, {"trap": 0.0}, {"shortest_column": 2}, {"patch": 4}],
)
def test_options_are_checked(wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match="find_defects"):
        FindDefectsConfig(**wrong)


@pytest.mark.parametrize("seed", range(3))
def test_shadows_of_dust_are_no_columns(detector, seed):
    """Rings of 4 to 8 % with rims of a few pixels, as dust on a window casts, are left; a column across one is found."""
    rng = np.random.default_rng(200 + seed)
    _, flat = truths()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for x0, y0, depth in ((30, 60, 0.04), (62, 150, 0.08), (170, 80, 0.06), (200, 220, 0.08)):
        radius = np.hypot(x - x0, y - y0)
        flat *= 1 - depth * np.exp(-0.5 * ((radius - 9) / 2.2) ** 2)
    column, rows = 71, slice(135, 170)
    flat[rows, column] *= 0.93
    defects, figures = find_defects(None, [], [plane(flat, FLAT_ERROR, rng)], detector, CONFIG)
    found = kinds_image(defects) >= 0
    assert found[rows, column].mean() > 0.9
    found[130:175, column - 1 : column + 2] = False
    assert found.sum() == 0
    assert figures["kinds"]["dark_column"]["pixels"] < 50
