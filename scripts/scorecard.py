"""Scorecard (LDM-151 6.1): figures of the release against truth and requirements."""

import json
from pathlib import Path

import pandas as pd

from skyquilt.io.atomic import write_json
from skyquilt.io.manifests import read_manifest
from skyquilt.io.products import path
from skyquilt.pipelines.bootstrap_im_char import BootstrapImCharConfig
from skyquilt.pipelines.detector_image import SignatureRemoval
from skyquilt.pipelines.make_visit_tables import visit_detector_table, visit_summary
from skyquilt.pipelines.visit_files import visit_files
from skyquilt.quality.scorecard import SOURCE_COLUMNS, ScorecardConfig, make_scorecard
from skyquilt.quality.signature_files import (
    JudgeDetector,
    calibration_tables,
    concatenated,
    visits_with_images,
)
from skyquilt.quality.visit_files import sources_of
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    manifests = job.unit_manifests("chunks")
    visits = [read_manifest(path) for path in manifests]
    sources = sources_of(visits, SOURCE_COLUMNS)
    detectors = visit_detector_table([visit_summary(visit.content) for visit in visits])
    truth_directory = job.stage["material"]["truth"]["directory"]
    truth_files = sorted(Path(truth_directory).glob("*_truth.parquet")) if truth_directory else []
    truth = {
        name: pd.read_parquet(file)
        for file in truth_files
        if (name := file.stem.removesuffix("_truth")) not in ("pixel", "event")
    }
    inputs = {"visit": manifests, "truth": truth_files, "calibration": job.paths("calibrations")}
    with job.manifest(inputs) as writer:
        config = job.config(ScorecardConfig)
        instrument = judged(job, Path(truth_directory)) if truth_files else {}
        card = make_scorecard(sources, truth, detectors, config, instrument)
        with writer.member("scorecard", "scorecard.json") as temporary:
            write_json(temporary, card)


def judged(job: Job, truth: Path) -> dict[str, pd.DataFrame]:
    """Instrument signature of the visits with truth images, and the calibration products that they used."""
    entries = {
        entry["visit"]: entry
        for slice_ in job.paths("registry")
        for entry in json.loads(slice_.read_text())["visits"]
    }
    chosen = [visit for visit in visits_with_images(truth) if visit in entries]
    if not chosen:
        return {}
    camera = job.camera()
    files = {visit: visit_files(entries[visit], camera, Path(), {}) for visit in chosen}
    bands = {visit: entries[visit]["band"] for visit in chosen}
    characterization = job.config_of(BootstrapImCharConfig, "bootstrap_im_char", "characterization")
    removal = SignatureRemoval(job.isr(), job.root)
    judge = JudgeDetector(files, bands, removal, characterization.image, truth)
    science = {detector.id for detector in camera.detectors if detector.purpose == "science"}
    units = [(visit, d) for visit in chosen for d in sorted(science & set(files[visit].frames))]
    with job.pool() as pool:
        outcomes = pool.map(judge, units)
    tables: dict[str, list[pd.DataFrame]] = {}
    for outcome in outcomes:
        for name, table in (outcome.value if outcome.ok else {}).items():
            tables.setdefault(name, []).append(table)
    served = {
        kind: path(f"{kind}_manifest", calibration=name)
        for kind, name in entries[chosen[0]]["calibrations"].items()
    }
    return concatenated(tables) | calibration_tables(served, truth, sorted(science))


run(main, globals())
