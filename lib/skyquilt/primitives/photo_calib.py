"""PhotoCalib (LDM-151 9.1.1): from electrons to nJy, over a detector.

The calibration c(x, y) = mean * variation(x, y) [nJy per electron] multiplies fluxes and images. Its own
uncertainty moves all fluxes of a detector together, so it is never mixed into the photon errors: pixel
variances and flux errors are multiplied by c (c^2), and `calibration_error` gives the common part apart.
Magnitudes are AB: m = 31.4 - 2.5 log10(flux / nJy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from skyquilt.primitives.chebyshev import ChebyshevSurface
from skyquilt.primitives.component import State, from_state, join_states, register, split_state
from skyquilt.primitives.geometry import Box

AB_ZERO_POINT = 31.4
"""AB magnitude of 1 nJy: -48.6 - 2.5 log10(1e-32 erg/s/cm2/Hz)."""

_MAGNITUDE_PER_RELATIVE = 2.5 / math.log(10.0)
_ROWS = 256


@register
@dataclass(frozen=True, eq=False)
class PhotoCalib:
    """Photometric calibration of one detector of one visit, or of a coadd.

    Parameters
    ----------
    mean : float
        Calibration averaged over the variation's domain [nJy per electron]; NaN when no zero point could be
        had, and then every flux is NaN.
    error : float
        Standard error of `mean` [nJy per electron], common to all sources.
    variation : ChebyshevSurface, optional
        Relative calibration over the detector's pixels, with a mean of 1 over its domain. None: constant.

    Raises
    ------
    ValueError
        When `mean` is not positive (or NaN), `error` is negative, or the variation is not normalised:
        use `from_surface` for a surface that is not.
    """

    mean: float
    error: float = 0.0
    variation: ChebyshevSurface | None = None

    kind: ClassVar[str] = "photo_calib"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", float(self.mean))
        object.__setattr__(self, "error", float(self.error))
        if not (math.isnan(self.mean) or 0.0 < self.mean < math.inf):
            raise ValueError(
                f"the calibration mean must be positive nJy per electron or NaN, got {self.mean}"
            )
        if self.error < 0.0:
            raise ValueError(f"the calibration error must not be negative, got {self.error}")
        # 1e-9 is 1 nmag: rounding in a fit, never a missing normalisation
        if self.variation is not None and abs(self.variation.mean - 1.0) > 1e-9:
            raise ValueError(f"the variation must have mean 1 over its domain, got {self.variation.mean!r}")

    @classmethod
    def from_surface(cls, calibration: ChebyshevSurface, error: float = 0.0) -> PhotoCalib:
        """Calibration from a surface in nJy per electron: split into its mean and a normalised variation."""
        mean = calibration.mean
        if not mean > 0.0:
            raise ValueError(f"the calibration surface has mean {mean} nJy per electron; it must be positive")
        return cls(mean, error, calibration.times(1.0 / mean))

    @classmethod
    def unknown(cls) -> PhotoCalib:
        """No zero point: all fluxes and magnitudes become NaN."""
        return cls(math.nan, math.nan)

    @property
    def zero_point(self) -> float:
        """AB magnitude of a source of one electron at the mean calibration [mag]."""
        return AB_ZERO_POINT - 2.5 * math.log10(self.mean)

    @property
    def zero_point_error(self) -> float:
        """Standard error of `zero_point` [mag]."""
        return _MAGNITUDE_PER_RELATIVE * self.error / self.mean

    def local_calibration(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """c(x, y) [nJy per electron], float64 of the (broadcast) shape of the pixel positions."""
        if self.variation is None:
            return np.full(np.broadcast(x, y).shape, self.mean)
        return self.mean * self.variation.evaluate(x, y)

    def calibration_image(self, box: Box) -> np.ndarray:
        """c at the pixels of a box [nJy per electron], float64, shape (ny, nx)."""
        if self.variation is None:
            return np.full(box.shape, self.mean)
        return self.mean * self.variation.on_grid(box)

    def flux_to_njy(self, flux: np.ndarray, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Fluxes, or their photon errors, at pixel positions: electrons to nJy."""
        return np.asarray(flux, dtype=np.float64) * self.local_calibration(x, y)

    def njy_to_flux(self, flux_njy: np.ndarray, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Inverse of `flux_to_njy`: nJy to electrons."""
        return np.asarray(flux_njy, dtype=np.float64) / self.local_calibration(x, y)

    def calibration_error(self, flux_njy: np.ndarray) -> np.ndarray:
        """What the calibration's uncertainty alone does to fluxes in nJy: |flux| error / mean [nJy].

        It is fully correlated among all fluxes with this calibration.
        """
        return np.abs(np.asarray(flux_njy, dtype=np.float64)) * (self.error / self.mean)

    def total_error(self, flux_njy: np.ndarray, photon_error_njy: np.ndarray) -> np.ndarray:
        """Photon and calibration errors in quadrature [nJy]: of one flux against the sky's absolute scale."""
        return np.hypot(photon_error_njy, self.calibration_error(flux_njy))

    def magnitude(self, flux: np.ndarray, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """AB magnitudes of fluxes in electrons; NaN where the flux is not positive."""
        return njy_to_magnitude(self.flux_to_njy(flux, x, y))

    def magnitude_error(self, flux: np.ndarray, flux_error: np.ndarray) -> np.ndarray:
        """Photon error of magnitudes (first order), fluxes in electrons; NaN where flux <= 0."""
        return njy_to_magnitude_error(flux, flux_error)

    def image_to_njy(self, image: np.ndarray, box: Box) -> np.ndarray:
        """Pixels of a box from electrons to nJy, float32, shape (ny, nx)."""
        return self._multiply(image, box, power=1)

    def image_to_electrons(self, image: np.ndarray, box: Box) -> np.ndarray:
        """Inverse of `image_to_njy`, up to the rounding of float32."""
        return self._multiply(image, box, power=-1)

    def variance_to_njy2(self, variance: np.ndarray, box: Box) -> np.ndarray:
        """Pixel variances of a box from electrons^2 to nJy^2 (photon noise only), float32."""
        return self._multiply(variance, box, power=2)

    def compose(self, other: PhotoCalib) -> PhotoCalib:
        """The product of two calibrations, such as a detector's relative one and a visit's global one.

        The relative errors add in quadrature: the two must be independent. The variation is the product of
        both, a polynomial of the sum of the orders over this calibration's domain (exact to rounding).
        """
        relative = math.hypot(self.error / self.mean, other.error / other.mean)
        mean = self.mean * other.mean
        if self.variation is None or other.variation is None:
            return PhotoCalib(mean, mean * relative, self.variation or other.variation)
        product = _product(self.variation, other.variation)
        mean *= product.mean
        return PhotoCalib(mean, mean * relative, product.times(1.0 / product.mean))

    def scaled(self, factor: float, relative_error: float = 0.0) -> PhotoCalib:
        """Calibration multiplied by a global factor with an independent relative error."""
        return self.compose(PhotoCalib(factor, abs(factor) * relative_error))

    def to_state(self) -> State:
        """Plain data."""
        parts = {} if self.variation is None else {"variation": self.variation.to_state()}
        meta = {"mean": self.mean, "error": self.error, "unit": "nJy / electron"}
        return join_states(self.kind, meta, parts)

    @classmethod
    def from_state(cls, state: State) -> PhotoCalib:
        """Make the calibration again."""
        parts = {name: from_state(part) for name, part in split_state(state).items()}
        return cls(state.meta["mean"], state.meta["error"], parts.get("variation"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PhotoCalib):
            return NotImplemented
        return self.to_state() == other.to_state()

    __hash__ = None  # type: ignore[assignment]

    def _multiply(self, image: np.ndarray, box: Box, power: int) -> np.ndarray:
        if image.shape != box.shape:
            raise ValueError(f"an image of shape {image.shape} does not cover {box}")
        result = np.empty(box.shape, dtype=np.float32)
        # by rows, so that no float64 image of the whole detector is held; float32 overflow becomes inf
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, box.ny, _ROWS):
                part = Box(box.x0, box.y0 + start, box.nx, min(_ROWS, box.ny - start))
                rows = slice(start, start + part.ny)
                result[rows] = image[rows] * self.calibration_image(part) ** power
        return result


def njy_to_magnitude(flux_njy: Any) -> np.ndarray:
    """AB magnitudes of fluxes in nJy; NaN where the flux is not positive."""
    flux = np.asarray(flux_njy, dtype=np.float64)
    positive = np.where(flux > 0.0, flux, np.nan)
    return AB_ZERO_POINT - 2.5 * np.log10(positive)


def njy_to_magnitude_error(flux: Any, flux_error: Any) -> np.ndarray:
    """First-order error of a magnitude from a flux and its error in one unit; NaN if flux <= 0."""
    flux = np.asarray(flux, dtype=np.float64)
    positive = np.where(flux > 0.0, flux, np.nan)
    return _MAGNITUDE_PER_RELATIVE * np.asarray(flux_error, dtype=np.float64) / positive


def magnitude_to_njy(magnitude: Any) -> np.ndarray:
    """Fluxes in nJy of AB magnitudes."""
    return 10.0 ** (0.4 * (AB_ZERO_POINT - np.asarray(magnitude, dtype=np.float64)))


def _product(one: ChebyshevSurface, other: ChebyshevSurface) -> ChebyshevSurface:
    orders = (one.orders[0] + other.orders[0], one.orders[1] + other.orders[1])
    return ChebyshevSurface.interpolating(
        lambda x, y: one.evaluate(x, y) * other.evaluate(x, y), orders, one.domain
    )
