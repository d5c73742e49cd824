"""Simulation (design 7): visits and calibration frames, each a function of the seed and its own number."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

import numpy as np

from skyquilt.simulation.config import SimulationConfig

# codes of the random streams: append, never renumber, or every survey changes
STREAMS = ("sky", "visit", "detector", "science", "bias", "dark", "flat", "reference")

FIRST_HOUR_UT = 3.0
SECONDS_BETWEEN_VISITS = 60.0
MJD_OF_ORDINAL_ZERO = 678576
TAI_MINUS_UTC = 37.0

# numbers within a night: science from 1, then the calibration frames of the first afternoon
BIAS_NUMBER, DARK_NUMBER, FLAT_NUMBER = 500, 600, 700


def random_stream(
    config: SimulationConfig, kind: str, visit: int = 0, detector: int = 0
) -> np.random.Generator:
    """Generator of one unit of work; it depends on nothing but its arguments and the survey's seed."""
    return np.random.default_rng([config.seed, STREAMS.index(kind), visit, detector])


@dataclass(frozen=True)
class Visit:
    """One exposure of the whole camera, as it really was.

    Boresight and rotation are those of the light; the header's may be off by the configured errors.
    Angles are degrees, `begin` is UTC, `transparency` a factor on the flux at airmass 1.
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

    @property
    def end(self) -> datetime.datetime:
        """UTC at which the shutter closes."""
        return self.begin + datetime.timedelta(seconds=self.exposure_time)

    @property
    def mid_mjd_tai(self) -> float:
        """Middle of the exposure, TAI MJD."""
        return tai_mjd(self.begin) + 0.5 * self.exposure_time / 86400


def tai_mjd(utc: datetime.datetime) -> float:
    """TAI MJD of a UTC time after 2017 (37 leap seconds; none is announced)."""
    seconds = utc.hour * 3600 + utc.minute * 60 + utc.second + utc.microsecond * 1e-6
    return utc.toordinal() - MJD_OF_ORDINAL_ZERO + (seconds + TAI_MINUS_UTC) / 86400


def science_visit(config: SimulationConfig, index: int) -> Visit:
    """The `index`-th science visit, counted from 0; it does not know how many there are."""
    night, number = divmod(index, config.visits_per_night)
    begin = _night_begin(config, night) + datetime.timedelta(seconds=SECONDS_BETWEEN_VISITS * number)
    visit_id = _visit_id(begin, number + 1)
    rng = random_stream(config, "visit", visit_id)
    radius = config.dither_radius * math.sqrt(rng.uniform()) / 3600
    angle = rng.uniform(0, 2 * math.pi)
    dec = config.field_dec + radius * math.cos(angle)
    ra = (config.field_ra + radius * math.sin(angle) / math.cos(math.radians(dec))) % 360
    rotation = config.rotations[index % len(config.rotations)]
    airmass = rng.uniform(*config.airmass_range)
    band = config.bands[index % len(config.bands)]
    loss = config.extinction[band] * (airmass - 1) + config.transparency_scatter * abs(rng.normal())
    seeing = rng.uniform(*config.seeing) * airmass**0.6
    phases = tuple(rng.uniform(0, 2 * math.pi, 12).tolist())
    pointing = config.header_pointing_error * rng.normal(size=2) / 3600
    return Visit(
        visit=visit_id,
        kind="science",
        band=band,
        begin=begin,
        exposure_time=config.exposure_time,
        ra=ra,
        dec=dec,
        rotation=rotation,
        header_ra=(ra + pointing[0] / math.cos(math.radians(dec))) % 360,
        header_dec=dec + pointing[1],
        header_rotation=rotation + config.header_rotation_error * rng.normal(),
        airmass=airmass,
        transparency=10 ** (-0.4 * loss),
        seeing=seeing,
        phases=phases,
    )


def science_visits(config: SimulationConfig) -> list[Visit]:
    """All science visits in order."""
    return [science_visit(config, index) for index in range(config.n_visits)]


def calibration_visits(config: SimulationConfig) -> list[Visit]:
    """Biases, darks and flats of the first afternoon, in order."""
    evening = _night_begin(config, 0) - datetime.timedelta(hours=3)
    plan = [("bias", "", BIAS_NUMBER + i, 0.0) for i in range(config.n_bias)]
    plan += [("dark", "", DARK_NUMBER + i, config.exposure_time) for i in range(config.n_dark)]
    for number, band in enumerate(config.distinct_bands):
        # nine bands of 33 numbers fill 700..996
        plan += [("flat", band, FLAT_NUMBER + 33 * number + i, 5.0) for i in range(config.n_flat)]
    visits = []
    for order, (kind, band, number, exposure_time) in enumerate(plan):
        begin = evening + datetime.timedelta(seconds=10 * order)
        visits.append(Visit(_visit_id(_night_begin(config, 0), number), kind, band, begin, exposure_time))
    return visits


def _night_begin(config: SimulationConfig, night: int) -> datetime.datetime:
    date = datetime.date.fromisoformat(config.start_date)
    date += datetime.timedelta(days=night * config.days_between_nights)
    return datetime.datetime.combine(date, datetime.time()) + datetime.timedelta(hours=FIRST_HOUR_UT)


def _visit_id(time: datetime.datetime, number: int) -> int:
    return int(f"{time:%y%m%d}") * 1000 + number
