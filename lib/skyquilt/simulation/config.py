"""Simulation (design 7): what a simulated survey is made of."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from skyquilt.simulation.magnitudes import CATALOGUE_BANDS


def _per_band(**values: float) -> Mapping[str, float]:
    return field(default_factory=lambda: dict(values))


@dataclass(frozen=True)
class SimulationConfig:
    """Options of a simulated survey; everything else is the camera's."""

    seed: int = 20260101
    """Seed of the survey; each unit of work draws from (seed, kind, visit, detector)."""

    field_ra: float = 150.0
    """Right ascension of the field's centre, ICRS [deg]."""

    field_dec: float = 1.4876
    """Declination of the field's centre, ICRS, within 85 deg of the equator; a sky map of 120 rings has an
    edge between tracts here [deg]."""

    n_visits: int = 6
    """Number of science visits."""

    bands: tuple[str, ...] = ("r", "g", "i")
    """Bands of the visits, taken in turn."""

    dither_radius: float = 40.0
    """Boresights lie uniformly within this distance of the field's centre [arcsec]."""

    rotations: tuple[float, ...] = (0.0, 1.5, -2.0)
    """Position angles of focal plane +y, east of north, one after the other [deg]."""

    start_date: str = "2026-01-01"
    """UTC date of the first night, ISO; the night's number in visit ids is YYMMDD."""

    visits_per_night: int = 50
    """Science visits of a night."""

    days_between_nights: int = 1
    """Distance of successive nights [day]."""

    exposure_time: float = 30.0
    """Open-shutter time of a science visit [s]."""

    airmass_range: tuple[float, float] = (1.0, 1.4)
    """Airmass of a visit is uniform between these."""

    n_bias: int = 5
    """Bias frames, all detectors."""

    n_dark: int = 0
    """Dark frames of the exposure time of a visit, all detectors."""

    n_flat: int = 3
    """Dome flats per band, all detectors."""

    flat_level: float = 30000.0
    """Signal of a dome flat where the response is one [e]."""

    star_density: float = 15.0
    """Stars [arcmin^-2]."""

    star_magnitudes: tuple[float, float] = (15.0, 24.0)
    """Brightest and faintest r magnitude of stars [AB mag]."""

    star_slope: float = 0.2
    """Number counts of stars go as 10^(slope m)."""

    galaxy_density: float = 18.0
    """Galaxies [arcmin^-2]."""

    galaxy_magnitudes: tuple[float, float] = (18.0, 24.5)
    """Brightest and faintest r magnitude of galaxies [AB mag]."""

    galaxy_slope: float = 0.35
    """Number counts of galaxies go as 10^(slope m)."""

    galaxy_half_light_radius: float = 0.6
    """Median half-light radius of galaxies at r = 22; it shrinks by 10 % a magnitude [arcsec]."""

    galaxy_ellipticity: float = 0.25
    """Rayleigh width of the galaxies' reduced shear |g|, cut at 0.7."""

    proper_motion: float = 5.0
    """Width of the stars' proper motions per axis; 0 switches motion off [mas/yr]."""

    parallax: float = 0.5
    """Exponential scale of the stars' parallaxes; 0 switches parallax off [mas]."""

    sky_brightness: Mapping[str, float] = _per_band(u=22.9, g=22.3, r=21.2, i=20.5, z=19.6, y=18.6)
    """Night sky by band [AB mag/arcsec^2]."""

    sky_gradient: float = 0.03
    """Relative change of the sky from centre to edge of the focal plane, its direction the visit's own."""

    electrons_per_second_at_20: Mapping[str, float] = _per_band(
        u=700.0, g=3200.0, r=3300.0, i=2600.0, z=1800.0, y=900.0
    )
    """Photoelectrons of a source of 20 mag AB at airmass 1, by band [e/s]."""

    extinction: Mapping[str, float] = _per_band(u=0.45, g=0.18, r=0.1, i=0.07, z=0.05, y=0.12)
    """Loss per airmass beyond 1, by band [mag]."""

    transparency_scatter: float = 0.02
    """Grey scatter of the transparency from visit to visit [mag]."""

    seeing: tuple[float, float] = (0.8, 1.2)
    """FWHM of a visit's atmosphere at airmass 1 is uniform between these [arcsec]."""

    optics_fwhm: float = 0.45
    """FWHM by which the wide component of the PSF exceeds the atmosphere, in quadrature [arcsec]."""

    optics_share: float = 0.12
    """Share of the light in the wide astigmatic component of the PSF; 0 switches it off."""

    psf_ellipticity: float = 0.03
    """Reduced shear of the PSF across the field, greatest of each of its terms; 0 gives round PSFs."""

    psf_size_variation: float = 0.03
    """Relative variation of the PSF's size across the field."""

    gain_scatter: float = 0.03
    """Relative scatter of true gains about the camera definition's."""

    read_noise_scatter: float = 0.05
    """Relative scatter of true read noises about the camera definition's."""

    bias_level: float = 1000.0
    """Mean bias level of the amplifiers; each differs by up to 5 % [ADU]."""

    bias_drift: float = 1.0
    """Wandering of the bias level from row to row, standard deviation over a read-out [ADU]."""

    bias_structure: float = 3.0
    """Height of the fixed pattern in a bias frame: columns and a glow where read-out begins [ADU]."""

    dark_current: float = 0.0
    """Dark current [e/s]."""

    pixel_response: float = 0.01
    """Relative scatter of the pixels' response; 0 switches it off."""

    vignetting: float = 0.12
    """Relative loss of light at the edge of the focal plane, growing as radius^3; 0 switches it off."""

    full_well: float = 1.05
    """Charge a pixel holds, in units of the camera definition's saturation times gain."""

    bleeding: bool = True
    """Charge over full well spills along columns; otherwise it is lost."""

    cosmic_rays: float = 0.0
    """Cosmic rays [cm^-2 min^-1]."""

    photon_noise: bool = True
    """Draw photons; otherwise pixels hold their expectation (rounded to ADU)."""

    header_pointing_error: float = 0.0
    """Scatter per axis of the boresight said in headers about the true one [arcsec]."""

    header_rotation_error: float = 0.0
    """Scatter of the rotation said in headers about the true one [deg]."""

    reference_faint_limit: float = 20.3
    """Faintest r magnitude in the reference catalogue [AB mag]."""

    reference_epoch: float = 2016.0
    """Epoch of the catalogue's positions [Julian year]."""

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_bands()
        self._check_ranges()
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.field_ra < 360:
            raise ValueError(f"field_ra must be in [0, 360), got {self.field_ra}")
        if not abs(self.field_dec) <= 85:
            raise ValueError(f"field_dec must be within 85 deg of the equator, got {self.field_dec}")
        for name in ("optics_share", "vignetting", "sky_gradient"):
            if getattr(self, name) >= 0.9:
                raise ValueError(f"{name} must be below 0.9, got {getattr(self, name)}")
        if self.psf_ellipticity > 0.2 or self.psf_size_variation > 0.3:
            raise ValueError(
                "psf_ellipticity must be at most 0.2 and psf_size_variation at most 0.3, "
                f"got {self.psf_ellipticity} and {self.psf_size_variation}"
            )
        datetime.date.fromisoformat(self.start_date)

    def _check_counts(self) -> None:
        if self.n_visits < 0:
            raise ValueError(f"n_visits must not be negative, got {self.n_visits}")
        if not 1 <= self.visits_per_night <= 499:
            raise ValueError(f"visits_per_night must be in 1..499, got {self.visits_per_night}")
        if self.days_between_nights < 1:
            raise ValueError(f"days_between_nights must be at least 1, got {self.days_between_nights}")
        for name, most in (("n_bias", 100), ("n_dark", 100), ("n_flat", 30)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in 0..{most}, got {getattr(self, name)}")

    def _check_bands(self) -> None:
        if not self.bands or len(set(self.bands)) > 9:
            raise ValueError(f"bands must name 1 to 9 bands, got {self.bands}")
        for band in self.bands:
            if band not in CATALOGUE_BANDS:
                raise ValueError(f"bands: {band!r} is not one of {CATALOGUE_BANDS}")
            for name in ("sky_brightness", "electrons_per_second_at_20", "extinction"):
                if band not in getattr(self, name):
                    raise ValueError(f"{name} has no value for band {band!r} of bands {self.bands}")
        if not self.rotations:
            raise ValueError("rotations must hold at least one angle")

    def _check_ranges(self) -> None:
        for name in ("star_magnitudes", "galaxy_magnitudes", "seeing", "airmass_range"):
            value = getattr(self, name)
            if len(value) != 2 or not value[0] <= value[1]:
                raise ValueError(f"{name} must be two ascending numbers, got {value}")
        if self.seeing[0] <= 0 or self.airmass_range[0] < 1:
            raise ValueError(
                f"seeing must be positive and airmass at least 1: {self.seeing}, {self.airmass_range}"
            )

    @property
    def distinct_bands(self) -> tuple[str, ...]:
        """Bands in the order of their first visit."""
        return tuple(dict.fromkeys(self.bands))

    def without_effects(self, **changes: object) -> SimulationConfig:
        """The same survey with an ideal instrument, but read noise: no structure, scatter or photon noise."""
        ideal = dict.fromkeys(_EFFECTS, 0.0) | {"bleeding": False, "photon_noise": False}
        return dataclasses.replace(self, **(ideal | changes))


_EFFECTS = (
    "gain_scatter",
    "read_noise_scatter",
    "bias_drift",
    "bias_structure",
    "dark_current",
    "pixel_response",
    "vignetting",
    "sky_gradient",
    "cosmic_rays",
    "transparency_scatter",
)
_NOT_NEGATIVE = (
    *_EFFECTS,
    "dither_radius",
    "star_density",
    "galaxy_density",
    "galaxy_ellipticity",
    "proper_motion",
    "parallax",
    "optics_fwhm",
    "optics_share",
    "psf_ellipticity",
    "psf_size_variation",
    "header_pointing_error",
    "header_rotation_error",
    "seed",
)
_POSITIVE = (
    "exposure_time",
    "flat_level",
    "star_slope",
    "galaxy_slope",
    "galaxy_half_light_radius",
    "bias_level",
    "full_well",
)
