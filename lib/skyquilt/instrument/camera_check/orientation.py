"""Camera check (LDM-151 4.1.2.3): scale, parity, position angle and places of detectors, from their placements."""

from __future__ import annotations

import numpy as np

from skyquilt.instrument.camera import Camera
from skyquilt.instrument.camera_check.amplifier_stars import judge_flips
from skyquilt.instrument.camera_check.placement import (
    Placement,
    ReferenceStars,
    SkyFrame,
    from_header,
    from_stars,
    match_reference,
)
from skyquilt.instrument.camera_check.report import CANNOT_TELL, DIFFERS, FITS, Finding, compared, number
from skyquilt.instrument.camera_check.rotation_sense import check_rotation_sense, opposite_rule

SCALE_TOLERANCE = 0.003
"""Relative difference of scale that is no fault: distortion has some of it."""

ANGLE_TOLERANCE = 0.3
"""[deg]."""

PLACE_TOLERANCE = 10.0
"""Difference of a detector's place from the others' that is no fault [pixel]."""

LARGEST_OFFSET = 60.0
"""Offset of the pointing that is no fault [arcsec]."""


def check_orientation(
    frames: list[SkyFrame],
    camera: Camera,
    reference: ReferenceStars | None,
    turned: list[SkyFrame] | None = None,
) -> list[Finding]:
    """Flips, scale, parity, angle and places of the detectors of science frames of one exposure.

    Parameters
    ----------
    frames : list of SkyFrame
        Detectors of one exposure.
    camera : Camera
    reference : ReferenceStars or None
        Without: the header's WCS serves.
    turned : list of SkyFrame, optional
        Some of the same detectors in another exposure, best with the rotator elsewhere.
    """
    placements: list[Placement] = []
    findings: list[Finding] = []
    for frame in frames:
        found, about = _placed(frame, camera, reference)
        findings += about
        if found is not None:
            placements.append(found)
    if not placements:
        return findings
    return (
        findings
        + _common_findings(placements, frames, camera)
        + _sense_findings(placements, frames, turned or [], camera, reference)
        + _detector_findings(placements, frames, camera)
    )


def _placed(
    frame: SkyFrame, camera: Camera, reference: ReferenceStars | None
) -> tuple[Placement | None, list[Finding]]:
    """Placement of one detector, with its amplifiers' flips mended; and what is to be said of these."""
    subject = f"{frame.detector.name} orientation"
    if reference is None or frame.stars is None:
        found = from_header(frame, camera)
        text = f"{frame.file.name} has no WCS in its header that can be used, and no reference catalogue was given"
        advice = "give a catalogue of the field with columns ra, dec, mag: --reference FILE"
        return found, [] if found is not None else [Finding(CANNOT_TELL, subject, text, advice)]
    matched = match_reference(frame, camera, reference)
    if matched is None:
        text = (
            f"{frame.file.name}: the pattern of its {frame.stars.x.size} brightest stars is not found in the "
            "reference catalogue"
        )
        advice = "see that the catalogue covers the field and its depth; else flips, or scale by more than 4"
        return None, [Finding(CANNOT_TELL, subject, text, advice)]
    verdict = judge_flips(frame, camera, matched)
    finding = verdict.finding(frame)
    if verdict.wrong:
        frame = verdict.corrected(frame)
        matched = match_reference(frame, camera, reference) or matched
    return from_stars(frame, camera, matched), [] if finding is None else [finding]


def _sense_findings(
    placements: list[Placement],
    frames: list[SkyFrame],
    turned: list[SkyFrame],
    camera: Camera,
    reference: ReferenceStars | None,
) -> list[Finding]:
    """Whether the header's position angle turns with the stars from one exposure to another."""
    first = frames[0].file
    for frame in turned:
        before = next((p for p in placements if p.detector == frame.detector), None)
        after = _placed(frame, camera, reference)[0] if before is not None else None
        if before is not None and after is not None and after.parity == before.parity:
            return check_rotation_sense(
                (first, before.angle),
                (frame.file, after.angle),
                max(before.angle_error, after.angle_error),
                camera,
            )
    return []


