"""Camera definitions (LDM-151 4.1.2.3, 9.3): detectors, amplifiers, their geometry, and the nominal WCS.

Frames: *raw section* (x, y) counts pixels of one amplifier as stored, prescan and overscan included;
*assembled* counts the trimmed detector, the parent frame of everything later; *focal plane* is mm, +x and +y
as drawn in the camera's YAML. At position angle 0 the focal plane's +y points north, and +x west (parity +1)
or east (parity -1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.instrument.header_map import HeaderMap
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box

if TYPE_CHECKING:
    from skyquilt.instrument.observation_info import ObservationInfo
    from skyquilt.primitives.wcs import Affine, RadialPolynomial, Transform, Wcs

PURPOSES = ("science", "wavefront", "guide")
CORNERS = ("lower_left", "lower_right", "upper_left", "upper_right")


@dataclass(frozen=True)
class GhostModel:
    """Out-of-focus reflection of a bright star between surfaces of the camera: a ring on the focal plane.

    A star at focal-plane position r has its ring centred at magnification * r + offset_mm.

    Parameters
    ----------
    radius_mm : float
        Outer radius of the ring [mm].
    inner_fraction : float
        Inner radius (shadow of the secondary mirror) over the outer, 0 to less than 1.
    magnification : float
        Negative when ghosts lie opposite to their star, 1 when they are concentric with it.
    offset_mm : (float, float)
        [mm].
    flux_ratio : float
        Light of the whole ring over that of its star.
    """

    radius_mm: float
    inner_fraction: float
    magnification: float
    offset_mm: tuple[float, float]
    flux_ratio: float


@dataclass(frozen=True)
class Amplifier:
    """One read-out channel.

    Parameters
    ----------
    name : str
    extension : str, int or None
        HDU that holds its pixels; None is the detector's.
    raw_section : Box
        Place of all its pixels in that HDU. The other raw boxes count from this one's first pixel.
    raw_data : Box
        Light-sensitive pixels.
    raw_prescan, raw_overscan : Box or None
        Serial prescan, and serial overscan, of the rows of `raw_data`.
    raw_parallel_overscan : Box or None
        Rows read after the last of the data.
    data : Box
        Place of `raw_data` in the assembled detector.
    flip_x, flip_y : bool
        Whether columns or rows are stored in the order opposite to the assembled detector's.
    gain : float
        [electron / ADU], of the laboratory.
    read_noise : float
        [electron].
    saturation : float
        [ADU], as stored.
    linearity : tuple of float
        (c2, c3, ...): linear = v + c2 v^2 + c3 v^3 ..., v above bias [ADU].
    read_out : str
        Corner of its assembled area where the output is.
    hdu_size : (int, int)
        Columns and rows of the HDU that holds it.
    """

    name: str
    extension: str | int | None
    raw_section: Box
    raw_data: Box
    raw_prescan: Box | None
    raw_overscan: Box | None
    raw_parallel_overscan: Box | None
    data: Box
    flip_x: bool
    flip_y: bool
    gain: float
    read_noise: float
    saturation: float
    linearity: tuple[float, ...] = ()
    read_out: str = "lower_left"
    hdu_size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.raw_data.shape != self.data.shape:
            raise ValueError(
                f"amplifier {self.name}: raw data is {self.raw_data.nx}x{self.raw_data.ny} pixels and "
                f"its place in the detector {self.data.nx}x{self.data.ny}; they must be equal"
            )

    def to_assembled(self, section: np.ndarray) -> np.ndarray:
        """Trim a raw section, shape `raw_section.shape`, and flip it: a view of shape `data.shape`."""
        trimmed = section[self.raw_data.slices()]
        return trimmed[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def from_assembled(self, image: np.ndarray) -> np.ndarray:
        """Its part of an assembled image (ny, nx) in the stored order: a view of shape `raw_data.shape`."""
        part = image[self.data.slices()]
        return part[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def assembled_position(
        self, x: float | np.ndarray, y: float | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Raw section position [pixel] -> assembled position [pixel]."""
        return (
            _along(np.asarray(x), self.raw_data.x0, self.data.x0, self.data.nx, self.flip_x),
            _along(np.asarray(y), self.raw_data.y0, self.data.y0, self.data.ny, self.flip_y),
        )

    def raw_position(self, x: float | np.ndarray, y: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Assembled position [pixel] -> raw section position [pixel]."""
        return (
            _along(np.asarray(x), self.data.x0, self.raw_data.x0, self.data.nx, self.flip_x),
            _along(np.asarray(y), self.data.y0, self.raw_data.y0, self.data.ny, self.flip_y),
        )


def _along(position: np.ndarray, start: int, target: int, length: int, flip: bool) -> np.ndarray:
    offset = position - start
    return target + (length - 1 - offset if flip else offset)


@dataclass(frozen=True)
class Detector:
    """One CCD of the focal plane.

    Parameters
    ----------
    id : int
        Number in data units, 0 to 511.
    name : str
    purpose : str
        science, wavefront or guide.
    nx, ny : int
        Size when assembled [pixel].
    pixel_size : float
        [mm].
    centre_mm : (float, float)
        Focal-plane position of the middle of the assembled detector [mm].
    rotation_deg : float
        From the focal plane's axes to the detector's, counter-clockwise from +x to +y [deg].
    amplifiers : tuple of Amplifier
    extension : str, int or None
        HDU of its pixels and own header; None is the primary or the first image.
    defects : tuple of Box
        Assembled pixels that are known to be bad.
    """

    id: int
    name: str
    purpose: str
    nx: int
    ny: int
    pixel_size: float
    centre_mm: tuple[float, float]
    rotation_deg: float
    amplifiers: tuple[Amplifier, ...]
    extension: str | int | None = None
    defects: tuple[Box, ...] = ()

    @property
    def box(self) -> Box:
        """The whole assembled detector."""
        return Box(0, 0, self.nx, self.ny)

    def amplifier(self, name: str) -> Amplifier:
        """Amplifier of that name; KeyError with the known names."""
        for amplifier in self.amplifiers:
            if amplifier.name == name:
                return amplifier
        raise KeyError(f"detector {self.name} has no amplifier {name!r}, it has {self.amplifier_names}")

    @property
    def amplifier_names(self) -> list[str]:
        """Names in the definition's order."""
        return [amplifier.name for amplifier in self.amplifiers]

    def focal_plane_matrix(self) -> tuple[np.ndarray, np.ndarray]:
        """(matrix (2, 2) [mm/pixel], offset (2,) [mm]): focal plane = matrix @ (x, y) + offset."""
        angle = math.radians(self.rotation_deg)
        # quarter turns are exact, so that a detector mounted upside down has no 1e-16 shear
        cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
        matrix = self.pixel_size * np.array([[cosine, -sine], [sine, cosine]])
        return matrix, np.array(self.centre_mm) - matrix @ np.array(self.box.centre)

    def to_focal_plane(self) -> Affine:
        """Transform from assembled pixels to focal-plane mm."""
        from skyquilt.primitives.wcs import Affine

        return Affine(*self.focal_plane_matrix())

    def assemble(self, sections: Mapping[str, np.ndarray]) -> np.ndarray:
        """Trim, flip and join raw sections into one image, shape (ny, nx); an absent amplifier is NaN.

        Parameters
        ----------
        sections : mapping of amplifier name to ndarray, shape of its `raw_section`
        """
        image = np.full((self.ny, self.nx), np.nan, dtype=np.float32)
        for amplifier in self.amplifiers:
            if amplifier.name in sections:
                image[amplifier.data.slices()] = amplifier.to_assembled(sections[amplifier.name])
        return image


@dataclass(frozen=True)
class Observatory:
    """Place of the telescope.

    Parameters
    ----------
    name : str
    longitude, latitude : float or None
        East-positive, geodetic [deg].
    elevation : float
        [m].
    mpc_code : str or None
    """

    name: str = ""
    longitude: float | None = None
    latitude: float | None = None
    elevation: float = 0.0
    mpc_code: str | None = None


@dataclass(frozen=True)
class FileLayout:
    """How raw frames lie in files.

    Parameters
    ----------
    pattern : tuple of str
        File names of raw frames, as shell patterns.
    per_visit : bool
        True when a file holds all detectors of an exposure, False for a file per detector.
    """

    pattern: tuple[str, ...] = ("*.fits", "*.fits.gz", "*.fits.fz")
    per_visit: bool = False


@dataclass(frozen=True)
class WcsSource:
    """What to take for a first position.

    Parameters
    ----------
    source : str
        ``header`` or ``nominal`` (from boresight, rotation and plate scale).
    frame : str
        ``assembled`` when the header's CRPIX counts the trimmed detector, ``raw`` when stored pixels.
    extension : str, int or None
        HDU with the keywords: a name or number, ``primary``, ``detector`` or ``amplifier`` (its first).
    fallback : str
        ``nominal`` or ``none`` when the header has no usable WCS.
    """

    source: str = "header"
    frame: str = "assembled"
    extension: str | int = "detector"
    fallback: str = "nominal"


@dataclass(frozen=True)
class Camera:
    """All that is known of an instrument; made by `load_camera`, known to no code by name.

    Parameters
    ----------
    name : str
    detectors : tuple of Detector
        In order of id.
    filters : dict
        Physical filter -> band.
    plate_scale : float
        [arcsec/mm] at the middle of the field.
    distortion_radius, distortion_coefficients : float [mm], tuple of float
        Field angle = plate_scale r (1 + c1 (r/R)^2 + c2 (r/R)^4 ...); no coefficients, no distortion.
    parity : int
        +1 when the focal plane's +x points west if +y points north, -1 when it points east.
    header : HeaderMap
    files : FileLayout
    wcs : WcsSource
    isr : dict
        Switches and overrides of instrument signature removal.
    observatory : Observatory
    ghosts : tuple of GhostModel
        Reflections of bright stars.
    zero_points : dict
        Physical filter -> nominal magnitude (AB) of a star that gives one electron per second; may be empty.
    fringe_filters : tuple of str
        Physical filters whose images have fringes.
    description : str
    canonical : str
        The definition with its tables as sorted JSON: the same for definitions that differ in comments,
        layout or order of keys only. What a digest of the camera is made of.
    """

    name: str
    detectors: tuple[Detector, ...]
    filters: dict[str, str]
    plate_scale: float
    header: HeaderMap
    distortion_radius: float = 1.0
    distortion_coefficients: tuple[float, ...] = ()
    parity: int = 1
    files: FileLayout = FileLayout()
    wcs: WcsSource = WcsSource()
    isr: dict[str, Any] = field(default_factory=dict)
    observatory: Observatory = Observatory()
    ghosts: tuple[GhostModel, ...] = ()
    zero_points: dict[str, float] = field(default_factory=dict)
    fringe_filters: tuple[str, ...] = ()
    description: str = ""
    canonical: str = field(default="", repr=False)

    def detector(self, detector_id: int) -> Detector:
        """Detector of an id; ProcessingFailure UNKNOWN_DETECTOR when there is none."""
        for detector in self.detectors:
            if detector.id == detector_id:
                return detector
        raise ProcessingFailure(
            Reason.UNKNOWN_DETECTOR,
            f"camera {self.name} has no detector {detector_id!r}, it has "
            f"{_listed(d.id for d in self.detectors)}",
        )

    def detector_named(self, name: str) -> Detector:
        """Detector of a name, in any case; ProcessingFailure UNKNOWN_DETECTOR when there is none."""
        for detector in self.detectors:
            if detector.name.lower() == name.strip().lower():
                return detector
        raise ProcessingFailure(
            Reason.UNKNOWN_DETECTOR,
            f"camera {self.name} has no detector named {name!r}, it has "
            f"{_listed(d.name for d in self.detectors)}",
        )

    def detector_ids(self, purpose: str = "science") -> list[int]:
        """Ids of the detectors of one purpose."""
        return [detector.id for detector in self.detectors if detector.purpose == purpose]

    @property
    def distortion(self) -> RadialPolynomial | None:
        """Focal plane [mm] to field angle on the tangent plane [deg]; None without distortion."""
        if not self.distortion_coefficients:
            return None
        from skyquilt.primitives.wcs import RadialPolynomial

        return RadialPolynomial(
            self.distortion_coefficients, radius=self.distortion_radius, scale=self.plate_scale / 3600.0
        )

    def to_field(self) -> Transform:
        """Focal plane [mm] to field angle on the tangent plane [deg], before rotation and parity."""
        from skyquilt.primitives.wcs import Affine

        return self.distortion or Affine(np.eye(2) * self.plate_scale / 3600.0)

    def band(self, physical_filter: str) -> str:
        """Band of a physical filter; KeyError when unknown."""
        return self.filters[physical_filter]

    def field_radius_deg(self) -> float:
        """Radius about the boresight that holds the corners of all detectors [deg], distortion included."""
        corners = np.hstack([self.corners_mm(detector) for detector in self.detectors])
        return float(np.degrees(np.arctan(np.radians(np.hypot(*self.to_field().forward(*corners)).max()))))

    def corners_mm(self, detector: Detector) -> np.ndarray:
        """Focal-plane x and y of the outer corners of a detector, shape (2, 4) [mm]."""
        matrix, offset = detector.focal_plane_matrix()
        return matrix @ np.array(detector.box.corners()) + offset[:, None]

    def nominal_wcs(self, detector_id: int, ra: float, dec: float, rotation_deg: float) -> Wcs:
        """WCS from pointing alone.

        Parameters
        ----------
        detector_id : int
        ra, dec : float
            Sky position of the focal plane's origin, ICRS [deg].
        rotation_deg : float
            Position angle of the focal plane's +y, east of north [deg].
        """
        from skyquilt.primitives.wcs import Wcs

        place = self.detector(detector_id).to_focal_plane()
        return Wcs.from_focal_plane(place, self.to_field(), ra, dec, rotation_deg, self.parity)

    def first_wcs(self, info: ObservationInfo, detector_id: int, header_wcs: Wcs | None) -> Wcs:
        """The WCS to start from, as the camera's `wcs` section wants it.

        A rotation that is not known counts as 0.

        Raises
        ------
        ProcessingFailure
            NO_WCS when neither header nor pointing gives one.
        """
        if self.wcs.source == "header" and header_wcs is not None:
            return header_wcs
        wanted = self.wcs.source == "nominal" or self.wcs.fallback == "nominal"
        if not wanted or info.boresight_ra is None or info.boresight_dec is None:
            pointing = "has no pointing" if wanted else "may not replace it (wcs.fallback: none)"
            raise ProcessingFailure(
                Reason.NO_WCS,
                f"{info.observation_id}: the header has no usable WCS, and the camera definition {pointing}",
            )
        return self.nominal_wcs(detector_id, info.boresight_ra, info.boresight_dec, info.rotation or 0.0)


def _listed(values: Any) -> str:
    values = [str(value) for value in values]
    return ", ".join(values[:20]) + (f", ... ({len(values)} in all)" if len(values) > 20 else "")
