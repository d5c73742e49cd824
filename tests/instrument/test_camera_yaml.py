"""Camera definitions (design 5): what a page of YAML may say, and what each mistake is answered with."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skyquilt.instrument import camera_yaml, observation_info
from skyquilt.instrument.camera_yaml import (
    CameraError,
    amplifiers,
    detectors,
    header,
    load_camera,
    parse_camera,
    parse_section,
)
from skyquilt.primitives.geometry import Box

DEFINITIONS = Path(__file__).resolve().parents[2] / "config" / "cameras"
EDGE = st.integers(1, 5000)


@settings(max_examples=60, deadline=None)
@given(EDGE, EDGE, EDGE, EDGE)
def test_sections_count_from_one_with_both_ends(x1, x2, y1, y2):
    """A FITS section names its first and last pixel; high to low is reversed."""
    box, back_x, back_y = parse_section(f" [{x1}:{x2}, {y1}:{y2}] ")
    assert (box.x0, box.x1, box.y0, box.y1) == (min(x1, x2) - 1, max(x1, x2), min(y1, y2) - 1, max(y1, y2))
    assert (back_x, back_y) == (x1 > x2, y1 > y2)


@pytest.mark.parametrize("text", ["1:2,3:4", "[0:4,1:4]", "[1:2]", "[a:b,c:d]", "[1:2,3:4,5:6]"])
def test_sections_that_are_none(text):
    """Anything else is refused."""
    with pytest.raises(ValueError, match="section"):
        parse_section(text)


def test_grid_amplifiers(make_camera):
    """A 2 x 2 grid reads towards the corners and is stored in the order of reading."""
    amplifiers = make_camera().detectors[0].amplifiers
    assert [a.name for a in amplifiers] == ["A1", "A2", "A3", "A4"]
    assert [a.extension for a in amplifiers] == ["A1", "A2", "A3", "A4"]
    assert [a.data for a in amplifiers] == [
        Box(0, 0, 6, 4),
        Box(6, 0, 6, 4),
        Box(0, 4, 6, 4),
        Box(6, 4, 6, 4),
    ]
    assert [(a.flip_x, a.flip_y) for a in amplifiers] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]
    first = amplifiers[0]
    assert (first.raw_prescan, first.raw_data, first.raw_overscan) == (
        Box(0, 0, 1, 4),
        Box(1, 0, 6, 4),
        Box(7, 0, 2, 4),
    )
    assert first.raw_parallel_overscan == Box(1, 4, 6, 3)
    assert first.hdu_size == (9, 7)


def test_grid_stored_as_assembled_in_one_hdu(make_camera):
    """Side by side in one HDU and stored as assembled, prescans are on the outer sides."""
    grid = "detector_types.ccd.amplifiers"
    camera = make_camera({f"{grid}.extension": None, f"{grid}.stored": "as_assembled"})
    left, right, _, upper_right = camera.detectors[0].amplifiers
    assert not right.flip_x
    assert not upper_right.flip_y
    assert (left.raw_section, right.raw_section) == (Box(0, 0, 9, 7), Box(9, 0, 9, 7))
    assert (left.raw_prescan.x0, right.raw_prescan.x0) == (0, 8)
    assert (left.raw_overscan.x0, right.raw_overscan.x0) == (7, 0)
    # the upper right amplifier's parallel overscan lies below its data, towards the middle
    assert (upper_right.raw_parallel_overscan, upper_right.raw_data) == (Box(2, 0, 6, 3), Box(2, 3, 6, 4))
    assert left.hdu_size == (18, 14)


LIST = [
    {"name": "L", "data": "[1:6,1:8]", "raw_data": "[2:7,1:8]", "raw_prescan": "[1:1,1:8]"},
    {"name": "R", "data": "[12:7,1:8]", "raw_data": "[8:13,1:8]", "raw_overscan": "[14:15,1:8]"},
]


def _listed():
    values = {"gain": 1, "read_noise": 2, "saturation": 3}
    return [{**one, **values} for one in LIST]


def test_listed_amplifiers(make_camera):
    """Sections written out; a reversed `data` range is a flip; boxes count from the raw section."""
    left, right = make_camera({"detector_types.ccd.amplifiers": _listed()}).detectors[0].amplifiers
    assert (left.raw_section, left.raw_data, left.raw_prescan) == (
        Box(0, 0, 7, 8),
        Box(1, 0, 6, 8),
        Box(0, 0, 1, 8),
    )
    assert (right.raw_section, right.raw_data, right.raw_overscan) == (
        Box(7, 0, 8, 8),
        Box(0, 0, 6, 8),
        Box(6, 0, 2, 8),
    )
    assert (right.data, right.flip_x, right.flip_y) == (Box(6, 0, 6, 8), True, False)
    assert (left.hdu_size, right.read_out) == ((15, 8), "lower_right")


def test_values_of_amplifiers(make_camera):
    """Gains may be one for all, a list, or by name, and a detector's own come before its type's."""
    grid = "detector_types.ccd.amplifiers"
    camera = make_camera(
        {
            f"{grid}.read_noise": [1, 2, 3, 4],
            f"{grid}.linearity": [1e-7],
            "detectors.0.gain": {"A1": 1.1, "A2": 1.2, "A3": 1.3, "A4": 1.4},
        }
    )
    amplifiers = camera.detectors[0].amplifiers
    assert [a.gain for a in amplifiers] == [1.1, 1.2, 1.3, 1.4]
    assert [a.read_noise for a in amplifiers] == [1, 2, 3, 4]
    assert {a.linearity for a in amplifiers} == {(1e-7,)}


def test_extensions_by_pattern(make_camera):
    """Names of HDUs may be made of detector, id and amplifier."""
    changes = {
        "files": {"layout": "visit"},
        "detector_types.ccd.amplifiers.extension": "{detector}_{amplifier}",
        "detector_types.ccd.extension": "{id}",
    }
    detector = make_camera(changes).detectors[0]
    assert detector.extension == 3
    assert [a.extension for a in detector.amplifiers] == ["C3_A1", "C3_A2", "C3_A3", "C3_A4"]


def test_detectors_from_a_table(make_camera, tmp_path):
    """A camera of many detectors lists them in a CSV with the same keys."""
    (tmp_path / "detectors.csv").write_text(
        "# a comment\nid,name,centre_x_mm,centre_y_mm,rotation_deg,gain\n7,B,1.5,-2,90,1.7\n2,A,0,0,,\n"
    )
    camera = make_camera({"detectors": "detectors.csv", "files": {"layout": "visit"}})
    first, second = camera.detectors
    assert (first.id, first.name, first.centre_mm, first.amplifiers[0].gain) == (2, "A", (0.0, 0.0), 2.0)
    assert (second.centre_mm, second.rotation_deg, second.amplifiers[3].gain) == ((1.5, -2.0), 90.0, 1.7)
    (tmp_path / "detectors.csv").write_text("id,nam\n1,B\n")
    with pytest.raises(CameraError, match=r"detectors.csv: line 2.nam: no such key; did you mean name\?"):
        make_camera({"detectors": "detectors.csv"})


def test_canonical_text_ignores_comments_only(cameras):
    """Comments, blank lines and layout leave the canonical text alone, a value does not."""
    canonical = cameras["demo"].canonical
    text = (DEFINITIONS / "demo.yaml").read_text()
    again = parse_camera("# new\n\n" + text.replace("# electrons per ADU", ""), "x.yaml")
    assert again.canonical == canonical
    assert again == cameras["demo"]
    other = parse_camera(text.replace("gain: 1.5", "gain: 1.6"), "x.yaml")
    assert other.canonical != canonical
    assert json.loads(canonical)["definition"]["name"] == "demo"


def test_yaml_words_stay_what_they_look_like(make_camera):
    """Sexagesimal angles, dates, `on`, and numbers with exponents mean what a newcomer takes them for."""
    text = """
