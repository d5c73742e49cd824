"""Simulation (design 7): all sources of a field, and where and how bright they are at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.magnitudes import CATALOGUE_BANDS
from skyquilt.simulation.schedule import observing_site
from skyquilt.simulation.sky.asteroids import (
    NO_ORBIT,
    apparent_brightness,
    asteroid_columns,
    ephemeris,
)
from skyquilt.simulation.sky.galaxies import galaxy_columns
from skyquilt.simulation.sky.stars import cluster_columns, star_columns
from skyquilt.simulation.sky.supernovae import supernova_brightness, supernova_columns
from skyquilt.simulation.sky.variables import relative_brightness, variable_columns
from skyquilt.simulation.solar_system import Site, earth_barycentric

if TYPE_CHECKING:
    from skyquilt.simulation.config import SimulationConfig

MAS = 1 / 3.6e6

KINDS = ("star", "galaxy", "supernova", "asteroid")
STAR, GALAXY, SUPERNOVA, ASTEROID = range(4)


@dataclass(frozen=True)
class Sky:
    """The sources of a field, one array element per source.

    Positions are ICRS degrees at `epoch` (Julian year), motions mas/yr (`pm_ra` times cos dec), parallax mas,
    fluxes nJy above the atmosphere per band (means of variables, peaks of supernovae, asteroids at their
    reference time), radii arcsec, shears in the sense of galsim with the first axis towards west and the
    second towards north (as seen on the focal plane at rotation 0).

    Attributes
    ----------
    kind : ndarray of int8
        Index into `KINDS`.
    bulge_share : dict of ndarray
        Part of a galaxy's light that is in its bulge, by band.
    bulge_radius, disk_radius, half_light_radius : ndarray
        Half-light radii of bulge and disk along the geometric mean of their axes, and of both together.
    redshift : ndarray
        Of galaxies and supernovae, else NaN.
    variability : ndarray of int8
        Index into `variables.TYPES`; 0 is none.
    period, amplitude, reference_time : ndarray
        [day], [mag], TAI MJD of phase 0, of a supernova's peak, or of an orbit's elements; NaN for none.
    stretch : ndarray
        Of supernovae.
    host : ndarray of int64
        Id of a supernova's galaxy, else 0.
    orbit : ndarray, shape (n, 6)
        Of asteroids: a [au], e, i, node, perihelion, mean anomaly at `reference_time` [deg], ecliptic J2000.
    """

    epoch: float
    site: Site
    seed: int
    id: np.ndarray
    kind: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    pm_ra: np.ndarray
    pm_dec: np.ndarray
    parallax: np.ndarray
    flux: dict[str, np.ndarray]
    bulge_share: dict[str, np.ndarray]
    half_light_radius: np.ndarray
    bulge_radius: np.ndarray
    disk_radius: np.ndarray
    bulge_g1: np.ndarray
    bulge_g2: np.ndarray
    disk_g1: np.ndarray
    disk_g2: np.ndarray
    redshift: np.ndarray
    variability: np.ndarray
    period: np.ndarray
    amplitude: np.ndarray
    reference_time: np.ndarray
    stretch: np.ndarray
    host: np.ndarray
    orbit: np.ndarray

    def __len__(self) -> int:
        return self.id.size

    @property
    def is_star(self) -> np.ndarray:
        """Stars, variable ones too."""
        return self.kind == STAR

    @property
    def is_galaxy(self) -> np.ndarray:
        """Galaxies: all that is not a point."""
        return self.kind == GALAXY

    @property
    def moves(self) -> np.ndarray:
        """Asteroids, whose place is another in each snap."""
        return self.kind == ASTEROID

    @property
    def kind_name(self) -> np.ndarray:
        """`kind` in words."""
        return np.array(KINDS)[self.kind]

    def select(self, where: np.ndarray) -> Sky:
        """The sources that an index or boolean array picks."""
        values = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, dict):
                value = {band: part[where] for band, part in value.items()}
            elif isinstance(value, np.ndarray):
                value = value[where]
            values[item.name] = value
        return Sky(**values)

    def positions_at(self, mjd: float) -> tuple[np.ndarray, np.ndarray]:
        """Astrometric positions (motion, parallax, orbits with light time) at a TAI MJD, ICRS [deg].

        Asteroids are seen from the telescope; for stars the Earth's centre is near enough.
        """
        years = 2000 + (mjd - 51544.5) / 365.25 - self.epoch
        earth = earth_barycentric(mjd)
        alpha, delta = np.radians(self.ra), np.radians(self.dec)
        east = earth[0] * np.sin(alpha) - earth[1] * np.cos(alpha)
        north = earth[0] * np.cos(alpha) + earth[1] * np.sin(alpha)
        north = north * np.sin(delta) - earth[2] * np.cos(delta)
        ra = (self.ra + (self.pm_ra * years + self.parallax * east) * MAS / np.cos(delta)) % 360
        dec = self.dec + (self.pm_dec * years + self.parallax * north) * MAS
        movers = np.flatnonzero(self.moves)
        if movers.size:
            seen = ephemeris(self.orbit[movers], self.reference_time[movers], mjd, self.site)
            ra[movers], dec[movers] = seen.ra, seen.dec
        return ra, dec

    def flux_at(self, mjd: float) -> dict[str, np.ndarray]:
        """Fluxes above the atmosphere in all bands at a TAI MJD [nJy]."""
        flux = {band: values.copy() for band, values in self.flux.items()}
        variable = np.flatnonzero(self.variability > 0)
        if variable.size:
            relative = relative_brightness(self.select(variable), mjd)
            for band in flux:
                flux[band][variable] *= relative[band]
        supernovae = np.flatnonzero(self.kind == SUPERNOVA)
        if supernovae.size:
            bright = supernova_brightness(self.select(supernovae), mjd)
            for band in flux:
                flux[band][supernovae] = bright[band]
        movers = np.flatnonzero(self.moves)
        if movers.size:
            relative = apparent_brightness(self.orbit[movers], self.reference_time[movers], mjd, self.site)
            for band in flux:
                flux[band][movers] *= relative
        return flux


_BLANK: Mapping[str, float] = {
    "pm_ra": 0.0,
    "pm_dec": 0.0,
    "parallax": 0.0,
    "half_light_radius": 0.0,
    "bulge_radius": 0.0,
    "disk_radius": 0.0,
    "bulge_g1": 0.0,
    "bulge_g2": 0.0,
    "disk_g1": 0.0,
    "disk_g2": 0.0,
    "redshift": np.nan,
    "variability": 0,
    "period": np.nan,
    "amplitude": np.nan,
    "reference_time": np.nan,
    "stretch": np.nan,
    "host": 0,
}
_TYPES = {"variability": np.int8, "host": np.int64}

Columns = dict[str, np.ndarray]


def _complete(kind: int, columns: Mapping[str, object]) -> dict:
    """Columns of one population with what it does not say filled in."""
    n = len(columns["ra"])
    whole = {name: np.full(n, value, _TYPES.get(name, float)) for name, value in _BLANK.items()}
    whole["bulge_share"] = {band: np.zeros(n) for band in CATALOGUE_BANDS}
    whole["orbit"] = np.tile(NO_ORBIT, (n, 1))
    return {**whole, "kind": np.full(n, kind, np.int8), **columns}


def simulate_sky(config: SimulationConfig, radius: float) -> Sky:
    """All sources within `radius` [deg] of the field's centre.

    The catalogue depends on the seed, the radius and the options of sky, site and nights, not on the number
    of visits. Each population draws from a stream of its own: options of one leave the others as they were.
    """
    galaxies = galaxy_columns(config, radius)
    populations = [
        _complete(STAR, star_columns(config, radius)),
        _complete(STAR, cluster_columns(config)),
        _complete(STAR, variable_columns(config, radius)),
        _complete(GALAXY, galaxies),
        _complete(SUPERNOVA, supernova_columns(config, galaxies)),
        _complete(ASTEROID, asteroid_columns(config, radius)),
    ]
    before = sum(len(p["ra"]) for p in populations[:3])
    # hosts come as indices into the galaxies
    populations[4]["host"] = populations[4]["host"] + before + 1
    joined = {}
    for name in populations[0]:
        parts = [p[name] for p in populations]
        if isinstance(parts[0], dict):
            joined[name] = {band: np.concatenate([part[band] for part in parts]) for band in CATALOGUE_BANDS}
        else:
            joined[name] = np.concatenate(parts)
    return Sky(
        epoch=config.reference.epoch,
        site=observing_site(config),
        seed=config.seed,
        id=np.arange(1, len(joined["ra"]) + 1, dtype=np.int64),
        **joined,
    )
