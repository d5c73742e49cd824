"""Visit files (LDM-151 5.1.1.1-5.1.1.4): raw frames and calibrations in, calibrated pixels out, a detector at a time.

What a pipeline works on is handed to it by these small, picklable objects: workers open and write one
detector each, so a visit is never in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms.instrument_signature_removal.calibrations import DetectorCalibrations
from skyquilt.instrument.raw import read_raw
from skyquilt.io.components import read_components
from skyquilt.io.fits import PixelFile, write_exposure
from skyquilt.io.manifests import read_manifest
from skyquilt.io.products import path
from skyquilt.primitives.failure import ProcessingFailure, Reason

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Camera
    from skyquilt.instrument.raw import RawFrame
    from skyquilt.primitives.exposure import Exposure


@dataclass(frozen=True)
class VisitFiles:
    """The frames and calibrations of a visit, and where its pixels go.

    Parameters
    ----------
    camera : Camera
    frames : dict
        Detector -> registry entries (snap, path, reason, detail), one per snap, in their order.
    calibrations : CalibrationSet
        What serves the visit.
    excluded_amplifiers : dict
        Detector -> names of amplifiers left out by hand.
    directory : Path
        Where calibrated pixels are written.
    provenance : dict
        What made them, for their headers.
    """

    camera: Camera
    frames: Mapping[int, Sequence[Mapping[str, Any]]]
    calibrations: CalibrationSet
    excluded_amplifiers: Mapping[int, list[str]]
    directory: Path
    provenance: Mapping[str, Any]

    def snaps(self, detector: int) -> list[int]:
        """Numbers of the snaps that ingest listed of a detector."""
        return [frame["snap"] for frame in self.frames[detector]]

    def read_raw(self, detector: int, snap: int) -> RawFrame:
        """Raw frame of a snap, excluded amplifiers blank, with the WCS to start from.

        Raises
        ------
        ProcessingFailure
            With ingest's reason, or what was wrong on reading.
        """
        (frame,) = (frame for frame in self.frames[detector] if frame["snap"] == snap)
        if frame["reason"]:
            raise ProcessingFailure(Reason(frame["reason"]), frame["detail"])
        raw = read_raw(frame["path"], self.camera, detector)
        for name in self.excluded_amplifiers.get(detector, ()):
            if name not in raw.detector.amplifier_names:
                raise ProcessingFailure(
                    Reason.EXCLUDED,
                    f"the exclusion table names amplifier {name}, which detector {detector} has not",
                )
            if name in raw.amplifiers:
                raw.amplifiers[name][:] = np.nan
        try:
            return replace(raw, header_wcs=raw.first_wcs(self.camera))
        except ProcessingFailure:
            # a frame without any WCS is still a frame: its sources have pixel positions and a flag
            return replace(raw, header_wcs=None)

    def read_calibrations(self, detector: int) -> DetectorCalibrations:
        """The calibrations of a detector, their checksums verified."""
        return self.calibrations.of(detector)

    def write_exposure(self, detector: int, exposure: Exposure) -> None:
        """Keep the calibrated pixels; components that are fitted over the visit have files of their own."""
        info = {**exposure.info, "band": self.camera.filters.get(exposure.info.get("physical_filter"), "")}
        pixels = replace(
            exposure, info=info, psf=None, background=None, photo_calib=None, aperture_corrections=None
        )
        write_exposure(self.directory / detector_file(detector), pixels, dict(self.provenance))


def visit_files(
    entry: Mapping[str, Any], camera: Camera, directory: Path, provenance: Mapping[str, Any]
) -> VisitFiles:
    """The files of a visit from its entry in the registry."""
    frames: dict[int, list[Mapping[str, Any]]] = {}
    for frame in sorted(entry["frames"], key=lambda frame: (frame["detector"], frame["snap"])):
        frames.setdefault(frame["detector"], []).append(frame)
    for detector, own in frames.items():
        frames[detector] = _with_missing_snaps(own, sorted({frame["snap"] for frame in entry["frames"]}))
    excluded = {int(detector): names for detector, names in entry["excluded_amplifiers"].items()}
    return VisitFiles(camera, frames, calibration_set(entry), excluded, directory, provenance)


def _with_missing_snaps(own: Sequence[Mapping[str, Any]], snaps: Sequence[int]) -> list[Mapping[str, Any]]:
    """A detector's frames, with an entry for each snap of the visit that only other detectors have."""
    known = {frame["snap"]: frame for frame in own}
    lack = {
        "path": "",
        "reason": Reason.MISSING_FILE.value,
        "detail": "ingest found no usable file of this snap for this detector, others have it",
    }
    return [known.get(snap) or {"snap": snap, **lack} for snap in snaps]


