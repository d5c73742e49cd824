"""Point-Spread Functions (LDM-151 9.6): what a point source looks like at a position of an image.

A PSF includes the pixel response: a stamp holds the share of the light that each pixel receives. Stamps are
square with an odd side and sum to 1, so what a model has beyond its stamp is put into the stamp. Positions
are in the parent frame [pixel], second moments in pixel^2.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from skyquilt.primitives.component import State, register
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.kernels import LinearCombinationKernel, sampling_matrix

FWHM_OF_SIGMA = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian over its standard deviation."""

_HALF_WIDTH_IN_FWHM = 4.0
_QUADRATURE_NODES = 6
"""Per pixel and direction; beside 40 nodes 5 differ by up to 5e-7 of the peak, 6 by 2e-8, 8 by 1e-11."""


class PsfImage(NamedTuple):
    """A stamp, float64 of shape (n, n) and sum 1, and its place in the parent frame."""

    array: np.ndarray
    box: Box


class Moments(NamedTuple):
    """Flux, centre [pixel] and second moments [pixel^2] of an image."""

    flux: float
    x: float
    y: float
    xx: float
    yy: float
    xy: float

    @property
    def matrix(self) -> np.ndarray:
        """Second moments as [[xx, xy], [xy, yy]]."""
        return np.array([[self.xx, self.xy], [self.xy, self.yy]])

    @property
    def trace(self) -> float:
        """xx + yy, the size T [pixel^2]."""
        return self.xx + self.yy

    @property
    def sigma(self) -> float:
        """Fourth root of the determinant [pixel]."""
        return max(self.xx * self.yy - self.xy**2, 0.0) ** 0.25

    @property
    def e1(self) -> float:
        """(xx - yy) / (xx + yy)."""
        return (self.xx - self.yy) / self.trace

    @property
    def e2(self) -> float:
        """2 xy / (xx + yy)."""
        return 2 * self.xy / self.trace


class Psf(ABC):
    """What all point-spread functions can do; a model gives `_stamp`, `size` and its state."""

    kind: ClassVar[str]
    size: int
    """Side of the stamps [pixel], odd."""

    @abstractmethod
    def _stamp(self, x: float, y: float, dx: float, dy: float) -> np.ndarray:
        """Stamp of the model at (x, y), centred (dx, dy) off the central pixel; any positive sum."""

    @abstractmethod
    def to_state(self) -> State:
        """Plain data from which `from_state` makes an equal object."""

    def image_at(self, x: float, y: float) -> PsfImage:
        """Image of a point source of flux 1 at (x, y), on the pixels of the parent frame.

        The central pixel of the stamp is the one that holds (x, y).

        Raises
        ------
        ValueError
            When the position is not finite, or the model has no positive sum there.
        """
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"a PSF needs a finite position, got ({x}, {y})")
        column, row = _pixel_of(x), _pixel_of(y)
        half = self.size // 2
        array = self._normalised(x, y, x - column, y - row)
        return PsfImage(array, Box(column - half, row - half, self.size, self.size))

    def kernel_at(self, x: float, y: float) -> np.ndarray:
        """The PSF at (x, y) centred on a pixel: a kernel for convolution, shape (size, size)."""
        return self._normalised(x, y, 0.0, 0.0)

    def moments_at(self, x: float, y: float, weight: str = "adaptive") -> Moments:
        """Moments of the pixel-centred PSF; the centre is that of the light about (x, y)'s pixel.

        `weight` is "adaptive" (a Gaussian of the PSF's own moments, `adaptive_moments`) or "none"; without a
        weight moments grow with the size of the stamp, as real PSFs have wings.
        """
        kernel = self.kernel_at(x, y)
        half = self.size // 2
        box = Box(_pixel_of(x) - half, _pixel_of(y) - half, self.size, self.size)
        if weight == "adaptive":
            return adaptive_moments(kernel, box)
        if weight == "none":
            return image_moments(kernel, box)
        raise ValueError(f"weight must be adaptive or none, got {weight!r}")

    def effective_area_at(self, x: float, y: float) -> float:
        """Noise-equivalent pixels 1 / sum(PSF^2): PSF fluxes have the noise of so many pixels."""
        return float(1 / (self.kernel_at(x, y) ** 2).sum())

    def fwhm_at(self, x: float, y: float) -> float:
        """Diameter [pixel] of the circle with the area above half of the maximum, pixel response included."""
        return half_maximum_width(self.kernel_at(x, y))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Psf):
            return NotImplemented
        return self.to_state() == other.to_state()

    __hash__ = None  # type: ignore[assignment]

    def _normalised(self, x: float, y: float, dx: float, dy: float) -> np.ndarray:
        stamp = self._stamp(x, y, dx, dy)
        total = stamp.sum()
        if not total > 0:
            raise ValueError(f"{self.kind} sums to {total} at ({x}, {y}); a PSF must have positive flux")
        return stamp / total


