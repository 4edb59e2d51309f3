"""Evaluations in the course of a run."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from ..experience.bad_numbers import leaving_out
from ..experience.evaluation import play
from ..monitoring.listeners import Every

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..experience.protocols import Actor
    from ..monitoring.curves import Curves
    from .checkpointer import Checkpointer
    from .options import TrainOptions
    from .record import Record

EPISODES = 20
"""Of one evaluation."""


class Evaluator:
    """Evaluates the agent every so many steps and at the end; the best agent so far is saved.

    An evaluation that meets NaN or infinity is skipped, with a warning.
    """

    def __init__(
        self,
        agent: Actor,
        options: TrainOptions,
        curves: Curves,
        record: Record,
        checkpointer: Checkpointer,
        stopping: Callable[[], bool],
    ) -> None:
        """Plans the evaluations.

        Args:
            agent: Who is evaluated, deterministically.
            options: When and in which environments.
            curves: Where the results go.
            record: Holds the best mean so far.
            checkpointer: Saves the best agent.
            stopping: Whether the run has been asked to stop: an endless episode is then cut.
        """
        self._agent, self._envs, self._curves = agent, options.evaluation_envs, curves
        self._record, self._checkpointer, self._stopping = record, checkpointer, stopping
        self._every = Every(options.evaluate_every)

    def begin(self, env_steps: int, *, resumed: bool) -> None:
        """Counts from the last update on."""
        self._every.counted = env_steps

    def updated(self, env_steps: int) -> None:
        """Evaluates if it is due."""
        if self._every.is_due(env_steps):
            self._evaluate(env_steps)

    def end(self, env_steps: int) -> None:
        """Evaluates if it is due, unless the run has been asked to stop."""
        if not self._stopping():
            self.updated(env_steps)

    def _evaluate(self, env_steps: int) -> None:
        result, envs = None, self._envs
        assert envs is not None  # `TrainOptions` refuses evaluations without them
        with leaving_out("evaluation", env_steps):
            result = play(self._agent, envs, EPISODES, True, 0, self._stopping)
        if result is None:
            return
        values = {"eval/mean_reward": result.mean, "eval/mean_ep_length": result.mean_length}
        values |= zip(("eval/ci95_low", "eval/ci95_high"), result.ci95, strict=True)
        self._curves.evaluated(values)
        best = self._record.best
        if isfinite(result.mean) and (best is None or result.mean > best):
            self._record.best = result.mean
            self._checkpointer.save_best()