def _common_findings(placements: list[Placement], frames: list[SkyFrame], camera: Camera) -> list[Finding]:
    """What all detectors have in common: parity, scale, position angle, pointing."""
    count = sum(p.parity == camera.parity for p in placements)
    where = f"{placements[0].source}" + (f" and {len(placements) - 1} more" if len(placements) > 1 else "")
    findings = []
    if count == len(placements):
        findings.append(Finding(FITS, "parity", f"{where}: the focal plane is mirrored as defined"))
    elif count == 0:
        wanted = "false" if camera.parity < 0 else "true"
        findings.append(
            Finding(
                DIFFERS,
                "parity",
                f"{where}: the image is the mirror image of what the definition says",
                f"focal_plane.mirrored: {wanted}; or all detectors are mirrored as a whole: names and flips of amplifiers",
            )
        )
    alike = [p for p in placements if (p.parity == camera.parity) == (2 * count >= len(placements))]
    weights = np.array([max(p.scale_error, 1e-6) ** -2 for p in alike])
    scale = float(np.average([p.scale for p in alike], weights=weights))
    error = float(weights.sum() ** -0.5)
    measured = camera.plate_scale * scale
    pixel = camera.detectors[0].pixel_size
    findings.append(
        compared(
            "plate scale",
            f"{where}: {measured * pixel:.5f} arcsec per pixel, so",
            measured,
            camera.plate_scale * error,
            camera.plate_scale,
            "arcsec/mm",
            SCALE_TOLERANCE * camera.plate_scale,
            f"focal_plane.plate_scale: {measured:.5g}",
        )
    )
    findings.append(_angle_finding(alike, frames, camera, where))
    return [*findings, *_pointing_finding(alike, frames, camera, where)]


def _angle_finding(
    placements: list[Placement], frames: list[SkyFrame], camera: Camera, where: str
) -> Finding:
    info = frames[0].file.info
    angle = _middle_angle(placements, None if info is None else info.rotation)
    errors = np.array([max(p.angle_error, 1e-4) for p in placements])
    error = float((errors**-2.0).sum() ** -0.5)
    text = f"{where}: position angle of the focal plane's +y {number(angle, error)} deg"
    if info is None or info.rotation is None:
        remedy = f"header.rotation: {{value: {angle:.2f}}}, or the keyword that says so"
        if abs((angle + 180) % 360 - 180) <= ANGLE_TOLERANCE:
            return Finding(
                FITS, "position angle", f"{text}, as it counts without a rule", "", angle, error, 0.0
            )
        return Finding(
            DIFFERS, "position angle", f"{text}, no rule gives one: it counts as 0", remedy, angle, error, 0.0
        )
    apart = (angle - info.rotation + 180.0) % 360.0 - 180.0
    text += f", the header {info.rotation:.2f}"
    if abs(apart) <= max(3 * error, ANGLE_TOLERANCE):
        return Finding(FITS, "position angle", text, "", angle, error, info.rotation)
    remedy = f"header.rotation: an expression that gives {apart:+.2f} deg more"
    opposite = (-angle - info.rotation + 180.0) % 360.0 - 180.0
    if abs(opposite) <= max(3 * error, ANGLE_TOLERANCE):
        remedy = f"header.rotation has the other sense: {opposite_rule(camera)}"
    return Finding(DIFFERS, "position angle", text, remedy, angle, error, info.rotation)


def _middle_angle(placements: list[Placement], expected: float | None) -> float:
    """Median of the angles that most detectors agree on; of equally many, those nearest to the header's [deg]."""
    angles = np.array([p.angle for p in placements])
    apart = (angles[:, None] - angles + 180.0) % 360.0 - 180.0
    agreeing = np.abs(apart) < 3 * ANGLE_TOLERANCE
    off = np.abs((angles - (expected or 0.0) + 180.0) % 360.0 - 180.0)
    best = int(np.lexsort((off, -agreeing.sum(axis=1)))[0])
    return float((angles[best] - np.median(apart[best, agreeing[best]])) % 360.0)


def _offsets(placements: list[Placement], angle: float) -> np.ndarray:
    """Places of the focal plane's origin from the pointing by each detector, with the common angle [arcsec]."""
    factor = float(np.median([p.scale for p in placements])) * np.exp(-1j * np.radians(angle))
    return np.array([p.sky - factor * p.plane for p in placements])


