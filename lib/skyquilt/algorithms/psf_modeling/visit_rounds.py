"""Full Visit PSF Estimation (LDM-151 8.10.1): the rounds in which the PSF of a visit is fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from skyquilt.algorithms.psf_modeling.config import VisitPsfConfig
from skyquilt.algorithms.psf_modeling.profile_space import ProfileSpace, profile_space
from skyquilt.algorithms.psf_modeling.quality import reserved_figures
from skyquilt.algorithms.psf_modeling.rejection import outliers
from skyquilt.algorithms.psf_modeling.results import StarFits, VisitPsfFit
from skyquilt.algorithms.psf_modeling.spatial_variation import (
    Accumulated,
    degree_for,
    prior_groups,
    term_degrees,
    terms,
)
from skyquilt.algorithms.psf_modeling.star_moments import first_look
from skyquilt.algorithms.psf_modeling.star_stamps import (
    DetectorPlace,
    StarStamps,
    places_of,
    sky_variance,
    usable_pixels,
)
from skyquilt.algorithms.psf_modeling.visit_state import VisitState
from skyquilt.algorithms.psf_modeling.wings import fit_wing_slope
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.profile_basis import ProfileBasis
from skyquilt.primitives.psf import FWHM_OF_SIGMA
from skyquilt.primitives.visit_psf import VisitPsf

_ADAPTIVE_TO_FWHM = 0.94
"""FWHM of a star over that of the Gaussian of its adaptive moments: they see some of the wings."""


class VisitRounds:
    """The rounds, in the order of the methods; arguments are those of `fit_psf`, stamps in their order."""

    def __init__(
        self, stamps: StarStamps, detectors: Sequence[DetectorPlace], config: VisitPsfConfig
    ) -> None:
        self.config, self.stamps = config, stamps
        self.detectors = sorted(detectors, key=lambda place: place.detector)
        self.middle, self.radius, pixel = places_of(self.detectors)
        self.frames = {place.detector: place.to_focal_plane.matrix / pixel for place in self.detectors}
        good = usable_pixels(stamps)
        first = first_look(stamps, good)
        seen = np.isfinite(first).all(axis=1) & (first[:, 0] > 0)
        candidates = np.flatnonzero(seen & ~stamps.reserved)
        if candidates.size < config.min_stars:
            raise ProcessingFailure(
                Reason.NO_STARS, f"{candidates.size} stars for the PSF of the visit, need {config.min_stars}"
            )
        self.rejected = ~seen
        variance, slope = sky_variance(stamps, good)
        variance = np.where(np.isfinite(variance) & (variance > 0), variance, 1.0)
        first[~seen] = 1.0, 0.0, 0.0, 1.0, 1.0, 0.0
        noise = np.column_stack([variance, np.full(len(stamps), slope)])
        self.state = VisitState(stamps, good, noise, self.frames, first)
        self.sigma = float(np.median(self.state.sigma[candidates]))
        self.fwhm = _ADAPTIVE_TO_FWHM * FWHM_OF_SIGMA * self.sigma
        self.space = self._space(config.wing_slope)
        self.degree, self.visit = 0, np.zeros((1, self.space.n_change))
        self.own: dict[int, np.ndarray] = {}
        self.chromatic = np.zeros(self.space.n_change)
        self.colour_zero, self.colour = self._colours()
        self.by_detector = {
            place.detector: np.flatnonzero((stamps.detector == place.detector) & seen)
            for place in self.detectors
        }

    def _space(self, slope: float) -> ProfileSpace:
        join = min(self.config.join_fwhm * self.fwhm, max(0.5 * self.stamps.side, self.fwhm))
        basis = ProfileBasis(0.5 * self.fwhm, join, self.config.n_interval, self.config.order, slope)
        return profile_space(basis, self.sigma, self.fwhm)

    def _colours(self) -> tuple[float, np.ndarray | None]:
        """Colour of the coefficients, and each star's less that (0 if unknown); None for no colour term."""
        config, colour = self.config, self.stamps.colour
        known = np.isfinite(colour) & ~self.stamps.reserved & ~self.rejected
        zero = config.reference_colour
        if zero is None:
            zero = float(np.median(colour[known])) if known.any() else 0.0
        if known.sum() < config.colour_stars or np.std(colour[known]) < config.colour_spread:
            return zero, None
        return zero, np.where(np.isfinite(colour), colour - zero, 0.0)

    @property
    def using(self) -> np.ndarray:
        """Rows of stars that take part."""
        return ~(self.rejected | self.stamps.reserved | self.state.failed)

    def _visit_terms(self, place: DetectorPlace, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        at = (np.array(place.to_focal_plane.forward(x, y)).T - self.middle) / self.radius
        return terms(at[:, 0], at[:, 1], self.degree)

    def _own_terms(self, place: DetectorPlace, x: np.ndarray, y: np.ndarray, degree: int) -> np.ndarray:
        (cx, cy), box = place.box.centre, place.box
        return terms((x - cx) / (0.5 * box.nx), (y - cy) / (0.5 * box.ny), degree)

    def _coefficients(self, place: DetectorPlace, rows: np.ndarray) -> np.ndarray:
        """Profiles at the places of stars, for their colours."""
        x, y = self.stamps.x[rows], self.stamps.y[rows]
        changes = self._visit_terms(place, x, y) @ self.visit
        if self.colour is not None:
            changes += self.colour[rows, None] * self.chromatic
        own = self.own.get(place.detector)
        if own is not None:
            degree = _degree_of(own)
            changes += self._own_terms(place, x, y, degree) @ own
        return self.space.base + changes @ self.space.changes.T

    def _pass(self, floor: float, clip: float | None = None, moments: bool = False) -> None:
        """Fluxes and centres alone, of all stars."""
        for place in self.detectors:
            for rows in self.state.chunks(self.by_detector[place.detector]):
                now = self._coefficients(place, rows)
                self.state.round(rows, now, self.space, floor, clip, moments, equations=False)

    def _visit_step(self, floor: float, chromatic: bool = False) -> None:
        """A step of the visit's coefficients, with fluxes and centres."""
        n_term = len(self.visit) + int(chromatic)
        sums = Accumulated(n_term, self.space.n_change)
        for place in self.detectors:
            for rows in self.state.chunks(self.by_detector[place.detector]):
                rows = rows[self.using[rows]]
                if not rows.size:
                    continue
                now = self._coefficients(place, rows)
                equations = self.state.round(rows, now, self.space, floor)
                values = self._visit_terms(place, self.stamps.x[rows], self.stamps.y[rows])
                if chromatic:
                    values = np.column_stack([values, self.colour[rows]])
                sums.add(values, equations)
        degrees = term_degrees(self.degree)
        now = self.visit
        if chromatic:
            # the colour term is a change over the visit as those of degree 1 are, in a group of its own
            degrees, now = np.append(degrees, 1), np.vstack([now, self.chromatic])
        groups = prior_groups(degrees, self.space.order)
        if chromatic:
            groups[-1] = groups.max() + 1 + self.space.order
        found = sums.solve(now, self.space.expected(degrees), groups)[0]
        self.visit = found[: len(self.visit)]
        if chromatic:
            self.chromatic = found[-1]

    def constant(self, bright: StarStamps | None) -> None:
        """One profile for all, its wing, and a first look at which stars differ from it."""
        floor = max(self.config.model_error, 0.03)
        for _ in range(2):
            self._pass(floor)
        for _ in range(2):
            self._visit_step(floor)
        self._pass(floor, self.config.pixel_clip, moments=True)
        self._reject()
        if bright is not None and len(bright):
            slope = fit_wing_slope(
                bright,
                {place.detector: place for place in self.detectors},
                self.frames,
                self.space,
                self.visit[0],
                self.config.wing_slope,
            )
            self.space = self._space(slope)
        self._visit_step(floor)

    def over_visit(self) -> None:
        """The polynomial over the focal plane, twice, with stars left out by what the first leaves."""
        config = self.config
        for _ in range(2):
            self._grow()
            chromatic = self.colour is not None and bool(self.using.sum() >= config.colour_stars)
            self._visit_step(config.model_error, chromatic)
            self._pass(config.model_error, config.pixel_clip, moments=True)
            self._reject()
        self._visit_step(config.model_error, chromatic)

    def _grow(self) -> None:
        degree = max(
            degree_for(int(self.using.sum()), self.config.stars_per_term, self.config.visit_degree), 0
        )
        n_term = len(term_degrees(degree))
        kept = np.zeros((n_term, self.space.n_change))
        n = min(n_term, len(self.visit))
        kept[:n] = self.visit[:n]
        self.degree, self.visit = degree, kept

    def over_detectors(self) -> None:
        """What single detectors have beside the visit's model."""
        floor = self.config.model_error
        for place in self.detectors:
            rows = self.by_detector[place.detector]
            rows = rows[self.using[rows]]
            degree = degree_for(rows.size, self.config.stars_per_term, self.config.detector_degree)
            if len(self.detectors) < 2 or degree < 0:
                continue
            n_term = len(term_degrees(degree))
            sums = Accumulated(n_term, self.space.n_change)
            for part in self.state.chunks(rows):
                equations = self.state.round(part, self._coefficients(place, part), self.space, floor)
                at = self.stamps.x[part], self.stamps.y[part]
                sums.add(self._own_terms(place, *at, degree), equations)
            # its constant is a change over the visit too
            degrees = np.maximum(term_degrees(degree), 1)
            groups = prior_groups(term_degrees(degree) + 1, self.space.order)
            expected = self.space.expected(degrees)
            self.own[place.detector] = sums.solve(np.zeros_like(expected), expected, groups)[0]
        self._pass(floor)
        self._pass(floor, moments=True)

    def _reject(self) -> None:
        self.rejected = outliers(self.state, self.config, self.stamps.reserved)

    def result(self, order: np.ndarray) -> VisitPsfFit:
        """PSFs, and stars in the order in which they came."""
        self._reject()
        psfs = {place.detector: self._psf(place) for place in self.detectors}
        state, using = self.state, self.using
        fitted = np.isfinite(state.flux_error)
        x, y = state.places
        columns = [x, y, state.flux, state.flux_error, state.chi2]
        columns = [np.where(fitted, column, np.nan) for column in columns]
        moments = np.where(fitted[:, None], state.moments, np.nan)
        columns += [state.n_pixel.astype(np.int64), *moments.T]
        stars = StarFits(using, self.rejected | state.failed, *columns)
        reserved = self.stamps.reserved
        figures = {
            "degree": float(self.degree),
            "wing_slope": self.space.basis.slope,
            "fwhm": self.fwhm,
            "n_used": float(using.sum()),
            "n_rejected": float(stars.rejected.sum()),
            "n_reserved": float(reserved.sum()),
        }
        figures |= {f"reserved_{name}": x for name, x in reserved_figures(stars, reserved).items()}
        by_detector = {}
        for place in self.detectors:
            here = self.stamps.detector == place.detector
            used = float((using & here).sum())
            by_detector[place.detector] = {**reserved_figures(stars, reserved & here), "n_used": used}
        back = np.argsort(order, kind="stable")
        stars = StarFits(*(getattr(stars, name)[back] for name in StarFits.__dataclass_fields__))
        return VisitPsfFit(psfs, stars, figures, by_detector)

    def _psf(self, place: DetectorPlace) -> VisitPsf:
        """The visit's polynomial is one over the detector too, since the map to the focal plane is affine."""
        own = self.own.get(place.detector)
        degree = max(self.degree, -1 if own is None else _degree_of(own))
        box, n = place.box, degree + 3
        x, y = (c.ravel() for c in np.meshgrid(*(np.linspace(a, b - 1, n) for a, b in _sides(box))))
        changes = self._visit_terms(place, x, y) @ self.visit
        if own is not None:
            changes += self._own_terms(place, x, y, _degree_of(own)) @ own
        here = np.linalg.lstsq(self._own_terms(place, x, y, degree), changes, rcond=None)[0]
        coefficients = here @ self.space.changes.T
        coefficients[0] += self.space.base
        rows = self.by_detector[place.detector]
        half = math.ceil(self.config.size_fwhm * self.fwhm)
        return VisitPsf(
            basis=self.space.basis,
            coefficients=coefficients,
            box=box,
            size=2 * half + 1,
            frame=self.frames[place.detector],
            chromatic=None if self.colour is None else self.space.changes @ self.chromatic,
            colour=self.colour_zero,
            colour_zero=self.colour_zero,
            n_stars=int(self.using[rows].sum()),
            from_visit=own is None and len(self.detectors) > 1,
        )


def _degree_of(coefficients: np.ndarray) -> int:
    return (math.isqrt(8 * len(coefficients) + 1) - 3) // 2


def _sides(box) -> tuple[tuple[int, int], tuple[int, int]]:
    return (box.x0, box.x1), (box.y0, box.y1)
