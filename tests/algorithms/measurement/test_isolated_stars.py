"""Isolated point sources of galsim with their true PSF: positions and fluxes are right, and so are quoted errors."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.algorithms.measurement.aperture_photometry import aperture_photometry
from skyquilt.algorithms.measurement.elliptical_apertures import nested_ellipses
from skyquilt.algorithms.measurement.psf_sampler import PsfSampler
from skyquilt.algorithms.measurement.variants.deblended_frame import (
    MeasureSourcesConfig,
    measure_deblended_frame,
)

MMAG = 1085.74
RADII = (3, 6, 12)
PLUGINS = ("windowCentroid", "centroid", "psfFlux", "apertures")
EMPTY = (np.empty(0, np.int64), np.empty(0, np.float32))


def measured(draw, stars, plugins=PLUGINS, **options):
    """Columns of the stars' measurement, each with an empty footprint: nothing is replaced."""
    config = MeasureSourcesConfig(
        plugins, {"apertures": {"radii": RADII}} if "apertures" in plugins else {}, 0
    )
    bad = np.zeros(stars.exposure.shape, bool)
    found = measure_deblended_frame(
        stars.exposure,
        bad,
        draw.places(stars.x, stars.y),
        draw.deblended([EMPTY] * stars.n),
        config,
        psf=stars.psf,
        **options,
    )
    assert found.errors == ()
    return found.columns


