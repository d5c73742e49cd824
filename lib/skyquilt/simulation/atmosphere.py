"""Simulation (design 7): what the air does to light: refraction, clouds, turbulence, and the sky's own glow.

Refraction is a shift of every source towards the zenith by its own colours and zenith distance; the shift of
the reference spectrum at the boresight is the telescope's to follow and is taken off. Within a band it draws a
source out into a short spectrum, whose second moment is added to the PSF's. Clouds and turbulence are sums of
plane waves over the field, in no polynomial's span.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.magnitudes import (
    band_wavelengths,
    magnitude_from_njy,
    photon_shares,
    reference_flux,
)
from skyquilt.simulation.schedule import observing_site, random_stream
from skyquilt.simulation.solar_system import (
    KM_PER_AU,
    airmass_of,
    direction,
    earth_position,
    moon_position,
    position,
)

if TYPE_CHECKING:
    from skyquilt.simulation.config import SimulationConfig
    from skyquilt.simulation.schedule import Visit

ARCMIN_PER_RADIAN = 60 * math.degrees(1)
MAS_PER_RADIAN = 3.6e6 * math.degrees(1)
N_WAVES = 24
TURBULENCE_WAVELENGTHS = (1.5, 15.0)
CLOUD_WAVELENGTHS = (8.0, 60.0)
"""Shortest and longest waves of turbulence and of clouds [arcmin]."""

CLOUD_CONTRAST = 0.3
"""Standard deviation of the clouds' extinction over the sky, relative to its mean."""

AIRGLOW_SHARE = 0.6
"""Part of the dark sky that is glow of the high atmosphere and grows with airmass."""

MOON_COLOUR = {"u": 0.2, "g": 0.1, "r": 0.35, "i": 0.7, "z": 0.9, "y": 1.0}
"""Moonlit sky, V minus band [mag]; the Moon's light scattered by air is bluer than the Sun's."""


