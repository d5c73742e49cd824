"""Visit tables (LDM-151 5.6): one row per visit and per detector, and the map of what is missing and why."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.primitives.failure import Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.schemas import VISIT, VISIT_DETECTOR

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.instrument.camera import Camera, Observatory

CORNERS = ("llc", "lrc", "urc", "ulc")
FIGURE_COLUMNS = {
    "ra": "ra",
    "dec": "dec",
    "pixelScale": "pixel_scale",
    "seeing": "seeing",
    "psfSigma": "psf_sigma",
    "skyBg": "sky_adu",
    "skyNoise": "sky_noise_adu",
    "zeroPoint": "zero_point",
    "magLim": "mag_lim",
}
UNMEASURED = ("effTime",)


@dataclass(frozen=True)
class VisitTablesConfig:
    """Options of the visit tables and of the map of what is missing."""

    map_nside: int = 4096
    """Resolution of the *why missing* map: HEALPix nside, a power of two (4096: 0.86 arcmin)."""

    map_nside_coverage: int = 32
    """Coverage resolution of the map's file: HEALPix nside, a power of two below `map_nside`."""

    def __post_init__(self) -> None:
        for name in ("map_nside", "map_nside_coverage"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, got {value}")
        if self.map_nside_coverage > self.map_nside:
            raise ValueError(
                f"map_nside_coverage {self.map_nside_coverage} is finer than map_nside {self.map_nside}"
            )


@dataclass(frozen=True)
class VisitSummary:
    """What a visit's manifest says of it.

    Parameters
    ----------
    information : dict
        visit, band, physical_filter, ra, dec, rotation [deg], exposure_time [s], mjd_begin, mjd_mid [d TAI],
        airmass.
    detectors : dict
        Detector -> figures of the pipeline; a detector that failed has none.
    parts : dict
        ``detector N`` -> status, reason.
    config : str
        Digest of the configuration.
    """

    information: Mapping[str, Any]
    detectors: Mapping[str, Mapping[str, Any]]
    parts: Mapping[str, Mapping[str, Any]]
    config: str

    @property
    def status_of(self) -> dict[int, Mapping[str, Any]]:
        """Detector id -> status and reason."""
        return {int(name.split()[1]): part for name, part in self.parts.items()}


def visit_summary(content: Mapping[str, Any]) -> VisitSummary:
    """The summary of a visit from the content of its manifest."""
    figures = content["figures"]
    return VisitSummary(figures["information"], figures["detector"], content["parts"], content["config"])


def visit_table(visits: Iterable[VisitSummary], observatory: Observatory) -> pd.DataFrame:
    """`visit_table`: pointing, time and number of good detectors."""
    import pandas as pd

    rows = []
    for visit in visits:
        info = visit.information
        altitude, azimuth = horizontal(observatory, info)
        rows.append(
            {
                "visit": info["visit"],
                "physical_filter": info["physical_filter"],
                "band": info["band"],
                "ra": _number(info["ra"]),
                "dec": _number(info["dec"]),
                "skyRotation": _number(info["rotation"]),
                "azimuth": azimuth,
                "altitude": altitude,
                "zenithDistance": 90.0 - altitude,
                "airmass": _number(info["airmass"]),
                "expTime": _number(info["exposure_time"]),
                "expMidptMJD": _number(info["mjd_mid"]),
                "obsStartMJD": _number(info["mjd_begin"]),
                "nDetectors": len(visit.parts),
                "nDetectorsGood": sum(part["status"] != "failed" for part in visit.parts.values()),
                "qaGrade": "",
            }
        )
    return VISIT.conform(pd.DataFrame(rows) if rows else VISIT.empty())


def visit_detector_table(visits: Iterable[VisitSummary]) -> pd.DataFrame:
    """`visit_detector_table`: figures of each detector; those that failed keep their row, with the reason."""
    import pandas as pd

    rows = [_detector_row(visit, detector) for visit in visits for detector in sorted(visit.status_of)]
    return VISIT_DETECTOR.conform(pd.DataFrame(rows) if rows else VISIT_DETECTOR.empty())


def _detector_row(visit: VisitSummary, detector: int) -> dict[str, Any]:
    info, status = visit.information, visit.status_of[detector]
    figures = visit.detectors.get(str(detector), {})
    ra, dec = figures.get("corner_ra") or [math.nan] * 4, figures.get("corner_dec") or [math.nan] * 4
    row = {
        "visit": info["visit"],
        "detector": detector,
        "band": info["band"],
        "physical_filter": info["physical_filter"],
        **{column: _number(figures.get(name)) for column, name in FIGURE_COLUMNS.items()},
        **dict.fromkeys(UNMEASURED, math.nan),
        "nPsfStar": int(figures.get("n_psf_stars") or 0),
        "nSources": int(figures.get("n_sources") or 0),
        "expTime": _number(info["exposure_time"]),
        "expMidptMJD": _number(info["mjd_mid"]),
        "status": status["status"],
        "reasonCode": status.get("reason", ""),
        "configHash": visit.config,
    }
    for corner, corner_ra, corner_dec in zip(CORNERS, ra, dec):
        row[f"{corner}ra"], row[f"{corner}dec"] = _number(corner_ra), _number(corner_dec)
    return row


def why_missing_map(visits: Iterable[VisitSummary], camera: Camera, config: VisitTablesConfig) -> Any:
    """HealSparse map of reasons (bit = `Reason.bit`) where a visit's detector has no result, by nominal
    outline."""
    import healsparse
    import hpgeom

    found = healsparse.HealSparseMap.make_empty(
        config.map_nside_coverage, config.map_nside, dtype=np.int64, sentinel=0
    )
    shapes = {detector.id: detector for detector in camera.detectors}
    for visit in visits:
        info = visit.information
        for detector, part in visit.status_of.items():
            if part["status"] != "failed" or info["ra"] is None or detector not in shapes:
                continue
            wcs = camera.nominal_wcs(detector, info["ra"], info["dec"], info["rotation"] or 0.0)
            shape = shapes[detector]
            ra, dec = wcs.polygon(Box(0, 0, shape.nx, shape.ny)).corners
            pixels = hpgeom.query_polygon(config.map_nside, ra, dec, inclusive=True)
            if len(pixels):
                bit = np.int64(1) << Reason(part["reason"]).bit
                found.update_values_pix(pixels, np.full(len(pixels), bit), operation="or")
    return found


def horizontal(observatory: Observatory, info: Mapping[str, Any]) -> tuple[float, float]:
    """Altitude and azimuth [deg] of the boresight at mid-exposure; NaN without a site, pointing or time."""
    site = (observatory.longitude, observatory.latitude, observatory.elevation)
    if any(value is None for value in (*site[:2], info["ra"], info["dec"], info["mjd_mid"])):
        return math.nan, math.nan
    from astropy import units
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers
    from astropy.utils.exceptions import AstropyWarning

    # No downloads at run time: the table that comes with astropy serves, however old it is on the day of the run.
    # Beyond its end UT1 - UTC is taken as 0, which is 15 arcsec at most and no matter for a warning.
    settings = {"auto_download": False, "auto_max_age": None, "iers_degraded_accuracy": "ignore"}
    with contextlib.ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(iers.conf.set_temp(name, value))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", AstropyWarning)
        place = EarthLocation.from_geodetic(site[0], site[1], site[2] or 0.0)
        frame = AltAz(obstime=Time(info["mjd_mid"], format="mjd", scale="tai"), location=place)
        seen = SkyCoord(info["ra"] * units.deg, info["dec"] * units.deg).transform_to(frame)
    return float(seen.alt.deg), float(seen.az.deg)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
