"""Data Units (LDM-151 2.3): how visits, detectors, tracts, patches and rows are numbered.

Row ids are signed 64-bit and never negative. A source id packs (from the highest bit) the visit, the
detector and the number within the detector; an object id packs tract, patch and number. Visit numbers come
from headers, or from the time of exposure by a rule in the camera's YAML, never from the order of ingest.

========  =====================================================  ==========================
id        fields and bits                                        capacity
========  =====================================================  ==========================
source    visit 36, detector 9, number 18                        6.8e10, 512, 262,144
object    tract 20, patch 17, number 26                          1.0e6, 131,072, 6.7e7
========  =====================================================  ==========================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class IdPacking:
    """Pack non-negative integers into one int64, highest field first.

    Parameters
    ----------
    fields : tuple of (str, int)
        Name and width in bits; the widths add up to 63 or less.
    """

    fields: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        total = sum(bits for _, bits in self.fields)
        if total > 63:
            raise ValueError(f"fields {self.fields} need {total} bits; an int64 id has 63")

    def capacity(self, name: str) -> int:
        """Number of different values of one field."""
        return 1 << dict(self.fields)[name]

    def pack(self, **values: int | np.ndarray) -> np.ndarray:
        """Ids, int64, broadcast over the values given.

        Raises
        ------
        ValueError
            When a value is negative or does not fit into its field.
        """
        packed = np.zeros((), dtype=np.int64)
        for name, bits in self.fields:
            value = np.asarray(values.pop(name), dtype=np.int64)
            if value.size and (value.min() < 0 or value.max() >= 1 << bits):
                raise ValueError(f"{name} must be in 0..{(1 << bits) - 1}, got {value.min()}..{value.max()}")
            packed = (packed << bits) | value
        if values:
            raise ValueError(f"unknown id fields {sorted(values)}; known: {[n for n, _ in self.fields]}")
        return packed

    def unpack(self, ids: int | np.ndarray) -> dict[str, np.ndarray]:
        """Field values of ids, as int64 arrays."""
        rest = np.asarray(ids, dtype=np.int64)
        values: dict[str, np.ndarray] = {}
        for name, bits in reversed(self.fields):
            values[name] = rest & ((1 << bits) - 1)
            rest = rest >> bits
        return values


SOURCE_ID = IdPacking((("visit", 36), ("detector", 9), ("number", 18)))
OBJECT_ID = IdPacking((("tract", 20), ("patch", 17), ("number", 26)))
