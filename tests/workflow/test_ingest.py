"""Ingest: the registry's decisions."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from survey_runs import skyquilt

from skyquilt.instrument import load_camera
from skyquilt.primitives.geometry import offset_position
from skyquilt.primitives.sky_map import from_config
from skyquilt.workflow.config import ConfigurationError, IngestConfig, SurveyConfig
from skyquilt.workflow.ingest import (
    IngestInputs,
    assign_chunks,
    choose_home_tracts,
    find_overlaps,
    find_raws,
    mark_duplicates,
)

SKY_MAP = {
    "kind": "rings",
    "num_rings": 600,
    "pixel_scale_arcsec": 0.5,
    "patch_inner_pixels": 500,
    "patch_border_pixels": 25,
    "tract_overlap_deg": 0.02,
}


@pytest.fixture
def inputs(tmp_path):
    """Inputs of an ingest for the tiny camera."""
    return IngestInputs(
        tmp_path,
        SurveyConfig(),
        IngestConfig(),
        {"chunk_megapixels": 1.0},
        {},
        load_camera("tiny"),
        from_config(SKY_MAP),
        "camera",
        "fingerprint",
    )


def visits_at(ra, dec, rotation=0.0):
    n = len(ra)
    return pd.DataFrame(
        {
            "visit": np.arange(1, n + 1),
            "ra": ra,
            "dec": dec,
            "rotation": np.broadcast_to(rotation, n).astype(float),
            "n_detector": 4,
            "reason": "",
            "detail": "",
        }
    )


def detectors_of(visits):
    rows = [(v, d, 0.41) for v in visits["visit"] for d in range(4)]
    return pd.DataFrame(rows, columns=["visit", "detector", "megapixels"])


def test_overlaps_hold_every_tract_and_patch_that_a_detector_truly_touches(inputs):
    """Pointings wrong by up to the margin: each pixel of the true outline lies in a listed tract and patch."""
    rng = np.random.default_rng(3)
    ra, dec = 149.9 + rng.uniform(-0.2, 0.2, 6), 2.25 + rng.uniform(-0.2, 0.2, 6)
    visits = visits_at(ra, dec, rng.uniform(0, 360, 6))
    overlaps = find_overlaps(visits, detectors_of(visits), inputs)
    listed = set(map(tuple, overlaps[["visit", "detector", "tract", "patch"]].to_numpy().tolist()))
    for visit in visits.itertuples():
        off = inputs.config.overlap_margin_arcsec / 3600 * 0.99
        true_ra, true_dec = offset_position(visit.ra, visit.dec, rng.uniform(0, 360), off)
        for detector in inputs.camera.detectors:
            wcs = inputs.camera.nominal_wcs(detector.id, float(true_ra), float(true_dec), visit.rotation)
            x = rng.uniform(-0.5, detector.nx - 0.5, 40)
            y = rng.uniform(-0.5, detector.ny - 0.5, 40)
            sky = wcs.pixel_to_sky(x, y)
            for index, tract_id in zip(*inputs.sky_map.tracts_containing(*sky)):
                tract = inputs.sky_map.tract(int(tract_id))
                patch = int(tract.patch_of(sky[0][index], sky[1][index]))
                if patch >= 0:
                    assert (visit.visit, detector.id, int(tract_id), patch) in listed


def test_home_tract_is_where_the_boresight_lies(inputs):
    """On either side of the border the inner region decides; a selection of tracts does not change it."""
    border = inputs.sky_map.inner_bounds(int(inputs.sky_map.find_tract(149.9, 2.25)))[0]
    visits = visits_at(np.array([border - 0.01, border + 0.01]), np.array([2.25, 2.25]))
    overlaps = find_overlaps(visits, detectors_of(visits), inputs)
    home = choose_home_tracts(visits, overlaps, inputs)["home_tract"]
    assert home.tolist() == [int(inputs.sky_map.find_tract(ra, 2.25)) for ra in visits["ra"]]
    assert home[0] != home[1]
    only = replace(inputs, survey=SurveyConfig(tracts=(int(home[0]),)))
    again = choose_home_tracts(visits, find_overlaps(visits, detectors_of(visits), only), only)
    assert again["home_tract"].tolist() == home.tolist()
    far = replace(inputs, survey=SurveyConfig(tracts=(7,)))
    lost = choose_home_tracts(visits, find_overlaps(visits, detectors_of(visits), far), far)
    assert set(lost["reason"]) == {"no_overlap"}


def test_chunks_are_filled_in_order_and_frozen(inputs):
    """A job holds what fits; visits added later, also with lower numbers, leave old chunks as they were."""
    visits = visits_at(np.full(4, 149.95), np.full(4, 2.25)).assign(home_tract=5)
    first = assign_chunks(visits, detectors_of(visits).assign(megapixels=0.1), inputs)
    assert first["chunk"].tolist() == ["1", "1", "3", "3"]
    (inputs.root / "registry").mkdir()
    first.to_parquet(inputs.root / "registry" / "visits.parquet")
    more = pd.concat([visits.assign(visit=[0, 7, 8, 9]), visits], ignore_index=True).sort_values("visit")
    later = assign_chunks(more, detectors_of(more).assign(megapixels=0.1), inputs).set_index("visit")["chunk"]
    assert later[[1, 2, 3, 4]].tolist() == ["1", "1", "3", "3"]
    assert later[[0, 7, 8, 9]].tolist() == ["0", "0", "8", "8"]


def test_a_visit_larger_than_a_chunk_is_a_chunk(inputs):
    """There is at least one visit in a job."""
    visits = visits_at(np.full(2, 149.95), np.full(2, 2.25)).assign(home_tract=5)
    chunks = assign_chunks(visits, detectors_of(visits).assign(megapixels=16.0), inputs)["chunk"]
    assert chunks.tolist() == ["1", "2"]


def test_the_second_of_two_equal_frames_is_set_aside():
    """First by path; frames of other snaps or detectors are not equal, unusable ones do not count."""
    raws = pd.DataFrame(
        {
            "path": ["a", "b", "c", "d", "e"],
            "visit": [1, 1, 1, 1, -1],
            "snap": [0, 0, 1, 0, 0],
            "detector": [0, 0, 0, 1, -1],
            "reason": ["", "", "", "", "unreadable_file"],
            "detail": "",
        }
    )
    assert mark_duplicates(raws)["reason"].tolist() == ["", "duplicate", "", "", "unreadable_file"]


def test_raws_are_files_directories_or_patterns(tmp_path):
    """Sorted, each once; what matches nothing is an error that names it."""
    for name in ("raw/b.fits", "raw/n1/a.fits.gz", "raw/notes.txt", "raw/.a.fits.part.fits", "other/c.fit"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_raws(tmp_path, ["raw", "other/*.fit", str(tmp_path / "raw" / "b.fits")])
    assert [p.relative_to(tmp_path).as_posix() for p in found] == [
        "other/c.fit",
        "raw/b.fits",
        "raw/n1/a.fits.gz",
    ]
    with pytest.raises(ConfigurationError, match=r"survey.raw: nothing/\*.fits"):
        find_raws(tmp_path, ["nothing/*.fits"])


def test_a_second_ingest_reads_no_header_and_changes_nothing(raw_survey):
    """Registry files keep their times, so nothing is run again."""
    skyquilt("ingest", raw_survey)
    for path in (raw_survey / "simulated/raw").iterdir():
        # a header that were read again now would become a row with a reason
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    before = {p: p.stat().st_mtime_ns for p in (raw_survey / "registry").rglob("*.json")}
    stages = {p: p.stat().st_mtime_ns for p in (raw_survey / "stage").glob("*.json")}
    skyquilt("ingest", raw_survey)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert {p: p.stat().st_mtime_ns for p in stages} == stages


def test_the_registry_says_everything_a_run_needs(raw_survey):
    """Visits with pointing, time, calibrations, home tract and chunk; the graph agrees with the tables."""
    skyquilt("ingest", raw_survey)
    visits = pd.read_parquet(raw_survey / "registry/visits.parquet")
    graph = json.loads((raw_survey / "registry/graph.json").read_text())
    assert visits.visit.tolist() == [260101001, 260101002, 260101003, 260101004]
    assert set(visits.bias) == set(visits.ptc) == {"20251231"}
    assert visits.flat.tolist() == [f"{f}-20251231" for f in visits.physical_filter]
    assert (visits.mjd_end > visits.mjd_begin).all()
    assert math.isclose(visits.exposure_time[0], 30.0)
    assert {v for c in graph["chunks"].values() for v in c["visits"]} == set(visits.visit)
    assert len(graph["tracts"]) == 2
    assert set(visits.home_tract) == {int(t) for t in graph["tracts"]}
