"""Simulation (design 7): where Earth, Moon and observer are, and how they see the sky turn.

Earth's orbit and rotation are ERFA's (the IAU's standards of fundamental astronomy): heliocentric places are
good to some 10 km, sidereal time to the unmodelled UT1 - UTC (below 1 s, taken as 0). Times are TAI MJD.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MJD_ZERO = 2400000.5
TT_MINUS_TAI = 32.184 / 86400
TAI_MINUS_UTC = 37.0
KM_PER_AU = 149597870.7
LIGHT_AU_PER_DAY = 173.1446326846693
DARK_SUN_ALTITUDE = -12.0


def earth_position(mjd: float | np.ndarray) -> np.ndarray:
    """Heliocentric place of the Earth's centre, ICRS axes, shape (..., 3) [au]."""
    import erfa

    heliocentric, _ = erfa.epv00(MJD_ZERO, np.asarray(mjd, dtype=float) + TT_MINUS_TAI)
    return heliocentric["p"]


def earth_barycentric(mjd: float | np.ndarray) -> np.ndarray:
    """Barycentric place of the Earth's centre, ICRS axes, shape (..., 3) [au]."""
    import erfa

    _, barycentric = erfa.epv00(MJD_ZERO, np.asarray(mjd, dtype=float) + TT_MINUS_TAI)
    return barycentric["p"]


def moon_position(mjd: float | np.ndarray) -> np.ndarray:
    """Geocentric place of the Moon, ICRS axes, shape (..., 3) [au]."""
    import erfa

    return erfa.moon98(MJD_ZERO, np.asarray(mjd, dtype=float) + TT_MINUS_TAI)["p"]


def direction(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Unit vectors, shape (..., 3), of ICRS positions [deg]."""
    alpha, delta = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=-1)


def position(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ICRS position [deg] of vectors, shape (..., 3)."""
    x, y, z = np.moveaxis(vector, -1, 0)
    return np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))


@dataclass(frozen=True)
class Site:
    """Place of the telescope: longitude (east positive) and geodetic latitude [deg], elevation [m]."""

    longitude: float
    latitude: float
    elevation: float

    def zenith(self, mjd: float | np.ndarray) -> np.ndarray:
        """Unit vectors towards the zenith (normal of the ellipsoid), ICRS axes, shape (..., 3)."""
        up = direction(self.longitude, self.latitude)
        return np.einsum("...ji,j->...i", self._to_earth(mjd), up)

    def place(self, mjd: float | np.ndarray) -> np.ndarray:
        """Heliocentric place of the observer, ICRS axes, shape (..., 3) [au]."""
        import erfa

        longitude, latitude = math.radians(self.longitude), math.radians(self.latitude)
        on_earth = erfa.gd2gc(1, longitude, latitude, self.elevation) / (1000 * KM_PER_AU)
        return earth_position(mjd) + np.einsum("...ji,j->...i", self._to_earth(mjd), on_earth)

    @staticmethod
    def _to_earth(mjd):
        """Matrices from celestial to terrestrial axes."""
        import erfa

        mjd = np.asarray(mjd, dtype=float)
        return erfa.c2t00b(MJD_ZERO, mjd + TT_MINUS_TAI, MJD_ZERO, mjd - TAI_MINUS_UTC / 86400, 0.0, 0.0)

    def altitude(self, mjd: float | np.ndarray, ra: float, dec: float) -> np.ndarray:
        """Altitude of a position without refraction [deg]."""
        return np.degrees(np.arcsin(np.clip(self.zenith(mjd) @ direction(ra, dec), -1, 1)))

    def parallactic_angle(self, mjd: float, ra: float, dec: float) -> float:
        """Position angle of the zenith at a position, east of north, in -180..180 [deg]."""
        east, north = tangent_axes(ra, dec)
        zenith = self.zenith(mjd)
        return math.degrees(math.atan2(float(zenith @ east), float(zenith @ north)))

    def hour_angle(self, mjd: float, ra: float, dec: float) -> float:
        """Of a position, westwards of the meridian, in -12..12 [h]."""
        on_earth = self._to_earth(mjd) @ direction(ra, dec)
        angle = self.longitude - math.degrees(math.atan2(on_earth[1], on_earth[0]))
        return ((angle + 180) % 360 - 180) / 15

    def sun_altitude(self, mjd: np.ndarray) -> np.ndarray:
        """Altitude of the Sun's centre [deg]."""
        sun = -earth_position(mjd)
        sine = (self.zenith(mjd) * sun).sum(axis=-1) / np.linalg.norm(sun, axis=-1)
        return np.degrees(np.arcsin(sine))


def tangent_axes(ra: float, dec: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors towards east and north at a position [deg]."""
    alpha, delta = math.radians(ra), math.radians(dec)
    east = np.array([-math.sin(alpha), math.cos(alpha), 0.0])
    north = np.array(
        [-math.sin(delta) * math.cos(alpha), -math.sin(delta) * math.sin(alpha), math.cos(delta)]
    )
    return east, north


def airmass_of(altitude: float | np.ndarray) -> np.ndarray:
    """Relative airmass at an altitude of 0 deg or more: Kasten & Young (1989), Applied Optics 28, 4735."""
    altitude = np.maximum(altitude, 0.0)
    return 1 / (np.sin(np.radians(altitude)) + 0.50572 * (altitude + 6.07995) ** -1.6364)
