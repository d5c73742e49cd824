"""Snaps of one visit: what is in one only, and their sum, beside the truth of simulated pairs."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from skyquilt.algorithms.artifact_detection import snaps as module
from skyquilt.algorithms.artifact_detection.cosmic_rays import CosmicRayConfig
from skyquilt.algorithms.artifact_detection.satellite_trails import SatelliteTrailsConfig
from skyquilt.algorithms.artifact_detection.snaps import (
    SnapsConfig,
    combine_snaps,
    relate_snaps,
    subtract_snaps,
)
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.mask import Mask

SIZE = 320
CONFIG = SnapsConfig(find_trails=False)


def snap(electrons, rng, read_noise=5.0, time=15.0, number=0):
    """Exposure of a mean image [electron] with photon and read noise; full well 80 000."""
    charge = rng.poisson(electrons).astype(float)
    image = charge + rng.normal(0, read_noise, charge.shape)
    mask = Mask.blank(image.shape)
    mask.set("SATURATED", electrons > 80000)
    info = {"exposure_time": time, "datetime_mid": 60000.0 + 2e-4 * number, "snap": number, "visit": 7}
    variance = np.maximum(charge, 1) + read_noise**2
    return Exposure(image.astype(np.float32), mask, variance.astype(np.float32), info=info)


def hits(rng, n, shape, low=150.0):
    """Charge of point hits and short tracks diffused by 0.35 pixel."""
    charge = np.zeros(shape)
    for _ in range(n):
        y, x = rng.integers(8, shape[0] - 8), rng.integers(8, shape[1] - 8)
        angle, length = rng.uniform(0, np.pi), rng.integers(1, 7)
        for t in range(length):
            charge[round(y + t * np.sin(angle)), round(x + t * np.cos(angle))] += low * rng.uniform(1, 20)
    return ndimage.gaussian_filter(charge, 0.35)


@pytest.fixture
def sky(rng, paint_stars):
    """Mean image of one snap: 200 electrons of sky and 60 stars from faint to bright."""
    flux = 10 ** rng.uniform(2.5, 5.5, 60)
    x, y = rng.uniform(10, SIZE - 10, (2, 60))
    return paint_stars(np.full((SIZE, SIZE), 200.0), x, y, flux, 1.4)


def find(one, two, config=CONFIG, **changes):
    return subtract_snaps(one, two, config, CosmicRayConfig(), SatelliteTrailsConfig(), **changes)


def test_relation_of_light_and_sky_is_measured(rng, sky):
    """Transparency 0.85 and 40 electrons more sky come out within 4 standard errors, hits or not."""
    one = snap(sky + hits(rng, 30, sky.shape), rng)
    two = snap(0.85 * (sky - 200) + 240 + hits(rng, 30, sky.shape), rng)
    relation = relate_snaps(one, two, one.mask.any("SATURATED") | two.mask.any("SATURATED"))
    assert relation.n_bins >= 20
    assert abs(relation.scale - 0.85) < 4 * relation.scale_error
    # offset = sky of the second - scale * sky of the first; each from 400 bins of noise 1
    assert abs(relation.offset - (240 - relation.scale * 200)) < 1.0


def test_without_bright_stars_exposure_times_relate(rng):
    """An empty sky says nothing of the transparency: the ratio of exposure times stands."""
    one, two = (
        snap(np.full((128, 128), level), rng, time=time) for level, time in ((100.0, 15), (200.0, 30))
    )
    relation = relate_snaps(one, two, np.zeros((128, 128), bool))
    assert (relation.scale, relation.scale_error, relation.n_bins) == (2.0, 0.0, 0)
    assert abs(relation.offset) < 1.0


def test_hits_of_either_snap_are_found_in_it_alone(rng, sky):
    """Hit pixels above 12 sigma off bright stars are marked in their snap, and nothing 3 pixels from its hits."""
    charge = [hits(rng, 25, sky.shape), hits(rng, 25, sky.shape)]
    found = find(*(snap(sky + each, rng, number=k) for k, each in enumerate(charge)))
    noise = np.sqrt(sky + 25)
    for each, pixels in zip(charge, found.cosmic_rays):
        strong = (each > 12 * noise) & (sky < 1000)
        assert pixels[strong].mean() > 0.97
        near = ndimage.binary_dilation(each > noise, np.ones((7, 7)))
        assert not pixels[~near].any()
    assert min(found.n_events) > 15


def test_two_snaps_show_fainter_hits_than_one(rng):
    """Of point hits of 6.5 sigma, two snaps show more than the single image does, at no false event."""
    from skyquilt.algorithms.artifact_detection.cosmic_rays import find_cosmic_rays

    sky = np.full((SIZE, SIZE), 400.0)
    charge = np.zeros(sky.shape)
    charge[12::24, 12::24] = 6.5 * np.sqrt(425.0)
    one, two = snap(sky + charge, rng), snap(sky, rng)
    places = charge > 0
    single = find_cosmic_rays(
        one.image, np.zeros(sky.shape, bool), one.variance, CosmicRayConfig(), fwhm=2.3
    ).pixels
    found = find(one, two, fwhm=2.3)
    # 169 hits; ten more are expected, so that none more is a chance of 5e-5
    assert found.cosmic_rays[0][places].sum() > single[places].sum()
    assert found.cosmic_rays[1].sum() <= 2


def test_hits_in_front_of_sources_are_found_in_the_difference(rng, paint_stars):
    """Hits of 12 sigma on smooth galaxies of 12 pixels: the difference shows them, one image hardly any."""
    from skyquilt.algorithms.artifact_detection.cosmic_rays import find_cosmic_rays

    x, y = (v.ravel() for v in np.meshgrid(*[np.arange(20, 320, 40.0)] * 2))
    sky = paint_stars(np.full((SIZE, SIZE), 200.0), x, y, np.full(x.size, 6.3e4), 5.0)
    charge = np.zeros(sky.shape)
    for xs, ys, angle in zip(x, y, rng.uniform(0, 2 * np.pi, x.size)):
        j, i = round(ys + 5 * np.sin(angle)), round(xs + 5 * np.cos(angle))
        charge[j, i] = 12 * np.sqrt(sky[j, i] + 25)
    places = charge > 0
    one, two = snap(sky + charge, rng), snap(sky, rng)
    single = find_cosmic_rays(one.image, np.zeros(sky.shape, bool), one.variance, CosmicRayConfig()).pixels
    found = find(one, two).cosmic_rays[0]
    # 12 / sqrt(2) = 8.5 sigma in the difference, 7 with the photon noise of the hit; 4.6 are needed
    assert found[places].mean() > 0.85
    assert single[places].mean() < 0.5


def test_a_pixel_that_sank_in_one_snap_is_no_hit_of_the_other(rng):
    """64 pixels 9 sigma too low in the second snap stand out of the difference by 6.4, and the first has nothing there."""
    places = tuple(v.ravel() for v in np.meshgrid(*[np.arange(20, 320, 40)] * 2))
    one, two = (snap(np.full((SIZE, SIZE), 200.0), rng) for _ in range(2))
    two.image[places] -= np.float32(9 * 15)
    found = find(one, two, fwhm=3.0).cosmic_rays[0]
    # the first snap's own noise would have to be over 4.2 sigma: 1e-5 each
    assert not found[places].any()


def test_hits_beside_which_the_other_snap_was_hit_are_not_made_up(rng):
    """Hits of thousands of electrons in the second snap leave no rims in the first."""
    charge = hits(rng, 60, (SIZE, SIZE), low=400.0)
    one, two = snap(np.full(charge.shape, 200.0), rng), snap(200.0 + charge, rng)
    found = find(one, two, fwhm=3.0).cosmic_rays[0]
    # 0.1 Mpix of which at most 5 events per Mpix are noise
    assert ndimage.label(found, np.ones((3, 3)))[1] <= 3


def test_stars_survive_a_change_of_seeing(rng, paint_stars):
    """Seeing of 2.6 and 3.1 pixels in the two snaps: no star of 50 is marked, at 1e3 to 3e5 electrons."""
    x, y = (v.ravel() + rng.uniform(-0.5, 0.5, 49) for v in np.meshgrid(*[np.arange(20, 320, 43.0)] * 2))
    flux = 10 ** rng.uniform(3, 5.5, 49)
    images = [paint_stars(np.full((SIZE, SIZE), 200.0), x, y, flux, sigma) for sigma in (1.1, 1.32)]
    found = find(*(snap(image, rng) for image in images))
    for pixels in found.cosmic_rays:
        for xs, ys in zip(x, y):
            assert not pixels[round(ys) - 2 : round(ys) + 3, round(xs) - 2 : round(xs) + 3].any()


def test_moving_and_variable_objects_are_not_hits(rng, paint_stars):
    """Stars that moved by a pixel, doubled, or are in one snap only are no cosmic rays."""
    x, y = (v.ravel() for v in np.meshgrid(*[np.arange(20, 320, 43.0)] * 2))
    n = x.size
    flux = np.full(n, 8000.0)
    kind = np.arange(n) % 3
    one = paint_stars(np.full((SIZE, SIZE), 200.0), x, y, np.where(kind == 0, 2.0, 1.0) * flux, 1.3)
    two = paint_stars(
        np.full((SIZE, SIZE), 200.0), x + (kind == 1), y, np.where(kind == 2, 1e-6, 1.0) * flux, 1.3
    )
    exposures = [snap(image, rng) for image in (one, two)]
    found = find(*exposures)
    assert not found.cosmic_rays[0].any()
    assert not found.cosmic_rays[1].any()


def test_what_both_snaps_have_is_no_hit(rng, sky):
    """A sharp pixel with the same charge in both snaps, a hot one, is not marked as a cosmic ray."""
    hot = np.zeros(sky.shape)
    hot[40::40, 40::40] = 2500.0
    found = find(snap(sky + hot, rng), snap(sky + hot, rng))
    assert found.cosmic_rays[0][hot > 0].mean() < 0.05


def test_a_trail_in_one_snap_is_a_streak(rng, sky):
    """A satellite's line of 2 sigma per pixel across the first snap is marked in it and not in the second."""
    y, x = np.indices(sky.shape)
    trail = 30.0 * np.exp(-((y - 0.5 * x - 60) ** 2) / (2 * 1.25 * 1.5**2))
    one, two = snap(sky + trail, rng), snap(sky, rng)
    found = find(one, two, SnapsConfig())
    assert found.n_trails == (1, 0)
    assert found.streaks[0][trail > 25].mean() > 0.9
    found.mark([one, two])
    np.testing.assert_array_equal(one.mask.any("STREAK"), found.streaks[0])
    np.testing.assert_array_equal(two.mask.any("COSMIC_RAY"), found.cosmic_rays[1])


