"""What a run carries from one update to the next, as nests of arrays and JSON values.

Each pair gives a state and goes on from one; what was given is checked, for it comes from a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..experience.rollout import Rollout
from ..experience.transitions import Observations, Transitions
from ..monitoring.curves import Curves

State = dict[str, Any]
_ROWS = (
    *("observations", "actions", "values", "parameters"),
    *("rewards", "terminated", "ended", "weights"),
)


def rollout_state(rollout: Rollout) -> State:
    """The steps of a rollout: not full yet, or full, if a signal cut its update."""
    rows = {name: getattr(rollout, name)[: rollout.steps].copy() for name in _ROWS}
    final = [[t, envs.copy(), observations.copy()] for t, envs, observations in rollout.final]
    return {"rows": rows, "final": final}


def restore_rollout(rollout: Rollout, state: Mapping[str, Any]) -> None:
    """Fills the beginning of a rollout of the same shapes.

    Raises:
        ValueError: The shapes differ.
    """
    saved = state["rows"]
    steps = len(saved["rewards"])
    blank = rollout.parameters[:steps]  # version 0.1.0 did not keep them: A2C does not need them
    rows = {name: np.asarray(({"parameters": blank} | saved)[name]) for name in _ROWS}
    for name, array in rows.items():
        own = getattr(rollout, name)
        if array.shape != (steps, *own.shape[1:]) or array.dtype != own.dtype or steps > len(own):
            raise ValueError(
                f"A rollout must have the shape it was saved with. Received: {name} "
                f"{array.dtype}{list(array.shape)} for {own.dtype}{list(own.shape)}. Resume with "
                "the settings and the number of environments of the run."
            )
    for name, array in rows.items():
        getattr(rollout, name)[:steps] = array
    rollout.steps = steps
    rollout.final = [(int(t), envs, observations) for t, envs, observations in state["final"]]


def transitions_state(transitions: Transitions) -> State:
    """The episodes' statistics, and where acting goes on."""
    spoilt = ~np.isfinite(transitions.returns)
    return {
        "env_steps": transitions.env_steps,
        "episodes": transitions.episodes,
        "restarts": transitions.restarts,
        "recent_returns": list(transitions.recent_returns),
        "recent_lengths": list(transitions.recent_lengths),
        "recent_truncations": list(transitions.recent_truncations),
        "recent_successes": list(transitions.recent_successes),
        "returns": np.where(spoilt, 0.0, transitions.returns),
        "spoilt": spoilt,  # by a reward that was refused
        "lengths": transitions.lengths.copy(),
        "weights": transitions.next_weights.copy(),
        "action_masks": transitions.action_masks,
        "observations": transitions.observations,
    }


def restore_statistics(transitions: Transitions, state: Mapping[str, Any]) -> None:
    """Takes over what does not depend on the running episodes.

    Raises:
        ValueError: The number of environments differs.
    """
    count = len(state["returns"])
    if count != transitions.num_envs:
        raise ValueError(
            f"A run must go on with its {count} environments. Received: {transitions.num_envs}. "
            "Pass as many as before."
        )
    transitions.env_steps, transitions.episodes = int(state["env_steps"]), int(state["episodes"])
    transitions.restarts = int(state["restarts"])
    transitions.recent_returns.extend(map(float, state["recent_returns"]))
    transitions.recent_lengths.extend(map(int, state["recent_lengths"]))
    transitions.recent_truncations.extend(map(bool, state.get("recent_truncations", ())))
    transitions.recent_successes.extend(map(float, state.get("recent_successes", ())))


def restore_episodes(transitions: Transitions, state: Mapping[str, Any]) -> Observations:
    """Goes on in the middle of the running episodes; returns the observations."""
    transitions.returns[:], transitions.lengths[:] = state["returns"], state["lengths"]
    transitions.returns[np.asarray(state["spoilt"], bool)] = np.nan
    weights = np.asarray(state["weights"], np.float32)
    if not weights.all():  # else the transitions' own array of ones, which they know by identity
        transitions.next_weights = weights
    transitions.action_masks, transitions.observations = (
        state["action_masks"],
        state["observations"],
    )
    return transitions.observations


def curves_state(curves: Curves) -> State:
    """The sums since the last point, and that point, which callbacks see with an evaluation."""
    sums = {name: list(each) for name, each in curves.sums.items()}
    values = {name: float(value) for name, value in curves.values.items()}
    return {"sums": sums, "at": curves.at, "values": values}


def restore_curves(curves: Curves, state: Mapping[str, Any]) -> None:
    """Goes on between two points."""
    curves.sums = {str(name): (float(s), int(n)) for name, (s, n) in state["sums"].items()}
    curves.at = int(state["at"])
    curves.values = {str(name): float(each) for name, each in state.get("values", {}).items()}
