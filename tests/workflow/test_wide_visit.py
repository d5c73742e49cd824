"""A visit of large detectors (design 3): memory is workers times one detector, never the visit."""

import importlib.util
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).resolve().parents[2] / "benchmarks" / "wide_visit.py"

DETECTORS, SIZE, WORKERS = 3, 2560, 2
# 0.6 GB for a worker on 4096 x 4096 pixels; what does not scale with pixels is the libraries', resident
BYTES_PER_PIXEL = 0.6e9 / 4096**2
LIBRARIES_MB = 300.0


@pytest.fixture(scope="module")
def wide_visit():
    spec = importlib.util.spec_from_file_location("wide_visit", PLACE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_memory_is_that_of_the_workers(wide_visit, tmp_path):
    """Bias, flat and visit of more detectors than workers: each worker stays within 36 bytes per pixel of one
    detector above the libraries, and the process that leads them holds no pixels."""
    root = tmp_path / "wide"
    wide_visit.make_wide_survey(root, DETECTORS, SIZE, WORKERS, calibrated=DETECTORS)
    peaks = wide_visit.run_weighed(root, WORKERS, "--until bootstrap_im_char")
    assert {"combine_bias", "combine_flat", "bootstrap_im_char"} <= set(peaks.jobs)
    per_worker = BYTES_PER_PIXEL * SIZE**2 / 1e6 + LIBRARIES_MB
    for stage, peak in peaks.jobs.items():
        assert 0 < peak.worker_high < per_worker, stage
        assert peak.total < WORKERS * per_worker + LIBRARIES_MB, stage
        assert peak.main < LIBRARIES_MB, stage
    found = wide_visit.characterized(root)
    assert found == {f"detector {number}": "ok" for number in range(DETECTORS)}
