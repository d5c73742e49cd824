"""Detection beside its peer: completeness, purity and cost of the pipeline's sources and of sep on the same pixels.

    python benchmarks/detection_beside_sep.py SURVEY

SURVEY is a processed simulated survey (`make demo` leaves one). sep gets the background-subtracted image, the root of
the variance and the mask of BAD, SATURATED and NO_DATA pixels, with its usual settings (3 x 3 filter, 5 pixels above
1.5 sigma), and with higher thresholds, at which it is purer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import sep

from skyquilt.io.fits import read_pixels
from skyquilt.io.manifests import read_manifest
from skyquilt.io.parquet import read_table
from skyquilt.quality.metrics import match_one_to_one

BINS = [(5, 7), (7, 10), (10, 20), (20, 50), (50, 1e9)]
RADIUS = 2.0
MARGIN = 12
PEERS = ("sep 1.5 sigma", "sep 2.0 sigma", "sep 2.5 sigma")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("survey", type=Path)
    survey = parser.parse_args().survey
    truth = pd.read_parquet(next(survey.rglob("source_truth.parquet")))
    rows: dict[str, list] = {"skyquilt": [], **{name: [] for name in PEERS}}
    cost: dict[str, float] = dict.fromkeys(rows, 0.0)
    pixels = 0
    for path in sorted(survey.glob("imchar/bootstrap/[0-9]*/manifest.json")):
        visit = read_manifest(path)
        sources = read_table(visit.open("source.parquet"))
        for name, entry in visit.files.items():
            if entry["dataset"] != "preliminary_visit_image":
                continue
            detector, number = entry["unit"]["detector"], entry["unit"]["visit"]
            exposure = read_pixels(visit.open(name))
            true = truth[(truth.visit == number) & (truth.detector == detector)]
            own = sources[(sources.detector == detector) & sources.detect_isPrimary]
            pixels += exposure.image.size
            rows["skyquilt"].append(
                judge(own.x.to_numpy(), own.y.to_numpy(), own.peakSnr.to_numpy(), true, exposure)
            )
            for label, options in peers().items():
                begin = time.process_time()
                x, y, flux = run_sep(exposure, options)
                cost[label] += time.process_time() - begin
                rows[label].append(judge(x, y, flux, true, exposure))
    print(f"{pixels / 1e6:.1f} Mpix; sources within {MARGIN} pixels of an edge are left out; isolated stars")
    print(
        f"{'':<22}"
        + "".join(f"  S/N {low}-{high if high < 1e9 else ''}".ljust(16) for low, high in BINS)
        + " purity   CPU s/Mpix"
    )
    for label, found in rows.items():
        cells = []
        for index in range(len(BINS)):
            hit, n = (sum(one["bins"][index][k] for one in found) for k in (0, 1))
            cells.append(f"  {hit / n:.3f} +- {np.sqrt(hit / n * (1 - hit / n) / n):.3f}".ljust(16))
        real, total = sum(one["real"] for one in found), sum(one["total"] for one in found)
        shown = f"{cost[label] / pixels * 1e6:.3f}" if cost[label] else "(whole stage: docs/performance.md)"
        print(f"{label:<22}{''.join(cells)} {real / total:.4f}   {shown}")


def peers() -> dict[str, dict]:
    """Settings of sep: as its documentation has them, and the threshold at which it is as pure as the pipeline."""
    return {name: {"thresh": float(name.split()[-2]), "minarea": 5} for name in PEERS}


def run_sep(exposure, options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and fluxes that sep finds."""
    bad = exposure.mask.any(["BAD", "SATURATED", "NO_DATA"])
    error = np.sqrt(exposure.variance)
    usable = np.isfinite(exposure.image) & np.isfinite(error)
    image = np.where(usable, exposure.image, 0).astype(np.float32)
    error = np.where(usable, error, 1).astype(np.float32)
    found = sep.extract(image, err=error, mask=bad | ~usable, **options)
    return found["x"], found["y"], found["flux"]


def judge(x, y, brightness, true, exposure) -> dict:
    """Found and true counts per bin of isolated stars, and how many detections are real."""
    ny, nx = exposure.image.shape

    def inside(px, py):
        return (px > MARGIN) & (px < nx - 1 - MARGIN) & (py > MARGIN) & (py < ny - 1 - MARGIN)

    tx, ty = true.x.to_numpy(), true.y.to_numpy()
    match = match_one_to_one(x, y, tx, ty, true.flux.to_numpy(), RADIUS)
    hit = np.isin(np.arange(len(true)), match[match >= 0])
    star = (
        (true.kind == "star").to_numpy()
        & true.isolated.to_numpy()
        & inside(tx, ty)
        & (true.fullWellFraction < 0.5).to_numpy()
    )
    snr = true.snr.to_numpy()
    bins = [
        (int((hit & star & (snr >= lo) & (snr < hi)).sum()), int((star & (snr >= lo) & (snr < hi)).sum()))
        for lo, hi in BINS
    ]
    counted = inside(x, y)
    near = true[true.snr > 2]
    real = match_one_to_one(x, y, near.x.to_numpy(), near.y.to_numpy(), near.flux.to_numpy(), RADIUS) >= 0
    return {"bins": bins, "real": int((real & counted).sum()), "total": int(counted.sum())}


if __name__ == "__main__":
    main()
