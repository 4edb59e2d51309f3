"""Draws the pictures of TensorBoard in the README and the documentation, from its own training.

    python -m vantage.scripts.documentation.pictures --output docs/pictures

`browser.py` lists what it needs.
"""

from __future__ import annotations

import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vantage.scripts.cli.flags import parse, require_at_least
from vantage.scripts.cli.starting import limit_threads, start_tensorflow
from vantage.scripts.documentation.browser import (
    SHOWN,
    browse,
    find,
    open_tab,
    serve,
    wait_drawn,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RETURNS = ("rollout/ep_rew_mean", "eval/mean_reward")
LOSSES = ("train/entropy_loss", "train/explained_variance", "train/grad_norm", "train/value_loss")
INSIDE = (
    *("samples/values", "samples/returns", "samples/advantages", "samples/action_probabilities"),
    *("weights/policy/kernel", "gradients/policy/kernel"),
)
BOXES = ".hparam-checkbox, .metric-checkbox"
CHOOSE = f"""
    {SHOWN}
    for (const each of found)
        if (each.checked !== arguments[1].includes(each.textContent.trim())) each.click();
"""


@dataclass(frozen=True)
class PicturesFlags:
    """Train A2C on CartPole several times, and take pictures of TensorBoard."""

    output: Path = Path("docs/pictures")
    """Where they go."""
    total_steps: int = 20_000
    """Environment steps per run."""

    def __post_init__(self) -> None:
        require_at_least(self, total_steps=1_000)


def main(arguments: list[str] | None = None) -> None:
    """Trains, opens TensorBoard, and writes the pictures."""
    limit_threads()
    arguments = sys.argv[1:] if arguments is None else arguments
    flags = parse(PicturesFlags, arguments, prog="python -m vantage.scripts.documentation.pictures")
    flags.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        train_runs(runs, flags.total_steps)
        with serve(runs) as url, browse(scale=1.5) as driver:
            for name, (height, show) in PICTURES.items():
                driver.set_window_size(1480, height)
                show(driver, url)
                save(driver.get_screenshot_as_png(), flags.output / f"{name}.png")


def train_runs(
    folder: Path,
    total_steps: int,
    learning_rates: tuple[float, ...] = (7e-4, 2.5e-3, 1e-2),
    seeds: tuple[int, ...] = (0, 1),
    **options: Any,
) -> None:
    """One A2C run on CartPole for each learning rate and seed; `options` are those of `train`."""
    start_tensorflow("cpu", 80)
    from vantage.agents import A2C, A2CConfig
    from vantage.envs import make_vec
    from vantage.training import train

    for rate in learning_rates:
        for seed in seeds:
            envs = make_vec("CartPole-v1", 16, seed=seed, vectorization="native")
            config = A2CConfig(learning_rate=rate, rms_prop_eps=1e-3)
            agent = A2C(envs.single_observation_space, envs.single_action_space, config, seed=seed)
            train(
                agent,
                envs,
                total_steps,
                logdir=folder / f"lr-{rate:g}-seed-{seed}",
                evaluate_every=max(total_steps // 10, 1),
                evaluation_envs=make_vec("CartPole-v1", 20, vectorization="native"),
                config={"env_id": "CartPole-v1", "seed": seed},
                **options,
            )


def show_scalars(driver: Any, url: str, *tags: str) -> None:
    """Shows the Scalars tab with some tags first."""
    open_tab(driver, url, "scalars", tagFilter="|".join(tags))
    wait_drawn(driver, "vz-line-chart2", len(tags))


def show_custom_scalars(driver: Any, url: str) -> None:
    """Shows the Custom Scalars tab: curves grouped by the question that they answer."""
    open_tab(driver, url, "custom_scalars")
    wait_drawn(driver, "vz-line-chart2", 3)


def show_hparams(driver: Any, url: str, *columns: str) -> list[str]:
    """Shows the HParams tab with some columns; returns all cells of the table."""
    open_tab(driver, url, "hparams")
    wait_for(driver, lambda: find(driver, BOXES), "settings and metrics")
    driver.execute_script(CHOOSE, BOXES, columns)

    def cells() -> list[str]:
        texts = [each.text.replace("\n", "") for each in find(driver, "vaadin-grid-cell-content")]
        return texts if set(columns) <= set(texts) else []

    return wait_for(driver, cells, "the columns chosen")


def show_histograms(driver: Any, url: str, run: str, *tags: str) -> None:
    """Shows the Histograms tab with some tags of a run first."""
    open_tab(driver, url, "histograms", tagFilter="|".join(tags), regexInput=run)
    wait_drawn(driver, "vz-histogram-timeseries", len(tags))


def save(png: bytes, path: Path) -> None:
    """Writes a picture with as few colours as it needs, which takes a third of the bytes."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


PICTURES: dict[str, tuple[int, Callable[[Any, str], Any]]] = {
    "scalars": (900, lambda driver, url: show_scalars(driver, url, *RETURNS, *LOSSES)),
    "custom-scalars": (900, show_custom_scalars),
    "hparams": (
        600,
        lambda driver, url: show_hparams(driver, url, "config.learning_rate", "seed", *RETURNS),
    ),
    "histograms": (
        900,
        lambda driver, url: show_histograms(driver, url, "lr-0.0025-seed-0", *INSIDE),
    ),
}
"""The height of each picture, and the function that shows its content."""


if __name__ == "__main__":
    main()
