"""Full wells, columns and defects, and read-out: transfers, gain, nonlinearity, crosstalk, bias, noise."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.simulation.detector_effects import (
    DetectorEffectsConfig,
    collect,
    compressed,
    read_out,
    row_drift,
    spill_full_wells,
    true_detector,
)
from skyquilt.simulation.detector_effects import config as config_module
from skyquilt.simulation.detector_effects.amplifiers import linearity_curve
from skyquilt.simulation.detector_effects.charge_transfer import (
    defer_along_columns,
    defer_along_rows,
    pass_traps,
)
from skyquilt.simulation.detector_effects.defects import DEAD_COLUMN, DEAD_PIXEL, HOT_COLUMN, HOT_PIXEL, TRAP

NONE = DetectorEffectsConfig.none
CORNERS = {"A00": "lower_left", "A01": "lower_right", "A10": "upper_left", "A11": "upper_right"}


def true_one(camera, config=None, number=0, seed=3):
    """Truth of one detector of a camera, in the middle of the focal plane."""
    detector = camera.detectors[number]
    y, x = np.mgrid[: detector.ny, : detector.nx]
    u, v = (x - detector.nx / 2) / 300, (y - detector.ny / 2) / 300
    return true_detector(config or NONE(), seed, detector, u, v)


def quiet(truth):
    """The same detector without read noise."""
    amplifiers = tuple(dataclasses.replace(a, read_noise=0.0) for a in truth.amplifiers)
    return dataclasses.replace(truth, amplifiers=amplifiers)


@pytest.fixture
def corner_camera(make_camera):
    """The small camera, each amplifier read at its own corner and stored as read."""
    camera = make_camera()
    detectors = tuple(
        dataclasses.replace(
            d,
            amplifiers=tuple(dataclasses.replace(a, read_out=CORNERS[a.name]) for a in d.amplifiers),
        )
        for d in camera.detectors
    )
    return dataclasses.replace(camera, detectors=detectors)


def test_every_option_has_its_text():
    """Each field of the configuration is followed by a docstring."""
    text = pathlib.Path(config_module.__file__).read_text()
    for item in dataclasses.fields(DetectorEffectsConfig):
        after = re.split(rf"\n    {item.name}: ", text, maxsplit=1)[1]
        assert after.split("\n\n", 1)[0].rstrip().endswith('"""'), item.name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cosmic_rays": -1.0}, "cosmic_rays must not be negative"),
        ({"vignetting": 0.95}, "vignetting must be at most 0.89"),
        ({"full_well": 0.0}, "full_well must be positive"),
        ({"fringes": {"z": 0.5}}, "fringes of band 'z' must be in 0..0.3"),
        ({"brighter_fatter_steps": 0}, "brighter_fatter_steps in 1..100"),
    ],
)
def test_nonsense_is_refused(change, words):
    """A value that cannot be stops with the option's name and what was expected."""
    with pytest.raises(ValueError, match=re.escape(words)):
        DetectorEffectsConfig(**change)


def spilled(column, well, bleeding=True):
    charge = np.array(column, dtype=np.float32)[:, None].copy()
    lost = spill_full_wells(charge, np.full_like(charge, well), bleeding)
    return charge[:, 0], lost


def test_charge_bleeds_half_each_way():
    """One overfull pixel fills its neighbours up and down alike."""
    column, lost = spilled([0, 0, 0, 0, 500, 0, 0, 0, 0], 100)
    assert_array_equal(column, [0, 0, 100, 100, 100, 100, 100, 0, 0])
    assert lost == 0


def test_charge_leaves_at_the_end_of_a_column():
    """What finds no room up to the edge is lost; the other half stays."""
    column, lost = spilled([300, 0, 0, 0], 100)
    assert_array_equal(column, [100, 100, 0, 0])
    assert lost == 100


def test_without_bleeding_the_excess_is_lost():
    """Switched off, a pixel is cut at its full well and nothing moves."""
    column, lost = spilled([10, 500, 20], 100, bleeding=False)
    assert_array_equal(column, [10, 100, 20])
    assert lost == 400


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1000, width=32), min_size=1, max_size=25))
def test_bleeding_conserves_charge(column):
    """No pixel ends above its full well, none loses what it could hold, and charge kept and lost add up."""
    after, lost = spilled(column, 100.0)
    assert (after <= 100).all()
    assert (after >= np.minimum(column, 100) - 1e-4).all()
    # single precision: 6e-8 of what each of 25 pixels is added to, some 25 times
    assert_allclose(after.sum(dtype=float) + lost, np.sum(column, dtype=float), rtol=1e-5, atol=1e-6)


