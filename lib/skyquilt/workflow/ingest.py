"""Ingest (design 3): raw headers, once, into the registry.

Reads the headers of frames that are new or changed, sorts them into visits and calibration groups, applies the
exclusion table, finds which tracts and patches each detector may touch (nominal outline plus a margin), chooses
home tracts, freezes chunks, and decides which calibration serves which visit. Nothing is ever dropped: a frame
that cannot be used keeps its row, with the reason.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xxhash

from skyquilt.instrument import Camera, read_observation
from skyquilt.io.atomic import atomic_path, write_if_changed
from skyquilt.io.manifests import relative_name
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.sky_map import SkyMap
from skyquilt.workflow.calibration_choice import (
    FRAME_TYPES,
    SCIENCE_GROUPS,
    Groups,
    calibration_entry,
    calibration_groups,
    choose,
    frozen_choices,
    needed_products,
    night_of,
)
from skyquilt.workflow.calibration_kinds import KINDS
from skyquilt.workflow.config import ConfigurationError, IngestConfig, SurveyConfig
from skyquilt.workflow.registry import (
    FRESHNESS,
    GRAPH,
    REGISTRY,
    UNUSABLE,
    calibration_slice,
    chunk_slice,
)

log = logging.getLogger("skyquilt")

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz", ".fits.fz", ".fit.fz", ".fz")


@dataclass(frozen=True)
class IngestInputs:
    """Everything that the registry depends on.

    Parameters
    ----------
    root : Path
        Survey directory.
    camera_digest, fingerprint : str
        Digests of the camera, and of configuration, camera and exclusion table.
    """

    root: Path
    survey: SurveyConfig
    config: IngestConfig
    execution: Mapping[str, Any]
    least_frames: Mapping[str, int]
    camera: Camera
    sky_map: SkyMap
    camera_digest: str
    fingerprint: str


@dataclass(frozen=True)
class Exclusion:
    """One row of the exclusion table; None is any."""

    visit: int | None
    detector: int | None
    amplifier: str | None
    reason: str


def find_raws(root: Path, patterns: Sequence[str]) -> list[Path]:
    """Raw files below the survey's raw directories and patterns, sorted.

    Raises
    ------
    ConfigurationError
        When a pattern or directory matches nothing at all.
    """
    found: set[Path] = set()
    for pattern in patterns:
        base = root / pattern
        if base.is_dir():
            hits = [
                path
                for path in base.rglob("*")
                if path.is_file() and path.name.lower().endswith(FITS_SUFFIXES)
            ]
            if not hits:
                raise ConfigurationError(f"survey.raw: {pattern}: no FITS files in this directory ({base})")
        else:
            anchor = Path(base.anchor or ".")
            hits = [path for path in anchor.glob(str(base.relative_to(anchor))) if path.is_file()]
            if not hits:
                raise ConfigurationError(
                    f"survey.raw: {pattern}: no such file or directory, and no file matches it as a pattern ({base})"
                )
        found.update(hits)
    return sorted(path for path in found if not path.name.startswith("."))


def listing_digest(paths: Iterable[Path], root: Path) -> str:
    """Digest of names (as the registry writes them), sizes and times of raw files."""
    digest = xxhash.xxh3_128()
    for path in paths:
        stat = path.stat()
        digest.update(f"{survey_path(path, root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def ingest(inputs: IngestInputs, map_: Callable) -> dict[str, int]:
    """Bring the registry up to date; returns counts of frames by kind."""
    paths = find_raws(inputs.root, inputs.survey.raw)
    raws = read_raws(inputs, paths, map_)
    exclusions = read_exclusions(inputs.root, inputs.survey.exclusions)
    raws = mark_duplicates(raws)
    require_science(raws)
    raws = exclude_calibration_frames(raws, exclusions)
    groups = calibration_groups(raws, inputs.camera, inputs.config, inputs.least_frames, inputs.root)
    detectors = visit_detectors(raws, inputs.camera, exclusions)
    visits = visit_rows(raws, detectors, exclusions, inputs.config)
    overlaps = find_overlaps(visits, detectors, inputs)
    visits = choose_home_tracts(visits, overlaps, inputs)
    visits = choose_calibrations(visits, groups, inputs.config)
    visits = assign_chunks(visits, detectors, inputs)
    write_registry(inputs, raws, visits, detectors, overlaps, groups, exclusions)
    fresh = {
        "fingerprint": inputs.fingerprint,
        "camera": inputs.camera_digest,
        "geometry": _geometry(inputs),
        "raws": listing_digest(paths, inputs.root),
    }
    write_if_changed(inputs.root / FRESHNESS, fresh)
    kinds = raws["frame_type"].where(raws["reason"] == "", "unusable")
    return {str(kind): int(n) for kind, n in kinds.value_counts().sort_index().items()}


def read_raws(inputs: IngestInputs, paths: Sequence[Path], map_: Callable) -> pd.DataFrame:
    """One row per file, snap and detector; headers of unchanged files are not read again."""
    listed = pd.DataFrame([(survey_path(path, inputs.root), *_size_and_time(path)) for path in paths])
    listed.columns = ["path", "size", "mtime_ns"]
    known = _previous(inputs, "raws.parquet")
    if not len(known):
        kept, gone = known, known
        fresh = np.ones(len(listed), dtype=bool)
    else:
        gone = known[~known["path"].isin(listed["path"])]
        same = known.merge(listed, on=["path", "size", "mtime_ns"])
        kept = same if _recorded(inputs, "camera") == inputs.camera_digest else same.iloc[:0]
        fresh = ~listed["path"].isin(kept["path"]).to_numpy()
    for name in gone["path"] if len(gone) else ():
        # listed once, gone now: expected trouble, the row stays and the job says missing_file
        log.warning("%s: listed by an earlier ingest, not found now", name)
    new = [path for path, is_new in zip(paths, fresh) if is_new]
    outcomes = map_(partial(_read_headers, camera=inputs.camera, root=inputs.root), new)
    read = pd.DataFrame([row for outcome in outcomes for row in outcome.value])
    table = pd.concat([part for part in (kept, gone, read) if len(part)], ignore_index=True)
    return table.sort_values(["path", "snap", "detector"], kind="stable", ignore_index=True)


def _size_and_time(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _read_headers(path: Path, camera: Camera, root: Path) -> list[dict[str, Any]]:
    stat = path.stat()
    base = {"path": survey_path(path, root), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    try:
        observations = read_observation(path, camera)
    except ProcessingFailure as failure:
        return [{**base, **_EMPTY_OBSERVATION, "reason": failure.reason.value, "detail": failure.detail}]
    return [{**base, **_observation_row(info), "reason": "", "detail": ""} for info in observations]


_EMPTY_OBSERVATION: dict[str, Any] = {
    "visit": -1,
    "snap": 0,
    "detector": -1,
    "frame_type": "unusable",
    "exposure_time": math.nan,
    "ra": math.nan,
    "dec": math.nan,
    "rotation": math.nan,
    "physical_filter": "",
    "mjd_begin": math.nan,
    "mjd_mid": math.nan,
    "mjd_end": math.nan,
    "airmass": math.nan,
    "object": "",
    "observation_id": "",
}


def _observation_row(info: Any) -> dict[str, Any]:
    def number(value: Any) -> float:
        return math.nan if value is None else float(value)

    return {
        "visit": -1 if info.visit is None else int(info.visit),
        "snap": int(info.snap),
        "detector": -1 if info.detector_num is None else int(info.detector_num),
        "frame_type": info.frame_type,
        "exposure_time": number(info.exposure_time),
        "ra": number(info.boresight_ra),
        "dec": number(info.boresight_dec),
        "rotation": number(info.rotation),
        "physical_filter": info.physical_filter or "",
        "mjd_begin": number(info.datetime_begin),
        "mjd_mid": number(info.datetime_mid),
        "mjd_end": number(info.datetime_end),
        "airmass": number(info.airmass),
        "object": info.object or "",
        "observation_id": str(info.observation_id or ""),
    }


def read_exclusions(root: Path, name: str) -> list[Exclusion]:
    """The exclusion table.

    Raises
    ------
    ConfigurationError
        When the file is missing, or a column or number is wrong.
    """
    if not name:
        return []
    path = root / name
    if not path.is_file():
        raise ConfigurationError(f"survey.exclusions: {name}: no such file ({path})")
    with open(path, newline="") as file:
        reader = csv.DictReader(line for line in file if not line.startswith("#"))
        columns = reader.fieldnames or []
        if "reason" not in columns or not set(columns) <= {"visit", "detector", "amplifier", "reason"}:
            raise ConfigurationError(
                f"{path}: expected columns visit, detector, amplifier, reason; found {', '.join(columns) or 'none'}"
            )
        return [_exclusion(row, f"{path}, line {reader.line_num}") for row in reader]


def _exclusion(row: Mapping[str, str], where: str) -> Exclusion:
    def integer(name: str) -> int | None:
        text = (row.get(name) or "").strip()
        if text and not text.isdigit():
            raise ConfigurationError(f"{where}: {name} must be a number or empty, got {text!r}")
        return int(text) if text else None

    visit, detector = integer("visit"), integer("detector")
    amplifier = (row.get("amplifier") or "").strip() or None
    if visit is None and detector is None:
        raise ConfigurationError(f"{where}: give a visit, a detector, or both")
    if amplifier and detector is None:
        raise ConfigurationError(f"{where}: amplifier {amplifier} needs a detector")
    return Exclusion(visit, detector, amplifier, (row.get("reason") or "").strip() or "no reason given")


def mark_duplicates(raws: pd.DataFrame) -> pd.DataFrame:
    """A second file of the same frame type, visit, snap and detector is set aside; the first by path stays."""
    raws = raws.copy()
    usable = raws["reason"].isin(["", Reason.DUPLICATE.value]) & (raws["visit"] >= 0)
    raws.loc[usable, ["reason", "detail"]] = ""
    again = usable & raws[usable].duplicated(["visit", "snap", "detector"]).reindex(
        raws.index, fill_value=False
    )
    raws.loc[again, "reason"] = Reason.DUPLICATE.value
    raws.loc[again, "detail"] = "the same visit, snap and detector as an earlier file"
    return raws


def exclude_calibration_frames(raws: pd.DataFrame, exclusions: Sequence[Exclusion]) -> pd.DataFrame:
    """Calibration frames that the exclusion table names by their visit number (and detector) are set aside."""
    raws = raws.copy()
    calibration = raws["frame_type"].isin(FRAME_TYPES) & raws["reason"].isin(["", Reason.EXCLUDED.value])
    raws.loc[calibration, ["reason", "detail"]] = ""
    for exclusion in exclusions:
        if exclusion.visit is not None and exclusion.amplifier is None:
            named = calibration & (raws["visit"] == exclusion.visit)
            if exclusion.detector is not None:
                named &= raws["detector"] == exclusion.detector
            raws.loc[named, ["reason", "detail"]] = [Reason.EXCLUDED.value, exclusion.reason]
    return raws


def require_science(raws: pd.DataFrame) -> None:
    """Stop when not one frame of the sky can be used.

    Raises
    ------
    ConfigurationError
        With the reasons and an example.
    """
    if ((raws["frame_type"] == "science") & (raws["reason"] == "")).any():
        return
    reasons = raws.loc[raws["reason"] != "", "reason"].value_counts()
    kinds = raws.loc[raws["reason"] == "", "frame_type"].value_counts()
    found = ", ".join(f"{n} {name}" for name, n in [*kinds.items(), *reasons.items()])
    text = f"no usable science frames among {len(raws)}: {found}"
    bad = raws[raws["reason"] != ""]
    if len(bad):
        text += f"; for example {bad['path'].iloc[0]}: {bad['detail'].iloc[0]}"
    raise ConfigurationError(text)


def visit_detectors(raws: pd.DataFrame, camera: Camera, exclusions: Sequence[Exclusion]) -> pd.DataFrame:
    """One row per visit, snap and detector of the science frames, with the reason where it cannot be used."""
    known = {detector.id: detector for detector in camera.detectors}
    rows = []
    science = raws[(raws["frame_type"] == "science") & (raws["reason"] == "") & (raws["visit"] >= 0)]
    for raw in science.itertuples():
        for detector in known if raw.detector < 0 else [raw.detector]:
            reason, detail = "", ""
            if detector not in known:
                reason, detail = (
                    Reason.UNKNOWN_DETECTOR.value,
                    f"detector {detector} is not in camera {camera.name}",
                )
            for exclusion in exclusions:
                if exclusion.amplifier is None and _applies(exclusion, raw.visit, detector):
                    reason, detail = Reason.EXCLUDED.value, exclusion.reason
            rows.append(
                {
                    "visit": raw.visit,
                    "snap": raw.snap,
                    "detector": detector,
                    "path": raw.path,
                    "size": raw.size,
                    "mtime_ns": raw.mtime_ns,
                    "megapixels": known[detector].nx * known[detector].ny / 1e6 if detector in known else 0.0,
                    "purpose": known[detector].purpose if detector in known else "",
                    "reason": reason,
                    "detail": detail,
                }
            )
    columns = [
        "visit",
        "snap",
        "detector",
        "path",
        "size",
        "mtime_ns",
        "megapixels",
        "purpose",
        "reason",
        "detail",
    ]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["visit", "detector", "snap"], kind="stable", ignore_index=True)


def visit_rows(
    raws: pd.DataFrame, detectors: pd.DataFrame, exclusions: Sequence[Exclusion], config: IngestConfig
) -> pd.DataFrame:
    """One row per visit: pointing, times and filter from its first snap and lowest detector."""
    science = raws[(raws["frame_type"] == "science") & (raws["reason"] == "") & (raws["visit"] >= 0)]
    first = science.sort_values(["visit", "snap", "detector"], kind="stable").groupby("visit", sort=True)
    columns = ["ra", "dec", "rotation", "physical_filter", "airmass", "object", "mjd_begin"]
    visits = first[columns].first()
    visits["physical_filter"] = visits["physical_filter"].fillna("")
    visits["object"] = visits["object"].fillna("")
    visits["mjd_end"] = science.groupby("visit")["mjd_end"].max()
    visits["mjd_mid"] = (visits["mjd_begin"] + visits["mjd_end"]) / 2
    per_snap = science.groupby(["visit", "snap"])["exposure_time"].max()
    visits["exposure_time"] = per_snap.groupby("visit").sum()
    visits["n_snap"] = per_snap.groupby("visit").size()
    visits["n_detector"] = detectors.groupby("visit")["detector"].nunique()
    visits["night"] = night_of(visits["mjd_mid"], config)
    visits["reason"] = ""
    visits["detail"] = ""
    for exclusion in exclusions:
        if exclusion.visit in visits.index and exclusion.detector is None and exclusion.amplifier is None:
            visits.loc[exclusion.visit, ["reason", "detail"]] = [Reason.EXCLUDED.value, exclusion.reason]
    lost = (visits["reason"] == "") & (visits["ra"].isna() | visits["dec"].isna())
    visits.loc[lost, "reason"] = Reason.NO_WCS.value
    visits.loc[lost, "detail"] = "the header gives no pointing"
    return visits.reset_index()


def find_overlaps(visits: pd.DataFrame, detectors: pd.DataFrame, inputs: IngestInputs) -> pd.DataFrame:
    """Superset of (visit, detector, tract, patch) from nominal outlines grown by the margin.

    Visits whose pointing and detectors are as the previous ingest found them are not looked at again.
    """
    shapes = {detector.id: detector for detector in inputs.camera.detectors}
    used = detectors[detectors["detector"].isin(shapes)].drop_duplicates(["visit", "detector"])
    pointing = visits[visits["ra"].notna()].set_index("visit")
    kept = _kept_overlaps(visits, inputs)
    rows = []
    done = set(kept["visit"])
    for row in used[used["visit"].isin(set(pointing.index) - done)].itertuples():
        where = pointing.loc[row.visit]
        rotation = where["rotation"] if math.isfinite(where["rotation"]) else 0.0
        wcs = inputs.camera.nominal_wcs(row.detector, where["ra"], where["dec"], rotation)
        shape = shapes[row.detector]
        outline = wcs.polygon(Box(0, 0, shape.nx, shape.ny)).grown(
            inputs.config.overlap_margin_arcsec / 3600.0
        )
        for tract in inputs.sky_map.tracts_overlapping(outline):
            for patch in tract.patches_overlapping(outline):
                rows.append((row.visit, row.detector, tract.id, patch.id))
    columns = ["visit", "detector", "tract", "patch"]
    table = pd.concat([kept[columns], pd.DataFrame(rows, columns=columns, dtype=np.int64)], ignore_index=True)
    table = table.sort_values(columns, ignore_index=True)
    tracts = inputs.survey.tracts
    table["selected"] = table["tract"].isin(tracts) if tracts else True
    return table


def _kept_overlaps(visits: pd.DataFrame, inputs: IngestInputs) -> pd.DataFrame:
    before, overlaps = _previous(inputs, "visits.parquet"), _previous(inputs, "overlaps.parquet")
    if not len(before) or not len(overlaps) or _recorded(inputs, "geometry") != _geometry(inputs):
        return pd.DataFrame({name: np.empty(0, np.int64) for name in ("visit", "detector", "tract", "patch")})
    same = before.merge(visits, on=["visit", "ra", "dec", "rotation", "n_detector"])["visit"]
    return overlaps[overlaps["visit"].isin(same)]


def choose_home_tracts(visits: pd.DataFrame, overlaps: pd.DataFrame, inputs: IngestInputs) -> pd.DataFrame:
    """The tract whose inner region holds the boresight, else the one of largest nominal overlap, lowest id."""
    visits = visits.copy()
    area = {visit: rows["tract"].value_counts() for visit, rows in overlaps.groupby("visit")}
    selected = set(overlaps.loc[overlaps["selected"], "visit"])
    which = "the selected tracts" if inputs.survey.tracts else "any tract"
    homes, reasons, details = [], [], []
    for visit in visits.itertuples():
        homes.append(_home_tract(visit, area.get(visit.visit), inputs.sky_map))
        lost = not visit.reason and visit.visit not in selected
        reasons.append(Reason.NO_OVERLAP.value if lost else visit.reason)
        details.append(f"does not touch {which}" if lost else visit.detail)
    visits["home_tract"], visits["reason"], visits["detail"] = np.array(homes, np.int64), reasons, details
    return visits


def _home_tract(visit: Any, area: pd.Series | None, sky_map: SkyMap) -> int:
    if area is None:
        return -1
    inner = int(sky_map.find_tract(visit.ra, visit.dec))
    return inner if inner in area.index else int(area[area == area.max()].index.min())


def choose_calibrations(visits: pd.DataFrame, groups: Groups, config: IngestConfig) -> pd.DataFrame:
    """A column for each kind: the product nearest in time; empty where none is near enough."""
    visits = visits.copy()
    for kind in KINDS:
        visits[kind] = [
            choose(groups, kind, visit.night, visit.physical_filter, config) for visit in visits.itertuples()
        ]
    return visits


def assign_chunks(visits: pd.DataFrame, detectors: pd.DataFrame, inputs: IngestInputs) -> pd.DataFrame:
    """Chunks of visits of one home tract; visits that have a chunk keep it for ever."""
    visits = visits.copy()
    before = _previous(inputs, "visits.parquet")
    frozen = dict(zip(before["visit"], before["chunk"])) if len(before) else {}
    size = detectors.groupby("visit")["megapixels"].sum()
    visits["chunk"] = [frozen.get(visit, "") for visit in visits["visit"]]
    open_chunk: dict[int, tuple[str, float]] = {}
    for index, visit in visits.sort_values("visit").iterrows():
        if visit["chunk"] or visit["reason"]:
            continue
        chunk, filled = open_chunk.get(visit["home_tract"], ("", math.inf))
        if filled + size[visit["visit"]] > inputs.execution["chunk_megapixels"]:
            chunk, filled = str(visit["visit"]), 0.0
        open_chunk[visit["home_tract"]] = (chunk, filled + size[visit["visit"]])
        visits.loc[index, "chunk"] = chunk
    return visits


def write_registry(
    inputs: IngestInputs,
    raws: pd.DataFrame,
    visits: pd.DataFrame,
    detectors: pd.DataFrame,
    overlaps: pd.DataFrame,
    groups: Groups,
    exclusions: Sequence[Exclusion],
) -> None:
    """Tables, slices and the graph; the graph last."""
    tables = {"raws": raws, "visits": visits, "detectors": detectors, "overlaps": overlaps}
    for name, table in tables.items():
        with atomic_path(inputs.root / REGISTRY / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
    write_if_changed(inputs.root / UNUSABLE, unusable_entries(raws, visits, inputs.root))
    used = visits[(visits["reason"] == "") & (visits["chunk"] != "")]
    write_if_changed(inputs.root / SCIENCE_GROUPS, frozen_choices(groups))
    needed = needed_products(groups, {kind: set(used[kind]) for kind in KINDS}, inputs.config)
    for kind, products in needed.items():
        for identity, uses in products.items():
            content = calibration_entry(kind, identity, groups, uses, raws, inputs.config)
            write_if_changed(inputs.root / calibration_slice(kind, identity), content)
    chunks = {}
    for chunk, rows in used.groupby("chunk", sort=True):
        entries = [
            _visit_entry(visit, detectors, overlaps, exclusions, inputs) for _, visit in rows.iterrows()
        ]
        write_if_changed(inputs.root / chunk_slice(chunk), {"chunk": chunk, "visits": entries})
        chunks[chunk] = {
            "visits": [int(v) for v in rows["visit"]],
            "calibrations": {kind: sorted(set(rows[kind]) - {""}) for kind in KINDS},
            "megapixels": round(sum(entry["megapixels"] for entry in entries), 3),
        }
    graph = {
        "format": 1,
        "chunks": chunks,
        "calibrations": {
            kind: {identity: {"uses": uses} for identity, uses in products.items()}
            for kind, products in needed.items()
        },
        "tracts": _tract_entries(used, overlaps),
        "execution": dict(inputs.execution),
    }
    write_if_changed(inputs.root / GRAPH, graph)


def unusable_entries(raws: pd.DataFrame, visits: pd.DataFrame, root: Path) -> list[dict[str, Any]]:
    """Raw frames and whole visits that were set aside, with reason and detail."""
    found = [
        {
            "visit": int(raw.visit) if raw.visit >= 0 else None,
            "detector": int(raw.detector) if raw.detector >= 0 else None,
            "reason": raw.reason,
            "detail": f"{relative_name(root / raw.path, root)}: {raw.detail}",
        }
        for raw in raws[raws["reason"] != ""].itertuples()
    ]
    for visit in visits[visits["reason"] != ""].itertuples():
        found.append(
            {"visit": int(visit.visit), "detector": None, "reason": visit.reason, "detail": visit.detail}
        )
    return found


def _visit_entry(
    visit: pd.Series,
    detectors: pd.DataFrame,
    overlaps: pd.DataFrame,
    exclusions: Sequence[Exclusion],
    inputs: IngestInputs,
) -> dict[str, Any]:
    own = detectors[detectors["visit"] == visit["visit"]]
    physical_filter = str(visit["physical_filter"])
    info = {
        "visit": int(visit["visit"]),
        "physical_filter": physical_filter,
        "band": inputs.camera.filters.get(physical_filter, ""),
        "home_tract": int(visit["home_tract"]),
        "calibrations": {kind: visit[kind] for kind in KINDS if visit[kind]},
        **{
            name: _finite(visit[name])
            for name in (
                "ra",
                "dec",
                "rotation",
                "exposure_time",
                "mjd_begin",
                "mjd_mid",
                "mjd_end",
                "airmass",
            )
        },
        "excluded_amplifiers": {
            str(detector): sorted(
                e.amplifier for e in exclusions if e.amplifier and _applies(e, int(visit["visit"]), detector)
            )
            for detector in sorted(set(own["detector"]))
        },
    }
    frames = _plain_rows(own[["snap", "detector", "path", "size", "mtime_ns", "reason", "detail"]])
    # what a product depends on, without where the raws lie and when they were copied there
    meaning = [{k: f[k] for k in ("snap", "detector", "size", "reason", "detail")} for f in frames]
    identity = xxhash.xxh3_128(json.dumps([info, meaning], sort_keys=True).encode()).hexdigest()
    tracts = sorted(int(t) for t in set(overlaps.loc[overlaps["visit"] == visit["visit"], "tract"]))
    return {
        **info,
        "identity": identity,
        "frames": frames,
        "tracts": tracts,
        "megapixels": float(own["megapixels"].sum()),
    }


def _tract_entries(visits: pd.DataFrame, overlaps: pd.DataFrame) -> dict[str, Any]:
    chunk_of = dict(zip(visits["visit"], visits["chunk"]))
    chunks: dict[int, set[str]] = defaultdict(set)
    patches: dict[int, set[int]] = defaultdict(set)
    for visit, tract, patch in (
        overlaps[overlaps["selected"]][["visit", "tract", "patch"]].drop_duplicates().itertuples(index=False)
    ):
        if visit in chunk_of:
            chunks[int(tract)].add(chunk_of[visit])
            patches[int(tract)].add(int(patch))
    return {
        str(tract): {"chunks": sorted(chunks[tract]), "patches": sorted(patches[tract])}
        for tract in sorted(chunks)
    }


def _applies(exclusion: Exclusion, visit: int, detector: int) -> bool:
    return exclusion.visit in (None, visit) and exclusion.detector in (None, detector)


def _previous(inputs: IngestInputs, name: str) -> pd.DataFrame:
    path = inputs.root / REGISTRY / name
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame()


def _recorded(inputs: IngestInputs, name: str) -> str:
    """What the previous ingest recorded of itself."""
    path = inputs.root / FRESHNESS
    return json.loads(path.read_text()).get(name, "") if path.is_file() else ""


def _geometry(inputs: IngestInputs) -> str:
    """Digest of what overlaps depend on besides the visits' pointings."""
    content = [inputs.camera_digest, inputs.sky_map.to_config(), inputs.config.overlap_margin_arcsec]
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()


def survey_path(path: Path, root: Path) -> str:
    """A file's path as the registry writes it: relative to the survey where it is inside, else absolute."""
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{key: _finite(value) for key, value in row.items()} for row in table.to_dict("records")]


def _finite(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