@dataclass(frozen=True)
class AtmosphereConfig:
    """The air above the telescope."""

    refraction: bool = True
    """Differential refraction: by zenith distance, by colour, and the spectrum within a band."""

    pressure: float = 0.0
    """Pressure at the telescope; 0: that of the site's elevation [hPa]."""

    temperature: float = 10.0
    """Temperature at the telescope [deg C]."""

    displacement: float = 5.0
    """Standard deviation per axis of the turbulence's displacement field over the sky, new for each visit;
    0 switches it off [mas]."""

    clouds: float = 0.01
    """Mean extinction by clouds, exponentially distributed over visits and structured over the field
    [mag]."""

    transparency_scatter: float = 0.02
    """Grey scatter of the transparency from visit to visit [mag]."""

    extinction: Mapping[str, float] = field(
        default_factory=lambda: {"u": 0.45, "g": 0.18, "r": 0.1, "i": 0.07, "z": 0.05, "y": 0.12}
    )
    """Loss per airmass beyond 1 of the reference spectrum, by band [mag]."""

    extinction_colour: Mapping[str, float] = field(
        default_factory=lambda: {"u": -0.03, "g": -0.015, "r": -0.004, "i": -0.002, "z": 0.0, "y": 0.0}
    )
    """Its change with the source's g - r, by band [mag/mag]."""

    airglow: bool = True
    """The sky's own brightness grows with airmass."""

    moonlight: float = 0.0
    """Scattered moonlight, in units of what the model of Krisciunas and Schaefer says; 0 switches it off."""

    sky_scatter: float = 0.03
    """Scatter of the sky's brightness from visit to visit [mag]."""

    sky_gradient: float = 0.03
    """Relative change of the sky from centre to edge of the focal plane, its direction the visit's own."""

    def __post_init__(self) -> None:
        for name in (
            "pressure",
            "displacement",
            "clouds",
            "transparency_scatter",
            "moonlight",
            "sky_scatter",
            "sky_gradient",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.sky_gradient >= 0.9:
            raise ValueError(f"sky_gradient must be below 0.9, got {self.sky_gradient}")


def refractivity(wavelength: np.ndarray, pressure: float, temperature: float) -> np.ndarray:
    """n - 1 of dry air: Edlen (1953) as in Filippenko (1982), PASP 94, 715, equations 1 and 2.

    Parameters
    ----------
    wavelength : ndarray [nm]
    pressure : float [hPa]
    temperature : float [deg C]
    """
    s2 = (1000.0 / np.asarray(wavelength)) ** 2
    standard = 1e-6 * (64.328 + 29498.1 / (146 - s2) + 255.4 / (41 - s2))
    mm = pressure / 1.33322
    density = mm * (1 + (1.049 - 0.0157 * temperature) * 1e-6 * mm) / (720.883 * (1 + 0.003661 * temperature))
    return standard * density


def pressure_at(elevation: float) -> float:
    """Of the standard atmosphere at an elevation [m] -> [hPa]."""
    return 1013.25 * (1 - 2.25577e-5 * elevation) ** 5.25588


def refraction_angle(index: np.ndarray, altitude: np.ndarray) -> np.ndarray:
    """Refraction [rad] of air of refractivity `index` at a true altitude [deg] above 15.

    Green, Spherical Astronomy (1985), section 4.3: the second term is that of a curved exponential
    atmosphere of 8 km.
    """
    tangent = 1 / np.tan(np.radians(altitude))
    return index * ((1 - 0.00125) * tangent - 0.00125 * tangent**3)


@dataclass(frozen=True)
class Waves:
    """A sum of plane waves of unit variance over the tangent plane.

    Attributes
    ----------
    vectors : ndarray, shape (n, 2)
        Wave vectors [rad/arcmin].
    phases : ndarray, shape (n,)
    """

    vectors: np.ndarray
    phases: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelengths: tuple[float, float], n: int = N_WAVES) -> Waves:
        """Waves with isotropic directions and log-uniform wavelengths [arcmin]."""
        # one in each sector and each octave's share: a few waves then have the variance of many
        angle = np.pi * (rng.permutation(n) + rng.uniform(size=n)) / n
        length = np.exp(
            np.log(wavelengths[0])
            + np.log(wavelengths[1] / wavelengths[0]) * (np.arange(n) + rng.uniform(size=n)) / n
        )
        vectors = (2 * np.pi / length)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return cls(vectors, rng.uniform(0, 2 * np.pi, n))

    def value(self, xi: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Value at standard coordinates [arcmin]; mean 0, variance 1 over the plane."""
        argument = np.multiply.outer(xi, self.vectors[:, 0]) + np.multiply.outer(eta, self.vectors[:, 1])
        return math.sqrt(2 / self.phases.size) * np.sin(argument + self.phases).sum(axis=-1)

    def shift(self, xi: np.ndarray, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A field without curl: waves along their own direction; variance 1 of each component."""
        argument = np.multiply.outer(xi, self.vectors[:, 0]) + np.multiply.outer(eta, self.vectors[:, 1])
        wave = math.sqrt(4 / self.phases.size) * np.sin(argument + self.phases)
        unit = self.vectors / np.linalg.norm(self.vectors, axis=1)[:, None]
        return wave @ unit[:, 0], wave @ unit[:, 1]


@dataclass(frozen=True)
class Atmosphere:
    """The air during one visit.

    Attributes
    ----------
    zenith : ndarray, shape (3,)
        Unit vector towards the zenith, ICRS axes, in the middle of the visit.
    refractivities : ndarray, shape (7,)
        n - 1 at `band_wavelengths`; zeros without refraction.
    sky_factor : float
        Sky over the configured dark sky.
    """

    config: AtmosphereConfig
    visit: Visit
    zenith: np.ndarray
    refractivities: np.ndarray
    turbulence: Waves
    clouds: Waves
    sky_factor: float

    def shares(self, flux: Mapping[str, np.ndarray]) -> np.ndarray:
        """Shares of photons at the band's wavelengths, shape (n, 7)."""
        return photon_shares(flux, self.visit.band)

    @functools.cached_property
    def _reference(self) -> float:
        """Refractivity for the reference spectrum."""
        return float((self.shares(reference_flux()) @ self.refractivities)[0])

    def dispersion(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shift, spread) along the direction to the zenith at the boresight, shape (n,) [arcsec].

        The shift is that against the reference spectrum, positive towards the zenith; the spread is the
        standard deviation of the spectrum's photons.
        """
        mean = shares @ self.refractivities
        spread = np.sqrt(np.maximum(shares @ self.refractivities**2 - mean**2, 0))
        unit = refraction_angle(1.0, self.visit.altitude) * MAS_PER_RADIAN / 1000
        return (mean - self._reference) * unit, spread * unit

    def image(
        self, ra: np.ndarray, dec: np.ndarray, shares: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """ICRS positions [deg] as the telescope images them: refracted and displaced by turbulence.

        Parameters
        ----------
        ra, dec : ndarray, shape (n,)
            Positions without atmosphere [deg].
        shares : ndarray, shape (n, 7), or None
            Of `shares`; None takes the reference spectrum for all.
        """
        ra, dec = np.asarray(ra, dtype=float), np.asarray(dec, dtype=float)
        if self.refractivities.any():
            index = self._reference if shares is None else shares @ self.refractivities
            vectors = self._refracted(direction(ra, dec), index)
            ra, dec = self._tracked(vectors)
        if self.config.displacement > 0:
            east, north = self.turbulence.shift(*self._arcmin(ra, dec))
            scale = self.config.displacement / 3.6e6
            ra = (ra + scale * east / np.cos(np.radians(dec))) % 360
            dec = dec + scale * north
        return ra, dec

    def _refracted(self, vectors, index):
        """Unit vectors moved towards the zenith."""
        cosine = vectors @ self.zenith
        sine = np.sqrt(np.maximum(1 - cosine**2, 1e-30))
        # light from below 15 deg is on no detector
        altitude = np.maximum(np.degrees(np.arcsin(cosine)), 15.0)
        angle = refraction_angle(index, altitude)[..., None]
        up = (self.zenith - vectors * cosine[..., None]) / sine[..., None]
        return vectors * np.cos(angle) + up * np.sin(angle)

    def _tracked(self, vectors):
        """Positions [deg] of refracted directions, turned back by the rotation that keeps the boresight."""
        target = direction(self.visit.ra, self.visit.dec)
        seen = self._refracted(target[None], self._reference)[0]
        axis = np.cross(seen, target)
        sine, cosine = np.linalg.norm(axis), float(seen @ target)
        axis = axis / max(sine, 1e-30)
        along = vectors @ axis
        turned = vectors * cosine + np.cross(axis, vectors) * sine + axis * (along * (1 - cosine))[..., None]
        return position(turned)

    def _arcmin(self, ra, dec):
        """Offsets from the boresight along east and north [arcmin]; distant positions are folded in."""
        east = ((np.asarray(ra) - self.visit.ra + 180) % 360 - 180) * math.cos(math.radians(self.visit.dec))
        return 60 * east, 60 * (np.asarray(dec) - self.visit.dec)

    def transparency(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Clouds' factor on the flux, relative to the visit's mean one."""
        if self.visit.cloud_loss == 0:
            return np.ones(np.shape(ra))
        # never clearer than without clouds
        structure = np.maximum(CLOUD_CONTRAST * self.clouds.value(*self._arcmin(ra, dec)), -1)
        return 10 ** (-0.4 * self.visit.cloud_loss * structure)

    def colour_factor(self, flux: Mapping[str, np.ndarray]) -> np.ndarray:
        """Extinction's factor for a spectrum, relative to the reference spectrum's."""
        reference = reference_flux()
        colour = magnitude_from_njy(flux["g"]) - magnitude_from_njy(flux["r"])
        standard = magnitude_from_njy(reference["g"]) - magnitude_from_njy(reference["r"])
        slope = self.config.extinction_colour.get(self.visit.band, 0.0) * self.visit.airmass
        return 10 ** (-0.4 * slope * np.clip(colour - standard, -1.5, 1.5))

    def sky_pattern(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Sky over the focal plane relative to its middle: a gradient and a gentle wave.

        Parameters
        ----------
        u, v : ndarray
            Place in the focal plane over the radius of the farthest corner; they broadcast.
        """
        p = self.visit.phases
        slope = math.cos(p[9]) * u + math.sin(p[9]) * v
        wave = np.sin(3.0 * u + p[10]) * np.sin(2.5 * v + p[11])
        return 1 + self.config.sky_gradient * (0.8 * slope + 0.2 * wave)


def make_atmosphere(config: SimulationConfig, visit: Visit) -> Atmosphere:
    """The air of one visit; it depends on the seed and the visit alone."""
    air = config.atmosphere
    rng = random_stream(config, "atmosphere", visit.visit)
    turbulence, clouds = Waves.draw(rng, TURBULENCE_WAVELENGTHS), Waves.draw(rng, CLOUD_WAVELENGTHS)
    scatter = 10 ** (-0.4 * air.sky_scatter * float(rng.normal()))
    pressure = air.pressure or pressure_at(config.site_elevation)
    index = refractivity(band_wavelengths(visit.band), pressure, air.temperature)
    zenith = observing_site(config).zenith(visit.mid_mjd_tai)
    glow = 1 + AIRGLOW_SHARE * (visit.airmass - 1) if air.airglow else 1.0
    moon = air.moonlight * moonlight(visit, zenith, air.extinction["r"]) if air.moonlight > 0 else 0.0
    dark = 10 ** (-0.4 * config.sky_brightness[visit.band])
    moonlit = moon * 10 ** (0.4 * MOON_COLOUR[visit.band])
    return Atmosphere(
        config=air,
        visit=visit,
        zenith=zenith,
        refractivities=index if air.refraction else np.zeros_like(index),
        turbulence=turbulence,
        clouds=clouds,
        sky_factor=(glow + moonlit / dark) * scatter,
    )


def moonlight(visit: Visit, zenith: np.ndarray, extinction: float) -> float:
    """Sky brightness by the Moon in V, as 10^(-0.4 mag/arcsec^2); 0 while it is down.

    Krisciunas and Schaefer (1991), PASP 103, 1033, equations 3, 15, 20 and 21.

    Parameters
    ----------
    extinction : float [mag per airmass]
    """
    moon, sun = moon_position(visit.mid_mjd_tai), -earth_position(visit.mid_mjd_tai)
    distance = float(np.linalg.norm(moon))
    moon = moon / distance
    altitude = math.degrees(math.asin(float(np.clip(moon @ zenith, -1, 1))))
    if altitude <= 0:
        return 0.0
    elongation = math.degrees(math.acos(float(np.clip(moon @ sun / np.linalg.norm(sun), -1, 1))))
    phase = 180 - elongation
    illuminance = 10 ** (-0.4 * (3.84 + 0.026 * phase + 4e-9 * phase**4))
    illuminance *= (384400 / (distance * KM_PER_AU)) ** 2
    rho = math.degrees(math.acos(float(np.clip(moon @ direction(visit.ra, visit.dec), -1, 1))))
    scattering = 10**5.36 * (1.06 + math.cos(math.radians(rho)) ** 2) + 10 ** (6.15 - rho / 40)
    if rho < 10:
        scattering += 6.2e7 / max(rho, 0.3) ** 2
    x_moon, x_field = (float(airmass_of(a)) for a in (altitude, visit.altitude))
    nanolamberts = (
        scattering
        * illuminance
        * 10 ** (-0.4 * extinction * x_moon)
        * (1 - 10 ** (-0.4 * extinction * x_field))
    )
    magnitude = (20.7233 - math.log(nanolamberts / 34.08)) / 0.92104
    return 10 ** (-0.4 * magnitude)


def towards_zenith(visit: Visit, rotation: float, mirrored: bool) -> tuple[float, float]:
    """Unit vector in the focal plane (x, y) along which the zenith lies from the boresight.

    Parameters
    ----------
    rotation : float
        Position angle of focal plane +y [deg].
    mirrored : bool
        As in `Optics`.
    """
    angle = math.radians(visit.parallactic_angle - rotation)
    return (math.sin(angle) if mirrored else -math.sin(angle)), math.cos(angle)