def test_spilling_kernel_is_its_plain_twin(rng):
    """The compiled loop and the same text in Python give the same charge."""
    charge = rng.exponential(80, (30, 4)).astype(np.float32)
    twin, well = charge.copy(), np.full(charge.shape, 100.0, dtype=np.float32)
    assert spill_full_wells(charge, well, True) == spill_full_wells.py_func(twin, well, True)
    assert_array_equal(charge, twin)


def test_bleeding_trails_are_vertical_and_known(camera):
    """A pixel of four full wells fills its column over about four pixels, and the truth names each of them."""
    truth = true_one(camera, NONE(bleeding=True))
    expected = np.full(truth.response.shape, 100.0)
    well = float(truth.full_well[30, 50])
    expected[30, 50] = 4 * well
    collected = collect(truth, expected, 30.0)
    full = np.argwhere(collected.charge >= 0.999 * truth.full_well)
    assert set(full[:, 1]) == {50}
    assert set(full[:, 0]) == {29, 30, 31}
    assert_allclose(collected.charge.sum(dtype=float), expected.sum(), rtol=1e-6)
    events = {event.kind: event for event in collected.events}
    assert set(events) == {"saturated", "bled"}
    assert (events["saturated"].x, events["saturated"].y) == (50, 30)
    assert_allclose(events["saturated"].electrons, 4 * well, rtol=1e-6)
    assert sorted(events["bled"].y) == [28, 29, 31, 32]
    assert set(events["bled"].x) == {50}
    # what ran over is what the neighbours got
    assert_allclose(events["bled"].electrons.sum(), 3 * well, rtol=1e-5)
    assert events["saturated"].ends == (50, 30, 50, 30)


def test_the_converters_end_counts_as_saturation(camera):
    """Where full wells lie beyond the converter's last number, pixels above that number are saturated."""
    truth = true_one(camera, NONE(full_well=1.5))
    amplifier = truth.amplifiers[0]
    end = (65535 - amplifier.bias_level) * amplifier.gain
    assert truth.full_well[0, 0] > end
    expected = np.full(truth.response.shape, 100.0)
    expected[30, 50], expected[30, 52] = end + 100, end - 100
    collected = collect(truth, expected, 30.0)
    (event,) = collected.events
    assert (event.kind, event.x, event.y) == ("saturated", 50, 30)
    section = read_out(quiet(truth), collected.charge)["A00"]
    assert (section == 65535).sum() == 1


def test_gain_and_read_noise_come_back_from_flats_and_biases(camera):
    """The photon transfer of flat and bias pairs gives the true gain and read noise within four sigma."""
    config = NONE(
        photon_noise=True, gain_scatter=0.05, read_noise_scatter=0.05, bias_drift=1.0, bias_structure=3.0
    )
    truth = true_one(camera, config)
    level = np.full(truth.response.shape, 30000.0)
    flats = [read_out(truth, collect(truth, level, 5.0, visit).charge, visit) for visit in (1, 2)]
    zeros = [read_out(truth, np.zeros(level.shape, np.float32), visit) for visit in (3, 4)]
    for amplifier in truth.amplifiers:
        one, two = (_trimmed(flat, amplifier) for flat in flats)
        zero, other = (_trimmed(bias, amplifier) for bias in zeros)
        # row by row, so that the wandering level does not count as noise
        bias_noise = (zero - other - (zero - other).mean(axis=1, keepdims=True)) / np.sqrt(2)
        n, n_row = bias_noise.size, bias_noise.shape[0]
        read_variance = (bias_noise**2).sum() / (n - n_row)
        # rounding to whole ADU adds 1/12
        noise = np.sqrt(read_variance - 1 / 12) * amplifier.gain
        assert abs(noise / amplifier.read_noise - 1) < 4 / np.sqrt(2 * n)
        signal = 0.5 * (one + two).mean() - amplifier.bias_level
        difference = one - two
        variance = 0.5 * difference.var() - read_variance
        # the sample variance of n pixels has relative error sqrt(2/n); drift (1 ADU) and pattern (3 ADU) of
        # 20000 ADU and its (0.7 ADU)^2 of 13000 ADU^2 are a tenth of that
        assert abs(signal / variance / amplifier.gain - 1) < 4 * np.sqrt(2 / one.size)
    gains = [a.gain / a.definition.gain for a in truth.amplifiers]
    assert 0.01 < np.std(gains) < 0.15


