"""Camera definitions (LDM-151 4.1.2.3, design 5): what header keywords mean, and what overrides them."""

from __future__ import annotations

import re
from typing import Any

from skyquilt.instrument import observation_info
from skyquilt.instrument.camera import Observatory
from skyquilt.instrument.camera_yaml.node import CameraError, Node, shown
from skyquilt.instrument.camera_yaml.tables import Tables, cell_value
from skyquilt.instrument.header_map import (
    FILE_KEYWORD,
    Condition,
    Expression,
    HeaderItem,
    HeaderMap,
    HeaderValueError,
    Override,
    Test,
    check_wanted,
)

ITEM_KEYS = (
    "keyword",
    "join",
    "value",
    "expression",
    "rules",
    "rule",
    "extension",
    "extract",
    "map",
    "default",
)

ITEM_SOURCES = ("keyword", "join", "value", "expression", "rules", "rule")

KIND_KEYS: dict[str, tuple[str, ...]] = {
    "angle": ("unit",),
    "duration": ("unit",),
    "date": ("format", "scale"),
}


def read_header(node: Node, observatory: Observatory, tables: Tables) -> HeaderMap:
    """How the header of a raw frame becomes an `ObservationInfo`."""
    fields = observation_info.FIELDS
    node.check_keys(("recognise", "overrides", *fields))
    items = tuple(_item(name, node.node(name), observatory) for name in fields if node.has(name))
    given = {item.name for item in items}
    for name in ("visit", "frame_type", "exposure_time"):
        if name not in given:
            raise node.fail("this key is missing; every camera needs a rule for it", name)
    if not given & {"datetime_begin", "datetime_mid", "datetime_end"}:
        raise node.fail("one of datetime_begin, datetime_mid, datetime_end must be given", "datetime_begin")
    recognise = _condition(node.node("recognise"))
    overrides, by_file, by_id = _overrides(node, tables)
    return HeaderMap(recognise, items, overrides, by_file, by_id)


def _item(name: str, node: Node, observatory: Observatory) -> HeaderItem:
    kind = observation_info.FIELDS[name]
    if not isinstance(node.data, dict):
        return HeaderItem(name, keywords=_keywords(node))
    visit = ("rule", "sequence", "digits") if name == "visit" else ()
    node.check_keys((*(k for k in ITEM_KEYS if k != "rule"), *visit, *KIND_KEYS.get(kind, ())))
    sources = [key for key in ITEM_SOURCES if node.has(key)]
    if len(sources) != 1:
        raise node.fail(
            f"give exactly one of {', '.join(k for k in ITEM_SOURCES if k in visit or k != 'rule')}; "
            f"found {', '.join(sources) or 'none'}"
        )
    if node.has("rule"):
        return _visit_rule(name, node, observatory)
    item = HeaderItem(
        name,
        keywords=_keywords(node.node("keyword")) if node.has("keyword") else (),
        join=tuple(one.as_text() for one in node.node("join").items()) if node.has("join") else (),
        value=_constant(node.node("value")) if node.has("value") else None,
        expression=_expression(node.node("expression")) if node.has("expression") else None,
        rules=_rules(node.node("rules")) if node.has("rules") else (),
        extension=node.node("extension").as_extension() if node.has("extension") else None,
        extract=_regex(node.node("extract")) if node.has("extract") else None,
        map=tuple((str(key), _constant(one)) for key, one in node.node("map", {}).entries()),
        default=_constant(node.node("default")) if node.has("default") else None,
        **_reading(kind, node),
    )
    _check_constants(item, node)
    return item


def _reading(kind: str, node: Node) -> dict[str, Any]:
    """How numbers and dates are to be read."""
    if kind == "date":
        formats, scales = observation_info.DATE_FORMATS, observation_info.TIME_SCALES
        return {
            "format": node.choice("format", formats) if node.has("format") else None,
            "scale": node.choice("scale", scales, "utc"),
        }
    if kind in ("angle", "duration") and node.has("unit"):
        angles = (*observation_info.ANGLE_UNITS, *observation_info.SEXAGESIMAL_UNITS)
        units = angles if kind == "angle" else tuple(observation_info.TIME_UNITS)
        return {"unit": node.choice("unit", units)}
    return {}


def _check_constants(item: HeaderItem, node: Node) -> None:
    """Constants must make sense before any header is read."""
    constants = [("value", item.value), ("default", item.default)]
    constants += [("map", ours) for _, ours in item.map] + [("rules", ours) for _, ours in item.rules]
    for key, value in constants:
        if value is None:
            continue
        if item.name == "frame_type":
            Node(value, node.place(key), node.source).as_choice(observation_info.FRAME_TYPES)
        elif not item.map or key != "value":
            try:
                observation_info.convert(item, value)
            except HeaderValueError:
                kind = observation_info.FIELDS[item.name]
                raise node.fail(f"expected {kind} for {item.name}, found {value!r}", key) from None


