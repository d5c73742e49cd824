"""A toy survey whose catalogue has known faults: what the scorecard and the pages are tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest

from skyquilt.primitives.schemas import SOURCE, SOURCE_TRUTH, VISIT, VISIT_DETECTOR, VISIT_DETECTOR_TRUTH
from skyquilt.primitives.tables import TableSchema

NX, NY = 1000, 800
SCALE = 0.25
DEC = 30.0
FWHM = 4.0
ZERO_POINT = 30.0
BLANKS: dict[str, Any] = {"b": False, "i": 0, "f": np.nan, "s": ""}


def table(schema: TableSchema, n: int, **columns: Any) -> pd.DataFrame:
    """A table by its schema; columns that are not given hold NaN, 0, False or nothing."""
    blank = {
        c.name: np.full(n, BLANKS[c.dtype[0]], object if c.dtype == "str" else None) for c in schema.columns
    }
    full = {name: np.full(n, value) if np.ndim(value) == 0 else value for name, value in columns.items()}
    return schema.conform(pd.DataFrame(blank | full))


@dataclass
class ToySurvey:
    """Tables of a survey: what was found, what is true, and what became of each detector."""

    sources: pd.DataFrame
    truth: dict[str, pd.DataFrame]
    visits: pd.DataFrame
    visit_detectors: pd.DataFrame


def toy_survey(
    seed: int = 1,
    *,
    n_visits: int = 4,
    n_detectors: int = 2,
    n_stars: int = 500,
    position_bias_mas: tuple[float, float] = (0.0, 0.0),
    flux_bias: float = 0.0,
    quoted: float = 1.0,
    scatter_mmag: float = 0.0,
    false_per_unit: int = 0,
    threshold: float = 5.0,
) -> ToySurvey:
    """Stars on detectors side by side, each seen in every visit with Gaussian errors.

    Parameters
    ----------
    quoted : float
        Quoted over true errors.
    scatter_mmag : float
        Extra scatter of fluxes from visit to visit.
    false_per_unit : int
        False sources on each visit-detector, at places far from any star.
    """
    rng = np.random.default_rng(seed)
    units = [(v, d) for v in range(100, 100 + n_visits) for d in range(n_detectors)]
    stars = [_stars(rng, d, n_stars) for d in range(n_detectors)]
    truth, found = [], []
    for visit, detector in units:
        true = stars[detector].assign(visit=visit)
        truth.append(true)
        measured = _measured(rng, true, position_bias_mas, flux_bias, quoted, scatter_mmag)
        found.append(measured[measured["peakSnr"] > threshold])
        found.append(_false(rng, true, visit, detector, false_per_unit))
    sources = pd.concat(found, ignore_index=True)
    true = pd.concat(truth, ignore_index=True)
    return ToySurvey(
        table(SOURCE, len(sources), **{name: sources[name].to_numpy() for name in sources}),
        {
            "source": table(SOURCE_TRUTH, len(true), **{name: true[name].to_numpy() for name in true}),
            "visit_detector": table(
                VISIT_DETECTOR_TRUTH,
                len(units),
                visit=[v for v, _ in units],
                detector=[d for _, d in units],
                band="r",
                nJyPerElectron=10 ** (0.4 * (31.4 - ZERO_POINT)),
                fwhmArcsec=FWHM * SCALE,
                fwhmPixels=FWHM,
            ),
        },
        _visits(sorted({v for v, _ in units}), n_detectors),
        _visit_detectors(units),
    )


def sky(x: np.ndarray, y: np.ndarray, detector: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Positions [deg] of pixels: rows along ra, detectors 1100 pixels apart; crosses ra = 0."""
    dec = DEC + y * SCALE / 3600
    ra = ((x + 1100 * np.asarray(detector) - 700) * SCALE / 3600 / np.cos(np.radians(dec))) % 360
    return ra, dec


