"""The wheel carries everything that a survey needs: rules, scripts, configuration, profiles."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import skyquilt

ROOT = Path(skyquilt.__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel of this checkout, installed into a directory of its own (its dependencies are those of the tests)."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("the tests run on an installed wheel: there is no checkout to build from")
    base = tmp_path_factory.mktemp("wheel")
    quiet = {"check": True, "capture_output": True}
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(base), str(ROOT)],
        **quiet,
    )
    wheel = next(base.glob("skyquilt-*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(base / "site"), str(wheel)], **quiet)
    return wheel, base / "site"


def test_the_wheel_holds_the_production_and_nothing_of_the_checkout(installed):
    """Snakefile, rules, scripts, cameras and profiles are in; tests and docs are not."""
    names = zipfile.ZipFile(installed[0]).namelist()
    for name in (
        "Snakefile",
        "rules/common.smk",
        "scripts/bootstrap_im_char.py",
        "config/cameras/nickel.yaml",
        "config/default.yaml",
        "profiles/slurm/config.yaml",
    ):
        assert f"skyquilt/production/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/")) or "__pycache__" in name]


def test_tiny_runs_from_an_empty_directory(installed, tmp_path):
    """The installed command makes, simulates and processes a survey; the checkout is not looked at."""
    environment = {**os.environ, "PYTHONPATH": str(installed[1])}

    def skyquilt_command(*words):
        command = [sys.executable, "-m", "skyquilt.workflow.cli", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-c", "import skyquilt; print(skyquilt.production_root())"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip() == str(installed[1] / "skyquilt" / "production")
    skyquilt_command("init", "tiny", "--template", "tiny")
    skyquilt_command("simulate", "tiny")
    done, planned = re.findall(r"(\d+)/(\d+) jobs done", skyquilt_command("run", "tiny"))[-1]
    assert done == planned
    assert "ASTROMETRY" in skyquilt_command("scorecard", "tiny")
    assert (tmp_path / "tiny" / "quality" / "site" / "index.html").is_file()
