"""Ghosts are catalogued where the reflections put them and masked where their light matters."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.artifact_detection.ghosts import add_rings, ghost_catalogue, ghost_mask
from skyquilt.instrument.camera import Detector, GhostModel
from skyquilt.simulation.ghosts import GhostsConfig, ghost_light
from skyquilt.simulation.optics import Optics

PIXEL = 0.01
SIMULATED = GhostsConfig(
    enabled=True,
    radius_mm=(0.6, 1.1, 1.8),
    inner_fraction=(0.35, 0.3, 0.4),
    magnification=(-0.8, -1.2, 0.7),
    offset_x_mm=(0.05, -0.1, 0.08),
    offset_y_mm=(-0.03, 0.06, 0.1),
    flux_ratio=(2e-4, 1e-3, 6e-4),
)
GHOSTS = tuple(
    GhostModel(radius, inner, scale, (x, y), ratio)
    for radius, inner, scale, x, y, ratio in zip(
        SIMULATED.radius_mm,
        SIMULATED.inner_fraction,
        SIMULATED.magnification,
        SIMULATED.offset_x_mm,
        SIMULATED.offset_y_mm,
        SIMULATED.flux_ratio,
        strict=True,
    )
)


def detector(rotation=0.0):
    """600 x 500 pixels of 10 micron, off the axis."""
    return Detector(3, "D", "science", 600, 500, PIXEL, (1.5, -1.0), rotation, ())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_simulated_ghosts_are_masked_and_nothing_else(seed):
    """Of the pixels where uneven ghosts with struts exceed the threshold 97 % are masked; of those masked six in
    seven have half of it, the others are margins."""
    rng = np.random.default_rng(seed)
    place = detector(rotation=float(rng.uniform(0, 360)))
    x, y = rng.uniform(-6, 6, (2, 40))
    flux = 10 ** rng.uniform(5, 9, 40)
    noise = 30.0
    light = ghost_light(SIMULATED, Optics(20.0, (), False, 7.0), place, x, y, flux, noise).light
    threshold = 0.3 * noise
    matrix, offset = place.focal_plane_matrix()
    mask, expected = ghost_mask(x, y, flux, GHOSTS, matrix, offset, (500, 600), threshold, expected=True)
    bright = light > threshold
    assert bright.sum() > 5000
    assert mask[bright].mean() > 0.97
    # hole shifts and margins cost a few percent of the area, and 15 % unevenness reaches 13 % below the threshold
    assert (light[mask] > 0.5 * threshold).mean() > 0.86
    clear = light < 0.05 * threshold
    # the margins alone: 4 % of the outer radius beyond both edges is at most 15 % of an annulus
    assert mask[clear].sum() < 0.2 * bright.sum()
    # the detector may see the bright sides of its ghosts only, and shadows take 3 %
    assert_allclose(expected.sum(dtype=float), light.sum(dtype=float), rtol=0.15)


def test_faint_stars_mask_nothing():
    """Below the threshold there is no mask; without reflections neither, and the catalogue is empty."""
    matrix, offset = detector().focal_plane_matrix()
    stars = np.array([1.0]), np.array([-0.5])
    assert not ghost_mask(*stars, np.array([1e4]), GHOSTS, matrix, offset, (500, 600), 3.0)[0].any()
    mask, expected = ghost_mask(*stars, np.array([1e9]), (), matrix, offset, (500, 600), 3.0, expected=True)
    assert not mask.any()
    assert not expected.any()
    assert all(column.size == 0 for column in ghost_catalogue(*stars, np.array([1e9]), (), PIXEL).values())


def test_faint_ghosts_add_up():
    """Two stars whose ghosts overlap are masked there though neither ghost reaches the threshold alone."""
    ghost = (GhostModel(1.0, 0.0, 1.0, (0.0, 0.0), 1e-3),)
    matrix, offset = detector().focal_plane_matrix()
    level = 10.0
    flux = level * np.pi * 100**2 / 1e-3
    x, y = np.array([1.5, 2.1]), np.array([-1.0, -1.0])
    alone = ghost_mask(x[:1], y[:1], np.array([flux]), ghost, matrix, offset, (500, 600), 1.5 * level)[0]
    both = ghost_mask(x, y, np.array([flux, flux]), ghost, matrix, offset, (500, 600), 1.5 * level)[0]
    assert not alone.any()
    # the lens that two circles of radius 104 share, 60 pixels apart
    d, r = 60.0, 104.0
    lens = 2 * r**2 * np.arccos(d / (2 * r)) - 0.5 * d * np.sqrt(4 * r**2 - d**2)
    assert_allclose(both.sum(), lens, rtol=0.01)


def test_catalogue_rows():
    """Rows are brightest first, with light, place and size by the model; strange fluxes have no ghost."""
    x, y = np.array([1.0, -2.0, 0.5]), np.array([0.5, 0.25, 0.0])
    rows = ghost_catalogue(x, y, np.array([1e7, 3e8, np.nan]), GHOSTS, PIXEL)
    assert rows["star"].size == 6
    assert np.all(np.diff(rows["surfaceBrightness"]) <= 0)
    assert 2 not in rows["star"]
    k = int(np.flatnonzero((rows["star"] == 1) & (rows["reflection"] == 0))[0])
    assert_allclose([rows["xMm"][k], rows["yMm"][k]], [1.6 + 0.05, -0.2 - 0.03])
    assert_allclose([rows["radiusMm"][k], rows["innerRadiusMm"][k]], [0.6, 0.21])
    assert_allclose(rows["electrons"][k], 2e-4 * 3e8)
    assert_allclose(rows["surfaceBrightness"][k], 6e4 / (np.pi * 60**2 * (1 - 0.35**2)))
    assert set(rows["kind"]) == {"ghost"}
    bright = ghost_catalogue(x, y, np.array([1e7, 3e8, np.nan]), GHOSTS, PIXEL, faintest=1.0)
    assert 0 < bright["star"].size < 6
    assert bright["surfaceBrightness"].min() >= 1.0
    glint = ghost_catalogue(x, y, np.full(3, 1e8), (GhostModel(0.05, 0.0, -1.0, (0, 0), 1e-5),), PIXEL)
    assert set(glint["kind"]) == {"glint"}


def test_rings_are_as_by_a_plain_loop():
    """The compiled spans add what a double loop over pixels adds, beyond the image's edges too."""
    rng = np.random.default_rng(4)
    x, y = rng.uniform(-10, 50, (2, 12))
    outer = rng.uniform(3, 25, 12)
    inner = outer * rng.uniform(0, 0.9, 12)
    level = rng.uniform(1, 2, 12)
    image = np.zeros((30, 40), np.float32)
    add_rings(image, x, y, outer, inner, level)
    j, i = np.mgrid[:30, :40]
    plain = np.zeros((30, 40))
    for k in range(12):
        r = np.hypot(i - x[k], j - y[k])
        plain += level[k] * ((r <= outer[k]) & (r >= inner[k]))
    assert_allclose(image, plain, rtol=1e-6)