@register("gaussian_psf")
@dataclass(frozen=True, eq=False)
class GaussianPsf(Psf):
    """An elliptical Gaussian, integrated over pixels; the same everywhere.

    Exact to rounding when `xy` is 0; otherwise to 1e-8 of the peak for minor axes of sigma 0.5 px and more.

    Parameters
    ----------
    xx, yy, xy : float
        Second moments before the integration over pixels [pixel^2].
    size : int, optional
        Side of the stamps [pixel], odd; by default 8 times the FWHM of the major axis.
    """

    xx: float
    yy: float
    xy: float = 0.0
    size: int = 0

    def __post_init__(self) -> None:
        if not (self.xx > 0 and self.yy > 0 and self.xx * self.yy > self.xy**2):
            raise ValueError(f"moments xx={self.xx}, yy={self.yy}, xy={self.xy} are those of no ellipse")
        largest = np.linalg.eigvalsh([[self.xx, self.xy], [self.xy, self.yy]])[-1]
        object.__setattr__(self, "size", _checked_size(self.size, FWHM_OF_SIGMA * math.sqrt(largest)))

    @classmethod
    def from_fwhm(cls, fwhm: float, size: int = 0) -> GaussianPsf:
        """A round one; `fwhm` [pixel] is that before the integration over pixels."""
        variance = (fwhm / FWHM_OF_SIGMA) ** 2
        return cls(variance, variance, 0.0, size)

    def _stamp(self, x: float, y: float, dx: float, dy: float) -> np.ndarray:
        if self.xy == 0:
            return np.outer(
                _gaussian_in_pixels(self.size, dy, self.yy), _gaussian_in_pixels(self.size, dx, self.xx)
            )
        # along x the integral is an error function about the ridge, along y a quadrature within each pixel
        nodes, weights = _nodes_in_pixels(self.size, dy)
        ridge = dx + self.xy / self.yy * nodes
        across = _gaussian_in_pixels(self.size, ridge, self.xx - self.xy**2 / self.yy)
        density = weights * np.exp(-0.5 * nodes**2 / self.yy)
        return (density[..., None] * across).sum(axis=1)

    def to_state(self) -> State:
        """Plain data."""
        return State(self.kind, {"xx": self.xx, "yy": self.yy, "xy": self.xy, "size": self.size}, {})

    @classmethod
    def from_state(cls, state: State) -> GaussianPsf:
        """The PSF again."""
        return cls(**state.meta)


@register("moffat_psf")
@dataclass(frozen=True, eq=False)
class MoffatPsf(Psf):
    """An elliptical Moffat profile (1 + r^2)^-beta, integrated over pixels; the same everywhere.

    Each pixel by 6 x 6 Gauss-Legendre nodes: 1e-7 of the peak for minor axes of FWHM 1.2 px and more.

    Parameters
    ----------
    fwhm : float
        Before the integration over pixels, geometric mean of the axes [pixel].
    beta : float
        Above 1, without which the flux is not finite.
    e1, e2 : float
        Ellipticity (a^2 - b^2) / (a^2 + b^2) of the isophotes, times cos and sin of twice the position angle
        from x to y; below 1 in size.
    size : int, optional
        Side of the stamps [pixel], odd; by default 8 times the FWHM of the major axis.
    """

    fwhm: float
    beta: float
    e1: float = 0.0
    e2: float = 0.0
    size: int = 0

    def __post_init__(self) -> None:
        ellipticity = math.hypot(self.e1, self.e2)
        if not (self.fwhm > 0 and self.beta > 1 and ellipticity < 1):
            raise ValueError(
                f"a Moffat PSF needs fwhm > 0, beta > 1 and ellipticity < 1, got {self.fwhm}, {self.beta} "
                f"and {ellipticity}"
            )
        major = self.fwhm * ((1 + ellipticity) / (1 - ellipticity)) ** 0.25
        object.__setattr__(self, "size", _checked_size(self.size, major))

    def _stamp(self, x: float, y: float, dx: float, dy: float) -> np.ndarray:
        u, wu = _nodes_in_pixels(self.size, dx)
        v, wv = _nodes_in_pixels(self.size, dy)
        v, u = v[:, None, :, None], u[None, :, None, :]
        root = math.sqrt(1 - self.e1**2 - self.e2**2)
        # r^T S^-1 r with S of determinant 1 and the moments' ellipticity
        radius2 = ((1 - self.e1) * u**2 - 2 * self.e2 * u * v + (1 + self.e1) * v**2) / root
        scale2 = (0.5 * self.fwhm) ** 2 / (2 ** (1 / self.beta) - 1)
        profile = (1 + radius2 / scale2) ** -self.beta
        return np.einsum("yxij,yi,xj->yx", profile, wv, wu, optimize=True)

    def to_state(self) -> State:
        """Plain data."""
        names = ("fwhm", "beta", "e1", "e2", "size")
        return State(self.kind, {name: getattr(self, name) for name in names}, {})

    @classmethod
    def from_state(cls, state: State) -> MoffatPsf:
        """The PSF again."""
        return cls(**state.meta)


