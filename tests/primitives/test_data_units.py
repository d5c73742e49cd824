"""Data units (LDM-151 2.3): ids pack and unpack."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyquilt.primitives.data_units import OBJECT_ID, SOURCE_ID, IdPacking


@given(st.integers(0, 2**36 - 1), st.integers(0, 511), st.integers(0, 2**18 - 1))
@settings(max_examples=50, deadline=None)
def test_source_ids_round_trip(visit, detector, number):
    """Every visit, detector and number comes back from the id, which is a non-negative int64."""
    packed = SOURCE_ID.pack(visit=visit, detector=detector, number=number)
    assert packed.dtype == np.int64
    assert packed == (visit * 512 + detector) * 2**18 + number
    assert {name: int(value) for name, value in SOURCE_ID.unpack(packed).items()} == {
        "visit": visit,
        "detector": detector,
        "number": number,
    }


@pytest.mark.parametrize("packing", [SOURCE_ID, OBJECT_ID])
def test_extremes_fit(packing):
    """The largest value of all fields together is the largest int64, and zeros are zero."""
    top = packing.pack(**{name: packing.capacity(name) - 1 for name, _ in packing.fields})
    assert int(top) == 2**63 - 1
    assert int(packing.pack(**{name: 0 for name, _ in packing.fields})) == 0


def test_ids_are_broadcast_and_ordered():
    """Numbers of one detector give consecutive ids, ordered by visit, then detector, then number."""
    ids = SOURCE_ID.pack(visit=np.array([[1], [2]]), detector=3, number=np.arange(4))
    assert ids.shape == (2, 4)
    assert (np.diff(ids.ravel()) > 0).all()
    assert (np.diff(ids, axis=1) == 1).all()
    assert SOURCE_ID.pack(visit=1, detector=0, number=np.array([], dtype=int)).shape == (0,)


@pytest.mark.parametrize("wrong", [{"detector": 512}, {"detector": -1}, {"number": 2**18}, {"visit": 2**36}])
def test_what_does_not_fit_is_refused(wrong):
    """A value outside its field is refused by name, rather than spill into its neighbour."""
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be in 0"):
        SOURCE_ID.pack(**({"visit": 1, "detector": 1, "number": 1} | wrong))


def test_unknown_and_missing_fields_are_refused():
    """Fields must be those of the packing, and no packing exceeds 63 bits."""
    with pytest.raises(ValueError, match="unknown id fields"):
        OBJECT_ID.pack(tract=1, patch=1, number=1, visit=1)
    with pytest.raises(KeyError, match="patch"):
        OBJECT_ID.pack(tract=1, number=1)
    with pytest.raises(ValueError, match="64 bits"):
        IdPacking((("a", 32), ("b", 32)))
