"""CalExps from elsewhere (LDM-151 5.1, design 4): frames calibrated by others, read as Exposures.

Image, weight or variance, mask and PSFEx model come from FITS files; a map (YAML) says what they mean::

    image: {extension: 1, unit: adu, gain: GAINA, exposure_time: EXPTIME}
    noise: {kind: weight, replace: {_ooi_: _oow_}}
    mask: {replace: {_ooi_: _ood_}, bits: {0: BAD, 1: SATURATED, 4: COSMIC_RAY}, other: BAD}
    psf: {path: '../psfex/{stem}-psfex.fits', row: {ccdname: EXTNAME}}
    zero_point: {keyword: MAGZERO, error: 0.02}
    info: {visit: EXPNUM, detector: CCDNUM, band: {keyword: FILTER, map: {'r DECam*': r}}}

The image becomes electrons, and the zero point nJy per electron, so that everything downstream treats the
Exposure as one of our own. Keys, units and kinds: docs/importing.md.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skyquilt.io.psfex import opened, read_psfex
from skyquilt.primitives.exposure import ELECTRON, NANOJANSKY, Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import STANDARD_PLANES, Mask
from skyquilt.primitives.photo_calib import AB_ZERO_POINT, PhotoCalib
from skyquilt.primitives.psf import PolynomialPsf

FLUX_UNITS = {"nJy": 1.0, "uJy": 1e3, "mJy": 1e6, "Jy": 1e9, "nanomaggy": 3630.780547701013}
"""Calibrated units of an image [nJy]."""

COUNT_UNITS = ("electron", "adu", "electron/s", "adu/s")
NOISE_KINDS = ("weight", "variance", "sigma")

_KEYS: dict[str, tuple[str, ...]] = {
    "": ("image", "noise", "mask", "psf", "zero_point", "info", "origin"),
    "image": ("extension", "unit", "gain", "exposure_time", "sky"),
    "noise": ("kind", "path", "replace", "extension", "value"),
    "mask": ("path", "replace", "extension", "bits", "values", "other"),
    "psf": ("path", "replace", "extension", "row"),
    "zero_point": ("keyword", "value", "error", "per_second"),
    "origin": ("x", "y"),
    "info item": ("keyword", "value", "map"),
}


class CalexpMapError(ValueError):
    """A map that cannot be used; the text names the key."""


@dataclass(frozen=True)
class CalexpMap:
    """What the files of a calibrated frame mean; made from YAML by `from_dict`.

    Each part is a checked mapping with the keys of `docs/importing.md`; absent parts are empty.
    """

    image: Mapping[str, Any]
    noise: Mapping[str, Any] = field(default_factory=dict)
    mask: Mapping[str, Any] = field(default_factory=dict)
    psf: Mapping[str, Any] = field(default_factory=dict)
    zero_point: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "calexp") -> CalexpMap:
        """Check a map as YAML gives it; CalexpMapError for unknown keys and impossible values."""
        _check_keys(content, _KEYS[""], where)
        parts = {name: content.get(name) or {} for name in _KEYS[""]}
        for name, part in parts.items():
            if not isinstance(part, Mapping):
                raise CalexpMapError(f"{where}.{name}: expected keys and values, found {part!r}")
            if name != "info":
                _check_keys(part, _KEYS[name], f"{where}.{name}")
        for name, item in parts["info"].items():
            if isinstance(item, Mapping):
                _check_keys(item, _KEYS["info item"], f"{where}.info.{name}")
        _check_image(parts, where)
        _check_noise_and_mask(parts, where)
        return cls(**parts)


def _check_keys(part: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in part:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise CalexpMapError(f"{where}.{key}: no such key; {hint}")


def _check_image(parts: Mapping[str, Mapping[str, Any]], where: str) -> None:
    unit = parts["image"].get("unit")
    if unit not in (*COUNT_UNITS, *FLUX_UNITS):
        raise CalexpMapError(
            f"{where}.image.unit: expected one of {', '.join((*COUNT_UNITS, *FLUX_UNITS))}, found {unit!r}"
        )
    needed = (["gain"] if unit.startswith("adu") else []) + (["exposure_time"] if unit.endswith("/s") else [])
    for key in needed:
        if key not in parts["image"]:
            raise CalexpMapError(f"{where}.image.{key}: an image in {unit} needs it (a keyword or a number)")
    zero_point = parts["zero_point"]
    if unit in FLUX_UNITS and ("keyword" in zero_point or "value" in zero_point):
        raise CalexpMapError(f"{where}.zero_point: an image in {unit} has none to give")
    if "keyword" in zero_point and "value" in zero_point:
        raise CalexpMapError(f"{where}.zero_point: give keyword or value, not both")


def _check_noise_and_mask(parts: Mapping[str, Mapping[str, Any]], where: str) -> None:
    noise, mask = parts["noise"], parts["mask"]
    if noise and noise.get("kind") not in NOISE_KINDS:
        raise CalexpMapError(
            f"{where}.noise.kind: expected one of {', '.join(NOISE_KINDS)}, found {noise.get('kind')!r}"
        )
    if "bits" in mask and "values" in mask:
        raise CalexpMapError(f"{where}.mask: give bits or values, not both")
    names = [*mask.get("bits", {}).values(), *mask.get("values", {}).values(), mask.get("other", "BAD")]
    for name in names:
        for one in [name] if isinstance(name, str) else name or []:
            if one not in STANDARD_PLANES:
                near = difflib.get_close_matches(str(one), STANDARD_PLANES, 1, 0.5)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise CalexpMapError(f"{where}.mask: {one!r} is no mask plane{hint}")


def import_calexp(
    image: str | Path,
    mapping: CalexpMap,
    *,
    noise: str | Path | None = None,
    mask: str | Path | None = None,
    psf: str | Path | None = None,
    values: Mapping[str, float] | None = None,
) -> Exposure:
    """Read a calibrated frame.

    Parameters
    ----------
    image : path
    mapping : CalexpMap
    noise, mask, psf : path, optional
        Instead of what the map makes of the image's name.
    values : mapping, optional
        Numbers that no header has and that go before the map: gain, exposure_time, zero_point,
        zero_point_error.

    Returns
    -------
    Exposure
        In electrons (in nJy when the image is in flux units), with WCS, PhotoCalib (`unknown` without a zero point)
        and PSF (None without one). Pixels of no weight have NO_DATA and infinite variance.

    Raises
    ------
    ProcessingFailure
        MISSING_FILE, UNREADABLE_FILE, WRONG_SHAPE (planes differ in size), NO_WCS, BAD_HEADER.
    """
    image = Path(image)
    pixels, header = _read_plane(image, mapping.image.get("extension"))
    frame = _Frame(image, mapping, header, dict(values or {}))
    origin = [int(frame.number(mapping.origin.get(key, 0), f"origin.{key}")) for key in ("x", "y")]
    box = Box(*origin, pixels.shape[1], pixels.shape[0])
    scale = frame.unit_scale()
    planes = frame.mask_of(mask, pixels.shape)
    variance = frame.variance_of(noise, pixels.shape, scale)
    sky = frame.number(mapping.image.get("sky", 0.0), "image.sky")
    finite = np.isfinite(pixels)
    signal = np.where(finite, (pixels.astype(np.float64) - sky) * scale, 0.0).astype(np.float32)
    planes.set("NO_DATA", ~np.isfinite(variance) | ~finite)
    variance[~finite] = np.inf
    return Exposure(
        image=signal,
        mask=planes,
        variance=variance,
        box=box,
        unit=NANOJANSKY if mapping.image["unit"] in FLUX_UNITS else ELECTRON,
        psf=frame.psf_of(psf, box),
        wcs=_wcs(header, box),
        photo_calib=frame.photo_calib(scale),
        info=frame.info(),
    )


class _Frame:
    """One frame's files and header through a map."""

    def __init__(
        self, path: Path, mapping: CalexpMap, header: Mapping[str, Any], values: dict[str, float]
    ) -> None:
        self.path, self.mapping, self.header, self.values = path, mapping, header, values

    def bad(self, text: str) -> ProcessingFailure:
        return ProcessingFailure(Reason.BAD_HEADER, f"{self.path.name}: {text}")

    def number(self, source: Any, name: str) -> float:
        """A number as it is, or the value of a keyword."""
        value = self.header.get(source) if isinstance(source, str) else source
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            said = f"keyword {source} is {value!r}" if isinstance(source, str) else f"is {value!r}"
            raise self.bad(f"{name}: {said}, expected a number")
        return float(value)

    def named(self, name: str) -> float:
        """A positive number of the image: given by the caller, else by the map."""
        if name in self.values:
            value = float(self.values[name])
        else:
            value = self.number(self.mapping.image[name], f"image.{name}")
        if not value > 0:
            raise self.bad(f"image.{name} is {value:g}, expected more than 0")
        return value

    def unit_scale(self) -> float:
        """Electrons (or nJy) per unit of the image."""
        unit = self.mapping.image["unit"]
        if unit in FLUX_UNITS:
            return FLUX_UNITS[unit]
        gain = self.named("gain") if unit.startswith("adu") else 1.0
        return gain * (self.named("exposure_time") if unit.endswith("/s") else 1.0)

    def photo_calib(self, scale: float) -> PhotoCalib:
        """nJy per electron from the magnitude of one unit of the image."""
        if self.mapping.image["unit"] in FLUX_UNITS:
            return PhotoCalib(1.0)
        zero_point = self.mapping.zero_point
        if "zero_point" in self.values:
            magnitude = float(self.values["zero_point"])
        elif "keyword" in zero_point or "value" in zero_point:
            magnitude = self.number(zero_point.get("keyword", zero_point.get("value")), "zero_point")
        else:
            return PhotoCalib.unknown()
        error = self.values.get("zero_point_error")
        if error is None:
            error = self.number(zero_point.get("error", 0.0), "zero_point.error")
        mean = 10.0 ** (0.4 * (AB_ZERO_POINT - magnitude)) / scale
        if zero_point.get("per_second", False):
            # one unit per second of the whole exposure
            mean /= self.named("exposure_time")
        return PhotoCalib(mean, mean * np.log(10.0) / 2.5 * float(error))

    def sibling(self, part: Mapping[str, Any]) -> Path | None:
        """File of another plane: named by the map, or made of the image's name."""
        if "path" in part:
            names = {"stem": self.path.name.split(".fit")[0], "name": self.path.name}
            return self.path.parent / str(part["path"]).format(**names)
        if "replace" in part:
            name = self.path.name
            for old, new in part["replace"].items():
                if old not in name:
                    raise self.bad(f"the name lacks {old!r}, which the map replaces by {new!r}")
                name = name.replace(old, new)
            return self.path.with_name(name)
        return self.path if "extension" in part else None

    def plane(self, given: str | Path | None, part: Mapping[str, Any], shape: tuple, what: str) -> np.ndarray:
        path = Path(given) if given is not None else self.sibling(part)
        assert path is not None
        plane, _ = _read_plane(path, part.get("extension"))
        if plane.shape != shape:
            raise ProcessingFailure(
                Reason.WRONG_SHAPE,
                f"{path.name}: the {what} has shape {plane.shape}, expected {shape} of {self.path.name}",
            )
        return plane

    def variance_of(self, given: str | Path | None, shape: tuple, scale: float) -> np.ndarray:
        """Variance [electron^2 or nJy^2], infinite where there is no weight."""
        part = self.mapping.noise
        kind = part.get("kind", "weight")
        if given is None and "value" in part:
            plane = np.full(shape, self.number(part["value"], "noise.value"))
        elif given is None and self.sibling(part) is None:
            raise self.bad("no noise: give noise.path, replace, extension or value in the map, or a file")
        else:
            plane = self.plane(given, part, shape, "noise").astype(np.float64)
        good = np.isfinite(plane) & (plane > 0)
        variance = np.full(shape, np.inf, np.float32)
        safe = plane[good]
        variance[good] = (
            scale**2
            * {"weight": lambda: 1.0 / safe, "variance": lambda: safe, "sigma": lambda: safe**2}[kind]()
        )
        return variance

    def mask_of(self, given: str | Path | None, shape: tuple) -> Mask:
        """Mask with the planes that the map names; flags it does not know go to `other`."""
        mask, part = Mask.blank(shape), self.mapping.mask
        if given is None and self.sibling(part) is None:
            return mask
        flags = self.plane(given, part, shape, "mask").astype(np.int64)
        other = part.get("other", "BAD")
        if "values" in part:
            known = np.zeros(shape, bool)
            for value, names in part["values"].items():
                where = flags == int(value)
                known |= where
                if names:
                    mask.set(names, where)
            unknown = (flags != 0) & ~known
        else:
            remaining = flags.copy()
            for bit, names in part.get("bits", {}).items():
                where = flags >> int(bit) & 1 != 0
                remaining &= ~(1 << int(bit))
                if names:
                    mask.set(names, where)
            unknown = remaining != 0
        if other:
            mask.set(other, unknown)
        return mask

    def psf_of(self, given: str | Path | None, box: Box) -> PolynomialPsf | None:
        part = self.mapping.psf
        path = Path(given) if given is not None else self.sibling(part)
        if path is None:
            return None
        row = {column: self.header.get(key, key) for column, key in part.get("row", {}).items()}
        return read_psfex(path, box, part.get("extension"), row)

    def info(self) -> dict[str, Any]:
        found = {}
        for name, source in self.mapping.info.items():
            item = source if isinstance(source, Mapping) else {"keyword": source}
            value = item["value"] if "value" in item else self.header.get(item.get("keyword"))
            if value is None:
                raise self.bad(f"info.{name}: keyword {item.get('keyword')} is not in the header")
            value = value.strip() if isinstance(value, str) else value
            if "map" in item:
                value = self.mapped(name, value, item["map"])
            found[name] = value
        return found

    def mapped(self, name: str, value: Any, table: Mapping[Any, Any]) -> Any:
        for pattern, ours in table.items():
            if fnmatch.fnmatchcase(str(value), str(pattern)):
                return ours
        raise self.bad(f"info.{name}: {value!r} is not in its map ({', '.join(map(str, table))})")


