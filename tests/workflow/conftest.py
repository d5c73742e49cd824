"""A tiny survey, simulated once and processed once for all tests of the workflow; each test works on a copy."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from survey_runs import skyquilt

from skyquilt.workflow.cli import main


def _once(tmp_path_factory, name, make):
    """A directory that the first of all test processes makes and the others use."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    directory = base / name
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            part = base / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(directory)
    return directory


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """Raw frames, reference and truth of the tiny survey; do not write to it."""

    def make(directory):
        assert main(["init", str(directory), "--template", "tiny"]) == 0
        skyquilt("simulate", directory, "--cores", 1)

    return _once(tmp_path_factory, "simulated", make)


@pytest.fixture(scope="session")
def processed(simulated, tmp_path_factory):
    """The tiny survey, processed on one core; do not write to it."""

    def make(directory):
        shutil.copytree(simulated, directory, symlinks=True)
        skyquilt("run", directory, "--cores", 1)

    return _once(tmp_path_factory, "processed", make)


@pytest.fixture
def raw_survey(simulated, tmp_path):
    """A copy of the survey with raw frames only."""
    return Path(shutil.copytree(simulated, tmp_path / "raw_survey"))


@pytest.fixture
def survey(processed, tmp_path):
    """A copy of the processed survey, with its times."""
    return Path(shutil.copytree(processed, tmp_path / "survey"))
