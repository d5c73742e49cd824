"""Warm: fill the cache of compiled kernels before many jobs start at once (design 2)."""

from __future__ import annotations

import importlib
import pkgutil

import skyquilt
from skyquilt.primitives import compiled

_WITH_KERNELS = ("primitives", "algorithms", "pipelines", "quality")


def warm() -> str:
    """Import every module that may hold kernels and compile them all; says how many."""
    for layer in _WITH_KERNELS:
        package = importlib.import_module(f"skyquilt.{layer}")
        for module in pkgutil.walk_packages(package.__path__, f"skyquilt.{layer}."):
            importlib.import_module(module.name)
    before = compiled.cache_misses()
    count = compiled.warm_all()
    fresh = compiled.cache_misses() - before
    return f"skyquilt {skyquilt.__version__}: {count} kernels ready, {fresh} compiled now, the rest was in the cache"
