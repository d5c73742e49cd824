"""Star stamps of a simulated visit whose effective PSF is known everywhere, without noise."""

from __future__ import annotations

import numpy as np
import pytest

from skyquilt.algorithms.psf_modeling.star_stamps import DetectorPlace, StarStamps, nearest_pixel, places_of
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.transforms import Affine
from skyquilt.simulation.point_spread import PointSpread, add_star
from skyquilt.simulation.point_spread_truth import profile_moments

SKY = 400.0
PIXEL = 0.01
"""[mm]"""


class Visit:
    """A focal plane of equal detectors under a PSF whose shears and size vary as sines.

    Parameters
    ----------
    fwhm : float
        Of the turbulence [pixel].
    grid : (int, int)
        Detectors along x and y, a twentieth of a side apart.
    turns : sequence of ndarray (2, 2), optional
        Rotation or mirror of each detector.
    """

    def __init__(
        self, fwhm, grid=(1, 1), nx=1000, seed=0, ellipticity=0.03, size=0.03, share=0.12, turns=None
    ):
        self.rng = np.random.default_rng([seed, 7])
        phases = tuple(np.random.default_rng(seed).uniform(0, 2 * np.pi, 9))
        self.spread = PointSpread(fwhm, 0.6 * fwhm, share, ellipticity, size, phases)
        self.fwhm, self.nx = fwhm, nx
        self.places, self._truth = [], {}
        for k in range(grid[0] * grid[1]):
            turn = np.eye(2) if turns is None else np.asarray(turns[k], dtype=float)
            middle = 1.05 * nx * PIXEL * np.array([k % grid[0], k // grid[0]])
            offset = middle - PIXEL * turn @ np.full(2, 0.5 * (nx - 1))
            self.places.append(DetectorPlace(k, Box(0, 0, nx, nx), Affine(PIXEL * turn, offset)))
        self.middle, self.radius, _ = places_of(self.places)

    def profile(self, detector, x, y, widening=1.0):
        """The true profile at a place."""
        place = self.places[detector]
        u, v = (np.array(place.to_focal_plane.forward(x, y)) - self.middle) / self.radius
        return self.spread.at(u, v, place.to_focal_plane.matrix / PIXEL, widening)

    def grid(self):
        """5 x 5 places of a detector, edges included."""
        return tuple(c.ravel() for c in np.meshgrid(*[np.linspace(0, self.nx - 1, 5)] * 2))

    def truth(self, detector):
        """T, e1, e2 of the effective PSF at the places of `grid`, (25, 3)."""
        if detector not in self._truth:
            places = zip(*self.grid())
            found = [profile_moments(self.profile(detector, x, y)) for x, y in places]
            self._truth[detector] = np.array(found)
        return self._truth[detector]

    def stamps(
        self,
        n,
        snr=(30, 1000),
        detectors=None,
        reserved=0.0,
        noise=True,
        side=None,
        galaxies=0.0,
        binaries=0.0,
        colour=None,
    ):
        """Stamps and a dict of truth: `flux`, `kind` (0 star, 1 binary, 2 galaxy).

        `colour` is the relative change of the width per magnitude.
        """
        side = side or 2 * int(5 * self.fwhm) + 1
        half, parts, truth = side // 2, [], {"flux": [], "kind": []}
        for place in self.places:
            if detectors is not None and place.detector not in detectors:
                continue
            rng = self.rng
            x, y = rng.uniform(0, self.nx - 1, (2, n))
            wanted = np.exp(rng.uniform(*np.log(snr), n))
            kind = rng.choice(3, n, p=[1 - galaxies - binaries, binaries, galaxies])
            colours = rng.uniform(0, 2, n) if colour else np.full(n, np.nan)
            image, flux = np.zeros((n, side, side)), np.empty(n)
            for k in range(n):
                widening = 1 + colour * (colours[k] - 1) if colour else 1.0
                if kind[k] == 2:
                    widening = rng.uniform(1.1, 1.8)
                profile = self.profile(place.detector, x[k], y[k], widening)
                cx, cy = x[k] - nearest_pixel(x[k]) + half, y[k] - nearest_pixel(y[k]) + half
                add_star(image[k], profile, cx, cy, 1.0, 26 * self.fwhm)
                if kind[k] == 1:
                    angle, apart, ratio = rng.uniform([0, 0.3, 0.1], [6.28, 1.0, 1.0])
                    dx, dy = apart * self.fwhm * np.cos(angle), apart * self.fwhm * np.sin(angle)
                    add_star(image[k], profile, cx + dx, cy + dy, ratio, 26 * self.fwhm)
                    image[k] /= 1 + ratio
                light = wanted[k] * np.sqrt(SKY / (image[k] ** 2).sum())
                for _ in range(20):
                    light = wanted[k] / np.sqrt((image[k] ** 2 / (SKY + light * image[k])).sum())
                image[k] *= light
                flux[k] = light
            variance = SKY + image
            if noise:
                image = image + rng.normal(size=image.shape) * np.sqrt(variance)
            kept = np.zeros(n, bool)
            kept[rng.permutation(n)[: round(reserved * n)]] = True
            unknown = np.full(n, np.nan)
            number = np.full(n, place.detector)
            seen = SKY + np.maximum(image, 0)
            good = np.ones(image.shape, bool)
            parts.append((number, x, y, image, seen, good, unknown, colours, kept))
            truth["flux"].append(flux)
            truth["kind"].append(kind)
        stamps = StarStamps(*(np.concatenate(column) for column in zip(*parts)))
        return stamps, {name: np.concatenate(values) for name, values in truth.items()}

    def differences(self, psf, detector):
        """dT / T, de1, de2 and the centre (x, y) of a PSF against the truth on 5 x 5 places, (25, 5)."""
        rows = []
        for a, b, (size, e1, e2) in zip(*self.grid(), self.truth(detector)):
            found = psf.moments_at(a, b)
            middle = nearest_pixel(a), nearest_pixel(b)
            rows.append(
                (
                    found.trace / size - 1,
                    found.e1 - e1,
                    found.e2 - e2,
                    found.x - middle[0],
                    found.y - middle[1],
                )
            )
        return np.array(rows)


@pytest.fixture
def make_visit():
    """The class of simulated visits."""
    return Visit
