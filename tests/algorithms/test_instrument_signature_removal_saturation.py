"""Saturated and bled pixels against a truth that spills charge down columns."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skyquilt.algorithms.instrument_signature_removal import (
    DetectorCalibrations,
    InstrumentSignatureRemovalConfig,
    assemble,
)
from skyquilt.algorithms.instrument_signature_removal.saturation import (
    SaturationConfig,
    find_plateaus,
    mark_bleeds,
    mark_near,
    mark_trails,
)
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.mask import Mask

SHAPE = (300, 200)
SATURATION = 60000.0
DEFAULT = SaturationConfig()


def spill(charge, full_well):
    """Move the surplus of every pixel to the nearest room in its column, half each way; where it went."""
    charge, bled = charge.copy(), np.zeros(charge.shape, bool)
    saturated = charge >= full_well
    ny = charge.shape[0]
    for i in np.flatnonzero(saturated.any(axis=0)):
        surplus = np.maximum(charge[:, i] - full_well[:, i], 0)
        charge[:, i] -= surplus
        for j in np.flatnonzero(surplus):
            for step in (-1, 1):
                rest, k = 0.5 * surplus[j], j + step
                while rest > 0 and 0 <= k < ny:
                    moved = min(rest, full_well[k, i] - charge[k, i])
                    charge[k, i] += moved
                    bled[k, i] |= moved > 0
                    rest -= moved
                    k += step
    return charge, saturated | bled


def field(rng, n_stars=12, brightest=3e7):
    """Electrons of a field with stars of which many saturate."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = np.full(SHAPE, 300.0)
    for flux in np.geomspace(1e4, brightest, n_stars):
        r = np.hypot(x - rng.uniform(10, 190), y - rng.uniform(10, 290))
        light += flux * 2.5 / (np.pi * 2.0**2) * 0.6 * (1 + (r / 2.0) ** 2) ** -3.0
    return light


def marked(image, detector, config=DEFAULT, level=SATURATION, seeds=None):
    """Mask after steps 1 to 5 on ADU above bias."""
    mask = Mask.blank(image.shape)
    seeds = image >= level if seeds is None else seeds
    mask.set(["SATURATED"], seeds)
    levels = np.full(len(detector.amplifiers), level)
    mark_trails(image.astype(np.float32), mask, detector, levels, int(seeds.sum()), config)
    return mask.any(["SATURATED"])


def two_amplifiers(detector):
    """Amplifiers one above the other, so that trails cross from one to the other."""
    first, second = detector.amplifiers
    half = SHAPE[0] // 2
    boxes = Box(0, 0, SHAPE[1], half), Box(0, half, SHAPE[1], half)
    raw = Box(0, 0, SHAPE[1], half)
    parts = [
        replace(each, data=box, raw_data=raw, raw_section=raw, raw_overscan=None)
        for each, box in zip((first, second), boxes)
    ]
    return replace(detector, nx=SHAPE[1], ny=SHAPE[0], amplifiers=tuple(parts))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("scatter", [0.0, 0.05])
def test_saturated_and_bled_pixels_are_covered(detector, seed, scatter):
    """99.5 % of saturated and bled pixels are marked, full wells differing from pixel to pixel, and few others."""
    rng = np.random.default_rng(seed)
    detector = two_amplifiers(detector)
    light = rng.poisson(field(rng)).astype(float)
    full_well = 61000 * (1 + scatter * np.clip(rng.normal(size=SHAPE), -3, 3))
    charge, truth = spill(light, full_well)
    found = marked(charge + rng.normal(0, 5, SHAPE), detector)
    assert truth.sum() > 300
    assert (found & truth).sum() >= 0.995 * truth.sum()
    # grown by a pixel a trail is three columns wide; cores gain their rim
    assert (found & ~truth).sum() < 3.0 * truth.sum()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_full_wells_below_the_known_limit(detector, seed):
    """Trails of full wells at 60 % of the saturation level are found by their plateaus, or by the photon transfer."""
    rng = np.random.default_rng(seed)
    detector = two_amplifiers(detector)
    full_well = 36000 * (1 + 0.02 * np.clip(rng.normal(size=SHAPE), -3, 3))
    charge, truth = spill(rng.poisson(field(rng)).astype(float), full_well)
    by_plateau = marked(charge, detector)
    assert (by_plateau & truth).sum() >= 0.995 * truth.sum()
    by_level = marked(charge, detector, level=0.95 * 36000)
    assert (by_level & truth).sum() >= 0.995 * truth.sum()


