"""Run (design 3): ingest, verify, and Snakemake as a child whose progress is shown live."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

import skyquilt
from skyquilt.io.atomic import remove_leftovers
from skyquilt.workflow.calibration_kinds import KINDS
from skyquilt.workflow.config import ConfigurationError, as_plain, read_yaml
from skyquilt.workflow.ingest import IngestInputs, ingest
from skyquilt.workflow.pool import Pool
from skyquilt.workflow.progress import StageProgress, progress_line, survey_progress
from skyquilt.workflow.registry import REGISTRY, Registry
from skyquilt.workflow.survey import Survey
from skyquilt.workflow.verify import PLACES, bad_manifests, verify

STATE = ".skyquilt"
POLL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


class RunBusy(RuntimeError):
    """Another run is at work in the survey directory."""


def prepare(survey: Survey, cores: int, say: Callable[[str], None]) -> None:
    """Check the configuration, bring the registry and the stage files up to date."""
    survey.check()
    inputs = IngestInputs(
        survey.root,
        survey.config("survey"),
        survey.config("ingest"),
        as_plain(survey.config("execution")),
        {kind.name: getattr(survey.config(kind.stage), "min_frames", 1) for kind in KINDS.values()},
        survey.camera,
        survey.sky_map,
        survey.camera_digest,
        survey.fingerprint(),
    )
    with Pool(cores) as pool:
        counts = ingest(inputs, pool.map)
    say("raw frames: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    changed = survey.write_stages()
    if changed:
        say("stages to (re)run where inputs or meaning changed: " + ", ".join(changed))


def run(
    root: Path,
    *,
    cores: int,
    profile: str,
    tracts: list[int],
    full_verify: bool,
    extra: Sequence[str],
    say: Callable[[str], None],
) -> int:
    """Bring the survey to its release; returns Snakemake's exit code.

    Raises
    ------
    ConfigurationError, RegistryError
        Before any work, for what the user must mend.
    RunBusy
        When another run is at work here.
    """
    survey = Survey(root)
    with run_lock(root):
        prepare(survey, cores, say)
        Registry(root).selected_chunks(tracts)
        execution = survey.config("execution")
        code = 1
        for attempt in range(execution.retries_of_corrupt + 1):
            for name, problem in verify(root, full=full_verify).items():
                say(f"{name} {problem}: will be made again")
            command = snakemake_command(root, cores, profile, tracts, extra)
            code = _watch(root, command, cores, tracts, say)
            if code == 0 or not bad_manifests(root) or attempt == execution.retries_of_corrupt:
                break
            say("a reader met a corrupted product: making it again")
        return code


@contextlib.contextmanager
def run_lock(root: Path) -> Iterator[None]:
    """Hold the survey for one run; clear what a killed one left.

    The lock is the kernel's (released when its holder dies). Snakemake's own lock files outlive a killed
    Snakemake; they are removed when no Snakemake process works in this directory. Temporary files of dead
    processes go too.
    """
    (root / STATE).mkdir(exist_ok=True)
    with open(root / STATE / "run.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunBusy(
                f"another run is at work in {root} (process {file.read().strip() or 'unknown'})"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        locks = root / ".snakemake" / "locks"
        if locks.is_dir() and any(locks.iterdir()):
            if pid := _living_snakemake(root):
                raise RunBusy(f"snakemake (process {pid}) is at work in {root}")
            shutil.rmtree(locks)
        for place in (REGISTRY, "stage", "logs", *PLACES):
            remove_leftovers(root / place)
        yield


def _living_snakemake(root: Path) -> int | None:
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        is_head = any(Path(word).name == "snakemake" for word in words[:3]) or words[1:3] == [
            "-m",
            "snakemake",
        ]
        if is_head and process.info["cwd"] and Path(process.info["cwd"]) == root.resolve():
            return process.info["pid"]
    return None


def snakemake_command(
    root: Path, cores: int, profile: str, tracts: list[int], extra: Sequence[str]
) -> list[str]:
    """The command line of Snakemake for a survey directory."""
    place = find_profile(root, profile)
    command = [
        *(sys.executable, "-m", "snakemake"),
        *("--snakefile", str(skyquilt.production_root() / "Snakefile")),
        *("--directory", str(root)),
        *("--workflow-profile", str(place)),
    ]
    if profile == "default":
        command += ["--cores", str(cores)]
    command += list(extra)
    if tracts:
        # --config on the command line takes the place of the profile's
        pinned = read_yaml(place / "config.yaml").get("config", [])
        command += ["--config", *pinned, f"tracts={json.dumps(tracts)}"]
    return command


def find_profile(root: Path, profile: str) -> Path:
    """Directory of a profile: the survey's own, else the shipped one.

    Raises
    ------
    ConfigurationError
        When there is none of this name.
    """
    places = [root / "profiles" / profile, skyquilt.production_root() / "profiles" / profile]
    for place in places:
        if (place / "config.yaml").is_file():
            return place
    raise ConfigurationError(f"profile {profile}: no config.yaml in {' or '.join(map(str, places))}")


def _watch(root: Path, command: list[str], cores: int, tracts: list[int], say: Callable[[str], None]) -> int:
    """Run Snakemake, its output in a log, progress on the terminal."""
    log = root / "logs" / "snakemake.log"
    log.parent.mkdir(exist_ok=True)
    environment = {**os.environ, "SKYQUILT_FRESH": "1", "PYTHONUNBUFFERED": "1"}
    with open(log, "w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=root,
            env=environment,
            preexec_fn=_die_with_parent if sys.platform.startswith("linux") else None,
        )
        with _passing_signals(process):
            _follow(root, process, cores, tracts, say)
    stages = survey_progress(root, tracts or None)
    if process.returncode:
        say(_why_stopped(log, stages, root))
    return process.returncode


def _follow(
    root: Path, process: subprocess.Popen, cores: int, tracts: list[int], say: Callable[[str], None]
) -> None:
    shown = ""
    while True:
        try:
            process.wait(POLL_SECONDS)
            break
        except subprocess.TimeoutExpired:
            line = progress_line(survey_progress(root, tracts or None), max(1, cores))
            # on a terminal the line is redrawn; in a file only changes of state are written
            state = re.sub(r"left .*?(;|$)", "", line)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\033[K{line}")
                sys.stderr.flush()
            elif state != shown:
                say(line)
            shown = state
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")


def _why_stopped(log: Path, stages: list[StageProgress], root: Path) -> str:
    stopped = [name for stage in stages for name in stage.stopped]
    if stopped:
        lines = [f"{name}: {_last_error(root / name)}" for name in stopped]
        return "stopped jobs (the rest was done):\n  " + "\n  ".join(lines)
    tail = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-15:]
    return f"snakemake stopped; its last lines ({log.relative_to(root)}):\n  " + "\n  ".join(tail)


def _last_error(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


@contextlib.contextmanager
def _passing_signals(process: subprocess.Popen) -> Iterator[None]:
    """SIGTERM (a time-limited allocation) lets running jobs end; Ctrl-C reaches Snakemake by itself."""

    def terminate(*_: object) -> None:
        process.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, terminate), signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def _die_with_parent() -> None:
    # a Snakemake without its head would go on starting jobs that the next run starts too; its jobs live on
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
