"""Satellite trails (LDM-151 8.2): a line followed over the detector: where it shines, and its cross-section."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.algorithms.artifact_detection.trail_profile import (
    REACH,
    LineFit,
    Strip,
    fit_line,
    line_in_box,
    median_of_known,
    strip_along,
)

if TYPE_CHECKING:
    pass

SIDE = 40
"""The cross-section is looked at to this distance [pixel]."""


@dataclass(frozen=True)
class FollowedLine:
    """A strip with a fit, brightness by block and the blocks in which the trail is."""

    strip: Strip
    fit: LineFit
    brightness: np.ndarray
    noise: np.ndarray
    rank: np.ndarray
    least_rank: np.ndarray
    first: int
    last: int

    @property
    def inside(self) -> slice:
        return slice(self.first, self.last + 1)

    @property
    def length(self) -> float:
        """Of the part that shines [pixel]."""
        return (self.last + 1 - self.first) * self.strip.block

    @property
    def across(self) -> np.ndarray:
        n = self.brightness.size
        return self.fit.across((np.arange(n) + 0.5) / n)


def follow(image, variance, unusable, ends, config, threshold, before=None) -> FollowedLine | None:
    """The strip along a line, the line fitted to the part that was seen, and where it shines; None if too faint.

    `before` is the line from which the ends come: they are near then, and its length decides that of blocks.
    """
    x0, y0, x1, y1 = ends
    angle = math.atan2(y1 - y0, x1 - x0)
    strip = strip_along(image, variance, unusable, x0, y0, angle, before and before.length)
    if strip is None:
        return None
    along = [
        (x - strip.x0) * math.cos(angle) + (y - strip.y0) * math.sin(angle) for x, y in ((x0, y0), (x1, y1))
    ]
    n = strip.mean.shape[0]
    seen = slice(
        int(np.clip(along[0] / strip.block, 0, n - 4)), int(np.clip(math.ceil(along[1] / strip.block), 4, n))
    )
    fit = fit_line(strip, seen) if before is None else LineFit(0.0, 0.0, 0.0, before.fit.width, math.inf)
    if fit.score < threshold:
        return None
    fit = fit_line(strip, seen, fit, config.greatest_bow * (seen.stop - seen.start) * strip.block)
    brightness, noise, rank, least_rank = _along(strip, fit)
    first, last = extent(brightness, noise)
    return FollowedLine(strip, fit, brightness, noise, rank, least_rank, first, last)


def _along(strip: Strip, fit: LineFit) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Brightness on the line by block, its noise, the share of boxes beside the line that are as bright, and the
    least that share can be.

    The noise is that of the pixels, or the scatter of the boxes beside the line where that is larger (crowds).
    """
    mean, noise = strip.boxes[fit.width]
    n = mean.shape[0]
    middle = fit.across((np.arange(n) + 0.5) / n)
    j = np.clip(np.rint(middle).astype(int) + REACH, 0, 2 * REACH)
    own, formal = mean[np.arange(n), j], noise[np.arange(n), j]
    distance = np.abs(np.arange(mean.shape[1])[None, :] - j[:, None])
    beside = np.where(distance > fit.width + 2, mean, np.nan)
    count = np.isfinite(beside).sum(axis=1)
    known = np.isfinite(own) & (count > REACH // 4)
    scatter, rank, least = (np.full(n, np.nan) for _ in range(3))
    if known.any():
        part = beside[known]
        scatter[known] = 1.4826 * median_of_known(np.abs(part - median_of_known(part, 1)[:, None]), 1)
        # boxes overlap: no more can be said than that so many independent ones are fainter
        least[known] = 1 / (np.maximum(count[known] / fit.width, 2) + 1)
        rank[known] = np.maximum((part >= own[known, None]).sum(axis=1) / count[known], least[known])
        usual = float(np.median(scatter[known] / formal[known]))
        scatter[known] = np.maximum(scatter[known], usual * formal[known])
    return np.where(known, own, np.nan), np.where(known, np.fmax(scatter, formal), np.nan), rank, least


def extent(brightness: np.ndarray, noise: np.ndarray) -> tuple[int, int]:
    """First and last block of the part of a line that shines: the run with the greatest score.

    A block scores its brightness over the typical one, limited, less a quarter: dark blocks take away, a flashing
    trail's gaps less than its flashes give. (0, -1) when nothing shines.
    """
    known = np.isfinite(brightness)
    snr = np.where(known, brightness / np.where(known, noise, 1), 0.0)
    first, last = _best_run(np.where(known, np.clip(snr, -3, 3) - 0.7, 0.0))
    for _ in range(2):
        if last < first:
            return 0, -1
        inside = np.flatnonzero(known[first : last + 1]) + first
        level = float(np.percentile(brightness[inside], 60)) if inside.size else 0.0
        if level <= 0:
            return 0, -1
        # faint trails: limited by noise as well, so that chance does not stretch or cut them
        weight = np.minimum(1.0, level / np.where(known, noise, 1))
        share = np.where(known, np.clip(brightness / level, -1.0, 1.2) - 0.25, 0.0)
        first, last = _best_run(share * weight)
    return first, last


def _best_run(score: np.ndarray) -> tuple[int, int]:
    """Ends of the run of blocks with the greatest sum."""
    total = np.concatenate([[0.0], np.cumsum(score)])
    low = np.minimum.accumulate(total)
    gain = total - low
    last = int(np.argmax(gain)) - 1
    if last < 0:
        return 0, -1
    first = int(np.flatnonzero(total[: last + 1] == low[last + 1])[-1])
    return first, last


def line_ends(line: FollowedLine) -> tuple[float, float, float, float]:
    n, block = line.brightness.size, line.strip.block
    place = [
        line.strip.place(k * block, float(line.fit.across(np.array(k / n))))
        for k in (line.first, line.last + 1)
    ]
    return tuple(float(v) for pair in place for v in pair)


def aligned_profile(line: FollowedLine) -> tuple[np.ndarray, np.ndarray]:
    """Typical cross-section of the trail and its error, at distances -`SIDE` to `SIDE`: medians over its blocks."""
    j = np.rint(line.across[line.inside]).astype(int)[:, None] + REACH + np.arange(-SIDE, SIDE + 1)
    rows = np.arange(line.first, line.last + 1)[:, None]
    outside = (j < 0) | (j > 2 * REACH)
    values = np.where(outside, np.nan, line.strip.mean[rows, np.clip(j, 0, 2 * REACH)])
    count = np.isfinite(values).sum(axis=0)
    profile, error = np.full(2 * SIDE + 1, np.nan), np.full(2 * SIDE + 1, np.nan)
    enough = count >= max(3, 0.3 * values.shape[0])
    if enough.any():
        part = values[:, enough]
        profile[enough] = median_of_known(part, 0)
        spread = 1.4826 * median_of_known(np.abs(part - profile[enough]), 0)
        error[enough] = 1.2533 * spread / np.sqrt(count[enough])
    return profile, error


def cross_section(profile: np.ndarray) -> tuple[float, int, int]:
    """(full width at half maximum, first, last): the pixels about the middle that exceed 0.2 of the peak."""
    filled = np.nan_to_num(profile, nan=0.0)
    near = slice(SIDE - 4, SIDE + 5)
    top = SIDE - 4 + int(np.argmax(filled[near]))
    # of a donut the middle is not the brightest
    peak = float(filled[max(top - 1, 0) : top + 2].max())
    if peak <= 0:
        return 0.0, SIDE, SIDE - 1
    crossings = []
    for step in (-1, 1):
        j = top
        while 0 < j < 2 * SIDE and filled[j] > 0.5 * peak:
            j += step
        inner, outer = filled[j - step], filled[j]
        share = (inner - 0.5 * peak) / (inner - outer) if inner > outer else 0.0
        crossings.append(abs(j - step - SIDE + step * min(max(share, 0.0), 1.0) - (top - SIDE)))
    first = last = top
    while first > 0 and filled[first - 1] > 0.2 * peak:
        first -= 1
    while last < 2 * SIDE and filled[last + 1] > 0.2 * peak:
        last += 1
    return float(sum(crossings)), first, last


def pixel_noise(line) -> float:
    """Typical noise of a pixel of the strip."""
    return math.sqrt(line.strip.block * float(np.nanmedian(line.strip.error)))


def open_ends(line, shape) -> tuple[bool, bool]:
    """Whether the trail ends within the detector at its start and at its end."""
    margin = 2 * line.strip.block + 8
    x0, y0, x1, y1 = line_ends(line)
    angle = math.atan2(y1 - y0, x1 - x0)
    inside = line_in_box(x0, y0, angle, shape)
    if inside is None:
        return False, False
    before = math.hypot(x0 - inside[0], y0 - inside[1])
    length = math.hypot(x1 - x0, y1 - y0)
    return bool(before > margin), bool(inside[2] - before - length > margin)
