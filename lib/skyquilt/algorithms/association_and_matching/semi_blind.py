"""Single CCD and Single Visit to Reference Catalog, Semi-Blind (LDM-151 8.24.1, 8.24.2): all detectors together.

Sources are placed in the focal plane by the detectors' nominal places and carried through the nominal distortion, so
that they differ from the reference, projected about the pointing, by a similarity: shift, rotation and a little
scale. Distortion must be applied in the camera, where it is at home, or a wrong pointing would bend the reference.
A small error of pointing and rotation is looked for first; then a large one with any rotation and parity. One
detector (8.24.1) is a focal plane with one detector in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from skyquilt.algorithms.association_and_matching.pattern import (
    CERTAIN,
    Limits,
    Solution,
    candidate_rotations,
    find_similarity,
    mutual_nearest,
)
from skyquilt.algorithms.astrometric_fitting.focal_plane import ARCSEC, FocalPlane, Pointing
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import project_tangent
from skyquilt.primitives.statistics import mad_width

# how many of the brightest sources, and of reference stars (per area of the visit) from which one on, are tried; the
# brightest stars of the reference may be saturated in the visit
_NEAR_DEPTHS = (
    (300, 0, 300),
    (300, 0, 1200),
    (1200, 0, 300),
    (1200, 0, 1200),
    (300, 0, 6000),
    (4000, 0, 300),
    (4000, 0, 6000),
)
_WIDE_DEPTHS = (
    (150, 0, 150),
    (300, 0, 600),
    (600, 0, 150),
    (300, 400, 1200),
    (300, 1200, 2500),
    (2000, 0, 200),
)
# rotations that are tried: many stars make the right one stand out more
_PEAKS, _PEAKS_OF_MANY = 24, 8
_CELLS = 6


@dataclass(frozen=True)
class SemiBlindConfig:
    """How wrong the telescope's pointing and the camera's definition may be."""

    near_shift: float = 60.0
    """Largest error of pointing that is looked for first [arcsec]."""
    near_rotation: float = 0.5
    """Largest error of rotation that is looked for first [deg]."""
    wide_shift: float = 400.0
    """Largest error of pointing when rotation and parity are unknown too [arcsec]; 0: not looked for."""
    scale: float = 0.015
    """Largest relative error of the plate scale."""
    place_error: float = 3.0
    """Error of the detectors' places [pixel]."""
    distortion: float = 0.001
    """Distortion at the edge of the field that the camera definition does not have, as a share of the radius."""
    max_chance: float = 1e-6
    """Expected number of false solutions with which a solution is still accepted."""

    def __post_init__(self) -> None:
        if not (
            0 < self.near_shift < 3600 and 0 <= self.wide_shift < 3600 and 0 <= self.near_rotation <= 180
        ):
            raise ValueError("shifts must be within 0..3600 arcsec and near_rotation within 0..180 deg")
        if not (0 <= self.scale < 0.2 and self.place_error > 0 and 0 <= self.distortion < 0.1):
            raise ValueError("scale must be within 0..0.2, distortion within 0..0.1, place_error positive")
        if not 0 < self.max_chance < 1:
            raise ValueError(f"max_chance must be within 0..1, got {self.max_chance}")


@dataclass(frozen=True)
class SemiBlindMatch:
    """Pairs of sources and reference stars, and what they say of the pointing.

    Parameters
    ----------
    source, reference : ndarray of int64, shape (n,)
        Row numbers of the pairs, by ascending source.
    pointing : Pointing
        Improved.
    scale : float
        True over nominal plate scale.
    log10_chance : float
        Logarithm of the expected number of false solutions as good as this one (see `pattern`).
    scatter : float
        1.48 MAD of one coordinate of the residuals [arcsec].
    radius : float
        Largest distance of a pair [arcsec].
    """

    source: np.ndarray
    reference: np.ndarray
    pointing: Pointing
    scale: float
    log10_chance: float
    scatter: float
    radius: float


