"""Memory and CPU of a visit with many large detectors (design 3): workers x one detector, never the visit.

    python benchmarks/wide_visit.py [--detectors 189] [--workers 2] [--size 4096] [--keep] DIRECTORY

Makes a camera of that many detectors and one raw frame, links the frame once for every detector (bias and
flat likewise), and lets `skyquilt run` process the visit while it weighs the tree of processes five times a
second: proportional set size where the system tells it (pages that processes share are counted once), else
resident size. A detector of 4096 x 4096 needs 0.2 GB of disk for each product; `--calibrated` bounds the
number of those that have bias and flat.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from skyquilt.instrument import load_camera
from skyquilt.io.manifests import read_manifest, read_run
from skyquilt.io.products import path as product_path
from skyquilt.simulation.raw_files import write_raw
from skyquilt.workflow.template import make_survey

CAMERA = """\
name: wide
description: A mosaic of {n} equal detectors of 16 amplifiers; all of them see the same simulated field
focal_plane: {{plate_scale: 20.0}}     # 0.2 arcsec per pixel of 10 micron
filters: {{wide_r: r}}
detector_types:
  ccd:
    size: [{size}, {size}]
    pixel_size_um: 10.0
    amplifiers:
      grid: [8, 2]
      read_out: nearest_corner
      extension: '{{amplifier}}'
      prescan: 8
      overscan: 32
      gain: 1.5
      read_noise: 5.0
      saturation: 60000
detectors:
{detectors}
files: {{layout: detector, pattern: '*.fits'}}
header:
  recognise: {{INSTRUME: wide}}
  visit: OBSID
  detector_num: {{keyword: $FILE, extract: '_(\\d+)\\.fits'}}    # the frames are links to one file
  frame_type: {{keyword: IMGTYPE, map: {{SKY: science, BIAS: bias, FLAT: flat}}}}
  exposure_time: EXPTIME
  boresight_ra: RA
  boresight_dec: DEC
  rotation: ROTPA
  physical_filter: FILTER
  datetime_begin: {{keyword: DATE-BEG, format: isot, scale: utc}}
wcs: {{source: nominal}}
"""

SURVEY = {
    "survey": {"name": "wide", "camera": "wide", "raw": ["raw"]},
    "reference": {
        "path": "reference.fits",
        "columns": {"refId": "id", "ra": "ra", "dec": "dec"},
        "bands": {"r": {"flux": "flux", "error": "flux_error", "unit": "nJy"}},
        "epoch": {"value": 2026.0, "unit": "jyear"},
    },
}

VISIT = 260101001
POINTING = (150.0, 2.0)
N_FRAMES = 3
BIAS_LEVEL = 1000.0
GAIN, READ_NOISE = 1.5, 5.0
SKY, FLAT_LEVEL = 800.0, 30_000.0
FWHM = 3.5
STARS_PER_MEGAPIXEL = 180
FAINTEST, BRIGHTEST = 700.0, 3e5
NJY_PER_ELECTRON = 10.0
REFERENCE_SHARE = 0.1
STAMP = 15
GAP_MM = 0.5


def make_wide_survey(
    root: Path,
    n_detectors: int,
    size: int,
    workers: int,
    calibrated: int,
    density: float = STARS_PER_MEGAPIXEL,
) -> None:
    """Write a survey of one visit: camera, raws, bias and flat frames for some detectors, reference stars.

    Parameters
    ----------
    size : int
        Columns and rows of a detector [pixel].
    calibrated : int
        Detectors that have bias and flat frames; 0 for none.
    density : float
        Stars per megapixel.
    """
    definition = root / "cameras" / "wide.yaml"
    definition.parent.mkdir(parents=True)
    definition.write_text(camera_text(n_detectors, size))
    camera = load_camera(definition)
    rng = np.random.default_rng(1)
    x, y, flux = draw_stars(rng, size, density)
    _write_frames(root, camera, rng, star_image(x, y, flux, size), n_detectors, calibrated)
    _write_reference(root / "reference.fits", camera, x, y, flux)
    make_survey(root, "blank", str(definition), [str(root / "raw")])
    # YAML holds JSON
    content = {**SURVEY, "execution": {"threads_per_job": workers}}
    (root / "survey.yaml").write_text(json.dumps(content, indent=1))


def camera_text(n_detectors: int, size: int) -> str:
    """A camera definition: detectors row by row in the smallest square that holds them."""
    side = int(np.ceil(np.sqrt(n_detectors)))
    pitch = size * 0.01 + GAP_MM
    lines = []
    for number in range(n_detectors):
        row, column = divmod(number, side)
        centre = [round((at - (side - 1) / 2) * pitch, 4) for at in (column, row)]
        lines.append(f"  - {{id: {number}, name: D{number:03d}, type: ccd, centre_mm: {centre}}}")
    return CAMERA.format(n=n_detectors, size=size, detectors="\n".join(lines))


def draw_stars(
    rng: np.random.Generator, size: int, density: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [pixel] and fluxes [electron] of stars, numbers falling with the flux."""
    n = round(density * size * size / 1e6)
    x, y = rng.uniform(STAMP, size - STAMP, (2, n))
    return x, y, np.minimum(FAINTEST / rng.uniform(size=n), BRIGHTEST)


