"""Simulation (design 7): stars whose brightness changes: pulsating, eclipsing, flaring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.magnitudes import CATALOGUE_BANDS
from skyquilt.simulation.schedule import STREAMS, night_date, random_stream
from skyquilt.simulation.sky.places import cap_area, positions_in_cap
from skyquilt.simulation.sky.stars import DrawnStars, draw_stars, motions

if TYPE_CHECKING:
    from skyquilt.simulation.config import SimulationConfig
    from skyquilt.simulation.sky.catalogue import Sky

TYPES = ("", "rr_lyrae", "cepheid", "eclipsing", "flaring")
RR_LYRAE, CEPHEID, ECLIPSING, FLARING = range(1, 5)

PULSATION = {"u": 1.4, "g": 1.3, "r": 1.0, "i": 0.78, "z": 0.7, "y": 0.65}
"""Amplitude over that in r."""

FLARE = {"u": 5.0, "g": 1.0, "r": 0.35, "i": 0.12, "z": 0.06, "y": 0.04}
"""Relative brightening over that in g: a flare is blue, the star red."""

FLARES_PER_DAY = 3.0
FLARE_MINUTES = 20.0
ECLIPSE_WIDTH = 0.05
SECOND_ECLIPSE = 0.4

PULSATING_COLOURS = (1.3, 0.25, 0.0, -0.08, -0.1, -0.1)
"""Band minus r of RR Lyrae stars and cepheids [mag]."""


@dataclass(frozen=True)
class VariablesConfig:
    """Variable stars, besides the others; the reference catalogue does not mark them."""

    rr_lyrae: float = 0.03
    """RR Lyrae stars [arcmin^-2]."""

    cepheids: float = 0.02
    """Cepheids of the halo, with periods of 3 to 30 days [arcmin^-2]."""

    eclipsing: float = 0.1
    """Eclipsing binaries [arcmin^-2]."""

    flaring: float = 0.1
    """Flaring red dwarfs [arcmin^-2]."""

    def __post_init__(self) -> None:
        for name in ("rr_lyrae", "cepheids", "eclipsing", "flaring"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


def variable_columns(config: SimulationConfig, radius: float) -> dict[str, object]:
    """Columns of the field's variable stars."""
    rng = random_stream(config, "variables")
    area, options = cap_area(radius), config.variables
    densities = (options.rr_lyrae, options.cepheids, options.eclipsing, options.flaring)
    numbers = [round(area * d) if config.star_density > 0 else 0 for d in densities]
    parts = [
        _pulsating(rng, config, numbers[0], 0.6),
        _pulsating(rng, config, numbers[1], -2.5),
        draw_stars(rng, config, numbers[2], faintest_absolute=9.0) if numbers[2] else None,
        draw_stars(rng, config, numbers[3], brightest_absolute=9.0) if numbers[3] else None,
    ]
    kinds = [k for k, part in enumerate(parts, start=1) if part is not None for _ in part.magnitude]
    parts = [part for part in parts if part is not None]
    n = len(kinds)
    stars = DrawnStars(
        *(
            np.concatenate([getattr(p, name) for p in parts])
            if name != "colours"
            else np.concatenate([p.colours for p in parts], axis=1)
            for name in ("magnitude", "colours", "distance", "population")
        )
    )
    variability = np.array(kinds, dtype=np.int8)
    ra, dec = positions_in_cap(rng, n, config.field_ra, config.field_dec, radius)
    pm_ra, pm_dec, parallax = motions(rng, config, stars.distance, stars.population)
    period, amplitude = _laws(rng, variability)
    start = night_date(config, 0).toordinal() - 678576
    return {
        "ra": ra,
        "dec": dec,
        "pm_ra": pm_ra,
        "pm_dec": pm_dec,
        "parallax": parallax,
        "flux": stars.flux(),
        "variability": variability,
        "period": period,
        "amplitude": amplitude,
        "reference_time": start + np.where(np.isfinite(period), period, 1.0) * rng.uniform(size=n),
    }


