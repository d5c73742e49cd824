"""Calibration products for the quality pages (LDM-151 6.2.1): their manifests and small pictures of their pixels.

Pictures are binned to `calibration_picture_pixels` and stretched from percentile to percentile, which stand beside
them. A picture of an earlier site is kept when neither its product nor the code that draws has changed, so that a
site written again costs no pass over the pixels of all calibrations.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

# read_components knows the kinds of components that were imported
import skyquilt.primitives.detector_characterization  # noqa: F401
from skyquilt.io.atomic import write_bytes
from skyquilt.io.components import read_components
from skyquilt.io.fits import read_pixels
from skyquilt.io.manifests import CorruptProduct, Manifest, member_problem, read_manifest
from skyquilt.quality.visit_pictures import binned_picture

if TYPE_CHECKING:
    from skyquilt.io.manifests import ManifestWriter

PERCENTILES = (1.0, 99.0)
"""Of the blocks of a picture: black and white."""

CalibrationId = tuple[str, str]
"""Kind and id of a calibration product, such as ("flat", "r-20270430")."""


@dataclass(frozen=True)
class Picture:
    """A small picture of a combined frame.

    Parameters
    ----------
    path : str
        PNG file, relative to the site.
    black, white : float
        Values of the darkest and the brightest grey [unit]; NaN where no pixel has a value.
    unit : str
    block : int
        Side of the square of detector pixels that became a pixel of the picture.
    width, height : int
        [pixel of the picture]
    """

    path: str
    black: float
    white: float
    unit: str
    block: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class CalibrationProduct:
    """What the pages show of one calibration product.

    Parameters
    ----------
    kind, name : str
        Its kind and id.
    status : str
        ok, flagged or failed.
    stage : str
    physical_filter : str
        Empty where it serves all filters.
    night, valid_from, valid_to : float
        MJD on which its night began, first and last night it may serve.
    frames : mapping of detector to sequence of str
        Names of the raw frames it was given, in the order in which they were read.
    uses, serves : mapping of kind to sequence of str
        Products it was made with, and products made with it.
    visits : sequence of int
        Visits that were corrected with it.
    parts : mapping of detector to mapping
        status, and for those without a result reason and detail.
    figures : mapping of detector to mapping
        Of its manifest.
    pictures : mapping of detector to Picture
    boxes : mapping of detector to (boxes, kinds)
        Defects: x0, y0, nx, ny in assembled pixels, shape (n, 4), and kinds (index into DEFECT_KINDS), shape (n,).
    shapes : mapping of detector to (ny, nx)
    """

    kind: str
    name: str
    status: str = "ok"
    stage: str = ""
    physical_filter: str = ""
    night: float = math.nan
    valid_from: float = math.nan
    valid_to: float = math.nan
    frames: Mapping[int, Sequence[str]] = field(default_factory=dict)
    uses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    serves: Mapping[str, Sequence[str]] = field(default_factory=dict)
    visits: Sequence[int] = ()
    parts: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    figures: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    pictures: Mapping[int, Picture] = field(default_factory=dict)
    boxes: Mapping[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    shapes: Mapping[int, tuple[int, int]] = field(default_factory=dict)


def calibration_products(
    manifests: Iterable[Manifest],
    slices: Iterable[Mapping[str, Any]],
    visits: Mapping[CalibrationId, Sequence[int]],
    pictures: Mapping[CalibrationId, Mapping[int, Picture]],
    shapes: Mapping[int, tuple[int, int]],
) -> Iterator[CalibrationProduct]:
    """What the pages show, one product at a time: figures of many amplifiers are large.

    Parameters
    ----------
    manifests : iterable of Manifest
        Of calibration products.
    slices : iterable of mappings
        Their slices of the registry (kind, calibration, frames, uses, night, valid_from, valid_to).
    visits : mapping
        Of `visits_served`.
    pictures : mapping
        Of `draw_pictures`.
    shapes : mapping of detector to (ny, nx)
    """
    entries = {(entry["kind"], str(entry["calibration"])): entry for entry in slices}
    serves = _served(entries)
    for manifest in manifests:
        identity = kind, name = identity_of(manifest)
        entry = entries.get(identity, {})
        boxes = {}
        if members := manifest.members("defects"):
            found = read_components(manifest.open(members[0]))
            boxes = {detector: (each.boxes, each.kinds) for detector, each in found.items()}
        yield CalibrationProduct(
            kind,
            name,
            manifest.status,
            manifest.content["stage"],
            entry.get("physical_filter", ""),
            *(float(entry.get(key, math.nan)) for key in ("night", "valid_from", "valid_to")),
            frames=_frames(entry, shapes),
            uses=entry.get("uses", {}),
            serves=serves.get(identity, {}),
            visits=visits.get(identity, ()),
            parts=parts_of(manifest),
            figures={int(detector): each for detector, each in manifest.content["figures"].items()},
            pictures=pictures.get(identity, {}),
            boxes=boxes,
            shapes=shapes,
        )


def identity_of(manifest: Manifest) -> CalibrationId:
    """Kind and id of the product that a manifest describes, by where it lies."""
    return manifest.directory.parent.name, manifest.directory.name


def parts_of(manifest: Manifest) -> dict[int, dict[str, Any]]:
    """Detector -> status, reason and detail."""
    return {int(part.removeprefix("detector ")): entry for part, entry in manifest.parts.items()}


def visits_served(visits: Iterable[Manifest]) -> dict[CalibrationId, list[int]]:
    """Product -> visits that were corrected with it, in order, by the manifests of the visits."""
    served: dict[CalibrationId, list[int]] = {}
    for manifest in visits:
        information = manifest.content["figures"].get("information", {})
        for kind, name in information.get("calibrations", {}).items():
            if name:
                served.setdefault((kind, str(name)), []).append(int(manifest.content["unit"]["visit"]))
    return {identity: sorted(numbers) for identity, numbers in served.items()}


def calibration_failures(manifests: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Detectors for which a calibration product was not made, as the page of failures lists them."""
    return [
        {
            "stage": manifest.content["stage"],
            "visit": None,
            "detector": detector,
            "reason": entry["reason"],
            "detail": f"{' '.join(identity_of(manifest))}: {entry.get('detail', '')}",
        }
        for manifest in manifests
        for detector, entry in parts_of(manifest).items()
        if entry["status"] != "ok"
    ]


