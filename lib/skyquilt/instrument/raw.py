"""Raw readers (LDM-151 4.1.2.3): one detector of a raw file, amplifier by amplifier, as stored by the camera.

Nothing is corrected here: pixels are ADU in the stored order with prescan and overscan, for instrument
signature removal. Only the HDUs of the detector asked for are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.instrument.camera import Amplifier, Camera, Detector
from skyquilt.instrument.fits_file import FitsFile, Hdu
from skyquilt.instrument.observation_info import ObservationInfo, observation_of
from skyquilt.primitives.failure import ProcessingFailure, Reason

if TYPE_CHECKING:
    from skyquilt.primitives.wcs import Wcs


@dataclass(frozen=True)
class RawFrame:
    """One detector as it came from the camera.

    Parameters
    ----------
    detector : Detector
    info : ObservationInfo
        With `detector_num` set, also when the file holds all detectors.
    amplifiers : dict of str to ndarray, float32, shape of the amplifier's `raw_section` [ADU]
        Prescan and overscan included; NaN where the file has its BLANK value. Those that the file has.
    header_wcs : Wcs or None
        WCS of the header, moved to the assembled detector; None when there is none that can be used, when the
        definition does not want it, and for frames not of the sky.
    metadata : dict
        Keywords of the primary header and, over them, of the detector's HDU.
    wcs_problem : str
        Why `header_wcs` is None although keywords were there.
    absent : dict of str to str
        Amplifiers of the definition that the file lacks, and what was found instead.
    """

    detector: Detector
    info: ObservationInfo
    amplifiers: dict[str, np.ndarray]
    header_wcs: Wcs | None
    metadata: dict[str, Any]
    wcs_problem: str = ""
    absent: dict[str, str] = field(default_factory=dict)

    def first_wcs(self, camera: Camera) -> Wcs:
        """Header or nominal WCS as the definition wants it; ProcessingFailure NO_WCS when neither is."""
        return camera.first_wcs(self.info, self.detector.id, self.header_wcs)


def read_raw(path: str | Path, camera: Camera, detector_id: int) -> RawFrame:
    """Read one detector of a raw file; amplifiers whose HDU the file lacks are left out when others are there.

    Parameters
    ----------
    path : path-like
        FITS, gzipped or tile-compressed.
    camera : Camera
    detector_id : int

    Raises
    ------
    ProcessingFailure
        MISSING_FILE, UNREADABLE_FILE (truncated, corrupt, not FITS), UNKNOWN_CAMERA, UNKNOWN_DETECTOR (not in
        the definition, or not the one in the file), WRONG_SHAPE (a size differs from the definition, or no
        amplifier is there), BAD_HEADER.
    """
    detector = camera.detector(detector_id)
    with FitsFile(path) as file:
        info = observation_of(file, camera)
        if info.detector_num is None:
            info = replace(info, detector_num=detector.id)
        elif info.detector_num != detector.id:
            raise ProcessingFailure(
                Reason.UNKNOWN_DETECTOR,
                f"{file.path.name} holds detector {info.detector_num}, expected detector {detector.id}",
            )
        hdus, absent = _amplifier_hdus(file, detector)
        amplifiers = _read_amplifiers(file, detector, hdus)
        wcs, problem = header_wcs_of(file, camera, detector, info)
        metadata = file.primary.cards.as_dict() | detector_hdu(file, detector).cards.as_dict()
    return RawFrame(detector, info, amplifiers, wcs, metadata, problem, absent)


def detector_hdu(file: FitsFile, detector: Detector) -> Hdu:
    """The HDU of a detector's pixels and header, or the first image."""
    if detector.extension is not None:
        return file.hdu(detector.extension)
    first = detector.amplifiers[0].extension
    return file.first_image() if first is None else file.primary


def amplifier_hdu(file: FitsFile, detector: Detector, amplifier: Amplifier) -> Hdu:
    """The HDU that holds an amplifier's pixels."""
    return detector_hdu(file, detector) if amplifier.extension is None else file.hdu(amplifier.extension)


def _amplifier_hdus(file: FitsFile, detector: Detector) -> tuple[dict[str, Hdu], dict[str, str]]:
    """HDUs of the amplifiers that the file has, their sizes checked, and what is with the others."""
    hdus: dict[str, Hdu] = {}
    absent: dict[str, ProcessingFailure] = {}
    for amplifier in detector.amplifiers:
        try:
            hdu = amplifier_hdu(file, detector, amplifier)
            if not hdu.is_image:
                raise _wrong_shape(file, detector, amplifier, hdu)
        except ProcessingFailure as failure:
            if failure.reason is not Reason.WRONG_SHAPE:
                raise
            absent[amplifier.name] = failure
            continue
        if hdu.shape != amplifier.hdu_size[::-1]:
            raise _wrong_shape(file, detector, amplifier, hdu)
        hdus[amplifier.name] = hdu
    if not hdus:
        raise next(iter(absent.values()))
    return hdus, {name: failure.detail for name, failure in absent.items()}


