"""Plan (design 3): what a run would do, asked of Snakemake's own graph."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from skyquilt.workflow.progress import StageProgress, survey_progress
from skyquilt.workflow.run import snakemake_command

# a node of the graph; jobs that need not run are drawn dashed
_NODE = re.compile(r'^\s*\d+\[label = "(\w+)[^"]*",.*style="([^"]*)"\];$', re.MULTILINE)


class PlanError(RuntimeError):
    """Snakemake could not make a plan; the message is its own."""


def planned_jobs(
    root: Path, cores: int, profile: str, tracts: list[int], extra: Sequence[str] = ()
) -> dict[str, int]:
    """Jobs that a run would start, by rule.

    Raises
    ------
    PlanError
        When Snakemake refuses.
    """
    # the graph alone costs half of a dry run, which formats a message for each job
    command = snakemake_command(root, cores, profile, tracts, ["--dag", *extra])
    done = subprocess.run(
        command,
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "SKYQUILT_FRESH": "1"},
        check=False,
    )
    if done.returncode:
        raise PlanError((done.stderr or done.stdout).strip())
    jobs = Counter(rule for rule, style in _NODE.findall(done.stdout) if "dashed" not in style)
    jobs.pop("all", None)
    return dict(jobs)


def plan_table(jobs: dict[str, int], root: Path, tracts: list[int]) -> str:
    """What `skyquilt plan` prints: jobs to run of those planned, and CPU where it was measured before."""
    stages = survey_progress(root, tracts or None)
    lines = [f"{'stage':<20} {'to run':>7} {'of':>6} {'CPU s (from finished jobs)':>28}"]
    for stage in stages:
        count = jobs.get(stage.stage.name, 0)
        lines.append(f"{stage.stage.name:<20} {count:>7} {stage.jobs:>6} {_cpu(stage, count):>28}")
    lines.append(f"{'total':<20} {sum(jobs.values()):>7} {sum(s.jobs for s in stages):>6}")
    return "\n".join(lines)


def _cpu(stage: StageProgress, count: int) -> str:
    if not count:
        return "0"
    return f"{stage.cpu_seconds / stage.done * count:.0f}" if stage.done else "not measured yet"
