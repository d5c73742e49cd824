"""Data quality metrics (LDM-151 6.1): measurements compared with truth, and the errors of the comparison.

Pure functions of arrays and DataFrames (schemas SOURCE and SOURCE_TRUTH). Pixels are 0-based in the parent
frame, positions ICRS degrees, position residuals mas, fluxes nJy. A *width* is 1.48 times the median absolute
deviation. Standard errors come from a bootstrap over objects: all measurements of an object are drawn
together, since they share its faults.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.statistics import mad_width, median

if TYPE_CHECKING:
    import pandas as pd

MAS_PER_DEGREE = 3.6e6
ARCSEC_PER_DEGREE = 3600.0

PSF_AREA_PER_FWHM2 = 4 * math.pi / (8 * math.log(2))
"""Noise-equivalent area of a Gaussian PSF, 4 pi sigma^2, over the square of its FWHM."""

CORE_FLAGS = ("crCenter", "interpolatedCenter", "saturatedCenter", "suspectCenter", "offimage")
"""``pixelFlags_*`` of the core that a clean source does not have."""

FOOTPRINT_FLAGS = ("bad", "edge", "nodata")
"""``pixelFlags_*`` known of the whole footprint only: a clean source does not have these either."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error.

    `n` counts the measurements that it is made of and `n_objects` the independent objects among them. What
    cannot be computed is NaN.
    """

    value: float
    standard_error: float
    n: int
    n_objects: int


@dataclass(frozen=True)
class Bootstrap:
    """How standard errors are drawn."""

    resamples: int = 200
    """Samples drawn; the standard error is then good to 1 / sqrt(2 resamples)."""

    most_objects: int = 5000
    """With more objects, the error of so many is scaled by 1 / sqrt(n): it saves time, not accuracy."""

    seed: int = 0
    """Together with a row's name, the seed of its random numbers."""

    def rng(self, name: str) -> np.random.Generator:
        """Random numbers of one row; other rows have no influence on them."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])


# --- matching -----------------------------------------------------------------------------------------------


def match_one_to_one(
    x: np.ndarray,
    y: np.ndarray,
    truth_x: np.ndarray,
    truth_y: np.ndarray,
    brightness: np.ndarray,
    radius: float,
) -> np.ndarray:
    """Give each true object its nearest source that is still free, brightest objects first.

    Parameters
    ----------
    x, y : ndarray, shape (n,) [pixel]
        Sources of one detector; those that are not finite match nothing.
    truth_x, truth_y, brightness : ndarray, shape (m,)
        True objects of the same detector.
    radius : float
        Farthest match [pixel].

    Returns
    -------
    ndarray of int64, shape (n,)
        Index of the true object of each source; -1 for none.
    """
    matched = np.full(len(x), -1, np.int64)
    pairs = _pairs_within(x, y, truth_x, truth_y, radius)
    if not len(pairs):
        return matched
    source, true = pairs[:, 0], pairs[:, 1]
    distance = np.hypot(x[source] - truth_x[true], y[source] - truth_y[true])
    order = np.lexsort((source, distance, true, -brightness[true]))
    taken: set[int] = set()
    for s, t in pairs[order].tolist():
        if matched[s] < 0 and t not in taken:
            matched[s] = t
            taken.add(t)
    return matched


def match_sources(sources: pd.DataFrame, truth: pd.DataFrame, radius: float) -> np.ndarray:
    """`match_one_to_one` in every visit-detector.

    Parameters
    ----------
    sources : DataFrame with visit, detector, x, y
    truth : DataFrame with visit, detector, x, y, electrons
    radius : float
        [pixel]

    Returns
    -------
    ndarray of int64, shape (len(sources),)
        Row number in `truth`; -1 for none.
    """
    matched = np.full(len(sources), -1, np.int64)
    x, y = _columns(sources, "x", "y")
    truth_x, truth_y, brightness = _columns(truth, "x", "y", "electrons")
    for found, true in _shared_units(sources, truth):
        near = match_one_to_one(x[found], y[found], truth_x[true], truth_y[true], brightness[true], radius)
        matched[found[near >= 0]] = true[near[near >= 0]]
    return matched


def nearest_truth(sources: pd.DataFrame, truth: pd.DataFrame, radius: float) -> np.ndarray:
    """Row number of the true object nearest to each source within `radius` [pixel], -1 for none.

    Several sources may have the same object: a source is false only when it has none at all.
    """
    from scipy.spatial import cKDTree

    nearest = np.full(len(sources), -1, np.int64)
    x, y = _columns(sources, "x", "y")
    truth_x, truth_y = _columns(truth, "x", "y")
    for found, true in _shared_units(sources, truth):
        found = found[np.isfinite(x[found]) & np.isfinite(y[found])]
        tree = cKDTree(np.stack([truth_x[true], truth_y[true]], axis=1))
        distance, index = tree.query(np.stack([x[found], y[found]], axis=1), distance_upper_bound=radius)
        near = np.isfinite(distance)
        nearest[found[near]] = true[index[near]]
    return nearest


def _pairs_within(
    x: np.ndarray, y: np.ndarray, truth_x: np.ndarray, truth_y: np.ndarray, radius: float
) -> np.ndarray:
    """All (source, true object) within the radius, shape (n, 2)."""
    from scipy.spatial import cKDTree

    usable = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if not usable.size or not len(truth_x):
        return np.empty((0, 2), np.int64)
    sources = cKDTree(np.stack([x[usable], y[usable]], axis=1))
    objects = cKDTree(np.stack([truth_x, truth_y], axis=1))
    pairs = sources.sparse_distance_matrix(objects, radius, output_type="ndarray")
    return np.stack([usable[pairs["i"]], pairs["j"]], axis=1).astype(np.int64)


def _shared_units(sources: pd.DataFrame, truth: pd.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers in both tables for each visit-detector that both have."""
    true_rows = unit_rows(truth)
    for unit, found in unit_rows(sources).items():
        if unit in true_rows:
            yield found, true_rows[unit]


