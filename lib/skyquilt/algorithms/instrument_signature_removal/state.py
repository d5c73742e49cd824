"""What instrument signature removal works on and returns (LDM-151 8.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms.instrument_signature_removal.calibrations import DetectorCalibrations
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.mask import Mask

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal.config import InstrumentSignatureRemovalConfig
    from skyquilt.instrument.camera import Amplifier, Detector
    from skyquilt.instrument.raw import RawFrame


@dataclass(frozen=True)
class AmplifierFigures:
    """What ISR found of one amplifier.

    Parameters
    ----------
    name : str
    status : str
        `good`, `no_data` (no finite pixel) or `dead` (all pixels equal).
    overscan_level : float
        Mean level of the rows [ADU]; NaN without overscan.
    read_noise : float
        The one used [electron].
    n_saturated : int
        Pixels at or above the saturation level; those bled into and grown ones do not count.
    gain : float
        The one used [electron / ADU].
    gain_source : str
        `photon_transfer` or `definition`.
    offset : float
        Step to its neighbours [electron], to be subtracted; NaN where it was not measured.
    offset_error : float
        [electron].
    offset_applied : bool
    """

    name: str
    status: str
    overscan_level: float
    read_noise: float
    n_saturated: int
    gain: float = float("nan")
    gain_source: str = "definition"
    offset: float = float("nan")
    offset_error: float = float("nan")
    offset_applied: bool = False


@dataclass(frozen=True)
class AssembledFrame:
    """A detector after `assemble` [ADU] or `to_electrons` [electron].

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        NaN where there is no data.
    mask : Mask
    amplifiers : tuple of AmplifierFigures
    steps : dict
        Step -> done, skipped, no_calibration or replaced.
    """

    image: np.ndarray
    mask: Mask
    amplifiers: tuple[AmplifierFigures, ...]
    steps: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class IsrResult:
    """A detector after instrument signature removal.

    Parameters
    ----------
    exposure : Exposure
        [electron].
    amplifiers : tuple of AmplifierFigures
        In the detector's order.
    steps : dict
        Step -> done, skipped, no_calibration or replaced, in the order of the steps.
    fringe_scale, fringe_error : float
        Electrons by which the fringe pattern was multiplied when subtracted, and the standard error; NaN
        without fringe. A scale that is not significant is stated but not used (`fringe_applied`).
    fringe_applied : bool
    """

    exposure: Exposure
    amplifiers: tuple[AmplifierFigures, ...]
    steps: dict[str, str] = field(default_factory=dict)
    fringe_scale: float = float("nan")
    fringe_error: float = float("nan")
    fringe_applied: bool = False


@dataclass
class IsrState:
    """A frame on its way, which a replaced step is called with and changes.

    Parameters
    ----------
    raw : RawFrame
        Sections as stored; not to be changed.
    calibrations : DetectorCalibrations
    config : InstrumentSignatureRemovalConfig
    mode : str
    image : ndarray of float32, shape (ny, nx)
        In the assembled frame from `overscan` on: ADU until the step `bias` is done, then electrons. The gain
        is applied right after that step, replaced or not.
    mask : Mask
    amplifiers : list of AmplifierFigures
        In the detector's order; empty before `overscan`.
    variance : ndarray of float32, shape (ny, nx), or None
        [electron^2]; None in ADU and in `to_electrons`; before the step `variance` the noise without the photons
        of the light, not divided by the flat.
    response : ndarray of float32, shape (ny, nx), or None
        A replaced `flat` may leave here what it divided by, for `variance`.
    steps : dict
        Step -> what became of it.
    fringe_scale, fringe_error, fringe_applied
        As of IsrResult.
    """

    raw: RawFrame
    calibrations: DetectorCalibrations
    config: InstrumentSignatureRemovalConfig
    mode: str
    image: np.ndarray
    mask: Mask
    amplifiers: list[AmplifierFigures] = field(default_factory=list)
    variance: np.ndarray | None = None
    response: np.ndarray | None = None
    steps: dict[str, str] = field(default_factory=dict)
    fringe_scale: float = float("nan")
    fringe_error: float = float("nan")
    fringe_applied: bool = False

    @property
    def detector(self) -> Detector:
        """Of the raw frame."""
        return self.raw.detector

    def stored_view(self, amplifier: Amplifier) -> np.ndarray:
        """Pixels of an amplifier in `image`, in the order of its raw section: a view."""
        return amplifier.from_assembled(self.image)

    @property
    def exposure_time(self) -> float:
        """[s]; ProcessingFailure BAD_HEADER when the frame does not say."""
        value = getattr(self.raw.info, "exposure_time", None)
        if value is None or not np.isfinite(value) or value < 0:
            raise ProcessingFailure(
                Reason.BAD_HEADER, f"exposure time is {value!r}: dark current cannot be subtracted"
            )
        return float(value)

    def info(self) -> dict[str, Any]:
        """What the Exposure carries of the observation, for JSON."""
        return {"detector": self.detector.id} | {name: getattr(self.raw.info, name, None) for name in _INFO}


_INFO = (
    "visit",
    "snap",
    "physical_filter",
    "exposure_time",
    "datetime_begin",
    "datetime_mid",
    "datetime_end",
    "airmass",
    "boresight_ra",
    "boresight_dec",
    "rotation",
    "object",
    "observation_id",
    "instrument",
)
