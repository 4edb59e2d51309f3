"""What agents need of an action space: to act, to store and to score. No TensorFlow in this file.

Policy parameters y `[N, P]` come from the network. *Raw* actions are stored and scored, *executed*
actions are what the environment receives.

Legend: N environments, P policy parameters y.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

Array = np.ndarray


class ActionDistribution(Protocol):
    """A distribution over the actions of one space, given policy parameters y.

    The agents ask these questions and no others, so an action space of another kind is one more
    class. What needs TensorFlow is registered by class: the head of the default network with
    `networks.models.policy_head`, log-probabilities with `networks.distributions.distribution`.

    Attributes:
        size: P.
        raw_shape: The shape of a raw action.
        masked_shape: The same with a mask behind the indices; equal where there are no masks.
        raw_dtype: The dtype of raw actions.
        log_stds: The columns of y that hold log standard deviations; empty where none do.
        max_entropy: The entropy of the uniform policy, in nats; None where actions are continuous.
    """

    size: int
    raw_shape: tuple[int, ...]
    masked_shape: tuple[int, ...]
    raw_dtype: type[np.generic]
    log_stds: tuple[slice, ...]
    max_entropy: float | None

    def sample(
        self, parameters: Array, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """Raw actions `[N, *raw_shape]`, or `[N, *masked_shape]` with masks."""

    def mode(self, parameters: Array, masks: Array | None = None) -> Array:
        """The most likely raw actions, shaped like those of `sample`."""

    def execute(self, raw: Array) -> Array:
        """Actions of the space, `[N, *shape]`."""

    def action_arrays(self, parameters: Array, raw: Array) -> dict[str, Array]:
        """What the policy was, by name, for `inspect`: arrays with one row per raw action."""


class ReplayedDistribution(ActionDistribution, Protocol):
    """A distribution for agents with a replay buffer, whose first actions are random."""

    def uniform(
        self, count: int, generator: np.random.Generator, masks: Array | None = None
    ) -> Array:
        """Raw actions `[count, *raw_shape]`, uniformly at random."""
