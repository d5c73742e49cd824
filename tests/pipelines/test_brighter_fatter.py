"""Brighter-fatter kernel: from flats in which charge moves the boundaries of pixels step by step."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.algorithms.instrument_signature_removal import covariances_of_kernel
from skyquilt.pipelines.calibration_products.brighter_fatter import (
    area_changes,
    brighter_fatter_figures,
    measure_brighter_fatter,
    significance,
    with_power_law,
)
from skyquilt.pipelines.calibration_products.covariance_fit import folded
from skyquilt.pipelines.calibration_products.pair_covariances import pair_statistics
from skyquilt.pipelines.calibration_products.photon_transfer import MeasurePhotonTransferConfig
from skyquilt.primitives.detector_characterization import PhotonTransfer

STEPS, SIDE, REACH, LAGS, NOISE = 6, 160, 7, 5, 5.0
CONFIG = MeasurePhotonTransferConfig(lags=LAGS)
LEVELS = np.linspace(8000.0, 80000.0, 8)


def boundary_shifts(strength=4e-7):
    """Shift of right and of upper pixel boundaries by one electron in the middle pixel, towards it [pixel].

    The field falls with the distance to a power that no pipeline knows, and is stronger along columns.
    """
    along = np.arange(2 * REACH + 2) - REACH - 0.5
    across = np.arange(2 * REACH + 1) - REACH
    x, y = np.meshgrid(along, across)
    right = -strength * x / np.hypot(x, y) ** 3.3
    return right, 1.3 * right.T


def area_truth():
    """Change of area of the pixel at each lag by one electron [1 / electron], (rows, columns) from 0."""
    right, upper = boundary_shifts()
    return (np.diff(right, axis=1) + np.diff(upper, axis=0))[REACH:, REACH:]


def make_flat(level, rng, strength=1.0):
    """Flat of photons that arrive in steps; in each the areas are those of the charge gathered before."""
    kernel = strength * folded(area_truth())
    padded = np.zeros((SIDE, SIDE))
    padded[: kernel.shape[0], : kernel.shape[1]] = kernel
    transform = np.fft.rfft2(np.roll(padded, (-REACH, -REACH), (0, 1)))
    charge = np.zeros((SIDE, SIDE))
    for _ in range(STEPS):
        area = 1 + np.fft.irfft2(np.fft.rfft2(charge) * transform, s=charge.shape)
        charge += rng.poisson(level / STEPS * area)
    return (charge + NOISE * rng.normal(size=charge.shape)).astype(np.float32)


def make_transfer(rng, n=2, strengths=None):
    """PhotonTransfer of n amplifiers, gain 1, from pairs of such flats."""
    shape = (n, LEVELS.size, LAGS, LAGS)
    covariances, errors = np.empty(shape), np.empty(shape)
    levels = np.empty(shape[:2])
    for number in range(n):
        strength = 1.0 if strengths is None else strengths[number]
        for k, level in enumerate(LEVELS):
            first, second = (make_flat(level, rng, strength) for _ in range(2))
            one = pair_statistics(first, second, np.ones(first.shape, bool), LAGS, 5.0, 64)
            levels[number, k], covariances[number, k], errors[number, k] = (
                one.level,
                one.covariances,
                one.errors,
            )
    per_amplifier = {
        "gain": np.ones(n),
        "gain_error": np.full(n, 0.003),
        "read_noise": np.full(n, NOISE),
        "read_noise_error": np.full(n, 0.02),
        "full_well": np.full(n, np.nan),
        "a00": np.full(n, -1e-6),
    }
    names = tuple(f"A{k}" for k in range(n))
    return PhotonTransfer(
        amplifiers=names, levels=levels, covariances=covariances, covariance_errors=errors, **per_amplifier
    )


def make_detector(transfer):
    return SimpleNamespace(amplifier_names=list(transfer.amplifiers))


@pytest.fixture(scope="module")
def transfer():
    """Two amplifiers of one sensor."""
    return make_transfer(np.random.default_rng(1), 3)


def test_area_changes_have_honest_errors(transfer):
    """a_ij agree with the truth of the simulation, with pulls of unit width; so does their mean."""
    changes = area_changes(transfer, CONFIG)
    # charge gathered in K steps saw, on average, 1 - 1 / K of what it would see if it came bit by bit
    truth = area_truth()[:LAGS, :LAGS] * (1 - 1 / STEPS)
    pulls = (changes.a - truth) / changes.errors
    # at these levels 2 a mu is 0.3: steps differ from the continuous solution in the second order, 2 % of a_00
    pulls[:, 0, 0] = (changes.a - truth)[:, 0, 0] / np.hypot(changes.errors[:, 0, 0], 0.02 * truth[0, 0])
    assert_allclose(pulls.std(), 1.0, atol=4 / np.sqrt(2 * pulls.size))
    assert np.abs(pulls).max() < 4.5
    assert np.abs((changes.mean - truth) / changes.mean_errors)[0, 1:].max() < 4.5
    assert changes.chi_square < 3
    assert significance(changes) > 20


def test_the_kernels_laplacian_is_the_area_change(transfer):
    """L K of the correction's own definition gives back what charge does to the areas of its neighbours."""
    found = measure_brighter_fatter(transfer, make_detector(transfer), CONFIG)
    truth = area_truth() * (1 - 1 / STEPS)
    middle = found.kernel.shape[1] // 2 + 1
    made = covariances_of_kernel(found.kernel[0])[middle:, middle:]
    errors = area_changes(transfer, CONFIG).mean_errors
    # the kernel of finite size moves the far field of a charge to its edge: 5 % of a_00 at most
    assert abs(made[0, 0] / truth[0, 0] - 1) < 0.05
    assert abs(made[0, 1] - truth[0, 1]) < 4 * errors[0, 1] + 0.05 * truth[0, 1]
    assert abs(made[1, 0] - truth[1, 0]) < 4 * errors[1, 0] + 0.05 * truth[1, 0]
    assert made[1, 0] > made[0, 1], "stronger along columns"
    assert_allclose(found.kernel[0], found.kernel[1])
    assert_allclose(found.kernel[0], found.kernel[0][::-1, ::-1], atol=1e-12)
    assert 0.8 < found.level_correction[0] <= 1.0


