"""Simulation (design 7): orbits around the Sun in the two-body problem.

Elements are (a [au], e, i, node, argument of perihelion, mean anomaly [deg]) in the ecliptic and equinox of
J2000; vectors are heliocentric in ICRS axes, au and au/day.
"""

from __future__ import annotations

import math

import numpy as np

GAUSS = 0.01720209895
"""Square root of the Sun's GM [au^1.5/day]."""

OBLIQUITY = math.radians(84381.406 / 3600)

TO_ECLIPTIC = np.array(
    [
        [1.0, 0.0, 0.0],
        [0.0, math.cos(OBLIQUITY), math.sin(OBLIQUITY)],
        [0.0, -math.sin(OBLIQUITY), math.cos(OBLIQUITY)],
    ]
)


def eccentric_anomaly(mean: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Solution of Kepler's equation [rad], by Newton's method with steps of at most 1; e below 0.99."""
    mean = (np.asarray(mean) + np.pi) % (2 * np.pi) - np.pi
    anomaly = mean + e * np.sin(mean)
    for _ in range(50):
        step = (anomaly - e * np.sin(anomaly) - mean) / (1 - e * np.cos(anomaly))
        step = np.clip(step, -1, 1)
        anomaly = anomaly - step
        if np.all(np.abs(step) < 1e-14):
            break
    return anomaly


def place(orbit: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Heliocentric places, shape (n, 3) [au], of elements, shape (n, 6), days after their epoch."""
    a, e = orbit[:, 0], orbit[:, 1]
    i, node, peri, mean = np.radians(orbit[:, 2:]).T
    anomaly = eccentric_anomaly(mean + GAUSS * a**-1.5 * days, e)
    x, y = a * (np.cos(anomaly) - e), a * np.sqrt(1 - e**2) * np.sin(anomaly)
    along = np.stack(
        [
            np.cos(node) * np.cos(peri) - np.sin(node) * np.sin(peri) * np.cos(i),
            np.sin(node) * np.cos(peri) + np.cos(node) * np.sin(peri) * np.cos(i),
            np.sin(peri) * np.sin(i),
        ],
        axis=1,
    )
    across = np.stack(
        [
            -np.cos(node) * np.sin(peri) - np.sin(node) * np.cos(peri) * np.cos(i),
            -np.sin(node) * np.sin(peri) + np.cos(node) * np.cos(peri) * np.cos(i),
            np.cos(peri) * np.sin(i),
        ],
        axis=1,
    )
    return (x[:, None] * along + y[:, None] * across) @ TO_ECLIPTIC


def elements(position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Elements, shape (n, 6), of heliocentric places [au] and velocities [au/day], shape (n, 3), ICRS axes.

    Bound orbits that are neither circular nor in the ecliptic.
    """
    r, v = position @ TO_ECLIPTIC.T, velocity @ TO_ECLIPTIC.T / GAUSS
    distance = np.linalg.norm(r, axis=1)
    a = 1 / (2 / distance - (v**2).sum(axis=1))
    h = np.cross(r, v)
    runge = np.cross(v, h) - r / distance[:, None]
    e = np.linalg.norm(runge, axis=1)
    i = np.arctan2(np.hypot(h[:, 0], h[:, 1]), h[:, 2])
    node = np.arctan2(h[:, 0], -h[:, 1])
    ascending = np.stack([np.cos(node), np.sin(node), np.zeros(len(a))], axis=1)
    normal = h / np.linalg.norm(h, axis=1)[:, None]
    peri = np.arctan2((np.cross(ascending, runge) * normal).sum(axis=1), (ascending * runge).sum(axis=1))
    anomaly = np.arctan2((r * v).sum(axis=1) / np.sqrt(a), 1 - distance / a)
    mean = anomaly - e * np.sin(anomaly)
    angles = np.degrees(np.stack([i, node, peri, mean], axis=1)) % 360
    return np.column_stack([a, e, angles])
