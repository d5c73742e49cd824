"""Crosstalk and linearity: read-out order, coefficients, tables."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.instrument_signature_removal.crosstalk import (
    CrosstalkConfig,
    correct_crosstalk_and_linearity,
    correct_read_out,
    read_out_order,
    read_out_table,
)
from skyquilt.instrument.camera import CORNERS, Amplifier, Detector
from skyquilt.primitives.detector_characterization import Crosstalk, Linearizer
from skyquilt.primitives.geometry import Box


def amplifier(name, data, corner, as_read, prescan=3):
    """Amplifier with a prescan, stored as read or as assembled."""
    right, upper = corner.endswith("right"), corner.startswith("upper")
    over = 5
    mirrored = right and not as_read
    raw_data = Box(over if mirrored else prescan, 0, data.nx, data.ny)
    return Amplifier(
        name,
        None,
        Box(0, 0, prescan + data.nx + over, data.ny),
        raw_data,
        None,
        None,
        None,
        data,
        right and as_read,
        upper and as_read,
        1.5,
        5.0,
        60000.0,
        read_out=corner,
    )


def four(corners, as_read, wide=20):
    """Four amplifiers of a 40 x 24 detector; the left ones are `wide` columns."""
    boxes = (
        Box(0, 0, wide, 12),
        Box(wide, 0, 40 - wide, 12),
        Box(0, 12, wide, 12),
        Box(wide, 12, 40 - wide, 12),
    )
    parts = tuple(amplifier(f"A{k}", box, corners[k], as_read, 3 + k % 2) for k, box in enumerate(boxes))
    return Detector(0, "D", "science", 40, 24, 0.01, (0.0, 0.0), 0.0, parts)


def read_times(detector):
    """Brute force: (row, column) of the read-out of each assembled pixel, by walking away from the output."""
    rows, columns = np.empty((2, 24, 40), int)
    owner = np.empty((24, 40), int)
    for number, each in enumerate(detector.amplifiers):
        box = each.data
        prescan = 3 + number % 2
        for y in range(box.y0, box.y1):
            for x in range(box.x0, box.x1):
                down = box.y1 - 1 - y if each.read_out.startswith("upper") else y - box.y0
                right = box.x1 - 1 - x if each.read_out.endswith("right") else x - box.x0
                rows[y, x], columns[y, x], owner[y, x] = down, prescan + right, number
    return rows, columns, owner


@pytest.mark.parametrize("as_read", [True, False])
@pytest.mark.parametrize("wide", [20, 26])
def test_correction_equals_brute_force(rng, as_read, wide):
    """For any corners, sizes and order of storage each pixel loses what the others had at its moment."""
    corners = [CORNERS[k] for k in rng.permutation(4)]
    detector = four(corners, as_read, wide)
    stored = rng.uniform(0, 60000, (24, 40)).astype(np.float32)
    stored[3, 5] = np.nan
    coefficients = rng.uniform(-3e-4, 3e-4, (4, 4))
    np.fill_diagonal(coefficients, 0)
    rows, columns, owner = read_times(detector)
    expected = stored.astype(float)
    for y, x in np.ndindex(24, 40):
        same = (rows == rows[y, x]) & (columns == columns[y, x])
        for v, u in np.argwhere(same):
            if np.isfinite(stored[v, u]):
                expected[y, x] -= coefficients[owner[y, x], owner[v, u]] * stored[v, u]
    image, mask = stored.copy(), np.zeros(stored.shape, np.int32)
    # a component may list amplifiers in another order
    order = rng.permutation(4)
    component = Crosstalk(tuple(f"A{k}" for k in order), coefficients[np.ix_(order, order)], np.zeros((4, 4)))
    numbers = np.full(4, 5.0), np.full(4, 1.5)
    correct_crosstalk_and_linearity(image, mask, detector, component, None, CrosstalkConfig(), *numbers, 8)
    assert_allclose(image, expected, rtol=2e-7, atol=1e-3)
    # the plane is set where the change exceeds 5 sigma of read and photon noise
    change = np.abs(stored - expected)
    limit = 5 * np.sqrt((5 / 1.5) ** 2 + np.maximum(stored, 0) / 1.5)
    assert_array_equal((mask == 8) & np.isfinite(stored), np.nan_to_num(change) > limit)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("as_read", [True, False])
def test_read_out_order_counts_from_the_output(corner, as_read):
    """The first pixel digitized after the prescan is the one at the output's corner, however it is stored."""
    one = amplifier("A", Box(0, 0, 20, 12), corner, as_read)
    assert read_out_order(one) == (corner.endswith("right"), corner.startswith("upper"), 0, 3)


def test_linearity_is_the_table(rng):
    """Levels get the table's correction of their amplifier, none below 0, the last one's beyond; NaN stays."""
    detector = four(CORNERS, True)
    table = Linearizer.from_polynomials(
        detector.amplifier_names, [(1e-7,), (2e-7, -1e-12), (), (-1e-7,)], 512.0
    )
    level = rng.uniform(-100, 80000, (24, 40)).astype(np.float32)
    level[0, 0] = np.nan
    image, mask = level.copy(), np.zeros(level.shape, np.int32)
    numbers = np.full(4, 5.0), np.full(4, 1.5)
    correct_crosstalk_and_linearity(image, mask, detector, None, table, CrosstalkConfig(), *numbers, 8)
    for number, each in enumerate(detector.amplifiers):
        part = each.data.slices()
        assert_allclose(image[part], table.linear(number, level[part].astype(float)), rtol=1e-6, atol=1e-3)
    assert not mask.any()


def test_kernel_equals_its_python_twin(rng):
    """Crosstalk and linearity together are the same compiled and plain."""
    detector = four(CORNERS, True, 18)
    detector = replace(detector, amplifiers=detector.amplifiers[:3])
    image = rng.uniform(-50, 65000, (24, 40)).astype(np.float32)
    coefficients = rng.uniform(-1e-3, 1e-3, (3, 3)).astype(np.float32)
    noise = np.full((3, 2), 20, np.float32)
    results = []
    for function in (correct_read_out, correct_read_out.py_func):
        one, mask = image.copy(), np.zeros(image.shape, np.int32)
        corrections = 1e-3 * np.arange(3 * 40.0).reshape(3, 40)
        function(
            one,
            mask,
            read_out_table(detector),
            coefficients,
            noise,
            corrections,
            1000.0,
            np.array([True, False, True]),
            8,
        )
        results.append((one, mask))
    assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    assert_array_equal(results[0][1], results[1][1])
