"""Instrument signature and artifacts against truth (LDM-151 6.1, 8.1, 8.2): one snap of one detector at a time.

Pure functions of arrays and of the truth that a simulation writes (schemas PIXEL_TRUTH, EVENT_TRUTH,
SOURCE_TRUTH). `frame_tables` puts them together; the scorecard makes figures of the rows of many frames.

Received electrons are what the pixels caught, response included: the calibrated image times its flat, with the
fringes that were subtracted added again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from skyquilt.primitives.statistics import mad_width

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.primitives.exposure import Exposure

LEVEL_EDGES = tuple(float(round(100 * 10 ** (k / 4))) for k in range(13))
"""Edges of the bins of expected electrons: four a decade, from 100 to 100,000."""

SPOILT = ("BAD", "NO_DATA", "SATURATED", "SUSPECT", "COSMIC_RAY", "STREAK", "INTERPOLATED", "GHOST")
"""Pixels with these planes say nothing of the calibration."""

SKY_LIGHT = 0.02
"""A pixel is empty where sources bring less than this share of its noise."""

STAR_SNR, STAR_FULL_WELL = 100.0, (0.02, 0.75)
"""Stars whose size is compared: least S/N, and range of their peak over the full well."""

LEAST_PIXELS = 1000
"""With fewer empty pixels a frame has no pull width and no residual of fringes."""

STAR_HALF, STAR_SKY_HALF = 12, 50
"""Half sizes of the windows of a star's moments and of the empty pixels that its sky is measured in [pixel]."""

_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, eq=False)
class FrameTruth:
    """The truth about one snap of one detector.

    Parameters
    ----------
    expected, light : ndarray of float32, shape (ny, nx)
        Mean electrons received: of everything, and of sources alone.
    fringe : ndarray of float32, shape (ny, nx), or None
        Part of `expected` that is fringes.
    pixels, events : DataFrame
        Rows of PIXEL_TRUTH and EVENT_TRUTH of the frame.
    sources : DataFrame
        Rows of SOURCE_TRUTH of the visit and detector.
    """

    expected: np.ndarray
    light: np.ndarray
    fringe: np.ndarray | None
    pixels: pd.DataFrame
    events: pd.DataFrame
    sources: pd.DataFrame

    def where(self, *kinds: str) -> np.ndarray:
        """Pixels that events of these kinds touched; bool, shape (ny, nx)."""
        return _painted(self.pixels[self.pixels["kind"].isin(kinds).to_numpy()], self.expected.shape)


@dataclass(frozen=True, eq=False)
class CalibratedFrame:
    """What ISR and the search for artifacts made of it.

    Parameters
    ----------
    exposure : Exposure
        [electron], sky not subtracted.
    flat : ndarray of float32, shape (ny, nx)
        The flat that it was divided by; 1 without.
    fringe : ndarray of float32, shape (ny, nx), or None
        Fringes that were subtracted [electron].
    """

    exposure: Exposure
    flat: np.ndarray
    fringe: np.ndarray | None = None

    @property
    def usable(self) -> np.ndarray:
        """Pixels that tell of the calibration; bool, shape (ny, nx)."""
        good = ~self.exposure.mask.any(SPOILT)
        return good & np.isfinite(self.exposure.image) & np.isfinite(self.flat) & (self.flat > 0)

    def received(self) -> np.ndarray:
        """Electrons received, float32, shape (ny, nx)."""
        image = self.exposure.image if self.fringe is None else self.exposure.image + self.fringe
        return image * self.flat


def _painted(rows: pd.DataFrame, shape: tuple[int, int]) -> np.ndarray:
    where = np.zeros(shape, bool)
    x, y = rows["x"].to_numpy(), rows["y"].to_numpy()
    inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
    where[y[inside], x[inside]] = True
    return where


