"""The steps of instrument signature removal (LDM-151 8.1) in their order, for one detector of one snap.

Steps that pass over the same pixels are done together where they stand side by side: saturation, overscan and
assembly; crosstalk and linearity; bias, gain and dark; flat and variance. Calibrations are read some rows at a
time. In memory are image, mask and variance, and a strip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.algorithms.instrument_signature_removal.amplifier_offsets import subtract_offsets
from skyquilt.algorithms.instrument_signature_removal.assembly import assemble_amplifier
from skyquilt.algorithms.instrument_signature_removal.brighter_fatter import correct_frame
from skyquilt.algorithms.instrument_signature_removal.calibrations import DetectorCalibrations
from skyquilt.algorithms.instrument_signature_removal.config import MODES, InstrumentSignatureRemovalConfig
from skyquilt.algorithms.instrument_signature_removal.crosstalk import correct_crosstalk_and_linearity
from skyquilt.algorithms.instrument_signature_removal.fringe import subtract_fringe
from skyquilt.algorithms.instrument_signature_removal.full_frame import calibrate_charge, flat_and_variance
from skyquilt.algorithms.instrument_signature_removal.interpolation import interpolate_pixels
from skyquilt.algorithms.instrument_signature_removal.replacements import STEPS, Replacement
from skyquilt.algorithms.instrument_signature_removal.saturation import mark_trails
from skyquilt.algorithms.instrument_signature_removal.state import (
    AssembledFrame,
    IsrResult,
    IsrState,
)
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

if TYPE_CHECKING:
    from skyquilt.instrument.raw import RawFrame

_NO_REPLACEMENTS: Mapping[str, Replacement] = {}

TO_ADU = STEPS[: STEPS.index("assembly") + 1]
"""Steps of `assemble`."""
TO_ELECTRONS = STEPS[STEPS.index("bias") : STEPS.index("flat")]
"""Steps of `to_electrons`."""


def run_isr(
    raw: RawFrame,
    calibrations: DetectorCalibrations,
    config: InstrumentSignatureRemovalConfig,
    mode: str | None = None,
    replacements: Mapping[str, Replacement] = _NO_REPLACEMENTS,
) -> IsrResult:
    """RunISR (5.1.1.5) on one detector of one snap: all steps, from raw ADU to electrons, mask and variance.

    Parameters
    ----------
    raw : RawFrame
        Not changed.
    calibrations : DetectorCalibrations
        Pixel calibrations are asked for some rows at a time.
    config : InstrumentSignatureRemovalConfig
    mode : str
        `full`, or `fast`, which leaves out `config.fast_skip` too; by default `config.mode`.
    replacements : mapping of step to callable
        Of `load_replacements`, for the steps in `config.replace`.

    Returns
    -------
    IsrResult
        Pixels of amplifiers without data are NaN in image and variance; all others are finite.

    Raises
    ------
    ProcessingFailure
        NO_GOOD_PIXELS when every amplifier is dead or absent, SATURATED_FRAME, NO_CALIBRATION when a required
        calibration is None, WRONG_SHAPE when a calibration or section does not fit the detector, BAD_HEADER when
        there is a dark and no exposure time.
    ValueError
        When the mode does not exist, or a replaced step was not loaded.
    """
    for kind in config.require:
        if getattr(calibrations, kind) is None:
            raise ProcessingFailure(Reason.NO_CALIBRATION, f"no {kind} for this detector")
    run = _Run(raw, calibrations, config, mode, replacements)
    run.to_adu()
    run.to_electrons(noise=True)
    run.to_exposure()
    return run.result()


def assemble(
    raw: RawFrame,
    calibrations: DetectorCalibrations,
    config: InstrumentSignatureRemovalConfig,
    mode: str | None = None,
    replacements: Mapping[str, Replacement] = _NO_REPLACEMENTS,
) -> AssembledFrame:
    """The steps saturation, overscan, crosstalk, linearity and assembly: linearized ADU above overscan.

    Of the calibrations `crosstalk` and `linearizer` are used, and `photon_transfer` for gain, read noise and full
    well; not bias, dark and flat. Without a measured linearizer the coefficients of the camera definition are
    used; whoever measures linearity adds `linearity` to `config.skip` and has levels as stored. The pixels of an
    amplifier are ``image[amplifier.data.slices()]``. Parameters and failures as of `run_isr`.
    """
    run = _Run(raw, calibrations, config, mode, replacements)
    run.to_adu()
    return run.frame()


def to_electrons(
    raw: RawFrame,
    frame: AssembledFrame,
    calibrations: DetectorCalibrations,
    config: InstrumentSignatureRemovalConfig,
    mode: str | None = None,
    replacements: Mapping[str, Replacement] = _NO_REPLACEMENTS,
) -> AssembledFrame:
    """The steps bias (with the gain), dark and brighter_fatter on an assembled frame: electrons before the flat.

    Parameters
    ----------
    raw : RawFrame
        The frame's, for the detector and the exposure time; its pixels are not used.
    frame : AssembledFrame
        Of `assemble` with the same calibrations; its image and mask are changed.

    Returns
    -------
    AssembledFrame
        The same arrays [electron]; failures as of `run_isr`.
    """
    run = _Run(raw, calibrations, config, mode, replacements, frame)
    run.to_electrons(noise=False)
    return run.frame()


class _Run:
    """One frame through the steps."""

    def __init__(
        self,
        raw: RawFrame,
        calibrations: DetectorCalibrations,
        config: InstrumentSignatureRemovalConfig,
        mode: str | None,
        replacements: Mapping[str, Replacement],
        frame: AssembledFrame | None = None,
    ) -> None:
        mode = config.mode if mode is None else mode
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        not_loaded = [step for step in config.replace if step not in replacements]
        if not_loaded:
            raise ValueError(f"replaced steps {', '.join(not_loaded)} were not loaded (load_replacements)")
        self.skipped = {*config.skip, *(config.fast_skip if mode == "fast" else ())}
        self.replacements = replacements
        calibrations.check(raw.detector)
        shape = (raw.detector.ny, raw.detector.nx)
        image = np.full(shape, np.nan, dtype=np.float32) if frame is None else frame.image
        mask = Mask.blank(shape) if frame is None else frame.mask
        self.state = IsrState(raw, calibrations, config, mode, image, mask)
        if frame is not None:
            self.state.amplifiers = list(frame.amplifiers)
            self.state.steps = dict(frame.steps)

    def frame(self) -> AssembledFrame:
        """The state as AssembledFrame."""
        state = self.state
        return AssembledFrame(state.image, state.mask, tuple(state.amplifiers), self._steps())

    def result(self) -> IsrResult:
        """The state as IsrResult."""
        state = self.state
        exposure = Exposure(
            image=state.image,
            mask=state.mask,
            variance=state.variance,
            box=Box(0, 0, state.detector.nx, state.detector.ny),
            unit="electron",
            info=state.info(),
        )
        return IsrResult(
            exposure,
            tuple(state.amplifiers),
            self._steps(),
            state.fringe_scale,
            state.fringe_error,
            state.fringe_applied,
        )

    def _steps(self) -> dict[str, str]:
        return {step: self.state.steps[step] for step in STEPS if step in self.state.steps}

    def _own(self, step: str, there: bool = True) -> bool:
        """Whether a step is ours to do, which is noted; `there`: whether its calibration is."""
        if step in self.skipped:
            self.state.steps[step] = "skipped"
        elif step in self.replacements:
            self.state.steps[step] = "replaced"
        else:
            self.state.steps[step] = "done" if there else "no_calibration"
        return self.state.steps[step] == "done"

    def _call(self, *steps: str) -> None:
        """Replaced steps, at their place."""
        for step in steps:
            if self.state.steps[step] == "replaced":
                self.replacements[step](self.state)

    # ADU

    def to_adu(self) -> None:
        """saturation ... assembly."""
        state, raw = self.state, self.state.raw
        saturation = self._own("saturation")
        overscan = self._own("overscan")
        levels = [assemble_amplifier(state, each, saturation, overscan) for each in raw.detector.amplifiers]
        self._check_assembled()
        if saturation:
            mark_trails(
                state.image,
                state.mask,
                raw.detector,
                np.array(levels),
                sum(each.n_saturated for each in state.amplifiers),
                state.config.saturation,
            )
        self._call("saturation", "overscan")
        linearizer = state.calibrations.linearizer_of(raw.detector)
        crosstalk = self._own("crosstalk", state.calibrations.crosstalk is not None)
        linearity = self._own("linearity", linearizer is not None)
        self._call("crosstalk")
        if crosstalk or linearity:
            correct_crosstalk_and_linearity(
                state.image,
                state.mask.array,
                raw.detector,
                state.calibrations.crosstalk if crosstalk else None,
                linearizer if linearity else None,
                state.config.crosstalk,
                np.array([each.read_noise for each in state.amplifiers]),
                np.array([each.gain for each in state.amplifiers]),
                state.mask.bits(["CROSSTALK"]),
            )
        self._call("linearity")
        state.steps["assembly"] = "done"

    def _check_assembled(self) -> None:
        state = self.state
        covered = np.zeros(state.image.shape, dtype=bool)
        for amplifier in state.detector.amplifiers:
            covered[amplifier.data.slices()] = True
        if not covered.all():
            state.mask.set(["BAD", "NO_DATA"], ~covered)
        if not any(each.status == "good" for each in state.amplifiers):
            states = ", ".join(f"{each.name} {each.status}" for each in state.amplifiers)
            raise ProcessingFailure(Reason.NO_GOOD_PIXELS, f"no amplifier has usable pixels: {states}")
        share = sum(each.n_saturated for each in state.amplifiers) / state.image.size
        limit = state.config.saturation.max_saturated
        if share > limit:
            raise ProcessingFailure(
                Reason.SATURATED_FRAME, f"{share:.1%} of the pixels are saturated (limit {limit:.0%})"
            )

    # electrons before the flat

    def to_electrons(self, noise: bool) -> None:
        """bias, dark, brighter_fatter."""
        state = self.state
        calibrations = state.calibrations
        bias = calibrations.bias if self._own("bias", calibrations.bias is not None) else None
        dark = calibrations.dark if self._own("dark", calibrations.dark is not None) else None
        self._call("bias")
        calibrate_charge(state, bias, dark, noise)
        self._call("dark")
        if self._own("brighter_fatter", calibrations.brighter_fatter is not None):
            correct_frame(state)
        self._call("brighter_fatter")

    # the exposure

    def to_exposure(self) -> None:
        """flat ... interpolation."""
        state = self.state
        calibrations = state.calibrations
        flat = calibrations.flat if self._own("flat", calibrations.flat is not None) else None
        fringe = self._own("fringe", calibrations.fringe is not None)
        # the definition's hold without any calibration frame too
        known = calibrations.defects is not None or bool(state.detector.defects)
        defects = self._own("defects", known)
        variance = self._own("variance")
        self._call("flat")
        if defects:
            # before their place: neither variance nor fringe should look at them
            _mark_defects(state)
        # before its place: fringes are light, and their photons are in the variance
        flat_and_variance(state, flat, variance)
        if fringe:
            subtract_fringe(state, calibrations.fringe)
        self._call("fringe", "defects", "variance")
        if self._own("amplifier_offsets"):
            subtract_offsets(state)
        self._call("amplifier_offsets")
        if self._own("interpolation"):
            planes = state.config.interpolation.planes
            interpolate_pixels(
                state.image, state.mask, state.variance, state.mask.any(planes), state.config.interpolation
            )
        self._call("interpolation")


def _mark_defects(state: IsrState) -> None:
    bad = np.int32(state.mask.bits(["BAD"]))
    found = state.calibrations.defects
    boxes = [Box(*box) for box in found.boxes.tolist()] if found is not None else []
    for box in (*boxes, *state.detector.defects):
        inside = box.overlap(state.detector.box)
        if inside is not None:
            state.mask.array[inside.slices()] |= bad
