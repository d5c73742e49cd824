"""A small camera for the simulation's tests: flipped amplifiers, a turned detector, distortion."""

from __future__ import annotations

import numpy as np
import pytest

from skyquilt.instrument.camera import Amplifier, Camera, Detector
from skyquilt.instrument.header_map import Condition, HeaderMap, Test
from skyquilt.primitives.geometry import Box

NX, NY, PRESCAN, OVERSCAN = 160, 128, 8, 24


def small_amplifier(name: str, column: int, row: int, **changes) -> Amplifier:
    """A quarter of a detector, read out at its outer corner, in an extension of its own."""
    nx, ny = NX // 2, NY // 2
    width = PRESCAN + nx + OVERSCAN
    values = {
        "name": name,
        "extension": name,
        "raw_section": Box(0, 0, width, ny),
        "raw_data": Box(PRESCAN, 0, nx, ny),
        "raw_prescan": Box(0, 0, PRESCAN, ny),
        "raw_overscan": Box(PRESCAN + nx, 0, OVERSCAN, ny),
        "raw_parallel_overscan": None,
        "data": Box(column * nx, row * ny, nx, ny),
        "flip_x": column == 1,
        "flip_y": row == 1,
        "gain": 1.5,
        "read_noise": 6.0,
        "saturation": 60000.0,
        "hdu_size": (width, ny),
    }
    return Amplifier(**(values | changes))


def small_camera(parity: int = 1, n_detectors: int = 2, **amplifier) -> Camera:
    """Two detectors of 160 x 128 pixels of 0.5 arcsec; the second is turned by 90.3 degrees."""
    places = {1: ((-0.9, 0.1), 0.0), 4: ((0.9, -0.2), 90.3)}
    detectors = tuple(
        Detector(
            id=number,
            name=f"S{number}",
            purpose="science",
            nx=NX,
            ny=NY,
            pixel_size=0.01,
            centre_mm=centre,
            rotation_deg=rotation,
            amplifiers=tuple(
                small_amplifier(f"A{row}{column}", column, row, **amplifier)
                for row in (0, 1)
                for column in (0, 1)
            ),
        )
        for number, (centre, rotation) in list(places.items())[:n_detectors]
    )
    return Camera(
        name="small",
        detectors=detectors,
        filters={"small_g": "g", "small_r": "r", "small_i": "i"},
        plate_scale=50.0,
        header=HeaderMap(Condition((Test("INSTRUME", "SmallCam"),)), ()),
        distortion_radius=2.0,
        distortion_coefficients=(-4e-3, 1e-3),
        parity=parity,
    )


@pytest.fixture
def camera() -> Camera:
    """The small camera, in the sky's parity."""
    return small_camera()


@pytest.fixture
def make_camera():
    """The function that makes the small camera with other properties."""
    return small_camera


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(7)
