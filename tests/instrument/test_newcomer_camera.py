"""A camera that nobody defined before works by a page of YAML (design 5)."""

import numpy as np
import pytest
from astropy.time import Time

from skyquilt.instrument import CameraError, read_observation, read_raw
from skyquilt.instrument.camera_check.stars import find_stars
from skyquilt.instrument.camera_yaml import parse_camera


def test_a_page_of_yaml_reads_the_frames(newcomer, newcomer_night):
    """Times in UTC, milliseconds, sexagesimal pointing and own words arrive in our terms."""
    camera = parse_camera(newcomer.DEFINITION, "newcomer.yaml")
    folder, frames, _ = newcomer_night
    kinds = [read_observation(path, camera)[0].frame_type for path in frames]
    assert kinds == ["bias", "bias", "flat", "flat", "science", "science"]
    (info,) = read_observation(folder / "nc_0005.fits", camera)
    assert (info.visit, info.detector_num, info.exposure_time) == (5, None, 30.0)
    assert (info.boresight_ra, info.boresight_dec, info.rotation) == (150.0, 20.0, 30.0)
    assert camera.band(info.physical_filter) == "r"
    assert info.datetime_begin == pytest.approx(Time("2026-03-04T05:05:07.5", scale="utc").tai.mjd, abs=1e-9)


@pytest.mark.parametrize("number", [1, 2])
def test_stars_stand_where_the_nominal_wcs_says(newcomer, newcomer_night, number):
    """Flips, extensions and the turned detector are right: stars lie within pointing error of the catalogue."""
    camera = parse_camera(newcomer.DEFINITION, "newcomer.yaml")
    folder, _, _ = newcomer_night
    frame = read_raw(folder / "nc_0005.fits", camera, number)
    detector = frame.detector
    stars = find_stars(detector.assemble(frame.amplifiers), 15)
    sky = newcomer.Sky()
    truth = np.array(sky.pixels(detector.name))
    distance = np.hypot(truth[0][:, None] - stars.x, truth[1][:, None] - stars.y).min(axis=0)
    # the blended ones are some tenths of a pixel off
    assert np.median(distance) < 0.1
    wcs = frame.first_wcs(camera)
    x, y = wcs.sky_to_pixel(sky.ra, sky.dec)
    inside = (truth[0] > 0) & (truth[0] < 400) & (truth[1] > 0) & (truth[1] < 320)
    off = np.hypot(x - truth[0], y - truth[1])[inside] * 0.5
    # the pointing is 15 arcsec off, 0.1 deg of rotation and 0.1 % of distortion are below 1 arcsec
    assert np.abs(off - 15.0).max() < 1.5


def test_tables_give_what_headers_lack(newcomer, newcomer_night, tmp_path):
    """Detector numbers, filters, pointing and types may come from a table of files."""
    (tmp_path / "frames.csv").write_text(
        "file,detector_num,physical_filter,boresight_ra,boresight_dec,frame_type,visit\n"
        "nc_0005.fits,2,Blue glass,10:01:00,-20:00:00,science,77\n"
    )
    text = newcomer.DEFINITION.replace(
        "header:\n", "header:\n  overrides: frames.csv\n  detector_num: CHIP\n"
    )
    camera = parse_camera(text.replace("layout: visit", "layout: detector"), "newcomer.yaml", tmp_path)
    (info,) = read_observation(newcomer_night[0] / "nc_0005.fits", camera)
    assert (info.detector_num, info.physical_filter, info.visit) == (2, "Blue glass", 77)
    assert (info.boresight_ra, info.boresight_dec) == (150.25, -20.0)


def test_extensions_of_unnamed_hdus(newcomer):
    """HDUs by number for each amplifier of a detector, as a list or by name; anything else is refused."""
    camera = parse_camera(newcomer.DEFINITION, "n.yaml")
    assert [[a.extension for a in d.amplifiers] for d in camera.detectors] == [[1, 2], [3, 4]]
    assert {a.raw_section.x0 for d in camera.detectors for a in d.amplifiers} == {0}
    with pytest.raises(CameraError, match=r"detectors\[0\].extensions: expected one value or 2 \(L, R\)"):
        parse_camera(newcomer.DEFINITION.replace("[1, 2]}", "[1, 2, 3]}"), "n.yaml")
    with pytest.raises(CameraError, match=r"detectors\[0\].extensions: expected an HDU for each of L, R"):
        parse_camera(newcomer.DEFINITION.replace("[1, 2]}", "1}"), "n.yaml")


def test_ghosts_fringes_and_defects(newcomer):
    """Reflections, filters with fringes and bad regions are part of a definition, and checked."""
    extra = """
fringe_filters: [Red glass]
ghosts:
  - {radius_mm: 1.5, inner_fraction: 0.3, magnification: -1, offset_mm: [0.1, 0], flux_ratio: 0.001}
"""
    text = newcomer.DEFINITION.replace("extensions: [1, 2]", "extensions: [1, 2], defects: ['[3:4,1:320]']")
    camera = parse_camera(text + extra, "n.yaml")
    (ghost,) = camera.ghosts
    assert (ghost.radius_mm, ghost.magnification, ghost.offset_mm) == (1.5, -1.0, (0.1, 0.0))
    assert camera.fringe_filters == ("Red glass",)
    (defect,) = camera.detectors[0].defects
    assert (defect.x0, defect.nx, defect.ny) == (2, 2, 320)
    for wrong, words in (
        (text + extra.replace("[Red", "[Rad"), "did you mean Red glass"),
        (text + extra.replace("0.3", "1.3"), "inner_fraction: expected less than 1"),
        (
            text + extra.replace("radius_mm", "radius"),
            r"ghosts\[0\].radius: no such key; did you mean radius_mm",
        ),
        (text.replace("[3:4,1:320]", "[3:4,1:321]"), r"defects\[0\]: expected a section .* inside"),
    ):
        with pytest.raises(CameraError, match=words):
            parse_camera(wrong, "n.yaml")


def test_yaml_merge_keys(newcomer):
    """A detector may repeat another with `<<`, and change some of it."""
    text = newcomer.DEFINITION.replace("- {id: 1,", "- &first {id: 1,").replace(
        "- {id: 2, name: east,", "- {<<: *first, id: 2, name: east,"
    )
    assert parse_camera(text, "n.yaml").detector(2).rotation_deg == 90.0


def test_values_of_amplifiers_in_a_table(newcomer, tmp_path):
    """A cell of the table of detectors may hold a value for each amplifier."""
    (tmp_path / "d.csv").write_text(
        "id,name,centre_x_mm,centre_y_mm,gain,extensions,defects\n"
        "1,a,0,0,1.5 1.6,1 2,\n"
        '2,b,9,0,1.7,3 4,"[1:2,3:4]"\n'
    )
    start, end = newcomer.DEFINITION.index("detectors:\n"), newcomer.DEFINITION.index("files:")
    text = newcomer.DEFINITION[:start] + "detectors: d.csv\n" + newcomer.DEFINITION[end:]
    camera = parse_camera(text, "n.yaml", tmp_path)
    assert [[a.gain for a in d.amplifiers] for d in camera.detectors] == [[1.5, 1.6], [1.7, 1.7]]
    assert [a.extension for a in camera.detector(2).amplifiers] == [3, 4]
    assert camera.detector(2).defects[0].y0 == 2
