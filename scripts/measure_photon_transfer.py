"""Photon transfer and brighter-fatter kernel (LDM-151 4.1.2.3): every detector, from pairs of flats."""

from skyquilt.pipelines.calibration_files import (
    CalibrationInputs,
    MeasureDetector,
    note_components,
    write_component_file,
)
from skyquilt.pipelines.calibration_products.brighter_fatter import (
    area_changes,
    brighter_fatter_figures,
    measure_brighter_fatter,
)
from skyquilt.pipelines.calibration_products.photon_transfer import (
    MeasurePhotonTransferConfig,
    measure_photon_transfer,
)
from skyquilt.workflow.job import Job, run


def main(job: Job) -> None:
    camera, config = job.camera(), job.config(MeasurePhotonTransferConfig)
    inputs = CalibrationInputs.of(camera, job.registry, job.isr(), job.root)
    with job.manifest(inputs.paths()) as manifest, job.pool() as pool:
        measure = MeasureDetector(measure_photon_transfer, inputs, config)
        measured = note_components(manifest, "ptc", pool.map(measure, inputs.frames.detectors()))
        kernels = {}
        found = {detector: area_changes(transfer, config) for detector, transfer in measured.items()}
        for detector, transfer in measured.items():
            pixel = camera.detector(detector).pixel_size
            siblings = [
                changes
                for other, changes in found.items()
                if changes is not None and other != detector and camera.detector(other).pixel_size == pixel
            ]
            kernel = measure_brighter_fatter(transfer, camera.detector(detector), config, siblings)
            figures = brighter_fatter_figures(transfer, kernel, config)
            manifest.figures[str(detector)]["brighter_fatter"] = figures
            if kernel is not None:
                kernels[detector] = kernel
        write_component_file(manifest, "bfk", kernels)


run(main, globals())
