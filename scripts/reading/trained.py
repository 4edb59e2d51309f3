"""A trained agent from the folder of its run: which checkpoint, which environment, do they fit?"""

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
from vantage.scripts.cli.flags import start_tensorflow
from vantage.scripts.cli.named import (
    env_kwargs_from,
    network_flag,
    network_from,
    recorded_env_kwargs,
)
from vantage.scripts.reading.recorded import COUNT
from vantage.training.runs.folder import required_checkpoint

if TYPE_CHECKING:
    from gymnasium import Space

    from vantage.agents.compatibility import OwnPartError


@dataclass(frozen=True)
class TrainedFlags:
    """Which agent plays, and how."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The folder of the run."""
    env: str | None = None
    """The environment, a registered id, module:EnvId-v0 or module:Class (default: the run's own,
    which must be given if it is in a module: nothing that a file names is imported)."""
    env_kwargs: tuple[str, ...] | None = None
    """Arguments of the environment: NAME=VALUE words, or one JSON object (default: the run's)."""
    network: str | None = None
    """For a run with a network of its own: module:function, a function that returns the network,
    without arguments or of the observation and action space."""
    stochastic: bool = False
    """Sample the actions instead of taking the most likely ones."""
    best: bool = False
    """The best agent of --eval-every instead of the last one."""
    device: str = "cpu"
    """Where the network lives."""


def checkpoint_of(run_dir: Path, best: bool) -> Path:
    """The newest checkpoint of a run, or the best one of its evaluations.

    Raises:
        ValueError: It has none.
    """
    path = required_checkpoint(run_dir)
    if not best:
        return path
    path = run_dir / "checkpoints" / "best"
    if not path.is_dir():
        raise ValueError(
            "A run must have been trained with --eval-every to keep its best agent. Received: "
            f"{str(run_dir)!r}, which has no checkpoints/best. Leave out --best."
        )
    return path


def env_of(flags: TrainedFlags, config: Mapping[str, Any]) -> str:
    """The environment that was typed, whose module may be in this folder, or the run's own.

    Raises:
        ValueError: It, or the network, must be given by the user.
    """
    network = network_flag(config) if flags.network is None else None
    env_id = flags.env or _recorded_env(config.get("env_id"), flags.run_dir, network)
    if network is not None:
        raise ValueError(
            "An agent must have the network that it was trained with. Received: no --network for "
            f"{str(flags.run_dir)!r}, a run with a network of its own. Pass {network} if you "
            "trust it."
        )
    if ":" in env_id:  # typed by the user, whose modules are looked up in the folder as well
        sys.path.insert(0, "")
    return env_id


def _recorded_env(env_id: Any, run_dir: Path, network: str | None) -> str:
    """The environment that a run's `config.json` names, if building it imports nothing it names.

    Raises:
        ValueError: It must be given by the user; `network`, a flag, is asked for as well.
    """
    if env_id is None:
        raise ValueError(
            "A run must have been started with `vantage train` for its folder alone to tell its "
            f"environment. Received: {str(run_dir)!r}, whose config.json names none. "
            f"Pass --env ID{f' {network}' if network else ''}, or use vantage.training.evaluate "
            "in a script."
        )
    if isinstance(env_id, str) and re.fullmatch(r"[\w./-]{1,200}", env_id):
        return env_id
    # Only what is harmless to paste is suggested.
    named = isinstance(env_id, str) and re.fullmatch(r"[\w.]{1,200}:[\w./-]{1,200}", env_id)
    advice = f"{env_id if named else 'ID'}{f' {network}' if network else ''}"
    advice += f" if you trust {'them' if network else 'it'}" if named else ""
    reason = ", which would import a module" if named else ""
    raise ValueError(
        "The environment of a run must be a registered id to be built from its files. "
        f"Received: {brief(env_id)} in config.json{reason}. Pass --env {advice}."
    )


def env_kwargs_of(flags: TrainedFlags, config: Mapping[str, Any]) -> dict[str, Any]:
    """The environment's arguments: those typed, or those of the run in its own environment.

    Raises:
        ValueError: They are not readable, or the recorded ones have to be typed.
    """
    if flags.env_kwargs is not None:
        return env_kwargs_from(flags.env_kwargs)
    if flags.env is not None and flags.env != config.get("env_id"):
        return {}
    return recorded_env_kwargs(config)


def max_episode_steps_of(config: Mapping[str, Any]) -> int | None:
    """After how many steps the run truncated its episodes; None: as registered.

    Raises:
        ValueError: `config.json` holds something else.
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
        ValueError: Its `config.json` names none that is known.
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
    """The agent of a checkpoint, for an environment.

    Args:
        path: Of the checkpoint.
        algorithm: Of the agent.
        env_id: The environment, in the error.
        spaces: Its "observation" and "action" space, of a single environment.
        device: Where the network lives.
        network: `module:function` of the network, exactly if the agent has one of its own.

    Raises:
        ValueError: The agent is for other spaces, or `network` is missing or too much.
    """
    start_tensorflow(device, has_images=Encoder(spaces["observation"]).has_images)
    from vantage.agents.compatibility import OwnPartError

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
    """The same error, for somebody who typed a command."""
    if error.part == "network" and error.had_own:
        advice = "Pass --network module:function, the function that returned it for the training."
    elif error.part == "network":
        advice = "Leave out --network."
    else:
        advice = "Resume it from the script that trained it."
    kept = f"its own {error.part}" if error.had_own else f"the default {error.part}"
    return ValueError(
        f"An agent must have the {error.part} that it was trained with. Received: {path!r}, saved "
        f"with {kept}. {advice}"
    )


def _in_words(space: Any) -> str:
    return f"{' '.join(str(space).split()):.200}"
