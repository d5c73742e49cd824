"""Pages of calibration products: one for each, whole, true to the figures, and cheap to write again."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from skyquilt.io.components import write_components
from skyquilt.io.fits import write_exposure
from skyquilt.io.manifests import ManifestWriter, read_manifest
from skyquilt.primitives.detector_characterization import DEFECT_KINDS, Defects
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import Outcome, Reason, serial_map
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask
from skyquilt.quality.calibration_pages import (
    CalibrationProduct,
    Picture,
    calibration_failures,
    calibration_products,
    draw_pictures,
    grey_levels,
    previous_site,
    visits_served,
)
from skyquilt.quality.pages import plots
from skyquilt.quality.pages.plots import Axis, Series
from skyquilt.quality.scorecard import ScorecardConfig, make_scorecard
from skyquilt.quality.site import QualitySiteConfig, write_site
from skyquilt.quality.site.calibration_figures import measured, significant, spread
from skyquilt.quality.site.calibration_fits import asked_corrections

EVIL = "<img src=x onerror=alert(1)> & </script>"
VOID = {"meta", "link", "img", "input", "br"}
AMPLIFIERS = ("A1", "A2", "A3")
SHAPE = (60, 90)


class Page(HTMLParser):
    """Checks that elements nest, and notes links, pictures, ids and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.links, self.ids, self.attributes, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found[name] for name in ("href", "src") if found.get(name)]
        self.ids += [found["id"]] if "id" in found else []
        self.attributes += list(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


# --- figures as the stages write them -----------------------------------------------------------------------


def by_amplifier(value):
    return dict.fromkeys(AMPLIFIERS, value)


def combined_figures(rng, **more):
    return {
        "n_frames": 4,
        "n_left_out": 1,
        "left_out": [f"unreadable_file: {EVIL}"],
        "levels": rng.normal(100, 1, 4).tolist(),
        "rejected_share": 1e-4,
        "noise_ratio": by_amplifier(1.0),
        **more,
    }


def linearity_figures(rng):
    levels = np.linspace(500, 40_000, 9)
    grid = np.linspace(0, 40_000, 65)
    one = {
        "measured": True,
        "points": 9,
        "largest_adu": 40_000.0,
        "largest_error": 4e-4,
        "exposure_time": (levels / 1000).tolist(),
        "level_adu": levels.tolist(),
        "residual": rng.normal(0, 1e-4, 9).tolist(),
        "curve_level_adu": grid.tolist(),
        "curve": (2.5e-7 * grid).tolist(),
        "curve_error": np.full(65, 1e-4).tolist(),
    }
    return {
        "amplifiers": {"A1": one, "A2": one, "A3": {"measured": False, "points": 0}},
        "lamp_jitter": 5e-4,
        "lamp_drift": None,
        "left_out": [{"frame": 1, "reason": "unreadable_file", "detail": "cut short"}],
    }


def transfer_figures(rng):
    levels = np.geomspace(300, 50_000, 10)
    model = 25 + levels / 1.5 - 1e-6 * levels**2
    one = {
        "method": "covariances",
        "gain": 1.4613,
        "gain_error": 0.0013,
        "gain_defined": 1.5,
        "read_noise": 4.86,
        "read_noise_error": 0.005,
        "full_well": None,
        "a": [[-2e-6, 3e-7], [4e-7, 1e-8]],
        "a_error": [[2e-8, 1e-8], [1e-8, 7e-9]],
        "chi_square": 1.06,
        "level_adu": levels.tolist(),
        "variance_adu": (model * rng.normal(1, 2e-3, 10)).tolist(),
        "variance_error_adu": (2e-3 * model).tolist(),
        "model_adu": [*model[:9].tolist(), None],
        "used": [True] * 9 + [False],
    }
    nothing = dict.fromkeys(one) | {
        "gain_defined": 1.5,
        **{key: [None] * 10 for key in ("level_adu", "variance_adu", "variance_error_adu", "model_adu")},
        "used": [False] * 10,
    }
    kernel = np.zeros((5, 5))
    kernel[2, 2] = 6.25e-7
    return {
        "amplifiers": {"A1": one, "A2": one, "A3": nothing},
        "brighter_fatter": {
            "status": "made",
            "significance": 38.6,
            "significance_needed": 5.0,
            "a": one["a"],
            "a_error": one["a_error"],
            "sum": -1.3e-7,
            "sum_error": 1.6e-7,
            "chi_square_of_amplifiers": None,
            "amplifiers": ["A1", "A2"],
            "kernel": kernel.tolist(),
            "level_correction": [0.95, 0.95, 0.95],
        },
        "left_out": [],
        "read_noise_source": "bias",
    }


def crosstalk_figures():
    return {
        "amplifiers": list(AMPLIFIERS),
        "coefficients": [[0.0, 1.25e-4, 0.0], [-3e-5, 0.0, 2e-6], [1e-6, 1e-6, 0.0]],
        "errors": [[0.0, 1e-6, None], [1e-6, 0.0, 1e-6], [1e-6, 1e-6, 0.0]],
        "blocks": 900,
        "left_out": [],
    }


def defect_figures():
    kinds = {kind: {"boxes": 0, "pixels": 0} for kind in DEFECT_KINDS}
    kinds |= {"hot": {"boxes": 2, "pixels": 2}, "dark_column": {"boxes": 1, "pixels": 40}}
    return {
        "frames": {"bias": 1, "dark": 1, "flat": 3},
        "kinds": kinds,
        "boxes": 3,
        "pixels": 42,
        "share": 0.0078,
    }


def figures_of(kind, rng):
    noise = by_amplifier(5.0)
    return {
        "bias": lambda: combined_figures(rng, read_noise_adu=noise),
        "dark": lambda: combined_figures(rng, read_noise=noise, dark_current=by_amplifier(None)),
        "flat": lambda: combined_figures(rng, read_noise=noise, exposure_times=[1.0, 2.0, 4.0, 8.0]),
        "fringe": lambda: combined_figures(rng, rms=0.005, strengths=[90.0, 95.0, 99.0, 103.0]),
        "linearizer": lambda: linearity_figures(rng),
        "ptc": lambda: transfer_figures(rng),
        "crosstalk": crosstalk_figures,
        "defects": defect_figures,
        "vignetting": lambda: {"depth": 0.25, "left_out": []},
    }[kind]()


KINDS = ("bias", "crosstalk", "linearizer", "ptc", "dark", "flat", "defects", "fringe", "vignetting")
COMBINED = ("bias", "dark", "flat", "fringe")


def product(kind, rng, **changes):
    """A product of two detectors, of which the third could not be made."""
    pictures = {
        0: Picture(f"calibrations/{kind}-n1/detector_000.png", -1.25, 3.5, "adu", 4, 23, 15),
        # of a detector without a pixel
        1: Picture(f"calibrations/{kind}-n1/detector_001.png", np.nan, np.nan, "adu", 4, 23, 15),
    }
    options = {
        "kind": kind,
        "name": "n1",
        "status": "flagged",
        "stage": f"make_{kind}",
        "physical_filter": "r" if kind == "flat" else "",
        "night": 61525.0,
        "valid_from": 61125.0,
        "valid_to": 61925.5,
        "frames": {d: [f"{d}_{i}.fits" for i in range(5)] for d in range(2)},
        "uses": {} if kind == "bias" else {"bias": ["n1"]},
        "visits": (100, 101),
        "parts": {
            0: {"status": "ok"},
            1: {"status": "ok"},
            2: {"status": "failed", "reason": "too_few_inputs", "detail": EVIL},
        },
        "figures": {d: figures_of(kind, rng) for d in range(2)},
        "pictures": pictures if kind in COMBINED else {},
        "boxes": {0: (np.array([[3, 4, 1, 1], [70, 10, 1, 40]]), np.array([0, 3]))},
        "shapes": dict.fromkeys(range(3), SHAPE),
    }
    return CalibrationProduct(**options | changes)


@pytest.fixture(scope="module")
def site(make_survey, tmp_path_factory):
    """A site with a product of every kind, one of a kind that the pages do not know."""
    survey = make_survey(seed=3, n_stars=20)
    card = make_scorecard(survey.sources, survey.truth, survey.visit_detectors, ScorecardConfig(resamples=20))

    def write(directory, products=None):
        if products is None:
            rng = np.random.default_rng(5)
            products = [product(kind, rng) for kind in KINDS]
        return write_site(
            directory,
            survey={"name": "Toy", "camera": "toy", "sky_map": "rings"},
            visits=survey.visits,
            visit_detectors=survey.visit_detectors,
            detector_outlines={
                d: {"name": f"D{d}", "corners": [(d, 0), (d + 1, 0), (d + 1, 1), (d, 1)]} for d in range(3)
            },
            tracts=[],
            scorecard=card,
            pictures={},
            failures=[],
            calibrations=iter(products),
        )

    directory = tmp_path_factory.mktemp("site")
    return write, directory, write(directory)


def page_of(directory, kind):
    return Page((directory / f"calibrations/{kind}-n1.html").read_text())


def test_every_product_has_its_page(site):
    """Each product has a page that the first page and its visits link to; every link within the site leads somewhere."""
    _, directory, paths = site
    names = [path.relative_to(directory).as_posix() for path in paths]
    pages = [f"calibrations/{kind}-n1.html" for kind in KINDS]
    assert set(pages) < set(names)
    assert len(set(names)) == len(names)
    first, visit = (Page((directory / name).read_text()) for name in ("index.html", "visits/100/index.html"))
    assert set(pages) < set(first.links)
    assert {f"../../{page}" for page in pages} < set(visit.links)
    assert not any(
        "calibrations/" in link for link in Page((directory / "visits/102/index.html").read_text()).links
    )
    for kind in KINDS:
        path = directory / f"calibrations/{kind}-n1.html"
        page = Page(path.read_text())
        for target in page.links:
            assert not re.match(r"[a-z]+:|/", target), target
            name, _, anchor = target.partition("#")
            linked = (path.parent / name).resolve() if name else path
            assert linked.is_relative_to(directory.resolve())
            if target.endswith(".png"):
                continue
            assert linked.is_file(), (kind, target)
            assert not anchor or anchor in Page(linked.read_text()).ids, (kind, target)


def test_texts_stay_texts_and_nothing_is_fetched(site):
    """Reasons with markup are shown, not obeyed; no page opens an address."""
    _, directory, _ = site
    for kind in KINDS:
        text = (directory / f"calibrations/{kind}-n1.html").read_text()
        page = Page(text)
        assert "onerror" not in page.attributes
        assert any(EVIL in word for word in page.words)
        assert not re.search(r"https?://|url\(|@import", text)


def test_same_input_same_bytes(site, tmp_path):
    """Written again elsewhere, every file has the same bytes."""
    write, directory, paths = site
    write(tmp_path)
    for path in paths:
        assert (tmp_path / path.relative_to(directory)).read_bytes() == path.read_bytes()


def test_first_page_counts_frames_and_detectors(site):
    """The table of products says validity, frames used and left out, detectors made and failed, reasons, visits."""
    _, directory, _ = site
    rows = re.findall(r"<tr><td>flat</td>.*?</tr>", (directory / "index.html").read_text())
    assert len(rows) == 1
    words = [" ".join(Page(cell).words) for cell in re.findall(r"<td.*?</td>", rows[0])]
    assert words == [
        "flat", "n1", "flagged", "r", "2027-04-30", "2026-03-26", "2028-06-03", "4", "1", "2", "1",
        "too_few_inputs", "2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("bias", ["-1.25 to 3.5; blocks of 4 x 4 px", "– to –", "Read noise [ADU]", "unreadable_file: <img"]),
        ("dark", ["Dark current [electron/s]"]),
        ("flat", ["Levels of the frames", "exposure time [s]"]),
        ("fringe", ["Strength of the fringes", "rms of the pattern 0.005"]),
        ("linearizer", ["camera definition", "1.0000", "0.0400", "0_1.fits", "unreadable_file: cut short"]),
        (
            "ptc",
            [
                "1.4613 ± 0.0013",
                "-2.58",
                "4.8600 ± 0.0050",
                "not reached",
                "-20.00 ±0.20",
                "38.6",
                "6.25 x 1e-7",
            ],
        ),
        ("crosstalk", ["125.0 ±1.0", "-30.0 ±1.0", "Victim"]),
        ("defects", ["2 (2 px)", "1 (40 px)", "90 x 60 pixels", "There is no list of boxes"]),
        ("vignetting", ["depth", "0.25"]),
    ],
)
def test_page_shows_the_figures(site, kind, texts):
    """Numbers of the manifest stand on the page, with their errors; detectors without a result have their reason."""
    _, directory, _ = site
    page = page_of(directory, kind)
    for text in [*texts, "too_few_inputs", "D2 (2)"]:
        assert text in page.text, text


