"""Failure as data (LDM-151 2.3): reason codes, and the outcome of one unit of work.

Expected trouble is raised as `ProcessingFailure` with one of the codes below. It ends up in the unit's
manifest, in `visit_detector_table`, in the *why missing* map and in the flags of the rows it touches. Any
other exception is a bug and stops the job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why a frame, detector, patch or source has no (or a flagged) result.

    The order is the bit in the *why missing* map: append, never insert.
    """

    MISSING_FILE = "missing_file"
    UNREADABLE_FILE = "unreadable_file"
    UNKNOWN_CAMERA = "unknown_camera"
    UNKNOWN_DETECTOR = "unknown_detector"
    WRONG_SHAPE = "wrong_shape"
    NO_GOOD_PIXELS = "no_good_pixels"
    SATURATED_FRAME = "saturated_frame"
    NO_CALIBRATION = "no_calibration"
    NO_WCS = "no_wcs"
    NO_SOURCES = "no_sources"
    NO_STARS = "no_stars"
    NO_REFERENCE = "no_reference"
    NO_MATCH = "no_match"
    EXCLUDED = "excluded"
    NO_OVERLAP = "no_overlap"
    WORKER_DIED = "worker_died"
    TOO_FEW_INPUTS = "too_few_inputs"
    BAD_HEADER = "bad_header"
    DUPLICATE = "duplicate"
    SNAP_MISSING = "snap_missing"
    NOT_SCIENCE = "not_science"
    AMPLIFIER_MISSING = "amplifier_missing"
    UNKNOWN_FILTER = "unknown_filter"

    @property
    def bit(self) -> int:
        """Bit number in the *why missing* map."""
        return list(Reason).index(self)

    @property
    def text(self) -> str:
        """One sentence for a reader of the manifest."""
        return REASON_TEXTS[self]


REASON_TEXTS: dict[Reason, str] = {
    Reason.MISSING_FILE: "The raw file that ingest listed is not there.",
    Reason.UNREADABLE_FILE: "The raw file is truncated, corrupt or not FITS.",
    Reason.UNKNOWN_CAMERA: "The header does not belong to the survey's camera.",
    Reason.UNKNOWN_DETECTOR: "The header names a detector that the camera definition does not have.",
    Reason.WRONG_SHAPE: "The frame's size is not what the camera definition says.",
    Reason.NO_GOOD_PIXELS: "No finite, unmasked pixels are left.",
    Reason.SATURATED_FRAME: "More than half of the frame is saturated.",
    Reason.NO_CALIBRATION: "A bias or flat is missing: none taken, too few usable, or none near enough in time.",
    Reason.NO_WCS: "Neither the header nor the camera definition gives a usable position.",
    Reason.NO_SOURCES: "Nothing was detected.",
    Reason.NO_STARS: "Too few clean stars to model the PSF.",
    Reason.NO_REFERENCE: "The reference catalogue has no stars in the field.",
    Reason.NO_MATCH: "Too few sources match the reference catalogue for a zero point.",
    Reason.EXCLUDED: "Left out by the survey's exclusion table.",
    Reason.NO_OVERLAP: "Touches no tract of the survey's sky map.",
    Reason.WORKER_DIED: "The process that worked on it was killed (often: out of memory).",
    Reason.TOO_FEW_INPUTS: "Fewer usable inputs than the configured least number.",
    Reason.BAD_HEADER: "A header value that is needed is missing or cannot be understood.",
    Reason.DUPLICATE: "Another file holds the same visit, snap and detector.",
    Reason.SNAP_MISSING: "One of the visit's snaps could not be used; the image is of the others.",
    Reason.NOT_SCIENCE: "A wavefront or guide detector: its image is calibrated, sources are not measured.",
    Reason.AMPLIFIER_MISSING: "An amplifier is absent, dead or excluded: its pixels hold no data, the others are whole.",
    Reason.UNKNOWN_FILTER: "The header names a filter that the camera definition does not have.",
}


class ProcessingFailure(Exception):
    """Expected trouble with one unit of work.

    Parameters
    ----------
    reason : Reason
        The documented code.
    detail : str
        What was found and what was expected; deterministic (no times, hosts or temporary paths).
    """

    def __init__(self, reason: Reason | str, detail: str = "") -> None:
        self.reason = Reason(reason)
        self.detail = detail
        super().__init__(self.reason, detail)

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail or self.reason.text}"


@dataclass(frozen=True)
class Outcome:
    """What came of one unit of work: a value, or a reason why there is none."""

    item: Any
    value: Any = None
    reason: Reason | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        """True when there is a value."""
        return self.reason is None


def attempt(function: Callable[[Any], Any], item: Any) -> Outcome:
    """Call `function(item)`; a `ProcessingFailure` becomes an Outcome, a bug passes through."""
    try:
        return Outcome(item, function(item))
    except ProcessingFailure as failure:
        return Outcome(item, None, failure.reason, failure.detail)


def serial_map(function: Callable[[Any], Any], items: Any) -> list[Outcome]:
    """The pool's contract in one process, for notebooks and tests: outcomes in the order of `items`."""
    return [attempt(function, item) for item in items]
