"""Single Frame Measurement (LDM-151 8.6.1.1, 8.6.3.2): the sources of a detector, one after another, all others noise.

MeasureSources of 5.1.1.12: an ordered list of plugins is run on each source while every other source of every footprint is
replaced by noise of the sky. Neither the order nor the number of other sources changes what comes out, beyond the pixels
that sources share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skyquilt.algorithms.measurement.framework import (
    MeasurementFailure,
    Plugin,
    Record,
    SourceImage,
    Surroundings,
)
from skyquilt.algorithms.measurement.neighbour_noise import DeblendedSources, NeighbourNoise, stream_seed
from skyquilt.algorithms.measurement.plugin_list import columns_of, make_plugins
from skyquilt.algorithms.measurement.plugins import BUILTIN
from skyquilt.algorithms.measurement.psf_sampler import PsfSampler
from skyquilt.algorithms.measurement.sky_sources import place_sky_sources
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.psf import Psf
from skyquilt.primitives.tables import Column

Columns = dict[str, np.ndarray]
"""Columns of a table, by name and of one length."""

DRIVER_COLUMNS = (
    Column("parentRow", "i8", "", "Row of the blend it was taken out of; -1 if none."),
    Column("deblend_nChild", "i4", "", "Sources that this blend was taken apart into; 0 if none."),
    Column(
        "detect_isPrimary", "bool", "", "The row to use: not a blend that has children, nor a sky source."
    ),
    Column("sky_source", "bool", "", "Not a source: measured on empty sky."),
    Column("footprintArea_value", "i4", "pixel", "Pixels of the footprint."),
    Column("measurement_error", "bool", "", "A plugin stopped with an error of its own program here."),
)
"""What the driver itself writes."""


@dataclass(frozen=True)
class MeasureSourcesConfig:
    """Plugins and what surrounds them."""

    plugins: tuple[str, ...] = tuple(BUILTIN)
    """Names of the library's plugins, and FILE.py:CLASS of others in the survey directory."""
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of plugins, by the plugin's name."""
    sky_sources: int = 100
    """Empty places measured beside the sources of each detector [count]."""
    sky_margin: int = 15
    """Distance of empty places from footprints and unusable pixels [pixel]."""
    interpolated_planes: tuple[str, ...] = ("INTERPOLATED",)
    """Planes of pixels whose value is made from neighbours: they count with twice their variance and more."""
    interpolation_error: float = 0.1
    """Relative error of such a value."""
    not_sky_planes: tuple[str, ...] = ("SATURATED", "SPIKE", "STREAK", "GHOST", "COSMIC_RAY", "INTERPOLATED")
    """Planes of pixels that say nothing of the sky."""

    def __post_init__(self) -> None:
        if self.sky_sources < 0 or self.sky_margin < 0 or self.interpolation_error < 0:
            raise ValueError("measurement needs sky_sources, sky_margin and interpolation_error >= 0")


@dataclass(frozen=True)
class Places:
    """Where sources are: of each row that is no parent, in the order of `Deblended`.

    Parameters
    ----------
    x, y : ndarray of float64, shape (n,)
        First positions [pixel].
    peak_x, peak_y : ndarray of int64, shape (n,)
    """

    x: np.ndarray
    y: np.ndarray
    peak_x: np.ndarray
    peak_y: np.ndarray


@dataclass(frozen=True)
class PluginError:
    """Errors of a plugin's own program: how many sources it stopped at, and the first message."""

    plugin: str
    count: int
    first: str


@dataclass(frozen=True)
class MeasuredSources:
    """What was measured of the sources of one detector.

    Parameters
    ----------
    columns : dict of str to ndarray, shape (n,)
        Rows of `Deblended`, then sky sources. Fluxes in electrons, positions in pixels.
    described : tuple of Column
        The columns with their units and texts.
    errors : tuple of PluginError
        Programming errors in plugins; empty when all is well.
    """

    columns: Columns
    described: tuple[Column, ...]
    errors: tuple[PluginError, ...]


