"""Background Estimation (LDM-151 8.7): clipped statistics on a mesh of cells, interpolated by splines.

Cells are nearly equal and cover the detector. Detected pixels are left out by the caller's mask; a cell of
which too little is left takes the weighted mean of its neighbours. Node errors are those of the cell's
statistic; for a cell of n pixels of noise s the mean's is s / sqrt(n).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from skyquilt.primitives.background import MeshLayer
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.statistics import BinnedImage, binned_statistics

STATISTICS = ("mean", "median", "mode")


@dataclass(frozen=True)
class BackgroundEstimationConfig:
    """Mesh and statistic of the background."""

    cell: int = 128
    """Size of a cell [pixel]; sources much larger than it are kept, structure of the sky as well."""
    statistic: str = "mean"
    """Of the clipped pixels of a cell, once sources are masked: `mean`, `median`, or `mode` (2.5 median -
    1.5 mean, for crowded fields)."""
    clip: float = 4.0
    """Pixels further than this from the median of a cell are left out [sigma]; 3 would lower a sky of 150
    electrons by 0.04, for photon noise is skewed."""
    min_fraction: float = 0.2
    """Cells with a smaller share of usable pixels take their neighbours' value."""
    outlier: float = 5.0
    """Cells further than this from the median of their 3x3 neighbourhood take that median [sigma of such
    differences]."""

    def __post_init__(self) -> None:
        if self.cell < 8:
            raise ValueError(f"background cell must be at least 8 pixels, got {self.cell}")
        if self.statistic not in STATISTICS:
            raise ValueError(f"background statistic must be one of {STATISTICS}, got {self.statistic!r}")
        if self.clip < 1 or not 0 <= self.min_fraction <= 1 or self.outlier <= 0:
            raise ValueError("background needs clip >= 1, min_fraction in 0..1 and outlier > 0")


@dataclass(frozen=True)
class BackgroundEstimate:
    """A background and what is known of it.

    Parameters
    ----------
    layer : MeshLayer
        Model [units of the image].
    level : float
        Mean of the nodes.
    level_error : float
        Standard error of a node from pixel noise, median over cells.
    noise : float
        Robust width of the pixels about the background, median over cells.
    """

    layer: MeshLayer
    level: float
    level_error: float
    noise: float


def estimate_background(
    image: np.ndarray,
    good: np.ndarray,
    box: Box,
    config: BackgroundEstimationConfig,
    statistic: str | None = None,
) -> BackgroundEstimate:
    """Smooth background of an image.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    good : ndarray of bool, shape (ny, nx)
        Pixels that may be used: not bad, not detected.
    box : Box
        Place of the image in the parent frame.
    statistic : str, optional
        In place of the configured one (`mode` before any source is masked).

    Raises
    ------
    ProcessingFailure
        NO_GOOD_PIXELS when no cell has enough usable pixels.
    """
    block = (_even_block(image.shape[0], config.cell), _even_block(image.shape[1], config.cell))
    cells = binned_statistics(image, block, good, n_sigma=config.clip, box=box)
    enough = _enough(cells, block, image.shape, config.min_fraction)
    if not enough.any():
        raise ProcessingFailure(
            Reason.NO_GOOD_PIXELS,
            f"no background cell of {block[1]}x{block[0]} pixels has {config.min_fraction:.0%} usable pixels",
        )
    values, errors = _node_values(cells, statistic or config.statistic)
    values = filled(values, enough)
    values = _without_outliers(values, config.outlier)
    return BackgroundEstimate(
        MeshLayer(values, cells.x, cells.y),
        float(values.mean()),
        float(np.median(errors[enough])),
        float(np.median(cells.width[enough])),
    )


def estimate_sky_variance(
    variance: np.ndarray, good: np.ndarray, box: Box, config: BackgroundEstimationConfig
) -> MeshLayer:
    """Smooth variance of empty sky from the variance plane: cell medians of undetected pixels.

    The variance plane has the photon noise of each pixel's own value; this has not, and is at least a tenth
    of the median of all cells, so that splines never bring it to zero.
    """
    block = (_even_block(variance.shape[0], config.cell), _even_block(variance.shape[1], config.cell))
    cells = binned_statistics(variance, block, good, n_sigma=config.clip, box=box)
    enough = _enough(cells, block, variance.shape, config.min_fraction)
    if not enough.any():
        raise ProcessingFailure(Reason.NO_GOOD_PIXELS, "no cell has enough pixels for the sky's variance")
    values = filled(cells.median, enough)
    return MeshLayer(np.maximum(values, 0.1 * np.median(values)), cells.x, cells.y, "bilinear")


def filled(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values of a mesh with unknown nodes replaced by the mean of known ones, weighted by distance^-4."""
    if known.all():
        return values
    y, x = np.nonzero(known)
    result = values.copy()
    for j, i in zip(*np.nonzero(~known)):
        weight = 1.0 / ((y - j) ** 2 + (x - i) ** 2) ** 2.0
        result[j, i] = np.sum(weight * values[y, x]) / weight.sum()
    return result


def _even_block(size: int, cell: int) -> int:
    """Cell size near `cell` that leaves no sliver at the end of `size` pixels."""
    return int(np.ceil(size / max(round(size / cell), 1)))


def _enough(
    cells: BinnedImage, block: tuple[int, int], shape: tuple[int, int], fraction: float
) -> np.ndarray:
    ny, nx = cells.count.shape
    height = np.minimum(block[0], shape[0] - block[0] * np.arange(ny))
    width = np.minimum(block[1], shape[1] - block[1] * np.arange(nx))
    return (cells.count >= np.maximum(fraction * height[:, None] * width[None, :], 8)) & np.isfinite(
        cells.mean
    )


def _node_values(cells: BinnedImage, statistic: str) -> tuple[np.ndarray, np.ndarray]:
    if statistic == "mean":
        return cells.mean, cells.mean_error
    if statistic == "median":
        return cells.median, cells.median_error
    # errors of 2.5 median - 1.5 mean of a Gaussian sample: cov(mean, median) = var(mean)
    factor = np.sqrt(6.25 * np.pi / 2 - 7.5 + 2.25)
    return 2.5 * cells.median - 1.5 * cells.mean, factor * cells.mean_error


def _without_outliers(values: np.ndarray, limit: float) -> np.ndarray:
    """Nodes far from the median of their neighbourhood replaced by it; meshes under 3x3 are left alone."""
    if min(values.shape) < 3:
        return values
    middle = ndimage.median_filter(values, size=3, mode="nearest")
    difference = values - middle
    width = 1.4826 * np.median(np.abs(difference))
    return np.where(np.abs(difference) > limit * width, middle, values) if width > 0 else values
