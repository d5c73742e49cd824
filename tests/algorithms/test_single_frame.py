"""Single frame measurement: every column of its own, true values, flags from the mask, and no input changed."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.measurement.second_moment_shapes import determinant_radius
from skyquilt.algorithms.measurement.variants.single_frame import (
    FLAG_PLANES,
    RADII,
    MeasurementConfig,
    measure_single_frame,
)
from skyquilt.algorithms.source_detection import SourceDetectionConfig, detect_sources
from skyquilt.algorithms.star_galaxy_classification import core_and_whole
from skyquilt.primitives.background import Background
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.schemas import SOURCE

SIGMA, FLUX = 2.0, 20_000.0
PLACES = np.array([[60.3, 50.2], [150.0, 55.5], [61.7, 160.0], [149.4, 158.8]])
"""x, y of the stars [pixel]."""


def field_of_stars(rng):
    """An exposure of 210 x 220 pixels with four stars on an empty sky of variance 4, and their detections."""
    shape = (220, 210)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(0.0, 2.0, shape)
    for px, py in PLACES:
        image += FLUX / (2 * np.pi * SIGMA**2) * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * SIGMA**2))
    image = image.astype(np.float32)
    detections = detect_sources(image / np.float32(2.0), SourceDetectionConfig(threshold=20.0))
    exposure = Exposure(
        image, Mask.blank(shape), np.full(shape, 4.0, np.float32), Box(0, 0, 210, 220), "electron",
        background=Background([]),
    )  # fmt: skip
    exposure.mask.set(["DETECTED"], detections.segments > 0)
    return exposure, detections


@pytest.fixture
def stars(rng):
    """The exposure and its four detections."""
    exposure, detections = field_of_stars(rng)
    assert len(detections.x) == len(PLACES)
    return exposure, detections


def test_columns_are_those_of_the_source_table(stars):
    """Each column but the covariance of the position is one of Source, and all have a row per detection."""
    exposure, detections = stars
    before = exposure.image.copy()
    measured = measure_single_frame(
        exposure, np.zeros(exposure.shape, bool), detections, SIGMA, MeasurementConfig()
    )
    assert set(measured.columns) - set(SOURCE.names) == {"xyCov"}
    assert {len(values) for values in measured.columns.values()} == {len(PLACES)}
    assert measured.aperture_flux.shape == measured.apertures_whole.shape == (len(PLACES), len(RADII))
    assert_array_equal(exposure.image, before)


def test_values_are_true_within_their_errors(stars):
    """Positions and the flux within 12 pixels (6 sigma) lie within 4.5 errors of the truth, sky is zero."""
    exposure, detections = stars
    bad = np.zeros(exposure.shape, bool)
    columns = measure_single_frame(exposure, bad, detections, SIGMA, MeasurementConfig()).columns
    order = np.lexsort((PLACES[:, 0], PLACES[:, 1] > 100))
    for axis, truth in (("x", PLACES[order, 0]), ("y", PLACES[order, 1])):
        rows = np.lexsort((columns["x"], columns["y"] > 100))
        assert (np.abs(columns[axis][rows] - truth) < 4.5 * columns[f"{axis}Err"][rows]).all()
    assert (np.abs(columns["ap12Flux"] - FLUX) < 4.5 * columns["ap12FluxErr"]).all()
    assert (np.abs(columns["sky"]) < 4.5 * columns["skyErr"]).all()
    # 1 %: noise of these stars in their moments is below 0.3 % of the width
    assert_allclose(determinant_radius(columns["ixx"], columns["iyy"], columns["ixy"]), SIGMA, rtol=0.01)


@pytest.mark.parametrize("name", sorted(FLAG_PLANES))
def test_a_plane_flags_the_star_that_has_it(stars, name):
    """A pixel of a plane under one star flags that star in its footprint and no other."""
    exposure, detections = stars
    where = np.zeros(exposure.shape, bool)
    where[int(detections.peak_y[2]) + 2, int(detections.peak_x[2])] = True
    exposure.mask.set([FLAG_PLANES[name]], where)
    bad = np.zeros(exposure.shape, bool)
    columns = measure_single_frame(exposure, bad, detections, SIGMA, MeasurementConfig()).columns
    assert_array_equal(columns[f"pixelFlags_{name}"], [False, False, True, False])


def test_two_apertures_for_every_seeing():
    """One aperture in the core and a larger one, for stars of any width and for an unknown one."""
    assert core_and_whole((3.0, 5.0, 9.0, 12.0), 2 * (6.0 / 2.3548) ** 2) == (1, 3)
    for trace in (np.nan, 0.0, 1e-3, 8.0, 1e4):
        core, whole = core_and_whole(RADII, trace)
        assert 0 <= core < whole < len(RADII)
