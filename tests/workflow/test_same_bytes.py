"""The same inputs give the same bytes (design 6), whatever happens on the way."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from survey_runs import assert_same_products, products, skyquilt

KILLS = 10


def test_two_cores_and_two_workers_give_the_bytes_of_one(raw_survey, processed):
    """Neither jobs side by side nor workers within a job change a product."""
    text = (raw_survey / "survey.yaml").read_text()
    assert "threads_per_job: 1" in text
    (raw_survey / "survey.yaml").write_text(text.replace("threads_per_job: 1", "threads_per_job: 2"))
    skyquilt("run", raw_survey, "--cores", 2)
    assert_same_products(products(raw_survey), products(processed))


def test_one_tract_alone_gives_the_bytes_it_has_among_others(raw_survey, processed):
    """What is made for one tract equals what is made for both; release-wide files wait for a run of the whole."""
    tracts = json.loads((processed / "registry" / "graph.json").read_text())["tracts"]
    assert len(tracts) == 2
    tract = min(tracts, key=lambda name: len(tracts[name]["chunks"]))
    skyquilt("run", raw_survey, "--tract", tract)
    found = products(raw_survey, ("calibration", "imchar", "quality/visits"))
    expected = products(processed, ("calibration", "imchar", "quality/visits"))
    assert [name for name in found if name.endswith("source.parquet")]
    assert not (raw_survey / "release").exists()
    assert_same_products(found, {name: data for name, data in expected.items() if name in found})


def test_a_survey_restricted_to_a_tract_gives_the_same_visits(raw_survey, processed):
    """`survey.tracts` leaves out visits, and changes nothing in those that stay."""
    tracts = json.loads((processed / "registry" / "graph.json").read_text())["tracts"]
    text = (raw_survey / "survey.yaml").read_text()
    (raw_survey / "survey.yaml").write_text(
        text.replace("survey:\n", f"survey:\n  tracts: [{min(tracts)}]\n", 1)
    )
    skyquilt("run", raw_survey)
    found = products(raw_survey, ("calibration", "imchar"), without_chunks=True)
    expected = products(processed, ("calibration", "imchar"), without_chunks=True)
    assert found
    assert_same_products(found, {name: data for name, data in expected.items() if name in found})


def test_a_visit_added_later_leaves_the_others_as_they_are(raw_survey, processed):
    """The first run has no knowledge of the last visit; the second makes that visit and touches no other."""
    raws = raw_survey / "simulated" / "raw"
    late = [path for path in raws.iterdir() if path.name.startswith("260101004")]
    aside = raw_survey / "later"
    aside.mkdir()
    for path in late:
        path.rename(aside / path.name)
    skyquilt("run", raw_survey)
    before = {p: p.stat().st_mtime_ns for p in (raw_survey / "imchar").rglob("source.parquet")}
    assert len(before) == 3
    for path in aside.iterdir():
        path.rename(raws / path.name)
    aside.rmdir()
    skyquilt("run", raw_survey)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert_same_products(products(raw_survey, without_chunks=True), products(processed, without_chunks=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses /proc to find processes")
def test_kill_at_random_moments_and_run_again(raw_survey, processed):
    """kill -9 ten times, of the head alone (its jobs live on) and of the whole group; the last run completes it.

    The draws are fixed, the moments are not: machines differ in speed, and that is wanted here.
    """
    draw = random.Random(20260101)
    for number in range(KILLS):
        if number == KILLS // 2:
            # there may be little left to kill: begin again with the later stages
            for place in ("imchar", "quality", "release"):
                shutil.rmtree(raw_survey / place, ignore_errors=True)
        _run_and_kill(raw_survey, draw.uniform(0.5, 9.0), whole_group=number % 2 == 1)
    done = skyquilt("run", raw_survey, "--cores", 2)
    assert "process" not in done.stderr
    assert_same_products(products(raw_survey), products(processed))
    assert not list(raw_survey.rglob(".*.part*"))
    assert not list(raw_survey.rglob("*.bad"))


def _run_and_kill(root, seconds, whole_group):
    command = [sys.executable, "-m", "skyquilt.workflow.cli", "run", str(root), "--cores", "2"]
    head = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        head.wait(seconds)
    except subprocess.TimeoutExpired:
        if whole_group:
            os.killpg(head.pid, signal.SIGKILL)
            _kill_all(head.pid)
        else:
            head.send_signal(signal.SIGKILL)
    head.wait()


def _kill_all(session):
    """Kill what left the group but not the session (jobs' shells may do so)."""
    for process in psutil.process_iter(["pid"]):
        try:
            if os.getsid(process.pid) == session:
                process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue


def test_jobs_that_outlive_their_head_are_waited_for(raw_survey, processed):
    """A job of a killed run goes on; the job of the next run on the same chunk waits, and keeps what it made."""
    command = [sys.executable, "-m", "skyquilt.workflow.cli", "run", str(raw_survey), "--cores", "2"]
    head = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    log = raw_survey / "logs" / "bootstrap_im_char"
    deadline = time.time() + 120
    while not (log.is_dir() and list(log.glob("*.job.json"))):
        assert time.time() < deadline
        assert head.poll() is None
        time.sleep(0.02)
    head.kill()
    head.wait()
    record = json.loads(next(log.glob("*.job.json")).read_text())
    assert psutil.pid_exists(record["pid"])
    skyquilt("run", raw_survey, "--cores", 2)
    assert_same_products(products(raw_survey), products(processed))


def test_a_second_run_is_refused_while_the_first_is_at_work(raw_survey):
    """Two runs in one directory would do everything twice."""
    command = [sys.executable, "-m", "skyquilt.workflow.cli", "run", str(raw_survey), "--cores", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as head:
        deadline = time.time() + 60
        while not (raw_survey / ".skyquilt" / "run.lock").is_file() or not _has_pid(raw_survey):
            assert time.time() < deadline
            time.sleep(0.02)
        second = skyquilt("run", raw_survey, check=False)
        os.killpg(head.pid, signal.SIGKILL)
    assert second.returncode == 2
    assert f"another run is at work in {raw_survey} (process {head.pid})" in second.stderr


def _has_pid(root):
    return (root / ".skyquilt" / "run.lock").read_text().strip().isdigit()


def test_temporary_files_of_killed_processes_are_cleared_everywhere(survey):
    """Registry, stages, calibrations, images, pages: whatever a killed writer left, and only that."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    places = (
        "registry",
        "stage",
        "calibration/bias/20251231",
        "imchar/bootstrap/260101001",
        "quality/site/visits",
    )
    for place in places:
        for pid in (dead.pid, os.getpid()):
            (survey / place / f".x.json.{socket.gethostname()}.{pid}.part.json").write_text("half")
    skyquilt("ingest", survey)
    left = sorted(path.name.split(".")[-3] for path in survey.rglob(".*.part*"))
    assert left == [str(os.getpid())] * len(places)


def test_stale_locks_of_snakemake_are_cleared(survey):
    """Lock files that a killed plain `snakemake` left do not stop `skyquilt run`."""
    locks = survey / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.input.lock").write_text("stage/combine_bias.json\n")
    (locks / "0.output.lock").write_text("calibration/bias/20251231/manifest.json\n")
    (survey / "release" / "visits" / "manifest.json").unlink()
    skyquilt("run", survey)
    assert (survey / "release" / "visits" / "manifest.json").is_file()
