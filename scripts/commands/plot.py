"""The command `vantage plot RUN_DIR...`: learning curves in the terminal, or as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from vantage.scripts.cli.flags import parse
from vantage.scripts.reading.bands import (
    NAMES,
    Centre,
    Group,
    Panel,
    Spread,
    Style,
    check_matplotlib,
    picture,
)
from vantage.scripts.reading.curves import RETURNS, Curve, default_tags, read_curves, smoothed, unit
from vantage.scripts.reading.run_folders import entry, find_runs, kind, read_config
from vantage.training.common.console import printable, say, text_of

if TYPE_CHECKING:
    import numpy as np

ENDINGS = (".png", ".svg", ".pdf")
LABEL = 500  # characters
RUN = "run"
"""The word of --group-by for the folder of a run."""


@dataclass(frozen=True)
class PlotFlags:
    """Plot the learning curves of runs: in the terminal, or with --output as a picture.

    Runs of one algorithm and environment, such as several seeds, become one line with a band around
    it. Runs in subfolders are found too.
    """

    run_dirs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, or folders that contain runs."""
    output: Path | None = None
    """File of the picture: .png, .svg or .pdf."""
    terminal: bool = False
    """Also plot in the terminal (default: only without --output)."""
    tag: tuple[str, ...] = ()
    """Curves to plot, by TensorBoard tag or as 'train/*' (default: an agent's return, the losses of
    other trainings)."""
    x: Literal["steps", "seconds"] = "steps"
    """The x-axis. Seconds count training time, without the pause before a resume."""
    smooth: float = 0.0
    """TensorBoard's smoothing of every run's curve, at least 0 and less than 1."""
    group_by: tuple[str, ...] = ()
    """Also group by these entries of config.json, such as learning_rate; `run` makes every run a
    separate line."""
    center: Centre = "mean"
    """What the line of a group shows."""
    band: Spread = "interval"
    """What the band of a group shows: the 95 % bootstrap interval of the line, the range (lowest to
    highest), or none."""
    singles: bool = True
    """In a picture, draw every run as a thin line behind its group."""
    title: str = ""
    """Title of the picture."""

    def __post_init__(self) -> None:
        if not 0 <= self.smooth < 1:
            raise ValueError(
                "smooth must be at least 0 and less than 1. "
                f"Received: {self.smooth}. Leave --smooth out for none"
            )
        if self.output is not None and self.output.suffix.lower() not in ENDINGS:
            raise ValueError(
                f"output must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}. "
                f"Received: {str(self.output)!r}. Rename it, or leave it out to draw here"
            )


class Found(NamedTuple):
    """A run with its curves."""

    path: Path
    config: Mapping[str, Any]
    curves: Mapping[str, Curve]


def run(arguments: list[str]) -> None:
    """Reads the curves and plots them."""
    flags = parse(PlotFlags, arguments, prog="vantage plot")
    if not flags.run_dirs:
        raise ValueError("plot needs at least one run. Received: none. Pass folders of runs.")
    if flags.output is not None:
        check_matplotlib()
    runs = [_read(path) for path in find_runs(flags.run_dirs)]
    if not runs:
        folders = ", ".join(map(repr, map(str, flags.run_dirs)))
        raise ValueError(
            f"A folder must be a run or contain runs. Received: {folders}, which have none. "
            "Pass the folder of a run, one with config.json or event files."
        )
    tags = _tags(runs, flags)
    _note_left_out(runs, tags, flags)
    grouped = group(runs, flags.group_by)
    panels = [_panel(tag, grouped, flags) for tag in tags]
    style = Style(flags.center, flags.band, flags.singles)
    if flags.terminal or flags.output is None:
        from rich.console import Console

        from vantage.scripts.reading.terminal import show

        show(panels, style, Console())
    if flags.output is not None:
        panels[0] = panels[0]._replace(title=flags.title)
        picture(flags.output, panels, style)
        number = sum(not _tags_of(found, flags).isdisjoint(tags) for found in runs)
        say(
            f"{number} run{'s' * (number > 1)} in {_count(panels)}, {_listed(tags)}: {flags.output}"
        )


def _count(panels: Sequence[Panel]) -> str:
    number = len({group.label for panel in panels for group in panel.groups})
    return f"{number} group{'s' * (number > 1)}"


def _read(path: Path) -> Found:
    """Reads a run. Of a damaged run it reads what it can, and prints a note about the rest."""
    config: Mapping[str, Any] = {}
    curves: Mapping[str, Curve] = {}
    problems: list[str] = []
    try:
        config = read_config(path)
    except Exception as error:
        problems.append(text_of(error))
    try:
        curves = read_curves(path, problems)
    except Exception as error:
        problems.append(text_of(error))
    for text in problems:
        say(f"note: {printable(path)}: {printable(text, most=1_000)}", error=True)
    return Found(path, config, curves)


