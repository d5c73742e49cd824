"""Markup of the quality site (LDM-151 6.2.1): the shell of a page, tables, and text made safe for HTML."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

MISSING = "–"

_SECTIONS = (
    ("index.html", "Overview"),
    ("index.html#scorecard-title", "Scorecard"),
    ("index.html#calibrations-title", "Calibrations"),
    ("index.html#visits-title", "Visits"),
    ("failures.html", "Failures"),
)
_MJD_BEGINS = datetime(1858, 11, 17)


@dataclass(frozen=True)
class Raw:
    """Text that is HTML already; everything else is escaped."""

    html: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, and what it is sorted by where that differs."""

    shown: Any
    key: Any = None


def text(value: Any) -> str:
    """A value as HTML: escaped, unless it is `Raw`."""
    return value.html if isinstance(value, Raw) else html.escape(str(value))


def link(target: str, label: Any) -> Raw:
    """A link to a path relative to the page; the label is escaped."""
    return Raw(f'<a href="{html.escape(quote(target, safe="/.#"))}">{text(label)}</a>')


def badge(word: str) -> Raw:
    """A word in the colour of its meaning."""
    known = word if word in ("pass", "fail", "undecided", "info", "ok", "failed", "flagged") else "info"
    return Raw(f'<span class="badge {known}">{text(word)}</span>')


def number(value: Any, digits: int = 2) -> str:
    """A number with fixed digits; a dash for what is not finite."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.{digits}f}"


def date(mjd: float) -> str:
    """Date and time of an MJD in its own time scale, to the minute."""
    if not math.isfinite(mjd):
        return MISSING
    return (_MJD_BEGINS + timedelta(days=mjd)).strftime("%Y-%m-%d %H:%M")


def table(
    columns: Sequence[tuple[str, bool]],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str,
    identity: str = "",
    page: int = 50,
) -> str:
    """A table that the script sorts, filters and pages.

    Parameters
    ----------
    columns : sequence of (heading, whether it holds numbers)
    rows : iterable of sequences
        `Cell`, `Raw` or plain values.
    """
    head = "".join(f'<th scope="col"{_numeric(n)}>{text(name)}</th>' for name, n in columns)
    numeric = [n for _, n in columns]
    body = "\n".join("<tr>" + "".join(map(_cell, row, numeric)) + "</tr>" for row in rows)
    name = f' id="{text(identity)}"' if identity else ""
    return (
        f'<div class="scroll"><table class="data"{name} data-page="{page}">\n'
        f"<caption>{text(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _cell(value: Any, numeric: bool) -> str:
    key = ""
    if isinstance(value, Cell):
        key = "" if value.key is None else f' data-v="{html.escape(_key(value.key))}"'
        value = value.shown
    elif value == MISSING:
        key = ' data-v=""'
    return f"<td{_numeric(numeric)}{key}>{text(value)}</td>"


def _key(value: Any) -> str:
    return "" if isinstance(value, float) and not math.isfinite(value) else str(value)


def _numeric(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def figures(pairs: Iterable[tuple[str, Any]], identity: str = "") -> str:
    """A list of names and values."""
    lines = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs)
    name = f' id="{text(identity)}"' if identity else ""
    return f'<dl class="figures"{name}>{lines}</dl>\n'


def inlined(identity: str, content: Any) -> str:
    """Data for the script, which nothing in it can end or escape from."""
    data = json.dumps(content, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return (
        f'<script type="application/json" id="{identity}">{data.replace("<", chr(92) + "u003c")}</script>\n'
    )


def page(
    *, title: str, survey: str, depth: int, body: str, crumbs: Sequence[Any] = (), scripts: Sequence[str] = ()
) -> str:
    """A whole page.

    Parameters
    ----------
    depth : int
        Directories between the page and index.html.
    body : str
        HTML.
    crumbs : sequence of Raw or text
        The way to the page.
    scripts : sequence of str
        Further scripts beside index.html, loaded before the site's own; they may be absent.
    """
    root = "../" * depth
    trail = "".join(f"<span>{text(crumb)}</span>" for crumb in _separated(crumbs))
    site = "".join(f'<a href="{root}{target}">{name}</a>' for target, name in _SECTIONS)
    loaded = "".join(f'<script src="{root}{name}"></script>\n' for name in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<link rel="stylesheet" href="{root}assets/style.css">
</head>
<body>
<a class="skip" href="#content">Skip to content</a>
<header class="top"><div><span class="name">{text(survey)}</span>
<nav aria-label="Site">{site}</nav></div></header>
<main id="content">
{f'<nav class="crumbs" aria-label="Way here">{trail}</nav>' if trail else ""}
{body}</main>
<footer class="bottom">Written by Skyquilt. Positions ICRS, times TAI, magnitudes AB.</footer>
{loaded}<script src="{root}assets/site.js"></script>
</body>
</html>
"""


def _separated(crumbs: Sequence[Any]) -> list[Any]:
    return [part for crumb in crumbs for part in (crumb, "/")][:-1]


def legend(entries: Mapping[str, str], *, ring: bool = False) -> str:
    """Names beside their colours."""
    shape = (' class="ring"', "border-color") if ring else ("", "background")
    return (
        '<div class="legend">'
        + "".join(
            f'<span><i{shape[0]} style="{shape[1]}:{text(colour)}"></i>{text(name)}</span>'
            for name, colour in entries.items()
        )
        + "</div>\n"
    )
