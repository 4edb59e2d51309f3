"""The exact state of one environment: what it needs to continue bit for bit.

It is known for Gymnasium's classic control and for environments with methods `get_state()` and
`set_state(state)`, inside wrappers that have no state or a known one.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium import wrappers
from gymnasium.envs import classic_control

from ..common.masks import ActionMaskInfo
from ..common.storable import StateError, decoded, encoded, entries, fields, refusal, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from gymnasium.vector import VectorEnv

    from ..common.types import State

_CLASSIC: dict[type, int] = {  # number of components of a state
    classic_control.CartPoleEnv: 4,
    classic_control.AcrobotEnv: 4,
    classic_control.MountainCarEnv: 2,
    classic_control.Continuous_MountainCarEnv: 2,
    classic_control.PendulumEnv: 2,
}
_OTHERS = ("steps_beyond_terminated", "last_u")  # attributes that some of those have
_ATTRIBUTE: dict[type, str] = {  # a wrapper's state; "" if it has none
    wrappers.TimeLimit: "_elapsed_steps",
    wrappers.OrderEnforcing: "_has_reset",
    wrappers.common.PassiveEnvChecker: "",
    wrappers.ClipAction: "",
    wrappers.RescaleAction: "",
    wrappers.ClipReward: "",
    wrappers.FlattenObservation: "",
    wrappers.RescaleObservation: "",
    wrappers.DtypeObservation: "",
    ActionMaskInfo: "",
}
_CHECKED = ("checked_reset", "checked_step", "checked_data_reuse")


def is_known(env: gym.Env) -> bool:
    """Whether the state of an environment is always known, so that nothing has to be recorded."""
    return type(env.unwrapped) in _CLASSIC and _layers(env) is not None


def member_state(env: gym.Env) -> State | None:
    """Returns the state of an environment and its wrappers; None if it is not known.

    It consists of arrays and JSON values, as `encoded` makes them; one with NaN or infinity counts
    as not known.
    """
    try:
        layers, base = _layers(env), env.unwrapped
        if layers is None:
            return None
        if type(base) in _CLASSIC:
            base_state: object = _classic_state(base)
        elif _has_methods(base):
            base_state = type(base).get_state(base)
        else:
            return None
        return {
            "base": type(base).__name__,
            "state": encoded(base_state, must_be_finite=True),
            "wrappers": [[type(one).__name__, _attribute(one)] for one in layers],
            "generator": generator_state(env.unwrapped),
        }
    except (Exception, SystemExit):
        return None


def restore_member(env: gym.Env, state: object) -> None:
    """Resumes an environment from what `member_state` returned for an equal one.

    Raises:
        StateError: The state is malformed, or belongs to another environment.
        Exception: The environment's own `set_state` raised it.
    """
    saved = fields(state, "An environment's state", "base", "state", "wrappers", "generator")
    base, layers = env.unwrapped, _layers(env)
    if layers is None or saved["base"] != type(base).__name__:
        raise refusal(f"The environment must be {type(base).__name__}", saved["base"])
    attributes = _checked_attributes(layers, saved["wrappers"])
    base_state, generator = decoded(saved["state"]), checked_generator(saved["generator"])
    if type(base) in _CLASSIC:
        for name, value in _checked_classic(base, base_state).items():
            setattr(base, name, value)
    elif _has_methods(base):
        base.set_state(base_state)
    else:
        raise refusal("The environment must have get_state and set_state", type(base))
    for layer, attribute in zip(layers, attributes, strict=True):
        _restore_wrapper(layer, attribute)
    restore_generator(env.unwrapped, generator)


def restored(env: gym.Env, state: object) -> str:
    """Calls `restore_member`; returns its message if the state is malformed, otherwise ""."""
    try:
        restore_member(env, state)
    except StateError as error:
        return str(error)
    return ""


def _layers(env: gym.Env) -> list[gym.Wrapper] | None:
    """The wrappers, the outermost first; None if the state of one is not known."""
    layers = []
    while isinstance(env, gym.Wrapper):
        if type(env) not in _ATTRIBUTE:
            return None
        layers.append(env)
        env = env.env
    return layers


def _attribute(layer: gym.Wrapper) -> object:
    name = _ATTRIBUTE[type(layer)]
    return getattr(layer, name) if name else None


def _checked_attributes(layers: list[gym.Wrapper], saved: object) -> list[object]:
    """Returns the wrappers' states after checking that they fit these wrappers."""
    attributes = []
    for layer, pair in zip(layers, entries(saved, "The wrappers", len(layers)), strict=True):
        name, attribute = entries(pair, "A wrapper", 2)
        if type(name) is not str or name != type(layer).__name__:
            raise refusal(f"The wrapper must be {type(layer).__name__}", name)
        if isinstance(layer, wrappers.OrderEnforcing):
            if type(attribute) is not bool:
                raise refusal("Whether it was reset must be a bool", attribute)
        elif isinstance(layer, wrappers.TimeLimit) and attribute is not None:
            whole(attribute, "The steps of a TimeLimit")
        elif attribute is not None:
            raise refusal(f"The state of {name} must be None", attribute)
        attributes.append(attribute)
    return attributes


