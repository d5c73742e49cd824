"""A job (design 3): what a script gets, what it leaves, and how it is run again alone.

A script has a `main(job)` and ends with ``run(main, globals())``. Snakemake hands over inputs, output and
threads; `run` writes them as JSON beside the log, so that ``python scripts/<rule>.py LOG.job.json`` does the
same work again under a debugger. A job holds a lock while it works: when the head of a production was killed
and its jobs live on, the job of the next run waits for the living one and then finds the work done.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skyquilt.io.atomic import checksum, remove_leftovers, write_json
from skyquilt.io.manifests import (
    CorruptProduct,
    Manifest,
    ManifestWriter,
    problems,
    quarantine,
    read_manifest,
    read_run,
    relative_name,
)
from skyquilt.primitives.failure import Reason
from skyquilt.workflow.config import SURVEY_FILE, from_mapping
from skyquilt.workflow.pool import Pool

log = logging.getLogger("skyquilt")
_HANDED_OVER = ("rule", "inputs", "output", "unit", "threads", "log", "execution")
Inputs = Mapping[str, Sequence[Path]]


class JobFailure(RuntimeError):
    """Too many parts of a job failed; everything that could be made is on disk."""


@dataclass
class Job:
    """One job of the production, with paths relative to the survey directory (its working directory).

    Parameters
    ----------
    rule : str
        Stage, rule and script.
    inputs : dict
        Named inputs: a path or a list of paths.
    output : str
        The manifest it must write.
    unit : dict
        Wildcards of the rule.
    threads : int
        Size of the pool.
    log : str
        Log file; job and lock lie beside it.
    execution : dict
        max_failed_fraction: a job fails when a larger fraction of its parts failed; what could be made stays.
        cpu_level: CPU that compiled code is made for; empty for this machine's own.
    alone : bool
        Run again from its record: every unit is made, also one that is done.
    """

    rule: str
    inputs: dict[str, Any]
    output: str
    unit: dict[str, Any]
    threads: int
    log: str
    execution: dict[str, Any]
    alone: bool = False
    started: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_snakemake(cls, snakemake: Any) -> Job:
        """The job that Snakemake started."""
        inputs = {
            name: str(value) if isinstance(value, str) else [str(path) for path in value]
            for name, value in snakemake.input.items()
        }
        unit = {
            key: int(value) if value.isdigit() else value for key, value in dict(snakemake.wildcards).items()
        }
        return cls(
            snakemake.rule,
            inputs,
            str(snakemake.output[0]),
            unit,
            snakemake.threads,
            str(snakemake.log[0]),
            dict(snakemake.params.execution),
        )

    @classmethod
    def from_json(cls, path: Path) -> Job:
        """The job that an earlier run left beside its log; makes its survey the working directory."""
        path = path.resolve()
        content = json.loads(path.read_text())
        root = next((p for p in path.parents if (p / SURVEY_FILE).is_file()), None)
        if root is None:
            raise FileNotFoundError(
                f"{path}: no {SURVEY_FILE} in the directories above; the job must lie in its survey"
            )
        os.chdir(root)
        return cls(**{key: content[key] for key in _HANDED_OVER}, alone=True)

    @property
    def root(self) -> Path:
        """The survey directory."""
        return Path.cwd()

    @functools.cached_property
    def stage(self) -> dict[str, Any]:
        """Content of the stage file: options and digests."""
        return json.loads(Path(self.inputs["stage"]).read_text())

    @functools.cached_property
    def registry(self) -> dict[str, Any]:
        """This job's slice of the registry."""
        return json.loads(Path(self.inputs["registry"]).read_text())

    @property
    def digests(self) -> dict[str, str]:
        """Digests that go into manifests and headers."""
        return {"config": self.stage["config_digest"], "code": self.stage["code_digest"]}

    def config(self, cls: type) -> Any:
        """The stage's options as its dataclass."""
        return from_mapping(cls, self.stage["config"], self.rule, {})

    def config_of(self, cls: type, stage: str, name: str) -> Any:
        """The options of another stage, whose stage file is the named input."""
        return from_mapping(cls, json.loads(Path(self.inputs[name]).read_text())["config"], stage, {})

    def isr(self) -> Any:
        """The options of instrument signature removal that the survey's stages share."""
        from skyquilt.algorithms.instrument_signature_removal import InstrumentSignatureRemovalConfig

        content = self.stage["material"]["isr"]["config"]
        return from_mapping(InstrumentSignatureRemovalConfig, content, "isr", {})

    def paths(self, name: str) -> list[Path]:
        """Paths of one named input, as a list."""
        value = self.inputs.get(name, [])
        return [Path(value)] if isinstance(value, str) else [Path(p) for p in value]

    def unit_manifests(self, name: str) -> list[Path]:
        """Manifests of the units (visits) in the chunks of a named input, each verified, in order of path."""
        found = []
        for path in self.paths(name):
            chunk = read_manifest(path)
            found += [Path(os.path.relpath(chunk.open(member))) for member in chunk.members("manifest")]
        return sorted(found, key=lambda path: int(path.parent.name))

    def camera(self) -> Any:
        """The survey's camera."""
        from skyquilt.instrument import load_camera

        place = self.root / self.stage["camera"]
        return load_camera(
            place if place.is_file() else self.stage["camera"], search=(self.root / "cameras",)
        )

    def pool(self) -> Pool:
        """The job's pool; make it before anything that starts threads."""
        return Pool(self.threads)

    @contextlib.contextmanager
    def manifest(self, inputs: Inputs) -> Iterator[ManifestWriter]:
        """The one unit of this job; its manifest is written when the block ends well."""
        writer = ManifestWriter(Path(self.output), self.rule, self.unit, self.digests)
        times = self._note_inputs(writer, inputs, map)
        yield writer
        writer.finish({**self._usage(), "input_times": times})

    def units(
        self,
        units: Sequence[Mapping[str, Any]],
        manifest_of: Callable[[Mapping[str, Any]], Path],
        inputs_of: Callable[[Mapping[str, Any]], Inputs],
        make: Callable[[ManifestWriter, Mapping[str, Any], Pool], None],
    ) -> None:
        """Make the units of a chunk, one manifest each, then the chunk's own manifest.

        A unit whose manifest has this stage's digests, the same inputs and whole members is kept: after a
        crash, or when one visit of a chunk changed, only the rest is made.

        Parameters
        ----------
        units : list of dict
            The chunk's units; ``identity`` in a unit is a digest of its registry entry.
        """
        failed = total = 0
        made: list[Manifest] = []
        with self.pool() as pool:
            for unit in units:
                path = manifest_of(unit)
                inputs = inputs_of(unit)
                manifest = self._kept(path, unit, inputs)
                if manifest is None:
                    manifest = self._make_unit(path, unit, inputs, make, pool)
                made.append(manifest)
                failed += sum(part["status"] == "failed" for part in manifest.parts.values())
                total += len(manifest.parts)
        limit = self.execution["max_failed_fraction"]
        if failed > limit * total:
            raise JobFailure(
                f"{failed} of {total} parts of {self.rule} {self.unit} failed, more than "
                f"execution.max_failed_fraction = {limit}; reasons are in the manifests of its units"
            )
        self._finish_chunk(made)

    def _make_unit(
        self, path: Path, unit: Mapping[str, Any], inputs: Inputs, make: Callable, pool: Pool
    ) -> Manifest:
        begin = time.monotonic()
        quarantine(path)
        data_unit = {key: unit[key] for key in unit if key not in ("identity", "entry")}
        writer = ManifestWriter(path, self.rule, data_unit, self.digests)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        times = self._note_inputs(writer, inputs, lambda f, items: [o.value for o in pool.map(f, items)])
        writer.inputs["registry"] = {"role": "registry", "xxh3": unit["identity"]}
        make(writer, unit, pool)
        log.info("%s: %s", data_unit, writer.status)
        return writer.finish({"seconds": round(time.monotonic() - begin, 3), "input_times": times})

    def _kept(self, path: Path, unit: Mapping[str, Any], inputs: Inputs) -> Manifest | None:
        if self.alone or not path.is_file():
            return None
        with contextlib.suppress(CorruptProduct):
            manifest = read_manifest(path)
            same = all(manifest.content[key] == value for key, value in self.digests.items())
            if same and self._same_inputs(manifest, unit, inputs) and not problems(manifest, full=False):
                log.info("%s: kept", path)
                return manifest
        return None

    def _same_inputs(self, manifest: Manifest, unit: Mapping[str, Any], inputs: Inputs) -> bool:
        noted = dict(manifest.content["inputs"])
        if noted.pop("registry", {}).get("xxh3") != unit["identity"]:
            return False
        files = {relative_name(path, self.root): path for paths in inputs.values() for path in paths}
        if set(files) != set(noted):
            return False
        times = read_run(manifest.directory).get("input_times", {})
        return all(_same_input(path, noted[name], times.get(name)) for name, path in files.items())

    def _note_inputs(self, writer: ManifestWriter, inputs: Inputs, mapper: Callable) -> dict[str, Any]:
        """Note size and checksum of every input file; returns their sizes and times for ``run.json``."""
        files = [(role, Path(path)) for role, paths in inputs.items() for path in paths]
        times = {}
        for (role, path), found in zip(files, mapper(_size_and_checksum, [path for _, path in files])):
            name = relative_name(path, self.root)
            if found is None:
                writer.inputs[name] = {"role": role, "reason": Reason.MISSING_FILE.value}
            else:
                writer.inputs[name] = {"role": role, "size": found[0], "xxh3": found[1]}
                times[name] = [found[0], found[2]]
        return times

    def _finish_chunk(self, made: Sequence[Manifest]) -> None:
        writer = ManifestWriter(Path(self.output), self.rule, self.unit, self.digests)
        for manifest in made:
            name = Path(os.path.relpath(manifest.path, writer.directory)).as_posix()
            unit = dict(manifest.content["unit"].items())
            writer.directory.mkdir(parents=True, exist_ok=True)
            writer.note("manifest", name, **unit)
            for part, entry in manifest.parts.items():
                if entry["status"] != "ok":
                    writer.parts[" ".join([*(f"{k} {v}" for k, v in unit.items()), part])] = entry
        writer.counts = {"units": len(made)}
        writer.finish(self._usage())

    def _usage(self) -> dict[str, Any]:
        """CPU seconds and peak memory of the process and its ended children, so far."""
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "rule": self.rule,
            "host": socket.gethostname(),
            "threads": self.threads,
            "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3),
            "startup_cpu_seconds": round(self.started.get("cpu", 0.0), 3),
            "seconds": round(time.time() - self.started.get("time", time.time()), 3),
            "began": self.started.get("time"),
            "peak_rss_mb": round(max(own.ru_maxrss, children.ru_maxrss) / 1024, 1),
            "peak_rss_main_mb": round(own.ru_maxrss / 1024, 1),
        }