def _trimmed(sections, amplifier):
    return sections[amplifier.definition.name][amplifier.definition.raw_data.slices()].astype(float)


@pytest.mark.parametrize("number", [0, 1])
def test_assembling_by_the_camera_restores_the_image(camera, corner_camera, number):
    """Raw sections assembled as the camera says are the image that was exposed, wherever they are read out."""
    for one in (camera, corner_camera):
        truth = quiet(true_one(one, number=number))
        ny, nx = truth.response.shape
        charge = 1.5 * np.arange(ny * nx, dtype=np.float32).reshape(ny, nx)
        sections = read_out(truth, charge)
        level = {a.definition.name: a.bias_level for a in truth.amplifiers}
        image = truth.definition.assemble({name: s - level[name] for name, s in sections.items()})
        # half an ADU of rounding
        assert_allclose(image, charge / 1.5, atol=0.51)


def test_overscan_holds_bias_alone(camera):
    """The overscan of a bright flat has the bias level, read noise and nothing of the light."""
    truth = true_one(camera, NONE(photon_noise=True))
    charge = collect(truth, np.full(truth.response.shape, 50000.0), 5.0).charge
    sections = read_out(truth, charge)
    for amplifier in truth.amplifiers:
        overscan = sections[amplifier.definition.name][amplifier.definition.raw_overscan.slices()]
        error = amplifier.read_noise / amplifier.gain / np.sqrt(overscan.size)
        assert abs(overscan.mean() - amplifier.bias_level) < 4 * error


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_full_pixels_are_stored_above_the_cameras_saturation(camera, seed):
    """Wherever charge reached full well, the stored value is the truth's level, above the definition's."""
    config = NONE(photon_noise=True, gain_scatter=0.05, nonlinearity=0.02)
    truth = true_one(camera, config, seed=seed)
    charge = collect(truth, np.full(truth.response.shape, 1e6), 5.0).charge
    sections = read_out(truth, charge)
    for amplifier in truth.amplifiers:
        stored = _trimmed(sections, amplifier)
        assert stored.min() > amplifier.definition.saturation
        assert_allclose(np.median(stored), amplifier.saturation_adu, atol=1.0)


def test_nonlinearity_of_the_definition_is_undone_by_its_polynomial():
    """The camera's polynomial applied to what is read gives the linear signal back."""
    coefficients = (-2e-7, 1e-12)
    linear = np.linspace(0, 60000, 50)
    read = compressed(linear, coefficients)
    assert_allclose(read + coefficients[0] * read**2 + coefficients[1] * read**3, linear, atol=1e-6)
    assert np.abs(read - linear).max() > 100
    assert_array_equal(compressed(linear, ()), linear)


@pytest.mark.parametrize("seed", range(5))
def test_nonlinearity_is_smooth_but_no_polynomial(seed):
    """A curve loses 1 % at full well, is straight near zero, rises everywhere, and no cubic follows it."""
    scale = 62000.0
    curve = linearity_curve(np.random.default_rng(seed), 0.01, scale)
    linear = np.linspace(0, scale, 2001)
    read = curve.read(linear)
    assert 0.006 < 1 - read[-1] / scale < 0.0125
    assert abs(read[20] / linear[20] - 1) < 2e-5
    assert (np.diff(read) > 0).all()
    powers = np.stack([(linear / scale) ** k for k in (1, 2, 3)], axis=1)
    rest = read - powers @ np.linalg.lstsq(powers, read, rcond=None)[0]
    assert np.abs(rest).max() > 10
    assert_allclose(curve.read(np.array(curve.linear(50000.0))), 50000.0, atol=1e-6)


def test_signals_are_read_through_their_curve(camera):
    """What is stored of each level is the amplifier's curve of charge over gain, within rounding."""
    truth = quiet(true_one(camera, NONE(nonlinearity=0.01, gain_scatter=0.05)))
    charge = np.broadcast_to(np.linspace(0, 80000, 160, dtype=np.float32), truth.response.shape)
    sections = read_out(truth, np.ascontiguousarray(charge))
    for amplifier in truth.amplifiers:
        linear = amplifier.definition.from_assembled(charge) / amplifier.gain
        expected = amplifier.bias_level + amplifier.curve.read(linear)
        assert_allclose(_trimmed(sections, amplifier), expected, atol=0.51)