def match_semi_blind(
    detector: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    reference_ra: np.ndarray,
    reference_dec: np.ndarray,
    reference_flux: np.ndarray,
    focal_plane: FocalPlane,
    pointing: Pointing,
    config: SemiBlindConfig | None = None,
) -> SemiBlindMatch:
    """Match the sources of a visit to reference stars with nothing but the telescope's guess of its pointing.

    Parameters
    ----------
    detector : ndarray of int, shape (n,)
        Detector numbers; sources of others than the focal plane's match nothing.
    x, y : ndarray, shape (n,) [pixel]
    flux : ndarray, shape (n,)
        Any flux: who is asked first. NaN is asked last.
    reference_ra, reference_dec : ndarray, shape (m,) [deg, ICRS]
        At the epoch of the visit: proper motions are applied by the caller.
    reference_flux : ndarray, shape (m,)
        Any flux.
    focal_plane : FocalPlane
    pointing : Pointing

    Raises
    ------
    ProcessingFailure
        NO_SOURCES or NO_REFERENCE when a list has fewer than four usable rows in the field, NO_MATCH when no solution is
        improbable enough.
    """
    config = config or SemiBlindConfig()
    detector = np.asarray(detector, np.int64)
    x, y, flux, ra, dec, reference_flux = (
        np.asarray(each, float) for each in (x, y, flux, reference_ra, reference_dec, reference_flux)
    )
    row = focal_plane.rows(detector)
    sources = np.flatnonzero((row >= 0) & np.isfinite(x) & np.isfinite(y))
    sources = sources[np.lexsort((flux[sources], x[sources], y[sources], row[sources]))]
    field = focal_plane.plane(focal_plane.to_mm(row[sources], x[sources], y[sources]), pointing)
    if len(sources) < 4:
        raise ProcessingFailure(Reason.NO_SOURCES, f"{len(sources)} sources are too few to find a pattern")
    radius = focal_plane.field_radius()
    margin = max(config.near_shift, config.wide_shift) + 0.02 * radius
    with np.errstate(invalid="ignore"):
        there = ARCSEC * np.column_stack(project_tangent(ra, dec, pointing.ra, pointing.dec))
        stars = np.flatnonzero(np.hypot(*there.T) < radius + margin)
    if len(stars) < 4:
        raise ProcessingFailure(
            Reason.NO_REFERENCE, f"{len(stars)} reference stars within {radius + margin:.0f} arcsec"
        )
    stars = stars[np.lexsort((reference_flux[stars], ra[stars], dec[stars]))]
    there = there[stars]
    search = _Search(field, _ranked(field, flux[sources]), there, reference_flux[stars], config, focal_plane)
    solution = search.near()
    if config.wide_shift > 0 and not _accepted(solution, config):
        wide = search.wide()
        solution = (
            wide if solution is None or (wide is not None and _chance(wide) < _chance(solution)) else solution
        )
    if not _accepted(solution, config):
        best = (
            "nothing"
            if solution is None
            else f"{len(solution.first)} pairs (10^{solution.log10_chance:.1f} by chance)"
        )
        raise ProcessingFailure(
            Reason.NO_MATCH,
            f"{len(sources)} sources and {len(stars)} reference stars: {best} at best, within "
            f"{max(config.near_shift, config.wide_shift):.0f} arcsec",
        )
    assert solution is not None
    first, second, scatter, limit = _all_pairs(solution, field, there, row[sources], search.tolerance)
    order = np.argsort(sources[first], kind="stable")
    return SemiBlindMatch(
        sources[first][order],
        stars[second][order],
        pointing.moved(solution.matrix, solution.offset),
        float(np.sqrt(abs(np.linalg.det(solution.matrix)))),
        solution.log10_chance,
        scatter,
        limit,
    )


