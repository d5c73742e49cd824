"""Crosstalk coefficients from frames of stars at random, whose amplifiers leak by known amounts."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
)
from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.pipelines.calibration_products.crosstalk import MeasureCrosstalkConfig, measure_crosstalk
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box

SIDE, GAIN, READ_NOISE, FULL_WELL = 192, 1.5, 5.0, 88000.0
CORNERS = ("lower_left", "lower_right", "upper_left", "upper_right")
CONFIG, ISR = MeasureCrosstalkConfig(), InstrumentSignatureRemovalConfig()


def make_detector(n=4, side=SIDE, prescans=(8, 8, 8, 8), as_read=(True, True, False, True)):
    """Up to four amplifiers that read to the corners; some are stored as read, some as on the detector."""
    amplifiers = []
    for k in range(n):
        right, upper = CORNERS[k].endswith("right"), CORNERS[k].startswith("upper")
        prescan, stored = prescans[k], as_read[k]
        first, last = (prescan, 24) if stored or not right else (24, prescan)
        amplifiers.append(
            Amplifier(
                name=f"A{k}",
                extension=None,
                raw_section=Box(0, 0, first + side + last, side),
                raw_data=Box(first, 0, side, side),
                raw_prescan=None,
                raw_overscan=Box(first + side, 0, 24, side) if last == 24 else Box(0, 0, 24, side),
                raw_parallel_overscan=None,
                data=Box((k % 2) * side, (k // 2) * side, side, side),
                flip_x=right and stored,
                flip_y=upper and stored,
                gain=GAIN,
                read_noise=READ_NOISE,
                saturation=58500.0,
                read_out=CORNERS[k],
            )
        )
    width, height = (2 * side if n > 1 else side), (2 * side if n > 2 else side)
    return Detector(1, "test", "science", width, height, 0.01, (0.0, 0.0), 0.0, tuple(amplifiers))


def add_stars(image, x, y, fluxes, radius=3.0):
    """Moffat stars with wings of the power 3, in place."""
    for xs, ys, flux in zip(x, y, fluxes):
        reach = 90 if flux > 1e5 else 25
        rows = slice(max(int(ys) - reach, 0), int(ys) + reach)
        columns = slice(max(int(xs) - reach, 0), int(xs) + reach)
        j, i = np.mgrid[rows, columns]
        j, i = j[: image.shape[0] - rows.start], i[: image.shape[0] - rows.start]
        part = image[rows, columns]
        j, i = j[:, : part.shape[1]], i[:, : part.shape[1]]
        part += flux * 0.5 / np.pi / radius**2 * (1 + ((i - xs) ** 2 + (j - ys) ** 2) / radius**2) ** -1.5


def make_raw(detector, charge, leaks, rng, read_noise=READ_NOISE, limit=65535):
    """Read-out in time: every amplifier's pixels in the order of read-out, leaking into one another."""
    by_time = []
    for amplifier in detector.amplifiers:
        section = np.zeros(amplifier.raw_section.shape)
        section[amplifier.raw_data.slices()] = amplifier.from_assembled(charge) / GAIN
        by_time.append(section[in_time(amplifier)])
    height, width = (max(each.shape[k] for each in by_time) for k in (0, 1))
    signals = np.zeros((len(by_time), height, width))
    for k, each in enumerate(by_time):
        signals[k, : each.shape[0], : each.shape[1]] = each
    signals = signals + np.einsum("vs,sji->vji", leaks, signals)
    sections = {}
    for k, amplifier in enumerate(detector.amplifiers):
        shape = amplifier.raw_section.shape
        section = signals[k, : shape[0], : shape[1]][in_time(amplifier)]
        section = section + 1000 + rng.normal(0, read_noise / GAIN, shape)
        sections[amplifier.name] = np.clip(np.rint(section), 0, limit).astype(np.float32)
    info = SimpleNamespace(exposure_time=30.0, datetime_mid=60000.0, visit=1)
    return SimpleNamespace(detector=detector, info=info, amplifiers=sections, header_wcs=None)


def in_time(amplifier):
    """Slices that turn a stored section into the order of read-out, and back."""
    backwards_x = amplifier.read_out.endswith("right") != amplifier.flip_x
    backwards_y = amplifier.read_out.startswith("upper") != amplifier.flip_y
    return slice(None, None, -1 if backwards_y else 1), slice(None, None, -1 if backwards_x else 1)


