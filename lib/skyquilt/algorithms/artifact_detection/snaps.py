"""Snap Subtraction (LDM-151 8.2.3, 5.1.1.6) and CombineSnaps (5.1.1.7): the exposures of one visit beside each other.

Snaps of a visit share pointing and pixels, so nothing is resampled. `subtract_snaps` compares them: what is sharper
than light in one and absent from the other is a cosmic ray at a lower threshold than one image allows, what is
sharper than light in their difference is one in front of a source, a line that is in one only is a trail, and what
both have is neither. Half the noise of the difference is the other snap's, so an event is held against the light around it
there too. Light that changes is spared: a moving or variable object is
no sharper than the PSF, and near stars, where seeing and guiding differ, the threshold grows with the range of values
within a pixel.

`combine_snaps` adds electrons. A pixel lost in some of the snaps is filled from the others,

    sum = sum(a) / sum_G(a) * sum_G(I - b) + sum(b),    variance = (sum(a) / sum_G(a))^2 sum_G(V),

with G the good snaps and I_k = a_k I_1 + b_k the relation of their light and sky, from the pixels or else from the
exposure times. Such a pixel is good data with a larger variance: its COSMIC_RAY or STREAK goes, nothing is set in its
place, and how many there were is said in `info`. A pixel lost in all keeps its flags. SATURATED in any snap is
SATURATED in the sum, and so is every other plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from skyquilt.algorithms.artifact_detection.cosmic_rays import (
    CosmicRayConfig,
    CosmicRays,
    find_cosmic_rays,
    sky_of,
)
from skyquilt.algorithms.artifact_detection.satellite_trails import (
    SatelliteTrailsConfig,
    Trail,
    find_trails,
    trail_mask,
)
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.exposure import ELECTRON, Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.psf import Psf
from skyquilt.primitives.statistics import mad_width

_BIN = 16
_LEAST_BINS = 20
_ROWS = 128
_GROW_ROUNDS = 10
"""Hits grow by so many pixels at most: what goes on is a trail that was not found."""
_NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)


@dataclass(frozen=True)
class SnapsConfig:
    """Comparison and combination of the snaps of a visit."""

    bad_planes: tuple[str, ...] = ("BAD", "SATURATED", "NO_DATA")
    """Pixels that are not compared."""
    changed: float = 4.5
    """Least excess over the other snap of an event's brightest pixel [sigma]."""
    above: float = 4.2
    """Least excess over the light around it in the other snap [sigma]: of an event that the difference alone shows; of
    one that the snap shows, over the most light that a source can have there, where `changed` is not reached."""
    unrefuted: float = 2.0
    """The same for an event that one image alone shows: what the other snap has too is no hit [sigma]."""
    sharper: float = 2.5
    """Least response in the snap itself, of a filter that is blind to light, where the other snap agrees [sigma]."""
    stronger: float = 4.2
    """Least charge in the shape of such a hit [sigma]."""
    grow: float = 3.0
    """Least excess over the other snap of a pixel next to a hit [sigma]."""
    seeing_error: float = 0.15
    """Error of the difference from seeing and guiding, as a share of the range of values within a pixel."""
    find_trails: bool = True
    """Look for trails that are in one snap only."""
    fill_planes: tuple[str, ...] = ("COSMIC_RAY", "STREAK")
    """Pixels of one snap that are filled from the others in the sum and are then good."""

    def __post_init__(self) -> None:
        if self.changed <= 0 or self.sharper <= 0 or self.seeing_error < 0:
            raise ValueError(
                "snaps need changed > 0, sharper > 0 and seeing_error >= 0, got "
                f"{self.changed}, {self.sharper}, {self.seeing_error}"
            )


@dataclass(frozen=True)
class SnapRelation:
    """Second snap = scale * first + offset, and from how many bins (0: from the exposure times).

    Parameters
    ----------
    scale : float
    scale_error : float
        0 where the scale is that of the exposure times.
    offset : float
        [unit of the image]
    n_bins : int
    """

    scale: float
    scale_error: float
    offset: float
    n_bins: int


