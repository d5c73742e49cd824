"""The astrometric fit of simulated visits against their truth, and of a real one against Gaia."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated_visits import Sky, make_visit, project

from skyquilt.algorithms.association_and_matching.semi_blind import match_semi_blind
from skyquilt.algorithms.astrometric_fitting.focal_plane import Pointing, pointing_of
from skyquilt.algorithms.astrometric_fitting.single_visit import FitWcsConfig, fit_wcs
from skyquilt.primitives.component import from_state
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.wcs import Wcs


def arguments(visit, source, reference, pointing):
    """Arguments of fit_wcs for pairs of a visit."""
    return [
        visit.detector[source],
        visit.x[source],
        visit.y[source],
        visit.x_err[source, None, None] ** 2 * np.eye(2),
        visit.reference_ra[reference],
        visit.reference_dec[reference],
        np.broadcast_to(visit.reference_error**2 * np.eye(2), (len(reference), 2, 2)),
        visit.focal_plane,
        pointing,
    ]


def fitted(visit, config=None):
    """The fit after a semi-blind match with the pointing 30 arcsec off, and the match."""
    match = match_semi_blind(*visit.guess_arguments(visit.wrong(30.0, 40.0, 0.3)))
    return fit_wcs(*arguments(visit, match.source, match.reference, match.pointing), config), match


def map_errors(visit, fit):
    """Fitted minus true map [arcsec] and its errors in units of what is predicted, on 6 x 6 places of each detector."""
    size = visit.focal_plane.boxes[0].nx
    x, y = (each.ravel() for each in np.meshgrid(*[np.linspace(0, size - 1, 6)] * 2))
    errors, pulls = [], []
    for row, detector in enumerate(visit.focal_plane.ids):
        found = project(*fit.wcs(detector).pixel_to_sky(x, y), visit.pointing.ra, visit.pointing.dec)
        errors.append(found - visit.true_plane(np.full(x.size, row), x, y))
        sigma = np.sqrt(np.diagonal(fit.position_covariance(detector, x, y), axis1=1, axis2=2))
        pulls.append(errors[-1] / sigma)
    return np.array(errors), np.array(pulls)


def star_errors(visit, fit):
    """Position of each source by the fitted WCS minus that of its star, as it stands on the sky [arcsec]."""
    ra, dec = np.full((2, len(visit.x)), np.nan)
    for detector in visit.focal_plane.ids:
        own = visit.detector == detector
        ra[own], dec[own] = fit.wcs(detector).pixel_to_sky(visit.x[own], visit.y[own])
    at = (visit.pointing.ra, visit.pointing.dec)
    errors = project(ra, dec, *at) - project(visit.ra[visit.star], visit.dec[visit.star], *at)
    return np.where((visit.star >= 0)[:, None], errors, np.nan)


@pytest.mark.parametrize(
    "sky",
    [
        Sky(n_star=6000, seed=21),
        Sky(n_star=6000, seed=22, scale_error=0.01, spurious=0.43, blends=0.2),
        Sky(rows=5, columns=5, n_star=15000, seed=23, parity=-1, dec=-60.0, dead=(14,)),
    ],
    ids=["plain", "messy", "large"],
)
def test_bright_stars_are_where_they_are(sky):
    """Stars of S/N > 200 within 6 mas rms per axis of truth, 5 mas of turbulence included; no detector off by 2 mas."""
    visit = make_visit(sky)
    fit, _ = fitted(visit)
    errors = star_errors(visit, fit)
    bright = (visit.snr > 200) & (visit.star >= 0)
    assert np.all(np.sqrt((errors[bright] ** 2).mean(axis=0)) < 0.006)
    for detector in visit.focal_plane.ids:
        own = bright & (visit.detector == detector)
        if own.any():
            assert np.abs(errors[own].mean(axis=0)).max() < 0.002


def test_the_map_without_turbulence_is_right_to_2_mas():
    """A distortion of 0.1 % that no polynomial has, detectors off by 3 pixels: 2 mas rms over all detectors."""
    visit = make_visit(Sky(n_star=6000, turbulence=0.0, seed=24))
    errors, _ = map_errors(visit, fitted(visit)[0])
    assert np.sqrt((errors**2).mean()) < 0.002


def test_pulls_of_the_map_have_unit_width():
    """Over six visits with turbulence, unmodelled distortion and dead detectors.

    Visits scatter by 0.2 about their mean, so that of six is known to 0.08: 0.75 to 1.25 are 3 sigma.
    """
    pulls, dead = [], []
    for seed in range(6):
        visit = make_visit(Sky(n_star=3000, dead=(10, 18), seed=30 + seed))
        fit, _ = fitted(visit)
        assert_array_equal(fit.from_visit_alone, np.isin(visit.focal_plane.ids, (10, 18)))
        of_map = map_errors(visit, fit)[1]
        pulls.append(of_map[~fit.from_visit_alone])
        dead.append(of_map[fit.from_visit_alone])
    assert 0.75 < np.sqrt(np.mean(np.square(pulls))) < 1.25
    # twelve dead detectors with two shifts each, uniform instead of Gaussian: 0.15 sigma
    assert 0.55 < np.sqrt(np.mean(np.square(dead))) < 1.45


def test_pulls_with_nothing_but_centroid_errors():
    """Model and errors as assumed: pulls and chi2 of unity.

    Some 25 parameters in each of four visits: 0.07 is the error of the rms.
    """
    pulls = []
    for seed in range(4):
        visit = make_visit(Sky(n_star=2000, turbulence=0.0, distortion=0.0, seed=40 + seed))
        fit, _ = fitted(visit, FitWcsConfig(least_scatter=1e-5))
        pulls.append(map_errors(visit, fit)[1])
        freedom = 2 * fit.used.sum() - fit.n_free
        # the scatter may be fitted to be above zero, and chi2 be smaller for it
        assert abs(fit.chi2 / freedom - 1) < 5 * np.sqrt(2 / freedom)
    assert 0.72 < np.sqrt(np.mean(np.square(pulls))) < 1.28


def test_scatter_is_found_and_outliers_are_left_out():
    """White scatter of 8 mas comes back within 5 sigma of its error; of 5 % wrong pairs none of 0.2 arcsec is used."""
    visit = make_visit(Sky(n_star=3000, turbulence=0.0, seed=50))
    _, match = fitted(visit)
    given = arguments(visit, match.source, match.reference, match.pointing)
    rng = np.random.default_rng(1)
    n = len(match.source)
    wrong = rng.random(n) < 0.05
    given[4] = given[4] + rng.normal(0, 0.008, n) / 3600 / np.cos(np.radians(given[5]))
    given[5] = given[5] + rng.normal(0, 0.008, n) / 3600 + wrong * rng.choice([-1, 1], n) * 0.2 / 3600
    fit = fit_wcs(*given)
    assert not (fit.used & wrong).any()
    assert (fit.used | wrong).mean() > 0.99
    # a distortion that the model lacks adds about 1 mas
    assert abs(fit.intrinsic_scatter - 0.008) < 5 * 0.008 / np.sqrt(4 * n) + 1e-4


def test_few_stars_get_few_parameters():
    """Twenty stars on a camera as defined: pointing and rotation, and hardly more; no error above what stars have."""
    for seed in range(3):
        sky = Sky(reference_limit=17.35, place_pixels=0, place_degrees=0, distortion=0, seed=60 + seed)
        visit = make_visit(sky)
        fit, match = fitted(visit)
        assert 12 <= len(match.source) <= 40
        assert fit.n_free < 0.5 * len(match.source)
        errors, _ = map_errors(visit, fit)
        # turbulence of 5 mas, centroids of 0.5 mas
        assert np.sqrt((errors**2).mean()) < 0.006


def test_parameters_grow_with_the_stars():
    """More stars, more effective parameters, smaller errors of the map where the camera is not as defined."""
    free, rms = [], []
    for n_star in (60, 400, 6000):
        visit = make_visit(Sky(n_star=n_star, reference_limit=22.0, seed=70))
        fit, match = fitted(visit)
        assert fit.n_free <= len(match.source)
        free.append(fit.n_free)
        rms.append(np.sqrt((map_errors(visit, fit)[0] ** 2).mean()))
    assert free == sorted(free)
    assert rms[0] > rms[1] > rms[2]
    assert rms[2] < 0.008


def test_one_detector_is_the_same_function():
    """A single CCD has no terms of detectors, and is fitted as well."""
    visit = make_visit(Sky(rows=1, columns=1, n_star=800, seed=80))
    fit, _ = fitted(visit)
    assert not any(name.startswith("detector") for name in fit.widths)
    errors = star_errors(visit, fit)[(visit.snr > 200) & (visit.star >= 0)]
    assert np.sqrt((errors**2).mean()) < 0.006


def test_order_changes_nothing_and_repetition_neither():
    """Bit for bit the same WCS from stars in any order."""
    visit = make_visit(Sky(n_star=1500, seed=81))
    first, match = fitted(visit)
    order = np.random.default_rng(2).permutation(len(match.source))
    given = arguments(visit, match.source[order], match.reference[order], match.pointing)
    second = fit_wcs(*given)
    for detector in visit.focal_plane.ids:
        assert first.wcs(detector) == second.wcs(detector)
    assert_array_equal(first.covariance, second.covariance)
    assert_array_equal(first.used[order], second.used)
    assert_array_equal(first.residual[order], second.residual)


def test_wcs_is_a_component_with_an_inverse():
    """It survives as a State, and leads back to the pixel."""
    visit = make_visit(Sky(n_star=1500, seed=82))
    fit, _ = fitted(visit)
    x, y = np.array([0.0, 700.0, 1999.0]), np.array([1999.0, 3.0, 1000.0])
    for detector in visit.focal_plane.ids[:3]:
        wcs = fit.wcs(detector)
        assert from_state(wcs.to_state()) == wcs
        assert_allclose(wcs.sky_to_pixel(*wcs.pixel_to_sky(x, y)), (x, y), atol=1e-6)
    with pytest.raises(KeyError, match="999"):
        fit.wcs(999)


def test_residuals_are_those_of_the_wcs():
    """Reference minus the WCS's position, in the tangent plane; NaN for rows that could not be used."""
    visit = make_visit(Sky(n_star=1000, seed=83))
    _, match = fitted(visit)
    given = arguments(visit, match.source, match.reference, match.pointing)
    given[1] = given[1].copy()
    given[1][:3] = np.nan
    given[0] = given[0].copy()
    given[0][3] = 999
    fit = fit_wcs(*given)
    assert np.isnan(fit.residual[:4]).all()
    assert not fit.used[:4].any()
    at = (match.pointing.ra, match.pointing.dec)
    for k in range(4, 40):
        wcs = fit.wcs(given[0][k])
        found = project(*wcs.pixel_to_sky(given[1][k], given[2][k]), *at)
        assert_allclose(fit.residual[k], project(given[4][k], given[5][k], *at) - found, atol=1e-6)


