"""Simulation (design 7): one detector of one visit: geometry, photometry and PSF that its sources share."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.atmosphere import Atmosphere, make_atmosphere, towards_zenith
from skyquilt.simulation.magnitudes import band_wavelengths, njy_from_magnitude, reference_flux
from skyquilt.simulation.optics import Optics, Pointing, focal_from_pixel, placed_detector, sky_from_pixel
from skyquilt.simulation.point_spread import SEEING_EXPONENT, LocalProfile, PointSpread
from skyquilt.simulation.point_spread_truth import effective_fwhm
from skyquilt.simulation.wavefront import ZERNIKES, aberrations

if TYPE_CHECKING:
    from skyquilt.instrument import Detector
    from skyquilt.simulation.config import SimulationConfig
    from skyquilt.simulation.schedule import Visit

SKY_NODES = 33


@dataclass(frozen=True)
class Frame:
    """One detector of one visit.

    Attributes
    ----------
    detector : Detector
        Where it truly is, which may not be where the camera's definition has it.
    njy_per_electron : float
        Where the response is one and clouds have their mean, for the reference spectrum, all snaps together.
    sky_electrons, read_noise : float
        Sky in the middle of the focal plane, all snaps together [e/px]; mean read noise of the amplifiers, of
        one snap [e].
    zernikes : ndarray, shape (8,)
        Z4 to Z11 of a wavefront sensor besides its defocus, NaN elsewhere [micron].
    chromatic : bool
        Whether turbulence is narrower in red light.
    """

    optics: Optics
    detector: Detector
    visit: Visit
    atmosphere: Atmosphere
    point_spread: PointSpread
    njy_per_electron: float
    sky_electrons: float
    read_noise: float
    zernikes: np.ndarray
    chromatic: bool = True

    @property
    def pointing(self) -> Pointing:
        """Where the light came from."""
        return Pointing(self.visit.ra, self.visit.dec, self.visit.rotation)

    @property
    def pixel_arcsec(self) -> float:
        """Nominal pixel scale [arcsec]."""
        return self.optics.plate_scale * self.detector.pixel_size

    @property
    def noise_electrons(self) -> float:
        """Noise of an empty pixel where response and sky are as in the middle, all snaps together [e]."""
        return math.sqrt(self.sky_electrons + self.visit.n_snaps * self.read_noise**2)

    @property
    def middle(self) -> tuple[float, float]:
        """Pixel in the middle of the detector."""
        return 0.5 * (self.detector.nx - 1), 0.5 * (self.detector.ny - 1)

    def place(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u, v): place in the focal plane over the radius of the farthest corner."""
        x_mm, y_mm = focal_from_pixel(self.detector, x, y)
        return x_mm / self.optics.radius, y_mm / self.optics.radius

    @functools.cached_property
    def _turn(self) -> np.ndarray:
        angle = math.radians(self.detector.rotation_deg)
        cosine, sine = math.cos(angle), math.sin(angle)
        return self.detector.pixel_size * np.array([[cosine, -sine], [sine, cosine]])

    @functools.cached_property
    def zenith_direction(self) -> tuple[float, float]:
        """Unit vector in the focal plane towards the zenith."""
        return towards_zenith(self.visit, self.visit.rotation, self.optics.mirrored)

    def profile(self, x: float, y: float, widening: float = 1.0, spread: float = 0.0) -> LocalProfile:
        """The PSF at a pixel; without further arguments that of monochromatic light.

        Parameters
        ----------
        widening : float
            Of the turbulence by the source's colour.
        spread : float
            Standard deviation of the source's spectrum along the direction to the zenith [arcsec].
        """
        x_mm, y_mm = (float(c) for c in focal_from_pixel(self.detector, x, y))
        jacobian = self.optics.magnification(x_mm, y_mm) @ self._turn
        along = self.zenith_direction
        return self.point_spread.at(
            x_mm / self.optics.radius,
            y_mm / self.optics.radius,
            jacobian,
            widening,
            (spread * along[0], spread * along[1]),
        )

    @functools.cached_property
    def reference_spread(self) -> float:
        """Spread of the reference spectrum by refraction [arcsec]."""
        return float(self.atmosphere.dispersion(self.atmosphere.shares(reference_flux()))[1][0])

    def reference_profile(self, x: float, y: float) -> LocalProfile:
        """The PSF at a pixel of a source of the reference spectrum."""
        return self.profile(x, y, 1.0, self.reference_spread)

    def widening(self, shares: np.ndarray) -> np.ndarray:
        """Factor on the turbulence's FWHM by spectra, shape (n,), relative to the reference spectrum.

        Parameters
        ----------
        shares : ndarray, shape (n, 7)
            Of `Atmosphere.shares`.
        """
        if not self.chromatic:
            return np.ones(len(shares))
        wavelengths = band_wavelengths(self.visit.band)
        standard = self.atmosphere.shares(reference_flux()) @ wavelengths
        return (shares @ wavelengths / standard) ** SEEING_EXPONENT


