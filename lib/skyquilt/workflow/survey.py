"""A survey directory: its configuration, and the stage files that decide what is run again (design 3)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

import skyquilt
from skyquilt.io.atomic import checksum, write_if_changed
from skyquilt.workflow.code import library_files, source_times, stage_code_digest, syntax_digest
from skyquilt.workflow.config import (
    DEFAULT_SKY_MAP,
    SECTIONS,
    SURVEY_FILE,
    ConfigurationError,
    as_plain,
    build,
    check_sections,
    load_survey,
)
from skyquilt.workflow.registry import FRESHNESS, GRAPH, RegistryError
from skyquilt.workflow.stages import STAGES

FRESH_STAGES = "stage/.fresh.json"
CAMERA_SECTIONS = ("isr",)
"""Sections that the camera's YAML may give options for."""


class Survey:
    """A survey directory and its configuration.

    Parameters
    ----------
    root : Path
        Directory with a ``survey.yaml``.

    Raises
    ------
    ConfigurationError
        When the directory is no survey, or a section or option does not exist.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(os.path.abspath(root))
        self.layer = load_survey(self.root)
        check_sections(self.layer, SURVEY_FILE)

    @cached_property
    def camera(self) -> Any:
        """The camera definition."""
        from skyquilt.instrument import load_camera

        name = self.config("survey").camera
        if not name:
            raise ConfigurationError(
                f"{SURVEY_FILE}: survey.camera: missing; name a camera or the path of its YAML"
            )
        place = self.root / name
        return load_camera(place if place.is_file() else name, search=(self.root / "cameras",))

    @property
    def camera_layer(self) -> dict[str, Any]:
        """Options that the camera's YAML gives: its switches of instrument signature removal."""
        return {"isr": self.camera.isr} if self.camera.isr else {}

    @cached_property
    def camera_digest(self) -> str:
        """Digest of what the camera definition says, comments and order aside."""
        return xxhash.xxh3_128(self.camera.canonical.encode()).hexdigest()

    @cached_property
    def sky_map(self) -> Any:
        """The tiling of the sky."""
        from skyquilt.primitives.sky_map import from_config

        layer = self.layer.get("sky_map")
        merged = DEFAULT_SKY_MAP if layer is None else layer
        try:
            return from_config(dict(merged))
        except (ValueError, TypeError) as error:
            text = str(error) if str(error).startswith("sky_map") else f"sky_map: {error}"
            raise ConfigurationError(f"{SURVEY_FILE}: {text}") from error

    def config(self, name: str) -> Any:
        """The dataclass of one section: defaults, then the camera's overrides, then the survey's YAML."""
        layers: list[tuple[Mapping[str, Any], str]] = [(self.layer, SURVEY_FILE)]
        if name in CAMERA_SECTIONS:
            layers.insert(0, (self.camera_layer, f"camera {self.camera.name}"))
        return build(name, *layers)

    def check(self) -> None:
        """Refuse every wrong option and every path that is not there, before any work."""
        for name in SECTIONS:
            if name not in ("simulation",) or name in self.layer:
                self.config(name)
        _ = self.sky_map
        truth = self.config("survey").truth
        if truth and not (self.root / truth).is_dir():
            raise ConfigurationError(
                f"{SURVEY_FILE}: survey.truth: {truth}: no such directory ({self.root / truth}); "
                "for a simulated survey type: skyquilt simulate"
            )
        self.reference_files()
        self.replacement_files()

    def replacement_files(self) -> list[Path]:
        """Files with the user's own steps of instrument signature removal.

        Raises
        ------
        ConfigurationError
            For a file that is not there.
        """
        files = []
        for step, target in sorted(self.config("isr").replace.items()):
            file = self.root / target.partition(":")[0]
            if not file.is_file():
                raise ConfigurationError(f"isr.replace.{step}: {target}: no such file ({file})")
            files.append(file)
        return files

    def reference_map(self) -> Any:
        """How the reference catalogue's columns map to ours, or None when the survey has none."""
        from skyquilt.io.reference_catalog import ReferenceCatalogError, ReferenceCatalogMap

        content = self.layer.get("reference")
        if not content:
            return None
        try:
            return ReferenceCatalogMap.from_dict(content, self.root)
        except (ReferenceCatalogError, FileNotFoundError) as error:
            raise ConfigurationError(f"{SURVEY_FILE}: {error}") from error

    def reference_files(self) -> list[Path]:
        """Files of the reference catalogue."""
        from skyquilt.io.reference_catalog import ReferenceCatalogError

        mapping = self.reference_map()
        try:
            return [] if mapping is None else list(mapping.files())
        except (ReferenceCatalogError, FileNotFoundError) as error:
            raise ConfigurationError(f"{SURVEY_FILE}: {error}") from error

    def fingerprint(self) -> str:
        """Digest of what the registry depends on besides the raw frames."""
        survey = self.config("survey")
        exclusions = self.root / survey.exclusions if survey.exclusions else None
        content = [
            as_plain(survey),
            as_plain(self.config("ingest")),
            as_plain(self.config("execution")),
            self.layer.get("sky_map"),
            self.camera_digest,
            exclusions.read_text() if exclusions and exclusions.is_file() else "",
            1,
        ]
        return _digest(content)

    def write_stages(self) -> list[str]:
        """Write the stage files that changed; returns their names."""
        changed = []
        for name, stage in STAGES.items():
            config = as_plain(self.config(name))
            material = {what: self._material(what) for what in stage.uses}
            script = skyquilt.production_root() / "scripts" / f"{name}.py"
            content = {
                "stage": name,
                "section": stage.section,
                "version": skyquilt.__version__,
                "config": config,
                "camera": self.config("survey").camera,
                "material": material,
                "config_digest": _digest([config, {k: v["digest"] for k, v in material.items()}]),
                "code_digest": stage_code_digest(script),
            }
            if write_if_changed(self.root / "stage" / f"{name}.json", content):
                changed.append(name)
        write_if_changed(self.root / FRESH_STAGES, self._freshness())
        return changed

    def _material(self, what: str) -> dict[str, Any]:
        survey = self.config("survey")
        if what == "camera":
            return {"digest": self.camera_digest}
        if what == "isr":
            config = as_plain(self.config("isr"))
            own = {file.name: syntax_digest(file) for file in self.replacement_files()}
            return {"digest": _digest([config, own]), "config": config}
        if what == "reference":
            files = {str(path.name): checksum(path) for path in self.reference_files()}
            mapping = self.layer.get("reference") or {}
            return {"digest": _digest([mapping, files]), "mapping": mapping}
        if what == "truth":
            directory = self.root / survey.truth
            tables = sorted(directory.glob("*.parquet")) if survey.truth else []
            return {
                "digest": _digest({path.name: checksum(path) for path in tables}),
                "directory": survey.truth,
            }
        if what == "survey":
            content = {"name": survey.name, "sky_map": self.layer.get("sky_map") or DEFAULT_SKY_MAP}
            return {"digest": _digest(content), **content}
        raise ValueError(f"unknown stage material {what}")

    def _freshness(self) -> dict[str, str]:
        return {"sources": source_times(library_files()), "survey": _file_digest(self.root / SURVEY_FILE)}


