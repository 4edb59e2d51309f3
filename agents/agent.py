"""What all agents have in common: how they count their steps, over one training or several.

d   steps of earlier calls of `train`, 0 at first           `_earlier_steps`
t   steps of this call, of T                                `begin(…, total_steps=T)`
schedules are functions of (d + t) / (d + T)
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any, Self

import keras
import numpy as np

from ..training.common.interrupts import Cuttable
from ..training.core.overlap import Overlapped
from .compatibility import check_settings, warn_of_optimizer
from .configs.config import used_settings

LARGE_SHARE = 0.1
"""Of the steps of a run: so many without an update are worth a warning before it starts."""
MANY_STEPS = 500
"""Fewer without an update are not: every short trial would warn."""


FOREIGN_NAMES = {
    "learn": "train an agent with vantage.training.train(agent, envs, total_steps)",
    "fit": "train an agent with vantage.training.train(agent, envs, total_steps)",
    "predict": "act with agent.act(observations, deterministic=True), which returns the actions",
    "policy_kwargs": "networks are settings (net_arch, activation) or your own: network=",
    "get_env": "an agent holds no environment; pass it to train and evaluate",
    "set_env": "an agent holds no environment; pass it to train and evaluate",
    "env": "an agent holds no environment; pass it to train and evaluate",
    "num_timesteps": "train returns env_steps, and callbacks receive it",
    "replay_buffer": "the replay buffer is kept between calls of train and in a run's checkpoints",
    "save_replay_buffer": "a run's checkpoints hold the replay buffer: train(…, logdir=…)",
    "load_replay_buffer": "a run's checkpoints hold the replay buffer: train(…, resume=True)",
    "get_parameters": "the weights are agent.network.get_weights()",
    "set_parameters": "set the weights with agent.network.set_weights(…)",
}
"""Names of Stable-Baselines3's models and Keras's, and where ours is."""
FOREIGN_SETTINGS = {
    *("verbose", "tensorboard_log", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs"),
    *("stats_window_size", "env", "total_timesteps", "policy"),
}


def _built(cls: Any) -> str:
    return (
        f"Write {cls.__name__}(envs.single_observation_space, envs.single_action_space, "
        f"{cls.config_type.__name__}(…)) with envs = make_vec(…); see docs/coming-from.md."
    )


class Agent:
    """An agent that counts its steps.

    Attributes:
        updates: Updates made so far.
        drops_rest: Whether steps after the last update of a training are never learned from.
    """

    algorithm: str
    config_type: type[Any]
    drops_rest = False
    _is_cuttable = False  # whether an update has several steps, between which a signal may end it
    _done_steps = _earlier_steps = updates = 0
    _total_steps = 1
    config: Any
    own_network = own_optimizer = False
    generator: np.random.Generator
    _cuttable: Cuttable
    _step: Any  # the compiled update

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:
        """Refuses the arguments of other toolkits before a missing one is complained of."""
        if arguments and isinstance(arguments[0], str) or "policy" in keywords:
            given = arguments[0] if arguments else keywords["policy"]
            raise ValueError(
                f"{cls.__name__} must be built from an observation space and an action space. "
                f"Received: {given!r:.80}. {_built(cls)}"
            )
        ours = inspect.signature(cls.__init__).parameters
        known = {field.name for field in fields(cls.config_type)} | FOREIGN_SETTINGS
        wrong = [name for name in keywords if name in known and name not in ours]
        if wrong:
            raise TypeError(
                f"Settings of {cls.__name__} must be fields of {cls.config_type.__name__}. "
                f"Received: {', '.join(wrong)} as arguments of the agent. {_built(cls)}"
            )
        return super().__new__(cls)

    def __getattr__(self, name: str) -> Any:
        """Of names that do not exist, those of other toolkits lead to ours."""
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        if name in FOREIGN_NAMES:
            message += f": {FOREIGN_NAMES[name]}"
        raise AttributeError(message, name=name, obj=self)

    @property
    def used_settings(self) -> dict[str, Any]:
        """The settings of the config that apply to its network and optimizer."""
        return used_settings(self.config, self.own_network, self.own_optimizer)

    @property
    def parts(self) -> Mapping[str, list[keras.Variable]]:
        """All variables, under `network` and `optimizer`."""
        raise NotImplementedError

    def _may_be_cut(self) -> AbstractContextManager[None]:
        """Around an update; a single one, or one that runs beside the acting, is finished."""
        if isinstance(self._step, Overlapped) or not self._is_cuttable:
            return nullcontext()
        return self._cuttable(self._variables, self.generator)

    def _variables(self) -> list[keras.Variable]:
        return [variable for part in self.parts.values() for variable in part]

    def shortfall(self, num_envs: int, total_steps: int) -> str | None:
        """What a run of so many steps leaves without an update, in a sentence; None if little."""
        raise NotImplementedError

    def _warn_of_shortfall(self, num_envs: int, total_steps: int) -> None:
        text = self.shortfall(num_envs, total_steps)
        if text:
            warnings.warn(text, stacklevel=3)

    def check_resumable(self, state: Mapping[str, Any]) -> None:
        """Refuses a state that a run with these settings and spaces cannot go on from.

        Warns of an optimizer with other settings.

        Raises:
            ValueError: They differ.
        """
        check_settings(self, state)
        warn_of_optimizer(self, state)

    def _count_steps(self, total_steps: int, done_steps: int) -> None:
        """Counts on from what earlier trainings have done.

        Args:
            total_steps: T, of this training.
            done_steps: t; more than 0 for a resumed run, whose d is in the agent's state.
        """
        if not done_steps:
            self._earlier_steps = self._done_steps
        self._done_steps = self._earlier_steps + done_steps
        self._total_steps = self._earlier_steps + total_steps


def steps_without_update(setting: str, period: int, num_envs: int, total_steps: int) -> str | None:
    """A sentence on the steps of a run that no update learns from; None if they are few.

    Args:
        setting: The name of what decides on the period.
        period: Steps of every environment between two updates.
        num_envs: How many environments.
        total_steps: Of the run.
    """
    steps, size = math.ceil(total_steps / num_envs), period * num_envs  # steps of every environment
    left = total_steps - steps // period * size
    if steps >= period and left < max(LARGE_SHARE * total_steps, MANY_STEPS):
        return None
    environments = f"{num_envs} environment{'s' if num_envs > 1 else ''}"
    received = (
        f"Received: total_steps={total_steps:,} with {setting}={period:,} in {environments}, an "
        f"update every {size:,} steps. "
    )
    if steps < period:  # dummy steps of an autoreset fill rollouts too: at most every other one
        may = "makes" if 2 * steps < period else "may make"
        return (
            "A run must have the steps of one update for anything to be learned; this run "
            f"{may} no update. {received}Pass total_steps={size:_} or more, or lower {setting} or "
            "num_envs."
        )
    return (
        f"The steps of a run should be a multiple of those of an update; the last {left:,} steps "
        f"of this run fill no rollout and are not learned from. {received}"
        f"Pass total_steps={total_steps - left:_} or {total_steps - left + size:_}, or lower "
        f"{setting} or num_envs."
    )
