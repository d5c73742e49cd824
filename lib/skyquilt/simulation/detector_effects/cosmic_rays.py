"""Simulation (design 7): charged particles that cross the silicon: muons, and slow electrons ("worms").

Muons come from all directions alike (through a horizontal plane as cos(zenith) sin(zenith)): steep ones leave a
spot, grazing ones a long track. They free 80 electrons per micron on average, as minimum-ionizing particles do,
with Landau-like fluctuations, drawn by Moyal's form (1955, Phil. Mag. 46, 263). Charge spreads while it drifts
to the gates, the more the farther it has to go, so that a track is sharp at one end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.simulation.detector_effects.config import DetectorEffectsConfig

ELECTRONS_PER_MICRON = 80.0
FLUCTUATION = 0.15
"""Moyal's scale over the mean deposit."""

MOYAL_MEAN = 0.5772156649 + math.log(2)

STEP = 0.5
"""Greatest distance of deposits [pixel]."""

LEAST_COSINE = 0.01
"""Of the zenith angle: silicon ends somewhere."""

WORM_ELECTRONS = (300.0, 60000.0)
WORM_DENSITY = 160.0
"""Of slow electrons [e/micron]."""

WORM_TURN = 0.35
"""Scatter of a slow electron's direction over a step [rad]."""

NARROWEST = 0.08
"""Width of charge that is freed at the gates [pixel]."""

LEAST_ELECTRONS = 1.0
"""Pixels with less do not count as hit [e]."""


@dataclass(frozen=True)
class Deposit:
    """Charge along a particle's way.

    Attributes
    ----------
    x, y : ndarray, shape (n,) [pixel]
    electrons : ndarray, shape (n,)
    width : ndarray, shape (n,)
        Standard deviation to which it spreads [pixel].
    """

    x: np.ndarray
    y: np.ndarray
    electrons: np.ndarray
    width: np.ndarray


@dataclass(frozen=True)
class Hit:
    """Charge of one particle in the pixels.

    Attributes
    ----------
    x, y : ndarray of int32, shape (n,)
        Pixels with an electron and more of it.
    electrons : ndarray of float32, shape (n,)
    ends : tuple of float
        x0, y0, x1, y1 of the way [pixel].
    """

    x: np.ndarray
    y: np.ndarray
    electrons: np.ndarray
    ends: tuple[float, float, float, float]


def add_cosmic_rays(
    config: DetectorEffectsConfig,
    rng: np.random.Generator,
    charge: np.ndarray,
    pixel_micron: float,
    exposure_time: float,
) -> list[Hit]:
    """Add the particles of an exposure.

    Parameters
    ----------
    charge : ndarray of float32, shape (ny, nx) [e]
        Changed in place.
    pixel_micron : float
        Size of a pixel [micron].
    exposure_time : float [s]

    Returns
    -------
    list of Hit
        One per particle that left an electron somewhere.
    """
    ny, nx = charge.shape
    area = nx * ny * (pixel_micron * 1e-4) ** 2
    hits = []
    for _ in range(rng.poisson(config.cosmic_rays * area * exposure_time / 60)):
        worm = rng.uniform() < config.cosmic_ray_worms
        deposit = (worm_track if worm else muon_track)(config, rng, nx, ny, pixel_micron)
        hit = add_deposit(charge, deposit)
        if hit is not None:
            hits.append(hit)
    return hits


def muon_track(
    config: DetectorEffectsConfig, rng: np.random.Generator, nx: int, ny: int, pixel_micron: float
) -> Deposit:
    """A straight way through the silicon; its middle is uniform over the detector."""
    x0, y0, turn = rng.uniform(-0.5, nx - 0.5), rng.uniform(-0.5, ny - 0.5), rng.uniform(0, 2 * math.pi)
    cosine = max(math.sqrt(rng.uniform()), LEAST_COSINE)
    across = config.silicon_thickness / pixel_micron * math.sqrt(1 - cosine**2) / cosine
    n = max(10, math.ceil(across / STEP))
    depth = (np.arange(n) + 0.5) / n
    mean = ELECTRONS_PER_MICRON * config.silicon_thickness / cosine / n
    # -ln z^2 of a normal z follows Moyal's distribution; its far tail would be another particle
    moyal = np.minimum(-np.log(np.maximum(rng.normal(size=n) ** 2, 1e-12)), 20.0)
    electrons = mean * np.maximum(1 + FLUCTUATION * (moyal - MOYAL_MEAN), 0.2)
    way = (depth - 0.5) * across
    return Deposit(x0 + way * math.cos(turn), y0 + way * math.sin(turn), electrons, _spread(config, depth))


