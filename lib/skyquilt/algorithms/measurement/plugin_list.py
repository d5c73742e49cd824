"""The ordered list of plugins (LDM-151 8.6.1) of a configuration, a user's own among them."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skyquilt.algorithms.measurement.framework import Plugin
from skyquilt.algorithms.measurement.plugins import BUILTIN
from skyquilt.primitives.tables import Column


def plugin_file(text: str, directory: str | Path) -> tuple[Path, str]:
    """File and class name of ``FILE.py:CLASS``.

    Raises
    ------
    ValueError
        When the text has another form, or the file is not in the directory.
    """
    name, colon, attribute = text.rpartition(":")
    if not colon or not name.endswith(".py") or not attribute.isidentifier():
        near = difflib.get_close_matches(text, BUILTIN, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"measurement plugin {text!r} is none of {', '.join(BUILTIN)}, nor FILE.py:CLASS{hint}"
        )
    path = Path(directory) / name
    if not path.is_file():
        raise ValueError(f"measurement plugin {text}: no file {name} in the survey directory")
    return path, attribute


def make_plugins(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]], directory: str | Path = "."
) -> tuple[Plugin, ...]:
    """Plugins in the order in which they run: ascending `order`, then as listed.

    Parameters
    ----------
    names : sequence of str
        Names of the library's plugins, and ``FILE.py:CLASS`` of a user's.
    options : mapping of plugin name to mapping
        Their options by field.
    directory : path
        The survey's, to which files are relative.

    Raises
    ------
    ValueError
        When a plugin is not there, has no such option, needs a column that no earlier one has, or has one that another
        has too; when two have the same name.
    """
    classes = [BUILTIN[name] if name in BUILTIN else _load(name, directory) for name in names]
    known = {cls.name for cls in classes}
    if len(known) < len(classes):
        raise ValueError(f"measurement plugins are listed twice: {', '.join(cls.name for cls in classes)}")
    for name in options:
        if name not in known:
            raise ValueError(f"options for the measurement plugin {name}, which is not in the list")
    made = [cls(_options(cls, options.get(cls.name, {}))) for cls in classes]
    plugins = tuple(sorted(made, key=lambda plugin: plugin.order))
    columns_of(plugins)
    return plugins


def columns_of(plugins: Sequence[Plugin]) -> tuple[Column, ...]:
    """Columns of all plugins in their order; a flag that several share is there once.

    Raises
    ------
    ValueError
        When a plugin needs a column that no earlier one has, or two write the same.
    """
    columns: dict[str, Column] = {}
    for plugin in plugins:
        lacking = [name for name in plugin.needs if name not in columns]
        if lacking:
            raise ValueError(
                f"measurement plugin {plugin.name} needs {', '.join(lacking)}, which no earlier plugin writes"
            )
        for column in plugin.all_columns():
            if columns.setdefault(column.name, column) != column:
                raise ValueError(f"measurement plugin {plugin.name}: another one has a column {column.name}")
    return tuple(columns.values())


def _options(cls: type[Plugin], values: Mapping[str, Any]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls.Options)}
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"measurement plugin {cls.name} has no option {name!r}{hint}")
    return cls.Options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _load(text: str, directory: str | Path) -> type[Plugin]:
    path, attribute = plugin_file(text, directory)
    key = hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()
    name = f"skyquilt_measurement_{path.stem}_{key}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules[name] = module
    spec.loader.exec_module(module)
    made = getattr(module, attribute, None)
    if not (isinstance(made, type) and issubclass(made, Plugin)):
        raise ValueError(f"measurement plugin {text}: {path.name} has no class {attribute} made of Plugin")
    return made
