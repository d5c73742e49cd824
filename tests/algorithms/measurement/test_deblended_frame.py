"""Single Frame Measurement: neighbours replaced by noise, plugins of users, sources that cannot be measured."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.measurement.plugin_list import make_plugins
from skyquilt.algorithms.measurement.plugins import BUILTIN
from skyquilt.algorithms.measurement.variants.deblended_frame import (
    MeasureSourcesConfig,
    measure_deblended_frame,
)

SKY = 400.0


@pytest.fixture(scope="module")
def crowd(draw):
    """Stars of S/N 15 to 300 at random, one on 130 pixels of FWHM 4, with true children: shares by true light."""
    rng = np.random.default_rng(11)
    drawn, n, side = draw.star(4.0, 20), 1000, 360
    index = rng.integers(20, side - 20, size=(2, n))
    phase = rng.integers(draw.PHASES, size=(2, n))
    order = np.lexsort(index)
    index, phase = index[:, order], phase[:, order]
    flux = draw.flux_of(15.0, drawn.middle, SKY) * 20 ** rng.uniform(0, 1, n)
    lights, light = [], np.zeros((side, side))
    j, i = np.mgrid[-20:21, -20:21]
    for k in range(n):
        stamp = flux[k] * drawn.stamps[phase[1, k], phase[0, k]]
        row, column = j + index[1, k], i + index[0, k]
        inside = (row >= 0) & (column >= 0) & (row < side) & (column < side)
        lights.append(((row * side + column)[inside], stamp[inside]))
        np.add.at(light.reshape(-1), lights[-1][0], lights[-1][1])
    counts = rng.poisson(light + SKY)
    image = (counts - SKY).astype(np.float32)
    children = []
    for pixel, own in lights:
        # a twentieth of the sky's noise: what lies outside of all footprints is nothing
        bright = own > 0.05 * np.sqrt(SKY)
        pixel = pixel[bright]
        share = own[bright] / light.reshape(-1)[pixel]
        children.append((pixel, share * image.reshape(-1)[pixel]))
    x, y = (index[axis] + drawn.offsets[phase[axis]] for axis in (0, 1))
    return SimpleNamespace(
        exposure=draw.exposure_of(image, counts),
        children=children,
        places=draw.places(x, y),
        x=x,
        y=y,
        flux=flux * drawn.share,
        psf=drawn.psf,
        n=n,
    )


def measure(draw, field, children=None, names=tuple(BUILTIN), **options):
    """Measurements of a field, with its own children or others."""
    config = MeasureSourcesConfig(plugins=names, sky_sources=options.pop("sky_sources", 0))
    return measure_deblended_frame(
        field.exposure,
        options.pop("bad", np.zeros(field.exposure.shape, bool)),
        field.places,
        draw.deblended(field.children if children is None else children),
        config,
        psf=field.psf,
        sky_variance=lambda pixel: np.full(pixel.size, SKY, np.float32),
        **options,
    )


def test_fluxes_in_a_crowd_are_unbiased(draw, crowd):
    """With neighbours replaced pulls have a mean of 0 and a width below 1.1; with neighbours left they have not."""
    nothing = (np.empty(0, np.int64), np.empty(0, np.float32))
    names = ("windowCentroid", "centroid", "psfFlux")
    alone = measure(draw, crowd, names=names).columns
    together = measure(draw, crowd, [nothing] * crowd.n, names=names).columns

    def pulls(found):
        pull = (found["psfFlux"] - crowd.flux) / found["psfFluxErr"]
        return np.median(pull), 1.4826 * np.median(np.abs(pull - np.median(pull)))

    middle, width = pulls(alone)
    # the median of n normals has an error of 1.25 / sqrt(n), their 1.48 MAD one of 1.17 / sqrt(n)
    assert abs(middle) < 4 * 1.25 / np.sqrt(crowd.n)
    assert width < 1.1 + 3 * 1.17 / np.sqrt(crowd.n)
    relative = (alone["psfFlux"] / crowd.flux - 1)[~alone["centroid_noFit_flag"]]
    assert abs(relative.mean()) < 4 * relative.std() / np.sqrt(crowd.n)
    assert pulls(together)[0] > 1
    assert pulls(together)[1] > 2


def test_bytes_depend_neither_on_the_order_nor_on_far_sources(draw, crowd):
    """Measured backwards, or with a source far away gone, every other one keeps its bytes."""
    forward = measure(draw, crowd).columns
    backward = measure(draw, crowd, order=range(crowd.n)[::-1]).columns
    for name, values in forward.items():
        assert_array_equal(values, backward[name], name)
    kept = np.ones(crowd.n, bool)
    kept[0] = False
    fewer = SimpleNamespace(**vars(crowd))
    fewer.children = crowd.children[1:]
    fewer.places = draw.places(crowd.x[1:], crowd.y[1:])
    found = measure(draw, fewer).columns
    # apertures of 70 pixels, and stamps, end before
    far = np.hypot(crowd.x - crowd.x[0], crowd.y - crowd.y[0])[1:] > 70 + 42
    assert far.sum() > 500
    for name, values in forward.items():
        assert_array_equal(values[1:][far], found[name][far], name)


def test_a_blend_and_its_children(draw):
    """A parent is measured with all its light, starts at the brighter child, and children are told how blended they are."""
    drawn = draw.star(4.0, 20)
    light = np.zeros((2, 90, 90))
    light[0, 24:65, 20:61] = 20000 * drawn.stamps[3, 3]
    light[1, 24:65, 26:67] = 80000 * drawn.stamps[3, 3]
    image = light.sum(0)
    pixel = np.flatnonzero(image > 1.0)
    children = [(pixel, one.reshape(-1)[pixel]) for one in (*light, image)]
    found = measure_deblended_frame(
        draw.exposure_of(image, image + SKY),
        np.zeros(image.shape, bool),
        draw.places(np.array([40.0, 46.0]), np.array([44.0, 44.0])),
        draw.deblended(children, [2, 2, -1], [0, 0, 2]),
        MeasureSourcesConfig(sky_sources=3),
        psf=drawn.psf,
    ).columns
    assert_allclose(found["x"][:2], [40.0, 46.0], atol=0.01)
    assert abs(found["windowX"][2] - 46.0) < 1
    # light outside of the footprint is below 1 electron in each of 2000 pixels
    assert_allclose(found["ap12Flux"][2], 1e5, rtol=0.04)
    assert_allclose(found["psfFlux"][:2], drawn.share * np.array([20000, 80000]), rtol=2e-3)
    assert found["blendedness_abs"][0] > 0.3 > found["blendedness_abs"][1] > 0
    assert found["blendedness_abs"][2] == 0
    assert_array_equal(found["detect_isPrimary"], [True, True, False] + [False] * 3)
    assert_array_equal(found["sky_source"], [False] * 3 + [True] * 3)
    assert_array_equal(found["parentRow"], [2, 2, -1, -1, -1, -1])


def test_sky_sources_scatter_by_their_errors(draw):
    """On empty sky PSF fluxes and apertures have mean 0 and unit pulls; the places lie apart from footprints."""
    rng = np.random.default_rng(3)
    counts = rng.poisson(SKY, (1500, 1500))
    corner = np.arange(400)[:, None] * 1500 + np.arange(400)
    field = SimpleNamespace(
        exposure=draw.exposure_of(counts - SKY, counts),
        children=[(corner.ravel(), np.zeros(corner.size))],
        places=draw.places(np.array([200.0]), np.array([200.0])),
        psf=draw.star(4.0, 20).psf,
    )
    found = measure(
        draw, field, names=("windowCentroid", "centroid", "psfFlux", "apertures"), sky_sources=900
    ).columns
    sky = found["sky_source"]
    n = int(sky.sum())
    assert n > 800
    assert not ((found["x"][sky] < 415) & (found["y"][sky] < 415)).any()
    for name in ("psfFlux", "ap03Flux", "ap09Flux"):
        pull = found[name][sky] / found[f"{name}Err"][sky]
        assert abs(pull.mean()) < 4 / np.sqrt(n)
        assert abs(pull.std() - 1) < 4 / np.sqrt(2 * n)


PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass
from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin
from skyquilt.primitives.tables import Column

@dataclass(frozen=True)
class Options:
    factor: float = 2.0

class Brightest(Plugin):
    name = "brightest"
    order = 55.0
    columns = (Column("brightest", "f4", "electron", "Brightest pixel of the footprint, times a factor."),)
    flags = (("brightest_empty_flag", "There is no footprint."),)
    needs = ("x",)
    Options = Options

    def measure(self, source, record):
        record["brightest"] = -1.0
        if source.value.size == 0:
            raise MeasurementFailure("brightest_empty_flag")
        if source.number == 3:
            raise ZeroDivisionError("no such luck")
        record["brightest"] = self.options.factor * source.value.max()
"""


