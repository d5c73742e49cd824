"""Camera check: each wrong line of a definition is found, measured and answered with what to write instead."""

import numpy as np
import pytest
from astropy.io import fits

from skyquilt.instrument.camera_check import CANNOT_TELL, DIFFERS, FITS, check, read_reference_stars
from skyquilt.instrument.camera_check.noise import gain_of_pair, pile_up
from skyquilt.instrument.camera_check.pattern_match import match_patterns
from skyquilt.instrument.camera_yaml import load_camera, parse_camera
from skyquilt.primitives.failure import ProcessingFailure, Reason


@pytest.fixture(scope="session")
def crowded(newcomer, tmp_path_factory):
    """A night in a crowded field, and its catalogue."""
    folder = tmp_path_factory.mktemp("crowded")
    sky = newcomer.Sky(seed=8, count=3000)
    return newcomer.write_night(folder, sky), sky.write(folder / "stars.csv")


def edited(newcomer, *changes):
    text = newcomer.DEFINITION
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_camera(text, "newcomer.yaml")


TRUE_GAINS = (
    ("gain: [1.9, 2.0]               # of the laboratory", "gain: 2"),
    ("extensions: [1, 2]}", "extensions: [1, 2], gain: [1.9, 2.1]}"),
    ("extensions: {R: 4, L: 3}}", "extensions: {R: 4, L: 3}, gain: [2.0, 2.2]}"),
)


def test_a_true_definition_fits(newcomer, crowded):
    """Nothing differs; scale, angle, pointing, read noise and gain are measured within their errors."""
    frames, stars = crowded
    report = check(frames, edited(newcomer, *TRUE_GAINS), stars)
    assert report.good, report.text()
    for name, gains in newcomer.GAINS.items():
        for amplifier, gain in zip("LR", gains):
            found = report.finding(f"{name} {amplifier} gain")
            assert abs(found.value - gain) < 4 * found.error
            assert 0.005 * gain < found.error < 0.04 * gain
            noise = report.finding(f"{name} {amplifier} read noise")
            assert abs(noise.value - newcomer.NOISE) < 4 * noise.error + 0.02
    angle = report.finding("position angle")
    assert abs(angle.value - newcomer.POSITION_ANGLE) < 4 * angle.error + 0.01
    assert report.finding("pointing").value == pytest.approx(15.0, abs=0.3)
    # what distortion is left out adds less than 0.1 %
    assert report.finding("plate scale").value == pytest.approx(newcomer.SCALE, rel=1e-3)
    assert report.finding("west flips").level == FITS
    assert "is that true?" in report.finding("header of a science frame").text
    assert "-> " not in report.text().split("fits (")[1]


