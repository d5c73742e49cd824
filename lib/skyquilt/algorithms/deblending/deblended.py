"""Deblend families (LDM-151 8.5.1, 9.3): the shares of all sources of a detector as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.footprints import Families, Footprint, HeavyFootprint
from skyquilt.primitives.geometry import Box

FLAGS = (
    "not_deblended",
    "edge",
    "masked",
    "point_source",
    "degenerate",
    "dropped",
    "template_cut",
    "stray",
)
"""Names of the flags of `Deblended`."""


@dataclass(frozen=True)
class Deblended:
    """Children of all footprints, and their parents.

    Rows are the sources in the order of the detections, then the parents of those that share a footprint. In each
    pixel of a parent its children's values are of one sign and multiples of the spacing of float32 numbers at the
    parent's value; so their sum in float32, in any order, is the parent's value to the last bit.

    Parameters
    ----------
    child_start : ndarray of int64, shape (n + 1,)
        Row k owns `pixel[child_start[k]:child_start[k + 1]]`.
    pixel : ndarray of int64, shape (m,)
        Flat index in the image, ascending within a row.
    value : ndarray of float32, shape (m,)
        The row's share of the image there [electron].
    parent : ndarray of int64, shape (n,)
        Number of the parent's row, -1 for a source alone in its footprint and for parents.
    n_child : ndarray of int64, shape (n,)
        Above 0 for rows that are parents.
    flags : dict of str to ndarray of bool, shape (n,)
        `not_deblended`: too many peaks or pixels, shares are those of the detection's flood; `edge`: the template met
        the edge of the image; `masked`: pixels of it were replaced; `point_source`: the template is a PSF;
        `degenerate`: dropped as equal to a neighbour's; `dropped`: no light is left for it, the child is empty;
        `template_cut`: the template ended at the largest radius; `stray`: got more than a tenth of its light from
        pixels without templates.
    shape : (int, int)
        (ny, nx) of the image.
    """

    child_start: np.ndarray
    pixel: np.ndarray
    value: np.ndarray
    parent: np.ndarray
    n_child: np.ndarray
    flags: dict[str, np.ndarray]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.parent)

    def row(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and values of a row."""
        part = slice(self.child_start[k], self.child_start[k + 1])
        return self.pixel[part], self.value[part]

    def fluxes(self) -> np.ndarray:
        """Sum of each row's values, float64; pixels that are not finite count as 0."""
        finite = np.where(np.isfinite(self.value), self.value, 0)
        sums = np.append(0.0, np.cumsum(finite, dtype=np.float64))
        return sums[self.child_start[1:]] - sums[self.child_start[:-1]]

    def heavy_footprint(self, k: int, origin: tuple[int, int] = (0, 0)) -> HeavyFootprint:
        """A row as a HeavyFootprint, in a frame in which the image's first pixel is `origin` (x, y)."""
        pixel, value = self.row(k)
        y, x = np.divmod(pixel, self.shape[1])
        spans = np.column_stack([y + origin[1], x + origin[0], x + origin[0] + 1])
        return HeavyFootprint(Footprint(spans), value)

    def families(self, ids: np.ndarray) -> Families:
        """Which of the rows' ids are children of which."""
        ids = np.asarray(ids, dtype=np.int64)
        return Families(ids, np.where(self.parent >= 0, ids[self.parent], 0))

    def image_of(self, k: int, box: Box) -> np.ndarray:
        """A row's values over a box of the image, 0 elsewhere; float32."""
        pixel, value = self.row(k)
        y, x = np.divmod(pixel, self.shape[1])
        inside = (y >= box.y0) & (y < box.y1) & (x >= box.x0) & (x < box.x1)
        image = np.zeros(box.shape, np.float32)
        image[y[inside] - box.y0, x[inside] - box.x0] = value[inside]
        return image
