"""Measurement beside its peer: cost of all plugins on one detector, and of sep's functions for the same quantities.

    python benchmarks/measurement_beside_sep.py [--side 4000] [--sources 6000] [--growth]

A detector with sources of FWHM 4 pixels at random places (fluxes by a power law), their footprints and true shares. sep
gets the places: windowed centroids, nine circles, Kron radii with elliptical sums, half-light radii and flags, with its own
neighbours left in the image. It has no PSF flux, PSF moments, sinc apertures, Petrosian radii, blendedness or replaced
neighbours. `--growth` repeats with 1,000 to 50,000 sources. Times are CPU seconds, kernels compiled before.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
import sep

from skyquilt.algorithms.measurement.variants.deblended_frame import (
    MeasureSourcesConfig,
    Places,
    measure_deblended_frame,
)
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.psf import MoffatPsf
from skyquilt.primitives.schemas import APERTURE_RADII

SKY = 880.0


@dataclass
class Children:
    """As the deblender hands them over."""

    child_start: np.ndarray
    pixel: np.ndarray
    value: np.ndarray
    parent: np.ndarray
    n_child: np.ndarray
    flags: dict = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4000)
    parser.add_argument("--sources", type=int, default=6000)
    parser.add_argument("--growth", action="store_true")
    options = parser.parse_args()
    run(300, 30)
    numbers = (1000, 3000, 10000, 50000) if options.growth else (options.sources,)
    for number in numbers:
        ours, theirs = run(options.side, number)
        pixels = options.side**2 / 1e6
        print(
            f"{number:6d} sources on {pixels:.1f} Mpix: skyquilt {ours:.2f} CPU s, {ours / pixels:.3f} per Mpix, "
            f"{ours / number * 1e6:.0f} us per source; sep {theirs:.2f} CPU s, {theirs / pixels:.3f} per Mpix"
        )


def run(side: int, number: int) -> tuple[float, float]:
    """CPU seconds of all plugins, and of sep."""
    exposure, places, children, psf = scene(side, number)
    bad = np.zeros(exposure.shape, bool)
    begin = time.process_time()
    found = measure_deblended_frame(
        exposure, bad, places, children, MeasureSourcesConfig(sky_sources=100 if number > 100 else 0), psf=psf
    )
    ours = time.process_time() - begin
    assert found.errors == ()
    begin = time.process_time()
    measure_with_sep(exposure, places, 1.8)
    return ours, time.process_time() - begin


def measure_with_sep(exposure: Exposure, places: Places, sigma: float) -> None:
    """sep's measurements at given places."""
    image, error = exposure.image, np.sqrt(exposure.variance)
    x, y, _ = sep.winpos(image, places.x, places.y, np.full(len(places.x), sigma))
    ones, zeros = np.full(len(x), sigma), np.zeros(len(x))
    for radius in APERTURE_RADII:
        sep.sum_circle(image, x, y, float(radius), err=error, subpix=0)
    kron, _ = sep.kron_radius(image, x, y, ones, ones, zeros, 6.0)
    sep.sum_ellipse(image, x, y, ones, ones, zeros, 2.5 * np.maximum(kron, 1.0), err=error, subpix=0)
    sep.flux_radius(image, x, y, 6 * ones, 0.5)
    sep.sum_circann(image, x, y, 25.0, 35.0, err=error, subpix=1)


def scene(side: int, number: int) -> tuple[Exposure, Places, Children, MoffatPsf]:
    """A detector with stars; children share the image by true light."""
    rng = np.random.default_rng(number)
    psf, half = MoffatPsf(4.0, 3.0), 16
    x, y = rng.uniform(half + 1, side - half - 2, (2, number))
    order = np.lexsort((np.rint(x), np.rint(y)))
    x, y = x[order], y[order]
    flux = 1500.0 * rng.uniform(0.002, 1, number) ** -1.0
    stamps = {}
    light = np.zeros((side, side))
    boxes, own = [], []
    for k in range(number):
        column, row = round(x[k]), round(y[k])
        # a twentieth of a pixel is fine enough to measure time
        phase = round(20 * (x[k] - column)), round(20 * (y[k] - row))
        if phase not in stamps:
            stamps[phase] = psf.image_at(500 + phase[0] / 20.001, 500 + phase[1] / 20.001).array
        stamp = flux[k] * stamps[phase]
        reach = stamp.shape[0] // 2
        where = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
        light[where] += stamp
        boxes.append(where)
        own.append(stamp.astype(np.float32))
    counts = rng.poisson(light + SKY)
    image, variance = (counts - SKY).astype(np.float32), counts.astype(np.float32)
    pixels, values = [], []
    for where, stamp in zip(boxes, own):
        j, i = np.nonzero(stamp > 0.3 * np.sqrt(SKY))
        j, i = j + where[0].start, i + where[1].start
        share = stamp[j - where[0].start, i - where[1].start] / light[j, i]
        pixels.append(j * side + i)
        values.append((share * image[j, i]).astype(np.float32))
    start = np.concatenate([[0], np.cumsum([len(one) for one in pixels])])
    children = Children(
        start, np.concatenate(pixels), np.concatenate(values), np.full(number, -1), np.zeros(number, np.int64)
    )
    exposure = Exposure(image, Mask.blank(image.shape), variance, info={"visit": 1, "detector": 1})
    at = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    return exposure, Places(at[0].astype(float), at[1].astype(float), *at), children, psf


if __name__ == "__main__":
    main()
