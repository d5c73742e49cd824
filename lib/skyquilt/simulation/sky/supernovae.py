"""Simulation (design 7): supernovae of type Ia in the field's galaxies.

A hot body that cools, with its near ultraviolet blocked, is scaled to a light curve in B: a rise of 18 days, a
decline of 1.1 mag in 15 days, a slow tail. Stretch and colour scatter as Guy et al. (2007), A&A 466, 11, found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.magnitudes import CATALOGUE_BANDS, band_wavelengths, njy_from_magnitude
from skyquilt.simulation.schedule import night_date, random_stream
from skyquilt.simulation.sky.galaxies import EXPONENTIAL_HALF_LIGHT, bulge_growth
from skyquilt.simulation.sky.places import beside, distance_modulus

if TYPE_CHECKING:
    from skyquilt.simulation.config import SimulationConfig
    from skyquilt.simulation.sky.catalogue import Sky

RISE_DAYS = 18.0
PEAK_B = -19.3
SECOND_RADIATION_NM_K = 1.438777e7
B_NM = 440.0
FARTHEST = 0.8
FAINTEST_FLUX = 1e-6


@dataclass(frozen=True)
class SupernovaeConfig:
    """Supernovae."""

    density: float = 0.1
    """Supernovae whose peak falls within `peak_days` [arcmin^-2]."""

    peak_days: tuple[float, float] = (-15.0, 30.0)
    """Their peaks are uniform between these days after `start_date` [day]."""

    scatter: float = 0.12
    """Scatter of their luminosity besides that of stretch [mag]."""

    def __post_init__(self) -> None:
        for name in ("density", "scatter"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if len(self.peak_days) != 2 or not self.peak_days[0] <= self.peak_days[1]:
            raise ValueError(f"peak_days must be two ascending numbers, got {self.peak_days}")


def supernova_columns(config: SimulationConfig, galaxies: dict) -> dict[str, object]:
    """Columns of supernovae in galaxies; `host` is the index of the galaxy.

    Galaxies have them in proportion to their r luminosity, up to redshift 0.8.
    """
    rng = random_stream(config, "supernovae")
    redshift = galaxies["redshift"]
    luminosity = galaxies["flux"]["r"] * 10 ** (0.4 * distance_modulus(redshift)) * (redshift < FARTHEST)
    # the galaxies say how large the field is
    area = redshift.size / config.galaxy_density if config.galaxy_density > 0 else 0.0
    n = round(area * config.supernovae.density) if luminosity.sum() > 0 else 0
    share = np.cumsum(luminosity)
    host = np.searchsorted(share, rng.uniform(size=n) * (share[-1] if n else 0.0), side="right")
    east, north = _within_hosts(rng, galaxies, host)
    ra, dec = beside(galaxies["ra"][host], galaxies["dec"][host], east, north)
    start = night_date(config, 0).toordinal() - 678576
    peak = start + rng.uniform(*config.supernovae.peak_days, n)
    stretch = np.clip(1 + 0.1 * rng.normal(size=n), 0.7, 1.2)
    magnitude = PEAK_B - 1.3 * (stretch - 1) + config.supernovae.scatter * rng.normal(size=n)
    columns = {
        "ra": ra,
        "dec": dec,
        "redshift": redshift[host],
        "reference_time": peak,
        "stretch": stretch,
        # absolute B at peak
        "amplitude": magnitude,
        "host": host.astype(np.int64),
    }
    columns["flux"] = _fluxes(redshift[host], stretch, magnitude, np.zeros(n))
    return columns


def _within_hosts(rng, galaxies, host):
    """Offsets (east, north) [arcsec] that follow the hosts' light: bulge or disk, sheared as it is."""
    n = host.size
    in_bulge = rng.uniform(size=n) < galaxies["bulge_share"]["r"][host]
    level = rng.uniform(size=n)
    grid = np.linspace(0, 12, 2400)
    within = 1 - (1 + EXPONENTIAL_HALF_LIGHT * grid) * np.exp(-EXPONENTIAL_HALF_LIGHT * grid)
    radii, growth = bulge_growth()
    # a bulge's last percents lie far outside of any host
    bulge_radius = np.interp(np.minimum(level, 0.97), growth, radii) * galaxies["bulge_radius"][host]
    radius = np.where(in_bulge, bulge_radius, np.interp(level, within, grid) * galaxies["disk_radius"][host])
    angle = rng.uniform(0, 2 * math.pi, n)
    g1, g2 = (
        np.where(in_bulge, galaxies[f"bulge_{g}"][host], galaxies[f"disk_{g}"][host]) for g in ("g1", "g2")
    )
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    norm = np.sqrt(1 - g1**2 - g2**2)
    west, north = ((1 + g1) * x + g2 * y) / norm, (g2 * x + (1 - g1) * y) / norm
    return -west, north


def supernova_brightness(sky: Sky, mjd: float) -> dict[str, np.ndarray]:
    """Fluxes by band at a TAI MJD of a sky of supernovae only; 1e-6 nJy before and long after."""
    days = (mjd - sky.reference_time) / (1 + sky.redshift)
    return _fluxes(sky.redshift, sky.stretch, sky.amplitude, days)


def _fluxes(redshift, stretch, magnitude, days):
    """Fluxes [nJy] in the bands at days after the peak at rest."""
    t = days / stretch
    temperature = np.clip(11000 - 230 * np.maximum(t, 0), 5200, None)
    absolute = magnitude + faded(t)
    normal = njy_from_magnitude(absolute + distance_modulus(redshift)) * (1 + redshift)
    fluxes = {}
    for band in CATALOGUE_BANDS:
        wavelength = band_wavelengths(band)[:, None] / (1 + redshift)
        shape = spectrum(wavelength, temperature) / spectrum(np.array([[B_NM]]), temperature)
        fluxes[band] = np.maximum(normal * shape.mean(axis=0), FAINTEST_FLUX)
    return fluxes


def faded(t: np.ndarray) -> np.ndarray:
    """Magnitudes in B below the peak at days from it, of stretch 1; inf before it began."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = -2.5 * np.log10(np.where(t > -RISE_DAYS, (1 - (t / RISE_DAYS) ** 2), 0.0) ** 1.5)
    after = np.maximum(t, 0)
    fall = 1.1 * (np.minimum(after, 30) / 15) ** 1.3 + 0.016 * np.maximum(after - 30, 0)
    return np.where(t < 0, rise, fall)


def spectrum(wavelength: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """f_nu of a hot body with the ultraviolet below 350 nm blocked, arbitrary units.

    Parameters
    ----------
    wavelength : ndarray [nm]
        At rest.
    temperature : ndarray [K]
    """
    planck = wavelength**-3.0 / np.expm1(SECOND_RADIATION_NM_K / (wavelength * temperature))
    return planck * np.exp(-(np.maximum(350.0 - wavelength, 0) / 60.0))
