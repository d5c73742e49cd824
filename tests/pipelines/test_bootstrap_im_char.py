"""BootstrapImChar from raw frames to sources, on a small simulated visit and on real frames."""

import dataclasses
import pickle
import typing
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import erf

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
)
from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.pipelines.bootstrap_im_char import (
    BootstrapImCharConfig,
    bootstrap_im_char,
    process_detector,
)
from skyquilt.pipelines.calibration_products.combine_bias import CombineBiasConfig, combine_bias
from skyquilt.pipelines.calibration_products.combine_flat import CombineFlatConfig, combine_flat
from skyquilt.pipelines.detector_image import SignatureRemoval
from skyquilt.pipelines.image_characterization import Visit
from skyquilt.primitives.data_units import SOURCE_ID
from skyquilt.primitives.failure import ProcessingFailure, Reason, serial_map
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.schemas import REFERENCE, SOURCE
from skyquilt.primitives.wcs import Wcs

CONFIG = BootstrapImCharConfig()
REMOVAL = SignatureRemoval()
VISIT = Visit(2405121047, "r", "r_test", 5)
SIZE, SIGMA, SKY, SCALE = 640, 1.9, 150.0, 25.0
"""Side [pixel], width of stars [pixel], sky [electron], zero point [nJy / electron]."""
PIXEL = 0.3 / 3600.0
SHIFT = (1.2 / 3600, -0.7 / 3600)
"""Error of the header's WCS [deg] in ra cos(dec) and dec."""


def true_wcs(detector):
    """Where the stars are."""
    return Wcs.tan((150.0 + 0.06 * detector, 2.0), (320.0, 320.0), [[-PIXEL, 0.0], [0.0, PIXEL]])


def header_wcs(detector):
    """What the header says."""
    wcs = true_wcs(detector)
    return wcs.pointed_at(wcs.ra + SHIFT[0] / np.cos(np.deg2rad(2.0)), wcs.dec + SHIFT[1])


def stars_of(detector):
    """x, y [pixel] and electrons of isolated stars on a jittered grid."""
    rng = np.random.default_rng([1, detector])
    centre = (np.arange(8) + 0.5) * 80
    x, y = (v.ravel() + rng.uniform(-3, 3, 64) for v in np.meshgrid(centre, centre))
    return x, y, 10 ** rng.uniform(3.5, 5.0, 64)


def raw_of(detector):
    """Raw frame: one amplifier of 640 x 640 with 24 columns of overscan."""
    rng = np.random.default_rng([2, detector])
    image = np.full((SIZE, SIZE), SKY)
    for xs, ys, flux in zip(*stars_of(detector)):
        i, j = (np.arange(int(v) - 15, int(v) + 17) for v in (xs, ys))
        along = [
            0.5 * np.diff(erf((np.append(k, k[-1] + 1) - 0.5 - c) / (2**0.5 * SIGMA)))
            for k, c in ((j, ys), (i, xs))
        ]
        image[j[0] : j[-1] + 1, i[0] : i[-1] + 1] += flux * np.outer(*along)
    section = np.full((SIZE, SIZE + 24), 900.0)
    section[:, :SIZE] += rng.poisson(image) / 1.6
    section += rng.normal(0, 5.0 / 1.6, section.shape)
    amplifier = Amplifier(
        "A", None, Box(0, 0, SIZE + 24, SIZE), Box(0, 0, SIZE, SIZE), None, Box(SIZE, 0, 24, SIZE), None,
        Box(0, 0, SIZE, SIZE), False, False, 1.6, 5.0, 60000.0,
    )  # fmt: skip
    model = Detector(detector, f"D{detector}", "science", SIZE, SIZE, 0.01, (0.0, 0.0), 0.0, (amplifier,))
    info = SimpleNamespace(visit=VISIT.visit, datetime_mid=60000.0)
    return SimpleNamespace(
        detector=model,
        info=info,
        amplifiers={"A": section.astype(np.float32)},
        header_wcs=header_wcs(detector),
        absent={},
    )


