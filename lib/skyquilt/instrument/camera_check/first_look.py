"""Camera check (LDM-151 4.1.2.3): what unknown raw files look like, and a definition to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from skyquilt.instrument.camera_check.headers import usual_keywords
from skyquilt.instrument.camera_check.levels import dark_runs
from skyquilt.instrument.camera_check.report import DIFFERS, Finding
from skyquilt.instrument.camera_check.starting_definition import (
    GAIN_KEYWORDS,
    NEEDED,
    NOISE_KEYWORDS,
    SATURATION_KEYWORDS,
    Look,
    starting_definition,
)
from skyquilt.instrument.fits_file import FitsFile, Hdu
from skyquilt.primitives.failure import ProcessingFailure

SECTION_KEYWORDS = ("DATASEC", "BIASSEC", "TRIMSEC", "DETSEC", "CCDSEC", "CCDSUM", "DETSIZE")


def first_look(files: list[Path]) -> tuple[list[str], str, list[Finding]]:
    """Description, starting definition and problems of raw files."""
    looks: list[Look] = []
    findings: list[Finding] = []
    dark: dict[int, tuple[list[tuple[int, int]], list[tuple[int, int]], str]] = {}
    for path in files:
        try:
            with FitsFile(path) as file:
                looks.append(_look(file))
                for number, runs in _overscan(file).items():
                    if number not in dark or len(runs[0]) + len(runs[1]) > len(dark[number][0]) + len(
                        dark[number][1]
                    ):
                        dark[number] = (*runs, path.name)
        except ProcessingFailure as failure:
            findings.append(Finding(DIFFERS, f"file {path.name}", failure.detail or failure.reason.text))
    if not looks:
        return [], "", findings
    description = _hdu_lines(looks) + _overscan_lines(dark) + _keyword_lines(looks)
    return description, starting_definition(looks, dark), findings


def _look(file: FitsFile) -> Look:
    keywords: dict[str, Any] = {}
    hdus = []
    for number, hdu in enumerate(file.hdus()):
        if number < 2:
            keywords = hdu.cards.as_dict() | keywords
        shape = hdu.shape if hdu.is_image else None
        hdus.append((number, hdu.name, shape))
    return Look(file.path.name, keywords, tuple(hdus))  # type: ignore[arg-type]


def _overscan(file: FitsFile) -> dict[int, tuple[list[tuple[int, int]], list[tuple[int, int]]]]:
    """Dark columns and rows of the first few images."""
    found = {}
    images: list[tuple[int, Hdu]] = [(i, hdu) for i, hdu in enumerate(file.hdus()) if hdu.is_image]
    for number, hdu in images[:4]:
        image = file.pixels(hdu)
        columns = dark_runs(image, 0)
        keep = np.ones(image.shape[1], bool)
        for first, last in columns:
            keep[first:last] = False
        rows = dark_runs(image[:, keep], 1) if keep.sum() > 16 else []
        found[number] = (columns, rows)
    return found


def _hdu_lines(looks: list[Look]) -> list[str]:
    groups: dict[tuple, list[str]] = {}
    for look in looks:
        groups.setdefault(look.hdus, []).append(look.name)
    lines = []
    for hdus, names in groups.items():
        images = [hdu for hdu in hdus if hdu[2] is not None]
        lines.append(f"{len(names)} files like {names[0]}: {len(hdus)} HDUs, {len(images)} with an image")
        for number, name, shape in images[:20]:
            assert shape is not None
            lines.append(f"  HDU {number} {name or '(no name)'}: {shape[1]} columns, {shape[0]} rows")
        if len(images) > 20:
            lines.append(f"  ... {len(images) - 20} more")
    if len(groups) > 1:
        lines.append(
            "  the files differ: several cameras, windows or binnings? each needs a definition of its own"
        )
    return lines


def _overscan_lines(dark: dict) -> list[str]:
    lines = []
    for number, (columns, rows, name) in sorted(dark.items()):
        parts = [
            f"{word} {', '.join(f'{first + 1}:{last}' for first, last in runs)}"
            for word, runs in (("columns", columns), ("rows", rows))
            if runs
        ]
        text = " and ".join(parts) or "none seen (a frame with light is needed to see it)"
        lines.append(f"Dark next to light (overscan or prescan?) in HDU {number} of {name}: {text}")
    return lines


def _keyword_lines(looks: list[Look]) -> list[str]:
    lines = ["Header keywords that may hold what is needed:"]
    for name in ("recognise", *NEEDED):
        found = []
        for keyword, _ in usual_keywords(name, looks[-1].keywords):
            values = [look.keywords[keyword] for look in looks if keyword in look.keywords]
            if values:
                distinct = list(dict.fromkeys(str(value) for value in values))
                shown = ", ".join(distinct[:3]) + (", ..." if len(distinct) > 3 else "")
                found.append(f"{keyword} = {shown}")
        lines.append(f"  {name}: {'; '.join(found[:3]) or 'none of the usual ones'}")
    others = [
        f"{key} = {looks[0].keywords[key]}"
        for key in (*SECTION_KEYWORDS, *GAIN_KEYWORDS, *NOISE_KEYWORDS, *SATURATION_KEYWORDS, "CTYPE1")
        if key in looks[0].keywords
    ]
    return [*lines, f"  of the detector: {'; '.join(others) or 'none of the usual ones'}"]
