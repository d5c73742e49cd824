"""The plan of a whole survey (design 3): complete, and built in less than half a gigabyte.

How long it takes is measured by benchmarks/graph_size.py: a time depends on what else a machine does.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).with_name("planned_survey") / "planned_survey.py"


@pytest.fixture(scope="module")
def planned_survey():
    spec = importlib.util.spec_from_file_location("planned_survey", PLACE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_graph_of_a_thousand_visits(planned_survey, tmp_path):
    """1,000 visits of 25 detectors through all stages: every job is planned, in 500 MB."""
    planned_survey.write_planned_survey(tmp_path, 1000)
    plan = planned_survey.plan(tmp_path)
    expected = planned_survey.jobs_by_hand(1000)
    assert planned_survey.counted_jobs(plan.output) == expected
    assert 8_000 <= expected.total() <= 12_000
    assert plan.peak_rss_mb < 500


def test_expected_jobs_are_those_of_a_grid_walked_by_hand(planned_survey):
    """What a visit touches is what a walk over all patches finds under its field."""
    for visit in planned_survey.planned_visits(40):
        assert visit.patches
        for tract, patches in visit.patches.items():
            assert patches == sorted(set(patches))
            assert 0 <= tract < planned_survey.COLUMNS * planned_survey.ROWS
    size, half = 1 / planned_survey.PATCHES, planned_survey.FIELD / 2
    for x, y in [(0.52, 0.47), (1.01, 0.99), (2.97, 1.96), (0.03, 1.5)]:
        walked = {}
        for tract in range(planned_survey.COLUMNS * planned_survey.ROWS):
            row, column = divmod(tract, planned_survey.COLUMNS)
            for patch in range(planned_survey.PATCHES**2):
                patch_row, patch_column = divmod(patch, planned_survey.PATCHES)
                left, low = column + patch_column * size, row + patch_row * size
                if x - half < left + size and left < x + half and y - half < low + size and low < y + half:
                    walked.setdefault(tract, []).append(patch)
        assert planned_survey.touched(x, y) == walked
