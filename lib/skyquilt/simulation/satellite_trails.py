"""Simulation (design 7): light of satellites, aeroplanes and meteors that cross the field while the shutter is open.

A track is straight on the sky, so bent by the distortion in the focal plane. It crosses all detectors of a visit
in one snap: draw it from the visit's stream, `random_stream(config, "trail", visit)`. Its cross-section is a
uniform disc or donut (satellites are nearer than infinity) seen through the seeing, a Moffat profile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from skyquilt.instrument import Detector
    from skyquilt.simulation.optics import Optics

SHARE_OF_PEAK = 0.2
"""A pixel belongs to an event where its light exceeds this share of the cross-section's peak."""

KINDS = ("steady", "varying", "flashing", "aeroplane", "meteor")
SEEING_BETA = 3.0
STEP = 0.05
REACH = 4.0
"""Tracks are drawn to this many widths from their middle, at least 12 pixels."""


@dataclass(frozen=True)
class SatelliteTrailsConfig:
    """Options of satellite trails."""

    per_visit: float = 0.0
    """Mean number of tracks that cross the focal plane's circle in a visit (Poisson)."""

    surface_brightness: tuple[float, float] = (0.5, 100.0)
    """Mean over a track's pixels, log-uniform between these, in units of the noise of an empty pixel."""

    width: tuple[float, float] = (2.0, 12.0)
    """Full width at half maximum of the cross-section, log-uniform between these but never below the
    seeing [pixel]."""

    kinds: tuple[float, ...] = (0.6, 0.2, 0.08, 0.07, 0.05)
    """Shares of steady, slowly varying and flashing satellites, aeroplanes and meteors."""

    ending: float = 0.2
    """Share of satellites whose track begins or ends within the field."""

    def __post_init__(self) -> None:
        if self.per_visit < 0:
            raise ValueError(f"per_visit must not be negative, got {self.per_visit}")
        for name in ("surface_brightness", "width"):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1]:
                raise ValueError(f"{name} must be two ascending positive numbers, got {value}")
        if len(self.kinds) != len(KINDS) or min(self.kinds) < 0 or not sum(self.kinds) > 0:
            raise ValueError(
                f"kinds must be {len(KINDS)} shares (of {', '.join(KINDS)}) that are not negative and not all 0, "
                f"got {self.kinds}"
            )
        if not 0 <= self.ending <= 1:
            raise ValueError(f"ending must be in 0..1, got {self.ending}")


@dataclass(frozen=True)
class LightEvent:
    """What one artifact leaves on a detector: a row of event_truth, and its pixels for pixel_truth.

    Attributes
    ----------
    kind : str
        streak or ghost.
    event : int
        Number within the visit: the same on all detectors.
    x, y : ndarray of int32, shape (n,)
        Pixels that count as hit.
    electrons : ndarray of float32, shape (n,)
        What it left there, before the response [e].
    surface_brightness : float
        Mean of `electrons` [e per pixel].
    width : float
        Of a trail's cross-section at half of its peak; outer diameter of a ghost [pixel].
    x0, y0, x1, y1 : float
        Ends of the visible track, or corners of the box about a ghost, within the detector [pixel].
    """

    kind: str
    event: int
    x: np.ndarray
    y: np.ndarray
    electrons: np.ndarray
    surface_brightness: float
    width: float
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class ArtifactLight:
    """Light of artifacts on a detector before its response, float32 (ny, nx) [e], and their events."""

    light: np.ndarray
    events: tuple[LightEvent, ...]


@dataclass(frozen=True)
class Track:
    """One track over the focal plane.

    Attributes
    ----------
    event, snap : int
    kind : str
        One of `KINDS`.
    angle, offset : float
        Direction [rad] and signed distance from the axis [mm] where there is no distortion.
    first, last : float
        Where along it (0: nearest to the axis) light begins and ends [mm].
    surface_brightness, width, hole : float
        [noise of an empty pixel], [pixel], share of the donut's diameter that is dark.
    period, phase, contrast : float
        Of the brightness along the track [mm], [rad], 0..1.
    separation : float
        Of an aeroplane's two lights [pixel].
    """

    event: int
    snap: int
    kind: str
    angle: float
    offset: float
    first: float
    last: float
    surface_brightness: float
    width: float
    hole: float
    period: float
    phase: float
    contrast: float
    separation: float


def draw_tracks(
    config: SatelliteTrailsConfig, rng: np.random.Generator, radius: float, n_snaps: int = 1
) -> tuple[Track, ...]:
    """Tracks of a visit: lines isotropic and uniform over the circle about the focal plane.

    Parameters
    ----------
    rng : Generator
        Of the visit, not of a detector.
    radius : float
        Of the circle [mm].
    n_snaps : int
    """
    n = int(rng.poisson(config.per_visit))
    return tuple(_draw_track(config, rng, radius, n_snaps, event) for event in range(n))


