"""Instrument Signature Removal (LDM-151 8.1): from a raw frame to electrons, mask and variance.

Steps, in this order: saturation, overscan, crosstalk, linearity, assembly [ADU]; bias, dark, brighter_fatter
[electron]; flat, fringe, defects, variance, amplifier_offsets, interpolation. `run_isr` does all of them, `assemble`
the first five, `to_electrons` the next three; `steps` has them in code. docs/instrument_signature.md is the user's page.
"""

from skyquilt.algorithms.instrument_signature_removal.brighter_fatter import (
    covariances_of_kernel,
    kernel_from_covariances,
)
from skyquilt.algorithms.instrument_signature_removal.calibrations import (
    CalibrationPixels,
    DetectorCalibrations,
)
from skyquilt.algorithms.instrument_signature_removal.config import InstrumentSignatureRemovalConfig
from skyquilt.algorithms.instrument_signature_removal.interpolation import (
    InterpolationConfig,
    interpolate_pixels,
)
from skyquilt.algorithms.instrument_signature_removal.replacements import (
    STEPS,
    Replacement,
    load_replacements,
    replacement_file,
)
from skyquilt.algorithms.instrument_signature_removal.state import (
    AmplifierFigures,
    AssembledFrame,
    IsrResult,
    IsrState,
)
from skyquilt.algorithms.instrument_signature_removal.steps import assemble, run_isr, to_electrons

__all__ = [
    "STEPS",
    "AmplifierFigures",
    "AssembledFrame",
    "CalibrationPixels",
    "DetectorCalibrations",
    "InstrumentSignatureRemovalConfig",
    "InterpolationConfig",
    "IsrResult",
    "IsrState",
    "Replacement",
    "assemble",
    "covariances_of_kernel",
    "interpolate_pixels",
    "kernel_from_covariances",
    "load_replacements",
    "replacement_file",
    "run_isr",
    "to_electrons",
]
