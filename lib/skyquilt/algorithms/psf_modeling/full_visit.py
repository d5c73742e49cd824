"""Full Visit PSF Estimation (LDM-151 8.10.1): fit the PSF of all detectors of a visit to its stars (FitPSF).

The profile is a sum of smooth functions, linear in its coefficients (`primitives.profile_basis`). Fluxes and
centres of the stars are free in each round and eliminated from the equations of the shape, as in the variable
projection of Golub and Pereyra (1973, SIAM J. Numer. Anal. 10, 413). Rounds: one profile for all; the visit's
polynomial over the focal plane, with a colour term; a polynomial of each detector beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from skyquilt.algorithms.psf_modeling.config import VisitPsfConfig
from skyquilt.algorithms.psf_modeling.results import VisitPsfFit
from skyquilt.algorithms.psf_modeling.star_stamps import DetectorPlace, StarStamps
from skyquilt.algorithms.psf_modeling.visit_rounds import VisitRounds


def fit_psf(
    stamps: StarStamps,
    detectors: Sequence[DetectorPlace],
    config: VisitPsfConfig | None = None,
    bright: StarStamps | None = None,
) -> VisitPsfFit:
    """Fit the PSF of a visit.

    Parameters
    ----------
    stamps : StarStamps
        Stars of the visit, on any of the detectors.
    detectors : sequence of DetectorPlace
        All that need a PSF, stars or not.
    config : VisitPsfConfig, optional
    bright : StarStamps, optional
        Large stamps of the brightest stars, their saturated pixels not `good`: they tell how wings fall.

    Raises
    ------
    ProcessingFailure
        NO_STARS when fewer than `config.min_stars` stars can be used.
    ValueError
        When a star's detector is not among `detectors`.
    """
    config = config or VisitPsfConfig()
    unknown = set(stamps.detector.tolist()) - {place.detector for place in detectors}
    if unknown:
        raise ValueError(f"stars on detectors that were not given: {sorted(unknown)}")
    placed = np.isfinite(stamps.x) & np.isfinite(stamps.y)
    if not placed.all():
        nowhere = replace(
            stamps,
            x=np.where(placed, stamps.x, 0),
            y=np.where(placed, stamps.y, 0),
            good=_only(stamps.good, placed),
        )
        return fit_psf(nowhere, detectors, config, bright)
    order = stamps.ordered()
    fit = VisitRounds(stamps.take(order), detectors, config)
    fit.constant(bright)
    fit.over_visit()
    fit.over_detectors()
    return fit.result(order)


def _only(good: np.ndarray, stars: np.ndarray) -> np.ndarray:
    """No good pixels but those of some stars."""
    return good & stars[:, None, None]
