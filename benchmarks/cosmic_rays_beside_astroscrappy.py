"""Cosmic rays beside their peer: events found, false events, star cores hit and cost, of the pipeline and astroscrappy.

    python benchmarks/cosmic_rays_beside_astroscrappy.py [--size 1024] [--seeds 1 2 3] [--cost 4096] [--snaps]

Fields of known truth, made here with nothing of the pipeline: stars with Kolmogorov and Moffat profiles (GalSim) of
elliptical shape that changes over the field, close pairs, crowded fields, saturated stars that bleed, galaxies with
cusps; muons of isotropic direction through 100 um of silicon in pixels of 10 um (80 electrons per um, Landau-like),
worms of scattered electrons and point hits, diffused by 0.35 pixel. Half of the events keep the charge that physics
gives, half are scaled so that the peak S/N is spread evenly in its logarithm. Peak S/N is the charge left in the
brightest pixel over the noise of that pixel without the hit. With `--snaps` each field is taken twice, with hits and noise
of its own and seeing 5 % worse in the second, and the two are subtracted (SubtractSnaps); the first is judged.
"""

from __future__ import annotations

import argparse
import functools
import time
from dataclasses import dataclass
from types import SimpleNamespace

import galsim
import numpy as np
from scipy import ndimage, special

BINS = ((5, 10), (10, 30), (30, 1e9))


@dataclass(frozen=True)
class Field:
    """What a field is made of: side [pixel], FWHM [pixel], sky and read noise [electron], densities [per Mpix]."""

    size: int = 1024
    fwhm: float = 3.0
    sky: float = 300.0
    read_noise: float = 5.0
    n_stars: float = 1500
    n_galaxies: float = 150
    n_events: float = 150
    ellipticity: float = 0.1
    full_well: float = 90000.0
    profile: str = "kolmogorov"
    scaled: float = 0.5


def make_field(field: Field, seed: int, snap: int = 0) -> SimpleNamespace:
    """Image [electron, sky in it], variance, saturated pixels, and the truth of stars and hits."""
    place = [seed, int(100 * field.fwhm), int(field.sky)]
    rng = np.random.default_rng(place)
    light = np.full((field.size, field.size), float(field.sky))
    blur = 1 + 0.05 * snap
    stars = add_stars(light, field, rng, blur)
    add_galaxies(light, field, rng, blur)
    rng = np.random.default_rng([*place, 1 + snap])
    noise = np.sqrt(np.maximum(light, 0) + field.read_noise**2)
    hits, number, events = add_events(noise, field, rng)
    electrons = rng.poisson(np.maximum(light, 0)).astype(float) + hits
    saturated = bleed(electrons, field.full_well)
    image = electrons + rng.normal(0, field.read_noise, light.shape)
    variance = np.maximum(electrons, 1.0) + field.read_noise**2
    return SimpleNamespace(
        image=image.astype(np.float32),
        variance=variance.astype(np.float32),
        saturated=ndimage.binary_dilation(saturated),
        noise=noise,
        hits=hits,
        number=number,
        events=events,
        stars=stars,
        light=light,
    )


def add_stars(light: np.ndarray, field: Field, rng, blur: float) -> np.ndarray:
    """Stars of power-law brightness, a tenth of them in close pairs; rows of x, y, peak S/N."""
    n = rng.poisson(field.n_stars * light.size / 1e6)
    x, y = rng.uniform(0, field.size, (2, n))
    pairs = n // 10
    angle, gap = rng.uniform(0, 2 * np.pi, pairs), field.fwhm * rng.uniform(0.5, 2.0, pairs)
    x[:pairs] = x[pairs : 2 * pairs] + gap * np.cos(angle)
    y[:pairs] = y[pairs : 2 * pairs] + gap * np.sin(angle)
    noise = np.sqrt(field.sky + field.read_noise**2)
    least = 3 * noise * field.fwhm**2
    flux = np.minimum(least * rng.uniform(1e-5, 1, n) ** (-1 / 0.8), 1e7 * field.fwhm**2)
    parts = 4
    rows = []
    for xs, ys, fs in zip(x, y, flux):
        a, b = (int(np.clip(v * parts / field.size, 0, parts - 1)) for v in (xs, ys))
        stamps = point_stamps(
            field.profile, field.fwhm * blur, field.ellipticity * (0.5 + 0.5 * (a % 2)), 0.8 * (b % 2)
        )
        peak = _add(light, stamps, xs, ys, fs)
        rows.append((xs, ys, peak))
    result = np.array(rows).reshape(-1, 3)
    result[:, 2] /= np.sqrt(result[:, 2] + noise**2)
    return result