def sky_frame(detector, leaks, rng, bright=8, faint=120, sky=400.0, limit=65535):
    """Stars at random over a sky with a gradient; the bright ones fill their wells."""
    shape = (detector.ny, detector.nx)
    charge = sky * (1 + 0.1 * np.linspace(0, 1, shape[1])) * np.ones(shape)
    fluxes = np.append(10 ** rng.uniform(6.6, 7.3, bright), 10 ** rng.uniform(2.5, 5.0, faint))
    add_stars(charge, *(rng.uniform(0, n - 1, fluxes.size) for n in shape[::-1]), fluxes)
    charge = np.minimum(rng.poisson(charge), FULL_WELL)
    return make_raw(detector, charge, leaks, rng, limit=limit)


def random_leaks(rng, n=4, size=6e-4):
    leaks = rng.uniform(-0.3 * size, size, (n, n))
    np.fill_diagonal(leaks, 0)
    return leaks


def measure(frames, config=CONFIG):
    return measure_crosstalk(frames.__getitem__, len(frames), DetectorCalibrations(), config, ISR)


def test_coefficients_and_errors():
    """Three skies: coefficients of some 1e-4 within 2e-5, no bias, and pulls of unit width."""
    pulls, differences, off = [], [], ~np.eye(4, dtype=bool)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        detector, leaks = make_detector(), random_leaks(rng)
        found, figures = measure([sky_frame(detector, leaks, rng, bright=14) for _ in range(12)])
        assert found.amplifiers == ("A0", "A1", "A2", "A3")
        assert_array_equal(np.diag(found.errors), 0)
        differences.append((found.coefficients - leaks)[off])
        pulls.append(differences[-1] / found.errors[off])
        assert min(min(row[:v] + row[v + 1 :]) for v, row in enumerate(figures["places"])) >= 5
    pulls = np.array(pulls)
    assert np.std(differences) < 2e-5
    assert_allclose(np.sqrt((pulls**2).mean()), 1.0, atol=4 / np.sqrt(2 * pulls.size))
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)


def test_rounding_of_sums_does_not_show(monkeypatch):
    """Sums in another order, as memory that lies elsewhere makes them, give the same bytes."""
    rng = np.random.default_rng(11)
    detector, leaks = make_detector(), random_leaks(rng)
    frames = [sky_frame(detector, leaks, rng, bright=14) for _ in range(6)]
    first, _ = measure(frames)
    plain, differ = np.einsum, []

    def in_another_order(subscripts, *operands, optimize=False):
        if subscripts in ("b,bsp,btp->bst", "b,bsp,bp->bs"):
            turned = [operands[0], *(np.ascontiguousarray(each[..., ::-1]) for each in operands[1:])]
            result = plain(subscripts, *turned, optimize=optimize)
            differ.append(not np.array_equal(result, plain(subscripts, *operands, optimize=optimize)))
            return result
        return plain(subscripts, *operands, optimize=optimize)

    monkeypatch.setattr(np, "einsum", in_another_order)
    second, _ = measure(frames)
    assert any(differ)
    assert first.coefficients.tobytes() == second.coefficients.tobytes()
    assert first.errors.tobytes() == second.errors.tobytes()


def test_strong_crosstalk_is_no_source():
    """Images of 100 sigma in the victims, of either sign, are measured and not masked."""
    rng = np.random.default_rng(5)
    leaks = np.array([[0, 0.02, 0, 0], [-0.01, 0, 0, 0], [0, 0, 0, 0.005], [0, 1e-3, 0, 0]])
    found, _ = measure([sky_frame(make_detector(), leaks, rng) for _ in range(8)])
    # a leak of a leak is 2e-4 of it; sources were measured with what leaked into them
    assert_allclose(found.coefficients, leaks, atol=1e-4, rtol=2e-3)


def test_moments_of_read_out_count_prescans():
    """With a longer prescan an amplifier reads the same place of its data later than the others."""
    rng = np.random.default_rng(6)
    detector = make_detector(2, prescans=(8, 40, 8, 8))
    leaks = np.array([[0, 1e-3], [4e-4, 0]])
    found, _ = measure([sky_frame(detector, leaks, rng, bright=6) for _ in range(10)])
    off = ~np.eye(2, dtype=bool)
    assert (np.abs(found.coefficients - leaks)[off] < 4 * found.errors[off]).all()
    assert (found.errors[off] < 4e-5).all()


