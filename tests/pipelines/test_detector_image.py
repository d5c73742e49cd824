"""From snaps to the image of a detector: known stars, hits and a trail in simulated raw frames of two amplifiers."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import erf

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
)
from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.pipelines.detector_image import DetectorImageConfig, SignatureRemoval, detector_image
from skyquilt.pipelines.visit_files import visit_files
from skyquilt.primitives.exposure import Exposure
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

SIZE, OVERSCAN, GAIN, NOISE, SKY, SIGMA = 320, 20, 1.6, 5.0, 150.0, 1.9
"""Side and columns of overscan [pixel], electrons per ADU, read noise and sky [electron], width of stars [pixel]."""
HALF = SIZE // 2
HITS = [(40, 52), (90, 200), (131, 277), (201, 33), (247, 161), (288, 290)]
"""x, y of charge of 900 electrons in a pixel and 400 in the next, in snap 0."""
CONFIG = DetectorImageConfig()
REMOVAL = SignatureRemoval(InstrumentSignatureRemovalConfig(skip=("amplifier_offsets",)))


def amplifier(name, x0):
    """One half of the detector, in an extension of its own."""
    return Amplifier(
        name, name, Box(0, 0, HALF + OVERSCAN, SIZE), Box(0, 0, HALF, SIZE), None, Box(HALF, 0, OVERSCAN, SIZE), None,
        Box(x0, 0, HALF, SIZE), False, False, GAIN, NOISE, 60000.0,
    )  # fmt: skip


DETECTOR = Detector(
    3, "D3", "science", SIZE, SIZE, 0.01, (0.0, 0.0), 0.0, (amplifier("L", 0), amplifier("R", HALF))
)


def stars():
    """x, y [pixel] and electrons of stars on a jittered grid, away from the hits' places by their number only."""
    rng = np.random.default_rng(7)
    centre = (np.arange(5) + 0.5) * 64
    x, y = (v.ravel() + rng.uniform(-4, 4, 25) for v in np.meshgrid(centre, centre))
    return x, y, 10 ** rng.uniform(3.5, 4.8, 25)


def light():
    """Mean electrons of sky and stars."""
    image = np.full((SIZE, SIZE), SKY)
    pixels = np.arange(SIZE + 1) - 0.5
    for x, y, flux in zip(*stars()):
        along = [0.5 * np.diff(erf((pixels - c) / (2**0.5 * SIGMA))) for c in (y, x)]
        image += flux * np.outer(*along)
    return image


def trail(brightness):
    """A line of Gaussian profile across the detector, brightness in its middle [electron per pixel]."""
    y, x = np.mgrid[:SIZE, :SIZE]
    across = (x - 30 - 0.7 * y) / np.hypot(1, 0.7)
    return brightness * np.exp(-0.5 * (across / 2.0) ** 2)


def raw_snap(snap, extra=0.0):
    """Raw frame of a snap; hits in the first one only."""
    rng = np.random.default_rng([11, snap])
    charge = rng.poisson(light() + extra).astype(float)
    if snap == 0:
        for x, y in HITS:
            charge[y, x] += 900
            charge[y, x + 1] += 400
    sections = {}
    for each in DETECTOR.amplifiers:
        section = np.full((SIZE, HALF + OVERSCAN), 1000.0)
        section[:, :HALF] += charge[each.data.slices()] / GAIN
        sections[each.name] = (section + rng.normal(0, NOISE / GAIN, section.shape)).astype(np.float32)
    info = SimpleNamespace(visit=1, snap=snap, datetime_mid=60000.0 + snap / 1000, exposure_time=15.0)
    return SimpleNamespace(detector=DETECTOR, info=info, amplifiers=sections, header_wcs=None, absent={})


def plane(value, unit):
    ones = np.ones((SIZE, SIZE), np.float32)
    return Exposure(ones * np.float32(value), Mask.blank((SIZE, SIZE)), ones * np.float32(1e-6), unit=unit)


CALIBRATIONS = DetectorCalibrations(bias=plane(0, "adu"), flat=plane(1, ""))


