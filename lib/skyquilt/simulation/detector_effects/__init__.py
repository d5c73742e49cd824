"""Simulation (design 7): what telescope, detectors and electronics do to light, and the truth about it.

Light meets vignetting, dust and unequal pixels with boundaries displaced by rings of the crystal; charge that
gathers moves boundaries further, particles and full wells add to it; transfers, gain, nonlinearity, crosstalk,
bias and noise follow on the way out.
"""

from skyquilt.simulation.detector_effects.amplifiers import (
    ADC_MAXIMUM,
    LinearityCurve,
    TrueAmplifier,
    compressed,
    row_drift,
    true_amplifiers,
)
from skyquilt.simulation.detector_effects.charge import ChargeEvent, Collected, collect, spill_full_wells
from skyquilt.simulation.detector_effects.config import DetectorEffectsConfig
from skyquilt.simulation.detector_effects.cosmic_rays import add_cosmic_rays
from skyquilt.simulation.detector_effects.read_out import read_out
from skyquilt.simulation.detector_effects.streams import effect_stream
from skyquilt.simulation.detector_effects.true_detector import TrueDetector, true_detector

__all__ = [
    "ADC_MAXIMUM",
    "ChargeEvent",
    "Collected",
    "DetectorEffectsConfig",
    "LinearityCurve",
    "TrueAmplifier",
    "TrueDetector",
    "add_cosmic_rays",
    "collect",
    "compressed",
    "effect_stream",
    "read_out",
    "row_drift",
    "spill_full_wells",
    "true_amplifiers",
    "true_detector",
]