@dataclass(frozen=True)
class SnapArtifacts:
    """What is in one snap only.

    Parameters
    ----------
    cosmic_rays : tuple of two ndarray of bool, shape (ny, nx)
        Hit pixels of the first and the second snap.
    streaks : tuple of two ndarray of bool, shape (ny, nx)
        Pixels of trails.
    n_events, n_trails : tuple of two int
    relation : SnapRelation
    """

    cosmic_rays: tuple[np.ndarray, np.ndarray]
    streaks: tuple[np.ndarray, np.ndarray]
    n_events: tuple[int, int]
    n_trails: tuple[int, int]
    relation: SnapRelation

    def mark(self, exposures: Sequence[Exposure]) -> None:
        """Set COSMIC_RAY and STREAK in the masks of the two snaps, in place."""
        for exposure, hits, streaks in zip(exposures, self.cosmic_rays, self.streaks, strict=True):
            exposure.mask.set("COSMIC_RAY", hits)
            exposure.mask.set("STREAK", streaks)


def subtract_snaps(
    first: Exposure,
    second: Exposure,
    config: SnapsConfig,
    cosmic_rays: CosmicRayConfig,
    trails: SatelliteTrailsConfig,
    psf: Psf | None = None,
    fwhm: float | None = None,
) -> SnapArtifacts:
    """Find the cosmic rays and trails that are in one of two snaps of the same pointing (5.1.1.6).

    Parameters
    ----------
    first, second : Exposure
        Same box and unit; backgrounds subtracted or not. Not changed (see `SnapArtifacts.mark`).
    config : SnapsConfig
    cosmic_rays, trails : CosmicRayConfig, SatelliteTrailsConfig
        Of the searches in a single image.
    psf : Psf, optional
    fwhm : float, optional
        As of `find_cosmic_rays`.

    Raises
    ------
    ValueError
        When box or unit differ.
    ProcessingFailure
        NO_GOOD_PIXELS.
    """
    _check_same([first, second])
    bad = [exposure.mask.any(config.bad_planes, missing_ok=True) for exposure in (first, second)]
    both = bad[0] | bad[1]
    relation = relate_snaps(first, second, both)
    difference, variance = _difference(first, second, both, relation, config)
    level, _ = sky_of(difference, both, variance, cosmic_rays.block)
    difference -= np.float32(np.median(level))
    full = [exposure.mask.any("SATURATED", missing_ok=True) for exposure in (first, second)]
    defects = [each & ~saturated for each, saturated in zip(bad, full)]
    sure = [
        find_cosmic_rays(each.image, unusable, each.variance, cosmic_rays, psf, fwhm, dead)
        for each, unusable, dead in zip((first, second), bad, defects)
    ]
    hits, lines, n_events = [], [], []
    for number, exposure in enumerate((first, second)):
        if number:
            np.negative(difference, out=difference)
        # hits of the other snap are holes in the difference, and what is beside a hole looks sharp
        holes = ndimage.binary_dilation(sure[1 - number].pixels, np.ones((3, 3), bool)) & ~both
        apart = _Difference(difference, variance, both, holes, both & ~(full[0] | full[1]))
        lowered = _lowered(cosmic_rays, config)
        doubtful = find_cosmic_rays(
            exposure.image, bad[number], exposure.variance, lowered, None, sure[number].fwhm, defects[number]
        )
        found, n = _changed_pixels(exposure, sure[number], doubtful, apart, config, cosmic_rays)
        hits.append(found)
        n_events.append(n)
        lines.append(find_trails(difference, variance, both | found, trails) if config.find_trails else [])
    lines = [
        [*lines[number], *_on_the_same_track(exposure, bad[number] | hits[number], lines, number, trails)]
        for number, exposure in enumerate((first, second))
    ]
    streaks = [trail_mask(each, first.shape, trails) for each in lines]
    for number in (1, 0):
        # a hit on a trail would grow along it: the other snap has none
        blocked = both | streaks[0] | streaks[1]
        _grow_by_difference(hits[number], difference, variance, blocked, config.grow)
        np.negative(difference, out=difference)
    n_trails = [len(each) for each in lines]
    return SnapArtifacts(tuple(hits), tuple(streaks), tuple(n_events), tuple(n_trails), relation)


def _on_the_same_track(
    exposure: Exposure,
    unusable: np.ndarray,
    lines: Sequence[Sequence[Trail]],
    number: int,
    config: SatelliteTrailsConfig,
) -> list[Trail]:
    """Trails of one snap where the other has one: satellites follow each other, and the brighter hides the fainter."""
    others = [(trail.x0, trail.y0, trail.x1, trail.y1) for trail in lines[1 - number]]
    if not others:
        return []
    hidden = unusable | trail_mask(lines[number], exposure.shape, config)
    return find_trails(exposure.image, exposure.variance, hidden, config, None, others, search=False)


