"""Measurement plugins (LDM-151 8.6.1): what a plugin is, what it is handed for one source, where it writes.

A plugin is a class with declared columns and flags, made once with its options and called for each source::

    class Brightest(Plugin):
        name = "brightest"
        order = 5.0
        columns = (Column("brightest", "f4", "electron", "Brightest pixel of the footprint."),)

        def measure(self, source, record):
            if source.value.size == 0:
                raise MeasurementFailure("brightest_flag")
            record["brightest"] = source.value.max()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from skyquilt.algorithms.measurement.neighbour_noise import stream_seed
from skyquilt.algorithms.measurement.psf_sampler import PsfSampler, PsfStamp
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.tables import Column


class MeasurementFailure(Exception):
    """A source cannot be measured by this plugin: an expected case, with the flag that says why.

    Parameters
    ----------
    flag : str
        Name of one of the plugin's flags; it is set, and so is the plugin's general flag.
    """

    def __init__(self, flag: str) -> None:
        self.flag = flag
        super().__init__(flag)


@dataclass(frozen=True)
class NoOptions:
    """Options of a plugin that has none."""


class Plugin(ABC):
    """One measurement.

    Attributes
    ----------
    name : str
        By which configuration names its options.
    order : float
        Plugins run in ascending order; those of equal order as they are listed.
    columns : tuple of Column
        What it writes. Floats start as NaN, integers as 0, flags as False; so they stay where it fails.
        Fluxes are in electrons, places and sizes in pixels.
    flags : tuple of (str, str)
        Names and texts of bool columns that say why a measurement failed or is doubtful.
    failure_flag : str
        The one of `flags` that is set whenever the plugin raises; ``<name>_flag`` is added where it is empty.
    needs : tuple of str
        Columns of earlier plugins that it reads.
    Options : type
        Frozen dataclass of its options; the instance is `self.options`.
    """

    name: ClassVar[str]
    order: ClassVar[float] = 50.0
    columns: tuple[Column, ...] = ()
    flags: tuple[tuple[str, str], ...] = ()
    failure_flag: str = ""
    needs: tuple[str, ...] = ()
    Options: ClassVar[type] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options = self.Options() if options is None else options

    @abstractmethod
    def measure(self, source: SourceImage, record: Record) -> None:
        """Measure one source and write into its record.

        Raises
        ------
        MeasurementFailure
            When it cannot be measured.
        """

    def finish(self, columns: dict[str, np.ndarray], exposure: Exposure) -> None:  # noqa: B027
        """Change the columns of all sources after the last was measured; by default nothing.

        Parameters
        ----------
        columns : dict of str to ndarray, shape (n,)
        exposure : Exposure
            As it was given, all sources in it.
        """

    @property
    def general_flag(self) -> str:
        """Name of the flag that is set whenever `measure` raises."""
        return self.failure_flag or f"{self.name}_flag"

    def all_columns(self) -> tuple[Column, ...]:
        """Columns and flags, the general one included."""
        flags = dict(self.flags)
        flags.setdefault(self.general_flag, f"The measurement {self.name} failed.")
        return tuple(self.columns) + tuple(Column(name, "bool", "", text) for name, text in flags.items())


class Record:
    """Row of one source: columns by name, read and written like a dict.

    Parameters
    ----------
    columns : dict of str to ndarray, shape (n,)
    row : int
    """

    __slots__ = ("_columns", "row")

    def __init__(self, columns: dict[str, np.ndarray], row: int) -> None:
        self._columns = columns
        self.row = row

    def __getitem__(self, name: str) -> Any:
        return self._columns[name][self.row]

    def __setitem__(self, name: str, value: Any) -> None:
        self._columns[name][self.row] = value

    def __contains__(self, name: str) -> bool:
        return name in self._columns


@dataclass(frozen=True)
class Surroundings:
    """What all sources of a detector share.

    Parameters
    ----------
    image, variance : ndarray of float32, shape (ny, nx) [electron, electron^2]
        All sources but the present one replaced by noise; 0 where `bad`.
    original : ndarray of float32, shape (ny, nx) [electron]
        With all sources; 0 where `bad`.
    mask : Mask, shape (ny, nx)
    bad : ndarray of bool, shape (ny, nx)
        Pixels that must not be used.
    detected, no_sky : ndarray of bool, shape (ny, nx)
        Pixels of any footprint; these, and all others that say nothing of the sky.
    psf : PsfSampler or None
    width : float
        Standard deviation of a star [pixel]; a guess where there is no PSF.
    background_error : float
        Error per pixel of the background model, the same for all pixels of a source [electron].
    seed : int
        Of visit and detector.
    """

    image: np.ndarray
    variance: np.ndarray
    original: np.ndarray
    mask: Mask
    bad: np.ndarray
    detected: np.ndarray
    no_sky: np.ndarray
    psf: PsfSampler | None
    width: float
    background_error: float
    seed: int


class SourceImage:
    """One source in the image of a detector whose other sources are replaced by noise. Not to be written to.

    Attributes
    ----------
    image, variance, original, mask, bad, detected, no_sky, width, background_error
        As of `Surroundings`.
    number : int
        Row of the source.
    x, y : float
        First position [pixel].
    peak_x, peak_y : int
        Pixel of the peak.
    pixel, value : ndarray of int64 and float32, shape (m,)
        Flat indices of the source's footprint, ascending, and its light there; empty for a sky source.
    is_sky : bool
        A place without a source.
    """

    def __init__(
        self,
        around: Surroundings,
        number: int,
        start: tuple[float, float],
        peak: tuple[int, int],
        pixel: np.ndarray,
        value: np.ndarray,
        is_sky: bool,
    ) -> None:
        self._around = around
        self.image, self.variance, self.original = around.image, around.variance, around.original
        self.mask, self.bad = around.mask, around.bad
        self.detected, self.no_sky = around.detected, around.no_sky
        self.width, self.background_error = around.width, around.background_error
        self.number = number
        self.x, self.y = start
        self.peak_x, self.peak_y = peak
        self.pixel, self.value = pixel, value
        self.is_sky = is_sky
        self._stamp: PsfStamp | None = None
        self._place = (np.nan, np.nan)

    @property
    def box(self) -> Box:
        """Smallest box around the footprint [pixel]; that of the peak's pixel where there is none."""
        if self.pixel.size == 0:
            return Box(self.peak_x, self.peak_y, 1, 1)
        rows, columns = np.divmod(self.pixel, self.image.shape[1])
        x0, y0 = int(columns.min()), int(rows[0])
        return Box(x0, y0, int(columns.max()) - x0 + 1, int(rows[-1]) - y0 + 1)

    @property
    def has_psf(self) -> bool:
        """Whether there is a PSF."""
        return self._around.psf is not None

    def psf_at(self, x: float, y: float) -> PsfStamp:
        """Image of a point source of flux 1 at (x, y) [pixel]; the last one is kept.

        Raises
        ------
        MeasurementFailure
            ``invalidPsfFlag`` when there is no PSF, or none there.
        """
        if self._stamp is None or self._place != (x, y):
            if self._around.psf is None:
                raise MeasurementFailure("invalidPsfFlag")
            try:
                self._stamp = self._around.psf.stamp(x, y)
            except ValueError:
                raise MeasurementFailure("invalidPsfFlag") from None
            self._place = (x, y)
        return self._stamp

    def generator(self, stream: int = 0) -> np.random.Generator:
        """Random numbers that belong to this source: seeded by visit, detector, number and `stream`."""
        return np.random.default_rng(stream_seed(self._around.seed, self.number, stream))
