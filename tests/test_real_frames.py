"""Real frames through the same rules, from survey directories made as the README shows.

The Lick Nickel 1 m has overscan, biases and three flats; the STL-1001 of a C14 has darks, neither flats nor overscan
nor a position.
"""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

FIELDS = {1047: "PG1323", 1048: "NGC4147", 1059: "M13", 1074: "UGC9837"}
NIGHT = 240512
BAD_COLUMNS = (255, 256, 257, 783, 784, 1002)
"""Of the Nickel: one that is always saturated, with its neighbours, a hot one that begins at the top, a dark one."""


def skyquilt(*words):
    command = [sys.executable, "-m", "skyquilt.workflow.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def nickel(shared_data, tmp_path_factory):
    """Ten biases, three flats and four frames of the sky of a night, processed."""
    frames = shared_data / "nickel-20240512"
    if not frames.is_dir():
        pytest.skip("the Nickel frames are not here")
    survey = tmp_path_factory.mktemp("real") / "nickel_survey"
    patterns = ["d100*", "d1010*", "d103*", *(f"d{number}*" for number in FIELDS)]
    skyquilt("init", survey, "--camera", "nickel", "--raw", *(frames / pattern for pattern in patterns))
    skyquilt("run", survey)
    return survey


@pytest.fixture(scope="module")
def stl1001(shared_data, tmp_path_factory):
    """Biases, darks, and two of the frames of an asteroid's field."""
    frames = shared_data / "wallace-2713-n1"
    if not frames.is_dir():
        pytest.skip("the STL-1001 frames are not here")
    survey = tmp_path_factory.mktemp("real") / "stl_survey"
    patterns = ["*Bias*", "*Dark*", "*Light*00015*", "*Light*00036*"]
    skyquilt("init", survey, "--camera", "stl1001", "--raw", *(frames / pattern for pattern in patterns))
    skyquilt("run", survey)
    return survey


def figures_of(survey, unit):
    """Figures of the only detector in a manifest."""
    figures = json.loads((survey / unit / "manifest.json").read_text())["figures"]
    return figures["detector"]["0"] if "detector" in figures else figures["0"]


def visit_units(survey):
    return sorted(path.relative_to(survey) for path in survey.glob("imchar/bootstrap/[0-9]*"))


def seconds_of(survey, unit):
    """Exposure time of a visit."""
    visits = pd.read_parquet(survey / "registry" / "visits.parquet").set_index("visit")
    return visits.loc[int(unit.name), "exposure_time"]


def pixels_of(survey, unit):
    from skyquilt.io.fits import read_pixels

    return read_pixels(survey / unit / "detector_000.fits")


def test_all_science_frames_are_reduced_with_their_calibrations(nickel):
    """Each frame of the sky has a catalogue, and the missing zero point is flagged."""
    visits = pd.read_parquet(nickel / "registry" / "visits.parquet")
    assert sorted(visit % 10_000 for visit in visits.visit) == sorted(FIELDS)
    assert set(visits.bias) == set(visits.ptc) == set(visits.defects) == {"20240512"}
    assert set(visits.flat) == {"V-20240512"}
    table = pd.read_parquet(nickel / "release/visits/visit_detector_table.parquet")
    assert set(table.status) == {"flagged"}
    assert set(table.reasonCode) == {"no_reference"}
    assert table.nSources.min() > 50
    assert table.set_index(table.visit % 10_000).nSources.idxmax() == 1059, "the globular cluster has most"
    assert table.seeing.between(1.5, 4.5).all(), "arcsec; a 1 m telescope at Lick in May"


def test_gain_and_read_noise_come_from_three_flats_and_the_biases(nickel):
    """With errors, and as measured by hand from the same night (the header's GAIN is an index, not a gain)."""
    ptc = figures_of(nickel, "calibration/ptc/20240512")
    amplifier = ptc["amplifiers"]["A1"]
    assert 0.002 < amplifier["gain_error"] < 0.03, (
        "three flats of one level: a per cent, brighter-fatter unknown"
    )
    assert amplifier["gain"] == pytest.approx(1.785, abs=3 * amplifier["gain_error"])
    # 5.31 +- 0.05 ADU in the differences of bias frames
    assert amplifier["read_noise"] == pytest.approx(5.31 * 1.785, rel=0.02)
    assert ptc["read_noise_source"] == "bias"
    assert ptc["brighter_fatter"]["status"] == "too_few_inputs", "one level says nothing of it"
    for unit in visit_units(nickel):
        figures = figures_of(nickel, unit)
        assert figures["gain_source"] == {"A1": "photon_transfer"}
        # the overscan of the night's frames is noisier than that of the afternoon's biases
        assert 8.5 < figures["read_noise"]["A1"] < 12.5
        done = {step for step, what in figures["isr_steps"].items() if what == "done"}
        assert {"overscan", "bias", "flat", "defects", "variance"} <= done


def test_bad_columns_are_defects_and_dust_is_not(nickel):
    """Hot, dark and saturated columns are BAD all along; with vignetted corners and specks 1 to 2 % of the pixels."""
    found = figures_of(nickel, "calibration/defects/20240512")
    assert 0.005 < found["share"] < 0.02, "2.4 % when each of a hundred shadows of dust made some columns"
    bad = pixels_of(nickel, visit_units(nickel)[0]).mask.any(["BAD"])
    for column in BAD_COLUMNS:
        assert bad[:, column].mean() > 0.9, column
    others = np.setdiff1d(np.arange(40, 980), [*BAD_COLUMNS, 178])
    assert bad[100:900, others].mean() < 0.003


def test_cosmic_rays_come_at_their_rate_and_never_where_one_was(nickel):
    """5 to 40 per Mpix and minute at an altitude of 1.3 km, in sparse fields and in M13, whose stars are left alone."""
    hits = []
    for unit in visit_units(nickel):
        figures = figures_of(nickel, unit)
        exposure = pixels_of(nickel, unit)
        rate = figures["cosmic_rays"][0] / (seconds_of(nickel, unit) / 60) / (exposure.image.size / 1e6)
        assert 5 < rate < 40, (unit, rate)
        assert figures["trails"] == [0]
        hit = exposure.mask.any(["COSMIC_RAY"])
        assert hit[:, BAD_COLUMNS].sum() <= 1, "the end of a column, at most"
        hits.append(hit)
        sources = pd.read_parquet(nickel / unit / "source.parquet")
        # a ninth of the pixels of M13 are next to the middle of a source: by chance 3 of its hits are there
        bright = sources.ap12InstFlux > 50 * sources.ap12InstFluxErr
        assert sources.pixelFlags_crCenter[bright].sum() <= 4
    # of 2000 hit pixels in a million, pairs by chance are one or two; unfound hot pixels would be in each frame
    assert (np.sum(hits, axis=0) > 1).sum() < 6


def test_instrumental_fluxes_stand_where_there_is_no_zero_point(nickel):
    """Fluxes in nJy are NaN with a flag, those in electrons are measured."""
    for path in nickel.glob("imchar/bootstrap/[0-9]*/source.parquet"):
        sources = pd.read_parquet(path)
        assert sources.noZeroPoint_flag.all()
        assert sources.calibFlux.isna().all()
        measured = sources[~sources.ap12Flux_flag]
        assert len(measured) > 0.3 * len(sources)
        assert np.isfinite(measured.ap12InstFlux).all()


def test_sky_noise_is_what_photons_and_read_out_make(nickel):
    """The scatter of the empty sky agrees with the variance plane: gain, read noise and flat are understood."""
    exposure = pixels_of(nickel, f"imchar/bootstrap/{NIGHT}1047")
    empty = ~exposure.mask.any(["DETECTED", "BAD", "SATURATED", "NO_DATA", "DETECTION_EDGE"])
    pull = exposure.image[empty] / np.sqrt(exposure.variance[empty])
    width = 1.4826 * np.median(np.abs(pull - np.median(pull)))
    # the lab gain is good to 0.3 % and the read noise to some per cent; unseen faint sources widen it a little
    assert width == pytest.approx(1.0, abs=0.05)


def test_what_the_stl1001_lacks_is_flagged(stl1001):
    """No flats, no position, no reference: each is said, and sources have pixel positions only."""
    table = pd.read_parquet(stl1001 / "release/visits/visit_detector_table.parquet")
    assert set(table.status) == {"flagged"}
    assert set(table.reasonCode) == {"no_calibration"}
    for unit in visit_units(stl1001):
        part = json.loads((stl1001 / unit / "manifest.json").read_text())["parts"]["detector 0"]
        assert part["detail"] == "no_calibration, no_wcs, no_reference"
        figures = figures_of(stl1001, unit)
        assert figures["gain"] == {"A1": 2.07}, "EGAIN of the header"
        assert figures["gain_source"] == {"A1": "definition"}
        assert (figures["isr_steps"]["dark"], figures["isr_steps"]["flat"]) == ("done", "no_calibration")
        sources = pd.read_parquet(stl1001 / unit / "source.parquet")
        assert len(sources) > 300
        assert sources.ra.isna().all()
        assert sources.noWcs_flag.all()
        assert np.isfinite(sources.x).all()


def test_darks_of_the_stl1001_take_its_hot_pixels_away(stl1001):
    """Dark current of the cooled chip, hot pixels among the defects; of the warm ones less than 15 % is left."""
    dark = figures_of(stl1001, "calibration/dark/20181012")
    # 53 to 76 electrons in 180 s
    assert dark["dark_current"]["A1"] == pytest.approx(0.35, abs=0.05)
    kinds = figures_of(stl1001, "calibration/defects/20181012")["kinds"]
    assert 100 < kinds["hot"]["pixels"] < 2000
    assert kinds["manual"]["pixels"] == 1024
    current = pixels_of(stl1001, "calibration/dark/20181012").image
    for unit in visit_units(stl1001):
        exposure = pixels_of(stl1001, unit)
        empty = ~exposure.mask.any(
            ["BAD", "NO_DATA", "DETECTED", "COSMIC_RAY", "SATURATED", "DETECTION_EDGE"]
        )
        warm = empty & (current > 0.8) & (current < 10)
        charge = (current[warm] - np.median(current)) * seconds_of(stl1001, unit)
        left = exposure.image[warm] - np.median(exposure.image[empty])
        assert warm.sum() > 5000
        assert abs(np.sum(charge * left) / np.sum(charge**2)) < 0.15


def test_cosmic_rays_of_the_stl1001(stl1001):
    """3 to 30 per Mpix and minute under a moonlit sky, and hardly a pixel in both frames."""
    hits = []
    for unit in visit_units(stl1001):
        exposure = pixels_of(stl1001, unit)
        rate = (
            figures_of(stl1001, unit)["cosmic_rays"][0]
            / (seconds_of(stl1001, unit) / 60)
            / (exposure.image.size / 1e6)
        )
        assert 3 < rate < 30, (unit, rate)
        hits.append(exposure.mask.any(["COSMIC_RAY"]))
    assert (hits[0] & hits[1]).sum() < 6