@dataclass
class SimulatedVisit:
    """VisitData of the simulated detectors; detector 9 is missing."""

    lost: int = 9
    without_wcs: int = -1
    written: typing.Any = None

    def snaps(self, detector):
        """One."""
        return [0]

    def read_raw(self, detector, snap):
        """Simulated frame."""
        if detector == self.lost:
            raise ProcessingFailure(Reason.MISSING_FILE, f"raw of detector {detector}")
        raw = raw_of(detector)
        if detector == self.without_wcs:
            raw.header_wcs = None
        return raw

    def read_calibrations(self, detector):
        """No calibrations."""
        return DetectorCalibrations()

    def write_exposure(self, detector, exposure):
        """Keep it."""
        if self.written is not None:
            self.written[detector] = exposure


def catalogue(band, **columns):
    """A reference catalogue of these columns; what is not given is unknown."""
    n = len(columns["ra"])
    unknown = dict.fromkeys(REFERENCE.for_bands([band]).names, np.full(n, np.nan))
    unknown |= {"refId": np.arange(n), "isStar": pd.array([pd.NA] * n, dtype="boolean")}
    return REFERENCE.conform(unknown | columns)


@pytest.fixture(scope="module")
def reference():
    """The stars with their true fluxes at 0.1 mas, and a motion that brought them there since 2016."""
    tables = []
    for detector in (0, 1):
        x, y, flux = stars_of(detector)
        ra, dec = true_wcs(detector).pixel_to_sky(x, y)
        tables.append(catalogue("r", ra=ra, dec=dec, flux_r=flux * SCALE, fluxErr_r=1e-3 * flux * SCALE))
    table = pd.concat(tables, ignore_index=True)
    years = (60000.0 - 57388.5) / 365.25
    return table.assign(
        pmRa=100.0, pmDec=-50.0, epoch=57388.5, isStar=pd.array([True] * len(table), dtype="boolean"),
        ra=table.ra - 100.0 * years / 3.6e6 / np.cos(np.deg2rad(table.dec)),
        dec=table.dec + 50.0 * years / 3.6e6,
    )  # fmt: skip


@pytest.fixture(scope="module")
def visit(reference):
    """Result for two good detectors and a lost one, and the exposures written."""
    data = SimulatedVisit(written={})
    return bootstrap_im_char(VISIT, [0, 9, 1], data, reference, REMOVAL, CONFIG), data.written


def matched(result, detector):
    """Source rows of a detector beside the truth (x, y, electrons), by position."""
    sources = result.sources[result.sources.detector == detector]
    x, y, flux = stars_of(detector)
    distance = np.hypot(sources.x.to_numpy()[:, None] - x, sources.y.to_numpy()[:, None] - y)
    rows = distance.argmin(axis=0)
    assert distance.min(axis=0).max() < 1.0
    return sources.iloc[rows], x, y, flux


def test_all_stars_and_nothing_else(visit):
    """Every star is found once, alone in its place; numbers and ids follow the documented order."""
    result, _ = visit
    sources = result.sources
    SOURCE.check(sources)
    # noise peaks above 5 sigma: 0.3 expected on each of two detectors (Rice)
    assert 128 <= len(sources) <= 132
    ids = SOURCE_ID.unpack(sources.sourceId)
    assert set(ids["visit"]) == {VISIT.visit}
    assert_array_equal(ids["detector"], sources.detector)
    for detector in (0, 1):
        of_it = sources[sources.detector == detector]
        assert_array_equal(ids["number"][sources.detector == detector], np.arange(1, len(of_it) + 1))
        matched(result, detector)
    assert set(sources.tract) == {5}


def test_errors_are_true(visit):
    """Positions, fluxes and calibrated fluxes of two detectors' stars have pulls of unit width."""
    result, _ = visit
    pulls = {"x": [], "y": [], "ap12InstFlux": [], "calibFlux": []}
    for detector in (0, 1):
        found, x, y, flux = matched(result, detector)
        pulls["x"].append((found.x - x) / found.xErr)
        pulls["y"].append((found.y - y) / found.yErr)
        pulls["ap12InstFlux"].append((found.ap12InstFlux - flux) / found.ap12InstFluxErr)
        calibration = result.photo_calib[detector]
        total = calibration.total_error(found.calibFlux, found.calibFluxErr)
        pulls["calibFlux"].append((found.calibFlux - flux * SCALE) / total)
    for name, values in pulls.items():
        pull = np.concatenate(values)
        # 12 %: background under a 12 pixel aperture is uncertain by 450 times a node's error, 15 % of the
        # faintest's
        assert_allclose(pull.std(), 1.0, atol=4 / np.sqrt(2 * pull.size) + 0.12, err_msg=name)
        # level: the sky's own error, common to a cell's stars, and the calibration's, common to all
        assert abs(pull.mean()) < 4 / np.sqrt(pull.size) + 0.3, name


