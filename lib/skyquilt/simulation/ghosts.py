"""Simulation (design 7): ghosts, images of the pupil that two reflections throw out of focus onto the detectors.

A reflection puts a star's ghost at `magnification` times the star's place in the focal plane, plus an offset:
-1 is its mirror image through the optical axis. The pupil is seen with its central hole, the spider's
shadows, uneven light and, towards the edge of the field, the hole off its middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.satellite_trails import ArtifactLight, LightEvent

if TYPE_CHECKING:
    from skyquilt.instrument import Detector
    from skyquilt.simulation.optics import Optics

SHARE_OF_MEAN = 0.2
"""A pixel belongs to a ghost where its light exceeds this share of the ghost's mean over its annulus."""


@dataclass(frozen=True)
class GhostsConfig:
    """Options of ghosts: a camera's reflections, one entry of each tuple per reflection."""

    enabled: bool = False
    """Whether there are ghosts at all."""

    radius_mm: tuple[float, ...] = (0.6, 1.1, 1.8)
    """Outer radius of the pupil's image [mm]."""

    inner_fraction: tuple[float, ...] = (0.35, 0.35, 0.4)
    """Radius of its hole over the outer radius."""

    magnification: tuple[float, ...] = (-0.8, -1.25, 0.6)
    """Place of the ghost over place of the star in the focal plane; negative is beyond the optical axis."""

    offset_x_mm: tuple[float, ...] = (0.05, -0.1, 0.08)
    """Where the ghost of a star on the axis falls, along focal plane +x [mm]."""

    offset_y_mm: tuple[float, ...] = (-0.03, 0.06, 0.1)
    """The same along +y [mm]."""

    flux_ratio: tuple[float, ...] = (3e-4, 1e-3, 6e-4)
    """Light of the whole ghost over that of the star."""

    faintest: float = 0.02
    """Ghosts are drawn above this mean surface brightness [noise of an empty pixel]."""

    struts: int = 4
    """Vanes of the spider whose shadows show."""

    strut_width: float = 0.03
    """Width of a shadow over the outer radius."""

    unevenness: float = 0.15
    """Relative change of the light from the middle to one side of the annulus, less than 0.5."""

    hole_shift: float = 0.05
    """How far the hole is off the middle for a star at the edge of the focal plane, over the outer radius."""

    def __post_init__(self) -> None:
        names = ("inner_fraction", "magnification", "offset_x_mm", "offset_y_mm", "flux_ratio")
        for name in names:
            if len(getattr(self, name)) != len(self.radius_mm):
                raise ValueError(
                    f"{name} must have an entry for each of the {len(self.radius_mm)} reflections of "
                    f"radius_mm, got {len(getattr(self, name))}"
                )
        if any(r <= 0 for r in self.radius_mm) or any(f < 0 for f in self.flux_ratio):
            raise ValueError(
                f"radius_mm must be positive and flux_ratio not negative, got {self.radius_mm} and "
                f"{self.flux_ratio}"
            )
        if any(not 0 <= f + self.hole_shift < 1 for f in self.inner_fraction):
            raise ValueError(f"inner_fraction + hole_shift must be in [0, 1), got {self.inner_fraction}")
        if not 0 <= self.unevenness < 0.5 or self.struts < 0 or not 0 <= self.strut_width < 0.5:
            raise ValueError(
                "unevenness and strut_width must be in [0, 0.5) and struts not negative, got "
                f"{self.unevenness}, {self.strut_width} and {self.struts}"
            )


