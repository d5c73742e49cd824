"""Simulation (design 7): what a simulated survey is made of."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from skyquilt.simulation.atmosphere import AtmosphereConfig
from skyquilt.simulation.calibration_frames import CalibrationFramesConfig
from skyquilt.simulation.detector_effects.config import DetectorEffectsConfig
from skyquilt.simulation.ghosts import GhostsConfig
from skyquilt.simulation.magnitudes import CATALOGUE_BANDS
from skyquilt.simulation.optics import PlacementConfig
from skyquilt.simulation.point_spread import PointSpreadConfig
from skyquilt.simulation.satellite_trails import SatelliteTrailsConfig
from skyquilt.simulation.sky.asteroids import AsteroidsConfig
from skyquilt.simulation.sky.galaxies import GalaxiesConfig
from skyquilt.simulation.sky.reference import ReferenceConfig
from skyquilt.simulation.sky.stars import ClusterConfig, StarsConfig
from skyquilt.simulation.sky.supernovae import SupernovaeConfig
from skyquilt.simulation.sky.variables import VariablesConfig
from skyquilt.simulation.wavefront import WavefrontConfig


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

    site_longitude: float = -70.75
    """Longitude of the telescope, positive to the east; the camera's observatory says the same [deg]."""

    site_latitude: float = -30.24
    """Geodetic latitude of the telescope [deg]."""

    site_elevation: float = 2700.0
    """Height of the telescope above the ellipsoid [m]."""

    n_visits: int = 6
    """Number of science visits."""

    n_snaps: int = 1
    """Exposures of equal length that a visit consists of: 1 or 2."""

    snap_gap: float = 2.0
    """Time from the end of a snap to the beginning of the next [s]."""

    bands: tuple[str, ...] = ("r", "g", "i")
    """Bands of the visits, taken in turn."""

    dither_radius: float = 40.0
    """Boresights lie uniformly within this distance of the field's centre [arcsec]."""

    rotations: tuple[float, ...] = (0.0, 1.5, -2.0)
    """Position angles of focal plane +y, east of north, one after the other [deg]."""

    start_date: str = "2026-01-01"
    """Date of the first night (of the morning it ends in), ISO; its YYMMDD is in visit ids."""

    visits_per_night: int = 50
    """Science visits of a night."""

    nights: tuple[int, ...] = (0,)
    """Nights with visits, in days after the first; further ones follow by `days_between_nights`."""

    days_between_nights: int = 1
    """Distance of the nights that are not listed [day]."""

    pair_minutes: float = 30.0
    """The second half of a night's visits begins this long after the first half, or at once after it if that
    takes longer [min]."""

    airmass_limit: float = 1.4
    """Visits are made below this airmass where the night allows it."""

    exposure_time: float = 30.0
    """Open-shutter time of a science visit, all snaps together [s]."""

    star_density: float = 15.0
    """Stars within `star_magnitudes` [arcmin^-2]."""

    star_magnitudes: tuple[float, float] = (15.0, 24.0)
    """Brightest and faintest r magnitude of stars [AB mag]."""

    galaxy_density: float = 18.0
    """Galaxies within `galaxy_magnitudes` [arcmin^-2]."""

    galaxy_magnitudes: tuple[float, float] = (18.0, 24.5)
    """Brightest and faintest r magnitude of galaxies [AB mag]."""

    sky_brightness: Mapping[str, float] = _per_band(u=22.9, g=22.3, r=21.2, i=20.5, z=19.6, y=18.6)
    """Dark sky at the zenith by band [AB mag/arcsec^2]."""

    electrons_per_second_at_20: Mapping[str, float] = _per_band(
        u=700.0, g=3200.0, r=3300.0, i=2600.0, z=1800.0, y=900.0
    )
    """Photoelectrons of a source of 20 mag AB at airmass 1, by band [e/s]."""

    seeing: tuple[float, float] = (0.8, 1.2)
    """FWHM of a visit's atmosphere in r at airmass 1 is uniform between these [arcsec]."""

    header_pointing_error: float = 0.0
    """Scatter per axis of the boresight said in headers about the true one [arcsec]."""

    header_rotation_error: float = 0.0
    """Scatter of the rotation said in headers about the true one [deg]."""

    stars: StarsConfig = field(default_factory=StarsConfig)
    """Populations of stars."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """A crowded part of the field."""

    variables: VariablesConfig = field(default_factory=VariablesConfig)
    """Variable stars."""

    galaxies: GalaxiesConfig = field(default_factory=GalaxiesConfig)
    """Galaxies."""

    supernovae: SupernovaeConfig = field(default_factory=SupernovaeConfig)
    """Supernovae in the galaxies."""

    asteroids: AsteroidsConfig = field(default_factory=AsteroidsConfig)
    """Asteroids that cross the field."""

    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    """The reference catalogue."""

    atmosphere: AtmosphereConfig = field(default_factory=AtmosphereConfig)
    """The air above the telescope."""

    point_spread: PointSpreadConfig = field(default_factory=PointSpreadConfig)
    """The point spread function."""

    wavefront: WavefrontConfig = field(default_factory=WavefrontConfig)
    """Detectors out of focus."""

    placement: PlacementConfig = field(default_factory=PlacementConfig)
    """Where detectors truly are."""

    detector: DetectorEffectsConfig = field(default_factory=DetectorEffectsConfig)
    """What the instrument does to light and charge."""

    calibration_frames: CalibrationFramesConfig = field(default_factory=CalibrationFramesConfig)
    """Calibration frames."""

    trails: SatelliteTrailsConfig = field(default_factory=SatelliteTrailsConfig)
    """Tracks of satellites, aeroplanes and meteors."""

    ghosts: GhostsConfig = field(default_factory=GhostsConfig)
    """Ghosts of bright stars."""

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_bands()
        for name in ("star_magnitudes", "galaxy_magnitudes", "seeing"):
            value = getattr(self, name)
            if len(value) != 2 or not value[0] <= value[1]:
                raise ValueError(f"{name} must be two ascending numbers, got {value}")
        if self.seeing[0] <= 0 or self.airmass_limit < 1:
            raise ValueError(
                f"seeing must be positive and airmass_limit at least 1: {self.seeing}, {self.airmass_limit}"
            )
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.exposure_time > 0:
            raise ValueError(f"exposure_time must be positive, got {self.exposure_time}")
        for name, least, most in (("field_ra", 0, 360), ("site_longitude", -180, 360)):
            if not least <= getattr(self, name) < most:
                raise ValueError(f"{name} must be in [{least}, {most}), got {getattr(self, name)}")
        if not abs(self.field_dec) <= 85:
            raise ValueError(f"field_dec must be within 85 deg of the equator, got {self.field_dec}")
        if not abs(self.site_latitude) <= 90:
            raise ValueError(f"site_latitude must be in -90..90, got {self.site_latitude}")
        datetime.date.fromisoformat(self.start_date)

    def _check_counts(self) -> None:
        if self.n_visits < 0:
            raise ValueError(f"n_visits must not be negative, got {self.n_visits}")
        if self.n_snaps not in (1, 2):
            raise ValueError(f"n_snaps must be 1 or 2, got {self.n_snaps}")
        if not 1 <= self.visits_per_night <= 499:
            raise ValueError(f"visits_per_night must be in 1..499, got {self.visits_per_night}")
        if self.days_between_nights < 1:
            raise ValueError(f"days_between_nights must be at least 1, got {self.days_between_nights}")
        if not self.nights or self.nights[0] < 0 or sorted(set(self.nights)) != list(self.nights):
            raise ValueError(f"nights must be ascending days, the first not negative, got {self.nights}")

    def _check_bands(self) -> None:
        if not self.bands or len(set(self.bands)) > 9:
            raise ValueError(f"bands must name 1 to 9 bands, got {self.bands}")
        for band in self.bands:
            if band not in CATALOGUE_BANDS:
                raise ValueError(f"bands: {band!r} is not one of {CATALOGUE_BANDS}")
            for name in ("sky_brightness", "electrons_per_second_at_20"):
                if band not in getattr(self, name):
                    raise ValueError(f"{name} has no value for band {band!r} of bands {self.bands}")
            if band not in self.atmosphere.extinction:
                raise ValueError(f"atmosphere.extinction has no value for band {band!r}")
        if not self.rotations:
            raise ValueError("rotations must hold at least one angle")

    @property
    def distinct_bands(self) -> tuple[str, ...]:
        """Bands in the order of their first visit."""
        return tuple(dict.fromkeys(self.bands))

    def ideal_sky(self, **changes: object) -> SimulationConfig:
        """The same survey under even air: no clouds, refraction, displacement, gradients nor scatter."""
        air = dataclasses.replace(
            self.atmosphere,
            refraction=False,
            displacement=0.0,
            clouds=0.0,
            transparency_scatter=0.0,
            extinction_colour={},
            airglow=False,
            moonlight=0.0,
            sky_scatter=0.0,
            sky_gradient=0.0,
        )
        return dataclasses.replace(self, **({"atmosphere": air} | changes))

    def without_effects(self, **changes: object) -> SimulationConfig:
        """The same survey under even air with an ideal instrument: neither structure nor photon noise."""
        return self.ideal_sky(**({"detector": DetectorEffectsConfig.none()} | changes))


_NOT_NEGATIVE = (
    "seed",
    "snap_gap",
    "dither_radius",
    "pair_minutes",
    "star_density",
    "galaxy_density",
    "header_pointing_error",
    "header_rotation_error",
)
