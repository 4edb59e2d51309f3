"""Makes a seeded vector environment from an id, a callable or another vector environment."""

from __future__ import annotations

import copy
import difflib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv

from .common.arguments import flag, whole
from .common.masks import with_action_mask
from .native.cartpole_vector import resumable
from .native.classic_control import NATIVE
from .vector.broken import NotAnEnvironmentError
from .vector.sync import LeanSyncVectorEnv
from .vector.workers import WorkerVectorEnv

if TYPE_CHECKING:
    from types import ModuleType

    from gymnasium.envs.registration import EnvCreator

    from .common.types import Wrap

EnvSource: TypeAlias = str | Callable[..., gym.Env] | VectorEnv
"""What `make_vec` takes: an id, a class or function that makes an environment, or a `VectorEnv`."""
Vectorization = Literal["sync", "async", "native"]
"""How environments are stepped: in turn, in worker processes, or by a NumPy vector class."""


def make_vec(
    env: EnvSource,
    num_envs: int = 8,
    *,
    seed: int | None = None,
    vectorization: Vectorization = "sync",
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    wrappers: Sequence[Wrap] = (),
    timeout: float = 60.0,
    restart_broken_envs: bool = False,
) -> VectorEnv:
    """Makes a vector environment with a known autoreset mode.

    Every episode has its own seed, a function of the run's seed, the environment's index and the
    number of the episode. The vectorization and the other environments do not change it.

    Args:
        env: A registered id, `module:EnvId-v0` (the module is imported and registers it),
            `module:Name` of a class or function in it, a callable or class that returns an
            environment, or an existing `VectorEnv`, which is only seeded and keeps its number of
            environments and its autoreset mode.
        num_envs: How many copies to step together.
        seed: Seed of the run; None draws a random one.
        vectorization: "sync" steps the copies one after another; "async" steps each in its own
            worker process, which pays when a step takes more than a millisecond; "native" uses
            the NumPy class for the id (`NATIVE`) or, without one, the vector class registered
            for it.
        env_kwargs: Keyword arguments of the environment.
        max_episode_steps: Truncates an episode after this many steps.
        wrappers: Applied to each environment, the first one innermost.
        timeout: Seconds in which a worker process must make, reset, step or close its
            environment; a slower one counts as broken.
        restart_broken_envs: Rebuilds an environment that raises an exception, or whose worker
            process ends or does not answer, and begins its next episode; `infos["restarted"]`
            reports it.

    Raises:
        ValueError: The id is not registered, there is no native vector class, a number is out of
            range, or arguments exclude each other.
        BrokenEnvironmentError: An environment cannot be made or reset.
    """
    num_envs = whole("num_envs", num_envs)
    seed = None if seed is None else whole("seed", seed, least=0)
    if max_episode_steps is not None:
        max_episode_steps = whole("max_episode_steps", max_episode_steps)
    restart_broken_envs = flag("restart_broken_envs", restart_broken_envs)
    if not timeout > 0:
        raise ValueError(
            f"timeout must be more than 0 seconds. Received: {timeout}. Leave it out for 60."
        )
    settings: dict[str, Any] = {"env_kwargs": env_kwargs, "max_episode_steps": max_episode_steps}
    settings |= {"wrappers": wrappers, "restart_broken_envs": restart_broken_envs}
    if isinstance(env, VectorEnv):
        envs = _ready(env, [name for name, setting in settings.items() if setting])
    elif vectorization == "native":
        envs = _native(env, num_envs, **settings)
    else:
        make = Maker(env, dict(env_kwargs or {}), max_episode_steps, tuple(wrappers))
        envs = _vectorized([make] * num_envs, vectorization, timeout, restart_broken_envs)
    if seed is not None:
        try:
            envs.reset(seed=seed)  # a later reset without a seed continues with this run seed
        except BaseException:
            if not isinstance(env, VectorEnv):
                envs.close()
            raise
    return envs


