"""The training loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter as clock
from typing import Any

from ..common.plain import flag, flag_or_none, number_or_none, plain, whole, whole_or_none
from ..experience.bad_numbers import Policy
from ..experience.given_environments import check_apart, check_spaces, check_vector, in_training
from ..experience.protocols import Agent
from ..experience.transitions import Transitions
from ..monitoring.callbacks import Callback, as_callbacks
from ..monitoring.curves import Curves
from .run import Run
from .settings import check


def train(
    agent: Agent,
    envs: Any,
    total_steps: int,
    *,
    logdir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    log_every: int | None = None,
    evaluate_every: int | None = None,
    evaluation_envs: Any = None,
    checkpoint_every: int | str | None = "30s",
    histograms_every: int | None = None,
    video_every: int | None = None,
    video_env: Any = None,
    keep_checkpoints: int = 2,
    stop_at_return: float | None = None,
    on_bad_numbers: Policy = "raise",
    bad_numbers_limit: int = 10,
    config: Mapping[str, Any] | None = None,
    import_seconds: float | None = None,
    verbose: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Trains an agent on a vector environment.

    SIGINT, SIGTERM and SIGHUP end the run after the current update, with a checkpoint.

    A second call on the same agent trains it further: with its weights, optimizer, normaliser,
    replay buffer and priorities. Episodes start anew; steps, curves and the summary count from 0.
    Schedules count the steps d of the earlier calls as well: the share (d + t) / (d + total_steps)
    of them is over after t steps, as with `reset_num_timesteps=False` in Stable-Baselines3. A
    buffer of another number of environments starts empty, with a warning.

    Args:
        agent: What learns.
        envs: A vector environment in any autoreset mode; `vantage.envs.make_vec` makes one.
        total_steps: Environment steps to train for, over all N environments; dummy steps of an
            autoreset do not count. The run ends with the step of all environments that reaches
            them, and so makes up to N − 1 more.
        logdir: The run's own folder, new or empty: `config.json`, TensorBoard event files,
            `checkpoints/` and at the end `summary.json`. Without it nothing is written.
        resume: Go on from the newest checkpoint in `logdir` that is whole, as a run that was never
            stopped would have: to the same bits where the environments can be resumed exactly.
        callbacks: Called as `callback(env_steps, metrics)` at every point of the curves and after
            every evaluation; one that returns False ends the run. `metrics` is the last point by
            TensorBoard tag. Right after an evaluation, and only then, it also holds
            `eval/mean_reward`, `eval/mean_ep_length`, `eval/ci95_low` and `eval/ci95_high`. A
            callback with a method `begin` receives the run's `Writer` by it, for points, images
            and texts of your own.
        log_every: Environment steps between two points of the TensorBoard curves (default: 1,000,
            or a 500th of the run if that is more).
        evaluate_every: Environment steps between two evaluations, each 20 deterministic episodes
            in `evaluation_envs`; the best agent is kept in `checkpoints/best`.
        evaluation_envs: A vector environment of its own for that.
        checkpoint_every: Updates between two checkpoints, or seconds as "30s", "10m" or "1h"; there
            is one at the end in any case.
        histograms_every: Environment steps between two looks inside the agent: how samples, weights
            and gradients are distributed (default: a 25th of the run). 0 for none.
        video_every: Environment steps between two videos of a deterministic episode, which go to
            TensorBoard and `logdir/videos`; needs the extra `video`.
        video_env: A single environment with render_mode="rgb_array" for that.
        keep_checkpoints: How many of the newest are kept, at least 2.
        stop_at_return: End the run once the mean return of the last 100 episodes reaches it.
        on_bad_numbers: What to do about an update that is refused because a number is NaN or
            infinite: "raise" an error, "skip" it in silence, or "warn" of each.
        bad_numbers_limit: How many are skipped before the next one is an error all the same.
        config: More entries for `config.json`.
        import_seconds: What the caller's imports took, for `summary.json`.
        verbose: Whether lines are printed about what a run is resumed from, what its diagnosis
            finds, and what no update learned from.
        progress: By default a bar on a terminal, and nothing elsewhere. True prints about 20 lines
            with speed and mean return where there is no terminal, as in a notebook or a log file;
            False shows nothing.

    Returns:
        What `summary.json` holds: `env_steps`, `updates`, `bad_updates`, `episodes`, `seconds`
        (wall clock, the agent's construction and compilation included), `steps_per_second`,
        `mean_return_100`, `solved_at_steps` and `solved_at_seconds` (None unless
        `stop_at_return` was reached), `import_seconds`, `weights_sha256`, `exactness` (how running
        episodes are resumed, or were, at worst: "state", "replay" or "restart"), `resumed_from`
        (environment steps, or None), `versions`.

    Raises:
        ValueError: An argument is out of range.
        FileExistsError: `logdir` holds a run already.
        FloatingPointError: A number went bad; the last update but that one is kept.
        OSError: The disk failed for too long; what it took before is kept.
    """
    total_steps = whole("total_steps", total_steps, 1)
    log_every = whole_or_none("log_every", log_every, 1)
    evaluate_every = whole_or_none("evaluate_every", evaluate_every, 1)
    histograms_every = whole_or_none("histograms_every", histograms_every, 0)
    video_every = whole_or_none("video_every", video_every, 1)
    keep_checkpoints = whole("keep_checkpoints", keep_checkpoints, 2)
    bad_numbers_limit = whole("bad_numbers_limit", bad_numbers_limit, 0)
    stop_at_return = number_or_none("stop_at_return", stop_at_return)
    resume, verbose = flag("resume", resume), flag("verbose", verbose)
    progress = flag_or_none("progress", progress)
    config = plain(config or {})
    check_vector(envs, "envs")
    if evaluation_envs is not None:
        check_vector(evaluation_envs, "evaluation_envs")
    for name, given in {"envs": envs, "evaluation_envs": evaluation_envs}.items():
        check_spaces(agent, given, name)
    evaluating = evaluate_every, evaluation_envs, checkpoint_every
    check(*evaluating, video_every, video_env, on_bad_numbers)
    callbacks = as_callbacks(callbacks)
    check_apart(envs=envs, evaluation_envs=evaluation_envs, video_env=video_env)
    transitions = Transitions(envs)
    run = Run(
        agent,
        transitions,
        total_steps,
        logdir,
        config,
        resume=resume,
        keep_checkpoints=keep_checkpoints,
        on_bad_numbers=on_bad_numbers,
        bad_numbers_limit=bad_numbers_limit,
        verbose=verbose,
        progress=progress,
    )
    with in_training(envs), run:
        curves = Curves(transitions, run.writer, callbacks)
        run.tasks(curves, log_every, *evaluating, histograms_every, video_every, video_env)
        observations = run.start()
        solved = stop_at_return is not None and transitions.has_reached(stop_at_return)
        while transitions.env_steps < total_steps and not (solved or run.stops):
            began = clock()
            actions = agent.explore(observations, transitions.action_masks)
            acted = clock()
            transition = transitions.step(actions)
            curves.time(acted - began, clock() - acted)
            run.interrupts.renew()
            metrics = run.learn(agent.observe, transition)
            observations = transition.observations
            if metrics is not None:
                run.report(metrics)
            if stop_at_return is not None and transition.ended.any():
                solved = transitions.has_reached(stop_at_return)
        if solved:
            run.note_solved()
        return run.finish(import_seconds)
