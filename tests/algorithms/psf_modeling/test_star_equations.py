"""Kernels of the PSF fit against plain twins."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.algorithms.psf_modeling.profile_space import centroid_of, flux_of, profile_space
from skyquilt.algorithms.psf_modeling.spatial_variation import (
    Accumulated,
    NormalEquations,
    degree_for,
    prior_groups,
    term_degrees,
)
from skyquilt.algorithms.psf_modeling.star_equations import N_SCALARS, star_equations
from skyquilt.algorithms.psf_modeling.star_moments import gaussian_star, moment_residuals
from skyquilt.algorithms.psf_modeling.star_stamps import cut_stamps, sky_variance, usable_pixels
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.profile_basis import ProfileBasis
from skyquilt.primitives.psf import adaptive_moments

BASIS = ProfileBasis(1.8, 12.0, 8, 2)
SIDE = 23


@pytest.fixture
def space():
    return profile_space(BASIS, 1.6, 3.6)


def functions(u, v):
    """All functions of the basis at places (n,), each by itself."""
    return np.array([BASIS.values(row, u, v) for row in np.eye(BASIS.size)]).T


def one_star(space, rng):
    frame = np.array([[0.9, 0.2], [-0.1, 1.1]])
    coefficients = space.base + space.changes @ rng.normal(0, 0.05, space.n_change)
    star = np.array([5e4, 0.3, -0.4, 0.01, 0.003, 0.02])
    noise = np.array([100.0, 1.2, 0.01])
    image = rng.normal(20, 30, (SIDE, SIDE)).astype(np.float32)
    image[8:15, 8:15] += 2000
    return frame, coefficients, star, noise, image, rng.random((SIDE, SIDE)) > 0.1


def test_star_equations_are_those_of_the_definition(space, rng):
    """Matrix, columns and sums equal those of a plain least-squares set-up, to rounding of float64."""
    frame, coefficients, star, noise, image, good = one_star(space, rng)
    matrix, columns = np.empty((BASIS.size, BASIS.size)), np.empty((BASIS.size, 3))
    scalars, layers = np.empty(N_SCALARS), np.empty((3, SIDE, SIDE))
    star_equations(
        image, good, star, noise, frame, coefficients, BASIS.numbers, True, matrix, columns, scalars, layers
    )
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2

    def profile(sx, sy):
        u, v = np.einsum("ij,jkl->ikl", frame, np.array([x - sx, y - sy]))
        return BASIS.values(coefficients, u, v)

    middle, h = profile(star[1], star[2]), 1e-5
    slope_x = (profile(star[1] - h, star[2]) - profile(star[1] + h, star[2])) / (2 * h)
    slope_y = (profile(star[1], star[2] - h) - profile(star[1], star[2] + h)) / (2 * h)
    light = star[0] * middle
    variance = noise[0] + noise[1] * np.maximum(light, 0) + (noise[2] * light) ** 2
    residual = image - light
    weight = np.where(good, 1 / variance, 0)
    xx, yy, xy = (np.zeros_like(middle) for _ in range(3))
    xx[:, 1:-1] = np.diff(middle, 2, axis=1)
    yy[1:-1] = np.diff(middle, 2, axis=0)
    diagonal = middle[2:, 2:] - middle[2:, :-2] - middle[:-2, 2:] + middle[:-2, :-2]
    xy[1:-1, 1:-1] = diagonal / 4
    bent = 0.5 * star[0] * (star[3] * xx + 2 * star[4] * xy + star[5] * yy)
    bent[0], bent[-1], bent[:, 0], bent[:, -1] = 0, 0, 0, 0
    corrected = residual + bent
    places = np.einsum("ij,jn->in", frame, np.array([(x - star[1]).ravel(), (y - star[2]).ravel()]))
    design = functions(*places)
    w = weight.ravel()
    assert_allclose(matrix, design.T @ (w[:, None] * design), rtol=1e-9, atol=1e-12 * matrix.max())
    wanted = np.array([slope_x.ravel(), slope_y.ravel(), corrected.ravel()]).T
    assert_allclose(columns, design.T @ (w[:, None] * wanted), rtol=1e-5, atol=1e-7 * np.abs(columns).max())
    pairs = [
        (slope_x, slope_x),
        (slope_x, slope_y),
        (slope_y, slope_y),
        (slope_x, corrected),
        (slope_y, corrected),
    ]
    pairs += [(residual, residual), None, None]
    pairs += [(middle, middle), (middle, slope_x), (middle, slope_y), (middle, corrected)]
    for found, pair in zip(scalars, pairs):
        if pair is not None:
            product = weight * pair[0] * pair[1]
            assert found == pytest.approx(product.sum(), rel=1e-6, abs=1e-7 * np.abs(product).sum())
    assert scalars[6] == good.sum()
    assert scalars[7] == pytest.approx((middle**2)[good].sum() / (middle**2).sum())
    assert_allclose(layers, [middle, np.where(good, residual, 0), variance], rtol=1e-10)


def test_moment_residuals_are_what_adaptive_moments_find(space, rng):
    """Adding a small residual moves the adaptive moments of the stamp by what is said, to second order (the
    residual is 1e-4 of the peak); errors are the scatter over 2000 draws of noise, to 3 sigma of a width."""
    frame, coefficients, star, noise, image, _ = one_star(space, rng)
    good = np.ones((SIDE, SIDE), bool)
    scalars, layers = np.empty(N_SCALARS), np.empty((3, SIDE, SIDE))
    matrix, columns = np.empty((BASIS.size, BASIS.size)), np.empty((BASIS.size, 3))
    star_equations(
        image, good, star, noise, frame, coefficients, BASIS.numbers, False, matrix, columns, scalars, layers
    )
    before = adaptive_moments(layers[0])
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    bump = layers[0].max() * 1e-4 * np.exp(-((x - star[1]) ** 2 / 6 + (y - star[2]) ** 2 / 3))
    after = adaptive_moments(layers[0] + bump)
    layers[1] = star[0] * bump
    found = np.empty(7)
    where = star[0], before.x - SIDE // 2, before.y - SIDE // 2
    assert moment_residuals(layers, good, *where, 1.6, found) == 0
    assert found[0] == pytest.approx(before.trace, rel=1e-5)
    moved = [after.trace / before.trace - 1, after.e1 - before.e1, after.e2 - before.e2]
    assert_allclose(found[1:4], moved, atol=2e-3 * np.abs(moved).max())
    draws = np.empty((2000, 7))
    for k in range(2000):
        layers[1] = rng.normal(size=(SIDE, SIDE)) * np.sqrt(layers[2])
        moment_residuals(layers, good, *where, 1.6, draws[k])
    assert_allclose(draws[:, 1:4].std(axis=0) / draws[0, 4:], 1, atol=3 / np.sqrt(4000))


def test_gaussian_star_finds_the_adaptive_moments(space, rng):
    """First looks agree with the plain adaptive moments; a bad pixel is replaced by its opposite."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    image = 1e4 * BASIS.values(space.base, x - 0.3, 1.2 * (y + 0.2)).astype(np.float32)
    good, found = np.ones((SIDE, SIDE), bool), np.empty(6)
    plain = adaptive_moments(image)
    for _ in range(2):
        assert gaussian_star(image, good, 0.0, 0.0, 2.5, found) == 0
        assert_allclose(
            found[:3], [plain.flux, plain.x - SIDE // 2, plain.y - SIDE // 2], rtol=2e-2, atol=0.02
        )
        assert_allclose(found[3:], [plain.xx, plain.yy, plain.xy], rtol=2e-2, atol=0.02)
        good[SIDE // 2 + 3, SIDE // 2] = False
        image[~good] = 1e6
    assert gaussian_star(np.zeros_like(image), good, 0.0, 0.0, 2.0, found) == 1


def test_profiles_of_the_space_have_unit_flux_and_are_centred(space, rng):
    """For any coefficients, to rounding: flux 1 and no first moments, by the integrals and by a fine sum."""
    for _ in range(5):
        profile = space.base + space.changes @ rng.normal(0, 0.2, space.n_change)
        assert flux_of(BASIS, profile) == pytest.approx(1, abs=1e-12)
        assert_allclose(centroid_of(BASIS, profile, 1.6), 0, atol=1e-12)
    grid = np.arange(-40, 40.1, 0.4)
    u, v = np.meshgrid(grid, grid)
    weighted = 0.16 * BASIS.values(profile, u, v) * np.exp(-(u**2 + v**2) / (2 * 1.6**2))
    assert abs((weighted * u).sum()) < 1e-6
    assert abs((weighted * v).sum()) < 1e-6


def test_accumulated_equations_are_those_of_all_stars(rng):
    """The solution is that of the plain stacked system with the same prior; widths that are found make the
    coefficients of silent groups vanish and leave those of loud ones."""
    n, n_term, m = 40, 3, 4
    values = np.column_stack([np.ones(n), rng.uniform(-1, 1, (n, 2))])
    designs = rng.normal(size=(n, 30, m))
    true = np.array([[1.0, -2, 0.5, 3], [2, -2, 0, 0], [1, 1, 0, 0]])
    data = np.einsum("npm,nm->np", designs, values @ true) + rng.normal(size=(n, 30))
    equations = NormalEquations(
        np.einsum("npa,npb->nab", designs, designs), np.einsum("npa,np->na", designs, data)
    )
    sums = Accumulated(n_term, m)
    sums.add(values[:15], NormalEquations(equations.matrix[:15], equations.gradient[:15]))
    sums.add(values[15:], NormalEquations(equations.matrix[15:], equations.gradient[15:]))
    expected = np.full((n_term, m), 0.7)
    found, _ = sums.solve(np.zeros((n_term, m)), expected, np.full((n_term, m), -1))
    stacked = np.einsum("nt,npm->nptm", values, designs).reshape(-1, n_term * m)
    plain = np.linalg.solve(stacked.T @ stacked + np.eye(n_term * m) / 0.49, stacked.T @ data.ravel())
    assert_allclose(found.ravel(), plain, rtol=1e-8)
    groups = prior_groups(term_degrees(1), np.array([0, 0, 1, 1]))
    found, width = sums.solve(np.zeros((n_term, m)), expected, groups, rounds=30)
    assert (width[1:, :2] > 1).all()
    assert (width[1:, 2:] < 0.1).all()
    assert (width[0] == 0.7).all()
    # errors of a coefficient: 30 * 40 rows and a mean square of its term of 1/3
    assert_allclose(found, true, atol=5 / np.sqrt(30 * 40 / 3))


@pytest.mark.parametrize(
    ("n", "degree"), [(0, -1), (1, -1), (2, 0), (5, 0), (6, 1), (12, 2), (20, 3), (900, 4)]
)
def test_degree_follows_the_number_of_stars(n, degree):
    """Two stars per term, up to the most."""
    assert degree_for(n, 2.0, 4) == degree


def test_variance_comes_from_the_relation_with_the_image(rng):
    """Sky and variance per unit of light are found from pixels that carry their own noise."""
    light = np.zeros((61, 61))
    light[20:41, 20:41] = 3000
    image = light + rng.normal(size=light.shape) * np.sqrt(200 + light / 1.7)
    variance = 200 + np.maximum(image, 0) / 1.7
    stamps = cut_stamps(
        3, image, variance, np.zeros(light.shape, bool), np.array([30.2]), np.array([29.8]), 61
    )
    sky, slope = sky_variance(stamps, usable_pixels(stamps))
    # medians over 1000 pixels or more, whose positive noise is half of it in the variance
    assert sky[0] == pytest.approx(200, abs=3)
    assert slope == pytest.approx(1 / 1.7, rel=0.01)


def test_stamps_at_the_edge_have_no_pixels_beyond_it():
    """Stamp (j, i) is pixel (round(y) - s // 2 + j, round(x) - s // 2 + i); pixels that are not there are bad."""
    image = np.arange(200.0).reshape(10, 20)
    bad = image == 3
    stamps = cut_stamps(1, image, image + 1, bad, np.array([1.5, 40.0]), np.array([0.4, 3.0]), 5)
    assert_allclose(stamps.image[0, 2:, :], image[:3, 0:5])
    assert not stamps.good[0, :2].any()
    assert not stamps.good[0, 2, 3]
    assert stamps.good[0, 3:].all()
    assert not stamps.good[1].any()
    assert Box.of(image).nx == 20
