"""The command `vantage plot RUN_DIR...`: learning curves as a picture, from the event files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from vantage.scripts.flags import parse, start_tensorflow


@dataclass(frozen=True)
class PlotFlags:
    """Draw the learning curves of runs, one line each, and their median if there are several."""

    run_dirs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs."""
    output: Path = Path("curves.png")
    """The picture: .png, .svg or .pdf."""
    tag: str = "rollout/ep_rew_mean"
    """Which curve."""
    title: str = ""
    """Above the picture."""


def run(arguments: list[str]) -> None:
    """Reads the curves and draws them."""
    flags = parse(PlotFlags, arguments, prog="vantage plot")
    if not flags.run_dirs:
        raise ValueError("plot needs at least one run. Received: none. Pass folders of runs.")
    start_tensorflow()  # TensorBoard's reader imports it
    curves = [read_curve(folder, flags.tag) for folder in flags.run_dirs]
    try:
        import matplotlib
    except ImportError:
        raise ImportError(
            "Drawing needs matplotlib. Received: an environment without it. "
            "Install the extra: pip install 'vantage-rl[plot]'."
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.0, 3.5), layout="constrained")
    several = len(curves) > 1
    for steps, values in curves:
        axes.plot(steps, values, color="tab:blue", alpha=0.3 if several else 1.0, linewidth=1.2)
    if several:
        end = max(steps[-1] for steps, _ in curves)
        grid = np.linspace(0, end, 400)
        # A run that ended because it was solved stays where it ended.
        table = [np.interp(grid, steps, values) for steps, values in curves]
        median = np.median(table, axis=0)
        axes.plot(grid, median, color="tab:blue", linewidth=2.2, label="median")
        axes.legend(frameon=False)
    names = {"rollout/ep_rew_mean": "mean return of the last 100 episodes"}
    axes.set(xlabel="environment steps", ylabel=names.get(flags.tag, flags.tag), title=flags.title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(flags.output, dpi=120)
    pyplot.close(figure)
    print(f"{len(curves)} curves of {flags.tag}: {flags.output}")


def read_curve(folder: Path, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a curve in a run's event files.

    Raises:
        ValueError: The folder holds no such curve.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    if folder.is_dir():
        accumulator.Reload()
    known = accumulator.Tags()["scalars"]
    if tag not in known:
        raise ValueError(
            f"A run must hold the curve to draw. Received: {str(folder)!r} with "
            f"{', '.join(known) or 'no curves'}, and not {tag!r}. Pass another folder or --tag."
        )
    points = accumulator.Scalars(tag)
    return np.array([p.step for p in points]), np.array([p.value for p in points])
