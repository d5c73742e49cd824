"""Simulation (design 7): what light finds on its way: vignetting, dust, unequal pixels, rings of the crystal, fringes."""

from __future__ import annotations

import math

import numpy as np

from skyquilt.simulation.detector_effects.config import DetectorEffectsConfig
from skyquilt.simulation.detector_effects.streams import effect_stream

RING_PERIODS_MM = (0.25, 0.9)
"""Distances of tree rings, of successive waves."""

N_RING_WAVES = 5

SILICON_INDEX = 3.6

NIGHT_LINES = {
    "u": (0.355,),
    "g": (0.5577,),
    "r": (0.6300, 0.6364),
    "i": (0.7716, 0.7794, 0.8025),
    "z": (0.8399, 0.8827, 0.8885),
    "y": (0.9872, 1.0013, 1.0124),
}
"""Strong lines of the night sky in each band [micron]."""

THICKNESS_CHANGE = 0.15
"""Of the silicon, typical, per mm of the detector [micron]: fringes some 0.7 mm apart in the red."""

SHADOW_MM = (0.12, 0.45)
"""Outer radii of the shadows of dust."""


def vignetting(config: DetectorEffectsConfig, radius: np.ndarray) -> np.ndarray:
    """Share of the light that arrives; `radius`, float32, is 1 at the farthest corner."""
    return 1 - np.float32(config.vignetting) * radius**3


def unequal_pixels(config: DetectorEffectsConfig, seed: int, detector: int, response: np.ndarray) -> None:
    """Multiply a response, float32 (ny, nx), by the pixels' own, in place."""
    if config.pixel_response > 0:
        rng = effect_stream(seed, "response", detector)
        scatter = rng.standard_normal(response.shape, dtype=np.float32)
        np.clip(scatter, -5, 5, out=scatter)
        scatter *= np.float32(config.pixel_response)
        scatter += 1
        response *= scatter


def cast_shadows(
    config: DetectorEffectsConfig, seed: int, detector: int, response: np.ndarray, pixel_size: float
) -> None:
    """Multiply a response, float32 (ny, nx), by the annular shadows of dust, in place.

    Parameters
    ----------
    pixel_size : float [mm]
    """
    rng = effect_stream(seed, "dust", detector)
    ny, nx = response.shape
    for _ in range(rng.poisson(config.dust * nx * ny * pixel_size**2 / 100)):
        x, y = rng.uniform(-0.5, nx - 0.5), rng.uniform(-0.5, ny - 0.5)
        outer = rng.uniform(*SHADOW_MM) / pixel_size
        inner, depth = rng.uniform(0.3, 0.5) * outer, rng.uniform(0.01, 0.05)
        x0, x1 = max(int(x - outer) - 2, 0), min(int(x + outer) + 3, nx)
        y0, y1 = max(int(y - outer) - 2, 0), min(int(y + outer) + 3, ny)
        r = np.hypot(*np.ogrid[y0 - y : y1 - y, x0 - x : x1 - x])
        # edges are soft over a tenth of the radius
        inside = np.clip((outer - r) / (0.1 * outer) + 0.5, 0, 1) * np.clip(
            (r - inner) / (0.1 * outer) + 0.5, 0, 1
        )
        response[y0:y1, x0:x1] *= (1 - depth * inside).astype(np.float32)


