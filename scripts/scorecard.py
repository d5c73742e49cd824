"""Scorecard (LDM-151 6.1): figures of the release against truth and requirements."""

from pathlib import Path

import pandas as pd

from skyquilt.io.atomic import write_json
from skyquilt.io.manifests import read_manifest
from skyquilt.pipelines.make_visit_tables import visit_detector_table, visit_summary
from skyquilt.quality.scorecard import SOURCE_COLUMNS, ScorecardConfig, make_scorecard
from skyquilt.quality.visit_files import sources_of
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    manifests = job.unit_manifests("chunks")
    visits = [read_manifest(path) for path in manifests]
    sources = sources_of(visits, SOURCE_COLUMNS)
    detectors = visit_detector_table([visit_summary(visit.content) for visit in visits])
    truth_directory = job.stage["material"]["truth"]["directory"]
    truth_files = sorted(Path(truth_directory).glob("*_truth.parquet")) if truth_directory else []
    truth = {path.stem.removesuffix("_truth"): pd.read_parquet(path) for path in truth_files}
    with job.manifest({"visit": manifests, "truth": truth_files}) as writer:
        card = make_scorecard(sources, truth, detectors, job.config(ScorecardConfig))
        with writer.member("scorecard", "scorecard.json") as temporary:
            write_json(temporary, card)


run(main, globals())