def test_too_few_stars_are_a_reason():
    """None, two, or none that is finite."""
    visit = make_visit(Sky(seed=84))
    _, match = fitted(visit)
    for n in (0, 2):
        with pytest.raises(ProcessingFailure) as failure:
            fit_wcs(*arguments(visit, match.source[:n], match.reference[:n], match.pointing))
        assert failure.value.reason == Reason.NO_MATCH
    given = arguments(visit, match.source, match.reference, match.pointing)
    given[3] = np.full_like(given[3], np.nan)
    with pytest.raises(ProcessingFailure):
        fit_wcs(*given)
    for n in (3, 4, 5, 8):
        fit = fit_wcs(*arguments(visit, match.source[:n], match.reference[:n], match.pointing))
        assert np.isfinite(fit.wcs(10).pixel_to_sky(3.0, 4.0)).all()


def test_degenerate_stars_give_a_finite_map():
    """One star fifty times, two stars, one detector of many; centroids without error: wide errors elsewhere."""
    visit = make_visit(Sky(n_star=1000, seed=85))
    _, match = fitted(visit)
    n = len(match.source)
    one = np.flatnonzero(visit.detector[match.source] == 10)
    for rows in (np.zeros(50, int), np.arange(40) % 2, one, np.arange(n) % 7):
        given = arguments(visit, match.source[rows], match.reference[rows], match.pointing)
        given[3] = np.broadcast_to(1e-12 * np.eye(2), (len(rows), 2, 2))
        given[6] = np.zeros((len(rows), 2, 2))
        fit = fit_wcs(*given)
        assert np.isfinite(fit.wcs(26).pixel_to_sky(5.0, 5.0)).all()
        covariance = fit.position_covariance(26, 5.0, 5.0)[0]
        assert np.isfinite(covariance).all()
        assert np.linalg.eigvalsh(covariance).min() > 0


