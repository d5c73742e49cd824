"""Pictures: block means, mask colours, source outlines and the bytes of the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from skyquilt.primitives.mask import Mask
from skyquilt.quality.visit_pictures import (
    MASK_GROUPS,
    SOURCE_CLASSES,
    SOURCE_COLUMNS,
    VisitQualityConfig,
    binned_picture,
    block_size,
    detector_figures,
    draw_detector,
    layer_paths,
    source_marks,
    stretched,
)

CONFIG = VisitQualityConfig(picture_pixels=200)


def pixels(path, mode):
    """Pixels of a file."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert(mode))


@pytest.fixture
def exposure(rng):
    """Noise with a block of saturated, a column of bad and some missing pixels."""
    image = rng.normal(100, 5, (300, 390)).astype(np.float32)
    mask = Mask.blank(image.shape)
    where = np.zeros(image.shape, bool)
    where[100:140, 200:260] = True
    mask.set("DETECTED", where)
    image[110:130, 220:240] = 6e4
    mask.set("SATURATED", image > 1e4)
    image[:, 40:44] = np.nan
    return image, mask


@pytest.fixture
def sources(make_survey):
    """Sources of one detector of 1000 x 800 pixels."""
    return make_survey(n_visits=1, n_detectors=1, n_stars=80).sources


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**31))
def test_blocks_are_means_and_unions(ny, nx, factor, seed):
    """Each block is the mean of its finite pixels with the first group set in it, also at ragged edges."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(ny, nx)).astype(np.float32)
    image[rng.random(image.shape) < 0.2] = np.nan
    mask = Mask.blank(image.shape)
    for name in ("SATURATED", "BAD", "DETECTED"):
        mask.set(name, rng.random(image.shape) < 0.1)
    mean, group = binned_picture(image, mask, factor)
    for i in range(mean.shape[0]):
        for j in range(mean.shape[1]):
            part = np.s_[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
            pixels = image[part][np.isfinite(image[part])]
            if not pixels.size:
                assert np.isnan(mean[i, j])
                assert group[i, j] == 1
                continue
            # float32 means of numbers of order 1
            assert_allclose(mean[i, j], pixels.astype(float).mean(), atol=1e-6)
            here = [k for k, g in enumerate(MASK_GROUPS, 1) if mask.any(g.planes)[part].any()]
            assert group[i, j] == (here[0] if here else 0)
    assert mean.shape == (-(-ny // factor), -(-nx // factor))


def test_large_detectors_are_taken_in_rows(rng):
    """An image of more rows than are taken at once has the same block means as one without the seam."""
    image = rng.normal(size=(1500, 60)).astype(np.float32)
    mean, _ = binned_picture(image, Mask.blank(image.shape), 7)
    assert mean.shape == (215, 9)
    expected = image[:1498, :56].astype(float).reshape(214, 7, 8, 7).mean((1, 3))
    assert_allclose(mean[:214, :8], expected, atol=1e-6)


def test_stretch_is_monotone_and_knows_the_sky(rng):
    """Brighter pixels never get darker; the sky lies in the lower half; scaling and offset change nothing."""
    image = np.r_[rng.normal(0, 1, 5000), np.linspace(5, 1000, 200)].astype(np.float32)
    levels = stretched(image, CONFIG)
    assert (np.diff(levels[np.argsort(image)].astype(int)) >= 0).all()
    assert levels.max() == 27
    assert 0 < np.median(levels[:5000]) < 14
    again = stretched((image * 64 + 1024).astype(np.float32), CONFIG)
    assert np.abs(levels.astype(int) - again).max() <= 1


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_flat_and_empty_images_have_a_picture(value, sources, tmp_path):
    """An image of one value, or of nothing but NaN, is drawn without complaint."""
    image = np.full((50, 60), value, np.float32)
    paths = draw_detector(image, Mask.blank(image.shape), sources.head(0), tmp_path / "a.png", "flat", CONFIG)
    assert all(pixels(path, "L").shape[1] == 60 for path in paths)


def test_layers_show_image_and_mask_where_they_are(exposure, sources, tmp_path):
    """Row 0 is at the bottom; the mask layer has the saturated block in its colour and is clear elsewhere."""
    image, mask = exposure
    path = tmp_path / "detector_003.png"
    written = draw_detector(image, mask, sources.head(0), path, "visit 1", CONFIG)
    layers = layer_paths(path)
    assert written == [path, layers["image"], layers["mask"]]
    layer = pixels(layers["mask"], "RGBA")
    assert layer.shape == (150, 195, 4)
    saturated = next(group.colour for group in MASK_GROUPS if group.label == "saturated")
    assert layer[149 - 60, 115].tolist() == [*saturated, 255]
    assert layer[10, 100, 3] == 0
    assert layer[10, 21, 3] == 255  # missing pixels
    grey = pixels(layers["image"], "L")
    assert grey[149 - 60, 115] == 255
    assert grey[60, 115] < 128


def test_sources_are_drawn_around_their_place(exposure, sources, tmp_path):
    """An outline in the colour of its class surrounds the source, at the scale of the picture."""
    image, mask = exposure
    one = sources.head(1).assign(x=300.0, y=50.0, pixelFlags_edge=True, ixx=64.0, iyy=64.0)
    path = draw_detector(image, mask, one, tmp_path / "a.png", "t", CONFIG)[0]
    picture = pixels(path, "RGB")
    y, x = np.nonzero((picture == SOURCE_CLASSES["flagged"]).all(axis=2)[26 : 26 + 150])
    # blocks of 2; radius 3 sigma = 24 pixels = 12 of the picture
    assert_allclose([x.mean(), 149 - y.mean()], [150, 25], atol=0.7)
    assert_allclose([np.ptp(x), np.ptp(y)], [24, 24], atol=1.5)


def test_bytes_are_the_same_again_and_say_nothing_else(exposure, sources, tmp_path):
    """Two runs write the same bytes, and the files hold no chunk with a date or a program's name."""
    image, mask = exposure
    one = draw_detector(image, mask, sources, tmp_path / "a" / "p.png", "visit 1", CONFIG)
    two = draw_detector(image, mask, sources, tmp_path / "b" / "p.png", "visit 1", CONFIG)
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes()
        with Image.open(first) as picture:
            assert picture.info.keys() <= {"transparency"}
    assert image.flags.writeable
    assert np.isnan(image[0, 40])


