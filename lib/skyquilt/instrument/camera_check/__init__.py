"""Camera check (LDM-151 4.1.2.3, design 5): raw frames against a camera definition, in plain words.

`check` reads a few frames (one is enough, biases, flats and science frames in any mixture are better) and says
what of the definition does not fit, with a measured number, its error and what to write instead. Without a
definition it says what the files look like and writes one to start from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skyquilt.instrument.camera import Camera, Detector
from skyquilt.instrument.camera_check.first_look import first_look
from skyquilt.instrument.camera_check.frames import LIT_TYPES, UNKNOWN, DetectorPixels, FrameFile, read_pixels
from skyquilt.instrument.camera_check.headers import survey_headers
from skyquilt.instrument.camera_check.layout import check_layout
from skyquilt.instrument.camera_check.levels import check_levels
from skyquilt.instrument.camera_check.noise import check_noise
from skyquilt.instrument.camera_check.orientation import check_orientation
from skyquilt.instrument.camera_check.placement import (
    ReferenceStars,
    SkyFrame,
    read_reference_stars,
    sky_frame,
)
from skyquilt.instrument.camera_check.report import CANNOT_TELL, DIFFERS, FITS, Finding, Report
from skyquilt.instrument.camera_check.rotation_sense import wrapped
from skyquilt.instrument.camera_check.seams import check_flips
from skyquilt.instrument.camera_check.storage_order import mend_storage
from skyquilt.primitives.failure import ProcessingFailure

__all__ = [
    "CANNOT_TELL",
    "DIFFERS",
    "FITS",
    "Finding",
    "ReferenceStars",
    "Report",
    "check",
    "read_reference_stars",
]

MOST_FRAMES = {"bias": 2, "flat": 3, "science": 2, "dark": 1, "fringe": 1, UNKNOWN: 1}
"""Frames of each type whose pixels are read, of each detector [count]."""

MOST_TURNED = 3
"""Detectors that are compared with those of another exposure [count]."""


def check(
    paths: Sequence[str | Path],
    camera: Camera | None = None,
    reference: ReferenceStars | str | Path | None = None,
) -> Report:
    """Compare raw frames with a camera definition.

    Parameters
    ----------
    paths : sequence of path
        Raw files.
    camera : Camera, optional
        Without: the report describes the files, and holds a definition to start from.
    reference : ReferenceStars or path, optional
        Stars of the field of the science frames: a table with columns ra, dec, mag.

    Returns
    -------
    Report
        `Report.text()` prints it; `Report.good` is False when something differs.

    Raises
    ------
    ProcessingFailure
        When the reference catalogue cannot be read. Trouble with raw files is a finding.
    """
    files = [Path(path) for path in paths]
    names = tuple(path.name for path in files)
    if camera is None:
        description, definition, findings = first_look(files)
        return Report("", names, tuple(findings), tuple(description), definition)
    if isinstance(reference, (str, Path)):
        reference = read_reference_stars(reference)
    frames, findings = survey_headers(files, camera)
    findings += check_layout(frames, camera)
    visit: list[SkyFrame] = []
    turned: list[SkyFrame] = []
    for detector in camera.detectors:
        chosen = _chosen(frames, detector)
        pixels = _read(chosen, detector, findings)
        lit = _lit_first(pixels)
        if lit:
            pixels, mended = mend_storage(lit[0], pixels)
            findings += mended
        findings += _pixel_findings(pixels)
        visit += [sky_frame(p, reference is not None) for p in _first_of_exposure(pixels, visit)]
        if len(turned) < MOST_TURNED:
            turned += [sky_frame(p, reference is not None) for p in _of_another_exposure(pixels, visit)]
    return Report(camera.name, names, _joined(findings, check_orientation(visit, camera, reference, turned)))


def _joined(findings: list[Finding], of_stars: list[Finding]) -> tuple[Finding, ...]:
    """All findings; where seams and stars tell of the same flips, the stars': they see which side is wrong."""
    told = {finding.subject for finding in of_stars}
    return (*(finding for finding in findings if finding.subject not in told), *of_stars)


def _chosen(frames: list[FrameFile], detector: Detector) -> list[FrameFile]:
    """Some frames of each type that hold a detector."""
    holding = [frame for frame in frames if detector in frame.detectors]
    chosen = []
    for kind, most in MOST_FRAMES.items():
        of_kind = [frame for frame in holding if frame.frame_type == kind]
        if kind == "flat":
            of_kind = _flats(of_kind)
        elif kind == "science":
            of_kind = _most_turned(of_kind)
        chosen += of_kind[:most]
    return chosen


