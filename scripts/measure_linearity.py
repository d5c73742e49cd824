"""Linearity (LDM-151 4.1.2.3): the correction of every detector, from flats of many exposure times."""

from skyquilt.pipelines.calibration_files import CalibrationInputs, MeasureDetector, note_components
from skyquilt.pipelines.calibration_products.linearity import MeasureLinearityConfig, measure_linearity
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    inputs = CalibrationInputs.of(job.camera(), job.registry, job.isr(), job.root)
    with job.manifest(inputs.paths()) as manifest, job.pool() as pool:
        measure = MeasureDetector(measure_linearity, inputs, job.config(MeasureLinearityConfig))
        note_components(manifest, "linearizer", pool.map(measure, inputs.frames.detectors()))


run(main, globals())
