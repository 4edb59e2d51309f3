"""The command `vantage evaluate RUN_DIR`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vantage.envs import make_vec
from vantage.scripts.cli.flags import parse, require_at_least
from vantage.scripts.reading.trained import (
    TrainedFlags,
    algorithm_of,
    checkpoint_of,
    env_kwargs_of,
    env_of,
    load_trained,
    max_episode_steps_of,
)
from vantage.training.common.console import say
from vantage.training.storage.files import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from gymnasium.vector import VectorEnv


@dataclass(frozen=True)
class EvaluateFlags(TrainedFlags):
    """Play episodes with a trained agent and report the mean return."""

    episodes: int = 100
    """Episodes to play, the same number in every environment."""
    seed: int = 1_000
    """Seed of the environments."""
    num_envs: int = 10
    """Number of environments."""


def run(arguments: list[str]) -> None:
    """Evaluates and writes `evaluation.json` into the run's folder."""
    flags = parse(EvaluateFlags, arguments, prog="vantage evaluate")
    require_at_least(flags, episodes=1, num_envs=1, seed=0)
    config = read_json(flags.run_dir / "config.json")
    path = checkpoint_of(flags.run_dir, flags.best)
    env_id = env_of(flags, config)
    max_episode_steps = max_episode_steps_of(config)
    count = min(flags.num_envs, flags.episodes)
    envs = make_vec(
        env_id,
        count,
        env_kwargs=env_kwargs_of(flags, config),
        max_episode_steps=max_episode_steps,
    )
    try:
        result = _evaluate(flags, path, algorithm_of(config, flags.run_dir), env_id, envs)
    finally:
        envs.close()
    low, high = result.ci95
    say(
        f"mean return {result.mean:.2f} ± {result.std:.2f} over {result.episodes} episodes, "
        f"95 % confidence interval of the mean [{low:.2f}, {high:.2f}]"
    )
    # Last: what cannot be written has been shown.
    write_json(flags.run_dir / "evaluation.json", {**result.to_json(), "checkpoint": path.name})


def _evaluate(
    flags: EvaluateFlags, path: Path, algorithm: str, env_id: str, envs: VectorEnv
) -> Any:
    spaces = {"observation": envs.single_observation_space, "action": envs.single_action_space}
    agent = load_trained(path, algorithm, env_id, spaces, flags.device, flags.network)
    from vantage.training import evaluate

    deterministic = not flags.stochastic
    return evaluate(agent, envs, flags.episodes, deterministic=deterministic, seed=flags.seed)
