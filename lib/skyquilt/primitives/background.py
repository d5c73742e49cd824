"""Background (LDM-151 9.1.1): the model that was subtracted from an image, and how to undo that exactly.

A Background is a sum of layers, because estimation proceeds in stages: each layer is a model on a scale and
in a coordinate system of its own (pixels of the detector, or, through a `TransformedLayer`, millimetres of
the focal plane or pixels of a tract).

**Exact restoration.** In float32, (a - b) + b is not always a: where a pixel is much smaller than the
background below it, its last bits are lost. Three things make `restore` give back the pixels bit for bit:

1. b is evaluated in float64 by compiled kernels that only add, multiply and divide in a fixed order: a
   pixel's value has the same bits in any box, process and machine.
2. s = float32(a - b) and float32(s + b) are rounded once each. Together they return a wherever the
   difference is no larger than about the pixel itself, which is nearly everywhere under a bright sky.
3. `subtract` tries that out, and keeps the bits of the few pixels for which it fails (NaNs with a payload,
   -0.0 and overflows too) in the Background, 12 bytes each: with 4.5 electrons of read noise none over a sky
   of 100 electrons, 0.6 % of the pixels over 30, 20 % over 5. `restore` puts such a pixel back only if
   subtracting from it gives the pixel found, so that pixels changed in between (interpolated, say) are not
   undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from skyquilt.primitives.chebyshev import ChebyshevSurface
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.component import State, from_state, join_states, register, split_state
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.photo_calib import PhotoCalib

_ROWS = 256


class Layer(Protocol):
    """One model of a background. Both methods give the same bits for the same position."""

    kind: str

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values at positions, float64."""
        ...

    def on_grid(self, box: Box) -> np.ndarray:
        """Values at the pixels of a box, float64, shape (ny, nx)."""
        ...

    def to_state(self) -> State:
        """Plain data."""
        ...


@register
@dataclass(frozen=True)
class ConstantLayer:
    """The same value everywhere [unit of the image]."""

    value: float
    kind: ClassVar[str] = "background_constant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))
        if not np.isfinite(self.value):
            raise ValueError(f"a background must be finite, got {self.value}")

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values at positions, float64."""
        return np.full(np.broadcast(x, y).shape, self.value)

    def on_grid(self, box: Box) -> np.ndarray:
        """Values at the pixels of a box, float64, shape (ny, nx)."""
        return np.full(box.shape, self.value)

    def to_state(self) -> State:
        """Plain data."""
        return State(self.kind, {"value": self.value})

    @classmethod
    def from_state(cls, state: State) -> ConstantLayer:
        """Make the layer again."""
        return cls(state.meta["value"])


@register
@dataclass(frozen=True)
class ChebyshevLayer:
    """A smooth surface [unit of the image]."""

    surface: ChebyshevSurface
    kind: ClassVar[str] = "background_chebyshev"

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values at positions, float64."""
        return self.surface.evaluate(x, y)

    def on_grid(self, box: Box) -> np.ndarray:
        """Values at the pixels of a box, float64, shape (ny, nx)."""
        return self.surface.on_grid(box)

    def to_state(self) -> State:
        """Plain data."""
        return join_states(self.kind, {}, {"surface": self.surface.to_state()})

    @classmethod
    def from_state(cls, state: State) -> ChebyshevLayer:
        """Make the layer again."""
        return cls(from_state(split_state(state)["surface"]))


