"""Sky sources (LDM-151 8.6.1.1): places without sources, measured like sources, that show what noise and background do."""

from __future__ import annotations

import numpy as np

from skyquilt.algorithms.measurement.neighbour_noise import stream_seed
from skyquilt.primitives.compiled import kernel


@kernel("int64(const(boolean[:, ::1]), const(int64[:, ::1]), int64, int64, boolean[::1])")
def free_places(occupied, places, margin, wanted, chosen):
    """Mark in `chosen` (n,) the first `wanted` places (n, 2: x, y) around which a square is free; how many there are.

    The square has half side `margin` and lies inside of the image; chosen squares do not overlap with their centres'.
    """
    rows, columns = occupied.shape
    found = 0
    for k in range(places.shape[0]):
        if found == wanted:
            break
        x, y = places[k, 0], places[k, 1]
        if x < margin or y < margin or x + margin >= columns or y + margin >= rows:
            continue
        free = True
        for m in range(k):
            if chosen[m] and abs(places[m, 0] - x) <= margin and abs(places[m, 1] - y) <= margin:
                free = False
                break
        j = y - margin
        while free and j <= y + margin:
            for i in range(x - margin, x + margin + 1):
                if occupied[j, i]:
                    free = False
                    break
            j += 1
        if free:
            chosen[k] = True
            found += 1
    return found


def place_sky_sources(occupied: np.ndarray, wanted: int, margin: int, seed: int) -> np.ndarray:
    """Places away from footprints and unusable pixels, the same for the same detector of the same visit.

    Parameters
    ----------
    occupied : ndarray of bool, shape (ny, nx)
    wanted : int
        Number of places; fewer where there is no room (of 50 tries for each).
    margin : int
        No occupied pixel lies within this many rows and columns [pixel].
    seed : int
        Of visit and detector.

    Returns
    -------
    ndarray of int64, shape (n, 2)
        x, y [pixel], in ascending (y, x).
    """
    rows, columns = occupied.shape
    if wanted == 0 or min(rows, columns) <= 2 * margin:
        return np.empty((0, 2), dtype=np.int64)
    generator = np.random.default_rng(stream_seed(seed, 0x736B79))
    tries = 50 * wanted
    places = np.column_stack(
        [
            generator.integers(margin, columns - margin, tries),
            generator.integers(margin, rows - margin, tries),
        ]
    ).astype(np.int64)
    chosen = np.zeros(tries, dtype=bool)
    free_places(np.ascontiguousarray(occupied), places, margin, wanted, chosen)
    found = places[chosen]
    return found[np.lexsort((found[:, 0], found[:, 1]))]
