"""Figures of a benchmark: their medians over the rounds, their bounds, and the tables of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Figure:
    """One number of one round."""

    row: str
    """Its name for --only."""
    what: str
    value: float
    unit: str = "×"
    asked: str = ""
    """The bound, such as ">= 4" or "<= 10"; empty if there is none."""


def summarised(figures: Iterable[Figure]) -> dict[str, Any]:
    """A row of the table: one figure of every round, with median, smallest and largest."""
    figures = list(figures)
    values = [figure.value for figure in figures]
    first, median = figures[0], statistics.median(values)
    return {
        "row": first.row,
        "what": first.what,
        "unit": first.unit,
        "asked": first.asked,
        "met": meets(median, first.asked),
        "median": median,
        "min": min(values),
        "max": max(values),
        "rounds": values,
    }


def meets(value: float, asked: str) -> bool | None:
    """Whether a value is within a bound such as ">= 4"; None if there is none."""
    if not asked:
        return None
    sign, bound = asked.split()
    return value >= float(bound) if sign == ">=" else value <= float(bound)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown: first those with a bound, then all others."""
    bounded = ["| row | what | median (min to max) | asked | met |", "|---|---|---|---|---|"]
    others = ["| row | what | median (min to max) |", "|---|---|---|"]
    for row in rows:
        low, high = (shown(row[name], "") for name in ("min", "max"))
        cells = [row["row"], row["what"], f"{shown(row['median'], row['unit'])} ({low} to {high})"]
        if row["asked"]:
            sign, bound = row["asked"].split()
            cells.append(f"{'≥' if sign == '>=' else '≤'} {shown(float(bound), row['unit'])}")
            cells.append("yes" if row["met"] else "no")
        (bounded if row["asked"] else others).append(f"| {' | '.join(cells)} |")
    return "\n\n".join("\n".join(lines) for lines in (bounded, others) if len(lines) > 2)


def shown(value: float, unit: str) -> str:
    """A number with three digits; from 100 on, a whole number."""
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".strip()
