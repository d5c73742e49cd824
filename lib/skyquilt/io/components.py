"""Component files (LDM-151 9.1.1): PSF, WCS, PhotoCalib or Background of a visit, a HDU per detector.

A component's State becomes one row of a binary table: a column per array (its shape in TDIM), and a column
META with JSON: the kind, the metadata, and dtype and shape of each array. Bytes depend on the content only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skyquilt.io.atomic import atomic_path
from skyquilt.primitives.component import State, from_state

META = "META"
INPUTS = "INPUTS"
_FORMATS = {
    "b1": "L",
    "u1": "B",
    "i2": "I",
    "i4": "J",
    "i8": "K",
    "f4": "E",
    "f8": "D",
    "c8": "C",
    "c16": "M",
}


def write_components(
    path: str | Path, components: Mapping[int, Any], provenance: dict[str, Any] | None = None
) -> None:
    """Write the components of a visit, atomically.

    Parameters
    ----------
    path : path
        Such as psf.fits.
    components : dict of int to component
        By detector id; HDUs (EXTNAME DETECTOR_<id>) come in the order of the ids.
    provenance : dict, optional
        What JSON holds; goes into the HDU INPUTS.
    """
    from astropy.io import fits

    hdus = [fits.PrimaryHDU(), json_hdu(INPUTS, {"provenance": provenance or {}})]
    hdus += [state_hdu(_extension(i), components[i].to_state()) for i in sorted(components)]
    with atomic_path(path) as temporary:
        write_hdus(temporary, hdus)


def read_components(path: str | Path, ids: Iterable[int] | None = None) -> dict[int, Any]:
    """Read the components of a visit.

    Parameters
    ----------
    path : path
    ids : iterable of int, optional
        Detectors wanted; by default all.

    Raises
    ------
    KeyError
        When a wanted detector is not in the file, or a component's kind is not known.
    """
    from astropy.io import fits

    with fits.open(path) as hdus:
        there = [hdu.name for hdu in hdus if hdu.name.startswith("DETECTOR_")]
        wanted = [int(name.removeprefix("DETECTOR_")) for name in there] if ids is None else list(ids)
        missing = [i for i in wanted if _extension(i) not in there]
        if missing:
            raise KeyError(f"{path} has no component of detectors {missing}; it has {', '.join(there)}")
        return {i: from_state(hdu_state(hdus[_extension(i)])) for i in wanted}


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance of a file of components or of an Exposure."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        return hdu_json(hdus[INPUTS])["provenance"]


def state_hdu(name: str, state: State) -> Any:
    """Binary table HDU of one row that holds a State.

    Raises
    ------
    ValueError
        When an array's dtype has no FITS format, or two names differ in case only.
    """
    described = {}
    values = {}
    folded = {META.lower()}
    for key, array in state.arrays.items():
        array = np.asarray(array)
        if array.dtype.kind + str(array.dtype.itemsize) not in _FORMATS:
            raise ValueError(
                f"array {key!r} of a {state.kind} is {array.dtype}; storable: {', '.join(_FORMATS)}"
            )
        if key.lower() in folded:
            raise ValueError(f"array name {key!r} of a {state.kind} is taken (FITS columns ignore case)")
        folded.add(key.lower())
        described[key] = {"dtype": array.dtype.kind + str(array.dtype.itemsize), "shape": list(array.shape)}
        if array.size:
            values[key] = array
    return _row_hdu(name, {"kind": state.kind, "meta": state.meta, "arrays": described}, values)


def hdu_state(hdu: Any) -> State:
    """The State that `state_hdu` stored."""
    content = hdu_json(hdu)
    arrays = {}
    for key, described in content["arrays"].items():
        dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
        stored = hdu.data[key][0] if math.prod(shape) else np.zeros(shape)
        # a new array in the machine's byte order, which outlives the file
        arrays[key] = np.array(stored, dtype=dtype).reshape(shape)
    return State(content["kind"], content["meta"], arrays)


def json_hdu(name: str, content: Any) -> Any:
    """Binary table HDU whose only value is JSON."""
    return _row_hdu(name, content, {})


def hdu_json(hdu: Any) -> Any:
    """The JSON content of a HDU made here."""
    text = hdu.data[META][0]
    return _from_json(json.loads(text))


def write_hdus(path: str | Path, hdus: list[Any]) -> None:
    """Write HDUs with DATASUM and CHECKSUM cards and nothing that depends on time or machine.

    Raises
    ------
    ValueError
        For a path that ends in .gz: gzip files carry the time and name of their making.
    """
    from astropy.io import fits

    if str(path).endswith(".gz"):
        raise ValueError(f"{path}: whole-file gzip is for reading only")
    # set now, because astropy would add it after the checksum of the primary header
    hdus[0].header.set("EXTEND", True, after="NAXIS")
    # by this a file that ends early, but at the end of a HDU, is known
    hdus[0].header["NEXTEND"] = (len(hdus) - 1, "number of extensions")
    for hdu in hdus:
        # a comment of our own: astropy's holds the date
        hdu.add_checksum(when="depends on the content only")
    fits.HDUList(hdus).writeto(path, output_verify="exception")


def _extension(detector_id: int) -> str:
    return f"DETECTOR_{detector_id}"


def _row_hdu(name: str, content: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    from astropy.io import fits

    text = json.dumps(_to_json(content), sort_keys=False, allow_nan=False).encode("ascii")
    columns = [fits.Column(META, f"{len(text)}A", array=np.array([text]))]
    for key, array in arrays.items():
        code = _FORMATS[array.dtype.kind + str(array.dtype.itemsize)]
        dimensions = f"({','.join(map(str, array.shape[::-1]))})" if array.ndim > 1 else None
        columns.append(fits.Column(key, f"{array.size}{code}", dim=dimensions, array=array[np.newaxis]))
    return fits.BinTableHDU.from_columns(columns, name=name)


def _to_json(value: Any) -> Any:
    """JSON has no NaN and infinities: they become {"$float": "nan"}."""
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$float"}:
            return float(value["$float"])
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return value