@register("kernel_psf")
@dataclass(frozen=True, eq=False)
class KernelPsf(Psf):
    """A sampled PSF, the same everywhere, moved between pixels by windowed-sinc interpolation.

    The interpolation keeps flux, centroid and second moments; its errors are those of
    `kernels.shift_weights`, as small as the PSF is well sampled. Finer samples make them smaller.

    Parameters
    ----------
    samples : ndarray, shape (n, n), n odd
        PSF (pixel response included) at steps of `step` pixels, centred on its central sample.
    step : float
        In (0, 1] [pixel].
    size : int, optional
        Side of the stamps [pixel], odd; by default what the samples cover.
    """

    samples: np.ndarray
    step: float = 1.0
    size: int = 0

    def __post_init__(self) -> None:
        samples = np.array(self.samples, dtype=np.float64)
        if not np.isfinite(samples).all() or not samples.sum() > 0:
            raise ValueError(f"PSF samples must be finite with a positive sum, got {samples.sum()}")
        object.__setattr__(self, "samples", samples / samples.sum())
        object.__setattr__(self, "size", _sampled_size(samples.shape, self.step, self.size))

    def _stamp(self, x: float, y: float, dx: float, dy: float) -> np.ndarray:
        return _resampled(self.samples, self.step, self.size, dx, dy)

    def to_state(self) -> State:
        """Plain data."""
        return State(self.kind, {"step": self.step, "size": self.size}, {"samples": self.samples})

    @classmethod
    def from_state(cls, state: State) -> KernelPsf:
        """The PSF again."""
        made = cls(state.arrays["samples"], **state.meta)
        # not divided by their sum again, which may differ from 1 by rounding
        object.__setattr__(made, "samples", np.array(state.arrays["samples"], dtype=np.float64))
        return made


@register("polynomial_psf")
@dataclass(frozen=True, eq=False)
class PolynomialPsf(Psf):
    """A sampled PSF that varies: sum over i of basis_i times a polynomial in x and y.

    Interpolated as `KernelPsf`.

    Parameters
    ----------
    model : LinearCombinationKernel
        Basis samples, shape (n_basis, n, n), n odd, at steps of `step` pixels.
    step : float
        In (0, 1] [pixel].
    size : int, optional
        Side of the stamps [pixel], odd; by default what the samples cover.
    """

    model: LinearCombinationKernel
    step: float = 1.0
    size: int = 0

    def __post_init__(self) -> None:
        shape = self.model.basis.shape[1:]
        object.__setattr__(self, "size", _sampled_size(shape, self.step, self.size))

    @classmethod
    def from_arrays(
        cls,
        basis: np.ndarray,
        coefficients: np.ndarray,
        degree: int,
        box: Box,
        step: float = 1.0,
        size: int = 0,
    ) -> PolynomialPsf:
        """From the parts of a `LinearCombinationKernel`."""
        return cls(LinearCombinationKernel(basis, coefficients, degree, box), step, size)

    def _stamp(self, x: float, y: float, dx: float, dy: float) -> np.ndarray:
        return _resampled(self.model.at(x, y), self.step, self.size, dx, dy)

    def to_state(self) -> State:
        """Plain data."""
        model = self.model.to_state()
        return State(self.kind, {**model.meta, "step": self.step, "size": self.size}, model.arrays)

    @classmethod
    def from_state(cls, state: State) -> PolynomialPsf:
        """The PSF again."""
        return cls(LinearCombinationKernel.from_state(state), state.meta["step"], state.meta["size"])