def _ready(envs: VectorEnv, settings: list[str]) -> VectorEnv:
    needed = ("num_envs", "single_observation_space", "single_action_space", "metadata")
    missing = [name for name in needed if getattr(envs, name, None) is None]
    if missing:
        raise ValueError(
            "A VectorEnv must have the attributes of gymnasium.vector.VectorEnv. Received: "
            f"{type(envs).__module__}.{type(envs).__name__} without {', '.join(missing)}. Set "
            "them, or pass an id, class or function that makes one environment. Environments of "
            "several agents (PettingZoo, SuperSuit) are not supported."
        )
    if settings:
        raise ValueError(
            "A VectorEnv must bring its own settings. Received: "
            f"{' and '.join(settings)}. Leave them out, or pass an id, class or function that "
            "makes one environment."
        )
    return resumable(envs)


class Maker:
    """Makes one environment; it can be pickled if its parts can."""

    def __init__(
        self,
        env: str | Callable[..., object],
        keywords: Mapping[str, Any],
        max_episode_steps: int | None,
        wrappers: Sequence[Wrap],
    ) -> None:
        self._env: EnvSpec | Callable[..., object]
        if isinstance(env, str):
            # Resolved here: a worker process knows neither our registry nor the main script.
            self._env = source_of(env)
            if isinstance(self._env, EnvSpec):
                entry = self._env.entry_point
                if isinstance(entry, str) and entry.startswith("__main__:"):
                    self._env.entry_point = cast("EnvCreator", load_env_creator(entry))
        elif callable(env):
            self._env = env
        else:
            raise ValueError(
                "An environment must be a registered id, a callable that returns one, or a "
                f"VectorEnv. Received: {_described(env)}. Pass its class, or a function that "
                "makes one."
            )
        self._keywords, self._max_episode_steps = keywords, max_episode_steps
        self._wrappers = wrappers

    def __call__(self) -> gym.Env:
        """Returns a new environment in its wrappers."""
        if isinstance(self._env, EnvSpec):
            env = gym.make(self._env, max_episode_steps=self._max_episode_steps, **self._keywords)
        else:
            made = self._env(**self._keywords)
            if not isinstance(made, gym.Env):
                raise NotAnEnvironmentError(
                    "A callable must return a gymnasium.Env. Received: "
                    f"{_described(made)}. Return an instance of your environment's class."
                )
            env = made
            if self._max_episode_steps is not None:
                env = gym.wrappers.TimeLimit(env, self._max_episode_steps)
        for wrapper in self._wrappers:
            env = wrapper(env)
        return with_action_mask(env)


def _vectorized(
    makers: list[Maker], vectorization: str, timeout: float, restart_broken_envs: bool
) -> VectorEnv:
    if vectorization == "sync":
        return LeanSyncVectorEnv(makers, restart_broken_envs)
    if vectorization == "async":
        return WorkerVectorEnv(makers, timeout, restart_broken_envs)
    raise ValueError(
        f"vectorization must be sync, async or native. Received: {vectorization!r}. Pass one of "
        "the three."
    )


def _native(
    env: EnvSource,
    num_envs: int,
    env_kwargs: Mapping[str, Any] | None,
    max_episode_steps: int | None,
    wrappers: Sequence[Wrap],
    restart_broken_envs: bool,
) -> VectorEnv:
    if not isinstance(env, str) or wrappers:
        raise ValueError(
            "Native vectorization takes a registered id and no wrappers. Received: "
            f"{env!r} with {len(wrappers)} wrappers. Use vectorization 'sync' or 'async'."
        )
    if restart_broken_envs:
        raise ValueError(
            "Native vectorization has no single environments to restart. Received: "
            "restart_broken_envs=True. Use vectorization 'sync' or 'async'."
        )
    keywords = dict(env_kwargs or {})
    spec = source_of(env)
    if not isinstance(spec, EnvSpec) or not (spec.id in NATIVE or spec.vector_entry_point):
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


