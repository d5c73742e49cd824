"""Instrument signature removal as a whole: levels, places, variances, masks, order and failures."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.instrument_signature_removal import (
    STEPS,
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
    assemble,
    calibrations,
    load_replacements,
    run_isr,
    to_electrons,
)
from skyquilt.algorithms.instrument_signature_removal.assembly import assemble_section
from skyquilt.algorithms.instrument_signature_removal.full_frame import (
    VarianceConfig,
    add_photon_noise,
    bias_gain_dark,
    divide_by_flat,
)
from skyquilt.primitives.detector_characterization import Crosstalk, Defects, Linearizer, PhotonTransfer
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

CONFIG = InstrumentSignatureRemovalConfig()
NONE = DetectorCalibrations()
SHAPE = (64, 90)


def calibration(image, variance=0.0):
    """Exposure with a clear mask."""
    image = np.asarray(image, np.float32)
    return Exposure(
        image=image, mask=Mask.blank(image.shape), variance=np.full_like(image, variance), unit="adu"
    )


def photon_transfer(names, gain, read_noise=np.nan, full_well=np.nan):
    """Component with the numbers that ISR uses."""
    n = len(names)
    full = [np.full(n, value, float) for value in (gain, 0.01, read_noise, 0.1, full_well, np.nan)]
    return PhotonTransfer(tuple(names), *full, np.zeros((n, 1)), *np.zeros((2, n, 1, 2, 2)))


def test_isr_restores_electrons_in_place(detector, raw_frame, rng):
    """Without noise every pixel of both amplifiers, one of them flipped, comes back where it was."""
    electrons = rng.uniform(100, 50000, SHAPE)
    bias, flat = rng.uniform(-20, 20, SHAPE), rng.uniform(0.8, 1.2, SHAPE)
    dark = rng.uniform(0, 2, SHAPE)
    raw = raw_frame(detector, electrons * flat + 30 * dark, rng, read_noise=1e-3, bias=bias)
    raw.info.exposure_time = 30.0
    given = DetectorCalibrations(calibration(bias), calibration(dark), calibration(flat))
    result = run_isr(raw, given, replace(CONFIG, skip=("amplifier_offsets",)))
    # float32 ADU of 3e4 are 2e-3 apart; a straight line over 51 rows leaves at most 51^2 / 12 of the drift's
    # second derivative (5 / 80^2 ADU) at the first row, times the gain and over the flat
    assert_allclose(result.exposure.image, electrons, rtol=1e-5, atol=51**2 / 12 * 5 / 80**2 * 2.0 / 0.8)
    assert not result.exposure.mask.any().any()
    assert [each.status for each in result.amplifiers] == ["good", "good"]
    assert list(result.steps) == list(STEPS)
    assert result.steps["dark"] == "done"
    assert result.steps["crosstalk"] == "no_calibration"
    assert result.steps["amplifier_offsets"] == "skipped"


def test_all_adu_steps_are_undone_backwards(detector, raw_frame, rng):
    """Nonlinear, crosstalking amplifiers with another gain than the definition's give the true electrons."""
    electrons = rng.uniform(100, 30000, SHAPE)
    names = detector.amplifier_names
    gain = 1.7
    polynomial = (1.5e-7, 0.0)
    raw = raw_frame(detector, np.zeros(SHAPE), rng, read_noise=0.0)
    levels = {}
    for amplifier in detector.amplifiers:
        linear = amplifier.from_assembled(electrons) / gain
        levels[amplifier.name] = (-1 + np.sqrt(1 + 4 * polynomial[0] * linear)) / (2 * polynomial[0])
    # read order: both read from the lower left of the stored section, B two rows later
    for name, other, coefficient in (("A", "B", 3e-4), ("B", "A", -2e-4)):
        amplifier, source = detector.amplifier(name), detector.amplifier(other)
        leak = np.zeros((80, 80))
        box = source.raw_data
        leak[box.slices()] = coefficient * levels[other]
        raw.amplifiers[name][amplifier.raw_data.slices()] += (
            levels[name] + leak[amplifier.raw_data.slices()]
        ).astype(np.float32)
    # B is stored flipped because it is read from the other corner
    corners = (
        detector.amplifiers[0],
        replace(detector.amplifiers[1], read_out="upper_right"),
    )
    raw.detector = replace(detector, amplifiers=corners)
    given = DetectorCalibrations(
        crosstalk=Crosstalk(tuple(names), np.array([[0, 3e-4], [-2e-4, 0]]), np.zeros((2, 2))),
        linearizer=Linearizer.from_polynomials(names, [polynomial] * 2, 16.0),
        photon_transfer=photon_transfer(names, gain),
    )
    result = run_isr(raw, given, replace(CONFIG, skip=("amplifier_offsets",)))
    # crosstalk is taken from stored values, that of crosstalk itself (1e-7) included; table: c2 step^2 / 4; drift as above
    allowed = gain * (51**2 / 12 * 5 / 80**2 + 20000 * 3e-4 * 2e-4 + 1.5e-7 * 16**2 / 4 + 0.01)
    assert_allclose(result.exposure.image, electrons, atol=allowed)
    assert {each.gain_source for each in result.amplifiers} == {"photon_transfer"}


