"""Single Visit Astrometric Fit (LDM-151 8.13.2): the terms of the model, in groups, with prior widths.

Terms of the visit are displacements on the tangent plane [arcsec] as functions of the place there over the field's
radius. Terms of a detector are its shift, rotation, scale and shear in the focal plane relative to the nominal place,
carried to the tangent plane by the derivative of the map. Parameters are counted in units of their nominal prior width,
so that the nominal prior of each is a unit Gaussian. The prior is what tells the terms of detectors from those of the
visit that they could imitate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyquilt.primitives.transforms import Affine, Polynomial, total_powers

MAX_DEGREE = 7
N_LOCAL = 6
"""Terms of one detector: shift (2), rotation, scale, shear (2)."""


@dataclass(frozen=True)
class PriorWidths:
    """How far the camera and the pointing may be from what the definition says: standard deviations."""

    pointing: float = 30.0
    """Shift of the visit, and rotation at the edge of the field [arcsec]."""
    scale: float = 0.01
    """Relative error of the plate scale; of shear a tenth of it."""
    distortion: float = 0.001
    """Displacement at the edge of the field by the terms of each degree from 2 to 4, over the field's radius; half of
    it for each degree above."""
    place: float = 3.0
    """Shift of a detector along each axis [pixel]."""
    rotation_deg: float = 0.05
    """Rotation of a detector [deg]."""
    detector_scale: float = 3e-4
    """Relative scale of a detector, and its shear: height and tilt in the beam."""


@dataclass(frozen=True)
class Group:
    """Terms that come together.

    Parameters
    ----------
    name : str
    columns : ndarray of int
        Columns of the visit's terms, or of the terms of each detector.
    local : bool
        Whether they are a detector's.
    """

    name: str
    columns: np.ndarray
    local: bool


class VisitTerms:
    """All terms that belong to the visit as a whole: displacement in arcsec per unit of parameter.

    Parameters
    ----------
    radius : float
        Radius of the field [arcsec].
    widths : PriorWidths
    max_degree : int
        Up to 7.
    """

    def __init__(self, radius: float, widths: PriorWidths, max_degree: int = MAX_DEGREE) -> None:
        self.radius = radius
        self.coefficients: list[np.ndarray] = []
        self.groups: list[Group] = []
        one = widths.pointing
        self._add("pointing", [_terms([(0, 0, 0, one)]), _terms([(1, 0, 0, one)])])
        self._add("rotation", [_terms([(0, 0, 1, -one), (1, 1, 0, one)])])
        size = widths.scale * radius
        self._add("scale", [_terms([(0, 1, 0, size), (1, 0, 1, size)])])
        size *= 0.1
        shear = [_terms([(0, 1, 0, size), (1, 0, 1, -size)]), _terms([(0, 0, 1, size), (1, 1, 0, size)])]
        self._add("shear", shear)
        size = widths.distortion * radius
        # x r^2, y r^2 and x r^4, y r^4
        cubic = [(0, 3, 0, size), (0, 1, 2, size), (1, 2, 1, size), (1, 0, 3, size)]
        if max_degree >= 3:
            self._add("radial 3", [_terms(cubic)])
        fifth = [(0, 5, 0, 1), (0, 3, 2, 2), (0, 1, 4, 1), (1, 4, 1, 1), (1, 2, 3, 2), (1, 0, 5, 1)]
        if max_degree >= 5:
            self._add("radial 5", [_terms([(a, i, j, size * f) for a, i, j, f in fifth])])
        for degree in range(2, max_degree + 1):
            width = size if degree <= 4 else 0.5 * size
            powers = total_powers(degree, degree)
            self._add(f"degree {degree}", [_terms([(a, i, j, width)]) for i, j in powers for a in (0, 1)])
        self._stack = np.array(self.coefficients)

    def _add(self, name: str, terms: list[np.ndarray]) -> None:
        first = len(self.coefficients)
        self.coefficients.extend(terms)
        self.groups.append(Group(name, np.arange(first, len(self.coefficients)), False))

    @property
    def count(self) -> int:
        """Number of terms."""
        return len(self.coefficients)

    def design(self, plane: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Displacements [arcsec] at places [arcsec], shape (n, 2, columns)."""
        a, b = (plane / self.radius).T
        of_a, of_b = np.vander(a, MAX_DEGREE + 1, True), np.vander(b, MAX_DEGREE + 1, True)
        powers = total_powers(MAX_DEGREE)
        monomials = of_a[:, powers[:, 0]] * of_b[:, powers[:, 1]]
        wanted = self._stack[columns][:, :, powers[:, 0], powers[:, 1]]
        return np.einsum("np,kap->nak", monomials, wanted, optimize=True)

    def correction(self, parameters: np.ndarray) -> Polynomial:
        """Tangent plane [deg] to itself: the identity plus all displacements."""
        total = np.tensordot(parameters, self._stack, 1) / 3600.0
        powers = np.add.outer(np.arange(MAX_DEGREE + 1), np.arange(MAX_DEGREE + 1))
        degree = max(1, int(powers[np.any(total != 0, axis=0)].max(initial=0)))
        scale = self.radius / 3600.0
        identity = Polynomial.identity(degree, scale=(scale, scale)).coefficients
        return Polynomial(identity + total[:, : degree + 1, : degree + 1], scale=(scale, scale))


class DetectorTerms:
    """Terms of each detector.

    Parameters
    ----------
    pixel_mm : float
        Side of a pixel [mm].
    widths : PriorWidths
    """

    def __init__(self, pixel_mm: float, widths: PriorWidths) -> None:
        shift, turn, size = widths.place * pixel_mm, np.radians(widths.rotation_deg), widths.detector_scale
        self.widths = np.array([shift, shift, turn, size, size, size])
        self.groups = [
            Group("detector shift", np.array([0, 1]), True),
            Group("detector rotation", np.array([2]), True),
            Group("detector scale", np.array([3]), True),
            Group("detector shear", np.array([4, 5]), True),
        ]

    def design(self, mm: np.ndarray, centre: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
        """Displacements [arcsec] per parameter, shape (n, 2, 6).

        Parameters
        ----------
        mm, centre : ndarray, shape (n, 2)
            Places in the focal plane and the middles of their detectors.
        jacobian : ndarray, shape (n, 2, 2)
            d(tangent plane [arcsec]) / d(focal plane [mm]).
        """
        u, v = (mm - centre).T
        one, none = np.ones_like(u), np.zeros_like(u)
        moves = np.array([[one, none], [none, one], [-v, u], [u, v], [u, -v], [v, u]])
        return np.einsum("nab,kbn->nak", jacobian, moves * self.widths[:, None, None], optimize=True)

    def perturbation(self, parameters: np.ndarray, centre: np.ndarray) -> Affine:
        """Focal plane [mm] to itself of one detector."""
        p = parameters * self.widths
        matrix = np.array([[1 + p[3] + p[4], p[5] - p[2]], [p[5] + p[2], 1 + p[3] - p[4]]])
        return Affine(matrix, p[:2] + centre - matrix @ centre)


def _terms(entries: list[tuple[int, int, int, float]]) -> np.ndarray:
    """Coefficients [axis, power of a, power of b] of one term."""
    coefficients = np.zeros((2, MAX_DEGREE + 1, MAX_DEGREE + 1))
    for axis, i, j, value in entries:
        coefficients[axis, i, j] += value
    return coefficients