def star_image(x: np.ndarray, y: np.ndarray, flux: np.ndarray, size: int) -> np.ndarray:
    """Expected light of Gaussian stars [electron], float32 (size, size)."""
    image = np.zeros((size, size), np.float32)
    sigma = FWHM / (2 * np.sqrt(2 * np.log(2)))
    for at_x, at_y, light in zip(x, y, flux):
        left, low = round(at_x) - STAMP, round(at_y) - STAMP
        along_x = np.exp(-0.5 * ((np.arange(left, left + 2 * STAMP) - at_x) / sigma) ** 2)
        along_y = np.exp(-0.5 * ((np.arange(low, low + 2 * STAMP) - at_y) / sigma) ** 2)
        stamp = light / (2 * np.pi * sigma**2) * along_y[:, None] * along_x
        image[low : low + 2 * STAMP, left : left + 2 * STAMP] += stamp
    return image


def _write_frames(root, camera, rng, stars, n_detectors, calibrated):
    """One file of each exposure, and its links."""
    (root / "raw").mkdir()
    frames = [("science", "SKY", VISIT, stars + np.float32(SKY), n_detectors)]
    for number in range(N_FRAMES if calibrated else 0):
        frames.append((f"bias{number}", "BIAS", VISIT + 100 + number, None, calibrated))
        level = np.full_like(stars, FLAT_LEVEL)
        frames.append((f"flat{number}", "FLAT", VISIT + 200 + number, level, calibrated))
    for name, kind, number, expected, n_links in frames:
        file = root / f"{name}.fits"
        detector = camera.detectors[0]
        sections = {one.name: _read_out(rng, one, expected) for one in detector.amplifiers}
        write_raw(file, _header(kind, number), detector, sections)
        for link in range(n_links):
            os.link(file, root / "raw" / f"{name}_{link:03d}.fits")
        file.unlink()


def _read_out(rng, amplifier, expected):
    """Raw section of an amplifier, uint16 [ADU]; without light for a bias frame."""
    counts = rng.normal(BIAS_LEVEL, READ_NOISE / GAIN, amplifier.raw_section.shape)
    if expected is not None:
        counts[amplifier.raw_data.slices()] += rng.poisson(amplifier.from_assembled(expected)) / GAIN
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def _header(kind, number):
    from astropy.io import fits

    header = fits.Header()
    header["INSTRUME"] = "wide"
    header["OBSID"] = number
    header["IMGTYPE"] = kind
    header["EXPTIME"] = 0.0 if kind == "BIAS" else 30.0
    header["DATE-BEG"] = "2026-01-02T03:00:00"
    header["FILTER"] = "wide_r"
    header["RA"], header["DEC"], header["ROTPA"] = *POINTING, 0.0
    return header


