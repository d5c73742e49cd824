"""Files of a visit: raw frames and calibrations as the registry names them, calibrated pixels out."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from skyquilt.io.components import write_components
from skyquilt.io.fits import read_exposure, write_exposure
from skyquilt.io.manifests import CorruptProduct, ManifestWriter
from skyquilt.io.products import path
from skyquilt.pipelines.visit_files import (
    CalibrationFrames,
    calibration_set,
    detector_file,
    read_calibration,
    read_characterization,
    visit_files,
)
from skyquilt.primitives.detector_characterization import Crosstalk, Defects
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

SHAPE = (12, 20)


def frame(level, unit="adu"):
    """A combined frame of one level with noise."""
    image = np.random.default_rng(int(level)).normal(level, 1, SHAPE).astype(np.float32)
    return Exposure(image, Mask.blank(SHAPE), np.ones(SHAPE, np.float32), unit=unit)


def product(kind, members):
    """A finished manifest of calibration `n` in the present directory; `members` writes into it."""
    writer = ManifestWriter(path(f"{kind}_manifest", calibration="n"), kind, {"calibration": "n"}, {})
    writer.directory.mkdir(parents=True)
    members(writer)
    writer.finish()
    return writer.path


@pytest.fixture
def calibrations(tmp_path, monkeypatch):
    """Bias of detectors 0 and 1, crosstalk of detector 1, defects of both; the survey is where we are."""
    monkeypatch.chdir(tmp_path)

    def biases(writer):
        for detector in (0, 1):
            write_exposure(writer.directory / detector_file(detector), frame(100 + detector))
            writer.note("bias", detector_file(detector), detector=detector)

    def components(dataset, made):
        def write(writer):
            with writer.member(dataset, f"{dataset}.fits") as temporary:
                write_components(temporary, made, {})

        return write

    crosstalk = Crosstalk(("A", "B"), np.array([[0, 1e-4], [2e-4, 0]]), np.full((2, 2), 1e-6))
    product("bias", biases)
    product("crosstalk", components("crosstalk", {1: crosstalk}))
    product("defects", components("defects", {0: Defects(), 1: Defects()}))
    product("linearizer", lambda writer: None)
    return calibration_set(
        {"calibrations": {"bias": "n", "crosstalk": "n", "defects": "n", "linearizer": "n"}}
    )


def test_calibrations_of_a_detector(calibrations):
    """Frames can be read in part, components are those of the detector, and what was not made is None."""
    found = calibrations.of(1)
    assert found.bias.box == Box(0, 0, 20, 12)
    part = Box(3, 2, 5, 4)
    assert found.bias.subimage(part) == frame(101).subimage(part)
    assert found.crosstalk.coefficients[1, 0] == 2e-4
    assert isinstance(found.defects, Defects)
    missing = ("dark", "flat", "fringe", "linearizer", "photon_transfer", "brighter_fatter")
    assert all(getattr(found, name) is None for name in missing)
    assert calibrations.of(0).crosstalk is None
    assert calibrations.of(0).bias.subimage(part) == frame(100).subimage(part)
    assert calibrations.of(7).bias is None


def test_no_calibrations():
    """An entry that names none, or empty names, gives a set of none."""
    for entry in (
        {},
        {"calibrations": {}},
        {"calibrations": {"bias": ""}},
        {"uses": {"bias": [], "flat": []}},
    ):
        found = calibration_set(entry)
        assert found.paths() == []
        assert found.of(0).bias is None


def test_a_product_uses_several_of_a_kind():
    """A product's entry names lists; their manifests come in that order, and `of` takes the first."""
    found = calibration_set({"uses": {"bias": ["20260101"], "flat": ["r-1", "g-1"]}})
    assert [str(each) for each in found.paths()] == [
        "calibration/bias/20260101/manifest.json",
        "calibration/flat/r-1/manifest.json",
        "calibration/flat/g-1/manifest.json",
    ]


def test_damage_is_found_before_it_is_used(calibrations):
    """A changed byte in a combined frame or a component stops the reader and sets the manifest aside."""
    for kind, dataset, name in (
        ("bias", "bias", detector_file(1)),
        ("crosstalk", "crosstalk", "crosstalk.fits"),
    ):
        manifest = path(f"{kind}_manifest", calibration="n")
        file = manifest.parent / name
        content = bytearray(file.read_bytes())
        content[-3000] ^= 1
        file.write_bytes(content)
        read = read_calibration if kind == "bias" else read_characterization
        with pytest.raises(CorruptProduct):
            read(manifest, dataset, 1)
        assert not manifest.exists()