def image_moments(
    image: np.ndarray,
    box: Box | None = None,
    centre: tuple[float, float] | None = None,
    weight: tuple[float, float, float] | None = None,
) -> Moments:
    """Moments of an image, plain or under a Gaussian weight.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    box : Box, optional
        Its place in the parent frame.
    centre : (float, float), optional
        (x, y) of the weight, and about which the second moments are taken. Without: the image's centroid
        (plain), and a weight at the middle of the box with second moments about the weighted centroid.
    weight : (float, float, float), optional
        xx, yy, xy of a Gaussian that multiplies the image [pixel^2].

    Raises
    ------
    ValueError
        When the (weighted) image has no positive sum.
    """
    image = np.asarray(image, dtype=np.float64)
    box = Box.of(image) if box is None else box
    x, y = np.arange(box.x0, box.x1, dtype=np.float64), np.arange(box.y0, box.y1, dtype=np.float64)[:, None]
    if weight is not None:
        at_x, at_y = box.centre if centre is None else centre
        image = image * _gaussian(x - at_x, y - at_y, *weight)
    flux = image.sum()
    if not flux > 0:
        raise ValueError(f"moments need a positive flux, got {flux}")
    mean_x, mean_y = float((image * x).sum() / flux), float((image * y).sum() / flux)
    dx, dy = (x - mean_x, y - mean_y) if centre is None else (x - centre[0], y - centre[1])
    second = (float((image * product).sum() / flux) for product in (dx * dx, dy * dy, dx * dy))
    return Moments(float(flux), mean_x, mean_y, *second)


def adaptive_moments(
    image: np.ndarray, box: Box | None = None, tolerance: float = 1e-10, iterations: int = 200
) -> Moments:
    """Moments of the elliptical Gaussian that fits an image best (Bernstein and Jarvis 2002, section 3.1).

    The Gaussian weight has the moments that it finds; the image's second moments are twice the weighted ones.
    Meant for images without noise, such as PSFs.

    Returns
    -------
    Moments
        `flux` is that of the Gaussian.

    Raises
    ------
    ValueError
        When the iteration does not settle to `tolerance`, relative to the size.
    """
    box = Box.of(image) if box is None else box
    start = image_moments(np.maximum(image, 0.25 * np.max(image)) - 0.25 * np.max(image), box)
    centre, shape = (start.x, start.y), start.matrix + 0.1 * np.eye(2)
    for _ in range(iterations):
        weight = (shape[0, 0], shape[1, 1], shape[0, 1])
        found = image_moments(image, box, weight=weight, centre=centre)
        # with weight and light alike the weighted centroid and moments move half as far as the light's
        step = np.array([2 * (found.x - centre[0]), 2 * (found.y - centre[1])])
        inverse = np.linalg.inv(found.matrix) - np.linalg.inv(shape)
        if np.linalg.eigvalsh(inverse)[0] <= 0:
            # a weight much narrower than a pixel sees its moments and no more: a wider one does better
            shape = 2 * shape
            if np.trace(shape) > max(image.shape) ** 2:
                raise ValueError("adaptive moments do not settle: the image is wider than its stamp")
            continue
        new = np.linalg.inv(inverse)
        moved = np.abs(new - shape).max() + np.abs(step).max() * math.sqrt(np.trace(shape))
        centre, shape = (centre[0] + step[0], centre[1] + step[1]), new
        if moved <= tolerance * np.trace(shape):
            # int I w = flux / 2 for a Gaussian and its equal as weight
            return Moments(
                2 * found.flux, float(centre[0]), float(centre[1]), *(float(shape[i]) for i in _XX_YY_XY)
            )
    raise ValueError(f"adaptive moments have not settled after {iterations} rounds")


_XX_YY_XY = ((0, 0), (1, 1), (0, 1))


