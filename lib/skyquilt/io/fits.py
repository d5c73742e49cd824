"""Exposures as FITS files (LDM-151 9.1.1): image files that other tools open.

PRIMARY | IMAGE | MASK | VARIANCE | PSF | BACKGROUND | APCORR | PHOTOCALIB | WCS | NOISECOV | INPUTS;
components that an Exposure has not are left out. Each plane carries a FITS WCS close to the full one (the
largest difference in WCSRESID, mas) and a linear WCS "A" from the file's pixels to the parent frame. Bytes
depend on the content only: no clock, host or path goes into a file.

Planes go through astropy, which was faster than fitsio when measured: a plain 4k x 4k plane (64 MB) costs
30 ms of CPU to write and 27 ms to sum (fitsio: 68 ms without sums). Per Mpix of noise GZIP_2 and RICE cost
0.1 s to write and 0.04 s to read, at 3.3 and 0.86 bytes per pixel; a mask costs 0.14 s and 0.02 s.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skyquilt.io.atomic import atomic_path
from skyquilt.io.components import INPUTS, hdu_json, hdu_state, json_hdu, state_hdu, write_hdus
from skyquilt.primitives.component import from_state
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

COMPONENT_HDUS = {
    "PSF": "psf",
    "BACKGROUND": "background",
    "APCORR": "aperture_corrections",
    "PHOTOCALIB": "photo_calib",
    "WCS": "wcs",
}
NOISE_COVARIANCE = "NOISECOV"
COMPRESSIONS = (None, "GZIP_2", "RICE")

RICE_LEVEL = 16.0
"""Steps of the lossy compression per sigma of a row's noise: adds 1/(12 * 16^2) = 0.03 % to the variance."""

INFO_CARDS = {
    "visit": ("VISIT", "visit"),
    "detector": ("DETECTOR", "detector id"),
    "tract": ("TRACT", "tract of the sky map"),
    "patch": ("PATCH", "patch of the tract"),
    "band": ("BAND", "band"),
    "physical_filter": ("FILTER", "physical filter"),
    "instrument": ("INSTRUME", "camera"),
    "object": ("OBJECT", "target"),
    "exposure_time": ("EXPTIME", "[s]"),
    "datetime_begin": ("MJD-BEG", "[d] TAI"),
    "datetime_mid": ("MJD-AVG", "[d] TAI"),
    "datetime_end": ("MJD-END", "[d] TAI"),
    "airmass": ("AIRMASS", "airmass"),
}
"""Entries of `Exposure.info` that also become cards of the primary header, for other tools."""


class CorruptFile(OSError):
    """The data of a file do not have the checksum that its header states."""


def write_exposure(
    path: str | Path,
    exposure: Exposure,
    provenance: dict[str, Any] | None = None,
    compression: str | None = None,
) -> None:
    """Write an Exposure with its components, atomically.

    Parameters
    ----------
    path : path
        Replaced if it is there.
    exposure : Exposure
    provenance : dict, optional
        What JSON holds: versions, digests, inputs with checksums; goes into the HDU INPUTS.
    compression : None, "GZIP_2" or "RICE"
        None: plain. GZIP_2: lossless. RICE: image and variance rounded to 1/16 of each row's noise (with a
        fixed dither), mask lossless; a plane with infinities stays lossless. A Background's kept
        pixels belong to the exact image: after RICE the restored image is as exact as the rounding.
    """
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression must be one of {COMPRESSIONS}, got {compression!r}")
    hdus = [_primary(exposure), *_planes(exposure, compression)]
    for name, attribute in COMPONENT_HDUS.items():
        component = getattr(exposure, attribute)
        if component is not None:
            hdus.append(state_hdu(name, component.to_state()))
    if exposure.noise_covariance is not None:
        hdus.append(_image_hdu(NOISE_COVARIANCE, np.asarray(exposure.noise_covariance, np.float64), [], None))
    content = {"provenance": provenance or {}, "info": exposure.info}
    hdus.append(json_hdu(INPUTS, content))
    with atomic_path(path) as temporary:
        write_hdus(temporary, hdus)


def write_pixels(path: str | Path, exposure: Exposure) -> None:
    """Write image, mask and variance only: the intermediate whose components lie in files of their own."""
    with atomic_path(path) as temporary:
        write_hdus(temporary, [_primary(exposure), *_planes(exposure, None)])


