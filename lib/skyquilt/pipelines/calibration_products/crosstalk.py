"""Calibration Products Production (LDM-151 4.1.2.3): crosstalk between the amplifiers of a detector.

Wherever an amplifier reads something bright (a star of an ordinary science frame, or a projected spot), the
others that read at the same moment are looked at: their values about their own background, regressed on
those of all bright amplifiers at once. Stored values are used, above overscan, before crosstalk and linearity
are corrected (Freyhammer et al. 2001).

The places are blocks of the common read-out. Within a block the background is a surface of second degree, and
sources of the victim's own and its defects are masked. What remains of faint ones is noise that is alike in a
place, so errors come from the scatter of places (a jackknife over them), not of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms.instrument_signature_removal.crosstalk import read_out_table
from skyquilt.pipelines.calibration_products.crosstalk_fit import Places, first_guess, fit_victim
from skyquilt.pipelines.calibration_products.flat_frames import MeasuredFrame, measured_frame
from skyquilt.primitives.detector_characterization import Crosstalk
from skyquilt.primitives.failure import Outcome, ProcessingFailure, Reason, attempt

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal import (
        DetectorCalibrations,
        InstrumentSignatureRemovalConfig,
    )
    from skyquilt.instrument.camera import Detector
    from skyquilt.instrument.raw import RawFrame


@dataclass(frozen=True)
class MeasureCrosstalkConfig:
    """Options of `measure_crosstalk`."""

    bright: float = 5000.0
    """A source counts from this level on [ADU above its background]."""
    block: int = 32
    """Side of the blocks in which the victim's background is a surface of second degree [pixel]."""
    detection: float = 4.0
    """What stands out of the victim by more, in the mean of 3 x 3 pixels, is a source of its own [sigma]."""
    grow: int = 3
    """Such sources are grown by this [pixel]."""
    min_good: float = 0.3
    """Least share of a block's pixels that are free of the victim's own sources."""
    min_distance: float = 64.0
    """Pixels that are nearer to each other on the detector are not compared: a star's own wings are there."""
    min_places: int = 3
    """Fewest places at which a pair of amplifiers must be measured."""
    max_memory: float = 200.0
    """Most pixels kept; the brightest places stay [MB]."""
    iterations: int = 4
    """Turns in which masks follow the coefficients."""

    def __post_init__(self) -> None:
        if self.bright <= 0 or self.block < 8 or self.detection < 2 or self.grow < 0:
            raise ValueError(
                "crosstalk needs bright > 0 ADU, block >= 8 pixels, detection >= 2 sigma and grow >= 0 pixels"
            )
        if not 0 < self.min_good <= 1 or self.min_distance < 0 or self.min_places < 2:
            raise ValueError("crosstalk needs min_good in 0..1, min_distance >= 0 and min_places >= 2")
        if self.max_memory <= 0 or self.iterations < 1:
            raise ValueError("crosstalk needs max_memory > 0 MB and iterations >= 1")