def test_assemble_and_to_electrons_are_the_first_steps(detector, raw_frame, rng):
    """`assemble` gives ADU above overscan, `to_electrons` then electrons before the flat, as `run_isr` has them."""
    electrons = rng.uniform(100, 20000, SHAPE)
    raw = raw_frame(detector, electrons, rng)
    raw.info.exposure_time = 10.0
    given = DetectorCalibrations(calibration(np.full(SHAPE, 3.0)), calibration(np.full(SHAPE, 0.5)))
    frame = assemble(raw, given, CONFIG)
    assert set(frame.steps) == set(STEPS[:5])
    image = frame.image.copy()
    charge = to_electrons(raw, frame, given, CONFIG)
    assert set(charge.steps) == set(STEPS[:8])
    gains = np.where(np.arange(90) < 40, 1.5, 2.0)
    assert_allclose(charge.image, (image - 3) * gains - 5, rtol=1e-5, atol=1e-2)
    whole = run_isr(raw, given, replace(CONFIG, skip=("amplifier_offsets",))).exposure.image
    assert_array_equal(whole, charge.image)


def test_sources_of_gain_and_read_noise(detector, raw_frame, rng):
    """Gain: photon transfer where finite, else definition; read noise: overscan, photon transfer, definition."""
    raw = raw_frame(detector, np.full(SHAPE, 3000.0), rng)
    names = detector.amplifier_names
    measured = photon_transfer(names, 1.0, 4.0)
    measured.gain[1] = np.nan
    figures = run_isr(raw, DetectorCalibrations(photon_transfer=measured), CONFIG).amplifiers
    assert [(each.gain, each.gain_source) for each in figures] == [
        (1.0, "photon_transfer"),
        (2.0, "definition"),
    ]
    # 900 overscan pixels: the width is known to 2.4 %; noise was made 6 electron with the definition's gain 1.5
    assert_allclose([each.read_noise for each in figures], [6.0 / 1.5, 6.0], rtol=0.1)
    bare = replace(detector, amplifiers=tuple(replace(a, raw_overscan=None) for a in detector.amplifiers))
    raw = raw_frame(bare, np.full(SHAPE, 3000.0), rng, offset=0.0)
    assert [each.read_noise for each in run_isr(raw, NONE, CONFIG).amplifiers] == [6.0, 6.0]
    given = DetectorCalibrations(photon_transfer=measured)
    assert [each.read_noise for each in run_isr(raw, given, CONFIG).amplifiers] == [4.0, 4.0]


def test_quoted_variance_is_the_scatter(detector, raw_frame, rng):
    """Pulls of pixels with photon, read and dark noise, noisy bias, dark and flat have unit variance."""
    flat = np.linspace(0.7, 1.3, 90)[None, :] * np.ones((64, 1))
    current, time = 2.0, 20.0
    pulls = []
    for level in (50.0, 2000.0, 40000.0):
        parts = []
        for _ in range(4):
            electrons = rng.poisson(level * flat + current * time).astype(float)
            raw = raw_frame(detector, electrons, rng)
            raw.info.exposure_time = time
            given = DetectorCalibrations(
                calibration(rng.normal(0, 2.0, SHAPE), 4.0),
                calibration(rng.normal(current, 0.2, SHAPE), 0.04),
                calibration(flat + rng.normal(0, 0.004, SHAPE), 0.004**2),
            )
            config = replace(CONFIG, skip=("amplifier_offsets",))
            exposure = run_isr(raw, given, config).exposure
            parts.append((exposure.image - level) / np.sqrt(exposure.variance))
        pulls.append(np.array(parts))
    n = pulls[0].size
    # the read noise is measured from 900 pixels an amplifier: 5 % of its share (a quarter) of the variance at 50
    assert_allclose([p.var() for p in pulls], 1.0, atol=4 * np.sqrt(2 / n) + 0.015)


