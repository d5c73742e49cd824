"""Single Visit to Reference Catalog, Semi-Blind (LDM-151 8.24.2): sources of a visit and reference stars.

The shift between the header's WCS and the sky is found as the most frequent difference of position among all
pairs within the search radius, over the whole visit, so detectors with few stars are helped by the others.
The match is then the nearest pair that is nearest both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import poisson

from skyquilt.primitives.geometry import project_tangent


@dataclass(frozen=True)
class MatchConfig:
    """Search for the shift and the pairs."""

    search_radius: float = 30.0
    """Largest shift between header and sky that is looked for [arcsec]."""
    match_radius: float = 2.0
    """Largest distance of a pair once the shift is taken out [arcsec]."""
    min_matches: int = 3
    """Fewer pairs than this are no match."""
    brightest: int = 2000
    """Only that many of the brightest sources and reference stars vote for the shift."""
    max_chance: float = 0.01
    """A shift that unrelated positions would give with a larger probability is no match."""

    def __post_init__(self) -> None:
        if not (0 < self.match_radius <= self.search_radius < 3600):
            raise ValueError(
                "matching needs 0 < match_radius <= search_radius < 3600 arcsec, got "
                f"{self.match_radius} and {self.search_radius}"
            )
        if self.min_matches < 1 or self.brightest < 1 or not 0 < self.max_chance <= 1:
            raise ValueError("matching needs min_matches and brightest >= 1 and max_chance in 0..1")


@dataclass(frozen=True)
class ReferenceMatch:
    """Pairs of sources and reference stars.

    Parameters
    ----------
    source, reference : ndarray of int64, shape (n,)
        Row numbers of the pairs, by ascending source.
    shift_ra, shift_dec : float
        Median of source minus reference [arcsec], ra times cos(dec); NaN without pairs.
    scatter_ra, scatter_dec : float
        1.48 MAD about them [arcsec].
    residual_ra, residual_dec : ndarray, shape (n,)
        Source minus reference minus shift [arcsec].
    """

    source: np.ndarray
    reference: np.ndarray
    shift_ra: float
    shift_dec: float
    scatter_ra: float
    scatter_dec: float
    residual_ra: np.ndarray
    residual_dec: np.ndarray


def no_match() -> ReferenceMatch:
    """A match without pairs."""
    none = np.zeros(0, np.int64)
    return ReferenceMatch(none, none, np.nan, np.nan, np.nan, np.nan, np.zeros(0), np.zeros(0))


def match_reference(
    ra: np.ndarray,
    dec: np.ndarray,
    brightness: np.ndarray,
    reference_ra: np.ndarray,
    reference_dec: np.ndarray,
    reference_brightness: np.ndarray,
    config: MatchConfig,
) -> ReferenceMatch:
    """Match two lists of positions that may be shifted against each other.

    Parameters
    ----------
    ra, dec, reference_ra, reference_dec : ndarray of float64
        ICRS [deg]; rows that are not finite match nothing.
    brightness, reference_brightness : ndarray of float64
        Any flux: chooses who votes for the shift; NaN votes last.

    Returns
    -------
    ReferenceMatch
        Without pairs when fewer than `config.min_matches` are found.
    """
    sources = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    stars = np.flatnonzero(np.isfinite(reference_ra) & np.isfinite(reference_dec))
    if min(sources.size, stars.size) < config.min_matches:
        return no_match()
    centre = _mean_direction(ra[sources], dec[sources])
    x, y = _tangent_plane(ra[sources], dec[sources], *centre)
    u, v = _tangent_plane(reference_ra[stars], reference_dec[stars], *centre)
    near = _within(u, v, x, y, config.search_radius)
    stars, u, v = stars[near], u[near], v[near]
    if stars.size < config.min_matches:
        return no_match()
    voters = _brightest(brightness[sources], config.brightest)
    electors = _brightest(reference_brightness[stars], config.brightest)
    shift = _most_frequent_difference(
        np.column_stack([x[voters], y[voters]]), np.column_stack([u[electors], v[electors]]), config
    )
    if shift is None:
        return no_match()
    tree, other = (
        cKDTree(np.column_stack([u, v])),
        cKDTree(np.column_stack([x - shift[0], y - shift[1]])),
    )
    distance, partner = tree.query(other.data, distance_upper_bound=config.match_radius)
    _, back = other.query(tree.data)
    found = np.flatnonzero(np.isfinite(distance))
    found = found[back[partner[found]] == found]
    if found.size < config.min_matches:
        return no_match()
    dx, dy = x[found] - u[partner[found]], y[found] - v[partner[found]]
    mx, my = np.median(dx), np.median(dy)
    return ReferenceMatch(
        sources[found],
        stars[partner[found]],
        float(mx),
        float(my),
        float(1.4826 * np.median(np.abs(dx - mx))),
        float(1.4826 * np.median(np.abs(dy - my))),
        dx - mx,
        dy - my,
    )


def _tangent_plane(ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float) -> tuple[np.ndarray, np.ndarray]:
    """Gnomonic offsets east and north [arcsec] of positions [deg] from (ra0, dec0); NaN behind."""
    east, north = project_tangent(ra, dec, ra0, dec0)
    return 3600.0 * east, 3600.0 * north


def _mean_direction(ra: np.ndarray, dec: np.ndarray) -> tuple[float, float]:
    a, d = np.deg2rad(ra), np.deg2rad(dec)
    vector = np.array([np.mean(np.cos(d) * np.cos(a)), np.mean(np.cos(d) * np.sin(a)), np.mean(np.sin(d))])
    return (
        float(np.rad2deg(np.arctan2(vector[1], vector[0]))),
        float(np.rad2deg(np.arctan2(vector[2], np.hypot(vector[0], vector[1])))),
    )


def _within(u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray, margin: float) -> np.ndarray:
    inside_u = (u >= x.min() - margin) & (u <= x.max() + margin)
    return inside_u & (v >= y.min() - margin) & (v <= y.max() + margin)


def _brightest(brightness: np.ndarray, n: int) -> np.ndarray:
    """Indices of the n brightest, ties by order; NaN comes last."""
    order = np.argsort(-np.where(np.isfinite(brightness), brightness, -np.inf), kind="stable")
    return np.sort(order[:n])


def _most_frequent_difference(
    positions: np.ndarray, stars: np.ndarray, config: MatchConfig
) -> tuple[float, float] | None:
    """Difference positions - stars shared by the most pairs: densest cell of a grid, then medians around
    it."""
    tree = cKDTree(stars)
    pairs = tree.query_ball_point(positions, config.search_radius)
    counts = np.array([len(each) for each in pairs])
    if not counts.sum():
        return None
    first = np.repeat(np.arange(len(positions)), counts)
    second = np.concatenate([np.sort(each) for each in pairs if each]).astype(np.int64)
    difference = positions[first] - stars[second]
    half = int(np.ceil(config.search_radius / (0.5 * config.match_radius)))
    edges = np.linspace(-config.search_radius, config.search_radius, 2 * half + 1)
    votes, _, _ = np.histogram2d(difference[:, 0], difference[:, 1], bins=[edges, edges])
    # a peak on a cell's edge is shared by neighbours
    padded = np.pad(votes, 1)
    summed = sum(
        padded[1 + j : padded.shape[0] - 1 + j, 1 + i : padded.shape[1] - 1 + i]
        for j in (-1, 0, 1)
        for i in (-1, 0, 1)
    )
    peak = np.unravel_index(int(np.argmax(summed)), summed.shape)
    # unrelated pairs fill the circle evenly: nine cells hold this many on average
    by_chance = counts.sum() * 9.0 * (edges[1] - edges[0]) ** 2 / (np.pi * config.search_radius**2)
    if votes.size * poisson.sf(summed[peak] - 1, by_chance) > config.max_chance:
        return None
    middle = 0.5 * (edges[1:] + edges[:-1])
    shift = np.array([middle[peak[0]], middle[peak[1]]])
    for _ in range(5):
        near = np.hypot(*(difference - shift).T) <= config.match_radius
        if not near.any():
            break
        shift = np.median(difference[near], axis=0)
    return float(shift[0]), float(shift[1])
