"""Bad inputs (LDM-151 2.3): each costs itself, with its reason, and nothing else.

One run has all of them, on detectors 0 to 2; detector 3 has none. Each test looks at some of what came out.
"""

import json
import shutil

import healsparse
import hpgeom
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from survey_runs import skyquilt

from skyquilt.instrument import load_camera
from skyquilt.primitives.failure import Reason

RAW = "simulated/raw"
FIRST, SECOND, THIRD, FOURTH = range(260101001, 260101005)
PLANES = ("IMAGE", "MASK", "VARIANCE")
LATE_DAYS = 200
"""Beyond `ingest.calibration_days`, within `ingest.characterization_days`."""


def rewrite(path, change=lambda name, pixels: pixels, header=None, drop=()):
    """Write a raw file again with other pixels per extension, keywords, or fewer extensions."""
    with fits.open(path) as hdus:
        primary = hdus[0].copy()
        primary.header.update(header or {})
        parts = [primary]
        for hdu in hdus[1:]:
            if hdu.name not in drop:
                pixels = change(hdu.name, hdu.data.astype(np.float32))
                parts.append(fits.ImageHDU(pixels, header=_without_scale(hdu.header), name=hdu.name))
        fits.HDUList(parts).writeto(path, overwrite=True)


def _without_scale(header):
    return fits.Header([card for card in header.cards if card.keyword not in ("BZERO", "BSCALE", "BLANK")])


def later(path):
    """Move a frame by many days."""
    with fits.open(path, mode="update") as hdus:
        for keyword in ("DATE-BEG", "DATE-END"):
            day = np.datetime64(hdus[0].header[keyword]) + np.timedelta64(LATE_DAYS, "D")
            hdus[0].header[keyword] = str(day)


def first_of(root, kind, physical_filter=None):
    """Number of the first frame of a kind (and filter)."""
    for path in sorted((root / RAW).iterdir()):
        header = fits.getheader(path)
        if header["IMGTYPE"] == kind and physical_filter in (None, header["FILTER"]):
            return header["OBSID"]
    raise LookupError(f"no {kind} in {physical_filter}")


