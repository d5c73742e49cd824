"""Charged particles: their number, directions, charge, spread, and what the truth says of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.simulation.detector_effects import (
    DetectorEffectsConfig,
    add_cosmic_rays,
    collect,
    true_detector,
)
from skyquilt.simulation.detector_effects.cosmic_rays import (
    ELECTRONS_PER_MICRON,
    LEAST_ELECTRONS,
    add_deposit,
    muon_track,
    spread_charge,
    worm_track,
)

CONFIG = DetectorEffectsConfig.none(cosmic_rays=2.0)


def test_particles_come_in_the_number_asked_for(rng):
    """Their mean number is rate times area times time; each is a hit, and charge is the sum of hits."""
    charge = np.zeros((256, 256), dtype=np.float32)
    # 0.0655 cm^2 at 10 micron: 1500 s make 3.3 particles of 2 per cm^2 and minute
    hits = [add_cosmic_rays(CONFIG, rng, charge, 10.0, 1500.0) for _ in range(100)]
    n = sum(len(h) for h in hits)
    expected = 100 * 2.0 * (256 * 10e-4) ** 2 * 25
    assert abs(n - expected) < 4 * np.sqrt(expected)
    total = np.zeros(charge.shape)
    for hit in (h for some in hits for h in some):
        np.add.at(total, (hit.y, hit.x), hit.electrons)
        assert hit.electrons.min() >= LEAST_ELECTRONS
    difference = charge - total
    # below an electron per pixel of every particle, beyond single precision of what is there
    assert difference.min() > -1e-3 * charge.max()
    assert difference.sum() < 0.01 * charge.sum()


def test_muons_come_from_everywhere_and_leave_80_electrons_per_micron(rng):
    """cos^2 of the zenith angle is uniform, so that spots and long tracks occur; charge follows the way's length."""
    thickness = CONFIG.silicon_thickness
    tracks = [muon_track(CONFIG, rng, 1000, 1000, 10.0) for _ in range(1500)]
    length = np.array([10 * np.hypot(t.x[-1] - t.x[0], t.y[-1] - t.y[0]) for t in tracks])
    n_points = np.array([t.x.size for t in tracks])
    # the way between the middles of the first and last step
    across = length * n_points / (n_points - 1)
    way = np.hypot(across, thickness)
    square_cosine = (thickness / way) ** 2
    ranks = np.sort(square_cosine)
    # Kolmogorov-Smirnov at 1e-4
    assert np.abs(ranks - np.arange(1, 1501) / 1500).max() < 2.2 / np.sqrt(1500)
    charge = np.array([t.electrons.sum() for t in tracks])
    per_micron = charge / way
    assert abs(np.mean(per_micron) / ELECTRONS_PER_MICRON - 1) < 4 * np.std(per_micron) / 80 / np.sqrt(1500)
    assert 0.03 < np.std(per_micron) / 80 < 0.3
    # to the high side: Landau's tail
    assert np.mean((per_micron - per_micron.mean()) ** 3) > 0
    assert (across < 20).mean() > 0.03
    assert (across > 500).mean() > 0.02
    angles = np.array([np.arctan2(t.y[-1] - t.y[0], t.x[-1] - t.x[0]) for t in tracks])
    assert abs(np.exp(1j * angles).mean()) < 4 / np.sqrt(1500)


def test_tracks_are_sharp_at_one_end(rng):
    """Charge spreads by its depth: from the narrowest at the gates to the whole diffusion at the far side."""
    track = muon_track(CONFIG, rng, 100, 100, 10.0)
    assert track.width[0] < 0.12
    assert_allclose(track.width[-1], 0.4, rtol=0.06)
    assert (np.diff(track.width) >= 0).all()


def test_worms_are_faint_or_curl(rng):
    """Slow electrons leave between 300 and 60000 electrons, the most on ways that bend."""
    tracks = [worm_track(CONFIG, rng, 100, 100, 10.0) for _ in range(300)]
    charge = np.array([t.electrons.sum() for t in tracks])
    assert (charge.min() >= 300) & (charge.max() <= 60000)
    assert (charge < 2000).mean() > 0.2
    long = [t for t in tracks if t.x.size > 40]
    straight = [np.hypot(t.x[-1] - t.x[0], t.y[-1] - t.y[0]) / (0.5 * (t.x.size - 1)) for t in long]
    assert np.median(straight) < 0.9


def test_spreading_keeps_charge_and_is_its_plain_twin(rng):
    """All charge of a cloud comes into the pixels within the cut of four widths; loops and compiled code agree."""
    pixels = np.zeros((20, 24), dtype=np.float32)
    x, y = rng.uniform(8, 14, 5), rng.uniform(8, 12, 5)
    electrons, width = rng.uniform(100, 1000, 5), rng.uniform(0.4, 0.6, 5)
    spread_charge(pixels, x, y, electrons, width)
    assert_allclose(pixels.sum(dtype=float), electrons.sum(), rtol=3e-4)
    twin = np.zeros_like(pixels)
    spread_charge.py_func(twin, x, y, electrons, width)
    assert_allclose(pixels, twin, rtol=1e-6, atol=1e-6)
    # the middle of charge is the clouds'
    columns = (pixels * np.arange(24)).sum() / pixels.sum()
    assert_allclose(columns, (electrons * x).sum() / electrons.sum(), atol=1e-3)


def test_particles_at_edges_are_cut(rng):
    """A track that leaves the detector leaves its charge there only as far as it is inside."""
    track = muon_track(CONFIG, rng, 1, 1, 10.0)
    charge = np.zeros((3, 3), dtype=np.float32)
    add_deposit(charge, track)
    assert 0 < charge.sum() < track.electrons.sum()


@pytest.mark.parametrize("seed", [1, 2])
def test_truth_names_pixels_and_noise(camera, seed):
    """Events of a frame hold every pixel that differs from the same frame without particles, and their S/N."""
    detector = camera.detectors[0]
    zero = np.zeros((detector.ny, detector.nx))
    config = DetectorEffectsConfig.none(cosmic_rays=3000.0, dark_current=0.5)
    truth = true_detector(config, seed, detector, zero, zero)
    level = zero + 400.0
    collected = collect(truth, level, 60.0)
    assert len(collected.events) > 20
    rest = collected.charge - (level + 60 * truth.dark)
    named = np.zeros(level.shape)
    for event in collected.events:
        assert event.kind == "cosmic_ray"
        np.add.at(named, (event.y, event.x), event.electrons)
        peak = np.argmax(event.electrons)
        y, x = event.y[peak], event.x[peak]
        # 6 e of read noise, no scatter
        noise = np.sqrt(400 + 60 * truth.dark[y, x] + 36)
        assert_allclose(event.peak_snr, event.electrons[peak] / noise, rtol=1e-6)
    assert (rest[named == 0] < 5).all()
    assert_allclose(rest[named > 20], named[named > 20], rtol=0.1)
    assert [event.event for event in collected.events] == list(range(len(collected.events)))
