"""Coordinate Transformations (LDM-151 9.7): FITS headers in and out (TAN, TAN-SIP, TPV).

Conventions: Calabretta and Greisen 2002 (TAN), Shupe et al. 2005 (SIP), and TPV of the FITS registry, which
is also what SCAMP means by PV cards with a TAN type. CRPIX counts from 1, the parent frame from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box, angular_separation, project_tangent
from skyquilt.primitives.transforms import (
    Affine,
    Polynomial,
    RadialTerms,
    Transform,
    total_powers,
    weighted_least_squares,
)
from skyquilt.primitives.wcs import Wcs

KINDS = ("TAN", "TAN-SIP", "TPV")
_MAX_DEGREE = {"TAN": 1, "TAN-SIP": 9, "TPV": 7}
_RADIAL_INDEX = (3, 11, 23, 39)
_UNITS = {"": 1.0, "deg": 1.0, "degree": 1.0, "degrees": 1.0, "arcsec": 1 / 3600, "arcmin": 1 / 60}
_UNITS |= {"rad": math.degrees(1.0), "radian": math.degrees(1.0)}
_FIT_SAMPLES, _CHECK_SAMPLES = 31, 53
_MAS = 3.6e6


def _tpv_powers() -> dict[int, tuple[int, int]]:
    """TPV term number -> powers of (own axis, other axis); the terms in r have none."""
    powers, number = {}, 0
    for degree in range(_MAX_DEGREE["TPV"] + 1):
        for pair in total_powers(degree, degree):
            powers[number] = (int(pair[0]), int(pair[1]))
            number += 1
        # odd degrees end with the power of r, except degree 0 that has only the constant
        number += degree % 2
    return powers


TPV_POWERS = _tpv_powers()


def read_header(header: Mapping[str, Any], x0: int = 0, y0: int = 0) -> Wcs:
    """Make a Wcs from the celestial axes of a FITS header.

    Understands TAN, TAN-SIP and TPV types; CDi_j, PCi_j with CDELTi, or CDELTi with CROTAi; axes in either
    order; LONPOLE; CUNIT in deg, arcmin, arcsec, rad; values with padding blanks. A TAN header with SIP
    coefficients but without the suffix has them applied; one with PV cards on the latitude axis, or above
    PV_4, is TPV (SCAMP wrote such); PV cards beside SIP coefficients are ignored, as astropy does.

    FK5 (equinox 2000) is taken as ICRS: the two differ by less than 25 mas, far less than raw headers are
    wrong by. FK4, galactic, ecliptic and equinoxes other than 2000 are refused.

    Parameters
    ----------
    header : mapping
        Keyword to value; astropy and fitsio headers are such.
    x0, y0 : int
        Parent-frame pixel of the header's FITS pixel (1, 1).

    Raises
    ------
    ProcessingFailure
        NO_WCS when there is none or its projection is not understood, BAD_HEADER when a value is impossible.
    """
    cards = _Cards(header)
    longitude, projection = _axes(cards)
    _check_frame(cards)
    latitude = 1 - longitude
    unit = [_unit(cards, axis) for axis in (0, 1)]
    crval = [cards.number(f"CRVAL{axis + 1}") * unit[axis] for axis in (0, 1)]
    crpix = np.array([cards.number(f"CRPIX{axis + 1}") for axis in (0, 1)])
    matrix = _linear_matrix(cards) * np.array(unit)[:, None]
    order = [longitude, latitude]

    layers: list[Transform] = [Affine(np.eye(2), np.array([1.0 - x0, 1.0 - y0]) - crpix)]
    sip = _read_sip(cards)
    if sip is not None:
        layers.append(sip)
    layers.append(Affine(matrix[order]))
    if projection == "TPV" or (sip is None and _is_scamp(cards, longitude)):
        layers.append(_read_tpv(cards, longitude))
    turn = _native_rotation(cards, crval[latitude], longitude)
    if turn:
        layers.append(Affine.rotation(turn))
    if abs(crval[latitude]) > 90:
        raise ProcessingFailure(Reason.BAD_HEADER, f"CRVAL{latitude + 1}={crval[latitude]} is no declination")
    return Wcs(crval[longitude], crval[latitude], layers[0].then(*layers[1:]))


class _Cards:
    """Values of a header by keyword, converted and checked."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        self._header = header

    def has(self, key: str) -> bool:
        return key in self._header and self._header[key] not in (None, "")

    def text(self, key: str) -> str:
        return str(self._header[key]).strip() if self.has(key) else ""

    def number(self, key: str, default: float | None = None) -> float:
        if not self.has(key):
            if default is None:
                raise ProcessingFailure(Reason.NO_WCS, f"the header has a CTYPE but no {key}")
            return default
        try:
            value = float(self._header[key])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise ProcessingFailure(Reason.BAD_HEADER, f"{key}={self._header[key]!r} is not a number")
        return value


