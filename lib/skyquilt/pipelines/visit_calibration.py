"""Visit calibration (LDM-151 8.14.1, 8.14.2, 8.24.2): reference stars of a visit's detectors, and zero points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.algorithms.association_and_matching.single_visit_to_reference import ReferenceMatch, no_match
from skyquilt.algorithms.photometric_fitting import (
    PhotometricFittingConfig,
    ZeroPointFit,
    fit_zero_point,
)
from skyquilt.primitives.failure import Reason
from skyquilt.primitives.photo_calib import PhotoCalib

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.pipelines.image_characterization import DetectorResult


@dataclass(frozen=True)
class VisitMatch:
    """Match of the visit, told apart by detector.

    Parameters
    ----------
    whole : ReferenceMatch
        `source` counts the sources of all results one after the other.
    rows : tuple of ndarray
        Per result: the rows of its columns that are matched.
    partners : tuple of ndarray
        Per result: rows of the reference catalogue.
    flux, flux_error : ndarray
        Of the reference in the visit's band [nJy], NaN without; by its row.
    is_star : ndarray of bool
        False where the catalogue calls it extended.
    members : tuple of slice
        Per result: its pairs within `whole`.
    reason : Reason or None
        Why there is no match.
    """

    whole: ReferenceMatch
    rows: tuple[np.ndarray, ...]
    partners: tuple[np.ndarray, ...]
    flux: np.ndarray
    flux_error: np.ndarray
    is_star: np.ndarray
    members: tuple[slice, ...]
    reason: Reason | None

    @classmethod
    def none(cls, n: int, reason: Reason) -> VisitMatch:
        """No pairs for any of `n` results."""
        rows = tuple(np.zeros(0, int) for _ in range(n))
        empty = np.zeros(0)
        return cls(no_match(), rows, rows, empty, empty, np.zeros(0, bool), (slice(0, 0),) * n, reason)

    @classmethod
    def split(
        cls, whole: ReferenceMatch, counts: Sequence[int], reference: pd.DataFrame, band: str
    ) -> VisitMatch:
        """Tell the pairs apart by result; `counts` are the numbers of their sources."""
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
        edges = np.searchsorted(whole.source, starts)
        members = tuple(slice(int(a), int(b)) for a, b in itertools.pairwise(edges))
        return cls(
            whole,
            tuple(whole.source[each] - start for each, start in zip(members, starts)),
            tuple(whole.reference[each] for each in members),
            *reference_fluxes(reference, band),
            reference["isStar"].fillna(True).to_numpy(dtype=bool),
            members,
            None,
        )


@dataclass(frozen=True)
class DetectorCalibration:
    """PhotoCalib of a detector, stars it rests on (rows of the result) and where they are from."""

    photo_calib: PhotoCalib
    used: np.ndarray
    n_stars: int
    scatter: float
    whole_visit: bool


@dataclass(frozen=True)
class VisitCalibration:
    """Zero points of the detectors, and the visit's own."""

    detectors: tuple[DetectorCalibration, ...]
    visit: ZeroPointFit | None


def reference_fluxes(reference: pd.DataFrame, band: str) -> tuple[np.ndarray, np.ndarray]:
    """Flux and error of the reference stars [nJy]; NaN when the catalogue has not the band."""
    if f"flux_{band}" not in reference.columns:
        unknown = np.full(len(reference), np.nan)
        return unknown, unknown
    return reference[f"flux_{band}"].to_numpy(), reference[f"fluxErr_{band}"].to_numpy()


def fit_zero_points(
    results: Sequence[DetectorResult], match: VisitMatch, config: PhotometricFittingConfig
) -> VisitCalibration:
    """Zero point per detector, from its own stars where there are enough, else from all of the visit's."""
    stars = [_photometric_stars(result, match, number, config) for number, result in enumerate(results)]
    whole = None
    if stars:
        whole = fit_zero_point(*(np.concatenate(each) for each in zip(*(s[1:] for s in stars))), config)
    fits = []
    offset = 0
    for result, (rows, *fluxes) in zip(results, stars):
        own = None
        if rows.size >= config.min_stars_per_detector:
            own = fit_zero_point(*fluxes, config)
            if own is not None and own.n_stars < config.min_stars_per_detector:
                own = None
        chosen = own or whole
        used = np.zeros(len(result.columns["x"]), dtype=bool)
        if chosen is None:
            fits.append(DetectorCalibration(PhotoCalib.unknown(), used, 0, float("nan"), False))
        else:
            kept = own.used if own is not None else whole.used[offset : offset + rows.size]
            used[rows[kept]] = True
            calib = PhotoCalib(chosen.scale, chosen.scale_error)
            fits.append(DetectorCalibration(calib, used, chosen.n_stars, chosen.scatter, own is None))
        offset += rows.size
    return VisitCalibration(tuple(fits), whole)


def _photometric_stars(
    result: DetectorResult, match: VisitMatch, number: int, config: PhotometricFittingConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of clean matched stars; flux and photon error [electron]; reference flux and error [nJy]."""
    rows, partners = match.rows[number], match.partners[number]
    columns = result.columns
    spoilt = columns["ap12Flux_flag"] | columns["centroid_flag"]
    for name in ("bad", "saturated", "suspect", "crCenter", "nodata", "edge"):
        spoilt = spoilt | columns[f"pixelFlags_{name}"]
    keep = ~spoilt[rows] & ~(columns["extendedness"][rows] > 0.5)
    if partners.size:
        keep &= match.is_star[partners]
    # preferences: no repaired pixel anywhere in the footprint, then no neighbour
    for better in (~columns["pixelFlags_cr"][rows], columns["neighbours"][rows] < config.max_neighbour):
        if (keep & better).sum() >= config.min_stars_per_detector:
            keep &= better
    rows, partners = rows[keep], partners[keep]
    error = columns["ap12InstFluxErr"][rows] * result.aperture_correction.factor
    return rows, columns["calibInstFlux"][rows], error, match.flux[partners], match.flux_error[partners]
