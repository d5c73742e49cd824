"""Simulation (design 7): the point spread function, and stars drawn with it.

The profile is a sum of two components: Kolmogorov turbulence, and a Moffat of exponent 2.5 for the optics
with another size and another shear, so that the ellipticity changes with radius. Both are symmetric under
inversion: the centroid is the star's place. Over the field the shears and the size go as sines of the focal
plane, in no polynomial's span. Wings fall as r^(-11/3), as real ones do.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.compiled import kernel

if TYPE_CHECKING:
    import galsim

OPTICS_BETA = 2.5
TABLE_STEP = 0.02
TABLE_END = 400.0
LEAST_RADIUS_FWHM = 26.0
"""Stars are drawn at least to here [FWHM]: 9e-4 of a Kolmogorov star's light lies outside 24 FWHM."""

FINE_RADIUS_FWHM = 3.0

# abscissae and weights of the Gauss-Legendre rule of five points on a pixel
NODES = np.polynomial.legendre.leggauss(5)[0] / 2
WEIGHTS = np.polynomial.legendre.leggauss(5)[1] / 2


@functools.cache
def kolmogorov_table() -> np.ndarray:
    """Kolmogorov profile of unit flux and unit FWHM at multiples of `TABLE_STEP` [FWHM^-2]."""
    import galsim

    accurate = galsim.GSParams(folding_threshold=1e-5, kvalue_accuracy=1e-7, xvalue_accuracy=1e-8)
    profile = galsim.Kolmogorov(fwhm=1.0, gsparams=accurate)
    # beyond 30 FWHM the power law holds to 0.4 %, and galsim's own table ends somewhere
    inner = np.arange(0, 30, TABLE_STEP)
    outer = np.arange(inner.size, round(TABLE_END / TABLE_STEP) + 3) * TABLE_STEP
    values = np.array([profile.xValue(r, 0.0) for r in inner])
    return np.concatenate([values, values[-1] * (inner[-1] / outer) ** (11 / 3)])


@functools.cache
def moffat_table() -> np.ndarray:
    """Moffat profile of unit flux and unit FWHM at multiples of `TABLE_STEP` [FWHM^-2]."""
    r = np.arange(kolmogorov_table().size) * TABLE_STEP
    scale = 0.5 / math.sqrt(2 ** (1 / OPTICS_BETA) - 1)
    return (OPTICS_BETA - 1) / (math.pi * scale**2) * (1 + (r / scale) ** 2) ** -OPTICS_BETA


@dataclass(frozen=True)
class LocalProfile:
    """The PSF at one place: two elliptical components that share a centre.

    Attributes
    ----------
    shares : tuple of two floats
        Light in turbulence and optics, together 1.
    matrices : tuple of two ndarrays, shape (2, 2)
        From a pixel offset (dx, dy) to the component's round frame in units of its FWHM.
    shears, fwhm : tuples
        The same as reduced shear (g1, g2) in pixel axes and FWHM [px] before shearing.
    """

    shares: tuple[float, float]
    matrices: tuple[np.ndarray, np.ndarray]
    shears: tuple[tuple[float, float], tuple[float, float]]
    fwhm: tuple[float, float]

    def galsim_profile(self, gsparams: galsim.GSParams | None = None) -> galsim.GSObject:
        """The same profile, of unit flux, as galsim knows it; lengths are pixels, the pixel is not in."""
        import galsim

        turbulence = galsim.Kolmogorov(fwhm=self.fwhm[0], gsparams=gsparams)
        turbulence = turbulence.shear(g1=self.shears[0][0], g2=self.shears[0][1])
        if self.shares[1] == 0:
            return turbulence
        optics = galsim.Moffat(beta=OPTICS_BETA, fwhm=self.fwhm[1], gsparams=gsparams)
        optics = optics.shear(g1=self.shears[1][0], g2=self.shears[1][1])
        return galsim.Add([turbulence * self.shares[0], optics * self.shares[1]])


