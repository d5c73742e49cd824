"""Calibration Products Production (LDM-151 4.1.2.3): read noise from differences of bias frames, or overscan."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.pipelines.calibration_products.flat_frames import MeasuredFrame, measured_frame
from skyquilt.pipelines.calibration_products.flat_pairs import OpenFrames
from skyquilt.primitives.statistics import binned_statistics, clipped, median

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal import (
        DetectorCalibrations,
        InstrumentSignatureRemovalConfig,
    )
    from skyquilt.instrument.camera import Amplifier
    from skyquilt.instrument.raw import RawFrame
    from skyquilt.pipelines.calibration_products.photon_transfer import MeasurePhotonTransferConfig


def measure_read_noise(
    read_bias: Callable[[int], RawFrame] | None,
    n_bias: int,
    store: OpenFrames,
    calibrations: DetectorCalibrations,
    config: MeasurePhotonTransferConfig,
    isr: InstrumentSignatureRemovalConfig,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Read noise of the amplifiers and its error [ADU], and where it is from."""
    assert store.detector is not None
    amplifiers = store.detector.amplifiers
    if read_bias is not None and n_bias >= 2:
        biases = OpenFrames(read_bias, n_bias, lambda raw: measured_frame(raw, calibrations, isr))
        values, errors = _noise_of_differences(biases, amplifiers, config)
        if len(values):
            mean, error = error_weighted_mean(values, errors)
            return mean, error, "bias"
    overscan = np.array(store.read_noise).reshape(-1, len(amplifiers))
    count = np.isfinite(overscan).sum(axis=0)
    # a saturated flat leaves charge in its overscan: the median does not see it
    mean = np.array([median(column) for column in overscan.T])
    pixels = np.array([_overscan_pixels(a, isr.overscan.skip) for a in amplifiers])
    return mean, 1.25 * mean / np.sqrt(2 * np.maximum(pixels * count, 1)), "overscan"


def _overscan_pixels(amplifier: Amplifier, skip: int) -> int:
    box = amplifier.raw_overscan
    return 0 if box is None else max(box.nx - skip, 1) * box.ny


def _noise_of_differences(
    biases: OpenFrames, amplifiers: tuple[Amplifier, ...], config: MeasurePhotonTransferConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Read noise and errors, shape (differences, amplifiers) [ADU], from bias frames 0 - 1, 2 - 3 ..."""
    values, errors = [], []
    waiting: MeasuredFrame | None = None
    for index in range(biases.n_frames):
        frame = biases.get(index)
        if frame is None:
            continue
        if waiting is None:
            waiting = frame
            continue
        found = [_difference_noise(waiting, frame, amplifier, config) for amplifier in amplifiers]
        values.append([value for value, _ in found])
        errors.append([error for _, error in found])
        waiting = None
    return np.array(values), np.array(errors)


def _difference_noise(
    first: MeasuredFrame, second: MeasuredFrame, amplifier: Amplifier, config: MeasurePhotonTransferConfig
) -> tuple[float, float]:
    """Noise of one frame and its error from the difference of two, less what is common to a row [ADU].

    The level wanders from row to row, and the overscan does not follow all of it: that is no noise of a pixel.
    """
    part = amplifier.data.slices()
    difference = first.image[part] - second.image[part]
    good = first.good[part] & second.good[part]
    rows = [clipped(row[inside], n_sigma=config.clip) for row, inside in zip(difference, good)]
    level = np.array([row.mean for row in rows], np.float32)
    good &= np.isfinite(level)[:, None]
    difference = difference - level[:, None]
    binned = binned_statistics(difference, (config.block, config.block), good, n_sigma=config.clip)
    count = np.where(np.isfinite(binned.width) & (binned.count > 1), binned.count - 1, 0)
    if not count.sum() > 100:
        return math.nan, math.nan
    variance = np.nansum(np.where(count > 0, count * binned.width**2, 0)) / count.sum() / 2
    # a row's mean takes one of its pixels' degrees of freedom
    variance *= difference.shape[1] / (difference.shape[1] - 1)
    return math.sqrt(variance), math.sqrt(variance / (2 * count.sum()))


def error_weighted_mean(values: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means over the first axis and their errors; NaN where nothing is finite."""
    good = np.isfinite(values) & (errors > 0)
    weights = np.where(good, 1 / np.where(good, errors, 1) ** 2, 0.0)
    total = weights.sum(axis=0)
    known = total > 0
    mean = np.full(total.shape, np.nan)
    mean[known] = (weights * np.where(good, values, 0)).sum(axis=0)[known] / total[known]
    return mean, np.where(known, 1 / np.sqrt(np.where(known, total, 1)), np.nan)
