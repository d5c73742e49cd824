"""Exposure (LDM-151 9.1.1): image, mask and variance, and the models that go with them.

The pixels are held once; PSF, WCS, PhotoCalib, Background and aperture corrections are components that a
later step replaces with `Exposure.with_`, without touching the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from skyquilt.primitives.background import Background
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.photo_calib import PhotoCalib

COMPONENTS = ("psf", "wcs", "photo_calib", "background", "aperture_corrections")
"""Names of the components, each with `to_state` (primitives.component), or None."""

ELECTRON = "electron"
NANOJANSKY = "nJy"


@dataclass(frozen=True, eq=False)
class Exposure:
    """Pixels of one detector or patch with their models.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx) [unit]
        Background-subtracted where `background` has layers.
    mask : Mask, shape (ny, nx)
    variance : ndarray of float32, shape (ny, nx) [unit^2]
        Variance of each pixel's noise.
    box : Box, optional
        The pixels in the parent frame (detector or tract); by default the first pixel is (0, 0).
    unit : str
        "electron" before calibration, "nJy" after; "adu" for raw values.
    psf, wcs, photo_calib, background, aperture_corrections : component or None
        In a calibrated image `photo_calib` is the calibration that has been applied.
    info : dict
        What JSON holds: visit, detector, band, times.
    noise_covariance : ndarray of float64, shape (2 n + 1, 2 m + 1), optional
        Where resampling correlated the noise: covariance of two pixels at offset (dy, dx) over the variance,
        index [n + dy, m + dx], so 1 in the middle. None: pixels are independent.

    Raises
    ------
    TypeError
        When a plane has another dtype.
    ValueError
        When shapes disagree, or the covariance is not symmetric about a middle of 1.
    """

    image: np.ndarray
    mask: Mask
    variance: np.ndarray
    box: Box | None = None
    unit: str = ELECTRON
    psf: Any = None
    wcs: Any = None
    photo_calib: PhotoCalib | None = None
    background: Background | None = None
    aperture_corrections: Any = None
    info: dict[str, Any] = field(default_factory=dict)
    noise_covariance: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("image", "variance"):
            plane = getattr(self, name)
            if plane.dtype != np.float32:
                raise TypeError(f"the {name} of an Exposure is float32, got {plane.dtype}")
        if self.box is None:
            object.__setattr__(self, "box", Box.of(self.image))
        shapes = {"image": self.image.shape, "mask": self.mask.shape, "variance": self.variance.shape}
        if set(shapes.values()) != {self.box.shape}:
            raise ValueError(f"planes of an Exposure of {self.box} have shapes {shapes}")
        if self.noise_covariance is not None:
            _check_covariance(self.noise_covariance)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx)."""
        return self.box.shape

    def with_(self, **changes: Any) -> Exposure:
        """An Exposure with some attributes replaced; the rest, pixels included, is shared, not copied."""
        return replace(self, **changes)

    def copy(self) -> Exposure:
        """An Exposure with pixels and info of its own; components never change, so they are shared."""
        return self.with_(
            image=self.image.copy(),
            mask=self.mask.copy(),
            variance=self.variance.copy(),
            info=dict(self.info),
        )

    def subimage(self, box: Box) -> Exposure:
        """The part within `box` (parent frame), its pixels as views: writing to them writes to this one.

        Raises
        ------
        ValueError
            When the box is not wholly inside.
        """
        where = box.slices(self.box)
        return self.with_(
            image=self.image[where],
            mask=self.mask.subimage(box, self.box),
            variance=self.variance[where],
            box=box,
        )

    def unsubtracted_image(self) -> np.ndarray:
        """The image with its background put back, bit for bit what it was (see `Background.restore`)."""
        if self.background is None:
            return self.image.copy()
        return self.background.restore(self.image, self.box)

    def with_background(self, background: Background | None) -> Exposure:
        """Put the present background back and subtract another one instead; None: unsubtracted.

        A further stage: ``exposure.with_background(exposure.background.plus(layer))``.
        """
        original = self.unsubtracted_image()
        if background is None:
            return self.with_(image=original, background=None)
        image, background = background.subtract(original, self.box)
        return self.with_(image=image, background=background)

    def calibrated(self, photo_calib: PhotoCalib | None = None) -> Exposure:
        """Image, variance and background in nJy.

        The variance is that of the photons alone; the calibration's own error stays in `photo_calib`. With a
        background, the unsubtracted image is calibrated and the calibrated background subtracted, so that the
        restored image is exactly the calibrated unsubtracted one. The noise covariance, relative to the
        variance, is kept: calibration hardly changes within its reach.

        Parameters
        ----------
        photo_calib : PhotoCalib, optional
            By default the Exposure's own.

        Raises
        ------
        ValueError
            When the unit is not "electron", or there is no PhotoCalib.
        """
        photo_calib = photo_calib or self.photo_calib
        if photo_calib is None:
            raise ValueError(f"no PhotoCalib to calibrate the Exposure of {self.box}")
        if self.unit != ELECTRON:
            raise ValueError(f"only an image in {ELECTRON} can be calibrated, this one is in {self.unit}")
        image = photo_calib.image_to_njy(self.unsubtracted_image(), self.box)
        background = self.background
        if background is not None:
            image, background = background.calibrated(photo_calib).subtract(image, self.box)
        return self.with_(
            image=image,
            variance=photo_calib.variance_to_njy2(self.variance, self.box),
            background=background,
            photo_calib=photo_calib,
            unit=NANOJANSKY,
        )

    def __eq__(self, other: object) -> bool:
        """Same pixels (NaN equals NaN), mask planes by name, and components by their state."""
        if not isinstance(other, Exposure):
            return NotImplemented
        return not self.differences(other)

    __hash__ = None  # type: ignore[assignment]

    def differences(self, other: Exposure) -> list[str]:
        """Names of the attributes in which two Exposures differ."""
        differing = [name for name in ("box", "unit", "info") if getattr(self, name) != getattr(other, name)]
        for name in ("image", "variance", "noise_covariance"):
            if not _same_plane(getattr(self, name), getattr(other, name)):
                differing.append(name)
        if not self.mask.same_as(other.mask):
            differing.append("mask")
        return differing + [name for name in COMPONENTS if _state(self, name) != _state(other, name)]


def _state(exposure: Exposure, name: str) -> Any:
    component = getattr(exposure, name)
    return None if component is None else component.to_state()


def _same_plane(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other, equal_nan=True)


def _check_covariance(covariance: np.ndarray) -> None:
    if covariance.ndim != 2 or covariance.shape[0] % 2 == 0 or covariance.shape[1] % 2 == 0:
        raise ValueError(f"a noise covariance has an odd shape (2 n + 1, 2 m + 1), got {covariance.shape}")
    middle = covariance[covariance.shape[0] // 2, covariance.shape[1] // 2]
    # float32 rounding of a kernel that a caller normalised
    if not np.allclose(covariance, covariance[::-1, ::-1], rtol=0, atol=1e-6) or abs(middle - 1.0) > 1e-6:
        raise ValueError("a noise covariance is symmetric about its middle, which is 1")
