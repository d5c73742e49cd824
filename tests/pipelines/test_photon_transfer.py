"""Photon transfer: gain, read noise, full well and covariances of flats whose truth is known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import convolve2d

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
)
from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.pipelines.calibration_products.covariance_fit import (
    area_changes_of_others,
    covariance_model,
    fit_covariances,
    folded,
)
from skyquilt.pipelines.calibration_products.flat_pairs import FlatPair
from skyquilt.pipelines.calibration_products.full_well import response_end, turned_over
from skyquilt.pipelines.calibration_products.pair_covariances import lag_sums, pair_statistics
from skyquilt.pipelines.calibration_products.photon_transfer import (
    MeasurePhotonTransferConfig,
    measure_photon_transfer,
)
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box

GAINS, READ_NOISE = (1.5, 1.1), (5.0, 7.0)
SIDE = 160
CONFIG = MeasurePhotonTransferConfig(lags=3)
ISR = InstrumentSignatureRemovalConfig()


def make_detector(side=SIDE):
    """Two amplifiers side by side, the second read to the right; definitions' gains are 5 % off."""
    amplifiers = tuple(
        Amplifier(
            name=name,
            extension=None,
            raw_section=Box(0, 0, side + 24, side),
            raw_data=Box(0, 0, side, side),
            raw_prescan=None,
            raw_overscan=Box(side, 0, 24, side),
            raw_parallel_overscan=None,
            data=Box(side * k, 0, side, side),
            flip_x=k == 1,
            flip_y=False,
            gain=1.05 * GAINS[k],
            read_noise=6.0,
            saturation=64000.0,
            read_out=("lower_left", "lower_right")[k],
        )
        for k, name in enumerate("AB")
    )
    return Detector(3, "test", "science", 2 * side, side, 0.01, (0.0, 0.0), 0.0, amplifiers)


def make_raw(detector, electrons, exposure_time, rng):
    """Raw frame of charge [electron]: read noise, gain, bias level, whole ADU."""
    sections = {}
    for amplifier, gain, noise in zip(detector.amplifiers, GAINS, READ_NOISE):
        section = rng.normal(0, noise, amplifier.raw_section.shape)
        section[amplifier.raw_data.slices()] += amplifier.from_assembled(electrons)
        stored = np.clip(np.rint(section / gain + 1000.0), 0, 65535)
        sections[amplifier.name] = stored.astype(np.float32)
    info = SimpleNamespace(exposure_time=exposure_time, datetime_mid=60000.0, visit=1)
    return SimpleNamespace(detector=detector, info=info, amplifiers=sections, header_wcs=None)


def make_flats(detector, levels, rng, repeat=2, full_well=np.inf, hits=0):
    """Flats with pixel response, vignetting, a lamp that is not quite steady, and cosmic rays."""
    shape = (detector.ny, detector.nx)
    response = 1 + 0.01 * rng.normal(size=shape) - 0.1 * np.linspace(0, 1, shape[0])[:, None]
    frames = []
    for level in levels:
        for _ in range(repeat):
            charge = rng.poisson(level * (1 + 5e-4 * rng.normal()) * response).astype(float)
            charge[tuple(rng.integers(0, n, hits) for n in shape)] += rng.exponential(3000.0, hits)
            frames.append(make_raw(detector, np.minimum(charge, full_well), level / 1000.0, rng))
    return frames


def measure(frames, biases=(), config=CONFIG, calibrations=None):
    return measure_photon_transfer(
        frames.__getitem__,
        len(frames),
        calibrations or DetectorCalibrations(),
        config,
        ISR,
        biases.__getitem__ if biases else None,
        len(biases),
    )


