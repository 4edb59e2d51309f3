"""The command `vantage evaluate RUN_DIR`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vantage.envs import make_vec
from vantage.scripts.flags import parse, require_at_least, start_tensorflow
from vantage.training.checkpoint import read_json, required_checkpoint, write_json


@dataclass(frozen=True)
class EvaluateFlags:
    """Play episodes with a trained agent and report the mean return."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The folder of the run."""
    episodes: int = 100
    """Episodes to play, an equal quota for every environment."""
    stochastic: bool = False
    """Sample the actions instead of taking the most likely ones."""
    best: bool = False
    """The best agent of --eval-every instead of the last one."""
    seed: int = 1_000
    """Of the environments."""
    num_envs: int = 10
    """Environments stepped together."""
    device: str = "cpu"
    """Where the network lives."""


def run(arguments: list[str]) -> None:
    """Evaluates and writes `evaluation.json` into the run's folder."""
    flags = parse(EvaluateFlags, arguments, prog="vantage evaluate")
    require_at_least(flags, episodes=1, num_envs=1, seed=0)
    config = read_json(flags.run_dir / "config.json")
    path = required_checkpoint(flags.run_dir)
    if flags.best:
        path = flags.run_dir / "checkpoints" / "best"
        if not path.is_dir():
            raise ValueError(
                "A run must have been trained with --eval-every to keep its best agent. Received: "
                f"{str(flags.run_dir)!r}, which has no checkpoints/best. Leave out --best."
            )
    sys.path.insert(0, "")
    if "env_id" not in config:
        raise ValueError(
            "A run must have been started with `vantage train` to be evaluated by its folder. "
            f"Received: {str(flags.run_dir)!r}. Use vantage.training.evaluate in a script."
        )
    envs = make_vec(
        config["env_id"],
        min(flags.num_envs, flags.episodes),
        max_episode_steps=config.get("max_episode_steps"),
    )
    start_tensorflow(flags.device)
    from vantage.agents import A2C
    from vantage.training import evaluate

    agent = A2C.load(path, device=flags.device)
    result = evaluate(
        agent, envs, flags.episodes, deterministic=not flags.stochastic, seed=flags.seed
    )
    envs.close()
    write_json(flags.run_dir / "evaluation.json", {**result.to_json(), "checkpoint": path.name})
    low, high = result.ci95
    print(
        f"mean return {result.mean:.2f} ± {result.std:.2f} over {result.episodes} episodes, "
        f"95 % confidence interval of the mean [{low:.2f}, {high:.2f}]"
    )
