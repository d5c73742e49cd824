"""Brighter-fatter correction (LDM-151 8.1): charge that was pushed out of bright pixels goes back.

**Definition of the kernel.** A pixel with q electrons moves the boundaries of all pixels while charge is gathered
(Antilogus et al. 2014), as a potential K q would: K is positive, falls outward, and charge is pushed down its
gradient. Boundaries grow with the charge, so over an exposure they were displaced by half of what they are in
the end. What was measured, M, and what would have been without the effect, Q, differ by (Coulton et al. 2018,
with K of the opposite sign)::

    M - Q = +1/2 div( Q grad(K * M) )

``*`` is the convolution; div and grad are differences through the four faces of a pixel: with ``phi = K * M`` the
charge ``1/2 Q_face (phi_{i+1} - phi_i)`` enters pixel i from pixel i + 1. What leaves a pixel enters its
neighbour, so charge is conserved exactly.

**From covariances.** In a flat of mean mu [electron] the fluctuations n of Q have variance mu, and the equation
says ``M = mu + n + (mu / 2) (L K) * n`` with L the five-point Laplacian
``(L K)_ij = K_{i+1,j} + K_{i-1,j} + K_{i,j+1} + K_{i,j-1} - 4 K_ij``. Hence, to first order, for lags of i rows
and j columns::

    Cov_ij = mu delta_ij + mu^2 (L K)_ij,      so  L K = a  with  a_ij = (Cov_ij - mu delta_ij) / mu^2  [1 / electron]

(read noise is taken from Cov_00 first; a is that of Astier et al. 2019 at low level): a_00 < 0, a_ij > 0 elsewhere.
**Sum rule**: charge is only moved, so a over all lags of the plane sums to 0. `kernel_from_covariances` gives the
lags that were not measured what the measured ones lack, and solves L K = a.

phi comes from the measured charge, which made the field, and is computed once; Q is then found by iteration,
which gains a factor of the size of the effect (some per cent) with each turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.algorithms.instrument_signature_removal.saturation import mark_near
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.detector_characterization import BrighterFatterKernel

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal.state import IsrState

_ROWS = 256
_WINGS = 6
_TOLERANCE = 2e-3


@dataclass(frozen=True)
class BrighterFatterConfig:
    """The brighter-fatter correction."""

    iterations: int = 2
    """Turns of the solution; the second changes the correction by some per cent of it."""
    per_amplifier: bool = False
    """A kernel for each amplifier; otherwise their mean, which has less noise."""
    suspect: int = 3
    """Pixels this near to saturated ones become SUSPECT: how much charge those pushed out is not known [pixel]."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"brighter_fatter.iterations must be at least 1, got {self.iterations}")
        if self.suspect < 0:
            raise ValueError(f"brighter_fatter.suspect must not be negative, got {self.suspect}")


def covariances_of_kernel(potential: np.ndarray) -> np.ndarray:
    """a = L K [1 / electron], shape (2 r + 3, 2 r + 3), of a kernel of shape (2 r + 1, 2 r + 1), 0 beyond it."""
    padded = np.pad(np.asarray(potential, dtype=np.float64), 2)
    middle = padded[1:-1, 1:-1]
    return padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2] - 4 * middle


