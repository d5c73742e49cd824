"""Camera check: the mistakes that a newcomer makes most (flips, sign of the rotator, codes) are told in plain words."""

import numpy as np
import pytest
from astropy.io import fits

from skyquilt.instrument.camera_check import CANNOT_TELL, DIFFERS, FITS, check, read_reference_stars
from skyquilt.instrument.camera_check.rotation_sense import opposite_rule
from skyquilt.instrument.camera_check.starting_definition import mosaic_of
from skyquilt.instrument.camera_yaml import parse_camera


@pytest.fixture(scope="module")
def sparse(newcomer, tmp_path_factory):
    """A flat and a frame of a field with few stars, none of them on a seam of two amplifiers, and its catalogue."""
    folder = tmp_path_factory.mktemp("sparse")
    sky = newcomer.Sky(seed=11, count=600)
    away = np.all([abs(sky.pixels(name)[0] - newcomer.NX / 2) > 15 for name in newcomer.PLACES], axis=0)
    for column in ("xi", "eta", "ra", "dec", "mag"):
        setattr(sky, column, getattr(sky, column)[away])
    frames = [
        newcomer.write_frame(folder, 3, "flat", level=20000.0),
        newcomer.write_frame(folder, 5, "science", sky, 400.0),
    ]
    return frames, sky.write(folder / "stars.csv")


def edited(newcomer, *changes):
    """The true definition with some of its text replaced."""
    text = newcomer.DEFINITION
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_camera(text, "newcomer.yaml")


def test_stars_tell_that_flips_are_right_where_seams_cannot(newcomer, sparse):
    """With few stars the catalogue says of every amplifier that it lies as defined; without it nothing is said."""
    frames, stars = sparse
    report = check(frames, edited(newcomer), stars)
    for name in ("west", "east"):
        assert report.finding(f"{name} flips").level == FITS, report.text()
        assert "stars of all 2 amplifiers" in report.finding(f"{name} flips").text
        assert check(frames, edited(newcomer)).finding(f"{name} flips").level == CANNOT_TELL


@pytest.mark.parametrize("seed", range(4))
def test_few_stars_make_no_false_flips(newcomer, tmp_path, seed):
    """Of the many ways to flip, the best by chance is not told as a finding: a true definition never differs."""
    frame = newcomer.write_frame(tmp_path, 5, "science", newcomer.Sky(seed, 250), 400.0, seed=seed)
    report = check([frame], edited(newcomer))
    assert not [finding for finding in report.of(DIFFERS) if "flips" in finding.subject], report.text()


WRONG_FLIPS = {
    # read_out of (L, R) -> what the stars say of L and R
    "[lower_left, lower_right]": "R mirrored in y",
    "[lower_right, upper_right]": "L mirrored in x",
    "[lower_right, upper_left]": "L mirrored in x, R mirrored in x",
    "[upper_right, lower_left]": "L turned by 180 degrees, R turned by 180 degrees",
}


@pytest.mark.parametrize("read_out", WRONG_FLIPS)
def test_stars_tell_which_amplifier_is_flipped(newcomer, sparse, read_out):
    """The amplifier that is wrong is named and the line to write given; places and angles fit all the same."""
    frames, stars = sparse
    camera = edited(newcomer, ("read_out: [lower_left, upper_right]", f"read_out: {read_out}"))
    report = check(frames, camera, stars)
    for name in ("west", "east"):
        found = report.finding(f"{name} flips")
        assert found.level == DIFFERS, report.text()
        assert found.remedy.startswith(f"{WRONG_FLIPS[read_out]}: ")
        assert "stored: as_read;" in found.remedy or "read_out: [lower_left, upper_right]" in found.remedy
        assert report.finding(f"{name} place").level == FITS
    assert report.finding("parity").level == FITS
    assert report.finding("position angle").level == FITS


