"""Survey processing after LDM-151: raw frames of any CCD camera to images, catalogues and alerts."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"


def production_root() -> Path:
    """Directory that holds Snakefile, rules, scripts, config and profiles.

    In an installed wheel they lie inside the package, in a checkout at its top.

    Raises
    ------
    FileNotFoundError
        When neither place has a Snakefile: a broken installation.
    """
    package = Path(__file__).resolve().parent
    for place in (package / "production", package.parents[1]):
        if (place / "Snakefile").is_file():
            return place
    raise FileNotFoundError(f"no Snakefile beside or above {package}: reinstall skyquilt")
