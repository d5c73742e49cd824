"""The PSF of a visit against the noise-free effective PSF of the simulation."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.psf_modeling.config import VisitPsfConfig
from skyquilt.algorithms.psf_modeling.full_visit import fit_psf
from skyquilt.algorithms.psf_modeling.spatial_variation import terms
from skyquilt.primitives.component import from_state
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.simulation.point_spread import add_star
from skyquilt.simulation.point_spread_truth import profile_moments

SIZE_FLOOR = 0.003
"""What an error of 0.5 % in each pixel makes of a star's size: stars count no more than this allows."""


def errors_of_a_twin(visit, stamps, fit, degree):
    """What a polynomial of each star's own size and shape, with the same noise, would do at the places of
    the truth: standard errors of the means of dT / T, de1, de2 over them, and rms differences.

    Least squares, propagated exactly; the part that the polynomial cannot follow is in the rms.
    """
    focal = [place.to_focal_plane for place in visit.places]

    def scaled(detector, x, y):
        u, v = focal[detector].forward(x, y)
        return (u - visit.middle[0]) / visit.radius, (v - visit.middle[1]) / visit.radius

    used = np.flatnonzero(fit.stars.used)
    at = np.array([scaled(stamps.detector[k], stamps.x[k], stamps.y[k]) for k in used])
    design = terms(*at.T, degree)
    grid = [np.array(scaled(k, *visit.grid())).T for k in range(len(visit.places))]
    wanted = terms(*np.concatenate(grid).T, degree)
    true = np.concatenate([visit.truth(k) for k in range(len(visit.places))])
    stars = fit.stars
    means, rms = [], []
    for k, error in enumerate((stars.size_error, stars.e1_error, stars.e2_error)):
        root = 1 / np.hypot(error[used], SIZE_FLOOR)
        covariance = np.linalg.inv((design * root[:, None] ** 2).T @ design)
        mean = wanted.mean(axis=0)
        means.append(np.sqrt(mean @ covariance @ mean))
        values = np.log(true[:, 0]) if k == 0 else true[:, k]
        missed = values - wanted @ np.linalg.lstsq(wanted, values, rcond=None)[0]
        rms.append(np.sqrt(np.einsum("ni,ij,nj->n", wanted, covariance, wanted).mean() + (missed**2).mean()))
    return np.array(means), np.array(rms)


@pytest.mark.parametrize(
    ("fwhm", "n", "snr"), [(2.3, 40, (30, 1000)), (3.5, 30, (30, 1000)), (5.0, 20, (100, 1000))]
)
def test_size_and_shape_are_those_of_the_effective_psf(make_visit, fwhm, n, snr):
    """Means over 5 x 5 places of each detector are within 1e-3 (size) and 3e-4 (shape) and twice the standard
    error of a polynomial twin; the rms no larger than 1.3 times the twin's; centres are at the star's place.

    The twin interpolates sizes measured star by star: a model of all pixels can hardly do better. 1.3: the rms
    over 100 correlated places (some 15 free terms) scatters by 1 / sqrt(2 * 15) = 0.18 of itself.
    """
    visit = make_visit(fwhm, (2, 2), seed=3)
    stamps, _ = visit.stamps(n, snr)
    fit = fit_psf(stamps, visit.places)
    found = np.concatenate([visit.differences(fit.psfs[k], k) for k in range(4)])
    errors, rms = errors_of_a_twin(visit, stamps, fit, int(fit.figures["degree"]))
    assert (np.abs(found[:, :3].mean(axis=0)) < np.array([1e-3, 3e-4, 3e-4]) + 2 * errors).all()
    assert (np.sqrt((found[:, :3] ** 2).mean(axis=0)) < 1.3 * rms + np.array([1e-3, 3e-4, 3e-4])).all()
    assert np.abs(found[:, 3:]).max() < 2e-3


def test_without_noise_a_constant_psf_is_exact(make_visit):
    """One PSF for all stars, no noise: size to 3e-4, shape to 1e-4, fluxes to 5 mmag.

    What remains is the prior against some 60 stars of S/N 100, and the wing beyond the join.
    """
    visit = make_visit(3.5, ellipticity=0.02, size=0.0)
    visit.spread = replace(visit.spread, ellipticity=0.0)
    stamps, truth = visit.stamps(60, (100, 101), noise=False)
    fit = fit_psf(stamps, visit.places)
    found = visit.differences(fit.psfs[0], 0)
    assert np.abs(found[:, 0]).max() < 3e-4
    assert np.abs(found[:, 1:3]).max() < 1e-4
    assert_allclose(fit.stars.flux, truth["flux"], rtol=0.0046)
    assert np.abs(fit.stars.x - stamps.x).max() < 1e-3


