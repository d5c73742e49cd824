"""Satellite trails (LDM-151 8.2): whether a line is a trail, and which.

A line of the transform may be a trail, or chance, stars in a row, a galaxy, a spike, a column, a step between
amplifiers, a fringe. A trail shines all along (each block beats the boxes beside it), on both sides stands above
what is beside it, is as broad as the seeing at least, and does not fade from one place outwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.algorithms.artifact_detection.trail_line import (
    aligned_profile,
    cross_section,
    follow,
    line_ends,
    open_ends,
    pixel_noise,
)
from skyquilt.algorithms.artifact_detection.trail_measurement import Trail, companions, measured_trail
from skyquilt.algorithms.artifact_detection.trail_profile import REACH

if TYPE_CHECKING:
    from skyquilt.algorithms.artifact_detection.satellite_trails import SatelliteTrailsConfig

STAR = 5.0
"""A place this much brighter than the line's typical one is a star."""


STANDS_OUT = 3.0
"""A trail's cross-section is this many times its typical excursion elsewhere."""


EVEN = 0.9
"""Blocks within this of the median, in its logarithm, are as bright as a trail's others."""


@dataclass(frozen=True)
class Verdict:
    """A trail, or why a line is none."""

    trail: Trail | None
    reason: str = ""
    companions: tuple[Trail, ...] = ()


def verify_line(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    ends: tuple[float, float, float, float],
    config: SatelliteTrailsConfig,
    psf_fwhm: float | None,
    threshold: float,
    expected: bool = False,
) -> Verdict:
    """Follow a line over the whole detector and judge it.

    Parameters
    ----------
    image, variance, unusable : ndarray, shape (ny, nx)
    ends : (x0, y0, x1, y1)
        The part of the line that was seen [pixel].
    config : SatelliteTrailsConfig
    psf_fwhm : float or None
        [pixel].
    threshold : float
        Least S/N.
    expected : bool
        Whether a trail is expected there: it may be short or faint then.
    """
    line = None
    for _ in range(2):
        line = follow(image, variance, unusable, ends, config, threshold, line)
        if line is None:
            return Verdict(None, "faint")
        if line.last < line.first:
            return Verdict(None, "nothing there")
        if _rank_excess(line) < 0.5 * _needed_excess(line, config):
            return Verdict(None, "no better than beside")
        ends = line_ends(line)
    reason = _objection(line, unusable, config, psf_fwhm, threshold, expected)
    if reason:
        return Verdict(None, reason)
    trail = measured_trail(line, image.shape, config)
    return Verdict(trail, companions=companions(line, trail))


def _objection(line, unusable, config, psf_fwhm, threshold, expected) -> str:
    """Why a line is no trail; empty when there is nothing against it."""
    brightness, noise = line.brightness[line.inside], line.noise[line.inside]
    known = np.isfinite(brightness)
    n = int(known.sum())
    if n < 3:
        return "hidden"
    start, end = open_ends(line, unusable.shape)
    length = line.length
    n_open = 0 if expected else start + end
    least = (config.least_crossing, config.least_length, 2 * config.least_length)[n_open]
    if length < least:
        return f"short: {length} of {least}"
    brightness, noise = brightness[known], noise[known]
    snr = brightness / noise
    level = float(np.percentile(brightness, 60))
    total = float(np.clip(snr, -3, max(3.0, 2 * float(np.median(snr)))).sum() / math.sqrt(n))
    if total < threshold:
        return f"faint: {total:.1f}"
    shining = float((brightness > np.maximum(0.3 * level, 1.0 * noise)).mean())
    if shining < config.least_shining:
        return f"patchy: {shining:.2f}"
    excess = _rank_excess(line)
    if excess < _needed_excess(line, config):
        return f"no better than beside: {excess:.1f}"
    return _shape_objection(line, unusable, config, psf_fwhm, n_open, expected)


def _rank_excess(line) -> float:
    """How far the blocks' ranks exceed chance: Fisher's sum of logarithms, of mean 2 and variance 4 a block."""
    return _excess(line.rank[line.inside])


def _excess(rank) -> float:
    rank = rank[np.isfinite(rank)]
    return float((-2 * np.log(rank) - 2).sum() / math.sqrt(4 * max(rank.size, 1)))


def _needed_excess(line, config) -> float:
    """Least rank excess: of few blocks and broad boxes a share of what a line reaches that beats all beside it."""
    return min(config.least_rank_excess, 0.55 * _excess(line.least_rank[line.inside]))


