"""Aperture Photometry (LDM-151 8.6.2.4): light within circles of logarithmically spaced radii.

Small circles by sinc interpolation, large ones by the exact overlap of pixels. Where the sinc's reach meets unusable
pixels, small circles fall back on the overlap too. The centroid's noise raises the light in a small circle as it does
the PSF's flux (`point_source`), by that term times the integral of - Laplacian p over the circle, relative to
sum |grad p|^2 / sum p^2; it is subtracted, and added to the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.measurement.elliptical_apertures import nested_ellipses
from skyquilt.algorithms.measurement.framework import MeasurementFailure, Plugin, Record, SourceImage
from skyquilt.algorithms.measurement.sinc_apertures import sinc_sum, sinc_weights
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.schemas import APERTURE_RADII
from skyquilt.primitives.tables import Column


@kernel("void(const(float64[:, ::1]), float64, float64, const(float64[::1]), float64[::1])")
def laplacian_in_circles(stamp, x, y, radii, result):
    """Fill `result` (m,): - integral of the Laplacian of a stamp over circles about (x, y), over sum |grad|^2 / sum p^2.

    The integral is that of the gradient's outward part along the circle, at 64 points. Gradients are differences of
    the fourth order, linear between pixels.
    """
    n = stamp.shape[0]
    gradient = np.zeros((2, n, n))
    squares = 0.0
    slopes = 0.0
    for j in range(2, n - 2):
        for i in range(2, n - 2):
            gx = 8.0 * (stamp[j, i + 1] - stamp[j, i - 1]) - (stamp[j, i + 2] - stamp[j, i - 2])
            gy = 8.0 * (stamp[j + 1, i] - stamp[j - 1, i]) - (stamp[j + 2, i] - stamp[j - 2, i])
            gradient[0, j, i] = gx / 12.0
            gradient[1, j, i] = gy / 12.0
            squares += stamp[j, i] * stamp[j, i]
            slopes += gradient[0, j, i] ** 2 + gradient[1, j, i] ** 2
    for m in range(radii.size):
        total = 0.0
        for k in range(64):
            c, s = np.cos(k * np.pi / 32.0), np.sin(k * np.pi / 32.0)
            u, v = x + radii[m] * c, y + radii[m] * s
            i, j = int(np.floor(u)), int(np.floor(v))
            if i < 0 or j < 0 or i >= n - 1 or j >= n - 1:
                continue
            fu, fv = u - i, v - j
            for axis in range(2):
                g = gradient[axis]
                here = (1.0 - fv) * ((1.0 - fu) * g[j, i] + fu * g[j, i + 1])
                here += fv * ((1.0 - fu) * g[j + 1, i] + fu * g[j + 1, i + 1])
                total += here * (c if axis == 0 else s)
        result[m] = -total * 2.0 * np.pi * radii[m] / 64.0 * squares / slopes


@dataclass(frozen=True)
class CircularApertureOptions:
    """Circles."""

    radii: tuple[int, ...] = APERTURE_RADII
    """Ascending [pixel]."""
    sinc_radius: float = 6.0
    """Circles up to this radius are measured by sinc interpolation [pixel]."""
    max_masked: float = 0.1
    """Circles with a larger share of unusable area are flagged."""
    systematic_floor: float = 0.0
    """Share of the flux that goes into apFluxFloor."""

    def __post_init__(self) -> None:
        if not self.radii or list(self.radii) != sorted(set(self.radii)) or self.radii[0] < 1:
            raise ValueError(f"radii of apertures ascend from 1 pixel, got {self.radii}")
        if self.sinc_radius < 0 or not 0 <= self.max_masked <= 1 or self.systematic_floor < 0:
            raise ValueError(f"apertures need sinc_radius >= 0 and max_masked in 0..1, got {self}")


class CircularApertures(Plugin):
    """`ap<radius>Flux`, errors and flags."""

    name = "apertures"
    order = 70.0
    failure_flag = "apertures_flag"
    needs = ("x", "y")
    Options = CircularApertureOptions

    def __init__(self, options: CircularApertureOptions | None = None) -> None:
        super().__init__(options)
        radii = self.options.radii
        columns: list[Column] = []
        flags = [
            ("apertures_flag", "No circle could be measured."),
            ("apertures_noSinc_flag", "Small circles are sums of whole and cut pixels: some are unusable."),
        ]
        for radius in radii:
            name = f"ap{radius:02d}Flux"
            columns += [
                Column(name, "f8", "electron", f"Flux within {radius} pixels of the centroid."),
                Column(f"{name}Err", "f8", "electron", f"Error of {name}, 1 sigma."),
            ]
            flags.append(
                (f"{name}_flag", f"{name} is not measured, leaves the image or has too many unusable pixels.")
            )
        columns.append(
            Column("apFluxFloor", "f4", "electron", "Systematic error of the largest circle's flux.")
        )
        self.columns, self.flags = tuple(columns), tuple(flags)
        names = [f"ap{radius:02d}Flux" for radius in radii]
        self._names = [(name, f"{name}Err", f"{name}_flag") for name in names]
        self._tables = {
            m: sinc_weights(float(radii[m])) for m in range(len(radii)) if self._is_small(radii[m])
        }
        self._radii = np.array(radii, dtype=float)

    def _is_small(self, radius: float) -> bool:
        return radius <= self.options.sinc_radius

    def measure(self, source: SourceImage, record: Record) -> None:
        """Write fluxes and errors of all circles."""
        x, y = float(record["x"]), float(record["y"])
        if not (np.isfinite(x) and np.isfinite(y)):
            self._flag_all(record)
            raise MeasurementFailure("apertures_flag")
        planes = source.image, source.variance, source.bad
        sums = np.empty((self._radii.size, 4))
        nested_ellipses(*planes, x, y, 1.0, 1.0, 0.0, self._radii, sums)
        for m, table in self._tables.items():
            one, area = np.empty(4), float(np.pi * self._radii[m] ** 2)
            sinc_sum(*planes, x, y, table, area, one)
            if one[3] <= 1e-3 * area:
                sums[m, :2] = one[:2]
            else:
                record["apertures_noSinc_flag"] = True
        terms = self._centroid_terms(source, record, x, y)
        flux = sums[:, 0] - terms
        background = (source.background_error * sums[:, 3]) ** 2
        error = np.sqrt(sums[:, 1] + terms**2 + background)
        rows, columns = source.image.shape
        room = min(x + 0.5, y + 0.5, columns - 0.5 - x, rows - 0.5 - y)
        lost = (
            (1.0 - sums[:, 2] / sums[:, 3] > self.options.max_masked) | np.isnan(flux) | (self._radii > room)
        )
        for (name, name_err, name_flag), one, its_error, its_flag in zip(
            self._names, flux.tolist(), error.tolist(), lost.tolist()
        ):
            record[name] = one
            record[name_err] = its_error
            if its_flag:
                record[name_flag] = True
        record["apFluxFloor"] = self.options.systematic_floor * abs(flux[-1])

    def _flag_all(self, record: Record) -> None:
        for _, _, flag in self._names:
            record[flag] = True

    def _centroid_terms(self, source: SourceImage, record: Record, x: float, y: float) -> np.ndarray:
        terms = np.zeros(self._radii.size)
        if "psfFlux_centroidTerm" not in record or not source.has_psf:
            return terms
        flux, term = float(record["psfFlux"]), float(record["psfFlux_centroidTerm"])
        # beyond 5 sigma of the PSF, or for bright sources, the term is below 1e-4 of the flux
        near = int(np.searchsorted(self._radii, 5.0 * source.width))
        if near == 0 or not term > 1e-4 * flux:
            return terms
        stamp = source.psf_at(x, y)
        laplacian_in_circles(stamp.array, x - stamp.x0, y - stamp.y0, self._radii[:near], terms[:near])
        return terms * term
