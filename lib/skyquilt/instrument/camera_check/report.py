"""Camera check (LDM-151 4.1.2.3, design 5): what it finds, and how it is said."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

FITS = "fits"
DIFFERS = "differs"
CANNOT_TELL = "cannot tell"
LEVELS = (DIFFERS, CANNOT_TELL, FITS)
"""In the order of the report."""


@dataclass(frozen=True)
class Finding:
    """One comparison of frames with the definition.

    Parameters
    ----------
    level : str
        fits, differs or cannot tell.
    subject : str
        What was compared: "header exposure_time", "C3 A1 gain".
    text : str
        What was found, what was expected, where.
    remedy : str
        What to write into the definition.
    value, error : float
        The measured number and its standard error, in the unit that `text` states; NaN where it is no number.
    expected : float
        The definition's number.
    """

    level: str
    subject: str
    text: str
    remedy: str = ""
    value: float = math.nan
    error: float = math.nan
    expected: float = math.nan

    def line(self) -> str:
        """One or two lines for people."""
        remedy = f"\n    -> {self.remedy}" if self.remedy else ""
        return f"  {self.subject}: {self.text}{remedy}"


@dataclass(frozen=True)
class Report:
    """All findings about some frames.

    Parameters
    ----------
    camera : str
        Name of the definition; empty when there was none.
    files : tuple of str
    findings : tuple of Finding
    description : tuple of str
        What the files look like.
    definition : str
        A starting definition in YAML, when there was none.
    """

    camera: str
    files: tuple[str, ...]
    findings: tuple[Finding, ...]
    description: tuple[str, ...] = field(default_factory=tuple)
    definition: str = ""

    def of(self, level: str) -> list[Finding]:
        """Findings of a level."""
        return [finding for finding in self.findings if finding.level == level]

    def finding(self, subject: str) -> Finding:
        """The finding about a subject; KeyError with the subjects there are."""
        for finding in self.findings:
            if finding.subject == subject:
                return finding
        raise KeyError(f"nothing about {subject!r}, only {[finding.subject for finding in self.findings]}")

    @property
    def good(self) -> bool:
        """Whether nothing differs."""
        return not self.of(DIFFERS)

    def text(self) -> str:
        """The report as text."""
        lines = [f"{len(self.files)} files" + (f" and camera {self.camera}" if self.camera else "")]
        lines += self.description
        for level in LEVELS:
            found = self.of(level)
            if found:
                lines += ["", f"{level} ({len(found)})", *(finding.line() for finding in found)]
        if self.definition:
            lines += ["", "A definition to start from:", "", self.definition.rstrip()]
        return "\n".join(lines)


def compared(
    subject: str,
    what: str,
    value: float,
    error: float,
    expected: float,
    unit: str,
    tolerance: float,
    remedy: str,
) -> Finding:
    """A measured number beside the definition's: differs beyond three errors and `tolerance` [unit]."""
    same = abs(value - expected) <= max(3.0 * error, tolerance)
    text = f"{what} {number(value, error)} {unit}, the definition says {expected:g}"
    return Finding(FITS if same else DIFFERS, subject, text, "" if same else remedy, value, error, expected)


def number(value: float, error: float) -> str:
    """Value +- error, with two digits of the error."""
    if not (math.isfinite(error) and error > 0):
        return f"{value:.6g}"
    digits = min(max(0, 1 - math.floor(math.log10(error))), 5)
    return f"{value:.{digits}f} +- {error:.{digits}f}"