def test_crosstalk_comes_at_the_same_moment_of_read_out(corner_camera):
    """A bright pixel appears in every other amplifier as far from its output, by the matrix's share of its ADU."""
    truth = quiet(true_one(corner_camera, NONE(crosstalk=4e-3)))
    assert_array_equal(np.diag(truth.crosstalk), 0)
    off = truth.crosstalk[~np.eye(4, dtype=bool)]
    assert ((np.abs(off) >= 1.6e-3) & (np.abs(off) <= 4e-3)).all()
    assert len(set(np.sign(off))) == 2
    size = truth.definition.nx // 2, truth.definition.ny // 2
    for source, amplifier in enumerate(truth.amplifiers):
        charge = np.zeros(truth.response.shape, dtype=np.float32)
        box = amplifier.definition.data
        # 7 columns and 11 rows from the output, counted from the corner that the definition names
        right, upper = "right" in amplifier.definition.read_out, "upper" in amplifier.definition.read_out
        charge[box.y1 - 1 - 11 if upper else box.y0 + 11, box.x1 - 1 - 7 if right else box.x0 + 7] = 75000
        sections = read_out(truth, charge)
        signal = 75000 / amplifier.gain
        for victim, other in enumerate(truth.amplifiers):
            image = other.definition.to_assembled(sections[other.definition.name]) - other.bias_level
            right, upper = "right" in other.definition.read_out, "upper" in other.definition.read_out
            row = size[1] - 1 - 11 if upper else 11
            column = size[0] - 1 - 7 if right else 7
            expected = np.zeros(image.shape)
            expected[row, column] = signal if victim == source else truth.crosstalk[victim, source] * signal
            assert_allclose(image, expected, atol=0.51)
            assert abs(expected[row, column]) > 70


def test_deferred_charge_is_kept(rng):
    """Transfers move charge to later packets, into the overscan, by the double loop's amounts, and lose none."""
    section = rng.uniform(100, 50000, (12, 30)).astype(np.float32)
    section[:, 24:] = 0
    for defer, axis in ((defer_along_rows, 1), (defer_along_columns, 0)):
        after = section.copy()
        left = defer(after, 1e-5, 1.5)
        assert_allclose(after.sum(dtype=float) + left, section.sum(dtype=float), rtol=1e-6)
        twin = _deferred(section if axis else section.T, 1e-5, 1.5)
        assert_allclose(after, twin if axis else twin.T, rtol=3e-7, atol=1e-3)
    after = section * (np.arange(30) == 23)
    defer_along_rows(after, 1e-5, 1.5)
    # each of 24 transfers leaves 1e-5 behind, of which the first of the overscan gets half
    assert_allclose(after[:, 24], 1e-5 * 24 * section[:, 23] * (1 - np.exp(-1 / 1.5)), rtol=1e-5)
    assert (np.diff(after[:, 24:], axis=1) < 0).all()


def _deferred(section, rate, release):
    """Each packet's own deferred charge, released exponentially into the packets behind it."""
    after = section.astype(float)
    n = section.shape[1]
    let_go = 1 - np.exp(-1 / release)
    for i in range(n):
        taken = rate * (i + 1) * section[:, i].astype(float)
        after[:, i] -= taken
        for k in range(i + 1, n):
            after[:, k] += taken * let_go * np.exp(-(k - i - 1) / release)
    return after


def test_traps_shorten_what_passes_them():
    """Packets from the trap's row onwards lose its depth, small ones four fifths; others lose nothing."""
    section = np.full((10, 6), 1000.0)
    section[8, 2] = 100.0
    pass_traps(section, np.array([4]), np.array([2]), np.array([300.0]))
    assert_array_equal(section[:, 2], [1000] * 4 + [700] * 4 + [20, 700])
    section[:, 2] = 1000
    assert (section == 1000).all()


def test_dark_frames_show_dark_current_and_hot_pixels(camera):
    """A long dark has each pixel's own current; hot pixels come in the number asked for, marked in the truth."""
    config = NONE(dark_current=0.5, hot_pixels=0.01, photon_noise=True)
    truth = true_one(camera, config)
    hot = (truth.defects & HOT_PIXEL) > 0
    n = truth.dark.size
    assert abs(hot.sum() - 0.01 * n) < 4 * np.sqrt(0.01 * n)
    assert truth.dark[hot].min() >= 2
    assert_allclose(np.median(truth.dark[~hot]), 0.5, rtol=4 * 1.25 * 0.3 / np.sqrt(n))
    assert_allclose(np.log(truth.dark[~hot]).std(), 0.3, rtol=4 / np.sqrt(2 * n) + 1e-3)
    charge = collect(truth, np.zeros(truth.response.shape), 100.0).charge
    pull = (charge - 100 * truth.dark) / np.sqrt(100 * truth.dark)
    assert_allclose(pull.mean(), 0, atol=4 / np.sqrt(n))
    assert_allclose(pull.std(), 1, atol=4 / np.sqrt(2 * n) * 1.02)


