"""What a user sees when something is wrong (design 6): what, where, and how to mend it."""

import gzip
import shutil

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from survey_runs import skyquilt

RAW = "simulated/raw"


def refused(root, *words):
    """The one line that a refused command prints; nothing was started."""
    done = skyquilt(*(words or ("run", root)), check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / "imchar").exists()
    return done.stderr.strip()


def edit(root, old, new):
    path = root / "survey.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_no_survey_directory(tmp_path):
    """A directory without survey.yaml."""
    message = refused(tmp_path)
    assert message == (
        f"skyquilt: {tmp_path}/survey.yaml: no such file, so this is not a survey directory; "
        "make one with: skyquilt init DIRECTORY"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("survey:\n", "survye:\n", "skyquilt: survey.yaml: survye: no such section; did you mean survey?"),
        (
            "survey:\n",
            "bootstrap_im_char:\n  detection:\n    treshold: 4\nsurvey:\n",
            "skyquilt: survey.yaml: bootstrap_im_char.detection.treshold: no such option; did you mean threshold?",
        ),
        (
            "survey:\n",
            "bootstrap_im_char:\n  detection:\n    threshold: high\nsurvey:\n",
            "skyquilt: survey.yaml: bootstrap_im_char.detection.threshold: expected float, got 'high'",
        ),
        ("camera: tiny", "camera: tinny", "tinny"),
        (
            "num_rings",
            "nrings",
            "skyquilt: survey.yaml: sky_map.nrings: no such option of kind rings; did you mean num_rings?",
        ),
        ("ra: ra\n", "raa: ra\n", "did you mean ra"),
        ("name: tiny", "name: [", "skyquilt: "),
    ],
)
def test_wrong_configuration(raw_survey, old, new, message):
    """Unknown keys come with a suggestion; nothing is started."""
    edit(raw_survey, old, new)
    text = refused(raw_survey)
    assert message in text
    assert "survey.yaml" in text or "camera" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("raw: [simulated/raw]", "raw: [nowhere]", "survey.raw: nowhere: no such file or directory"),
        ("truth: simulated/truth", "truth: nowhere", "survey.truth: nowhere: no such directory"),
        ("gaia_like.fits", "gaia_likes.fits", "gaia_likes.fits"),
        ("survey:\n", "survey:\n  exclusions: no.csv\n", "survey.exclusions: no.csv: no such file"),
    ],
)
def test_missing_files_of_the_configuration(raw_survey, old, new, message):
    """A path that is not there stops before any work."""
    edit(raw_survey, old, new)
    assert message in refused(raw_survey)


def test_no_frames_at_all(raw_survey):
    """An empty raw directory is said so; a survey without frames of the sky says that too."""
    shutil.rmtree(raw_survey / RAW)
    (raw_survey / RAW).mkdir()
    assert "survey.raw: simulated/raw: no FITS files in this directory" in refused(raw_survey)


def test_only_frames_of_another_camera(raw_survey):
    """Frames that none of belongs to the camera: the count of unusable ones and why, and nothing to do."""
    for path in (raw_survey / RAW).iterdir():
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["INSTRUME"] = "SomethingElse"
    message = refused(raw_survey)
    assert "no usable science frames" in message
    assert "unknown_camera" in message
    assert "SomethingElse" in message


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_nan(path):
    with fits.open(path) as hdus:
        new = fits.HDUList([hdus[0].copy()])
        for hdu in hdus[1:]:
            new.append(fits.ImageHDU(np.full(hdu.data.shape, np.nan, np.float32), name=hdu.name))
        new.writeto(path, overwrite=True)


def damage_not_fits(path):
    path.write_bytes(gzip.compress(b"not a FITS file"))


def damage_other_camera(path):
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["INSTRUME"] = "SomethingElse"


def damage_unknown_detector(path):
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["DETNUM"] = 77


def test_bad_frames_are_rows_with_reasons_and_the_rest_is_done(raw_survey):
    """Truncated, NaN, gone after ingest, of another camera, not FITS: the run ends well and says what is missing."""
    raws = raw_survey / RAW
    damage_truncated(raws / "260101001_0_0.fits")
    damage_nan(raws / "260101001_0_1.fits")
    damage_not_fits(raws / "260101002_0_0.fits")
    damage_other_camera(raws / "260101002_0_1.fits")
    damage_unknown_detector(raws / "260101002_0_2.fits")
    skyquilt("ingest", raw_survey)
    (raws / "260101001_0_2.fits").unlink()
    done = skyquilt("run", raw_survey)
    table = pd.read_parquet(raw_survey / "release/visits/visit_detector_table.parquet")
    status = {
        (row.visit, row.detector): row.reasonCode for row in table.itertuples() if row.status == "failed"
    }
    assert status[260101001, 0] == "unreadable_file"
    assert status[260101001, 1] == "no_good_pixels"
    assert status[260101001, 2] == "missing_file"
    raw_table = pd.read_parquet(raw_survey / "registry/raws.parquet").set_index("path")
    for name, reason in (
        ("260101002_0_0", "unreadable_file"),
        ("260101002_0_1", "unknown_camera"),
        ("260101002_0_2", "unknown_detector"),
    ):
        assert raw_table.loc[f"{RAW}/{name}.fits", "reason"] == reason
    assert "3 unusable" in done.stdout
    assert "missing_file 1, no_good_pixels 1, unreadable_file 1" in done.stdout
    whole = table[(table.visit == 260101003)]
    assert set(whole.status) <= {"ok", "flagged"}
    sources = pd.read_parquet(raw_survey / "imchar/bootstrap/260101001/source.parquet")
    assert set(sources.detector) == {3}
    page = (raw_survey / "quality/site/index.html").read_text()
    assert "unreadable_file" in page