def test_a_plugin_of_a_user(draw, crowd, tmp_path):
    """A class in a file of the survey runs among the others; its failures are flags, its bugs are counted and told."""
    (tmp_path / "my_plugins.py").write_text(PLUGIN)
    config = MeasureSourcesConfig(
        plugins=("my_plugins.py:Brightest", "windowCentroid", "centroid"),
        options={"brightest": {"factor": 3.0}},
        sky_sources=0,
    )
    children = crowd.children[:5] + [(np.empty(0, np.int64), np.empty(0))]
    found = measure_deblended_frame(
        crowd.exposure,
        np.zeros(crowd.exposure.shape, bool),
        draw.places(crowd.x[:6], crowd.y[:6]),
        draw.deblended(children),
        config,
        psf=crowd.psf,
        directory=tmp_path,
    )
    columns = found.columns
    assert_allclose(columns["brightest"][0], 3.0 * np.max(children[0][1]), rtol=1e-6)
    assert_array_equal(columns["brightest_flag"], [False, False, False, True, False, True])
    assert_array_equal(columns["brightest_empty_flag"], [False] * 5 + [True])
    assert_array_equal(columns["measurement_error"], [False, False, False, True, False, False])
    assert np.isnan(columns["brightest"][3])
    assert np.isfinite(columns["x"]).all()
    (error,) = found.errors
    assert (error.plugin, error.count) == ("brightest", 1)
    assert "ZeroDivisionError: no such luck" in error.first
    assert "brightest" in [column.name for column in found.described]


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (("kronflux",), {}, "kronFlux"),
        (("my.py:Nothing",), {}, "no file my.py"),
        (("broken.py:Thing",), {}, "no class Thing"),
        (("centroid",), {}, "needs windowX"),
        (("windowCentroid",), {"windowCentroid": {"widht": 2}}, "width"),
        (("windowCentroid",), {"centroid": {}}, "not in the list"),
        (("windowCentroid", "windowCentroid"), {}, "twice"),
    ],
)
def test_a_wrong_list_of_plugins_is_refused(tmp_path, names, options, words):
    """With what is wrong and what was meant."""
    (tmp_path / "broken.py").write_text("Thing = 3\n")
    with pytest.raises(ValueError, match=words):
        make_plugins(names, options, tmp_path)