@register
@dataclass(frozen=True, eq=False)
class MeshLayer:
    """Values on a rectangular mesh of nodes, interpolated; linear beyond the outermost nodes.

    Parameters
    ----------
    values : ndarray, shape (ny, nx) [unit of the image]
        Finite values at the nodes.
    x, y : ndarray, shape (nx,) and (ny,)
        Rising positions of the nodes, in pixels or in the unit of a `TransformedLayer`'s coordinates.
    interpolation : "bicubic" or "bilinear"
        Bicubic: the tensor product of natural cubic splines through the nodes, which reproduces planes.
        A single node in a direction means constant in that direction.
    """

    values: np.ndarray
    x: np.ndarray
    y: np.ndarray
    interpolation: str = "bicubic"
    _tables: np.ndarray = field(init=False, repr=False)

    kind: ClassVar[str] = "background_mesh"

    def __post_init__(self) -> None:
        for name, dimensions in (("values", 2), ("x", 1), ("y", 1)):
            array = np.array(getattr(self, name), dtype=np.float64, order="C")
            if array.ndim != dimensions or array.size == 0 or not np.isfinite(array).all():
                raise ValueError(f"mesh {name} must be finite with {dimensions} dimension(s), got {array!r}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.values.shape != (self.y.size, self.x.size):
            raise ValueError(f"mesh of shape {self.values.shape} has nodes for {(self.y.size, self.x.size)}")
        if (np.diff(self.x) <= 0).any() or (np.diff(self.y) <= 0).any():
            raise ValueError(f"mesh nodes must rise, got x {self.x}, y {self.y}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation must be bicubic or bilinear, got {self.interpolation!r}")
        object.__setattr__(self, "_tables", self._spline_tables())

    @classmethod
    def over(cls, box: Box, values: np.ndarray, interpolation: str = "bicubic") -> MeshLayer:
        """Mesh of equal cells that fill a box, nodes at the cells' centres; values of shape (my, mx)."""
        my, mx = np.shape(values)
        x = box.x0 - 0.5 + (np.arange(mx) + 0.5) * (box.nx / mx)
        y = box.y0 - 0.5 + (np.arange(my) + 0.5) * (box.ny / my)
        return cls(values, x, y, interpolation)

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values at positions, float64."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        result = np.empty(x.size)
        mesh_at_points(self._tables, self.x, self.y, x.ravel(), y.ravel(), result)
        return result.reshape(x.shape)

    def on_grid(self, box: Box) -> np.ndarray:
        """Values at the pixels of a box, float64, shape (ny, nx)."""
        result = np.empty(box.shape)
        mesh_on_grid(self._tables, self.x, self.y, box.x0, box.y0, result)
        return result

    def to_state(self) -> State:
        """Plain data."""
        arrays = {"values": self.values, "x": self.x, "y": self.y}
        return State(self.kind, {"interpolation": self.interpolation}, arrays)

    @classmethod
    def from_state(cls, state: State) -> MeshLayer:
        """Make the layer again."""
        arrays = state.arrays
        return cls(arrays["values"], arrays["x"], arrays["y"], state.meta["interpolation"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MeshLayer):
            return NotImplemented
        return self.to_state() == other.to_state()

    __hash__ = None  # type: ignore[assignment]

    def _spline_tables(self) -> np.ndarray:
        """Values and second derivatives along y, x and both, shape (4, ny, nx); bilinear has none."""
        tables = np.zeros((4, *self.values.shape))
        tables[0] = self.values
        if self.interpolation == "bicubic":
            natural_second_derivatives(self.y, tables[0], tables[1])
            natural_second_derivatives(self.x, tables[0].T, tables[2].T)
            natural_second_derivatives(self.x, tables[1].T, tables[3].T)
        return tables


@register
@dataclass(frozen=True)
class CoordinateMap:
    """From pixels of the parent frame to the coordinates of a layer, as two polynomials.

    A polynomial is exact for an affine map (detector to focal plane) and, fitted to a WCS, as good as its
    order; evaluating the fit rather than the WCS keeps the bits of a background independent of the WCS code.
    """

    u: ChebyshevSurface
    v: ChebyshevSurface
    kind: ClassVar[str] = "background_coordinate_map"

    @classmethod
    def affine(cls, matrix: np.ndarray, box: Box) -> CoordinateMap:
        """u = m[0, 0] + m[0, 1] x + m[0, 2] y, and v likewise with m[1]; matrix of shape (2, 3).

        The box (the detector's pixels) sets the scale of the arithmetic, not where the map holds.
        """
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.shape != (2, 3):
            raise ValueError(f"an affine map has shape (2, 3), got {matrix.shape}")
        x_mid, y_mid = box.x0 + 0.5 * (box.nx - 1), box.y0 + 0.5 * (box.ny - 1)
        surfaces = (
            ChebyshevSurface.over(
                box, [[m0 + mx * x_mid + my * y_mid, 0.5 * mx * box.nx], [0.5 * my * box.ny, 0.0]]
            )
            for m0, mx, my in matrix
        )
        return cls(*surfaces)

    @classmethod
    def fitted(
        cls,
        transform: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
        box: Box,
        order: int = 3,
    ) -> tuple[CoordinateMap, float]:
        """Map close to any smooth transform (x, y) -> (u, v) over a box.

        Returns
        -------
        map : CoordinateMap
        residual : float
            Largest distance between both on a grid four times as dense as the fit [unit of u, v].
        """
        edges = (box.x0 - 0.5, box.x0 + box.nx - 0.5, box.y0 - 0.5, box.y0 + box.ny - 0.5)
        u, v = (
            ChebyshevSurface.interpolating(lambda x, y, i=i: transform(x, y)[i], (order, order), edges)
            for i in (0, 1)
        )
        n = 4 * (order + 1) + 1
        x, y = np.meshgrid(np.linspace(*edges[:2], n), np.linspace(*edges[2:], n))
        true_u, true_v = transform(x, y)
        distance = np.hypot(u.evaluate(x, y) - true_u, v.evaluate(x, y) - true_v)
        return cls(u, v), float(distance.max())

    def to_state(self) -> State:
        """Plain data."""
        return join_states(self.kind, {}, {"u": self.u.to_state(), "v": self.v.to_state()})

    @classmethod
    def from_state(cls, state: State) -> CoordinateMap:
        """Make the map again."""
        parts = split_state(state)
        return cls(from_state(parts["u"]), from_state(parts["v"]))


@register
@dataclass(frozen=True)
class TransformedLayer:
    """A layer defined in other coordinates, such as one model of the whole focal plane in mm.

    Parameters
    ----------
    layer : Layer
        The model in its own coordinates; shared by all detectors of a visit.
    to_layer : CoordinateMap
        From this detector's pixels to those coordinates.
    frame : str
        What the coordinates are, for the reader: "focal plane [mm]", "tract 9813 [pixel]".
    """

    layer: Any
    to_layer: CoordinateMap
    frame: str = "focal plane [mm]"
    kind: ClassVar[str] = "background_transformed"

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values at pixel positions, float64."""
        return self.layer.evaluate(self.to_layer.u.evaluate(x, y), self.to_layer.v.evaluate(x, y))

    def on_grid(self, box: Box) -> np.ndarray:
        """Values at the pixels of a box, float64, shape (ny, nx)."""
        return self.layer.evaluate(self.to_layer.u.on_grid(box), self.to_layer.v.on_grid(box))

    def to_state(self) -> State:
        """Plain data."""
        parts = {"layer": self.layer.to_state(), "to_layer": self.to_layer.to_state()}
        return join_states(self.kind, {"frame": self.frame}, parts)

    @classmethod
    def from_state(cls, state: State) -> TransformedLayer:
        """Make the layer again."""
        parts = split_state(state)
        return cls(from_state(parts["layer"]), from_state(parts["to_layer"]), state.meta["frame"])


@dataclass(frozen=True, eq=False)
class KeptPixels:
    """Original pixels that adding the background does not give back; positions in the parent frame.

    Parameters
    ----------
    x, y : ndarray of int32, shape (n,)
    bits : ndarray of int32, shape (n,)
        The float32 pixel's bit pattern: a float would not carry every NaN through a file.
    """

    x: np.ndarray
    y: np.ndarray
    bits: np.ndarray

    @classmethod
    def none(cls) -> KeptPixels:
        """No pixel."""
        return cls(*(np.zeros(0, dtype=np.int32) for _ in range(3)))

    def __len__(self) -> int:
        return self.bits.size


@register
@dataclass(frozen=True, eq=False)
class Background:
    """Sum of layers, in the unit of the image that it was subtracted from.

    Parameters
    ----------
    layers : iterable of Layer
        In the order of the stages that made them; the order of the sum.
    calibration : PhotoCalib, optional
        Multiplies the sum, for an image calibrated after the layers were estimated in electrons.
    kept : KeptPixels
        Made by `subtract`: belongs to one image.
    """

    layers: tuple[Any, ...] = ()
    calibration: PhotoCalib | None = None
    kept: KeptPixels = field(default_factory=KeptPixels.none)

    kind: ClassVar[str] = "background"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))

    def plus(self, *layers: Any) -> Background:
        """Background of this and further stages, without kept pixels: subtract it from the original."""
        return Background(self.layers + layers, self.calibration)

    def without_kept(self) -> Background:
        """The model alone."""
        return replace(self, kept=KeptPixels.none())

    def calibrated(self, calibration: PhotoCalib) -> Background:
        """The same background below an image multiplied by a calibration; without kept pixels."""
        if self.calibration is not None:
            calibration = self.calibration.compose(calibration)
        return Background(self.layers, calibration)

    def values(self, box: Box) -> np.ndarray:
        """The model at the pixels of a box, float64, shape (ny, nx)."""
        total = np.zeros(box.shape)
        for layer in self.layers:
            total += layer.on_grid(box)
        if self.calibration is not None:
            total *= self.calibration.calibration_image(box)
        return total

    def image(self, box: Box) -> np.ndarray:
        """The model at the pixels of a box, float32, shape (ny, nx)."""
        image = np.empty(box.shape, dtype=np.float32)
        for rows, part in _strips(box):
            image[rows] = self.values(part)
        return image

    def subtract(self, image: np.ndarray, box: Box) -> tuple[np.ndarray, Background]:
        """Subtract from a float32 image of a box.

        Returns
        -------
        subtracted : ndarray of float32, shape (ny, nx)
        background : Background
            This one with the pixels that `restore` needs to be exact.
        """
        _check_image(image, box)
        subtracted = np.empty(box.shape, dtype=np.float32)
        kept = []
        for rows, part in _strips(box):
            inexact = np.zeros(part.shape, dtype=np.bool_)
            if subtract_model(image[rows], self.values(part), subtracted[rows], inexact):
                kept.append(_kept_pixels(image[rows], inexact, part))
        return subtracted, replace(self, kept=_joined(kept))

    def restore(self, subtracted: np.ndarray, box: Box) -> np.ndarray:
        """The unsubtracted image, bit for bit, float32; also of a box inside the one subtracted from.

        Pixels changed since `subtract` become their value plus the model, rounded to float32.
        """
        _check_image(subtracted, box)
        image = np.empty(box.shape, dtype=np.float32)
        inside = _inside(self.kept, box)
        for rows, part in _strips(box):
            chosen = _inside(inside, part)
            x, y = chosen.x - part.x0, chosen.y - part.y0
            add_model(subtracted[rows], self.values(part), x, y, chosen.bits, image[rows])
        return image

    def to_state(self) -> State:
        """Plain data."""
        parts = {f"layer{i}": layer.to_state() for i, layer in enumerate(self.layers)}
        if self.calibration is not None:
            parts["calibration"] = self.calibration.to_state()
        state = join_states(self.kind, {"layers": len(self.layers)}, parts)
        kept = {"kept_x": self.kept.x, "kept_y": self.kept.y, "kept_bits": self.kept.bits}
        return State(state.kind, state.meta, state.arrays | kept)

    @classmethod
    def from_state(cls, state: State) -> Background:
        """Make the background again."""
        parts = {name: from_state(part) for name, part in split_state(state).items()}
        layers = tuple(parts[f"layer{i}"] for i in range(state.meta["layers"]))
        kept = KeptPixels(*(state.arrays[f"kept_{name}"] for name in ("x", "y", "bits")))
        return cls(layers, parts.get("calibration"), kept)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Background):
            return NotImplemented
        return self.to_state() == other.to_state()

    __hash__ = None  # type: ignore[assignment]


@kernel("void(const(float64[:]), const(float64[:, :]), float64[:, :])")
def natural_second_derivatives(nodes, values, derivatives):
    """Second derivatives of natural cubic splines along the first axis; values have shape (n, m).

    The tridiagonal system of the spline's continuity conditions, solved by elimination without pivoting
    (it is diagonally dominant). Zero for fewer than three nodes.
    """
    n, m = values.shape
    upper = np.zeros(n)
    for j in range(m):
        derivatives[0, j] = 0.0
        derivatives[n - 1, j] = 0.0
    for i in range(1, n - 1):
        before = nodes[i] - nodes[i - 1]
        after = nodes[i + 1] - nodes[i]
        pivot = 2.0 * (before + after) - before * upper[i - 1]
        upper[i] = after / pivot
        for j in range(m):
            slopes = (values[i + 1, j] - values[i, j]) / after - (values[i, j] - values[i - 1, j]) / before
            derivatives[i, j] = (6.0 * slopes - before * derivatives[i - 1, j]) / pivot
    for i in range(n - 2, 0, -1):
        for j in range(m):
            derivatives[i, j] -= upper[i] * derivatives[i + 1, j]


@kernel("int64(const(float64[:]), float64, float64[:])")
def spline_weights(nodes, position, weights):
    """Interval and weights (of both values, of both second derivatives) of a position; linear outside."""
    n = nodes.size
    if n == 1:
        weights[:] = 0.0
        weights[0] = 1.0
        return 0
    low, high = 0, n - 1
    while high - low > 1:
        middle = (low + high) // 2
        if nodes[middle] <= position:
            low = middle
        else:
            high = middle
    step = nodes[low + 1] - nodes[low]
    t = (position - nodes[low]) / step
    s = 1.0 - t
    sixth = step * step / 6.0
    weights[0] = s
    weights[1] = t
    if t < 0.0:
        weights[2] = -2.0 * t * sixth
        weights[3] = -t * sixth
    elif t > 1.0:
        weights[2] = -s * sixth
        weights[3] = -2.0 * s * sixth
    else:
        weights[2] = (s * s * s - s) * sixth
        weights[3] = (t * t * t - t) * sixth
    return low


@kernel("float64(float64, float64, float64, float64, const(float64[:]))")
def _weighted(value, next_value, curvature, next_curvature, weights):
    linear = weights[0] * value + weights[1] * next_value
    return linear + (weights[2] * curvature + weights[3] * next_curvature)


@kernel(
    "void(const(float64[:, :, ::1]), const(float64[:]), const(float64[:]), const(float64[:]), "
    "const(float64[:]), float64[:])"
)
def mesh_at_points(tables, x_nodes, y_nodes, x, y, result):
    """Mesh interpolated at points; tables as in `MeshLayer`, x, y, result of shape (n,)."""
    by_x = np.empty(4)
    by_y = np.empty(4)
    at = np.empty((2, 2))
    for k in range(x.size):
        i = spline_weights(y_nodes, y[k], by_y)
        j = spline_weights(x_nodes, x[k], by_x)
        i_next = min(i + 1, y_nodes.size - 1)
        j_next = min(j + 1, x_nodes.size - 1)
        for c in range(2):
            z, zyy = tables[2 * c], tables[2 * c + 1]
            at[c, 0] = _weighted(z[i, j], z[i_next, j], zyy[i, j], zyy[i_next, j], by_y)
            at[c, 1] = _weighted(z[i, j_next], z[i_next, j_next], zyy[i, j_next], zyy[i_next, j_next], by_y)
        result[k] = _weighted(at[0, 0], at[0, 1], at[1, 0], at[1, 1], by_x)


@kernel(
    "void(const(float64[:, :, ::1]), const(float64[:]), const(float64[:]), int64, int64, float64[:, ::1])"
)
def mesh_on_grid(tables, x_nodes, y_nodes, x0, y0, result):
    """Mesh interpolated at pixels x0.., y0..; result has shape (ny, nx). Bits as in `mesh_at_points`."""
    ny, nx = result.shape
    n_x = x_nodes.size
    interval = np.empty(nx, dtype=np.int64)
    by_x = np.empty((4, nx))
    by_y = np.empty(4)
    along = np.empty((2, n_x))
    for k in range(nx):
        interval[k] = spline_weights(x_nodes, np.float64(x0 + k), by_x[:, k])
    for row in range(ny):
        i = spline_weights(y_nodes, np.float64(y0 + row), by_y)
        i_next = min(i + 1, y_nodes.size - 1)
        for c in range(2):
            z, zyy = tables[2 * c], tables[2 * c + 1]
            for j in range(n_x):
                along[c, j] = _weighted(z[i, j], z[i_next, j], zyy[i, j], zyy[i_next, j], by_y)
        start = 0
        while start < nx:
            # one interval at a time: with the nodes' values constant the inner loop runs four pixels at once
            j = interval[start]
            j_next = min(j + 1, n_x - 1)
            value, next_value = along[0, j], along[0, j_next]
            curvature, next_curvature = along[1, j], along[1, j_next]
            end = start + 1
            while end < nx and interval[end] == j:
                end += 1
            for k in range(start, end):
                linear = by_x[0, k] * value + by_x[1, k] * next_value
                result[row, k] = linear + (by_x[2, k] * curvature + by_x[3, k] * next_curvature)
            start = end


@kernel("int64(const(float32[:, :]), const(float64[:, :]), float32[:, :], boolean[:, :])")
def subtract_model(image, model, subtracted, inexact):
    """Subtract, and mark the pixels that adding does not give back; returns their number."""
    ny, nx = image.shape
    original = np.empty(nx, dtype=np.float32)
    again = np.empty(nx, dtype=np.float32)
    original_bits = original.view(np.int32)
    again_bits = again.view(np.int32)
    count = 0
    for row in range(ny):
        for k in range(nx):
            original[k] = image[row, k]
            subtracted[row, k] = np.float32(np.float64(original[k]) - model[row, k])
            again[k] = np.float32(np.float64(subtracted[row, k]) + model[row, k])
        for k in range(nx):
            inexact[row, k] = original_bits[k] != again_bits[k]
            count += inexact[row, k]
    return count


@kernel(
    "void(const(float32[:, :]), const(float64[:, :]), const(int32[:]), const(int32[:]), const(int32[:]), "
    "float32[:, :])"
)
def add_model(subtracted, model, kept_x, kept_y, kept_bits, image):
    """Add the model; kept pixels (positions in the array) replace sums where they fit what is found."""
    ny, nx = image.shape
    for row in range(ny):
        for k in range(nx):
            image[row, k] = np.float32(np.float64(subtracted[row, k]) + model[row, k])
    kept = kept_bits.view(np.float32)
    pair = np.empty(2, dtype=np.float32)
    pair_bits = pair.view(np.int32)
    for n in range(kept_bits.size):
        row, k = kept_y[n], kept_x[n]
        pair[0] = np.float32(np.float64(kept[n]) - model[row, k])
        pair[1] = subtracted[row, k]
        both_nan = pair[0] != pair[0] and pair[1] != pair[1]
        if both_nan or pair_bits[0] == pair_bits[1]:
            image[row, k] = kept[n]


def _strips(box: Box) -> Iterable[tuple[slice, Box]]:
    """Rows of an array and their box, a few at a time: no float64 image of a whole detector is held."""
    for start in range(0, box.ny, _ROWS):
        ny = min(_ROWS, box.ny - start)
        yield slice(start, start + ny), Box(box.x0, box.y0 + start, box.nx, ny)


def _check_image(image: np.ndarray, box: Box) -> None:
    if image.dtype != np.float32 or image.shape != box.shape:
        raise ValueError(f"an image of {box} is float32 {box.shape}, got {image.dtype} {image.shape}")


def _kept_pixels(image: np.ndarray, inexact: np.ndarray, box: Box) -> KeptPixels:
    rows, columns = np.nonzero(inexact)
    bits = np.ascontiguousarray(image).view(np.int32)[rows, columns]
    return KeptPixels((columns + box.x0).astype(np.int32), (rows + box.y0).astype(np.int32), bits)


def _joined(parts: list[KeptPixels]) -> KeptPixels:
    if not parts:
        return KeptPixels.none()
    return KeptPixels(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y", "bits"))
    )


def _inside(kept: KeptPixels, box: Box) -> KeptPixels:
    if not len(kept):
        return kept
    inside = (kept.x >= box.x0) & (kept.x < box.x0 + box.nx)
    inside &= (kept.y >= box.y0) & (kept.y < box.y0 + box.ny)
    return KeptPixels(kept.x[inside], kept.y[inside], kept.bits[inside])
