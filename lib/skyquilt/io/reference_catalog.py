"""Reference catalogues (LDM-151 5.1.1): tables of stars of any format, read by a map of their columns.

A map is a mapping as YAML gives it::

    path: reference/gaia_*.fits          # or a list; globs; relative to the map's directory
    columns:
      refId: source_id                   # leave out to number the rows
      ra: {column: ra, unit: degrees}    # degrees, radians, hourangle; text may be sexagesimal
      dec: dec
      raErr: {column: ra_error, unit: mas, cos_dec: true}
      pmRa: pmra                         # mas/yr unless it says otherwise
      isStar: {where: 'class == "STAR"'}
    epoch: {value: 2016.0, unit: jyear}  # or {column: ref_epoch, unit: mjd}
    bands:
      r: {magnitude: r_mag, error: r_mag_error, system: AB}
      i: {magnitude: i_mag, system: Vega, offset: 0.37, where: 'survey == "x"'}
      g: {flux: g_flux, error: g_flux_error, unit: Jy}
    filter: 'ruwe < 1.4 and phot_g_n_obs >= 8'

and, where the file needs it, ``format`` (else by suffix), ``extension`` (of a FITS file), ``names`` (columns
of a text file without a heading) and ``missing`` (numbers that stand for nothing, as 9999). Where a unit is
not given it is the file's, else degrees, and mas for errors, parallax and motions per year. Columns of
``REFERENCE`` come out; what the catalogue does not have is NaN.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.primitives.schemas import REFERENCE

if TYPE_CHECKING:
    import pandas as pd

MAS = 1.0 / 3_600_000.0
"""Degrees in a milliarcsecond."""

AB_ZERO_POINT = 31.4
"""AB magnitude of 1 nJy."""

CHUNK = 1 << 18
"""Rows in memory at once: a catalogue may be larger than that."""

J2000_MJD = 51544.5
JULIAN_YEAR = 365.25

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

_MAP_KEYS = ("path", "format", "extension", "names", "missing", "columns", "epoch", "bands", "filter")
_COLUMN_KEYS = ("refId", *DEFAULT_UNITS, "isStar")
_COS_DEC = ("raErr", "pmRa", "pmRaErr")
_UNIT_WORDS = {"degrees": "deg", "degree": "deg", "radians": "rad", "radian": "rad"}
_EPOCH_UNITS = ("mjd", "jyear")
_SYSTEMS = ("AB", "Vega")
_FORMATS = {
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
            format=_one_of(content.get("format"), sorted(set(_FORMATS.values())), f"{where}.format"),
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


def read_reference(catalog: ReferenceCatalogMap, ra: float, dec: float, radius_deg: float) -> pd.DataFrame:
    """Stars of a catalogue within a cone, in the standard form.

    The cut is on the catalogue's own positions: add to the radius what stars may have moved since. Rows
    without a position are left out.

    Parameters
    ----------
    catalog : ReferenceCatalogMap
        What to read and how.
    ra, dec : float
        Centre of the cone [deg, ICRS].
    radius_deg : float
        Radius of the cone [deg]; 180 reads all.

    Returns
    -------
    DataFrame
        Columns of `REFERENCE` for the map's bands, ordered by refId; no rows when no star is in the cone.

    Raises
    ------
    FileNotFoundError
        A path finds no file.
    ReferenceCatalogError
        A file cannot be read, lacks a column, or holds what its map does not say.
    """
    parts = []
    row = 0
    for path in catalog.files():
        for chunk in _read_chunks(path, catalog):
            part = _standard_form(chunk, catalog, row, (ra, dec, radius_deg))
            row += chunk.size
            if len(part):
                parts.append(part)
    schema = REFERENCE.for_bands(catalog.bands)
    stars = schema.concat(parts).drop_duplicates(["refId", "ra", "dec"])
    twice = stars["refId"][stars["refId"].duplicated()]
    if len(twice):
        raise ReferenceCatalogError(
            f"{catalog.where}.columns.refId: {len(twice)} numbers stand for several positions, as "
            f"{twice.iloc[0]}; leave refId out to number the rows"
        )
    return stars.sort_values("refId", kind="stable", ignore_index=True)


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
    radial, east, north = _axes(stars["ra"].to_numpy(), stars["dec"].to_numpy())
    motion = stars[["pmRa", "pmDec"]].to_numpy() * MAS
    step = np.radians(np.nan_to_num(motion)) * years[:, None]
    place = radial + step[:, :1] * east + step[:, 1:] * north
    motion_error = np.nan_to_num(stars[["pmRaErr", "pmDecErr"]].to_numpy()) * MAS
    motion_error = np.where(np.isfinite(motion), motion_error, unmeasured_motion * MAS)
    variance = stars[["raErr", "decErr"]].to_numpy() ** 2 + (motion_error * years[:, None]) ** 2
    if parallax:
        earth = _earth(mjd)
        place -= np.radians(np.nan_to_num(stars["parallax"].to_numpy()) * MAS)[:, None] * earth
        lever = np.column_stack([east @ earth, north @ earth])
        variance += (np.nan_to_num(stars["parallaxErr"].to_numpy()) * MAS)[:, None] ** 2 * lever**2
    error = np.sqrt(variance)
    ra = np.degrees(np.arctan2(place[:, 1], place[:, 0])) % 360.0
    dec = np.degrees(np.arctan2(place[:, 2], np.hypot(place[:, 0], place[:, 1])))
    moved = {"ra": ra, "dec": dec, "raErr": error[:, 0], "decErr": error[:, 1], "epoch": float(mjd)}
    return stars.assign(**moved)


def _axes(ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors towards positions [deg], and east and north there, each (n, 3)."""
    ra, dec = np.radians(ra), np.radians(dec)
    zero = np.zeros_like(ra)
    radial = np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    east = np.column_stack([-np.sin(ra), np.cos(ra), zero])
    north = np.column_stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    return radial, east, north


