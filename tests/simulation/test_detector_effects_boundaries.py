"""Boundaries between pixels: charge that moves them, rings of the crystal, and what flats and stars show of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.simulation.detector_effects import DetectorEffectsConfig, effect_stream, true_detector
from skyquilt.simulation.detector_effects.charge import gathered
from skyquilt.simulation.detector_effects.pixel_boundaries import (
    area_changes,
    boundary_coefficients,
    displaced,
    move_light,
)
from skyquilt.simulation.detector_effects.response import tree_rings

SERIAL, PARALLEL, SLOPE, REACH = 4.4e-7, 5.6e-7, 2.2, 6


def coefficients(reach=REACH):
    return boundary_coefficients(SERIAL, PARALLEL, SLOPE, reach)


def single(arrays):
    return [np.ascontiguousarray(a, dtype=np.float32) for a in arrays]


def bright_detector(camera, **changes):
    """A detector that does nothing but draw photons and move boundaries."""
    values = {"photon_noise": True, "brighter_fatter_serial": SERIAL, "brighter_fatter_parallel": PARALLEL}
    config = DetectorEffectsConfig.none(**(values | changes))
    detector = camera.detectors[0]
    zero = np.zeros((detector.ny, detector.nx))
    return true_detector(config, 1, detector, zero, zero)


def at_boundary(sums, k):
    """Light density between pixels k and k + 1 of a line: of the polynomial with the sums of six pixels."""
    if not 2 <= k < len(sums) - 3:
        return 0.5 * (float(sums[k]) + float(sums[k + 1]))
    # antiderivative through the running sum at the seven edges about the boundary, by Lagrange
    edges = np.arange(-3.0, 4.0)
    running = np.concatenate([[0.0], np.cumsum(sums[k - 2 : k + 4].astype(float))])
    slope = np.polyder(np.poly1d(np.polyfit(edges, running, 6)))(0.0)
    return max(float(slope), 0.0)


def moved_by_loops(light, charge, along_row, along_column, weight):
    """What boundaries bring, pixel by pixel and charge by charge, in double precision."""
    ny, nx = light.shape
    reach = along_row.shape[1]
    out = np.zeros((ny, nx))

    def held(j, i):
        return float(charge[min(max(j, 0), ny - 1), min(max(i, 0), nx - 1)])

    for j in range(ny):
        for i in range(nx):
            if i < nx - 1:
                shift = 0.0
                for b in range(-reach, reach + 1):
                    for a in range(reach):
                        c = along_row[abs(b), a]
                        shift += c * (held(j + b, i + 1 + a) - held(j + b, i - a))
                flow = weight * shift * at_boundary(light[j], i)
                out[j, i] += flow
                out[j, i + 1] -= flow
            if j < ny - 1:
                shift = 0.0
                for a in range(-reach, reach + 1):
                    for b in range(reach):
                        c = along_column[b, abs(a)]
                        shift += c * (held(j + 1 + b, i + a) - held(j - b, i + a))
                flow = weight * shift * at_boundary(light[:, i], j)
                out[j, i] += flow
                out[j + 1, i] -= flow
    return out


@pytest.mark.parametrize("shape", [(9, 14), (3, 4), (14, 8)])
def test_kernel_is_the_double_loop(rng, shape):
    """The kernel moves what loops over boundaries and charges move, also on detectors smaller than its reach."""
    light, charge = (rng.uniform(1e3, 1e5, shape).astype(np.float32) for _ in range(2))
    arrays = coefficients(5)
    out = np.zeros(shape, dtype=np.float32)
    move_light(light, charge, *single(arrays), 0.7, out)
    # single precision: charges of 1e5 times 120 coefficients
    assert_allclose(out, moved_by_loops(light, charge, *arrays, 0.7), atol=3e-6 * np.abs(light).max())


def test_moving_conserves_light(rng):
    """What one pixel loses another gets; uniform charge moves nothing."""
    light = rng.uniform(0, 1e5, (40, 50)).astype(np.float32)
    out = np.zeros_like(light)
    move_light(light, light, *single(coefficients()), 1.0, out)
    assert np.abs(out).max() > 100
    assert abs(out.sum(dtype=float)) < 1e-6 * np.abs(out).sum(dtype=float) * 10
    out[...] = 0
    move_light(light, np.full_like(light, 5e4), *single(coefficients()), 1.0, out)
    assert_allclose(out, 0, atol=1e-2)


def test_areas_change_as_one_charge_moves_boundaries():
    """The coefficients a_ij are what uniform light shows around a single charge; their sum is 0."""
    light = np.ones((25, 25), dtype=np.float32)
    charge = np.zeros_like(light)
    charge[12, 12] = 1e5
    out = np.zeros_like(light)
    move_light(light, charge, *single(coefficients()), 1.0, out)
    a = area_changes(*coefficients())
    assert_allclose(out[12:19, 12:19] / 1e5, a, atol=1e-12)
    assert_allclose(out[12:5:-1, 12:5:-1] / 1e5, a, atol=1e-12)
    four = 4 * a[1:, 1:].sum() + 2 * a[0, 1:].sum() + 2 * a[1:, 0].sum() + a[0, 0]
    assert abs(four) < 1e-18
    assert_allclose(a[0, 0], -2 * (SERIAL + PARALLEL), rtol=1e-12)
    assert a[1, 0] > a[0, 1] > 0
    # falls one power faster than the shifts, over all of the range
    assert_allclose(np.log(a[5, 0] / a[3, 0]) / np.log(3 / 5), SLOPE + 1, atol=0.5)


def covariance_theory(mean, a, n=32):
    """Covariances of a flat (Astier et al. 2019, equation 18 without noise): C' = 1 + 2 a * C, per mode."""
    full = np.zeros((n, n))
    reach = a.shape[0] - 1
    for j in range(-reach, reach + 1):
        for i in range(-reach, reach + 1):
            full[j, i] = a[abs(j), abs(i)]
    growth = 2 * mean * np.fft.fft2(full).real
    growth[0, 0] = 1e-12
    return np.fft.ifft2(mean * np.expm1(growth) / growth).real


