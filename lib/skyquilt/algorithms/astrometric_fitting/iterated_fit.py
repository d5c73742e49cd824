"""Single Visit Astrometric Fit (LDM-151 8.13.2): parameters, scatter and weights in turn, until they agree."""

from __future__ import annotations

import numpy as np

from skyquilt.algorithms.astrometric_fitting.correlation import (
    Correlation,
    correlated_products,
    correlation_of,
    make_cells,
)
from skyquilt.algorithms.astrometric_fitting.focal_plane import (
    ARCSEC,
    FocalPlane,
    Pointing,
    sky_to_plane_axes,
)
from skyquilt.algorithms.astrometric_fitting.normal_equations import Solved, solve
from skyquilt.algorithms.astrometric_fitting.options import FitWcsConfig
from skyquilt.algorithms.astrometric_fitting.scatter import (
    intrinsic_variance,
    residual_covariance,
    squared_pulls,
    variance_for_freedom,
)
from skyquilt.algorithms.astrometric_fitting.selection import (
    Model,
    Stars,
    error_of_fit,
    predicted_by_others,
    select_groups,
)
from skyquilt.algorithms.astrometric_fitting.terms import (
    N_LOCAL,
    DetectorTerms,
    Group,
    VisitTerms,
)
from skyquilt.algorithms.astrometric_fitting.visit_astrometry import VisitAstrometry, full_covariance
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import project_tangent

NEEDED = ("pointing", "rotation")
ORDER = (
    "scale",
    "radial 3",
    "detector shift",
    "detector rotation",
    "shear",
    "degree 2",
    "degree 3",
    "radial 5",
    "degree 4",
    "degree 5",
    "detector scale",
    "detector shear",
    "degree 6",
    "degree 7",
)


