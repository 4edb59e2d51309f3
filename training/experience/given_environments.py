"""Whether the environments that `train` and `evaluate` receive can be used as they are.

They must be a vector environment with the agent's spaces. No environment may serve twice:
evaluations and videos would reset it in the middle of a rollout, which would then be wrong.
"""

from __future__ import annotations

import contextlib
import inspect
from itertools import islice
from typing import TYPE_CHECKING

import gymnasium as gym
import numpy as np
from gymnasium import spaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .protocols import Space, VectorEnvironment

MOST_HELD = 1_000
"""Items of a list in which environments are looked for: more are a data set."""
_KINDS = (gym.Env, gym.vector.VectorEnv)
MASKS = ("action_masks", "action_mask")  # methods; the first one is sb3-contrib's
_TRAINING: list[dict[int, object]] = []  # what the runs in progress step, by id


def check_vector(envs: object, name: str) -> None:
    """Refuses everything but a vector environment.

    Raises:
        ValueError: It is a single environment, an id, a function, or anything else.
    """
    needed = ("num_envs", "reset", "step", "metadata")
    if isinstance(envs, str | type | gym.Env) or not all(hasattr(envs, each) for each in needed):
        what = f"a single environment, {type(envs).__name__}"
        if not isinstance(envs, gym.Env):
            what = f"{envs!r:.80}"
        raise ValueError(
            f"{name} must be a vector environment. Received: {what}. Pass make_vec(...), which "
            "takes an id, a class or a function that makes an environment."
        )


def check_spaces(agent: object, envs: object, name: str) -> None:
    """Refuses environments of other spaces than the agent was built for, if it says which.

    Bounds of observations that are floats may differ: no agent uses them.

    Raises:
        ValueError: A space is another one.
    """
    for kind, differs in (("observation", _sees_another), ("action", _is_another)):
        own = getattr(agent, f"{kind}_space", None)
        given = getattr(envs, f"single_{kind}_space", None)
        if not isinstance(own, spaces.Space) or not isinstance(given, spaces.Space):
            continue
        if differs(own, given):
            is_batched = own == getattr(envs, f"{kind}_space", None)
            received = f"{'the batched space ' * is_batched}{_short(own)}"
            raise ValueError(
                f"The agent must have the {kind} space of {name}, its shape, dtype and bounds: "
                f"{_short(given)}. Received: an agent for {received}. Build it from the "
                "environments' single_observation_space and single_action_space."
            )


def _short(space: Space) -> str:
    text = " ".join(str(space).split())
    return text if len(text) <= 160 else f"{text[:160]}…"


def check_apart(**given: object) -> None:
    """Refuses environments that serve twice, in one vector or in several.

    Args:
        given: Vectors and single environments by the names of their arguments; None for none.

    Raises:
        ValueError: Two share an environment, or a run in progress steps one of them.
    """
    seen: dict[int, str] = {}
    steps = {key for run in _TRAINING for key in run}
    for name, envs in given.items():
        if envs is None:
            continue
        slots: dict[int, object] = {}
        shared: dict[int, object] = {}
        for member in members_of(envs):
            present = layers_of(member)
            shared |= {key: each for key, each in present.items() if key in slots}
            slots |= present
        present = layers_of(envs) | slots
        shared |= {key: each for key, each in present.items() if key in seen or key in steps}
        if shared:
            where = " and ".join(sorted({name, *(seen[key] for key in shared if key in seen)}))
            first = next(iter(shared.values()))
            raise ValueError(
                "Training, evaluation and videos need environments of their own, and every "
                "slot of a vector its own: they would reset each other in the middle of "
                "an episode. Received: the same "
                f"{type(getattr(first, 'unwrapped', first)).__name__} in {where}"
                f"{', in training' * any(key in steps for key in shared)}. "
                "Make new ones with make_vec(...); what an environment holds, such as a simulator, "
                "is made by itself."
            )
        seen |= dict.fromkeys(present, name)


def own_mask(env: object) -> object:
    """What an environment's method says may be done; None if it has none or allows everything."""
    for name in MASKS:
        if isinstance(env, gym.Env) and env.has_wrapper_attr(name):
            method = env.get_wrapper_attr(name)
            try:
                inspect.signature(method).bind()
            except (TypeError, ValueError):  # Taxi's needs a state
                continue
            return method()
    return None


