"""What all agents have in common: how they count their steps, over one training or several.

d   steps of earlier calls of `train`, 0 at first           `_earlier_steps`
t   steps of this call, of T                                `begin(…, total_steps=T)`
schedules are functions of (d + t) / (d + T)
"""

from __future__ import annotations

import math
import warnings

from ..training.uncopied import Uncopied

LARGE_SHARE = 0.1
"""Of the steps of a run: so many without an update are worth a warning before it starts."""


class Agent(Uncopied):
    """An agent that counts its steps.

    Attributes:
        updates: Updates made so far.
        drops_rest: Whether steps after the last update of a training are never learned from.
    """

    drops_rest = False
    _done_steps = _earlier_steps = updates = 0
    _total_steps = 1

    def shortfall(self, num_envs: int, total_steps: int) -> str | None:
        """What a run of so many steps leaves without an update, in a sentence; None if little."""
        raise NotImplementedError

    def _warn_of_shortfall(self, num_envs: int, total_steps: int) -> None:
        text = self.shortfall(num_envs, total_steps)
        if text:
            warnings.warn(text, stacklevel=3)

    def _count_steps(self, total_steps: int, done_steps: int) -> None:
        """Counts on from what earlier trainings have done.

        Args:
            total_steps: T, of this training.
            done_steps: t; more than 0 for a resumed run, whose d is in the agent's state.
        """
        if not done_steps:
            self._earlier_steps = self._done_steps
        self._done_steps = self._earlier_steps + done_steps
        self._total_steps = self._earlier_steps + total_steps


def steps_without_update(setting: str, period: int, num_envs: int, total_steps: int) -> str | None:
    """A sentence on the steps of a run that no update learns from; None if they are few.

    Args:
        setting: The name of what decides on the period.
        period: Steps of every environment between two updates.
        num_envs: How many environments.
        total_steps: Of the run.
    """
    steps, size = math.ceil(total_steps / num_envs), period * num_envs  # steps of every environment
    left = total_steps - steps // period * size
    if left < LARGE_SHARE * total_steps:
        return None
    environments = f"{num_envs} environment{'s' if num_envs > 1 else ''}"
    received = (
        f"Received: total_steps={total_steps:,} with {setting}={period:,} in {environments}, an "
        f"update every {size:,} steps. "
    )
    if steps < period:  # dummy steps of an autoreset fill rollouts too: at most every other one
        may = "makes" if 2 * steps < period else "may make"
        return (
            "A run must have the steps of one update for anything to be learned; this run "
            f"{may} no update. {received}Pass total_steps={size:_} or more, or lower {setting} or "
            "num_envs."
        )
    return (
        f"The steps of a run should be a multiple of those of an update; the last {left:,} steps "
        f"of this run fill no rollout and are not learned from. {received}"
        f"Pass total_steps={total_steps - left:_} or {total_steps - left + size:_}, or lower "
        f"{setting} or num_envs."
    )
