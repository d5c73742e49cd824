"""Files of calibration products: inputs from the registry, workers, and what manifests note."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.io.fits import write_exposure
from skyquilt.io.manifests import ManifestWriter, read_manifest
from skyquilt.pipelines.calibration_files import (
    CalibrationInputs,
    MeasureDetector,
    SearchDetector,
    note_components,
    note_frames,
)
from skyquilt.pipelines.calibration_products.defects import FindDefectsConfig, find_defects
from skyquilt.pipelines.visit_files import (
    CalibrationFrames,
    CalibrationSet,
    detector_file,
    read_characterization,
)
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import Outcome, ProcessingFailure, Reason, serial_map
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

SHAPE = (64, 64)


@dataclass(frozen=True)
class OneCamera:
    """A camera of equal detectors of one amplifier."""

    def detector(self, number):
        """A detector."""
        box = Box(0, 0, 64, 64)
        amplifier = Amplifier("A", None, box, box, None, None, None, box, False, False, 1.5, 6.0, 6e4)
        return Detector(number, "D", "science", 64, 64, 0.01, (0.0, 0.0), 0.0, (amplifier,))


@pytest.fixture
def darks(tmp_path):
    """Manifest of combined darks of detectors 1 and 2, the first with a hot pixel."""
    writer = ManifestWriter(tmp_path / "dark" / "manifest.json", "combine_dark", {"calibration": "n"}, {})
    outcomes = []
    for detector in (1, 2):
        image = np.random.default_rng(detector).normal(0, 0.1, SHAPE).astype(np.float32)
        image[10, 20] += 50.0 * (detector == 1)
        exposure = Exposure(image, Mask.blank(SHAPE), np.full(SHAPE, 0.01, np.float32), unit="electron/s")
        writer.directory.mkdir(exist_ok=True)
        write_exposure(writer.directory / detector_file(detector), exposure, {})
        outcomes.append(Outcome(detector, {"levels": [1.0]}))
    note_frames(writer, "dark", [*outcomes, Outcome(3, None, Reason.TOO_FEW_INPUTS, "none")])
    writer.finish()
    return writer.path


def test_inputs_are_those_of_the_registry():
    """Frames and the manifests of what corrects them come from a calibration's slice; files are named once."""
    frames = [{"path": "raw/b.fits", "detector": -1}, {"path": "raw/a.fits", "detector": 1}] * 2
    entry = {"frames": frames, "uses": {"bias": ["20260101"], "ptc": [], "flat": ["r-1", "g-1"]}}
    inputs = CalibrationInputs.of(SimpleNamespace(detectors=()), entry, None, Path("survey"))
    paths = inputs.paths()
    assert paths["raw"] == [Path("raw/a.fits"), Path("raw/b.fits")]
    assert [str(each) for each in paths["bias"]] == ["calibration/bias/20260101/manifest.json"]
    assert len(paths["flat"]) == 2
    assert "ptc" not in paths


def test_defects_from_files_to_file(darks, tmp_path):
    """Defects of each detector are found in the combined frames there are, and come back from the file written."""
    frames = CalibrationFrames(OneCamera(), ())
    inputs = CalibrationInputs(frames, CalibrationSet({"dark": (darks,)}))
    outcomes = serial_map(SearchDetector(find_defects, inputs, FindDefectsConfig()), [1, 2, 3])
    writer = ManifestWriter(tmp_path / "defects" / "manifest.json", "find_defects", {"calibration": "n"}, {})
    made = note_components(writer, "defects", outcomes)
    writer.finish()
    assert sorted(made) == [1, 2]
    manifest = read_manifest(writer.path)
    assert manifest.parts["detector 3"]["reason"] == "too_few_inputs"
    assert manifest.content["figures"]["1"]["kinds"]["hot"] == {"boxes": 1, "pixels": 1}
    assert read_characterization(writer.path, "defects", 1).boxes.tolist() == [[20, 10, 1, 1]]
    assert read_characterization(writer.path, "defects", 2).kinds.size == 0


def test_nothing_made_leaves_no_file(tmp_path):
    """When no detector can be measured there is no file of components, and each detector has its reason."""

    def measure(read, n_frames, calibrations, config, isr):
        assert n_frames == 0
        assert isr.require == ()
        raise ProcessingFailure(Reason.TOO_FEW_INPUTS, "no flats")

    inputs = CalibrationInputs(CalibrationFrames(OneCamera(), ()))
    outcomes = serial_map(MeasureDetector(measure, inputs, None), [1, 2])
    writer = ManifestWriter(tmp_path / "manifest.json", "measure_linearity", {"calibration": "n"}, {})
    assert note_components(writer, "linearizer", outcomes) == {}
    manifest = writer.finish()
    assert manifest.content["status"] == "failed"
    assert list(manifest.files) == []
