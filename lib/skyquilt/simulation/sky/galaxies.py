"""Simulation (design 7): galaxies of bulge and disk, whose sizes and colours follow from luminosity and redshift.

Counts are a power law of the magnitude; redshifts go as z^2 exp(-(z/z0)^1.5) (Smail, Ellis and Fitchett 1994,
MNRAS 270, 245) with z0 growing with magnitude; sizes as Shen et al. (2003), MNRAS 343, 978, in round numbers.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.magnitudes import (
    BAND_CENTRE,
    CATALOGUE_BANDS,
    band_wavelengths,
    njy_from_magnitude,
)
from skyquilt.simulation.schedule import random_stream
from skyquilt.simulation.sky.places import arcsec_per_kpc, cap_area, distance_modulus, positions_in_cap

if TYPE_CHECKING:
    from skyquilt.simulation.config import SimulationConfig

EXPONENTIAL_HALF_LIGHT = 1.6783469900166605
"""Half-light radius of an exponential disk in scale lengths."""

DISK_THICKNESS = 0.15
COLOUR_SCATTER = 0.05
LARGEST_SHEAR = 0.7


@dataclass(frozen=True)
class GalaxiesConfig:
    """Properties of galaxies; `galaxy_density` says how many there are."""

    slope: float = 0.35
    """Number counts go as 10^(slope m)."""

    size: float = 1.0
    """Factor on the half-light radii."""

    round: bool = False
    """All galaxies are round."""

    def __post_init__(self) -> None:
        for name in ("slope", "size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def old_spectrum(wavelength: np.ndarray) -> np.ndarray:
    """f_nu of old stars over that at 550 nm, at rest: red, with a break at 400 nm."""
    visible = np.minimum(np.asarray(wavelength) / 550.0, 1.8) ** 1.8
    return visible * 10 ** (-0.4 * 1.2 / (1 + np.exp((wavelength - 400.0) / 10.0)))


def young_spectrum(wavelength: np.ndarray) -> np.ndarray:
    """f_nu of young stars over that at 550 nm, at rest: nearly flat, with a small break."""
    visible = np.minimum(np.asarray(wavelength) / 550.0, 1.6) ** 0.5
    return visible * 10 ** (-0.4 * 0.25 / (1 + np.exp((wavelength - 390.0) / 10.0)))


def band_fluxes(spectrum, redshift: np.ndarray) -> np.ndarray:
    """f_nu in the bands of a spectrum at rest seen at redshifts, shape (6, n), arbitrary but common units."""
    nodes = np.array([band_wavelengths(band) for band in CATALOGUE_BANDS])
    # nodes are spread evenly enough for colours: their weights differ by a factor of 3
    return spectrum(nodes[:, :, None] / (1 + redshift)).mean(axis=1)


def galaxy_columns(config: SimulationConfig, radius: float) -> dict[str, object]:
    """Columns of the field's galaxies."""
    rng = random_stream(config, "galaxies")
    n = round(cap_area(radius) * config.galaxy_density)
    ra, dec = positions_in_cap(rng, n, config.field_ra, config.field_dec, radius)
    magnitude = _power_law_magnitudes(rng, n, config.galaxy_magnitudes, config.galaxies.slope)
    z0 = np.clip(0.05 + 0.055 * (magnitude - 17), 0.04, None)
    redshift = np.clip(z0 * rng.gamma(2.0, size=n) ** (2 / 3), 0.005, 3.0)
    bulge_share, youth = _types(rng, magnitude, redshift)
    old, young = band_fluxes(old_spectrum, redshift), band_fluxes(young_spectrum, redshift)
    bulge = bulge_share * old
    disk = (1 - bulge_share) * ((1 - youth) * old + youth * young)
    colour_scatter = 10 ** (-0.4 * COLOUR_SCATTER * rng.normal(size=(len(CATALOGUE_BANDS), n)))
    r = CATALOGUE_BANDS.index("r")
    colour_scatter[r] = 1.0
    total = bulge + disk
    flux = njy_from_magnitude(magnitude) * total / total[r] * colour_scatter
    luminosity = _absolute_magnitude(magnitude, redshift, youth)
    bulge_radius, disk_radius = _radii(rng, luminosity, redshift, config.galaxies.size)
    shapes = _shears(rng, n, config.galaxies.round)
    return {
        "ra": ra,
        "dec": dec,
        "flux": dict(zip(CATALOGUE_BANDS, flux)),
        "bulge_share": dict(zip(CATALOGUE_BANDS, bulge / total)),
        "half_light_radius": composite_half_light_radius(bulge[r] / total[r], bulge_radius, disk_radius),
        "bulge_radius": bulge_radius,
        "disk_radius": disk_radius,
        "redshift": redshift,
        **shapes,
    }


