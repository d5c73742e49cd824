"""Camera check (LDM-151 4.1.2.3): whether the header's position angle turns as the stars do.

One frame cannot tell an angle from its negative when the angle is nil, and never tells a sense from an offset:
two frames with the rotator at different angles do.
"""

from __future__ import annotations

import re

from skyquilt.instrument.camera import Camera
from skyquilt.instrument.camera_check.frames import FrameFile
from skyquilt.instrument.camera_check.report import CANNOT_TELL, DIFFERS, FITS, Finding, number

TOLERANCE = 0.3
"""[deg]."""

LEAST_TURN = 1.0
"""Least turn between two frames that tells of a sense [deg]."""

SUBJECT = "rotation sense"
ONE_KEYWORD = r"(\w+|\{[^}]*\})"


def check_rotation_sense(
    one: tuple[FrameFile, float], other: tuple[FrameFile, float], error: float, camera: Camera
) -> list[Finding]:
    """Compare the turn of the stars with the header's.

    Parameters
    ----------
    one, other : (FrameFile, float)
        Two exposures, and the position angle of the focal plane by the stars in each [deg].
    error : float
        The larger standard error of the two angles [deg].
    camera : Camera
    """
    (first, angle), (second, later) = one, other
    if first.info is None or second.info is None or None in (first.info.rotation, second.info.rotation):
        return []
    stated = wrapped(second.info.rotation - first.info.rotation)  # type: ignore[operator]
    seen = wrapped(later - angle)
    allowed = max(TOLERANCE, 5.0 * error)
    text = (
        f"from {first.name} to {second.name} the stars turn by {number(seen, 1.4 * error)} deg, the header's "
        f"position angle by {stated:+.2f}"
    )
    if max(abs(seen), abs(stated)) < LEAST_TURN:
        if is_constant(camera):
            return []
        text = f"all frames of the sky have the rotator at one angle ({first.info.rotation:.1f} deg by header.rotation)"
        return [
            Finding(CANNOT_TELL, SUBJECT, text, "a frame at another angle tells whether its sign is right")
        ]
    if abs(wrapped(seen - stated)) <= allowed:
        return [Finding(FITS, SUBJECT, text, "", seen, error, stated)]
    if abs(wrapped(seen + stated)) <= allowed:
        offset = wrapped(angle + first.info.rotation)  # type: ignore[operator]
        remedy = f"header.rotation has the other sense: {opposite_rule(camera, offset)}"
    elif abs(stated) < LEAST_TURN:
        remedy = "header.rotation: a keyword that tells the angle of the rotator, or an angle for each file (overrides)"
    else:
        remedy = (
            "header.rotation: another keyword, its unit, or an expression that adds the parallactic angle"
        )
    return [Finding(DIFFERS, SUBJECT, text, remedy, seen, error, stated)]


def is_constant(camera: Camera) -> bool:
    """Whether the definition's position angle is one number, or not given."""
    item = camera.header.item("rotation")
    return item is None or not (item.keywords or item.expression or item.rules or item.join)


def opposite_rule(camera: Camera, offset: float = 0.0) -> str:
    """The rule for the rotation that turns the other way, plus an offset [deg]."""
    item = camera.header.item("rotation")
    if item is None or is_constant(camera):
        return f"{{value: {offset:.2f}}}"
    if item.expression is None:
        source = item.keywords[0] if item.keywords else "KEYWORD"
        source = source if source.isidentifier() else f"{{{source}}}"
    else:
        source = item.expression.text.strip()
    sign = "-"
    if re.fullmatch(rf"-\s*{ONE_KEYWORD}", source):
        source, sign = source[1:].strip(), ""
    elif not re.fullmatch(ONE_KEYWORD, source):
        source = f"({source})"
    if abs(offset) < TOLERANCE:
        return f"{{expression: '{sign}{source}'}}"
    return f"{{expression: '{offset:.2f} {sign or '+'} {source}'}}"


def wrapped(angle: float) -> float:
    """An angle in -180 to 180 [deg]."""
    return (angle + 180.0) % 360.0 - 180.0
