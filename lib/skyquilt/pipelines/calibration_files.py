"""Calibration files (LDM-151 4.1.2.1): combine the frames of one detector and write the result, in a
worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyquilt.instrument.raw import read_raw
from skyquilt.io.fits import write_exposure
from skyquilt.pipelines.calibration_products import CombinedCalibration, combine_bias, combine_flat
from skyquilt.pipelines.visit_files import CalibrationFrames, detector_file, read_calibration

if TYPE_CHECKING:
    from skyquilt.instrument.raw import RawFrame


@dataclass(frozen=True)
class CombineDetector:
    """Callable of the pool: combine one detector's frames.

    Parameters
    ----------
    kind : str
        bias or flat.
    frames : CalibrationFrames
    config : CombineBiasConfig or CombineFlatConfig
    bias : Path or None
        Manifest of the bias that flats need.
    directory : Path
        Where the result goes.
    provenance : dict
        What made it.
    """

    kind: str
    frames: CalibrationFrames
    config: Any
    bias: Path | None
    directory: Path
    provenance: Mapping[str, Any]

    def __call__(self, detector: int) -> dict[str, Any]:
        """Figures of the combined frame, which is written."""
        paths = self.frames.of(detector)

        def read(i: int) -> RawFrame:
            return read_raw(paths[i], self.frames.camera, detector)

        if self.kind == "bias":
            combined = combine_bias(read, len(paths), self.config, self.directory)
        else:
            bias = None if self.bias is None else read_calibration(self.bias, "bias", detector)
            combined = combine_flat(read, len(paths), bias, self.config, self.directory)
        write_exposure(self.directory / detector_file(detector), combined.exposure, dict(self.provenance))
        return combined_figures(combined)


def combined_figures(combined: CombinedCalibration) -> dict[str, Any]:
    """What the manifest says of a combined calibration."""
    used = [outcome for outcome in combined.frames if outcome.ok]
    return {
        "n_frames": len(used),
        "n_left_out": len(combined.frames) - len(used),
        "left_out": sorted(f"{o.reason.value}: {o.detail}" for o in combined.frames if not o.ok),
        "levels": [float(outcome.value) for outcome in used],
        "rejected_share": float(combined.rejected),
    }
