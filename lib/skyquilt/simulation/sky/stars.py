"""Simulation (design 7): stars of three Galactic populations, with distances from which all else follows.

Density along the line of sight: Juric et al. (2008), ApJ 673, 864 (two exponential disks and a flattened power
law). Luminosity function: rounded from Bochanski et al. (2010), AJ 139, 2679, and for white dwarfs from Harris
et al. (2006), AJ 131, 571. Velocities: Schoenrich, Binney and Dehnen (2010), MNRAS 403, 1829, and Juric et al.'s
companion, Bond et al. (2010), ApJ 716, 1. Extinction: coefficients of Schlafly and Finkbeiner (2011).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.magnitudes import CATALOGUE_BANDS, njy_from_magnitude
from skyquilt.simulation.schedule import random_stream
from skyquilt.simulation.sky.places import TO_GALACTIC, beside, cap_area, positions_in_cap
from skyquilt.simulation.solar_system import direction, tangent_axes

if TYPE_CHECKING:
    from skyquilt.simulation.config import SimulationConfig

KMS_PER_MAS_KPC = 4.740470463
DUST_COEFFICIENTS = {"u": 4.24, "g": 3.30, "r": 2.29, "i": 1.70, "z": 1.26, "y": 1.09}
DUST_HEIGHT_KPC = 0.12
SUN_RADIUS_KPC, SUN_HEIGHT_KPC = 8.0, 0.025
SOLAR_MOTION = np.array([11.1, 12.24, 7.25])
LOCUS_SCATTER = 0.03
DISTANCES_KPC = np.exp(np.linspace(math.log(0.01), math.log(120.0), 141))
MAGNITUDE_STEP = 0.25


@dataclass(frozen=True)
class StarsConfig:
    """Populations of stars; `star_density` says how many there are, the Galaxy which."""

    dust: float = 0.03
    """Reddening E(B - V) of the whole line of sight [mag]."""

    motions: bool = True
    """Stars move."""

    parallaxes: bool = True
    """Stars have parallaxes."""

    fast: float = 0.1
    """Near stars besides, that move by more than 0.1 arcsec a year [arcmin^-2]."""

    def __post_init__(self) -> None:
        for name in ("dust", "fast"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class ClusterConfig:
    """A cluster of old stars that makes a part of the field crowded."""

    density: float = 0.0
    """Its stars within `star_magnitudes`; 0 for no cluster [arcmin^-2]."""

    radius: float = 40.0
    """It is evenly dense within this radius [arcsec]."""

    east: float = 120.0
    """Of its middle from the field's centre, to the east [arcsec]."""

    north: float = 120.0
    """The same to the north [arcsec]."""

    distance: float = 12.0
    """Distance of all its stars [kpc]."""

    def __post_init__(self) -> None:
        for name in ("density", "radius", "distance"):
            if getattr(self, name) < 0 or (name != "density" and getattr(self, name) == 0):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True)
class Locus:
    """A sequence of stars: number per pc^3 and mag, and colours, over absolute r magnitude."""

    magnitude: tuple[float, ...]
    number: tuple[float, ...]
    u_g: tuple[float, ...]
    g_r: tuple[float, ...]
    r_i: tuple[float, ...]
    i_z: tuple[float, ...]
    z_y: tuple[float, ...]

    def colours(self, magnitude: np.ndarray) -> np.ndarray:
        """Band minus r [mag], rows as CATALOGUE_BANDS."""
        ug, gr, ri, iz, zy = (
            np.interp(magnitude, self.magnitude, values)
            for values in (self.u_g, self.g_r, self.r_i, self.i_z, self.z_y)
        )
        return np.array([ug + gr, gr, np.zeros(np.shape(magnitude)), -ri, -ri - iz, -ri - iz - zy])


