"""Combined fringe frame (LDM-151 4.1.2.1, 8.1): thin-film interference of night-sky lines in a detector.

Frames of the sky, flat-fielded, are what light of wide bands makes (a smooth sky) plus a pattern that is the same in each
frame but for its strength. Sources are masked, the smooth sky is subtracted, and what is left is averaged in units of
the frame's strength. At first strength is the level of the sky; then it is fitted to each frame, for moonlight
raises the sky but not the fringes. Sources are found twice: at first against the spread of sky and fringes together,
then, with the fringes subtracted, against noise alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
    Replacement,
    run_isr,
)
from skyquilt.pipelines.calibration_products.combine import (
    CombinedCalibration,
    CommonNoise,
    Scaling,
    check_combine_config,
    combine_stack,
)
from skyquilt.pipelines.calibration_products.frame_stack import (
    NO_REPLACEMENTS,
    FrameRecord,
    Stack,
    electron_noise,
    for_calibration,
    gather,
    plain,
)
from skyquilt.pipelines.calibration_products.pattern_smoothing import PatternSmoothing, best_width
from skyquilt.primitives.chebyshev import ChebyshevSurface
from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.statistics import binned_statistics, clipped_linear_fit, median

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Detector
    from skyquilt.instrument.raw import RawFrame
    from skyquilt.primitives.exposure import Exposure

_ROWS = 256
_BIN = 8
_UNUSABLE = ("BAD", "SATURATED", "NO_DATA", "COSMIC_RAY", "STREAK", "UNMASKED_NAN")
_SIGNIFICANT = 5.0
"""A strength below this many standard errors is not told from none."""


@dataclass(frozen=True)
class CombineFringeConfig:
    """Options of `combine_fringe`."""

    min_frames: int = 2
    """Fewest usable frames [count]."""
    clip: float = 4.0
    """Values further than this from the median of the frames are left out [sigma of the expected noise]."""
    near_clip: float = 2.5
    """Beside a value that stands out upwards, others of the same frame are left out from here on [sigma]."""
    reach: int = 2
    """How far `near_clip` reaches [pixel]."""
    max_memory: float = 100.0
    """Largest stack held at a time [MB]."""
    min_level: float = 100.0
    """Frames with a lower sky are not used [electron]."""
    max_masked: float = 0.6
    """Frames of which sources cover a larger share are not used."""
    sky_degree: int = 3
    """Degree of the polynomial that is the smooth sky of a detector; structure wider than its waves is not fringe."""
    source_width: float = 2.0
    """Frames are smoothed by a Gaussian of this width to find sources [pixel]."""
    source_clip: float = 4.0
    """Smoothed pixels above this are sources [local robust width]."""
    source_grow: int = 6
    """Sources are grown by this on all sides [pixel]."""
    iterations: int = 2
    """Rounds of strengths and sources with the fringes of the round before subtracted; 0 for one combination
    only [count]."""
    smoothing: float = -1.0
    """Width of the smoothing of the result, 0 for none; negative for the width that the noise and the waves of the
    pattern ask for [pixel]."""

    def __post_init__(self) -> None:
        check_combine_config(self)
        if self.min_level <= 0 or not 0 < self.max_masked < 1 or not 0 <= self.sky_degree <= 8:
            raise ValueError(
                "combine_fringe needs min_level > 0, max_masked in 0..1 and sky_degree in 0..8, got "
                f"{self.min_level}, {self.max_masked}, {self.sky_degree}"
            )
        if self.source_width <= 0 or self.source_clip < 2 or self.source_grow < 0:
            raise ValueError("combine_fringe needs source_width > 0, source_clip >= 2 and source_grow >= 0")
        if self.iterations < 0:
            raise ValueError(f"combine_fringe needs iterations >= 0, got {self.iterations}")


@dataclass
class _Sky:
    """What is known of each frame besides its pixels, by place in the store."""

    masked: dict[int, float]
    binned: dict[int, np.ndarray]


def combine_fringe(
    read: Callable[[int], RawFrame],
    n_frames: int,
    calibrations: DetectorCalibrations,
    config: CombineFringeConfig,
    isr: InstrumentSignatureRemovalConfig,
    scratch: Path | None = None,
    replacements: Mapping[str, Replacement] = NO_REPLACEMENTS,
) -> CombinedCalibration:
    """Fringe pattern of one detector and filter: electrons per electron of sky, of mean 0 (LDM-151 4.1.2.1).

    The strength of a frame is such that the median frame's is its level of sky; with `smoothing` the noise is
    correlated, as `Exposure.noise_covariance` states, and the variance is that of a smoothed pixel.

    Parameters
    ----------
    read, n_frames, isr, scratch, replacements
        As of `combine_bias`. Frames of the sky, dithered by more than the sources are wide where there are any.
    calibrations : DetectorCalibrations
        All but fringe are used, as far as they are there.
    config : CombineFringeConfig

    Raises
    ------
    ProcessingFailure
        TOO_FEW_INPUTS. Frames with too little sky or too many sources are left out with their reason.
    """
    isr = for_calibration(isr)
    isr = replace(isr, skip=tuple(dict.fromkeys((*isr.skip, "fringe", "interpolation"))))
    calibrations = replace(calibrations, fringe=None)
    sky = _Sky({}, {})
    gains: list[float] = []

    def look(i: int) -> tuple[Detector, np.ndarray, FrameRecord]:
        raw = read(i)
        result = run_isr(raw, calibrations, isr, replacements=replacements)
        image = result.exposure.image
        image[result.exposure.mask.any(_UNUSABLE)] = np.nan
        level = median(image)
        if not level >= config.min_level:
            raise ProcessingFailure(
                Reason.EXCLUDED, f"sky is {level:.0f} electron (least {config.min_level:.0f})"
            )
        usable = np.isfinite(image)
        for _ in range(2):
            subtract_smooth(image, config.sky_degree)
            image[source_pixels(image, config)] = np.nan
        masked = 1.0 - np.isfinite(image).sum() / usable.sum()
        if masked > config.max_masked:
            raise ProcessingFailure(
                Reason.EXCLUDED, f"sources cover {masked:.0%} of the frame (limit {config.max_masked:.0%})"
            )
        subtract_smooth(image, config.sky_degree)
        sky.masked[i], sky.binned[i] = float(masked), _binned(image)
        gains[:] = [figures.gain for figures in result.amplifiers]
        seconds = float(getattr(raw.info, "exposure_time", None) or 0.0)
        variance = electron_noise(result.amplifiers)
        return raw.detector, image, FrameRecord(i, level, (0.0,) * len(variance), variance, seconds)

    stack = gather(look, n_frames, "fringe", config.min_frames, scratch)
    with stack.closing():
        strengths = np.array([record.level for record in stack.records])
        pattern = _combined(stack, strengths, calibrations, gains, config)
        for _ in range(config.iterations):
            width = _width(pattern, config) or 1.0
            smooth = PatternSmoothing(pattern.exposure.shape, width).apply(pattern.exposure.image)
            strengths = _strengths(stack, sky, smooth, config)
            _mask_again(stack, sky, strengths, smooth, config)
            pattern = _combined(stack, strengths, calibrations, gains, config)
        return _finished(pattern, stack, sky, strengths, config)


def subtract_smooth(image: np.ndarray, degree: int) -> None:
    """Subtract, in place, a polynomial of total degree `degree` fitted to clipped means of blocks.

    Raises
    ------
    ProcessingFailure
        NO_GOOD_PIXELS when too few blocks have usable pixels.
    """
    # clipped in means of pairs: a quarter of the pixels, and the same blocks
    pairs = _binned(image, 2)
    block = int(np.clip(min(image.shape) // 24, 2, 32))
    cells = binned_statistics(pairs, (block, block), n_sigma=4.0)
    box = Box(0, 0, image.shape[1], image.shape[0])
    x, y = np.meshgrid(2 * (2 * cells.x + 1) / box.nx - 1, 2 * (2 * cells.y + 1) / box.ny - 1)
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    known = np.isfinite(cells.mean) & (cells.count >= max(0.2 * block * block, 4))
    if known.sum() < 2 * len(powers):
        raise ProcessingFailure(
            Reason.NO_GOOD_PIXELS,
            f"{known.sum()} blocks of {block} pixels are usable, a sky of degree {degree} needs {2 * len(powers)}",
        )
    by_x = np.polynomial.chebyshev.chebvander(x[known], degree)
    by_y = np.polynomial.chebyshev.chebvander(y[known], degree)
    design = np.stack([by_y[:, i] * by_x[:, j] for i, j in powers], axis=1)
    fit = clipped_linear_fit(design, cells.mean[known], n_sigma=4.0)
    coefficients = np.zeros((degree + 1, degree + 1))
    for (i, j), value in zip(powers, fit.coefficients):
        coefficients[i, j] = value
    surface = ChebyshevSurface.over(box, coefficients)
    for start in range(0, box.ny, _ROWS):
        strip = Box(0, start, box.nx, min(_ROWS, box.ny - start))
        image[strip.slices()] -= surface.on_grid(strip)


def source_pixels(residual: np.ndarray, config: CombineFringeConfig) -> np.ndarray:
    """Pixels of sources, grown; bool. `residual` is sky-subtracted, NaN where there is nothing.

    The threshold is `source_clip` robust widths of the smoothed block about its median, so that waves of fringes
    count as spread and not as sources.
    """
    from scipy import ndimage

    # binned to half the width that they are smoothed to anyway: a quarter of the pixels and more need no filter
    size = max(int(config.source_width), 1)
    binned = _binned(residual, size)
    width = np.sqrt(max(config.source_width**2 - (size**2 - 1) / 12, 0.25)) / size
    smooth = _normalised_gaussian(binned, width, 0.1)[0]
    block = int(np.clip(min(residual.shape) // 4, 32, 128)) // size
    cells = binned_statistics(smooth, (block, block), n_sigma=3.0)
    limit = cells.median + config.source_clip * cells.width
    rows, columns = (np.arange(n) // block for n in smooth.shape)
    found = smooth > limit[rows[:, None], columns[None, :]].astype(np.float32)
    reach = 2 * -(-config.source_grow // size) + 1
    for axis in (0, 1):
        found = ndimage.maximum_filter1d(found, reach, axis=axis, mode="constant")
    return found.repeat(size, axis=0).repeat(size, axis=1)[: residual.shape[0], : residual.shape[1]]


def _normalised_gaussian(image: np.ndarray, width: float, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian smoothing of the finite pixels, and the share of weight they have; NaN below `least`."""
    from scipy import ndimage

    good = np.isfinite(image)
    weight = ndimage.gaussian_filter(good.astype(np.float32), width, mode="constant")
    total = ndimage.gaussian_filter(np.where(good, image, np.float32(0)), width, mode="constant")
    # the kernel's part beyond the edge of the detector counts as missing
    known = weight > max(least, 1e-3)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=known), weight


