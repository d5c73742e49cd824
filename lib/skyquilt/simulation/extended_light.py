"""Simulation (design 7): galaxies drawn through their Fourier transforms, with the PSF and the pixel.

Bulge, disk, both components of the PSF and the pixel have transforms that are formulas or a table, and shear
is a quadratic form in the wave vector. One inverse transform gives a stamp, exact but for light beyond its
period, which comes back in on the other side, and for frequencies that the PSF does not let through.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.simulation.point_spread import OPTICS_BETA, LocalProfile
from skyquilt.simulation.sky.galaxies import EXPONENTIAL_HALF_LIGHT

TABLE_STEP = 0.01
TABLE_SCALE = 100.0
"""The bulge's transform is tabulated at multiples of `TABLE_STEP` of ln(1 + 100 (k r)^2)."""

KOLMOGOROV = 2.9207 ** (-5 / 3)
"""Transform of turbulence of unit FWHM: exp(-KOLMOGOROV k^(5/3)); Fried (1966) with FWHM 0.976 lambda/r0."""

MOFFAT_SCALE = 0.5 / math.sqrt(2 ** (1 / OPTICS_BETA) - 1)
"""Scale of a Moffat profile of exponent 2.5 over its FWHM; its transform is (1 + x) exp(-x), x = k scale."""

FINE_FWHM = 3.3
"""Turbulence below this FWHM [px] passes frequencies that pixels alias: stamps are then sampled twice as fine."""

LARGEST_STAMP = 2048


@functools.cache
def bulge_transform() -> np.ndarray:
    """Transform of de Vaucouleurs' profile of unit half-light radius at the table's places, up to k = 10^4."""
    import galsim

    profile = galsim.DeVaucouleurs(half_light_radius=1.0)
    t = np.arange(0, math.log1p(TABLE_SCALE * 1e8), TABLE_STEP)
    k = np.sqrt(np.expm1(t) / TABLE_SCALE)
    # galsim has it at 0 below 1e-3 of the peak's neighbourhood; such values do not matter behind a PSF
    return np.array([profile.kValue(value, 0.0).real for value in k])