def _axes(cards: _Cards) -> tuple[int, str]:
    """Index of the longitude axis, and the projection, TAN or TPV."""
    types = [cards.text(f"CTYPE{axis}").upper() for axis in (1, 2)]
    for longitude in (0, 1):
        first, second = types[longitude], types[1 - longitude]
        if first.startswith("RA--") and second.startswith("DEC-"):
            base = {kind[4:].strip("-").removesuffix("-SIP") for kind in (first, second)}
            if base in ({"TAN"}, {"TPV"}):
                return longitude, base.pop()
    raise ProcessingFailure(Reason.NO_WCS, f"CTYPE1={types[0]!r}, CTYPE2={types[1]!r}; known: {KINDS}")


def _check_frame(cards: _Cards) -> None:
    frame = (cards.text("RADESYS") or cards.text("RADECSYS")).upper()
    if frame not in ("", "ICRS", "FK5", "J2000"):
        raise ProcessingFailure(Reason.BAD_HEADER, f"positions are in {frame}; ICRS or FK5 wanted")
    equinox = cards.number("EQUINOX", 2000.0) if frame != "ICRS" else 2000.0
    if abs(equinox - 2000.0) > 0.01:
        raise ProcessingFailure(Reason.BAD_HEADER, f"positions are of equinox {equinox}; 2000 wanted")


def _unit(cards: _Cards, axis: int) -> float:
    """Degrees per unit of an axis."""
    name = cards.text(f"CUNIT{axis + 1}").lower()
    if name not in _UNITS:
        raise ProcessingFailure(Reason.BAD_HEADER, f"CUNIT{axis + 1}={name!r}; known: {sorted(_UNITS)}")
    return _UNITS[name]


def _linear_matrix(cards: _Cards) -> np.ndarray:
    """d(intermediate)/d(pixel) in the order of the header's axes, from CD, PC or CROTA cards."""
    names = [(i, j) for i in (1, 2) for j in (1, 2)]
    if any(cards.has(f"CD{i}_{j}") for i, j in names):
        matrix = np.array([cards.number(f"CD{i}_{j}", 0.0) for i, j in names]).reshape(2, 2)
    else:
        delta = np.array([cards.number(f"CDELT{i}") for i in (1, 2)])
        if any(cards.has(f"PC{i}_{j}") for i, j in names):
            turn = np.array([cards.number(f"PC{i}_{j}", float(i == j)) for i, j in names]).reshape(2, 2)
            matrix = delta[:, None] * turn
        else:
            angle = math.radians(cards.number("CROTA2", cards.number("CROTA1", 0.0)))
            c, s = math.cos(angle), math.sin(angle)
            matrix = np.array([[delta[0] * c, -delta[1] * s], [delta[0] * s, delta[1] * c]])
    if abs(np.linalg.det(matrix)) < 1e-12 * np.abs(matrix).max() ** 2 or not matrix.any():
        raise ProcessingFailure(Reason.BAD_HEADER, f"the WCS's linear part is singular: {matrix.tolist()}")
    return matrix