def _stars(rng: np.random.Generator, detector: int, n: int) -> pd.DataFrame:
    # a jittered grid keeps stars apart, so that no match is ambiguous
    columns = int(np.ceil(np.sqrt(n * NX / NY)))
    rows = int(np.ceil(n / columns))
    cell = np.arange(n)
    x = (cell % columns + rng.uniform(0.3, 0.7, n)) * NX / columns
    y = (cell // columns + rng.uniform(0.3, 0.7, n)) * NY / rows
    snr = 10 ** rng.uniform(0.5, 3.0, n)
    ra, dec = sky(x, y, detector)
    return pd.DataFrame(
        {
            "detector": detector,
            "id": 1 + detector * n + cell,
            "kind": "star",
            "band": "r",
            "x": x,
            "y": y,
            "ra": ra,
            "dec": dec,
            "flux": 100.0 * snr,
            "electrons": 40.0 * snr,
            "snr": snr,
            "isolated": True,
            "peakElectrons": snr,
            "fullWellFraction": snr / 1e5,
        }
    )


def _measured(
    rng: np.random.Generator,
    true: pd.DataFrame,
    bias_mas: tuple[float, float],
    flux_bias: float,
    quoted: float,
    scatter_mmag: float,
) -> pd.DataFrame:
    n, snr = len(true), true["snr"].to_numpy()
    sigma = FWHM / 2.3548 / snr
    x, y = (true[name].to_numpy() + sigma * rng.normal(size=n) for name in ("x", "y"))
    ra, dec = sky(x, y, true["detector"].to_numpy())
    noise = rng.normal(size=n)
    change = 10 ** (-0.4 * scatter_mmag / 1000 * rng.normal(size=n))
    flux = true["flux"].to_numpy() * (1 + flux_bias) * change + 100.0 * noise
    visit, detector = int(true["visit"].iloc[0]), int(true["detector"].iloc[0])
    return pd.DataFrame(
        {
            "sourceId": (visit << 27) + (detector << 18) + np.arange(n),
            "visit": visit,
            "detector": detector,
            "band": "r",
            "x": x,
            "y": y,
            "xErr": quoted * sigma,
            "yErr": quoted * sigma,
            "ra": ra + bias_mas[0] / 3.6e6 / np.cos(np.radians(dec)),
            "dec": dec + bias_mas[1] / 3.6e6,
            "raErr": quoted * sigma * SCALE / 3600,
            "decErr": quoted * sigma * SCALE / 3600,
            "calibFlux": flux,
            "calibFluxErr": quoted * 100.0,
            "ixx": (FWHM / 2.3548) ** 2,
            "iyy": (FWHM / 2.3548) ** 2,
            "ixy": 0.0,
            "extendedness": 0.0,
            "peakSnr": snr + noise,
            "detect_isPrimary": True,
        }
    )


def _false(rng: np.random.Generator, true: pd.DataFrame, visit: int, detector: int, n: int) -> pd.DataFrame:
    from scipy.spatial import cKDTree

    places = rng.uniform((20, 20), (NX - 20, NY - 20), (20 * n + 20, 2))
    far = cKDTree(true[["x", "y"]]).query(places)[0] > 5
    x, y = places[far][:n].T
    made = pd.DataFrame({"x": x, "y": y})
    identity = (visit << 27) + (detector << 18) + 100_000 + np.arange(len(x))
    return made.assign(
        sourceId=identity, visit=visit, detector=detector, band="r", peakSnr=5.5, detect_isPrimary=True
    )


def _visits(visits: list[int], n_detectors: int) -> pd.DataFrame:
    return table(
        VISIT,
        len(visits),
        visit=visits,
        band="r",
        physical_filter="toy_r",
        ra=0.02,
        dec=DEC + 0.02,
        skyRotation=0.0,
        airmass=1.2,
        expTime=30.0,
        expMidptMJD=61000.0 + 0.01 * np.arange(len(visits)),
        nDetectors=n_detectors,
        nDetectorsGood=n_detectors,
    )


def _visit_detectors(units: list[tuple[int, int]]) -> pd.DataFrame:
    detector = np.array([d for _, d in units])
    corners = {}
    for name, x, y in (("ll", 0, 0), ("ul", 0, NY), ("ur", NX, NY), ("lr", NX, 0)):
        corners[f"{name}cra"], corners[f"{name}cdec"] = sky(x, y, detector)
    ra, dec = sky(NX / 2, NY / 2, detector)
    return table(
        VISIT_DETECTOR,
        len(units),
        visit=[v for v, _ in units],
        detector=detector,
        band="r",
        physical_filter="toy_r",
        ra=ra,
        dec=dec,
        **corners,
        pixelScale=SCALE,
        seeing=FWHM * SCALE,
        psfSigma=FWHM / 2.3548,
        skyBg=500.0,
        skyNoise=20.0,
        zeroPoint=ZERO_POINT,
        magLim=24.0,
        expTime=30.0,
        expMidptMJD=61000.0,
        nSources=500,
        status="ok",
    )


@pytest.fixture(scope="session")
def make_survey():
    """The function that makes toy surveys."""
    return toy_survey


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same on every run."""
    return np.random.default_rng(20260101)