def test_sources_that_cannot_be_measured_are_flagged(draw):
    """NaN, edges, corners, saturation, all pixels masked: flags, never an exception or an error of a plugin."""
    drawn, side = draw.star(4.0, 20), 200
    rng = np.random.default_rng(8)
    image = rng.normal(0, np.sqrt(SKY), (side, side))
    x, y = np.array([1.0, 199.0, 60.0, 150.0, 60.0, 140.0]), np.array([2.0, 199.0, 60.0, 60.0, 150.0, 150.0])
    for xs, ys in zip(x.astype(int), y.astype(int)):
        for j in range(max(ys - 20, 0), min(ys + 21, side)):
            for i in range(max(xs - 20, 0), min(xs + 21, side)):
                image[j, i] += 50000 * drawn.stamps[3, 3][j - ys + 20, i - xs + 20]
    variance = np.maximum(image, 0) + SKY
    bad = np.zeros(image.shape, bool)
    image[60, 60:64] = np.nan
    bad[40:81, 130:171] = True
    saturated = np.zeros(image.shape, bool)
    saturated[149:152, 59:62] = True
    # flat indices of squares about the sources, cut at the edges
    children = []
    for xs, ys in zip(x.astype(int), y.astype(int)):
        j, i = np.mgrid[max(ys - 9, 0) : min(ys + 10, side), max(xs - 9, 0) : min(xs + 10, side)]
        pixel = (j * side + i).ravel()
        children.append((pixel, image.reshape(-1)[pixel]))
    field = SimpleNamespace(
        exposure=draw.exposure_of(image, variance, SATURATED=saturated),
        children=children,
        places=draw.places(x, y),
        psf=drawn.psf,
    )
    for psf in (drawn.psf, None):
        field.psf = psf
        found = measure(draw, field, bad=bad, sky_sources=5)
        assert found.errors == ()
        columns = found.columns
        assert columns["ap70Flux_flag"][:2].all()
        assert columns["centroid_flag"][3]
        assert columns["ap03Flux_flag"][3]
        assert columns["kronFlux_flag"][3]
        assert columns["sky_flag"].dtype == bool
        assert columns["pixelFlags_saturatedCenter"][4]
        assert not columns["pixelFlags_saturated"][5]
        assert columns["invalidPsfFlag"].all() == (psf is None)
        assert np.isfinite(columns["x"]).all()
    # four pixels without value cost precision, not truth
    columns = measure(draw, SimpleNamespace(**{**vars(field), "psf": drawn.psf}), bad=bad).columns
    assert abs(columns["psfFlux"][2] - 50000 * drawn.share) < 5 * columns["psfFluxErr"][2]
    assert columns["psfFluxErr"][2] > columns["psfFluxErr"][5]


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (40, 3)])
@pytest.mark.parametrize("value", [np.nan, 0.0, 1e6, -50.0])
def test_tiny_and_empty_images(draw, shape, value):
    """Any image gives rows; one without sources gives columns without rows."""
    image = np.full(shape, value)
    field = SimpleNamespace(
        exposure=draw.exposure_of(image, np.full(shape, 100.0)),
        children=[(np.arange(image.size), image.ravel())],
        places=draw.places(np.array([0.0]), np.array([0.0])),
        psf=draw.star(4.0, 20).psf,
    )
    with np.errstate(all="raise"):
        found = measure(draw, field, sky_sources=2)
    assert found.errors == ()
    assert len(found.columns["x"]) == 1
    field.children, field.places = [], draw.places(np.empty(0), np.empty(0))
    assert len(measure(draw, field, sky_sources=2).columns["x"]) == 0