@pytest.mark.parametrize("sky", [10.0, 25.0, 50.0, 1000.0])
def test_sky_pulls_have_unit_width_at_low_levels(sky, rng):
    """With smoothing the width of sky pulls is within 0.98 to 1.02 from 10 electrons on; without, it is not at 10."""
    read_noise, shape = 2.0, (400, 400)
    image = (rng.poisson(sky, shape) + rng.normal(0, read_noise, shape)).astype(np.float32)
    clear = np.zeros(shape, np.int32)
    widths = {}
    for smoothing in (True, False):
        variance = np.full(shape, read_noise**2, np.float32)
        empty = np.empty((0, 0), np.float32)
        outlier = VarianceConfig().outlier
        add_photon_noise(image, clear, variance, empty, empty, 0, 1, 0.2, outlier, smoothing)
        widths[smoothing] = ((image - sky) / np.sqrt(variance)).std()
    assert 0.98 < widths[True] < 1.02
    if sky == 10:
        assert widths[False] > 1.02


def test_variance_of_a_star_is_its_own(rng):
    """In a star the mean of the quoted variance is the true one within 3 % of the peak, edges of its core included."""
    y, x = np.mgrid[:31, :31]
    truth = 100 + 20000 * np.exp(-0.5 * ((x - 15) ** 2 + (y - 15) ** 2) / 1.2**2)
    total = np.zeros(truth.shape)
    clear = np.zeros(truth.shape, np.int32)
    empty = np.empty((0, 0), np.float32)
    for _ in range(200):
        image = (rng.poisson(truth) + rng.normal(0, 5, truth.shape)).astype(np.float32)
        variance = np.full(truth.shape, 25, np.float32)
        add_photon_noise(image, clear, variance, empty, empty, 0, 1, 0.2, 3.0, True)
        total += variance / 200
    core = truth > 1000
    # 200 draws: 1 / sqrt(200 C) of the level C
    assert_allclose(total[core], truth[core] + 25, rtol=0.02)
    # summed over the star it is the sum of its photons
    assert_allclose(total.sum(), (truth + 25).sum(), rtol=5e-3)


def test_defects_do_not_reach_the_variance_of_their_neighbours(detector, raw_frame, rng):
    """Beside dead columns the quoted variance is that of the sky."""
    electrons = rng.poisson(30.0, SHAPE).astype(float)
    electrons[:, 10::3] = 0
    boxes = np.array([[x, 0, 1, 64] for x in range(10, 90, 3)], np.int32)
    defects = Defects(boxes, np.full(len(boxes), 3, np.int16), np.zeros(len(boxes)))
    result = run_isr(raw_frame(detector, electrons, rng), DetectorCalibrations(defects=defects), CONFIG)
    good = ~result.exposure.mask.any(["BAD"])
    # photons and a read noise of 6, known to 2.4 % in each amplifier
    assert_allclose(result.exposure.variance[good].mean(), 30 + 36, rtol=0.05)


def test_defects_of_the_definition_hold_without_calibrations(detector, raw_frame, rng):
    """Boxes of the camera definition are BAD in every frame, cut at the detector's edge, with found defects or not."""
    known = replace(detector, defects=(Box(80, 60, 20, 20),))
    raw = raw_frame(known, np.full(SHAPE, 30.0), rng)
    manual = np.zeros(SHAPE, bool)
    manual[60:, 80:] = True
    result = run_isr(raw, NONE, CONFIG)
    assert result.steps["defects"] == "done"
    assert_array_equal(result.exposure.mask.any(["BAD"]), manual)
    found = Defects(np.array([[-2, 3, 5, 1]], np.int32), np.zeros(1, np.int16), np.zeros(1))
    result = run_isr(raw, DetectorCalibrations(defects=found), CONFIG)
    manual[3, :3] = True
    assert_array_equal(result.exposure.mask.any(["BAD"]), manual)


