"""The registry (design 3): what ingest knows of the survey, as the graph's input functions read it.

``registry/graph.json`` holds what decides inputs: chunks of visits, their calibrations, tracts. A job reads its
own slice only (``registry/chunks/<chunk>.json``, ``registry/calibrations/<kind>-<id>.json``), rewritten only
when its content changes, so that a visit added later leaves the others' jobs alone. The Parquet tables beside
(``visits``, ``detectors``, ``overlaps``, ``raws``) are for people and notebooks; ``unusable.json`` lists frames and
visits that were set aside, for the pages.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from skyquilt.workflow.calibration_kinds import KINDS

REGISTRY = "registry"
GRAPH = f"{REGISTRY}/graph.json"
UNUSABLE = f"{REGISTRY}/unusable.json"
FRESHNESS = f"{REGISTRY}/ingest.json"


class RegistryError(Exception):
    """The registry is missing or stale; the message has the command to type."""


class Registry:
    """The graph's view of a survey directory; read late and once.

    Parameters
    ----------
    root : Path
        Survey directory.
    """

    def __init__(self, root: Path | str = ".") -> None:
        self.root = Path(root)

    @cached_property
    def graph(self) -> dict[str, Any]:
        """Content of ``registry/graph.json``."""
        path = self.root / GRAPH
        if not path.is_file():
            raise RegistryError(f"{path}: no registry yet; type: skyquilt ingest {self.root}")
        return json.loads(path.read_text())

    @property
    def chunks(self) -> dict[str, Any]:
        """Chunk id -> visits, calibrations, tracts, megapixels."""
        return self.graph["chunks"]

    @property
    def tracts(self) -> dict[str, Any]:
        """Tract id -> chunks and patches of its visits."""
        return self.graph["tracts"]

    def calibrations(self, kind: str) -> dict[str, Any]:
        """Calibration id -> ``uses``: kind -> ids it is made with."""
        return self.graph["calibrations"].get(kind, {})

    def execution(self, name: str) -> Any:
        """An option of the execution section."""
        return self.graph["execution"][name]

    def selected_chunks(self, tracts: list[int] | None = None) -> list[str]:
        """Chunks that hold visits of the tracts given (default: all).

        Raises
        ------
        RegistryError
            For a tract that no visit touches.
        """
        if not tracts:
            return list(self.chunks)
        unknown = [tract for tract in tracts if str(tract) not in self.tracts]
        if unknown:
            raise RegistryError(
                f"tract {unknown[0]}: no visit of this survey touches it; there are {', '.join(self.tracts) or 'none'}"
            )
        wanted = {chunk for tract in tracts for chunk in self.tracts[str(tract)]["chunks"]}
        return [chunk for chunk in self.chunks if chunk in wanted]

    def needed_calibrations(self, chunks: list[str]) -> dict[str, list[str]]:
        """Kind -> calibrations that visits of these chunks use, and what those are made with; sorted."""
        needed: dict[str, set[str]] = {kind: set() for kind in KINDS}
        for chunk in chunks:
            for kind, names in self.chunks[chunk]["calibrations"].items():
                needed[kind].update(names)
        # a kind is made with earlier ones only
        for kind in reversed(KINDS):
            for name in needed[kind]:
                for used, names in self.calibrations(kind)[name]["uses"].items():
                    needed[used].update(names)
        return {kind: sorted(names) for kind, names in needed.items()}


def chunk_slice(chunk: str) -> str:
    """Path of a chunk's slice of the registry."""
    return f"{REGISTRY}/chunks/{chunk}.json"


def calibration_slice(kind: str, calibration: str) -> str:
    """Path of a calibration's slice of the registry."""
    return f"{REGISTRY}/calibrations/{kind}-{calibration}.json"
