"""Simulation (design 7): science visits, each a function of the seed and its own number.

Time comes first: a night's visits begin where the field is up and the Sun is down, and hour angle, airmass and
parallactic angle follow from time, site and boresight. Within a night the first half of the visits is
followed by the second half some `pair_minutes` later, so that what moves is seen twice.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.magnitudes import BAND_CENTRE
from skyquilt.simulation.solar_system import DARK_SUN_ALTITUDE, TAI_MINUS_UTC, Site, airmass_of

if TYPE_CHECKING:
    from skyquilt.simulation.config import SimulationConfig

# codes of the random streams: append, never renumber, or every survey changes
STREAMS = (
    "sky",
    "visit",
    "detector",
    "science",
    "bias",
    "dark",
    "flat",
    "reference",
    "trail",
    "ghost",
    "crosstalk",
    "fringe",
    "stars",
    "galaxies",
    "cluster",
    "variables",
    "supernovae",
    "asteroids",
    "atmosphere",
    "placement",
    "flare",
    "wavefront",
    "characterization",
    "cosmic_ray",
    "read_out",
)

READ_OUT_SECONDS = 30.0
"""From the end of a visit to the beginning of the next."""

MJD_OF_ORDINAL_ZERO = 678576
GRID_MINUTES = 4
WORST_AIRMASS = 3.0


def random_stream(
    config: SimulationConfig, kind: str, visit: int = 0, detector: int = 0
) -> np.random.Generator:
    """Generator of one unit of work; it depends on nothing but its arguments and the survey's seed."""
    return np.random.default_rng([config.seed, STREAMS.index(kind), visit, detector])


@dataclass(frozen=True)
class Snap:
    """One opening of the shutter within a visit."""

    number: int
    begin: datetime.datetime
    exposure_time: float

    @property
    def end(self) -> datetime.datetime:
        """UTC at which the shutter closes."""
        return self.begin + datetime.timedelta(seconds=self.exposure_time)

    @property
    def mid_mjd_tai(self) -> float:
        """Middle of the snap, TAI MJD."""
        return tai_mjd(self.begin) + 0.5 * self.exposure_time / 86400


@dataclass(frozen=True)
class Visit:
    """One exposure of the whole camera, of one or more snaps, as it really was.

    Boresight and rotation are those of the light; the header's may be off by the configured errors.
    Angles are degrees, `hour_angle` is hours, `begin` is UTC, `exposure_time` is open-shutter time of all
    snaps together, `transparency` a factor on the flux at airmass 1 for the reference spectrum in the middle
    of the field, clouds included; `seeing` is the FWHM of the turbulence in the visit's band [arcsec].
    """

    visit: int
    kind: str
    band: str
    begin: datetime.datetime
    exposure_time: float
    ra: float = 0.0
    dec: float = 0.0
    rotation: float = 0.0
    header_ra: float = 0.0
    header_dec: float = 0.0
    header_rotation: float = 0.0
    airmass: float = 1.0
    transparency: float = 1.0
    seeing: float = 1.0
    phases: tuple[float, ...] = ()
    n_snaps: int = 1
    snap_gap: float = 2.0
    hour_angle: float = 0.0
    altitude: float = 90.0
    parallactic_angle: float = 0.0
    cloud_loss: float = 0.0

    @property
    def end(self) -> datetime.datetime:
        """UTC at which the shutter closes for the last time."""
        return self.snap(self.n_snaps - 1).end

    @property
    def mid_mjd_tai(self) -> float:
        """Middle between the first opening and the last closing of the shutter, TAI MJD."""
        return 0.5 * (tai_mjd(self.begin) + tai_mjd(self.end))

    def snap(self, number: int) -> Snap:
        """The snap of that number, from 0: an equal part of the exposure, `snap_gap` after the one before."""
        if not 0 <= number < self.n_snaps:
            raise ValueError(f"visit {self.visit} has {self.n_snaps} snaps, there is no number {number}")
        part = self.exposure_time / self.n_snaps
        begin = self.begin + datetime.timedelta(seconds=number * (part + self.snap_gap))
        return Snap(number, begin, part)

    @property
    def snaps(self) -> tuple[Snap, ...]:
        """All snaps in order."""
        return tuple(self.snap(number) for number in range(self.n_snaps))


def tai_mjd(utc: datetime.datetime) -> float:
    """TAI MJD of a UTC time after 2017 (37 leap seconds; none is announced)."""
    seconds = utc.hour * 3600 + utc.minute * 60 + utc.second + utc.microsecond * 1e-6
    return utc.toordinal() - MJD_OF_ORDINAL_ZERO + (seconds + TAI_MINUS_UTC) / 86400


def observing_site(config: SimulationConfig) -> Site:
    """The telescope's place."""
    return Site(config.site_longitude, config.site_latitude, config.site_elevation)


