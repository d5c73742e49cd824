"""Parquet files (LDM-151 9.2): what is written is read again, units and provenance with it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyquilt.io.parquet import (
    ROWS_PER_GROUP,
    provenance_of,
    read_table,
    schema_of,
    write_table,
    write_tables,
)
from skyquilt.primitives.schemas import REFERENCE, SCHEMAS, SOURCE, VISIT
from skyquilt.primitives.tables import Column, TableError, TableSchema

BANDED = TableSchema(
    "banded",
    "",
    "9.2",
    (Column("id", "i8", "", "Number."), Column("kind", "str", "", "Kind.")),
    band_columns=(Column("flux_{band}", "f8", "nJy", "Flux in band {band}."),),
)

SMALL = TableSchema(
    "small",
    "Small",
    "9.2",
    (
        Column("id", "i8", "", "Number.", tap_principal=True),
        Column("flux", "f8", "nJy", "Flux."),
        Column("fluxErr", "f4", "nJy", "Error of flux."),
        Column("bad", "bool", "", "Bad."),
        Column("band", "str", "", "Band."),
        Column("maybe", "bool", "", "If known.", nullable=True, ours=True),
        Column("count", "i8", "", "If known.", nullable=True),
        Column("note", "str", "", "If any.", nullable=True),
    ),
    version="3",
)
PROVENANCE = {"version": "0.1.0", "inputs": {"b": "2", "a": "1"}}

rows = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=True),
        st.floats(allow_nan=True, width=32),
        st.booleans(),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
        st.none() | st.booleans(),
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.sampled_from(["", "x", "nan", "None"]),
    ),
    max_size=6,
)


def small_table(values) -> pd.DataFrame:
    columns = dict(zip(SMALL.names, zip(*values) if values else [[]] * 8))
    columns["maybe"] = pd.array(list(columns["maybe"]), dtype="boolean")
    columns["count"] = pd.array(list(columns["count"]), dtype="Int64")
    columns["id"] = np.array(columns["id"], dtype="i8")
    columns |= {name: pd.Series(columns[name], dtype=object) for name in ("band", "note")}
    columns |= {name: np.array(columns[name], dtype="f8") for name in ("flux", "fluxErr")}
    columns["bad"] = np.array(columns["bad"], dtype=bool)
    return SMALL.conform(columns)


@given(rows)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tables_round_trip(tmp_path, values):
    """Numbers, NaN, nulls, text and 64-bit ids beside nulls come back as they went."""
    table = small_table(values)
    write_table(tmp_path / "t.parquet", table, SMALL, PROVENANCE)
    back = read_table(tmp_path / "t.parquet")
    SMALL.check(back)
    pd.testing.assert_frame_equal(back, table)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.name)
def test_schemas_round_trip(tmp_path, schema):
    """Every schema of ours is in its file whole: names, types, units, texts, marks, version."""
    bands = ("r", "i") if schema.band_columns else ()
    path = tmp_path / "empty.parquet"
    write_table(path, schema.empty(bands), schema, PROVENANCE)
    assert schema_of(path) == (schema.for_bands(bands) if bands else schema)
    assert provenance_of(path) == PROVENANCE
    back = read_table(path)
    schema.check(back)
    assert len(back) == 0


def test_other_software_sees_units_and_types(tmp_path):
    """Arrow fields carry unit and description; types are the declared ones; NaN is no null."""
    write_table(
        tmp_path / "t.parquet", small_table([(1, np.nan, 2.0, True, "r", None, None, None)]), SMALL, {}
    )
    schema = pq.read_schema(tmp_path / "t.parquet")
    field = schema.field("flux")
    assert (field.metadata[b"unit"], field.metadata[b"description"]) == (b"nJy", b"Flux.")
    assert [str(field.type) for field in schema] == [
        "int64",
        "double",
        "float",
        "bool",
        "string",
        "bool",
        "int64",
        "string",
    ]
    assert [field.nullable for field in schema] == [False] * 5 + [True] * 3
    assert schema.metadata[b"skyquilt.tap_name"] == b"Small"
    plain = pq.read_table(tmp_path / "t.parquet")
    assert plain["flux"].null_count == 0
    assert plain["count"].null_count == 1


def test_same_rows_same_bytes(tmp_path):
    """Order of columns, index and order of provenance keys leave no trace; nor does writing again."""
    rng = np.random.default_rng(1)
    n = 5000
    table = SMALL.conform(
        {
            "id": np.arange(n),
            "flux": rng.normal(size=n),
            "fluxErr": rng.random(n),
            "bad": rng.random(n) < 0.1,
            "band": rng.choice(["g", "r"], n),
            "maybe": pd.array(rng.random(n) < 0.5, dtype="boolean"),
            "count": np.arange(n),
            "note": "x",
        }
    )
    shuffled = table[table.columns[::-1]].set_index(np.arange(n)[::-1])
    write_table(tmp_path / "a.parquet", table, SMALL, {"a": 1, "b": {"c": 2, "d": 3}})
    write_table(tmp_path / "other" / "b.parquet", shuffled, SMALL, {"b": {"d": 3, "c": 2}, "a": 1})
    first = (tmp_path / "a.parquet").read_bytes()
    assert (tmp_path / "other" / "b.parquet").read_bytes() == first
    write_table(
        tmp_path / "a.parquet",
        read_table(tmp_path / "a.parquet"),
        SMALL,
        provenance_of(tmp_path / "a.parquet"),
    )
    assert (tmp_path / "a.parquet").read_bytes() == first


@given(st.lists(rows, max_size=4))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_are_one_table(tmp_path, values):
    """Parts are read as their rows one after the other, each a row group of its own; twice the same bytes."""
    parts = [small_table(each) for each in values]
    for name in ("a", "b"):
        write_tables(tmp_path / name, iter(parts), SMALL, PROVENANCE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    pd.testing.assert_frame_equal(read_table(tmp_path / "a"), SMALL.concat(parts))
    assert (schema_of(tmp_path / "a"), provenance_of(tmp_path / "a")) == (SMALL, PROVENANCE)
    content = pq.ParquetFile(tmp_path / "a").metadata
    groups = [content.row_group(k).num_rows for k in range(content.num_row_groups)]
    assert [n for n in groups if n] == [len(part) for part in parts if len(part)]


def test_one_part_is_the_whole_table(tmp_path):
    """One part has the bytes of the table written whole, and so has none those of an empty table."""
    table = small_table([(k, k, 1.0, True, "r", None, 1, "x") for k in range(10)])
    for whole, parts in ((table, [table]), (SMALL.empty(), []), (SMALL.empty(), [SMALL.empty()] * 2)):
        write_table(tmp_path / "whole", whole, SMALL, PROVENANCE)
        write_tables(tmp_path / "parts", parts, SMALL, PROVENANCE)
        assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()


def test_large_parts_are_split(tmp_path):
    """A part of more rows than a row group holds becomes several."""
    schema = TableSchema("n", "", "9.2", (Column("n", "i8", "", "Number."),))
    write_tables(tmp_path / "t", [{"n": np.arange(k)} for k in (ROWS_PER_GROUP + 3, 5)], schema, PROVENANCE)
    content = pq.ParquetFile(tmp_path / "t").metadata
    groups = [content.row_group(k).num_rows for k in range(content.num_row_groups)]
    assert groups == [ROWS_PER_GROUP, 3, 5]


def test_a_wrong_part_leaves_what_was_there(tmp_path):
    """When a later part is wrong, or cannot be made, the file stays as it was; bands are those of the first."""
    truth = {"id": [1], "kind": ["star"]}
    path = tmp_path / "t.parquet"
    write_tables(path, [truth | {"flux_g": [3.0]}], BANDED, {})
    before = path.read_bytes()

    def failing():
        yield truth | {"flux_g": [3.0]}
        raise MemoryError

    with pytest.raises(TableError, match=r"missing flux_g.*extra flux_r"):
        write_tables(path, [truth | {"flux_g": [3.0]}, truth | {"flux_r": [3.0]}], BANDED, {})
    with pytest.raises(MemoryError):
        write_tables(path, failing(), BANDED, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_encodings_are_as_said(tmp_path):
    """Text is dictionary encoded, numbers are not, all is zstd."""
    write_table(tmp_path / "t.parquet", small_table([(1, 1.0, 2.0, True, "r", None, 1, "x")] * 3), SMALL, {})
    group = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0)
    for number, column in enumerate(SMALL.columns):
        part = group.column(number)
        assert part.compression == "ZSTD"
        assert any("DICTIONARY" in encoding for encoding in part.encodings) == (column.dtype == "str")


def test_columns_and_rows_can_be_chosen(tmp_path):
    """Columns come in the order asked for, rows by a filter, and a folder like visit=3 adds no column."""
    path = tmp_path / "visit=3" / "t.parquet"
    write_table(
        path, small_table([(k, float(k), 0, k > 1, "gri"[k], None, k, None) for k in range(3)]), SMALL, {}
    )
    assert read_table(path, columns=("flux", "id")).to_dict("list") == {
        "flux": [0.0, 1.0, 2.0],
        "id": [0, 1, 2],
    }
    assert list(read_table(path).columns) == list(SMALL.names)
    chosen = read_table(path, columns=["id"], filter=[("band", "in", ["g", "i"]), ("flux", ">", 0.5)])
    assert chosen["id"].tolist() == [2]
    assert len(read_table(path, filter=[("id", ">", 5)])) == 0


def test_a_table_off_its_schema_is_not_written(tmp_path):
    """Nothing is left behind when columns are wrong or the provenance is no JSON."""
    table = small_table([(1, 1.0, 2.0, True, "r", None, 1, "x")])
    with pytest.raises(TableError, match="missing flux"):
        write_table(tmp_path / "t.parquet", table.drop(columns="flux"), SMALL, {})
    with pytest.raises(ValueError, match="JSON"):
        write_table(tmp_path / "t.parquet", table, SMALL, {"seeing": float("nan")})
    with pytest.raises(TypeError, match="JSON"):
        write_table(tmp_path / "t.parquet", table, SMALL, {"path": tmp_path})
    assert not list(tmp_path.iterdir())


def test_bad_files_are_named(tmp_path):
    """Missing, damaged and foreign files, and missing columns, are told with the path."""
    path = tmp_path / "t.parquet"
    with pytest.raises(FileNotFoundError, match=r"t\.parquet"):
        read_table(path)
    path.write_bytes(b"no parquet at all")
    with pytest.raises(TableError, match=r"t\.parquet.*not a readable Parquet"):
        schema_of(path)
    write_table(path, small_table([(1, 1.0, 2.0, True, "r", None, 1, "x")] * 1000), SMALL, {})
    with pytest.raises(TableError, match=r"t\.parquet.*no column fluxx"):
        read_table(path, columns=["fluxx"])
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"t\.parquet.*damaged"):
        read_table(path)
    foreign = tmp_path / "foreign.parquet"
    pd.DataFrame({"a": [1, 2], "t": ["x", None]}).to_parquet(foreign)
    assert read_table(foreign)["a"].dtype == "i8"
    assert provenance_of(foreign) == {}
    with pytest.raises(TableError, match=r"foreign\.parquet.*no Skyquilt schema"):
        schema_of(foreign)


def test_banded_tables_take_their_bands_along(tmp_path):
    """A per-band table is written with the bands it has and checks again when read."""
    truth = {"id": [1], "kind": ["star"]}
    write_table(tmp_path / "t.parquet", truth | {"flux_g": [3.0], "flux_y": [4.0]}, BANDED, {})
    assert schema_of(tmp_path / "t.parquet").names[-2:] == ("flux_g", "flux_y")
    BANDED.check(read_table(tmp_path / "t.parquet"))
    assert schema_of(tmp_path / "t.parquet")["flux_y"].doc.startswith("Flux in band y")
    assert REFERENCE.bands_in(schema_of(tmp_path / "t.parquet").names) == ("g", "y")


def test_published_tables_say_their_tap_name(tmp_path):
    """A TAP service finds its table name in the file."""
    for schema, tap in ((SOURCE, "Source"), (VISIT, "Visit")):
        write_table(tmp_path / "t.parquet", schema.empty(), schema, {})
        assert schema_of(tmp_path / "t.parquet").tap_name == tap