def test_dead_products_have_pages(site, tmp_path):
    """Where no detector was made, and where no amplifier was measured, the page says so."""
    write, _, _ = site
    rng = np.random.default_rng(1)
    lost = {0: {"status": "failed", "reason": "too_few_inputs", "detail": ""}}
    empty = {"parts": lost, "figures": {}, "pictures": {}, "boxes": {}, "frames": {}, "visits": ()}
    write(tmp_path / "lost", [product(kind, rng, **empty) for kind in KINDS])
    for kind in KINDS:
        assert "0 / 1" in page_of(tmp_path / "lost", kind).text
    transfer = transfer_figures(rng)
    transfer["amplifiers"] = {"A1": transfer["amplifiers"]["A3"]}
    transfer["brighter_fatter"] = {"status": "too_few_inputs", "levels_needed": 4}
    unmeasured = linearity_figures(rng) | {"amplifiers": {"A1": {"measured": False, "points": 0}}}
    matrix = crosstalk_figures() | {"coefficients": [[0.0] * 3] * 3, "errors": [[None] * 3] * 3}
    dead = {"ptc": transfer, "linearizer": unmeasured, "crosstalk": matrix}
    write(tmp_path / "dead", [product(kind, rng, figures={0: own}) for kind, own in dead.items()])
    assert "None: too few inputs" in page_of(tmp_path / "dead", "ptc").text
    assert "No points" in page_of(tmp_path / "dead", "linearizer").text
    write(tmp_path / "none", [])
    assert "No visit uses a calibration product" in (tmp_path / "none/index.html").read_text()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_points_of_the_linearizer_are_what_flats_ask_for(seed):
    """The point of a flat is its light over its stored level less 1, whatever curve was fitted."""
    rng = np.random.default_rng(seed)
    light = np.sort(rng.uniform(1e3, 5e4, 20))
    stored = light * (1 - 4e-7 * light) * rng.normal(1, 1e-3, 20)
    grid = np.linspace(0, 6e4, 65)
    curve = 3e-7 * grid + 1e-12 * grid**2
    residuals = np.log(stored / light) + np.log1p(np.interp(stored, grid, curve))
    assert_allclose(asked_corrections(stored, residuals, grid, curve), light / stored - 1, atol=1e-13)


