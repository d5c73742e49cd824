"""Re-running follows meaning (design 3): an edit re-runs what depends on it and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import skyquilt

IMAGES = {"bootstrap_im_char": 3, "visit_tables": 1, "visit_quality": 3, "scorecard": 1, "quality_site": 1}
FROM_FLATS = {"combine_flat": 2, "find_defects": 1, **IMAGES}
EVERYTHING = {"combine_bias": 1, "measure_crosstalk": 1, "measure_photon_transfer": 1, **FROM_FLATS}
PAGES = {"visit_quality": 3, "quality_site": 1}


@pytest.fixture
def library(tmp_path):
    """A copy of rules, scripts and library that may be edited."""
    root = skyquilt.production_root()
    copy = tmp_path / "library"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("rules", "scripts", "config", "profiles"):
        shutil.copytree(root / name, copy / name, ignore=ignore)
    shutil.copytree(Path(skyquilt.__file__).parent, copy / "lib" / "skyquilt", ignore=ignore)
    shutil.copy(root / "Snakefile", copy / "Snakefile")
    return copy


def planned(survey, library):
    """Jobs that `skyquilt plan` of the copied library would start, by stage."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom skyquilt.workflow.run import prepare\n"
        "from skyquilt.workflow.plan import planned_jobs\nfrom skyquilt.workflow.survey import Survey\n"
        "root = Path(sys.argv[1])\nprepare(Survey(root), 1, lambda text: None)\n"
        "print(planned_jobs(root, 1, 'default', []))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(survey)],
        env={**os.environ, "PYTHONPATH": str(library / "lib")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return ast_literal(done.stdout)


def ast_literal(text):
    import ast

    return ast.literal_eval(text.strip().splitlines()[-1])


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) >= 1, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new, 1))


def test_nothing_is_stale_after_a_run_and_after_edits_without_meaning(survey, library):
    """Comments and docstrings in library, scripts and survey.yaml, and options spelled as their defaults."""
    assert planned(survey, library) == {}
    background = library / "lib/skyquilt/algorithms/background_estimation.py"
    background.write_text("# a comment\n" + background.read_text().replace('"""', '"""Edited. ', 1))
    script = library / "scripts/bootstrap_im_char.py"
    script.write_text(script.read_text() + "\n# the end\n")
    edit(
        survey / "survey.yaml", "survey:\n", "# a comment\ningest:\n  overlap_margin_arcsec: 60.0\nsurvey:\n"
    )
    assert planned(survey, library) == {}


@pytest.mark.parametrize(
    ("where", "old", "new", "jobs"),
    [
        (
            "lib/skyquilt/algorithms/background_estimation.py",
            "import numpy as np\n",
            "import numpy as np\nNEW = 1\n",
            IMAGES,
        ),
        (
            "scripts/visit_tables.py",
            "def main(",
            "NEW = 1\n\n\ndef main(",
            {"visit_tables": 1, "quality_site": 1},
        ),
        ("lib/skyquilt/pipelines/calibration_files.py", "@dataclass", "NEW = 1\n\n\n@dataclass", EVERYTHING),
        ("lib/skyquilt/workflow/cli.py", "SIMULATED =", "NEW = 1\nSIMULATED =", {}),
    ],
)
def test_editing_code_re_runs_what_uses_it_and_what_follows(survey, library, where, old, new, jobs):
    """An algorithm, a script, a pipeline at the head of all; the command line none."""
    edit(library / where, old, new)
    assert planned(survey, library) == jobs


@pytest.mark.parametrize(
    ("section", "jobs"),
    [
        ("bootstrap_im_char:\n  detection:\n    threshold: 4.0\n", IMAGES),
        ("combine_bias:\n  clip: 4.0\n", EVERYTHING),
        ("combine_flat:\n  clip: 4.0\n", FROM_FLATS),
        ("visit_tables:\n  map_nside: 2048\n", {"visit_tables": 1, "quality_site": 1}),
    ],
)
def test_editing_an_option_re_runs_its_stage_and_what_follows(survey, library, section, jobs):
    """Nothing before it, nothing beside it."""
    text = (survey / "survey.yaml").read_text()
    (survey / "survey.yaml").write_text(text + "\n" + section)
    assert planned(survey, library) == jobs


def test_excluding_a_detector_re_runs_its_visit_only(survey, library):
    """The chunk of the visit, and what follows it; within the chunk the other visit is kept."""
    (survey / "exclusions.csv").write_text("visit,detector,amplifier,reason\n260101001,2,,moonlit ghost\n")
    edit(survey / "survey.yaml", "survey:\n", "survey:\n  exclusions: exclusions.csv\n")
    chunk_of_the_visit = {
        "bootstrap_im_char": 1,
        "visit_tables": 1,
        "visit_quality": 1,
        "scorecard": 1,
        "quality_site": 1,
    }
    assert planned(survey, library) == chunk_of_the_visit


def test_plain_snakemake_stops_when_stages_or_registry_are_stale(survey, raw_survey):
    """It names what changed and the command to type; after an ingest it works."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1"]

    def plain(root):
        environment = {k: v for k, v in os.environ.items() if k != "SKYQUILT_FRESH"}
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=environment)
        return done.returncode, done.stdout + done.stderr

    assert plain(survey)[0] == 0
    code, text = plain(raw_survey)
    assert code != 0
    assert f"type: skyquilt ingest {raw_survey}" in text
    (survey / "survey.yaml").write_text(
        (survey / "survey.yaml").read_text() + "\nexecution: {chunk_megapixels: 1.0}\n"
    )
    code, text = plain(survey)
    assert code != 0
    assert "survey.yaml changed" in text
    assert f"type: skyquilt ingest {survey}" in text