def check_masks(envs: VectorEnvironment) -> None:
    """Refuses environments without masks in their infos that have a method for them.

    `make_vec` asks the method of those that it makes.

    Raises:
        ValueError: The first of them has one.
    """
    first = members_of(envs)[0]
    if isinstance(envs.single_action_space, spaces.Box) or own_mask(first) is None:
        return
    raise ValueError(
        "Environments with a method for action masks must put them into info['action_mask'], or "
        "be made by make_vec, which does. Received: "
        f"{type(getattr(first, 'unwrapped', first)).__name__} in {type(envs).__name__}. Pass "
        "make_vec(...) of its id, class or function."
    )


@contextlib.contextmanager
def in_training(envs: VectorEnvironment) -> Iterator[None]:
    """Marks environments as those that a run steps, as long as it does."""
    own = _all_in(envs)
    _TRAINING.append(own)
    try:
        yield
    finally:
        _TRAINING[:] = [other for other in _TRAINING if other is not own]


def members_of(envs: object) -> list[object]:
    """The single environments of a vector; itself where it shows none."""
    if envs is None:
        return []
    inner = getattr(envs, "unwrapped", envs)
    members = getattr(inner, "envs", None) if not isinstance(inner, gym.Env) else None
    if isinstance(members, list | tuple) and all(isinstance(each, gym.Env) for each in members):
        return list(members) or [envs]
    return [envs]


def _all_in(envs: object) -> dict[int, object]:
    """What a vector, its wrappers and its members reach, by id."""
    parts = [] if envs is None else [envs, *members_of(envs)]
    return {key: each for part in parts for key, each in layers_of(part).items()}


def layers_of(env: object) -> dict[int, object]:
    """An environment and all other environments that it reaches, by id.

    Those are what its wrappers have inside them, and what an attribute of an environment or of its
    class holds, alone or in a list, tuple or dict. Objects of other kinds, such as data sets and
    models, may be shared, and are not looked into.
    """
    waiting = [env, getattr(env, "unwrapped", env)]
    reached = {id(each): each for each in waiting}
    for each in waiting:
        for held in _held(each):
            if id(held) not in reached:
                reached[id(held)] = held
                waiting.append(held)
    return reached


def _held(env: object) -> Iterator[object]:
    """The environments among the attributes of one environment."""
    for attributes in (getattr(env, "__dict__", {}), *map(vars, type(env).__mro__)):
        for value in list(attributes.values()):
            items: Iterable[object] = (value,)
            if isinstance(value, dict | list | tuple):
                items = islice(value.values() if isinstance(value, dict) else value, MOST_HELD)
            # critical: by its type, for a proxy may compute what isinstance asks for
            yield from (each for each in items if issubclass(type(each), _KINDS))


def _sees_another(own: Space, given: Space) -> bool:
    if isinstance(own, spaces.Dict) and isinstance(given, spaces.Dict):
        if set(own.spaces) != set(given.spaces):
            return True
        return any(_sees_another(own[key], given[key]) for key in own.spaces)
    if isinstance(own, spaces.Tuple) and isinstance(given, spaces.Tuple):
        if len(own.spaces) != len(given.spaces):
            return True
        return any(map(_sees_another, own.spaces, given.spaces))
    if isinstance(own, spaces.Box) and isinstance(given, spaces.Box):
        kinds = own.dtype.kind, given.dtype.kind
        return own.shape != given.shape if kinds == ("f", "f") else _is_another(own, given)
    known = (spaces.Box, spaces.Dict, spaces.Tuple, _CHOICES)
    if not isinstance(own, known) and not isinstance(given, known):
        return False  # no agent sees them
    return _is_another(own, given)


_CHOICES = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary


def _is_another(own: Space, given: Space) -> bool:
    """Whether two spaces differ, of whatever subclasses they are."""
    for kind in (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary):
        if isinstance(own, kind) != isinstance(given, kind):
            return True
    if own.shape != given.shape:
        return True
    if isinstance(own, spaces.Box) and own.dtype.kind == "f" and given.dtype is not None:
        if given.dtype.kind != "f":
            return True
    elif own.dtype != given.dtype and isinstance(own, spaces.Box):
        return True
    if not isinstance(own, spaces.Box | _CHOICES):
        return own != given
    names = ("low", "high") if isinstance(own, spaces.Box) else ("n", "nvec", "start")
    return any(not np.array_equal(getattr(own, name, 0), getattr(given, name, 0)) for name in names)
