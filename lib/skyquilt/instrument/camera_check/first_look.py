"""Camera check (LDM-151 4.1.2.3): what unknown raw files look like, and a definition to start from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skyquilt.instrument.camera_check.headers import USUAL_KEYWORDS, usual_keywords
from skyquilt.instrument.camera_check.levels import dark_runs
from skyquilt.instrument.camera_check.report import DIFFERS, Finding
from skyquilt.instrument.fits_file import FitsFile, Hdu
from skyquilt.instrument.header_map import number_of
from skyquilt.primitives.failure import ProcessingFailure

SECTION_KEYWORDS = ("DATASEC", "BIASSEC", "TRIMSEC", "DETSEC", "CCDSEC", "CCDSUM", "DETSIZE")
GAIN_KEYWORDS = ("GAIN", "EGAIN", "GAIN1", "GAINA", "CCDGAIN")
NOISE_KEYWORDS = ("RDNOISE", "READNOIS", "RON", "RDNOISEA", "RDNOIS1", "CCDRON")
SATURATION_KEYWORDS = ("SATURATE", "SATURATA", "SATLEVEL", "FULLWELL")
PIXEL_KEYWORDS = ("XPIXSZ", "PIXSIZE1", "PIXSIZE", "CCDPXSZ", "DETPXSZ")
SCALE_KEYWORDS = ("PIXSCAL1", "PIXSCALE", "PIXSCAL", "SECPIX", "SECPIX1", "SCALE", "PLTSCALE")

FRAME_WORDS = (
    ("bias", "/bias|zero/i"),
    ("dark", "/dark/i"),
    ("flat", "/flat/i"),
    ("science", "/object|science|light|sky|expose|target/i"),
)
"""Words by which frame types are commonly recognised."""

NEEDED = (
    "frame_type",
    "exposure_time",
    "visit",
    "datetime_begin",
    "boresight_ra",
    "boresight_dec",
    "rotation",
    "physical_filter",
    "airmass",
    "object",
    "observation_id",
    "detector_num",
)


@dataclass(frozen=True)
class Look:
    """Headers and image shapes of one file."""

    name: str
    keywords: dict[str, Any]
    hdus: tuple[tuple[int, str, tuple[int, int] | None], ...]
    """(number, EXTNAME, shape (ny, nx) or None without an image)."""


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


def starting_definition(looks: list[Look], dark: dict) -> str:
    """A YAML definition that loads, with GUESS wherever a number was assumed."""
    first = looks[0]
    keywords = first.keywords
    images = [hdu for hdu in first.hdus if hdu[2] is not None]
    name = (
        re.sub(r"[^A-Za-z0-9_.-]+", "_", str(keywords.get("INSTRUME") or "camera")).strip("_").lower()
        or "camera"
    )
    scale, pixel, scale_source = _plate_scale(keywords)
    filters = sorted(
        {
            str(look.keywords[k])
            for look in looks
            for k, _ in usual_keywords("physical_filter", look.keywords)[:1]
            if str(look.keywords[k]).strip()
        }
    )
    lines = [
        "# GUESS marks what the files do not say. Keys: docs/cameras.md; step by step: docs/adding_a_camera.md",
        f"name: {name}",
        _observatory_line(keywords),
        "focal_plane:",
        f"  plate_scale: {scale:.5g}        # arcsec per mm; {scale_source}",
        "  mirrored: false            # GUESS; skyquilt camera check tells",
        "filters:                     # GUESS: bands are yours to name",
        *[
            f"  {_quoted(one)}: {re.sub(r'[^A-Za-z0-9_]+', '_', one).strip('_') or 'clear'}"
            for one in filters or ["clear"]
        ],
        "detector_types:",
    ]
    lines += _type_lines(images, dark, keywords, pixel)
    lines.append("detectors:")
    for index, (number, hdu_name, _) in enumerate(images or [(0, "", (1, 1))]):
        extension = f", extension: {_quoted(hdu_name or str(number))}" if len(images) > 1 else ""
        if len(images) > 1 and not hdu_name:
            extension = f", extension: {number}"
        place = ", centre_mm: [0, 0]" if len(images) > 1 else ""
        lines.append(f"  - {{id: {index}{extension}{place}}}")
    if len(images) > 1:
        lines.append(
            "  # GUESS: a detector per HDU. An amplifier per HDU: one detector and extension: '{amplifier}'"
        )
        lines.append("files: {layout: visit}")
    lines += _header_lines(looks)
    has_wcs = "CTYPE1" in keywords and str(keywords["CTYPE1"]).startswith("RA")
    lines.append("wcs: {source: header, frame: raw}" if has_wcs else "wcs: {source: nominal}")
    return "\n".join(lines) + "\n"


def _observatory_line(keywords: dict[str, Any]) -> str:
    name = str(keywords.get("OBSERVAT") or keywords.get("TELESCOP") or "")
    return f"observatory: {{name: {_quoted(name)}, longitude: 0.0, latitude: 0.0}}   # GUESS: east-positive degrees"


def _plate_scale(keywords: dict[str, Any]) -> tuple[float, float, str]:
    """Scale [arcsec/mm], pixel size [micron] and where they are from."""
    pixel = next((p for k in PIXEL_KEYWORDS if (p := number_of(keywords.get(k))) and 1.0 < p < 100.0), None)
    known = pixel is not None
    pixel = pixel or 15.0
    per_pixel, source = None, ""
    cd = [number_of(keywords.get(k)) for k in ("CD1_1", "CD1_2", "CD2_1", "CD2_2")]
    if None not in cd:
        per_pixel, source = 3600.0 * float(np.sqrt(abs(cd[0] * cd[3] - cd[1] * cd[2]))), "from CD1_1 ..."  # type: ignore[operator]
    for keyword in SCALE_KEYWORDS:
        value = number_of(keywords.get(keyword))
        if per_pixel is None and value and 0.01 < value < 60.0:
            per_pixel, source = value, f"from {keyword}"
    focal = number_of(keywords.get("FOCALLEN"))
    if not per_pixel and focal and focal > 10.0:
        return 206264.806 / focal, pixel, "from FOCALLEN [mm]"
    if not per_pixel:
        return 1000.0 / pixel * 0.5, pixel, "GUESS: 0.5 arcsec per pixel"
    return per_pixel * 1000.0 / pixel, pixel, source + ("" if known else ", GUESS: pixels of 15 micron")


def _type_lines(images: list, dark: dict, keywords: dict[str, Any], pixel: float) -> list[str]:
    number, _, shape = images[0] if images else (0, "", (1, 1))
    columns, rows = dark[number][:2] if number in dark else ([], [])
    lit_columns, lit_rows = _lit(shape[1], columns), _lit(shape[0], rows)
    nx, ny = sum(last - first for first, last in lit_columns), sum(last - first for first, last in lit_rows)
    values = [
        f"gain: {_first_number(keywords, GAIN_KEYWORDS, 1.0)}",
        f"read_noise: {_first_number(keywords, NOISE_KEYWORDS, 5.0)}",
        f"saturation: {_first_number(keywords, SATURATION_KEYWORDS, 60000)}",
    ]
    lines = ["  ccd:", f"    size: [{nx}, {ny}]", f"    pixel_size_um: {pixel:g}", "    amplifiers:"]
    place_y = 0
    count = 0
    for y0, y1 in lit_rows:
        place_x = 0
        for x0, x1 in lit_columns:
            count += 1
            lines.append(f"      - name: A{count}")
            lines.append(
                f"        data: '[{place_x + 1}:{place_x + x1 - x0},{place_y + 1}:{place_y + y1 - y0}]'"
            )
            lines.append(f"        raw_data: '[{x0 + 1}:{x1},{y0 + 1}:{y1}]'")
            beside = _beside((x0, x1), columns)
            for key, run in zip(("raw_prescan", "raw_overscan"), beside, strict=True):
                if run is not None:
                    lines.append(f"        {key}: '[{run[0] + 1}:{run[1]},{y0 + 1}:{y1}]'")
            lines.append(f"        raw_size: [{shape[1]}, {shape[0]}]")
            lines += [f"        {value}" for value in values]
            place_x += x1 - x0
        place_y += y1 - y0
    return lines


def _lit(size: int, runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is between the dark runs."""
    edges = [0, *[edge for run in runs for edge in run], size]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a] or [(0, size)]