def test_exclusions_by_hand(raw_survey):
    """Visits, detectors and amplifiers of the table are left out with the reason given."""
    (raw_survey / "exclusions.csv").write_text(
        "visit,detector,amplifier,reason\n260101002,,,out of focus\n260101001,2,,ghost\n260101001,0,A1,dead\n"
    )
    edit(raw_survey, "survey:\n", "survey:\n  exclusions: exclusions.csv\n")
    skyquilt("run", raw_survey)
    visits = pd.read_parquet(raw_survey / "registry/visits.parquet").set_index("visit")
    assert visits.loc[260101002, ["reason", "detail"]].tolist() == ["excluded", "out of focus"]
    assert not (raw_survey / "imchar/bootstrap/260101002").exists()
    table = pd.read_parquet(raw_survey / "release/visits/visit_detector_table.parquet")
    row = table[(table.visit == 260101001) & (table.detector == 2)].iloc[0]
    assert (row.status, row.reasonCode) == ("failed", "excluded")
    with fits.open(raw_survey / "imchar/bootstrap/260101001/detector_000.fits") as hdus:
        bad = 1 << hdus["MASK"].header["MP_NO_DATA"]
        half = (hdus["MASK"].data & bad) != 0
    assert half[:, :160].all()
    assert not half[:, 160:].all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("abc,,,x", "visit must be a number or empty, got 'abc'"),
        (",,,x", "give a visit, a detector, or both"),
        ("1,,A1,x", "amplifier A1 needs a detector"),
    ],
)
def test_wrong_exclusions(raw_survey, line, message):
    """A row that cannot be understood is named with its line."""
    (raw_survey / "exclusions.csv").write_text(f"visit,detector,amplifier,reason\n{line}\n")
    edit(raw_survey, "survey:\n", "survey:\n  exclusions: exclusions.csv\n")
    text = refused(raw_survey)
    assert "exclusions.csv, line 2" in text
    assert message in text


@pytest.mark.parametrize(
    "command", ["status", "verify", "prune", "plan", "ingest", "simulate", "run", "scorecard"]
)
def test_every_command_wants_a_survey(tmp_path, command):
    """In a directory that is none, each says so."""
    assert "so this is not a survey directory" in refused(tmp_path, command, tmp_path)


def test_calibration_frames_can_be_excluded_and_their_lack_is_flagged(raw_survey):
    """With one bias left out there are too few: visits are processed without, and each detector says so."""
    (raw_survey / "exclusions.csv").write_text("visit,detector,amplifier,reason\n260101500,,,light leak\n")
    edit(raw_survey, "survey:\n", "survey:\n  exclusions: exclusions.csv\n")
    skyquilt("run", raw_survey)
    table = pd.read_parquet(raw_survey / "release/visits/visit_detector_table.parquet")
    assert set(table.status) == {"flagged"}
    assert set(table.reasonCode) == {"no_calibration"}


def test_unknown_tract_profile_product_and_source(raw_survey, tmp_path):
    """The command line answers wrong words with what there is."""
    skyquilt("ingest", raw_survey)
    assert "tract 7: no visit of this survey touches it; there are" in refused(
        raw_survey, "run", raw_survey, "--tract", 7
    )
    assert "profile slrm" in refused(raw_survey, "run", raw_survey, "--profile", "slrm")
    get = skyquilt("get", "sources", "--survey", raw_survey, check=False)
    assert get.returncode == 2
    assert "sources: no such product; did you mean source?" in get.stderr
    why = skyquilt("why", "4711", "--survey", raw_survey, check=False)
    assert "source 4711 belongs to visit 0, which has no source table" in why.stderr
    camera = skyquilt("init", tmp_path / "y", "--camera", "tinny", "--raw", raw_survey, check=False)
    assert "tinny" in camera.stderr
    assert not (tmp_path / "y").exists()
    init = skyquilt("init", raw_survey, "--template", "demo", check=False)
    assert "is there already; choose another directory" in init.stderr
    assert (
        "no such template; did you mean demo?"
        in skyquilt("init", tmp_path / "x", "--template", "demoo", check=False).stderr
    )
