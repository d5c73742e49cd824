"""Steps of a user's own (LDM-151 8.1): classes of a file in the survey directory that stand in for a step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skyquilt.algorithms.instrument_signature_removal.state import IsrState

STEPS = (
    "saturation",
    "overscan",
    "crosstalk",
    "linearity",
    "assembly",
    "bias",
    "dark",
    "brighter_fatter",
    "flat",
    "fringe",
    "defects",
    "variance",
    "amplifier_offsets",
    "interpolation",
)
"""Names of the steps in their order."""

Replacement = Callable[["IsrState"], None]
"""Called with the state of a frame at the step's place; changes it."""


def check_steps(names: Any, option: str) -> None:
    """Raise ValueError when a name is no step."""
    for name in names:
        if name not in STEPS:
            raise ValueError(f"{option}: no step {name!r}; the steps are {', '.join(STEPS)}")


def load_replacements(replace: Mapping[str, str], directory: str | Path) -> dict[str, Replacement]:
    """The objects that the configuration's `replace` names.

    Parameters
    ----------
    replace : mapping of step to ``FILE.py:CLASS``
        The file is relative to `directory`; the class is made without arguments, the object called with the
        `IsrState`.
    directory : path
        The survey's.

    Raises
    ------
    ValueError
        When a file, or a class in it, is not there, the text has another form, or the object cannot be called.
    """
    check_steps(replace, "replace")
    return {step: _load(step, text, Path(directory)) for step, text in replace.items()}


def replacement_file(text: str, directory: str | Path, step: str = "replace") -> tuple[Path, str]:
    """File and class name of ``FILE.py:CLASS``; ValueError when the form is another or the file is not there."""
    name, colon, attribute = text.rpartition(":")
    if not colon or not name.endswith(".py") or not attribute.isidentifier():
        raise ValueError(f"replace.{step}: expected FILE.py:CLASS, got {text!r}")
    path = Path(directory) / name
    if not path.is_file():
        raise ValueError(f"replace.{step}: no file {name} in the survey directory")
    return path, attribute


def _load(step: str, text: str, directory: Path) -> Replacement:
    path, attribute = replacement_file(text, directory, step)
    spec = importlib.util.spec_from_file_location(f"skyquilt_replacement_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = getattr(module, attribute, None)
    if not callable(made):
        raise ValueError(f"replace.{step}: {path.name} has no class {attribute}")
    step_object = made()
    if not callable(step_object):
        raise ValueError(f"replace.{step}: objects of {attribute} cannot be called with the frame's state")
    return step_object
