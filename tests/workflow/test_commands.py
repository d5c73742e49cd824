"""The command line on a processed survey."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from survey_runs import assert_same_products, products, skyquilt

import skyquilt as package

SOURCE = "imchar/bootstrap/260101001/source.parquet"


def test_status_counts_what_was_planned_and_done(survey, raw_survey):
    """Every stage of a finished survey is done; of a fresh one nothing is; a lost job shows as not done."""
    text = skyquilt("status", survey).stdout
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:] if "/" in line}
    assert rows["bootstrap_im_char"][:2] == ["3/3", "4/4"]
    assert rows["combine_flat"][0] == "2/2"
    assert rows["quality_site"][0] == "1/1"
    skyquilt("ingest", raw_survey)
    assert "0/3" in skyquilt("status", raw_survey).stdout
    (survey / "imchar/bootstrap/chunk_260101001/manifest.json").unlink()
    (survey / "imchar/bootstrap/260101002/manifest.json").unlink()
    rows = {
        line.split()[0]: line.split()[1:]
        for line in skyquilt("status", survey).stdout.splitlines()[2:]
        if "/" in line
    }
    assert rows["bootstrap_im_char"][:2] == ["2/3", "3/4"]


def test_get_finds_products_by_rubins_names(survey):
    """Paths of one and of all, with their checksums verified; a look at a table."""
    assert skyquilt("get", "source", "visit=260101001", "--survey", survey).stdout.strip() == str(
        survey / SOURCE
    )
    images = skyquilt("get", "visit_image", "visit=260101001", "--survey", survey).stdout.splitlines()
    assert len(images) == 4
    shown = skyquilt("get", "visit_table", "--show", "--survey", survey).stdout
    assert "4 rows" in shown
    nothing = skyquilt("get", "source", "visit=1", "--survey", survey, check=False)
    assert nothing.returncode == 2
    assert "source visit=1: nothing like it" in nothing.stderr.replace("preliminary_", "")


def test_get_does_not_hand_out_a_corrupt_product(survey):
    """The damage is named and the unit set aside."""
    path = survey / SOURCE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = skyquilt("get", "source", "visit=260101001", "--survey", survey, check=False)
    assert done.returncode == 2
    assert "will be made again" in done.stderr


def test_why_leads_from_a_source_to_the_raws(survey):
    """Source id -> table -> stage and digests -> calibrations -> raw frames, all with checksums."""
    table = pd.read_parquet(survey / SOURCE)
    source = table[table.detector == 2].iloc[0]
    text = skyquilt("why", source.sourceId, "--survey", survey).stdout
    assert text.startswith(f"source {source.sourceId}: number")
    assert "visit 260101001, detector 2" in text
    for part in (
        "made by bootstrap_im_char",
        "from raw: simulated/raw/260101001_0_2.fits",
        "from bias: calibration/bias/20251231/manifest.json",
        "made by combine_flat",
        "made by combine_bias",
        "from raw: simulated/raw/260101500_0_2.fits",
    ):
        assert part in text, part
    assert (
        "preliminary_visit_image visit 260101001 detector 3"
        in skyquilt("why", survey / "imchar/bootstrap/260101001/detector_003.fits", "--survey", survey).stdout
    )
    assert (
        "neither a product" in skyquilt("why", survey / "survey.yaml", "--survey", survey, check=False).stderr
    )


def test_plan_says_what_a_run_would_do(survey, raw_survey):
    """Nothing for a finished survey, everything for a fresh one, one job and what follows for a lost one."""
    assert skyquilt("plan", survey).stdout.splitlines()[-1].split()[:2] == ["total", "0"]
    assert skyquilt("plan", raw_survey).stdout.splitlines()[-1].split() == ["total", "15", "15"]
    (survey / "calibration/flat/tiny_g-20251231/manifest.json").unlink()
    rows = {line.split()[0]: line.split()[1:] for line in skyquilt("plan", survey).stdout.splitlines()}
    assert rows["combine_flat"][:2] == ["1", "2"]
    assert rows["combine_bias"][:2] == ["0", "1"]
    assert float(rows["combine_flat"][2]) > 0


def test_prune_removes_what_nothing_needs_and_the_release_stays(survey, processed):
    """Manifests and release products stay, the bytes are counted, nothing is re-run, and it can be made again."""
    images = sorted((survey / "imchar").rglob("detector_*.fits"))
    size = sum(path.stat().st_size for path in images)
    assert (
        f"{len(images)} files, {size} bytes could be removed" in skyquilt("prune", survey, "--dry-run").stdout
    )
    assert all(path.exists() for path in images)
    assert f"{len(images)} files, {size} bytes were removed" in skyquilt("prune", survey).stdout
    assert not any(path.exists() for path in images)
    kept = products(survey)
    assert set(products(processed)) - set(kept) == {p.relative_to(survey).as_posix() for p in images}
    assert skyquilt("plan", survey).stdout.splitlines()[-1].split()[:2] == ["total", "0"]
    assert "all products are whole" in skyquilt("verify", survey).stdout
    gone = skyquilt("get", "visit_image", "visit=260101001", "detector=1", "--survey", survey, check=False)
    assert "was pruned" in gone.stderr
    (survey / "imchar/bootstrap/260101001/manifest.json").unlink()
    skyquilt("run", survey)
    restored = products(survey, ("imchar/bootstrap/260101001",))
    assert_same_products(restored, products(processed, ("imchar/bootstrap/260101001",)))


def test_prune_keeps_what_a_stage_to_come_reads(survey):
    """While pictures are missing, the images that they are made of stay."""
    (survey / "quality/visits/chunk_260101004/manifest.json").unlink()
    assert skyquilt("prune", survey).stdout.startswith("0 files, 0 bytes")


@pytest.mark.parametrize(
    "name", ["bootstrap_im_char/260101001", "combine_bias/20251231", "visit_tables/release"]
)
def test_any_job_can_be_run_again_alone(survey, processed, name):
    """From the record beside its log, without Snakemake, from any directory: the same bytes."""
    record = survey / "logs" / f"{name}.job.json"
    job = json.loads(record.read_text())
    (survey / job["output"]).unlink()
    script = package.production_root() / "scripts" / f"{job['rule']}.py"
    subprocess.run([sys.executable, str(script), str(record)], check=True, cwd=os.path.expanduser("~"))
    assert_same_products(products(survey), products(processed))


def test_a_job_leaves_its_log_and_its_resources(survey):
    """Log, job record, CPU seconds and memory; none of it in a manifest."""
    logs = survey / "logs" / "bootstrap_im_char"
    assert "INFO skyquilt" in (logs / "260101001.log").read_text()
    run = json.loads((survey / "imchar/bootstrap/chunk_260101001/run.json").read_text())
    assert run["cpu_seconds"] > run["startup_cpu_seconds"] > 0
    assert run["peak_rss_mb"] > 50
    text = (survey / "imchar/bootstrap/chunk_260101001/manifest.json").read_text()
    for word in ("seconds", "host", "rss", str(survey)):
        assert word not in text


def test_warm_leaves_nothing_to_compile(raw_survey, tmp_path):
    """After `skyquilt warm` a whole run compiles no kernel: the cache does not grow."""
    environment = {**os.environ, "SKYQUILT_CACHE": str(tmp_path / "cache")}
    assert "compiled now" in skyquilt("warm", env=environment).stdout

    def compiled():
        return {
            p.relative_to(tmp_path): p.stat().st_mtime_ns
            for p in (tmp_path / "cache").rglob("*")
            if p.is_file()
        }

    before = compiled()
    assert before
    skyquilt("run", raw_survey, env=environment)
    assert compiled() == before


def test_every_command_explains_itself():
    """--help of the program and of each command."""
    text = skyquilt("--help").stdout
    for command in (
        "init",
        "simulate",
        "ingest",
        "run",
        "status",
        "get",
        "why",
        "verify",
        "plan",
        "prune",
        "warm",
    ):
        assert command in text
        assert skyquilt(command, "--help").stdout.startswith("usage: skyquilt")
