"""Overscan (LDM-151 8.1): the electronic level of each row, and the read noise, from pixels without light.

The level is subtracted from every pixel of a row, so its noise is common to them: with `smooth` over w rows
and n columns it is about read noise / sqrt(n w). Row by row levels follow fast drifts but print the noise of
n pixels on each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, signal

from skyquilt.primitives.compiled import kernel

if TYPE_CHECKING:
    from skyquilt.instrument.camera import Amplifier

METHODS = ("constant", "rows", "smooth")
REGIONS = ("overscan", "prescan", "both")
PARALLEL = ("none", "columns")


@dataclass(frozen=True)
class OverscanConfig:
    """How the level of a row is modelled."""

    method: str = "smooth"
    """One level per amplifier (`constant`), one per row (`rows`) or row levels made smooth (`smooth`)."""
    smoothing: float = 51.0
    """Rows of the running straight line of `smooth`, after rows that stand out are dropped [row]."""
    skip: int = 2
    """Overscan columns left out on the side of the image, where charge arrives late [pixel]."""
    clip: float = 4.0
    """Overscan pixels further than this from the mean are left out [sigma]."""
    region: str = "overscan"
    """Columns that give the level of the rows: serial `overscan` (`prescan` where there is none), `prescan`, `both`."""
    parallel: str = "none"
    """`columns`: subtract the level of each column in the parallel overscan, for detectors whose column structure
    drifts; it prints the noise of some rows on each column. `none` leaves columns to the combined bias."""
    measured_read_noise: bool = True
    """Take the read noise from the overscan where there is one, else from the photon transfer, else the definition."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"overscan.method must be one of {METHODS}, got {self.method!r}")
        if self.region not in REGIONS or self.parallel not in PARALLEL:
            raise ValueError(
                f"overscan.region must be one of {REGIONS} and overscan.parallel one of {PARALLEL}, got "
                f"{self.region!r}, {self.parallel!r}"
            )
        if self.smoothing < 1 or self.skip < 0 or self.clip < 2:
            raise ValueError(
                "overscan needs smoothing >= 1 row, skip >= 0 pixels and clip >= 2 sigma, got "
                f"{self.smoothing}, {self.skip}, {self.clip}"
            )


@dataclass(frozen=True)
class OverscanFit:
    """Level of the rows asked for, and the noise about it.

    Parameters
    ----------
    level : ndarray of float64, shape (rows,)
        [ADU]; NaN everywhere when the overscan has no finite pixel.
    read_noise : float
        Standard deviation of overscan pixels about the level [ADU]; NaN when fewer than 50 are good.
    """

    level: np.ndarray
    read_noise: float


