"""Simulation (design 7): the point spread function, and stars drawn with it.

The profile is a sum of two components: Kolmogorov turbulence, and a Moffat of exponent 2.5 for the optics
with another size and another shear, so that the ellipticity changes with radius. Both are symmetric under
inversion: the centroid is the star's place. Over the field the shears and the size go as sines of the focal
plane, in no polynomial's span. Wings fall as r^(-11/3), as real ones do. Turbulence is narrower in red light
(wavelength^-0.2, each star by its own spectrum), and refraction draws a star out towards the zenith.

`point_spread_truth.psf_truth(frame, n=5)` gives the columns of a table of noise-free PSFs of one detector.
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

GAUSSIAN_FWHM2 = 8 * math.log(2)
"""Square of a Gaussian's FWHM over its variance: how a spread of light widens a profile."""

SEEING_EXPONENT = -0.2
"""Of the wavelength, in the FWHM of Kolmogorov turbulence: Roddier (1981), Progress in Optics 19, 281."""

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
class PointSpreadConfig:
    """Telescope and turbulence."""

    optics_fwhm: float = 0.45
    """FWHM by which the wide component of the PSF exceeds the atmosphere, in quadrature [arcsec]."""

    optics_share: float = 0.12
    """Share of the light in the wide astigmatic component of the PSF; 0 switches it off."""

    ellipticity: float = 0.03
    """Reduced shear of the PSF across the field, greatest of each of its terms; 0 gives round PSFs."""

    size_variation: float = 0.03
    """Relative variation of the PSF's size across the field."""

    chromatic: bool = True
    """Turbulence is narrower in red light."""

    def __post_init__(self) -> None:
        for name in ("optics_fwhm", "optics_share", "ellipticity", "size_variation"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.optics_share >= 0.9:
            raise ValueError(f"optics_share must be below 0.9, got {self.optics_share}")
        if self.ellipticity > 0.2 or self.size_variation > 0.3:
            raise ValueError(
                "ellipticity must be at most 0.2 and size_variation at most 0.3, "
                f"got {self.ellipticity} and {self.size_variation}"
            )


@dataclass(frozen=True)
class LocalProfile:
    """The PSF at one place: two elliptical components that share a centre.

    Attributes
    ----------
    shares : tuple of two floats
        Light in turbulence and optics, together 1.
    squares : tuple of two triples (xx, xy, yy)
        Of the ellipse at half maximum: square of the FWHM along each direction [px^2].
    """

    shares: tuple[float, float]
    squares: tuple[tuple[float, float, float], tuple[float, float, float]]

    @property
    def fwhm(self) -> tuple[float, float]:
        """FWHM [px] of the components, of the circle of equal area."""
        return tuple((xx * yy - xy * xy) ** 0.25 for xx, xy, yy in self.squares)

    @property
    def shears(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Reduced shear (g1, g2) of the components in pixel axes."""
        return tuple(_reduced_shear(*square) for square in self.squares)

    @property
    def matrices(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Symmetric matrices (a, b, d) from a pixel offset to the round frame in units of the FWHM."""
        return tuple(_inverse_root(*square) for square in self.squares)

    def galsim_profile(self, gsparams: galsim.GSParams | None = None) -> galsim.GSObject:
        """The same profile, of unit flux, as galsim knows it; lengths are pixels, the pixel is not in."""
        import galsim

        (g1, g2), (a1, a2) = self.shears
        turbulence = galsim.Kolmogorov(fwhm=self.fwhm[0], gsparams=gsparams).shear(g1=g1, g2=g2)
        if self.shares[1] == 0:
            return turbulence
        optics = galsim.Moffat(beta=OPTICS_BETA, fwhm=self.fwhm[1], gsparams=gsparams).shear(g1=a1, g2=a2)
        return galsim.Add([turbulence * self.shares[0], optics * self.shares[1]])


@dataclass(frozen=True)
class PointSpread:
    """The PSF of one visit over the focal plane.

    Lengths are arcsec as the focal plane has them; shears are in the axes of the focal plane.
    `seeing` is the FWHM of the turbulence for the reference spectrum.
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

    def at(
        self,
        u: float,
        v: float,
        jacobian: np.ndarray,
        widening: float = 1.0,
        spread: tuple[float, float] = (0.0, 0.0),
    ) -> LocalProfile:
        """The PSF at a place, seen by pixels.

        Parameters
        ----------
        u, v : float
            As in `components`.
        jacobian : ndarray, shape (2, 2)
            From pixel offset (dx, dy) to focal plane offset [arcsec].
        widening : float
            Of the turbulence for a source's spectrum, relative to the reference spectrum.
        spread : (float, float)
            Standard deviation of the source's light along a direction of the focal plane: that times the
            direction [arcsec].
        """
        (a, b), (c, d) = np.asarray(jacobian).tolist()
        determinant = a * d - b * c
        p, q, r, s = d / determinant, -b / determinant, -c / determinant, a / determinant
        dx, dy = spread
        squares = []
        for factor, (fwhm, g1, g2) in zip((widening, 1.0), self.components(u, v)):
            scale = (factor * fwhm) ** 2 / (1 - g1 * g1 - g2 * g2)
            # the square of the shear matrix ((1 + g1, g2), (g2, 1 - g1))
            xx = scale * ((1 + g1) ** 2 + g2 * g2) + GAUSSIAN_FWHM2 * dx * dx
            xy = scale * 2 * g2 + GAUSSIAN_FWHM2 * dx * dy
            yy = scale * ((1 - g1) ** 2 + g2 * g2) + GAUSSIAN_FWHM2 * dy * dy
            squares.append(
                (
                    p * p * xx + 2 * p * q * xy + q * q * yy,
                    p * r * xx + (p * s + q * r) * xy + q * s * yy,
                    r * r * xx + 2 * r * s * xy + s * s * yy,
                )
            )
        return LocalProfile((1 - self.optics_share, self.optics_share), tuple(squares))


def _reduced_shear(xx, xy, yy):
    e1, e2 = (xx - yy) / (xx + yy), 2 * xy / (xx + yy)
    factor = 1 / (1 + math.sqrt(1 - e1 * e1 - e2 * e2))
    return e1 * factor, e2 * factor


def _inverse_root(xx, xy, yy):
    """(a, b, d) of the symmetric inverse square root of a positive matrix, by its characteristic equation."""
    root = math.sqrt(xx * yy - xy * xy)
    scale = 1 / (root * math.sqrt(xx + yy + 2 * root))
    return (yy + root) * scale, -xy * scale, (xx + root) * scale


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


@kernel(
    "void(float64[::1], const(float64[::1]), const(float64[::1]), const(float64[::1]), const(float64[::1]),"
    " const(float64[::1]), const(float64[::1]), float64, float64, float64, float64)"
)
def sample_component(values, x, y, table, middles, nodes, weights, flux, a, b, d):
    """Add pixels centred at offsets (x, y) [px] from the centre of one elliptical component.

    Parameters
    ----------
    values, x, y : ndarray, shape (n,)
        `values` is added to.
    table, middles, nodes, weights, flux, a, b, d :
        As in `add_component`, with c = b.
    """
    amplitude = flux * abs(a * d - b * b)
    last = table.size - 2
    for i in range(x.size):
        value = 0.0
        for m in range(nodes.size):
            for n in range(nodes.size):
                px, py = x[i] + nodes[n], y[i] + nodes[m]
                p, q = a * px + b * py, b * px + d * py
                t = math.sqrt(p * p + q * q) / TABLE_STEP
                k = min(int(t), last)
                f = t - k
                parabola = table[k] * (1 - f) * (1 - 2 * f) + table[k + 1] * f * (2 * f - 1)
                value += weights[m] * weights[n] * (parabola + 4 * middles[k] * f * (1 - f))
        values[i] += amplitude * value


@functools.cache
def _tables() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return ((kolmogorov_table(), _middles(0)), (moffat_table(), _middles(1)))


def add_star(
    image: np.ndarray, profile: LocalProfile, x: float, y: float, flux: float, radius: float
) -> None:
    """Add the noise-free image of a star to a float64 image, within `radius` [px] of its place."""
    for share, (a, b, d), (table, middles) in zip(profile.shares, profile.matrices, _tables()):
        if share > 0:
            args = (float(x), float(y), flux * share, a, b, b, d, float(radius))
            add_component(image, table, middles, NODES, WEIGHTS, *args)


def pixel_values(profile: LocalProfile, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A star of unit flux in pixels centred at offsets (x, y) [px] from it, any shape."""
    shape = np.shape(x)
    x, y = (np.ascontiguousarray(np.ravel(c), dtype=np.float64) for c in (x, y))
    values = np.zeros(x.size)
    for share, (a, b, d), (table, middles) in zip(profile.shares, profile.matrices, _tables()):
        if share > 0:
            sample_component(values, x, y, table, middles, NODES, WEIGHTS, share, a, b, d)
    return values.reshape(shape)


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