def test_stars_and_threshold_are_checked():
    """Unequal lengths and a threshold that is not positive are refused."""
    with pytest.raises(ValueError, match="3 x, 2 y, 3 flux"):
        ghost_catalogue(np.zeros(3), np.zeros(2), np.zeros(3), GHOSTS, PIXEL)
    with pytest.raises(ValueError, match="threshold must be positive"):
        ghost_mask(np.zeros(1), np.zeros(1), np.ones(1), GHOSTS, np.eye(2), np.zeros(2), (5, 5), 0.0)


def test_mirrored_and_turned_detectors_see_the_same_ghost():
    """A detector turned by 180 degrees has the mask turned, one mirrored the mask mirrored."""
    x, y, flux = np.array([2.0]), np.array([-1.0]), np.array([1e8])
    matrix, offset = detector().focal_plane_matrix()
    straight = ghost_mask(x, y, flux, GHOSTS, matrix, offset, (500, 600), 0.5)[0]
    turned = ghost_mask(x, y, flux, GHOSTS, *detector(180.0).focal_plane_matrix(), (500, 600), 0.5)[0]
    assert straight.any()
    assert_array_equal(turned, straight[::-1, ::-1])
    mirror = matrix @ np.diag([-1.0, 1.0])
    far = offset + matrix @ (599.0, 0.0)
    assert_array_equal(ghost_mask(x, y, flux, GHOSTS, mirror, far, (500, 600), 0.5)[0], straight[:, ::-1])
