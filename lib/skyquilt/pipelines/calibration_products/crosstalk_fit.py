"""Calibration Products Production (LDM-151 4.1.2.3): least squares of a victim's pixels on its bright neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.statistics import MAD_TO_SIGMA

if TYPE_CHECKING:
    from skyquilt.pipelines.calibration_products.crosstalk import MeasureCrosstalkConfig

_UNDETERMINED = 1e-6
"""Least eigenvalue of the correlation matrix of sources that can be told apart."""

_DECIMALS = 12
"""Of coefficients: far below any error, far above rounding."""


@dataclass(frozen=True)
class Places:
    """Blocks of the read-out, all amplifiers at the same moments.

    Parameters
    ----------
    values : ndarray of float32, shape (blocks, n, side, side)
        [ADU] above overscan and bias.
    good : ndarray of bool, shape (blocks, n, side, side)
        Pixels that can be a victim.
    shining : ndarray of bool, shape (blocks, n)
        Amplifiers that are bright in the block.
    groups : ndarray of int, shape (blocks,)
        Neighbouring blocks of a frame share a number: their residuals are not independent.
    """

    values: np.ndarray
    good: np.ndarray
    shining: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class VictimFit:
    """Coefficients, errors (NaN where not measured) and numbers of places for all sources of one victim."""

    coefficients: np.ndarray
    errors: np.ndarray
    counts: np.ndarray


def first_guess(places: Places, victim: int, config: MeasureCrosstalkConfig) -> np.ndarray:
    """Coefficients of all sources: weighted medians of the ratios where a source is bright and alone.

    Large coefficients would otherwise be taken for sources of the victim's own.
    """
    n = places.values.shape[1]
    row = np.zeros(n)
    levels = np.median(places.values, axis=(2, 3))
    excess = places.values - levels[:, :, None, None]
    dark = excess < 0.1 * config.bright
    usable = places.good[:, victim] & dark[:, victim]
    own = places.values[:, victim] - _masked_medians(places.values[:, victim], usable)[:, None, None]
    for source in range(n):
        lit = places.shining[:, source]
        if source == victim or not lit.any():
            continue
        others = [k for k in range(n) if k not in (source, victim)]
        alone = usable[lit] & dark[lit][:, others].all(axis=1) & (excess[lit, source] > config.bright)
        if alone.sum() < 3:
            continue
        strength = excess[lit, source][alone].astype(np.float64)
        ratio = own[lit][alone] / strength
        order = np.argsort(ratio, kind="stable")
        total = np.cumsum(strength[order])
        row[source] = ratio[order][np.searchsorted(total, 0.5 * total[-1])]
    return row


def fit_victim(places: Places, victim: int, row: np.ndarray, config: MeasureCrosstalkConfig) -> VictimFit:
    """One weighted least squares solution for all sources of a victim, masks made with coefficients `row`.

    Parameters
    ----------
    places : Places
    victim : int
    row : ndarray, shape (n,)
        Present coefficients.
    """
    n = places.values.shape[1]
    shining = places.shining.copy()
    shining[:, victim] = False
    chosen = shining.any(axis=1)
    shining, groups = shining[chosen], places.groups[chosen]
    own, good = places.values[chosen, victim].astype(np.float64), places.good[chosen, victim]
    values = places.values[chosen].astype(np.float64) * shining[:, :, None, None]
    free = good & ~_own_sources(own - np.einsum("s,bsji->bji", row, values), good, config)
    enough = free.mean(axis=(1, 2)) >= config.min_good
    if not enough.any():
        return VictimFit(np.zeros(n), np.full(n, np.nan), np.zeros(n, np.int64))
    shining, groups = shining[enough], groups[enough]
    own, values, free = _above_background(own[enough], values[enough], free[enough])
    residual = own - np.einsum("s,bsji->bji", row, values)
    width = MAD_TO_SIGMA * _masked_medians(np.abs(residual), free)
    free &= np.abs(residual) <= 5 * width[:, None, None]
    own, values, free = _above_background(own, values, free)
    weights = np.where(width > 0, 1 / np.maximum(width, 1e-9) ** 2, 0.0)
    flat = values.reshape(*values.shape[:2], -1)
    matrices = np.einsum("b,bsp,btp->bst", weights, flat, flat, optimize=True)
    vectors = np.einsum("b,bsp,bp->bs", weights, flat, own.reshape(len(own), -1), optimize=True)
    return _solve(matrices, vectors, shining, groups, n, config)


def _own_sources(residual: np.ndarray, good: np.ndarray, config: MeasureCrosstalkConfig) -> np.ndarray:
    """Pixels at and around what stands out of the victim's background, in either direction."""
    from scipy import ndimage

    covered = np.zeros_like(good)
    for _ in range(2):
        free = good & ~covered
        centred = np.where(good, residual - _masked_medians(residual, free)[:, None, None], 0.0)
        width = MAD_TO_SIGMA * _masked_medians(np.abs(centred), free)[:, None, None]
        mean = ndimage.uniform_filter(centred, size=(0, 3, 3), mode="nearest")
        found = good & ((np.abs(mean) > config.detection * width / 3) | (np.abs(centred) > 5 * width))
        side = 2 * config.grow + 1
        covered = ndimage.maximum_filter(found.astype(np.uint8), size=(0, side, side), mode="constant") > 0
    return covered


