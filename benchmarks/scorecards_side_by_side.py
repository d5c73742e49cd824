"""Scorecards of several survey directories beside each other, as a table for docs/accuracy.md.

    python benchmarks/scorecards_side_by_side.py demo1 demo2 demo3

A row per figure and bin: value and standard error of each survey, the bound, and the verdict that holds for all of them
(a bound holds for each seed, so the worst of them).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from skyquilt.io.products import path
from skyquilt.quality.scorecard.card import TOPICS
from skyquilt.quality.scorecard.table import format_value

WORST_FIRST = ("fail", "undecided", "pass", "info")


def table(surveys: list[Path], topics: list[str]) -> list[str]:
    """Lines of the table; a figure that a survey has not shows as a dash."""
    cards = [json.loads(path("scorecard", survey).read_text())["rows"] for survey in surveys]
    keyed = [
        {tuple(row[key] for key in ("topic", "name", "band", "bin")): row for row in card} for card in cards
    ]
    names = " | ".join(survey.name for survey in surveys)
    lines = [f"| figure | band, bin | {names} | bound | verdict |", "|" + "---|" * (len(surveys) + 4)]
    for key in dict.fromkeys(key for card in keyed for key in card):
        topic, name, band, bin = key
        if topic not in topics:
            continue
        rows = [card.get(key) for card in keyed]
        values = " | ".join(
            "-" if row is None else format_value(row["value"], row["standard_error"]) for row in rows
        )
        some = next(row for row in rows if row is not None)
        unit = "" if some["unit"] in ("", "fraction") else f" [{some['unit']}]"
        place = " ".join(part for part in (band if band != "all" else "", bin) if part)
        verdicts = {row["verdict"] for row in rows if row is not None}
        worst = next(word for word in WORST_FIRST if word in verdicts)
        lines.append(f"| {name}{unit} | {place} | {values} | {some['bound']} | {worst} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("surveys", type=Path, nargs="+")
    parser.add_argument("--topics", nargs="+", default=list(TOPICS), help="; ".join(TOPICS))
    options = parser.parse_args()
    print("\n".join(table(options.surveys, options.topics)))


if __name__ == "__main__":
    main()