def test_reserved_stars_agree_and_errors_are_true(make_visit):
    """Residuals of stars without a part in the fit have the mean 0 within 3 standard errors, and pulls of unit
    width: 3 sigma of the width of 160 normal numbers; magnitudes are right to 5 mmag, flux pulls likewise."""
    visit = make_visit(3.5, (2, 2), seed=5)
    stamps, truth = visit.stamps(80, (30, 150), reserved=0.5)
    fit = fit_psf(stamps, visit.places)
    stars, chosen = fit.stars, stamps.reserved & ~fit.stars.rejected
    assert not stars.used[stamps.reserved].any()
    width = 3 / np.sqrt(2 * chosen.sum())
    for name in ("size", "e1", "e2"):
        figures = fit.figures
        assert abs(figures[f"reserved_{name}_mean"]) < 3 * figures[f"reserved_{name}_error"]
        # the model's own error adds to that of a star
        model = 0.006
        error = getattr(stars, f"{name}_error")[chosen]
        pull = getattr(stars, f"{name}_residual")[chosen] / error
        assert abs(pull.std() - np.sqrt(1 + np.mean((model / error) ** 2)) / 2 - 0.5) < width + 0.1
    ratio = stars.flux / truth["flux"]
    error = stars.flux_error / truth["flux"]
    mean = np.average(ratio, weights=error**-2)
    assert abs(-2.5 * np.log10(mean)) < 0.005
    assert abs(((ratio - mean) / error).std() - 1) < 3 / np.sqrt(2 * len(stamps)) + 0.05


def test_noise_of_centres_leaves_the_size_alone(make_visit):
    """Stars of S/N 12, each twice, with the same noise of opposite signs: what is of first order in the noise
    drops out, and what centres fitted to it do remains. Without its correction the size is too small by the
    centres' variances over T, together above 1 %. The mean of eight draws is 0, and not that, by 3 of its
    standard errors (taken from the draws)."""
    visit = make_visit(3.0, seed=1, ellipticity=0.0, size=0.0)
    stamps, _ = visit.stamps(80, (12, 12.01), side=21, noise=False)
    rng, found, expected = np.random.default_rng(2), [], []
    config = VisitPsfConfig(visit_degree=0, order=2, n_interval=8)
    twice = stamps.take(np.tile(np.arange(80), 2))
    for _ in range(8):
        noise = rng.normal(size=stamps.image.shape) * np.sqrt(stamps.variance)
        each = replace(twice, image=twice.image + np.concatenate([noise, -noise]))
        fit = fit_psf(each, visit.places, config)
        found.append(fit.psfs[0].moments_at(500, 500).trace / visit.truth(0)[12, 0] - 1)
        expected.append(2 * np.var(fit.stars.x - twice.x) / visit.truth(0)[12, 0])
    error = np.std(found, ddof=1) / np.sqrt(8)
    assert abs(np.mean(found)) < 3 * error
    assert np.mean(found) + np.mean(expected) > 3 * error


def test_galaxies_and_binaries_are_left_out(make_visit):
    """With a tenth of galaxies and a twentieth of close binaries the mean size stays within 1e-3 and twice
    the twin's error; nearly all galaxies and few stars are rejected.

    A clip at 4 sigma in three numbers and chi2 loses 4 * 6e-5 of the stars; 2 % allows for their tails.
    """
    visit = make_visit(3.5, (2, 2), seed=8)
    stamps, truth = visit.stamps(60, (50, 1000), galaxies=0.1, binaries=0.05)
    fit = fit_psf(stamps, visit.places)
    rejected = fit.stars.rejected
    assert rejected[truth["kind"] == 2].mean() > 0.9
    assert rejected[truth["kind"] == 0].mean() < 0.02
    found = np.concatenate([visit.differences(fit.psfs[k], k) for k in range(4)])
    errors, _ = errors_of_a_twin(visit, stamps, fit, 4)
    assert abs(found[:, 0].mean()) < 1e-3 + 2 * errors[0]


