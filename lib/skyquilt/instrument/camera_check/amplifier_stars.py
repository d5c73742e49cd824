"""Camera check (LDM-151 4.1.2.3): flips of amplifiers, from the stars of each in a reference catalogue.

The pattern of a detector's stars is found in the catalogue even when some amplifiers are flipped wrongly: by the
stars of those that agree with each other. With the map of the amplifier that has most of them, the stars of
every other amplifier are tried in four mirrorings about the middle of its place. That amplifier may itself be
the wrong one: the map is then mirrored about its middle, and the others tried once more. Unlike seams
(`seams`), this needs no star at the border of two amplifiers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.instrument.camera import Amplifier, Camera
from skyquilt.instrument.camera_check.placement import ReferenceMatch, SkyFrame, sky_of
from skyquilt.instrument.camera_check.report import DIFFERS, FITS, Finding
from skyquilt.instrument.camera_check.seams import MIRRORINGS, flip_remedy, in_words

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

LEAST_STARS = 3
"""Least stars of an amplifier that tell of its mirroring, and least factor by which they outnumber all others."""

LEAST_RADIUS = 3.0
"""Tolerance of a match [pixel] ..."""

RADIUS = 0.003
"""... and at least this share of the detector's longer side: distortion that the definition does not have."""


@dataclass(frozen=True)
class FlipVerdict:
    """Mirrorings of the amplifiers of one detector against its definition.

    Parameters
    ----------
    mirrorings : dict of str to (bool, bool)
        Amplifier -> mirrored in x, in y; only those whose stars tell.
    defined, found, total : int
        Stars in the catalogue with the definition's flips, with these, and of all those amplifiers.
    """

    mirrorings: dict[str, tuple[bool, bool]]
    defined: int
    found: int
    total: int

    @property
    def wrong(self) -> bool:
        """Whether any amplifier is mirrored."""
        return any(any(mirroring) for mirroring in self.mirrorings.values())

    def corrected(self, frame: SkyFrame) -> SkyFrame:
        """The frame with its stars where they are when the flips are mended."""
        assert frame.stars is not None
        x, y = frame.stars.x.copy(), frame.stars.y.copy()
        for amplifier in frame.detector.amplifiers:
            own = _inside(amplifier, frame.stars.x, frame.stars.y)
            mirroring = self.mirrorings.get(amplifier.name, (False, False))
            x[own], y[own] = _mirrored(amplifier, x[own], y[own], mirroring)
        return replace(frame, stars=frame.stars._replace(x=x, y=y))

    def finding(self, frame: SkyFrame) -> Finding | None:
        """What to say of it; None when not all amplifiers are told of and none is wrong."""
        complete = len(self.mirrorings) == len(frame.detector.amplifiers)
        # where only some are told of, the seams may say more
        subject = f"{frame.detector.name} flips" + ("" if complete else " of some amplifiers")
        if self.wrong:
            text = (
                f"{frame.file.name}: {self.defined} of {self.total} stars lie where the catalogue has them with the "
                f"amplifiers as defined, {self.found} with {in_words(self.mirrorings)}; what is said of places and "
                "angles holds after that is mended"
            )
            return Finding(
                DIFFERS,
                subject,
                text,
                flip_remedy(frame.detector, self.mirrorings),
                self.found,
                np.nan,
                self.defined,
            )
        if not complete or len(self.mirrorings) < 2:
            return None
        text = (
            f"{frame.file.name}: stars of all {len(self.mirrorings)} amplifiers lie where the catalogue has them "
            f"({self.found} found of {self.total})"
        )
        return Finding(FITS, subject, text, "", self.found)


