"""What the documentation shows, run on the processed tiny survey: commands, notebooks, the worked example."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from doc_pages import ROOT, blocks

REPOSITORY = ("Snakefile", "lib", "scripts", "rules", "config", "profiles")


def environment(**changes):
    """This one, with the commands of this Python first."""
    place = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{place}{os.pathsep}{os.environ['PATH']}", **changes}


def run(command, **options):
    """Run a command; a failure shows what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_blocks(page):
    """Run the Python of a page, block after block, as a notebook does."""
    space = {}
    for block in blocks("python", page=page):
        exec(compile(block.text, str(block), "exec"), space)
    return space


@pytest.fixture
def beside_my_survey(processed, tmp_path, monkeypatch):
    """A working directory in which `my_survey` is the processed survey; do not write to it."""
    (tmp_path / "my_survey").symlink_to(processed, target_is_directory=True)
    monkeypatch.chdir(tmp_path)


def test_images_and_tables_are_read_as_shown(beside_my_survey):
    """The page's code runs, its assertions hold."""
    space = run_blocks("docs/images.md")
    assert space["image_file"].is_file()
    assert space["calibrated"].unit == "nJy"
    assert 0.9 < space["usable"].mean() <= 1.0
    assert len(space["good"]) > 50


def test_the_reference_catalogue_is_tried_as_shown(beside_my_survey):
    """The page's code finds the stars of the field."""
    assert len(run_blocks("docs/reference_catalogues.md")["stars"]) > 50


def test_the_commands_of_running_a_survey_run(survey):
    """Every shell block marked sh, after the one that makes the survey, ends well in it."""
    first, *rest = blocks("sh", page="docs/running.md")
    # what the fixtures did, at less cost
    assert first.text.split()[:6] == ["skyquilt", "init", "my_survey", "--template", "tiny", "skyquilt"]
    for block in rest:
        run(["bash", "-euo", "pipefail", "-c", block.text], cwd=survey, env=environment())


def test_the_worked_example_of_an_algorithm_works(survey, tmp_path):
    """In a copy of the repository its tests pass, the plan follows its meaning, its column is in the table."""
    copy = tmp_path / "repository"
    for name in REPOSITORY:
        place = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        place(ROOT / name, copy / name)
    for block in blocks("python", page="docs/adding_an_algorithm.md"):
        if new := re.search(r"new\sfile\s`([^`]+)`:\s*$", block.before):
            (copy / new[1]).parent.mkdir(parents=True, exist_ok=True)
            (copy / new[1]).write_text(block.text)
    for block in blocks("diff", page="docs/adding_an_algorithm.md"):
        apply(block.text, copy)
    there = environment(PYTHONPATH=str(copy / "lib"))
    test = [
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "-p",
        "no:cacheprovider",
        "tests/algorithms/test_sharpness.py",
    ]
    assert "2 passed" in run([sys.executable, *test], cwd=copy, env=there)
    plan = run([sys.executable, "-m", "skyquilt.workflow.cli", "plan", str(survey)], env=there)
    rows = [line.split() for line in plan.splitlines() if re.match(r"\w+ +\d+ +\d+ ", line)]
    to_run = {stage: int(jobs) for stage, jobs, *_ in rows}
    assert (to_run["combine_bias"], to_run["combine_flat"], to_run["bootstrap_im_char"]) == (0, 0, 3)
    job = survey / "logs" / "bootstrap_im_char" / "260101004.job.json"
    run([sys.executable, str(copy / "scripts" / "bootstrap_im_char.py"), str(job)], env=there)
    sources = pd.read_parquet(survey / "imchar" / "bootstrap" / "260101004" / "source.parquet")
    # at this signal to noise a star of more than a pixel's width exceeds its neighbours, not by all it has
    bright = sources[(sources["peakSnr"] > 100) & ~sources["pixelFlags_saturated"]]
    assert len(bright) > 20
    assert bright["sharpness"].between(0.0, 1.0).mean() > 0.9


def apply(diff, root):
    """Put the added lines of a diff behind its lines of context, which must stand once in the file."""
    head, *lines = diff.splitlines()
    path = root / head.removeprefix("+++ ")
    context = "".join(line[1:] + "\n" for line in lines if line.startswith(" "))
    added = "".join(line[1:] + "\n" for line in lines if line.startswith("+"))
    text = path.read_text()
    assert text.count(context) == 1, f"{path.relative_to(root)} has {text.count(context)} times:\n{context}"
    path.write_text(text.replace(context, context + added))
