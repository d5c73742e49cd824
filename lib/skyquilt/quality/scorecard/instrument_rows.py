"""Scorecard (LDM-151 6.1): rows about instrument signature, calibration products and artifacts.

Bounds are this release's, for the instrument that the simulation makes. Independent objects are detectors of
visits (their snaps share calibrations), amplifiers, or events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.statistics import median
from skyquilt.quality import metrics
from skyquilt.quality.scorecard.card import THIS_RELEASE, Card

if TYPE_CHECKING:
    import pandas as pd

_CALIBRATION, _SIGNATURE, _ARTIFACTS = "calibration products", "instrument signature", "artifacts"
Tables = Mapping[str, "pd.DataFrame"]


def instrument_rows(card: Card, tables: Tables) -> None:
    """All rows for which there are tables (`quality.signature_files`)."""
    for name, rows in (
        ("amplifiers", _amplifier_rows),
        ("crosstalk", _crosstalk_rows),
        ("linearity", _linearity_rows),
        ("levels", _level_rows),
        ("sky", _sky_rows),
        ("fringes", _fringe_rows),
        ("stars", _star_size_rows),
        ("saturation", _saturation_rows),
        ("cosmic_rays", _cosmic_ray_rows),
        ("marks", _mark_rows),
        ("trails", _trail_rows),
    ):
        if name in tables and len(tables[name]):
            rows(card, tables[name])


def _within(bound: float) -> dict[str, object]:
    return {"lower": -bound, "upper": bound, "source": THIS_RELEASE}


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _amplifier_rows(card: Card, table: pd.DataFrame) -> None:
    units = np.arange(len(table))
    for name, bound in (("gain", 0.003), ("read_noise", 0.03)):
        error = (table[name] / table[f"true_{name}"] - 1).to_numpy(np.float64)
        label = name.replace("_", " ")
        found = card.estimate((name,), _root_mean_square, units, error)
        card.add(
            _CALIBRATION,
            f"{label}, rms error of amplifiers",
            found,
            unit="fraction",
            upper=bound,
            source=THIS_RELEASE,
        )
        pulls = ((table[name] - table[f"true_{name}"]) / table[f"{name}_error"]).to_numpy(np.float64)
        found = card.estimate((name, "pull"), _root_mean_square, units, pulls)
        card.add(_CALIBRATION, f"pull rms of {label}", found)


def _crosstalk_rows(card: Card, table: pd.DataFrame) -> None:
    units = np.arange(len(table))
    error = (table["coefficient"] - table["true"]).to_numpy(np.float64)
    found = card.estimate(("crosstalk",), _root_mean_square, units, 1e5 * error)
    card.add(
        _CALIBRATION,
        "crosstalk, rms error of pairs",
        found,
        unit="1e-5",
        upper=2.0,
        source=THIS_RELEASE,
    )
    pulls = error / table["error"].to_numpy(np.float64)
    card.add(
        _CALIBRATION,
        "pull rms of crosstalk",
        card.estimate(("crosstalk", "pull"), _root_mean_square, units, pulls),
    )


def _linearity_rows(card: Card, table: pd.DataFrame) -> None:
    amplifiers = table.groupby(["detector", "amplifier"]).ngroup().to_numpy()
    found = card.estimate(
        ("linearity",), _root_mean_square, amplifiers, table["deviation"].to_numpy(np.float64)
    )
    card.add(
        _CALIBRATION,
        "nonlinearity left, rms of 1-90 % of full well",
        found,
        unit="fraction",
        upper=0.001,
        source=THIS_RELEASE,
    )


def _level_rows(card: Card, table: pd.DataFrame) -> None:
    for lower, rows in table.groupby("lower", sort=True):
        objects = rows.groupby(["visit", "detector"]).ngroup().to_numpy()
        ratio = metrics.estimate_ratio(
            (rows["measured"] - rows["expected"]).to_numpy(),
            rows["expected"].to_numpy(),
            objects,
            card.rng("level", f"{lower:.0f}"),
            card.config.bootstrap,
        )
        note = f"{int(rows['n'].sum()):,} pixels"
        card.add(
            _SIGNATURE,
            "electrons received against truth",
            ratio,
            unit="fraction",
            bin=f"{lower:.0f}-",
            note=note,
            **_within(0.003),
        )


def _sky_rows(card: Card, table: pd.DataFrame) -> None:
    objects = table.groupby(["visit", "detector"]).ngroup().to_numpy()
    width = card.estimate(("sky pulls",), median, objects, table["width"].to_numpy(np.float64))
    card.add(
        _SIGNATURE,
        "pull width of empty pixels, median frame",
        width,
        lower=0.98,
        upper=1.02,
        source=THIS_RELEASE,
    )


def _fringe_rows(card: Card, table: pd.DataFrame) -> None:
    rows = table[np.isfinite(table["residual"].to_numpy())]
    if not len(rows):
        return
    objects = rows.groupby(["visit", "detector"]).ngroup().to_numpy()
    left = card.estimate(("fringes",), median, objects, rows["residual"].to_numpy(np.float64))
    card.add(_SIGNATURE, "fringes left, share of their height", left, unit="fraction", **_within(0.05))


def _star_size_rows(card: Card, table: pd.DataFrame) -> None:
    """Slope of (T / true T - 1) with the peak: what a star at full well is too large by."""
    objects = np.arange(len(table))
    peak, weight = (
        table["peak"].to_numpy(np.float64),
        1 / table["error"].to_numpy(np.float64) ** 2,
    )
    columns = {name: table[name].to_numpy(np.float64) for name in ("corrected", "uncorrected")}
    for name, values in columns.items():
        found = card.estimate(("star size", name), _slope, objects, peak, values, weight)
        card.add(_SIGNATURE, f"star size against flux, {name}", found, unit="fraction", note="at full well")

    def share(peak: np.ndarray, left: np.ndarray, whole: np.ndarray, weight: np.ndarray) -> float:
        slope = _slope(peak, whole, weight)
        return _slope(peak, left, weight) / slope if slope else float("nan")

    left = card.estimate(
        ("star size", "share"), share, objects, peak, columns["corrected"], columns["uncorrected"], weight
    )
    card.add(
        _SIGNATURE,
        "brighter-fatter slope left, share",
        left,
        unit="fraction",
        note="aim 0.1",
        **_within(0.2),
    )


def _slope(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Slope of a weighted straight line; NaN where all x are one."""
    total = weight.sum()
    x0, y0 = (weight * x).sum() / total, (weight * y).sum() / total
    spread = float((weight * (x - x0) ** 2).sum())
    return float((weight * (x - x0) * (y - y0)).sum()) / spread if spread > 0 else float("nan")


