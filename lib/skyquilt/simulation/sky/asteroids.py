"""Simulation (design 7): asteroids on orbits that lead them through the field while it is observed.

An asteroid is given a place in the field on one night and an orbit through it. Of many candidates those are
kept that are in the field and move on three nights of a fortnight, as far as there are such. Brightness goes by the
H, G system: Bowell et al. (1989), Asteroids II, 524.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.magnitudes import CATALOGUE_BANDS, njy_from_magnitude
from skyquilt.simulation.schedule import (
    night_begin,
    observing_site,
    random_stream,
    seconds_into_night,
    tai_mjd,
)
from skyquilt.simulation.sky.orbits import GAUSS, TO_ECLIPTIC, elements, place
from skyquilt.simulation.sky.places import positions_in_cap
from skyquilt.simulation.solar_system import LIGHT_AU_PER_DAY, Site, direction, position

if TYPE_CHECKING:
    from skyquilt.simulation.config import SimulationConfig

NO_ORBIT = np.full(6, np.nan)
SLOPE_G = 0.15
WINDOW_DAYS = 14
NIGHTS_TO_LINK = 3
IN_FIELD = 0.55
"""Share of the radius in which asteroids are placed: wholly on the mosaic however it is turned."""

CANDIDATES, BATCHES = 3000, 12

LEAST_MOTION_ARCSEC = 0.4
"""In half an hour: what stands more still on a night is not counted as seen to move on it."""

STONY = (2.1, 0.62, 0.0, -0.2, -0.12, -0.1)
CARBONACEOUS = (1.9, 0.46, 0.0, -0.12, -0.16, -0.18)
"""Band minus r [mag], after Ivezic et al. (2001), AJ 122, 2749."""


@dataclass(frozen=True)
class AsteroidsConfig:
    """Asteroids that are in the field on the first nights."""

    main_belt: int = 4
    """Asteroids of the main belt."""

    near_earth: int = 1
    """Asteroids that pass near the Earth, on one night only."""

    magnitudes: tuple[float, float] = (18.0, 22.5)
    """Brightest and faintest r magnitude on the night they are placed; counts go as 10^(0.35 m) [AB mag]."""

    linkable: float = 0.75
    """Share of those of the main belt for which orbits are sought that stay for three nights."""

    def __post_init__(self) -> None:
        for name in ("main_belt", "near_earth"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if len(self.magnitudes) != 2 or not self.magnitudes[0] <= self.magnitudes[1]:
            raise ValueError(f"magnitudes must be two ascending numbers, got {self.magnitudes}")
        if not 0 <= self.linkable <= 1:
            raise ValueError(f"linkable must be in 0..1, got {self.linkable}")


@dataclass(frozen=True)
class Seen:
    """How asteroids look from the telescope, arrays of shape (n,).

    Attributes
    ----------
    ra, dec : ndarray
        Astrometric ICRS: light time in, aberration and refraction not [deg].
    sun_distance, distance : ndarray [au]
    phase_angle : ndarray [deg]
    """

    ra: np.ndarray
    dec: np.ndarray
    sun_distance: np.ndarray
    distance: np.ndarray
    phase_angle: np.ndarray

    @property
    def magnitude_offset(self) -> np.ndarray:
        """Apparent less absolute magnitude."""
        tangent = np.tan(np.radians(np.minimum(self.phase_angle, 120)) / 2)
        light = (1 - SLOPE_G) * np.exp(-3.33 * tangent**0.63) + SLOPE_G * np.exp(-1.87 * tangent**1.22)
        return 5 * np.log10(self.sun_distance * self.distance) - 2.5 * np.log10(light)


def ephemeris(orbit: np.ndarray, epoch: np.ndarray, mjd: float | np.ndarray, site: Site) -> Seen:
    """Asteroids as the telescope sees them.

    Parameters
    ----------
    orbit : ndarray, shape (n, 6)
        Elements as in `orbits`.
    epoch : ndarray, shape (n,)
        Of the mean anomalies, TAI MJD.
    mjd : float or ndarray, shape (n,)
        TAI MJD.
    site : Site
    """
    observer = site.place(mjd)
    delay = np.zeros(len(orbit))
    for _ in range(3):
        where = place(orbit, mjd - epoch - delay)
        delay = np.linalg.norm(where - observer, axis=1) / LIGHT_AU_PER_DAY
    towards = where - observer
    distance, sun = np.linalg.norm(towards, axis=1), np.linalg.norm(where, axis=1)
    cosine = (towards * where).sum(axis=1) / (distance * sun)
    return Seen(*position(towards), sun, distance, np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def apparent_brightness(orbit: np.ndarray, epoch: np.ndarray, mjd: float, site: Site) -> np.ndarray:
    """Flux at a TAI MJD over that at the epoch, shape (n,)."""
    now, then = (ephemeris(orbit, epoch, time, site) for time in (mjd, epoch))
    return 10 ** (-0.4 * (now.magnitude_offset - then.magnitude_offset))


def asteroid_columns(config: SimulationConfig, radius: float) -> dict[str, object]:
    """Columns of the asteroids."""
    rng = random_stream(config, "asteroids")
    options = config.asteroids
    n = options.main_belt + options.near_earth
    if n == 0:
        empty = np.zeros(0)
        flux = dict.fromkeys(CATALOGUE_BANDS, empty)
        return {"ra": empty, "dec": empty, "flux": flux, "reference_time": empty, "orbit": np.zeros((0, 6))}
    belt = _main_belt(rng, config, radius, options.main_belt)
    near = _near_earth(rng, config, radius, options.near_earth)
    orbit, epoch = (np.concatenate(parts) for parts in zip(belt, near))
    n = len(orbit)
    low, high = (10 ** (0.35 * m) for m in options.magnitudes)
    magnitude = np.log10(low + rng.uniform(size=n) * (high - low)) / 0.35
    stony = rng.uniform(size=n) < 0.5
    colours = np.where(stony, np.array(STONY)[:, None], np.array(CARBONACEOUS)[:, None])
    seen = ephemeris(orbit, epoch, epoch, observing_site(config))
    return {
        "ra": seen.ra,
        "dec": seen.dec,
        "flux": {b: njy_from_magnitude(magnitude + c) for b, c in zip(CATALOGUE_BANDS, colours)},
        "reference_time": epoch,
        "orbit": orbit,
    }


def night_middles(config: SimulationConfig) -> np.ndarray:
    """Middle of the visits of the nights within a fortnight of the first, TAI MJD."""
    nights = [k for k, day in enumerate(config.nights) if day - config.nights[0] <= WINDOW_DAYS]
    half = 0.5 * seconds_into_night(config, config.visits_per_night - 1)
    return np.array(
        [tai_mjd(night_begin(config, night) + datetime.timedelta(seconds=half)) for night in nights]
    )


def _main_belt(rng, config, radius, n):
    """(orbits, epochs) of asteroids between 2.1 and 3.3 au."""
    times = night_middles(config)
    wanted = min(NIGHTS_TO_LINK, times.size)
    n_linkable = round(n * config.asteroids.linkable)
    orbits, epochs, counts = [np.zeros((0, 6))], [np.zeros(0)], [np.zeros(0, int)]
    for _ in range(BATCHES if n else 0):
        a = rng.uniform(2.1, 3.3, CANDIDATES)
        e = np.clip(0.12 * rng.rayleigh(size=CANDIDATES), 0.005, 0.35)
        i = _inclinations(rng, config, 9.0)
        orbit, epoch = _through_field(rng, config, radius, times, a, e, i, (0.5, 5.0))
        orbits.append(orbit)
        epochs.append(epoch)
        counts.append(_nights_in_field(config, IN_FIELD * radius, times, orbit, epoch))
        if (np.concatenate(counts) >= wanted).sum() >= n_linkable and sum(map(len, orbits)) >= n:
            break
    orbit, epoch, count = (np.concatenate(parts) for parts in (orbits, epochs, counts))
    order = np.arange(len(orbit))
    stay = order[count >= wanted][:n_linkable]
    # where too few stay that long, those that stay longest stand in
    rest = np.setdiff1d(order, stay)
    longest = rest[np.argsort(-count[rest], kind="stable")][: n_linkable - stay.size]
    others = np.setdiff1d(rest, longest)[::-1][: n - stay.size - longest.size]
    chosen = np.concatenate([stay, longest, others]).astype(int)
    return orbit[chosen], epoch[chosen]


def _near_earth(rng, config, radius, n):
    """(orbits, epochs) of asteroids that come within 0.05 to 0.5 au of the Earth."""
    times = night_middles(config)
    orbits, epochs = [np.zeros((0, 6))], [np.zeros(0)]
    while sum(map(len, orbits)) < n:
        a = rng.uniform(0.9, 2.6, CANDIDATES)
        e = rng.uniform(0.15, 0.7, CANDIDATES)
        i = _inclinations(rng, config, 12.0)
        orbit, epoch = _through_field(rng, config, radius, times, a, e, i, (0.05, 0.5))
        orbits.append(orbit)
        epochs.append(epoch)
    return np.concatenate(orbits)[:n], np.concatenate(epochs)[:n]


def _inclinations(rng, config, width):
    """Rayleigh's distribution of a width [deg], cut below what leads an orbit to the field's latitude [rad]."""
    sine = (TO_ECLIPTIC @ direction(config.field_ra, config.field_dec))[2]
    least = 0.9 * abs(math.degrees(math.asin(sine))) + 0.3
    drawn = np.sqrt(least**2 + 2 * width**2 * rng.exponential(size=CANDIDATES))
    return np.radians(np.minimum(drawn, 175.0))


def _through_field(rng, config, radius, times, a, e, i, distances):
    """Orbits with these a, e and i [rad] that pass a place in the field at one of the times.

    Candidates without such an orbit, or farther from the telescope than `distances` [au] allow, fall out.
    """
    n = a.size
    epoch = times[rng.integers(times.size, size=n)]
    towards = direction(*positions_in_cap(rng, n, config.field_ra, config.field_dec, IN_FIELD * radius))
    observer = observing_site(config).place(epoch)
    mean = rng.uniform(0, 2 * math.pi, n)
    shape = np.column_stack([a, e, np.zeros((n, 3)), np.degrees(mean)])
    sun = np.linalg.norm(place(shape, np.zeros(n)), axis=1)
    along = (observer * towards).sum(axis=1)
    under = along**2 - (observer**2).sum(axis=1) + sun**2
    distance = -along + np.sqrt(np.maximum(under, 0))
    where = observer + distance[:, None] * towards
    ecliptic = where @ TO_ECLIPTIC.T / sun[:, None]
    sine = ecliptic[:, 2]
    cosine = np.sqrt(1 - sine**2)
    tilt = np.cos(i) / cosine
    good = (under > 0) & (distance > distances[0]) & (distance < distances[1]) & (np.abs(tilt) < 1)
    side = np.where(rng.uniform(size=n) < 0.5, -1.0, 1.0)
    turn = side * np.arccos(np.clip(tilt, -1, 1))
    longitude = np.arctan2(ecliptic[:, 1], ecliptic[:, 0])
    east = np.stack([-np.sin(longitude), np.cos(longitude), np.zeros(n)], axis=1)
    north = np.cross(ecliptic, east)
    normal = np.cos(turn)[:, None] * north + np.sin(turn)[:, None] * east
    tangential = GAUSS * np.sqrt(a * (1 - e**2)) / sun
    radial2 = GAUSS**2 * (2 / sun - 1 / a) - tangential**2
    outward = np.where(mean < math.pi, 1.0, -1.0) * np.sqrt(np.maximum(radial2, 0))
    velocity = outward[:, None] * ecliptic + tangential[:, None] * np.cross(normal, ecliptic)
    orbit = elements(where[good], (velocity @ TO_ECLIPTIC)[good])
    # light that arrives at the epoch left earlier: the mean anomaly at the epoch is ahead
    motion = np.degrees(GAUSS * orbit[:, 0] ** -1.5)
    orbit[:, 5] = (orbit[:, 5] + motion * distance[good] / LIGHT_AU_PER_DAY) % 360
    return orbit, epoch[good]


def _nights_in_field(config, radius, times, orbit, epoch):
    """On how many of the nights each orbit is in the field and seen to move."""
    centre = direction(config.field_ra, config.field_dec)
    site = observing_site(config)
    count = np.zeros(len(orbit), int)
    wanted = min(NIGHTS_TO_LINK, times.size)
    for k, time in enumerate(times):
        # those that can no longer be seen often enough are not followed to the end
        hopeful = np.flatnonzero(count + times.size - k >= wanted)
        ends = []
        for moment in (time, time + 0.5 / 24):
            seen = ephemeris(orbit[hopeful], epoch[hopeful], moment, site)
            ends.append(direction(seen.ra, seen.dec))
        moved = np.degrees(np.linalg.norm(ends[1] - ends[0], axis=1)) * 3600
        inside = ends[0] @ centre > math.cos(math.radians(radius))
        count[hopeful] += inside & (moved > LEAST_MOTION_ARCSEC)
    return count
