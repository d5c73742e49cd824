"""Manifests (design 3): the edges of the graph, and the memory of what was made from what.

A manifest is written last, by rename, and is deterministic: it has the files made with their sizes and
checksums, the status and reason of each part, counts, figures of merit, and digests of everything that went
in. What is not deterministic (CPU, memory, host, times of files) lies beside it in ``run.json``, which nothing
depends on. A manifest whose members are not what it says is renamed to ``manifest.json.bad``; the next run
makes the unit again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skyquilt import __version__
from skyquilt.io.atomic import atomic_path, checksum, write_json
from skyquilt.primitives.failure import Outcome, Reason

MANIFEST = "manifest.json"
RUN = "run.json"
PRUNED = "pruned.json"
BAD_SUFFIX = ".bad"
FORMAT = 1


class CorruptProduct(Exception):
    """A member is missing or not what its manifest says; the manifest has been renamed to ``.bad``."""


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read.

    Parameters
    ----------
    path : Path
        The file ``.../manifest.json``.
    content : dict
        Its JSON.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def directory(self) -> Path:
        """Where the members lie."""
        return self.path.parent

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Member name -> dataset, unit, size, xxh3."""
        return self.content["files"]

    @property
    def status(self) -> str:
        """``ok``, ``flagged`` (some parts have reasons) or ``failed``."""
        return self.content["status"]

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """Part (such as ``detector 3``) -> status, reason, detail."""
        return self.content["parts"]

    def members(self, dataset: str, **unit: int | str) -> list[str]:
        """Names of the members of one dataset whose unit has the values given."""
        return [
            name
            for name, entry in self.files.items()
            if entry["dataset"] == dataset and all(entry["unit"].get(k) == v for k, v in unit.items())
        ]

    def open(self, name: str) -> Path:
        """Path of a member after its checksum was verified.

        Raises
        ------
        CorruptProduct
            When it is missing or different: the manifest is then renamed to ``.bad``.
        KeyError
            When the manifest has no such member.
        """
        if problem := member_problem(self, name, full=True):
            quarantine(self.path)
            raise CorruptProduct(f"{self.directory / name}: {problem}; it will be made again by the next run")
        return self.directory / name


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest.

    Raises
    ------
    CorruptProduct
        When the file is not a manifest of this format; it is renamed to ``.bad``.
    FileNotFoundError
        When there is none.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
        known = content["format"] == FORMAT and isinstance(content["files"], dict)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        known = False
    if not known:
        quarantine(path)
        raise CorruptProduct(
            f"{path}: not a manifest of format {FORMAT}; it will be made again by the next run"
        )
    return Manifest(path, content)


