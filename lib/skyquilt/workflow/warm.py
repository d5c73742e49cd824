"""Warm: fill the cache of compiled kernels before many jobs start at once (design 2)."""

from __future__ import annotations

from skyquilt.primitives.compiled import cache_directory, cache_misses, warm_all


def warm() -> str:
    """Compile every kernel that the cache does not hold yet; says how many."""
    before = cache_misses()
    count = warm_all()
    return f"{count} kernels ready in {cache_directory()}, {cache_misses() - before} of them compiled now"