def measure_crosstalk(
    read: Callable[[int], RawFrame],
    n_frames: int,
    calibrations: DetectorCalibrations,
    config: MeasureCrosstalkConfig,
    isr: InstrumentSignatureRemovalConfig,
) -> tuple[Crosstalk, dict[str, Any]]:
    """Crosstalk coefficients of one detector (LDM-151 4.1.2.3).

    Parameters
    ----------
    read : callable
        `read(i)` opens frame i; a ProcessingFailure it raises leaves the frame out with its reason.
    n_frames : int
        Frames 0 .. n_frames - 1, of the sky or of projected spots.
    calibrations : DetectorCalibrations
        Bias and defects are used as far as they are there.
    config : MeasureCrosstalkConfig
    isr : InstrumentSignatureRemovalConfig

    Returns
    -------
    Crosstalk
        A pair that could not be measured has coefficient 0 and error NaN.
    dict
        Plain JSON: frames, the matrix with its errors and the number of places of each pair.

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS when no pair could be measured.
    """
    keeper = _Keeper(config)

    def look(i: int) -> int:
        frame = measured_frame(read(i), calibrations, isr, without=("crosstalk", "linearity"), uniform=False)
        return keeper.add(frame, i)

    outcomes = [attempt(look, i) for i in range(n_frames)]
    detector = keeper.detector
    if detector is None:
        raise ProcessingFailure(
            Reason.TOO_FEW_INPUTS, f"crosstalk: no usable frame of {n_frames}; {_left_out(outcomes)}"
        )
    places, n = keeper.places(), len(detector.amplifiers)
    coefficients, errors = np.zeros((n, n)), np.full((n, n), np.nan)
    counts = np.zeros((n, n), np.int64)
    for victim in range(n):
        if places.values.shape[0] and n > 1:
            coefficients[victim], errors[victim], counts[victim] = _measure(places, victim, config)
    np.fill_diagonal(errors, 0.0)
    if n > 1 and not np.isfinite(errors[~np.eye(n, dtype=bool)]).any():
        raise ProcessingFailure(
            Reason.TOO_FEW_INPUTS,
            f"crosstalk: no pair of amplifiers has {config.min_places} places where one is above "
            f"{config.bright:g} ADU and the other free, in {n_frames} frames; {_left_out(outcomes)}",
        )
    component = Crosstalk(tuple(detector.amplifier_names), coefficients, errors)
    return component, _figures(component, counts, places, outcomes)


def _left_out(outcomes: list[Outcome]) -> str:
    return "left out: " + (", ".join(sorted(each.reason.value for each in outcomes if each.reason)) or "none")


