"""A whole survey: its files, the truth beside them, and independence of order and company."""

from __future__ import annotations

import dataclasses
import os
import pickle
import socket

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.instrument import load_camera, read_observation, read_raw
from skyquilt.primitives.failure import Outcome, ProcessingFailure, Reason, serial_map
from skyquilt.simulation import SimulationConfig, simulate_survey
from skyquilt.simulation.calibration_frames import CalibrationFramesConfig
from skyquilt.simulation.detector_effects import DetectorEffectsConfig
from skyquilt.simulation.satellite_trails import SatelliteTrailsConfig
from skyquilt.simulation.schedule import science_visits
from skyquilt.simulation.survey import (
    detector_truth,
    field_sky,
    night_lines,
    with_fringes,
    write_science_frame,
)
from skyquilt.simulation.truth_tables import TRUTH_SCHEMAS

# clean enough for centroids, with some of everything that leaves a truth
CONFIG = SimulationConfig(
    n_visits=2,
    bands=("r", "i"),
    star_density=18.0,
    galaxy_density=5.0,
    dither_radius=10.0,
    star_magnitudes=(15.0, 22.5),
    detector=DetectorEffectsConfig(cosmic_rays=20.0),
    calibration_frames=CalibrationFramesConfig(n_bias=1, n_dark=1, n_flat=1, n_fringe=1, n_crosstalk=1),
    trails=SatelliteTrailsConfig(per_visit=3.0),
)
N_CALIBRATION = 6
BIAS_ALONE = dataclasses.replace(
    CONFIG,
    n_visits=0,
    star_density=3.0,
    galaxy_density=3.0,
    calibration_frames=CalibrationFramesConfig(n_bias=1, n_flat=0),
)


def files_of(directory):
    """Content of every file below a directory, by relative path."""
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def tiny():
    return load_camera("tiny")


@pytest.fixture(scope="module")
def survey(tiny, tmp_path_factory):
    """Directory of one small survey with the tiny camera."""
    directory = tmp_path_factory.mktemp("simulation") / "survey"
    simulate_survey(CONFIG, tiny, directory)
    return directory


@pytest.fixture(scope="module")
def sources(survey):
    return pd.read_parquet(survey / "truth" / "source_truth.parquet")


def test_survey_is_whole(survey, tiny):
    """Every exposure has a file per detector, every table its schema's columns, and nothing else is left."""
    files = files_of(survey)
    raws = [name for name in files if name.startswith("raw/")]
    assert len(raws) == len(tiny.detectors) * (CONFIG.n_visits + N_CALIBRATION)
    assert [p.name for p in survey.parent.iterdir()] == ["survey"]
    rows = {}
    for name, schema in TRUTH_SCHEMAS.items():
        table = pd.read_parquet(survey / "truth" / f"{name}.parquet")
        schema.check(table)
        rows[name] = len(table)
    assert rows["visit_truth"] == 2
    assert rows["visit_detector_truth"] == 8
    assert rows["amplifier_truth"] == 8
    assert "reference/gaia_like.fits" in files
    images = [name for name in files if name.startswith("truth/expected/")]
    # the first visit of each band
    assert len(images) == 8
    assert {f"truth/detector_00{k}.fits" for k in range(4)} < set(files)


def test_camera_definition_reads_the_headers(survey, tiny):
    """The camera's own header rules find every value, and they are the truth's."""
    truth = pd.read_parquet(survey / "truth" / "visit_truth.parquet").set_index("visit")
    kinds = set()
    for path in sorted((survey / "raw").iterdir()):
        info = read_observation(path, tiny)[0]
        kinds.add(info.frame_type)
        assert path.name == f"{info.visit}_{info.snap}_{info.detector_num}.fits"
        if info.frame_type != "science":
            continue
        row = truth.loc[info.visit]
        assert tiny.filters[info.physical_filter] == row["band"]
        # 0.001 s of right ascension is 15 mas
        assert_allclose([info.boresight_ra, info.boresight_dec], [row["ra"], row["dec"]], atol=8e-3 / 3600)
        assert_allclose(info.rotation, row["rotation"] % 360)
        assert_allclose(info.datetime_mid, row["expMidptMJD"], atol=1e-8)
    assert kinds == {"science", "bias", "dark", "flat", "fringe", "crosstalk"}


