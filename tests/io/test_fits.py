"""Exposures as FITS files (LDM-151 9.1.1)."""

import gzip
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skyquilt.io.components import read_provenance
from skyquilt.io.fits import (
    COMPRESSIONS,
    RICE_LEVEL,
    CorruptFile,
    PixelFile,
    read_exposure,
    read_mask,
    read_pixels,
    verify_checksums,
    write_exposure,
    write_pixels,
)
from skyquilt.primitives.background import Background, ConstantLayer, MeshLayer
from skyquilt.primitives.chebyshev import ChebyshevSurface
from skyquilt.primitives.component import State, register
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import COADD_PLANES, STANDARD_PLANES, Mask
from skyquilt.primitives.photo_calib import PhotoCalib
from skyquilt.primitives.wcs import Wcs

BOX = Box(100, -50, 64, 48)
SCALE_DEG = 5e-5


@register("test_tangent_wcs")
@dataclass(frozen=True)
class TangentWcs:
    """A tangent plane whose header is off by a stated amount; stands for primitives.wcs."""

    x: float = 120.0
    y: float = -30.0

    def to_fits_header(self, box: Box) -> tuple[dict[str, object], float]:
        """Cards for an array of the box."""
        cards = {"WCSAXES": 2, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0}
        cards |= {"CRPIX1": self.x - box.x0 + 1, "CRPIX2": self.y - box.y0 + 1}
        cards |= {"CD1_1": -SCALE_DEG, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SCALE_DEG, "RADESYS": "ICRS"}
        return cards, 0.12345

    def to_state(self) -> State:
        """Plain data."""
        return State("test_tangent_wcs", {"x": self.x, "y": self.y})

    @classmethod
    def from_state(cls, state: State) -> "TangentWcs":
        """Make it again."""
        return cls(**state.meta)


def exposure(box=BOX, seed=1, **changes):
    """An Exposure with every component, NaN pixels, and a plane off its usual bit."""
    rng = np.random.default_rng(seed)
    image = rng.normal(40, 9, box.shape).astype(np.float32)
    image[3, 4] = np.nan
    variance = rng.uniform(70, 90, box.shape).astype(np.float32)
    mask = Mask.blank(box.shape, ["DETECTED", *(name for name in STANDARD_PLANES if name != "DETECTED")])
    mask.set("DETECTED", image > 50)
    mask.set("NO_DATA", (3, 4))
    mask.add_plane("OURS", "a plane of this test's own, with a long text that takes every one of 68 ch")
    calib = PhotoCalib.from_surface(ChebyshevSurface.over(box, [[2.0, 0.1], [0.05, 0.0]]), 0.01)
    background = Background((MeshLayer.over(box, rng.normal(40, 1, (3, 4))),))
    values = {
        "wcs": TangentWcs(),
        "photo_calib": calib,
        "aperture_corrections": ChebyshevSurface.over(box, [[1.1]]),
        "psf": ChebyshevSurface.over(box, [[2.0, 0.1]]),
        "info": {
            "visit": 7,
            "band": "r",
            "datetime_mid": 60000.5,
            "nested": [1, {"a": None}],
            "airmass": np.nan,
        },
        "noise_covariance": np.array([[0.0, 0.1, 0.0], [0.2, 1.0, 0.2], [0.0, 0.1, 0.0]]),
    } | changes
    info = values["info"] | {"airmass": 1.25}
    return Exposure(image, mask, variance, box, **(values | {"info": info})).with_background(background)


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
def test_lossless_round_trip(tmp_path, compression):
    """Pixels, planes, components, info and provenance come back, plain and losslessly compressed."""
    path = tmp_path / "e.fits"
    written = exposure()
    write_exposure(path, written, {"release": "r1", "ratio": 0.1}, compression)
    again = read_exposure(path, verify=True)
    assert written.differences(again) == []
    assert again.mask.planes == written.mask.planes
    assert read_provenance(path) == {"release": "r1", "ratio": 0.1}
    restored = again.unsubtracted_image().view(np.int32)
    np.testing.assert_array_equal(restored, written.unsubtracted_image().view(np.int32))
    for plane in (again.image, again.mask.array, again.variance):
        assert plane.dtype.isnative
        assert plane.flags.writeable


def test_every_float32_pattern_survives(tmp_path):
    """NaNs with payload, infinities, subnormal and negative zeros keep their bits, plain and GZIP_2."""
    patterns = [0, -(2**31), 1, 0x7F800000, -0x800000, 0x7FC00000, 0x7FC12345, 0x7F7FFFFF]
    image = np.array(patterns, dtype=np.int64).astype(np.int32).view(np.float32).reshape(2, 4)
    for compression in (None, "GZIP_2"):
        write_exposure(
            tmp_path / "e.fits", Exposure(image, Mask.blank(image.shape), image), compression=compression
        )
        again = read_exposure(tmp_path / "e.fits")
        np.testing.assert_array_equal(again.image.view(np.int32), image.view(np.int32))


