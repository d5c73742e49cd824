"""Source (LDM-151 5.1.1.3): rows of the Source table from measurements, positions and calibration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.data_units import SOURCE_ID
from skyquilt.primitives.schemas import APERTURE_RADII, SOURCE

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.algorithms.measurement.variants.single_frame import Columns
    from skyquilt.pipelines.image_characterization import DetectorResult, Visit
    from skyquilt.pipelines.visit_calibration import DetectorCalibration


FLUXES = tuple(f"ap{radius:02d}Flux" for radius in APERTURE_RADII) + ("kronFlux",)
"""Measured in electrons under the name that they have in nJy."""

_COMPUTED_WITH = frozenset({"xErr", "yErr", "sky", "skyErr", *FLUXES, *(f"{name}Err" for name in FLUXES)})


def compact_columns(columns: Columns) -> Columns:
    """Measurements with the types of the Source table where they get into it as they are.

    What is calibrated first keeps its precision until then, so that the table does not change by a bit.

    Raises
    ------
    TableError
        When a value does not fit its column's type.
    """
    final = tuple(
        column
        for column in SOURCE.columns
        if column.name in columns
        and column.name not in _COMPUTED_WITH
        and columns[column.name].dtype != np.dtype(column.dtype)
    )
    table = replace(SOURCE, columns=final).conform({column.name: columns[column.name] for column in final})
    return columns | {name: table[name].to_numpy(copy=True) for name in table.columns}


def source_table(visit: Visit, result: DetectorResult, calibration: DetectorCalibration) -> pd.DataFrame:
    """Rows of the Source table for one detector."""
    import pandas as pd

    return SOURCE.conform(pd.DataFrame(source_columns(visit, result, calibration), copy=False))


def source_columns(visit: Visit, result: DetectorResult, calibration: DetectorCalibration) -> Columns:
    """Columns of the Source table for one detector: fluxes in nJy, positions on the sky, ids."""
    columns = dict(result.columns)
    n = len(columns["x"])
    calib = calibration.photo_calib
    for name in FLUXES:
        for each in (name, f"{name}Err"):
            columns[each] = calib.flux_to_njy(columns[each], columns["x"], columns["y"])
    for each in ("", "Err"):
        columns[f"calibFlux{each}"] = calib.flux_to_njy(
            columns[f"calibInstFlux{each}"], columns["x"], columns["y"]
        )
        columns[f"sky{each}"] = calib.flux_to_njy(columns[f"sky{each}"], columns["x"], columns["y"])
    positions = zip(("ra", "dec", "raErr", "decErr", "ra_dec_Cov"), sky_positions(result))
    del columns["xyCov"], columns["neighbours"]
    # 0 says "no parent", so numbers begin with 1
    ids = SOURCE_ID.pack(visit=visit.visit, detector=result.detector, number=np.arange(1, n + 1))
    return (
        columns
        | dict(positions)
        | {
            "sourceId": ids,
            "parentSourceId": np.zeros(n, np.int64),
            "visit": np.full(n, visit.visit, np.int64),
            "detector": np.full(n, result.detector, np.int16),
            "band": np.full(n, visit.band, dtype=object),
            "physical_filter": np.full(n, visit.physical_filter, dtype=object),
            "deblend_nChild": np.zeros(n, np.int32),
            "detect_isPrimary": np.ones(n, bool),
            "calib_photometry_used": calibration.used,
            "noZeroPoint_flag": np.full(n, not np.isfinite(calib.mean)),
            "noWcs_flag": np.full(n, result.wcs is None),
            "tract": np.full(n, visit.tract, np.int64),
        }
    )


def sky_positions(result: DetectorResult) -> tuple[np.ndarray, ...]:
    """ra, dec [deg], their errors (ra times cos dec) and covariance; NaN without a WCS."""
    columns = result.columns
    n = len(columns["x"])
    if result.wcs is None or n == 0:
        return tuple(np.full(n, np.nan) for _ in range(5))
    ra, dec = result.wcs.pixel_to_sky(columns["x"], columns["y"])
    errors = result.wcs.sky_errors(
        columns["x"], columns["y"], columns["xErr"], columns["yErr"], result.columns["xyCov"]
    )
    return ra, dec, *errors
