"""Camera check (LDM-151 4.1.2.3): HDUs, sizes and sections of raw files against the definition."""

from __future__ import annotations

import numpy as np

from skyquilt.instrument.camera import Amplifier, Camera, Detector
from skyquilt.instrument.camera_check.frames import FrameFile, in_hdu
from skyquilt.instrument.camera_check.report import DIFFERS, FITS, Finding
from skyquilt.instrument.fits_file import FitsFile, Hdu
from skyquilt.instrument.raw import amplifier_hdu
from skyquilt.primitives.failure import ProcessingFailure
from skyquilt.primitives.geometry import Box

RAW_BOXES = ("raw_data", "raw_prescan", "raw_overscan", "raw_parallel_overscan")


def check_layout(frames: list[FrameFile], camera: Camera) -> list[Finding]:
    """HDUs and their sizes in all files, and the definition's sections among themselves."""
    findings: dict[tuple[str, str], Finding] = {}
    for frame in frames:
        with FitsFile(frame.path) as file:
            for detector in frame.detectors:
                for finding in _hdu_findings(file, detector):
                    findings.setdefault((finding.subject, finding.level), finding)
    if not findings and frames:
        one = Finding(FITS, "layout", f"HDUs and their sizes are as defined in {len(frames)} files")
        findings[one.subject, one.level] = one
    return [*findings.values(), *(f for detector in camera.detectors for f in section_findings(detector))]


def _hdu_findings(file: FitsFile, detector: Detector) -> list[Finding]:
    findings = []
    for amplifier in detector.amplifiers:
        subject = f"{detector.name} {amplifier.name} layout"
        try:
            hdu = amplifier_hdu(file, detector, amplifier)
        except ProcessingFailure as failure:
            remedy = "extension of the amplifier or of the detector: a name or number of these"
            findings.append(Finding(DIFFERS, subject, failure.detail, remedy))
            continue
        nx, ny = amplifier.hdu_size
        if hdu.shape != (ny, nx):
            findings.append(Finding(DIFFERS, subject, *_size_text(file, hdu, amplifier)))
    return findings


def _size_text(file: FitsFile, hdu: Hdu, amplifier: Amplifier) -> tuple[str, str]:
    nx, ny = amplifier.hdu_size
    where = hdu.name or f"HDU {hdu.index}"
    if len(hdu.shape) != 2:
        return f"{file.path.name}: {where} holds no image of two axes", "extension: another HDU"
    found_y, found_x = hdu.shape
    text = f"{file.path.name}: {where} has {found_x} x {found_y} pixels, the definition {nx} x {ny}"
    if found_x == ny and found_y == nx:
        return text, "columns and rows are exchanged: size, sections and grid"
    parts = []
    for axis, found, wanted in (("columns", found_x, nx), ("rows", found_y, ny)):
        if found != wanted:
            parts.append(f"{abs(found - wanted)} {'more' if found > wanted else 'fewer'} {axis}")
        for binning in (2, 4):
            if wanted == binning * found:
                parts.append(f"binned by {binning}? then a definition of its own")
    advice = f"size, prescan, overscan or raw sections: {', '.join(dict.fromkeys(parts))}"
    return text, f"{advice} (raw_size: [{found_x}, {found_y}] where pixels are in no section)"


def section_findings(detector: Detector) -> list[Finding]:
    """Sections that overlap, and stored pixels that are in none."""
    findings = []
    by_hdu: dict[object, list[Amplifier]] = {}
    for amplifier in detector.amplifiers:
        by_hdu.setdefault(amplifier.extension, []).append(amplifier)
    for amplifiers in by_hdu.values():
        boxes = [
            (amplifier, key, in_hdu(amplifier, box))
            for amplifier in amplifiers
            for key in RAW_BOXES
            if (box := getattr(amplifier, key)) is not None
        ]
        for i, (one, key, box) in enumerate(boxes):
            for other, other_key, other_box in boxes[:i]:
                if box.overlap(other_box) and "raw_data" in (key, other_key):
                    findings.append(
                        Finding(
                            DIFFERS,
                            f"{detector.name} {one.name} sections",
                            f"{key} {section(box)} of {one.name} overlaps {other_key} {section(other_box)} of "
                            f"{other.name}",
                            f"{key} or {other_key}: no stored pixel belongs to two",
                        )
                    )
        findings += _gaps(detector, amplifiers, [box for *_, box in boxes])
    return findings


def _gaps(detector: Detector, amplifiers: list[Amplifier], boxes: list[Box]) -> list[Finding]:
    nx, ny = amplifiers[0].hdu_size
    covered = np.zeros((ny, nx), bool)
    for box in boxes:
        covered[box.slices()] = True
    columns, rows = np.flatnonzero(~covered.any(axis=0)), np.flatnonzero(~covered.any(axis=1))
    parts = [
        f"{word} {', '.join(f'{first + 1}:{last}' for first, last in runs(places)[:4])}"
        for word, places in (("columns", columns), ("rows", rows))
        if places.size
    ]
    if not parts:
        return []
    where = amplifiers[0].extension if amplifiers[0].extension is not None else "its HDU"
    text = f"{' and '.join(parts)} of {where} are in no section: right if nothing of use is there"
    return [Finding(FITS, f"{detector.name} {' '.join(a.name for a in amplifiers[:4])} gaps", text)]


def runs(places: np.ndarray) -> list[tuple[int, int]]:
    """Runs of consecutive numbers as (first, last + 1)."""
    if not places.size:
        return []
    breaks = np.flatnonzero(np.diff(places) > 1)
    firsts, lasts = np.r_[places[0], places[breaks + 1]], np.r_[places[breaks], places[-1]]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]


def section(box: Box) -> str:
    """A box as a FITS section."""
    return f"[{box.x0 + 1}:{box.x1},{box.y0 + 1}:{box.y1}]"
