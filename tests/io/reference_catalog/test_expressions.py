"""Conditions on the rows of reference catalogues: true where they say, row by row."""

import numpy as np
import pytest

from skyquilt.io.reference_catalog.expressions import evaluate, names_in


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a > 1", [False, False, True, False]),
        ("not a > 1", [True, True, False, True]),
        ("a >= -1 and t != 'x'", [False, True, False, False]),
        ("t == 'x' or a == 3", [True, False, True, False]),
        ("t in ['y', 'z']", [False, True, False, True]),
        ("t not in ('y', 'z')", [True, False, True, False]),
        ("b", [True, False, True, False]),
        ("d and not b", [False] * 4),
        ("c > 5", [False, False, True, False]),
        ("2 < a", [False, False, True, False]),
        ("a == b", [True, True, False, False]),
    ],
)
def test_expressions(expression, expected):
    """Comparisons hold row by row; NaN and nulls compare false."""
    columns = {
        "a": np.array([1.0, 0.0, 3.0, np.nan]),
        "b": np.array([1.0, 0.0, 1.0, 0.0]),
        "d": np.array([True, False, True, False]),
        "c": np.array([1, None, 7, None], dtype=object),
        "t": np.array(["x", "y", "x", "z"], dtype=object),
    }
    assert evaluate(expression, columns).tolist() == expected
    assert set(names_in(expression)) <= set(columns)