def test_strips_change_no_bit(detector, raw_frame, rng, monkeypatch):
    """Calibrations asked for a few rows at a time give what they give whole, in amplifiers side by side."""
    electrons = rng.uniform(100, 50000, SHAPE)
    bias = calibration(rng.uniform(-20, 20, SHAPE), 2.0)
    flat = calibration(rng.uniform(0.1, 1.2, SHAPE), 1e-4)
    bias.mask.set(["BAD"], rng.uniform(size=SHAPE) < 0.05)
    raw = raw_frame(detector, electrons, rng)
    whole = run_isr(raw, DetectorCalibrations(bias, flat=flat), CONFIG).exposure
    monkeypatch.setattr(calibrations, "ROWS", 7)
    asked = []

    @dataclass
    class Rows:
        pixels: Exposure

        def __post_init__(self):
            self.box = self.pixels.box

        def subimage(self, box):
            asked.append(box.ny)
            return self.pixels.subimage(box)

    parts = run_isr(raw, DetectorCalibrations(Rows(bias), flat=Rows(flat)), CONFIG).exposure
    assert max(asked) == 7
    assert sum(asked) == 2 * 64
    assert whole.differences(parts) == []


def test_pixels_of_no_amplifier_are_nan(detector, raw_frame, rng):
    """Where no amplifier reads, image and variance are NaN and the mask says so."""
    raw = raw_frame(detector, np.full(SHAPE, 1000.0), rng)
    raw.detector = replace(detector, amplifiers=detector.amplifiers[:1])
    exposure = run_isr(raw, NONE, CONFIG).exposure
    for plane in (exposure.image, exposure.variance):
        assert np.isnan(plane[:, 40:]).all()
        assert np.isfinite(plane[:, :40]).all()
    assert_array_equal(exposure.mask.any(["NO_DATA"]).all(axis=0), np.arange(90) >= 40)


def test_flags_of_pixels(detector, raw_frame, rng):
    """Non-finite, saturated, suspect, badly flat-fielded, vignetted and defective pixels carry their planes."""
    electrons = np.full(SHAPE, 1000.0)
    electrons[20, 20] = 70000 * 1.5
    electrons[40, 20] = 57500 * 1.5
    flat = np.ones(SHAPE)
    flat[5, 5], flat[6, 70], flat[7, 70] = 0.1, 0.5, np.nan
    raw = raw_frame(detector, electrons, rng)
    raw.amplifiers["A"][50, 13] = np.nan
    defects = Defects(
        np.array([[60, 30, 1, 3], [88, 60, 9, 9]], np.int32), np.zeros(2, np.int16), np.zeros(2)
    )
    result = run_isr(raw, DetectorCalibrations(flat=calibration(flat), defects=defects), CONFIG)
    mask = result.exposure.mask
    expected = np.zeros(SHAPE, bool)
    expected[19:22, 19:22] = True
    assert_array_equal(mask.any(["SATURATED"]), expected)
    assert_array_equal(np.argwhere(mask.any(["SUSPECT"])), [[40, 20]])
    assert_array_equal(np.argwhere(mask.any(["NO_DATA"])), [[50, 10]])
    bad = np.zeros(SHAPE, bool)
    bad[[5, 7, 50], [5, 70, 10]] = True
    bad[30:33, 60] = True
    bad[60:, 88:] = True
    assert_array_equal(mask.any(["BAD"]), bad)
    assert_array_equal(np.argwhere(mask.any(["VIGNETTED"])), [[6, 70]])
    assert_array_equal(mask.any(["INTERPOLATED"]), bad & ~mask.any(["NO_DATA"]))
    assert np.isnan(result.exposure.image[50, 10])
    assert_allclose(result.exposure.image[30:33, 60], 1000, atol=5 * np.sqrt(1036))


def test_suspect_above_the_range_of_measured_linearity(detector, raw_frame, rng):
    """Levels above those of the flats are SUSPECT, unless that is switched off."""
    electrons = np.full(SHAPE, 1000.0)
    electrons[10, 10] = 30000 * 1.5
    raw = raw_frame(detector, electrons, rng)
    table = Linearizer.from_polynomials(detector.amplifier_names, [(1e-8,)] * 2)
    measured = replace(table, measured=(True, True), largest=np.array([25000.0, 25000.0]))
    given = DetectorCalibrations(linearizer=measured)
    assert_array_equal(np.argwhere(run_isr(raw, given, CONFIG).exposure.mask.any(["SUSPECT"])), [[10, 10]])
    off = replace(CONFIG, saturation=replace(CONFIG.saturation, suspect_beyond_linearity=False))
    assert not run_isr(raw, given, off).exposure.mask.any(["SUSPECT"]).any()


