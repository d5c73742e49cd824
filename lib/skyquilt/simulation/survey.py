"""Simulation (design 7): a survey of raw frames, calibration frames, a reference catalogue and the truth."""

from __future__ import annotations

import contextlib
import functools
import glob
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.primitives.failure import Outcome, ProcessingFailure, serial_map
from skyquilt.simulation.calibration_frames import calibration_light, calibration_visits
from skyquilt.simulation.config import SimulationConfig
from skyquilt.simulation.detector_effects import (
    ChargeEvent,
    TrueDetector,
    collect,
    effect_stream,
    read_out,
    true_amplifiers,
    true_detector,
)
from skyquilt.simulation.detector_effects.truth_files import write_detector_truth, write_expected
from skyquilt.simulation.ghosts import ghost_light
from skyquilt.simulation.optics import camera_optics, focal_from_pixel, pixel_from_sky
from skyquilt.simulation.point_spread_truth import psf_truth
from skyquilt.simulation.raw_files import physical_filter, primary_header, raw_name, write_raw
from skyquilt.simulation.satellite_trails import ArtifactLight, LightEvent, trail_light
from skyquilt.simulation.scene import Frame, draw_scene, frame_truth, make_frame, visit_truth
from skyquilt.simulation.schedule import Visit, random_stream, science_visits
from skyquilt.simulation.sky import (
    REFERENCE_BANDS,
    Sky,
    object_truth,
    reference_catalogue,
    simulate_sky,
    write_reference,
)
from skyquilt.simulation.truth_tables import (
    FrameEvents,
    amplifier_columns,
    event_columns,
    pixel_columns,
    write_truth,
)

if TYPE_CHECKING:
    from skyquilt.instrument import Camera, Detector

Map = Callable[[Callable[[Any], Any], Sequence[Any]], list[Outcome]]

SKY_MARGIN_DEG = 0.02
"""Sources are made this far beyond the outermost pixels, so that their wings come in."""


def simulate_survey(
    config: SimulationConfig, camera: Camera, directory: str | Path, map: Map = serial_map
) -> None:
    """Make a survey below a directory that does not exist yet: raw/, reference/ and truth/.

    All is written into a temporary directory beside it, which is renamed at the end: the survey is whole or
    absent. Every file depends on the configuration and its own visit and detector only, not on the others,
    nor on the map.

    Parameters
    ----------
    config : SimulationConfig
    camera : Camera
        Its definition; the true gains and noises are drawn about it.
    directory : path
    map : callable
        `map(function, items) -> list[Outcome]`.

    Raises
    ------
    FileExistsError
        When there is something at `directory` other than an empty directory.
    ValueError
        When the camera has no filter of a band, or keeps several detectors in a file.
    ProcessingFailure
        When one of the units of work fails (a worker that dies): nothing is left then.
    """
    directory = Path(directory)
    _check(config, camera)
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists already; a survey is written into a new directory only")
    sky = field_sky(config, camera)
    with _whole_or_absent(directory) as part:
        for name in ("raw", "reference", "truth/expected"):
            (part / name).mkdir(parents=True)
        science = _over_detectors(
            map,
            functools.partial(write_science_frame, config, camera, sky, part),
            science_visits(config),
            camera,
        )
        calibration = _over_detectors(
            map,
            functools.partial(write_calibration_frame, config, camera, part / "raw"),
            calibration_visits(config),
            camera,
        )
        write_one = functools.partial(write_one_detector, config, camera, part / "truth")
        _values(map(write_one, [d.id for d in camera.detectors]))
        write_reference(part / "reference" / "gaia_like.fits", reference_catalogue(config, sky))
        write_truth(part / "truth", _truth_tables(config, camera, sky, science, calibration))
        with contextlib.suppress(OSError):
            # empty when no images are asked for
            (part / "truth" / "expected").rmdir()


def _over_detectors(map, function, visits, camera):
    """Values of a function of (visit, detector id), visit by visit.

    It is called detector by detector, so that a worker makes the truth of a detector once for many visits.
    """
    values = _values(map(function, [(visit, d.id) for d in camera.detectors for visit in visits]))
    return [values[k * len(visits) + i] for i in range(len(visits)) for k in range(len(camera.detectors))]


def field_sky(config: SimulationConfig, camera: Camera) -> Sky:
    """The sky that the survey's visits may see."""
    optics = camera_optics(camera)
    reach = math.hypot(*(float(c) for c in optics.field_angle(optics.radius, 0.0)))
    return simulate_sky(config, math.degrees(math.atan(reach)) + config.dither_radius / 3600 + SKY_MARGIN_DEG)


@functools.lru_cache(maxsize=1)
def _last_truth() -> dict[str, Any]:
    """What `detector_truth` made last, in this process."""
    return {}


