"""BootstrapImChar (LDM-151 5.1.1): the visits of one chunk, from raw frames to calibrated images and sources."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from skyquilt.io.components import write_components
from skyquilt.io.manifests import ManifestWriter
from skyquilt.io.parquet import write_tables
from skyquilt.io.products import path
from skyquilt.io.reference_catalog import ReferenceCatalogMap, read_reference
from skyquilt.pipelines.bootstrap_im_char import BootstrapImCharConfig, bootstrap_im_char
from skyquilt.pipelines.detector_image import SignatureRemoval
from skyquilt.pipelines.ghost_prediction import predict_ghosts
from skyquilt.pipelines.image_characterization import Visit, VisitResult
from skyquilt.pipelines.visit_files import calibration_set, detector_file, visit_files
from skyquilt.primitives.schemas import SOURCE
from skyquilt.workflow.job import Job, run
from skyquilt.workflow.pool import Pool

COMPONENTS = {
    "preliminary_psf": ("psf", "psf.fits"),
    "preliminary_wcs": ("wcs", "wcs.fits"),
    "preliminary_photo_calib": ("photo_calib", "photo_calib.fits"),
    "preliminary_visit_image_background": ("background", "background.fits"),
}
REFERENCE_MARGIN_DEG = 0.05


def main(job: Job) -> None:
    visits = [
        {"visit": entry["visit"], "identity": entry["identity"], "entry": entry}
        for entry in job.registry["visits"]
    ]
    job.units(
        visits,
        manifest_of=lambda unit: path("bootstrap_manifest", visit=unit["visit"]),
        inputs_of=inputs_of,
        make=partial(make_visit, job, job.camera(), reference_map(job)),
    )


def inputs_of(unit: Mapping[str, Any]) -> dict[str, list[Path]]:
    entry = unit["entry"]
    raws = [Path(frame["path"]) for frame in entry["frames"]]
    served = calibration_set(entry).manifests
    return {"raw": raws} | {kind: list(paths) for kind, paths in served.items()}


def reference_map(job: Job) -> ReferenceCatalogMap | None:
    mapping = job.stage["material"]["reference"]["mapping"]
    return ReferenceCatalogMap.from_dict(mapping, job.root) if mapping else None


def make_visit(
    job: Job,
    camera: Any,
    mapping: ReferenceCatalogMap | None,
    writer: ManifestWriter,
    unit: Mapping[str, Any],
    pool: Pool,
) -> None:
    entry = unit["entry"]
    data = visit_files(entry, camera, writer.directory, writer.provenance())
    reference = None
    if mapping is not None:
        radius = camera.field_radius_deg() + REFERENCE_MARGIN_DEG
        reference = read_reference(mapping, entry["ra"], entry["dec"], radius)
    visit = Visit(entry["visit"], entry["band"], entry["physical_filter"], entry["home_tract"])
    config = job.config(BootstrapImCharConfig)
    removal = SignatureRemoval(job.isr(), job.root)
    ghosts = predict_ghosts(camera, entry, reference)
    result = bootstrap_im_char(visit, sorted(data.frames), data, reference, removal, config, pool.map, ghosts)
    write_visit(writer, entry, result)


def write_visit(writer: ManifestWriter, entry: Mapping[str, Any], result: VisitResult) -> None:
    for outcome in result.outcomes:
        part = f"detector {outcome.item}"
        writer.part(part, outcome)
        if outcome.ok:
            writer.note("preliminary_visit_image", detector_file(outcome.item), detector=outcome.item)
            if outcome.value:
                writer.flag(part, outcome.value[0], ", ".join(reason.value for reason in outcome.value))
    for dataset, (attribute, name) in COMPONENTS.items():
        with writer.member(dataset, name) as temporary:
            write_components(temporary, getattr(result, attribute), writer.provenance())
    with writer.member("preliminary_source", "source.parquet") as temporary:
        write_tables(temporary, result.source_parts(), SOURCE, writer.provenance())
    writer.counts["sources"] = result.n_sources
    information = {
        key: value
        for key, value in entry.items()
        if key not in ("frames", "identity", "tracts", "megapixels")
    }
    writer.figures.update(
        visit=result.visit_figures, detector=result.detector_figures, information=information
    )


run(main, globals())
