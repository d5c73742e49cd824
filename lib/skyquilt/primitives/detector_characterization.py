"""Detector characterization (LDM-151 4.1.2.3): what is measured once of a detector and corrected in every frame.

Each is a component of one detector: crosstalk, linearity, photon transfer, the brighter-fatter kernel and
defects. Amplifiers are known by name, in the order of the camera definition. Levels are ADU above the
overscan (crosstalk, linearity) or electrons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from skyquilt.primitives.component import State, register

DEFECT_KINDS = ("hot", "dead", "bright_column", "dark_column", "trap", "manual", "low_response")
"""Kinds of defects; their place is the number in a State: append, never insert."""


class _ArraysComponent:
    """State of a dataclass: arrays go into arrays, the rest into the metadata."""

    kind: str

    def to_state(self) -> State:
        """Plain data from which `from_state` makes an equal object."""
        meta: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                arrays[item.name] = value
            else:
                meta[item.name] = list(value) if isinstance(value, tuple) else value
        return State(self.kind, meta, arrays)

    @classmethod
    def from_state(cls, state: State) -> Any:
        """Make the object again."""
        meta = {name: tuple(v) if isinstance(v, list) else v for name, v in state.meta.items()}
        return cls(**meta, **state.arrays)


def _check_shape(what: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {shape}")


@register("crosstalk")
@dataclass(frozen=True, eq=False)
class Crosstalk(_ArraysComponent):
    """Crosstalk between the amplifiers of a detector.

    Parameters
    ----------
    amplifiers : tuple of str
    coefficients : ndarray of float64, shape (n, n)
        [victim, source]: ADU that appear in the victim for each ADU above bias that the source digitizes at the
        same moment of read-out. The diagonal is 0.
    errors : ndarray of float64, shape (n, n)
        Standard errors; NaN where a pair could not be measured (its coefficient is 0 then).
    """

    amplifiers: tuple[str, ...]
    coefficients: np.ndarray
    errors: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.amplifiers)
        _check_shape("coefficients", self.coefficients, (n, n))
        _check_shape("errors", self.errors, (n, n))


@register("linearizer")
@dataclass(frozen=True, eq=False)
class Linearizer(_ArraysComponent):
    """Correction of nonlinearity by a table with equal steps, interpolated linearly.

    Parameters
    ----------
    amplifiers : tuple of str
    step : float
        Distance of the knots [ADU]; knot k stands at k * step above the overscan.
    corrections : ndarray of float64, shape (n, knots)
        To be added to a stored level [ADU]. Below 0 there is none; beyond the last knot the last one's holds.
    errors : ndarray of float64, shape (n, knots)
        Standard errors [ADU]; NaN where the table was not measured.
    slope_errors : ndarray of float64, shape (n, knots)
        Standard errors of the slope of the linear level between a knot and the next; NaN where the table was not
        measured.
    measured : tuple of bool
        Per amplifier: whether from flats; otherwise from the camera definition.
    largest : ndarray of float64, shape (n,)
        Highest stored level at which the table was measured [ADU].
    """

    amplifiers: tuple[str, ...]
    step: float
    corrections: np.ndarray
    errors: np.ndarray
    slope_errors: np.ndarray
    measured: tuple[bool, ...]
    largest: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.amplifiers)
        if self.step <= 0 or self.corrections.ndim != 2:
            raise ValueError(f"a linearizer needs a step > 0 and a table of two axes, got {self.step}")
        _check_shape("corrections", self.corrections, (n, self.corrections.shape[1]))
        _check_shape("errors", self.errors, self.corrections.shape)
        _check_shape("slope_errors", self.slope_errors, self.corrections.shape)
        _check_shape("largest", self.largest, (n,))

    @classmethod
    def from_polynomials(
        cls, amplifiers: Sequence[str], polynomials: Sequence[Sequence[float]], step: float = 256.0
    ) -> Linearizer:
        """From a camera definition's coefficients (c2, c3, ...): linear = v + c2 v^2 + c3 v^3 ... [ADU]."""
        levels = step * np.arange(int(np.ceil(65536 / step)) + 1)
        tables = [sum((c * levels ** (k + 2) for k, c in enumerate(p)), 0.0 * levels) for p in polynomials]
        corrections = np.array(tables).reshape(len(amplifiers), levels.size)
        return cls(
            tuple(amplifiers),
            float(step),
            corrections,
            np.full(corrections.shape, np.nan),
            np.full(corrections.shape, np.nan),
            (False,) * len(amplifiers),
            np.full(len(amplifiers), np.nan),
        )

    def slope_error(self, number: int, level: np.ndarray) -> np.ndarray:
        """Standard error of the slope of the linear level at stored levels [ADU above overscan]; NaN if unknown."""
        knot = np.clip((np.asarray(level) / self.step).astype(np.int64), 0, self.corrections.shape[1] - 1)
        return self.slope_errors[number][knot]

    def linear(self, number: int, level: np.ndarray) -> np.ndarray:
        """Linear level of a stored one [ADU above overscan], for amplifier `number`: the plain form."""
        knots = self.step * np.arange(self.corrections.shape[1])
        return level + np.interp(level, knots, self.corrections[number], left=0.0)