def _read_amplifiers(file: FitsFile, detector: Detector, hdus: dict[str, Hdu]) -> dict[str, np.ndarray]:
    """Raw sections, each HDU read once."""
    there = [amplifier for amplifier in detector.amplifiers if amplifier.name in hdus]
    sections: dict[str, np.ndarray] = {}
    index, image = -1, np.empty((0, 0), np.float32)
    # in the file's order: a gzip stream cannot go back without starting again
    for amplifier in sorted(there, key=lambda a: hdus[a.name].index):
        hdu = hdus[amplifier.name]
        if hdu.index != index:
            index, image = hdu.index, file.pixels(hdu)
        sections[amplifier.name] = np.ascontiguousarray(image[amplifier.raw_section.slices()])
    return {amplifier.name: sections[amplifier.name] for amplifier in there}


def _wrong_shape(file: FitsFile, detector: Detector, amplifier: Amplifier, hdu: Hdu) -> ProcessingFailure:
    nx, ny = amplifier.hdu_size
    found = " x ".join(str(n) for n in reversed(hdu.shape)) or "no image"
    where = hdu.name or f"HDU {hdu.index}"
    return ProcessingFailure(
        Reason.WRONG_SHAPE,
        f"{file.path.name}: {where} has {found} pixels, expected {nx} x {ny} for amplifier {amplifier.name} "
        f"of detector {detector.name} (a window or another binning needs a definition of its own)",
    )


def header_wcs_of(
    file: FitsFile, camera: Camera, detector: Detector, info: ObservationInfo
) -> tuple[Wcs | None, str]:
    """The header's WCS in assembled pixels, or None and what is wrong with it."""
    if camera.wcs.source != "header" or info.frame_type != "science":
        return None, ""
    from skyquilt.primitives.wcs import Wcs

    amplifier = _first_amplifier(file, detector)
    hdu = _wcs_hdu(file, camera, detector, amplifier)
    cards = file.primary.cards.as_dict() | hdu.cards.as_dict()
    try:
        wcs = Wcs.from_fits_header(cards)
    except ProcessingFailure as failure:
        return None, failure.detail or failure.reason.text
    if camera.wcs.frame == "assembled":
        return wcs, ""
    if camera.wcs.extension != "amplifier":
        amplifier = _nearest_amplifier(detector, hdu, float(cards["CRPIX1"]), float(cards["CRPIX2"]))
    return _to_assembled(wcs, amplifier), ""


def _first_amplifier(file: FitsFile, detector: Detector) -> Amplifier:
    """The first whose HDU is there; the first of all when none is."""
    for amplifier in detector.amplifiers:
        try:
            amplifier_hdu(file, detector, amplifier)
        except ProcessingFailure as failure:
            if failure.reason is not Reason.WRONG_SHAPE:
                raise
        else:
            return amplifier
    return detector.amplifiers[0]


def _wcs_hdu(file: FitsFile, camera: Camera, detector: Detector, amplifier: Amplifier) -> Hdu:
    special: dict[str | int, Callable[[], Hdu]] = {
        "primary": lambda: file.primary,
        "detector": lambda: detector_hdu(file, detector),
        "amplifier": lambda: amplifier_hdu(file, detector, amplifier),
    }
    place = camera.wcs.extension
    return special[place]() if place in special else file.hdu(place)


def _nearest_amplifier(detector: Detector, hdu: Hdu, crpix1: float, crpix2: float) -> Amplifier:
    """The amplifier of the raw image whose data hold the reference pixel, or come nearest."""

    def distance(amplifier: Amplifier) -> float:
        box = amplifier.raw_data.shifted(amplifier.raw_section.x0, amplifier.raw_section.y0)
        x, y = crpix1 - 1.0, crpix2 - 1.0
        return max(box.x0 - x, x - box.x1 + 1, 0.0) + max(box.y0 - y, y - box.y1 + 1, 0.0)

    return min(detector.amplifiers, key=distance)


def _to_assembled(wcs: Wcs, amplifier: Amplifier) -> Wcs:
    """A WCS of stored pixels, of the HDU of `amplifier`, for the assembled detector."""
    from skyquilt.primitives.wcs import Affine, Composed, Wcs

    origin = np.array(amplifier.raw_position(0.0, 0.0))
    step_x = np.array(amplifier.raw_position(1.0, 0.0)) - origin
    step_y = np.array(amplifier.raw_position(0.0, 1.0)) - origin
    origin = origin + (amplifier.raw_section.x0, amplifier.raw_section.y0)
    to_stored = Affine(np.column_stack([step_x, step_y]), origin)
    return Wcs(wcs.ra, wcs.dec, Composed([to_stored, wcs.transform]))
