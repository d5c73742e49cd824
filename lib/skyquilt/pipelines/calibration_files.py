"""Calibration files (LDM-151 4.1.2): the products of one detector made from files, in a worker.

The workers know no product: a script hands them the maker, so that a stage depends on the code of its own
product. Frames are written by the worker, a file per detector; components come back and are written by the script, one
file per calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyquilt.algorithms.instrument_signature_removal import (
    InstrumentSignatureRemovalConfig,
    load_replacements,
)
from skyquilt.instrument.raw import read_raw
from skyquilt.io.components import write_components
from skyquilt.io.fits import write_exposure
from skyquilt.pipelines.visit_files import (
    CalibrationFrames,
    CalibrationSet,
    calibration_set,
    detector_file,
    read_calibration,
)

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Camera
    from skyquilt.instrument.raw import RawFrame
    from skyquilt.io.manifests import ManifestWriter
    from skyquilt.pipelines.calibration_products.combine import CombinedCalibration
    from skyquilt.primitives.failure import Outcome


@dataclass(frozen=True)
class CalibrationInputs:
    """What a calibration product is made from: small and picklable.

    Parameters
    ----------
    frames : CalibrationFrames
        Raw frames; none for products made from other products.
    calibrations : CalibrationSet
        Products that its frames are corrected with.
    isr : InstrumentSignatureRemovalConfig
    survey : Path
        Survey directory, where a user's own steps of signature removal lie.
    biases : CalibrationFrames
        Bias frames that read noise is measured in, for photon transfer.
    """

    frames: CalibrationFrames
    calibrations: CalibrationSet = field(default_factory=CalibrationSet)
    isr: InstrumentSignatureRemovalConfig = field(default_factory=InstrumentSignatureRemovalConfig)
    survey: Path = Path()
    biases: CalibrationFrames | None = None

    @classmethod
    def of(
        cls, camera: Camera, entry: Mapping[str, Any], isr: InstrumentSignatureRemovalConfig, survey: Path
    ) -> CalibrationInputs:
        """Inputs that a calibration's slice of the registry names (`frames`, `uses`)."""
        frames = CalibrationFrames(camera, tuple(entry["frames"]))
        biases = CalibrationFrames(camera, tuple(entry.get("bias_frames", ())))
        return cls(frames, calibration_set(entry), isr, survey, biases)

    def paths(self) -> dict[str, list[Path]]:
        """Raw files and manifests, by role."""
        biases = self.biases.frames if self.biases else ()
        raws = sorted({Path(frame["path"]) for frame in (*self.frames.frames, *biases)})
        return {"raw": raws} | {kind: list(paths) for kind, paths in self.calibrations.manifests.items()}

    def reader(self, detector: int) -> tuple[Callable[[int], RawFrame], int]:
        """`read(i)` of a detector's frames, and their number."""
        return _reader(self.frames, detector)

    def bias_reader(self, detector: int) -> tuple[Callable[[int], RawFrame], int] | None:
        """The same of its bias frames; None where none are given."""
        return _reader(self.biases, detector) if self.biases and self.biases.frames else None


def _reader(frames: CalibrationFrames, detector: int) -> tuple[Callable[[int], RawFrame], int]:
    paths = frames.of(detector)

    def read(i: int) -> RawFrame:
        return read_raw(paths[i], frames.camera, detector)

    return read, len(paths)


@dataclass(frozen=True)
class CombineDetector:
    """Callable of the pool: combine one detector's frames and write the result.

    Parameters
    ----------
    combine : callable
        `combine_dark`, `combine_flat` or `combine_fringe`; `combine_bias` with `corrected` False.
    inputs : CalibrationInputs
    config : dataclass
        The maker's.
    directory : Path
        Where the result goes.
    provenance : dict
        What made it.
    corrected : bool
        Whether frames are corrected with other calibrations.
    """

    combine: Callable[..., CombinedCalibration]
    inputs: CalibrationInputs
    config: Any
    directory: Path
    provenance: Mapping[str, Any]
    corrected: bool = True

    def __call__(self, detector: int) -> dict[str, Any]:
        """Figures of the combined frame, which is written."""
        inputs = self.inputs
        calibrations = (inputs.calibrations.of(detector),) if self.corrected else ()
        own = load_replacements(inputs.isr.replace, inputs.survey)
        combined = self.combine(
            *inputs.reader(detector), *calibrations, self.config, inputs.isr, self.directory, own
        )
        write_exposure(self.directory / detector_file(detector), combined.exposure, dict(self.provenance))
        return combined_figures(combined)