def calibrated(survey, tiny, visit, snap, number, config=CONFIG):
    """A raw frame by the truth's own numbers: electrons, float64 (ny, nx)."""
    raw = read_raw(survey / "raw" / f"{visit}_{snap}_{number}.fits", tiny, number)
    truth = detector_truth(config, tiny, tiny.detector(number))
    sections = {}
    for amplifier in truth.amplifiers:
        name = amplifier.definition.name
        counts = raw.amplifiers[name].astype(float)
        level = np.median(counts[amplifier.definition.raw_overscan.slices()], axis=1, keepdims=True)
        linear = np.linspace(0, 70000, 4001)
        signal = np.interp(counts - level, amplifier.curve.read(linear), linear, left=None)
        sections[name] = np.where(counts > level, signal, counts - level) * amplifier.gain
    return tiny.detector(number).assemble(sections).astype(float), truth


def test_expected_images_are_what_raws_scatter_about(survey, tiny):
    """Raw frames, calibrated by the truth, differ from the expected images by their noise alone."""
    pixels = pd.read_parquet(survey / "truth" / "pixel_truth.parquet")
    for visit in (260101001, 260101002):
        image, truth = calibrated(survey, tiny, visit, 0, 1)
        with fits.open(survey / "truth" / "expected" / f"{visit}_0_1.fits") as file:
            expected, light = file["EXPECTED"].data.astype(float), file["LIGHT"].data.astype(float)
        dark = truth.dark * CONFIG.exposure_time
        good = (truth.defects == 0) & (light < 0.02 * expected)
        hit = pixels[(pixels["visit"] == visit) & (pixels["detector"] == 1)]
        hit = hit[hit["kind"].isin(["cosmic_ray", "saturated", "bled"])]
        good[hit["y"], hit["x"]] = False
        noise = np.mean([a.read_noise for a in truth.amplifiers])
        pull = ((image - expected - dark) / np.sqrt(expected + dark + noise**2 + 0.2))[good]
        assert good.sum() > 40000
        # bias structure of 3 ADU and the overscan's error are what is left
        assert abs(pull.mean()) < 0.2
        assert abs(1.4826 * np.median(np.abs(pull - np.median(pull))) - 1) < 0.03


def test_events_have_their_pixels(survey):
    """Every event has as many pixels as it says, its peak and its mean; streaks and particles occur."""
    events = pd.read_parquet(survey / "truth" / "event_truth.parquet")
    pixels = pd.read_parquet(survey / "truth" / "pixel_truth.parquet")
    keys = ["visit", "snap", "detector", "kind", "event"]
    assert not events.duplicated(keys).any()
    grouped = pixels.groupby(keys)["electrons"].agg(["size", "max", "mean"]).reset_index()
    joined = events.merge(grouped, on=keys, validate="one_to_one")
    assert len(joined) == len(events) == len(grouped)
    assert_array_equal(joined["size"], joined["nPixels"])
    assert_array_equal(joined["max"], joined["peakElectrons"])
    assert_allclose(joined["mean"], joined["surfaceBrightness"], rtol=1e-4)
    assert {"cosmic_ray", "saturated", "bled", "streak"} <= set(events["kind"])
    assert events.loc[events["kind"] == "cosmic_ray", "peakSnr"].notna().all()
    # darks and flats are hit too
    assert set(events["visit"]) > {260101001, 260101002}


