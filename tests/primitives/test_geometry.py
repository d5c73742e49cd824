"""Tests of boxes and spherical geometry (LDM-151 9.7, 2.3)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skyquilt.primitives.geometry import (
    Box,
    ConvexPolygon,
    angular_separation,
    deproject_tangent,
    offset_position,
    position_angle,
    project_tangent,
    sky_positions,
    unit_vectors,
    wrap_ra,
)

boxes = st.builds(Box, st.integers(-20, 20), st.integers(-20, 20), st.integers(0, 15), st.integers(0, 15))
directions = st.tuples(st.floats(0, 360, exclude_max=True), st.floats(-90, 90))


@pytest.fixture
def rng():
    return np.random.default_rng(20240512)


def pixels_of(box):
    return {(x, y) for x in range(box.x0, box.x1) for y in range(box.y0, box.y1)}


@settings(deadline=None)
@given(boxes, boxes)
def test_overlap_and_union_are_those_of_the_sets_of_pixels(one, two):
    """The overlap holds exactly the common pixels; the union holds the pixels of both."""
    common = one.overlap(two)
    assert (pixels_of(common) if common else set()) == pixels_of(one) & pixels_of(two)
    assert pixels_of(one) | pixels_of(two) <= pixels_of(one.union(two))


@settings(deadline=None)
@given(boxes, st.floats(-40, 40), st.floats(-40, 40))
def test_a_position_lies_on_exactly_the_pixel_that_covers_it(box, x, y):
    """A box contains a position when it contains the pixel i with i - 0.5 <= x < i + 0.5."""
    pixel = (int(np.floor(x + 0.5)), int(np.floor(y + 0.5)))
    assert box.contains(x, y) == (pixel in pixels_of(box))


def test_slices_cut_the_box_out_of_its_parent():
    """Pixel (x, y) of the parent frame is found at the place that the slices say."""
    parent, box = Box(10, 20, 30, 40), Box(12, 25, 3, 4)
    y, x = np.mgrid[parent.y0 : parent.y1, parent.x0 : parent.x1]
    assert x[box.slices(parent)].tolist() == [[12, 13, 14]] * 4
    assert y[box.slices(parent)][:, 0].tolist() == [25, 26, 27, 28]
    assert Box(1, 2, 3, 4).slices() == (slice(2, 6), slice(1, 4))
    assert box.shape == x[box.slices(parent)].shape


def test_a_box_outside_its_parent_is_refused_rather_than_wrapped_round():
    """Slices with negative starts would silently take the other side of the image."""
    with pytest.raises(ValueError, match="not inside its parent"):
        Box(8, 0, 5, 5).slices(Box(10, 0, 30, 30))
    with pytest.raises(ValueError, match="not inside its parent"):
        Box(-1, 0, 5, 5).slices()


def test_sizes_and_places_must_be_whole_and_not_negative():
    """Half pixels and negative sizes stop at once; whole floats and numpy integers become int."""
    with pytest.raises(ValueError, match="whole number"):
        Box(0.5, 0, 1, 1)
    with pytest.raises(ValueError, match="must not be negative"):
        Box(0, 0, -1, 1)
    assert Box(np.int64(1), 2.0, 3, 4) == Box(1, 2, 3, 4)
    assert type(Box(np.int64(1), 2, 3, 4).x0) is int


@settings(deadline=None)
@given(boxes, st.integers(0, 5))
def test_growing_and_shrinking_undo_each_other(box, n):
    """grown(n).grown(-n) is the box; the corners are half a pixel outside the outer pixels' centres."""
    assert box.grown(n).grown(-n) == box
    x, y = box.corners()
    assert (x.min(), x.max()) == (box.x0 - 0.5, box.x1 - 0.5)
    assert (y.min(), y.max()) == (box.y0 - 0.5, box.y1 - 0.5)
    assert_allclose((x.mean(), y.mean()), box.centre)


def test_too_much_shrinking_leaves_an_empty_box():
    """A box never gets a negative size."""
    assert Box(0, 0, 5, 9).grown(-3).is_empty


@settings(deadline=None)
@given(directions)
def test_unit_vectors_and_positions_are_inverse(direction):
    """Position -> vector -> position moves by rounding only, poles and RA 0 included."""
    ra, dec = direction
    again = sky_positions(unit_vectors(ra, dec))
    assert 0 <= again[0] < 360
    # a unit vector's components are good to 1e-16; the pole's RA is anything
    assert angular_separation(ra, dec, *again) < 1e-13