def _flats(flats: list[FrameFile]) -> list[FrameFile]:
    """Of the filter that most have, first those of one exposure time: the middle one of which there are several."""
    names = [frame.physical_filter for frame in flats]
    if not flats:
        return []
    of_filter = [f for f in flats if f.physical_filter == max(sorted(set(names)), key=names.count)]
    times = [frame.info.exposure_time if frame.info is not None else 0.0 for frame in of_filter]
    alike = sorted({time for time in times if times.count(time) > 1})
    if not alike:
        return of_filter
    middle = alike[len(alike) // 2]
    first = [f for f, time in zip(of_filter, times, strict=True) if time == middle]
    return first if len(alike) > 1 else first + [f for f in of_filter if f not in first]


def _most_turned(science: list[FrameFile]) -> list[FrameFile]:
    """The first, then the last of those whose position angle by the header is farthest from its own."""
    known = [frame for frame in science if frame.info is not None and frame.info.rotation is not None]
    if len(known) < 2 or known[0] is not science[0]:
        return science
    angles = [frame.info.rotation for frame in known]  # type: ignore[union-attr]
    apart = [abs(wrapped(angle - angles[0])) for angle in angles[1:]]  # type: ignore[operator]
    return [known[0], known[-1 - apart[::-1].index(max(apart))]]


def _read(chosen: list[FrameFile], detector: Detector, findings: list[Finding]) -> list[DetectorPixels]:
    pixels = []
    for frame in chosen:
        try:
            read = read_pixels(frame, detector)
        except ProcessingFailure as failure:
            findings.append(Finding(DIFFERS, f"file {frame.name}", failure.detail or failure.reason.text))
            continue
        if read.places:
            pixels.append(read)
    return pixels


def _lit_first(pixels: list[DetectorPixels]) -> list[DetectorPixels]:
    """Flats show edges best, then the sky, then frames of unknown type; biases do not."""
    lit = [p for p in pixels if p.file.frame_type in LIT_TYPES]
    others = [p for p in pixels if p.file.frame_type not in (*LIT_TYPES, "bias")]
    return [*sorted(lit, key=lambda p: p.file.frame_type != "flat"), *others]


def _pixel_findings(pixels: list[DetectorPixels]) -> list[Finding]:
    if not pixels:
        return []
    biases = [p for p in pixels if p.file.frame_type == "bias"]
    lit = [p for p in pixels if p.file.frame_type in LIT_TYPES]
    others = [p for p in pixels if p.file.frame_type not in (*LIT_TYPES, "bias")]
    findings = []
    order = _lit_first(pixels)
    if order:
        findings += check_levels(order[0])
    else:
        name = pixels[0].detector.name
        findings.append(
            Finding(CANNOT_TELL, f"{name} overscan", "needs a frame with light: a flat or a science frame")
        )
    findings += _dark_findings(biases)
    findings += check_noise(biases, lit, others)
    return findings + check_flips([p for p in lit if p.file.frame_type == "science"] or lit)


def _dark_findings(biases: list[DetectorPixels]) -> list[Finding]:
    """Bias frames that hold light: headers or rules that call something else a bias."""
    from skyquilt.instrument.camera_check.levels import light_above_bias

    for pixels in biases:
        for amplifier in pixels.amplifiers():
            light, error = light_above_bias(pixels, amplifier)
            if light > max(100.0, 50 * error):
                text = (
                    f"{pixels.file.name}: called a bias, but {amplifier.name} has {light:.0f} +- {error:.1f} ADU above "
                    "its overscan"
                )
                return [Finding(DIFFERS, "header frame_type", text, "header.frame_type: its map or rules")]
    return []


def _first_of_exposure(pixels: list[DetectorPixels], visit: list[SkyFrame]) -> list[DetectorPixels]:
    """A detector's science frame that belongs to the exposure of those before it."""
    science = [p for p in pixels if p.file.frame_type == "science" and p.file.info is not None]
    if visit:
        first = visit[0].file.info
        assert first is not None
        science = [p for p in science if p.file.info is not None and p.file.info.visit == first.visit]
    return science[:1]


def _of_another_exposure(pixels: list[DetectorPixels], visit: list[SkyFrame]) -> list[DetectorPixels]:
    """A detector's science frame of another exposure, if it is in the first."""
    if not any(frame.detector == pixels[0].detector for frame in visit if pixels):
        return []
    first = visit[0].file.info
    assert first is not None
    others = [
        p
        for p in pixels
        if p.file.frame_type == "science" and p.file.info is not None and p.file.info.visit != first.visit
    ]
    return others[:1]