def test_the_power_law_brings_far_lags_nearer_to_the_truth():
    """Over draws of noise the far lags have a smaller error after than before, and near ones are untouched."""
    truth = area_truth()[:6, :6]
    errors = np.full(truth.shape, 1.5e-8)
    before, after = [], []
    for seed in range(20):
        noisy = truth + errors * np.random.default_rng(seed).normal(size=truth.shape)
        smooth = with_power_law(noisy, errors, 2)
        near = np.hypot(*np.mgrid[:6, :6]) < 2
        assert_allclose(smooth[near], noisy[near])
        before.append(((noisy - truth)[~near] ** 2).mean())
        after.append(((smooth - truth)[~near] ** 2).mean())
    assert np.mean(after) < 0.3 * np.mean(before)


def test_no_kernel_without_the_effect():
    """Flats of independent pixels make no kernel, and the figures say why."""
    without = make_transfer(np.random.default_rng(2), 1, strengths=[0.0])
    assert measure_brighter_fatter(without, make_detector(without), CONFIG) is None
    figures = brighter_fatter_figures(without, None, CONFIG)
    assert figures["status"] == "not_significant"
    assert figures["significance"] < figures["significance_needed"]
    assert abs(figures["sum"]) < 4 * figures["sum_error"]


def test_no_kernel_without_levels(transfer):
    """A photon transfer without a fit of covariances has no kernel; nor has one of few levels."""
    for poor in (
        replace(transfer, a00=np.full(3, np.nan)),
        replace(transfer, levels=np.where(np.arange(8) < 3, transfer.levels, np.nan)),
    ):
        assert measure_brighter_fatter(poor, make_detector(poor), CONFIG) is None
        assert brighter_fatter_figures(poor, None, CONFIG)["status"] == "too_few_inputs"


def test_amplifiers_that_disagree_have_their_own(transfer):
    """An amplifier whose effect is half as strong gets a kernel of its own; one that was not measured the mean."""
    weak = make_transfer(np.random.default_rng(3), 1, strengths=[0.5])
    joined = {
        name: np.concatenate([getattr(transfer, name), getattr(weak, name)])
        for name in ("gain", "gain_error", "read_noise", "read_noise_error", "full_well", "a00")
    }
    joined |= {
        name: np.concatenate([getattr(transfer, name), getattr(weak, name)])
        for name in ("levels", "covariances", "covariance_errors")
    }
    joined["a00"][0] = np.nan
    both = PhotonTransfer(amplifiers=("A", "B", "C", "D"), **joined)
    found = measure_brighter_fatter(both, make_detector(both), CONFIG)
    centre = found.kernel.shape[1] // 2
    strength = found.kernel[:, centre, centre]
    assert strength[3] / strength[1] == pytest.approx(0.5, rel=0.1)
    assert strength[3] < strength[0] < strength[1]
    assert len(brighter_fatter_figures(both, found, CONFIG)["kernel"]) == found.kernel.shape[1]
