"""Scorecard (LDM-151 6.1): the table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def format_scorecard(card: Mapping[str, Any]) -> str:
    """The scorecard as a table for a terminal, under 120 columns wide; ends in a newline."""
    lines = [_line("verdict", "figure", "band", "bin", "value", "perfect", "beyond", "N", "bound")]
    bounds_from = list(dict.fromkeys(row["bound_source"] for row in card["rows"] if row["bound"]))
    topic = None
    for row in card["rows"]:
        if row["topic"] != topic:
            topic = row["topic"]
            lines += ["", f"{topic.upper()}  ({row['stage']})"]
        lines.append(_table_row(row, bounds_from))
    counts = ", ".join(f"{number} {name}" for name, number in card["counts"].items())
    lines += ["", f"{counts}."]
    lines += [f"({_mark(i)}) bound of {source}" for i, source in enumerate(bounds_from)]
    lines.append(
        "Errors: bootstrap over objects. N: measurements. Perfect: a perfect detector. Beyond: 5 sigma."
    )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _table_row(row: Mapping[str, Any], bounds_from: list[str]) -> str:
    unit = "" if row["unit"] == "fraction" else row["unit"]
    name = f"{row['name']} [{unit}]" if unit else row["name"]
    expected = "" if row["expected"] is None else f"{row['expected']:.3f}"
    tail = "" if row["tail"] is None else f"{100 * row['tail']:.2f}%"
    bound = f"{row['bound']} ({_mark(bounds_from.index(row['bound_source']))})" if row["bound"] else ""
    value = format_value(row["value"], row["standard_error"])
    return _line(row["verdict"], name, row["band"], row["bin"], value, expected, tail, str(row["n"]), bound)


def format_value(value: float | None, error: float | None) -> str:
    """A value and its error to two digits of the error, such as ``1.23 ±0.12``."""
    if value is None:
        return "-"
    if error is None:
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
    if not error > 0:
        return f"{value:.4g} ±0"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 6)
    return f"{value:.{digits}f} ±{error:.{digits}f}"


def _line(
    verdict: str, name: str, band: str, bin: str, value: str, expected: str, tail: str, n: str, bound: str
) -> str:
    return (
        f"{verdict:9} {_cut(name, 37):37} {_cut(band, 4):4} {_cut(bin, 7):7} {value:>19} "
        f"{expected:>7} {tail:>6} {n:>6} {_cut(bound, 16)}"
    )


def _mark(number: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[number]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
