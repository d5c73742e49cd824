"""Defects (LDM-151 4.1.2.3): pixels and columns that cannot be trusted, from combined darks, flats and bias.

Works with what there is. A pixel is hot when its dark charge stands out from its row's by `sigma` of the dark's
error and its shot noise in an exposure of `exposure_time` is more than `hot_noise` of the read noise; pixels that
differ from dark to dark (SUSPECT) need the significance alone. Dead and low-response pixels fall below shares of their
row's median, or of the median of their neighbourhood where whole patches are dead. Columns are searched for
stretches on which all pixels together are off, though each only mildly. A column in flats that is mildly dark from
a row within the amplifier on to the end far from the read-out has a trap. In flats a stretch ends within one column
on either side: shadows of dust, which the flat corrects, do not. Boxes of the camera definition are kept as
`manual`.

False detections: of n pixels of Gaussian noise n / 2 erfc(sigma / sqrt 2) are above the threshold, 0.02 in 16 Mpixel
at 6 sigma, and columns have less than n log2(rows) trials, 1e-4 expected at 7 sigma.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.pipelines.calibration_products.defect_search import (
    boxes_of_pixels,
    column_segments,
    running_median,
)
from skyquilt.primitives.detector_characterization import DEFECT_KINDS, Defects
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.statistics import binned_statistics, clipped, median

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal import CalibrationPixels
    from skyquilt.instrument.camera import Amplifier, Detector

_MOST_SEGMENTS = 20000
_LEAST_STEP = 0.6
"""At the edges of a defective stretch of columns, as a share of how much it is off."""
_PRECEDENCE = ("manual", "bright_column", "dark_column", "trap", "dead", "hot", "low_response")
"""A pixel belongs to the first of these that it is found by."""


@dataclass(frozen=True)
class FindDefectsConfig:
    """Options of `find_defects`."""

    sigma: float = 6.0
    """A pixel must stand out by this [standard error of the combined frame]."""
    exposure_time: float = 30.0
    """Exposure of science frames, for which dark charge is judged [s]."""
    hot_noise: float = 1.0
    """Pixels whose dark charge has more shot noise in `exposure_time` than this are hot [read noise]."""
    hot_response: float = 1.5
    """Pixels above this share of their neighbours in flats are hot."""
    low_response: float = 0.8
    """Pixels below this share of their neighbours in flats have low response."""
    dead_response: float = 0.3
    """Pixels below this share are dead."""
    column_sigma: float = 7.0
    """Stretches of columns must stand out by this, all pixels together [sigma]."""
    shortest_column: int = 8
    """Least length of a stretch [pixel]."""
    bright_column: float = 0.1
    """Stretches with more dark charge in `exposure_time` than this are bright columns [read noise]."""
    bias_column: float = 5.0
    """The same in the bias, charge that read-out itself brings: what is steady there is subtracted [read noise]."""
    dark_column: float = 0.02
    """Stretches whose response in flats is off by more than this share are dark (or bright) columns."""
    trap: float = 0.003
    """Stretches that begin within an amplifier and go on to the end far from the read-out count from this share
    on: charge is missing behind a trap, by electrons and not by share."""
    window: int = 10
    """Pixels are compared with the median of this many columns on either side [pixel]."""
    patch: int = 64
    """Patches of dead pixels are seen against medians of blocks of this size and their neighbours [pixel]."""

    def __post_init__(self) -> None:
        if self.sigma < 3 or self.column_sigma < 4:
            raise ValueError(
                f"find_defects needs sigma >= 3 and column_sigma >= 4, got {self.sigma}, {self.column_sigma}"
            )
        if not 0 <= self.dead_response <= self.low_response < 1 < self.hot_response:
            raise ValueError("find_defects needs 0 <= dead_response <= low_response < 1 < hot_response")
        for name in ("exposure_time", "hot_noise", "bright_column", "bias_column", "dark_column", "trap"):
            if getattr(self, name) <= 0:
                raise ValueError(f"find_defects.{name} must be positive, got {getattr(self, name)}")
        if self.shortest_column < 6 or self.window < 3 or self.patch < 16:
            raise ValueError("find_defects needs shortest_column >= 6, window >= 3 and patch >= 16")


@dataclass
class _Found:
    """Pixels found, by kind, with the value they were found by."""

    shape: tuple[int, int]
    where: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, kind: str, place: Any, pixels: np.ndarray, values: np.ndarray) -> None:
        """Pixels of a part of the detector; the first value of a pixel stays."""
        if not pixels.any():
            return
        where = self.where.setdefault(kind, np.zeros(self.shape, dtype=bool))
        store = self.values.setdefault(kind, np.full(self.shape, np.nan, np.float32))
        new = pixels & ~where[place]
        store[place][new] = np.broadcast_to(values, pixels.shape)[new]
        where[place] |= pixels


@dataclass(frozen=True)
class _Plane:
    """One combined frame, judged: residual, its error, which pixels are unsteady, and the frame itself."""

    image: np.ndarray
    error: np.ndarray
    unsteady: np.ndarray
    response: np.ndarray


def find_defects(
    bias: CalibrationPixels | None,
    darks: Sequence[CalibrationPixels],
    flats: Sequence[CalibrationPixels],
    detector: Detector,
    config: FindDefectsConfig,
) -> tuple[Defects, dict[str, Any]]:
    """Defects of one detector from whatever combined frames there are (LDM-151 4.1.2.3).

    Parameters
    ----------
    bias : CalibrationPixels or None
        Linearized ADU above overscan.
    darks : sequence of CalibrationPixels
        [electron / s]; several are averaged.
    flats : sequence of CalibrationPixels
        Response; of several filters or nights the mean over neighbours counts.
    detector : Detector
        Its own `defects` are added as manual.
    config : FindDefectsConfig

    Returns
    -------
    defects : Defects
        Boxes that cover each pixel once; values are dark current [electron / s] for kinds found in darks, response
        for those found in flats, NaN otherwise.
    figures : dict
        Boxes and pixels per kind, and what they were found in.

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS with no frame and no manual box; WRONG_SHAPE.
    """
    manual = tuple(detector.defects)
    if bias is None and not darks and not flats and not manual:
        raise ProcessingFailure(
            Reason.TOO_FEW_INPUTS, "defects need a bias, a dark, a flat or boxes in the camera definition"
        )
    shape = (detector.ny, detector.nx)
    found = _Found(shape)
    for box in manual:
        inside = box.overlap(detector.box)
        if inside is not None:
            place = inside.slices()
            found.add("manual", place, np.ones(inside.shape, dtype=bool), np.array(np.nan))
    scales: dict[str, Any] = {}
    for kind, frames in (("dark", darks), ("flat", flats), ("bias", [bias] if bias is not None else [])):
        for each in frames:
            if each.box.shape != shape:
                raise ProcessingFailure(
                    Reason.WRONG_SHAPE, f"{kind} has shape {each.box.shape}, the detector {shape}"
                )
        if frames:
            scales[kind] = {
                a.name: _search(kind, frames, detector, a, config, found) for a in detector.amplifiers
            }
    defects = _defects(found)
    return defects, {**_counts(defects, shape), "frames": {"dark": len(darks), "flat": len(flats),
                     "bias": int(bias is not None)}, "noise_ratio": scales}  # fmt: skip


def compare_defects(before: Defects, after: Defects) -> tuple[Defects, Defects]:
    """What is new in `after`, and what of `before` is gone, pixel by pixel, with the kinds and values they have there."""
    shape = _extent(before, after)
    return _without(after, before.pixels(shape)), _without(before, after.pixels(shape))


def _extent(*all_defects: Defects) -> tuple[int, int]:
    boxes = np.concatenate([each.boxes for each in all_defects])
    if not len(boxes):
        return (0, 0)
    return int((boxes[:, 1] + boxes[:, 3]).max()), int((boxes[:, 0] + boxes[:, 2]).max())


def _without(defects: Defects, covered: np.ndarray) -> Defects:
    """The parts of boxes that are not covered."""
    rows = []
    for (x0, y0, nx, ny), kind, value in zip(defects.boxes.tolist(), defects.kinds, defects.values):
        free = ~covered[y0 : y0 + ny, x0 : x0 + nx]
        rows += [((x0 + x, y0 + y, w, h), int(kind), float(value)) for x, y, w, h in boxes_of_pixels(free)]
    return _component(rows)


def _component(rows: list[tuple[tuple[int, int, int, int], int, float]]) -> Defects:
    return Defects(
        np.array([row[0] for row in rows], dtype=np.int32).reshape(-1, 4),
        np.array([row[1] for row in rows], dtype=np.int16),
        np.array([row[2] for row in rows], dtype=np.float64),
    )


def _search(
    kind: str,
    frames: Sequence[CalibrationPixels],
    detector: Detector,
    amplifier: Amplifier,
    config: FindDefectsConfig,
    found: _Found,
) -> float | None:
    """Search one amplifier; measured over stated noise, None where it has no data.

    Residuals are brought to one scale: dark charge in `exposure_time` [electron] for darks and bias, share of the
    neighbours' response for flats.
    """
    planes = [_plane(kind, frame, amplifier, config) for frame in frames]
    judged = [plane for plane in planes if np.isfinite(plane.image).mean() > 0.5]
    if not judged:
        return None
    place = amplifier.data.slices()
    weights = [1.0 / max(float(np.nanmedian(plane.error)), 1e-12) ** 2 for plane in judged]
    total = sum(weights)
    residual = np.zeros(amplifier.data.shape, np.float32)
    variance = np.zeros(amplifier.data.shape, np.float32)
    for plane, weight in zip(judged, weights):
        residual += np.float32(weight / total) * plane.image
        variance += (np.float32(weight / total) * plane.error) ** 2
    pulls = residual / np.sqrt(variance)
    width = clipped(pulls, n_sigma=4.0)
    ratio = width.width if width.count > 100 and width.width > 0 else 1.0
    # never below the stated noise: a width under 1 is no licence for more detections
    pulls /= np.float32(max(ratio, 1.0))
    if kind != "bias":
        _note_missing(kind, frames, amplifier, place, found)
    response = sum(np.float32(weight / total) * plane.response for plane, weight in zip(judged, weights))
    _search_columns(kind, residual, pulls, response if kind == "flat" else None, amplifier, config, found)
    if kind == "flat":
        _judge_response(residual, pulls, place, config, found)
        _judge_patches(frames, amplifier, config, found)
    else:
        unsteady = np.all([plane.unsteady for plane in judged], axis=0)
        _judge_charge(residual, pulls, unsteady, place, amplifier, config, found)
    return float(ratio)


def _plane(kind: str, frame: CalibrationPixels, amplifier: Amplifier, config: FindDefectsConfig) -> _Plane:
    """Residual from the median of the row, and its error, of an amplifier of one frame."""
    pixels = frame.subimage(amplifier.data)
    image = np.array(pixels.image, dtype=np.float32)
    image[pixels.mask.any(["BAD", "NO_DATA"], missing_ok=True)] = np.nan
    error = np.sqrt(pixels.variance).astype(np.float32)
    error[~(error > 0)] = np.nan
    middle = np.empty_like(image)
    running_median(image, config.window, middle)
    _follow_gradient(image, middle, config.window)
    unsteady = pixels.mask.any(["SUSPECT"], missing_ok=True)
    if kind == "flat":
        # a vignetted or dead neighbourhood is no reference
        middle[~(middle > 0.05)] = np.nan
        return _Plane(image / middle - 1, error / middle, unsteady, image)
    scale = np.float32(config.exposure_time if kind == "dark" else amplifier.gain)
    return _Plane((image - middle) * scale, error * scale, unsteady, image)


def _follow_gradient(image: np.ndarray, middle: np.ndarray, half: int) -> None:
    """Correct the medians of the outer columns, whose windows lie on one side, for the gradient there.

    In place; the gradient is the median over blocks of rows and the outer columns, so that a bad column is seen.
    """
    columns = image.shape[1]
    if columns < 4 * half + 2:
        return
    distance = np.arange(half, 0, -1, dtype=np.float32)
    for place in (slice(0, half), slice(columns - 1, columns - 1 - half, -1)):
        for start in range(0, image.shape[0], 32):
            rows = slice(start, start + 32)
            slope = median((image[rows, place] - middle[rows, place]) / distance)
            if np.isfinite(slope):
                middle[rows, place] += np.float32(slope) * distance


def _note_missing(
    kind: str, frames: Sequence[CalibrationPixels], amplifier: Amplifier, place: Any, found: _Found
) -> None:
    """Pixels without a value in any frame: saturated in every dark, or in no flat usable."""
    missing = np.ones(amplifier.data.shape, dtype=bool)
    for frame in frames:
        missing &= ~np.isfinite(frame.subimage(amplifier.data).image)
    if missing.mean() < 0.5:
        found.add("hot" if kind == "dark" else "dead", place, missing, np.array(np.nan))


def _judge_charge(
    residual: np.ndarray,
    pulls: np.ndarray,
    unsteady: np.ndarray,
    place: Any,
    amplifier: Amplifier,
    config: FindDefectsConfig,
    found: _Found,
) -> None:
    shot = residual > (config.hot_noise * amplifier.read_noise) ** 2
    hot = (pulls > config.sigma) & (shot | unsteady)
    found.add("hot", place, hot, residual / np.float32(config.exposure_time))


def _judge_response(
    residual: np.ndarray, pulls: np.ndarray, place: Any, config: FindDefectsConfig, found: _Found
) -> None:
    response = residual + 1
    low = pulls < -config.sigma
    found.add("dead", place, low & (response < config.dead_response), response)
    found.add("low_response", place, low & (response < config.low_response), response)
    found.add("hot", place, (pulls > config.sigma) & (response > config.hot_response), response)


def _judge_patches(
    frames: Sequence[CalibrationPixels], amplifier: Amplifier, config: FindDefectsConfig, found: _Found
) -> None:
    """Pixels that are dead against the median of the blocks around them, in every flat."""
    from scipy import ndimage

    block = min(config.patch, *amplifier.data.shape)
    rows, columns = (np.arange(size) // block for size in amplifier.data.shape)
    dead = np.ones(amplifier.data.shape, dtype=bool)
    response = np.full(amplifier.data.shape, np.nan, np.float32)
    for frame in frames:
        pixels = frame.subimage(amplifier.data)
        middle = binned_statistics(pixels.image, (block, block), n_sigma=math.inf, iterations=0).median
        # the upper of the neighbours: a patch may fill most of its own block
        level = ndimage.percentile_filter(np.nan_to_num(middle), 75, size=3, mode="nearest")
        around = level[rows[:, None], columns[None, :]].astype(np.float32)
        response = np.divide(pixels.image, around, out=np.full_like(response, np.nan), where=around > 0)
        error = np.divide(
            np.sqrt(pixels.variance), around, out=np.full_like(response, np.nan), where=around > 0
        )
        dead &= (response < config.dead_response) & (1 - response > config.sigma * error)
    found.add("dead", amplifier.data.slices(), dead, response)


def _search_columns(
    kind: str,
    residual: np.ndarray,
    pulls: np.ndarray,
    response: np.ndarray | None,
    amplifier: Amplifier,
    config: FindDefectsConfig,
    found: _Found,
) -> None:
    """Bright and dark stretches of columns of an amplifier; `response` for flats."""
    segments = np.zeros((_MOST_SEGMENTS, 3), np.int32)
    scores = np.zeros(_MOST_SEGMENTS)
    shortest = min(config.shortest_column, pulls.shape[0])
    n = column_segments(pulls, config.column_sigma, shortest, segments, scores)
    for column, first, last in segments[:n].tolist():
        part = residual[first:last, column]
        part = part[np.isfinite(part)]
        size = float(np.median(part)) if part.size else 0.0
        name = _column_kind(kind, size, (first, last), amplifier, config)
        if not name:
            continue
        if response is not None and not _has_edges(response[first:last], column, size, config.window):
            continue
        y0, x = amplifier.data.y0, amplifier.data.x0 + column
        place = (slice(y0 + first, y0 + last), slice(x, x + 1))
        value = 1 + size if kind == "flat" else size / config.exposure_time
        found.add(name, place, np.ones((last - first, 1), dtype=bool), np.array(value))


def _has_edges(rows: np.ndarray, column: int, size: float, half: int) -> bool:
    """Whether a stretch of columns ends within one column on either side, as defects do and shadows of dust do not.

    Parameters
    ----------
    rows : ndarray of float32, shape (rows of the stretch, columns)
        Response: not its residual, whose reference steps from one side of a shadow to the other.
    column : int
        Of the stretch; those next to it that are off by more than half as much belong to it.
    size : float
        How much the column is off, as a share of what it should be.
    half : int
        Columns on either side that say what a dead one should be.
    """
    if size > -0.9:
        level = float(np.nanmedian(rows[:, column])) / (1 + size)
    else:
        level = float(np.nanmedian(rows[:, max(column - half, 0) : column + half + 1]))

    def off(place: int) -> float:
        beside = rows[:, place]
        beside = beside[np.isfinite(beside)]
        return (float(np.median(beside)) / level - 1) / size if beside.size else 0.0

    for step in (-1, 1):
        inside, most, place = 1.0, 1.0, column + step
        while 0 <= place < rows.shape[1] and (here := off(place)) >= 0.5:
            inside, most, place = here, max(most, here), place + step
        beyond = [off(k) for k in range(place, place + 3 * step, step) if 0 <= k < rows.shape[1]]
        if beyond and (inside - beyond[0] < _LEAST_STEP * most or abs(np.median(beyond)) > 0.5):
            return False
    return True


def _column_kind(
    kind: str, size: float, rows: tuple[int, int], amplifier: Amplifier, config: FindDefectsConfig
) -> str:
    """Name of a stretch of rows of an amplifier, empty where it is too little to matter."""
    if kind != "flat":
        least = config.bias_column if kind == "bias" else config.bright_column
        if abs(size) < least * amplifier.read_noise:
            return ""
        return "bright_column" if size > 0 else "dark_column"
    if abs(size) >= config.dark_column and (size > 0 or 1 + size < config.low_response):
        return "bright_column" if size > 0 else "dark_column"
    if -size >= config.trap and _goes_on_to_the_end(rows, amplifier):
        return "trap"
    return "dark_column" if -size >= config.dark_column else ""


def _goes_on_to_the_end(rows: tuple[int, int], amplifier: Amplifier) -> bool:
    """Whether a stretch begins within the amplifier and ends at the row that is read last."""
    first, last = rows
    ny = amplifier.data.ny
    if amplifier.read_out.startswith("lower"):
        return first > 0 and last == ny
    return last < ny and first == 0


def _defects(found: _Found) -> Defects:
    """Boxes of all kinds; each pixel belongs to one."""
    taken = np.zeros(found.shape, dtype=bool)
    rows = []
    for kind in _PRECEDENCE:
        if kind not in found.where:
            continue
        free = found.where[kind] & ~taken
        taken |= free
        values = found.values[kind]
        for box in boxes_of_pixels(free):
            x0, y0, nx, ny = box
            inside = values[y0 : y0 + ny, x0 : x0 + nx]
            inside = inside[np.isfinite(inside)]
            value = float(inside.mean(dtype=np.float64)) if inside.size else math.nan
            rows.append((box, DEFECT_KINDS.index(kind), value))
    return _component(rows)


def _counts(defects: Defects, shape: tuple[int, int]) -> dict[str, Any]:
    """Boxes and pixels per kind."""
    areas = defects.boxes[:, 2].astype(np.int64) * defects.boxes[:, 3]
    kinds = {
        kind: {"boxes": int((defects.kinds == k).sum()), "pixels": int(areas[defects.kinds == k].sum())}
        for k, kind in enumerate(DEFECT_KINDS)
    }
    return {
        "kinds": kinds,
        "boxes": int(defects.kinds.size),
        "pixels": int(areas.sum()),
        "share": float(areas.sum() / (shape[0] * shape[1])),
    }
