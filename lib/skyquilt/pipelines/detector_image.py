"""Detector image (LDM-151 5.1.1.5-5.1.1.7, 8.1, 8.2): RunISR, artifacts, SubtractSnaps and CombineSnaps.

From the raw snaps of one detector to the image of the visit. A snap that cannot be had costs itself: the visit goes
on with the other, flagged. In memory are two snaps at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms.artifact_detection.cosmic_rays import CosmicRayConfig, find_cosmic_rays
from skyquilt.algorithms.artifact_detection.satellite_trails import (
    SatelliteTrailsConfig,
    find_trails,
    trail_mask,
)
from skyquilt.algorithms.artifact_detection.snaps import SnapsConfig, combine_snaps, subtract_snaps
from skyquilt.algorithms.instrument_signature_removal import (
    InstrumentSignatureRemovalConfig,
    IsrResult,
    interpolate_pixels,
    load_replacements,
    run_isr,
)
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import Outcome, ProcessingFailure, Reason, attempt

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal import DetectorCalibrations
    from skyquilt.instrument.raw import RawFrame
    from skyquilt.pipelines.ghost_prediction import GhostPrediction
    from skyquilt.pipelines.image_characterization import VisitData
    from skyquilt.primitives.wcs import Wcs


@dataclass(frozen=True)
class DetectorImageConfig:
    """Artifacts and snaps of a detector."""

    cosmic_rays: CosmicRayConfig = field(default_factory=CosmicRayConfig)
    """Cosmic rays by morphology."""
    trails: SatelliteTrailsConfig = field(default_factory=SatelliteTrailsConfig)
    """Satellite trails."""
    subtract_snaps: bool = True
    """Compare the two snaps of a visit; otherwise each is looked at alone."""
    snaps: SnapsConfig = field(default_factory=SnapsConfig)
    """Difference and sum of the snaps of a visit."""
    ghost_threshold: float = 0.3
    """Pixels where predicted ghosts bring more than this are GHOST [noise of a median pixel]."""


@dataclass(frozen=True)
class SignatureRemoval:
    """RunISR with the survey's options: small and picklable; a user's own steps are loaded where it runs.

    Parameters
    ----------
    config : InstrumentSignatureRemovalConfig
    directory : Path
        Survey directory, where the files of `config.replace` lie.
    """

    config: InstrumentSignatureRemovalConfig = field(default_factory=InstrumentSignatureRemovalConfig)
    directory: Path = Path()

    def __call__(self, raw: RawFrame, calibrations: DetectorCalibrations) -> IsrResult:
        """`run_isr` on one detector of one snap."""
        own = load_replacements(self.config.replace, self.directory)
        return run_isr(raw, calibrations, self.config, replacements=own)


@dataclass(frozen=True)
class SnapImage:
    """One snap after RunISR, with its artifacts marked.

    Parameters
    ----------
    snap : int
    isr : IsrResult
        Its exposure has COSMIC_RAY and STREAK set.
    wcs : Wcs or None
        Of the header, to start from.
    mjd : float or None
        Middle of the exposure (TAI).
    purpose : str
        Of the detector.
    uncalibrated : bool
        Without bias or flat.
    absent : dict
        Amplifier -> what is wrong, of those that the file has not.
    n_cosmic_rays, n_trails : int
        Events.
    """

    snap: int
    isr: IsrResult
    wcs: Wcs | None = None
    mjd: float | None = None
    purpose: str = "science"
    uncalibrated: bool = False
    absent: Mapping[str, str] = field(default_factory=dict)
    n_cosmic_rays: int = 0
    n_trails: int = 0

    @property
    def exposure(self) -> Exposure:
        """Electrons, mask and variance."""
        return self.isr.exposure


@dataclass(frozen=True)
class DetectorImage:
    """The image of a detector in a visit.

    Parameters
    ----------
    exposure : Exposure
        Sum of the snaps [electron].
    snaps : tuple of SnapImage
        What is left of each snap but its pixels.
    flags : tuple of Reason
        AMPLIFIER_MISSING where one has no data, NO_CALIBRATION without bias or flat, SNAP_MISSING where fewer
        snaps could be used than the visit has.
    detail : str
        Why a snap or an amplifier is missing; also in the figures, as `missing`.
    figures : dict
        Numbers for the manifest.
    """

    exposure: Exposure
    snaps: tuple[SnapImage, ...]
    flags: tuple[Reason, ...]
    detail: str
    figures: dict[str, Any]


def snap_image(detector: int, snap: int, data: VisitData, removal: SignatureRemoval) -> SnapImage:
    """RunISR (5.1.1.5) on one snap of a detector.

    Raises
    ------
    ProcessingFailure
        Of reading and ISR.
    """
    raw = data.read_raw(detector, snap)
    calibrations = data.read_calibrations(detector)
    isr = removal(raw, calibrations)
    return SnapImage(
        snap,
        isr,
        wcs=raw.header_wcs,
        mjd=raw.info.datetime_mid,
        purpose=raw.detector.purpose,
        uncalibrated=calibrations.bias is None or calibrations.flat is None,
        absent=raw.absent,
    )


def mark_artifacts(snaps: list[SnapImage], config: DetectorImageConfig) -> list[SnapImage]:
    """Set COSMIC_RAY and STREAK in the snaps' masks (8.2.1, and SubtractSnaps, 5.1.1.6, where there are two)."""
    if len(snaps) == 2 and config.subtract_snaps:
        try:
            found = subtract_snaps(
                snaps[0].exposure, snaps[1].exposure, config.snaps, config.cosmic_rays, config.trails
            )
        except ProcessingFailure:
            # nothing that both have: each is looked at alone
            return [mark_alone(snap, config) for snap in snaps]
        found.mark([snap.exposure for snap in snaps])
        counts = zip(snaps, found.n_events, found.n_trails)
        return [replace(snap, n_cosmic_rays=events, n_trails=trails) for snap, events, trails in counts]
    return [mark_alone(snap, config) for snap in snaps]