def detector_truth(config: SimulationConfig, camera: Camera, detector: Detector) -> TrueDetector:
    """True response, amplifiers and defects of one detector; the last one made is kept."""
    last = _last_truth()
    optics = camera_optics(camera)
    key = (config.seed, config.detector, optics, detector)
    if last.get("key") != key:
        last.clear()
        y, x = np.ogrid[: detector.ny, : detector.nx]
        u, v = (c.astype(np.float32) / optics.radius for c in focal_from_pixel(detector, x, y))
        last["truth"] = true_detector(config.detector, config.seed, detector, u, v)
        last["key"] = key
    return last["truth"]


def science_frame(config: SimulationConfig, camera: Camera, visit: Visit, detector_id: int) -> Frame:
    """Geometry, PSF and photometry of one detector of a visit, as they truly are."""
    detector = camera.detector(detector_id)
    amplifiers = true_amplifiers(config.detector, config.seed, detector)
    noise = float(np.sqrt(np.mean([a.read_noise**2 for a in amplifiers])))
    return make_frame(config, camera_optics(camera), detector, visit, noise)


@dataclass(frozen=True)
class FrameTruth:
    """Truth about one detector of a science visit: columns of SOURCE_TRUTH, a row of VISIT_DETECTOR_TRUTH, events,
    columns of PSF_TRUTH."""

    sources: dict[str, np.ndarray]
    row: dict[str, object]
    events: tuple[FrameEvents, ...]
    psf: dict[str, np.ndarray]


def write_science_frame(
    config: SimulationConfig, camera: Camera, sky: Sky, directory: Path, unit: tuple[Visit, int]
) -> FrameTruth:
    """Simulate and write one detector of a science visit, all snaps.

    Parameters
    ----------
    directory : path
        Of the survey: raw frames go to raw/, expected images to truth/expected/.
    """
    visit, detector_id = unit
    truth = detector_truth(config, camera, camera.detector(detector_id))
    frame = science_frame(config, camera, visit, detector_id)
    scene = draw_scene(config, frame, sky, truth)
    fringe_scale = night_lines(config, visit)
    keep = visit.visit in _visits_with_images(config)
    happened = []
    for snap, seen in enumerate(scene.snaps):
        artifacts = artifact_light(config, camera, frame, sky, snap)
        glow = with_fringes(truth, visit.band, fringe_scale, seen.sky)
        expected = truth.received(seen.light + glow + artifacts.light)
        if keep:
            name = raw_name(visit.visit, snap, detector_id)
            write_expected(directory / "truth" / "expected" / name, expected, truth.received(seen.light))
        events = _expose(config, camera, truth, visit, snap, expected, directory / "raw")
        seen_events = tuple(received_event(truth, event) for event in artifacts.events)
        happened.append((visit.visit, snap, detector_id, seen_events + events))
    row = frame_truth(frame) | {"fringeScale": fringe_scale}
    return FrameTruth(scene.truth, row, tuple(happened), psf_truth(frame))


def artifact_light(
    config: SimulationConfig, camera: Camera, frame: Frame, sky: Sky, snap: int
) -> ArtifactLight:
    """Light of trails and ghosts in one snap on one detector."""
    visit, detector, optics = frame.visit, frame.detector, frame.optics
    # one unit of brightness for all detectors of a visit
    definition = camera.detectors[0].amplifiers[0]
    noise = math.sqrt(frame.sky_electrons / visit.n_snaps + definition.read_noise**2)
    seeing = visit.seeing / frame.pixel_arcsec
    rng = random_stream(config, "trail", visit.visit)
    trails = trail_light(config.trails, rng, optics, detector, seeing, noise, snap, visit.n_snaps)
    if not config.ghosts.enabled:
        return trails
    opening = visit.snap(snap)
    stars = sky.select(sky.is_star)
    x, y = pixel_from_sky(optics, detector, frame.pointing, *stars.positions_at(opening.mid_mjd_tai))
    somewhere = np.isfinite(x) & np.isfinite(y)
    x_mm, y_mm = focal_from_pixel(detector, x[somewhere], y[somewhere])
    electrons = stars.flux[visit.band][somewhere] / frame.njy_per_electron / visit.n_snaps
    ghosts = ghost_light(config.ghosts, optics, detector, x_mm, y_mm, electrons, noise)
    return ArtifactLight(trails.light + ghosts.light, trails.events + ghosts.events)


def received_event(truth: TrueDetector, event: LightEvent) -> ChargeEvent:
    """A trail or ghost as a detector's response leaves it."""
    electrons = event.electrons * truth.response[event.y, event.x]
    ends = (event.x0, event.y0, event.x1, event.y1)
    return ChargeEvent(event.kind, event.event, event.x, event.y, electrons, math.nan, event.width, ends)


def night_lines(config: SimulationConfig, visit: Visit) -> float:
    """Height of a visit's fringes over the configured one: the night sky's lines come and go."""
    rng = effect_stream(config.seed, "night_lines", visit.visit)
    return 1 + config.detector.fringe_scatter * float(np.clip(rng.normal(), -3, 3))


