"""Satellite trails: what is found by surface brightness and width, what is masked, what is false, what it costs.

    python benchmarks/satellite_trails.py [--frames 100] [--seed 1] [--size 1024] [--cost]

Frames hold stars (sparse to crowded; saturated ones with bleeding columns, spikes and halos), galaxies (edge-on ones
too), bad columns, charge transfer tails, fringes, amplifier steps, a gradient and glowing edges. Trails are those of the
simulation. False trails are counted on frames without any.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import numpy as np

from skyquilt.algorithms.artifact_detection.satellite_trails import (
    SatelliteTrailsConfig,
    find_trails,
    trail_mask,
)
from skyquilt.instrument.camera import Detector
from skyquilt.simulation.optics import Optics
from skyquilt.simulation.satellite_trails import SatelliteTrailsConfig as SimulatedTrails
from skyquilt.simulation.satellite_trails import draw_on_detector, draw_tracks

BRIGHTNESSES = (0.5, 0.7, 1.0, 2.0, 5.0, 30.0)
WIDTHS = (2.0, 4.0, 7.0, 12.0)
FULL_WELL = 1e5


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame with its noise: `expected` [e] has no noise yet."""

    expected: np.ndarray
    unusable: np.ndarray
    noise: float
    read_noise: float
    fwhm: float
    crowded: bool

    def expose(self, rng: np.random.Generator, extra: np.ndarray | float = 0.0):
        """(image, variance) float32 of the frame with more light in it."""
        mean = self.expected + extra
        image = rng.poisson(np.maximum(mean, 0)) + rng.normal(0, self.read_noise, mean.shape)
        # what a pipeline knows: the counts themselves
        variance = np.maximum(image, 0.25 * self.noise**2) + self.read_noise**2
        return image.astype(np.float32), variance.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--cost", action="store_true", help="only the CPU time on 4096 x 4096")
    options = parser.parse_args()
    if options.cost:
        cost(options.seed)
        return
    rng = np.random.default_rng(options.seed)
    config = SatelliteTrailsConfig()
    false, empty, spent = [], 0, 0.0
    rows = []
    for number in range(options.frames):
        frame = make_frame(rng, options.size)
        image, variance = frame.expose(rng)
        begin = time.process_time()
        trails = find_trails(image, variance, frame.unusable, config, frame.fwhm)
        spent += time.process_time() - begin
        empty += 1
        false += [(number, trail) for trail in trails]
        rows += [judge(rng, frame, config, options.size) for _ in range(2)]
    print(
        f"{empty} frames without trails: {len(false)} false; {spent / empty / options.size**2 * 1e6:.3f} CPU s/Mpix"
    )
    for number, trail in false:
        print(f"  frame {number}: {trail}")
    table(rows)


def judge(rng, frame, config, size):
    """One frame with one random trail: (brightness [sigma], width, found, share masked, overmasked, kind, length)."""
    simulated = SimulatedTrails(per_visit=1.0, ending=0.2)
    optics, detector = camera(size)
    while True:
        tracks = draw_tracks(simulated, rng, optics.radius)[:1]
        if tracks:
            brightness = float(rng.choice(BRIGHTNESSES))
            track = dataclasses.replace(
                tracks[0], surface_brightness=brightness, width=float(rng.choice(WIDTHS))
            )
            drawn = draw_on_detector((track,), optics, detector, frame.fwhm, frame.noise)
            if drawn.events:
                break
    event = drawn.events[0]
    image, variance = frame.expose(rng, drawn.light)
    trails = find_trails(image, variance, frame.unusable, config, frame.fwhm)
    mask = trail_mask(trails, image.shape, config)
    share = float(mask[event.y, event.x].mean())
    return {
        "brightness": brightness,
        "mean": event.surface_brightness / frame.noise,
        "width": track.width,
        "found": share > 0.3,
        "masked": share,
        "extra": int(mask.sum()) - int(mask[event.y, event.x].sum()),
        "area": event.x.size,
        "kind": track.kind,
        "length": float(np.hypot(event.x1 - event.x0, event.y1 - event.y0)),
        "crowded": frame.crowded,
        "event": event,
        "trails": trails,
    }


def table(rows) -> None:
    """Print what was found and masked, by brightness, width, kind and length."""

    def line(label, chosen):
        if chosen:
            found = [r for r in chosen if r["found"]]
            masked = sum(r["masked"] * r["area"] for r in found) / max(sum(r["area"] for r in found), 1)
            extra = sum(r["extra"] for r in found) / max(sum(r["area"] for r in found), 1)
            share = len(found) / len(chosen)
            error = np.sqrt(share * (1 - share) / len(chosen))
            print(f"{label:<28} {len(chosen):5d}  {share:.3f} +- {error:.3f}  {masked:.3f}  {extra:.2f}")

    print(f"{'':<28} trails  found           masked  other pixels masked / trail's")
    for value in BRIGHTNESSES:
        line(f"{value} sigma per pixel", [r for r in rows if r["brightness"] == value])
    # a track is said to have its brightest places' brightness; what counts is the mean of its pixels
    bright = [r for r in rows if r["mean"] >= 0.97]
    line("mean of 1 sigma and above", bright)
    long = [r for r in bright if r["length"] >= 100]
    line("  of these 100 pixels long", long)
    for value in WIDTHS:
        line(f"  width {value}", [r for r in bright if r["width"] == value])
    for kind in ("steady", "varying", "flashing", "aeroplane", "meteor"):
        line(f"  {kind}", [r for r in bright if r["kind"] == kind])
    for low, high in ((0, 100), (100, 250), (250, 500), (500, 1e9)):
        line(f"  length {low} to {high:.0f}", [r for r in bright if low <= r["length"] < high])
    for crowded in (False, True):
        line("  crowded" if crowded else "  sparse", [r for r in bright if r["crowded"] == crowded])