name: x
focal_plane: {plate_scale: 1e1}
filters: {on: r, y: y, 010: z}
detector_types: {ccd: {size: [4, 4], pixel_size_um: 10, amplifiers: {gain: 1, read_noise: 1, saturation: 1}}}
detectors: [{id: 0}]
header:
  recognise: {}
  visit: V
  exposure_time: E
  frame_type: {value: other}
  boresight_ra: {value: 12:30:00}
  datetime_begin: {value: 2025-01-01T00:00:00}
"""
    camera = parse_camera(text, "x.yaml")
    assert camera.plate_scale == 10.0
    assert camera.filters == {"on": "r", "y": "y", "10": "z"}
    assert camera.header.item("boresight_ra").value == "12:30:00"
    assert camera.header.item("datetime_begin").value == "2025-01-01T00:00:00"


GRID = "detector_types.ccd.amplifiers"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nam": "x"}, "nam: no such key; did you mean name?"),
        ({"name": None}, "name: this key is missing"),
        ({"name": "a b"}, "name: expected letters"),
        ({"focal_plane.plate_scale": "20"}, "focal_plane.plate_scale: expected a number, found '20'"),
        ({"focal_plane.plate_scale": -1}, "focal_plane.plate_scale: expected more than 0, found -1"),
        ({"focal_plane.mirrored": "yes"}, "focal_plane.mirrored: expected true or false"),
        (
            {"focal_plane.distortion": {"radius_mm": 0.02, "coefficients": [-0.5]}},
            "focal_plane.distortion: the polynomial turns back",
        ),
        ({"filters": {}}, "filters: expected at least one"),
        ({"filters": {"R": "r/2"}}, "filters.R: band 'r/2' must be"),
        ({"observatory.longitude": 400}, "observatory.longitude: expected degrees"),
        ({"detectors": []}, "detectors: expected at least one"),
        ({"detectors": {"id": 3}}, "detectors: expected a list"),
        (
            {"detectors.0.type": "cdc"},
            "detectors[0].type: expected one of ccd, found 'cdc'; did you mean ccd?",
        ),
        ({"detectors.0.id": 512}, "detectors[0].id: expected 0 to 511"),
        ({"detectors.0.centre_mm": [1]}, "detectors[0].centre_mm: expected two numbers"),
        ({"detectors.0.rotation": 3}, "detectors[0].rotation: no such key; did you mean rotation_deg?"),
        ({"detectors": [{"id": 1}, {"id": 1}]}, "detectors: id 1 is given to more than one"),
        ({"detectors": [{"id": 1}, {"id": 2}]}, "header.detector_num: this key is missing"),
        ({f"{GRID}.grid": [5, 2]}, "amplifiers.grid: 5 x 2 amplifiers do not divide 12 x 8"),
        ({f"{GRID}.names": ["a"]}, "amplifiers.names: expected 4 names"),
        ({f"{GRID}.gain": [1, 2]}, "amplifiers.gain: expected one value or 4 (A1, A2, A3, A4), found 2"),
        ({f"{GRID}.gain": {"A1": 1, "A9": 2}}, "amplifiers.gain.A9: no such key"),
        ({f"{GRID}.gain": 0}, "amplifiers.gain: expected more than 0"),
        ({f"{GRID}.gain": None}, "amplifiers.gain: this key is missing"),
        ({f"{GRID}.read_out": "lower"}, "amplifiers.read_out: expected one of nearest_corner"),
        ({f"{GRID}.extension": "{amp}"}, "amplifiers.extension: {amp} is not known here; known: {detector}"),
        (
            {GRID: [{**_listed()[0], "data": "[1:6,1:7]"}]},
            "amplifiers[0].raw_data: [2:7,1:8] and data [1:6,1:7]",
        ),
        ({GRID: [_listed()[0]]}, "amplifiers: the amplifiers cover 48 pixels of the detector's 12 x 8 = 96"),
        (
            {GRID: [_listed()[0], {**_listed()[1], "data": "[6:11,1:8]"}]},
            "amplifiers[1]: amplifiers L and R overlap",
        ),
        (
            {GRID: [{**_listed()[0], "data": "[8:13,1:8]"}]},
            "amplifiers[0]: [8:13,1:8] leaves the detector of 12 x 8",
        ),
        ({GRID: [{**_listed()[0], "data": [1, 6]}]}, "amplifiers[0].data: '[1, 6]' is not a section"),
        ({GRID: [{**_listed()[0], "raw_size": [7, 7]}]}, "amplifiers[0].raw_size: sections reach to 7 x 8"),
        (
            {GRID: [{**_listed()[0], "raw_data": "[7:2,1:8]"}]},
            "amplifiers[0].raw_data: write this range from low",
        ),
        ({"header.visit": None}, "header.visit: this key is missing"),
        ({"header.datetime_begin": None}, "header.datetime_begin: one of datetime_begin"),
        ({"header.recognise": None}, "header.recognise: this key is missing"),
        ({"header.exposuretime": "E"}, "header.exposuretime: no such key; did you mean exposure_time?"),
        ({"header.visit": {"rule": "secnds"}}, "header.visit.rule: expected one of decisecond"),
        ({"header.visit": {"rule": "night_sequence"}}, "header.visit.sequence: this key is missing"),
        (
            {"header.visit": {"rule": "night_sequence", "sequence": "N"}, "observatory": {}},
            "header.visit.rule: the night needs observatory.longitude",
        ),
        ({"header.exposure_time": {}}, "header.exposure_time: give exactly one of keyword"),
        ({"header.exposure_time": {"keyword": "E", "value": 3}}, "exactly one of keyword, join"),
        ({"header.exposure_time": {"keyword": "E", "unit": "deg"}}, "unit: expected one of s, ms"),
        (
            {"header.exposure_time": {"keyword": "E", "scale": "utc"}},
            "header.exposure_time.scale: no such key",
        ),
        (
            {"header.exposure_time": {"value": "long"}},
            "value: expected duration for exposure_time, found 'long'",
        ),
        (
            {"header.exposure_time": {"expression": "EXP("}},
            "header.exposure_time.expression: expression 'EXP('",
        ),
        (
            {"header.frame_type": {"keyword": "K", "map": {"sky": "sience"}}},
            "header.frame_type.map: expected one of science, bias, dark, flat, fringe, crosstalk, other, "
            "found 'sience'; did you mean science?",
        ),
        ({"header.frame_type": {"rules": [{"if": {}, "is": "bias"}]}}, "rules[0].if: no such key"),
        (
            {"header.frame_type": {"rules": [{"when": {"A": "/(/"}, "is": "bias"}]}},
            "rules[0].when.A: regular",
        ),
        (
            {"header.object": {"keyword": "O", "extract": "x"}},
            "header.object.extract: 'x' needs exactly one group",
        ),
        ({"header.overrides": [{"frame_type": "bias"}]}, "header.overrides[0].when: this key is missing"),
        (
            {"header.overrides": [{"when": {}, "visit": "x"}]},
            "overrides[0].visit: expected integer for visit",
        ),
        ({"header.overrides": "none.csv"}, "header.overrides: the table none.csv cannot be read"),
        (
            {"wcs": {"frame": "raww"}},
            "wcs.frame: expected one of assembled, raw, found 'raww'; did you mean raw?",
        ),
        ({"isr": [1]}, "isr: expected keys and values, found a list"),
        ({"files": {"layout": "night"}}, "files.layout: expected one of detector, visit"),
    ],
)
def test_mistakes_are_named(make_camera, changes, words):
    """Each mistake is answered with file, key and remedy."""
    with pytest.raises(CameraError) as caught:
        make_camera(changes)
    assert str(caught.value).startswith("small.yaml: ")
    assert words in str(caught.value)


def test_yaml_mistakes_have_a_line():
    """What is not YAML, or gives a key twice, is named by line."""
    with pytest.raises(CameraError, match=r"x.yaml is not YAML: line 2, column 1: key 'name' is given twice"):
        parse_camera("name: a\nname: b\n", "x.yaml")
    with pytest.raises(CameraError, match=r"x.yaml is not YAML: line 2"):
        parse_camera("name: [a\nb: c", "x.yaml")
    with pytest.raises(CameraError, match=r"x.yaml: expected keys and values"):
        parse_camera("just text", "x.yaml")


def test_definitions_are_found_by_name(tmp_path):
    """The survey's own folder comes first; an unknown name is answered with what there is."""
    (tmp_path / "mine.yaml").write_text("name: 5x y")
    with pytest.raises(CameraError, match=r"mine.yaml: "):
        load_camera("mine", search=[tmp_path])
    with pytest.raises(CameraError, match=r"no camera definition 'mime'; did you mean mine\?"):
        load_camera("mime", search=[tmp_path])
    assert load_camera("demo").name == "demo"
    with pytest.raises(CameraError, match="there is no camera definition"):
        load_camera(tmp_path / "other.yaml")