def test_projected_spots_on_a_dark_background():
    """A grid of spots that moves from frame to frame gives the coefficients; amplifiers lit alone or together."""
    rng = np.random.default_rng(7)
    detector, leaks, frames = make_detector(2, side=128), np.array([[0, 2e-4], [3e-4, 0]]), []
    for number in range(8):
        charge = np.zeros((128, 256))
        x, y = np.meshgrid(np.arange(20, 250, 40) + 3 * number, np.arange(24, 120, 40) + 2 * number)
        j, i = np.mgrid[:128, :256]
        for xs, ys in zip(x.ravel(), y.ravel()):
            charge[np.hypot(i - xs, j - ys) < 5] = 60000.0
        frames.append(make_raw(detector, rng.poisson(charge), leaks, rng))
    found, _ = measure(frames)
    assert_allclose(found.coefficients, leaks, atol=2e-5)


def test_clipped_sources_are_left_out():
    """Where the converter cut the source off, its true signal is not known: coefficients are not too large."""
    rng = np.random.default_rng(8)
    leaks = random_leaks(rng, 2, 2e-3)
    frames = [sky_frame(make_detector(2), leaks, rng, bright=6, limit=40000) for _ in range(10)]
    found, _ = measure(frames)
    off = ~np.eye(2, dtype=bool)
    assert (np.abs(found.coefficients - leaks)[off] < 4 * found.errors[off]).all()


def test_a_dead_amplifier_is_not_measured():
    """Its row and column have coefficient 0 and error NaN, the others are as good as ever."""
    rng = np.random.default_rng(9)
    leaks = random_leaks(rng)
    frames = [sky_frame(make_detector(), leaks, rng) for _ in range(6)]
    for frame in frames:
        frame.amplifiers["A3"][:] = np.nan
    found, figures = measure(frames)
    assert np.isnan(found.errors[3, :3]).all()
    assert np.isnan(found.errors[:3, 3]).all()
    assert_array_equal(found.coefficients[:, 3], 0)
    assert np.isfinite(found.errors[:3, :3]).all()
    assert figures["errors"][0][3] is None


def test_too_few():
    """Frames without anything bright say nothing; a single amplifier has nothing to measure."""
    rng = np.random.default_rng(10)
    frames = [sky_frame(make_detector(2), np.zeros((2, 2)), rng, bright=0, faint=5) for _ in range(2)]
    with pytest.raises(ProcessingFailure, match="no pair of amplifiers") as caught:
        measure(frames)
    assert caught.value.reason is Reason.TOO_FEW_INPUTS
    found, _ = measure([sky_frame(make_detector(1), np.zeros((1, 1)), rng)])
    assert_array_equal(found.coefficients, [[0]])

    def read(i):
        raise ProcessingFailure(Reason.MISSING_FILE, "gone")

    with pytest.raises(ProcessingFailure, match="missing_file"):
        measure_crosstalk(read, 2, DetectorCalibrations(), CONFIG, ISR)


def test_memory_is_bounded():
    """With room for few blocks the brightest stay, and the coefficients are still right."""
    rng = np.random.default_rng(11)
    leaks = random_leaks(rng, 2)
    frames = [sky_frame(make_detector(2), leaks, rng, bright=6) for _ in range(8)]
    found, figures = measure(frames, MeasureCrosstalkConfig(max_memory=0.25))
    full, everything = measure(frames)
    assert figures["blocks"] == 0.25e6 // (5 * 2 * 32 * 32) < everything["blocks"]
    off = ~np.eye(2, dtype=bool)
    assert (np.abs(found.coefficients - leaks)[off] < 4 * found.errors[off]).all()
    # the brightest fifth holds most of what there is to know
    assert (found.errors[off] < 2 * full.errors[off]).all()


def test_options_are_checked():
    """Options outside their range are refused."""
    for wrong in ({"bright": 0.0}, {"block": 4}, {"min_good": 0.0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="crosstalk needs"):
            MeasureCrosstalkConfig(**wrong)
