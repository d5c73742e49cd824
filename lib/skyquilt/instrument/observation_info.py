"""Header translation (LDM-151 4.1.2): what a raw frame's header says, in one vocabulary for all cameras.

Names follow astro-metadata-translator. Times are TAI MJD, angles ICRS degrees, exposure times seconds.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from skyquilt.instrument.camera import Camera
from skyquilt.instrument.fits_file import Cards, FitsFile
from skyquilt.instrument.header_map import (
    FILE_KEYWORD,
    HeaderItem,
    HeaderValueError,
    Lookup,
    number_of,
)
from skyquilt.primitives.data_units import SOURCE_ID
from skyquilt.primitives.failure import ProcessingFailure, Reason

FRAME_TYPES = ("science", "bias", "dark", "flat", "fringe", "crosstalk", "other")

DAY = 86400.0
MJD_UNIX = 40587.0
MJD_2000 = 51544.0
TT_MINUS_TAI = 32.184 / DAY

ANGLE_UNITS = {
    "deg": 1.0,
    "hourangle": 15.0,
    "rad": 180.0 / math.pi,
    "arcmin": 1 / 60.0,
    "arcsec": 1 / 3600.0,
}
SEXAGESIMAL_UNITS = {"sexagesimal": None, "sexagesimal_hours": 15.0, "sexagesimal_degrees": 1.0}
TIME_UNITS = {"s": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0, "day": DAY}
DATE_FORMATS = ("isot", "mjd", "jd", "unix")
TIME_SCALES = ("utc", "tai", "tt")
VISIT_RULES = ("decisecond", "night_sequence")

FIELDS = {
    "visit": "integer",
    "snap": "integer",
    "detector_num": "integer",
    "detector_name": "text",
    "frame_type": "text",
    "exposure_time": "duration",
    "boresight_ra": "angle",
    "boresight_dec": "angle",
    "rotation": "angle",
    "physical_filter": "text",
    "datetime_begin": "date",
    "datetime_mid": "date",
    "datetime_end": "date",
    "airmass": "number",
    "object": "text",
    "observation_id": "text",
}
"""Names a header map may give, and how their values are read."""


@dataclass(frozen=True)
class ObservationInfo:
    """One exposure (or snap) of one detector, or of all when a file holds them all.

    Parameters
    ----------
    visit : int
        0 <= visit < 2**36.
    snap : int
    detector_num : int or None
        Id in the camera definition; None when the file holds all detectors.
    frame_type : str
        One of `FRAME_TYPES`.
    exposure_time : float
        [s].
    boresight_ra, boresight_dec : float or None
        Focal plane's origin on the sky, ICRS [deg].
    rotation : float or None
        Position angle of the focal plane's +y, east of north, 0 to 360 [deg].
    physical_filter : str or None
        A name of the camera's `filters` for a science, flat or fringe frame; else as the header says.
    datetime_begin, datetime_mid, datetime_end : float
        TAI MJD [day].
    airmass : float or None
    object : str
    observation_id : str
        The observatory's name of the exposure; the visit and snap when it gives none.
    instrument : str
        Name of the camera definition.
    """

    visit: int
    snap: int
    detector_num: int | None
    frame_type: str
    exposure_time: float
    boresight_ra: float | None
    boresight_dec: float | None
    rotation: float | None
    physical_filter: str | None
    datetime_begin: float
    datetime_mid: float
    datetime_end: float
    airmass: float | None
    object: str
    observation_id: str
    instrument: str


def read_observation(path: str | Path, camera: Camera) -> list[ObservationInfo]:
    """Translate the headers of a raw file; no pixel is read.

    Returns
    -------
    list of ObservationInfo
        One per exposure in the file (today's layouts have one).

    Raises
    ------
    ProcessingFailure
        MISSING_FILE, UNREADABLE_FILE, UNKNOWN_CAMERA, UNKNOWN_DETECTOR, UNKNOWN_FILTER or BAD_HEADER.
    """
    with FitsFile(path) as file:
        return [observation_of(file, camera)]


def observation_of(file: FitsFile, camera: Camera) -> ObservationInfo:
    """`read_observation` for an open file."""
    check_camera(file, camera)
    return Translation(file, camera).info()


def check_camera(file: FitsFile, camera: Camera) -> None:
    """Raise UNKNOWN_CAMERA when the header does not fulfil the definition's `recognise`."""
    lookup = header_lookup(file)
    failing = camera.header.recognise.first_failing(lookup)
    if failing is not None:
        found = lookup(failing.keyword)
        said = f"has no keyword {failing.keyword}" if found is None else f"says {failing.keyword} = {found!r}"
        raise ProcessingFailure(
            Reason.UNKNOWN_CAMERA,
            f"{file.path.name} {said}; camera {camera.name} expects {_wanted_text(failing.wanted)}",
        )


def _wanted_text(wanted: Any) -> str:
    return " or ".join(repr(one) for one in wanted) if isinstance(wanted, tuple) else repr(wanted)


def header_lookup(file: FitsFile, extension: str | int | None = None) -> Lookup:
    """Values of keywords: of one HDU, or of the primary and, where it lacks one, the first extension."""

    def cards_of(number: int) -> Cards | None:
        return next((hdu.cards for i, hdu in enumerate(file.hdus()) if i == number), None)

    def lookup(keyword: str) -> Any:
        if keyword == FILE_KEYWORD:
            return file.path.name
        if extension is not None:
            return file.hdu(extension).cards.get(keyword)
        if (value := file.primary.cards.get(keyword)) is not None:
            return value
        second = cards_of(1)
        return None if second is None else second.get(keyword)

    return lookup


class Translation:
    """One file's header through one camera's rules: each value by itself, or all as an `ObservationInfo`.

    Every method raises ProcessingFailure BAD_HEADER (or UNKNOWN_DETECTOR, UNKNOWN_FILTER) with file, name and keyword.
    """

    def __init__(self, file: FitsFile, camera: Camera) -> None:
        self.file, self.camera, self.header = file, camera, camera.header
        self.name = file.path.name
        self.lookup = header_lookup(file)
        self.overridden: dict[str, Any] = {}
        observation_id = self.value("observation_id")
        self.overridden = self.header.overridden(self.lookup, observation_id, self.name)
        self.observation_id = self.value("observation_id")

    def info(self) -> ObservationInfo:
        frame_type = self.frame_type()
        exposure = self.required("exposure_time")
        begin, mid, end = self.times(exposure)
        snap = self.value("snap") or 0
        visit = self.visit(begin)
        # what a bias lacks of pointing and filter is no fault
        on_sky, lit = frame_type == "science", frame_type in ("science", "flat", "fringe")
        ra, dec, rotation = (
            self.optional(key, strict=on_sky) for key in ("boresight_ra", "boresight_dec", "rotation")
        )
        if on_sky and dec is not None and not -90 <= dec <= 90:
            raise self.bad(f"boresight_dec is {dec} deg, expected -90 to 90")
        return ObservationInfo(
            visit=visit,
            snap=snap,
            detector_num=self.detector_num(),
            frame_type=frame_type,
            exposure_time=exposure,
            boresight_ra=None if ra is None else ra % 360.0,
            boresight_dec=dec,
            rotation=None if rotation is None else rotation % 360.0,
            physical_filter=self.filter(lit),
            datetime_begin=begin,
            datetime_mid=mid,
            datetime_end=end,
            airmass=self.optional("airmass", strict=False),
            object=self.value("object") or "",
            observation_id=self.observation_id or f"{visit}" + (f"_{snap}" if snap else ""),
            instrument=self.camera.name,
        )

    def bad(self, text: str) -> ProcessingFailure:
        return ProcessingFailure(Reason.BAD_HEADER, f"{self.name}: {text}")

    def value(self, name: str) -> Any:
        """Value in our units, or None when neither header nor table has one."""
        item = self.header.item(name)
        try:
            if name in self.overridden:
                return convert(HeaderItem(name), self.overridden[name])
            if item is None:
                return None
            lookup = self.lookup if item.extension is None else header_lookup(self.file, self.extension(item))
            raw = item.raw(lookup)
            return None if raw is None else convert(item, raw)
        except HeaderValueError as error:
            raise self.bad(f"{name}: {error}") from error

    def extension(self, item: HeaderItem) -> str | int:
        return 0 if item.extension == "primary" else item.extension  # type: ignore[return-value]

    def required(self, name: str) -> Any:
        value = self.value(name)
        if value is None:
            item = self.header.item(name)
            source = f"{item.what} gives none" if item else "the camera definition has no rule for it"
            raise self.bad(
                f"{name} is missing, {source}; give header.{name} a default or an override in the definition"
            )
        return value

    def optional(self, name: str, strict: bool) -> Any:
        """A value whose absence or nonsense matters only when `strict` and a rule for it exists."""
        if strict and self.header.item(name) is not None:
            return self.required(name)
        try:
            return self.value(name)
        except ProcessingFailure:
            return None

    def frame_type(self) -> str:
        frame_type = str(self.required("frame_type"))
        if frame_type not in FRAME_TYPES:
            raise self.bad(f"frame_type is {frame_type!r}, expected one of {', '.join(FRAME_TYPES)}")
        return frame_type

    def filter(self, lit: bool) -> str | None:
        found = self.optional("physical_filter", strict=lit)
        if lit and found not in self.camera.filters:
            known = ", ".join(self.camera.filters)
            raise ProcessingFailure(
                Reason.BAD_HEADER if found is None else Reason.UNKNOWN_FILTER,
                f"{self.name}: physical_filter is {found!r}, which is not in filters of the definition ({known})",
            )
        return found

    def detector_num(self) -> int | None:
        if self.camera.files.per_visit:
            return None
        name = self.value("detector_name")
        if name is not None:
            return self._known(lambda: self.camera.detector_named(name).id)
        if len(self.camera.detectors) == 1 and self.header.item("detector_num") is None:
            return self.camera.detectors[0].id
        number = self.required("detector_num")
        return self._known(lambda: self.camera.detector(number).id)

    def _known(self, find: Callable[[], int]) -> int:
        try:
            return find()
        except ProcessingFailure as failure:
            raise ProcessingFailure(failure.reason, f"{self.name}: {failure.detail}") from failure

    def times(self, exposure: float) -> tuple[float, float, float]:
        """Begin, middle and end; what the header lacks follows from the exposure time."""
        begin, mid, end = (self.value(f"datetime_{key}") for key in ("begin", "mid", "end"))
        half = 0.5 * exposure / DAY
        if begin is None and mid is None and end is None:
            self.required("datetime_begin")
        if begin is None:
            begin = mid - half if mid is not None else end - 2 * half
        if end is None:
            end = mid + half if mid is not None else begin + 2 * half
        if mid is None:
            mid = 0.5 * (begin + end)
        if not begin <= mid <= end:
            raise self.bad(
                f"the exposure begins at {begin}, is half over at {mid} and ends at {end} (TAI MJD)"
            )
        return begin, mid, end

    def visit(self, begin: float) -> int:
        item = self.header.item("visit")
        if "visit" in self.overridden or item is None or item.rule is None:
            number = self.required("visit")
        elif item.rule == "decisecond":
            number = math.floor((begin - MJD_2000) * DAY * 10 + 1e-3)
        else:
            number = self.night_sequence(item, begin)
        if not 0 <= number < SOURCE_ID.capacity("visit"):
            raise self.bad(f"visit is {number}, expected 0 to {SOURCE_ID.capacity('visit') - 1} (36 bits)")
        return number

    def night_sequence(self, item: HeaderItem, begin: float) -> int:
        """YYMMDD of the local noon before, then the sequence number."""
        sequence = number_of(self.lookup(item.rule_keyword or ""))
        if sequence is None or sequence != int(sequence) or not 0 <= sequence < 10**item.rule_digits:
            raise self.bad(
                f"visit needs keyword {item.rule_keyword} as a whole number of at most {item.rule_digits} "
                f"digits, found {self.lookup(item.rule_keyword or '')!r}"
            )
        longitude = self.camera.observatory.longitude or 0.0
        noon = math.floor(tai_to_utc(begin) + longitude / 360.0 - 0.5)
        night = datetime.date(1858, 11, 17) + datetime.timedelta(days=noon)
        return int(f"{night:%y%m%d}") * 10**item.rule_digits + int(sequence)


def convert(item: HeaderItem, raw: Any) -> Any:
    """A raw header value in the units of `ObservationInfo`; HeaderValueError when it makes no sense."""
    return _CONVERTERS[FIELDS[item.name]](item, raw)


def _integer(item: HeaderItem, raw: Any) -> int:
    number = number_of(raw)
    if number is None or isinstance(raw, bool) or number != int(number):
        raise HeaderValueError(f"{item.what} is {raw!r}, expected a whole number")
    # text is read as an integer itself: 17 digits do not survive a float
    return int(raw) if isinstance(raw, str) and re.fullmatch(r"\s*[-+]?\d+\s*", raw) else int(number)


def _text(item: HeaderItem, raw: Any) -> str:
    return str(raw).strip()


def _number(item: HeaderItem, raw: Any) -> float:
    number = number_of(raw)
    if number is None or not math.isfinite(number):
        raise HeaderValueError(f"{item.what} is {raw!r}, expected a number")
    return float(number)


def _duration(item: HeaderItem, raw: Any) -> float:
    seconds = _number(item, raw) * TIME_UNITS[item.unit or "s"]
    if seconds < 0:
        raise HeaderValueError(f"{item.what} is {raw!r}, expected no negative time")
    return seconds


_SEXAGESIMAL = re.compile(r"^\s*([+-]?)\s*(\d+)[:\sdh°]+(\d+)[:\sm']+(\d+(?:\.\d*)?)[s\"]?\s*$")


def _angle(item: HeaderItem, raw: Any) -> float:
    unit = item.unit
    if unit is None:
        unit = "deg" if number_of(raw) is not None else "sexagesimal"
    if unit in ANGLE_UNITS:
        return _number(item, raw) * ANGLE_UNITS[unit]
    found = _SEXAGESIMAL.match(str(raw))
    if found is None or int(found[3]) >= 60 or float(found[4]) > 60:
        raise HeaderValueError(f"{item.what} is {raw!r}, expected a sexagesimal angle such as 12:34:56.7")
    degrees = int(found[2]) + int(found[3]) / 60.0 + float(found[4]) / 3600.0
    factor = SEXAGESIMAL_UNITS[unit] or (15.0 if item.name == "boresight_ra" else 1.0)
    return (-degrees if found[1] == "-" else degrees) * factor


def _date(item: HeaderItem, raw: Any) -> float:
    number = number_of(raw)
    kind = item.format or ("isot" if number is None else "mjd")
    if kind == "isot":
        mjd = _isot_mjd(item, str(raw))
    elif number is None:
        raise HeaderValueError(f"{item.what} is {raw!r}, expected a number for format {kind}")
    else:
        mjd = {"mjd": number, "jd": number - 2400000.5, "unix": number / DAY + MJD_UNIX}[kind]
    if item.scale == "tt":
        return mjd - TT_MINUS_TAI
    return mjd if item.scale == "tai" else utc_to_tai(mjd)


_ISOT = re.compile(
    r"^\s*(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[T\s]+(\d{1,2}):(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?)?Z?\s*$"
)


def _isot_mjd(item: HeaderItem, text: str) -> float:
    found = _ISOT.match(text)
    try:
        assert found is not None
        year, month, day = (int(found[i]) for i in (1, 2, 3))
        date = datetime.date(year, month, day)
    except (AssertionError, ValueError):
        raise HeaderValueError(
            f"{item.what} is {text!r}, expected a date like 2025-03-01T04:05:06.7"
        ) from None
    seconds = int(found[4] or 0) * 3600 + int(found[5] or 0) * 60 + float(found[6] or 0)
    return (date - datetime.date(1858, 11, 17)).days + seconds / DAY


@lru_cache(maxsize=1)
def _leap_seconds() -> tuple[np.ndarray, np.ndarray]:
    """UTC MJD from which TAI-UTC [s] holds, since 1972 (the table of pyerfa)."""
    import erfa

    table = erfa.leap_seconds.get()
    table = table[table["year"] >= 1972]
    first = datetime.date(1858, 11, 17)
    mjd = [(datetime.date(int(r["year"]), int(r["month"]), 1) - first).days for r in table]
    return np.array(mjd, dtype=float), np.array(table["tai_utc"], dtype=float)


def utc_to_tai(mjd: float) -> float:
    """UTC MJD -> TAI MJD; from 1972 on, before it TAI-UTC is taken as 10 s."""
    starts, offsets = _leap_seconds()
    return mjd + float(offsets[max(int(np.searchsorted(starts, mjd, side="right")) - 1, 0)]) / DAY


def tai_to_utc(mjd: float) -> float:
    """TAI MJD -> UTC MJD; inverse of `utc_to_tai` outside leap seconds."""
    starts, offsets = _leap_seconds()
    latest = int(np.searchsorted(starts + offsets / DAY, mjd, side="right")) - 1
    return mjd - float(offsets[max(latest, 0)]) / DAY


_CONVERTERS: dict[str, Callable[[HeaderItem, Any], Any]] = {
    "integer": _integer,
    "text": _text,
    "number": _number,
    "duration": _duration,
    "angle": _angle,
    "date": _date,
}
