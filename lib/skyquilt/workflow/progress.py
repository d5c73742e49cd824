"""Progress of a production (design 3): per stage how much is done, running and flagged, and how long the rest takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skyquilt.io.manifests import read_run
from skyquilt.io.products import path, template
from skyquilt.workflow.calibration_kinds import STAGE_KIND
from skyquilt.workflow.job import is_running
from skyquilt.workflow.registry import Registry, calibration_slice, chunk_slice
from skyquilt.workflow.stages import STAGES, Stage

UNIT_MANIFESTS = {"bootstrap_im_char": "bootstrap_manifest", "visit_quality": "visit_quality_manifest"}
RELEASE = "release"


@dataclass
class StageProgress:
    """Where one stage stands.

    Parameters
    ----------
    jobs, done, running : int
        Planned jobs, jobs whose manifest is there, jobs at work now.
    units, units_done : int
        Visits of the stage (or jobs, where a job is one unit).
    flagged, failed : int
        Parts (detectors) with a reservation, and without a result.
    stopped : list of str
        Logs of jobs that ended without a manifest.
    seconds_left : float or None
        Work that remains, in seconds of one job after the other; None when nothing was measured yet.
    """

    stage: Stage
    jobs: int = 0
    done: int = 0
    running: int = 0
    units: int = 0
    units_done: int = 0
    flagged: int = 0
    failed: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_rss_mb: float = 0.0
    stopped: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    seconds_left: float | None = None


def planned_units(stage: str, registry: Registry, tracts: list[int] | None = None) -> list[dict[str, str]]:
    """Data units of a stage's jobs."""
    chunks = registry.selected_chunks(tracts)
    if stage in UNIT_MANIFESTS:
        return [{"chunk": chunk} for chunk in chunks]
    if stage in STAGE_KIND:
        return [{"calibration": name} for name in registry.needed_calibrations(chunks)[STAGE_KIND[stage]]]
    if tracts:
        # release-wide products are of the whole survey
        return []
    return [{}]


def log_of(stage: str, unit: Mapping[str, str], root: Path) -> Path:
    """Log file of a job."""
    return root / "logs" / stage / f"{next(iter(unit.values()), RELEASE)}.log"


def survey_progress(root: Path, tracts: list[int] | None = None) -> list[StageProgress]:
    """Progress of every stage, read from manifests and locks alone."""
    registry = Registry(root)
    return [_stage_progress(stage, registry, root, tracts) for stage in STAGES.values()]


def _stage_progress(stage: Stage, registry: Registry, root: Path, tracts: list[int] | None) -> StageProgress:
    found = StageProgress(stage)
    measured: list[tuple[float, float]] = []
    left = 0.0
    for unit in planned_units(stage.name, registry, tracts):
        manifest = root / template(stage.manifest, **unit)
        work = registry.chunks[unit["chunk"]]["megapixels"] if "chunk" in unit else 1.0
        found.jobs += 1
        visits = _visits_of(stage, unit, registry)
        found.units += len(visits) or 1
        if manifest.is_file() and not _stale(manifest, stage, unit, root):
            found.done += 1
            found.units_done += len(visits) or 1
            _count_parts(found, manifest)
            run = read_run(manifest.parent)
            measured.append((run.get("seconds", 0.0), work))
            found.cpu_seconds += run.get("cpu_seconds", 0.0)
            found.wall_seconds += run.get("seconds", 0.0)
            found.peak_rss_mb = max(found.peak_rss_mb, run.get("peak_rss_mb", 0.0))
            continue
        left += work
        log = log_of(stage.name, unit, root)
        found.units_done += sum(
            path(UNIT_MANIFESTS[stage.name], root, visit=visit).is_file() for visit in visits
        )
        if is_running(log):
            found.running += 1
        elif log.is_file():
            found.stopped.append(str(log.relative_to(root)))
    seconds, work = (sum(values) for values in zip(*measured)) if measured else (0.0, 0.0)
    if left == 0:
        found.seconds_left = 0.0
    elif work:
        found.seconds_left = left * seconds / work
    return found