def test_lag_sums_equal_a_double_loop():
    """Sums and counts of products at all lags agree with slicing, for a width that no loop length divides."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(23, 37)).astype(np.float32)
    good = rng.random(values.shape) > 0.1
    values[~good] = 0
    sums, counts = np.empty((4, 4)), np.empty((4, 4), np.int64)
    lag_sums(values, good, sums, counts)
    ny, nx = values.shape
    for i in range(4):
        for j in range(4):
            signs = {(i, j), (i, -j)} if i and j else {(i, j)}
            total, number = 0.0, 0
            for di, dj in signs:
                a = (slice(0, ny - di), slice(max(-dj, 0), nx - max(dj, 0)))
                b = (slice(di, ny), slice(max(dj, 0), nx - max(-dj, 0)))
                total += (values[a].astype(float) * values[b]).sum()
                number += (good[a] & good[b]).sum()
            assert counts[i, j] == number
            assert_allclose(sums[i, j], total, rtol=1e-12, atol=1e-9)


def test_faint_tracks_do_not_show_in_covariances():
    """Tracks of 3 sigma a pixel, of which no pixel stands out, are left out; without them nothing is biased."""
    pulls, spoilt = {0: [], 12: []}, []
    for seed in range(24):
        n_tracks = (0, 12)[seed % 2]
        rng = np.random.default_rng(seed)
        first, second = rng.normal(40000.0, 200.0, (2, 512, 512)).astype(np.float32)
        for y, x, angle in rng.uniform([30, 30, 0], [480, 480, np.pi], (n_tracks, 3)):
            along = np.arange(0, 25, 0.5)
            rows = np.clip((y + along * np.sin(angle)).astype(int), 0, 511)
            columns = np.clip((x + along * np.cos(angle)).astype(int), 0, 511)
            first[rows, columns] += 3 * np.sqrt(2) * 200
        found = pair_statistics(first, second, np.ones(first.shape, bool), 3, 5.0, 64)
        pulls[n_tracks].append((found.covariances / found.errors).ravel()[1:])
        assert found.covariances[0, 0] == pytest.approx(4e4, rel=4 * np.sqrt(2 / 512**2))
        if n_tracks:
            plain = first.astype(float) - second
            plain -= plain.mean()
            spoilt.append(0.5 * (plain[1:] * plain[:-1]).mean() / (4e4 / 512))
    for each in pulls.values():
        assert abs(np.mean(each)) < 4 / np.sqrt(np.size(each))
    # what does not leave the tracks out sees them
    assert np.mean(spoilt) > 4 / np.sqrt(len(spoilt))


def test_model_is_the_series_of_the_paper():
    """The closed form agrees with Astier et al. 2019, equation 20, up to the order that the series leaves out."""
    a = np.array([[-2e-6, 3e-7], [4e-7, 5e-8]])
    mu = 2e4
    model = covariance_model(np.array([mu]), a)[0]
    plane = folded(a)
    second = convolve2d(plane, plane)
    third = convolve2d(second, plane)
    delta = np.zeros((2, 2))
    delta[0, 0] = 1
    series = mu * (delta + a * mu + 2 / 3 * second[2:4, 2:4] * mu**2 + third[3:5, 3:5] * mu**3 / 3)
    # the next term is (2 a mu)^4 / 5! times mu, with a summed over the lags in modulus
    assert_allclose(model, series, rtol=0, atol=mu * (2 * np.abs(plane).sum() * mu) ** 4 / 120)


def test_pair_statistics_of_pure_noise():
    """Variance and covariances of uncorrelated noise are right within their errors, whose pulls are of unit width."""
    rng = np.random.default_rng(2)
    pulls = []
    for _ in range(60):
        first, second = (rng.normal(5000, 50, (100, 90)).astype(np.float32) for _ in range(2))
        one = pair_statistics(first, second, np.ones((100, 90), bool), 3, 5.0, 32)
        truth = np.zeros((3, 3))
        truth[0, 0] = 2500.0
        pulls.append((one.covariances - truth) / one.errors)
    pulls = np.array(pulls)
    assert_allclose(pulls.std(), 1.0, atol=4 / np.sqrt(2 * pulls.size))
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)


def test_unequal_light_and_cosmic_rays_leave_the_noise_right():
    """Frames in the ratio 1.25 that changes over the amplifier, with hits: photon noise of the mean level."""
    rng = np.random.default_rng(3)
    slope = np.linspace(0.95, 1.05, 192)[:, None] * np.ones((192, 192))
    found = []
    for _ in range(6):
        first = rng.poisson(20000 * slope).astype(np.float32)
        second = rng.poisson(25000 / slope).astype(np.float32)
        first[rng.integers(0, 192, 30), rng.integers(0, 192, 30)] += 4000
        one = pair_statistics(first, second, np.ones(first.shape, bool), 2, 5.0, 32)
        found.append((one.covariances[0, 0] - one.level) / one.errors[0, 0])
        assert one.noise_factor == pytest.approx(0.5 * (1.25 + 0.8), rel=0.01)
        # 5 filters at 5 sigma (6e-7) take 0.1 lines of noise in 192 x 192 pixels, with their margins 7 x 7 at most
        assert 30 <= one.rejected * 192**2 <= 9 * 31 + 3 * 49
    assert abs(np.mean(found)) < 4 / np.sqrt(6)
    assert np.std(found) < 2.2


def test_dust_and_dead_pixels_leave_variance_over_level_right():
    """With pixels shaded by up to 15 % and dead ones the variance is that of the level, at all levels alike."""
    rng = np.random.default_rng(8)
    response = np.ones((256, 256))
    shaded = rng.random(response.shape) < 0.06
    response[shaded] -= rng.uniform(0.02, 0.15, shaded.sum())
    dead = rng.random(response.shape) < 0.002
    for level in (1000.0, 6000.0, 50000.0):
        pulls = []
        for _ in range(12):
            first, second = (rng.poisson(level * response) * ~dead + 0.0 for _ in range(2))
            good = np.ones(dead.shape, bool)
            one = pair_statistics(first.astype(np.float32), second.astype(np.float32), good, 2, 5.0, 64)
            pulls.append((one.covariances[0, 0] - one.level) / one.errors[0, 0])
        # of one pair 0.55 %, of twelve 0.16 %; a mean without what is clipped would be 0.5 % high where it is bright
        assert abs(np.mean(pulls)) < 4 / np.sqrt(12)


def test_gain_errors_are_the_scatter():
    """Pulls of gains fitted to 80 amplifiers have unit width, and their mean is 0."""
    rng = np.random.default_rng(4)
    levels, pulls = np.linspace(800.0, 50000.0, 8), []
    n, gain, noise = 64 * 64, 1.5, 12.0
    for _ in range(80):
        covariances = np.zeros((8, 2, 2))
        truth = levels / gain + noise
        errors = truth[:, None, None] * np.sqrt([[2 / n, 1 / n], [1 / n, 0.5 / n]])
        covariances[:, 0, 0] = truth
        covariances += errors * rng.normal(size=covariances.shape)
        fit = fit_covariances(levels, covariances, errors, noise, 0.1)
        pulls.append((fit.gain - gain) / fit.gain_error)
    assert_allclose(np.std(pulls), 1.0, atol=4 / np.sqrt(160))
    assert abs(np.mean(pulls)) < 4 / np.sqrt(80)


def test_what_other_amplifiers_say():
    """Others predict a_ij with honest errors, also when amplifiers differ; a fit that is told so has a better gain."""
    rng = np.random.default_rng(9)
    levels, gain, noise, n = np.linspace(800.0, 50000.0, 8), 1.5, 12.0, 100 * 100
    pulls, errors_of_gain = [], []
    for scatter in [0.0] * 8 + [1e-7] * 8:
        fits, data = [], []
        for _ in range(6):
            a = np.array([[-1.5e-6 + scatter * rng.normal(), 2e-7], [2e-7, 5e-8]])
            truth = covariance_model(levels * gain, a) / gain**2
            truth[:, 0, 0] += noise
            errors = truth[:, :1, :1] * np.sqrt([[2 / n, 1 / n], [1 / n, 0.5 / n]])
            data.append((levels, truth + errors * rng.normal(size=truth.shape), errors, noise, 0.1))
            fits.append(fit_covariances(*data[-1]))
        for own, prior in zip(data, area_changes_of_others(fits)):
            again = fit_covariances(*own, prior=prior)
            pulls.append((again.gain - gain) / again.gain_error)
            errors_of_gain.append(again.gain_error / fits[0].gain_error)
    assert_allclose(np.std(pulls), 1.0, atol=4 / np.sqrt(2 * len(pulls)))
    assert np.mean(errors_of_gain[:48]) < 0.75


@pytest.mark.parametrize("seed", [10, 11, 12])
def test_gain_and_read_noise_of_a_detector(seed):
    """Ten pairs with cosmic rays: gains within their errors of about 0.5 %, read noise within 3 %."""
    rng = np.random.default_rng(seed)
    detector = make_detector()
    frames = make_flats(detector, np.linspace(1000, 60000, 10), rng, hits=10)
    biases = [make_raw(detector, np.zeros((SIDE, 2 * SIDE)), 0.0, rng) for _ in range(4)]
    found, figures = measure(frames, biases)
    assert found.amplifiers == ("A", "B")
    pull = (found.gain - GAINS) / found.gain_error
    assert np.abs(pull).max() < 4
    # ten variances of 160^2 pixels to 0.9 %, of which brighter-fatter takes a slope: twice that over the root
    assert (found.gain_error / GAINS < 2 * math.sqrt(2 / SIDE**2) / math.sqrt(10) * 1.2).all()
    # rounding to whole ADU is noise too
    noise = np.hypot(READ_NOISE, np.array(GAINS) / math.sqrt(12))
    assert np.abs((found.read_noise - noise) / found.read_noise_error).max() < 4
    assert_allclose(found.read_noise, READ_NOISE, rtol=0.03)
    assert np.isnan(found.full_well).all()
    assert np.abs(found.a00).max() < 2e-6, "there is no brighter-fatter here"
    assert figures["read_noise_source"] == "bias"
    assert figures["amplifiers"]["A"]["method"] == "covariances"
    assert 0.5 < figures["amplifiers"]["A"]["chi_square"] < 1.5


def test_three_flats_of_one_level():
    """Level over variance with an error that three frames, two differences, allow; the read noise from overscan."""
    pulls = []
    for seed in range(8):
        rng = np.random.default_rng(20 + seed)
        frames = make_flats(make_detector(96), [29000, 33000, 37000], rng, repeat=1)
        found, figures = measure(frames)
        pulls.append((found.gain - GAINS) / found.gain_error)
        assert figures["pairs"] == [[0, 1], [0, 2], [1, 2]]
        assert figures["amplifiers"]["B"]["method"] == "variance"
        assert figures["read_noise_source"] == "overscan"
        assert np.isnan(found.a00).all()
    # the error holds the possible bias of brighter-fatter besides: pulls are narrower than 1
    assert np.abs(np.mean(pulls)) < 4 / 4
    assert 0.1 < np.std(pulls) < 1.4


def test_full_well_is_found():
    """Flats beyond the full well end the fit and give its level; the gain is right all the same."""
    rng = np.random.default_rng(5)
    levels = [*np.linspace(2000, 50000, 8), 70000, 90000]
    frames = make_flats(make_detector(), levels, rng, full_well=60000.0)
    found, figures = measure(frames)
    assert_allclose(found.full_well, 60000.0, rtol=0.02)
    assert np.abs((found.gain - GAINS) / found.gain_error).max() < 4
    assert figures["amplifiers"]["A"]["used"] == [True] * 8 + [False] * 2
    assert np.isnan(found.levels[0, 8:]).all()


def test_saturated_amplifiers_do_not_spoil_the_others():
    """Where one amplifier is at the converter's limit its pairs are left out; columns of hot pixels are masked."""
    rng = np.random.default_rng(6)
    detector = make_detector()
    low = replace(detector.amplifiers[1], saturation=30000.0)
    detector = replace(detector, amplifiers=(detector.amplifiers[0], low))
    frames = make_flats(detector, np.linspace(1000, 60000, 10), rng)
    for frame in frames:
        frame.amplifiers["A"][:, 40:42] = 65535.0
    found, figures = measure(frames)
    assert np.abs((found.gain - GAINS) / found.gain_error).max() < 4
    # 29000 ADU above bias in amplifier B are 31900 electrons: the fifth pair is at 27000 of them, the sixth at 34000
    assert figures["amplifiers"]["B"]["used"] == [True] * 5 + [False] * 5
    assert all(figures["amplifiers"]["A"]["used"])


