"""The command `vantage check ENV_ID`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from vantage.envs import check_env
from vantage.scripts.cli.flags import parse
from vantage.scripts.cli.named import env_kwargs_from
from vantage.training.common.console import say


@dataclass(frozen=True)
class CheckFlags:
    """Look for what breaks training in an environment; exit code 1 when there is an error."""

    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV_ID")]
    """A registered Gymnasium id, or module:EnvId-v0 or module:Class of your own."""
    steps: int = 1_000
    """Random actions to play."""
    slow_step: float = 0.001
    """Seconds; a step that takes longer (the median) is a warning."""
    seed: int = 0
    """Of the environment and of the actions."""
    env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment: NAME=VALUE words, or one JSON object."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many steps (default: as registered)."""


def run(arguments: list[str]) -> None:
    """Prints the report.

    Raises:
        SystemExit: 1, there is an error in the environment.
    """
    flags = parse(CheckFlags, arguments, prog="vantage check")
    sys.path.insert(0, "")  # module:EnvId-v0 is looked up in the user's folder as well
    report = check_env(
        flags.env_id,
        steps=flags.steps,
        slow_step=flags.slow_step,
        seed=flags.seed,
        env_kwargs=env_kwargs_from(flags.env_kwargs),
        max_episode_steps=flags.max_episode_steps,
    )
    say(report)
    if not report.ok:
        raise SystemExit(1)
