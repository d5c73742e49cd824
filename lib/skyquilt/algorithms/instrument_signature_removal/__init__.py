"""Instrument Signature Removal (LDM-151 8.1): from a raw frame to electrons, mask and variance.

Steps, in this order:

1. defects and saturation: pixels that are not finite (NO_DATA and BAD), saturated (SATURATED) and nearly so
   (SUSPECT), in raw ADU before anything is subtracted;
2. overscan: the level of each row from the serial overscan, and the read noise from its scatter;
3. assembly: sections without prescan and overscan, flipped, in their place of the detector (1 to 3 are one
pass); 4. amplifiers that are dead (all pixels equal) or absent: BAD and NO_DATA; the rest goes on;
5. bias subtraction, gain, variance (photon noise of the pixel, read noise, noise of bias and flat), flat
   division; bad flat pixels are BAD and left undivided, dim ones VIGNETTED (one pass);
6. saturation grown by a pixel.

Pixels with NO_DATA are NaN in image and variance; all others are finite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from skyquilt.algorithms.instrument_signature_removal.assembly import assemble_section, grow_bits
from skyquilt.algorithms.instrument_signature_removal.full_frame import correct_section
from skyquilt.algorithms.instrument_signature_removal.overscan import OverscanConfig, fit_overscan
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Amplifier, Detector
    from skyquilt.instrument.raw import RawFrame


@dataclass(frozen=True)
class InstrumentSignatureRemovalConfig:
    """Options of `run_isr`."""

    overscan: OverscanConfig = field(default_factory=OverscanConfig)
    """Model of the serial overscan."""
    measured_read_noise: bool = True
    """Take the read noise from the overscan where there is one, else the camera definition's."""
    suspect_fraction: float = 0.95
    """Pixels above this share of the saturation level are SUSPECT."""
    saturation_grow: int = 1
    """SATURATED is grown by this [pixel]."""
    max_saturated: float = 0.5
    """A frame with a larger share of saturated pixels fails."""
    require_bias: bool = False
    """A frame without a bias fails; otherwise the overscan alone is subtracted."""
    require_flat: bool = False
    """A frame without a flat fails; otherwise the response is taken as uniform."""
    flat_bad_below: float = 0.2
    """Pixels with a lower response are BAD."""
    flat_vignetted_below: float = 0.6
    """Pixels with a lower response are VIGNETTED."""

    def __post_init__(self) -> None:
        if not 0 < self.suspect_fraction <= 1 or not 0 < self.max_saturated <= 1:
            raise ValueError(
                "suspect_fraction and max_saturated must be in 0..1 and positive, got "
                f"{self.suspect_fraction}, {self.max_saturated}"
            )
        if self.saturation_grow < 0:
            raise ValueError(f"saturation_grow must not be negative, got {self.saturation_grow}")
        if not 0 < self.flat_bad_below <= self.flat_vignetted_below:
            raise ValueError(
                "ISR needs 0 < flat_bad_below <= flat_vignetted_below, got "
                f"{self.flat_bad_below}, {self.flat_vignetted_below}"
            )


class CalibrationPixels(Protocol):
    """A combined calibration: an Exposure, or a file of which only some rows are in memory at a time."""

    box: Box

    def subimage(self, box: Box) -> Exposure:
        """Image, mask and variance within a box of the detector."""
        ...


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
        Pixels, before growing.
    """

    name: str
    status: str
    overscan_level: float
    read_noise: float
    n_saturated: int


@dataclass(frozen=True)
class IsrResult:
    """Exposure in electrons, and figures per amplifier in the detector's order."""

    exposure: Exposure
    amplifiers: tuple[AmplifierFigures, ...]


@dataclass(frozen=True)
class AssembledFrame:
    """A detector in ADU without overscan: steps 1 to 4.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        [ADU]; NaN where there is no data.
    mask : Mask
    amplifiers : tuple of AmplifierFigures
    """

    image: np.ndarray
    mask: Mask
    amplifiers: tuple[AmplifierFigures, ...]


