"""Charts of the quality site (LDM-151 6.2.1): the sky with visits and tracts, and the focal plane, as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BAND_COLOURS = {
    "u": "#7b3fb0",
    "g": "#1f8a4c",
    "r": "#c8372d",
    "i": "#b06a00",
    "z": "#7a4a2b",
    "y": "#4a4f57",
}
OTHER_COLOURS = ("#1f6fb2", "#a1387f", "#3b7d7d", "#8a7a00")

_WIDTH = 820.0
_MARGIN = 34.0
_STEPS = (30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


def band_colours(bands: Sequence[str]) -> dict[str, str]:
    """A colour for each band; those without a usual one take turns."""
    others = [band for band in bands if band not in BAND_COLOURS]
    chosen = {band: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, band in enumerate(others)}
    return {band: BAND_COLOURS.get(band) or chosen[band] for band in bands}


@dataclass(frozen=True)
class Outline:
    """What one visit, tract or patch covers.

    `polygons` has shape (n, k, 2): ra and dec [deg] of the corners.
    """

    label: str
    polygons: np.ndarray
    target: str = ""
    colour: str = ""


@dataclass(frozen=True)
class SkyProjection:
    """Zenithal equidistant projection about (ra, dec) [deg]; east is left. Holds for the whole sky."""

    ra: float
    dec: float

    def __call__(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Degrees to the right (west) and up (north) of the centre; NaN where ra or dec is."""
        d = np.radians(np.asarray(ra, np.float64) - self.ra)
        dec, dec0 = np.radians(np.asarray(dec, np.float64)), math.radians(self.dec)
        east = np.cos(dec) * np.sin(d)
        north = math.cos(dec0) * np.sin(dec) - math.sin(dec0) * np.cos(dec) * np.cos(d)
        along = math.sin(dec0) * np.sin(dec) + math.cos(dec0) * np.cos(dec) * np.cos(d)
        sine = np.hypot(east, north)
        angle = np.degrees(np.arctan2(sine, along))
        stretch = np.where(sine > 0, angle / np.where(sine > 0, sine, 1), np.degrees(1.0))
        return -east * stretch, north * stretch


def mean_direction(ra: np.ndarray, dec: np.ndarray) -> tuple[float, float]:
    """Direction of the mean of unit vectors [deg]; (0, 0) when there are none."""
    good = np.isfinite(ra) & np.isfinite(dec)
    phi, theta = np.radians(ra[good]), np.radians(dec[good])
    if not phi.size:
        return 0.0, 0.0
    x, y, z = (np.cos(theta) * np.cos(phi)).mean(), (np.cos(theta) * np.sin(phi)).mean(), np.sin(theta).mean()
    return math.degrees(math.atan2(y, x)) % 360, math.degrees(math.atan2(z, math.hypot(x, y)))


def sky_map(visits: Sequence[Outline], tracts: Sequence[Outline], patches: Sequence[Outline]) -> str:
    """SVG of visits over tracts and patches; the visits (without them, the tracts) fill the picture.

    Outlines with a corner that is not finite are left out.
    """
    corners = np.concatenate([o.polygons.reshape(-1, 2) for o in visits or tracts] or [np.empty((0, 2))])
    corners = corners[np.isfinite(corners).all(axis=1)]
    if not len(corners):
        return '<p class="note">No visit has a position on the sky.</p>\n'
    frame = _Frame.around(corners)
    parts = [frame.graticule()]
    parts += [f'<path class="patch" d="{frame.path(o.polygons)}"/>' for o in patches]
    parts += [
        f'<path class="tract" d="{frame.path(o.polygons)}"><title>{_safe(o.label)}</title></path>'
        for o in tracts
    ]
    parts += [_visit(o, frame) for o in visits]
    parts += [frame.name(o) for o in tracts]
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {frame.height:g}" role="img" '
        f'aria-label="Map of the sky: outlines of visits over tracts and patches; east is left">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _visit(outline: Outline, frame: _Frame) -> str:
    # not a stop of the tab key: the table of visits has the same links
    return (
        f'<a href="{_safe(outline.target)}" tabindex="-1"><path class="visit" fill="{_safe(outline.colour)}" '
        f'stroke="{_safe(outline.colour)}" d="{frame.path(outline.polygons)}">'
        f"<title>{_safe(outline.label)}</title></path></a>"
    )


