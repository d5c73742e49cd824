"""The brighter-fatter correction against a brute-force twin and against boundaries that move while charge gathers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage, signal
from scipy.special import erf

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
    brighter_fatter,
    run_isr,
)
from skyquilt.algorithms.instrument_signature_removal.brighter_fatter import (
    BrighterFatterConfig,
    convolve_separable,
    correct_brighter_fatter,
    covariances_of_kernel,
    displaced_charge,
    kernel_from_covariances,
    separable_factors,
)
from skyquilt.primitives.detector_characterization import BrighterFatterKernel

STRENGTH = 2e-7
"""Displacement of a boundary at distance 1 by one electron [pixel]: a_00 is -16 times that."""


def boundary_shifts(reach):
    """Shift of the right (and upper) face of the pixel at each offset from a charge, outward from it, as 1 / r^2."""
    dx, dy = np.arange(-reach, reach + 1)[None, :] + 0.5, np.arange(-reach, reach + 1)[:, None]
    right = STRENGTH * dx / np.hypot(dx, dy) ** 3
    return right, right.T.copy()


def exact_covariances(n):
    """a_ij of the boundary model: change of the area of the pixel at lag (i, j) by one electron."""
    right, up = boundary_shifts(n + 1)
    middle = n + 1
    rows, columns = np.mgrid[middle : middle + n, middle : middle + n]
    return -(right[rows, columns] - right[rows, columns - 1] + up[rows, columns] - up[rows - 1, columns])


def star(n, x, y, sigma, flux, sky):
    """Light of a Gaussian star: pixel sums, and its density integrated along the right and the upper faces."""
    edges = np.arange(n + 1) - 0.5

    def along(centre):
        sums = np.diff(0.5 * (1 + erf((edges - centre) / (np.sqrt(2) * sigma))))
        return sums, np.exp(-0.5 * ((edges[1:] - centre) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)

    (sum_x, face_x), (sum_y, face_y) = along(x), along(y)
    light = np.stack([np.outer(sum_y, sum_x), np.outer(sum_y, face_x), np.outer(face_y, sum_x)])
    return flux * light + sky


def gather(light, right, up, steps=24):
    """Charge gathered while its own field moves the boundaries; midpoint rule in time."""
    shift_right, shift_up = boundary_shifts(25)
    charge = np.zeros_like(light)
    for _ in range(steps):
        middle = charge + light / (2 * steps)
        lost_right = right / steps * signal.fftconvolve(middle, shift_right, mode="same")
        lost_up = up / steps * signal.fftconvolve(middle, shift_up, mode="same")
        lost_right[:, -1] = 0
        lost_up[-1] = 0
        charge += light / steps - lost_right - lost_up
        charge[:, 1:] += lost_right[:, :-1]
        charge[1:] += lost_up[:-1]
    return charge


def size(image, sky, sigma):
    """Trace of the second moments with a fixed circular weight, recentred."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    light = image.astype(float) - sky
    cx = cy = image.shape[0] // 2
    for _ in range(8):
        weight = light * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / (1.5 * sigma) ** 2)
        cx, cy = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
    return (weight * ((x - cx) ** 2 + (y - cy) ** 2)).sum() / weight.sum()


@pytest.mark.parametrize("fwhm", [2.3, 3.5, 6.0])
def test_size_no_longer_grows_with_flux(fwhm):
    """With the kernel of the model's exact covariances the size-flux slope of stars falls at least tenfold."""
    rng = np.random.default_rng(int(10 * fwhm))
    kernel = kernel_from_covariances(exact_covariances(9), 8)
    sigma, sky = fwhm / 2.3548, 200.0
    growth = {"measured": 0.0, "corrected": 0.0}
    for _ in range(3):
        x, y = 25 + rng.uniform(-0.5, 0.5, 2)
        light, right, up = star(51, x, y, sigma, 80000 * 2 * np.pi * sigma**2, sky)
        charge = gather(light, right, up)
        corrected = charge.astype(np.float32)
        correct_brighter_fatter(corrected, np.zeros(light.shape, bool), kernel)
        true = size(light, sky, sigma)
        growth["measured"] += size(charge, sky, sigma) / true - 1
        growth["corrected"] += size(corrected, sky, sigma) / true - 1
        assert_allclose(corrected.sum(dtype=float), charge.sum(), rtol=1e-6)
    # the effect is per cents of the size; the correction is judged by its share
    assert growth["measured"] / 3 > 0.01
    assert abs(growth["corrected"]) < 0.1 * growth["measured"]


