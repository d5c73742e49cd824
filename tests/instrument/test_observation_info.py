"""Header translation (LDM-151 4.1.2): units, times, visit rules, failures, and the Nickel frames."""

import csv

import pytest
from astropy.io import fits
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from skyquilt.instrument.header_map import HeaderItem, HeaderValueError
from skyquilt.instrument.observation_info import convert, read_observation, tai_to_utc, utc_to_tai
from skyquilt.primitives.failure import ProcessingFailure, Reason


@settings(max_examples=80, deadline=None)
@given(st.floats(41400.0, 61000.0))
def test_utc_to_tai_against_astropy(mjd):
    """TAI agrees with astropy to 1 microsecond from 1972 on, and comes back."""
    # astropy stretches the day of a leap second; keep off those days
    tai = utc_to_tai(mjd)
    if abs(utc_to_tai(mjd + 1) - tai - 1) < 1e-9:
        wanted = Time(mjd, format="mjd", scale="utc").tai.mjd
        # a double holds MJD 60000 to 0.6 microseconds
        assert abs(tai - wanted) * 86400 < 2e-6
        assert abs(tai_to_utc(tai) - mjd) * 86400 < 2e-6


@pytest.mark.parametrize(
    ("name", "raw", "options", "value"),
    [
        ("boresight_ra", "12:30:00", {}, 187.5),
        ("boresight_ra", "12 30 36.0", {}, 187.65),
        ("boresight_ra", 187.5, {}, 187.5),
        ("boresight_ra", "187.5", {}, 187.5),
        ("boresight_ra", 12.5, {"unit": "hourangle"}, 187.5),
        ("boresight_ra", "187:30:00", {"unit": "sexagesimal_degrees"}, 187.5),
        ("boresight_dec", "-00:30:00", {}, -0.5),
        ("boresight_dec", "+10d30m36s", {}, 10.51),
        ("boresight_dec", -0.5235987755982988, {"unit": "rad"}, -30.0),
        ("rotation", 60, {"unit": "arcmin"}, 1.0),
        ("exposure_time", 2, {"unit": "min"}, 120.0),
        ("exposure_time", "1500", {"unit": "ms"}, 1.5),
        ("visit", "20250101000000017", {}, 20250101000000017),
        ("visit", 17.0, {}, 17),
        ("datetime_begin", 60000.25, {"scale": "tai"}, 60000.25),
        ("datetime_begin", 2460000.75, {"format": "jd", "scale": "tai"}, 60000.25),
        ("datetime_begin", 0.0, {"format": "unix", "scale": "tai"}, 40587.0),
        ("datetime_begin", "2023-02-25 06:00", {"scale": "tai"}, 60000.25),
        ("datetime_begin", "2023-02-25T06:00:32.184Z", {"scale": "tt"}, 60000.25),
        ("datetime_begin", "2023-02-25", {}, 60000 + 37 / 86400),
    ],
)
def test_units(name, raw, options, value):
    """Angles become degrees, times seconds, dates TAI MJD."""
    assert convert(HeaderItem(name, **options), raw) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("boresight_ra", "12:61:00"),
        ("boresight_dec", "north"),
        ("exposure_time", -1),
        ("exposure_time", "nan"),
        ("visit", 17.5),
        ("visit", True),
        ("datetime_begin", "13/05/2024"),
        ("datetime_begin", "2024-02-30"),
    ],
)
def test_nonsense_is_refused(name, raw):
    """Values that cannot be what they should be are not taken."""
    with pytest.raises(HeaderValueError, match="expected"):
        convert(HeaderItem(name, keywords=("K",)), raw)


def test_translation(make_camera, write_raw):
    """All that the header says arrives, and what follows from it is filled in."""
    camera = make_camera()
    path, _ = write_raw(camera)
    (info,) = read_observation(path, camera)
    begin = Time("2025-01-02T03:04:05.5", scale="utc").tai.mjd
    assert (info.visit, info.snap, info.detector_num, info.frame_type) == (17, 0, 3, "science")
    assert (info.boresight_ra, info.boresight_dec, info.rotation) == (150.0, -30.5, 0.0)
    assert info.datetime_begin == pytest.approx(begin, abs=1e-10)
    assert (info.datetime_end - info.datetime_begin) * 86400 == pytest.approx(30.0, abs=1e-5)
    assert info.datetime_mid == pytest.approx(begin + 15 / 86400, abs=1e-10)
    assert (info.airmass, info.object, info.observation_id, info.instrument) == (None, "", "17", "small")