def kernel_from_covariances(coefficients: np.ndarray, radius: int | None = None) -> np.ndarray:
    """Kernel K whose Laplacian is `coefficients`, by sine transforms on a grid with room for the wings.

    Lags beyond those given get wings that fall as the cube of the distance, as the field of a charge above a
    conductor does, and hold what the sum rule asks for; where the given ones sum to more than 0, by their noise,
    a_00 takes the difference.

    Parameters
    ----------
    coefficients : ndarray, shape (n, n)
        a_ij at lags (rows, columns) from 0 [1 / electron]; finite.
    radius : int, optional
        Of the kernel [pixel]; by default n.

    Returns
    -------
    ndarray of float64, shape (2 radius + 1, 2 radius + 1)
        [1 / electron]; 0 at the edge: a constant is taken off, and values below 0 are cut, for only its gradient
        counts.
    """
    quadrant = np.array(coefficients, dtype=np.float64)
    n = quadrant.shape[0]
    if quadrant.shape != (n, n) or not np.isfinite(quadrant).all():
        raise ValueError(f"coefficients must be finite with shape (n, n), got shape {quadrant.shape}")
    radius = n if radius is None else radius
    reach = _WINGS * max(n, radius)
    lags = np.arange(-reach, reach + 1)
    rows, columns = np.abs(lags)[:, None], np.abs(lags)[None, :]
    given = (rows < n) & (columns < n)
    plane = np.where(given, quadrant[np.minimum(rows, n - 1), np.minimum(columns, n - 1)], 0.0)
    lacking = -plane.sum()
    if lacking > 0:
        wings = np.where(given, 0.0, np.maximum(np.hypot(rows, columns), 1.0) ** -3.0)
        plane += wings * (lacking / wings.sum())
    else:
        plane[reach, reach] += lacking
    potential = _solve_poisson(plane)[
        reach - radius : reach + radius + 1, reach - radius : reach + radius + 1
    ]
    edge = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1])
    ring = (edge > radius - 0.5) & (edge <= radius + 0.5)
    # transforms round differently on both sides
    potential = potential + potential[::-1]
    potential = (potential + potential[:, ::-1]) / 4
    return np.maximum(potential - potential[ring].mean(), 0.0) * (edge <= radius)


def _solve_poisson(source: np.ndarray) -> np.ndarray:
    """Solution of L K = source with K = 0 outside of the array."""
    from scipy import fft

    ny, nx = source.shape
    rows = 2 * np.cos(np.pi * np.arange(1, ny + 1) / (ny + 1)) - 2
    columns = 2 * np.cos(np.pi * np.arange(1, nx + 1) / (nx + 1)) - 2
    return fft.idstn(fft.dstn(source, type=1) / (rows[:, None] + columns[None, :]), type=1)


