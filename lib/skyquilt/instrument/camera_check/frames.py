"""Camera check (LDM-151 4.1.2.3): frames read as leniently as can be, for a definition that may be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.instrument.camera import Amplifier, Camera, Detector
from skyquilt.instrument.fits_file import FitsFile
from skyquilt.instrument.raw import amplifier_hdu, header_wcs_of
from skyquilt.primitives.failure import ProcessingFailure
from skyquilt.primitives.geometry import Box

if TYPE_CHECKING:
    from skyquilt.instrument.observation_info import ObservationInfo
    from skyquilt.primitives.wcs import Wcs

LIT_TYPES = ("science", "flat", "fringe")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class FrameFile:
    """One file, and what its header says as far as it could be understood.

    Parameters
    ----------
    path : Path
    frame_type : str
        ``unknown`` when the header does not tell.
    detectors : tuple of Detector
        Those it holds.
    physical_filter : str
    info : ObservationInfo or None
        When all of it was understood.
    """

    path: Path
    frame_type: str
    detectors: tuple[Detector, ...]
    physical_filter: str = ""
    info: ObservationInfo | None = None

    @property
    def name(self) -> str:
        """File name."""
        return self.path.name


@dataclass(frozen=True, eq=False)
class DetectorPixels:
    """Images of the HDUs of one detector in one file.

    Parameters
    ----------
    file : FrameFile
    detector : Detector
    images : dict of int to ndarray, float32 [ADU]
        By number of the HDU.
    places : dict of str to int
        Amplifier name -> number of its HDU; amplifiers whose HDU is absent or too small are left out.
    """

    file: FrameFile
    detector: Detector
    images: dict[int, np.ndarray]
    places: dict[str, int] = field(default_factory=dict)

    def image(self, amplifier: Amplifier) -> np.ndarray:
        """The whole HDU of an amplifier."""
        return self.images[self.places[amplifier.name]]

    def part(self, amplifier: Amplifier, box: Box | None) -> np.ndarray:
        """Pixels of one of the amplifier's boxes (which count from its raw section); empty for None."""
        if box is None:
            return np.empty((0, 0), np.float32)
        return self.image(amplifier)[in_hdu(amplifier, box).slices()]

    def amplifiers(self) -> list[Amplifier]:
        """Those that can be read."""
        return [a for a in self.detector.amplifiers if a.name in self.places]

    def bias_level(self, amplifier: Amplifier) -> float:
        """Median of its overscan, else prescan [ADU]; NaN when it has neither."""
        for box in (amplifier.raw_overscan, amplifier.raw_prescan, amplifier.raw_parallel_overscan):
            if box is not None:
                return float(np.nanmedian(self.part(amplifier, box)))
        return float("nan")

    def assembled(self, fallback_level: dict[str, float] | None = None) -> np.ndarray:
        """The detector with bias levels subtracted, shape (ny, nx) [ADU]; NaN where an amplifier is absent."""
        image = np.full((self.detector.ny, self.detector.nx), np.nan, np.float32)
        for amplifier in self.amplifiers():
            level = self.bias_level(amplifier)
            if not np.isfinite(level):
                level = (fallback_level or {}).get(amplifier.name, 0.0)
            section = self.image(amplifier)[amplifier.raw_section.slices()]
            image[amplifier.data.slices()] = amplifier.to_assembled(section) - np.float32(level)
        return image


def in_hdu(amplifier: Amplifier, box: Box) -> Box:
    """A box that counts from the raw section, in pixels of the HDU."""
    return box.shifted(amplifier.raw_section.x0, amplifier.raw_section.y0)


def read_pixels(frame: FrameFile, detector: Detector) -> DetectorPixels:
    """Pixels of a detector; HDUs that are absent or too small for their sections are left out.

    Raises
    ------
    ProcessingFailure
        When the file cannot be read.
    """
    images: dict[int, np.ndarray] = {}
    places: dict[str, int] = {}
    with FitsFile(frame.path) as file:
        for amplifier in detector.amplifiers:
            try:
                hdu = amplifier_hdu(file, detector, amplifier)
            except ProcessingFailure:
                continue
            if not hdu.is_image or not amplifier.raw_section.within(Box(0, 0, *hdu.shape[::-1])):
                continue
            if hdu.index not in images:
                images[hdu.index] = file.pixels(hdu)
            places[amplifier.name] = hdu.index
    return DetectorPixels(frame, detector, images, places)


def header_wcs(frame: FrameFile, camera: Camera, detector: Detector) -> Wcs | None:
    """The header's WCS in assembled pixels, or None."""
    if frame.info is None:
        return None
    with FitsFile(frame.path) as file:
        try:
            return header_wcs_of(file, camera, detector, frame.info)[0]
        except ProcessingFailure:
            return None
