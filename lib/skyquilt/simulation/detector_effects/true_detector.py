"""Simulation (design 7): one detector as it really is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.detector_effects import response as light_path
from skyquilt.simulation.detector_effects.amplifiers import (
    TrueAmplifier,
    crosstalk_matrix,
    true_amplifiers,
)
from skyquilt.simulation.detector_effects.config import DetectorEffectsConfig
from skyquilt.simulation.detector_effects.defects import Traps, bad_columns, bad_pixels, dark_current
from skyquilt.simulation.detector_effects.pixel_boundaries import boundary_coefficients, displaced

if TYPE_CHECKING:
    from skyquilt.instrument import Detector


@dataclass(frozen=True)
class TrueDetector:
    """A detector as it really is.

    Attributes
    ----------
    definition : Detector
    amplifiers : tuple of TrueAmplifier
    traps : tuple of Traps
        Per amplifier.
    crosstalk : ndarray of float64, shape (n, n)
        [victim, source].
    response : ndarray of float32, shape (ny, nx)
        Electrons per electron expected in the middle of the focal plane.
    full_well : ndarray of float32, shape (ny, nx) [e]
    dark : ndarray of float32, shape (ny, nx) [e/s]
    defects : ndarray of uint8, shape (ny, nx)
        Bits of `defects`.
    rings : tuple of ndarray of float32, shape (ny, nx), or None [pixel]
        Displacement of boundaries along x and along y.
    boundaries : tuple of ndarray of float64
        Shifts of boundaries along rows and along columns by an electron (`boundary_coefficients`) [pixel/e].
    dome : ndarray of float32, shape (ny, nx)
        Light of a dome flat.
    fringes : dict of str to ndarray of float32, shape (ny, nx)
        By band, as they are first asked for (`fringe`).
    """

    config: DetectorEffectsConfig
    seed: int
    definition: Detector
    amplifiers: tuple[TrueAmplifier, ...]
    traps: tuple[Traps, ...]
    crosstalk: np.ndarray
    response: np.ndarray
    full_well: np.ndarray
    dark: np.ndarray
    defects: np.ndarray
    rings: tuple[np.ndarray, np.ndarray] | None
    boundaries: tuple[np.ndarray, np.ndarray]
    dome: np.ndarray
    fringes: dict[str, np.ndarray | None] = field(default_factory=dict)

    def fringe(self, band: str) -> np.ndarray | None:
        """Fringes of a band per electron of sky, float32 (ny, nx), mean 0; None where it has none."""
        if band not in self.fringes:
            self.fringes[band] = light_path.fringe_pattern(
                self.config,
                self.seed,
                self.definition.id,
                band,
                self.response.shape,
                self.definition.pixel_size,
            )
        return self.fringes[band]

    def received(self, light: np.ndarray) -> np.ndarray:
        """Electrons that light frees on average, float32 (ny, nx): pixel areas, then response.

        Parameters
        ----------
        light : ndarray, shape (ny, nx)
            Electrons where the response is one.
        """
        light = np.ascontiguousarray(light, dtype=np.float32)
        if self.rings is not None:
            light = displaced(light, *self.rings)
        return light * self.response


def true_detector(
    config: DetectorEffectsConfig, seed: int, detector: Detector, u: np.ndarray, v: np.ndarray
) -> TrueDetector:
    """A detector's truth; it is the same in all visits.

    Parameters
    ----------
    seed : int
        Of the survey.
    u, v : ndarray, shape (ny, nx)
        Place of its pixels in the focal plane over the radius of the farthest corner.
    """
    u, v = np.asarray(u, dtype=np.float32), np.asarray(v, dtype=np.float32)
    amplifiers = true_amplifiers(config, seed, detector)
    shape = (detector.ny, detector.nx)
    response = light_path.vignetting(config, np.hypot(u, v))
    light_path.unequal_pixels(config, seed, detector.id, response)
    light_path.cast_shadows(config, seed, detector.id, response, detector.pixel_size)
    dark = dark_current(config, seed, detector.id, shape)
    defects = np.zeros(shape, dtype=np.uint8)
    bad_pixels(config, seed, detector.id, dark, response, defects)
    traps = bad_columns(config, seed, detector, dark, response, defects)
    full_well = np.full(shape, np.inf, dtype=np.float32)
    for amplifier in amplifiers:
        full_well[amplifier.definition.data.slices()] = amplifier.full_well
    rings = None
    if config.tree_rings > 0:
        rings = light_path.tree_rings(config, seed, detector.id, shape, detector.pixel_size)
    return TrueDetector(
        config=config,
        seed=seed,
        definition=detector,
        amplifiers=amplifiers,
        traps=traps,
        crosstalk=crosstalk_matrix(config, seed, detector),
        response=response,
        full_well=full_well,
        dark=dark,
        defects=defects,
        rings=rings,
        boundaries=boundary_coefficients(
            config.brighter_fatter_serial,
            config.brighter_fatter_parallel,
            config.brighter_fatter_slope,
            config.brighter_fatter_range,
        ),
        dome=light_path.dome_flat_light(config, u, v),
    )
