"""Get: find a product of a survey by its name and data unit."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from skyquilt.io.manifests import MANIFEST, pruned_members, read_manifest
from skyquilt.io.products import PRODUCTS, PUBLISHED, identify, path, unit_fields
from skyquilt.primitives.failure import Reason
from skyquilt.workflow.config import suggestion
from skyquilt.workflow.registry import UNUSABLE


class NoSuchProduct(Exception):
    """No product of this name or unit is in the survey; says what there is."""


def find(root: Path, name: str, words: Sequence[str]) -> list[Path]:
    """Files of a product whose data unit has the values given, sorted; checksums are verified.

    Parameters
    ----------
    name : str
        Product, or the published name of one (``source``, ``visit_image``).
    words : sequence of str
        ``field=value``; fields left out match all.

    Raises
    ------
    NoSuchProduct
        When nothing matches.
    """
    product = PUBLISHED.get(name, name)
    if product not in PRODUCTS:
        raise NoSuchProduct(f"{name}: no such product{suggestion(name, [*PRODUCTS, *PUBLISHED])}")
    wanted = _unit(product, words)
    pattern = re.sub(r"{[^}]*}", "*", PRODUCTS[product].template)
    excluded = _set_aside(root)
    found = [file for file in sorted(root.glob(pattern)) if _matches(file, root, product, wanted, excluded)]
    if not found:
        raise NoSuchProduct(_nothing(root, product, wanted))
    return [_verified(file) for file in found]


def describe(file: Path) -> str:
    """Head of a table, HDUs of an image, text of a JSON file."""
    if file.suffix == ".parquet":
        import pandas as pd

        table = pd.read_parquet(file)
        head = table.head().T.to_string(header=False)
        return f"{file}: {len(table)} rows, {len(table.columns)} columns; the first rows, one in each column\n{head}"
    if file.suffix == ".fits":
        import fitsio

        with fitsio.FITS(str(file)) as hdus:
            return f"{file}:\n{hdus!r}"
    if file.suffix == ".hsp":
        import healsparse

        return f"{file}: {healsparse.HealSparseMap.read(str(file))!r}"
    return file.read_text() if file.suffix == ".json" else str(file)


def _unit(product: str, words: Sequence[str]) -> dict[str, str]:
    fields = unit_fields(product)
    unit = dict(word.partition("=")[::2] for word in words)
    for field, value in unit.items():
        if field not in fields or not value:
            raise NoSuchProduct(
                f"{product} is found by {', '.join(f + '=...' for f in fields)}; got {field}={value}"
            )
    return unit


def _matches(file: Path, root: Path, product: str, wanted: dict[str, str], excluded: set[int]) -> bool:
    known = identify(file.relative_to(root).as_posix())
    if known is None or known[0] != product or known[1].get("visit") in excluded:
        return False
    return all(str(known[1][k]) == v for k, v in wanted.items())


def _set_aside(root: Path) -> set[int]:
    """Visits that are excluded now; what was made of them before stays on disk, and is not handed out."""
    path = root / UNUSABLE
    entries = json.loads(path.read_text()) if path.is_file() else []
    return {e["visit"] for e in entries if e["detector"] is None and e["reason"] == Reason.EXCLUDED.value}


def _verified(file: Path) -> Path:
    manifest = file.with_name(MANIFEST)
    if manifest.is_file() and file.name in read_manifest(manifest).files:
        return read_manifest(manifest).open(file.name)
    return file


def _nothing(root: Path, product: str, wanted: dict[str, str]) -> str:
    unit = " ".join(f"{k}={v}" for k, v in wanted.items())
    if set(wanted) == set(unit_fields(product)):
        file = path(product, root, **{k: int(v) if v.isdigit() else v for k, v in wanted.items()})
        if file.name in pruned_members(file.parent):
            return (
                f"{product} {unit}: was pruned; to make it again remove {file.with_name(MANIFEST)} "
                f"and type: skyquilt run {root}"
            )
    return f"{product} {unit}: nothing like it in {root}; type skyquilt status to see what was made"
