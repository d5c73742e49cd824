"""Catalogues of simulated visits with known truth, for the tests of matching and astrometric fits.

Nothing is taken from the pipeline's maps: the places of detectors, their errors, the distortion (a curl, a wave and odd
powers besides the cubic one, outside the span of a polynomial of low degree), the projection and the turbulence are
computed here.
"""

from dataclasses import dataclass, replace

import numpy as np

from skyquilt.algorithms.astrometric_fitting.focal_plane import FocalPlane, Pointing
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.transforms import Affine

PIXEL_MM = 0.01


@dataclass
class Sky:
    """What a visit is made with; positions in arcsec are those of the tangent plane."""

    rows: int = 3
    columns: int = 3
    size: int = 2000
    pixel_scale: float = 0.2
    gap: int = 100
    ra: float = 150.0
    dec: float = 2.0
    rotation: float = 30.0
    parity: int = 1
    n_star: int = 2000
    place_pixels: float = 3.0
    place_degrees: float = 0.05
    distortion: float = 0.001
    turbulence: float = 0.005
    scale_error: float = 0.0
    reference_error: float = 0.0003
    fwhm: float = 0.7
    spurious: float = 0.0
    dead: tuple = ()
    seed: int = 1
    brightest: float = 16.0
    limit: float = 23.0
    reference_limit: float = 21.0
    reference_extra: int = 0
    blends: float = 0.0


@dataclass
class Visit:
    """A visit's catalogue, the reference, and the truth."""

    detector: np.ndarray
    x: np.ndarray
    y: np.ndarray
    x_err: np.ndarray
    flux: np.ndarray
    snr: np.ndarray
    star: np.ndarray  # row of the true star, -1 spurious
    ra: np.ndarray  # of all true stars
    dec: np.ndarray
    reference: np.ndarray  # true star of each reference row
    reference_ra: np.ndarray
    reference_dec: np.ndarray
    reference_flux: np.ndarray
    reference_error: float
    focal_plane: FocalPlane
    pointing: Pointing
    true_plane: callable  # (detector row, x, y) -> sky, without turbulence
    misplaced: np.ndarray  # (n, 3): shift in pixels, rotation [radian], of each detector

    def wrong(self, arcsec=0.0, angle=0.0, rotation=0.0, parity=1):
        """The telescope's guess when it is off by so much."""
        a = np.radians(angle)
        dec = self.pointing.dec + arcsec / 3600 * np.cos(a)
        ra = self.pointing.ra + arcsec / 3600 * np.sin(a) / np.cos(np.radians(dec))
        return replace(
            self.pointing,
            ra=ra,
            dec=dec,
            rotation_deg=self.pointing.rotation_deg + rotation,
            parity=self.pointing.parity * parity,
        )

    def guess_arguments(self, pointing):
        """Arguments of match_semi_blind."""
        return (
            self.detector,
            self.x,
            self.y,
            self.flux,
            self.reference_ra,
            self.reference_dec,
            self.reference_flux,
            self.focal_plane,
            pointing,
        )


def nominal_focal_plane(sky):
    """Detectors on a grid, every second one turned by 180 deg."""
    step = (sky.size + sky.gap) * PIXEL_MM
    ids, places = [], []
    for j in range(sky.rows):
        for i in range(sky.columns):
            turned = 1.0 if (i + j) % 2 == 0 else -1.0
            centre = step * np.array([i - (sky.columns - 1) / 2, j - (sky.rows - 1) / 2])
            matrix = turned * PIXEL_MM * np.eye(2)
            places.append(Affine(matrix, centre - matrix @ np.full(2, (sky.size - 1) / 2)))
            ids.append(10 + 2 * (j * sky.columns + i))
    field = Affine(np.eye(2) * sky.pixel_scale / PIXEL_MM / 3600)
    return FocalPlane(ids, places, [Box(0, 0, sky.size, sky.size)] * len(ids), field)