def judge_flips(frame: SkyFrame, camera: Camera, found: ReferenceMatch) -> FlipVerdict:
    """Which amplifiers of a detector are mirrored against the definition, by stars that `found` has matched."""
    stars, detector = frame.stars, frame.detector
    assert stars is not None
    owned = {a.name: np.flatnonzero(_inside(a, stars.x, stars.y)) for a in detector.amplifiers}
    matched = found.match.matches[:, 0]
    anchor = max(detector.amplifiers, key=lambda a: int(np.isin(owned[a.name], matched).sum()))
    counter = _Counter(frame, camera, found, owned)
    others = [a for a in detector.amplifiers if a is not anchor and owned[a.name].size]
    hypotheses = []
    for own in MIRRORINGS:
        counts = {a.name: [counter.count(a, m, anchor, own) for m in MIRRORINGS] for a in others}
        told = {name: MIRRORINGS[int(np.argmax(c))] for name, c in counts.items() if _tells(c)}
        hypotheses.append((sum(max(counts[name]) for name in told), own, told))
    most = max(number for number, *_ in hypotheses)
    if others and not most:
        return FlipVerdict({}, 0, 0, 0)

    def rank(
        hypothesis: tuple[int, tuple[bool, bool], dict[str, tuple[bool, bool]]],
    ) -> tuple[bool, bool, int]:
        _, own, told = hypothesis
        wrong = sum(any(mirroring) for mirroring in (own, *told.values()))
        parity = found.match.parity * (-1 if own[0] != own[1] else 1)
        return wrong > 0, parity < 0, wrong

    # of amplifiers in one row, all mirrored in y look like the whole detector mirrored: the definition's parity decides
    _, own, told = min((h for h in hypotheses if 2 * h[0] >= most), key=rank)
    judged = [a for a in detector.amplifiers if a is anchor or a.name in told]
    mirrorings = {a.name: told.get(a.name, own) for a in judged}
    number = [counter.count(a, mirrorings[a.name], anchor, own) for a in judged]
    defined = [counter.count(a, MIRRORINGS[0], anchor, MIRRORINGS[0]) for a in judged]
    total = sum(owned[a.name].size for a in judged)
    return FlipVerdict(mirrorings, sum(defined), sum(number), total)


class _Counter:
    """Stars of an amplifier that are in the catalogue when it, and the map's amplifier, are mirrored."""

    def __init__(
        self, frame: SkyFrame, camera: Camera, found: ReferenceMatch, owned: dict[str, np.ndarray]
    ) -> None:
        from scipy.spatial import cKDTree

        self.frame, self.camera, self.found, self.owned = frame, camera, found, owned
        detector = frame.detector
        pixels = max(LEAST_RADIUS, RADIUS * max(detector.nx, detector.ny))
        self.radius = pixels * detector.pixel_size * camera.plate_scale / 3600.0 * found.match.scale
        self.tree: cKDTree = cKDTree(np.column_stack([found.places.real, found.places.imag]))

    def count(
        self,
        amplifier: Amplifier,
        mirroring: tuple[bool, bool],
        anchor: Amplifier,
        of_anchor: tuple[bool, bool],
    ) -> int:
        stars = self.frame.stars
        assert stars is not None
        own = self.owned[amplifier.name]
        x, y = _mirrored(amplifier, stars.x[own], stars.y[own], mirroring)
        # the map takes the anchor's stars as the definition places them to the sky
        x, y = _mirrored(anchor, x, y, of_anchor)
        at = self.found.match.forward(sky_of(self.frame.detector, self.camera, x, y))
        distance, _ = self.tree.query(np.column_stack([at.real, at.imag]), distance_upper_bound=self.radius)
        return int(np.isfinite(distance).sum())


def _tells(counts: list[int]) -> bool:
    """Whether one mirroring stands out: chance makes as many matches in the others as in it."""
    ordered = sorted(counts)
    return ordered[-1] >= LEAST_STARS * max(ordered[-2], 1)


def _inside(amplifier: Amplifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether positions [pixel] lie on an amplifier's part of the detector."""
    box = amplifier.data
    return (x >= box.x0 - 0.5) & (x < box.x1 - 0.5) & (y >= box.y0 - 0.5) & (y < box.y1 - 0.5)


def _mirrored(
    amplifier: Amplifier, x: np.ndarray, y: np.ndarray, mirroring: tuple[bool, bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions mirrored about the middle of an amplifier's part of the detector."""
    box = amplifier.data
    return (
        box.x0 + box.x1 - 1 - x if mirroring[0] else x,
        box.y0 + box.y1 - 1 - y if mirroring[1] else y,
    )
