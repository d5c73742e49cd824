"""Instrument signature and artifacts against truth: frames whose faults are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.schemas.truth import EVENT_TRUTH, PIXEL_TRUTH, SOURCE_TRUTH
from skyquilt.quality.signature_truth import (
    LEVEL_EDGES,
    CalibratedFrame,
    FrameTruth,
    cosmic_ray_rows,
    false_row,
    false_trail_row,
    frame_tables,
    fringe_row,
    level_rows,
    saturation_row,
    sky_pull_row,
    star_size_rows,
    trail_rows,
)

SHAPE = (90, 120)
READ_NOISE = 6.0


def rows_of(schema, n, **columns):
    """A table of truth; columns that are not given are 0, False or empty."""
    blank = {
        c.name: np.full(n, "" if c.dtype == "str" else 0, object if c.dtype == "str" else c.dtype)
        for c in schema.columns
    }
    return schema.conform(pd.DataFrame(blank | {k: np.broadcast_to(v, n) for k, v in columns.items()}))


def true_event(kind, pixels, number=0, **columns):
    """One event and its pixels: (x, y, electrons) each."""
    x, y, electrons = (np.array(values) for values in zip(*pixels))
    event = rows_of(EVENT_TRUTH, 1, kind=kind, event=number, peakElectrons=electrons.max(), **columns)
    return event, rows_of(PIXEL_TRUTH, len(x), kind=kind, event=number, x=x, y=y, electrons=electrons)


def true_frame(expected, light=None, fringe=None, events=(), sources=None):
    """Truth with events as `true_event` makes them."""
    tables = list(zip(*events)) or [[rows_of(EVENT_TRUTH, 0)], [rows_of(PIXEL_TRUTH, 0)]]
    return FrameTruth(
        expected=expected.astype(np.float32),
        light=np.zeros(expected.shape, np.float32) if light is None else light.astype(np.float32),
        fringe=None if fringe is None else fringe.astype(np.float32),
        pixels=pd.concat(tables[1], ignore_index=True),
        events=pd.concat(tables[0], ignore_index=True),
        sources=rows_of(SOURCE_TRUTH, 0) if sources is None else sources,
    )


def uneven_flat(shape=SHAPE):
    """A flat between 0.7 and 1.2."""
    x = np.linspace(0, 1, shape[1])
    return np.broadcast_to(0.7 + 0.5 * x, shape).astype(np.float32)


def calibrated(received, flat=None, variance=None, fringe=None):
    """What a perfect calibration makes of received electrons: variance is that of received ones."""
    flat = np.ones(received.shape, np.float32) if flat is None else flat
    variance = np.maximum(received, 0) + READ_NOISE**2 if variance is None else variance
    image = (received / flat).astype(np.float32)
    exposure = Exposure(
        image if fringe is None else image - fringe,
        Mask.blank(received.shape),
        (variance / flat**2).astype(np.float32),
        unit="electron",
    )
    return CalibratedFrame(exposure, flat, fringe)


def noisy(expected, seed, width=1.0):
    """Received electrons with Gaussian noise of `width` times their error."""
    sigma = np.sqrt(expected + READ_NOISE**2)
    return expected + width * sigma * np.random.default_rng(seed).normal(size=expected.shape)


def plain(frame, truth=None):
    """Frame tables without stars."""
    return frame_tables(frame, None, truth)


@pytest.fixture
def ramp():
    """Expected electrons from 50 to 200,000, even in their logarithm."""
    return np.broadcast_to(np.geomspace(50, 2e5, SHAPE[1]), SHAPE).astype(np.float32)


def test_edges_of_levels():
    """Four bins a decade from 100 to 100,000 electrons."""
    assert LEVEL_EDGES[::4] == (100.0, 1000.0, 10000.0, 100000.0)
    steps = np.diff(np.log10(LEVEL_EDGES))
    np.testing.assert_allclose(steps, 0.25, atol=2e-3)


def test_levels_one_percent_high(ramp):
    """Each bin has measured over expected of 1.01 under any flat, and the pixels that lie in it."""
    rows = level_rows(calibrated(1.01 * ramp, uneven_flat()), true_frame(ramp))
    assert rows["lower"].tolist() == list(LEVEL_EDGES[:-1])
    # float32 pixels, rounded at the division and the product
    np.testing.assert_allclose(rows["measured"] / rows["expected"], 1.01, rtol=3e-7)
    inside = (ramp >= LEVEL_EDGES[0]) & (ramp < LEVEL_EDGES[-1])
    assert rows["n"].sum() == inside.sum()
    for lower, upper, n in zip(LEVEL_EDGES, LEVEL_EDGES[1:], rows["n"]):
        assert n == ((ramp >= np.float32(lower)) & (ramp < np.float32(upper))).sum()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_levels_of_a_noisy_frame(ramp, seed):
    """Binned by what is expected, noise moves no pixel between bins: the means are true within their errors."""
    rows = level_rows(calibrated(noisy(ramp, seed), uneven_flat()), true_frame(ramp))
    error = np.sqrt(rows["expected"] + rows["n"] * READ_NOISE**2)
    pulls = (rows["measured"] - rows["expected"]) / error
    assert np.abs(pulls).max() < 4.5
    # chi square of 12 bins: 12 +- 5
    assert 1 < (pulls**2).sum() < 35


def test_levels_leave_out_events_and_marks(ramp):
    """Unfound hits with their neighbours, saturated pixels, marked pixels and NaN say nothing of levels."""
    received = ramp.copy()
    received[49:52, 59:62] += 1e6
    received[10, 70:80] = 0
    hit = true_event("cosmic_ray", [(60, 50, 1e6)])
    full = true_event("saturated", [(x, 10, 1e6) for x in range(70, 80)])
    frame = calibrated(received)
    exposure = frame.exposure
    exposure.image[20:25, 40:45] = np.nan
    exposure.image[30, 30:40] = 9e9
    exposure.mask.set("INTERPOLATED", (30, slice(30, 40)))
    exposure.image[31, 30:40] = 9e9
    exposure.mask.set("COSMIC_RAY", (31, slice(30, 40)))
    rows = level_rows(frame, true_frame(ramp, events=[hit, full]))
    np.testing.assert_allclose(rows["measured"] / rows["expected"], 1, rtol=3e-7)
    whole = level_rows(calibrated(ramp), true_frame(ramp))
    # nine around the hit, 3 x 12 around the row of full ones, NaN, and two marked rows
    assert whole["n"].sum() - rows["n"].sum() == 9 + 36 + 25 + 20


def test_subtracted_fringes_count_as_received():
    """Electrons received are those of the calibrated image with its fringes and its flat."""
    sky = np.full(SHAPE, 500.0)
    flat = uneven_flat()
    fringe = (
        np.float32(8) * np.sin(np.arange(SHAPE[1], dtype=np.float32))[None, :] * np.ones(SHAPE, np.float32)
    )
    frame = calibrated(sky, flat, fringe=fringe)
    np.testing.assert_allclose(frame.received(), sky, rtol=1e-6)


@pytest.mark.parametrize("width", [1.0, 1.1])
@pytest.mark.parametrize("seed", [1, 2])
def test_width_of_sky_pulls(width, seed):
    """The width of pulls is that of the noise over its quoted error, whatever stands beside in the frame."""
    sky = np.full((200, 300), 300.0)
    light = np.zeros(sky.shape)
    light[:, :100] = 50.0
    received = noisy(sky, seed, width)
    received[:, :100] += 400
    received[60:70, 150:250] += 90
    trail = true_event("streak", [(x, y, 90.0) for y in range(60, 70) for x in range(150, 250)])
    row = sky_pull_row(
        calibrated(received, uneven_flat(sky.shape), sky + READ_NOISE**2),
        true_frame(sky + light, light, events=[trail]),
    )
    assert row["n"] == 200 * 200 - 12 * 102
    # error of a width from the MAD: 1.17 sigma / sqrt(n)
    assert abs(row["width"] - width) < 4 * 1.17 * width / np.sqrt(row["n"])
    assert abs(row["mean"]) < 4 * width / np.sqrt(row["n"])


def test_few_empty_pixels_have_no_width():
    """With fewer than 1000 empty pixels there is no figure."""
    sky = np.full((30, 30), 300.0)
    row = sky_pull_row(calibrated(sky), true_frame(sky))
    assert np.isnan(row["width"])
    assert row["n"] == 900


def test_cosmic_rays_found_and_missed():
    """A hit is found when its brightest pixel is marked; its share counts pixels above 3 sigma of its noise."""
    sky = np.full(SHAPE, 100.0)
    noise = 10.0
    found = true_event(
        "cosmic_ray", [(20, 20, 500.0), (21, 20, 50.0), (22, 20, 20.0)], 0, peakSnr=500 / noise
    )
    missed = true_event("cosmic_ray", [(50, 20, 60.0)], 1, peakSnr=60 / noise)
    beside = true_event("cosmic_ray", [(70, 20, 70.0), (71, 20, 40.0)], 2, peakSnr=70 / noise)
    hidden = true_event("cosmic_ray", [(90, 20, 900.0)], 3, peakSnr=900 / noise)
    no_noise = true_event("cosmic_ray", [(100, 20, 900.0)], 4, peakSnr=np.nan)
    other = true_event("streak", [(30, 50, 900.0)], 0, peakSnr=90.0)
    frame = calibrated(sky)
    frame.exposure.mask.set("COSMIC_RAY", (20, 20))
    # a neighbour of the brightest pixel does not find it
    frame.exposure.mask.set("COSMIC_RAY", (20, 71))
    frame.exposure.mask.set("SATURATED", (20, 90))
    rows = cosmic_ray_rows(frame, true_frame(sky, events=[found, missed, beside, hidden, no_noise, other]))
    np.testing.assert_allclose(rows["peak_snr"], [50, 6, 7, 90])
    assert rows["found"].tolist() == [True, False, False, False]
    assert rows["share"].tolist() == [0.5, 0.0, 0.5, 0.0]
    assert rows["visible"].tolist() == [True, True, True, False]


def test_no_events_no_rows():
    """A frame without events, stars and marks has empty tables and counts of 0."""
    sky = np.full(SHAPE, 100.0)
    tables = frame_tables(calibrated(sky), calibrated(sky), true_frame(sky))
    for name in ("cosmic_rays", "trails", "stars"):
        assert all(len(column) == 0 for column in tables[name].values()), name
    marks = tables["marks"]
    assert (marks["false_cosmic_rays"], marks["cores_hit"], marks["false_trails"], marks["stars"]) == (
        0,
        0,
        0,
        0,
    )
    assert marks["megapixels"] == pytest.approx(90 * 120 / 1e6)
    assert tables["saturation"] == {"pixels": 0, "marked": 0, "beyond": 0}
    assert np.isnan(tables["fringes"]["residual"])


def test_false_marks_and_star_cores():
    """A mark that touches no hit is false; a core is hit by a mark within a pixel, unless a true hit is near."""
    sky = np.full(SHAPE, 100.0)
    frame = calibrated(sky)
    mask = frame.exposure.mask
    # touches a hit by a corner; on its own; on a star; on another star that was truly hit beside its core
    mask.set("COSMIC_RAY", (slice(11, 14), slice(11, 14)))
    mask.set("COSMIC_RAY", (40, slice(80, 90)))
    mask.set("COSMIC_RAY", (60, 31))
    mask.set("COSMIC_RAY", (slice(60, 62), slice(60, 64)))
    hits = [
        true_event("cosmic_ray", [(10, 10, 500.0)], 0, peakSnr=50),
        true_event("cosmic_ray", [(63, 61, 500.0)], 1, peakSnr=50),
    ]
    stars = rows_of(
        SOURCE_TRUTH,
        5,
        kind=np.array(["star", "star", "star", "galaxy", "star"], object),
        x=[30.4, 60.0, 100.0, 85.0, 85.0],
        y=[60.0, 60.0, 60.0, 40.0, 40.0],
        snr=[50.0, 50.0, 50.0, 50.0, 5.0],
    )
    row = false_row(frame, true_frame(sky, events=hits, sources=stars))
    assert row["false_cosmic_rays"] == 2
    assert (row["stars"], row["cores_hit"]) == (3, 1)


def test_a_trail_half_masked():
    """How many of a trail's pixels are marked, its brightness over the noise, and its length."""
    sky = np.full(SHAPE, 64.0)
    frame = calibrated(sky, variance=np.full(SHAPE, 100.0))
    half = true_event("streak", [(x, x // 2, 30.0) for x in range(100)], 7, surfaceBrightness=30.0)
    missed = true_event("streak", [(x, 80, 15.0) for x in range(120)], 8, surfaceBrightness=15.0)
    frame.exposure.mask.set("STREAK", (np.arange(50) // 2, np.arange(50)))
    truth = true_frame(sky, events=[half, missed])
    rows = trail_rows(frame, truth)
    np.testing.assert_allclose(rows["brightness"], [3.0, 1.5])
    assert rows["event"].tolist() == [7, 8]
    assert (rows["pixels"].tolist(), rows["marked"].tolist()) == ([100, 120], [50, 0])
    np.testing.assert_allclose(rows["length"], [np.hypot(99, 49), 119])
    assert false_trail_row(frame, truth) == {"false_trails": 0}


def test_a_false_trail():
    """A mark more than ten pixels from every true trail is false; a wide one around a true trail is not."""
    sky = np.full(SHAPE, 64.0)
    frame = calibrated(sky)
    frame.exposure.mask.set("STREAK", (slice(60, 63), slice(0, 120)))
    frame.exposure.mask.set("STREAK", (slice(15, 25), slice(0, 120)))
    truth = true_frame(sky, events=[true_event("streak", [(x, 20, 30.0) for x in range(120)])])
    assert false_trail_row(frame, truth) == {"false_trails": 1}


def test_saturated_pixels_unmarked():
    """True saturated and bled pixels are counted with those marked; those without data are nobody's fault."""
    sky = np.full(SHAPE, 100.0)
    frame = calibrated(sky)
    mask = frame.exposure.mask
    full = true_event("saturated", [(x, y, 1e5) for x in range(40, 50) for y in range(40, 50)])
    bled = true_event("bled", [(45, y, 1e4) for y in range(50, 60)])
    mask.set("SATURATED", (slice(40, 58), slice(40, 50)))
    mask.set("NO_DATA", (slice(40, 42), slice(40, 50)))
    # next to it is growth, far from it a false mark
    mask.set("SATURATED", (slice(40, 42), slice(50, 52)))
    mask.set("SATURATED", (80, slice(10, 15)))
    row = saturation_row(frame, true_frame(sky, events=[full, bled]))
    # 80 of 100 full ones have data, and eight of ten bled ones are marked
    assert (row["pixels"], row["marked"]) == (90, 88)
    near = np.zeros(SHAPE, bool)
    near[40:52, 38:52] = True
    near[38:62, 43:48] = True
    assert row["beyond"] == (mask.any(["SATURATED"]) & ~near).sum()


@pytest.mark.parametrize("left", [0.0, 0.1, -0.05])
def test_fringes_left(left):
    """The residual is the share of the true fringes that was not subtracted, and its error has pulls of one."""
    shape = (60, 100)
    sky = np.full(shape, 900.0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    fringe = 20 * np.sin(x / 7 + y / 11)
    flat = uneven_flat(shape)
    pulls = []
    for seed in range(40):
        received = noisy(sky + fringe, seed)
        subtracted = ((1 - left) * fringe / flat).astype(np.float32)
        frame = calibrated(received, flat, sky + READ_NOISE**2, subtracted)
        row = fringe_row(frame, true_frame(sky + fringe, fringe=fringe))
        pulls.append((row["residual"] - left) / row["error"])
        assert row["error"] == pytest.approx(31 / (20 * np.sqrt(0.5 * sky.size)), rel=0.15)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(40)
    assert abs(np.std(pulls) - 1) < 4 / np.sqrt(80)


def test_fringes_of_a_frame_without_empty_pixels():
    """Where sources cover everything there is no figure of fringes, and no warning."""
    sky = np.full(SHAPE, 900.0)
    row = fringe_row(calibrated(sky), true_frame(sky, light=sky, fringe=np.ones(SHAPE)))
    assert np.isnan(row["residual"])
    assert np.isnan(row["error"])


def star_field(widths, peaks, pixel=40):
    """Gaussian stars side by side, of given widths [pixel] and peaks [e], without sky."""
    n = len(peaks)
    image = np.zeros((pixel, pixel * n))
    y, x = np.mgrid[:pixel, :pixel]
    centre = pixel / 2 + 0.3
    for k, (width, peak) in enumerate(zip(widths, peaks)):
        r2 = (x - centre) ** 2 + (y - centre) ** 2
        image[:, k * pixel : (k + 1) * pixel] = peak * np.exp(-r2 / (2 * width**2))
    return image, np.arange(n) * pixel + centre, np.full(n, centre)


def stars_of(x, y, share):
    """SOURCE_TRUTH of isolated bright stars."""
    return rows_of(
        SOURCE_TRUTH,
        len(x),
        kind=np.full(len(x), "star", object),
        x=x,
        y=y,
        snr=500.0,
        isolated=True,
        fullWellFraction=share,
    )


def test_star_sizes_with_a_slope():
    """Sizes are traces of moments under a Gaussian weight of sigma 2: 2 s^2 w^2 / (s^2 + w^2) of a Gaussian star,
    and a broadening in proportion to the peak comes out as that."""
    share = np.linspace(0.05, 0.7, 8)
    width = 1.9
    broad = width * np.sqrt(1 + 0.04 * share)
    light, x, y = star_field(np.full(8, width), 1e5 * share)
    fat, *_ = star_field(broad, 1e5 * share)
    sky = 200.0
    flat = uneven_flat(light.shape)
    truth = true_frame(light + sky, light, sources=stars_of(x, y, share))
    rows = star_size_rows(calibrated(light + sky, flat), calibrated(fat + sky, flat), truth)

    def trace(s):
        return 2 * s**2 * 4 / (s**2 + 4)

    np.testing.assert_allclose(rows["peak"], share)
    np.testing.assert_allclose(rows["corrected"], 0, atol=1e-5)
    np.testing.assert_allclose(rows["uncorrected"], trace(broad) / trace(width) - 1, atol=2e-5)


def test_a_wrong_sky_makes_no_star_large():
    """A gain off by a thousandth, the sky with it, leaves sizes alone."""
    share = np.full(6, 0.05)
    light, x, y = star_field(np.full(6, 1.7), 1e5 * share)
    expected = light + 3000.0
    truth = true_frame(expected, light, sources=stars_of(x, y, share))
    frame = calibrated(1.001 * expected)
    rows = star_size_rows(frame, frame, truth)
    assert len(rows["peak"]) == 6
    np.testing.assert_allclose(rows["corrected"], 0, atol=1e-4)


def test_errors_of_star_sizes():
    """Quoted errors of sizes are those of the pixels' noise: pulls of unit width."""
    share = np.full(12, 0.1)
    light, x, y = star_field(np.full(12, 1.6), 1e5 * share)
    flat = uneven_flat(light.shape)
    expected = light + 150.0
    truth = true_frame(expected, light, sources=stars_of(x, y, share))
    pulls = []
    for seed in range(30):
        frame = calibrated(noisy(expected, seed), flat, expected + READ_NOISE**2)
        rows = star_size_rows(frame, frame, truth)
        pulls.extend(rows["corrected"] / rows["error"])
    assert len(pulls) == 360
    assert abs(np.mean(pulls)) < 4 / np.sqrt(360)
    assert abs(np.std(pulls) - 1) < 4 / np.sqrt(720)


def test_spoilt_and_unfit_stars_have_no_size():
    """Stars with a mark or a hit in their stamp, at the edge, faint, crowded, full or not stars are left out."""
    share = np.full(8, 0.3)
    light, x, y = star_field(np.full(8, 1.8), 1e5 * share)
    sources = stars_of(x, y, share)
    sources.loc[1, "snr"] = 50.0
    sources.loc[2, "isolated"] = False
    sources.loc[3, "fullWellFraction"] = 0.9
    sources.loc[4, "kind"] = "galaxy"
    sources.loc[5, "x"] = light.shape[1] - 5.0
    hit = true_event("cosmic_ray", [(int(x[6]) + 9, int(y[6]), 500.0)])
    frame = calibrated(light + 100.0)
    frame.exposure.mask.set("BAD", (int(y[7]), int(x[7]) - 9))
    truth = true_frame(light + 100.0, light, events=[hit], sources=sources)
    rows = star_size_rows(frame, calibrated(light + 100.0), truth)
    assert len(rows["peak"]) == 1
    # a mark in the uncorrected frame counts too
    other = calibrated(light + 100.0)
    other.exposure.mask.set("SATURATED", (int(y[0]), int(x[0])))
    assert len(star_size_rows(frame, other, truth)["peak"]) == 0


def test_events_beyond_the_detector():
    """Pixels of truth outside the detector are no pixels of the frame."""
    sky = np.full(SHAPE, 100.0)
    truth = true_frame(sky, events=[true_event("streak", [(-1, 5, 1.0), (5, 5, 1.0), (5, 200, 1.0)])])
    where = truth.where("streak")
    assert where.sum() == 1
    assert where[5, 5]
    assert not dataclasses.replace(truth, pixels=truth.pixels.iloc[:0]).where("streak").any()
