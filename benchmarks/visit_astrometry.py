"""Matching and fitting of a visit: CPU seconds and accuracy against truth, by the number of stars and detectors.

    OPENBLAS_NUM_THREADS=1 python benchmarks/visit_astrometry.py [--seed 1]

Sources of simulated catalogues (see tests/algorithms/simulated_visits.py): detectors off by 3 pixels and 0.05 deg, 0.1 % of
distortion that the camera definition does not have, 5 mas of turbulence.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from skyquilt.algorithms.association_and_matching.semi_blind import match_semi_blind
from skyquilt.algorithms.astrometric_fitting.single_visit import fit_wcs
from skyquilt.primitives.failure import ProcessingFailure

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "algorithms"))
from simulated_visits import Sky, Visit, make_visit, project

SIZES = ((1, 500), (3, 1000), (3, 10000), (6, 10000), (6, 40000), (10, 20000), (14, 100000))
GUESSES = {"near": (30.0, 40.0, 0.3, 1), "wide": (300.0, 120.0, 211.0, -1), "none": (0.0, 0.0, 0.0, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    # compiled kernels and late imports are not what is measured
    timed_match(make_visit(Sky(n_star=500)), "near")
    print(
        "detectors sources reference | CPU s: near, wide, refused, fit | pairs parameters | bright rms, map rms [mas]"
    )
    for side, n_star in SIZES:
        visit = make_visit(Sky(rows=side, columns=side, n_star=n_star, seed=seed))
        near, match = timed_match(visit, "near")
        wide, _ = timed_match(visit, "wide")
        refused, _ = timed_match(
            unrelated(visit, Sky(rows=side, columns=side, n_star=n_star, seed=seed + 1)), "none"
        )
        start = time.process_time()
        s, r = match.source, match.reference
        fit = fit_wcs(
            visit.detector[s],
            visit.x[s],
            visit.y[s],
            visit.x_err[s, None, None] ** 2 * np.eye(2),
            visit.reference_ra[r],
            visit.reference_dec[r],
            np.broadcast_to(visit.reference_error**2 * np.eye(2), (len(r), 2, 2)),
            visit.focal_plane,
            match.pointing,
        )
        cost = time.process_time() - start
        bright, of_map = accuracy(visit, fit)
        print(
            f"{side**2:5d} {len(visit.x):8d} {len(visit.reference):8d} | {near:.2f} {wide:.2f} {refused:.2f} {cost:.2f} |"
            f" {len(s):6d} {fit.n_free:6.1f} | {bright:.2f} {of_map:.2f}",
            flush=True,
        )


def unrelated(visit: Visit, sky: Sky) -> Visit:
    """The visit with the reference of another sky."""
    other = make_visit(sky)
    visit = Visit(**vars(visit))
    for name in ("reference_ra", "reference_dec", "reference_flux"):
        setattr(visit, name, getattr(other, name))
    return visit


def timed_match(visit: Visit, kind: str) -> tuple:
    """CPU s and the match, None where it is refused."""
    start = time.process_time()
    try:
        match = match_semi_blind(*visit.guess_arguments(visit.wrong(*GUESSES[kind])))
    except ProcessingFailure:
        match = None
    return time.process_time() - start, match


def accuracy(visit: Visit, fit: object) -> tuple[float, float]:
    """rms per axis of stars of S/N > 200 as they stand on the sky, and of the map without turbulence [mas]."""
    at = (visit.pointing.ra, visit.pointing.dec)
    stars, maps = [], []
    for row, detector in enumerate(visit.focal_plane.ids):
        wcs = fit.wcs(detector)
        own = np.flatnonzero((visit.detector == detector) & (visit.snr > 200) & (visit.star >= 0))
        found = project(*wcs.pixel_to_sky(visit.x[own], visit.y[own]), *at)
        stars.append(found - project(visit.ra[visit.star[own]], visit.dec[visit.star[own]], *at))
        side = np.linspace(0, visit.focal_plane.boxes[row].nx - 1, 6)
        x, y = (each.ravel() for each in np.meshgrid(side, side))
        maps.append(project(*wcs.pixel_to_sky(x, y), *at) - visit.true_plane(np.full(x.size, row), x, y))
    return tuple(1e3 * float(np.sqrt((np.concatenate(each) ** 2).mean())) for each in (stars, maps))


if __name__ == "__main__":
    main()
