"""Scorecard (LDM-151 6.1): what a survey reached, against truth, this release's bounds and requirements.

A row passes when all of value +- 2 standard errors lies inside its bound, fails when all of it lies outside,
and is undecided otherwise. Rows without a bound inform. Surveys of real skies have the rows that need no
truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skyquilt.primitives.failure import Reason
from skyquilt.quality.scorecard.card import TOPICS, Card, verdict
from skyquilt.quality.scorecard.config import ScorecardConfig
from skyquilt.quality.scorecard.instrument_rows import instrument_rows
from skyquilt.quality.scorecard.samples import SOURCE_COLUMNS, Sample, counted_sources, detector_sizes
from skyquilt.quality.scorecard.source_rows import (
    calibration_rows,
    completeness_rows,
    flux_rows,
    measured_stars,
    position_rows,
    production_rows,
    pull_rows,
    purity_rows,
    repeatability_rows,
    true_stars,
)
from skyquilt.quality.scorecard.table import format_scorecard, format_value

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SOURCE_COLUMNS",
    "TOPICS",
    "ScorecardConfig",
    "detector_sizes",
    "format_scorecard",
    "format_value",
    "make_scorecard",
    "verdict",
]


def make_scorecard(
    sources: pd.DataFrame,
    truth: Mapping[str, pd.DataFrame],
    visit_detectors: pd.DataFrame,
    config: ScorecardConfig,
    instrument: Mapping[str, pd.DataFrame] | None = None,
) -> dict[str, Any]:
    """Judge a survey.

    Parameters
    ----------
    sources : DataFrame
        All visits' sources: `SOURCE_COLUMNS` of schema SOURCE.
    truth : mapping of str to DataFrame
        Tables ``source`` (SOURCE_TRUTH) and ``visit_detector`` (VISIT_DETECTOR_TRUTH); others are not needed.
        Empty for real skies.
    visit_detectors : DataFrame
        Schema VISIT_DETECTOR, the failed ones too. Truth of failed detectors and of detectors that are not
        there counts nowhere; how many failed is a row of its own.
    config : ScorecardConfig
    instrument : mapping of str to DataFrame, optional
        Tables of `quality.signature_files` about instrument signature, calibration products and artifacts.

    Returns
    -------
    dict
        JSON-able: ``rows`` (each with topic, name, stage, unit, value, standard_error, tail, expected, n,
        n_objects, band, bin, bound, lower, upper, bound_source, verdict, note; null for what is not
        there), ``counts`` of verdicts, ``truth`` (whether there is any). ``tail`` is the fraction beyond
        5 sigma, ``expected`` what a perfect detector reaches.
    """
    card = Card(config)
    science = visit_detectors["reasonCode"].to_numpy() != Reason.NOT_SCIENCE.value
    processed = visit_detectors[(visit_detectors["status"].to_numpy() != "failed") & science]
    chosen = counted_sources(sources, processed)
    production_rows(card, chosen, visit_detectors, processed)
    instrument_rows(card, instrument or {})
    has_truth = "source" in truth
    if has_truth:
        sample = Sample.of(chosen, truth["source"], processed, config)
        completeness_rows(card, sample)
        purity_rows(card, sample)
        position_rows(card, sample)
        flux_rows(card, sample)
        pull_rows(card, sample)
        if "visit_detector" in truth:
            calibration_rows(card, processed, truth["visit_detector"])
        repeatability_rows(card, *true_stars(sample))
    else:
        repeatability_rows(card, *measured_stars(chosen, config))
    rows = sorted(card.rows, key=lambda row: TOPICS.index(row["topic"]))
    return {"rows": rows, "counts": card.counts(), "truth": has_truth}
