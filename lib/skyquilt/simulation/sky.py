"""Simulation (design 7): the known sky, stars and galaxies, and a reference catalogue drawn from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from skyquilt.simulation.config import SimulationConfig
from skyquilt.simulation.magnitudes import CATALOGUE_BANDS, njy_from_magnitude
from skyquilt.simulation.schedule import random_stream

MAS = 1 / 3.6e6
OBLIQUITY = math.radians(23.4392911)
REFERENCE_BANDS = ("g", "r", "i")


@dataclass(frozen=True)
class Sky:
    """The sources of a field, one array element per source.

    Positions are ICRS degrees at `epoch` (Julian year), motions mas/yr (`pm_ra` times cos dec), parallax mas,
    fluxes nJy above the atmosphere per band, sizes arcsec, shears in the sense of galsim with the first
    axis towards west and the second towards north (as seen on the focal plane at rotation 0).
    """

    epoch: float
    id: np.ndarray
    is_star: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    pm_ra: np.ndarray
    pm_dec: np.ndarray
    parallax: np.ndarray
    flux: dict[str, np.ndarray]
    half_light_radius: np.ndarray
    g1: np.ndarray
    g2: np.ndarray
    is_bulge: np.ndarray

    def __len__(self) -> int:
        return self.id.size

    def select(self, where: np.ndarray) -> Sky:
        """The sources that an index or boolean array picks."""
        values = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, dict):
                value = {band: flux[where] for band, flux in value.items()}
            elif isinstance(value, np.ndarray):
                value = value[where]
            values[item.name] = value
        return Sky(**values)

    def positions_at(self, mjd: float) -> tuple[np.ndarray, np.ndarray]:
        """Astrometric positions (proper motion and parallax applied) at a time, ICRS [deg].

        Parallax is counted from the Sun, not the barycentre: 1 % of itself.
        """
        years = 2000 + (mjd - 51544.5) / 365.25 - self.epoch
        earth = earth_position(mjd)
        alpha, delta = np.radians(self.ra), np.radians(self.dec)
        east = earth[0] * np.sin(alpha) - earth[1] * np.cos(alpha)
        north = (earth[0] * np.cos(alpha) + earth[1] * np.sin(alpha)) * np.sin(delta) - earth[2] * np.cos(
            delta
        )
        ra = self.ra + (self.pm_ra * years + self.parallax * east) * MAS / np.cos(delta)
        dec = self.dec + (self.pm_dec * years + self.parallax * north) * MAS
        return ra % 360, dec


def earth_position(mjd: float) -> np.ndarray:
    """Heliocentric place of the Earth, equatorial (x, y, z) [au], from the mean elements of the Sun.

    Astronomical Almanac, section C, low precision formulae: 0.01 deg and 1e-4 au until 2050; they count
    longitude from the equinox of date, which precession (50.29 arcsec a year) takes back to 2000.
    """
    days = mjd - 51544.5
    anomaly = math.radians(357.528 + 0.9856003 * days)
    centre = 1.915 * math.sin(anomaly) + 0.020 * math.sin(2 * anomaly)
    longitude = math.radians(280.460 + (0.9856474 - 3.8247e-5) * days + centre)
    radius = 1.00014 - 0.01671 * math.cos(anomaly) - 0.00014 * math.cos(2 * anomaly)
    sun = [
        math.cos(longitude),
        math.cos(OBLIQUITY) * math.sin(longitude),
        math.sin(OBLIQUITY) * math.sin(longitude),
    ]
    return -radius * np.array(sun)


def simulate_sky(config: SimulationConfig, radius: float) -> Sky:
    """All stars and galaxies within `radius` [deg] of the field's centre.

    The catalogue depends on the seed and on the options of sky and radius, not on the visits.
    """
    rng = random_stream(config, "sky")
    area = 2 * math.pi * (1 - math.cos(math.radians(radius))) * math.degrees(1) ** 2 * 3600
    n_star, n_galaxy = round(area * config.star_density), round(area * config.galaxy_density)
    n = n_star + n_galaxy
    is_star = np.arange(n) < n_star
    ra, dec = _positions_in_cap(rng, n, config.field_ra, config.field_dec, radius)
    magnitude = np.concatenate(
        [
            _power_law_magnitudes(rng, n_star, config.star_magnitudes, config.star_slope),
            _power_law_magnitudes(rng, n_galaxy, config.galaxy_magnitudes, config.galaxy_slope),
        ]
    )
    colours = np.concatenate([_star_colours(rng, n_star), _galaxy_colours(rng, n_galaxy)], axis=1)
    size = config.galaxy_half_light_radius * 0.9 ** (magnitude - 22) * np.exp(0.3 * rng.normal(size=n))
    shear = np.minimum(rng.rayleigh(1.0, n) * config.galaxy_ellipticity, 0.7)
    angle = rng.uniform(0, 2 * math.pi, n)
    motion = config.proper_motion * rng.normal(size=(2, n)) * is_star
    return Sky(
        epoch=config.reference_epoch,
        id=np.arange(1, n + 1, dtype=np.int64),
        is_star=is_star,
        ra=ra,
        dec=dec,
        pm_ra=motion[0],
        pm_dec=motion[1],
        parallax=config.parallax * rng.exponential(size=n) * is_star,
        flux={band: njy_from_magnitude(magnitude + colour) for band, colour in zip(CATALOGUE_BANDS, colours)},
        half_light_radius=np.where(is_star, 0.0, np.clip(size, 0.1, 3.0)),
        g1=np.where(is_star, 0.0, shear * np.cos(angle)),
        g2=np.where(is_star, 0.0, shear * np.sin(angle)),
        is_bulge=~is_star & (rng.uniform(size=n) < 0.3),
    )


def _positions_in_cap(rng, n, ra, dec, radius):
    """Uniform positions in a spherical cap [deg]."""
    cos_distance = 1 - rng.uniform(size=n) * (1 - math.cos(math.radians(radius)))
    sin_distance = np.sqrt(1 - cos_distance**2)
    angle = rng.uniform(0, 2 * math.pi, n)
    north, east = sin_distance * np.cos(angle), sin_distance * np.sin(angle)
    sin0, cos0 = math.sin(math.radians(dec)), math.cos(math.radians(dec))
    declination = np.degrees(np.arcsin(sin0 * cos_distance + cos0 * north))
    right_ascension = ra + np.degrees(np.arctan2(east, cos0 * cos_distance - sin0 * north))
    return right_ascension % 360, declination


def _power_law_magnitudes(rng, n, limits, slope):
    """Magnitudes with counts 10^(slope m) between two limits."""
    low, high = 10 ** (slope * limits[0]), 10 ** (slope * limits[1])
    return np.log10(low + rng.uniform(size=n) * (high - low)) / slope


def _star_colours(rng, n):
    """Band minus r [mag] of dwarfs, rows as CATALOGUE_BANDS: a locus with 0.03 mag of scatter."""
    t = rng.uniform(size=n)
    g_r = 0.25 + 1.15 * t
    r_i = 0.08 + 0.25 * t + 1.1 * np.clip(t - 0.6, 0, None)
    locus = [g_r + 0.9 + 1.3 * t, g_r, np.zeros(n), -r_i, -1.55 * r_i, -1.8 * r_i]
    return _scattered(rng, locus, 0.03)


def _galaxy_colours(rng, n):
    """Band minus r [mag] of galaxies between blue and red, rows as CATALOGUE_BANDS."""
    t = rng.beta(1.5, 1.5, size=n)
    g_r, r_i = 0.2 + 0.9 * t, 0.1 + 0.5 * t
    locus = [g_r + 0.3 + 0.9 * t, g_r, np.zeros(n), -r_i, -1.5 * r_i, -1.8 * r_i]
    return _scattered(rng, locus, 0.08)


def _scattered(rng, locus, scatter):
    colours = np.array(locus) + scatter * rng.normal(size=(len(CATALOGUE_BANDS), len(locus[0])))
    colours[CATALOGUE_BANDS.index("r")] = 0.0
    return colours


def reference_catalogue(config: SimulationConfig, sky: Sky) -> dict[str, np.ndarray]:
    """Columns of a Gaia-like catalogue: noisy positions, motions and magnitudes at the reference epoch.

    All stars to the faint limit, and every galaxy to it that is small (half-light radius under 0.5") or one
    in five of the others, without motions (NaN): they are wrongly in. Errors are the scatter that is drawn.
    """
    rng = random_stream(config, "reference")
    magnitude = {band: 31.4 - 2.5 * np.log10(sky.flux[band]) for band in REFERENCE_BANDS}
    compact = sky.is_star | (sky.half_light_radius < 0.5) | (rng.uniform(size=len(sky)) < 0.2)
    chosen = compact & (magnitude["r"] < config.reference_faint_limit)
    faintness = np.clip((magnitude["r"] - 15) / 5.5, 0, 1)
    # 0.2 mas at 15 mag to 2 mas at 20.5; 2 to 20 mmag
    position_error = 0.2 * 10**faintness * np.where(sky.is_star, 1, 3)
    magnitude_error = 0.002 * 10**faintness
    noise = rng.normal(size=(5, len(sky)))
    columns: dict[str, np.ndarray] = {
        "source_id": 4_000_000_000_000 + 137 * sky.id,
        "ra": (sky.ra + noise[0] * position_error * MAS / np.cos(np.radians(sky.dec))) % 360,
        "ra_error": position_error,
        "dec": sky.dec + noise[1] * position_error * MAS,
        "dec_error": position_error.copy(),
        "parallax": sky.parallax + noise[2] * position_error,
        "parallax_error": position_error.copy(),
        # ten years of observations turn a position's error into a tenth of it per year
        "pmra": sky.pm_ra + noise[3] * 0.3 * position_error,
        "pmra_error": 0.3 * position_error,
        "pmdec": sky.pm_dec + noise[4] * 0.3 * position_error,
        "pmdec_error": 0.3 * position_error,
        "ref_epoch": np.full(len(sky), sky.epoch),
    }
    for name in ("parallax", "pmra", "pmdec"):
        columns[name] = np.where(sky.is_star, columns[name], np.nan)
        columns[f"{name}_error"] = np.where(sky.is_star, columns[f"{name}_error"], np.nan)
    for band in REFERENCE_BANDS:
        columns[f"phot_{band}_mag"] = magnitude[band] + magnitude_error * rng.normal(size=len(sky))
        columns[f"phot_{band}_mag_error"] = magnitude_error.copy()
    return {name: values[chosen] for name, values in columns.items()}


REFERENCE_UNITS = {"source_id": "", "ra": "deg", "dec": "deg", "ref_epoch": "yr"}


def write_reference(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write the reference catalogue as a FITS binary table; errors and motions are mas, mas/yr."""
    from astropy.io import fits

    definitions = []
    for name, values in columns.items():
        unit = REFERENCE_UNITS.get(name, _reference_unit(name))
        code = "K" if values.dtype.kind == "i" else "D"
        definitions.append(fits.Column(name=name, format=code, unit=unit or None, array=values))
    table = fits.BinTableHDU.from_columns(definitions, name="GAIA_LIKE")
    table.header["EPOCH"] = (float(columns["ref_epoch"][0]) if len(columns["ra"]) else 2016.0, "[yr] Julian")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)


def _reference_unit(name: str) -> str:
    if name.startswith("phot"):
        return "mag"
    return "mas/yr" if name.startswith("pm") else "mas"