class IteratedFit:
    """Stars sorted by place (results must not depend on their order), and the state of the fit."""

    def __init__(
        self,
        detector: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        covariance: np.ndarray,
        ra: np.ndarray,
        dec: np.ndarray,
        reference_covariance: np.ndarray,
        focal_plane: FocalPlane,
        pointing: Pointing,
        config: FitWcsConfig,
    ) -> None:
        self.focal_plane, self.pointing, self.config = focal_plane, pointing, config
        self.n_given = len(x)
        row = focal_plane.rows(detector)
        with np.errstate(invalid="ignore"):
            target = ARCSEC * np.column_stack(project_tangent(ra, dec, pointing.ra, pointing.dec))
            size = covariance[:, 0, 0] + covariance[:, 1, 1]
        good = (row >= 0) & np.isfinite(x) & np.isfinite(y) & np.isfinite(target).all(axis=1)
        good &= np.isfinite(covariance).all(axis=(1, 2)) & (size > 0)
        good &= np.isfinite(reference_covariance).all(axis=(1, 2))
        order = np.flatnonzero(good)
        order = order[np.lexsort((target[order, 0], target[order, 1], x[order], y[order], row[order]))]
        self.index = order = order[_most_precise(row[order], size[order], config.max_stars)]
        if len(order) < config.min_stars:
            raise ProcessingFailure(
                Reason.NO_MATCH, f"{len(order)} matched stars are fewer than {config.min_stars} for a WCS"
            )
        self.row, self.target = row[order], target[order]
        self.mm = focal_plane.to_mm(self.row, x[order], y[order])
        self.centres = focal_plane.centres_mm()
        place = np.array([each.matrix for each in focal_plane.places])[self.row]
        self.centroid_mm = place @ covariance[order] @ place.swapaxes(1, 2)
        axes = sky_to_plane_axes(ra[order], dec[order], pointing)
        self.reference = axes @ reference_covariance[order] @ axes.swapaxes(1, 2)
        self.terms = VisitTerms(focal_plane.field_radius(), config.priors, config.max_degree)
        pixel = float(np.sqrt(np.median([abs(each.determinant) for each in focal_plane.places])))
        self.own_terms = DetectorTerms(pixel, config.priors)
        every = {g.name: g for g in (*self.terms.groups, *self.own_terms.groups)}
        self.groups: list[Group] = [every[name] for name in (*NEEDED, *ORDER) if name in every]
        self.n_detector = len(focal_plane.ids)
        self.parameters = np.zeros(self.terms.count)
        self.local = np.zeros((self.n_detector, N_LOCAL))
        self.variance = 0.0
        self.weight = np.ones(len(order))
        self._linearise()

    def _linearise(self) -> None:
        """Places, residuals, derivatives and errors at the present parameters."""
        plane_of = self.pointing.orientation
        maps = [self.own_terms.perturbation(p, c) for p, c in zip(self.local, self.centres)]
        matrix = np.array([each.matrix for each in maps])[self.row]
        offset = np.array([each.offset for each in maps])[self.row]
        mm = np.einsum("nij,nj->ni", matrix, self.mm) + offset
        field = self.focal_plane.to_field.forward(*mm.T)
        correction = self.terms.correction(self.parameters)
        before = plane_of.forward(*field)
        self.before = np.column_stack(before) * ARCSEC
        self.at = np.column_stack(correction.forward(*before)) * ARCSEC
        outer = correction.jacobian(*before)
        slope = ARCSEC * outer @ plane_of.matrix @ self.focal_plane.to_field.jacobian(*mm.T)
        self.residual = self.target - self.at
        self.visit_design = self.terms.design(self.before, np.arange(self.terms.count))
        self.local_design = self.own_terms.design(self.mm, self.centres[self.row], slope)
        slope = slope @ matrix
        self.errors = slope @ self.centroid_mm @ slope.swapaxes(1, 2) + self.reference

    def _stars(self) -> Stars:
        """What normal equations are made of; residuals are those from parameters zero."""
        total = self.errors + self.variance * np.eye(2)
        root = np.linalg.cholesky(np.linalg.inv(total)).swapaxes(1, 2)
        zero = (
            self.residual
            + self.visit_design @ self.parameters
            + np.einsum("naq,nq->na", self.local_design, self.local[self.row])
        )
        return Stars(
            self.visit_design,
            self.local_design,
            zero,
            self.errors,
            root * np.sqrt(self.weight)[:, None, None],
            self.row,
            self.n_detector,
        )

    def _solve(self, model: Model) -> Solved:
        """New parameters; residuals follow linearly."""
        stars = self._stars()
        columns, own = model.columns(self.groups, False), model.columns(self.groups, True)
        equations = stars.equations().chosen(columns, own)
        solved = solve(equations, model.precision(self.groups, False), model.precision(self.groups, True))
        self.parameters, self.local = np.zeros(self.terms.count), np.zeros((self.n_detector, N_LOCAL))
        self.parameters[columns] = solved.visit
        self.local[:, own] = solved.local
        self.residual = (
            stars.residual
            - self.visit_design @ self.parameters
            - np.einsum("naq,nq->na", self.local_design, self.local[self.row])
        )
        return solved

    def _removed(self, model: Model, solved: Solved) -> np.ndarray:
        """Variance that the fit takes out of each star's residual, shape (n, 2, 2); negative for stars not used."""
        columns, own = model.columns(self.groups, False), model.columns(self.groups, True)
        design = np.concatenate([self.visit_design[:, :, columns], self.local_design[:, :, own]], axis=2)
        removed = error_of_fit(design, self.row, solved)
        return removed * np.where(self.weight > 0, 1.0, -1.0)[:, None, None]

    def _judged(self, model: Model, solved: Solved) -> tuple[np.ndarray, np.ndarray]:
        """Residuals by which scatter and outliers are judged, and the variance taken out of them.

        With few stars to a parameter, stars are predicted by the others: a fit that follows its stars closely
        would find no scatter in them, and believe it.
        """
        if len(self.row) > 10 * (solved.visit.size + solved.local.size):
            return self.residual, self._removed(model, solved)
        left, error = predicted_by_others(self._stars(), self.groups, model)
        return left, -error

    def _converge(self, model: Model, steps: int, final: bool) -> Solved:
        """Alternate parameters, scatter and weights."""
        for step in range(steps):
            solved = self._solve(model)
            residual, removed = self._judged(model, solved)
            used = self.weight > 0
            least = self.config.least_scatter**2
            self.variance = intrinsic_variance(residual[used], self.errors[used], removed[used], least)
            square = squared_pulls(residual, residual_covariance(self.errors, self.variance, removed))
            if final:
                # what lies out once the errors are known
                self.weight = (square < self.config.n_sigma**2).astype(float)
                self._adapt(model, solved)
            else:
                self.weight = 6.0 / (4.0 + square)
            if final:
                used = self.weight > 0
                freedom = 2.0 * used.sum() - self._effective(model, solved)
                self.variance = max(
                    self.variance,
                    variance_for_freedom(self.residual[used], self.errors[used], freedom, least),
                )
                if step < steps - 1:
                    self._linearise()
        return self._solve(model) if final else solved

    def _effective(self, model: Model, solved: Solved) -> float:
        """Number of parameters, each counted by what the stars say of it rather than its prior."""
        precision, own = model.precision(self.groups, False), model.precision(self.groups, True)
        diagonal = np.diagonal(solved.of_detectors(), axis1=1, axis2=2)
        p = len(precision)
        visit = p - float(precision @ diagonal[0, :p])
        return visit + own.size * self.n_detector - float((diagonal[:, p:] @ own).sum())

    def _adapt(self, model: Model, solved: Solved) -> None:
        """Widths of the priors of detectors' terms from the terms themselves, where these are known."""
        own = model.columns(self.groups, True)
        variance = np.diagonal(solved.of_detectors(), axis1=1, axis2=2)[:, -len(own) :] if len(own) else None
        for group in self.groups:
            if not group.local or group.name not in model.widths:
                continue
            at = np.searchsorted(own, group.columns)
            width = model.widths[group.name]
            known = float((1.0 - variance[:, at] / width**2).sum())
            if known > 5.0:
                # one term more, of a thirtieth of the nominal width: never exactly zero
                square = (float((self.local[:, group.columns] ** 2).sum()) + 1e-3) / (known + 1.0)
                model.widths[group.name] = float(np.clip(np.sqrt(square), 0.01, 3.0))

    def _first_model(self) -> Model:
        """Terms to find outliers with, before it is known how many the stars can bear."""
        names = list(NEEDED)
        per_detector = len(self.row) / len(np.unique(self.row))
        if len(self.row) >= 8:
            names += ["scale"]
        if len(self.row) >= 50:
            names += ["radial 3", "degree 2"]
        if per_detector >= 8 and self.n_detector > 1:
            names += ["detector shift", "detector rotation"]
        return Model({name: 1.0 for name in names if any(g.name == name for g in self.groups)})

    def run(self) -> VisitAstrometry:
        """The whole fit."""
        spread = np.median(np.abs(self.residual - np.median(self.residual, axis=0)))
        self.variance = max(float((1.4826 * spread) ** 2), self.config.least_scatter**2)
        self._converge(self._first_model(), 6, final=False)
        for _ in range(2):
            model = select_groups(self._stars(), self.groups, NEEDED)
            self._converge(model, 4, final=False)
            self._linearise()
        solved = self._converge(model, 6, final=True)
        self._linearise()
        return self._result(model, solved)

    def _result(self, model: Model, solved: Solved) -> VisitAstrometry:
        used = self.weight > 0
        total = self.errors + self.variance * np.eye(2)
        columns, own = model.columns(self.groups, False), model.columns(self.groups, True)
        precision, own_precision = model.precision(self.groups, False), model.precision(self.groups, True)
        correlation, covariance = Correlation(0.0, self.terms.radius), full_covariance(solved)
        if used.any():
            visit, local = self.visit_design[used][:, :, columns], self.local_design[used][:, :, own]
            row, place = self.row[used], self.before[used]
            spread = 0.5 * np.trace(total[used], axis1=1, axis2=2)
            cells = make_cells(self._stars().residual[used], visit, local, place, row, spread)
            scatter = float(np.sqrt(self.variance))
            correlation = correlation_of(cells, precision, own_precision, scatter, self.terms.radius)
            inverse = np.linalg.inv(total[used])
            extra = correlated_products(
                inverse @ visit, inverse @ local, row, self.n_detector, place, correlation, self.variance
            )
            covariance = covariance + covariance @ extra @ covariance
        known = np.zeros(self.n_given, bool)
        known[self.index[used]] = True
        residual = np.full((self.n_given, 2), np.nan)
        residual[self.index] = self.residual
        square = squared_pulls(self.residual, total)
        return VisitAstrometry(
            focal_plane=self.focal_plane,
            pointing=self.pointing,
            terms=self.terms,
            own_terms=self.own_terms,
            widths=dict(model.widths),
            parameters=self.parameters,
            local=self.local,
            columns=columns,
            own_columns=own,
            covariance=covariance,
            used=known,
            residual=residual,
            star_count=np.bincount(self.row[used], minlength=self.n_detector),
            intrinsic_scatter=float(np.sqrt(self.variance)),
            correlation=correlation,
            chi2=float(square[used].sum()),
            n_free=self._effective(model, solved),
        )


def _most_precise(row: np.ndarray, size: np.ndarray, most: int) -> np.ndarray:
    """Which of the stars, sorted by place, to use: of each detector those with the smallest errors."""
    order = np.lexsort((size, row))
    start = np.searchsorted(row, row)
    return np.sort(order[np.arange(len(row)) - start < most])