def separable_factors(potential: np.ndarray, tolerance: float = _TOLERANCE) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows, each of shape (rank, 2 r + 1), float32, whose outer products sum to the kernel.

    The rank is the least whose Laplacian differs from the kernel's by less than `tolerance` of its largest value.
    """
    left, singular, right = np.linalg.svd(np.asarray(potential, dtype=np.float64))
    wanted = covariances_of_kernel(potential)
    for rank in range(1, singular.size + 1):
        short = (left[:, :rank] * singular[:rank]) @ right[:rank]
        if np.abs(covariances_of_kernel(short) - wanted).max() <= tolerance * np.abs(wanted).max():
            break
    root = np.sqrt(singular[:rank])
    columns = (left[:, :rank] * root).T
    return np.ascontiguousarray(columns, np.float32), (right[:rank] * root[:, None]).astype(np.float32)


@kernel(
    "void(float32[::1], const(float32[::1]), const(float32[::1]), const(float32[::1]), const(float32[::1]), "
    "int64, int64, const(float32[::1]), int64)"
)
def add_four(out, first, second, third, fourth, start, step, taps, last):
    """Add four rows, each `step` pixels further from `start`, times taps `last`, `last` - 1 ... to `out`."""
    a, b, c, d = taps[last], taps[last - 1], taps[last - 2], taps[last - 3]
    n = out.size
    one = first[start : start + n]
    two = second[start + step : start + step + n]
    three = third[start + 2 * step : start + 2 * step + n]
    four = fourth[start + 3 * step : start + 3 * step + n]
    for i in range(n):
        out[i] += (a * one[i] + b * two[i]) + (c * three[i] + d * four[i])


@kernel("void(const(float32[:, ::1]), const(float32[:, ::1]), const(float32[:, ::1]), float32[:, ::1])")
def convolve_separable(charge, columns, rows, out):
    """Sum of separable convolutions of the inner part of `charge`.

    Parameters
    ----------
    charge : float32, shape (ny + 2 r, nx + 2 r)
    columns, rows : float32, shape (rank, 2 r + 1)
        Factors along y and along x.
    out : float32, shape (ny, nx)
        Written.
    """
    rank, width = rows.shape
    ny, nx = out.shape
    height = charge.shape[0]
    partial = np.empty((height, nx), np.float32)
    out[:, :] = np.float32(0)
    for k in range(rank):
        for j in range(height):
            partial[j, :] = np.float32(0)
            # four taps at a time: the sum is loaded and stored once for them
            for t in range(0, width - 3, 4):
                add_four(partial[j], charge[j], charge[j], charge[j], charge[j], t, 1, rows[k], width - 1 - t)
            for t in range(width - width % 4, width):
                for i in range(nx):
                    partial[j, i] += rows[k, width - 1 - t] * charge[j, i + t]
        for j in range(ny):
            for t in range(0, width - 3, 4):
                add_four(
                    out[j],
                    partial[j + t],
                    partial[j + t + 1],
                    partial[j + t + 2],
                    partial[j + t + 3],
                    0,
                    0,
                    columns[k],
                    width - 1 - t,
                )
            for t in range(width - width % 4, width):
                for i in range(nx):
                    out[j, i] += columns[k, width - 1 - t] * partial[j + t, i]


@kernel(
    "void(const(float32[:, ::1]), const(float32[:, ::1]), const(float32[:, ::1]), const(boolean[:, ::1]), "
    "float32[:, ::1])"
)
def displaced_charge(measured, charge, potential, still, out):
    """One turn: what was measured less what the field moved, ``M - 1/2 div(Q grad phi)``.

    The density at a face is that of a cubic through the pixel sums of the four pixels across it (of two where one
    of the outer ones is missing). No charge passes the faces of pixels in `still`, nor the array's edge.

    Parameters
    ----------
    measured, charge, potential : float32, shape (ny, nx)
        M and the present Q [electron], phi.
    still : bool, shape (ny, nx)
        Pixels whose charge is not known or does not follow the field: saturated, without data.
    out : float32, shape (ny, nx)
        The next Q; where `still`, M.
    """
    ny, nx = charge.shape
    flux = np.zeros(nx + 1, np.float32)
    before = np.zeros(nx, np.float32)
    half, sixth, zero = np.float32(0.5), np.float32(1.0 / 6.0), np.float32(0)
    for j in range(ny):
        # through the right faces; flux[i + 1] is that of pixel i
        row, field, fixed = charge[j], potential[j], still[j]
        for i in range(nx - 1):
            left, right = max(i - 1, 0), min(i + 2, nx - 1)
            density = half * (row[i] + row[i + 1])
            cubic = density + (density - half * (row[left] + row[right])) * sixth
            whole = left < i and right > i + 1 and not (fixed[left] or fixed[right])
            density = cubic if whole else density
            moved = half * density * (field[i + 1] - field[i])
            flux[i + 1] = zero if fixed[i] or fixed[i + 1] else moved
        for i in range(nx):
            out[j, i] = measured[j, i] - flux[i + 1] + flux[i] + before[i]
        if j == ny - 1:
            break
        # through the upper faces
        below, above = max(j - 1, 0), min(j + 2, ny - 1)
        inside = below < j and above > j + 1
        for i in range(nx):
            density = half * (charge[j, i] + charge[j + 1, i])
            cubic = density + (density - half * (charge[below, i] + charge[above, i])) * sixth
            whole = inside and not (still[below, i] or still[above, i])
            density = cubic if whole else density
            moved = half * density * (potential[j + 1, i] - potential[j, i])
            moved = zero if still[j, i] or still[j + 1, i] else moved
            before[i] = moved
            out[j, i] -= moved


def correct_brighter_fatter(
    image: np.ndarray, still: np.ndarray, potential: np.ndarray, iterations: int = 2
) -> None:
    """Put charge back, in place, some rows at a time.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx) [electron]
        Charge as measured, before it is divided by the flat. NaN stays; the median stands for it in the field.
    still : ndarray of bool, shape (ny, nx)
        Pixels through whose faces nothing is moved (see `displaced_charge`); those that are NaN need not be in it.
    potential : ndarray, shape (2 r + 1, 2 r + 1) [1 / electron]
        The kernel, in the axes of `image`.
    iterations : int
    """
    factors = separable_factors(potential)
    radius = potential.shape[0] // 2
    ny, nx = image.shape
    # a face reaches two pixels, and each turn needs the turn before it there
    need = 2 * iterations
    above = np.empty((0, nx), np.float32)
    fill = _level(image)
    for start in range(0, ny, _ROWS):
        stop = min(start + _ROWS, ny)
        first, last = max(start - need - radius, 0), min(stop + need + radius, ny)
        # rows before `start` are corrected already: their measured values were kept
        rows = np.concatenate([above[above.shape[0] - (start - first) :], image[start:last]])
        above = rows[max(stop - need - radius, 0) - first : stop - first].copy()
        inner_first, inner_last = max(start - need, 0), min(stop + need, ny)
        lost = ~np.isfinite(rows)
        if lost.any():
            rows[lost] = fill
        height = inner_last - inner_first
        padded = np.zeros((height + 2 * radius, nx + 2 * radius), np.float32)
        offset = first - (inner_first - radius)
        padded[offset : offset + rows.shape[0], radius : radius + nx] = rows
        field = np.empty((height, nx), np.float32)
        convolve_separable(padded, *factors, field)
        del padded
        inner = slice(inner_first - first, inner_last - first)
        measured = rows[inner]
        fixed = still[inner_first:inner_last] | lost[inner]
        charge, other = measured, np.empty_like(measured)
        for _ in range(iterations):
            displaced_charge(measured, charge, field, fixed, other)
            charge, other = other, (np.empty_like(measured) if charge is measured else charge)
        part = slice(start - inner_first, stop - inner_first)
        image[start:stop] = charge[part]
        gone = lost[inner][part]
        if gone.any():
            image[start:stop][gone] = np.nan


def _level(image: np.ndarray) -> np.float32:
    """Median of some thousand of the finite pixels, 0 without any."""
    sample = image[:: max(image.shape[0] // 128, 1), :: max(image.shape[1] // 128, 1)]
    sample = sample[np.isfinite(sample)]
    return np.float32(np.median(sample)) if sample.size else np.float32(0)


def mean_kernel(component: BrighterFatterKernel) -> np.ndarray:
    """Mean kernel of the amplifiers that have one (finite, not 0 everywhere); zeros when none has."""
    good = [each for each in component.kernel if np.isfinite(each).all() and each.any()]
    return np.mean(good, axis=0) if good else np.zeros(component.kernel.shape[1:])


def correct_frame(state: IsrState) -> None:
    """The correction of a frame [electron] with its calibrations' kernel, in place; sets SUSPECT."""
    component, config = state.calibrations.brighter_fatter, state.config.brighter_fatter
    still = state.mask.any(["SATURATED"])
    common = mean_kernel(component)
    if config.suspect and common.any() and still.any():
        mask = state.mask
        mark_near(mask.array, mask.bits(["SATURATED"]), mask.bits(["SUSPECT"]), config.suspect)
    if not config.per_amplifier:
        correct_brighter_fatter(state.image, still, common, config.iterations)
        return
    reach = component.kernel.shape[1] // 2 + 2 * config.iterations
    parts = []
    for amplifier in state.detector.amplifiers:
        own = component.kernel[component.amplifiers.index(amplifier.name)]
        around = amplifier.data.grown(reach).overlap(state.detector.box)
        work = state.image[around.slices()].copy()
        usable = np.isfinite(own).all() and own.any()
        correct_brighter_fatter(work, still[around.slices()], own if usable else common, config.iterations)
        parts.append(work[amplifier.data.slices(around)].copy())
    # after all are done: neighbours see the measured charge
    for amplifier, part in zip(state.detector.amplifiers, parts):
        state.image[amplifier.data.slices()] = part
