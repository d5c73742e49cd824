"""Camera definitions from YAML (LDM-151 4.1.2.3, design 5): a page of text makes a `Camera`.

The reference of the keys is `docs/cameras.md`. Everything is checked when it is read: an unknown key, a wrong
kind of value, sections that overlap or leave the detector stop with a `CameraError` that names file and key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skyquilt.instrument.camera import Camera, FileLayout, GhostModel, Observatory, WcsSource
from skyquilt.instrument.camera_yaml.amplifiers import parse_section
from skyquilt.instrument.camera_yaml.detectors import read_detectors
from skyquilt.instrument.camera_yaml.header import read_header
from skyquilt.instrument.camera_yaml.node import CameraError, Node, read_yaml, suggestion
from skyquilt.instrument.camera_yaml.tables import Tables

__all__ = ["CameraError", "load_camera", "parse_camera", "parse_section"]

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
    "zero_points",
    "fringe_filters",
    "ghosts",
)

GHOST_KEYS = ("radius_mm", "inner_fraction", "magnification", "offset_mm", "flux_ratio")


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
        f"no camera definition {text!r}{suggestion(text, known)}; known: {', '.join(known) or 'none'} "
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
    root = read_yaml(text, source)
    tables = Tables(folder)
    camera = _camera(root, tables)
    canonical = _text_keys({"definition": root.data, "tables": tables.texts})
    return replace(camera, canonical=json.dumps(canonical, sort_keys=True, ensure_ascii=False))


def _text_keys(data: Any) -> Any:
    """The same data with all keys as text: numbers and words as keys cannot be sorted together."""
    if isinstance(data, dict):
        return {str(key): _text_keys(value) for key, value in data.items()}
    return [_text_keys(value) for value in data] if isinstance(data, list) else data


def _camera(root: Node, tables: Tables) -> Camera:
    root.check_keys(ROOT_KEYS)
    observatory = _observatory(root.node("observatory", {}))
    files = _files(root.node("files", {}))
    plane = root.node("focal_plane").check_keys(("plate_scale", "mirrored", "distortion"))
    radius, coefficients = _distortion(plane)
    isr = root.node("isr", {})
    isr.entries()
    filters = _filters(root)
    return _checked(
        root,
        Camera(
            name=_camera_name(root),
            detectors=read_detectors(root, tables),
            filters=filters,
            plate_scale=plane.number("plate_scale", above=0.0),
            header=read_header(root.node("header"), observatory, tables),
            distortion_radius=radius,
            distortion_coefficients=coefficients,
            parity=-1 if plane.flag("mirrored", False) else 1,
            files=files,
            wcs=_wcs(root.node("wcs", {})),
            isr=isr.data,
            observatory=observatory,
            ghosts=_ghosts(root),
            zero_points=_zero_points(root, filters),
            fringe_filters=_fringe_filters(root, filters),
            description=root.text("description", ""),
        ),
    )


def _camera_name(root: Node) -> str:
    name = root.text("name")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise root.fail(
            f"expected letters, digits, _ . or - (it becomes a file name), found {name!r}", "name"
        )
    return name


def _checked(root: Node, camera: Camera) -> Camera:
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


def _observatory(node: Node) -> Observatory:
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


def _files(node: Node) -> FileLayout:
    node.check_keys(("layout", "pattern"))
    default = FileLayout()
    pattern = default.pattern
    if node.has("pattern"):
        given = node.node("pattern")
        pattern = (
            tuple(n.as_text() for n in given.items()) if isinstance(given.data, list) else (given.as_text(),)
        )
    return FileLayout(pattern, node.choice("layout", ("detector", "visit"), "detector") == "visit")


def _distortion(plane: Node) -> tuple[float, tuple[float, ...]]:
    if not plane.has("distortion"):
        return 1.0, ()
    node = plane.node("distortion").check_keys(("radius_mm", "coefficients"))
    values = tuple(one.as_number() for one in node.node("coefficients").items())
    return node.number("radius_mm", above=0.0), values


def _filters(root: Node) -> dict[str, str]:
    filters = {str(key): node.as_text() for key, node in root.node("filters").entries()}
    if not filters:
        raise root.fail("expected at least one 'physical filter: band'", "filters")
    for name, band in filters.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", band):
            raise root.fail(
                f"band {band!r} must be letters, digits or _ (it becomes a path)", f"filters.{name}"
            )
    return filters


def _zero_points(root: Node, filters: dict[str, str]) -> dict[str, float]:
    found = {}
    for name, node in root.node("zero_points", {}).entries():
        if name not in filters:
            raise node.fail(f"no such filter; the filters are {', '.join(filters)}")
        found[str(name)] = node.as_number()
    return found


def _fringe_filters(root: Node, filters: dict[str, str]) -> tuple[str, ...]:
    return tuple(one.as_choice(list(filters)) for one in root.node("fringe_filters", []).items())


def _ghosts(root: Node) -> tuple[GhostModel, ...]:
    ghosts = []
    for node in root.node("ghosts", []).items():
        node.check_keys(GHOST_KEYS)
        inner = node.number("inner_fraction", 0.0, least=0.0)
        if inner >= 1.0:
            raise node.fail(f"expected less than 1, found {inner:g}", "inner_fraction")
        ghosts.append(
            GhostModel(
                radius_mm=node.number("radius_mm", above=0.0),
                inner_fraction=inner,
                magnification=node.number("magnification", 1.0),
                offset_mm=node.pair("offset_mm", [0.0, 0.0]),
                flux_ratio=node.number("flux_ratio", above=0.0),
            )
        )
    return tuple(ghosts)


def _wcs(node: Node) -> WcsSource:
    node.check_keys(("source", "frame", "extension", "fallback"))
    extension = node.node("extension", "detector").as_extension()
    return WcsSource(
        source=node.choice("source", ("header", "nominal"), "header"),
        frame=node.choice("frame", ("assembled", "raw"), "assembled"),
        extension=extension,
        fallback=node.choice("fallback", ("nominal", "none"), "nominal"),
    )
