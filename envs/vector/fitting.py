"""Checks that an environment's results fit its observation space and Gymnasium's interface.

Nothing is cast or broadcast if that would change its meaning. A result of exactly the declared
types passes after a few comparisons; anything else is examined in full:

    Box of floats       numbers of the space's shape
    Box of integers     whole numbers of the space's shape that its type can hold
    Discrete            one whole number of the space; MultiDiscrete, MultiBinary: an array of them
    Dict, Tuple         every entry; a Dict may have more entries, which are ignored
    reward              one number that a float holds
    terminated          True or False, or 0 or 1; the same for truncated
    info                a dict

Other spaces (Text, Graph, …) are not for networks, and are not checked.
"""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np
from gymnasium import spaces

if TYPE_CHECKING:
    from ..common.types import Row, Space

Check: TypeAlias = Callable[[object], object]
"""Takes a value and returns the one to store, nearly always the same."""

# critical: values of these types, and arrays of the Box's type, are not examined further.
FLOATS = (float, np.float64, np.float32, int)
BOOLS = (bool, np.bool_)
LARGEST = int(np.finfo(np.float64).max)
"""The largest whole number that a float holds."""


class MisfitError(ValueError):
    """An environment returned something that does not fit its space or the interface."""


class Fit:
    """Checks resets and steps against an observation space.

    Attributes:
        observation: Checks an observation and returns the one to store.
        dtype: Type of a single Box: arrays of this type and shape fit; None for other spaces.
        shape: Shape of a single Box; None for other spaces.
    """

    def __init__(self, space: Space) -> None:
        self.observation: Check = _check_of(space, "") or (lambda value: value)
        is_box = type(space) is spaces.Box
        self.dtype: np.dtype | None = space.dtype if is_box else None
        self.shape: tuple[int, ...] | None = space.shape if is_box else None

    def step(self, result: object) -> Row:
        """Checks what `step` returned.

        Raises:
            MisfitError: The result does not fit.
        """
        if type(result) is not tuple or len(result) != 5:
            result = _five(result)
        observation, reward, terminated, truncated, info = result
        observation = self.observation(observation)
        if type(reward) not in FLOATS or (type(reward) is int and abs(reward) > LARGEST):
            reward = _reward(reward)
        if type(terminated) not in BOOLS:
            terminated = _flag("terminated", terminated)
        if type(truncated) not in BOOLS:
            truncated = _flag("truncated", truncated)
        if type(info) is not dict:
            _check_info(info)
        return observation, reward, terminated, truncated, info

    def reset(self, result: object) -> Row:
        """Checks what `reset` returned; the result is a row with reward 0 and both flags False.

        Raises:
            MisfitError: The result does not fit.
        """
        if not isinstance(result, tuple) or len(result) != 2:
            raise MisfitError(f"{described(result)} instead of a tuple (observation, info)")
        observation, info = result
        _check_info(info)
        return self.observation(observation), 0.0, False, False, info


def described(value: object) -> str:
    """Describes any value in a few words."""
    if isinstance(value, np.ma.MaskedArray):
        return f"an array with a mask, {value.dtype} of shape {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {reprlib.repr(list(value))}"
    if value is None:
        return "None"
    try:
        text = " ".join(reprlib.repr(value).split())
    except Exception:  # the value's own `__repr__` fails
        return f"a {type(value).__name__}"
    return f"{text:.60} ({type(value).__name__})"


def _five(result: object) -> tuple[Any, ...]:
    if isinstance(result, tuple) and len(result) == 5:  # a named tuple
        return result
    advice = ""
    if isinstance(result, tuple) and len(result) == 4:
        advice = "; done of the old interface is now terminated, or truncated at a time limit"
    raise MisfitError(
        f"{described(result)} instead of a tuple (observation, reward, terminated, truncated, "
        f"info){advice}"
    )


def _reward(value: Any) -> float:
    array = _as_array(value)
    is_number = isinstance(value, numbers.Number) and not isinstance(value, complex)  # a Decimal
    if array is not None and array.shape == () and (array.dtype.kind in "biuf" or is_number):
        try:
            return float(array) if array.dtype.kind != "O" else float(value)
        except OverflowError:
            raise MisfitError(
                f"{described(value)} as its reward, which must be a number that a float holds"
            ) from None
        except (TypeError, ValueError):
            pass
    raise MisfitError(f"{described(value)} as its reward, which must be one number")


def _flag(name: str, value: object) -> bool:
    array = _as_array(value)
    if array is not None and array.shape == () and array.dtype.kind in "biu" and array in (0, 1):
        return bool(array)
    raise MisfitError(f"{described(value)} as {name}, which must be True or False")


def _check_info(info: object) -> None:
    if not isinstance(info, Mapping):
        raise MisfitError(f"{described(info)} as its info, which must be a dict")