def _described(env: object) -> str:
    """Describes something that is not a usable environment, and names its kind if it is known."""
    name = type(env).__name__
    if hasattr(env, "possible_agents") or hasattr(env, "agent_selection"):
        return f"{name}, an environment of several agents (PettingZoo), which are not supported"
    if hasattr(env, "step_async") and hasattr(env, "num_envs"):
        return f"{name}, a vector environment of Stable-Baselines3"
    return name if isinstance(env, gym.Env | gym.vector.VectorEnv) else f"{env!r:.200} ({name})"


def source_of(env_id: str) -> EnvSpec | Callable[..., object]:
    """Returns a copy of an id's spec, or the class or function that `module:Name` names.

    Raises:
        ValueError: There is no such id, class or function.
    """
    module, _, name = env_id.rpartition(":")
    if module and name not in gym.registry:
        try:
            source: object = getattr(importlib.import_module(module), name, None)
        except ImportError as error:
            raise _no_module(env_id, module, error) from None
        if name not in gym.registry and callable(source):  # importing it may have registered it
            return source
    return copy.copy(_spec(env_id))


def _no_module(env_id: str, module: str, error: ImportError) -> ValueError:
    return ValueError(
        "The module of module:Name must be importable. Received: "
        f"{env_id!r} ({type(error).__name__}: {error}). Start from the folder that holds "
        f"{module.partition('.')[0]!r}, or install its package."
    )


NOT_REGISTERED = gym.error.NameNotFound, gym.error.NamespaceNotFound
"""Raised for an id that is not registered in any version."""


def _not_in_module(env_id: str, module: ModuleType, name: str, hint: str) -> ValueError:
    has = f"has no {name!r}"
    if hasattr(module, name):
        has = f"has a {name!r} of type {type(getattr(module, name)).__name__}"
    if near := names_near(name, module):
        hint = f"Did you mean {' or '.join(f'{module.__name__}:{each}' for each in near)}?"
    elif others := _environments_in(module):
        hint = f"It has {', '.join(f'{module.__name__}:{each}' for each in others)}."
    return ValueError(
        "module:Name must name a class or function of the module, or an id that it registers. "
        f"Received: {env_id!r}, but module {module.__name__!r} {has}. {hint}"
    )


def names_near(name: str, module: ModuleType) -> list[str]:
    """Up to three names similar to `name`: classes and functions of a module, ids it registers."""
    package = module.__name__.partition(".")[0]
    names = [
        each
        for each, value in vars(module).items()
        if callable(value) and str(getattr(value, "__module__", "")).partition(".")[0] == package
    ]
    return difflib.get_close_matches(name, [*names, *_registered(package)], n=3, cutoff=0.6)


def _environments_in(module: ModuleType) -> list[str]:
    """Up to three environments of a module: classes in it, or ids that it registers."""
    found = [
        each
        for each, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, gym.Env) and value is not gym.Env
    ]
    return [*found, *_registered(module.__name__.partition(".")[0])][:3]


def _registered(package: str) -> list[str]:
    entries = {env_id: spec.entry_point for env_id, spec in gym.registry.items()}
    homes = {
        env_id: entry if isinstance(entry, str) else getattr(entry, "__module__", "")
        for env_id, entry in entries.items()
    }
    return [env_id for env_id, home in homes.items() if re.match(rf"{package}\b", home or "")]


def _spec(env_id: str) -> EnvSpec:
    """Returns the spec of an id, after importing the module before the colon.

    Raises:
        ValueError: The id is not registered.
    """
    module, _, name = env_id.rpartition(":")
    imported = None
    try:
        if module:
            imported = importlib.import_module(module)
    except ImportError as error:
        raise _no_module(env_id, module, error) from None
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        known = difflib.get_close_matches(name, gym.registry, n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(known)}?" if known else "Check its spelling."
        if imported is not None and isinstance(error, NOT_REGISTERED):
            raise _not_in_module(env_id, imported, name, hint) from None
        raise ValueError(
            f"The environment must be a registered Gymnasium id. Received: {env_id!r} ({error}). "
            f"{hint} For your own environment, write module:EnvId-v0, or module:Class, or pass a "
            "callable."
        ) from None