def ghost_light(
    config: GhostsConfig,
    optics: Optics,
    detector: Detector,
    x_mm: np.ndarray,
    y_mm: np.ndarray,
    electrons: np.ndarray,
    noise: float,
) -> ArtifactLight:
    """Draw the ghosts of a visit's stars on one detector.

    Parameters
    ----------
    x_mm, y_mm : ndarray, shape (n,)
        Places of stars in the focal plane, also of those that hit no detector [mm].
    electrons : ndarray, shape (n,)
        Photoelectrons of each where the response is one [e].
    noise : float
        Of an empty pixel [e].

    Returns
    -------
    ArtifactLight
        Events are numbered 1000 times the reflection plus the star's rank by place in the input among those
        bright enough for that reflection: the same on all detectors.
    """
    light = np.zeros((detector.ny, detector.nx), dtype=np.float32)
    events: list[LightEvent] = []
    if config.enabled:
        for k in range(len(config.radius_mm)):
            area = math.pi * (config.radius_mm[k] / detector.pixel_size) ** 2
            area *= 1 - config.inner_fraction[k] ** 2
            mean = config.flux_ratio[k] * np.asarray(electrons) / area
            for rank, star in enumerate(np.flatnonzero(mean > config.faintest * noise)):
                place = float(x_mm[star]), float(y_mm[star])
                event = _draw_ghost(
                    config, k, optics, detector, light, place, float(mean[star]), 1000 * k + rank
                )
                events.extend(event)
    return ArtifactLight(light, tuple(events))


def _draw_ghost(config, k, optics, detector, light, star, mean, number):
    """Add one ghost of `mean` surface brightness [e/px]; its event, or none where it misses the detector."""
    from skyquilt.simulation.optics import pixel_from_focal

    x_mm = config.magnification[k] * star[0] + config.offset_x_mm[k]
    y_mm = config.magnification[k] * star[1] + config.offset_y_mm[k]
    cx, cy = (float(c) for c in pixel_from_focal(detector, np.float64(x_mm), np.float64(y_mm)))
    radius = config.radius_mm[k] / detector.pixel_size
    x0, x1 = max(math.floor(cx - radius) - 1, 0), min(math.ceil(cx + radius) + 2, detector.nx)
    y0, y1 = max(math.floor(cy - radius) - 1, 0), min(math.ceil(cy + radius) + 2, detector.ny)
    if x0 >= x1 or y0 >= y1:
        return []
    y, x = np.mgrid[y0:y1, x0:x1]
    turn = math.radians(detector.rotation_deg)
    u = (math.cos(turn) * (x - cx) - math.sin(turn) * (y - cy)) / radius
    v = (math.sin(turn) * (x - cx) + math.cos(turn) * (y - cy)) / radius
    pixels = mean * pupil(config, k, u, v, radius, (star[0] / optics.radius, star[1] / optics.radius))
    light[y0:y1, x0:x1] += pixels.astype(np.float32)
    hit = pixels > SHARE_OF_MEAN * mean
    if not hit.any():
        return []
    rows, columns = y[hit], x[hit]
    return [
        LightEvent(
            kind="ghost",
            event=number,
            x=columns.astype(np.int32),
            y=rows.astype(np.int32),
            electrons=pixels[hit].astype(np.float32),
            surface_brightness=float(pixels[hit].mean()),
            width=2 * radius,
            x0=float(columns.min()),
            y0=float(rows.min()),
            x1=float(columns.max()),
            y1=float(rows.max()),
        )
    ]


def pupil(
    config: GhostsConfig, k: int, u: np.ndarray, v: np.ndarray, radius: float, field: tuple[float, float]
) -> np.ndarray:
    """Illumination of the pupil's image, of mean about 1 over the annulus.

    Parameters
    ----------
    k : int
        Reflection.
    u, v : ndarray
        From the middle along focal plane +x and +y [outer radius].
    radius : float
        Outer radius [pixel]: edges are soft over a pixel.
    field : (float, float)
        Place of the star over the radius of the focal plane.
    """
    r = np.hypot(u, v)
    hole = np.hypot(u - config.hole_shift * field[0], v - config.hole_shift * field[1])
    inside = np.clip((1 - r) * radius + 0.5, 0, 1) * np.clip(
        (hole - config.inner_fraction[k]) * radius + 0.5, 0, 1
    )
    value = inside * (1 + config.unevenness * (0.6 * u + 0.8 * v))
    for vane in range(config.struts):
        angle = math.pi / 4 + 2 * math.pi * vane / config.struts
        along = math.cos(angle) * u + math.sin(angle) * v
        across = math.cos(angle) * v - math.sin(angle) * u
        shadow = np.clip((0.5 * config.strut_width - np.abs(across)) * radius + 0.5, 0, 1) * (along > 0)
        value = value * (1 - 0.7 * shadow)
    return value