def test_detector_files_hold_the_truth(survey, tiny):
    """The file of a detector has the response, dark current, defects and coefficients that made its frames."""
    truth = detector_truth(CONFIG, tiny, tiny.detector(2))
    with fits.open(survey / "truth" / "detector_002.fits") as file:
        for name, array in (
            ("RESPONSE", truth.response),
            ("DARK", truth.dark),
            ("DEFECTS", truth.defects),
            ("TREE_RINGS_X", truth.rings[0]),
            ("FRINGE_i", truth.fringe("i")),
            ("CROSSTALK", truth.crosstalk),
            ("BOUNDARIES_Y", truth.boundaries[1]),
        ):
            assert_array_equal(file[name].data, array, err_msg=name)
        assert (file["FRINGE_r"].data == 0).all()
        assert file["CROSSTALK"].header["AMP1"] == "A2"
    rows = pd.read_parquet(survey / "truth" / "amplifier_truth.parquet")
    rows = rows[rows["detector"] == 2]
    assert rows["gain"].tolist() == [a.gain for a in truth.amplifiers]
    for row, amplifier in zip(rows.itertuples(), truth.amplifiers, strict=True):
        v = np.linspace(0, 60000, 7)
        u = v / row.linearityScale
        bend = row.linearityLoss * (1 + row.linearityKnee) * u**2 / (row.linearityKnee + u**2)
        wave = row.linearityWave * np.sin(np.pi * row.linearityWaves * u) ** 2
        assert_allclose(v * (1 - bend + wave), amplifier.curve.read(v))


def test_snaps_are_frames_of_their_own(tiny, tmp_path):
    """Two snaps have a file each with half of the light, their own noise and particles, and one source table."""
    config = dataclasses.replace(
        CONFIG,
        n_visits=1,
        n_snaps=2,
        calibration_frames=CalibrationFramesConfig(n_bias=0, n_flat=0),
    )
    simulate_survey(config, tiny, tmp_path / "snaps")
    names = sorted(p.name for p in (tmp_path / "snaps" / "raw").iterdir())
    assert names == [f"260101001_{snap}_{number}.fits" for snap in (0, 1) for number in range(4)]
    events = pd.read_parquet(tmp_path / "snaps" / "truth" / "event_truth.parquet")
    rays = events[events["kind"] == "cosmic_ray"]
    assert set(rays["snap"]) == {0, 1}
    rows = pd.read_parquet(tmp_path / "snaps" / "truth" / "visit_detector_truth.parquet")
    assert len(rows) == 4
    for snap in (0, 1):
        name = f"260101001_{snap}_0.fits"
        expected = fits.getdata(tmp_path / "snaps" / "truth" / "expected" / name, "EXPECTED")
        # vignetting and gradients change the middle value by some per cent
        assert_allclose(np.median(expected) * 2 / rows["skyElectrons"].iloc[0], 1, atol=0.2)


def test_header_wcs_agrees_with_truth(survey, sources):
    """The WCS of every science header puts every source within 3 mas of its imaged position."""
    for (visit, detector), rows in sources.groupby(["visit", "detector"]):
        header = fits.getheader(survey / "raw" / f"{visit}_0_{detector}.fits")
        # astropy warns of a WCS in a header without pixels
        del header["NAXIS"]
        wcs = WCS(header)
        ra, dec = wcs.all_pix2world(rows["x"], rows["y"], 0)
        d_ra = (ra - rows["ra"]) * np.cos(np.radians(dec))
        assert np.hypot(d_ra, dec - rows["dec"]).max() * 3.6e6 < 3


def test_stars_are_at_their_truth_after_assembling(survey, tiny, sources):
    """Centroids of isolated bright stars in assembled frames are at the truth's place within five errors."""
    bright = (sources["kind"] == "star") & (sources["snr"] > 150) & (sources["fullWellFraction"] < 0.8)
    stars = sources[bright & sources["isolated"]]
    stars = stars[stars["x"].between(15, 304) & stars["y"].between(15, 304)]
    assert set(stars["detector"]) == {0, 1, 2, 3}
    offsets = []
    for (visit, number), rows in stars.groupby(["visit", "detector"]):
        raw = read_raw(survey / "raw" / f"{visit}_0_{number}.fits", tiny, number)
        image = raw.detector.assemble(raw.amplifiers)
        for x, y, snr in rows[["x", "y", "snr"]].to_numpy():
            offsets.append((*centroid_offset(image, x, y), snr))
    offset = np.array(offsets)
    # a windowed centroid's error is about FWHM/2.35/snr per axis, here 1.3 px / snr
    error = 1.5 * 1.3 / offset[:, 2:]
    good = (np.abs(offset[:, :2]) < 5 * error + 0.02).all(axis=1)
    # neighbours below 1 % or beyond 3 arcsec drag a few
    assert good.mean() > 0.9
    assert_allclose(np.median(offset[:, :2], axis=0), 0, atol=0.02)