WRONG = {
    "gains of the laboratory": ([("[1.9, 2.0]", "[1.9, 1.995]")], "west R gain", "gain: {R: 2."),
    "read noise": ([("read_noise: 6", "read_noise: 9")], "west L read noise", "read_noise: {L: "),
    "mirrored": ([("plate_scale: 40.0", "plate_scale: 40.0, mirrored: true")], "parity", "mirrored: false"),
    "scale": ([("plate_scale: 40.0", "plate_scale: 44.0")], "plate scale", "plate_scale: 40.0"),
    "keyword": ([("TEL-RA", "TELRA")], "header boresight_ra", "nearest is TEL-RA = '10:00:00.0'"),
    "map": ([("stars: science", "star: science")], "header frame_type", "its map, unit, format"),
    "filter": ([("Red glass: r", "Rd glass: r")], "header physical_filter", "the filters of the definition"),
    "camera": ([("Home made", "Bought")], "header recognise", "CAMERA = 'Home made'"),
    "time system": ([("scale: utc", "scale: tai")], "header datetime_begin", "scale: utc"),
    "extension": ([("[1, 2]}", "[1, 7]}")], "west R layout", "a name or number"),
    "size": ([("overscan: 20", "overscan: 18")], "west L layout", "2 more columns"),
    "prescan too short": (
        [("prescan: 6", "prescan: 2"), ("overscan: 20", "overscan: 24")],
        "west L edge",
        "too ",
    ),
    "turned detector": ([("rotation_deg: 90", "rotation_deg: 0")], "east rotation", "rotation_deg: 89.99"),
    "place": ([("[2.7, -0.05]", "[2.7, 1.15]")], "east place", "centre_mm: [2."),
    "angle": ([("rotation: POSANGLE", "rotation: {value: 330}")], "position angle", "rotation"),
    "flip": (
        [("read_out: [lower_left, upper_right]", "read_out: [lower_left, lower_right]")],
        "west flips",
        "R mirrored in y",
    ),
    "both flips": (
        [("read_out: [lower_left, upper_right]", "read_out: lower_left")],
        "west flips",
        "R turned by 180 degrees",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_line_is_found(newcomer, crowded, name):
    """What is wrong differs, and the remedy says what to write."""
    changes, subject, words = WRONG[name]
    frames, stars = crowded
    if name == "time system":
        fits.setval(frames[4], "TIMESYS", value="UTC")
    camera = edited(newcomer, *changes)
    fewer = frames if "gain" in name or "noise" in name else frames[2:5]
    with_stars = stars if subject.split()[-1] in ("parity", "scale", "rotation", "place", "angle") else None
    report = check(fewer, camera, with_stars)
    found = report.finding(subject)
    assert found.level == DIFFERS
    assert words in found.remedy, found.line()


def test_one_frame_suffices(newcomer, crowded):
    """A single bias, or a single science frame, is told about as far as it goes."""
    frames, _ = crowded
    camera = edited(newcomer)
    report = check(frames[:1], camera)
    assert report.good, report.text()
    assert report.finding("west overscan").level == CANNOT_TELL
    assert report.finding("west L gain").level == CANNOT_TELL
    assert report.finding("west L read noise").level == FITS
    report = check(frames[4:5], camera)
    assert report.finding("west orientation").level == CANNOT_TELL
    assert "--reference" in report.finding("west orientation").remedy


def test_a_wcs_in_the_header_serves_instead_of_stars(newcomer, crowded):
    """Where a header has a WCS, it tells scale, parity, angle and pointing."""
    frames, _ = crowded
    text = newcomer.DEFINITION.replace("layout: visit", "layout: detector").replace(
        "plate_scale: 40", "plate_scale: 41"
    )
    one = text[: text.index("  - {id: 2")] + text[text.index("files:") :]
    camera = parse_camera(one.replace("wcs: {source: nominal}", "wcs: {extension: primary}"), "n.yaml")
    true = edited(newcomer).nominal_wcs(1, 150.01, 20.0, 31.0)
    cards, _ = true.to_fits_header(camera.detectors[0].box)
    path = frames[0].parent / "nc_0099.fits"
    with fits.open(frames[5]) as hdus:
        hdus[0].header.update(cards)
        hdus.writeto(path, overwrite=True)
    report = check([path], camera)
    assert report.finding("plate scale").value == pytest.approx(40.0, rel=1e-4)
    assert report.finding("position angle").value == pytest.approx(31.0, abs=0.01)
    assert report.finding("parity").level == FITS
    assert report.finding("pointing").value == pytest.approx(0.01 * 3600 * np.cos(np.radians(20)), abs=0.5)


def test_files_that_are_no_frames_are_findings(newcomer, tmp_path):
    """Missing and broken files are told about, not raised."""
    (tmp_path / "nc_0001.fits").write_bytes(b"nonsense")
    report = check([tmp_path / "nc_0001.fits", tmp_path / "gone.fits"], edited(newcomer))
    assert [finding.level for finding in report.findings[:2]] == [DIFFERS, DIFFERS]
    assert "not a FITS file" in report.text()
    assert "no such file" in report.text()


def test_first_look_writes_a_definition_that_loads(newcomer, crowded):
    """Without a definition the report shows HDUs, overscans and keywords, and a YAML to start from."""
    frames, _ = crowded
    report = check(frames)
    assert "HDU 4 (no name): 226 columns, 320 rows" in report.text()
    assert "columns 1:6, 207:226" in report.text()
    assert "boresight_ra: TEL-RA = 10:00:00.0" in report.text()
    camera = parse_camera(report.definition, "start.yaml")
    amplifier = camera.detectors[0].amplifiers[0]
    assert (amplifier.raw_data.nx, amplifier.raw_prescan.nx, amplifier.raw_overscan.nx) == (200, 6, 20)
    again = check(frames, camera)
    assert again.finding("layout").level == FITS


def test_first_look_at_real_frames(shared_data):
    """From the Nickel frames alone, overscan, keywords and scale come out as the shipped definition has them."""
    folder = shared_data / "nickel-20240512"
    frames = [folder / f"d{n}.fits.gz" for n in (1001, 1036, 1047)]
    report = check(frames)
    camera = parse_camera(report.definition, "start.yaml")
    amplifier = camera.detectors[0].amplifiers[0]
    assert (amplifier.raw_data.nx, amplifier.raw_overscan.nx) == (1024, 32)
    # its pixels of 30 microns are not in the header, the guess is 15
    assert camera.plate_scale * camera.detectors[0].pixel_size == pytest.approx(0.3701, rel=1e-3)
    assert check(frames, camera).finding("parity").level == DIFFERS


def test_nickel_definition_fits_its_frames(shared_data):
    """Gain, read noise, saturation, overscan and orientation of the shipped definition are those of the frames."""
    folder = shared_data / "nickel-20240512"
    numbers = (1001, 1002, 1035, 1036, 1037, 1047)
    report = check([folder / f"d{n}.fits.gz" for n in numbers], load_camera("nickel"))
    assert report.good, report.text()
    assert report.finding("loral A1 gain").error < 0.02


def test_stl1001_definition_fits_its_frames(shared_data):
    """Read noise and the noise of the moonlit sky agree with the header's gain; orientation cannot be told."""
    folder = shared_data / "wallace-2713-n1"
    frames = sorted(folder.glob("*Bias*"))[:2] + sorted(folder.glob("*Light*"))[-2:]
    report = check(frames, load_camera("stl1001"))
    assert report.good, report.text()
    assert report.finding("kaf1001 A1 gain").value == pytest.approx(2.07, rel=0.05)
    assert report.finding("kaf1001 orientation").level == CANNOT_TELL


def test_hsc_geometry_fits_headers_and_gaia(shared_data):
    """Header WCS and nominal WCS of all detectors agree to 1 arcsec, given the pointing and angle of the visit."""
    from skyquilt.instrument import read_observation
    from skyquilt.primitives.wcs import Wcs

    camera = load_camera("hsc")
    for path in sorted((shared_data / "hsc-v1180-astrometry").glob("1180_*.fits"))[::7]:
        (info,) = read_observation(path, camera)
        cards = dict(fits.getheader(path))
        # its SIP types come without coefficients
        cards |= {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
        header = Wcs.from_fits_header(cards)
        nominal = camera.nominal_wcs(info.detector_num, info.boresight_ra, info.boresight_dec, info.rotation)
        x, y = cards["CRPIX1"] - 1, cards["CRPIX2"] - 1
        apart = np.array(header.pixel_to_sky(x, y)) - nominal.pixel_to_sky(x, y)
        assert np.abs(apart).max() * 3600 < 1.0
        assert info.physical_filter == "HSC-z"


@pytest.mark.parametrize("seed", range(4))
def test_patterns_match_at_any_angle_scale_and_parity(seed):
    """A pattern seen partly, with errors and strangers, is found; a random one is not."""
    rng = np.random.default_rng(seed)
    w = rng.uniform(-1, 1, 160) + 1j * rng.uniform(-1, 1, 160)
    parity, angle, scale = (1, -1)[seed % 2], rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.15)
    a, b = scale * np.exp(1j * angle), 0.2 - 0.1j
    z = (w - b) / a
    z = np.conj(z) if parity < 0 else z
    z = z[(np.abs(z.real) < 0.5) & (np.abs(z.imag) < 0.5)][::1]
    error = 3e-4
    z = z + error * (rng.normal(size=z.size) + 1j * rng.normal(size=z.size))
    strangers = rng.uniform(-0.5, 0.5, 12) + 1j * rng.uniform(-0.5, 0.5, 12)
    found = match_patterns(np.r_[z, strangers], w, 1.0)
    assert found is not None
    assert found.parity == parity
    # both components of a within 4 of their standard errors, which the known scatter predicts
    assert abs(found.a - a) < 4 * np.sqrt(2) * found.error
    assert found.rms == pytest.approx(error * scale, rel=0.5)
    if seed:
        return
    random = rng.uniform(-0.5, 0.5, 40) + 1j * rng.uniform(-0.5, 0.5, 40)
    assert match_patterns(random, w, 1.0) is None


def test_gain_pulls():
    """The gain of pairs of flats has no bias beyond its error, and pulls of unit width."""
    pulls = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gain, noise = 1.7, 5.0
        level = 20000.0 * (1 + 0.1 * np.linspace(0, 1, 256))
        pair = [(rng.poisson(level, (256, 256)) + rng.normal(0, noise, (256, 256))) / gain for _ in range(2)]
        found = gain_of_pair(*pair, (noise / gain) ** 2, 60000.0)
        pulls.append((found.value - gain) / found.error)
    # 40 pulls, from 16 tiles each: the mean to 0.16, the width to 0.13
    assert abs(np.mean(pulls)) < 0.5
    assert 0.65 < np.std(pulls) < 1.5


def test_pile_up_of_the_converter_and_of_full_wells():
    """Pixels at the end of the converter, or spread about the full well, pile up; a tail of bright stars does not."""
    rng = np.random.default_rng(2)
    sky = rng.normal(1000, 10, 100_000)
    tail = 1000 + 50000 * rng.power(0.3, 3000)
    assert pile_up(np.r_[sky, tail]) is None
    level, width, count = pile_up(np.r_[sky, np.minimum(tail * 2, 65535)])
    assert (level, width) == (65535, 0.5)
    assert count > 100
    level, width, _ = pile_up(np.r_[sky, tail[tail < 30000], rng.normal(50000, 100, 800)])
    assert level == pytest.approx(50000, abs=50)


def test_reference_tables(tmp_path):
    """Columns are found by their usual names; a table without them is refused with what it has."""
    (tmp_path / "a.csv").write_text("RA_ICRS,DE_ICRS,Gmag\n10.5,-3.25,12\n11.5,,13\n")
    stars = read_reference_stars(tmp_path / "a.csv")
    assert (stars.ra.tolist(), stars.dec.tolist(), stars.mag.tolist()) == ([10.5], [-3.25], [12.0])
    (tmp_path / "b.csv").write_text("x,dec,mag\n1,2,3\n")
    with pytest.raises(ProcessingFailure, match=r"no column for ra .*it has x, dec, mag") as caught:
        read_reference_stars(tmp_path / "b.csv")
    assert caught.value.reason is Reason.BAD_HEADER
    with pytest.raises(ProcessingFailure, match="no such file"):
        read_reference_stars(tmp_path / "c.csv")
