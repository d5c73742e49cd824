"""Tests of sky maps (LDM-151 2.3): tracts and patches share out the sky, and every disc fits into one."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skyquilt.primitives.geometry import (
    Box,
    ConvexPolygon,
    angular_separation,
    offset_position,
)
from skyquilt.primitives.sky_map import RingsSkyMap, SingleTractSkyMap, from_config

# num_rings, pixel scale [arcsec], inner, border [pixel], overlap [deg]
RINGS = [
    (1, 20.0, 2000, 50, 0.3),
    (3, 5.0, 4000, 100, 0.2),
    (20, 1.0, 4000, 100, 0.1),
    (120, 0.2, 4000, 100, 1 / 60),
]
RINGS += [(600, 0.2, 4000, 100, 1 / 60)]
MAPS = [RingsSkyMap(*numbers) for numbers in RINGS] + [
    RingsSkyMap(7, 2.0, 3000, 60, 0.01, ra_start_deg=123.4)
]
IDS = [f"{sky_map.num_rings}-rings" for sky_map in MAPS]

positions = st.tuples(st.floats(0, 360), st.floats(-90, 90))


@pytest.fixture
def rng():
    return np.random.default_rng(23)


def sphere(rng, n):
    return rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))


def hard_positions(sky_map, rng):
    """Poles, RA 0, ring boundaries and cell boundaries, each with points on either side of it."""
    nudge = np.array([0.0, 1e-13, -1e-13, 1e-9, -1e-9, 1e-5, -1e-5])
    ra = [0.0, 360.0, 359.9999999, 0.0000001, sky_map.ra_start_deg]
    dec = [-90.0, 90.0, 0.0, 89.999999, -89.999999]
    rings = rng.integers(0, sky_map.num_rings + 1, 8)
    dec += list((-90 + (rings + 0.5) * sky_map.ring_height_deg)[:, None].ravel())
    ra, dec = (each.ravel() for each in np.meshgrid(np.array(ra), np.array(dec)))
    tracts = rng.integers(0, sky_map.num_tracts, 40)
    bounds = np.array([sky_map.inner_bounds(int(tract)) for tract in tracts])
    for corner_ra in (bounds[:, 0], bounds[:, 1]):
        for corner_dec in (bounds[:, 2], bounds[:, 3], bounds[:, 2:].mean(axis=1)):
            ra, dec = np.concatenate([ra, corner_ra]), np.concatenate([dec, corner_dec])
    ra, dec = np.repeat(ra, len(nudge)), np.repeat(dec, len(nudge))
    ra, dec = (
        ra + np.tile(nudge, len(ra) // len(nudge)),
        dec + rng.permuted(np.tile(nudge, len(dec) // len(nudge))),
    )
    return ra, np.clip(dec, -90, 90)


@pytest.mark.parametrize("sky_map", MAPS, ids=IDS)
class TestRings:
    """What holds for every rings map."""

    def test_every_point_has_one_tract_whose_bounds_hold_it(self, sky_map, rng):
        """The inner regions share out the sphere: the tract found has the point within its bounds."""
        ra, dec = sphere(rng, 1000)
        hard = hard_positions(sky_map, rng)
        ra, dec = np.append(ra, hard[0]), np.append(dec, hard[1])
        tracts = sky_map.find_tract(ra, dec)
        assert tracts.min() >= 0
        assert tracts.max() < sky_map.num_tracts
        bounds = np.array([sky_map.inner_bounds(int(tract)) for tract in tracts])
        # positions at a boundary may be taken to either side by rounding
        assert np.all((dec >= bounds[:, 2] - 1e-12) & (dec <= bounds[:, 3] + 1e-12))
        width = np.where(bounds[:, 1] <= bounds[:, 0], 360, 0) + bounds[:, 1] - bounds[:, 0]
        from_edge = np.mod(ra - bounds[:, 0], 360)
        assert np.all((from_edge <= width + 1e-9) | (from_edge >= 360 - 1e-9))

    def test_the_share_of_points_is_the_share_of_the_area(self, sky_map, rng):
        """Uniform points fall into each ring in proportion to its area: no gap, no double cover."""
        n = 40_000
        _, dec = sphere(rng, n)
        edges = np.clip(-90 + (np.arange(sky_map.num_rings + 3) - 0.5) * sky_map.ring_height_deg, -90, 90)
        expected = np.diff(np.sin(np.radians(edges))) / 2
        found = sky_map.find_tract(rng.uniform(0, 360, n), dec)
        ring_dec = sky_map.centres(found)[1]
        ring = np.rint((ring_dec + 90) / sky_map.ring_height_deg).astype(int)
        share = np.bincount(ring, minlength=len(expected)) / n
        # multinomial; allow 5 standard deviations in up to 602 rings
        assert np.all(np.abs(share - expected) <= 5 * np.sqrt(expected / n) + 5 / n)

    def test_a_disc_of_the_guard_radius_fits_into_tract_and_patch(self, sky_map, rng):
        """All points of the disc lie on pixels of the tract and of the patch of its centre."""
        ra, dec = sphere(rng, 250)
        hard = hard_positions(sky_map, rng)
        some = rng.choice(len(hard[0]), 150, replace=False)
        ra, dec = np.append(ra, hard[0][some]), np.append(dec, hard[1][some])
        radius = sky_map.guard_radius_deg
        assert radius > 0
        tracts, patches = sky_map.find_patch(ra, dec)
        for a, d, tract_id, patch_id in zip(ra, dec, tracts, patches):
            tract = sky_map.tract(tract_id)
            circle = offset_position(a, d, np.arange(0, 360, 15.0), radius * (1 - 1e-6))
            x, y = tract.wcs.sky_to_pixel(*circle)
            patch = tract.patch(patch_id)
            assert patch.outer.contains(x, y).all()
            assert tract.box.contains(x, y).all()
        assert sky_map.wholly_inside(ra, dec, radius * (1 - 1e-6)).all()

    def test_tracts_reach_beyond_their_inner_region_by_the_overlap(self, sky_map, rng):
        """Discs of the whole overlap about points of the inner region lie in the outer polygon."""
        ra, dec = hard_positions(sky_map, rng)
        some = rng.choice(len(ra), 150, replace=False)
        for a, d in zip(ra[some], dec[some]):
            tract = sky_map.tract(sky_map.find_tract(a, d))
            assert tract.polygon.contains_disc(a, d, sky_map.tract_overlap_deg * (1 - 1e-9))

    def test_tracts_are_not_larger_than_they_need_to_be(self, sky_map):
        """But for the rounding to whole patches a box exceeds cell and overlap by less than 3 %."""
        t = np.linspace(0, 1, 200)
        for tract_id in (0, sky_map.num_tracts // 2, sky_map.num_tracts - 1):
            tract = sky_map.tract(tract_id)
            low, high, south, north = sky_map.inner_bounds(tract_id)
            east = low + t * (360.0 if high == 360.0 else np.mod(high - low, 360))
            edge_ra, edge_dec = np.meshgrid(east, south + t * (north - south))
            x, y = tract.wcs.sky_to_pixel(edge_ra, edge_dec)
            stretch = 1 / np.cos(np.radians(tract.polygon.radius)) ** 2
            overlap = sky_map.tract_overlap_deg * 3600 / sky_map.pixel_scale_arcsec * stretch
            for pixel, middle, size in zip((x, y), tract.box.centre, tract.box.shape[::-1]):
                needed = 2 * (np.abs(pixel - middle).max() + overlap)
                assert size - 1.03 * needed < sky_map.patch_inner_pixels

    def test_all_tracts_of_a_point_are_found(self, sky_map, rng):
        """Against trying every tract near by: contained when the position has a pixel there."""
        ra, dec = sphere(rng, 10)
        hard = hard_positions(sky_map, rng)
        some = rng.choice(len(hard[0]), 10, replace=False)
        ra, dec = np.append(ra, hard[0][some]), np.append(dec, hard[1][some])
        index, tracts = sky_map.tracts_containing(ra, dec)
        home = sky_map.find_tract(ra, dec)
        ra0, dec0 = sky_map.centres(np.arange(sky_map.num_tracts))
        columns, rows = sky_map.patch_grids(np.arange(sky_map.num_tracts))
        pixel = np.radians(sky_map.pixel_scale_arcsec / 3600) * sky_map.patch_inner_pixels
        reach = np.degrees(np.arctan(np.hypot(columns, rows) * pixel / 2)) * 1.01
        for i in range(len(ra)):
            near = np.flatnonzero(angular_separation(ra[i], dec[i], ra0, dec0) < reach)
            expected = [tract for tract in near if sky_map.tract(tract).contains(ra[i], dec[i])]
            assert tracts[index == i].tolist() == expected
            assert home[i] in expected

    def test_tracts_overlapping_a_polygon_are_those_whose_polygons_meet_it(self, sky_map, rng):
        """Against trying every tract of small maps, and against the tracts of points in large ones."""
        for place in [(0.0, 89.7), (359.9, -20.0), *zip(*sphere(rng, 3))]:
            polygon = ConvexPolygon.circle(*place, 0.8, corners=7)
            found = [tract.id for tract in sky_map.tracts_overlapping(polygon)]
            assert found == sorted(set(found))
            inside = offset_position(*place, rng.uniform(0, 360, 200), 0.8 * np.sqrt(rng.uniform(0, 1, 200)))
            assert set(sky_map.tracts_containing(*inside)[1]) <= set(found)
            if sky_map.num_tracts < 1000:
                every = [t for t in range(sky_map.num_tracts) if sky_map.tract(t).polygon.intersects(polygon)]
                assert found == every

    def test_patches_overlapping_a_polygon_are_found(self, sky_map, rng):
        """Patches that hold points of the polygon are among them, patches whose polygons miss it are not."""
        for place in [(10.0, 89.9), *zip(*sphere(rng, 2))]:
            radius = sky_map.ring_height_deg * 0.4
            polygon = ConvexPolygon.circle(*place, radius, corners=6)
            tract = sky_map.tract(sky_map.find_tract(*place))
            found = tract.patches_overlapping(polygon)
            numbers = [patch.id for patch in found]
            assert numbers == sorted(set(numbers))
            inside = offset_position(
                *place, rng.uniform(0, 360, 300), radius * np.sqrt(rng.uniform(0, 1, 300))
            )
            touched = set(tract.patch_of(*inside)) - {-1}
            assert touched <= set(numbers)
            rest = [patch for patch in tract.patches() if patch.id not in numbers]
            picked = [rest[i] for i in rng.integers(0, len(rest), 15)] if rest else []
            for patch in picked:
                assert tract.polygon.intersection(polygon) is not None
                assert not tract.wcs.polygon(patch.outer.grown(-1)).intersects(polygon)
            for patch in found[:: max(1, len(found) // 15)]:
                assert tract.wcs.polygon(patch.outer.grown(1)).intersects(polygon)

    def test_inner_boxes_tile_the_tract(self, sky_map, rng):
        """Each pixel of the tract lies in one inner box; outer boxes reach further by the border."""
        tract = sky_map.tract(sky_map.num_tracts // 3)
        patches = tract.patches()
        assert [patch.id for patch in patches] == list(range(tract.num_patches))
        assert sum(patch.inner.area for patch in patches) == tract.box.area
        x = rng.uniform(-0.5, tract.box.x1 - 0.5, 300)
        y = rng.uniform(-0.5, tract.box.y1 - 0.5, 300)
        for px, py, number in zip(x, y, tract.patch_at(x, y)):
            assert [p.id for p in patches if p.inner.contains(px, py)] == [number]
        for patch in patches:
            assert patch.inner.within(patch.outer)
            assert patch.outer == patch.inner.grown(sky_map.patch_border_pixels).overlap(tract.box)
            assert patch.id == patch.px + patch.py * tract.patch_grid[0]

    def test_the_projection_is_a_tan_with_north_up_and_east_left(self, sky_map):
        """The tangent point is the box's middle, x grows to the west, y to the north, at the given scale."""
        tract = sky_map.tract(sky_map.num_tracts // 2)
        x, y = tract.box.centre
        assert_allclose(tract.wcs.pixel_to_sky(x, y), (tract.wcs.ra, tract.wcs.dec), atol=1e-10)
        jacobian = tract.wcs.local_jacobian(x, y)
        assert_allclose(
            jacobian, [[-sky_map.pixel_scale_arcsec, 0], [0, sky_map.pixel_scale_arcsec]], atol=1e-9
        )

    def test_a_map_made_from_its_configuration_is_equal(self, sky_map):
        """Through the dict and through pickle, which takes no tract along."""
        assert from_config(sky_map.to_config()) == sky_map
        again = pickle.loads(pickle.dumps(sky_map))
        assert again == sky_map
        assert again.tract(3) == sky_map.tract(3)
        assert again.tract(3) != sky_map.tract(2)
        assert len(pickle.dumps(sky_map)) < 1000


@settings(max_examples=300, deadline=None)
@given(positions, st.integers(0, len(MAPS) - 1))
def test_any_position_is_guarded(position, which):
    """hypothesis tries the corners of the sphere: one tract, and the guard disc inside its patch."""
    sky_map = MAPS[which]
    tract, patch = sky_map.find_patch(*position)
    assert 0 <= tract < sky_map.num_tracts
    assert sky_map.tract(tract).patch_of(*position) == patch
    assert sky_map.tract(tract).contains_inner(*position)
    assert sky_map.wholly_inside(*position, sky_map.guard_radius_deg * (1 - 1e-9))


def test_a_disc_larger_than_the_border_is_not_always_inside():
    """`wholly_inside` tells discs that leave the patch from those that stay, against their points."""
    rng = np.random.default_rng(4)
    sky_map = MAPS[2]
    ra, dec = sphere(rng, 400)
    radius = rng.uniform(0, 1.0, 400)
    said = sky_map.wholly_inside(ra, dec, radius)
    assert 20 < said.sum() < 380
    tracts, patches = sky_map.find_patch(ra, dec)
    for i in range(400):
        tract = sky_map.tract(tracts[i])
        circle = offset_position(ra[i], dec[i], np.arange(0, 360, 2.0), radius[i])
        x, y = tract.wcs.sky_to_pixel(*circle)
        inside = tract.patch(patches[i]).outer.contains(x, y).all()
        if inside != said[i]:
            # between two of the circle's points it leaves by at most r (1 - cos(1 deg)) = 0.6 pixel
            assert inside
            assert not tract.patch(patches[i]).outer.grown(-1).contains(x, y).all()


def test_a_million_points_are_found_within_a_second():
    """The design's bound for 600 rings, with the 461,388 tracts not built."""
    rng = np.random.default_rng(5)
    ra, dec = sphere(rng, 1_000_000)
    start = time.process_time()
    sky_map = RingsSkyMap(600, 0.2, 4000, 100, 1 / 60)
    tracts = sky_map.find_tract(ra, dec)
    assert time.process_time() - start < 1.0
    assert len(np.unique(tracts)) > 350_000


def test_positions_that_are_not_positions():
    """NaN has no tract; a declination beyond the pole is a mistake."""
    sky_map = MAPS[1]
    assert sky_map.find_tract([np.nan, 10.0, 10.0], [0.0, np.nan, 0.0])[:2].tolist() == [-1, -1]
    assert sky_map.find_patch(np.nan, 0.0) == (-1, -1)
    assert not sky_map.wholly_inside(np.nan, 0.0, 0.0)
    assert sky_map.tracts_containing([np.nan], [0.0])[0].size == 0
    with pytest.raises(ValueError, match=r"-90\.\.90"):
        sky_map.find_tract(10.0, 90.001)


def test_shapes_follow_the_input():
    """Scalars give scalars, arrays of any shape give the same shape."""
    sky_map = MAPS[1]
    assert np.ndim(sky_map.find_tract(10.0, 20.0)) == 0
    assert isinstance(int(sky_map.find_tract(10.0, 20.0)), int)
    assert sky_map.find_tract(np.zeros((2, 3)), 20.0).shape == (2, 3)
    assert sky_map.find_tract(np.zeros(0), np.zeros(0)).shape == (0,)
    assert np.ndim(sky_map.wholly_inside(10.0, 20.0, 0.01)) == 0
    assert sky_map.tract(0).patch_of(np.zeros((2, 3)), -90.0).shape == (2, 3)
    index, tracts = sky_map.tracts_containing(np.zeros(0), np.zeros(0))
    assert index.shape == tracts.shape == (0,)


def test_patches_share_the_tract_pixels():
    """A sky position has the same tract pixel whichever patch's header it is read from."""
    from skyquilt.primitives.wcs import Wcs

    tract = MAPS[3].tract(9000)
    patch, neighbour = tract.patch(8), tract.patch(9)
    common = patch.outer.overlap(neighbour.outer)
    assert common.nx == 2 * MAPS[3].patch_border_pixels
    x, y = np.array([common.x0, common.x1 - 1.0]), np.array([common.y0, common.y1 - 1.0])
    for each in (patch, neighbour):
        cards, residual = tract.wcs.to_fits_header(each.outer, "TAN")
        assert residual < 1e-6
        sky = Wcs.from_fits_header(cards).pixel_to_sky(x - each.outer.x0, y - each.outer.y0)
        assert_allclose(tract.wcs.sky_to_pixel(*sky), [x, y], atol=1e-6)


# ---------------------------------------------------------------------------------------- one tract


def test_a_single_tract_covers_its_field_with_whole_patches():
    """At least the size asked for, less than a patch more on each axis."""
    sky_map = SingleTractSkyMap(0.2, 30.0, (0.5, 0.3), 0.4, 1000, 50)
    tract = sky_map.tract(0)
    assert sky_map.num_tracts == 1
    assert tract.box == Box(0, 0, 5000, 3000)
    assert tract.patch_grid == (5, 3)
    ra, dec = offset_position(0.2, 30.0, [0, 90, 180, 270], [0.149, 0.249, 0.149, 0.249])
    assert np.all(sky_map.find_tract(ra, dec) == 0)
    assert sky_map.find_tract(180.2, -30.0) == -1
    assert sky_map.find_tract(0.2, 31.0) == -1


def test_a_single_tract_fits_exactly_when_the_size_is_whole_patches():
    """1000 pixels of 0.36 arcsec are 0.1 deg: no patch is added by rounding."""
    assert SingleTractSkyMap(10, 0, 0.3, 0.36, 1000, 50).tract(0).patch_grid == (3, 3)


@pytest.mark.parametrize("place", [(0.0, 0.0), (120.0, 90.0), (200.0, -89.9)])
def test_discs_at_the_edge_of_a_single_tract_are_not_wholly_inside(place):
    """Inside the field the guard disc fits; at the edge it does not; outside there is no patch."""
    sky_map = SingleTractSkyMap(*place, 1.0, 0.5, 1500, 80)
    guard = sky_map.guard_radius_deg
    assert_allclose(guard, 80 * 0.5 / 3600, rtol=1e-3)
    angle = np.arange(0, 360, 10.0)
    half = sky_map.tract(0).box.nx * 0.25 / 3600
    near = offset_position(*place, angle, half - 2 * guard)
    assert sky_map.wholly_inside(*near, guard).all()
    north = offset_position(*place, 0.0, half - 0.5 * guard)
    assert not sky_map.wholly_inside(*north, guard)
    assert sky_map.find_patch(*offset_position(*place, angle, 3.0))[1].tolist() == [-1] * len(angle)
    assert not sky_map.wholly_inside(*offset_position(*place, angle, 3.0), 0.0).any()


def test_a_single_tract_overlaps_what_touches_it():
    """Tracts and patches for polygons inside, across the edge and outside."""
    sky_map = SingleTractSkyMap(150.0, 2.0, 1.0, 0.5, 1500, 80)
    assert [t.id for t in sky_map.tracts_overlapping(ConvexPolygon.circle(150.6, 2.6, 0.3))] == [0]
    assert sky_map.tracts_overlapping(ConvexPolygon.circle(153.0, 2.0, 0.3)) == []
    tract = sky_map.tract(0)
    assert len(tract.patches_overlapping(ConvexPolygon.circle(150.0, 2.0, 3.0))) == tract.num_patches
    assert tract.patches_overlapping(ConvexPolygon.circle(153.0, 2.0, 0.3)) == []
    index, tracts = sky_map.tracts_containing([150.0, 160.0], [2.0, 2.0])
    assert (index.tolist(), tracts.tolist()) == ([0], [0])
    assert pickle.loads(pickle.dumps(sky_map)) == sky_map


# ------------------------------------------------------------------------------------ configuration

GOOD = RingsSkyMap(120, 0.2, 4000, 100, 0.0167).to_config()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "healpix"}, "sky_map.kind"),
        ({"kind": None}, "sky_map.kind"),
        ({"num_ring": 5}, "did you mean num_rings"),
        ({"colour": 5}, "sky_map.colour: no such option"),
        ({"num_rings": 0}, "num_rings"),
        ({"num_rings": 2.5}, "num_rings"),
        ({"num_rings": 1000}, "object ids hold"),
        ({"num_rings": 2, "pixel_scale_arcsec": 0.05, "patch_inner_pixels": 1000}, "patch numbers"),
        ({"num_rings": 1, "tract_overlap_deg": 40.0}, "too large for a TAN"),
        ({"pixel_scale_arcsec": 0.0}, "pixel_scale_arcsec"),
        ({"pixel_scale_arcsec": float("nan")}, "pixel_scale_arcsec"),
        ({"patch_border_pixels": -1}, "patch_border_pixels"),
        ({"tract_overlap_deg": -0.1}, "tract_overlap_deg"),
    ],
)
def test_wrong_configurations_stop_with_the_key(change, words):
    """Unknown kinds and keys, and values that cannot work, name the option."""
    with pytest.raises(ValueError, match=words):
        from_config(GOOD | change)


def test_missing_options_are_named():
    """A section without a needed number says which."""
    with pytest.raises(ValueError, match="needs num_rings, tract_overlap_deg"):
        from_config(
            {"kind": "rings", "pixel_scale_arcsec": 0.2, "patch_inner_pixels": 4000, "patch_border_pixels": 1}
        )
    single = {"kind": "single", "ra": 1.0, "dec": 95.0, "size_deg": 1.0, "pixel_scale_arcsec": 1.0}
    with pytest.raises(ValueError, match="dec in -90"):
        from_config(single | {"patch_inner_pixels": 100, "patch_border_pixels": 10})


def test_numbers_outside_the_map_are_refused():
    """Tract and patch numbers count from 0."""
    sky_map = MAPS[2]
    for number in (-1, sky_map.num_tracts):
        with pytest.raises(IndexError, match="has tracts 0"):
            sky_map.tract(number)
    with pytest.raises(IndexError, match="has patches 0"):
        sky_map.tract(0).patch(10_000)
