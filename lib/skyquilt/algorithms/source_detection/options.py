"""Options of detection in passes (LDM-151 8.4)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DetectionPassesConfig:
    """Thresholds of detection, and what is taken away between passes."""

    threshold: float = 5.0
    """Least signal to noise of an interpolated peak."""
    footprint_threshold: float = 3.0
    """Footprints are the pixels of the detection image above this that are connected to a peak."""
    grow: float = 1.0
    """Footprints are grown by this [FWHM]."""
    significance: float = 4.0
    """Least height of a peak above the saddle to a higher one [sigma at the peak]."""
    contrast: float = 0.03
    """Least height of a peak above that saddle, as a share of the peak's height."""
    bright_threshold: float = 25.0
    """Stars above this signal to noise are subtracted before the last pass; 0 for one pass only."""
    sharpness: float = 0.98
    """Bright sources are looked at with a kernel that tells close ones apart (`correlation.sharpened`); 0 for none."""
    rounds: int = 1
    """How often stars are subtracted and the rest is searched; each time with the new ones among them."""
    model_error: float = 0.02
    """Share of a subtracted star by which the PSF model may be wrong."""
    guessed_psf_error: float = 0.15
    """The same where only a width is known: bright sources within it of a PSF are not looked at for companions."""
    merge_radius: float = 0.5
    """Later peaks within this of an earlier one are the same source [FWHM]."""
    measure_noise: bool = False
    """Thresholds in units of the width that the detection image has where nothing is found: for crowded fields, whose
    faint stars are noise, and images with correlated noise."""
    noise_block: int = 256
    """Side of the blocks in which it is measured [pixel]."""

    def __post_init__(self) -> None:
        if not 0 < self.footprint_threshold <= self.threshold:
            raise ValueError(
                "detection needs 0 < footprint_threshold <= threshold, got "
                f"{self.footprint_threshold} and {self.threshold}"
            )
        if min(self.grow, self.significance, self.bright_threshold, self.rounds, self.model_error) < 0:
            raise ValueError(f"detection passes need options that are not negative, got {self}")
        if not 0 <= self.contrast <= 1 or self.merge_radius <= 0 or self.noise_block < 16:
            raise ValueError(
                "detection passes need contrast in 0..1, merge_radius > 0 and noise_block >= 16, got "
                f"{self.contrast}, {self.merge_radius}, {self.noise_block}"
            )
