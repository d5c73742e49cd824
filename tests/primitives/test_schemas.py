"""Schemas (LDM-151 9.2): our columns against those of Rubin's Data Preview 2."""

from __future__ import annotations

import importlib.resources

import astropy.units as u
import pytest

from skyquilt.primitives import schemas
from skyquilt.primitives.schemas import PLANNED, SCHEMAS, SOURCE, VISIT, VISIT_DETECTOR
from skyquilt.primitives.tables import schema_markdown

FELIS_TYPES = {
    "boolean": "bool",
    "byte": "i1",
    "short": "i2",
    "int": "i4",
    "long": "i8",
    "float": "f4",
    "double": "f8",
    "char": "str",
    "string": "str",
    "unicode": "str",
    "text": "str",
}

EXTRAS = {
    "Source": "ap12InstFlux ap12InstFluxErr calibInstFlux calibInstFluxErr kronFlux kronFluxErr "
    "kronFlux_flag kronRad detect_isPrimary noZeroPoint_flag noWcs_flag peakSnr tract",
    "Visit": "nDetectors nDetectorsGood qaGrade",
    "VisitDetector": "visit nSources status reasonCode configHash",
}
"""Every column that Data Preview 2 does not have."""

ALL = [*SCHEMAS, *PLANNED]


@pytest.fixture(scope="module")
def data_preview():
    """Tables of Data Preview 2: TAP name -> column name -> Felis column."""
    felis = pytest.importorskip("felis")
    sdm = pytest.importorskip("lsst.sdm.schemas")
    path = importlib.resources.files(sdm) / "dp2.yaml"
    schema = felis.Schema.from_uri(str(path), context={"id_generation": True})
    return {table.name: {column.name: column for column in table.columns} for table in schema.tables}


@pytest.mark.parametrize("schema", [s for s in ALL if s.tap_name], ids=lambda s: f"{s.name}-{len(s.columns)}")
def test_columns_are_those_of_data_preview_2(data_preview, schema):
    """Name, type and unit agree with DP2's for each column not marked ours, and ours are not in it."""
    theirs = data_preview[schema.tap_name]
    differ = []
    for column in schema.columns:
        if column.ours != (column.name not in theirs):
            differ.append(f"{column.name}: ours={column.ours}, in DP2: {column.name in theirs}")
        elif not column.ours:
            other = theirs[column.name]
            found = (FELIS_TYPES[other.datatype.value], other.ivoa_unit or other.fits_tunit or "")
            if found != (column.dtype, column.unit):
                differ.append(f"{column.name}: {column.dtype} {column.unit!r}, DP2 has {found}")
    assert not differ


@pytest.mark.parametrize("schema", [SOURCE, VISIT, VISIT_DETECTOR], ids=lambda s: s.name)
def test_extras_are_listed(schema):
    """The list of our columns beyond DP2 is complete."""
    assert [c.name for c in schema.columns if c.ours] == EXTRAS[schema.tap_name].split()


@pytest.mark.parametrize("schema", ALL, ids=lambda s: f"{s.name}-{len(s.columns)}")
def test_units_are_vounits(schema):
    """Every unit is one that astropy reads, and VOUnit but for the electron, which that standard lacks."""
    for unit in {column.unit for column in schema.columns + schema.band_columns} - {""}:
        assert isinstance(u.Unit(unit), u.UnitBase)
        u.Unit(unit.replace("electron", "adu"), format="vounit")


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.name)
def test_conventions_hold(schema):
    """Ids are int64, errors have their quantity's unit, flags are bool, texts are sentences."""
    columns = {column.name: column for column in schema.for_bands(["r"]).columns}
    for name, column in columns.items():
        assert column.doc.endswith("."), name
        if name.endswith("Id") or name in ("id", "visit", "tract"):
            assert column.dtype == "i8", name
        if name.endswith("_flag"):
            assert column.dtype == "bool", name
        if name.endswith("Err"):
            assert column.unit == columns[name.removesuffix("Err")].unit, name


def test_planned_columns_are_not_there_yet():
    """A planned column moves into its table when it is measured, and then leaves the plan."""
    tables = {schema.name: schema for schema in SCHEMAS}
    for plan in PLANNED:
        assert not set(plan.names) & set(tables[plan.name].names)


def test_source_has_nine_apertures():
    """DP2's nine radii, each with flux, error and flag."""
    names = [f"ap{radius:02d}Flux{end}" for radius in schemas.APERTURE_RADII for end in ("", "Err", "_flag")]
    assert len(names) == 27
    assert set(names) <= set(SOURCE.names)


def test_every_exported_schema_is_listed():
    """SCHEMAS leaves none out, and their names differ."""
    exported = [value for name, value in vars(schemas).items() if name in schemas.__all__]
    found = [value for value in exported if hasattr(value, "columns")]
    assert {schema.name for schema in found} == {schema.name for schema in SCHEMAS}
    assert len({schema.name for schema in SCHEMAS}) == len(SCHEMAS)


def test_the_page_is_made():
    """The page of tables has a heading for each."""
    page = schema_markdown(SCHEMAS, PLANNED)
    assert all(f"## {schema.name}\n" in page for schema in SCHEMAS)
    assert page.count("Not measured yet") == len(PLANNED)
