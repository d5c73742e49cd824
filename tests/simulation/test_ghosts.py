"""Simulated ghosts lie where the reflections put them, with the light they are told to have."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skyquilt.simulation.ghosts import GhostsConfig, ghost_light, pupil
from skyquilt.simulation.optics import camera_optics, pixel_from_focal

ONE = GhostsConfig(
    enabled=True,
    radius_mm=(0.8,),
    inner_fraction=(0.4,),
    magnification=(-0.9,),
    offset_x_mm=(0.1,),
    offset_y_mm=(-0.05,),
    flux_ratio=(5e-4,),
)


@pytest.fixture
def detector(camera):
    """The turned detector, larger, in the middle of the field."""
    return dataclasses.replace(camera.detectors[1], nx=500, ny=500, centre_mm=(0.0, 0.0))


def draw(config, camera, detector, x=0.6, y=0.4, electrons=3e8):
    """Ghosts of one star."""
    return ghost_light(
        config, camera_optics(camera), detector, np.array([x]), np.array([y]), np.array([electrons]), 30.0
    )


def test_options_are_checked():
    """Tuples of unequal length, and pupils without light, are refused."""
    for bad in ({"flux_ratio": (1e-4,)}, {"radius_mm": (0.0, 1.0, 1.0)}, {"inner_fraction": (1.0, 0.3, 0.3)}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            GhostsConfig(**bad)


def test_off_by_default(camera, detector):
    """Without being enabled there is no light and no event."""
    drawn = draw(GhostsConfig(), camera, detector)
    assert not drawn.light.any()
    assert drawn.events == ()


def test_light_and_place(camera, detector):
    """All of the ghost's light is flux_ratio times the star's, about magnification times its place + offset."""
    plain = dataclasses.replace(ONE, struts=0, unevenness=0.0, hole_shift=0.0)
    light = draw(plain, camera, detector).light.astype(float)
    # edges are rounded to the pixel: a hundredth of the area of an annulus of 80 pixels at most
    assert_allclose(light.sum(), 5e-4 * 3e8, rtol=5e-3)
    j, i = np.mgrid[:500, :500]
    x, y = pixel_from_focal(detector, np.float64(-0.9 * 0.6 + 0.1), np.float64(-0.9 * 0.4 - 0.05))
    assert_allclose([(i * light).sum() / light.sum(), (j * light).sum() / light.sum()], [x, y], atol=0.05)
    r = np.hypot(i - x, j - y)
    assert not light[(r > 81) | (r < 31)].any()
    assert_allclose(light[(r < 79) & (r > 33)], 5e-4 * 3e8 / (np.pi * 80**2 * (1 - 0.16)), rtol=1e-6)


def test_event_says_what_is_in_the_image(camera, detector):
    """Pixels of the event hold its electrons; what it leaves out is below a fifth of the mean."""
    drawn = draw(ONE, camera, detector)
    (event,) = drawn.events
    assert_allclose(drawn.light[event.y, event.x], event.electrons, rtol=1e-6)
    rest = drawn.light.copy()
    rest[event.y, event.x] = 0
    assert rest.max() <= 0.2 * 5e-4 * 3e8 / (np.pi * 80**2 * (1 - 0.16)) * (1 + 1e-6)
    assert event.kind == "ghost"
    assert_allclose(event.width, 160.0)


def test_ghosts_of_all_detectors_are_one(camera):
    """Two halves of a focal plane together have the ghost that one large detector has."""
    one = dataclasses.replace(camera.detectors[0], nx=400, ny=400, centre_mm=(0.0, 0.0))
    left = dataclasses.replace(one, nx=200, centre_mm=(-1.0, 0.0))
    right = dataclasses.replace(one, nx=200, centre_mm=(1.0, 0.0))
    whole, *halves = (draw(ONE, camera, d).light for d in (one, left, right))
    assert_allclose(np.concatenate(halves, axis=1), whole, atol=1e-3)


def test_faint_stars_have_none(camera, detector):
    """The mean surface brightness must reach `faintest` times the noise."""
    area = np.pi * 80**2 * (1 - 0.16)
    limit = ONE.faintest * 30.0 * area / 5e-4
    assert draw(ONE, camera, detector, electrons=1.01 * limit).events
    assert not draw(ONE, camera, detector, electrons=0.99 * limit).events


def test_pupil_has_shadows_and_is_uneven():
    """Vanes darken lines from the hole outwards, one side is brighter, and the mean is 1 less the shadows."""
    v, u = np.mgrid[-1:1:401j, -1:1:401j]
    value = pupil(ONE, 0, u, v, 200.0, (1.0, 0.0))
    lit = (np.hypot(u, v) < 0.98) & (np.hypot(u - 0.05, v) > 0.42)
    assert 0.2 < value[lit].min() < 0.4
    assert value[lit & (0.6 * u + 0.8 * v > 0.7)].mean() > 1.08
    # four shadows of width 0.03 along 0.6 of the radius take 0.7 of 4 x 0.018 of an area of 2.64
    assert_allclose(value[lit].mean(), 1 - 0.7 * 4 * 0.03 * 0.58 / (np.pi * (0.96 - 0.176)), atol=0.01)
    assert not value[np.hypot(u - 0.05, v) < 0.39].any()
