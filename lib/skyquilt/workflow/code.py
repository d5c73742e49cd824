"""Code digests (design 3): re-running follows the meaning of code, not its spelling.

A digest covers a script and every module of the library that it imports, directly or through others: their
syntax trees without comments, docstrings and positions. Modules of `skyquilt.workflow` are left out: they say
when and where things run, not what comes out.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import xxhash

import skyquilt

PACKAGE = Path(skyquilt.__file__).resolve().parent
_OUTSIDE_PRODUCTS = ("skyquilt.workflow",)


def stage_code_digest(script: Path) -> str:
    """Digest of a script and of the library code under it."""
    digest = xxhash.xxh3_128()
    digest.update(syntax_digest(script).encode())
    for module in sorted(library_modules(script)):
        digest.update(f"{module} {syntax_digest(module_file(module))}\n".encode())
    return digest.hexdigest()


def library_modules(script: Path) -> set[str]:
    """Modules of the library that a script imports, directly or through others."""
    found: set[str] = set()
    waiting = list(imported_modules(script))
    while waiting:
        module = waiting.pop()
        if module in found or module.startswith(_OUTSIDE_PRODUCTS):
            continue
        found.add(module)
        waiting += imported_modules(module_file(module))
    return found


@cache
def syntax_digest(path: Path) -> str:
    """Digest of a file's syntax tree without comments, docstrings and positions."""
    tree = ast.parse(path.read_text(), filename=str(path))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]
    return xxhash.xxh3_128(ast.dump(tree).encode()).hexdigest()


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """Library modules named by a file's import statements, wherever they stand; parents included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    library = {name for name in names if name.split(".")[0] == "skyquilt"}
    parents = {
        ".".join(name.split(".")[:depth]) for name in library for depth in range(1, name.count(".") + 2)
    }
    return frozenset(name for name in parents if name != "skyquilt" and module_path(name))


def module_path(module: str) -> Path | None:
    """File of a library module, or None when the name is not a module (a class, a function)."""
    base = PACKAGE.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def module_file(module: str) -> Path:
    """File of a library module that is known to exist."""
    path = module_path(module)
    if path is None:
        raise ModuleNotFoundError(f"no file for library module {module}")
    return path


def source_times(paths: Iterable[Path]) -> str:
    """Digest of names, sizes and times of files: a cheap hint that code or configuration changed."""
    stats = [(str(path), stat.st_size, stat.st_mtime_ns) for path in sorted(paths) for stat in (path.stat(),)]
    return xxhash.xxh3_128(json.dumps(stats).encode()).hexdigest()


def library_files() -> list[Path]:
    """All Python files of the library and the scripts: what `source_times` watches."""
    root = skyquilt.production_root()
    return sorted([*PACKAGE.rglob("*.py"), *(root / "scripts").glob("*.py")])


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