def worm_track(
    config: DetectorEffectsConfig, rng: np.random.Generator, nx: int, ny: int, pixel_micron: float
) -> Deposit:
    """The wandering way of a slow electron at one depth."""
    x0, y0, turn = rng.uniform(-0.5, nx - 0.5), rng.uniform(-0.5, ny - 0.5), rng.uniform(0, 2 * math.pi)
    depth = rng.uniform()
    total = math.exp(rng.uniform(*np.log(WORM_ELECTRONS)))
    n = max(1, math.ceil(total / WORM_DENSITY / pixel_micron / STEP))
    turns = turn + np.cumsum(WORM_TURN * rng.normal(size=n))
    electrons = rng.exponential(size=n) + 0.5
    return Deposit(
        x0 + STEP * np.cumsum(np.cos(turns)),
        y0 + STEP * np.cumsum(np.sin(turns)),
        total * electrons / electrons.sum(),
        _spread(config, np.full(n, depth)),
    )


def _spread(config, depth):
    """Width of charge from a depth (0: at the gates, 1: at the far side) [pixel]."""
    return np.maximum(config.charge_diffusion * np.sqrt(depth), NARROWEST)


def add_deposit(charge: np.ndarray, deposit: Deposit) -> Hit | None:
    """Add a particle's charge in place; None when it leaves less than an electron in every pixel."""
    ny, nx = charge.shape
    reach = math.ceil(4 * float(deposit.width.max())) + 1
    x0, x1 = max(math.floor(deposit.x.min()) - reach, 0), min(math.ceil(deposit.x.max()) + reach + 1, nx)
    y0, y1 = max(math.floor(deposit.y.min()) - reach, 0), min(math.ceil(deposit.y.max()) + reach + 1, ny)
    if x0 >= x1 or y0 >= y1:
        return None
    stamp = np.zeros((y1 - y0, x1 - x0), dtype=np.float32)
    spread_charge(stamp, deposit.x - x0, deposit.y - y0, deposit.electrons, deposit.width)
    charge[y0:y1, x0:x1] += stamp
    rows, columns = np.nonzero(stamp >= LEAST_ELECTRONS)
    if rows.size == 0:
        return None
    ends = (float(deposit.x[0]), float(deposit.y[0]), float(deposit.x[-1]), float(deposit.y[-1]))
    return Hit((columns + x0).astype(np.int32), (rows + y0).astype(np.int32), stamp[rows, columns], ends)


@kernel(
    "void(float32[:, ::1], const(float64[::1]), const(float64[::1]), const(float64[::1]), const(float64[::1]))"
)
def spread_charge(pixels, x, y, electrons, width):
    """Add Gaussian clouds of charge, integrated over pixels and cut at four widths and a pixel.

    Parameters
    ----------
    pixels : ndarray of float32, shape (ny, nx) [e]
        Changed in place; charge beyond its edges is lost.
    x, y, electrons, width : ndarray, shape (n,)
        Middle [pixel], charge and standard deviation [pixel].
    """
    ny, nx = pixels.shape
    for k in range(x.size):
        reach = math.ceil(4 * width[k]) + 1
        scale = 1 / (math.sqrt(2.0) * width[k])
        i0, j0 = round(x[k]), round(y[k])
        for j in range(max(j0 - reach, 0), min(j0 + reach + 1, ny)):
            part = math.erf((j + 0.5 - y[k]) * scale) - math.erf((j - 0.5 - y[k]) * scale)
            for i in range(max(i0 - reach, 0), min(i0 + reach + 1, nx)):
                share = math.erf((i + 0.5 - x[k]) * scale) - math.erf((i - 0.5 - x[k]) * scale)
                pixels[j, i] += np.float32(0.25 * electrons[k] * part * share)
