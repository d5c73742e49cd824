"""FITS block scan (LDM-151 9.2): cards and pixels as astropy reads them, faults in plain words."""

import gzip
import math

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skyquilt.instrument.fits_file import Cards, FitsFile
from skyquilt.primitives.failure import ProcessingFailure, Reason

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=150)
VALUES = st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(-1e300, 1e300), TEXT)


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=8), st.sampled_from(["", "a comment / with signs"]))
def test_cards_as_astropy_reads_them(values, comment):
    """Booleans, integers, floats and text (quotes, slashes, long strings) come back as astropy has them."""
    header = fits.Header()
    for i, value in enumerate(values):
        fits_comment = "" if isinstance(value, str) and len(value) > 40 else comment
        header[f"KEY{i}"] = (value, fits_comment)
    text = header.tostring()
    cards, again = Cards(text), fits.Header.fromstring(text)
    for i in range(len(values)):
        found, wanted = cards.get(f"KEY{i}"), again[f"KEY{i}"]
        assert type(found) is type(wanted)
        assert found == (wanted.rstrip() if isinstance(wanted, str) else wanted)


def test_cards_of_other_conventions():
    """HIERARCH keywords, Fortran exponents, undefined values, commentary and blank cards."""
    text = "".join(
        card.ljust(80)
        for card in (
            "HIERARCH ESO DET OUT1 GAIN = 1.25 / gain",
            "DOUBLE  = 1.5D3",
            "EMPTY   =                      / nothing",
            "COMMENT = 'no value'",
            "",
            "FIRST   = 1",
            "FIRST   = 2",
            "END",
        )
    )
    cards = Cards(text)
    assert cards.get("ESO DET OUT1 GAIN") == 1.25
    assert cards.get("DOUBLE") == 1500.0
    assert cards.get("EMPTY") is None
    assert cards.get("FIRST") == 1
    assert cards.get("MISSING", 5) == 5
    assert "MISSING" not in cards


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_pixels_as_astropy_reads_them(tmp_path, dtype):
    """Every pixel type comes as float32, with unsigned offsets applied, from primary and extension."""
    rng = np.random.default_rng(2)
    images = [rng.integers(0, 200, shape).astype(dtype) for shape in ((5, 7), (40, 50))]
    fits.HDUList([fits.PrimaryHDU(images[0]), fits.ImageHDU(images[1], name="X")]).writeto(
        tmp_path / "a.fits"
    )
    with FitsFile(tmp_path / "a.fits") as file:
        # backwards, so that seeking is needed
        for key, image in (("x", images[1]), (0, images[0])):
            pixels = file.pixels(file.hdu(key))
            assert pixels.dtype == np.float32
            assert_array_equal(pixels, image.astype(np.float32))


def test_scale_and_blank(tmp_path):
    """BSCALE and BZERO are applied and BLANK is NaN."""
    hdu = fits.PrimaryHDU(np.array([[1, 2], [-99, 4]], dtype=np.int16))
    hdu.header["BSCALE"], hdu.header["BZERO"], hdu.header["BLANK"] = 0.5, 10.0, -99
    data = hdu.header.tostring().encode() + hdu.data.astype(">i2").tobytes().ljust(2880, b"\0")
    (tmp_path / "a.fits").write_bytes(data)
    with FitsFile(tmp_path / "a.fits") as file:
        pixels = file.pixels(file.primary)
    assert_array_equal(pixels, [[10.5, 11.0], [math.nan, 12.0]])


@pytest.fixture
def packed(tmp_path):
    """A multi-extension file, plain, gzipped and tile-compressed."""
    image = np.arange(120 * 80, dtype=np.int16).reshape(80, 120)
    plain = fits.HDUList(
        [fits.PrimaryHDU(), fits.ImageHDU(image, name="A"), fits.ImageHDU(image[:40], name="B")]
    )
    plain.writeto(tmp_path / "a.fits")
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    parts = [fits.CompImageHDU(image, name="A"), fits.CompImageHDU(image[:40], name="B")]
    fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(tmp_path / "a.fits.fz")
    return tmp_path, image


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.fits.fz"])
def test_packed_files_are_the_same(packed, name):
    """Plain, gzipped and tile-compressed files give the same shapes and pixels, by name and by number."""
    folder, image = packed
    with FitsFile(folder / name) as file:
        assert [hdu.name for hdu in file.hdus()] == ["", "A", "B"]
        assert file.hdu("B").shape == (40, 120)
        assert_array_equal(file.pixels(file.hdu(2)), image[:40])
        assert_array_equal(file.pixels(file.hdu("a")), image)
        assert file.first_image().name == "A"
        with pytest.raises(ProcessingFailure, match="no extension 'C' in the file; it has 0, A, B"):
            file.hdu("C")


def test_fpacked_primary_is_the_primary_again(tmp_path):
    """The image that fpack moved out of the primary HDU is found there, with its keywords."""
    image = np.arange(120 * 80, dtype=np.int16).reshape(80, 120)
    hdu = fits.CompImageHDU(image)
    hdu.header["OBSNUM"] = 5
    path = tmp_path / "a.fits.fz"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    data = path.read_bytes()
    # astropy writes ZSIMPLE only when it is given, fpack always
    card = b"OBSNUM  "
    at = data.index(card)
    path.write_bytes(data[:at] + b"ZSIMPLE =                    T".ljust(80) + data[at + 80 :])
    with FitsFile(path) as file:
        assert file.primary.cards.get("ZSIMPLE") is True
        assert_array_equal(file.pixels(file.hdu(0)), image)


def _failure(function, *arguments):
    with pytest.raises(ProcessingFailure) as caught:
        function(*arguments)
    return caught.value


def _read_all(path):
    with FitsFile(path) as file:
        return [file.pixels(hdu) for hdu in file.hdus() if hdu.is_image]


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.fits.fz"])
@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 0.85])
def test_truncated_files_are_unreadable(packed, name, fraction):
    """A file cut before the end of its data is UNREADABLE_FILE with its name, and never gives pixels."""
    path = packed[0] / name
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    failure = _failure(_read_all, path)
    assert failure.reason is Reason.UNREADABLE_FILE
    assert failure.detail.startswith(name)
    assert str(packed[0]) not in failure.detail


def test_files_that_are_not_fits(tmp_path):
    """A missing file, text, an HTML page in gzip, a folder: each is named for what it is."""
    failure = _failure(FitsFile, tmp_path / "none.fits")
    assert (failure.reason, failure.detail) == (Reason.MISSING_FILE, "none.fits: there is no such file")
    (tmp_path / "a.fits").write_text("hello world, I am not FITS")
    assert "not a FITS file" in _failure(_read_all, tmp_path / "a.fits").detail
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(b"<html>"))
    assert "not a FITS file" in _failure(_read_all, tmp_path / "a.fits.gz").detail
    assert _failure(_read_all, tmp_path).reason is Reason.UNREADABLE_FILE


def test_corrupt_gzip_is_unreadable(packed):
    """Damaged bytes inside a gzip stream are found, not read as pixels."""
    path = packed[0] / "a.fits.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    failure = _failure(_read_all, path)
    assert failure.reason is Reason.UNREADABLE_FILE
    assert "gzip" in failure.detail or "header" in failure.detail


def test_no_image(tmp_path):
    """A file without any image says so."""
    fits.PrimaryHDU().writeto(tmp_path / "a.fits")
    with FitsFile(tmp_path / "a.fits") as file:
        failure = _failure(file.first_image)
    assert failure.reason is Reason.WRONG_SHAPE
