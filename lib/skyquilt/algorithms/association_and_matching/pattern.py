"""Association and Matching (LDM-151 8.24.2): find the similarity between two lists of places, and how sure it is.

All shifts, rotations and changes of scale inside given limits are tried: every pair of a source and a reference
star votes for the shift that would bring them together (a Hough transform), once per rotation and scale. Where the
rotation is not known, the directions and lengths of pairs of stars are compared first, as Bertin (2006, ADASS XV,
112) does: what they have in common names the rotations to try.

How sure: at a wrong solution the number of matches is a chance number. Its mean and variance are counted at decoys,
the same lists with small shifts, where nothing but chance matches. The number is taken as Poisson, or as negative
binomial where the decoys vary more than that (clumps). The chance of a false solution is the probability of as many
matches, less the two that the similarity itself has used, times the number of independent solutions in the limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import betainc, gammainc

from skyquilt.algorithms.association_and_matching.votes import count_pairs, vote_for_shifts

LOG_STEP = 0.005
ANGLE_BINS = 720
_BACKGROUND_BINS = 31
N_DECOYS = 48
TRIED_PEAKS = 6
CERTAIN = 1e-12
"""With a chance below this nothing else is tried."""
COARSE = 3.0
"""Votes are counted in cells of this many tolerances."""


@dataclass(frozen=True)
class Limits:
    """Where solutions are looked for.

    Parameters
    ----------
    shift : float
        Largest shift [unit of the places].
    rotation : float
        Largest rotation [radian]; pi for any.
    scale : float
        Largest relative change of scale.
    tolerance : float
        Distance within which a true pair lies at the right solution [unit of the places].
    """

    shift: float
    rotation: float
    scale: float
    tolerance: float

    def trials(self, radius: float) -> float:
        """Number of independent solutions for a list of a radius."""
        step = self.tolerance / max(radius, self.tolerance)
        around = 2.0 * self.rotation / step + 1.0
        return (2.0 * self.shift / self.tolerance + 1.0) ** 2 * around * (2.0 * self.scale / step + 1.0)


@dataclass(frozen=True)
class Solution:
    """places -> matrix @ places + offset.

    Parameters
    ----------
    matrix : ndarray, shape (2, 2)
    offset : ndarray, shape (2,)
    first, second : ndarray of int64
        Rows of the pairs in the two lists.
    expected : float
        Mean number of chance matches.
    log10_chance : float
        Logarithm of the expected number of false solutions that are as good.
    """

    matrix: np.ndarray
    offset: np.ndarray
    first: np.ndarray
    second: np.ndarray
    expected: float
    log10_chance: float

    def forward(self, places: np.ndarray) -> np.ndarray:
        """Places of the first list among the second's, shape (n, 2)."""
        return places @ self.matrix.T + self.offset


def find_similarity(
    first: np.ndarray, second: np.ndarray, limits: Limits, start: np.ndarray | None = None
) -> Solution | None:
    """The best similarity within narrow limits of rotation.

    Parameters
    ----------
    first, second : ndarray of float64, shapes (n, 2), (m, 2)
        Places about a common origin, from which shifts are counted.
    limits : Limits
    start : ndarray, shape (2, 2), optional
        Matrix about which rotation and scale are searched; by default the identity.

    Returns
    -------
    Solution or None
        None when fewer than four pairs come together. It may be a chance solution: look at its chance.
    """
    if min(len(first), len(second)) < 4:
        return None
    start = np.eye(2) if start is None else start
    turned = first @ start.T
    radius = float(np.hypot(*turned.T).max())
    if not radius > limits.tolerance:
        return None
    tree = cKDTree(second)
    reach = limits.shift + radius * np.hypot(limits.rotation, limits.scale)
    near = tree.query_ball_point(turned, reach, return_sorted=True)
    number = np.array([len(each) for each in near])
    if not number.any():
        return None
    candidate = second[np.concatenate([np.asarray(each, int) for each in near if each])]
    own = np.repeat(turned, number, axis=0)
    cell = COARSE * limits.tolerance
    factors = _factors(limits, cell / max(radius, cell))
    cells = int(np.ceil(2.0 * limits.shift / cell)) + 4
    best = np.zeros((len(factors), 3))
    least = _least_count(turned, second, tree, limits)
    vote_for_shifts(
        *(np.ascontiguousarray(each) for each in (*own.T, *candidate.T, factors.real, factors.imag)),
        limits.shift,
        cell,
        np.zeros((cells, cells), np.int32),
        best,
    )
    solutions = []
    for k in np.argsort(-best[:, 0], kind="stable")[:TRIED_PEAKS]:
        # a square of votes may cut the pairs in two
        if best[k, 0] < 0.5 * least:
            break
        a = factors[k]
        matrix = np.array([[a.real, -a.imag], [a.imag, a.real]])
        found = _refined(turned, second, tree, matrix, best[k, 1:], limits, least)
        if found is not None:
            solutions.append(found)
            if found.log10_chance < np.log10(CERTAIN):
                break
    if not solutions:
        return None
    best_one = min(solutions, key=lambda each: each.log10_chance)
    return Solution(best_one.matrix @ start, *list(vars(best_one).values())[1:])


