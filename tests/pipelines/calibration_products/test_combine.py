"""What the combinations of calibration frames share."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.algorithms.instrument_signature_removal import InstrumentSignatureRemovalConfig
from skyquilt.pipelines.calibration_products.combine import clipped_combination
from skyquilt.pipelines.calibration_products.combine_bias import CombineBiasConfig, combine_bias
from skyquilt.pipelines.calibration_products.frame_stack import FrameStore
from skyquilt.primitives.failure import ProcessingFailure, Reason

ISR = InstrumentSignatureRemovalConfig()


def plain_combination(values, expected_of, weights, clip, near_clip, reach):
    """The combination of `values` (frames, rows, columns), a pixel at a time with NumPy; mean, variance, counts."""
    _, rows, columns = values.shape
    hit = np.zeros(values.shape, bool)
    near = np.zeros(values.shape, bool)
    middles = np.full((rows, columns), np.nan)
    for j in range(rows):
        for i in range(columns):
            column = values[:, j, i]
            good = np.isfinite(column)
            if not good.any():
                continue
            order = np.flatnonzero(good)[np.argsort(column[good], kind="stable")]
            ordered, n = column[order], order.size
            votes = np.sqrt(weights[order])
            if n > 1:
                votes = np.minimum(votes, votes.sum() - votes.max())
            reached = np.cumsum(votes) / votes.sum()
            low, high = np.argmax(reached >= 0.5 - 1e-9), np.argmax(reached > 0.5 + 1e-9)
            middle = ordered[low]
            noise = expected_of(middle, j, i)[order]

            def differ(one, other, ordered=ordered, noise=noise):
                return (ordered[one] - ordered[other]) ** 2 > clip**2 * (noise[one] + noise[other])

            if high > low and not differ(high, low):
                middle = np.average(ordered[[low, high]], weights=1 / noise[[low, high]])
            if high == low and n == 3 and low == 1 and differ(1, 2) and differ(0, 1):
                middle = ordered[0]
            middles[j, i] = middle
            hit[good, j, i] = (column[good] - middle) ** 2 > clip**2 * expected_of(middle, j, i)[good]
            for k in np.flatnonzero(hit[:, j, i] & (column > middle)):
                near[k, max(j - reach, 0) : j + reach + 1, max(i - reach, 0) : i + reach + 1] = True
    mean, variance = np.full((rows, columns), np.nan), np.full((rows, columns), np.nan)
    counts = np.zeros((rows, columns), int)
    for j in range(rows):
        for i in range(columns):
            if np.isnan(middles[j, i]):
                continue
            column, expected = values[:, j, i], expected_of(middles[j, i], j, i)
            skirt = near[:, j, i] & (column - middles[j, i] > near_clip * np.sqrt(expected))
            keep = np.isfinite(column) & ~hit[:, j, i] & ~skirt
            w = weights[keep]
            counts[j, i] = keep.sum()
            mean[j, i] = np.average(column[keep], weights=w)
            variance[j, i] = (w**2 * expected[keep]).sum() / w.sum() ** 2
    return mean, variance, counts


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 6])
def test_combination_equals_a_plain_loop(rng, frames):
    """The kernel equals NumPy pixel by pixel: outliers and their skirts, missing values, pixels of no amplifier."""
    stack = rng.normal(10, 1, (frames, 9, 7)).astype(np.float32)
    stack[0, 2, 3], stack[0, 2, 4] = 100, 13.5
    stack[-1, 6, 1], stack[-1, 6, 2], stack[0, 6, 2] = 50, 90, 60
    stack[frames // 2, 1] = np.nan
    stack[:, 8, 6] = np.nan
    numbers = np.zeros((9, 7), np.int16)
    numbers[:, 5:] = 1
    numbers[0, 0] = -1
    spread = rng.uniform(0.8, 1.3, (9, 7)).astype(np.float32)
    offset, scale = rng.normal(0, 1, (frames, 2)), rng.uniform(0.5, 2, frames)
    constant, photon = rng.uniform(0.4, 0.6, (frames, 2)), rng.uniform(0.04, 0.06, (frames, 2))
    stack = (stack / scale[:, None, None] + offset[:, numbers]).astype(np.float32)
    weights = rng.uniform(0.5, 1, (frames, 2))
    mean, variance = np.empty((5, 7), np.float32), np.empty((5, 7), np.float32)
    counts, lost = np.empty((5, 7), np.int16), np.empty((5, 7), np.int16)
    values, rejected = clipped_combination(
        stack, numbers, spread, offset, scale, constant, photon, weights, 4.0, 2.0, 1, 2, 7,
        mean, variance, counts, lost,
    )  # fmt: skip
    truth = np.full((frames, 9, 7), np.nan)
    for j, i in np.argwhere(numbers >= 0):
        truth[:, j, i] = (stack[:, j, i].astype(float) - offset[:, numbers[j, i]]) * scale

    def expected_of(middle, j, i):
        a = numbers[j, i]
        return spread[j, i] * (constant[:, a] + photon[:, a] * max(middle, 0))

    by_amplifier = [plain_combination(truth, expected_of, weights[:, a], 4.0, 2.0, 1) for a in (0, 1)]
    for found, number in ((mean, 0), (variance, 1), (counts, 2)):
        wanted = np.where(numbers == 1, by_amplifier[1][number], by_amplifier[0][number])[2:7]
        assert_allclose(found, wanted, rtol=2e-6)
    finite = np.isfinite(truth[:, 2:7]).sum()
    assert values == finite
    assert rejected == lost.sum() == finite - counts.sum()


@pytest.mark.parametrize("hits", [(2, [50.0]), (3, [50.0, 900.0]), (4, [50.0, 900.0])])
def test_the_lower_value_holds_when_hits_are_half(hits):
    """One hit in two frames, two unequal ones in three or four: what is left is the unhit value."""
    frames, heights = hits
    stack = np.full((frames, 1, 1), 5.0, np.float32)
    for k, height in enumerate(heights):
        stack[k] += height
    numbers, none = np.zeros((1, 1), np.int16), np.empty((0, 0), np.float32)
    flat = np.ones((frames, 1))
    mean, variance = np.empty((1, 1), np.float32), np.empty((1, 1), np.float32)
    counts, lost = np.empty((1, 1), np.int16), np.empty((1, 1), np.int16)
    clipped_combination(
        stack, numbers, none, 0 * flat, flat[:, 0].copy(), flat, 0 * flat, flat, 5.0, 3.0, 1, 0, 1,
        mean, variance, counts, lost,
    )  # fmt: skip
    assert mean[0, 0] == 5
    assert counts[0, 0] == frames - len(heights)


def test_blocks_give_the_same_bytes(small, rng):
    """Combining in many row blocks gives what one block gives, hits at their edges too, and each frame is read once."""
    detector = small.detector()
    frames = [small.frame(detector, 0.0, 0.0, rng) for _ in range(4)]
    frames[1].amplifiers["A"][4:11, 20:23] += 200.0
    frames[1].amplifiers["A"][3:12, 19:24] += 15.0
    reads = []

    def read(i):
        reads.append(i)
        return frames[i]

    whole = combine_bias(read, 4, CombineBiasConfig(), ISR)
    parts = combine_bias(read, 4, CombineBiasConfig(max_memory=5 * 4 * 100 * 9 / 1e6), ISR)
    assert reads == 2 * [0, 1, 2, 3]
    assert whole.rejected > 21 / (4 * 8000)
    assert whole.exposure.differences(parts.exposure) == []


def test_memory_is_a_few_detectors(small, rng):
    """The peak of memory does not grow with the number of frames: the stack is as large as the options allow."""
    detector = small.detector(shape=(600, 800))
    pixels = 600 * 800

    def read(i):
        return small.frame(detector, 0.0, 0.0, np.random.default_rng(i))

    read(0)
    combine_bias(read, 3, CombineBiasConfig(), ISR)
    tracemalloc.start()
    combine_bias(read, 12, CombineBiasConfig(max_memory=1.0), ISR)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # making a frame takes 20 bytes a pixel, assembling 4 + 4 + 4, the result 12; a stack of 12 frames were 60
    assert peak < 45 * pixels + 2e6


def test_frame_store_keeps_frames(tmp_path, rng):
    """Rows and frames come back as stored, from a file that has no name; another shape is refused."""
    store = FrameStore((5, 4), tmp_path)
    frames = rng.normal(0, 1, (3, 5, 4)).astype(np.float32)
    for frame in frames:
        store.append(frame)
    assert list(tmp_path.iterdir()) == []
    assert_array_equal(store.rows([2, 0], 1, 4), frames[[2, 0], 1:4])
    store.replace(1, frames[0])
    assert_array_equal(store.frame(1), frames[0])
    with pytest.raises(ProcessingFailure) as failure:
        store.append(frames[0, :3])
    assert failure.value.reason is Reason.WRONG_SHAPE
    store.close()
