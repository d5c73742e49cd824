"""Camera check (LDM-151 4.1.2.3): what lies between a definition and the sky, for one detector.

A detector's pixels go through the definition to the focal plane and to field angles. What is left between
those and the sky is a scale, a rotation, a mirroring and a shift: found from stars and a reference catalogue
by their pattern, or from the header's WCS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skyquilt.instrument.camera import Camera, Detector
from skyquilt.instrument.camera_check.frames import DetectorPixels, FrameFile, header_wcs
from skyquilt.instrument.camera_check.pattern_match import PatternMatch, match_patterns
from skyquilt.instrument.camera_check.stars import Stars, find_stars
from skyquilt.primitives.failure import ProcessingFailure, Reason

POINTING_SLOPS = (0.02, 0.25)
"""How far beyond the nominal field the reference is searched, first and second try [deg]."""

MOST_REFERENCE = 300
"""Most stars of the reference that are compared [count]."""

COLUMN_NAMES = {
    "ra": ("ra", "raj2000", "ra_icrs", "alpha_j2000", "radeg", "ra_deg", "coord_ra"),
    "dec": ("dec", "dej2000", "decj2000", "de_icrs", "delta_j2000", "decdeg", "dec_deg", "coord_dec"),
    "mag": ("mag", "phot_g_mean_mag", "gmag", "rmag", "vmag", "mag_auto"),
}


MAGNITUDE = r"(^|_)mag(_|$)|mag$"
"""Names of columns that hold magnitudes of some band: mag_r, r_mag, rMeanPSFMag."""

ERROR = r"err|sig|unc|^e_"
"""In names of columns that hold errors."""


class ReferenceStars(NamedTuple):
    """ICRS positions [deg] and magnitudes."""

    ra: np.ndarray
    dec: np.ndarray
    mag: np.ndarray


@dataclass(frozen=True)
class Placement:
    """What lies between the definition and the sky for one detector.

    Parameters
    ----------
    detector : Detector
    source : str
    parity : int
        The focal plane's, as `Camera.parity`.
    scale, scale_error : float
        Measured over the definition's.
    angle, angle_error : float
        Position angle of the focal plane's +y, east of north [deg].
    plane : complex
        Place of the detector's middle by the definition at position angle 0, east + i north [arcsec].
    sky : complex
        Its measured place from the pointing, east + i north [arcsec].
    place_error : float
        Of each component of `sky` [arcsec].
    """

    detector: Detector
    source: str
    parity: int
    scale: float
    scale_error: float
    angle: float
    angle_error: float
    plane: complex
    sky: complex
    place_error: float


@dataclass(frozen=True)
class SkyFrame:
    """One detector of a science frame: its file and its brightest stars (None: not sought)."""

    file: FrameFile
    detector: Detector
    stars: Stars | None = None


@dataclass(frozen=True, eq=False)
class ReferenceMatch:
    """Stars of a frame in the reference catalogue.

    Parameters
    ----------
    match : PatternMatch
        Of `sky_of` the frame's stars, in their order, with `places`.
    places : ndarray of complex
        Places from the pointing of the catalogue's stars that were compared, east + i north [deg].
    """

    match: PatternMatch
    places: np.ndarray


def sky_frame(pixels: DetectorPixels, with_stars: bool) -> SkyFrame:
    """What of a frame's pixels the orientation needs."""
    stars = find_stars(pixels.assembled()) if with_stars else None
    return SkyFrame(pixels.file, pixels.detector, stars)


def read_reference_stars(path: str | Path) -> ReferenceStars:
    """Stars of a CSV or FITS table with columns ra, dec [deg, ICRS] and mag (or their usual names).

    Raises
    ------
    ProcessingFailure
        MISSING_FILE, UNREADABLE_FILE, or BAD_HEADER when there are no such columns.
    """
    path = Path(path)
    if not path.is_file():
        raise ProcessingFailure(Reason.MISSING_FILE, f"{path.name}: there is no such file")
    from astropy.table import Table

    form = "fits" if ".fit" in path.name.lower() else "ascii.csv"
    try:
        table = Table.read(path, format=form)
    except (OSError, ValueError) as error:
        raise ProcessingFailure(Reason.UNREADABLE_FILE, f"{path.name}: {error}") from error
    found = {name.lower(): name for name in table.colnames}
    columns = []
    for wanted, names in COLUMN_NAMES.items():
        name = next((found[n] for n in names if n in found), None)
        if name is None and wanted == "mag":
            # any band will do: only the order of brightness matters
            name = next(
                (found[n] for n in found if re.search(MAGNITUDE, n) and not re.search(ERROR, n)), None
            )
        if name is None:
            raise ProcessingFailure(
                Reason.BAD_HEADER,
                f"{path.name}: no column for {wanted} (expected one of {', '.join(names)}); it has "
                f"{', '.join(table.colnames)}: rename one of these",
            )
        column = table[name]
        values = np.asarray(column.filled(np.nan) if hasattr(column, "filled") else column, float)
        columns.append(np.degrees(values) if str(column.unit or "") == "rad" else values)
    good = np.isfinite(columns[0]) & np.isfinite(columns[1])
    return ReferenceStars(columns[0][good], columns[1][good], columns[2][good])