@functools.cache
def point_stamps(profile: str, fwhm: float, ellipticity: float, angle: float) -> np.ndarray:
    """Point source of flux 1 on pixels, for 8 x 8 places within the pixel; shape (8, 8, n, n)."""
    # bright stars must not ring at the accuracy that GalSim has by default
    fine = galsim.GSParams(
        maxk_threshold=1e-5, kvalue_accuracy=1e-7, folding_threshold=1e-3, maximum_fft_size=16384
    )
    models = {
        "kolmogorov": lambda: galsim.Kolmogorov(fwhm=fwhm, gsparams=fine),
        "moffat": lambda: galsim.Moffat(beta=2.7, fwhm=fwhm, trunc=8 * fwhm, gsparams=fine),
        "gaussian": lambda: galsim.Gaussian(fwhm=fwhm, gsparams=fine),
    }
    source = models[profile]().shear(e=ellipticity, beta=angle * galsim.radians)
    seen = galsim.Convolve(source, galsim.Pixel(1.0), gsparams=fine)
    side = 2 * int(5 * fwhm) + 1
    # one image on eighths of pixels holds all places: of a pixel's eighths each is a place, seen from the other side
    grid = seen.drawImage(nx=8 * side, ny=8 * side, scale=1 / 8, method="no_pixel", dtype=float).array * 64
    by_place = grid.reshape(side, 8, side, 8).transpose(1, 3, 0, 2)[::-1, ::-1]
    # the stamp of a bright star must not end in a step
    radius = np.hypot(*(np.indices((side, side)) - side // 2)) / fwhm
    taper = np.cos(0.5 * np.pi * np.clip((radius - 3.5) / 1.4, 0, 1)) ** 2
    return np.ascontiguousarray(np.maximum(by_place, 0) * taper)


def _add(light: np.ndarray, stamps: np.ndarray, x: float, y: float, flux: float) -> float:
    """Add a source at a place rounded to an eighth of a pixel; its light in the brightest pixel."""
    column, row = round(x), round(y)
    stamp = stamps[min(int((y - row + 0.5) * 8), 7), min(int((x - column + 0.5) * 8), 7)]
    half = stamp.shape[0] // 2
    j = np.arange(row - half, row + half + 1)
    i = np.arange(column - half, column + half + 1)
    inside_j, inside_i = (j >= 0) & (j < light.shape[0]), (i >= 0) & (i < light.shape[1])
    light[np.ix_(j[inside_j], i[inside_i])] += flux * stamp[np.ix_(inside_j, inside_i)]
    return float(flux * stamp.max())


def add_galaxies(light: np.ndarray, field: Field, rng, blur: float) -> None:
    """De Vaucouleurs and exponential galaxies behind the PSF."""
    psf = galsim.Kolmogorov(fwhm=field.fwhm * blur)
    noise = np.sqrt(field.sky + field.read_noise**2)
    for k in range(rng.poisson(field.n_galaxies * light.size / 1e6)):
        radius = rng.uniform(1, 8)
        galaxy = galsim.DeVaucouleurs(half_light_radius=radius) if k % 2 else galsim.Exponential(radius)
        flux = noise * 4 * (radius + field.fwhm) ** 2 * rng.uniform(0.05, 1) ** -1.2
        galaxy = galaxy.shear(e=rng.uniform(0, 0.6), beta=rng.uniform(0, np.pi) * galsim.radians)
        x, y = rng.uniform(0, field.size, 2)
        stamp = galsim.Convolve(galaxy.withFlux(flux), psf).drawImage(
            nx=63, ny=63, scale=1, offset=(x - round(x), y - round(y)), dtype=float
        )
        _add(light, np.broadcast_to(np.maximum(stamp.array, 0), (8, 8, 63, 63)), x, y, 1.0)


def add_events(noise: np.ndarray, field: Field, rng):
    """Charge of the hits, the number of the event that owns a pixel (-1 none), and a row per event."""
    hits = np.zeros(noise.shape)
    number = np.full(noise.shape, -1)
    share = np.zeros(noise.shape)
    rows = []
    for _ in range(rng.poisson(field.n_events * noise.size / 1e6)):
        kind = ("muon", "worm", "point")[rng.integers(3)]
        charge, box = _deposit(*_path(kind, field.size, rng), noise.shape)
        local = noise[box]
        if charge.size == 0 or charge.max() <= 0:
            continue
        if rng.uniform() < field.scaled:
            charge *= 3.0 * 100 ** rng.uniform() / (charge / local).max()
        brightest = np.unravel_index(np.argmax(charge), charge.shape)
        hits[box] += charge
        mine = charge > np.maximum(share[box], 0.3 * local)
        number[box][mine] = len(rows)
        share[box][mine] = charge[mine]
        rows.append((kind, charge[brightest] / local[brightest], box, charge))
    return hits, number, rows


def _path(kind: str, size: int, rng):
    """Places [pixel] and charge [electron] along a particle's way."""
    x, y = rng.uniform(0, size, 2)
    if kind == "point":
        return np.array([x]), np.array([y]), np.array([rng.uniform(200, 3000)])
    step = 0.1
    if kind == "muon":
        cosine = np.sqrt(rng.uniform(1e-3, 1))
        length = min(10 / cosine, 200.0)
        projected = length * np.sqrt(1 - cosine**2)
        n = int(length / step) + 1
        along, angle = np.linspace(0, projected, n), rng.uniform(0, 2 * np.pi)
        xs, ys = x + along * np.cos(angle), y + along * np.sin(angle)
    else:
        n = int(rng.uniform(4, 40) / step)
        turn = np.cumsum(rng.normal(0, 0.12, n)) + rng.uniform(0, 2 * np.pi)
        slope = rng.uniform(0.4, 1)
        xs, ys = x + np.cumsum(step * slope * np.cos(turn)), y + np.cumsum(step * slope * np.sin(turn))
    # Moyal's approximation of Landau's distribution about 80 electrons per um, a micrometre at a time
    charge = 80 * (1 + 0.15 * (-np.log(rng.normal(0, 1, n) ** 2 + 1e-3))) * step * 10
    return xs, ys, np.maximum(charge, 0)


def _deposit(xs, ys, charge, shape, diffusion=0.35):
    """Charge on the pixels of a box, spread by Gaussians."""
    x0, x1 = max(int(xs.min()) - 3, 0), min(int(xs.max()) + 5, shape[1])
    y0, y1 = max(int(ys.min()) - 3, 0), min(int(ys.max()) + 5, shape[0])
    if x1 <= x0 or y1 <= y0:
        return np.zeros((0, 0)), (slice(0, 0), slice(0, 0))

    def along(low, high, places):
        edges = np.arange(low, high + 1)[:, None] - 0.5
        return np.diff(special.ndtr((edges - places) / diffusion), axis=0)

    return (along(y0, y1, ys) * charge) @ along(x0, x1, xs).T, (slice(y0, y1), slice(x0, x1))


def bleed(electrons: np.ndarray, full_well: float) -> np.ndarray:
    """Move charge above full well along columns, in place, half each way; the pixels that are full."""
    for _ in range(2000):
        over = np.maximum(electrons - full_well, 0)
        if over.max() < 1:
            break
        electrons -= over
        electrons[1:] += 0.5 * over[:-1]
        electrons[:-1] += 0.5 * over[1:]
    return electrons > 0.97 * full_well


def judge(truth: SimpleNamespace, found: np.ndarray, fwhm: float) -> dict:
    """Counts: found and all events per bin of S/N, pixels above 3 sigma, false events, star cores hit."""
    counts = {}
    pixels = np.zeros(2, int)
    for low, high in BINS:
        hit = total = 0
        for _, snr, box, charge in truth.events:
            if not low <= snr < high:
                continue
            above = (charge > 3 * truth.noise[box]) & ~truth.saturated[box]
            if not above.any():
                continue
            total += 1
            hit += bool((found[box] & above).any())
            pixels += (int((found[box] & above).sum()), int(above.sum()))
        counts[low] = (hit, total)
    real = ndimage.binary_dilation(truth.hits > 0.5 * truth.noise, np.ones((3, 3)))
    labels, n = ndimage.label(found, np.ones((3, 3)))
    false = np.ones(n + 1, bool)
    false[labels[real]] = False
    false[0] = False
    # a core is hit by a false event, or when its middle is marked without charge beside it
    wrong = false[labels]
    middle = found & ~real
    cores = 0
    for x, y, snr in truth.stars:
        r, c = round(y), round(x)
        if snr < 5 or not (0 <= c < found.shape[1] and 0 <= r < found.shape[0]):
            continue
        reach = int(fwhm / 2 + 1)
        cut = (slice(max(r - reach, 0), r + reach + 1), slice(max(c - reach, 0), c + reach + 1))
        rows, columns = np.indices(found[cut].shape)
        near = (rows + cut[0].start - y) ** 2 + (columns + cut[1].start - x) ** 2 <= (fwhm / 2) ** 2
        cores += bool((wrong[cut] & near).any() or middle[r, c])
    false = int(false.sum())
    stars = int((truth.stars[:, 2] >= 5).sum())
    return {"bins": counts, "pixels": tuple(pixels), "false": false, "cores": cores, "stars": stars}


def run_skyquilt(truth: SimpleNamespace) -> np.ndarray:
    """Pixels that the pipeline marks, without a PSF."""
    from skyquilt.algorithms.artifact_detection.cosmic_rays import CosmicRayConfig, find_cosmic_rays

    return find_cosmic_rays(truth.image, truth.saturated, truth.variance, CosmicRayConfig()).pixels


def run_snaps(first: SimpleNamespace, second: SimpleNamespace) -> np.ndarray:
    """Pixels of the first of two snaps that the pipeline marks."""
    from skyquilt.algorithms.artifact_detection.cosmic_rays import CosmicRayConfig
    from skyquilt.algorithms.artifact_detection.satellite_trails import SatelliteTrailsConfig
    from skyquilt.algorithms.artifact_detection.snaps import SnapsConfig, subtract_snaps
    from skyquilt.primitives.exposure import Exposure
    from skyquilt.primitives.mask import Mask

    exposures = []
    for snap in (first, second):
        mask = Mask.blank(snap.image.shape)
        mask.set("SATURATED", snap.saturated)
        exposures.append(Exposure(snap.image, mask, snap.variance))
    found = subtract_snaps(*exposures, SnapsConfig(), CosmicRayConfig(), SatelliteTrailsConfig())
    return found.cosmic_rays[0]


def run_astroscrappy(truth: SimpleNamespace) -> np.ndarray:
    """Pixels that L.A.Cosmic marks with the settings that its documentation gives."""
    import astroscrappy

    found, _ = astroscrappy.detect_cosmics(
        truth.image,
        inmask=truth.saturated,
        invar=truth.variance,
        sigclip=4.5,
        sigfrac=0.3,
        objlim=5.0,
        gain=1.0,
        readnoise=5.0,
        satlevel=90000.0,
        fsmode="median",
        verbose=False,
    )
    return found


def finders() -> dict:
    """The pipeline, and the peer where it is installed."""
    import importlib.util

    found = {"skyquilt": run_skyquilt}
    if importlib.util.find_spec("astroscrappy") is None:
        print("astroscrappy is not installed: the pipeline stands alone")
    else:
        found["astroscrappy"] = run_astroscrappy
    return found


def compare(fields: dict[str, Field], seeds: list[int], snaps: bool) -> None:
    """Print a table: shares found per bin of S/N, pixels, false events per Mpix, star cores hit."""
    names = " ".join(f"S/N {low}-{high if high < 1e9 else ''}".ljust(20) for low, high in BINS)
    print(f"{'':<34}{names} pixels  false/Mpix  cores hit")
    totals: dict[tuple[str, int], np.ndarray] = {}
    for label, field in fields.items():
        truths = [make_field(field, seed) for seed in seeds]
        taken = {name: [run(truth) for truth in truths] for name, run in finders().items()}
        if snaps:
            seconds = (make_field(field, seed, 1) for seed in seeds)
            taken["two snaps"] = [run_snaps(*pair) for pair in zip(truths, seconds)]
        for finder, found in taken.items():
            counts = [judge(truth, pixels, field.fwhm) for truth, pixels in zip(truths, found)]
            cells = []
            for low, _ in BINS:
                hit, n = (sum(one["bins"][low][k] for one in counts) for k in (0, 1))
                totals.setdefault((finder, low), np.zeros(2))[:] += hit, n
                share = hit / max(n, 1)
                cells.append(f"{share:.3f} +- {np.sqrt(share * (1 - share) / max(n, 1)):.3f} ({n})".ljust(20))
            found, total = (sum(one["pixels"][k] for one in counts) for k in (0, 1))
            false = sum(one["false"] for one in counts) / (len(seeds) * field.size**2 / 1e6)
            cores, stars = (sum(one[k] for one in counts) for k in ("cores", "stars"))
            share = found / total if total else float("nan")
            print(
                f"{label:<20}{finder:<14}{' '.join(cells)} {share:.3f}   {false:5.1f}      {cores}/{stars}",
                flush=True,
            )

    for (finder, low), (hit, n) in totals.items():
        share = hit / max(n, 1)
        error = np.sqrt(share * (1 - share) / max(n, 1))
        print(f"all fields, {finder}, S/N from {low}: {share:.4f} +- {error:.4f} ({n:.0f})")


def cost(size: int) -> None:
    """Print CPU seconds per Mpix on one image: files read, pixels found, mask written."""
    import tempfile
    from pathlib import Path

    from skyquilt.io.fits import read_pixels, write_pixels
    from skyquilt.primitives.exposure import Exposure
    from skyquilt.primitives.mask import Mask

    truth = make_field(Field(size=1024, n_events=60), 1)
    repeat = size // 1024
    planes = [np.tile(plane, (repeat, repeat)) for plane in (truth.image, truth.variance, truth.saturated)]
    mask = Mask.blank(planes[0].shape)
    mask.set("SATURATED", planes[2])
    for finder, run in finders().items():
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "exposure.fits"
            write_pixels(path, Exposure(planes[0], mask.copy(), planes[1]))
            run(truth)
            begin = time.process_time()
            exposure = read_pixels(path)
            read = time.process_time()
            saturated = exposure.mask.any("SATURATED")
            arrays = SimpleNamespace(image=exposure.image, variance=exposure.variance, saturated=saturated)
            exposure.mask.set("COSMIC_RAY", run(arrays))
            done = time.process_time()
            write_pixels(path, exposure)
            end = time.process_time()
        mpix = planes[0].size / 1e6
        print(
            f"{finder:<14}{size} x {size}: {(end - begin) / mpix:.3f} CPU s per Mpix "
            f"(search {(done - read) / mpix:.3f}, reading and writing {(end - done + read - begin) / mpix:.3f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="side of the fields [pixel]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--cost", type=int, default=4096, help="side of the image that is timed; 0: none [pixel]"
    )
    parser.add_argument("--snaps", action="store_true", help="two exposures of each field too, subtracted")
    options = parser.parse_args()
    fields = {
        f"FWHM {fwhm} sky {sky}": Field(size=options.size, fwhm=fwhm, sky=sky)
        for fwhm in (2.3, 3.0, 4.0, 6.0)
        for sky in (20.0, 300.0, 3000.0)
    }
    for profile in ("kolmogorov", "moffat", "gaussian"):
        for fwhm in (2.3, 4.0):
            fields[f"crowd {profile[:6]} {fwhm}"] = Field(
                size=options.size, fwhm=fwhm, n_stars=8000, profile=profile, ellipticity=0.2, n_events=1e-3
            )
    compare(fields, options.seeds, options.snaps)
    if options.cost:
        cost(options.cost)


if __name__ == "__main__":
    main()
