"""Calibration Products Production (LDM-151 4.1.2.3): a flat or bias frame ready to be measured.

What the measurements of linearity and photon transfer share: one frame in ADU above overscan and bias, with
what is known of its pixels, and the pixels of one amplifier of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.algorithms.instrument_signature_removal import assemble
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.statistics import block_edges

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal import (
        DetectorCalibrations,
        InstrumentSignatureRemovalConfig,
    )
    from skyquilt.instrument.camera import Detector
    from skyquilt.instrument.raw import RawFrame
    from skyquilt.primitives.statistics import BinnedImage

_ROWS = 256
_BLOCK = 64
_NEAR_FULL = 0.8
"""A block with this share of the level of its saturated pixels is about to be saturated itself."""
_LEAST_RESPONSE = 0.2
"""Pixels whose response differs by more from that of their block are dead, shaded or full of traps."""
_UNUSABLE = ("SATURATED", "BAD", "NO_DATA")


@dataclass(frozen=True)
class MeasuredFrame:
    """One frame of one detector.

    Parameters
    ----------
    detector : Detector
    image : ndarray of float32, shape (ny, nx)
        [ADU] above overscan and bias.
    good : ndarray of bool, shape (ny, nx)
        Finite pixels that are neither saturated nor known to be defective, outside of saturated blocks.
    saturated : tuple of float
        Share of the amplifiers' blocks that are left out because pixels in them are saturated.
    exposure_time : float
        [s].
    time : float
        Middle of the exposure, TAI MJD [day]; NaN when not known.
    read_noise : tuple of float
        Of the amplifiers, from this frame's overscan [ADU]; NaN where there is none.
    """

    detector: Detector
    image: np.ndarray
    good: np.ndarray
    saturated: tuple[float, ...]
    exposure_time: float
    time: float
    read_noise: tuple[float, ...]


def measured_frame(
    raw: RawFrame,
    calibrations: DetectorCalibrations,
    isr: InstrumentSignatureRemovalConfig,
    without: tuple[str, ...] = (),
    uniform: bool = True,
    max_saturated: float = 1.0,
) -> MeasuredFrame:
    """Assemble a frame, subtract the bias and say which pixels can be measured.

    Parameters
    ----------
    raw : RawFrame
    calibrations : DetectorCalibrations
        Bias, crosstalk, linearizer and defects are used as far as they are there.
    isr : InstrumentSignatureRemovalConfig
    without : tuple of str
        Steps of signature removal that are left out besides those of `isr.skip`.
    uniform : bool
        The light has no sources: what is high is no bleed trail, and a frame that is saturated all over still
        tells where the response ends.
    max_saturated : float
        Blocks of 64 x 64 pixels with a larger share of saturated pixels are left out whole when the rest is not
        far below: it is the fainter part of the pixels. Hot columns in a fainter block are only masked.

    Raises
    ------
    ProcessingFailure
        As of `assemble`; WRONG_SHAPE when the bias does not fit.
    """
    changes = {}
    if uniform:
        saturation = replace(
            isr.saturation, max_saturated=1.0, bleed_fraction=1.0, plateau_length=0, edge_rows=0
        )
        changes["saturation"] = saturation
    frame = assemble(
        raw, replace(calibrations, photon_transfer=None), replace(isr, skip=(*isr.skip, *without), **changes)
    )
    image, detector = frame.image, raw.detector
    good = np.isfinite(image)
    good &= ~frame.mask.any(list(_UNUSABLE))
    saturated = _leave_out_blocks(detector, image, frame.mask.any(["SATURATED"]), good, max_saturated)
    if calibrations.defects is not None:
        good &= ~calibrations.defects.pixels(image.shape)
    if calibrations.bias is not None:
        _subtract_bias(detector, image, good, calibrations.bias)
    noise = tuple(_overscan_noise(each) for each in frame.amplifiers)
    time = getattr(raw.info, "datetime_mid", None)
    exposure_time = getattr(raw.info, "exposure_time", None)
    return MeasuredFrame(
        detector,
        image,
        good,
        saturated,
        math.nan if exposure_time is None else float(exposure_time),
        math.nan if time is None else float(time),
        noise if isr.overscan.measured_read_noise else (math.nan,) * len(noise),
    )


def spread(blocks: np.ndarray, edges: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Values of blocks at their pixels, float32, for edges of rows and columns as of `block_edges`."""
    rows = np.repeat(blocks.astype(np.float32), np.diff(edges[0]), axis=0)
    return np.repeat(rows, np.diff(edges[1]), axis=1)


