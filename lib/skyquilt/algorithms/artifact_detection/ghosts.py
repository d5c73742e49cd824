"""Ghosts (LDM-151 8.2), and the catalogue of optical ghosts and glints (LDM-151 4.1.2.4).

Where a camera says how its surfaces reflect (`Camera.ghosts`), each bright star has rings at known places of the focal
plane: magnification times its place plus an offset, also when the star itself is on no detector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.compiled import kernel

if TYPE_CHECKING:
    from skyquilt.instrument.camera import GhostModel

UNEVENNESS = 0.15
"""Rings are masked where they would reach the threshold if brighter than their mean by this share: pupils are not
evenly lit."""

MARGIN = 0.04
"""Masks reach this share of the outer radius beyond both edges of a ring: the hole and the ring are not quite
concentric away from the axis."""

NEGLIGIBLE = 0.02
"""Rings below this share of the threshold are not added up."""


def ghost_catalogue(
    x_mm: np.ndarray,
    y_mm: np.ndarray,
    flux: np.ndarray,
    ghosts: Sequence[GhostModel],
    pixel_mm: float,
    faintest: float = 0.0,
    glint_pixels: float = 10.0,
) -> dict[str, np.ndarray]:
    """All ghosts of a list of stars, the brightest surface first.

    Parameters
    ----------
    x_mm, y_mm : ndarray, shape (n,)
        Places of stars in the focal plane; those beside all detectors count too [mm].
    flux : ndarray, shape (n,)
        [electrons]; stars without a finite flux have no ghosts.
    ghosts : sequence of GhostModel
    pixel_mm : float
        Size of a pixel [mm].
    faintest : float
        Ghosts of a fainter mean surface brightness are left out [electrons per pixel].
    glint_pixels : float
        Ghosts of a smaller radius are called glints: nearly in focus [pixel].

    Returns
    -------
    dict of ndarray
        star (index in the input), reflection (index in `ghosts`), kind (ghost | glint), xMm, yMm (middle), radiusMm,
        innerRadiusMm, electrons (of the whole ring), surfaceBrightness [electrons per pixel].
    """
    x_mm, y_mm, flux = (np.asarray(v, dtype=float).ravel() for v in (x_mm, y_mm, flux))
    if not x_mm.size == y_mm.size == flux.size:
        raise ValueError(
            f"stars need as many places as fluxes, got {x_mm.size} x, {y_mm.size} y, {flux.size} flux"
        )
    parts = [_ghosts_of(k, ghost, x_mm, y_mm, flux, pixel_mm, glint_pixels) for k, ghost in enumerate(ghosts)]
    names = (
        "star",
        "reflection",
        "kind",
        "xMm",
        "yMm",
        "radiusMm",
        "innerRadiusMm",
        "electrons",
        "surfaceBrightness",
    )
    if not parts:
        parts = [_ghosts_of(0, None, x_mm[:0], y_mm[:0], flux[:0], pixel_mm, glint_pixels)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    brightness = columns["surfaceBrightness"]
    known = np.isfinite(brightness) & np.isfinite(columns["xMm"]) & np.isfinite(columns["yMm"])
    chosen = np.flatnonzero(known & (brightness > 0) & (brightness >= faintest))
    chosen = chosen[np.argsort(-brightness[chosen], kind="stable")]
    return {name: values[chosen] for name, values in columns.items()}


def _ghosts_of(
    number: int,
    ghost: GhostModel | None,
    x_mm: np.ndarray,
    y_mm: np.ndarray,
    flux: np.ndarray,
    pixel_mm: float,
    glint_pixels: float,
) -> dict[str, np.ndarray]:
    """Columns of one reflection; empty without one."""
    n = x_mm.size
    radius, inner = (ghost.radius_mm, ghost.inner_fraction) if ghost else (1.0, 0.0)
    scale, ratio = (ghost.magnification, ghost.flux_ratio) if ghost else (1.0, 0.0)
    offset = ghost.offset_mm if ghost else (0.0, 0.0)
    area = math.pi * (radius / pixel_mm) ** 2 * (1 - inner**2)
    return {
        "star": np.arange(n, dtype=np.int64),
        "reflection": np.full(n, number, dtype=np.int64),
        "kind": np.full(n, "glint" if radius < glint_pixels * pixel_mm else "ghost"),
        "xMm": scale * x_mm + offset[0],
        "yMm": scale * y_mm + offset[1],
        "radiusMm": np.full(n, float(radius)),
        "innerRadiusMm": np.full(n, float(radius * inner)),
        "electrons": ratio * flux,
        "surfaceBrightness": ratio * flux / area,
    }


def ghost_mask(
    x_mm: np.ndarray,
    y_mm: np.ndarray,
    flux: np.ndarray,
    ghosts: Sequence[GhostModel],
    matrix: np.ndarray,
    offset: np.ndarray,
    shape: tuple[int, int],
    threshold: float,
    expected: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels of a detector on which ghosts of bright stars fall.

    Parameters
    ----------
    x_mm, y_mm, flux, ghosts
        As of `ghost_catalogue`.
    matrix, offset : ndarray, shape (2, 2) [mm/pixel] and (2,) [mm]
        Of `Detector.focal_plane_matrix()`: focal plane = matrix @ (x, y) + offset.
    shape : (int, int)
        Of the detector (ny, nx).
    threshold : float
        Expected light that matters, of all ghosts of a pixel together [electrons].
    expected : bool
        Whether the expected light is wanted.

    Returns
    -------
    mask : ndarray of bool, shape `shape`
    expected : ndarray of float32, shape `shape`, or None
        Rings of even light, without the mask's margins [electrons].

    Raises
    ------
    ValueError
        When the threshold is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold} electrons")
    matrix = np.asarray(matrix, dtype=float)
    pixel = math.sqrt(abs(np.linalg.det(matrix)))
    rows = ghost_catalogue(x_mm, y_mm, flux, ghosts, pixel, NEGLIGIBLE * threshold)
    x, y = np.linalg.solve(matrix, np.stack([rows["xMm"], rows["yMm"]]) - np.asarray(offset, float)[:, None])
    outer, inner = rows["radiusMm"] / pixel, rows["innerRadiusMm"] / pixel
    level = rows["surfaceBrightness"]
    wide = np.zeros(shape, np.float32)
    add_rings(wide, x, y, outer * (1 + MARGIN), np.maximum(inner - MARGIN * outer, 0.0), level)
    mask = wide * np.float32(1 + UNEVENNESS) > threshold
    if not expected:
        return mask, None
    even = np.zeros(shape, np.float32)
    add_rings(even, x, y, outer, inner, level)
    return mask, even


@kernel(
    "void(float32[:, ::1], const(float64[::1]), const(float64[::1]), const(float64[::1]), const(float64[::1]),"
    " const(float64[::1]))"
)
def add_rings(image, x, y, outer, inner, level):
    """Add rings of even light to an image: pixels whose centre lies between the radii.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    x, y, outer, inner : ndarray, shape (n,)
        Middles and radii [pixel].
    level : ndarray, shape (n,)
    """
    ny, nx = image.shape
    for k in range(x.size):
        r2, hole2 = outer[k] * outer[k], inner[k] * inner[k]
        for j in range(max(math.ceil(y[k] - outer[k]), 0), min(math.floor(y[k] + outer[k]), ny - 1) + 1):
            dy2 = (j - y[k]) ** 2
            half = math.sqrt(max(r2 - dy2, 0.0))
            for i in range(max(math.ceil(x[k] - half), 0), min(math.floor(x[k] + half), nx - 1) + 1):
                if (i - x[k]) ** 2 + dy2 >= hole2:
                    image[j, i] += level[k]
