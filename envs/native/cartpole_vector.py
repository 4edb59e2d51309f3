"""Gymnasium's own `CartPoleVectorEnv`, with `get_state` and `set_state`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import VectorEnv, VectorWrapper

from ..common.storable import HEAD, array, checked_exactness, fields, refusal
from ..resuming.state import checked_generator, generator_state, restore_generator

if TYPE_CHECKING:
    from ..common.types import State


class ResumableCartPole(VectorWrapper):
    """Adds `get_state` and `set_state`; other attributes are those of the wrapped environment."""

    def __getattr__(self, name: str) -> Any:
        """Reads an attribute of the wrapped environment."""
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def get_state(self) -> State:
        """Returns what `set_state` needs to resume from here: arrays and JSON values."""
        envs: Any = self.env
        return {
            "kind": type(self).__name__,
            "num_envs": self.num_envs,
            "exactness": "state",
            "physics": None if envs.state is None else envs.state.copy(),
            "steps": envs.steps.copy(),
            "ended": envs.prev_done.copy(),
            "bounds": [float(envs.low), float(envs.high)],
            "generator": generator_state(envs),
        }

    def set_state(self, state: object) -> str:
        """Resumes from what `get_state` returned, in an environment with the same settings.

        Returns:
            An empty text: episodes always resume bit for bit.

        Raises:
            ValueError: The state is malformed, or of another kind or number of environments.
        """
        checked_exactness(self, state, ("state",))
        names = ("physics", "steps", "ended", "bounds", "generator")
        saved, count, envs = fields(state, "A state", *HEAD, *names), self.num_envs, self.env
        physics, bounds = saved["physics"], saved["bounds"]
        if physics is not None:
            physics = array(physics, "physics", (4, count), np.float64)
        steps = array(saved["steps"], "steps", (count,), np.int32)
        ended = array(saved["ended"], "ended", (count,), np.bool_)
        if (
            not (type(bounds) is list or type(bounds) is tuple)
            or [type(one) for one in bounds] != [float, float]
            or not -np.inf < bounds[0] <= bounds[1] < np.inf
        ):
            raise refusal("The bounds of a reset must be two numbers in order", bounds)
        restore_generator(envs, checked_generator(saved["generator"]))
        vars(envs).update(state=physics, steps=steps, prev_done=ended)
        vars(envs).update(low=bounds[0], high=bounds[1])
        return ""


def resumable(envs: VectorEnv) -> VectorEnv:
    """Wraps Gymnasium's own CartPole in `ResumableCartPole`; returns any other unchanged."""
    return ResumableCartPole(envs) if type(envs) is CartPoleVectorEnv else envs