def width(values):
    """1.48 MAD, as all pulls are judged; for a normal sample its relative error is 1.17 / sqrt(n)."""
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def true_aperture(profile, radius):
    """Light of a profile (pixel included) within a circle, from a drawing at a twentieth of a pixel."""
    n = 40 * (radius + 2) + 1
    fine = profile.drawImage(nx=n, ny=n, scale=0.05, method="no_pixel").array.astype(np.float32)
    sums = np.empty((1, 4))
    middle = float(n // 2)
    nested_ellipses(
        fine, fine, np.zeros(fine.shape, bool), middle, middle, 1.0, 1.0, 0.0, np.array([20.0 * radius]), sums
    )
    return sums[0, 0]


def noise_alone(stars):
    """What a PSF fit and apertures at the true place make of the noise: linear in it, with mean 0."""
    sampler = PsfSampler(stars.psf, stars.exposure.shape)
    by_psf = np.empty(stars.n)
    for k in range(stars.n):
        stamp = sampler.stamp(stars.x[k], stars.y[k])
        size = stamp.array.shape[0]
        part = stars.noise[stamp.y0 : stamp.y0 + size, stamp.x0 : stamp.x0 + size]
        by_psf[k] = (part * stamp.array).sum() / (stamp.array**2).sum()
    bad = np.zeros(stars.exposure.shape, bool)
    by_circle = aperture_photometry(
        stars.noise.astype(np.float32),
        stars.exposure.variance,
        bad,
        stars.x,
        stars.y,
        tuple(map(float, RADII)),
    )
    return by_psf, by_circle.flux


@pytest.mark.parametrize(
    ("fwhm", "snr", "n_side"),
    [(4.0, 5, 50), (2.3, 8, 36), (6.0, 12, 30), (4.0, 30, 30), (2.3, 100, 30), (4.0, 1000, 30)],
)
def test_fluxes_are_unbiased_and_pulls_are_unit(draw, grid_of_stars, fwhm, snr, n_side):
    """Bias below 2 mmag, pulls of fluxes and positions between 0.95 and 1.05, from S/N 5 to 1000 and FWHM 2.3 to 6.

    What noise at the true place adds to a flux has mean zero and is subtracted before the mean is taken; so a few
    thousand stars decide a millimagnitude at S/N 5. Bounds are widened by three standard errors of the sample.
    """
    stars = grid_of_stars(fwhm, snr, n_side, seed=int(10 * fwhm) + snr)
    found = measured(draw, stars)
    good = ~found["centroid_noFit_flag"] & ~found["psfFlux_flag"]
    # at S/N 5 the highest peak within reach is now and then another one
    assert good.mean() > (0.95 if snr < 8 else 0.999)
    by_psf, by_circle = noise_alone(stars)
    bound = 0.05 + 3 * 1.17 / np.sqrt(stars.n)
    truth = {"psfFlux": stars.flux * stars.share, "weightedPsfFlux": stars.flux * stars.share}
    noise = {"psfFlux": by_psf, "weightedPsfFlux": by_psf}
    for m, radius in enumerate(RADII):
        truth[f"ap{radius:02d}Flux"] = stars.flux * true_aperture(stars.drawn.profile, radius)
        noise[f"ap{radius:02d}Flux"] = by_circle[:, m]
    for name, true in truth.items():
        error = found[name] - true
        assert abs(width((error / found[f"{name}Err"])[good]) - 1) < bound, name
        excess = (error - noise[name])[good] / true * MMAG
        assert abs(excess.mean()) < 2 + 3 * excess.std() / np.sqrt(stars.n), (name, excess.mean())
    for name, true in (("x", stars.x), ("y", stars.y)):
        assert abs(width(((found[name] - true) / found[f"{name}Err"])[good]) - 1) < bound, name
        if snr >= 12:
            pull = (found[f"window{name.upper()}"] - true) / found[f"window{name.upper()}Err"]
            assert abs(width(pull) - 1) < bound, f"window{name}"
        if snr >= 30:
            excess = found["sizeExcess"] / found["sizeExcessErr"]
            # the mean of n unit normals has an error of 1 / sqrt(n)
            assert abs(width(excess) - 1) < bound
            assert abs(excess.mean()) < 4 / np.sqrt(stars.n)


@pytest.mark.parametrize("fwhm", [2.3, 4.0, 6.0])
def test_positions_do_not_depend_on_the_place_within_a_pixel(draw, fwhm):
    """Without noise all phases give the true place to 0.005 pixels, with and without the PSF; fluxes to 1 mmag."""
    drawn, half, phases = draw.star(fwhm, 20), 20, draw.PHASES
    side = 2 * half + 1
    truth = 1e5 * drawn.stamps.swapaxes(1, 2).reshape(phases * side, phases * side)
    a, b = np.divmod(np.arange(phases**2), phases)
    stars = SimpleNamespace(
        exposure=draw.exposure_of(truth, np.maximum(truth, 0) + 100.0),
        psf=drawn.psf,
        x=b * side + half + drawn.offsets[b],
        y=a * side + half + drawn.offsets[a],
        n=phases**2,
    )
    found = measured(draw, stars, (*PLUGINS, "psfShape", "shape"))
    for name in ("x", "windowX"):
        assert_allclose(found[name], stars.x, atol=0.005)
    for name in ("y", "windowY"):
        assert_allclose(found[name], stars.y, atol=0.005)
    assert_allclose(found["psfFlux"], 1e5 * drawn.share, rtol=1e-3)
    assert_allclose(found["ap03Flux"], 1e5 * true_aperture(drawn.profile, 3), rtol=1e-3)
    # moments of the source are those of the PSF drawn at its place
    for name in ("ixx", "iyy"):
        assert_allclose(found[name], found[f"{name}PSF"], rtol=1e-3)


def test_an_error_of_the_background_is_in_the_errors_of_fluxes(draw, grid_of_stars):
    """A constant left in the background shifts fluxes by its quoted share: area times the error per pixel."""
    stars = grid_of_stars(4.0, 100, 4, seed=5)
    plain, told = measured(draw, stars), measured(draw, stars, background_error=3.0)
    shifted = stars.exposure.with_(image=stars.exposure.image + np.float32(3.0))
    stars.exposure = shifted
    raised = measured(draw, stars)
    # the centroid stays to 1e-3 pixels, the term of its noise to 1e-4 of the flux
    for name, tolerance in (("psfFlux", 0.02), ("ap03Flux", 0.02), ("ap12Flux", 0.01)):
        share = np.sqrt(told[f"{name}Err"] ** 2 - plain[f"{name}Err"] ** 2)
        assert_allclose(raised[name] - plain[name], share, rtol=tolerance)