@dataclass(frozen=True)
class MeasureDetector:
    """Callable of the pool: measure crosstalk, linearity or photon transfer of one detector.

    A user's own steps of signature removal are left out here: they are made for corrected frames.

    Parameters
    ----------
    measure : callable
        `measure_crosstalk`, `measure_linearity` or `measure_photon_transfer`.
    inputs : CalibrationInputs
    config : dataclass
        The maker's.
    """

    measure: Callable[..., tuple[Any, dict[str, Any]]]
    inputs: CalibrationInputs
    config: Any

    def __call__(self, detector: int) -> tuple[Any, dict[str, Any]]:
        """Component and figures."""
        inputs = self.inputs
        isr = replace(inputs.isr, replace={}, require=())
        biases = inputs.bias_reader(detector) or ()
        return self.measure(
            *inputs.reader(detector), inputs.calibrations.of(detector), self.config, isr, *biases
        )


@dataclass(frozen=True)
class SearchDetector:
    """Callable of the pool: find the defects of one detector in the combined frames there are.

    Parameters
    ----------
    find : callable
        `find_defects`.
    inputs : CalibrationInputs
    config : dataclass
        The maker's.
    """

    find: Callable[..., tuple[Any, dict[str, Any]]]
    inputs: CalibrationInputs
    config: Any

    def __call__(self, detector: int) -> tuple[Any, dict[str, Any]]:
        """Component and figures."""
        frames = {}
        for kind in ("bias", "dark", "flat"):
            made = [
                read_calibration(manifest, kind, detector)
                for manifest in self.inputs.calibrations.manifests.get(kind, ())
            ]
            frames[kind] = [each for each in made if each is not None]
        bias = frames["bias"][0] if frames["bias"] else None
        camera = self.inputs.frames.camera
        return self.find(bias, frames["dark"], frames["flat"], camera.detector(detector), self.config)


def combined_figures(combined: CombinedCalibration) -> dict[str, Any]:
    """What the manifest says of a combined calibration."""
    used = [outcome for outcome in combined.frames if outcome.ok]
    return {
        "n_frames": len(used),
        "n_left_out": len(combined.frames) - len(used),
        "left_out": sorted(f"{o.reason.value}: {o.detail}" for o in combined.frames if not o.ok),
        "levels": [float(outcome.value) for outcome in used],
        "rejected_share": float(combined.rejected),
        **combined.figures,
    }


def note_frames(manifest: ManifestWriter, dataset: str, outcomes: Sequence[Outcome]) -> None:
    """Note the frames that workers wrote, their figures, and the detectors that have none."""
    for outcome in outcomes:
        manifest.part(f"detector {outcome.item}", outcome)
        if outcome.ok:
            manifest.note(dataset, detector_file(outcome.item), detector=outcome.item)
            manifest.figures[str(outcome.item)] = outcome.value


def write_component_file(manifest: ManifestWriter, dataset: str, components: Mapping[int, Any]) -> None:
    """Write the components of a calibration into one file, if any was made."""
    if components:
        with manifest.member(dataset, f"{dataset}.fits") as temporary:
            write_components(temporary, components, manifest.provenance())


def note_components(manifest: ManifestWriter, dataset: str, outcomes: Sequence[Outcome]) -> dict[int, Any]:
    """Write what `MeasureDetector` or `SearchDetector` returned, with figures and reasons; the components."""
    for outcome in outcomes:
        manifest.part(f"detector {outcome.item}", outcome)
        if outcome.ok:
            manifest.figures[str(outcome.item)] = outcome.value[1]
    components = {outcome.item: outcome.value[0] for outcome in outcomes if outcome.ok}
    write_component_file(manifest, dataset, components)
    return components
