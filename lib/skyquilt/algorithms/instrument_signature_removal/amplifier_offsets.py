"""Amplifier offsets (LDM-151 8.1): steps that remain at the edges between amplifiers.

For each pair of amplifiers with a common edge the levels of strips on both sides are compared row by row (or column
by column); strips of two depths extrapolate the sky to the edge, and rows with sources are left out. The offsets
of all amplifiers follow by weighted least squares over all edges of a detector, with mean 0. They are subtracted
when they are significant and within the bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.mask import Mask

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal.state import IsrState
    from skyquilt.instrument.camera import Amplifier, Detector


@dataclass(frozen=True)
class AmplifierOffsetsConfig:
    """Steps between neighbouring amplifiers."""

    depth: int = 32
    """Depth of the strips on both sides of an edge; the level is extrapolated from two of them [pixel]."""
    min_length: int = 50
    """Shortest common edge that is measured [pixel]."""
    clip: float = 3.0
    """Rows that differ by more than this from the others are left out [sigma]."""
    min_significance: float = 5.0
    """Offsets are applied to a detector where one is that many errors from 0 [sigma]."""
    max_offset: float = 1.0
    """Larger offsets are stated but not applied to the detector: something else is wrong [sigma of a sky pixel]."""
    ignore: tuple[str, ...] = ("BAD", "SATURATED", "NO_DATA", "VIGNETTED")
    """Pixels with these planes do not count."""

    def __post_init__(self) -> None:
        if self.depth < 2 or self.min_length < 10 or self.clip < 1.5:
            raise ValueError(
                "amplifier_offsets needs depth >= 2 pixels, min_length >= 10 pixels and clip >= 1.5 sigma, got "
                f"{self.depth}, {self.min_length}, {self.clip}"
            )


@dataclass(frozen=True)
class AmplifierOffsets:
    """Offsets of the amplifiers of a detector.

    Parameters
    ----------
    offsets, errors : ndarray of float64, shape (n,)
        Above the mean of the amplifiers [electron]; NaN for an amplifier without a measured edge.
    applied : bool
    """

    offsets: np.ndarray
    errors: np.ndarray
    applied: bool


def edge_step(low: np.ndarray, high: np.ndarray, clip: float) -> tuple[float, float]:
    """Step from one side of an edge to the other, and its standard error.

    Parameters
    ----------
    low, high : ndarray, shape (length, 2 depth)
        Pixels on both sides, the edge between the last of `low` and the first of `high`; NaN does not count.
    """
    low, high = _without_sources(low), _without_sources(high)
    half = low.shape[1] // 2
    far_low, near_low = _means(low[:, :half]), _means(low[:, half:])
    near_high, far_high = _means(high[:, :half]), _means(high[:, half:])
    # means stand 1/2 and 3/2 strips from the edge: a straight line through both sides' four means
    steps = 1.5 * (near_high - near_low) - 0.5 * (far_high - far_low)
    steps = steps[np.isfinite(steps)]
    for _ in range(5):
        if steps.size < 8:
            return float("nan"), float("nan")
        middle = np.median(steps)
        width = 1.4826 * np.median(np.abs(steps - middle))
        keep = np.abs(steps - middle) <= clip * max(width, 1e-30)
        if keep.all():
            break
        steps = steps[keep]
    # rows share sources: blocks of rows tell the error of the mean
    blocks = np.array([part.mean() for part in np.array_split(steps, min(max(steps.size // 8, 2), 64))])
    return float(steps.mean()), float(blocks.std(ddof=1) / np.sqrt(blocks.size))


def _without_sources(pixels: np.ndarray) -> np.ndarray:
    """Pixels far from the middle of their side become NaN; both sides lose the same share of the sky."""
    sample = pixels[::3]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return pixels
    middle = np.median(sample)
    width = 1.4826 * np.median(np.abs(sample - middle))
    return np.where(np.abs(pixels - middle) <= 4 * max(width, 1e-30), pixels, np.nan)


def _means(pixels: np.ndarray) -> np.ndarray:
    """Mean of the finite pixels of each row, NaN where fewer than half are."""
    good = np.isfinite(pixels)
    number = good.sum(axis=1)
    total = np.where(good, pixels, 0.0).sum(axis=1, dtype=np.float64)
    return np.where(2 * number >= pixels.shape[1], total / np.maximum(number, 1), np.nan)


def fit_offsets(
    image: np.ndarray, mask: Mask, detector: Detector, sky_sigma: float, config: AmplifierOffsetsConfig
) -> AmplifierOffsets:
    """Offsets from all common edges of a detector; nothing is changed.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx) [electron]
    mask : Mask
    sky_sigma : float
        Noise of a sky pixel [electron], the unit of the largest offset that is applied.
    """
    n = len(detector.amplifiers)
    ignore = np.int32(mask.bits(config.ignore))
    rows, steps, errors = [], [], []
    for first in range(n):
        for second in range(n):
            strips = _strips(image, mask.array, ignore, detector.amplifiers, first, second, config)
            if strips is None:
                continue
            step, error = edge_step(*strips, config.clip)
            if np.isfinite(step) and error > 0:
                row = np.zeros(n)
                row[second], row[first] = 1.0, -1.0
                rows.append(row)
                steps.append(step)
                errors.append(error)
    if not rows:
        return AmplifierOffsets(np.full(n, np.nan), np.full(n, np.nan), False)
    design = np.array(rows) / np.array(errors)[:, None]
    # the least norm makes the mean of each connected group of amplifiers 0
    inverse = np.linalg.pinv(design.T @ design, hermitian=True)
    offsets = inverse @ (design.T @ (np.array(steps) / np.array(errors)))
    sigma = np.sqrt(np.maximum(np.diag(inverse), 0))
    measured = np.abs(np.array(rows)).sum(axis=0) > 0
    offsets, sigma = np.where(measured, offsets, np.nan), np.where(measured, sigma, np.nan)
    significant = np.nanmax(np.abs(offsets) / sigma) >= config.min_significance
    within = np.nanmax(np.abs(offsets)) <= config.max_offset * sky_sigma
    return AmplifierOffsets(offsets, sigma, bool(significant and within))


def _strips(
    image: np.ndarray,
    mask: np.ndarray,
    ignore: np.int32,
    amplifiers: tuple[Amplifier, ...],
    first: int,
    second: int,
    config: AmplifierOffsetsConfig,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels on both sides of the edge where the second amplifier begins and the first ends, or None."""
    a, b = amplifiers[first].data, amplifiers[second].data
    depth = 2 * (config.depth // 2)
    if a.x1 == b.x0:
        start, stop = max(a.y0, b.y0), min(a.y1, b.y1)
        low = (slice(start, stop), slice(a.x1 - depth, a.x1))
        high = (slice(start, stop), slice(b.x0, b.x0 + depth))
        deep = min(a.nx, b.nx)
    elif a.y1 == b.y0:
        start, stop = max(a.x0, b.x0), min(a.x1, b.x1)
        low = (slice(a.y1 - depth, a.y1), slice(start, stop))
        high = (slice(b.y0, b.y0 + depth), slice(start, stop))
        deep = min(a.ny, b.ny)
    else:
        return None
    if stop - start < config.min_length or deep < depth:
        return None
    pixels = [np.where(mask[part] & ignore, np.nan, image[part]) for part in (low, high)]
    if a.y1 == b.y0 and a.x1 != b.x0:
        pixels = [part.T for part in pixels]
    return pixels[0], pixels[1]


def subtract_offsets(state: IsrState) -> None:
    """Fit the offsets of a frame, subtract them when they count, and note them in the figures."""
    config = state.config.amplifier_offsets
    step = max(state.image.shape[0] // 64, 1)
    sample = state.variance[::step, ::7]
    sample = sample[np.isfinite(sample)]
    sigma = float(np.sqrt(np.median(sample))) if sample.size else 0.0
    fit = fit_offsets(state.image, state.mask, state.detector, sigma, config)
    for number, amplifier in enumerate(state.detector.amplifiers):
        offset = float(fit.offsets[number])
        applied = fit.applied and np.isfinite(offset)
        if applied:
            state.image[amplifier.data.slices()] -= np.float32(offset)
        state.amplifiers[number] = replace(
            state.amplifiers[number],
            offset=offset,
            offset_error=float(fit.errors[number]),
            offset_applied=bool(applied),
        )
