"""Camera check (LDM-151 4.1.2.3, 8.1): where light begins and ends in raw frames, against the sections.

The medians of columns (rows) step from the level of light to the level of bias at the edges of the data. The
step is sought near each edge that the definition states; it is the column between which the profile crosses
the middle of the two levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.instrument.camera import Amplifier
from skyquilt.instrument.camera_check.frames import DetectorPixels, in_hdu
from skyquilt.instrument.camera_check.layout import runs, section
from skyquilt.instrument.camera_check.report import CANNOT_TELL, DIFFERS, FITS, Finding, number
from skyquilt.primitives.geometry import Box

SEARCH = 64
"""Farthest from a stated edge that the step is sought [pixel]."""

LEAST_CONTRAST = 20.0
"""Least step that is taken for light, in errors of a column's median."""

NEAR = 8
"""Columns beside an edge from which its level of light is taken [pixel]."""


@dataclass(frozen=True)
class Edge:
    """One end of an amplifier's data along one axis.

    Parameters
    ----------
    axis : str
        ``columns`` or ``rows``.
    upper : bool
        The end with the higher number.
    defined, found : int
        First stored pixel beyond the light, counted from the HDU's first as 0 (the lit one at the lower end).
    level, dark : float
        [ADU].
    """

    axis: str
    upper: bool
    defined: int
    found: int
    level: float
    dark: float


def check_levels(pixels: DetectorPixels) -> list[Finding]:
    """Overscan and data of one lit frame: each amplifier's edges, and the first columns of its overscan."""
    findings = []
    for amplifier in pixels.amplifiers():
        subject = f"{pixels.detector.name} {amplifier.name} overscan"
        contrast, error = light_above_bias(pixels, amplifier)
        if not np.isfinite(contrast):
            findings += _edge_findings(pixels, amplifier, subject, needed=False)
            continue
        if contrast < LEAST_CONTRAST * error:
            level = DIFFERS if pixels.file.frame_type == "flat" else CANNOT_TELL
            text = (
                f"{pixels.file.name}: data are {contrast:.1f} +- {error:.1f} ADU above overscan and prescan: too "
                "little light to see edges, or the sections are not where the definition says"
            )
            findings.append(Finding(level, subject, text, "raw sections, or take a flat"))
            continue
        findings += _edge_findings(pixels, amplifier, subject, needed=True)
        findings += _deferred_charge(pixels, amplifier)
    return findings


def light_above_bias(pixels: DetectorPixels, amplifier: Amplifier) -> tuple[float, float]:
    """Median of the data above the bias level, and the error of a column's median [ADU]; NaN without overscan."""
    data = pixels.part(amplifier, amplifier.raw_data)
    bias = _dark_pixels(pixels, amplifier)
    if not bias.size:
        return np.nan, np.nan
    noise = 1.4826 * float(np.nanmedian(np.abs(bias - np.nanmedian(bias))))
    error = 1.2533 * max(noise, 0.3) / np.sqrt(amplifier.raw_data.ny)
    return float(np.nanmedian(data) - np.nanmedian(bias)), error


def _dark_pixels(pixels: DetectorPixels, amplifier: Amplifier) -> np.ndarray:
    parts = [pixels.part(amplifier, box).ravel() for box in (amplifier.raw_overscan, amplifier.raw_prescan)]
    return np.concatenate(parts)


def _edge_findings(pixels: DetectorPixels, amplifier: Amplifier, subject: str, needed: bool) -> list[Finding]:
    edges = find_edges(pixels, amplifier)
    wrong = [e for e in edges if e.found != e.defined and not is_defect(pixels, amplifier, e)]
    findings = []
    for edge in wrong:
        shift = edge.found - edge.defined
        inward = (shift < 0) == edge.upper
        what = "data contain overscan or dark" if inward else "light goes on beyond the data into"
        # the last lit pixel at an upper end, the first at a lower one, counted from 1
        place = edge.found if edge.upper else edge.found + 1
        stated = edge.defined if edge.upper else edge.defined + 1
        end = "last" if edge.upper else "first"
        text = (
            f"{pixels.file.name}: {what} {edge.axis}: the {end} lit of the {edge.axis} is {place}, the definition "
            f"says {stated} (level {edge.level:.0f} ADU in light, {edge.dark:.0f} in the dark)"
        )
        remedy = (
            f"raw_data ends {abs(shift)} {edge.axis} {'too late' if inward else 'too early'}: "
            if edge.upper
            else f"raw_data begins {abs(shift)} {edge.axis} {'too early' if inward else 'too late'}: "
        ) + "prescan, overscan or raw sections"
        if inward and abs(shift) <= 2:
            remedy += f", or detectors: defects: ['{section(_assembled(amplifier, edge))}']"
        findings.append(
            Finding(DIFFERS, f"{subject.removesuffix(' overscan')} edge", text, remedy, place, 0.5, stated)
        )
    if needed and edges and not wrong:
        text = f"light begins and ends where the definition says ({_extent(edges)})"
        findings.append(Finding(FITS, subject, text))
    return findings


