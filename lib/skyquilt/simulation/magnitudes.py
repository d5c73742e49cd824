"""Simulation (design 7): magnitudes, fluxes and colours of the simulated sky."""

from __future__ import annotations

import numpy as np

CATALOGUE_BANDS = ("u", "g", "r", "i", "z", "y")
"""Bands in which the simulated sky has fluxes."""

ZERO_MAGNITUDE_NJY = 10.0 ** (31.4 / 2.5)


def njy_from_magnitude(magnitude: np.ndarray) -> np.ndarray:
    """AB magnitudes as fluxes [nJy]."""
    return ZERO_MAGNITUDE_NJY * 10.0 ** (-0.4 * np.asarray(magnitude, dtype=float))


def magnitude_from_njy(flux: np.ndarray) -> np.ndarray:
    """Positive fluxes [nJy] as AB magnitudes."""
    return -2.5 * np.log10(np.asarray(flux, dtype=float) / ZERO_MAGNITUDE_NJY)
