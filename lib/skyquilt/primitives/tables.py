"""Tables (LDM-151 9.2): what the columns of a table are called, hold and mean, and the check that it is so.

In memory a table is a pandas DataFrame. Rules that every schema follows:

- one unit per column, in VOUnit spelling as Data Preview 2 writes it (``pixel**2``); empty for none;
- a float that was not measured is NaN; NaN is a value, never a null;
- flags are plain ``bool``; ids are int64; only a column marked ``nullable`` may have nulls, and then it is a
  pandas masked array (``boolean``, ``Int64``) or a string column with missing entries.
"""

from __future__ import annotations

import difflib
import keyword
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

DTYPES = ("bool", "i1", "i2", "i4", "i8", "f4", "f8", "str")
"""Types a column may have: those that FITS, Parquet and VOTable share."""

BAND = "{band}"
"""Stands for the band's name in the name and the text of a per-band column."""


class TableError(ValueError):
    """A table does not have the columns that its schema says; the message names every one that differs."""


@dataclass(frozen=True)
class Column:
    """One column: name, type, unit and one sentence on what it is."""

    name: str
    """Name in the file; ``{band}`` in it stands for a band."""

    dtype: str
    """One of `DTYPES`."""

    unit: str
    """VOUnit spelling, and electron; empty for pure numbers, flags and text."""

    doc: str
    """What the number is, in one sentence."""

    nullable: bool = False
    """May hold nulls (floats need it not: theirs is NaN)."""

    tap_principal: bool = False
    """Shown by default by a TAP service."""

    ours: bool = False
    """Not in the Data Preview 2 table of the same name."""

    def __post_init__(self) -> None:
        plain = self.name.replace(BAND, "b")
        if not plain.isidentifier() or keyword.iskeyword(plain):
            raise ValueError(f"column name {self.name!r} is not a plain name")
        if self.dtype not in DTYPES:
            raise ValueError(f"column {self.name}: dtype {self.dtype!r} is none of {', '.join(DTYPES)}")
        if self.unit and self.dtype in ("bool", "str"):
            raise ValueError(f"column {self.name}: a {self.dtype} has no unit, got {self.unit!r}")
        if self.nullable and self.is_float:
            raise ValueError(f"column {self.name}: a float says 'not measured' by NaN and is never nullable")
        if not self.doc:
            raise ValueError(f"column {self.name} has no text")

    @property
    def is_float(self) -> bool:
        """True for f4 and f8."""
        return self.dtype[0] == "f"

    def for_band(self, band: str) -> Column:
        """This column for one band: ``{band}`` replaced, or the band put before the name (``r_psfFlux``)."""
        name = self.name.replace(BAND, band) if BAND in self.name else f"{band}_{self.name}"
        doc = self.doc.replace(BAND, band) if BAND in self.doc else f"{self.doc} In band {band}."
        return replace(self, name=name, doc=doc)


def per_band(columns: Iterable[Column], bands: Iterable[str]) -> tuple[Column, ...]:
    """Columns of every band, bands outermost: r_psfFlux, r_psfFluxErr, i_psfFlux, ..."""
    columns = tuple(columns)
    return tuple(column.for_band(band) for band in bands for column in columns)


