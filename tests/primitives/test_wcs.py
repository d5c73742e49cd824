"""Tests of coordinate transformations and their FITS headers (LDM-151 9.7)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skyquilt.primitives.component import from_state
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.fits_wcs import TPV_POWERS
from skyquilt.primitives.geometry import Box, angular_separation
from skyquilt.primitives.transforms import (
    Affine,
    Composed,
    Polynomial,
    RadialPolynomial,
    RadialTerms,
    evaluate_polynomials,
    evaluate_polynomials_with_derivatives,
    total_powers,
)
from skyquilt.primitives.wcs import Wcs

DEGREE_ARCSEC = 3600.0


@pytest.fixture
def rng():
    return np.random.default_rng(9)


def random_polynomial(rng, degree, size=0.02, centre=(2000.0, 1000.0), scale=(2000.0, 1500.0)):
    """Near the identity: each distortion term moves the border of the domain by up to `size` of it."""
    identity = Polynomial.identity(degree, centre, scale)
    extra = np.zeros_like(identity.coefficients)
    i, j = total_powers(degree, 2).T
    extra[:, i, j] = rng.uniform(-size, size, (2, len(i))) * scale[0] / max(len(i), 1)
    return Polynomial(identity.coefficients + extra, centre, scale)


def all_transforms(rng):
    affine = Affine([[0.01, 0.002], [-0.001, 0.011]], [-20.0, 5.0])
    polynomial = random_polynomial(rng, 5)
    radial = RadialPolynomial([2e-3, -3e-4, 5e-5], radius=2000.0, scale=17 / 3600, centre=(1900.0, 950.0))
    tpv = RadialTerms(
        random_polynomial(rng, 4, 0.01, (0, 0), (3000.0, 3000.0)),
        rng.uniform(-1, 1, (2, 4)) * [1e-3, 1e-10, 1e-17, 1e-24],
    )
    return [affine, polynomial, radial, tpv, Composed([polynomial, affine, Affine.rotation(33.0, 2.0)])]


NAMES = ["affine", "polynomial", "radial", "radial_terms", "composed"]


@pytest.mark.parametrize("which", range(5), ids=NAMES)
class TestEveryTransform:
    """One contract for all maps."""

    @pytest.fixture
    def transform(self, which, rng):
        return all_transforms(rng)[which]

    @pytest.fixture
    def points(self, rng):
        return rng.uniform(0, 4000, 300), rng.uniform(0, 2000, 300)

    def test_the_inverse_is_exact(self, transform, points):
        """There and back moves by less than 1e-9 pixel: rounding at 4000 pixels, no fit."""
        back = transform.inverse(*transform.forward(*points))
        assert_allclose(back, points, rtol=0, atol=1e-9)

    def test_the_jacobian_is_the_derivative(self, transform, points):
        """Central differences over +-1 pixel give the same derivatives."""
        x, y = points
        jacobian = transform.jacobian(x, y)
        for column, (dx, dy) in enumerate([(1.0, 0.0), (0.0, 1.0)]):
            high, low = transform.forward(x + dx, y + dy), transform.forward(x - dx, y - dy)
            difference = (np.array(high) - np.array(low)) / 2
            scale = np.abs(jacobian).max()
            # third derivatives: 0.02 of a term of degree 5 over 1500 pixels, squared
            assert_allclose(jacobian[:, :, column].T, difference, atol=2e-6 * scale)

    def test_shapes_follow_the_input(self, transform):
        """Scalars give scalars, (3, 1) and (4,) broadcast to (3, 4), also empty arrays pass."""
        assert np.ndim(transform.forward(100.0, 200.0)[0]) == 0
        assert np.ndim(transform.inverse(*transform.forward(100.0, 200.0))[0]) == 0
        u, v = transform.forward(np.zeros((3, 1)) + 500, np.arange(4.0) + 500)
        assert u.shape == v.shape == (3, 4)
        assert transform.inverse(u, v)[1].shape == (3, 4)
        assert transform.jacobian(np.zeros((3, 1)) + 500, np.arange(4.0) + 500).shape == (3, 4, 2, 2)
        assert transform.forward(np.zeros(0), np.zeros(0))[0].shape == (0,)
        assert transform.inverse(np.zeros(0), np.zeros(0))[0].shape == (0,)

    def test_nan_stays_nan_and_spoils_nothing_else(self, transform):
        """A target that is not finite gives NaN, its neighbours their solution."""
        u, v = transform.forward(np.array([100.0, 200.0]), np.array([300.0, 400.0]))
        x, _ = transform.inverse(np.append(u, np.nan), np.append(v, 0.0))
        assert_allclose(x[:2], [100, 200], atol=1e-9)
        assert np.isnan(x[2])

    def test_the_state_makes_an_equal_map(self, transform, points):
        """State and back: equal, and the same numbers to the bit."""
        again = from_state(transform.to_state())
        assert again == transform
        assert np.array_equal(again.forward(*points), transform.forward(*points))

    def test_different_maps_are_not_equal(self, transform, which, rng):
        """No map equals one of another kind or with another number."""
        assert transform != all_transforms(rng)[which - 1]
        assert transform != "something else"


@pytest.mark.parametrize("degree", [0, 1, 4, 9])
def test_the_kernels_agree_with_numpy(degree, rng):
    """Horner's rule against numpy's polyval2d, values and derivatives."""
    from numpy.polynomial.polynomial import polyder, polyval2d

    coefficients = np.zeros((2, degree + 1, degree + 1))
    i, j = total_powers(degree).T
    coefficients[:, i, j] = rng.normal(size=(2, len(i)))
    a, b = rng.uniform(-1, 1, (2, 50))
    out, jacobian = np.empty((2, 50)), np.empty((50, 2, 2))
    evaluate_polynomials_with_derivatives(coefficients, a, b, out, jacobian)
    plain = np.empty((2, 50))
    evaluate_polynomials(coefficients, a, b, plain)
    assert np.array_equal(plain, out)
    for axis in (0, 1):
        c = coefficients[axis]
        assert_allclose(out[axis], polyval2d(a, b, c), rtol=1e-12, atol=1e-12)
        assert_allclose(jacobian[:, axis, 0], polyval2d(a, b, polyder(c, axis=0)), rtol=1e-11, atol=1e-11)
        assert_allclose(jacobian[:, axis, 1], polyval2d(a, b, polyder(c, axis=1)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("degree", [1, 3, 9])
def test_a_fit_finds_the_polynomial_that_made_the_points(degree, rng):
    """Points without noise give back the map to rounding, on the domain of the points."""
    truth = random_polynomial(rng, degree)
    x, y = rng.uniform(0, 4000, 400), rng.uniform(0, 2000, 400)
    fitted = Polynomial.fit(x, y, *truth.forward(x, y), degree)
    inside_x, inside_y = rng.uniform(100, 3900, 100), rng.uniform(100, 1900, 100)
    assert_allclose(fitted.forward(inside_x, inside_y), truth.forward(inside_x, inside_y), rtol=0, atol=1e-7)


def test_a_weighted_fit_has_the_scatter_that_its_weights_promise(rng):
    """With weights 1/variance the residuals' chi^2 is that of points minus terms."""
    x, y = rng.uniform(-1, 1, (2, 2000))
    sigma = rng.uniform(0.01, 1.0, 2000)
    u, v = x + sigma * rng.normal(size=2000), y + sigma * rng.normal(size=2000)
    fitted = Polynomial.fit(x, y, u, v, 3, weights=sigma**-2)
    residual = np.array(fitted.forward(x, y)) - [u, v]
    freedom = 2 * (2000 - 10)
    # chi^2 has standard deviation sqrt(2 freedom); allow 4
    assert_allclose(np.sum((residual / sigma) ** 2), freedom, atol=4 * np.sqrt(2 * freedom))