@dataclass(frozen=True)
class PointSpread:
    """The PSF of one visit over the focal plane.

    Lengths are arcsec as the focal plane has them; shears are in the axes of the focal plane.
    """

    seeing: float
    optics_fwhm: float
    optics_share: float
    ellipticity: float
    size_variation: float
    phases: tuple[float, ...]

    def components(self, u: float, v: float) -> tuple[tuple[float, float, float], ...]:
        """FWHM [arcsec], g1 and g2 of turbulence and optics.

        Parameters
        ----------
        u, v : float
            Place in the focal plane over the radius of its farthest corner.
        """
        p, e = self.phases, self.ellipticity
        size = 1 + self.size_variation * (
            0.5 * math.sin(2.3 * u + 1.1 * v + p[0]) + 0.5 * math.sin(1.7 * v - 2.9 * u + p[1])
        )
        g1 = 0.5 * e * math.sin(p[2]) + e * math.sin(2.1 * u + 1.4 * v + p[3])
        g2 = 0.5 * e * math.sin(p[4]) + e * math.sin(1.9 * v - 1.2 * u + p[5])
        radius = math.hypot(u, v)
        angle = 2 * math.atan2(v, u)
        # astigmatism grows outwards and saturates: radial pattern plus a tilt of the optics
        pattern = 2 * e * math.tanh(1.5 * radius**2)
        a1 = pattern * math.cos(angle) + e * math.sin(p[6])
        a2 = pattern * math.sin(angle) + e * math.sin(p[7])
        wide = math.hypot(self.seeing, self.optics_fwhm) * (
            1 + self.size_variation * math.sin(2.5 * v + p[8])
        )
        return (self.seeing * size, g1, g2), (wide, a1, a2)

    def at(self, u: float, v: float, jacobian: np.ndarray) -> LocalProfile:
        """The PSF at a place, seen by pixels.

        Parameters
        ----------
        u, v : float
            As in `components`.
        jacobian : ndarray, shape (2, 2)
            From pixel offset (dx, dy) to focal plane offset [arcsec]; a rotation and a scale.
        """
        scale = math.sqrt(abs(np.linalg.det(jacobian)))
        to_pixels = np.linalg.inv(jacobian)
        matrices, shears, fwhms = [], [], []
        for fwhm, g1, g2 in self.components(u, v):
            g1, g2 = _shear_in_pixels(g1, g2, to_pixels)
            matrices.append(_round_frame(g1, g2) / (fwhm / scale))
            shears.append((g1, g2))
            fwhms.append(fwhm / scale)
        shares = (1 - self.optics_share, self.optics_share)
        return LocalProfile(shares, tuple(matrices), tuple(shears), tuple(fwhms))


def _shear_in_pixels(g1, g2, to_pixels):
    """Turn (and mirror) a shear from focal plane axes into pixel axes."""
    unit = to_pixels / math.sqrt(abs(np.linalg.det(to_pixels)))
    turned = unit @ np.array([[g1, g2], [g2, -g1]]) @ unit.T
    return float(turned[0, 0]), float(turned[0, 1])


def _round_frame(g1, g2):
    """Inverse of the area-preserving shear: from the sheared plane to the round one."""
    return np.array([[1 - g1, -g2], [-g2, 1 + g1]]) / math.sqrt(1 - g1**2 - g2**2)


