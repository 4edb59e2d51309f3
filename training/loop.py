"""The training loop, and the protocol of what it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter as clock
from typing import Any, Protocol

import numpy as np

from .curves import Callback, Curves
from .progress import Progress
from .run import Run
from .transitions import Transition, Transitions


class Agent(Protocol):
    """What learns. `A2C` is one; any class with these methods can be trained."""

    def begin(self, num_envs: int, total_steps: int, done_steps: int = 0) -> None:
        """Makes ready to train: buffers, compiled functions; a resumed run has done some steps."""

    def explore(self, observations: np.ndarray) -> np.ndarray:
        """Actions `[N, ...]` to learn from; remembers what the learning needs of them."""

    def observe(self, transition: Transition) -> dict[str, float] | None:
        """Learns from what the actions led to; metrics when it made an update."""

    def save(self, path: Path, run: Mapping[str, Any] | None = None) -> None:
        """Writes itself to a directory, and what the run wants kept beside it."""

    def restore(self, path: Path) -> Mapping[str, Any]:
        """Becomes the agent saved at `path`; returns what the run kept there."""


def train(
    agent: Agent,
    envs: Any,
    total_steps: int,
    *,
    logdir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    log_every: int = 1_000,
    evaluate_every: int | None = None,
    evaluation_envs: Any = None,
    checkpoint_every: int | None = None,
    stop_at_return: float | None = None,
    config: Mapping[str, Any] | None = None,
    import_seconds: float | None = None,
) -> dict[str, Any]:
    """Trains an agent on a vector environment.

    SIGINT and SIGTERM end the run after the current update, with a checkpoint.

    Args:
        agent: What learns.
        envs: A vector environment in any autoreset mode; `vantage.envs.make_vec` makes one.
        total_steps: Environment steps to train for, over all environments; dummy steps of an
            autoreset do not count.
        logdir: The run's own folder, new or empty: `config.json`, TensorBoard event files,
            `checkpoints/` and at the end `summary.json`. Without it nothing is written.
        resume: Go on from the newest checkpoint in `logdir`; the episodes start anew.
        callbacks: Called as `callback(env_steps, metrics)` whenever metrics are logged; one that
            returns False ends the run.
        log_every: Environment steps between two points of the TensorBoard curves.
        evaluate_every: Environment steps between two evaluations, each 20 deterministic episodes
            in `evaluation_envs`; the best agent is kept in `checkpoints/best`.
        evaluation_envs: A vector environment of its own for that.
        checkpoint_every: Updates between two checkpoints; there is one at the end in any case.
        stop_at_return: End the run once the mean return of the last 100 episodes reaches it.
        config: More entries for `config.json`.
        import_seconds: What the caller's imports took, for `summary.json`.

    Returns:
        What `summary.json` holds: `env_steps`, `updates`, `episodes`, `seconds` (wall clock, the
        agent's construction and compilation included), `steps_per_second` (their quotient),
        `mean_return_100`, `solved_at_steps` and `solved_at_seconds` (None unless
        `stop_at_return` was reached), `import_seconds`, `versions`.

    Raises:
        ValueError: An argument is out of range.
        FileExistsError: `logdir` holds a run already.
    """
    periods = {"total_steps": total_steps, "log_every": log_every}
    periods |= {"evaluate_every": evaluate_every, "checkpoint_every": checkpoint_every}
    for name, period in periods.items():
        if period is not None and period < 1:
            raise ValueError(f"{name} must be at least 1. Received: {period}.")
    if evaluate_every is not None and evaluation_envs is None:
        raise ValueError(
            "evaluate_every needs environments of its own, so that training is not disturbed. "
            "Received: evaluation_envs=None. Pass evaluation_envs=make_vec(...)."
        )
    transitions = Transitions(envs)
    run = Run(agent, transitions, logdir, resume, {"total_steps": total_steps, **(config or {})})
    curves = Curves(transitions, run.writer, callbacks)
    progress = Progress(total_steps, "steps")
    due = [Every(log_every, lambda: transitions.env_steps, curves.write)]
    if progress.is_shown:
        due += [Every(log_every, lambda: transitions.env_steps, partial(show, progress, curves))]
    if evaluate_every is not None:
        play = partial(run.evaluate, evaluation_envs)
        due += [Every(evaluate_every, lambda: transitions.env_steps, play)]
    if checkpoint_every is not None:
        due += [Every(checkpoint_every, lambda: run.updates, run.save)]
    with run, progress:
        agent.begin(transitions.num_envs, total_steps, transitions.env_steps)
        observations = transitions.reset()
        while transitions.env_steps < total_steps:
            began = clock()
            actions = agent.explore(observations)
            acted = clock()
            transition = transitions.step(actions)
            stepped = clock()
            metrics = agent.observe(transition)
            observations = transition.observations
            curves.time(acted - began, stepped - acted)
            if metrics is not None:
                run.updates += 1
                curves.add(metrics)
                for task in due:
                    task.do_if_due()
                if curves.stop or run.interrupts.received is not None:
                    break
            if stop_at_return is not None and transition.ended.any():
                if transitions.has_reached(stop_at_return):
                    run.note_solved()
                    break
        curves.write()
        return run.finish(import_seconds)


class Every:
    """Does something when a counter has moved by a period since the last time."""

    def __init__(self, period: int, counter: Callable[[], int], do: Callable[[], None]) -> None:
        self._period, self._counter, self._do = period, counter, do
        self._next = counter() + period

    def do_if_due(self) -> None:
        """Asked after every update."""
        count = self._counter()
        if count >= self._next:
            self._next = count + self._period
            self._do()


def show(progress: Progress, curves: Curves) -> None:
    """Shows speed and mean return on the terminal."""
    values = curves.values
    mean = values.get("rollout/ep_rew_mean", float("nan"))
    note = f"{values['time/fps']:,.0f} steps/s  mean return {mean:.1f}"
    progress.update(curves.env_steps, note)
