"""Figures of a visit (LDM-151 5.1.1): what manifests and the visit tables say of it and its detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.primitives.photo_calib import njy_to_magnitude
from skyquilt.primitives.psf import FWHM_OF_SIGMA

if TYPE_CHECKING:
    from skyquilt.algorithms.aperture_correction import ApertureCorrection
    from skyquilt.algorithms.background_estimation import BackgroundEstimate
    from skyquilt.algorithms.instrument_signature_removal import IsrResult
    from skyquilt.pipelines.image_characterization import DetectorResult
    from skyquilt.pipelines.visit_calibration import DetectorCalibration, VisitCalibration, VisitMatch
    from skyquilt.primitives.exposure import Exposure
    from skyquilt.primitives.photo_calib import PhotoCalib


def pixel_figures(isr: IsrResult, exposure: Exposure, estimate: BackgroundEstimate) -> dict[str, Any]:
    """Sky, noise and mask of a detector [electron; `_adu` ADU, by the mean gain that was used]."""
    mask = exposure.mask
    gain = float(np.mean([each.gain for each in isr.amplifiers]))
    return {
        "sky_level": estimate.level,
        "sky_noise": estimate.noise,
        "background_error": estimate.level_error,
        "sky_adu": estimate.level / gain,
        "sky_noise_adu": estimate.noise / gain,
        "fraction_bad": float(mask.any(["BAD", "NO_DATA"]).mean()),
        "fraction_saturated": float(mask.any(["SATURATED"]).mean()),
        "fraction_detected": float(mask.any(["DETECTED"]).mean()),
        "read_noise": {each.name: each.read_noise for each in isr.amplifiers},
        "amplifiers_lost": [each.name for each in isr.amplifiers if each.status != "good"],
        "nx": exposure.box.nx,
        "ny": exposure.box.ny,
    }


def star_figures(
    stars: np.ndarray, moments: tuple[float, float, float], sigma: float, correction: ApertureCorrection
) -> dict[str, Any]:
    """Numbers of sources and stars, their width [pixel], and the aperture correction.

    Parameters
    ----------
    stars : ndarray of bool, shape (n,)
        Of all sources.
    moments : tuple of float
        xx, yy, xy of the stars [pixel^2], NaN without any; then `sigma` [pixel] is what the seeing is.
    """
    psf_sigma = (moments[0] * moments[1] - moments[2] ** 2) ** 0.25
    return {
        "n_sources": len(stars),
        "n_psf_stars": int(stars.sum()),
        "psf_sigma": psf_sigma,
        "seeing_pixels": FWHM_OF_SIGMA * (psf_sigma if stars.any() else sigma),
        "aperture_correction": correction.factor,
        "aperture_correction_error": correction.error,
        "aperture_correction_reached": correction.reached,
    }


def detector_figures(
    result: DetectorResult, calibration: DetectorCalibration, match: VisitMatch, number: int
) -> dict[str, Any]:
    """Figures of one detector, the result of that number: its own with zero point, depth and position."""
    figures = dict(result.figures)
    calib = calibration.photo_calib
    known = np.isfinite(calib.mean)
    figures |= {
        "zero_point": calib.zero_point if known else float("nan"),
        "zero_point_error": calib.zero_point_error if known else float("nan"),
        "zero_point_stars": calibration.n_stars,
        "zero_point_scatter": calibration.scatter,
        "zero_point_of_visit": calibration.whole_visit,
        "mag_lim": _limiting_magnitude(figures, calib),
    }
    return figures | _position_figures(result, figures) | _offsets(match, match.members[number])


def _limiting_magnitude(figures: Mapping[str, Any], calib: PhotoCalib) -> float:
    """AB magnitude of a star at 5 sigma of sky noise in a PSF fit: noise area of a Gaussian, 4 pi sigma^2."""
    sigma = figures["seeing_pixels"] / FWHM_OF_SIGMA
    flux = 5.0 * figures["sky_noise"] * np.sqrt(4.0 * np.pi) * sigma * calib.mean
    return float(njy_to_magnitude(flux))


def _position_figures(result: DetectorResult, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Centre and outer corners on the sky (counter-clockwise from lower left), pixel scale and seeing."""
    nan = float("nan")
    if result.wcs is None:
        return {
            "ra": nan,
            "dec": nan,
            "corner_ra": [nan] * 4,
            "corner_dec": [nan] * 4,
            "pixel_scale": nan,
            "seeing": nan,
        }
    nx, ny = figures["nx"], figures["ny"]
    x, y = 0.5 * (nx - 1), 0.5 * (ny - 1)
    left, right, low, high = -0.5, nx - 0.5, -0.5, ny - 0.5
    ra, dec = result.wcs.pixel_to_sky(
        np.array([x, left, right, right, left]), np.array([y, low, low, high, high])
    )
    scale = float(result.wcs.pixel_scale(x, y))
    return {
        "ra": float(ra[0]),
        "dec": float(dec[0]),
        "corner_ra": [float(v) for v in ra[1:]],
        "corner_dec": [float(v) for v in dec[1:]],
        "pixel_scale": scale,
        "seeing": scale * figures["seeing_pixels"],
    }


def _offsets(match: VisitMatch, members: slice) -> dict[str, Any]:
    """Source minus reference of some pairs [arcsec]: medians, widths and number."""
    dx = match.whole.residual_ra[members] + match.whole.shift_ra
    dy = match.whole.residual_dec[members] + match.whole.shift_dec
    nan = float("nan")
    if not dx.size:
        return {"astrom_offset_ra": nan, "astrom_offset_dec": nan, "astrom_offset_std": nan, "n_matches": 0}
    ra, dec = float(np.median(dx)), float(np.median(dy))
    widths = [1.4826 * float(np.median(np.abs(d - m))) for d, m in ((dx, ra), (dy, dec))]
    return {
        "astrom_offset_ra": ra,
        "astrom_offset_dec": dec,
        "astrom_offset_std": float(np.hypot(*widths)),
        "n_matches": int(dx.size),
    }


def visit_figures(
    results: Sequence[DetectorResult], match: VisitMatch, calibrations: VisitCalibration
) -> dict[str, Any]:
    """Figures of the whole visit."""
    whole = calibrations.visit
    nan = float("nan")
    return {
        "n_detectors": len(results),
        "n_sources": sum(len(result.columns["x"]) for result in results),
        "zero_point": whole.magnitude if whole else nan,
        "zero_point_error": 2.5 / np.log(10.0) * whole.scale_error / whole.scale if whole else nan,
        "zero_point_scatter": whole.scatter if whole else nan,
        "zero_point_stars": whole.n_stars if whole else 0,
        **_offsets(match, slice(None)),
    }