def _masked_medians(values: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Median of the free pixels of each block; NaN without any."""
    result = np.full(len(values), np.nan)
    for k, (block, where) in enumerate(zip(values, free)):
        inside = block[where]
        if inside.size:
            result[k] = np.median(inside)
    return result


def _above_background(
    own: np.ndarray, values: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Victim and sources with a surface of second degree in the free pixels of each block taken out; 0 elsewhere.

    Taking it out of both sides is the same as fitting it together with the coefficients (Frisch and Waugh 1933).
    """
    side = own.shape[1]
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]).reshape(6, -1)
    where = free.reshape(len(free), -1).astype(np.float64)
    gram = np.einsum("ap,bp,cp->bac", basis, where, basis, optimize=True)
    # a block without free pixels must not stop the others
    inverse = np.linalg.pinv(gram, hermitian=True)
    stack = np.concatenate([own[:, None], values], axis=1).reshape(len(own), -1, side * side)
    projected = np.einsum("bsp,bp,ap->bsa", stack, where, basis, optimize=True) @ inverse
    stack = (stack - projected @ basis) * where[:, None]
    stack = stack.reshape(len(own), -1, side, side)
    return stack[:, 0], stack[:, 1:], free


def _solve(
    matrices: np.ndarray,
    vectors: np.ndarray,
    shining: np.ndarray,
    groups: np.ndarray,
    n: int,
    config: MeasureCrosstalkConfig,
) -> VictimFit:
    """Coefficients from the normal equations of the blocks, errors from leaving out group after group."""
    numbers, index = np.unique(groups, return_inverse=True)
    grouped = np.zeros((numbers.size, n, n))
    sides = np.zeros((numbers.size, n))
    np.add.at(grouped, index, matrices)
    np.add.at(sides, index, vectors)
    lit = np.zeros((numbers.size, n), bool)
    np.logical_or.at(lit, index, shining)
    counts = lit.sum(axis=0)
    coefficients, errors = np.zeros(n), np.full(n, np.nan)
    total = grouped.sum(axis=0)
    known = np.flatnonzero((counts >= config.min_places) & (np.diag(total) > 0))
    known = known[_told_apart(total[np.ix_(known, known)])]
    if not known.size:
        return VictimFit(coefficients, errors, counts)
    total = total[np.ix_(known, known)]
    inverse = np.linalg.inv(total)
    best = inverse @ sides.sum(axis=0)[known]
    variance = np.zeros(known.size)
    for matrix, side in zip(grouped, sides):
        part = matrix[np.ix_(known, known)]
        if not part.any():
            continue
        rest = total - part
        # a place that holds all that is known of a source: nothing is left without it
        change = np.linalg.pinv(rest, rcond=1e-10, hermitian=True) @ (side[known] - part @ best)
        variance += change**2
    # matrix products round by where arrays lie in memory, which differs between processes: bytes must not
    coefficients[known] = np.round(best, _DECIMALS)
    # residuals that are alike in a place can only add to the noise of its pixels
    errors[known] = np.round(np.sqrt(np.maximum(variance, np.diag(inverse))), _DECIMALS)
    return VictimFit(coefficients, errors, counts)


def _told_apart(matrix: np.ndarray) -> np.ndarray:
    """Sources whose coefficients the normal equations determine."""
    if not matrix.size:
        return np.zeros(0, bool)
    scale = np.sqrt(np.diag(matrix))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    lost = vectors[:, values < _UNDETERMINED]
    return (lost**2).sum(axis=1) < 1e-3