def test_affine_fit_is_exact_for_affine_points(rng):
    """A rotation, scale and shift come back."""
    truth = Affine.rotation(200.0, 0.3).then(Affine(np.eye(2), (5, -7)))
    x, y = rng.uniform(0, 2000, (2, 50))
    fitted = Affine.fit(x, y, *truth.forward(x, y))
    assert_allclose(fitted.matrix, 0.3 * Affine.rotation(200.0).matrix, atol=1e-13)
    assert_allclose(fitted.offset, (5, -7), atol=1e-10)


def test_a_fit_that_the_points_do_not_determine_is_refused(rng):
    """Too few points, points on a line, or all at one place: ValueError rather than some solution."""
    x, y = rng.uniform(0, 1, (2, 5))
    with pytest.raises(ValueError, match="cannot determine the 6 terms"):
        Polynomial.fit(x, y, x, y, 2)
    line = np.linspace(0, 1, 50)
    with pytest.raises(ValueError, match="determine only"):
        Polynomial.fit(line, line, line, line, 2)
    with pytest.raises(ValueError, match="terms"):
        Polynomial.fit(np.ones(50), np.ones(50), line, line, 1)


def test_singular_maps_are_refused():
    """A matrix of rank one has no inverse; nor has a polynomial without linear part."""
    with pytest.raises(ValueError, match="singular"):
        Affine([[1, 2], [2, 4]])
    with pytest.raises(ValueError, match="singular"):
        Polynomial(np.zeros((2, 3, 3))).inverse(0.0, 0.0)
    with pytest.raises(ValueError, match="total power"):
        Polynomial(np.ones((2, 3, 3)))
    with pytest.raises(ValueError, match="finite"):
        Affine([[1, np.nan], [2, 4]])


