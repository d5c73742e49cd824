"""Neighbor Noise Replacement (LDM-151 8.6.3.2): all sources but one become noise of the sky.

Noise is a function of visit, detector and pixel (a counter-based generator, Salmon et al. 2011), not of what was drawn
before: neither the order of sources nor another source far away changes a byte.

A source gets its share of the photons' variance: sky + (variance - sky) * value / image.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from skyquilt.primitives.compiled import kernel

_MASK = (1 << 64) - 1


class DeblendedSources(Protocol):
    """Children of all footprints as flat arrays; child k owns ``pixel[child_start[k]:child_start[k + 1]]``.

    Rows are sources in ascending (y, x) of their peaks, then the parents (`n_child` > 0).
    """

    child_start: np.ndarray
    pixel: np.ndarray
    value: np.ndarray
    parent: np.ndarray
    n_child: np.ndarray
    flags: dict[str, np.ndarray]


def stream_seed(*parts: int) -> int:
    """Seed in 0..2^63 - 1 made of integers, such as visit and detector (the mixing of splitmix64)."""
    state = 0x243F6A8885A308D3
    for part in parts:
        state = (state ^ (int(part) & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


@kernel("uint64(uint64)")
def _mixed(state):
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@kernel("float64(int64, int64)")
def unit_normal(seed, counter):
    """Normal deviate number `counter` of the stream `seed` (Box and Muller)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = _mixed(np.uint64(seed) + golden * np.uint64(counter))
    first = _mixed(state + golden)
    second = _mixed(state + golden + golden)
    u = (np.float64(first >> np.uint64(11)) + 0.5) * 1.1102230246251565e-16
    v = np.float64(second >> np.uint64(11)) * 1.1102230246251565e-16
    return np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)


@kernel(
    "void(float32[::1], float32[::1], boolean[::1], const(int64[::1]), const(float32[::1]), int64, float32[::1])"
)
def replace_by_noise(image, variance, detected, pixel, sky, seed, noise):
    """Write noise of variance `sky` into the pixels of all sources, and keep it in `noise`.

    Parameters
    ----------
    image, variance : float32, shape (ny * nx,)
        Written to.
    detected : bool, shape (ny * nx,)
        Set.
    pixel, sky, noise : int64, float32, float32, shape (m,)
        Flat indices of the sources' pixels, the sky's variance there, and the values drawn.
    """
    for k in range(pixel.size):
        at = pixel[k]
        detected[at] = True
        noise[k] = np.float32(np.sqrt(max(np.float64(sky[k]), 0.0)) * unit_normal(seed, at))
        image[at] = noise[k]
        variance[at] = sky[k]


@kernel(
    "void(float32[::1], float32[::1], const(boolean[::1]), const(float32[::1]), const(float32[::1]), "
    "const(int32[::1]), int32, float64, const(int64[::1]), const(float32[::1]), const(float32[::1]), int64, int64)"
)
def put_in(
    image, variance, bad, original, original_variance, mask, inexact, error, pixel, value, sky, begin, end
):
    """Put a source's light and variance into pixels begin..end of the flat lists.

    `inexact` are the mask bits of interpolated pixels, `error` their relative error.
    """
    for k in range(begin, end):
        at = pixel[k]
        if bad[at]:
            image[at] = np.float32(0.0)
            variance[at] = np.float32(0.0)
            continue
        image[at] = value[k]
        share = 1.0
        if original[at] != 0.0:
            share = min(max(np.float64(value[k]) / np.float64(original[at]), 0.0), 1.0)
        low = np.float64(sky[k])
        here = low + share * (np.float64(original_variance[at]) - low)
        if mask[at] & inexact:
            here = 2.0 * here + (error * np.float64(value[k])) ** 2
        variance[at] = np.float32(here)


@kernel(
    "void(float32[::1], float32[::1], const(boolean[::1]), const(int64[::1]), const(float32[::1]), const(float32[::1]), "
    "int64, int64)"
)
def take_out(image, variance, bad, pixel, noise, sky, begin, end):
    """Write the noise back."""
    for k in range(begin, end):
        at = pixel[k]
        image[at] = np.float32(0.0) if bad[at] else noise[k]
        variance[at] = np.float32(0.0) if bad[at] else sky[k]