@pytest.mark.parametrize("kind", ["nan", "constant", "absent"])
def test_a_lost_amplifier_does_not_stop_the_rest(detector, raw_frame, rng, kind):
    """An amplifier that is all NaN, constant or absent is masked; the other one is as before."""
    raw = raw_frame(detector, np.full(SHAPE, 1000.0), rng)
    config = replace(CONFIG, skip=("amplifier_offsets",))
    before = run_isr(raw, NONE, config).exposure
    if kind == "absent":
        del raw.amplifiers["A"]
    else:
        raw.amplifiers["A"][...] = np.nan if kind == "nan" else 0.0
    names = detector.amplifier_names
    given = DetectorCalibrations(crosstalk=Crosstalk(tuple(names), np.zeros((2, 2)), np.zeros((2, 2))))
    result = run_isr(raw, given, config)
    assert result.exposure.mask.all(["BAD", "NO_DATA"])[:, :40].all()
    assert np.isnan(result.exposure.image[:, :40]).all()
    assert np.isnan(result.exposure.variance[:, :40]).all()
    assert_array_equal(result.exposure.image[:, 40:], before.image[:, 40:])
    assert result.amplifiers[0].status == ("dead" if kind == "constant" else "no_data")


def test_frames_without_hope_have_reasons(detector, raw_frame, rng):
    """All amplifiers lost, most pixels saturated, a required calibration missing, one that does not fit, no time for
    the dark: the reason says so."""
    raw = raw_frame(detector, np.full(SHAPE, 1000.0), rng)
    nan = replace_amplifiers(raw, np.nan)
    full = replace_amplifiers(raw, 65535.0)
    short = replace_amplifiers(raw, 1000.0)
    short.amplifiers["B"] = short.amplifiers["B"][:-1]
    wrong = calibration(np.zeros((64, 80)))
    other = photon_transfer(["A", "C"], 1.0)
    cases = [
        (nan, NONE, CONFIG, Reason.NO_GOOD_PIXELS),
        (full, NONE, CONFIG, Reason.SATURATED_FRAME),
        (short, NONE, CONFIG, Reason.WRONG_SHAPE),
        (raw, NONE, replace(CONFIG, require=("bias",)), Reason.NO_CALIBRATION),
        (raw, DetectorCalibrations(dark=calibration(np.zeros(SHAPE))), CONFIG, Reason.BAD_HEADER),
        (raw, DetectorCalibrations(photon_transfer=other), CONFIG, Reason.WRONG_SHAPE),
    ]
    for kind in ("bias", "dark", "flat", "fringe"):
        cases.append((raw, DetectorCalibrations(**{kind: wrong}), CONFIG, Reason.WRONG_SHAPE))
    for frame, given, config, reason in cases:
        with pytest.raises(ProcessingFailure) as failure:
            run_isr(frame, given, config)
        assert failure.value.reason is reason


def replace_amplifiers(raw, value):
    """The same frame with one value everywhere."""
    changed = type(raw)(**vars(raw))
    changed.amplifiers = {name: np.full_like(section, value) for name, section in raw.amplifiers.items()}
    return changed


def test_skipped_and_fast(detector, raw_frame, rng):
    """A skipped step leaves its effect in; the fast mode leaves out what `fast_skip` names besides."""
    raw = raw_frame(detector, np.full(SHAPE, 1000.0), rng)
    given = DetectorCalibrations(flat=calibration(np.full(SHAPE, 0.5)))
    skipped = run_isr(raw, given, replace(CONFIG, skip=("flat",)))
    done = run_isr(raw, given, CONFIG)
    assert_allclose(np.median(done.exposure.image) / np.median(skipped.exposure.image), 2.0, rtol=1e-3)
    assert skipped.steps["flat"] == "skipped"
    fast = run_isr(raw, given, replace(CONFIG, fast_skip=("flat",)), "fast")
    assert_array_equal(
        fast.exposure.image, run_isr(raw, given, replace(CONFIG, skip=("flat",))).exposure.image
    )
    with pytest.raises(ValueError, match="quick"):
        run_isr(raw, given, CONFIG, "quick")


STEP = """
import numpy as np

class Halve:
    def __call__(self, state):
        response = np.full(state.image.shape, 0.25, np.float32)
        state.image /= response
        state.response = response

number = 3
class Fixed:
    pass
"""