def _write_reference(file, camera, x, y, flux):
    """The brightest stars where every detector sees them."""
    from astropy.table import Table

    bright = np.argsort(-flux)[: max(20, round(REFERENCE_SHARE * len(flux)))]
    views = [camera.nominal_wcs(detector.id, *POINTING, 0.0) for detector in camera.detectors]
    sky = [wcs.pixel_to_sky(x[bright], y[bright]) for wcs in views]
    ra, dec = (np.concatenate(each) for each in zip(*sky))
    light = np.tile(flux[bright] * NJY_PER_ELECTRON, len(camera.detectors))
    columns = {"id": np.arange(len(ra)), "ra": ra, "dec": dec, "flux": light, "flux_error": 0.01 * light}
    Table(columns).write(file)


@dataclass
class JobPeak:
    """Largest memory of the jobs of one stage [MB].

    Parameters
    ----------
    total, main, worker : float
        All processes together, the main one, one worker: as weighed, so a short peak may be missed.
    worker_high : float
        Largest resident size that a worker ever had, libraries included; the kernel's count, which misses
        nothing and does not depend on what the other workers do at that moment.
    """

    total: float = 0.0
    main: float = 0.0
    worker: float = 0.0
    worker_high: float = 0.0


@dataclass
class Peaks:
    """Memory of a run [MB].

    Parameters
    ----------
    measure : str
        PSS, or RSS where the system does not tell PSS.
    total : float
        All processes of the run at the worst moment: head, Snakemake and jobs.
    jobs : dict
        Stage -> peak of its jobs.
    """

    measure: str = "PSS"
    total: float = 0.0
    jobs: dict[str, JobPeak] = field(default_factory=dict)


