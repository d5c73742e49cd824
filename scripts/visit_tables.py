"""Visit tables (LDM-151 5.6): of all visits of the release."""

from skyquilt.io.manifests import read_manifest
from skyquilt.io.parquet import write_table
from skyquilt.pipelines.make_visit_tables import (
    VisitTablesConfig,
    visit_detector_table,
    visit_summary,
    visit_table,
    why_missing_map,
)
from skyquilt.primitives.schemas import VISIT, VISIT_DETECTOR
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    camera = job.camera()
    manifests = job.unit_manifests("chunks")
    visits = [visit_summary(read_manifest(path).content) for path in manifests]
    with job.manifest({"visit": manifests}) as writer:
        tables = {
            "visit_table": (visit_table(visits, camera.observatory), VISIT),
            "visit_detector_table": (visit_detector_table(visits), VISIT_DETECTOR),
        }
        for name, (table, schema) in tables.items():
            with writer.member(name, f"{name}.parquet") as temporary:
                write_table(temporary, table, schema, writer.provenance())
            writer.counts[name] = len(table)
        with writer.member("why_missing", "why_missing.hsp") as temporary:
            why_missing_map(visits, camera, job.config(VisitTablesConfig)).write(str(temporary))


run(main, globals())