def _shape_objection(line, unusable, config, psf_fwhm, n_open, expected) -> str:
    profile, _ = aligned_profile(line)
    width, first, last = cross_section(profile)
    bright = line.brightness[line.inside]
    bright = bright[np.isfinite(bright)]
    peak = float(np.nanmean(profile[first : last + 1])) if first <= last else 0.0
    bright_enough = peak > 3 * pixel_noise(line)
    if not 0 < width <= config.greatest_width * (2 if bright_enough else 1):
        return f"broad: {width:.1f}"
    least = 1.2 if psf_fwhm is None else 0.7 * psf_fwhm
    if width < least:
        return f"narrower than a star: {width:.1f}"
    for side in (profile[max(first - 12, 0) : max(first - 2, 0)], profile[last + 3 : last + 13]):
        known = side[np.isfinite(side)]
        if known.size < 4:
            return "nothing to compare with on one side"
        if peak - float(np.percentile(known, 30)) < 0.6 * peak:
            return "a step"
    # what is fainter than asked for must be beyond doubt
    faint = not expected and peak < config.plain * pixel_noise(line)
    if faint and n_open:
        return "faint and ends within the detector"
    if not _stands_out(profile, first, last, STANDS_OUT * (2 if faint else 1)):
        return "one of many"
    even = np.abs(np.log(np.maximum(bright, 1e-30) / np.median(bright))) < EVEN
    if float(even.mean()) < (1.5 if faint else 1.35 if n_open else 1.0) * config.least_shining:
        return f"uneven: {even.mean():.2f}"
    if _troughs(profile, first, last) < -0.35 * peak:
        return "a wave"
    if line.length < config.least_aspect * width * (1.0 if n_open else 0.4):
        return "short for its width"
    if n_open and line.length < config.thinnest * width and _tapers(line, unusable.shape):
        return "tapers off"
    if _fades(line, 0.6 if n_open else 0.5, config.thinnest * width):
        return "fades outwards"
    if _along_axis(line) and width < max(3.5, 0.9 * (psf_fwhm or 0)) and _blocked(line, unusable) > 0.01:
        return "column or row of saturated or bad pixels"
    return ""


def _stands_out(profile, first, last, times) -> bool:
    """Whether the trail's level is far above those of equal boxes beside it."""
    width = last + 1 - first
    filled = np.nan_to_num(profile, nan=0.0)
    boxes = np.convolve(filled, np.full(width, 1 / width), mode="valid")
    start = np.arange(boxes.size)
    beside = boxes[(start > last + 2) | (start + width < first - 1)]
    return beside.size < width or boxes[first] > times * 1.4826 * float(np.median(np.abs(beside)))


def _troughs(profile, first, last) -> float:
    """Mean of the lowest levels on both sides, over five pixels: as far below as fringes rise above."""
    filled = np.convolve(np.nan_to_num(profile, nan=0.0), np.full(5, 0.2), mode="same")[2:-2]
    left, right = filled[: max(first - 3, 1)], filled[min(last, filled.size - 1) :]
    return 0.5 * float(left.min() + right.min())


def _tapers(line, shape) -> bool:
    """Whether a line fades towards an end within the detector: a shutter closes at once, a galaxy does not."""
    brightness = line.brightness[line.inside]
    brightness = brightness[np.isfinite(brightness)]
    n = max(round(0.2 * brightness.size), 2)
    typical = float(np.median(brightness))
    start, end = open_ends(line, shape)
    return bool(
        (start and brightness[:n].mean() < 0.5 * typical) or (end and brightness[-n:].mean() < 0.5 * typical)
    )


def _fades(line, share, long) -> bool:
    """Whether a line fades to both sides from its brightest place, as a galaxy or a spike does.

    The place itself, three tenths of the line, is left out: a trail may cross a star. A line longer than `long`
    [pixel] may fade (a meteor) where there is no saturated star, or the detector's edge, in its brightest place.
    """
    brightness = line.brightness[line.inside]
    known = np.flatnonzero(np.isfinite(brightness))
    n = known.size
    smooth = np.convolve(brightness[known], np.ones(3) / 3, mode="same")
    top, half = int(np.argmax(smooth)), max(round(0.15 * n), 1)
    place = line.first + int(known[top])
    near = line.strip.mean[max(place - 2, 0) : place + 3, REACH - 10 : REACH + 11]
    star = not np.isfinite(near).all() or smooth[top] > STAR * np.median(smooth)
    ratios = []
    for side in (known[: max(top - half, 0)][::-1], known[top + half + 1 :]):
        if side.size >= max(2, 0.2 * n if star else 0):
            inner, outer = brightness[side[: side.size // 2]], brightness[side[side.size // 2 :]]
            ratios.append(float(np.median(outer)) / max(float(np.median(inner)), 1e-30))
    # a spike has a star in its middle; its fainter side may have a neighbour's light
    if not ratios or (min(ratios) if star else max(ratios)) > share:
        return False
    if n * line.strip.block < long:
        return True
    return bool(star or place < 3 or place > line.brightness.size - 4)


def _along_axis(line) -> bool:
    x0, y0, x1, y1 = line_ends(line)
    return min(abs(x1 - x0), abs(y1 - y0)) < 4.0


def _blocked(line, unusable) -> float:
    """Share of unusable pixels in the columns (or rows) of an axis-parallel line, over the whole detector."""
    x0, y0, x1, y1 = line_ends(line)
    if abs(x1 - x0) < abs(y1 - y0):
        middle = round(0.5 * (x0 + x1))
        return float(unusable[:, max(middle - 3, 0) : middle + 4].mean())
    middle = round(0.5 * (y0 + y1))
    return float(unusable[max(middle - 3, 0) : middle + 4].mean())