def cost(seed: int) -> None:
    """CPU seconds per Mpix on 4096 x 4096, without and with a trail, after a warm-up."""
    rng = np.random.default_rng(seed)
    size = 4096
    config = SatelliteTrailsConfig()
    frame = make_frame(rng, size)
    optics, detector = camera(size)
    simulated = SimulatedTrails(per_visit=30.0, ending=0.0, kinds=(1, 0, 0, 0, 0))
    light = draw_on_detector(
        draw_tracks(simulated, rng, optics.radius)[:2], optics, detector, frame.fwhm, frame.noise
    )
    for label, extra in (("warm-up", 0.0), ("no trail", 0.0), ("two trails", light.light)):
        image, variance = frame.expose(rng, extra)
        begin = time.process_time()
        trails = find_trails(image, variance, frame.unusable, config, frame.fwhm)
        spent = time.process_time() - begin
        print(f"{label}: {spent / size**2 * 1e6:.4f} CPU s/Mpix, {len(trails)} trails")


def camera(size: int) -> tuple[Optics, Detector]:
    """Optics with 0.1 % of distortion and a detector in the middle of the field."""
    detector = Detector(1, "D", "science", size, size, 0.01, (0.0, 0.0), 0.0, ())
    radius = 0.01 * size / np.sqrt(2)
    return Optics(25.0, (1e-3 / radius**2,), False, radius), detector


def make_frame(rng: np.random.Generator, size: int = 1024, crowded: bool | None = None) -> Frame:
    """A frame without trails, as hard as survey frames get."""
    sky = 10 ** rng.uniform(2.0, 3.6)
    read_noise = rng.uniform(4, 10)
    noise = float(np.sqrt(sky + read_noise**2))
    fwhm = rng.uniform(2.3, 6.0)
    crowded = bool(rng.uniform() < 0.2) if crowded is None else crowded
    y, x = np.mgrid[:size, :size].astype(np.float32)
    image = np.full((size, size), sky)
    image *= 1 + 0.05 * ((x - size / 2) * rng.normal() + (y - size / 2) * rng.normal()) / size
    if rng.uniform() < 0.3:
        image += sky * rng.uniform(0.003, 0.02) * fringes(rng, x, y)
    unusable = np.zeros(image.shape, dtype=bool)
    area = size**2 / 1024**2
    density = 1024**2 / (15 * 2.27 * fwhm**2) if crowded else 10 ** rng.uniform(1.7, 2.8)
    add_stars(rng, image, unusable, x, y, int(density * area), fwhm, noise)
    add_galaxies(rng, image, int(rng.uniform(50, 400) * area), fwhm, noise)
    add_defects(rng, image, unusable, noise)
    return Frame(image, unusable, noise, read_noise, fwhm, crowded)


def fringes(rng, x, y):
    """Curved wavy lines of amplitude 1."""
    a, b, c, d = rng.uniform(0, 2 * np.pi, 4)
    period = rng.uniform(30, 120)
    u = x * np.cos(a) + y * np.sin(a)
    v = y * np.cos(a) - x * np.sin(a)
    bend = rng.uniform(5, 60) * np.sin(v / rng.uniform(150, 600) + c) + 20 * np.sin(u / 300 + d)
    return np.sin(2 * np.pi * (u + bend) / period + b)


def add_stars(rng, image, unusable, x, y, n, fwhm, noise) -> None:
    """Stars of S/N 5 up to far beyond full well, with what bright ones do to a detector."""
    size = image.shape[0]
    scale = 0.5 * fwhm / np.sqrt(2 ** (1 / 3) - 1)
    least = 5 * noise * 1.5 * fwhm
    flux = least * rng.uniform(size=n) ** -rng.uniform(1.0, 1.4)
    flux = np.minimum(flux, FULL_WELL * fwhm**2 * 300)
    spikes, trap = rng.uniform(0, np.pi / 2), rng.uniform(0, 0.02)
    arms = (2, 4, 6)[rng.integers(3)] if rng.uniform() < 0.7 else 0
    for f in np.sort(flux):
        cx, cy = rng.uniform(-20, size + 20, 2)
        reach = min(scale * max((f * 2 / np.pi / scale**2 / (0.01 * noise)) ** (1 / 6), 3), 4 * size)
        where, dx, dy = window(size, cx, cy, reach)
        if where is None:
            continue
        peak = 2 * f / (np.pi * scale**2)
        image[where] += peak * (1 + (dx**2 + dy**2) / scale**2) ** -3.0
        if trap > 0.002 and peak > 20 * noise:
            tail = (
                trap
                * min(peak, FULL_WELL)
                * np.exp(-np.abs(dy) / 25)
                * (dy > 0)
                * np.exp(-(dx**2) / scale**2)
            )
            image[where] += tail
        if peak > FULL_WELL:
            saturate(rng, image, unusable, x, y, cx, cy, f, peak, scale, spikes, arms, noise)


