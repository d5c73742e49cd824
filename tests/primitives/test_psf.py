"""PSF models against galsim's rendering, and one contract for all of them."""

import math
from itertools import pairwise

import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.primitives import psf as psfs
from skyquilt.primitives.component import State, from_state
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.psf import GaussianPsf, KernelPsf, MoffatPsf, PolynomialPsf

PARAMS = galsim.GSParams(
    folding_threshold=1e-6,
    maxk_threshold=1e-9,
    kvalue_accuracy=1e-9,
    xvalue_accuracy=1e-9,
    integration_relerr=1e-9,
    integration_abserr=1e-11,
    maximum_fft_size=16384,
)
quick = settings(deadline=None, max_examples=25)
places = st.floats(-30, 3000)
# +0.5 belongs to the next pixel
phases = st.floats(-0.5, 0.5, exclude_max=True)


def rendered(profile, size, dx, dy, method="auto"):
    """Galsim's pixel-integrated image with the centre (dx, dy) off the central pixel."""
    profile = profile.withGSParams(PARAMS)
    return profile.drawImage(nx=size, ny=size, scale=1, offset=(dx, dy), method=method, dtype=float).array


def sheared(profile, e1, e2):
    """Area-preserving distortion: galsim's e is (a^2 - b^2) / (a^2 + b^2)."""
    return profile.shear(galsim.Shear(e1=e1, e2=e2))


def samples_of(profile, n, step):
    """Pixel-integrated profile sampled at steps of a fraction of a pixel."""
    effective = galsim.Convolve(profile, galsim.Pixel(1.0)).withGSParams(PARAMS)
    return effective.drawImage(nx=n, ny=n, scale=step, method="no_pixel", dtype=float).array


def varying():
    """A Gaussian whose width changes over a detector: first order in the change of the variance."""
    narrow, wide = (samples_of(galsim.Gaussian(sigma=s), 31, 1.0) for s in (1.7, 1.9))
    basis = np.array([narrow, wide - narrow])
    return PolynomialPsf.from_arrays(basis, [[1, 0, 0], [0.5, 0.4, -0.2]], 1, Box(0, 0, 2000, 1000))


MODELS = {
    "round Gaussian": GaussianPsf.from_fwhm(4.0),
    "Gaussian": GaussianPsf(3.0, 2.5, 0.8),
    "Moffat": MoffatPsf(4.5, 3.0, 0.1, -0.05, size=33),
    "kernel": KernelPsf(samples_of(sheared(galsim.Gaussian(sigma=1.8), 0.1, 0.1), 35, 1.0)),
    "fine kernel": KernelPsf(samples_of(sheared(galsim.Gaussian(sigma=1.1), 0.1, 0.1), 55, 0.5), step=0.5),
    "polynomial": varying(),
}
each_model = pytest.mark.parametrize("psf", MODELS.values(), ids=MODELS.keys())


