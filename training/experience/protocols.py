"""What the loop and the evaluation need of an agent."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from .transitions import Transition


class Actor(Protocol):
    """What evaluation needs of an agent."""

    def act(self, observations: Any, deterministic: bool = False) -> np.ndarray:
        """Actions for a batch of observations; where environments mask, also of `action_masks`."""


class Agent(Protocol):
    """What learns. `A2C` is one; any class with these methods can be trained.

    One whose updates a signal may cut (`interrupts.Cuttable`) also has `resume_update`, as A2C.
    """

    def begin(
        self, num_envs: int, total_steps: int, done_steps: int = 0, masked: bool = False
    ) -> None:
        """Makes ready to train: buffers, compiled functions; a resumed run has done some steps."""

    def explore(self, observations: Any, action_masks: np.ndarray | None = None) -> np.ndarray:
        """Actions `[N, ...]` to learn from; remembers what the learning needs of them."""

    def observe(self, transition: Transition) -> dict[str, Any] | None:
        """Learns from what the actions led to; metrics when it made an update."""

    def settle(self) -> None:
        """Waits for what it still does beside the caller; the end of its training."""

    def get_state(self) -> dict[str, Any]:
        """All it needs to go on bit for bit: nested dicts and lists of arrays and JSON values.

        What belongs to the running episodes stands under `episodes`, or nowhere.
        """

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state: before `begin` as far as it can, and once more after it."""
