"""Header translation rules (LDM-151 4.1.2, design 5): how header keywords become ObservationInfo names.

A `HeaderItem` says where one value comes from (keyword, constant, expression, ordered rules), a `Condition`
when a rule holds, an `Override` what a table says of single files. They are plain frozen data, made by
`camera_yaml` and used by `observation_info`; nothing in a camera definition is ever executed: expressions are
arithmetic over keywords, walked node by node.
"""

from __future__ import annotations

import ast
import fnmatch
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

FILE_KEYWORD = "$FILE"
"""Stands for the name of the file, without its directory, wherever a keyword may stand."""

Lookup = Callable[[str], Any]
"""Value of a keyword, or None when the header lacks it."""

_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "min": min,
    "max": max,
    "sqrt": math.sqrt,
    "hypot": math.hypot,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "atan2": math.atan2,
    "degrees": math.degrees,
    "radians": math.radians,
}


class HeaderValueError(ValueError):
    """A header value that is missing or cannot be understood; the text says which."""


@lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[ast.expr, dict[str, str]]:
    """Tree of an expression, and the keyword each of its names stands for."""
    keywords: dict[str, str] = {}

    def name_of(match: re.Match[str]) -> str:
        name = f"keyword_{len(keywords)}_"
        keywords[name] = match.group(1).strip()
        return name

    plain = re.sub(r"\{([^{}]+)\}", name_of, text)
    try:
        tree = ast.parse(plain, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"expression {text!r} cannot be read ({error.msg})") from error
    for node in ast.walk(tree):
        _check_node(node, text)
        if isinstance(node, ast.Name) and node.id not in _FUNCTIONS:
            keywords.setdefault(node.id, node.id)
    return tree, keywords


def _check_node(node: ast.AST, text: str) -> None:
    allowed = (ast.BinOp, ast.UnaryOp, ast.Name, ast.Load, ast.operator, ast.unaryop)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords:
            return
        raise ValueError(f"expression {text!r} calls an unknown function; known: {', '.join(_FUNCTIONS)}")
    if isinstance(node, ast.Constant):
        if isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            return
    elif isinstance(node, allowed) and type(node) not in (ast.Not, ast.Invert):
        return
    raise ValueError(
        f"expression {text!r} may hold numbers, keywords, + - * / // % **, brackets and "
        f"{', '.join(_FUNCTIONS)}; write a keyword with a hyphen as {{DATE-OBS}}"
    )


@dataclass(frozen=True)
class Expression:
    """Arithmetic over keywords, such as ``EXPTIME / 1000`` or ``atan2({CD1_2}, {CD2_2})``.

    Raises
    ------
    ValueError
        From the constructor when the text is not of this small grammar.
    """

    text: str

    def __post_init__(self) -> None:
        _parsed(self.text)

    @property
    def keywords(self) -> tuple[str, ...]:
        """Keywords it needs."""
        return tuple(_parsed(self.text)[1].values())

    def value(self, lookup: Lookup) -> float:
        """Result for one header; HeaderValueError when a keyword is absent or not a number."""
        tree, keywords = _parsed(self.text)
        try:
            return _walk(tree, {name: _as_number(key, lookup) for name, key in keywords.items()})
        except (ArithmeticError, TypeError, ValueError) as error:
            if isinstance(error, HeaderValueError):
                raise
            raise HeaderValueError(f"expression {self.text!r} fails for this header ({error})") from error


def _as_number(keyword: str, lookup: Lookup) -> float:
    value = lookup(keyword)
    if value is None:
        raise HeaderValueError(f"keyword {keyword} is not in the header")
    try:
        return value if isinstance(value, (int, float)) else float(value)
    except ValueError:
        raise HeaderValueError(f"keyword {keyword} is {value!r}, expected a number") from None


def _walk(node: ast.expr, names: dict[str, float]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_walk(node.left, names), _walk(node.right, names))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_walk(node.operand, names))
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return _FUNCTIONS[node.func.id](*(_walk(argument, names) for argument in node.args))