def test_beyond_a_fold_there_is_no_inverse():
    """x + x^2 turns at x = -1/2: values below -1/4 have no preimage, and the far branch is not taken."""
    coefficients = np.zeros((2, 3, 3))
    coefficients[0, 1, 0] = coefficients[0, 2, 0] = coefficients[1, 0, 1] = 1.0
    x, y = Polynomial(coefficients).inverse([-0.24, -0.26, 2.0, -1e9], [0.0, 0.0, 0.0, 0.0])
    assert_allclose(x[0], -0.4, atol=1e-12)
    assert_allclose(x[2], 1.0, atol=1e-12)
    assert np.isnan(x[[1, 3]]).all()
    assert np.isnan(y[[1, 3]]).all()


def test_radial_distortion_turns_back_where_its_slope_vanishes():
    """r (1 - r^2) has its largest value at 1/sqrt(3); beyond it the inverse is NaN."""
    distortion = RadialPolynomial([-1.0])
    assert_allclose(distortion.turning_radius, 1 / np.sqrt(3), rtol=1e-12)
    top = distortion.forward(distortion.turning_radius, 0.0)[0]
    x, _ = distortion.inverse([0.0, 0.3, 0.999 * top, 1.001 * top], 0.0)
    assert_allclose(distortion.forward(x[:3], 0.0)[0], [0, 0.3, 0.999 * top], atol=1e-12)
    assert np.isnan(x[3])


def test_radial_distortion_is_its_formula(rng):
    """scale r (1 + c1 (r/R)^2 + c2 (r/R)^4) along the same direction."""
    distortion = RadialPolynomial([0.01, 0.002], radius=250.0, scale=0.005, centre=(1.0, 2.0))
    x, y = rng.uniform(-300, 300, (2, 100))
    r = np.hypot(x - 1, y - 2)
    factor = 0.005 * (1 + 0.01 * (r / 250) ** 2 + 0.002 * (r / 250) ** 4)
    assert_allclose(distortion.forward(x, y), [factor * (x - 1), factor * (y - 2)], rtol=1e-13)


def test_nested_chains_are_flat(rng):
    """Composed of Composed has the same layers in the same order."""
    a, b, c, *_ = all_transforms(rng)
    assert Composed([Composed([a, b]), c]).layers == (a, b, c)
    assert a.then(b).then(c) == Composed([a, b, c])


# ---------------------------------------------------------------------------------------------- Wcs


def camera_wcs(ra=150.0, dec=2.0, rotation=30.0, parity=1, rng=None):
    """A detector 60 mm off axis, 0.17 arcsec pixels, 1 % of distortion at 250 mm."""
    detector = Affine([[0.01, 0.0], [0.0, 0.01]], [40.0, -65.0])
    field = RadialPolynomial([0.01, 0.002], radius=250.0, scale=17.0 / 3600.0)
    perturbation = None if rng is None else random_polynomial(rng, 3, 1e-4, (60, -50), (20, 20))
    return Wcs.from_focal_plane(detector, field, ra, dec, rotation, parity, perturbation)


places = st.tuples(st.floats(0, 360, exclude_max=True), st.floats(-90, 90))


@settings(max_examples=60, deadline=None)
@given(places, st.floats(0, 360), st.sampled_from([-1, 1]))
def test_pixel_to_sky_and_back_is_exact_everywhere(place, rotation, parity):
    """Round trip below 1e-9 pixel (2e-10 arcsec) for boresights anywhere, poles and RA 0 included."""
    wcs = camera_wcs(*place, rotation, parity, np.random.default_rng(1))
    x, y = np.meshgrid(np.linspace(-0.5, 4095.5, 12), np.linspace(-0.5, 2047.5, 7))
    ra, dec = wcs.pixel_to_sky(x, y)
    assert np.all((ra >= 0) & (ra < 360) & (np.abs(dec) <= 90))
    back = np.array(wcs.sky_to_pixel(ra, dec))
    # RA near 360 deg is rounded to 2.8e-14 deg = 6e-10 pixel, once when put out and once when read
    assert np.abs(back - [x, y]).max() < 1.5e-9