def _native_rotation(cards: _Cards, dec0: float, longitude: int) -> float:
    """Angle [deg] by which LONPOLE, or its alias PVi_3, turns the tangent plane from its usual place."""
    default = 0.0 if dec0 >= 90.0 else 180.0
    # in TPV and SCAMP headers PV_3 is a distortion term
    alias = f"PV{longitude + 1}_3"
    if cards.has(alias) and not cards.has("LONPOLE") and _is_plain_tan(cards, longitude):
        return 180.0 - cards.number(alias)
    return 180.0 - cards.number("LONPOLE", default)


def _is_plain_tan(cards: _Cards, longitude: int) -> bool:
    return "TPV" not in cards.text("CTYPE1").upper() and not _is_scamp(cards, longitude)


def _is_scamp(cards: _Cards, longitude: int) -> bool:
    """True when PV cards are distortion terms: on the latitude axis, or numbered above 4."""
    if any(cards.has(f"PV{2 - longitude}_{m}") for m in range(40)):
        return True
    return any(cards.has(f"PV{longitude + 1}_{m}") for m in range(5, 40))


def _read_sip(cards: _Cards) -> Polynomial | None:
    """SIP distortion as a map of (u, v) = pixel - CRPIX, or None when the header has none."""
    orders = [int(cards.number(f"{axis}_ORDER", 0.0)) for axis in "AB"]
    if not any(cards.has(f"{axis}_ORDER") for axis in "AB"):
        return None
    if min(orders) < 0 or max(orders) > _MAX_DEGREE["TAN-SIP"]:
        raise ProcessingFailure(Reason.BAD_HEADER, f"SIP orders A={orders[0]}, B={orders[1]}; known: 0 to 9")
    size = max(*orders, 1) + 1
    coefficients = np.zeros((2, size, size))
    for axis, name in enumerate("AB"):
        for i, j in total_powers(orders[axis]):
            coefficients[axis, i, j] = cards.number(f"{name}_{i}_{j}", 0.0)
    coefficients[0, 1, 0] += 1.0
    coefficients[1, 0, 1] += 1.0
    return Polynomial(coefficients)


def _read_tpv(cards: _Cards, longitude: int) -> Transform:
    """TPV distortion as a map of (xi, eta) [deg]."""
    size = _MAX_DEGREE["TPV"] + 1
    coefficients, radial = np.zeros((2, size, size)), np.zeros((2, 4))
    for axis, number in ((0, longitude + 1), (1, 2 - longitude)):
        for m, (own, other) in TPV_POWERS.items():
            value = cards.number(f"PV{number}_{m}", 1.0 if m == 1 else 0.0)
            powers = (own, other) if axis == 0 else (other, own)
            coefficients[(axis, *powers)] = value
        radial[axis] = [cards.number(f"PV{number}_{m}", 0.0) for m in _RADIAL_INDEX]
    highest = max((i + j for i, j in np.argwhere(coefficients.any(axis=0))), default=1)
    polynomial = Polynomial(coefficients[:, : highest + 1, : highest + 1].copy())
    return RadialTerms(polynomial, radial) if radial.any() else polynomial


def make_header(
    wcs: Wcs, box: Box, kind: str = "TAN-SIP", tolerance_mas: float = 1.0
) -> tuple[dict[str, Any], float]:
    """FITS cards that come near a Wcs over a box.

    A Wcs without distortion is written as it is, as plain TAN whatever the kind: its tangent point may lie
    outside the box, as that of a patch does. Else the tangent point is put at the box's middle, and the
    degree rises from 1 until the tolerance is met; when it is not met, the degree with the least residual is
    taken, and the caller sees by how much it falls short.

    Parameters
    ----------
    box : Box
        Its first pixel is FITS pixel (1, 1); not empty.
    kind : {"TAN", "TAN-SIP", "TPV"}
        TAN-SIP has the inverse polynomials AP, BP too, to the same tolerance where degree 9 reaches it.
    tolerance_mas : float
        Aim for the largest error of position [mas].

    Returns
    -------
    cards : dict
        Keyword to value, in the order for a header.
    max_residual_mas : float
        Largest separation of the header's positions from those of the Wcs, on a grid finer than that of the
        fit which reaches to the edges of the outer pixels.

    Raises
    ------
    ValueError
        For an unknown kind, an empty box, or a box with pixels that have no position.
    """
    if kind not in KINDS:
        raise ValueError(f"header kind {kind!r} is not one of {KINDS}")
    if box.is_empty:
        raise ValueError(f"{box} has no pixel, so no header can describe it")
    if all(isinstance(layer, Affine) for layer in wcs.transform.layers):
        cards = _header_of_plain_tan(wcs, box)
        return cards, _residual_mas(wcs, box, cards)
    best: tuple[dict[str, Any], float] | None = None
    for degree in range(1, _MAX_DEGREE[kind] + 1):
        cards = _header_of_degree(wcs, box, kind, degree, tolerance_mas)
        residual = _residual_mas(wcs, box, cards)
        if best is None or residual < best[1]:
            best = cards, residual
        if residual <= tolerance_mas:
            break
    return best