def test_visit_by_decisecond(make_camera, write_raw):
    """The visit is the count of tenths of a second of TAI since 2000, whatever else the header holds."""
    camera = make_camera({"header.visit": {"rule": "decisecond"}})
    path, _ = write_raw(camera, {"DATE-OBS": "2000-01-02T00:00:00.25"})
    # 32 leap seconds at the time
    assert read_observation(path, camera)[0].visit == (86400 + 32) * 10 + 2
    path, _ = write_raw(camera, {"DATE-OBS": "1999-01-02T00:00:00"})
    with pytest.raises(ProcessingFailure, match="36 bits"):
        read_observation(path, camera)


@pytest.mark.parametrize(
    ("date", "visit"),
    [
        ("2025-01-02T23:00:00", 2501020017),
        ("2025-01-03T05:00:00", 2501020017),
        ("2025-01-03T17:00:00", 2501030017),
    ],
)
def test_visit_by_night_and_sequence(make_camera, write_raw, date, visit):
    """One night has one date, from local noon to noon, also past midnight UTC."""
    camera = make_camera({"header.visit": {"rule": "night_sequence", "sequence": "SEQ"}})
    assert read_observation(write_raw(camera, {"DATE-OBS": date})[0], camera)[0].visit == visit


def test_overrides_win(make_camera, write_raw):
    """A table beats the header, in our units or as people write them."""
    rows = [
        {"when": {"$FILE": "ra*.fits"}, "frame_type": "flat", "boresight_dec": "+01:30:00"},
        {"when": {"observation_id": "10..20"}, "airmass": 1.5},
    ]
    camera = make_camera({"header.overrides": rows, "header.observation_id": "SEQ"})
    info = read_observation(write_raw(camera)[0], camera)[0]
    assert (info.frame_type, info.boresight_dec, info.airmass) == ("flat", 1.5, 1.5)


def test_what_the_header_lacks_can_be_constant(make_camera, write_raw):
    """Without pointing or filter in the header, constants and the file's name serve."""
    camera = make_camera(
        {
            "header.boresight_ra": None,
            "header.boresight_dec": None,
            "header.physical_filter": {"value": "R"},
            "header.visit": {"keyword": "$FILE", "extract": r"raw(\d+)"},
        }
    )
    path, _ = write_raw(camera, {"RA": None, "DEC": None, "FILTER": None}, name="raw0042.fits")
    info = read_observation(path, camera)[0]
    assert (info.visit, info.boresight_ra, info.physical_filter) == (42, None, "R")


@pytest.mark.parametrize(
    ("header", "reason", "words"),
    [
        ({"INSTRUME": "Big"}, Reason.UNKNOWN_CAMERA, "says INSTRUME = 'Big'; camera small expects 'Small'"),
        ({"INSTRUME": None}, Reason.UNKNOWN_CAMERA, "has no keyword INSTRUME"),
        ({"SEQ": None}, Reason.BAD_HEADER, "visit is missing, keyword SEQ gives none"),
        ({"SEQ": -1}, Reason.BAD_HEADER, "visit is -1, expected 0 to 68719476735"),
        ({"SEQ": "x"}, Reason.BAD_HEADER, "visit: keyword SEQ is 'x', expected a whole number"),
        (
            {"KIND": "arc"},
            Reason.BAD_HEADER,
            "frame_type: keyword KIND is 'arc', which header.frame_type.map lacks",
        ),
        ({"EXPTIME": None}, Reason.BAD_HEADER, "exposure_time is missing"),
        ({"DATE-OBS": None}, Reason.BAD_HEADER, "datetime_begin is missing"),
        ({"DATE-OBS": "yesterday"}, Reason.BAD_HEADER, "expected a date like"),
        ({"RA": None}, Reason.BAD_HEADER, "boresight_ra is missing"),
        ({"DEC": "+95:00:00"}, Reason.BAD_HEADER, "boresight_dec is 95.0 deg"),
        (
            {"FILTER": "Q"},
            Reason.UNKNOWN_FILTER,
            "physical_filter is 'Q', which is not in filters of the definition (R)",
        ),
    ],
)
def test_failures_are_named(make_camera, write_raw, header, reason, words):
    """What a header lacks or garbles is a documented failure with file and keyword."""
    camera = make_camera()
    path, _ = write_raw(camera, header)
    with pytest.raises(ProcessingFailure) as caught:
        read_observation(path, camera)
    assert caught.value.reason is reason
    assert caught.value.detail.startswith("raw.fits")
    assert words in caught.value.detail


