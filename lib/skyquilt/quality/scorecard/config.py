"""Scorecard (LDM-151 6.1): samples, bins and bounds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from skyquilt.quality.metrics import Bootstrap


@dataclass(frozen=True)
class ScorecardConfig:
    """Samples, bins and bounds of the scorecard."""

    match_radius: float = 2.0
    """A source belongs to a true object within this distance of it [pixel]."""

    detection_threshold: float = 5.0
    """Threshold of the detection of the sources that are judged, for the perfect detector beside [sigma]."""

    edge_margin: float = 16.0
    """Completeness, purity and false rates leave out what is nearer to the edge of a detector [pixel]: beyond
    it lie true objects that truth does not list, and the detection kernel does not fit."""

    false_snr: float = 2.0
    """A source is false when no true object of higher S/N is within match_radius."""

    completeness_edges: tuple[float, ...] = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 25.0, 50.0, 200.0)
    """Lower edges of the bins of true S/N for completeness."""

    purity_edges: tuple[float, ...] = (0.0, 5.0, 6.0, 7.0, 10.0, 20.0, 50.0)
    """Lower edges of the bins of measured peak S/N for purity and false rates."""

    completeness_snr: float = 10.0
    """True S/N above which the completeness of all objects and of isolated stars is stated."""

    completeness_shortfall: float = 0.02
    """Bound on isolated stars above completeness_snr that only a perfect detector finds [fraction]."""

    bright_snr: float = 50.0
    """True S/N above which stars count for the bounds on positions and fluxes."""

    position_bias_mas: float = 20.0
    """Bound on the bias of clean bright stars' positions, each axis [mas]."""

    flux_bias: float = 0.01
    """Bound on the bias of clean bright stars' fluxes [fraction]."""

    pull_edges: tuple[float, ...] = (10.0, 20.0, 50.0, 100.0, 200.0)
    """Lower edges of the bins of true S/N for pulls, before merging."""

    pull_objects: int = 800
    """Fewest objects of a bin of pulls; smaller ones are merged."""

    repeatability_snr: float = 100.0
    """S/N above which stars count for repeatability (true, or measured where there is no truth)."""

    repeatability_mmag: float = 5.0
    """Bound on photometric repeatability [mmag]: the LSST SRD's PA1."""

    same_star_arcsec: float = 0.5
    """Without truth, sources of different visits within this distance are the same star [arcsec]."""

    least_objects: int = 10
    """With fewer objects a row is undecided, whatever its standard error says."""

    resamples: int = 200
    """Bootstrap samples of each row."""

    most_objects: int = 5000
    """Of more objects than this, so many are drawn for the bootstrap and its error is scaled."""

    seed: int = 0
    """Seed of the bootstrap, together with each row's name."""

    def __post_init__(self) -> None:
        for name in ("completeness_edges", "purity_edges", "pull_edges"):
            edges = getattr(self, name)
            if not edges or any(b <= a for a, b in itertools.pairwise(edges)):
                raise ValueError(f"{name} must be ascending numbers, got {edges}")
        for name in ("match_radius", "detection_threshold", "same_star_arcsec", "repeatability_mmag"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name, least in (("least_objects", 2), ("resamples", 20), ("most_objects", 100), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def bootstrap(self) -> Bootstrap:
        """How standard errors are drawn."""
        return Bootstrap(self.resamples, self.most_objects, self.seed)