def _beside(
    lit: tuple[int, int], runs: list[tuple[int, int]]
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """(prescan, overscan): the wider dark run beside an amplifier is its overscan."""
    before = next((run for run in runs if run[1] == lit[0]), None)
    after = next((run for run in runs if run[0] == lit[1]), None)
    if before and after:
        wider = before[1] - before[0] > after[1] - after[0]
        return (after, before) if wider else (before, after)
    return None, before or after


def _first_number(keywords: dict[str, Any], names: tuple[str, ...], default: float) -> str:
    for name in names:
        value = number_of(keywords.get(name))
        if value is not None and value > 0:
            return f"{value:g}                  # {name} of the header"
    return f"{default:g}                  # GUESS"


def _header_lines(looks: list[Look]) -> list[str]:
    keywords = looks[0].keywords
    recognise = next((k for k in USUAL_KEYWORDS["recognise"] if k in keywords), None)
    lines = ["header:"]
    wanted = f"{{{recognise}: {_quoted(str(keywords[recognise]))}}}" if recognise else "{}"
    lines.append(f"  recognise: {wanted}")
    for name in NEEDED:
        found = next((k for k, _ in usual_keywords(name, keywords)), None)
        lines += _item_lines(name, found, looks)
    return lines


def _item_lines(name: str, keyword: str | None, looks: list[Look]) -> list[str]:
    if name == "visit":
        value = number_of(looks[0].keywords.get(keyword)) if keyword else None
        if keyword and value is not None and value == int(value) and value >= 0:
            return [f"  visit: {keyword}            # must differ from exposure to exposure"]
        return ["  visit: {rule: decisecond}   # from the time of the exposure"]
    if name == "frame_type":
        if keyword is None:
            return [
                "  frame_type: {keyword: $FILE, default: science, map: {'/bias|zero/i': bias, '/dark/i': dark, "
                "'/flat/i': flat}}   # GUESS: by file name"
            ]
        words = ", ".join(f"'{pattern}': {kind}" for kind, pattern in FRAME_WORDS)
        return [f"  frame_type: {{keyword: {keyword}, default: other, map: {{{words}}}}}"]
    if name == "detector_num" or keyword is None:
        if name == "exposure_time":
            return ["  exposure_time: {value: 1}   # GUESS"]
        if name == "datetime_begin":
            return ["  datetime_begin: {value: 2000-01-01T00:00:00}   # GUESS"]
        if name == "physical_filter":
            return ["  physical_filter: {value: clear}"]
        if name == "rotation":
            return ["  rotation: {value: 0}        # GUESS; skyquilt camera check --reference measures it"]
        return []
    value = looks[0].keywords[keyword]
    if name == "datetime_begin" and re.fullmatch(r"\d{4}-\d\d-\d\d", str(value).strip()):
        time = next(
            (
                k
                for k in ("UT-STR", "TIME-OBS", "UTSTART", "UT", "UTC", "UTC-OBS", "TIME")
                if k in looks[0].keywords
            ),
            None,
        )
        if time:
            return [f"  datetime_begin: {{join: [{keyword}, {time}]}}"]
    return [f"  {name}: {keyword}"]


def _quoted(text: str) -> str:
    return "'" + text.strip().replace("'", "''") + "'"
