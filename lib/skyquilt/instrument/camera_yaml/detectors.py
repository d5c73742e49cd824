"""Camera definitions (LDM-151 4.1.2.3, design 5): detectors, from a list or a table beside the definition."""

from __future__ import annotations

from skyquilt.instrument.camera import PURPOSES, Detector
from skyquilt.instrument.camera_yaml.amplifiers import VALUE_KEYS, parse_section, read_amplifiers
from skyquilt.instrument.camera_yaml.node import REQUIRED, CameraError, Node
from skyquilt.instrument.camera_yaml.tables import Tables, cell_value
from skyquilt.primitives.data_units import SOURCE_ID
from skyquilt.primitives.geometry import Box

DETECTOR_KEYS = (
    "id",
    "name",
    "type",
    "purpose",
    "centre_mm",
    "rotation_deg",
    "extension",
    "extensions",
    "defects",
)
TYPE_KEYS = ("size", "pixel_size_um", "amplifiers", "purpose", "extension")


def read_detectors(root: Node, tables: Tables) -> tuple[Detector, ...]:
    """Detectors of a definition, by id."""
    types = dict(root.node("detector_types").entries())
    for node in types.values():
        node.check_keys(TYPE_KEYS)
    listed = root.node("detectors")
    rows = _table_rows(listed, tables) if isinstance(listed.data, str) else listed.items()
    detectors = sorted((_detector(row, types) for row in rows), key=lambda detector: detector.id)
    if not detectors:
        raise listed.fail("expected at least one detector")
    for key in ("id", "name"):
        values = [getattr(detector, key) for detector in detectors]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise listed.fail(f"{key} {twice[0]!r} is given to more than one detector")
    return tuple(detectors)


def _table_rows(node: Node, tables: Tables) -> list[Node]:
    """Detectors from a CSV whose columns are the keys, with centre_x_mm and centre_y_mm.

    Where each amplifier has a value of its own, a cell holds them with blanks between.
    """
    rows = []
    for line in tables.lines(node):
        data = {key: _cell(key, cell) for key, cell in line.data.items() if cell}
        if "centre_x_mm" in data or "centre_y_mm" in data:
            data["centre_mm"] = [data.pop("centre_x_mm", None), data.pop("centre_y_mm", None)]
        rows.append(Node(data, line.where, line.source))
    return rows


def _cell(key: str, text: str) -> object:
    """A cell of the table; what an amplifier may have of its own may be several values between blanks."""
    if key in (*VALUE_KEYS, "extensions", "defects") and (key == "defects" or len(text.split()) > 1):
        return [cell_value(part) for part in text.split()]
    return cell_value(text)


def _detector(node: Node, types: dict[str, Node]) -> Detector:
    node.check_keys((*DETECTOR_KEYS, *VALUE_KEYS))
    default_type = next(iter(types)) if len(types) == 1 else REQUIRED
    kind = node.choice("type", list(types), default_type)
    template = types[kind]
    number = node.integer("id")
    if number >= SOURCE_ID.capacity("detector"):
        raise node.fail(f"expected 0 to {SOURCE_ID.capacity('detector') - 1}, found {number}", "id")
    name = node.text("name", str(number))
    nx, ny = template.sizes("size")
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
        amplifiers=read_amplifiers(template.node("amplifiers"), node, nx, ny, names),
        extension=extension.filled_extension(names),
        defects=tuple(_defect(one, Box(0, 0, nx, ny)) for one in node.node("defects", []).items()),
    )


def _defect(node: Node, detector: Box) -> Box:
    """One bad region of the assembled detector."""
    try:
        box, back_x, back_y = parse_section(node.as_text())
    except ValueError as error:
        if isinstance(error, CameraError):
            raise
        raise node.fail(str(error)) from error
    if back_x or back_y or not box.within(detector):
        raise node.fail(
            f"expected a section from low to high inside the detector of {detector.nx} x {detector.ny} pixels, "
            f"found {node.data}"
        )
    return box