@dataclass
class Snaps:
    """VisitData of one detector: two snaps, some of them lost, or without an amplifier, or with more light."""

    lost: tuple = ()
    without: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)
    calibrations: DetectorCalibrations = CALIBRATIONS

    def snaps(self, detector):
        """Two."""
        return [0, 1]

    def read_raw(self, detector, snap):
        """Simulated frame."""
        if snap in self.lost:
            raise ProcessingFailure(Reason.UNREADABLE_FILE, f"{snap}.fits: truncated")
        raw = raw_snap(snap, self.extra.get(snap, 0.0))
        if name := self.without.get(snap):
            del raw.amplifiers[name]
            raw.absent[name] = f"{snap}.fits: no extension {name!r}"
        return raw

    def read_calibrations(self, detector):
        """Flat response."""
        return self.calibrations


def hit_pixels():
    where = np.zeros((SIZE, SIZE), bool)
    for x, y in HITS:
        where[y, x : x + 2] = True
    return where


def pulls(exposure, expected, where):
    return (exposure.image[where] - expected[where]) / np.sqrt(exposure.variance[where])


def assert_unit_pulls(exposure, expected, where):
    """Mean 0 and width 1 within 5 standard errors, and the common level of an overscan of 17 columns."""
    found = pulls(exposure, expected, where)
    n = found.size
    assert abs(found.mean()) < 5 / np.sqrt(n) + 0.02
    assert found.std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * n) + 0.01)


def test_two_snaps_are_added_and_repair_each_other():
    """Hits of one snap are found and filled from the other: the sum has the light of both, and no flag."""
    image = detector_image(3, Snaps(), REMOVAL, CONFIG)
    exposure, expected = image.exposure, 2 * light()
    assert image.flags == ()
    assert image.detail == ""
    assert "missing" not in image.figures
    assert image.figures["n_snaps"] == 2
    assert image.figures["cosmic_rays"][0] == len(HITS)
    assert image.figures["cosmic_rays"][1] <= 1
    assert image.figures["trails"] == [0, 0]
    assert exposure.info["exposure_time"] == 30.0
    # what is left of a hit would be 40 sigma; two filled pixels of twelve beyond 3 sigma are one in a thousand
    assert np.abs(pulls(exposure, expected, hit_pixels())).max() < 5
    assert not exposure.mask.any(["COSMIC_RAY"]).any()
    assert_unit_pulls(exposure, expected, ~hit_pixels())


def test_one_snap_alone_stands_for_the_visit():
    """The other cannot be read: flagged, said, the exposure time is one snap's, hits are marked and interpolated."""
    image = detector_image(3, Snaps(lost=(1,)), REMOVAL, CONFIG)
    exposure, expected = image.exposure, light()
    assert image.flags == (Reason.SNAP_MISSING,)
    assert image.detail == "snap 1: unreadable_file, 1.fits: truncated"
    assert image.figures["missing"] == image.detail
    assert image.figures["n_snaps"] == 1
    assert image.figures["snaps"] == [0]
    assert image.figures["cosmic_rays"] == [len(HITS)]
    assert exposure.info["exposure_time"] == 15.0
    hit = exposure.mask.any(["COSMIC_RAY"])
    assert hit[hit_pixels()].all()
    assert hit.sum() <= 2 * hit_pixels().sum()
    assert exposure.mask.any(["INTERPOLATED"])[hit].all()
    # interpolated from neighbours at 1 to 2 pixels: noise of its own and of the sky's level, no charge of the hit
    assert np.abs(exposure.image[hit_pixels()] - expected[hit_pixels()]).max() < 0.1 * 400 + 5 * 13
    assert_unit_pulls(exposure, expected, ~hit)


def test_no_star_is_hit():
    """Within 2 pixels of a star's middle nothing is marked, in one snap or two."""
    y, x = np.mgrid[:SIZE, :SIZE]
    cores = np.zeros((SIZE, SIZE), bool)
    for xs, ys, _ in zip(*stars()):
        cores |= np.hypot(x - xs, y - ys) < 2
    for data in (Snaps(lost=(0,)), Snaps()):
        image = detector_image(3, data, REMOVAL, CONFIG)
        assert not image.exposure.mask.any(["COSMIC_RAY", "STREAK"])[cores].any()


def test_without_any_snap_the_first_reason_is_raised():
    """Nothing to work with: the detector fails as its first snap did."""
    with pytest.raises(ProcessingFailure, match=r"unreadable_file: 0\.fits"):
        detector_image(3, Snaps(lost=(0, 1)), REMOVAL, CONFIG)


