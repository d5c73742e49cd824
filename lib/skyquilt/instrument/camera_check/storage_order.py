"""Camera check (LDM-151 4.1.2.3): amplifiers whose pixels are stored in the order opposite to the definition's.

Prescan and overscan tell: the light of a flat then lies where it would with the sections mirrored. What comes
after (levels, noise, seams, stars) is compared with the order mended, so that one mistake is one finding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skyquilt.instrument.camera import Amplifier
from skyquilt.instrument.camera_check.frames import DetectorPixels, in_hdu
from skyquilt.instrument.camera_check.layout import section
from skyquilt.instrument.camera_check.levels import LEAST_CONTRAST, find_edges, is_defect, light_above_bias
from skyquilt.instrument.camera_check.report import DIFFERS, Finding
from skyquilt.instrument.camera_check.seams import MIRRORINGS, flip_remedy
from skyquilt.primitives.geometry import Box

RAW_BOXES = ("raw_data", "raw_prescan", "raw_overscan", "raw_parallel_overscan")


def mend_storage(
    lit: DetectorPixels, frames: list[DetectorPixels]
) -> tuple[list[DetectorPixels], list[Finding]]:
    """Frames of one detector with the storage order that a lit one of them shows, and what was mended."""
    mirrorings: dict[str, tuple[bool, bool]] = {}
    amplifiers = []
    for amplifier in lit.detector.amplifiers:
        mirroring, mended = (
            _as_stored(lit, amplifier) if amplifier.name in lit.places else (MIRRORINGS[0], amplifier)
        )
        amplifiers.append(mended)
        if any(mirroring):
            mirrorings[amplifier.name] = mirroring
    if not mirrorings:
        return frames, []
    detector = replace(lit.detector, amplifiers=tuple(amplifiers))
    shown = next(a for a in amplifiers if a.name in mirrorings)
    text = (
        f"{lit.file.name}: the light of {', '.join(mirrorings)} does not lie in the data but where it would if these "
        f"were stored the other way round ({shown.name}: {section(in_hdu(shown, shown.raw_data))}); what is said "
        "below holds after that is mended"
    )
    finding = Finding(DIFFERS, f"{detector.name} storage order", text, flip_remedy(lit.detector, mirrorings))
    return [replace(pixels, detector=detector) for pixels in frames], [finding]


def _as_stored(lit: DetectorPixels, amplifier: Amplifier) -> tuple[tuple[bool, bool], Amplifier]:
    """How the sections must be mirrored for the light to lie in the data, and the amplifier so mirrored."""
    if _misplaced(lit, amplifier):
        for mirroring in MIRRORINGS[1:]:
            other = _mirrored(amplifier, *mirroring)
            same = all(getattr(other, name) == getattr(amplifier, name) for name in RAW_BOXES)
            if not same and not _misplaced(lit, other):
                return mirroring, other
    return MIRRORINGS[0], amplifier


def _misplaced(pixels: DetectorPixels, amplifier: Amplifier) -> bool:
    """Whether light is seen, or missed, in other places than the amplifier's sections; False without overscan."""
    contrast, error = light_above_bias(pixels, amplifier)
    if not np.isfinite(contrast):
        return False
    if contrast < LEAST_CONTRAST * error:
        return True
    edges = find_edges(pixels, amplifier)
    return not edges or any(e.found != e.defined and not is_defect(pixels, amplifier, e) for e in edges)


def _mirrored(amplifier: Amplifier, in_x: bool, in_y: bool) -> Amplifier:
    """The same with its raw boxes mirrored within its raw section, and flips to match."""
    whole = amplifier.raw_section

    def turned(box: Box | None) -> Box | None:
        if box is None:
            return None
        x0 = whole.nx - box.x1 if in_x else box.x0
        return Box(x0, whole.ny - box.y1 if in_y else box.y0, box.nx, box.ny)

    boxes = {name: turned(getattr(amplifier, name)) for name in RAW_BOXES}
    return replace(amplifier, **boxes, flip_x=amplifier.flip_x ^ in_x, flip_y=amplifier.flip_y ^ in_y)
