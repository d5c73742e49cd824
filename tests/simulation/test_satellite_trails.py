"""Simulated trails cross all detectors alike, have the brightness and width they are told, and know their pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.simulation.optics import camera_optics, pixel_from_focal
from skyquilt.simulation.satellite_trails import (
    STEP,
    SatelliteTrailsConfig,
    Track,
    brightness_along,
    cross_section,
    draw_on_detector,
    draw_tracks,
    trail_light,
)

STEADY = Track(
    event=3,
    snap=0,
    kind="steady",
    angle=0.5,
    offset=0.0,
    first=-1e9,
    last=1e9,
    surface_brightness=2.0,
    width=6.0,
    hole=0.3,
    period=1.0,
    phase=0.0,
    contrast=0.5,
    separation=20.0,
)


def large(camera, detector=0, size=700):
    """A detector of the small camera, larger and in the middle."""
    return dataclasses.replace(camera.detectors[detector], nx=size, ny=size, centre_mm=(0.0, 0.0))


def crossing(camera, **changes):
    """A track through the middle of the camera, its image and its event."""
    track = dataclasses.replace(STEADY, **changes)
    image = draw_on_detector((track,), camera_optics(camera), large(camera), 3.0, 10.0)
    return image.light, image.events[0]


def test_options_are_checked():
    """Shares, ranges and rates that make no sense are refused with what was found."""
    for bad in (
        {"per_visit": -1.0},
        {"width": (3.0, 2.0)},
        {"surface_brightness": (0.0, 2.0)},
        {"kinds": (1.0,)},
        {"ending": 1.5},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SatelliteTrailsConfig(**bad)


def test_lines_are_isotropic_and_uniform(rng):
    """Numbers are Poisson; angle and distance from the axis are uniform: chords of a circle are then random."""
    config = SatelliteTrailsConfig(per_visit=3.0)
    visits = [draw_tracks(config, rng, 50.0, 2) for _ in range(1000)]
    counts = np.array([len(v) for v in visits])
    assert abs(counts.mean() - 3) < 4 * np.sqrt(3 / 1000)
    assert abs(counts.var() - 3) < 4 * 3 * np.sqrt(2 / 1000 + 1 / 3000)
    tracks = [t for v in visits for t in v]
    for values, low, high in (
        ([t.offset for t in tracks], -50, 50),
        ([t.angle for t in tracks], 0, 2 * np.pi),
    ):
        uniform = (np.sort(values) - low) / (high - low)
        distance = np.abs(uniform - (np.arange(uniform.size) + 0.5) / uniform.size).max()
        assert distance < 1.9 / np.sqrt(uniform.size)
    assert {t.snap for t in tracks} == {0, 1}


def test_all_detectors_and_snaps_share_the_tracks(camera):
    """Tracks of a visit come from its stream alone; a track is in one snap, the same on every detector."""
    config = SatelliteTrailsConfig(
        per_visit=4.0, surface_brightness=(5, 20), ending=0.0, kinds=(1, 0, 0, 0, 0)
    )
    optics = camera_optics(camera)
    seen = {
        (d.id, snap): trail_light(config, np.random.default_rng(5), optics, d, 3.0, 10.0, snap, 2)
        for d in camera.detectors
        for snap in (0, 1)
    }
    tracks = draw_tracks(config, np.random.default_rng(5), optics.radius, 2)
    for (_, snap), drawn in seen.items():
        assert {e.event for e in drawn.events} <= {t.event for t in tracks if t.snap == snap}
    again = trail_light(config, np.random.default_rng(5), optics, camera.detectors[0], 3.0, 10.0, 0, 2)
    assert_array_equal(again.light, seen[camera.detectors[0].id, 0].light)
    assert sum(len(drawn.events) for drawn in seen.values()) >= 2


@pytest.mark.parametrize("kind", ["steady", "aeroplane", "meteor", "flashing", "varying"])
def test_event_says_what_is_in_the_image(camera, kind):
    """Electrons of the event are those of the image at its pixels, all above 0.2 of the peak, and no others."""
    light, event = crossing(camera, kind=kind, period=0.7, first=-2.0, last=2.5)
    assert_allclose(light[event.y, event.x], event.electrons, rtol=1e-5)
    assert_allclose(event.surface_brightness, light[event.y, event.x].mean(), rtol=1e-5)
    rest = light.copy()
    rest[event.y, event.x] = 0
    assert rest.max() <= 0.2 * light.max() * 1.001
    assert len({(x, y) for x, y in zip(event.x.tolist(), event.y.tolist(), strict=True)}) == event.x.size
    assert event.event == 3


def test_steady_trail_has_the_brightness_asked_for(camera):
    """The mean over its pixels is surface brightness times noise, to the roughness of the edge's pixels."""
    for width in (3.0, 6.0, 12.0):
        _, event = crossing(camera, width=width)
        assert_allclose(event.surface_brightness, 20.0, rtol=0.03)
        assert_allclose(event.width, width, rtol=0.15)