@kernel(
    "void(float64[:, ::1], const(float64[::1]), const(float64[::1]), const(float64[::1]),"
    " const(float64[::1]), float64, float64, float64, float64, float64, float64, float64, float64)"
)
def add_component(image, table, middles, nodes, weights, x, y, flux, a, b, c, d, radius):
    """Add one elliptical component, integrated over pixels, within a circle about its centre.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Added to; pixel centres are integers from 0.
    table, middles : ndarray, shape (n,) and (n,)
        Profile of unit flux at multiples of `TABLE_STEP` in the round frame, and half-way after each.
    nodes, weights : ndarray, shape (k,)
        Quadrature on [-1/2, 1/2], used where the profile curves; one point elsewhere.
    x, y, flux : float
        Centre [px] and flux [units of the image].
    a, b, c, d : float
        Matrix ((a, b), (c, d)) from pixel offset to the round frame.
    radius : float
        Of the circle [px].
    """
    ny, nx = image.shape
    amplitude = flux * abs(a * d - b * c)
    fine = FINE_RADIUS_FWHM**2
    last = table.size - 2
    for j in range(max(0, math.ceil(y - radius)), min(ny - 1, math.floor(y + radius)) + 1):
        dy = j - y
        half = math.sqrt(radius * radius - dy * dy)
        for i in range(max(0, math.ceil(x - half)), min(nx - 1, math.floor(x + half)) + 1):
            dx = i - x
            p, q = a * dx + b * dy, c * dx + d * dy
            s2 = p * p + q * q
            value = 0.0
            if s2 < fine:
                for m in range(nodes.size):
                    for n in range(nodes.size):
                        px, py = dx + nodes[n], dy + nodes[m]
                        p, q = a * px + b * py, c * px + d * py
                        t = math.sqrt(p * p + q * q) / TABLE_STEP
                        k = min(int(t), last)
                        f = t - k
                        # quadratic through both ends and the middle of the interval
                        parabola = table[k] * (1 - f) * (1 - 2 * f) + table[k + 1] * f * (2 * f - 1)
                        value += weights[m] * weights[n] * (parabola + 4 * middles[k] * f * (1 - f))
            else:
                t = math.sqrt(s2) / TABLE_STEP
                k = min(int(t), last)
                f = t - k
                value = table[k] * (1 - f) + table[k + 1] * f
            image[j, i] += amplitude * value


def add_star(
    image: np.ndarray, profile: LocalProfile, x: float, y: float, flux: float, radius: float
) -> None:
    """Add the noise-free image of a star to a float64 image, within `radius` [px] of its place."""
    tables = ((kolmogorov_table(), _middles(0)), (moffat_table(), _middles(1)))
    for share, matrix, (table, middles) in zip(profile.shares, profile.matrices, tables):
        if share > 0:
            (a, b), (c, d) = matrix.tolist()
            add_component(
                image,
                table,
                middles,
                NODES,
                WEIGHTS,
                float(x),
                float(y),
                flux * share,
                a,
                b,
                c,
                d,
                float(radius),
            )


@functools.cache
def _middles(component: int) -> np.ndarray:
    """Half-way values of a table, from the cubic through four neighbours."""
    table = (kolmogorov_table, moffat_table)[component]()
    before = np.concatenate([[table[1]], table[:-1]])
    after, beyond = np.append(table[1:], table[-1]), np.append(table[2:], [table[-1]] * 2)
    return (9 * (table + after) - before - beyond) / 16


def drawing_radius(fwhm: float, flux: float | np.ndarray, faintest: float) -> np.ndarray:
    """Radius to which stars are drawn: their surface brightness is `faintest` there, at least 26 FWHM [px].

    Parameters
    ----------
    fwhm : float
        Of the turbulence, as in `LocalProfile.fwhm` [px].
    flux : float or ndarray [e]
    faintest : float [e per pixel]
    """
    wing = kolmogorov_table()[round(30 / TABLE_STEP)] * 30 ** (11 / 3)
    reach = (np.asarray(flux) * wing / (max(faintest, 1e-3) * fwhm**2)) ** (3 / 11)
    return fwhm * np.clip(reach, LEAST_RADIUS_FWHM, TABLE_END / 2)


def effective_fwhm(profile: LocalProfile) -> float:
    """FWHM [px] of the PSF with the pixel: diameter of the circle with the area above half of the peak."""
    size = 2 * math.ceil(1.5 * max(profile.fwhm)) + 1
    fine = 8
    # the pixel-convolved PSF sampled eight times as finely: shift the star by eighths of a pixel
    sampled = np.zeros((size * fine, size * fine))
    for j in range(fine):
        for i in range(fine):
            stamp = np.zeros((size, size))
            middle = size // 2
            shift = (np.array([i, j]) + 0.5) / fine - 0.5
            add_star(stamp, profile, middle - shift[0], middle - shift[1], 1.0, size)
            sampled[j::fine, i::fine] = stamp
    peak = np.zeros((size, size))
    add_star(peak, profile, size // 2, size // 2, 1.0, size)
    return 2 * math.sqrt((sampled > 0.5 * peak.max()).sum() / fine**2 / math.pi)
