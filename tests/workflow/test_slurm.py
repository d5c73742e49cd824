"""The SLURM profile, on a cluster of one node (opt-in: needs a SLURM controller without accounting, as CI may start)."""

import shutil
import subprocess

import pytest
from survey_runs import assert_same_products, products, skyquilt


def slurm_answers():
    return (
        shutil.which("sbatch")
        and subprocess.run(["sinfo", "-h"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.slurm
@pytest.mark.skipif(not slurm_answers(), reason="no SLURM controller answers on this machine")
def test_slurm_gives_the_bytes_of_a_workstation(raw_survey, processed):
    """Every job as a SLURM job, by the shipped profile with what a cluster of one small node needs."""
    profile = raw_survey / "profiles" / "slurm" / "config.yaml"
    text = profile.read_text().replace("mem_mb_per_cpu: 1000 * attempt", "mem_mb_per_cpu: 800 * attempt")
    profile.write_text(
        text
        + "\nslurm-status-command: squeue\nslurm-init-seconds-before-status-checks: 3\n"
        + "seconds-between-status-checks: 2\n"
    )
    done = skyquilt("run", raw_survey, "--profile", "slurm")
    assert "jobs done" in done.stdout
    assert_same_products(products(raw_survey), products(processed))