def _grid(box: Box, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Parent-frame positions over a box: Chebyshev points and the pixel edges at its border."""
    nodes = -np.cos(np.linspace(0.0, np.pi, samples))
    (cx, cy) = box.centre
    x, y = np.meshgrid(cx + 0.5 * box.nx * nodes, cy + 0.5 * box.ny * nodes)
    return x.ravel(), y.ravel()


def _residual_mas(wcs: Wcs, box: Box, cards: dict[str, Any]) -> float:
    x, y = _grid(box, _CHECK_SAMPLES)
    near = read_header(cards, box.x0, box.y0)
    return float(_MAS * np.max(angular_separation(*wcs.pixel_to_sky(x, y), *near.pixel_to_sky(x, y))))


def _header_of_degree(wcs: Wcs, box: Box, kind: str, degree: int, tolerance_mas: float) -> dict[str, Any]:
    """Cards of the best fit with polynomials of one degree."""
    x, y = _grid(box, _FIT_SAMPLES)
    cx, cy = box.centre
    ra0, dec0 = (float(value) for value in wcs.pixel_to_sky(cx, cy))
    xi, eta = project_tangent(*wcs.pixel_to_sky(x, y), ra0, dec0)
    if not (np.all(np.isfinite(xi)) and np.all(np.isfinite(eta))):
        raise ValueError(f"{wcs!r} has no position for some pixels of {box}")
    dx, dy = x - cx, y - cy
    cd = _fit_through_origin(dx, dy, xi, eta, degree)[:, [1, 0], [0, 1]]
    cards = _linear_cards(box, (ra0, dec0), (cx, cy), cd, kind)
    if kind == "TPV":
        cards |= _tpv_cards(dx, dy, xi, eta, cd, degree)
    elif degree > 1:
        cards |= _sip_cards(dx, dy, xi, eta, cd, degree, tolerance_mas)
    else:
        cards["CTYPE1"], cards["CTYPE2"] = "RA---TAN", "DEC--TAN"
    return cards


def _header_of_plain_tan(wcs: Wcs, box: Box) -> dict[str, Any]:
    cx, cy = (float(value) for value in wcs.transform.inverse(0.0, 0.0))
    return _linear_cards(box, (wcs.ra, wcs.dec), (cx, cy), wcs.transform.jacobian(cx, cy), "TAN")


def _linear_cards(
    box: Box, crval: tuple[float, float], crpix: tuple[float, float], cd: np.ndarray, code: str
) -> dict[str, Any]:
    (ra0, dec0), (cx, cy) = crval, crpix
    cards: dict[str, Any] = {"WCSAXES": 2}
    cards |= {"CTYPE1": f"RA---{code}", "CTYPE2": f"DEC--{code}", "CUNIT1": "deg", "CUNIT2": "deg"}
    cards |= {"CRVAL1": ra0, "CRVAL2": dec0, "CRPIX1": cx - box.x0 + 1.0, "CRPIX2": cy - box.y0 + 1.0}
    cards |= {f"CD{i + 1}_{j + 1}": float(cd[i, j]) for i in (0, 1) for j in (0, 1)}
    # LONPOLE in full: its default changes to 0 when the tangent point is the north pole
    return cards | {"LONPOLE": 180.0, "RADESYS": "ICRS"}


def _fit_through_origin(
    x: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray, degree: int, lowest: int = 1
) -> np.ndarray:
    """Coefficients [axis, power of x, power of y] of polynomials with terms of lowest..degree only."""
    powers = total_powers(degree, lowest)
    sx, sy = np.abs(x).max() or 1.0, np.abs(y).max() or 1.0
    design = (x / sx)[:, None] ** powers[:, 0] * (y / sy)[:, None] ** powers[:, 1]
    solution = weighted_least_squares(design, np.column_stack([u, v]))
    coefficients = np.zeros((2, degree + 1, degree + 1))
    i, j = powers.T
    coefficients[:, i, j] = solution.T / (sx**i * sy**j)
    return coefficients


def _sip_cards(
    dx: np.ndarray,
    dy: np.ndarray,
    xi: np.ndarray,
    eta: np.ndarray,
    cd: np.ndarray,
    degree: int,
    tolerance_mas: float,
) -> dict[str, Any]:
    """A, B of one degree, and AP, BP of the degree that the tolerance needs."""
    u, v = np.linalg.solve(cd, np.array([xi, eta]))
    # the linear part is in CD already; fitting it too and leaving it out would lose what it absorbs
    forward = _fit_through_origin(dx, dy, u, v, degree)
    forward[0, 1, 0] -= 1.0
    forward[1, 0, 1] -= 1.0
    cards = _polynomial_cards(forward, "A", "B", degree, lowest=2)
    scale_mas = _MAS * math.sqrt(abs(np.linalg.det(cd)))
    for inverse_degree in range(degree, _MAX_DEGREE["TAN-SIP"] + 1):
        inverse = Polynomial.fit(u, v, dx - u, dy - v, inverse_degree)
        found = inverse.forward(u, v)
        miss = scale_mas * max(np.abs(found[0] - dx + u).max(), np.abs(found[1] - dy + v).max())
        if miss <= tolerance_mas:
            break
    return cards | _polynomial_cards(_to_monomials(inverse), "AP", "BP", inverse.degree, lowest=0)


def _to_monomials(polynomial: Polynomial) -> np.ndarray:
    """Coefficients in the polynomial's own input instead of its normalised coordinates."""
    size = polynomial.degree + 1
    into = []
    for centre, scale in zip(polynomial.centre, polynomial.scale):
        line = np.polynomial.Polynomial([-centre / scale, 1.0 / scale])
        table = np.zeros((size, size))
        for power in range(size):
            row = (line**power).coef
            table[power, : len(row)] = row
        into.append(table)
    return np.einsum("aij,ik,jl->akl", polynomial.coefficients, into[0], into[1])


def _polynomial_cards(
    coefficients: np.ndarray, first: str, second: str, degree: int, lowest: int
) -> dict[str, Any]:
    cards: dict[str, Any] = {}
    for axis, name in enumerate((first, second)):
        cards[f"{name}_ORDER"] = degree
        for i, j in total_powers(degree, lowest):
            cards[f"{name}_{i}_{j}"] = float(coefficients[axis, i, j])
    return cards


def _tpv_cards(
    dx: np.ndarray, dy: np.ndarray, xi: np.ndarray, eta: np.ndarray, cd: np.ndarray, degree: int
) -> dict[str, Any]:
    """PV cards of one degree, without the terms in r (they add nothing that is smooth)."""
    linear_xi, linear_eta = cd @ np.array([dx, dy])
    coefficients = _fit_through_origin(linear_xi, linear_eta, xi, eta, degree)
    cards = {}
    for axis in (0, 1):
        for m, (own, other) in TPV_POWERS.items():
            powers = (own, other) if axis == 0 else (other, own)
            if 0 < own + other <= degree:
                cards[f"PV{axis + 1}_{m}"] = float(coefficients[(axis, *powers)])
    return cards
