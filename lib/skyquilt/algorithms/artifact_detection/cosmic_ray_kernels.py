"""Single-Exposure Morphology (LDM-151 8.2.1): the compiled passes of the search for cosmic rays.

`level` and `floor` are the sky's level and variance on a grid of blocks (shape (m, n), nodes in the middle of
blocks of `block` pixels), interpolated linearly. Flat indices count pixels row by row. `hit` is 0 or 1.

Without the hit the noise of its pixels would be less than the variance plane says, as that counts the charge of
the hit itself. The test of a pixel therefore takes what the neighbours allow a scene to have there, plus a third
of the rest: P(X > mean + d) <= exp(-d^2 / 2 (variance + d / 3)) for counts (Bernstein), which is the tail of the
Poisson distribution, longer than a Gaussian's.
"""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel
from skyquilt.primitives.statistics import select_kth

PLANES = "const(float32[:, :]), const(float32[:, :]), const(boolean[:, :])"
SKY = "const(float64[:, ::1]), const(float64[:, ::1]), int64"


@kernel(f"void({PLANES}, int64, int64, float64[:, ::1], float64[:, ::1], float64[:, ::1])")
def sky_blocks(image, variance, unusable, block, stride, level, width, floor):
    """Level and width of the sky and its median variance in blocks, from every `stride`-th pixel and row.

    Low quantiles throughout, which sources hardly move: the width from the difference of each pixel of the sample
    to the next in its row, the level from the lower quartile. NaN where fewer than 32 pixels of the sample are
    usable.
    """
    rows, columns = image.shape
    side = block // stride + 1
    values = np.empty(side * side, np.float32)
    steps = np.empty(side * side, np.float32)
    noise = np.empty(side * side, np.float32)
    for m in range(level.shape[0]):
        for n in range(level.shape[1]):
            count = 0
            for j in range(m * block, min((m + 1) * block, rows), stride):
                for i in range(n * block, min((n + 1) * block, columns - 1), stride):
                    if unusable[j, i] or unusable[j, i + 1] or not variance[j, i] > 0:
                        continue
                    step = abs(image[j, i + 1] - image[j, i])
                    if np.isfinite(step):
                        values[count] = image[j, i]
                        steps[count] = step
                        noise[count] = variance[j, i]
                        count += 1
            if count < 32:
                level[m, n] = np.nan
                width[m, n] = np.nan
                floor[m, n] = np.nan
                continue
            # a third of the differences of normal values lie within 0.430727 sqrt(2) sigma
            width[m, n] = select_kth(steps, count, count // 3) / 0.609140
            level[m, n] = select_kth(values, count, count // 4) + 0.674490 * width[m, n]
            floor[m, n] = select_kth(noise, count, count // 3)


@kernel("float64(const(float64[:, ::1]), int64, int64, int64)")
def between(grid, block, j, i):
    """Value of a grid of blocks at pixel (j, i), linear between the middles of blocks."""
    y = min(max((j + 0.5) / block - 0.5, 0.0), grid.shape[0] - 1.0)
    x = min(max((i + 0.5) / block - 0.5, 0.0), grid.shape[1] - 1.0)
    m = min(np.int64(y), max(grid.shape[0] - 2, 0))
    n = min(np.int64(x), max(grid.shape[1] - 2, 0))
    above = min(m + 1, grid.shape[0] - 1)
    right = min(n + 1, grid.shape[1] - 1)
    fy = y - m
    fx = x - n
    return (1 - fy) * ((1 - fx) * grid[m, n] + fx * grid[m, right]) + fy * (
        (1 - fx) * grid[above, n] + fx * grid[above, right]
    )


@kernel(f"int64({PLANES}, {SKY}, float64, const(float64[::1]), int64[::1])")
def candidates(image, variance, unusable, level, floor, block, threshold, factors, found):
    """Flat indices of pixels above `threshold` sigma of their noise that exceed a pair of opposite neighbours.

    Returns how many there are; only as many as `found` holds are written.
    """
    rows, columns = image.shape
    count = 0
    straight = 0.5 * factors[0]
    diagonal = 0.5 * factors[1]
    base = np.empty(columns, np.float32)
    least = np.empty(columns, np.float32)
    square = threshold * threshold
    for j in range(rows):
        for i in range(columns):
            # the sky changes slowly: one value for 8 pixels
            if i % 8 == 0:
                sky = between(level, block, j, min(i + 4, columns - 1))
                noise = between(floor, block, j, min(i + 4, columns - 1))
                for k in range(i, min(i + 8, columns)):
                    base[k] = sky
                    least[k] = noise
        for i in range(columns):
            value = image[j, i] - base[i]
            # written so that NaN fails
            if not (value > 0 and value * value > square * least[i]) or unusable[j, i]:
                continue
            if not value * value > square * (2 * least[i] + max(variance[j, i], least[i])) / 3:
                continue
            if 0 < j < rows - 1 and 0 < i < columns - 1:
                b = base[i]
                if (
                    value <= straight * (image[j, i - 1] + image[j, i + 1] - 2 * b)
                    and value <= straight * (image[j - 1, i] + image[j + 1, i] - 2 * b)
                    and value <= diagonal * (image[j - 1, i - 1] + image[j + 1, i + 1] - 2 * b)
                    and value <= diagonal * (image[j - 1, i + 1] + image[j + 1, i - 1] - 2 * b)
                ):
                    continue
            if count < found.size:
                found[count] = j * columns + i
            count += 1
    return count


@kernel("float64(const(float64[::1]), int64, float64[::1], float64, float64)")
def smooth_light(value, side, lowest, flank, sigma):
    """Light that a stamp has everywhere and that no source in its middle brings: galaxies, wings of stars.

    From the fourth lowest pixel of the border, less what a point source in the middle of the middle's brightness
    has there (`flank` of its peak); a fifth is left. Among crowded stars and where dust dims it, the sky's level is
    above what the gaps have, and a filter that light does not excite responds to the lack of it. So where the
    lowest third of the border is lower than noise of `sigma` makes it, all of the lack is given, and a source in
    the middle is allowed for. `lowest` (8 values) is scratch.
    """
    lowest[:] = np.inf
    for j in range(side):
        for i in range(side):
            if 0 < j < side - 1 and 0 < i < side - 1:
                continue
            here = value[j * side + i]
            if here >= lowest[7]:
                continue
            k = 7
            while k > 0 and lowest[k - 1] > here:
                lowest[k] = lowest[k - 1]
                k -= 1
            lowest[k] = here
    middle = value[(side * side) // 2]
    # the mean of the lowest 8 of 24 normal values is -1.05 +- 0.27 sigma
    lack = lowest.mean() + 1.05 * sigma
    if lack < -0.5 * sigma:
        return lack - flank * flank * max(middle - lack, 0.0)
    return max(0.8 * (lowest[3] - flank * max(middle, 0.0)) / (1 - flank), 0.0)


@kernel(
    "void(const(float32[:, :]), float64, float64, const(float32[:, ::1]), float64, int64, int64, uint8[:, ::1])"
)
def mark_shape(image, sky, least, shape, amplitude, y, x, hit):
    """Mark pixels where a shape at (y, x) with this peak brings 1.7 sigma.

    They have to be 2 sigma above the sky, and to hold a third of what the shape brings: what holds less is
    beside a hit of another shape.
    """
    half = shape.shape[0] // 2
    for j in range(shape.shape[0]):
        for i in range(shape.shape[1]):
            charge = amplitude * shape[j, i]
            if not (charge > 0 and charge * charge > 2.9 * least and shape[j, i] > 0.2):
                continue
            value = image[y - half + j, x - half + i] - sky
            if value > 0.3 * charge and value * value > 4 * least:
                hit[y - half + j, x - half + i] = 1


@kernel(
    f"int64({PLANES}, {SKY}, const(int64[::1]), const(float32[:, :, ::1]), const(float32[:, :, ::1]),"
    " float64, float64, float64, float64, float64, uint8[:, ::1], float64[::1], int64[::1], float64[::1])"
)
def judge(
    image,
    variance,
    unusable,
    level,
    floor,
    block,
    places,
    shapes,
    weights,
    sharper,
    weak,
    stronger,
    model_error,
    flank,
    hit,
    response_at,
    shape_at,
    amplitude_at,
):
    """Try every shape at every place and mark the pixels of the best where it is significant; how many are.

    A shape is there when its filter responds above `sharper` sigma, which no scene explains, and the charge in
    it is above `stronger` sigma, which noise rarely does, times the root of |h|: shapes of many pixels are so
    bright anyway where their peak is, and would let in most of the noise. In the light of sources the charge that
    light does not explain has to be as strong. `mark_shape` marks it. Places whose
    stamp is not all usable are left to `pixel_excess`. Where the best response is above `weak` sigma, and the
    charge as strong, `response_at` has it [sigma], `shape_at` the shape and `amplitude_at` its peak; else
    0, -1 and 0.
    """
    rows, columns = image.shape
    half = weights.shape[1] // 2
    side = weights.shape[1]
    size = side * side
    n_shapes = weights.shape[0]
    flat_weights = weights.reshape(n_shapes, size)
    flat_shapes = shapes.reshape(n_shapes, size)
    value = np.empty(size)
    excess = np.empty(size)
    lowest = np.empty(8)
    amplitude = 0.0
    responses = np.empty(n_shapes)
    by_pixel = np.empty((size, n_shapes))
    power = np.zeros(n_shapes)
    gain = np.zeros(n_shapes)
    norm = np.zeros(n_shapes)
    for s in range(n_shapes):
        for k in range(size):
            gain[s] += flat_weights[s, k] * flat_shapes[s, k]
            norm[s] += flat_shapes[s, k] ** 2
            power[s] += flat_weights[s, k] ** 2
            by_pixel[k, s] = flat_weights[s, k]
        # S/N of a shape whose peak pixel is worth 1
        norm[s] = np.sqrt(norm[s])
    n_marked = 0
    for p in range(places.size):
        response_at[p] = 0.0
        amplitude_at[p] = 0.0
        shape_at[p] = -1
        y, x = places[p] // columns, places[p] % columns
        if y < half or x < half or y >= rows - half or x >= columns - half:
            continue
        sky = between(level, block, y, x)
        least = between(floor, block, y, x)
        usable = True
        k = 0
        for j in range(y - half, y + half + 1):
            for i in range(x - half, x + half + 1):
                if unusable[j, i]:
                    usable = False
                value[k] = image[j, i] - sky
                excess[k] = max(variance[j, i] - least, 0.0)
                k += 1
        if not usable:
            continue
        smooth = smooth_light(value, side, lowest, flank, np.sqrt(least))
        for k in range(size):
            value[k] -= smooth
        # beside a much brighter pixel, with light on the other side: not the flank of a track but of a star, and
        # a shape about it would fit the other's charge; left to `grow`
        middle = value[size // 2]
        brightest = middle
        opposite = 0.0
        for j in range(-1, 2):
            for i in range(-1, 2):
                if value[size // 2 + j * side + i] > brightest:
                    brightest = value[size // 2 + j * side + i]
                    opposite = value[size // 2 - j * side - i]
        if brightest > 3 * middle and opposite > 2 * np.sqrt(least):
            continue
        best = weak
        chosen = -1
        # over shapes inside, so that the sums are vectors
        responses[:] = 0.0
        for k in range(size):
            for s in range(n_shapes):
                responses[s] += by_pixel[k, s] * value[k]
        for s in range(n_shapes):
            response = responses[s]
            if response <= 0.0 or response * response <= best * best * least * power[s]:
                continue
            around = 0.0
            inside = 0.0
            for k in range(size):
                w = np.float64(flat_weights[s, k])
                if w < 0:
                    around -= w * excess[k]
                else:
                    inside += w
            allowed = around / inside
            noise = 0.0
            charge = 0.0
            spread = 0.0
            for k in range(size):
                w = np.float64(flat_weights[s, k])
                e = excess[k]
                if w > 0:
                    e = min(e, allowed + max(e - allowed, 0.0) / 3)
                error = least + e + (model_error * value[k]) ** 2
                noise += w * w * error
                h = np.float64(flat_shapes[s, k])
                charge += h * value[k]
                spread += h * h * error
            significance = response / np.sqrt(noise)
            strong = stronger * np.sqrt(norm[s] * spread)
            own = norm[s] * norm[s] * response / gain[s]
            lit = charge - own > 2 * np.sqrt(spread)
            if significance > best and charge > strong and (own > strong or not lit):
                best = significance
                chosen = s
                amplitude = response / gain[s]
        if chosen < 0:
            continue
        response_at[p] = best
        amplitude_at[p] = amplitude
        shape_at[p] = chosen
        if best > sharper:
            n_marked += 1
            mark_shape(image, sky + smooth, least, shapes[chosen], amplitude, y, x, hit)
    return n_marked


@kernel(
    f"int64({PLANES}, {SKY}, const(int64[::1]), const(float64[::1]), const(int64[::1]),"
    " const(float64[::1]), const(float32[:, :, ::1]), float64, int64[::1], uint8[:, ::1])"
)
def link_weak(
    image,
    variance,
    unusable,
    level,
    floor,
    block,
    places,
    response,
    shape,
    amplitude,
    shapes,
    together,
    stack,
    hit,
):
    """Mark chains of places, each too weak alone, that are significant together; how many chains.

    Places (ascending flat indices) within 2 pixels of each other make a chain. Of a chain the strongest places
    that are at least 3 pixels apart have independent noise: n of them with responses r are significant when
    sum(r) / sqrt(n) is above `together`, for n = 2 or more. `stack` (one per place) is scratch.
    """
    rows, columns = image.shape
    n_chains = 0
    seen = np.zeros(places.size, np.uint8)
    for first in range(places.size):
        if seen[first]:
            continue
        seen[first] = 1
        stack[0] = first
        n = 1
        k = 0
        while k < n:
            y, x = places[stack[k]] // columns, places[stack[k]] % columns
            k += 1
            for j in range(max(y - 2, 0), min(y + 3, rows)):
                low = np.searchsorted(places, np.int64(j * columns + max(x - 2, 0)))
                while low < places.size and places[low] <= j * columns + min(x + 2, columns - 1):
                    if not seen[low]:
                        seen[low] = 1
                        stack[n] = low
                        n += 1
                    low += 1
        if n < 2:
            continue
        members = stack[:n][np.argsort(-response[stack[:n]], kind="mergesort")]
        chosen = np.empty(n, np.int64)
        count = 0
        total = 0.0
        significant = False
        for m in members:
            y, x = places[m] // columns, places[m] % columns
            apart = True
            for c in chosen[:count]:
                if max(abs(places[c] // columns - y), abs(places[c] % columns - x)) < 3:
                    apart = False
                    break
            if apart:
                chosen[count] = m
                count += 1
                total += response[m]
                if count > 1 and total > together * np.sqrt(count):
                    significant = True
                    break
        if significant:
            n_chains += 1
            for m in members:
                y, x = places[m] // columns, places[m] % columns
                sky = between(level, block, y, x)
                least = between(floor, block, y, x)
                mark_shape(image, sky, least, shapes[shape[m]], amplitude[m], y, x, hit)
    return n_chains
