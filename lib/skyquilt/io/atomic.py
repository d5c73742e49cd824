"""Atomic writing (design 6): a product is absent or whole, whenever the process is killed.

A file is written under a temporary name of the process's own in the same directory, flushed to disk and
renamed. Temporary names start with a dot and end in ``.part``; `remove_leftovers` clears those of dead jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

PART_SUFFIX = ".part"
_BLOCK = 1 << 22


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffix of `path`, because writers choose formats by it. On an exception it
    is removed and `path` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # host and process make the name unique among writers of one file, also on a shared file system
    stem = f".{path.name}.{socket.gethostname()}.{os.getpid()}{PART_SUFFIX}"
    temporary = path.parent / (stem + "".join(path.suffixes[-2:]))
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically and deterministically (sorted keys, one trailing newline, NaN refused)."""
    write_bytes(path, (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def write_if_changed(path: str | Path, content: Any) -> bool:
    """Write JSON only when it differs from what is there, so that an unchanged file keeps its time.

    Returns
    -------
    bool
        True when the file was (re)written.
    """
    path = Path(path)
    data = (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    if path.is_file() and path.read_bytes() == data:
        return False
    write_bytes(path, data)
    return True


def checksum(path: str | Path) -> str:
    """XXH3-128 of a file's content, as 32 hex digits."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def remove_leftovers(directory: str | Path) -> int:
    """Remove temporary files of this host's dead processes below a directory; returns how many."""
    removed = 0
    host = socket.gethostname()
    for path in Path(directory).rglob(f".*{PART_SUFFIX}*"):
        owner, _, pid = path.name.rpartition(PART_SUFFIX)[0].rpartition(".")
        if owner.endswith(f".{host}") and pid.isdigit() and not _alive(int(pid)):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
