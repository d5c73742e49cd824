"""Reference catalogues (LDM-151 5.1.1): stars at another epoch, by proper motion and parallax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.geometry import sky_positions, unit_vectors

if TYPE_CHECKING:
    import pandas as pd

MAS = 1.0 / 3_600_000.0
"""Degrees in a milliarcsecond."""

JULIAN_YEAR = 365.25
"""Days."""


def positions_at(
    stars: pd.DataFrame, mjd: float, parallax: bool = False, unmeasured_motion: float = 10.0
) -> pd.DataFrame:
    """Move stars to another epoch along straight lines in space (no radial velocity).

    Parameters
    ----------
    stars : DataFrame
        Columns of `REFERENCE`.
    mjd : float
        Epoch wanted [MJD, TAI].
    parallax : bool
        True shows the stars from the Earth's centre (astropy's built-in ephemeris), not the barycentre.
    unmeasured_motion : float
        Typical motion per axis of a star whose motion is unknown [mas/yr]; its error grows by as much.

    Returns
    -------
    DataFrame
        Copy with ra, dec [deg], raErr, decErr [deg] and epoch replaced. Errors grow in quadrature by those of
        motion and parallax, correlations aside. Stars without an epoch keep place and error.
    """
    years = (mjd - stars["epoch"].to_numpy()) / JULIAN_YEAR
    years = np.where(np.isfinite(years), years, 0.0)
    ra, dec = stars["ra"].to_numpy(), stars["dec"].to_numpy()
    east, north = _axes(ra, dec)
    motion = stars[["pmRa", "pmDec"]].to_numpy() * MAS
    step = np.radians(np.nan_to_num(motion)) * years[:, None]
    place = unit_vectors(ra, dec) + step[:, :1] * east + step[:, 1:] * north
    motion_error = np.nan_to_num(stars[["pmRaErr", "pmDecErr"]].to_numpy()) * MAS
    motion_error = np.where(np.isfinite(motion), motion_error, unmeasured_motion * MAS)
    variance = stars[["raErr", "decErr"]].to_numpy() ** 2 + (motion_error * years[:, None]) ** 2
    if parallax:
        earth = _earth(mjd)
        place -= np.radians(np.nan_to_num(stars["parallax"].to_numpy()) * MAS)[:, None] * earth
        lever = np.column_stack([east @ earth, north @ earth])
        variance += (np.nan_to_num(stars["parallaxErr"].to_numpy()) * MAS)[:, None] ** 2 * lever**2
    error = np.sqrt(variance)
    ra, dec = sky_positions(place)
    moved = {"ra": ra, "dec": dec, "raErr": error[:, 0], "decErr": error[:, 1], "epoch": float(mjd)}
    return stars.assign(**moved)


def _axes(ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors to the east and to the north at positions [deg], each (n, 3)."""
    ra, dec = np.radians(ra), np.radians(dec)
    east = np.column_stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)])
    north = np.column_stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    return east, north


def _earth(mjd: float) -> np.ndarray:
    """Barycentric place of the Earth's centre, ICRS axes [au]."""
    from astropy.coordinates import get_body_barycentric
    from astropy.time import Time

    return get_body_barycentric("earth", Time(mjd, format="mjd", scale="tai")).xyz.to_value("au")
