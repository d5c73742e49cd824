"""Simulation (design 7): the light of the sky on one detector, and the truth about every source on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.simulation.frame import Frame, frame_truth, make_frame, sky_image, visit_truth
from skyquilt.simulation.magnitudes import band_wavelengths
from skyquilt.simulation.optics import pixel_from_sky, sky_from_pixel
from skyquilt.simulation.point_spread import TABLE_END, drawing_radius
from skyquilt.simulation.sky.catalogue import Sky
from skyquilt.simulation.stamps import (
    FAINTEST_IN_SKY_NOISE,
    FAINTEST_OF_GALAXIES,
    TRAIL_PIXELS,
    cut,
    galaxy_stamp,
    star_stamp,
    trail_stamp,
)
from skyquilt.simulation.wavefront import make_donut

if TYPE_CHECKING:
    from skyquilt.simulation.config import SimulationConfig
    from skyquilt.simulation.detector_effects import TrueDetector

__all__ = ["Frame", "Scene", "SnapLight", "draw_scene", "frame_truth", "make_frame", "visit_truth"]

FAINTEST_SOURCE = 1e-3
"""Sources below this many electrons (supernovae before they begin) are not there."""

ISOLATION_ARCSEC = 3.0
ISOLATION_FLUX = 0.01


@dataclass(frozen=True)
class SnapLight:
    """Expected electrons of one snap before the detector's response, float64 (ny, nx); not to be written to.

    Attributes
    ----------
    light : ndarray
        Of the sources.
    sky : ndarray
        Of the sky.
    """

    light: np.ndarray
    sky: np.ndarray


@dataclass(frozen=True)
class Scene:
    """The light of one visit on a detector, snap by snap, and the columns of SOURCE_TRUTH.

    Snaps without anything that moves share their arrays.
    """

    snaps: tuple[SnapLight, ...]
    truth: dict[str, np.ndarray]

    @property
    def light(self) -> np.ndarray:
        """Of the sources in all snaps together [e]."""
        return sum(snap.light for snap in self.snaps)

    @property
    def sky(self) -> np.ndarray:
        """Of the sky in all snaps together [e]."""
        return sum(snap.sky for snap in self.snaps)


@dataclass(frozen=True)
class ImagedSky:
    """What of a sky may reach a detector, as it is imaged; arrays of shape (n,).

    Attributes
    ----------
    sky : Sky
    ra, dec : ndarray
        Without atmosphere, at the middle of the visit [deg].
    seen_ra, seen_dec : ndarray
        Where the telescope sees them [deg].
    x, y : ndarray [px]
    flux : ndarray
        Above the atmosphere [nJy].
    electrons : ndarray
        Expected, all snaps together, where the response is one.
    wavelength : ndarray [nm]
        Mean of the photons.
    widening, shift, spread : ndarray
        Of the PSF by colour; of the place and of the light along the direction to the zenith [arcsec].
    """

    sky: Sky
    ra: np.ndarray
    dec: np.ndarray
    seen_ra: np.ndarray
    seen_dec: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    electrons: np.ndarray
    wavelength: np.ndarray
    shares: np.ndarray
    widening: np.ndarray
    shift: np.ndarray
    spread: np.ndarray


def image_sky(frame: Frame, sky: Sky) -> ImagedSky:
    """Where and how bright the sources about a detector are in a visit."""
    mjd = frame.visit.mid_mjd_tai
    ra, dec = sky.positions_at(mjd)
    near = _near(frame, ra, dec)
    sky, ra, dec = sky.select(near), ra[near], dec[near]
    air, band = frame.atmosphere, frame.visit.band
    flux = sky.flux_at(mjd)
    shares = air.shares(flux)
    seen_ra, seen_dec = air.image(ra, dec, shares)
    x, y = pixel_from_sky(frame.optics, frame.detector, frame.pointing, seen_ra, seen_dec)
    electrons = flux[band] / frame.njy_per_electron
    electrons = electrons * air.colour_factor(flux) * air.transparency(seen_ra, seen_dec)
    shift, spread = air.dispersion(shares)
    return ImagedSky(
        sky=sky,
        ra=ra,
        dec=dec,
        seen_ra=seen_ra,
        seen_dec=seen_dec,
        x=x,
        y=y,
        flux=flux[band],
        electrons=electrons,
        wavelength=shares @ band_wavelengths(band),
        shares=shares,
        widening=frame.widening(shares),
        shift=shift,
        spread=spread,
    )


def _near(frame, ra, dec):
    """Sources within the longest reach of light from the middle of the detector."""
    middle = sky_from_pixel(
        frame.optics, frame.detector, frame.pointing, *(np.array([c]) for c in frame.middle)
    )
    half = 0.5 * math.hypot(frame.detector.nx, frame.detector.ny) * frame.pixel_arcsec
    reach = (half + 0.5 * TABLE_END * frame.visit.seeing + 60) / 3600
    d_dec = dec - middle[1]
    d_ra = ((ra - middle[0] + 180) % 360 - 180) * np.cos(np.radians(dec))
    return np.flatnonzero(np.hypot(d_ra, d_dec) < reach)


def draw_scene(config: SimulationConfig, frame: Frame, sky: Sky, detector_truth: TrueDetector) -> Scene:
    """Draw the sky of one visit onto one detector.

    Parameters
    ----------
    sky : Sky
        Of the whole field; only what reaches the detector is drawn.
    detector_truth : TrueDetector
        Its `response` and `full_well` are asked for signal to noise and peaks in the truth, not for the light.
    """
    imaged = image_sky(frame, sky)
    n = frame.visit.n_snaps
    background = sky_image(frame)
    canvas = _Canvas(frame, background, detector_truth)
    light = np.zeros_like(background)
    draw = _drawer(config, frame, imaged)
    reached = _may_reach(frame, imaged)
    rows = [canvas.add(light, k, draw(k), n) for k in reached[~imaged.sky.moves[reached]].tolist()]
    light /= n
    background /= n
    snaps = [light] * n
    for k in reached[imaged.sky.moves[reached]] if frame.detector.purpose == "science" else ():
        # the first thing that moves gives each snap an array of its own
        snaps = [snap.copy() for snap in snaps] if n > 1 and snaps[0] is light else snaps
        stamps = [_moving_stamp(frame, imaged, k, snap) for snap in frame.visit.snaps]
        parts = [canvas.add(light, k, stamp, 1) for light, stamp in zip(snaps, stamps)]
        rows.append(_joined(parts))
    for array in (background, *snaps):
        array.flags.writeable = False
    truth = _source_truth(frame, imaged, [row for row in rows if row is not None], detector_truth.full_well)
    return Scene(tuple(SnapLight(snap, background) for snap in snaps), truth)


def _may_reach(frame, imaged):
    """Sources whose stamp may touch the detector."""
    fwhm = frame.visit.seeing * (1 + frame.point_spread.size_variation) / frame.pixel_arcsec
    galaxy = 60 * fwhm + 30 * imaged.sky.half_light_radius / frame.pixel_arcsec
    star = drawing_radius(fwhm, imaged.electrons, FAINTEST_IN_SKY_NOISE * frame.noise_electrons)
    margin = np.where(imaged.sky.is_galaxy, galaxy, 1.2 * star) + 1
    detector, x, y = frame.detector, imaged.x, imaged.y
    inside = (x > -margin) & (x < detector.nx + margin) & (y > -margin) & (y < detector.ny + margin)
    return np.flatnonzero(inside & (imaged.electrons > FAINTEST_SOURCE))


def _drawer(config, frame, imaged):
    """The function that draws source k: its stamp, or None."""
    if frame.detector.purpose == "wavefront":
        fwhm = frame.profile(*frame.middle).fwhm[0]
        donut = make_donut(config.wavefront, frame.detector, frame.zernikes, fwhm)
        faintest = FAINTEST_OF_GALAXIES * frame.noise_electrons * math.pi * donut.radius**2

        def draw(k):
            if imaged.sky.is_galaxy[k] or imaged.electrons[k] < faintest:
                return None
            return cut(frame.detector, *donut.image(imaged.x[k], imaged.y[k], imaged.electrons[k]))

        return draw

    def draw_in_focus(k):
        x, y, electrons = (float(values[k]) for values in (imaged.x, imaged.y, imaged.electrons))
        profile = frame.profile(x, y, float(imaged.widening[k]), float(imaged.spread[k]))
        if imaged.sky.is_galaxy[k]:
            return galaxy_stamp(frame, profile, imaged.sky, k, x, y, electrons)
        return star_stamp(frame, profile, x, y, electrons)

    return draw_in_focus


class _Canvas:
    """Adds stamps to an image and says what the truth table has of each."""

    def __init__(self, frame: Frame, sky: np.ndarray, truth: TrueDetector) -> None:
        self.read_variance = frame.read_noise**2
        # the array is divided by the number of snaps when all that stands still is drawn
        self.sky, self.n_snaps = sky, frame.visit.n_snaps
        self.response = np.asarray(truth.response, dtype=np.float32)

    def add(self, light, k, stamp, n):
        """(k, snr, electrons of the brightest pixel in a snap) of a source drawn for n snaps, or None."""
        if stamp is None:
            return None
        pixels, where = stamp
        variance = n * self.read_variance
        snr2, brightest = add_and_measure(
            light[where], pixels, self.response[where], self.sky[where], variance
        )
        return k, math.sqrt(snr2), brightest / n


def _joined(parts):
    """The truth of all snaps of what moves."""
    parts = [part for part in parts if part is not None]
    if not parts:
        return None
    return parts[0][0], math.sqrt(sum(p[1] ** 2 for p in parts)), max(p[2] for p in parts)


@kernel(
    "UniTuple(float64, 2)(float64[:, :], const(float64[:, ::1]), const(float32[:, :]), const(float64[:, :]),"
    " float64)"
)
def add_and_measure(light, pixels, response, sky, read_variance):
    """Add a source's stamp to the light; its optimal signal to noise, squared, and its brightest pixel.

    Parameters
    ----------
    light : ndarray, shape (ny, nx)
        Added to [e].
    pixels : ndarray, shape (ny, nx)
        The source before the response [e].
    response : ndarray, shape (ny, nx)
    sky : ndarray, shape (ny, nx)
        Before the response [e].
    read_variance : float [e^2]

    Returns
    -------
    (float, float)
        Sum of s^2 / (s + sky + read variance), and the largest of s + sky [e], both behind the response.
    """
    total, brightest = 0.0, 0.0
    ny, nx = pixels.shape
    for j in range(ny):
        for i in range(nx):
            value = pixels[j, i]
            if value == 0.0:
                continue
            light[j, i] += value
            signal = value * response[j, i]
            level = sky[j, i] * response[j, i]
            if signal > 0:
                total += signal * signal / (level + read_variance + signal)
            brightest = max(brightest, signal + level)
    return total, brightest


def _source_truth(frame, imaged, rows, full_well):
    """Columns of SOURCE_TRUTH of the sources centred on the detector, by id."""
    detector = frame.detector
    rows = [row for row in rows if _inside(detector, imaged.x[row[0]], imaged.y[row[0]])]
    chosen = np.array([row[0] for row in rows], dtype=np.int64)
    numbers = np.array([row[1:] for row in rows], dtype=float).reshape(-1, 2)
    order = np.argsort(chosen, kind="stable")
    chosen, numbers = chosen[order], numbers[order]
    n, sky = chosen.size, imaged.sky
    column = np.clip(np.rint(imaged.x[chosen]).astype(int), 0, detector.nx - 1)
    row = np.clip(np.rint(imaged.y[chosen]).astype(int), 0, detector.ny - 1)
    length = [_trail_length(frame, imaged, k) if sky.moves[k] else 0.0 for k in chosen]
    return {
        "visit": np.full(n, frame.visit.visit, dtype=np.int64),
        "detector": np.full(n, detector.id, dtype=np.int64),
        "id": sky.id[chosen],
        "kind": sky.kind_name[chosen],
        "band": np.full(n, frame.visit.band),
        "x": imaged.x[chosen],
        "y": imaged.y[chosen],
        "ra": imaged.seen_ra[chosen],
        "dec": imaged.seen_dec[chosen],
        "raIcrs": imaged.ra[chosen],
        "decIcrs": imaged.dec[chosen],
        "flux": imaged.flux[chosen],
        "electrons": imaged.electrons[chosen],
        "snr": numbers[:, 0],
        "isolated": isolated(imaged.x, imaged.y, imaged.flux, chosen, ISOLATION_ARCSEC / frame.pixel_arcsec),
        "peakElectrons": numbers[:, 1],
        "fullWellFraction": numbers[:, 1] / full_well[row, column],
        "effectiveWavelength": imaged.wavelength[chosen],
        "refractionShift": imaged.shift[chosen],
        "refractionSpread": imaged.spread[chosen],
        "trailLength": np.array(length, dtype=float),
    }


def _track(frame, imaged, k, times):
    """Pixels of one moving source at TAI MJDs."""
    one = imaged.sky.select(np.array([k]))
    places = [one.positions_at(time) for time in times]
    ra, dec = (np.concatenate(c) for c in zip(*places))
    shares = np.repeat(imaged.shares[[k]], len(times), axis=0)
    seen = frame.atmosphere.image(ra, dec, shares)
    return pixel_from_sky(frame.optics, frame.detector, frame.pointing, *seen)


def _ends(snap):
    half = 0.5 * snap.exposure_time / 86400
    return snap.mid_mjd_tai - half, snap.mid_mjd_tai, snap.mid_mjd_tai + half


def _trail_length(frame, imaged, k):
    """Way of a source in the first snap [px]."""
    x, y = _track(frame, imaged, k, _ends(frame.visit.snap(0)))
    return math.hypot(x[2] - x[0], y[2] - y[0])


def _moving_stamp(frame, imaged, k, snap):
    """What a moving source leaves in one snap."""
    x, y = _track(frame, imaged, k, _ends(snap))
    length = math.hypot(x[2] - x[0], y[2] - y[0])
    electrons = float(imaged.electrons[k]) / frame.visit.n_snaps
    profile = frame.profile(x[1], y[1], float(imaged.widening[k]), float(imaged.spread[k]))
    if length <= TRAIL_PIXELS:
        return star_stamp(frame, profile, float(x[1]), float(y[1]), electrons)
    steps = math.ceil(length / TRAIL_PIXELS)
    along = (np.arange(steps) + 0.5) / steps - 0.5
    return trail_stamp(frame, profile, x[1] + along * (x[2] - x[0]), y[1] + along * (y[2] - y[0]), electrons)


def _inside(detector, x, y):
    return -0.5 <= x < detector.nx - 0.5 and -0.5 <= y < detector.ny - 0.5


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
