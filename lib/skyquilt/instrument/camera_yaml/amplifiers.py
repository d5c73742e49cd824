"""Camera definitions (LDM-151 4.1.2.3, design 5): amplifiers of a detector, listed or in an even grid."""

from __future__ import annotations

import re
from typing import Any

from skyquilt.instrument.camera import CORNERS, Amplifier
from skyquilt.instrument.camera_yaml.node import CameraError, Node
from skyquilt.primitives.geometry import Box

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


def read_amplifiers(
    node: Node, detector: Node, nx: int, ny: int, names: dict[str, str]
) -> tuple[Amplifier, ...]:
    """Amplifiers of a detector of nx x ny pixels, in the definition's order.

    `detector` is the node of the detector, whose values go before the type's; `names` fills extensions.
    """
    if isinstance(node.data, dict):
        drafts = _grid(node.check_keys(GRID_KEYS), nx, ny, names, _has_own_hdus(detector))
    else:
        drafts = [_listed_amplifier(one.check_keys(AMPLIFIER_KEYS), names) for one in node.items()]
    found = [draft["name"] for draft in drafts]
    if len(set(found)) < len(found):
        raise node.fail(f"amplifier names must differ, found {', '.join(found)}")
    _check_cover(node, drafts, nx, ny)
    if detector.has("extensions"):
        _place_in_own_hdus(detector.node("extensions"), drafts, found)
    sizes = _hdu_sizes(drafts)
    for draft in drafts:
        draft["hdu_size"] = draft["hdu_size"] or sizes[draft["extension"]]
        draft.update(_values(node, draft, detector, found))
    return tuple(Amplifier(**{k: v for k, v in draft.items() if k != "node"}) for draft in drafts)


def _has_own_hdus(detector: Node) -> bool:
    """Whether a detector's `extensions` give each amplifier an HDU of its own."""
    if not detector.has("extensions"):
        return False
    given = detector.node("extensions").data
    values = list(given.values()) if isinstance(given, dict) else given
    return isinstance(values, list) and len({str(value) for value in values}) == len(values)


def _place_in_own_hdus(node: Node, drafts: list[dict[str, Any]], names: list[str]) -> None:
    """HDUs of the amplifiers of one detector, where no pattern can say them (unnamed HDUs of a mosaic)."""
    if not isinstance(node.data, (dict, list)):
        raise node.fail(f"expected an HDU for each of {', '.join(names)}, found {node.data!r}")
    for draft in drafts:
        draft["extension"] = _of_amplifier(node, draft["name"], names).as_extension()


def _hdu_sizes(drafts: list[dict[str, Any]]) -> dict[Any, tuple[int, int]]:
    """Smallest size of each HDU that holds the sections that lie in it."""
    sizes: dict[Any, tuple[int, int]] = {}
    for draft in drafts:
        nx, ny = sizes.get(draft["extension"], (0, 0))
        box = draft["raw_section"]
        sizes[draft["extension"]] = max(nx, box.x1), max(ny, box.y1)
    return sizes


def _check_cover(node: Node, drafts: list[dict[str, Any]], nx: int, ny: int) -> None:
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


def _values(node: Node, draft: dict[str, Any], detector: Node, names: list[str]) -> dict[str, Any]:
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


def _of_amplifier(node: Node, name: str, names: list[str]) -> Node:
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


def _linearity(node: Node, name: str, names: list[str]) -> tuple[float, ...]:
    """A list of coefficients for all, or such lists by amplifier name."""
    if isinstance(node.data, dict):
        node = _of_amplifier(node, name, names)
    return tuple(one.as_number() for one in node.items())


def _grid(node: Node, nx: int, ny: int, names: dict[str, str], own_hdus: bool) -> list[dict[str, Any]]:
    """Amplifiers that divide a detector evenly."""
    columns, rows = node.sizes("grid", [1, 1])
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
    own_hdu = own_hdus or (node.has("extension") and "{amplifier}" in str(node.node("extension").data))
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
                "extension": node.node("extension", None).filled_extension({**names, "amplifier": label}),
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


def _corners(node: Node, columns: int, rows: int) -> list[str]:
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


def _listed_amplifier(node: Node, names: dict[str, str]) -> dict[str, Any]:
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
        "extension": node.node("extension", None).filled_extension({**names, "amplifier": name}),
        "raw_section": union,
        **{key: box.shifted(-union.x0, -union.y0) if box else None for key, box in boxes.items()},
        "data": data,
        "flip_x": flip_x,
        "flip_y": flip_y,
        "read_out": node.choice("read_out", CORNERS, corner),
        "hdu_size": _raw_size(node, union),
    }


def _raw_size(node: Node, union: Box) -> tuple[int, int] | None:
    if not node.has("raw_size"):
        return None
    nx, ny = node.sizes("raw_size")
    if union.x1 > nx or union.y1 > ny:
        raise node.fail(f"sections reach to {union.x1} x {union.y1}, beyond {nx} x {ny}", "raw_size")
    return nx, ny


def _section_of(node: Node, key: str) -> tuple[Box, bool, bool]:
    text = node.node(key)
    try:
        return parse_section(text.as_text() if not isinstance(text.data, list) else str(text.data))
    except ValueError as error:
        if isinstance(error, CameraError):
            raise
        raise text.fail(f"{error} (in quotes: YAML takes brackets for a list)") from error


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