def _stale(manifest: Path, stage: Stage, unit: Mapping[str, str], root: Path) -> bool:
    """True when the stage's options or code, or the unit's slice of the registry, are newer than the manifest."""
    made = manifest.stat().st_mtime_ns
    sources = [root / "stage" / f"{stage.name}.json"]
    if "chunk" in unit:
        sources.append(root / chunk_slice(unit["chunk"]))
    elif "calibration" in unit:
        sources.append(root / calibration_slice(STAGE_KIND[stage.name], unit["calibration"]))
    return any(source.is_file() and source.stat().st_mtime_ns > made for source in sources)


def _visits_of(stage: Stage, unit: Mapping[str, str], registry: Registry) -> list[int]:
    return registry.chunks[unit["chunk"]]["visits"] if stage.name in UNIT_MANIFESTS else []


def _count_parts(found: StageProgress, manifest: Path) -> None:
    try:
        parts = json.loads(manifest.read_text())["parts"]
    except (json.JSONDecodeError, KeyError, FileNotFoundError):
        return
    for part in parts.values():
        found.flagged += part["status"] == "flagged"
        found.failed += part["status"] == "failed"
        if reason := part.get("reason"):
            found.reasons[reason] = found.reasons.get(reason, 0) + 1


def progress_table(stages: list[StageProgress]) -> str:
    """The table that `skyquilt status` prints."""
    head = f"{'stage':<20} {'jobs':>11} {'units':>13} {'running':>8} {'flagged':>8} {'failed':>7} {'CPU s':>9} {'left':>9}"
    lines = [head, "-" * len(head)]
    for one in stages:
        jobs, units = f"{one.done}/{one.jobs}", f"{one.units_done}/{one.units}"
        lines.append(
            f"{one.stage.name:<20} {jobs:>11} {units:>13} {one.running:>8} {one.flagged:>8} {one.failed:>7} "
            f"{one.cpu_seconds:>9.1f} {_duration(one.seconds_left):>9}"
        )
    for one in stages:
        if one.reasons:
            listed = ", ".join(f"{reason} {n}" for reason, n in sorted(one.reasons.items()))
            lines.append(f"{one.stage.name}: {listed}")
        lines += [f"{one.stage.name}: stopped, see {log}" for log in one.stopped]
    return "\n".join(lines)


def progress_line(stages: list[StageProgress], slots: int) -> str:
    """One line while a run goes on: what is done, what is at work, how long the rest takes."""
    done, jobs = sum(s.done for s in stages), sum(s.jobs for s in stages)
    running = ", ".join(f"{s.stage.name} {s.units_done}/{s.units}" for s in stages if s.running)
    known = [s.seconds_left for s in stages if s.seconds_left is not None]
    least = "at least" if len(known) < len(stages) else "about"
    trouble = sum(s.failed for s in stages)
    text = (
        f"{done}/{jobs} jobs done; running: {running or 'none'}; left {least} {_duration(sum(known) / slots)}"
    )
    return f"{text}; {trouble} failed parts" if trouble else text


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def stage_costs(root: Path) -> list[dict[str, Any]]:
    """What the finished jobs of each stage cost, for the quality pages."""
    registry = Registry(root)
    megapixels = sum(chunk["megapixels"] for chunk in registry.chunks.values())
    costs = []
    for one in survey_progress(root):
        cost = {
            "name": one.stage.name,
            "jobs": one.done,
            "cpu_seconds": one.cpu_seconds,
            "megapixels": megapixels,
        }
        cost["cpu_seconds_per_megapixel"] = one.cpu_seconds / megapixels if megapixels else None
        cost["wall_seconds"] = one.wall_seconds
        cost["peak_megabytes"] = one.peak_rss_mb
        costs.append(cost)
    return costs