def test_picture_without_layers_is_one_file(exposure, sources, tmp_path):
    """Layers can be left out."""
    config = VisitQualityConfig(picture_pixels=200, layers=False)
    assert len(draw_detector(*exposure, sources, tmp_path / "p.png", "t", config)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_shapes_must_agree(exposure, sources, tmp_path):
    """An image with another detector's mask is a bug, and both shapes are said."""
    with pytest.raises(ValueError, match=r"\(300, 390\) and mask \(5, 5\)"):
        draw_detector(exposure[0], Mask.blank((5, 5)), sources, tmp_path / "p.png", "t", CONFIG)


def test_marks_follow_the_moments(sources):
    """Half axes and angle of an ellipse come from its moments; impossible moments fall back on the PSF's."""
    three = sources.head(3).copy()
    three["peakSnr"] = [30.0, 20.0, 10.0]
    # rotated by 30 degrees: half axes 4 and 2 sigma
    turn = np.radians(30)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moments = rotation @ np.diag([16.0, 4.0]) @ rotation.T
    for name, value in zip(("ixx", "iyy", "ixy"), (moments[0, 0], moments[1, 1], moments[0, 1])):
        three[name] = [value, np.nan, 1.0 if name != "ixy" else 5.0]
        three[f"{name}PSF"] = [np.nan, 2.25 if name != "ixy" else 0.0, np.nan]
    marks = source_marks(three, CONFIG)
    assert_allclose(marks.a, [12.0, 4.5, 3.0])
    assert_allclose(marks.b, [6.0, 4.5, 3.0])
    assert_allclose(marks.angle[0], 30.0)


def test_figures_hold_the_brightest_and_are_json(sources):
    """Rows are the brightest primary sources, ids are texts, and nothing is NaN."""
    survey = sources.assign(ra=np.nan)
    survey.loc[survey.index[:5], "detect_isPrimary"] = False
    config = VisitQualityConfig(max_sources=10)
    figures = detector_figures(survey, (800, 1000), config)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert figures["n_sources"] == len(survey) - 5
    assert (figures["shape"], figures["block"]) == ([800, 1000], 1)
    rows = [dict(zip(figures["columns"], row, strict=True)) for row in figures["rows"]]
    expected = survey.iloc[5:].nlargest(10, "peakSnr")
    assert [int(row["id"]) for row in rows] == expected["sourceId"].tolist()
    assert_array_equal([row["x"] for row in rows], expected["x"].round(2))
    assert all(isinstance(row["id"], str) and row["ra"] is None for row in rows)
    assert detector_figures(survey.head(0), (100, 100), config)["rows"] == []


def test_source_columns_are_enough(exposure, sources, tmp_path):
    """Pictures and figures need no column of the Source table but SOURCE_COLUMNS, and have all of them."""
    few = sources[list(SOURCE_COLUMNS)]
    assert detector_figures(few, (300, 390), CONFIG) == detector_figures(sources, (300, 390), CONFIG)
    one, two = (
        draw_detector(*exposure, table, tmp_path / f"{len(table.columns)}.png", "t", CONFIG)[0].read_bytes()
        for table in (few, sources)
    )
    assert one == two
    for name in SOURCE_COLUMNS:
        with pytest.raises(KeyError, match=name):
            detector_figures(few.drop(columns=name), (300, 390), CONFIG)


def test_a_large_detector_fits():
    """4k detectors have pictures of 1k, one pixel more needs blocks of five."""
    assert block_size((4000, 4096), VisitQualityConfig()) == 4
    assert block_size((4097, 100), VisitQualityConfig()) == 5


@pytest.mark.parametrize("wrong", [{"picture_pixels": 10}, {"mask_opacity": 0.0}, {"white_percentile": 10.0}])
def test_wrong_options_are_refused(wrong):
    """Options that cannot be meant stop at once and say which."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VisitQualityConfig(**wrong)