def of_normal_response(
    image: np.ndarray, good: np.ndarray, cells: BinnedImage, block: int, clip: float, hits: bool
) -> np.ndarray:
    """Good pixels without dead and trapping ones: the same at every level, as far as noise lets them be seen.

    Clipping at some sigma would leave out more of the dust in bright flats than in faint ones, and the mean of what
    is left would rise with the level by more than the response bends.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        A flat.
    good : ndarray of bool, shape (ny, nx)
    cells : BinnedImage
        Of the image, in blocks of side `block` [pixel].
    clip : float
        Noise of a pixel reaches so far [sigma].
    hits : bool
        Leave out what lies higher than the noise: particles.
    """
    edges = block_edges(image.shape[0], block), block_edges(image.shape[1], block)
    middle, noise = spread(cells.median, edges), np.float32(clip) * spread(cells.width, edges)
    reach = np.maximum(noise, np.float32(_LEAST_RESPONSE) * middle)
    with np.errstate(invalid="ignore"):
        return good & (image >= middle - reach) & (image <= middle + (noise if hits else reach))


def _leave_out_blocks(
    detector: Detector, image: np.ndarray, saturated: np.ndarray, good: np.ndarray, most: float
) -> tuple[float, ...]:
    """Pixels of blocks that are saturated in part are not good, in place; share of such blocks by amplifier."""
    shares = []
    for amplifier in detector.amplifiers:
        part = amplifier.data.slices()
        edges = [block_edges(length, _BLOCK) for length in amplifier.data.shape]
        rows = np.add.reduceat(saturated[part], edges[0][:-1], axis=0, dtype=np.int64)
        counts = np.add.reduceat(rows, edges[1][:-1], axis=1)
        sizes = np.diff(edges[0])[:, None] * np.diff(edges[1])[None, :]
        full = counts > most * sizes
        for j, i in np.argwhere(full):
            block = image[part][edges[0][j] : edges[0][j + 1], edges[1][i] : edges[1][i + 1]]
            known = block[np.isfinite(block)]
            full[j, i] = known.size > 0 and np.median(known) > _NEAR_FULL * known.max()
        shares.append(float(full.mean()))
        if full.any():
            spread = np.repeat(np.repeat(full, np.diff(edges[0]), axis=0), np.diff(edges[1]), axis=1)
            good[part] &= ~spread
    return tuple(shares)


def _overscan_noise(figures: Any) -> float:
    """Read noise that the overscan showed [ADU]; NaN when the figure is only a nominal one."""
    measured = figures.status == "good" and math.isfinite(figures.overscan_level)
    return float(figures.read_noise / figures.gain) if measured else math.nan


def _subtract_bias(detector: Detector, image: np.ndarray, good: np.ndarray, bias: Any) -> None:
    """In place, some rows at a time; pixels without a bias are not good."""
    if bias.box.shape != image.shape:
        raise ProcessingFailure(
            Reason.WRONG_SHAPE, f"bias has shape {bias.box.shape}, the detector {image.shape}"
        )
    for start in range(0, detector.ny, _ROWS):
        strip = Box(0, start, detector.nx, min(_ROWS, detector.ny - start))
        level = bias.subimage(strip).image
        known = np.isfinite(level)
        image[strip.slices()] -= np.where(known, level, np.float32(0))
        good[strip.slices()] &= known