def run_isr(
    raw: RawFrame,
    bias: CalibrationPixels | None,
    flat: CalibrationPixels | None,
    config: InstrumentSignatureRemovalConfig,
) -> IsrResult:
    """RunISR (5.1.1.5) on one detector of one snap.

    Parameters
    ----------
    raw : RawFrame
    bias : Exposure, CalibrationPixels or None
        [ADU], from `combine_bias`; asked for some rows at a time.
    flat : Exposure, CalibrationPixels or None
        Response about 1, from `combine_flat`.

    Raises
    ------
    ProcessingFailure
        NO_GOOD_PIXELS when every amplifier is dead or absent, SATURATED_FRAME, NO_CALIBRATION when a required
        calibration is None, WRONG_SHAPE when a calibration or section does not fit the detector.
    """
    _require(bias, config.require_bias, "bias")
    _require(flat, config.require_flat, "flat")
    frame = assemble(raw, config)
    for kind, calibration in (("bias", bias), ("flat", flat)):
        if calibration is not None and calibration.box.shape != frame.image.shape:
            raise ProcessingFailure(
                Reason.WRONG_SHAPE,
                f"{kind} has shape {calibration.box.shape}, the detector {frame.image.shape}",
            )
    variance = _correct(raw.detector, frame, bias, flat, config)
    if config.saturation_grow and any(figures.n_saturated for figures in frame.amplifiers):
        grow_bits(frame.mask.array, frame.mask.bits(["SATURATED"]), config.saturation_grow)
    box = Box(0, 0, raw.detector.nx, raw.detector.ny)
    exposure = Exposure(
        image=frame.image, mask=frame.mask, variance=variance, box=box, unit="electron", info=_info(raw)
    )
    return IsrResult(exposure, frame.amplifiers)


def _correct(
    detector: Detector,
    frame: AssembledFrame,
    bias: CalibrationPixels | None,
    flat: CalibrationPixels | None,
    config: InstrumentSignatureRemovalConfig,
) -> np.ndarray:
    """Step 5, in place, a few rows at a time; the variance [electron^2]."""
    variance = np.full_like(frame.image, np.nan)
    bad, vignetted = frame.mask.bits(["BAD"]), frame.mask.bits(["VIGNETTED"])
    for start in range(0, detector.ny, _ROWS):
        strip = Box(0, start, detector.nx, min(_ROWS, detector.ny - start))
        planes = (*_planes(bias, strip), *_planes(flat, strip))
        for amplifier, figures in zip(detector.amplifiers, frame.amplifiers):
            box = amplifier.data.overlap(strip)
            if box is None:
                continue
            part, inside = box.slices(), box.slices(strip)
            correct_section(
                frame.image[part],
                frame.mask.array[part],
                variance[part],
                *(plane[inside] if plane.size else plane for plane in planes),
                float(amplifier.gain),
                float(figures.read_noise),
                float(config.flat_bad_below),
                float(config.flat_vignetted_below),
                bad,
                vignetted,
            )
    return variance


def assemble(raw: RawFrame, config: InstrumentSignatureRemovalConfig) -> AssembledFrame:
    """Steps 1 to 4: mask, overscan and assembly, in ADU; failures as of `run_isr`."""
    shape = (raw.detector.ny, raw.detector.nx)
    image = np.full(shape, np.nan, dtype=np.float32)
    mask = Mask.blank(shape)
    covered = np.zeros(shape, dtype=bool)
    figures = []
    for amplifier in raw.detector.amplifiers:
        covered[amplifier.data.slices()] = True
        figures.append(_assemble_amplifier(raw, amplifier, image, mask, config))
    if not covered.all():
        mask.set(["BAD", "NO_DATA"], ~covered)
    if not any(each.status == "good" for each in figures):
        states = ", ".join(f"{each.name} {each.status}" for each in figures)
        raise ProcessingFailure(Reason.NO_GOOD_PIXELS, f"no amplifier has usable pixels: {states}")
    saturated = sum(each.n_saturated for each in figures) / image.size
    if saturated > config.max_saturated:
        raise ProcessingFailure(
            Reason.SATURATED_FRAME,
            f"{saturated:.1%} of the pixels are saturated (limit {config.max_saturated:.0%})",
        )
    return AssembledFrame(image, mask, tuple(figures))


