"""Options of instrument signature removal (LDM-151 8.1): one section `isr` for all stages that run it."""

from __future__ import annotations

from dataclasses import dataclass, field

from skyquilt.algorithms.instrument_signature_removal.amplifier_offsets import AmplifierOffsetsConfig
from skyquilt.algorithms.instrument_signature_removal.brighter_fatter import BrighterFatterConfig
from skyquilt.algorithms.instrument_signature_removal.crosstalk import CrosstalkConfig
from skyquilt.algorithms.instrument_signature_removal.fringe import FringeConfig
from skyquilt.algorithms.instrument_signature_removal.full_frame import FlatConfig, VarianceConfig
from skyquilt.algorithms.instrument_signature_removal.interpolation import InterpolationConfig
from skyquilt.algorithms.instrument_signature_removal.overscan import OverscanConfig
from skyquilt.algorithms.instrument_signature_removal.replacements import check_steps
from skyquilt.algorithms.instrument_signature_removal.saturation import SaturationConfig

MODES = ("full", "fast")
CALIBRATION_KINDS = (
    "bias",
    "dark",
    "flat",
    "fringe",
    "crosstalk",
    "linearizer",
    "photon_transfer",
    "brighter_fatter",
    "defects",
)


@dataclass(frozen=True)
class InstrumentSignatureRemovalConfig:
    """Instrument signature removal, of science and calibration frames alike."""

    saturation: SaturationConfig = field(default_factory=SaturationConfig)
    """Saturated and bled pixels."""
    overscan: OverscanConfig = field(default_factory=OverscanConfig)
    """Model of the electronic level, and the read noise."""
    crosstalk: CrosstalkConfig = field(default_factory=CrosstalkConfig)
    """Crosstalk between amplifiers, and linearity."""
    brighter_fatter: BrighterFatterConfig = field(default_factory=BrighterFatterConfig)
    """The brighter-fatter correction."""
    flat: FlatConfig = field(default_factory=FlatConfig)
    """Pixels of low response."""
    fringe: FringeConfig = field(default_factory=FringeConfig)
    """Scale of the fringe pattern."""
    variance: VarianceConfig = field(default_factory=VarianceConfig)
    """Variance of the pixels."""
    amplifier_offsets: AmplifierOffsetsConfig = field(default_factory=AmplifierOffsetsConfig)
    """Steps between neighbouring amplifiers."""
    interpolation: InterpolationConfig = field(default_factory=InterpolationConfig)
    """Interpolation of bad pixels."""
    mode: str = "full"
    """`full`, or `fast` for alert production, which leaves out the steps of `fast_skip` too."""
    skip: tuple[str, ...] = ()
    """Steps left out (docs/instrument_signature.md has the names)."""
    fast_skip: tuple[str, ...] = ("brighter_fatter", "fringe", "amplifier_offsets")
    """Steps left out besides in the fast mode."""
    replace: dict[str, str] = field(default_factory=dict)
    """Steps done by a class of a file in the survey directory: step -> FILE.py:CLASS."""
    require: tuple[str, ...] = ()
    """Calibrations (bias, dark, flat ...) without which a frame fails; otherwise their step is left out."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        check_steps(self.skip, "skip")
        check_steps(self.fast_skip, "fast_skip")
        check_steps(self.replace, "replace")
        for kind in self.require:
            if kind not in CALIBRATION_KINDS:
                raise ValueError(
                    f"require: no calibration {kind!r}; the kinds are {', '.join(CALIBRATION_KINDS)}"
                )
        if "assembly" in (*self.skip, *self.fast_skip, *self.replace):
            raise ValueError(
                "the step assembly can neither be skipped nor replaced: the camera definition says how"
            )