@register("photon_transfer")
@dataclass(frozen=True, eq=False)
class PhotonTransfer(_ArraysComponent):
    """Photon transfer of the amplifiers: gain, noise, full well, and covariances of flat pairs.

    Parameters
    ----------
    amplifiers : tuple of str
    gain, gain_error : ndarray of float64, shape (n,)
        [electron / ADU]; NaN where not measured.
    read_noise, read_noise_error : ndarray of float64, shape (n,)
        [electron]; NaN where not measured.
    full_well : ndarray of float64, shape (n,)
        Level at which the variance turns over or the response ends [electron]; NaN when the flats do not reach it.
    a00 : ndarray of float64, shape (n,)
        Brighter-fatter coefficient of the variance [1 / electron]; NaN where not measured.
    levels : ndarray of float64, shape (n, pairs)
        Mean signal of each pair of flats [electron], NaN where a pair was not used.
    covariances, covariance_errors : ndarray of float64, shape (n, pairs, lags, lags)
        Of one frame, at lags (row, column) from 0 [electron^2]; [.., 0, 0] is the variance, read noise included.
    """

    amplifiers: tuple[str, ...]
    gain: np.ndarray
    gain_error: np.ndarray
    read_noise: np.ndarray
    read_noise_error: np.ndarray
    full_well: np.ndarray
    a00: np.ndarray
    levels: np.ndarray
    covariances: np.ndarray
    covariance_errors: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.amplifiers)
        for name in ("gain", "gain_error", "read_noise", "read_noise_error", "full_well", "a00"):
            _check_shape(name, getattr(self, name), (n,))
        if self.covariances.ndim != 4 or self.covariances.shape[:2] != (n, self.levels.shape[1]):
            raise ValueError(f"covariances have shape {self.covariances.shape}, levels {self.levels.shape}")


@register("brighter_fatter_kernel")
@dataclass(frozen=True, eq=False)
class BrighterFatterKernel(_ArraysComponent):
    """Kernel of the brighter-fatter correction of a detector.

    Parameters
    ----------
    amplifiers : tuple of str
    kernel : ndarray of float64, shape (n, 2 r + 1, 2 r + 1)
        Potential of one electron, in the axes of the assembled detector [1 / electron]: pixels repel charge by
        its gradient.
    level_correction : ndarray of float64, shape (n,)
        Share of the measured covariances that the kernel stands for (1 when nothing was left out).
    """

    amplifiers: tuple[str, ...]
    kernel: np.ndarray
    level_correction: np.ndarray

    def __post_init__(self) -> None:
        if self.kernel.ndim != 3 or self.kernel.shape[0] != len(self.amplifiers):
            raise ValueError(f"kernel has shape {self.kernel.shape} for {len(self.amplifiers)} amplifiers")
        if self.kernel.shape[1] != self.kernel.shape[2] or self.kernel.shape[1] % 2 == 0:
            raise ValueError(f"kernel must be square and odd, got {self.kernel.shape[1:]}")


@register("defects")
@dataclass(frozen=True, eq=False)
class Defects(_ArraysComponent):
    """Defects of a detector, as boxes of assembled pixels.

    Parameters
    ----------
    boxes : ndarray of int32, shape (n, 4)
        x0, y0, nx, ny.
    kinds : ndarray of int16, shape (n,)
        Index into DEFECT_KINDS.
    values : ndarray of float64, shape (n,)
        What it was found by: dark current [electron / s] of hot ones, response of dead ones, NaN otherwise.
    """

    boxes: np.ndarray = field(default_factory=lambda: np.empty((0, 4), np.int32))
    kinds: np.ndarray = field(default_factory=lambda: np.empty(0, np.int16))
    values: np.ndarray = field(default_factory=lambda: np.empty(0, np.float64))

    def __post_init__(self) -> None:
        n = self.kinds.size
        _check_shape("boxes", self.boxes, (n, 4))
        _check_shape("values", self.values, (n,))

    def pixels(self, shape: tuple[int, int]) -> np.ndarray:
        """Where they are: bool, shape (ny, nx); boxes are cut at the edges."""
        where = np.zeros(shape, dtype=bool)
        for x0, y0, nx, ny in self.boxes.tolist():
            where[max(y0, 0) : max(y0 + ny, 0), max(x0, 0) : max(x0 + nx, 0)] = True
        return where
