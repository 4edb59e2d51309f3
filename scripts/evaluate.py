"""The command `vantage evaluate RUN_DIR`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from gymnasium.vector import VectorEnv

from vantage.agents.config import CONFIGS
from vantage.agents.fields import brief, checked
from vantage.agents.spaces import is_same_space
from vantage.envs import make_vec
from vantage.scripts.flags import parse, require_at_least, start_tensorflow
from vantage.scripts.recorded import COUNT
from vantage.training.files import read_json, write_json
from vantage.training.folder import required_checkpoint


@dataclass(frozen=True)
class EvaluateFlags:
    """Play episodes with a trained agent and report the mean return."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The folder of the run."""
    env: str | None = None
    """The environment, a registered id or module:EnvId-v0 (default: the run's own, which must be
    given if it is in a module: nothing that a file names is imported)."""
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
    env_id = flags.env or _recorded_env(config.get("env_id"), flags.run_dir)
    max_episode_steps = checked(
        "max_episode_steps",
        config.get("max_episode_steps"),
        Annotated[int, COUNT] | None,
        "Correct it in config.json.",
    )
    if ":" in env_id:  # typed by the user, whose modules are looked up in the folder as well
        sys.path.insert(0, "")
    count = min(flags.num_envs, flags.episodes)
    envs = make_vec(env_id, count, max_episode_steps=max_episode_steps)
    try:
        result = _evaluate(flags, path, _algorithm(config, flags.run_dir), env_id, envs)
    finally:
        envs.close()
    write_json(flags.run_dir / "evaluation.json", {**result.to_json(), "checkpoint": path.name})
    low, high = result.ci95
    print(
        f"mean return {result.mean:.2f} ± {result.std:.2f} over {result.episodes} episodes, "
        f"95 % confidence interval of the mean [{low:.2f}, {high:.2f}]"
    )


def _recorded_env(env_id: Any, run_dir: Path) -> str:
    """The environment that a run's `config.json` names, if building it imports nothing it names.

    Raises:
        ValueError: It must be given by the user.
    """
    if env_id is None:
        raise ValueError(
            "A run must have been started with `vantage train` to be evaluated by its folder "
            f"alone. Received: {str(run_dir)!r}, whose config.json names no environment. "
            "Pass --env ID, or use vantage.training.evaluate in a script."
        )
    if isinstance(env_id, str) and re.fullmatch(r"[\w./-]{1,200}", env_id):
        return env_id
    # Only what is harmless to paste is suggested.
    named = isinstance(env_id, str) and re.fullmatch(r"[\w.]{1,200}:[\w./-]{1,200}", env_id)
    advice = f"{env_id} if you trust it" if named else "ID"
    reason = ", which would import a module" if named else ""
    raise ValueError(
        "The environment of a run must be a registered id to be built from its files. "
        f"Received: {brief(env_id)} in config.json{reason}. Pass --env {advice}."
    )


def _algorithm(config: Any, run_dir: Path) -> str:
    """The algorithm of a run.

    Raises:
        ValueError: Its `config.json` names none that is known.
    """
    algorithm = config.get("algorithm") if isinstance(config, dict) else None
    if algorithm not in list(CONFIGS):
        raise ValueError(
            f"A run must be of one of the algorithms {', '.join(CONFIGS)} to be evaluated. "
            f"Received: {brief(algorithm)} in {str(run_dir / 'config.json')!r}. Use "
            "vantage.training.evaluate in a script."
        )
    return algorithm


def _evaluate(
    flags: EvaluateFlags, path: Path, algorithm: str, env_id: str, envs: VectorEnv
) -> Any:
    start_tensorflow(flags.device)
    from vantage import agents
    from vantage.training import evaluate

    agent = getattr(agents, agents.ALGORITHMS[algorithm]).load(path, device=flags.device)
    for kind in ("observation", "action"):
        own = getattr(agent, f"{kind}_space")
        given = getattr(envs, f"single_{kind}_space")
        if not is_same_space(own, given):
            raise ValueError(
                f"The environment must have the {kind} space of the agent, {_in_words(own)}. "
                f"Received: {_in_words(given)} of {env_id!r}. Pass --env with the environment "
                "that the agent was trained in."
            )
    deterministic = not flags.stochastic
    return evaluate(agent, envs, flags.episodes, deterministic=deterministic, seed=flags.seed)


def _in_words(space: Any) -> str:
    return f"{' '.join(str(space).split()):.200}"