def with_fringes(truth: TrueDetector, band: str, scale: float, sky: np.ndarray) -> np.ndarray:
    """Sky light with the fringes of a band, float32 (ny, nx) [e]."""
    sky = np.asarray(sky, dtype=np.float32)
    pattern = truth.fringe(band)
    return sky if pattern is None else sky * (1 + np.float32(scale) * pattern)


def _visits_with_images(config: SimulationConfig) -> set[int]:
    """The first visits of each band, whose expected images are kept."""
    chosen: dict[str, list[int]] = {}
    for visit in science_visits(config):
        numbers = chosen.setdefault(visit.band, [])
        if len(numbers) < config.detector.truth_images:
            numbers.append(visit.visit)
    return {number for numbers in chosen.values() for number in numbers}


def write_calibration_frame(
    config: SimulationConfig, camera: Camera, directory: Path, unit: tuple[Visit, int]
) -> FrameEvents:
    """Simulate and write one detector of a calibration frame; what happened in it."""
    visit, detector_id = unit
    truth = detector_truth(config, camera, camera.detector(detector_id))
    light = calibration_light(config, truth, visit)
    if visit.kind == "fringe":
        light = with_fringes(truth, visit.band, 1.0, light)
    events = _expose(config, camera, truth, visit, 0, truth.received(light), directory)
    return visit.visit, 0, detector_id, events


def _expose(
    config: SimulationConfig,
    camera: Camera,
    truth: TrueDetector,
    visit: Visit,
    snap: int,
    expected: np.ndarray,
    directory: Path,
) -> tuple[ChargeEvent, ...]:
    """Collect the light, read it out and write the raw frame."""
    detector = truth.definition
    exposure_time = visit.snap(snap).exposure_time
    collected = collect(truth, expected, exposure_time, visit.visit, snap)
    sections = read_out(truth, collected.charge, visit.visit, snap)
    header = primary_header(camera, camera_optics(camera), detector, visit, snap)
    write_raw(directory / raw_name(visit.visit, snap, detector.id), header, detector, sections)
    return collected.events


def write_one_detector(config: SimulationConfig, camera: Camera, directory: Path, detector_id: int) -> None:
    """Write the truth about one detector that all of its exposures share."""
    truth = detector_truth(config, camera, camera.detector(detector_id))
    write_detector_truth(directory, truth, config.distinct_bands)


def _truth_tables(config, camera, sky, science, calibration):
    """Columns of the truth tables by name."""
    sources, rows = [frame.sources for frame in science], [frame.row for frame in science]
    psfs = [frame.psf for frame in science if len(frame.psf["x"])]
    frames = [*calibration, *(snap for frame in science for snap in frame.events)]
    visits = science_visits(config)
    bands = tuple(dict.fromkeys((*REFERENCE_BANDS, *config.distinct_bands)))
    amplifiers = [
        (d.id, a) for d in camera.detectors for a in true_amplifiers(config.detector, config.seed, d)
    ]
    return {
        "source_truth": {k: np.concatenate([s[k] for s in sources]) for k in sources[0]} if sources else {},
        "object_truth": object_truth(sky, bands),
        "psf_truth": {k: np.concatenate([p[k] for p in psfs]) for k in psfs[0]} if psfs else {},
        "visit_detector_truth": {k: [row[k] for row in rows] for k in rows[0]} if rows else {},
        "visit_truth": visit_truth(config, visits) if visits else {},
        "amplifier_truth": amplifier_columns(amplifiers),
        "event_truth": event_columns(frames),
        "pixel_truth": pixel_columns(frames),
    }


def _check(config, camera):
    if camera.files.per_visit:
        raise ValueError(
            f"camera {camera.name} keeps all detectors in a file; the simulation writes one per detector"
        )
    for band in config.distinct_bands:
        physical_filter(camera, band)


def _values(outcomes: list[Outcome]) -> list[Any]:
    for outcome in outcomes:
        if not outcome.ok:
            unit = outcome.item
            name = (
                f"visit {unit[0].visit} detector {unit[1]}" if isinstance(unit, tuple) else f"detector {unit}"
            )
            raise ProcessingFailure(outcome.reason, f"{name}: {outcome.detail}")
    return [outcome.value for outcome in outcomes]


@contextlib.contextmanager
def _whole_or_absent(directory: Path) -> Iterator[Path]:
    """Yield a new directory beside `directory`; it takes that name when the block ends well, else it goes."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    owner = f".{directory.name}.{socket.gethostname()}."
    for old in directory.parent.glob(f"{glob.escape(owner)}*.part"):
        if not _alive(old.name.removeprefix(owner).removesuffix(".part")):
            shutil.rmtree(old)
    part = directory.with_name(f"{owner}{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
        if directory.exists():
            directory.rmdir()
        part.rename(directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _alive(pid: str) -> bool:
    """Whether another process of that number runs; this one's own leftovers count as dead."""
    if not pid.isdigit() or int(pid) == os.getpid():
        return not pid.isdigit()
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
