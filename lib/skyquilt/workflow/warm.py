"""Warm: fill the cache of compiled kernels before many jobs start at once (design 2)."""

from __future__ import annotations

from skyquilt.primitives.compiled import cache_directory, registered_kernels, warm_all


def warm() -> str:
    """Compile every kernel that the cache does not hold yet; says how many."""
    compiled = warm_all()
    return f"{len(registered_kernels())} kernels ready in {cache_directory()}; {compiled} signatures compiled now"
