"""States of agents, runs and environments as arrays and JSON, and back.

Markers in the JSON, such as `{"__array__": name}`, stand for what is not JSON.
"""

from __future__ import annotations

import hashlib
import math
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .shards import Log, load_log, save_log
from .tensors import DTYPES, Arrays

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike

_ARRAY, _SCALAR, _TUPLE, LOG = "__array__", "__scalar__", "__tuple__", "__log__"
_LIST = "__list__"

State: TypeAlias = Any
"""Dicts with names as keys, lists and tuples of arrays, logs and JSON values, nested."""

Packed: TypeAlias = Any
"""The same as JSON values, with markers for the arrays."""

LONG = 256  # longer lists of numbers are stored as arrays


def pack(  # noqa: C901, a branch for each kind of value
    prefix: str, nest: State, shards: Path | None = None
) -> tuple[Arrays, Packed]:
    """Splits nested dicts, lists and tuples into arrays and JSON values.

    Args:
        prefix: The prefix of the arrays' names.
        nest: A state; it may contain logs.
        shards: The folder for the new part of a log; without it, logs become arrays.

    Raises:
        OSError: The disk failed.
        ValueError: The state contains something else.
    """
    arrays: Arrays = {}

    def stored(kind: str, path: str, value: ArrayLike) -> dict[str, str]:
        array = np.asarray(value)
        if array.dtype.name not in DTYPES:
            raise ValueError(f"dtype {array.dtype} at {path}")
        while path in arrays:  # two keys with slashes may give the same path
            path += "_"
        arrays[path] = array
        return {kind: path}

    def split(path: str, value: State) -> Packed:
        if isinstance(value, Log) and shards is not None:
            return {LOG: save_log(value, shards)}
        if isinstance(value, Log):
            rows = value.rows(value.start, value.stop)
            return {LOG: split(path, {"start": value.start, "stop": value.stop, "arrays": rows})}
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) and not key.startswith("__") for key in value):
                raise ValueError(f"the keys {list(value)!r:.80} at {path}")
            return {key: split(f"{path}/{key}", child) for key, child in value.items()}
        if isinstance(value, np.generic):
            return stored(_SCALAR, path, value)
        if isinstance(value, np.ndarray):
            return stored(_ARRAY, path, value)
        if isinstance(value, tuple | list):
            if (listed := _as_array(value)) is not None:
                marked = stored(_LIST, path, listed)
                return {_TUPLE: marked} if isinstance(value, tuple) else marked
            each = [split(f"{path}/{index}", child) for index, child in enumerate(value)]
            return {_TUPLE: each} if isinstance(value, tuple) else each
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise ValueError(f"{value!r:.80} at {path}")

    try:
        return arrays, split(prefix, nest)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            "A state must hold arrays of numbers and JSON values, nested in dicts with names as "
            f"keys, lists and tuples. Received: {error}. Convert it."
        ) from None


def _as_array(value: tuple[State, ...] | list[State]) -> np.ndarray | None:
    """A long list of Python numbers of one type as an array; None for any other list."""
    kinds = {*map(type, value)} if len(value) > LONG else set()
    if kinds == {float} or kinds == {bool}:
        return np.array(value)
    if kinds == {int} and all(-(2**63) <= one < 2**63 for one in value):
        return np.array(value, np.int64)
    return None


def unpack(packed: Packed, arrays: Mapping[str, np.ndarray], shards: Path | None = None) -> State:
    """The inverse of `pack`; a log reads its shards only when it is read itself.

    Raises:
        ValueError: An array is missing, or the shards of a log are not valid.
    """
    try:
        return _unpacked(packed, arrays, shards)
    except RecursionError:
        raise ValueError(
            "A state must not be nested too deeply. Received: one nested deeper than Python's "
            "recursion limit. The file is damaged; use another one."
        ) from None


def _unpacked(packed: Packed, arrays: Mapping[str, np.ndarray], shards: Path | None) -> State:
    if isinstance(packed, list):
        return [_unpacked(child, arrays, shards) for child in packed]
    if not isinstance(packed, dict):
        return packed
    if set(packed) == {_TUPLE} and isinstance(packed[_TUPLE], list | dict):
        listed = _unpacked(packed[_TUPLE], arrays, shards)
        if not isinstance(listed, list):
            raise _forged(packed)
        return tuple(listed)
    if set(packed) == {LOG}:
        return load_log(_unpacked(packed[LOG], arrays, shards), shards)
    for kind in (_ARRAY, _SCALAR, _LIST):
        if set(packed) == {kind}:
            array = arrays.get(packed[kind]) if isinstance(packed[kind], str) else None
            if array is None or (kind != _ARRAY and array.ndim != (kind == _LIST)):
                raise _forged(packed)
            if kind == _LIST:
                return array.tolist()
            return array[()] if kind == _SCALAR else array
    if any(key.startswith("__") for key in packed):
        raise _forged(packed)
    return {key: _unpacked(child, arrays, shards) for key, child in packed.items()}


def _forged(packed: Packed) -> ValueError:
    return ValueError(
        "A state must refer to arrays of its checkpoint, and to lists for tuples. Received: "
        f"{reprlib.repr(packed)}. The file is damaged; use another one."
    )


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays: their names, dtypes, shapes and bits."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def weights_sha256(state: Mapping[str, State]) -> str:
    """SHA-256 of the variables of an agent's network; if it has none, of all its arrays."""
    network = {key: value for key, value in state.items() if key == "network"}
    return digest(pack("agent", network or state)[0])