def centroid_offset(image, x, y):
    """Iterated Gaussian-windowed centroid less the given place [px]."""
    column, row = round(x), round(y)
    cut = image[row - 12 : row + 13, column - 12 : column + 13].astype(float)
    rows, columns = np.mgrid[row - 12 : row + 13, column - 12 : column + 13]
    distance = np.hypot(columns - x, rows - y)
    cut = cut - np.median(cut[distance > 9])
    at_x, at_y = x, y
    for _ in range(20):
        weight = cut * np.exp(-0.5 * ((columns - at_x) ** 2 + (rows - at_y) ** 2) / 1.3**2)
        # the window halves the step of a source of its own width
        at_x += 2 * (weight * (columns - at_x)).sum() / weight.sum()
        at_y += 2 * (weight * (rows - at_y)).sum() / weight.sum()
    return at_x - x, at_y - y


def test_a_visit_alone_is_a_visit_among_others(survey, tiny, tmp_path, sources):
    """A survey of one visit has the same raws and truth of that visit as a survey of two."""
    alone = tmp_path / "alone"
    simulate_survey(dataclasses.replace(CONFIG, n_visits=1), tiny, alone)
    whole, part = files_of(survey), files_of(alone)
    for name in part:
        if name.startswith("raw/260101001"):
            assert part[name] == whole[name], name
    rows = pd.read_parquet(alone / "truth" / "source_truth.parquet")
    pd.testing.assert_frame_equal(rows, sources[sources["visit"] == 260101001])
    assert part["reference/gaia_like.fits"] == whole["reference/gaia_like.fits"]
    assert part["truth/object_truth.parquet"] == whole["truth/object_truth.parquet"]


def test_the_map_does_not_matter(tiny, tmp_path):
    """A map that works backwards, on pickled functions, gives the same bytes of every file."""
    frames = CalibrationFramesConfig(n_bias=0, n_dark=1, n_flat=0, n_fringe=1)
    one = dataclasses.replace(
        CONFIG, n_visits=1, star_density=5.0, galaxy_density=3.0, calibration_frames=frames
    )

    def backwards(function, items):
        function = pickle.loads(pickle.dumps(function))
        return serial_map(function, list(items)[::-1])[::-1]

    simulate_survey(one, tiny, tmp_path / "again", map=backwards)
    simulate_survey(one, tiny, tmp_path / "once")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "once")


def test_a_failed_unit_leaves_nothing(tiny, tmp_path):
    """When a worker dies, the reason comes through and no survey, whole or part, is left."""

    def dying(function, items):
        return [Outcome(item, None, Reason.WORKER_DIED, "out of memory") for item in items]

    with pytest.raises(ProcessingFailure, match="visit 260101001 detector 0: out of memory"):
        simulate_survey(CONFIG, tiny, tmp_path / "survey", map=dying)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_runs_go(tiny, tmp_path):
    """The half-written survey of a process that is no more is removed by the next run; a live one's stays."""
    host = socket.gethostname()
    # process numbers end at 2^22
    dead, alive = (tmp_path / f".bias.{host}.{pid}.part" for pid in (2**22 + 5, os.getppid()))
    for path in (dead, alive):
        (path / "raw").mkdir(parents=True)
    simulate_survey(BIAS_ALONE, tiny, tmp_path / "bias")
    assert {path.name for path in tmp_path.iterdir()} == {"bias", alive.name}


def test_an_existing_survey_is_not_overwritten(survey, tiny):
    """A directory with something in it is refused and left as it was."""
    with pytest.raises(FileExistsError, match="exists already"):
        simulate_survey(CONFIG, tiny, survey)
    assert (survey / "raw").is_dir()


def test_survey_without_science_has_empty_tables(tiny, tmp_path):
    """Calibration frames alone make a survey whose source table has all columns and no row."""
    simulate_survey(BIAS_ALONE, tiny, tmp_path / "bias")
    table = pd.read_parquet(tmp_path / "bias" / "truth" / "source_truth.parquet")
    assert len(table) == 0
    TRUTH_SCHEMAS["source_truth"].check(table)
    assert len(list((tmp_path / "bias" / "raw").iterdir())) == 4