MAIN_SEQUENCE = Locus(
    (3.0, 3.6, 4.2, 4.8, 5.4, 6.2, 7.2, 8.2, 9.2, 10.2, 11.2, 12.4, 14.0, 16.0),
    (3e-4, 9e-4, 1.8e-3, 2.6e-3, 3e-3, 3.1e-3, 3.6e-3, 5e-3, 7.5e-3, 9.5e-3, 9e-3, 6.5e-3, 4e-3, 2.5e-3),
    (1.05, 1.05, 1.10, 1.20, 1.40, 1.80, 2.30, 2.60, 2.65, 2.65, 2.65, 2.70, 2.80, 3.00),
    (0.18, 0.26, 0.36, 0.44, 0.55, 0.75, 1.02, 1.25, 1.38, 1.42, 1.43, 1.46, 1.55, 1.70),
    (0.03, 0.08, 0.12, 0.16, 0.20, 0.28, 0.40, 0.55, 0.77, 1.02, 1.27, 1.60, 2.05, 2.60),
    (0.00, 0.02, 0.04, 0.06, 0.08, 0.13, 0.20, 0.30, 0.43, 0.56, 0.70, 0.90, 1.15, 1.45),
    (0.00, 0.01, 0.02, 0.03, 0.04, 0.07, 0.10, 0.15, 0.21, 0.28, 0.36, 0.48, 0.65, 0.90),
)
GIANTS = Locus(
    (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0),
    (2e-6, 1e-5, 4e-5, 2e-4, 7e-5, 1e-4, 2e-4),
    (2.60, 2.10, 1.70, 1.50, 1.40, 1.30, 1.25),
    (1.15, 0.95, 0.78, 0.68, 0.64, 0.60, 0.55),
    (0.50, 0.38, 0.30, 0.26, 0.24, 0.22, 0.20),
    (0.28, 0.20, 0.15, 0.12, 0.11, 0.10, 0.09),
    (0.14, 0.10, 0.07, 0.06, 0.05, 0.05, 0.04),
)
WHITE_DWARFS = Locus(
    (10.2, 11.2, 12.2, 13.2, 14.2, 15.2),
    (1e-4, 4e-4, 8e-4, 1.2e-3, 1.6e-3, 8e-4),
    (-0.30, 0.10, 0.40, 0.50, 0.80, 1.10),
    (-0.40, -0.30, -0.10, 0.10, 0.35, 0.60),
    (-0.32, -0.22, -0.10, 0.04, 0.14, 0.24),
    (-0.28, -0.18, -0.10, 0.00, 0.08, 0.14),
    (-0.20, -0.12, -0.08, 0.00, 0.03, 0.06),
)
SEQUENCES = (MAIN_SEQUENCE, GIANTS, WHITE_DWARFS)


@dataclass(frozen=True)
class Population:
    """Part of the Galaxy: local share, end of its main sequence, metals (as a shift along it), velocities."""

    share: float
    turn_off: float
    colour_shift: float
    dispersion: tuple[float, float, float]
    lag: float


POPULATIONS = (
    Population(1.0, 3.0, 0.0, (35.0, 22.0, 18.0), 15.0),
    Population(0.12, 4.0, 0.3, (65.0, 45.0, 38.0), 45.0),
    Population(0.005, 4.2, 0.8, (140.0, 100.0, 95.0), 220.0),
)


