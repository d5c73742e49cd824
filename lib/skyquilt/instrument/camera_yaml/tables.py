"""Camera definitions (LDM-151 4.1.2.3, design 5): the tables that lie beside a definition."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from skyquilt.instrument.camera_yaml.node import Node


class Tables:
    """CSV files in a definition's folder; `texts` keeps what was read: it belongs to the definition."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder or Path()
        self.texts: dict[str, str] = {}

    def lines(self, node: Node) -> list[Node]:
        """Lines of the table that a key names: mappings from its heading to cells, all text."""
        try:
            text = (self.folder / str(node.data)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise node.fail(
                f"the table {node.data} cannot be read beside the definition ({error})"
            ) from error
        self.texts[str(node.data)] = text
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        rows = list(csv.DictReader(lines, skipinitialspace=True))
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise node.fail(f"{node.data}: row {number} has not as many cells as the heading")
        source = f"{node.source}: {node.where}: {node.data}"
        return [Node(row, f"line {number}", source) for number, row in enumerate(rows, start=2)]


def cell_value(text: str) -> Any:
    """A cell of a table as YAML would read it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()
