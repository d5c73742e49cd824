"""Components of an Exposure (LDM-151 9.1.1): how a model becomes plain data, and a model again.

PSF, WCS, PhotoCalib and Background are kept and updated apart from the pixels, so each of them turns into a
`State`: a kind, metadata that JSON can hold, and arrays. `from_state` finds the class by the kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np


@dataclass(frozen=True, eq=False)
class State:
    """A component as plain data.

    Parameters
    ----------
    kind : str
        Name under which the class is registered.
    meta : dict
        Whatever JSON holds: str, int, float (NaN and infinities too), bool, None, lists, dicts with str keys.
    arrays : dict of str to ndarray
        Boolean, integer, float or complex arrays of any shape. Names must differ in more than case
        (FITS columns do not tell ``a`` from ``A``).
    """

    kind: str
    meta: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Same kind, metadata and array bits (NaN equals NaN)."""
        if not isinstance(other, State):
            return NotImplemented
        return (
            self.kind == other.kind
            and _same_meta(self.meta, other.meta)
            and self.arrays.keys() == other.arrays.keys()
            and all(_same_array(self.arrays[name], other.arrays[name]) for name in self.arrays)
        )

    __hash__ = None  # type: ignore[assignment]


class Component(Protocol):
    """What a class needs to be kept as a State."""

    kind: str

    def to_state(self) -> State:
        """Plain data from which `from_state` makes an equal object."""
        ...

    @classmethod
    def from_state(cls, state: State) -> Any:
        """Make the object again."""
        ...


_REGISTRY: dict[str, type] = {}
_Class = TypeVar("_Class", bound=type)


def register(target: str | _Class) -> Callable[[_Class], _Class] | _Class:
    """Class decorator that makes a component known by its kind.

    ``@register`` takes the kind from the attribute ``kind``; ``@register("name")`` sets that attribute.

    Raises
    ------
    ValueError
        When another class already has the kind.
    """
    if isinstance(target, str):
        return lambda cls: _add(target, cls)
    return _add(target.kind, target)


def registered_kinds() -> tuple[str, ...]:
    """Kinds known so far, sorted; the primitives' own are always among them."""
    _import_primitives()
    return tuple(sorted(_REGISTRY))


def from_state(state: State) -> Any:
    """The component that `state` describes.

    Raises
    ------
    KeyError
        When no class is registered for the kind.
    """
    if state.kind not in _REGISTRY:
        _import_primitives()
    if state.kind not in _REGISTRY:
        raise KeyError(
            f"no component is registered as {state.kind!r}; known: {', '.join(sorted(_REGISTRY))}. "
            "The module that defines it must be imported first"
        )
    return _REGISTRY[state.kind].from_state(state)


def join_states(kind: str, meta: Mapping[str, Any], parts: Mapping[str, State]) -> State:
    """A State that holds other States, for components made of components.

    Array names of a part become ``<part>.<name>``; its kind and metadata go under ``meta["parts"]``.
    """
    described = {name: {"kind": part.kind, "meta": part.meta} for name, part in parts.items()}
    arrays = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.arrays.items()}
    return State(kind, {**meta, "parts": described}, arrays)


def split_state(state: State) -> dict[str, State]:
    """The States that `join_states` put together, in the same order."""
    return {
        name: State(part["kind"], part["meta"], _with_prefix(state.arrays, f"{name}."))
        for name, part in state.meta["parts"].items()
    }


def _with_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


def _add(kind: str, cls: _Class) -> _Class:
    known = _REGISTRY.get(kind)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"component kind {kind!r} is already {known.__module__}.{known.__qualname__}")
    cls.kind = kind
    _REGISTRY[kind] = cls
    return cls


def _import_primitives() -> None:
    # late, because these modules import this one; plainly, so that the code digest sees them
    import skyquilt.primitives.background
    import skyquilt.primitives.detector_characterization
    import skyquilt.primitives.photo_calib
    import skyquilt.primitives.psf
    import skyquilt.primitives.wcs  # noqa: F401


def _same_array(one: np.ndarray, other: np.ndarray) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")


def _same_meta(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_meta(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same_meta, one, other))
    both_nan = isinstance(one, float) and isinstance(other, float) and one != one and other != other
    return both_nan or one == other