def test_cross_section_holds_the_light_and_the_width():
    """Its width at half maximum is what was asked for, within 15 %, and never below the seeing's."""
    for seeing in (2.3, 4.0, 6.0):
        for width in (seeing, 8.0, 12.0):
            for hole in (0.2, 0.6):
                found, profile = cross_section(width, seeing, hole)
                assert profile[0] > 0.55
                assert profile.max() == 1
                assert abs(found - max(width, seeing)) < 0.15 * max(width, seeing)
                assert profile[-1] < 0.01
                assert profile.size * STEP >= 12


def test_trail_lies_on_the_line(camera):
    """Without distortion the light's centre across the trail is the line to 0.02 pixels, at every place."""
    straight = dataclasses.replace(camera, distortion_coefficients=())
    detector = large(camera, detector=1)
    for angle in (0.1, 0.8, 1.6, 2.4, 4.0):
        track = dataclasses.replace(STEADY, angle=angle, offset=0.3)
        light = draw_on_detector((track,), camera_optics(straight), detector, 3.0, 10.0).light
        for s in (-1.5, 0.4, 1.2):
            x, y = pixel_from_focal(
                detector,
                np.cos(angle) * s - np.sin(angle) * 0.3,
                np.sin(angle) * s + np.cos(angle) * 0.3,
            )
            turn = angle - np.radians(detector.rotation_deg)
            j, i = np.mgrid[: detector.ny, : detector.nx]
            along = (i - x) * np.cos(turn) + (j - y) * np.sin(turn)
            across = (j - y) * np.cos(turn) - (i - x) * np.sin(turn)
            near = (np.abs(along) < 30) & (np.abs(across) < 15)
            assert abs((across * light)[near].sum() / light[near].sum()) < 0.02


def test_ends_of_a_track_are_where_the_light_ends(camera):
    """A track that ends in the field has its end there, to the width; the others end at the detector's edge."""
    light, event = crossing(camera, first=-1.0, last=1.5, angle=0.0)
    # 100 px/mm; the middle of 700 pixels is 349.5
    assert_allclose([event.x0, event.x1], [349.5 - 100, 349.5 + 150], atol=2.0)
    assert_allclose([event.y0, event.y1], 349.5, atol=4.0)
    _, whole = crossing(camera, angle=0.0)
    assert_allclose([whole.x0, whole.x1], [0, 699], atol=1.0)
    assert light[:, :240].max() == 0


def test_a_track_beside_the_detector_leaves_nothing(camera):
    """No light, no event."""
    drawn = draw_on_detector(
        (dataclasses.replace(STEADY, offset=40.0, angle=0.0),),
        camera_optics(camera),
        large(camera),
        3.0,
        10.0,
    )
    assert drawn.events == ()
    assert not drawn.light.any()


def test_brightness_along_the_track(rng):
    """It lies in 0..1, reaches 1 within a period, is zero beyond the ends, and dashes are dark between."""
    s = np.linspace(-5, 5, 4001)
    for kind in ("steady", "varying", "flashing", "aeroplane", "meteor"):
        track = dataclasses.replace(STEADY, kind=kind, first=-4.0, last=4.0)
        value = brightness_along(track, s)
        assert value.min() >= 0
        assert_allclose(value.max(), 1.0, atol=1e-3)
        assert not value[np.abs(s) > 4.001].any()
        dark = (value[np.abs(s) < 3.5] == 0).mean()
        assert (dark > 0.2) == (kind == "aeroplane")