def test_figures_of_the_visit(visit):
    """Zero point, sky, seeing, WCS error and depth come out as simulated."""
    result, _ = visit
    figures = result.detector_figures
    assert sorted(figures) == [0, 1]
    assert_allclose(result.visit_figures["astrom_offset_ra"], SHIFT[0] * 3600, atol=0.01)
    assert_allclose(result.visit_figures["astrom_offset_dec"], SHIFT[1] * 3600, atol=0.01)
    for each in figures.values():
        error = each["zero_point_error"]
        assert 0 < error < 0.01
        assert_allclose(each["zero_point"], 31.4 - 2.5 * np.log10(SCALE), atol=5 * error)
        assert each["zero_point_stars"] > 40
        assert not each["zero_point_of_visit"]
        assert_allclose(each["sky_level"], SKY, atol=0.5)
        assert_allclose(each["sky_noise"], np.sqrt(SKY + 25), rtol=0.02)
        # a pixel adds 1/12 to the variance
        assert_allclose(each["psf_sigma"], np.sqrt(SIGMA**2 + 1 / 12), rtol=0.01)
        assert_allclose(each["seeing"], 2.3548 * np.sqrt(SIGMA**2 + 1 / 12) * 0.3, rtol=0.01)
        assert_allclose(each["aperture_correction"], 1.0, atol=5 * each["aperture_correction_error"])
        depth = 5 * np.sqrt(4 * np.pi * (SKY + 25)) * SIGMA * SCALE
        assert_allclose(each["mag_lim"], 31.4 - 2.5 * np.log10(depth), atol=0.05)
        # counter-clockwise on the pixels; +x is west
        assert each["corner_ra"][0] > each["corner_ra"][1]
        assert each["corner_dec"][2] > each["corner_dec"][1]


def test_positions_are_the_headers(visit):
    """ra and dec are those of the header's WCS at x and y: the shift is reported, not applied."""
    result, _ = visit
    found, *_ = matched(result, 1)
    ra, dec = header_wcs(1).pixel_to_sky(found.x.to_numpy(), found.y.to_numpy())
    assert_allclose(found.ra, ra, atol=1e-9)
    assert_allclose(found.dec, dec, atol=1e-9)
    # +x is west at 0.3 arcsec per pixel: errors turn without mixing, up to the field's curvature
    assert_allclose(found.raErr, found.xErr * PIXEL, rtol=1e-3)
    assert_allclose(found.decErr, found.yErr * PIXEL, rtol=1e-3)


def test_a_lost_detector_costs_itself(visit):
    """The missing detector has its reason; nothing is said against the others but that they lack bias and flat."""
    result, written = visit
    assert [(o.item, o.reason, o.value) for o in result.outcomes] == [
        (0, None, (Reason.NO_CALIBRATION,)),
        (9, Reason.MISSING_FILE, None),
        (1, None, (Reason.NO_CALIBRATION,)),
    ]
    assert sorted(written) == sorted(result.psf) == sorted(result.background) == [0, 1]


def test_exposures_can_be_restored(visit):
    """The written image is background subtracted, and the background puts the sky back."""
    _, written = visit
    exposure = written[0]
    assert abs(np.median(exposure.image)) < 1.0
    assert_allclose(np.median(exposure.unsubtracted_image()), SKY, atol=1.0)
    assert exposure.mask.count("DETECTED") > 0
    assert not np.isnan(exposure.image).any()
    moments = exposure.psf.moments_at(100.0, 100.0)
    assert_allclose(moments.xx, SIGMA**2 + 1 / 12, rtol=0.02)


def test_without_reference_fluxes_are_instrumental():
    """No reference: nJy are NaN with a flag, electrons stand; no WCS: positions are NaN with a flag."""
    result = bootstrap_im_char(VISIT, [1], SimulatedVisit(without_wcs=1), None, REMOVAL, CONFIG)
    sources = result.sources
    assert sources.noZeroPoint_flag.all()
    assert sources.noWcs_flag.all()
    for name in ("ap12Flux", "calibFlux", "kronFlux", "sky", "ra", "dec"):
        assert sources[name].isna().all(), name
    assert (sources.calibInstFlux > 0).sum() >= 64
    assert result.outcomes[0].value == (Reason.NO_CALIBRATION, Reason.NO_WCS, Reason.NO_REFERENCE)
    assert 1 not in result.wcs


