"""From a name, a callable or a vector environment to a seeded vector environment."""

from __future__ import annotations

import difflib
import importlib
import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from .classic_control import NATIVE
from .sync import LeanSyncVectorEnv

EnvSource: TypeAlias = str | Callable[..., gym.Env] | VectorEnv
Vectorization = Literal["sync", "async", "native"]


def make_vec(
    env: EnvSource,
    num_envs: int = 8,
    *,
    seed: int | None = None,
    vectorization: Vectorization = "sync",
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    wrappers: Sequence[Callable[[gym.Env], gym.Env]] = (),
) -> VectorEnv:
    """Makes a vector environment with a known autoreset mode.

    Args:
        env: A registered id, `module:EnvId-v0` (the module is imported and registers it), a
            callable or class that returns an environment, or a ready `VectorEnv`, which is only
            seeded: its own number of environments and autoreset mode hold.
        num_envs: How many copies to step together.
        seed: Environment i starts from seed + i, ours of `NATIVE` from (seed, i, episode); None
            leaves the start to chance.
        vectorization: "sync" steps them one after another; "async" each in a worker process of
            its own, for environments whose step takes longer than a millisecond; "native" uses
            our NumPy class for the id (`NATIVE`), else the vector class registered for it.
        env_kwargs: Passed to the environment.
        max_episode_steps: Truncates episodes after so many steps.
        wrappers: Applied to each environment, the first one innermost.

    Raises:
        ValueError: The id is not registered, there is no native vector class, or a number is
            out of range.
    """
    numbers = {"num_envs": (num_envs, 1), "max_episode_steps": (max_episode_steps, 1)}
    for name, (number, least) in {**numbers, "seed": (seed, 0)}.items():
        if number is not None and number < least:
            raise ValueError(f"{name} must be at least {least}. Received: {number}.")
    if isinstance(env, VectorEnv):
        envs = env
    elif vectorization == "native":
        envs = _native(env, num_envs, dict(env_kwargs or {}), max_episode_steps, wrappers)
    else:
        make = _Maker(env, dict(env_kwargs or {}), max_episode_steps, tuple(wrappers))
        envs = _vectorized([make] * num_envs, vectorization)
    if seed is not None:
        envs.reset(seed=seed)  # a later reset without a seed goes on from here
    return envs


class _Maker:
    """Makes one environment; picklable as far as its parts are."""

    def __init__(self, env, keywords, max_episode_steps, wrappers) -> None:
        if isinstance(env, str):
            env = _spec(env)  # not the id, which a worker process may not have registered
        elif not callable(env):
            raise ValueError(
                "An environment must be a registered id, a callable that returns one, or a "
                f"VectorEnv. Received: {env!r}. Pass its class, or a function that makes one."
            )
        self._env, self._keywords = env, keywords
        self._max_episode_steps, self._wrappers = max_episode_steps, wrappers

    def __call__(self) -> gym.Env:
        if isinstance(self._env, EnvSpec):
            env = gym.make(self._env, max_episode_steps=self._max_episode_steps, **self._keywords)
        else:
            env = self._env(**self._keywords)
            if self._max_episode_steps is not None:
                env = gym.wrappers.TimeLimit(env, self._max_episode_steps)
        for wrapper in self._wrappers:
            env = wrapper(env)
        return env


def _in_worker(make: _Maker) -> gym.Env:
    if multiprocessing.current_process().daemon:  # not the one made here to read its spaces
        # critical: Ctrl-C reaches the workers as well; it is the trainer that ends the run.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return make()


def _vectorized(makers: list[_Maker], vectorization: str) -> VectorEnv:
    if vectorization == "sync":
        return LeanSyncVectorEnv(makers)
    if vectorization == "async":
        # critical: never fork, which hangs once TensorFlow is loaded.
        methods = multiprocessing.get_all_start_methods()
        context = "forkserver" if "forkserver" in methods else "spawn"
        return AsyncVectorEnv([partial(_in_worker, make) for make in makers], context=context)
    raise ValueError(
        f"vectorization must be sync, async or native. Received: {vectorization!r}. Pass one."
    )


def _native(env, num_envs, keywords, max_episode_steps, wrappers) -> VectorEnv:
    if not isinstance(env, str) or wrappers:
        raise ValueError(
            "Native vectorization takes a registered id and no wrappers. Received: "
            f"{env!r} with {len(wrappers)} wrappers. Use vectorization 'sync' or 'async'."
        )
    spec = _spec(env)
    if spec.id not in NATIVE and spec.vector_entry_point is None:
        raise ValueError(
            "Native vectorization needs a vector class, ours or registered with the environment. "
            f"Received: {env!r}, which has none. Use vectorization 'sync' or 'async'."
        )
    if max_episode_steps is not None:
        keywords["max_episode_steps"] = max_episode_steps
    if spec.id in NATIVE:
        keywords.setdefault("max_episode_steps", spec.max_episode_steps)
        return NATIVE[spec.id](num_envs, **keywords)
    return gym.make_vec(env, num_envs, vectorization_mode="vector_entry_point", **keywords)


def _spec(env_id: str) -> EnvSpec:
    """The spec of an id, importing the module before the colon.

    Raises:
        ValueError: It is not registered.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        known = difflib.get_close_matches(name, gym.registry, n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(known)}?" if known else "Check its spelling."
        raise ValueError(
            f"The environment must be a registered Gymnasium id. Received: {env_id!r} ({error}). "
            f"{hint} For your own, write module:EnvId-v0 or pass a callable."
        ) from None
