"""Defects (LDM-151 4.1.2.3): hot and dead pixels and columns of every detector, from combined frames."""

from skyquilt.pipelines.calibration_files import CalibrationInputs, SearchDetector, note_components
from skyquilt.pipelines.calibration_products.defects import FindDefectsConfig, find_defects
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    camera = job.camera()
    inputs = CalibrationInputs.of(camera, job.registry, job.isr(), job.root)
    with job.manifest(inputs.paths()) as manifest, job.pool() as pool:
        search = SearchDetector(find_defects, inputs, job.config(FindDefectsConfig))
        detectors = [detector.id for detector in camera.detectors]
        note_components(manifest, "defects", pool.map(search, detectors))


run(main, globals())
