"""Loads a trained agent from the folder of its run: finds checkpoint and environment."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vantage.agents.acting.observations import Encoder
from vantage.agents.acting.spaces import is_same_space
from vantage.agents.configs.fields import brief, checked
from vantage.agents.configs.registry import ALGORITHMS
from vantage.scripts.cli.named import (
    env_kwargs_from,
    network_flag,
    network_from,
    recorded_env_kwargs,
)
from vantage.scripts.cli.starting import start_tensorflow
from vantage.scripts.reading.recorded import COUNT
from vantage.training.runs.folder import required_checkpoint

if TYPE_CHECKING:
    from gymnasium import Space

    from vantage.agents.base.compatibility import OwnPartError


@dataclass(frozen=True)
class TrainedFlags:
    """Flags of commands in which a trained agent plays."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The folder of the run."""
    env: str | None = None
    """The environment: a registered id, module:EnvId-v0 or module:Class (default: the run's.
    Pass it if it is in a module, because nothing that a file names is imported)."""
    env_kwargs: tuple[str, ...] | None = None
    """Arguments of the environment: NAME=VALUE words, or one JSON object (default: the run's)."""
    network: str | None = None
    """For a run with your own network: module:function, a function that returns the network. It has
    no arguments, or takes the observation and the action space."""
    stochastic: bool = False
    """Sample the actions instead of taking the most likely ones."""
    best: bool = False
    """Use the best agent of --eval-every instead of the newest one."""
    device: str = "cpu"
    """Device of the network."""


def checkpoint_of(run_dir: Path, best: bool) -> Path:
    """The newest checkpoint of a run, or the best one of its evaluations.

    Raises:
        ValueError: The run has none.
    """
    path = required_checkpoint(run_dir)
    if not best:
        return path
    path = run_dir / "checkpoints" / "best"
    if not path.is_dir():
        raise ValueError(
            "A run must have been trained with --eval-every to have a best agent. Received: "
            f"{str(run_dir)!r}, which has no checkpoints/best. Leave out --best."
        )
    return path


def env_of(flags: TrainedFlags, config: Mapping[str, Any]) -> str:
    """The environment of --env, whose module may be in this folder, or that of the run.

    Raises:
        ValueError: The user must pass the environment or the network.
    """
    network = network_flag(config) if flags.network is None else None
    env_id = flags.env or _recorded_env(config.get("env_id"), flags.run_dir, network)
    if network is not None:
        raise ValueError(
            "An agent must have the network that it was trained with. Received: no --network for "
            f"{str(flags.run_dir)!r}, a run with its own network. Pass {network} if you "
            "trust it."
        )
    if ":" in env_id:  # so that modules in the user's folder are found
        sys.path.insert(0, "")
    return env_id


def _recorded_env(env_id: Any, run_dir: Path, network: str | None) -> str:
    """The environment in a run's `config.json`, if building it imports no module named there.

    Raises:
        ValueError: The user must pass it, and `network`, a flag, as well.
    """
    if env_id is None:
        raise ValueError(
            "Without --env, a run must have been started with `vantage train`, which records the "
            f"environment. Received: {str(run_dir)!r}, whose config.json names none. "
            f"Pass --env ID{f' {network}' if network else ''}, or use vantage.training.evaluate "
            "in a script."
        )
    if isinstance(env_id, str) and re.fullmatch(r"[\w./-]{1,200}", env_id):
        return env_id
    # Suggests only words that are harmless to paste.
    named = isinstance(env_id, str) and re.fullmatch(r"[\w.]{1,200}:[\w./-]{1,200}", env_id)
    advice = f"{env_id if named else 'ID'}{f' {network}' if network else ''}"
    advice += f" if you trust {'them' if network else 'it'}" if named else ""
    reason = ", which would import a module" if named else ""
    raise ValueError(
        "The environment of a run must be a registered id to be built from its files. "
        f"Received: {brief(env_id)} in config.json{reason}. Pass --env {advice}."
    )


def env_kwargs_of(flags: TrainedFlags, config: Mapping[str, Any]) -> dict[str, Any]:
    """The environment's arguments: those of the flag, or those of the run in its own environment.

    Raises:
        ValueError: They cannot be read, or the user must pass the recorded ones.
    """
    if flags.env_kwargs is not None:
        return env_kwargs_from(flags.env_kwargs)
    if flags.env is not None and flags.env != config.get("env_id"):
        return {}
    return recorded_env_kwargs(config)


def max_episode_steps_of(config: Mapping[str, Any]) -> int | None:
    """The steps after which the run truncated its episodes; None: as registered.

    Raises:
        ValueError: `config.json` has something else.
    """
    return checked(
        "max_episode_steps",
        config.get("max_episode_steps"),
        Annotated[int, COUNT] | None,
        "Correct it in config.json.",
    )


def algorithm_of(config: Mapping[str, Any], run_dir: Path) -> str:
    """The algorithm of a run.

    Raises:
        ValueError: Its `config.json` names no known algorithm.
    """
    algorithm = config.get("algorithm")
    if algorithm not in list(ALGORITHMS):
        raise ValueError(
            f"A run must be of one of the algorithms {', '.join(ALGORITHMS)}. "
            f"Received: {brief(algorithm)} in {str(run_dir / 'config.json')!r}. Use "
            "vantage.training.evaluate in a script."
        )
    return algorithm


def load_trained(
    path: Path,
    algorithm: str,
    env_id: str,
    spaces: Mapping[str, Space],
    device: str,
    network: str | None = None,
) -> Any:
    """Loads the agent of a checkpoint for an environment.

    Args:
        path: Of the checkpoint.
        algorithm: Of the agent.
        env_id: The environment, for errors.
        spaces: Its "observation" and "action" space, of a single environment.
        device: Device of the network.
        network: `module:function` of the network, if and only if the agent has its own network.

    Raises:
        ValueError: The agent has other spaces, or `network` is missing or superfluous.
    """
    start_tensorflow(device, has_images=Encoder(spaces["observation"]).has_images)
    from vantage.agents.base.compatibility import OwnPartError

    built = None
    if network is not None:
        built = network_from(network, spaces["observation"], spaces["action"])
    agent_type = ALGORITHMS[algorithm].load()
    try:
        agent = agent_type.load(path, network=built, device=device, only_to_act=True)
    except OwnPartError as error:
        raise command_line_advice(error, str(path)) from None
    for kind, given in spaces.items():
        own = getattr(agent, f"{kind}_space")
        if not is_same_space(own, given):
            raise ValueError(
                f"The environment must have the {kind} space of the agent, {_in_words(own)}. "
                f"Received: {_in_words(given)} of {env_id!r}. Pass --env with the environment "
                "that the agent was trained in."
            )
    return agent


def command_line_advice(error: OwnPartError, path: str) -> ValueError:
    """The same error, with advice for the command line."""
    if error.part == "network" and error.had_own:
        advice = "Pass --network module:function, the function that returned it for the training."
    elif error.part == "network":
        advice = "Leave out --network."
    else:
        advice = "Resume it from the script that trained it."
    saved_with = f"its own {error.part}" if error.had_own else f"the default {error.part}"
    return ValueError(
        f"An agent must have the {error.part} that it was trained with. Received: {path!r}, saved "
        f"with {saved_with}. {advice}"
    )


def _in_words(space: Any) -> str:
    return f"{' '.join(str(space).split()):.200}"