def test_override_table(make_camera, tmp_path):
    """A CSV gives values for single files, patterns and ranges of observation ids."""
    (tmp_path / "frames.csv").write_text(
        "file,observation_id,frame_type,boresight_ra\na.fits,,bias,\nb*.fits,,flat,\n,10..20,,12:00:00\n"
    )
    header = make_camera({"header.overrides": "frames.csv"}).header
    assert header.overridden({}.get, "9", "a.fits") == {"frame_type": "bias"}
    assert header.overridden({"$FILE": "b1.fits"}.get, "15", "b1.fits") == {
        "frame_type": "flat",
        "boresight_ra": "12:00:00",
    }
    (tmp_path / "frames.csv").write_text("file,frame_type\na.fits,bais\n")
    with pytest.raises(CameraError, match=r"frames.csv: line 2.frame_type: .* did you mean bias\?"):
        make_camera({"header.overrides": "frames.csv"})
    (tmp_path / "frames.csv").write_text("file,frame_type\na.fits,bias,3\n")
    with pytest.raises(CameraError, match="row 2 has not as many cells"):
        make_camera({"header.overrides": "frames.csv"})


def test_shipped_definitions_fit_on_a_page(cameras):
    """The definitions that ship load, and none is longer than a page of 90 lines."""
    lengths = [len((DEFINITIONS / f"{name}.yaml").read_text().splitlines()) for name in cameras]
    assert max(lengths) <= 90
    assert_array_equal(sorted(cameras), ["demo", "hsc", "nickel", "stl1001", "tiny"])


def test_the_reference_has_every_key():
    """docs/cameras.md names every key, unit and rule that a definition may hold."""
    text = (DEFINITIONS.parents[1] / "docs" / "cameras.md").read_text()
    keys = {
        *camera_yaml.ROOT_KEYS,
        *camera_yaml.GHOST_KEYS,
        *detectors.DETECTOR_KEYS,
        *detectors.TYPE_KEYS,
        *amplifiers.GRID_KEYS,
        *amplifiers.AMPLIFIER_KEYS,
        *header.ITEM_KEYS,
        *observation_info.FIELDS,
        *observation_info.ANGLE_UNITS,
        *observation_info.SEXAGESIMAL_UNITS,
        *observation_info.TIME_UNITS,
        *observation_info.DATE_FORMATS,
        *observation_info.TIME_SCALES,
        *observation_info.VISIT_RULES,
    }
    assert sorted(key for key in keys if key not in text) == []
