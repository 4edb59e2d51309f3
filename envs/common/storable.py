"""Encodes values as arrays and JSON, which are safe to read from a file that is not trusted.

    encoded                         Python
    None, bool, int, float, str     the same; a float is finite
    an array                        an array of bools or numbers, at most 8 bytes each
    {"scalar": array [1]}           a NumPy scalar, or a float that is not finite (as float64)
    {"tuple": […]}, a list          a tuple, a list
    {"dict": {…}}                   a dict whose keys are strings

Decoding restores the exact types, although JSON has neither tuples nor NumPy scalars: the last bits
of later results depend on them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gymnasium.vector import VectorEnv
    from numpy.typing import DTypeLike

    from .types import State

HEAD = ("kind", "num_envs", "exactness")  # in every state of a vector environment
LEVELS = ("state", "replay", "restart")  # of exactness

_DEPTH = 32  # most levels of nested containers


class StateError(ValueError):
    """A state is malformed, or belongs to something else."""


def refusal(rule: str, received: object) -> StateError:
    """Builds the error for a state that breaks a rule."""
    return StateError(
        f"{rule}. Received: {_described(received)}. Pass what get_state returned for the same "
        "environments, made with the same arguments."
    )


def _described(value: object) -> str:
    """Describes a value of any size in a few words."""
    if type(value) is str:
        return repr(value[:80])
    if (type(value) is int and value.bit_length() <= 128) or isinstance(value, float | bool | None):
        return repr(value)
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} with the shape {value.shape}"
    size = f" with {len(value)} entries" if isinstance(value, dict | list | tuple) else ""
    return f"{type(value).__name__}{size}"


def encoded(value: object, *, must_be_finite: bool = False, depth: int = 0) -> object:
    """Copies a value as arrays and JSON values from which `decoded` restores all types.

    Raises:
        StateError: The value holds anything else, or NaN or infinity if it `must_be_finite`.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is float or isinstance(value, np.generic):
        return {"scalar": encoded(np.array([value]), must_be_finite=must_be_finite)}
    if type(value) is np.ndarray and is_plain(value.dtype):
        if must_be_finite and not np.isfinite(value).all():
            raise refusal("A state must be finite", value)
        return np.array(value, order="C")
    if not isinstance(value, dict | list | tuple) or depth == _DEPTH:
        raise refusal("A state must consist of arrays of numbers and JSON values", value)

    def inner(one: object) -> object:
        return encoded(one, must_be_finite=must_be_finite, depth=depth + 1)

    if isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise refusal("The keys of a state must be strings", value)
        return {"dict": {key: inner(one) for key, one in value.items()}}
    return {"tuple": list(map(inner, value))} if isinstance(value, tuple) else [*map(inner, value)]


def is_plain(dtype: np.dtype) -> bool:
    """Whether every file format for arrays supports a type."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.isnative


def decoded(value: object, depth: int = 0) -> object:
    """Restores a value from what `encoded` returned; arrays are copied.

    Raises:
        StateError: The value is not an encoded one.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is np.ndarray and is_plain(value.dtype):
        return value.copy()
    if depth == _DEPTH:
        raise refusal(f"A state must not be nested more than {_DEPTH} deep", value)
    if type(value) is list:
        return [decoded(one, depth + 1) for one in value]
    kind, inner = next(iter(value.items())) if type(value) is dict and len(value) == 1 else ("", 0)
    if kind == "scalar" and isinstance(inner, np.ndarray) and inner.shape == (1,):
        array: Any = decoded(inner)
        return array[0]
    if kind == "tuple" and isinstance(inner, list | tuple):
        return tuple(decoded(one, depth + 1) for one in inner)
    if kind == "dict" and isinstance(inner, dict) and all(type(key) is str for key in inner):
        return {key: decoded(one, depth + 1) for key, one in inner.items()}
    raise refusal("A state must consist of arrays of numbers and JSON values", value)


def is_same(value: object, saved: object) -> bool:
    """Whether an encoded value equals another value bit for bit; NaN equals NaN."""
    if isinstance(value, np.ndarray):
        if type(saved) is not np.ndarray or saved.dtype != value.dtype:
            return False
        return saved.shape == value.shape and _bits(saved) == _bits(value)
    if isinstance(value, dict):
        if type(saved) is not dict or set(saved) != set(value):  # in any order
            return False
        return all(is_same(value[key], saved[key]) for key in value)
    if isinstance(value, list):
        if not (type(saved) is list or type(saved) is tuple) or len(saved) != len(value):
            return False
        return all(map(is_same, value, saved))
    return type(saved) is type(value) and saved == value


def _bits(array: np.ndarray) -> bytes:
    is_float = array.dtype.kind == "f"  # NaN has many bit patterns
    return (np.where(np.isnan(array), np.nan, array) if is_float else array).tobytes()


def whole(value: object, name: str, low: int = 0, high: int = 2**63) -> int:
    """Returns a whole number from `low` to `high` - 1.

    Raises:
        StateError: The value is anything else.
    """
    if type(value) is not int or not low <= value < high:
        raise refusal(f"{name} must be a whole number from {low} to {high - 1}", value)
    return value


def entries(value: object, name: str, count: int) -> list[object]:
    """Returns `count` entries as a list; a file may have turned a tuple into a list.

    Raises:
        StateError: The value is anything else.
    """
    if not (type(value) is list or type(value) is tuple) or len(value) != count:
        raise refusal(f"{name} must have {count} entries", value)
    return list(value)


def fields(value: object, name: str, *keys: str) -> State:
    """Returns a dict with exactly these keys.

    Raises:
        StateError: The value is anything else.
    """
    if type(value) is not dict or set(value) != set(keys):
        raise refusal(f"{name} must have the entries {', '.join(sorted(keys))}", value)
    return value


def array(value: object, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Returns a copy of an array of this shape and type.

    Raises:
        StateError: The value is anything else.
    """
    if type(value) is not np.ndarray or value.shape != shape or value.dtype != dtype:
        raise refusal(f"{name} must be an array of {np.dtype(dtype)} with the shape {shape}", value)
    return value.copy()


def checked_exactness(envs: VectorEnv, state: object, among: Sequence[str] = LEVELS) -> str:
    """Returns the exactness of a state of these environments.

    Raises:
        StateError: The state belongs to other environments.
    """
    if type(state) is not dict or not set(HEAD) <= set(state):
        raise refusal(f"A state must have the entries {', '.join(HEAD)}", state)
    kind = type(envs).__name__
    if type(state["kind"]) is not str or state["kind"] != kind:
        raise refusal(f"A state must come from {kind}", state["kind"])
    if type(state["num_envs"]) is not int or state["num_envs"] != envs.num_envs:
        raise refusal(f"A state must come from {envs.num_envs} environments", state["num_envs"])
    exactness = state["exactness"]
    if type(exactness) is not str or exactness not in among:
        raise refusal(f"The exactness must be one of {', '.join(among)}", exactness)
    return exactness
