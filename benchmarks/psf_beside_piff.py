"""FitPSF beside its peer: size, shape and cost of the visit's PSF and of piff on the same stars.

    python benchmarks/psf_beside_piff.py [STARS]

A detector of 4000 x 4000 pixels with 250 stars of S/N 30 to 1000, FWHM 3.8 pixels, drawn by the simulation with shears
and size that vary as sines; both are judged at 5 x 5 places against the noise-free effective PSF. piff (PixelGrid 25 x
25, degree 2) takes part where it is installed. Times are CPU seconds per megapixel of the detector, compiled code warm.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time

import numpy as np

from skyquilt.algorithms.psf_modeling.full_visit import fit_psf
from skyquilt.algorithms.psf_modeling.star_stamps import DetectorPlace, StarStamps, nearest_pixel
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.psf import adaptive_moments
from skyquilt.primitives.transforms import Affine
from skyquilt.simulation.point_spread import PointSpread, add_star
from skyquilt.simulation.point_spread_truth import profile_moments

SIDE, SKY, FWHM, STAMP = 4000, 880.0, 3.8, 39
PHASES = tuple(np.random.default_rng(5).uniform(0, 2 * math.pi, 9))
SPREAD = PointSpread(FWHM, 0.6 * FWHM, 0.12, 0.03, 0.03, PHASES)


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 250
    stamps = draw(n)
    place = DetectorPlace(0, Box(0, 0, SIDE, SIDE), Affine(0.01 * np.eye(2)))
    grid = [c.ravel() for c in np.meshgrid(*[np.linspace(0, SIDE - 1, 5)] * 2)]
    truth = np.array([profile_moments(profile(x, y)) for x, y in zip(*grid)])
    fit_psf(stamps, [place])
    begin = time.process_time()
    psf = fit_psf(stamps, [place]).psfs[0]
    report("skyquilt", time.process_time() - begin, [psf.moments_at(x, y) for x, y in zip(*grid)], truth)
    x, y = np.random.default_rng(1).uniform(0, SIDE - 1, (2, 6000))
    psf.images_at(x[:1], y[:1])
    begin = time.process_time()
    for k in range(0, 6000, 500):
        psf.images_at(x[k : k + 500], y[k : k + 500])
    print(
        f"{'':<10} {(time.process_time() - begin) / 6000 * 1e6:.0f} us per stamp of {psf.size} pixels, in batches"
    )
    if importlib.util.find_spec("piff") is None:
        print("piff       is not installed: left out")
        return
    begin = time.process_time()
    model = fit_piff(stamps)
    cost = time.process_time() - begin
    drawn = [model.draw(x=x, y=y, stamp_size=STAMP, center=(x, y)).array for x, y in zip(*grid)]
    report("piff", cost, [adaptive_moments(image.astype(np.float64)) for image in drawn], truth)


def profile(x: float, y: float):
    """The true profile at a place."""
    return SPREAD.at((x / SIDE - 0.5) * math.sqrt(2), (y / SIDE - 0.5) * math.sqrt(2), np.eye(2))


def draw(n: int) -> StarStamps:
    """Stamps of stars, S/N of equal numbers per logarithm."""
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, SIDE - 1, (2, n))
    snr = np.exp(rng.uniform(np.log(30), np.log(1000), n))
    image = np.zeros((n, STAMP, STAMP))
    for k in range(n):
        centre = (place - nearest_pixel(place) + STAMP // 2 for place in (x[k], y[k]))
        add_star(image[k], profile(x[k], y[k]), *centre, 1.0, 26 * FWHM)
        flux = snr[k] * math.sqrt(SKY / (image[k] ** 2).sum())
        for _ in range(20):
            flux = snr[k] / math.sqrt((image[k] ** 2 / (SKY + flux * image[k])).sum())
        image[k] *= flux
    image += rng.normal(size=image.shape) * np.sqrt(SKY + image)
    unknown = np.full(n, np.nan)
    variance, good = SKY + np.maximum(image, 0), np.ones(image.shape, bool)
    return StarStamps(np.zeros(n), x, y, image, variance, good, unknown, unknown, np.zeros(n, bool))


def fit_piff(stamps: StarStamps):
    """A PixelGrid of 25 x 25 with polynomials of degree 2, as its documentation has it."""
    import galsim
    import piff

    stars = []
    for k in range(len(stamps)):
        column, row = int(nearest_pixel(stamps.x[k])), int(nearest_pixel(stamps.y[k]))
        corner = galsim.PositionI(column - STAMP // 2, row - STAMP // 2)
        image = galsim.Image(stamps.image[k].copy(), xmin=corner.x, ymin=corner.y, scale=1.0)
        weight = galsim.Image(1 / stamps.variance[k], xmin=corner.x, ymin=corner.y, scale=1.0)
        data = piff.StarData(image, galsim.PositionD(stamps.x[k], stamps.y[k]), weight=weight)
        stars.append(piff.Star(data, None))
    model = piff.SimplePSF(piff.PixelGrid(scale=1.0, size=25), piff.BasisPolynomial(order=2))
    model.fit(stars, {0: galsim.PixelScale(1.0)}, None)
    return model


def report(name: str, cost: float, found: list, truth: np.ndarray) -> None:
    """One line."""
    size = np.array([m.trace for m in found]) / truth[:, 0] - 1
    e1, e2 = np.array([m.e1 for m in found]) - truth[:, 1], np.array([m.e2 for m in found]) - truth[:, 2]
    cells = [
        f"{label} {v.mean():+.1e} rms {np.sqrt((v**2).mean()):.1e}"
        for label, v in zip(("dT/T", "de1", "de2"), (size, e1, e2))
    ]
    print(f"{name:<10} {cost / SIDE**2 * 1e6:.3f} CPU s/Mpix   " + "   ".join(cells))


if __name__ == "__main__":
    main()