def saturate(rng, image, unusable, x, y, cx, cy, flux, peak, scale, spikes, arms, noise) -> None:
    """Clip, bleed, and add halo and spikes."""
    size = image.shape[0]
    r = np.hypot(x - cx, y - cy)
    image += np.minimum(2e-4 * flux / (r + 3) ** 2.2, peak / 100)
    for k in range(arms):
        angle = spikes + np.pi * k / arms * (2 if arms % 2 else 1) if arms != 2 else spikes + np.pi / 2 * k
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        along = (y - cy) * np.sin(angle) + (x - cx) * np.cos(angle)
        level = 3e-4 * flux / scale * np.exp(-(across**2) / scale**2) / (np.abs(along) + 5) ** 1.5
        image += np.where(level > 0.02 * noise, level, 0)
    full = image > FULL_WELL
    unusable |= full
    column = round(cx)
    length = int(20 + 40 * np.sqrt(peak / FULL_WELL) * rng.uniform(0.5, 1.5))
    half = 1 + int(np.log10(peak / FULL_WELL))
    y0, y1 = max(int(cy) - length, 0), min(int(cy) + length, size)
    if 0 <= column < size and y0 < y1:
        columns = slice(max(column - half + 1, 0), min(column + half, size))
        image[y0:y1, columns] = FULL_WELL
        unusable[y0:y1, columns] = True
        # the ends of a bleed lie below full well
        for rows in (slice(max(y0 - 40, 0), y0), slice(y1, min(y1 + 40, size))):
            image[rows, column] += FULL_WELL * rng.uniform(0.001, 0.2)
    np.minimum(image, FULL_WELL, out=image)


def add_galaxies(rng, image, n, fwhm, noise) -> None:
    """Exponential discs of any inclination, a few large and edge-on."""
    size = image.shape[0]
    for k in range(n):
        large = k < 2 * (size / 1024) ** 2
        length = rng.uniform(12, 40) if large else rng.uniform(1, 5)
        ratio = rng.uniform(0.06, 0.3) if large else rng.uniform(0.15, 1)
        peak = noise * 10 ** rng.uniform(0.0, 2.0 if large else 1.3)
        cx, cy = rng.uniform(0, size, 2)
        angle = rng.uniform(0, np.pi)
        where, dx, dy = window(size, cx, cy, 9 * length + 2 * fwhm)
        u = dx * np.cos(angle) + dy * np.sin(angle)
        v = dy * np.cos(angle) - dx * np.sin(angle)
        minor = np.hypot(ratio * length, 0.5 * fwhm)
        s = np.sqrt((u / np.hypot(length, 0.5 * fwhm)) ** 2 + (v / minor) ** 2 + 0.05)
        image[where] += peak * np.exp(-s)


def add_defects(rng, image, unusable, noise) -> None:
    """Bad columns with dirty neighbours, amplifier steps, edges that glow or lose light."""
    size = image.shape[0]
    for column in rng.integers(0, size, rng.integers(0, 6)):
        start = int(rng.integers(0, size)) if rng.uniform() < 0.5 else 0
        image[start:, column] += noise * rng.normal() * 20
        unusable[start:, column] = True
        if column + 1 < size:
            image[start:, column + 1] += noise * rng.uniform(0, 1)
    steps = noise * rng.normal(size=(2, 4)) * rng.choice([0.0, 0.3, 1.0])
    image += np.repeat(np.repeat(steps, size // 2, axis=0), size // 4, axis=1)
    depth = np.minimum(np.arange(size), size - 1 - np.arange(size))
    edge = noise * rng.normal() * np.exp(-depth / rng.uniform(2, 8)) * 2
    image += edge[:, None] + edge[None, :]


def window(size: int, cx: float, cy: float, reach: float):
    """Slices about a place and the distances from it, or (None, None, None)."""
    x0, x1 = max(int(cx - reach), 0), min(int(cx + reach) + 2, size)
    y0, y1 = max(int(cy - reach), 0), min(int(cy + reach) + 2, size)
    if x0 >= x1 or y0 >= y1:
        return None, None, None
    return (
        (slice(y0, y1), slice(x0, x1)),
        np.arange(x0, x1)[None, :] - cx,
        np.arange(y0, y1)[:, None] - cy,
    )


if __name__ == "__main__":
    main()
