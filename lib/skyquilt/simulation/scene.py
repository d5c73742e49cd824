"""Simulation (design 7): the light of the sky on one detector, and the truth about every source on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.config import SimulationConfig
from skyquilt.simulation.detector_effects import TrueDetector
from skyquilt.simulation.magnitudes import njy_from_magnitude
from skyquilt.simulation.optics import (
    Optics,
    Pointing,
    focal_from_pixel,
    pixel_from_sky,
    pixel_jacobian,
)
from skyquilt.simulation.point_spread import (
    LocalProfile,
    PointSpread,
    add_star,
    drawing_radius,
    effective_fwhm,
)
from skyquilt.simulation.schedule import Visit
from skyquilt.simulation.sky import Sky

if TYPE_CHECKING:
    from skyquilt.instrument import Detector

FAINTEST_IN_SKY_NOISE = 0.01
"""Surface brightness at which drawing ends, in units of the noise of an empty pixel."""

ISOLATION_ARCSEC = 3.0
ISOLATION_FLUX = 0.01

BRIGHT_GALAXY_ELECTRONS = 1e5
"""Galaxies above it are drawn with a tenth of galsim's usual tolerance on folded light."""


@dataclass(frozen=True)
class Frame:
    """One detector of one visit: geometry and photometry that all of its sources share.

    Attributes
    ----------
    njy_per_electron : float
        Where the response is one.
    sky_electrons, read_noise : float
        Sky in the middle of the focal plane [e/px], mean read noise of the amplifiers [e].
    """

    optics: Optics
    detector: Detector
    visit: Visit
    point_spread: PointSpread
    njy_per_electron: float
    sky_electrons: float
    read_noise: float

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
        """Noise of an empty pixel where response and sky are as in the middle [e]."""
        return math.sqrt(self.sky_electrons + self.read_noise**2)

    def place(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u, v): place in the focal plane over the radius of the farthest corner."""
        x_mm, y_mm = focal_from_pixel(self.detector, x, y)
        return x_mm / self.optics.radius, y_mm / self.optics.radius

    def profile(self, x: float, y: float) -> LocalProfile:
        """The PSF at a pixel."""
        u, v = self.place(x, y)
        angle = math.radians(self.detector.rotation_deg)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return self.point_spread.at(float(u), float(v), self.pixel_arcsec * turn)


def make_frame(
    config: SimulationConfig, optics: Optics, detector: Detector, visit: Visit, read_noise: float
) -> Frame:
    """Put together what one detector of a visit sees."""
    rate = config.electrons_per_second_at_20[visit.band] * visit.exposure_time
    sky = rate * 10 ** (-0.4 * (config.sky_brightness[visit.band] - 20))
    point_spread = PointSpread(
        seeing=visit.seeing,
        optics_fwhm=config.optics_fwhm,
        optics_share=config.optics_share,
        ellipticity=config.psf_ellipticity,
        size_variation=config.psf_size_variation,
        phases=visit.phases,
    )
    return Frame(
        optics=optics,
        detector=detector,
        visit=visit,
        point_spread=point_spread,
        njy_per_electron=float(njy_from_magnitude(20.0)) / (rate * visit.transparency),
        sky_electrons=sky * (optics.plate_scale * detector.pixel_size) ** 2,
        read_noise=read_noise,
    )


def sky_image(config: SimulationConfig, frame: Frame) -> np.ndarray:
    """Sky before the response of the detector, shape (ny, nx) [e]: a gradient and a gentle wave."""
    y, x = np.mgrid[: frame.detector.ny, : frame.detector.nx]
    u, v = frame.place(x, y)
    p = frame.visit.phases
    slope = math.cos(p[9]) * u + math.sin(p[9]) * v
    wave = np.sin(3.0 * u + p[10]) * np.sin(2.5 * v + p[11])
    return frame.sky_electrons * (1 + config.sky_gradient * (0.8 * slope + 0.2 * wave))


@dataclass(frozen=True)
class Scene:
    """Expected electrons of a detector, shape (ny, nx), and the columns of SOURCE_TRUTH."""

    expected: np.ndarray
    truth: dict[str, np.ndarray]


def draw_scene(config: SimulationConfig, frame: Frame, sky: Sky, detector_truth: TrueDetector) -> Scene:
    """Draw the sky of one visit onto one detector.

    Parameters
    ----------
    sky : Sky
        Of the whole field; only what reaches the detector is drawn.
    """
    mjd = frame.visit.mid_mjd_tai
    ra, dec = sky.positions_at(mjd)
    x, y = pixel_from_sky(frame.optics, frame.detector, frame.pointing, ra, dec)
    flux = sky.flux[frame.visit.band]
    electrons = flux / frame.njy_per_electron
    response = detector_truth.response
    background = sky_image(config, frame)
    light = background.copy()
    rows: list[tuple] = []
    for k in np.flatnonzero(_may_reach(frame, sky, x, y, electrons)):
        profile = frame.profile(x[k], y[k])
        if sky.is_star[k]:
            stamp = star_stamp(frame, profile, x[k], y[k], electrons[k])
        else:
            stamp = galaxy_stamp(frame, profile, sky, k, x[k], y[k], electrons[k])
        if stamp is None:
            continue
        pixels, where = stamp
        light[where] += pixels
        if _inside(frame.detector, x[k], y[k]):
            received = pixels * response[where]
            level = background[where] * response[where]
            well = detector_truth.full_well[_nearest_pixel(frame.detector, x[k], y[k])]
            brightest = float((received + level).max())
            rows.append((k, optimal_snr(received, level + frame.read_noise**2), brightest, brightest / well))
    chosen = np.array([row[0] for row in rows], dtype=np.int64)
    numbers = np.array([row[1:] for row in rows], dtype=float).reshape(-1, 3)
    n = chosen.size
    truth = {
        "visit": np.full(n, frame.visit.visit, dtype=np.int64),
        "detector": np.full(n, frame.detector.id, dtype=np.int64),
        "id": sky.id[chosen],
        "kind": np.where(sky.is_star[chosen], "star", "galaxy"),
        "band": np.full(n, frame.visit.band),
        "x": x[chosen],
        "y": y[chosen],
        "ra": ra[chosen],
        "dec": dec[chosen],
        "flux": flux[chosen],
        "electrons": electrons[chosen],
        "snr": numbers[:, 0],
        "isolated": isolated(x, y, flux, chosen, ISOLATION_ARCSEC / frame.pixel_arcsec),
        "peakElectrons": numbers[:, 1],
        "fullWellFraction": numbers[:, 2],
    }
    return Scene(light * response, truth)


def _may_reach(frame, sky, x, y, electrons):
    """Sources whose stamp may touch the detector; galaxies are given 40 FWHM and 20 radii."""
    fwhm = frame.visit.seeing * (1 + frame.point_spread.size_variation) / frame.pixel_arcsec
    galaxy = 40 * fwhm + 20 * sky.half_light_radius / frame.pixel_arcsec
    star = drawing_radius(fwhm, electrons, FAINTEST_IN_SKY_NOISE * frame.noise_electrons)
    margin = np.where(sky.is_star, star, galaxy) + 1
    detector = frame.detector
    return (x > -margin) & (x < detector.nx + margin) & (y > -margin) & (y < detector.ny + margin)


def _inside(detector, x, y):
    return -0.5 <= x < detector.nx - 0.5 and -0.5 <= y < detector.ny - 0.5


def _nearest_pixel(detector, x, y):
    return min(max(round(y), 0), detector.ny - 1), min(max(round(x), 0), detector.nx - 1)


def _window(detector, x, y, radius):
    """(y, x) slices of the square about a place that lie on the detector, or None."""
    x0, x1 = max(math.floor(x - radius), 0), min(math.ceil(x + radius) + 1, detector.nx)
    y0, y1 = max(math.floor(y - radius), 0), min(math.ceil(y + radius) + 1, detector.ny)
    return None if x0 >= x1 or y0 >= y1 else (slice(y0, y1), slice(x0, x1))


def star_stamp(frame: Frame, profile: LocalProfile, x: float, y: float, electrons: float):
    """Noise-free star before the response: (pixels, slices on the detector), or None when it misses."""
    radius = float(drawing_radius(profile.fwhm[0], electrons, FAINTEST_IN_SKY_NOISE * frame.noise_electrons))
    where = _window(frame.detector, x, y, radius)
    if where is None:
        return None
    pixels = np.zeros((where[0].stop - where[0].start, where[1].stop - where[1].start))
    add_star(pixels, profile, x - where[1].start, y - where[0].start, electrons, radius)
    return pixels, where


def galaxy_stamp(frame: Frame, profile: LocalProfile, sky: Sky, k: int, x: float, y: float, electrons: float):
    """Noise-free galaxy with the PSF, before the response: (pixels, slices on the detector), or None."""
    import galsim

    bright = electrons > BRIGHT_GALAXY_ELECTRONS
    params = galsim.GSParams(folding_threshold=5e-4 if bright else 2e-3, maximum_fft_size=8192)
    model = galsim.DeVaucouleurs if sky.is_bulge[k] else galsim.Exponential
    galaxy = model(half_light_radius=float(sky.half_light_radius[k]), gsparams=params)
    galaxy = galaxy.shear(g1=float(sky.g1[k]), g2=float(sky.g2[k]))
    jacobian = pixel_jacobian(frame.optics, frame.detector, frame.pointing, x, y)
    galaxy = galsim.JacobianWCS(*jacobian.ravel().tolist()).toImage(galaxy)
    image = galsim.Convolve([galaxy, profile.galsim_profile(params)]) * float(electrons)
    half = image.getGoodImageSize(1.0) // 2 + 1
    where = _window(frame.detector, x, y, half)
    if where is None:
        return None
    column, row = round(x), round(y)
    stamp = galsim.ImageD(galsim.BoundsI(column - half, column + half, row - half, row + half))
    image.drawImage(stamp, scale=1.0, center=galsim.PositionD(float(x), float(y)), method="auto")
    rows = slice(where[0].start - (row - half), where[0].stop - (row - half))
    columns = slice(where[1].start - (column - half), where[1].stop - (column - half))
    full = np.zeros((where[0].stop - where[0].start, where[1].stop - where[1].start))
    part = stamp.array[max(rows.start, 0) : rows.stop, max(columns.start, 0) : columns.stop]
    y0, x0 = max(-rows.start, 0), max(-columns.start, 0)
    # galsim's transforms ring at 1e-5 of the peak; light is not negative
    full[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = np.maximum(part, 0)
    return full, where


def optimal_snr(signal: np.ndarray, variance: np.ndarray) -> float:
    """Signal to noise of the amplitude of a known profile, fitted with the true pixel variances.

    Parameters
    ----------
    signal : ndarray [e]
        Expected photoelectrons of the source.
    variance : ndarray [e^2]
        Of the pixels without the source.
    """
    return math.sqrt(float((signal**2 / (variance + signal)).sum()))


def isolated(x: np.ndarray, y: np.ndarray, flux: np.ndarray, chosen: np.ndarray, radius: float) -> np.ndarray:
    """Whether all neighbours within `radius` [px] together have less than 1 % of a source's flux.

    Parameters
    ----------
    x, y, flux : ndarray, shape (n,)
        All sources, also those beside the detector; NaN positions are nowhere.
    chosen : ndarray of int, shape (m,)
        For which the answer is wanted.
    """
    from scipy.spatial import cKDTree

    somewhere = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if chosen.size == 0:
        return np.zeros(0, dtype=bool)
    tree = cKDTree(np.stack([x[somewhere], y[somewhere]], axis=1))
    near = tree.query_ball_point(np.stack([x[chosen], y[chosen]], axis=1), radius)
    around = np.array([flux[somewhere[members]].sum() for members in near]) - flux[chosen]
    return around < ISOLATION_FLUX * flux[chosen]


def frame_truth(frame: Frame) -> dict[str, object]:
    """One row of VISIT_DETECTOR_TRUTH; sky and PSF are those of the middles of focal plane and detector."""
    middle = 0.5 * (frame.detector.nx - 1), 0.5 * (frame.detector.ny - 1)
    fwhm = effective_fwhm(frame.profile(*middle))
    return {
        "visit": frame.visit.visit,
        "detector": frame.detector.id,
        "band": frame.visit.band,
        "nJyPerElectron": frame.njy_per_electron,
        "skyElectrons": frame.sky_electrons,
        "noiseElectrons": frame.noise_electrons,
        "fwhmArcsec": fwhm * frame.pixel_arcsec,
        "fwhmPixels": fwhm,
    }