def run(main: Callable[[Job], None], namespace: Mapping[str, Any]) -> None:
    """Run a script's `main` for Snakemake, or again alone from its job record.

    Parameters
    ----------
    namespace : dict
        ``globals()`` of the script: Snakemake leaves its object there.
    """
    if "snakemake" in namespace:
        job = Job.from_snakemake(namespace["snakemake"])
    elif namespace.get("__name__") == "__main__":
        if len(sys.argv) != 2:
            raise SystemExit(
                f"usage: python {sys.argv[0]} logs/.../NAME.job.json   (what a job left beside its log)"
            )
        job = Job.from_json(Path(sys.argv[1]))
    else:
        return
    if job.execution["cpu_level"]:
        # before the first kernel: numba reads it once
        os.environ["SKYQUILT_CPU"] = job.execution["cpu_level"]
    job.started = {"time": time.time(), "cpu": time.process_time()}
    log_path = Path(job.log)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with job_lock(log_path), _logging(log_path):
        record = {
            **asdict(job),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "script": namespace["__file__"],
        }
        write_json(log_path.with_suffix(".job.json"), record)
        try:
            main(job)
        except Exception:
            log.exception("%s %s stopped", job.rule, job.unit)
            raise


@contextlib.contextmanager
def job_lock(log_path: Path) -> Iterator[None]:
    """Hold the lock of a job; wait for a living job of an earlier run that is at the same work."""
    with open(log_path.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_running(log_path: Path) -> bool:
    """True while a process of this machine holds the job's lock."""
    lock = log_path.with_suffix(".lock")
    if not lock.exists():
        return False
    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def _logging(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _size_and_checksum(path: Path) -> tuple[int, str, int] | None:
    try:
        stat = path.stat()
        return stat.st_size, checksum(path), stat.st_mtime_ns
    except FileNotFoundError:
        return None


def _same_input(path: Path, noted: Mapping[str, Any], times: Sequence[int] | None) -> bool:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return noted.get("reason") == Reason.MISSING_FILE.value
    if times is not None and tuple(times) == (stat.st_size, stat.st_mtime_ns):
        return True
    return stat.st_size == noted.get("size") and checksum(path) == noted.get("xxh3")