def measure_deblended_frame(
    exposure: Exposure,
    bad: np.ndarray,
    places: Places,
    sources: DeblendedSources,
    config: MeasureSourcesConfig,
    *,
    psf: Psf | None = None,
    width: float | None = None,
    sky_variance: np.ndarray | Callable[[np.ndarray], np.ndarray] | None = None,
    background_error: float = 0.0,
    directory: str | Path = ".",
    plugins: Sequence[Plugin] | None = None,
    order: Sequence[int] | None = None,
) -> MeasuredSources:
    """Measure all sources of a detector, and places without any.

    Parameters
    ----------
    exposure : Exposure
        In electrons, background subtracted; `info` has visit and detector, from which noise is drawn.
    bad : ndarray of bool, shape (ny, nx)
        Pixels that must not be used; pixels that are not finite, or without positive variance, join them.
    places : Places
        `Detections` will do. A parent starts at its brightest child.
    sources : DeblendedSources
    config : MeasureSourcesConfig
    psf : Psf, optional
        Without one, what needs it is flagged.
    width : float, optional
        Standard deviation of a star [pixel]; by default that of the PSF, or 2.
    sky_variance : ndarray of float32, shape (ny, nx), or function, optional
        Variance of empty sky, or a function that gives it for flat indices of pixels; by default the variance plane
        less the image, as a plane in electrons has it.
    background_error : float
        Error per pixel of the background model [electron].
    directory : path
        The survey's, for plugins of its own.
    plugins : sequence of Plugin, optional
        Instead of those of `config`, ready made.
    order : sequence of int, optional
        Order in which rows are measured, which changes nothing (tests); ascending by default.

    Returns
    -------
    MeasuredSources

    Raises
    ------
    ValueError
        When arrays do not belong together or a plugin is not what it should be.
    """
    chosen = (
        tuple(plugins) if plugins is not None else make_plugins(config.plugins, config.options, directory)
    )
    _check(exposure, bad, places, sources)
    seed = stream_seed(int(exposure.info.get("visit", 0)), int(exposure.info.get("detector", 0)))
    bad = unusable_pixels(exposure, bad)
    noise = NeighbourNoise(
        exposure.image,
        exposure.variance,
        bad,
        exposure.mask.array,
        exposure.mask.bits(config.interpolated_planes, missing_ok=True),
        config.interpolation_error,
        sources,
        _sky_at(exposure, sources.pixel, sky_variance),
        seed,
    )
    no_sky = exposure.mask.any(config.not_sky_planes, missing_ok=True)
    no_sky |= bad
    no_sky |= noise.detected
    empty = place_sky_sources(no_sky, config.sky_sources, config.sky_margin, seed)
    sampler = None if psf is None else PsfSampler(psf, exposure.shape)
    around = Surroundings(
        noise.image,
        noise.variance,
        noise.original,
        exposure.mask,
        bad,
        noise.detected,
        no_sky,
        sampler,
        _width(psf, exposure.shape) if width is None else float(width),
        float(background_error),
        seed,
    )
    described = DRIVER_COLUMNS + columns_of(chosen)
    starts = _starts(places, sources)
    n = len(sources.n_child)
    columns = _blank(described, n + len(empty))
    measured = _Measured(chosen, columns)
    for row in range(n) if order is None else order:
        pixel, value = noise.pixels_of(row)
        noise.put_in(row)
        source = SourceImage(around, row, starts[row][:2], starts[row][2:], pixel, value, False)
        measured.one(source)
        noise.take_out(row)
    nothing = np.empty(0, np.int64), np.empty(0, np.float32)
    for k, (x, y) in enumerate(empty.tolist()):
        measured.one(SourceImage(around, n + k, (float(x), float(y)), (x, y), *nothing, True))
    _write_driver_columns(columns, sources, n)
    for plugin in chosen:
        plugin.finish(columns, exposure)
    return MeasuredSources(columns, described, measured.errors())


class _Measured:
    """Runs plugins on sources, and keeps account of what went wrong."""

    def __init__(self, plugins: Sequence[Plugin], columns: Columns) -> None:
        self._plugins = [
            (plugin, plugin.general_flag, [c for c in plugin.all_columns() if c.dtype != "bool"])
            for plugin in plugins
        ]
        self._columns = columns
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def one(self, source: SourceImage) -> None:
        record = Record(self._columns, source.number)
        for plugin, flag, written in self._plugins:
            try:
                plugin.measure(source, record)
            except MeasurementFailure as failure:
                record[flag] = True
                if failure.flag in record:
                    record[failure.flag] = True
            except (
                Exception
            ) as error:  # a user's plugin may raise anything: counted, told, and the source flagged
                record[flag] = True
                record["measurement_error"] = True
                for column in written:
                    record[column.name] = np.nan if column.is_float else 0
                self._counts[plugin.name] = self._counts.get(plugin.name, 0) + 1
                self._first.setdefault(
                    plugin.name, f"{type(error).__name__}: {error} (source {source.number})"
                )

    def errors(self) -> tuple[PluginError, ...]:
        return tuple(PluginError(name, n, self._first[name]) for name, n in self._counts.items())


