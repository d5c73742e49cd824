"""Coordinate Transformations (LDM-151 9.7): maps of the plane onto itself, with exact inverse and Jacobian.

Each map takes and returns two float64 arrays of any common shape. `Wcs` chains them: detector pixel, focal
plane [mm], field angle [deg], tangent plane [deg].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.component import State, from_state, join_states, register, split_state

Pair = tuple[np.ndarray, np.ndarray]

_MAX_ITERATIONS = 50
_TOLERANCE = 1e-10


class Transform(ABC):
    """A map (x, y) -> (u, v) with an inverse. Objects are not changed but replaced."""

    kind: str

    @abstractmethod
    def forward(self, x: float | np.ndarray, y: float | np.ndarray) -> Pair:
        """(u, v) of points, broadcast, float64."""

    @abstractmethod
    def inverse(self, u: float | np.ndarray, v: float | np.ndarray) -> Pair:
        """(x, y) with forward(x, y) = (u, v) to 1e-10 of the unit of x; NaN where there is none."""

    @abstractmethod
    def jacobian(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Derivatives at points, shape (..., 2, 2): [[du/dx, du/dy], [dv/dx, dv/dy]]."""

    @abstractmethod
    def to_state(self) -> State:
        """Plain data from which `from_state` makes an equal map."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: State) -> Transform:
        """Make the map again."""

    def then(self, *others: Transform) -> Composed:
        """This map followed by others."""
        return Composed((self, *others))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Transform):
            return NotImplemented
        return self.to_state() == other.to_state()

    __hash__ = None  # type: ignore[assignment]


@register("affine")
class Affine(Transform):
    """(u, v) = matrix (x, y) + offset.

    Parameters
    ----------
    matrix : array, shape (2, 2)
        Must not be singular (ValueError).
    offset : array, shape (2,)
    """

    def __init__(self, matrix: Sequence | np.ndarray, offset: Sequence | np.ndarray = (0.0, 0.0)) -> None:
        self.matrix = _frozen(matrix, (2, 2), "matrix")
        self.offset = _frozen(offset, (2,), "offset")
        (a, b), (c, d) = self.matrix
        self.determinant = float(a * d - b * c)
        if not abs(self.determinant) > 1e-14 * (abs(a * d) + abs(b * c)):
            raise ValueError(f"matrix of an affine map must not be singular, got {self.matrix.tolist()}")
        self._inverse = np.array([[d, -b], [-c, a]]) / self.determinant

    @classmethod
    def identity(cls) -> Affine:
        """The map that changes nothing."""
        return cls(np.eye(2))

    @classmethod
    def rotation(cls, angle: float, scale: float = 1.0) -> Affine:
        """Counter-clockwise rotation by `angle` [deg] and multiplication by `scale`."""
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        return cls(scale * np.array([[c, -s], [s, c]]))

    @classmethod
    def fit(
        cls, x: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray, weights: np.ndarray | None = None
    ) -> Affine:
        """Least squares over points, each of shape (n,); see `Polynomial.fit`."""
        linear = Polynomial.fit(x, y, u, v, 1, weights)
        matrix = linear.jacobian(0.0, 0.0)
        return cls(matrix, np.array(linear.forward(0.0, 0.0)))

    def forward(self, x: float | np.ndarray, y: float | np.ndarray) -> Pair:
        """See `Transform.forward`."""
        return _apply(self.matrix, *_points(x, y), self.offset)

    def inverse(self, u: float | np.ndarray, v: float | np.ndarray) -> Pair:
        """See `Transform.inverse`."""
        u, v = _points(u, v)
        return _apply(self._inverse, u - self.offset[0], v - self.offset[1], (0.0, 0.0))

    def jacobian(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """See `Transform.jacobian`."""
        x, y = _points(x, y)
        return np.broadcast_to(self.matrix, (*x.shape, 2, 2)).copy()

    def to_state(self) -> State:
        """See `Transform.to_state`."""
        return State(self.kind, {}, {"matrix": np.array(self.matrix), "offset": np.array(self.offset)})

    @classmethod
    def from_state(cls, state: State) -> Affine:
        """See `Transform.from_state`."""
        return cls(state.arrays["matrix"], state.arrays["offset"])


@register("polynomial")
class Polynomial(Transform):
    """A polynomial of total degree d in normalised coordinates a = (x - cx) / sx, b = (y - cy) / sy.

    Parameters
    ----------
    coefficients : array, shape (2, d + 1, d + 1)
        [output axis, power of a, power of b]; entries of total power above d must be zero (ValueError).
    centre, scale : (float, float)
        Domain (cx, cy) and half widths (sx, sy) [unit of the input]. Within it a and b are -1..1 and the
        coefficients are the size of their effect.
    """

    def __init__(
        self,
        coefficients: Sequence | np.ndarray,
        centre: Sequence[float] = (0.0, 0.0),
        scale: Sequence[float] = (1.0, 1.0),
    ) -> None:
        size = np.shape(coefficients)[-1] if np.ndim(coefficients) == 3 else 1
        self.coefficients = _frozen(coefficients, (2, size, size), "coefficients")
        self.centre = _frozen(centre, (2,), "centre")
        self.scale = _frozen(scale, (2,), "scale")
        if np.any(self.scale <= 0):
            raise ValueError(f"half widths of a polynomial's domain must be positive, got {self.scale}")
        i, j = np.indices((size, size))
        if np.any(self.coefficients[:, i + j >= size]):
            raise ValueError(f"coefficients of total power above {size - 1} must be zero")

    @property
    def degree(self) -> int:
        """Total degree d."""
        return self.coefficients.shape[1] - 1

    @classmethod
    def identity(
        cls, degree: int = 1, centre: Sequence[float] = (0.0, 0.0), scale: Sequence[float] = (1.0, 1.0)
    ) -> Polynomial:
        """The map that changes nothing, as a polynomial of a degree and domain."""
        coefficients = np.zeros((2, degree + 1, degree + 1))
        coefficients[:, 0, 0] = centre
        coefficients[0, 1, 0], coefficients[1, 0, 1] = scale
        return cls(coefficients, centre, scale)

    @classmethod
    def fit(
        cls,
        x: np.ndarray,
        y: np.ndarray,
        u: np.ndarray,
        v: np.ndarray,
        degree: int,
        weights: np.ndarray | None = None,
        centre: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
    ) -> Polynomial:
        """Least squares polynomial through points (x, y) -> (u, v), each of shape (n,).

        Parameters
        ----------
        weights : ndarray, shape (n,), optional
            1/variance of u and v.
        centre, scale : (float, float), optional
            Domain; by default that of the points.

        Raises
        ------
        ValueError
            When the points do not determine all coefficients.
        """
        x, y, u, v = (np.ravel(np.asarray(each, dtype=float)) for each in (x, y, u, v))
        powers = total_powers(degree)
        if len(x) < len(powers):
            raise ValueError(f"{len(x)} points cannot determine the {len(powers)} terms of degree {degree}")
        if centre is None:
            centre = np.array([x.min() + x.max(), y.min() + y.max()]) / 2
        if scale is None:
            scale = np.array([max(np.ptp(x) / 2, 1e-300), max(np.ptp(y) / 2, 1e-300)])
        design = _design((x - centre[0]) / scale[0], (y - centre[1]) / scale[1], powers)
        solution = weighted_least_squares(design, np.column_stack([u, v]), weights)
        coefficients = np.zeros((2, degree + 1, degree + 1))
        coefficients[:, powers[:, 0], powers[:, 1]] = solution.T
        return cls(coefficients, centre, scale)

    def forward(self, x: float | np.ndarray, y: float | np.ndarray) -> Pair:
        """See `Transform.forward`."""
        a, b, shape = self._normalised(x, y)
        out = np.empty((2, a.size))
        evaluate_polynomials(self.coefficients, a, b, out)
        return out[0].reshape(shape)[()], out[1].reshape(shape)[()]

    def inverse(self, u: float | np.ndarray, v: float | np.ndarray) -> Pair:
        """See `Transform.inverse`; solutions beyond a fold of the map are NaN.

        Raises
        ------
        ValueError
            When the polynomial's linear part is singular.
        """
        linear = np.array([self.coefficients[:, 1, 0], self.coefficients[:, 0, 1]]).T if self.degree else 0
        start = Affine(np.broadcast_to(linear, (2, 2)), self.coefficients[:, 0, 0])
        a, b = newton_inverse(self._local, *_points(u, v), *start.inverse(u, v), 1.0 / self.scale)
        return a * self.scale[0] + self.centre[0], b * self.scale[1] + self.centre[1]

    def jacobian(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """See `Transform.jacobian`."""
        a, b, shape = self._normalised(x, y)
        _, _, jacobian = self._local(a, b)
        return (jacobian / self.scale).reshape((*shape, 2, 2))

    def _normalised(self, x: float | np.ndarray, y: float | np.ndarray) -> tuple:
        x, y = _points(x, y)
        a, b = (x - self.centre[0]) / self.scale[0], (y - self.centre[1]) / self.scale[1]
        return np.ravel(a), np.ravel(b), x.shape

    def _local(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values and derivatives, in normalised coordinates of shape (n,)."""
        out, jacobian = np.empty((2, a.size)), np.empty((a.size, 2, 2))
        evaluate_polynomials_with_derivatives(self.coefficients, a, b, out, jacobian)
        return out[0], out[1], jacobian

    def to_state(self) -> State:
        """See `Transform.to_state`."""
        arrays = {"coefficients": self.coefficients, "centre": self.centre, "scale": self.scale}
        return State(self.kind, {}, {name: np.array(array) for name, array in arrays.items()})

    @classmethod
    def from_state(cls, state: State) -> Polynomial:
        """See `Transform.from_state`."""
        return cls(state.arrays["coefficients"], state.arrays["centre"], state.arrays["scale"])