def test_pointing_is_found_from_headers():
    """The pointing that WCSs of detectors were made with comes back, of both parities and at the pole."""
    for dec, rotation, parity in ((20.0, 33.0, 1), (-89.99, 200.0, -1)):
        plane = make_visit(Sky(n_star=10)).focal_plane
        pointing = Pointing(10.0, dec, rotation, parity)
        found = pointing_of(plane, {d: plane.wcs(k, pointing) for k, d in enumerate(plane.ids[:5])})
        assert_allclose((found.ra, found.dec, found.rotation_deg), (10.0, dec, rotation), atol=1e-4)
        assert found.parity == parity
    with pytest.raises(ProcessingFailure):
        pointing_of(plane, {})


@pytest.mark.parametrize("dec", [0.0, -70.0, 89.95])
def test_moved_pointing_turns_with_the_meridians(dec):
    """The plane of the moved pointing, taken back to the sky, is that of the old one moved."""
    plane = make_visit(Sky(n_star=10)).focal_plane
    old = Pointing(40.0, dec, 20.0, 1)
    a = 0.4
    matrix, shift = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]), np.array([300.0, -120.0])
    new = old.moved(matrix, shift)
    mm = np.array([[0.0, 0.0], [5.0, 3.0], [-20.0, 11.0]])
    wanted = plane.plane(mm, old) @ matrix.T + shift
    there = plane.plane(mm, new) / 3600
    wcs = plane.wcs(0, new)
    from skyquilt.primitives.geometry import deproject_tangent

    assert wcs.ra == pytest.approx(new.ra)
    found = project(*deproject_tangent(*there.T, new.ra, new.dec), old.ra, old.dec)
    # gnomonic planes about points 323 arcsec apart differ by r^2 d = 5 mas at 440 arcsec
    assert_allclose(found, wanted, atol=0.005)


