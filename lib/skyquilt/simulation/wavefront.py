"""Simulation (design 7): detectors out of focus, on which stars are images of the telescope's pupil.

Geometric optics: light of a place in the pupil falls where the slope of the wavefront sends it, and turbulence
blurs the whole. The wavefront is a sum of annular defocus and the aberrations Z4 to Z11 of Noll (1976), JOSA
66, 207 (circular polynomials over the pupil's outer radius).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.extended_light import KOLMOGOROV
from skyquilt.simulation.schedule import random_stream

if TYPE_CHECKING:
    from skyquilt.instrument import Detector
    from skyquilt.simulation.config import SimulationConfig
    from skyquilt.simulation.schedule import Visit

ZERNIKES = tuple(range(4, 12))
PUPIL_GRID = 160
STEP = 0.5


@dataclass(frozen=True)
class WavefrontConfig:
    """Wavefront sensors: detectors whose purpose is wavefront."""

    defocus_micron: float = 400.0
    """Distance of the sensors from the focal surface; in front of it for even detector numbers, behind it
    for odd ones [micron]."""

    focal_ratio: float = 1.234
    """Focal length over diameter of the pupil."""

    obscuration: float = 0.61
    """Inner over outer radius of the annular pupil."""

    aberrations: float = 0.15
    """Standard deviation of each of Z4 to Z11, new for each visit and sensor [micron]."""

    def __post_init__(self) -> None:
        if self.defocus_micron < 0 or self.aberrations < 0 or not self.focal_ratio > 0:
            raise ValueError(
                "defocus_micron and aberrations must not be negative and focal_ratio must be positive, "
                f"got {self.defocus_micron}, {self.aberrations}, {self.focal_ratio}"
            )
        if not 0 <= self.obscuration < 0.95:
            raise ValueError(f"obscuration must be in 0..0.95, got {self.obscuration}")


def aberrations(config: SimulationConfig, visit: Visit, detector: Detector) -> np.ndarray:
    """Coefficients of Z4 to Z11 besides the sensor's own defocus, shape (8,) [micron]; NaN in focus."""
    if detector.purpose != "wavefront":
        return np.full(len(ZERNIKES), np.nan)
    rng = random_stream(config, "wavefront", visit.visit, detector.id)
    return config.wavefront.aberrations * rng.normal(size=len(ZERNIKES))


def defocus_sign(detector: Detector) -> int:
    """+1 in front of the focal surface, -1 behind it."""
    return 1 if detector.id % 2 == 0 else -1


def slopes(x: np.ndarray, y: np.ndarray, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the wavefront along x and y of the pupil, whose outer radius is 1 [micron].

    Parameters
    ----------
    x, y : ndarray
        Place in the pupil.
    coefficients : ndarray, shape (8,)
        Of Z4 to Z11 [micron].
    """
    r2 = x * x + y * y
    root3, root6, root8 = 2 * math.sqrt(3), math.sqrt(6), math.sqrt(8)
    root5 = math.sqrt(5)
    along_x = (
        2 * root3 * x,
        2 * root6 * y,
        2 * root6 * x,
        root8 * 6 * x * y,
        root8 * (9 * x * x + 3 * y * y - 2),
        root8 * 6 * x * y,
        root8 * 3 * (x * x - y * y),
        root5 * (24 * r2 - 12) * x,
    )
    along_y = (
        2 * root3 * y,
        2 * root6 * x,
        -2 * root6 * y,
        root8 * (3 * x * x + 9 * y * y - 2),
        root8 * 6 * x * y,
        root8 * 3 * (x * x - y * y),
        -root8 * 6 * x * y,
        root5 * (24 * r2 - 12) * y,
    )
    return (
        sum(c * s for c, s in zip(coefficients, along_x)),
        sum(c * s for c, s in zip(coefficients, along_y)),
    )


@dataclass(frozen=True)
class Donut:
    """Image of a star on a sensor out of focus, by its transform.

    Attributes
    ----------
    transform : ndarray, shape (n, n // 2 + 1)
        Of unit flux, turbulence and pixel included, centred on the chief ray.
    radius : float
        Of the outer edge, blur aside [px].
    half : int
        Half of the stamp's side [px].
    """

    transform: np.ndarray
    radius: float
    half: int

    def image(self, x: float, y: float, flux: float) -> tuple[np.ndarray, int, int]:
        """A star at a place [px]: (image, column and row of its first pixel)."""
        import scipy.fft

        n = self.transform.shape[0]
        first_x, first_y = round(x) - self.half, round(y) - self.half
        shift_x = np.exp(-2j * np.pi * np.fft.rfftfreq(n) / STEP * (x - first_x))
        shift_y = np.exp(-2j * np.pi * np.fft.fftfreq(n) / STEP * (y - first_y))
        image = scipy.fft.irfft2(self.transform * shift_x * shift_y[:, None], s=(n, n)) / STEP**2
        every, size = round(1 / STEP), 2 * self.half + 1
        cut = image[: size * every : every, : size * every : every]
        return flux * np.maximum(cut, 0.0), first_x, first_y


def make_donut(config: WavefrontConfig, detector: Detector, coefficients: np.ndarray, fwhm: float) -> Donut:
    """The star image of one sensor.

    Parameters
    ----------
    coefficients : ndarray, shape (8,)
        As of `aberrations` [micron].
    fwhm : float
        Of the turbulence [px].
    """
    import scipy.fft

    axis = (np.arange(PUPIL_GRID) + 0.5) / (PUPIL_GRID / 2) - 1
    px, py = np.meshgrid(axis, axis)
    r2 = px**2 + py**2
    inside = (r2 <= 1) & (r2 >= config.obscuration**2)
    px, py = px[inside], py[inside]
    pixel = detector.pixel_size * 1000
    radius = config.defocus_micron / (2 * config.focal_ratio) / pixel
    slope_x, slope_y = slopes(px, py, coefficients)
    # a ray of the pupil's edge leaves the focus under an angle of 1 / (2 N); a slope of the wavefront over the
    # pupil's radius moves it by 2 N times that slope
    scale = 2 * config.focal_ratio / pixel
    angle = -math.radians(detector.rotation_deg)
    x = defocus_sign(detector) * radius * px - scale * slope_x
    y = defocus_sign(detector) * radius * py - scale * slope_y
    x, y = math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y
    reach = float(max(np.abs(x).max(), np.abs(y).max()))
    half = math.ceil(reach + 6 * fwhm + 4)
    n = int(scipy.fft.next_fast_len(math.ceil((2 * half + 1) / (2 * STEP)), real=True)) * 2
    grid = _deposit(x / STEP, y / STEP, n)
    frequency_x = 2 * np.pi * np.fft.rfftfreq(n) / STEP
    frequency_y = 2 * np.pi * np.fft.fftfreq(n)[:, None] / STEP
    blur = np.exp(-KOLMOGOROV * (fwhm**2 * (frequency_x**2 + frequency_y**2)) ** (5 / 6))
    pixel_x, pixel_y = np.sinc(frequency_x / (2 * np.pi)), np.sinc(frequency_y / (2 * np.pi))
    return Donut(scipy.fft.rfft2(grid) * blur * pixel_x * pixel_y, max(radius, reach), half)


def _deposit(x, y, n):
    """Points of equal light shared among the four nearest elements of a periodic grid, sum 1."""
    grid = np.zeros((n, n))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - column, y - row
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            np.add.at(grid, ((row + dy) % n, (column + dx) % n), wx * wy / x.size)
    return grid