def test_a_wrong_storage_order_is_one_finding(newcomer, sparse):
    """Prescan and overscan that have changed sides say that R is stored as read; nothing else is called wrong."""
    frames, stars = sparse
    camera = edited(
        newcomer,
        ("stored: as_read", "stored: as_assembled"),
    )
    report = check(frames, camera, stars)
    wrong = [finding.subject for finding in report.of(DIFFERS)]
    # as assembled R is mirrored in both, and its sections in x only tell of the first
    for name in ("west", "east"):
        assert f"{name} storage order" in wrong
        assert report.finding(f"{name} storage order").remedy.startswith("R mirrored in x: ")
        assert report.finding(f"{name} R overscan").level == FITS
        assert report.finding(f"{name} flips").remedy.startswith("R mirrored in y: ")
    assert set(wrong) <= {f"{n} {w}" for n in ("west", "east") for w in ("storage order", "flips")}, (
        report.text()
    )


@pytest.fixture(scope="module")
def turning(newcomer, tmp_path_factory):
    """Two frames of the sky, the second with the rotator 25 degrees on; the header says so the other way round."""
    folder = tmp_path_factory.mktemp("turning")
    sky = newcomer.Sky(seed=12, count=600)
    frames = []
    with pytest.MonkeyPatch.context() as patch:
        for number, angle in ((5, 0.0), (6, 0.0), (7, 25.0)):
            patch.setattr(newcomer, "POSITION_ANGLE", angle + 0.1)
            header = {"POSANGLE": -angle}
            frames.append(newcomer.write_frame(folder, number, "science", sky, 400.0, header=header))
    return frames, sky.write(folder / "stars.csv")


def test_the_sign_of_the_rotator_is_told(newcomer, turning):
    """The frames that turn most are compared: a wrong sign differs, with the rule to write; a right one fits."""
    frames, stars = turning
    report = check(frames, edited(newcomer), stars)
    found = report.finding("rotation sense")
    assert found.level == DIFFERS
    assert found.value == pytest.approx(25.0, abs=0.1)
    assert found.expected == -25.0
    assert "{expression: '-POSANGLE'}" in found.remedy
    assert report.finding("position angle").level == FITS
    right = edited(newcomer, ("rotation: POSANGLE", "rotation: {expression: '-POSANGLE'}"))
    assert check(frames, right, stars).finding("rotation sense").level == FITS
    unturned = edited(newcomer, ("rotation: POSANGLE", "rotation: {value: 0}"))
    assert "a keyword that tells" in check(frames, unturned, stars).finding("rotation sense").remedy


def test_one_rotator_angle_cannot_tell_its_sign(newcomer, turning):
    """With all frames at one angle the check says that the sign was not seen; of a constant it says nothing."""
    frames, stars = turning
    report = check(frames[:2], edited(newcomer), stars)
    assert report.finding("rotation sense").level == CANNOT_TELL
    constant = edited(newcomer, ("rotation: POSANGLE", "rotation: {value: 0}"))
    subjects = [finding.subject for finding in check(frames[:2], constant, stars).findings]
    assert "position angle" in subjects
    assert "rotation sense" not in subjects


@pytest.mark.parametrize(
    ("rule", "offset", "opposite"),
    [
        ("POSANGLE", 0.1, "{expression: '-POSANGLE'}"),
        ("{keyword: POS-ANG}", 0.0, "{expression: '-{POS-ANG}'}"),
        ("{expression: '-POSANGLE'}", 0.0, "{expression: 'POSANGLE'}"),
        ("{expression: 'POSANGLE + 12'}", 0.0, "{expression: '-(POSANGLE + 12)'}"),
        ("POSANGLE", 90.0, "{expression: '90.00 - POSANGLE'}"),
        ("{value: 3}", 6.0, "{value: 6.00}"),
    ],
)
def test_rules_that_turn_the_other_way(newcomer, rule, offset, opposite):
    """The opposite of a rule is a rule that loads."""
    camera = edited(newcomer, ("rotation: POSANGLE", f"rotation: {rule}"))
    assert opposite_rule(camera, offset) == opposite
    edited(newcomer, ("rotation: POSANGLE", f"rotation: {opposite}"))