def unit_rows(table: pd.DataFrame) -> dict[tuple[int, int], np.ndarray]:
    """Row numbers of each (visit, detector) of a table, in the order of the units."""
    visit, detector = table["visit"].to_numpy(), table["detector"].to_numpy()
    order = np.lexsort((np.arange(len(table)), detector, visit))
    first = np.r_[True, (np.diff(visit[order]) != 0) | (np.diff(detector[order]) != 0)][: len(table)]
    starts = np.flatnonzero(first)
    keys = [(int(visit[order[s]]), int(detector[order[s]])) for s in starts]
    return dict(zip(keys, np.split(order, starts[1:])))


def _columns(table: pd.DataFrame, *names: str) -> list[np.ndarray]:
    return [table[name].to_numpy(np.float64) for name in names]


# --- comparison ---------------------------------------------------------------------------------------------


def perfect_completeness(snr: np.ndarray, threshold: float) -> np.ndarray:
    """Probability that a perfect detector at `threshold` sigma finds point sources of true S/N `snr`."""
    from scipy.special import ndtr

    return ndtr(np.asarray(snr, np.float64) - threshold)


def position_residuals(
    ra: np.ndarray, dec: np.ndarray, true_ra: np.ndarray, true_dec: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measured minus true position [mas] along ra (times cos dec) and dec; all angles in degrees.

    The residual in ra holds for separations of arcseconds.
    """
    d_ra = np.remainder(np.asarray(ra, np.float64) - true_ra + 180.0, 360.0) - 180.0
    d_dec = np.asarray(dec, np.float64) - true_dec
    return d_ra * np.cos(np.radians(true_dec)) * MAS_PER_DEGREE, d_dec * MAS_PER_DEGREE


def relative_flux_residuals(flux: np.ndarray, true_flux: np.ndarray) -> np.ndarray:
    """Measured over true flux, minus 1."""
    return np.asarray(flux, np.float64) / np.asarray(true_flux, np.float64) - 1.0


def clean(sources: pd.DataFrame, full_well_fraction: np.ndarray | None = None) -> np.ndarray:
    """Sources with no mask plane but DETECTED in the core and, where truth tells, a peak below half of full
    well.

    Planes whose flag is known of the whole footprint only count as if they were in the core: the sample is
    then smaller than its definition, not less clean.
    """
    good = ~sources["centroid_flag"].to_numpy(bool)
    for name in CORE_FLAGS + FOOTPRINT_FLAGS:
        good &= ~sources[f"pixelFlags_{name}"].to_numpy(bool)
    return good if full_well_fraction is None else good & (full_well_fraction < 0.5)


def crowded(n_stars: np.ndarray, fwhm: np.ndarray, n_pixels: np.ndarray) -> np.ndarray:
    """Whether there is at least one star of S/N > 5 per 15 PSF areas.

    Parameters
    ----------
    n_stars : ndarray
        Stars of true S/N > 5 on each detector.
    fwhm : ndarray [pixel]
        A PSF area is the noise-equivalent area of a Gaussian of this FWHM.
    n_pixels : ndarray
        Pixels of each detector.
    """
    return n_stars * 15 * PSF_AREA_PER_FWHM2 * np.square(fwhm) >= n_pixels


# --- figures and their errors -------------------------------------------------------------------------------


def tail_fraction(pulls: np.ndarray) -> float:
    """Fraction beyond 5 of the quoted sigmas."""
    return float(np.mean(np.abs(pulls) > 5)) if len(pulls) else math.nan


def estimate(
    statistic: Callable[..., float],
    objects: np.ndarray,
    columns: Sequence[np.ndarray],
    rng: np.random.Generator,
    bootstrap: Bootstrap,
) -> Estimate:
    """A statistic of measurements, with its bootstrap standard error over objects.

    Parameters
    ----------
    statistic : callable
        `statistic(*columns) -> float`.
    objects : ndarray of int, shape (n,)
        The object of each measurement.
    columns : sequence of ndarray, shape (n,)
        Rows with anything not finite do not count.
    """
    columns = [np.asarray(column, np.float64) for column in columns]
    finite = np.logical_and.reduce([np.isfinite(column) for column in columns])
    columns, objects = [column[finite] for column in columns], np.asarray(objects)[finite]
    if not objects.size:
        return Estimate(math.nan, math.nan, 0, 0)
    order, offsets = _grouped(objects)
    columns = [column[order] for column in columns]
    error = _bootstrap_error(statistic, offsets, columns, rng, bootstrap)
    return Estimate(float(statistic(*columns)), error, objects.size, len(offsets) - 1)


def estimate_ratio(
    numerator: np.ndarray,
    denominator: np.ndarray,
    objects: np.ndarray,
    rng: np.random.Generator,
    bootstrap: Bootstrap,
) -> Estimate:
    """Sum over sum, with its bootstrap standard error over objects (NaN for a single object)."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if not numerator.size or not denominator.sum() > 0:
        return Estimate(math.nan, math.nan, numerator.size, 0)
    order, offsets = _grouped(np.asarray(objects))
    above = np.add.reduceat(numerator[order], offsets[:-1])
    below = np.add.reduceat(denominator[order], offsets[:-1])
    value, n = float(above.sum() / below.sum()), above.size
    if n < 2:
        return Estimate(value, math.nan, numerator.size, n)
    if n > bootstrap.most_objects:
        keep = rng.choice(n, bootstrap.most_objects, replace=False)
        above, below = above[keep], below[keep]
    counts = rng.multinomial(above.size, np.full(above.size, 1 / above.size), bootstrap.resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (counts @ above) / (counts @ below)
    error = float(np.std(ratios[np.isfinite(ratios)], ddof=1)) * math.sqrt(above.size / n)
    return Estimate(value, error, numerator.size, n)


def estimate_fraction(
    hit: np.ndarray, objects: np.ndarray, rng: np.random.Generator, bootstrap: Bootstrap
) -> Estimate:
    """Fraction of measurements that are `hit`.

    The error is at least that of Agresti and Coull 1998 (two successes and two failures added): when all or
    none are hit the bootstrap knows no error at all.
    """
    hit = np.asarray(hit, bool)
    plain = estimate_ratio(hit, np.ones(hit.size), objects, rng, bootstrap)
    if not plain.n_objects:
        return plain
    n = plain.n_objects
    p = (plain.value * n + 2) / (n + 4)
    floor = math.sqrt(p * (1 - p) / (n + 4))
    return Estimate(plain.value, max(floor, np.nan_to_num(plain.standard_error)), plain.n, n)


def estimate_rate(
    counts: np.ndarray, areas: np.ndarray, rng: np.random.Generator, bootstrap: Bootstrap
) -> Estimate:
    """Events per area, from counts on independent pieces.

    The error is at least sqrt(N + 1) / area: pieces without any event still do not show a rate of zero. `n`
    counts the events, `n_objects` the pieces.
    """
    plain = estimate_ratio(counts, areas, np.arange(len(counts)), rng, bootstrap)
    if not plain.n_objects:
        return plain
    total = int(np.sum(counts))
    floor = math.sqrt(total + 1) / float(np.sum(areas))
    return Estimate(plain.value, max(floor, np.nan_to_num(plain.standard_error)), total, plain.n_objects)


def _grouped(objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order that brings each object's rows together, and where each begins (with the end)."""
    order = np.argsort(objects, kind="stable")
    ordered = objects[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return order, np.r_[starts, objects.size]


def _bootstrap_error(
    statistic: Callable[..., float],
    offsets: np.ndarray,
    columns: Sequence[np.ndarray],
    rng: np.random.Generator,
    bootstrap: Bootstrap,
) -> float:
    n = len(offsets) - 1
    if n < 2:
        return math.nan
    pool = np.arange(n)
    if n > bootstrap.most_objects:
        pool = rng.choice(n, bootstrap.most_objects, replace=False)
    values = []
    for _ in range(bootstrap.resamples):
        rows = _rows_of(pool[rng.integers(0, pool.size, pool.size)], offsets)
        values.append(statistic(*(column[rows] for column in columns)))
    values = np.asarray(values)[np.isfinite(values)]
    return float(np.std(values, ddof=1)) * math.sqrt(pool.size / n) if values.size > 1 else math.nan


def _rows_of(chosen: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rows of the chosen objects, one after the other."""
    lengths = offsets[chosen + 1] - offsets[chosen]
    ends = np.cumsum(lengths)
    return np.repeat(offsets[chosen] - (ends - lengths), lengths) + np.arange(ends[-1])


# --- bins ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Rows with low <= value < high."""

    low: float
    high: float
    rows: np.ndarray

    @property
    def label(self) -> str:
        """Such as ``5-10`` or ``>200``."""
        return f">{self.low:g}" if math.isinf(self.high) else f"{self.low:g}-{self.high:g}"


def bins_of(values: np.ndarray, edges: Sequence[float]) -> list[Bin]:
    """Rows of each bin of ascending edges, the empty ones too; the last bin ends at infinity."""
    place = np.digitize(values, edges) - 1
    return [
        Bin(low, high, np.flatnonzero(place == i))
        for i, (low, high) in enumerate(zip(edges, [*edges[1:], math.inf]))
    ]


def merged_bins(values: np.ndarray, objects: np.ndarray, edges: Sequence[float], least: int) -> list[Bin]:
    """`bins_of`, with neighbours merged until each bin holds at least `least` different objects.

    Merging goes upwards; a remainder at the top joins the bin below it. When there are fewer objects in all,
    the one bin holds them, and its size tells.
    """
    merged: list[Bin] = []
    waiting: Bin | None = None
    for item in bins_of(values, edges):
        waiting = item if waiting is None else _joined(waiting, item)
        if np.unique(objects[waiting.rows]).size >= least:
            merged.append(waiting)
            waiting = None
    if waiting is not None and waiting.rows.size:
        merged[-1:] = [_joined(merged[-1], waiting)] if merged else [waiting]
    elif waiting is not None and merged:
        merged[-1] = _joined(merged[-1], waiting)
    return merged


def _joined(first: Bin, second: Bin) -> Bin:
    return Bin(first.low, second.high, np.concatenate([first.rows, second.rows]))


# --- repeatability ------------------------------------------------------------------------------------------


def group_by_position(ra: np.ndarray, dec: np.ndarray, radius_arcsec: float) -> np.ndarray:
    """Group numbers of positions linked by steps of at most `radius_arcsec` (friends of friends).

    Parameters
    ----------
    ra, dec : ndarray, shape (n,) [deg]
        Finite.

    Returns
    -------
    ndarray of int, shape (n,)
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if not len(ra):
        return np.zeros(0, np.int64)
    phi, theta = np.radians(ra), np.radians(dec)
    where = np.stack([np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), np.sin(theta)], axis=1)
    chord = 2 * math.sin(math.radians(radius_arcsec / ARCSEC_PER_DEGREE) / 2)
    pairs = cKDTree(where).query_pairs(chord, output_type="ndarray")
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(ra), len(ra)))
    return connected_components(links, directed=False)[1].astype(np.int64)


def deviations_from_mean(
    values: np.ndarray, variances: np.ndarray, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Deviation of each measurement from its object's mean, stretched to the scatter of a single one.

    Parameters
    ----------
    values, variances : ndarray, shape (n,)
    objects : ndarray of int, shape (n,)

    Returns
    -------
    deviation, variance : ndarray, shape (n,)
        Stretched by sqrt(k / (k - 1)) for k measurements, with the variance expected of that; NaN for k = 1.
    """
    _, index, count = np.unique(objects, return_inverse=True, return_counts=True)
    k = count[index].astype(np.float64)
    mean = np.bincount(index, values) / count
    total = np.bincount(index, variances)[index]
    with np.errstate(divide="ignore", invalid="ignore"):
        stretch = np.where(k > 1, k / (k - 1), np.nan)
        # of value - mean: v_i (1 - 2 / k) + sum(v) / k^2
        variance = stretch * (variances * (1 - 2 / k) + total / k**2)
    return (values - mean[index]) * np.sqrt(stretch), variance


def excess_scatter(deviations: np.ndarray, variances: np.ndarray) -> float:
    """Scatter beyond that of the variances: the s for which deviation / sqrt(variance + s^2) has unit width.

    Unlike a difference of mean squares this holds when the variances differ. Where the deviations are
    narrower than the variances say it is negative: minus the root of the missing variance.

    Parameters
    ----------
    deviations, variances : ndarray, shape (n,)
        In one unit and its square.
    """
    if not len(deviations):
        return math.nan
    plain = mad_width(deviations / np.sqrt(variances))
    if plain <= 1:
        return -math.sqrt((1 - plain**2) * median(variances))
    low, high = 0.0, mad_width(deviations) + float(np.sqrt(np.max(variances)))
    while mad_width(deviations / np.sqrt(variances + high**2)) > 1:
        high *= 2
    for _ in range(20):
        middle = 0.5 * (low + high)
        if mad_width(deviations / np.sqrt(variances + middle**2)) > 1:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