def _served(entries: Mapping[CalibrationId, Mapping[str, Any]]) -> dict[CalibrationId, dict[str, list[str]]]:
    served: dict[CalibrationId, dict[str, list[str]]] = {}
    for (kind, name), entry in entries.items():
        for used, names in entry["uses"].items():
            for each in names:
                served.setdefault((used, each), {}).setdefault(kind, []).append(name)
    return served


def _frames(entry: Mapping[str, Any], detectors: Iterable[int]) -> dict[int, list[str]]:
    """Detector -> names of its raw frames, in the order of their paths, in which pipelines read them."""
    paths: dict[int, list[str]] = {}
    for frame in entry.get("frames", ()):
        # -1: a file that holds every detector
        for detector in detectors if frame["detector"] == -1 else (frame["detector"],):
            paths.setdefault(int(detector), []).append(frame["path"])
    return {d: [PurePosixPath(path).name for path in sorted(own)] for d, own in paths.items()}


# --- pictures -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawCalibration:
    """Callable of the pool: draw the combined frame of one detector.

    Parameters
    ----------
    site : Path
        Directory of the pages.
    pixels : int
        Longest side of a picture [pixel].
    """

    site: Path
    pixels: int

    def __call__(self, item: tuple[Path, str, str]) -> Picture:
        """Picture of a member of a manifest: (path of the manifest, name of the member, path of the picture)."""
        source, member, path = item
        exposure = read_pixels(read_manifest(source).open(member))
        block = math.ceil(max(exposure.image.shape) / self.pixels)
        binned, _ = binned_picture(exposure.image, exposure.mask, block)
        levels, black, white = grey_levels(binned)
        write_bytes(self.site / path, grey_png(levels[::-1]))
        height, width = levels.shape
        return Picture(path, black, white, exposure.unit, block, width, height)