def turbulence_field(rng, rms, size, length=120.0, n_wave=80):
    """A displacement field (arcsec in, arcsec out) with a correlation length, as a sum of waves."""
    if rms == 0:
        return lambda p: np.zeros_like(p)
    k = rng.normal(0, 1 / length, (n_wave, 2))
    phase = rng.uniform(0, 2 * np.pi, (n_wave, 2))
    return lambda p: rms * np.sqrt(2 / n_wave) * np.cos((p @ k.T)[..., None] + phase).sum(axis=1)


def project(ra, dec, ra0, dec0):
    """Gnomonic projection by vectors [arcsec]."""
    a, d, a0, d0 = map(np.radians, (ra, dec, ra0, dec0))
    v = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], -1)
    east = np.array([-np.sin(a0), np.cos(a0), 0])
    north = np.array([-np.sin(d0) * np.cos(a0), -np.sin(d0) * np.sin(a0), np.cos(d0)])
    centre = np.array([np.cos(d0) * np.cos(a0), np.cos(d0) * np.sin(a0), np.sin(d0)])
    return np.degrees(np.stack([v @ east, v @ north], -1) / (v @ centre)[..., None]) * 3600


def unproject(plane, ra0, dec0):
    """Its inverse [deg]."""
    a0, d0 = np.radians(ra0), np.radians(dec0)
    east = np.array([-np.sin(a0), np.cos(a0), 0])
    north = np.array([-np.sin(d0) * np.cos(a0), -np.sin(d0) * np.sin(a0), np.cos(d0)])
    centre = np.array([np.cos(d0) * np.cos(a0), np.cos(d0) * np.sin(a0), np.sin(d0)])
    p = np.radians(plane / 3600)
    v = centre + p[..., :1] * east + p[..., 1:] * north
    return np.degrees(np.arctan2(v[..., 1], v[..., 0])) % 360, np.degrees(
        np.arctan2(v[..., 2], np.hypot(v[..., 0], v[..., 1]))
    )


