"""Init: a survey directory from a template."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import skyquilt
from skyquilt.io.atomic import write_bytes
from skyquilt.workflow.config import SURVEY_FILE, ConfigurationError, suggestion

TEMPLATES = ("blank", "demo", "tiny", "accuracy")

SNAKEFILE = '''"""Plain `snakemake` in this directory does what `skyquilt run` does, once `skyquilt ingest` was run."""

import skyquilt


include: str(skyquilt.production_root() / "Snakefile")
'''

BLANK = """\
# A survey. Every option and its default: docs/configuration.md, or config/default.yaml of the installation.
survey:
  name: {name}
  camera: {camera}
  raw: {raw}

# Reference catalogue (any FITS, Parquet, CSV or VOTable): docs/reference_catalogues.md. Without one, fluxes have
# no zero point: columns in nJy are NaN with a flag, instrumental fluxes stand beside them.
# reference:
#   path: reference/*.fits
"""


def make_survey(directory: Path, template: str, camera: str, raw: Sequence[str]) -> Path:
    """Make a survey directory: ``survey.yaml``, a Snakefile, and the profiles to adapt.

    Raises
    ------
    ConfigurationError
        For an unknown template, or when a survey is there already.
    """
    if template not in TEMPLATES:
        raise ConfigurationError(f"template {template}: no such template{suggestion(template, TEMPLATES)}")
    target = directory / SURVEY_FILE
    if target.exists():
        raise ConfigurationError(f"{target}: is there already; choose another directory")
    if template != "blank" and (camera or raw):
        raise ConfigurationError("--camera and --raw go with the blank template; the others bring their own")
    if template == "blank" and not (camera and raw):
        raise ConfigurationError("a blank survey needs --camera and --raw; or give --template demo")
    if template == "blank":
        _check_camera(camera)
    directory.mkdir(parents=True, exist_ok=True)
    if template == "blank":
        places = [_as_given(place) for place in raw]
        text = BLANK.format(name=directory.resolve().name, camera=_camera_as_given(camera), raw=places)
    else:
        text = (skyquilt.production_root() / "config" / f"{template}.yaml").read_text()
    write_bytes(directory / "Snakefile", SNAKEFILE.encode())
    for profile in sorted((skyquilt.production_root() / "profiles").iterdir()):
        shutil.copytree(profile, directory / "profiles" / profile.name, dirs_exist_ok=True)
    write_bytes(target, text.encode())
    return target


def _check_camera(name: str) -> None:
    from skyquilt.instrument import CameraError, load_camera

    try:
        load_camera(Path(name) if Path(name).is_file() else name)
    except CameraError as error:
        raise ConfigurationError(f"--camera {name}: {error}") from error


def _camera_as_given(camera: str) -> str:
    """A file's path, or the name of a definition: a directory of that name is none."""
    return _as_given(camera) if Path(camera).is_file() else camera


def _as_given(place: str) -> str:
    """A path as survey.yaml must say it: paths there are relative to the survey, those typed to where one is."""
    exists = Path(place.split("*")[0]).exists()
    return str(Path.cwd() / place) if exists and not Path(place).is_absolute() else place