def _earth(mjd: float) -> np.ndarray:
    """Barycentric place of the Earth's centre, ICRS axes [au]."""
    from astropy.coordinates import get_body_barycentric
    from astropy.time import Time

    return get_body_barycentric("earth", Time(mjd, format="mjd", scale="tai")).xyz.to_value("au")


# the map ---------------------------------------------------------------------------------------------------


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
        if unit not in _MAGGIES:
            unit = _unit(unit, "nJy", f"{where}.unit")
        return BandMap(str(value["flux"]), value.get("error"), unit, 0.0, condition)
    _refuse_unknown(value, ("magnitude", "error", "system", "offset", "where"), where)
    _require(value, ("system",), where)
    system = _one_of(value["system"], _SYSTEMS, f"{where}.system")
    if system == "Vega" and "offset" not in value:
        raise ReferenceCatalogError(f"{where}: Vega magnitudes need offset, AB minus Vega [mag] of the band")
    offset = _number(value.get("offset", 0.0), f"{where}.offset")
    return BandMap(str(value["magnitude"]), value.get("error"), None, offset, condition)


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

    text = _UNIT_WORDS.get(text, text)
    try:
        unit = u.Unit(text)
    except ValueError as error:
        raise ReferenceCatalogError(f"{where}: unknown unit {text!r}; write it like {like}") from error
    if not unit.is_equivalent(like):
        raise ReferenceCatalogError(f"{where}: unit {text!r} does not convert to {like}")
    return text


def _is_glob(name: str) -> bool:
    return any(sign in name for sign in "*?[")


# expressions -----------------------------------------------------------------------------------------------

_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def names_in(expression: str) -> list[str]:
    """Columns that an expression mentions, in order of appearance."""
    return [node.id for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.Name)]


