"""Point-Spread Functions (LDM-151 9.6): the PSF of one detector of a visit, linear in a `ProfileBasis`.

Coefficients are polynomials over the detector, and linear in the colour of a star. Profiles contain the pixel
response; their light to infinity is 1 for all places and colours. Places are looked up in tables: one of
spline coefficients per polynomial term, mixed and interpolated at each call.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.component import State, register
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.kernels import polynomial_powers
from skyquilt.primitives.profile_basis import ProfileBasis, profile_values
from skyquilt.primitives.psf import Moments, Psf, adaptive_moments

_MARGIN = 8
"""Samples beyond the reach of the interpolation: what the spline's prefilter does at the end fades by 0.43 each."""

_WELL_SAMPLED = 2.4
"""Scale of the basis [pixel] from which samples at whole pixels are fine enough, else at halves."""


@register("visit_psf")
@dataclass(frozen=True, eq=False)
class VisitPsf(Psf):
    """PSF of a detector from a fit to the stars of its visit.

    Parameters
    ----------
    basis : ProfileBasis
    coefficients : ndarray, shape (n_term, basis.size)
        Of polynomial terms of x and y over `box` (`kernels.polynomial_terms`), for the colour `colour_zero`.
    box : Box
        The detector; polynomials are held at their value on its border beyond it.
    size : int
        Side of the stamps [pixel], odd.
    frame : ndarray, shape (2, 2)
        From pixel offsets to offsets of the basis.
    chromatic : ndarray, shape (basis.size,), optional
        Change of the coefficients with colour.
    colour, colour_zero : float
        Colour that this PSF is for, and that of the coefficients [mag].
    n_stars : int
        Stars of this detector in the fit.
    from_visit : bool
        The detector had too few: it has the visit's model, without a part of its own.
    """

    basis: ProfileBasis
    coefficients: np.ndarray
    box: Box
    size: int
    frame: np.ndarray
    chromatic: np.ndarray | None = None
    colour: float = 0.0
    colour_zero: float = 0.0
    n_stars: int = 0
    from_visit: bool = False

    def __post_init__(self) -> None:
        coefficients = np.array(self.coefficients, dtype=np.float64, ndmin=2, order="C")
        frame = np.array(self.frame, dtype=np.float64)
        if coefficients.shape[1] != self.basis.size or not np.isfinite(coefficients).all():
            raise ValueError(f"coefficients must be finite, shape (n, {self.basis.size})")
        if len(polynomial_powers(_degree(len(coefficients)))) != len(coefficients):
            raise ValueError(f"{len(coefficients)} terms are those of no polynomial")
        if frame.shape != (2, 2) or not abs(np.linalg.det(frame)) > 1e-6:
            raise ValueError("the frame of a PSF must be an invertible matrix of shape (2, 2)")
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"the side of a PSF stamp must be odd and positive, got {self.size}")
        object.__setattr__(self, "coefficients", coefficients)
        object.__setattr__(self, "frame", frame)
        if self.chromatic is not None:
            chromatic = np.array(self.chromatic, dtype=np.float64)
            if chromatic.shape != (self.basis.size,) or not np.isfinite(chromatic).all():
                raise ValueError(f"the colour term must be finite, shape ({self.basis.size},)")
            object.__setattr__(self, "chromatic", chromatic)

    def at_colour(self, colour: float) -> VisitPsf:
        """The PSF for stars of a colour [mag]; that of `colour_zero` where it is unknown (NaN)."""
        return replace(self, colour=float(colour) if math.isfinite(colour) else self.colour_zero)

    def coefficients_at(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Coefficients of the basis at places [pixel], shape of x + (basis.size,)."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        terms = np.empty((x.size, len(self.coefficients)))
        flat = (np.ascontiguousarray(x.ravel()), np.ascontiguousarray(y.ravel()))
        terms_at_places(*flat, self._scales, _degree(len(self.coefficients)), terms)
        return (terms @ self._of_colour).reshape(*x.shape, self.basis.size)

    def images_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Stamps of many places at once, each as of `image_at`: float64 of shape (n, size, size).

        Raises
        ------
        ValueError
            When a position is not finite, or the model has no positive sum there.
        """
        x = np.array(x, dtype=np.float64, ndmin=1)
        y = np.array(y, dtype=np.float64, ndmin=1)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("a PSF needs finite positions")
        stamps, share = self._stamps(x, y, x - _nearest(x), y - _nearest(y))
        if not (share > 0).all():
            raise ValueError(f"{self.kind} has no positive sum at some places")
        stamps /= share[:, None, None]
        return stamps

    def share_at(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Share of a star's light, to infinity, that falls on the stamp of `image_at`; shape of x."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        flat_x, flat_y = np.array(x.ravel()), np.array(y.ravel())
        offsets = flat_x - _nearest(flat_x), flat_y - _nearest(flat_y)
        return self._stamps(flat_x, flat_y, *offsets)[1].reshape(x.shape)

    def moments_at(self, x: float, y: float, weight: str = "adaptive") -> Moments:
        """As `Psf.moments_at`; adaptive ones are of samples at half pixels.

        At whole pixels they depend on the sampling: at a FWHM of 2.5 pixels by 2e-3 of the size.
        """
        if weight != "adaptive":
            return super().moments_at(x, y, weight)
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError(f"a PSF needs a finite position, got ({x}, {y})")
        half = self.size - 1
        offset = np.arange(-half, half + 1) * 0.5
        image = self._sampled(np.ascontiguousarray(self.coefficients_at(x, y)), offset, offset[:, None])
        found = adaptive_moments(image, Box(-half, -half, 2 * half + 1, 2 * half + 1))
        column, row = (float(_nearest(np.array(value))) for value in (x, y))
        second = (0.25 * value for value in (found.xx, found.yy, found.xy))
        return Moments(0.25 * found.flux, column + 0.5 * found.x, row + 0.5 * found.y, *second)

    def light_in(self, x: float, y: float, box: Box) -> np.ndarray:
        """A star of flux 1, to infinity, in the pixels of any box: its wings are not cut (ny, nx)."""
        u = np.arange(box.x0, box.x1) - x
        v = np.arange(box.y0, box.y1)[:, None] - y
        coefficients = np.ascontiguousarray(self.coefficients_at(x, y))
        return self._sampled(coefficients, u, v)

    def _normalised(self, x: float, y: float, dx: float, dy: float) -> np.ndarray:
        # by the sum that `images_at` takes, so that both give the same bits
        stamps, share = self._stamps(*(np.array([value], dtype=np.float64) for value in (x, y, dx, dy)))
        if not share[0] > 0:
            raise ValueError(f"{self.kind} sums to {share[0]} at ({x}, {y}); a PSF must have positive flux")
        return stamps[0] / share[0]

    def _stamp(self, x: float, y: float, dx: float, dy: float) -> np.ndarray:
        places = (np.array([value], dtype=np.float64) for value in (x, y, dx, dy))
        return self._stamps(*places)[0][0]

    def _stamps(
        self, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        stamps, share = np.empty((x.size, self.size, self.size)), np.empty(x.size)
        planes, per_pixel = self._table
        mixed_stamps(planes, per_pixel, x, y, dx, dy, self._scales, _degree(len(planes)), stamps, share)
        return stamps, share

    @functools.cached_property
    def _of_colour(self) -> np.ndarray:
        found = self.coefficients.copy()
        if self.chromatic is not None:
            found[0] += (self.colour - self.colour_zero) * self.chromatic
        return found

    @functools.cached_property
    def _scales(self) -> np.ndarray:
        half = 0.5 * max(self.box.nx, 1), 0.5 * max(self.box.ny, 1)
        return np.array([*self.box.centre, *half], dtype=np.float64)

    @functools.cached_property
    def _table(self) -> tuple[np.ndarray, int]:
        """Coefficients of quintic splines, float32 of shape (n_term, m, m), and samples per pixel."""
        from scipy.ndimage import spline_filter

        per_pixel = 1 if self.basis.scale >= _WELL_SAMPLED else 2
        half = per_pixel * (self.size // 2 + 1) + _MARGIN
        offset = np.arange(-half, half + 1) / per_pixel
        planes = [self._sampled(row, offset, offset[:, None]) for row in self._of_colour]
        return np.array([spline_filter(plane, 5) for plane in planes], dtype=np.float32), per_pixel

    def _sampled(self, coefficients: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """A profile of the basis at pixel offsets."""
        (a, b), (c, d) = self.frame
        along, across = np.broadcast_arrays(a * u + b * v, c * u + d * v)
        found = np.empty((along.size, 3))
        numbers = self.basis.numbers
        flat = np.ascontiguousarray(along.ravel()), np.ascontiguousarray(across.ravel())
        profile_values(np.ascontiguousarray(coefficients), numbers, *flat, found)
        return abs(a * d - b * c) * found[:, 0].reshape(along.shape)

    def to_state(self) -> State:
        """Plain data."""
        names = ("size", "colour", "colour_zero", "n_stars", "from_visit")
        meta = {name: getattr(self, name) for name in names}
        box = [self.box.x0, self.box.y0, self.box.nx, self.box.ny]
        arrays = {"coefficients": self.coefficients, "frame": self.frame}
        if self.chromatic is not None:
            arrays["chromatic"] = self.chromatic
        return State(self.kind, {**meta, "basis": asdict(self.basis), "box": box}, arrays)

    @classmethod
    def from_state(cls, state: State) -> VisitPsf:
        """The PSF again."""
        meta = dict(state.meta)
        basis, box = ProfileBasis(**meta.pop("basis")), Box(*meta.pop("box"))
        return cls(basis=basis, box=box, **meta, **state.arrays)


def _degree(n_term: int) -> int:
    return (math.isqrt(8 * n_term + 1) - 3) // 2


def _nearest(place: np.ndarray) -> np.ndarray:
    whole = np.floor(place)
    return whole + (place - whole >= 0.5)


@kernel("void(const(float64[::1]), const(float64[::1]), const(float64[::1]), int64, float64[:, ::1])")
def terms_at_places(x, y, scales, degree, terms):
    """Polynomial terms of places (n,), (n, n_term), held beyond the border; `scales`: centre, half sides."""
    for k in range(x.size):
        u = min(max((x[k] - scales[0]) / scales[2], -1.0), 1.0)
        v = min(max((y[k] - scales[1]) / scales[3], -1.0), 1.0)
        n = 0
        for total in range(degree + 1):
            for q in range(total + 1):
                value = 1.0
                for _ in range(total - q):
                    value *= u
                for _ in range(q):
                    value *= v
                terms[k, n] = value
                n += 1


@kernel("void(float64, float64[::1])")
def quintic_weights(f, weights):
    """Quintic B-spline at f + 2, f + 1, f, 1 - f, 2 - f, 3 - f for f in 0..1."""
    g = 1.0 - f
    f2, g2 = f * f, g * g
    weights[0] = g2 * g2 * g / 120.0
    weights[5] = f2 * f2 * f / 120.0
    weights[1] = (1.0 + g * (5.0 + g * (10.0 + g * (10.0 + g * (5.0 - 5.0 * g))))) / 120.0
    weights[4] = (1.0 + f * (5.0 + f * (10.0 + f * (10.0 + f * (5.0 - 5.0 * f))))) / 120.0
    weights[2] = (66.0 - f2 * (60.0 - f2 * (30.0 - 10.0 * f))) / 120.0
    weights[3] = (66.0 - g2 * (60.0 - g2 * (30.0 - 10.0 * g))) / 120.0


@kernel(
    "void(const(float32[:, :, ::1]), int64, const(float64[::1]), const(float64[::1]), const(float64[::1]),"
    " const(float64[::1]), const(float64[::1]), int64, float64[:, :, ::1], float64[::1])"
)
def mixed_stamps(planes, per_pixel, x, y, dx, dy, scales, degree, stamps, share):
    """Stamps (n, s, s) at places (n,), off their central pixel by (dx, dy), and their sums (n,)."""
    n_term, m = planes.shape[0], planes.shape[1]
    n, size = stamps.shape[0], stamps.shape[1]
    terms = np.empty((n, n_term))
    terms_at_places(x, y, scales, degree, terms)
    mixed = np.empty((m, m), np.float32)
    line = np.empty(m)
    along, across = np.empty(6), np.empty(6)
    for k in range(n):
        for j in range(m):
            for i in range(m):
                mixed[j, i] = planes[0, j, i]
        for term in range(1, n_term):
            weight = np.float32(terms[k, term])
            for j in range(m):
                for i in range(m):
                    mixed[j, i] += weight * planes[term, j, i]
        # the first pixel of the stamp on the grid of samples
        at_x = m // 2 - (size // 2 + dx[k]) * per_pixel
        at_y = m // 2 - (size // 2 + dy[k]) * per_pixel
        first_x, first_y = math.floor(at_x), math.floor(at_y)
        quintic_weights(at_x - first_x, along)
        quintic_weights(at_y - first_y, across)
        total = 0.0
        for row in range(size):
            j = first_y + row * per_pixel - 2
            for i in range(m):
                line[i] = (
                    across[0] * mixed[j, i]
                    + across[1] * mixed[j + 1, i]
                    + across[2] * mixed[j + 2, i]
                    + across[3] * mixed[j + 3, i]
                    + across[4] * mixed[j + 4, i]
                    + across[5] * mixed[j + 5, i]
                )
            for column in range(size):
                i = first_x + column * per_pixel - 2
                value = (
                    along[0] * line[i]
                    + along[1] * line[i + 1]
                    + along[2] * line[i + 2]
                    + along[3] * line[i + 3]
                    + along[4] * line[i + 4]
                    + along[5] * line[i + 5]
                )
                stamps[k, row, column] = value
                total += value
        share[k] = total
