"""Raw files: their names, headers and pixels, as the camera's definition reads them."""

from __future__ import annotations

import dataclasses
import datetime

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.instrument import load_camera, read_observation, read_raw
from skyquilt.simulation.optics import camera_optics
from skyquilt.simulation.raw_files import (
    IMAGE_TYPES,
    physical_filter,
    primary_header,
    raw_name,
    sexagesimal,
    write_raw,
)
from skyquilt.simulation.schedule import Visit

BEGIN = datetime.datetime(2026, 1, 1, 3, 4, 5)


@pytest.fixture(scope="module")
def tiny():
    return load_camera("tiny")


def visit_of(kind="science", band="r", **values):
    return Visit(
        260101007, kind, band, BEGIN, 30.0, ra=150.0, dec=2.0, header_ra=150.0, header_dec=2.0, **values
    )


def sections_of(detector):
    """A ramp in every amplifier."""
    return {
        a.name: (np.arange(a.raw_section.ny * a.raw_section.nx) % 65536)
        .astype(np.uint16)
        .reshape(a.raw_section.shape)
        for a in detector.amplifiers
    }


@pytest.mark.parametrize("kind", list(IMAGE_TYPES))
@pytest.mark.parametrize("name", ["tiny", "demo"])
def test_cameras_know_every_kind_of_frame(tmp_path, name, kind):
    """Both simulated cameras read frame type, filter, times and numbers of every kind of frame."""
    camera = load_camera(name)
    detector = camera.detectors[-1]
    band = "" if kind in ("bias", "dark", "crosstalk") else "i"
    header = primary_header(camera, camera_optics(camera), detector, visit_of(kind, band))
    path = tmp_path / raw_name(260101007, 0, detector.id)
    write_raw(path, header, detector, sections_of(detector))
    (info,) = read_observation(path, camera)
    assert info.frame_type == kind
    assert (info.visit, info.snap, info.detector_num) == (260101007, 0, detector.id)
    assert info.exposure_time == 30.0
    if band:
        assert camera.filters[info.physical_filter] == "i"
    raw = read_raw(path, camera, detector.id)
    for amplifier, section in sections_of(detector).items():
        assert_array_equal(raw.amplifiers[amplifier], section)
    assert (raw.header_wcs is not None) == (kind == "science")


def test_snaps_have_their_own_times(tmp_path, tiny):
    """The second snap begins after the first and the gap, and lasts half of the exposure."""
    visit = visit_of(n_snaps=2, snap_gap=2.0)
    infos = []
    for snap in range(2):
        header = primary_header(tiny, camera_optics(tiny), tiny.detectors[0], visit, snap)
        path = tmp_path / raw_name(visit.visit, snap, 0)
        write_raw(path, header, tiny.detectors[0], sections_of(tiny.detectors[0]))
        infos.append(read_observation(path, tiny)[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["260101007_0_0.fits", "260101007_1_0.fits"]
    assert [i.snap for i in infos] == [0, 1]
    assert [i.exposure_time for i in infos] == [15.0, 15.0]
    assert_allclose((infos[1].datetime_begin - infos[0].datetime_end) * 86400, 2.0, atol=1e-3)
    assert_allclose((infos[1].datetime_end - infos[0].datetime_begin) * 86400, 32.0, atol=1e-3)
    with pytest.raises(ValueError, match="there is no number 2"):
        primary_header(tiny, camera_optics(tiny), tiny.detectors[0], visit, 2)


def test_files_carry_no_clock(tmp_path, tiny):
    """Raw headers have no DATE of writing, and pixels are unsigned 16-bit integers."""
    detector = tiny.detectors[0]
    path = tmp_path / "frame.fits"
    write_raw(
        path, primary_header(tiny, camera_optics(tiny), detector, visit_of()), detector, sections_of(detector)
    )
    with fits.open(path) as file:
        assert "DATE" not in file[0].header
        assert [hdu.name for hdu in file[1:]] == ["A1", "A2"]
        assert file["A1"].header["BITPIX"] == 16
        assert file["A1"].header["BZERO"] == 32768
        assert file["A1"].data.dtype == np.uint16
    assert [p.name for p in tmp_path.iterdir()] == ["frame.fits"]


def test_frames_are_written_whole(tmp_path, tiny, monkeypatch):
    """A frame whose writing breaks off leaves no file under its final name."""
    detector = tiny.detectors[0]

    def broken(self, path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(fits.HDUList, "writeto", broken)
    with pytest.raises(OSError, match="disk full"):
        write_raw(tmp_path / "frame.fits", fits.Header(), detector, sections_of(detector))
    assert not (tmp_path / "frame.fits").exists()


def test_amplifiers_may_share_an_hdu(tmp_path, camera):
    """Amplifiers whose sections lie beside one another in the primary HDU go there."""
    detector = camera.detectors[0]
    width = detector.amplifiers[0].raw_section.nx
    beside = tuple(
        dataclasses.replace(
            a,
            extension=0,
            raw_section=dataclasses.replace(a.raw_section, x0=k * width),
            hdu_size=(width * 4, a.raw_section.ny),
        )
        for k, a in enumerate(detector.amplifiers)
    )
    detector = dataclasses.replace(detector, amplifiers=beside)
    sections = sections_of(detector)
    write_raw(tmp_path / "frame.fits", fits.Header(), detector, sections)
    data = fits.getdata(tmp_path / "frame.fits")
    assert_array_equal(data, np.concatenate([sections[a.name] for a in beside], axis=1))


def test_bands_without_a_filter_are_refused(tiny):
    """A band for which the camera has no filter is named, with those it has."""
    assert physical_filter(tiny, "g") == "tiny_g"
    with pytest.raises(ValueError, match="camera tiny has no filter of band 'z'"):
        physical_filter(tiny, "z")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "+00:00:00.000"),
        (-0.5, "-00:30:00.000"),
        (12.999999999, "+13:00:00.000"),
        (-71.2345, "-71:14:04.200"),
    ],
)
def test_sexagesimal_rounds_without_sixties(value, text):
    """Angles are written to the last digit, with the sign also of values between 0 and -1."""
    assert sexagesimal(value, True) == text
