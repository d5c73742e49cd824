"""Satellite trails (LDM-151 8.2): whether a line is a trail, and which.

A line of the transform may be a trail, or chance, stars in a row, a galaxy, a spike, a column, a step between
amplifiers, a fringe. A trail shines all along (each block beats the boxes beside it), on both sides stands above
what is beside it, is as broad as the seeing at least, and does not fade from one place outwards.
"""

from __future__ import annotations

import dataclasses
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
    from skyquilt.algorithms.artifact_detection.satellite_trails import SatelliteTrailsConfig

SIDE = 40
"""The cross-section is looked at to this distance [pixel]."""

STAR = 5.0
"""A place this much brighter than the line's typical one is a star."""

STANDS_OUT = 4.0
"""A trail's cross-section is this many times its typical excursion elsewhere."""

EVEN = 0.9
"""Blocks within this of the median, in its logarithm, are as bright as a trail's others."""


@dataclass(frozen=True)
class Trail:
    """One trail on a detector.

    Attributes
    ----------
    angle : float
        Direction of the chord from first to last end, from +x towards +y, in (-pi/2, pi/2] [rad].
    offset : float
        Signed distance of the chord's line from pixel (0, 0): y cos(angle) - x sin(angle) [pixel].
    bow : float
        Distance of the trail's middle from the chord, towards (-sin(angle), cos(angle)) [pixel].
    width : float
        Full width at half maximum of the cross-section [pixel].
    half_mask : float
        Half of the breadth that is to be masked [pixel].
    surface_brightness, surface_brightness_error : float
        Mean over the pixels where the cross-section exceeds 0.2 of its peak, typical (median) along the trail
        [unit of the image per pixel].
    snr : float
        Of `surface_brightness`.
    x0, y0, x1, y1 : float
        Ends, the detector's edge where the trail goes on beyond [pixel].
    open_start, open_end : bool
        Whether it ends within the detector there.
    """

    angle: float
    offset: float
    bow: float
    width: float
    half_mask: float
    surface_brightness: float
    surface_brightness_error: float
    snr: float
    x0: float
    y0: float
    x1: float
    y1: float
    open_start: bool
    open_end: bool

    @property
    def length(self) -> float:
        """Distance of the ends [pixel]."""
        return math.hypot(self.x1 - self.x0, self.y1 - self.y0)


@dataclass(frozen=True)
class Verdict:
    """A trail, or why a line is none."""

    trail: Trail | None
    reason: str = ""
    companions: tuple[Trail, ...] = ()


@dataclass(frozen=True)
class _Line:
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
    def across(self) -> np.ndarray:
        n = self.brightness.size
        return self.fit.across((np.arange(n) + 0.5) / n)


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
    seen = None
    for _ in range(2):
        line = _follow(image, variance, unusable, ends, config, threshold, seen)
        if line is None:
            return Verdict(None, "faint")
        if line.last < line.first:
            return Verdict(None, "nothing there")
        if _rank_excess(line) < 0.5 * _needed_excess(line, config):
            return Verdict(None, "no better than beside")
        ends, seen = _ends(line), (line.last + 1 - line.first) * line.strip.block
    reason = _objection(line, unusable, config, psf_fwhm, threshold, expected)
    if reason:
        return Verdict(None, reason)
    trail = _trail(line, image.shape, config)
    return Verdict(trail, companions=_companions(line, trail))


def _follow(image, variance, unusable, ends, config, threshold, length=None) -> _Line | None:
    """The strip along a line, the line fitted to the part that was seen, and where it shines; None if too faint."""
    x0, y0, x1, y1 = ends
    angle = math.atan2(y1 - y0, x1 - x0)
    strip = strip_along(image, variance, unusable, x0, y0, angle, length)
    if strip is None:
        return None
    along = [
        (x - strip.x0) * math.cos(angle) + (y - strip.y0) * math.sin(angle) for x, y in ((x0, y0), (x1, y1))
    ]
    n = strip.mean.shape[0]
    seen = slice(
        int(np.clip(along[0] / strip.block, 0, n - 4)), int(np.clip(math.ceil(along[1] / strip.block), 4, n))
    )
    fit = fit_line(strip, seen)
    if fit.score < threshold:
        return None
    fit = fit_line(strip, seen, fit, config.greatest_bow * (seen.stop - seen.start) * strip.block)
    brightness, noise, rank, least_rank = _along(strip, fit)
    first, last = extent(brightness, noise)
    return _Line(strip, fit, brightness, noise, rank, least_rank, first, last)


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