def _saturation_rows(card: Card, table: pd.DataFrame) -> None:
    objects = table.groupby(["visit", "detector"]).ngroup().to_numpy()
    share = metrics.estimate_ratio(
        table["marked"].to_numpy(),
        table["pixels"].to_numpy(),
        objects,
        card.rng("saturation"),
        card.config.bootstrap,
    )
    note = f"{int(table['pixels'].sum()):,} pixels"
    card.add(
        _SIGNATURE,
        "saturated and bled pixels marked",
        share,
        unit="fraction",
        lower=0.995,
        source=THIS_RELEASE,
        note=note,
    )


def _cosmic_ray_rows(card: Card, table: pd.DataFrame) -> None:
    seen = table[table["visible"].astype(bool).to_numpy()].reset_index(drop=True)
    snr = seen["peak_snr"].to_numpy(np.float64)
    for label, rows, bound in (("5-10", (snr > 5) & (snr <= 10), 0.90), (">10", snr > 10, 0.99)):
        if not rows.any():
            continue
        found = card.fraction(
            ("cosmic rays", label), seen["found"].to_numpy(bool)[rows], np.flatnonzero(rows)
        )
        card.add(
            _ARTIFACTS,
            "cosmic rays found",
            found,
            unit="fraction",
            bin=label,
            lower=bound,
            source=THIS_RELEASE,
            note="not on saturated or bad pixels",
        )
    share = seen["share"].to_numpy(np.float64)
    bright = (snr > 10) & np.isfinite(share)
    found = card.estimate(
        ("cosmic rays", "share"), lambda v: float(v.mean()), np.flatnonzero(bright), share[bright]
    )
    card.add(_ARTIFACTS, "their pixels above 3 sigma marked", found, unit="fraction", bin=">10")


def _mark_rows(card: Card, table: pd.DataFrame) -> None:
    bootstrap = card.config.bootstrap
    rate = metrics.estimate_rate(
        table["false_cosmic_rays"].to_numpy(),
        table["megapixels"].to_numpy(),
        card.rng("false cosmic rays"),
        bootstrap,
    )
    card.add(_ARTIFACTS, "false cosmic rays", rate, unit="per Mpix", upper=5.0, source=THIS_RELEASE)
    cores = metrics.estimate_ratio(
        table["cores_hit"].to_numpy(),
        table["stars"].to_numpy(),
        np.arange(len(table)),
        card.rng("cores"),
        bootstrap,
    )
    note = f"{int(table['cores_hit'].sum())} of {int(table['stars'].sum())} stars"
    card.add(_ARTIFACTS, "star cores taken for cosmic rays", cores, unit="fraction", note=note)
    trails = metrics.estimate_rate(
        table["false_trails"].to_numpy(),
        np.ones(len(table)),
        card.rng("false trails"),
        bootstrap,
    )
    card.add(_ARTIFACTS, "false trails", trails, unit="per frame")


def _trail_rows(card: Card, table: pd.DataFrame) -> None:
    """A trail is found when more than half of its pixels on all detectors together are marked."""
    table = table.assign(light=table["brightness"] * table["pixels"])
    trails = table.groupby(["visit", "snap", "event"], sort=True)[
        ["pixels", "marked", "length", "light"]
    ].sum()
    trails["brightness"] = trails["light"] / trails["pixels"]
    note = "brighter than 1 sigma per pixel, longer than 100 px"
    for name, rows, bound in (
        ("satellite trails", trails, 0.95),
        ("pieces of trails on a detector", table, None),
    ):
        bright = ((rows["brightness"] > 1) & (rows["length"] > 100)).to_numpy()
        if not bright.any():
            continue
        share = (rows["marked"] / rows["pixels"]).to_numpy(np.float64)[bright]
        found = card.fraction((name,), share > 0.5, np.arange(share.size))
        limits = {} if bound is None else {"lower": bound, "source": THIS_RELEASE}
        card.add(_ARTIFACTS, f"{name} found", found, unit="fraction", note=note, **limits)
        if bound is None:
            continue
        marked = card.estimate((name, "share"), lambda v: float(v.mean()), np.arange(share.size), share)
        limits = {"lower": 0.90, "source": THIS_RELEASE}
        card.add(_ARTIFACTS, f"pixels of {name} marked", marked, unit="fraction", note=note, **limits)