def test_a_set_travels_to_workers(calibrations):
    """What a worker gets is equal after pickling, and small: files are opened there."""
    again = pickle.loads(pickle.dumps(calibrations))
    assert again == calibrations
    assert len(pickle.dumps(calibrations)) < 2000
    assert again.of(1).bias == calibrations.of(1).bias


def visit(frames, directory, excluded=None):
    """A visit's files from its entry in the registry."""
    entry = {"frames": frames, "excluded_amplifiers": excluded or {}, "calibrations": {}}
    camera = SimpleNamespace(filters={"demo_r": "r"})
    return visit_files(entry, camera, directory, {"version": "1"})


def test_snaps_stand_in_their_order(tmp_path):
    """Frames are those of a detector, by snap; a frame that ingest refused, or that only other detectors have,
    fails with its reason."""
    frames = [
        {"detector": 2, "snap": 1, "path": "b", "reason": "", "detail": ""},
        {"detector": 1, "snap": 0, "path": "c", "reason": "", "detail": ""},
        {"detector": 2, "snap": 0, "path": "a", "reason": "unreadable_file", "detail": "cut short"},
    ]
    files = visit(frames, tmp_path)
    assert files.snaps(2) == [0, 1]
    assert files.snaps(1) == [0, 1]
    with pytest.raises(ProcessingFailure) as failure:
        files.read_raw(2, 0)
    assert (failure.value.reason, failure.value.detail) == (Reason.UNREADABLE_FILE, "cut short")
    with pytest.raises(ProcessingFailure) as failure:
        files.read_raw(1, 1)
    assert failure.value.reason == Reason.MISSING_FILE


@dataclass(frozen=True)
class Raw:
    """A raw frame of a detector of three amplifiers, one of them not in the file, without any WCS."""

    amplifiers: dict
    detector: object
    header_wcs: object = "unknown"

    def first_wcs(self, camera):
        """None to be had."""
        raise ProcessingFailure(Reason.NO_WCS, "none")


def test_excluded_amplifiers_are_blank(tmp_path, monkeypatch):
    """Amplifiers named in the registry are NaN, the others as they were read; names the detector has not fail."""

    def read(file, camera, detector):
        amplifiers = {"A": np.ones((2, 2), np.float32), "B": np.ones((2, 2), np.float32)}
        return Raw(amplifiers, SimpleNamespace(amplifier_names=("A", "B", "C")))

    monkeypatch.setattr("skyquilt.pipelines.visit_files.read_raw", read)
    frames = [{"detector": 1, "snap": 0, "path": "a", "reason": "", "detail": ""}]
    raw = visit(frames, tmp_path, {"1": ["B", "C"]}).read_raw(1, 0)
    assert np.isnan(raw.amplifiers["B"]).all()
    assert (raw.amplifiers["A"] == 1).all()
    # without any WCS it is still a frame
    assert raw.header_wcs is None
    with pytest.raises(ProcessingFailure, match="amplifier Z") as failure:
        visit(frames, tmp_path, {"1": ["Z"]}).read_raw(1, 0)
    assert failure.value.reason == Reason.EXCLUDED


def test_pixels_are_written_without_fitted_components(tmp_path):
    """Calibrated pixels come back with their band; components of the visit have files of their own."""
    files = visit([], tmp_path)
    exposure = frame(5, "electron").with_(info={"physical_filter": "demo_r"})
    files.write_exposure(3, exposure)
    again = read_exposure(tmp_path / "detector_003.fits", verify=True)
    assert again.info == {"physical_filter": "demo_r", "band": "r"}
    np.testing.assert_array_equal(again.image, exposure.image)
    assert again.psf is None


def test_frames_of_a_calibration():
    """A detector's frames are its own and those of files that hold all detectors, sorted."""
    detectors = tuple(SimpleNamespace(id=number) for number in (0, 1, 2))
    camera = SimpleNamespace(detectors=detectors)
    frames = ({"path": "b", "detector": 1}, {"path": "a", "detector": 1}, {"path": "c", "detector": 2})
    found = CalibrationFrames(camera, frames)
    assert found.of(1) == ["a", "b"]
    assert found.detectors() == [1, 2]
    whole = CalibrationFrames(camera, (*frames, {"path": "0", "detector": -1}))
    assert whole.of(1) == ["0", "a", "b"]
    assert whole.detectors() == [0, 1, 2]
