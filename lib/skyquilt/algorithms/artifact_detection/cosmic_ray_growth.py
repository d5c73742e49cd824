"""Single-Exposure Morphology (LDM-151 8.2.1): single pixels beside their clean neighbours; growth and sums of events.

Arrays are those of `cosmic_ray_kernels`.
"""

from __future__ import annotations

import numpy as np

from skyquilt.algorithms.artifact_detection.cosmic_ray_kernels import PLANES, SKY, between
from skyquilt.primitives.compiled import kernel


@kernel(
    f"Tuple((float64, float64, float64))({PLANES}, float64, float64, const(uint8[:, ::1]),"
    " const(float64[::1]), float64, int64, int64)"
)
def pixel_excess(image, variance, unusable, sky, least, hit, factors, model_error, y, x):
    """Excess of a pixel over what its clean neighbours allow, the noise of that, and the pixel's own noise.

    The limit is the mean over pairs of opposite neighbours, both usable and not hit, of the pair's mean times
    its factor, weighted for least noise. Without such a pair: the mean of all clean neighbours times the larger
    factor if all of them are empty sky (below 3 sigma); else the noise is infinite.
    """
    rows, columns = image.shape
    total = 0.0
    limit = 0.0
    noise = 0.0
    allowed = 0.0
    lone = 0
    lone_sum = 0.0
    brightest = -np.inf
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        c = factors[1] if dy != 0 and dx != 0 else factors[0]
        clean = 0
        pair = 0.0
        extra = 0.0
        for sign in (-1, 1):
            j, i = y + sign * dy, x + sign * dx
            if j < 0 or i < 0 or j >= rows or i >= columns or unusable[j, i] or hit[j, i]:
                continue
            clean += 1
            pair += image[j, i] - sky
            brightest = max(brightest, image[j, i] - sky)
            extra += max(variance[j, i] - least, 0.0)
        lone += clean
        lone_sum += pair
        if clean == 2:
            share = 1.0 / (c * c)
            total += share
            limit += share * c * 0.5 * pair
            allowed += share * c * 0.5 * extra
            noise += share * share * c * c * 0.25 * (2 * least + extra + (model_error * pair) ** 2)
    if total > 0:
        limit /= total
        allowed /= total
        noise /= total * total
    elif lone > 0 and brightest < 3 * np.sqrt(least):
        limit = factors[1] * lone_sum / lone
        noise = factors[1] ** 2 * least / lone
    else:
        return 0.0, np.inf, np.sqrt(max(np.float64(variance[y, x]), least))
    value = image[y, x] - sky
    extra = max(variance[y, x] - least, 0.0)
    own = least + min(extra, allowed + max(extra - allowed, 0.0) / 3)
    return value - limit, np.sqrt(own + noise + (model_error * value) ** 2), np.sqrt(own)


@kernel(
    f"int64({PLANES}, {SKY}, const(int64[::1]), const(float64[::1]), float64, float64, float64,"
    " const(boolean[:, :]), uint8[:, ::1])"
)
def judge_incomplete(
    image,
    variance,
    unusable,
    level,
    floor,
    block,
    places,
    factors,
    sharper,
    stronger,
    model_error,
    full,
    hit,
):
    """Mark places whose stamp (7 x 7) is incomplete by `pixel_excess`; how many.

    Places next to a pixel that is unusable because it is `full` are passed over: charge that bled out of a
    saturated star is as sharp as a hit.
    """
    rows, columns = image.shape
    n_marked = 0
    for place in places:
        y, x = place // columns, place % columns
        bled = False
        incomplete = y < 3 or x < 3 or y >= rows - 3 or x >= columns - 3
        for j in range(max(y - 3, 0), min(y + 4, rows)):
            for i in range(max(x - 3, 0), min(x + 4, columns)):
                if unusable[j, i]:
                    incomplete = True
                    if full[j, i] and abs(j - y) <= 1 and abs(i - x) <= 1:
                        bled = True
        if bled or not incomplete:
            continue
        sky = between(level, block, y, x)
        least = between(floor, block, y, x)
        excess, noise, own = pixel_excess(
            image, variance, unusable, sky, least, hit, factors, model_error, y, x
        )
        if excess > sharper * noise and image[y, x] - sky > stronger * own:
            hit[y, x] = 1
            n_marked += 1
    return n_marked