def test_unsaturated_fields_and_flats_are_left_alone(detector):
    """Stars below full well, an extended object, and flats with noise and gradients give no SATURATED pixel."""
    rng = np.random.default_rng(5)
    detector = two_amplifiers(detector)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    galaxy = 45000 * np.exp(-np.hypot((x - 100) / 8.0, (y - 150) / 25.0))
    round_object = 50000 * np.exp(-0.5 * ((x - 60) ** 2 + (y - 80) ** 2) / 15.0**2)
    stars = np.zeros(SHAPE)
    for fwhm in np.linspace(2, 6, 9):
        centre = rng.uniform(20, 180), rng.uniform(20, 280)
        sigma = fwhm / 2.355
        stars = np.maximum(
            stars, 50000 * np.exp(-0.5 * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / sigma**2)
        )
    for truth in (galaxy, round_object, stars, 40000 * (1 + 0.1 * y / 300), np.full(SHAPE, 50000.0)):
        assert not marked(rng.poisson(truth + 100).astype(float), detector).any()


def test_trails_at_the_edge_spread_along_it(detector):
    """Charge that runs along the first rows from the end of a trail is marked; a star beside it is not."""
    rng = np.random.default_rng(6)
    detector = two_amplifiers(detector)
    image = rng.normal(300, 20, SHAPE)
    image[:120, 80] = 61000
    image[:3, 50:130] += 2000
    image[150:153, 20:23] += 5000
    found = marked(image, detector)
    assert found[:120, 80].all()
    assert found[:3, 50:130].mean() > 0.99
    assert not found[140:160, 10:30].any()
    assert not marked(image, detector, SaturationConfig(edge_rows=0))[:3, 50:75].any()


def test_full_well_of_the_photon_transfer_saturates(detector, raw_frame, rng):
    """Pixels above the measured full well are SATURATED although the converter had room."""
    electrons = np.full((64, 90), 1000.0)
    electrons[20, 20] = 45000
    raw = raw_frame(detector, electrons, rng)
    numbers = SimpleNamespace(
        amplifiers=tuple(detector.amplifier_names),
        gain=np.full(2, np.nan),
        read_noise=np.full(2, np.nan),
        full_well=np.full(2, 44000.0),
    )
    config = InstrumentSignatureRemovalConfig(saturation=SaturationConfig(grow=0))
    mask = assemble(raw, DetectorCalibrations(photon_transfer=numbers), config).mask
    assert_array_equal(np.argwhere(mask.any(["SATURATED"])), [[20, 20]])
    assert not assemble(raw, DetectorCalibrations(), config).mask.any(["SATURATED"]).any()


def test_kernels_equal_their_python_twins(rng):
    """Trails, plateaus and growth are the same compiled and plain; growth is the dilation by a square."""
    image = rng.uniform(0, 70000, (40, 30)).astype(np.float32)
    image[5:25, 7] = 40000
    mask = np.where(image > 65000, 4, 0).astype(np.int32)
    boxes = np.array([[0, 0, 30, 20], [0, 20, 30, 40]], np.int64)
    levels = np.array([60000.0, 50000.0])
    for function, arguments in (
        (mark_bleeds, (boxes, levels, 0.6, 2, 4)),
        (find_plateaus, (20000.0, 10, 4)),
        (mark_near, None),
    ):
        one, other = mask.copy(), mask.copy()
        if arguments is None:
            function(one, 4, 4, 2), function.py_func(other, 4, 4, 2)
        else:
            assert function(image, one, *arguments) == function.py_func(image, other, *arguments)
        assert_array_equal(one, other)
    padded = np.pad(mask, 2)
    twin = np.zeros_like(mask)
    for j in range(5):
        for i in range(5):
            twin |= padded[j : j + 40, i : i + 30]
    assert_array_equal(one, twin)


@pytest.mark.parametrize("wrong", [{"suspect_fraction": 0.0}, {"grow": -1}, {"full_well_fraction": 1.5}])
def test_options_are_checked(wrong):
    """Options outside their range are refused."""
    with pytest.raises(ValueError, match="saturation"):
        SaturationConfig(**wrong)
