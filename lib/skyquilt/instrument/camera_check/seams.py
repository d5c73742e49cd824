"""Camera check (LDM-151 4.1.2.3): flips of amplifiers, from the continuity of the image across their seams.

Light does not know of amplifiers: along a seam, the profile of the pixels on one side goes on in those on the
other. Each amplifier is tried in its four mirrorings; the correlation of the two profiles of every seam tells
which of them continue. What mirrors a whole detector changes no seam: that is a matter of stars.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.instrument.camera_check.frames import DetectorPixels
from skyquilt.instrument.camera_check.report import CANNOT_TELL, DIFFERS, FITS, Finding

MIRRORINGS = ((False, False), (True, False), (False, True), (True, True))
DEPTH = 3
"""Pixels on each side of a seam that make its profile."""

LEAST = 4.0
"""Least continuation, and lead of the best hypothesis over the definition and over none at all, in standard
deviations of uncorrelated profiles."""

WORDS = {
    (False, False): "as defined",
    (True, False): "mirrored in x",
    (False, True): "mirrored in y",
    (True, True): "turned by 180 degrees",
}


@dataclass(frozen=True)
class Seam:
    """Two amplifiers side by side, and the sides at which they meet."""

    one: int
    other: int
    sides: tuple[str, str]


def find_seams(amplifiers: list[Amplifier]) -> list[Seam]:
    """Seams along the whole side of two amplifiers of a detector."""
    seams = []
    for (i, a), (j, b) in itertools.permutations(enumerate(amplifiers), 2):
        if a.data.x1 == b.data.x0 and (a.data.y0, a.data.ny) == (b.data.y0, b.data.ny):
            seams.append(Seam(i, j, ("right", "left")))
        elif a.data.y1 == b.data.y0 and (a.data.x0, a.data.nx) == (b.data.x0, b.data.nx):
            seams.append(Seam(i, j, ("top", "bottom")))
    return seams


def check_flips(frames: list[DetectorPixels]) -> list[Finding]:
    """Whether other mirrorings of the amplifiers of one detector continue better, in all its lit frames."""
    if not frames:
        return []
    detector = frames[0].detector
    amplifiers = [a for a in detector.amplifiers if all(a.name in p.places for p in frames)]
    seams = find_seams(amplifiers)
    subject = f"{detector.name} flips"
    if not seams:
        if len(detector.amplifiers) < 2:
            return []
        return [Finding(CANNOT_TELL, subject, "no two amplifiers meet along a whole side")]
    tables = np.zeros((len(seams), 4, 4))
    for pixels in frames:
        images = [_normalised(pixels, amplifier) for amplifier in amplifiers]
        for number, seam in enumerate(seams):
            tables[number] += _table(images[seam.one], images[seam.other], seam)
    # the mean and not the sum: without dithers all frames have the same stars on the seams
    tables /= len(frames)
    best = _best(tables, seams, len(amplifiers))
    return _findings(detector, tables, seams, amplifiers, best)


def _normalised(pixels: DetectorPixels, amplifier: Amplifier) -> np.ndarray:
    """Its image in assembled order, less its median; gains of amplifiers do not matter to a correlation."""
    image = amplifier.to_assembled(pixels.image(amplifier)[amplifier.raw_section.slices()])
    return image - np.float32(np.nanmedian(image))


def _table(one: np.ndarray, other: np.ndarray, seam: Seam) -> np.ndarray:
    """Significance of the continuation for each mirroring of the two, shape (4, 4)."""
    firsts = [_profile(one, seam.sides[0], mirror) for mirror in MIRRORINGS]
    seconds = [_profile(other, seam.sides[1], mirror) for mirror in MIRRORINGS]
    return np.array([[_significance(a, b) for b in seconds] for a in firsts])


def _profile(image: np.ndarray, side: str, mirror: tuple[bool, bool]) -> np.ndarray:
    """Profile along one side of a mirrored image, with slow changes and outliers taken out, in units of noise."""
    view = image[:: -1 if mirror[1] else 1, :: -1 if mirror[0] else 1]
    if side in ("left", "right"):
        strip = (view[:, :DEPTH] if side == "left" else view[:, -DEPTH:]).astype(np.float64)
        profile = np.nanmean(strip, axis=1)
    else:
        strip = (view[:DEPTH] if side == "bottom" else view[-DEPTH:]).astype(np.float64)
        profile = np.nanmean(strip, axis=0)
    return _whitened(profile)


def _whitened(profile: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    profile = np.where(np.isfinite(profile), profile, np.nanmedian(profile))
    profile = profile - ndimage.median_filter(profile, min(51, profile.size | 1), mode="nearest")
    # the image of a star spans some pixels: what varies from pixel to pixel is noise
    smooth = ndimage.gaussian_filter1d(profile, 1.0)
    width = 1.4826 * np.median(np.abs(smooth - np.median(smooth)))
    return np.arctan((smooth - np.median(smooth)) / max(3.0 * width, 1e-9))


def _significance(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation in units of its standard deviation for profiles that have nothing in common (Bartlett 1946)."""
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    if not norm > 0:
        return 0.0
    return float((a * b).sum() / norm / np.sqrt(_correlated_variance(a, b)))


