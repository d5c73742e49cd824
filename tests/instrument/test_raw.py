"""Raw readers (LDM-151 4.1.2.3): every layout gives back the image that was stored."""

import gzip
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.instrument.raw import read_raw
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.wcs import Wcs

GRID = "detector_types.ccd.amplifiers"
LISTED = [
    {"name": "L", "data": "[1:6,1:8]", "raw_data": "[2:7,1:8]", "raw_prescan": "[1:1,1:8]"},
    {"name": "R", "data": "[12:7,1:8]", "raw_data": "[8:13,1:8]", "raw_overscan": "[14:15,1:8]"},
]
VALUES = {"gain": 1, "read_noise": 2, "saturation": 3}
TWO = [{"id": 0, "name": "C0"}, {"id": 5, "name": "C5"}]

LAYOUTS = {
    "an HDU per amplifier": {},
    "one HDU, as read": {f"{GRID}.extension": None},
    "one HDU, as assembled": {f"{GRID}.extension": None, f"{GRID}.stored": "as_assembled"},
    "all outputs at one corner": {f"{GRID}.read_out": "upper_right"},
    "sections written out": {GRID: [{**one, **VALUES} for one in LISTED]},
    "an HDU per detector, a file per visit": {
        "files": {"layout": "visit"},
        "detectors": TWO,
        f"{GRID}.extension": None,
        "detector_types.ccd.extension": "CCD{id}",
    },
    "an HDU per amplifier, a file per visit": {
        "files": {"layout": "visit"},
        "detectors": TWO,
        f"{GRID}.extension": "{detector}-{amplifier}",
    },
    "a file per detector": {"detectors": TWO, "header.detector_num": "DET"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(make_camera, write_raw, layout):
    """Whatever the layout, assembling what was read gives the image of each detector."""
    camera = make_camera(LAYOUTS[layout])
    one_file = camera.files.per_visit or len(camera.detectors) == 1
    for detector in camera.detectors:
        ids = None if one_file else [detector.id]
        path, images = write_raw(camera, {"DET": detector.id}, detector_ids=ids)
        frame = read_raw(path, camera, detector.id)
        assert frame.info.detector_num == detector.id
        assert {name: pixels.shape for name, pixels in frame.amplifiers.items()} == {
            a.name: a.raw_section.shape for a in detector.amplifiers
        }
        assert_array_equal(detector.assemble(frame.amplifiers), images[detector.id].astype(np.float32))
        assert all(pixels.dtype == np.float32 for pixels in frame.amplifiers.values())
        assert frame.metadata["INSTRUME"] == "Small"


def test_overscan_is_kept(make_camera, write_raw):
    """Prescan and overscan come along untouched."""
    camera = make_camera()
    frame = read_raw(write_raw(camera)[0], camera, 3)
    amplifier = frame.detector.amplifiers[3]
    section = frame.amplifiers[amplifier.name]
    for box in (amplifier.raw_prescan, amplifier.raw_overscan, amplifier.raw_parallel_overscan):
        assert (section[box.slices()] == 7).all()


@pytest.mark.parametrize("suffix", [".gz", ".fz"])
def test_packed_frames(make_camera, write_raw, tmp_path, suffix):
    """Gzipped and tile-compressed frames read as the plain ones."""
    # tile compression needs more than a few pixels
    changes = {"detector_types.ccd.size": [64, 48]}
    camera = make_camera(changes)
    path, images = write_raw(camera, dtype="int16" if suffix == ".fz" else "uint16")
    packed = tmp_path / (path.name + suffix)
    if suffix == ".gz":
        packed.write_bytes(gzip.compress(path.read_bytes()))
    else:
        with fits.open(path) as hdus:
            parts = [fits.CompImageHDU(h.data, h.header, name=h.name) for h in hdus[1:]]
            fits.HDUList([hdus[0].copy(), *parts]).writeto(packed)
    frame = read_raw(packed, camera, 3)
    assert_array_equal(frame.detector.assemble(frame.amplifiers), images[3].astype(np.float32))


def test_no_more_than_the_detector_is_loaded(make_camera, write_raw):
    """Of a file with six detectors, reading one takes the memory of one."""
    detectors = [{"id": i, "name": f"C{i}"} for i in range(6)]
    camera = make_camera(
        LAYOUTS["an HDU per detector, a file per visit"]
        | {"detectors": detectors, "detector_types.ccd.size": [400, 400]}
    )
    path, _ = write_raw(camera)
    read_raw(path, camera, 4)  # imports
    tracemalloc.start()
    read_raw(path, camera, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the stored image (2 bytes), its float32 copy (4) and the amplifiers' sections (4), of 406 x 406 pixels
    assert peak < 1.3 * 10 * 406 * 406 + 100_000


def _failure(*arguments):
    with pytest.raises(ProcessingFailure) as caught:
        read_raw(*arguments)
    return caught.value


def test_failures(make_camera, write_raw, tmp_path):
    """Missing, truncated, of another shape, without an HDU, of another detector: each has its reason."""
    camera = make_camera()
    path, _ = write_raw(camera)
    assert _failure(tmp_path / "gone.fits", camera, 3).reason is Reason.MISSING_FILE
    assert _failure(path, camera, 4).reason is Reason.UNKNOWN_DETECTOR
    larger = make_camera({f"{GRID}.overscan": 4})
    failure = _failure(path, larger, 3)
    assert failure.reason is Reason.WRONG_SHAPE
    assert "A1 has 9 x 7 pixels, expected 11 x 7 for amplifier A1 of detector C3" in failure.detail
    renamed = make_camera({f"{GRID}.names": ["B1", "B2", "B3", "B4"]})
    failure = _failure(path, renamed, 3)
    assert failure.reason is Reason.WRONG_SHAPE
    assert "no extension 'B1' in the file; it has 0, A1, A2, A3, A4" in failure.detail
    path.write_bytes(path.read_bytes()[: 5 * 2880 + 50])
    failure = _failure(path, camera, 3)
    assert failure.reason is Reason.UNREADABLE_FILE
    assert "truncated" in failure.detail


@pytest.mark.parametrize("how", ["absent", "empty"])
@pytest.mark.parametrize("lost", ["A1", "A3"])
def test_an_absent_amplifier_costs_itself(make_camera, write_raw, how, lost):
    """An extension that is not there, or without pixels: the others are read as ever, and what was found is said."""
    camera = make_camera({"wcs": {"extension": "amplifier"}})
    path, _ = write_raw(camera, WCS)
    whole = read_raw(path, camera, 3)
    with fits.open(path) as hdus:
        parts = [hdu.copy() for hdu in hdus if hdu.name != lost]
        if how == "empty":
            parts.append(fits.ImageHDU(name=lost))
        fits.HDUList(parts).writeto(path, overwrite=True)
    frame = read_raw(path, camera, 3)
    assert list(frame.amplifiers) == [name for name in whole.amplifiers if name != lost]
    for name, pixels in frame.amplifiers.items():
        assert_array_equal(pixels, whole.amplifiers[name])
    words = f"no extension '{lost}'" if how == "absent" else f"{lost} has no image pixels, expected 9 x 7"
    assert list(frame.absent) == [lost]
    assert words in frame.absent[lost]
    assert whole.absent == {}


def test_damaged_headers_never_crash(make_camera, write_raw, tmp_path):
    """Whatever byte of a header is damaged, the frame is read or refused with a documented reason."""
    camera = make_camera({f"{GRID}.extension": None, "wcs": {"extension": "primary"}})
    path, _ = write_raw(camera, WCS)
    whole = path.read_bytes()
    rng = np.random.default_rng(13)
    damaged = tmp_path / "damaged.fits"
    n_card = whole.index(b"END     ") // 80 + 1
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            place = 80 * rng.integers(n_card) + rng.integers(34)
            data[place] = rng.choice(list(b" 0-9.'=/EZ\x00\xff"))
        damaged.write_bytes(bytes(data))
        try:
            read_raw(damaged, camera, 3)
        except ProcessingFailure as failure:
            assert failure.detail  # noqa: PT017 - both ways are right


def test_file_of_another_detector(make_camera, write_raw):
    """A file that holds another detector than the one asked for is refused."""
    camera = make_camera(LAYOUTS["a file per detector"])
    path, _ = write_raw(camera, {"DET": 5}, detector_ids=[5])
    failure = _failure(path, camera, 0)
    assert failure.reason is Reason.UNKNOWN_DETECTOR
    assert "holds detector 5, expected detector 0" in failure.detail


WCS = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.0,
    "CRVAL2": -30.5,
    "CRPIX1": 4.0,
    "CRPIX2": 3.0,
    "CD1_1": -1e-4,
    "CD1_2": 2e-5,
    "CD2_1": 2e-5,
    "CD2_2": 1e-4,
}


def test_header_wcs_of_assembled_pixels(make_camera, write_raw):
    """A header that counts assembled pixels is taken as it is."""
    camera = make_camera({"wcs": {"extension": "primary"}})
    frame = read_raw(write_raw(camera, WCS)[0], camera, 3)
    x, y = np.array([0.0, 11.0, 3.0]), np.array([0.0, 2.0, 7.0])
    assert_array_equal(frame.header_wcs.pixel_to_sky(x, y), Wcs.from_fits_header(WCS).pixel_to_sky(x, y))
    assert frame.wcs_problem == ""


@pytest.mark.parametrize("corner", ["lower_left", "lower_right", "upper_left", "upper_right"])
def test_header_wcs_of_stored_pixels(make_camera, write_raw, corner):
    """A header that counts stored pixels, prescan included, gives each pixel the same sky after the flip."""
    camera = make_camera({"wcs": {"frame": "raw", "extension": "primary"}, f"{GRID}.read_out": corner})
    frame = read_raw(write_raw(camera, WCS)[0], camera, 3)
    amplifier = frame.detector.amplifiers[0]
    raw_x, raw_y = np.array([1.0, 6.0, 2.0]), np.array([0.0, 3.0, 1.0])
    stored = Wcs.from_fits_header(WCS).pixel_to_sky(raw_x, raw_y)
    assembled = frame.header_wcs.pixel_to_sky(*amplifier.assembled_position(raw_x, raw_y))
    assert_allclose(assembled, stored, rtol=0, atol=1e-11)


def test_reference_pixel_picks_the_amplifier(make_camera, write_raw):
    """In one HDU of several amplifiers, those pixels keep their sky whose amplifier has CRPIX."""
    changes = LAYOUTS["one HDU, as assembled"] | {"wcs": {"frame": "raw"}}
    camera = make_camera(changes)
    cards = WCS | {"CRPIX1": 13.0}
    frame = read_raw(write_raw(camera, cards)[0], camera, 3)
    amplifier = frame.detector.amplifiers[1]
    x, y = 12.0, 2.0
    there = Wcs.from_fits_header(cards).pixel_to_sky(x, y)
    section = amplifier.raw_section
    here = frame.header_wcs.pixel_to_sky(*amplifier.assembled_position(x - section.x0, y - section.y0))
    assert_allclose(here, there, rtol=0, atol=1e-11)


def test_first_wcs(make_camera, write_raw):
    """Header, else nominal, else NO_WCS; nominal only when the definition says so."""
    path = write_raw(make_camera())[0]
    camera = make_camera()
    frame = read_raw(path, camera, 3)
    assert frame.header_wcs is None
    assert frame.wcs_problem
    nominal = camera.nominal_wcs(3, 150.0, -30.5, 0.0)
    assert frame.first_wcs(camera) == nominal
    strict = make_camera({"wcs": {"fallback": "none"}})
    with pytest.raises(ProcessingFailure, match="fallback: none") as caught:
        read_raw(path, strict, 3).first_wcs(strict)
    assert caught.value.reason is Reason.NO_WCS
    path = write_raw(camera, WCS)[0]
    only_nominal = make_camera({"wcs": {"source": "nominal"}})
    assert read_raw(path, only_nominal, 3).first_wcs(only_nominal) == nominal
    pointless = make_camera({"header.boresight_ra": None})
    with pytest.raises(ProcessingFailure, match="no pointing"):
        read_raw(write_raw(pointless)[0], pointless, 3).first_wcs(pointless)


def test_demo_raw_round_trip(cameras, write_raw):
    """A demo frame with the nominal WCS in its header comes back with pixels, facts and sky."""
    camera = cameras["demo"]
    detector = camera.detector(2)
    cards, _ = camera.nominal_wcs(2, 150.0, -30.5, 40.0).to_fits_header(detector.box)
    header = {
        "INSTRUME": "SkyquiltDemo",
        "OBSID": 1001,
        "SNAP": 1,
        "DETNUM": 2,
        "IMGTYPE": "SKY",
        "FILTER": "demo_r",
        "DATE-BEG": "2025-03-01T04:00:00.000",
        "DATE-END": "2025-03-01T04:00:30.000",
        "ROTPA": 40.0,
    }
    path, images = write_raw(camera, {**header, **cards}, detector_ids=[2])
    frame = read_raw(path, camera, 2)
    assert (frame.info.visit, frame.info.snap, frame.info.rotation) == (1001, 1, 40.0)
    assert_array_equal(detector.assemble(frame.amplifiers), images[2].astype(np.float32))
    assert frame.amplifiers["A4"].shape == (512, 544)
    x, y = np.meshgrid([0.0, 511.0, 1023.0], [0.0, 700.0])
    nominal = camera.nominal_wcs(2, 150.0, -30.5, 40.0)
    # the header's own residual is below 1 mas
    assert_allclose(frame.header_wcs.pixel_to_sky(x, y), nominal.pixel_to_sky(x, y), rtol=0, atol=1.5 / 3.6e6)


def test_nickel_frame(cameras, shared_data):
    """A real frame: size, bias level, and a header WCS within 5 arcsec of the nominal one."""
    camera = cameras["nickel"]
    frame = read_raw(shared_data / "nickel-20240512" / "d1047.fits.gz", camera, 0)
    amplifier = frame.detector.amplifiers[0]
    section = frame.amplifiers["A1"]
    assert section.shape == (1024, 1056)
    assert_array_equal(section, fits.getdata(shared_data / "nickel-20240512" / "d1047.fits.gz").astype("f4"))
    assert 900 < np.median(section[amplifier.raw_overscan.slices()]) < 1100
    x, y = np.array([0.0, 1023.0, 511.5]), np.array([0.0, 100.0, 511.5])
    header = np.array(frame.header_wcs.pixel_to_sky(x, y))
    nominal = np.array(
        camera.nominal_wcs(
            0, frame.info.boresight_ra, frame.info.boresight_dec, frame.info.rotation
        ).pixel_to_sky(x, y)
    )
    assert np.abs(header - nominal).max() * 3600 < 5.0


def test_nickel_gain_and_read_noise(cameras, shared_data):
    """The laboratory values of the definition are those of the bias pairs and flats, to 3 %."""
    camera = cameras["nickel"]
    amplifier = camera.detectors[0].amplifiers[0]

    def image(number):
        frame = read_raw(shared_data / "nickel-20240512" / f"d{number}.fits.gz", camera, 0)
        section = frame.amplifiers["A1"].astype(float)
        return (section - np.median(section[amplifier.raw_overscan.slices()]))[amplifier.raw_data.slices()]

    def width(values):
        low, high = np.percentile(values, [15.865, 84.135])
        return 0.5 * (high - low)

    difference = image(1004) - image(1005)
    read_noise = width(difference[100:900, 300:900]) / np.sqrt(2)
    first, second = image(1036), image(1037)
    gains = []
    for y in range(128, 896, 32):
        for x in range(320, 896, 32):
            a, b = first[y : y + 32, x : x + 32], second[y : y + 32, x : x + 32]
            ratio = a.mean() / b.mean()
            variance = width(a - ratio * b) ** 2 - (1 + ratio**2) * read_noise**2
            gains.append((a.mean() + ratio**2 * b.mean()) / variance)
    assert np.median(gains) == pytest.approx(amplifier.gain, rel=0.03)
    assert read_noise * np.median(gains) == pytest.approx(amplifier.read_noise, rel=0.05)
