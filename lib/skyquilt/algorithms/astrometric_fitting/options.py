"""Single Visit Astrometric Fit (LDM-151 8.13.2): its options."""

from __future__ import annotations

from dataclasses import dataclass, field

from skyquilt.algorithms.astrometric_fitting.terms import PriorWidths


@dataclass(frozen=True)
class FitWcsConfig:
    """The single-visit astrometric fit."""

    min_stars: int = 3
    """Fewer matched stars than this give no WCS."""
    max_degree: int = 5
    """Largest degree of the visit's polynomial that is offered."""
    least_scatter: float = 0.001
    """Intrinsic scatter that is always allowed for [arcsec]."""
    n_sigma: float = 5.0
    """Stars farther from the model than this are left out."""
    max_stars: int = 1000
    """Only that many of a detector, those with the smallest errors, are used."""
    priors: PriorWidths = field(default_factory=PriorWidths)
    """Widths of the priors."""

    def __post_init__(self) -> None:
        if self.min_stars < 2 or self.max_stars < 3:
            raise ValueError("min_stars must be at least 2 and max_stars at least 3")
        if not self.least_scatter > 0:
            raise ValueError(f"least_scatter must be positive, got {self.least_scatter}")
        if not (1 <= self.max_degree <= 7 and self.n_sigma > 2):
            raise ValueError("max_degree must be within 1..7 and n_sigma above 2")