def test_covariances_of_flats_vanish():
    """A noisy flat, gathered with moving boundaries, has a11, a01, a10 and the variance of the model; corrected it has
    none."""
    rng = np.random.default_rng(3)
    level, n, frames = 60000.0, 300, 4
    a = exact_covariances(9)
    kernel = kernel_from_covariances(a, 8)
    found = {"measured": [], "corrected": []}
    for _ in range(frames):
        charge = np.zeros((n, n))
        right, up = boundary_shifts(12)
        steps = 12
        for _ in range(steps):
            # uniform light: what a boundary sweeps is its mean density
            shift_right = signal.fftconvolve(charge, right, mode="same")
            shift_up = signal.fftconvolve(charge, up, mode="same")
            area = np.ones((n, n)) - shift_right - shift_up
            area[:, 1:] += shift_right[:, :-1]
            area[1:] += shift_up[:-1]
            charge += rng.poisson(level / steps * area)
        corrected = charge.astype(np.float32)
        correct_brighter_fatter(corrected, np.zeros((n, n), bool), kernel)
        for name, frame in (("measured", charge), ("corrected", corrected.astype(float))):
            # edges see a one-sided field
            d = frame[30:-30, 30:-30]
            d = d - d.mean()
            found[name].append([(d[i:, j:] * d[: d.shape[0] - i, : d.shape[1] - j]).mean() for i, j in LAGS])
    error = level / np.sqrt(frames * (n - 60) ** 2)
    expected = np.array([level**2 * a[i, j] + level * (i == j == 0) for i, j in LAGS])
    measured, corrected = (np.mean(found[name], axis=0) for name in ("measured", "corrected"))
    # second order: a_00 mu of the effect; steps: 1 / 12 of it
    second = 0.2 * np.abs(level**2 * np.array([a[i, j] for i, j in LAGS]))
    assert_allclose(measured, expected, atol=5 * np.sqrt(2) * error + second.max())
    white = np.array([level * (i == j == 0) for i, j in LAGS])
    assert (np.abs(corrected - white) < 5 * np.sqrt(2) * error + 0.1 * np.abs(measured - white)).all()


LAGS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_kernel_and_covariances_are_inverse():
    """L K = a at the lags that were given, whatever the wings; a kernel's own covariances sum to 0."""
    a = exact_covariances(9)
    kernel = kernel_from_covariances(a, 14)
    laplacian = covariances_of_kernel(kernel)
    assert_allclose(laplacian.sum(), 0, atol=1e-12 * np.abs(a).max())
    middle = laplacian.shape[0] // 2
    # the first lag beyond the given ones is a wing
    assert_allclose(laplacian[middle : middle + 9, middle : middle + 9], a, atol=1e-6 * abs(a[0, 0]))
    assert_array_equal(kernel, kernel[::-1, ::-1])
    assert (kernel >= 0).all()
    # the field at the nearest boundary is that of the model
    assert_allclose(kernel[14, 14] - kernel[14, 15], 4 * STRENGTH, rtol=0.02)


def test_covariances_that_break_the_sum_rule():
    """When noise makes the given covariances sum to more than 0 the variance takes the difference."""
    a = exact_covariances(4)
    a[0, 0] *= 0.5
    kernel = kernel_from_covariances(a, 6)
    middle = covariances_of_kernel(kernel).shape[0] // 2
    found = covariances_of_kernel(kernel)[middle, middle]
    total = a[0, 0] + 2 * a[0, 1:].sum() + 2 * a[1:, 0].sum() + 4 * a[1:, 1:].sum()
    assert_allclose(found, a[0, 0] - total, rtol=1e-6)
    with pytest.raises(ValueError, match="finite"):
        kernel_from_covariances(np.full((3, 3), np.nan))


def plain_correction(image, still, kernel, iterations):
    """The definition, pixel by pixel in loops."""
    lost = ~np.isfinite(image)
    measured = np.where(lost, np.median(image[~lost]), image).astype(float)
    still = still | lost
    field = signal.convolve2d(measured, kernel, mode="same")
    ny, nx = image.shape
    charge = measured
    for _ in range(iterations):
        new = measured.copy()
        for j in range(ny):
            for i in range(nx):
                for dj, di in ((0, 1), (1, 0)):
                    v, u = j + dj, i + di
                    if v >= ny or u >= nx or still[j, i] or still[v, u]:
                        continue
                    density = 0.5 * (charge[j, i] + charge[v, u])
                    b, c, d, e = j - dj, i - di, v + dj, u + di
                    if b >= 0 and c >= 0 and d < ny and e < nx and not (still[b, c] or still[d, e]):
                        density = (7 * (charge[j, i] + charge[v, u]) - charge[b, c] - charge[d, e]) / 12
                    flux = 0.5 * density * (field[v, u] - field[j, i])
                    new[j, i] -= flux
                    new[v, u] += flux
        charge = new
    return np.where(lost, np.nan, charge)


