"""Reference catalogues (LDM-151 5.1.1): rows of any file as columns of `REFERENCE` [deg, mas, nJy, MJD]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.io.reference_catalog.column_map import (
    DEFAULT_UNITS,
    MAGGIES,
    UNIT_WORDS,
    ReferenceCatalogError,
    ReferenceCatalogMap,
)
from skyquilt.io.reference_catalog.expressions import evaluate, names_in
from skyquilt.io.reference_catalog.files import Chunk
from skyquilt.io.reference_catalog.motion import JULIAN_YEAR
from skyquilt.primitives.geometry import unit_vectors
from skyquilt.primitives.photo_calib import AB_ZERO_POINT
from skyquilt.primitives.schemas import REFERENCE

if TYPE_CHECKING:
    import pandas as pd

J2000_MJD = 51544.5

_MOTIONS = tuple((name, unit) for name, unit in DEFAULT_UNITS.items() if name.startswith(("pm", "parallax")))


def standard_form(
    chunk: Chunk, catalog: ReferenceCatalogMap, first_row: int, cone: tuple[float, float, float]
) -> pd.DataFrame:
    """Rows of a chunk that lie in the cone, as columns of `REFERENCE`."""
    ra = _coordinate(chunk, catalog, "ra", -360.0, 360.0) % 360.0
    dec = _coordinate(chunk, catalog, "dec", -90.0, 90.0)
    keep = np.isfinite(ra) & np.isfinite(dec)
    keep[keep] = in_cone(ra[keep], dec[keep], *cone)
    if catalog.filter:
        keep &= _where(chunk, catalog.filter, f"{catalog.where}.filter")
    rows = np.flatnonzero(keep)
    chunk = Chunk(chunk.path, {name: values[rows] for name, values in chunk.columns.items()}, chunk.units)
    ra, dec = ra[rows], dec[rows]
    table: dict[str, Any] = {"refId": _ids(chunk, catalog, first_row + rows), "ra": ra, "dec": dec}
    for name, standard in (("raErr", "deg"), ("decErr", "deg"), *_MOTIONS):
        table[name] = _quantity(chunk, catalog, name, standard)
        if name in catalog.columns and not catalog.columns[name].cos_dec:
            table[name] = table[name] * np.cos(np.radians(dec))
    table["epoch"] = _epochs(chunk, catalog, len(rows))
    table["isStar"] = _stars(chunk, catalog, len(rows))
    for band in catalog.bands:
        table[f"flux_{band}"], table[f"fluxErr_{band}"] = _fluxes(chunk, catalog, band)
    return REFERENCE.conform(table)


def in_cone(ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float, radius: float) -> np.ndarray:
    """Whether positions lie within `radius` of (ra0, dec0) [all deg]; bool, shape of `ra`."""
    # by chord: exact for small radii, where the cosine of the angle is not
    chord = unit_vectors(ra, dec) - unit_vectors(ra0, dec0)
    return np.einsum("ij,ij->i", chord, chord) <= 4.0 * np.sin(np.radians(min(radius, 180.0)) / 2) ** 2


def _ids(chunk: Chunk, catalog: ReferenceCatalogMap, rows: np.ndarray) -> np.ndarray:
    if "refId" not in catalog.columns:
        return rows.astype(np.int64)
    name = catalog.columns["refId"].column
    values = chunk.columns[name]
    if values.dtype.kind not in "iu" or (values.size and values.max() > np.iinfo(np.int64).max):
        found = "text or empty rows" if values.dtype.kind in "OU" else str(values.dtype)
        raise ReferenceCatalogError(
            f"{catalog.where}.columns.refId: {chunk.path} column {name} must hold 64-bit integers, found "
            f"{found}; leave refId out to number the rows"
        )
    return values.astype(np.int64)


def _floats(chunk: Chunk, catalog: ReferenceCatalogMap, name: str) -> np.ndarray:
    values = chunk.columns[name]
    if values.dtype.kind in "OU":
        values = np.where((values == "") | np.equal(values, None), "nan", values.astype(object))
    try:
        floats = values.astype(np.float64)
    except ValueError as error:
        raise ReferenceCatalogError(
            f"{catalog.where}: {chunk.path} column {name} is not numbers ({error})"
        ) from error
    return np.where(np.isin(floats, catalog.missing), np.nan, floats) if catalog.missing else floats


def _factor(chunk: Chunk, catalog: ReferenceCatalogMap, name: str, standard: str) -> tuple[float, str]:
    """What turns a column into the standard unit, and the unit it is in."""
    import astropy.units as u

    mapped = catalog.columns[name]
    stated = chunk.units.get(mapped.column, "")
    stated = UNIT_WORDS.get(stated, stated)
    known = u.Unit(stated, parse_strict="silent") if stated else None
    if isinstance(known, u.UnrecognizedUnit) or (known is not None and not known.is_equivalent(standard)):
        known = None
    if mapped.unit and known is not None and u.Unit(mapped.unit) != known:
        raise ReferenceCatalogError(
            f"{catalog.where}.columns.{name}: unit {mapped.unit}, but {chunk.path} says that column "
            f"{mapped.column} is in {stated}; leave unit out or correct it"
        )
    unit = mapped.unit or (stated if known is not None else DEFAULT_UNITS[name])
    return float(u.Unit(unit).to(standard)), unit


def _quantity(chunk: Chunk, catalog: ReferenceCatalogMap, name: str, standard: str) -> np.ndarray:
    if name not in catalog.columns:
        return np.full(chunk.size, np.nan)
    factor, _ = _factor(chunk, catalog, name, standard)
    return factor * _floats(chunk, catalog, catalog.columns[name].column)


def _coordinate(chunk: Chunk, catalog: ReferenceCatalogMap, name: str, low: float, high: float) -> np.ndarray:
    factor, unit = _factor(chunk, catalog, name, "deg")
    column = catalog.columns[name].column
    values = chunk.columns[column]
    if values.dtype.kind in "OU" and any(":" in str(v) or " " in str(v).strip() for v in values):
        degrees = _sexagesimal(values, unit, f"{catalog.where}.columns.{name}: {chunk.path} column {column}")
    else:
        degrees = factor * _floats(chunk, catalog, column)
    if ((degrees < low) | (degrees > high)).any():
        raise ReferenceCatalogError(
            f"{catalog.where}.columns.{name}: {chunk.path} column {column} in {unit} reaches from "
            f"{np.nanmin(degrees):.6g} to {np.nanmax(degrees):.6g} degrees; correct the unit or the column"
        )
    return degrees


def _sexagesimal(values: np.ndarray, unit: str, where: str) -> np.ndarray:
    from astropy.coordinates import Angle

    degrees = np.full(len(values), np.nan)
    given = np.array([bool(str(v).strip()) for v in values])
    try:
        degrees[given] = Angle([str(v) for v in values[given]], unit=unit).to_value("deg")
    except ValueError as error:
        raise ReferenceCatalogError(f"{where} is not sexagesimal ({error})") from error
    return degrees


def _epochs(chunk: Chunk, catalog: ReferenceCatalogMap, size: int) -> np.ndarray:
    epoch = catalog.epoch
    if epoch is None:
        return np.full(size, np.nan)
    values = _floats(chunk, catalog, epoch.column) if epoch.column else np.full(size, epoch.value)
    # a Julian year is of TDB; TAI is 32 s away, far below what any motion shows
    return J2000_MJD + JULIAN_YEAR * (values - 2000.0) if epoch.unit == "jyear" else values


def _where(chunk: Chunk, expression: str, where: str) -> np.ndarray:
    try:
        return evaluate(expression, chunk.columns)
    except TypeError as error:
        raise ReferenceCatalogError(f"{where}: {expression!r} does not fit {chunk.path} ({error})") from error


def _stars(chunk: Chunk, catalog: ReferenceCatalogMap, size: int) -> Any:
    import pandas as pd

    if catalog.is_star is None:
        return pd.array([pd.NA] * size, dtype="boolean")
    stars = pd.array(_where(chunk, catalog.is_star, f"{catalog.where}.columns.isStar"), dtype="boolean")
    for name in names_in(catalog.is_star):
        stars[pd.isna(chunk.columns[name])] = pd.NA
    return stars


def _fluxes(chunk: Chunk, catalog: ReferenceCatalogMap, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Flux and error of one band [nJy]."""
    band = catalog.bands[name]
    values = _floats(chunk, catalog, band.column)
    errors = _floats(chunk, catalog, band.error) if band.error else np.full(values.shape, np.nan)
    if band.unit is None:
        flux = 10 ** (0.4 * (AB_ZERO_POINT - values - band.offset))
        error = flux * errors * np.log(10) / 2.5
    else:
        factor = _njy(band.unit)
        flux, error = factor * values, factor * errors
    if band.where:
        other = ~_where(chunk, band.where, f"{catalog.where}.bands.{name}.where")
        flux[other] = np.nan
        error[other] = np.nan
    return flux, error


def _njy(unit: str) -> float:
    import astropy.units as u

    if unit in MAGGIES:
        return MAGGIES[unit] * 10 ** (0.4 * AB_ZERO_POINT)
    return float(u.Unit(unit).to("nJy"))