def match_reference(frame: SkyFrame, camera: Camera, reference: ReferenceStars) -> ReferenceMatch | None:
    """Stars of a frame in a reference catalogue; None when the pattern is not found."""
    detector, stars = frame.detector, frame.stars
    if stars is None or stars.x.size < 4 or reference.ra.size < 4:
        return None
    from skyquilt.primitives.wcs import project_tangent

    pointing = _pointing(frame, reference)
    xi, eta = project_tangent(reference.ra, reference.dec, *pointing)
    plane = sky_of(detector, camera, stars.x, stars.y)
    corners = np.abs(sky_of(detector, camera, *np.array(detector.box.corners())))
    area = detector.nx * detector.ny * (detector.pixel_size * camera.plate_scale / 3600.0) ** 2
    match = None
    for slop in POINTING_SLOPS:
        # at any position angle the detector lies in a ring about the pointing
        radius = np.hypot(xi, eta)
        near = np.flatnonzero(
            (radius < corners.max() + slop) & (radius > corners.min() - 0.5 * np.sqrt(area) - slop)
        )
        near = near[np.argsort(reference.mag[near], kind="stable")]
        share = max(1.0, min(np.ptp(xi[near]) * np.ptp(eta[near]) / area, len(near))) if near.size else 1.0
        # both lists about equally deep
        near = near[: int(min(max(1.3 * stars.x.size * share, 60), MOST_REFERENCE))]
        deep = int(min(max(1.3 * near.size / share, 16), stars.x.size))
        match = match_patterns(plane[:deep], xi[near] + 1j * eta[near], 1.0)
        if match is not None:
            break
    return None if match is None else ReferenceMatch(match, xi[near] + 1j * eta[near])


def from_stars(frame: SkyFrame, camera: Camera, found: ReferenceMatch) -> Placement:
    """Placement from stars that were matched."""
    match = found.match
    source = f"{len(match.matches)} stars of {frame.file.name}"
    return _placement(
        frame.detector, camera, source, match.parity, match.a, match.error, match.b, match.shift_error
    )


def from_header(pixels: SkyFrame, camera: Camera) -> Placement | None:
    """Placement from the header's WCS; None when there is none."""
    detector = pixels.detector
    reading = replace(camera, wcs=replace(camera.wcs, source="header"))
    wcs = header_wcs(pixels.file, reading, detector)
    if wcs is None:
        return None
    from skyquilt.primitives.wcs import project_tangent

    x, y = (
        grid.ravel() for grid in np.meshgrid(np.linspace(0, detector.nx, 9), np.linspace(0, detector.ny, 9))
    )
    info = pixels.file.info
    ra, dec = wcs.pixel_to_sky(x, y)
    known = info is not None and info.boresight_ra is not None and info.boresight_dec is not None
    pointing = (info.boresight_ra, info.boresight_dec) if known else (float(ra[40]), float(dec[40]))  # type: ignore[union-attr]
    xi, eta = project_tangent(ra, dec, *pointing)
    w, z = xi + 1j * eta, sky_of(detector, camera, x, y)
    best = None
    for parity in (1, -1):
        own = z if parity > 0 else np.conj(z)
        dz, dw = own - own.mean(), w - w.mean()
        a = complex((np.conj(dz) * dw).sum() / (np.abs(dz) ** 2).sum())
        b = complex(w.mean() - a * own.mean())
        residual = float(np.sqrt(np.mean(np.abs(w - a * own - b) ** 2)))
        if best is None or residual < best[0]:
            error = residual / float(np.sqrt((np.abs(dz) ** 2).sum()))
            best = (residual, parity, a, error, b)
    assert best is not None
    residual, parity, a, error, b = best
    source = f"the WCS in the header of {pixels.file.name}"
    return _placement(detector, camera, source, parity, a, error, b, residual / 9.0)


def _pointing(pixels: SkyFrame, reference: ReferenceStars) -> tuple[float, float]:
    info = pixels.file.info
    if info is not None and info.boresight_ra is not None and info.boresight_dec is not None:
        return info.boresight_ra, info.boresight_dec
    # without a pointing the catalogue's middle must do, and the whole of it is searched
    angle = np.radians(reference.ra)
    ra = np.degrees(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) % 360.0
    return float(ra), float(np.median(reference.dec))


def sky_of(detector: Detector, camera: Camera, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """East + i north [deg] of pixels at position angle 0, by the definition."""
    field_x, field_y = camera.to_field().forward(*detector.to_focal_plane().forward(x, y))
    return -camera.parity * field_x + 1j * field_y


def _placement(
    detector: Detector,
    camera: Camera,
    source: str,
    parity: int,
    a: complex,
    error: float,
    b: complex,
    shift_error: float,
) -> Placement:
    # mirrored: a conj(z) = -a z', z' of the other parity
    factor = a if parity > 0 else -a
    middle = sky_of(detector, camera, *np.array(detector.box.centre))
    plane = complex(middle if parity > 0 else -np.conj(middle))
    angle = float(np.degrees(-np.angle(factor))) % 360.0
    return Placement(
        detector,
        source,
        parity * camera.parity,
        abs(a),
        error,
        angle,
        float(np.degrees(error / abs(a))),
        3600.0 * plane,
        3600.0 * (factor * plane + b),
        3600.0 * shift_error,
    )
