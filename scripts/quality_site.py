"""Quality pages (LDM-151 6.2.1): a static site of the release that opens from disk."""

import json
from pathlib import Path

from skyquilt.io.manifests import read_manifest
from skyquilt.io.parquet import read_table
from skyquilt.primitives.sky_map import from_config
from skyquilt.quality.calibration_pages import (
    calibration_failures,
    calibration_products,
    draw_pictures,
    previous_site,
    visits_served,
)
from skyquilt.quality.site import QualitySiteConfig, write_resources, write_site
from skyquilt.quality.visit_files import ReleasePictures, failures_of, focal_plane, tracts_of
from skyquilt.workflow.job import Job, run
from skyquilt.workflow.progress import stage_costs


def main(job: Job) -> None:
    tables, card = (read_manifest(job.paths(name)[0]) for name in ("tables", "scorecard"))
    characterized = [read_manifest(path) for path in job.unit_manifests("chunks")]
    calibrations = [read_manifest(path) for path in job.paths("calibrations")]
    drawn = job.unit_manifests("pictures")
    survey = job.stage["material"]["survey"]
    sky_map = from_config(survey["sky_map"])
    camera, config = job.camera(), job.config(QualitySiteConfig)
    inputs = {
        "pictures": drawn,
        "tables": [tables.path],
        "scorecard": [card.path],
        "calibration": [manifest.path for manifest in calibrations],
    }
    with job.manifest(inputs) as writer:
        earlier = None if job.alone else previous_site(Path(job.output))
        with job.pool() as pool:
            frames = draw_pictures(calibrations, writer, config.calibration_picture_pixels, pool.map, earlier)
        visits = read_table(tables.open("visit_table.parquet"))
        detectors = read_table(tables.open("visit_detector_table.parquet"))
        pictures = ReleasePictures(
            {int(path.parent.name): read_manifest(path) for path in drawn}, writer.directory
        )
        unusable = json.loads(job.paths("unusable")[0].read_text())
        pages = write_site(
            writer.directory,
            survey={"name": survey["name"], "camera": camera.name, "sky_map": repr(sky_map)},
            visits=visits,
            visit_detectors=detectors,
            detector_outlines=focal_plane(camera),
            tracts=tracts_of(detectors, sky_map),
            scorecard=json.loads(card.open("scorecard.json").read_text()),
            pictures=pictures.paths(),
            failures=failures_of(characterized, unusable) + calibration_failures(calibrations),
            figures_of_detector=pictures.figures,
            calibrations=calibration_products(
                calibrations,
                (json.loads(path.read_text()) for path in job.paths("calibration_slices")),
                visits_served(characterized),
                frames,
                {detector.id: (detector.ny, detector.nx) for detector in camera.detectors},
            ),
            config=config,
        )
        for page in pages:
            writer.note("quality_page", page.relative_to(writer.directory).as_posix())
    write_resources(writer.directory, {"stages": stage_costs(job.root)})


run(main, globals())