def unusable_pixels(exposure: Exposure, bad: np.ndarray) -> np.ndarray:
    """`bad`, and pixels that are not finite or have no positive variance; bool, shape (ny, nx), a new array."""
    found = np.array(bad, dtype=bool, order="C")
    for start in range(0, found.shape[0], 256):
        rows = slice(start, start + 256)
        variance = exposure.variance[rows]
        found[rows] |= ~(np.isfinite(exposure.image[rows]) & (variance > 0) & np.isfinite(variance))
    return found


def _check(exposure: Exposure, bad: np.ndarray, places: Places, sources: DeblendedSources) -> None:
    start, n = np.asarray(sources.child_start), len(sources.n_child)
    if bad.shape != exposure.shape:
        raise ValueError(f"bad pixels have shape {bad.shape}, the exposure {exposure.shape}")
    if start.shape != (n + 1,) or start[0] != 0 or start[-1] != len(sources.pixel):
        raise ValueError(f"child_start of {n} sources must run from 0 to {len(sources.pixel)}")
    if len(sources.value) != len(sources.pixel) or len(sources.parent) != n:
        raise ValueError("pixel and value, parent and n_child must have one length each")
    if len(places.x) != int((np.asarray(sources.n_child) == 0).sum()):
        raise ValueError(
            f"{len(places.x)} places for {int((np.asarray(sources.n_child) == 0).sum())} sources"
        )
    pixel = np.asarray(sources.pixel)
    if pixel.size and not (pixel.min() >= 0 and pixel.max() < exposure.image.size):
        raise ValueError("pixels of sources lie outside of the image")


def _sky_at(
    exposure: Exposure, pixel: np.ndarray, given: np.ndarray | Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    """Variance of the sky at flat indices, float32; where it is unknown the variance plane."""
    total = exposure.variance.reshape(-1)[pixel]
    if given is None:
        sky = total - np.maximum(exposure.image.reshape(-1)[pixel], 0)
    elif callable(given):
        sky = np.asarray(given(pixel), dtype=np.float32)
    else:
        sky = np.asarray(given, dtype=np.float32).reshape(-1)[pixel]
    return np.where((sky > 0) & np.isfinite(sky), sky, np.maximum(np.nan_to_num(total), 0)).astype(np.float32)


def _width(psf: Psf | None, shape: tuple[int, int]) -> float:
    if psf is None:
        return 2.0
    try:
        return psf.moments_at(0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1)).sigma
    except ValueError:
        return 2.0


def _starts(places: Places, sources: DeblendedSources) -> list[tuple[float, float, int, int]]:
    """x, y, peak_x, peak_y of all rows; a parent's are those of its brightest child."""
    n, n_child = len(sources.n_child), np.asarray(sources.n_child)
    rows = np.flatnonzero(n_child == 0)
    value = np.asarray(sources.value)
    begin, end = np.asarray(sources.child_start)[:-1], np.asarray(sources.child_start)[1:]
    starts = [(0.0, 0.0, 0, 0)] * n
    brightest: dict[int, tuple[float, int]] = {}
    columns = (np.asarray(getattr(places, name)).tolist() for name in ("x", "y", "peak_x", "peak_y"))
    for row, start in zip(rows.tolist(), zip(*columns)):
        starts[row] = start
        parent = int(sources.parent[row])
        if parent >= 0:
            light = float(np.nan_to_num(value[begin[row] : end[row]]).sum())
            # of equal ones the first
            if parent not in brightest or light > brightest[parent][0]:
                brightest[parent] = (light, row)
    for parent, (_, row) in brightest.items():
        starts[parent] = starts[row]
    return starts


def _blank(described: Sequence[Column], n: int) -> Columns:
    made = {}
    for column in described:
        if column.dtype == "str":
            made[column.name] = np.full(n, "", dtype=object)
        else:
            made[column.name] = np.full(n, np.nan if column.is_float else 0, dtype=column.dtype)
    return made


def _write_driver_columns(columns: Columns, sources: DeblendedSources, n: int) -> None:
    columns["parentRow"][:] = -1
    columns["parentRow"][:n] = sources.parent
    columns["deblend_nChild"][:n] = sources.n_child
    columns["sky_source"][n:] = True
    columns["detect_isPrimary"][:n] = np.asarray(sources.n_child) == 0
    columns["footprintArea_value"][:n] = np.diff(sources.child_start)
    flags: Mapping[str, np.ndarray] = sources.flags
    for name, values in flags.items():
        columns[f"deblend_{name}"] = np.concatenate(
            [np.asarray(values, bool), np.zeros(len(columns["parentRow"]) - n, bool)]
        )