def make_visit(sky):
    """Draw stars uniformly, put them on the detectors, and measure them."""
    rng = np.random.default_rng(sky.seed)
    plane = nominal_focal_plane(sky)
    n_detector = len(plane.ids)
    half = plane.field_radius()
    mm_per_arcsec = PIXEL_MM / sky.pixel_scale
    misplaced = np.column_stack(
        [
            rng.uniform(-1, 1, (n_detector, 2)) * sky.place_pixels,
            np.radians(rng.uniform(-1, 1, n_detector) * sky.place_degrees),
        ]
    )
    c, s = np.cos(np.radians(sky.rotation)), np.sin(np.radians(sky.rotation))
    orient = np.array([[-sky.parity * c, s], [sky.parity * s, c]])

    def bend(f):
        """Distortion of field places [arcsec]: mostly radial, with what no low polynomial has."""
        a = f / half
        r2 = (a**2).sum(axis=1, keepdims=True)
        curl = np.column_stack([-a[:, 1], a[:, 0]])
        wave = np.column_stack([np.sin(2.2 * a[:, 1] + 0.4), np.cos(1.8 * a[:, 0])])
        return (1 + sky.scale_error) * f + sky.distortion * half * (
            a * (0.8 * r2 + 0.2 * np.sin(3 * r2)) + 0.08 * r2 * curl + 0.1 * wave
        )

    def mm_of(row, x, y):
        base = plane.to_mm(row, x, y)
        centre = plane.centres_mm()[row]
        angle = misplaced[row, 2]
        d = base - centre
        turned = np.column_stack(
            [
                np.cos(angle) * d[:, 0] - np.sin(angle) * d[:, 1],
                np.sin(angle) * d[:, 0] + np.cos(angle) * d[:, 1],
            ]
        )
        return centre + turned + misplaced[row, :2] * PIXEL_MM

    def true_plane(row, x, y):
        return bend(mm_of(row, x, y) / mm_per_arcsec) @ orient.T

    # stars on a square somewhat larger than the field; which pixel they fall on by iteration
    extent = 1.35 * half
    area = (2 * extent) ** 2 / (n_detector * (sky.size * sky.pixel_scale) ** 2)
    n_all = int(sky.n_star * area)
    stars = rng.uniform(-extent, extent, (n_all, 2))
    slope = 0.3 * np.log(10)
    u = rng.uniform(0, 1, n_all)
    mag = sky.limit + np.log(u + (1 - u) * np.exp(slope * (sky.brightest - sky.limit))) / slope
    n_blend = int(sky.blends * n_all)
    stars[:n_blend] = stars[n_all - n_blend :][:n_blend] + rng.normal(0, 1.0, (n_blend, 2))
    turbulent = stars + turbulence_field(rng, sky.turbulence, half)(stars)
    rows, xs, which = [], [], []
    for row in range(n_detector):
        if plane.ids[row] in sky.dead:
            continue
        matrix = orient @ plane.places[row].matrix / mm_per_arcsec
        middle = true_plane(np.array([row]), *np.full((2, 1), (sky.size - 1) / 2))[0]
        near = np.flatnonzero(np.abs(turbulent - middle).max(axis=1) < sky.size * sky.pixel_scale)
        p = np.full((len(near), 2), (sky.size - 1) / 2)
        for _ in range(8):
            miss = turbulent[near] - true_plane(np.full(len(near), row), *p.T)
            p += miss @ np.linalg.inv(matrix).T
        inside = ((p > -0.5) & (p < sky.size - 0.5)).all(axis=1)
        rows.append(np.full(inside.sum(), row))
        xs.append(p[inside])
        which.append(near[inside])
    row, p, which = np.concatenate(rows), np.concatenate(xs), np.concatenate(which)
    snr_all = np.minimum(5.0 * 10 ** (0.4 * (sky.limit - mag)), 3000.0)
    snr = snr_all[which]
    # error of a centroid limited by photons, with a floor of a five hundredth of a pixel
    err = np.hypot(sky.fwhm / 2.35 / snr / sky.pixel_scale * 1.2, 0.002)
    p = p + rng.normal(size=p.shape) * err[:, None]
    flux = 10 ** (-0.4 * (mag[which] + rng.normal(0, 0.3, len(which))))
    n_spurious = int(sky.spurious * len(row))
    if n_spurious:
        live = np.unique(row)
        row = np.r_[row, rng.choice(live, n_spurious)]
        p = np.r_[p, rng.uniform(0, sky.size, (n_spurious, 2))]
        which = np.r_[which, np.full(n_spurious, -1)]
        err = np.r_[err, rng.choice(err, n_spurious)]
        snr = np.r_[snr, rng.choice(snr, n_spurious)]
        flux = np.r_[flux, rng.choice(flux, n_spurious)]
    reference = np.flatnonzero(mag < sky.reference_limit)
    seen = stars[reference] + rng.normal(0, sky.reference_error, (len(reference), 2))
    ref_mag = mag[reference] + rng.normal(0, 0.3, len(reference))
    if sky.reference_extra:
        reference = np.r_[reference, np.full(sky.reference_extra, -1)]
        seen = np.r_[seen, rng.uniform(-extent, extent, (sky.reference_extra, 2))]
        ref_mag = np.r_[ref_mag, sky.reference_limit + rng.uniform(-1, 3, sky.reference_extra)]
    order = rng.permutation(len(row))
    ra, dec = unproject(stars, sky.ra, sky.dec)
    reference_ra, reference_dec = unproject(seen, sky.ra, sky.dec)
    return Visit(
        np.array(plane.ids)[row][order],
        p[order, 0],
        p[order, 1],
        err[order],
        flux[order],
        snr[order],
        which[order],
        ra,
        dec,
        reference,
        reference_ra,
        reference_dec,
        10 ** (-0.4 * ref_mag),
        sky.reference_error,
        plane,
        Pointing(sky.ra, sky.dec, sky.rotation, sky.parity),
        true_plane,
        misplaced,
    )