def level_rows(frame: CalibratedFrame, truth: FrameTruth) -> dict[str, np.ndarray]:
    """Sums of measured and expected electrons in bins of the expected level.

    Returns
    -------
    dict
        lower [electron], n, measured, expected [electron]: one value per bin with pixels.
    """
    # what an event left is no calibration error, found or not
    good = frame.usable & ~ndimage.binary_dilation(
        truth.where("cosmic_ray", "saturated", "bled", "streak", "ghost"), _EIGHT
    )
    expected, measured = truth.expected[good].astype(np.float64), frame.received()[good].astype(np.float64)
    number = np.digitize(expected, LEVEL_EDGES) - 1
    inside = (number >= 0) & (number < len(LEVEL_EDGES) - 1)
    size = len(LEVEL_EDGES) - 1
    n = np.bincount(number[inside], minlength=size)
    sums = [np.bincount(number[inside], values[inside], size) for values in (measured, expected)]
    kept = np.flatnonzero(n)
    return {
        "lower": np.array(LEVEL_EDGES[:-1])[kept],
        "n": n[kept],
        "measured": sums[0][kept],
        "expected": sums[1][kept],
    }


def sky_pull_row(frame: CalibratedFrame, truth: FrameTruth) -> dict[str, float]:
    """Width of (measured - expected) / quoted error in empty pixels, and how many there are."""
    empty = frame.usable & ~ndimage.binary_dilation(truth.where("cosmic_ray", "streak", "ghost"), _EIGHT)
    variance = frame.exposure.variance
    with np.errstate(invalid="ignore", divide="ignore"):
        empty &= truth.light < SKY_LIGHT * np.sqrt(variance) * frame.flat
        difference = frame.received()[empty] - truth.expected[empty]
        pulls = difference / (frame.flat[empty] * np.sqrt(variance[empty]))
    if pulls.size < LEAST_PIXELS:
        return {"width": np.nan, "mean": np.nan, "n": int(pulls.size)}
    return {"width": mad_width(pulls), "mean": float(np.mean(pulls, dtype=np.float64)), "n": int(pulls.size)}


def cosmic_ray_rows(frame: CalibratedFrame, truth: FrameTruth) -> dict[str, np.ndarray]:
    """Whether each cosmic ray was found: its brightest pixel is marked.

    Returns
    -------
    dict
        peak_snr, found, share (of its pixels above 3 sigma that are marked), visible (False where the brightest
        pixel is saturated, bad or without data): one value per event.
    """
    mask = frame.exposure.mask
    marked = mask.any(["COSMIC_RAY"])
    hidden = mask.any(["BAD", "NO_DATA", "SATURATED"])
    events = truth.events[(truth.events["kind"] == "cosmic_ray").to_numpy()]
    pixels = truth.pixels[(truth.pixels["kind"] == "cosmic_ray").to_numpy()]
    noise = (events["peakElectrons"] / events["peakSnr"]).to_numpy()
    noise_of = dict(zip(events["event"].tolist(), noise.tolist()))
    by_event = dict(tuple(pixels.groupby("event")))
    rows = []
    for event, snr in zip(events["event"].tolist(), events["peakSnr"].tolist()):
        own = by_event.get(event)
        if own is None or not np.isfinite(snr):
            continue
        x, y, charge = (own[name].to_numpy() for name in ("x", "y", "electrons"))
        brightest = int(np.argmax(charge))
        strong = charge > 3 * noise_of[event]
        share = float(marked[y[strong], x[strong]].mean()) if strong.any() else np.nan
        at = y[brightest], x[brightest]
        rows.append((snr, bool(marked[at]), share, not hidden[at]))
    columns = list(zip(*rows)) if rows else [(), (), (), ()]
    return dict(zip(("peak_snr", "found", "share", "visible"), map(np.array, columns)))


def false_row(frame: CalibratedFrame, truth: FrameTruth) -> dict[str, float]:
    """Marks without a cause: cosmic rays per area, and stars whose core was taken for one.

    Returns
    -------
    dict
        megapixels, false_cosmic_rays (connected marks that touch no true hit), stars (true S/N above 10),
        cores_hit (of them, marked within a pixel of the centre without a true hit within 3).
    """
    marked = frame.exposure.mask.any(["COSMIC_RAY"])
    near = ndimage.binary_dilation(truth.where("cosmic_ray"), _EIGHT)
    labels, n = ndimage.label(marked, _EIGHT)
    true = np.unique(labels[near & marked])
    stars = truth.sources[((truth.sources["kind"] == "star") & (truth.sources["snr"] > 10)).to_numpy()]
    hit = 0
    wide = ndimage.binary_dilation(near, _EIGHT, iterations=2)
    for x, y in zip(stars["x"].to_numpy(), stars["y"].to_numpy()):
        core = _window(x, y, 1, marked.shape)
        hit += bool(marked[core].any() and not wide[core].any())
    return {
        "megapixels": marked.size / 1e6,
        "false_cosmic_rays": n - np.count_nonzero(true),
        "stars": len(stars),
        "cores_hit": hit,
    }