def test_results_do_not_depend_on_the_other_detectors(visit, reference):
    """A detector of many stars gives the same rows alone, for it has a zero point of its own; twice the
    same bytes."""
    whole, _ = visit
    alone = bootstrap_im_char(VISIT, [1], SimulatedVisit(), reference, REMOVAL, CONFIG)
    again = bootstrap_im_char(VISIT, [1], SimulatedVisit(), reference, REMOVAL, CONFIG, serial_map)
    pd.testing.assert_frame_equal(alone.sources, again.sources, check_exact=True)
    part = whole.sources[whole.sources.detector == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, alone.sources, check_exact=True)


def test_sources_come_a_detector_at_a_time(visit):
    """Parts of the Source table are made when asked for, one per good detector, and are its rows in order."""
    result, _ = visit
    parts = result.source_parts()
    assert iter(parts) is parts
    parts = list(parts)
    assert [part.detector.unique().tolist() for part in parts] == [[0], [1]]
    for part in parts:
        SOURCE.check(part)
    assert result.n_sources == sum(map(len, parts)) == len(result.sources)
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), result.sources, check_exact=True)


def test_compact_results_change_no_bit_of_the_table(visit):
    """Columns that a worker sends in their final types give the rows that full precision gives."""
    result, _ = visit
    wide = [process_detector(each.detector, SimulatedVisit(), REMOVAL, CONFIG) for each in result.results]
    full = replace(result, results=tuple(wide))
    pd.testing.assert_frame_equal(full.sources, result.sources, check_exact=True)
    sent = result.results[0].columns
    assert {name: sent[name].dtype.str[1:] for name in ("peakSnr", "kronRad", "footprintArea_value")} == {
        "peakSnr": "f4", "kronRad": "f4", "footprintArea_value": "i4",
    }  # fmt: skip
    assert sent["kronFlux"].dtype == sent["xErr"].dtype == np.float64
    assert sum(each.nbytes for each in sent.values()) < sum(each.nbytes for each in wide[0].columns.values())


def test_few_stars_take_the_visits_zero_point(reference):
    """With a catalogue of five stars of one detector the other takes the visit's zero point; none used
    there."""
    result = bootstrap_im_char(VISIT, [0, 1], SimulatedVisit(), reference.iloc[20:26], REMOVAL, CONFIG)
    assert result.detector_figures[1]["zero_point_of_visit"]
    assert_allclose(result.detector_figures[1]["zero_point"], 31.4 - 2.5 * np.log10(SCALE), atol=0.05)
    assert not result.sources.calib_photometry_used[result.sources.detector == 1].any()


def test_an_empty_sky_is_complete_and_flagged():
    """A frame without sources gives no rows, a NO_SOURCES flag, and its exposure."""

    class Empty(SimulatedVisit):
        def read_raw(self, detector, snap):
            raw = raw_of(detector)
            rng = np.random.default_rng(3)
            raw.amplifiers["A"][...] = 900 + rng.normal(0, 3, raw.amplifiers["A"].shape)
            return raw

    config = replace(CONFIG, detection=replace(CONFIG.detection, threshold=8.0))
    data = Empty(written={})
    result = bootstrap_im_char(VISIT, [0], data, None, REMOVAL, config)
    assert len(result.sources) == 0
    SOURCE.check(result.sources)
    assert Reason.NO_SOURCES in result.outcomes[0].value
    assert 0 in data.written


def test_workers_send_no_pixels():
    """What a worker sends back is small against its detector, and can be pickled."""
    result = process_detector(0, SimulatedVisit(), REMOVAL, CONFIG)
    assert len(pickle.dumps(result)) < 0.2 * 4 * SIZE * SIZE