@pytest.mark.parametrize("lost", [(), (1,)])
def test_an_absent_amplifier_is_flagged_and_the_other_is_whole(lost):
    """Its pixels are BAD and NO_DATA, also where the other snap has them; its neighbour's pixels are as ever."""
    image = detector_image(3, Snaps(lost=lost, without={0: "R"}), REMOVAL, CONFIG)
    exposure = image.exposure
    assert image.flags == (Reason.AMPLIFIER_MISSING, *([Reason.SNAP_MISSING] if lost else []))
    assert image.detail.startswith("snap 0: amplifier R is absent, 0.fits: no extension 'R'")
    right = np.zeros((SIZE, SIZE), bool)
    right[:, HALF:] = True
    for name in ("BAD", "NO_DATA"):
        assert (exposure.mask.any([name]) == right).all()
    left = ~right & ~exposure.mask.any(["COSMIC_RAY"])
    assert_unit_pulls(exposure, light() * (1 if lost else 2), left)
    if not lost:
        # the right half is the other snap's, scaled: usable by whoever knows
        assert np.isfinite(exposure.image[right]).all()


def test_a_trail_of_one_snap_is_filled_from_the_other():
    """Found and counted in its snap; in the sum no light of it is left."""
    bright = trail(60.0)
    image = detector_image(3, Snaps(extra={1: bright}), REMOVAL, CONFIG)
    assert image.figures["trails"] == [0, 1]
    core = bright > 6.0
    assert not image.exposure.mask.any(["STREAK"])[core].any()
    # 60 electrons in a pixel would be 3.4 sigma on average over the middle of the trail
    assert abs(pulls(image.exposure, 2 * light(), bright > 40).mean()) < 0.15


def test_a_trail_of_the_only_snap_is_masked():
    """With one snap the trail's pixels are STREAK, and counted in the share."""
    bright = trail(60.0)
    image = detector_image(3, Snaps(lost=(0,), extra={1: bright}), REMOVAL, CONFIG)
    masked = image.exposure.mask.any(["STREAK"])
    assert image.figures["trails"] == [1]
    assert masked[bright > 10].mean() > 0.9
    assert image.figures["fraction_streak"] == pytest.approx(masked.mean())
    assert masked.mean() < 3 * (bright > 6).mean()


def test_snaps_may_be_looked_at_alone():
    """Without subtraction each snap's hits are found by their shape, and the sum is the same."""
    image = detector_image(3, Snaps(), REMOVAL, replace(CONFIG, subtract_snaps=False))
    assert image.figures["cosmic_rays"][0] == len(HITS)
    assert np.abs(pulls(image.exposure, 2 * light(), hit_pixels())).max() < 5


def test_missing_calibrations_are_flagged_before_a_missing_snap():
    """What concerns all pixels stands first; the steps say what was left out."""
    data = Snaps(lost=(1,), calibrations=DetectorCalibrations())
    image = detector_image(3, data, REMOVAL, CONFIG)
    assert image.flags == (Reason.NO_CALIBRATION, Reason.SNAP_MISSING)
    assert image.figures["isr_steps"]["flat"] == "no_calibration"
    assert image.figures["isr_steps"]["overscan"] == "done"
    assert image.figures["gain_source"] == {"L": "definition", "R": "definition"}


def test_a_snap_that_only_other_detectors_have_is_missing(tmp_path):
    """Whether ingest never saw the file or set it aside: the detector has both snaps, one with a reason."""
    frames = [
        {"detector": d, "snap": s, "path": f"{s}_{d}.fits", "reason": "", "detail": ""}
        for d, s in ((0, 0), (0, 1), (1, 1))
    ]
    entry = {"frames": frames, "excluded_amplifiers": {}, "calibrations": {}}
    data = visit_files(entry, None, tmp_path, {})
    assert data.snaps(0) == data.snaps(1) == [0, 1]
    with pytest.raises(ProcessingFailure, match="missing_file: ingest found no usable file of this snap"):
        data.read_raw(1, 0)
    assert [frame["path"] for frame in data.frames[0]] == ["0_0.fits", "1_0.fits"]