@kernel("void(float32[::1], float32[::1], const(boolean[::1]), const(int32[::1]), int32, float64)")
def prepare_planes(image, variance, bad, mask, inexact, error):
    """Zeros where `bad`; more variance where interpolated: the value's noise is also that of its neighbours,
    and a relative error comes with it."""
    for at in range(image.size):
        if bad[at]:
            image[at] = np.float32(0.0)
            variance[at] = np.float32(0.0)
        elif mask[at] & inexact:
            variance[at] = np.float32(
                2.0 * np.float64(variance[at]) + (error * max(np.float64(image[at]), 0.0)) ** 2
            )


class NeighbourNoise:
    """Image and variance in which one source at a time stands alone.

    Parameters
    ----------
    image, variance : ndarray of float32, shape (ny, nx)
    bad : ndarray of bool, shape (ny, nx)
        Pixels that must not be used, NaN among them.
    mask : ndarray of int32, shape (ny, nx)
    interpolated_bits : int
        Bits of `mask` that mark interpolated pixels.
    interpolation_error : float
        Their relative error, added to twice their variance.
    sources : DeblendedSources
    sky_variance : ndarray of float32, shape (m,)
        At ``sources.pixel``.
    seed : int
        Of visit and detector.

    Attributes
    ----------
    image, variance : ndarray of float32, shape (ny, nx)
        All sources replaced, but for the one put in.
    original : ndarray of float32, shape (ny, nx)
        With all sources, 0 where bad.
    detected : ndarray of bool, shape (ny, nx)
    """

    def __init__(
        self,
        image: np.ndarray,
        variance: np.ndarray,
        bad: np.ndarray,
        mask: np.ndarray,
        interpolated_bits: int,
        interpolation_error: float,
        sources: DeblendedSources,
        sky_variance: np.ndarray,
        seed: int,
    ) -> None:
        self.original = np.array(image, dtype=np.float32, order="C")
        self.variance = np.array(variance, dtype=np.float32, order="C")
        self._bad = np.ascontiguousarray(bad).reshape(-1)
        self._mask = np.ascontiguousarray(mask).reshape(-1)
        self._inexact = (np.int32(interpolated_bits), float(interpolation_error))
        self._original_variance = np.ascontiguousarray(variance).reshape(-1)
        flat = self.variance.reshape(-1)
        prepare_planes(self.original.reshape(-1), flat, self._bad, self._mask, *self._inexact)
        self.image = self.original.copy()
        self.detected = np.zeros(image.shape, dtype=bool)
        self._start = np.ascontiguousarray(sources.child_start, dtype=np.int64)
        self._pixel = np.ascontiguousarray(sources.pixel, dtype=np.int64)
        self._value = np.ascontiguousarray(sources.value, dtype=np.float32)
        self._sky = np.ascontiguousarray(sky_variance, dtype=np.float32)
        self._noise = np.empty(self._pixel.size, dtype=np.float32)
        replace_by_noise(
            self.image.reshape(-1), flat, self.detected.reshape(-1), self._pixel, self._sky, seed, self._noise
        )
        # a bad pixel inside of a footprint stays without value
        self.image[bad] = 0
        self.variance[bad] = 0
        self._bounds = self._start.tolist()
        planes = self.image.reshape(-1), flat, self._bad
        self._to_put = (
            *planes,
            self.original.reshape(-1),
            self._original_variance,
            self._mask,
            *self._inexact,
            self._pixel,
            self._value,
            self._sky,
        )
        self._to_take = (*planes, self._pixel, self._noise, self._sky)

    def put_in(self, row: int) -> None:
        """Show the source of this row."""
        put_in(*self._to_put, self._bounds[row], self._bounds[row + 1])

    def take_out(self, row: int) -> None:
        """Replace it by noise again."""
        take_out(*self._to_take, self._bounds[row], self._bounds[row + 1])

    def pixels_of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices and values of the source of this row, as views."""
        part = slice(self._bounds[row], self._bounds[row + 1])
        return self._pixel[part], self._value[part]