def _extent(edges: list[Edge]) -> str:
    """ "columns 7 to 356, rows to 600": first and last lit ones, as far as they were seen."""
    parts = []
    for axis in dict.fromkeys(edge.axis for edge in edges):
        first = [str(e.found + 1) for e in edges if e.axis == axis and not e.upper]
        last = [f"to {e.found}" for e in edges if e.axis == axis and e.upper]
        parts.append(" ".join([axis, *([] if last else ["from"]), *first, *last]))
    return ", ".join(parts)


def _assembled(amplifier: Amplifier, edge: Edge) -> Box:
    """The dark part of the data at an edge, in the assembled detector."""
    low, high = sorted((edge.defined, edge.found))
    data = in_hdu(amplifier, amplifier.raw_data)
    if edge.axis == "columns":
        corners = (low - data.x0, 0), (high - 1 - data.x0, data.ny - 1)
    else:
        corners = (0, low - data.y0), (data.nx - 1, high - 1 - data.y0)
    origin = amplifier.raw_data
    x, y = zip(
        *(amplifier.assembled_position(cx + origin.x0, cy + origin.y0) for cx, cy in corners), strict=True
    )
    return Box(int(min(x)), int(min(y)), int(abs(x[1] - x[0])) + 1, int(abs(y[1] - y[0])) + 1)


def is_defect(pixels: DetectorPixels, amplifier: Amplifier, edge: Edge) -> bool:
    """Whether the definition knows the dark part of the data as a defect."""
    if (edge.found < edge.defined) != edge.upper:
        return False
    dark = _assembled(amplifier, edge)
    return any(dark.within(defect) for defect in pixels.detector.defects)


def find_edges(pixels: DetectorPixels, amplifier: Amplifier) -> list[Edge]:
    """Steps from light to dark near the ends of an amplifier's data, those that can be seen."""
    image = pixels.image(amplifier)
    data = in_hdu(amplifier, amplifier.raw_data)
    edges = []
    for axis in ("columns", "rows"):
        if axis == "columns":
            profile = np.nanmedian(image[data.y0 : data.y1], axis=0)
            start, stop, across = data.x0, data.x1, data.ny
        else:
            profile = np.nanmedian(image[:, data.x0 : data.x1], axis=1)
            start, stop, across = data.y0, data.y1, data.nx
        dark = _dark_level(pixels, amplifier, axis, profile)
        if not np.isfinite(dark):
            continue
        noise = _noise(profile, start, stop) + 0.3 / np.sqrt(across)
        for upper, defined in ((False, start), (True, stop)):
            found = _step(profile, defined, upper, (start, stop), dark, noise)
            if found is not None:
                edges.append(Edge(axis, upper, defined, *found, dark))
    return edges


def _dark_level(pixels: DetectorPixels, amplifier: Amplifier, axis: str, profile: np.ndarray) -> float:
    """Level without light along an axis: of the stated overscan, else of the darkest end of the profile."""
    box = amplifier.raw_overscan or amplifier.raw_prescan
    if axis == "rows" and amplifier.raw_parallel_overscan is not None:
        box = amplifier.raw_parallel_overscan
    if box is not None:
        return float(np.nanmedian(pixels.part(amplifier, box)))
    ends = [float(np.median(part)) for part in (profile[:3], profile[-3:])]
    middle = float(np.median(profile))
    # without any overscan stated only a fall to well below the light tells of one
    return min(ends) if min(ends) < 0.7 * middle else np.nan


def _noise(profile: np.ndarray, start: int, stop: int) -> float:
    steps = np.diff(profile[start:stop])
    return 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) if steps.size else 0.0