def test_a_user_replaces_a_step(detector, raw_frame, rng, tmp_path):
    """A class of a file in the survey directory is called at the step's place, and the manifest can say so."""
    (tmp_path / "my_steps.py").write_text(STEP)
    config = replace(CONFIG, replace={"flat": "my_steps.py:Halve"})
    raw = raw_frame(detector, np.full(SHAPE, 1000.0), rng)
    loaded = load_replacements(config.replace, tmp_path)
    result = run_isr(raw, NONE, config, replacements=loaded)
    by_flat = run_isr(raw, DetectorCalibrations(flat=calibration(np.full(SHAPE, 0.25))), CONFIG)
    assert result.steps["flat"] == "replaced"
    assert_array_equal(result.exposure.image, by_flat.exposure.image)
    assert_array_equal(result.exposure.variance, by_flat.exposure.variance)
    with pytest.raises(ValueError, match="not loaded"):
        run_isr(raw, NONE, config)


@pytest.mark.parametrize("step", [step for step in STEPS if step != "assembly"])
def test_every_step_can_be_skipped_and_replaced(detector, raw_frame, rng, step):
    """Each step is called once when replaced, never when skipped, with a state that has image and mask."""
    raw = raw_frame(detector, np.full(SHAPE, 1000.0), rng)
    calls = []
    replaced = replace(CONFIG, replace={step: "any.py:Thing"})
    result = run_isr(raw, NONE, replaced, replacements={step: lambda state: calls.append(state.image.shape)})
    assert calls == [SHAPE]
    assert result.steps[step] == "replaced"
    assert run_isr(raw, NONE, replace(CONFIG, skip=(step,))).steps[step] == "skipped"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my_steps.py", "FILE.py:CLASS"),
        ("other.py:Halve", "no file"),
        ("my_steps.py:Double", "no class"),
        ("my_steps.py:number", "no class"),
        ("my_steps.py:Fixed", "cannot be called"),
    ],
)
def test_wrong_replacements_are_refused(tmp_path, text, message):
    """A file, class or object that cannot do the step is named before any work."""
    (tmp_path / "my_steps.py").write_text(STEP)
    with pytest.raises(ValueError, match=message):
        load_replacements({"flat": text}, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"skip": ("flats",)},
        {"fast_skip": ("",)},
        {"replace": {"dork": "a.py:B"}},
        {"require": ("biases",)},
        {"skip": ("assembly",)},
    ],
)
def test_names_in_the_configuration_are_checked(wrong):
    """Steps and kinds that do not exist are refused."""
    with pytest.raises(ValueError, match=r"step|calibration"):
        InstrumentSignatureRemovalConfig(**wrong)


def test_pixel_kernels_equal_plain_loops(rng):
    """Assembly, full-frame corrections and the variance equal their Python twins."""
    section = rng.uniform(0, 70000, (6, 5)).astype(np.float32)
    section[2, 2] = np.nan
    columns = rng.normal(size=5).astype(np.float32)
    arguments = (section, np.arange(6.0), columns, 60000.0, 50000.0, 55000.0, 45000.0, 3, 4, 8)
    results = []
    for function in (assemble_section, assemble_section.py_func):
        image, mask = np.zeros((6, 5), np.float32), np.zeros((6, 5), np.int32)
        results.append((function(*arguments, image, mask), image, mask))
    for one, other in zip(*results):
        assert_allclose(one, other, rtol=1e-6)
    planes = [rng.uniform(0.1, 1.2, (6, 5)).astype(np.float32) for _ in range(4)]
    planes[0][1, 1] = np.nan
    results = []
    for compiled in (True, False):
        image, mask, variance = section.copy(), np.zeros((6, 5), np.int32), np.empty_like(section)
        for function, given in (
            (bias_gain_dark, (image, mask, variance, *planes, 1.5, 6.0, 30.0, 1)),
            (divide_by_flat, (image, mask, planes[0], np.float32(0.2), np.float32(0.6), 1, 2)),
            (
                add_photon_noise,
                (
                    image,
                    mask,
                    variance[1:],
                    planes[0][1:],
                    planes[1][1:],
                    1,
                    1,
                    np.float32(0.2),
                    np.float32(3),
                    True,
                ),
            ),
        ):
            (function if compiled else function.py_func)(*given)
        results.append((image, mask, variance))
    for one, other in zip(*results):
        assert_allclose(one, other, rtol=1e-5)
