"""Calibration Products Production (LDM-151 4.1.2.3): where flats show that wells are full."""

from __future__ import annotations

import math

import numpy as np


def turned_over(
    levels: np.ndarray, variances: np.ndarray, errors: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray, bool]:
    """Pairs below the level from which on the variance falls, and whether there is such a level."""
    before = np.ones(levels.size, bool)
    best, best_error = 0.0, 0.0
    for index in np.argsort(np.where(np.isfinite(levels), levels, np.inf), kind="stable"):
        if not usable[index]:
            continue
        tolerance = 5 * math.hypot(errors[index], best_error)
        if variances[index] < best - max(tolerance, 0.02 * best):
            before &= levels < levels[index]
            return before, True
        if variances[index] > best:
            best, best_error = variances[index], errors[index]
    return before, False


def response_end(levels: np.ndarray, exposures: np.ndarray, known: np.ndarray, before: np.ndarray) -> float:
    """Level of the full well [ADU]: where the response ends if a pair shows it, else the highest before the turn.

    NaN when no pair reaches it.
    """
    order = np.flatnonzero(known)[np.argsort(levels[known], kind="stable")]
    timed = order[np.isfinite(exposures[order]) & (exposures[order] > 0)]
    if timed.size >= 2:
        rate = levels[timed] / exposures[timed]
        reference = np.median(rate[: max(timed.size // 2, 1)])
        ended = timed[rate < 0.9 * reference]
        # light that varies between exposures is no end of the response: then the levels are not alike
        if ended.size and levels[ended].min() > 0.9 * levels[timed].max():
            return float(np.median(levels[ended]))
    if before[order].all() or not before[order].any():
        return math.nan
    return float(levels[order[before[order]]].max())
