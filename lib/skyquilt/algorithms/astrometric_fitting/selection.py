"""Single Visit Astrometric Fit (LDM-151 8.13.2): how many terms the stars can bear, by cross-validation.

Groups of terms are offered in a fixed order, until none is taken any more. A group is taken when stars that were left
out of the fit, a part at a time, are predicted better with it: the logarithm of the likelihood (Student's t with 4
degrees of freedom, so that outliers decide nothing; the intrinsic scatter is fitted anew to each model) must rise by
more than twice its standard error over the stars, and by more than 3 (many groups are offered). In all there are at
least two coordinates to an effective parameter, and four to one of the visit's, whose priors are wide.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from skyquilt.algorithms.astrometric_fitting.normal_equations import (
    NormalEquations,
    Solved,
    accumulate,
    solve,
)
from skyquilt.algorithms.astrometric_fitting.scatter import squared_pulls
from skyquilt.algorithms.astrometric_fitting.terms import Group

FREEDOM = 4.0
LEAST_GAIN = 3.0
_SCATTERS = np.geomspace(3e-4, 3.0, 13)


@dataclass
class Model:
    """Groups that are in use and the width of their priors over the nominal ones."""

    widths: dict[str, float] = field(default_factory=dict)

    def columns(self, groups: list[Group], local: bool) -> np.ndarray:
        """Columns of the terms in use, ascending."""
        used = [g.columns for g in groups if g.local == local and g.name in self.widths]
        return np.sort(np.concatenate(used)) if used else np.zeros(0, int)

    def precision(self, groups: list[Group], local: bool) -> np.ndarray:
        """1 / variance of the priors of these columns."""
        pairs = [
            (column, 1.0 / self.widths[g.name] ** 2)
            for g in groups
            if g.local == local and g.name in self.widths
            for column in g.columns
        ]
        return np.array([value for _, value in sorted(pairs)])


@dataclass(frozen=True)
class Stars:
    """What cross-validation needs of the stars: whitened design, residuals, errors.

    Parameters
    ----------
    visit, local : ndarray, shapes (n, 2, p), (n, 2, q)
        Design [arcsec per parameter].
    residual : ndarray, shape (n, 2) [arcsec]
    covariance : ndarray, shape (n, 2, 2) [arcsec^2]
        Quoted errors.
    root : ndarray, shape (n, 2, 2)
        Square root of the weights.
    row : ndarray of int, shape (n,)
        Detector, ascending.
    n_detector : int
    """

    visit: np.ndarray
    local: np.ndarray
    residual: np.ndarray
    covariance: np.ndarray
    root: np.ndarray
    row: np.ndarray
    n_detector: int

    def equations(self, part: np.ndarray | slice = slice(None)) -> NormalEquations:
        """Normal equations of a part of the stars."""
        root = self.root[part]
        return accumulate(
            root @ self.visit[part],
            root @ self.local[part],
            np.einsum("nab,nb->na", root, self.residual[part]),
            self.row[part],
            self.n_detector,
        )


def select_groups(stars: Stars, groups: list[Group], needed: tuple[str, ...]) -> Model:
    """The model that predicts stars best by the rule above.

    Parameters
    ----------
    groups : list of Group
        In the order of offering.
    needed : tuple of str
        Names of groups that are always in.
    """
    parts, trainings, total = _parts(stars)
    model = Model(dict.fromkeys(needed, 1.0))
    score = _scores(stars, parts, trainings, groups, model)
    for _ in range(3):
        changed = False
        for group in groups:
            if group.name in model.widths or not _may_be_offered(group, stars):
                continue
            best, best_score = None, score
            for width in (1.0, 0.1):
                offered = Model({**model.widths, group.name: width})
                offered_score = _scores(stars, parts, trainings, groups, offered)
                if offered_score.sum() > best_score.sum():
                    best, best_score = offered, offered_score
            gain = best_score - score
            needed_gain = max(LEAST_GAIN, 2.0 * np.sqrt(len(gain)) * gain.std())
            if best is not None and gain.sum() > needed_gain and _is_determined(total, groups, best):
                model, score, changed = best, best_score, True
        if not changed:
            break
    return model


def _may_be_offered(group: Group, stars: Stars) -> bool:
    """More coordinates than twice the terms; for detectors, some with several stars."""
    n = len(stars.residual)
    if group.local:
        most = np.bincount(stars.row).max(initial=0)
        return stars.n_detector > 1 and most > len(group.columns) and n > 4
    return n > len(group.columns) + 3


def _is_determined(total: NormalEquations, groups: list[Group], model: Model) -> bool:
    """At least four coordinates for each effective parameter of the visit, two for each of all."""
    columns = model.columns(groups, False)
    precision, own_precision = model.precision(groups, False), model.precision(groups, True)
    solved = _solved(total, groups, model)
    diagonal = np.diagonal(solved.of_detectors(), axis1=1, axis2=2)
    p = len(columns)
    of_visit = p - float(precision @ diagonal[0, :p])
    of_detectors = own_precision.size * len(diagonal) - float((diagonal[:, p:] @ own_precision).sum())
    return 4.0 * of_visit <= total.coordinates and 2.0 * (of_visit + of_detectors) <= total.coordinates


def _parts(stars: Stars) -> tuple[list[np.ndarray], list[NormalEquations], NormalEquations]:
    """Parts of the stars, equations of all the others for each, and of all."""
    # stars are sorted by place: each part covers the field
    n_parts = 5 if len(stars.residual) > 300 else 10
    parts = [np.arange(k, len(stars.residual), n_parts) for k in range(min(n_parts, len(stars.residual)))]
    of_parts = [stars.equations(part) for part in parts]
    total = sum(of_parts[1:], of_parts[0])
    return parts, [total - part for part in of_parts], total


def predicted_by_others(stars: Stars, groups: list[Group], model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Residuals of stars from a fit without them (n, 2) [arcsec], and that fit's covariance there (n, 2, 2)."""
    parts, trainings, _ = _parts(stars)
    columns, own = model.columns(groups, False), model.columns(groups, True)
    design = np.concatenate([stars.visit[:, :, columns], stars.local[:, :, own]], axis=2)
    left, error = np.empty_like(stars.residual), np.empty_like(stars.covariance)
    for part, training in zip(parts, trainings):
        solved = _solved(training, groups, model)
        left[part] = _left(stars, part, columns, own, solved)
        error[part] = error_of_fit(design[part], stars.row[part], solved)
    return left, error


