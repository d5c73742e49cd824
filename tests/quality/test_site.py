"""Quality pages: whole, safe, the same again, and complete without a server."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skyquilt.primitives.schemas import SOURCE, VISIT, VISIT_DETECTOR
from skyquilt.quality.pages import charts, markup
from skyquilt.quality.scorecard import ScorecardConfig, make_scorecard
from skyquilt.quality.site import QualitySiteConfig, scorecard_table, write_resources, write_site
from skyquilt.quality.visit_pictures import VisitQualityConfig, detector_figures

EVIL = "<img src=x onerror=alert(1)> & </script>"
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Checks that elements nest, and notes links, ids, texts and data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.links, self.ids, self.tags, self.words = [], [], [], [], []
        self.data: dict[str, object] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [found[name] for name in ("href", "src") if found.get(name)]
        self.ids += [found["id"]] if "id" in found else []
        if tag not in VOID:
            self.open.append((tag, found))

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1][1].get("type") == "application/json":
            self.data[self.open[-1][1]["id"]] = json.loads(data)


def box(ra, dec, width, height):
    return [(ra, dec), (ra + width, dec), (ra + width, dec + height), (ra, dec + height)]


@pytest.fixture(scope="module")
def written(make_survey, tmp_path_factory):
    """A site of four visits with one failed detector, hostile texts and layers of one detector."""
    survey = make_survey(seed=3, n_stars=60)
    units = survey.visit_detectors
    lost = (units["visit"] == 101) & (units["detector"] == 1)
    units.loc[lost, ["status", "reasonCode"]] = ["failed", "unreadable_file"]
    units.loc[lost, ["seeing", "zeroPoint", "magLim", "ra", "dec", "llcra", "llcdec"]] = np.nan

    def figures_of_detector(visit, detector):
        # of the detectors with a picture only this one has layers: no other is asked for
        assert (visit, detector) == (100, 0)
        sources = survey.sources.query(f"visit == {visit} and detector == {detector}")
        return detector_figures(sources, (800, 1000), VisitQualityConfig())

    def write(directory, **changes):
        options = {
            "survey": {"name": f"Toy {EVIL}", "camera": "toy", "sky_map": "rings"},
            "visits": survey.visits,
            "visit_detectors": units,
            "detector_outlines": {
                d: {"name": f"D{d}", "corners": [(d, 0), (d + 0.9, 0), (d + 0.9, 0.8), (d, 0.8)]}
                for d in range(3)
            },
            "tracts": [
                {
                    "id": 7,
                    "outline": box(359.8, 29.9, 0.5, 0.4),
                    "patches": [{"id": 1, "outline": box(0, 30, 0.1, 0.1)}],
                }
            ],
            "scorecard": make_scorecard(survey.sources, survey.truth, units, ScorecardConfig(resamples=20)),
            "pictures": {
                (100, 0): {k: f"../visits/100/a b_{k}.png" for k in ("picture", "image", "mask")},
                (100, 1): "../visits/100/detector_001.png",
            },
            "failures": [
                {"stage": "ingest", "visit": None, "detector": None, "reason": "duplicate", "detail": EVIL},
                {
                    "stage": "bootstrap_im_char",
                    "visit": 101,
                    "detector": 1,
                    "reason": "unreadable_file",
                    "detail": "",
                },
            ],
            "figures_of_detector": figures_of_detector,
        }
        return write_site(directory, **(options | changes))

    directory = tmp_path_factory.mktemp("site")
    return write, directory, write(directory)


def page_of(directory, name):
    return Page((directory / name).read_text())


def test_every_page_is_there(written):
    """A page for the survey, its failures, each visit and each detector of it, with style and script."""
    _, directory, paths = written
    names = [path.relative_to(directory).as_posix() for path in paths]
    assert names == list(dict.fromkeys(names))
    expected = {"index.html", "failures.html", "assets/style.css", "assets/site.js"}
    expected |= {f"visits/{v}/index.html" for v in range(100, 104)}
    expected |= {f"visits/{v}/detector_00{d}.html" for v in range(100, 104) for d in range(2)}
    assert set(names) == expected
    assert {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()} == expected


def test_links_lead_somewhere_and_never_away(written):
    """Every link is relative; those within the site exist; pictures are where they were said to be."""
    _, directory, paths = written
    for path in paths:
        if path.suffix != ".html":
            continue
        for target in Page(path.read_text()).links:
            assert not re.match(r"[a-z]+:|/", target), target
            name, _, anchor = target.partition("#")
            if target.endswith(".png") or name.endswith("resources.js"):
                continue
            linked = (path.parent / name).resolve() if name else path
            assert linked.is_file(), (path, target)
            if anchor:
                assert anchor in page_of(linked.parent, linked.name).ids
    text = (directory / "visits/100/detector_000.html").read_text()
    assert 'src="../../../visits/100/a%20b_image.png"' in text


def test_texts_of_the_data_stay_texts(written):
    """Names and reasons with markup in them are shown, not obeyed."""
    _, directory, paths = written
    for path in paths:
        if path.suffix == ".html":
            page = Page(path.read_text())
            assert "onerror" not in str(page.open)
            assert not any(link == "x" for link in page.links)
    assert any(EVIL in word for word in page_of(directory, "failures.html").words)


def test_nothing_is_fetched(written):
    """Neither pages nor script open an address or ask a server."""
    _, _, paths = written
    for path in paths:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|fetch\(|XMLHttpRequest|@import|import\(", text), path


def test_same_input_same_bytes(written, tmp_path):
    """Written again elsewhere, with rows and failures in another order, every file has the same bytes."""
    write, directory, paths = written
    write(tmp_path)
    for path in paths:
        assert (tmp_path / path.relative_to(directory)).read_bytes() == path.read_bytes()


def test_resources_are_apart(written, tmp_path):
    """Costs go to a script beside index.html that is not among the files; the page works without it."""
    write, directory, _ = written
    again = write(tmp_path)
    path = write_resources(
        tmp_path, {"stages": [{"name": "</script>", "cpu_seconds": np.float64(1.5), "jobs": np.nan}]}
    )
    assert path not in again
    content = path.read_text()
    assert content.startswith("window.RESOURCES = ")
    assert "<" not in content
    found = json.loads(content.removeprefix("window.RESOURCES = ").rstrip().rstrip(";"))
    assert found == {"stages": [{"name": "</script>", "cpu_seconds": 1.5, "jobs": None}]}
    assert "resources.js" in (directory / "index.html").read_text()


def test_detector_page_holds_its_sources(written):
    """The sources of the picture are part of the page, ids exact as texts."""
    _, directory, _ = written
    data = page_of(directory, "visits/100/detector_000.html").data["detector"]
    assert data["shape"] == [800, 1000]
    assert {len(row) for row in data["rows"]} == {len(data["columns"])}
    assert all(isinstance(row[0], str) and int(row[0]) > 2**33 for row in data["rows"])
    # without layers the whole picture is shown, without any picture the page says so
    assert "a%20b" not in (directory / "visits/100/detector_001.html").read_text()
    assert "no picture" in (directory / "visits/101/detector_001.html").read_text()


def test_visit_page_shows_failed_and_absent_detectors(written):
    """A failed detector links to its page with its reason; one that was not taken has no link."""
    _, directory, _ = written
    text = (directory / "visits/101/index.html").read_text()
    assert re.search(r'<a href="detector_001.html"><polygon class="detector failed"', text)
    assert re.search(r'<g><polygon class="detector absent" data-detector="2"', text)
    data = page_of(directory, "visits/101/index.html").data["focal-plane"]["figures"]
    assert data["seeing"]["values"] == {"0": 1.0, "1": None}


def test_survey_without_visits(written, tmp_path):
    """Where nothing was processed there is a site that says so."""
    write, _, _ = written
    empty = {"visits": VISIT.empty(), "visit_detectors": VISIT_DETECTOR.empty()}
    card = make_scorecard(SOURCE.empty(), {}, empty["visit_detectors"], ScorecardConfig())
    paths = write(tmp_path, **empty, tracts=[], failures=[], scorecard=card)
    assert len(paths) == 4
    assert "Nothing failed" in (tmp_path / "failures.html").read_text()
    page_of(tmp_path, "index.html")


def test_many_detectors_are_shown_as_hulls(written, tmp_path):
    """Above the limit the map has one polygon for each visit."""
    write, directory, _ = written
    write(tmp_path, config=QualitySiteConfig(map_detectors=3, map_patches=0))
    paths = re.findall(r'<path class="visit"[^>]* d="([^"]*)"', (tmp_path / "index.html").read_text())
    assert [path.count("M") for path in paths] == [1, 1, 1, 1]
    full = re.findall(r'<path class="visit"[^>]* d="([^"]*)"', (directory / "index.html").read_text())
    # the failed detector has no position
    assert [path.count("M") for path in full] == [2, 1, 2, 2]
    assert 'class="patch"' not in (tmp_path / "index.html").read_text()


def test_scorecard_rows_carry_their_verdicts():
    """Each row says its verdict in a word, not by colour alone."""
    row = {
        "topic": "photometry", "name": "flux <bias>", "stage": "S", "unit": "mmag", "value": 1.25,
        "tail": 0.01, "standard_error": 0.02, "expected": None, "n": 12345, "n_objects": 9, "band": "r",
        "bin": ">50", "bound": "< 5 mmag", "lower": None, "upper": 5.0, "bound_source": "LSST SRD",
        "verdict": "pass", "note": "",
    }  # fmt: skip
    html = scorecard_table(
        {"rows": [row], "counts": {"pass": 1, "fail": 0, "undecided": 0, "info": 0}, "truth": True}
    )
    words = " ".join(Page(html).words)
    for text in (
        "pass",
        "flux <bias>",
        "1.250 ±0.020 mmag",
        "< 5 mmag (LSST SRD)",
        "12,345",
        ">50",
        "1.00 %",
    ):
        assert text in words


def unit(ra, dec):
    ra, dec = np.radians(ra), np.radians(dec)
    return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


@given(st.floats(0, 360), st.floats(-89, 89), st.floats(0, 360), st.floats(-90, 90))
def test_projection_keeps_distances_from_its_centre(ra0, dec0, ra, dec):
    """Zenithal equidistant: the distance from the centre is the angle on the sky, and north is up."""
    x, y = charts.SkyProjection(ra0, dec0)(np.array([ra]), np.array([dec]))
    angle = np.degrees(2 * np.arcsin(min(np.linalg.norm(unit(ra0, dec0) - unit(ra, dec)) / 2, 1)))
    # arcsin near 180 degrees is good to the root of the rounding
    assert_allclose(np.hypot(x, y), angle, atol=1e-5)
    east, north = charts.SkyProjection(ra0, dec0)(np.array([ra0 + 0.01, ra0]), np.array([dec0, dec0 + 0.01]))
    assert east[0] < 0
    assert north[1] > 0


def test_hull_covers_the_corners_across_zero_hours():
    """The hull of points on both sides of ra = 0 has only the outer ones."""
    points = np.array([[359.9, 0.0], [0.1, 0.0], [0.1, 0.2], [359.9, 0.2], [0.0, 0.1], [np.nan, 0.0]])
    hull = charts.convex_hull(points)
    assert sorted(map(tuple, hull.tolist())) == sorted(map(tuple, points[:4].tolist()))
    assert charts.convex_hull(points[[0, 0, 1]]).shape == (0, 2)


def test_bands_have_colours_of_their_own():
    """Usual bands have their colours, others take turns, and hostile names are escaped on the way."""
    colours = charts.band_colours(["g", "N708", "r", "B"])
    assert len(set(colours.values())) == 4
    assert EVIL not in markup.legend({EVIL: "#fff"})


def test_dates_and_numbers():
    """MJD 61041.25 is a quarter past midnight of the first of January 2026; NaN is a dash."""
    assert markup.date(61041.25) == "2026-01-01 06:00"
    assert markup.date(float("nan")) == markup.number(float("nan")) == markup.number(None) == markup.MISSING
    assert markup.number(1.005, 1) == "1.0"


@pytest.mark.parametrize("wrong", [{"rows_per_page": 1}, {"map_detectors": -1}, {"plane_figure": "seein"}])
def test_wrong_options_are_refused(wrong):
    """Options that cannot be meant stop at once and say which."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QualitySiteConfig(**wrong)
