"""Simulation (design 7): the truth about detectors and exposures as FITS images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.detector_effects.defects import (
    DEAD_COLUMN,
    DEAD_PIXEL,
    HOT_COLUMN,
    HOT_PIXEL,
    TRAP,
)

if TYPE_CHECKING:
    from astropy.io import fits

    from skyquilt.simulation.detector_effects.true_detector import TrueDetector


def detector_file_name(detector: int) -> str:
    """File name of a detector's truth."""
    return f"detector_{detector:03d}.fits"


def write_detector_truth(directory: Path, truth: TrueDetector, bands: Iterable[str]) -> None:
    """Write `detector_NNN.fits`: what is the same in all exposures of a detector.

    HDUs: RESPONSE, DARK [e/s], DEFECTS (bits, said in its header), DOME (light of dome flats over a uniform
    one), TREE_RINGS_X and _Y [pixel], FRINGE_<band> of `bands` (electrons per electron of sky, 0 without
    fringes), CROSSTALK ([victim, source]), BOUNDARIES_X and _Y (brighter-fatter [pixel/e]).

    Parameters
    ----------
    directory : path
    truth : TrueDetector
    bands : iterable of str
    """
    blank = np.zeros(truth.response.shape, dtype=np.float32)
    rings = truth.rings or (blank, blank)
    images = {
        "RESPONSE": truth.response,
        "DARK": truth.dark,
        "DEFECTS": truth.defects,
        "DOME": truth.dome,
        "TREE_RINGS_X": rings[0],
        "TREE_RINGS_Y": rings[1],
    }
    for band in bands:
        fringe = truth.fringe(band)
        images[f"FRINGE_{band}"] = blank if fringe is None else fringe
    images["CROSSTALK"] = truth.crosstalk
    images["BOUNDARIES_X"], images["BOUNDARIES_Y"] = truth.boundaries
    hdus = _hdus(images)
    hdus["DARK"].header["BUNIT"] = "electron/s"
    for name, bit in (
        ("HOTPIX", HOT_PIXEL),
        ("DEADPIX", DEAD_PIXEL),
        ("HOTCOL", HOT_COLUMN),
        ("DEADCOL", DEAD_COLUMN),
        ("TRAP", TRAP),
    ):
        hdus["DEFECTS"].header[name] = (bit, "bit of these pixels")
    for k, name in enumerate(truth.definition.amplifier_names):
        hdus["CROSSTALK"].header[f"AMP{k}"] = name
    _write(directory / detector_file_name(truth.definition.id), hdus)


def write_expected(path: Path, expected: np.ndarray, light: np.ndarray) -> None:
    """Write the expected images of a frame.

    Parameters
    ----------
    path : path
    expected : ndarray of float32, shape (ny, nx) [e]
        Mean electrons received, response and pixel areas in, no dark current: HDU EXPECTED.
    light : ndarray of float32, shape (ny, nx) [e]
        The same of sources alone: HDU LIGHT.
    """
    hdus = _hdus({"EXPECTED": expected, "LIGHT": light})
    for hdu in hdus.values():
        hdu.header["BUNIT"] = "electron"
    _write(path, hdus)


def _hdus(images: Mapping[str, np.ndarray]) -> dict[str, fits.ImageHDU]:
    from astropy.io import fits

    return {name: fits.ImageHDU(np.ascontiguousarray(data), name=name) for name, data in images.items()}


def _write(path: Path, hdus: Mapping[str, fits.ImageHDU]) -> None:
    """Whole or absent: a temporary name beside it, then a rename."""
    from astropy.io import fits

    part = path.with_name(f".{path.name}.part")
    fits.HDUList([fits.PrimaryHDU(), *hdus.values()]).writeto(part, overwrite=True)
    part.replace(path)