def _middle(offsets: np.ndarray, reach: float) -> complex:
    """Median of the offsets that most detectors agree on to `reach`; of equally many, those of the smallest."""
    near = np.abs(offsets[:, None] - offsets) < reach
    best = int(np.lexsort((np.abs(offsets), -near.sum(axis=1)))[0])
    chosen = offsets[near[best]]
    return complex(np.median(chosen.real), np.median(chosen.imag))


def _reach(camera: Camera) -> float:
    """Twice the tolerance of a detector's place [arcsec]."""
    return 2.0 * PLACE_TOLERANCE * camera.detectors[0].pixel_size * camera.plate_scale


def _pointing_finding(
    placements: list[Placement], frames: list[SkyFrame], camera: Camera, where: str
) -> list[Finding]:
    info = frames[0].file.info
    if info is None or info.boresight_ra is None:
        return []
    offset = _middle(_offsets(placements, _middle_angle(placements, info.rotation)), _reach(camera))
    error = float(np.sqrt(sum(p.place_error**2 for p in placements))) / len(placements)
    size = abs(offset)
    text = (
        f"{where}: the middle of the focal plane is {number(size, error)} arcsec from the header's pointing "
        f"({offset.real:+.1f} east, {offset.imag:+.1f} north)"
    )
    if size <= LARGEST_OFFSET:
        return [Finding(FITS, "pointing", text, "", size, error, 0.0)]
    remedy = "boresight_ra and boresight_dec: the unit, an equinox of date, or the place of the optical axis: centre_mm"
    return [Finding(DIFFERS, "pointing", text, remedy, size, error, 0.0)]


def _detector_findings(placements: list[Placement], frames: list[SkyFrame], camera: Camera) -> list[Finding]:
    """Detectors that lie or turn otherwise than the others."""
    if len(placements) < 2:
        return []
    findings = []
    info = frames[0].file.info
    angle = _middle_angle(placements, None if info is None else info.rotation)
    offsets = _offsets(placements, angle)
    middle = _middle(offsets, _reach(camera))
    for p, offset in zip(placements, offsets, strict=True):
        name = p.detector.name
        if sum(q.parity == p.parity for q in placements) * 2 < len(placements):
            findings.append(
                Finding(
                    DIFFERS,
                    f"{name} parity",
                    f"{p.source}: mirrored unlike the other detectors",
                    "flips of this detector's amplifiers: a detector_type of its own",
                )
            )
            continue
        turn = (p.angle - angle + 180.0) % 360.0 - 180.0
        # in the focal plane, counter-clockwise from +x to +y; the position angle counts from north to east
        own = p.detector.rotation_deg + turn * p.parity
        if abs(turn) > max(3 * p.angle_error, ANGLE_TOLERANCE):
            text = f"{p.source}: turned by {number(turn * p.parity, p.angle_error)} deg against the other detectors"
            remedy = f"detectors, {name}: rotation_deg: {own % 360:.2f}"
            findings.append(
                Finding(
                    DIFFERS,
                    f"{name} rotation",
                    text,
                    remedy,
                    own % 360,
                    p.angle_error,
                    p.detector.rotation_deg,
                )
            )
            continue
        findings.append(_place_finding(p, angle, offset - middle, camera))
    return findings


def _place_finding(p: Placement, angle: float, shift: complex, camera: Camera) -> Finding:
    pixel_arcsec = p.detector.pixel_size * camera.plate_scale
    # back from the sky to the focal plane
    turned = shift * np.exp(1j * np.radians(angle)) / camera.plate_scale
    dx, dy = -p.parity * turned.real, turned.imag
    size, error = abs(shift) / pixel_arcsec, p.place_error / pixel_arcsec
    text = f"{p.source}: {number(size, error)} pixels from its defined place among the detectors"
    if size <= max(3 * error, PLACE_TOLERANCE):
        return Finding(FITS, f"{p.detector.name} place", text, "", size, error, 0.0)
    x, y = p.detector.centre_mm
    remedy = f"detectors, {p.detector.name}: centre_mm: [{x + dx:.3f}, {y + dy:.3f}]"
    return Finding(DIFFERS, f"{p.detector.name} place", text, remedy, size, error, 0.0)
