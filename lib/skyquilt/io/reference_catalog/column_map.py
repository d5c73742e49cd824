"""Reference catalogues (LDM-151 5.1.1): the map from a catalogue's columns to ours, checked when it is read.

Every mistake is a `ReferenceCatalogError` that names its place in the configuration.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyquilt.io.reference_catalog.expressions import check_expression, names_in

DEFAULT_UNITS = {
    "ra": "deg",
    "dec": "deg",
    "raErr": "mas",
    "decErr": "mas",
    "pmRa": "mas/yr",
    "pmDec": "mas/yr",
    "pmRaErr": "mas/yr",
    "pmDecErr": "mas/yr",
    "parallax": "mas",
    "parallaxErr": "mas",
}
"""Units where neither map nor file has one: those of the Gaia archive."""

UNIT_WORDS = {"degrees": "deg", "degree": "deg", "radians": "rad", "radian": "rad"}
"""Spellings of units besides astropy's."""

MAGGIES = {"maggy": 1.0, "maggies": 1.0, "nanomaggy": 1e-9, "nanomaggies": 1e-9}
"""Flux units that astropy does not have as text [maggy]."""

FORMATS = {
    ".fits": "fits",
    ".fit": "fits",
    ".fz": "fits",
    ".csv": "csv",
    ".ecsv": "ecsv",
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
    ".txt": "text",
    ".cat": "text",
    ".dat": "text",
}
"""Format of a file by its suffix."""

_MAP_KEYS = ("path", "format", "extension", "names", "missing", "columns", "epoch", "bands", "filter")
_COLUMN_KEYS = ("refId", *DEFAULT_UNITS, "isStar")
_COS_DEC = ("raErr", "pmRa", "pmRaErr")
_EPOCH_UNITS = ("mjd", "jyear")
_SYSTEMS = ("AB", "Vega")


class ReferenceCatalogError(ValueError):
    """A map or the catalogue it describes is wrong; the message says where and how to mend it."""


@dataclass(frozen=True)
class ColumnMap:
    """Where one column of the standard form comes from."""

    column: str
    """Name in the file."""

    unit: str | None = None
    """Unit in astropy's spelling; None for the file's or the usual one."""

    cos_dec: bool = True
    """For raErr, pmRa, pmRaErr: whether the factor cos(dec) is in."""


@dataclass(frozen=True)
class EpochMap:
    """Epoch of the positions: a number for all or a column."""

    value: float | None
    column: str | None
    unit: str
    """mjd (TAI) or jyear."""


@dataclass(frozen=True)
class BandMap:
    """Where the flux of one band comes from."""

    column: str
    error: str | None
    unit: str | None
    """Flux unit; None for magnitudes."""

    offset: float
    """Added to a magnitude to make it AB [mag]."""

    where: str | None
    """Rows it holds for; None for all."""


@dataclass(frozen=True)
class ReferenceCatalogMap:
    """How to read one catalogue; made from YAML by `from_dict`, small and picklable."""

    paths: tuple[Path, ...]
    """Files or globs."""

    columns: Mapping[str, ColumnMap]
    bands: Mapping[str, BandMap]
    epoch: EpochMap | None = None
    is_star: str | None = None
    """Expression true for point sources."""

    filter: str | None = None
    """Expression true for the rows to keep."""

    format: str | None = None
    extension: str | int | None = None
    names: tuple[str, ...] | None = None
    missing: tuple[float, ...] = ()
    where: str = "reference"
    """Place in the configuration, for messages."""

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], directory: str | Path = ".", where: str = "reference"
    ) -> ReferenceCatalogMap:
        """Check a map as YAML gives it.

        Parameters
        ----------
        content : mapping
            See the module's text.
        directory : path
            What relative paths are relative to.
        where : str
            Name of the map in messages.

        Raises
        ------
        ReferenceCatalogError
            For unknown keys (with the nearest known one), missing keys and values that make no sense.
        """
        _refuse_unknown(content, _MAP_KEYS, where)
        _require(content, ("path", "columns", "bands"), where)
        columns = _mapping(content["columns"], f"{where}.columns")
        _refuse_unknown(columns, _COLUMN_KEYS, f"{where}.columns")
        _require(columns, ("ra", "dec"), f"{where}.columns")
        star = columns.get("isStar")
        is_star = _is_star(star, f"{where}.columns.isStar") if star is not None else None
        epoch = _epoch(content.get("epoch"), f"{where}.epoch")
        if epoch is None and ("pmRa" in columns or "pmDec" in columns):
            raise ReferenceCatalogError(
                f"{where}: proper motions without an epoch; add epoch: {{value: 2016.0, unit: jyear}}"
            )
        paths = content["path"] if isinstance(content["path"], list | tuple) else [content["path"]]
        bands = _mapping(content["bands"], f"{where}.bands")
        return cls(
            paths=tuple(Path(directory) / str(path) for path in paths),
            columns={
                name: _column(name, value, f"{where}.columns.{name}")
                for name, value in columns.items()
                if name != "isStar"
            },
            bands={str(name): _band(value, f"{where}.bands.{name}") for name, value in bands.items()},
            epoch=epoch,
            is_star=is_star,
            filter=_expression(content.get("filter"), f"{where}.filter"),
            format=_one_of(content.get("format"), sorted(set(FORMATS.values())), f"{where}.format"),
            extension=content.get("extension"),
            names=tuple(content["names"]) if content.get("names") else None,
            missing=_numbers(content.get("missing", ()), f"{where}.missing"),
            where=where,
        )

    def files(self) -> list[Path]:
        """Files that the paths name now, in order of name.

        Raises
        ------
        FileNotFoundError
            When a path or glob finds nothing.
        """
        found: set[Path] = set()
        for path in self.paths:
            matches = sorted(path.parent.glob(path.name)) if _is_glob(path.name) else [path]
            matches = [match for match in matches if match.is_file()]
            if not matches:
                raise FileNotFoundError(
                    f"{self.where}.path: no file {path}; correct the path or fetch the catalogue"
                )
            found.update(matches)
        return sorted(found)

    def needed(self) -> list[str]:
        """Names of the file's columns that are read."""
        names = [column.column for column in self.columns.values()]
        names += [self.epoch.column] if self.epoch and self.epoch.column else []
        expressions = [self.filter, self.is_star]
        for band in self.bands.values():
            names += [band.column] + ([band.error] if band.error else [])
            expressions.append(band.where)
        for text in expressions:
            names += names_in(text) if text else []
        return list(dict.fromkeys(names))