def read_exposure(path: str | Path, box: Box | None = None, verify: bool = False) -> Exposure:
    """Read an Exposure written by `write_exposure` (plain, tile-compressed or gzipped as a whole).

    Parameters
    ----------
    path : path
    box : Box, optional
        Read this part only (parent frame); components are read whole.
    verify : bool
        Compare all checksums first.

    Raises
    ------
    CorruptFile
        When `verify` finds a checksum that does not fit.
    KeyError
        When one of IMAGE, MASK, VARIANCE is not there.
    ValueError
        When the box is not inside the image, or the mask's planes have no names.
    """
    from astropy.io import fits

    if verify:
        verify_checksums(path)
    with fits.open(path) as hdus:
        exposure = _read_planes(path, hdus, box)
        components = {
            attribute: from_state(hdu_state(hdus[name]))
            for name, attribute in COMPONENT_HDUS.items()
            if name in hdus
        }
        info = hdu_json(hdus[INPUTS])["info"] if INPUTS in hdus else {}
        covariance = hdus[NOISE_COVARIANCE].data.astype(np.float64) if NOISE_COVARIANCE in hdus else None
        return exposure.with_(**components, info=info, noise_covariance=covariance)


def read_pixels(path: str | Path, box: Box | None = None, verify: bool = False) -> Exposure:
    """Read image, mask and variance only, also of a file that has components; see `read_exposure`."""
    from astropy.io import fits

    if verify:
        verify_checksums(path)
    with fits.open(path) as hdus:
        return _read_planes(path, hdus, box)


@dataclass(frozen=True)
class PixelFile:
    """The planes of an Exposure file, of which some rows are read at a time: the headers are looked at once.

    Parameters
    ----------
    path : Path
    box : Box
    unit : str
    mask_planes, mask_texts : dict
        Name of a mask plane -> bit, and what it means.
    offsets : dict
        Plane -> byte at which its pixels begin; empty for files whose bytes are not pixels of four bytes
        (compressed, or of other types), which are read with their headers.
    """

    path: Path
    box: Box
    unit: str
    mask_planes: Mapping[str, int]
    mask_texts: Mapping[str, str]
    offsets: Mapping[str, int]

    @classmethod
    def open(cls, path: str | Path) -> PixelFile:
        """Look at the headers; KeyError when a plane is missing."""
        from astropy.io import fits

        with fits.open(path, memmap=True) as hdus:
            header = hdus["IMAGE"].header
            planes = {"IMAGE": -32, "MASK": 32, "VARIANCE": -32}
            plain = _is_fits(path) and all(_stores(hdus[name], bits) for name, bits in planes.items())
            offsets = {name: hdus[name].fileinfo()["datLoc"] for name in planes} if plain else {}
            mask = Mask.from_cards(np.zeros((1, 1), np.int32), hdus["MASK"].header)
            box, unit = _read_box(header), header.get("BUNIT", "")
            return cls(Path(path), box, unit, mask.planes, mask.texts, offsets)

    def subimage(self, box: Box) -> Exposure:
        """Image, mask and variance within a box, read now; as `Exposure.subimage`."""
        if not self.offsets:
            return read_pixels(self.path, box)
        rows, columns = box.slices(self.box)
        with open(self.path, "rb") as file:
            image, mask, variance = (self._rows(file, name, rows) for name in ("IMAGE", "MASK", "VARIANCE"))
        part = slice(None), columns
        return Exposure(
            image=image.view(np.float32)[part],
            mask=Mask(mask[part], dict(self.mask_planes), dict(self.mask_texts)),
            variance=variance.view(np.float32)[part],
            box=box,
            unit=self.unit,
        )

    def _rows(self, file: Any, plane: str, rows: slice) -> np.ndarray:
        nx = self.box.nx
        file.seek(self.offsets[plane] + 4 * nx * rows.start)
        stored = np.fromfile(file, ">i4", nx * (rows.stop - rows.start))
        return stored.astype(np.int32).reshape(-1, nx)


