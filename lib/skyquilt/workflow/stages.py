"""Stages: what each depends on, and the order of the image characterization steps (design 3).

A stage is a rule, a script and a section of the configuration of one name. ``stage/<name>.json`` holds its own
options and digests of everything else it depends on; it is rewritten only when its content changes, and is an
input of the stage's rule: editing one stage's options, or an algorithm, re-runs that stage and what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A stage of the production.

    Parameters
    ----------
    name : str
        Of its rule, its script and its section in the configuration.
    section : str
        Section of LDM-151.
    title : str
        LDM-151's name, or ours.
    uses : tuple of str
        Further material whose digest belongs to the stage: camera, isr (the shared section and the user's own
        steps), reference, survey, truth.
    manifest : str
        Product that is its one declared output.
    """

    name: str
    section: str
    title: str
    uses: tuple[str, ...]
    manifest: str


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("combine_bias", "4.1.2.1", "Combined bias", ("camera", "isr"), "bias_manifest"),
        Stage("measure_crosstalk", "4.1.2.3", "Crosstalk matrix", ("camera", "isr"), "crosstalk_manifest"),
        Stage("measure_linearity", "4.1.2.3", "Linearity", ("camera", "isr"), "linearizer_manifest"),
        Stage(
            "measure_photon_transfer",
            "4.1.2.3",
            "Photon transfer and brighter-fatter kernel",
            ("camera", "isr"),
            "ptc_manifest",
        ),
        Stage("combine_dark", "4.1.2.1", "Combined dark", ("camera", "isr"), "dark_manifest"),
        Stage("combine_flat", "4.1.2.1", "Combined flat", ("camera", "isr"), "flat_manifest"),
        Stage("find_defects", "4.1.2.3", "Defects and hot pixels", ("camera", "isr"), "defects_manifest"),
        Stage("combine_fringe", "4.1.2.3", "Fringe frame", ("camera", "isr"), "fringe_manifest"),
        Stage(
            "bootstrap_im_char",
            "5.1.1",
            "BootstrapImChar",
            ("camera", "isr", "reference"),
            "bootstrap_chunk_manifest",
        ),
        Stage(
            "visit_tables",
            "5.6",
            "Visit tables and the map of what is missing",
            ("camera",),
            "visit_tables_manifest",
        ),
        Stage(
            "visit_quality",
            "6.2.1",
            "Pictures and figures of visits",
            ("camera",),
            "visit_quality_chunk_manifest",
        ),
        Stage(
            "scorecard",
            "6.1",
            "Scorecard against truth and requirements",
            ("camera", "isr", "truth"),
            "scorecard_manifest",
        ),
        Stage("quality_site", "6.2.1", "Quality pages", ("camera", "survey"), "quality_site_manifest"),
    )
}


@dataclass(frozen=True)
class Step:
    """One image characterization or joint calibration step of the unrolled order.

    Parameters
    ----------
    name : str
        Such as ``bootstrap``, ``standard1``, ``refine1``; part of the path.
    kind : str
        Pipeline: bootstrap_im_char, joint_cal, refine_im_char, final_im_char.
    previous : str or None
        Step whose products it starts from.
    """

    name: str
    kind: str
    previous: str | None

    @property
    def per_tract(self) -> bool:
        """After BootstrapImChar everything of a visit exists per tract (5.1)."""
        return self.kind != "bootstrap_im_char"


def unroll(kinds: Sequence[str]) -> list[Step]:
    """The acyclic chain of steps for an order such as [bootstrap_im_char, joint_cal, refine_im_char, joint_cal].

    Raises
    ------
    ValueError
        When the order does not begin with bootstrap_im_char, or has it twice.
    """
    if not kinds or kinds[0] != "bootstrap_im_char" or list(kinds).count("bootstrap_im_char") > 1:
        raise ValueError(f"the order of steps must begin with its only bootstrap_im_char, got {list(kinds)}")
    steps: list[Step] = []
    for index, kind in enumerate(kinds):
        number = list(kinds[:index]).count(kind) + 1
        base = kind.removesuffix("_im_char")
        name = base if kind == "bootstrap_im_char" else f"{base}{number}"
        steps.append(Step(name, kind, steps[-1].name if steps else None))
    return steps


# Until joint calibration exists the chain has one link; `last_step` is what later stages ask.
IMAGE_CHARACTERIZATION = unroll(["bootstrap_im_char"])


def last_step() -> Step:
    """The step whose products later stages read."""
    return IMAGE_CHARACTERIZATION[-1]
