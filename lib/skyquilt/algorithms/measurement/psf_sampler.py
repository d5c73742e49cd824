"""Stamps of a PSF (LDM-151 8.6.2.5, 9.6) for many sources, some ten times faster than the model itself gives them.

The model is sampled at steps of a quarter pixel on a grid of Chebyshev nodes over the detector; the samples are
written as few images times smooth coefficients (principal components), and those are interpolated: coefficients by the
polynomial through the nodes, the image between steps by six points of Lagrange (error below 2e-5 of the peak for a
Gaussian of sigma 1 px). At some places the result is compared with the model; where they differ, the model itself
is asked for every source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.psf import Psf

STEPS = 4
"""Samples per pixel."""

_TAPS = 6


@dataclass(frozen=True)
class PsfStamp:
    """Image of a point source of flux 1; its first pixel is (x0, y0) of the image. float64, C-contiguous."""

    array: np.ndarray
    x0: int
    y0: int


@kernel("void(float64, const(float64[::1]), const(float64[::1]), float64[::1])")
def polynomial_weights(place, nodes, barycentric, weights):
    """Fill `weights` (n,): those of values at `nodes` in the polynomial through them, at a place."""
    total = 0.0
    for k in range(nodes.size):
        if place == nodes[k]:
            weights[:] = 0.0
            weights[k] = 1.0
            return
        weights[k] = barycentric[k] / (place - nodes[k])
        total += weights[k]
    for k in range(nodes.size):
        weights[k] /= total


@kernel(
    "void(const(float64[:, :, ::1]), const(float64[:, :, ::1]), const(float64[::1]), const(float64[::1]), "
    "const(float64[::1]), const(float64[::1]), int64, float64, float64, float64[:, ::1])"
)
def interpolate_stamp(basis, values, nodes_x, nodes_y, across_x, across_y, steps, x, y, stamp):
    """Fill `stamp` (n, n), sum 1: the PSF at (x, y), on the pixels about the one that holds it.

    It is the sum over k of basis[k] times the polynomial through values[k] (ny, nx) at the nodes (barycentric weights
    `across_x`, `across_y`).
    `basis` (k, (n - 1) * steps + 7 + steps, the same) has its centre in the middle sample.
    """
    n = stamp.shape[0]
    fine = basis.shape[1]
    middle = fine // 2
    dx, dy = x - np.floor(x + 0.5), y - np.floor(y + 0.5)
    at_x, at_y = np.empty(nodes_x.size), np.empty(nodes_y.size)
    polynomial_weights(x, nodes_x, across_x, at_x)
    polynomial_weights(y, nodes_y, across_y, at_y)
    sum_of = np.zeros((fine, fine))
    for k in range(basis.shape[0]):
        weight = 0.0
        for j in range(at_y.size):
            for i in range(at_x.size):
                weight += at_y[j] * at_x[i] * values[k, j, i]
        for j in range(fine):
            for i in range(fine):
                sum_of[j, i] += weight * basis[k, j, i]
    taps_x = np.empty(6)
    taps_y = np.empty(6)
    # a pixel m of the stamp looks at sample middle + (m - n // 2 - d) * steps
    first_x = int(np.floor(-dx * steps))
    first_y = int(np.floor(-dy * steps))
    for axis in range(2):
        t = -dx * steps - first_x if axis == 0 else -dy * steps - first_y
        for a in range(6):
            weight = 1.0
            for b in range(6):
                if a != b:
                    weight *= (t - (b - 2)) / (a - b)
            if axis == 0:
                taps_x[a] = weight
            else:
                taps_y[a] = weight
    row = np.empty(fine)
    total = 0.0
    for j in range(n):
        base = middle + (j - n // 2) * steps + first_y - 2
        for i in range(fine):
            value = 0.0
            for a in range(6):
                value += taps_y[a] * sum_of[base + a, i]
            row[i] = value
        for i in range(n):
            left = middle + (i - n // 2) * steps + first_x - 2
            value = 0.0
            for a in range(6):
                value += taps_x[a] * row[left + a]
            stamp[j, i] = value
            total += value
    for j in range(n):
        for i in range(n):
            stamp[j, i] /= total


class PsfSampler:
    """A PSF over a detector, quick at giving stamps.

    Parameters
    ----------
    psf : Psf
    shape : (int, int)
        Of the detector (ny, nx) [pixel].
    degree : int
        Highest of the polynomials in x and in y by which the PSF is taken to vary.
    tolerance : float
        Largest difference from the model at the places of comparison [share of the peak].
    """

    def __init__(self, psf: Psf, shape: tuple[int, int], degree: int = 4, tolerance: float = 2e-4) -> None:
        self._psf = psf
        self._size = psf.size
        self.direct = True
        """True when the model itself is asked for every stamp."""
        try:
            # a PSF that hardly varies needs few samples
            for one in sorted({0, degree // 2, degree}):
                self._build(shape, one)
                if self._agrees(shape, tolerance):
                    self.direct = False
                    break
        except ValueError:
            pass

    def stamp(self, x: float, y: float) -> PsfStamp:
        """Image of a point source of flux 1 at (x, y) [pixel].

        Raises
        ------
        ValueError
            When the place is not finite or the model has no positive sum there.
        """
        if self.direct:
            image = self._psf.image_at(x, y)
            return PsfStamp(np.ascontiguousarray(image.array), image.box.x0, image.box.y0)
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"a PSF needs a finite position, got ({x}, {y})")
        return self._interpolated(float(x), float(y))

    def _interpolated(self, x: float, y: float) -> PsfStamp:
        column, row = math.floor(x + 0.5), math.floor(y + 0.5)
        array = np.empty((self._size, self._size))
        interpolate_stamp(
            self._basis, self._coefficients, *self._nodes, *self._barycentric, STEPS, x, y, array
        )
        return PsfStamp(array, column - self._size // 2, row - self._size // 2)

    @staticmethod
    def _axis_nodes(n: int, degree: int) -> np.ndarray:
        unit = np.cos((np.arange(degree + 1) + 0.5) * np.pi / (degree + 1))[::-1]
        return np.unique(np.round(0.5 * (n - 1) * (1 + unit)))

    def _fine_samples(self, x: float, y: float) -> np.ndarray:
        """The PSF at (x, y) at steps of a quarter pixel, centre in the middle, with a margin."""
        n = self._size
        side = n * STEPS + 2 * _TAPS + 1
        fine = np.zeros((side, side))
        middle, half = side // 2, n // 2
        for a in range(STEPS):
            for b in range(STEPS):
                dx, dy = -0.5 + b / STEPS, -0.5 + a / STEPS
                array = self._psf.image_at(x + dx, y + dy).array
                j = middle - half * STEPS + round(-dy * STEPS)
                i = middle - half * STEPS + round(-dx * STEPS)
                fine[j : j + n * STEPS : STEPS, i : i + n * STEPS : STEPS] = array
        # the model says nothing beyond its stamps: go on with their outermost values
        begin, end = middle - half * STEPS - 1, middle + half * STEPS + 3
        margins = ((begin, side - end), (begin, side - end))
        return np.pad(fine[begin:end, begin:end], margins, mode="edge")

    def _build(self, shape: tuple[int, int], degree: int) -> None:
        # nodes at whole pixels, so that steps of a pixel's quarter are exact
        self._nodes = [self._axis_nodes(n, degree) for n in (shape[1], shape[0])]
        self._barycentric = [_barycentric_weights(nodes) for nodes in self._nodes]
        samples = np.array(
            [[self._fine_samples(x, y).ravel() for x in self._nodes[0]] for y in self._nodes[1]]
        )
        ny, nx, _ = samples.shape
        side = self._size * STEPS + 2 * _TAPS + 1
        flat = samples.reshape(ny * nx, -1)
        # of the small matrix of products: singular vectors of thousands of samples cost more than all sources
        squares, vectors = np.linalg.eigh(flat @ flat.T)
        vectors = vectors[:, squares > 1e-11 * squares[-1]]
        self._basis = np.ascontiguousarray((vectors.T @ flat).reshape(-1, side, side))
        self._coefficients = np.ascontiguousarray(vectors.T).reshape(-1, ny, nx)

    def _agrees(self, shape: tuple[int, int], tolerance: float) -> bool:
        for u, v in ((0.037, 0.91), (0.31, 0.26), (0.55, 0.63), (0.83, 0.12), (0.97, 0.98)):
            x, y = u * (shape[1] - 1), v * (shape[0] - 1)
            exact = self._psf.image_at(x, y).array
            if np.abs(self._interpolated(x, y).array - exact).max() > tolerance * exact.max():
                return False
        return True


def _barycentric_weights(nodes: np.ndarray) -> np.ndarray:
    difference = nodes[:, None] - nodes
    np.fill_diagonal(difference, 1.0)
    # scaled: products of distances of thousands of pixels would overflow for high degrees
    return 1.0 / np.prod(difference / max(np.ptp(nodes), 1.0), axis=1)
