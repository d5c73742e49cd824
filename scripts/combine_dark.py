"""Combined dark (LDM-151 4.1.2.1): one night's dark frames of any exposure times, every detector."""

from skyquilt.pipelines.calibration_files import CalibrationInputs, CombineDetector, note_frames
from skyquilt.pipelines.calibration_products.combine_dark import CombineDarkConfig, combine_dark
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    inputs = CalibrationInputs.of(job.camera(), job.registry, job.isr(), job.root)
    with job.manifest(inputs.paths()) as manifest, job.pool() as pool:
        combine = CombineDetector(
            combine_dark, inputs, job.config(CombineDarkConfig), manifest.directory, manifest.provenance()
        )
        note_frames(manifest, "dark", pool.map(combine, inputs.frames.detectors()))


run(main, globals())
