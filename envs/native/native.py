"""The base class of vector environments in NumPy: everything but the physics.

The initial state of episode e of environment i is a pure function of (seed, i, e). Every
environment has its own SplitMix64 generator, and episode e uses its outputs C·e … C·e + C − 1:

    next(k, n) = finalise(k + (n + 1)·γ mod 2⁶⁴)           output n of SplitMix64 started at k
    start_c = low_c + (high_c − low_c)·u_c,   u_c = next(next(seed, i), C·e + c) / 2⁶⁴ to 53 bits

Source: Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators", with the
finaliser of Stafford's variant 13, as in Vigna's splitmix64.c.

Legend: N environments, of which M begin an episode; C components of a state.
"""

from __future__ import annotations

import copy
import secrets
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ..common.episodes import GAMMA, MIX, SHIFTS
from ..common.storable import HEAD, array, checked_exactness, fields, refusal, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gymnasium import spaces

    from ..common.types import Array, Info, Space, State


def _constant(number: int) -> Array:
    return np.array(number, np.uint64)  # 0-d: faster in NumPy than a scalar


_GAMMA, _MIX = _constant(GAMMA), tuple(map(_constant, MIX))
_SHIFTS = tuple(map(_constant, SHIFTS))
_TO_53_BITS = _constant(11)


def _next(keys: Array, n: Array) -> Array:
    """Output n of SplitMix64 started at `keys`; int64 and uint64 in, uint64 out, broadcast."""
    z: Array = keys + (n.view(np.uint64) + np.uint64(1)) * _GAMMA
    z = (z ^ (z >> _SHIFTS[0])) * _MIX[0]
    z = (z ^ (z >> _SHIFTS[1])) * _MIX[1]
    z ^= z >> _SHIFTS[2]
    return z


class Settings(TypedDict, total=False):
    """Arguments of every native environment."""

    max_episode_steps: int | None


