"""Simulation (design 7): what the instrument does to light and charge, and how much of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field


def _fringes() -> Mapping[str, float]:
    return {"u": 0.0, "g": 0.0, "r": 0.0, "i": 0.012, "z": 0.018, "y": 0.02}


@dataclass(frozen=True)
class DetectorEffectsConfig:
    """Effects of telescope, detectors and electronics. 0 or False switches an effect off."""

    gain_scatter: float = 0.05
    """Relative scatter of true gains about the camera definition's, the laboratory's."""

    read_noise_scatter: float = 0.05
    """Relative scatter of true read noises about the camera definition's."""

    bias_level: float = 1000.0
    """Mean bias level of the amplifiers; each differs by up to 5 % [ADU]."""

    bias_drift: float = 1.0
    """Wandering of the bias level from row to row, standard deviation over a read-out [ADU]."""

    bias_structure: float = 3.0
    """Height of the fixed pattern in a bias frame: columns and a glow where read-out begins [ADU]."""

    dark_current: float = 0.05
    """Median dark current [e/s]."""

    dark_scatter: float = 0.3
    """Scatter of the logarithm of the dark current from pixel to pixel."""

    hot_pixels: float = 2e-4
    """Share of pixels with a dark current of 2 to 500 e/s, uniform in its logarithm."""

    dead_pixels: float = 2e-4
    """Share of pixels whose response is below a half."""

    bad_columns: float = 1.0
    """Mean number per amplifier of columns of each kind, dead, hot and trapping, from some row onwards."""

    pixel_response: float = 0.01
    """Relative scatter of the pixels' response."""

    vignetting: float = 0.12
    """Relative loss of light at the edge of the focal plane, growing as radius^3."""

    dust: float = 4.0
    """Grains of dust, each an annular shadow of 1 to 5 % [cm^-2]."""

    tree_rings: float = 0.015
    """Largest displacement of pixel boundaries by the rings of the crystal [pixel]."""

    fringes: Mapping[str, float] = field(default_factory=_fringes)
    """Height of the fringes by band, relative to the sky; a band that is not named has none."""

    fringe_scatter: float = 0.2
    """Relative scatter of the fringes' height from visit to visit (the lines of the night sky change)."""

    flat_illumination: float = 0.01
    """Relative difference of a dome flat's light from a uniform one over the focal plane, largest."""

    lamp_jitter: float = 5e-4
    """Relative scatter of the lamp of dome flats from exposure to exposure."""

    photon_noise: bool = True
    """Draw photons; otherwise pixels hold their expectation (rounded to ADU)."""

    brighter_fatter_serial: float = 4.4e-7
    """Shift of a pixel's boundary along the row by an electron in that pixel; LSST's CCDs have about this
    [pixel/e]."""

    brighter_fatter_parallel: float = 5.6e-7
    """The same along the column [pixel/e]."""

    brighter_fatter_slope: float = 2.2
    """Shifts fall as distance to the minus this power; covariances of flats fall one power faster."""

    brighter_fatter_range: int = 6
    """Distance over which charge moves boundaries [pixel]."""

    brighter_fatter_steps: int = 3
    """Steps in which charge gathers."""

    full_well: float = 1.05
    """Charge a pixel holds, stored, in units of the camera definition's saturation above bias."""

    bleeding: bool = True
    """Charge over full well spills along columns; otherwise it is lost."""

    cosmic_rays: float = 1.5
    """Charged particles [cm^-2 min^-1]."""

    cosmic_ray_worms: float = 0.2
    """Share of them that are slow electrons: curling tracks and faint spots; the others are muons."""

    silicon_thickness: float = 100.0
    """Depth of the silicon in which they leave charge [micron]."""

    charge_diffusion: float = 0.4
    """Width to which charge from the whole depth spreads until it is collected [pixel]."""

    cti_serial: float = 5e-7
    """Share of the charge that a transfer along the row leaves behind."""

    cti_parallel: float = 2e-7
    """Share of the charge that a transfer along the column leaves behind."""

    nonlinearity: float = 0.01
    """Relative loss of signal at full well; each amplifier has a curve of its own."""

    crosstalk: float = 5e-4
    """Largest crosstalk between amplifiers of a detector; each pair has its own between 0.4 of it and all
    of it, of either sign."""

    truth_images: int = 1
    """Visits per band whose expected images are kept with the truth."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Mapping):
                continue
            if value < 0:
                raise ValueError(f"{item.name} must not be negative, got {value}")
        for name, most in _AT_MOST.items():
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, got {getattr(self, name)}")
        for name in ("bias_level", "full_well", "silicon_thickness", "brighter_fatter_slope"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 1 <= self.brighter_fatter_range <= 16 or not 1 <= self.brighter_fatter_steps <= 100:
            raise ValueError(
                "brighter_fatter_range must be in 1..16 and brighter_fatter_steps in 1..100, "
                f"got {self.brighter_fatter_range} and {self.brighter_fatter_steps}"
            )
        for band, height in self.fringes.items():
            if not 0 <= height <= 0.3:
                raise ValueError(f"fringes of band {band!r} must be in 0..0.3, got {height}")

    @property
    def brighter_fatter(self) -> bool:
        """Whether charge moves boundaries at all."""
        return self.brighter_fatter_serial > 0 or self.brighter_fatter_parallel > 0

    @classmethod
    def none(cls, **changes: object) -> DetectorEffectsConfig:
        """An ideal instrument: bias level, read noise and full well are left, nothing else."""
        off = dict.fromkeys(_EFFECTS, 0.0) | {"bleeding": False, "photon_noise": False, "fringes": {}}
        return cls(**(off | {"truth_images": 0} | changes))


_EFFECTS = (
    "gain_scatter",
    "read_noise_scatter",
    "bias_drift",
    "bias_structure",
    "dark_current",
    "hot_pixels",
    "dead_pixels",
    "bad_columns",
    "pixel_response",
    "vignetting",
    "dust",
    "tree_rings",
    "fringe_scatter",
    "flat_illumination",
    "lamp_jitter",
    "brighter_fatter_serial",
    "brighter_fatter_parallel",
    "cosmic_rays",
    "cti_serial",
    "cti_parallel",
    "nonlinearity",
    "crosstalk",
)

_AT_MOST = {
    "gain_scatter": 0.3,
    "vignetting": 0.89,
    "hot_pixels": 0.1,
    "dead_pixels": 0.1,
    "tree_rings": 0.2,
    "flat_illumination": 0.5,
    "lamp_jitter": 0.1,
    "fringe_scatter": 0.3,
    "brighter_fatter_serial": 1e-5,
    "brighter_fatter_parallel": 1e-5,
    "cosmic_ray_worms": 1.0,
    "charge_diffusion": 3.0,
    "cti_serial": 1e-3,
    "cti_parallel": 1e-3,
    "nonlinearity": 0.1,
    "crosstalk": 0.05,
}
