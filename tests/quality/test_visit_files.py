"""Files of quality analysis: a detector's picture and figures from the visit's files, and what pages find again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skyquilt.io.fits import write_pixels
from skyquilt.io.manifests import CorruptProduct, ManifestWriter
from skyquilt.io.parquet import write_tables
from skyquilt.io.products import path
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask
from skyquilt.primitives.schemas import SOURCE
from skyquilt.quality.scorecard import SOURCE_COLUMNS
from skyquilt.quality.visit_files import DrawDetector, ReleasePictures, sources_of
from skyquilt.quality.visit_pictures import VisitQualityConfig, detector_figures

CONFIG = VisitQualityConfig(picture_pixels=100)
SHAPE = (80, 100)
DIGESTS = {"config": "c", "code": "d"}


@pytest.fixture
def survey(make_survey):
    """Two visits of two detectors."""
    return make_survey(n_visits=2, n_detectors=2, n_stars=40)


@pytest.fixture
def characterized(survey, tmp_path, rng):
    """Manifests of the visits; detector 1 has sources but no image."""
    manifests = []
    for visit, sources in survey.sources.groupby("visit"):
        writer = ManifestWriter(
            path("bootstrap_manifest", tmp_path, visit=visit), "bootstrap_im_char", {"visit": visit}, DIGESTS
        )
        with writer.member("preliminary_source", "source.parquet") as temporary:
            write_tables(temporary, (rows for _, rows in sources.groupby("detector")), SOURCE, {})
        image = rng.normal(size=SHAPE).astype(np.float32)
        exposure = Exposure(image, Mask.blank(SHAPE), np.ones(SHAPE, np.float32), Box(0, 0, 100, 80))
        write_pixels(writer.directory / "detector_000.fits", exposure)
        writer.note("preliminary_visit_image", "detector_000.fits", detector=0)
        manifests.append(writer.finish())
    return manifests


def test_a_worker_draws_and_lists_one_detector(characterized, survey, tmp_path):
    """Picture, layers and figures lie beside each other; figures are of that detector's sources, and only a
    detector that was drawn has some."""
    writer = ManifestWriter(
        path("visit_quality_manifest", tmp_path, visit=100), "visit_quality", {"visit": 100}, DIGESTS
    )
    draw = DrawDetector(characterized[0].path, writer.directory, CONFIG)
    made = draw(0)
    assert made.pictures == ("detector_000.png", "detector_000_image.png", "detector_000_mask.png")
    assert path("visit_quality_table", tmp_path, visit=100, detector=0) == writer.directory / made.figures
    with pytest.raises(ProcessingFailure) as failure:
        draw(1)
    assert failure.value.reason is Reason.TOO_FEW_INPUTS
    writer.note("visit_quality_table", made.figures, detector=0)
    pictures = ReleasePictures({100: writer.finish()}, tmp_path / "quality/site")
    rows = survey.sources.query("visit == 100 and detector == 0").reset_index(drop=True)
    assert pictures.figures(100, 0) == detector_figures(rows, SHAPE, CONFIG)
    assert pictures.figures(100, 1) is None
    assert pictures.figures(101, 0) is None


def test_damaged_figures_are_not_shown(characterized, tmp_path):
    """Figures that are not what their manifest says stop the pages, and the next run makes them again."""
    writer = ManifestWriter(tmp_path / "q" / "manifest.json", "visit_quality", {"visit": 100}, DIGESTS)
    made = DrawDetector(characterized[0].path, writer.directory, CONFIG)(0)
    writer.note("visit_quality_table", made.figures, detector=0)
    pictures = ReleasePictures({100: writer.finish()}, tmp_path)
    file = writer.directory / made.figures
    file.write_text(file.read_text().replace("0", "1", 1))
    with pytest.raises(CorruptProduct, match=r"detector_000\.json"):
        pictures.figures(100, 0)
    assert not writer.path.exists()


def test_sources_of_visits_are_theirs_one_after_the_other(characterized, survey):
    """Columns asked for, of all visits in order, with the types of the schema; of no visit a table of no rows."""
    expected = survey.sources.sort_values(["visit", "detector"], kind="stable", ignore_index=True)
    columns = list(SOURCE_COLUMNS)
    pd.testing.assert_frame_equal(sources_of(characterized, SOURCE_COLUMNS), expected[columns])
    pd.testing.assert_frame_equal(sources_of([], SOURCE_COLUMNS), SOURCE.empty()[columns])