def half_maximum_width(image: np.ndarray, directions: int = 36) -> float:
    """Diameter [pixel] of the circle with the area above half of the maximum of a single-peaked stamp.

    The maximum and the radii are found by windowed-sinc interpolation between pixels.

    Raises
    ------
    ValueError
        When the image is nowhere below half of its maximum in some direction.
    """
    image = np.asarray(image, dtype=np.float64)
    ny, nx = image.shape
    peak_y, peak_x = np.unravel_index(np.argmax(image), image.shape)
    fine = np.arange(-20, 21) / 20
    near = sampling_matrix(peak_y + fine, ny) @ image @ sampling_matrix(peak_x + fine, nx).T
    row, column = np.unravel_index(np.argmax(near), near.shape)
    centre_y, centre_x, half = peak_y + fine[row], peak_x + fine[column], 0.5 * near.max()
    angle = np.arange(directions) * 2 * math.pi / directions

    def excess(radius: np.ndarray) -> np.ndarray:
        y, x = centre_y + np.sin(angle) * radius, centre_x + np.cos(angle) * radius
        return np.einsum("ni,ij,nj->n", sampling_matrix(y, ny), image, sampling_matrix(x, nx)) - half

    outer = np.zeros(directions)
    reach = min(centre_y, centre_x, ny - 1 - centre_y, nx - 1 - centre_x)
    while (above := excess(outer) > 0).any():
        outer[above] += 0.25
        if outer.max() > reach:
            raise ValueError(f"a stamp of shape {image.shape} does not reach half of its maximum")
    inner = outer - 0.25
    for _ in range(16):
        middle = 0.5 * (inner + outer)
        above = excess(middle) > 0
        inner, outer = np.where(above, middle, inner), np.where(above, outer, middle)
    return float(2 * np.sqrt((outer**2).mean()))


def _gaussian(dx: np.ndarray, dy: np.ndarray, xx: float, yy: float, xy: float) -> np.ndarray:
    """exp(-r^T C^-1 r / 2)."""
    determinant = xx * yy - xy**2
    return np.exp(-0.5 * (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / determinant)


def _gaussian_in_pixels(size: int, centre: Any, variance: float) -> np.ndarray:
    """Integral of a normal density over `size` pixels about 0, last axis, for each centre."""
    from scipy.special import ndtr

    edges = np.arange(size + 1) - 0.5 * size
    scaled = (edges - np.asarray(centre)[..., None]) / math.sqrt(variance)
    # in the upper half the differences of 1 - Phi keep their digits
    upper = np.where(scaled > 0, ndtr(-scaled), 0)
    lower = np.where(scaled > 0, 0, ndtr(scaled))
    inside = np.diff(lower, axis=-1) - np.diff(upper, axis=-1)
    across = (scaled[..., 1:] > 0) & (scaled[..., :-1] <= 0)
    return np.where(across, 1 - upper[..., 1:] - lower[..., :-1], inside)


@functools.cache
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(n)


def _nodes_in_pixels(size: int, centre: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes of pixels as offsets from the centre, and weights; shapes (size, n_node)."""
    nodes, weights = _legendre(_QUADRATURE_NODES)
    middle = np.arange(size)[:, None] - size // 2 - centre
    return middle + 0.5 * nodes, np.broadcast_to(0.5 * weights, (size, _QUADRATURE_NODES))


def _resampled(samples: np.ndarray, step: float, size: int, dx: float, dy: float) -> np.ndarray:
    """Samples interpolated at the pixels of a stamp whose centre is (dx, dy) off its central pixel."""
    n = len(samples)
    pixels = np.arange(size) - size // 2
    if step == 1 and dx == 0 and dy == 0 and n == size:
        return samples
    rows = sampling_matrix((pixels - dy) / step + n // 2, n)
    columns = sampling_matrix((pixels - dx) / step + n // 2, n)
    return rows @ samples @ columns.T


def _pixel_of(place: float) -> int:
    """The pixel that covers a place; place + 0.5 would round some places up to the next pixel."""
    whole = math.floor(place)
    return whole + int(place - whole >= 0.5)


def _checked_size(size: int, fwhm: float) -> int:
    """Given side, or the one that holds 4 FWHM on each side of the centre."""
    if size == 0:
        return 2 * math.ceil(_HALF_WIDTH_IN_FWHM * fwhm) + 1
    if size < 1 or size % 2 == 0:
        raise ValueError(f"the side of a PSF stamp must be odd and positive, got {size}")
    return int(size)


def _sampled_size(shape: tuple[int, ...], step: float, size: int) -> int:
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] % 2 == 0:
        raise ValueError(f"PSF samples must be square with an odd side, got shape {shape}")
    if not 0 < step <= 1:
        raise ValueError(f"steps of PSF samples are in (0, 1] pixel, got {step}")
    covered = 2 * math.floor(shape[0] // 2 * step + 1e-9) + 1
    return _checked_size(size or covered, 1.0)


# at the end, because it imports this module: whoever reads a PSF knows all kinds
import skyquilt.primitives.visit_psf  # noqa: E402, F401