def quarantine(path: Path) -> None:
    """Rename a manifest to ``.bad``, so that the next run makes its unit again."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, path.with_name(path.name + BAD_SUFFIX))


def member_problem(manifest: Manifest, name: str, *, full: bool) -> str:
    """What is wrong with one member, or an empty string.

    Parameters
    ----------
    full : bool
        Compare checksums always; otherwise only where size and time do not both agree with ``run.json``.
    """
    entry, path = manifest.files[name], manifest.directory / name
    try:
        stat = path.stat()
    except FileNotFoundError:
        pruned = name in pruned_members(manifest.directory)
        return "was pruned, but is needed" if pruned else "is missing"
    if stat.st_size != entry["size"]:
        return f"has {stat.st_size} bytes, its manifest says {entry['size']}"
    if not full and _run_times(manifest.directory).get(name) == stat.st_mtime_ns:
        return ""
    found = checksum(path)
    return "" if found == entry["xxh3"] else f"has checksum {found}, its manifest says {entry['xxh3']}"


def problems(manifest: Manifest, *, full: bool) -> dict[str, str]:
    """Members that are not what the manifest says (pruned ones are in order)."""
    pruned = pruned_members(manifest.directory)
    found = {}
    for name in manifest.files:
        if name in pruned and not (manifest.directory / name).exists():
            continue
        if problem := member_problem(manifest, name, full=full):
            found[name] = problem
    return found


def pruned_members(directory: Path) -> set[str]:
    """Members that `skyquilt prune` removed on purpose."""
    try:
        return set(json.loads((directory / PRUNED).read_text()))
    except FileNotFoundError:
        return set()


def note_pruned(directory: Path, names: set[str]) -> None:
    """Record, before removing them, that members were pruned."""
    write_json(directory / PRUNED, sorted(pruned_members(directory) | names))


def read_run(directory: Path) -> dict[str, Any]:
    """The run record beside a manifest (CPU seconds, memory, host, times); empty when there is none."""
    try:
        return json.loads((directory / RUN).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _run_times(directory: Path) -> dict[str, int]:
    return read_run(directory).get("member_times", {})


@dataclass
class ManifestWriter:
    """Collects what a unit of work makes; `finish` writes the manifest, last.

    Parameters
    ----------
    path : Path
        Where the manifest will be.
    stage : str
        Name of the stage (its rule and script).
    unit : dict
        Data unit, such as ``{"visit": 260101001}``.
    digests : dict
        ``config`` and ``code`` digests of the stage.
    """

    path: Path
    stage: str
    unit: Mapping[str, int | str]
    digests: Mapping[str, str]
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where members go."""
        return self.path.parent

    def provenance(self) -> dict[str, Any]:
        """What made it, for headers and Parquet metadata: version, stage, unit, digests, inputs."""
        return {
            "version": __version__,
            "stage": self.stage,
            "unit": dict(self.unit),
            "config": self.digests.get("config", ""),
            "code": self.digests.get("code", ""),
            "inputs": {name: entry["xxh3"] for name, entry in sorted(self.inputs.items()) if "xxh3" in entry},
        }

    def add_input(self, name: str, path: Path, root: Path) -> None:
        """Note an input file (name relative to the survey, where it is inside) with size and checksum."""
        self.inputs[relative_name(path, root)] = {
            "role": name,
            "size": path.stat().st_size,
            "xxh3": checksum(path),
        }

    @contextlib.contextmanager
    def member(self, dataset: str, name: str, **unit: int | str) -> Iterator[Path]:
        """Yield a temporary path to write to; afterwards the member is in place and noted."""
        with atomic_path(self.directory / name) as temporary:
            yield temporary
        self.note(dataset, name, **unit)

    def note(self, dataset: str, name: str, **unit: int | str) -> None:
        """Note a member that is already in place (a worker of the pool wrote it)."""
        path = self.directory / name
        stat = path.stat()
        self.files[name] = {
            "dataset": dataset,
            "unit": {**self.unit, **unit},
            "size": stat.st_size,
            "xxh3": checksum(path),
        }
        self.times[name] = stat.st_mtime_ns

    def part(self, name: str, outcome: Outcome) -> None:
        """Note the status and reason of one detector, patch or family."""
        entry: dict[str, Any] = {"status": "ok" if outcome.ok else "failed"}
        if outcome.reason is not None:
            entry |= {"reason": Reason(outcome.reason).value, "detail": outcome.detail}
        self.parts[name] = entry

    def flag(self, name: str, reason: Reason, detail: str = "") -> None:
        """Note that a part has a result with a reservation."""
        self.parts[name] = {"status": "flagged", "reason": reason.value, "detail": detail}

    @property
    def status(self) -> str:
        """Overall status from the parts."""
        states = {part["status"] for part in self.parts.values()}
        if states and states == {"failed"}:
            return "failed"
        return "flagged" if states & {"failed", "flagged"} else "ok"

    def finish(self, run: Mapping[str, Any] | None = None) -> Manifest:
        """Remove members of an earlier attempt that are no longer made, then write ``run.json`` and the manifest."""
        self._remove_strays()
        content = {
            "format": FORMAT,
            "version": __version__,
            "stage": self.stage,
            "unit": dict(self.unit),
            "status": self.status,
            "config": self.digests.get("config", ""),
            "code": self.digests.get("code", ""),
            "inputs": self.inputs,
            "files": self.files,
            "parts": self.parts,
            "counts": self.counts,
            "figures": _plain(self.figures),
        }
        write_json(self.directory / RUN, {**(run or {}), "member_times": self.times})
        (self.directory / PRUNED).unlink(missing_ok=True)
        write_json(self.path, content)
        self.path.with_name(self.path.name + BAD_SUFFIX).unlink(missing_ok=True)
        return Manifest(self.path, content)

    def _remove_strays(self) -> None:
        for path in self.directory.rglob("*"):
            name = path.relative_to(self.directory).as_posix()
            kept = name in self.files or name in (RUN, PRUNED) or path.name.startswith((MANIFEST, "."))
            if path.is_file() and not kept:
                path.unlink()


def relative_name(path: Path, root: Path) -> str:
    """Name of a file as written in manifests: relative to the survey where it is inside, else its last three parts.

    Directories outside the survey are this machine's business and not part of what a product is; three parts
    tell frames apart that are called the same in the directories of two nights or detectors.
    """
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return "/".join(["external", *path.parts[1:][-3:]])


def _plain(value: Any) -> Any:
    """JSON has no NaN: a figure that could not be had is null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
