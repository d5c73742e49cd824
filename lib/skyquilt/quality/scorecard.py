"""Scorecard (LDM-151 6.1): what a survey reached, against truth, this release's bounds and requirements.

A row passes when all of value +- 2 standard errors lies inside its bound, fails when all of it lies outside,
and is undecided otherwise. Rows without a bound inform. Surveys of real skies have the rows that need no
truth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.primitives.photo_calib import AB_ZERO_POINT
from skyquilt.primitives.statistics import mad_width, median
from skyquilt.quality import metrics
from skyquilt.quality.metrics import Bootstrap, Estimate

if TYPE_CHECKING:
    import pandas as pd

THIS_RELEASE = "this release"
LSST_SRD = "LSST SRD"

TOPICS = ("production", "image quality", "detection", "astrometry", "photometry", "quoted errors")
"""What rows are about, in the order of the scorecard."""

SOURCE_COLUMNS = (
    *("visit", "detector", "band", "x", "y", "xErr", "yErr", "ra", "dec", "raErr", "decErr"),
    *("calibFlux", "calibFluxErr", "extendedness", "peakSnr", "detect_isPrimary", "centroid_flag"),
    *(f"pixelFlags_{name}" for name in metrics.CORE_FLAGS + metrics.FOOTPRINT_FLAGS),
)
"""Columns of the Source table that a scorecard is made from."""

_STAGE = "BootstrapImChar"
_MMAG_PER_RELATIVE = 2500 / math.log(10)


@dataclass(frozen=True)
class ScorecardConfig:
    """Samples, bins and bounds of the scorecard."""

    match_radius: float = 2.0
    """A source belongs to a true object within this distance of it [pixel]."""

    detection_threshold: float = 5.0
    """Threshold of the detection of the sources that are judged, for the perfect detector beside [sigma]."""

    edge_margin: float = 16.0
    """Completeness, purity and false rates leave out what is nearer to the edge of a detector [pixel]: beyond
    it lie true objects that truth does not list, and the detection kernel does not fit."""

    false_snr: float = 2.0
    """A source is false when no true object of higher S/N is within match_radius."""

    completeness_edges: tuple[float, ...] = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 25.0, 50.0, 200.0)
    """Lower edges of the bins of true S/N for completeness."""

    purity_edges: tuple[float, ...] = (0.0, 5.0, 6.0, 7.0, 10.0, 20.0, 50.0)
    """Lower edges of the bins of measured peak S/N for purity and false rates."""

    completeness_snr: float = 10.0
    """True S/N above which the completeness of all objects and of isolated stars is stated."""

    completeness_shortfall: float = 0.02
    """Bound on isolated stars above completeness_snr that only a perfect detector finds [fraction]."""

    bright_snr: float = 50.0
    """True S/N above which stars count for the bounds on positions and fluxes."""

    position_bias_mas: float = 20.0
    """Bound on the bias of clean bright stars' positions, each axis [mas]."""

    flux_bias: float = 0.01
    """Bound on the bias of clean bright stars' fluxes [fraction]."""

    pull_edges: tuple[float, ...] = (10.0, 20.0, 50.0, 100.0, 200.0)
    """Lower edges of the bins of true S/N for pulls, before merging."""

    pull_objects: int = 800
    """Fewest objects of a bin of pulls; smaller ones are merged."""

    repeatability_snr: float = 100.0
    """S/N above which stars count for repeatability (true, or measured where there is no truth)."""

    repeatability_mmag: float = 5.0
    """Bound on photometric repeatability [mmag]: the LSST SRD's PA1."""

    same_star_arcsec: float = 0.5
    """Without truth, sources of different visits within this distance are the same star [arcsec]."""

    least_objects: int = 10
    """With fewer objects a row is undecided, whatever its standard error says."""

    resamples: int = 200
    """Bootstrap samples of each row."""

    most_objects: int = 5000
    """Of more objects than this, so many are drawn for the bootstrap and its error is scaled."""

    seed: int = 0
    """Seed of the bootstrap, together with each row's name."""

    def __post_init__(self) -> None:
        for name in ("completeness_edges", "purity_edges", "pull_edges"):
            edges = getattr(self, name)
            if not edges or any(b <= a for a, b in itertools.pairwise(edges)):
                raise ValueError(f"{name} must be ascending numbers, got {edges}")
        for name in ("match_radius", "detection_threshold", "same_star_arcsec", "repeatability_mmag"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name, least in (("least_objects", 2), ("resamples", 20), ("most_objects", 100), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def bootstrap(self) -> Bootstrap:
        """How standard errors are drawn."""
        return Bootstrap(self.resamples, self.most_objects, self.seed)


def make_scorecard(
    sources: pd.DataFrame,
    truth: Mapping[str, pd.DataFrame],
    visit_detectors: pd.DataFrame,
    config: ScorecardConfig,
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

    Returns
    -------
    dict
        JSON-able: ``rows`` (each with topic, name, stage, unit, value, standard_error, tail, expected, n,
        n_objects, band, bin, bound, lower, upper, bound_source, verdict, note; null for what is not
        there), ``counts`` of verdicts, ``truth`` (whether there is any). ``tail`` is the fraction beyond
        5 sigma, ``expected`` what a perfect detector reaches.
    """
    card = _Card(config)
    processed = visit_detectors[visit_detectors["status"].to_numpy() != "failed"]
    chosen = _counted_sources(sources, processed)
    _production_rows(card, chosen, visit_detectors, processed)
    has_truth = "source" in truth
    if has_truth:
        sample = _Sample.of(chosen, truth["source"], processed, config)
        _completeness_rows(card, sample)
        _purity_rows(card, sample)
        _position_rows(card, sample)
        _flux_rows(card, sample)
        _pull_rows(card, sample)
        if "visit_detector" in truth:
            _calibration_rows(card, processed, truth["visit_detector"])
        _repeatability_rows(card, *_true_stars(sample))
    else:
        _repeatability_rows(card, *_measured_stars(chosen, config))
    rows = sorted(card.rows, key=lambda row: TOPICS.index(row["topic"]))
    return {"rows": rows, "counts": card.counts(), "truth": has_truth}


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


# --- rows ---------------------------------------------------------------------------------------------------


@dataclass
class _Card:
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
                "stage": _STAGE,
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


def _production_rows(
    card: _Card, sources: pd.DataFrame, visit_detectors: pd.DataFrame, processed: pd.DataFrame
) -> None:
    units = np.arange(len(visit_detectors))
    failed = card.fraction(("failed",), (visit_detectors["status"] == "failed").to_numpy(), units)
    card.add("production", "detectors that failed", failed, unit="fraction", note="of visit-detectors")
    zero_point = np.isnan(processed["zeroPoint"].to_numpy(np.float64))
    without = card.fraction(("no zero point",), zero_point, np.arange(len(processed)))
    card.add(
        "production", "detectors without zero point", without, unit="fraction", note="of those not failed"
    )
    total = Estimate(float(len(sources)), math.nan, len(sources), len(processed))
    card.add("production", "sources", total, note="primary, all visits")
    for band in sorted(processed["band"].unique()):
        rows = processed[(processed["band"] == band).to_numpy()]
        for column, name, unit in (
            ("nSources", "sources per detector, median", ""),
            ("seeing", "seeing, median", "arcsec"),
            ("skyNoise", "sky noise per pixel, median", "adu"),
            ("zeroPoint", "zero point, median", "mag"),
            ("magLim", "depth (5 sigma), median", "mag"),
        ):
            values = rows[column].to_numpy(np.float64)
            found = card.estimate((name, band), median, np.arange(len(rows)), values)
            card.add("image quality", name, found, unit=unit, band=band)


def _completeness_rows(card: _Card, sample: _Sample) -> None:
    config, truth = card.config, sample.truth[sample.truth_inside]
    found, objects = sample.found[sample.truth_inside], truth["id"].to_numpy()
    snr = truth["snr"].to_numpy(np.float64)
    star = (truth["kind"] == "star").to_numpy() & truth["isolated"].to_numpy(bool)
    above = snr > config.completeness_snr
    label = f">{config.completeness_snr:g}"
    note = f"{config.edge_margin:g} px from edges"
    everything = card.fraction(("completeness",), found[above], objects[above])
    card.add("detection", "completeness, all objects", everything, unit="fraction", bin=label, note=note)
    isolated = card.fraction(("completeness isolated",), found[above & star], objects[above & star])
    perfect = metrics.perfect_completeness(snr, config.detection_threshold)
    expected = _mean(perfect[above & star])
    card.add(
        "detection",
        "completeness, isolated stars",
        isolated,
        unit="fraction",
        bin=label,
        lower=expected - config.completeness_shortfall if math.isfinite(expected) else None,
        source=THIS_RELEASE,
        expected=expected,
        note=note,
    )
    for item in metrics.bins_of(snr[star], config.completeness_edges):
        rows = np.flatnonzero(star)[item.rows]
        if rows.size:
            part = card.fraction(("completeness isolated", item.label), found[rows], objects[rows])
            card.add(
                "detection",
                "completeness, isolated stars",
                part,
                unit="fraction",
                bin=item.label,
                expected=_mean(perfect[rows]),
            )


def _purity_rows(card: _Card, sample: _Sample) -> None:
    config, inside = card.config, sample.source_inside
    false, objects = sample.false[inside], sample.objects[inside]
    snr, dense = sample.sources["peakSnr"].to_numpy(np.float64)[inside], sample.source_crowded[inside]
    for label, crowded in (("sparse", False), ("crowded", True)):
        if (sample.unit_crowded == crowded).any():
            rows = dense == crowded
            pure = card.fraction(("purity", label), ~false[rows], objects[rows])
            card.add("detection", "purity", pure, unit="fraction", bin=label)
            card.add(
                "detection", "false sources", _false_rate(card, sample, label), unit="per Mpix", bin=label
            )
    for item in metrics.bins_of(snr, config.purity_edges):
        if item.rows.size:
            pure = card.fraction(("purity", item.label), ~false[item.rows], objects[item.rows])
            note = "bin of measured peak S/N"
            card.add("detection", "purity", pure, unit="fraction", bin=item.label, note=note)
    again = card.fraction(("repeated",), ~false & (sample.match[inside] < 0), objects)
    note = "near an object that another source has"
    card.add("detection", "repeated sources", again, unit="fraction", note=note)
    edge = card.fraction(("false at edges",), sample.false[~inside], sample.objects[~inside])
    note = f"within {config.edge_margin:g} px, objects off the detector included"
    card.add("detection", "no object, at edges", edge, unit="fraction", note=note)


def _false_rate(card: _Card, sample: _Sample, label: str) -> Estimate:
    units = np.flatnonzero(sample.unit_crowded == (label == "crowded"))
    counts = np.bincount(
        sample.source_unit[sample.source_inside & sample.false], minlength=sample.unit_crowded.size
    )
    areas = sample.unit_megapixels
    known = units[np.isfinite(areas[units]) & (areas[units] > 0)]
    return metrics.estimate_rate(counts[known], areas[known], card.rng("false", label), card.config.bootstrap)


def _position_rows(card: _Card, sample: _Sample) -> None:
    config, label = card.config, f">{card.config.bright_snr:g}"
    for isolated in (False, True):
        stars = sample.stars(config.bright_snr, isolated=isolated)
        whose = "clean & isolated" if isolated else "clean stars"
        residuals = metrics.position_residuals(stars["ra"], stars["dec"], stars["true_ra"], stars["true_dec"])
        for axis, residual in zip(("ra", "dec"), residuals):
            values, objects = np.asarray(residual), stars["id"].to_numpy()
            name = f"position bias {axis}, {whose}"
            bias = card.estimate((name,), median, objects, values)
            bound = {} if isolated else _symmetric(config.position_bias_mas)
            card.add("astrometry", name, bias, unit="mas", bin=label, **bound)
            name = f"position width {axis}, {whose}"
            width = card.estimate((name,), mad_width, objects, values)
            tail = _width_tail(values)
            card.add("astrometry", name, width, unit="mas", bin=label, tail=tail)


def _flux_rows(card: _Card, sample: _Sample) -> None:
    config, label = card.config, f">{card.config.bright_snr:g}"
    stars = sample.stars(config.bright_snr)
    for band in sorted(sample.truth["band"].unique()):
        rows = stars[(stars["band"] == band).to_numpy()]
        residual, objects = metrics.relative_flux_residuals(rows["calibFlux"], rows["true_flux"]), rows["id"]
        bias = card.estimate(("flux bias", band), median, objects, residual)
        bound = _symmetric(config.flux_bias)
        card.add("photometry", "flux bias, clean stars", bias, unit="fraction", band=band, bin=label, **bound)
        width = card.estimate(("flux width", band), mad_width, objects, residual)
        tail = _width_tail(residual)
        name = "flux width, clean stars"
        card.add("photometry", name, width, unit="fraction", band=band, bin=label, tail=tail)


def _pull_rows(card: _Card, sample: _Sample) -> None:
    config = card.config
    stars = sample.stars(config.pull_edges[0], isolated=True)
    for name, pulls in _pulls(stars).items():
        good = np.isfinite(pulls)
        pulls, objects = pulls[good], stars["id"].to_numpy()[good]
        snr = stars["snr"].to_numpy(np.float64)[good]
        for item in metrics.merged_bins(snr, objects, config.pull_edges, config.pull_objects):
            width = card.estimate(("pull", name, item.label), mad_width, objects[item.rows], pulls[item.rows])
            few = width.n_objects < config.pull_objects
            card.add(
                "quoted errors",
                f"pull width {name}, clean & isolated",
                width,
                bin=item.label,
                tail=metrics.tail_fraction(pulls[item.rows]),
                note=f"fewer than {config.pull_objects} objects" if few else "",
            )


def _pulls(stars: pd.DataFrame) -> dict[str, np.ndarray]:
    """(measured - true) / quoted error, each of shape (n,); the truth of x, y, ra and dec is as imaged."""
    d_ra, d_dec = metrics.position_residuals(stars["ra"], stars["dec"], stars["true_ra"], stars["true_dec"])
    differences = {
        "x": (stars["x"] - stars["true_x"], stars["xErr"]),
        "y": (stars["y"] - stars["true_y"], stars["yErr"]),
        "ra": (d_ra, stars["raErr"] * metrics.MAS_PER_DEGREE),
        "dec": (d_dec, stars["decErr"] * metrics.MAS_PER_DEGREE),
        "calibFlux": (stars["calibFlux"] - stars["true_flux"], stars["calibFluxErr"]),
    }
    pulls = {}
    for name, (difference, error) in differences.items():
        error = np.asarray(error, np.float64)
        pulls[name] = np.asarray(difference, np.float64) / np.where(error > 0, error, np.nan)
    return pulls


def _calibration_rows(card: _Card, processed: pd.DataFrame, truth: pd.DataFrame) -> None:
    both = processed[["visit", "detector", "band", "zeroPoint", "seeing"]].merge(
        truth[["visit", "detector", "nJyPerElectron", "fwhmArcsec"]], on=["visit", "detector"]
    )
    for band in sorted(both["band"].unique()):
        rows = both[(both["band"] == band).to_numpy()]
        true = AB_ZERO_POINT - 2.5 * np.log10(rows["nJyPerElectron"].to_numpy(np.float64))
        offset = 1000 * (rows["zeroPoint"].to_numpy(np.float64) - true)
        units = np.arange(len(rows))
        bias = card.estimate(("zero point", band), median, units, offset)
        note = "true electrons: errors of laboratory gains are in it"
        card.add("photometry", "zero point minus truth", bias, unit="mmag", band=band, note=note)
        width = card.estimate(("zero point width", band), mad_width, units, offset)
        card.add("photometry", "zero point minus truth, width", width, unit="mmag", band=band)
        ratio = metrics.relative_flux_residuals(rows["seeing"], rows["fwhmArcsec"])
        seeing = card.estimate(("seeing", band), median, units, ratio)
        card.add("image quality", "seeing against truth", seeing, unit="fraction", band=band)


def _repeatability_rows(card: _Card, stars: pd.DataFrame, objects: np.ndarray, note: str) -> None:
    """Scatter of stars from visit to visit; `objects` numbers the star of each row."""
    label = f">{card.config.repeatability_snr:g}"
    for band in sorted(stars["band"].unique()):
        rows = (stars["band"] == band).to_numpy()
        flux, error = (stars[name].to_numpy(np.float64)[rows] for name in ("calibFlux", "calibFluxErr"))
        good = (flux > 0) & np.isfinite(error) & (error > 0)
        flux, error, same = flux[good], error[good], objects[rows][good]
        values, sigma = _MMAG_PER_RELATIVE * np.log(flux), _MMAG_PER_RELATIVE * error / flux
        deviation, variance = metrics.deviations_from_mean(values, sigma**2, same)
        again = np.isfinite(deviation)
        found = card.estimate(
            ("repeatability", band), metrics.excess_scatter, same[again], deviation[again], variance[again]
        )
        card.add(
            "photometry",
            "repeatability",
            found,
            unit="mmag",
            band=band,
            bin=label,
            upper=card.config.repeatability_mmag,
            source=LSST_SRD,
            tail=_width_tail(deviation[again]),
            note=note,
        )


def _true_stars(sample: _Sample) -> tuple[pd.DataFrame, np.ndarray, str]:
    stars = sample.stars(sample.config.repeatability_snr, isolated=True)
    stars, note = _withheld(stars)
    return stars, stars["id"].to_numpy(), note


def _measured_stars(sources: pd.DataFrame, config: ScorecardConfig) -> tuple[pd.DataFrame, np.ndarray, str]:
    """Stars of a real sky, and which rows are the same one; a star seen twice in a visit counts nowhere."""
    flux, error = (sources[name].to_numpy(np.float64) for name in ("calibFlux", "calibFluxErr"))
    with np.errstate(invalid="ignore", divide="ignore"):
        bright = (flux / error > config.repeatability_snr) & np.isfinite(error)
    point = (sources["extendedness"] == 0).to_numpy()
    somewhere = np.isfinite(sources["ra"].to_numpy()) & np.isfinite(sources["dec"].to_numpy())
    stars, note = _withheld(sources[bright & point & somewhere & metrics.clean(sources)])
    groups = metrics.group_by_position(
        stars["ra"].to_numpy(), stars["dec"].to_numpy(), config.same_star_arcsec
    )
    twice = stars.assign(group=groups).duplicated(["group", "visit"], keep=False).to_numpy()
    single = ~np.isin(groups, groups[twice])
    return stars[single], groups[single], note


def _withheld(stars: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Stars kept out of the fit of zero points, if any were; else all, and a note that says so."""
    if "calib_photometry_reserved" in stars and stars["calib_photometry_reserved"].any():
        return stars[stars["calib_photometry_reserved"].to_numpy(bool)], "stars withheld from the fit"
    return stars, "no stars were withheld: those of the fit are in it"


# --- samples ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Sample:
    """Sources beside truth, of the detectors that were processed.

    Arrays named source_*, match, false, objects have shape (len(sources),); found and truth_inside
    (len(truth),); unit_* (number of visit-detectors,).
    """

    config: ScorecardConfig
    sources: pd.DataFrame
    truth: pd.DataFrame
    match: np.ndarray
    false: np.ndarray
    objects: np.ndarray
    found: np.ndarray
    source_inside: np.ndarray
    truth_inside: np.ndarray
    source_unit: np.ndarray
    source_crowded: np.ndarray
    unit_crowded: np.ndarray
    unit_megapixels: np.ndarray

    @classmethod
    def of(
        cls, sources: pd.DataFrame, truth: pd.DataFrame, processed: pd.DataFrame, config: ScorecardConfig
    ) -> _Sample:
        truth = truth[_unit_index(truth, processed) >= 0].reset_index(drop=True)
        match = metrics.match_sources(sources, truth, config.match_radius)
        visible = np.flatnonzero((truth["snr"] > config.false_snr).to_numpy())
        near = metrics.nearest_truth(sources, truth.iloc[visible], config.match_radius)
        nearest = np.where(near >= 0, visible[near] if visible.size else -1, -1)
        ids = truth["id"].to_numpy(np.int64)
        # a false source is an object of its own, numbered below zero
        alone = -1 - np.arange(len(sources))
        objects = np.where(nearest >= 0, ids[nearest] if ids.size else -1, alone)
        found = np.zeros(len(truth), bool)
        found[match[match >= 0]] = True
        size = detector_sizes(processed)
        source_unit, truth_unit = _unit_index(sources, processed), _unit_index(truth, processed)
        margin = config.edge_margin
        unit_crowded = _crowded_units(truth, truth_unit, processed, size)
        return cls(
            config=config,
            sources=sources,
            truth=truth,
            match=match,
            false=nearest < 0,
            objects=objects,
            found=found,
            source_inside=_inside(sources, size[source_unit], margin),
            truth_inside=_inside(truth, size[truth_unit], margin),
            source_unit=source_unit,
            source_crowded=unit_crowded[source_unit],
            unit_crowded=unit_crowded,
            unit_megapixels=np.prod(np.maximum(size - 2 * margin, 0), axis=1) / 1e6,
        )

    def stars(self, least_snr: float, *, isolated: bool = False) -> pd.DataFrame:
        """Clean matched stars above a true S/N: columns of sources, true_x ... true_flux, snr, id."""
        import pandas as pd

        rows = np.flatnonzero(self.match >= 0)
        true = self.truth.iloc[self.match[rows]].reset_index(drop=True)
        found = self.sources.iloc[rows].reset_index(drop=True)
        keep = metrics.clean(found, true["fullWellFraction"].to_numpy(np.float64))
        keep &= (true["kind"] == "star").to_numpy() & (true["snr"] > least_snr).to_numpy()
        if isolated:
            keep &= true["isolated"].to_numpy(bool)
        names = {name: f"true_{name}" for name in ("x", "y", "ra", "dec", "flux")}
        beside = true[["id", "snr", *names]].rename(columns=names)
        return pd.concat([found, beside], axis=1)[keep].reset_index(drop=True)


def detector_sizes(visit_detectors: pd.DataFrame) -> np.ndarray:
    """Pixels along x and y of each row's detector, from its corners on the sky and its pixel scale.

    Where a row has no WCS the detector's size in other visits is taken, then that of the other detectors; NaN
    when no row has one.

    Returns
    -------
    ndarray, shape (n, 2)
    """
    import pandas as pd

    corner = {
        name: [np.radians(visit_detectors[f"{name}c{axis}"].to_numpy(np.float64)) for axis in ("ra", "dec")]
        for name in ("ll", "lr", "ul")
    }
    scale = visit_detectors["pixelScale"].to_numpy(np.float64)
    sides = [
        np.degrees(_separation(*corner["ll"], *corner[end])) * metrics.ARCSEC_PER_DEGREE / scale
        for end in ("lr", "ul")
    ]
    size = pd.DataFrame({"nx": np.round(sides[0]), "ny": np.round(sides[1])})
    typical = size.groupby(visit_detectors["detector"].to_numpy()).transform("median")
    return size.fillna(typical).fillna(size.median()).to_numpy(np.float64)


def _separation(ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray) -> np.ndarray:
    """Angle between directions [rad], by haversines: exact for small angles."""
    half = np.sin((dec2 - dec1) / 2) ** 2 + np.cos(dec1) * np.cos(dec2) * np.sin((ra2 - ra1) / 2) ** 2
    return 2 * np.arcsin(np.sqrt(half))


def _counted_sources(sources: pd.DataFrame, processed: pd.DataFrame) -> pd.DataFrame:
    """Primary sources of processed detectors; artificial sky sources are none."""
    keep = sources["detect_isPrimary"].to_numpy(bool) & (_unit_index(sources, processed) >= 0)
    if "sky_source" in sources:
        keep &= ~sources["sky_source"].to_numpy(bool)
    return sources[keep].reset_index(drop=True)


def _unit_index(table: pd.DataFrame, units: pd.DataFrame) -> np.ndarray:
    """Row number in `units` of each row's visit and detector; -1 for none."""
    import pandas as pd

    index = pd.MultiIndex.from_frame(units[["visit", "detector"]].astype(np.int64))
    return index.get_indexer(pd.MultiIndex.from_frame(table[["visit", "detector"]].astype(np.int64)))


def _crowded_units(
    truth: pd.DataFrame, truth_unit: np.ndarray, processed: pd.DataFrame, size: np.ndarray
) -> np.ndarray:
    seen = (truth["kind"] == "star").to_numpy() & (truth["snr"] > 5).to_numpy()
    n_stars = np.bincount(truth_unit[seen], minlength=len(processed))
    fwhm = processed["seeing"].to_numpy(np.float64) / processed["pixelScale"].to_numpy(np.float64)
    fwhm = np.where(np.isfinite(fwhm), fwhm, median(fwhm))
    return metrics.crowded(n_stars, fwhm, np.prod(size, axis=1))


def _inside(table: pd.DataFrame, size: np.ndarray, margin: float) -> np.ndarray:
    """Rows farther than `margin` from the edges; a detector of unknown size ends nowhere."""
    inside = np.ones(len(table), bool)
    for i, name in enumerate(("x", "y")):
        place = table[name].to_numpy(np.float64)
        inside &= (place >= margin - 0.5) & ~(place > size[:, i] - 0.5 - margin)
    return inside


def _symmetric(bound: float) -> dict[str, Any]:
    return {"lower": -bound, "upper": bound, "source": THIS_RELEASE}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def _width_tail(values: np.ndarray) -> float:
    """Fraction farther than 5 widths from the median."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    width = mad_width(values)
    return metrics.tail_fraction((values - median(values)) / width) if width > 0 else math.nan


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


# --- table --------------------------------------------------------------------------------------------------


def format_scorecard(card: Mapping[str, Any]) -> str:
    """The scorecard as a table for a terminal, under 120 columns wide; ends in a newline."""
    lines = [_line("verdict", "figure", "band", "bin", "value", "perfect", "beyond", "N", "bound")]
    bounds_from = list(dict.fromkeys(row["bound_source"] for row in card["rows"] if row["bound"]))
    topic = None
    for row in card["rows"]:
        if row["topic"] != topic:
            topic = row["topic"]
            lines += ["", f"{topic.upper()}  ({row['stage']})"]
        lines.append(_table_row(row, bounds_from))
    counts = ", ".join(f"{number} {name}" for name, number in card["counts"].items())
    lines += ["", f"{counts}."]
    lines += [f"({_mark(i)}) bound of {source}" for i, source in enumerate(bounds_from)]
    lines.append(
        "Errors: bootstrap over objects. N: measurements. Perfect: a perfect detector. Beyond: 5 sigma."
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _table_row(row: Mapping[str, Any], bounds_from: list[str]) -> str:
    unit = "" if row["unit"] == "fraction" else row["unit"]
    name = f"{row['name']} [{unit}]" if unit else row["name"]
    expected = "" if row["expected"] is None else f"{row['expected']:.3f}"
    tail = "" if row["tail"] is None else f"{100 * row['tail']:.2f}%"
    bound = f"{row['bound']} ({_mark(bounds_from.index(row['bound_source']))})" if row["bound"] else ""
    value = format_value(row["value"], row["standard_error"])
    return _line(row["verdict"], name, row["band"], row["bin"], value, expected, tail, str(row["n"]), bound)


def format_value(value: float | None, error: float | None) -> str:
    """A value and its error to two digits of the error, such as ``1.23 ±0.12``."""
    if value is None:
        return "-"
    if error is None:
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
    if not error > 0:
        return f"{value:.4g} ±0"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 6)
    return f"{value:.{digits}f} ±{error:.{digits}f}"


def _line(
    verdict: str, name: str, band: str, bin: str, value: str, expected: str, tail: str, n: str, bound: str
) -> str:
    return (
        f"{verdict:9} {_cut(name, 37):37} {_cut(band, 4):4} {_cut(bin, 7):7} {value:>19} "
        f"{expected:>7} {tail:>6} {n:>6} {_cut(bound, 16)}"
    )


def _mark(number: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[number]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