def test_rice_rounds_to_a_sixteenth_of_the_noise(tmp_path):
    """Image and variance change by at most half a step of sigma/16; NaN, mask and components do not."""
    written = exposure(Box(0, 0, 300, 40))
    write_exposure(tmp_path / "e.fits", written, compression="RICE")
    again = read_exposure(tmp_path / "e.fits", verify=True)
    assert written.differences(again) == ["image", "variance"]
    # the noise of a row is estimated from its pixels: allow 30 % on half a step
    assert np.nanmax(np.abs(again.image - written.image)) < 1.3 * 9 / RICE_LEVEL / 2
    np.testing.assert_array_equal(np.isnan(again.image), np.isnan(written.image))


def test_rice_keeps_infinite_variances(tmp_path):
    """Planes with infinities or without a number are stored losslessly under RICE."""
    written = exposure()
    written.variance[5, 6] = np.inf
    written.image[...] = np.nan
    write_exposure(tmp_path / "e.fits", written.with_(background=None), compression="RICE")
    assert read_exposure(tmp_path / "e.fits").differences(written.with_(background=None)) == []


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_part_is_read_as_a_subimage(tmp_path, compression):
    """Reading a box gives the subimage of what reading all gives; a box outside is refused."""
    path = tmp_path / "e.fits"
    write_exposure(path, exposure(), compression=compression)
    part = Box(110, -49, 7, 20)
    assert read_exposure(path, part) == read_exposure(path).subimage(part)
    with pytest.raises(ValueError, match="not inside"):
        read_exposure(path, Box(99, -49, 7, 20))


def test_pixels_alone(tmp_path):
    """The intermediate has image, mask and variance, and can be read from a whole file too."""
    written = exposure()
    write_pixels(tmp_path / "p.fits", written)
    write_exposure(tmp_path / "e.fits", written)
    bare = Exposure(written.image, written.mask, written.variance, written.box, written.unit)
    assert read_pixels(tmp_path / "p.fits") == bare
    assert read_pixels(tmp_path / "e.fits") == bare
    assert read_exposure(tmp_path / "p.fits") == bare
    assert read_mask(tmp_path / "p.fits").same_as(written.mask)
    part = Box(110, -49, 7, 20)
    assert read_pixels(tmp_path / "p.fits", part) == bare.subimage(part)
    with fits.open(tmp_path / "p.fits") as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "IMAGE", "MASK", "VARIANCE"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("part", [BOX, Box(110, -49, 7, 20), Box(100, -3, 64, 1), Box(163, -50, 1, 48)])
def test_rows_of_a_file_are_those_of_its_pixels(tmp_path, compression, part):
    """A `PixelFile` gives any part of image, mask and variance as `read_pixels` does, bit for bit."""
    path = tmp_path / "e.fits"
    write_exposure(path, exposure(), compression=compression)
    pixels = PixelFile.open(path)
    assert bool(pixels.offsets) == (compression is None)
    assert (pixels.box, pixels.unit) == (BOX, exposure().unit)
    found, expected = pixels.subimage(part), read_pixels(path, part)
    assert found == expected
    assert found.mask.same_as(expected.mask)
    for plane, same in ((found.image, expected.image), (found.variance, expected.variance)):
        np.testing.assert_array_equal(plane.view(np.int32), same.view(np.int32))
        assert plane.dtype.isnative
        assert plane.flags.writeable
    with pytest.raises(ValueError, match="not inside"):
        pixels.subimage(Box(99, -49, 7, 20))


def test_pixel_files_of_other_people(tmp_path):
    """Files gzipped as a whole, and planes of other types, are read like any; a plane that is missing is named."""
    write_pixels(tmp_path / "p.fits", exposure())
    (tmp_path / "p.fits.gz").write_bytes(gzip.compress((tmp_path / "p.fits").read_bytes(), 1))
    with fits.open(tmp_path / "p.fits") as hdus:
        header = hdus["VARIANCE"].header
        wide = fits.ImageHDU(hdus["VARIANCE"].data.astype(np.float64), header, name="VARIANCE")
        fits.HDUList([*hdus[:3], wide]).writeto(tmp_path / "wide.fits")
        fits.HDUList(hdus[:3]).writeto(tmp_path / "two.fits")
    part = Box(110, -49, 7, 20)
    for name in ("p.fits.gz", "wide.fits"):
        assert PixelFile.open(tmp_path / name).subimage(part) == exposure_pixels().subimage(part)
    with pytest.raises(KeyError, match="VARIANCE"):
        PixelFile.open(tmp_path / "two.fits")