def mark_alone(snap: SnapImage, config: DetectorImageConfig) -> SnapImage:
    """Cosmic rays and trails of one snap by their shape (8.2.1)."""
    exposure = snap.exposure
    saturated = exposure.mask.any(["SATURATED"])
    defects = exposure.mask.any(["BAD", "NO_DATA"]) & ~saturated
    unusable = defects | saturated
    try:
        found = find_cosmic_rays(
            exposure.image, unusable, exposure.variance, config.cosmic_rays, defects=defects
        )
    except ProcessingFailure:
        # no sky to compare with: stars and saturation only
        return snap
    exposure.mask.set(["COSMIC_RAY"], found.pixels)
    trails = find_trails(exposure.image, exposure.variance, unusable | found.pixels, config.trails)
    if trails:
        exposure.mask.set(["STREAK"], trail_mask(trails, exposure.shape, config.trails))
    return replace(snap, n_cosmic_rays=len(found.x), n_trails=len(trails))


def marked_snaps(
    detector: int, data: VisitData, removal: SignatureRemoval, config: DetectorImageConfig
) -> tuple[list[SnapImage], list[Outcome]]:
    """The usable snaps of a detector with their artifacts marked, and what became of the others.

    Raises
    ------
    ProcessingFailure
        Of the first snap, when there is none that can be used.
    """
    make = functools.partial(_snap_of, detector=detector, data=data, removal=removal)
    outcomes = [attempt(make, snap) for snap in data.snaps(detector)]
    usable = [outcome.value for outcome in outcomes if outcome.ok]
    if not usable:
        raise ProcessingFailure(outcomes[0].reason, outcomes[0].detail)
    return mark_artifacts(usable, config), [outcome for outcome in outcomes if not outcome.ok]


def _snap_of(snap: int, detector: int, data: VisitData, removal: SignatureRemoval) -> SnapImage:
    return snap_image(detector, snap, data, removal)


def detector_image(
    detector: int,
    data: VisitData,
    removal: SignatureRemoval,
    config: DetectorImageConfig,
    ghosts: GhostPrediction | None = None,
) -> DetectorImage:
    """The image of a detector from its snaps; cosmic rays that are left are interpolated and marked so.

    Predicted ghosts are marked, not subtracted.

    Raises
    ------
    ProcessingFailure
        Of the first snap, when there is none that can be used.
    """
    usable, lost = marked_snaps(detector, data, removal, config)
    flags, detail = _flags(lost, usable)
    exposure = combine_snaps([one.exposure for one in usable], config.snaps)
    where = exposure.mask.any(["COSMIC_RAY"])
    if where.any():
        interpolate_pixels(
            exposure.image, exposure.mask, exposure.variance, where, removal.config.interpolation
        )
    figures = _figures(usable, exposure) | ({"missing": detail} if detail else {})
    kept = tuple(replace(one, isr=replace(one.isr, exposure=exposure)) for one in usable)
    return DetectorImage(exposure, kept, flags, detail, figures)


def _flags(lost: list[Outcome], usable: list[SnapImage]) -> tuple[tuple[Reason, ...], str]:
    details = [
        f"snap {one.snap}: amplifier {each.name} {_what_is_wrong(one, each.name, each.status)}"
        for one in usable
        for each in one.isr.amplifiers
        if each.status != "good"
    ]
    flags = [Reason.AMPLIFIER_MISSING] if details else []
    if usable[0].uncalibrated:
        flags.append(Reason.NO_CALIBRATION)
    if lost:
        flags.append(Reason.SNAP_MISSING)
    details += [f"snap {outcome.item}: {outcome.reason.value}, {outcome.detail}" for outcome in lost]
    return tuple(flags), "; ".join(details)


def _what_is_wrong(snap: SnapImage, name: str, status: str) -> str:
    """Of an amplifier without data, for the manifest."""
    absent = snap.absent.get(name)
    if absent is not None:
        return f"is absent, {absent}"
    return "is dead: all pixels are equal" if status == "dead" else "has no finite pixel"


def _figures(usable: list[SnapImage], exposure: Exposure) -> dict[str, Any]:
    first = usable[0].isr
    return {
        "n_snaps": len(usable),
        "snaps": [one.snap for one in usable],
        "isr_steps": first.steps,
        "gain": {each.name: each.gain for each in first.amplifiers},
        "gain_source": {each.name: each.gain_source for each in first.amplifiers},
        "amplifier_offset": {each.name: each.offset for each in first.amplifiers if np.isfinite(each.offset)},
        "fringe_scale": first.fringe_scale if first.fringe_applied else 0.0,
        "cosmic_rays": [one.n_cosmic_rays for one in usable],
        "trails": [one.n_trails for one in usable],
        "fraction_cosmic_ray": float(exposure.mask.any(["COSMIC_RAY"]).mean()),
        "fraction_ghost": float(exposure.mask.any(["GHOST"]).mean()),
        "fraction_streak": float(exposure.mask.any(["STREAK"]).mean()),
    }
