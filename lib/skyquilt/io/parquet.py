"""Parquet files (LDM-151 9.2): tables checked against their schema, the same bytes for the same rows.

Each field carries its unit and description; the file carries the schema's name, TAP name, section and version
and a JSON of what made it. Strings are dictionary encoded, numbers are not (they hardly repeat), all is
compressed with zstd. No clock, host or path gets into the file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyquilt.io.atomic import atomic_path
from skyquilt.primitives.tables import Column, TableError, TableSchema

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS_PER_GROUP = 1 << 17
"""Most rows in a row group: few enough for filters to skip some, enough to compress."""

_PREFIX = "skyquilt."
_ARROW_NAMES = {"bool": "bool", "f4": "float32", "f8": "float64", "str": "string"}


def write_table(
    path: str | Path,
    table: pd.DataFrame | Mapping[str, Any],
    schema: TableSchema,
    provenance: Mapping[str, Any],
) -> None:
    """Write a table atomically as Parquet.

    Parameters
    ----------
    path : path
        Replaced when it exists; parent directories are made.
    table : DataFrame or mapping
        Conformed to the schema first; the order of its columns and its index do not matter.
    schema : TableSchema
        Per-band columns are written for the bands found in `table`.
    provenance : mapping
        What made the table, JSON values only: version, digests, inputs. Nothing that differs from run to run.

    Raises
    ------
    TableError
        When the table does not have the schema's columns.
    ValueError, TypeError
        When `provenance` is not JSON.
    """
    write_tables(path, [table], schema, provenance)


def write_tables(
    path: str | Path,
    parts: Iterable[pd.DataFrame | Mapping[str, Any]],
    schema: TableSchema,
    provenance: Mapping[str, Any],
) -> None:
    """Write a table that comes in parts, atomically, as one Parquet file; memory is that of one part.

    Parameters
    ----------
    path, schema, provenance
        As for `write_table`.
    parts : iterable of DataFrame or mapping
        Rows one after the other, each part conformed to the schema. A part is a row group of its own (or
        several, beyond `ROWS_PER_GROUP`), so that a filter for it reads nothing else; parts without rows
        leave no trace. Without any rows the table is empty.

    Raises
    ------
    TableError
        When a part does not have the schema's columns, or not the bands of the first one.
    ValueError, TypeError
        When `provenance` is not JSON.
    """
    import pyarrow.parquet as pq

    tables = _arrow_tables(parts, schema, provenance)
    with atomic_path(path) as temporary:
        first = next(tables)
        text = [field.name for field in first.schema if str(field.type) == _ARROW_NAMES["str"]]
        with pq.ParquetWriter(
            temporary,
            first.schema,
            use_dictionary=text or False,
            compression="zstd",
            compression_level=3,
            version="2.6",
            data_page_version="1.0",
            store_schema=True,
        ) as writer:
            for table in itertools.chain([first], tables):
                writer.write_table(table, row_group_size=ROWS_PER_GROUP)


def _arrow_tables(
    parts: Iterable[pd.DataFrame | Mapping[str, Any]], schema: TableSchema, provenance: Mapping[str, Any]
) -> Iterator[pa.Table]:
    """Conformed parts that have rows; a table without any when there is none, so that there is always one."""
    rows = 0
    for part in parts:
        frame = schema.conform(part)
        # the first part decides on the bands
        schema = schema.resolved(frame.columns)
        rows += len(frame)
        if len(frame):
            yield _arrow_table(frame, schema, provenance)
    if not rows:
        schema = schema.resolved(())
        yield _arrow_table(schema.empty(), schema, provenance)


def _arrow_table(frame: pd.DataFrame, schema: TableSchema, provenance: Mapping[str, Any]) -> pa.Table:
    import pyarrow as pa

    arrays = [_to_arrow(frame[column.name], column, pa) for column in schema.columns]
    return pa.Table.from_arrays(arrays, schema=arrow_schema(schema, provenance))


def read_table(path: str | Path, columns: Sequence[str] | None = None, filter: Any = None) -> pd.DataFrame:
    """Read a Parquet table, written here or elsewhere.

    Parameters
    ----------
    path : path
        One file.
    columns : sequence of str, optional
        Only these, in this order.
    filter : pyarrow expression or list of (name, operator, value), optional
        Only rows for which it holds; row groups that cannot hold any are skipped.

    Returns
    -------
    DataFrame
        NaN where not measured; integer and flag columns with nulls are masked arrays.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TableError
        It is not Parquet, is damaged, or lacks one of `columns`.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = _arrow_schema_of(path)
    names = arrow.names
    _check_names(path, columns or (), names)
    wanted = None if columns is None else list(columns)
    try:
        # no partitioning: a directory called visit=3 above the file must not become a column
        table = pq.read_table(path, columns=wanted, filters=filter, partitioning=None, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: damaged Parquet file ({error})") from error
    order = table.column_names if wanted is None else wanted
    # other software marks every column nullable, so that there the mark says nothing
    ours = (_PREFIX + "schema").encode() in (arrow.metadata or {})
    frame = {
        name: _to_pandas(table.column(name), ours and arrow.field(name).nullable, pa, pd) for name in order
    }
    return pd.DataFrame(frame, columns=order, index=pd.RangeIndex(table.num_rows))


def schema_of(path: str | Path) -> TableSchema:
    """Schema that a file written by `write_table` carries, bands expanded.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    TableError
        It is not Parquet, or was written by other software.
    """
    arrow = _arrow_schema_of(path)
    about = _metadata(arrow.metadata)
    if _PREFIX + "schema" not in about:
        raise TableError(f"{path}: no Skyquilt schema in the Parquet metadata")
    return TableSchema(
        name=about[_PREFIX + "schema"],
        tap_name=about[_PREFIX + "tap_name"],
        section=about[_PREFIX + "section"],
        columns=tuple(_column(field) for field in arrow),
        version=about[_PREFIX + "version"],
    )


def provenance_of(path: str | Path) -> dict[str, Any]:
    """What made a file, as given to `write_table`; empty for files of other software.

    Raises
    ------
    FileNotFoundError, TableError
        As `schema_of`.
    """
    about = _metadata(_arrow_schema_of(path).metadata)
    return json.loads(about.get(_PREFIX + "provenance", "{}"))


def arrow_schema(schema: TableSchema, provenance: Mapping[str, Any] | None = None) -> pa.Schema:
    """Arrow schema with units, descriptions and the file's metadata."""
    import pyarrow as pa

    about = {
        _PREFIX + "schema": schema.name,
        _PREFIX + "tap_name": schema.tap_name,
        _PREFIX + "section": schema.section,
        _PREFIX + "version": schema.version,
        _PREFIX + "provenance": json.dumps(dict(provenance or {}), sort_keys=True, allow_nan=False),
    }
    return pa.schema([_field(column) for column in schema.columns], metadata=about)


def _field(column: Column) -> pa.Field:
    import pyarrow as pa

    about = {"unit": column.unit, "description": column.doc}
    about |= {name: "1" for name in ("ours", "tap_principal") if getattr(column, name)}
    kind = _ARROW_NAMES.get(column.dtype) or f"int{8 * int(column.dtype[1])}"
    return pa.field(column.name, pa.type_for_alias(kind), nullable=column.nullable, metadata=about)


def _column(field: pa.Field) -> Column:
    about = _metadata(field.metadata)
    kinds = {arrow: ours for ours, arrow in _ARROW_NAMES.items()} | {"float": "f4", "double": "f8"}
    kind = str(field.type)
    return Column(
        field.name,
        kinds.get(kind) or f"i{int(kind.removeprefix('int')) // 8}",
        about["unit"],
        about["description"],
        nullable=field.nullable,
        tap_principal="tap_principal" in about,
        ours="ours" in about,
    )


def _metadata(content: Mapping[bytes, bytes] | None) -> dict[str, str]:
    # pyarrow adds a key of its own (the field's number) in bytes that are text too
    return {key.decode(): value.decode() for key, value in (content or {}).items()}


def _to_arrow(values: pd.Series, column: Column, pa: Any) -> pa.Array:
    # from_pandas=False keeps NaN a number: only masked entries and missing text become nulls
    if column.dtype == "str":
        return pa.array(values.astype(object).where(values.notna(), None), pa.string())
    if column.nullable:
        return pa.array(values.array)
    return pa.array(values.to_numpy(), from_pandas=False)


def _to_pandas(values: pa.ChunkedArray, nullable: bool, pa: Any, pd: Any) -> pd.Series:
    flag = pa.types.is_boolean(values.type)
    if (values.null_count or nullable) and (flag or pa.types.is_integer(values.type)):
        whole = values.fill_null(False if flag else 0).to_numpy()
        array = pd.arrays.BooleanArray if flag else pd.arrays.IntegerArray
        return pd.Series(array(whole, values.is_null().to_numpy()))
    return values.to_pandas()


def _arrow_schema_of(path: str | Path) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such table") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: not a readable Parquet file ({error})") from error


def _check_names(path: str | Path, wanted: Sequence[str], names: Sequence[str]) -> None:
    lacking = [name for name in wanted if name not in names]
    if lacking:
        raise TableError(f"{path}: no column {', '.join(lacking)}; it has {', '.join(names)}")
