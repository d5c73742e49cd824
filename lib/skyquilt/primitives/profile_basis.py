"""Point-Spread Functions (LDM-151 9.6): smooth functions of the plane in which star profiles are linear.

A profile is a power law that is round at its centre, times splines in radius and harmonics in angle::

    phi_ih(u, v) = (1 + q)^-beta B_i(t) H_h(z),    q = (u^2 + v^2) / scale^2,  t = ln(1 + q) / step,
    H_0 = 1,  H_2m-1 = Re z^m,  H_2m = Im z^m,     z = (u + iv) / sqrt(u^2 + v^2 + scale^2)

with uniform cubic B-splines B_i on t = 0 ... n_interval. All are smooth at the origin, the first knots lie a
third of a width apart and the last ones wider with radius. Beyond the last knot (the join) splines keep their
value there and the radial power becomes -slope: every sum of them has a wing to infinity that joins it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel

BETA = 11 / 6
"""Half the slope of the power law: light scattered by turbulence falls as r^(-11/3)."""

_PER_INTERVAL = 64
"""Gauss-Legendre nodes of an interval of t in integrals over the plane."""


@dataclass(frozen=True)
class ProfileBasis:
    """The functions phi_ih, numbered i * n_harmonic + h.

    Parameters
    ----------
    scale : float
        Radius of the core [pixel]; half of the FWHM suits.
    join : float
        Radius of the last knot [pixel].
    n_interval : int
        Intervals between knots, even.
    order : int
        Highest angular order m.
    slope : float
        Profiles fall as r^-slope beyond the join; above 2, without which the flux is not finite.
    """

    scale: float
    join: float
    n_interval: int = 14
    order: int = 4
    slope: float = 2 * BETA

    def __post_init__(self) -> None:
        if not (self.scale > 0 and self.join > self.scale and np.isfinite([self.scale, self.join]).all()):
            raise ValueError(f"a basis needs 0 < scale < join, got {self.scale} and {self.join}")
        if self.n_interval < 4 or self.n_interval % 2 or self.order < 0 or not self.slope > 2:
            raise ValueError(
                "a basis needs an even n_interval >= 4, order >= 0 and slope > 2, "
                f"got {self.n_interval}, {self.order} and {self.slope}"
            )

    @property
    def step(self) -> float:
        """Interval of ln(1 + q)."""
        return math.log1p((self.join / self.scale) ** 2) / self.n_interval

    @property
    def n_radial(self) -> int:
        """Number of splines."""
        return self.n_interval + 3

    @property
    def n_harmonic(self) -> int:
        """Number of angular functions."""
        return 2 * self.order + 1

    @property
    def size(self) -> int:
        """Number of functions."""
        return self.n_radial * self.n_harmonic

    @property
    def numbers(self) -> np.ndarray:
        """What the kernels take: scale, step, n_interval, order, slope."""
        return np.array([self.scale, self.step, self.n_interval, self.order, self.slope])

    def values(self, coefficients: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Sum over the functions at offsets (u, v) [pixel] from the centre, any shape.

        Parameters
        ----------
        coefficients : ndarray, shape (size,)
        """
        u, v = np.broadcast_arrays(np.asarray(u, dtype=np.float64), np.asarray(v, dtype=np.float64))
        found = np.empty((u.size, 3))
        rows = np.ascontiguousarray(coefficients, dtype=np.float64)
        profile_values(rows, self.numbers, u.ravel(), v.ravel(), found)
        return found[:, 0].reshape(u.shape)

    def radial(self, power: int, sigma: float = math.inf, order: int = 0) -> np.ndarray:
        """Integrals over the plane of r^power |H| B_i (1 + q)^-beta exp(-r^2 / 2 sigma^2), shape (n_radial,).

        |H| is |z|^order. With sigma infinite the wing to infinity is in; power + 2 must be below `slope`.
        """
        nodes, weights = _legendre(_PER_INTERVAL)
        t = (np.arange(self.n_interval)[:, None] + 0.5 + 0.5 * nodes).ravel()
        q = np.expm1(t * self.step)
        # r dr = scale^2 (1 + q) step dt / 2
        measure = math.pi * self.scale**2 * self.step * (1 + q) * np.tile(0.5 * weights, self.n_interval)
        r2 = self.scale**2 * q
        density = (1 + q) ** (-BETA - 0.5 * order) * (r2 ** (0.5 * power)) * (q ** (0.5 * order))
        if math.isfinite(sigma):
            density = density * np.exp(-0.5 * r2 / sigma**2)
        result = (density * measure) @ spline_values(t, self.n_interval)
        if not math.isfinite(sigma):
            last = spline_values(np.array([float(self.n_interval)]), self.n_interval)[0]
            edge = (1 + (self.join / self.scale) ** 2) ** -BETA
            tail = 2 * math.pi * edge * self.join ** (power + 2) / (self.slope - power - 2)
            result = result + tail * last
        return result


