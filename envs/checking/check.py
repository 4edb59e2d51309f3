"""Checks an environment for mistakes that break training.

    play     random actions from one seed; every result is examined
    replay   the same actions from the same seed, here and in a new instance, and from another seed
    starts   resets with seeds and without

Gymnasium's own checker comes last, because it stops at its first finding.
"""

from __future__ import annotations

import contextlib
import copy
import statistics
import warnings
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from ..make import Maker, source_of
from .actions import Legal
from .findings import Findings, Report, Stop, duration_of
from .observed import contrast, is_same, leaves_of
from .remarks import check_with_gymnasium, report_warning
from .tour import Moment, Tour, reset_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..common.types import Make, Wrap
    from .observed import Parts

STARTS = 10  # resets without a seed; a warning needs all of them to be equal


EXAMINED = "reset step shape dtype finite bounds reuse reward flags info action".split()


def check_env(
    env: str | Callable[..., gym.Env] | gym.Env,
    *,
    steps: int = 1_000,
    slow_step: float = 0.001,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    wrappers: Sequence[Wrap] = (),
) -> Report:
    """Checks an environment for mistakes that break training.

    Args:
        env: A registered id, `module:EnvId-v0`, a callable or class that returns an environment,
            or an existing environment, which is played but neither copied nor closed.
        steps: Random actions to play; if the environment gives a mask, only allowed ones.
        slow_step: Seconds; a longer median time of a step is a warning.
        seed: Seed of the first reset and of the actions.
        env_kwargs: Keyword arguments of the environment.
        max_episode_steps: Truncates an episode after this many steps.
        wrappers: Applied to the environment, the first one innermost.

    Raises:
        ValueError: The id is not registered, a number is out of range, or `env` is none of these.
    """
    numbers = {"steps": (steps, 1), "seed": (seed, 0), "max_episode_steps": (max_episode_steps, 1)}
    for name, (number, least) in numbers.items():
        if number is not None and number < least:
            raise ValueError(f"{name} must be at least {least}. Received: {number}. Leave it out.")
    if not slow_step > 0:
        raise ValueError(
            f"slow_step must be a positive number of seconds. Received: {slow_step}. "
            "Leave it out for its default."
        )
    make = _maker(env, dict(env_kwargs or {}), max_episode_steps, tuple(wrappers))
    found = Findings()
    tour = Tour(found)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(Stop), contextlib.ExitStack() as opened:
            opening = None if isinstance(env, gym.Env) else opened
            _check(found, tour, lambda: _made(found, make, opening), steps, seed, slow_step)
    for warning in caught:
        report_warning(found, warning)
    return Report(
        env if isinstance(env, str) else tour.name or getattr(env, "__name__", "env"),
        found.of("error"),
        found.of("warning"),
        found.of("hint"),
        found.passed(),
        tour.spaces.get("observation"),
        tour.spaces.get("action"),
        len(tour.seconds),
        tour.terminated,
        tour.truncated,
        tour.masks,
        statistics.median(tour.seconds or [np.nan]),
        max(tour.seconds, default=np.nan),
    )


def _check(
    found: Findings,
    tour: Tour,
    made: Make,
    steps: int,
    seed: int,
    slow_step: float,
) -> None:
    """Runs all checks; `made` returns a new environment, or always the existing one."""
    env = made()
    tour.name = type(env.unwrapped).__name__
    found.examined.append("init")
    tour.look_at_spaces(env)
    tour.play(env, steps, seed)
    found.examined += [*EXAMINED, *(["mask"] if tour.masks else [])]
    _check_ends(found, tour, _time_limit(env))
    _check_magnitudes(found, tour)
    seconds = statistics.median(tour.seconds)
    if seconds > slow_step:
        rule = f"A step should take at most {duration_of(slow_step)}, or run in its own process"
        instead = "Train with --vectorization async (vectorization='async')."
        found.warn("speed", rule, f"{duration_of(seconds)} (median)", instead)
    found.examined += ["ends", "speed"]
    another = made()
    if another.unwrapped is env.unwrapped:  # an existing environment was passed
        _check_repeats(found, env, tour.moments, seed, "when reset and played again")
    else:
        found.examined.append("close")
        if _check_repeats(found, another, tour.moments, seed, "in a new instance"):
            where, level = "in the same instance, though not in a new one", "warning"
        else:
            where, level = "in the same instance", "error"
        _check_repeats(found, env, tour.moments, seed, where, level)
    found.examined += ["seeding"] if found.has("seeding") else ["seeding", "determinism"]
    _check_seeds(found, env, tour.moments, seed)
    check_with_gymnasium(found, Legal(another) if tour.masks else another)
    found.examined += ["gymnasium", "warnings"]


