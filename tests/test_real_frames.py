"""Real frames through the same rules: the Lick Nickel 1 m, from a survey directory made as the README shows."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

FIELDS = {1047: "PG1323", 1048: "NGC4147", 1052: "NGC3982", 1059: "M13", 1074: "UGC9837", 1083: "PG1530"}


def skyquilt(*words):
    command = [sys.executable, "-m", "skyquilt.workflow.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def nickel(shared_data, tmp_path_factory):
    """All frames of the night, processed."""
    frames = shared_data / "nickel-20240512"
    if not frames.is_dir():
        pytest.skip("the Nickel frames are not here")
    survey = tmp_path_factory.mktemp("real") / "nickel_survey"
    skyquilt("init", survey, "--camera", "nickel", "--raw", frames)
    skyquilt("run", survey)
    return survey


def test_all_science_frames_are_reduced_with_their_bias_and_flat(nickel):
    """Ten biases, three flats, six frames of the sky; each has a catalogue, and the missing zero point is flagged."""
    visits = pd.read_parquet(nickel / "registry" / "visits.parquet")
    assert sorted(visit % 10_000 for visit in visits.visit) == sorted(FIELDS)
    assert set(visits.bias) == {"20240512"}
    assert set(visits.flat) == {"V-20240512"}
    table = pd.read_parquet(nickel / "release/visits/visit_detector_table.parquet")
    assert set(table.status) == {"flagged"}
    assert set(table.reasonCode) == {"no_reference"}
    assert table.nSources.min() > 50
    assert table.set_index(table.visit % 10_000).nSources.idxmax() == 1059, "the globular cluster has most"
    assert table.seeing.between(1.5, 4.5).all(), "arcsec; a 1 m telescope at Lick in May"


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
    from skyquilt.io.fits import read_pixels

    path = next(nickel.glob("imchar/bootstrap/*1047/detector_000.fits"))
    exposure = read_pixels(path)
    empty = ~exposure.mask.any(["DETECTED", "BAD", "SATURATED", "NO_DATA", "DETECTION_EDGE"])
    pull = exposure.image[empty] / np.sqrt(exposure.variance[empty])
    width = 1.4826 * np.median(np.abs(pull - np.median(pull)))
    # the lab gain is good to 0.3 % and the read noise to some per cent; unseen faint sources widen it a little
    assert width == pytest.approx(1.0, abs=0.05)