def _ends(line: _Line) -> tuple[float, float, float, float]:
    n, block = line.brightness.size, line.strip.block
    place = [
        line.strip.place(k * block, float(line.fit.across(np.array(k / n))))
        for k in (line.first, line.last + 1)
    ]
    return (*place[0], *place[1])


def aligned_profile(line: _Line) -> tuple[np.ndarray, np.ndarray]:
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


def _objection(line, unusable, config, psf_fwhm, threshold, expected) -> str:
    """Why a line is no trail; empty when there is nothing against it."""
    brightness, noise = line.brightness[line.inside], line.noise[line.inside]
    known = np.isfinite(brightness)
    n = int(known.sum())
    if n < 3:
        return "hidden"
    start, end = _is_open(line, unusable.shape)
    length = (line.last + 1 - line.first) * line.strip.block
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
    bright_enough = peak > 3 * _pixel_noise(line)
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
    strict = 1.0 if expected or peak > config.plain * _pixel_noise(line) else 1.5
    if strict > 1 and n_open:
        return "faint and ends within the detector"
    if not _stands_out(profile, first, last, strict * STANDS_OUT):
        return "one of many"
    even = np.abs(np.log(np.maximum(bright, 1e-30) / np.median(bright))) < EVEN
    if float(even.mean()) < strict * config.least_shining:
        return f"uneven: {even.mean():.2f}"
    if _troughs(profile, first, last) < -0.35 * peak:
        return "a wave"
    if n_open and (line.last + 1 - line.first) * line.strip.block < config.least_aspect * width:
        return "short for its width"
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


def _pixel_noise(line) -> float:
    """Typical noise of a pixel of the strip."""
    return math.sqrt(line.strip.block * float(np.nanmedian(line.strip.error)))


def _troughs(profile, first, last) -> float:
    """Mean of the lowest levels on both sides, over five pixels: as far below as fringes rise above."""
    filled = np.convolve(np.nan_to_num(profile, nan=0.0), np.full(5, 0.2), mode="same")[2:-2]
    left, right = filled[: max(first - 3, 1)], filled[min(last, filled.size - 1) :]
    return 0.5 * float(left.min() + right.min())


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
    x0, y0, x1, y1 = _ends(line)
    return min(abs(x1 - x0), abs(y1 - y0)) < 4.0


def _blocked(line, unusable) -> float:
    """Share of unusable pixels in the columns (or rows) of an axis-parallel line, over the whole detector."""
    x0, y0, x1, y1 = _ends(line)
    if abs(x1 - x0) < abs(y1 - y0):
        middle = round(0.5 * (x0 + x1))
        return float(unusable[:, max(middle - 3, 0) : middle + 4].mean())
    middle = round(0.5 * (y0 + y1))
    return float(unusable[max(middle - 3, 0) : middle + 4].mean())


def _is_open(line, shape) -> tuple[bool, bool]:
    """Whether the trail ends within the detector at its start and at its end."""
    margin = 2 * line.strip.block + 8
    x0, y0, x1, y1 = _ends(line)
    angle = math.atan2(y1 - y0, x1 - x0)
    inside = line_in_box(x0, y0, angle, shape)
    if inside is None:
        return False, False
    before = math.hypot(x0 - inside[0], y0 - inside[1])
    length = math.hypot(x1 - x0, y1 - y0)
    return bool(before > margin), bool(inside[2] - before - length > margin)


