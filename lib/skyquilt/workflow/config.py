"""Configuration: one frozen dataclass per stage, layered YAML, unknown keys refused (design 6).

Layers, later ones win: the defaults in the dataclasses, the ``config:`` section of the camera's YAML, the
survey's ``survey.yaml``. Each option is documented under its field; `default_yaml` writes
``config/default.yaml`` from there.
"""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import difflib
import importlib
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

SURVEY_FILE = "survey.yaml"


class ConfigurationError(Exception):
    """Something the user must mend before any work: says what, where, and how."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How work is cut into jobs. None of it changes a product's bytes."""

    chunk_megapixels: float = 400.0
    """Raw pixels that one visit-level job works through before the next job starts [Mpix]; a job holds at least one
    visit. Small cameras put several visits into a job, so that start-up stays a small share."""

    threads_per_job: int = 8
    """Most worker processes of one job [count]; a machine with fewer cores uses what it has."""

    cpu_level: str = ""
    """CPU that compiled code is made for, such as x86-64-v3; empty for this machine's own. Give it where nodes differ:
    results are the same bytes only for one level."""

    max_failed_fraction: float = 1.0
    """A job fails when more than this fraction of its detectors failed; with 1 it never does, and failures are
    rows with reasons."""

    retries_of_corrupt: int = 1
    """How often a run starts again by itself after a reader found a corrupted product [count]."""

    def __post_init__(self) -> None:
        if self.chunk_megapixels <= 0:
            raise ValueError(f"chunk_megapixels must be positive, got {self.chunk_megapixels}")
        if self.threads_per_job < 1:
            raise ValueError(f"threads_per_job must be at least 1, got {self.threads_per_job}")


