"""Combined flat (LDM-151 4.1.2.1): one night's flats of one filter, every detector."""

from skyquilt.pipelines.calibration_files import CalibrationInputs, CombineDetector, note_frames
from skyquilt.pipelines.calibration_products.combine_flat import CombineFlatConfig, combine_flat
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    inputs = CalibrationInputs.of(job.camera(), job.registry, job.isr(), job.root)
    with job.manifest(inputs.paths()) as manifest, job.pool() as pool:
        combine = CombineDetector(
            combine_flat, inputs, job.config(CombineFlatConfig), manifest.directory, manifest.provenance()
        )
        note_frames(manifest, "flat", pool.map(combine, inputs.frames.detectors()))


run(main, globals())