def candidate_rotations(
    first: np.ndarray, second: np.ndarray, scale: float, count: int
) -> list[tuple[float, float, float]]:
    """(votes, rotation [radian], scale) that many pairs of both lists agree on, the best first.

    Parameters
    ----------
    first, second : ndarray of float64, shapes (n, 2), (m, 2)
    scale : float
        Largest relative change of scale.
    count : int
        How many to give.
    """
    from scipy import ndimage

    radius = float(np.hypot(*(first - first.mean(axis=0)).T).max())
    if not radius > 0:
        return []
    # short pairs have uncertain directions
    low, high = np.log(0.3 * radius), np.log(2.0 * radius)
    reach = int(np.ceil(np.log1p(scale) / LOG_STEP)) + 1
    bins = int((high - low) / LOG_STEP)
    one = np.zeros((bins, ANGLE_BINS))
    other = np.zeros((bins + 2 * reach, ANGLE_BINS))
    count_pairs(*(np.ascontiguousarray(each) for each in first.T), low, LOG_STEP, one)
    count_pairs(*(np.ascontiguousarray(each) for each in second.T), low - reach * LOG_STEP, LOG_STEP, other)
    other = ndimage.uniform_filter(other, 3, mode=("constant", "wrap")) * 9.0
    one_f, other_f = np.conj(np.fft.rfft(one, axis=1)), np.fft.rfft(other, axis=1)
    lags = [(one_f * other_f[lag : lag + bins]).sum(axis=0) for lag in range(2 * reach + 1)]
    votes = np.fft.irfft(np.array(lags), ANGLE_BINS, axis=1)
    # the shape of the field favours directions, and larger scales have more pairs
    expected = ndimage.uniform_filter1d(votes, _BACKGROUND_BINS, axis=1, mode="wrap")
    votes = np.round((votes - expected) / np.sqrt(np.maximum(expected, 0.0) + 9.0), 6)
    peaks = votes == ndimage.maximum_filter(votes, 3, mode=("nearest", "wrap"))
    rows, columns = np.nonzero(peaks)
    order = np.lexsort((columns, rows, -votes[rows, columns]))[:count]
    scales = np.exp((rows[order] - reach) * LOG_STEP)
    heights = votes[rows[order], columns[order]]
    return list(zip(heights.tolist(), (columns[order] * 2.0 * np.pi / ANGLE_BINS).tolist(), scales.tolist()))


def _factors(limits: Limits, step: float) -> np.ndarray:
    """Complex factors of all rotations and scales in the limits."""
    turns = int(np.ceil(limits.rotation / step))
    sizes = int(np.ceil(limits.scale / step))
    angle = np.linspace(-limits.rotation, limits.rotation, 2 * turns + 1)
    scale = 1.0 + np.linspace(-limits.scale, limits.scale, 2 * sizes + 1)
    return (scale[:, None] * np.exp(1j * angle[None, :])).ravel()


