"""Learning curves of several algorithms in one picture: the mean over seeds and a band around it.

Needs SciPy and matplotlib, of the extra `results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vantage.scripts.flags import start_tensorflow
from vantage.scripts.plot import read_curve
from vantage.scripts.tables import bootstrapped

TAG = "rollout/ep_rew_mean"
COLOURS = {
    "a2c": "tab:blue",
    "ppo": "tab:orange",
    "dqn": "tab:green",
    "sac": "tab:red",
    "td3": "tab:purple",
}
"""The same in every picture."""
Curve = tuple[np.ndarray, np.ndarray]


def draw(env_id: str, runs: Mapping[str, Sequence[Path]], folder: Path) -> str:
    """Draws the training curves of an environment into `folder`/ENV_ID.png.

    Args:
        env_id: The environment.
        runs: The folders of each algorithm's runs, one a seed.
        folder: Where the picture goes.

    Returns:
        In words what was drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    start_tensorflow()  # TensorBoard's reader imports it
    figure, axes = pyplot.subplots(figsize=(7.0, 4.0), layout="constrained")
    ends, starts = [], []
    for algorithm, folders in runs.items():
        curves = [curve for path in folders if (curve := _curve(path)) is not None]
        if not curves:
            continue
        steps, mean, low, high = band(curves)
        label = f"{algorithm}, {len(curves)} {'seeds' if len(curves) > 1 else 'seed'}"
        marker = "o" if steps[0] == steps[-1] else ""  # a single point is no line
        style = {"color": COLOURS[algorithm], "linewidth": 1.6, "marker": marker}
        axes.plot(steps, mean, label=label, **style)
        axes.fill_between(steps, low, high, color=COLOURS[algorithm], alpha=0.2, linewidth=0)
        ends.append(steps[-1])
        starts.append(steps[0])
    if not ends:
        pyplot.close(figure)
        return f"no learning curves of {env_id}: its runs have none"
    if max(ends) > 5 * min(ends):  # else the short ones could not be seen
        axes.set_xscale("log")
        axes.set_xlim(left=max(min(starts), min(ends) / 20))
    axes.set(
        title=env_id,
        xlabel="environment steps",
        ylabel="mean return of the last 100 episodes",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(frameon=False)
    path = folder / f"{env_id.replace('/', '-')}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return f"learning curves of {env_id}: {path}"


def _curve(folder: Path) -> Curve | None:
    """The curve of a run; None if it has none, for the folder is gone or no episode ended."""
    try:
        return read_curve(folder, TAG)
    except ValueError:
        return None


def band(
    curves: Sequence[Curve], points: int = 1_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, the mean over the curves and its 95 % bootstrap interval, each [points].

    From the first step at which all curves have a value to the last one that any has; a run that
    ended because it was solved stays where it ended. One curve is its own interval.
    """
    grid = np.linspace(
        max(steps[0] for steps, _ in curves), max(steps[-1] for steps, _ in curves), points
    )
    values = np.stack([np.interp(grid, steps, returns) for steps, returns in curves])  # [S, points]
    mean = values.mean(axis=0)
    if len(curves) == 1:
        return grid, mean, mean, mean
    low, high = bootstrapped(values, np.mean, resamples=1_000)
    return grid, mean, low, high
