"""Calibration Products Production (LDM-151 4.1.2.3): variance and covariances of a pair of flats.

The difference of two flats holds twice the noise of one and none of the response. Light that changed
between them, by a factor that may vary slowly over the detector, is scaled away block by block such that
the photon noise of the scaled difference is that of the mean of both. Covariances of neighbours
show how charge repels charge (Antilogus et al. 2014; Astier et al. 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skyquilt.pipelines.calibration_products.flat_frames import of_normal_response, spread
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.statistics import BinnedImage, binned_statistics, block_edges, truncation_factors

_TRACK = 5.0
"""Sums along lines of 5 pixels and of 3 x 3 pixels beyond this are no noise [sigma].

At 4.5 what is left would lack 6e-4 of the variance, at 5.0 it lacks 7e-5."""
_LINES = tuple(
    np.ascontiguousarray(line, dtype=np.float32)
    for line in (np.ones((1, 5)), np.ones((5, 1)), np.eye(5), np.eye(5)[::-1], np.ones((3, 3)))
)


@dataclass(frozen=True)
class PairStatistics:
    """What a pair of frames says of one amplifier.

    Parameters
    ----------
    level : float
        Mean of both frames over the pixels used [ADU]; NaN when no pixels could be used.
    covariances, errors : ndarray of float64, shape (lags, lags)
        Of one frame at lags (row, column) from 0 [ADU^2]; (i, j) is the mean of (i, j) and (i, -j).
    noise_factor : float
        Share with which a noise that does not depend on the light enters the variance: 1 for equal levels.
    n_pixels : int
        Pixels used.
    rejected : float
        Share of the good pixels that were left out: outliers and what is next to them, pixels of another response.
    """

    level: float
    covariances: np.ndarray
    errors: np.ndarray
    noise_factor: float
    n_pixels: int
    rejected: float


@kernel("void(const(float32[:, :]), const(boolean[:, :]), float64[:, ::1], int64[:, ::1])")
def lag_sums(values, good, sums, counts):
    """Sums of products of pixels (y, x) with (y + i, x + j) and (y + i, x - j), and their numbers.

    Parameters
    ----------
    values : float32, shape (ny, nx)
        Must be 0 where not good.
    good : bool, shape (ny, nx)
    sums, counts : float64 and int64, shape (lags, lags)
        Written. On the axes, where (i, j) and (i, -j) are the same pairs, each counts once.
    """
    rows, columns = values.shape
    lags = sums.shape[0]
    sums[:, :] = 0.0
    counts[:, :] = 0
    # a margin of zeros on both sides keeps the inner loops free of limits
    width = columns + 2 * lags
    ring = np.zeros((lags, width), np.float64)
    flags = np.zeros((lags, width), np.int64)
    for y in range(rows):
        own = y % lags
        for x in range(columns):
            ring[own, lags + x] = values[y, x] if good[y, x] else 0.0
            flags[own, lags + x] = 1 if good[y, x] else 0
        for i in range(min(lags, y + 1)):
            other = (y - i) % lags
            for j in range(lags):
                # eight partial sums: additions that wait for one another take four times as long
                s0, s1, s2, s3, s4, s5, s6, s7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                n = 0
                last = lags + columns
                x = lags
                while x + 4 <= last:
                    s0 += ring[own, x] * ring[other, x + j]
                    s1 += ring[own, x + 1] * ring[other, x + 1 + j]
                    s2 += ring[own, x + 2] * ring[other, x + 2 + j]
                    s3 += ring[own, x + 3] * ring[other, x + 3 + j]
                    if i > 0 and j > 0:
                        s4 += ring[own, x] * ring[other, x - j]
                        s5 += ring[own, x + 1] * ring[other, x + 1 - j]
                        s6 += ring[own, x + 2] * ring[other, x + 2 - j]
                        s7 += ring[own, x + 3] * ring[other, x + 3 - j]
                    x += 4
                while x < last:
                    s0 += ring[own, x] * ring[other, x + j]
                    if i > 0 and j > 0:
                        s4 += ring[own, x] * ring[other, x - j]
                    x += 1
                for x in range(lags, last):
                    n += flags[own, x] & flags[other, x + j]
                if i > 0 and j > 0:
                    for x in range(lags, last):
                        n += flags[own, x] & flags[other, x - j]
                sums[i, j] += ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
                counts[i, j] += n


def pair_statistics(
    first: np.ndarray, second: np.ndarray, good: np.ndarray, lags: int, clip: float, block: int
) -> PairStatistics:
    """Level, variance and covariances of one amplifier from two frames.

    Parameters
    ----------
    first, second : ndarray of float32, shape (ny, nx)
        [ADU] above bias.
    good : ndarray of bool, shape (ny, nx)
        Pixels that can be used in both.
    lags : int
        Lags 0 .. lags - 1 in rows and columns.
    clip : float
        Differences beyond this, and the pixels around them, are left out [sigma].
    block : int
        Side of the blocks in which the ratio of the frames is measured [pixel]; between them it is bilinear.
    """
    nothing = PairStatistics(
        math.nan, np.full((lags, lags), np.nan), np.full((lags, lags), np.nan), math.nan, 0, math.nan
    )
    one, two = (binned_statistics(each, (block, block), good, n_sigma=clip) for each in (first, second))
    used = (np.minimum(one.mean, two.mean) > 0) & (np.minimum(one.count, two.count) >= 0.25 * block)
    if not used.any():
        return nothing
    ratio = np.divide(two.mean, one.mean, out=np.full(used.shape, np.nan), where=used)
    scale = np.sqrt(ratio)
    edges = (block_edges(first.shape[0], block), block_edges(first.shape[1], block))
    factor = _interpolated(np.where(used, scale, np.median(scale[used])), edges)
    difference = first * factor - second / factor
    good = good & np.isfinite(difference)
    kept = _without_outliers(difference, good, edges, clip, block)
    for image, cells in ((first, one), (second, two)):
        kept &= of_normal_response(image, good, cells, block, clip, hits=False)
    if not kept.any():
        return nothing
    counts = _block_sums(kept, edges)
    difference -= spread(_block_sums(np.where(kept, difference, 0), edges) / np.maximum(counts, 1), edges)
    values = np.where(kept, difference, np.float32(0))
    sums, pairs = np.empty((lags, lags)), np.empty((lags, lags), np.int64)
    lag_sums(values, kept, sums, pairs)
    covariances = 0.5 * sums / np.maximum(pairs, 1)
    covariances += covariances[0, 0] * _mean_loss(counts, lags, block)
    covariances[0, 0] /= truncation_factors(clip)[0] ** 2
    weights = np.where(used, counts, 0.0) / counts.sum()
    # of the very pixels that the noise is of: clipped means of blocks leave out dust, which has less of both
    level = 0.5 * float(first[kept].mean(dtype=np.float64) + second[kept].mean(dtype=np.float64))
    return PairStatistics(
        level,
        covariances,
        _errors(covariances, pairs),
        float(np.nansum(weights * 0.5 * (ratio + 1 / ratio))),
        int(kept.sum()),
        float(1 - kept.sum() / good.sum()),
    )


def _without_outliers(
    difference: np.ndarray, good: np.ndarray, edges: tuple[np.ndarray, np.ndarray], clip: float, block: int
) -> np.ndarray:
    """Good pixels without outliers and their eight neighbours: a cosmic ray's edges are fainter.

    Tracks of which no pixel stands out are taken by sums along lines: they would add to the covariances what
    brighter-fatter does in an amplifier.
    """
    from scipy import ndimage

    binned: BinnedImage = binned_statistics(difference, (block, block), good, n_sigma=clip)
    centre, width = spread(binned.mean, edges), spread(binned.width, edges)
    with np.errstate(invalid="ignore", divide="ignore"):
        pulls = np.where(good & (width > 0), (difference - centre) / width, np.float32(0))
    # a width of NaN, of a block without enough pixels, lets nothing through
    far = good & ~(np.abs(difference - centre) <= clip * width)
    pulls[far] = 0
    for line in _LINES:
        loud = np.abs(ndimage.correlate(pulls, line, mode="constant")) > _TRACK * math.sqrt(line.sum())
        if loud.any():
            far |= good & ndimage.binary_dilation(loud, line > 0)
    if far.any():
        far = ndimage.binary_dilation(far, np.ones((3, 3), bool))
    return good & ~far


def _interpolated(blocks: np.ndarray, edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Values at the middles of blocks at all pixels, float32: bilinear, carried on to the edges."""
    rows, columns = (_line_weights(each) for each in edges)
    return rows @ blocks.astype(np.float32) @ columns.T


