"""Aperture Photometry (LDM-151 8.6.2.4): light within ellipses of the source's own shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.measurement.elliptical_apertures import inside_image, nested_ellipses
from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin, Record, SourceImage
from skyquilt.primitives.tables import Column


@dataclass(frozen=True)
class Ellipse:
    """The ellipse of a source: centre [pixel], moments [pixel^2] and the coefficients of its quadratic form."""

    x: float
    y: float
    xx: float
    yy: float
    xy: float

    @classmethod
    def of(cls, record: Record) -> Ellipse:
        """From x, y, ixx, iyy, ixy.

        Raises
        ------
        ValueError
            When they are those of no ellipse.
        """
        made = cls(*(float(record[name]) for name in ("x", "y", "ixx", "iyy", "ixy")))
        if not (np.isfinite(made.x + made.y) and made.xx > 0 and made.determinant > 0):
            raise ValueError(f"no ellipse: {made}")
        return made

    @property
    def determinant(self) -> float:
        """Of the moments [pixel^4]."""
        return self.xx * self.yy - self.xy**2

    @property
    def sigma(self) -> float:
        """Geometric mean of the axes [pixel]."""
        return self.determinant**0.25

    @property
    def form(self) -> tuple[float, float, float]:
        """cxx, cyy, cxy of cxx u^2 + cyy v^2 + 2 cxy u v."""
        det = self.determinant
        return self.yy / det, self.xx / det, -self.xy / det

    def inside(self, shape: tuple[int, int], size: float) -> bool:
        """Whether the ellipse of `size` sigma is inside an image (ny, nx)."""
        return inside_image(shape, self.x, self.y, size * self.xx**0.5, size * self.yy**0.5)


def sums_in(source: SourceImage, ellipse: Ellipse, sizes: np.ndarray) -> np.ndarray:
    """Light, variance (with that of the background), usable area, area: shape (n, 4), n ascending sizes [sigma]."""
    sums = np.empty((len(sizes), 4))
    nested_ellipses(
        source.image, source.variance, source.bad, ellipse.x, ellipse.y, *ellipse.form, sizes, sums
    )
    sums[:, 1] += (source.background_error * sums[:, 3]) ** 2
    return sums


@dataclass(frozen=True)
class EllipticalApertureOptions:
    """Ellipses."""

    sizes: tuple[float, ...] = (1.5, 3.0, 6.0)
    """Ascending, in sigma of the source's adaptive moments."""
    max_masked: float = 0.1
    """Ellipses with a larger share of unusable area are flagged."""

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 0.1:
            raise ValueError(f"sizes of elliptical apertures ascend from 0.1, got {self.sizes}")


class EllipticalApertures(Plugin):
    """`ell<10 size>Flux`: light within ellipses of the source's adaptive moments."""

    name = "ellipticalApertures"
    order = 75.0
    needs = ("x", "y", "ixx", "iyy", "ixy")
    Options = EllipticalApertureOptions

    def __init__(self, options: EllipticalApertureOptions | None = None) -> None:
        super().__init__(options)
        self._sizes = np.array(self.options.sizes, dtype=float)
        self._names = [f"ell{round(10 * size):02d}Flux" for size in self.options.sizes]
        self.columns = tuple(
            column
            for name, size in zip(self._names, self.options.sizes)
            for column in (
                Column(name, "f4", "electron", f"Flux within {size} sigma of the source's ellipse."),
                Column(
                    f"{name}Err", "f4", "electron", f"Error of {name}, 1 sigma, for the ellipse as it is."
                ),
            )
        )
        self.flags = tuple(
            (f"{name}_flag", f"{name} is not measured, leaves the image or has too many unusable pixels.")
            for name in self._names
        )

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write fluxes and errors."""
        try:
            ellipse = Ellipse.of(record)
        except ValueError:
            for name in self._names:
                record[f"{name}_flag"] = True
            raise MeasurementFailure(self.general_flag) from None
        sums = sums_in(source, ellipse, self._sizes)
        for name, size, (light, variance, good, area) in zip(self._names, self._sizes, sums):
            record[name], record[f"{name}Err"] = light, np.sqrt(variance)
            masked = 1.0 - good / area > self.options.max_masked
            record[f"{name}_flag"] = masked or light != light or not ellipse.inside(source.image.shape, size)