def test_every_option_has_a_plain_type_and_a_text():
    """Configuration holds bool, int, float, str, tuples of them or nested configurations, each described."""
    import inspect

    pending, seen = [BootstrapImCharConfig, CombineBiasConfig, CombineFlatConfig], set()
    while pending:
        kind = pending.pop()
        if kind in seen:
            continue
        seen.add(kind)
        lines = inspect.getsource(kind).splitlines()
        hints = typing.get_type_hints(kind)
        for option in dataclasses.fields(kind):
            hint = hints[option.name]
            if dataclasses.is_dataclass(hint):
                pending.append(hint)
            else:
                assert hint in (bool, int, float, str, tuple[str, ...]), (kind, option.name)
            place = next(n for n, line in enumerate(lines) if line.startswith(f"    {option.name}: "))
            assert lines[place + 1].strip().startswith('"""'), (kind, option.name)
    assert len(seen) >= 12


# ---------------------------------------------------------------- real frames

LANDOLT = {
    "d1047": [(201.414271, -8.8218948, 13.48), (201.457107, -8.8398097, 13.59), (201.460944, -8.8485167,
    13.41), (201.459079, -8.8106965, 14.00)], "d1083": [(233.294935, 5.54091675, 14.21), (233.292415,
    5.56172792, 13.71), (233.322658, 5.56277337, 12.84)],
}  # fmt: skip
"""ra, dec [deg] and V of the standard stars in two frames (Landolt 1992)."""


@pytest.fixture(scope="module")
def nickel(shared_data):
    """Camera, and the night's combined bias and flat."""
    from skyquilt.instrument.camera_yaml import load_camera
    from skyquilt.instrument.raw import read_raw

    directory = shared_data / "nickel-20240512"
    if not directory.is_dir():
        pytest.skip("the Nickel frames are not here")
    camera = load_camera("nickel")

    def reader(names):
        return lambda i: read_raw(directory / f"{names[i]}.fits.gz", camera, 0)

    biases, flats = [f"d{n}" for n in range(1001, 1011)], ["d1035", "d1036", "d1037"]
    isr = InstrumentSignatureRemovalConfig()
    bias = combine_bias(reader(biases), len(biases), CombineBiasConfig(), isr).exposure
    with_bias = DetectorCalibrations(bias=bias)
    flat = combine_flat(reader(flats), len(flats), with_bias, CombineFlatConfig(), isr).exposure
    return SimpleNamespace(camera=camera, read=lambda name: reader([name])(0), bias=bias, flat=flat)


def run_nickel(nickel, name, reference=None):
    """BootstrapImChar of one real frame."""

    class Frame:
        def snaps(self, detector):
            return [0]

        def read_raw(self, detector, snap):
            raw = nickel.read(name)
            return replace(raw, header_wcs=raw.first_wcs(nickel.camera))

        def read_calibrations(self, detector):
            return DetectorCalibrations(bias=nickel.bias, flat=nickel.flat)

        def write_exposure(self, detector, exposure):
            self.exposure = exposure

    data = Frame()
    return bootstrap_im_char(Visit(1, "V", "V"), [0], data, reference, REMOVAL, CONFIG), data.exposure


def test_real_standard_stars_agree(nickel):
    """Two fields of Landolt stars, hours apart, have the same zero point per second to 0.15 mag (airmass,
    sky)."""
    zero_points = []
    for name, stars in LANDOLT.items():
        ra, dec, magnitude = np.array(stars).T
        reference = catalogue("V", ra=ra, dec=dec, flux_V=10 ** (0.4 * (31.4 - magnitude)))
        result, exposure = run_nickel(nickel, name, reference)
        assert result.visit_figures["n_matches"] == len(stars), name
        assert result.visit_figures["zero_point_scatter"] < 0.1
        # the header's pointing is 10 to 20 arcsec off
        shift = np.hypot(result.visit_figures["astrom_offset_ra"], result.visit_figures["astrom_offset_dec"])
        assert 3 < shift < 30
        zero_points.append(
            result.visit_figures["zero_point"] - 2.5 * np.log10(exposure.info["exposure_time"])
        )
    assert abs(zero_points[0] - zero_points[1]) < 0.15


def test_real_globular_cluster_is_taken_apart(nickel):
    """M13 under 2.6 arcsec seeing gives more than a thousand sources and a PSF, where 97 % of the pixels
    are detected."""
    result, exposure = run_nickel(nickel, "d1059")
    assert len(result.sources) > 1000
    assert 0 in result.psf
    assert 2.0 < result.detector_figures[0]["seeing"] < 3.5
    assert np.isfinite(exposure.image).all()
