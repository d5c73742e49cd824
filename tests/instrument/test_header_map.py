"""Header rules (design 5): expressions, conditions, items."""

import math
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyquilt.instrument.header_map import (
    Condition,
    Expression,
    HeaderItem,
    HeaderValueError,
    Test,
    check_wanted,
    matches,
)

HEADER = {"EXPTIME": 30.0, "DATE-OBS": "2025", "A": 3, "B": 4, "TEXT": "2.5", "WORD": "abc"}


@settings(max_examples=80, deadline=None)
@given(
    st.recursive(
        st.integers(1, 9), lambda inner: st.tuples(st.sampled_from("+-*/"), inner, inner), max_leaves=8
    )
)
def test_expressions_compute_what_arithmetic_says(tree):
    """Any tree of + - * / gives what the plain operators give, or is refused where they fail."""
    signs = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}

    def text(node):
        return str(node) if isinstance(node, int) else f"({text(node[1])} {node[0]} {text(node[2])})"

    def value(node):
        return node if isinstance(node, int) else signs[node[0]](value(node[1]), value(node[2]))

    try:
        wanted = value(tree)
    except ZeroDivisionError:
        with pytest.raises(HeaderValueError):
            Expression(text(tree)).value(HEADER.get)
        return
    assert Expression(text(tree)).value(HEADER.get) == wanted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("EXPTIME / 1000 + 3", 3.03),
        ("{DATE-OBS} - 2000", 25.0),
        ("hypot(A, B) ** 2 % 7", 25 % 7),
        ("-degrees(atan2(A, B))", -math.degrees(math.atan2(3, 4))),
        ("TEXT * 2", 5.0),
    ],
)
def test_expressions_read_keywords(text, value):
    """Keywords stand for their numbers, in braces when their names have a hyphen."""
    assert Expression(text).value(HEADER.get) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "A.__class__",
        "A[0]",
        "lambda: 1",
        "[A for A in B]",
        "open(A)",
        "'text'",
        "A if B else 1",
        "A = 1",
        "max(A, *B)",
        "A < B",
        "abs(x=A)",
        "A +",
        "True",
    ],
)
def test_nothing_but_arithmetic_is_an_expression(text):
    """Anything that could run code, or is no arithmetic, is refused when the definition is read."""
    with pytest.raises(ValueError, match="expression"):
        Expression(text)


def test_expressions_name_the_keyword_that_fails():
    """The message says which keyword is missing or not a number."""
    with pytest.raises(HeaderValueError, match="keyword NOPE is not in the header"):
        Expression("NOPE + 1").value(HEADER.get)
    with pytest.raises(HeaderValueError, match="keyword WORD is 'abc', expected a number"):
        Expression("WORD + 1").value(HEADER.get)
    with pytest.raises(HeaderValueError, match="fails for this header"):
        Expression("1 / (A - 3)").value(HEADER.get)


@pytest.mark.parametrize(
    ("value", "wanted", "holds"),
    [
        ("DARK  ", "dark", True),
        ("DARKER", "dark", False),
        (0, 0, True),
        ("0.0", 0, True),
        (0.5, 0, False),
        (1005, "1001..1010", True),
        ("1010", "1001..1010", True),
        (1011, "1001..1010", False),
        (-3.5, "-4 .. -3e0", True),
        (3, "> 2", True),
        (2, "> 2", False),
        (2, ">= 2", True),
        ("x", "> 2", False),
        ("B", "!= V", True),
        ("V", "!= V", False),
        ("Sky Flat 3", "/flat/i", True),
        ("Sky Flat 3", "/flat/", False),
        ("d1001.fits", "d10*.fits", True),
        ("V", ("B", "V"), True),
        (None, None, True),
        (None, "x", False),
        (None, "!= x", False),
        ("x", None, False),
        (True, True, True),
        (1, True, False),
    ],
)
def test_conditions(value, wanted, holds):
    """The documented grammar: equality, range, comparison, regular expression, pattern, list, absence."""
    assert matches(value, wanted) is holds


def test_conditions_that_cannot_work_are_refused():
    """A broken regular expression or a comparison with a word is found before any header is read."""
    with pytest.raises(ValueError, match="regular expression"):
        check_wanted("/(/")
    with pytest.raises(ValueError, match="needs a number"):
        check_wanted(("a", "> many"))


def test_first_rule_that_holds_wins():
    """Rules are tried in order; without any that holds there is no value."""
    rules = (
        (Condition((Test("KIND", "DARK"), Test("EXPTIME", 0))), "bias"),
        (Condition((Test("KIND", "DARK"),)), "dark"),
    )
    item = HeaderItem("frame_type", rules=rules)
    assert item.raw({"KIND": "DARK", "EXPTIME": 0}.get) == "bias"
    assert item.raw({"KIND": "DARK", "EXPTIME": 5}.get) == "dark"
    assert item.raw({"KIND": "FLAT"}.get) is None


def test_extract_map_and_default():
    """Text is extracted, then mapped; what the map lacks is named unless there is a default."""
    item = HeaderItem("detector_num", keywords=("$FILE",), extract=r"_c(\d+)\.", map=(("7", 70), ("8", 80)))
    assert item.raw({"$FILE": "a_c7.fits"}.get) == 70
    with pytest.raises(HeaderValueError, match="finds nothing"):
        item.raw({"$FILE": "a.fits"}.get)
    with pytest.raises(HeaderValueError, match="map lacks"):
        item.raw({"$FILE": "a_c9.fits"}.get)
    assert HeaderItem("snap", keywords=("S",), default=0).raw({}.get) == 0
    joined = HeaderItem("datetime_begin", join=("DATE", "UT"))
    assert joined.raw({"DATE": "2025-01-01", "UT": "03:00:00"}.get) == "2025-01-01T03:00:00"
    assert joined.raw({"DATE": "2025-01-01"}.get) is None
