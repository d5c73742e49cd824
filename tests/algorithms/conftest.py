"""Synthetic detectors and star fields for the tests of algorithms."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import erf

from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.primitives.geometry import Box


@pytest.fixture
def rng():
    """Generator with a fixed seed."""
    return np.random.default_rng(20260101)


def make_amplifier(name, data, raw_data, raw_overscan, shape, flip=(False, False), gain=1.5, read_noise=6.0):
    """Amplifier whose raw section has `shape` (ny, nx)."""
    return Amplifier(
        name=name,
        extension=None,
        raw_section=Box(0, 0, shape[1], shape[0]),
        raw_data=raw_data,
        raw_prescan=None,
        raw_overscan=raw_overscan,
        raw_parallel_overscan=None,
        data=data,
        flip_x=flip[0],
        flip_y=flip[1],
        gain=gain,
        read_noise=read_noise,
        saturation=60000.0,
    )


@pytest.fixture
def detector():
    """Detector of 90 x 64 pixels: amplifier A read to the left with overscan behind, B flipped in x and y."""
    a = make_amplifier("A", Box(0, 0, 40, 64), Box(3, 0, 40, 64), Box(43, 0, 16, 64), (64, 59), gain=1.5)
    b = make_amplifier(
        "B", Box(40, 0, 50, 64), Box(3, 2, 50, 64), Box(53, 0, 16, 66), (66, 69), (True, True), gain=2.0
    )
    return Detector(7, "test", "science", 90, 64, 0.01, (0.0, 0.0), 0.0, (a, b))


def make_raw(detector, electrons, rng, offset=1000.0, read_noise=6.0, bias=None, **changes):
    """Raw frame of `electrons` (ny, nx) with row drift, read noise [electron], and a bias pattern [ADU]."""
    sections = {}
    for amplifier in detector.amplifiers:
        shape = amplifier.raw_section.shape
        drift = offset + 5.0 * np.sin(np.arange(shape[0]) / 80.0)
        section = drift[:, None] + rng.normal(0.0, read_noise / amplifier.gain, shape)
        part = electrons[amplifier.data.slices()] / amplifier.gain
        if bias is not None:
            part = part + bias[amplifier.data.slices()]
        part = part[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
        section[amplifier.raw_data.slices()] += part
        sections[amplifier.name] = section.astype(np.float32)
    info = SimpleNamespace(visit=1, datetime_mid=60000.0)
    values = {"detector": detector, "info": info, "amplifiers": sections, "header_wcs": None} | changes
    return SimpleNamespace(**values)


def add_stars(image, x, y, flux, sigma):
    """Add Gaussian stars integrated over pixels, in place."""
    ny, nx = image.shape
    reach = int(np.ceil(8 * sigma))
    for xs, ys, fs in zip(x, y, flux):
        i = np.arange(max(int(xs) - reach, 0), min(int(xs) + reach + 1, nx))
        j = np.arange(max(int(ys) - reach, 0), min(int(ys) + reach + 1, ny))
        edges_x = erf((np.append(i - 0.5, i[-1] + 0.5) - xs) / (np.sqrt(2) * sigma))
        edges_y = erf((np.append(j - 0.5, j[-1] + 0.5) - ys) / (np.sqrt(2) * sigma))
        image[j[0] : j[-1] + 1, i[0] : i[-1] + 1] += (
            fs * 0.25 * np.diff(edges_y)[:, None] * np.diff(edges_x)[None, :]
        )
    return image


@pytest.fixture
def star_grid(rng):
    """Factory: isolated Gaussian stars on a jittered grid with Poisson and read noise, sky subtracted."""

    def make(n_side=20, spacing=50, sigma=2.0, flux=5000.0, sky=200.0, read_noise=5.0):
        size = n_side * spacing
        centre = (np.arange(n_side) + 0.5) * spacing
        x, y = (v.ravel() + rng.uniform(-0.5, 0.5, n_side**2) for v in np.meshgrid(centre, centre))
        fluxes = np.broadcast_to(np.asarray(flux, float), x.shape)
        truth = add_stars(np.zeros((size, size)), x, y, fluxes, sigma)
        noisy = rng.poisson(truth + sky) + rng.normal(0.0, read_noise, truth.shape)
        return SimpleNamespace(
            image=(noisy - sky).astype(np.float32),
            variance=(np.maximum(noisy, 0.0) + read_noise**2).astype(np.float32),
            bad=np.zeros(truth.shape, dtype=bool),
            x=x,
            y=y,
            flux=fluxes,
            truth=truth,
            sigma=sigma,
        )

    return make


@pytest.fixture
def raw_frame():
    """The factory of raw frames."""
    return make_raw


@pytest.fixture
def paint_stars():
    """The function that adds stars to an image."""
    return add_stars
