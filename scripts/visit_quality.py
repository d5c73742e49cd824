"""Pictures and figures of visits (LDM-151 6.2.1): every detector of the visits of one chunk."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from skyquilt.io.manifests import ManifestWriter, read_manifest
from skyquilt.io.products import path
from skyquilt.quality.visit_files import DrawDetector
from skyquilt.quality.visit_pictures import VisitQualityConfig
from skyquilt.workflow.job import Job, run
from skyquilt.workflow.pool import Pool


def main(job: Job) -> None:
    visits = [{"visit": entry["visit"], "identity": ""} for entry in job.registry["visits"]]
    job.units(
        visits,
        manifest_of=lambda unit: path("visit_quality_manifest", visit=unit["visit"]),
        inputs_of=lambda unit: {"visit": [path("bootstrap_manifest", visit=unit["visit"])]},
        make=partial(make_visit, job.config(VisitQualityConfig)),
    )


def make_visit(
    config: VisitQualityConfig, writer: ManifestWriter, unit: Mapping[str, Any], pool: Pool
) -> None:
    visit = read_manifest(path("bootstrap_manifest", visit=unit["visit"]))
    images = [
        e["unit"]["detector"] for e in visit.files.values() if e["dataset"] == "preliminary_visit_image"
    ]
    for outcome in pool.map(DrawDetector(visit.path, writer.directory, config), sorted(images)):
        writer.part(f"detector {outcome.item}", outcome)
        if outcome.ok:
            for name, layer in zip(outcome.value.pictures, ("picture", "image", "mask")):
                writer.note("visit_picture", name, detector=outcome.item, layer=layer)
            writer.note("visit_quality_table", outcome.value.figures, detector=outcome.item)


run(main, globals())