def _refined(
    first: np.ndarray,
    second: np.ndarray,
    tree: cKDTree,
    matrix: np.ndarray,
    offset: np.ndarray,
    limits: Limits,
    least: int,
) -> Solution | None:
    """Least squares with shrinking radius, and the chance of what comes out."""
    for shrink in (4.5, 4.5, 3.0, 3.0, 2.0, 2.0, 1.5, 1.0, 1.0):
        one, two = mutual_nearest(first @ matrix.T + offset, second, tree, shrink * limits.tolerance)
        if len(one) < least:
            return None
        matrix, offset = fit_similarity(first[one], second[two])
    a, b = matrix[:, 0]
    beyond = 1.0 + COARSE * limits.tolerance / max(np.hypot(*first.T).max(), 1e-300)
    if (
        np.hypot(*offset) > limits.shift + COARSE * limits.tolerance
        or abs(np.hypot(a, b) - 1.0) > limits.scale * beyond + (beyond - 1.0)
        or abs(np.arctan2(b, a)) > limits.rotation * beyond + (beyond - 1.0)
    ):
        return None
    at = first @ matrix.T + offset
    one, two = mutual_nearest(at, second, tree, limits.tolerance)
    if len(one) < least:
        return None
    expected, variance = _decoys(at, second, tree, limits)
    chance = log10_tail(len(one) - 2, expected, variance)
    trials = limits.trials(float(np.hypot(*first.T).max()))
    return Solution(matrix, offset, one, two, expected, float(np.log10(trials) + chance))


def _least_count(first: np.ndarray, second: np.ndarray, tree: cKDTree, limits: Limits) -> int:
    """Matches below which a solution is not worth a look: one or more as good is expected by chance alone."""
    radius = float(np.hypot(*first.T).max())
    # how crowded the second list is, as its own stars have it
    some = second[np.linspace(0, len(second) - 1, min(len(second), 200)).astype(int)]
    wide = 0.2 * radius
    neighbours = tree.query_ball_point(some, wide, return_length=True) - 1
    mean = len(first) * float(np.median(neighbours)) * (limits.tolerance / wide) ** 2
    # half of it: the first list may lie where there are fewer
    mean = max(0.5 * mean, 1.0 / N_DECOYS)
    trials = np.log10(limits.trials(radius))
    # chances fall steadily from the mean on: halve
    low, high = 4, 5 + int(8.0 * mean + 60.0)
    while low < high:
        middle = (low + high) // 2
        if trials + log10_tail(middle - 2, mean, mean) < 0:
            high = middle
        else:
            low = middle + 1
    return low


def _decoys(at: np.ndarray, second: np.ndarray, tree: cKDTree, limits: Limits) -> tuple[float, float]:
    """Mean and variance of the number of matches at shifts near by, where none is true."""
    k = np.arange(N_DECOYS)
    # golden angle: no two decoys in one direction
    distance = limits.tolerance * (8.0 + 24.0 * k / N_DECOYS)
    angle = k * np.pi * (3.0 - np.sqrt(5.0))
    shifts = np.column_stack([distance * np.cos(angle), distance * np.sin(angle)])
    counts = np.array([len(mutual_nearest(at + s, second, tree, limits.tolerance)[0]) for s in shifts])
    # an empty sample still allows for a mean of one in all of them
    mean = max(float(counts.mean()), 1.0 / N_DECOYS)
    return mean, float(counts.var(ddof=1))


def log10_tail(count: int, mean: float, variance: float) -> float:
    """Logarithm of P(X >= count) of a Poisson X, negative binomial where variance exceeds the mean clearly."""
    if count <= 0:
        return 0.0
    # 48 decoys know the variance to 20 per cent
    if variance > 1.3 * mean:
        r = mean**2 / (variance - mean)
        tail = betainc(count, r, (variance - mean) / variance)
    else:
        tail = gammainc(count, mean)
    if tail > 1e-290:
        return float(np.log10(tail))
    # first term of the series, which dominates far from the mean
    from scipy.special import gammaln

    return float((count * np.log(mean) - mean - gammaln(count + 1.0)) / np.log(10.0))


def mutual_nearest(
    at: np.ndarray, second: np.ndarray, tree: cKDTree, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs within a radius that are each other's nearest: rows of both, by ascending first."""
    distance, index = tree.query(at, distance_upper_bound=radius)
    found = np.flatnonzero(np.isfinite(distance))
    order = found[np.argsort(distance[found], kind="stable")]
    _, where = np.unique(index[order], return_index=True)
    kept = np.sort(order[where])
    return kept, index[kept]


def fit_similarity(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares (matrix, offset) of a similarity without mirror."""
    z, w = first @ [1.0, 1j], second @ [1.0, 1j]
    dz = z - z.mean()
    leverage = float((np.abs(dz) ** 2).sum())
    a = (np.conj(dz) * w).sum() / leverage if leverage > 0 else 1.0 + 0j
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag], [a.imag, a.real]]), np.array([b.real, b.imag])