def _restore_wrapper(layer: gym.Wrapper, attribute: object) -> None:
    if name := _ATTRIBUTE[type(layer)]:
        setattr(layer, name, attribute)
    elif isinstance(layer, wrappers.common.PassiveEnvChecker):
        # It would compare the first step with a reset, which a new checker has not seen.
        layer.__dict__.update(dict.fromkeys(_CHECKED, True), _previous_data=None)


class _HasState(Protocol):
    """An environment that can save and restore its state."""

    def get_state(self) -> object: ...

    def set_state(self, state: object) -> object: ...


def _has_methods(base: gym.Env) -> TypeGuard[_HasState]:
    """Whether it has get_state() and set_state(state); MuJoCo's set_state takes two arguments."""
    get, put = getattr(type(base), "get_state", None), getattr(type(base), "set_state", None)
    return callable(get) and callable(put) and _takes(get, None) and _takes(put, None, None)


def _takes(method: Callable[..., object], *arguments: object) -> bool:
    try:
        inspect.signature(method).bind(*arguments)
    except (TypeError, ValueError):
        return False
    return True


def _classic_state(base: gym.Env) -> State:
    names = ("state", *_OTHERS)
    return {name: getattr(base, name) for name in names if hasattr(base, name)}


def _checked_classic(base: gym.Env, saved: object) -> State:
    """Returns the saved attributes of a classic-control environment after checking them."""
    if type(saved) is not dict or not set(saved) <= {"state", *_OTHERS}:
        raise refusal("The state of a classic-control environment must hold its attributes", saved)
    state, count = saved.get("state"), _CLASSIC[type(base)]
    if state is not None:
        is_right = isinstance(state, np.ndarray) and state.shape == (count,)
        is_right |= isinstance(state, tuple) and len(state) == count
        if not is_right or not all(map(_is_number, state)):
            raise refusal(f"The state must be {count} finite numbers", state)
    for name in _OTHERS:
        if saved.get(name) is not None and not _is_number(saved[name]):
            raise refusal(f"{name} must be a finite number or None", saved[name])
    return saved


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float | np.integer | np.floating):
        return False
    return bool(-math.inf < value < math.inf)


# ---------------------------------------------------------------- generators


def generator_state(base: gym.Env | VectorEnv) -> State | None:
    """Returns the state of an environment's `np_random`; None if it has none yet.

    Raises:
        StateError: The generator is not of the type that Gymnasium makes.
    """
    generator = base._np_random
    if generator is None:
        return None
    if type(generator) is not np.random.Generator or (
        type(generator.bit_generator) is not np.random.PCG64
    ):
        raise refusal("A generator must be PCG64", generator)
    state: Any = generator.bit_generator.state
    numbers = {**state["state"], "has_uint32": state["has_uint32"], "uinteger": state["uinteger"]}
    seed = None if base._np_random_seed is None else int(base._np_random_seed)
    return {"seed": seed, **{name: int(number) for name, number in numbers.items()}}


def checked_generator(saved: object) -> State | None:
    """Checks and returns what `generator_state` returned.

    Raises:
        StateError: The value is anything else.
    """
    if saved is None:
        return None
    bounds = {"state": 2**128, "inc": 2**128, "has_uint32": 2, "uinteger": 2**32}
    state = fields(saved, "A generator", "seed", *bounds)
    for name, high in bounds.items():
        whole(state[name], f"A generator's {name}", 0, high)
    if state["seed"] is not None:
        whole(state["seed"], "A generator's seed", -1, 2**512)
    return state


def restore_generator(base: Any, saved: State | None) -> None:
    """Puts a checked state into `np_random`, in place: others may hold a reference to it."""
    if saved is None:
        base._np_random, base._np_random_seed = None, None
        return
    generator = base._np_random
    if generator is None or type(generator.bit_generator) is not np.random.PCG64:
        generator = base._np_random = np.random.Generator(np.random.PCG64(0))
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": saved["state"], "inc": saved["inc"]},
        "has_uint32": saved["has_uint32"],
        "uinteger": saved["uinteger"],
    }
    base._np_random_seed = saved["seed"]