def test_positions_behind_the_tangent_point_are_nan():
    """90 deg away and more there is no pixel."""
    wcs = camera_wcs(150, 2)
    x, y = wcs.sky_to_pixel([150.0, 330.0, 150.0], [2.0, -2.0, -89.0])
    assert np.isfinite(x[0])
    assert np.isnan(x[1:]).all()
    assert np.isnan(y[1:]).all()


@pytest.mark.parametrize(("parity", "sense"), [(1, -1), (-1, 1)])
def test_rotation_is_the_position_angle_of_y(parity, sense):
    """At the boresight +y points at the angle east of north; +x is west of it for parity +1."""
    wcs = Wcs.from_focal_plane(
        Affine.identity(), Affine(np.eye(2) * 0.2 / 3600), 10.0, 60.0, rotation_deg=25.0, parity=parity
    )
    jacobian = wcs.local_jacobian(0.0, 0.0)
    angle = np.radians(25.0)
    assert_allclose(jacobian[:, 1], 0.2 * np.array([np.sin(angle), np.cos(angle)]), atol=1e-14)
    assert_allclose(jacobian[:, 0], sense * 0.2 * np.array([np.cos(angle), -np.sin(angle)]), atol=1e-14)
    assert_allclose(wcs.rotation(0.0, 0.0), 25.0, atol=1e-10)


@pytest.mark.parametrize("dec", [2.0, -89.9, 89.99])
def test_the_local_jacobian_is_that_of_small_steps_on_the_sky(dec):
    """Steps of +-1/4 pixel, measured as separations to east and north, give the same derivatives."""
    wcs = camera_wcs(10.0, dec)
    x, y = np.array([0.0, 2000.0, 4000.0]), np.array([0.0, 900.0, 2000.0])
    jacobian = wcs.local_jacobian(x, y)
    ra0, dec0 = wcs.pixel_to_sky(x, y)
    from skyquilt.primitives.geometry import project_tangent

    for column, (dx, dy) in enumerate([(0.25, 0.0), (0.0, 0.25)]):
        high = np.array(project_tangent(*wcs.pixel_to_sky(x + dx, y + dy), ra0, dec0))
        low = np.array(project_tangent(*wcs.pixel_to_sky(x - dx, y - dy), ra0, dec0))
        # positions are rounded to 3e-14 deg, 1e-10 arcsec
        assert_allclose(jacobian[:, :, column].T, DEGREE_ARCSEC * (high - low) * 2, atol=1e-8)


def test_pixel_area_is_the_solid_angle_of_the_pixel():
    """The area of the polygon of a block of 100 x 100 pixels is the area of its middle pixel, times 1e4."""
    from skyquilt.primitives.geometry import ConvexPolygon

    wcs = camera_wcs()
    box = Box(3000, 1500, 100, 100)
    polygon = ConvexPolygon.from_sky(*wcs.pixel_to_sky(*box.corners()))
    area = float(wcs.pixel_area(*box.centre))
    # distortion changes by 1e-4 over the block, quadratically
    assert_allclose(polygon.area * DEGREE_ARCSEC**2, area * 1e4, rtol=1e-5)
    assert_allclose(wcs.pixel_scale(*box.centre) ** 2, area, rtol=1e-12)


@pytest.mark.parametrize("dec", [2.0, 85.0])
def test_pulls_of_propagated_errors_are_unit_normal(dec, rng):
    """Scattered pixels give sky positions whose scatter, on the sky, has the quoted covariance."""
    wcs = camera_wcs(359.9, dec, rotation=40.0)
    n = 20_000
    covariance = np.array([[0.09, 0.05], [0.05, 0.04]])
    x, y = np.array([[500.0], [1500.0]]) + np.linalg.cholesky(covariance) @ rng.normal(size=(2, n))
    ra, dec_found = wcs.pixel_to_sky(x, y)
    ra0, dec0 = wcs.pixel_to_sky(500.0, 1500.0)
    ra_err, dec_err, cov = wcs.sky_errors(500.0, 1500.0, 0.3, 0.2, 0.05)
    east = np.remainder(ra - ra0 + 180, 360) - 180
    east, north = east * np.cos(np.radians(dec_found)), dec_found - dec0
    quoted = np.array([[ra_err**2, cov], [cov, dec_err**2]])
    chi2 = np.einsum("in,ij,jn->n", [east, north], np.linalg.inv(quoted), [east, north])
    # mean of chi^2 with 2 degrees of freedom: 2 +- 2/sqrt(n); allow 4
    assert_allclose(chi2.mean(), 2.0, atol=4 * 2 / np.sqrt(n))
    assert_allclose((east / ra_err).var(), 1.0, atol=4 * np.sqrt(2 / n))
    assert_allclose((north / dec_err).var(), 1.0, atol=4 * np.sqrt(2 / n))