@each_model
@settings(deadline=None, max_examples=8)
@given(x=places, y=places)
def test_stamps_sum_to_one_and_hold_the_position(psf, x, y):
    """A stamp has sum 1, an odd square box about the pixel of (x, y), and its centroid at (x, y)."""
    image = psf.image_at(x, y)
    assert_allclose(image.array.sum(), 1, rtol=1e-13)
    assert image.array.shape == image.box.shape == (psf.size, psf.size)
    assert psf.size % 2 == 1
    middle = Box(image.box.x0 + psf.size // 2, image.box.y0 + psf.size // 2, 1, 1)
    assert middle.contains(x, y)
    found = psfs.adaptive_moments(image.array, image.box)
    # pixel-integrated Gaussians are sampled well enough for 1e-4 px; sinc interpolation of sigma 1.8 for 1e-3
    assert math.hypot(found.x - x, found.y - y) < 1e-3


@each_model
def test_stamps_move_with_the_pixel_grid(psf):
    """Whole pixels move a constant PSF bit for bit; the kernel is the stamp of a pixel's centre."""
    one, other = psf.image_at(100.25, 40.75), psf.image_at(107.25, 31.75)
    assert other.box == one.box.shifted(7, -9)
    if not isinstance(psf, PolynomialPsf):
        assert_array_equal(one.array, other.array)
    assert_array_equal(psf.kernel_at(100, 40), psf.image_at(100, 40).array)
    last = psf.image_at(np.nextafter(0.5, 0), 0.5)
    assert last.box.centre == (0, 1)


@each_model
def test_states_give_equal_psfs(psf):
    """From its state comes a PSF with the same bits."""
    again = from_state(psf.to_state())
    assert again == psf
    assert type(again) is type(psf)
    assert_array_equal(again.image_at(7.3, 8.1).array, psf.image_at(7.3, 8.1).array)
    assert again != GaussianPsf(9.0, 9.0)


@each_model
def test_size_hardly_depends_on_the_phase(psf):
    """Adaptive moments of stamps between pixels are those of the centred kernel to 1e-3 of the trace."""
    centred = psf.moments_at(500, 300)
    for dx, dy in ((0.5, 0.5), (0.25, -0.3), (-0.1, 0.45)):
        moved = psfs.adaptive_moments(*psf.image_at(500 + dx, 300 + dy))
        assert_allclose(moved.matrix, centred.matrix, atol=1e-3 * centred.trace)


@quick
@given(phases, phases, st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(1, 2.5))
def test_gaussian_is_galsims(dx, dy, e1, e2, sigma):
    """Pixel-integrated Gaussians agree with galsim's Fourier rendering to its accuracy of 1e-7."""
    profile = sheared(galsim.Gaussian(sigma=sigma), e1, e2)
    trace = 2 * sigma**2 / math.sqrt(1 - e1**2 - e2**2)
    psf = GaussianPsf(0.5 * trace * (1 + e1), 0.5 * trace * (1 - e1), 0.5 * trace * e2, size=41)
    expected = rendered(profile, 41, dx, dy)
    assert_allclose(psf.image_at(dx, dy).array, expected / expected.sum(), atol=1e-7)


def test_round_gaussian_is_exact():
    """Without covariance each pixel is the product of two differences of error functions, to rounding."""
    psf = GaussianPsf(1.7, 0.6)
    edges = np.arange(psf.size + 1) - psf.size / 2
    expected = []
    for centre, variance in ((0.2, 0.6), (-0.4, 1.7)):
        scaled = (edges - centre) / math.sqrt(2 * variance)
        expected.append([(math.erf(b) - math.erf(a)) / 2 for a, b in pairwise(scaled)])
    assert_allclose(psf.image_at(-0.4, 0.2).array, np.outer(*expected), rtol=1e-12, atol=1e-16)


def test_far_wings_of_a_gaussian_keep_their_digits():
    """Twelve sigma off, both sides of the Gaussian are equal and positive: no digits cancel."""
    array = GaussianPsf(1.0, 1.0, size=25).kernel_at(0, 0)
    assert_array_equal(array, array[::-1, ::-1])
    assert 0 < array[12, -1] < 1e-29


@pytest.mark.parametrize(("xx", "yy", "xy"), [(0.25, 0.3, 0.1), (4.0, 1.0, 1.9), (9.0, 2.0, -4.0)])
def test_elliptical_gaussian_by_dense_sampling(xx, yy, xy):
    """Six nodes a pixel agree with the mean of 32 x 32 midpoints, within the error of those."""
    psf = GaussianPsf(xx, yy, xy, size=25)
    fine = (np.arange(25 * 32) + 0.5) / 32 - 12.5
    u, v = np.meshgrid(fine - 0.3, fine + 0.2)
    density = np.exp(-0.5 * (yy * u**2 - 2 * xy * u * v + xx * v**2) / (xx * yy - xy**2))
    expected = density.reshape(25, 32, 25, 32).mean(axis=(1, 3))
    expected /= expected.sum()
    # midpoints: h^2 / 24 times the second derivative, at most peak / smallest variance in each direction
    smallest = np.linalg.eigvalsh([[xx, xy], [xy, yy]])[0]
    bound = 4 * expected.max() / (24 * 32**2 * smallest)
    assert_allclose(psf.image_at(0.3, -0.2).array, expected, atol=bound)


@pytest.mark.parametrize(
    ("fwhm", "beta", "e1", "e2", "dx", "dy"),
    [(2.3, 2.5, 0.0, 0.0, 0.0, 0.0), (2.3, 4.0, 0.2, -0.1, 0.4, -0.3), (4.0, 3.0, -0.15, 0.2, -0.5, 0.1)],
)
def test_moffat_is_galsims(fwhm, beta, e1, e2, dx, dy):
    """Pixel-integrated Moffats agree with galsim's integration in real space to 1e-7 of the flux."""
    psf = MoffatPsf(fwhm, beta, e1, e2, size=13)
    expected = rendered(sheared(galsim.Moffat(beta, fwhm=fwhm), e1, e2), 13, dx, dy, "real_space")
    assert_allclose(psf.image_at(dx, dy).array, expected / expected.sum(), atol=1e-7)


@pytest.mark.parametrize(
    ("psf", "error"),
    [
        (MoffatPsf(2.0, 2.5, size=15), 1e-8),
        (MoffatPsf(2.0, 2.5, 0.4, 0.1, size=15), 1e-7),
        (MoffatPsf(1.5, 4.0, 0.2, size=15), 1e-7),
        (GaussianPsf(0.5, 0.5, 0.25, size=15), 1e-8),
        (GaussianPsf(4.0, 4.0, 3.0, size=15), 1e-8),
    ],
)
def test_quadrature_is_as_good_as_stated(psf, error, monkeypatch):
    """Forty nodes in each direction change no pixel by more than the stated share of the peak."""
    array = psf.image_at(0.3, 0.1).array
    monkeypatch.setattr(psfs, "_QUADRATURE_NODES", 40)
    exact = psf.image_at(0.3, 0.1).array
    assert np.abs(array - exact).max() < error * exact.max()


@quick
@given(phases, phases)
def test_interpolated_stamps_are_galsims(dx, dy):
    """Sampled PSFs between pixels differ from the truth by what `shift_weights` states for their width.

    In each direction 1.6e-4 of the peak for sigma 1.8 px, and 1e-4 for sigma 1.1 px at half pixels (2.2
    samples).
    """
    for name, sigma, error in (("kernel", 1.8, 1.6e-4), ("fine kernel", 1.1, 1e-4)):
        psf = MODELS[name]
        expected = rendered(sheared(galsim.Gaussian(sigma=sigma), 0.1, 0.1), psf.size, dx, dy)
        expected /= expected.sum()
        assert_allclose(psf.image_at(dx, dy).array, expected, atol=2 * error * expected.max())


def test_second_moments_survive_interpolation():
    """The variance of sampled PSFs between pixels is the truth's to 1e-6 where the stamp holds the light."""
    for name in ("kernel", "fine kernel"):
        psf = MODELS[name]
        centred = psf.moments_at(0, 0, "none")
        for dx, dy in ((0.5, 0.25), (-0.37, 0.11)):
            moved = psfs.image_moments(*psf.image_at(dx, dy))
            assert_allclose(moved.matrix, centred.matrix, atol=1e-6 * centred.trace)
            assert_allclose([moved.x, moved.y], [dx, dy], atol=1e-6)


def test_polynomial_psf_varies_as_its_coefficients():
    """At each position it is the PSF of the weighted basis; where both weights are 1, the wide Gaussian."""
    psf = MODELS["polynomial"]
    for x, y in ((0.0, 0.0), (1999.0, 500.0), (420.0, 830.0)):
        weight = 0.5 + 0.4 * (x - 999.5) / 1000 - 0.2 * (y - 499.5) / 500
        expected = KernelPsf(psf.model.basis[0] + weight * psf.model.basis[1])
        assert_allclose(psf.image_at(x, y).array, expected.image_at(x, y).array, atol=1e-15)
    sizes = [psf.moments_at(x, 500).sigma for x in (0, 1000, 2000)]
    assert sizes[0] < sizes[1] < sizes[2]
    wide = 999.5 + 1000 * 0.5 / 0.4
    assert_allclose(psf.fwhm_at(wide, 499.5), psfs.FWHM_OF_SIGMA * math.sqrt(1.9**2 + 1 / 12), rtol=1e-3)


@quick
@given(st.floats(1.0, 3.0))
def test_figures_of_a_gaussian(sigma):
    """Moments, FWHM and effective area are those of a Gaussian of variance sigma^2 + 1/12.

    The pixel adds 1/12 to the variance and -1/120 to the fourth cumulant, an excess of 1/120 / variance^2:
    the relative effect on the figures is at most 1/8 of that in each direction (Gram-Charlier series).
    """
    psf = GaussianPsf(sigma**2, sigma**2)
    variance = sigma**2 + 1 / 12
    bound = 2 / 8 / 120 / variance**2 + 1e-5
    moments = psf.moments_at(3, 4)
    assert_allclose([moments.x, moments.y], [3, 4], atol=1e-8)
    assert_allclose([moments.xx, moments.yy], variance, rtol=2 * bound)
    assert abs(moments.xy) < 1e-8
    assert_allclose(psf.moments_at(3, 4, "none").xx, variance, rtol=1e-6)
    # interpolation to 7e-3 of the peak at sigma 1 and 1.6e-4 at 1.5, over the slope at half maximum
    assert_allclose(
        psf.fwhm_at(3, 4),
        psfs.FWHM_OF_SIGMA * math.sqrt(variance),
        rtol=bound + 7e-3 * math.exp(-8 * (sigma - 1)) + 2e-4,
    )
    assert_allclose(psf.effective_area_at(3, 4), 4 * math.pi * variance, rtol=2 * bound + 1e-4)


@pytest.mark.parametrize("psf", [MODELS["Gaussian"], MODELS["Moffat"], MODELS["kernel"]])
def test_adaptive_moments_are_those_of_hsm(psf):
    """Size, shape and centre agree with galsim's HSM to its convergence of 1e-6."""
    image = psf.image_at(50.2, 60.4)
    truth = galsim.hsm.FindAdaptiveMom(
        galsim.Image(np.ascontiguousarray(image.array), xmin=image.box.x0, ymin=image.box.y0),
        hsmparams=galsim.hsm.HSMParams(convergence_threshold=1e-9),
    )
    got = psfs.adaptive_moments(*image)
    assert_allclose(got.sigma, truth.moments_sigma, rtol=1e-6)
    assert_allclose([got.e1, got.e2], [truth.observed_e1, truth.observed_e2], atol=2e-6)
    assert_allclose([got.x, got.y], [truth.moments_centroid.x, truth.moments_centroid.y], atol=1e-5)
    assert_allclose(got.flux, truth.moments_amp, rtol=1e-6)


def test_weighted_moments_by_double_loop():
    """Plain and Gaussian-weighted moments follow their definitions."""
    rng = np.random.default_rng(3)
    image, box = rng.random((6, 7)), Box(10, -3, 7, 6)
    for centre, weight in ((None, None), ((13.2, -0.4), None), ((13.2, -0.4), (2.0, 3.0, 0.5))):
        inverse = np.linalg.inv([[2, 0.5], [0.5, 3]]) if weight else np.zeros((2, 2))
        rows = []
        for j in range(6):
            for i in range(7):
                offset = np.array([10 + i - 13.2, -3 + j + 0.4])
                rows.append((image[j, i] * math.exp(-0.5 * offset @ inverse @ offset), 10 + i, -3 + j))
        flux, x, y = np.array(rows).T
        mean = (flux @ x / flux.sum(), flux @ y / flux.sum())
        dx, dy = (x - (centre or mean)[0], y - (centre or mean)[1])
        second = [flux @ product / flux.sum() for product in (dx * dx, dy * dy, dx * dy)]
        assert_allclose(
            psfs.image_moments(image, box, centre, weight), [flux.sum(), *mean, *second], rtol=1e-12
        )
    with pytest.raises(ValueError, match="positive flux"):
        psfs.image_moments(-image)


def test_wrong_arguments_are_refused():
    """Impossible shapes, sizes, samples and positions are named."""
    for call, message in (
        (lambda: GaussianPsf(1.0, 1.0, 1.0), "no ellipse"),
        (lambda: GaussianPsf(1.0, 1.0, size=10), "odd"),
        (lambda: MoffatPsf(3.0, 0.9), "beta > 1"),
        (lambda: KernelPsf(np.ones((4, 4))), "odd side"),
        (lambda: KernelPsf(np.ones((3, 3)), step=2.0), "steps"),
        (lambda: KernelPsf(np.full((3, 3), np.nan)), "finite"),
        (lambda: MODELS["kernel"].image_at(np.nan, 3.0), "finite position"),
        (lambda: MODELS["kernel"].moments_at(0, 0, "boxcar"), "adaptive or none"),
        (
            lambda: PolynomialPsf.from_arrays(-np.ones((1, 3, 3)), [[1]], 0, Box(0, 0, 9, 9)).kernel_at(1, 1),
            "positive",
        ),
        (lambda: psfs.half_maximum_width(np.ones((5, 5))), "half of its maximum"),
        (
            lambda: psfs.adaptive_moments(np.pad(np.zeros((9, 9)), 1, constant_values=1)),
            "settle",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(KeyError):
        from_state(State("no_such_psf", {}, {}))