def test_wrapped_ra_is_below_360():
    """The remainder of a tiny negative angle is 0, not 360."""
    assert wrap_ra(-1e-20) == 0.0
    assert wrap_ra(360.0) == 0.0
    assert_allclose(wrap_ra(np.array([-1.0, 361.0, 720.5])), [359.0, 1.0, 0.5])


@settings(max_examples=200, deadline=None)
@given(directions, st.floats(0, 360), st.floats(-11, 2.25))
def test_separation_is_precise_at_all_sizes(direction, angle, log_separation):
    """A point put at 1e-11 to 178 deg is found at that distance to the rounding of its coordinates."""
    ra, dec = direction
    separation = 10.0**log_separation
    there = offset_position(ra, dec, angle, separation)
    # coordinates are rounded to 360 * 2^-53 deg = 4e-14
    assert_allclose(angular_separation(ra, dec, *there), separation, rtol=1e-14, atol=2e-13)


def test_small_separations_keep_their_digits():
    """At 1e-9 deg the separation has a relative error below 1e-12 when the coordinates are exact."""
    step = 2.0**-30
    assert_allclose(angular_separation(180.0, 45.0, 180.0, 45.0 + step), step, rtol=1e-12)
    assert_allclose(
        angular_separation(180.0, 60.0, 180.0 + step, 60.0), step * np.cos(np.radians(60.0)), rtol=1e-12
    )
    assert_allclose(angular_separation(359.999, 0.0, 0.001, 0.0), 0.002, rtol=1e-10)
    assert angular_separation(0.0, 90.0, 123.0, -90.0) == pytest.approx(180.0, abs=1e-12)


def test_position_angle_agrees_with_offsets(rng):
    """The direction in which a point was put is the direction in which it is seen."""
    ra, dec = rng.uniform(0, 360, 500), rng.uniform(-89, 89, 500)
    angle, separation = rng.uniform(0, 360, 500), rng.uniform(0.01, 80, 500)
    found = position_angle(ra, dec, *offset_position(ra, dec, angle, separation))
    # coordinates rounded to 6e-14 deg at a distance of 0.01 deg, near the pole worth 1/cos(89 deg) more
    assert_allclose(np.remainder(found - angle + 180, 360), 180, atol=1e-9)


