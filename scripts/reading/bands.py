"""Learning curves of groups of runs: each group has a line, a band, and thin lines of its runs.

Pictures need matplotlib, from the extras `plot` and `results`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from vantage.agents.configs.registry import ALGORITHMS
from vantage.scripts.reading.curves import RETURNS, read_curves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

RESAMPLES = 1_000
NAMES = {RETURNS: "mean return of the last 100 episodes"}
Centre = Literal["mean", "median"]
Spread = Literal["interval", "range", "none"]
Points = tuple[np.ndarray, np.ndarray]
"""Steps and values of the points of a curve."""


class Group(NamedTuple):
    """Runs that share one line, such as the seeds of a setting."""

    label: str
    curves: Sequence[Points]
    colour: str | None = None


class Style(NamedTuple):
    """How a group is drawn."""

    centre: Centre = "mean"
    spread: Spread = "interval"
    singles: bool = True

    def __str__(self) -> str:
        around = {
            "interval": f", 95 % bootstrap interval of the {self.centre}",
            "range": ", lowest to highest",
            "none": "",
        }
        return f"{self.centre}{around[self.spread]}"


class Panel(NamedTuple):
    """One pair of axes."""

    groups: Sequence[Group]
    xlabel: str
    ylabel: str
    title: str = ""


def band(
    curves: Sequence[Points],
    points: int = 1_000,
    centre: Centre = "mean",
    spread: Spread = "interval",
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, the mean or median over the curves, and the band's ends, each [points].

    They range from the first step at which all curves have a value to the last step of any curve. A
    run that ended because it was solved keeps its last value. The band is the 95 %
    percentile-bootstrap interval over the curves (Efron 1979), or reaches from the lowest to the
    highest. A single curve is its own band. The result is reproducible.
    """
    grid = np.linspace(
        max(steps[0] for steps, *_ in curves), max(steps[-1] for steps, *_ in curves), points
    )
    values = np.stack([np.interp(grid, steps, returns) for steps, returns in curves])  # [S, points]
    statistic = np.mean if centre == "mean" else np.median
    middle = statistic(values, axis=0)
    if len(curves) == 1 or spread == "none":
        return grid, middle, middle, middle
    if spread == "range":
        return grid, middle, values.min(axis=0), values.max(axis=0)
    draws = np.random.default_rng(0).integers(len(curves), size=(RESAMPLES, len(curves)))
    resampled = np.stack([statistic(values[rows], axis=0) for rows in draws])
    low, high = np.percentile(resampled, (2.5, 97.5), axis=0)
    return grid, middle, low, high


def picture(path: Path, panels: Sequence[Panel], style: Style) -> None:
    """Draws panels, one below the other, into a file of the kind that its ending says.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    check_matplotlib()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        len(panels), figsize=(7.0, 4.0 * len(panels)), layout="constrained", squeeze=False
    )
    try:
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _draw_panel(axes, panel, style)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    finally:
        pyplot.close(figure)


def check_matplotlib() -> None:
    """Refuses to draw pictures without matplotlib.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError(
            "Pictures need matplotlib. Received: an installation without it. "
            "Install the extra: pip install 'vantage-rl[plot]'."
        ) from None


def _draw_panel(axes: Any, panel: Panel, style: Style) -> None:
    ends, starts, several = [], [], False
    for number, (label, curves, given) in enumerate(panel.groups):
        colour = given or f"C{number % 10}"
        steps, middle, low, high = band(curves, centre=style.centre, spread=style.spread)
        if style.singles and len(curves) > 1:
            for xs, ys in curves:
                axes.plot(xs, ys, color=colour, alpha=0.3, linewidth=0.7)
        marker = "o" if steps[0] == steps[-1] else ""  # a single point is no line
        text = label.replace("$", r"\$")  # no formulas: names may contain anything
        axes.plot(steps, middle, color=colour, label=text, linewidth=1.6, marker=marker)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        ends.append(steps[-1])
        starts.append(steps[0])
        several |= len(curves) > 1
    if max(ends) > 5 * min(ends) > 0:  # otherwise short curves would be invisible
        axes.set_xscale("log")
        axes.set_xlim(left=max(min(starts), min(ends) / 20))
    ylabel = panel.ylabel.replace("$", r"\$")
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    title = str(style) if several else None
    axes.legend(frameon=False, fontsize="small", title=title, title_fontsize="small")


def draw(env_id: str, runs: Mapping[str, Sequence[Path]], folder: Path) -> str:
    """Draws the training curves in an environment into `folder`/ENV_ID.png.

    Args:
        env_id: The environment.
        runs: The folders of each algorithm's runs, one per seed.
        folder: Folder of the picture.

    Returns:
        A sentence that says what was drawn.
    """
    groups = []
    for algorithm, folders in runs.items():
        read = [read_curves(path).get(RETURNS) for path in folders]
        curves = [(curve.steps, curve.values) for curve in read if curve is not None]
        if curves:
            label = f"{algorithm}, {len(curves)} {'seeds' if len(curves) > 1 else 'seed'}"
            groups.append(Group(label, curves, ALGORITHMS[algorithm].colour))
    if not groups:
        return f"no learning curves of {env_id}: its runs have none"
    path = folder / f"{env_id.replace('/', '-')}.png"
    panel = Panel(groups, "environment steps", NAMES[RETURNS], env_id)
    picture(path, [panel], Style(singles=False))
    return f"learning curves of {env_id}: {path}"