def _as_array(value: object) -> np.ndarray | None:
    """Returns a value as an array; None if the array would lose something, such as a mask."""
    if isinstance(value, np.ma.MaskedArray):
        return None
    try:
        return np.asarray(value)
    except Exception:  # ragged lists, tensors on another device
        return None


def _misfit(path: str, received: str, rule: str) -> NoReturn:
    entry = f"entry {path!r} is " if path else ""
    raise MisfitError(f"an observation that does not fit its space: {entry}{received}, not {rule}")


def _check_of(space: Space, path: str) -> Check | None:
    """The check of a space; None if the space is not checked."""
    if isinstance(space, spaces.Dict):
        return _dict_check(space, path)
    if isinstance(space, spaces.Tuple):
        return _tuple_check(space, path)
    if isinstance(space, spaces.Box):
        return _array_check(space, path, space.dtype.kind == "f")
    if isinstance(space, spaces.Discrete):
        return _discrete_check(space, path)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return _choices_check(space, path)
    return None


def _array_check(space: Space, path: str, is_float: bool) -> Check:
    shape: tuple[int, ...] = space.shape or ()
    dtype = np.dtype(space.dtype)
    rule = f"{dtype} of shape {list(shape)}"
    kinds = "biuf" if is_float else "biu"
    low, high = (0, 1) if dtype.kind == "b" else (0, 0)
    if dtype.kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max

    def check(value: object) -> object:
        if type(value) is np.ndarray and value.dtype == dtype and value.shape == shape:
            return value
        array = _as_array(value)
        if array is None or array.shape != shape or array.dtype.kind not in kinds:
            received = described(value if array is None or array.dtype.kind == "O" else array)
            _misfit(path, received, rule)
        if is_float or np.can_cast(array.dtype, dtype):
            return value
        if array.size and not (low <= int(array.min()) and int(array.max()) <= high):
            received = f"{array.dtype} from {array.min()} to {array.max()}"
            _misfit(path, received, f"{rule}, which holds {low} to {high}")
        return array.astype(dtype)

    return check


def _discrete_check(space: spaces.Discrete, path: str) -> Check:
    start, stop = int(space.start), int(space.start + space.n)
    rule = f"a whole number from {start} to {stop - 1}"

    def check(value: object) -> object:
        if type(value) is int:
            number = value
        else:
            array = _as_array(value)
            if array is None or array.shape != () or array.dtype.kind not in "biu":
                _misfit(path, described(value), rule)
            number = int(array)
        if not start <= number < stop:
            _misfit(path, described(value), rule)
        return value

    return check


def _choices_check(space: spaces.MultiDiscrete | spaces.MultiBinary, path: str) -> Check:
    check_array = _array_check(space, path, is_float=False)
    low: int | np.ndarray = 0
    high: int | np.ndarray = 1
    if isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1

    def check(value: object) -> object:
        array = np.asarray(check_array(value))
        beyond = (array < low) | (array > high)
        if beyond.any():
            index = tuple(np.argwhere(beyond)[0].tolist())
            bounds = (int(np.broadcast_to(bound, array.shape)[index]) for bound in (low, high))
            received = f"{array[index]} at {list(index)}"
            _misfit(path, received, "a whole number from {} to {}".format(*bounds))
        return value if np.can_cast(array.dtype, space.dtype, "same_kind") else array

    return check


def _dict_check(space: spaces.Dict, path: str) -> Check:
    children = [(key, _check_of(child, _joined(path, key))) for key, child in space.spaces.items()]
    keys = reprlib.repr(list(space.spaces))

    def check(value: object) -> object:
        if not isinstance(value, Mapping):
            _misfit(path, described(value), f"a dict with the keys {keys}")
        changed = None
        for key, check_child in children:
            if key not in value:
                name = _joined(path, key)
                _misfit(path, described(value), f"a dict with the keys {keys}: {name!r} is missing")
            if check_child is not None:
                part = value[key]
                fitted = check_child(part)
                if fitted is not part:
                    changed = dict(value) if changed is None else changed
                    changed[key] = fitted
        return value if changed is None else changed

    return check


def _tuple_check(space: spaces.Tuple[Any], path: str) -> Check:
    children = [_check_of(child, _joined(path, i)) for i, child in enumerate(space.spaces)]

    def check(value: object) -> object:
        if not isinstance(value, tuple | list) or len(value) != len(children):
            _misfit(path, described(value), f"a tuple of {len(children)}")
        parts = zip(value, children, strict=True)
        fitted = [part if check_part is None else check_part(part) for part, check_part in parts]
        is_same = all(before is after for before, after in zip(value, fitted, strict=True))
        return value if is_same else tuple(fitted)

    return check


def _joined(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