def _power_law_magnitudes(rng, n, limits, slope):
    """Magnitudes with counts 10^(slope m) between two limits."""
    low, high = 10 ** (slope * limits[0]), 10 ** (slope * limits[1])
    return np.log10(low + rng.uniform(size=n) * (high - low)) / slope


def _absolute_magnitude(magnitude, redshift, youth):
    """Absolute r magnitude, with the K correction of the mixed spectrum."""
    wavelength = BAND_CENTRE["r"]

    def mixed(at):
        return (1 - youth) * old_spectrum(at) + youth * young_spectrum(at)

    correction = -2.5 * np.log10(
        (1 + redshift) * mixed(wavelength / (1 + redshift)) / mixed(np.full(redshift.shape, wavelength))
    )
    return magnitude - distance_modulus(redshift) - correction


def _types(rng, magnitude, redshift):
    """Share of the bulge at 550 nm at rest, and of young stars in the disk, of early and late types."""
    luminous = magnitude - distance_modulus(redshift)
    early = rng.uniform(size=magnitude.size) < np.clip(0.2 + 0.1 * (-20.0 - luminous), 0.05, 0.65)
    bulge = np.where(early, rng.beta(5, 2, magnitude.size), rng.beta(1, 5, magnitude.size))
    youth = np.where(early, rng.beta(1, 6, magnitude.size), rng.beta(3, 1.5, magnitude.size))
    return bulge, youth


def _radii(rng, luminosity, redshift, factor):
    """Half-light radii of bulge and disk [arcsec]."""
    n = luminosity.size
    scale = arcsec_per_kpc(redshift) * factor
    disk = 5.5 * 10 ** (-0.1 * (luminosity + 21)) * np.exp(0.3 * rng.normal(size=n)) * (1 + redshift) ** -0.7
    bulge = 2.2 * 10 ** (-0.2 * (luminosity + 21)) * np.exp(0.3 * rng.normal(size=n)) * (1 + redshift) ** -0.7
    disk = np.clip(disk * scale, 0.05, 4.0)
    return np.clip(np.minimum(bulge * scale, 1.5 * disk), 0.04, 4.0), disk


def _shears(rng, n, is_round):
    """Disks are inclined at random, bulges are flattened a little; both lie along one angle."""
    cosine = rng.uniform(size=n)
    disk = np.sqrt(cosine**2 * (1 - DISK_THICKNESS**2) + DISK_THICKNESS**2)
    bulge = np.maximum(rng.uniform(0.6, 1.0, n), disk)
    angle = rng.uniform(0, 2 * math.pi, n)
    shears = {}
    for name, ratio in (("disk", disk), ("bulge", bulge)):
        shear = np.minimum((1 - ratio) / (1 + ratio), LARGEST_SHEAR) * (not is_round)
        shears[f"{name}_g1"], shears[f"{name}_g2"] = shear * np.cos(angle), shear * np.sin(angle)
    return shears


@functools.cache
def bulge_growth() -> tuple[np.ndarray, np.ndarray]:
    """(radius in half-light radii, share of light within) of de Vaucouleurs' profile."""
    from scipy.special import gammainc

    radius = np.concatenate([[0], np.exp(np.linspace(math.log(1e-4), math.log(200), 600))])
    # Ciotti (1991), A&A 249, 99: gamma(8, b) is half of its whole at b = 7.6692
    return radius, gammainc(8, 7.669249443 * radius**0.25)


def disk_growth(radius: np.ndarray) -> np.ndarray:
    """Share of light of an exponential disk within a radius [half-light radii]."""
    x = EXPONENTIAL_HALF_LIGHT * np.asarray(radius)
    return 1 - (1 + x) * np.exp(-x)


def composite_half_light_radius(share: np.ndarray, bulge: np.ndarray, disk: np.ndarray) -> np.ndarray:
    """Radius that holds half of the light of bulge and disk, both round, by bisection [as the radii].

    Parameters
    ----------
    share : ndarray
        Of the bulge.
    bulge, disk : ndarray
        Half-light radii.
    """
    low, high = np.minimum(bulge, disk), np.maximum(bulge, disk)
    for _ in range(40):
        middle = 0.5 * (low + high)
        within = share * np.interp(middle / bulge, *bulge_growth()) + (1 - share) * disk_growth(middle / disk)
        low, high = np.where(within < 0.5, middle, low), np.where(within < 0.5, high, middle)
    return 0.5 * (low + high)