def exposure_pixels():
    """`exposure` without its components."""
    whole = exposure()
    return Exposure(whole.image, whole.mask, whole.variance, whole.box, whole.unit)


def test_a_view_of_a_larger_image_is_written_and_left_alone(tmp_path):
    """Writing a subimage, even read-only, changes nothing in memory."""
    whole = exposure()
    before = whole.copy()
    part = whole.subimage(Box(110, -40, 20, 30))
    part.image.flags.writeable = False
    write_exposure(tmp_path / "e.fits", part)
    assert whole == before
    assert read_exposure(tmp_path / "e.fits") == part


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_header_contract(tmp_path, compression):
    """Any FITS reader finds the HDUs, units, mask cards, a sky WCS and the linear WCS to the parent frame."""
    path = tmp_path / "e.fits"
    written = exposure().calibrated()
    write_exposure(path, written, compression=compression)
    with fits.open(path, checksum=True) as hdus:
        names = ["PRIMARY", "IMAGE", "MASK", "VARIANCE", "PSF", "BACKGROUND", "APCORR", "PHOTOCALIB", "WCS"]
        assert [hdu.name for hdu in hdus] == [*names, "NOISECOV", "INPUTS"]
        assert [hdus[name].header.get("BUNIT") for name in names[1:4]] == ["nJy", None, "nJy2"]
        assert [hdus[name].data.dtype.kind for name in names[1:4]] == ["f", "i", "f"]
        assert (hdus[0].header["VISIT"], hdus[0].header["TIMESYS"]) == (7, "TAI")
        mask = hdus["MASK"].header
        for name, bit in written.mask.planes.items():
            assert mask[f"MSKN{bit:04d}"] == name
            assert mask[f"MSKM{bit:04d}"] == 1 << bit
            assert mask[f"MSKD{bit:04d}"] == written.mask.texts[name]
            assert mask[f"MP_{name}"] == bit
        for name in names[1:4]:
            header = hdus[name].header
            assert (header["CTYPE1A"], header["CTYPE2A"], header["WCSRESID"]) == ("LINEAR", "LINEAR", 0.123)
            linear = WCS(header, key="A")
            np.testing.assert_allclose(linear.wcs_pix2world([[0, 0], [3, 5]], 0), [[100, -50], [103, -45]])
            sky = WCS(header)
            np.testing.assert_allclose(sky.wcs_pix2world([[20, 20]], 0), [[10.0, 20.0]], atol=1e-12)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_rubins_own_reader_reads_it(tmp_path, compression):
    """lsst.images (Python 3.12) finds the pixels, their frame, units and every mask plane."""
    images = pytest.importorskip("lsst.images", exc_type=ImportError)
    written = exposure(info={"visit": 7}, noise_covariance=None).calibrated()
    write_exposure(tmp_path / "e.fits", written, compression=compression)
    with fits.open(tmp_path / "e.fits") as hdus:
        masked = images.MaskedImage.from_hdu_list(hdus)
    again = read_exposure(tmp_path / "e.fits")
    np.testing.assert_array_equal(masked.image.array, again.image)
    np.testing.assert_array_equal(masked.variance.array, again.variance)
    assert (masked.bbox.x.start, masked.bbox.y.start) == (BOX.x0, BOX.y0)
    assert (str(masked.unit), masked.sky_projection is not None) == ("nJy", True)
    for name in written.mask.planes:
        np.testing.assert_array_equal(masked.mask.get(name), written.mask.any(name))


def test_the_sky_of_a_header_is_that_of_the_full_wcs(tmp_path):
    """Sky positions by each plane's header agree with the Wcs component to the stated residual."""
    wcs = Wcs.tan((210.0, -35.0), (900.0, -700.0), [[-5e-5, 1e-6], [1e-6, 5e-5]])
    write_exposure(tmp_path / "e.fits", exposure(wcs=wcs))
    again = read_exposure(tmp_path / "e.fits")
    assert again.wcs == wcs
    x, y = np.meshgrid(np.linspace(BOX.x0, BOX.x1, 5), np.linspace(BOX.y0, BOX.y1, 5))
    ra, dec = wcs.pixel_to_sky(x, y)
    with fits.open(tmp_path / "e.fits") as hdus:
        for name in ("IMAGE", "MASK", "VARIANCE"):
            header = hdus[name].header
            near_ra, near_dec = WCS(header).all_pix2world(x - BOX.x0, y - BOX.y0, 0)
            distance = np.hypot((near_ra - ra) * np.cos(np.radians(dec)), near_dec - dec) * 3.6e6
            # 1e-6 mas: rounding of positions of 210 degrees in doubles
            assert distance.max() <= header["WCSRESID"] + 1e-6
            assert header["WCSRESID"] < 1.0


