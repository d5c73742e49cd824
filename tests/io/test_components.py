"""Component files (LDM-151 9.1.1)."""

import json
import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skyquilt.io.components import read_components, read_provenance, write_components
from skyquilt.primitives.background import Background, ConstantLayer, MeshLayer
from skyquilt.primitives.component import State, register
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.photo_calib import PhotoCalib


@register("test_anything")
@dataclass(frozen=True)
class Anything:
    """A component that is nothing but its state."""

    state: State

    def to_state(self) -> State:
        """The state itself."""
        return self.state

    @classmethod
    def from_state(cls, state: State) -> "Anything":
        """Hold the state."""
        return cls(state)


DTYPES = [
    np.bool_,
    np.uint8,
    np.int16,
    np.int32,
    np.int64,
    np.float32,
    np.float64,
    np.complex64,
    np.complex128,
]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
ARRAYS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_./]{0,12}", fullmatch=True).filter(lambda name: name != "meta"),
    st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)),
    max_size=4,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ARRAYS, st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_any_state_comes_back(tmp_path, arrays, meta):
    """Arrays of every storable dtype and shape (empty and 0-d too) and any JSON (NaN too) survive a file."""
    path = tmp_path / "any.fits"
    state = State("test_anything", meta, arrays)
    write_components(path, {3: Anything(state)})
    again = read_components(path)[3].state
    assert again == state
    for name, array in arrays.items():
        assert again.arrays[name].tobytes() == np.ascontiguousarray(array).tobytes()
        assert again.arrays[name].dtype.isnative


def visit():
    """Two detectors' backgrounds, one of them with kept pixels, NaN among them."""
    box = Box(0, 0, 8, 6)
    image = np.full(box.shape, 0.1, dtype=np.float32)
    image[0] = np.nan
    _, kept = Background((ConstantLayer(1000.3),)).subtract(image, box)
    return {12: kept, 4: Background((MeshLayer.over(box, np.arange(6.0).reshape(2, 3)), ConstantLayer(-1.0)))}


def test_a_visit_comes_back_whole_or_in_part(tmp_path):
    """All detectors, or those asked for; provenance beside them."""
    path = tmp_path / "background.fits"
    components = visit()
    write_components(path, components, {"release": "r1", "inputs": [{"name": "a", "sum": "ff"}]})
    assert read_components(path) == components
    assert list(read_components(path)) == [4, 12]
    assert read_components(path, [12]) == {12: components[12]}
    assert read_provenance(path) == {"release": "r1", "inputs": [{"name": "a", "sum": "ff"}]}
    with pytest.raises(KeyError, match=r"detectors \[5\].*DETECTOR_4"):
        read_components(path, [4, 5])


def test_other_tools_see_columns_and_json(tmp_path):
    """EXTNAME, one row, array columns with TDIM, standard JSON in META, and checksums that hold."""
    path = tmp_path / "background.fits"
    write_components(path, visit())
    with fits.open(path, checksum=True) as hdus:
        table = hdus["DETECTOR_4"]
        assert len(table.data) == 1
        assert table.data["layer0.values"][0].shape == (2, 3)
        assert table.header["TDIM2"] == "(3,2)"
        meta = json.loads(table.data["META"][0], parse_constant=pytest.fail)
        assert meta["kind"] == "background"


def test_bytes_depend_on_the_content_only(tmp_path):
    """The same components, given in another order, make the same bytes; nothing in the file is a date."""
    components = visit()
    write_components(tmp_path / "one.fits", components)
    write_components(tmp_path / "two.fits", dict(sorted(components.items())))
    content = (tmp_path / "one.fits").read_bytes()
    assert content == (tmp_path / "two.fits").read_bytes()
    assert not re.search(rb"DATE|\d{4}-\d\d-\d\d", content)


def test_nan_calibrations_survive(tmp_path):
    """A detector without a zero point keeps its NaN."""
    path = tmp_path / "photo_calib.fits"
    write_components(path, {0: PhotoCalib.unknown(), 1: PhotoCalib(2.0, 0.1)})
    again = read_components(path)
    assert math.isnan(again[0].mean)
    assert again[1] == PhotoCalib(2.0, 0.1)


def test_what_cannot_be_stored_is_refused(tmp_path):
    """Strings as arrays, names that differ in case only, and gzipped names are errors; no file is left."""
    path = tmp_path / "x.fits"
    for arrays, message in (
        ({"a": np.array(["text"])}, "storable"),
        ({"a": np.zeros(1), "A": np.zeros(1)}, "taken"),
        ({"meta": np.zeros(1)}, "taken"),
    ):
        with pytest.raises(ValueError, match=message):
            write_components(path, {0: Anything(State("test_anything", {}, arrays))})
    with pytest.raises(ValueError, match="reading only"):
        write_components(tmp_path / "x.fits.gz", {})
    assert list(tmp_path.iterdir()) == []
