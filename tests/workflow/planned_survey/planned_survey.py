"""A survey that is only planned (design 3): the registry and the files that the graph of all stages needs.

The sky is a flat sheet of tracts of one by one, each of 6 x 6 patches; a visit is a square of 0.3 on it, of
25 detectors. What `skyquilt ingest` would write of it is written here, so that the cost of the plan can be
measured without a pixel.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from skyquilt.workflow.calibration_kinds import KINDS
from skyquilt.workflow.config import ExecutionConfig, as_plain
from skyquilt.workflow.registry import GRAPH, UNUSABLE, calibration_slice, chunk_slice
from skyquilt.workflow.stages import STAGES, unroll

SNAKEFILE = Path(__file__).with_name("Snakefile")
TARGET = "whole_survey"

COLUMNS, ROWS = 3, 2
PATCHES = 6
FIELD = 0.3
DETECTORS = 25
MEGAPIXELS = 16.8
VISITS_PER_NIGHT = 25
NIGHTS_PER_FLAT = 5
BANDS = "gri"
WINDOW = 14
ORDER = ("bootstrap_im_char", "joint_cal", "refine_im_char", "joint_cal", "final_im_char", "joint_cal")
STAND_INS = (
    *("joint_cal", "im_char", "warp", "background_matching", "template_coadd", "difference_imaging"),
    *("deep_coadd", "tracklets", "moving_objects", "alerts", "association", "coadd_measurement"),
    *("overlap_resolution", "multifit", "forced_photometry", "release"),
)


@dataclass(frozen=True)
class PlannedVisit:
    """A visit of the plan, and what it touches: tract -> patches."""

    visit: int
    night: int
    band: str
    patches: dict[int, list[int]]


def planned_visits(n_visits: int) -> list[PlannedVisit]:
    """Visits spread evenly over the sheet, in steps of the plastic number, which never meet a place twice."""
    plastic = 1.32471795724474602596
    visits = []
    for number in range(n_visits):
        x = COLUMNS * math.fmod(0.5 + (number + 1) / plastic, 1.0)
        y = ROWS * math.fmod(0.5 + (number + 1) / plastic**2, 1.0)
        night = number // VISITS_PER_NIGHT
        visits.append(PlannedVisit(260101000 + number, night, BANDS[number % len(BANDS)], touched(x, y)))
    return visits


def touched(x: float, y: float) -> dict[int, list[int]]:
    """Tracts and patches under a field centred there."""
    found: dict[int, list[int]] = {}
    columns, rows = _patches_under(x, COLUMNS), _patches_under(y, ROWS)
    for row in rows:
        for column in columns:
            tract = row // PATCHES * COLUMNS + column // PATCHES
            found.setdefault(tract, []).append(row % PATCHES * PATCHES + column % PATCHES)
    return found


def _patches_under(at: float, n_tracts: int) -> range:
    low, high = (math.floor((at + side * FIELD / 2) * PATCHES) for side in (-1, 1))
    return range(max(0, low), min(n_tracts * PATCHES, high + 1))


def write_planned_survey(root: Path, n_visits: int) -> None:
    """Write the registry of `n_visits` visits, its slices, and an empty file for every stage."""
    visits = planned_visits(n_visits)
    calibrations = _calibrations(visits)
    graph = {
        "format": 1,
        "chunks": {
            str(visit.visit): {
                "visits": [visit.visit],
                "calibrations": {kind: [name] for kind, name in _served_by(visit).items()},
                "megapixels": round(DETECTORS * MEGAPIXELS, 3),
            }
            for visit in visits
        },
        "calibrations": calibrations,
        "tracts": _tracts(visits),
        "execution": as_plain(ExecutionConfig()),
    }
    _write(root / GRAPH, graph)
    _write(root / UNUSABLE, [])
    for chunk in graph["chunks"]:
        _write(root / chunk_slice(chunk), {})
    for kind, groups in graph["calibrations"].items():
        for name in groups:
            _write(root / calibration_slice(kind, name), {})
    for stage in (*STAGES, *STAND_INS):
        _write(root / "stage" / f"{stage}.json", {})
    # what the stages that are not built yet must know: which visits a patch and a night have
    _write(root / "registry" / "planned.json", _planned(visits))


def _served_by(visit: PlannedVisit) -> dict[str, str]:
    """Kind -> product: bias and dark of the night, flats and defects of a run of nights, the rest of the year."""
    night = f"night{visit.night:03d}"
    run = f"night{visit.night // NIGHTS_PER_FLAT * NIGHTS_PER_FLAT:03d}"
    filtered = f"{visit.band}-{run}"
    by_kind = {"bias": night, "dark": night, "flat": filtered, "fringe": filtered, "defects": run}
    return {kind: by_kind.get(kind, "year") for kind in KINDS}


def _calibrations(visits: list[PlannedVisit]) -> dict[str, dict]:
    """Every product that serves a visit, made with those that serve the first visit it serves."""
    found: dict[str, dict] = {kind: {} for kind in KINDS}
    for visit in visits:
        served = _served_by(visit)
        for kind, name in served.items():
            uses = {used: [served[used]] for used in KINDS[kind].uses}
            found[kind].setdefault(name, {"uses": uses})
    return found


def _tracts(visits: list[PlannedVisit]) -> dict:
    tracts: dict[int, dict[str, set]] = {}
    for visit in visits:
        for tract, patches in visit.patches.items():
            entry = tracts.setdefault(tract, {"chunks": set(), "patches": set()})
            entry["chunks"].add(str(visit.visit))
            entry["patches"].update(patches)
    return {
        str(tract): {key: sorted(tracts[tract][key]) for key in tracts[tract]} for tract in sorted(tracts)
    }


def _planned(visits: list[PlannedVisit]) -> dict:
    patches: dict[str, dict[str, list[int]]] = {}
    nights: dict[str, list[int]] = {}
    for visit in visits:
        nights.setdefault(str(visit.night), []).append(visit.visit)
        for tract, touched_patches in visit.patches.items():
            for patch in touched_patches:
                patches.setdefault(str(tract), {}).setdefault(str(patch), []).append(visit.visit)
    return {
        "order": list(ORDER),
        "window": WINDOW,
        "patches": patches,
        "nights": nights,
        "tracts_of": {str(visit.visit): sorted(visit.patches) for visit in visits},
    }


def _write(path: Path, content: dict | list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def jobs_by_hand(n_visits: int) -> Counter:
    """How many jobs of each rule the plan must have, counted from the geometry alone."""
    visits = planned_visits(n_visits)
    pairs = sum(len(visit.patches) for visit in visits)
    tracts = len({tract for visit in visits for tract in visit.patches})
    patches = len({(tract, patch) for v in visits for tract, own in v.patches.items() for patch in own})
    nights = len({visit.night for visit in visits})
    kinds = Counter(step.kind for step in unroll(ORDER))
    steps_per_visit = sum(n for kind, n in kinds.items() if kind not in ("bootstrap_im_char", "joint_cal"))
    per_patch = ("template_coadd", "deep_coadd", "coadd_measurement", "multifit")
    return Counter(
        {
            **dict.fromkeys(("combine_bias", "combine_dark"), nights),
            **dict.fromkeys(
                ("combine_flat", "combine_fringe"),
                len({(visit.night // NIGHTS_PER_FLAT, visit.band) for visit in visits}),
            ),
            "find_defects": len({visit.night // NIGHTS_PER_FLAT for visit in visits}),
            **dict.fromkeys(("measure_crosstalk", "measure_linearity", "measure_photon_transfer"), 1),
            **dict.fromkeys(("bootstrap_im_char", "visit_quality"), n_visits),
            "joint_cal": kinds["joint_cal"] * tracts,
            "im_char": steps_per_visit * pairs,
            **dict.fromkeys(("warp", "difference_imaging", "forced_photometry"), pairs),
            **dict.fromkeys(("background_matching", "association", "overlap_resolution"), tracts),
            **dict.fromkeys(per_patch, patches),
            **dict.fromkeys(("tracklets", "moving_objects", "alerts"), nights),
            **dict.fromkeys(("visit_tables", "scorecard", "quality_site", "release"), 1),
        }
    )


@dataclass(frozen=True)
class Usage:
    """What a command cost: CPU of it and its children [s], its peak memory [MB], and what it wrote."""

    cpu_seconds: float
    peak_rss_mb: float
    output: str


# Linux counts the memory of the process that forked into the peak of the one it started, so a process with no
# memory to speak of stands between the two.
_METER = """
import json, os, sys
child = os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(child, 0)
with open(sys.argv[1], "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss], file)
"""


def measured(command: list[str], directory: Path) -> Usage:
    """Run a command and weigh it.

    Raises
    ------
    RuntimeError
        When it ends with another code than 0; the message is its output.
    """
    figures = directory / "usage.json"
    environment = {**os.environ, "SKYQUILT_FRESH": "1"}
    meter = [sys.executable, "-I", "-S", "-c", _METER, str(figures), *command]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(meter, cwd=directory, env=environment, check=False, **streams)
    code, cpu, kilobytes = json.loads(figures.read_text())
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{done.stdout[-4000:]}")
    return Usage(cpu, kilobytes / 1024, done.stdout)


def plan(root: Path, *how: str) -> Usage:
    """Let Snakemake plan the survey in `root` with the workstation's profile, and do nothing.

    Parameters
    ----------
    how : str
        What to ask for. ``--dag`` prints the graph with every job in it and does little else; a dry run also
        formats a message of every job, which costs as much again.
    """
    profile = SNAKEFILE.parents[3] / "profiles" / "default"
    places = ["--snakefile", str(SNAKEFILE), "--directory", str(root), "--workflow-profile", str(profile)]
    command = [sys.executable, "-m", "snakemake", *places, "--cores", "2"]
    return measured([*command, *(how or ("--dag",))], root)


def counted_jobs(graph: str) -> Counter:
    """Jobs by rule in a printed graph, the target aside."""
    jobs = Counter(re.findall(r'^\t\d+\[label = "(\w+)', graph, flags=re.MULTILINE))
    del jobs[TARGET]
    return jobs


def counted_edges(graph: str) -> int:
    """Edges between jobs in a printed graph."""
    return len(re.findall(r"^\t\d+ -> \d+$", graph, flags=re.MULTILINE))
