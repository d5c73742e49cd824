"""Basic Statistics (LDM-151 9.5): robust statistics of samples and of images, with their errors.

Samples may have any shape and are treated as one list; values that are not finite, or where `good` is False,
do not count. What cannot be computed (no values) is NaN. Results are float64 in the unit of the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.geometry import Box

MAD_TO_SIGMA = 1.482602218505602
"""Standard deviation of a Gaussian over its median absolute deviation: 1 / Phi^-1(3/4)."""

_SQRT_HALF_PI = math.sqrt(math.pi / 2)


@dataclass(frozen=True)
class ClippedStatistics:
    """Statistics of what is left after sigma clipping.

    `width` is the standard deviation of the Gaussian of which the kept values are the untruncated part, and
    the errors are those of a Gaussian sample clipped at the same place.
    """

    mean: float
    median: float
    width: float
    count: int
    mean_error: float
    median_error: float


@dataclass(frozen=True, eq=False)
class BinnedImage:
    """Clipped statistics of the blocks of an image; each array has shape (n_block_y, n_block_x).

    `x` and `y` (shapes (n_block_x,), (n_block_y,)) are the centres of the blocks in the parent frame [pixel].
    """

    mean: np.ndarray
    median: np.ndarray
    width: np.ndarray
    count: np.ndarray
    mean_error: np.ndarray
    median_error: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Coefficients, shape (m,), their covariance, shape (m, m), and which of the n values were used."""

    coefficients: np.ndarray
    covariance: np.ndarray
    used: np.ndarray
    width: float


def finite_values(values: np.ndarray, good: np.ndarray | None = None) -> np.ndarray:
    """The values that count, as a new 1-D float32 or float64 array."""
    values = np.asarray(values)
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    where = np.isfinite(values)
    if good is not None:
        if np.shape(good) != values.shape:
            raise ValueError(f"values have shape {values.shape}, good has shape {np.shape(good)}")
        where &= good
    return values[where]


def median(values: np.ndarray, good: np.ndarray | None = None) -> float:
    """Median; the mean of the two middle values when their number is even."""
    sample = finite_values(values, good)
    return median_of(sample, sample.size)


def mad_width(values: np.ndarray, good: np.ndarray | None = None, centre: float | None = None) -> float:
    """Robust width: 1.4826 times the median absolute deviation from the median (or from `centre`)."""
    sample = finite_values(values, good)
    if centre is None:
        centre = median_of(sample, sample.size)
    deviation = np.abs(sample - sample.dtype.type(centre))
    return MAD_TO_SIGMA * median_of(deviation, deviation.size)


def clipped(
    values: np.ndarray, good: np.ndarray | None = None, n_sigma: float = 3.0, iterations: int = 10
) -> ClippedStatistics:
    """Statistics of the values within `n_sigma` widths of the median, repeated until nothing more is clipped.

    The first width is the MAD's; afterwards it is the standard deviation of the kept values over that of a
    Gaussian truncated at `n_sigma`, without which each round would clip more of a clean sample.

    Parameters
    ----------
    values, good : ndarray of one shape
    n_sigma : float
        Infinite for no clipping.
    iterations : int
        Most rounds of clipping.
    """
    _check_clipping(n_sigma, iterations)
    sample = finite_values(values, good)
    ratio, error_factor = truncation_factors(n_sigma)
    mean, middle, width, count = clip_about_median(sample, sample.size, n_sigma, iterations, ratio)
    root = math.sqrt(count) if count else math.nan
    return ClippedStatistics(
        mean, middle, width, count, error_factor * width / root, _SQRT_HALF_PI * width / root
    )


