"""Ghost prediction (LDM-151 4.1.2.4, 8.2): where a visit's bright stars have their reflections.

Stars come from the reference catalogue, at their nominal places in the focal plane; what they bring follows from
the camera's nominal zero points. A camera that says neither `ghosts` nor `zero_points` has no prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms.artifact_detection.ghosts import ghost_mask
from skyquilt.io.reference_catalog import positions_at
from skyquilt.pipelines.visit_calibration import reference_fluxes
from skyquilt.primitives.photo_calib import AB_ZERO_POINT

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.instrument.camera import Camera, GhostModel
    from skyquilt.primitives.exposure import Exposure


@dataclass(frozen=True, eq=False)
class GhostPrediction:
    """Bright stars of a visit and the camera's reflections; small and picklable.

    Parameters
    ----------
    x_mm, y_mm : ndarray, shape (n,)
        Places of the stars in the focal plane [mm].
    electrons : ndarray, shape (n,)
        In all snaps.
    models : tuple of GhostModel
    places : dict
        Detector -> (matrix, offset) of `Detector.focal_plane_matrix`.
    """

    x_mm: np.ndarray
    y_mm: np.ndarray
    electrons: np.ndarray
    models: tuple[GhostModel, ...]
    places: Mapping[int, tuple[np.ndarray, np.ndarray]]

    def mark(self, detector: int, exposure: Exposure, threshold: float) -> None:
        """Set GHOST where ghosts together bring more than `threshold` [noise of a median pixel]."""
        noise = float(np.sqrt(np.nanmedian(exposure.variance)))
        if not (self.electrons.size and np.isfinite(noise) and noise > 0):
            return
        mask, _ = ghost_mask(
            self.x_mm,
            self.y_mm,
            self.electrons,
            self.models,
            *self.places[detector],
            exposure.shape,
            threshold * noise,
        )
        exposure.mask.set(["GHOST"], mask)


def predict_ghosts(
    camera: Camera, entry: Mapping[str, Any], reference: pd.DataFrame | None
) -> GhostPrediction | None:
    """The prediction for a visit, or None where camera or catalogue do not allow one.

    Parameters
    ----------
    entry : dict
        Of the registry: physical_filter, band, ra, dec, rotation [deg], exposure_time [s], mjd_mid.
    reference : DataFrame or None
        `primitives.schemas.REFERENCE` with stars around the visit.
    """
    zero_point = camera.zero_points.get(entry["physical_filter"])
    if not camera.ghosts or zero_point is None or reference is None or not len(reference):
        return None
    stars = positions_at(reference, entry["mjd_mid"])
    flux, _ = reference_fluxes(stars, entry["band"])
    bright = np.flatnonzero(np.nan_to_num(flux) > 0)
    first = camera.detectors[0]
    wcs = camera.nominal_wcs(first.id, entry["ra"], entry["dec"], entry["rotation"] or 0.0)
    x, y = wcs.sky_to_pixel(stars["ra"].to_numpy()[bright], stars["dec"].to_numpy()[bright])
    matrix, offset = first.focal_plane_matrix()
    x_mm, y_mm = matrix @ np.stack([x, y]) + offset[:, None]
    electrons = flux[bright] * 10 ** (0.4 * (zero_point - AB_ZERO_POINT)) * entry["exposure_time"]
    places = {detector.id: detector.focal_plane_matrix() for detector in camera.detectors}
    return GhostPrediction(x_mm, y_mm, electrons, camera.ghosts, places)
