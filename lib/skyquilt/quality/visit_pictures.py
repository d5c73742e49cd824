"""Pictures of detectors (LDM-151 6.2.1): pixels, mask planes and sources, as PNG files and as data for pages.

Pictures have at most a few megapixels, whatever the detector's size: pixels are averaged in blocks and mask
planes joined. Row 0 is at the bottom. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.io.atomic import write_bytes
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.schemas.source import PIXEL_FLAGS
from skyquilt.primitives.statistics import mad_width, median

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class MaskGroup:
    """Mask planes shown in one colour."""

    label: str
    planes: tuple[str, ...]
    colour: Colour


MASK_GROUPS = (
    MaskGroup("no data", ("NO_DATA", "UNMASKED_NAN"), (125, 125, 225)),
    MaskGroup("saturated", ("SATURATED", "SUSPECT"), (225, 30, 30)),
    MaskGroup("cosmic ray, streak", ("COSMIC_RAY", "STREAK", "SPIKE", "GHOST"), (215, 40, 205)),
    MaskGroup("bad", ("BAD", "VIGNETTED", "CROSSTALK"), (240, 150, 20)),
    MaskGroup("interpolated", ("INTERPOLATED",), (200, 200, 30)),
    MaskGroup("edge", ("DETECTION_EDGE",), (60, 160, 130)),
    MaskGroup("detected", ("DETECTED", "DETECTED_NEGATIVE"), (50, 130, 240)),
)
"""Colours of mask planes; where several are set the first is shown."""

SOURCE_CLASSES: dict[str, Colour] = {
    "point": (0, 200, 95),
    "extended": (0, 180, 225),
    "flagged": (230, 140, 0),
    "saturated": (215, 25, 25),
}
"""Colours of sources: the worst class that holds."""

_MOMENTS = tuple(f"i{m}{whose}" for m in ("xx", "yy", "xy") for whose in ("", "PSF"))

SOURCE_COLUMNS = (
    *("sourceId", "x", "y", "ra", "dec", "calibFlux", "peakSnr", "extendedness", "detect_isPrimary"),
    *("centroid_flag", *_MOMENTS, *(f"pixelFlags_{name}" for name in PIXEL_FLAGS)),
)
"""Columns of the Source table that pictures and figures are made from."""

_LEVELS = 28
_PAPER, _INK = (255, 255, 255), (25, 25, 25)
_FIRST_SOLID = _LEVELS * (1 + len(MASK_GROUPS))
_ROWS_AT_ONCE = 256
_ELLIPSE_POINTS = 20
_HEADER, _FOOTER, _MARGIN = 26, 24, 8
_LEGEND_WIDTH = 150
_LEAST_RADIUS = 4


@dataclass(frozen=True)
class VisitQualityConfig:
    """Pictures of detectors and the sources on their pages."""

    picture_pixels: int = 1024
    """Longest side of a picture [pixel]: larger detectors are averaged in square blocks."""

    layers: bool = True
    """Write image and mask also as files of their own, which the pages lay over each other."""

    stretch_sigma: float = 3.0
    """The asinh stretch is linear up to about this many widths of the sky."""

    black_sigma: float = 3.0
    """Black is this many widths below the sky."""

    white_percentile: float = 99.8
    """White is this percentile of the pixels (at least 30 widths above the sky)."""

    mask_opacity: float = 0.5
    """Share of the mask's colour where it lies over the image."""

    ellipse_sigma: float = 3.0
    """Sources are drawn at this many widths of their second moments, at least 4 pixels of the picture."""

    max_sources: int = 4000
    """Most sources drawn and put on a detector's page [count], the brightest of them."""

    def __post_init__(self) -> None:
        if not 64 <= self.picture_pixels <= 8192:
            raise ValueError(f"picture_pixels must be in 64..8192, got {self.picture_pixels}")
        if not 0 < self.mask_opacity <= 1:
            raise ValueError(f"mask_opacity must be above 0 and at most 1, got {self.mask_opacity}")
        if not 50 < self.white_percentile <= 100:
            raise ValueError(
                f"white_percentile must be above 50 and at most 100, got {self.white_percentile}"
            )
        for name in ("stretch_sigma", "black_sigma", "ellipse_sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.max_sources < 0:
            raise ValueError(f"max_sources must not be negative, got {self.max_sources}")


def draw_detector(
    image: np.ndarray,
    mask: Mask,
    sources: pd.DataFrame,
    path: str | Path,
    title: str,
    config: VisitQualityConfig,
) -> list[Path]:
    """Write the picture of a detector: image, translucent mask planes with a legend, sources as ellipses.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Pixels, sky subtracted or not; what is not finite is shown as *no data*.
    mask : Mask
        Of the same shape.
    sources : DataFrame
        Sources of this detector: `SOURCE_COLUMNS` of schema SOURCE; those that are not primary are not drawn.
    path : path
        PNG file. With `config.layers` the files of `layer_paths` stand beside it.
    title : str
        Line above the picture.

    Returns
    -------
    list of Path
        The files written, `path` first.

    Raises
    ------
    ValueError
        When image and mask differ in shape.
    """
    if image.shape != mask.shape:
        raise ValueError(f"image {image.shape} and mask {mask.shape} of {title!r} differ in shape")
    factor = block_size(image.shape, config)
    binned, groups = binned_picture(image, mask, factor)
    levels = stretched(binned, config)
    path = Path(path)
    contents = {path: _framed(levels, groups, source_marks(sources, config), factor, title, config)}
    if config.layers:
        paths = layer_paths(path)
        contents[paths["image"]] = _indexed(levels[::-1], [_grey(i) for i in range(_LEVELS)])
        colours = [_PAPER, *(group.colour for group in MASK_GROUPS)]
        contents[paths["mask"]] = _indexed(groups[::-1], colours, transparent=0)
    for name, data in contents.items():
        write_bytes(name, data)
    return list(contents)


def layer_paths(path: str | Path) -> dict[str, Path]:
    """Files of the layers beside a picture: ``image`` and ``mask`` (transparent where no plane is set)."""
    path = Path(path)
    return {layer: path.with_name(f"{path.stem}_{layer}.png") for layer in ("image", "mask")}


def block_size(shape: tuple[int, int], config: VisitQualityConfig) -> int:
    """Side of the blocks that become one pixel of the picture."""
    return math.ceil(max(shape) / config.picture_pixels)


def detector_figures(
    sources: pd.DataFrame, shape: tuple[int, int], config: VisitQualityConfig
) -> dict[str, Any]:
    """What the page of a detector shows of its sources.

    Parameters
    ----------
    sources : DataFrame
        Sources of the detector: `SOURCE_COLUMNS` of schema SOURCE.
    shape : (ny, nx)
        Of its image [pixel].

    Returns
    -------
    dict
        JSON-able: shape, block, n_sources, ``columns`` and ``rows`` of the brightest sources, ``flags`` (names
        of the bits in a row's flags), ``classes``. Source ids are texts: JavaScript's numbers end at 2^53.
    """
    marks = source_marks(sources, config)
    return {
        "shape": [int(shape[0]), int(shape[1])],
        "block": block_size(shape, config),
        "n_sources": int(sources["detect_isPrimary"].sum()),
        "columns": ["id", "x", "y", "a", "b", "angle", "class", "flux", "snr", "ra", "dec", "flags"],
        "rows": _figure_rows(sources, marks),
        "flags": list(PIXEL_FLAGS),
        "classes": list(SOURCE_CLASSES),
    }


# --- pixels -------------------------------------------------------------------------------------------------


def binned_picture(image: np.ndarray, mask: Mask, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Block means of the finite pixels, and the mask group of each block.

    Blocks at the upper edges may be smaller. Rows are taken a few at a time, so memory stays small.

    Returns
    -------
    mean : ndarray of float32, shape (ceil(ny / factor), ceil(nx / factor))
        NaN where no pixel is finite.
    group : ndarray of uint8, same shape
        0 for none, else 1 + index in MASK_GROUPS.
    """
    ny, nx = image.shape
    columns = np.arange(0, nx, factor)
    means, groups = [], []
    for start in range(0, ny, step := max(_ROWS_AT_ONCE // factor, 1) * factor):
        part = np.asarray(image[start : start + step], np.float32)
        rows = np.arange(0, len(part), factor)
        means.append(_block_means(part, rows, columns))
        bits = _blocks(np.bitwise_or, mask.array[start : start + step], rows, columns)
        groups.append(_mask_groups(bits, mask))
    mean, group = np.concatenate(means), np.concatenate(groups)
    group[np.isnan(mean)] = 1
    return mean, group


def stretched(image: np.ndarray, config: VisitQualityConfig) -> np.ndarray:
    """Grey levels 0 .. 27 on an asinh scale about the sky; uint8. NaN is black."""
    finite = image[np.isfinite(image)]
    if not finite.size:
        return np.zeros(image.shape, np.uint8)
    sample = finite[:: max(finite.size // 100_000, 1)]
    sky, width = median(sample), mad_width(sample)
    width = width if width > 0 else max(float(np.ptp(sample)) / 100, 1e-30)
    white = max((float(np.percentile(sample, config.white_percentile)) - sky) / width, 30.0)
    low, high = np.arcsinh(np.array([-config.black_sigma, white]) / config.stretch_sigma)
    offset = (np.where(np.isfinite(image), image, -np.inf) - sky) / (width * config.stretch_sigma)
    return np.clip((np.arcsinh(offset) - low) / (high - low) * _LEVELS, 0, _LEVELS - 1).astype(np.uint8)


def _block_means(part: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    total = _blocks(np.add, part, rows, columns)
    counts = np.outer(np.diff(rows, append=len(part)), np.diff(columns, append=part.shape[1]))
    if not np.isfinite(total).all():
        finite = np.isfinite(part)
        total = _blocks(np.add, np.where(finite, part, 0), rows, columns)
        counts = _blocks(np.add, finite.astype(np.int32), rows, columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / counts).astype(np.float32)


def _blocks(add: np.ufunc, part: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sum (or union) over the blocks that begin at these rows and columns."""
    # rows first: the long axis is contiguous there
    dtype = np.float64 if part.dtype.kind == "f" else None
    joined = add.reduceat(part, rows, axis=0) if rows.size < len(part) else part
    return add.reduceat(joined, columns, axis=1, dtype=dtype)


def _mask_groups(bits: np.ndarray, mask: Mask) -> np.ndarray:
    group = np.zeros(bits.shape, np.uint8)
    for i, item in reversed(list(enumerate(MASK_GROUPS, start=1))):
        group[(bits & np.int32(mask.bits(item.planes, missing_ok=True))) != 0] = i
    return group


# --- sources ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SourceMarks:
    """Ellipses of the sources that are drawn, brightest first.

    `rows` are row numbers in the table; `a`, `b` [pixel] the half axes, `angle` [deg] from x towards y,
    `kind` the index in SOURCE_CLASSES; all of shape (n,).
    """

    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    angle: np.ndarray
    kind: np.ndarray


def source_marks(sources: pd.DataFrame, config: VisitQualityConfig) -> SourceMarks:
    """Ellipses of primary sources by their second moments; circles of the PSF's size where these failed."""
    somewhere = np.isfinite(sources["x"].to_numpy()) & np.isfinite(sources["y"].to_numpy())
    usable = sources["detect_isPrimary"].to_numpy(bool) & somewhere
    rows = np.flatnonzero(usable)
    brightness = np.nan_to_num(sources["peakSnr"].to_numpy(np.float64)[rows], nan=0.0)
    rows = rows[np.argsort(-brightness, kind="stable")][: config.max_sources]
    chosen = sources.iloc[rows]
    xx, yy, xy = (_moment(chosen, name) for name in ("xx", "yy", "xy"))
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return SourceMarks(
        rows,
        chosen["x"].to_numpy(np.float64),
        chosen["y"].to_numpy(np.float64),
        config.ellipse_sigma * np.sqrt(middle + half),
        config.ellipse_sigma * np.sqrt(np.maximum(middle - half, 0)),
        np.degrees(np.arctan2(2 * xy, xx - yy)) / 2,
        _classes(chosen),
    )


def _moment(sources: pd.DataFrame, name: str) -> np.ndarray:
    """A moment of each source: measured where that is an ellipse, else of the PSF, else a small circle's."""
    measured = [sources[f"i{m}"].to_numpy(np.float64) for m in ("xx", "yy", "xy")]
    psf = [sources[f"i{m}PSF"].to_numpy(np.float64) for m in ("xx", "yy", "xy")]
    which = ("xx", "yy", "xy").index(name)
    value = np.where(_is_ellipse(*psf), psf[which], 0.0 if name == "xy" else 1.0)
    return np.where(_is_ellipse(*measured), measured[which], value)


def _is_ellipse(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (xx > 0) & (yy > 0) & (xx * yy > xy**2) & (xx + yy < 2e4)


def _classes(sources: pd.DataFrame) -> np.ndarray:
    flag = {name: sources[f"pixelFlags_{name}"].to_numpy(bool) for name in PIXEL_FLAGS}
    bad = ("bad", "crCenter", "edge", "interpolatedCenter", "nodata", "offimage", "suspectCenter")
    flagged = np.logical_or.reduce([sources["centroid_flag"].to_numpy(bool), *(flag[name] for name in bad)])
    extended = sources["extendedness"].to_numpy(np.float64) > 0.5
    kind = np.where(flag["saturated"], 3, np.where(flagged, 2, extended.astype(int)))
    return kind.astype(np.int64)


def _figure_rows(sources: pd.DataFrame, marks: SourceMarks) -> list[list[Any]]:
    chosen = sources.iloc[marks.rows]
    bits = sum(
        chosen[f"pixelFlags_{name}"].to_numpy(np.int64) << i for i, name in enumerate(PIXEL_FLAGS)
    ) + np.zeros(len(chosen), np.int64)
    columns = [
        [str(value) for value in chosen["sourceId"].to_list()],
        _rounded(marks.x, 2),
        _rounded(marks.y, 2),
        _rounded(marks.a, 1),
        _rounded(marks.b, 1),
        _rounded(marks.angle, 0),
        marks.kind.tolist(),
        [_significant(value) for value in chosen["calibFlux"].tolist()],
        _rounded(chosen["peakSnr"].to_numpy(np.float64), 1),
        _rounded(chosen["ra"].to_numpy(np.float64), 6),
        _rounded(chosen["dec"].to_numpy(np.float64), 6),
        bits.tolist(),
    ]
    return [list(row) for row in zip(*columns)]


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in np.round(values, digits).tolist()]


def _significant(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


# --- drawing ------------------------------------------------------------------------------------------------


def _framed(
    levels: np.ndarray,
    groups: np.ndarray,
    marks: SourceMarks,
    factor: int,
    title: str,
    config: VisitQualityConfig,
) -> bytes:
    """The whole picture: title, pixels under mask and sources, legend."""
    from PIL import Image, ImageDraw, ImageFont

    ny, nx = levels.shape
    solid = [_PAPER, _INK, *SOURCE_CLASSES.values(), *(group.colour for group in MASK_GROUPS)]
    palette = [channel for colour in [*_blended(config), *solid] for channel in colour]
    pixels = _palette_image(levels[::-1] + _LEVELS * groups[::-1], palette)
    _draw_sources(pixels, marks, factor)
    entries = legend_entries(groups, marks)
    columns = max(nx // _LEGEND_WIDTH, 1)
    footer = _FOOTER * max(math.ceil(len(entries) / columns), 1)
    canvas = Image.new("P", (nx, _HEADER + ny + footer), _FIRST_SOLID)
    canvas.putpalette(palette)
    canvas.paste(pixels, (0, _HEADER))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    draw.text((_MARGIN, 5), title, fill=_FIRST_SOLID + 1, font=font)
    for i, (label, is_class, index) in enumerate(entries):
        x, y = _MARGIN + _LEGEND_WIDTH * (i % columns), _HEADER + ny + 6 + _FOOTER * (i // columns)
        colour = _FIRST_SOLID + 2 + index + (0 if is_class else len(SOURCE_CLASSES))
        shape = draw.ellipse if is_class else draw.rectangle
        style = {"outline": colour, "width": 2} if is_class else {"fill": colour}
        shape((x, y, x + 11, y + 11), **style)
        draw.text((x + 17, y - 2), label, fill=_FIRST_SOLID + 1, font=font)
    return _png(canvas)


def legend_entries(groups: np.ndarray, marks: SourceMarks) -> list[tuple[str, bool, int]]:
    """(label, whether a class of sources, index) of what the picture shows."""
    kinds, shown = set(marks.kind.tolist()), set(np.unique(groups).tolist())
    entries = [(name, True, i) for i, name in enumerate(SOURCE_CLASSES) if i in kinds]
    return entries + [(group.label, False, i) for i, group in enumerate(MASK_GROUPS) if i + 1 in shown]


def _draw_sources(pixels: Image, marks: SourceMarks, factor: int) -> None:
    """Outlines of the ellipses on a picture whose first row is the detector's last."""
    from PIL import ImageDraw

    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS + 1)
    turn = np.radians(marks.angle)[:, None]
    u = np.maximum(marks.a / factor, _LEAST_RADIUS)[:, None] * np.cos(angle)
    v = np.maximum(marks.b / factor, _LEAST_RADIUS)[:, None] * np.sin(angle)
    # a block covers the pixel centres factor * i .. factor * i + factor - 1
    x = (marks.x[:, None] + 0.5) / factor - 0.5 + u * np.cos(turn) - v * np.sin(turn)
    y = (marks.y[:, None] + 0.5) / factor - 0.5 + u * np.sin(turn) + v * np.cos(turn)
    draw = ImageDraw.Draw(pixels)
    for outline, kind in zip(np.stack([x, pixels.height - 1 - y], axis=2), marks.kind.tolist()):
        draw.line(outline.ravel().tolist(), fill=_FIRST_SOLID + 2 + kind)


def _blended(config: VisitQualityConfig) -> list[Colour]:
    """Palette of the pixels: grey levels plain, then under each mask group's colour."""
    share = config.mask_opacity
    palette = [_grey(i) for i in range(_LEVELS)]
    for group in MASK_GROUPS:
        for i in range(_LEVELS):
            grey = _grey(i)
            palette.append(tuple(round((1 - share) * g + share * c) for g, c in zip(grey, group.colour)))
    return palette


def _grey(level: int) -> Colour:
    return (round(255 * level / (_LEVELS - 1)),) * 3


def _indexed(indices: np.ndarray, palette: list[Colour], transparent: int | None = None) -> bytes:
    return _png(_palette_image(indices, [channel for colour in palette for channel in colour]), transparent)


def _palette_image(indices: np.ndarray, palette: list[int]) -> Image:
    from PIL import Image

    picture = Image.frombytes("P", indices.shape[::-1], np.ascontiguousarray(indices, np.uint8).tobytes())
    picture.putpalette(palette)
    return picture


def _png(picture: Image, transparent: int | None = None) -> bytes:
    """PNG bytes without date, software or other text."""
    buffer = io.BytesIO()
    options = {} if transparent is None else {"transparency": transparent}
    picture.save(buffer, "PNG", compress_level=4, **options)
    return buffer.getvalue()