def test_a_bias_needs_no_pointing_or_filter(make_camera, write_raw):
    """What would be a fault of a science frame is none of a bias."""
    camera = make_camera()
    path, _ = write_raw(camera, {"KIND": "zero", "RA": "garbage", "DEC": None, "FILTER": "Q"})
    info = read_observation(path, camera)[0]
    assert (info.frame_type, info.boresight_ra, info.boresight_dec, info.physical_filter) == (
        "bias",
        None,
        None,
        "Q",
    )


def test_detector_by_name_and_unknown_detector(make_camera, write_raw):
    """A header may name its detector; one that is not in the definition is UNKNOWN_DETECTOR."""
    camera = make_camera({"header.detector_name": "CHIP"})
    assert read_observation(write_raw(camera, {"CHIP": "c3 "})[0], camera)[0].detector_num == 3
    path, _ = write_raw(camera, {"CHIP": "C4"})
    with pytest.raises(
        ProcessingFailure, match=r"raw.fits: camera small has no detector named 'C4'"
    ) as caught:
        read_observation(path, camera)
    assert caught.value.reason is Reason.UNKNOWN_DETECTOR


def test_keywords_of_extensions(make_camera, write_raw):
    """What the primary header lacks is sought in the first extension, or only where the rule says."""
    camera = make_camera({"header.airmass": "AM", "header.object": {"keyword": "OBJECT", "extension": "A2"}})
    path, _ = write_raw(camera, {"OBJECT": "primary"})
    with fits.open(path, mode="update") as hdus:
        hdus["A1"].header["AM"] = 1.25
        hdus["A2"].header["OBJECT"] = "M 13"
    info = read_observation(path, camera)[0]
    assert (info.airmass, info.object) == (1.25, "M 13")


def test_nickel_frames_are_classified(cameras, shared_data):
    """The night of 2024-05-12: 10 bias, 3 flats, 6 science frames, as the set's own list has them."""
    kinds = {"raw bias": "bias", "raw twilight flat": "flat", "raw science": "science"}
    with (shared_data / "MANIFEST.csv").open() as file:
        rows = [row for row in csv.reader(file) if row[0] == "nickel-20240512" and row[2] in kinds]
    counts = dict.fromkeys(kinds.values(), 0)
    for row in rows:
        (info,) = read_observation(shared_data / row[1], cameras["nickel"])
        assert info.frame_type == kinds[row[2]]
        assert info.visit == 2405120000 + int(row[1].removesuffix(".fits.gz")[-4:])
        counts[info.frame_type] += 1
    assert counts == {"bias": 10, "flat": 3, "science": 6}


def test_nickel_header(cameras, shared_data):
    """Time, pointing and rotation of one frame as astropy reads the same header."""
    path = shared_data / "nickel-20240512" / "d1074.fits.gz"
    (info,) = read_observation(path, cameras["nickel"])
    header = fits.getheader(path)
    assert info.datetime_begin == pytest.approx(Time(header["DATE-BEG"], scale="utc").tai.mjd, abs=1e-10)
    # CRVAL is the pointing in single precision
    assert info.boresight_ra == pytest.approx(header["CRVAL1"], abs=1e-3)
    assert info.boresight_dec == pytest.approx(header["CRVAL2"], abs=1e-3)
    assert info.rotation == pytest.approx(182.2, abs=0.01)
    assert info.physical_filter == "V"