def test_separation_agrees_with_astropy(rng):
    """astropy's Vincenty formula gives the same angles."""
    from astropy.coordinates import angular_separation as theirs

    ra1, ra2 = rng.uniform(0, 360, (2, 1000))
    dec1, dec2 = rng.uniform(-90, 90, (2, 1000))
    expected = np.degrees(theirs(*np.radians([ra1, dec1, ra2, dec2])))
    assert_allclose(angular_separation(ra1, dec1, ra2, dec2), expected, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(directions, st.floats(0, 360), st.floats(1e-8, 85))
def test_tangent_projection_is_inverse_and_radial(centre, angle, distance):
    """A point at an angle and distance lies at that angle and the distance's tangent, and comes back."""
    ra, dec = offset_position(*centre, angle, distance)
    xi, eta = project_tangent(ra, dec, *centre)
    assert_allclose(np.hypot(xi, eta), np.degrees(np.tan(np.radians(distance))), rtol=1e-5, atol=1e-12)
    # at 85 deg the plane is stretched 130 times, rounding with it
    assert angular_separation(*deproject_tangent(xi, eta, *centre), ra, dec) < 3e-13


def test_points_behind_the_tangent_plane_have_no_image():
    """From 90 deg on the projection is NaN, also at the antipode."""
    xi, eta = project_tangent([100.0, 190.0, 10.0, 10.0], [0.0, 0.0, 0.0, 89.0], 10.0, 0.0)
    assert np.isnan(xi[:2]).all()
    assert np.isnan(eta[:2]).all()
    assert np.isfinite(xi[2:]).all()


def random_polygon(rng, ra, dec, size, corners=7):
    angle = np.sort(rng.uniform(0, 360, corners))
    distance = rng.uniform(0.5, 1.0, corners) * size
    return ConvexPolygon.hull(*offset_position(ra, dec, angle, distance))


PLACES = [(0.0, 0.0), (359.9, 30.0), (123.0, 89.5), (40.0, 90.0), (200.0, -90.0), (180.0, -45.0)]


@pytest.mark.parametrize("place", PLACES)
def test_a_polygon_contains_what_its_image_on_a_tangent_plane_contains(place, rng):
    """Great circles are straight lines there: compare with half planes in two dimensions."""
    polygon = random_polygon(rng, *place, 10.0)
    angle, distance = rng.uniform(0, 360, 2000), rng.uniform(0, 15, 2000)
    ra, dec = offset_position(*place, angle, distance)
    px, py = project_tangent(ra, dec, *place)
    cx, cy = project_tangent(*polygon.corners, *place)
    dx, dy = np.roll(cx, -1) - cx, np.roll(cy, -1) - cy
    cross = dx[:, None] * (py - cy[:, None]) - dy[:, None] * (px - cx[:, None])
    inside = np.all(cross <= 0, axis=0) | np.all(cross >= 0, axis=0)
    assert np.array_equal(polygon.contains(ra, dec), inside)
    assert 0 < inside.sum() < 2000


def test_nan_is_in_no_polygon():
    """A position that is not known is outside."""
    polygon = ConvexPolygon.circle(10, 10, 5)
    assert polygon.contains([10.0, np.nan], [10.0, 10.0]).tolist() == [True, False]


def test_area_of_an_octant_and_of_a_small_square():
    """The octant has 1/8 of the sphere; a square of 1 arcmin has 1 arcmin^2 but for its curvature."""
    octant = ConvexPolygon.from_sky([0, 90, 0], [0, 0, 90])
    assert_allclose(octant.area, 4 * np.pi / 8 * np.degrees(1) ** 2, rtol=1e-14)
    half = 0.5 / 60
    square = ConvexPolygon.from_sky(
        [359.0 - half, 359 + half, 359 + half, 359 - half], [-half, -half, half, half]
    )
    # curvature changes it by half^2 in radians, 2e-8
    assert_allclose(square.area, (1 / 60) ** 2, rtol=1e-7)


def test_area_agrees_with_counting_random_points(rng):
    """The share of points of the sphere inside a polygon is its share of the area."""
    polygon = random_polygon(rng, 350.0, 70.0, 40.0)
    n = 200_000
    z, ra = rng.uniform(-1, 1, n), rng.uniform(0, 360, n)
    share = polygon.contains(ra, np.degrees(np.arcsin(z))).mean()
    sphere = 4 * np.pi * np.degrees(1) ** 2
    # binomial error, four of them
    assert_allclose(share, polygon.area / sphere, atol=4 * np.sqrt(share / n))


@pytest.mark.parametrize("place", PLACES)
def test_intersections_are_found_and_their_area_adds_up(place, rng):
    """Polygons intersect exactly when a fine grid has common points, up to slivers below the grid."""
    one = random_polygon(rng, *place, 5.0)
    for _ in range(20):
        centre = offset_position(*place, rng.uniform(0, 360), rng.uniform(0, 12))
        two = random_polygon(rng, *centre, 5.0)
        common = one.intersection(two)
        assert one.intersects(two) == two.intersects(one)
        if common is None:
            assert not one.intersects(two)
            continue
        assert one.intersects(two)
        assert one.contains_vectors(common.vertices * 0.999999 + 1e-6 * common.centre_vector).all()
        ra, dec = offset_position(
            *common.centre, rng.uniform(0, 360, 500), rng.uniform(0, common.radius, 500)
        )
        both = one.contains(ra, dec) & two.contains(ra, dec)
        assert np.array_equal(common.contains(ra, dec), both)


def test_a_polygon_crossed_by_another_without_corners_inside_intersects():
    """Two crossing bars have no corner in one another, and do intersect."""
    flat = ConvexPolygon.from_sky([-5, 5, 5, -5], [-0.1, -0.1, 0.1, 0.1])
    tall = ConvexPolygon.from_sky([-0.1, 0.1, 0.1, -0.1], [-5, -5, 5, 5])
    assert flat.intersects(tall)
    # the great circle between corners at RA +-5 bulges from dec 0.1 to 0.1 / cos(5 deg)
    assert_allclose(flat.intersection(tall).area, 0.04 / np.cos(np.radians(5)), rtol=1e-5)


def test_antipodal_polygons_do_not_intersect():
    """Great circles meet twice; the crossing on the far side does not count."""
    here = ConvexPolygon.circle(30, 20, 20)
    there = ConvexPolygon.circle(210, -20, 20)
    assert not here.intersects(there)
    assert here.intersection(there) is None


@settings(max_examples=60, deadline=None)
@given(directions, st.floats(0.001, 20), st.floats(1e-6, 10), st.integers(0, 2**32 - 1))
def test_a_grown_polygon_holds_the_discs_about_its_points(centre, size, margin, seed):
    """Every point within the margin of an edge lies in the grown polygon."""
    rng = np.random.default_rng(seed)
    polygon = random_polygon(rng, *centre, size)
    grown = polygon.grown(margin)
    following = np.roll(polygon.vertices, -1, axis=0)
    t = rng.uniform(0, 1, (20, 1, 1))
    on_edge = polygon.vertices * t + following * (1 - t)
    ra, dec = sky_positions(np.concatenate([on_edge.reshape(-1, 3), polygon.vertices]))
    near = offset_position(ra, dec, rng.uniform(0, 360, len(ra)), margin * (1 - 1e-9))
    assert grown.contains(*near).all()
    assert grown.contains_disc(ra, dec, margin * (1 - 1e-9)).all()


@pytest.mark.parametrize("bend", [0.0, 1e-9, 1e-6, 1e-3])
def test_polygons_with_corners_nearly_on_a_line_can_be_grown(bend):
    """Edges that continue one another, so that growing makes some of them needless."""
    t = np.linspace(-1, 1, 9)
    dec = np.concatenate([-0.5 - bend * (1 - t**2), 0.5 + 0 * t]) + 1e-12 * np.sin(np.arange(18))
    ra = np.concatenate([t, t[::-1]])
    polygon = ConvexPolygon.hull(ra, dec)
    for margin in (1e-6, 0.01, 1.0):
        grown = polygon.grown(margin)
        assert grown.contains_disc(ra, dec, margin * (1 - 1e-9)).all()
        assert angular_separation(*grown.corners, *polygon.centre).max() < polygon.radius + 1.6 * margin


def test_growth_is_not_excessive():
    """The middle of a small square's sides moves by the margin to 1 %, its corners by sqrt(2) of it."""
    square = ConvexPolygon.from_sky([9.5, 10.5, 10.5, 9.5], [-0.5, -0.5, 0.5, 0.5])
    grown = square.grown(0.1)
    assert grown.contains(10.0, 0.599)
    assert not grown.contains(10.0, 0.601)
    assert_allclose(grown.radius, np.hypot(0.6, 0.6), rtol=1e-3)


@pytest.mark.parametrize("place", PLACES)
def test_a_circle_polygon_holds_the_circle_and_little_more(place):
    """All points on the circle are inside; 32 corners reach 0.5 % further (1/cos(pi/32))."""
    polygon = ConvexPolygon.circle(*place, 3.0)
    on_circle = offset_position(*place, np.linspace(0, 360, 721), 3.0)
    assert polygon.contains(*on_circle).all()
    assert_allclose(polygon.radius, 3.0 / np.cos(np.pi / 32), rtol=1e-4)


def test_wrong_polygons_are_refused():
    """Too few corners, a dent, a hemisphere and an impossible growth stop with their reason."""
    with pytest.raises(ValueError, match="three different corners"):
        ConvexPolygon.from_sky([0, 1, 1], [0, 0, 0])
    with pytest.raises(ValueError, match="not convex"):
        ConvexPolygon.from_sky([0, 10, 2, 0], [0, 0, 2, 10])
    with pytest.raises(ValueError, match="hemisphere"):
        ConvexPolygon.from_sky([0, 120, 240], [0, 0, 0])
    with pytest.raises(ValueError, match="hemisphere"):
        ConvexPolygon.circle(0, 0, 60).grown(40)
    with pytest.raises(ValueError, match="do not span an area"):
        ConvexPolygon.hull([0, 1, 2], [0, 0, 0])


def test_corners_may_be_given_in_either_sense(rng):
    """Clockwise and counter-clockwise corners make the same region."""
    polygon = random_polygon(rng, 77, -33, 5)
    again = ConvexPolygon(polygon.vertices[::-1])
    assert_allclose(again.area, polygon.area, rtol=1e-12)
    assert polygon.area > 0


def test_hulls_hold_their_points_at_any_size(rng):
    """Hulls of 300 points are convex polygons from 1 arcsec to 60 deg, and hold all of them."""
    for size in (1 / 3600, 0.1, 5.0, 60.0):
        angle, distance = rng.uniform(0, 360, 300), rng.uniform(0, size, 300)
        ra, dec = offset_position(12.0, -56.0, angle, distance)
        assert ConvexPolygon.hull(ra, dec).contains(ra, dec).all()
