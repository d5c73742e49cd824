"""CalExps from elsewhere: planes, units, flags, PSFEx models and failures, on files of our own and real ones."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS as AstropyWCS
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.io.calexp_import import CalexpMap, CalexpMapError, import_calexp
from skyquilt.io.psfex import read_psfex
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box

CONTENT = {
    "image": {"unit": "adu/s", "gain": "GAIN", "exposure_time": "EXPTIME"},
    "noise": {"kind": "weight", "replace": {"_i": "_w"}},
    "mask": {"replace": {"_i": "_d"}, "bits": {0: "BAD", 2: ["SATURATED", "SUSPECT"], 3: None}},
    "zero_point": {"keyword": "ZP", "error": 0.02},
    "info": {"visit": "EXPNUM", "band": {"keyword": "FILTER", "map": {"r *": "r"}}, "detector": {"value": 4}},
}
WCS = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 10.0,
    "CRVAL2": 20.0,
    "CRPIX1": 5.0,
    "CRPIX2": 4.0,
    "CD1_1": -1e-4,
    "CD1_2": 0.0,
    "CD2_1": 0.0,
    "CD2_2": 1e-4,
}


@pytest.fixture
def frame(tmp_path):
    """Image, weight and flags of 9 x 7 pixels, the image in an extension."""
    rng = np.random.default_rng(4)
    image = rng.normal(3.0, 1.0, (7, 9)).astype(np.float32)
    weight = rng.uniform(0.5, 2.0, (7, 9)).astype(np.float32)
    flags = np.zeros((7, 9), np.int32)
    flags[0, 0], flags[1, 1], flags[2, 2], flags[3, 3] = 1, 4, 8, 16
    weight[6, 8] = 0.0
    image[5, 5] = np.nan
    header = fits.Header({"GAIN": 2.0, "EXPTIME": 10.0, "ZP": 25.0, "EXPNUM": 12, "FILTER": "r SDSS", **WCS})
    primary = fits.PrimaryHDU(header=fits.Header({"EXPNUM": 11}))
    fits.HDUList([primary, fits.ImageHDU(image, header)]).writeto(tmp_path / "a_i.fits")
    fits.PrimaryHDU(weight).writeto(tmp_path / "a_w.fits")
    fits.PrimaryHDU(flags).writeto(tmp_path / "a_d.fits")
    return tmp_path / "a_i.fits", image, weight


def changed(**parts):
    return CalexpMap.from_dict({**CONTENT, **parts})


def test_electrons_variance_and_zero_point(frame):
    """Counts become electrons, weights variances, and a source keeps its magnitude."""
    path, image, weight = frame
    exposure = import_calexp(path, changed())
    good = np.isfinite(image) & (weight > 0)
    assert_allclose(exposure.image[good], 20.0 * image[good], rtol=1e-6)
    assert_allclose(exposure.variance[good], 400.0 / weight[good], rtol=1e-6)
    assert exposure.unit == "electron"
    # 1 adu/s is 20 electrons of this exposure and has magnitude 25
    assert exposure.photo_calib.magnitude(np.array([20.0]), 0, 0)[0] == pytest.approx(25.0, abs=1e-9)
    assert exposure.photo_calib.zero_point_error == pytest.approx(0.02, rel=1e-9)
    assert exposure.info == {"visit": 12, "band": "r", "detector": 4}
    assert_allclose(exposure.wcs.pixel_to_sky(4.0, 3.0), (10.0, 20.0), atol=1e-12)


def test_flags_by_bits_and_by_values(frame):
    """Flags become planes by name; unknown ones are BAD, pixels without weight NO_DATA."""
    path, *_ = frame
    mask = import_calexp(path, changed()).mask

    def where(name, of=None):
        return sorted(map(tuple, np.argwhere((of or mask).any(name)).tolist()))

    assert where("BAD") == [(0, 0), (3, 3)]
    assert where("SATURATED") == where("SUSPECT") == [(1, 1)]
    assert where("NO_DATA") == [(5, 5), (6, 8)]
    values = {"replace": {"_i": "_d"}, "values": {4: "COSMIC_RAY"}, "other": "SUSPECT"}
    by_value = import_calexp(path, changed(mask=values)).mask
    assert where("COSMIC_RAY", by_value) == [(1, 1)]
    assert where("SUSPECT", by_value) == [(0, 0), (2, 2), (3, 3)]


def test_no_information_has_infinite_variance(frame):
    """Pixels without weight or value do not count, and no NaN comes in."""
    exposure = import_calexp(frame[0], changed())
    assert np.isinf(exposure.variance[5, 5])
    assert np.isinf(exposure.variance[6, 8])
    assert np.isfinite(exposure.image).all()


@pytest.mark.parametrize(("kind", "power"), [("weight", -1), ("variance", 1), ("sigma", 2)])
def test_kinds_of_noise(frame, kind, power):
    """Weight, variance and sigma mean what they say."""
    path, _, weight = frame
    exposure = import_calexp(path, changed(noise={"kind": kind, "replace": {"_i": "_w"}}))
    assert exposure.variance[2, 3] == pytest.approx(400.0 * float(weight[2, 3]) ** power, rel=1e-6)


def test_flux_units_and_parent_frame(frame):
    """An image in maggies becomes nJy, and lies where its origin says, with the same sky."""
    path, image, _ = frame
    content = {k: v for k, v in CONTENT.items() if k != "zero_point"}
    mapping = CalexpMap.from_dict(content | {"image": {"unit": "nanomaggy"}, "origin": {"x": 100, "y": 50}})
    exposure = import_calexp(path, mapping)
    assert exposure.unit == "nJy"
    assert exposure.image[0, 1] == pytest.approx(3630.7805 * image[0, 1], rel=1e-6)
    assert exposure.box == Box(100, 50, 9, 7)
    assert_allclose(exposure.wcs.pixel_to_sky(104.0, 53.0), (10.0, 20.0), atol=1e-12)
    unknown = CalexpMap.from_dict({k: v for k, v in CONTENT.items() if k != "zero_point"})
    assert np.isnan(import_calexp(path, unknown).photo_calib.mean)


def test_numbers_of_the_caller_go_first(frame):
    """Gain and zero point of a table replace those of the header; per second means one unit per second."""
    path, image, _ = frame
    exposure = import_calexp(path, changed(), values={"gain": 3.0, "zero_point": 26.0})
    assert exposure.image[0, 1] == pytest.approx(30.0 * image[0, 1], rel=1e-6)
    assert exposure.photo_calib.zero_point == pytest.approx(26.0 + 2.5 * np.log10(30.0))
    mapping = changed(
        image={"unit": "adu", "gain": 2.0, "exposure_time": "EXPTIME"},
        zero_point={"value": 25, "per_second": True},
    )
    # 2 electrons are 1 adu, a tenth of an adu per second
    assert import_calexp(path, mapping).photo_calib.magnitude(np.array([2.0]), 0, 0)[0] == pytest.approx(27.5)


def psfex_file(path, basis, degree, zero, scale, step=1.0, table=False):
    """A PSFEx model in its own form, or as a table with a row per detector."""
    names = {"POLNAME1": "X_IMAGE", "POLNAME2": "Y_IMAGE", "POLDEG1": degree, "PSF_SAMP": step}
    names |= {"POLZERO1": zero[0], "POLZERO2": zero[1], "POLSCAL1": scale[0], "POLSCAL2": scale[1]}
    n, ny, nx = basis.shape
    dim = f"({nx},{ny},{n})"
    if not table:
        column = fits.Column("PSF_MASK", f"{basis.size}E", dim=dim, array=basis[None])
        hdu = fits.BinTableHDU.from_columns([column], header=fits.Header(names), name="PSF_DATA")
    else:
        columns = [fits.Column("psf_mask", f"{basis.size}E", dim=dim, array=np.stack([0 * basis, basis]))]
        columns += [fits.Column("ccdname", "3A", array=["N1", "N2"])]
        for key, value in names.items():
            form = "7A" if isinstance(value, str) else "D"
            columns.append(fits.Column(key.lower(), form, array=[value, value]))
        hdu = fits.BinTableHDU.from_columns(columns)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("size", [15, 16])
def test_psfex_models_are_the_sum_that_psfex_means(tmp_path, table, size):
    """Everywhere the kernel equals sum basis_k u^i v^j with u, v of FITS pixels, i running first."""
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:size, :size] - size // 2
    mean = np.exp(-0.5 * (x**2 + y**2) / 2.0**2)
    basis = np.stack([mean, *(0.05 * mean * rng.normal(size=(5, size, size)))]).astype(np.float32)
    zero, scale = (-436.487, 1468.39), (4029.975, 4093.6)
    path = psfex_file(tmp_path / "m.psf", basis, 2, zero, scale, table=table)
    box = Box(30, 20, 400, 300)
    psf = read_psfex(path, box, row={"ccdname": "N2"} if table else None)
    for px, py in rng.uniform(0, 900, (5, 2)):
        u, v = (px - 30 + 1 - zero[0]) / scale[0], (py - 20 + 1 - zero[1]) / scale[1]
        terms = [1, u, u**2, v, u * v, v**2]
        model = np.tensordot(terms, basis.astype(float), axes=1)
        found = psf.kernel_at(px, py)
        inner = found[found.shape[0] // 2 - size // 2 :, found.shape[1] // 2 - size // 2 :][:size, :size]
        assert_allclose(inner, model / model.sum(), rtol=0, atol=1e-9)


def test_psfex_models_that_cannot_be_used(tmp_path):
    """Coarse sampling, other variables and absent rows are refused with what was found."""
    basis = np.ones((1, 5, 5), np.float32)
    path = psfex_file(tmp_path / "a.psf", basis, 0, (0, 0), (1, 1), step=1.4)
    with pytest.raises(ProcessingFailure, match=r"PSF_SAMP is 1.4"):
        read_psfex(path, Box(0, 0, 9, 9))
    path = psfex_file(tmp_path / "b.psf", np.ones((4, 5, 5), np.float32), 2, (0, 0), (1, 1))
    with pytest.raises(ProcessingFailure, match="4 PSF terms in X_IMAGE, Y_IMAGE of degree 2"):
        read_psfex(path, Box(0, 0, 9, 9))
    path = psfex_file(tmp_path / "c.psf", basis, 0, (0, 0), (1, 1), table=True)
    with pytest.raises(ProcessingFailure, match="2 of 2 rows fit"):
        read_psfex(path, Box(0, 0, 9, 9))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"imag": {}}, "calexp.imag: no such key; did you mean image?"),
        ({"image": {"unit": "ADU"}}, "image.unit: expected one of electron, adu"),
        ({"image": {"unit": "adu"}}, "image.gain: an image in adu needs it"),
        ({"image": {"unit": "nJy"}}, "zero_point: an image in nJy has none"),
        ({"noise": {"kind": "rms"}}, "noise.kind: expected one of weight"),
        ({"mask": {"bits": {0: "BADD"}}}, "mask: 'BADD' is no mask plane; did you mean BAD?"),
        ({"mask": {"bits": {}, "values": {}}}, "give bits or values"),
        ({"info": {"visit": {"keywrd": "X"}}}, "info.visit.keywrd: no such key; did you mean keyword?"),
        ({"psf": 3}, "psf: expected keys and values"),
    ],
)
def test_mistakes_in_the_map_are_named(parts, words):
    """Each mistake is answered with its key before any file is opened."""
    with pytest.raises(CalexpMapError) as caught:
        changed(**parts)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "reason", "words"),
    [
        ({"noise": {"kind": "weight", "path": "none.fits"}}, Reason.MISSING_FILE, "no such file"),
        ({"noise": {}}, Reason.BAD_HEADER, "no noise"),
        ({"zero_point": {"keyword": "MAGZ"}}, Reason.BAD_HEADER, "keyword MAGZ is None, expected a number"),
        ({"info": {"visit": "V"}}, Reason.BAD_HEADER, "info.visit: keyword V is not in the header"),
        (
            {"info": {"band": {"keyword": "FILTER", "map": {"g*": "g"}}}},
            Reason.BAD_HEADER,
            "is not in its map",
        ),
        ({"noise": {"kind": "weight", "path": "{stem}_small.fits"}}, Reason.WRONG_SHAPE, "has shape (2, 2)"),
        ({"image": {"unit": "electron", "extension": "SCI"}}, Reason.WRONG_SHAPE, "no extension 'SCI'"),
    ],
)
def test_failures_of_files_are_documented(frame, parts, reason, words):
    """What a file lacks is a reason with file and key."""
    path, *_ = frame
    fits.PrimaryHDU(np.ones((2, 2), np.float32)).writeto(path.with_name("a_i_small.fits"))
    with pytest.raises(ProcessingFailure) as caught:
        import_calexp(path, changed(**parts))
    assert caught.value.reason is reason
    assert words in caught.value.detail


LEGACY = {
    "image": {"unit": "adu", "gain": "GAINA"},
    "noise": {"kind": "weight", "replace": {"_ooi_": "_oow_"}},
    "mask": {"replace": {"_ooi_": "_ood_"}, "bits": {0: "BAD", 1: "SATURATED", 4: "COSMIC_RAY"}},
    "psf": {"row": {"ccdname": "EXTNAME"}},
    "zero_point": {"keyword": "MAGZERO"},
    "info": {"visit": "EXPNUM", "detector": "CCDNUM"},
}


def test_real_cutouts_of_decam(shared_data):
    """DECam cutouts calibrated elsewhere: weight is the noise, PSFEx the stars' width, the WCS the survey's table's."""
    folder = shared_data / "legacysurvey-cutouts" / "testcase3"
    if not folder.is_dir():
        pytest.skip("the cutouts are not here")
    table = fits.getdata(folder / "survey-ccds-1.fits.gz")
    models = {path.name.split("-psfex")[0]: path for path in folder.rglob("*psfex.fits")}
    done = 0
    for row in table:
        path = folder / "images" / row["image_filename"].strip()
        model = models.get(f"{path.name.split('.')[0]}-{row['ccdname'].strip()}")
        if model is None or not path.is_file():
            continue
        # some headers have no MAGZERO: the survey's table gives it, of one count per second
        values = {"zero_point": float(row["zpt"]) + 2.5 * np.log10(float(row["exptime"]))}
        exposure = import_calexp(path, CalexpMap.from_dict(LEGACY), psf=model, values=values)
        assert exposure.shape == (row["height"], row["width"])
        x, y = np.array([0.0, row["width"] - 1.0, 7.0]), np.array([0.0, 3.0, row["height"] - 1.0])
        theirs = AstropyWCS(fits.getheader(path, 1)).pixel_to_world_values(x, y)
        assert_allclose(exposure.wcs.pixel_to_sky(x, y), theirs, rtol=0, atol=1e-3 / 3600)
        # the table's widths are those of the stars of the whole CCD
        assert exposure.psf.fwhm_at(10.0, 10.0) == pytest.approx(row["fwhm"], rel=0.15)
        # neighbouring pixels differ by noise, stars and what the provider's weights leave out; gain^2 too much is 14
        step = np.diff(exposure.image, axis=1) / np.sqrt(2 * np.median(exposure.variance))
        assert 0.7 < 1.4826 * np.median(np.abs(step - np.median(step))) < 1.3
        assert_array_equal(np.isinf(exposure.variance) <= exposure.mask.any("NO_DATA"), True)
        done += 1
    assert done >= 3
