"""SelectStars (LDM-151 5.1.1.14): clean stars for the PSF, spread over each detector, some of them reserved.

Stars have one size at one place, galaxies are larger and hits smaller. On each detector the densest window in
ln(size) among bright sources is the locus of stars; where reference stars are there to say where it lies, they
do. Of its members the brightest in each cell of a grid are taken in turn, so that none of the detector is left
to extrapolation. Membership is by a source's own numbers: the order of the rows does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.geometry import Box

STAR, GALAXY, UNKNOWN = 1, -1, 0
"""What the reference catalogue says a source is."""

_BRIGHTEST = 2
"""Times `max_stars`: sources among which the locus is sought."""

_SLOPE_STARS = 12
"""Fewer members than this give no variation of size over the detector."""


@dataclass(frozen=True)
class StarSelectionConfig:
    """Choice of PSF stars."""

    min_snr: float = 30.0
    """Least signal to noise."""
    max_stars: int = 300
    """At most this many on a detector."""
    min_stars: int = 5
    """Fewer members than this are no locus, unless the reference names them."""
    locus_width: float = 0.1
    """Width of the window in ln(size) in which the most sources are sought."""
    clip: float = 4.0
    """Members are within this of the locus [sigma of its members and of each source's noise]."""
    least_spread: float = 0.01
    """Least standard deviation of ln(size) of the locus."""
    cell: int = 250
    """Side of the cells over which stars are spread [pixel]."""
    reserved_share: float = 0.15
    """Share of the selected stars that judge the model and take no part in it."""

    def __post_init__(self) -> None:
        if self.min_snr <= 0 or self.max_stars < 1 or self.min_stars < 2 or self.cell < 1:
            raise ValueError("stars need min_snr > 0, max_stars >= 1, min_stars >= 2 and cell >= 1")
        if self.locus_width <= 0 or self.clip < 1 or self.least_spread <= 0:
            raise ValueError("the locus of stars needs locus_width > 0, clip >= 1 and least_spread > 0")
        if not 0 <= self.reserved_share < 1:
            raise ValueError(f"reserved_share must be in [0, 1), got {self.reserved_share}")


@dataclass(frozen=True, eq=False)
class StarSelection:
    """Which sources of a detector are PSF stars, and which of these are reserved; bool (n,)."""

    selected: np.ndarray
    reserved: np.ndarray


def select_stars(
    box: Box,
    x: np.ndarray,
    y: np.ndarray,
    size: np.ndarray,
    snr: np.ndarray,
    clean: np.ndarray,
    config: StarSelectionConfig,
    kind: np.ndarray | None = None,
    seed: int = 0,
) -> StarSelection:
    """Select the PSF stars of one detector.

    Parameters
    ----------
    box : Box
        The detector.
    x, y : ndarray, shape (n,) [pixel]
    size : ndarray, shape (n,)
        Determinant radius of the adaptive moments [pixel]; NaN if unknown.
    snr : ndarray, shape (n,)
        Flux over its error.
    clean : ndarray of bool, shape (n,)
        Not saturated, blended, at an edge, variable or otherwise flagged.
    config : StarSelectionConfig
    kind : ndarray of int, shape (n,), optional
        `STAR`, `GALAXY` or `UNKNOWN`, from the reference catalogue. Stars are preferred, galaxies left out.
    seed : int
        Of the choice of reserved stars, such as the visit's number.

    Returns
    -------
    StarSelection
        Empty where there is no locus.
    """
    n = len(x)
    kind = np.zeros(n, np.int64) if kind is None else np.asarray(kind)
    none = StarSelection(np.zeros(n, bool), np.zeros(n, bool))
    with np.errstate(invalid="ignore"):
        usable = np.asarray(clean, bool) & (size > 0) & np.isfinite(size) & (snr >= config.min_snr)
    usable &= np.isfinite(snr) & np.isfinite(x) & np.isfinite(y) & (kind != GALAXY)
    rows = np.flatnonzero(usable)
    if rows.size == 0:
        return none
    rows = rows[np.lexsort((x[rows], y[rows], -snr[rows]))]
    members = _locus(rows, box, x, y, size, snr, kind, config)
    if members.size == 0:
        return none
    chosen = _spread(members, x, y, kind, config)
    result = StarSelection(np.zeros(n, bool), np.zeros(n, bool))
    result.selected[chosen] = True
    result.reserved[chosen] = reserved_by_place(x[chosen], y[chosen], config.reserved_share, seed)
    return result


def _locus(rows, box, x, y, size, snr, kind, config) -> np.ndarray:
    """Members of the locus, brightest first."""
    logarithm = np.log(size[rows])
    named = kind[rows] == STAR
    if named.sum() >= config.min_stars:
        inside = named.copy()
    else:
        brightest = np.arange(rows.size) < _BRIGHTEST * config.max_stars
        inside = brightest & _densest(logarithm, brightest, config.locus_width)
        inside |= named
        if inside.sum() < config.min_stars and not named.any():
            return rows[:0]
    u = (x[rows] - box.centre[0]) / (0.5 * box.nx)
    v = (y[rows] - box.centre[1]) / (0.5 * box.ny)
    noise = 1 / snr[rows]
    member = inside
    for _ in range(3):
        fitted = _plane(u, v, logarithm, member)
        away = logarithm - fitted
        near = away[member]
        spread = max(1.4826 * float(np.median(np.abs(near - np.median(near)))), config.least_spread)
        spread = min(spread, 0.5 * config.locus_width)
        member = np.abs(away - np.median(near)) < config.clip * np.hypot(spread, noise)
        if not member.any():
            return rows[:0]
    return rows[member]


def _densest(logarithm: np.ndarray, among: np.ndarray, width: float) -> np.ndarray:
    """Which values are in the window of a width that holds the most; the smallest such."""
    ordered = np.sort(logarithm[among])
    count = np.searchsorted(ordered, ordered + width, side="right") - np.arange(ordered.size)
    start = ordered[int(np.argmax(count))]
    return (logarithm >= start) & (logarithm <= start + width)


def _plane(u: np.ndarray, v: np.ndarray, values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Size over the detector from its members: linear where they are many, else their median."""
    if member.sum() < _SLOPE_STARS:
        return np.full(values.size, float(np.median(values[member])))
    design = np.column_stack([np.ones_like(u), u, v])
    rows = np.flatnonzero(member)
    for _ in range(3):
        solution = np.linalg.lstsq(design[rows], values[rows], rcond=None)[0]
        away = np.abs(values[rows] - design[rows] @ solution)
        kept = rows[away <= 3 * max(1.4826 * float(np.median(away)), 1e-6)]
        if kept.size < _SLOPE_STARS:
            break
        rows = kept
    return design @ solution


def _spread(members: np.ndarray, x: np.ndarray, y: np.ndarray, kind: np.ndarray, config) -> np.ndarray:
    """The first of each cell, then the second of each, and so on; reference stars come first in a cell."""
    if members.size <= config.max_stars:
        return members
    members = members[np.argsort(kind[members] != STAR, kind="stable")]
    cell = np.floor(x[members] / config.cell) + 1j * np.floor(y[members] / config.cell)
    turn = np.zeros(members.size, np.int64)
    seen: dict[complex, int] = {}
    for k, name in enumerate(cell.tolist()):
        turn[k] = seen.get(name, 0)
        seen[name] = turn[k] + 1
    return members[np.argsort(turn, kind="stable")[: config.max_stars]]


def reserved_by_place(x: np.ndarray, y: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of the stars, at random by their place in tenths of a pixel; bool (n,).

    The share is met to one star; with fewer than 1 / share stars none is reserved.
    """
    count = math.floor(share * len(x))
    key = np.empty(len(x))
    for k, place in enumerate(zip(x, y)):
        key[k] = np.random.default_rng([seed, *(int(np.floor(abs(c) * 10)) for c in place)]).random()
    result = np.zeros(len(x), bool)
    result[np.lexsort((x, y, key))[:count]] = True
    return result