def _line_weights(edges: np.ndarray) -> np.ndarray:
    """Weights of the blocks of a line at its pixels, shape (pixels, blocks), float32."""
    middles = 0.5 * (edges[:-1] + edges[1:] - 1)
    pixels = np.arange(edges[-1])
    weights = np.zeros((pixels.size, middles.size), np.float32)
    if middles.size == 1:
        weights[:] = 1
        return weights
    place = np.clip(np.searchsorted(middles, pixels) - 1, 0, middles.size - 2)
    share = (pixels - middles[place]) / (middles[place + 1] - middles[place])
    weights[pixels, place] = 1 - share
    weights[pixels, place + 1] = share
    return weights


def _block_sums(values: np.ndarray, edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    rows = np.add.reduceat(values, edges[0][:-1], axis=0, dtype=np.float64)
    return np.add.reduceat(rows, edges[1][:-1], axis=1)


def _mean_loss(counts: np.ndarray, lags: int, block: int) -> np.ndarray:
    """Share of the variance that subtracting the means of blocks takes from each covariance.

    A block of n pixels loses 1 / n of the variance at every lag, but only in pairs that lie in one block.
    """
    inside = np.maximum(1 - np.arange(lags) / block, 0)
    return (counts > 0).sum() / counts.sum() * inside[:, None] * inside[None, :]


def _errors(covariances: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Standard errors by Bartlett's formula: noise of neighbours that correlate averages more slowly."""
    correlation = covariances / covariances[0, 0]
    pairs = np.maximum(pairs, 1)
    noise = 1 / pairs
    multiplicity = np.full(pairs.shape, 4.0)
    multiplicity[0, :] = multiplicity[:, 0] = 2.0
    multiplicity[0, 0] = 0.0
    # the noise of the measured correlations is no correlation
    memory = 1 + max(float((multiplicity * (correlation**2 - noise)).sum()), 0.0)
    variance = noise * memory
    variance[0, 0] *= 2
    return covariances[0, 0] * np.sqrt(variance)
