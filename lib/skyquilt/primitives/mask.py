"""Masks (LDM-151 9.1.1): an integer image whose bits have names.

The place of a plane in the integer is a matter of one mask only: planes are asked for by name, and masks with
different places combine by name. A mask has at most 31 planes (the sign bit is left alone).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skyquilt.primitives.geometry import Box

MAX_PLANES = 31

_ROWS = 256

STANDARD_PLANES: dict[str, str] = {
    "BAD": "Defect of the detector, or response too far from its neighbours'.",
    "SATURATED": "Full well or converter limit reached, or bled into.",
    "INTERPOLATED": "Value made from neighbouring pixels.",
    "COSMIC_RAY": "Hit by a cosmic ray.",
    "DETECTION_EDGE": "Too near to the edge for the detection kernel.",
    "DETECTED": "In a footprint above the detection threshold.",
    "DETECTED_NEGATIVE": "In a footprint below the negative threshold.",
    "SUSPECT": "Response uncertain, such as above the linear range.",
    "NO_DATA": "No information: outside of every input, or not read out.",
    "VIGNETTED": "Light path partly blocked.",
    "CROSSTALK": "Changed by the correction for crosstalk.",
    "NOT_DEBLENDED": "In a blend that was not taken apart.",
    "SPIKE": "In the diffraction spike of a bright star.",
    "STREAK": "In the trail of a satellite or aeroplane.",
    "GHOST": "In a reflection within the camera.",
    "SAT_TEMPLATE": "Saturated in the template of a difference image.",
    "INJECTED": "An artificial source was added here.",
    "UNMASKED_NAN": "Not finite although no other plane said why.",
}
"""Planes of every image, with what they mean; their order is the order of bits in a blank mask."""

COADD_PLANES: dict[str, str] = {
    "CLIPPED": "Left out of an input by outlier rejection.",
    "REJECTED": "An input was left out here because its mask said so.",
    "INEXACT_PSF": "The coadd's PSF does not hold: inputs differ within its size.",
    "SENSOR_EDGE": "The edge of an input's detector passes here.",
}
"""Planes that coadds have besides the standard ones."""

_TEXTS = STANDARD_PLANES | COADD_PLANES


@dataclass(eq=False)
class Mask:
    """Integer image with named bits. Changed in place by `set`, `clear` and the methods for planes.

    Parameters
    ----------
    array : ndarray of int32, shape (ny, nx)
        Taken as it is, not copied.
    planes : dict of str to int, optional
        Bit number (0..30) of each plane; by default the standard planes in their order.
    texts : dict of str to str, optional
        What a plane means; by default the text of the standard plane of that name.

    Raises
    ------
    TypeError
        When the array is not int32.
    ValueError
        When two planes share a bit, or a bit is not in 0..30.
    """

    array: np.ndarray
    planes: dict[str, int] | None = None
    texts: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if self.array.dtype != np.int32 or self.array.ndim != 2:
            raise TypeError(f"a mask is int32 with shape (ny, nx), got {self.array.dtype} {self.array.shape}")
        if self.planes is None:
            self.planes = {name: bit for bit, name in enumerate(STANDARD_PLANES)}
        _check_planes(self.planes)
        if self.texts is None:
            self.texts = {}
        for name in self.planes:
            self.texts.setdefault(name, _TEXTS.get(name, ""))

    @classmethod
    def blank(cls, shape: tuple[int, int], planes: Iterable[str] = tuple(STANDARD_PLANES)) -> Mask:
        """A mask with no bit set, its planes on bits 0, 1, ... in the order given.

        A coadd's mask: ``Mask.blank(shape, [*STANDARD_PLANES, *COADD_PLANES])``.
        """
        named = list(planes)
        if len(named) > MAX_PLANES:
            raise ValueError(f"a mask has at most {MAX_PLANES} planes, got {len(named)}")
        return cls(np.zeros(shape, dtype=np.int32), {name: bit for bit, name in enumerate(named)})

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx)."""
        return self.array.shape

    def copy(self) -> Mask:
        """A mask with pixels and planes of its own."""
        return Mask(self.array.copy(), dict(self.planes), dict(self.texts))

    def bit(self, name: str) -> int:
        """Value (1 << bit number) of one plane.

        Raises
        ------
        KeyError
            When the mask has no such plane.
        """
        if name not in self.planes:
            near = difflib.get_close_matches(name, self.planes, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise KeyError(f"no mask plane {name!r}{hint} (this mask has {', '.join(self.planes)})")
        return 1 << self.planes[name]

    def bits(self, names: str | Iterable[str], *, missing_ok: bool = False) -> int:
        """Sum of the values of planes; with `missing_ok` planes that the mask lacks count as never set."""
        total = 0
        for name in [names] if isinstance(names, str) else names:
            if not (missing_ok and name not in self.planes):
                total |= self.bit(name)
        return total

    def any(self, names: str | Iterable[str] | None = None, *, missing_ok: bool = False) -> np.ndarray:
        """Pixels with at least one of the planes set (None: of all planes); bool, shape (ny, nx)."""
        if names is None:
            names = list(self.planes)
        bits = np.int32(self.bits(names, missing_ok=missing_ok))
        found = np.empty(self.shape, dtype=bool)
        # a few rows at a time: no second integer image of a whole detector is held
        for start in range(0, self.shape[0], _ROWS):
            rows = slice(start, start + _ROWS)
            np.not_equal(self.array[rows] & bits, 0, out=found[rows])
        return found

    def all(self, names: str | Iterable[str]) -> np.ndarray:
        """Pixels with every one of the planes set; bool, shape (ny, nx)."""
        wanted = np.int32(self.bits(names))
        return (self.array & wanted) == wanted

    def count(self, names: str | Iterable[str], *, missing_ok: bool = False) -> int:
        """Number of pixels with at least one of the planes set."""
        return int(np.count_nonzero(self.any(names, missing_ok=missing_ok)))

    def counts(self) -> dict[str, int]:
        """Number of pixels of each plane."""
        return {name: self.count(name) for name in self.planes}

    def set(self, names: str | Iterable[str], where: Any = ...) -> None:
        """Set planes where a bool image (or any NumPy index) says; everywhere by default."""
        bits = np.int32(self.bits(names))
        if _is_image(where, self.shape):
            np.bitwise_or(self.array, bits, out=self.array, where=where)
        else:
            self.array[where] |= bits

    def clear(self, names: str | Iterable[str], where: Any = ...) -> None:
        """Unset planes where a bool image (or any NumPy index) says; everywhere by default."""
        keep = np.int32(~self.bits(names))
        if _is_image(where, self.shape):
            np.bitwise_and(self.array, keep, out=self.array, where=where)
        else:
            self.array[where] &= keep

    def add_plane(self, name: str, text: str | None = None) -> int:
        """Make sure that a plane is there, on the lowest free bit; returns the bit number.

        An existing plane keeps its bit, and its text unless a new one is given.

        Raises
        ------
        ValueError
            When all 31 bits are taken.
        """
        if name not in self.planes:
            free = sorted(set(range(MAX_PLANES)) - set(self.planes.values()))
            if not free:
                raise ValueError(
                    f"no bit is left for mask plane {name!r}: a mask has at most {MAX_PLANES} planes "
                    f"({', '.join(self.planes)}); remove one first"
                )
            _check_name(name)
            self.planes[name] = free[0]
            self.texts[name] = _TEXTS.get(name, "") if text is None else text
        elif text is not None:
            self.texts[name] = text
        return self.planes[name]

    def remove_plane(self, name: str) -> None:
        """Unset a plane everywhere and free its bit. On a view, the rest of the parent keeps the bit set."""
        self.clear(name)
        del self.planes[name], self.texts[name]

    def rename_plane(self, name: str, new_name: str) -> None:
        """Give a plane another name; its bit, pixels and text stay.

        Raises
        ------
        ValueError
            When another plane has the new name.
        """
        self.bit(name)
        if new_name == name:
            return
        if new_name in self.planes:
            raise ValueError(f"mask plane {name!r} cannot become {new_name!r}: that plane exists")
        _check_name(new_name)
        for table in (self.planes, self.texts):
            # rebuilt in place: views share the dictionaries, and the order of planes stays
            items = [(new_name if key == name else key, value) for key, value in table.items()]
            table.clear()
            table.update(items)

    def remapped(self, planes: Mapping[str, int]) -> Mask:
        """A copy with the bits where `planes` puts them.

        Raises
        ------
        KeyError
            When a plane of this mask has no place in `planes`.
        """
        lost = [name for name in self.planes if name not in planes]
        if lost:
            raise KeyError(f"mask planes {lost} have no bit in {dict(planes)}")
        texts = {name: self.texts.get(name, _TEXTS.get(name, "")) for name in planes}
        return Mask(_moved(self.array, self.planes, planes), dict(planes), texts)

    def combine(self, other: Mask) -> None:
        """Set here what is set in another mask of the same shape; planes match by name, new ones are added.

        Raises
        ------
        ValueError
            When the shapes differ, or the planes of both do not fit into 31 bits (nothing is changed then).
        """
        if other.shape != self.shape:
            raise ValueError(f"a mask of shape {other.shape} does not combine with one of {self.shape}")
        together = {*self.planes, *other.planes}
        if len(together) > MAX_PLANES:
            raise ValueError(f"{len(together)} mask planes together; a mask has at most {MAX_PLANES}")
        for name in other.planes:
            self.add_plane(name, None if name in self.planes else other.texts.get(name))
        self.array |= _moved(other.array, other.planes, self.planes)

    def subimage(self, box: Box, parent: Box) -> Mask:
        """View of the pixels of `box`; pixels and planes are shared with this mask, which covers `parent`."""
        view = Mask(self.array[box.slices(parent)], self.planes, self.texts)
        return view

    def same_as(self, other: Mask) -> bool:
        """True when both have the same planes, texts and pixels, wherever the bits are."""
        if (
            self.shape != other.shape
            or self.planes.keys() != other.planes.keys()
            or self.texts != other.texts
        ):
            return False
        return np.array_equal(self.array, _moved(other.array, other.planes, self.planes))

    def to_cards(self) -> list[tuple[str, Any, str]]:
        """FITS cards (keyword, value, comment): MSKN, MSKM, MSKD per plane, then MP_<PLANE>."""
        cards: list[tuple[str, Any, str]] = []
        ordered = sorted(self.planes.items(), key=lambda item: item[1])
        for name, bit in ordered:
            cards.append((f"MSKN{bit:04d}", name, "mask plane"))
            cards.append((f"MSKM{bit:04d}", 1 << bit, "its value in the mask"))
            cards.append((f"MSKD{bit:04d}", self.texts.get(name, ""), ""))
        for name, bit in ordered:
            keyword = f"MP_{name}"
            cards.append((keyword if len(keyword) <= 8 else f"HIERARCH {keyword}", bit, ""))
        return cards

    @classmethod
    def from_cards(cls, array: np.ndarray, header: Mapping[str, Any]) -> Mask:
        """Mask from its pixels and header: MSKN/MSKM/MSKD cards where there are any, else MP_<PLANE>.

        Raises
        ------
        ValueError
            When the header names no plane, or a plane's value is not one bit.
        """
        keys = [str(key) for key in header]
        numbers = [key.removeprefix("MSKN") for key in keys if key.startswith("MSKN")]
        if numbers:
            planes = {str(header[f"MSKN{n}"]): _bit_number(header, n) for n in numbers}
            texts = {str(header[f"MSKN{n}"]): str(header.get(f"MSKD{n}", "")) for n in numbers}
            return cls(array, planes, texts)
        planes = {key.removeprefix("MP_"): int(header[key]) for key in keys if key.startswith("MP_")}
        if not planes:
            raise ValueError("the header has neither MSKNnnnn nor MP_<PLANE> cards: mask bits have no names")
        return cls(array, planes)


def _bit_number(header: Mapping[str, Any], number: str) -> int:
    value = int(header.get(f"MSKM{number}", 1 << int(number)))
    if value <= 0 or value & (value - 1):
        raise ValueError(f"MSKM{number} = {value} is not the value of one bit")
    return value.bit_length() - 1


def _check_planes(planes: Mapping[str, int]) -> None:
    if len(set(planes.values())) != len(planes):
        raise ValueError(f"two mask planes share a bit: {dict(planes)}")
    for name, bit in planes.items():
        _check_name(name)
        if not 0 <= bit < MAX_PLANES:
            raise ValueError(f"mask plane {name!r} has bit {bit}; it must be in 0..{MAX_PLANES - 1}")


def _check_name(name: str) -> None:
    # FITS keywords hold these only; lower case would not come back from MP_ cards
    if not name or not all(c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-" for c in name):
        raise ValueError(f"a mask plane's name has capitals, digits, '_' and '-' only, got {name!r}")


def _is_image(where: Any, shape: tuple[int, int]) -> bool:
    return isinstance(where, np.ndarray) and where.dtype == np.bool_ and where.shape == shape


def _moved(array: np.ndarray, source: Mapping[str, int], target: Mapping[str, int]) -> np.ndarray:
    """New array with the bits of `source` where `target` has them; bits without a name are dropped."""
    moves: dict[int, int] = {}
    for name, bit in source.items():
        shift = target[name] - bit
        moves[shift] = moves.get(shift, 0) | 1 << bit
    moved = np.zeros(array.shape, dtype=np.int32)
    for shift, bits in moves.items():
        chosen = array & np.int32(bits)
        moved |= chosen << np.int32(shift) if shift >= 0 else chosen >> np.int32(-shift)
    return moved