@dataclass(frozen=True)
class Test:
    """One comparison of a keyword's value.

    Parameters
    ----------
    keyword : str
    wanted : scalar, None or tuple
        ``None``: absent. A tuple: any of. Text may be a range ``'1001..1010'`` (ends included), a comparison
        ``'> 0.5'``, ``'>='``, ``'<'``, ``'<='``, ``'!= x'``, a regular expression ``'/flat/i'``, a pattern
        with ``*`` or ``?``, or plain text, compared without regard to case and blanks at the ends.
    """

    __test__ = False  # not a test case of pytest

    keyword: str
    wanted: Any

    def holds(self, lookup: Lookup) -> bool:
        """Whether the header passes."""
        return matches(lookup(self.keyword), self.wanted)


@dataclass(frozen=True)
class Condition:
    """All of several tests; without any it always holds."""

    tests: tuple[Test, ...] = ()

    def holds(self, lookup: Lookup) -> bool:
        """Whether a header passes all tests."""
        return all(test.holds(lookup) for test in self.tests)

    def first_failing(self, lookup: Lookup) -> Test | None:
        """The test to name in a message, or None when the condition holds."""
        return next((test for test in self.tests if not test.holds(lookup)), None)


_RANGE = re.compile(r"^\s*(-?[\d.]+(?:[eE][-+]?\d+)?)\s*\.\.\s*(-?[\d.]+(?:[eE][-+]?\d+)?)\s*$")
_COMPARISON = re.compile(r"^\s*(>=|<=|>|<|!=)\s*(.+?)\s*$")
_REGEX = re.compile(r"^/(.*)/(i?)$")
_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def matches(value: Any, wanted: Any) -> bool:
    """Whether one header value fulfils what a condition wants (grammar: `Test`)."""
    if isinstance(wanted, tuple):
        return any(matches(value, one) for one in wanted)
    if wanted is None or value is None:
        return value is None and wanted is None
    if isinstance(wanted, str):
        return _matches_text(value, wanted)
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted
    return number_of(value) == wanted


def _matches_text(value: Any, wanted: str) -> bool:
    if found := _RANGE.match(wanted):
        number = number_of(value)
        return number is not None and float(found[1]) <= number <= float(found[2])
    if found := _COMPARISON.match(wanted):
        if found[1] == "!=":
            return not matches(value, _plain(found[2]))
        number = number_of(value)
        return number is not None and _COMPARE[found[1]](number, float(found[2]))
    text = str(value).strip()
    if found := _REGEX.match(wanted):
        return re.search(found[1], text, re.IGNORECASE if found[2] else 0) is not None
    if any(sign in wanted for sign in "*?"):
        return fnmatch.fnmatchcase(text.lower(), wanted.strip().lower())
    return text.lower() == wanted.strip().lower()


def check_wanted(wanted: Any) -> None:
    """Raise ValueError when a condition's wanted value cannot work (a bad regex, a comparison with text)."""
    if isinstance(wanted, tuple):
        for one in wanted:
            check_wanted(one)
    elif isinstance(wanted, str):
        if found := _REGEX.match(wanted):
            try:
                re.compile(found[1])
            except re.error as error:
                raise ValueError(f"regular expression {wanted!r} is wrong ({error})") from error
        elif (found := _COMPARISON.match(wanted)) and found[1] != "!=" and number_of(found[2]) is None:
            raise ValueError(f"comparison {wanted!r} needs a number after {found[1]}")


def number_of(value: Any) -> float | None:
    """The value as a number, or None when it is none."""
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _plain(text: str) -> Any:
    number = number_of(text)
    return text if number is None else number


