"""Simulation (design 7): bands, magnitudes and fluxes of the simulated sky, and its spectra within a band.

A spectrum is known by its fluxes in six bands. Within a band it is the power law through the neighbours'
fluxes, which is all that refraction and seeing ask for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

CATALOGUE_BANDS = ("u", "g", "r", "i", "z", "y")
"""Bands in which the simulated sky has fluxes."""

BAND_CENTRE = {"u": 367.0, "g": 483.0, "r": 622.0, "i": 754.5, "z": 869.0, "y": 971.0}
"""Middle of the pass band [nm]."""

BAND_WIDTH = {"u": 62.0, "g": 147.0, "r": 137.0, "i": 129.0, "z": 105.0, "y": 86.0}
"""Full width of the pass band, taken as even [nm]."""

REFERENCE_MAGNITUDES = {"u": 1.95, "g": 0.6, "r": 0.0, "i": -0.22, "z": -0.3, "y": -0.33}
"""Band minus r of the spectrum for which pointing and zero points are said: a star of type G [AB mag]."""

ZERO_MAGNITUDE_NJY = 10.0 ** (31.4 / 2.5)

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(7)


def njy_from_magnitude(magnitude: np.ndarray) -> np.ndarray:
    """AB magnitudes as fluxes [nJy]."""
    return ZERO_MAGNITUDE_NJY * 10.0 ** (-0.4 * np.asarray(magnitude, dtype=float))


def magnitude_from_njy(flux: np.ndarray) -> np.ndarray:
    """Positive fluxes [nJy] as AB magnitudes."""
    return -2.5 * np.log10(np.asarray(flux, dtype=float) / ZERO_MAGNITUDE_NJY)


def band_wavelengths(band: str) -> np.ndarray:
    """Wavelengths at which a band is sampled (nodes of a Gauss-Legendre rule), shape (7,) [nm]."""
    return BAND_CENTRE[band] + 0.5 * BAND_WIDTH[band] * _NODES


def spectral_slope(flux: Mapping[str, np.ndarray], band: str) -> np.ndarray:
    """Exponent s of f_nu ~ wavelength^s in a band, from the bands beside it; cut at +-12."""
    at = CATALOGUE_BANDS.index(band)
    low, high = CATALOGUE_BANDS[max(at - 1, 0)], CATALOGUE_BANDS[min(at + 1, len(CATALOGUE_BANDS) - 1)]
    ratio = np.asarray(flux[high]) / np.asarray(flux[low])
    return np.clip(np.log(ratio) / np.log(BAND_CENTRE[high] / BAND_CENTRE[low]), -12.0, 12.0)


def photon_shares(flux: Mapping[str, np.ndarray], band: str) -> np.ndarray:
    """Shares of a source's photons at `band_wavelengths`, shape (n, 7); photons go as f_nu / wavelength."""
    relative = band_wavelengths(band) / BAND_CENTRE[band]
    slope = np.atleast_1d(spectral_slope(flux, band))[:, None]
    share = _WEIGHTS * relative ** (slope - 1)
    return share / share.sum(axis=1, keepdims=True)


def effective_wavelength(flux: Mapping[str, np.ndarray], band: str) -> np.ndarray:
    """Mean wavelength of a source's photons in a band, shape (n,) [nm]."""
    return photon_shares(flux, band) @ band_wavelengths(band)


def reference_flux() -> dict[str, np.ndarray]:
    """Fluxes by band, shape (1,), of the reference spectrum at r = 20 [nJy]."""
    return {band: njy_from_magnitude(np.array([20 + m])) for band, m in REFERENCE_MAGNITUDES.items()}