@dataclass(frozen=True)
class _Frame:
    """From the sky to the picture."""

    projection: SkyProjection
    left: float
    top: float
    scale: float
    height: float

    @classmethod
    def around(cls, corners: np.ndarray) -> _Frame:
        projection = SkyProjection(*mean_direction(corners[:, 0], corners[:, 1]))
        x, y = projection(corners[:, 0], corners[:, 1])
        margin = 0.06 * max(float(np.ptp(x)), float(np.ptp(y)), 1e-3)
        left, right, bottom, top = x.min() - margin, x.max() + margin, y.min() - margin, y.max() + margin
        height = min(max((_WIDTH - 2 * _MARGIN) * (top - bottom) / (right - left), 240.0), 640.0)
        scale = min((_WIDTH - 2 * _MARGIN) / (right - left), height / (top - bottom))
        # what one direction has to spare is shared by both its sides
        left -= ((_WIDTH - 2 * _MARGIN) / scale - (right - left)) / 2
        top += (height / scale - (top - bottom)) / 2
        return cls(projection, float(left), float(top), float(scale), float(height) + 2 * _MARGIN)

    def points(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        x, y = self.projection(ra, dec)
        return np.stack(
            [_MARGIN + (x - self.left) * self.scale, _MARGIN + (self.top - y) * self.scale], axis=-1
        )

    def path(self, polygons: np.ndarray) -> str:
        points = self.points(polygons[..., 0], polygons[..., 1])
        points = points[np.isfinite(points).all(axis=(1, 2))]
        return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "Z" for corners in points)

    def name(self, outline: Outline) -> str:
        """The tract's name at the middle of what is seen of it."""
        points = self.points(outline.polygons[..., 0], outline.polygons[..., 1]).reshape(-1, 2)
        points = points[np.isfinite(points).all(axis=1)]
        if not len(points):
            return ""
        low = np.maximum(points.min(axis=0), _MARGIN)
        high = np.minimum(points.max(axis=0), [_WIDTH - _MARGIN, self.height - _MARGIN])
        if (high < low).any():
            return ""
        x, y = float(low[0]) + 8, float(low[1]) + 18
        return f'<text class="tract-name" x="{x:.0f}" y="{y:.0f}">{_safe(outline.label)}</text>'

    def graticule(self) -> str:
        """Lines of equal ra and dec, with their values at the lower and left edges."""
        width, height = (_WIDTH - 2 * _MARGIN) / self.scale, (self.height - 2 * _MARGIN) / self.scale
        ra0, dec0 = self.projection.ra, self.projection.dec
        cosine = max(math.cos(math.radians(dec0)), 0.05)
        dec_step, ra_step = _step(height / 3.5), _step(min(width / cosine, 360) / 4)
        reach_ra, reach_dec = min(width / cosine, 180), min(height, 90)
        lines = []
        for value in _multiples(dec0 - reach_dec, dec0 + reach_dec, dec_step):
            if abs(value) <= 90:
                ra = np.linspace(ra0 - reach_ra, ra0 + reach_ra, 121)
                lines.append(
                    self._line(ra, np.full(121, value), f"{value:+.{_digits(dec_step)}f}°", left=True)
                )
        for value in _multiples(ra0 - reach_ra, ra0 + reach_ra, ra_step):
            dec = np.linspace(max(dec0 - reach_dec, -90), min(dec0 + reach_dec, 90), 121)
            lines.append(
                self._line(np.full(121, value), dec, f"{value % 360:.{_digits(ra_step)}f}°", left=False)
            )
        return "\n".join(lines)

    def _line(self, ra: np.ndarray, dec: np.ndarray, label: str, *, left: bool) -> str:
        points = self.points(ra, dec)
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        edge, along = (_MARGIN, 0) if left else (self.height - _MARGIN, 1)
        crossed = np.flatnonzero((points[:-1, along] - edge) * (points[1:, along] - edge) <= 0)
        line = f'<path class="graticule" d="{path}"/>'
        if not crossed.size:
            return line
        x, y = points[crossed[0]]
        if left and _MARGIN / 2 < y < self.height - _MARGIN / 2:
            return f'{line}<text class="axis" x="4" y="{y - 4:.0f}">{label}</text>'
        if not left and _MARGIN < x < _WIDTH - _MARGIN:
            return f'{line}<text class="axis" x="{x + 4:.0f}" y="{self.height - 8:.0f}">{label}</text>'
        return line


def _step(wanted: float) -> float:
    return next((step for step in _STEPS if step <= wanted), _STEPS[-1])


def _digits(step: float) -> int:
    return max(-math.floor(math.log10(step) + 1e-9), 0)


def _multiples(low: float, high: float, step: float) -> list[float]:
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def focal_plane(detectors: Sequence[Mapping[str, Any]]) -> str:
    """SVG of the focal plane, +y up.

    Parameters
    ----------
    detectors : sequence of mappings
        number, name, corners (mm, shape (4, 2)), status (ok, flagged, failed, absent), target (link or empty)
        and title.
    """
    if not detectors:
        return '<p class="note">The camera has no detectors.</p>\n'
    corners = np.array([d["corners"] for d in detectors], np.float64)
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    span = float(max((high - low).max(), 1e-6))
    scale = 620 / span
    width, height = ((high - low) * scale + 20).tolist()
    points = np.stack(
        [10 + (corners[..., 0] - low[0]) * scale, 10 + (high[1] - corners[..., 1]) * scale], axis=2
    )
    parts = [_detector(detector, outline) for detector, outline in zip(detectors, points)]
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="group" aria-label="Focal plane">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _detector(detector: Mapping[str, Any], outline: np.ndarray) -> str:
    x, y = outline.mean(axis=0)
    size = min(max(float(np.ptp(outline[:, 0])) / 4.5, 5), 18)
    corners = " ".join(f"{u:.1f},{v:.1f}" for u, v in outline)
    number, title = detector["number"], _safe(detector["title"])
    shape = (
        f'<polygon class="detector {_safe(detector["status"])}" data-detector="{number}" '
        f'data-title="{title}" points="{corners}"><title>{title}</title></polygon>'
        f'<text class="detector-name" id="name-{number}" x="{x:.1f}" y="{y:.1f}" '
        f'style="font-size:{size:.1f}px">{_safe(detector["name"])}</text>'
    )
    target = detector["target"]
    return f'<a href="{_safe(target)}">{shape}</a>' if target else f"<g>{shape}</g>"


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Hull of positions of one visit, shape (k, 2) [deg]; positions that are not finite do not count."""
    from scipy.spatial import ConvexHull, QhullError

    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 3:
        return np.empty((0, 2))
    x, y = SkyProjection(*mean_direction(points[:, 0], points[:, 1]))(points[:, 0], points[:, 1])
    try:
        return points[ConvexHull(np.stack([x, y], axis=1)).vertices]
    except QhullError:
        # all on one line: covers nothing
        return np.empty((0, 2))


def _safe(value: Any) -> str:
    return html.escape(str(value))