def _correlated_variance(a: np.ndarray, b: np.ndarray) -> float:
    n, lags = a.size, min(12, a.size // 4)
    own = [np.array([(v[: n - k] * v[k:]).sum() for k in range(lags)]) / (v**2).sum() for v in (a, b)]
    return max(1.0 + 2.0 * float((own[0][1:] * own[1][1:]).sum()), 1.0) / n


def _best(tables: np.ndarray, seams: list[Seam], count: int) -> np.ndarray:
    """Mirrorings of all amplifiers with the largest sum over the seams."""
    if count <= 4:
        choices = [np.array(choice) for choice in itertools.product(range(4), repeat=count)]
        return max(choices, key=lambda choice: _total(tables, seams, choice))
    best = np.zeros(count, int)
    # amplifier by amplifier until nothing gets better; from the definition and from each common mirroring
    for start in range(4):
        choice = np.full(count, start)
        for _ in range(4 * count):
            before = choice.copy()
            for i in range(count):
                sums = []
                for mirroring in range(4):
                    choice[i] = mirroring
                    sums.append(_total(tables, seams, choice))
                choice[i] = int(np.argmax(sums))
            if (choice == before).all():
                break
        if _total(tables, seams, choice) > _total(tables, seams, best):
            best = choice
    return best


def _total(tables: np.ndarray, seams: list[Seam], choice: np.ndarray) -> float:
    return float(sum(tables[k, choice[s.one], choice[s.other]] for k, s in enumerate(seams)))


def _findings(
    detector: Detector, tables: np.ndarray, seams: list[Seam], amplifiers: list[Amplifier], best: np.ndarray
) -> list[Finding]:
    subject = f"{detector.name} flips"
    scale = np.sqrt(len(seams))
    defined = _total(tables, seams, np.zeros(len(amplifiers), int)) / scale
    found = _total(tables, seams, best) / scale
    # the best of many hypotheses is no better than the best of chance unless it continues for itself
    if found - max(defined, 0.0) < LEAST:
        if defined < LEAST:
            text = f"the image continues across {_count(seams)} with {defined:.1f} sigma only: too few stars there"
            remedy = "--reference with the stars of the field, or a frame of a crowded one"
            return [Finding(CANNOT_TELL, subject, text, remedy)]
        text = (
            f"the image continues across {_count(seams)} of the amplifiers as defined ({defined:.0f} sigma)"
        )
        return [Finding(FITS, subject, text, "", defined, 1.0)]
    # mirroring all alike is the same to the seams where amplifiers lie in one row: leave what can stay
    alike = [_relative(best, common) for common in range(4)]
    alike = [c for c in alike if found - _total(tables, seams, c) / scale < 0.5 * LEAST]
    best = max([*alike, best], key=lambda choice: int((choice == 0).sum()))
    chosen = {a.name: MIRRORINGS[c] for a, c in zip(amplifiers, best, strict=True)}
    text = (
        f"the image does not continue across the seams as defined ({defined:.1f} sigma), with {in_words(chosen)} "
        f"it does ({found:.1f} sigma)"
    )
    remedy = flip_remedy(detector, chosen)
    return [Finding(DIFFERS, subject, text, remedy, found, 1.0, defined)]


def _relative(choice: np.ndarray, common: int) -> np.ndarray:
    """The same mirrorings with one more applied to all."""
    return np.bitwise_xor(choice, common)


def _count(seams: list[Seam]) -> str:
    return f"{len(seams)} seam{'s' * (len(seams) > 1)}"


def in_words(mirrorings: dict[str, tuple[bool, bool]]) -> str:
    """ "R mirrored in x, ..." of the amplifiers that are not as defined."""
    return ", ".join(f"{name} {WORDS[mirroring]}" for name, mirroring in mirrorings.items() if any(mirroring))


def flip_remedy(detector: Detector, mirrorings: dict[str, tuple[bool, bool]]) -> str:
    """What to write for amplifiers of a detector (by name) that are mirrored (in x, in y) against the definition."""
    amplifiers = detector.amplifiers
    flips = {a.name: (a.flip_x, a.flip_y) for a in amplifiers}
    wanted = {
        name: tuple(old ^ new for old, new in zip(flip, mirrorings.get(name, (False, False)), strict=True))
        for name, flip in flips.items()
    }
    corner = {a.name: ("right" in a.read_out, "upper" in a.read_out) for a in amplifiers}
    if wanted == corner:
        grid = "stored: as_read"
    elif not any(any(flip) for flip in wanted.values()):
        grid = "stored: as_assembled"
    else:
        words = [f"{'upper' if y else 'lower'}_{'right' if x else 'left'}" for x, y in wanted.values()]
        one = len(set(words)) == 1
        grid = f"stored: as_read with read_out: {words[0] if one else '[' + ', '.join(words) + ']'}"
    return (
        f"{in_words(mirrorings)}: in a grid, {grid}; in a list, reverse its range of `data` (x: '[2048:1025,...]', "
        "y: the second)"
    )