def test_frames_that_fail_are_left_out():
    """An unreadable flat is named with its reason, and its partner finds another by level."""
    rng = np.random.default_rng(7)
    frames = make_flats(make_detector(96), [5000, 20000, 40000, 22000], rng)

    def read(i):
        if i in (2, 6):
            raise ProcessingFailure(Reason.UNREADABLE_FILE, "cut off")
        return frames[i]

    _, figures = measure_photon_transfer(read, 8, DetectorCalibrations(), CONFIG, ISR)
    assert [each["frame"] for each in figures["left_out"]] == [2, 6]
    assert figures["pairs"] == [[0, 1], [3, 7], [4, 5]]


def test_too_few():
    """One flat, or flats without light, say nothing."""
    rng = np.random.default_rng(8)
    frames = make_flats(make_detector(96), [20000], rng, repeat=1)
    with pytest.raises(ProcessingFailure) as caught:
        measure(frames)
    assert caught.value.reason is Reason.TOO_FEW_INPUTS
    dark = [make_raw(make_detector(96), np.zeros((96, 192)) - 200, 1.0, rng) for _ in range(2)]
    with pytest.raises(ProcessingFailure, match="too_few_inputs"):
        measure(dark)


def test_where_the_variance_turns_and_the_response_ends():
    """Plain arrays: the turn is the first fall beyond its errors; light that varies is no end of the response."""
    levels = np.array([1.0, 2, 3, 4, 5])
    before, turned = turned_over(levels, np.array([1.0, 2, 3, 1, 0.1]), np.full(5, 0.01), np.ones(5, bool))
    assert turned
    assert_array_equal(before, [True] * 3 + [False] * 2)
    all_of_them = np.ones(5, bool)
    assert math.isnan(response_end(levels, levels * [1, 1.4, 1, 1.4, 1], all_of_them, all_of_them))
    assert response_end(np.array([1.0, 2, 3, 3.01, 3.0]), levels, all_of_them, before) == pytest.approx(3.005)
    assert response_end(levels, np.full(5, np.nan), all_of_them, before) == 3.0