def science_visit(config: SimulationConfig, index: int) -> Visit:
    """The `index`-th science visit, counted from 0; it does not know how many there are.

    Raises
    ------
    ValueError
        When the field does not rise in the dark of that night.
    """
    night, number = divmod(index, config.visits_per_night)
    begin = night_begin(config, night) + datetime.timedelta(seconds=seconds_into_night(config, number))
    name = visit_id(night_date(config, night), number + 1)
    rng = random_stream(config, "visit", name)
    radius = config.dither_radius * math.sqrt(rng.uniform()) / 3600
    angle = rng.uniform(0, 2 * math.pi)
    dec = config.field_dec + radius * math.cos(angle)
    ra = (config.field_ra + radius * math.sin(angle) / math.cos(math.radians(dec))) % 360
    rotation = config.rotations[index % len(config.rotations)]
    band = config.bands[index % len(config.bands)]
    pointing = config.header_pointing_error * rng.normal(size=2) / 3600
    turned = rotation + config.header_rotation_error * rng.normal()
    clouds = config.atmosphere.clouds * rng.exponential()
    grey = config.atmosphere.transparency_scatter * abs(rng.normal())
    seeing = rng.uniform(*config.seeing)
    phases = tuple(rng.uniform(0, 2 * math.pi, 12).tolist())
    plain = Visit(name, "science", band, begin, config.exposure_time)
    plain = dataclasses.replace(plain, n_snaps=config.n_snaps, snap_gap=config.snap_gap)
    site, mjd = observing_site(config), plain.mid_mjd_tai
    altitude = float(site.altitude(mjd, ra, dec))
    airmass = float(airmass_of(altitude))
    loss = config.atmosphere.extinction[band] * (airmass - 1) + clouds + grey
    return Visit(
        visit=name,
        kind="science",
        band=band,
        begin=begin,
        exposure_time=config.exposure_time,
        ra=ra,
        dec=dec,
        rotation=rotation,
        header_ra=(ra + pointing[0] / math.cos(math.radians(dec))) % 360,
        header_dec=dec + pointing[1],
        header_rotation=turned,
        airmass=airmass,
        transparency=10 ** (-0.4 * loss),
        # turbulence of Kolmogorov's spectrum: Roddier (1981), Progress in Optics 19, 281
        seeing=seeing * airmass**0.6 * (BAND_CENTRE[band] / BAND_CENTRE["r"]) ** -0.2,
        phases=phases,
        n_snaps=config.n_snaps,
        snap_gap=config.snap_gap,
        hour_angle=site.hour_angle(mjd, ra, dec),
        altitude=altitude,
        parallactic_angle=site.parallactic_angle(mjd, ra, dec),
        cloud_loss=clouds,
    )


def science_visits(config: SimulationConfig) -> list[Visit]:
    """All science visits in order."""
    return [science_visit(config, index) for index in range(config.n_visits)]


def night_date(config: SimulationConfig, night: int) -> datetime.date:
    """Date of a night, counted from 0: that of the morning it ends in, by the Sun at the site."""
    listed = config.nights
    if night < len(listed):
        days = listed[night]
    else:
        days = listed[-1] + (night - len(listed) + 1) * config.days_between_nights
    return datetime.date.fromisoformat(config.start_date) + datetime.timedelta(days=days)


def visit_id(date: datetime.date, number: int) -> int:
    """Id of an exposure: YYMMDD of the night and its number in it, below 1000."""
    return int(f"{date:%y%m%d}") * 1000 + number


def seconds_into_night(config: SimulationConfig, number: int) -> float:
    """When a visit of a night begins, after the first [s]."""
    slot = config.exposure_time + (config.n_snaps - 1) * config.snap_gap + READ_OUT_SECONDS
    first_half = (config.visits_per_night + 1) // 2
    if number < first_half:
        return slot * number
    return max(60 * config.pair_minutes, slot * first_half) + slot * (number - first_half)


def night_begin(config: SimulationConfig, night: int) -> datetime.datetime:
    """UTC at which the first science visit of a night begins.

    Raises
    ------
    ValueError
        When the field does not rise in the dark of that night.
    """
    length = seconds_into_night(config, config.visits_per_night - 1) + config.exposure_time
    share = random_stream(config, "visit", 0, night).uniform()
    return _beginning(
        night_date(config, night),
        observing_site(config),
        (config.field_ra, config.field_dec),
        round(length / 60),
        config.airmass_limit,
        share,
    )


@functools.lru_cache(maxsize=256)
def _beginning(date, site, field, minutes, limit, share):
    """Where in the night visits begin: uniform over the good times, else where the worst airmass is least."""
    midnight = datetime.datetime.combine(date, datetime.time()) - datetime.timedelta(
        hours=site.longitude / 15
    )
    midnight = midnight.replace(second=0, microsecond=0)
    step = datetime.timedelta(minutes=GRID_MINUTES)
    n = 12 * 60 // GRID_MINUTES
    times = [midnight + k * step for k in range(-n, n)]
    mjd = np.array([tai_mjd(time) for time in times])
    airmass = np.where(
        site.sun_altitude(mjd) < DARK_SUN_ALTITUDE, airmass_of(site.altitude(mjd, *field)), np.inf
    )
    span = -(-minutes // GRID_MINUTES) + 1
    worst = np.array([airmass[k : k + span].max() for k in range(len(times) - span + 1)] or [np.inf])
    good = np.flatnonzero(worst <= limit)
    if good.size:
        return times[good[int(share * good.size)]]
    best = int(worst.argmin())
    if not worst[best] <= WORST_AIRMASS:
        raise ValueError(
            f"the field at ({field[0]}, {field[1]}) is not above airmass {WORST_AIRMASS:g} in the dark for "
            f"{minutes} minutes in the night that ends on {date}: change start_date, nights, field_ra or "
            "visits_per_night"
        )
    return times[best]
