"""Normal equations with detectors eliminated, and what is made of them, against dense twins."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.algorithms.astrometric_fitting.correlation import (
    Correlation,
    correlated_products,
    correlation_of,
    make_cells,
)
from skyquilt.algorithms.astrometric_fitting.focal_plane import Pointing
from skyquilt.algorithms.astrometric_fitting.normal_equations import accumulate, solve
from skyquilt.algorithms.astrometric_fitting.scatter import intrinsic_variance, squared_pulls
from skyquilt.algorithms.astrometric_fitting.terms import DetectorTerms, PriorWidths, VisitTerms
from skyquilt.algorithms.astrometric_fitting.visit_astrometry import full_covariance


def dense(visit, local, row, n_detector):
    """The whole design, (2 n, p + d q)."""
    n, _, p = visit.shape
    q = local.shape[2]
    whole = np.zeros((n, 2, p + n_detector * q))
    whole[:, :, :p] = visit
    for k in range(n):
        whole[k, :, p + row[k] * q : p + (row[k] + 1) * q] = local[k]
    return whole.reshape(2 * n, -1)


@pytest.mark.parametrize("q", [0, 3])
def test_solution_equals_the_dense_twin(q):
    """Parameters and covariances, for detectors with and without stars."""
    rng = np.random.default_rng(1)
    row = np.sort(rng.choice([0, 1, 3], 40))
    visit, local, residual = (
        rng.normal(size=(40, 2, 5)),
        rng.normal(size=(40, 2, q)),
        rng.normal(size=(40, 2)),
    )
    precision, own = rng.uniform(0.5, 2, 5), rng.uniform(0.5, 2, q)
    solved = solve(accumulate(visit, local, residual, row, 4), precision, own)
    whole = dense(visit, local, row, 4)
    matrix = whole.T @ whole + np.diag(np.r_[precision, np.tile(own, 4)])
    expected = np.linalg.solve(matrix, whole.T @ residual.ravel())
    assert_allclose(np.r_[solved.visit, solved.local.ravel()], expected, rtol=1e-9, atol=1e-12)
    covariance = np.linalg.inv(matrix)
    assert_allclose(full_covariance(solved), covariance, rtol=1e-9, atol=1e-12)
    for d, own_covariance in enumerate(solved.of_detectors()):
        at = np.r_[np.arange(5), 5 + d * q + np.arange(q)]
        assert_allclose(own_covariance, covariance[np.ix_(at, at)], rtol=1e-9, atol=1e-12)


def test_terms_are_derivatives_of_the_map():
    """Design of the visit's and the detectors' terms against differences of the composed map."""
    widths = PriorWidths()
    terms, own = VisitTerms(900.0, widths), DetectorTerms(0.01, widths)
    rng = np.random.default_rng(2)
    plane = rng.uniform(-600, 600, (20, 2))
    design = terms.design(plane, np.arange(terms.count))
    for k in range(terms.count):
        unit = np.zeros(terms.count)
        unit[k] = 1.0
        moved = np.column_stack(terms.correction(unit).forward(*plane.T / 3600)) * 3600
        assert_allclose(moved - plane, design[:, :, k], atol=1e-8)
    mm, centre = rng.uniform(-10, 10, (20, 2)), np.array([1.0, -2.0])
    slope = np.broadcast_to(20.0 * Pointing(0, 0, 30.0).orientation.matrix, (20, 2, 2))
    design = own.design(mm, np.broadcast_to(centre, (20, 2)), slope)
    for k in range(6):
        unit = np.zeros(6)
        unit[k] = 1.0
        moved = np.column_stack(own.perturbation(unit, centre).forward(*mm.T)) - mm
        assert_allclose(np.einsum("nij,nj->ni", slope, moved), design[:, :, k], atol=1e-9)


def test_scatter_comes_back():
    """Errors of all sizes and 7 mas of scatter: within 5 sigma, one part in sqrt(4 n) by information of n stars."""
    rng = np.random.default_rng(3)
    n = 4000
    errors = rng.choice([0.001, 0.01, 0.05], n)
    residual = rng.normal(size=(n, 2)) * np.hypot(errors, 0.007)[:, None]
    covariance = errors[:, None, None] ** 2 * np.eye(2)
    none = np.zeros_like(covariance)
    useful = np.sum((0.007**2 / (0.007**2 + errors**2)) ** 2)
    found = np.sqrt(intrinsic_variance(residual, covariance, none))
    # clipping at 9 costs some of the information
    assert abs(found / 0.007 - 1) < 5 * 1.2 / np.sqrt(4 * useful)
    # errors larger than the residuals: no scatter
    assert intrinsic_variance(residual, covariance + 0.1 * np.eye(2), none) == 0
    assert intrinsic_variance(residual[:0], covariance[:0], none[:0], 1e-6) == 1e-6


def test_squared_pulls_equal_the_definition():
    """r^T C^-1 r."""
    rng = np.random.default_rng(4)
    a = rng.normal(size=(30, 2, 2))
    covariance, residual = a @ a.swapaxes(1, 2) + np.eye(2), rng.normal(size=(30, 2))
    expected = [r @ np.linalg.inv(c) @ r for r, c in zip(residual, covariance)]
    assert_allclose(squared_pulls(residual, covariance), expected, rtol=1e-12)


def test_correlated_products_equal_the_sum_over_pairs():
    """Cells of a third of the correlation length: to 3 % of the largest entry."""
    rng = np.random.default_rng(5)
    n = 600
    visit, local = rng.uniform(0.5, 1.5, (n, 2, 3)), rng.uniform(0.5, 1.5, (n, 2, 2))
    plane, row = rng.uniform(-300, 300, (n, 2)), np.sort(rng.integers(0, 3, n))
    correlation = Correlation(2.0, 150.0, 2)
    distance = np.hypot(*(plane[:, None] - plane).transpose(2, 0, 1))
    kernel = correlation.between(distance) - 1.5 * np.eye(n)
    whole = dense(visit, local, row, 3).reshape(n, 2, -1)
    expected = sum(whole[:, axis].T @ kernel @ whole[:, axis] for axis in range(2))
    found = correlated_products(visit, local, row, 3, plane, correlation, 1.5)
    assert_allclose(found, expected, atol=0.03 * expected.max())
    assert not correlated_products(visit, local, row, 3, plane, Correlation(0.0, 150.0), 1.5).any()


def test_correlation_is_found_though_the_fit_follows_it():
    """Variance and length of a smooth field, to a factor of 1.5 each, in the mean of the logarithms of eight fields."""
    found = []
    for seed in range(8):
        rng = np.random.default_rng([6, seed])
        plane = rng.uniform(-600, 600, (800, 2))
        k, phase = rng.normal(0, 1 / 100, (100, 2)), rng.uniform(0, 2 * np.pi, (100, 2))
        field = 0.005 * np.sqrt(2 / 100) * np.cos((plane @ k.T)[..., None] + phase).sum(axis=1)
        residual = field + rng.normal(0, 0.003, (800, 2))
        result = correlation_with_a_cubic(residual, plane, 0.004)
        found.append((result.variance / 0.005**2, result.length / 100.0))
    middle = np.exp(np.mean(np.log(found), axis=0))
    assert np.all((middle > 1 / 1.5) & (middle < 1.5))


def test_white_residuals_have_no_correlation():
    """Nothing but independent errors: less than a tenth of their variance is taken for correlated."""
    rng = np.random.default_rng(7)
    plane = rng.uniform(-600, 600, (1000, 2))
    assert correlation_with_a_cubic(rng.normal(0, 0.004, (1000, 2)), plane, 0.002).variance < 0.1 * 0.004**2


def correlation_with_a_cubic(residual, plane, scatter):
    """The correlation found beside terms of the visit up to the third degree, with errors of 3 mas."""
    terms = VisitTerms(900.0, PriorWidths(), 3)
    design = terms.design(plane, np.arange(terms.count))
    row = (plane[:, 0] > 0) + 2 * (plane[:, 1] > 0)
    spread = np.full(len(plane), 0.003**2 + scatter**2)
    cells = make_cells(residual, design, design[:, :, :0], plane, row, spread)
    return correlation_of(cells, np.ones(terms.count), np.zeros(0), scatter, 900.0)
