"""Calibrations of one detector (LDM-151 4.1.2, 8.1): what instrument signature removal may be given."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

import numpy as np

from skyquilt.primitives.detector_characterization import (
    BrighterFatterKernel,
    Crosstalk,
    Defects,
    Linearizer,
    PhotonTransfer,
)
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Amplifier, Detector
    from skyquilt.primitives.exposure import Exposure

PIXEL_KINDS = ("bias", "dark", "flat", "fringe")
"""Calibrations that have a value for each pixel."""
ROWS = 256
"""Rows of a pixel calibration that are in memory at a time."""
EMPTY = np.empty((0, 0), dtype=np.float32)
"""Stands for an image that is not there."""
AMPLIFIER_KINDS = ("crosstalk", "linearizer", "photon_transfer", "brighter_fatter")
"""Calibrations that have numbers for each amplifier."""


class CalibrationPixels(Protocol):
    """A combined calibration: an Exposure, or a file of which only some rows are in memory at a time."""

    box: Box

    def subimage(self, box: Box) -> Exposure:
        """Image, mask and variance within a box of the detector."""
        ...


@dataclass(frozen=True)
class DetectorCalibrations:
    """The calibrations of one detector; a step whose calibration is None is left out.

    Parameters
    ----------
    bias : CalibrationPixels, optional
        Linearized ADU above the overscan.
    dark : CalibrationPixels, optional
        [electron / s].
    flat : CalibrationPixels, optional
        Response, with median 1 over the detector.
    fringe : CalibrationPixels, optional
        Pattern of mean 0, electrons per electron of sky; its scale is fitted in each image.
    crosstalk, linearizer, photon_transfer, brighter_fatter, defects : component, optional
        Of `primitives.detector_characterization`.
    """

    bias: CalibrationPixels | None = None
    dark: CalibrationPixels | None = None
    flat: CalibrationPixels | None = None
    fringe: CalibrationPixels | None = None
    crosstalk: Crosstalk | None = None
    linearizer: Linearizer | None = None
    photon_transfer: PhotonTransfer | None = None
    brighter_fatter: BrighterFatterKernel | None = None
    defects: Defects | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of those that are there."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name) is not None)

    def check(self, detector: Detector) -> None:
        """Raise ProcessingFailure WRONG_SHAPE when one does not fit a detector: another size, or an amplifier missing."""
        shape = (detector.ny, detector.nx)
        for kind in PIXEL_KINDS:
            pixels = getattr(self, kind)
            if pixels is not None and pixels.box.shape != shape:
                raise ProcessingFailure(
                    Reason.WRONG_SHAPE, f"{kind} has shape {pixels.box.shape}, the detector {shape}"
                )
        for kind in AMPLIFIER_KINDS:
            component = getattr(self, kind)
            missing = set(detector.amplifier_names) - set(() if component is None else component.amplifiers)
            if component is not None and missing:
                raise ProcessingFailure(
                    Reason.WRONG_SHAPE,
                    f"{kind} has amplifiers {', '.join(component.amplifiers)}, "
                    f"the detector has {', '.join(sorted(missing))} besides",
                )

    def linearizer_of(self, detector: Detector) -> Linearizer | None:
        """The measured one, else that of the camera definition's coefficients, else None."""
        if self.linearizer is not None:
            return self.linearizer
        if not any(any(amplifier.linearity) for amplifier in detector.amplifiers):
            return None
        return Linearizer.from_polynomials(
            detector.amplifier_names, [amplifier.linearity for amplifier in detector.amplifiers]
        )

    def gain(self, amplifier: Amplifier) -> tuple[float, str]:
        """Gain [electron / ADU] and its source: `photon_transfer` where finite and positive, else `definition`."""
        measured = self.measured("gain", amplifier)
        if measured > 0:
            return measured, "photon_transfer"
        return float(amplifier.gain), "definition"

    def measured(self, name: str, amplifier: Amplifier) -> float:
        """A number of the photon transfer (`gain`, `read_noise`, `full_well` ...) of an amplifier, or NaN."""
        if self.photon_transfer is None or amplifier.name not in self.photon_transfer.amplifiers:
            return float("nan")
        number = self.photon_transfer.amplifiers.index(amplifier.name)
        value = float(getattr(self.photon_transfer, name)[number])
        return value if np.isfinite(value) else float("nan")


def strips_of(box: Box, rows: int | None = None) -> list[Box]:
    """A box cut into strips of some rows (by default ROWS)."""
    rows = rows or ROWS
    return [Box(box.x0, y0, box.nx, min(rows, box.y1 - y0)) for y0 in range(box.y0, box.y1, rows)]


def planes_of(calibration: CalibrationPixels | None, strip: Box) -> tuple[np.ndarray, np.ndarray]:
    """Image, NaN where its mask is bad, and variance of a calibration in some rows; empty arrays for None."""
    if calibration is None:
        return EMPTY, EMPTY
    pixels = calibration.subimage(strip)
    image = pixels.image
    bad = pixels.mask.array & np.int32(pixels.mask.bits(["BAD", "NO_DATA"]))
    if bad.any():
        image = np.where(bad, np.float32(np.nan), image)
    return image, pixels.variance
