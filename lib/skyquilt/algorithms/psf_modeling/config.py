"""FitPSF (LDM-151 5.1.1.16): options of the visit's PSF."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VisitPsfConfig:
    """The model, its degrees, and which stars it leaves out."""

    join_fwhm: float = 5.0
    """Radius from which profiles are a power law, at most what the stamps hold [FWHM]."""
    n_interval: int = 10
    """Knot intervals of the radial splines, even."""
    order: int = 4
    """Highest angular order of the profiles."""
    wing_slope: float = 11 / 3
    """Profiles fall as r^-slope beyond the join, unless brighter stars tell."""
    visit_degree: int = 4
    """Highest degree of the polynomials over the focal plane."""
    detector_degree: int = 2
    """Highest degree of each detector's own polynomials, -1 for none; only with two or more detectors."""
    stars_per_term: float = 2.0
    """Stars that a polynomial term needs."""
    min_stars: int = 1
    """Fewer usable stars in the visit than this make no PSF."""
    colour_stars: int = 20
    """Stars of known colour that the colour term needs; they must spread by `colour_spread`."""
    colour_spread: float = 0.1
    """Least standard deviation of the stars' colours [mag]."""
    reference_colour: float | None = None
    """Colour of the PSFs when none is asked for [mag]; the median of the stars by default."""
    model_error: float = 0.005
    """Relative error of the model in a pixel: bright stars count no more than this allows."""
    pixel_clip: float = 5.0
    """Pixels away from the core are left out beyond this [sigma]."""
    star_clip: float = 4.0
    """Stars whose size, shape or chi2 differs from the model's by more are left out [sigma]."""
    min_coverage: float = 0.9
    """Least share of a star's squared profile on good pixels."""
    size_fwhm: float = 4.0
    """Half side of the PSF's stamps [FWHM]."""

    def __post_init__(self) -> None:
        if self.join_fwhm < 2 or self.n_interval < 4 or self.n_interval % 2 or self.order < 2:
            raise ValueError("a PSF needs join_fwhm >= 2, an even n_interval >= 4 and order >= 2")
        if self.visit_degree < 0 or self.detector_degree < -1 or self.stars_per_term <= 0:
            raise ValueError("degrees of the PSF must be 0 (detector: -1) or more, stars_per_term positive")
        if self.min_stars < 1 or self.wing_slope <= 2 or self.model_error < 0 or self.size_fwhm < 1:
            raise ValueError("a PSF needs min_stars >= 1, wing_slope > 2, model_error >= 0, size_fwhm >= 1")
        if min(self.pixel_clip, self.star_clip) < 2 or not 0 <= self.min_coverage < 1:
            raise ValueError("a PSF needs clips of 2 sigma or more, and min_coverage in [0, 1)")