def evaluate(expression: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Truth of an expression for each row: columns and constants compared, joined by and, or, not, in.

    Comparisons with NaN are false, as in NumPy. Never runs code: only the forms named are known.
    """
    return np.asarray(_truth(ast.parse(expression, mode="eval").body, columns), dtype=bool)


def _truth(node: ast.expr, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    if isinstance(node, ast.BoolOp):
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return join.reduce([_truth(value, columns) for value in node.values])
    if isinstance(node, ast.UnaryOp):
        return np.logical_not(_truth(node.operand, columns))
    if isinstance(node, ast.Name):
        values = _comparable(columns[node.id])
        return np.nan_to_num(values) != 0 if values.dtype.kind == "f" else values.astype(bool)
    left, sign = _operand(node.left, columns), node.ops[0]
    if isinstance(sign, ast.In | ast.NotIn):
        inside = np.isin(left, ast.literal_eval(node.comparators[0]))
        return inside if isinstance(sign, ast.In) else ~inside
    return _COMPARE[type(sign)](left, _operand(node.comparators[0], columns))


def _operand(node: ast.expr, columns: Mapping[str, np.ndarray]) -> Any:
    return _comparable(columns[node.id]) if isinstance(node, ast.Name) else ast.literal_eval(node)


def _comparable(values: np.ndarray) -> np.ndarray:
    """The values themselves; whole numbers with nulls as floats with NaN."""
    if values.dtype != object or not any(value is None for value in values):
        return values
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _expression(text: Any, where: str) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise ReferenceCatalogError(f"{where}: expected an expression such as 'mag < 20', got {text!r}")
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ReferenceCatalogError(f"{where}: cannot read {text!r} ({error.msg})") from error
    if not _is_known(tree):
        raise ReferenceCatalogError(
            f"{where}: {text!r} may compare columns with constants (== != < <= > >= in), "
            "joined by and, or, not"
        )
    return text


def _is_known(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        return all(_is_known(value) for value in node.values)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not) and _is_known(node.operand)
    if isinstance(node, ast.Name):
        return True
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return False
    right, member = node.comparators[0], isinstance(node.ops[0], ast.In | ast.NotIn)
    if member:
        return (
            isinstance(node.left, ast.Name)
            and isinstance(right, ast.List | ast.Tuple)
            and _is_constant(right)
        )
    sides = all(isinstance(side, ast.Name) or _is_constant(side) for side in (node.left, right))
    return sides and type(node.ops[0]) in _COMPARE


def _is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.List | ast.Tuple):
        return all(_is_constant(item) for item in node.elts)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_constant(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, str | int | float)


# the files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chunk:
    """Some rows of a file: plain arrays (NaN where missing) and the units that the file states."""

    path: Path
    columns: Mapping[str, np.ndarray]
    units: Mapping[str, str]

    @property
    def size(self) -> int:
        return len(next(iter(self.columns.values())))


def _read_chunks(path: Path, catalog: ReferenceCatalogMap) -> Iterator[_Chunk]:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in (".gz", ".bz2")]
    kind = catalog.format or _FORMATS.get(suffixes[-1] if suffixes else "")
    if kind is None:
        raise ReferenceCatalogError(
            f"{catalog.where}.path: format of {path} unknown; add format: one of "
            f"{', '.join(sorted(set(_FORMATS.values())))}"
        )
    try:
        yield from _READERS[kind](path, catalog)
    except (OSError, UnicodeDecodeError) as error:
        raise ReferenceCatalogError(
            f"{catalog.where}.path: {path} cannot be read as {kind} ({error})"
        ) from error


def _read_fits(path: Path, catalog: ReferenceCatalogMap) -> Iterator[_Chunk]:
    import fitsio

    with fitsio.FITS(str(path)) as file:
        if catalog.extension is None:
            tables = [hdu for hdu in file if hdu.get_exttype() == "BINARY_TBL"]
        else:
            tables = [file[catalog.extension]] if catalog.extension in file else []
        if not tables:
            found = [hdu.get_extname() or str(number) for number, hdu in enumerate(file)]
            raise ReferenceCatalogError(
                f"{catalog.where}.extension: {path} has no table {catalog.extension or ''}; "
                f"its extensions: {', '.join(found)}"
            )
        names = tables[0].get_colnames()
        wanted = _found(path, catalog, names)
        header = tables[0].read_header()
        units = {name: str(header.get(f"TUNIT{names.index(name) + 1}") or "").strip() for name in wanted}
        rows = tables[0].get_nrows()
        for start in range(0, rows, CHUNK):
            block = tables[0][wanted][start : min(start + CHUNK, rows)]
            yield _Chunk(path, {name: _native(block[name]) for name in wanted}, units)


def _read_parquet(path: Path, catalog: ReferenceCatalogMap) -> Iterator[_Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise OSError(str(error)) from error
    with file:
        wanted = _found(path, catalog, file.schema_arrow.names)
        units = {
            name: (file.schema_arrow.field(name).metadata or {}).get(b"unit", b"").decode() for name in wanted
        }
        for batch in file.iter_batches(CHUNK, columns=wanted, use_threads=False):
            columns = {name: batch.column(batch.schema.get_field_index(name)) for name in wanted}
            yield _Chunk(path, {name: _plain(column.to_pandas()) for name, column in columns.items()}, units)


def _read_csv(path: Path, catalog: ReferenceCatalogMap) -> Iterator[_Chunk]:
    yield from _read_delimited(path, catalog, {})


def _read_text(path: Path, catalog: ReferenceCatalogMap) -> Iterator[_Chunk]:
    yield from _read_delimited(path, catalog, {"sep": r"\s+"})


def _read_delimited(path: Path, catalog: ReferenceCatalogMap, options: dict[str, Any]) -> Iterator[_Chunk]:
    import pandas as pd

    # masked dtypes keep 64-bit ids exact beside empty fields
    options = options | {"comment": "#", "dtype_backend": "numpy_nullable"}
    if catalog.names:
        options |= {"header": None, "names": list(catalog.names)}
    try:
        heading = list(catalog.names or pd.read_csv(path, nrows=0, **options).columns)
        wanted = _found(path, catalog, heading)
        with pd.read_csv(path, usecols=wanted, chunksize=CHUNK, **options) as blocks:
            for block in blocks:
                yield _Chunk(path, {name: _plain(block[name]) for name in wanted}, {})
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise OSError(str(error)) from error


def _read_ecsv(path: Path, catalog: ReferenceCatalogMap) -> Iterator[_Chunk]:
    yield from _read_astropy(path, catalog, {"format": "ascii.ecsv"})


def _read_votable(path: Path, catalog: ReferenceCatalogMap) -> Iterator[_Chunk]:
    yield from _read_astropy(path, catalog, {"format": "votable"})


def _read_astropy(path: Path, catalog: ReferenceCatalogMap, options: dict[str, Any]) -> Iterator[_Chunk]:
    from astropy.table import Table

    try:
        table = Table.read(path, **options)
    except ValueError as error:
        # both readers tell any fault of the content by a ValueError of some kind
        raise OSError(str(error)) from error
    wanted = _found(path, catalog, table.colnames)
    frame = table[wanted].to_pandas(use_nullable_int=True)
    units = {name: str(table[name].unit or "") for name in wanted}
    if len(frame):
        yield _Chunk(path, {name: _plain(frame[name]) for name in wanted}, units)


_READERS: dict[str, Callable[[Path, ReferenceCatalogMap], Iterator[_Chunk]]] = {
    "fits": _read_fits,
    "parquet": _read_parquet,
    "csv": _read_csv,
    "text": _read_text,
    "ecsv": _read_ecsv,
    "votable": _read_votable,
}


def _found(path: Path, catalog: ReferenceCatalogMap, names: Sequence[str]) -> list[str]:
    """Columns to read, in the map's order, after a check that the file has them."""
    wanted = catalog.needed()
    for name in wanted:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(names)}"
            raise ReferenceCatalogError(f"{catalog.where}: {path} has no column {name}; {hint}")
    return wanted


