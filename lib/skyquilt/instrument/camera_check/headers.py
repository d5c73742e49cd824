"""Camera check (LDM-151 4.1.2): header keywords against the rules of a definition, value by value."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skyquilt.instrument.camera import Camera, Detector
from skyquilt.instrument.camera_check.frames import LIT_TYPES, UNKNOWN, FrameFile
from skyquilt.instrument.camera_check.report import CANNOT_TELL, DIFFERS, FITS, Finding
from skyquilt.instrument.fits_file import FitsFile
from skyquilt.instrument.header_map import FILE_KEYWORD, HeaderItem, number_of
from skyquilt.instrument.observation_info import Translation, check_camera, tai_to_utc
from skyquilt.primitives.failure import ProcessingFailure

USUAL_KEYWORDS: dict[str, tuple[str, ...]] = {
    "recognise": ("INSTRUME", "DETECTOR", "CAMERA", "TELESCOP"),
    "visit": (
        "VISIT",
        "EXPNUM",
        "EXPID",
        "EXP-ID",
        "OBSNUM",
        "FRAMENO",
        "FRAMEID",
        "SEQNUM",
        "RUNNO",
        "IMAGENO",
    ),
    "detector_num": ("CCDNUM", "DETNUM", "DET-ID", "CHIPID", "CCDID", "CHIP", "CCD", "DETID"),
    "detector_name": ("DETNAME", "CCDNAME", "DETPOS", "CHIPNAME", "EXTNAME"),
    "frame_type": (
        "IMAGETYP",
        "OBSTYPE",
        "IMGTYPE",
        "DATA-TYP",
        "EXPTYPE",
        "FRAMETYP",
        "OBSMODE",
        "PICTTYPE",
    ),
    "exposure_time": ("EXPTIME", "EXPOSURE", "EXPOSED", "ITIME", "TEXP", "INTTIME", "DARKTIME"),
    "boresight_ra": ("RA", "TELRA", "OBJCTRA", "RA2000", "CRVAL1", "CENRA", "TCSRA", "TARGRA"),
    "boresight_dec": ("DEC", "TELDEC", "OBJCTDEC", "DEC2000", "CRVAL2", "CENDEC", "TCSDEC", "TARGDEC"),
    "rotation": ("ROTPA", "ROTSKYPA", "PA", "POSANG", "ROTANG", "ROTATOR", "INST-PA", "PARANG"),
    "physical_filter": ("FILTER", "FILTNAM", "FILTER01", "FILTER1", "FILTERID", "FILTNAME", "INSFLNAM"),
    "datetime_begin": ("DATE-BEG", "DATE-OBS", "DATEOBS", "MJD-OBS", "MJD-STR", "MJD", "JD", "UTC-OBS", "UT"),
    "datetime_mid": ("DATE-AVG", "MJD-AVG", "MIDPOINT"),
    "datetime_end": ("DATE-END", "MJD-END", "UT-END"),
    "airmass": ("AIRMASS", "SECZ", "SECZ-STR", "AMASS"),
    "object": ("OBJECT", "OBJNAME", "TARGET", "TARGNAME", "FIELD"),
    "observation_id": ("OBSID", "FRAMEID", "OBSNUM", "EXPNUM", "ARCFILE", "FILENAME"),
}
"""Keywords under which observatories commonly say these things, best first."""

_NUMBER = r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?"
_SEXAGESIMAL = r"[-+]?\d+[: hd]\d+[: m']\d+(\.\d*)?[s\"]?"

_DATE = r"\d{4}-\d\d-\d\d"
_TIME = r"\d\d:\d\d(:\d\d(\.\d*)?)?"

DATE_KEYWORDS = ("UTDATE", "UT-DATE", "DATE")
"""Further keywords that may hold a date; DATE, if nothing else does: it often is that of the file."""

TIME_KEYWORDS = ("UT-STR", "TIME-OBS", "UTSTART", "UT", "UTC", "UTC-OBS", "TIME", "UT-OBS", "TIME-BEG")
"""Keywords that commonly hold a time of day without a date."""

LOOKS: dict[str, tuple[str, str]] = {
    "boresight_ra": (r"(^|[^A-Z])RA|RA$", f"{_SEXAGESIMAL}|{_NUMBER}"),
    "boresight_dec": (r"(^|[^A-Z])DEC?|DEC$", f"{_SEXAGESIMAL}|{_NUMBER}"),
    "datetime_begin": (r"", r"\d{4}[-/]\d\d[-/]\d\d([T ]\d\d:\d\d.*)?"),
    "exposure_time": (r"EXP|^T_|TIME|INT", _NUMBER),
    "rotation": (r"ANG|ROT|^PA", _NUMBER),
    "physical_filter": (r"FILT|GLASS|BAND", r".+"),
    "airmass": (r"AIRM|SECZ", _NUMBER),
}
"""Parts of keywords, and forms of values, by which unusual keywords are guessed."""

STRUCTURE = ("EXTEND", "BITPIX", "DATE", "EXTNAME", "XTENSION")


def survey_headers(paths: list[Path], camera: Camera) -> tuple[list[FrameFile], list[Finding]]:
    """What the headers say, and what of it does not fit."""
    collected: dict[tuple[str, str], list[tuple[str, str]]] = {}
    frames: list[FrameFile] = []
    findings: list[Finding] = []
    for path in paths:
        try:
            with FitsFile(path) as file:
                frame, problems = _frame(file, camera)
        except ProcessingFailure as failure:
            findings.append(Finding(DIFFERS, f"file {path.name}", failure.detail or failure.reason.text))
            continue
        frames.append(frame)
        for name, text, remedy in problems:
            collected.setdefault((name, remedy), []).append((path.name, text))
    for (name, remedy), found in collected.items():
        where = f" ({len(found)} of {len(paths)} files)" if len(paths) > 1 else ""
        findings.append(Finding(DIFFERS, f"header {name}", found[0][1] + where, remedy))
    return frames, findings + _summary(frames, camera)


def _frame(file: FitsFile, camera: Camera) -> tuple[FrameFile, list[tuple[str, str, str]]]:
    """A file, and problems as (name, what was found, remedy)."""
    problems: list[tuple[str, str, str]] = []
    try:
        check_camera(file, camera)
    except ProcessingFailure as failure:
        problems.append(("recognise", failure.detail, _advice("recognise", None, file)))
    try:
        translation = Translation(file, camera)
    except ProcessingFailure as failure:
        problems.append(("observation_id", failure.detail, ""))
        return FrameFile(file.path, UNKNOWN, _detectors(None, camera), "", None), problems

    def get(name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except ProcessingFailure as failure:
            problems.append((name, failure.detail, _advice(name, camera.header.item(name), file)))
            return None

    frame_type = get("frame_type", translation.frame_type) or UNKNOWN
    exposure = get("exposure_time", lambda: translation.required("exposure_time"))
    times = get("datetime_begin", lambda: translation.times(exposure or 0.0))
    if times is not None:
        get("visit", lambda: translation.visit(times[0]))
        problems += _time_problems(times, translation, camera)
    number = get("detector_num", translation.detector_num)
    lit = frame_type in LIT_TYPES
    pointing = {}
    for name in ("boresight_ra", "boresight_dec", "rotation"):
        pointing[name] = get(
            name, lambda name=name: translation.optional(name, strict=frame_type == "science")
        )
    if frame_type == "science":
        problems += _pointing_problems(pointing, translation)
    physical = get("physical_filter", lambda: translation.filter(lit))
    for name in ("snap", "airmass", "object"):
        get(name, lambda name=name: translation.value(name))
    info = None
    if not problems:
        info = translation.info()
    detectors = _detectors(number, camera)
    return FrameFile(file.path, frame_type, detectors, physical or "", info), problems


def _detectors(number: int | None, camera: Camera) -> tuple[Detector, ...]:
    if number is not None:
        return (camera.detector(number),)
    alone = len(camera.detectors) == 1
    return camera.detectors if camera.files.per_visit or alone else ()


def _time_problems(
    times: tuple[float, float, float], translation: Translation, camera: Camera
) -> list[tuple[str, str, str]]:
    """Dates far off, and a time system that the header states otherwise."""
    problems = []
    name = translation.name
    if not 40587.0 < times[0] < 88069.0:
        text = f"{name}: the exposure begins at MJD {times[0]:.2f}, expected a date from 1970 to 2100"
        problems.append(("datetime_begin", text, "header.datetime_begin: give format: isot, mjd, jd or unix"))
    stated = str(translation.lookup("TIMESYS") or "").strip().lower()
    item = next(
        (i for key in ("begin", "mid", "end") if (i := camera.header.item(f"datetime_{key}")) is not None),
        None,
    )
    if stated in ("utc", "tai", "tt") and item is not None and stated != item.scale:
        text = f"{name}: TIMESYS says {stated}, header.{item.name} is read as {item.scale}"
        problems.append((item.name, text, f"header.{item.name}: {{..., scale: {stated}}}"))
    return problems


def _pointing_problems(pointing: dict[str, Any], translation: Translation) -> list[tuple[str, str, str]]:
    """A pointing that the header's own CRVAL contradicts: hours for degrees, or the reverse."""
    ra, dec = pointing["boresight_ra"], pointing["boresight_dec"]
    crval = number_of(translation.lookup("CRVAL1")), number_of(translation.lookup("CRVAL2"))
    kind = str(translation.lookup("CTYPE1") or "")
    if ra is None or dec is None or None in crval or not kind.startswith("RA"):
        return []
    apart = abs((ra - crval[0] + 180.0) % 360.0 - 180.0)
    if apart < 5.0 and abs(dec - crval[1]) < 5.0:
        return []
    text = (
        f"{translation.name}: the pointing is {ra % 360:.4f} {dec:+.4f} deg, but CRVAL1, CRVAL2 of the same "
        f"header {crval[0]:.4f} {crval[1]:+.4f}"
    )
    for factor, unit in ((15.0, "hourangle or sexagesimal_hours"), (1 / 15.0, "deg or sexagesimal_degrees")):
        if abs((ra * factor - crval[0] + 180.0) % 360.0 - 180.0) < 5.0:
            return [("boresight_ra", text, f"header.boresight_ra: {{..., unit: {unit}}}")]
    return [
        ("boresight_ra", text, "see which of the two is right; header.boresight_ra may name another keyword")
    ]


