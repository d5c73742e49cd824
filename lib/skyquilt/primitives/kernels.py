"""Convolution Kernels (LDM-151 9.4): convolution and correlation of images, their variance and masks.

A kernel is a float64 array (ky, kx) whose centre is the pixel (ky // 2, kx // 2), for even sizes too. With
offsets (j, i) from the centre::

    convolution   out[y, x] = sum_ji kernel[j, i] image[y - j, x - i]
    correlation   out[y, x] = sum_ji kernel[j, i] image[y + j, x + i]

Images are float32, sums float64. Results have the shape and frame of the image. Pixels that are not `good`
are treated like those outside of the image; what becomes of them is the `boundary`:

``zero``        they count as 0
``valid``       the result is NaN wherever a kernel value that is not 0 meets one of them
``normalised``  the sum goes over the others and is divided by the share of the kernel that met them, so that
                a constant image gives a constant; NaN where that share is below `min_coverage`
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel as compiled_kernel
from skyquilt.primitives.component import State, register
from skyquilt.primitives.geometry import Box

BOUNDARIES = ("zero", "valid", "normalised")
METHODS = ("auto", "direct", "separable", "fft")

_SEPARABLE_TOLERANCE = 1e-12
"""Second singular value over the first below which a kernel counts as the product of a column and a row."""

_MOST_DIRECT_PIXELS = 150
"""Larger kernels are faster by FFT: 20 ns per image pixel, where direct sums take 0.13 ns per product."""


def convolve(
    image: np.ndarray,
    kernel: np.ndarray,
    good: np.ndarray | None = None,
    boundary: str = "zero",
    method: str = "auto",
    min_coverage: float = 0.1,
) -> np.ndarray:
    """Convolve an image with a kernel.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    kernel : ndarray, shape (ky, kx)
        Any size, finite.
    good : ndarray of bool, shape (ny, nx), optional
        False where a pixel must not contribute. Without it those that are not finite do not.
    boundary : {"zero", "valid", "normalised"}
    method : {"auto", "direct", "separable", "fft"}
        All give the same to float32 rounding of the result and float64 rounding of the brightest pixel near.
        "separable" raises ValueError for a kernel that is not the product of a column and a row.
    min_coverage : float
        For "normalised": least share of the kernel, in (0, 1].

    Returns
    -------
    ndarray of float32, shape (ny, nx)
    """
    image, kernel, good = _checked(image, kernel, good, boundary)
    clean = image if good is None else np.where(good, image, np.float32(0))
    sums = _convolve(clean, kernel, method)
    return _bounded(sums, kernel, good, boundary, method, min_coverage)


def correlate(
    image: np.ndarray,
    kernel: np.ndarray,
    good: np.ndarray | None = None,
    boundary: str = "zero",
    method: str = "auto",
    min_coverage: float = 0.1,
) -> np.ndarray:
    """Correlate an image with a kernel: `convolve` with the kernel flipped about its centre."""
    return convolve(image, flipped(kernel), good, boundary, method, min_coverage)


def convolve_variance(
    variance: np.ndarray,
    kernel: np.ndarray,
    good: np.ndarray | None = None,
    boundary: str = "zero",
    method: str = "auto",
    min_coverage: float = 0.1,
) -> np.ndarray:
    """Variance of a convolved image whose pixels were independent: the variance convolved with kernel^2.

    Arguments as in `convolve`, with which it agrees on where the result is NaN when `good` is the same (give
    it: without it, what is not finite in the variance is bad, not in the image). The convolved pixels are
    correlated; their covariances are not in the result.
    """
    variance, kernel, good = _checked(variance, kernel, good, boundary)
    clean = variance if good is None else np.where(good, variance, np.float32(0))
    sums = np.maximum(_convolve(clean, kernel**2, method), 0)
    if boundary != "normalised":
        return _bounded(sums, kernel, good, boundary, method, min_coverage)
    share = coverage(variance.shape, kernel, good, method)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(share >= min_coverage, sums / share**2, np.nan).astype(np.float32)


def spread_mask(mask: np.ndarray, kernel: np.ndarray, fraction: float = 1e-3) -> np.ndarray:
    """Mask of a convolved image: the bits of all pixels that the kernel's relevant pixels reach.

    Parameters
    ----------
    mask : ndarray of int32, shape (ny, nx)
    kernel : ndarray, shape (ky, kx)
    fraction : float
        The faintest kernel pixels that together hold no more than this fraction of sum |kernel| spread
        nothing.

    Returns
    -------
    ndarray of int32, shape (ny, nx)
    """
    mask = np.asarray(mask, dtype=np.int32)
    j, i = np.nonzero(relevant_pixels(kernel, fraction))
    out = np.zeros_like(mask)
    scatter_bits(mask, j - kernel.shape[0] // 2, i - kernel.shape[1] // 2, out)
    return out


def relevant_pixels(kernel: np.ndarray, fraction: float = 1e-3) -> np.ndarray:
    """True for all but the faintest pixels that together hold at most `fraction` of sum |kernel|."""
    size = np.abs(kernel).ravel()
    order = np.argsort(size, kind="stable")
    faint = np.cumsum(size[order]) <= fraction * size.sum()
    relevant = np.ones(size.size, dtype=bool)
    relevant[order[faint]] = False
    return relevant.reshape(kernel.shape)


def coverage(
    shape: tuple[int, int], kernel: np.ndarray, good: np.ndarray | None = None, method: str = "auto"
) -> np.ndarray:
    """Share of the kernel's sum that meets good pixels inside the image, float64, shape (ny, nx).

    Raises
    ------
    ValueError
        When the kernel sums to 0: it has no shares.
    """
    kernel = np.asarray(kernel, dtype=np.float64)
    total = kernel.sum()
    if abs(total) <= 1e-12 * np.abs(kernel).sum():
        raise ValueError("a kernel that sums to 0 cannot be normalised")
    if good is None:
        return _rectangle_sums(shape, kernel) / total
    return _convolve(good.astype(np.float32), kernel, method) / total


def flipped(kernel: np.ndarray) -> np.ndarray:
    """The kernel turned by 180 degrees about its centre; an even size grows by leading zeros."""
    kernel = np.asarray(kernel)
    even = [(1 - n % 2, 0) for n in kernel.shape]
    return np.pad(kernel[::-1, ::-1], even)


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The kernel that does what `first` and then `second` do, where no boundary is near."""
    from scipy.signal import convolve as full_convolution

    product = full_convolution(
        np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64), method="direct"
    )
    both_even = [(0, int(a % 2 == 0 and b % 2 == 0)) for a, b in zip(first.shape, second.shape, strict=True)]
    return np.pad(product, both_even)


