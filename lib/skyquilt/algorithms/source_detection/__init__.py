"""Source Detection (LDM-151 8.4): footprints and peaks of direct and difference images.

`correlation` makes the signal-to-noise image of point sources for a PSF that varies, `flooding` and `peaks` find peaks and
footprints in it, `noise` measures what the noise really is, `point_sources` fits stars, `companions` finds what is
hidden beside bright ones, and `passes` is all of it: bright sources first, fainter ones with the stars subtracted.
"""

from skyquilt.algorithms.source_detection.correlation import (
    MatchedFilter,
    correlated_image,
    preconvolved_image,
)
from skyquilt.algorithms.source_detection.flooding import (
    Detections,
    Plane,
    SourceDetectionConfig,
    detect_sources,
    detected_pixels,
    detection_image,
    flood,
    region_sums,
)
from skyquilt.algorithms.source_detection.noise import measured_noise
from skyquilt.algorithms.source_detection.options import DetectionPassesConfig
from skyquilt.algorithms.source_detection.passes import detect_both_signs, detect_in_passes
from skyquilt.algorithms.source_detection.peaks import (
    MergedPeaks,
    Peaks,
    detections_from_peaks,
    find_peaks,
    merge_peaks,
)

__all__ = [
    "DetectionPassesConfig",
    "Detections",
    "MatchedFilter",
    "MergedPeaks",
    "Peaks",
    "Plane",
    "SourceDetectionConfig",
    "correlated_image",
    "detect_both_signs",
    "detect_in_passes",
    "detect_sources",
    "detected_pixels",
    "detection_image",
    "detections_from_peaks",
    "find_peaks",
    "flood",
    "measured_noise",
    "merge_peaks",
    "preconvolved_image",
    "region_sums",
]