def density(population: int, distance: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Number density of a population along a line of sight, over that of the thin disk at the Sun.

    Parameters
    ----------
    population : int
        Index into `POPULATIONS`.
    distance : ndarray [kpc]
    towards : ndarray, shape (3,)
        Galactic unit vector.
    """
    x = SUN_RADIUS_KPC - distance * towards[0]
    radius = np.hypot(x, distance * towards[1])
    height = distance * towards[2] + SUN_HEIGHT_KPC
    share = POPULATIONS[population].share
    if population == 2:
        return share * (np.hypot(radius, height / 0.64) / SUN_RADIUS_KPC) ** -2.77
    length, thickness = ((2.6, 0.3), (3.6, 0.9))[population]
    return share * np.exp((SUN_RADIUS_KPC - radius) / length - np.abs(height) / thickness)


def dust_in_front(distance: np.ndarray, towards: np.ndarray, total: float) -> np.ndarray:
    """E(B - V) up to a distance [kpc] in a layer of exponential height [mag]."""
    return total * (1 - np.exp(-distance * max(abs(float(towards[2])), 0.02) / DUST_HEIGHT_KPC))


@dataclass(frozen=True)
class DrawnStars:
    """Stars without places: apparent r and colours [mag], distance [kpc], population."""

    magnitude: np.ndarray
    colours: np.ndarray
    distance: np.ndarray
    population: np.ndarray

    def flux(self) -> dict[str, np.ndarray]:
        """By band [nJy]."""
        return {
            band: njy_from_magnitude(self.magnitude + c) for band, c in zip(CATALOGUE_BANDS, self.colours)
        }


def draw_stars(
    rng: np.random.Generator,
    config: SimulationConfig,
    n: int,
    faintest_absolute: float = math.inf,
    brightest_absolute: float = -math.inf,
) -> DrawnStars:
    """Stars of the field's line of sight within `star_magnitudes`, and between two absolute magnitudes."""
    towards = TO_GALACTIC @ direction(config.field_ra, config.field_dec)
    cells, weight = counts_grid(config, towards)
    keep = (cells[:, 2] < faintest_absolute) & (cells[:, 2] > brightest_absolute)
    if not keep.any() or not weight[keep].sum() > 0:
        raise ValueError(f"no stars between magnitudes {config.star_magnitudes} in this direction")
    cells, total = cells[keep], np.cumsum(weight[keep])
    bright, faint = config.star_magnitudes
    parts, have = [], 0
    step = math.log(DISTANCES_KPC[1] / DISTANCES_KPC[0])
    while have < n:
        m = n - have + 64
        chosen = cells[np.searchsorted(total, rng.uniform(size=m) * total[-1], side="right")]
        distance = chosen[:, 3] * np.exp(step * (rng.uniform(size=m) - 0.5))
        absolute = chosen[:, 2] + MAGNITUDE_STEP * (rng.uniform(size=m) - 0.5)
        dust = DUST_COEFFICIENTS["r"] * dust_in_front(distance, towards, config.stars.dust)
        apparent = absolute + 5 * np.log10(100 * distance) + dust
        inside = (apparent >= bright) & (apparent <= faint)
        part = np.column_stack([chosen[:, :2], absolute, distance, apparent])[inside]
        parts.append(part)
        have += len(part)
    sequence, population, absolute, distance, apparent = np.concatenate(parts)[:n].T
    return _coloured(rng, config, towards, sequence, population.astype(int), absolute, distance, apparent)


def counts_grid(config: SimulationConfig, towards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells of (sequence, population, absolute r, distance) and how many stars per solid angle each has.

    Cells from half a cell beyond `star_magnitudes`; numbers are relative.
    """
    bright, faint = config.star_magnitudes
    cells, weights = [], []
    dust = DUST_COEFFICIENTS["r"] * dust_in_front(DISTANCES_KPC, towards, config.stars.dust)
    modulus = 5 * np.log10(100 * DISTANCES_KPC) + dust
    for s, locus in enumerate(SEQUENCES):
        absolute = np.arange(locus.magnitude[0], locus.magnitude[-1], MAGNITUDE_STEP) + MAGNITUDE_STEP / 2
        for p, population in enumerate(POPULATIONS):
            number = np.interp(absolute, locus.magnitude, locus.number)
            if s == 0:
                number = number * (absolute > population.turn_off)
            column = density(p, DISTANCES_KPC, towards) * DISTANCES_KPC**3
            weight = number[:, None] * column
            apparent = absolute[:, None] + modulus
            near = (apparent > bright - MAGNITUDE_STEP) & (apparent < faint + MAGNITUDE_STEP) & (weight > 0)
            rows, columns = np.nonzero(near)
            ones = np.ones(rows.size)
            cells.append(np.column_stack([s * ones, p * ones, absolute[rows], DISTANCES_KPC[columns]]))
            weights.append(weight[near])
    return np.concatenate(cells), np.concatenate(weights)


def _coloured(rng, config, towards, sequence, population, absolute, distance, apparent):
    """Colours by place on the sequence, metals, scatter and dust."""
    shift = np.array([p.colour_shift for p in POPULATIONS])[population]
    colours = np.zeros((len(CATALOGUE_BANDS), absolute.size))
    for s, locus in enumerate(SEQUENCES):
        on = sequence == s
        # the poorer in metals, the bluer at the same luminosity
        colours[:, on] = locus.colours(absolute[on] - (shift[on] if s == 0 else 0))
    scatter = LOCUS_SCATTER * rng.normal(size=colours.shape)
    reddening = dust_in_front(distance, towards, config.stars.dust)
    for k, band in enumerate(CATALOGUE_BANDS):
        if band != "r":
            colours[k] += scatter[k] + (DUST_COEFFICIENTS[band] - DUST_COEFFICIENTS["r"]) * reddening
    return DrawnStars(apparent, colours, distance, population)


def motions(
    rng: np.random.Generator, config: SimulationConfig, distance: np.ndarray, population: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pm_ra cos dec, pm_dec) [mas/yr] and parallax [mas] of stars in the field's direction."""
    dispersion = np.array([p.dispersion for p in POPULATIONS])[population]
    lag = np.array([p.lag for p in POPULATIONS])[population]
    velocity = dispersion * rng.normal(size=dispersion.shape) - SOLAR_MOTION
    velocity[:, 1] -= lag
    east, north = tangent_axes(config.field_ra, config.field_dec)
    along = velocity @ TO_GALACTIC
    scale = config.stars.motions / (KMS_PER_MAS_KPC * distance)
    parallax = config.stars.parallaxes / distance
    return along @ east * scale, along @ north * scale, parallax


def star_columns(config: SimulationConfig, radius: float) -> dict[str, object]:
    """Columns of the field's stars, near fast ones at the end."""
    rng = random_stream(config, "stars")
    area = cap_area(radius)
    n, n_fast = round(area * config.star_density), round(area * config.stars.fast)
    if config.star_density == 0:
        n_fast = 0
    stars = draw_stars(rng, config, n) if n else _none()
    ra, dec = positions_in_cap(rng, n, config.field_ra, config.field_dec, radius)
    pm_ra, pm_dec, parallax = motions(rng, config, stars.distance, stars.population)
    fast = _fast_stars(rng, config, n_fast)
    fast_ra, fast_dec = positions_in_cap(rng, n_fast, config.field_ra, config.field_dec, radius)
    speed, angle = rng.uniform(50, 200, n_fast), rng.uniform(0, 2 * math.pi, n_fast)
    motion = config.stars.motions * speed / (KMS_PER_MAS_KPC * fast.distance)
    flux, fast_flux = stars.flux(), fast.flux()
    return {
        "ra": np.concatenate([ra, fast_ra]),
        "dec": np.concatenate([dec, fast_dec]),
        "pm_ra": np.concatenate([pm_ra, motion * np.sin(angle)]),
        "pm_dec": np.concatenate([pm_dec, motion * np.cos(angle)]),
        "parallax": np.concatenate([parallax, config.stars.parallaxes / fast.distance]),
        "flux": {band: np.concatenate([flux[band], fast_flux[band]]) for band in CATALOGUE_BANDS},
    }


def _fast_stars(rng, config, n):
    """Dwarfs, one in six of them white, so near that they move by more than 0.1 arcsec a year."""
    white = rng.uniform(size=n) < 1 / 6
    bright, faint = config.star_magnitudes
    distance = np.exp(rng.uniform(math.log(0.02), math.log(0.1), n))
    apparent = rng.uniform(min(max(bright, 15.5), faint), min(max(faint, bright), 20.5), n)
    absolute = apparent - 5 * np.log10(100 * distance)
    sequence = np.where(white, 2, 0)
    towards = TO_GALACTIC @ direction(config.field_ra, config.field_dec)
    population = np.zeros(n, int)
    return _coloured(rng, config, towards, sequence, population, absolute, distance, apparent)


def _none() -> DrawnStars:
    return DrawnStars(np.zeros(0), np.zeros((len(CATALOGUE_BANDS), 0)), np.zeros(0), np.zeros(0, int))


def cluster_columns(config: SimulationConfig) -> dict[str, object]:
    """Columns of the cluster's stars."""
    rng = random_stream(config, "cluster")
    cluster = config.cluster
    n = round(math.pi * (cluster.radius / 60) ** 2 * cluster.density)
    towards = TO_GALACTIC @ direction(config.field_ra, config.field_dec)
    distance = np.full(n, cluster.distance)
    dust = DUST_COEFFICIENTS["r"] * dust_in_front(distance, towards, config.stars.dust)
    modulus = 5 * math.log10(100 * cluster.distance) + (dust[0] if n else 0.0)
    grid, weight, sequence = _old_sequence(
        config.star_magnitudes[0] - modulus, config.star_magnitudes[1] - modulus
    )
    pick = np.searchsorted(np.cumsum(weight), rng.uniform(size=n) * weight.sum(), side="right")
    pick = np.minimum(pick, grid.size - 1)
    absolute = grid[pick] + 0.05 * (rng.uniform(size=n) - 0.5)
    population = np.full(n, 2)
    stars = _coloured(
        rng, config, towards, sequence[pick], population, absolute, distance, absolute + modulus
    )
    r, angle = cluster.radius * np.sqrt(rng.uniform(size=n)), rng.uniform(0, 2 * math.pi, n)
    centre = beside(config.field_ra, config.field_dec, cluster.east, cluster.north)
    ra, dec = beside(*centre, r * np.sin(angle), r * np.cos(angle))
    mean = rng.normal(scale=100 / (KMS_PER_MAS_KPC * cluster.distance), size=2) * config.stars.motions
    return {
        "ra": ra,
        "dec": dec,
        "pm_ra": np.full(n, mean[0]),
        "pm_dec": np.full(n, mean[1]),
        "parallax": config.stars.parallaxes / distance,
        "flux": stars.flux(),
    }


def _old_sequence(brightest, faintest):
    """Absolute magnitudes in steps of 0.05, numbers and sequences of an old population between two limits."""
    grid = np.arange(-2, 16, 0.05)
    grid = grid[(grid >= brightest) & (grid <= faintest)]
    if grid.size == 0:
        grid = np.array([np.clip(faintest, -2.0, 16.0)])
    dwarf = grid > POPULATIONS[2].turn_off
    number = np.where(
        dwarf,
        np.interp(grid, MAIN_SEQUENCE.magnitude, MAIN_SEQUENCE.number),
        np.interp(grid, GIANTS.magnitude, GIANTS.number) * (grid <= 3.0)
        + np.interp(grid, (3.0, 4.2), (2e-4, 1.8e-3)) * (grid > 3.0),
    )
    return grid, number, np.where(dwarf, 0, 1)