class Scale:
    """Weighs a process and all its descendants until it is told to stop."""

    # finding descendants means a look at every process of the machine, which costs more than weighing
    WEIGHINGS_PER_LISTING = 5

    def __init__(self, pid: int, interval: float = 0.2) -> None:
        self.peaks = Peaks()
        self._root = psutil.Process(pid)
        self._interval = interval
        self._tree: list[tuple[psutil.Process, str, bool]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Scale":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        number = 0
        while not self._end.is_set():
            if number % self.WEIGHINGS_PER_LISTING == 0:
                self._list()
            self._weigh()
            number += 1
            self._end.wait(self._interval)

    def _list(self) -> None:
        """Descendants as they are now, the stage each works for, and whether it is a worker."""
        self._tree = []
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in processes:
            try:
                stage = stage_of(process)
                is_worker = stage != "" and stage_of(process.parent()) == stage
            except psutil.NoSuchProcess:
                continue
            self._tree.append((process, stage, is_worker))

    def _weigh(self) -> None:
        jobs: dict[str, list[tuple[bool, float]]] = {}
        total = 0.0
        for process, stage, is_worker in self._tree:
            try:
                size = self._size(process)
            except psutil.NoSuchProcess:
                continue
            total += size
            if stage:
                jobs.setdefault(stage, []).append((is_worker, size))
            if is_worker:
                peak = self.peaks.jobs.setdefault(stage, JobPeak())
                peak.worker_high = max(peak.worker_high, high_water(process.pid))
        self.peaks.total = max(self.peaks.total, total)
        for stage, sizes in jobs.items():
            peak = self.peaks.jobs.setdefault(stage, JobPeak())
            peak.total = max(peak.total, sum(size for _, size in sizes))
            peak.main = max(peak.main, sum(size for is_worker, size in sizes if not is_worker))
            peak.worker = max([peak.worker, *(size for is_worker, size in sizes if is_worker)])

    def _size(self, process: psutil.Process) -> float:
        """Memory of a process [MB]."""
        if self.peaks.measure == "PSS":
            try:
                return process.memory_full_info().pss / 1e6
            except (psutil.AccessDenied, AttributeError):
                self.peaks = Peaks("RSS")
        return process.memory_info().rss / 1e6


def high_water(pid: int) -> float:
    """Largest resident size of a process so far [MB]; 0 where the system does not tell, or it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, flags=re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def stage_of(process: psutil.Process | None) -> str:
    """Stage of a job's process, else empty: Snakemake runs a copy of its script, ``tmpabc.<stage>.py``."""
    words = process.cmdline() if process is not None else []
    if not words or "python" not in Path(words[0]).name:
        return ""
    scripts = [Path(word).name for word in words[1:] if word.endswith(".py")]
    return scripts[0].split(".")[1] if scripts and scripts[0].count(".") == 2 else ""


def run_weighed(root: Path, workers: int, options: str = "") -> Peaks:
    """Process the survey with `skyquilt run` and weigh it.

    Parameters
    ----------
    options : str
        Further options for Snakemake.

    Raises
    ------
    RuntimeError
        When the run fails; the message is its output.
    """
    command = [sys.executable, "-m", "skyquilt.workflow.cli", "run", str(root), "--cores", str(workers)]
    log = root / "run.out"
    with open(log, "w") as output:
        # one word: by itself a value that begins with a hyphen would be taken for an option
        process = subprocess.Popen(
            [*command, f"--snakemake={options}"], stdout=output, stderr=subprocess.STDOUT
        )
        with Scale(process.pid) as scale:
            code = process.wait()
    if code:
        raise RuntimeError(f"skyquilt run ended with {code}:\n{log.read_text()[-4000:]}")
    return scale.peaks


def characterized(root: Path) -> dict[str, str]:
    """Status of each detector of the visit, from its manifest."""
    manifest = read_manifest(product_path("bootstrap_manifest", root, visit=VISIT))
    return {part: entry["status"] for part, entry in manifest.parts.items()}


def cpu_seconds(root: Path) -> dict[str, float]:
    """CPU of the jobs of each stage [s], as their ``run.json`` say it."""
    found: dict[str, float] = {}
    for file in root.rglob("run.json"):
        run = read_run(file.parent)
        if "cpu_seconds" in run:
            found[run["rule"]] = found.get(run["rule"], 0.0) + run["cpu_seconds"]
    return found


def report(root: Path, peaks: Peaks, n_detectors: int, size: int, workers: int, calibrated: int) -> None:
    """Print memory and CPU of every stage."""
    megapixels = size * size / 1e6
    print(f"{n_detectors} detectors of {megapixels:.1f} Mpix, {calibrated} with bias and flat")
    print(f"{workers} workers; all processes at the worst moment: {peaks.total:.0f} MB ({peaks.measure})")
    print("                          MB of a job's processes      resident     CPU s     raw  CPU s per")
    print("stage                   all  per worker    main  a worker  at most              Mpix   raw Mpix")
    for stage, seconds in cpu_seconds(root).items():
        peak = peaks.jobs.get(stage, JobPeak())
        pixels = megapixels * (N_FRAMES * calibrated if stage.startswith("combine") else n_detectors)
        memory = f"{peak.total:>7.0f} {peak.total / workers:>11.0f} {peak.main:>7.0f} {peak.worker:>9.0f}"
        memory += f" {peak.worker_high:>8.0f}"
        print(f"{stage:<20} {memory} {seconds:>9.1f} {pixels:>7.0f} {seconds / pixels:>10.3f}")


def main(arguments: list[str]) -> None:
    """Make the survey, run it, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="where to work; must not exist")
    parser.add_argument("--detectors", type=int, default=189)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=4096, help="columns and rows of a detector")
    parser.add_argument("--stars", type=float, default=STARS_PER_MEGAPIXEL, help="stars per megapixel")
    parser.add_argument("--calibrated", type=int, help="detectors with bias and flat (default: all)")
    parser.add_argument("--keep", action="store_true", help="leave the directory there")
    options = parser.parse_args(arguments)
    asked = options.detectors if options.calibrated is None else options.calibrated
    calibrated = min(asked, options.detectors)
    begin = time.monotonic()
    make_wide_survey(
        options.directory, options.detectors, options.size, options.workers, calibrated, options.stars
    )
    print(f"survey made in {time.monotonic() - begin:.0f} s", flush=True)
    begin = time.monotonic()
    try:
        peaks = run_weighed(options.directory, options.workers)
        print(f"run took {time.monotonic() - begin:.0f} s")
        report(options.directory, peaks, options.detectors, options.size, options.workers, calibrated)
    finally:
        if not options.keep:
            shutil.rmtree(options.directory)


if __name__ == "__main__":
    main(sys.argv[1:])
