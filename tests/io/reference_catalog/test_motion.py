"""Reference stars at other epochs: astropy's motion and parallax, and errors that hold."""

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import GCRS, SkyCoord
from astropy.time import Time

from skyquilt.io.reference_catalog.motion import MAS, positions_at
from skyquilt.primitives.schemas import REFERENCE


def moving(n: int, seed: int, pm: float, parallax: float) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return REFERENCE.conform(
        {
            "refId": np.arange(n),
            "ra": rng.uniform(0, 360, n),
            "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
            "raErr": np.full(n, 1.0 * MAS),
            "decErr": np.full(n, 2.0 * MAS),
            "pmRa": rng.uniform(-pm, pm, n),
            "pmDec": rng.uniform(-pm, pm, n),
            "pmRaErr": np.full(n, 0.3),
            "pmDecErr": np.full(n, 0.4),
            "parallax": np.full(n, parallax),
            "parallaxErr": np.full(n, 0.5),
            "epoch": np.full(n, Time(2016.0, format="jyear", scale="tai").mjd),
            "isStar": pd.array([pd.NA] * n, dtype="boolean"),
        }
    )


def separation_mas(one: pd.DataFrame, ra, dec) -> np.ndarray:
    return (
        SkyCoord(one["ra"], one["dec"], unit="deg").separation(SkyCoord(ra, dec, unit="deg")).to_value("mas")
    )


@pytest.mark.parametrize("years", [-100.0, -0.5, 8.25, 50.0])
def test_motion_is_that_of_apply_space_motion(years):
    """Stars of up to 10"/yr anywhere, near the poles too, move as astropy's space motion has it."""
    table = moving(50, 1, pm=10_000.0, parallax=100.0)
    table.loc[:1, "dec"] = [89.999, -89.9999]
    # TDB spares the conversions that have no leap seconds so far from now; only the years count
    epoch = Time(table["epoch"][0], format="mjd", scale="tdb")
    then = epoch + years * u.yr
    coordinates = SkyCoord(
        ra=table["ra"].to_numpy() * u.deg,
        dec=table["dec"].to_numpy() * u.deg,
        pm_ra_cosdec=table["pmRa"].to_numpy() * u.mas / u.yr,
        pm_dec=table["pmDec"].to_numpy() * u.mas / u.yr,
        distance=np.full(50, 10.0) * u.pc,
        radial_velocity=np.zeros(50) * u.km / u.s,
        obstime=epoch,
    ).apply_space_motion(new_obstime=then)
    moved = positions_at(table, then.mjd)
    # a path of up to 1.4e6 mas; astropy adds relativity, which cancels but for 1e-9 of it
    assert separation_mas(moved, coordinates.ra, coordinates.dec).max() < 1e-3
    assert separation_mas(moved, table["ra"], table["dec"]).max() > 5000 * abs(years)
    assert (moved["epoch"] == then.mjd).all()


def test_motion_there_and_back(tmp_path):
    """At its own epoch a star stays where it is, bit for bit within rounding, with its own errors."""
    table = moving(100, 2, pm=500.0, parallax=1.0)
    same = positions_at(table, table["epoch"][0])
    assert separation_mas(same, table["ra"], table["dec"]).max() < 1e-6
    np.testing.assert_allclose(same["raErr"], table["raErr"], rtol=1e-14)
    pd.testing.assert_frame_equal(table, moving(100, 2, pm=500.0, parallax=1.0))


@pytest.mark.parametrize("day", [0.0, 91.0, 200.0])
def test_parallax_is_that_of_the_gcrs(day):
    """The yearly ellipse: from the Earth a star is where astropy's GCRS has it, but for aberration."""
    table = moving(40, 4, pm=0.0, parallax=80.0)
    mjd = 57388.5 + day
    ra, dec = table["ra"].to_numpy() * u.deg, table["dec"].to_numpy() * u.deg
    frame = GCRS(obstime=Time(mjd, format="mjd", scale="tai"))
    near, far = (SkyCoord(ra, dec, distance=d * u.pc).transform_to(frame) for d in (12.5, 1e9))
    shift = unit_vectors(near.ra, near.dec) - unit_vectors(far.ra, far.dec)
    moved = positions_at(table, mjd, parallax=True)
    ours = unit_vectors(moved["ra"], moved["dec"]) - unit_vectors(table["ra"], table["dec"])
    # aberration, v/c = 1e-4, turns and squeezes the shift of up to 80 mas by as much
    assert np.degrees(np.linalg.norm(shift - ours, axis=1)).max() / MAS < 80 * 4e-4
    assert np.degrees(np.linalg.norm(ours, axis=1)).max() / MAS > 60


def unit_vectors(ra, dec) -> np.ndarray:
    return SkyCoord(np.asarray(ra), np.asarray(dec), unit="deg").cartesian.xyz.value.T


def test_errors_grow_with_time_as_the_scatter_does():
    """Positions scattered as their errors say and moved by scattered motions have the quoted errors."""
    n = 4000
    rng = np.random.default_rng(11)
    true = moving(n, 7, pm=30.0, parallax=2.0)
    true["dec"] = np.clip(true["dec"], -85, 85)
    noisy = true.copy()
    noisy["ra"] += true["raErr"] * rng.normal(size=n) / np.cos(np.radians(true["dec"]))
    noisy["dec"] += true["decErr"] * rng.normal(size=n)
    for name in ("pmRa", "pmDec", "parallax"):
        noisy[name] += true[f"{name}Err"] * rng.normal(size=n)
    mjd = true["epoch"][0] + 10.3 * 365.25
    a, b = positions_at(true, mjd, parallax=True), positions_at(noisy, mjd, parallax=True)
    pulls = {
        "ra": (b["ra"] - a["ra"]) * np.cos(np.radians(a["dec"])) / b["raErr"],
        "dec": (b["dec"] - a["dec"]) / b["decErr"],
    }
    for name, pull in pulls.items():
        # the variance of n unit normals has standard error sqrt(2/n)
        assert abs(pull.var() - 1) < 4 * np.sqrt(2 / n), name


def test_unmeasured_motion_costs_precision():
    """Without a motion the place stays and the error grows by the typical one; without an epoch none does."""
    table = moving(3, 8, pm=100.0, parallax=0.0)
    table.loc[1, ["pmRa", "pmDec", "pmRaErr", "pmDecErr", "parallax", "parallaxErr"]] = np.nan
    table.loc[2, "epoch"] = np.nan
    moved = positions_at(table, table["epoch"][0] + 365.25 * 5, unmeasured_motion=8.0)
    assert separation_mas(moved[1:], table["ra"][1:], table["dec"][1:]).max() < 1e-6
    np.testing.assert_allclose(moved["raErr"][:2] / MAS, [np.hypot(1, 1.5), np.hypot(1, 40)], rtol=1e-12)
    np.testing.assert_allclose(moved["decErr"][2], table["decErr"][2], rtol=1e-14)
    assert len(positions_at(table[:0], 60000.0, parallax=True)) == 0