def _wcs(header: Mapping[str, Any], box: Box) -> Any:
    from skyquilt.primitives.wcs import Wcs

    return Wcs.from_fits_header(header, box.x0, box.y0)


def _read_plane(path: Path, extension: str | int | None) -> tuple[np.ndarray, dict[str, Any]]:
    """An image, and its header over the primary's; the first image by default."""
    with opened(path) as hdus:
        try:
            if extension is None:
                hdu = next(hdu for hdu in hdus if hdu.is_image and hdu.header["NAXIS"] == 2)
            else:
                hdu = hdus[extension]
            data = hdu.data
        except (KeyError, IndexError, StopIteration) as error:
            what = "no image" if extension is None else f"no extension {extension!r}"
            raise ProcessingFailure(Reason.WRONG_SHAPE, f"{path.name}: {what}") from error
        except (OSError, TypeError, ValueError) as error:
            raise ProcessingFailure(Reason.UNREADABLE_FILE, f"{path.name}: {error}") from error
        if data is None or data.ndim != 2:
            raise ProcessingFailure(
                Reason.WRONG_SHAPE, f"{path.name}: extension {extension!r} holds no image of two axes"
            )
        header = {
            key: value for key, value in hdus[0].header.items() if key not in ("", "COMMENT", "HISTORY")
        }
        header |= {key: value for key, value in hdu.header.items() if key not in ("", "COMMENT", "HISTORY")}
    return np.array(data), header
