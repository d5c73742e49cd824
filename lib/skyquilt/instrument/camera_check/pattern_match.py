"""Camera check (LDM-151 8.22): match a pattern of stars without knowing its place, scale, rotation or parity.

Pairs of stars have a distance and a direction. With one scale and rotation between two lists, all common
pairs differ by the same log distance and angle: the two-dimensional histograms of the lists' pairs are
correlated, once per parity (as Bertin 2006 does in SCAMP). The best peaks are tried: the shift is found by a
histogram of differences, the map fitted, and the matches counted against what chance would give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOG_STEP = 0.006
"""Bin of the natural logarithm of distance."""

ANGLE_BINS = 900
CANDIDATES = 160
"""Peaks that are tried, of both parities together."""

CERTAIN = 1e-12
"""With a chance below this no further peak is tried."""

LEAST_MATCHES = 5
LARGEST_CHANCE = 1e-4
"""Most probable number of false solutions that a solution is accepted with, over all trials."""

SCALE_FACTORS = (1.25, 4.0)
"""Farthest that the scale may be from the expected one, as a factor: first and second try."""


@dataclass(frozen=True)
class PatternMatch:
    """w = a z + b, or w = a conj(z) + b for parity -1, of places z = x + i y.

    Parameters
    ----------
    parity : int
        -1 when the pattern is mirrored.
    a, b : complex
    error : float
        Standard error of each component of a.
    shift_error : float
        Standard error of each component of the map at the centre of the matched stars [unit of w].
    matches : ndarray of int, shape (n, 2)
        Numbers of the matched stars in the two lists.
    rms : float
        Scatter of one coordinate of a match [unit of w].
    chance : float
        Expected number of solutions as good by chance.
    """

    parity: int
    a: complex
    b: complex
    error: float
    shift_error: float
    matches: np.ndarray
    rms: float
    chance: float

    @property
    def scale(self) -> float:
        """Length in w over length in z."""
        return abs(self.a)

    @property
    def scale_error(self) -> float:
        """Standard error of `scale`."""
        return self.error

    @property
    def angle_error(self) -> float:
        """Standard error of the angle of a [deg]."""
        return float(np.degrees(self.error / abs(self.a)))

    def forward(self, z: np.ndarray) -> np.ndarray:
        """Places of the first list in the second's plane."""
        return self.a * (z if self.parity > 0 else np.conj(z)) + self.b


def match_patterns(
    z: np.ndarray, w: np.ndarray, scale: float, tolerance: float = 0.02
) -> PatternMatch | None:
    """Match two lists of places.

    Parameters
    ----------
    z, w : ndarray of complex, shapes (n,), (m,)
        x + i y, any units; the brightest some dozens of one field. `w` may cover a larger field.
    scale : float
        Expected length in w over length in z; see SCALE_FACTORS.
    tolerance : float
        First tolerance of a match, as a share of the half width of z.

    Returns
    -------
    PatternMatch or None
        None when nothing stands out from chance.
    """
    if min(len(z), len(w)) < LEAST_MATCHES:
        return None
    for factor in SCALE_FACTORS:
        best: PatternMatch | None = None
        for _, parity, a in _candidates(z, w, scale, factor):
            found = _solve(z if parity > 0 else np.conj(z), w, a, parity, tolerance)
            if found is not None and (best is None or _rank(found) < _rank(best)):
                best = found
            if best is not None and best.chance < CERTAIN:
                return best
        if best is not None and best.chance < LARGEST_CHANCE:
            return best
    return None


def _candidates(
    z: np.ndarray, w: np.ndarray, scale: float, factor: float
) -> list[tuple[float, int, complex]]:
    """(score, parity, factor a) that many pairs agree on, best first."""
    both = [
        (score, parity, a)
        for parity in (1, -1)
        for score, a in _candidate_factors(z if parity > 0 else np.conj(z), w, scale, factor)
    ]
    return sorted(both, key=lambda one: -one[0])[:CANDIDATES]


def _rank(match: PatternMatch) -> tuple[float, float]:
    return (match.chance, match.rms)


def _pair_histogram(z: np.ndarray, low: float, bins: int) -> np.ndarray:
    """Pairs by log distance (from `low` in steps of LOG_STEP) and direction, shape (bins, ANGLE_BINS)."""
    i, j = np.nonzero(~np.eye(len(z), dtype=bool))
    pair = z[j] - z[i]
    length = np.abs(pair)
    keep = length > 0
    distance = ((np.log(length[keep]) - low) / LOG_STEP).astype(int)
    direction = (np.degrees(np.angle(pair[keep])) % 360.0 * (ANGLE_BINS / 360.0)).astype(int) % ANGLE_BINS
    inside = (distance >= 0) & (distance < bins)
    histogram = np.zeros((bins, ANGLE_BINS))
    np.add.at(histogram, (distance[inside], direction[inside]), 1.0)
    return histogram


