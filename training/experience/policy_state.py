"""What a policy remembers of the running episodes.

A nest of tuples, named ones too, lists and dicts of arrays `[N, …]`, a row for each environment.
Nobody but the policy knows what is in it. A policy without memory has the empty one, `()`, which
costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .protocols import Actor, Observations, Transition

PolicyState: TypeAlias = Any
"""Opaque: `()`, or a nest of arrays `[N, …]`."""


def mapped(function: Callable[..., Any], *states: PolicyState) -> PolicyState:
    """A nest like the states, of what the function makes of each array and its counterparts."""
    first = states[0]
    if isinstance(first, dict):
        return {key: mapped(function, *(state[key] for state in states)) for key in first}
    if isinstance(first, tuple | list):
        parts = [mapped(function, *each) for each in zip(*states, strict=True)]
        return first._make(parts) if hasattr(first, "_make") else type(first)(parts)
    return function(*states)


def _leaves(state: PolicyState) -> list[Any]:
    found: list[Any] = []
    mapped(found.append, state)
    return found


def remembers(state: PolicyState) -> bool:
    """Whether there is a state to carry."""
    return not (isinstance(state, tuple) and not state)


def rows(state: PolicyState, where: np.ndarray) -> PolicyState:
    """The state of some environments."""
    return mapped(lambda array: array[where], state)


def joined(states: Sequence[PolicyState]) -> PolicyState:
    """The states of several batches as one."""
    return mapped(lambda *arrays: np.concatenate(arrays), *states)


def restarted(state: PolicyState, initial: PolicyState, transition: Transition) -> PolicyState:
    """The state that the next step starts from: the initial one where an episode begins.

    It begins after the end of another one, and again after the dummy step of an autoreset.
    """
    if not remembers(state):
        return state
    begins = transition.ended | (transition.weights == 0)  # [N]

    def restart(array: np.ndarray, first: np.ndarray) -> np.ndarray:
        return np.where(begins.reshape(-1, *[1] * (array.ndim - 1)), first, array)

    return mapped(restart, state, initial)


class Remembering:
    """Acts with an agent, and carries what its policy remembers from step to step.

    Args:
        agent: Anything with `act(observations, deterministic)`. It is given a state if it has
            `initial_state(N)` and remembers something.
        count: N, the environments.
    """

    def __init__(self, agent: Actor, count: int) -> None:
        self._agent = cast("Any", agent)  # has a state, takes masks, or both
        self._initial = agent.initial_state(count) if hasattr(agent, "initial_state") else ()
        sizes = {np.shape(array)[:1] for array in _leaves(self._initial)}
        if sizes - {(count,)}:
            raise ValueError(
                f"initial_state(N) must hold arrays [N, …], a row for each environment. Received: "
                f"{', '.join(map(str, sizes - {(count,)}))} rows for {count} environments."
                " Return one row each."
            )
        self._state = self._initial

    def act(
        self, observations: Observations, deterministic: bool, **masked: np.ndarray | None
    ) -> np.ndarray:
        """The actions; the state is the one after them."""
        if not remembers(self._initial):
            actions: np.ndarray = self._agent.act(observations, deterministic, **masked)
            return actions
        acted = self._agent.act(observations, deterministic, state=self._state, **masked)
        if not isinstance(acted, tuple) or len(acted) != 2:
            raise ValueError(
                "act with a state must return (actions, state). Received: "
                f"{type(acted).__name__}. Return the state after these observations as well."
            )
        actions, self._state = acted
        return actions

    def observe(self, transition: Transition) -> None:
        """Starts from the initial state where an episode begins."""
        self._state = restarted(self._state, self._initial, transition)