def test_flats_of_the_middle_exposure_are_compared(newcomer, tmp_path):
    """Of flats at several levels the gain is taken from a pair well above the read noise, whatever comes first."""
    frames = []
    for number, (level, time) in enumerate(
        ((900, 1000), (900, 1000), (9000, 10000), (9000, 10000), (40000, 44000)), 1
    ):
        header = {"T_MS": time}
        frames.append(newcomer.write_frame(tmp_path, number, "flat", level=float(level), header=header))
    found = check(frames, edited(newcomer)).finding("west L gain")
    assert "1 pair" in found.text
    assert found.value == pytest.approx(newcomer.GAINS["west"][0], abs=4 * found.error)
    assert found.error < 0.02 * found.value


def test_a_first_definition_of_codes_and_split_dates(newcomer, sparse, tmp_path):
    """HDUs of detectors and amplifiers, codes of frame types, milliseconds, and a date apart from its time are seen."""
    frames, _ = sparse
    paths = []
    for path, code, time in zip(frames, (2, 5), (4000, 60000), strict=True):
        with fits.open(path) as hdus:
            for hdu, name in zip(hdus[1:], ("CHIP1_L", "CHIP1_R", "CHIP2_L", "CHIP2_R"), strict=True):
                hdu.name = name
            primary = hdus[0].header
            for old in ("WHAT", "T_MS", "UTDATE", "UTSTART"):
                del primary[old]
            primary["FRAMETYP"], primary["EXPOSED"] = code, time
            primary["DATE"], primary["UT"], primary["FRAMENO"] = "2026-03-04", "05:03:07.5", code
            paths.append(tmp_path / path.name)
            hdus.writeto(paths[-1])
    text = check(paths).definition
    assert "extension: '{detector}_{amplifier}'" in text
    assert "datetime_begin: {join: [DATE, UT]}" in text
    assert "exposure_time: {keyword: EXPOSED, unit: ms}" in text
    assert "map: {'2': other, '5': other}" in text
    camera = parse_camera(text, "start.yaml")
    assert [detector.name for detector in camera.detectors] == ["CHIP1", "CHIP2"]
    assert camera.detectors[0].amplifiers[1].flip_x
    report = check(paths, camera)
    assert report.finding("header frame_type").level == CANNOT_TELL
    assert "keyword: FRAMETYP" in report.finding("header frame_type").remedy
    assert report.finding("layout").level == FITS
    timed = parse_camera(text.replace("{join: [DATE, UT]}", "UT"), "start.yaml")
    assert "join: [DATE, UT]" in check(paths, timed).finding("header datetime_begin").remedy


@pytest.mark.parametrize(
    ("names", "mosaic"),
    [
        (["A_1", "A_2", "B_1", "B_2"], (["A", "B"], "_", ["1", "2"])),
        (["CCD1-L", "CCD2-L", "CCD1-R", "CCD2-R"], (["CCD1", "CCD2"], "-", ["L", "R"])),
        (["A_1", "A_2", "B_1"], None),
        (["IM1", "IM2", "IM3", "IM4"], None),
        (["A_1", "A_2"], None),
        ([], None),
    ],
)
def test_names_of_hdus_of_a_mosaic(names, mosaic):
    """Detectors and amplifiers are read from names only where all have all."""
    assert mosaic_of(names) == mosaic


def test_a_magnitude_of_any_band_will_do(tmp_path):
    """Columns named after a band serve as magnitudes; those of errors do not."""
    path = tmp_path / "stars.csv"
    path.write_text("ra,dec,mag_err,mag_r\n10.0,20.0,0.1,15.5\n")
    assert read_reference_stars(path).mag.tolist() == [15.5]