def test_hits_and_neighbours_are_masked(make_visit):
    """Cosmic rays and neighbours in a third of the stamps, away from the core, change the size by less than
    the noise does: 3 standard errors of the difference bound, taken as those of the clean fit's mean."""
    visit = make_visit(3.5, seed=2)
    stamps, _ = visit.stamps(60, (50, 500))
    clean = fit_psf(stamps, visit.places)
    image, variance = stamps.image.copy(), stamps.variance.copy()
    side = stamps.side
    for k in range(0, 60, 3):
        peak = image[k].max()
        if k % 2:
            image[k, 4, 5:8] += peak
        else:
            light = np.zeros((side, side))
            add_star(light, visit.profile(0, 500, 500), 6.0, 30.0, 1.0, 60)
            image[k] += light * 0.4 * peak / light.max()
        variance[k] = 400 + np.maximum(image[k], 0)
    dirty = fit_psf(replace(stamps, image=image, variance=variance), visit.places)
    errors, _ = errors_of_a_twin(visit, stamps, clean, int(clean.figures["degree"]))
    change = visit.differences(dirty.psfs[0], 0)[:, :3] - visit.differences(clean.psfs[0], 0)[:, :3]
    assert (np.abs(change.mean(axis=0)) < 3 * errors).all()


def test_colour_widens_the_psf(make_visit):
    """Width that goes with colour is found: the slope of ln T to 3 standard errors of a twin's, linear in
    colour and places, of each star's own size."""
    visit = make_visit(3.5, (2, 1), seed=1)
    stamps, _ = visit.stamps(100, (100, 1000), colour=-0.02)
    fit = fit_psf(stamps, visit.places, VisitPsfConfig(reference_colour=1.0))
    psf = fit.psfs[0]
    blue, middle, red = (psf.at_colour(c).moments_at(400, 600).trace for c in (0.0, 1.0, 2.0))
    wide, narrow = (profile_moments(visit.profile(0, 400.0, 600.0, w))[0] for w in (1.02, 0.98))
    used = fit.stars.used
    root = 1 / np.hypot(fit.stars.size_error, SIZE_FLOOR)[used]
    at = np.array(
        [visit.places[k].to_focal_plane.forward(x, y) for k, x, y in zip(stamps.detector, stamps.x, stamps.y)]
    )
    design = terms(*((at[used] - visit.middle) / visit.radius).T, int(fit.figures["degree"]))
    design = np.column_stack([stamps.colour[used], design]) * root[:, None]
    error = np.sqrt(np.linalg.inv(design.T @ design)[0, 0])
    assert abs(np.log(red / blue) - np.log(narrow / wide)) / 2 < 3 * error
    assert error < 0.005
    assert middle == psf.at_colour(np.nan).moments_at(400, 600).trace


def test_turned_and_mirrored_detectors_share_one_model(make_visit):
    """A detector without stars, turned by 90 degrees, has the PSF of the others as it sees it."""
    turns = [np.eye(2), [[0, -1], [1, 0]], [[-1, 0], [0, 1]], [[0, 1], [1, 0]]]
    visit = make_visit(3.0, (2, 2), seed=6, turns=turns)
    stamps, _ = visit.stamps(40, (100, 1000), detectors=(0, 2, 3))
    fit = fit_psf(stamps, visit.places)
    assert [fit.psfs[k].from_visit for k in range(4)] == [False, True, False, False]
    assert fit.psfs[1].n_stars == 0
    true = visit.truth(1)
    found = visit.differences(fit.psfs[1], 1)
    # extrapolated over a quarter of the focal plane: much better than a constant
    for k in (1, 2):
        others = np.concatenate([visit.truth(n)[:, k] for n in (0, 2, 3)])
        assert found[:, k].std() < 0.6 * max(true[:, k].std(), others.std())
    for k in (0, 2, 3):
        assert np.abs(visit.differences(fit.psfs[k], k)[:, 1:3].mean(axis=0)).max() < 3e-3


@pytest.mark.parametrize("n", [1, 5, 20])
def test_few_stars_give_a_simple_model(make_visit, n):
    """The degree follows the number of stars; the mean size is right within what its variation over the field
    leaves open: 4 standard deviations of a mean of n places."""
    visit = make_visit(3.5, seed=4)
    stamps, _ = visit.stamps(n, (100, 500))
    fit = fit_psf(stamps, visit.places)
    terms_in_use = (fit.figures["degree"] + 1) * (fit.figures["degree"] + 2) / 2
    assert terms_in_use * VisitPsfConfig().stars_per_term <= max(n, 2)
    true = visit.truth(0)
    spread = true[:, 0].std() / true[:, 0].mean()
    assert abs(visit.differences(fit.psfs[0], 0)[:, 0].mean()) < 4 * spread / np.sqrt(n) + 0.01


def test_undersampled_stars(make_visit):
    """FWHM 1.6 pixels: the same bounds hold with the twin's errors, and few stars are lost."""
    visit = make_visit(1.6, (2, 1), seed=2)
    stamps, _ = visit.stamps(80, (50, 1000))
    fit = fit_psf(stamps, visit.places)
    found = np.concatenate([visit.differences(fit.psfs[k], k) for k in range(2)])
    assert fit.stars.rejected.mean() < 0.1
    assert abs(found[:, 0].mean()) < 5e-3
    assert np.abs(found[:, 1:3].mean(axis=0)).max() < 3e-3


