"""Copies the mask of legal actions from an environment's method into its info, for the agents."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from .types import Info, Row

_METHODS = ("action_masks", "action_mask")  # the first one is sb3-contrib's


class ActionMaskInfo(gym.Wrapper):
    """Puts a method's result into `info["action_mask"]` `[A]` bool, unless there is one already."""

    def __init__(self, env: gym.Env, method: Callable[[], object]) -> None:
        super().__init__(env)
        self._method = method

    def reset(self, **keywords: Any) -> tuple[Any, Info]:
        """Resets the environment."""
        observation, info = self.env.reset(**keywords)
        return observation, self._with_mask(info)

    def step(self, action: object) -> Row:
        """Steps the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, self._with_mask(info)

    def _with_mask(self, info: Info) -> Info:
        if "action_mask" in info:
            return info
        mask = self._method()
        if mask is None:  # every action is legal
            return info
        return {**info, "action_mask": np.array(mask, bool).ravel()}


def with_action_mask(env: gym.Env) -> gym.Env:
    """Wraps an environment in `ActionMaskInfo` if it or one of its wrappers has a mask method."""
    for name in _METHODS:
        if env.has_wrapper_attr(name):
            method = env.get_wrapper_attr(name)
            if callable(method) and _takes_no_arguments(method):  # Taxi's takes a state
                return ActionMaskInfo(env, method)
    return env


def _takes_no_arguments(method: Callable[..., object]) -> bool:
    try:
        inspect.signature(method).bind()
    except (TypeError, ValueError):
        return False
    return True
