"""Crosstalk (LDM-151 4.1.2.3): the matrix of every detector, from projected spots or bright stars."""

from skyquilt.pipelines.calibration_files import CalibrationInputs, MeasureDetector, note_components
from skyquilt.pipelines.calibration_products.crosstalk import MeasureCrosstalkConfig, measure_crosstalk
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    inputs = CalibrationInputs.of(job.camera(), job.registry, job.isr(), job.root)
    with job.manifest(inputs.paths()) as manifest, job.pool() as pool:
        measure = MeasureDetector(measure_crosstalk, inputs, job.config(MeasureCrosstalkConfig))
        note_components(manifest, "crosstalk", pool.map(measure, inputs.frames.detectors()))


run(main, globals())