def test_bright_stars_tell_the_wing(make_visit):
    """Saturated stars on large stamps: light beyond the join is right to 10 % out to 20 FWHM, and the PSF holds
    0.5 % of all light."""
    visit = make_visit(3.0, seed=2, share=0.0)
    stamps, _ = visit.stamps(80, (50, 600))
    bright, _ = visit.stamps(6, (3000, 9000), side=141)
    core = bright.image > 0.3 * bright.image.max(axis=(1, 2), keepdims=True)
    fit = fit_psf(stamps, visit.places, bright=replace(bright, good=~core))
    assert fit.figures["wing_slope"] == pytest.approx(11 / 3, abs=0.3)
    box = Box(400, 400, 201, 201)
    found, true = fit.psfs[0].light_in(500.0, 500.0, box), np.zeros((201, 201))
    add_star(true, visit.profile(0, 500.0, 500.0), 100.0, 100.0, 1.0, 1000.0)
    radius = np.hypot(*np.meshgrid(np.arange(-100, 101), np.arange(-100, 101)))
    for r in (20, 30, 45, 60):
        ring = np.abs(radius - r) < 2
        assert found[ring].sum() == pytest.approx(true[ring].sum(), rel=0.1)
    assert found.sum() == pytest.approx(true.sum(), abs=0.005)


def test_rows_in_any_order_give_the_same_bytes(make_visit):
    """The order of the stars does not matter, and their results come back in it."""
    visit = make_visit(2.5, (2, 1), seed=1)
    stamps, _ = visit.stamps(20, reserved=0.1)
    order = np.random.default_rng(3).permutation(len(stamps))
    one, other = fit_psf(stamps, visit.places), fit_psf(stamps.take(order), visit.places[::-1])
    for k in range(2):
        assert one.psfs[k].to_state() == other.psfs[k].to_state()
        assert from_state(one.psfs[k].to_state()) == one.psfs[k]
    for name in one.stars.__dataclass_fields__:
        assert_array_equal(getattr(one.stars, name)[order], getattr(other.stars, name))
    assert one.figures == other.figures


def test_nothing_to_fit_is_said(make_visit):
    """No stars, none with good pixels, all reserved, NaN: NO_STARS; a strange detector is a bug."""
    visit = make_visit(3.0)
    stamps, _ = visit.stamps(8)
    empty = np.zeros(0, np.int64)
    broken = [
        stamps.take(empty),
        replace(stamps, good=np.zeros_like(stamps.good)),
        replace(stamps, reserved=np.ones(8, bool)),
        replace(stamps, image=np.full_like(stamps.image, np.nan)),
        replace(stamps, variance=np.zeros_like(stamps.variance)),
        replace(stamps, image=-stamps.image),
        replace(stamps, x=np.full(8, np.nan)),
    ]
    for each in broken:
        with pytest.raises(ProcessingFailure) as failure:
            fit_psf(each, visit.places)
        assert failure.value.reason == Reason.NO_STARS
    with pytest.raises(ValueError, match="detectors that were not given"):
        fit_psf(replace(stamps, detector=np.full(8, 9)), visit.places)


def test_bad_stars_among_good_ones_do_no_harm(make_visit):
    """NaN, infinite, empty, negative and flat stamps among others are rejected, and the PSF is finite."""
    visit = make_visit(3.0)
    stamps, _ = visit.stamps(30, (100, 500))
    image, good, x = stamps.image.copy(), stamps.good.copy(), stamps.x.copy()
    image[0], image[1, 20] = np.nan, np.inf
    good[2] = False
    image[3] = -image[3]
    image[4] = 1e6
    x[5] = np.nan
    image[6] = 1e30
    fit = fit_psf(replace(stamps, image=image, good=good, x=x), visit.places)
    assert fit.stars.rejected[[0, 2, 3, 4, 5, 6]].all()
    assert fit.stars.used[7:].mean() > 0.9
    assert np.isfinite(fit.psfs[0].coefficients).all()
    assert np.isnan(fit.stars.flux[0])


@pytest.mark.parametrize("side", [5, 9])
def test_tiny_stamps_give_a_psf(make_visit, side):
    """Stamps barely wider than the star still give a PSF, with its wing from the power law."""
    visit = make_visit(2.5)
    stamps, _ = visit.stamps(20, (100, 500), side=side)
    psf = fit_psf(stamps, visit.places).psfs[0]
    assert psf.image_at(300.2, 400.4).array.sum() == pytest.approx(1)
    assert abs(visit.differences(psf, 0)[12, 0]) < 0.2