@pytest.mark.parametrize("steps", [2, 5])
def test_flats_have_the_covariances_of_the_boundaries(camera, steps):
    """Covariances of simulated flats are those of the area changes to all orders, whatever the steps."""
    truth = bright_detector(camera, brighter_fatter_steps=steps)
    mean = 70000.0
    expected = np.full(truth.response.shape, mean, dtype=np.float32)
    theory = covariance_theory(mean, area_changes(*truth.boundaries))
    frames, n = 24, expected.size
    sums = np.zeros((3, 3))
    means = []
    for k in range(frames):
        charge = gathered(truth, effect_stream(1, "photons", k), expected, np.zeros_like(expected))
        means.append(charge.mean(dtype=float))
        rest = charge.astype(float) - mean
        ny, nx = rest.shape
        for j in range(3):
            for i in range(3):
                sums[j, i] += (rest[: ny - j, : nx - i] * rest[j:, i:]).mean() / frames
    error = mean / np.sqrt(frames * n) * np.where(np.arange(9).reshape(3, 3) == 0, np.sqrt(2), 1)
    assert (np.abs(sums - theory[:3, :3]) < 4 * error).all(), (sums - theory[:3, :3]) / error
    # the effect itself is 13 % of the variance, and shows in the neighbours
    assert theory[0, 0] < 0.89 * mean
    assert theory[1, 0] > 10 * error[1, 0]
    # boundaries keep the mean: variance of the mean is that of photons
    assert abs(np.mean(means) / mean - 1) < 4 / np.sqrt(mean * frames * n)