def relate_snaps(first: Exposure, second: Exposure, bad: np.ndarray) -> SnapRelation:
    """Scale of the light and offset of the sky of the second snap beside the first.

    The scale is the median ratio of the light above the sky in bins of 16 pixels, which seeing hardly changes and
    hits do not reach; with fewer than 20 bright bins that of the exposure times.

    Raises
    ------
    ProcessingFailure
        NO_GOOD_PIXELS when no bin is free of bad pixels by half.
    """
    one, two, noise = _bins(first, second, bad)
    if one.size == 0:
        raise ProcessingFailure(
            Reason.NO_GOOD_PIXELS, "the snaps share no bin of 16 pixels with half its pixels good"
        )
    guess = _time(second) / _time(first)
    sky = float(np.percentile(one, 30)), float(np.percentile(two, 30))
    light, other = one - sky[0], two - sky[1]
    bright = (light + other / guess > 60 * noise) & (light > 0) & (other > 0)
    n = int(np.count_nonzero(bright))
    scale, error = guess, 0.0
    if n >= _LEAST_BINS:
        ratio = other[bright] / light[bright]
        scale = float(np.median(ratio))
        error = 1.2533 * float(mad_width(ratio)) / np.sqrt(n)
    offset = float(np.median(two - scale * one))
    return SnapRelation(scale, error, offset, n if n >= _LEAST_BINS else 0)


