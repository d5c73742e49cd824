"""Kinds of calibration products (LDM-151 4.1.2): what each is made of, what it needs, and whom it serves.

Nothing heavy is imported here: the Snakefile's input functions read it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CalibrationKind:
    """One kind of calibration product.

    Parameters
    ----------
    name : str
        Kind, part of paths and of the registry.
    stage : str
        Rule, script and section that make it.
    frame_type : str
        Type of the raw frames it is combined from; empty when it is made from other products only.
    uses : tuple of str
        Kinds that its frames are corrected with, in the order in which they are made.
    per_filter : bool
        One for each filter, for visits in that filter.
    lasting : bool
        A property of the detectors: serves `ingest.characterization_days`, not `ingest.calibration_days`.
    """

    name: str
    stage: str
    frame_type: str
    uses: tuple[str, ...] = ()
    per_filter: bool = False
    lasting: bool = False

    @property
    def manifest(self) -> str:
        """Name of its manifest in the table of products."""
        return f"{self.name}_manifest"


_CORRECTIONS = ("bias", "crosstalk", "linearizer", "ptc")

KINDS: dict[str, CalibrationKind] = {
    kind.name: kind
    for kind in (
        CalibrationKind("bias", "combine_bias", "bias"),
        CalibrationKind("crosstalk", "measure_crosstalk", "crosstalk", ("bias",), lasting=True),
        CalibrationKind("linearizer", "measure_linearity", "flat", ("bias", "crosstalk"), lasting=True),
        CalibrationKind(
            "ptc", "measure_photon_transfer", "flat", ("bias", "crosstalk", "linearizer"), lasting=True
        ),
        CalibrationKind("dark", "combine_dark", "dark", _CORRECTIONS),
        CalibrationKind("flat", "combine_flat", "flat", (*_CORRECTIONS, "dark"), per_filter=True),
        CalibrationKind("defects", "find_defects", "", ("bias", "dark", "flat")),
        CalibrationKind(
            "fringe",
            "combine_fringe",
            "fringe",
            (*_CORRECTIONS, "dark", "flat", "defects"),
            per_filter=True,
        ),
    )
}
"""In the order in which they are made: a kind uses earlier ones only."""

STAGE_KIND: dict[str, str] = {kind.stage: kind.name for kind in KINDS.values()}
"""Stage -> kind that it makes."""
