"""Simulation (design 7): raw frames as a telescope writes them, one FITS file per snap and detector."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.simulation.optics import Optics, Pointing, header_wcs
from skyquilt.simulation.schedule import Visit

if TYPE_CHECKING:
    from astropy.io import fits

    from skyquilt.instrument import Camera, Detector

IMAGE_TYPES = {
    "science": "SKY",
    "bias": "BIAS",
    "dark": "DARK",
    "flat": "FLAT",
    "fringe": "FRINGE",
    "crosstalk": "XTALK",
}


def raw_name(visit: int, snap: int, detector: int) -> str:
    """File name of one raw frame, and of its expected images."""
    return f"{visit}_{snap}_{detector}.fits"


def instrument_keyword(camera: Camera) -> str:
    """The INSTRUME by which the camera's definition knows its frames; the camera's name without one."""
    for test in camera.header.recognise.tests:
        if test.keyword == "INSTRUME" and isinstance(test.wanted, str):
            return test.wanted
    return camera.name


def physical_filter(camera: Camera, band: str) -> str:
    """The camera's first filter of a band.

    Raises
    ------
    ValueError
        When it has none.
    """
    for name, its_band in camera.filters.items():
        if its_band == band:
            return name
    raise ValueError(f"camera {camera.name} has no filter of band {band!r}; it has {dict(camera.filters)}")


def sexagesimal(value: float, plus: bool) -> str:
    """Hours or degrees as [+-]DD:MM:SS.sss, rounded to the last digit without a 60 in it."""
    thousandths = round(abs(value) * 3600_000)
    minutes, seconds = divmod(thousandths, 60_000)
    degrees, minutes = divmod(minutes, 60)
    sign = "-" if value < 0 else "+" if plus else ""
    return f"{sign}{degrees:02d}:{minutes:02d}:{seconds // 1000:02d}.{seconds % 1000:03d}"


def primary_header(
    camera: Camera, optics: Optics, detector: Detector, visit: Visit, snap: int = 0
) -> fits.Header:
    """Keywords of a raw frame; a science frame has the WCS of the assembled detector.

    Parameters
    ----------
    snap : int
        Number of the snap; times are its own.
    """
    from astropy.io import fits

    opening = visit.snap(snap)
    header = fits.Header()
    header["INSTRUME"] = instrument_keyword(camera)
    header["OBSID"] = (visit.visit, "number of the exposure")
    header["SNAP"] = snap
    header["DETNUM"] = detector.id
    header["DETNAME"] = detector.name
    header["IMGTYPE"] = IMAGE_TYPES[visit.kind]
    header["EXPTIME"] = (round(opening.exposure_time, 6), "[s] of the snap")
    header["DATE-BEG"] = (_iso(opening.begin), "UTC")
    header["DATE-END"] = (_iso(opening.end), "UTC")
    header["TIMESYS"] = "UTC"
    header["FILTER"] = physical_filter(camera, visit.band) if visit.band else "none"
    header["OBJECT"] = "simulated field" if visit.kind == "science" else visit.kind
    if visit.kind == "science":
        hours = visit.header_ra / 15
        # 23:59:59.9999 rounds to 24:00:00.000, which is not a right ascension
        header["RA"] = (sexagesimal(hours, False).replace("24:", "00:", 1), "boresight, ICRS")
        header["DEC"] = (sexagesimal(visit.header_dec, True), "boresight, ICRS")
        header["ROTPA"] = (visit.header_rotation, "[deg] focal plane +y, east of north")
        header["AIRMASS"] = round(visit.airmass, 4)
        pointing = Pointing(visit.header_ra, visit.header_dec, visit.header_rotation)
        header.update(_with_cd(header_wcs(optics, detector, pointing).to_header(relax=True)))
    return header


def _with_cd(cards: fits.Header) -> fits.Header:
    """The CD matrix in place of astropy's PC and CDELT of one: the SIP convention is written with CD."""
    for i in "12":
        cards.remove(f"CDELT{i}")
        for j in "12":
            if f"PC{i}_{j}" in cards:
                cards.rename_keyword(f"PC{i}_{j}", f"CD{i}_{j}")
    return cards


def _iso(time: datetime.datetime) -> str:
    return time.isoformat(timespec="milliseconds")


def write_raw(
    path: Path, header: fits.Header, detector: Detector, sections: Mapping[str, np.ndarray]
) -> None:
    """Write one raw frame atomically: a temporary name beside it, then a rename.

    Parameters
    ----------
    sections : mapping of amplifier name to uint16 ndarray, shape of its `raw_section`
    """
    from astropy.io import fits

    primary = fits.PrimaryHDU(header=header)
    extensions: dict[str | int, fits.ImageHDU] = {}
    for amplifier in detector.amplifiers:
        place = amplifier.extension if amplifier.extension is not None else detector.extension
        raw = amplifier.raw_section
        if place in (None, 0):
            if primary.data is None:
                primary.data = _blank(amplifier)
            primary.data[raw.slices()] = sections[amplifier.name]
            continue
        if place not in extensions:
            name = place if isinstance(place, str) else amplifier.name
            extensions[place] = fits.ImageHDU(_blank(amplifier), name=name)
        extensions[place].data[raw.slices()] = sections[amplifier.name]
    part = path.with_name(f".{path.name}.part")
    fits.HDUList([primary, *extensions.values()]).writeto(part, overwrite=True)
    part.replace(path)


def _blank(amplifier):
    """Pixels of the whole HDU that holds an amplifier."""
    nx, ny = amplifier.hdu_size
    return np.zeros((max(ny, amplifier.raw_section.y1), max(nx, amplifier.raw_section.x1)), dtype=np.uint16)
