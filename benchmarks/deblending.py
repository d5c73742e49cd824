"""Detection and deblending against truth, beside sep on the same pixels, and what they cost.

    python benchmarks/deblending.py blends [--seed 1] [--psf-error 0.0]
    python benchmarks/deblending.py completeness
    python benchmarks/deblending.py cost [--sources 1000 6000 20000 50000] [--size 4096]

`blends`: pairs of stars 1 to 3 FWHM apart with flux ratios 1 to 30, stars on galaxies, pairs of galaxies, drawn by
GalSim with a Kolmogorov PSF that the pipeline knows from samples (`--psf-error`: with a width wrong by so much).
Fluxes are those in circles of 1.5 FWHM, against the same of the source alone; "none" is without deblending.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import galsim
import numpy as np
import sep
from scipy.spatial import cKDTree
from scipy.stats import norm

from skyquilt.algorithms.deblending import SingleFrameDeblendingConfig, deblend_sources
from skyquilt.algorithms.source_detection import DetectionPassesConfig, detect_in_passes
from skyquilt.primitives.psf import KernelPsf

FWHM = 4.0
SKY = 900.0
CELL = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["blends", "completeness", "cost"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--psf-error", type=float, default=0.0, help="relative error of the PSF's width")
    parser.add_argument("--width-only", action="store_true", help="deblend without a PSF")
    parser.add_argument("--only", default="", help="blends whose name has this")
    parser.add_argument("--sources", type=int, nargs="+", default=[1000, 6000, 20000, 50000])
    parser.add_argument("--size", type=int, default=4096)
    chosen = parser.parse_args()
    if chosen.what == "blends":
        blends(chosen.seed, chosen.psf_error, chosen.width_only, chosen.only)
    elif chosen.what == "completeness":
        completeness(chosen.seed)
    else:
        cost(chosen.sources, chosen.size, chosen.seed)


def true_psf() -> galsim.GSObject:
    """Light from the sky before pixels, in pixels."""
    return galsim.Kolmogorov(fwhm=0.97 * FWHM)


def sampled_psf(error: float = 0.0, step: float = 0.25, half: float = 24) -> KernelPsf:
    """The PSF with pixel response, from samples."""
    profile = galsim.Convolve(true_psf().dilate(1 + error), galsim.Pixel(1.0))
    n = 2 * int(half / step) + 1
    return KernelPsf(profile.drawImage(nx=n, ny=n, scale=step, method="sb").array, step)


def draw(image, profile, x, y) -> None:
    """Add an object at (x, y), 0-based."""
    stamp = galsim.Image(image, xmin=0, ymin=0, scale=1.0)
    size = 2 * CELL
    box = galsim.BoundsI(
        round(x) - size // 2, round(x) + size // 2, round(y) - size // 2, round(y) + size // 2
    )
    box = box & stamp.bounds
    part = profile.drawImage(bounds=box, scale=1.0, center=galsim.PositionD(x, y), method="auto", dtype=float)
    image[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1] += part.array


def galaxy(flux, radius, n=1.0, q=0.7, angle=0.0) -> galsim.GSObject:
    """A Sersic galaxy seen through the PSF; `radius` of half its light [pixel]."""
    shape = galsim.Sersic(n=n, half_light_radius=radius, flux=flux, trunc=8 * radius)
    return galsim.Convolve(shape.shear(q=q, beta=angle * galsim.radians), true_psf())


def circle(image, x, y, radius=1.5 * FWHM) -> float:
    """Light within a circle."""
    j, i = np.ogrid[: image.shape[0], : image.shape[1]]
    return float(image[(j - y) ** 2 + (i - x) ** 2 < radius**2].sum(dtype=float))


def blends(seed: int, psf_error: float, width_only: bool, only: str = "") -> None:
    psf = sampled_psf(psf_error)
    area = psf.effective_area_at(0, 0)
    unit = np.sqrt(SKY * area)
    cases = []
    for apart in (1.0, 1.5, 2.0, 3.0):
        for ratio in (1, 3, 10, 30):
            cases.append((f"stars {apart:.1f} FWHM, 1:{ratio}", "star", 600.0, "star", 600.0 / ratio, apart))
    for apart in (1.5, 2.5):
        cases.append((f"star S/N 100 on galaxy, {apart} FWHM", "galaxy", 400.0, "star", 100.0, apart))
        cases.append((f"galaxies 4:1, {apart} FWHM", "galaxy", 400.0, "galaxy", 100.0, apart))
    print(
        f"{'':<34}{'both':>6}{'sep':>6} | {'brighter: bias, width':>22}{'none':>8}{'sep':>15} |"
        f" {'fainter':>16}{'none':>8}{'sep':>15}  ideal"
    )
    if only:
        cases = [case for case in cases if only in case[0]]
    for number, (label, kind_a, snr_a, kind_b, snr_b, apart) in enumerate(cases):
        rng = np.random.default_rng([seed, number])
        side = 8
        shape = (side * CELL, side * CELL)
        planes = np.zeros((2, *shape))
        places = []
        for j in range(side):
            for i in range(side):
                angle = rng.uniform(0, 2 * np.pi)
                x, y = (np.array([i, j]) + 0.5) * CELL + rng.uniform(-0.5, 0.5, 2)
                other = (x + apart * FWHM * np.cos(angle), y + apart * FWHM * np.sin(angle))
                places.append(((x, y), other))
                for plane, kind, snr, at in zip(planes, (kind_a, kind_b), (snr_a, snr_b), places[-1]):
                    if kind == "star":
                        profile = true_psf().withFlux(snr * unit)
                    else:
                        profile = galaxy(snr * unit * 2, 1.0 * FWHM, 1.0, 0.7, rng.uniform(0, np.pi))
                    draw(plane, profile, *at)
        image = (rng.poisson(planes.sum(0) + SKY) - SKY).astype(np.float32)
        variance = np.maximum(image + SKY, SKY / 2).astype(np.float32)
        print(f"{label:<34}" + judge_blends(image, variance, planes, places, psf, width_only, unit))


def judge_blends(image, variance, planes, places, psf, width_only, unit) -> str:
    """A row of the table."""
    sky = np.full(image.shape, SKY, np.float32)
    bad = np.zeros(image.shape, bool)
    model = FWHM / 2.3548 if width_only else psf
    found = detect_in_passes(image, sky, bad, model, DetectionPassesConfig(), variance=variance)
    rows = deblend_sources(
        image, variance, bad, found, model, SingleFrameDeblendingConfig(), sky_variance=sky
    )
    peers, segments = sep.extract(
        image, 1.5, err=np.sqrt(sky), minarea=5, segmentation_map=True, deblend_cont=0.005
    )
    ours = cKDTree(np.column_stack([found.x, found.y]))
    theirs = cKDTree(np.column_stack([peers["x"], peers["y"]]))
    width = rows.shape[1]
    both, sep_both = [], []
    errors = {name: ([], []) for name in ("child", "none", "sep")}
    for pair in places:
        hits, sep_hits = ours.query(pair), theirs.query(pair)
        good = (hits[0] < 2).all() and hits[1][0] != hits[1][1]
        sep_good = (sep_hits[0] < 2).all() and sep_hits[1][0] != sep_hits[1][1]
        both.append(good)
        sep_both.append(sep_good)
        cut = (
            slice(int(pair[0][1]) // CELL * CELL, int(pair[0][1]) // CELL * CELL + CELL),
            slice(int(pair[0][0]) // CELL * CELL, int(pair[0][0]) // CELL * CELL + CELL),
        )
        for which in (0, 1):
            x, y = pair[which][0] - cut[1].start, pair[which][1] - cut[0].start
            true = circle(planes[which][cut], x, y)
            errors["none"][which].append(circle(image[cut], x, y) / true - 1)
            if good:
                pixel, value = rows.row(hits[1][which])
                child = np.zeros(image.size, np.float32)
                child[pixel] = value
                errors["child"][which].append(circle(child.reshape(-1, width)[cut], x, y) / true - 1)
            if sep_good:
                own = np.where(segments[cut] == sep_hits[1][which] + 1, image[cut], 0)
                errors["sep"][which].append(circle(own, x, y) / true - 1)
    text = f"{np.mean(both):6.2f}{np.mean(sep_both):6.2f} |"
    pixels = np.pi * (1.5 * FWHM) ** 2
    for which in (0, 1):
        for name in ("child", "none", "sep"):
            values = np.array(errors[name][which])
            if name == "none":
                text += f"{np.median(values):8.3f}"
            elif values.size:
                middle = np.median(values)
                text += f"{middle:9.4f} {1.48 * np.median(np.abs(values - middle)):6.4f}"
            else:
                text += f"{'-':>16}"
        text += " |"
    true = circle(planes[1][cut], x, y)
    return text + f" {np.sqrt(true + SKY * pixels) / true:.4f}"


def star_field(rng, size, n, psf, slope=0.8, faintest=4.0, brightest=4000.0):
    """Stars at random places of a power law of S/N; truth, image, and S/N."""
    from skyquilt.algorithms.source_detection.point_source_kernels import add_models
    from skyquilt.algorithms.source_detection.point_sources import PsfSampler

    sampler = PsfSampler.of(psf, (size, size))
    snr = np.minimum(faintest * rng.uniform(size=n) ** (-1 / slope), brightest)
    x, y = rng.uniform(2, size - 3, (2, n))
    flux = snr * np.sqrt(SKY * sampler.area)
    truth = np.zeros((size, size), np.float32)
    reach = sampler.reach(flux, 0.02 * np.sqrt(SKY), 8)
    add_models(truth, sampler.tables, sampler.y_nodes, sampler.x_nodes, x, y, flux, reach)
    image = (rng.poisson(truth + SKY) - SKY).astype(np.float32)
    return image, x, y, snr


def completeness(seed: int) -> None:
    """Completeness and purity per S/N, of isolated stars and in a crowded field."""
    psf = sampled_psf()
    area = psf.effective_area_at(0, 0)
    size = 2048
    for label, n, faintest in (
        ("sparse", 1600, 4.0),
        ("crowded: a star of S/N > 5 per 15 areas", int(size**2 / 15 / area), 5.0),
        ("four times as crowded", int(4 * size**2 / 15 / area), 5.0),
    ):
        rng = np.random.default_rng([seed, n])
        image, x, y, snr = star_field(rng, size, n, psf, faintest=faintest)
        sky = np.full(image.shape, SKY, np.float32)
        bad = np.zeros(image.shape, bool)
        places = np.column_stack([x, y])
        neighbours = cKDTree(places).query_ball_point(places, 15.0, return_length=True)
        isolated = neighbours == 1 if label == "sparse" else np.ones(n, bool)
        print(f"{label}: {n} stars on {size}^2 pixels")
        for name, config in (
            ("one pass", DetectionPassesConfig(bright_threshold=0)),
            ("passes", DetectionPassesConfig()),
            ("passes, noise measured", DetectionPassesConfig(measure_noise=True)),
        ):
            begin = time.process_time()
            found = detect_in_passes(image, sky, bad, psf, config, variance=np.maximum(image + SKY, SKY / 2))
            spent = time.process_time() - begin
            report(name, found.x, found.y, places, snr, isolated, spent / size**2 * 1e6)
        for threshold in (1.5, 2.5):
            begin = time.process_time()
            peers = sep.extract(image, threshold, err=np.sqrt(sky), minarea=5)
            spent = time.process_time() - begin
            report(
                f"sep {threshold} sigma", peers["x"], peers["y"], places, snr, isolated, spent / size**2 * 1e6
            )


def report(name, x, y, places, snr, isolated, spent) -> None:
    """One line: completeness, ideal and purity."""
    from skyquilt.quality.metrics import match_one_to_one

    match = match_one_to_one(x, y, *places.T, snr, 2.0)
    hit = np.isin(np.arange(len(snr)), match[match >= 0])
    cells = []
    for low, high in ((5, 6), (6, 7), (7, 10), (10, 20), (20, 50), (50, 1e9)):
        chosen = isolated & (snr >= low) & (snr < high)
        ideal = norm.cdf(snr[chosen] - 5).mean()
        cells.append(f"{low}: {hit[chosen].mean():.3f} ({ideal:.3f})")
    print(f"  {name:<24}" + "  ".join(cells) + f"  purity {(match >= 0).mean():.4f}  {spent:.3f} CPU s/Mpix")


def forget_peak() -> None:
    """Let the greatest memory of this process count from now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(name: str) -> float:
    """A line of this process's status [GB]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1e6


def cost(counts, size, seed) -> None:
    """CPU seconds per Mpix and the greatest memory, for growing numbers of sources."""
    psf = sampled_psf()
    for count in [200, *counts]:
        warm = count == 200
        side = 512 if warm else size
        rng = np.random.default_rng([seed, count])
        image, *_ = star_field(rng, side, count, psf)
        sky = np.full(image.shape, SKY, np.float32)
        variance = np.maximum(image + SKY, SKY / 2).astype(np.float32)
        bad = np.zeros(image.shape, bool)
        forget_peak()
        before = memory("VmRSS")
        begin = time.process_time()
        found = detect_in_passes(image, sky, bad, psf, DetectionPassesConfig(), variance=variance)
        middle = time.process_time()
        rows = deblend_sources(
            image, variance, bad, found, psf, SingleFrameDeblendingConfig(), sky_variance=sky
        )
        end = time.process_time()
        if not warm:
            largest = np.bincount(found.family).max()
            extra = memory("VmHWM") - before
            print(
                f"{count} stars, {len(found.x)} found, {int(found.blended.sum())} blended, at most {largest} in a "
                f"footprint, {rows.pixel.size / 1e6:.1f} M pixels of rows: detection "
                f"{(middle - begin) / side**2 * 1e6:.3f}, deblending {(end - middle) / side**2 * 1e6:.3f} CPU s/Mpix; "
                f"memory beyond the planes given {extra:.2f} GB"
            )


if __name__ == "__main__":
    main()