@kernel("UniTuple(float64, 2)(const(float32[:]), float64)")
def quartile_start(values, clip):
    """Median and `clip` robust widths of the finite values: outliers in a quarter of them do no harm."""
    finite = np.sort(values[np.isfinite(values)])
    n = finite.size
    if n == 0:
        return np.nan, np.inf
    centre = 0.5 * (np.float64(finite[(n - 1) // 2]) + np.float64(finite[n // 2]))
    width = clip * (np.float64(finite[(3 * n) // 4]) - np.float64(finite[n // 4])) / 1.349
    # whole ADU: quartiles that coincide say nothing about the width
    return centre, width if width > 0 else np.inf


@kernel("float64[:](const(float32[:, :]), float64)")
def row_levels(pixels, clip):
    """Clipped mean of each row of `pixels` (rows, columns), float64; NaN for rows without a finite pixel."""
    rows, columns = pixels.shape
    levels = np.empty(rows, np.float64)
    for j in range(rows):
        centre, width = quartile_start(pixels[j], clip)
        n_before = -1
        for _ in range(20):
            n = 0
            total = 0.0
            square = 0.0
            for i in range(columns):
                value = np.float64(pixels[j, i])
                if np.isfinite(value) and abs(value - centre) <= width:
                    n += 1
                    total += value - centre
                    square += (value - centre) ** 2
            if n == 0:
                centre = np.nan
                break
            mean = total / n
            # the width of a single value is 0 and would reject everything at the next turn
            width = max(clip * np.sqrt(max(square / n - mean * mean, 0.0)), 1e-6 * (1.0 + abs(centre + mean)))
            centre += mean
            if n == n_before:
                break
            n_before = n
        levels[j] = centre
    return levels


@kernel("UniTuple(float64, 2)(const(float32[:, :]), const(float64[:]), float64)")
def residual_width(pixels, levels, clip):
    """Number and standard deviation of pixels about their row's level, clipped until nothing changes."""
    rows, columns = pixels.shape
    limit = np.inf
    n_before = -1
    deviation = np.nan
    for _ in range(20):
        n = 0
        square = 0.0
        for j in range(rows):
            for i in range(columns):
                residual = np.float64(pixels[j, i]) - levels[j]
                if np.isfinite(residual) and abs(residual) <= limit:
                    n += 1
                    square += residual * residual
        if n == 0 or n == n_before:
            break
        n_before = n
        deviation = np.sqrt(square / n)
        limit = clip * deviation
    return np.float64(max(n_before, 0)), deviation


def fit_overscan(
    pixels: np.ndarray, config: OverscanConfig, first_row: int = 0, rows: np.ndarray | None = None
) -> OverscanFit:
    """Level per row from the overscan pixels of an amplifier.

    Parameters
    ----------
    pixels : ndarray of float32, shape (rows, columns)
        Serial overscan [ADU], late columns already left out; NaN pixels are ignored.
    first_row : int
        Row number of `pixels[0]` in the raw section.
    rows : ndarray of int, optional
        Rows of the raw section for which a level is wanted; by default those of `pixels`. Beyond the
        overscan's rows the nearest level holds.
    """
    own_rows = first_row + np.arange(pixels.shape[0])
    rows = own_rows if rows is None else np.asarray(rows)
    levels = row_levels(pixels, config.clip)
    good = np.isfinite(levels)
    if not good.any():
        return OverscanFit(np.full(rows.size, np.nan), np.nan)
    levels = np.interp(own_rows, own_rows[good], levels[good])
    model = _model(levels, good, config)
    n, width = residual_width(pixels, model, config.clip)
    fitted = good.sum() if config.method == "rows" else 0
    read_noise = width * np.sqrt(n / (n - fitted)) if n - fitted >= 50 else np.nan
    return OverscanFit(np.interp(rows, own_rows, model), float(read_noise))


def amplifier_levels(
    section: np.ndarray, amplifier: Amplifier, config: OverscanConfig
) -> tuple[OverscanFit, np.ndarray]:
    """Level of the data rows, the read noise, and the level of the data columns of one amplifier [ADU].

    Parameters
    ----------
    section : ndarray of float32, shape of `raw_section`

    Returns
    -------
    OverscanFit
        NaN where the amplifier has no usable columns without light.
    ndarray of float32, shape (nx,) or (0,)
        Of the columns, above the rows'; empty when not asked for or without a parallel overscan.
    """
    data = amplifier.raw_data
    pixels, first_row = _dark_columns(section, amplifier, config)
    if pixels is None:
        return OverscanFit(np.full(data.ny, np.nan), np.nan), np.empty(0, np.float32)
    parallel = amplifier.raw_parallel_overscan if config.parallel == "columns" else None
    rows = np.arange(data.y0, data.y1)
    if parallel is None:
        return fit_overscan(pixels, config, first_row, rows), np.empty(0, np.float32)
    both = fit_overscan(
        pixels, config, first_row, np.concatenate([rows, np.arange(parallel.y0, parallel.y1)])
    )
    fit = OverscanFit(both.level[: data.ny], both.read_noise)
    if not np.isfinite(both.level).all() or (parallel.x0, parallel.nx) != (data.x0, data.nx):
        return fit, np.empty(0, np.float32)
    residual = section[parallel.slices()] - both.level[data.ny :, np.newaxis]
    columns = row_levels(np.ascontiguousarray(residual.T.astype(np.float32)), config.clip)
    return fit, np.where(np.isfinite(columns), columns, 0.0).astype(np.float32)


def _dark_columns(
    section: np.ndarray, amplifier: Amplifier, config: OverscanConfig
) -> tuple[np.ndarray | None, int]:
    """Pixels without light of some rows, late ones left out, and the first row."""
    overscan, prescan = amplifier.raw_overscan, amplifier.raw_prescan
    parts = []
    if overscan is not None and config.region != "prescan":
        pixels = section[overscan.slices()]
        skip = min(config.skip, max(pixels.shape[1] - 1, 0))
        # late charge is in the columns next to the data
        late = overscan.x0 >= amplifier.raw_data.x1
        parts.append((overscan.y0, pixels[:, skip:] if late else pixels[:, : pixels.shape[1] - skip]))
    if prescan is not None and (config.region != "overscan" or not parts):
        parts.append((prescan.y0, section[prescan.slices()]))
    if not parts:
        return None, 0
    first = max(y0 for y0, _ in parts)
    last = min(y0 + pixels.shape[0] for y0, pixels in parts)
    if len(parts) == 1 or last <= first:
        return parts[0][1], parts[0][0]
    return np.concatenate([pixels[first - y0 : last - y0] for y0, pixels in parts], axis=1), first


def _model(levels: np.ndarray, good: np.ndarray, config: OverscanConfig) -> np.ndarray:
    """Row levels made constant or smooth, as configured."""
    if config.method == "rows":
        return levels
    if config.method == "constant":
        single = row_levels(levels[good][np.newaxis, :].astype(np.float32), config.clip)[0]
        return np.full(levels.size, single)
    window = min(2 * int(config.smoothing // 2) + 1, 2 * ((levels.size - 1) // 2) + 1)
    if window < 3:
        return levels
    # a bleed trail that reached the overscan spoils whole rows
    residual = levels - ndimage.median_filter(levels, size=window, mode="nearest")
    middle = np.median(residual)
    keep = np.abs(residual - middle) <= config.clip * 1.4826 * np.median(np.abs(residual - middle)) + 1e-9
    rows = np.arange(levels.size)
    # running straight lines: unlike a running mean they do not flatten the drift at the first and last rows
    return signal.savgol_filter(np.interp(rows, rows[keep], levels[keep]), window, 1, mode="interp")