@kernel(
    f"int64({PLANES}, {SKY}, const(float64[::1]), float64, float64, float64, uint8[:, ::1], int64[::1], int64)"
)
def grow(image, variance, unusable, level, floor, block, factors, near, far, model_error, hit, queue, n):
    """Follow hits into their neighbours, with lower thresholds; the number of hit pixels, all in `queue`.

    A neighbour is hit when it exceeds by `near` sigma what its clean neighbours allow (`far` sigma two pixels
    away, where a track may have a gap, and in the light of a source), or when six of the eight around it are hit
    and it is above `near` sigma of the sky.
    """
    rows, columns = image.shape
    k = 0
    while k < n:
        y, x = queue[k] // columns, queue[k] % columns
        k += 1
        sky = between(level, block, y, x)
        least = between(floor, block, y, x)
        for j in range(max(y - 2, 0), min(y + 3, rows)):
            for i in range(max(x - 2, 0), min(x + 3, columns)):
                if hit[j, i] or unusable[j, i]:
                    continue
                beside = abs(j - y) <= 1 and abs(i - x) <= 1
                threshold = near if beside else far
                value = image[j, i] - sky
                if not value > threshold * np.sqrt(least):
                    continue
                excess, noise, own = pixel_excess(
                    image, variance, unusable, sky, least, hit, factors, model_error, j, i
                )
                # in the light of a source a neighbour has to be as clear as a pixel far away
                lit = value - excess > 3 * np.sqrt(least)
                marked = excess > (far if lit else threshold) * noise
                if not marked and beside:
                    around = 0
                    for jj in range(max(j - 1, 0), min(j + 2, rows)):
                        for ii in range(max(i - 1, 0), min(i + 2, columns)):
                            around += hit[jj, ii]
                    marked = around >= 6 and value > near * own
                if marked and n < queue.size:
                    hit[j, i] = 1
                    queue[n] = j * columns + i
                    n += 1
    return n


@kernel(
    f"int64({PLANES}, {SKY}, const(uint8[:, ::1]), const(int64[::1]), int32[::1], int64[::1], float64[:, ::1])"
)
def gather_events(image, variance, unusable, level, floor, block, hit, pixels, event, stack, sums):
    """Number hit pixels by connected event (8 neighbours, ascending) and sum over them; how many events.

    Parameters
    ----------
    pixels : int64, shape (n,)
        Flat indices of the hit pixels, ascending.
    event : int32, shape (n,)
        -1; filled with the number of the event, from 0.
    stack : int64, shape (n,)
        Scratch.
    sums : float64, shape (n, 6)
        Zero; filled per event with charge, positive charge times x and y, largest charge of a pixel, pixels,
        positive charge. Charge is what lies above the mean of the clean neighbours, or above the sky where there are none.
    """
    rows, columns = image.shape
    n_events = 0
    for first in range(pixels.size):
        if event[first] >= 0:
            continue
        event[first] = n_events
        stack[0] = first
        depth = 1
        while depth > 0:
            depth -= 1
            place = pixels[stack[depth]]
            y, x = place // columns, place % columns
            sky = between(level, block, y, x)
            clean = 0
            around = 0.0
            for j in range(max(y - 1, 0), min(y + 2, rows)):
                for i in range(max(x - 1, 0), min(x + 2, columns)):
                    if hit[j, i]:
                        other = np.searchsorted(pixels, np.int64(j * columns + i))
                        if event[other] < 0:
                            event[other] = n_events
                            stack[depth] = other
                            depth += 1
                    elif not unusable[j, i]:
                        clean += 1
                        around += image[j, i] - sky
            charge = image[y, x] - sky
            if clean > 0:
                charge -= around / clean
            sums[n_events, 0] += charge
            sums[n_events, 1] += max(charge, 0.0) * x
            sums[n_events, 2] += max(charge, 0.0) * y
            sums[n_events, 3] = max(sums[n_events, 3], charge)
            sums[n_events, 4] += 1
            sums[n_events, 5] += max(charge, 0.0)
        n_events += 1
    return n_events