def separate(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Column (ky,) and row (kx,) whose product is the kernel, or None when there are none."""
    u, singular, vt = np.linalg.svd(np.asarray(kernel, dtype=np.float64), full_matrices=False)
    if singular.size > 1 and singular[1] > _SEPARABLE_TOLERANCE * singular[0]:
        return None
    root = np.sqrt(singular[0])
    # svd leaves the sign open; the larger half of the column shall be positive
    sign = 1.0 if u[:, 0].sum() >= 0 else -1.0
    return sign * root * u[:, 0], sign * root * vt[0]


def shift_weights(shift: float | np.ndarray, order: int = 8, window: str = "kaiser") -> np.ndarray:
    """1-D kernel, shape (..., 2 order + 1), that moves samples by `shift` pixels: a windowed sinc.

    A smooth correction is added, after which the weights move polynomials up to the third degree exactly; so
    the flux, centroid and second moments of what is moved are exact.

    Parameters
    ----------
    shift : float or ndarray
        Within half a pixel; move by whole pixels first.
    order : int
        Half length, at least 2.
    window : {"kaiser", "lanczos"}
        Moves a Gaussian of sigma 1, 1.5, 2 px with errors of its peak below 3e-3, 8e-5, 3e-5
        with order 8 and the Kaiser window, and 7e-3, 2e-3, 1e-3 with order 5 and the Lanczos window.

    Raises
    ------
    ValueError
        For |shift| > 0.5, an order below 2 or another window.
    """
    from scipy.special import i0

    if not np.max(np.abs(shift), initial=0) <= 0.5 or order < 2:
        raise ValueError(f"shifts are within half a pixel and orders from 2, got {shift} and {order}")
    offset = np.arange(-order, order + 1) - np.asarray(shift, dtype=np.float64)[..., None]
    scaled = offset / order
    if window == "lanczos":
        taper = np.sinc(scaled)
    elif window == "kaiser":
        # steepness that balances width of the transition and ripple at this length
        steepness = 4 + 0.5 * order
        taper = i0(steepness * np.sqrt(np.maximum(1 - scaled**2, 0))) / i0(steepness)
    else:
        raise ValueError(f"window must be kaiser or lanczos, got {window!r}")
    taper[np.abs(scaled) >= 1] = 0
    weights = np.sinc(offset) * taper
    powers = scaled[..., None, :] ** np.arange(4)[:, None]
    missing = np.array([1.0, 0, 0, 0]) - (powers @ weights[..., None])[..., 0]
    matrix = (powers * taper[..., None, :]) @ np.swapaxes(powers, -1, -2)
    solution = np.linalg.solve(matrix, missing[..., None])[..., 0]
    return weights + taper * (solution[..., None, :] @ powers)[..., 0, :]


def shift_kernel(dx: float, dy: float, order: int = 8, window: str = "kaiser") -> np.ndarray:
    """Kernel that moves the content of an image by (dx, dy), each within half a pixel (`shift_weights`)."""
    return np.outer(shift_weights(dy, order, window), shift_weights(dx, order, window))


def sampling_matrix(places: np.ndarray, size: int, order: int = 8, window: str = "kaiser") -> np.ndarray:
    """Weights that interpolate a line of samples with `shift_weights`, zeros beyond its ends.

    Parameters
    ----------
    places : ndarray, shape (n,)
        In samples; the first is at 0.
    size : int
        Number of samples.

    Returns
    -------
    ndarray, shape (n, size)
    """
    places = np.asarray(places, dtype=np.float64)
    nearest = np.floor(places + 0.5).astype(np.int64)
    # places at whole steps share one fraction, but for rounding: the weights of each are found once
    shifts, which = np.unique(np.round(nearest - places, 13), return_inverse=True)
    weights = shift_weights(shifts, order, window)[which]
    matrix = np.zeros((places.size, size))
    # the kernel convolves: its element `order + m` meets the sample `nearest - m`
    sample = nearest[:, None] - np.arange(-order, order + 1)
    row, column = np.nonzero((sample >= 0) & (sample < size))
    matrix[row, sample[row, column]] = weights[row, column]
    return matrix


def lanczos_kernel(dx: float, dy: float, order: int = 5) -> np.ndarray:
    """`shift_kernel` with the Lanczos window."""
    return shift_kernel(dx, dy, order, "lanczos")


def polynomial_powers(degree: int) -> np.ndarray:
    """Powers of x and y of the terms up to a total degree, shape (n_term, 2), by rising degree."""
    return np.array([(total - q, q) for total in range(degree + 1) for q in range(total + 1)])


def polynomial_terms(x: np.ndarray, y: np.ndarray, degree: int, box: Box) -> np.ndarray:
    """Terms of a polynomial over a box whose sides are mapped to -1..+1.

    Returns
    -------
    ndarray, shape (n_term,) + shape of x
    """
    u = (np.asarray(x, dtype=np.float64) - box.centre[0]) / (0.5 * max(box.nx, 1))
    v = (np.asarray(y, dtype=np.float64) - box.centre[1]) / (0.5 * max(box.ny, 1))
    return np.array([u**p * v**q for p, q in polynomial_powers(degree)])


@register("linear_combination_kernel")
@dataclass(frozen=True, eq=False)
class LinearCombinationKernel:
    """A kernel that varies over the image: sum over i of basis_i times a polynomial in x and y.

    Parameters
    ----------
    basis : ndarray, shape (n_basis, ky, kx)
    coefficients : ndarray, shape (n_basis, n_term)
        Of `polynomial_terms` up to `degree` over `box`.
    degree : int
    box : Box
        Domain of the polynomials in the parent frame; beyond it they go on.
    """

    basis: np.ndarray
    coefficients: np.ndarray
    degree: int
    box: Box

    def __post_init__(self) -> None:
        object.__setattr__(self, "basis", np.array(self.basis, dtype=np.float64))
        object.__setattr__(self, "coefficients", np.array(self.coefficients, dtype=np.float64))
        expected = (len(self.basis), len(polynomial_powers(self.degree)))
        if self.basis.ndim != 3 or self.coefficients.shape != expected:
            raise ValueError(
                f"basis of shape {self.basis.shape} and degree {self.degree} need coefficients of shape "
                f"{expected}, got {self.coefficients.shape}"
            )

    def weights(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Weight of each basis kernel, shape (n_basis,) + shape of x."""
        return np.tensordot(self.coefficients, polynomial_terms(x, y, self.degree, self.box), axes=1)

    def at(self, x: float, y: float) -> np.ndarray:
        """The kernel at a position of the result, shape (ky, kx)."""
        return np.tensordot(self.weights(x, y), self.basis, axes=1)

    def convolve(
        self,
        image: np.ndarray,
        box: Box,
        good: np.ndarray | None = None,
        boundary: str = "zero",
        method: str = "auto",
    ) -> np.ndarray:
        """Convolve an image that lies at `box`; each output pixel is made with the kernel of its own
        position.

        `boundary` is "zero" or "valid". Returns float32, shape (ny, nx).
        """
        if boundary not in ("zero", "valid"):
            raise ValueError(f"boundary of a varying kernel must be zero or valid, got {boundary!r}")
        image, support, good = _checked(image, np.abs(self.basis).sum(axis=0), good, boundary)
        _check_box(image, box)
        clean = image if good is None else np.where(good, image, np.float32(0))
        x, y = np.arange(box.x0, box.x1), np.arange(box.y0, box.y1)
        tx, ty = _axis_terms(x, y, self.degree, self.box)
        total = np.zeros(image.shape)
        for part, coefficients in zip(self.basis, self.coefficients, strict=True):
            total += _convolve(clean, part, method) * _surface(coefficients, tx, ty, self.degree)
        return _bounded(total, support, good, boundary, method, 1.0)

    def convolve_variance(
        self, variance: np.ndarray, box: Box, good: np.ndarray | None = None, cell: int = 256
    ) -> np.ndarray:
        """Variance of the convolved image, with the kernel taken at the centre of cells of `cell` pixels.

        Outside and bad pixels count as 0. Returns float32, shape (ny, nx).
        """
        variance, _, good = _checked(variance, self.basis[0], good, "zero")
        _check_box(variance, box)
        clean = variance if good is None else np.where(good, variance, np.float32(0))
        margin_y, margin_x = self.basis.shape[1] // 2 + 1, self.basis.shape[2] // 2 + 1
        out = np.empty_like(variance)
        for y in range(0, box.ny, cell):
            for x in range(0, box.nx, cell):
                core = np.s_[y : y + cell, x : x + cell]
                top, left = max(y - margin_y, 0), max(x - margin_x, 0)
                around = clean[top : y + cell + margin_y, left : x + cell + margin_x]
                ny, nx = out[core].shape
                kernel = self.at(box.x0 + x + 0.5 * (nx - 1), box.y0 + y + 0.5 * (ny - 1))
                done = np.maximum(_convolve(around, kernel**2, "auto"), 0)
                out[core] = done[y - top : y - top + ny, x - left : x - left + nx]
        return out

    def to_state(self) -> State:
        """Plain data."""
        box = self.box
        meta = {"degree": self.degree, "box": [box.x0, box.y0, box.nx, box.ny]}
        return State(self.kind, meta, {"basis": self.basis, "coefficients": self.coefficients})

    @classmethod
    def from_state(cls, state: State) -> LinearCombinationKernel:
        """The kernel again."""
        return cls(
            state.arrays["basis"], state.arrays["coefficients"], state.meta["degree"], Box(*state.meta["box"])
        )


def _checked(
    image: np.ndarray, kernel: np.ndarray, good: np.ndarray | None, boundary: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Arrays of the right types; `good` is None when every pixel is."""
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be one of {BOUNDARIES}, got {boundary!r}")
    image = np.ascontiguousarray(image, dtype=np.float32)
    kernel = np.ascontiguousarray(kernel, dtype=np.float64)
    if image.ndim != 2 or kernel.ndim != 2 or not kernel.size:
        raise ValueError(f"image and kernel must have two axes, got shapes {image.shape} and {kernel.shape}")
    if not np.isfinite(kernel).all():
        raise ValueError("the kernel has values that are not finite")
    finite = np.isfinite(image)
    good = finite if good is None else finite & good
    return image, kernel, None if good.all() else good


def _check_box(image: np.ndarray, box: Box) -> None:
    if image.shape != box.shape:
        raise ValueError(f"image of shape {image.shape} does not fill {box}")


def _convolve(image: np.ndarray, kernel: np.ndarray, method: str) -> np.ndarray:
    """Convolution with zeros outside, float64."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    image = np.ascontiguousarray(image)
    out = np.zeros(image.shape)
    if not image.size:
        return out
    factors = separate(kernel) if method in ("auto", "separable") and min(kernel.shape) > 1 else None
    if method == "separable" and factors is None:
        if min(kernel.shape) > 1:
            raise ValueError(f"the kernel of shape {kernel.shape} is not separable")
        method = "direct"
    if factors is not None:
        convolve_column_row(image, *factors, out)
    elif method == "fft" or (method == "auto" and kernel.size > _MOST_DIRECT_PIXELS):
        _convolve_tiles(image, kernel, out)
    else:
        convolve_direct(image, kernel, out)
    return out


def _convolve_tiles(image: np.ndarray, kernel: np.ndarray, out: np.ndarray) -> None:
    """Convolution by FFT of overlapping tiles (overlap-save).

    Tiles keep the memory small, and the rounding errors that a bright star spreads near the star.
    """
    from scipy import fft

    ky, kx = kernel.shape
    cy, cx = ky // 2, kx // 2
    # a tile much larger than the kernel wastes little on the overlap, and one within the cache is fastest
    ty, tx = (
        fft.next_fast_len(min(max(4 * k, 256), n + k - 1), real=True)
        for k, n in zip((ky, kx), image.shape, strict=True)
    )
    step_y, step_x = ty - ky + 1, tx - kx + 1
    transform = fft.rfft2(kernel, (ty, tx))
    for y in range(0, image.shape[0], step_y):
        for x in range(0, image.shape[1], step_x):
            # input rows that rows y.. of the result need
            top, left = y - (ky - 1 - cy), x - (kx - 1 - cx)
            part = image[max(top, 0) : top + ty, max(left, 0) : left + tx]
            if not part.any():
                continue
            tile = np.zeros((ty, tx))
            oy, ox = max(-top, 0), max(-left, 0)
            tile[oy : oy + part.shape[0], ox : ox + part.shape[1]] = part
            done = fft.irfft2(fft.rfft2(tile) * transform, (ty, tx))
            target = out[y : y + step_y, x : x + step_x]
            target[...] = done[ky - 1 : ky - 1 + target.shape[0], kx - 1 : kx - 1 + target.shape[1]]


def _bounded(
    sums: np.ndarray,
    kernel: np.ndarray,
    good: np.ndarray | None,
    boundary: str,
    method: str,
    min_coverage: float,
) -> np.ndarray:
    if boundary == "zero":
        return sums.astype(np.float32)
    if boundary == "normalised":
        if not 0 < min_coverage <= 1:
            raise ValueError(f"min_coverage must be in (0, 1], got {min_coverage}")
        share = coverage(sums.shape, kernel, good, method)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(share >= min_coverage, sums / share, np.nan).astype(np.float32)
    support = (kernel != 0).astype(np.float64)
    met = _rectangle_sums(sums.shape, support)
    if good is not None:
        met = _convolve(good.astype(np.float32), support, "auto" if method == "separable" else method)
    # counts of pixels: half a pixel is far above the rounding errors
    return np.where(met > support.sum() - 0.5, sums, np.nan).astype(np.float32)


def _rectangle_sums(shape: tuple[int, int], kernel: np.ndarray) -> np.ndarray:
    """Sum of the kernel pixels that meet the image, float64 (ny, nx), from the table of the kernel's sums."""
    table = np.zeros((kernel.shape[0] + 1, kernel.shape[1] + 1))
    table[1:, 1:] = kernel.cumsum(axis=0).cumsum(axis=1)
    (y_low, y_high), (x_low, x_high) = (_reach(n, k) for n, k in zip(shape, kernel.shape, strict=True))
    return (
        table[np.ix_(y_high, x_high)]
        - table[np.ix_(y_low, x_high)]
        - table[np.ix_(y_high, x_low)]
        + table[np.ix_(y_low, x_low)]
    )


def _reach(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """First kernel pixel, and the one beyond the last, that meet a line of n pixels at each of them."""
    place = np.arange(n) + k // 2
    return np.clip(place - n + 1, 0, k), np.clip(place + 1, 0, k)


def _axis_terms(x: np.ndarray, y: np.ndarray, degree: int, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Powers 0..degree of the mapped x and y, shapes (degree + 1, nx) and (degree + 1, ny)."""
    u = (x - box.centre[0]) / (0.5 * max(box.nx, 1))
    v = (y - box.centre[1]) / (0.5 * max(box.ny, 1))
    powers = np.arange(degree + 1)[:, None]
    return u**powers, v**powers


def _surface(coefficients: np.ndarray, tx: np.ndarray, ty: np.ndarray, degree: int) -> np.ndarray:
    """Polynomial over a grid, shape (ny, nx)."""
    matrix = np.zeros((degree + 1, degree + 1))
    for value, (p, q) in zip(coefficients, polynomial_powers(degree), strict=True):
        matrix[q, p] = value
    return ty.T @ matrix @ tx


@compiled_kernel("void(const(float32[::1]), const(float64[::1]), int64, float64[::1])")
def add_row(source, row, centre, out):
    """Add the 1-D convolution of a line with a row kernel, zeros outside."""
    nx = source.size
    for i in range(row.size):
        weight = row[i]
        shift = i - centre
        first, last = max(0, shift), min(nx, nx + shift)
        if weight == 0.0 or last <= first:
            continue
        # one kernel value along the whole line: sums of different pixels, which the compiler vectorises
        target = out[first:last]
        given = source[first - shift : last - shift]
        for n in range(target.size):
            target[n] += weight * given[n]


@compiled_kernel("void(const(float32[:, ::1]), const(float64[:, ::1]), float64[:, ::1])")
def convolve_direct(image, kernel, out):
    """Convolution, centre at (ky // 2, kx // 2), zeros outside."""
    ny, nx = image.shape
    ky, kx = kernel.shape
    cy, cx = ky // 2, kx // 2
    along = np.empty(nx, dtype=np.float64)
    for y in range(ny):
        along[:] = 0.0
        for j in range(ky):
            v = y - (j - cy)
            if v >= 0 and v < ny:
                add_row(image[v], kernel[j], cx, along)
        out[y] = along


@compiled_kernel("void(const(float32[:, ::1]), const(float64[::1]), const(float64[::1]), float64[:, ::1])")
def convolve_column_row(image, column, row, out):
    """Convolution with the product of a column and a row, zeros outside; `out` must be zero."""
    ny, nx = image.shape
    ky, kx = column.size, row.size
    cy, cx = ky // 2, kx // 2
    along = np.empty(nx, dtype=np.float64)
    for v in range(ny):
        along[:] = 0.0
        add_row(image[v], row, cx, along)
        for j in range(ky):
            y = v + (j - cy)
            if y >= 0 and y < ny:
                weight = column[j]
                summed = out[y]
                for n in range(nx):
                    summed[n] += weight * along[n]


@compiled_kernel("void(const(int32[:, :]), const(int64[::1]), const(int64[::1]), int32[:, ::1])")
def scatter_bits(mask, dy, dx, out):
    """OR the bits of each pixel into the pixels at the given offsets from it."""
    ny, nx = mask.shape
    for y in range(ny):
        for x in range(nx):
            bits = mask[y, x]
            if bits == 0:
                continue
            for n in range(dy.size):
                v, u = y + dy[n], x + dx[n]
                if v >= 0 and v < ny and u >= 0 and u < nx:
                    out[v, u] |= bits
