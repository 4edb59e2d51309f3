"""Checks action spaces and masks of legal actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from .findings import Findings, described
from .observed import SEEN, as_array

if TYPE_CHECKING:
    from ..common.types import Info, Row, Space

ACTED = "The action space must be Discrete, MultiDiscrete, MultiBinary or a Box of floats"


Maskable: TypeAlias = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
MASK = 'info["action_mask"], or what action_masks() returns,'


def check_action_space(found: Findings, space: Space) -> None:
    """Checks whether agents can act in a space, and how well."""
    if not isinstance(space, SEEN) or (
        isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating)
    ):
        instead = "Wrap the environment with gymnasium.wrappers.TransformAction."
        found.error("spaces", ACTED, space, instead)
    elif not isinstance(space, spaces.Box):
        return
    elif not space.is_bounded():
        rule = "A Box of actions should be bounded"
        instead = "Give it bounds: the actions of an untrained policy are mostly within [-1, 1]."
        found.warn("spaces", rule, space, instead)
    elif (space.low != -1).any() or (space.high != 1).any():
        instead = (
            "SAC and TD3 rescale actions by themselves; train A2C or PPO with --rescale-actions "
            "(rescale_actions=True)."
        )
        found.hint("scale", "The bounds of a Box of actions should be -1 and 1", space, instead)


def _sizes(space: Maskable) -> list[int]:
    """The number of choices of every component of an action."""
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    sizes = np.ravel(space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n)
    return [int(size) for size in sizes]


def _start(space: Maskable) -> int | np.integer | np.ndarray:
    return 0 if isinstance(space, spaces.MultiBinary) else space.start


def checked_mask(found: Findings, mask: object, space: Space, where: str) -> np.ndarray | None:
    """Returns a mask as a flat array of bools, or None after a finding."""
    if not isinstance(space, Maskable):
        rule, instead = "Only discrete actions are masked", "Leave the mask out."
        found.warn("mask", rule, f"one for {space}", instead)
        return None
    sizes, array = _sizes(space), as_array(mask)
    if array.shape != (sum(sizes),) or not np.isin(array, (0, 1)).all():
        rule = f"{MASK} must be a flat array of {sum(sizes)} times True or False"
        instead = "Concatenate the choices of all components."
        found.error("mask", rule, f"{described(mask)} after {where}", instead)
        return None
    array = array.astype(bool)
    if not all(part.any() for part in np.split(array, np.cumsum(sizes)[:-1])):
        rule = f"{MASK} must allow at least one action of every component"
        instead = (
            "Return terminated=True in the previous step, or allow an action that does nothing."
        )
        found.error("mask", rule, f"{array.astype(int)} after {where}", instead)
        return None
    return array


def allowed(space: Maskable, mask: np.ndarray, generator: np.random.Generator) -> Any:
    """Draws one of the actions that a mask allows, each with the same probability."""
    parts = np.split(mask, np.cumsum(_sizes(space))[:-1])
    chosen = [generator.choice(np.flatnonzero(part)) for part in parts]
    action: Any = np.reshape(chosen, space.shape or ()).astype(space.dtype)
    return (action + _start(space))[()]


class Legal(gym.Wrapper):
    """Replaces a forbidden action by an allowed one: Gymnasium's checker ignores masks."""

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        """Resets the environment."""
        observation, self._info = self.env.reset(seed=seed, options=options)
        return observation, self._info

    def step(self, action: Any) -> Row:
        """Steps the environment with an allowed action."""
        space, mask = self.action_space, self._info.get("action_mask")
        if mask is not None:
            mask = checked_mask(Findings(), mask, space, "")
        if mask is not None and isinstance(space, Maskable):
            sizes = np.array(_sizes(space))
            chosen = np.cumsum(sizes) - sizes + np.ravel(action - _start(space))
            if not mask[chosen].all():
                action = allowed(space, mask, np.random.default_rng(0))
        result = self.env.step(action)
        self._info = result[4]
        return result
