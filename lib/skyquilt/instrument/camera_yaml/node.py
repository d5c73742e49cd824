"""Camera definitions (LDM-151 4.1.2.3, design 5): YAML values that know their place, and its messages.

YAML is read by the rules of YAML 1.2, so that 12:30:00 and 2025-01-01 stay text, `010` is ten, `on` is a word
and 1e5 a number.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

REQUIRED = object()
"""Default of a key for which nothing can be assumed."""


class CameraError(ValueError):
    """A camera definition that cannot be used; the text names file, key and remedy."""


def read_yaml(text: str, source: str) -> Node:
    """The root of a definition; `source` is what error messages call it."""
    try:
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader with fewer implicit types
    except yaml.YAMLError as error:
        raise CameraError(f"{source} is not YAML: {_problem(error)}") from error
    return Node(data, "", source)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 core types; a key given twice is an error."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen: set = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *name`: its keys may be given again
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (dict, list)):
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    "a key must be a word or number (quote text with brackets)",
                    key_node.start_mark,
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _yaml_int(loader: _Loader, node: Any) -> int:
    return int(loader.construct_scalar(node))


def _yaml_float(loader: _Loader, node: Any) -> float:
    return float(loader.construct_scalar(node))


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^{_pattern}$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _yaml_float)


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


class Node:
    """A value of the definition that knows its key and file."""

    def __init__(self, data: Any, where: str, source: str) -> None:
        self.data, self.where, self.source = data, where, source

    def fail(self, text: str, key: str | None = None) -> CameraError:
        """The error to raise about this value, or about a key of it."""
        where = self.place(key) if key else self.where
        return CameraError(f"{self.source}: {where + ': ' if where else ''}{text}")

    def place(self, key: str) -> str:
        """Full name of a key under this one."""
        return f"{self.where}.{key}" if self.where else key

    def check_keys(self, known: Iterable[str]) -> Node:
        """Refuse anything but a mapping with known keys."""
        known = list(known)
        if not isinstance(self.data, dict):
            raise self.fail(f"expected keys and values ({', '.join(known)}), found {shown(self.data)}")
        for key in self.data:
            if key not in known:
                hint = suggestion(key, known) or f"; known keys: {', '.join(known)}"
                raise self.fail(f"no such key{hint}", str(key))
        return self

    def has(self, key: str) -> bool:
        """Whether the key is given, and not null."""
        return self.data.get(key) is not None

    def node(self, key: str, default: Any = REQUIRED) -> Node:
        """The value of a key; without a default it must be given."""
        value = self.data.get(key)
        if value is None:
            if default is REQUIRED:
                raise self.fail("this key is missing, and nothing can be assumed for it", key)
            value = default
        return Node(value, self.place(key), self.source)

    def items(self) -> list[Node]:
        """Elements of a list."""
        if not isinstance(self.data, list):
            raise self.fail(f"expected a list, found {shown(self.data)}")
        return [Node(one, f"{self.where}[{i}]", self.source) for i, one in enumerate(self.data)]

    def entries(self) -> list[tuple[Any, Node]]:
        """Keys and values of a mapping with free keys."""
        if not isinstance(self.data, dict):
            raise self.fail(f"expected keys and values, found {shown(self.data)}")
        return [(key, Node(value, self.place(str(key)), self.source)) for key, value in self.data.items()]

    def number(
        self, key: str, default: Any = REQUIRED, least: float | None = None, above: float | None = None
    ) -> Any:
        """A float at `least`, or `above`, a bound; None where the default is None."""
        return self.node(key, default).as_number(least, above) if self._wanted(key, default) else None

    def integer(self, key: str, default: Any = REQUIRED, least: int = 0) -> int:
        """A whole number of `least` or more."""
        return self.node(key, default).as_integer(least)

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        """A text; None where the default is None."""
        return self.node(key, default).as_text() if self._wanted(key, default) else None

    def choice(self, key: str, options: Sequence[str], default: Any = REQUIRED) -> str:
        """One of some words."""
        return self.node(key, default).as_choice(options)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        node = self.node(key, default)
        if not isinstance(node.data, bool):
            raise node.fail(f"expected true or false, found {shown(node.data)}")
        return node.data

    def pair(self, key: str, default: Any = REQUIRED) -> tuple[float, float]:
        """Two numbers [x, y]."""
        node = self.node(key, default)
        values = [one.as_number() for one in node.items()]
        if len(values) != 2:
            raise node.fail(f"expected two numbers [x, y], found {len(values)}")
        return values[0], values[1]

    def sizes(self, key: str, default: Any = REQUIRED) -> tuple[int, int]:
        """Two positive whole numbers."""
        node = self.node(key, default)
        items = node.items()
        if len(items) != 2:
            raise node.fail(f"expected two numbers [columns, rows], found {len(items)}")
        return items[0].as_integer(1), items[1].as_integer(1)

    def _wanted(self, key: str, default: Any) -> bool:
        return default is not None or self.has(key)

    def as_number(self, least: float | None = None, above: float | None = None) -> float:
        """This value as a float."""
        value = self.data
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise self.fail(f"expected a number, found {shown(value)}")
        if least is not None and value < least:
            raise self.fail(f"expected at least {least:g}, found {value:g}")
        if above is not None and value <= above:
            raise self.fail(f"expected more than {above:g}, found {value:g}")
        return float(value)

    def as_integer(self, least: int = 0) -> int:
        """This value as a whole number."""
        if isinstance(self.data, bool) or not isinstance(self.data, int):
            raise self.fail(f"expected a whole number, found {shown(self.data)}")
        if self.data < least:
            raise self.fail(f"expected at least {least}, found {self.data}")
        return self.data

    def as_text(self) -> str:
        """This value as text, a number as Python writes it."""
        if isinstance(self.data, bool) or not isinstance(self.data, (str, int, float)):
            raise self.fail(f"expected text, found {shown(self.data)}; put it in quotes")
        return str(self.data)

    def as_choice(self, options: Sequence[str]) -> str:
        """This value, one of some words."""
        if self.data not in options:
            hint = suggestion(self.data, options)
            raise self.fail(f"expected one of {', '.join(options)}, found {shown(self.data)}{hint}")
        return str(self.data)

    def as_extension(self) -> str | int:
        """An HDU by number or name."""
        return self.as_integer(0) if isinstance(self.data, int) else self.as_text()

    def filled_extension(self, names: Mapping[str, str]) -> str | int | None:
        """An HDU, with {detector}, {id} and {amplifier} in its name filled in; None where none is given."""
        if self.data is None:
            return None
        extension = self.as_extension()
        if isinstance(extension, int):
            return extension
        for word in re.findall(r"\{([^}]*)\}", extension):
            if word not in names:
                known = ", ".join("{" + name + "}" for name in names)
                raise self.fail(f"{{{word}}} is not known here; known: {known}{suggestion(word, names)}")
            extension = extension.replace(f"{{{word}}}", names[word])
        return int(extension) if extension.isdigit() else extension


def suggestion(word: Any, known: Iterable[Any]) -> str:
    """`; did you mean x?` for the nearest known word, or nothing."""
    close = difflib.get_close_matches(str(word), [str(one) for one in known], 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: Any) -> str:
    """A value as messages show it."""
    if value is None:
        return "nothing"
    return {dict: "keys and values", list: "a list"}.get(type(value)) or repr(value)