def _measure(
    places: Places, victim: int, config: MeasureCrosstalkConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients, errors and numbers of places of one victim for all sources."""
    row = first_guess(places, victim, config)
    for _ in range(config.iterations):
        found = fit_victim(places, victim, row, config)
        change = np.nanmax(np.abs(found.coefficients - row) / found.errors, initial=0.0)
        row = found.coefficients
        if change < 0.05:
            break
    return row, found.errors, found.counts


class _Keeper:
    """Collects the brightest blocks of the read-out, all amplifiers side by side."""

    def __init__(self, config: MeasureCrosstalkConfig) -> None:
        self.detector: Detector | None = None
        self._config = config
        self._kept: list[tuple[float, int, int, int, np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, frame: MeasuredFrame, number: int) -> int:
        """Keep the blocks of a frame in which an amplifier is bright; returns how many there are."""
        detector, config = frame.detector, self._config
        self.detector = detector
        table = read_out_table(detector)
        values, good = _read_out_planes(frame, table)
        bright = _bright(values, config.bright)
        far = _far_enough(table, values.shape[1:], config)
        found = 0
        for j in range(0, values.shape[1] - config.block + 1, config.block):
            for i in range(0, values.shape[2] - config.block + 1, config.block):
                part = (slice(None), slice(j, j + config.block), slice(i, i + config.block))
                shining = bright[part].reshape(len(values), -1).any(axis=1)
                if not shining.any():
                    continue
                found += 1
                allowed = far[:, :, j // config.block, i // config.block]
                power = float(np.square(np.where(bright[part], values[part], 0), dtype=np.float64).sum())
                # a victim near to a bright source is of no use here
                free = ~(~allowed & shining[None, :]).any(axis=1)
                usable = good[part] & free[:, None, None]
                key = (number, j // (4 * config.block), i // (4 * config.block))
                self._kept.append((power, *key, values[part].copy(), usable.copy(), shining))
        self._shrink()
        return found

    def _shrink(self) -> None:
        if not self._kept:
            return
        size = 5 * self._kept[0][4].size
        most = max(int(self._config.max_memory * 1e6 // size), 16)
        if len(self._kept) > most:
            self._kept.sort(key=lambda each: (-each[0], *each[1:4]))
            del self._kept[most:]

    def places(self) -> Places:
        """All that was kept."""
        n = 0 if self.detector is None else len(self.detector.amplifiers)
        side = self._config.block
        if not self._kept:
            empty = np.empty((0, n, side, side), np.float32)
            return Places(empty, empty.astype(bool), np.empty((0, n), bool), np.empty(0, np.int64))
        keys = sorted({each[1:4] for each in self._kept})
        number = {key: k for k, key in enumerate(keys)}
        return Places(
            np.array([each[4] for each in self._kept]),
            np.array([each[5] for each in self._kept]),
            np.array([each[6] for each in self._kept]),
            np.array([number[each[1:4]] for each in self._kept]),
        )


def _read_out_planes(frame: MeasuredFrame, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values [ADU] and good pixels of the amplifiers by moment of read-out, shape (n, rows, columns).

    0 and not good where an amplifier has no pixel at the moment, or none that is known.
    """
    height, width = int((table[:, 5] + table[:, 6]).max()), int((table[:, 4] + table[:, 7]).max())
    values = np.zeros((len(table), height, width), np.float32)
    good = np.zeros(values.shape, bool)
    for k, amplifier in enumerate(frame.detector.amplifiers):
        step_x, step_y, nx, ny, row, column = (int(each) for each in table[k, 2:])
        part = amplifier.data.slices()
        target = (k, slice(row, row + ny), slice(column, column + nx))
        values[target] = np.nan_to_num(frame.image[part][::step_y, ::step_x], nan=0.0)
        good[target] = frame.good[part][::step_y, ::step_x]
        clipped = _at_the_converters_limit(frame.image[part])
        if clipped is not None:
            # what the amplifier really held is not known: nobody can be a victim of it
            good[(slice(None), *target[1:])] &= ~clipped[::step_y, ::step_x]
    return values, good


def _at_the_converters_limit(image: np.ndarray) -> np.ndarray | None:
    """Pixels at the highest value when a converter cut there: many at it, none within a few ADU below.

    The overscan level, which changes by less than an ADU from row to row, was subtracted before.
    """
    finite = image[np.isfinite(image)]
    if not finite.size:
        return None
    top = float(finite.max())
    at, below = (finite > top - 2).sum(), ((finite <= top - 2) & (finite > top - 12)).sum()
    if at < 20 or at < 5 * below:
        return None
    return image > top - 2


def _bright(values: np.ndarray, threshold: float) -> np.ndarray:
    """Pixels above the median of their amplifier by more than the threshold."""
    level = np.median(values[:, ::4, ::4], axis=(1, 2))
    return values - level[:, None, None] > threshold


def _far_enough(table: np.ndarray, shape: tuple[int, int], config: MeasureCrosstalkConfig) -> np.ndarray:
    """Whether what victim and source read at a moment lies apart on the detector, per block: (n, n, by, bx)."""
    side = config.block
    rows = np.arange(0, shape[0] - side + 1, side) + 0.5 * (side - 1)
    columns = np.arange(0, shape[1] - side + 1, side) + 0.5 * (side - 1)
    y = table[:, 1, None] + table[:, 3, None] * (rows[None, :] - table[:, 6, None])
    x = table[:, 0, None] + table[:, 2, None] * (columns[None, :] - table[:, 7, None])
    dy, dx = y[:, None, :] - y[None, :, :], x[:, None, :] - x[None, :, :]
    far = np.hypot(dy[:, :, :, None], dx[:, :, None, :]) >= config.min_distance
    far[np.arange(len(table)), np.arange(len(table))] = True
    return far


def _figures(
    component: Crosstalk, counts: np.ndarray, places: Places, outcomes: list[Outcome]
) -> dict[str, Any]:
    """Plain numbers for manifest and page."""
    return {
        "amplifiers": list(component.amplifiers),
        "coefficients": component.coefficients.tolist(),
        "errors": [[float(e) if np.isfinite(e) else None for e in row] for row in component.errors],
        "places": counts.tolist(),
        "blocks": int(places.values.shape[0]),
        "bright_blocks_of_frames": [each.value if each.ok else None for each in outcomes],
        "left_out": [
            {"frame": each.item, "reason": each.reason.value, "detail": each.detail}
            for each in outcomes
            if each.reason
        ],
    }
