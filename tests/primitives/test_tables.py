"""Tables (LDM-151 9.2): schemas check, conform and describe tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyquilt.primitives.tables import Column, TableError, TableSchema, per_band, schema_markdown

SCHEMA = TableSchema(
    "things",
    "Things",
    "9.2",
    (
        Column("id", "i8", "", "Number."),
        Column("small", "i2", "", "A small number."),
        Column("flux", "f8", "nJy", "Flux."),
        Column("fluxErr", "f4", "nJy", "Error of flux.", ours=True),
        Column("bad", "bool", "", "Bad | or not."),
        Column("band", "str", "", "Band."),
        Column("maybe", "bool", "", "True, false or unknown.", nullable=True),
        Column("count", "i4", "", "Count if known.", nullable=True),
        Column("note", "str", "", "Note if any.", nullable=True),
    ),
)
BANDED = TableSchema(
    "banded",
    "",
    "9.2",
    (Column("id", "i8", "", "Number."),),
    band_columns=(
        Column("flux_{band}", "f8", "nJy", "Flux in {band}."),
        Column("fluxErr_{band}", "f8", "nJy", "Error in {band}."),
    ),
)


def things(n: int = 3) -> dict:
    return {
        "id": np.arange(n),
        "small": np.arange(n, dtype="i2"),
        "flux": np.linspace(1, 2, n),
        "fluxErr": np.full(n, 0.1, dtype="f4"),
        "bad": np.zeros(n, dtype=bool),
        "band": ["r"] * n,
        "maybe": pd.array([None, True, False][:n], dtype="boolean"),
        "count": pd.array([1, None, 3][:n], dtype="Int32"),
        "note": ["x", None, ""][:n],
    }


def test_a_conformed_table_passes_the_check():
    """conform puts any order of columns and any index into the schema's form, and does nothing twice."""
    frame = pd.DataFrame(things(), index=[7, 8, 9])
    frame = frame[frame.columns[::-1]]
    table = SCHEMA.conform(frame)
    SCHEMA.check(table)
    assert tuple(table.columns) == SCHEMA.names
    assert list(table.index) == [0, 1, 2]
    pd.testing.assert_frame_equal(SCHEMA.conform(table), table)
    assert table["count"].dtype == "Int32"
    assert table["count"].isna().tolist() == [False, True, False]
    assert table["maybe"].isna().tolist() == [True, False, False]
    assert table["note"].isna().tolist() == [False, True, False]


def test_conform_leaves_its_input_alone():
    """The result shares no memory with what it was made from."""
    frame = pd.DataFrame(things())
    table = SCHEMA.conform(frame)
    table.loc[0, ["flux", "id"]] = [-1.0, 99]
    assert frame["flux"][0] == 1.0
    assert frame["id"][0] == 0


def test_nan_is_a_value():
    """A float that was not measured is NaN and passes; it is never a null."""
    SCHEMA.check(SCHEMA.conform(things() | {"flux": np.full(3, np.nan), "fluxErr": np.full(3, np.nan)}))


def test_every_difference_is_named():
    """The message names missing, extra, wrongly typed columns and nulls at once."""
    frame = SCHEMA.conform(things()).drop(columns=["flux"])
    frame["fluxx"] = 1.0
    frame["small"] = frame["small"].astype("i4")
    frame["band"] = ["r", None, "i"]
    with pytest.raises(TableError) as caught:
        SCHEMA.check(frame)
    text = str(caught.value)
    assert "table things" in text
    assert "missing flux" in text
    assert "extra fluxx (did you mean flux?)" in text
    assert "small is int32, expected int16" in text
    assert "band has 1 row null" in text


def test_columns_named_twice_are_refused():
    """pandas allows a name twice, a table does not."""
    table = SCHEMA.conform(things())
    with pytest.raises(TableError, match="twice flux"):
        SCHEMA.check(pd.concat([table, table[["flux"]]], axis=1))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("small", [1, 2, 40000]),
        ("small", [1.0, 2.5, 3.0]),
        ("small", [1.0, np.nan, 3.0]),
        ("id", np.array([1, 2, 2**63], dtype="u8")),
        ("id", [2.0**60, 1.0, 2.0]),
        ("bad", [0, 1, 2]),
        ("bad", [True, None, False]),
        ("flux", ["1", "2", "3"]),
        ("flux", [True, False, True]),
        ("flux", [2**53 + 1, 0, 0]),
        ("fluxErr", [1e39, 0.0, 0.0]),
        ("fluxErr", [2**24 + 1, 0, 0]),
        ("count", [1, 2, 2**40]),
        ("band", [1, 2, 3]),
        ("band", ["r", None, "i"]),
        ("note", ["a", 3, None]),
        ("id", [True, False, True]),
    ],
)
def test_lossy_casts_are_refused_by_name(name, values):
    """What a column cannot hold without loss stops conform, with the column in the message."""
    with pytest.raises(TableError, match=name):
        SCHEMA.conform(things() | {name: values})


@given(
    st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=5),
    st.sampled_from(["i2", "i4", "i8", "f4", "f8", "Int16", "Int64", "Float64", "O"]),
)
@settings(max_examples=60, deadline=None)
def test_integers_survive_every_path(values, dtype):
    """A number that fits comes out as it went in, whatever held it before."""
    schema = TableSchema("t", "", "9.2", (Column("a", "i2", "", "A."), Column("b", "f8", "", "B.")))
    series = pd.Series(values, dtype=dtype)
    table = schema.conform({"a": series, "b": series})
    assert table["a"].tolist() == values
    assert table["b"].tolist() == values
    schema.check(table)


