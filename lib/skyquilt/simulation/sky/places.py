"""Simulation (design 7): directions and places of sources: the field's cap, the Galaxy, distances in space."""

from __future__ import annotations

import math

import numpy as np

# ICRS to Galactic axes: Hipparcos catalogue (ESA 1997), volume 1, section 1.5.3
TO_GALACTIC = np.array(
    [
        [-0.0548755604162154, -0.8734370902348850, -0.4838350155487132],
        [0.4941094278755837, -0.4448296299600112, 0.7469822444972189],
        [-0.8676661490190047, -0.1980763734312015, 0.4559837761750669],
    ]
)

HUBBLE_DISTANCE_MPC = 299792.458 / 70.0
OMEGA_MATTER = 0.3


def positions_in_cap(
    rng: np.random.Generator, n: int, ra: float, dec: float, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Uniform positions within `radius` of a place [deg]."""
    cos_distance = 1 - rng.uniform(size=n) * (1 - math.cos(math.radians(radius)))
    sin_distance = np.sqrt(1 - cos_distance**2)
    angle = rng.uniform(0, 2 * math.pi, n)
    north, east = sin_distance * np.cos(angle), sin_distance * np.sin(angle)
    sin0, cos0 = math.sin(math.radians(dec)), math.cos(math.radians(dec))
    declination = np.degrees(np.arcsin(sin0 * cos_distance + cos0 * north))
    right_ascension = ra + np.degrees(np.arctan2(east, cos0 * cos_distance - sin0 * north))
    return right_ascension % 360, declination


def cap_area(radius: float) -> float:
    """Of a cap of that radius [deg] -> [arcmin^2]."""
    return 2 * math.pi * (1 - math.cos(math.radians(radius))) * math.degrees(1) ** 2 * 3600


def beside(
    ra: np.ndarray, dec: np.ndarray, east: np.ndarray, north: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [deg] at small offsets [arcsec] from others."""
    return (ra + east / 3600 / np.cos(np.radians(dec))) % 360, dec + north / 3600


def luminosity_distance(redshift: np.ndarray) -> np.ndarray:
    """In a flat universe of 30 % matter and 70 km/s/Mpc, redshifts to 4 [Mpc]."""
    z = np.linspace(0, 4, 801)
    inverse = 1 / np.sqrt(OMEGA_MATTER * (1 + z) ** 3 + 1 - OMEGA_MATTER)
    comoving = np.concatenate([[0], np.cumsum(0.5 * (inverse[1:] + inverse[:-1]) * np.diff(z))])
    return (1 + redshift) * HUBBLE_DISTANCE_MPC * np.interp(redshift, z, comoving)


def distance_modulus(redshift: np.ndarray) -> np.ndarray:
    """Of the luminosity distance [mag]."""
    return 5 * np.log10(luminosity_distance(np.maximum(redshift, 1e-4))) + 25


def arcsec_per_kpc(redshift: np.ndarray) -> np.ndarray:
    """Angle of a proper length [arcsec/kpc]."""
    angular = luminosity_distance(np.maximum(redshift, 1e-4)) / (1 + redshift) ** 2
    return math.degrees(1) * 3600 / (1000 * angular)
