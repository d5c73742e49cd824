"""Simulation (design 7): a reference catalogue like Gaia's, drawn from the known sky."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.magnitudes import magnitude_from_njy
from skyquilt.simulation.schedule import random_stream

if TYPE_CHECKING:
    from skyquilt.simulation.config import SimulationConfig
    from skyquilt.simulation.sky.catalogue import Sky

REFERENCE_BANDS = ("g", "r", "i")
MATCH_ID_FIRST, MATCH_ID_STEP = 4_000_000_000_000, 137
LARGEST_COMPACT_GALAXY = 0.5


@dataclass(frozen=True)
class ReferenceConfig:
    """The reference catalogue."""

    faint_limit: float = 20.3
    """Faintest r magnitude in it [AB mag]."""

    epoch: float = 2016.0
    """Epoch of its positions [Julian year]."""

    galaxies: float = 0.2
    """Share of extended galaxies that are in it, wrongly; of compact ones all are."""

    def __post_init__(self) -> None:
        if not 0 <= self.galaxies <= 1:
            raise ValueError(f"galaxies must be in 0..1, got {self.galaxies}")


def reference_catalogue(config: SimulationConfig, sky: Sky) -> dict[str, np.ndarray]:
    """Columns of a Gaia-like catalogue: noisy positions, motions, magnitudes and a colour.

    All stars to the faint limit, variable ones with the mean of a few random phases and no mark; and every
    galaxy to it that is compact (half-light radius under 0.5") or a share of the others, without motions
    (NaN): they are wrongly in. Supernovae and asteroids are not. Errors are the scatter that is drawn.
    """
    rng = random_stream(config, "reference")
    compact = sky.is_galaxy & (
        (sky.half_light_radius < LARGEST_COMPACT_GALAXY)
        | (rng.uniform(size=len(sky)) < config.reference.galaxies)
    )
    flux = _mean_flux(rng, sky)
    magnitude = {band: magnitude_from_njy(flux[band]) for band in (*REFERENCE_BANDS, "z")}
    chosen = (sky.is_star | compact) & (magnitude["r"] < config.reference.faint_limit)
    faintness = np.clip((magnitude["r"] - 15) / 5.5, 0, 1)
    # 0.2 mas at 15 mag to 2 mas at 20.5; 2 to 20 mmag
    position_error = 0.2 * 10**faintness * np.where(sky.is_star, 1, 3)
    magnitude_error = 0.002 * 10**faintness
    noise = rng.normal(size=(5, len(sky)))
    columns: dict[str, np.ndarray] = {
        "source_id": MATCH_ID_FIRST + MATCH_ID_STEP * sky.id,
        "ra": (sky.ra + noise[0] * position_error / 3.6e6 / np.cos(np.radians(sky.dec))) % 360,
        "ra_error": position_error,
        "dec": sky.dec + noise[1] * position_error / 3.6e6,
        "dec_error": position_error.copy(),
        "parallax": sky.parallax + noise[2] * position_error,
        "parallax_error": position_error.copy(),
        "pmra": sky.pm_ra + noise[3] * 0.3 * position_error,
        "pmra_error": 0.3 * position_error,
        "pmdec": sky.pm_dec + noise[4] * 0.3 * position_error,
        "pmdec_error": 0.3 * position_error,
        "ref_epoch": np.full(len(sky), sky.epoch),
    }
    for name in ("parallax", "pmra", "pmdec"):
        columns[name] = np.where(sky.is_star, columns[name], np.nan)
        columns[f"{name}_error"] = np.where(sky.is_star, columns[f"{name}_error"], np.nan)
    for band in REFERENCE_BANDS:
        columns[f"phot_{band}_mag"] = magnitude[band] + magnitude_error * rng.normal(size=len(sky))
        columns[f"phot_{band}_mag_error"] = magnitude_error.copy()
    colour = bp_rp(magnitude["g"] - magnitude["i"])
    columns["bp_rp"] = colour + 2 * magnitude_error * rng.normal(size=len(sky))
    columns["bp_rp_error"] = 2 * magnitude_error
    return {name: values[chosen] for name, values in columns.items()}


def bp_rp(g_i: np.ndarray) -> np.ndarray:
    """Gaia's colour of a star of that g - i: Riello et al. (2021), A&A 649, A3, in round numbers [mag]."""
    clipped = np.clip(g_i, -1.0, 4.5)
    return 0.34 + 0.78 * clipped - 0.02 * clipped**2


def _mean_flux(rng, sky):
    """Fluxes as a survey of a dozen epochs before the catalogue's would average them."""
    flux = {band: values.copy() for band, values in sky.flux.items()}
    variable = np.flatnonzero(sky.variability > 0)
    if variable.size:
        from skyquilt.simulation.sky.variables import relative_brightness

        part = sky.select(variable)
        epochs = 51544.5 + 365.25 * (sky.epoch - 2000) + rng.uniform(-500, 500, 12)
        seen = [relative_brightness(part, epoch) for epoch in epochs]
        for band in flux:
            flux[band][variable] *= np.mean([one[band] for one in seen], axis=0)
    return flux


REFERENCE_UNITS = {"source_id": "", "ra": "deg", "dec": "deg", "ref_epoch": "yr"}


def write_reference(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write the reference catalogue as a FITS binary table; errors and motions are mas, mas/yr."""
    from astropy.io import fits

    definitions = []
    for name, values in columns.items():
        unit = REFERENCE_UNITS.get(name, _reference_unit(name))
        code = "K" if values.dtype.kind == "i" else "D"
        definitions.append(fits.Column(name=name, format=code, unit=unit or None, array=values))
    table = fits.BinTableHDU.from_columns(definitions, name="GAIA_LIKE")
    table.header["EPOCH"] = (float(columns["ref_epoch"][0]) if len(columns["ra"]) else 2016.0, "[yr] Julian")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)


def _reference_unit(name: str) -> str:
    if name.startswith(("phot", "bp_rp")):
        return "mag"
    return "mas/yr" if name.startswith("pm") else "mas"