def weighted_mean(
    values: np.ndarray, variances: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """Weighted mean and its standard error from the variances.

    Parameters
    ----------
    values, variances : ndarray of one shape
        Values that are not finite, or whose variance is not positive and finite, do not count.
    weights : ndarray of the same shape, optional
        1 / variances unless given; negative weights raise ValueError.
    """
    values, variances = np.asarray(values, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    where = np.isfinite(values) & np.isfinite(variances) & (variances > 0)
    values, variances = values[where], variances[where]
    weights = 1 / variances if weights is None else np.asarray(weights, dtype=np.float64)[where]
    if (weights < 0).any():
        raise ValueError(f"weights must not be negative, got {weights.min()}")
    total = weights.sum()
    if not total > 0:
        return math.nan, math.nan
    return float((weights * values).sum() / total), float(np.sqrt((weights**2 * variances).sum()) / total)


def weighted_percentile(
    values: np.ndarray, weights: np.ndarray, percent: float | np.ndarray
) -> float | np.ndarray:
    """Percentiles of weighted values, in the shape of `percent`.

    Each value stands at the middle of its own share of the total weight, and between values the percentile is
    linear (Hazen's definition, when the weights are equal). Values of weight 0 or that are not finite do not
    count.
    """
    values, weights = np.broadcast_arrays(np.asarray(values, dtype=np.float64), weights)
    where = np.isfinite(values) & (weights > 0)
    values, weights = values[where], weights[where].astype(np.float64)
    if not values.size:
        return np.full(np.shape(percent), np.nan)[()]
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    places = (np.cumsum(weights) - 0.5 * weights) / weights.sum()
    return np.interp(np.asarray(percent) / 100, places, values)[()]


def biweight(values: np.ndarray, good: np.ndarray | None = None) -> tuple[float, float]:
    """Biweight location (tuning constant 6) and scale (9) of Beers, Flynn and Gebhardt 1990, equations 5 and
    9.

    With a MAD of zero: the median and 0.
    """
    sample = finite_values(values, good).astype(np.float64)
    middle = median_of(sample, sample.size)
    offset = sample - middle
    mad = median_of(np.abs(offset), offset.size)
    if not mad > 0:
        return middle, mad
    inside = np.maximum(1 - (offset / (6 * mad)) ** 2, 0) ** 2
    location = middle + float((offset * inside).sum() / inside.sum())
    u2 = (offset / (9 * mad)) ** 2
    u2, offset = u2[u2 < 1], offset[u2 < 1]
    numerator = math.sqrt(sample.size * float((offset**2 * (1 - u2) ** 4).sum()))
    return location, numerator / abs(float(((1 - u2) * (1 - 5 * u2)).sum()))


def clipped_linear_fit(
    design: np.ndarray,
    values: np.ndarray,
    variances: np.ndarray | None = None,
    n_sigma: float = 4.0,
    iterations: int = 10,
) -> LinearFit:
    """Least squares with clipping: lines, planes or any model linear in its coefficients.

    Parameters
    ----------
    design : ndarray, shape (n, m)
        For a plane the columns 1, x, y.
    values : ndarray, shape (n,)
    variances : ndarray, shape (n,), optional
        Without them all values weigh the same and the covariance follows from the scatter.
    n_sigma : float
        Residuals beyond `n_sigma` robust widths (in units of their errors) are left out and the fit is
        repeated.

    Returns
    -------
    LinearFit
        `width` is the robust width of the used residuals (in units of their errors, if there are variances).

    Raises
    ------
    ValueError
        When fewer values than coefficients are left, or the design does not determine them.
    """
    _check_clipping(n_sigma, iterations)
    design, values = np.asarray(design, dtype=np.float64), np.asarray(values, dtype=np.float64)
    sigma = np.ones(values.shape) if variances is None else np.sqrt(np.asarray(variances, dtype=np.float64))
    possible = np.isfinite(values) & np.isfinite(design).all(axis=1) & np.isfinite(sigma) & (sigma > 0)
    used = possible
    for _ in range(iterations + 1):
        coefficients, inverse = _least_squares(design[used], values[used], sigma[used])
        pull = np.full(values.shape, np.inf)
        pull[possible] = (values[possible] - design[possible] @ coefficients) / sigma[possible]
        width = mad_width(pull[used], centre=0.0)
        # the least width keeps a fit that is exact to rounding from clipping its own rounding errors
        floor = 8 * np.finfo(np.float64).eps * np.abs(values[used] / sigma[used]).max()
        kept = possible & (np.abs(pull) <= n_sigma * max(width, floor))
        if np.array_equal(kept, used):
            break
        used = kept
    scatter = 1.0
    if variances is None:
        scatter = (pull[used] ** 2).sum() / max(used.sum() - design.shape[1], 1)
    return LinearFit(coefficients, inverse * scatter, used, width)


def bootstrap_error(
    statistic: Callable[[np.ndarray], float | np.ndarray],
    values: np.ndarray,
    rng: np.random.Generator,
    n_resamples: int = 200,
) -> float | np.ndarray:
    """Standard error of a statistic by drawing the rows of `values` again with replacement.

    Parameters
    ----------
    statistic : callable
        From an array like `values` to a number or array.
    values : ndarray, shape (n, ...)
    rng : numpy.random.Generator
        The caller's, so that results can be repeated.
    """
    values = np.asarray(values)
    n = len(values)
    drawn = [statistic(values[rng.integers(0, n, n)]) for _ in range(n_resamples)]
    return np.std(drawn, axis=0, ddof=1)[()]


def binned_statistics(
    image: np.ndarray,
    block: tuple[int, int],
    good: np.ndarray | None = None,
    n_sigma: float = 3.0,
    iterations: int = 10,
    box: Box | None = None,
) -> BinnedImage:
    """Clipped statistics of each block of an image.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    block : (int, int)
        Height and width of a block [pixel]. What is left at the upper and right edges makes smaller blocks.
    good : ndarray of bool, shape (ny, nx), optional
        False where a pixel must not count; pixels that are not finite never do.
    box : Box, optional
        Place of the image in the parent frame; its origin is (0, 0) without.
    """
    _check_clipping(n_sigma, iterations)
    image = np.asarray(image, dtype=np.float32)
    good = np.ones(image.shape, dtype=bool) if good is None else np.asarray(good, dtype=bool)
    if good.shape != image.shape or image.ndim != 2:
        raise ValueError(f"image has shape {image.shape}, good has shape {good.shape}; both must be (ny, nx)")
    y_edges, x_edges = block_edges(image.shape[0], block[0]), block_edges(image.shape[1], block[1])
    ratio, error_factor = truncation_factors(n_sigma)
    shape = (y_edges.size - 1, x_edges.size - 1)
    mean, middle, width = np.empty(shape), np.empty(shape), np.empty(shape)
    count = np.empty(shape, dtype=np.int64)
    clip_blocks(image, good, y_edges, x_edges, n_sigma, iterations, ratio, mean, middle, width, count)
    error = np.divide(width, np.sqrt(count), out=np.full(shape, np.nan), where=count > 0)
    x0, y0 = (box.x0, box.y0) if box else (0, 0)
    return BinnedImage(
        mean,
        middle,
        width,
        count,
        error_factor * error,
        _SQRT_HALF_PI * error,
        x0 + 0.5 * (x_edges[:-1] + x_edges[1:] - 1),
        y0 + 0.5 * (y_edges[:-1] + y_edges[1:] - 1),
    )


def block_edges(size: int, block: int) -> np.ndarray:
    """First pixels of the blocks of a line of `size` pixels, and `size`; int64, shape (n_block + 1,)."""
    if block < 1:
        raise ValueError(f"a block must be at least 1 pixel, got {block}")
    return np.append(np.arange(0, size, block), size).astype(np.int64)


def truncation_factors(n_sigma: float) -> tuple[float, float]:
    """What clipping at `n_sigma` does to a Gaussian.

    Returns
    -------
    ratio : float
        Standard deviation of the kept values over the Gaussian's.
    error_factor : float
        Standard error of the mean of the n kept values, times sqrt(n), over the Gaussian's standard
        deviation. Above 1 as the limits follow the sample's median: the influence function of the mean within
        n_sigma of the median is (x [|x| < k] + 2 k phi(k) sqrt(pi/2) sign(x)) / P, with P the kept fraction.
    """
    if math.isinf(n_sigma):
        return 1.0, 1.0
    kept = math.erf(n_sigma / math.sqrt(2))
    edge = 2 * n_sigma * math.exp(-0.5 * n_sigma**2) / math.sqrt(2 * math.pi)
    inside = kept - edge
    mean_absolute = (1 - math.exp(-0.5 * n_sigma**2)) / _SQRT_HALF_PI
    pull = edge * _SQRT_HALF_PI
    variance = (inside + 2 * pull * mean_absolute + pull**2) / kept**2
    return math.sqrt(inside / kept), math.sqrt(variance * kept)


def _check_clipping(n_sigma: float, iterations: int) -> None:
    if not n_sigma >= 1 or iterations < 0:
        raise ValueError(f"clipping needs n_sigma >= 1 and iterations >= 0, got {n_sigma} and {iterations}")


def _least_squares(
    design: np.ndarray, values: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and inverse normal matrix by QR of the weighted design with columns of unit length."""
    if len(design) < design.shape[1]:
        raise ValueError(f"{len(design)} values cannot determine {design.shape[1]} coefficients")
    weighted = design / sigma[:, None]
    scale = np.sqrt((weighted**2).sum(axis=0))
    scale[scale == 0] = 1
    q, r = np.linalg.qr(weighted / scale)
    diagonal = np.abs(np.diag(r))
    if diagonal.min() <= 1e-12 * diagonal.max():
        raise ValueError(f"the design, shape {design.shape}, does not determine its coefficients")
    inverse = np.linalg.inv(r) / scale[:, None]
    return inverse @ (q.T @ (values / sigma)), inverse @ inverse.T


@kernel("float64(float32[::1], int64, int64)", "float64(float64[::1], int64, int64)")
def select_kth(buffer, n, k):
    """The k-th smallest (from 0) of the first n values, which are reordered (Hoare's selection)."""
    low, high = 0, n - 1
    while high > low:
        # the median of three as pivot keeps sorted input from being quadratic
        middle = (low + high) // 2
        if buffer[middle] < buffer[low]:
            buffer[middle], buffer[low] = buffer[low], buffer[middle]
        if buffer[high] < buffer[low]:
            buffer[high], buffer[low] = buffer[low], buffer[high]
        if buffer[high] < buffer[middle]:
            buffer[high], buffer[middle] = buffer[middle], buffer[high]
        pivot = buffer[middle]
        i, j = low, high
        while i <= j:
            while buffer[i] < pivot:
                i += 1
            while pivot < buffer[j]:
                j -= 1
            if i <= j:
                buffer[i], buffer[j] = buffer[j], buffer[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return buffer[k]


@kernel("float64(float32[::1], int64)", "float64(float64[::1], int64)")
def median_of(buffer, n):
    """Median of the first n values, which must be finite and are reordered; NaN when n is 0."""
    if n == 0:
        return np.nan
    upper = select_kth(buffer, n, n // 2)
    if n % 2 == 1:
        return upper
    # everything before the place n // 2 is not above it after the selection
    lower = buffer[0]
    for i in range(1, n // 2):
        if buffer[i] > lower:
            lower = buffer[i]
    return 0.5 * (np.float64(lower) + upper)


@kernel("float64(const(float32[::1]), int64)", "float64(const(float64[::1]), int64)")
def standard_deviation(buffer, n):
    """Sample standard deviation (n - 1) of the first n values; NaN for fewer than two."""
    if n < 2:
        return np.nan
    mean = 0.0
    for i in range(n):
        mean += buffer[i]
    mean /= n
    squares = 0.0
    for i in range(n):
        squares += (buffer[i] - mean) ** 2
    return np.sqrt(squares / (n - 1))


@kernel(
    "Tuple((float64, float64, float64, int64))(float32[::1], int64, float64, int64, float64)",
    "Tuple((float64, float64, float64, int64))(float64[::1], int64, float64, int64, float64)",
)
def clip_about_median(buffer, n, n_sigma, iterations, ratio):
    """Sigma clipping of the first n values, which must be finite; those kept are moved to the front.

    `ratio` is the first of `truncation_factors`. Returns mean, median, width and count.
    """
    if n == 0:
        return np.nan, np.nan, np.nan, 0
    middle = median_of(buffer, n)
    clipping = iterations > 0 and n > 2 and n_sigma < np.inf
    if clipping:
        deviation = np.empty(n, dtype=np.float64)
        for i in range(n):
            deviation[i] = abs(buffer[i] - middle)
        width = MAD_TO_SIGMA * median_of(deviation, n)
        if not width > 0:
            # more than half of the values are equal, and the MAD says nothing
            width = standard_deviation(buffer, n)
    for _ in range(iterations if clipping else 0):
        if not width > 0:
            break
        kept = 0
        for i in range(n):
            if abs(buffer[i] - middle) <= n_sigma * width:
                # swapped, not overwritten: the caller's sample stays complete
                buffer[kept], buffer[i] = buffer[i], buffer[kept]
                kept += 1
        if kept == n:
            break
        n = kept
        middle = median_of(buffer, n)
        width = standard_deviation(buffer, n) / ratio
    mean = 0.0
    for i in range(n):
        mean += buffer[i]
    width = standard_deviation(buffer, n)
    return mean / n, middle, width / ratio if clipping else width, n


@kernel(
    "void(const(float32[:, :]), const(boolean[:, :]), const(int64[::1]), const(int64[::1]), float64, int64,"
    " float64, float64[:, ::1], float64[:, ::1], float64[:, ::1], int64[:, ::1])"
)
def clip_blocks(image, good, y_edges, x_edges, n_sigma, iterations, ratio, mean, middle, width, count):
    """`clip_about_median` of each block."""
    largest_y, largest_x = 0, 0
    for i in range(y_edges.size - 1):
        largest_y = max(largest_y, y_edges[i + 1] - y_edges[i])
    for j in range(x_edges.size - 1):
        largest_x = max(largest_x, x_edges[j + 1] - x_edges[j])
    buffer = np.empty(largest_y * largest_x, dtype=np.float32)
    for i in range(y_edges.size - 1):
        for j in range(x_edges.size - 1):
            n = 0
            for y in range(y_edges[i], y_edges[i + 1]):
                for x in range(x_edges[j], x_edges[j + 1]):
                    if good[y, x] and np.isfinite(image[y, x]):
                        buffer[n] = image[y, x]
                        n += 1
            mean[i, j], middle[i, j], width[i, j], count[i, j] = clip_about_median(
                buffer, n, n_sigma, iterations, ratio
            )