# --- plots --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
def test_points_stand_where_their_numbers_are(log):
    """Places of points agree with those of the ticks to the digits written; what cannot be shown is left out."""
    rng = np.random.default_rng(7)
    x, y = rng.uniform(1, 900, 30), rng.uniform(-5, 5, 30)
    x[3], y[5] = np.nan, np.inf
    svg = plots.plot(
        [Series("a<b", [*x, -1.0] if log else x, [*y, 1.0] if log else y)], Axis("x", log), Axis("y"), "p"
    )
    kept = np.isfinite(x) & np.isfinite(y)
    points = np.array(re.findall(r"M([\d.]+) ([\d.]+)h0", svg), np.float64)
    assert len(points) == kept.sum()
    across = np.array(re.findall(r'text-anchor="middle" x="([\d.]+)" y="275">([\d,.]+)<', svg))
    up = np.array(re.findall(r'text-anchor="end" x="61" y="([\d.]+)">(-?[\d,.]+)<', svg))
    for ticks, values, places, shift in ((across, x[kept], points[:, 0], 0), (up, y[kept], points[:, 1], 4)):
        at = ticks[:, 0].astype(float) - shift
        named = np.array([float(text.replace(",", "")) for text in ticks[:, 1]])
        scale = np.log10 if log and ticks is across else np.asarray
        slope, origin = np.polyfit(scale(named), at, 1)
        # ticks and points are written to 0.1, so each is off by at most 0.05; the line through ticks reaches beyond them
        assert_allclose(places, origin + slope * scale(values), atol=0.2)
    assert "a&lt;b" in svg