class NativeVectorEnv(VectorEnv):
    """Counts steps, truncates, and resets in the step after an end (NEXT_STEP only).

    A subclass sets `_low` and `_high`, the bounds of initial states, and implements `_advance`, and
    `_observe` if an observation is not the state. Observations are float32, rewards float64; every
    step returns new arrays; `infos` is always empty. Box actions are clipped; discrete ones out of
    range are an error.

    Args:
        num_envs: How many copies to step together.
        observation_space: Observation space of one copy.
        action_space: Action space of one copy.
        max_episode_steps: Truncates an episode after this many steps; None takes the number that
            Gymnasium registers.
        unknown: Any other argument is an error.
    """

    fits_its_spaces = True  # results of `step` need no check
    max_episode_steps: int
    _low: tuple[float, ...]
    _high: tuple[float, ...]
    _dtype: type = np.float64

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Box,
        action_space: Space,
        max_episode_steps: int | None = None,
        **unknown: object,
    ) -> None:
        if unknown:
            raise ValueError(
                "A native environment takes the settings of its physics and max_episode_steps, "
                f"and does not render. Received: {unknown} for {type(self).__name__}. "
                "Leave them out, or use vectorization 'sync'."
            )
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.max_episode_steps = max_episode_steps or self.max_episode_steps
        low, high = np.array([self._low, self._high])[..., None]
        self._bounds = low, high - low  # [C, 1] both
        self._components = np.arange(len(low))[:, None]  # [C, 1]
        self._state: Array = np.zeros((len(low), num_envs), self._dtype)  # [C, N]
        self._rows = tuple(self._state)  # views
        self._steps = np.zeros(num_envs, np.int64)  # [N]: of the episode so far
        self._episodes = np.zeros(num_envs, np.int64)  # [N]
        self._ended = np.zeros(num_envs, bool)  # [N]: the next step begins an episode
        self._any_ended = False
        self._seed: int | None = None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, object] | None = None
    ) -> tuple[Array, Info]:
        """Begins an episode everywhere: number 0 of `seed`, or the next one without a seed."""
        if options:
            raise ValueError(
                "Native environments are reset all together, within fixed bounds. Received: "
                f"options={options!r}. Pass none, or use vectorization 'sync'."
            )
        if seed is not None or self._seed is None:
            self._sow(secrets.randbits(63) if seed is None else seed)
            self._episodes.fill(-1)
        self._begin(np.arange(self.num_envs))
        self._ended, self._any_ended = np.zeros(self.num_envs, bool), False
        return self._observe(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, Info]:
        """Steps every environment; one whose episode has ended begins the next one instead."""
        if self._seed is None:
            raise ResetNeeded("An environment must be reset before its first step. Call reset().")
        rewards, terminated = self._advance(actions)
        self._steps += 1
        truncated = self._steps >= self.max_episode_steps
        if self._any_ended:
            (begun,) = self._ended.nonzero()
            self._begin(begun)
            rewards[begun], terminated[begun], truncated[begun] = 0.0, False, False
        self._ended = terminated | truncated
        self._any_ended = bool(np.count_nonzero(self._ended))
        return self._observe(), rewards, terminated, truncated, {}

    def _advance(self, actions: Array) -> tuple[Array, Array]:
        """Advances `_state` in place; returns rewards and terminated `[N]` in new arrays."""
        raise NotImplementedError

    def _observe(self) -> Array:
        """Observations `[N, ...]` float32, a new array."""
        return self._state.T.astype(np.float32, order="C")

    def _sow(self, seed: int) -> None:
        if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
            raise ValueError(
                "The seed must be one whole number from 0 to 2**64 - 1. Received: "
                f"{seed!r}. Pass one; each environment derives its own initial states from it."
            )
        self._seed = self._np_random_seed = int(seed)  # the latter belongs to VectorEnv
        self._keys = _next(np.full(1, seed, np.uint64), np.arange(self.num_envs))  # [N]

    def _begin(self, which: Array) -> None:
        """Begins the next episode of the environments with the indices `which` `[M]`."""
        self._steps[which] = 0
        self._episodes[which] += 1
        outputs = self._episodes[which] * len(self._components) + self._components  # [C, M]
        bits = _next(self._keys[which], outputs) >> _TO_53_BITS
        low, width = self._bounds
        self._state[:, which] = low + width * (bits * 2.0**-53)

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the views of the state, which would be separate arrays in a copy."""
        return {name: value for name, value in vars(self).items() if name != "_rows"}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        """Restores the attributes and makes new views of the state."""
        self.__dict__.update(state)
        self._rows = tuple(self._state)

    def __copy__(self) -> NativeVectorEnv:
        """Copies deeply: two copies that share arrays would both step them."""
        return copy.deepcopy(self)

    @property
    def episode_position(self) -> tuple[object, ...]:
        """Changes with every step, reset and close."""
        return self.closed, self._seed, *(a.tobytes() for a in self._arrays().values())

    def seed_of(self, index: int, back: int = 0) -> int | None:
        """The seed of an environment's episode, or of an earlier one: the same for all."""
        return self._seed

    def get_state(self) -> State:
        """Returns the seed and the arrays that `set_state` needs to resume bit for bit."""
        if self._seed is None:
            raise ResetNeeded("An environment must be reset before get_state. Call reset().")
        arrays = {name: a.copy() for name, a in self._arrays().items()}
        head = {"kind": type(self).__name__, "num_envs": self.num_envs, "exactness": "state"}
        return {**head, "seed": self._seed, **arrays}

    def set_state(self, state: object) -> str:
        """Resumes from what `get_state` returned, in an environment with the same settings.

        Returns:
            An empty text: episodes always resume bit for bit.

        Raises:
            ValueError: The state is malformed, or of another kind or number of environments.
        """
        arrays = self._arrays()
        checked_exactness(self, state, ("state",))
        saved = fields(state, "A state", *HEAD, "seed", *arrays)
        seed = whole(saved["seed"], "The seed", 0, 2**64)
        copies = {k: array(saved[k], k, a.shape, a.dtype) for k, a in arrays.items()}
        if min(copies["steps"].min(), copies["episodes"].min()) < 0:
            raise refusal("Steps and episodes must be at least 0", saved["steps"])
        self._sow(seed)
        for name, present in arrays.items():
            np.copyto(present, copies[name])
        self._any_ended = bool(np.count_nonzero(self._ended))
        return ""

    def _arrays(self) -> dict[str, Array]:
        return {
            "physics": self._state,
            "steps": self._steps,
            "episodes": self._episodes,
            "ended": self._ended,
        }

    def render(self) -> None:
        """Native environments do not render."""
        raise NotImplementedError(
            "Native environments do not render. Use vectorization 'sync' with a render_mode."
        )

    def _chosen(self, table: Array, actions: Array) -> Array:
        """The entries `[N]` of a table at the discrete actions `[N]`."""
        actions = np.asarray(actions)
        if actions.dtype.kind in "iu" and actions.shape == (self.num_envs,):
            indices = actions.astype(np.intp, copy=False)
            # critical: read as unsigned, negative numbers are too large as well.
            if indices.view(np.uintp).max() < len(table):
                return table.take(indices)
        raise ValueError(
            f"Actions must be {self.num_envs} whole numbers from 0 to {len(table) - 1}. Received: "
            f"{actions!r}. Pass an integer array of shape [{self.num_envs}]."
        )

    def _continuous(self, actions: Array) -> Array:
        """Returns Box actions `[N, 1]` as `[N]` float32."""
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self.num_envs, 1):
            raise ValueError(
                f"Actions must have the shape [{self.num_envs}, 1]. Received: {actions.shape}. "
                "Pass one number for each environment."
            )
        return actions[:, 0]