def _window(x: float, y: float, reach: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    i, j = round(float(x)), round(float(y))
    return (
        slice(min(max(j - reach, 0), shape[0]), min(max(j + reach + 1, 0), shape[0])),
        slice(min(max(i - reach, 0), shape[1]), min(max(i + reach + 1, 0), shape[1])),
    )


def trail_rows(frame: CalibratedFrame, truth: FrameTruth) -> dict[str, np.ndarray]:
    """How much of each satellite trail is marked on the detector.

    Returns
    -------
    dict
        event (the same on all detectors), brightness (mean of its pixels over the noise of a pixel), pixels (that it
        touches), marked (of them), length [pixel]: one value per trail.
    """
    marked = frame.exposure.mask.any(["STREAK"])
    noise = float(np.sqrt(np.nanmedian(frame.exposure.variance)))
    events = truth.events[(truth.events["kind"] == "streak").to_numpy()]
    pixels = truth.pixels[(truth.pixels["kind"] == "streak").to_numpy()]
    by_event = dict(tuple(pixels.groupby("event")))
    rows = []
    for event, brightness in zip(events["event"].tolist(), events["surfaceBrightness"].tolist()):
        own = by_event.get(event)
        if own is None:
            continue
        length = float(np.hypot(np.ptp(own["x"]), np.ptp(own["y"])))
        n_marked = int(np.count_nonzero(marked[own["y"], own["x"]]))
        rows.append((event, brightness / noise, len(own), n_marked, length))
    columns = list(zip(*rows)) if rows else [(), (), (), (), ()]
    return dict(zip(("event", "brightness", "pixels", "marked", "length"), map(np.array, columns)))


def false_trail_row(frame: CalibratedFrame, truth: FrameTruth) -> dict[str, float]:
    """Marks of trails that touch no true one."""
    marked = frame.exposure.mask.any(["STREAK"])
    labels, n = ndimage.label(marked, _EIGHT)
    true = np.unique(labels[ndimage.binary_dilation(truth.where("streak"), _EIGHT, 10) & marked])
    return {"false_trails": n - np.count_nonzero(true)}


def saturation_row(frame: CalibratedFrame, truth: FrameTruth) -> dict[str, float]:
    """True saturated and bled pixels, those of them that are marked, and marks far from any."""
    mask = frame.exposure.mask
    marked = mask.any(["SATURATED"])
    true = truth.where("saturated", "bled") & ~mask.any(["NO_DATA"])
    near = ndimage.binary_dilation(true, _EIGHT, 2)
    return {
        "pixels": int(true.sum()),
        "marked": int((true & marked).sum()),
        "beyond": int((marked & ~near).sum()),
    }


def fringe_row(frame: CalibratedFrame, truth: FrameTruth) -> dict[str, float]:
    """Share of the fringes that is left: the residual's projection on the true pattern, with its error."""
    if truth.fringe is None or not truth.fringe.any():
        return {"residual": np.nan, "error": np.nan}
    good = frame.usable & ~ndimage.binary_dilation(truth.where("cosmic_ray", "streak", "ghost"), _EIGHT)
    with np.errstate(invalid="ignore", divide="ignore"):
        good &= truth.light < SKY_LIGHT * np.sqrt(frame.exposure.variance) * frame.flat
        left = frame.exposure.image - (truth.expected - truth.fringe) / frame.flat
        pattern = truth.fringe / frame.flat
    if np.count_nonzero(good) < LEAST_PIXELS:
        return {"residual": np.nan, "error": np.nan}
    pattern, left = pattern[good].astype(np.float64), left[good].astype(np.float64)
    pattern, left = pattern - pattern.mean(), left - left.mean()
    power = float((pattern**2).sum())
    return {
        "residual": float((left * pattern).sum() / power),
        "error": float(np.sqrt((left**2).mean() / power)),
    }


def star_size_rows(
    frame: CalibratedFrame, uncorrected: CalibratedFrame, truth: FrameTruth
) -> dict[str, np.ndarray]:
    """Sizes of stars with and without the brighter-fatter correction, over those of the noise-free image.

    As whoever measures stars would, it takes off the sky around: a gain or flat that is wrong by a thousandth
    leaves a sky that makes faint stars large.

    Returns
    -------
    dict
        peak (over the full well), corrected, uncorrected (T / T of truth - 1), error: one value per star; T is
        the trace of second moments with the same fixed weight.
    """
    sources = truth.sources
    low, high = STAR_FULL_WELL
    stars = sources[
        (
            (sources["kind"] == "star")
            & sources["isolated"].astype(bool)
            & (sources["snr"] > STAR_SNR)
            & sources["fullWellFraction"].between(low, high)
        ).to_numpy()
    ]
    spoilt = ~(frame.usable & uncorrected.usable) | truth.where("cosmic_ray", "streak", "ghost")
    with np.errstate(invalid="ignore"):
        noise = frame.exposure.variance * frame.flat**2
        empty = ~spoilt & (truth.light < SKY_LIGHT * np.sqrt(noise))
        residuals = [each.received() - truth.expected for each in (frame, uncorrected)]
    rows = []
    for x, y, peak in zip(stars["x"], stars["y"], stars["fullWellFraction"]):
        window = _window(x, y, STAR_HALF, spoilt.shape)
        if any(side.stop - side.start != 2 * STAR_HALF + 1 for side in window) or spoilt[window].any():
            continue
        around = _window(x, y, STAR_SKY_HALF, spoilt.shape)
        n_empty = int(np.count_nonzero(empty[around]))
        if n_empty < LEAST_PIXELS:
            continue
        light = truth.light[window].astype(np.float64)
        true = _weighted_trace(light, x, y, window)
        change = []
        for residual in residuals:
            sky = float(residual[around][empty[around]].mean(dtype=np.float64))
            change.append(_weighted_trace(light + residual[window] - sky, x, y, window) / true - 1)
        error = _trace_error(light, noise[window], float(np.median(noise[around])) / n_empty, x, y, window)
        rows.append((peak, *change, error / true))
    columns = list(zip(*rows)) if rows else [(), (), (), ()]
    return dict(zip(("peak", "corrected", "uncorrected", "error"), map(np.array, columns)))


def _weight(x: float, y: float, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian weight of sigma 2 pixels about a place, and the squared distance from it."""
    dy, dx = np.mgrid[window]
    r2 = (dx - x) ** 2 + (dy - y) ** 2
    return np.exp(-r2 / 8.0), r2


def _weighted_trace(light: np.ndarray, x: float, y: float, window: tuple[slice, slice]) -> float:
    weight, r2 = _weight(x, y, window)
    return float((weight * r2 * light).sum() / (weight * light).sum())


def _trace_error(
    light: np.ndarray,
    variance: np.ndarray,
    sky_variance: float,
    x: float,
    y: float,
    window: tuple[slice, slice],
) -> float:
    """Standard error of the trace from the noise of the pixels and of the sky that was taken off."""
    weight, r2 = _weight(x, y, window)
    total = float((weight * light).sum())
    lever = weight * (r2 - float((weight * r2 * light).sum()) / total)
    return float(np.sqrt((lever**2 * variance).sum() + lever.sum() ** 2 * sky_variance) / total)


def frame_tables(
    frame: CalibratedFrame, uncorrected: CalibratedFrame | None, truth: FrameTruth
) -> dict[str, Mapping[str, Any]]:
    """Everything that can be said of a frame: table name -> columns (numbers are single rows)."""
    tables: dict[str, Mapping[str, Any]] = {
        "levels": level_rows(frame, truth),
        "sky": sky_pull_row(frame, truth),
        "cosmic_rays": cosmic_ray_rows(frame, truth),
        "marks": false_row(frame, truth) | false_trail_row(frame, truth),
        "trails": trail_rows(frame, truth),
        "saturation": saturation_row(frame, truth),
        "fringes": fringe_row(frame, truth),
    }
    if uncorrected is not None:
        tables["stars"] = star_size_rows(frame, uncorrected, truth)
    return tables
