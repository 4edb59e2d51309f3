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
    """Look for mistakes in an environment that break training; exit code 1 if there is one."""

    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV_ID")]
    """A registered Gymnasium id, or module:EnvId-v0 or module:Class of your own."""
    steps: int = 1_000
    """Number of random actions to play."""
    slow_step: float = 0.001
    """Seconds; warn if the median step takes longer."""
    seed: int = 0
    """Seed of the environment and of the actions."""
    env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment: NAME=VALUE words, or one JSON object."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many steps (default: as registered)."""


def run(arguments: list[str]) -> None:
    """Prints the report.

    Raises:
        SystemExit: With code 1, if the environment has an error.
    """
    flags = parse(CheckFlags, arguments, prog="vantage check")
    sys.path.insert(0, "")  # so that module:EnvId-v0 is also found in the user's folder
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