def _advice(name: str, item: HeaderItem | None, file: FitsFile) -> str:
    """The keyword that may be meant: by spelling, else by what observatories commonly use."""
    present = _keywords(file)
    given = [] if item is None else [*item.keywords, *item.join]
    absent = [key for key in given if key not in present and key != FILE_KEYWORD]
    for key in absent:
        close = difflib.get_close_matches(key, present, 1, 0.75)
        if close:
            return f"no {key} in the header; nearest is {close[0]} = {present[close[0]]!r}: header.{name}: {close[0]}"
    dated = joined_date(present)
    if name.startswith("datetime_") and dated is not None and len(given) == 1 and given[0] in dated:
        return f"date and time of day stand in two keywords: header.{name}: {{join: [{', '.join(dated)}]}}"
    if given and not absent:
        return f"mend header.{name}: its map, unit, format or extract, or the filters of the definition"
    usual = usual_keywords(name, present)
    if usual:
        return "the header has " + ", ".join(f"{key} = {value!r}" for key, value in usual[:3])
    return f"no keyword looks like it; give header.{name}: {{value: ...}} or a table in header.overrides"


def joined_date(present: dict[str, Any]) -> tuple[str, str] | None:
    """A keyword with a date and another with a time of day; None when there are no such."""
    for date in (*USUAL_KEYWORDS["datetime_begin"], *DATE_KEYWORDS):
        if re.fullmatch(_DATE, str(present.get(date)).strip()):
            for time in TIME_KEYWORDS:
                if re.fullmatch(_TIME, str(present.get(time)).strip()):
                    return date, time
    return None


