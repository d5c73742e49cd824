"""Point sources in an image (LDM-151 8.4, 5.1.1.18): PSFs drawn at any place, and fitted to many stars together.

`PsfSampler` holds the PSF at a few places of the image in four phases per pixel and direction; between them it is
interpolated with polynomials of fifth degree over the phases and linearly between the places. Beside the model
itself the first leaves 2e-5 of the peak for a FWHM of 2.3 pixels.

`fit_point_sources` fits flux and position of all stars by turns to what the others leave (Stetson 1987 fits groups by
normal equations; turns have the same fixed point, and cost the pixels of each star only). Weights are of the model,
not of the data: photons that fluctuate up would otherwise count less, and fluxes be low.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.algorithms.source_detection.point_source_kernels import add_models, draw, fit_by_turns
from skyquilt.primitives.psf import MoffatPsf, Psf

PHASES = 4
_GUESSED_BETA = 3.0


def guessed_psf(fwhm: float) -> Psf:
    """A Moffat profile of a width [pixel] where nothing else is known of the PSF."""
    return MoffatPsf(float(fwhm), _GUESSED_BETA)


@dataclass(frozen=True)
class PsfSampler:
    """PSF stamps at nodes of the image.

    Parameters
    ----------
    tables : ndarray of float32, shape (n_y, n_x, 4, 4, n, n)
        Phase (j, i): the share of the light in pixel (v, u) off the star by v - half + j / 4 - 3 / 8, and so in x.
    y_nodes, x_nodes : ndarray of float64
        Places of the nodes in the image.
    fwhm : float
        At the middle [pixel].
    area : float
        Noise-equivalent pixels at the middle.
    brightest : ndarray of float64, shape (n // 2 + 1,)
        Greatest value at so many pixels from the centre and beyond, in squares.
    """

    tables: np.ndarray
    y_nodes: np.ndarray
    x_nodes: np.ndarray
    fwhm: float
    area: float
    brightest: np.ndarray

    @classmethod
    def of(
        cls, psf: Psf, shape: tuple[int, int], origin: tuple[int, int] = (0, 0), nodes: int = 7
    ) -> PsfSampler:
        """Of an image of a shape (ny, nx) whose first pixel is `origin` (x, y) in the PSF's frame."""
        x0, y0 = origin
        ny, nx = shape
        corners = [(x0 + fx * (nx - 1), y0 + fy * (ny - 1)) for fx in (0, 0.3, 1) for fy in (0, 0.6, 1)]
        first = psf.kernel_at(*corners[0])
        if all(np.array_equal(psf.kernel_at(*place), first) for place in corners[1:]):
            nodes = 1
        y_nodes, x_nodes = (
            np.rint(np.linspace(0, size - 1, nodes) if nodes > 1 else np.array([size // 2])).astype(float)
            for size in shape
        )
        offsets = (np.arange(PHASES) + 0.5) / PHASES - 0.5
        n = psf.size
        tables = np.empty((y_nodes.size, x_nodes.size, PHASES, PHASES, n, n), np.float32)
        for j, y in enumerate(y_nodes):
            for i, x in enumerate(x_nodes):
                for b, dy in enumerate(offsets):
                    for a, dx in enumerate(offsets):
                        stamp = psf.image_at(x0 + x + dx, y0 + y + dy).array
                        # a star farther right shows the stamp at samples farther left
                        tables[j, i, PHASES - 1 - b, PHASES - 1 - a] = stamp
        middle = psf.kernel_at(x0 + nx // 2, y0 + ny // 2)
        distance = np.abs(np.arange(n) - n // 2)
        square = np.maximum(distance[:, None], distance)
        brightest = np.array([np.abs(middle[square >= r]).max() for r in range(n // 2 + 1)])
        return cls(
            tables,
            y_nodes,
            x_nodes,
            psf.fwhm_at(x0 + nx // 2, y0 + ny // 2),
            float(1 / (middle**2).sum()),
            brightest,
        )

    @property
    def half(self) -> int:
        """Pixels on each side of the centre."""
        return self.tables.shape[-1] // 2

    def reach(self, flux: np.ndarray, level: np.ndarray | float, least: int = 1) -> np.ndarray:
        """Pixels from the centre at which stars fall below `level` [electron]; int64, shape of `flux`.

        At least `least`, at most what the stamps hold.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.nan_to_num(np.asarray(level) / np.asarray(flux), nan=np.inf, posinf=np.inf)
        share = np.where(np.asarray(flux) > 0, share, np.inf)
        envelope = np.maximum.accumulate(self.brightest[::-1])
        reach = self.half - np.searchsorted(envelope, share, side="right")
        return np.clip(reach, min(least, self.half), self.half).astype(np.int64)

    def stamp(self, x: float, y: float, half: int | None = None) -> np.ndarray:
        """PSF of a star at (x, y) on pixels around its own; float64, shape (2 half + 1, 2 half + 1)."""
        half = self.half if half is None else half
        out = np.empty((2 * half + 1, 2 * half + 1))
        draw(self.tables, self.y_nodes, self.x_nodes, x, y, half, out)
        return out


@dataclass(frozen=True)
class PointSourceFits:
    """Stars fitted to an image, each of shape (n,).

    Parameters
    ----------
    x, y : ndarray of float64 [pixel]
    flux, flux_err : ndarray of float64 [electron]
        Errors are of the fit with the neighbours' fluxes held.
    chi2 : ndarray of float64
        Per degree of freedom within the fitted radius; NaN with no more pixels than parameters.
    n_pixel : ndarray of int64
        Pixels of that fit.
    reach : ndarray of int64
        Pixels from the centre to which the star was drawn.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    chi2: np.ndarray
    n_pixel: np.ndarray
    reach: np.ndarray

    def point_like(self, limit: float = 4.0) -> np.ndarray:
        """Which fit a PSF: chi2 within `limit` of its own scatter above 1, and a flux above zero."""
        scatter = np.sqrt(2 / np.maximum(self.n_pixel - 3, 1))
        return (self.flux > 0) & np.isfinite(self.chi2) & (self.chi2 < 1 + limit * scatter)


def fit_point_sources(
    image: np.ndarray,
    unusable: np.ndarray,
    sky_variance: np.ndarray,
    sampler: PsfSampler,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    *,
    model_error: float = 0.0,
    rounds: int = 4,
    moving: np.ndarray | None = None,
    farthest: float = 1.0,
) -> tuple[PointSourceFits, np.ndarray]:
    """Fit stars together, and what is left of the image.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx) [electron]
    unusable : ndarray of bool, shape (ny, nx)
        Pixels that the fit must not look at (saturated ones too). Stars are drawn there all the same.
    sky_variance : ndarray of float64, shape (n,)
        At the stars [electron^2]; the stars' own photons are added.
    sampler : PsfSampler
    x, y : ndarray of float64, shape (n,)
        First places [pixel].
    flux : ndarray of float64, shape (n,)
        First fluxes [electron].
    model_error : float
        Share of the PSF by which it may be wrong, in each pixel.
    rounds : int
        How often each star is fitted.
    moving : ndarray of bool, shape (n,), optional
        Stars whose places are fitted; by default all.
    farthest : float
        Stars stay within this of their first place [pixel].

    Returns
    -------
    fits : PointSourceFits
    residual : ndarray of float32, shape (ny, nx)
        The image without all of them.
    """
    image = np.ascontiguousarray(image, dtype=np.float32)
    residual = image.copy()
    n = len(x)
    fitted = [np.array(v, dtype=np.float64) for v in (x, y, flux)]
    fitted[2] = np.nan_to_num(np.maximum(fitted[2], 0.0))
    variance = np.where(np.isfinite(sky_variance) & (sky_variance > 0), sky_variance, np.inf)
    # the wings of bright stars lie under their neighbours
    bright = fitted[2] > 50 * np.sqrt(variance * sampler.area)
    level = np.where(bright, 0.02, 0.1) * np.sqrt(variance)
    reach = sampler.reach(fitted[2], level, least=int(np.ceil(1.5 * sampler.fwhm)))
    # brightest first; of equal ones by place, so that the order given does not matter
    order = np.lexsort((fitted[0], fitted[1], -fitted[2])).astype(np.int64)
    moving = np.ones(n, bool) if moving is None else np.asarray(moving, bool)
    error, chi2, n_pixel = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, np.int64)
    fit_by_turns(
        image,
        residual,
        np.ascontiguousarray(unusable),
        sampler.tables,
        sampler.y_nodes,
        sampler.x_nodes,
        order,
        fitted[0].copy(),
        fitted[1].copy(),
        variance,
        reach,
        moving,
        max(1.0 * sampler.fwhm, 1.5),
        float(model_error) ** 2,
        float(farthest),
        int(rounds),
        *fitted,
        error,
        chi2,
        n_pixel,
    )
    return PointSourceFits(*fitted, error, chi2, n_pixel, reach), residual


def add_stars(
    image: np.ndarray, sampler: PsfSampler, fits: PointSourceFits, which: np.ndarray, factor: float = 1.0
) -> None:
    """Add `factor` times the models of some of the fitted stars to an image, in place."""
    chosen = np.flatnonzero(which)
    add_models(
        image,
        sampler.tables,
        sampler.y_nodes,
        sampler.x_nodes,
        fits.x[chosen],
        fits.y[chosen],
        factor * fits.flux[chosen],
        fits.reach[chosen],
    )