def star(peak, shape, width=2.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (peak * np.exp(-0.5 * ((x - 40) ** 2 + (y - 30) ** 2) / width**2)).astype(np.float32)


def second_moments(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum(dtype=float)
    cx, cy = (image * x).sum() / total, (image * y).sum() / total
    return (image * (x - cx) ** 2).sum() / total, (image * (y - cy) ** 2).sum() / total


def test_stars_grow_with_their_light(camera):
    """Size grows in proportion to flux, more along columns than rows; flux stays; the middle loses."""
    truth = bright_detector(camera, photon_noise=False)
    dark = np.zeros(truth.response.shape, dtype=np.float32)
    growth = []
    for peak in (1000.0, 40000.0, 80000.0):
        light = star(peak, dark.shape)
        charge = gathered(truth, np.random.default_rng(1), light, dark)
        assert_allclose(charge.sum(dtype=float), light.sum(dtype=float), rtol=1e-6)
        plain, found = second_moments(light), second_moments(charge)
        growth.append([f - p for f, p in zip(found, plain, strict=True)])
        if peak > 1000:
            assert charge[30, 40] < light[30, 40] * 0.995
    (x0, y0), (x1, y1), (x2, y2) = growth
    assert_allclose([x2, y2], [2 * x1, 2 * y1], rtol=0.06)
    assert_allclose([x0, y0], [x1 / 40, y1 / 40], rtol=0.1)
    assert y2 > 1.1 * x2 > 0.01


def test_more_steps_change_little(camera):
    """Three steps give the star of twenty within 2 % of the effect."""
    images = []
    for steps in (3, 20):
        truth = bright_detector(camera, photon_noise=False, brighter_fatter_steps=steps)
        light = star(80000.0, truth.response.shape)
        images.append(gathered(truth, np.random.default_rng(1), light, np.zeros_like(light)))
    assert np.abs(images[0] - images[1]).max() < 0.02 * np.abs(images[1] - light).max()


def test_star_pixels_have_the_variance_of_their_mean(camera):
    """Photons of a star with moved boundaries scatter less than Poisson where bright, by the area change."""
    truth = bright_detector(camera)
    light = star(60000.0, truth.response.shape) + np.float32(500)
    dark = np.zeros_like(light)
    frames = np.array(
        [gathered(truth, np.random.default_rng(k), light, dark) for k in range(300)], dtype=float
    )
    sky = np.s_[:, 60:120, 80:150]
    n = frames[sky].size
    # variance and mean of an empty sky: a00 times 500 e is 1e-3
    assert abs(frames[sky].var(axis=0, ddof=1).mean() / 500 - (1 - 1e-3)) < 4 * np.sqrt(2 / n)
    core = frames[:, 29:32, 39:42]
    ratio = core.var(axis=0, ddof=1).mean() / core.mean()
    # 9 pixels of 300 frames: 4 standard errors are 11 %; a00 of 55000 e takes away 11 %
    assert 0.75 < ratio < 1.0


def test_rings_displace_and_keep_light(camera, rng):
    """Ring displacement is within its bound, keeps all light, and changes flats by its divergence."""
    config = DetectorEffectsConfig(tree_rings=0.02)
    shape = (120, 150)
    along_x, along_y = tree_rings(config, 4, 0, shape, 0.01)
    assert 0.005 < max(np.abs(along_x).max(), np.abs(along_y).max()) <= 0.02
    light = rng.uniform(100, 1000, shape).astype(np.float32)
    after = displaced(light, along_x, along_y)
    assert_allclose(after.sum(dtype=float), light.sum(dtype=float), rtol=1e-6)
    flat = displaced(np.ones(shape, np.float32), along_x, along_y)
    divergence = along_x[1:-1, 1:-1] - along_x[1:-1, :-2] + along_y[1:-1, 1:-1] - along_y[:-2, 1:-1]
    assert_allclose(flat[1:-1, 1:-1], 1 + divergence, atol=1e-6)
    assert flat[1:-1, 1:-1].std() > 5e-4
    again = displaced.py_func(light[:6, :7].copy(), along_x[:6, :7].copy(), along_y[:6, :7].copy())
    assert_array_equal(again, displaced(light[:6, :7].copy(), along_x[:6, :7].copy(), along_y[:6, :7].copy()))