def test_options_are_checked():
    """Options outside their range are refused."""
    for wrong in ({"lags": 1}, {"clip": 2.0}, {"max_level_ratio": 0.9}, {"min_levels": 2}, {"tail_start": 0}):
        with pytest.raises(ValueError, match="photon transfer needs"):
            MeasurePhotonTransferConfig(**wrong)
    assert FlatPair((0, 1), 1.0, (), (), 1.0).inflation == 1.0


def test_nickel(shared_data):
    """Three sky flats of the Lick Nickel telescope (29,000 to 37,000 ADU) and ten biases: 1.785 electrons per ADU."""
    night = shared_data / "nickel-20240512"
    if not night.is_dir():
        pytest.skip("the Nickel frames are not here")
    from skyquilt.instrument import load_camera, read_raw

    camera = load_camera("nickel")
    flats = [night / f"d{number}.fits.gz" for number in (1035, 1036, 1037)]
    biases = [night / f"d{number}.fits.gz" for number in (1001, 1002, 1003, 1004)]
    found, _ = measure_photon_transfer(
        lambda i: read_raw(flats[i], camera, 0),
        3,
        DetectorCalibrations(),
        MeasurePhotonTransferConfig(),
        ISR,
        lambda i: read_raw(biases[i], camera, 0),
        4,
    )
    # 1.785 +- 0.005 without what brighter-fatter may have taken, measured apart for the camera definition
    assert abs(found.gain[0] - 1.785) < 2 * 0.005
    assert 0.002 < found.gain_error[0] < 0.03
    assert found.read_noise[0] == pytest.approx(9.5, rel=0.03)
