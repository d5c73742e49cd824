"""Smooth surfaces (LDM-151 9.1.1): two-dimensional Chebyshev series over a rectangle.

Background layers, calibration surfaces and coordinate maps are made of them. Evaluation uses additions and
multiplications in a fixed order only: the same position gives the same bits alone, in a grid, in a part of
the grid and on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.component import State, register
from skyquilt.primitives.geometry import Box


@register
@dataclass(frozen=True, eq=False)
class ChebyshevSurface:
    """f(x, y) = sum over i, j of coefficients[i, j] T_i(v) T_j(u), with u, v in -1..1 over the domain.

    Parameters
    ----------
    coefficients : ndarray, shape (order_y + 1, order_x + 1)
        Finite numbers, in the unit of f.
    x_min, x_max, y_min, y_max : float
        The domain, in the unit of the positions. Outside it the polynomial goes on.
    """

    coefficients: np.ndarray
    x_min: float
    x_max: float
    y_min: float
    y_max: float

    kind: ClassVar[str] = "chebyshev_surface"

    def __post_init__(self) -> None:
        coefficients = np.array(self.coefficients, dtype=np.float64, ndmin=2, order="C")
        if coefficients.ndim != 2 or coefficients.size == 0 or not np.isfinite(coefficients).all():
            raise ValueError(f"coefficients must be finite, shape (ny, nx), got {self.coefficients!r}")
        coefficients.flags.writeable = False
        object.__setattr__(self, "coefficients", coefficients)
        for name in ("x_min", "x_max", "y_min", "y_max"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not (-np.inf < self.x_min < self.x_max < np.inf and -np.inf < self.y_min < self.y_max < np.inf):
            raise ValueError(
                f"the domain x {self.x_min}..{self.x_max}, y {self.y_min}..{self.y_max} is empty"
            )

    @classmethod
    def over(cls, box: Box, coefficients: np.ndarray) -> ChebyshevSurface:
        """Surface whose domain is the pixels of a box, outer edges included."""
        return cls(coefficients, *_edges(box))

    @classmethod
    def interpolating(
        cls,
        function: Callable[[np.ndarray, np.ndarray], np.ndarray],
        orders: tuple[int, int],
        domain: tuple[float, float, float, float],
    ) -> ChebyshevSurface:
        """Surface of orders (y, x) that equals `function(x, y)` at the Chebyshev points of the domain.

        Exact (to rounding) for a polynomial of these orders; else close to the best approximation.

        Parameters
        ----------
        domain : (x_min, x_max, y_min, y_max)
        """
        ny, nx = orders[0] + 1, orders[1] + 1
        x_min, x_max, y_min, y_max = domain
        u, v = _chebyshev_points(nx), _chebyshev_points(ny)
        x, y = np.meshgrid(
            0.5 * (x_min + x_max) + 0.5 * (x_max - x_min) * u,
            0.5 * (y_min + y_max) + 0.5 * (y_max - y_min) * v,
        )
        values = np.asarray(function(x, y), dtype=np.float64)
        coefficients = _discrete_transform(v) @ values @ _discrete_transform(u).T
        return cls(coefficients, x_min, x_max, y_min, y_max)

    @property
    def orders(self) -> tuple[int, int]:
        """Polynomial orders (y, x)."""
        return self.coefficients.shape[0] - 1, self.coefficients.shape[1] - 1

    @property
    def domain(self) -> tuple[float, float, float, float]:
        """(x_min, x_max, y_min, y_max)."""
        return self.x_min, self.x_max, self.y_min, self.y_max

    @property
    def mean(self) -> float:
        """Mean value over the domain (the integral divided by the area)."""
        by_y, by_x = (_mean_of_polynomials(order) for order in self.orders)
        return float(by_y @ self.coefficients @ by_x)

    def evaluate(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Values at positions, float64 of their (broadcast) shape."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        values = np.empty(x.size)
        surface_at_points(self.coefficients, *self._scales, x.ravel(), y.ravel(), values)
        return values.reshape(x.shape)

    def on_grid(self, box: Box) -> np.ndarray:
        """Values at the pixels of a box, float64, shape (ny, nx)."""
        values = np.empty(box.shape)
        surface_on_grid(self.coefficients, *self._scales, box.x0, box.y0, values)
        return values

    def times(self, factor: float) -> ChebyshevSurface:
        """The surface multiplied by a number."""
        return ChebyshevSurface(self.coefficients * factor, *self.domain)

    def to_state(self) -> State:
        """Plain data."""
        return State(self.kind, {"domain": list(self.domain)}, {"coefficients": self.coefficients})

    @classmethod
    def from_state(cls, state: State) -> ChebyshevSurface:
        """Make the surface again."""
        return cls(state.arrays["coefficients"], *state.meta["domain"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChebyshevSurface):
            return NotImplemented
        return self.to_state() == other.to_state()

    __hash__ = None  # type: ignore[assignment]

    @property
    def _scales(self) -> tuple[float, float, float, float]:
        return (
            0.5 * (self.x_min + self.x_max),
            2.0 / (self.x_max - self.x_min),
            0.5 * (self.y_min + self.y_max),
            2.0 / (self.y_max - self.y_min),
        )


@kernel("void(float64, float64[:])")
def chebyshev_polynomials(u, values):
    """T_0(u) ... T_n(u) into `values`, shape (n + 1,)."""
    for k in range(values.size):
        if k == 0:
            values[k] = 1.0
        elif k == 1:
            values[k] = u
        else:
            values[k] = 2.0 * u * values[k - 1] - values[k - 2]


@kernel("void(const(float64[:, ::1]), float64, float64[:], float64[:])")
def _collapse_rows(coefficients, v, polynomials, in_x):
    chebyshev_polynomials(v, polynomials)
    for j in range(in_x.size):
        total = 0.0
        for i in range(polynomials.size):
            total += coefficients[i, j] * polynomials[i]
        in_x[j] = total


@kernel(
    "void(const(float64[:, ::1]), float64, float64, float64, float64, const(float64[:]), const(float64[:]), "
    "float64[:])"
)
def surface_at_points(coefficients, x_mid, x_scale, y_mid, y_scale, x, y, values):
    """Chebyshev series at points; x, y, values have shape (n,)."""
    polynomials = np.empty(coefficients.shape[0])
    in_x = np.empty(coefficients.shape[1])
    at_x = np.empty(coefficients.shape[1])
    for k in range(x.size):
        _collapse_rows(coefficients, (y[k] - y_mid) * y_scale, polynomials, in_x)
        chebyshev_polynomials((x[k] - x_mid) * x_scale, at_x)
        total = 0.0
        for j in range(in_x.size):
            total += in_x[j] * at_x[j]
        values[k] = total


@kernel("void(const(float64[:, ::1]), float64, float64, float64, float64, int64, int64, float64[:, ::1])")
def surface_on_grid(coefficients, x_mid, x_scale, y_mid, y_scale, x0, y0, values):
    """Chebyshev series at pixels x0.., y0..; values has shape (ny, nx). Bits as in `surface_at_points`."""
    ny, nx = values.shape
    n_x = coefficients.shape[1]
    polynomials = np.empty(coefficients.shape[0])
    in_x = np.empty(n_x)
    column = np.empty(n_x)
    at_x = np.empty((n_x, nx))
    for i in range(nx):
        chebyshev_polynomials((np.float64(x0 + i) - x_mid) * x_scale, column)
        for j in range(n_x):
            at_x[j, i] = column[j]
    for row in range(ny):
        _collapse_rows(coefficients, (np.float64(y0 + row) - y_mid) * y_scale, polynomials, in_x)
        for i in range(nx):
            values[row, i] = 0.0
        for j in range(n_x):
            factor = in_x[j]
            for i in range(nx):
                values[row, i] += factor * at_x[j, i]


def _edges(box: Box) -> tuple[float, float, float, float]:
    return box.x0 - 0.5, box.x0 + box.nx - 0.5, box.y0 - 0.5, box.y0 + box.ny - 0.5


def _chebyshev_points(n: int) -> np.ndarray:
    return np.cos(np.pi * (np.arange(n) + 0.5) / n)


def _discrete_transform(u: np.ndarray) -> np.ndarray:
    # discrete orthogonality of T_k at the Chebyshev points
    transform = np.polynomial.chebyshev.chebvander(u, u.size - 1).T * (2.0 / u.size)
    transform[0] *= 0.5
    return transform


def _mean_of_polynomials(order: int) -> np.ndarray:
    k = np.arange(order + 1)
    # the integral of T_k over -1..1 is 2 / (1 - k^2) for even k and 0 for odd k
    return np.where(k % 2 == 0, 1.0 / (1.0 - k**2 + (k == 1)), 0.0)
