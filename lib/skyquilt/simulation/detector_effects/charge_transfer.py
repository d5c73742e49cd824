"""Simulation (design 7): charge on its way to the output: transfers that leave some behind, and traps.

A transfer leaves a share of the charge of a packet behind, which packets that follow pick up over about
`RELEASE` transfers, those of the overscan too. Charge is kept, but for what is left after the last packet.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel

RELEASE = 1.5
"""Packets over which deferred charge is released."""

TRAP_SHARE = 0.8
"""Largest share of a packet that a trap takes."""


@kernel("float64(float32[:, ::1], float64, float64)")
def defer_along_rows(section, rate, release):
    """Serial transfers: each packet leaves `rate` of its charge behind per transfer.

    Parameters
    ----------
    section : ndarray of float32, shape (ny, nx) [e]
        In the order of read-out, all of it: pixel i makes i + 1 transfers. Changed in place.
    rate : float
    release : float
        Packets over which deferred charge is released.

    Returns
    -------
    float
        Charge that was left after the last packets [e].
    """
    ny, nx = section.shape
    let_go = 1 - np.exp(-1 / release)
    left = 0.0
    for j in range(ny):
        kept = 0.0
        for i in range(nx):
            taken = rate * (i + 1) * section[j, i]
            given = kept * let_go
            section[j, i] += np.float32(given - taken)
            kept += taken - given
        left += kept
    return left


@kernel("float64(float32[:, ::1], float64, float64)")
def defer_along_columns(section, rate, release):
    """Parallel transfers; parameters and result as of `defer_along_rows`, with rows in place of columns."""
    ny, nx = section.shape
    let_go = 1 - np.exp(-1 / release)
    kept = np.zeros(nx)
    for j in range(ny):
        for i in range(nx):
            taken = rate * (j + 1) * section[j, i]
            given = kept[i] * let_go
            section[j, i] += np.float32(given - taken)
            kept[i] += taken - given
    return kept.sum()


def pass_traps(section: np.ndarray, rows: np.ndarray, columns: np.ndarray, depths: np.ndarray) -> None:
    """Packets that pass a trap lose its depth, but no more than `TRAP_SHARE` of them; the traps empty later.

    Parameters
    ----------
    section : ndarray, shape (ny, nx) [e]
        In the order of read-out. Changed in place.
    rows, columns : ndarray of int, shape (n,)
        Places of the traps: packets of that row and later ones of the column pass them.
    depths : ndarray, shape (n,) [e]
    """
    for row, column, depth in zip(rows.tolist(), columns.tolist(), depths.tolist(), strict=True):
        packets = section[row:, column]
        packets -= np.clip(TRAP_SHARE * packets, 0, depth)