def test_error_bars_have_their_lengths():
    """A bar reaches one error to either side of its point; points without an error have none."""
    svg = plots.plot([Series("s", [1, 2, 3], [0.0, 5.0, 10.0], [1.0, None, 2.5])], Axis("x"), Axis("y"), "p")
    bars = np.array(re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", svg.split('class="series bar')[1]), np.float64)
    points = np.array(re.findall(r"M[\d.]+ ([\d.]+)h0", svg), np.float64)
    scale = (points[0] - points[2]) / 10
    assert_allclose(bars[:, 0] - bars[:, 1], 2 * scale * np.array([1.0, 2.5]), atol=0.15)
    assert_allclose(bars.mean(axis=1), points[[0, 2]], atol=0.1)


@given(st.floats(1e-12, 1e12))
def test_steps_are_nice(least):
    """A step is 1, 2 or 5 times a power of ten, at least what is asked for and under 2.5 times that."""
    step = plots.nice_step(least)
    assert least * (1 - 1e-6) <= step <= 2.5 * least * (1 + 1e-6)
    assert f"{step:.0e}"[0] in "125"


@given(st.floats(-1e9, 1e9), st.floats(0, 1e6))
def test_any_two_values_make_a_plot(low, span):
    """Axes have ticks whatever the numbers, equal ones too."""
    svg = plots.plot([Series("s", [low, low + span], [span, low])], Axis("x"), Axis("y"), "p")
    assert svg.count('class="axis"') >= 4
    assert "nan" not in svg


def test_colours_of_matrices_tell_the_sign():
    """Blue below 0, red above, nearly white at 0; numbers that round to 0 have no sign, missing ones a dash."""
    assert plots.colour_of(-1) == "#2166ac"
    assert plots.colour_of(1) == plots.colour_of(7) == "#b2182b"
    assert plots.colour_of(0) == "#f7f7f7"
    html = plots.matrix_table([[1.0, -1e-9], [None, -1.0]], None, ("ab", "cd"), caption="c", corner="x")
    assert ">1.0<" in html
    assert ">0.0<" in html
    assert ">-0.0<" not in html
    assert "<td>–</td>" in html


def test_boxes_lie_on_the_map():
    """Large boxes have their size with row 0 at the bottom, small ones are drawn larger about their middle."""
    svg = plots.box_map((300, 600), {"a": np.array([[100, 20, 50, 200]]), "b": np.array([[0, 0, 1, 1]])}, "m")
    assert 'd="M100.0 280.0v-200.0h50.0v200.0z"' in svg
    assert 'd="M-1.5 301.5v-4.0h4.0v4.0z"' in svg


def test_numbers_are_written_with_sense():
    """Errors to two digits, values to the same place; spreads of counts; digits before the point are kept."""
    assert measured(1.4613252, 0.0012737) == "1.4613 ± 0.0013"
    assert measured(12.3456, None) == "12.35"
    assert measured(None, 1.0) == "–"
    assert [spread(c) for c in ([3, 3], [3, None, 5], [None])] == ["3", "3–5", "–"]
    assert [significant(v, 3) for v in (13387.2, 0.012345, None, float("nan"))] == [
        "13,387",
        "0.0123",
        "–",
        "–",
    ]


# --- files --------------------------------------------------------------------------------------------------


def frame(rng):
    image = rng.normal(10, 2, SHAPE).astype(np.float32)
    image[5, 7] = np.nan
    variance = np.ones(SHAPE, np.float32)
    return Exposure(image=image, mask=Mask.blank(SHAPE), variance=variance, box=Box(0, 0, 90, 60), unit="adu")


def make_bias(root, seed=1):
    """A combined bias of detectors 0 and 1; detector 2 failed."""
    rng = np.random.default_rng(seed)
    writer = ManifestWriter(
        root / "calibration/bias/n1/manifest.json", "combine_bias", {"calibration": "n1"}, {}
    )
    writer.directory.mkdir(parents=True, exist_ok=True)
    frames = {detector: frame(rng) for detector in range(2)}
    for detector, exposure in frames.items():
        name = f"detector_{detector:03d}.fits"
        write_exposure(writer.directory / name, exposure, {})
        writer.note("bias", name, detector=detector)
        writer.part(f"detector {detector}", Outcome(detector, 1))
        writer.figures[str(detector)] = combined_figures(rng)
    writer.part("detector 2", Outcome(2, None, Reason.TOO_FEW_INPUTS, "two frames"))
    return writer.finish(), frames


def site_writer(root, manifests, code="c"):
    writer = ManifestWriter(
        root / "quality/site/manifest.json", "quality_site", {}, {"code": code, "config": "o"}
    )
    for manifest in manifests:
        writer.add_input("calibration", manifest.path, root)
    return writer


def none_drawn(function, items):
    assert list(items) == []
    return []


def test_pictures_are_block_means_between_percentiles(tmp_path):
    """A picture is as small as asked for; its greys are the means of blocks on a linear scale, row 0 at the bottom."""
    manifest, frames = make_bias(tmp_path)
    writer = site_writer(tmp_path, [manifest])
    pictures = draw_pictures([manifest], writer, 32, serial_map)[("bias", "n1")]
    for detector, exposure in frames.items():
        picture = pictures[detector]
        assert (picture.block, picture.width, picture.height, picture.unit) == (3, 30, 20, "adu")
        blocks = exposure.image.reshape(20, 3, 30, 3).astype(np.float64)
        means = np.nanmean(blocks, axis=(1, 3))
        assert_allclose([picture.black, picture.white], np.percentile(means, (1, 99)), rtol=1e-6)
        wanted = 255 * np.clip((means - picture.black) / (picture.white - picture.black), 0, 1)
        found = np.asarray(Image.open(writer.directory / picture.path))[::-1]
        # a grey is a whole number
        assert np.abs(found - wanted).max() <= 0.51
    assert set(writer.files) == {picture.path for picture in pictures.values()}


def test_pictures_are_kept_until_something_changes(tmp_path):
    """Neither product nor code changed: no picture is drawn; else, and where a file is damaged, those concerned are."""
    manifest, _ = make_bias(tmp_path)
    first = site_writer(tmp_path, [manifest])
    wanted = draw_pictures([manifest], first, 32, serial_map)
    path = first.finish().path
    again = site_writer(tmp_path, [manifest])
    assert draw_pictures([manifest], again, 32, none_drawn, previous_site(path)) == wanted
    assert again.files == first.files
    assert again.figures == first.figures

    def drawn(writer, manifests):
        seen = []

        def note(function, items):
            seen.extend(item[2] for item in items)
            return serial_map(function, items)

        draw_pictures(manifests, writer, 32, note, previous_site(path))
        return len(seen)

    damaged = first.directory / wanted["bias", "n1"][0].path
    whole = damaged.read_bytes()
    damaged.write_bytes(b"half")
    assert drawn(site_writer(tmp_path, [manifest]), [manifest]) == 1
    assert damaged.read_bytes() == whole
    assert drawn(site_writer(tmp_path, [manifest], code="d"), [manifest]) == 2
    other, _ = make_bias(tmp_path, seed=2)
    assert drawn(site_writer(tmp_path, [other]), [other]) == 2


def test_greys_of_empty_and_even_pictures():
    """A picture without values has no scale; one of equal values is black."""
    levels, black, white = grey_levels(np.full((2, 3), np.nan))
    assert_array_equal(levels, np.zeros((2, 3)))
    assert np.isnan([black, white]).all()
    levels, black, white = grey_levels(np.full((2, 3), 4.0))
    assert (levels.max(), black, white) == (0, 4.0, 4.0)


def test_products_are_read_with_what_the_registry_knows(tmp_path):
    """Validity, frames (also in files that hold all detectors), uses both ways, visits and defects come together."""
    bias, _ = make_bias(tmp_path)
    writer = ManifestWriter(
        tmp_path / "calibration/defects/n1/manifest.json", "find_defects", {"calibration": "n1"}, {}
    )
    boxes = Defects(np.array([[1, 2, 3, 4]], np.int32), np.array([1], np.int16), np.array([0.5]))
    with writer.member("defects", "defects.fits") as temporary:
        write_components(temporary, {0: boxes}, {})
    writer.part("detector 0", Outcome(0, 1))
    writer.figures["0"] = defect_figures()
    common = {"calibration": "n1", "night": 61525.0, "valid_from": 61500.0, "valid_to": 61600.0}
    frames = [{"detector": d, "path": f"raw/{name}.fits"} for d, name in ((0, "b"), (0, "a"), (-1, "c"))]
    slices = [
        {"kind": "bias", "frames": frames, "uses": {}, "physical_filter": "", **common},
        {"kind": "defects", "frames": [], "uses": {"bias": ["n1"]}, "physical_filter": "", **common},
    ]
    served = {("bias", "n1"): [3, 7]}
    shapes = dict.fromkeys(range(2), SHAPE)
    first, second = calibration_products([bias, writer.finish()], slices, served, {}, shapes)
    assert (first.kind, first.name, first.status, first.night, first.valid_to) == (
        "bias", "n1", "flagged", 61525.0, 61600.0,
    )  # fmt: skip
    assert first.frames == {0: ["a.fits", "b.fits", "c.fits"], 1: ["c.fits"]}
    assert (first.serves, first.visits, second.uses) == ({"defects": ["n1"]}, [3, 7], {"bias": ["n1"]})
    assert first.parts[2]["reason"] == "too_few_inputs"
    assert_array_equal(second.boxes[0][0], boxes.boxes)
    failures = calibration_failures([bias])
    assert [(f["stage"], f["visit"], f["detector"], f["reason"]) for f in failures] == [
        ("combine_bias", None, 2, "too_few_inputs")
    ]
    assert failures[0]["detail"] == "bias n1: two frames"


def test_visits_are_counted_by_their_manifests(tmp_path):
    """A product serves the visits whose manifests name it; a visit without that information counts nowhere."""
    manifests = []
    for visit, information in (
        (7, {"calibrations": {"bias": "n1", "flat": ""}}),
        (3, {"calibrations": {"bias": "n1"}}),
        (5, None),
    ):
        path = tmp_path / str(visit) / "manifest.json"
        path.parent.mkdir()
        figures = {} if information is None else {"information": information}
        content = {"format": 1, "files": {}, "unit": {"visit": visit}, "figures": figures}
        path.write_text(json.dumps(content))
        manifests.append(read_manifest(path))
    assert visits_served(manifests) == {("bias", "n1"): [3, 7]}


def test_size_of_pictures_is_checked():
    """Pictures too small to show anything, or as large as the detectors of a camera, are refused."""
    for pixels in (8, 100_000):
        with pytest.raises(ValueError, match="calibration_picture_pixels"):
            QualitySiteConfig(calibration_picture_pixels=pixels)


def test_png_has_nothing_but_pixels(tmp_path):
    """No date, software or other text, so that the bytes are those of the pixels alone."""
    manifest, _ = make_bias(tmp_path)
    writer = site_writer(tmp_path, [manifest])
    (first, _) = draw_pictures([manifest], writer, 64, serial_map)["bias", "n1"].values()
    data = (writer.directory / first.path).read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.mode, picture.info) == ("L", {})