class _Search:
    """The two lists, and how they are tried against each other."""

    def __init__(
        self,
        field: np.ndarray,
        ranking: np.ndarray,
        stars: np.ndarray,
        star_flux: np.ndarray,
        config: SemiBlindConfig,
        focal_plane: FocalPlane,
    ) -> None:
        self.field, self.ranking, self.stars, self.star_flux = field, ranking, stars, star_flux
        self.config = config
        # a cubic distortion leaves a quarter of its edge value once the scale is fitted
        place = config.place_error * focal_plane.pixel_scale()
        bent = 0.25 * config.distortion * focal_plane.field_radius()
        self.tolerance = 2.0 * float(np.hypot(place, bent))
        self.radius = float(np.hypot(*field.T).max())

    def near(self) -> Solution | None:
        """Small errors of pointing and rotation, parity as it is said to be."""
        config = self.config
        limits = Limits(config.near_shift, np.radians(config.near_rotation), config.scale, self.tolerance)
        reach = config.near_shift + self.radius * (limits.rotation + config.scale)
        best: Solution | None = None
        for sources, stars in self._depths(_NEAR_DEPTHS, reach):
            found = find_similarity(self.field[sources], self.stars[stars], limits)
            best = _better(best, found)
            if _chance(best) < np.log10(CERTAIN):
                break
        return best

    def wide(self) -> Solution | None:
        """Larger errors of pointing, any rotation and parity."""
        config = self.config
        around = np.pi / 360.0
        limits = Limits(config.wide_shift, 1.5 * around, 0.006, self.tolerance)
        # what was tried in all: every rotation, both parities
        everything = Limits(config.wide_shift, np.pi, config.scale, self.tolerance)
        more = np.log10(2.0 * everything.trials(self.radius) / limits.trials(self.radius))
        mirror = np.diag([-1.0, 1.0])
        best: Solution | None = None
        for sources, stars in self._depths(_WIDE_DEPTHS, config.wide_shift):
            count = _PEAKS if len(sources) * len(stars) < 1e5 else _PEAKS_OF_MANY
            peaks: list[tuple] = []
            for flip in (np.eye(2), mirror):
                places = self.field[sources] @ flip
                found = candidate_rotations(places, self.stars[stars], config.scale, count)
                peaks += [(votes, angle, scale, flip) for votes, angle, scale in found]
            for _, angle, scale, flip in sorted(peaks, key=lambda peak: -peak[0])[:count]:
                best = _better(best, self._about(sources, stars, angle, scale, flip, limits, more))
                if _chance(best) < np.log10(CERTAIN):
                    return best
        return best

    def _about(
        self,
        sources: np.ndarray,
        stars: np.ndarray,
        angle: float,
        scale: float,
        flip: np.ndarray,
        limits: Limits,
        more: float,
    ) -> Solution | None:
        """The best solution about a rotation; `more` is the logarithm of how often this is done in all."""
        c, s = np.cos(angle), np.sin(angle)
        start = np.clip(scale, 1 - self.config.scale, 1 + self.config.scale) * np.array([[c, -s], [s, c]])
        found = find_similarity(self.field[sources] @ flip, self.stars[stars], limits, start)
        if found is None:
            return None
        chance = found.log10_chance + more
        return Solution(found.matrix @ flip, found.offset, found.first, found.second, found.expected, chance)

    def _depths(self, depths: tuple, reach: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows of the brightest sources and stars to be tried, without repeats; ever larger lists."""
        inside = np.flatnonzero(np.hypot(*self.stars.T) < self.radius + reach)
        ranking = inside[_ranked(self.stars[inside], self.star_flux[inside])]
        more = ((self.radius + reach) / self.radius) ** 2
        tried: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = {}
        for n_source, first, n_star in depths:
            sources = np.sort(self.ranking[:n_source])
            first = int(first * more)
            stars = np.sort(ranking[first : first + int(min(n_star * more, 20000))])
            if len(stars) >= 4:
                tried.setdefault((len(sources), first, len(stars)), (sources, stars))
        return list(tried.values())


def _ranked(places: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Rows from the brightest on, the same number from each part of the area."""
    if not len(places):
        return np.zeros(0, int)
    low, size = places.min(axis=0), np.maximum(np.ptp(places, axis=0), 1e-9)
    cell = np.minimum((_CELLS * (places - low) / size).astype(int), _CELLS - 1) @ [1, _CELLS]
    dark = np.where(np.isfinite(flux), -flux, np.inf)
    order = np.lexsort((places[:, 1], places[:, 0], dark, cell))
    start = np.searchsorted(cell[order], np.arange(_CELLS**2))
    turn = np.arange(len(order)) - start[cell[order]]
    return order[np.lexsort((places[order, 1], places[order, 0], dark[order], turn))]


def _chance(solution: Solution | None) -> float:
    return np.inf if solution is None else solution.log10_chance


def _better(one: Solution | None, other: Solution | None) -> Solution | None:
    return other if _chance(other) < _chance(one) else one


def _accepted(solution: Solution | None, config: SemiBlindConfig) -> bool:
    return _chance(solution) < np.log10(config.max_chance)


def _all_pairs(
    solution: Solution, field: np.ndarray, stars: np.ndarray, row: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Pairs of all sources, with detectors shifted to where their stars are; their scatter and largest distance."""
    tree = cKDTree(stars)
    at = solution.forward(field)
    one, two = mutual_nearest(at, stars, tree, tolerance)
    n_row = int(row.max()) + 1
    for radius in (1.0, 0.7, 0.5):
        miss = stars[two] - at[one]
        shift = np.zeros((n_row, 2))
        for d in np.unique(row[one]):
            own = miss[row[one] == d]
            # a median of few would follow one wrong pair
            if len(own) >= 5:
                shift[d] = np.median(own, axis=0)
        moved = at + shift[row]
        one, two = mutual_nearest(moved, stars, tree, radius * tolerance)
        if len(one) < 3:
            return one, two, np.nan, radius * tolerance
    residual = stars[two] - moved[one]
    scatter = mad_width(residual.ravel())
    limit = float(np.clip(6.0 * scatter, 0.1 * tolerance, 0.5 * tolerance))
    near = np.hypot(*residual.T) <= limit
    return one[near], two[near], scatter, limit
