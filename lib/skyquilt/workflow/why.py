"""Why (design 6): the chain of a file or a source back to the raw frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from skyquilt.io.manifests import MANIFEST, Manifest, read_manifest
from skyquilt.io.products import PUBLISHED, path
from skyquilt.primitives.data_units import SOURCE_ID

_ORDER = ("calibration", "tract", "patch", "chunk", "visit", "detector")


class UnknownProduct(Exception):
    """The word given is neither a file of the survey nor the id of a row in it."""


def chain_of(root: Path, what: str) -> Iterator[str]:
    """Lines that say what a file or source is and what it was made from, down to the raws.

    Parameters
    ----------
    what : str
        Path of a file in the survey, or a source id.

    Raises
    ------
    UnknownProduct
        When it is neither.
    """
    if what.isdigit() and not Path(what).exists():
        yield from _source_chain(root, int(what))
    else:
        yield from _file_chain(root, Path(what))


def _source_chain(root: Path, source_id: int) -> Iterator[str]:
    unit = {key: int(value) for key, value in SOURCE_ID.unpack(source_id).items()}
    table = path(PUBLISHED["source"], root, visit=unit["visit"])
    if not table.is_file():
        raise UnknownProduct(
            f"source {source_id} belongs to visit {unit['visit']}, which has no source table in {root}"
        )
    import pyarrow.parquet as parquet

    rows = parquet.read_table(table, filters=[("sourceId", "==", source_id)]).to_pylist()
    if not rows:
        raise UnknownProduct(f"source {source_id}: not in {table.relative_to(root)}")
    row = rows[0]
    yield (
        f"source {source_id}: number {unit['number']} of visit {unit['visit']}, detector {unit['detector']}, "
        f"x {row['x']:.2f}, y {row['y']:.2f}, ra {row['ra']:.6f}, dec {row['dec']:.6f}"
    )
    yield from _file_chain(root, table)


def _file_chain(root: Path, file: Path) -> Iterator[str]:
    file = file if file.is_absolute() or file.exists() else root / file
    if not file.resolve().is_relative_to(root.resolve()):
        raise UnknownProduct(f"{file}: not in the survey {root}")
    manifest = _manifest_of(file)
    if manifest is None:
        raise UnknownProduct(f"{file}: neither a product nor a source id; no manifest beside it")
    member = manifest.files.get(file.name)
    if member:
        yield f"{file.resolve().relative_to(root.resolve())}: {member['dataset']} {_unit(member['unit'])}, {member['xxh3']}"
    yield from _manifest_chain(root, manifest, "  ", set())


def _manifest_chain(root: Path, manifest: Manifest, indent: str, seen: set[Path]) -> Iterator[str]:
    content = manifest.content
    yield (
        f"{indent}made by {content['stage']} {_unit(content['unit'])}: {content['status']}, version {content['version']}, "
        f"config {content['config'][:12]}, code {content['code'][:12]}"
    )
    for part, entry in content["parts"].items():
        if entry["status"] != "ok":
            yield f"{indent}  {part}: {entry['status']}, {entry['reason']}: {entry['detail']}"
    for name, entry in sorted(content["inputs"].items()):
        if entry["role"] == "registry":
            continue
        digest = entry.get("xxh3") or entry.get("reason", "")
        yield f"{indent}  from {entry['role']}: {name}, {digest}"
        upstream = root / name
        if upstream.name == MANIFEST and upstream.is_file() and upstream not in seen:
            seen.add(upstream)
            yield from _manifest_chain(root, read_manifest(upstream), indent + "    ", seen)


def _manifest_of(file: Path) -> Manifest | None:
    path = file if file.name == MANIFEST else file.with_name(MANIFEST)
    return read_manifest(path) if path.is_file() else None


def _unit(unit: Mapping[str, int | str]) -> str:
    names = sorted(unit, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    return " ".join(f"{name} {unit[name]}" for name in names)
