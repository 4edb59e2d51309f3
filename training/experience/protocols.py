"""What training, agents and environments ask of each other. An adapter needs no more than this.

Legend: N environments, A choices in all components of an action.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

import gymnasium as gym
from gymnasium import spaces

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

Observations: TypeAlias = Any
"""A batch `[N, ...]`: an array, or nested dicts and tuples of arrays for Dict and Tuple spaces."""

Infos: TypeAlias = dict[str, Any]
"""Of N environments, joined key by key; `_key` says which of them have one."""

State: TypeAlias = dict[str, Any]
"""Nested dicts and lists of arrays and JSON values, as a checkpoint holds them."""

Metrics: TypeAlias = dict[str, Any]
"""Numbers of an update by name; under `seconds` those that its parts took."""

Env: TypeAlias = gym.Env[Any, Any]
Space: TypeAlias = spaces.Space[Any]


class Transition(NamedTuple):
    """One step of all environments."""

    observations: Observations  # [N, ...]: to act on next
    rewards: np.ndarray  # [N] float32
    terminated: np.ndarray  # [N] bool; wins where truncated is true as well
    ended: np.ndarray  # [N] bool: terminated or truncated
    weights: np.ndarray  # [N] float32: 1, and 0 for a dummy step
    final_observations: Observations | None  # [N, ...], right where ended; None: `observations` is


class VectorEnvironment(Protocol):
    """N environments that are stepped together: every `gymnasium.vector.VectorEnv` is one.

    An adapter for other environments is a class with these members. It may have those of
    `Resumable`, `Restarting` and `Seeded` as well, each by itself. Action masks are bools `[N, A]`
    in `infos["action_mask"]`, from the first reset on.
    """

    @property
    def num_envs(self) -> int:
        """N."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Holds `autoreset_mode`, a `gymnasium.vector.AutoresetMode`: see `transitions.py`."""

    @property
    def single_observation_space(self) -> Space:
        """Of one environment."""

    @property
    def single_action_space(self) -> Space:
        """Of one environment."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, Infos]:
        """Begins an episode in every environment.

        In mode DISABLED only where `options["reset_mask"]`, bools `[N]`, is true, if it is given.
        """

    def step(
        self, actions: np.ndarray
    ) -> tuple[Observations, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Steps every environment: observations, and `[N]` rewards, terminated and truncated."""


class Resumable(Protocol):
    """Environments whose running episodes a checkpoint holds; others begin new ones."""

    def get_state(self) -> State:
        """All they need to continue bit for bit.

        Its entry `exactness`, if it has one, says how exactly: "state", "replay" or "restart".
        """

    def set_state(self, state: State) -> str | None:
        """Restores a state; says why the running episodes cannot continue, if they cannot."""


class Restarting(Protocol):
    """Environments of which one that breaks is rebuilt, within a step."""

    restarted: np.ndarray | None
    """Bools `[N]`, which were rebuilt in the last step or reset; None for none."""


class Seeded(Protocol):
    """Environments that know the seed of each episode, for errors to name it."""

    def seed_of(self, index: int, episodes_ago: int = 0) -> int | None:
        """That of an environment's running episode, or of one before it."""


class Checked(Protocol):
    """Environments that have compared what they return with their spaces themselves."""

    fits_its_spaces: ClassVar[bool]


class Actor(Protocol):
    """What evaluation needs of an agent."""

    def act(self, observations: Observations, deterministic: bool = False) -> np.ndarray:
        """Actions for a batch of observations; where environments mask, also of `action_masks`."""


class Agent(Protocol):
    """What training needs of an agent: any class with these methods can be trained, as `A2C`.

    One whose updates a signal may cut (`interrupts.Cuttable`) also has `resume_update`, as A2C.
    """

    def begin(
        self, num_envs: int, total_steps: int, done_steps: int = 0, masked: bool = False
    ) -> None:
        """Prepares to train: buffers, compiled functions; a resumed run has done some steps."""

    def explore(
        self, observations: Observations, action_masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Actions `[N, ...]` to learn from; remembers what the learning needs of them."""

    def observe(self, transition: Transition) -> Metrics | None:
        """Receives what the actions led to; metrics if it made an update."""

    def settle(self) -> None:
        """Ends the training: waits for an update that still runs beside the caller."""

    def get_state(self) -> State:
        """All it needs to continue bit for bit: nested dicts and lists of arrays and JSON values.

        What belongs to the running episodes stands under `episodes`, or nowhere.
        """

    def set_state(self, state: State) -> None:
        """Restores a state: before `begin` as far as it can, and once more after it."""