def tree_rings(
    config: DetectorEffectsConfig, seed: int, detector: int, shape: tuple[int, int], pixel_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Displacement of pixel boundaries by the rings of the crystal from which the detector was cut.

    Returns
    -------
    along_x, along_y : ndarray of float32, `shape` [pixel]
        Of the boundary towards greater x (y) of each pixel, at most `config.tree_rings` long.
    """
    rng = effect_stream(seed, "tree_rings", detector)
    ny, nx = shape
    # the crystal's axis lies off a corner
    far = rng.uniform(0.1, 0.6)
    cx = -far * nx if rng.uniform() < 0.5 else (1 + far) * nx
    cy = -far * ny if rng.uniform() < 0.5 else (1 + far) * ny
    period = np.exp(rng.uniform(*np.log(RING_PERIODS_MM), N_RING_WAVES)) / pixel_size
    phase, share = rng.uniform(0, 2 * math.pi, N_RING_WAVES), rng.uniform(0.5, 1, N_RING_WAVES)
    steps = np.arange(0, 2.5 * math.hypot(nx, ny) + 2, 0.5)
    waves = (share[:, None] * np.sin(2 * math.pi * steps / period[:, None] + phase[:, None])).sum(axis=0)
    table = config.tree_rings * waves / share.sum()
    fields = []
    for dx, dy in ((0.5, 0.0), (0.0, 0.5)):
        y, x = np.ogrid[:ny, :nx]
        x, y = (x + dx - cx).astype(np.float32), (y + dy - cy).astype(np.float32)
        r = np.hypot(x, y)
        # nearest half pixel: a displacement changes by 1e-3 of a pixel over ten
        displacement = table.astype(np.float32)[(2 * r).astype(np.int32)]
        fields.append(displacement * (x if dx else y) / r)
    return fields[0], fields[1]


def fringe_pattern(
    config: DetectorEffectsConfig,
    seed: int,
    detector: int,
    band: str,
    shape: tuple[int, int],
    pixel_size: float,
) -> np.ndarray | None:
    """Fringes of a band: electrons per electron of sky, mean 0, float32 `shape`; None without any.

    Light of each line of the night sky interferes with itself after reflection at both faces: the phase is
    4 pi n / lambda times the silicon's thickness, which is one smooth map for all bands.
    """
    height = config.fringes.get(band, 0.0)
    if height == 0:
        return None
    thickness = thickness_map(seed, detector, shape, pixel_size)
    rng = effect_stream(seed, "fringes", detector, 1 + list(NIGHT_LINES).index(band))
    pattern = np.zeros(shape, dtype=np.float32)
    for line in NIGHT_LINES[band]:
        phase = np.float32(rng.uniform(0, 2 * math.pi))
        pattern += np.float32(rng.uniform(0.4, 1)) * np.cos(
            np.float32(4 * math.pi * SILICON_INDEX / line) * thickness + phase
        )
    pattern -= np.float32(pattern.mean(dtype=np.float64))
    pattern *= np.float32(height / np.abs(pattern).max())
    return pattern


def thickness_map(seed: int, detector: int, shape: tuple[int, int], pixel_size: float) -> np.ndarray:
    """Thickness of the silicon less its mean: a bowl, a wedge and waves, float32 `shape` [micron]."""
    rng = effect_stream(seed, "fringes", detector, 0)
    ny, nx = shape
    y, x = np.ogrid[:ny, :nx]
    x, y = (x - 0.5 * nx) * pixel_size, (y - 0.5 * ny) * pixel_size
    a, b = rng.normal(size=2) * 0.5 * THICKNESS_CHANGE
    bowl, skew = rng.uniform(0.5, 1.0) * THICKNESS_CHANGE / 8, rng.uniform(-0.3, 0.3)
    period, phase = rng.uniform(4, 9, 2), rng.uniform(0, 2 * math.pi, 2)
    thickness = a * x + b * y + bowl * (x**2 + y**2 + skew * x * y)
    thickness = thickness + THICKNESS_CHANGE * (
        np.sin(2 * math.pi * x / period[0] + phase[0]) * np.cos(2 * math.pi * y / period[1] + phase[1])
    )
    return thickness.astype(np.float32)


def dome_flat_light(config: DetectorEffectsConfig, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Light of a dome flat relative to a uniform one, the same for all bands.

    Parameters
    ----------
    u, v : ndarray of float32
        Place in the focal plane over the radius of the farthest corner.
    """
    tilt = 0.5 - u**2 - v**2
    tilt += 0.4 * u - 0.3 * v
    tilt *= np.float32(config.flat_illumination)
    tilt += 1
    return tilt