def error_of_fit(design: np.ndarray, row: np.ndarray, solved: Solved) -> np.ndarray:
    """Covariance (n, 2, 2) of the model at stars, from their design (n, 2, p + q); rows ascending."""
    of_detectors = solved.of_detectors()
    error = np.empty((len(row), 2, 2))
    edges = np.searchsorted(row, np.arange(len(of_detectors) + 1))
    for d, covariance in enumerate(of_detectors):
        part = design[edges[d] : edges[d + 1]]
        error[edges[d] : edges[d + 1]] = part @ covariance @ part.swapaxes(1, 2)
    return error


def _solved(equations: NormalEquations, groups: list[Group], model: Model) -> Solved:
    chosen = equations.chosen(model.columns(groups, False), model.columns(groups, True))
    return solve(chosen, model.precision(groups, False), model.precision(groups, True))


def _left(stars: Stars, part: np.ndarray, columns: np.ndarray, own: np.ndarray, solved: Solved) -> np.ndarray:
    """Residuals of a part of the stars."""
    parameters = np.zeros(stars.visit.shape[2])
    parameters[columns] = solved.visit
    local = np.zeros((stars.n_detector, stars.local.shape[2]))
    local[:, own] = solved.local
    moved = stars.visit[part] @ parameters
    moved += np.einsum("naq,nq->na", stars.local[part], local[stars.row[part]])
    return stars.residual[part] - moved


def _scores(
    stars: Stars, parts: list, trainings: list[NormalEquations], groups: list[Group], model: Model
) -> np.ndarray:
    """Logarithm of the likelihood of each star, predicted by the others."""
    columns, own = model.columns(groups, False), model.columns(groups, True)
    left = np.empty_like(stars.residual)
    for part, training in zip(parts, trainings):
        left[part] = _left(stars, part, columns, own, _solved(training, groups, model))
    return _likelihood(left, stars.covariance)


def _likelihood(residual: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Of each star, with the intrinsic scatter for which their sum is largest."""

    def of(scatter: float) -> np.ndarray:
        total = covariance + scatter**2 * np.eye(2)
        determinant = total[:, 0, 0] * total[:, 1, 1] - total[:, 0, 1] ** 2
        square = squared_pulls(residual, total)
        return -0.5 * np.log(determinant) - 0.5 * (FREEDOM + 2.0) * np.log1p(square / FREEDOM)

    tried = [of(scatter).sum() for scatter in _SCATTERS]
    at = int(np.argmax(tried))
    low, high = _SCATTERS[max(at - 1, 0)], _SCATTERS[min(at + 1, len(_SCATTERS) - 1)]
    finer = np.geomspace(low, high, 7)
    return of(float(finer[int(np.argmax([of(each).sum() for each in finer]))]))