@register("radial_polynomial")
class RadialPolynomial(Transform):
    """Radial distortion: r' = scale r (1 + c1 (r/R)^2 + c2 (r/R)^4 + ...), direction unchanged.

    Parameters
    ----------
    coefficients : sequence of float
        (c1, c2 ...): relative change of the radius at r = R by each even power.
    radius : float
        R [unit of the input], positive (ValueError).
    scale : float
        Factor at the centre, such as deg/mm; not zero (ValueError).
    centre : (float, float)
        Where r is counted from [unit of the input]; it becomes (0, 0).
    """

    def __init__(
        self,
        coefficients: Sequence[float],
        radius: float = 1.0,
        scale: float = 1.0,
        centre: Sequence[float] = (0.0, 0.0),
    ) -> None:
        self.coefficients = _frozen(coefficients, (len(coefficients),), "coefficients")
        self.centre = _frozen(centre, (2,), "centre")
        self.radius, self.scale = float(radius), float(scale)
        if not (np.isfinite(self.scale) and self.scale != 0 and np.isfinite(self.radius) and self.radius > 0):
            raise ValueError(f"radius must be positive and scale not zero, got {radius} and {scale}")
        powers = np.zeros(2 * len(coefficients) + 1)
        powers[0], powers[2::2] = 1.0, self.coefficients
        # polynomials in s = r / R
        self._factor = np.polynomial.Polynomial(powers)
        self._stretched = np.polynomial.Polynomial([0.0, *powers])
        self._slope = self._stretched.deriv()
        self._turn = self._first_turn()

    @property
    def turning_radius(self) -> float:
        """Radius [unit of the input] from which r' decreases, so that no inverse exists; inf if none."""
        return self._turn * self.radius

    def _first_turn(self) -> float:
        roots = self._slope.roots()
        turns = roots.real[(np.abs(roots.imag) < 1e-12 * np.abs(roots)) & (roots.real > 0)]
        return float(turns.min()) if turns.size else np.inf

    def forward(self, x: float | np.ndarray, y: float | np.ndarray) -> Pair:
        """See `Transform.forward`."""
        dx, dy, r = self._polar(x, y)
        factor = self.scale * self._factor(r / self.radius)
        return (dx * factor)[()], (dy * factor)[()]

    def inverse(self, u: float | np.ndarray, v: float | np.ndarray) -> Pair:
        """See `Transform.inverse`; NaN beyond the image of `turning_radius`."""
        u, v = _points(u, v)
        u, v = u / self.scale, v / self.scale
        factor = self._factor(self._solve(np.hypot(u, v) / self.radius))
        return (u / factor + self.centre[0])[()], (v / factor + self.centre[1])[()]

    def _solve(self, target: np.ndarray) -> np.ndarray:
        """Find s with s (1 + c1 s^2 ...) = target: Newton steps, or half the bracket where they leave it."""
        low, high = np.zeros_like(target), np.full_like(target, self._turn)
        s = np.minimum(target, 0.5 * self._turn)
        good = np.isfinite(target)
        if np.isfinite(self._turn):
            good = good & (target <= self._stretched(self._turn))
        step = np.zeros_like(target)
        for _ in range(4 * _MAX_ITERATIONS):
            miss = self._stretched(s) - target
            low, high = np.where(miss <= 0, s, low), np.where(miss > 0, s, high)
            with np.errstate(divide="ignore", invalid="ignore"):
                new = s - miss / self._slope(s)
            half = np.where(np.isfinite(high), 0.5 * (low + high), 2.0 * s + target)
            new = np.where((new >= low) & (new <= high), new, half)
            step, s = np.abs(new - s), new
            if np.all(step[good] <= 4e-16 * s[good]):
                break
        good = good & (step <= np.maximum(0.1 * _TOLERANCE / self.radius, 1e-14 * s))
        return np.where(good, s, np.nan)

    def jacobian(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """See `Transform.jacobian`."""
        dx, dy, r = self._polar(x, y)
        factor, slope = self._factor(r / self.radius), self._slope(r / self.radius)
        safe = np.where(r > 0, r, 1.0)
        cosine, sine = np.where(r > 0, dx / safe, 1.0), np.where(r > 0, dy / safe, 0.0)
        mixed = (slope - factor) * cosine * sine
        rows = [
            [slope * cosine**2 + factor * sine**2, mixed],
            [mixed, slope * sine**2 + factor * cosine**2],
        ]
        return self.scale * np.moveaxis(np.array(rows), (0, 1), (-2, -1))

    def _polar(self, x: float | np.ndarray, y: float | np.ndarray) -> tuple:
        x, y = _points(x, y)
        dx, dy = x - self.centre[0], y - self.centre[1]
        return dx, dy, np.hypot(dx, dy)

    def to_state(self) -> State:
        """See `Transform.to_state`."""
        meta = {"radius": self.radius, "scale": self.scale}
        arrays = {"coefficients": np.array(self.coefficients), "centre": np.array(self.centre)}
        return State(self.kind, meta, arrays)

    @classmethod
    def from_state(cls, state: State) -> RadialPolynomial:
        """See `Transform.from_state`."""
        arrays, meta = state.arrays, state.meta
        return cls(arrays["coefficients"], meta["radius"], meta["scale"], arrays["centre"])


@register("radial_terms")
class RadialTerms(Transform):
    """A polynomial plus odd powers of the radius on each axis, as the TPV convention has them.

    (u, v) = polynomial(x, y) + c1 r + c3 r^3 + c5 r^5 + c7 r^7, with r counted from (0, 0).

    Parameters
    ----------
    polynomial : Polynomial
    radial : array, shape (2, 4)
        Coefficients (c1, c3, c5, c7) of each output axis.
    """

    def __init__(self, polynomial: Polynomial, radial: Sequence | np.ndarray) -> None:
        self.polynomial = polynomial
        self.radial = _frozen(radial, (2, 4), "radial")

    def forward(self, x: float | np.ndarray, y: float | np.ndarray) -> Pair:
        """See `Transform.forward`."""
        x, y = _points(x, y)
        u, v = self.polynomial.forward(x, y)
        r = np.hypot(x, y)
        powers = np.array([r, r**3, r**5, r**7])
        return u + np.tensordot(self.radial[0], powers, 1), v + np.tensordot(self.radial[1], powers, 1)

    def inverse(self, u: float | np.ndarray, v: float | np.ndarray) -> Pair:
        """See `Transform.inverse`."""
        u, v = _points(u, v)
        # the terms in r bend at the origin, where a start from the linear part would sit
        start = self.polynomial.inverse(u, v)
        return newton_inverse(self._local, u, v, *start, (1.0, 1.0))

    def jacobian(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """See `Transform.jacobian`; the term in r has no derivative at r = 0 and counts as 0 there."""
        x, y = _points(x, y)
        r = np.hypot(x, y)
        slopes = np.tensordot(self.radial, np.array([np.ones_like(r), 3 * r**2, 5 * r**4, 7 * r**6]), 1)
        safe = np.where(r > 0, r, 1.0)
        direction = np.array([x / safe, y / safe])
        extra = np.moveaxis(slopes[:, None] * direction[None], (0, 1), (-2, -1))
        return self.polynomial.jacobian(x, y) + extra

    def _local(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return *self.forward(x, y), self.jacobian(x, y)

    def to_state(self) -> State:
        """See `Transform.to_state`."""
        state = join_states(self.kind, {}, {"polynomial": self.polynomial.to_state()})
        return State(state.kind, state.meta, {**state.arrays, "radial": np.array(self.radial)})

    @classmethod
    def from_state(cls, state: State) -> RadialTerms:
        """See `Transform.from_state`."""
        return cls(from_state(split_state(state)["polynomial"]), state.arrays["radial"])


@register("composed")
class Composed(Transform):
    """Maps applied one after the other, the first in `layers` first; nested chains are flattened.

    The inverse is that of the layers in turn, each exact, so no error of a fitted inverse enters.
    """

    def __init__(self, layers: Sequence[Transform]) -> None:
        flat: list[Transform] = []
        for layer in layers:
            flat.extend(layer.layers if isinstance(layer, Composed) else [layer])
        self.layers = tuple(flat)

    def forward(self, x: float | np.ndarray, y: float | np.ndarray) -> Pair:
        """See `Transform.forward`."""
        x, y = _points(x, y)
        for layer in self.layers:
            x, y = layer.forward(x, y)
        return x, y

    def inverse(self, u: float | np.ndarray, v: float | np.ndarray) -> Pair:
        """See `Transform.inverse`."""
        u, v = _points(u, v)
        for layer in reversed(self.layers):
            u, v = layer.inverse(u, v)
        return u, v

    def jacobian(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """See `Transform.jacobian`."""
        x, y = _points(x, y)
        total = np.broadcast_to(np.eye(2), (*x.shape, 2, 2))
        for layer in self.layers:
            total = layer.jacobian(x, y) @ total
            x, y = layer.forward(x, y)
        return total

    def to_state(self) -> State:
        """See `Transform.to_state`."""
        return join_states(self.kind, {}, {f"{i}": layer.to_state() for i, layer in enumerate(self.layers)})

    @classmethod
    def from_state(cls, state: State) -> Composed:
        """See `Transform.from_state`."""
        return cls([from_state(part) for part in split_state(state).values()])


def newton_inverse(
    values: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    u: np.ndarray,
    v: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    unit: Sequence[float],
) -> Pair:
    """Solve values(x, y) = (u, v) by Newton's method, all points at once.

    Parameters
    ----------
    values : callable
        (x, y) of shape (n,) to u, v of shape (n,) and their derivatives of shape (n, 2, 2).
    u, v, x, y : ndarray, same shape
        Targets and starts.
    unit : (float, float)
        Accuracy is 1e-10 of this.

    Returns
    -------
    x, y : ndarray
        NaN where the steps do not die out or the solution lies beyond a fold (the determinant of the
        derivatives has the other sign than at the start's median).
    """
    u, v, x, y = np.broadcast_arrays(u, v, x, y)
    shape = u.shape
    u, v, x, y = (np.array(each, dtype=float).ravel() for each in (u, v, x, y))
    sign = np.sign(_determinant(values(np.zeros(1), np.zeros(1))[2]))
    limit = _TOLERANCE * np.asarray(unit, dtype=float)
    good = np.isfinite(u) & np.isfinite(v) & np.isfinite(x) & np.isfinite(y)
    x, y = np.where(good, x, 0.0), np.where(good, y, 0.0)
    active = np.flatnonzero(good)
    with np.errstate(all="ignore"):
        for _ in range(_MAX_ITERATIONS):
            if not active.size:
                break
            dx, dy, _ = _newton_step(values, u[active], v[active], x[active], y[active])
            x[active] -= dx
            y[active] -= dy
            # a thousandth of the tolerance: the step after it is lost in rounding
            done_x = np.abs(dx) <= np.maximum(1e-3 * limit[0], 4e-16 * np.abs(x[active]))
            done_y = np.abs(dy) <= np.maximum(1e-3 * limit[1], 4e-16 * np.abs(y[active]))
            active = active[~(done_x & done_y) & np.isfinite(dx) & np.isfinite(dy)]
        dx, dy, determinant = _newton_step(values, u, v, x, y)
        small = (np.abs(dx) <= limit[0] + 1e-14 * np.abs(x)) & (np.abs(dy) <= limit[1] + 1e-14 * np.abs(y))
        good &= small & (np.sign(determinant) == sign)
    return np.where(good, x, np.nan).reshape(shape)[()], np.where(good, y, np.nan).reshape(shape)[()]


def _newton_step(values: Callable, u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple:
    """Step (dx, dy) to subtract, and the determinant of the derivatives."""
    fu, fv, jacobian = values(x, y)
    determinant = _determinant(jacobian)
    du, dv = fu - u, fv - v
    dx = (jacobian[:, 1, 1] * du - jacobian[:, 0, 1] * dv) / determinant
    dy = (jacobian[:, 0, 0] * dv - jacobian[:, 1, 0] * du) / determinant
    return dx, dy, determinant


def _determinant(jacobian: np.ndarray) -> np.ndarray:
    return jacobian[..., 0, 0] * jacobian[..., 1, 1] - jacobian[..., 0, 1] * jacobian[..., 1, 0]


def total_powers(degree: int, lowest: int = 0) -> np.ndarray:
    """Powers (i, j), shape (n, 2), of all terms with lowest <= i + j <= degree, by rising degree."""
    pairs = [(total - j, j) for total in range(lowest, degree + 1) for j in range(total + 1)]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def weighted_least_squares(
    design: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Coefficients, shape (n_term, n_out), that minimise the weighted squares of design @ c - target.

    Raises
    ------
    ValueError
        When the design does not determine all coefficients.
    """
    if weights is not None:
        root = np.sqrt(np.asarray(weights, dtype=float))[:, None]
        design, target = design * root, target * root
    size = np.linalg.norm(design, axis=0)
    if np.any(size == 0):
        raise ValueError(f"{int(np.sum(size == 0))} of {design.shape[1]} terms are zero at all points")
    solution, _, rank, _ = np.linalg.lstsq(design / size, target, rcond=1e-13)
    if rank < design.shape[1]:
        raise ValueError(f"the {len(design)} points determine only {rank} of {design.shape[1]} terms")
    return solution / size[:, None]


def _design(a: np.ndarray, b: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Monomials a^i b^j, shape (n_point, n_term)."""
    of_a, of_b = np.vander(a, powers.max() + 1, True), np.vander(b, powers.max() + 1, True)
    return of_a[:, powers[:, 0]] * of_b[:, powers[:, 1]]


def _points(x: float | np.ndarray, y: float | np.ndarray) -> Pair:
    x, y = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
    return x, y


def _apply(matrix: np.ndarray, x: np.ndarray, y: np.ndarray, offset: Sequence[float] | np.ndarray) -> Pair:
    (a, b), (c, d) = matrix
    return a * x + b * y + offset[0], c * x + d * y + offset[1]


def _frozen(values: Sequence | np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.array(values, dtype=np.float64, order="C")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got {array.tolist()}")
    array.flags.writeable = False
    return array


@kernel("void(const(float64[:, :, ::1]), const(float64[::1]), const(float64[::1]), float64[:, ::1])")
def evaluate_polynomials(coefficients, a, b, out):
    """Values of two polynomials by Horner's rule.

    Parameters
    ----------
    coefficients : ndarray, shape (2, d + 1, d + 1)
    a, b : ndarray, shape (n,)
    out : ndarray, shape (2, n)
        Receives the values.
    """
    degree = coefficients.shape[1] - 1
    for k in range(a.size):
        for axis in range(2):
            total = 0.0
            for i in range(degree, -1, -1):
                inner = 0.0
                for j in range(degree - i, -1, -1):
                    inner = inner * b[k] + coefficients[axis, i, j]
                total = total * a[k] + inner
            out[axis, k] = total


@kernel(
    "void(const(float64[:, :, ::1]), const(float64[::1]), const(float64[::1]), float64[:, ::1],"
    " float64[:, :, ::1])"
)
def evaluate_polynomials_with_derivatives(coefficients, a, b, out, jacobian):
    """Values of two polynomials and their derivatives by Horner's rule.

    Parameters
    ----------
    coefficients : ndarray, shape (2, d + 1, d + 1)
    a, b : ndarray, shape (n,)
    out : ndarray, shape (2, n)
        Receives the values.
    jacobian : ndarray, shape (n, 2, 2)
        Receives the derivatives [axis, by a or b].
    """
    degree = coefficients.shape[1] - 1
    for k in range(a.size):
        for axis in range(2):
            total, by_a, by_b = 0.0, 0.0, 0.0
            for i in range(degree, -1, -1):
                inner, slope = 0.0, 0.0
                for j in range(degree - i, -1, -1):
                    slope = slope * b[k] + inner
                    inner = inner * b[k] + coefficients[axis, i, j]
                by_a = by_a * a[k] + total
                total = total * a[k] + inner
                by_b = by_b * a[k] + slope
            out[axis, k] = total
            jacobian[k, axis, 0] = by_a
            jacobian[k, axis, 1] = by_b
