"""Which frames make a calibration product, and which product serves whom."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from skyquilt.workflow.calibration_choice import (
    SCIENCE_GROUPS,
    Group,
    calibration_groups,
    choose,
    frozen_choices,
    nearest_calibration,
    needed_products,
    night_of,
    uses_of,
)
from skyquilt.workflow.calibration_kinds import KINDS
from skyquilt.workflow.config import IngestConfig

CONFIG = IngestConfig()
LEAST = dict.fromkeys(KINDS, 2)
CAMERA = SimpleNamespace(detectors=[SimpleNamespace(amplifiers=("A", "B"))], fringe_filters=("i_1",))


def frames(*rows):
    """Raw frames from (frame type, filter, exposure time, night, how many)."""
    table, visit = [], 0
    for frame_type, physical_filter, time, night, number in rows:
        for n in range(number):
            visit += 1
            table.append((frame_type, physical_filter, time, night + 0.7 + n * 1e-3, visit))
    found = pd.DataFrame(
        table, columns=["frame_type", "physical_filter", "exposure_time", "mjd_mid", "visit"]
    )
    return found.assign(reason="", detector=0, snap=0, path="x", observation_id="")


def groups_of(raws, root, camera=CAMERA, config=CONFIG):
    return calibration_groups(raws, camera, config, LEAST, root)


def test_nights_and_nearest_calibrations():
    """A night is one number from noon to noon; the nearest serves, the earlier of two, none too far away."""
    assert night_of([60000.49, 60000.51, 60001.49], CONFIG).tolist() == [59999.0, 60000.0, 60000.0]
    groups = {name: Group(night, "r") for name, night in (("a", 10.0), ("b", 14.0), ("c", 40.0))}
    assert nearest_calibration(groups, 12.0, "r", 10.0) == "a"
    assert nearest_calibration(groups, 13.0, "r", 10.0) == "b"
    assert nearest_calibration(groups, 27.0, "r", 10.0) == ""
    assert nearest_calibration(groups, 12.0, "g", 10.0) == ""


def test_kinds_use_only_what_is_made_before_them():
    """The order of the table is an order of making."""
    names = list(KINDS)
    for kind in KINDS.values():
        assert all(names.index(used) < names.index(kind.name) for used in kind.uses)


def test_photon_transfer_takes_the_filter_with_most_pairs_and_linearity_that_with_most_times(tmp_path):
    """Flats of several filters and levels: each product says which it is made from."""
    raws = frames(
        *[("flat", "r_1", time, 60000, 2) for time in (1.0, 2.0, 4.0)],
        *[("flat", "g_1", time, 60000, 1) for time in (1.0, 2.0, 3.0, 4.0, 5.0)],
        ("science", "r_1", 30.0, 60000, 1),
    )
    groups = groups_of(raws, tmp_path)
    (ptc,) = groups["ptc"].values()
    (linearizer,) = groups["linearizer"].values()
    assert (ptc.physical_filter, len(ptc.frames)) == ("r_1", 6)
    assert (linearizer.physical_filter, len(linearizer.frames)) == ("g_1", 5)
    assert set(groups["flat"]) == {"r_1-20230225", "g_1-20230225"}
    # three flats of one level: a gain can be had, a linearity not
    few = groups_of(frames(("flat", "V", 3.0, 60000, 3)), tmp_path)
    assert len(few["ptc"]) == 1
    assert not few["linearizer"]


def test_lasting_properties_serve_a_year_and_frames_a_month(tmp_path):
    """Forty days later the gain still serves, the bias does not."""
    raws = frames(("bias", "", 0.0, 60000, 3), ("flat", "r_1", 5.0, 60000, 4))
    groups = groups_of(raws, tmp_path)
    assert choose(groups, "ptc", 60040.0, "g_1", CONFIG)
    assert not choose(groups, "bias", 60040.0, "r_1", CONFIG)
    assert choose(groups, "flat", 60020.0, "r_1", CONFIG)
    assert not choose(groups, "flat", 60020.0, "g_1", CONFIG)


def test_defects_are_found_in_the_flats_of_all_filters_of_the_nearest_night(tmp_path):
    """And in that night's dark; everything that is used is in the plan."""
    raws = frames(
        ("bias", "", 0.0, 60000, 3),
        ("dark", "", 60.0, 60000, 3),
        ("flat", "r_1", 5.0, 60000, 2),
        ("flat", "g_1", 5.0, 60000, 2),
        ("flat", "g_1", 5.0, 60003, 2),
    )
    groups = groups_of(raws, tmp_path)
    uses = uses_of(groups, "defects", "20230225", CONFIG)
    assert uses == {"bias": ["20230225"], "dark": ["20230225"], "flat": ["g_1-20230225", "r_1-20230225"]}
    needed = needed_products(groups, {"defects": ["20230225"]}, CONFIG)
    assert set(needed["flat"]) == {"g_1-20230225", "r_1-20230225"}
    assert set(needed["bias"]) == {"20230225"}
    assert set(needed["ptc"]) == {"20230225"}
    assert not needed["fringe"]


def test_science_frames_chosen_for_crosstalk_stay_chosen(tmp_path):
    """Visits added later, also earlier ones of the same night, change nothing; frames of spots take over."""
    config = IngestConfig(crosstalk_visits=3)
    raws = frames(("science", "r_1", 30.0, 60000, 5))
    first = groups_of(raws.iloc[1:], tmp_path, config=config)
    ((identity, group),) = first["crosstalk"].items()
    assert group.visits == (2, 3, 4)
    path = tmp_path / SCIENCE_GROUPS
    path.parent.mkdir()
    path.write_text(json.dumps(frozen_choices(first)))
    again = groups_of(raws, tmp_path, config=config)["crosstalk"]
    assert list(again) == [identity]
    assert again[identity].visits == (2, 3, 4)
    assert again[identity].frames == (1, 2, 3)
    spots = frames(("science", "r_1", 30.0, 60000, 5), ("crosstalk", "", 1.0, 60000, 4))
    (own,) = groups_of(spots, tmp_path, config=config)["crosstalk"].values()
    assert not own.visits


def test_a_camera_of_single_amplifiers_has_no_crosstalk(tmp_path):
    """Nothing is planned for it."""
    camera = SimpleNamespace(detectors=[SimpleNamespace(amplifiers=("A",))], fringe_filters=())
    assert not groups_of(frames(("science", "r_1", 30.0, 60000, 5)), tmp_path, camera)["crosstalk"]


@pytest.mark.parametrize("own", [True, False])
def test_fringes_come_from_fringe_frames_else_from_the_sky(tmp_path, own):
    """Only in filters that the camera names, one for each night."""
    raws = frames(
        ("science", "i_1", 30.0, 60000, 4),
        ("science", "r_1", 30.0, 60000, 4),
        ("science", "i_1", 30.0, 60001, 4),
        *([("fringe", "i_1", 30.0, 60000, 3)] if own else []),
    )
    fringes = groups_of(raws, tmp_path)["fringe"]
    assert all(group.physical_filter == "i_1" for group in fringes.values())
    assert len(fringes) == (1 if own else 2)
    assert all(bool(group.visits) != own for group in fringes.values())
