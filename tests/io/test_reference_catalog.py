"""Reference catalogues (LDM-151 5.1.1): any format by a map, and the right stars."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from skyquilt.io.reference_catalog import (
    ReferenceCatalogError,
    ReferenceCatalogMap,
    files,
    positions_at,
    read_reference,
)
from skyquilt.io.reference_catalog.motion import MAS
from skyquilt.io.reference_catalog.standard_form import in_cone
from skyquilt.primitives.geometry import angular_separation
from skyquilt.primitives.schemas import REFERENCE

SHARED = Path(os.environ.get("SKYQUILT_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"

COLUMNS = {"refId": "number", "ra": "ra", "dec": "dec"}
BANDS = {"r": {"magnitude": "rmag", "error": "rmag_err", "system": "AB"}}


def mapping(path, **changes) -> dict:
    return {"path": str(path), "columns": COLUMNS, "bands": BANDS} | changes


def catalog(path, directory, **changes) -> ReferenceCatalogMap:
    return ReferenceCatalogMap.from_dict(mapping(path, **changes), directory)


def stars(n: int = 40, seed: int = 3) -> Table:
    """A field of 2 degrees about ra 359.9, dec 60: across the zero of right ascension."""
    rng = np.random.default_rng(seed)
    return Table(
        {
            "number": 4_000_000_000_000_000_001 + 7 * rng.permutation(n),
            "ra": (359.9 + rng.uniform(-2, 2, n)) % 360,
            "dec": 60 + rng.uniform(-1, 1, n),
            "rmag": rng.uniform(15, 20, n),
            "rmag_err": rng.uniform(0.01, 0.02, n),
            "kind": np.where(rng.random(n) < 0.7, "STAR", "GALAXY"),
        }
    )


def write(table: Table, path: Path) -> None:
    if path.name.endswith(".csv"):
        table.to_pandas().to_csv(path, index=False)
    elif path.name.endswith(".parquet"):
        table.to_pandas().to_parquet(path)
    elif path.name.endswith(".cat"):
        table.to_pandas().to_csv(path, index=False, sep=" ")
    elif path.name.endswith(".vot"):
        table.write(path, format="votable")
    else:
        table.write(path)


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".csv", ".ecsv", ".parquet", ".vot", ".cat"])
def test_every_format_gives_the_same_stars(tmp_path, suffix):
    """The same table in each format, in chunks or whole, is the same catalogue: a loop over its rows."""
    table = stars()
    write(table, tmp_path / f"cat{suffix}")
    found = read_reference(
        catalog(f"cat{suffix}", tmp_path, filter='kind == "STAR" and rmag < 19'), 359.9, 60.0, 0.7
    )
    REFERENCE.check(found)
    centre = SkyCoord(359.9, 60, unit="deg")
    expected = {}
    for row in table:
        near = SkyCoord(row["ra"], row["dec"], unit="deg").separation(centre).deg < 0.7
        if near and row["kind"] == "STAR" and row["rmag"] < 19:
            expected[int(row["number"])] = row
    assert len(expected) > 3
    assert found["refId"].tolist() == sorted(expected)
    rows = [expected[number] for number in found["refId"]]
    np.testing.assert_allclose(found["ra"], [row["ra"] for row in rows], rtol=1e-14)
    np.testing.assert_allclose(found["dec"], [row["dec"] for row in rows], rtol=1e-14)
    flux = np.array([(row["rmag"] * u.ABmag).to_value("nJy") for row in rows])
    # ABmag's zero point is 31.4 rounded: 3631 Jy against 31.4 mag differ by 6e-5
    np.testing.assert_allclose(found["flux_r"], flux, rtol=1e-4)
    ratio = found["fluxErr_r"] / found["flux_r"]
    np.testing.assert_allclose(ratio, [row["rmag_err"] * np.log(10) / 2.5 for row in rows], rtol=1e-12)
    assert found["pmRa"].isna().all()
    assert found["isStar"].isna().all()


@pytest.mark.parametrize("suffix", [".fits", ".csv", ".parquet"])
def test_chunks_leave_no_trace(tmp_path, monkeypatch, suffix):
    """Read seven rows at a time, a catalogue is the same as read at once, numbered rows too."""
    write(stars(), tmp_path / f"cat{suffix}")
    whole = catalog(f"cat{suffix}", tmp_path, columns={"ra": "ra", "dec": "dec"})
    expected = read_reference(whole, 0.0, 60.0, 180.0)
    assert expected["refId"].tolist() == list(range(40))
    monkeypatch.setattr(files, "CHUNK", 7)
    pd.testing.assert_frame_equal(read_reference(whole, 0.0, 60.0, 180.0), expected)


def test_shards_are_one_catalogue(tmp_path):
    """Globs and lists join files; a star in two shards is there once, and order of files does not matter."""
    table = stars()
    write(table[:25], tmp_path / "a.csv")
    write(table[20:], tmp_path / "b.csv")
    write(table, tmp_path / "whole.csv")
    expected = read_reference(catalog("whole.csv", tmp_path), 0, 60, 5)
    assert len(expected) == 40
    pd.testing.assert_frame_equal(read_reference(catalog("[ab].csv", tmp_path), 0, 60, 5), expected)
    listed = ReferenceCatalogMap.from_dict(mapping("") | {"path": ["b.csv", "a.csv", "[ab].csv"]}, tmp_path)
    pd.testing.assert_frame_equal(read_reference(listed, 0, 60, 5), expected)


def test_one_number_for_two_stars_is_refused(tmp_path):
    """A refId that stands for two positions would match wrong stars: the message says what to do."""
    table = stars()
    table["number"][:2] = 5
    write(table, tmp_path / "a.csv")
    with pytest.raises(ReferenceCatalogError, match=r"refId: 1 numbers .* as 5; leave refId out"):
        read_reference(catalog("a.csv", tmp_path), 0, 60, 5)


def test_an_empty_cone_has_no_rows(tmp_path):
    """No star is an empty table with all columns; the caller knows what it means."""
    write(stars(), tmp_path / "a.csv")
    found = read_reference(catalog("a.csv", tmp_path), 180, -30, 1)
    assert len(found) == 0
    REFERENCE.check(found)
    assert "flux_r" in found


@given(st.floats(0, 360), st.floats(-90, 90), st.floats(1e-4, 179))
@settings(max_examples=40, deadline=None)
def test_the_cone_is_round_everywhere(ra0, dec0, radius):
    """At the pole and across ra 0, a star is in the cone just when astropy says so."""
    rng = np.random.default_rng(5)
    ra, dec = rng.uniform(0, 360, 60), np.degrees(np.arcsin(rng.uniform(-1, 1, 60)))
    ra[:3], dec[:3] = ra0 + radius * np.array([0.5, -0.99, 1.01]), dec0
    separation = SkyCoord(ra0, dec0, unit="deg").separation(SkyCoord(ra, dec, unit="deg")).deg
    clear = np.abs(separation - radius) > 1e-9
    inside = in_cone(ra, dec, ra0, dec0, radius)
    np.testing.assert_array_equal(inside[clear], (separation < radius)[clear])


def test_units_are_converted(tmp_path):
    """Radians, hours, sexagesimal text and other units of errors and motions give the same star."""
    row = {
        "ra_rad": np.radians(210.0),
        "ra_hour": 14.0,
        "ra_text": "14:00:00.0",
        "dec_rad": np.radians(-30.5),
        "dec_deg": -30.5,
        "dec_text": "-30 30 00",
        "err_rad": np.radians(2 * MAS),
        "err_mas": 2.0,
        "pm_rad": np.radians(5 * MAS),
        "pm_arcsec": 0.005,
        "pm_mas": 5.0,
        "coordinate_rate": 5.0 / np.cos(np.radians(-30.5)),
    }
    pd.DataFrame([row]).to_csv(tmp_path / "a.csv", index=False)
    epoch = {"value": 2016.0, "unit": "jyear"}
    mas = {"raErr": "err_mas", "pmRa": "pm_mas", "parallax": "err_mas"}
    rad = {
        "raErr": {"column": "err_rad", "unit": "radians"},
        "pmRa": {"column": "pm_rad", "unit": "rad/yr"},
        "parallax": {"column": "err_rad", "unit": "rad"},
    }
    other = rad | {"pmRa": {"column": "coordinate_rate", "cos_dec": False}}
    arcsec = rad | {"pmRa": {"column": "pm_arcsec", "unit": "arcsec/yr"}}
    places = [
        ({"column": "ra_rad", "unit": "radians"}, {"column": "dec_rad", "unit": "rad"}, mas),
        ({"column": "ra_hour", "unit": "hourangle"}, "dec_deg", rad),
        ({"column": "ra_text", "unit": "hourangle"}, {"column": "dec_text", "unit": "degrees"}, other),
        ({"column": "ra_hour", "unit": "hourangle"}, "dec_deg", arcsec),
    ]
    for ra, dec, rest in places:
        columns = {"ra": ra, "dec": dec, **rest}
        star = read_reference(
            catalog("a.csv", tmp_path, columns=columns, bands={}, epoch=epoch), 210, -30, 1
        ).iloc[0]
        np.testing.assert_allclose(
            star[["ra", "dec", "raErr", "pmRa", "parallax", "epoch"]].to_numpy(dtype=float),
            [210.0, -30.5, 2 * MAS, 5.0, 2.0, Time(2016.0, format="jyear").mjd],
            rtol=1e-13,
        )


def test_the_files_own_units_are_used(tmp_path):
    """A unit in a FITS or VOTable column is taken where the map has none, and a contradiction is refused."""
    table = Table({"ra": np.radians([10.0]), "dec": np.radians([20.0])}, units={"ra": "rad", "dec": "rad"})
    for name in ("a.fits", "a.vot", "a.ecsv"):
        write(table, tmp_path / name)
        columns = {"ra": "ra", "dec": "dec"}
        star = read_reference(catalog(name, tmp_path, columns=columns, bands={}), 10, 20, 0.001)
        np.testing.assert_allclose(star[["ra", "dec"]], [[10, 20]], rtol=1e-14)
        columns = columns | {"ra": {"column": "ra", "unit": "degrees"}}
        with pytest.raises(ReferenceCatalogError, match=r"columns\.ra: unit deg, but .* is in rad"):
            read_reference(catalog(name, tmp_path, columns=columns, bands={}), 10, 20, 0.001)


def test_a_wrong_unit_that_shows_is_refused(tmp_path):
    """Degrees read as radians leave the sphere; the message names range, unit and column."""
    write(stars(), tmp_path / "a.csv")
    columns = COLUMNS | {"dec": {"column": "dec", "unit": "radians"}}
    with pytest.raises(
        ReferenceCatalogError, match=r"columns\.dec: .* in rad reaches from .* correct the unit"
    ):
        read_reference(catalog("a.csv", tmp_path, columns=columns), 0, 60, 5)


def test_bands_of_every_kind(tmp_path):
    """AB, Vega, Jansky, nanomaggies, sentinels and conditions on the row end in nJy."""
    pd.DataFrame(
        {
            "ra": [1.0, 2.0],
            "dec": [0.0, 0.0],
            "mag": [21.4, 9999.0],
            "jy": [1e-6, np.nan],
            "jy_err": [1e-7, 1e-7],
            "nmgy": [1.0, 10.0],
            "band": ["r", "i"],
        }
    ).to_csv(tmp_path / "a.csv", index=False)
    bands = {
        "a": {"magnitude": "mag", "system": "AB"},
        "b": {"magnitude": "mag", "system": "Vega", "offset": 2.5},
        "c": {"flux": "jy", "error": "jy_err", "unit": "Jy"},
        "d": {"flux": "nmgy", "unit": "nanomaggy", "where": "band == 'i'"},
    }
    found = read_reference(
        catalog("a.csv", tmp_path, columns={"ra": "ra", "dec": "dec"}, bands=bands, missing=[9999, -99]),
        0,
        0,
        9,
    )
    assert [c for c in found if c.startswith("flux_")] == ["flux_a", "flux_b", "flux_c", "flux_d"]
    np.testing.assert_allclose(found["flux_a"], [1e4, np.nan], rtol=1e-12)
    np.testing.assert_allclose(found["flux_b"], [1e3, np.nan], rtol=1e-12)
    np.testing.assert_allclose(found["flux_c"], [1e3, np.nan], rtol=1e-12)
    np.testing.assert_allclose(found["fluxErr_c"], [100.0, 100.0], rtol=1e-12)
    np.testing.assert_allclose(found["flux_d"], [np.nan, 10 * 10 ** (8.9 / 2.5)], rtol=1e-12)
    assert found["fluxErr_a"].isna().all()


def test_rows_without_position_or_value(tmp_path):
    """Rows without a position are left out; empty fields are NaN; 64-bit ids beside them stay exact."""
    lines = ["number,ra,dec,rmag,rmag_err", "4611686018427387905,1,0,,0.1", "3,,0,20,0.1", "5,2,0,20,"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    found = read_reference(catalog("a.csv", tmp_path), 0, 0, 9)
    assert found["refId"].tolist() == [5, 4611686018427387905]
    np.testing.assert_array_equal(found["flux_r"].isna(), [False, True])
    assert found["fluxErr_r"].isna().all()
    (tmp_path / "b.csv").write_text("\n".join([*lines, ",2,1,20,0.1"]) + "\n")
    with pytest.raises(ReferenceCatalogError, match=r"refId: .* empty rows; leave refId out"):
        read_reference(catalog("b.csv", tmp_path), 0, 0, 9)


def test_stars_are_told_from_galaxies(tmp_path):
    """isStar is an expression or a column of truths; where the column is empty it is unknown."""
    table = stars()
    write(table, tmp_path / "a.csv")
    columns = COLUMNS | {"isStar": {"where": 'kind in ["STAR", "PSF"]'}}
    found = read_reference(catalog("a.csv", tmp_path, columns=columns), 0, 60, 5)
    truth = dict(zip(table["number"].tolist(), (table["kind"] == "STAR").tolist()))
    assert found["isStar"].tolist() == [truth[number] for number in found["refId"]]
    (tmp_path / "b.csv").write_text("number,ra,dec,pointlike\n1,0,0,1\n2,0,0,0\n3,0,0,\n")
    columns = COLUMNS | {"isStar": "pointlike"}
    found = read_reference(catalog("b.csv", tmp_path, columns=columns, bands={}), 0, 0, 5)
    assert found["isStar"].fillna(False).tolist() == [True, False, False]
    assert found["isStar"].isna().tolist() == [False, False, True]


def test_other_extension_and_text_without_heading(tmp_path):
    """A FITS table is found by name or number, a bare text file by the names in the map."""
    from astropy.io import fits

    table = stars(5)
    table["kind"] = table["kind"].astype("S6")
    hdus = [
        fits.PrimaryHDU(),
        fits.BinTableHDU(Table({"x": [1]}), name="OTHER"),
        fits.BinTableHDU(table, name="CAT"),
    ]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    for extension in ("CAT", 2):
        assert len(read_reference(catalog("a.fits", tmp_path, extension=extension), 0, 60, 5)) == 5
    with pytest.raises(ReferenceCatalogError, match=r"no table CATT; its extensions: .*OTHER, CAT"):
        read_reference(catalog("a.fits", tmp_path, extension="CATT"), 0, 60, 5)
    (tmp_path / "b.txt").write_text("# a comment\n1.5  2.5  7 19.0 0.1\n1.6  2.6  8 20.0 0.1\n")
    names = ["ra", "dec", "number", "rmag", "rmag_err"]
    found = read_reference(catalog("b.txt", tmp_path, names=names), 1.5, 2.5, 1)
    assert found["refId"].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": {}}, r"reference\.colums: no such option; did you mean columns\?"),
        ({"columns": {"ra": "ra"}}, r"reference\.columns: dec must be given"),
        ({"columns": COLUMNS | {"pmRA": "x"}}, r"columns\.pmRA: no such option; did you mean pmRa\?"),
        (
            {"columns": COLUMNS | {"ra": {"column": "ra", "units": "deg"}}},
            r"columns\.ra\.units: .* mean unit\?",
        ),
        ({"columns": COLUMNS | {"dec": {"column": "d", "cos_dec": True}}}, r"dec\.cos_dec: no such option"),
        ({"columns": COLUMNS | {"ra": {"column": "ra", "unit": "mag"}}}, "does not convert to deg"),
        ({"columns": COLUMNS | {"ra": {"column": "ra", "unit": "degs"}}}, "unknown unit 'degs'"),
        ({"columns": COLUMNS | {"pmRa": "pmra"}}, "proper motions without an epoch"),
        ({"columns": COLUMNS | {"raErr": {"column": "e", "cos_dec": "no"}}}, "expected true or false"),
        ({"columns": ["ra", "dec"]}, r"reference\.columns: expected a mapping"),
        ({"epoch": {"value": 2016}}, r"reference\.epoch: unit must be given"),
        ({"epoch": {"value": 2016, "unit": "year"}}, "none of mjd, jyear"),
        ({"epoch": {"value": 2016, "column": "e", "unit": "mjd"}}, "either value or column"),
        ({"epoch": {"value": "J2000", "unit": "mjd"}}, "expected a number, got 'J2000'"),
        ({"epoch": 2016.0}, r"reference\.epoch: expected a mapping"),
        ({"bands": {"r": {"magnitude": "r"}}}, r"bands\.r: system must be given"),
        ({"bands": {"r": {"magnitude": "r", "system": "ST"}}}, "none of AB, Vega"),
        ({"bands": {"r": {"magnitude": "r", "system": "Vega"}}}, "need offset"),
        ({"bands": {"r": {"magnitude": "r", "flux": "f"}}}, "either magnitude or flux"),
        ({"bands": {"r": {"flux": "r"}}}, "unit must be given"),
        ({"bands": {"r": {"flux": "r", "unit": "s"}}}, "does not convert to nJy"),
        ({"bands": {"r": {"flux": "r", "unit": "Jy", "eror": "e"}}}, r"bands\.r\.eror: .* mean error\?"),
        ({"filter": "mag <"}, r"filter: cannot read 'mag <'"),
        ({"filter": "open('x')"}, "may compare columns with constants"),
        ({"filter": "a.b == 1"}, "may compare columns with constants"),
        ({"filter": "ruwe < 1.4 < 2"}, "may compare columns with constants"),
        ({"filter": 5}, "expected an expression"),
        ({"format": "hdf5"}, "none of csv, ecsv"),
        ({"missing": ["x"]}, "expected a number"),
        ({"path": None}, "path must be given"),
    ],
)
def test_a_wrong_map_says_where_and_how_to_mend(change, message):
    """Each mistake stops before any file is opened, with its place in the configuration."""
    with pytest.raises(ReferenceCatalogError, match=message):
        ReferenceCatalogMap.from_dict(mapping("a.csv") | change)


def test_wrong_files_say_where_and_how_to_mend(tmp_path):
    """Missing files and columns, unknown formats and damaged files are named."""
    with pytest.raises(FileNotFoundError, match=r"reference\.path: no file .*none_\*\.csv; correct"):
        read_reference(catalog("none_*.csv", tmp_path), 0, 0, 1)
    write(stars(), tmp_path / "a.csv")
    with pytest.raises(ReferenceCatalogError, match=r"a\.csv has no column ruwee.*it has number, ra"):
        read_reference(catalog("a.csv", tmp_path, filter="ruwee < 1"), 0, 0, 1)
    with pytest.raises(ReferenceCatalogError, match="no column decc; did you mean dec"):
        read_reference(catalog("a.csv", tmp_path, columns=COLUMNS | {"dec": "decc"}), 0, 0, 1)
    with pytest.raises(ReferenceCatalogError, match="column kind is not numbers"):
        read_reference(catalog("a.csv", tmp_path, columns=COLUMNS | {"raErr": "kind"}), 0, 60, 1)
    with pytest.raises(ReferenceCatalogError, match=r"filter: 'kind < 3' does not fit .*a\.csv"):
        read_reference(catalog("a.csv", tmp_path, filter="kind < 3"), 0, 60, 1)
    (tmp_path / "a.xyz").write_text("")
    with pytest.raises(ReferenceCatalogError, match=r"format of .*a\.xyz unknown; add format"):
        read_reference(catalog("a.xyz", tmp_path), 0, 0, 1)
    for name in ("b.fits", "b.parquet", "b.vot", "b.ecsv", "b.csv"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ReferenceCatalogError, match=rf"{name} cannot be read as"):
            read_reference(catalog(name, tmp_path), 0, 0, 1)


def test_maps_cross_processes(tmp_path):
    """A map is picklable and equal to its copy."""
    made = catalog("a.csv", tmp_path, epoch={"column": "t", "unit": "mjd"}, filter="ruwe < 2")
    assert pickle.loads(pickle.dumps(made)) == made
    assert set(made.needed()) == {"number", "ra", "dec", "t", "rmag", "rmag_err", "ruwe"}


needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="no real data beside the checkout")


@needs_data
def test_a_real_gaia_catalogue_in_radians():
    """HSC visit 1180's Gaia stars: rows, units, epoch and errors come out as Gaia's."""
    path = SHARED / "hsc-v1180-astrometry" / "gaia_refCat.parquet"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    raw = pd.read_parquet(path)
    rad, rate = "radians", "rad/yr"
    made = ReferenceCatalogMap.from_dict(
        {
            "path": path.name,
            "columns": {
                "refId": "id",
                "ra": {"column": "coord_ra", "unit": rad},
                "dec": {"column": "coord_dec", "unit": rad},
                "raErr": {"column": "coord_raErr", "unit": rad},
                "decErr": {"column": "coord_decErr", "unit": rad},
                "pmRa": {"column": "pm_ra", "unit": rate},
                "pmDec": {"column": "pm_dec", "unit": rate},
                "pmRaErr": {"column": "pm_raErr", "unit": rate},
                "pmDecErr": {"column": "pm_decErr", "unit": rate},
                "parallax": {"column": "parallax", "unit": rad},
                "parallaxErr": {"column": "parallaxErr", "unit": rad},
            },
            "epoch": {"column": "epoch", "unit": "mjd"},
            "bands": {"G": {"flux": "phot_g_mean_flux", "error": "phot_g_mean_fluxErr", "unit": "nJy"}},
        },
        path.parent,
    )
    everything = read_reference(made, 150.0, 2.2, 5.0)
    # rows without a position cannot serve
    assert len(everything) == raw["coord_ra"].notna().sum()
    row = raw.dropna(subset="coord_ra").set_index("id").loc[everything["refId"]]
    np.testing.assert_allclose(everything["ra"], np.degrees(row["coord_ra"]), rtol=1e-14)
    np.testing.assert_allclose(everything["pmDec"], np.degrees(row["pm_dec"]) / MAS, rtol=1e-12)
    np.testing.assert_allclose(everything["epoch"], 57388.5, atol=1e-3)
    near = read_reference(made, 150.0, 2.2, 0.3)
    separation = SkyCoord(150.0, 2.2, unit="deg").separation(
        SkyCoord(row["coord_ra"], row["coord_dec"], unit="rad")
    )
    assert len(near) == (separation.deg < 0.3).sum() > 100
    moved = positions_at(near, 56744.0)
    years = (56744.0 - 57388.5) / 365.25
    expected = np.hypot(near["pmRa"], near["pmDec"]) * abs(years)
    shift = angular_separation(moved["ra"], moved["dec"], near["ra"], near["dec"]) / MAS
    np.testing.assert_allclose(shift, expected, rtol=1e-5, atol=1e-5)


@needs_data
def test_real_small_catalogues_of_text():
    """The Nickel night's CSVs (one row per star and band, ids missing) and Landolt's bare columns."""
    directory = SHARED / "nickel-20240512"
    if not (directory / "landolt.cat").is_file():
        pytest.skip("no Nickel data")
    csv = {
        "path": "refcat_*.csv",
        "columns": {"ra": "ra", "dec": "dec"},
        "bands": {
            "V": {"magnitude": "mag", "system": "Vega", "offset": 0.02, "where": 'band == "VT"'},
            "G": {"magnitude": "mag", "system": "Vega", "offset": 0.1, "where": 'band == "G"'},
        },
    }
    found = read_reference(ReferenceCatalogMap.from_dict(csv, directory), 0, 0, 180)
    rows = pd.concat([pd.read_csv(path) for path in sorted(directory.glob("refcat_*.csv"))])
    assert len(found) == len(rows)
    assert found["flux_V"].notna().sum() == (rows["band"] == "VT").sum()
    assert found["flux_G"].notna().sum() == (rows["band"] == "G").sum()
    gaia = ReferenceCatalogMap.from_dict(csv | {"filter": 'cat == "gaiadr3_bright"'}, directory)
    assert len(read_reference(gaia, 0, 0, 180)) == (rows["cat"] == "gaiadr3_bright").sum()

    landolt = ReferenceCatalogMap.from_dict(
        {
            "path": "landolt.cat",
            "names": ["ra", "dec", "id", "U", "B", "V", "R", "I"],
            "missing": [9999],
            "columns": {"ra": "ra", "dec": "dec"},
            "bands": {"U": {"magnitude": "U", "system": "Vega", "offset": 0.8}},
        },
        directory,
    )
    lines = [line.split() for line in (directory / "landolt.cat").read_text().splitlines()]
    lines = [line for line in lines if line and not line[0].startswith("#")]
    found = read_reference(landolt, 0, 0, 180)
    assert len(found) == len(lines)
    assert found["flux_U"].isna().sum() == sum(line[3] == "9999" for line in lines)
    field = read_reference(landolt, 38.42, 5.31, 0.1)
    assert len(field) == sum(line[2].startswith("pg0231051") for line in lines)
