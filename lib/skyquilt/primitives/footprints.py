"""Footprints (LDM-151 9.3): sets of pixels that hold the flux of an object, with their peaks.

A footprint is a list of spans, each the pixels x0 <= x < x1 of one row y of the parent frame. Spans are kept
normal: sorted by y and x0, in one row neither touching nor overlapping, so that equal sets of pixels are
equal footprints. Footprints do not change; methods make new ones. A footprint need not be connected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.component import State, register
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

PEAK_DTYPE = np.dtype([("x", "<f8"), ("y", "<f8"), ("value", "<f4")])
"""A peak: position in the parent frame [pixel] and the pixel value there [unit of the image]."""

NO_PEAKS = np.empty(0, dtype=PEAK_DTYPE)


@register("footprint")
@dataclass(frozen=True, eq=False)
class Footprint:
    """A set of pixels and its peaks.

    Parameters
    ----------
    spans : ndarray of int32, shape (n, 3)
        Columns y, x0, x1; in any order and overlapping: they are made normal.
    peaks : ndarray of PEAK_DTYPE, shape (n_peak,)
        Kept by falling |value|, then y and x. They need not lie within the pixels.
    """

    spans: np.ndarray
    peaks: np.ndarray = field(default_factory=lambda: NO_PEAKS)

    def __post_init__(self) -> None:
        spans = np.asarray(self.spans, dtype=np.int32).reshape(-1, 3)
        if (spans[:, 1] > spans[:, 2]).any():
            raise ValueError("spans must have x0 <= x1")
        peaks = np.asarray(self.peaks)
        if peaks.dtype != PEAK_DTYPE:
            raise ValueError(f"peaks must have the dtype {PEAK_DTYPE}, got {peaks.dtype}")
        peaks = peaks[np.lexsort((peaks["x"], peaks["y"], -np.abs(peaks["value"])))]
        object.__setattr__(self, "spans", _frozen(_normal(spans)))
        object.__setattr__(self, "peaks", _frozen(peaks))

    @classmethod
    def from_box(cls, box: Box) -> Footprint:
        """All pixels of a box."""
        y = np.arange(box.y0, box.y1)
        return cls(np.column_stack([y, np.full(y.size, box.x0), np.full(y.size, box.x1)]))

    @classmethod
    def from_array(cls, where: np.ndarray, box: Box | None = None, peaks: np.ndarray = NO_PEAKS) -> Footprint:
        """The True pixels of a boolean array that lies at `box` (without: its first pixel is (0, 0))."""
        where = np.ascontiguousarray(where, dtype=bool)
        return cls(_array_spans(where) + _origin_offset(where, box), peaks)

    @classmethod
    def from_mask(cls, mask: Mask, names: str | Iterable[str], box: Box | None = None) -> Footprint:
        """The pixels of a mask with at least one of the planes set."""
        return cls.from_array(mask.any(names), box)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Footprint):
            return NotImplemented
        return np.array_equal(self.spans, other.spans) and np.array_equal(self.peaks, other.peaks)

    def __hash__(self) -> int:
        return hash((self.spans.tobytes(), self.peaks.tobytes()))

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int((self.spans[:, 2] - self.spans[:, 1]).sum(dtype=np.int64))

    @property
    def box(self) -> Box:
        """Smallest box that holds all pixels; an empty one at (0, 0) for an empty footprint."""
        if not len(self.spans):
            return Box(0, 0, 0, 0)
        y0, y1 = int(self.spans[0, 0]), int(self.spans[-1, 0]) + 1
        x0, x1 = int(self.spans[:, 1].min()), int(self.spans[:, 2].max())
        return Box(x0, y0, x1 - x0, y1 - y0)

    @property
    def centroid(self) -> tuple[float, float]:
        """(x, y) of the middle of the pixels; NaN for an empty footprint."""
        if not self.area:
            return np.nan, np.nan
        y, x0, x1 = self.spans.T.astype(np.float64)
        length = x1 - x0
        return float((length * (x0 + x1 - 1) / 2).sum() / self.area), float((length * y).sum() / self.area)

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """y and x of the pixels in span order; int64, each of shape (area,)."""
        y, x = np.empty(self.area, dtype=np.int64), np.empty(self.area, dtype=np.int64)
        span_pixels(self.spans, y, x)
        return y, x

    def contains(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Whether positions [pixel] lie on a pixel of the footprint, as bool of their shape; NaN does not."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        return self._span_at(x.ravel(), y.ravel()).reshape(x.shape) >= 0

    def to_array(self, box: Box | None = None) -> np.ndarray:
        """Boolean array of the pixels over `box` (without: over the footprint's own); others are cut."""
        box = self.box if box is None else box
        where = np.zeros(box.shape, dtype=bool)
        fill_spans(self.clipped(box).spans - np.array([box.y0, box.x0, box.x0], dtype=np.int32), where)
        return where

    def set_mask(self, mask: Mask, name: str, box: Box | None = None) -> None:
        """Set a plane of a mask that lies at `box` at these pixels; those beyond the mask are left out."""
        mask.set(name, self.to_array(Box.of(mask.array) if box is None else box))

    def clipped(self, box: Box) -> Footprint:
        """The pixels within a box, and the peaks on its pixels."""
        spans = self.spans[(self.spans[:, 0] >= box.y0) & (self.spans[:, 0] < box.y1)].copy()
        np.clip(spans[:, 1:], box.x0, box.x1, out=spans[:, 1:])
        return Footprint(spans, self.peaks[box.contains(self.peaks["x"], self.peaks["y"])])

    def shifted(self, dx: int, dy: int) -> Footprint:
        """The footprint moved by whole pixels, with its peaks."""
        peaks = self.peaks.copy()
        peaks["x"] += dx
        peaks["y"] += dy
        return Footprint(self.spans + np.array([dy, dx, dx], dtype=np.int32), peaks)

    def with_peaks(self, peaks: np.ndarray) -> Footprint:
        """The same pixels with other peaks."""
        return Footprint(self.spans, peaks)

    def union(self, other: Footprint) -> Footprint:
        """Pixels of either, and the peaks of both (one where both have the same)."""
        peaks = np.unique(np.concatenate([self.peaks, other.peaks]))
        return Footprint(np.concatenate([self.spans, other.spans]), peaks)

    def intersection(self, other: Footprint) -> Footprint:
        """Pixels of both, and the peaks of this one that lie on them."""
        box = self.box.overlap(other.box)
        if box is None:
            return Footprint(np.empty((0, 3), dtype=np.int32))
        return self._with_array(self.to_array(box) & other.to_array(box), box)

    def difference(self, other: Footprint) -> Footprint:
        """Pixels of this one only, and its peaks that lie on them."""
        return self._with_array(self.to_array() & ~other.to_array(self.box), self.box)

    def overlaps(self, other: Footprint) -> bool:
        """True when both have a pixel in common."""
        return self.intersection(other).area > 0

    def grown(self, radius: float, shape: str = "disc") -> Footprint:
        """All pixels within `radius` [pixel] of a pixel of this footprint (dilation); peaks stay.

        `shape` is "disc" (Euclidean distance) or "diamond" (Manhattan distance).
        """
        half_widths = structure_half_widths(radius, shape)
        spans = np.empty((len(self.spans) * half_widths.size, 3), dtype=np.int32)
        grow_spans(self.spans, half_widths, spans)
        return Footprint(spans, self.peaks)

    def shrunk(self, radius: float, shape: str = "disc") -> Footprint:
        """The pixels farther than `radius` [pixel] from every pixel outside (erosion).

        Peaks off the remaining pixels are dropped. The edge of an image is no edge of the footprint's
        outside: what is beyond it counts as outside.
        """
        reach = structure_half_widths(radius, shape).size // 2
        around = self.box.grown(reach)
        outside = Footprint.from_array(~self.to_array(around), around)
        return self.difference(outside.grown(radius, shape))

    def opened(self, radius: float, shape: str = "disc") -> Footprint:
        """Shrunk and grown again: parts narrower than the structure vanish."""
        return self.shrunk(radius, shape).grown(radius, shape)

    def closed(self, radius: float, shape: str = "disc") -> Footprint:
        """Grown and shrunk again: gaps narrower than the structure are filled."""
        return self.grown(radius, shape).shrunk(radius, shape)

    def split(self, connectivity: int = 8) -> list[Footprint]:
        """Connected components, by the first pixel in (y, x) order; each peak goes with the pixel it lies on.

        Peaks that lie on no pixel are dropped.
        """
        labels = _label_spans(self.spans, connectivity)
        span = self._span_at(self.peaks["x"], self.peaks["y"])
        on_pixel = span >= 0
        return _assembled(self.spans, labels, self.peaks[on_pixel], labels[span[on_pixel]])

    def is_connected(self, connectivity: int = 8) -> bool:
        """True for at most one connected component."""
        return _label_spans(self.spans, connectivity).max(initial=-1) < 1

    def to_state(self) -> State:
        """Plain data."""
        peaks = {f"peak_{name}": np.ascontiguousarray(self.peaks[name]) for name in PEAK_DTYPE.names}
        return State(self.kind, {}, {"spans": self.spans, **peaks})

    @classmethod
    def from_state(cls, state: State) -> Footprint:
        """The footprint again."""
        peaks = peaks_table(*(state.arrays[f"peak_{name}"] for name in PEAK_DTYPE.names))
        return cls(state.arrays["spans"], peaks)

    def _span_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Row of the span that holds each position, -1 where none does; int64, shape of x (1-D)."""
        found = np.full(x.shape, -1, dtype=np.int64)
        near = self.box.contains(x, y)
        if near.any():
            v, u = _pixel_of(y[near]), _pixel_of(x[near])
            # one number per pixel, so that the spans of all rows are searched at once
            width = self.box.nx + 1
            start = self.spans[:, 0].astype(np.int64) * width + (self.spans[:, 1] - self.box.x0)
            last = np.searchsorted(start, v * width + (u - self.box.x0), side="right") - 1
            holds = (last >= 0) & (self.spans[last, 0] == v) & (u < self.spans[last, 2])
            found[near] = np.where(holds, last, -1)
        return found

    def _with_array(self, where: np.ndarray, box: Box) -> Footprint:
        made = Footprint.from_array(where, box)
        return made.with_peaks(self.peaks[made.contains(self.peaks["x"], self.peaks["y"])])


@register("heavy_footprint")
@dataclass(frozen=True, eq=False)
class HeavyFootprint:
    """A footprint with pixel values of its own, each of shape (area,) in span order.

    Parameters
    ----------
    footprint : Footprint
    image : ndarray of float32
    mask : ndarray of int32, optional
    variance : ndarray of float32, optional
    """

    footprint: Footprint
    image: np.ndarray
    mask: np.ndarray | None = None
    variance: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, dtype in _HEAVY_TYPES.items():
            values = getattr(self, name)
            if values is None and name != "image":
                continue
            values = np.array(values, dtype=dtype)
            if values.shape != (self.footprint.area,):
                raise ValueError(
                    f"{name} has shape {values.shape}, the footprint {self.footprint.area} pixels"
                )
            object.__setattr__(self, name, _frozen(values))

    @classmethod
    def from_images(
        cls,
        footprint: Footprint,
        image: np.ndarray,
        mask: np.ndarray | None = None,
        variance: np.ndarray | None = None,
        box: Box | None = None,
    ) -> HeavyFootprint:
        """Take the values of the footprint's pixels out of images that lie at `box`.

        Raises
        ------
        ValueError
            When the footprint leaves the images.
        """
        index = _index(footprint, image, box)
        others = [None if plane is None else np.asarray(plane)[index] for plane in (mask, variance)]
        return cls(footprint, image[index], *others)

    def __eq__(self, other: object) -> bool:
        """Same pixels, peaks and values (NaN equals NaN)."""
        if not isinstance(other, HeavyFootprint):
            return NotImplemented
        return self.footprint == other.footprint and all(
            _same_values(getattr(self, name), getattr(other, name)) for name in _HEAVY_TYPES
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def flux(self) -> float:
        """Sum of the image values."""
        return float(self.image.sum(dtype=np.float64))

    def to_image(self, box: Box | None = None, fill: float = 0.0) -> np.ndarray:
        """The values as an image over `box` (without: the footprint's own), `fill` elsewhere; float32."""
        box = self.footprint.box if box is None else box
        image = np.full(box.shape, fill, dtype=np.float32)
        y, x = self.footprint.pixels()
        here = (y >= box.y0) & (y < box.y1) & (x >= box.x0) & (x < box.x1)
        image[y[here] - box.y0, x[here] - box.x0] = self.image[here]
        return image

    def insert(
        self,
        image: np.ndarray,
        mask: np.ndarray | None = None,
        variance: np.ndarray | None = None,
        box: Box | None = None,
    ) -> None:
        """Put the values into images that lie at `box`, exactly as they are.

        Raises
        ------
        ValueError
            When the footprint leaves the images, or has no values for one of them.
        """
        index = _index(self.footprint, image, box)
        for name, plane in (("image", image), ("mask", mask), ("variance", variance)):
            if plane is None:
                continue
            if getattr(self, name) is None:
                raise ValueError(f"the heavy footprint has no {name} to insert")
            plane[index] = getattr(self, name)

    def add_to(self, image: np.ndarray, box: Box | None = None, factor: float = 1.0) -> None:
        """Add `factor` times the image values to an image that lies at `box`.

        In float32 adding what was subtracted gives the old image to rounding; to have the old bits back, take
        them out first (`from_images`) and `insert` them.
        """
        index = _index(self.footprint, image, box)
        image[index] += np.asarray(factor * self.image.astype(np.float64), dtype=image.dtype)

    def subtract_from(self, image: np.ndarray, box: Box | None = None) -> None:
        """Subtract the image values from an image that lies at `box`."""
        self.add_to(image, box, -1.0)

    def to_state(self) -> State:
        """Plain data."""
        arrays = dict(self.footprint.to_state().arrays)
        arrays |= {name: getattr(self, name) for name in _HEAVY_TYPES if getattr(self, name) is not None}
        return State(self.kind, {}, arrays)

    @classmethod
    def from_state(cls, state: State) -> HeavyFootprint:
        """The heavy footprint again."""
        return cls(Footprint.from_state(state), *(state.arrays.get(name) for name in _HEAVY_TYPES))


_HEAVY_TYPES = {"image": np.float32, "mask": np.int32, "variance": np.float32}


class Families:
    """Parents and children: which row is a child of which. Children may be parents themselves.

    Parameters
    ----------
    ids : ndarray of int64, shape (n,)
        All different.
    parents : ndarray of int64, shape (n,)
        Id of the parent, 0 for none.

    Raises
    ------
    ValueError
        When an id is 0 or occurs twice, a parent is missing, or a row is its own ancestor.
    """

    def __init__(self, ids: np.ndarray, parents: np.ndarray) -> None:
        self.ids, self.parents = np.asarray(ids, dtype=np.int64), np.asarray(parents, dtype=np.int64)
        if self.ids.shape != self.parents.shape or self.ids.ndim != 1:
            raise ValueError(f"{self.ids.shape} ids do not fit {self.parents.shape} parents")
        self._row = {int(name): row for row, name in enumerate(self.ids)}
        if len(self._row) != len(self.ids) or 0 in self._row:
            raise ValueError("ids must differ from each other and from 0, which means no parent")
        orphans = set(self.parents.tolist()) - self._row.keys() - {0}
        if orphans:
            raise ValueError(f"parents {sorted(orphans)[:5]} are not among the ids")
        self._children: dict[int, list[int]] = {}
        for name, parent in zip(self.ids.tolist(), self.parents.tolist(), strict=True):
            self._children.setdefault(parent, []).append(name)
        reached = [name for top in self.tops() for name in (top, *self.descendants(top))]
        if len(reached) != len(self.ids):
            lost = sorted(self._row.keys() - set(reached))
            raise ValueError(f"ids {lost[:5]} are their own ancestors")

    def __len__(self) -> int:
        return len(self.ids)

    def tops(self) -> list[int]:
        """Ids without a parent, in the order given."""
        return list(self._children.get(0, []))

    def children(self, parent: int) -> list[int]:
        """Ids of the direct children, in the order given; empty for a leaf."""
        self.parent(parent)
        return list(self._children.get(parent, []))

    def parent(self, name: int) -> int:
        """Id of the parent, 0 for none. KeyError for an unknown id."""
        return int(self.parents[self._row[name]])

    def descendants(self, name: int) -> Iterator[int]:
        """All below an id, each parent before its own children."""
        stack = self.children(name)[::-1]
        while stack:
            below = stack.pop()
            yield below
            stack.extend(self._children.get(below, [])[::-1])

    def top_of(self, name: int) -> int:
        """The ancestor without a parent; the id itself if it has none."""
        while parent := self.parent(name):
            name = parent
        return name

    def depth(self, name: int) -> int:
        """0 without a parent, 1 for its children, and so on."""
        depth = 0
        while name := self.parent(name):
            depth += 1
        return depth

    def leaves(self) -> np.ndarray:
        """Which rows have no children; bool, shape (n,). Those of one family share the flux once."""
        return np.array([int(name) not in self._children for name in self.ids], dtype=bool)

    def n_children(self) -> np.ndarray:
        """Number of direct children of each row; int64, shape (n,)."""
        return np.array([len(self._children.get(int(name), [])) for name in self.ids], dtype=np.int64)


def children_excess(parent: HeavyFootprint, children: Iterable[HeavyFootprint]) -> np.ndarray:
    """Sum of the children minus the parent in each pixel of the parent, float64, shape (area,).

    Zero (to float32 rounding) where deblending kept the flux.

    Raises
    ------
    ValueError
        When a child has pixels that the parent has not.
    """
    box = parent.footprint.box
    total = np.zeros(box.shape)
    for number, child in enumerate(children):
        if child.footprint.difference(parent.footprint).area:
            raise ValueError(f"child {number} in {child.footprint.box} leaves its parent in {box}")
        y, x = child.footprint.pixels()
        total[y - box.y0, x - box.x0] += child.image
    y, x = parent.footprint.pixels()
    return total[y - box.y0, x - box.x0] - parent.image


def peaks_table(x: np.ndarray, y: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Peaks from their columns."""
    x, y, value = np.atleast_1d(x), np.atleast_1d(y), np.atleast_1d(value)
    table = np.empty(len(x), dtype=PEAK_DTYPE)
    table["x"], table["y"], table["value"] = x, y, value
    return table


def footprints_from_threshold(
    image: np.ndarray,
    threshold: float | np.ndarray,
    *,
    connectivity: int = 8,
    min_area: int = 1,
    polarity: str = "positive",
    good: np.ndarray | None = None,
    box: Box | None = None,
) -> list[Footprint]:
    """Connected regions at or above a threshold, with the local maxima in them as peaks.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        NaN is below every threshold.
    threshold : float or ndarray of shape (ny, nx)
        For negative regions the image is at or below -threshold. Must be positive for "both".
    connectivity : {8, 4}
        Whether pixels that touch at corners belong together.
    min_area : int
        Least number of pixels of a region.
    polarity : {"positive", "negative", "both"}
        Positive regions come first; a region is never of both signs.
    good : ndarray of bool, shape (ny, nx), optional
        False where a pixel must not be part of a region.
    box : Box, optional
        Place of the image in the parent frame.

    Returns
    -------
    list of Footprint
        By the first pixel in (y, x) order. A peak is a pixel of the region that is not below any of its 8
        neighbours in the image, and of equal neighbours the first in (y, x) order. Peaks of negative regions
        are minima, with their negative values.
    """
    if polarity not in ("positive", "negative", "both"):
        raise ValueError(f"polarity must be positive, negative or both, got {polarity!r}")
    if polarity == "both" and not np.min(threshold) > 0:
        raise ValueError(f"a threshold for both signs must be positive, got {np.min(threshold)}")
    image = np.ascontiguousarray(image, dtype=np.float32)
    found = []
    if polarity in ("positive", "both"):
        found += _regions(image, threshold, connectivity, min_area, good, box)
    if polarity in ("negative", "both"):
        below = _regions(-image, threshold, connectivity, min_area, good, box)
        found += [footprint.with_peaks(_negated(footprint.peaks)) for footprint in below]
    return found


def footprints_from_mask(
    mask: Mask, names: str | Iterable[str], connectivity: int = 8, box: Box | None = None
) -> list[Footprint]:
    """Connected regions of pixels with at least one of the planes set, without peaks."""
    return Footprint.from_mask(mask, names, box).split(connectivity)


def set_mask(footprints: Iterable[Footprint], mask: Mask, name: str, box: Box | None = None) -> None:
    """Set a plane of a mask that lies at `box` at the pixels of all footprints."""
    box = Box.of(mask.array) if box is None else box
    spans = [footprint.spans for footprint in footprints]
    if spans:
        Footprint(np.concatenate(spans)).set_mask(mask, name, box)


def merge_overlapping(footprints: Iterable[Footprint], connectivity: int = 8) -> list[Footprint]:
    """Union of footprints that overlap or touch, directly or through others; all peaks are kept.

    Footprints come out by their first pixel in (y, x) order.
    """
    footprints = [footprint for footprint in footprints if footprint.area]
    if not footprints:
        return []
    together = Footprint(np.concatenate([footprint.spans for footprint in footprints]))
    labels = _label_spans(together.spans, connectivity)
    first_y, first_x = np.array([footprint.spans[0, :2] for footprint in footprints], dtype=np.float64).T
    owner = labels[together._span_at(first_x, first_y)]
    counts = [len(footprint.peaks) for footprint in footprints]
    peaks, place = np.unique(np.concatenate([f.peaks for f in footprints]), return_index=True)
    return _assembled(together.spans, labels, peaks, np.repeat(owner, counts)[place])


def structure_half_widths(radius: float, shape: str = "disc") -> np.ndarray:
    """Half width in x of a structuring element in each of its rows; int64, odd number of rows."""
    if not radius >= 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    reach = int(np.floor(radius))
    dy = np.abs(np.arange(-reach, reach + 1))
    if shape == "disc":
        return np.floor(np.sqrt(radius**2 - dy**2)).astype(np.int64)
    if shape == "diamond":
        return reach - dy
    raise ValueError(f"shape must be disc or diamond, got {shape!r}")


def _regions(
    image: np.ndarray,
    threshold: float | np.ndarray,
    connectivity: int,
    min_area: int,
    good: np.ndarray | None,
    box: Box | None,
) -> list[Footprint]:
    above = image >= threshold
    if good is not None:
        above &= good
    spans = _array_spans(above)
    labels = _label_spans(spans, connectivity)
    n = labels.max(initial=-1) + 1
    area = np.bincount(labels, weights=spans[:, 2] - spans[:, 1], minlength=n)
    peak_count = count_peaks(image, spans)
    peaks_y, peaks_x, owner = (np.empty(peak_count, dtype=np.int64) for _ in range(3))
    find_peaks(image, spans, peaks_y, peaks_x, owner)
    peaks = peaks_table(peaks_x, peaks_y, image[peaks_y, peaks_x])
    offset = _origin_offset(image, box)[0]
    peaks["y"] += offset[0]
    peaks["x"] += offset[1]
    keep = np.flatnonzero(area >= min_area)
    return _assembled(spans + offset, labels, peaks, labels[owner], keep)


def _assembled(
    spans: np.ndarray,
    labels: np.ndarray,
    peaks: np.ndarray,
    peak_labels: np.ndarray,
    keep: np.ndarray | None = None,
) -> list[Footprint]:
    """A footprint for each label (or those to keep) from the spans and peaks that have it."""
    n = labels.max(initial=-1) + 1
    if not n:
        return []
    own_spans, own_peaks = _grouped(spans, labels, n), _grouped(peaks, peak_labels, n)
    return [Footprint(own_spans[i], own_peaks[i]) for i in (range(n) if keep is None else keep)]


def _grouped(rows: np.ndarray, labels: np.ndarray, n: int) -> list[np.ndarray]:
    """Rows of each label 0..n-1, in their order."""
    order = np.argsort(labels, kind="stable")
    return np.split(rows[order], np.cumsum(np.bincount(labels, minlength=n))[:-1])


def _negated(peaks: np.ndarray) -> np.ndarray:
    peaks = peaks.copy()
    peaks["value"] *= -1
    return peaks


def _index(footprint: Footprint, image: np.ndarray, box: Box | None) -> tuple[np.ndarray, np.ndarray]:
    """(y, x) index of the footprint's pixels in an image that lies at `box`."""
    box = Box.of(image) if box is None else box
    if image.shape != box.shape:
        raise ValueError(f"image of shape {image.shape} does not fill {box}")
    if footprint.area and not footprint.box.within(box):
        raise ValueError(f"the footprint in {footprint.box} leaves the image in {box}: clip it first")
    y, x = footprint.pixels()
    return y - box.y0, x - box.x0


def _origin_offset(array: np.ndarray, box: Box | None) -> np.ndarray:
    """What takes spans of an array to the parent frame, shape (1, 3)."""
    if box is None:
        return np.zeros((1, 3), dtype=np.int32)
    if array.shape != box.shape:
        raise ValueError(f"array of shape {array.shape} does not fill {box}")
    return np.array([[box.y0, box.x0, box.x0]], dtype=np.int32)


def _pixel_of(place: np.ndarray) -> np.ndarray:
    """The pixel that covers each place; place + 0.5 would round some places up to the next pixel."""
    whole = np.floor(place)
    return (whole + (place - whole >= 0.5)).astype(np.int64)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _same_values(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _normal(spans: np.ndarray) -> np.ndarray:
    """Sorted spans, those of a row that touch or overlap joined, empty ones left out."""
    spans = spans[spans[:, 1] < spans[:, 2]]
    y, x0, x1 = spans.T
    if len(spans) > 1:
        ordered = (y[1:] > y[:-1]) | ((y[1:] == y[:-1]) & (x0[1:] > x1[:-1]))
        if ordered.all():
            return spans
        spans = np.ascontiguousarray(spans[np.lexsort((x0, y))])
        return spans[: join_spans(spans)].copy()
    return spans


def _array_spans(where: np.ndarray) -> np.ndarray:
    """Spans of the True pixels of a C-ordered array, int32, shape (n, 3)."""
    spans = np.empty((count_spans(where), 3), dtype=np.int32)
    find_spans(where, spans)
    return spans


def _label_spans(spans: np.ndarray, connectivity: int) -> np.ndarray:
    """Number of the connected component of each normal span, from 0 by first pixel; int64, shape (n,)."""
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 or 8, got {connectivity}")
    labels = np.empty(len(spans), dtype=np.int64)
    label_spans(spans, 1 if connectivity == 8 else 0, labels)
    return labels


@kernel("int64(const(boolean[:, ::1]))")
def count_spans(where):
    """Number of runs of True in the rows."""
    n = 0
    for y in range(where.shape[0]):
        before = False
        for x in range(where.shape[1]):
            here = where[y, x]
            if here and not before:
                n += 1
            before = here
    return n


@kernel("void(const(boolean[:, ::1]), int32[:, ::1])")
def find_spans(where, spans):
    """Runs of True in the rows, as (y, x0, x1)."""
    n = 0
    nx = where.shape[1]
    for y in range(where.shape[0]):
        x = 0
        while x < nx:
            if where[y, x]:
                first = x
                while x < nx and where[y, x]:
                    x += 1
                spans[n, 0], spans[n, 1], spans[n, 2] = y, first, x
                n += 1
            x += 1


@kernel("int64(int32[:, ::1])")
def join_spans(spans):
    """Join sorted spans in place; returns how many are left."""
    last = 0
    for n in range(1, spans.shape[0]):
        if spans[n, 0] == spans[last, 0] and spans[n, 1] <= spans[last, 2]:
            spans[last, 2] = max(spans[last, 2], spans[n, 2])
        else:
            last += 1
            spans[last] = spans[n]
    return last + 1


@kernel("void(const(int32[:, ::1]), int64, int64[::1])")
def label_spans(spans, reach, labels):
    """Connected components of normal spans; `reach` 1 joins spans that touch at corners (union-find)."""
    n = spans.shape[0]
    root = np.arange(n)
    previous, previous_end, start = 0, 0, 0
    while start < n:
        end = start
        while end < n and spans[end, 0] == spans[start, 0]:
            end += 1
        if previous_end > previous and spans[previous, 0] == spans[start, 0] - 1:
            a, b = previous, start
            while a < previous_end and b < end:
                if spans[a, 1] < spans[b, 2] + reach and spans[b, 1] < spans[a, 2] + reach:
                    i, j = a, b
                    while root[i] != i:
                        root[i] = root[root[i]]
                        i = root[i]
                    while root[j] != j:
                        root[j] = root[root[j]]
                        j = root[j]
                    # the smaller index stays root, so that components are in order of their first pixel
                    root[max(i, j)] = min(i, j)
                if spans[a, 2] < spans[b, 2]:
                    a += 1
                else:
                    b += 1
        previous, previous_end = start, end
        start = end
    count = 0
    for i in range(n):
        if root[i] == i:
            labels[i] = count
            count += 1
        else:
            labels[i] = labels[root[i]]


@kernel("void(const(int32[:, ::1]), boolean[:, ::1])")
def fill_spans(spans, where):
    """Set the pixels of spans, which must lie within the array."""
    for n in range(spans.shape[0]):
        for x in range(spans[n, 1], spans[n, 2]):
            where[spans[n, 0], x] = True


@kernel("void(const(int32[:, ::1]), int64[::1], int64[::1])")
def span_pixels(spans, y, x):
    """Positions of all pixels in span order."""
    n = 0
    for s in range(spans.shape[0]):
        for i in range(spans[s, 1], spans[s, 2]):
            y[n], x[n] = spans[s, 0], i
            n += 1


@kernel("void(const(int32[:, ::1]), const(int64[::1]), int32[:, ::1])")
def grow_spans(spans, half_widths, out):
    """Each span widened by the structuring element's rows."""
    reach = half_widths.size // 2
    n = 0
    for s in range(spans.shape[0]):
        for j in range(half_widths.size):
            out[n, 0] = spans[s, 0] + j - reach
            out[n, 1] = spans[s, 1] - half_widths[j]
            out[n, 2] = spans[s, 2] + half_widths[j]
            n += 1


@kernel("boolean(const(float32[:, ::1]), int64, int64)")
def is_peak(image, y, x):
    """Whether no neighbour is above a pixel, and none before it in (y, x) order is equal."""
    value = image[y, x]
    for v in range(max(y - 1, 0), min(y + 2, image.shape[0])):
        for u in range(max(x - 1, 0), min(x + 2, image.shape[1])):
            if image[v, u] > value:
                return False
            if image[v, u] == value and (v < y or (v == y and u < x)):
                return False
    return True


@kernel("int64(const(float32[:, ::1]), const(int32[:, ::1]))")
def count_peaks(image, spans):
    """Number of peaks on the pixels of spans."""
    n = 0
    for s in range(spans.shape[0]):
        for x in range(spans[s, 1], spans[s, 2]):
            if is_peak(image, spans[s, 0], x):
                n += 1
    return n


@kernel("void(const(float32[:, ::1]), const(int32[:, ::1]), int64[::1], int64[::1], int64[::1])")
def find_peaks(image, spans, peaks_y, peaks_x, owner):
    """Peaks on the pixels of spans, and the span each is on."""
    n = 0
    for s in range(spans.shape[0]):
        for x in range(spans[s, 1], spans[s, 2]):
            if is_peak(image, spans[s, 0], x):
                peaks_y[n], peaks_x[n], owner[n] = spans[s, 0], x, s
                n += 1