def test_sky_errors_broadcast():
    """Many positions with one error each, or one error for all."""
    wcs = camera_wcs()
    many = wcs.sky_errors(np.arange(5.0), np.arange(5.0), 0.1, 0.1)
    assert [each.shape for each in many] == [(5,)] * 3
    # square pixels, equal errors: the same in all directions but for the distortion of 1 %
    assert_allclose(many[0] * DEGREE_ARCSEC, 0.017, rtol=0.02)
    assert np.abs(many[2]).max() < 0.02 * many[0].max() ** 2


@pytest.mark.parametrize("place", [(0.0, 0.0), (200.0, 89.9), (30.0, -90.0)])
def test_the_polygon_of_a_box_holds_all_its_pixels(place, rng):
    """Also at curved edges, and exceeds the box by less than a pixel."""
    wcs = camera_wcs(*place, rng=rng)
    box = Box(0, 0, 4096, 2048)
    polygon = wcs.polygon(box)
    t = np.linspace(0, 1, 1001)
    (x, x_far, _, _), (y, _, y_far, _) = box.corners()
    edge_x = np.concatenate([x + t * (x_far - x), x + t * (x_far - x), 0 * t + x, 0 * t + x_far])
    edge_y = np.concatenate([0 * t + y, 0 * t + y_far, y + t * (y_far - y), y + t * (y_far - y)])
    assert polygon.contains(*wcs.pixel_to_sky(edge_x, edge_y)).all()
    corner_x, corner_y = wcs.sky_to_pixel(*polygon.corners)
    assert corner_x.min() > -2
    assert corner_x.max() < 4098
    assert corner_y.min() > -2
    assert corner_y.max() < 2050
    with pytest.raises(ValueError, match="no pixel"):
        wcs.polygon(Box(0, 0, 0, 5))


def test_shifted_and_corrected_chains(rng):
    """shifted moves the pixel frame, pointed_at the sky, then adds a map on the tangent plane."""
    wcs = camera_wcs()
    assert_allclose(wcs.shifted(10, 20).pixel_to_sky(110, 220), wcs.pixel_to_sky(100, 200), rtol=1e-15)
    moved = wcs.then(Affine(np.eye(2), (0.0, 1 / 3600)))
    assert_allclose(
        np.subtract(moved.pixel_to_plane(5, 5), wcs.pixel_to_plane(5, 5)), (0, 1 / 3600), atol=1e-15
    )
    assert wcs.pointed_at(20, -30) == camera_wcs(20, -30)
    assert wcs.pointed_at(20, -30) != wcs


def test_the_state_of_a_wcs_makes_an_equal_one(rng):
    """With all layers, perturbation included."""
    wcs = camera_wcs(rng=rng)
    again = from_state(wcs.to_state())
    assert again == wcs
    assert again.transform.layers == wcs.transform.layers
    assert wcs != camera_wcs()


# ------------------------------------------------------------------------------------ FITS headers


def astropy_sky(header, x, y):
    """Positions by astropy.wcs of 0-based pixels."""
    from astropy.io import fits
    from astropy.wcs import WCS, FITSFixedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        # through the 80 characters of the cards, as a file has them
        wcs = WCS(fits.Header.fromstring(fits.Header(header).tostring()))
    found = np.array(wcs.all_pix2world(x, y, 0))
    return found if wcs.wcs.lng == 0 else found[::-1]


def assert_same_reading(header, shape=(4000, 2000), arcsec=1e-6):
    """Our positions of a header's pixels agree with astropy's."""
    x, y = np.meshgrid(np.linspace(0, shape[0], 15), np.linspace(0, shape[1], 15))
    x, y = x.ravel(), y.ravel()
    ours = Wcs.from_fits_header(header).pixel_to_sky(x, y)
    apart = angular_separation(*ours, *astropy_sky(header, x, y))
    assert apart.max() * DEGREE_ARCSEC < arcsec


BASE = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.1,
    "CRVAL2": 2.2,
    "CRPIX1": 1000.5,
    "CRPIX2": 800.25,
}
CD = {"CD1_1": -5e-5, "CD1_2": 1e-6, "CD2_1": 2e-6, "CD2_2": 5e-5}
SIP = {
    "CTYPE1": "RA---TAN-SIP",
    "CTYPE2": "DEC--TAN-SIP",
    "A_ORDER": 3,
    "B_ORDER": 2,
    "A_2_0": 1e-6,
    "A_1_1": -3e-7,
    "A_0_3": 2e-10,
    "B_0_2": 2e-6,
    "B_1_1": 1e-7,
}


