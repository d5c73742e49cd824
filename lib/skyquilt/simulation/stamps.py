"""Simulation (design 7): noise-free images of single sources, cut to the detector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.extended_light import galaxy_image, shear_form, stamp_radius
from skyquilt.simulation.optics import pixel_jacobian
from skyquilt.simulation.point_spread import LocalProfile, add_star, drawing_radius
from skyquilt.simulation.sky.galaxies import EXPONENTIAL_HALF_LIGHT

if TYPE_CHECKING:
    from skyquilt.instrument import Detector
    from skyquilt.simulation.frame import Frame
    from skyquilt.simulation.sky.catalogue import Sky

FAINTEST_IN_SKY_NOISE = 0.01
"""Surface brightness at which drawing of stars ends, in units of the noise of an empty pixel."""

FAINTEST_OF_GALAXIES = 0.03
"""The same for galaxies, whose light beyond comes back in on the other side of the stamp."""

TRAIL_PIXELS = 0.2
"""What moves by more than this in a snap is drawn as a trail, in steps of no more."""

Stamp = tuple[np.ndarray, tuple[slice, slice]]
"""Pixels before the response, float64 [e], and where they are on the detector (rows, columns)."""


def window(detector: Detector, x: float, y: float, radius: float) -> tuple[slice, slice] | None:
    """(rows, columns) of the square about a place that lie on the detector, or None."""
    x0, x1 = max(math.floor(x - radius), 0), min(math.ceil(x + radius) + 1, detector.nx)
    y0, y1 = max(math.floor(y - radius), 0), min(math.ceil(y + radius) + 1, detector.ny)
    return None if x0 >= x1 or y0 >= y1 else (slice(y0, y1), slice(x0, x1))


def cut(detector: Detector, image: np.ndarray, column: int, row: int) -> Stamp | None:
    """The part of an image, whose first pixel is at (column, row), that lies on the detector, or None."""
    ny, nx = image.shape
    x0, x1 = max(column, 0), min(column + nx, detector.nx)
    y0, y1 = max(row, 0), min(row + ny, detector.ny)
    if x0 >= x1 or y0 >= y1:
        return None
    part = image[y0 - row : y1 - row, x0 - column : x1 - column]
    return np.ascontiguousarray(part), (slice(y0, y1), slice(x0, x1))


def star_stamp(frame: Frame, profile: LocalProfile, x: float, y: float, electrons: float) -> Stamp | None:
    """A star, or None when it misses the detector."""
    radius = float(drawing_radius(profile.fwhm[0], electrons, FAINTEST_IN_SKY_NOISE * frame.noise_electrons))
    where = window(frame.detector, x, y, radius)
    if where is None:
        return None
    pixels = np.zeros((where[0].stop - where[0].start, where[1].stop - where[1].start))
    add_star(pixels, profile, x - where[1].start, y - where[0].start, electrons, radius)
    return pixels, where


def trail_stamp(
    frame: Frame, profile: LocalProfile, x: np.ndarray, y: np.ndarray, electrons: float
) -> Stamp | None:
    """A point that moves evenly along the places (x, y) [px], or None when it misses the detector."""
    radius = float(drawing_radius(profile.fwhm[0], electrons, FAINTEST_IN_SKY_NOISE * frame.noise_electrons))
    half = 0.5 * max(float(np.ptp(x)), float(np.ptp(y)))
    where = window(frame.detector, float(x.mean()), float(y.mean()), radius + half)
    if where is None:
        return None
    pixels = np.zeros((where[0].stop - where[0].start, where[1].stop - where[1].start))
    for at_x, at_y in zip(x, y):
        part = (at_x - where[1].start, at_y - where[0].start, electrons / x.size, radius)
        add_star(pixels, profile, *part)
    return pixels, where


def galaxy_stamp(
    frame: Frame, profile: LocalProfile, sky: Sky, k: int, x: float, y: float, electrons: float
) -> Stamp | None:
    """Galaxy `k` of a sky, or None when it misses the detector."""
    share = float(sky.bulge_share[frame.visit.band][k])
    bulge, disk = float(sky.bulge_radius[k]), float(sky.disk_radius[k])
    lights = (electrons * share, electrons * (1 - share))
    shear = math.hypot(sky.disk_g1[k], sky.disk_g2[k])
    scale = frame.pixel_arcsec
    faintest = FAINTEST_OF_GALAXIES * frame.noise_electrons
    stretch = math.sqrt((1 + shear) / (1 - shear))
    parts = (lights[0], bulge / scale), (lights[1], disk / scale)
    reach = stamp_radius(*parts, profile.fwhm[0], stretch, faintest)
    if window(frame.detector, x, y, reach) is None:
        return None
    to_pixels = np.linalg.inv(pixel_jacobian(frame.optics, frame.detector, frame.pointing, x, y))
    forms = (
        shear_form(bulge, float(sky.bulge_g1[k]), float(sky.bulge_g2[k]), to_pixels),
        shear_form(disk / EXPONENTIAL_HALF_LIGHT, float(sky.disk_g1[k]), float(sky.disk_g2[k]), to_pixels),
    )
    galaxy = np.array([*lights, *forms[0], *forms[1]])
    return cut(frame.detector, *galaxy_image(galaxy, profile, x, y, reach))
