"""Single Visit to Reference Catalog with a good WCS (LDM-151 5.1.1.20, 8.24.3): nearest by the errors of both.

A pair may be as far apart as the errors of source and reference star together allow. Where several candidates lie
within that, each has a share of the probability (Gaussian errors, equal priors); pairs whose best share is small on
either side are ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from skyquilt.algorithms.astrometric_fitting.focal_plane import ARCSEC
from skyquilt.primitives.geometry import project_tangent, unit_vectors


@dataclass(frozen=True)
class NonBlindConfig:
    """How far apart a pair may be."""

    max_missed: float = 1e-4
    """Share of true pairs that may be lost because their errors, Gaussian, are large."""
    extra_error: float = 0.02
    """What is added in quadrature to the errors of both: atmosphere, and an imperfect WCS [arcsec]."""
    max_radius: float = 2.0
    """Never farther than this [arcsec]."""
    min_share: float = 0.95
    """Pairs with a smaller share of the probability, on either side, are ambiguous."""

    def __post_init__(self) -> None:
        if not (0 < self.max_missed < 1 and self.extra_error > 0 and self.max_radius > 0):
            raise ValueError("max_missed must be within 0..1, extra_error and max_radius positive")
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"min_share must be within 0..1, got {self.min_share}")


@dataclass(frozen=True)
class NonBlindMatch:
    """Pairs, one to one, by ascending source.

    Parameters
    ----------
    source, reference : ndarray of int64, shape (n,)
        Row numbers.
    distance : ndarray, shape (n,) [arcsec]
    sigma : ndarray, shape (n,)
        Distance in units of its error (Mahalanobis).
    share : ndarray, shape (n,)
        Probability of the pair among its candidates, the smaller of both sides.
    ambiguous : ndarray of bool, shape (n,)
    """

    source: np.ndarray
    reference: np.ndarray
    distance: np.ndarray
    sigma: np.ndarray
    share: np.ndarray
    ambiguous: np.ndarray


def match_non_blind(
    ra: np.ndarray,
    dec: np.ndarray,
    covariance: np.ndarray | float,
    reference_ra: np.ndarray,
    reference_dec: np.ndarray,
    reference_covariance: np.ndarray | float,
    config: NonBlindConfig | None = None,
) -> NonBlindMatch:
    """Match two lists of positions that agree within their errors.

    Parameters
    ----------
    ra, dec, reference_ra, reference_dec : ndarray, shapes (n,), (m,) [deg]
        Rows that are not finite match nothing.
    covariance, reference_covariance : ndarray, shape (n, 2, 2), (m, 2, 2), or one variance [arcsec^2]
        Of (ra cos dec, dec); the WCS's own error included if it matters. Not finite: no match.

    Returns
    -------
    NonBlindMatch
        Empty when nothing matches.
    """
    config = config or NonBlindConfig()
    ra, dec, reference_ra, reference_dec = (
        np.asarray(each, float) for each in (ra, dec, reference_ra, reference_dec)
    )
    one = _covariances(covariance, len(ra))
    two = _covariances(reference_covariance, len(reference_ra))
    i, j = _candidates(ra, dec, one, reference_ra, reference_dec, two, config)
    if not i.size:
        none = np.zeros(0)
        return NonBlindMatch(i, j, none, none, none, none.astype(bool))
    east, north = _offsets(ra[i], dec[i], reference_ra[j], reference_dec[j])
    total = one[i] + two[j] + config.extra_error**2 * np.eye(2)
    square, log_density = _mahalanobis(east, north, total)
    keep = square <= -2.0 * np.log(config.max_missed)
    i, j, square, log_density = i[keep], j[keep], square[keep], log_density[keep]
    distance = np.hypot(east, north)[keep]
    share = np.minimum(_shares(i, log_density, len(ra)), _shares(j, log_density, len(reference_ra)))
    chosen = _one_to_one(i, j, log_density, ra, dec, reference_ra, reference_dec)
    chosen = chosen[np.argsort(i[chosen], kind="stable")]
    return NonBlindMatch(
        i[chosen],
        j[chosen],
        distance[chosen],
        np.sqrt(square[chosen]),
        share[chosen],
        share[chosen] < config.min_share,
    )


def _covariances(given: np.ndarray | float, n: int) -> np.ndarray:
    given = np.asarray(given, float)
    return given * np.broadcast_to(np.eye(2), (n, 2, 2)) if given.ndim == 0 else given


def _candidates(
    ra: np.ndarray,
    dec: np.ndarray,
    one: np.ndarray,
    reference_ra: np.ndarray,
    reference_dec: np.ndarray,
    two: np.ndarray,
    config: NonBlindConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs within the largest radius that their errors allow."""
    good = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(one).all(axis=(1, 2))
    other = np.isfinite(reference_ra) & np.isfinite(reference_dec) & np.isfinite(two).all(axis=(1, 2))
    sources, stars = np.flatnonzero(good), np.flatnonzero(other)
    if not (sources.size and stars.size):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    factor = np.sqrt(-2.0 * np.log(config.max_missed))
    largest = np.linalg.eigvalsh(two[stars])[:, -1].max()
    reach = factor * np.sqrt(np.linalg.eigvalsh(one[sources])[:, -1] + largest + config.extra_error**2)
    reach = np.minimum(reach, config.max_radius)
    # chords of the unit sphere: right at every place of the sky
    tree = cKDTree(unit_vectors(reference_ra[stars], reference_dec[stars]))
    chord = 2.0 * np.sin(0.5 * np.radians(reach / ARCSEC))
    found = tree.query_ball_point(unit_vectors(ra[sources], dec[sources]), chord, return_sorted=True)
    number = np.array([len(each) for each in found])
    if not number.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = np.concatenate([np.asarray(each, np.int64) for each in found if each])
    return np.repeat(sources, number), stars[rows]


def _offsets(
    ra: np.ndarray, dec: np.ndarray, other_ra: np.ndarray, other_dec: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Other minus first, to the east and north [arcsec]."""
    xi, eta = project_tangent(other_ra, other_dec, ra, dec)
    return xi * ARCSEC, eta * ARCSEC


def _mahalanobis(east: np.ndarray, north: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance in units of the errors, and logarithm of the Gaussian density."""
    determinant = c[:, 0, 0] * c[:, 1, 1] - c[:, 0, 1] * c[:, 1, 0]
    square = (c[:, 1, 1] * east**2 - 2.0 * c[:, 0, 1] * east * north + c[:, 0, 0] * north**2) / determinant
    return square, -0.5 * (square + np.log(determinant))


def _shares(group: np.ndarray, log_density: np.ndarray, n: int) -> np.ndarray:
    """Share of each candidate in the density of its group."""
    highest = np.full(n, -np.inf)
    np.maximum.at(highest, group, log_density)
    weight = np.exp(log_density - highest[group])
    order = np.lexsort((weight, group))
    total = np.zeros(n)
    np.add.at(total, group[order], weight[order])
    return weight / total[group]


def _one_to_one(
    i: np.ndarray,
    j: np.ndarray,
    log_density: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    reference_ra: np.ndarray,
    reference_dec: np.ndarray,
) -> np.ndarray:
    """The most probable pairs first, each row once; ties by position, not by row."""
    order = np.lexsort((reference_dec[j], reference_ra[j], dec[i], ra[i], -log_density))
    taken, used, chosen = set(), set(), []
    for k, a, b in zip(order.tolist(), i[order].tolist(), j[order].tolist()):
        if a not in taken and b not in used:
            taken.add(a)
            used.add(b)
            chosen.append(k)
    return np.array(chosen, dtype=np.int64)