def _draw_track(config, rng, radius, n_snaps, event):
    shares = np.cumsum(config.kinds) / np.sum(config.kinds)
    kind = KINDS[min(int(np.searchsorted(shares, rng.uniform(), side="right")), len(KINDS) - 1)]
    angle, offset = rng.uniform(0, 2 * math.pi), rng.uniform(-radius, radius)
    half = math.sqrt(max(radius**2 - offset**2, 0.0))
    first, last = -2 * radius, 2 * radius
    ends, where = rng.uniform() < config.ending, rng.uniform(-0.7, 0.7) * half
    if kind == "meteor":
        length = rng.uniform(0.3, 1.5) * radius
        first, last = where - length / 2, where + length / 2
    elif ends and kind != "aeroplane":
        first = where
    brightness, width = (math.exp(rng.uniform(*np.log(v))) for v in (config.surface_brightness, config.width))
    period = {
        "flashing": rng.uniform(0.02, 0.08),
        "aeroplane": rng.uniform(0.02, 0.05),
    }.get(kind, rng.uniform(0.5, 2.0))
    return Track(
        event=event,
        snap=int(rng.integers(n_snaps)),
        kind=kind,
        angle=angle,
        offset=offset,
        first=first,
        last=last,
        surface_brightness=brightness,
        width=width,
        hole=rng.uniform(0.2, 0.6),
        period=period * radius,
        phase=rng.uniform(0, 2 * math.pi),
        contrast=rng.uniform(0.3, 0.6),
        separation=rng.uniform(12, 40),
    )


def trail_light(
    config: SatelliteTrailsConfig,
    rng: np.random.Generator,
    optics: Optics,
    detector: Detector,
    seeing: float,
    noise: float,
    snap: int = 0,
    n_snaps: int = 1,
) -> ArtifactLight:
    """Draw the tracks of a visit's snap on one detector.

    Parameters
    ----------
    rng : Generator
        Fresh, of the visit: `random_stream(config, "trail", visit)`.
    optics : Optics
    detector : Detector
    seeing : float
        FWHM of a star [pixel].
    noise : float
        Of an empty pixel, the unit of surface brightness: give all detectors of a visit the same [e].
    snap, n_snaps : int
        A track is in one of the visit's snaps.
    """
    tracks = draw_tracks(config, rng, optics.radius, n_snaps)
    return draw_on_detector(tuple(t for t in tracks if t.snap == snap), optics, detector, seeing, noise)


def draw_on_detector(
    tracks: Sequence[Track], optics: Optics, detector: Detector, seeing: float, noise: float
) -> ArtifactLight:
    """Draw given tracks on one detector; parameters as of `trail_light`."""
    light = np.zeros((detector.ny, detector.nx), dtype=np.float32)
    events = []
    for track in tracks:
        width, profile = cross_section(max(track.width, seeing), seeing, track.hole)
        offsets = (-0.5, 0.5) if track.kind == "aeroplane" else (0.0,)
        parts = [
            _draw_line(track, optics, detector, profile, width, side * track.separation) for side in offsets
        ]
        rows, columns, shares = (np.concatenate(each) for each in zip(*parts, strict=True))
        # pixels that both lights of an aeroplane reach are summed first
        pixels, inverse = np.unique(rows.astype(np.int64) * detector.nx + columns, return_inverse=True)
        shares = np.bincount(inverse, weights=shares, minlength=pixels.size)
        peak = track.surface_brightness * noise / _mean_above(profile)
        electrons = (peak * shares).astype(np.float32)
        light.ravel()[pixels] += electrons
        hit = shares > SHARE_OF_PEAK
        if hit.sum() >= 2:
            y, x = np.divmod(pixels[hit], detector.nx)
            events.append(_event(track, x, y, electrons[hit], width))
    return ArtifactLight(light, tuple(events))


def _event(track, x, y, electrons, width):
    direction = np.linalg.eigh(np.cov(np.stack([x, y]).astype(float), aweights=electrons))[1][:, -1]
    along = direction[0] * x + direction[1] * y
    first, last = int(np.argmin(along)), int(np.argmax(along))
    return LightEvent(
        kind="streak",
        event=track.event,
        x=x.astype(np.int32),
        y=y.astype(np.int32),
        electrons=electrons,
        surface_brightness=float(electrons.mean(dtype=float)),
        width=width,
        x0=float(x[first]),
        y0=float(y[first]),
        x1=float(x[last]),
        y1=float(y[last]),
    )