@dataclass(frozen=True)
class IngestConfig:
    """What `skyquilt ingest` makes of the raw frames' headers."""

    overlap_margin_arcsec: float = 60.0
    """Nominal detector outlines are grown by this before they are compared with tracts and patches [arcsec]: pointing
    error, dither within a visit and optical distortion together."""

    night_starts_hour: float = 12.0
    """Hour of TAI at which a new observing night begins [h]; calibration frames are combined per night."""

    calibration_days: float = 30.0
    """A combined bias, dark, flat, fringe frame or list of defects serves visits at most this far from its night [d]."""

    characterization_days: float = 365.0
    """Crosstalk, linearity and photon transfer serve visits at most this far from their night [d]."""

    crosstalk_visits: int = 20
    """Without frames of projected spots, crosstalk is measured in the stars of this many visits, the first ones
    within `characterization_days`; 0 for never [count]."""

    fringe_visits: int = 15
    """Without fringe frames, the fringes of filters in the camera's `fringe_filters` are taken from the sky of this
    many visits of a night, the first ones; 0 for never [count]."""

    def __post_init__(self) -> None:
        for name in ("overlap_margin_arcsec", "calibration_days", "characterization_days"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.crosstalk_visits < 0 or self.fringe_visits < 0:
            raise ValueError("crosstalk_visits and fringe_visits must not be negative")


@dataclass(frozen=True)
class SurveyConfig:
    """The survey itself."""

    name: str = "survey"
    """Name of the survey, shown on its pages."""

    camera: str = ""
    """Name of a shipped camera definition, or path of a YAML file (relative to the survey directory)."""

    raw: tuple[str, ...] = ("raw",)
    """Files, directories (searched for FITS files) or patterns of raw frames."""

    exclusions: str = ""
    """CSV table of what is left out by hand (columns visit, detector, amplifier, reason); empty for none."""

    truth: str = ""
    """Directory with the truth tables of a simulated survey; empty for real skies."""

    tracts: tuple[int, ...] = ()
    """Only these tracts are processed; empty for all."""


# Section of the YAML -> where its dataclass stands. Names of stages are the names of their rules and scripts.
SECTIONS: dict[str, str] = {
    "survey": "skyquilt.workflow.config:SurveyConfig",
    "execution": "skyquilt.workflow.config:ExecutionConfig",
    "ingest": "skyquilt.workflow.config:IngestConfig",
    "isr": "skyquilt.algorithms.instrument_signature_removal:InstrumentSignatureRemovalConfig",
    "combine_bias": "skyquilt.pipelines.calibration_products.combine_bias:CombineBiasConfig",
    "measure_crosstalk": "skyquilt.pipelines.calibration_products.crosstalk:MeasureCrosstalkConfig",
    "measure_linearity": "skyquilt.pipelines.calibration_products.linearity:MeasureLinearityConfig",
    "measure_photon_transfer": "skyquilt.pipelines.calibration_products.photon_transfer:MeasurePhotonTransferConfig",
    "combine_dark": "skyquilt.pipelines.calibration_products.combine_dark:CombineDarkConfig",
    "combine_flat": "skyquilt.pipelines.calibration_products.combine_flat:CombineFlatConfig",
    "find_defects": "skyquilt.pipelines.calibration_products.defects:FindDefectsConfig",
    "combine_fringe": "skyquilt.pipelines.calibration_products.fringe:CombineFringeConfig",
    "bootstrap_im_char": "skyquilt.pipelines.bootstrap_im_char:BootstrapImCharConfig",
    "visit_tables": "skyquilt.pipelines.make_visit_tables:VisitTablesConfig",
    "visit_quality": "skyquilt.quality.visit_pictures:VisitQualityConfig",
    "scorecard": "skyquilt.quality.scorecard.config:ScorecardConfig",
    "quality_site": "skyquilt.quality.site:QualitySiteConfig",
    "simulation": "skyquilt.simulation:SimulationConfig",
}

# Sections whose shape is checked by the component that reads them: free mappings here.
FREE_SECTIONS: dict[str, str] = {
    "sky_map": "Tiling of the sky: kind rings or single, and its numbers (docs/sky_map.md).",
    "reference": "Reference catalogue: path, and how its columns map to ours (docs/reference_catalogues.md).",
}

DEFAULT_SKY_MAP: dict[str, Any] = {
    "kind": "rings",
    "num_rings": 120,
    "pixel_scale_arcsec": 0.2,
    "patch_inner_pixels": 4000,
    "patch_border_pixels": 100,
    "tract_overlap_deg": 0.0167,
}


def section_class(name: str) -> type:
    """Dataclass of a section."""
    module, _, attribute = SECTIONS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def load_survey(directory: Path) -> dict[str, Any]:
    """The survey's own YAML, as written.

    Raises
    ------
    ConfigurationError
        When the directory is no survey or the YAML cannot be read.
    """
    path = directory / SURVEY_FILE
    if not path.is_file():
        raise ConfigurationError(
            f"{path}: no such file, so this is not a survey directory; make one with: skyquilt init DIRECTORY"
        )
    return read_yaml(path)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that must hold a mapping."""
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path}: expected sections such as 'survey:', found a {type(content).__name__}"
        )
    return content


def check_sections(layer: Mapping[str, Any], where: str) -> None:
    """Refuse sections that do not exist, with a suggestion."""
    known = [*SECTIONS, *FREE_SECTIONS]
    for name in layer:
        if name not in known:
            raise ConfigurationError(f"{where}: {name}: no such section{suggestion(name, known)}")


def build(name: str, *layers: tuple[Mapping[str, Any], str]) -> Any:
    """The dataclass of a section from its layers (later ones win).

    Parameters
    ----------
    layers : tuples of (mapping, where)
        Whole configurations; only the section's own part is used.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer, where in layers:
        part = layer.get(name) or {}
        if not isinstance(part, Mapping):
            raise ConfigurationError(f"{where}: {name}: expected options, found {part!r}")
        _merge(merged, part, where, sources, name)
    return from_mapping(section_class(name), merged, name, sources)


def from_mapping(cls: type, values: Mapping[str, Any], prefix: str, sources: Mapping[str, str]) -> Any:
    """A (nested) dataclass from a mapping, with types checked and unknown keys refused."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    arguments = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        where = sources.get(name, sources.get(prefix, "configuration"))
        if key not in fields:
            raise ConfigurationError(f"{where}: {name}: no such option{suggestion(key, fields)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigurationError(f"{where}: {name}: expected options, found {value!r}")
            arguments[key] = from_mapping(hints[key], value, name, sources)
        else:
            arguments[key] = _convert(value, hints[key], name, where)
    try:
        return cls(**arguments)
    except ValueError as error:
        where = next(
            (sources[f"{prefix}.{key}"] for key in values if f"{prefix}.{key}" in sources), "configuration"
        )
        raise ConfigurationError(f"{where}: {prefix}: {error}") from error


def suggestion(word: str, known: typing.Iterable[str]) -> str:
    """``; did you mean x?`` or the list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def as_plain(config: Any) -> Any:
    """A dataclass as plain YAML/JSON types."""
    if dataclasses.is_dataclass(config):
        return {field.name: as_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, list | tuple):
        return [as_plain(value) for value in config]
    if isinstance(config, Mapping):
        return {key: as_plain(value) for key, value in config.items()}
    return config


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring literal under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    docs = {}
    for line, following in zip(body, [*body[1:], None]):
        if isinstance(line, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[line.target.id] = " ".join(ast.literal_eval(following.value).split())
    return docs


def default_yaml() -> str:
    """``config/default.yaml``: every option with its default and its documentation."""
    lines = [
        "# Every option and its default. Written from the dataclasses of the stages by `make generated`; do not edit.",
        "# A survey.yaml holds only what differs.",
    ]
    for name in SECTIONS:
        cls = section_class(name)
        lines += ["", *_comment(inspect.getdoc(cls).splitlines()[0], ""), f"{name}:"]
        lines += _option_lines(cls, "  ")
    for name, doc in FREE_SECTIONS.items():
        lines += ["", *_comment(doc, "")]
        default = DEFAULT_SKY_MAP if name == "sky_map" else None
        lines += yaml.safe_dump({name: default}, sort_keys=False).splitlines()
    return "\n".join(lines) + "\n"


def _option_lines(cls: type, indent: str) -> list[str]:
    lines, docs, hints = [], field_docs(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if doc := docs.get(field.name):
            lines += _comment(doc, indent)
        if dataclasses.is_dataclass(hints[field.name]):
            lines += [f"{indent}{field.name}:", *_option_lines(hints[field.name], indent + "  ")]
        else:
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
            text = yaml.safe_dump(as_plain(default), default_flow_style=True, width=10_000).strip()
            lines.append(f"{indent}{field.name}: {text.removesuffix('...').strip()}")
    return lines


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _merge(
    into: dict[str, Any], part: Mapping[str, Any], where: str, sources: dict[str, str], prefix: str
) -> None:
    for key, value in part.items():
        name = f"{prefix}.{key}"
        sources[name] = where
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value, where, sources, name)
        elif isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], value, where, sources, name)
        else:
            into[key] = value


def _convert(value: Any, hint: Any, name: str, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        rest = [argument for argument in arguments if argument is not type(None)]
        return _convert(value, rest[0], name, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigurationError(
                f"{where}: {name}: expected one of {', '.join(map(str, arguments))}, got {value!r}"
            )
        return value
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ConfigurationError(f"{where}: {name}: expected a list, got {value!r}")
        inner = arguments[0] if arguments[-1] is Ellipsis else None
        return tuple(_convert(v, inner or arguments[i], f"{name}[{i}]", where) for i, v in enumerate(items))
    if origin in (dict, collections.abc.Mapping) or hint in (dict, Any):
        if hint is not Any and not isinstance(value, Mapping):
            raise ConfigurationError(f"{where}: {name}: expected a mapping, got {value!r}")
        return (
            value
            if len(arguments) < 2
            else {k: _convert(v, arguments[1], f"{name}.{k}", where) for k, v in value.items()}
        )
    return _scalar(value, hint, name, where)


def _scalar(value: Any, hint: type, name: str, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML reads 1e-3 (no point) as text
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not hint:
        raise ConfigurationError(f"{where}: {name}: expected {hint.__name__}, got {value!r}")
    return value
