"""Smooth surfaces (LDM-151 9.1.1)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from skyquilt.primitives.chebyshev import ChebyshevSurface
from skyquilt.primitives.component import from_state
from skyquilt.primitives.geometry import Box

BOX = Box(-7, 30, 23, 11)


def surface(ny=4, nx=3, seed=1):
    """A surface of random coefficients over BOX."""
    return ChebyshevSurface.over(BOX, np.random.default_rng(seed).normal(size=(ny, nx)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (4, 6)])
def test_grid_and_points_agree_with_numpy_polynomials(shape):
    """The kernels give numpy.polynomial's values to rounding, and each other's to the bit."""
    made = surface(*shape)
    y, x = np.mgrid[BOX.y0 : BOX.y0 + BOX.ny, BOX.x0 : BOX.x0 + BOX.nx].astype(float)
    u = (x - (BOX.x0 - 0.5)) / BOX.nx * 2 - 1
    v = (y - (BOX.y0 - 0.5)) / BOX.ny * 2 - 1
    grid = made.on_grid(BOX)
    np.testing.assert_allclose(grid, chebyshev.chebval2d(v, u, made.coefficients), rtol=0, atol=1e-13)
    np.testing.assert_array_equal(grid, made.evaluate(x, y))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 20), st.integers(0, 9), st.integers(1, 3), st.integers(1, 2))
def test_a_part_of_a_grid_has_the_bits_of_the_whole(x, y, nx, ny):
    """Values of a box do not depend on what else is evaluated."""
    made = surface(5, 6)
    part = Box(BOX.x0 + x, BOX.y0 + y, nx, ny)
    np.testing.assert_array_equal(made.on_grid(part), made.on_grid(BOX.grown(5))[part.slices(BOX.grown(5))])


def test_interpolating_a_polynomial_gives_it_back():
    """A polynomial of the orders asked for is found to rounding."""
    made = surface(3, 5)
    again = ChebyshevSurface.interpolating(made.evaluate, made.orders, made.domain)
    np.testing.assert_allclose(again.coefficients, made.coefficients, rtol=0, atol=1e-13)


def test_mean_is_the_integral_over_the_domain():
    """Gauss-Legendre quadrature, exact for the polynomial, gives the same mean."""
    made = surface(5, 4)
    nodes, weights = np.polynomial.legendre.leggauss(6)
    x = (nodes + 1) / 2 * BOX.nx + BOX.x0 - 0.5
    y = (nodes + 1) / 2 * BOX.ny + BOX.y0 - 0.5
    values = made.evaluate(*np.meshgrid(x, y))
    np.testing.assert_allclose(made.mean, weights @ values @ weights / 4, rtol=0, atol=1e-13)


def test_state_gives_the_surface_back():
    """Coefficients and domain survive."""
    assert from_state(surface().to_state()) == surface()


@pytest.mark.parametrize(("coefficients", "x_max"), [([[np.nan]], 1), ([[[1]]], 1), ([[1]], -1)])
def test_senseless_surfaces_are_refused(coefficients, x_max):
    """NaN coefficients, a third dimension and an empty domain are errors."""
    with pytest.raises(ValueError):
        ChebyshevSurface(coefficients, 0, x_max, 0, 1)
