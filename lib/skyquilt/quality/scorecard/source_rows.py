"""Scorecard (LDM-151 6.1): rows about sources: production, detection, astrometry, photometry, errors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from skyquilt.primitives.photo_calib import AB_ZERO_POINT
from skyquilt.primitives.statistics import mad_width, median
from skyquilt.quality import metrics
from skyquilt.quality.metrics import Estimate
from skyquilt.quality.scorecard.card import LSST_SRD, THIS_RELEASE, Card, symmetric
from skyquilt.quality.scorecard.config import ScorecardConfig
from skyquilt.quality.scorecard.samples import Sample

if TYPE_CHECKING:
    import pandas as pd

_MMAG_PER_RELATIVE = 2500 / math.log(10)


def production_rows(
    card: Card, sources: pd.DataFrame, visit_detectors: pd.DataFrame, processed: pd.DataFrame
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


def completeness_rows(card: Card, sample: Sample) -> None:
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
    expected = mean(perfect[above & star])
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
                expected=mean(perfect[rows]),
            )


def purity_rows(card: Card, sample: Sample) -> None:
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


def _false_rate(card: Card, sample: Sample, label: str) -> Estimate:
    units = np.flatnonzero(sample.unit_crowded == (label == "crowded"))
    counts = np.bincount(
        sample.source_unit[sample.source_inside & sample.false], minlength=sample.unit_crowded.size
    )
    areas = sample.unit_megapixels
    known = units[np.isfinite(areas[units]) & (areas[units] > 0)]
    return metrics.estimate_rate(counts[known], areas[known], card.rng("false", label), card.config.bootstrap)


def position_rows(card: Card, sample: Sample) -> None:
    config, label = card.config, f">{card.config.bright_snr:g}"
    for isolated in (False, True):
        stars = sample.stars(config.bright_snr, isolated=isolated)
        whose = "clean & isolated" if isolated else "clean stars"
        residuals = metrics.position_residuals(stars["ra"], stars["dec"], stars["true_ra"], stars["true_dec"])
        for axis, residual in zip(("ra", "dec"), residuals):
            values, objects = np.asarray(residual), stars["id"].to_numpy()
            name = f"position bias {axis}, {whose}"
            bias = card.estimate((name,), median, objects, values)
            bound = {} if isolated else symmetric(config.position_bias_mas)
            card.add("astrometry", name, bias, unit="mas", bin=label, **bound)
            name = f"position width {axis}, {whose}"
            width = card.estimate((name,), mad_width, objects, values)
            tail = width_tail(values)
            card.add("astrometry", name, width, unit="mas", bin=label, tail=tail)


def flux_rows(card: Card, sample: Sample) -> None:
    config, label = card.config, f">{card.config.bright_snr:g}"
    stars = sample.stars(config.bright_snr)
    for band in sorted(sample.truth["band"].unique()):
        rows = stars[(stars["band"] == band).to_numpy()]
        residual, objects = metrics.relative_flux_residuals(rows["calibFlux"], rows["true_flux"]), rows["id"]
        bias = card.estimate(("flux bias", band), median, objects, residual)
        bound = symmetric(config.flux_bias)
        card.add("photometry", "flux bias, clean stars", bias, unit="fraction", band=band, bin=label, **bound)
        width = card.estimate(("flux width", band), mad_width, objects, residual)
        tail = width_tail(residual)
        name = "flux width, clean stars"
        card.add("photometry", name, width, unit="fraction", band=band, bin=label, tail=tail)


def pull_rows(card: Card, sample: Sample) -> None:
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


def calibration_rows(card: Card, processed: pd.DataFrame, truth: pd.DataFrame) -> None:
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


def repeatability_rows(card: Card, stars: pd.DataFrame, objects: np.ndarray, note: str) -> None:
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
            tail=width_tail(deviation[again]),
            note=note,
        )


def true_stars(sample: Sample) -> tuple[pd.DataFrame, np.ndarray, str]:
    stars = sample.stars(sample.config.repeatability_snr, isolated=True)
    stars, note = _withheld(stars)
    return stars, stars["id"].to_numpy(), note


def measured_stars(sources: pd.DataFrame, config: ScorecardConfig) -> tuple[pd.DataFrame, np.ndarray, str]:
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


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def width_tail(values: np.ndarray) -> float:
    """Fraction farther than 5 widths from the median."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    width = mad_width(values)
    return metrics.tail_fraction((values - median(values)) / width) if width > 0 else math.nan