def _binned(image: np.ndarray, size: int = _BIN) -> np.ndarray:
    """Means of blocks of `size` pixels with at least half of them, else NaN; what is left at the ends makes small ones."""
    shape = tuple(-(-n // size) for n in image.shape)
    means = np.empty(shape, np.float32)
    block_means(image, size, means)
    return means


@kernel("void(const(float32[:, :]), int64, float32[:, :])")
def block_means(image, size, means):
    """Mean of the finite pixels of each block of `size` x `size`, NaN where less than half are; float32."""
    ny, nx = image.shape
    for j in range(means.shape[0]):
        for i in range(means.shape[1]):
            total = 0.0
            n = 0
            rows, columns = min((j + 1) * size, ny), min((i + 1) * size, nx)
            for y in range(j * size, rows):
                for x in range(i * size, columns):
                    if np.isfinite(image[y, x]):
                        total += image[y, x]
                        n += 1
            whole = (rows - j * size) * (columns - i * size)
            means[j, i] = total / n if n > 0 and 2 * n >= whole else np.nan


def _combined(
    stack: Stack,
    strengths: np.ndarray,
    calibrations: DetectorCalibrations,
    gains: list[float],
    config: CombineFringeConfig,
) -> CombinedCalibration:
    """One plus the pattern, averaged, and 1 subtracted."""
    levels = np.array([record.level for record in stack.records])
    read_variance = stack.read_variance()
    each = np.ones(read_variance.shape)
    # values are 1 + pattern, so that photon noise follows the waves
    scaling = Scaling(
        -strengths[:, None] * each,
        1.0 / strengths,
        read_variance / strengths[:, None] ** 2,
        (levels / strengths**2)[:, None] * each,
        1.0,
    )
    factors = {
        "bias": np.outer(1.0 / strengths, gains),
        "dark": (stack.exposure_times() / strengths)[:, None] * each,
        "flat": (levels / strengths)[:, None] * each,
    }
    common = [
        CommonNoise(pixels, factor)
        for kind, factor in factors.items()
        if (pixels := getattr(calibrations, kind)) is not None
    ]
    flat = calibrations.flat

    def spread(box: Box) -> np.ndarray:
        response = flat.subimage(box).image
        return np.where(response > 0.05, 1.0 / np.maximum(response, np.float32(0.05)), 1.0).astype(np.float32)

    combined = combine_stack(stack, scaling, config, "", common, spread if flat is not None else None)
    np.subtract(combined.exposure.image, np.float32(1.0), out=combined.exposure.image)
    return combined


def _strengths(stack: Stack, sky: _Sky, pattern: np.ndarray, config: CombineFringeConfig) -> np.ndarray:
    """Electrons of each frame per unit of the pattern; frames without fringes are left out.

    Where the median frame has no significant fringes, all frames have the strength of their sky.
    """
    levels = np.array([record.level for record in stack.records])
    model = _binned(pattern)
    strengths, errors = np.empty(levels.size), np.empty(levels.size)
    for number, record in enumerate(stack.records):
        binned = sky.binned[record.index]
        known = np.isfinite(model) & np.isfinite(binned)
        if known.sum() < 20:
            return levels
        design = np.stack([model[known], np.ones(known.sum())], axis=1)
        fit = clipped_linear_fit(design, binned[known], n_sigma=4.0)
        strengths[number], errors[number] = fit.coefficients[0], np.sqrt(fit.covariance[0, 0])
    good = strengths > _SIGNIFICANT * errors
    if good.sum() < max(config.min_frames, (good.size + 1) // 2):
        return levels
    stack.leave_out(
        {
            record.index: f"fringes are not significant: {s:.1f} +- {e:.1f} electron per unit of the pattern"
            for record, s, e, ok in zip(stack.records, strengths, errors, good)
            if not ok
        }
    )
    return strengths[good] / float(np.median(strengths[good] / levels[good]))


def _mask_again(
    stack: Stack, sky: _Sky, strengths: np.ndarray, pattern: np.ndarray, config: CombineFringeConfig
) -> None:
    """Sources and sky of each stored frame with the fringes subtracted."""
    for record, place, strength in zip(stack.records, stack.places, strengths):
        fringes = np.float32(strength) * np.where(np.isfinite(pattern), pattern, np.float32(0))
        image = stack.store.frame(place)
        image -= fringes
        before = np.isfinite(image).sum()
        image[source_pixels(image, config)] = np.nan
        subtract_smooth(image, config.sky_degree)
        kept = np.isfinite(image).sum() / before
        sky.masked[record.index] = float(1.0 - (1.0 - sky.masked[record.index]) * kept)
        image += fringes
        sky.binned[record.index] = _binned(image)
        stack.store.replace(place, image)


def _finished(
    combined: CombinedCalibration, stack: Stack, sky: _Sky, strengths: np.ndarray, config: CombineFringeConfig
) -> CombinedCalibration:
    """Mean 0, smoothed, with figures."""
    exposure = combined.exposure
    good = np.isfinite(exposure.image)
    if not good.any():
        raise ProcessingFailure(Reason.NO_GOOD_PIXELS, "no pixel of the fringe frame has a value")
    np.subtract(exposure.image, np.float32(exposure.image[good].mean(dtype=np.float64)), out=exposure.image)
    width = _width(combined, config)
    if width:
        exposure = _smoothed_exposure(exposure, width)
    power = np.nanmean(exposure.image.astype(np.float64) ** 2) - np.nanmean(
        exposure.variance.astype(np.float64)
    )
    levels = np.array([record.level for record in stack.records])
    figures: dict[str, Any] = {
        **combined.figures,
        "used": [record.index for record in stack.records],
        "strengths": plain(strengths),
        "strengths_per_sky": plain(strengths / levels),
        "masked_share": [sky.masked[record.index] for record in stack.records],
        "rms": float(np.sqrt(max(power, 0.0))),
        "pixel_noise": plain(np.sqrt(median(exposure.variance))),
        "smoothing": width,
    }
    return replace(combined, exposure=exposure, figures=figures)


def _smoothed_exposure(exposure: Exposure, width: float) -> Exposure:
    """Image, variance and mask of the smoothed pattern; pixels without a value take their neighbours'."""
    smoothing = PatternSmoothing(exposure.shape, width)
    image = smoothing.apply(exposure.image)
    noise, _ = _normalised_gaussian(exposure.variance, width, 0.0)
    variance = (noise * smoothing.noise_power()).astype(np.float32)
    mask = exposure.mask.copy()
    known = np.isfinite(image) & np.isfinite(variance)
    mask.set(["INTERPOLATED"], mask.any(["BAD"]) & known)
    mask.clear(["BAD"], known)
    image[~known], variance[~known] = np.nan, np.nan
    image -= np.float32(image[known].mean(dtype=np.float64)) if known.any() else np.float32(0)
    return exposure.with_(
        image=image, variance=variance, mask=mask, noise_covariance=smoothing.noise_covariance()
    )


def _width(pattern: CombinedCalibration, config: CombineFringeConfig) -> float:
    """Width of the smoothing, as configured or as the pattern asks for [pixel]."""
    if config.smoothing >= 0:
        return config.smoothing
    return best_width(pattern.exposure.image, pattern.exposure.variance)
