"""Why an update of an actor-critic agent was refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..training.core.overlap import Overlapped
from ..training.core.table import NonfiniteUpdate
from ..training.experience.bad_numbers import BadNumbersError, explain
from ..training.experience.rollout import Rollout


def explained(
    error: NonfiniteUpdate,
    step: Any,
    rollout: Rollout,
    acting: Callable[[np.ndarray], tuple[np.ndarray, ...]],
) -> BadNumbersError:
    """The error that names what went bad first, and where.

    Args:
        error: What the step raised.
        step: The step; one that overlaps tells of the rollout before, of which it kept less.
        rollout: What it was given.
        acting: The network's outputs on observations `[M, ...]`.
    """
    count, num_envs = rollout.rewards.shape
    overlaps = isinstance(step, Overlapped)
    observations, actions, rewards = rollout.observations, rollout.actions, rollout.rewards
    weights, after = rollout.weights, rollout.before if overlaps else rollout.after
    if overlaps:
        flat, (acted, *_, returned, weighed) = step.batch
        observations, actions, rewards, before = (
            array.reshape(count, num_envs, *array.shape[1:])
            for array in (flat, acted, returned, weighed)
        )
        weights = np.concatenate([before, weights])
    observations = np.concatenate([observations, after[None]])
    with np.errstate(all="ignore"):
        outputs, values = acting(observations.reshape(-1, *observations.shape[2:]))
    seen = {
        "observation": observations,
        "policy output": outputs.reshape(count + 1, num_envs, -1),
        "value": values.reshape(count + 1, num_envs),
        "action": actions,
        "return" if overlaps else "reward": rewards,
    }
    return explain(error.received, seen, actions, weights, error.made)
