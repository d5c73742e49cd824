"""Kron Photometry (LDM-151 8.6.2.6): flux in an ellipse scaled by the first radial moment of the light.

The ellipse has the axes of the adaptive moments; radii are in units of them. The quoted error is that of the
sum for the ellipse as it is, without the uncertainty of its radius.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel


@dataclass(frozen=True)
class KronConfig:
    """Size of the Kron ellipse."""

    search: float = 6.0
    """The radial moment is taken out to this many sigma of the source's ellipse."""
    scale: float = 2.5
    """Size of the flux aperture [Kron radii]."""
    smallest: float = 3.5
    """Least size of the flux aperture [sigma of the source's ellipse]."""
    max_masked: float = 0.1
    """Larger fractions of unusable area set the flag."""

    def __post_init__(self) -> None:
        if not (self.search > 0 and self.scale > 0 and self.smallest > 0 and 0 <= self.max_masked <= 1):
            raise ValueError(f"KronConfig needs positive sizes and max_masked in 0..1, got {self}")


@dataclass(frozen=True)
class KronFluxes:
    """Kron fluxes [units of the image] and radii [pixel, geometric mean of the aperture's axes], shape (n,).

    `flag` (bool): no ellipse, no positive moment, or too much of the aperture is unusable; without an ellipse
    the flux is NaN.
    """

    flux: np.ndarray
    error: np.ndarray
    radius: np.ndarray
    flag: np.ndarray


@kernel("float64(float64, float64, float64, float64, float64, float64)")
def _pixel_in_ellipse(dx, dy, cxx, cyy, cxy, size):
    """Fraction of a unit pixel inside cxx dx^2 + cyy dy^2 + 2 cxy dx dy <= size^2, from 10 x 10 points."""
    inside = 0
    for j in range(10):
        y = dy + (j - 4.5) * 0.1
        for i in range(10):
            x = dx + (i - 4.5) * 0.1
            if cxx * x * x + cyy * y * y + 2.0 * cxy * x * y <= size * size:
                inside += 1
    return inside * 0.01


@kernel(
    "void(const(float32[:, :]), const(float32[:, :]), const(boolean[:, :]), const(float64[:, :]), "
    "float64, float64, float64, float64[:, :])"
)
def kron_sums(image, variance, bad, ellipses, search, scale, smallest, result):
    """Fill `result` (sources, 5): flux, variance, size in sigma, share of usable area, 1 for success.

    `ellipses` (sources, 5): x, y [pixel], xx, yy, xy [pixel^2]; a row that is not finite gives NaN.
    """
    rows, columns = image.shape
    for k in range(ellipses.shape[0]):
        x, y, xx, yy, xy = ellipses[k, 0], ellipses[k, 1], ellipses[k, 2], ellipses[k, 3], ellipses[k, 4]
        result[k, 0:4] = np.nan
        result[k, 4] = 0.0
        det = xx * yy - xy * xy
        if not (det > 0.0 and np.isfinite(x + y)):
            continue
        cxx, cyy, cxy = yy / det, xx / det, -xy / det
        light = 0.0
        moment = 0.0
        reach_x, reach_y = search * np.sqrt(xx), search * np.sqrt(yy)
        for j in range(max(int(np.ceil(y - reach_y)), 0), min(int(np.floor(y + reach_y)) + 1, rows)):
            for i in range(max(int(np.ceil(x - reach_x)), 0), min(int(np.floor(x + reach_x)) + 1, columns)):
                dx, dy = i - x, j - y
                square = cxx * dx * dx + cyy * dy * dy + 2.0 * cxy * dx * dy
                if square <= search * search and not bad[j, i]:
                    light += np.float64(image[j, i])
                    moment += np.float64(image[j, i]) * np.sqrt(square)
        positive = light > 0.0 and moment > 0.0
        size = smallest
        if positive:
            size = min(max(scale * moment / light, smallest), scale * search)
        flux = 0.0
        noise = 0.0
        area = 0.0
        reach_x, reach_y = size * np.sqrt(xx) + 0.5, size * np.sqrt(yy) + 0.5
        # a pixel whose centre is this far from the edge (in sigma of the minor axis) is not cut by it
        minor = np.sqrt(max(0.5 * (xx + yy) - np.sqrt(0.25 * (xx - yy) ** 2 + xy * xy), 1e-6))
        margin = 0.7072 / minor
        for j in range(max(int(np.ceil(y - reach_y)), 0), min(int(np.floor(y + reach_y)) + 1, rows)):
            for i in range(max(int(np.ceil(x - reach_x)), 0), min(int(np.floor(x + reach_x)) + 1, columns)):
                if bad[j, i]:
                    continue
                dx, dy = i - x, j - y
                distance = np.sqrt(cxx * dx * dx + cyy * dy * dy + 2.0 * cxy * dx * dy)
                if distance - margin >= size:
                    continue
                inside = 1.0
                if distance + margin > size:
                    inside = _pixel_in_ellipse(dx, dy, cxx, cyy, cxy, size)
                flux += inside * np.float64(image[j, i])
                noise += inside * inside * np.float64(variance[j, i])
                area += inside
        result[k, 0] = flux
        result[k, 1] = noise
        result[k, 2] = size
        result[k, 3] = area / (np.pi * size * size * np.sqrt(det))
        result[k, 4] = 1.0 if positive else 0.0


def kron_photometry(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    xx: np.ndarray,
    yy: np.ndarray,
    xy: np.ndarray,
    config: KronConfig,
) -> KronFluxes:
    """Kron fluxes about (x, y) [pixel] with ellipses of moments xx, yy, xy [pixel^2]."""
    result = np.empty((len(x), 5))
    ellipses = np.column_stack([x, y, xx, yy, xy]).astype(float)
    kron_sums(
        image,
        variance,
        bad,
        ellipses,
        float(config.search),
        float(config.scale),
        float(config.smallest),
        result,
    )
    with np.errstate(invalid="ignore"):
        mean_axis = np.maximum(ellipses[:, 2] * ellipses[:, 3] - ellipses[:, 4] ** 2, 0.0) ** 0.25
        flag = ~((result[:, 4] == 1.0) & (result[:, 3] >= 1.0 - config.max_masked - 0.01))
    return KronFluxes(result[:, 0], np.sqrt(result[:, 1]), result[:, 2] * mean_axis, flag)
