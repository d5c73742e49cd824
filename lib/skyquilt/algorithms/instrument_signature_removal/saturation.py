"""Saturation (LDM-151 8.1): full pixels, and those that their surplus flowed into.

A pixel is saturated when its stored value reaches the converter's limit (the definition's `saturation`) or its
level above bias the full well of the photon transfer. Surplus charge flows along the column and fills each pixel up
to its own full well, which differs from pixel to pixel and may lie below the converter's limit. So:

1. `assemble_section` marks pixels by level (cores);
2. `find_plateaus` finds columns filled to a lower level than known: runs of nearly equal high values, longer than
   they are wide; where several agree, their level is the amplifier's full well;
3. `mark_bleeds` follows the column from every marked pixel while values stay above a share of the saturation level
   of the amplifier they are in, over small gaps;
4. where a trail ends at the detector's first or last row, charge spreads along the rows there: what is
   connected to it and stands out of its row is marked;
5. the last pixel of a trail is filled in part: the mask is grown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.compiled import kernel

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Detector
    from skyquilt.primitives.mask import Mask


_WIDEST = 40
"""Width above which a run along columns is no trail [pixel]."""


@dataclass(frozen=True)
class SaturationConfig:
    """Saturated and bled pixels."""

    suspect_fraction: float = 0.95
    """Pixels above this share of the saturation level, as stored, are SUSPECT."""
    full_well_fraction: float = 0.95
    """Pixels above this share of the full well that the photon transfer found are SATURATED; 0 leaves it out."""
    suspect_beyond_linearity: bool = True
    """Pixels above the highest level at which linearity was measured are SUSPECT."""
    bleed_fraction: float = 0.6
    """A trail goes on while pixels are above this share of the saturation level."""
    bleed_gap: int = 2
    """Lower pixels within a trail that are bridged [pixel]."""
    plateau_length: int = 10
    """Shortest run along a column at nearly one high level that is taken for a trail although no pixel
    reaches the saturation level [pixel]; 0 leaves this out."""
    plateau_level: float = 0.3
    """Least level of such a run, as a share of the saturation level."""
    edge_rows: int = 10
    """Rows at the detector's first and last row in which charge of a trail that ends there is followed along
    the row [pixel]; 0 leaves this out."""
    grow: int = 1
    """SATURATED is grown by this [pixel]."""
    max_saturated: float = 0.5
    """A frame with a larger share of saturated pixels fails."""

    def __post_init__(self) -> None:
        for name in ("suspect_fraction", "max_saturated", "bleed_fraction", "plateau_level"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"saturation.{name} must be in 0..1 and positive, got {getattr(self, name)}")
        if not 0 <= self.full_well_fraction <= 1:
            raise ValueError(f"saturation.full_well_fraction must be in 0..1, got {self.full_well_fraction}")
        for name in ("bleed_gap", "plateau_length", "edge_rows", "grow"):
            if getattr(self, name) < 0:
                raise ValueError(f"saturation.{name} must not be negative, got {getattr(self, name)}")


@kernel(
    "int64(const(float32[:, :]), int32[:, :], const(int64[:, :]), const(float64[:]), float64, int64, int32)"
)
def mark_bleeds(image, mask, boxes, levels, fraction, max_gap, saturated_bits):
    """Follow trails along the columns from marked pixels, in place; returns how many pixels were marked.

    Parameters
    ----------
    image : float32, shape (ny, nx)
        [ADU] above bias.
    mask : int32, shape (ny, nx)
        Pixels with `saturated_bits` are where trails start.
    boxes : int64, shape (n, 4)
        x0, y0, x1, y1 of the amplifiers.
    levels : float64, shape (n,)
        Their saturation level [ADU above bias].
    fraction : float
        Share of the level above which a trail goes on.
    max_gap : int
        Lower pixels in a row that do not end it.
    """
    ny, nx = image.shape
    number = 0
    for j in range(ny):
        for i in range(nx):
            if mask[j, i] & saturated_bits:
                number += 1
    seeds = np.empty((number, 2), np.int64)
    number = 0
    for j in range(ny):
        for i in range(nx):
            if mask[j, i] & saturated_bits:
                seeds[number, 0] = j
                seeds[number, 1] = i
                number += 1
    marked = 0
    box = 0
    for k in range(number):
        i = seeds[k, 1]
        for direction in (-1, 1):
            gap = 0
            j = seeds[k, 0] + direction
            # a marked pixel walks, or has walked, for itself
            while 0 <= j < ny and gap <= max_gap and not mask[j, i] & saturated_bits:
                if not (boxes[box, 0] <= i < boxes[box, 2] and boxes[box, 1] <= j < boxes[box, 3]):
                    for other in range(boxes.shape[0]):
                        if boxes[other, 0] <= i < boxes[other, 2] and boxes[other, 1] <= j < boxes[other, 3]:
                            box = other
                if image[j, i] >= fraction * levels[box]:
                    for step in range(gap + 1):
                        mask[j - direction * step, i] |= saturated_bits
                    marked += gap + 1
                    gap = 0
                else:
                    gap += 1
                j += direction
    return marked


@kernel("int64(const(float32[:, :]), int32[:, :], float64, int64, int32)")
def find_plateaus(image, mask, lowest, length, saturated_bits):
    """Mark runs along columns at nearly one high level that are longer than wide; returns how many pixels.

    A run has neighbours within a tenth of each other and all within a quarter of its first pixel. In its middle
    row values fall below 0.7 of it on both sides, for three pixels at least, and it is no wider than half its length
    and `_WIDEST`: so neither flats (also between dead columns, or in narrow amplifiers) nor extended objects are
    marked.

    Parameters
    ----------
    image : float32, shape (ny, nx)
        [ADU] above bias, of one amplifier.
    mask : int32, shape (ny, nx)
    lowest : float
        Least level of a run [ADU].
    length : int
        Shortest run [pixel].
    """
    ny, nx = image.shape
    begin = np.zeros(nx, np.int64)
    marked = 0
    for j in range(ny + 1):
        for i in range(nx):
            if j < ny and not image[j, i] >= lowest:
                ends = j - begin[i] >= length
                if not ends:
                    begin[i] = j + 1
                    continue
            elif j < ny and j > begin[i]:
                value, before, first = image[j, i], image[j - 1, i], image[begin[i], i]
                if abs(value - before) <= 0.1 * before and abs(value - first) <= 0.25 * first:
                    continue
            elif j < ny:
                continue
            if j - begin[i] >= length:
                middle = (begin[i] + j) // 2
                limit = np.float32(0.7) * image[middle, i]
                allowed = min((j - begin[i]) // 2, _WIDEST)
                width = 1
                for step in (-1, 1):
                    below = 0
                    at = i + step
                    while 0 <= at < nx and below < 3 and width <= allowed:
                        if image[middle, at] >= limit:
                            width += below + 1
                            below = 0
                        else:
                            below += 1
                        at += step
                    if below < 3:
                        # the edge says nothing of what is beyond
                        width = allowed + 1
                if width <= allowed:
                    for y in range(begin[i], j):
                        mask[y, i] |= saturated_bits
                    marked += j - begin[i]
            begin[i] = j if j < ny and image[j, i] >= lowest else j + 1
    return marked


@kernel("void(int32[:, :], int32, int32, int64)")
def mark_near(mask, bits, mark, reach):
    """Set `mark` on all pixels within `reach` rows and columns of a pixel that has any of `bits`, in place."""
    rows, columns = mask.shape
    n = 0
    for j in range(rows):
        for i in range(columns):
            if mask[j, i] & bits:
                n += 1
    seeds = np.empty((n, 2), np.int64)
    n = 0
    for j in range(rows):
        for i in range(columns):
            if mask[j, i] & bits:
                seeds[n, 0] = j
                seeds[n, 1] = i
                n += 1
    for k in range(n):
        for j in range(max(seeds[k, 0] - reach, 0), min(seeds[k, 0] + reach + 1, rows)):
            for i in range(max(seeds[k, 1] - reach, 0), min(seeds[k, 1] + reach + 1, columns)):
                mask[j, i] |= mark


def mark_trails(
    image: np.ndarray,
    mask: Mask,
    detector: Detector,
    levels: np.ndarray,
    n_saturated: int,
    config: SaturationConfig,
) -> None:
    """Steps 2 to 5 on an assembled image [ADU above bias]: sets SATURATED, in place.

    Parameters
    ----------
    levels : ndarray, shape (n,)
        Saturation level of the amplifiers above bias [ADU]; NaN for those without data.
    n_saturated : int
        Pixels that are marked already.
    """
    bits = mask.bits(["SATURATED"])
    levels = np.where(np.isfinite(levels), levels, np.inf)
    found = n_saturated
    if config.plateau_length:
        levels = levels.copy()
        for number, amplifier in enumerate(detector.amplifiers):
            if np.isfinite(levels[number]):
                part = amplifier.data.slices()
                marked, levels[number] = _mark_plateaus(
                    image[part], mask.array[part], float(levels[number]), bits, config
                )
                found += marked
    if not found:
        return
    boxes = np.array([(a.data.x0, a.data.y0, a.data.x1, a.data.y1) for a in detector.amplifiers], np.int64)
    mark_bleeds(image, mask.array, boxes, levels, config.bleed_fraction, config.bleed_gap, bits)
    if config.edge_rows:
        _mark_edges(image, mask, config.edge_rows, bits)
    if config.grow:
        mark_near(mask.array, bits, bits, config.grow)


def _mark_plateaus(
    image: np.ndarray, mask: np.ndarray, level: float, bits: int, config: SaturationConfig
) -> tuple[int, float]:
    """Mark plateaus of an amplifier; how many pixels, and its saturation level [ADU above bias] as they show it.

    Where enough of them agree, pixels above the level of nearly all of them are saturated too: cores too small to
    make a plateau.
    """
    runs = np.zeros(mask.shape, np.int32)
    marked = find_plateaus(image, runs, config.plateau_level * level, config.plateau_length, 1)
    if not marked:
        return 0, level
    where = runs != 0
    lowest, highest = np.quantile(image[where], (0.05, 0.95))
    if marked >= 3 * config.plateau_length and where.any(axis=0).sum() >= 3 and highest < 1.4 * lowest:
        level = min(level, float(lowest))
        where |= image >= level
    mask[where] |= np.int32(bits)
    return int(where.sum()), level


def _mark_edges(image: np.ndarray, mask: Mask, rows: int, bits: int) -> None:
    """Charge spread along the first or last rows by trails that end there."""
    from scipy import ndimage

    ny = image.shape[0]
    rows = min(rows, ny)
    for edge, strip in ((0, slice(0, rows)), (ny - 1, slice(ny - rows, ny))):
        touching = (mask.array[edge] & bits) != 0
        # the whole row, as in a saturated flat, is no trail
        if not touching.any() or touching.mean() > 0.25:
            continue
        values = image[strip]
        saturated = (mask.array[strip] & bits) != 0
        level, width = _row_statistics(np.where(saturated, np.nan, values))
        bright = (values > level + 5 * width) | saturated
        labels, number = ndimage.label(bright)
        if number:
            hit = np.unique(labels[edge - strip.start][touching])
            mask.array[strip] |= np.where(np.isin(labels, hit[hit > 0]), np.int32(bits), np.int32(0))


def _row_statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and robust width of the finite values of each row, as columns; infinite where there are none."""
    level = np.full((values.shape[0], 1), np.inf)
    width = np.zeros((values.shape[0], 1))
    for j, row in enumerate(values):
        good = row[np.isfinite(row)]
        if good.size:
            level[j] = np.median(good)
            width[j] = 1.4826 * np.median(np.abs(good - level[j]))
    return level, width