def calibration_set(entry: Mapping[str, Any]) -> CalibrationSet:
    """The calibration products that serve a visit, or another product, by its entry in the registry."""
    served = entry.get("calibrations") or entry.get("uses") or {}
    return CalibrationSet(
        {
            kind: tuple(
                path(f"{kind}_manifest", calibration=name)
                for name in ([names] if isinstance(names, str) else names)
            )
            for kind, names in served.items()
            if names
        }
    )


def detector_file(detector: int) -> str:
    """File name of a detector's product within the directory of its visit or calibration."""
    return f"detector_{detector:03d}.fits"


def read_calibration(manifest: Path, kind: str, detector: int) -> PixelFile | None:
    """A detector's combined calibration, its checksum verified; None when it was not made."""
    content = read_manifest(manifest)
    names = content.members(kind, detector=detector)
    return PixelFile.open(content.open(names[0])) if names else None


def read_characterization(manifest: Path, kind: str, detector: int) -> Any:
    """A detector's component of a kind (crosstalk, linearizer, ptc, bfk, defects); None when it was not made."""
    content = read_manifest(manifest)
    names = content.members(kind)
    if not names:
        return None
    try:
        return read_components(content.open(names[0]), [detector])[detector]
    except KeyError:
        return None


@dataclass(frozen=True)
class CalibrationSet:
    """The calibration products that serve a visit, or the frames of another calibration.

    Parameters
    ----------
    manifests : dict
        Kind (bias, crosstalk, linearizer, ptc, dark, flat, defects, fringe) -> manifests of its products. Where
        there are several (the flats that defects are found in), `of` takes the first.
    """

    manifests: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def of(self, detector: int) -> DetectorCalibrations:
        """What there is for a detector, checksums verified; frames are opened, not read."""
        frames = {
            kind: read_calibration(self.manifests[kind][0], kind, detector)
            for kind in ("bias", "dark", "flat", "fringe")
            if self.manifests.get(kind)
        }
        components = {
            name: read_characterization(self.manifests[kind][0], dataset, detector)
            for name, kind, dataset in _COMPONENTS
            if self.manifests.get(kind)
        }
        return DetectorCalibrations(**frames, **components)

    def paths(self) -> list[Path]:
        """All manifests, by kind."""
        return [path for paths in self.manifests.values() for path in paths]


# name in DetectorCalibrations, kind, dataset
_COMPONENTS = (
    ("crosstalk", "crosstalk", "crosstalk"),
    ("linearizer", "linearizer", "linearizer"),
    ("photon_transfer", "ptc", "ptc"),
    ("brighter_fatter", "ptc", "bfk"),
    ("defects", "defects", "defects"),
)


@dataclass(frozen=True)
class CalibrationFrames:
    """The raw frames of one calibration group.

    Parameters
    ----------
    camera : Camera
    frames : tuple of dict
        Registry entries (path, detector; -1 where a file holds all detectors).
    """

    camera: Camera
    frames: tuple[Mapping[str, Any], ...]

    def of(self, detector: int) -> list[str]:
        """Paths of the frames of a detector, sorted."""
        return sorted(frame["path"] for frame in self.frames if frame["detector"] in (detector, -1))

    def detectors(self) -> list[int]:
        """Detectors that have frames, in order of id."""
        named = {frame["detector"] for frame in self.frames}
        return [d.id for d in self.camera.detectors if -1 in named or d.id in named]