def draw_pictures(
    manifests: Iterable[Manifest],
    writer: ManifestWriter,
    pixels: int,
    map: Any,
    previous: Manifest | None = None,
) -> dict[CalibrationId, dict[int, Picture]]:
    """Draw, or keep, a picture of every combined frame, and note it in the site's manifest.

    Parameters
    ----------
    manifests : iterable of Manifest
        Of calibration products, all of them noted among the inputs of `writer`.
    writer : ManifestWriter
        Of the site: PNG files become members, what their greys mean its figures.
    pixels : int
        Longest side of a picture [pixel].
    map : callable
        Of the pool, or `serial_map`.
    previous : Manifest, optional
        Of an earlier site, whose pictures are kept where they are still true.

    Returns
    -------
    dict
        (kind, id) -> detector -> Picture.
    """
    kept, places, waiting = {}, {}, []
    for manifest in manifests:
        identity = identity_of(manifest)
        known = _still_true(manifest, writer, previous)
        for member, entry in manifest.files.items():
            if not (entry["dataset"] == identity[0] and "detector" in entry["unit"]):
                continue
            path = f"calibrations/{'-'.join(identity)}/{Path(member).stem}.png"
            places[path] = identity, int(entry["unit"]["detector"])
            if path in known and not member_problem(previous, path, full=True):
                kept[path] = Picture(path, **known[path])
            else:
                waiting.append((manifest.path, member, path))
    drawn = map(DrawCalibration(writer.directory, pixels), waiting)
    pictures = kept | {outcome.value.path: outcome.value for outcome in drawn}
    found: dict[CalibrationId, dict[int, Picture]] = {}
    noted = {}
    for path, (identity, detector) in places.items():
        found.setdefault(identity, {})[detector] = pictures[path]
        writer.note("calibration_picture", path, kind=identity[0], calibration=identity[1], detector=detector)
        noted[path] = {key: value for key, value in asdict(pictures[path]).items() if key != "path"}
    writer.figures["calibration_pictures"] = noted
    return found


def previous_site(path: Path) -> Manifest | None:
    """Manifest of the site that lies there; None when there is none to trust."""
    with contextlib.suppress(CorruptProduct, FileNotFoundError):
        return read_manifest(path)
    return None


def _still_true(
    manifest: Manifest, writer: ManifestWriter, previous: Manifest | None
) -> Mapping[str, Mapping[str, Any]]:
    """Figures of the earlier site's pictures when made by the same code and options from the same product."""
    if previous is None or any(previous.content[key] != value for key, value in writer.digests.items()):
        return {}
    for name, entry in writer.inputs.items():
        if name.endswith("/".join(manifest.path.parts[-3:])):
            if previous.content["inputs"].get(name, {}).get("xxh3") != entry["xxh3"]:
                return {}
            known = previous.content["figures"].get("calibration_pictures", {})
            # a picture without any value has no black and white
            return {
                path: {**each, **{k: math.nan for k in ("black", "white") if each[k] is None}}
                for path, each in known.items()
                if path in previous.files
            }
    return {}


def grey_levels(image: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Linear greys between percentiles of an image.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        What is not finite becomes black.

    Returns
    -------
    levels : ndarray of uint8, same shape
    black, white : float
        Values of levels 0 and 255; NaN when no value is finite.
    """
    finite = image[np.isfinite(image)]
    if not finite.size:
        return np.zeros(image.shape, np.uint8), math.nan, math.nan
    black, white = (float(value) for value in np.percentile(finite.astype(np.float64), PERCENTILES))
    span = white - black if white > black else 1.0
    scaled = (np.where(np.isfinite(image), image, black) - black) / span
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8), black, white


def grey_png(levels: np.ndarray) -> bytes:
    """PNG of grey levels, shape (ny, nx), first row on top; no date, software or other text."""
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.frombytes("L", levels.shape[::-1], np.ascontiguousarray(levels, np.uint8).tobytes())
    picture.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()
