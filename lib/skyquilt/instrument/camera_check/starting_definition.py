"""Camera check (LDM-151 4.1.2.3): a definition to start from, made of what unknown raw files look like."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from skyquilt.instrument.camera_check.headers import USUAL_KEYWORDS, joined_date, usual_keywords
from skyquilt.instrument.header_map import number_of

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

LONGEST_EXPOSURE = 7200.0
"""Numbers beyond it are taken for milliseconds [s]."""

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


def starting_definition(looks: list[Look], dark: dict) -> str:
    """A YAML definition that loads, with GUESS wherever a number was assumed."""
    first = looks[0]
    keywords = first.keywords
    images = [hdu for hdu in first.hdus if hdu[2] is not None]
    known = keywords.get("INSTRUME") or keywords.get("CAMERA") or "camera"
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", str(known)).strip("_").lower() or "camera"
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
        *[f"  {_quoted(one)}: {_band(one)}" for one in filters or ["clear"]],
        "detector_types:",
    ]
    mosaic = mosaic_of([hdu[1] for hdu in images])
    grid = _grid_lines(images, dark, keywords, pixel, mosaic) if mosaic is not None else []
    lines += grid or [*_type_lines(images, dark, keywords, pixel), *_single_lines(images)]
    lines += _header_lines(looks)
    has_wcs = "CTYPE1" in keywords and str(keywords["CTYPE1"]).startswith("RA")
    lines.append("wcs: {source: header, frame: raw}" if has_wcs else "wcs: {source: nominal}")
    return "\n".join(lines) + "\n"


def mosaic_of(names: list[str]) -> tuple[list[str], str, list[str]] | None:
    """Detectors, separator and amplifiers of HDUs named like CHIP2_R, all with all; None when they are not."""
    for separator in "_-:. ":
        parts = [name.rpartition(separator) for name in names]
        detectors = list(dict.fromkeys(part[0] for part in parts))
        amplifiers = list(dict.fromkeys(part[2] for part in parts))
        if "" in detectors or min(len(detectors), len(amplifiers)) < 2:
            continue
        if len(set(names)) == len(names) == len(detectors) * len(amplifiers):
            return detectors, separator, amplifiers
    return None


def _grid_lines(
    images: list, dark: dict, keywords: dict[str, Any], pixel: float, mosaic: tuple[list[str], str, list[str]]
) -> list[str]:
    """Detectors with an HDU for each amplifier; nothing when light and dark lie otherwise than a grid's."""
    detectors, separator, amplifiers = mosaic
    number, _, (ny, nx) = images[0]
    columns, rows = dark[number][:2] if number in dark else ([], [])
    lit_columns, lit_rows = _lit(nx, columns), _lit(ny, rows)
    if len({hdu[2] for hdu in images}) > 1 or len(lit_columns) > 1 or len(lit_rows) > 1 or lit_rows[0][0]:
        return []
    (x0, x1), (_, y1) = lit_columns[0], lit_rows[0]
    count = len(amplifiers)
    names = ", ".join(_quoted(name) for name in amplifiers)
    return [
        "  ccd:",
        f"    size: [{count * (x1 - x0)}, {y1}]          # GUESS: amplifiers side by side",
        f"    pixel_size_um: {pixel:g}",
        "    amplifiers:",
        f"      grid: [{count}, 1]             # GUESS: columns and rows of amplifiers",
        f"      names: [{names}]         # GUESS: row by row from the lower left",
        f"      extension: '{{detector}}{separator}{{amplifier}}'",
        "      read_out: nearest_corner   # GUESS",
        "      stored: as_read            # GUESS: or as_assembled; skyquilt camera check tells",
        f"      prescan: {x0}",
        f"      overscan: {nx - x1}",
        f"      parallel_overscan: {ny - y1}",
        *[f"      {value}" for value in _amplifier_values(keywords)],
        "detectors:",
        *[
            f"  - {{id: {index}, name: {_quoted(name)}, centre_mm: [0, 0], rotation_deg: 0}}   # GUESS"
            for index, name in enumerate(detectors)
        ],
        "files: {layout: visit}",
    ]


def _single_lines(images: list) -> list[str]:
    """A detector for each HDU."""
    lines = ["detectors:"]
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
    return lines


def _band(physical: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", physical).strip("_") or "clear"
    return f"filter{name}" if name[0].isdigit() else name


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
    values = _amplifier_values(keywords)
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


def _amplifier_values(keywords: dict[str, Any]) -> list[str]:
    return [
        f"gain: {_first_number(keywords, GAIN_KEYWORDS, 1.0)}",
        f"read_noise: {_first_number(keywords, NOISE_KEYWORDS, 5.0)}",
        f"saturation: {_first_number(keywords, SATURATION_KEYWORDS, 60000)}",
    ]


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
        return [_frame_type_line(keyword, looks)]
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
    if name == "datetime_begin":
        value, dated = looks[0].keywords[keyword], joined_date(looks[0].keywords)
        whole = "T" in str(value) or number_of(value) is not None
        if dated is not None and not whole:
            return [f"  datetime_begin: {{join: [{', '.join(dated)}]}}"]
    if name == "exposure_time":
        longest = max(number_of(look.keywords.get(keyword)) or 0.0 for look in looks)
        if longest > LONGEST_EXPOSURE:
            return [f"  exposure_time: {{keyword: {keyword}, unit: ms}}   # GUESS: {longest:g} s is too long"]
        return [f"  exposure_time: {keyword}   # GUESS: seconds; else {{keyword: {keyword}, unit: ms}}"]
    if name == "rotation":
        return [f"  rotation: {keyword}   # GUESS: position angle of +y, east of north"]
    return [f"  {name}: {keyword}"]


def _frame_type_line(keyword: str, looks: list[Look]) -> str:
    """Common words; values that are none of these are listed for the reader to say what they mean."""
    values = sorted({str(look.keywords[keyword]) for look in looks if keyword in look.keywords})
    patterns = [pattern.strip("/i") for _, pattern in FRAME_WORDS]
    words = ", ".join(f"'{pattern}': {kind}" for kind, pattern in FRAME_WORDS)
    if any(re.search(pattern, value, re.IGNORECASE) for pattern in patterns for value in values):
        return f"  frame_type: {{keyword: {keyword}, default: other, map: {{{words}}}}}"
    codes = ", ".join(f"{_quoted(value)}: other" for value in values)
    note = "   # GUESS: say which is bias, dark, flat, science"
    return f"  frame_type: {{keyword: {keyword}, default: other, map: {{{codes}}}}}{note}"


def _quoted(text: str) -> str:
    return "'" + text.strip().replace("'", "''") + "'"