def _is_glob(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _column(name: str, value: Any, where: str) -> ColumnMap:
    if isinstance(value, str):
        return ColumnMap(value)
    allowed = ("column", "unit", "cos_dec") if name in _COS_DEC else ("column", "unit")
    allowed = ("column",) if name == "refId" else allowed
    value = _mapping(value, where)
    _refuse_unknown(value, allowed, where)
    _require(value, ("column",), where)
    unit = _unit(value["unit"], DEFAULT_UNITS[name], where) if value.get("unit") else None
    return ColumnMap(str(value["column"]), unit, _flag(value.get("cos_dec", True), f"{where}.cos_dec"))


def _is_star(value: Any, where: str) -> str:
    if isinstance(value, str):
        # a name alone is an expression too: the column's own truth
        return _expression(value, where)
    value = _mapping(value, where)
    _refuse_unknown(value, ("where",), where)
    _require(value, ("where",), where)
    return _expression(value["where"], where)


def _epoch(value: Any, where: str) -> EpochMap | None:
    if value is None:
        return None
    value = _mapping(value, where)
    _refuse_unknown(value, ("value", "column", "unit"), where)
    _require(value, ("unit",), where)
    if ("value" in value) == ("column" in value):
        raise ReferenceCatalogError(f"{where}: give either value or column")
    unit = _one_of(str(value["unit"]).lower(), _EPOCH_UNITS, f"{where}.unit")
    number = _number(value["value"], f"{where}.value") if "value" in value else None
    return EpochMap(number, value.get("column"), unit)


def _band(value: Any, where: str) -> BandMap:
    value = _mapping(value, where)
    if ("magnitude" in value) == ("flux" in value):
        raise ReferenceCatalogError(f"{where}: give either magnitude or flux, got {sorted(value)}")
    condition = _expression(value.get("where"), f"{where}.where")
    if "flux" in value:
        _refuse_unknown(value, ("flux", "error", "unit", "where"), where)
        _require(value, ("unit",), where)
        unit = str(value["unit"])
        if unit not in MAGGIES:
            unit = _unit(unit, "nJy", f"{where}.unit")
        return BandMap(str(value["flux"]), value.get("error"), unit, 0.0, condition)
    _refuse_unknown(value, ("magnitude", "error", "system", "offset", "where"), where)
    _require(value, ("system",), where)
    system = _one_of(value["system"], _SYSTEMS, f"{where}.system")
    if system == "Vega" and "offset" not in value:
        raise ReferenceCatalogError(f"{where}: Vega magnitudes need offset, AB minus Vega [mag] of the band")
    offset = _number(value.get("offset", 0.0), f"{where}.offset")
    return BandMap(str(value["magnitude"]), value.get("error"), None, offset, condition)


def _expression(text: Any, where: str) -> str | None:
    try:
        return None if text is None else check_expression(text)
    except ValueError as error:
        raise ReferenceCatalogError(f"{where}: {error}") from error


def _refuse_unknown(content: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in content:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise ReferenceCatalogError(f"{where}.{key}: no such option; {hint}")


def _require(content: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    lacking = [key for key in keys if content.get(key) is None]
    if lacking:
        raise ReferenceCatalogError(f"{where}: {', '.join(lacking)} must be given")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ReferenceCatalogError(f"{where}: expected a mapping, got {value!r}")
    return value


def _one_of(value: Any, known: Sequence[str], where: str) -> str | None:
    if value is not None and value not in known:
        raise ReferenceCatalogError(f"{where}: {value!r} is none of {', '.join(known)}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReferenceCatalogError(f"{where}: expected a number, got {value!r}")
    return float(value)


def _numbers(value: Any, where: str) -> tuple[float, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(_number(item, where) for item in values)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ReferenceCatalogError(f"{where}: expected true or false, got {value!r}")
    return value


def _unit(text: str, like: str, where: str) -> str:
    import astropy.units as u

    text = UNIT_WORDS.get(text, text)
    try:
        unit = u.Unit(text)
    except ValueError as error:
        raise ReferenceCatalogError(f"{where}: unknown unit {text!r}; write it like {like}") from error
    if not unit.is_equivalent(like):
        raise ReferenceCatalogError(f"{where}: unit {text!r} does not convert to {like}")
    return text
