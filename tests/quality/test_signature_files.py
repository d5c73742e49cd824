"""Instrument signature against truth, from the files of a simulated survey."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skyquilt.algorithms.instrument_signature_removal import DetectorCalibrations, IsrResult
from skyquilt.instrument.camera import Amplifier
from skyquilt.io.components import write_components
from skyquilt.io.manifests import ManifestWriter
from skyquilt.pipelines.detector_image import SnapImage
from skyquilt.primitives.detector_characterization import Crosstalk, Linearizer, PhotonTransfer
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.schemas.truth import SOURCE_TRUTH, VISIT_DETECTOR_TRUTH
from skyquilt.quality.signature_files import (
    calibrated_frame,
    calibration_tables,
    concatenated,
    read_frame_truth,
    true_reading,
    visits_with_images,
)
from skyquilt.simulation.detector_effects.amplifiers import LinearityCurve, TrueAmplifier
from skyquilt.simulation.detector_effects.charge import ChargeEvent
from skyquilt.simulation.detector_effects.truth_files import write_expected
from skyquilt.simulation.truth_tables import amplifier_columns, event_columns, pixel_columns, write_truth

SHAPE = (30, 40)
PATTERN = 0.02 * np.sin(np.arange(40) / 3)[None, :] * np.ones(SHAPE)
SKY, SCALE = 1000.0, 1.3
CURVES = (LinearityCurve(0.012, 0.1, 0.0015, 1.3, 60000.0), LinearityCurve(0.0, 1.0, 0.0, 1.0, 50000.0))


def true_amplifier(name, gain, curve):
    """An amplifier with a curve."""
    box = Box(0, 0, 20, 30)
    definition = Amplifier(name, None, box, box, None, None, None, box, False, False, gain, 5.0, 6e4)
    return TrueAmplifier(definition, gain, 5.0, 9e4, 1000.0, np.zeros((30, 20), np.float32), curve)


def blank_rows(schema, n, **columns):
    """Columns of a schema, 0 or empty where not given."""
    values = {c.name: np.full(n, "" if c.dtype == "str" else 0) for c in schema.columns}
    return values | {name: np.broadcast_to(value, n) for name, value in columns.items()}


@pytest.fixture
def truth(tmp_path):
    """Truth of two snaps of detector 3 of visit 7: a star, a cosmic ray in the second snap, fringes in i."""
    from astropy.io import fits

    light = np.zeros(SHAPE, np.float32)
    light[10, 12] = 300.0
    glow = (SKY * (1 + SCALE * PATTERN)).astype(np.float32)
    (tmp_path / "expected").mkdir()
    for snap in (0, 1):
        write_expected(tmp_path / "expected" / f"7_{snap}_3.fits", light + glow, light)
    images = {
        "FRINGE_i": PATTERN.astype(np.float32),
        "FRINGE_r": np.zeros(SHAPE, np.float32),
        "CROSSTALK": np.array([[0, 3e-4], [-2e-4, 0]]),
    }
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(data, name=name) for name, data in images.items())]
    fits.HDUList(hdus).writeto(tmp_path / "detector_003.fits")
    hit = ChargeEvent(
        "cosmic_ray",
        0,
        np.array([5, 6]),
        np.array([8, 8]),
        np.array([90.0, 30.0], np.float32),
        9.0,
        0.0,
        (0,) * 4,
    )
    frames = [(7, 0, 3, ()), (7, 1, 3, (hit,)), (8, 1, 3, (hit,))]
    amplifiers = [(3, true_amplifier("A", 1.5, CURVES[0])), (3, true_amplifier("B", 2.0, CURVES[1]))]
    write_truth(
        tmp_path,
        {
            "pixel_truth": pixel_columns(frames),
            "event_truth": event_columns(frames),
            "source_truth": blank_rows(
                SOURCE_TRUTH, 2, visit=[7, 8], detector=3, kind="star", x=12.0, y=10.0
            ),
            "visit_detector_truth": blank_rows(
                VISIT_DETECTOR_TRUTH, 1, visit=7, detector=3, fringeScale=SCALE
            ),
            "amplifier_truth": amplifier_columns(amplifiers),
        },
    )
    return tmp_path


def test_truth_of_a_snap(truth):
    """Images, events of that snap alone, sources of the visit, and the fringes that the frame truly has."""
    first, second = (read_frame_truth(truth, 7, snap, 3, "i") for snap in (0, 1))
    assert visits_with_images(truth) == [7]
    assert len(first.events) == 0
    assert len(second.events) == 1
    assert second.where("cosmic_ray").sum() == 2
    assert len(first.sources) == 1
    # float32 images
    np.testing.assert_allclose(first.fringe, SKY * SCALE * PATTERN, atol=1e-3)
    np.testing.assert_allclose(first.expected - first.light - first.fringe, SKY, rtol=1e-6)
    for band in ("r", "g"):
        assert read_frame_truth(truth, 7, 0, 3, band).fringe is None
    with pytest.raises(FileNotFoundError):
        read_frame_truth(truth, 8, 0, 3, "i")


@pytest.mark.parametrize("curve", CURVES)
def test_true_reading_is_that_of_the_simulation(curve):
    """The formula stated with AMPLIFIER_TRUTH gives what simulated amplifiers read."""
    columns = amplifier_columns([(0, true_amplifier("A", 1.5, curve))])
    amplifier = {name: values[0] for name, values in columns.items()}
    linear = np.linspace(0, 1.1 * curve.scale, 50)
    np.testing.assert_allclose(true_reading(amplifier, linear), curve.read(linear), rtol=1e-12)


def component_file(directory, dataset, component):
    """Manifest of a component of detector 3."""
    writer = ManifestWriter(directory / dataset / "manifest.json", dataset, {"calibration": "n"}, {})
    with writer.member(dataset, f"{dataset}.fits") as temporary:
        write_components(temporary, {3: component}, {})
    writer.finish()
    return writer.path


def perfect_linearizer(off=0.0):
    """Tables that undo the true curves but for a relative deviation; the second amplifier was not measured."""
    step, knots = 100.0, 620
    stored = step * np.arange(knots)
    linear = [np.array([curve.linear(value) for value in stored]) for curve in CURVES]
    corrections = np.array([(1 + off) * values - stored for values in linear])
    errors = np.full(corrections.shape, 1.0)
    return Linearizer(
        ("A", "B"), step, corrections, errors, errors, (True, False), np.array([50000.0, np.nan])
    )


@pytest.mark.parametrize("off", [0.0, 0.002])
def test_measured_beside_true(truth, tmp_path, off):
    """Gains, noises, crosstalk and linearity stand beside the truth of the same amplifier, in any order."""
    two, none = np.array([2.01, 1.49]), np.full(2, np.nan)
    ptc = PhotonTransfer(
        ("B", "A"), two, two / 100, two + 3, two / 50, none, none,
        np.empty((2, 0)), np.empty((2, 0, 2, 2)), np.empty((2, 0, 2, 2)),
    )  # fmt: skip
    crosstalk = Crosstalk(("A", "B"), np.array([[0, 3.1e-4], [-2.2e-4, 0]]), np.full((2, 2), 1e-5))
    components = {"ptc": ptc, "crosstalk": crosstalk, "linearizer": perfect_linearizer(off)}
    manifests = {name: component_file(tmp_path, name, made) for name, made in components.items()}
    # detector 4 has nothing
    tables = calibration_tables(manifests, truth, [3, 4])
    amplifiers = tables["amplifiers"].set_index("amplifier")
    assert amplifiers.loc["A", ["gain", "true_gain"]].tolist() == [1.49, 1.5]
    # 5 electrons, and the rounding of a converter of 2 electrons per ADU: 2 / sqrt(12)
    rounded = (5.0**2 + 2.0**2 / 12) ** 0.5
    assert amplifiers.loc["B", ["gain", "true_gain", "true_read_noise"]].tolist() == pytest.approx(
        [2.01, 2.0, rounded]
    )
    pairs = tables["crosstalk"]
    assert pairs[["victim", "source"]].to_numpy().tolist() == [["A", "B"], ["B", "A"]]
    np.testing.assert_allclose(pairs["coefficient"] - pairs["true"], [1e-5, -2e-5])
    linearity = tables["linearity"]
    assert set(linearity["amplifier"]) == {"A"}
    # between knots 100 ADU apart the curve departs from its chord by less than 1e-5
    np.testing.assert_allclose(linearity["deviation"], off, atol=1e-5)
    # one to ninety per cent of full well, as far as it was measured
    assert linearity["level"].min() == 600.0
    assert 48000 < linearity["level"].max() < 51000


def test_no_measurement_no_table(truth):
    """Kinds without a product have no table."""
    assert calibration_tables({}, truth, [3]) == {}


def snap_of(steps, fringe_applied):
    """A snap image of 100 electrons."""
    exposure = Exposure(
        np.full(SHAPE, 100, np.float32), Mask.blank(SHAPE), np.ones(SHAPE, np.float32), unit="electron"
    )
    return SnapImage(0, IsrResult(exposure, [], steps, fringe_scale=50.0, fringe_applied=fringe_applied), {})


def pixels(values):
    """A combined frame."""
    return Exposure(values.astype(np.float32), Mask.blank(SHAPE), np.ones(SHAPE, np.float32))


@pytest.mark.parametrize("done", [True, False])
def test_what_was_done_is_undone(done):
    """Received electrons are the image with the fringes and the flat that went off it, and no others."""
    flat = np.full(SHAPE, 0.8)
    fringe = PATTERN.copy()
    fringe[3, 4] = np.nan
    calibrations = DetectorCalibrations(flat=pixels(flat), fringe=pixels(fringe))
    steps = {"flat": "done" if done else "skipped", "fringe": "done"}
    received = calibrated_frame(snap_of(steps, done), calibrations).received()
    expected = 0.8 * (100 + 50 * np.nan_to_num(fringe)) if done else np.full(SHAPE, 100.0)
    np.testing.assert_allclose(received, expected, rtol=1e-6)


def test_empty_tables_do_not_count():
    """Joined tables keep the types of those that have rows; without any rows one empty table is left."""
    full, empty = pd.DataFrame({"a": [True]}), pd.DataFrame({"a": []})
    joined = concatenated({"x": [empty, full, empty], "y": [empty, empty]})
    assert joined["x"]["a"].dtype == bool
    assert len(joined["y"]) == 0