@given(st.lists(st.floats(allow_nan=True, width=32), max_size=5))
@settings(max_examples=40, deadline=None)
def test_doubles_round_to_the_nearest_single(values):
    """A float32 column holds the nearest float32; infinities and NaN stay what they are."""
    schema = TableSchema("t", "", "9.2", (Column("a", "f4", "", "A."),))
    np.testing.assert_array_equal(
        schema.conform({"a": np.array(values, dtype="f8")})["a"], np.float32(values)
    )


def test_columns_of_nothing_fit_anywhere():
    """No rows, or only None where None is allowed, have no type of their own and take the column's."""
    nothing = SCHEMA.conform({name: np.array([], dtype=object) for name in SCHEMA.names})
    pd.testing.assert_frame_equal(nothing, SCHEMA.empty())
    unknown = dict.fromkeys(["maybe", "count", "note", "flux"], [None] * 3)
    table = SCHEMA.conform(things() | unknown)
    SCHEMA.check(table)
    assert table[list(unknown)].isna().all(axis=None)
    with pytest.raises(TableError, match="id has 3 rows null"):
        SCHEMA.conform(things() | {"id": [None] * 3})


def test_scalars_fill_a_column():
    """A scalar in the mapping stands for the whole column."""
    assert SCHEMA.conform(things() | {"band": "i"})["band"].tolist() == ["i"] * 3


def test_empty_and_concat():
    """No rows have the right dtypes, and concatenation keeps order and dtypes."""
    empty = SCHEMA.empty()
    SCHEMA.check(empty)
    assert len(empty) == 0
    pd.testing.assert_frame_equal(SCHEMA.concat([]), empty)
    one, two = SCHEMA.conform(things()), SCHEMA.conform(things(2))
    both = SCHEMA.concat([one, empty, two])
    SCHEMA.check(both)
    assert both["id"].tolist() == [0, 1, 2, 0, 1]
    pd.testing.assert_frame_equal(both[:3], one)


def test_bands_are_found_in_the_names():
    """A banded schema takes the bands of the table it sees, whatever they are called."""
    assert BANDED.bands_in(["id", "flux_r", "fluxErr_r", "flux_i_2"]) == ("r", "i_2")
    table = BANDED.conform({"flux_g": [1.0], "fluxErr_g": [2.0], "id": [1]})
    assert list(table.columns) == ["id", "flux_g", "fluxErr_g"]
    BANDED.check(table)
    BANDED.check(BANDED.empty(["u", "y"]))
    with pytest.raises(TableError, match="missing fluxErr_r"):
        BANDED.check(table.assign(flux_r=1.0))
    with pytest.raises(TableError, match="missing flux_i"):
        BANDED.concat([table, table.rename(columns=lambda name: name.replace("_g", "_i"))])


def test_bands_before_the_name():
    """Per-band columns without a place for the band have it in front, bands outermost."""
    columns = per_band(
        [Column("psfFlux", "f8", "nJy", "Flux."), Column("psfFlux_flag", "bool", "", "Failed.")], "gr"
    )
    assert [c.name for c in columns] == ["g_psfFlux", "g_psfFlux_flag", "r_psfFlux", "r_psfFlux_flag"]
    assert columns[2].doc == "Flux. In band r."
    schema = TableSchema("o", "", "5.4", (), band_columns=(Column("psfFlux", "f8", "nJy", "F."),))
    assert schema.bands_in(["g_psfFlux", "r_psfFlux"]) == ("g", "r")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"name": "lambda"},
        {"dtype": "u8"},
        {"dtype": "bool", "unit": "deg"},
        {"nullable": True},
        {"doc": ""},
    ],
)
def test_impossible_columns_are_refused(wrong):
    """A column that no file could hold, or that nobody could understand, is not made."""
    with pytest.raises(ValueError, match="column"):
        Column(**({"name": "a", "dtype": "f8", "unit": "", "doc": "A."} | wrong))


def test_schemas_name_a_column_once():
    """A name twice, and a per-band column among the fixed ones, are refused; a wrong name gets a hint."""
    column = Column("a", "f8", "", "A.")
    with pytest.raises(ValueError, match="twice: a"):
        TableSchema("t", "", "1", (column, column))
    with pytest.raises(ValueError, match="band_columns"):
        TableSchema("t", "", "1", (Column("a_{band}", "f8", "", "A."),))
    assert SCHEMA["flux"].unit == "nJy"
    with pytest.raises(KeyError, match="did you mean flux"):
        SCHEMA["fluxs"]


def test_the_page_has_every_column():
    """The page names every table and column with type, unit and text, and what is planned."""
    planned = TableSchema("things", "Things", "9.2", (Column("later", "f8", "", "Later."),))
    page = schema_markdown([SCHEMA, BANDED], [planned])
    assert page == schema_markdown([SCHEMA, BANDED], [planned])
    assert "## things" in page
    assert "| +`fluxErr` | f4 | nJy | Error of flux. |" in page
    assert "| `bad` | bool |  | Bad \\| or not. |" in page
    assert "| `count` | i4, nullable |  | Count if known. |" in page
    assert "| `flux_{band}` | f8 | nJy | Flux in {band}. |" in page
    assert "Not measured yet: `later`." in page
    assert page.endswith(".\n") or page.endswith("|\n")