def test_a_visit_of_hyper_suprime_cam(shared_data):
    """Stars left out of the fit lie within 15 mas (1.48 MAD) per axis of Gaia, on all detectors together."""
    astrometry = shared_data / "hsc-v1180-astrometry"
    if not astrometry.is_dir():
        pytest.skip("no hsc-v1180-astrometry among the real data")
    pytest.importorskip("pandas")
    visit, headers, plane, stars = read_hyper_suprime_cam(astrometry)
    detector, x, y, x_err, y_err = visit
    ra, dec, flux, covariance = stars
    pointing = pointing_of(plane, headers)
    match = match_semi_blind(detector, x, y, 1 / x_err, ra, dec, flux, plane, pointing)
    turned = Pointing(pointing.ra, pointing.dec + 0.08, pointing.rotation_deg + 130.0, -pointing.parity)
    again = match_semi_blind(detector, x, y, 1 / x_err, ra, dec, flux, plane, turned)
    assert_array_equal(again.source, match.source)
    errors = np.zeros((len(x), 2, 2))
    errors[:, 0, 0], errors[:, 1, 1] = x_err**2, y_err**2
    s, r = match.source, match.reference
    assert len(s) > 900
    left = np.full((len(s), 2), np.nan)
    for part in range(4):
        out = np.arange(len(s)) % 4 == part
        k, j = s[~out], r[~out]
        fit = fit_wcs(detector[k], x[k], y[k], errors[k], ra[j], dec[j], covariance[j], plane, match.pointing)
        assert fit.n_free < len(k)
        for number in plane.ids:
            own = out & (detector[s] == number)
            found = fit.wcs(number).pixel_to_sky(x[s[own]], y[s[own]])
            left[own, 0] = 3600 * (ra[r[own]] - found[0]) * np.cos(np.radians(dec[r[own]]))
            left[own, 1] = 3600 * (dec[r[own]] - found[1])
    width = 1.4826 * np.median(np.abs(left - np.median(left, axis=0)), axis=0)
    assert np.all(width < 0.015)


def read_hyper_suprime_cam(directory):
    """Stars of the visit, its raw WCSs, the focal plane, and Gaia at the visit's epoch."""
    import pandas
    from astropy.io import fits

    from skyquilt.algorithms.astrometric_fitting.focal_plane import FocalPlane
    from skyquilt.instrument.camera_yaml import load_camera

    camera = load_camera(Path(__file__).parents[3] / "config" / "cameras" / "hsc.yaml")
    some = camera.detectors
    plane = FocalPlane(
        [d.id for d in some], [d.to_focal_plane() for d in some], [d.box for d in some], camera.to_field()
    )
    columns, headers = [], {}
    for d in some:
        with fits.open(directory / f"1180_{d.id}.fits") as file:
            t = file[1].data
            columns.append([np.full(len(t), d.id), t["x"], t["y"], t["xErr"], t["yErr"]])
            headers[d.id] = Wcs.from_fits_header(file[0].header)
    detector, *others = (np.concatenate(each).astype(float) for each in zip(*columns))
    gaia = pandas.read_parquet(directory / "gaia_refCat.parquet")
    gaia = gaia[np.isfinite(gaia["pm_ra"])].to_dict("series")
    gaia = {name: column.to_numpy() for name, column in gaia.items()}
    years = (56744.2909 - gaia["epoch"]) / 365.25
    dec = gaia["coord_dec"] + years * gaia["pm_dec"]
    ra = gaia["coord_ra"] + years * gaia["pm_ra"] / np.cos(gaia["coord_dec"])
    covariance = np.zeros((len(ra), 2, 2))
    for k, name in enumerate(("ra", "dec")):
        variance = gaia[f"coord_{name}Err"] ** 2 + years**2 * gaia[f"pm_{name}Err"] ** 2
        variance += 2 * years * gaia[f"coord_{name}_pm_{name}_Cov"]
        covariance[:, k, k] = variance * np.degrees(3600) ** 2
    stars = (np.degrees(ra), np.degrees(dec), gaia["phot_g_mean_flux"], covariance)
    return (detector.astype(int), *others), headers, plane, stars