_WRITER = """
import sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from skyquilt.io.fits import write_exposure
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.mask import Mask
image = np.random.default_rng(1).normal(9, 1, (50, 70)).astype(np.float32)
write_exposure(sys.argv[2], Exposure(image, Mask.blank(image.shape), image), {"a": 1}, sys.argv[3] or None)
"""


@pytest.mark.parametrize("compression", ["", "GZIP_2", "RICE"])
def test_bytes_depend_on_the_content_only(tmp_path, compression):
    """A process whose clock, zone and directory differ writes the same bytes."""
    import skyquilt

    library = os.path.dirname(os.path.dirname(skyquilt.__file__))
    image = np.random.default_rng(1).normal(9, 1, (50, 70)).astype(np.float32)
    here = tmp_path / "here.fits"
    write_exposure(here, Exposure(image, Mask.blank(image.shape), image), {"a": 1}, compression or None)
    there = tmp_path / "other place" / "there.fits"
    environment = os.environ | {"TZ": "Asia/Tokyo", "LANG": "C"}
    command = [sys.executable, "-c", _WRITER, library, str(there), compression]
    subprocess.run(command, env=environment, check=True)
    assert here.read_bytes() == there.read_bytes()


def test_gzipped_files_are_read(tmp_path):
    """A file gzipped as a whole reads like the plain one, in part too."""
    write_exposure(tmp_path / "e.fits", exposure())
    (tmp_path / "e.fits.gz").write_bytes(gzip.compress((tmp_path / "e.fits").read_bytes(), 1))
    assert read_exposure(tmp_path / "e.fits.gz", verify=True) == exposure()
    part = Box(110, -49, 7, 20)
    assert read_exposure(tmp_path / "e.fits.gz", part) == exposure().subimage(part)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_changed_bit_is_found(tmp_path, compression):
    """A bit flipped in header or data of any HDU, and a file cut short, fail the verification."""
    path = tmp_path / "e.fits"
    write_exposure(path, exposure(), compression=compression)
    verify_checksums(path)
    content = path.read_bytes()
    with fits.open(path, disable_image_compression=True) as hdus:
        places = [hdu.fileinfo()["datLoc"] + 17 for hdu in hdus[1:]]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(CorruptFile, match="checksum"):
            read_exposure(path, verify=True)
    # a digit of a value in the primary header
    changed = bytearray(content)
    changed[content.index(b"VISIT   =") + 29] ^= 1
    path.write_bytes(changed)
    with pytest.raises(CorruptFile, match="PRIMARY"):
        verify_checksums(path)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_file_cut_short_is_found(tmp_path, compression):
    """A file without its end is corrupt, wherever it ends: in a header, in data, between two HDUs."""
    path = tmp_path / "e.fits"
    write_exposure(path, exposure(), compression=compression)
    content = path.read_bytes()
    with fits.open(path, disable_image_compression=True) as hdus:
        places = [hdu.fileinfo()["hdrLoc"] for hdu in hdus[1:]]
    for place in [
        0,
        100,
        *places,
        places[0] + 2880,
        places[-1] + 100,
        len(content) // 2,
        len(content) - 2880,
    ]:
        path.write_bytes(content[:place])
        with pytest.raises(OSError):
            verify_checksums(path)


def test_what_is_missing_is_named(tmp_path):
    """A file without a plane, an unknown compression and an unknown component stop with a clear word."""
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2)), name="IMAGE")]).writeto(
        tmp_path / "a.fits"
    )
    with pytest.raises(KeyError, match="no HDU MASK, VARIANCE"):
        read_exposure(tmp_path / "a.fits")
    with pytest.raises(ValueError, match="compression"):
        write_exposure(tmp_path / "b.fits", exposure(), compression="ZIP")
    assert not (tmp_path / "b.fits").exists()


def test_coadd_planes_and_legacy_masks(tmp_path):
    """All planes of a coadd fit; a mask with MP_ cards only is read by them."""
    image = np.zeros((3, 4), dtype=np.float32)
    mask = Mask.blank(image.shape, [*STANDARD_PLANES, *COADD_PLANES])
    mask.set("SENSOR_EDGE", (1, 2))
    path = tmp_path / "e.fits"
    write_exposure(path, Exposure(image, mask, image, background=Background((ConstantLayer(1.0),))))
    with fits.open(path, mode="update") as hdus:
        header = hdus["MASK"].header
        for key in [key for key in header if key.startswith("MSK")]:
            del header[key]
    again = read_mask(path)
    assert again.planes == mask.planes
    np.testing.assert_array_equal(again.any("SENSOR_EDGE"), mask.any("SENSOR_EDGE"))