def _tags(runs: Sequence[Found], flags: PlotFlags) -> list[str]:
    """The tags to plot, in order.

    Raises:
        ValueError: No run has such curves.
    """
    known = dict.fromkeys(tag for found in runs for tag in found.curves)
    asked = flags.tag or tuple(
        dict.fromkeys(tag for found in runs for tag in default_tags(found.curves))
    )
    tags: dict[str, None] = {}
    for pattern in asked:
        chosen = [tag for tag in known if tag == pattern or fnmatchcase(tag, pattern)]
        if not chosen and (flags.tag or not any(tag in known for tag in asked)):
            _refuse(runs, known, pattern)
        tags |= dict.fromkeys(chosen)
    if not tags:
        _refuse(runs, known, RETURNS)
    return list(tags)


def _refuse(runs: Sequence[Found], known: Mapping[str, None], tag: str) -> None:
    where = repr(str(runs[0].path)) if len(runs) == 1 else f"{len(runs)} runs"
    raise ValueError(
        f"A run must have the curve to plot. Received: {where} with "
        f"{_listed(known)}, and not {tag!r}. Pass another folder or --tag."
    )


def _listed(names: Iterable[str]) -> str:
    """Names, the first ones if there are many."""
    listed = list(names)
    more = f" and {len(listed) - 50:,} more" if len(listed) > 50 else ""
    return ", ".join(name[:100] for name in listed[:50]) + more or "no curves"


def _tags_of(found: Found, flags: PlotFlags) -> set[str]:
    """The runs that have the curves; an agent's losses are not plotted beside a regression's."""
    return set(found.curves if flags.tag else default_tags(found.curves)) & set(found.curves)


def _note_left_out(runs: Sequence[Found], tags: Sequence[str], flags: PlotFlags) -> None:
    left_out = [str(found.path) for found in runs if _tags_of(found, flags).isdisjoint(tags)]
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        say(
            f"note: skipped, because they have no {' or '.join(tags)}: "
            f"{', '.join(left_out[:3])}{more}",
            error=True,
        )


def group(runs: Sequence[Found], names: Sequence[str] = ()) -> dict[str, list[Found]]:
    """Groups of runs by label: algorithm, environment, and entries of the config.

    A run without a known algorithm is a group by itself.

    Raises:
        ValueError: No run has an entry of this name.
    """
    for name in names:
        if name != RUN and all(entry(found.config, name) is None for found in runs):
            entries = sorted({key for found in runs for key in _names(found.config)})
            known = _listed(entries) if entries else "a run with a config.json"
            raise ValueError(
                f"--group-by must name an entry of the runs' config.json, or {RUN!r}. Received: "
                f"{name!r}. Pass one of {known}."
            )
    groups: dict[str, list[Found]] = {}
    for found in runs:
        parts = [part for part in kind(found.config) if part is not None]
        if not parts or RUN in names:
            parts = [str(found.path)]
        for name in names:
            if name != RUN:
                value = entry(found.config, name)
                shown = "×".join(map(str, value)) if isinstance(value, list) else value
                parts.append(f"{name}={shown}")
        groups.setdefault(printable(" ".join(parts), most=LABEL), []).append(found)
    ranks = {label: min(_rank(found, names) for found in each) for label, each in groups.items()}
    return dict(sorted(groups.items(), key=lambda item: ranks[item[0]]))


def _rank(found: Found, names: Sequence[str]) -> list[tuple[str, float, str]]:
    """Sort key of groups: algorithm and environment, then each entry, numbers by size."""
    first = ("", 0.0, " ".join(str(part) for part in kind(found.config) if part is not None))
    values = [entry(found.config, name) for name in names if name != RUN]
    return [first, *(_key(value) for value in values)]


def _key(value: Any) -> tuple[str, float, str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return ("", float(value), "") if is_number and abs(value) < 1e300 else ("text", 0.0, str(value))


def _names(config: Mapping[str, Any]) -> set[str]:
    settings = config.get("config")
    inner = set(settings) if isinstance(settings, dict) else set()
    return (set(config) | inner) - {"config"}


def _panel(tag: str, grouped: Mapping[str, Sequence[Found]], flags: PlotFlags) -> Panel:
    groups, units = [], set[str]()
    for label, runs in grouped.items():
        with_it = [found for found in runs if tag in _tags_of(found, flags)]
        if not with_it:
            continue
        several = f", {len(with_it)} runs" if len(with_it) > 1 else ""
        points = [_points(found.curves[tag], flags) for found in with_it]
        groups.append(Group(label + several, points))
        units |= {unit(found.curves) for found in with_it}
    xlabel = "seconds of training" if flags.x == "seconds" else " / ".join(sorted(units))
    ylabel = printable(NAMES.get(tag, tag), most=LABEL) + (
        f", smoothed by {flags.smooth:g}" if flags.smooth else ""
    )
    return Panel(groups, xlabel, ylabel)


def _points(curve: Curve, flags: PlotFlags) -> tuple[np.ndarray, np.ndarray]:
    xs = curve.steps if flags.x == "steps" else curve.seconds
    return xs, smoothed(curve.values, flags.smooth)
