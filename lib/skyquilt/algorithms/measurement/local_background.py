"""Local background (LDM-151 8.6.2.4, 8.7): mean of the undetected pixels in an annulus around each source."""

from __future__ import annotations

import numpy as np

from skyquilt.primitives.compiled import kernel


@kernel(
    "void(const(float32[:, :]), const(float32[:, :]), const(boolean[:, :]), const(float64[:]), "
    "const(float64[:]), "
    "float64, float64, int64, float64[:], float64[:])"
)
def annulus_means(image, variance, excluded, x_centre, y_centre, inner, outer, least, level, error):
    """Fill `level` and its standard error `error` (sources,): NaN with fewer than `least` pixels.

    Pixels count whose centres lie between `inner` and `outer` [pixel] and that are not `excluded`.
    """
    rows, columns = image.shape
    for k in range(x_centre.size):
        x, y = x_centre[k], y_centre[k]
        n = 0
        total = 0.0
        noise = 0.0
        for j in range(max(int(np.ceil(y - outer)), 0), min(int(np.floor(y + outer)) + 1, rows)):
            dy = j - y
            for i in range(max(int(np.ceil(x - outer)), 0), min(int(np.floor(x + outer)) + 1, columns)):
                dx = i - x
                square = dx * dx + dy * dy
                if inner * inner <= square <= outer * outer and not excluded[j, i]:
                    n += 1
                    total += np.float64(image[j, i])
                    noise += np.float64(variance[j, i])
        level[k] = total / n if n >= least else np.nan
        error[k] = np.sqrt(noise) / n if n >= least else np.nan
