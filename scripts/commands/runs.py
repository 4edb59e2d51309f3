"""The command `vantage runs [DIR]`: a table of all runs below a folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vantage.scripts.cli.flags import parse
from vantage.scripts.reading.run_folders import find_runs
from vantage.scripts.reading.run_status import Row, Status, describe
from vantage.training.common.console import printable, say

if TYPE_CHECKING:
    from collections.abc import Sequence

Column = Literal[
    "path",
    "algorithm",
    "environment",
    "seed",
    "status",
    "steps",
    "mean_return",
    "evaluation",
    "loss",
    "seconds",
    "modified",
]
NUMBERS = ("seed", "steps", "return", "evaluation", "loss", "time")
FOLDED = ("run", "note")  # on a narrow terminal
STYLES = {"running": "green", "crashed": "red", "damaged": "red", "interrupted": "yellow"}


@dataclass(frozen=True)
class RunsFlags:
    """List all runs below a folder, with their progress and their returns."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = Path("runs")
    """Where to look."""
    sort: Column = "path"
    """Column to sort by; runs without a value come last."""
    descending: bool = False
    """Sort from largest to smallest."""
    json: bool = False
    """Print a JSON array with an object for every run, instead of a table."""
    algorithm: tuple[str, ...] = ()
    """Show only runs of these algorithms."""
    environment: tuple[str, ...] = ()
    """Show only runs in these environments."""
    status: tuple[Status, ...] = ()
    """Show only runs with this status."""


def run(arguments: list[str]) -> None:
    """Prints the table."""
    flags = parse(RunsFlags, arguments, prog="vantage runs")
    rows = [describe(path) for path in find_runs([flags.folder])]
    matching = [row for row in rows if _matches(row, flags)]
    ordered = _sorted(matching, flags.sort, flags.descending)
    if flags.json:
        say(json.dumps([asdict(row) for row in ordered], indent=2, allow_nan=False))
    elif not ordered:
        hidden = f" that match, of {len(rows)}" if rows else ""
        say(f"no runs{hidden} in {flags.folder}")
    else:
        _print_table(ordered, flags.folder)


def _matches(row: Row, flags: RunsFlags) -> bool:
    pairs = (
        (flags.algorithm, row.algorithm),
        (flags.environment, row.environment),
        (flags.status, row.status),
    )
    return all(not asked or value in asked for asked, value in pairs)


def _sorted(rows: Sequence[Row], column: str, descending: bool) -> list[Row]:
    if column == "path":  # sorted, with seed-2 before seed-10
        return list(rows[::-1] if descending else rows)
    known = [row for row in rows if getattr(row, column) is not None]
    unknown = [row for row in rows if getattr(row, column) is None]
    known.sort(key=lambda row: getattr(row, column), reverse=descending)
    return known + unknown


def _print_table(rows: Sequence[Row], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # every run is one line, for grep
    names = ["run", "algorithm", "environment", "seed", "status", "steps", "return", "evaluation"]
    names += ["loss"] * any(row.loss is not None for row in rows) + ["time"]
    names += ["note"] * any(row.error is not None for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        justify: Literal["left", "right"] = "right" if name in NUMBERS else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name not in FOLDED)
    for row in rows:
        cells = _cells(row, folder)
        table.add_row(*(Text(cells[name]) for name in names), style=STYLES.get(row.status))
    console.print(table, highlight=False)
    counts = {row.status: sum(other.status == row.status for other in rows) for row in rows}
    listed = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    say(f"{len(rows)} run{'s' * (len(rows) > 1)} in {folder}: {listed}")


def _cells(row: Row, folder: Path) -> dict[str, str]:
    """The columns of a row, by name."""
    steps = "—" if row.steps is None else f"{row.steps:,}"
    if row.total_steps is not None and row.status != "finished":
        steps += f" of {row.total_steps:,}"
    path = Path(row.path)
    cells = {
        "run": str(path.relative_to(folder)) if path != folder else str(path),
        "algorithm": row.algorithm or "—",
        "environment": row.environment or "—",
        "seed": "—" if row.seed is None else str(row.seed),
        "status": row.status,
        "steps": steps,
        "return": _number(row.mean_return),
        "evaluation": _number(row.evaluation),
        "loss": "—" if row.loss is None else f"{row.loss:.4g}",
        "time": "—" if row.seconds is None else _duration(row.seconds),
        "note": row.error or "",
    }
    return {
        name: printable(cell, most=None if name == "run" else 300) for name, cell in cells.items()
    }


def _number(value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value:,.1f}" if abs(value) < 1e15 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if not 60 <= seconds < 1e12:
        return f"{seconds:.1f} s" if abs(seconds) < 60 else f"{seconds:.4g} s"
    minutes, hours = int(seconds // 60 % 60), int(seconds // 3600)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {int(seconds % 60):02} s"