def _step(
    profile: np.ndarray, defined: int, upper: bool, inside: tuple[int, int], dark: float, noise: float
) -> tuple[int, float] | None:
    """Edge of the light nearest to the stated one, and the level of light beside it; None when there is none."""
    size = profile.size
    reach = min(SEARCH, (inside[1] - inside[0]) // 3)
    low, high = max(defined - reach, 0), min(defined + reach, size)
    if upper:
        light = float(np.median(profile[max(defined - reach - NEAR, inside[0]) : max(defined - reach, 1)]))
    else:
        light = float(np.median(profile[defined + reach : defined + reach + NEAR]))
    if light - dark < max(LEAST_CONTRAST * noise, 1.0):
        return None
    lit = profile[low:high] > 0.5 * (light + dark)
    # runs from the middle of the data outwards: the light ends at the first two dark pixels, or at one at the border
    order = lit if upper else lit[::-1]
    dark_at = np.flatnonzero(~order)
    if not dark_at.size:
        beyond = high if upper else low
        at_border = beyond in (0, size)
        return (beyond, light) if at_border and beyond != defined else None
    first = next((int(i) for i in dark_at if i + 1 >= order.size or not order[i + 1]), None)
    if first is None:
        return None
    found = low + first if upper else high - first
    # a step, not the slope of a vignetted field
    inner = profile[found - 2 : found] if upper else profile[found : found + 2]
    outer = profile[found : found + 2] if upper else profile[max(found - 2, 0) : found]
    if inner.size == 0 or outer.size == 0 or inner.max() - outer.min() < 0.5 * (light - dark):
        return None
    return found, light


def _deferred_charge(pixels: DetectorPixels, amplifier: Amplifier) -> list[Finding]:
    """Charge left in the first columns of the overscan."""
    box = amplifier.raw_overscan
    if box is None or box.nx < 8:
        return []
    part = pixels.part(amplifier, box)
    # first read beside the data
    after = box.x0 >= amplifier.raw_data.x0
    columns = np.nanmedian(part if after else part[:, ::-1], axis=0)
    rest = columns[box.nx // 2 :]
    level = float(np.median(rest))
    noise = 1.4826 * float(np.nanmedian(np.abs(part - np.nanmedian(part))))
    error = 1.2533 * max(noise, 0.3) / np.sqrt(box.ny)
    excess = columns - level
    light = float(np.nanmedian(pixels.part(amplifier, amplifier.raw_data))) - level
    subject = f"{pixels.detector.name} {amplifier.name} deferred charge"
    first, shift = float(excess[0]), float(excess.mean())
    text = (
        f"{pixels.file.name}: the first of {box.nx} overscan columns is {number(first, error)} ADU off the farther "
        f"half, all together {shift:+.2f} ADU, beside {light:.0f} ADU of light"
    )
    if abs(first) < max(5 * error, 1e-3 * light) and abs(shift) < max(5 * error, 1e-4 * light):
        return [Finding(FITS, subject, text, "", first, error, 0.0)]
    disturbed = np.abs(excess[: box.nx // 2]) > max(5 * error, 1e-4 * light)
    count = int(np.flatnonzero(disturbed)[-1]) + 1
    remedy = f"raw_overscan: leave its {count} columns next to the data out"
    return [Finding(DIFFERS, subject, text, remedy, first, error, 0.0)]


def dark_runs(image: np.ndarray, axis: int) -> list[tuple[int, int]]:
    """Runs of columns (axis 0) or rows (axis 1) at the level of bias in a lit image, as (first, last + 1).

    The level of bias is that of the darkest run of three or more that lies a clear step below the light.
    """
    profile = np.nanmedian(image, axis=axis)
    light = float(np.median(profile))
    ordered = np.sort(profile)
    dark = float(np.median(ordered[: max(3, profile.size // 200)]))
    if light - dark < max(0.2 * abs(light), LEAST_CONTRAST * _noise(profile, 0, profile.size)):
        return []
    below = profile < 0.5 * (light + dark)
    found = [run for run in runs(np.flatnonzero(below)) if run[1] - run[0] >= 2]
    # slopes of a vignetted field are no steps
    return [run for run in found if _is_step(profile, run, light - dark)]


def _is_step(profile: np.ndarray, run: tuple[int, int], contrast: float) -> bool:
    first, last = run
    sides = [(first - 2, first), (last, last + 2)]
    inner = [profile[first : first + 2], profile[last - 2 : last]]
    for (low, high), own in zip(sides, inner, strict=True):
        if low >= 0 and high <= profile.size and profile[low:high].max() - own.min() < 0.5 * contrast:
            return False
    return True
