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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.primitives.failure import Outcome, ProcessingFailure, serial_map
from skyquilt.simulation.config import SimulationConfig
from skyquilt.simulation.detector_effects import (
    TrueDetector,
    collect,
    read_out,
    true_amplifiers,
    true_detector,
)
from skyquilt.simulation.optics import Optics, camera_optics, focal_from_pixel
from skyquilt.simulation.raw_files import physical_filter, primary_header, raw_name, write_raw
from skyquilt.simulation.scene import Frame, draw_scene, frame_truth, make_frame
from skyquilt.simulation.schedule import Visit, calibration_visits, random_stream, science_visits
from skyquilt.simulation.sky import REFERENCE_BANDS, Sky, reference_catalogue, simulate_sky, write_reference
from skyquilt.simulation.truth_tables import write_truth

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
        for name in ("raw", "reference", "truth"):
            (part / name).mkdir()
        science = [(visit, d.id) for visit in science_visits(config) for d in camera.detectors]
        calibration = [(visit, d.id) for visit in calibration_visits(config) for d in camera.detectors]
        write = functools.partial(write_science_frame, config, camera, sky, part / "raw")
        frames = _values(map(write, science))
        _values(map(functools.partial(write_calibration_frame, config, camera, part / "raw"), calibration))
        write_reference(part / "reference" / "gaia_like.fits", reference_catalogue(config, sky))
        write_truth(part / "truth", _truth_tables(config, camera, sky, frames))


def field_sky(config: SimulationConfig, camera: Camera) -> Sky:
    """The sky that the survey's visits may see."""
    optics = camera_optics(camera)
    reach = math.hypot(*(float(c) for c in optics.field_angle(optics.radius, 0.0)))
    return simulate_sky(config, math.degrees(math.atan(reach)) + config.dither_radius / 3600 + SKY_MARGIN_DEG)


def detector_truth(config: SimulationConfig, camera: Camera, detector: Detector) -> TrueDetector:
    """True response and amplifiers of one detector."""
    optics = camera_optics(camera)
    y, x = np.mgrid[: detector.ny, : detector.nx]
    x_mm, y_mm = focal_from_pixel(detector, x, y)
    return true_detector(config, detector, x_mm / optics.radius, y_mm / optics.radius)


def science_frame(config: SimulationConfig, camera: Camera, visit: Visit, detector_id: int) -> Frame:
    """Geometry, PSF and photometry of one detector of a visit, as they truly are."""
    detector = camera.detector(detector_id)
    noises = [amplifier.read_noise for amplifier in true_amplifiers(config, detector)]
    return make_frame(
        config, camera_optics(camera), detector, visit, float(np.sqrt(np.mean(np.square(noises))))
    )


def write_science_frame(
    config: SimulationConfig, camera: Camera, sky: Sky, directory: Path, unit: tuple[Visit, int]
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Simulate and write one detector of a science visit.

    Returns
    -------
    tuple of dict
        Columns of SOURCE_TRUTH and a row of VISIT_DETECTOR_TRUTH.
    """
    visit, detector_id = unit
    detector = camera.detector(detector_id)
    truth = detector_truth(config, camera, detector)
    frame = science_frame(config, camera, visit, detector_id)
    scene = draw_scene(config, frame, sky, truth)
    _expose(config, camera, frame.optics, truth, visit, scene.expected, directory)
    return scene.truth, frame_truth(frame)


def write_calibration_frame(
    config: SimulationConfig, camera: Camera, directory: Path, unit: tuple[Visit, int]
) -> None:
    """Simulate and write one detector of a bias, dark or flat."""
    visit, detector_id = unit
    truth = detector_truth(config, camera, camera.detector(detector_id))
    level = config.flat_level if visit.kind == "flat" else 0.0
    _expose(config, camera, camera_optics(camera), truth, visit, level * truth.response, directory)


def _expose(
    config: SimulationConfig,
    camera: Camera,
    optics: Optics,
    truth: TrueDetector,
    visit: Visit,
    expected: np.ndarray,
    directory: Path,
) -> None:
    """Collect the light, read it out and write the raw frame."""
    detector = truth.definition
    rng = random_stream(config, visit.kind, visit.visit, detector.id)
    charge = collect(config, rng, truth, expected, visit.exposure_time)
    sections = {a.definition.name: read_out(config, rng, a, charge) for a in truth.amplifiers}
    header = primary_header(camera, optics, detector, visit)
    write_raw(directory / raw_name(visit.visit, detector.id), header, detector, sections)


def _truth_tables(config, camera, sky, frames):
    """Columns of the five truth tables by name."""
    sources = [columns for columns, _ in frames]
    rows = [row for _, row in frames]
    visits = science_visits(config)
    bands = tuple(dict.fromkeys((*REFERENCE_BANDS, *config.distinct_bands)))
    amplifiers = [(d.id, a) for d in camera.detectors for a in true_amplifiers(config, d)]
    return {
        "source_truth": {k: np.concatenate([s[k] for s in sources]) for k in sources[0]} if sources else {},
        "object_truth": {
            "id": sky.id,
            "kind": np.where(sky.is_star, "star", "galaxy"),
            "ra": sky.ra,
            "dec": sky.dec,
            "halfLightRadius": sky.half_light_radius,
            **{f"flux_{band}": sky.flux[band] for band in bands},
        },
        "visit_detector_truth": {k: [row[k] for row in rows] for k in rows[0]} if rows else {},
        "visit_truth": {
            "visit": [v.visit for v in visits],
            "band": [v.band for v in visits],
            "ra": [v.ra for v in visits],
            "dec": [v.dec for v in visits],
            "rotation": [v.rotation for v in visits],
            "expMidptMJD": [v.mid_mjd_tai for v in visits],
        }
        if visits
        else {},
        "amplifier_truth": {
            "detector": [d for d, _ in amplifiers],
            "amplifier": [a.definition.name for _, a in amplifiers],
            "gain": [a.gain for _, a in amplifiers],
            "readNoise": [a.read_noise for _, a in amplifiers],
            "saturationAdu": [float(a.saturation_adu) for _, a in amplifiers],
        },
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
            visit, detector = outcome.item
            raise ProcessingFailure(
                outcome.reason, f"visit {visit.visit} detector {detector}: {outcome.detail}"
            )
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