def _candidate_factors(
    z: np.ndarray, w: np.ndarray, scale: float, factor: float
) -> list[tuple[float, complex]]:
    """Score and factor a, from the correlation of the histograms of pairs of one parity."""
    from scipy import ndimage

    # short pairs have uncertain directions, the longest are rare
    low, high = np.log(0.25 * _span(z)), np.log(2.2 * _span(z))
    reach = int(np.ceil(np.log(factor) / LOG_STEP))
    first = _pair_histogram(z, low, int((high - low) / LOG_STEP))
    bins = first.shape[0] + 2 * reach
    second = _pair_histogram(w, low + np.log(scale) - reach * LOG_STEP, bins)
    second = ndimage.uniform_filter(second, 3, mode=("constant", "wrap")) * 9.0
    size = 1 << (bins + first.shape[0]).bit_length()
    product = np.conj(np.fft.rfft2(first, (size, ANGLE_BINS))) * np.fft.rfft2(second, (size, ANGLE_BINS))
    correlation = np.fft.irfft2(product, (size, ANGLE_BINS))[: 2 * reach + 1]
    smooth = ndimage.gaussian_filter(correlation, 8, mode=("nearest", "wrap"))
    score = (correlation - smooth) / np.sqrt(np.maximum(smooth, 0.0) + 9.0)
    peaks = score == ndimage.maximum_filter(score, 5, mode=("nearest", "wrap"))
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-score[rows, columns], kind="stable")[:CANDIDATES]
    lengths = scale * np.exp((rows[order] - reach) * LOG_STEP)
    factors = lengths * np.exp(1j * np.radians(columns[order] * 360.0 / ANGLE_BINS))
    return list(zip(score[rows[order], columns[order]].tolist(), factors.tolist(), strict=True))


def _span(z: np.ndarray) -> float:
    """Half width of a list of places."""
    return float(max(np.ptp(z.real), np.ptp(z.imag))) / 2.0


def _solve(z: np.ndarray, w: np.ndarray, a: complex, parity: int, tolerance: float) -> PatternMatch | None:
    """Shift and fit for one factor; None when too few stars match."""
    from scipy.spatial import cKDTree

    tree = cKDTree(np.column_stack([w.real, w.imag]))
    radius = tolerance * _span(z) * abs(a)
    b = _common_shift(a * z, w, radius)
    matched = np.empty((0, 2), int)
    for shrink in (1.5, 1.0, 0.5, 0.25, 0.25):
        at = a * z + b
        matched = _nearest(tree, at, shrink * radius)
        if len(matched) < 3:
            return None
        a, b = _fit(z[matched[:, 0]], w[matched[:, 1]])
    residual = w[matched[:, 1]] - (a * z[matched[:, 0]] + b)
    width = 1.4826 * np.median(np.abs(np.r_[residual.real, residual.imag]))
    final = min(max(5.0 * width, 0.02 * radius), 0.25 * radius)
    matched = _nearest(tree, a * z + b, final)
    if len(matched) < LEAST_MATCHES:
        return None
    a, b = _fit(z[matched[:, 0]], w[matched[:, 1]])
    return _described(z, w, a, b, parity, matched, final)


def _described(
    z: np.ndarray, w: np.ndarray, a: complex, b: complex, parity: int, matched: np.ndarray, radius: float
) -> PatternMatch:
    from scipy.special import pdtrc

    near, there = z[matched[:, 0]], w[matched[:, 1]]
    residual = there - (a * near + b)
    freedom = max(2 * len(near) - 4, 1)
    rms = float(np.sqrt((np.abs(residual) ** 2).sum() / freedom))
    leverage = float((np.abs(near - near.mean()) ** 2).sum())
    at = a * z + b
    # density of the second list where the first one lies
    half = 0.5 * np.array([np.ptp(at.real), np.ptp(at.imag)]) + radius
    middle = complex(0.5 * (at.real.max() + at.real.min()), 0.5 * (at.imag.max() + at.imag.min()))
    inside = (np.abs((w - middle).real) < half[0]) & (np.abs((w - middle).imag) < half[1])
    expected = len(z) * inside.sum() / (4.0 * half.prod()) * np.pi * radius**2
    # factors, shifts and parities that were open: how many independent solutions there might be
    trials = float(CANDIDATES) * max(len(z) * len(w), 1)
    # two of the matches were spent on the map itself
    chance = trials * float(pdtrc(max(len(near) - 3, 0), expected))
    return PatternMatch(
        parity,
        complex(a),
        complex(b),
        rms / np.sqrt(leverage),
        rms / np.sqrt(len(near)),
        matched,
        rms,
        chance,
    )


def _common_shift(at: np.ndarray, w: np.ndarray, radius: float) -> complex:
    """Shift that brings most places of `at` near one of `w`."""
    shifts = (w[None, :] - at[:, None]).ravel()
    cells = np.column_stack([np.floor(shifts.real / radius), np.floor(shifts.imag / radius)]).astype(int)
    cells -= cells.min(axis=0)
    width = cells[:, 1].max() + 1
    number = cells[:, 0] * width + cells[:, 1]
    values, counts = np.unique(number, return_counts=True)
    # true shifts may fall on both sides of a border: try the best cells with their neighbours
    best, most = 0j, 0
    for cell in values[np.argsort(-counts, kind="stable")[:5]]:
        middle = np.median(shifts[number == cell].real) + 1j * np.median(shifts[number == cell].imag)
        near = shifts[np.abs(shifts - middle) < radius]
        if near.size > most:
            best, most = complex(np.median(near.real) + 1j * np.median(near.imag)), near.size
    return best


def _nearest(tree: object, at: np.ndarray, radius: float) -> np.ndarray:
    """Pairs that are each other's nearest within a radius, shape (n, 2)."""
    distance, index = tree.query(np.column_stack([at.real, at.imag]), distance_upper_bound=radius)  # type: ignore[attr-defined]
    found = np.flatnonzero(np.isfinite(distance))
    order = found[np.argsort(distance[found], kind="stable")]
    _, first = np.unique(index[order], return_index=True)
    kept = np.sort(order[first])
    return np.column_stack([kept, index[kept]])


def _fit(z: np.ndarray, w: np.ndarray) -> tuple[complex, complex]:
    """Least squares w = a z + b."""
    dz, dw = z - z.mean(), w - w.mean()
    a = (np.conj(dz) * dw).sum() / (np.abs(dz) ** 2).sum()
    return complex(a), complex(w.mean() - a * z.mean())