def require_fresh(root: Path) -> None:
    """Stop plain `snakemake` when registry or stage files are missing or stale.

    Raises
    ------
    RegistryError
        With the command to type.
    """
    if not (root / GRAPH).is_file():
        raise RegistryError(f"no registry in {root}; type: skyquilt ingest {root}")
    fresh = root / FRESH_STAGES
    known = json.loads(fresh.read_text()) if fresh.is_file() else {}
    now = {"sources": source_times(library_files()), "survey": _file_digest(root / SURVEY_FILE)}
    if known != now:
        what = "the library's code" if known.get("survey") == now["survey"] else SURVEY_FILE
        raise RegistryError(f"{what} changed since stage/*.json were written; type: skyquilt ingest {root}")
    from skyquilt.workflow.ingest import find_raws, listing_digest

    survey = Survey(root)
    listed = json.loads((root / FRESHNESS).read_text())
    if listed["raws"] != listing_digest(find_raws(root, survey.config("survey").raw), root):
        raise RegistryError(
            f"raw frames changed since the registry was written; type: skyquilt ingest {root}"
        )
    if listed["fingerprint"] != survey.fingerprint():
        raise RegistryError(
            f"camera or exclusions changed since the registry was written; type: skyquilt ingest {root}"
        )


def _digest(content: Any) -> str:
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    return xxhash.xxh3_128(path.read_bytes()).hexdigest() if path.is_file() else ""