def _visit_rule(name: str, node: Node, observatory: Observatory) -> HeaderItem:
    rule = node.choice("rule", observation_info.VISIT_RULES)
    if rule == "decisecond":
        return HeaderItem(name, rule=rule)
    if observatory.longitude is None:
        raise node.fail("the night needs observatory.longitude (degrees, positive to the east)", "rule")
    digits = node.integer("digits", 4, 1)
    if digits > 5:
        raise node.fail("a visit id has 36 bits: YYMMDD leaves room for 4 digits, 5 until 2068", "digits")
    return HeaderItem(name, rule=rule, rule_keyword=node.text("sequence"), rule_digits=digits)


def _keywords(node: Node) -> tuple[str, ...]:
    """One text or a list of them."""
    return tuple(one.as_text() for one in node.items()) if isinstance(node.data, list) else (node.as_text(),)


def _constant(node: Node) -> Any:
    if isinstance(node.data, (dict, list)):
        raise node.fail(f"expected a single value, found {shown(node.data)}")
    return node.data


def _expression(node: Node) -> Expression:
    try:
        return Expression(node.as_text())
    except CameraError:
        raise
    except ValueError as error:
        raise node.fail(str(error)) from error


def _regex(node: Node) -> str:
    try:
        groups = re.compile(node.as_text()).groups
    except re.error as error:
        raise node.fail(f"regular expression {node.data!r} is wrong ({error})") from error
    if groups != 1:
        raise node.fail(f"{node.data!r} needs exactly one group in brackets, the part to take")
    return str(node.data)


def _rules(node: Node) -> tuple[tuple[Condition, Any], ...]:
    rules = []
    for rule in node.items():
        rule.check_keys(("when", "is"))
        rules.append((_condition(rule.node("when", {})), _constant(rule.node("is"))))
    return tuple(rules)


def _condition(node: Node) -> Condition:
    tests = []
    for keyword, wanted in node.entries():
        value = tuple(wanted.data) if isinstance(wanted.data, list) else wanted.data
        if isinstance(value, dict):
            raise wanted.fail("expected a value, a list, '> 3', '1..9' or '/regex/', found keys and values")
        try:
            check_wanted(value)
        except ValueError as error:
            raise wanted.fail(str(error)) from error
        tests.append(Test(str(keyword), value))
    return Condition(tuple(tests))


def _overrides(node: Node, tables: Tables) -> tuple[tuple, tuple, tuple]:
    """General overrides, and those of exact file names and observation ids."""
    if not node.has("overrides"):
        return (), (), ()
    given = node.node("overrides")
    if isinstance(given.data, str):
        return _override_table(given, tables)
    overrides = []
    for row in given.items():
        row.check_keys(("when", *observation_info.FIELDS))
        values = [(key, one) for key, one in row.entries() if key != "when"]
        overrides.append(Override(_condition(row.node("when")), _override_values(values)))
    return tuple(overrides), (), ()


def _override_table(node: Node, tables: Tables) -> tuple[tuple, tuple, tuple]:
    overrides, exact = [], {"file": [], "observation_id": []}
    for line in tables.lines(node):
        row = line.data
        line.check_keys(("file", *observation_info.FIELDS))
        keys = [key for key in ("file", "observation_id") if row.get(key)]
        if not keys:
            raise line.fail(
                "give a file (or pattern) or an observation_id (or range) to which the line applies"
            )
        values = [
            (key, Node(cell_value(cell), line.place(key), line.source))
            for key, cell in row.items()
            if cell and key not in ("file", "observation_id")
        ]
        read = _override_values(values)
        if len(keys) == 1 and not re.search(r"[*?/<>!]|\.\.", row[keys[0]]):
            exact[keys[0]].append((row[keys[0]], read))
            continue
        names = {"file": FILE_KEYWORD, "observation_id": "observation_id"}
        overrides.append(Override(Condition(tuple(Test(names[key], row[key]) for key in keys)), read))
    return tuple(overrides), tuple(exact["file"]), tuple(exact["observation_id"])


def _override_values(values: list[tuple[str, Node]]) -> tuple[tuple[str, Any], ...]:
    checked = []
    for key, node in values:
        value: Any = _constant(node)
        if key == "frame_type":
            node.as_choice(observation_info.FRAME_TYPES)
        try:
            observation_info.convert(HeaderItem(key), value)
        except HeaderValueError as error:
            raise node.fail(f"expected {observation_info.FIELDS[key]} for {key}, found {value!r}") from error
        checked.append((key, value))
    return tuple(checked)
