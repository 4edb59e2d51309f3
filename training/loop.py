"""The training loop."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter as clock
from typing import Any

from .curves import Curves
from .progress import Progress
from .protocols import Agent
from .run import Run, check_evaluation, check_periods
from .transitions import Transitions
from .writer import Callback


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
    check_periods(total_steps, log_every, evaluate_every, checkpoint_every)
    check_evaluation(evaluate_every, evaluation_envs)
    transitions = Transitions(envs)
    run = Run(agent, transitions, logdir, resume, {"total_steps": total_steps, **(config or {})})
    curves = Curves(transitions, run.writer, callbacks)
    progress = Progress(total_steps, "steps")

    steps = partial(getattr, transitions, "env_steps")
    due = [every(log_every, steps, curves.write)]
    if progress.is_shown:
        due += [every(log_every, steps, lambda: progress.show(steps(), curves.values))]
    if evaluate_every is not None:
        due += [every(evaluate_every, steps, lambda: run.evaluate(evaluation_envs))]
    if checkpoint_every is not None:
        due += [every(checkpoint_every, lambda: run.updates, run.save)]
    with run, progress:
        observations = transitions.reset()
        masked = transitions.action_masks is not None
        agent.begin(transitions.num_envs, total_steps, transitions.env_steps, masked)
        while transitions.env_steps < total_steps:
            began = clock()
            actions = agent.explore(observations, transitions.action_masks)
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
                    task()
                if curves.stop or run.interrupts.received is not None:
                    break
            if stop_at_return is not None and transition.ended.any():
                if transitions.has_reached(stop_at_return):
                    run.note_solved()
                    break
        curves.write()
        return run.finish(import_seconds)


def every(period: int, counter: Callable[[], int], do: Callable[[], None]) -> Callable[[], None]:
    """A function that does something when a counter has moved by a period since the last time."""
    due_at = counter() + period

    def do_if_due() -> None:
        nonlocal due_at
        if counter() >= due_at:
            due_at = counter() + period
            do()

    return do_if_due
