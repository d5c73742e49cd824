"""Camera check (LDM-151 4.1.2.3): read noise, gain and saturation from a few frames, with errors.

Gain is the signal of a pair of flats over the variance of their difference [electron/ADU]. The covariances of
neighbouring pixels are added to the variance: they are what the brighter-fatter effect took from it (Downing et
al. 2006; Guyonnet et al. 2015).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from skyquilt.instrument.camera import Amplifier
from skyquilt.instrument.camera_check.frames import DetectorPixels
from skyquilt.instrument.camera_check.report import CANNOT_TELL, DIFFERS, FITS, Finding, compared

CLIP = 5.0
TILE = 64
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
GAIN_TOLERANCE = 0.02
"""Differences of gain below this fraction are no fault of a definition: the production measures gains itself."""

NOISE_TOLERANCE = 0.1
"""Relative difference of read noise that is no fault; twice as much where the gain was not measured."""

LEAST_SIGNAL = 300.0
"""Least light above bias of a flat that is used for the gain [ADU]."""


@dataclass(frozen=True)
class Measured:
    """A number with its standard error, and what it was made from."""

    value: float
    error: float
    source: str = ""


def check_noise(
    biases: list[DetectorPixels], lit: list[DetectorPixels], others: list[DetectorPixels]
) -> list[Finding]:
    """Read noise, gain and saturation of the amplifiers of one detector.

    Parameters
    ----------
    biases, lit, others : lists of DetectorPixels
        Of one detector: bias frames; flats (of one filter) and science frames; the rest.
    """
    frames = [*biases, *lit, *others]
    if not frames:
        return []
    findings = []
    for amplifier in frames[0].detector.amplifiers:
        usable = [[p for p in group if amplifier.name in p.places] for group in (biases, lit, others)]
        if any(usable):
            findings += _amplifier_findings(amplifier, *usable)
    return findings


def _amplifier_findings(
    amplifier: Amplifier,
    biases: list[DetectorPixels],
    lit: list[DetectorPixels],
    others: list[DetectorPixels],
) -> list[Finding]:
    frames = [*biases, *lit, *others]
    name = f"{frames[0].detector.name} {amplifier.name}"
    noise = read_noise(amplifier, biases, frames)
    gain = _gain(amplifier, biases, lit, noise)
    findings = [_gain_finding(f"{name} gain", amplifier, gain)]
    if noise is None:
        text = "needs an overscan of 4 columns, or two bias frames"
        findings.append(Finding(CANNOT_TELL, f"{name} read noise", text))
    else:
        trusted = gain is not None and gain.source.startswith("flats")
        factor = gain.value if gain is not None and trusted else amplifier.gain
        relative = np.hypot(
            noise.error / noise.value, gain.error / gain.value if gain is not None and trusted else 0.0
        )
        value, error = noise.value * factor, noise.value * factor * relative
        by = "the measured gain" if trusted else "the definition's gain"
        findings.append(
            compared(
                f"{name} read noise",
                f"{noise.source}: {noise.value:.3g} ADU, with {by}",
                value,
                error,
                amplifier.read_noise,
                "electrons",
                NOISE_TOLERANCE * amplifier.read_noise * (1 if trusted else 2),
                f"read_noise: {{{amplifier.name}: {value:.2f}}}",
            )
        )
    return [*findings, _saturation_finding(f"{name} saturation", amplifier, frames)]


def read_noise(
    amplifier: Amplifier, biases: list[DetectorPixels], frames: list[DetectorPixels]
) -> Measured | None:
    """Read noise [ADU], of the difference of two bias frames, else of the overscan of all frames."""
    if len(biases) > 1:
        return _noise_of_pair(amplifier, biases[0], biases[1])
    return _noise_of_overscan(amplifier, frames)


def _noise_of_pair(amplifier: Amplifier, one: DetectorPixels, other: DetectorPixels) -> Measured:
    difference = _data(one, amplifier) - _data(other, amplifier)
    variance, count = _clipped_variance(difference)
    value = np.sqrt(0.5 * variance)
    return Measured(value, value / np.sqrt(2 * max(count, 1)), "difference of two bias frames")


def _noise_of_overscan(amplifier: Amplifier, frames: list[DetectorPixels]) -> Measured | None:
    boxes = [b for b in (amplifier.raw_overscan, amplifier.raw_prescan) if b is not None and b.nx >= 4]
    if not boxes:
        return None
    variances, counts = [], []
    for pixels in frames:
        part = pixels.part(amplifier, boxes[0]).astype(np.float64)
        # differences within a row, two columns apart, do not see the drift of the bias level; each pixel once
        part = part[:, part.shape[1] % 4 :]
        quads = part.reshape(part.shape[0], -1, 4)
        variance, count = _clipped_variance(quads[..., 2:] - quads[..., :2])
        variances.append(0.5 * variance)
        counts.append(count)
    value = np.sqrt(np.average(variances, weights=counts))
    return Measured(value, value / np.sqrt(2 * max(sum(counts), 1)), f"overscan of {len(frames)} frames")


def _clipped_variance(values: np.ndarray) -> tuple[float, int]:
    """Variance about the median without outliers, and the number of values."""
    values = values[np.isfinite(values)].astype(np.float64)
    if values.size < 16:
        return np.nan, 0
    values = values - np.median(values)
    width = max(1.4826 * float(np.median(np.abs(values))), 0.3)
    kept = values[np.abs(values) < CLIP * width]
    return float((kept**2).mean()), kept.size


def _data(pixels: DetectorPixels, amplifier: Amplifier) -> np.ndarray:
    return pixels.part(amplifier, amplifier.raw_data).astype(np.float64)


def _level_of_bias(pixels: DetectorPixels, amplifier: Amplifier, biases: list[DetectorPixels]) -> float:
    level = pixels.bias_level(amplifier)
    if not np.isfinite(level) and biases:
        level = float(np.nanmedian(_data(biases[0], amplifier)))
    return level


def _gain(
    amplifier: Amplifier, biases: list[DetectorPixels], lit: list[DetectorPixels], noise: Measured | None
) -> Measured | None:
    """Gain of pairs of flats of one filter, else of two frames of the sky; None when there are none."""
    variance = noise.value**2 if noise is not None else (amplifier.read_noise / amplifier.gain) ** 2
    for kind, source in (("flat", "flats"), ("science", "the sky of science frames")):
        chosen = [p for p in lit if p.file.frame_type == kind]
        made = []
        for one, other in itertools.pairwise(chosen):
            if one.file.physical_filter != other.file.physical_filter:
                continue
            levels = [_level_of_bias(p, amplifier, biases) for p in (one, other)]
            if np.isfinite(levels).all():
                pair = [_data(p, amplifier) - level for p, level in zip((one, other), levels, strict=True)]
                found = gain_of_pair(*pair, variance, amplifier.saturation - max(levels), kind == "flat")
                made += [] if found is None else [found]
        if made:
            weights = np.array([found.error**-2.0 for found in made])
            value = float(np.average([found.value for found in made], weights=weights))
            # neighbouring pairs share a frame
            error = float(weights.sum() ** -0.5) * (1.2 if len(made) > 1 else 1.0)
            return Measured(value, error, f"{source}, {len(made)} pair{'s' * (len(made) > 1)}")
    return None


def gain_of_pair(
    one: np.ndarray,
    other: np.ndarray,
    read_variance: float,
    largest: float,
    covariances: bool = True,
    tile: int = TILE,
) -> Measured | None:
    """Gain [electron/ADU] of two images of nearly the same light.

    Parameters
    ----------
    one, other : ndarray of float64, shape (ny, nx) [ADU above bias]
    read_variance : float
        [ADU^2], of one frame.
    largest : float
        Tiles that reach it are left out [ADU].
    covariances : bool
        Whether those of neighbours count; not in images with stars, whose changes correlate.
    tile : int
        The gain is measured in squares of this side, and the median taken; its error is their scatter's.
    """
    gains = []
    tile = min(tile, *one.shape)
    for y in range(0, one.shape[0] - tile + 1, tile):
        for x in range(0, one.shape[1] - tile + 1, tile):
            a, b = one[y : y + tile, x : x + tile], other[y : y + tile, x : x + tile]
            found = _gain_of_tile(a, b, read_variance, largest, covariances)
            if found is not None:
                gains.append(found)
    if len(gains) < 4:
        return None
    # the variance's scatter is symmetric, its inverse's is not: average 1/gain
    inverse = 1.0 / np.array(gains)
    middle = float(np.median(inverse))
    width = max(1.4826 * float(np.median(np.abs(inverse - middle))), 1e-9 * abs(middle))
    kept = inverse[np.abs(inverse - middle) < 4 * width]
    if kept.mean() <= 0:
        return None
    value = 1.0 / kept.mean()
    return Measured(value, value**2 * kept.std(ddof=1) / np.sqrt(kept.size))


def _gain_of_tile(
    a: np.ndarray, b: np.ndarray, read_variance: float, largest: float, covariances: bool
) -> float | None:
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or max(a.max(), b.max()) >= largest:
        return None
    mean_a, mean_b = float(np.median(a)), float(np.median(b))
    if min(mean_a, mean_b) < LEAST_SIGNAL or not 0.5 < mean_a / mean_b < 2.0:
        return None
    ratio = mean_a / mean_b
    difference = a - ratio * b
    difference -= np.median(difference)
    width = 1.4826 * np.median(np.abs(difference))
    difference[np.abs(difference) > CLIP * width] = 0.0
    difference -= difference.mean()
    total = float((difference**2).mean())
    for dy, dx in NEIGHBOURS if covariances else ():
        first = difference[dy:, max(dx, 0) : difference.shape[1] + min(dx, 0)]
        second = difference[: difference.shape[0] - dy, max(-dx, 0) : difference.shape[1] - max(dx, 0)]
        total += 2.0 * float((first * second).mean())
    # the mean was taken from the tile itself: each of the nine terms is short by variance / n
    total /= 1.0 - (9.0 if covariances else 1.0) / difference.size
    variance = total - (1.0 + ratio**2) * read_variance
    return (mean_a + ratio**2 * mean_b) / variance if variance > 0 else None


def _gain_finding(subject: str, amplifier: Amplifier, gain: Measured | None) -> Finding:
    if gain is None:
        text = f"needs two flats of one filter and alike in level; the definition says {amplifier.gain:g} electrons/ADU"
        return Finding(CANNOT_TELL, subject, text, "take two flats of the same exposure time")
    if not gain.source.startswith("flats"):
        text = (
            f"{gain.source}: about {gain.value:.3g} +- {gain.error:.2g} electrons/ADU (stars and clouds in them "
            f"disturb it), the definition says {amplifier.gain:g}"
        )
        return Finding(CANNOT_TELL, subject, text, "take two flats", gain.value, gain.error, amplifier.gain)
    return compared(
        subject,
        f"{gain.source}:",
        gain.value,
        gain.error,
        amplifier.gain,
        "electrons/ADU",
        GAIN_TOLERANCE * amplifier.gain,
        f"gain: {{{amplifier.name}: {gain.value:.4g}}} (a production with flats measures it again)",
    )


def _saturation_finding(subject: str, amplifier: Amplifier, frames: list[DetectorPixels]) -> Finding:
    values = np.concatenate([_data(p, amplifier).ravel() for p in frames])
    values = values[np.isfinite(values)]
    top = float(values.max()) if values.size else np.nan
    found = pile_up(values)
    if found is None:
        text = (
            f"no pixels pile up at a level; the highest of {len(frames)} frames is {top:.0f} ADU, the definition "
            f"says {amplifier.saturation:g}"
        )
        if top > amplifier.saturation:
            text += f" and so calls {np.count_nonzero(values > amplifier.saturation)} pixels saturated"
        return Finding(CANNOT_TELL, subject, text, "take a frame with saturated stars")
    level, width, count = found
    text = f"{count} pixels pile up at {level:.0f} +- {width:.0f} ADU, the definition says {amplifier.saturation:g}"
    if amplifier.saturation <= level + width and amplifier.saturation > 0.8 * level:
        return Finding(FITS, subject, text, "", level, width, amplifier.saturation)
    remedy = f"saturation: {{{amplifier.name}: {0.98 * level - 2 * width:.0f}}}"
    return Finding(DIFFERS, subject, text, remedy, level, width, amplifier.saturation)


def pile_up(values: np.ndarray) -> tuple[float, float, int] | None:
    """Level at which bright pixels pile up [ADU], its width and their number; None when they do not.

    A level is taken for one when the uppermost 1/64 of the range of bright values holds more than three
    times as many pixels as the two such ranges below it together, and at least 20.
    """
    if values.size < 1000:
        return None
    middle, top = float(np.median(values)), float(values.max())
    if top - middle < 1000.0 or top < 2.0 * abs(middle):
        return None
    step = (top - middle) / 64.0
    upper = values[values > top - step]
    below = np.count_nonzero((values > top - 3.0 * step) & (values <= top - step))
    if upper.size < 20 or upper.size <= 3 * below:
        return None
    level = float(np.median(upper))
    return level, max(1.4826 * float(np.median(np.abs(upper - level))), 0.5), upper.size
