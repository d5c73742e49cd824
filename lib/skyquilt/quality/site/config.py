"""Options of the quality pages (LDM-151 6.2.1), and the figures of a visit that colour its focal plane."""

from __future__ import annotations

from dataclasses import dataclass

PLANE_FIGURES = {
    "seeing": ("seeing [arcsec]", 3),
    "skyBg": ("sky [adu]", 1),
    "skyNoise": ("sky noise [adu]", 2),
    "zeroPoint": ("zero point [mag]", 3),
    "magLim": ("depth, 5 sigma [mag]", 2),
    "nSources": ("sources", 0),
    "nPsfStar": ("PSF stars", 0),
    "psfSigma": ("PSF sigma [px]", 3),
}
"""Columns of visit_detector_table that colour the focal plane: label and digits."""


@dataclass(frozen=True)
class QualitySiteConfig:
    """Quality pages."""

    rows_per_page: int = 50
    """Rows of a table shown at once [count]."""

    map_detectors: int = 10_000
    """With more visit-detectors than this the map shows a hull for each visit [count]."""

    map_patches: int = 5_000
    """With more patches than this the map shows tracts only [count]."""

    plane_figure: str = "seeing"
    """Figure that colours the focal plane when a page opens: a column such as seeing, zeroPoint, magLim."""

    calibration_picture_pixels: int = 256
    """Longest side of the pictures of calibration products [pixel]: larger detectors are averaged in blocks."""

    def __post_init__(self) -> None:
        if self.rows_per_page < 5:
            raise ValueError(f"rows_per_page must be at least 5, got {self.rows_per_page}")
        if not 16 <= self.calibration_picture_pixels <= 2048:
            raise ValueError(
                f"calibration_picture_pixels must be in 16..2048, got {self.calibration_picture_pixels}"
            )
        for name in ("map_detectors", "map_patches"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.plane_figure not in PLANE_FIGURES:
            raise ValueError(
                f"plane_figure must be one of {', '.join(PLANE_FIGURES)}, got {self.plane_figure!r}"
            )
