"""Image Characterization (LDM-151 5.1): the data that its pipelines pass between detectors and visits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from skyquilt.pipelines.source_tables import source_table
from skyquilt.primitives.failure import Outcome, Reason
from skyquilt.primitives.schemas import SOURCE

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.algorithms.aperture_correction import ApertureCorrection
    from skyquilt.algorithms.instrument_signature_removal import DetectorCalibrations
    from skyquilt.algorithms.measurement.variants.single_frame import Columns
    from skyquilt.instrument.raw import RawFrame
    from skyquilt.pipelines.visit_calibration import DetectorCalibration
    from skyquilt.primitives.background import Background
    from skyquilt.primitives.exposure import Exposure
    from skyquilt.primitives.photo_calib import PhotoCalib
    from skyquilt.primitives.psf import Psf
    from skyquilt.primitives.wcs import Wcs


@dataclass(frozen=True)
class Visit:
    """What is processed: number, band, the filter's name in the camera, and home tract (-1 for none)."""

    visit: int
    band: str
    physical_filter: str
    tract: int = -1


class VisitData(Protocol):
    """Where pixels come from and go to; small and picklable, made by the caller."""

    def snaps(self, detector: int) -> list[int]:
        """Numbers of the snaps that there should be of a detector, ascending."""
        ...

    def read_raw(self, detector: int, snap: int) -> RawFrame:
        """Raw frame with the WCS to start from as `header_wcs`; ProcessingFailure when it cannot be had."""
        ...

    def read_calibrations(self, detector: int) -> DetectorCalibrations:
        """The calibrations that serve this visit."""
        ...

    def write_exposure(self, detector: int, exposure: Exposure) -> None:
        """Keep the calibrated image [electron, background subtracted]."""
        ...


@dataclass(frozen=True)
class DetectorResult:
    """What a worker hands back of one detector: tables and models, no pixels.

    Parameters
    ----------
    detector : int
    columns : dict of str to ndarray, one length
        Measurements in electrons and pixels by their Source names (`...Flux` is still in electrons), with
        xyCov [pixel^2] and neighbours (their share of the source's flux in the calibrated aperture) besides.
    psf, wcs : Psf or None, Wcs or None
    background : Background
    aperture_correction : ApertureCorrection
    figures : dict
        Numbers for the manifest and `visit_detector_table`.
    flags : tuple of Reason
        What is missing although the detector is complete.
    mjd : float or None
        Middle of the exposure (TAI).
    """

    detector: int
    columns: Columns
    psf: Psf | None
    wcs: Wcs | None
    background: Background
    aperture_correction: ApertureCorrection
    figures: dict[str, Any]
    flags: tuple[Reason, ...]
    mjd: float | None


@dataclass(frozen=True)
class VisitResult:
    """What a pipeline makes of a visit, besides the pixels that workers wrote.

    It holds the measurements once, as the workers sent them: a wide visit has half a million sources, and the
    process that leads its workers needs no table of them all at a time.

    Parameters
    ----------
    visit : Visit
    results : tuple of DetectorResult
        Of the detectors that did not fail, in the order asked for.
    calibrations : tuple of DetectorCalibration
        One for each result.
    outcomes : tuple of Outcome
        Per detector, in the order asked for; the value is the tuple of its flags (Reasons, empty when all is
        well).
    detector_figures : dict of detector id to dict
        n_sources, n_psf_stars, psf_sigma [pixel], seeing [arcsec], pixel_scale [arcsec], ra, dec, corner_ra,
        corner_dec [deg], sky_level, sky_noise, background_error [electron], sky_adu, sky_noise_adu [ADU],
        aperture_correction, zero_point [mag] with errors, mag_lim [mag], astrom_offset_* [arcsec] and others.
    visit_figures : dict
        Shift and scatter against the reference [arcsec], matches, zero point.
    """

    visit: Visit
    results: tuple[DetectorResult, ...]
    calibrations: tuple[DetectorCalibration, ...]
    outcomes: tuple[Outcome, ...]
    detector_figures: dict[int, dict[str, Any]]
    visit_figures: dict[str, Any]

    def source_parts(self) -> Iterator[pd.DataFrame]:
        """Rows of the Source table, a detector at a time, made as they are asked for.

        Columns are those of `primitives.schemas.SOURCE`; rows are in the order of their numbers.
        """
        for result, calibration in zip(self.results, self.calibrations):
            yield source_table(self.visit, result, calibration)

    @property
    def sources(self) -> pd.DataFrame:
        """All rows of the Source table, by detector and number: for notebooks; made anew each time."""
        return SOURCE.concat(self.source_parts())

    @property
    def n_sources(self) -> int:
        """Rows of the Source table."""
        return sum(len(result.columns["x"]) for result in self.results)

    @property
    def psf(self) -> dict[int, Psf]:
        """PSF by detector id, of those that have one."""
        return {result.detector: result.psf for result in self.results if result.psf is not None}

    @property
    def wcs(self) -> dict[int, Wcs]:
        """WCS by detector id, of those that have one."""
        return {result.detector: result.wcs for result in self.results if result.wcs is not None}

    @property
    def photo_calib(self) -> dict[int, PhotoCalib]:
        """Calibration by detector id: of no zero point where none could be had."""
        return {r.detector: c.photo_calib for r, c in zip(self.results, self.calibrations)}

    @property
    def background(self) -> dict[int, Background]:
        """Background that was subtracted, by detector id [electron]."""
        return {result.detector: result.background for result in self.results}