def make_frame(
    config: SimulationConfig, optics: Optics, detector: Detector, visit: Visit, read_noise: float
) -> Frame:
    """Put together what one detector of a visit sees.

    Parameters
    ----------
    detector : Detector
        As the camera defines it; the frame has it where it truly is.
    read_noise : float
        Mean of its amplifiers [e].
    """
    atmosphere = make_atmosphere(config, visit)
    rate = config.electrons_per_second_at_20[visit.band] * visit.exposure_time
    sky = rate * 10 ** (-0.4 * (config.sky_brightness[visit.band] - 20)) * atmosphere.sky_factor
    spread = config.point_spread
    placed = placed_detector(config, detector)
    return Frame(
        optics=optics,
        detector=placed,
        visit=visit,
        atmosphere=atmosphere,
        point_spread=PointSpread(
            seeing=visit.seeing,
            optics_fwhm=spread.optics_fwhm,
            optics_share=spread.optics_share,
            ellipticity=spread.ellipticity,
            size_variation=spread.size_variation,
            phases=visit.phases,
        ),
        njy_per_electron=float(njy_from_magnitude(20.0)) / (rate * visit.transparency),
        sky_electrons=sky * (optics.plate_scale * detector.pixel_size) ** 2,
        read_noise=read_noise,
        zernikes=aberrations(config, visit, placed),
        chromatic=spread.chromatic,
    )


def sky_image(frame: Frame) -> np.ndarray:
    """Sky of all snaps before the response of the detector, float64 (ny, nx) [e].

    The pattern of the visit times the solid angle of each pixel: both so smooth that a spline through 33 x 33
    places is their equal.
    """
    from scipy.interpolate import RectBivariateSpline

    x, y = (np.linspace(0, size - 1, SKY_NODES) for size in (frame.detector.nx, frame.detector.ny))
    grid_x, grid_y = np.meshgrid(x, y)
    x_mm, y_mm = focal_from_pixel(frame.detector, grid_x, grid_y)
    pattern = frame.atmosphere.sky_pattern(x_mm / frame.optics.radius, y_mm / frame.optics.radius)
    values = frame.sky_electrons * pattern * frame.optics.area_factor(x_mm, y_mm)
    spline = RectBivariateSpline(y, x, values)
    return spline(np.arange(frame.detector.ny), np.arange(frame.detector.nx))


def frame_truth(frame: Frame) -> dict[str, object]:
    """One row of VISIT_DETECTOR_TRUTH; sky is that of the middle of the focal plane, PSF and clouds that of
    the detector's."""
    x, y = frame.middle
    fwhm = effective_fwhm(frame.reference_profile(x, y))
    ra, dec = sky_from_pixel(frame.optics, frame.detector, frame.pointing, np.array([x]), np.array([y]))
    return {
        "visit": frame.visit.visit,
        "detector": frame.detector.id,
        "band": frame.visit.band,
        "nJyPerElectron": frame.njy_per_electron,
        "skyElectrons": frame.sky_electrons,
        "noiseElectrons": frame.noise_electrons,
        "fwhmArcsec": fwhm * frame.pixel_arcsec,
        "fwhmPixels": fwhm,
        "cloudFactor": float(frame.atmosphere.transparency(ra, dec)[0]),
        "centreXmm": frame.detector.centre_mm[0],
        "centreYmm": frame.detector.centre_mm[1],
        "rotationDeg": frame.detector.rotation_deg,
        **{f"zernike{number}": float(value) for number, value in zip(ZERNIKES, frame.zernikes)},
    }


def visit_truth(config: SimulationConfig, visits: Sequence[Visit]) -> dict[str, list]:
    """Columns of VISIT_TRUTH of science visits."""
    air = [make_atmosphere(config, visit) for visit in visits]
    return {
        "visit": [v.visit for v in visits],
        "band": [v.band for v in visits],
        "ra": [v.ra for v in visits],
        "dec": [v.dec for v in visits],
        "rotation": [v.rotation for v in visits],
        "expMidptMJD": [v.mid_mjd_tai for v in visits],
        "nSnaps": [v.n_snaps for v in visits],
        "airmass": [v.airmass for v in visits],
        "hourAngle": [v.hour_angle for v in visits],
        "altitude": [v.altitude for v in visits],
        "parallacticAngle": [v.parallactic_angle for v in visits],
        "seeing": [v.seeing for v in visits],
        "transparency": [v.transparency for v in visits],
        "cloudLoss": [v.cloud_loss for v in visits],
        "skyFactor": [a.sky_factor for a in air],
    }