def _maker(
    env: str | Callable[..., object] | gym.Env,
    keywords: Mapping[str, Any],
    max_episode_steps: int | None,
    wrappers: Sequence[Wrap],
) -> Make:
    """Returns a function that makes one environment as `make_vec` does."""
    if isinstance(env, VectorEnv):
        raise ValueError(
            "env must be a single environment. Received: a VectorEnv. Pass the id, class or "
            "callable that makes its environments, or one of them (envs.envs[0])."
        )
    if isinstance(env, gym.Env):
        if keywords:
            raise ValueError(
                f"env_kwargs must be left out for an existing environment. Received: {keywords}. "
                "Pass its class instead, or pass them when you make it."
            )
        return Maker(lambda: env, {}, max_episode_steps, wrappers)
    if isinstance(env, str) and isinstance(source_of(env), EnvSpec):
        keywords = {"disable_env_checker": True, **keywords}  # it would repeat our findings
    return Maker(env, keywords, max_episode_steps, wrappers)


def _made(found: Findings, make: Make, opened: contextlib.ExitStack | None) -> gym.Env:
    """Makes an environment that `opened` closes."""
    with found.running("init", "while it was made", "Correct its __init__, or pass env_kwargs."):
        env = make()
    if opened is not None:
        opened.callback(_close, found, env)
    return env


def _close(found: Findings, env: gym.Env) -> None:
    instead = "Release only what exists, so that close may be called at any time."
    with contextlib.suppress(Stop):
        for where in ("the first time", "when it was already closed"):
            with found.running("close", where, instead):
                env.close()


def _check_ends(found: Findings, tour: Tour, limit: int | None) -> None:
    steps = f"in {len(tour.seconds):,} steps"
    known = f"a time limit of {limit:,}" if limit else "no time limit"
    if not tour.terminated and not tour.truncated and not limit:
        rule, received = "Episodes must end at some point", f"none {steps}, and {known}"
        instead = "Pass max_episode_steps, return terminated=True at the end, or play more steps."
        found.warn("ends", rule, received, instead)
    elif not tour.terminated:
        received = f"none {steps}, {tour.truncated:,} truncated, {known}"
        instead = (
            "Play more steps, or ignore this if random actions rarely reach the end, or if the "
            "task has none."
        )
        found.warn("ends", "Some episodes should terminate", received, instead)
    elif not tour.truncated and not limit:
        received = f"none {steps}, {tour.terminated:,} terminated, {known}"
        instead = "Pass max_episode_steps, unless every episode ends whatever the actions are."
        found.warn("ends", "Long episodes should be truncated", received, instead)


def _time_limit(env: gym.Env) -> int | None:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            return env._max_episode_steps  # noqa: SLF001
        env = env.env
    return None


def _check_magnitudes(found: Findings, tour: Tour) -> None:
    for path, space in leaves_of(tour.spaces["observation"]):
        if path not in tour.ranges:
            continue
        low, high = tour.ranges[path]
        received = f"from {low:.6g} to {high:.6g}"
        if space.dtype.kind in "iu":
            _check_integers(found, path, space, float(low), float(high))
        elif np.maximum(-space.low, space.high).max() > 1e6:
            rule = f"{path} should be near [-1, 1], but its space is wider than a million"
            instead = (
                "If the values are large, normalise them, or use "
                "gymnasium.wrappers.TransformObservation."
            )
            found.hint("scale", rule, received, instead)
        if path in tour.spans:
            _check_precision(found, path, *tour.spans[path])
    if tour.largest_reward > 1e3:
        received, instead = f"up to {tour.largest_reward:.4g}", "Divide them by a constant."
        found.hint("scale", "Rewards should be below a thousand", received, instead)


def _check_integers(found: Findings, path: str, space: spaces.Box, low: float, high: float) -> None:
    """Checks whether integers fill the bounds they are scaled by, or are large without bounds."""
    limits = np.iinfo(space.dtype.str)
    least, most = int(space.low.min()), int(space.high.max())
    is_open = most == limits.max or (least == limits.min and limits.min < 0)
    received = f"from {low:.6g} to {high:.6g}"
    if (is_open and space.dtype != np.uint8) or most - least >= 2**31 - 1:
        if max(-low, high) > 100:
            rule = (
                f"{path} should be near [-1, 1], but its space has no bounds to scale it by "
                "(less than 2**31 - 1 apart)"
            )
            instead = "Give the space such bounds, or train with normalize_observations."
            found.hint("scale", rule, received, instead)
        return
    if most > least and high - least < 0.05 * (most - least):
        share = (high - least) / (most - least)
        rule = (
            f"{path} should fill its space from {least} to {most}, by which the network scales it"
        )
        received += f", a share of {share:.2g} of that range"
        found.warn("scale", rule, received, "Give the space the bounds of its real values.")