def combine_snaps(
    exposures: Sequence[Exposure | None],
    config: SnapsConfig,
    relations: Sequence[SnapRelation] | None = None,
) -> Exposure:
    """The sum of the snaps of a visit (5.1.1.7).

    Parameters
    ----------
    exposures : sequence of Exposure or None
        In the order of the snaps, in electrons, hits marked; None for a snap that is missing. The visit goes on with
        the others, at their exposure time; `info["missing_snaps"]` counts what is not there.
    config : SnapsConfig
    relations : sequence of SnapRelation, optional
        Of each further snap to the first that is there; measured by default.

    Returns
    -------
    Exposure
        Components of the first snap (background: none, the sum is of unsubtracted images). In `info` besides:
        exposure_time (sum), datetime_begin, datetime_end, datetime_mid (weighted with exposure time), n_snaps,
        missing_snaps and filled_pixels.

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS when every snap is missing.
    ValueError
        When box or unit differ, or the unit is not electron.
    """
    present = [exposure for exposure in exposures if exposure is not None]
    if not present:
        raise ProcessingFailure(Reason.TOO_FEW_INPUTS, f"none of the {len(exposures)} snaps is there")
    _check_same(present)
    if present[0].unit != ELECTRON:
        raise ValueError(f"snaps are added in {ELECTRON}, got {present[0].unit}")
    info = _combined_info(present, len(exposures))
    if len(present) == 1:
        return present[0].copy().with_(info=info | {"filled_pixels": 0})
    present = [each.with_background(None) if each.background is not None else each for each in present]
    unusable = [each.mask.any((*config.bad_planes, *config.fill_planes), missing_ok=True) for each in present]
    if relations is None:
        relations = [
            relate_snaps(present[0], other, unusable[0] | bad)
            for other, bad in zip(present[1:], unusable[1:])
        ]
    scale = np.array([1.0, *(relation.scale for relation in relations)])
    offset = np.array([0.0, *(relation.offset for relation in relations)])
    image, variance = (np.empty(present[0].shape, np.float32) for _ in range(2))
    lost = np.stack(unusable)
    filled = 0
    for start in range(0, image.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        filled += add_rows(
            np.stack([each.image[rows] for each in present]),
            np.stack([each.variance[rows] for each in present]),
            lost[:, rows],
            scale,
            offset,
            image[rows],
            variance[rows],
        )
    mask = _combined_mask(present, lost, config)
    return present[0].with_(
        image=image, variance=variance, mask=mask, info=info | {"filled_pixels": int(filled)}
    )


def _check_same(exposures: Sequence[Exposure]) -> None:
    first = exposures[0]
    for other in exposures[1:]:
        if other.box != first.box or other.unit != first.unit:
            raise ValueError(
                f"snaps must share box and unit, got {first.box} [{first.unit}] and {other.box} [{other.unit}]"
            )


def _time(exposure: Exposure) -> float:
    time = exposure.info.get("exposure_time")
    return float(time) if time else 1.0


def _bins(first: Exposure, second: Exposure, bad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of both snaps and noise of the mean in bins of which half is good in both; each of shape (n,)."""
    ny, nx = (size // _BIN * _BIN for size in first.shape)
    good = ~bad[:ny, :nx]

    def binned(plane: np.ndarray) -> np.ndarray:
        kept = np.where(good, plane[:ny, :nx], np.float32(0))
        return kept.reshape(ny // _BIN, _BIN, nx // _BIN, _BIN).sum(axis=(1, 3), dtype=np.float64)

    count = binned(good)
    chosen = count >= _BIN * _BIN / 2
    n = count[chosen]
    noise = np.sqrt(binned(first.variance)[chosen]) / n
    return binned(first.image)[chosen] / n, binned(second.image)[chosen] / n, noise


def _difference(first, second, bad, relation, config) -> tuple[np.ndarray, np.ndarray]:
    """First snap less the second on the first's scale, and its variance with what seeing may do."""
    scale = np.float32(relation.scale)
    image = second.image - np.float32(relation.offset)
    image /= scale
    np.subtract(first.image, image, out=image)
    variance = np.empty_like(image)
    difference_variance(
        first.image,
        second.image,
        first.variance,
        second.variance,
        bad,
        float(relation.scale),
        float(config.seeing_error),
        variance,
    )
    return image, variance


@dataclass(frozen=True)
class _Difference:
    """Snap that is looked at less the other, its variance; pixels bad in either, hit in the other, bad and not full."""

    image: np.ndarray
    variance: np.ndarray
    unusable: np.ndarray
    holes: np.ndarray
    defects: np.ndarray


def _lowered(cosmic_rays: CosmicRayConfig, config: SnapsConfig) -> CosmicRayConfig:
    """Thresholds for hits that the other snap has to confirm."""
    return replace(
        cosmic_rays,
        sharper=min(config.sharper, cosmic_rays.sharper),
        weak=min(config.sharper, cosmic_rays.weak),
        stronger=min(config.stronger, cosmic_rays.stronger),
        width_margin=0.0,
    )


def _changed_pixels(
    exposure: Exposure,
    sure: CosmicRays,
    doubtful: CosmicRays,
    apart: _Difference,
    config: SnapsConfig,
    cosmic_rays: CosmicRayConfig,
) -> tuple[np.ndarray, int]:
    """Pixels and number of the events of one snap that the other has not."""
    at = doubtful.pixel_index
    with np.errstate(invalid="ignore"):
        excess = apart.image.ravel()[at] / np.sqrt(apart.variance.ravel()[at])
    unknown = apart.unusable.ravel()[at]
    n = len(doubtful.x)
    best, higher = np.full(n, -np.inf), np.full(n, -np.inf)
    np.maximum.at(best, doubtful.pixel_event[~unknown], excess[~unknown])
    level = sky_of(exposure.image, apart.unusable, exposure.variance, cosmic_rays.block)[0]
    level = level[tuple(v // cosmic_rays.block for v in np.divmod(at, apart.image.shape[1]))]
    above = _above_light(exposure, apart, at, level, sure.fwhm, config)
    np.maximum.at(higher, doubtful.pixel_event, above)
    alone = np.bincount(doubtful.pixel_event, weights=sure.pixels.ravel()[at], minlength=n) > 0
    known = np.bincount(doubtful.pixel_event[~unknown], minlength=n) > 0
    changed = (best > config.changed) | ((best > config.unrefuted) & (higher > config.above))
    # where the other snap has nothing to say, what one image shows must do
    kept = np.where(known, np.where(alone, best > config.unrefuted, changed), alone)
    # the light of sources, in which hits drown, is not in the difference
    lit = find_cosmic_rays(
        apart.image,
        apart.unusable | apart.holes,
        apart.variance,
        cosmic_rays,
        None,
        sure.fwhm,
        apart.defects | apart.holes,
    )
    pixels = np.zeros(apart.image.shape, bool)
    pixels.ravel()[at[kept[doubtful.pixel_event]]] = True
    met = np.bincount(lit.pixel_event, weights=pixels.ravel()[lit.pixel_index], minlength=len(lit.x)) > 0
    higher = np.full(len(lit.x), -np.inf)
    np.maximum.at(
        higher, lit.pixel_event, _above_neighbours(exposure, apart, lit.pixel_index, sure.fwhm, config)
    )
    new = ~met & (higher > config.above)
    n_events = int(np.count_nonzero(kept)) + int(np.count_nonzero(new))
    pixels.ravel()[lit.pixel_index[(met | new)[lit.pixel_event]]] = True
    return pixels, n_events


def _other_snap(
    exposure: Exposure, apart: _Difference, index: np.ndarray, offsets: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of pixels (dy, dx) from others in the other snap, on this one's scale, and how many are good; shape (n,)."""
    ny, nx = apart.image.shape
    y, x = np.divmod(index, nx)
    total, count = np.zeros(index.size), np.zeros(index.size)
    for dy, dx in offsets:
        r, c = np.clip(y + dy, 0, ny - 1), np.clip(x + dx, 0, nx - 1)
        good = ~apart.unusable[r, c]
        total += np.where(good, exposure.image[r, c] - apart.image[r, c], 0.0)
        count += good
    return total / np.maximum(count, 1), count


def _above_neighbours(
    exposure: Exposure, apart: _Difference, index: np.ndarray, fwhm: float, config: SnapsConfig
) -> np.ndarray:
    """Excess of pixels over their neighbours in the other snap [sigma], shape (n,).

    Half of the variance of the difference is the other snap's: a pixel that only sank there is no hit. A change of
    seeing moves the middle of a star, as it moves its slopes, by a share of what it stands above its surroundings.
    """
    around, count = _other_snap(exposure, apart, index, _NEIGHBOURS)
    reach = max(round(fwhm / 2), 2)
    ring = [(dy * reach, dx * reach) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    surroundings, known = _other_snap(exposure, apart, index, ring)
    core = np.where(known > 0, np.maximum(around - surroundings, 0), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = exposure.variance.ravel()[index] * (1 + 1 / count) + (config.seeing_error * core) ** 2
        excess = (exposure.image.ravel()[index] - around) / np.sqrt(variance)
    return np.where(count > 0, excess, -np.inf)


def _above_light(
    exposure: Exposure,
    apart: _Difference,
    index: np.ndarray,
    level: np.ndarray,
    fwhm: float,
    config: SnapsConfig,
) -> np.ndarray:
    """Excess of pixels over the most light that their neighbours in the other snap allow [sigma], shape (n,).

    With m the mean of the eight neighbours above the sky, a point source has k m in the middle and no pixel more.
    Where there is no light this has half the variance of the difference.
    """
    around, count = _other_snap(exposure, apart, index, _NEIGHBOURS)
    width = (fwhm / 2.3548) ** -2
    peak = 2 / (np.exp(-0.5 * width) + np.exp(-width))
    light = peak * np.maximum(around - level, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = exposure.variance.ravel()[index] * (1 + (light > 0) * peak**2 / count)
        variance += (config.seeing_error * light) ** 2
        excess = (exposure.image.ravel()[index] - level - light) / np.sqrt(variance)
    return np.where(count > 3, excess, -np.inf)


def _grow_by_difference(pixels, difference, variance, blocked, threshold: float) -> None:
    """Add neighbours that are brighter than in the other snap, in place; in light this shows more than shapes."""
    front = np.flatnonzero(pixels)
    ny, nx = pixels.shape
    for _ in range(_GROW_ROUNDS):
        y, x = np.divmod(front, nx)
        near = [
            ((y + dy) * nx + x + dx)[(y + dy >= 0) & (y + dy < ny) & (x + dx >= 0) & (x + dx < nx)]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
        near = np.unique(np.concatenate(near))
        near = near[~pixels.ravel()[near] & ~blocked.ravel()[near]]
        excess = difference.ravel()[near]
        front = near[(excess > 0) & (excess**2 > threshold**2 * variance.ravel()[near])]
        pixels.ravel()[front] = True


def _combined_info(present: Sequence[Exposure], expected: int) -> dict:
    """Times and counts of the sum; times only where every snap has them."""
    info = dict(present[0].info)
    info.pop("snap", None)
    times = np.array([_time(each) for each in present])
    if all(each.info.get("exposure_time") for each in present):
        info["exposure_time"] = float(times.sum())
    for name, choose in (("datetime_begin", min), ("datetime_end", max)):
        values = [each.info.get(name) for each in present]
        if None not in values:
            info[name] = choose(values)
    middles = [each.info.get("datetime_mid") for each in present]
    if None not in middles:
        # about the first, so that no digits of a modified Julian date are lost
        apart = np.array(middles, float) - middles[0]
        info["datetime_mid"] = float(middles[0] + (apart * times).sum() / times.sum())
    return info | {"n_snaps": len(present), "missing_snaps": expected - len(present)}


def _combined_mask(present: Sequence[Exposure], lost: np.ndarray, config: SnapsConfig):
    """Every plane of any snap; those that are filled only where no snap was good."""
    mask = present[0].mask.copy()
    for other in present[1:]:
        for name, bit in other.mask.planes.items():
            if name in mask.planes and mask.planes[name] == bit:
                continue
            mask.add_plane(name, other.mask.texts.get(name, ""))
        if other.mask.planes == mask.planes:
            np.bitwise_or(mask.array, other.mask.array, out=mask.array)
        else:
            for name in other.mask.planes:
                mask.set(name, other.mask.any(name))
    repaired = ~lost.all(axis=0)
    for name in config.fill_planes:
        if name in mask.planes:
            mask.clear(name, repaired)
    return mask


@kernel(
    "void(const(float32[:, :]), const(float32[:, :]), const(float32[:, :]), const(float32[:, :]),"
    " const(boolean[:, :]), float64, float64, float32[:, ::1])"
)
def difference_variance(first, second, noise_first, noise_second, bad, scale, seeing, variance):
    """Variance of first - second / scale, grown where seeing matters.

    Besides the noise: (`seeing` times the smaller of the two snaps' ranges of values in 3 x 3 good pixels)^2.
    The smaller one, for a hit has a large range of its own.
    """
    rows, columns = first.shape
    for j in range(rows):
        for i in range(columns):
            low_one, high_one = np.float32(np.inf), np.float32(-np.inf)
            low_two, high_two = np.float32(np.inf), np.float32(-np.inf)
            for jj in range(max(j - 1, 0), min(j + 2, rows)):
                for ii in range(max(i - 1, 0), min(i + 2, columns)):
                    if bad[jj, ii]:
                        continue
                    low_one = min(low_one, first[jj, ii])
                    high_one = max(high_one, first[jj, ii])
                    low_two = min(low_two, second[jj, ii])
                    high_two = max(high_two, second[jj, ii])
            spread = 0.0
            noise = np.float64(noise_first[j, i]) + noise_second[j, i] / (scale * scale)
            if high_one >= low_one:
                spread = min(np.float64(high_one) - low_one, (np.float64(high_two) - low_two) / scale)
                # nine values of pure noise have a range of 3 sigma
                spread = max(spread - 3 * np.sqrt(noise), 0.0)
            variance[j, i] = noise + (seeing * spread) ** 2


@kernel(
    "int64(const(float32[:, :, ::1]), const(float32[:, :, ::1]), const(boolean[:, :, :]), const(float64[::1]),"
    " const(float64[::1]), float32[:, :], float32[:, :])"
)
def add_rows(images, variances, lost, scale, offset, total, variance):
    """Sum of snaps with lost pixels filled from the others; how many were filled.

    A pixel lost in all snaps is the plain sum.
    """
    n_snaps, rows, columns = images.shape
    filled = 0
    all_scale = scale.sum()
    all_offset = offset.sum()
    for j in range(rows):
        for i in range(columns):
            n_good = 0
            plain = 0.0
            plain_noise = 0.0
            good = 0.0
            good_noise = 0.0
            good_scale = 0.0
            for k in range(n_snaps):
                value = np.float64(images[k, j, i])
                noise = np.float64(variances[k, j, i])
                plain += value
                plain_noise += noise
                if not lost[k, j, i]:
                    n_good += 1
                    good += value - offset[k]
                    good_noise += noise
                    good_scale += scale[k]
            if n_good == n_snaps or n_good == 0:
                total[j, i] = plain
                variance[j, i] = plain_noise
            else:
                factor = all_scale / good_scale
                total[j, i] = factor * good + all_offset
                variance[j, i] = factor * factor * good_noise
                filled += 1
    return filled
