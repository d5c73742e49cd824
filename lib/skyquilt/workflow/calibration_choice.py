"""Calibration choice (LDM-151 4.1.2): which raw frames make a calibration product, and which product serves whom.

Frames are grouped by night (and filter). A product serves what was taken nearest to its night, within its range
of validity. Where a camera has no frames of their own for crosstalk or fringes, science frames serve; such a
choice is made once and kept in ``registry/science_groups.json``, so that visits added later change nothing.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.workflow.calibration_kinds import KINDS, CalibrationKind

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.instrument import Camera
    from skyquilt.workflow.config import IngestConfig

log = logging.getLogger("skyquilt")

SCIENCE_GROUPS = "registry/science_groups.json"
FRAME_TYPES = tuple(dict.fromkeys(kind.frame_type for kind in KINDS.values() if kind.frame_type))
"""Types of raw frames that calibration products are combined from."""

_MJD_2000 = 51544
_LEAST_EXPOSURE_TIMES = 4


@dataclass(frozen=True)
class Group:
    """One calibration product to be.

    Parameters
    ----------
    night : float
        MJD on which its night began.
    physical_filter : str
        Empty where filters do not matter.
    frames : tuple of int
        Rows of the table of raw frames; none for products made from other products.
    visits : tuple of int
        Science visits that it is made from; none where it has frames of its own type.
    """

    night: float
    physical_filter: str = ""
    frames: tuple[int, ...] = ()
    visits: tuple[int, ...] = ()


Groups = dict[str, dict[str, Group]]


def night_of(mjd: Any, config: IngestConfig) -> Any:
    """Observing night as the MJD on which it began [d]."""
    return np.floor(np.asarray(mjd, dtype=float) - config.night_starts_hour / 24.0)


def calibration_groups(
    raws: pd.DataFrame, camera: Camera, config: IngestConfig, least: Mapping[str, int], root: Path
) -> Groups:
    """Calibration products that can be made: kind -> id -> group.

    Parameters
    ----------
    least : dict
        Fewest frames of each kind.
    root : Path
        Survey directory, with the choices of science frames made before.
    """
    usable = raws[(raws["reason"] == "") & raws["mjd_mid"].notna()]
    usable = usable.assign(night=night_of(usable["mjd_mid"], config))
    groups: Groups = {}
    for kind in KINDS.values():
        if kind.name in ("linearizer", "ptc"):
            groups[kind.name] = _characterizing_flats(usable, kind, least[kind.name])
        elif kind.frame_type:
            groups[kind.name] = _nightly(usable, kind, least[kind.name])
        else:
            nights = {g.night for used in ("dark", "flat") for g in groups[used].values()}
            groups[kind.name] = {_date(night): Group(night) for night in sorted(nights)}
    science = _science_groups(usable, groups, camera, config, least, root)
    for kind, made in science.items():
        groups[kind] |= made
    return groups


def _nightly(usable: pd.DataFrame, kind: CalibrationKind, least: int) -> dict[str, Group]:
    """Frames of a type, by night (and filter)."""
    frames = usable[usable["frame_type"] == kind.frame_type]
    found = {}
    names = frames["physical_filter"] if kind.per_filter else frames["physical_filter"].map(lambda _: "")
    for (name, night), rows in frames.groupby([names, frames["night"]], sort=True):
        number = int(rows.groupby("detector").size().max())
        if number < least:
            log.warning("%s of night %s: %d frames, %d needed", kind.name, _date(night), number, least)
            continue
        found[_identity(name, night)] = Group(float(night), name, tuple(rows.index))
    return found


def _characterizing_flats(usable: pd.DataFrame, kind: CalibrationKind, least: int) -> dict[str, Group]:
    """Flats that tell of the detectors: per night those of the filter with most exposure times, or most pairs."""
    flats = usable[usable["frame_type"] == "flat"]
    found = {}
    for night, rows in flats.groupby("night", sort=True):
        best: tuple[int, str] = (0, "")
        for name, own in rows.groupby("physical_filter", sort=True):
            per_time = own.groupby([own["detector"], own["exposure_time"].round(3)]).size()
            times = per_time.groupby(level=0)
            if kind.name == "linearizer":
                worth = int(times.size().max())
                worth = worth if worth >= _LEAST_EXPOSURE_TIMES else 0
            else:
                # equal exposures in twos; twilight flats have no equal ones, but serve in the order taken
                worth = max(int((per_time // 2).groupby(level=0).sum().max()), int(times.sum().max()) // 2)
            if worth > best[0]:
                best = (worth, name)
        own = rows[rows["physical_filter"] == best[1]]
        if best[0] and own.groupby("detector").size().max() >= least:
            found[_date(night)] = Group(float(night), best[1], tuple(own.index))
    return found


def _science_groups(
    usable: pd.DataFrame,
    groups: Groups,
    camera: Camera,
    config: IngestConfig,
    least: Mapping[str, int],
    root: Path,
) -> Groups:
    """Groups of science frames for what has no frames of its own: those chosen before, then new ones."""
    before = root / SCIENCE_GROUPS
    known = json.loads(before.read_text()) if before.is_file() else {}
    science = usable[(usable["frame_type"] == "science") & (usable["visit"] >= 0)]
    science = science.sort_values(["visit", "snap", "detector"], kind="stable")
    science = science[science["snap"] == science.groupby("visit")["snap"].transform("min")]
    found: Groups = {"crosstalk": {}, "fringe": {}}
    several = any(len(detector.amplifiers) > 1 for detector in camera.detectors)
    if several and config.crosstalk_visits and not groups["crosstalk"]:
        found["crosstalk"] = _windows(
            science,
            known.get("crosstalk", {}),
            config.crosstalk_visits,
            config.characterization_days,
            least["crosstalk"],
        )
    for name in camera.fringe_filters:
        has_own = any(group.physical_filter == name for group in groups["fringe"].values())
        if config.fringe_visits and not has_own:
            own = science[science["physical_filter"] == name]
            kept = {key: g for key, g in known.get("fringe", {}).items() if g["physical_filter"] == name}
            found["fringe"] |= _windows(own, kept, config.fringe_visits, 0.5, least["fringe"], name)
    return found


def _windows(
    science: pd.DataFrame,
    known: Mapping[str, Mapping[str, Any]],
    n_visits: int,
    days: float,
    least: int,
    physical_filter: str = "",
) -> dict[str, Group]:
    """Groups of the first visits of each stretch of nights; a stretch that has a group keeps it."""
    found = {}
    free = science
    for identity, group in sorted(known.items()):
        rows = science[science["visit"].isin(group["visits"])]
        found[identity] = Group(
            group["night"], physical_filter, tuple(rows.index), tuple(int(v) for v in group["visits"])
        )
        free = free[(free["night"] - group["night"]).abs() > days]
    while len(free):
        night = float(free["night"].min())
        near = free[free["night"] - night <= days]
        visits = near["visit"].drop_duplicates().iloc[:n_visits]
        if len(visits) >= least:
            rows = near[near["visit"].isin(visits)]
            identity = _identity(physical_filter, night)
            found[identity] = Group(
                night, physical_filter, tuple(rows.index), tuple(int(visit) for visit in visits)
            )
        free = free[free["night"] - night > days]
    return found


def frozen_choices(groups: Groups) -> dict[str, Any]:
    """What ``registry/science_groups.json`` keeps."""
    return {
        kind: {
            identity: {
                "night": group.night,
                "physical_filter": group.physical_filter,
                "visits": list(group.visits),
            }
            for identity, group in sorted(made.items())
            if group.visits
        }
        for kind, made in groups.items()
        if any(group.visits for group in made.values())
    }


def days_of(kind: str, config: IngestConfig) -> float:
    """How far from its night a product of a kind serves [d]."""
    return config.characterization_days if KINDS[kind].lasting else config.calibration_days


def nearest_calibration(groups: Mapping[str, Group], night: float, physical_filter: str, days: float) -> str:
    """Id of the group nearest to a night, the earlier of two, or an empty string."""
    near = [
        (abs(group.night - night), group.night, identity)
        for identity, group in groups.items()
        if group.physical_filter == physical_filter and abs(group.night - night) <= days
    ]
    return min(near)[2] if near else ""


def choose(groups: Groups, kind: str, night: float, physical_filter: str, config: IngestConfig) -> str:
    """Id of the product of a kind that serves frames of a night and filter; empty for none."""
    known = groups[kind]
    if not KINDS[kind].per_filter:
        # the filter of flats in which linearity was measured says nothing of where it serves
        known = {identity: Group(group.night) for identity, group in known.items()}
        physical_filter = ""
    return nearest_calibration(known, night, physical_filter, days_of(kind, config))


def uses_of(groups: Groups, kind: str, identity: str, config: IngestConfig) -> dict[str, list[str]]:
    """Kind -> ids of the products that a product is made with."""
    group = groups[kind][identity]
    uses = {}
    for used in KINDS[kind].uses:
        if kind == "defects" and used == "flat":
            chosen = _flats_near(groups["flat"], group.night, config.calibration_days)
        else:
            one = choose(groups, used, group.night, group.physical_filter, config)
            chosen = [one] if one else []
        uses[used] = chosen
    return uses


def _flats_near(flats: Mapping[str, Group], night: float, days: float) -> list[str]:
    """Flats of all filters of the night with flats that is nearest: a defect shows in each."""
    nights = [(abs(g.night - night), g.night) for g in flats.values() if abs(g.night - night) <= days]
    return sorted(identity for identity, g in flats.items() if nights and g.night == min(nights)[1])


def needed_products(groups: Groups, wanted: Mapping[str, Iterable[str]], config: IngestConfig) -> Any:
    """All products that visits want, and what those are made with.

    Returns
    -------
    dict
        Kind -> id -> uses.
    """
    needed: dict[str, dict[str, dict[str, list[str]]]] = {kind: {} for kind in KINDS}
    waiting = {kind: set(wanted.get(kind, ())) - {""} for kind in KINDS}
    for kind in reversed(KINDS):
        for identity in sorted(waiting[kind]):
            uses = uses_of(groups, kind, identity, config)
            needed[kind][identity] = uses
            for used, names in uses.items():
                waiting[used].update(names)
    return needed


def calibration_entry(
    kind: str,
    identity: str,
    groups: Groups,
    uses: Mapping[str, list[str]],
    raws: pd.DataFrame,
    config: IngestConfig,
) -> dict[str, Any]:
    """A product's slice of the registry."""
    group, biases = groups[kind][identity], groups["bias"]
    days = days_of(kind, config)
    beside = {}
    if kind == "ptc":
        # read noise, for cameras without overscan above all
        rows = [row for name in uses.get("bias", ()) for row in biases[name].frames]
        beside["bias_frames"] = _frame_entries(raws, rows)
    return {
        "kind": kind,
        "calibration": identity,
        "physical_filter": group.physical_filter,
        "night": group.night,
        "valid_from": group.night - days,
        "valid_to": group.night + days + 1.0,
        "uses": {used: list(names) for used, names in uses.items()},
        "frames": _frame_entries(raws, group.frames),
        **beside,
    }


def _frame_entries(raws: pd.DataFrame, rows: Iterable[int]) -> list[dict[str, Any]]:
    columns = ["path", "visit", "snap", "detector", "exposure_time", "mjd_mid", "observation_id"]
    frames = raws.loc[list(rows), columns].to_dict("records")
    return [{key: _plain(value) for key, value in frame.items()} for frame in frames]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _identity(name: str, night: float) -> str:
    return "-".join([*([_safe(name)] if name else []), _date(night)])


def _date(night: float) -> str:
    return str(np.datetime64("2000-01-01") + np.timedelta64(int(night) - _MJD_2000, "D")).replace("-", "")


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+]", "_", name)
