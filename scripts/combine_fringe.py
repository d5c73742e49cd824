"""Fringe frame (LDM-151 4.1.2.3): one night's frames of the sky in one filter, every detector."""

from skyquilt.pipelines.calibration_files import CalibrationInputs, CombineDetector, note_frames
from skyquilt.pipelines.calibration_products.fringe import CombineFringeConfig, combine_fringe
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    inputs = CalibrationInputs.of(job.camera(), job.registry, job.isr(), job.root)
    with job.manifest(inputs.paths()) as manifest, job.pool() as pool:
        combine = CombineDetector(
            combine_fringe, inputs, job.config(CombineFringeConfig), manifest.directory, manifest.provenance()
        )
        note_frames(manifest, "fringe", pool.map(combine, inputs.frames.detectors()))


run(main, globals())
