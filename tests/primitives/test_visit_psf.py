"""The PSF of a detector of a visit, and the functions that it is made of."""

import subprocess
import sys
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.primitives.component import State, from_state
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.kernels import polynomial_terms
from skyquilt.primitives.profile_basis import ProfileBasis, coarse_splines, profile_values, spline_values
from skyquilt.primitives.psf import MoffatPsf
from skyquilt.primitives.visit_psf import VisitPsf

BOX = Box(100, 50, 1000, 800)


def moffat_coefficients(basis, fwhm, e2=0.0):
    """Least squares of a Moffat profile of exponent 2.5, with a little of cos 2 theta."""
    t = np.linspace(0, basis.n_interval, 400)
    q = np.expm1(t * basis.step)
    core2 = (0.5 * fwhm) ** 2 / (2 ** (1 / 2.5) - 1)
    profile = 1.5 / (np.pi * core2) * (1 + q * basis.scale**2 / core2) ** -2.5
    splines = spline_values(t, basis.n_interval)
    found = np.zeros((basis.n_radial, basis.n_harmonic))
    weight = (1 + q) ** (11 / 6)
    found[:, 0] = np.linalg.lstsq(splines, profile * weight, rcond=None)[0]
    found[:, 3] = e2 * found[:, 0]
    return found.ravel()


def make(fwhm=3.5, degree=2, seed=1, **changes):
    basis = ProfileBasis(0.5 * fwhm, 5 * fwhm, 10, 4)
    rng = np.random.default_rng(seed)
    n_term = (degree + 1) * (degree + 2) // 2
    coefficients = np.array(
        [0.02 * rng.normal() * moffat_coefficients(basis, fwhm, 1.0) for _ in range(n_term)]
    )
    coefficients[0] = moffat_coefficients(basis, fwhm, 0.05)
    frame = np.array([[0.0, -1.0], [1.0, 0.0]])
    size = 2 * int(4 * fwhm) + 1
    return VisitPsf(basis, coefficients, BOX, size, frame, **changes)


def test_derivatives_and_smoothness_of_the_basis():
    """Derivatives are those of differences, inside the join and beyond; values are smooth at the origin."""
    basis = ProfileBasis(1.3, 9.0, 14, 4, 3.2)
    rng = np.random.default_rng(0)
    coefficients, h = rng.normal(size=basis.size), 1e-5
    u, v = rng.uniform(-15, 15, (2, 300))
    found = np.empty((300, 3))
    profile_values(coefficients, basis.numbers, u, v, found)
    along = (basis.values(coefficients, u + h, v) - basis.values(coefficients, u - h, v)) / (2 * h)
    across = (basis.values(coefficients, u, v + h) - basis.values(coefficients, u, v - h)) / (2 * h)
    # rounding over the step, 1e-16 / 1e-5, times values of order 1
    assert_allclose(found[:, 1:], np.array([along, across]).T, atol=1e-8)
    around = basis.values(coefficients, 1e-9 * np.cos(np.arange(8)), 1e-9 * np.sin(np.arange(8)))
    assert np.ptp(around) < 1e-7


def test_wing_is_the_power_law_and_integrals_are_right():
    """Beyond the join r^-slope; the flux of the round functions is that of a sum over a plane with its tail."""
    basis = ProfileBasis(1.5, 8.0, 8, 2, 3.4)
    coefficients = moffat_coefficients(basis, 3.0)
    r = np.array([9.0, 20.0, 300.0])
    assert_allclose(basis.values(coefficients, r, 0) * r**3.4, basis.values(coefficients, 9.0, 0.0) * 9**3.4)
    u, v = np.meshgrid(*[np.arange(-60, 60.1, 0.5)] * 2)
    inside = np.hypot(u, v) < 60
    total = 0.25 * basis.values(coefficients, u, v)[inside].sum()
    edge = basis.values(coefficients, 60.0, 0.0)
    tail = 2 * np.pi * edge * 60**2 / 1.4
    rows = coefficients.reshape(basis.n_radial, -1)[:, 0]
    # pixels at the rim of the circle: its length times the brightness there and the step
    assert basis.radial(0) @ rows == pytest.approx(total + tail, abs=2 * np.pi * 60 * 0.5 * edge)


def test_coarse_splines_are_in_the_fine_ones():
    """The two-scale relation is exact."""
    t = np.linspace(0, 10, 500)
    assert_allclose(spline_values(t, 10) @ coarse_splines(10), spline_values(t / 2, 5), atol=1e-14)


@pytest.mark.parametrize(("fwhm", "error"), [(2.5, 2e-3), (3.5, 3e-4), (6.0, 3e-4)])
def test_tables_are_the_functions(fwhm, error):
    """Stamps from tables equal the functions themselves, to a share of the peak that the sampling leaves
    (quintic splines at 2 samples a pixel, or 1 from a FWHM of 4.8)."""
    psf = make(fwhm)
    for x, y in [(310.3, 400.7), (100.5, 50.49), (1099.0, 849.0), (-20.0, 3000.0)]:
        stamp = psf.image_at(x, y)
        plain = psf.light_in(x, y, stamp.box)
        assert_allclose(stamp.array, plain / plain.sum(), atol=error * plain.max())
        assert stamp.array.sum() == pytest.approx(1)
        assert psf.share_at(x, y) == pytest.approx(plain.sum(), abs=error)