def test_camera_without_the_band_is_refused(tiny, tmp_path):
    """A band for which the camera has no filter stops before anything is written."""
    with pytest.raises(ValueError, match="camera tiny has no filter of band 'z'"):
        simulate_survey(dataclasses.replace(CONFIG, bands=("z",)), tiny, tmp_path / "survey")
    assert list(tmp_path.iterdir()) == []


def test_saturated_stars_bleed_in_raws(survey, tiny, sources):
    """Where a star is three times over full well, two pixels up and down are stored above saturation."""
    bright = sources[
        (sources["fullWellFraction"] > 3) & sources["x"].between(5, 314) & sources["y"].between(5, 314)
    ]
    assert len(bright) > 0
    for row in bright.itertuples():
        raw = read_raw(survey / "raw" / f"{row.visit}_0_{row.detector}.fits", tiny, row.detector)
        image = raw.detector.assemble(raw.amplifiers)
        x, y = round(row.x), round(row.y)
        assert (image[y - 2 : y + 3, x] > raw.detector.amplifiers[0].saturation).all()


def test_reference_is_a_table_of_its_own(survey):
    """The reference has its columns and units, as other catalogues do."""
    with fits.open(survey / "reference" / "gaia_like.fits") as file:
        columns = file[1].columns
        units = dict(zip(columns.names, columns.units))
        assert {units[n] for n in ("ra", "dec")} == {"deg"}
        assert {units[n] for n in ("ra_error", "dec_error", "parallax")} == {"mas"}
        assert {units[n] for n in ("pmra", "pmdec_error")} == {"mas/yr"}
        assert np.all(file[1].data["ref_epoch"] == 2016.0)
        assert len(file[1].data) > 50


def test_streaks_are_in_the_light_of_the_frame(survey, tiny, tmp_path):
    """Where a trail or ghost is said to be, the expected image has its electrons more than without trails."""
    events = pd.read_parquet(survey / "truth" / "event_truth.parquet")
    pixels = pd.read_parquet(survey / "truth" / "pixel_truth.parquet")
    visit, number = events.loc[events["kind"] == "streak", ["visit", "detector"]].iloc[0]
    plain = dataclasses.replace(CONFIG, trails=SatelliteTrailsConfig(per_visit=0.0))
    for name in ("raw", "truth/expected"):
        (tmp_path / name).mkdir(parents=True)
    unit = next(v for v in science_visits(plain) if v.visit == visit), int(number)
    write_science_frame(plain, tiny, field_sky(plain, tiny), tmp_path, unit)
    name = f"truth/expected/{visit}_0_{number}.fits"
    with_trail, without = (fits.getdata(d / name, "EXPECTED").astype(float) for d in (survey, tmp_path))
    streak = pixels[
        (pixels["visit"] == visit) & (pixels["detector"] == number) & (pixels["kind"] == "streak")
    ]
    said = np.zeros(without.shape)
    np.add.at(said, (streak["y"], streak["x"]), streak["electrons"])
    more = (with_trail - without)[said > 0]
    # boundaries displaced by the rings of the crystal move 0.3 % of the light to other pixels
    assert_allclose(more.sum() / said.sum(), 1, atol=0.01)
    assert_allclose(more, said[said > 0], rtol=0.05, atol=0.01 * said.max())


def test_fringes_follow_the_sky_and_the_night(tiny):
    """Fringes are the sky times the detector's pattern, higher or lower by visits as told."""
    truth = detector_truth(CONFIG, tiny, tiny.detector(0))
    sky = np.full(truth.response.shape, 900.0)
    assert_allclose(with_fringes(truth, "i", 1.2, sky), 900 * (1 + 1.2 * truth.fringe("i")), rtol=1e-6)
    assert_array_equal(with_fringes(truth, "r", 1.2, sky), sky)
    visit = science_visits(CONFIG)[0]
    scales = [night_lines(CONFIG, dataclasses.replace(visit, visit=k)) for k in range(300)]
    assert_allclose(np.mean(scales), 1, atol=4 * 0.2 / np.sqrt(300))
    assert_allclose(np.std(scales), 0.2, rtol=4 / np.sqrt(600) + 0.02)
