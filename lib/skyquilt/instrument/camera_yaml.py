"""Camera definitions from YAML (LDM-151 4.1.2.3, design 5): a page of text makes a `Camera`.

The reference of the keys is `docs/cameras.md`. Everything is checked when it is read: an unknown key, a wrong
kind of value, sections that overlap or leave the detector stop with a `CameraError` that names file and key.
YAML is read by the rules of YAML 1.2, so that 12:30:00 and 2025-01-01 stay text, `010` is ten, `on` is a word
and 1e5 a number.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from skyquilt.instrument import observation_info
from skyquilt.instrument.camera import (
    CORNERS,
    PURPOSES,
    Amplifier,
    Camera,
    Detector,
    FileLayout,
    Observatory,
    WcsSource,
)
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
from skyquilt.primitives.data_units import SOURCE_ID
from skyquilt.primitives.geometry import Box

REQUIRED = object()

ROOT_KEYS = (
    "name",
    "description",
    "observatory",
    "focal_plane",
    "filters",
    "detector_types",
    "detectors",
    "files",
    "header",
    "wcs",
    "isr",
)


class CameraError(ValueError):
    """A camera definition that cannot be used; the text names file, key and remedy."""


def load_camera(name_or_path: str | Path, search: Sequence[str | Path] = ()) -> Camera:
    """Read a camera definition.

    Parameters
    ----------
    name_or_path : str or path
        A name such as ``demo``, found as ``demo.yaml`` in the folders of `search` (a survey's own
        ``cameras``), then in ``config/cameras`` of the production; or the path of a YAML file.
    search : sequence of path
        Folders that come first.

    Raises
    ------
    CameraError
        When there is no such definition, or it cannot be used.
    """
    path = _find(name_or_path, [Path(folder) for folder in search])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CameraError(f"camera definition {path} cannot be read: {error}") from error
    return parse_camera(text, str(path), path.parent)


def _find(name_or_path: str | Path, search: list[Path]) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        if not Path(name_or_path).is_file():
            raise CameraError(f"there is no camera definition {name_or_path}")
        return Path(name_or_path)
    folders = search + _production_cameras()
    for folder in folders:
        if (folder / f"{text}.yaml").is_file():
            return folder / f"{text}.yaml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    looked = ", ".join(str(folder) for folder in folders) or "no folder"
    raise CameraError(
        f"no camera definition {text!r}{_suggestion(text, known)}; known: {', '.join(known) or 'none'} "
        f"(looked in {looked}); write {text}.yaml there, or give the path of a YAML file"
    )


def _production_cameras() -> list[Path]:
    from skyquilt import production_root

    try:
        return [production_root() / "config" / "cameras"]
    except FileNotFoundError:  # a broken installation; definitions given by path still work
        return []


def parse_camera(text: str, source: str, folder: Path | None = None) -> Camera:
    """Make a `Camera` of YAML text.

    Parameters
    ----------
    text : str
    source : str
        What error messages call it, usually its path.
    folder : Path or None
        Where tables that it names lie.
    """
    try:
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader with fewer implicit types
    except yaml.YAMLError as error:
        raise CameraError(f"{source} is not YAML: {_yaml_problem(error)}") from error
    root = _Node(data, "", source)
    tables: dict[str, str] = {}
    camera = _camera(root, folder, tables)
    canonical = _text_keys({"definition": data, "tables": tables})
    return replace(camera, canonical=json.dumps(canonical, sort_keys=True, ensure_ascii=False))


def _text_keys(data: Any) -> Any:
    """The same data with all keys as text: numbers and words as keys cannot be sorted together."""
    if isinstance(data, dict):
        return {str(key): _text_keys(value) for key, value in data.items()}
    return [_text_keys(value) for value in data] if isinstance(data, list) else data


def parse_section(text: str) -> tuple[Box, bool, bool]:
    """Box of a FITS section ``[x1:x2,y1:y2]``, counted from 1, ends included.

    Returns
    -------
    box, reversed_x, reversed_y : Box, bool, bool
        A range written from high to low is reversed.
    """
    found = re.fullmatch(r"\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*", text)
    if not found:
        raise ValueError(f"{text!r} is not a section; write '[x1:x2,y1:y2]', counted from 1, ends included")
    x1, x2, y1, y2 = (int(number) for number in found.groups())
    if min(x1, x2, y1, y2) < 1:
        raise ValueError(f"{text!r} has a 0; sections count from 1, as in FITS headers")
    box = Box(min(x1, x2) - 1, min(y1, y2) - 1, abs(x2 - x1) + 1, abs(y2 - y1) + 1)
    return box, x1 > x2, y1 > y2


class _Loader(yaml.SafeLoader):
    """YAML 1.2 core types; a key given twice is an error."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen: set = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (dict, list)):
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    "a key must be a word or number (quote text with brackets)",
                    key_node.start_mark,
                )
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
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


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _suggestion(word: Any, known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(word), [str(one) for one in known], 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


class _Node:
    """A value of the definition that knows its key and file."""

    def __init__(self, data: Any, where: str, source: str) -> None:
        self.data, self.where, self.source = data, where, source

    def fail(self, text: str, key: str | None = None) -> CameraError:
        where = self._path(key) if key else self.where
        return CameraError(f"{self.source}: {where + ': ' if where else ''}{text}")

    def _path(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def check_keys(self, known: Iterable[str]) -> _Node:
        """Refuse anything but a mapping with known keys."""
        known = list(known)
        if not isinstance(self.data, dict):
            raise self.fail(f"expected keys and values ({', '.join(known)}), found {_shown(self.data)}")
        for key in self.data:
            if key not in known:
                hint = _suggestion(key, known) or f"; known keys: {', '.join(known)}"
                raise self.fail(f"no such key{hint}", str(key))
        return self

    def has(self, key: str) -> bool:
        return self.data.get(key) is not None

    def node(self, key: str, default: Any = REQUIRED) -> _Node:
        value = self.data.get(key)
        if value is None:
            if default is REQUIRED:
                raise self.fail("this key is missing, and nothing can be assumed for it", key)
            value = default
        return _Node(value, self._path(key), self.source)

    def items(self) -> list[_Node]:
        """Elements of a list."""
        if not isinstance(self.data, list):
            raise self.fail(f"expected a list, found {_shown(self.data)}")
        return [_Node(one, f"{self.where}[{i}]", self.source) for i, one in enumerate(self.data)]

    def entries(self) -> list[tuple[Any, _Node]]:
        """Keys and values of a mapping with free keys."""
        if not isinstance(self.data, dict):
            raise self.fail(f"expected keys and values, found {_shown(self.data)}")
        return [(key, _Node(value, self._path(str(key)), self.source)) for key, value in self.data.items()]

    def number(
        self, key: str, default: Any = REQUIRED, least: float | None = None, above: float | None = None
    ) -> Any:
        return self.node(key, default).as_number(least, above) if self._wanted(key, default) else None

    def integer(self, key: str, default: Any = REQUIRED, least: int = 0) -> int:
        return self.node(key, default).as_integer(least)

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        return self.node(key, default).as_text() if self._wanted(key, default) else None

    def choice(self, key: str, options: Sequence[str], default: Any = REQUIRED) -> str:
        return self.node(key, default).as_choice(options)

    def flag(self, key: str, default: bool) -> bool:
        node = self.node(key, default)
        if not isinstance(node.data, bool):
            raise node.fail(f"expected true or false, found {_shown(node.data)}")
        return node.data

    def pair(self, key: str, default: Any = REQUIRED) -> tuple[float, float]:
        node = self.node(key, default)
        values = [one.as_number() for one in node.items()]
        if len(values) != 2:
            raise node.fail(f"expected two numbers [x, y], found {len(values)}")
        return values[0], values[1]

    def _wanted(self, key: str, default: Any) -> bool:
        return default is not None or self.has(key)

    def as_number(self, least: float | None = None, above: float | None = None) -> float:
        value = self.data
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise self.fail(f"expected a number, found {_shown(value)}")
        if least is not None and value < least:
            raise self.fail(f"expected at least {least:g}, found {value:g}")
        if above is not None and value <= above:
            raise self.fail(f"expected more than {above:g}, found {value:g}")
        return float(value)

    def as_integer(self, least: int = 0) -> int:
        if isinstance(self.data, bool) or not isinstance(self.data, int):
            raise self.fail(f"expected a whole number, found {_shown(self.data)}")
        if self.data < least:
            raise self.fail(f"expected at least {least}, found {self.data}")
        return self.data

    def as_text(self) -> str:
        if isinstance(self.data, bool) or not isinstance(self.data, (str, int, float)):
            raise self.fail(f"expected text, found {_shown(self.data)}; put it in quotes")
        return str(self.data)

    def as_choice(self, options: Sequence[str]) -> str:
        if self.data not in options:
            hint = _suggestion(self.data, options)
            raise self.fail(f"expected one of {', '.join(options)}, found {_shown(self.data)}{hint}")
        return str(self.data)

    def as_extension(self) -> str | int:
        """An HDU by number or name."""
        return self.as_integer(0) if isinstance(self.data, int) else self.as_text()


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "keys and values", list: "a list"}.get(type(value)) or repr(value)


def _camera(root: _Node, folder: Path | None, tables: dict[str, str]) -> Camera:
    root.check_keys(ROOT_KEYS)
    observatory = _observatory(root.node("observatory", {}))
    files = _files(root.node("files", {}))
    plane = root.node("focal_plane").check_keys(("plate_scale", "mirrored", "distortion"))
    radius, coefficients = _distortion(plane)
    isr = root.node("isr", {})
    isr.entries()
    return _checked(
        root,
        Camera(
            name=_camera_name(root),
            detectors=_detectors(root, folder, tables),
            filters=_filters(root),
            plate_scale=plane.number("plate_scale", above=0.0),
            header=_header(root.node("header"), observatory, folder, tables),
            distortion_radius=radius,
            distortion_coefficients=coefficients,
            parity=-1 if plane.flag("mirrored", False) else 1,
            files=files,
            wcs=_wcs(root.node("wcs", {})),
            isr=isr.data,
            observatory=observatory,
            description=root.text("description", ""),
        ),
    )


def _camera_name(root: _Node) -> str:
    name = root.text("name")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise root.fail(
            f"expected letters, digits, _ . or - (it becomes a file name), found {name!r}", "name"
        )
    return name


def _checked(root: _Node, camera: Camera) -> Camera:
    """What only the whole definition can tell."""
    if not camera.files.per_visit and len(camera.detectors) > 1:
        header = camera.header
        if header.item("detector_num") is None and header.item("detector_name") is None:
            raise root.fail(
                "this key is missing: with a file per detector the header must say which detector it holds; "
                "give a keyword here or in header.detector_name, or set files.layout: visit",
                "header.detector_num",
            )
    if camera.distortion is not None:
        reach = max(float((camera.corners_mm(d) ** 2).sum(0).max() ** 0.5) for d in camera.detectors)
        if camera.distortion.turning_radius < 1.05 * reach:
            raise root.fail(
                f"the polynomial turns back at {camera.distortion.turning_radius:.4g} mm, inside or near the "
                f"farthest detector corner at {reach:.4g} mm; check radius_mm and the signs",
                "focal_plane.distortion",
            )
    return camera


def _observatory(node: _Node) -> Observatory:
    node.check_keys(("name", "longitude", "latitude", "elevation", "mpc_code"))
    longitude, latitude = node.number("longitude", None), node.number("latitude", None)
    if longitude is not None and not -180 <= longitude <= 360:
        raise node.fail(f"expected degrees, positive to the east, found {longitude:g}", "longitude")
    if latitude is not None and not -90 <= latitude <= 90:
        raise node.fail(f"expected -90 to 90 degrees, found {latitude:g}", "latitude")
    return Observatory(
        name=node.text("name", ""),
        longitude=longitude,
        latitude=latitude,
        elevation=node.number("elevation", 0.0),
        mpc_code=node.text("mpc_code", None),
    )


def _files(node: _Node) -> FileLayout:
    node.check_keys(("layout", "pattern"))
    default = FileLayout()
    pattern = default.pattern
    if node.has("pattern"):
        given = node.node("pattern")
        pattern = (
            tuple(n.as_text() for n in given.items()) if isinstance(given.data, list) else (given.as_text(),)
        )
    return FileLayout(pattern, node.choice("layout", ("detector", "visit"), "detector") == "visit")


def _distortion(plane: _Node) -> tuple[float, tuple[float, ...]]:
    if not plane.has("distortion"):
        return 1.0, ()
    node = plane.node("distortion").check_keys(("radius_mm", "coefficients"))
    values = tuple(one.as_number() for one in node.node("coefficients").items())
    return node.number("radius_mm", above=0.0), values


def _filters(root: _Node) -> dict[str, str]:
    filters = {str(key): node.as_text() for key, node in root.node("filters").entries()}
    if not filters:
        raise root.fail("expected at least one 'physical filter: band'", "filters")
    for name, band in filters.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", band):
            raise root.fail(
                f"band {band!r} must be letters, digits or _ (it becomes a path)", f"filters.{name}"
            )
    return filters


def _wcs(node: _Node) -> WcsSource:
    node.check_keys(("source", "frame", "extension", "fallback"))
    extension = node.node("extension", "detector").as_extension()
    return WcsSource(
        source=node.choice("source", ("header", "nominal"), "header"),
        frame=node.choice("frame", ("assembled", "raw"), "assembled"),
        extension=extension,
        fallback=node.choice("fallback", ("nominal", "none"), "nominal"),
    )


# detectors and amplifiers

DETECTOR_KEYS = ("id", "name", "type", "purpose", "centre_mm", "rotation_deg", "extension")
TYPE_KEYS = ("size", "pixel_size_um", "amplifiers", "purpose", "extension")
VALUE_KEYS = ("gain", "read_noise", "saturation", "linearity")
GRID_KEYS = (
    "grid",
    "names",
    "read_out",
    "stored",
    "prescan",
    "overscan",
    "parallel_overscan",
    "extension",
    *VALUE_KEYS,
)
AMPLIFIER_KEYS = (
    "name",
    "extension",
    "data",
    "raw_data",
    "raw_prescan",
    "raw_overscan",
    "raw_parallel_overscan",
    "raw_size",
    "read_out",
    *VALUE_KEYS,
)


def _detectors(root: _Node, folder: Path | None, tables: dict[str, str]) -> tuple[Detector, ...]:
    types = dict(root.node("detector_types").entries())
    for node in types.values():
        node.check_keys(TYPE_KEYS)
    listed = root.node("detectors")
    rows = _table_rows(listed, folder, tables) if isinstance(listed.data, str) else listed.items()
    detectors = sorted((_detector(row, types) for row in rows), key=lambda detector: detector.id)
    if not detectors:
        raise listed.fail("expected at least one detector")
    for key in ("id", "name"):
        values = [getattr(detector, key) for detector in detectors]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise listed.fail(f"{key} {twice[0]!r} is given to more than one detector")
    return tuple(detectors)


def _table_rows(node: _Node, folder: Path | None, tables: dict[str, str]) -> list[_Node]:
    """Detectors from a CSV whose columns are the keys, with centre_x_mm and centre_y_mm."""
    rows = []
    for number, row in enumerate(_read_table(node, folder, tables), start=2):
        data = {key: _scalar(value) for key, value in row.items() if value not in ("", None)}
        if "centre_x_mm" in data or "centre_y_mm" in data:
            data["centre_mm"] = [data.pop("centre_x_mm", None), data.pop("centre_y_mm", None)]
        rows.append(_Node(data, f"line {number}", f"{node.source}: {node.where}: {node.data}"))
    return rows


def _read_table(node: _Node, folder: Path | None, tables: dict[str, str]) -> list[dict[str, str]]:
    path = (folder or Path()) / str(node.data)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise node.fail(f"the table {node.data} cannot be read beside the definition ({error})") from error
    tables[str(node.data)] = text
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    rows = list(csv.DictReader(lines, skipinitialspace=True))
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise node.fail(f"{node.data}: row {number} has not as many cells as the heading")
    return rows


def _scalar(text: str) -> Any:
    """A cell of a table as YAML would read it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


def _detector(node: _Node, types: dict[str, _Node]) -> Detector:
    node.check_keys((*DETECTOR_KEYS, *VALUE_KEYS))
    default_type = next(iter(types)) if len(types) == 1 else REQUIRED
    kind = node.choice("type", list(types), default_type)
    template = types[kind]
    number = node.integer("id")
    if number >= SOURCE_ID.capacity("detector"):
        raise node.fail(f"expected 0 to {SOURCE_ID.capacity('detector') - 1}, found {number}", "id")
    name = node.text("name", str(number))
    nx, ny = (one.as_integer(1) for one in _two(template.node("size")))
    names = {"detector": name, "id": str(number)}
    extension = node.node("extension", None) if node.has("extension") else template.node("extension", None)
    return Detector(
        id=number,
        name=name,
        purpose=node.choice("purpose", PURPOSES, template.choice("purpose", PURPOSES, "science")),
        nx=nx,
        ny=ny,
        pixel_size=template.number("pixel_size_um", above=0.0) / 1000.0,
        centre_mm=node.pair("centre_mm", [0.0, 0.0]),
        rotation_deg=node.number("rotation_deg", 0.0),
        amplifiers=_amplifiers(template.node("amplifiers"), node, nx, ny, names),
        extension=_filled(extension, names),
    )


def _two(node: _Node) -> list[_Node]:
    items = node.items()
    if len(items) != 2:
        raise node.fail(f"expected two numbers [columns, rows], found {len(items)}")
    return items


def _filled(node: _Node, names: dict[str, str]) -> str | int | None:
    """An extension with {detector}, {id} and {amplifier} filled in."""
    if node.data is None:
        return None
    extension = node.as_extension()
    if isinstance(extension, int):
        return extension
    for word in re.findall(r"\{([^}]*)\}", extension):
        if word not in names:
            known = ", ".join("{" + name + "}" for name in names)
            raise node.fail(f"{{{word}}} is not known here; known: {known}{_suggestion(word, names)}")
        extension = extension.replace(f"{{{word}}}", names[word])
    return int(extension) if extension.isdigit() else extension


def _amplifiers(
    node: _Node, detector: _Node, nx: int, ny: int, names: dict[str, str]
) -> tuple[Amplifier, ...]:
    if isinstance(node.data, dict):
        drafts = _grid(node.check_keys(GRID_KEYS), nx, ny, names)
    else:
        drafts = [_listed_amplifier(one.check_keys(AMPLIFIER_KEYS), names) for one in node.items()]
    found = [draft["name"] for draft in drafts]
    if len(set(found)) < len(found):
        raise node.fail(f"amplifier names must differ, found {', '.join(found)}")
    _check_cover(node, drafts, nx, ny)
    sizes = _hdu_sizes(drafts)
    for draft in drafts:
        draft["hdu_size"] = draft["hdu_size"] or sizes[draft["extension"]]
        draft.update(_values(node, draft, detector, found))
    return tuple(Amplifier(**{k: v for k, v in draft.items() if k != "node"}) for draft in drafts)


def _hdu_sizes(drafts: list[dict[str, Any]]) -> dict[Any, tuple[int, int]]:
    """Smallest size of each HDU that holds the sections that lie in it."""
    sizes: dict[Any, tuple[int, int]] = {}
    for draft in drafts:
        nx, ny = sizes.get(draft["extension"], (0, 0))
        box = draft["raw_section"]
        sizes[draft["extension"]] = max(nx, box.x1), max(ny, box.y1)
    return sizes


def _check_cover(node: _Node, drafts: list[dict[str, Any]], nx: int, ny: int) -> None:
    whole, area = Box(0, 0, nx, ny), 0
    for i, draft in enumerate(drafts):
        if not draft["data"].within(whole):
            raise draft["node"].fail(f"{_section(draft['data'])} leaves the detector of {nx} x {ny} pixels")
        for other in drafts[:i]:
            if draft["data"].overlap(other["data"]):
                raise draft["node"].fail(
                    f"amplifiers {other['name']} and {draft['name']} overlap in the detector"
                )
        area += draft["data"].area
    if area != nx * ny:
        raise node.fail(f"the amplifiers cover {area} pixels of the detector's {nx} x {ny} = {nx * ny}")


def _section(box: Box) -> str:
    return f"[{box.x0 + 1}:{box.x1},{box.y0 + 1}:{box.y1}]"


def _values(node: _Node, draft: dict[str, Any], detector: _Node, names: list[str]) -> dict[str, Any]:
    """Gain, read noise, saturation and linearity: the detector's own, else the type's."""
    values: dict[str, Any] = {}
    for key in VALUE_KEYS:
        source = detector if detector.has(key) else draft["node"]
        if not source.has(key) and key == "linearity":
            values[key] = ()
            continue
        given = source.node(key)
        if key == "linearity":
            values[key] = _linearity(given, draft["name"], names)
        else:
            least = {"least": 0.0} if key == "read_noise" else {"above": 0.0}
            values[key] = _of_amplifier(given, draft["name"], names).as_number(**least)
    return values


def _of_amplifier(node: _Node, name: str, names: list[str]) -> _Node:
    """One amplifier's share of a value: the same for all, a list in their order, or by name."""
    if isinstance(node.data, dict):
        node.check_keys(names)
        return node.node(name)
    if isinstance(node.data, list):
        if len(node.data) != len(names):
            raise node.fail(
                f"expected one value or {len(names)} ({', '.join(names)}), found {len(node.data)}"
            )
        return node.items()[names.index(name)]
    return node


def _linearity(node: _Node, name: str, names: list[str]) -> tuple[float, ...]:
    """A list of coefficients for all, or such lists by amplifier name."""
    if isinstance(node.data, dict):
        node = _of_amplifier(node, name, names)
    return tuple(one.as_number() for one in node.items())


def _grid(node: _Node, nx: int, ny: int, names: dict[str, str]) -> list[dict[str, Any]]:
    """Amplifiers that divide a detector evenly."""
    columns, rows = (one.as_integer(1) for one in _two(node.node("grid", [1, 1])))
    if nx % columns or ny % rows:
        raise node.fail(f"{columns} x {rows} amplifiers do not divide {nx} x {ny} pixels evenly", "grid")
    count = columns * rows
    given = node.node("names", [f"A{i + 1}" for i in range(count)])
    labels = [one.as_text() for one in given.items()]
    if len(labels) != count:
        raise given.fail(f"expected {count} names for {columns} x {rows} amplifiers, found {len(labels)}")
    corners = _corners(node, columns, rows)
    as_read = node.choice("stored", ("as_read", "as_assembled"), "as_read") == "as_read"
    widths = {key: node.integer(key, 0) for key in ("prescan", "overscan", "parallel_overscan")}
    own_hdu = node.has("extension") and "{amplifier}" in str(node.node("extension").data)
    drafts = []
    for i, label in enumerate(labels):
        column, row = i % columns, i // columns
        data = Box(column * (nx // columns), row * (ny // rows), nx // columns, ny // rows)
        right, upper = corners[i].endswith("right"), corners[i].startswith("upper")
        # stored as assembled, the prescan is on the side of the output; stored as read, always first
        boxes = _tile(data.nx, data.ny, widths, right and not as_read, upper and not as_read)
        section = boxes.pop("section")
        place = (0, 0) if own_hdu else (column * section.nx, row * section.ny)
        drafts.append(
            {
                "node": node,
                "name": label,
                "extension": _filled(node.node("extension", None), {**names, "amplifier": label}),
                "raw_section": section.shifted(*place),
                **boxes,
                "data": data,
                "flip_x": right and as_read,
                "flip_y": upper and as_read,
                "read_out": corners[i],
                "hdu_size": None,
            }
        )
    return drafts


def _corners(node: _Node, columns: int, rows: int) -> list[str]:
    """Read-out corner of each amplifier of a grid, row by row from the lower left."""
    count = columns * rows
    given = node.node("read_out", "nearest_corner")
    if isinstance(given.data, list):
        if len(given.data) != count:
            raise given.fail(f"expected one corner or {count}, found {len(given.data)}")
        return [one.as_choice(CORNERS) for one in given.items()]
    if given.as_choice(("nearest_corner", *CORNERS)) != "nearest_corner":
        return [str(given.data)] * count
    return [
        ("upper" if 2 * (i // columns) >= rows and rows > 1 else "lower")
        + ("_right" if 2 * (i % columns) >= columns and columns > 1 else "_left")
        for i in range(count)
    ]


def _tile(nx: int, ny: int, widths: dict[str, int], mirror_x: bool, mirror_y: bool) -> dict[str, Any]:
    """Boxes of one amplifier's raw section: prescan, data, overscan; parallel overscan after the data."""
    pre, over, parallel = widths["prescan"], widths["overscan"], widths["parallel_overscan"]
    width, height = pre + nx + over, ny + parallel

    def box(x0: int, y0: int, bx: int, by: int) -> Box | None:
        if not bx or not by:
            return None
        return Box(width - x0 - bx if mirror_x else x0, height - y0 - by if mirror_y else y0, bx, by)

    return {
        "section": Box(0, 0, width, height),
        "raw_data": box(pre, 0, nx, ny),
        "raw_prescan": box(0, 0, pre, ny),
        "raw_overscan": box(pre + nx, 0, over, ny),
        "raw_parallel_overscan": box(pre, ny, nx, parallel),
    }


def _listed_amplifier(node: _Node, names: dict[str, str]) -> dict[str, Any]:
    """One amplifier with sections written out."""
    name = node.text("name")
    data, flip_x, flip_y = _section_of(node, "data")
    boxes: dict[str, Box | None] = {}
    for key in ("raw_data", "raw_prescan", "raw_overscan", "raw_parallel_overscan"):
        if key != "raw_data" and not node.has(key):
            boxes[key] = None
            continue
        box, back_x, back_y = _section_of(node, key)
        if back_x or back_y:
            raise node.fail("write this range from low to high; only `data` may be reversed, for a flip", key)
        boxes[key] = box
    union = boxes["raw_data"]
    for box in boxes.values():
        union = union.union(box) if box else union  # type: ignore[union-attr]
    assert union is not None
    if boxes["raw_data"].shape != data.shape:  # type: ignore[union-attr]
        raise node.fail(
            f"{node.data['raw_data']} and data {node.data['data']} must have the same size", "raw_data"
        )
    corner = ("upper" if flip_y else "lower") + ("_right" if flip_x else "_left")
    return {
        "node": node,
        "name": name,
        "extension": _filled(node.node("extension", None), {**names, "amplifier": name}),
        "raw_section": union,
        **{key: box.shifted(-union.x0, -union.y0) if box else None for key, box in boxes.items()},
        "data": data,
        "flip_x": flip_x,
        "flip_y": flip_y,
        "read_out": node.choice("read_out", CORNERS, corner),
        "hdu_size": _raw_size(node, union),
    }


def _raw_size(node: _Node, union: Box) -> tuple[int, int] | None:
    if not node.has("raw_size"):
        return None
    nx, ny = (one.as_integer(1) for one in _two(node.node("raw_size")))
    if union.x1 > nx or union.y1 > ny:
        raise node.fail(f"sections reach to {union.x1} x {union.y1}, beyond {nx} x {ny}", "raw_size")
    return nx, ny


def _section_of(node: _Node, key: str) -> tuple[Box, bool, bool]:
    text = node.node(key)
    try:
        return parse_section(text.as_text() if not isinstance(text.data, list) else str(text.data))
    except ValueError as error:
        if isinstance(error, CameraError):
            raise
        raise text.fail(f"{error} (in quotes: YAML takes brackets for a list)") from error


# header

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


def _header(node: _Node, observatory: Observatory, folder: Path | None, tables: dict[str, str]) -> HeaderMap:
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
    overrides, by_file, by_id = _overrides(node, folder, tables)
    return HeaderMap(recognise, items, overrides, by_file, by_id)


def _item(name: str, node: _Node, observatory: Observatory) -> HeaderItem:
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


def _reading(kind: str, node: _Node) -> dict[str, Any]:
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


def _check_constants(item: HeaderItem, node: _Node) -> None:
    """Constants must make sense before any header is read."""
    constants = [("value", item.value), ("default", item.default)]
    constants += [("map", ours) for _, ours in item.map] + [("rules", ours) for _, ours in item.rules]
    for key, value in constants:
        if value is None:
            continue
        if item.name == "frame_type":
            _Node(value, node._path(key), node.source).as_choice(observation_info.FRAME_TYPES)
        elif not item.map or key != "value":
            try:
                observation_info.convert(item, value)
            except HeaderValueError:
                kind = observation_info.FIELDS[item.name]
                raise node.fail(f"expected {kind} for {item.name}, found {value!r}", key) from None


def _visit_rule(name: str, node: _Node, observatory: Observatory) -> HeaderItem:
    rule = node.choice("rule", observation_info.VISIT_RULES)
    if rule == "decisecond":
        return HeaderItem(name, rule=rule)
    if observatory.longitude is None:
        raise node.fail("the night needs observatory.longitude (degrees, positive to the east)", "rule")
    digits = node.integer("digits", 4, 1)
    if digits > 5:
        raise node.fail("a visit id has 36 bits: YYMMDD leaves room for 4 digits, 5 until 2068", "digits")
    return HeaderItem(name, rule=rule, rule_keyword=node.text("sequence"), rule_digits=digits)


def _keywords(node: _Node) -> tuple[str, ...]:
    """One text or a list of them."""
    return tuple(one.as_text() for one in node.items()) if isinstance(node.data, list) else (node.as_text(),)


def _constant(node: _Node) -> Any:
    if isinstance(node.data, (dict, list)):
        raise node.fail(f"expected a single value, found {_shown(node.data)}")
    return node.data


def _expression(node: _Node) -> Expression:
    try:
        return Expression(node.as_text())
    except CameraError:
        raise
    except ValueError as error:
        raise node.fail(str(error)) from error


def _regex(node: _Node) -> str:
    try:
        groups = re.compile(node.as_text()).groups
    except re.error as error:
        raise node.fail(f"regular expression {node.data!r} is wrong ({error})") from error
    if groups != 1:
        raise node.fail(f"{node.data!r} needs exactly one group in brackets, the part to take")
    return str(node.data)


def _rules(node: _Node) -> tuple[tuple[Condition, Any], ...]:
    rules = []
    for rule in node.items():
        rule.check_keys(("when", "is"))
        rules.append((_condition(rule.node("when", {})), _constant(rule.node("is"))))
    return tuple(rules)


def _condition(node: _Node) -> Condition:
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


def _overrides(node: _Node, folder: Path | None, tables: dict[str, str]) -> tuple[tuple, tuple, tuple]:
    """General overrides, and those of exact file names and observation ids."""
    if not node.has("overrides"):
        return (), (), ()
    given = node.node("overrides")
    if isinstance(given.data, str):
        return _override_table(given, folder, tables)
    overrides = []
    for row in given.items():
        row.check_keys(("when", *observation_info.FIELDS))
        values = [(key, one) for key, one in row.entries() if key != "when"]
        overrides.append(Override(_condition(row.node("when")), _override_values(values)))
    return tuple(overrides), (), ()


def _override_table(node: _Node, folder: Path | None, tables: dict[str, str]) -> tuple[tuple, tuple, tuple]:
    overrides, exact = [], {"file": [], "observation_id": []}
    for number, row in enumerate(_read_table(node, folder, tables), start=2):
        line = _Node(row, f"line {number}", f"{node.source}: {node.where}: {node.data}")
        line.check_keys(("file", *observation_info.FIELDS))
        keys = [key for key in ("file", "observation_id") if row.get(key)]
        if not keys:
            raise line.fail(
                "give a file (or pattern) or an observation_id (or range) to which the line applies"
            )
        values = [
            (key, _Node(_scalar(cell), f"{line.where}.{key}", line.source))
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


def _override_values(values: list[tuple[str, _Node]]) -> tuple[tuple[str, Any], ...]:
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