def usual_keywords(name: str, present: dict[str, Any]) -> list[tuple[str, Any]]:
    """Keywords of a header that commonly hold a value, with what they hold; else those that look like it."""
    found = [(key, present[key]) for key in USUAL_KEYWORDS.get(name, ()) if key in present]
    if found or name not in LOOKS:
        return found
    in_name, in_value = LOOKS[name]
    return [
        (key, value)
        for key, value in present.items()
        if re.search(in_name, key) and re.fullmatch(in_value, str(value).strip()) and key not in STRUCTURE
    ]


def _keywords(file: FitsFile) -> dict[str, Any]:
    """Keywords of the primary header and the first extension."""
    found: dict[str, Any] = {}
    for number, hdu in enumerate(file.hdus()):
        if number > 1:
            break
        found = hdu.cards.as_dict() | found
    return found


def _summary(frames: list[FrameFile], camera: Camera) -> list[Finding]:
    """What was understood, so that a reader can see whether it is true."""
    findings = []
    good = [frame for frame in frames if frame.info is not None]
    if good:
        kinds = Counter(frame.frame_type for frame in good)
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        findings.append(
            Finding(FITS, "header", f"{len(good)} of {len(frames)} files are understood: {counted}")
        )
        if set(kinds) == {"other"}:
            findings.append(_unused(len(good), camera))
    first = next((frame for frame in good if frame.frame_type == "science"), None)
    if first is not None:
        info = first.info
        assert info is not None
        text = (
            f"{first.name}: visit {info.visit}, {info.exposure_time:g} s in {info.physical_filter} "
            f"({camera.filters.get(info.physical_filter or '', '?')}) from {_utc(info.datetime_begin)} UTC"
        )
        if info.boresight_ra is not None and info.boresight_dec is not None:
            turn = "unknown" if info.rotation is None else f"{info.rotation:.2f} deg"
            text += f", at {info.boresight_ra:.5f} {info.boresight_dec:+.5f} deg, position angle {turn}"
        findings.append(Finding(FITS, "header of a science frame", text + ": is that true?"))
        if info.boresight_ra is None:
            findings.append(
                Finding(
                    CANNOT_TELL,
                    "header boresight_ra",
                    "no rule gives a pointing",
                    "header.boresight_ra and boresight_dec: a keyword, or values in a table of header.overrides",
                )
            )
    unplaced = [frame.name for frame in frames if not frame.detectors]
    if unplaced:
        findings.append(
            Finding(
                CANNOT_TELL,
                "pixels",
                f"the detector of {', '.join(unplaced[:3])} is not known: pixels were not read",
            )
        )
    return findings


def _unused(count: int, camera: Camera) -> Finding:
    """That the definition makes nothing of the files."""
    item = camera.header.item("frame_type")
    keyword = item.keywords[0] if item is not None and item.keywords else "KEYWORD"
    text = f"all {count} files are of type other, and would be used for nothing"
    remedy = f"header.frame_type: {{keyword: {keyword}, map: {{VALUE: bias, VALUE: flat, VALUE: science}}}}"
    return Finding(CANNOT_TELL, "header frame_type", text, remedy)


def _utc(tai_mjd: float) -> str:
    import datetime

    start = datetime.datetime(1858, 11, 17)
    return (start + datetime.timedelta(days=tai_to_utc(tai_mjd))).isoformat(sep=" ", timespec="seconds")
