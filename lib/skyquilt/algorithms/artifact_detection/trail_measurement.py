"""Satellite trails (LDM-151 8.2): what a trail is once a line has been taken for one."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.algorithms.artifact_detection.trail_line import (
    SIDE,
    aligned_profile,
    cross_section,
    line_ends,
    open_ends,
    pixel_noise,
)
from skyquilt.algorithms.artifact_detection.trail_profile import line_in_box

if TYPE_CHECKING:
    pass


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


def measured_trail(line, shape, config) -> Trail:
    """The trail of a line that stood the tests."""
    profile, error = aligned_profile(line)
    width, first, last = cross_section(profile)
    chosen = slice(first, last + 1)
    brightness = float(np.nanmean(profile[chosen]))
    sigma = math.sqrt(float(np.nansum(error[chosen] ** 2))) / max(int(np.isfinite(profile[chosen]).sum()), 1)
    noise = pixel_noise(line)
    half = max(SIDE - first, last - SIDE) + 1.0
    filled = np.nan_to_num(profile, nan=0.0)
    for step in (-1, 1):
        j = SIDE
        while 0 < j < 2 * SIDE and filled[j] > config.mask_level * noise:
            j += step
        half = max(half, float(abs(j - SIDE)))
    return _with_ends(line, shape, width, half, brightness, sigma)


def companions(line, trail) -> tuple[Trail, ...]:
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
        d = float(turn * (j - SIDE))
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
    x0, y0, x1, y1 = line_ends(line)
    angle = math.atan2(y1 - y0, x1 - x0)
    start, end = open_ends(line, shape)
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
