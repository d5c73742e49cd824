"""Combined bias (LDM-151 4.1.2.1): one night's bias frames, every detector."""

from skyquilt.pipelines.calibration_files import CalibrationInputs, CombineDetector, note_frames
from skyquilt.pipelines.calibration_products.combine_bias import CombineBiasConfig, combine_bias
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    inputs = CalibrationInputs.of(job.camera(), job.registry, job.isr(), job.root)
    with job.manifest(inputs.paths()) as manifest, job.pool() as pool:
        combine = CombineDetector(
            combine_bias,
            inputs,
            job.config(CombineBiasConfig),
            manifest.directory,
            manifest.provenance(),
            corrected=False,
        )
        note_frames(manifest, "bias", pool.map(combine, inputs.frames.detectors()))


run(main, globals())
