"""Combined flat (LDM-151 4.1.2.1): one night's flats of one filter, every detector."""

from pathlib import Path

from skyquilt.pipelines.calibration_files import CombineDetector
from skyquilt.pipelines.calibration_products import CombineFlatConfig
from skyquilt.pipelines.visit_files import CalibrationFrames, detector_file
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    frames = CalibrationFrames(job.camera(), tuple(job.registry["frames"]))
    raws = [Path(frame["path"]) for frame in job.registry["frames"]]
    biases = job.paths("bias")
    with job.manifest({"raw": raws, "bias": biases}) as manifest, job.pool() as pool:
        combine = CombineDetector(
            "flat",
            frames,
            job.config(CombineFlatConfig),
            biases[0] if biases else None,
            manifest.directory,
            manifest.provenance(),
        )
        for outcome in pool.map(combine, frames.detectors()):
            manifest.part(f"detector {outcome.item}", outcome)
            if outcome.ok:
                manifest.note("flat", detector_file(outcome.item), detector=outcome.item)
                manifest.figures[str(outcome.item)] = outcome.value


run(main, globals())
