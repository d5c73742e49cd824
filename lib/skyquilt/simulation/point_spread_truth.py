"""Simulation (design 7): size and shape of the noise-free effective PSF, pixel included."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.simulation.point_spread import LocalProfile, pixel_values

if TYPE_CHECKING:
    from skyquilt.simulation.scene import Frame


def effective_fwhm(profile: LocalProfile) -> float:
    """FWHM [px] of the PSF with the pixel: diameter of the circle with the area above half of the peak."""
    angle = (np.arange(24) + 0.5) * (math.pi / 24)
    cosine, sine = np.cos(angle), np.sin(angle)
    peak = pixel_values(profile, np.zeros(1), np.zeros(1))[0]
    low, high = np.zeros(angle.size), np.full(angle.size, 2 * max(profile.fwhm) + 2)
    for _ in range(24):
        middle = 0.5 * (low + high)
        above = pixel_values(profile, middle * cosine, middle * sine) > 0.5 * peak
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    # area in polar coordinates; the other half of the directions is the same by symmetry
    return 2 * math.sqrt(float((low**2).mean()))


@kernel("UniTuple(float64, 3)(const(float64[:, ::1]), float64, float64, float64, float64, float64, int64)")
def adaptive_moments(image, x, y, step, start, tolerance, most):
    """Second moments (xx, xy, yy) of the Gaussian that fits an image best, centre fixed.

    The fixed point where the weight is the fitted Gaussian itself: Bernstein and Jarvis (2002), AJ 123, 583,
    section 3.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    x, y : float
        Centre [elements of the image].
    step : float
        Size of an element in the unit of the result.
    start : float
        First guess of the width (standard deviation), same unit.
    tolerance : float
        Relative change at which iteration ends.
    most : int
        Most iterations.
    """
    ny, nx = image.shape
    xx, xy, yy = start * start, 0.0, start * start
    for _ in range(most):
        det = xx * yy - xy * xy
        total, mxx, mxy, myy = 0.0, 0.0, 0.0, 0.0
        for j in range(ny):
            dy = (j - y) * step
            for i in range(nx):
                dx = (i - x) * step
                distance = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / det
                if distance > 60.0:
                    continue
                weight = image[j, i] * math.exp(-0.5 * distance)
                total += weight
                mxx += weight * dx * dx
                mxy += weight * dx * dy
                myy += weight * dy * dy
        mxx, mxy, myy = 2 * mxx / total, 2 * mxy / total, 2 * myy / total
        change = abs(mxx - xx) + abs(myy - yy) + abs(mxy - xy)
        xx, xy, yy = mxx, mxy, myy
        if change < tolerance * (xx + yy):
            break
    return xx, xy, yy


def profile_moments(profile: LocalProfile) -> tuple[float, float, float]:
    """(T, e1, e2) of the PSF with the pixel: trace of its adaptive moments [px^2] and distortion."""
    reach = math.ceil(2 * 2.5 * max(profile.fwhm) + 2)
    # two samples a pixel: the sum over so smooth a product is its integral to rounding
    offset = np.arange(-reach, reach + 1) / 2
    image = pixel_values(profile, *np.meshgrid(offset, offset))
    start = 0.45 * max(profile.fwhm) + 0.2
    xx, xy, yy = adaptive_moments(image, float(reach), float(reach), 0.5, start, 1e-9, 200)
    return xx + yy, (xx - yy) / (xx + yy), 2 * xy / (xx + yy)


def psf_truth(frame: Frame, n: int = 5) -> dict[str, np.ndarray]:
    """The noise-free effective PSF of the reference spectrum at n x n places of a detector, edges included.

    Returns
    -------
    dict of ndarray, shape (n^2,)
        visit (int64), detector (int64), x, y [px]; T: trace of the adaptive moments, pixel included [px^2];
        e1, e2: their distortion (xx - yy) / T and 2 xy / T; fwhm: `effective_fwhm` [px]. Empty for a
        detector out of focus.
    """
    grid = np.meshgrid(*(np.linspace(0, size - 1, n) for size in (frame.detector.nx, frame.detector.ny)))
    x, y = (axis.ravel() for axis in grid)
    if frame.detector.purpose == "wavefront":
        x, y = x[:0], y[:0]
    profiles = [frame.profile(*place) for place in zip(x, y)]
    moments = np.array([profile_moments(profile) for profile in profiles]).reshape(-1, 3)
    return {
        "visit": np.full(x.size, frame.visit.visit, dtype=np.int64),
        "detector": np.full(x.size, frame.detector.id, dtype=np.int64),
        "x": x,
        "y": y,
        "T": moments[:, 0],
        "e1": moments[:, 1],
        "e2": moments[:, 2],
        "fwhm": np.array([effective_fwhm(profile) for profile in profiles]),
    }