def damage(root):
    """All the faults."""

    def raw(visit, detector):
        return root / RAW / f"{visit}_0_{detector}.fits"

    bias = first_of(root, "BIAS")
    flat = first_of(root, "FLAT", "tiny_g")

    rewrite(raw(FIRST, 0), drop=("A2",))
    whole = raw(FIRST, 1).read_bytes()
    raw(FIRST, 1).write_bytes(whole[: len(whole) // 2])
    rewrite(raw(FIRST, 2), lambda name, pixels: np.full_like(pixels, np.nan))
    rewrite(raw(SECOND, 0), lambda name, pixels: np.full_like(pixels, 65535))
    rewrite(raw(SECOND, 1), lambda name, pixels: np.full_like(pixels, 1000))
    rewrite(raw(SECOND, 2), lambda name, pixels: np.full_like(pixels, 1000) if name == "A1" else pixels)
    shutil.copy(raw(SECOND, 3), root / RAW / f"{SECOND}_0_3_again.fits")
    for detector in range(4):
        later(raw(FOURTH, detector))
    rewrite(raw(FOURTH, 0), header={"FILTER": "tiny_q"})
    rewrite(raw(FOURTH, 1), header={"DETNUM": 77})
    rewrite(raw(FOURTH, 2), lambda name, pixels: pixels[:200])
    rewrite(raw(flat, 0), drop=("A2",))
    raw(bias, 1).unlink()
    rewrite(raw(flat, 2), lambda name, pixels: pixels[:200])


@pytest.fixture(scope="module")
def damaged(simulated, tmp_path_factory):
    """The tiny survey with all faults, processed; do not write to it."""
    root = tmp_path_factory.mktemp("bad_inputs") / "survey"
    shutil.copytree(simulated, root, symlinks=True)
    damage(root)
    skyquilt("run", root, "--cores", 1)
    return root


def manifest(root, unit):
    return json.loads((root / unit / "manifest.json").read_text())


def part(root, visit, detector):
    return manifest(root, f"imchar/bootstrap/{visit}")["parts"][f"detector {detector}"]


@pytest.mark.parametrize(
    ("visit", "detector", "status", "reason", "words"),
    [
        (FIRST, 0, "flagged", "amplifier_missing", ""),
        (FIRST, 1, "failed", "unreadable_file", "260101001_0_1.fits: truncated"),
        (FIRST, 2, "failed", "no_good_pixels", "A1 no_data, A2 no_data"),
        (SECOND, 0, "failed", "saturated_frame", "100.0% of the pixels are saturated (limit 50%)"),
        (SECOND, 1, "failed", "no_good_pixels", "A1 dead, A2 dead"),
        (SECOND, 2, "flagged", "amplifier_missing", "amplifier_missing, no_calibration"),
        (THIRD, 1, "flagged", "no_calibration", ""),
        (FOURTH, 2, "failed", "wrong_shape", "A1 has 192 x 200 pixels, expected 192 x 320"),
        (FOURTH, 3, "flagged", "no_calibration", ""),
    ],
)
def test_each_fault_has_its_reason(damaged, visit, detector, status, reason, words):
    """Manifest and table agree on status and reason, and the manifest says what was found."""
    found = part(damaged, visit, detector)
    assert (found["status"], found["reason"]) == (status, reason)
    assert words in found["detail"]
    table = pd.read_parquet(damaged / "release/visits/visit_detector_table.parquet")
    row = table.set_index(["visit", "detector"]).loc[(visit, detector)]
    assert (row.status, row.reasonCode) == (status, reason)
    assert (row.nSources > 0) == (status == "flagged")


def test_everything_else_is_well(damaged):
    """Detectors without a fault have neither reason nor flag; no row is missing but those of unusable headers."""
    table = pd.read_parquet(damaged / "release/visits/visit_detector_table.parquet")
    rows = table.set_index(["visit", "detector"])
    well = {(FIRST, 3), (SECOND, 3), (THIRD, 0), (THIRD, 2), (THIRD, 3)}
    assert set(rows.index[rows.status == "ok"]) == well
    assert len(rows) == 4 * 4 - 2
    visits = pd.read_parquet(damaged / "release/visits/visit_table.parquet").set_index("visit")
    assert visits.nDetectorsGood.to_dict() == {FIRST: 2, SECOND: 2, THIRD: 4, FOURTH: 1}


def test_frames_set_aside_at_ingest_say_why(damaged):
    """A filter and a detector that the camera has not, and a second file of the same frame."""
    unusable = json.loads((damaged / "registry/unusable.json").read_text())
    found = {entry["reason"]: entry["detail"] for entry in unusable}
    assert len(unusable) == 3
    assert f"{RAW}/{SECOND}_0_3_again.fits: the same visit, snap and detector" in found["duplicate"]
    assert "physical_filter is 'tiny_q', which is not in filters" in found["unknown_filter"]
    assert "camera tiny has no detector 77" in found["unknown_detector"]


def test_the_good_amplifier_of_a_damaged_detector_is_whole(damaged):
    """Absent or dead, an amplifier's pixels are BAD and NO_DATA and its neighbour's are not; the manifest names it."""
    camera = load_camera("tiny")
    for visit, detector, lost, words in (
        (FIRST, 0, "A2", "snap 0: amplifier A2 is absent, 260101001_0_0.fits: no extension 'A2'"),
        (SECOND, 2, "A1", "snap 0: amplifier A1 is dead: all pixels are equal"),
    ):
        figures = manifest(damaged, f"imchar/bootstrap/{visit}")["figures"]["detector"][str(detector)]
        assert words in figures["missing"]
        assert figures["amplifiers_lost"] == [lost]
        with fits.open(damaged / f"imchar/bootstrap/{visit}/detector_{detector:03d}.fits") as hdus:
            bits = sum(1 << hdus["MASK"].header[f"MP_{plane}"] for plane in ("BAD", "NO_DATA"))
            empty = (hdus["MASK"].data & bits) == bits
            finite = np.isfinite(hdus["IMAGE"].data) & np.isfinite(hdus["VARIANCE"].data)
        sources = pd.read_parquet(damaged / f"imchar/bootstrap/{visit}/source.parquet")
        own = sources[sources.detector == detector]
        for amplifier in camera.detector(detector).amplifiers:
            box = amplifier.data
            inside = own.x.between(box.x0 + 3, box.x1 - 4)
            if amplifier.name == lost:
                assert empty[box.slices()].all()
                assert not finite[box.slices()].any()
                assert not inside.any()
            else:
                assert empty[box.slices()].mean() < 0.02
                assert finite[box.slices()].all()
                assert inside.sum() > 30


def test_calibrations_are_made_of_what_there_is(damaged):
    """Too few biases, a flat of another size, a flat without an amplifier: each detector's product says so."""
    bias = manifest(damaged, "calibration/bias/20251231")["parts"]["detector 1"]
    assert (bias["reason"], bias["detail"].split(";")[0]) == (
        "too_few_inputs",
        "bias: 2 usable frames, at least 3 are needed",
    )
    flats = manifest(damaged, "calibration/flat/tiny_g-20251231")
    assert flats["parts"]["detector 2"]["reason"] == "too_few_inputs"
    assert "A1 has 192 x 200 pixels" in flats["parts"]["detector 2"]["detail"]
    assert flats["figures"]["0"]["n_frames"] == 2
    transfer = manifest(damaged, "calibration/ptc/20251231")
    amplifiers = transfer["figures"]["0"]["amplifiers"]
    assert amplifiers["A1"]["gain"] == pytest.approx(1.5, abs=4 * amplifiers["A1"]["gain_error"])
    assert (amplifiers["A2"]["gain"], amplifiers["A2"]["method"]) == (None, "none")
    used = manifest(damaged, f"imchar/bootstrap/{THIRD}")["figures"]["detector"]
    assert used["0"]["gain_source"] == {"A1": "photon_transfer", "A2": "definition"}
    assert used["1"]["isr_steps"]["bias"] == "no_calibration"


def test_a_visit_far_from_all_calibrations_has_only_what_lasts(damaged):
    """After the calibrations' range bias and flat are not used, gains still are."""
    visits = pd.read_parquet(damaged / "registry/visits.parquet").set_index("visit")
    assert (visits.loc[FOURTH, ["bias", "flat", "defects"]] == "").all()
    assert visits.loc[FOURTH, "ptc"] == "20251231"
    figures = manifest(damaged, f"imchar/bootstrap/{FOURTH}")["figures"]["detector"]["3"]
    assert set(figures["gain_source"].values()) == {"photon_transfer"}
    assert figures["isr_steps"]["flat"] == "no_calibration"


def test_what_has_no_fault_is_as_in_the_undisturbed_run(damaged, processed):
    """All pixels of detector 3 and of its calibrations, though everything around it went wrong."""
    names = [f"imchar/bootstrap/{visit}/detector_003.fits" for visit in (FIRST, SECOND, THIRD)]
    names += [f"calibration/{kind}/detector_003.fits" for kind in ("bias/20251231", "flat/tiny_g-20251231")]
    for name in names:
        with fits.open(damaged / name) as found, fits.open(processed / name) as expected:
            for plane in PLANES:
                assert found[plane].data.tobytes() == expected[plane].data.tobytes(), (name, plane)
    columns = ["x", "y", "ap12InstFlux", "ixx"]
    for visit in (FIRST, THIRD):
        found, expected = (
            pd.read_parquet(root / f"imchar/bootstrap/{visit}/source.parquet").query("detector == 3")
            for root in (damaged, processed)
        )
        pd.testing.assert_frame_equal(
            found[columns].reset_index(drop=True), expected[columns].reset_index(drop=True)
        )


def test_the_map_says_why_where(damaged):
    """In the middle of each detector the bits of the reasons of all visits that look there."""
    camera = load_camera("tiny")
    found = healsparse.HealSparseMap.read(str(damaged / "release/visits/why_missing.hsp"))
    visits = pd.read_parquet(damaged / "registry/visits.parquet").set_index("visit")
    table = pd.read_parquet(damaged / "release/visits/visit_detector_table.parquet")
    for row in table[table.status == "failed"].itertuples():
        visit = visits.loc[row.visit]
        wcs = camera.nominal_wcs(row.detector, visit.ra, visit.dec, visit.rotation)
        shape = camera.detector(row.detector)
        ra, dec = wcs.pixel_to_sky(shape.nx / 2, shape.ny / 2)
        pixel = hpgeom.angle_to_pixel(found.nside_sparse, ra, dec)
        assert found.get_values_pix(np.atleast_1d(pixel))[0] & (1 << Reason(row.reasonCode).bit)
    assert "unreadable_file" in (damaged / "quality/site/index.html").read_text()


def test_a_directory_named_as_the_camera_is_no_definition(raw_survey, tmp_path):
    """`init nickel --camera nickel` in a place with a directory of that name takes the camera that ships."""
    (tmp_path / "tiny").mkdir()
    skyquilt("init", "tiny", "--camera", "tiny", "--raw", raw_survey / RAW, cwd=tmp_path)
    assert "camera: tiny\n" in (tmp_path / "tiny/survey.yaml").read_text()
