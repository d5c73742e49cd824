"""Crosstalk and linearity (LDM-151 8.1): what other amplifiers and a curved response did to stored ADU.

Both act on ADU above bias and in the order of read-out, so one pass over the read-out rows of all amplifiers of a
detector does both. Pixel (r, c) of the read-out is the one that is digitized r rows and c columns after the first
pixel, prescan counted, at the output's corner of the assembled area; amplifiers may differ in size. The stored
values of the sources are used, saturated ones too: a converter at its limit couples what it shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.compiled import kernel

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Amplifier, Detector
    from skyquilt.primitives.detector_characterization import Crosstalk, Linearizer


@dataclass(frozen=True)
class CrosstalkConfig:
    """Correction of crosstalk."""

    flag_sigma: float = 5.0
    """Pixels changed by more than this become CROSSTALK [sigma of read and photon noise]; 0 for none."""

    def __post_init__(self) -> None:
        if self.flag_sigma < 0:
            raise ValueError(f"crosstalk.flag_sigma must not be negative, got {self.flag_sigma}")


def read_out_order(amplifier: Amplifier) -> tuple[bool, bool, int, int]:
    """How assembled pixels become read-out order.

    Returns
    -------
    flip_x, flip_y : bool
        Whether columns, rows of the assembled area are read from its end.
    row, column : int
        Pixels digitized before the first pixel of the data, along the column and along the row.
    """
    flip_x = amplifier.read_out.endswith("right")
    flip_y = amplifier.read_out.startswith("upper")
    data, section = amplifier.raw_data, amplifier.raw_section
    column = section.nx - data.x1 if flip_x != amplifier.flip_x else data.x0
    row = section.ny - data.y1 if flip_y != amplifier.flip_y else data.y0
    return flip_x, flip_y, row, column


def read_out_table(detector: Detector) -> np.ndarray:
    """Per amplifier: first x, first y, step x, step y, nx, ny, row and column of the read-out; int64 (n, 8).

    Rows and columns of the read-out count from the earliest data pixel of any amplifier.
    """
    table = np.empty((len(detector.amplifiers), 8), np.int64)
    for number, amplifier in enumerate(detector.amplifiers):
        flip_x, flip_y, row, column = read_out_order(amplifier)
        box = amplifier.data
        table[number] = (
            box.x1 - 1 if flip_x else box.x0,
            box.y1 - 1 if flip_y else box.y0,
            -1 if flip_x else 1,
            -1 if flip_y else 1,
            box.nx,
            box.ny,
            row,
            column,
        )
    table[:, 6:] -= table[:, 6:].min(axis=0)
    return table


@kernel(
    "void(float32[:, :], int32[:, :], const(int64[:, :]), const(float32[:, :]), const(float32[:, :]), "
    "const(float64[:, :]), float64, const(boolean[:]), int32)"
)
def correct_read_out(image, mask, table, coefficients, noise, corrections, step, linearized, crosstalk_bit):
    """Subtract crosstalk and add the correction of linearity, in place.

    Parameters
    ----------
    image : float32, shape (ny, nx)
        [ADU] above bias; NaN is no source and stays.
    mask : int32, shape (ny, nx)
        `crosstalk_bit` is added.
    table : int64, shape (n, 8)
        Of `read_out_table`.
    coefficients : float32, shape (n, n) or (0, 0)
        [victim, source].
    noise : float32, shape (n, 2)
        Per amplifier: squared limit of an unmarked correction is ``noise[0] + noise[1] * level`` [ADU^2].
    corrections : float64, shape (n, knots) or (0, 0)
        [ADU], to be added to a stored level, knots `step` apart.
    linearized : bool, shape (n,)
    """
    n = table.shape[0]
    with_crosstalk = coefficients.shape[0] == n
    height = 0
    width = 0
    for k in range(n):
        height = max(height, table[k, 5] + table[k, 6])
        width = max(width, table[k, 4] + table[k, 7])
    stored = np.zeros((n, width), np.float32)
    leak = np.zeros(width, np.float32)
    knots = corrections.shape[1]
    for r in range(height):
        if with_crosstalk:
            for k in range(n):
                j = r - table[k, 6]
                first = table[k, 7]
                if j < 0 or j >= table[k, 5]:
                    stored[k, :] = np.float32(0)
                    continue
                row = image[table[k, 1] + table[k, 3] * j]
                x, dx = table[k, 0], table[k, 2]
                for i in range(table[k, 4]):
                    value = row[x + dx * i]
                    stored[k, first + i] = value if np.isfinite(value) else np.float32(0)
        for k in range(n):
            j = r - table[k, 6]
            if j < 0 or j >= table[k, 5]:
                continue
            y = table[k, 1] + table[k, 3] * j
            x, dx = table[k, 0], table[k, 2]
            first, count = table[k, 7], table[k, 4]
            row = image[y]
            if with_crosstalk:
                leak[:] = np.float32(0)
                for source in range(n):
                    factor = coefficients[k, source]
                    if factor != 0:
                        line = stored[source]
                        for i in range(width):
                            leak[i] += factor * line[i]
                for i in range(count):
                    change = leak[first + i]
                    row[x + dx * i] -= change
                    if change * change > noise[k, 0] + noise[k, 1] * max(stored[k, first + i], np.float32(0)):
                        mask[y, x + dx * i] |= crosstalk_bit
            if linearized[k]:
                table_row = corrections[k]
                for i in range(count):
                    value = row[x + dx * i]
                    # not for NaN either
                    if value > 0:
                        place = np.float64(value) / step
                        if place >= knots - 1:
                            change_linear = table_row[knots - 1]
                        else:
                            knot = int(place)
                            share = place - knot
                            change_linear = table_row[knot] * (1.0 - share) + table_row[knot + 1] * share
                        row[x + dx * i] = value + np.float32(change_linear)


def correct_crosstalk_and_linearity(
    image: np.ndarray,
    mask: np.ndarray,
    detector: Detector,
    crosstalk: Crosstalk | None,
    linearizer: Linearizer | None,
    config: CrosstalkConfig,
    read_noise: np.ndarray,
    gain: np.ndarray,
    crosstalk_bit: int,
) -> None:
    """Both corrections on an assembled image [ADU], in place; a component that is None is left out.

    Parameters
    ----------
    read_noise, gain : ndarray, shape (n,)
        Per amplifier [electron], [electron / ADU]: what a correction is compared with.
    """
    n = len(detector.amplifiers)
    names = detector.amplifier_names
    coefficients = np.empty((0, 0), np.float32)
    if crosstalk is not None:
        order = [crosstalk.amplifiers.index(name) for name in names]
        coefficients = np.nan_to_num(crosstalk.coefficients[np.ix_(order, order)]).astype(np.float32)
        np.fill_diagonal(coefficients, 0)
    corrections, step, linearized = np.zeros((0, 0)), 1.0, np.zeros(n, bool)
    if linearizer is not None:
        order = [linearizer.amplifiers.index(name) for name in names]
        corrections, step = np.ascontiguousarray(linearizer.corrections[order]), float(linearizer.step)
        linearized = np.isfinite(corrections).all(axis=1) & corrections.any(axis=1)
    limit = config.flag_sigma**2 if config.flag_sigma > 0 else np.inf
    noise = np.stack([limit * (read_noise / gain) ** 2, limit / gain], axis=1).astype(np.float32)
    correct_read_out(
        image,
        mask,
        read_out_table(detector),
        coefficients,
        noise,
        corrections,
        step,
        linearized,
        crosstalk_bit,
    )