def _trail(line, shape, config) -> Trail:
    """The trail of a line that stood the tests."""
    profile, error = aligned_profile(line)
    width, first, last = cross_section(profile)
    chosen = slice(first, last + 1)
    brightness = float(np.nanmean(profile[chosen]))
    sigma = math.sqrt(float(np.nansum(error[chosen] ** 2))) / max(int(np.isfinite(profile[chosen]).sum()), 1)
    noise = _pixel_noise(line)
    half = max(SIDE - first, last - SIDE) + 1.0
    filled = np.nan_to_num(profile, nan=0.0)
    for step in (-1, 1):
        j = SIDE
        while 0 < j < 2 * SIDE and filled[j] > config.mask_level * noise:
            j += step
        half = max(half, float(abs(j - SIDE)))
    return _with_ends(line, shape, width, half, brightness, sigma)


def _companions(line, trail) -> tuple[Trail, ...]:
    """Lines parallel to a trail and nearly as bright, an aeroplane's other lights: they would fail alone, dashed
    and beside another. One at most on each side."""
    profile, error = aligned_profile(line)
    filled = np.nan_to_num(profile, nan=0.0)
    peak = float(filled[SIDE - 4 : SIDE + 5].max())
    smooth = np.convolve(filled, np.full(3, 1 / 3), mode="same")
    found = []
    half = math.ceil(trail.half_mask)
    # the mask's direction, not the strip's: ends may have been exchanged
    turn = math.copysign(1.0, math.cos(trail.angle - line.strip.angle))
    for place in (np.arange(2, SIDE - half), np.arange(SIDE + half + 1, 2 * SIDE - 1)):
        if not place.size:
            continue
        j = int(place[np.argmax(smooth[place])])
        if not smooth[j] > max(0.3 * peak, 6 * float(np.nanmax(error[j - 1 : j + 2], initial=0.0))):
            continue
        reach = 1.0
        for step in (-1, 1):
            k = j
            while 0 < k < 2 * SIDE and abs(k - SIDE) >= half and filled[k] > 0.15 * smooth[j]:
                k += step
            reach = max(reach, float(abs(k - j)))
        d = turn * (j - SIDE)
        dx, dy = -math.sin(trail.angle) * d, math.cos(trail.angle) * d
        brightness = float(smooth[j - 1 : j + 2].mean())
        sigma = float(np.nanmean(error[j - 1 : j + 2])) / math.sqrt(3)
        found.append(
            dataclasses.replace(
                trail,
                offset=trail.offset + d,
                half_mask=reach + 1.0,
                surface_brightness=brightness,
                surface_brightness_error=sigma,
                snr=brightness / sigma if sigma > 0 else math.inf,
                x0=trail.x0 + dx,
                y0=trail.y0 + dy,
                x1=trail.x1 + dx,
                y1=trail.y1 + dy,
            )
        )
    return tuple(found)


def _with_ends(line, shape, width, half, brightness, sigma) -> Trail:
    x0, y0, x1, y1 = _ends(line)
    angle = math.atan2(y1 - y0, x1 - x0)
    start, end = _is_open(line, shape)
    inside = line_in_box(x0, y0, angle, shape)
    n = line.brightness.size
    share = (line.last + 1 - line.first) / n
    bow = line.fit.bow * share**2
    if inside is not None:
        if not start:
            x0, y0 = inside[0], inside[1]
        if not end:
            x1, y1 = inside[0] + inside[2] * math.cos(angle), inside[1] + inside[2] * math.sin(angle)
    if x1 < x0 or (x1 == x0 and y1 < y0):
        x0, y0, x1, y1, start, end, bow = x1, y1, x0, y0, end, start, -bow
    angle = math.atan2(y1 - y0, x1 - x0)
    return Trail(
        angle=angle,
        offset=y0 * math.cos(angle) - x0 * math.sin(angle),
        bow=bow,
        width=width,
        half_mask=half,
        surface_brightness=brightness,
        surface_brightness_error=sigma,
        snr=brightness / sigma if sigma > 0 else math.inf,
        x0=x0,
        y0=y0,
        x1=x1,
        y1=y1,
        open_start=start,
        open_end=end,
    )