def read_mask(path: str | Path) -> Mask:
    """Read the MASK plane only."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        return Mask.from_cards(_pixels(hdus["MASK"], None, np.int32), hdus["MASK"].header)


def verify_checksums(path: str | Path) -> None:
    """Compare DATASUM and CHECKSUM of every HDU with its content.

    Raises
    ------
    CorruptFile
        When one does not fit or is not there, or the file is cut short.
    """
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning

    try:
        with warnings.catch_warnings():
            # so does astropy call what it finds behind a torn end
            warnings.simplefilter("error", AstropyUserWarning)
            # opened here, because astropy leaves a file open when it cannot read it
            with open(path, "rb") as file, fits.open(file, disable_image_compression=True) as hdus:
                _verify(path, hdus)
    except (AstropyUserWarning, TypeError, ValueError, EOFError) as error:
        raise CorruptFile(f"{path}: cut short or not FITS ({error})") from error


def _verify(path: str | Path, hdus: Any) -> None:
    found = 0
    for number, hdu in enumerate(hdus):
        if hdu.verify_datasum() != 1 or hdu.verify_checksum() != 1:
            raise CorruptFile(f"{path}: HDU {number} ({hdu.name}) fails its checksum")
        found = number
    expected = hdus[0].header.get("NEXTEND", found)
    if found != expected:
        raise CorruptFile(f"{path}: cut short, {found} of {expected} extensions are there")


def _primary(exposure: Exposure) -> Any:
    from astropy.io import fits

    hdu = fits.PrimaryHDU()
    for name, (keyword, comment) in INFO_CARDS.items():
        value = exposure.info.get(name)
        if isinstance(value, str | int | float) and value == value:
            hdu.header[keyword] = (value, comment)
    if "datetime_mid" in exposure.info:
        hdu.header["TIMESYS"] = ("TAI", "time scale")
    return hdu


def _planes(exposure: Exposure, compression: str | None) -> list[Any]:
    wcs_cards = _wcs_cards(exposure)
    origin = _origin_cards(exposure.box)
    unit = [("BUNIT", exposure.unit, "")]
    squared = [("BUNIT", f"{exposure.unit}2", "")]
    mask_cards = exposure.mask.to_cards()
    return [
        _image_hdu("IMAGE", exposure.image, unit + origin + wcs_cards, compression),
        _image_hdu("MASK", exposure.mask.array, mask_cards + origin + wcs_cards, compression),
        _image_hdu("VARIANCE", exposure.variance, squared + origin + wcs_cards, compression),
    ]


def _image_hdu(
    name: str, pixels: np.ndarray, cards: list[tuple[str, Any, str]], compression: str | None
) -> Any:
    from astropy.io import fits

    header = fits.Header()
    for keyword, value, comment in cards:
        header[keyword] = (value, comment)
    # C order: astropy swaps bytes in place and back, which it cannot do with a view into a larger image
    pixels = np.ascontiguousarray(pixels)
    if compression is None:
        return fits.ImageHDU(pixels, header, name=name)
    return _compressed_hdu(name, pixels, header, compression)


def _compressed_hdu(name: str, pixels: np.ndarray, header: Any, compression: str) -> Any:
    """The binary table of a tile-compressed image, ready to be summed and written."""
    from astropy.io import fits

    lossy = compression == "RICE" and pixels.dtype.kind == "f" and bool(np.isfinite(pixels).any())
    if lossy and np.isinf(pixels).any():
        lossy = False
    rice = compression == "RICE" and (lossy or pixels.dtype.kind == "i")
    compressed = fits.CompImageHDU(
        pixels,
        header,
        name=name,
        compression_type="RICE_1" if rice else "GZIP_2",
        quantize_level=RICE_LEVEL if lossy else 0.0,
        quantize_method=2,
        # astropy's default is a seed from the clock
        dither_seed=1,
    )
    memory = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(memory)
    _blank_gzip_times(memory)
    return _table_of_tiles(memory)


def _table_of_tiles(memory: io.BytesIO) -> Any:
    from astropy.io import fits

    memory.seek(0)
    return fits.open(memory, disable_image_compression=True, lazy_load_hdus=False)[1]


def _blank_gzip_times(memory: io.BytesIO) -> None:
    """Set the time of making to 0 in the gzip header (RFC 1952: bytes 4 to 7) of each compressed tile."""
    hdu = _table_of_tiles(memory)
    header, start = hdu.header, hdu.fileinfo()["datLoc"]
    columns = ["GZIP_COMPRESSED_DATA"] + ["COMPRESSED_DATA"] * header["ZCMPTYPE"].startswith("GZIP")
    # a copy: BytesIO cannot lend its buffer while astropy reads from it
    content = np.frombuffer(memory.getvalue(), dtype=np.uint8).copy()
    rows = np.ndarray(
        header["NAXIS2"], dtype=hdu.columns.dtype.newbyteorder(">"), buffer=content, offset=start
    )
    heap = start + header.get("THEAP", header["NAXIS1"] * header["NAXIS2"])
    for name in set(columns) & set(hdu.columns.names):
        for size, offset in rows[name]:
            if size:
                content[heap + offset + 4 : heap + offset + 8] = 0
    memory.seek(0)
    memory.write(content)


def _origin_cards(box: Box) -> list[tuple[str, Any, str]]:
    """WCS "A": pixel (1, 1) of the file is (x0, y0) of the parent frame."""
    cards: list[tuple[str, Any, str]] = [
        ("WCSAXESA", 2, ""),
        ("WCSNAMEA", "PARENT", "pixels of the parent frame"),
    ]
    for axis, first in ((1, box.x0), (2, box.y0)):
        cards += [
            (f"CTYPE{axis}A", "LINEAR", ""),
            (f"CRPIX{axis}A", 1.0, ""),
            (f"CRVAL{axis}A", float(first), ""),
            (f"CDELT{axis}A", 1.0, ""),
            (f"CUNIT{axis}A", "pixel", ""),
        ]
    return cards


def _wcs_cards(exposure: Exposure) -> list[tuple[str, Any, str]]:
    if exposure.wcs is None:
        return []
    cards, residual_mas = exposure.wcs.to_fits_header(exposure.box)
    listed = [(keyword, value, "") for keyword, value in cards.items()]
    # 3 digits: enough to judge by, and no rounding noise in the header
    return [*listed, ("WCSRESID", float(f"{residual_mas:.3g}"), "[mas] largest difference from the full WCS")]


def _read_planes(path: str | Path, hdus: Any, box: Box | None) -> Exposure:
    missing = [name for name in ("IMAGE", "MASK", "VARIANCE") if name not in hdus]
    if missing:
        raise KeyError(
            f"{path} has no HDU {', '.join(missing)}; it has {', '.join(hdu.name for hdu in hdus)}"
        )
    whole = _read_box(hdus["IMAGE"].header)
    where = None if box is None else box.slices(whole)
    mask = Mask.from_cards(_pixels(hdus["MASK"], where, np.int32), hdus["MASK"].header)
    return Exposure(
        image=_pixels(hdus["IMAGE"], where, np.float32),
        mask=mask,
        variance=_pixels(hdus["VARIANCE"], where, np.float32),
        box=whole if box is None else box,
        unit=hdus["IMAGE"].header.get("BUNIT", ""),
    )


def _is_fits(path: str | Path) -> bool:
    """Whether the bytes of a file are FITS, not a compressed form of it."""
    with open(path, "rb") as file:
        return file.read(6) == b"SIMPLE"


def _stores(hdu: Any, bits: int) -> bool:
    """Whether an HDU holds plain pixels of a BITPIX."""
    from astropy.io import fits

    scaled = any(keyword in hdu.header for keyword in ("BZERO", "BSCALE"))
    return not isinstance(hdu, fits.CompImageHDU) and hdu.header["BITPIX"] == bits and not scaled


def _read_box(header: Any) -> Box:
    if header.get("CTYPE1A", "LINEAR") != "LINEAR":
        raise ValueError(f"WCS A is not the linear one to the parent frame but {header['CTYPE1A']!r}")
    x0 = header.get("CRVAL1A", 0.0) - (header.get("CRPIX1A", 1.0) - 1.0)
    y0 = header.get("CRVAL2A", 0.0) - (header.get("CRPIX2A", 1.0) - 1.0)
    return Box(round(x0), round(y0), header["NAXIS1"], header["NAXIS2"])


def _pixels(hdu: Any, where: tuple[slice, slice] | None, dtype: Any) -> np.ndarray:
    stored = hdu.data if where is None else hdu.section[where]
    # a copy in the machine's byte order: memory-mapped pixels must not outlive the file
    return stored.astype(dtype)
