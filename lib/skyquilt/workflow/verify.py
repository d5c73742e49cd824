"""Verification and pruning (design 3, 6): what was made is what the manifests say, or is made again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from skyquilt.io.manifests import (
    BAD_SUFFIX,
    MANIFEST,
    CorruptProduct,
    Manifest,
    note_pruned,
    problems,
    quarantine,
    read_manifest,
)
from skyquilt.io.products import PRODUCTS, identify
from skyquilt.workflow.progress import planned_units
from skyquilt.workflow.registry import Registry
from skyquilt.workflow.stages import STAGES

PLACES = ("calibration", "imchar", "release", "quality")


def find_manifests(root: Path) -> Iterator[Path]:
    """All manifests of a survey, sorted."""
    for place in PLACES:
        yield from sorted((root / place).rglob(MANIFEST))


def verify(root: Path, *, full: bool = False, mend: bool = True) -> dict[str, str]:
    """Problems of all kept manifests: path of the member (relative to the survey) -> what is wrong.

    Parameters
    ----------
    full : bool
        Compare every checksum; otherwise only where size and time do not agree with what was recorded.
    mend : bool
        Rename bad manifests to ``.bad`` so that the next run makes their units again. A chunk's manifest has
        its visits' manifests as members, so it follows in the next round of the loop.
    """
    found: dict[str, str] = {}
    while True:
        fresh = {}
        for path in find_manifests(root):
            bad = _problems_of(path, root, full)
            if bad and mend:
                quarantine(path)
            fresh.update(bad)
        new = fresh.keys() - found.keys()
        found.update(fresh)
        if not mend or not new:
            return found


def _problems_of(path: Path, root: Path, full: bool) -> dict[str, str]:
    try:
        manifest = read_manifest(path)
    except CorruptProduct as error:
        return {path.relative_to(root).as_posix(): str(error)}
    except FileNotFoundError:
        return {}
    bad = problems(manifest, full=full)
    return {_relative(manifest.directory / name, root): problem for name, problem in bad.items()}


def _relative(path: Path, root: Path) -> str:
    return path.resolve().relative_to(root.resolve()).as_posix()


def bad_manifests(root: Path) -> list[Path]:
    """Manifests that a reader or a verification set aside and that were not made again yet."""
    return [
        path
        for place in PLACES
        for path in sorted((root / place).rglob(MANIFEST + BAD_SUFFIX))
        if not path.with_name(MANIFEST).exists()
    ]


def prunable(root: Path) -> list[tuple[Manifest, str, int]]:
    """Members that nothing to come needs: their readers are all done, and a release does not keep them.

    Returns
    -------
    list of (manifest, member, bytes)
    """
    finished = _finished_stages(root)
    found = []
    for path in find_manifests(root):
        manifest = read_manifest(path)
        for name, entry in manifest.files.items():
            product = PRODUCTS.get(entry["dataset"])
            if product is None or product.release or not product.readers:
                continue
            file = manifest.directory / name
            if set(product.readers) <= finished and file.is_file():
                found.append((manifest, name, file.stat().st_size))
    return found


def prune(root: Path, members: Iterable[tuple[Manifest, str, int]]) -> int:
    """Remove members, keeping their manifests; returns the bytes freed."""
    freed = 0
    by_directory: dict[Path, set[str]] = {}
    for manifest, name, size in members:
        by_directory.setdefault(manifest.directory, set()).add(name)
        freed += size
    for directory, names in by_directory.items():
        note_pruned(directory, names)
        for name in names:
            (directory / name).unlink(missing_ok=True)
    return freed


def _finished_stages(root: Path) -> set[str]:
    registry = Registry(root)
    return {
        name
        for name, stage in STAGES.items()
        if all(
            (root / PRODUCTS[stage.manifest].template.format(**unit)).is_file()
            for unit in planned_units(name, registry)
        )
    }


def locate(root: Path, path: Path) -> tuple[str, dict[str, int | str]] | None:
    """Product and unit of a file in the survey."""
    return identify(_relative(path, root))