def _native(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "S":
        return np.char.strip(np.char.decode(values, "ascii", "replace"))
    if values.dtype.kind == "U":
        return np.char.strip(values)
    return values.astype(values.dtype.newbyteorder("="))


def _plain(values: pd.Series) -> np.ndarray:
    """A pandas column as NumPy: text as objects, '' where empty; whole numbers with nulls likewise, None."""
    import pandas as pd

    if isinstance(values.dtype, pd.StringDtype) or values.dtype == object:
        return values.astype(object).where(values.notna(), "").to_numpy(dtype=object)
    kind = values.dtype.kind
    if kind == "f":
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    plain = getattr(values.dtype, "numpy_dtype", values.dtype)
    return (
        values.to_numpy(dtype=object, na_value=None) if values.isna().any() else values.to_numpy(dtype=plain)
    )


# the standard form -----------------------------------------------------------------------------------------

_MAGGIES = {"maggy": 1.0, "maggies": 1.0, "nanomaggy": 1e-9, "nanomaggies": 1e-9}


def _standard_form(
    chunk: _Chunk, catalog: ReferenceCatalogMap, first_row: int, cone: tuple[float, float, float]
) -> pd.DataFrame:
    """Rows of a chunk that lie in the cone, as columns of `REFERENCE`."""
    ra = _coordinate(chunk, catalog, "ra", -360.0, 360.0) % 360.0
    dec = _coordinate(chunk, catalog, "dec", -90.0, 90.0)
    keep = np.isfinite(ra) & np.isfinite(dec)
    keep[keep] = _within(ra[keep], dec[keep], *cone)
    if catalog.filter:
        keep &= _where(chunk, catalog.filter, f"{catalog.where}.filter")
    rows = np.flatnonzero(keep)
    chunk = _Chunk(chunk.path, {name: values[rows] for name, values in chunk.columns.items()}, chunk.units)
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


_MOTIONS = tuple((name, unit) for name, unit in DEFAULT_UNITS.items() if name.startswith(("pm", "parallax")))


def _within(ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float, radius: float) -> np.ndarray:
    # by chord: exact for small radii, where the cosine of the angle is not
    chord = _axes(ra, dec)[0] - _axes(np.array([ra0]), np.array([dec0]))[0]
    return np.einsum("ij,ij->i", chord, chord) <= 4.0 * np.sin(np.radians(min(radius, 180.0)) / 2) ** 2


def _ids(chunk: _Chunk, catalog: ReferenceCatalogMap, rows: np.ndarray) -> np.ndarray:
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


def _floats(chunk: _Chunk, catalog: ReferenceCatalogMap, name: str) -> np.ndarray:
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


def _factor(chunk: _Chunk, catalog: ReferenceCatalogMap, name: str, standard: str) -> tuple[float, str]:
    """What turns a column into the standard unit, and the unit it is in."""
    import astropy.units as u

    mapped = catalog.columns[name]
    stated = chunk.units.get(mapped.column, "")
    stated = _UNIT_WORDS.get(stated, stated)
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


def _quantity(chunk: _Chunk, catalog: ReferenceCatalogMap, name: str, standard: str) -> np.ndarray:
    if name not in catalog.columns:
        return np.full(chunk.size, np.nan)
    factor, _ = _factor(chunk, catalog, name, standard)
    return factor * _floats(chunk, catalog, catalog.columns[name].column)


def _coordinate(
    chunk: _Chunk, catalog: ReferenceCatalogMap, name: str, low: float, high: float
) -> np.ndarray:
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


def _epochs(chunk: _Chunk, catalog: ReferenceCatalogMap, size: int) -> np.ndarray:
    epoch = catalog.epoch
    if epoch is None:
        return np.full(size, np.nan)
    values = _floats(chunk, catalog, epoch.column) if epoch.column else np.full(size, epoch.value)
    # a Julian year is of TDB; TAI is 32 s away, far below what any motion shows
    return J2000_MJD + JULIAN_YEAR * (values - 2000.0) if epoch.unit == "jyear" else values


def _where(chunk: _Chunk, expression: str, where: str) -> np.ndarray:
    try:
        return evaluate(expression, chunk.columns)
    except TypeError as error:
        raise ReferenceCatalogError(f"{where}: {expression!r} does not fit {chunk.path} ({error})") from error


def _stars(chunk: _Chunk, catalog: ReferenceCatalogMap, size: int) -> Any:
    import pandas as pd

    if catalog.is_star is None:
        return pd.array([pd.NA] * size, dtype="boolean")
    stars = pd.array(_where(chunk, catalog.is_star, f"{catalog.where}.columns.isStar"), dtype="boolean")
    for name in names_in(catalog.is_star):
        stars[pd.isna(chunk.columns[name])] = pd.NA
    return stars


def _fluxes(chunk: _Chunk, catalog: ReferenceCatalogMap, name: str) -> tuple[np.ndarray, np.ndarray]:
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

    if unit in _MAGGIES:
        return _MAGGIES[unit] * 10 ** (0.4 * AB_ZERO_POINT)
    return float(u.Unit(unit).to("nJy"))