def cross_section(width: float, seeing: float, hole: float) -> tuple[float, np.ndarray]:
    """Line-integrated profile of a donut in the seeing, pixel included.

    Parameters
    ----------
    width : float
        Wanted full width at half maximum; the donut's diameter is what it lacks, in quadrature [pixel].
    seeing : float
        FWHM of the seeing, a Moffat profile [pixel].
    hole : float
        Inner over outer diameter.

    Returns
    -------
    width : float
        Full width at half maximum that came out [pixel].
    profile : ndarray, shape (n,)
        At distances 0, `STEP`, 2 `STEP` ... from the middle; its peak is 1.
    """
    outer = 0.58 * math.sqrt(max(width**2 - seeing**2, 0.0))
    # the middle of the grid is pixel 0 exactly: an odd number of steps
    half = math.ceil(max(12.0, REACH * width + 4 * seeing) / STEP)
    d = np.arange(-half, half + 1) * STEP
    scale = 0.5 * seeing / math.sqrt(2 ** (1 / SEEING_BETA) - 1)
    # a Moffat profile integrated along a line is a Moffat profile of exponent less by one half
    blur = (1 + (d / scale) ** 2) ** (0.5 - SEEING_BETA)
    blur /= blur.sum()
    profile = blur
    if outer > STEP:
        chord = _chord(d, outer) - _chord(d, hole * outer)
        profile = np.convolve(chord / chord.sum(), profile, mode="same")
    box = np.clip((0.5 + STEP / 2 - np.abs(d)) / STEP, 0, 1)
    profile = np.convolve(box / box.sum(), profile, mode="same")[half:]
    profile /= profile.max()
    return 2 * STEP * float(np.flatnonzero(profile >= 0.5).max()), profile


def _chord(d, radius):
    return np.sqrt(np.maximum(radius**2 - d**2, 0.0))


def _mean_above(profile):
    """Mean of the cross-section where it exceeds `SHARE_OF_PEAK`."""
    return float(profile[profile > SHARE_OF_PEAK].mean())


def _draw_line(track, optics, detector, profile, width, shift):
    """Rows, columns and shares of the cross-section's peak of the pixels near a track."""
    from skyquilt.simulation.optics import pixel_from_focal

    s = np.linspace(-2 * optics.radius, 2 * optics.radius, 2001)
    x_mm, y_mm = _track_in_focal_plane(track, optics, s)
    x, y = pixel_from_focal(detector, x_mm, y_mm)
    steep = abs(y[-1] - y[0]) > abs(x[-1] - x[0])
    across, along = (x, y) if steep else (y, x)
    if along[0] > along[-1]:
        across, along, s = across[::-1], along[::-1], s[::-1]
    n_along, n_across = (detector.ny, detector.nx) if steep else (detector.nx, detector.ny)
    pixel = np.arange(n_along, dtype=float)
    middle, place = np.interp(pixel, along, across), np.interp(pixel, along, s)
    slope = np.gradient(middle)
    cosine = 1 / np.hypot(1, slope)
    reach = math.ceil(((profile.size - 1) * STEP + abs(shift)) * 1.5)
    near = (middle > -reach) & (middle < n_across + reach)
    lines = np.flatnonzero(near)
    k = np.rint(middle[lines]).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    signed = (k - middle[lines, None]) * cosine[lines, None]
    # place along the track of the pixel's foot, not of its row
    step = np.gradient(place)[lines, None] * (k - middle[lines, None]) * (slope * cosine**2)[lines, None]
    share = np.interp(np.abs(signed - shift), np.arange(profile.size) * STEP, profile, right=0.0)
    share = share * brightness_along(track, place[lines, None] + step)
    row = np.broadcast_to(lines[:, None], k.shape)
    keep = (k >= 0) & (k < n_across) & (share > 1e-4)
    rows, columns = (row[keep], k[keep]) if steep else (k[keep], row[keep])
    return rows, columns, share[keep]


def _track_in_focal_plane(track, optics, s):
    """Places [mm] of a track that is straight in the tangent plane of the sky."""
    c, d = math.cos(track.angle), math.sin(track.angle)
    per_mm = optics.plate_scale / (3600 * math.degrees(1))
    p, q = (c * s - d * track.offset) * per_mm, (d * s + c * track.offset) * per_mm
    return optics.focal_plane(p, q)


def brightness_along(track: Track, s: np.ndarray) -> np.ndarray:
    """Brightness at places along a track [mm], in units of its greatest; 0 beyond its ends."""
    wave = 0.5 * (1 + np.cos(2 * math.pi * s / track.period + track.phase))
    if track.kind == "steady":
        value = np.ones_like(s)
    elif track.kind == "varying":
        value = 1 - track.contrast * wave
    elif track.kind == "flashing":
        value = 0.15 + 0.85 * wave**2
    elif track.kind == "aeroplane":
        value = np.clip(4 * (wave - 0.3), 0.0, 1.0)
    else:
        # a meteor brightens slowly and goes out fast
        u = np.clip((s - track.first) / (track.last - track.first), 0, 1)
        value = u**1.5 * (1 - u) ** 0.5 / (0.75**1.5 * 0.25**0.5)
    return np.where((s >= track.first) & (s <= track.last), value, 0.0)