def test_polynomials_are_held_at_the_border():
    """Inside, the terms of `polynomial_terms`; beyond, the value on the border."""
    psf = make(degree=3)
    inside = psf.coefficients_at(333.3, 222.2)
    terms = polynomial_terms(333.3, 222.2, 3, BOX)
    assert_allclose(inside, terms @ psf.coefficients, rtol=1e-12)
    assert_array_equal(psf.coefficients_at(5000.0, 222.2), psf.coefficients_at(1099.5, 222.2))


def test_many_places_at_once_are_each_alone():
    """`images_at` gives the bits of `image_at`."""
    psf = make()
    x, y = np.random.default_rng(3).uniform(100, 800, (2, 20))
    stamps = psf.images_at(x, y)
    assert_array_equal(stamps, [psf.image_at(a, b).array for a, b in zip(x, y)])
    assert psf.images_at(np.empty(0), np.empty(0)).shape == (0, psf.size, psf.size)
    with pytest.raises(ValueError, match="finite"):
        psf.images_at(np.array([np.nan]), np.array([1.0]))


def test_moments_are_those_of_the_profile():
    """A frame that turns by 90 degrees turns the shape; the centre is on the pixel that covers the place."""
    psf = make(degree=0)
    upright = VisitPsf(psf.basis, psf.coefficients, BOX, psf.size, np.eye(2))
    found, other = psf.moments_at(300.2, 200.6), upright.moments_at(300.2, 200.6)
    assert (found.xx, found.yy) == pytest.approx((other.yy, other.xx), rel=1e-9)
    assert (found.x, found.y) == pytest.approx((300, 201), abs=1e-9)
    round_one = VisitPsf(psf.basis, moffat_coefficients(psf.basis, 3.5), BOX, 41, np.eye(2))
    true = MoffatPsf(3.5, 2.5, size=41).moments_at(0, 0)
    # the Moffat there has the pixel's 1/12 in either direction besides
    assert round_one.moments_at(0, 0).trace == pytest.approx(true.trace - 1 / 6, rel=0.02)


def test_colour_changes_the_constant_term():
    """At the zero colour and where the colour is unknown the PSF is the plain one."""
    change = 0.05 * moffat_coefficients(ProfileBasis(1.75, 17.5, 10, 4), 3.5, 1.0)
    psf = make(chromatic=change, colour=0.5, colour_zero=0.5)
    plain = make()
    assert_array_equal(psf.kernel_at(200, 300), plain.kernel_at(200, 300))
    assert psf.at_colour(np.nan) == psf
    red = psf.at_colour(2.5)
    assert_allclose(red.coefficients_at(200, 300) - plain.coefficients_at(200, 300), 2 * change, atol=1e-15)


def test_state_comes_back_equal():
    """Every field survives, and the stamps have the same bits."""
    psf = make(chromatic=np.ones(13 * 9) * 1e-5, colour=1.0, colour_zero=0.5, n_stars=7, from_visit=True)
    again = from_state(State(psf.kind, psf.to_state().meta, psf.to_state().arrays))
    assert again == psf
    assert (again.n_stars, again.from_visit, again.colour) == (7, True, 1.0)
    assert_array_equal(again.image_at(300.3, 200.1).array, psf.image_at(300.3, 200.1).array)


@pytest.mark.parametrize(
    "change",
    [
        {"coefficients": np.full((1, 117), np.nan)},
        {"coefficients": np.zeros((2, 117))},
        {"coefficients": np.zeros((1, 9))},
        {"size": 4},
        {"frame": np.zeros((2, 2))},
        {"chromatic": np.zeros(3)},
    ],
)
def test_nonsense_is_refused(change):
    """Shapes, numbers and sizes that make no PSF raise ValueError."""
    psf = make()
    fields = {name: getattr(psf, name) for name in ("basis", "coefficients", "box", "size", "frame")}
    with pytest.raises(ValueError):
        VisitPsf(**{**fields, **change})


def test_a_place_costs_little():
    """A stamp of 29 pixels takes less than 50 microseconds of CPU in a batch (best of five: others work here)."""
    psf = make(degree=4)
    x, y = np.random.default_rng(3).uniform(100, 800, (2, 400))
    psf.images_at(x[:1], y[:1])
    costs = []
    for _ in range(5):
        begin = time.process_time()
        psf.images_at(x, y)
        costs.append(time.process_time() - begin)
    assert min(costs) / 400 < 50e-6


@pytest.mark.parametrize("module", ["visit_psf", "psf", "component"])
def test_the_kind_is_known_whatever_is_imported_first(module):
    """A reader of PSFs finds this one without importing its module."""
    code = f"import skyquilt.primitives.{module}; from skyquilt.primitives.component import registered_kinds as k; "
    code += "assert 'visit_psf' in k()"
    subprocess.run([sys.executable, "-c", code], check=True)