def spline_values(t: np.ndarray, n_interval: int) -> np.ndarray:
    """Uniform cubic B-splines on 0 ... n_interval at t (n,), held beyond the end; shape (n, n_interval + 3)."""
    t = np.clip(np.asarray(t, dtype=np.float64), 0, n_interval)
    first = np.minimum(t.astype(np.int64), n_interval - 1)
    f = t - first
    found = np.zeros((t.size, n_interval + 3))
    rows = np.arange(t.size)
    parts = ((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, 3 * (f - f**3 + f**2) + 1, f**3)
    for k, part in enumerate(parts):
        found[rows, first + k] = part / 6
    return found


def coarse_splines(n_interval: int) -> np.ndarray:
    """The splines with knots twice as far apart in terms of these, shape (n_interval + 3, n_interval / 2 + 3)."""
    t = np.linspace(0, n_interval, 16 * n_interval + 1)
    fine, coarse = spline_values(t, n_interval), spline_values(0.5 * t, n_interval // 2)
    return np.round(8 * np.linalg.lstsq(fine, coarse, rcond=None)[0]) / 8


@functools.cache
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(n)


@kernel("int64(float64, float64, const(float64[::1]), float64[::1], float64[::1])")
def basis_at(u, v, numbers, weights, harmonics):
    """Functions at one place: number of the first spline of four.

    Parameters
    ----------
    u, v : float
        Offset from the centre [pixel].
    numbers : ndarray, shape (5,)
        `ProfileBasis.numbers`.
    weights : ndarray, shape (10,)
        Filled with the power law times the four splines; the same with their derivatives in t, over
        (u^2 + v^2 + scale^2) * step; the derivative of the power law's logarithm in u^2 + v^2; and
        1 / (u^2 + v^2 + scale^2).
    harmonics : ndarray, shape (2 order + 1,)
    """
    scale2, step, n_interval = numbers[0] * numbers[0], numbers[1], int(numbers[2])
    order, slope = int(numbers[3]), numbers[4]
    s = u * u + v * v
    total = s + scale2
    length = math.log(total / scale2)
    t = length / step
    power = math.exp(-1.8333333333333333 * length)
    bent = -1.8333333333333333 / total
    held = t >= n_interval
    if held:
        t = np.float64(n_interval)
        join2 = scale2 * (math.exp(n_interval * step) - 1.0)
        extra = 0.5 * slope
        power = math.exp(-1.8333333333333333 * n_interval * step - extra * math.log(s / join2))
        bent = -extra / s
    first = min(int(t), n_interval - 1)
    f = t - first
    g = 1.0 - f
    weights[0] = power * g * g * g / 6.0
    weights[1] = power * (f * f * (3.0 * f - 6.0) + 4.0) / 6.0
    weights[2] = power * (3.0 * f * (1.0 + f - f * f) + 1.0) / 6.0
    weights[3] = power * f * f * f / 6.0
    along = 0.0 if held else power / (total * step)
    weights[4] = -0.5 * along * g * g
    weights[5] = along * f * (1.5 * f - 2.0)
    weights[6] = along * (0.5 + f - 1.5 * f * f)
    weights[7] = 0.5 * along * f * f
    weights[8] = bent
    weights[9] = 1.0 / total
    root = math.sqrt(weights[9])
    a, b = u * root, v * root
    re, im = 1.0, 0.0
    harmonics[0] = 1.0
    for m in range(order):
        re, im = re * a - im * b, re * b + im * a
        harmonics[2 * m + 1] = re
        harmonics[2 * m + 2] = im
    return first


@kernel(
    "void(const(float64[::1]), const(float64[::1]), const(float64[:]), const(float64[:]), float64[:, ::1])"
)
def profile_values(coefficients, numbers, u, v, found):
    """Value and derivatives in u and v of a profile at offsets (u, v), shape (n,); `found` is (n, 3)."""
    order = int(numbers[3])
    width = 2 * order + 1
    weights, harmonics = np.empty(10), np.empty(width)
    for k in range(u.size):
        first = basis_at(u[k], v[k], numbers, weights, harmonics)
        root = math.sqrt(weights[9])
        value, bend, du, dv = 0.0, 0.0, 0.0, 0.0
        for h in range(width):
            start = first * width + h
            spline, steep = 0.0, 0.0
            for i in range(4):
                c = coefficients[start + i * width]
                spline += weights[i] * c
                steep += weights[4 + i] * c
            m = (h + 1) // 2
            value += spline * harmonics[h]
            bend += (steep + (weights[8] - 0.5 * m * weights[9]) * spline) * harmonics[h]
            if m > 0:
                # derivative of z^m without that of its denominator
                re = 1.0 if m == 1 else harmonics[2 * m - 3]
                im = 0.0 if m == 1 else harmonics[2 * m - 2]
                part = m * root * spline
                if h % 2:
                    du += part * re
                    dv -= part * im
                else:
                    du += part * im
                    dv += part * re
        found[k, 0] = value
        found[k, 1] = 2.0 * u[k] * bend + du
        found[k, 2] = 2.0 * v[k] * bend + dv
