"""Reference catalogues (LDM-151 5.1.1): rows of FITS, Parquet, CSV, plain text, ECSV and VOTable files.

A file comes as chunks of the columns that its map names, plain arrays with NaN (text: '') where nothing is.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.io.reference_catalog.column_map import FORMATS, ReferenceCatalogError, ReferenceCatalogMap

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 1 << 18
"""Rows in memory at once: a catalogue may be larger than that."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file: plain arrays (NaN where missing) and the units that the file states."""

    path: Path
    columns: Mapping[str, np.ndarray]
    units: Mapping[str, str]

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))


def read_chunks(path: Path, catalog: ReferenceCatalogMap) -> Iterator[Chunk]:
    """All rows of a file, `CHUNK` at a time, in its order.

    Raises
    ------
    ReferenceCatalogError
        When the format is unknown, the file cannot be read as it, or a column is missing.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in (".gz", ".bz2")]
    kind = catalog.format or FORMATS.get(suffixes[-1] if suffixes else "")
    if kind is None:
        raise ReferenceCatalogError(
            f"{catalog.where}.path: format of {path} unknown; add format: one of "
            f"{', '.join(sorted(set(FORMATS.values())))}"
        )
    try:
        yield from _READERS[kind](path, catalog)
    except (OSError, UnicodeDecodeError) as error:
        raise ReferenceCatalogError(
            f"{catalog.where}.path: {path} cannot be read as {kind} ({error})"
        ) from error


def _read_fits(path: Path, catalog: ReferenceCatalogMap) -> Iterator[Chunk]:
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
            yield Chunk(path, {name: _native(block[name]) for name in wanted}, units)


def _read_parquet(path: Path, catalog: ReferenceCatalogMap) -> Iterator[Chunk]:
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
            yield Chunk(path, {name: _plain(column.to_pandas()) for name, column in columns.items()}, units)


def _read_csv(path: Path, catalog: ReferenceCatalogMap) -> Iterator[Chunk]:
    yield from _read_delimited(path, catalog, {})


def _read_text(path: Path, catalog: ReferenceCatalogMap) -> Iterator[Chunk]:
    yield from _read_delimited(path, catalog, {"sep": r"\s+"})


def _read_delimited(path: Path, catalog: ReferenceCatalogMap, options: dict[str, Any]) -> Iterator[Chunk]:
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
                yield Chunk(path, {name: _plain(block[name]) for name in wanted}, {})
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise OSError(str(error)) from error


def _read_ecsv(path: Path, catalog: ReferenceCatalogMap) -> Iterator[Chunk]:
    yield from _read_astropy(path, catalog, {"format": "ascii.ecsv"})


def _read_votable(path: Path, catalog: ReferenceCatalogMap) -> Iterator[Chunk]:
    yield from _read_astropy(path, catalog, {"format": "votable"})


def _read_astropy(path: Path, catalog: ReferenceCatalogMap, options: dict[str, Any]) -> Iterator[Chunk]:
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
        yield Chunk(path, {name: _plain(frame[name]) for name in wanted}, units)


_READERS: dict[str, Callable[[Path, ReferenceCatalogMap], Iterator[Chunk]]] = {
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
