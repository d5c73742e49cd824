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
from skyquilt.instrument.camera_check.seams import check_flips
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
    for detector in camera.detectors:
        chosen = _chosen(frames, detector)
        pixels = _read(chosen, detector, findings)
        findings += _pixel_findings(pixels)
        visit += [sky_frame(p, reference is not None) for p in _first_of_exposure(pixels, visit)]
    findings += check_orientation(visit, camera, reference)
    return Report(camera.name, names, tuple(findings))


def _chosen(frames: list[FrameFile], detector: Detector) -> list[FrameFile]:
    """The first frames of each type that hold a detector; flats of the filter that most have."""
    holding = [frame for frame in frames if detector in frame.detectors]
    flats = [frame.physical_filter for frame in holding if frame.frame_type == "flat"]
    common = max(sorted(set(flats)), key=flats.count) if flats else ""
    chosen = []
    for kind, most in MOST_FRAMES.items():
        of_kind = [
            f for f in holding if f.frame_type == kind and (kind != "flat" or f.physical_filter == common)
        ]
        chosen += of_kind[:most]
    return chosen


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


def _pixel_findings(pixels: list[DetectorPixels]) -> list[Finding]:
    if not pixels:
        return []
    biases = [p for p in pixels if p.file.frame_type == "bias"]
    lit = [p for p in pixels if p.file.frame_type in LIT_TYPES]
    others = [p for p in pixels if p.file.frame_type not in (*LIT_TYPES, "bias")]
    findings = []
    # flats show edges best, then the sky, then frames of unknown type
    order = [*sorted(lit, key=lambda p: p.file.frame_type != "flat"), *others]
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
