"""The training loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter as clock
from typing import Any

from ..common.descriptions import describes
from ..experience.bad_numbers import Policy
from ..experience.given_environments import check_apart, check_spaces, check_vector, in_training
from ..experience.protocols import Agent, Env, VectorEnvironment
from ..experience.transitions import Transitions
from ..monitoring.callbacks import Callback
from .given_agents import check_agent
from .options import TrainOptions
from .run import Run


@describes(TrainOptions)
def train(  # noqa: D417, PLR0913  `describes` adds the options' descriptions; each is a keyword
    agent: Agent,
    envs: VectorEnvironment,
    total_steps: int,
    *,
    logdir: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    log_every: int | None = None,
    evaluate_every: int | None = None,
    evaluation_envs: VectorEnvironment | None = None,
    checkpoint_every: int | str | None = "30s",
    histograms_every: int | None = None,
    video_every: int | None = None,
    video_env: Env | None = None,
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

    The arguments from `total_steps` on are the fields of `TrainOptions`, which describes them.

    SIGINT, SIGTERM and SIGHUP end the run after the current update, with a checkpoint.

    A second call on the same agent trains it further: with its weights, optimizer, normaliser,
    replay buffer and priorities. New episodes begin; steps, curves and the summary count from 0.
    Schedules count the steps d of the earlier calls as well: the share (d + t) / (d + total_steps)
    of them is over after t steps, as with `reset_num_timesteps=False` in Stable-Baselines3. A
    buffer of another number of environments starts empty, with a warning.

    Args:
        agent: The agent to train.
        envs: A vector environment in any autoreset mode; `vantage.envs.make_vec` makes one.

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
        FloatingPointError: A number is NaN or infinite; the update before it is saved.
        OSError: The disk failed for too long; what was written before is still there.
    """
    check_agent(agent)
    check_vector(envs, "envs")
    options = TrainOptions(
        total_steps,
        logdir=logdir,
        resume=resume,
        callbacks=callbacks,
        log_every=log_every,
        evaluate_every=evaluate_every,
        evaluation_envs=evaluation_envs,
        checkpoint_every=checkpoint_every,
        histograms_every=histograms_every,
        video_every=video_every,
        video_env=video_env,
        keep_checkpoints=keep_checkpoints,
        stop_at_return=stop_at_return,
        on_bad_numbers=on_bad_numbers,
        bad_numbers_limit=bad_numbers_limit,
        config=config,
        import_seconds=import_seconds,
        verbose=verbose,
        progress=progress,
    )
    check_spaces(agent, envs, "envs")
    check_spaces(agent, evaluation_envs, "evaluation_envs")
    check_apart(envs=envs, evaluation_envs=evaluation_envs, video_env=video_env)
    transitions, threshold = Transitions(envs), options.stop_at_return
    run = Run(agent, transitions, options)
    with in_training(envs), run:
        observations = run.start()
        solved = threshold is not None and transitions.has_reached(threshold)
        while transitions.env_steps < options.total_steps and not (solved or run.stops):
            began = clock()
            actions = agent.explore(observations, transitions.action_masks)
            acted = clock()
            transition = transitions.step(actions)
            run.curves.time(acted - began, clock() - acted)
            run.interrupts.renew()
            metrics = run.learn(agent.observe, transition)
            observations = transition.observations
            if metrics is not None:
                run.updated(metrics)
            if threshold is not None and transition.ended.any():
                solved = transitions.has_reached(threshold)
        if solved:
            run.record.note_solved(transitions.env_steps)
        return run.finish()
