"""Scorecard (LDM-151 6.1): sources beside truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.statistics import median
from skyquilt.quality import metrics
from skyquilt.quality.scorecard.config import ScorecardConfig

if TYPE_CHECKING:
    import pandas as pd

SOURCE_COLUMNS = (
    *("visit", "detector", "band", "x", "y", "xErr", "yErr", "ra", "dec", "raErr", "decErr"),
    *("calibFlux", "calibFluxErr", "extendedness", "peakSnr", "detect_isPrimary", "centroid_flag"),
    *(f"pixelFlags_{name}" for name in metrics.CORE_FLAGS + metrics.FOOTPRINT_FLAGS),
)
"""Columns of the Source table that a scorecard is made from."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Sources beside truth, of the detectors that were processed.

    Arrays named source_*, match, false, objects have shape (len(sources),); found and truth_inside
    (len(truth),); unit_* (number of visit-detectors,).
    """

    config: ScorecardConfig
    sources: pd.DataFrame
    truth: pd.DataFrame
    match: np.ndarray
    false: np.ndarray
    objects: np.ndarray
    found: np.ndarray
    source_inside: np.ndarray
    truth_inside: np.ndarray
    source_unit: np.ndarray
    source_crowded: np.ndarray
    unit_crowded: np.ndarray
    unit_megapixels: np.ndarray

    @classmethod
    def of(
        cls, sources: pd.DataFrame, truth: pd.DataFrame, processed: pd.DataFrame, config: ScorecardConfig
    ) -> Sample:
        truth = truth[unit_index(truth, processed) >= 0].reset_index(drop=True)
        match = metrics.match_sources(sources, truth, config.match_radius)
        visible = np.flatnonzero((truth["snr"] > config.false_snr).to_numpy())
        near = metrics.nearest_truth(sources, truth.iloc[visible], config.match_radius)
        nearest = np.where(near >= 0, visible[near] if visible.size else -1, -1)
        ids = truth["id"].to_numpy(np.int64)
        # a false source is an object of its own, numbered below zero
        alone = -1 - np.arange(len(sources))
        objects = np.where(nearest >= 0, ids[nearest] if ids.size else -1, alone)
        found = np.zeros(len(truth), bool)
        found[match[match >= 0]] = True
        size = detector_sizes(processed)
        source_unit, truth_unit = unit_index(sources, processed), unit_index(truth, processed)
        margin = config.edge_margin
        unit_crowded = _crowded_units(truth, truth_unit, processed, size)
        return cls(
            config=config,
            sources=sources,
            truth=truth,
            match=match,
            false=nearest < 0,
            objects=objects,
            found=found,
            source_inside=_inside(sources, size[source_unit], margin),
            truth_inside=_inside(truth, size[truth_unit], margin),
            source_unit=source_unit,
            source_crowded=unit_crowded[source_unit],
            unit_crowded=unit_crowded,
            unit_megapixels=np.prod(np.maximum(size - 2 * margin, 0), axis=1) / 1e6,
        )

    def stars(self, least_snr: float, *, isolated: bool = False) -> pd.DataFrame:
        """Clean matched stars above a true S/N: columns of sources, true_x ... true_flux, snr, id."""
        import pandas as pd

        rows = np.flatnonzero(self.match >= 0)
        true = self.truth.iloc[self.match[rows]].reset_index(drop=True)
        found = self.sources.iloc[rows].reset_index(drop=True)
        keep = metrics.clean(found, true["fullWellFraction"].to_numpy(np.float64))
        keep &= (true["kind"] == "star").to_numpy() & (true["snr"] > least_snr).to_numpy()
        if isolated:
            keep &= true["isolated"].to_numpy(bool)
        names = {name: f"true_{name}" for name in ("x", "y", "ra", "dec", "flux")}
        beside = true[["id", "snr", *names]].rename(columns=names)
        return pd.concat([found, beside], axis=1)[keep].reset_index(drop=True)


def detector_sizes(visit_detectors: pd.DataFrame) -> np.ndarray:
    """Pixels along x and y of each row's detector, from its corners on the sky and its pixel scale.

    Where a row has no WCS the detector's size in other visits is taken, then that of the other detectors; NaN
    when no row has one.

    Returns
    -------
    ndarray, shape (n, 2)
    """
    import pandas as pd

    corner = {
        name: [np.radians(visit_detectors[f"{name}c{axis}"].to_numpy(np.float64)) for axis in ("ra", "dec")]
        for name in ("ll", "lr", "ul")
    }
    scale = visit_detectors["pixelScale"].to_numpy(np.float64)
    sides = [
        np.degrees(_separation(*corner["ll"], *corner[end])) * metrics.ARCSEC_PER_DEGREE / scale
        for end in ("lr", "ul")
    ]
    size = pd.DataFrame({"nx": np.round(sides[0]), "ny": np.round(sides[1])})
    typical = size.groupby(visit_detectors["detector"].to_numpy()).transform("median")
    return size.fillna(typical).fillna(size.median()).to_numpy(np.float64)


def _separation(ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray) -> np.ndarray:
    """Angle between directions [rad], by haversines: exact for small angles."""
    half = np.sin((dec2 - dec1) / 2) ** 2 + np.cos(dec1) * np.cos(dec2) * np.sin((ra2 - ra1) / 2) ** 2
    return 2 * np.arcsin(np.sqrt(half))


def counted_sources(sources: pd.DataFrame, processed: pd.DataFrame) -> pd.DataFrame:
    """Primary sources of processed detectors; artificial sky sources are none."""
    keep = sources["detect_isPrimary"].to_numpy(bool) & (unit_index(sources, processed) >= 0)
    if "sky_source" in sources:
        keep &= ~sources["sky_source"].to_numpy(bool)
    return sources[keep].reset_index(drop=True)


def unit_index(table: pd.DataFrame, units: pd.DataFrame) -> np.ndarray:
    """Row number in `units` of each row's visit and detector; -1 for none."""
    import pandas as pd

    index = pd.MultiIndex.from_frame(units[["visit", "detector"]].astype(np.int64))
    return index.get_indexer(pd.MultiIndex.from_frame(table[["visit", "detector"]].astype(np.int64)))


def _crowded_units(
    truth: pd.DataFrame, truth_unit: np.ndarray, processed: pd.DataFrame, size: np.ndarray
) -> np.ndarray:
    seen = (truth["kind"] == "star").to_numpy() & (truth["snr"] > 5).to_numpy()
    n_stars = np.bincount(truth_unit[seen], minlength=len(processed))
    fwhm = processed["seeing"].to_numpy(np.float64) / processed["pixelScale"].to_numpy(np.float64)
    fwhm = np.where(np.isfinite(fwhm), fwhm, median(fwhm))
    return metrics.crowded(n_stars, fwhm, np.prod(size, axis=1))


def _inside(table: pd.DataFrame, size: np.ndarray, margin: float) -> np.ndarray:
    """Rows farther than `margin` from the edges; a detector of unknown size ends nowhere."""
    inside = np.ones(len(table), bool)
    for i, name in enumerate(("x", "y")):
        place = table[name].to_numpy(np.float64)
        inside &= (place >= margin - 0.5) & ~(place > size[:, i] - 0.5 - margin)
    return inside