@kernel(
    "void(complex128[:, ::1], float64, const(float64[::1]), const(float64[::1]), const(float64[::1]),"
    " const(complex128[::1]), const(complex128[::1]))"
)
def fill_transform(out, step, table, galaxy, spread, phase_x, phase_y):
    """Transform of a galaxy behind PSF and pixel, at the frequencies of a real FFT.

    Parameters
    ----------
    out : ndarray, shape (n, n // 2 + 1)
    step : float
        Sampling of the stamp [px].
    table : ndarray
        `bulge_transform`.
    galaxy : ndarray, shape (8,)
        Light in bulge and disk; then for each the form (xx, xy, yy) that gives (k r)^2, r the half-light
        radius of the bulge, the scale length of the disk [px^2].
    spread : ndarray, shape (8,)
        Light in turbulence and optics; then for each the form that gives (k FWHM)^2 [px^2].
    phase_x, phase_y : ndarray, shape (n // 2 + 1,) and (n,)
        exp(-i k x) times the pixel's transform along each axis.
    """
    n, m = out.shape
    unit = 2 * math.pi / (n * step)
    moffat = MOFFAT_SCALE * MOFFAT_SCALE
    for j in range(n):
        ky = unit * (j if j <= n // 2 else j - n)
        for i in range(m):
            kx = unit * i
            xx, xy, yy = kx * kx, 2 * kx * ky, ky * ky
            s = spread[2] * xx + spread[3] * xy + spread[4] * yy
            turbulence = KOLMOGOROV * s ** (5 / 6)
            if turbulence > 25.0 and spread[1] == 0.0:
                out[j, i] = 0.0
                continue
            behind = spread[0] * math.exp(-turbulence)
            if spread[1] > 0:
                x = math.sqrt((spread[5] * xx + spread[6] * xy + spread[7] * yy) * moffat)
                behind += spread[1] * (1 + x) * math.exp(-x)
            light = 0.0
            if galaxy[1] > 0:
                light += galaxy[1] * (1 + galaxy[5] * xx + galaxy[6] * xy + galaxy[7] * yy) ** -1.5
            if galaxy[0] > 0:
                q = galaxy[2] * xx + galaxy[3] * xy + galaxy[4] * yy
                t = math.log1p(TABLE_SCALE * q) / TABLE_STEP
                k = min(int(t), table.size - 2)
                f = min(t - k, 1.0)
                light += galaxy[0] * (table[k] * (1 - f) + table[k + 1] * f)
            out[j, i] = light * behind * phase_x[i] * phase_y[j]


def shear_form(radius: float, g1: float, g2: float, to_pixels: np.ndarray) -> tuple[float, float, float]:
    """(xx, xy, yy) of a sheared circle of a radius [arcsec] seen by pixels [px^2].

    Parameters
    ----------
    to_pixels : ndarray, shape (2, 2)
        From offsets in the shear's axes [arcsec] to pixels.
    """
    shear = radius / math.sqrt(1 - g1 * g1 - g2 * g2) * np.array([[1 + g1, g2], [g2, 1 - g1]])
    form = to_pixels @ shear
    form = form @ form.T
    return float(form[0, 0]), float(form[0, 1]), float(form[1, 1])


def stamp_radius(
    bulge: tuple[float, float], disk: tuple[float, float], fwhm: float, stretch: float, faintest: float
) -> float:
    """Half of the side of a stamp that holds a galaxy down to a surface brightness [px].

    Parameters
    ----------
    bulge, disk : (light [e], half-light radius [px])
    fwhm : float
        Of the turbulence [px].
    stretch : float
        Of the longest axis over the radii.
    faintest : float [e per pixel]
    """
    light = bulge[0] + disk[0]
    # the wing of turbulence: 0.29 fwhm^(5/3) r^(-11/3)
    reach = max((0.29 * light * fwhm ** (5 / 3) / faintest) ** (3 / 11), 5 * fwhm)
    if disk[0] > 0:
        scale = disk[1] / EXPONENTIAL_HALF_LIGHT
        reach = max(
            reach, stretch * scale * math.log(max(disk[0] / (2 * math.pi * scale**2 * faintest), 3.0))
        )
    if bulge[0] > 0:
        # intensity at the half-light radius: total light over 22.67 r^2
        logarithm = math.log(max(bulge[0] / (22.67 * bulge[1] ** 2 * faintest), 1e-3))
        reach = max(reach, stretch * bulge[1] * max(1 + logarithm / 7.669, 0.2) ** 4)
    return reach + 4


def galaxy_image(
    galaxy: np.ndarray, profile: LocalProfile, x: float, y: float, reach: float
) -> tuple[np.ndarray, int, int]:
    """A galaxy in pixels: (image, column and row of its first pixel).

    Parameters
    ----------
    galaxy : ndarray, shape (8,)
        As in `fill_transform`.
    profile : LocalProfile
    x, y : float
        Place [px].
    reach : float
        Half of the stamp's side [px].
    """
    import scipy.fft

    step = 0.5 if profile.fwhm[0] < FINE_FWHM else 1.0
    half = min(math.ceil(reach), LARGEST_STAMP // 2)
    n = int(scipy.fft.next_fast_len(math.ceil((2 * half + 1) / (2 * step)), real=True)) * 2
    spread = np.array([*profile.shares, *profile.squares[0], *profile.squares[1]])
    column, row = round(x), round(y)
    first_x, first_y = column - half, row - half
    out = np.empty((n, n // 2 + 1), dtype=np.complex128)
    phases = (_phase(n, step, x - first_x, True), _phase(n, step, y - first_y, False))
    fill_transform(out, step, bulge_transform(), galaxy, spread, *phases)
    image = scipy.fft.irfft2(out, s=(n, n), overwrite_x=True) / step**2
    every = round(1 / step)
    size = 2 * half + 1
    # what the PSF's last frequencies ring is below zero by less than the noise of rounding
    return np.maximum(image[: size * every : every, : size * every : every], 0.0), first_x, first_y


def _phase(n, step, shift, real):
    """exp(-i k shift) times the transform of a pixel, at the frequencies of one axis."""
    frequency = (np.fft.rfftfreq(n) if real else np.fft.fftfreq(n)) / step
    return np.exp(-2j * np.pi * frequency * shift) * np.sinc(frequency)