def test_interpolated_pixels_count_with_more_variance(draw):
    """The error of a flux grows where pixels are interpolated: twice their variance, and a share of their value."""
    drawn = draw.star(4.0, 20)
    image = np.zeros((101, 101))
    image[30:71, 30:71] = 1e5 * drawn.stamps[3, 3]
    hit = np.zeros(image.shape, bool)
    hit[50, 50] = True
    pixel = np.flatnonzero(np.ones(image.shape, bool))
    errors = []
    for planes in ({}, {"INTERPOLATED": hit}):
        field = SimpleNamespace(
            exposure=draw.exposure_of(image, image + SKY, **planes),
            children=[(pixel, image.ravel())],
            places=draw.places(np.array([50.0]), np.array([50.0])),
            psf=drawn.psf,
        )
        errors.append(
            measure(draw, field, names=("windowCentroid", "centroid", "psfFlux", "apertures")).columns
        )
    more = errors[1]["ap12FluxErr"] ** 2 - errors[0]["ap12FluxErr"] ** 2
    value = np.float32(image[50, 50])
    # the circle takes the pixel whole
    assert_allclose(more, value + SKY + (0.1 * value) ** 2, rtol=1e-4)
    assert errors[1]["psfFluxErr"] > errors[0]["psfFluxErr"]
