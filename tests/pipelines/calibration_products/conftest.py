"""Raw frames of a small detector with known bias, response and dark current, for the tests of combinations."""

from types import SimpleNamespace

import numpy as np
import pytest

from skyquilt.instrument.camera import Amplifier, Detector
from skyquilt.primitives.geometry import Box

SHAPE = (80, 100)
GAINS, READ_NOISE = (1.5, 2.0), 6.0


def two_amplifiers(overscan=True, shape=SHAPE):
    """Two amplifiers side by side, the second flipped in x, each with 20 columns of overscan, or none."""
    ny, nx = shape[0], shape[1] // 2
    extra = 20 if overscan else 0
    amplifiers = [
        Amplifier(
            name=name,
            extension=None,
            raw_section=Box(0, 0, nx + extra, ny),
            raw_data=Box(0, 0, nx, ny),
            raw_prescan=None,
            raw_overscan=Box(nx, 0, extra, ny) if overscan else None,
            raw_parallel_overscan=None,
            data=Box(nx * k, 0, nx, ny),
            flip_x=k == 1,
            flip_y=False,
            gain=GAINS[k],
            read_noise=READ_NOISE,
            saturation=60000.0,
        )
        for k, name in enumerate("AB")
    ]
    return Detector(3, "test", "science", shape[1], ny, 0.01, (0.0, 0.0), 0.0, tuple(amplifiers))


def frame(detector, electrons, pattern, rng, seconds=0.0, level=1000.0):
    """Raw frame of mean `electrons` with photon and read noise over a bias pattern [ADU] and a level."""
    shape = (detector.ny, detector.nx)
    noisy = rng.poisson(np.broadcast_to(electrons, shape)) if np.any(electrons) else np.zeros(shape)
    sections = {}
    for amplifier in detector.amplifiers:
        raw = (amplifier.raw_section.ny, amplifier.raw_section.nx)
        section = level + rng.normal(0, READ_NOISE / amplifier.gain, raw)
        part = (noisy / amplifier.gain + pattern * np.ones(shape))[amplifier.data.slices()]
        section[:, : amplifier.data.nx] += part[:, :: -1 if amplifier.flip_x else 1]
        sections[amplifier.name] = section.astype(np.float32)
    info = SimpleNamespace(exposure_time=seconds)
    return SimpleNamespace(detector=detector, info=info, amplifiers=sections, header_wcs=None)


def pull_width_tolerance(n):
    """Four standard errors of the width of n unit normals, and the overscan's share of the noise."""
    # levels of rows, smoothed over 51 rows of 18 pixels, add a thousandth of a pixel's variance to all of a row
    return 4 / np.sqrt(2 * n) + 0.02


@pytest.fixture
def small():
    """The above: SHAPE, GAINS, READ_NOISE, detector, frame, tolerance."""
    return SimpleNamespace(
        SHAPE=SHAPE,
        GAINS=GAINS,
        READ_NOISE=READ_NOISE,
        detector=two_amplifiers,
        frame=frame,
        tolerance=pull_width_tolerance,
    )


@pytest.fixture
def rng():
    """Generator with a fixed seed."""
    return np.random.default_rng(20260102)