def test_a_hit_on_a_bright_trail_does_not_hide_it(rng, sky):
    """A trail of 15 sigma per pixel with hits on it and beside it is a streak; the hits do not grow along it."""
    y, x = np.indices(sky.shape)
    trail = 220.0 * np.exp(-((y - 0.5 * x - 60) ** 2) / (2 * 1.25 * 1.5**2))
    charge = np.zeros(sky.shape)
    for place in (40, 130, 220):
        charge[round(0.5 * place + 60) - 2 : round(0.5 * place + 60) + 6, place] = 3000.0
    one, two = snap(sky + trail + charge, rng), snap(sky, rng)
    found = find(one, two, SnapsConfig())
    assert found.n_trails == (1, 0)
    assert found.streaks[0][trail > 25].mean() > 0.9
    assert found.cosmic_rays[0][(trail > 100) & (charge == 0)].mean() < 0.2


def test_trails_on_one_track_are_found_in_both_snaps(rng, sky):
    """The fainter of two satellites that follow each other is negative in the difference, and found all the same."""
    y, x = np.indices(sky.shape)
    profile = np.exp(-((y - 0.5 * x - 60) ** 2) / (2 * 1.25 * 1.5**2))
    one, two = snap(sky + 300 * profile, rng), snap(sky + 60 * profile, rng)
    found = find(one, two, SnapsConfig())
    assert found.n_trails == (1, 1)
    for streak in found.streaks:
        assert streak[profile > 0.5].mean() > 0.9
    # and nothing where only one has a trail
    alone = find(one, snap(sky, rng), SnapsConfig())
    assert alone.n_trails == (1, 0)