@dataclass(frozen=True)
class TableSchema:
    """The columns of one table, in the order in which they are written.

    A schema with `band_columns` stands for a family: `for_bands` gives a member, and `check`, `conform` and
    `concat` find the bands in the names of the table they are given.
    """

    name: str
    """Dataset name."""

    tap_name: str
    """Name in a TAP service; empty for a table that is not published."""

    section: str
    """Section of LDM-151 whose output it is."""

    columns: tuple[Column, ...]
    """Columns that are always there."""

    version: str = "1"
    """Raised whenever a column changes its name, type, unit or meaning."""

    band_columns: tuple[Column, ...] = ()
    """Columns repeated for each band."""

    def __post_init__(self) -> None:
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"table {self.name} names columns twice: {', '.join(twice)}")
        plain = [column.name for column in self.columns if BAND in column.name]
        if plain:
            raise ValueError(f"table {self.name}: {', '.join(plain)} belong into band_columns")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of `columns`, in order."""
        return tuple(column.name for column in self.columns)

    def __getitem__(self, name: str) -> Column:
        """Column of that name.

        Raises
        ------
        KeyError
            With the nearest name, when there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name}{_suggestion(name, self.names)}")

    def for_bands(self, bands: Iterable[str]) -> TableSchema:
        """The schema with the per-band columns of these bands after the others."""
        expanded = self.columns + per_band(self.band_columns, bands)
        return replace(self, columns=expanded, band_columns=())

    def bands_in(self, names: Iterable[str]) -> tuple[str, ...]:
        """Bands for which at least one per-band column is among the names, in order of appearance."""
        fixed = set(self.names)
        patterns = [column.for_band(BAND).name.split(BAND) for column in self.band_columns]
        bands: dict[str, None] = {}
        for name in names:
            fits = [(a, b) for a, b in patterns if name.startswith(a) and name.endswith(b)]
            found = [name[len(a) : len(name) - len(b)] for a, b in fits]
            if name not in fixed and any(found):
                # where two patterns fit, the more specific leaves less for the band
                bands[min(filter(None, found), key=len)] = None
        return tuple(bands)

    def resolved(self, names: Iterable[str]) -> TableSchema:
        """This schema with the bands that the names mention; itself when it has no per-band columns."""
        return self.for_bands(self.bands_in(names)) if self.band_columns else self

    def check(self, table: pd.DataFrame) -> None:
        """Compare a table with the schema; the order of its columns does not matter.

        Raises
        ------
        TableError
            Naming every column that is missing, extra, of another dtype, or has nulls that it may not have.
        """
        schema = self.resolved(table.columns)
        problems = schema._wrong_names(table)
        found = list(table.columns)
        for column in schema.columns:
            if found.count(column.name) == 1:
                problems += _wrong_values(table[column.name], column)
        if problems:
            raise TableError(f"table {self.name}: " + "; ".join(problems))

    def conform(self, table: pd.DataFrame | Mapping[str, Any]) -> pd.DataFrame:
        """Put columns into the schema's order and type, without loss.

        Integers may change their width and floats with integral values become integers when every value fits;
        0 and 1 become flags. The one loss allowed is that doubles are rounded to an f4 column's precision.

        Parameters
        ----------
        table : DataFrame, or mapping of name to array or scalar
            All columns of the schema and no others. The index is not kept.

        Returns
        -------
        DataFrame
            New, with a fresh index, columns in order; `check` passes.

        Raises
        ------
        TableError
            For missing and extra columns, and for values that cannot be kept.
        """
        import pandas as pd

        if not isinstance(table, pd.DataFrame):
            table = pd.DataFrame(dict(table))
        schema = self.resolved(table.columns)
        problems = schema._wrong_names(table)
        columns: dict[str, Any] = {}
        for column in schema.columns if not problems else ():
            try:
                columns[column.name] = _cast(table[column.name], column)
            except TableError as error:
                problems.append(str(error))
        if problems:
            raise TableError(f"table {self.name}: " + "; ".join(problems))
        return pd.DataFrame(columns, index=pd.RangeIndex(len(table)), columns=list(schema.names))

    def empty(self, bands: Iterable[str] = ()) -> pd.DataFrame:
        """A table of no rows with the right dtypes; `bands` for a schema with per-band columns."""
        import pandas as pd

        schema = self.for_bands(bands) if self.band_columns else self
        columns = {column.name: pd.Series([], dtype=memory_dtype(column)) for column in schema.columns}
        return pd.DataFrame(columns, columns=list(schema.names), index=pd.RangeIndex(0))

    def concat(self, tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
        """Rows of several tables one after the other; each is conformed first, none gives `empty()`.

        Raises
        ------
        TableError
            As `conform`; also when the tables have different bands.
        """
        import pandas as pd

        tables = list(tables)
        if not tables:
            return self.empty()
        schema = self.resolved(name for table in tables for name in table.columns)
        return pd.concat([schema.conform(table) for table in tables], ignore_index=True)

    def _wrong_names(self, table: pd.DataFrame) -> list[str]:
        found = list(table.columns)
        missing = [name for name in self.names if name not in table.columns]
        known = set(self.names)
        extra = [name for name in found if name not in known]
        problems = [f"missing {', '.join(missing)}"] if missing else []
        if extra:
            problems.append(
                "extra " + ", ".join(f"{name}{_suggestion(str(name), missing)}" for name in extra)
            )
        twice = sorted({str(name) for name in found if found.count(name) > 1})
        return problems + ([f"twice {', '.join(twice)}"] if twice else [])


def memory_dtype(column: Column) -> Any:
    """dtype that pandas has for a column in memory."""
    import pandas as pd

    if column.dtype == "str":
        return _text_dtype()
    if not column.nullable:
        return np.dtype(column.dtype)
    return pd.BooleanDtype() if column.dtype == "bool" else f"Int{8 * int(column.dtype[1])}"


def _text_dtype() -> Any:
    import pandas as pd

    # pandas before 3 has no NaN-missing text dtype of its own
    return "str" if int(pd.__version__.split(".")[0]) >= 3 else object


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _wrong_values(values: pd.Series, column: Column) -> list[str]:
    import pandas as pd

    expected = memory_dtype(column)
    if column.dtype == "str":
        right = isinstance(values.dtype, pd.StringDtype) or _is_object_text(values)
    else:
        right = values.dtype == expected
    if not right:
        return [f"{column.name} is {values.dtype}, expected {expected}"]
    # isna of floats would call NaN a null
    nulls = 0 if column.nullable or column.is_float else int(values.isna().sum())
    return [f"{column.name} has {_rows(nulls)} null"] if nulls else []


def _is_object_text(values: pd.Series) -> bool:
    return values.dtype == object and all(isinstance(v, str) for v in values[values.notna()])


def _rows(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"


def _cast(values: pd.Series, column: Column) -> Any:
    if column.dtype == "str":
        return _cast_text(values, column)
    values = _inferred(values)
    kind = getattr(values.dtype, "kind", "O")
    if kind not in "biuf" or (kind == "b" and column.dtype != "bool"):
        raise TableError(f"{column.name} is {values.dtype}, expected {column.dtype}")
    return _cast_float(values, column) if column.is_float else _cast_integers(values, column)


def _inferred(values: pd.Series) -> pd.Series:
    """Values of a Python-object column as numbers or flags, if that is what the objects are."""
    if values.dtype != object:
        return values
    if values.isna().all():
        # nothing there says what it would be, so that it may be anything: no row, or none measured
        return values.astype(np.float64)
    values = values.infer_objects()
    if values.dtype == object and all(isinstance(v, bool | np.bool_) for v in values[values.notna()]):
        return values.astype("boolean")
    return values


def _cast_integers(values: pd.Series, column: Column) -> Any:
    """Integers and flags; masked when the column may have nulls."""
    import pandas as pd

    missing = values.isna().to_numpy()
    if missing.any() and not column.nullable:
        raise TableError(f"{column.name} has {_rows(int(missing.sum()))} null")
    plain = getattr(values.dtype, "numpy_dtype", values.dtype)
    present = _exact_integers(values[~missing].to_numpy(dtype=plain), column)
    if not column.nullable:
        return present
    whole = np.zeros(len(values), dtype=column.dtype)
    whole[~missing] = present
    array = pd.arrays.BooleanArray if column.dtype == "bool" else pd.arrays.IntegerArray
    return array(whole, missing)


def _cast_text(values: pd.Series, column: Column) -> Any:
    import pandas as pd

    plain = values.astype(object)
    missing = plain.isna()
    if missing.any() and not column.nullable:
        raise TableError(f"{column.name} has {_rows(int(missing.sum()))} null")
    if not all(isinstance(value, str) for value in plain[~missing]):
        raise TableError(f"{column.name} is {values.dtype}, expected {column.dtype}")
    return pd.Series(plain.where(~missing, None), dtype=_text_dtype()).reset_index(drop=True)


def _cast_float(values: pd.Series, column: Column) -> np.ndarray:
    wide = values.to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        cast = wide.astype(column.dtype)
    if values.dtype.kind in "iu":
        # every integer below has a float of its own
        kept = np.isnan(wide) | (np.abs(wide) < 2.0 ** (53 if column.dtype == "f8" else 24))
    else:
        kept = np.isfinite(cast) == np.isfinite(wide)
    if not kept.all():
        first = values.to_numpy()[~kept][0]
        raise TableError(
            f"{column.name} has {_rows(int((~kept).sum()))} that {column.dtype} cannot hold, as {first}"
        )
    return cast


def _exact_integers(values: np.ndarray, column: Column) -> np.ndarray:
    if values.dtype == np.dtype(column.dtype):
        return values.copy()
    low, high = (0, 1) if column.dtype == "bool" else (np.iinfo(column.dtype).min, np.iinfo(column.dtype).max)
    if values.dtype.kind == "f":
        # beyond 2**53 a float does not tell neighbouring integers apart: an id in it may be wrong already
        high, low = min(high, 2**53), max(low, -(2**53))
        kept = (values == np.floor(values)) & (values >= low) & (values <= high)
    else:
        kept = (values >= low) & (values <= high)
    if not kept.all():
        first = values[~kept][0]
        raise TableError(
            f"{column.name} has {_rows(int((~kept).sum()))} that {column.dtype} cannot hold, as {first}"
        )
    return values.astype(column.dtype)


def schema_markdown(schemas: Iterable[TableSchema], planned: Iterable[TableSchema] = ()) -> str:
    """Markdown page of tables and columns, the text of docs/products_tables.md.

    Parameters
    ----------
    schemas : iterable of TableSchema
        A heading and a table each; ``+`` marks columns that Data Preview 2 does not have.
    planned : iterable of TableSchema
        Columns that products of these names will have and that are not measured yet.

    Returns
    -------
    str
        Ends with one newline; the same schemas give the same text.
    """
    later = {schema.name: schema for schema in planned}
    lines = [
        "# Tables",
        "",
        "Made from `skyquilt.primitives.schemas`; do not edit. `+` marks columns beyond Data Preview 2;",
        "`{band}` stands for every band; a float that was not measured is NaN.",
    ]
    for schema in schemas:
        lines += _schema_lines(schema, later.pop(schema.name, None))
    for schema in later.values():
        lines += _schema_lines(replace(schema, columns=(), band_columns=()), schema)
    return "\n".join(lines) + "\n"


def _schema_lines(schema: TableSchema, planned: TableSchema | None) -> list[str]:
    tap = f"TAP name `{schema.tap_name}`, " if schema.tap_name else ""
    lines = ["", f"## {schema.name}", "", f"{tap}LDM-151 {schema.section}, version {schema.version}.", ""]
    columns = schema.columns + schema.band_columns
    if columns:
        lines += ["| column | type | unit | what |", "|---|---|---|---|"]
    for column in columns:
        dtype = column.dtype + (", nullable" if column.nullable else "")
        text = column.doc.replace("|", "\\|")
        lines.append(f"| {'+' if column.ours else ''}`{column.name}` | {dtype} | {column.unit} | {text} |")
    if planned:
        names = ", ".join(f"`{column.name}`" for column in planned.columns + planned.band_columns)
        lines += ["", f"Not measured yet: {names}."]
    return lines
