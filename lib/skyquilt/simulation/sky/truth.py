"""Simulation (design 7): the sky as columns of OBJECT_TRUTH."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skyquilt.simulation.magnitudes import magnitude_from_njy
from skyquilt.simulation.sky.asteroids import ephemeris
from skyquilt.simulation.sky.catalogue import ASTEROID, SUPERNOVA, Sky
from skyquilt.simulation.sky.variables import TYPES

ELEMENTS = ("a", "e", "incl", "node", "argperi", "meanAnomaly")


def object_truth(sky: Sky, bands: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of OBJECT_TRUTH, a row per object, with fluxes in the given bands."""
    supernova, asteroid = sky.kind == SUPERNOVA, sky.kind == ASTEROID
    absolute = np.full(len(sky), np.nan)
    if asteroid.any():
        movers = sky.select(asteroid)
        seen = ephemeris(movers.orbit, movers.reference_time, movers.reference_time, sky.site)
        absolute[asteroid] = magnitude_from_njy(movers.flux["r"]) - seen.magnitude_offset
    absolute[supernova] = sky.amplitude[supernova]
    return {
        "id": sky.id,
        "kind": sky.kind_name,
        "ra": sky.ra,
        "dec": sky.dec,
        "pmRa": sky.pm_ra,
        "pmDec": sky.pm_dec,
        "parallax": sky.parallax,
        "halfLightRadius": sky.half_light_radius,
        "bulgeRadius": sky.bulge_radius,
        "bulgeG1": sky.bulge_g1,
        "bulgeG2": sky.bulge_g2,
        "diskRadius": sky.disk_radius,
        "diskG1": sky.disk_g1,
        "diskG2": sky.disk_g2,
        "redshift": sky.redshift,
        "variability": np.array(TYPES)[sky.variability],
        "period": sky.period,
        "amplitude": np.where(supernova, np.nan, sky.amplitude),
        "referenceTime": sky.reference_time,
        "stretch": sky.stretch,
        "host": sky.host,
        "absoluteMagnitude": absolute,
        **{name: sky.orbit[:, k] for k, name in enumerate(ELEMENTS)},
        **{f"flux_{band}": sky.flux[band] for band in bands},
        **{f"bulgeShare_{band}": sky.bulge_share[band] for band in bands},
    }
