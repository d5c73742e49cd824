"""Simulation (design 7): random streams of the instrument, one per effect and unit of work."""

from __future__ import annotations

import numpy as np

# codes of the random streams: append, never renumber, or every survey changes
EFFECTS = (
    "amplifier",
    "bias_pattern",
    "linearity",
    "crosstalk",
    "response",
    "dust",
    "dark",
    "hot_pixels",
    "dead_pixels",
    "bad_columns",
    "tree_rings",
    "fringes",
    "photons",
    "cosmic_rays",
    "read_out",
    "drift",
    "lamp",
    "night_lines",
)

_FIRST_CODE = 1000


def effect_stream(seed: int, effect: str, *numbers: int) -> np.random.Generator:
    """Generator of one effect; it depends on nothing but its arguments, so that effects switch one by one.

    Parameters
    ----------
    seed : int
        Of the survey.
    effect : str
        One of EFFECTS.
    numbers : int
        Visit, snap, detector ...: what the effect differs by.
    """
    return np.random.default_rng([seed, _FIRST_CODE + EFFECTS.index(effect), *numbers])
