"""Images of the pupil out of focus: rays by the slopes of Noll's polynomials."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.testing import assert_allclose

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.schedule import science_visit
from skyquilt.simulation.wavefront import WavefrontConfig, aberrations, make_donut, slopes


def test_slopes_are_the_derivatives_of_nolls_polynomials(rng):
    """Each of Z4 to Z11 has the derivatives of galsim's Zernike polynomial."""
    import galsim

    x, y = rng.uniform(-0.7, 0.7, (2, 50))
    for k in range(8):
        coefficients = np.eye(8)[k]
        polynomial = galsim.zernike.Zernike([0.0] * 4 + list(coefficients))
        assert_allclose(slopes(x, y, coefficients)[0], polynomial.gradX(x, y), atol=1e-10)
        assert_allclose(slopes(x, y, coefficients)[1], polynomial.gradY(x, y), atol=1e-10)


def spread_of(donut):
    """Second moments of a donut's image of unit flux [px^2]."""
    image, column, row = donut.image(0.0, 0.0, 1.0)
    rows, columns = np.mgrid[row : row + image.shape[0], column : column + image.shape[1]]
    near = np.hypot(rows, columns) < 1.5 * donut.radius
    image = image * near / (image * near).sum()
    return (image * columns**2).sum(), (image * rows**2).sum()


def test_astigmatism_stretches_before_and_behind_the_focus_oppositely(camera):
    """Z6 widens the donut along x in front of the focus and along y behind it, or the other way round."""
    config = WavefrontConfig()
    coefficients = np.array([0, 0, 0.4, 0, 0, 0, 0, 0.0])
    ratios = []
    for number in (2, 3):
        detector = dataclasses.replace(camera.detector(1), id=number, purpose="wavefront")
        xx, yy = spread_of(make_donut(config, detector, coefficients, 2.0))
        ratios.append(xx / yy)
    assert_allclose(ratios[0] * ratios[1], 1.0, rtol=0.02)
    assert abs(ratios[0] - 1) > 0.1


def test_defocus_is_a_coefficient_of_its_own(camera):
    """Z4 is so much more defocus: the donut's radius changes by 8 sqrt(3) N Z4."""
    config = WavefrontConfig()
    detector = dataclasses.replace(camera.detector(1), id=2, purpose="wavefront")
    plain, more = (make_donut(config, detector, np.array([z4, *[0.0] * 7]), 2.0).radius for z4 in (0.0, -1.0))
    # in pixels of 10 micron; the pupil's grid ends within 1/160 of its edge
    assert_allclose(more - plain, 8 * np.sqrt(3) * config.focal_ratio / 10, atol=0.15)


def test_aberrations_are_the_visits_own(camera):
    """Coefficients have the scatter asked for, differ from visit to visit, and are NaN in focus."""
    config = SimulationConfig()
    detector = dataclasses.replace(camera.detector(1), purpose="wavefront")
    drawn = np.array([aberrations(config, science_visit(config, k), detector) for k in range(40)])
    # 320 numbers: 4 standard errors
    assert_allclose(drawn.std(), 0.15, rtol=4 / np.sqrt(2 * 320))
    assert np.isnan(aberrations(config, science_visit(config, 0), camera.detector(1))).all()