def pv_cards(highest, seed=3):
    """All TPV terms up to a number, radial terms included; each worth 1e-4 deg at 0.2 deg."""
    rng = np.random.default_rng(seed)
    radial = {3: 1, 11: 3, 23: 5, 39: 7}
    cards = {}
    for axis in (1, 2):
        for m in range(highest + 1):
            power = radial.get(m) or sum(TPV_POWERS[m])
            cards[f"PV{axis}_{m}"] = float(rng.uniform(-1e-4, 1e-4) / 0.2**power)
        cards[f"PV{axis}_1"] += 1.0
    return cards


HEADERS = {
    "tan-cd": BASE | CD,
    "tan-south-pole": BASE | CD | {"CRVAL2": -90.0},
    "tan-north-pole": BASE | CD | {"CRVAL2": 90.0},
    "tan-north-pole-lonpole": BASE | CD | {"CRVAL2": 90.0, "LONPOLE": 180.0},
    "tan-lonpole": BASE | CD | {"LONPOLE": 150.0},
    "tan-ra-0": BASE | CD | {"CRVAL1": 0.001},
    "cdelt": BASE | {"CDELT1": -5e-5, "CDELT2": 6e-5},
    "cdelt-crota": BASE | {"CDELT1": -5e-5, "CDELT2": 6e-5, "CROTA2": 33.0},
    "pc": BASE | {"CDELT1": -5e-5, "CDELT2": 6e-5, "PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8},
    "pc-partly": BASE | {"CDELT1": -5e-5, "CDELT2": 6e-5, "PC1_2": 0.1},
    "cd-partly": BASE | {"CD1_1": -5e-5, "CD2_2": 5e-5},
    "arcsec": BASE
    | {"CD1_1": -0.2, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.2, "CUNIT1": "arcsec", "CUNIT2": "arcsec"}
    | {"CRVAL1": 150.1 * 3600, "CRVAL2": 2.2 * 3600},
    "swapped": BASE
    | CD
    | {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 2.2, "CRVAL2": 150.1, "CD1_1": 5e-5},
    "sip": BASE | CD | SIP,
    "sip-with-leftover-pv": BASE | CD | SIP | pv_cards(7),
    "sip-type-without-coefficients": BASE | CD | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"},
    "tpv-10": BASE | CD | pv_cards(10) | {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"},
    "tpv-39": BASE | CD | pv_cards(39) | {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"},
    "scamp": BASE | CD | pv_cards(10),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_read_as_astropy_reads_them(name):
    """Every convention, to 1e-6 arcsec over the detector."""
    assert_same_reading(HEADERS[name])


@pytest.mark.parametrize("name", HEADERS)
def test_the_inverse_of_a_header_is_exact(name):
    """Sky to pixel of what a header says comes back to 1e-8 pixel, radial PV terms included."""
    wcs = Wcs.from_fits_header(HEADERS[name])
    x, y = np.meshgrid(np.linspace(0, 4000, 11), np.linspace(0, 2000, 11))
    # at a pole 1e-16 of the rounding of cos(90 deg) is added
    assert_allclose(wcs.sky_to_pixel(*wcs.pixel_to_sky(x, y)), [x, y], rtol=0, atol=1e-8)


def test_quirks_of_real_headers_are_tolerated():
    """Padding blanks, RADECSYS FK5 and numbers as text read the same; SIP without suffix is applied."""
    plain = Wcs.from_fits_header(HEADERS["tan-cd"])
    padded = HEADERS["tan-cd"] | {
        "CTYPE1": "RA---TAN          ",
        "CUNIT1": "deg               ",
        "CUNIT2": "degree ",
    }
    padded |= {"RADECSYS": "FK5               ", "EQUINOX": 2000, "CRVAL1": " 150.1", "CTYPE2": "dec--tan"}
    assert Wcs.from_fits_header(padded) == plain
    without_suffix = HEADERS["sip"] | {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
    assert Wcs.from_fits_header(without_suffix) == Wcs.from_fits_header(HEADERS["sip"])


def test_tpv_terms_that_are_missing_have_their_defaults():
    """The TPV registry: PVi_1 is 1 and the others 0, so that no PV cards mean no distortion."""
    bare = Wcs.from_fits_header(HEADERS["tan-cd"] | {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"})
    assert_allclose(
        bare.pixel_to_sky(3000, 200),
        Wcs.from_fits_header(HEADERS["tan-cd"]).pixel_to_sky(3000, 200),
        rtol=1e-15,
    )


def test_the_order_of_the_axes_does_not_matter():
    """TPV with DEC first reads the same (no comparison with wcslib, which mixes the PV axes up there)."""
    header = HEADERS["tpv-10"]
    renamed = {}
    for key, value in header.items():
        for old, new in (("CTYPE1", "CTYPE2"), ("CRVAL1", "CRVAL2"), ("CD1_", "CD2_"), ("PV1_", "PV2_")):
            key = key.replace(old, new) if old in key else key.replace(new, old) if new in key else key
        renamed[key] = value
    assert renamed["CTYPE1"] == "DEC--TPV"
    x, y = np.meshgrid(np.linspace(0, 4000, 5), np.linspace(0, 2000, 5))
    assert_allclose(
        Wcs.from_fits_header(renamed).pixel_to_sky(x, y),
        Wcs.from_fits_header(header).pixel_to_sky(x, y),
        rtol=1e-15,
    )


def test_the_first_pixel_can_lie_anywhere_in_the_parent_frame():
    """FITS pixel (1, 1) is parent pixel (x0, y0): positions move with it."""
    header = HEADERS["tpv-10"]
    cut = Wcs.from_fits_header(header, x0=100, y0=-50)
    assert_allclose(cut.pixel_to_sky(100, -50), Wcs.from_fits_header(header).pixel_to_sky(0, 0), rtol=1e-15)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"CTYPE1": "", "CTYPE2": ""}, Reason.NO_WCS, "CTYPE1"),
        ({"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"}, Reason.NO_WCS, "RA---SIN"),
        ({"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}, Reason.NO_WCS, "GLON-TAN"),
        ({"CTYPE2": "DEC--TPV"}, Reason.NO_WCS, "DEC--TPV"),
        ({"CRVAL1": None}, Reason.NO_WCS, "CRVAL1"),
        ({"CRVAL1": "ten"}, Reason.BAD_HEADER, "ten"),
        ({"CRPIX1": float("nan")}, Reason.BAD_HEADER, "CRPIX1"),
        ({"CRVAL2": 95.0}, Reason.BAD_HEADER, "declination"),
        ({"CUNIT1": "hour"}, Reason.BAD_HEADER, "hour"),
        ({"CD1_1": 0.0, "CD1_2": 0.0}, Reason.BAD_HEADER, "singular"),
        ({"RADESYS": "FK4"}, Reason.BAD_HEADER, "FK4"),
        ({"EQUINOX": 1950.0}, Reason.BAD_HEADER, "1950"),
        ({"A_ORDER": 12}, Reason.BAD_HEADER, "12"),
    ],
)
def test_headers_that_cannot_be_used_say_why(change, reason, words):
    """Expected trouble: a reason code, and what was found."""
    with pytest.raises(ProcessingFailure, match=words) as caught:
        Wcs.from_fits_header(HEADERS["tan-cd"] | change)
    assert caught.value.reason is reason


@pytest.mark.parametrize("kind", ["TAN", "TAN-SIP", "TPV"])
@pytest.mark.parametrize("place", [(150.0, 2.0), (0.0, -35.0), (40.0, 90.0), (10.0, 89.5)])
def test_the_residual_of_a_written_header_is_honest(kind, place, rng):
    """astropy, reading the header, is off by no more than the residual says, and by nearly as much."""
    wcs = camera_wcs(*place, rng=rng)
    box = Box(-30, 40, 4096, 2048)
    cards, residual = wcs.to_fits_header(box, kind)
    x, y = rng.uniform(box.x0 - 0.5, box.x1 - 0.5, 20_000), rng.uniform(box.y0 - 0.5, box.y1 - 0.5, 20_000)
    theirs = astropy_sky(cards, x - box.x0, y - box.y0)
    apart = angular_separation(*wcs.pixel_to_sky(x, y), *theirs) * DEGREE_ARCSEC * 1000
    # beyond the grid of the check a smooth residual grows by (1/53)^2; astropy's own rounding is 1e-6 mas
    assert apart.max() <= residual * 1.01 + 1e-5
    assert apart.max() >= 0.7 * residual - 1e-5
    if kind != "TAN":
        assert residual <= 1.0


@pytest.mark.parametrize("kind", ["TAN-SIP", "TPV"])
def test_a_tighter_tolerance_is_met_by_a_higher_degree(kind, rng):
    """1 mas and 0.001 mas are both reached where the distortion is smooth."""
    wcs = camera_wcs(rng=rng)
    box = Box(0, 0, 4096, 2048)
    loose, loose_residual = wcs.to_fits_header(box, kind, 1.0)
    tight, tight_residual = wcs.to_fits_header(box, kind, 1e-3)
    assert tight_residual <= 1e-3 < loose_residual <= 1.0
    assert len(tight) > len(loose)


def test_a_tolerance_that_cannot_be_met_is_reported(rng):
    """TAN cannot follow a distortion of arcseconds; the residual says so."""
    _, residual = camera_wcs(rng=rng).to_fits_header(Box(0, 0, 4096, 2048), "TAN", 1.0)
    assert residual > 100


def test_a_plain_tan_is_written_without_coefficients():
    """A Wcs without distortion is exact in any kind, also for a box far from its tangent point."""
    wcs = Wcs.tan((10.0, 20.0), (500.0, 400.0), np.array([[-1, 0], [0, 1]]) * 0.2 / 3600)
    for kind in ("TAN", "TAN-SIP", "TPV"):
        cards, residual = wcs.to_fits_header(Box(20_000, -8000, 1000, 800), kind)
        assert cards["CTYPE1"] == "RA---TAN"
        assert residual < 1e-6
        assert not any(key.startswith(("A_", "PV")) for key in cards)


def test_the_inverse_sip_polynomials_lead_back(rng):
    """AP, BP after astropy's linear part bring sky positions to their pixel within the tolerance."""
    from astropy.io import fits
    from astropy.wcs import WCS
    from numpy.polynomial.polynomial import polyval2d

    wcs = camera_wcs(rng=rng)
    cards, _ = wcs.to_fits_header(Box(0, 0, 4096, 2048), "TAN-SIP", 1.0)
    reader = WCS(fits.Header(cards))
    x, y = rng.uniform(0, 4095, 2000), rng.uniform(0, 2047, 2000)
    crpix = np.array([[cards["CRPIX1"]], [cards["CRPIX2"]]])
    u, v = np.array(reader.wcs_world2pix(*wcs.pixel_to_sky(x, y), 1)) - crpix
    order = cards["AP_ORDER"] + 1
    found = []
    for name, start in (("AP", u), ("BP", v)):
        table = [[cards.get(f"{name}_{i}_{j}", 0.0) for j in range(order)] for i in range(order)]
        found.append(start + polyval2d(u, v, np.array(table)))
    back = np.array(found) + crpix - 1
    # 1 mas for the way out, 1 mas for the way back on each axis; 170 mas a pixel
    assert np.hypot(*(back - [x, y])).max() * 170 < 1.0 + np.sqrt(2)


def test_kinds_and_boxes_that_make_no_sense_are_refused(rng):
    """An unknown kind, an empty box."""
    with pytest.raises(ValueError, match="ZPX"):
        camera_wcs().to_fits_header(Box(0, 0, 10, 10), "ZPX")
    with pytest.raises(ValueError, match="no pixel"):
        camera_wcs().to_fits_header(Box(0, 0, 0, 10))


def test_a_box_of_one_pixel_has_a_header():
    """Cutouts can be small."""
    for kind in ("TAN", "TAN-SIP", "TPV"):
        _, residual = camera_wcs().to_fits_header(Box(100, 200, 1, 1), kind)
        assert residual < 1e-3


def real_headers(shared_data, pattern, extension=0):
    """Headers of all real frames of a pattern; the test skips where there is none."""
    from astropy.io import fits

    paths = sorted(shared_data.glob(pattern))
    if not paths:
        pytest.skip(f"no {pattern} among the real frames")
    return [fits.getheader(path, extension) for path in paths]


def test_hsc_raw_headers_are_read_as_astropy_reads_them(shared_data):
    """TAN-SIP by name without coefficients, CUNIT 'degree', RADECSYS FK5."""
    for header in real_headers(shared_data, "hsc-v1180-astrometry/1180_?.fits"):
        assert_same_reading(header, (2048, 4176))


def test_nickel_raw_headers_are_read_as_astropy_reads_them(shared_data):
    """Values padded with blanks; the frames with a WCS are read, those without say so."""
    read = 0
    for header in real_headers(shared_data, "nickel-20240512/d10[0-5]*.fits.gz"):
        if "CTYPE1" in header:
            assert_same_reading(header, (1024, 1024))
            read += 1
        else:
            with pytest.raises(ProcessingFailure, match="CTYPE1"):
                Wcs.from_fits_header(header)
    assert read > 0


def test_tpv_headers_of_mosaic_cameras_are_read_as_astropy_reads_them(shared_data):
    """TPV of order 4 from the NOAO community pipeline, of order 3 from 90prime, without radial terms."""
    pattern = "legacysurvey-cutouts/mzlsbass*/images/**/*"
    for name in ("_ooi_*.fits", "deep2?_*-ccd?.fits"):
        for header in real_headers(shared_data, pattern + name, 1):
            assert_same_reading(header, (header["NAXIS1"], header["NAXIS2"]))