def test_sum_of_clean_snaps_is_the_plain_sum(rng, sky):
    """Electrons and variances add exactly, times too; planes of any snap are kept."""
    one, two = snap(sky, rng), snap(sky, rng, time=10.0, number=1)
    two.mask.set("SUSPECT", (slice(0, 2), slice(0, 2)))
    for exposure in (one, two):
        exposure.mask.clear("SATURATED")
    total = combine_snaps([one, two], CONFIG)
    np.testing.assert_allclose(total.image, one.image.astype(float) + two.image, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(total.variance, one.variance.astype(float) + two.variance, rtol=1e-6)
    assert total.mask.count("SUSPECT") == 4
    assert total.info["exposure_time"] == 25.0
    assert total.info["datetime_mid"] == pytest.approx(60000 + 2e-4 * 10 / 25, abs=1e-9)
    assert (total.info["n_snaps"], total.info["missing_snaps"], total.info["filled_pixels"]) == (2, 0, 0)
    assert "snap" not in total.info


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sum_conserves_flux_and_its_variance_is_true(seed, paint_stars):
    """Hits on a third of the pixels of either snap leave no trace: pulls against the truth have mean 0 and width 1."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(10, SIZE - 10, (2, 200))
    mean = paint_stars(np.full((SIZE, SIZE), 200.0), x, y, 10 ** rng.uniform(3, 4.5, 200), 1.4)
    truth = [mean, 0.9 * (mean - 200) + 230]
    exposures = [snap(image, rng, number=k) for k, image in enumerate(truth)]
    for exposure, image in zip(exposures, truth):
        lost = rng.uniform(size=mean.shape) < 1 / 3
        exposure.image[lost] += 5000
        exposure.mask.set("COSMIC_RAY", lost)
        # the true variance: that of the pixel's own counts would favour low ones
        exposure.variance[:] = image + 25
    both = np.logical_and(*(exposure.mask.any("COSMIC_RAY") for exposure in exposures))
    total = combine_snaps(exposures, CONFIG)
    np.testing.assert_array_equal(total.mask.any("COSMIC_RAY"), both)
    assert total.info["filled_pixels"] == pytest.approx(4 / 9 * mean.size, rel=0.05)
    # on the sky, where the error of the scale does not count
    quiet = ~both & (mean < 210)
    pull = (total.image - sum(truth))[quiet] / np.sqrt(total.variance[quiet])
    n = np.count_nonzero(quiet)
    assert abs(pull.std() - 1) < 4 / np.sqrt(2 * n)
    # the offset's own error, about 0.15 electron of 28, comes on top
    assert abs(pull.mean()) < 4 / np.sqrt(n) + 0.02
    light = ~both & (mean > 400)
    share = (total.image - 430)[light].sum() / (sum(truth) - 430)[light].sum()
    error = np.sqrt(total.variance[light].sum()) / (sum(truth) - 430)[light].sum()
    assert abs(share - 1) < 4 * error + 0.005


def test_found_hits_leave_no_trace_in_the_sum(rng, sky):
    """Subtract, mark, combine: no pixel of the sum is 7 sigma above the truth except beside stars' cores."""
    charge = [hits(rng, 25, sky.shape, low=400.0), hits(rng, 25, sky.shape, low=400.0)]
    exposures = [snap(sky + each, rng, number=k) for k, each in enumerate(charge)]
    find(*exposures).mark(exposures)
    total = combine_snaps(exposures, CONFIG)
    good = ~total.mask.any(["SATURATED", "COSMIC_RAY"]) & (sky < 1000)
    pull = (total.image - 2 * sky) / np.sqrt(total.variance)
    assert total.info["filled_pixels"] > 100
    assert pull[good].max() < 7
    assert (pull[good] > 5).sum() <= 3


def test_saturated_in_either_is_saturated_but_filled(rng):
    """SATURATED stays, and the value is the other snap's, scaled."""
    one, two = (snap(np.full((64, 64), 1000.0), rng, time=time) for time in (15.0, 15.0))
    one.image[10, 10] = 90000
    one.mask.set("SATURATED", (10, 10))
    one.mask.set("COSMIC_RAY", (10, 10))
    total = combine_snaps([one, two], CONFIG)
    assert total.mask.any("SATURATED")[10, 10]
    assert not total.mask.any("COSMIC_RAY")[10, 10]
    assert total.image[10, 10] == pytest.approx(2 * two.image[10, 10], abs=10)
    assert total.variance[10, 10] == pytest.approx(4 * two.variance[10, 10], rel=1e-3)


def test_nan_without_data_in_one_snap_is_filled(rng):
    """A dead amplifier in one snap: values from the other, NO_DATA stays."""
    one, two = (snap(np.full((64, 64), 500.0), rng) for _ in range(2))
    one.image[:, 40:] = np.nan
    one.variance[:, 40:] = np.nan
    one.mask.set(["NO_DATA", "BAD"], (slice(None), slice(40, None)))
    total = combine_snaps([one, two], CONFIG)
    assert np.isfinite(total.image).all()
    assert np.isfinite(total.variance).all()
    assert total.mask.count("NO_DATA") == 64 * 24


def test_a_missing_snap_does_not_stop_the_visit(rng, sky):
    """The snap that is there, with its own exposure time, and a note that one is missing."""
    one = snap(sky, rng)
    for exposures in ([one, None], [None, one]):
        total = combine_snaps(exposures, CONFIG)
        np.testing.assert_array_equal(total.image, one.image)
        assert total.info["exposure_time"] == 15.0
        assert (total.info["n_snaps"], total.info["missing_snaps"]) == (1, 1)
    assert total.image is not one.image
    with pytest.raises(ProcessingFailure) as failure:
        combine_snaps([None, None], CONFIG)
    assert failure.value.reason is Reason.TOO_FEW_INPUTS


def test_masks_with_other_bits_combine_by_name(rng):
    """Planes on different bits, and a plane that one mask lacks, come out right."""
    one, two = (snap(np.full((40, 40), 300.0), rng) for _ in range(2))
    other = Mask.blank((40, 40), ["STREAK", "SATURATED", "BAD", "NO_DATA", "COSMIC_RAY", "SEEN"])
    other.set("SEEN", (3, 4))
    other.set("COSMIC_RAY", (5, 6))
    total = combine_snaps([one, two.with_(mask=other)], CONFIG)
    assert np.argwhere(total.mask.any("SEEN")).tolist() == [[3, 4]]
    assert total.mask.count("COSMIC_RAY") == 0


def test_snaps_that_do_not_belong_together_are_refused(rng):
    """Another box, or an image that is not in electrons."""
    one, two = snap(np.full((40, 40), 300.0), rng), snap(np.full((40, 48), 300.0), rng)
    with pytest.raises(ValueError, match="share box and unit"):
        combine_snaps([one, two], CONFIG)
    with pytest.raises(ValueError, match="electron"):
        combine_snaps([one.with_(unit="nJy"), one.with_(unit="nJy")], CONFIG)
    with pytest.raises(ValueError, match="changed"):
        replace(CONFIG, changed=0)


def test_kernels_agree_with_plain_code(rng):
    """Sum and variance of the difference are what the plain functions make of the same arrays."""
    images = rng.normal(300, 20, (3, 12, 15)).astype(np.float32)
    variances = rng.uniform(200, 400, (3, 12, 15)).astype(np.float32)
    lost = rng.uniform(size=(3, 12, 15)) < 0.4
    scale, offset = np.array([1.0, 0.8, 1.1]), np.array([0.0, 5.0, -3.0])
    results = []
    for function in (module.add_rows, module.add_rows.py_func):
        total, variance = np.empty((2, 12, 15), np.float32)
        results.append((function(images, variances, lost, scale, offset, total, variance), total, variance))
    assert results[0][0] == results[1][0] > 0
    for one, two in zip(results[0][1:], results[1][1:]):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    outcomes = []
    for function in (module.difference_variance, module.difference_variance.py_func):
        variance = np.empty((12, 15), np.float32)
        function(images[0], images[1], variances[0], variances[1], lost[0], 0.9, 0.15, variance)
        outcomes.append(variance)
    np.testing.assert_allclose(*outcomes, rtol=1e-6)
