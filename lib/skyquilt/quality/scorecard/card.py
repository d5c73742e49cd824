"""Scorecard (LDM-151 6.1): its rows, and when one passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skyquilt.quality import metrics
from skyquilt.quality.metrics import Estimate
from skyquilt.quality.scorecard.config import ScorecardConfig

THIS_RELEASE = "this release"
LSST_SRD = "LSST SRD"

TOPICS = (
    "production",
    "calibration products",
    "instrument signature",
    "artifacts",
    "image quality",
    "detection",
    "astrometry",
    "photometry",
    "quoted errors",
)
"""What rows are about, in the order of the scorecard."""

_STAGE = "BootstrapImChar"
_STAGES = {
    "calibration products": "4.1",
    "instrument signature": "RunISR",
    "artifacts": "RunISR, SubtractSnaps",
}


def verdict(estimate: Estimate, lower: float | None, upper: float | None, least_objects: int = 2) -> str:
    """pass, fail, undecided or (without a bound) info."""
    if lower is None and upper is None:
        return "info"
    low, high = -math.inf if lower is None else lower, math.inf if upper is None else upper
    if not (math.isfinite(estimate.value) and math.isfinite(estimate.standard_error)):
        return "undecided"
    if estimate.n_objects < least_objects:
        return "undecided"
    begin = estimate.value - 2 * estimate.standard_error
    end = estimate.value + 2 * estimate.standard_error
    if low <= begin and end <= high:
        return "pass"
    return "fail" if end < low or begin > high else "undecided"


@dataclass
class Card:
    """Rows as they are made."""

    config: ScorecardConfig
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        topic: str,
        name: str,
        estimate: Estimate,
        *,
        unit: str = "",
        band: str = "all",
        bin: str = "",
        lower: float | None = None,
        upper: float | None = None,
        source: str = "",
        expected: float | None = None,
        tail: float | None = None,
        note: str = "",
    ) -> None:
        self.rows.append(
            {
                "topic": topic,
                "name": name,
                "stage": _STAGES.get(topic, _STAGE),
                "unit": unit,
                "value": _finite(estimate.value),
                "standard_error": _finite(estimate.standard_error),
                "tail": _finite(tail),
                "expected": _finite(expected),
                "n": estimate.n,
                "n_objects": estimate.n_objects,
                "band": band,
                "bin": bin,
                "bound": _bound_text(lower, upper, unit),
                "lower": lower,
                "upper": upper,
                "bound_source": source,
                "verdict": verdict(estimate, lower, upper, self.config.least_objects),
                "note": note,
            }
        )

    def rng(self, *key: str) -> np.random.Generator:
        return self.config.bootstrap.rng("/".join(key))

    def estimate(
        self, key: tuple[str, ...], statistic: Callable[..., float], objects: np.ndarray, *columns: np.ndarray
    ) -> Estimate:
        return metrics.estimate(statistic, objects, columns, self.rng(*key), self.config.bootstrap)

    def fraction(self, key: tuple[str, ...], hit: np.ndarray, objects: np.ndarray) -> Estimate:
        return metrics.estimate_fraction(hit, objects, self.rng(*key), self.config.bootstrap)

    def counts(self) -> dict[str, int]:
        verdicts = [row["verdict"] for row in self.rows]
        return {name: verdicts.count(name) for name in ("pass", "fail", "undecided", "info")}


def symmetric(bound: float) -> dict[str, Any]:
    return {"lower": -bound, "upper": bound, "source": THIS_RELEASE}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _bound_text(lower: float | None, upper: float | None, unit: str) -> str:
    unit = "" if unit == "fraction" else f" {unit}" if unit else ""
    if lower is None and upper is None:
        return ""
    if lower is None:
        return f"< {upper:.4g}{unit}"
    if upper is None:
        return f"> {lower:.4g}{unit}"
    return f"±{upper:.4g}{unit}" if lower == -upper else f"{lower:.4g} to {upper:.4g}{unit}"