def test_bad_columns_go_on_to_the_last_row_read(corner_camera):
    """Bad columns of each kind do what the truth says, from a row to the end of their amplifier."""
    truth = true_one(corner_camera, NONE(bad_columns=3.0))
    seen = 0
    for amplifier in truth.amplifiers:
        defects = amplifier.definition.from_assembled(truth.defects)
        for bit in (HOT_COLUMN, DEAD_COLUMN, TRAP):
            marked = (defects & bit) > 0
            columns = np.flatnonzero(marked.any(axis=0))
            seen += columns.size
            assert marked[-1, columns].all()
            assert (np.diff(marked[:, columns].astype(int), axis=0) >= 0).all()
    assert 10 <= seen <= 70
    assert (truth.dark[(truth.defects & HOT_COLUMN) > 0] >= 3).all()
    assert (truth.response[(truth.defects & DEAD_COLUMN) > 0] <= 0.3).all()
    only_trap = truth.defects == TRAP
    flat = read_out(quiet(truth), np.full(truth.response.shape, 3000.0, dtype=np.float32))
    image = truth.definition.assemble(flat)
    for amplifier in truth.amplifiers:
        where = amplifier.definition.data.slices()
        electrons = (image[where] - amplifier.bias_level) * amplifier.gain
        assert (electrons[only_trap[where]] < 3000 - 100).all()
        assert (np.abs(electrons[truth.defects[where] == 0] - 3000) < 1).all()


def test_dead_pixels_come_in_their_number(camera):
    """Dead pixels see less than half of the light and are marked."""
    truth = true_one(camera, NONE(dead_pixels=0.01))
    dead = (truth.defects & DEAD_PIXEL) > 0
    assert abs(dead.sum() - 0.01 * dead.size) < 4 * np.sqrt(0.01 * dead.size)
    assert (truth.response[dead] <= 0.5).all()
    assert (truth.response[~dead] == 1).all()


def test_bias_level_wanders_by_its_width():
    """The rows' levels scatter by one over many read-outs, and forget their start after some 60 rows."""
    drifts = np.array([row_drift(np.random.default_rng(i), 400) for i in range(400)])
    # 400 independent walks: the sample variance has relative error sqrt(2/400) in each row, less in the mean
    assert_allclose(drifts.var(axis=0).mean(), 1.0, atol=4 * np.sqrt(2 / 400))
    assert abs((drifts[:, 0] * drifts[:, 399]).mean()) < 4 / np.sqrt(400)
    assert_allclose((drifts[:, 0] * drifts[:, 60]).mean(), np.exp(-1), atol=4 * np.sqrt(1.14 / 400))


def test_effects_switch_one_by_one(camera):
    """Switching an effect off changes no other: the rest of the detector's truth stays as it was."""
    everything = true_one(camera, DetectorEffectsConfig())
    for off, same in (
        ("pixel_response", ("dark", "defects", "crosstalk")),
        ("bad_columns", ("crosstalk",)),
        ("dark_current", ("response", "defects")),
        ("crosstalk", ("response", "dark", "defects")),
        ("nonlinearity", ("response", "dark", "defects", "crosstalk")),
    ):
        less = true_one(camera, dataclasses.replace(DetectorEffectsConfig(), **{off: 0.0}))
        for name in same:
            assert_array_equal(getattr(less, name), getattr(everything, name), err_msg=off)
        assert [a.gain for a in less.amplifiers] == [a.gain for a in everything.amplifiers]
        assert [a.bias_level for a in less.amplifiers] == [a.bias_level for a in everything.amplifiers]


def test_frames_depend_on_their_own_numbers(camera):
    """A frame is the same again, and differs from that of another visit, snap or seed."""

    def frame(visit, snap, seed):
        truth = true_one(camera, DetectorEffectsConfig(cosmic_rays=50.0), seed=seed)
        charge = collect(truth, 500 * truth.response, 30.0, visit, snap).charge
        return read_out(truth, charge, visit, snap)["A00"]

    frames = [frame(*unit) for unit in ((1, 0, 3), (2, 0, 3), (1, 1, 3), (1, 0, 4))]
    assert_array_equal(frame(1, 0, 3), frames[0])
    for one, other in itertools.combinations(frames, 2):
        assert (one != other).mean() > 0.5
