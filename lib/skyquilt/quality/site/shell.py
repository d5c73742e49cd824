"""What all quality pages share (LDM-151 6.2.1): where they go, the way to them, and plain data for the script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from skyquilt.io.atomic import write_bytes
from skyquilt.quality.pages import markup
from skyquilt.quality.pages.markup import Raw, link
from skyquilt.quality.site.config import QualitySiteConfig

RESOURCES = "resources.js"


@dataclass(frozen=True, eq=False)
class Site:
    """What all pages need."""

    directory: Path
    survey: Mapping[str, str]
    outlines: Mapping[int, Mapping[str, Any]]
    pictures: Mapping[tuple[int, int], str | Mapping[str, str]]
    figures_of_detector: Callable[[int, int], Mapping[str, Any] | None]
    failures: Sequence[Mapping[str, Any]]
    config: QualitySiteConfig
    written: list[Path]

    def write(self, name: str, content: str) -> None:
        path = self.directory / name
        write_bytes(path, content.encode())
        self.written.append(path)

    def page(
        self, name: str, title: str, body: str, crumbs: Sequence[Any] = (), scripts: Sequence[str] = ()
    ) -> None:
        depth = name.count("/")
        heading = f"{title} - {self.survey['name']}" if depth or crumbs else title
        shell = markup.page(
            title=heading, survey=self.survey["name"], depth=depth, body=body, crumbs=crumbs, scripts=scripts
        )
        self.write(name, shell)

    def detector_name(self, detector: int) -> str:
        return str(self.outlines.get(detector, {}).get("name", detector))


def tiles(pairs: Iterable[tuple[str, str]]) -> str:
    """Figures in boxes: value and what it is."""
    inside = "".join(
        f'<div class="tile"><b>{markup.text(v)}</b><span>{markup.text(n)}</span></div>' for v, n in pairs
    )
    return f'<div class="tiles">{inside}</div>\n'


def way_here(root: str, here: Sequence[Any], near: Sequence[str]) -> list[Any]:
    """Steps from the overview to a page, with links to the pages before and after it."""
    steps = [link(target, word).html for target, word in zip(near, ("previous", "next")) if target]
    beside = [Raw(f'<span class="right">{" | ".join(steps)}</span>')] if steps else []
    first, *rest = [link(f"{root}index.html", "Overview"), *here]
    last = rest.pop()
    # the way back belongs to the last step, so that no separator stands before it
    return [first, *rest, Raw(markup.text(last) + "".join(f" &nbsp; {b.html}" for b in beside))]


def calibration_page(kind: str, name: str) -> str:
    """Path of the page of a calibration product, from the site's directory."""
    return f"calibrations/{kind}-{name}.html"


def source_path(path: str) -> str:
    """Path below the site's directory as an attribute of a page two directories down."""
    return markup.text(quote(f"../../{path}"))


def plain(value: Any) -> Any:
    """Plain JSON types; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
