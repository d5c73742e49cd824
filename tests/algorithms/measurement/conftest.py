"""Stars drawn by galsim on a grid, their exposures, and children as a deblender hands them over."""

from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace

import galsim
import numpy as np
import pytest

from skyquilt.algorithms.measurement.variants.deblended_frame import Places
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.psf import KernelPsf

PHASES = 7
"""Places within a pixel, per axis, at which stars are drawn."""


@dataclass
class Deblended:
    """Children of all footprints as flat arrays (docs/design/image_characterization.md)."""

    child_start: np.ndarray
    pixel: np.ndarray
    value: np.ndarray
    parent: np.ndarray
    n_child: np.ndarray
    flags: dict = field(default_factory=dict)


def deblended(children, parent=None, n_child=None):
    """From a list of (flat indices, values)."""
    sizes = [len(pixel) for pixel, _ in children]
    n = len(children)
    return Deblended(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate([np.empty(0, np.int64), *(pixel for pixel, _ in children)]).astype(np.int64),
        np.concatenate([np.empty(0, np.float32), *(value for _, value in children)]).astype(np.float32),
        np.full(n, -1, np.int64) if parent is None else np.asarray(parent, np.int64),
        np.zeros(n, np.int64) if n_child is None else np.asarray(n_child, np.int64),
    )


def places(x, y):
    """Where detection would have put sources: at the nearest pixel."""
    nearest = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    return Places(nearest[0].astype(float), nearest[1].astype(float), *nearest)


def exposure_of(image, variance, **planes):
    """An Exposure of visit 7, detector 3, with mask planes set where said."""
    mask = Mask.blank(image.shape)
    for name, where in planes.items():
        mask.set(name, where)
    return Exposure(
        np.ascontiguousarray(image, np.float32),
        mask,
        np.ascontiguousarray(variance, np.float32),
        info={"visit": 7, "detector": 3},
    )


@lru_cache
def star(fwhm, half):
    """A Kolmogorov star (FWHM in pixels before the pixel), elliptical: PSF, stamps by phase, light in the PSF's stamp.

    Stamps are (2 half + 1)^2 pixels; the PSF's own are 8 pixels smaller, its samples are at a quarter of a pixel.
    """
    profile = galsim.Convolve(galsim.Kolmogorov(fwhm=fwhm).shear(g1=0.1, g2=-0.06), galsim.Pixel(1.0))
    size, side = 2 * half - 7, 2 * half + 1
    fine = 4 * (size + 16) + 1
    samples = profile.drawImage(nx=fine, ny=fine, scale=0.25, method="no_pixel").array.astype(float)
    offsets = (np.arange(PHASES) + 0.5) / PHASES - 0.5
    stamps = np.empty((PHASES, PHASES, side, side))
    for a, dy in enumerate(offsets):
        for b, dx in enumerate(offsets):
            canvas = galsim.ImageD(side, side)
            profile.drawImage(canvas, scale=1.0, method="no_pixel", offset=(dx, dy))
            stamps[a, b] = canvas.array
    middle = stamps[PHASES // 2, PHASES // 2]
    return SimpleNamespace(
        profile=profile,
        psf=KernelPsf(samples, 0.25, size),
        stamps=stamps,
        offsets=offsets,
        share=middle[4:-4, 4:-4].sum(),
        middle=middle,
    )


def flux_of(snr, stamp, sky):
    """Flux at which an optimal fit of the PSF alone has this signal to noise, with the source's own photons."""
    low, high = 1.0, 1e10
    for _ in range(100):
        flux = np.sqrt(low * high)
        reached = np.sqrt((flux**2 * stamp**2 / (sky + flux * np.maximum(stamp, 0))).sum())
        low, high = (flux, high) if reached < snr else (low, flux)
    return flux


@pytest.fixture(scope="session")
def grid_of_stars():
    """Factory: isolated stars of one flux, each alone in a square, with Poisson noise."""

    def make(fwhm, snr, n_side, seed, half=20, sky=400.0):
        drawn = star(fwhm, half)
        rng = np.random.default_rng(seed)
        flux = flux_of(snr, drawn.middle, sky)
        side, n = 2 * half + 1, n_side**2
        phase = rng.integers(PHASES, size=(2, n))
        row, column = np.divmod(np.arange(n), n_side)
        truth = drawn.stamps[phase[1], phase[0]].reshape(n_side, n_side, side, side)
        truth = flux * truth.swapaxes(1, 2).reshape(n_side * side, n_side * side)
        counts = rng.poisson(np.maximum(truth, 0) + sky)
        return SimpleNamespace(
            drawn=drawn,
            psf=drawn.psf,
            flux=flux,
            share=drawn.share,
            x=column * side + half + drawn.offsets[phase[0]],
            y=row * side + half + drawn.offsets[phase[1]],
            truth=truth,
            noise=counts - sky - truth,
            exposure=exposure_of(counts - sky, counts),
            sky=sky,
            n=n,
        )

    return make


@pytest.fixture(scope="session")
def draw():
    """The functions that draw and hand over."""
    return SimpleNamespace(
        deblended=deblended, places=places, exposure_of=exposure_of, star=star, flux_of=flux_of, PHASES=PHASES
    )
