"""Satellite trails (LDM-151 8.2): find them by their sums along straight lines, and mask them.

The image is binned, freed of its background and of broad bright things, scaled to its local scatter, and limited
(a star then adds no more than a few pixels of sky noise). Sums along all lines and their parts (`line_transform`)
stand against the scatter of such sums; lines that chance would give once in `1 / false_alarm` images are followed
at full resolution and judged (`trail_verification`). What is found is taken out and the rest searched again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from skyquilt.algorithms.artifact_detection.line_transform import (
    excess_between,
    line_sums,
    lines_above,
    packing_unit,
)
from skyquilt.algorithms.artifact_detection.trail_measurement import Trail
from skyquilt.algorithms.artifact_detection.trail_search_image import GREATEST, search_image
from skyquilt.algorithms.artifact_detection.trail_verification import verify_line
from skyquilt.primitives.compiled import kernel

__all__ = ["SatelliteTrailsConfig", "Trail", "find_trails", "trail_mask"]


LINE_WIDTHS = (1, 2, 5)
"""Breadths of the lines that are summed [binned pixel]."""


BINS = 680


TRIES = 20
"""A round ends after so many lines that were no trails: the more significant ones are tried first."""


TILE = 8


N_TRIAL_LINES = 1200


@dataclass(frozen=True)
class SatelliteTrailsConfig:
    """Options of the search for satellite trails."""

    bin_size: int = 0
    """Pixels to a side of those that are summed first; 0 takes a `BINS`th of the longer side, at least 4."""

    false_alarm: float = 1e-3
    """Lines of pure chance that reach verification, per image."""

    least_length: float = 200.0
    """Trails with one end within the detector are at least this long, with both ends twice that [pixel]."""

    least_crossing: float = 80.0
    """Trails that cross the detector, or a corner of it, are at least this long [pixel]."""

    least_shining: float = 0.55
    """Share of a trail's length that must shine."""

    least_rank_excess: float = 4.5
    """How far the ranks of a trail's blocks among the boxes beside them exceed chance [sigma], or two
    thirds of what so many blocks can reach."""

    greatest_width: float = 17.0
    """Full width at half maximum above which it is no trail [pixel]; twice that for trails brighter than three
    times the noise of a pixel, which fringes are not."""

    greatest_bow: float = 0.004
    """Greatest distance of a trail's middle from its chord, in units of its length: a straight line on the
    sky is bent by the camera's distortion."""

    plain: float = 0.8
    """Trails below this surface brightness [noise of a pixel] must cross the detector and be more even, and
    stand out more, than brighter ones."""

    least_aspect: float = 25.0
    """Least length of a trail that ends within the detector, in units of its width; two fifths of it for
    one that crosses."""

    thinnest: float = 40.0
    """Length over width above which a line that fades from its middle, or towards its end, may be a meteor, not
    a galaxy."""

    greatest_number: int = 20
    """Trails per image after which the search ends."""

    mask_level: float = 0.25
    """The mask reaches to where the cross-section falls below this [noise of a pixel], at least to a fifth of
    its peak."""

    expected_threshold: float = 4.0
    """Least S/N of a trail where a neighbouring detector's leads to expect it."""

    def bin_of(self, shape: tuple[int, int]) -> int:
        """Pixels to a side of the bins of an image."""
        return self.bin_size or max(4, round(max(shape) / BINS))

    def __post_init__(self) -> None:
        if self.bin_size < 0:
            raise ValueError(f"bin_size must not be negative, got {self.bin_size}")
        if not 0 < self.false_alarm < 1:
            raise ValueError(f"false_alarm must be between 0 and 1, got {self.false_alarm}")
        for name in ("least_length", "least_crossing", "greatest_width", "mask_level"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.least_shining <= 1:
            raise ValueError(f"least_shining must be in (0, 1], got {self.least_shining}")


def find_trails(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    config: SatelliteTrailsConfig,
    psf_fwhm: float | None = None,
    expected: Sequence[tuple[float, float, float, float]] = (),
    search: bool = True,
) -> list[Trail]:
    """Find the trails of a detector image.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx)
        With or without sky; sources may be in it.
    unusable : ndarray of bool, shape (ny, nx)
        Bad, saturated and bled pixels, cosmic rays.
    config : SatelliteTrailsConfig
    psf_fwhm : float, optional
        Lines narrower than a star are no trails; columns are told by their neighbours alone without it [pixel].
    expected : sequence of (x0, y0, x1, y1)
        Lines where a trail of another detector goes on (`joined_trails.expected_lines`): tried first, at
        `expected_threshold` [pixel].
    search : bool
        Look for other trails than the expected ones.

    Returns
    -------
    list of Trail
        The most significant first.
    """
    image, variance = (np.ascontiguousarray(a, dtype=np.float32) for a in (image, variance))
    unusable = np.ascontiguousarray(unusable, dtype=bool)
    found = _Search(image, variance, unusable, config, psf_fwhm)
    for ends in expected:
        found.judge(ends, config.expected_threshold, expected=True)
    while search and len(found.trails) < config.greatest_number and found.round():
        pass
    return sorted(found.trails, key=lambda trail: -trail.snr)


class _Search:
    """Binned image, limited and scaled; what was found is taken out of it."""

    def __init__(self, image, variance, unusable, config, psf_fwhm):
        self.pixels = image, variance, unusable
        self.config, self.psf_fwhm = config, psf_fwhm
        self.trails: list[Trail] = []
        self.rejected: list[str] = []
        self.bin = config.bin_of(image.shape)
        self.values, self.valid = search_image(image, variance, unusable, self.bin)
        n_lines = 8 * max(self.values.shape) ** 2 * len(LINE_WIDTHS)
        self.threshold = -NormalDist().inv_cdf(config.false_alarm / n_lines)

    def judge(self, ends, threshold, expected=False) -> bool:
        """Verify one line [pixel]; a trail is kept and taken out."""
        verdict = verify_line(*self.pixels, ends, self.config, self.psf_fwhm, threshold, expected)
        if verdict.trail is None:
            self.rejected.append(verdict.reason)
            return False
        for trail in (verdict.trail, *verdict.companions):
            self._take_out(trail)
            self.trails.append(trail)
        return True

    def _take_out(self, trail):
        # the full-resolution pixels too, or its flanks would be found again; the caller's array stays as it is
        image, variance, unusable = self.pixels
        if not self.trails:
            unusable = unusable.copy()
        paint_line(
            unusable,
            trail.x0,
            trail.y0,
            trail.x1,
            trail.y1,
            trail.bow,
            trail.half_mask,
            2 * trail.width + 4.0,
        )
        self.pixels = image, variance, unusable
        b = self.bin
        mask = np.zeros(self.values.shape, dtype=bool)
        scaled = [(v + 0.5) / b - 0.5 for v in (trail.x0, trail.y0, trail.x1, trail.y1)]
        paint_line(mask, *scaled, trail.bow / b, trail.half_mask / b + 1.0, 2.0)
        self.values[mask] = 0
        self.valid[mask] = 0

    def round(self) -> bool:
        """Search all lines once; whether a trail was found."""
        lines, widths, ratios, models = self._candidates()
        n_found = len(self.trails)
        tried = 0
        snr = self.threshold * ratios
        while tried < TRIES:
            best = int(np.argmax(snr)) if snr.size else -1
            if best < 0 or snr[best] <= self.threshold:
                break
            # what was taken out since may have been its light
            now = _significance(
                self.values, self.valid, lines[best : best + 1], widths[best : best + 1], models
            )
            if now[0] < 0.95 * snr[best]:
                snr[best] = now[0]
                continue
            tried = tried + 1 if len(self.trails) == n_found else 1
            b = self.bin
            if not self.judge(tuple((lines[best] + 0.5) * b - 0.5), self.threshold):
                self._forget(lines[best], int(widths[best]))
            snr[_alike(lines, lines[best])] = -np.inf
        return len(self.trails) > n_found

    def _forget(self, line, width):
        """Take the brightest parts of a rejected line out, so that its like do not come again."""
        x0, y0, x1, y1 = line
        mask = np.zeros(self.values.shape, dtype=bool)
        paint_line(mask, x0, y0, x1, y1, 0.0, 0.5 * width + 1.0, 0.0)
        mask &= self.values > 1.0
        self.values[mask] = 0
        self.valid[mask] = 0

    def _candidates(self):
        """Lines above the threshold, shape (n, 4) [binned pixel], their widths, excess over it, noise by width."""
        models = {w: _noise_of_lines(self.values, self.valid, w) for w in LINE_WIDTHS}
        unit = packing_unit(max(self.values.shape), GREATEST)
        packed = self.values + np.float32(unit) * self.valid
        lines, widths, ratios = [], [], []
        for steep in (True, False):
            turned = np.ascontiguousarray(packed if steep else packed.T)
            for flip in (False, True):
                part = np.ascontiguousarray(turned[:, ::-1]) if flip else turned
                for ends, width, ratio in self._lines_of(part, unit, models):
                    x, y = ends[:, 0::2], ends[:, 1::2]
                    x = part.shape[1] - 1 - x if flip else x
                    if not steep:
                        x, y = y, x
                    lines.append(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1))
                    widths.append(np.full(x.shape[0], width, np.int64))
                    ratios.append(ratio)
        return np.concatenate(lines), np.concatenate(widths), np.concatenate(ratios), models

    def _lines_of(self, packed, unit, models):
        """Ends of the lines with |dx| <= |dy|, dx >= 0, by width."""
        n, nx = packed.shape
        found, ratios = np.empty((20000, 3), np.int64), np.empty(20000)
        for strips, sums in line_sums(packed, max(n // 2, 16)):
            height = -(-n // strips)
            for width in LINE_WIDTHS:
                count = np.arange((height + 1) * width + 1)
                least = max(self.config.least_crossing / self.bin, 4) * width * 0.7
                mean, sigma = models[width].predict(count)
                limit = np.where(count < least, np.inf, count * mean + self.threshold * sigma)
                total = lines_above(
                    sums, unit, strips, nx, width, limit.astype(np.float32), TILE, found, ratios
                )
                row, shift, start = found[:total].T.astype(float)
                # rows of a strip begin at i n // strips
                i = -(-found[:total, 0] * strips // n)
                last = (i + 1) * n // strips - 1.0
                x0 = start + 0.5 * (width - 1)
                yield np.stack([x0, row, x0 + shift, last], axis=1), width, ratios[:total].copy()


@dataclass(frozen=True)
class _LineNoise:
    """Sums over N pixels scatter about N mean with variance N v1 + N^2 v2."""

    mean: float
    v1: float
    v2: float

    def predict(self, count):
        count = np.maximum(count, 1)
        return self.mean, np.sqrt(count * self.v1 + count**2 * self.v2)


def _significance(values, valid, lines, widths, models):
    """S/N of the sums along lines as the image is now."""
    sums, counts = np.empty(widths.size), np.empty(widths.size)
    excess_between(values, valid, np.ascontiguousarray(lines), widths, sums, counts)
    snr = np.empty(widths.size)
    for width, model in models.items():
        mine = widths == width
        mean, sigma = model.predict(counts[mine])
        snr[mine] = (sums[mine] - mean * counts[mine]) / sigma
    return np.where(np.isfinite(snr), snr, -np.inf)


def _alike(lines, line):
    """Which lines have both ends within `TILE` / 2 of another's line (itself among them), and overlap it."""
    x0, y0, x1, y1 = line
    length = math.hypot(x1 - x0, y1 - y0)
    c, s = (x1 - x0) / length, (y1 - y0) / length
    near = np.ones(lines.shape[0], dtype=bool)
    middle = 0.0
    for x, y in ((lines[:, 0] - x0, lines[:, 1] - y0), (lines[:, 2] - x0, lines[:, 3] - y0)):
        near &= np.abs(y * c - x * s) <= TILE / 2
        middle = middle + 0.5 * (x * c + y * s)
    return near & (middle >= 0) & (middle <= length)


def _noise_of_lines(values, valid, width) -> _LineNoise:
    """Mean and variance of sums from lines and parts of lines that cross the image at random."""
    ny, nx = values.shape
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, nx, N_TRIAL_LINES), rng.uniform(0, ny, N_TRIAL_LINES)
    angle = rng.uniform(0, math.pi, N_TRIAL_LINES)
    half = 0.5 * np.exp(rng.uniform(math.log(10), math.log(1.4 * max(nx, ny, 20)), N_TRIAL_LINES))
    dx, dy = half * np.cos(angle), half * np.sin(angle)
    ends = np.stack([x - dx, y - dy, x + dx, y + dy], axis=1)
    sums, counts = np.empty(N_TRIAL_LINES), np.empty(N_TRIAL_LINES)
    excess_between(values, valid, ends, np.full(N_TRIAL_LINES, width), sums, counts)
    enough = (counts > 8 * width) & np.isfinite(sums)
    if enough.sum() < 100:
        return _LineNoise(0.0, float(width), 0.0)
    sums, counts = sums[enough], counts[enough]
    mean = float(np.median(sums / counts))
    edges = np.quantile(counts, np.linspace(0, 1, 11))
    which = np.clip(np.searchsorted(edges, counts, side="right") - 1, 0, 9)
    variances, middles = [], []
    for k in range(10):
        part = which == k
        if part.sum() > 5:
            spread = sums[part] - mean * counts[part]
            # an image without noise has no scatter
            variances.append(max((1.4826 * np.median(np.abs(spread - np.median(spread)))) ** 2, 1e-3))
            middles.append(np.median(counts[part]))
    middles, variances = np.array(middles), np.array(variances)
    # relative least squares of v1 N + v2 N^2; a part that comes out negative is left out
    design = np.stack([middles, middles**2], axis=1) / variances[:, None]
    v1, v2 = np.linalg.lstsq(design, np.ones(variances.size), rcond=None)[0]
    if v1 < 0 or v2 < 0:
        alone = design.sum(axis=0) / (design**2).sum(axis=0)
        v1, v2 = (alone[0], 0.0) if v2 < 0 else (0.0, alone[1])
    return _LineNoise(mean, max(float(v1), 0.3), float(v2))


@kernel("void(boolean[:, ::1], float64, float64, float64, float64, float64, float64, float64)")
def paint_line(mask, x0, y0, x1, y1, bow, half, beyond):
    """Set the pixels within `half` of a bowed line, and `beyond` its ends."""
    ny, nx = mask.shape
    length = math.hypot(x1 - x0, y1 - y0)
    if length == 0.0:
        return
    c, s = (x1 - x0) / length, (y1 - y0) / length
    steep = abs(s) >= abs(c)
    reach = half + abs(bow) + 1.0
    along = s if steep else c
    first = min(y0, y1) if steep else min(x0, x1)
    last = max(y0, y1) if steep else max(x0, x1)
    size, across = (ny, nx) if steep else (nx, ny)
    span = reach / abs(along)
    for a in range(max(int(first - beyond - reach), 0), min(int(last + beyond + reach) + 2, size)):
        if steep:
            middle = x0 + (a - y0) * c / s
        else:
            middle = y0 + (a - x0) * s / c
        for b in range(max(int(middle - span), 0), min(int(middle + span) + 2, across)):
            x, y = (b, a) if steep else (a, b)
            t = (x - x0) * c + (y - y0) * s
            d = (y - y0) * c - (x - x0) * s
            u = t / length
            if -beyond <= t <= length + beyond and abs(d - 4 * bow * u * (1 - u)) <= half:
                mask[y, x] = True


def trail_mask(trails: Sequence[Trail], shape: tuple[int, int], config: SatelliteTrailsConfig) -> np.ndarray:
    """Pixels of trails, bool of shape (ny, nx): `half_mask` to each side, a little beyond ends in the field."""
    mask = np.zeros(shape, dtype=bool)
    for trail in trails:
        paint_line(
            mask, trail.x0, trail.y0, trail.x1, trail.y1, trail.bow, trail.half_mask, 2 * trail.width + 4.0
        )
    return mask