def _pulsating(rng, config, n, absolute):
    """Old giants at distances that give them even magnitudes."""
    bright, faint = config.star_magnitudes
    low = min(max(bright, 15.5), faint)
    magnitude = rng.uniform(low, max(low, min(faint, 20.0)), n)
    distance = 10 ** (0.2 * (magnitude - absolute)) / 100
    colours = np.array(PULSATING_COLOURS)[:, None] + 0.02 * rng.normal(size=(len(CATALOGUE_BANDS), n))
    colours[CATALOGUE_BANDS.index("r")] = 0
    return DrawnStars(magnitude, colours, distance, np.full(n, 2))


def _laws(rng, variability):
    """Periods [day] and amplitudes [mag] by type; flares have none of the former."""
    limits = {
        RR_LYRAE: ((0.4, 0.75), (0.4, 1.0)),
        CEPHEID: ((3.0, 30.0), (0.3, 0.9)),
        ECLIPSING: ((0.3, 5.0), (0.1, 0.8)),
        FLARING: ((1.0, 1.0), (0.2, 2.0)),
    }
    period, amplitude = np.full(variability.size, np.nan), np.full(variability.size, np.nan)
    for k, (periods, amplitudes) in limits.items():
        on = variability == k
        drawn = np.exp(rng.uniform(*np.log(periods), on.sum()))
        period[on] = drawn if k != FLARING else np.nan
        amplitude[on] = rng.uniform(*amplitudes, on.sum())
    return period, amplitude


def relative_brightness(sky: Sky, mjd: float) -> dict[str, np.ndarray]:
    """Flux by band at a TAI MJD over `Sky.flux`, for a sky of variable stars only."""
    phase = np.mod((mjd - sky.reference_time) / np.where(np.isfinite(sky.period), sky.period, 1.0), 1.0)
    kind, amplitude = sky.variability, sky.amplitude
    pulse = np.where(kind == RR_LYRAE, _sawtooth(phase), _wave(phase))
    pulsates = (kind == RR_LYRAE) | (kind == CEPHEID)
    eclipse = np.where(kind == ECLIPSING, _eclipses(phase) * (1 - 10 ** (-0.4 * amplitude)), 0.0)
    flare = np.zeros(len(sky))
    for k in np.flatnonzero(kind == FLARING):
        flare[k] = _flares(sky.seed, int(sky.id[k]), mjd) * (10 ** (0.4 * amplitude[k]) - 1)
    return {
        band: np.where(pulsates, 10 ** (-0.4 * PULSATION[band] * amplitude * pulse), 1.0)
        * (1 - eclipse)
        * (1 + FLARE[band] * flare)
        for band in CATALOGUE_BANDS
    }


def _sawtooth(phase):
    """Magnitudes of an RR Lyrae star: a steep rise from phase 0 to 0.15, a slow decline; from -1/2 to 1/2."""
    rise = 0.5 * np.cos(np.pi * np.minimum(phase, 0.15) / 0.15)
    fall = -0.5 + (np.maximum(phase - 0.15, 0) / 0.85) ** 0.7
    return np.where(phase < 0.15, rise, fall)


def _wave(phase):
    """Magnitudes of a cepheid, from about -1/2 to 1/2."""
    return 0.43 * np.cos(2 * np.pi * phase) + 0.13 * np.cos(4 * np.pi * phase + 1.0)


def _eclipses(phase):
    """Depth over that of the first eclipse, at phase 0; the second is at 1/2."""
    first = np.minimum(phase, 1 - phase)
    second = np.abs(phase - 0.5)
    return sum(
        depth * np.clip(1.5 * (1 - distance / ECLIPSE_WIDTH), 0, 1)
        for depth, distance in ((1.0, first), (SECOND_ECLIPSE, second))
    )


def _flares(seed, star, mjd):
    """Sum of the flares of a star under way, each relative to its amplitude; drawn day by day."""
    total, decay = 0.0, FLARE_MINUTES / 1440
    for day in (math.floor(mjd) - 1, math.floor(mjd)):
        rng = np.random.default_rng([seed, STREAMS.index("flare"), star, day])
        begins = day + rng.uniform(size=rng.poisson(FLARES_PER_DAY))
        strength = rng.exponential(size=begins.size)
        since = mjd - begins
        total += float((strength * np.exp(-np.maximum(since, 0) / decay) * (since >= 0)).sum())
    return total
