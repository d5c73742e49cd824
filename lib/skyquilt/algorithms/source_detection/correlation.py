"""PSF correlation (LDM-151 8.4): the signal to noise of a point source at every pixel, for a PSF that varies.

The best linear detector of a known shape K in noise of variance v is (Kaiser 2001; Zackay and Ofek 2017)::

    s(p) = sum_q K(q - p) d(q) w(q) / sqrt(sum_q K(q - p)^2 w(q)),    w = 1 / v, 0 for pixels that must not be used

Each cell of the image has the PSF of its middle, cut where 1e-4 of sum(K^2) is left and written as a sum of few
products of a column and a row. What that loses is of second order: s has unit noise for any K, since the denominator
is of the K that is used, and a point source loses half of the squared relative error of K, 1e-4 of its S/N.
Kernels that need many products (donuts of wavefront sensors) go through Fourier space.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.source_detection.correlation_kernels import (
    correlate_products,
    divide,
    extremes,
    sum_squares,
    weigh,
)
from skyquilt.algorithms.source_detection.flooding import Plane, plane_rows
from skyquilt.primitives.kernels import correlate
from skyquilt.primitives.psf import GaussianPsf, Psf
from skyquilt.primitives.statistics import block_edges

_LOST_OUTSIDE = 1e-4
_LOST_IN_RANK = 2e-4
_MOST_PRODUCTS = 260
"""Rank times side beyond which Fourier space is cheaper."""
_STRIP = 128
_SMOOTH = 1.04
"""Where weights differ by less, noise is that of equal weights: 1 % at most, with both extremes side by side."""
_MOSTLY = 0.97
BLOCK = 64
"""Side of the blocks of `where` [pixel]."""
_CELL = 640
_MOST_CELLS = 49


@dataclass(frozen=True)
class LocalKernel:
    """The PSF of a cell: K ~ columns^T rows and K^2 ~ square_columns^T square_rows; shapes (rank, side)."""

    kernel: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    square_columns: np.ndarray
    square_rows: np.ndarray

    @property
    def separable(self) -> bool:
        """Whether products of columns and rows are cheaper than Fourier space."""
        return self.columns.size <= _MOST_PRODUCTS

    @property
    def reach(self) -> int:
        """Pixels on each side of the centre."""
        return self.kernel.shape[0] // 2


@dataclass(frozen=True)
class MatchedFilter:
    """Kernels for the cells of an image.

    Parameters
    ----------
    y_edges, x_edges : ndarray of int64, shapes (n + 1,) and (m + 1,)
    kernels : tuple of tuple of LocalKernel, n by m
    """

    y_edges: np.ndarray
    x_edges: np.ndarray
    kernels: tuple[tuple[LocalKernel, ...], ...]

    @classmethod
    def of(
        cls,
        psf: Psf | float,
        shape: tuple[int, int],
        origin: tuple[int, int] = (0, 0),
        sharpness: float = 0.0,
    ) -> MatchedFilter:
        """For an image of a shape (ny, nx) whose first pixel is `origin` (x, y) in the PSF's frame.

        Parameters
        ----------
        psf : Psf or float
            Or the sigma of a Gaussian where there is no PSF yet [pixel].
        sharpness : float
            0 for the best signal to noise; above, up to 1, kernels that tell close sources apart at the cost of it.

        Raises
        ------
        ValueError
            For a width that is not positive, or a PSF without positive flux.
        """
        psf = GaussianPsf(psf**2, psf**2) if isinstance(psf, float | int) else psf
        y_edges, x_edges = (_edges(size) for size in shape)

        def local(x: float, y: float) -> LocalKernel:
            stamp = psf.kernel_at(origin[0] + x, origin[1] + y)
            return local_kernel(sharpened(stamp, sharpness) if sharpness > 0 else stamp)

        if not _varies(psf, shape, origin):
            one = local(shape[1] // 2, shape[0] // 2)
            return cls(np.array([0, shape[0]]), np.array([0, shape[1]]), ((one,),))
        middles_y, middles_x = (0.5 * (e[1:] + e[:-1]) for e in (y_edges, x_edges))
        kernels = tuple(tuple(local(x, y) for x in middles_x) for y in middles_y)
        return cls(y_edges, x_edges, kernels)

    @property
    def reach(self) -> int:
        """Greatest reach of the kernels [pixel]."""
        return max(one.reach for row in self.kernels for one in row)


def _edges(size: int) -> np.ndarray:
    cell = max(_CELL, -(-size // int(np.sqrt(_MOST_CELLS))))
    return np.asarray(block_edges(size, min(cell, size)), dtype=np.int64)


def _varies(psf: Psf, shape: tuple[int, int], origin: tuple[int, int]) -> bool:
    x0, y0 = origin
    places = [
        (x0 + fx * (shape[1] - 1), y0 + fy * (shape[0] - 1)) for fx in (0, 0.3, 1) for fy in (0, 0.6, 1)
    ]
    first = psf.kernel_at(*places[0])
    return any(not np.array_equal(psf.kernel_at(*place), first) for place in places[1:])


def sharpened(stamp: np.ndarray, sharpness: float) -> np.ndarray:
    """P / (1 - s + s |P|^2 / max |P|^2) for the PSF P in Fourier space: a Wiener filter, cut to the stamp.

    With s = 0 it is the PSF, whose correlation is sqrt(2) wider than the image; the nearer s is to 1, the
    narrower is what the kernel makes of a star, and the more it makes of noise.
    """
    n = 2 * stamp.shape[0] + 1
    transform = np.fft.rfft2(stamp, (n, n))
    power = np.abs(transform) ** 2
    power /= power.max()
    wide = np.fft.irfft2(transform / (1 - sharpness + sharpness * power), (n, n))
    return wide[: stamp.shape[0], : stamp.shape[1]]


def local_kernel(stamp: np.ndarray) -> LocalKernel:
    """Cut a PSF stamp (n, n) and write it and its square as sums of products."""
    stamp = np.asarray(stamp, dtype=np.float64)
    half = stamp.shape[0] // 2
    total = (stamp**2).sum()
    cut = half
    while cut > 1 and (_middle(stamp, cut - 1) ** 2).sum() >= (1 - _LOST_OUTSIDE) * total:
        cut -= 1
    columns, rows = _products(_middle(stamp, cut), _LOST_IN_RANK)
    used = columns.T @ rows
    square_columns, square_rows = _products(used**2, 1e-5)
    # the sum decides the noise where the weight is smooth
    square_columns *= (used**2).sum() / (square_columns.T @ square_rows).sum()
    return LocalKernel(used, columns, rows, square_columns, square_rows)


def _middle(stamp: np.ndarray, half: int) -> np.ndarray:
    centre = stamp.shape[0] // 2
    return stamp[centre - half : centre + half + 1, centre - half : centre + half + 1]


def _products(stamp: np.ndarray, lost: float) -> tuple[np.ndarray, np.ndarray]:
    """Fewest columns and rows whose products leave a share `lost` of the squared stamp; (rank, side) each."""
    u, singular, vt = np.linalg.svd(stamp)
    left = 1 - np.cumsum(singular**2) / (singular**2).sum()
    rank = int(np.argmax(left <= lost)) + 1
    root = np.sqrt(singular[:rank])[:, None]
    return np.ascontiguousarray(root * u.T[:rank]), np.ascontiguousarray(root * vt[:rank])


def correlated_image(
    image: Plane,
    sky_variance: Plane,
    bad: np.ndarray,
    matched: MatchedFilter,
    where: np.ndarray | None = None,
    least_weight: float = 0.1,
) -> np.ndarray:
    """Signal to noise of a point source at each pixel.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx), or function of rows
        Background subtracted [electron].
    sky_variance : ndarray of float32, shape (ny, nx), or function of rows
        Variance of empty sky, and of what was subtracted [electron^2].
    bad : ndarray of bool, shape (ny, nx)
        Pixels that must not be used; neither are those that are not finite, or have no positive variance.
    matched : MatchedFilter
    where : ndarray of bool, shape (ceil(ny / 64), ceil(nx / 64)), optional
        Blocks of 64 x 64 pixels that are wanted; by default all.
    least_weight : float
        Least weight under the kernel, as a share of that of an empty part of the image.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        0 off the wanted blocks, and where the weight is below the least: a tenth of the kernel on usable pixels.
    """
    ny, nx = bad.shape
    snr = np.zeros(bad.shape, dtype=np.float32)
    typical = _typical_weight(sky_variance, bad)
    reach = matched.reach
    strip = _STRIP if where is None else BLOCK
    for start in range(0, ny, strip):
        stop = min(start + strip, ny)
        parts = list(_parts(matched, start, stop, nx, None if where is None else where[start // BLOCK]))
        if not parts:
            continue
        around = slice(max(start - reach, 0), min(stop + reach, ny))
        signal, weight = (np.empty((around.stop - around.start, nx), np.float32) for _ in range(2))
        weigh(
            _contiguous(plane_rows(image, around)),
            _contiguous(plane_rows(sky_variance, around)),
            bad[around],
            signal,
            weight,
        )
        for local, part in parts:
            _fill(snr, signal, weight, local, part, around.start, least_weight * typical)
    return snr


def _parts(
    matched: MatchedFilter, start: int, stop: int, nx: int, wanted: np.ndarray | None
) -> Iterator[tuple[LocalKernel, tuple[int, int, int, int]]]:
    """Kernels, and the rows and columns (start, stop, left, right) of a strip that each is for."""
    runs = [(0, nx)]
    if wanted is not None:
        steps = np.diff(np.concatenate([[0], wanted.astype(np.int8), [0]]))
        runs = list(zip(np.flatnonzero(steps > 0) * BLOCK, np.flatnonzero(steps < 0) * BLOCK))
    for row, (first, last) in enumerate(itertools.pairwise(matched.y_edges)):
        rows = max(first, start), min(last, stop)
        if rows[0] >= rows[1]:
            continue
        for column, edges in enumerate(itertools.pairwise(matched.x_edges)):
            for run in runs:
                left, right = max(edges[0], run[0]), min(edges[1], run[1])
                if left < right:
                    yield matched.kernels[row][column], (*rows, int(left), int(right))


def _fill(
    snr: np.ndarray,
    signal: np.ndarray,
    weight: np.ndarray,
    local: LocalKernel,
    part: tuple[int, int, int, int],
    first_row: int,
    least_weight: float,
) -> None:
    """Fill one part (rows start to stop, columns left to right) of the detection image."""
    start, stop, left, right = part
    shape = (stop - start, right - left)
    least = least_weight * (local.kernel**2).sum()
    if local.separable:
        top, bottom = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        correlate_products(signal, local.columns, local.rows, start - first_row, left, top)
        around = weight[:, max(left - local.reach, 0) : right + local.reach]
        low, high = extremes(around)
        if high <= _SMOOTH * low and np.count_nonzero(around) > _MOSTLY * around.size:
            square = local.kernel**2
            typical_here = np.float32(0.5) * (low + high)
            sum_squares(weight, square, start - first_row, left, *shape, typical_here, bottom)
        else:
            correlate_products(
                weight, local.square_columns, local.square_rows, start - first_row, left, bottom
            )
    else:
        reach = local.reach
        x0, x1 = max(left - reach, 0), min(right + reach, signal.shape[1])
        inside = (slice(start - first_row, stop - first_row), slice(left - x0, right - x0))
        top = np.ascontiguousarray(correlate(signal[:, x0:x1], local.kernel, method="fft")[inside])
        bottom = np.ascontiguousarray(correlate(weight[:, x0:x1], local.kernel**2, method="fft")[inside])
    divide(top, bottom, np.float32(least), snr[start:stop, left:right])


def preconvolved_image(image: np.ndarray, variance: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Detection image of an image that was already correlated with its PSF: image / sqrt(variance), float32.

    0 where a pixel is bad or not finite. Its noise is correlated: let `noise.measured_noise` say what its width is.
    """
    usable = ~bad & np.isfinite(image) & (variance > 0)
    snr = np.zeros(image.shape, np.float32)
    np.divide(image, np.sqrt(variance, where=usable, out=np.ones_like(snr)), out=snr, where=usable)
    return snr


def _typical_weight(sky_variance: Plane, bad: np.ndarray) -> float:
    """Median weight of a regular sample of the usable pixels, 0 without any."""
    step = max(1, int(np.sqrt(bad.size / 250_000)))
    found = []
    for start in range(0, bad.shape[0], _STRIP):
        rows = slice(start, min(start + _STRIP, bad.shape[0]))
        variance = np.asarray(plane_rows(sky_variance, rows))[::step, ::step]
        found.append(variance[(variance > 0) & ~bad[rows][::step, ::step]])
    values = np.concatenate(found) if found else np.empty(0)
    return float(1 / np.median(values)) if values.size else 0.0


def _contiguous(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)