@dataclass(frozen=True)
class HeaderItem:
    """Where one ObservationInfo value comes from. Exactly one source is given.

    Parameters
    ----------
    name : str
        The ObservationInfo name.
    keywords : tuple of str
        The first that the header has.
    join : tuple of str
        Keywords whose texts are joined by ``T`` (a date and a time of day).
    value : scalar
        A constant.
    expression : Expression
    rules : tuple of (Condition, value)
        The first whose condition holds.
    rule, rule_keyword, rule_digits :
        Rule that makes the visit id: ``decisecond`` or ``night_sequence``.
    extension : str, int or None
        HDU whose header is read; None is the primary, then the first extension.
    extract : str or None
        Regular expression with one group, applied to the text of the value.
    map : tuple of (str, value)
        Raw value to ours.
    default : scalar or None
        When the source gives nothing.
    unit, format, scale : str or None
        How a number or date is to be read.
    """

    name: str
    keywords: tuple[str, ...] = ()
    join: tuple[str, ...] = ()
    value: Any = None
    expression: Expression | None = None
    rules: tuple[tuple[Condition, Any], ...] = ()
    rule: str | None = None
    rule_keyword: str | None = None
    rule_digits: int = 4
    extension: str | int | None = None
    extract: str | None = None
    map: tuple[tuple[str, Any], ...] = ()
    default: Any = None
    unit: str | None = None
    format: str | None = None
    scale: str = "utc"

    def raw(self, lookup: Lookup) -> Any:
        """Value before units; None when the header has none.

        Raises
        ------
        HeaderValueError
            When something is there and cannot be understood.
        """
        found = self._source(lookup)
        if found is not None and self.extract is not None:
            found = self._extracted(str(found))
        if found is not None and self.map:
            found = self._mapped(found)
        return self.default if found is None or found == "" else found

    def _source(self, lookup: Lookup) -> Any:
        if self.value is not None:
            return self.value
        if self.expression is not None:
            missing = [key for key in self.expression.keywords if lookup(key) is None]
            return None if missing else self.expression.value(lookup)
        if self.join:
            parts = [lookup(key) for key in self.join]
            return None if None in parts else "T".join(str(part).strip() for part in parts)
        if self.rules:
            return next((value for condition, value in self.rules if condition.holds(lookup)), None)
        return next((found for key in self.keywords if (found := lookup(key)) is not None), None)

    def _extracted(self, text: str) -> str:
        assert self.extract is not None
        found = re.search(self.extract, text)
        if found is None:
            raise HeaderValueError(f"{self.what} is {text!r}, in which {self.extract!r} finds nothing")
        return found.group(1)

    def _mapped(self, found: Any) -> Any:
        for raw, ours in self.map:
            if matches(found, raw if isinstance(raw, str) else _plain(str(raw))):
                return ours
        if self.default is not None:
            return self.default
        known = ", ".join(str(raw) for raw, _ in self.map)
        raise HeaderValueError(
            f"{self.what} is {found!r}, which header.{self.name}.map lacks (it has {known})"
        )

    @property
    def what(self) -> str:
        """Words for the source in a message."""
        if self.keywords:
            return "keyword " + " or ".join(self.keywords)
        if self.expression is not None:
            return f"expression {self.expression.text!r}"
        if self.join:
            return "keywords " + " and ".join(self.join)
        if self.rules:
            return f"the rules of header.{self.name}"
        return f"the constant of header.{self.name}" if self.rule is None else f"rule {self.rule}"


@dataclass(frozen=True)
class Override:
    """Values that a table or list gives for some files.

    Parameters
    ----------
    condition : Condition
        Which files, by any keyword, ``$FILE`` or ``observation_id``.
    values : tuple of (str, value)
        ObservationInfo names and what they shall be.
    """

    condition: Condition
    values: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class HeaderMap:
    """All rules of one camera.

    Parameters
    ----------
    recognise : Condition
        What a header of this camera fulfils.
    items : tuple of HeaderItem
    overrides : tuple of Override
        Later ones win.
    by_file, by_observation_id : tuple of (str, tuple of (str, value))
        Overrides for one exact file name or observation id, from a table (found by a dictionary: a table may
        have a row per file).
    """

    recognise: Condition
    items: tuple[HeaderItem, ...]
    overrides: tuple[Override, ...] = ()
    by_file: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    by_observation_id: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()

    def item(self, name: str) -> HeaderItem | None:
        """Rule of one ObservationInfo name, or None."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, HeaderItem]:
        return {item.name: item for item in self.items}

    @cached_property
    def _exact(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(self.by_file), dict(self.by_observation_id)

    def overridden(self, lookup: Lookup, observation_id: str | None, file_name: str) -> dict[str, Any]:
        """Values that the tables give for this file; what is wanted of a keyword is asked by `lookup`."""
        values: dict[str, Any] = {}

        def with_id(keyword: str) -> Any:
            return observation_id if keyword == "observation_id" else lookup(keyword)

        for override in self.overrides:
            if override.condition.holds(with_id):
                values.update(override.values)
        exact_file, exact_id = self._exact
        values.update(exact_file.get(file_name, ()))
        values.update(exact_id.get(observation_id or "", ()))
        return values