@pytest.mark.parametrize("iterations", [1, 3])
def test_correction_equals_plain_loops(rng, monkeypatch, iterations):
    """Strips, separable factors and compiled stencils give the definition, with saturated and lost pixels."""
    monkeypatch.setattr(brighter_fatter, "_ROWS", 11)
    image = rng.uniform(0, 80000, (40, 30)).astype(np.float32)
    still = rng.uniform(size=image.shape) < 0.02
    image[10:13, 20] = np.nan
    kernel = kernel_from_covariances(exact_covariances(5), 4)
    kernel[1, 2] *= 1.3
    monkeypatch.setattr(brighter_fatter, "_TOLERANCE", 1e-6)
    corrected = image.copy()
    # all singular values: the default leaves 0.2 % out
    exact = separable_factors(kernel, 1e-9)
    monkeypatch.setattr(brighter_fatter, "separable_factors", lambda potential: exact)
    correct_brighter_fatter(corrected, still, kernel, iterations)
    expected = plain_correction(image, still, kernel, iterations)
    assert_allclose(corrected, expected, atol=0.05)
    assert np.abs(expected - image)[np.isfinite(image)].max() > 1000
    assert_allclose(corrected[still], image[still])
    assert_allclose(np.nansum(corrected, dtype=float), np.nansum(image, dtype=float), rtol=1e-6)


def test_separable_factors_keep_the_laplacian():
    """The factors' covariances are the kernel's within the stated 0.2 % of the largest."""
    kernel = kernel_from_covariances(exact_covariances(9), 8)
    columns, rows = separable_factors(kernel)
    difference = covariances_of_kernel(np.einsum("ki,kj->ij", columns, rows)) - covariances_of_kernel(kernel)
    assert np.abs(difference).max() < 2.1e-3 * np.abs(covariances_of_kernel(kernel)).max()
    assert columns.shape[0] <= 4


def test_kernels_equal_their_python_twins(rng):
    """Convolution (any width) and stencil are the same compiled and plain."""
    for width in (3, 5, 9):
        charge = rng.uniform(0, 1, (8 + width - 1, 7 + width - 1)).astype(np.float32)
        columns, rows = rng.normal(size=(2, 2, width)).astype(np.float32)
        out = np.empty((8, 7), np.float32)
        convolve_separable(charge, columns, rows, out)
        expected = sum(
            signal.convolve2d(charge.astype(float), np.outer(columns[k], rows[k]), mode="valid")
            for k in range(2)
        )
        assert_allclose(out, expected, atol=1e-5)
    measured, potential = rng.uniform(0, 1, (2, 9, 8)).astype(np.float32)
    still = rng.uniform(size=(9, 8)) < 0.1
    results = []
    for function in (displaced_charge, displaced_charge.py_func):
        out = np.empty_like(measured)
        function(measured, measured, potential, still, out)
        results.append(out)
    assert_allclose(results[0], results[1], rtol=1e-5)


def test_iterations_are_checked():
    """No turn at all is refused."""
    with pytest.raises(ValueError, match="iterations"):
        BrighterFatterConfig(iterations=0)


def test_pixels_beside_saturated_ones_are_suspect(detector, raw_frame, rng):
    """Within three pixels of the mask of a full pixel, where a kernel is applied; nowhere without a kernel."""
    kernel = kernel_from_covariances(exact_covariances(6), 5)
    component = BrighterFatterKernel(tuple(detector.amplifier_names), np.stack([kernel, kernel]), np.ones(2))
    electrons = rng.uniform(1000, 2000, (64, 90))
    electrons[30, 40] = 1e6
    raw = raw_frame(detector, electrons, rng)
    for given, reach in (
        (DetectorCalibrations(brighter_fatter=component), 3),
        (DetectorCalibrations(), None),
    ):
        mask = run_isr(raw, given, InstrumentSignatureRemovalConfig()).exposure.mask
        full = mask.any(["SATURATED"])
        assert full[30, 40]
        expected = np.zeros_like(full)
        if reach is not None:
            expected = ndimage.binary_dilation(full, np.ones((2 * reach + 1, 2 * reach + 1)))
        assert_array_equal(mask.any(["SUSPECT"]) & ~full, expected & ~full)


def test_kernels_of_amplifiers_meet_at_their_edges(detector, raw_frame, rng):
    """With equal kernels `per_amplifier` gives what the mean gives; an amplifier without a kernel takes the mean."""
    kernel = kernel_from_covariances(exact_covariances(6), 5)
    names = tuple(detector.amplifier_names)
    raw = raw_frame(detector, rng.uniform(1000, 50000, (64, 90)), rng)
    results = []
    for per_amplifier in (False, True):
        for second in (kernel, np.full_like(kernel, np.nan)):
            component = BrighterFatterKernel(names, np.stack([kernel, second]), np.ones(2))
            config = InstrumentSignatureRemovalConfig(
                brighter_fatter=BrighterFatterConfig(per_amplifier=per_amplifier)
            )
            given = DetectorCalibrations(brighter_fatter=component)
            results.append(run_isr(raw, given, config).exposure.image)
    for other in results[1:]:
        assert_allclose(other, results[0], rtol=1e-5, atol=0.05)
    plain = run_isr(raw, DetectorCalibrations(), InstrumentSignatureRemovalConfig()).exposure.image
    assert np.abs(results[0] - plain).max() > 100