def _check_precision(found: Findings, path: str, low: np.ndarray, high: np.ndarray) -> None:
    """Checks whether float32, in which networks compute, can resolve the values of an entry."""
    with np.errstate(all="ignore"):
        step = np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32))
        blurred = (high > low) & np.isfinite(step) & (step > 0.01 * (high - low))
    if not blurred.any():
        return
    index = tuple(np.argwhere(blurred)[0].tolist())
    name = f"{path}{list(index)}" if index else path
    rule = f"{name} must be close enough to 0 for float32, in which networks compute"
    received = (
        f"{low[index]:.10g} to {high[index]:.10g}, where float32 has steps of {step[index]:.3g}"
    )
    instead = (
        "Subtract a constant; or give the space float64, and train A2C or PPO with "
        "--normalize-observations (normalize_observations=True)."
    )
    found.warn("scale", rule, received, instead)


def _difference(
    found: Findings, env: gym.Env, moments: list[Moment], seed: int
) -> tuple[Moment, str] | None:
    """The first moment that differs when repeated from `seed`, and how; None if all are equal."""
    for index, moment in enumerate(moments):
        outcome: list[Any] = []
        if moment.action is None:
            observation = reset_of(found, env, None if index else seed, moment.where)[0]
        else:
            with found.running("step", f"when {moment.where} was repeated", "Reset all state."):
                observation, *outcome, _ = env.step(copy.deepcopy(moment.action))
        named = zip(("reward", "terminated", "truncated"), outcome, strict=False)
        seen = {**dict(leaves_of(observation)), **dict(named)}
        for path in {**moment.seen, **seen}:
            before, now = moment.seen.get(path), seen.get(path)
            if not is_same(before, now):
                return moment, f"{path} is {contrast(before, now)} at {moment.where}"
    return None


def _check_repeats(
    found: Findings,
    env: gym.Env,
    moments: list[Moment],
    seed: int,
    where: str,
    level: str = "error",
) -> bool:
    """Whether the same seed and actions give the same results; reports if they do not."""
    differs = _difference(found, env, moments, seed)
    if differs is None:
        return True
    moment, received = differs
    name, rule = "determinism", "The same seed and actions must give the same episodes"
    if moment is moments[0]:
        name, rule, level = "seeding", "The same seed must give the same first observation", "error"
    if env.spec is not None and env.spec.nondeterministic:  # registered as such
        level = "warning"
    instead = (
        "In reset, call super().reset(seed=seed) and reset all state; draw from self.np_random."
    )
    found.add(level, name, rule, f"{received}, seed {seed}, {where}", instead)
    return False


def _check_seeds(found: Findings, env: gym.Env, moments: list[Moment], seed: int) -> None:
    """Checks whether seeds have an effect, and whether resets without a seed differ."""

    def start(seed: int | None) -> Parts:
        return copy.deepcopy(dict(leaves_of(reset_of(found, env, seed, "a further reset")[0])))

    first, *others = (start(seed + i) for i in range(3))
    if all(_is_same_seen(first, other) for other in others):
        with contextlib.suppress(Stop):  # an action may be illegal under another seed
            if _difference(Findings(), env, moments, seed + 1) is None:
                received = f"the same {len(moments)} resets and steps from {seed} and {seed + 1}"
                instead = (
                    "Use self.np_random after super().reset(seed=seed), if episodes are random at "
                    "all."
                )
                found.warn("seeding", "Another seed should give another episode", received, instead)
        return
    unseeded = start(None)
    if all(_is_same_seen(unseeded, start(None)) for _ in range(STARTS - 1)):
        received = f"the same observation {STARTS} times"
        instead = (
            "Create the generator only `if seed is not None`, as super().reset(seed=seed) does."
        )
        found.warn("seeding", "Resets without a seed should differ", received, instead)


def _is_same_seen(a: Parts, b: Parts) -> bool:
    return a.keys() == b.keys() and all(is_same(a[path], b[path]) for path in a)
