"""Full Visit PSF Estimation (LDM-151 8.10.1): the stars of a visit while the PSF is fitted to them."""

from __future__ import annotations

import numpy as np

from skyquilt.algorithms.psf_modeling.profile_space import ProfileSpace
from skyquilt.algorithms.psf_modeling.spatial_variation import NormalEquations
from skyquilt.algorithms.psf_modeling.star_equations import N_SCALARS, star_equations
from skyquilt.algorithms.psf_modeling.star_moments import moment_residuals
from skyquilt.algorithms.psf_modeling.star_stamps import StarStamps, nearest_pixel

_CHUNK = 256
"""Stars whose equations are in memory at a time."""

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))

_NOISIEST = 0.06
"""Centres with more variance than this (x and y together, in units of the width's square: S/N about 6) are
not corrected for it."""

_LONGEST_STEP = 0.5
"""A centre moves at most this far in a round [pixel]."""


class VisitState:
    """Amplitude, centre and residuals of each star under the profiles of the moment.

    Rows are those of `stamps`. `amplitude` is flux over the area of a pixel in the basis.

    Parameters
    ----------
    stamps : StarStamps
        In their order (`StarStamps.ordered`).
    good : ndarray of bool, shape (n, s, s)
    noise : ndarray, shape (n, 2)
        Variance of the sky, and variance per unit of light.
    frames : dict of int to ndarray, shape (2, 2)
        By detector: pixel offsets to offsets of the basis.
    first : ndarray, shape (n, 6)
        Flux, centre off the middle pixel and moments of each star.
    """

    def __init__(
        self,
        stamps: StarStamps,
        good: np.ndarray,
        noise: np.ndarray,
        frames: dict[int, np.ndarray],
        first: np.ndarray,
    ) -> None:
        n = len(stamps)
        self.stamps, self.good, self.noise = stamps, good.copy(), noise
        self.frames = np.array([frames[int(number)] for number in stamps.detector]).reshape(n, 2, 2)
        self.area = np.abs(np.linalg.det(self.frames)) if n else np.empty(0)
        self.star = np.zeros((n, 6))
        self.star[:, 0] = first[:, 0] / self.area
        self.star[:, 1:3] = first[:, 1:3]
        self.sigma = np.maximum(first[:, 3] * first[:, 4] - first[:, 5] ** 2, 1e-4) ** 0.25
        self.flux_error = np.full(n, np.nan)
        self.chi2, self.n_pixel, self.covered = np.full(n, np.nan), np.zeros(n), np.zeros(n)
        self.moments = np.full((n, 7), np.nan)
        self.failed = np.zeros(n, bool)

    @property
    def flux(self) -> np.ndarray:
        """Light to infinity [electron]."""
        return self.star[:, 0] * self.area

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres (x, y) [pixel]."""
        x = nearest_pixel(self.stamps.x) + self.star[:, 1]
        return x, nearest_pixel(self.stamps.y) + self.star[:, 2]

    def chunks(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows of one detector, so many at a time."""
        return [rows[k : k + _CHUNK] for k in range(0, len(rows), _CHUNK)]

    def round(
        self,
        rows: np.ndarray,
        coefficients: np.ndarray,
        space: ProfileSpace,
        floor: float,
        clip: float | None = None,
        moments: bool = False,
        equations: bool = True,
    ) -> NormalEquations | None:
        """Improve amplitudes and centres under given profiles, and say what profiles the stars ask for.

        Parameters
        ----------
        rows : ndarray of int
        coefficients : ndarray, shape (len(rows), basis.size)
        floor : float
            Relative error of the model in a pixel.
        clip : float, optional
            Pixels farther from the model than this [sigma] and not in the core become bad.
        moments : bool
            Also find `moments`.
        equations : bool
            False leaves out what the shapes need.

        Returns
        -------
        NormalEquations
            Of the changes (n_change,) of each star's profile with its amplitude and centre free.
        """
        side, size, n = self.stamps.side, space.basis.size, len(rows)
        numbers = space.basis.numbers
        matrix = np.zeros((n if equations else 1, size, size))
        columns, scalars = np.zeros((n, size, 3)), np.zeros((n, N_SCALARS))
        layers = np.empty((3, side, side))
        noise = np.empty(3)
        for k, row in enumerate(rows):
            noise[:2], noise[2] = self.noise[row], floor
            one = matrix[k if equations else 0]
            image, good = self.stamps.image[row], self.good[row]
            star_equations(
                image,
                good,
                self.star[row],
                noise,
                self.frames[row],
                coefficients[k],
                numbers,
                equations,
                one,
                columns[k],
                scalars[k],
                layers,
            )
            if clip is not None:
                self._clip(row, layers, clip)
            if moments:
                where = self.star[row, :3]
                bad = moment_residuals(layers, good, *where, self.sigma[row], self.moments[row])
                if bad or not where[0] > 0:
                    self.moments[row] = np.nan
                # the noise of the centre has made the star's image narrower about it
                self.moments[row, 1] += (self.star[row, 3] + self.star[row, 5]) / self.moments[row, 0]
        self.chi2[rows], self.n_pixel[rows] = scalars[:, 5], scalars[:, 6]
        self.covered[rows] = scalars[:, 7]
        return self._eliminated(rows, coefficients, space, matrix, columns, scalars, equations)

    def _clip(self, row: int, layers: np.ndarray, clip: float) -> None:
        """Hits, neighbours and their surroundings are bad, but for pixels with much of the star's light."""
        profile, residual, variance = layers
        far = residual**2 > clip**2 * variance
        if not far.any():
            return
        far &= profile < 0.1 * profile.max()
        grown = far.copy()
        grown[1:] |= far[:-1]
        grown[:-1] |= far[1:]
        grown[:, 1:] |= far[:, :-1]
        grown[:, :-1] |= far[:, 1:]
        self.good[row] &= ~(grown & (profile < 0.3 * profile.max()))

    def _eliminated(
        self,
        rows: np.ndarray,
        coefficients: np.ndarray,
        space: ProfileSpace,
        matrix: np.ndarray,
        columns: np.ndarray,
        scalars: np.ndarray,
        equations: bool,
    ) -> NormalEquations | None:
        """Step of amplitude and centre; the equations of the shape without them (Schur complement)."""
        n = len(rows)
        amplitude = self.star[rows, 0]
        own, drive = np.empty((n, 3, 3)), np.empty((n, 3))
        for (i, j), column, sign in zip(_PAIRS, (8, 9, 10, 0, 1, 2), (1, -1, -1, 1, 1, 1)):
            own[:, i, j] = own[:, j, i] = sign * scalars[:, column]
        drive[:, 0], drive[:, 1:] = scalars[:, 11], -scalars[:, 3:5]
        broken = ~(np.linalg.det(own) > 1e-6 * np.prod(np.einsum("nii->ni", own), axis=1))
        broken |= ~(amplitude > 0) | ~np.isfinite(drive).all(axis=1)
        own[broken] = np.eye(3)
        inverse = np.linalg.inv(own)
        step = np.einsum("nij,nj->ni", inverse, drive)
        step[broken] = 0
        result = None
        if equations:
            light = np.einsum("nij,nj->ni", matrix, coefficients)
            cross = np.stack([light, -columns[:, :, 0], -columns[:, :, 1]], axis=2)
            cross = np.matmul(space.changes.T, cross)
            shape = np.matmul(np.matmul(space.changes.T, matrix), space.changes)
            pull = columns[:, :, 2] @ space.changes
            half = np.matmul(cross, inverse)
            shape -= np.matmul(half, np.swapaxes(cross, 1, 2))
            pull -= np.einsum("nij,nj->ni", half, drive)
            shape[broken], pull[broken] = 0, 0
            result = NormalEquations(amplitude[:, None, None] ** 2 * shape, amplitude[:, None] * pull)
        self._step(rows, step, inverse, broken)
        return result

    def _step(self, rows: np.ndarray, step: np.ndarray, inverse: np.ndarray, broken: np.ndarray) -> None:
        amplitude = self.star[rows, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = step[:, 1:] / amplitude[:, None]
            covariance = inverse[:, 1:, 1:] / amplitude[:, None, None] ** 2
        length = np.maximum(np.hypot(*moved.T) / _LONGEST_STEP, 1.0)
        fine = ~broken
        self.star[rows[fine], 0] = np.maximum(amplitude + step[:, 0], 0.1 * amplitude)[fine]
        self.star[rows[fine], 1:3] += (moved / length[:, None])[fine]
        self.star[rows[fine], 3] = covariance[fine, 0, 0]
        self.star[rows[fine], 4] = covariance[fine, 0, 1]
        self.star[rows[fine], 5] = covariance[fine, 1, 1]
        # the expansion of the centre's noise holds for centres much better than the width
        wide = self.star[rows, 3] + self.star[rows, 5] > _NOISIEST * self.sigma[rows] ** 2
        self.star[rows[wide], 3:6] = 0
        self.flux_error[rows] = np.where(broken, np.nan, np.sqrt(inverse[:, 0, 0])) * self.area[rows]
        self.failed[rows] = broken