def _assemble_amplifier(
    raw: RawFrame,
    amplifier: Amplifier,
    image: np.ndarray,
    mask: Mask,
    config: InstrumentSignatureRemovalConfig,
) -> AmplifierFigures:
    """Put one amplifier into the detector's image and mask; says how it went."""
    nominal = float(amplifier.read_noise)
    part = amplifier.data.slices()
    section = raw.amplifiers.get(amplifier.name)
    if section is None:
        mask.set(["BAD", "NO_DATA"], part)
        return AmplifierFigures(amplifier.name, "no_data", float("nan"), nominal, 0)
    if section.shape != amplifier.raw_section.shape:
        raise ProcessingFailure(
            Reason.WRONG_SHAPE,
            f"amplifier {amplifier.name} has shape {section.shape}, expected {amplifier.raw_section.shape}",
        )
    level, overscan_level, read_noise = _row_levels(section, amplifier, config)
    if not (config.measured_read_noise and read_noise > 0):
        read_noise = nominal
    good, saturated, lowest, highest = assemble_section(
        section[amplifier.raw_data.slices()],
        level,
        float(amplifier.saturation),
        config.suspect_fraction * amplifier.saturation,
        mask.bits(["BAD", "NO_DATA"]),
        mask.bits(["SATURATED"]),
        mask.bits(["SUSPECT"]),
        _flipped(image[part], amplifier),
        _flipped(mask.array[part], amplifier),
    )
    status = "good" if good else "no_data"
    if good > 1 and lowest == highest and not saturated:
        status = "dead"
        image[part] = np.nan
        mask.set(["BAD", "NO_DATA"], part)
    return AmplifierFigures(amplifier.name, status, overscan_level, read_noise, int(saturated))


def _row_levels(
    section: np.ndarray, amplifier: Amplifier, config: InstrumentSignatureRemovalConfig
) -> tuple[np.ndarray, float, float]:
    """Level of the data rows [ADU], its mean (NaN without overscan) and the read noise [electron]."""
    data, overscan = amplifier.raw_data, amplifier.raw_overscan
    none = np.zeros(data.ny), float("nan"), float("nan")
    if overscan is None:
        return none
    pixels = section[overscan.slices()]
    skip = min(config.overscan.skip, max(pixels.shape[1] - 1, 0))
    # late charge is in the columns next to the data
    pixels = pixels[:, skip:] if overscan.x0 >= data.x1 else pixels[:, : pixels.shape[1] - skip]
    fit = fit_overscan(pixels, config.overscan, overscan.y0, np.arange(data.y0, data.y1))
    if not np.isfinite(fit.level).all():
        return none
    return fit.level, float(fit.level.mean()), fit.read_noise * float(amplifier.gain)


def _flipped(array: np.ndarray, amplifier: Amplifier) -> np.ndarray:
    """View in the order of the raw section."""
    return array[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]


def _planes(calibration: CalibrationPixels | None, strip: Box) -> tuple[np.ndarray, np.ndarray]:
    """Image and variance of a calibration in some rows; empty arrays for None."""
    if calibration is None:
        return _EMPTY, _EMPTY
    pixels = calibration.subimage(strip)
    image = pixels.image
    bad = pixels.mask.any(["BAD", "NO_DATA"])
    if bad.any():
        image = np.where(bad, np.float32(np.nan), image)
    return image, pixels.variance


_ROWS = 128
_EMPTY = np.empty((0, 0), dtype=np.float32)


def _require(calibration: CalibrationPixels | None, required: bool, kind: str) -> None:
    if required and calibration is None:
        raise ProcessingFailure(Reason.NO_CALIBRATION, f"no {kind} for this detector and filter")


def _info(raw: RawFrame) -> dict[str, Any]:
    """What the Exposure carries of the observation, for JSON."""
    names = (
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
    return {"detector": raw.detector.id, **{name: getattr(raw.info, name, None) for name in names}}
