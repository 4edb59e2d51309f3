"""Joins the infos of N environments key by key, as Gymnasium's vector environments do.

    infos[key]      [N, ...]; zeros, or None, where an environment has no such key
    infos["_key"]   bools [N]: which environments have the key

Numbers of different types get their common type. Values that fit no such array (arrays of several
shapes, None beside a number) go into an array of objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..common.types import Info


def add_info(infos: Info, info: Mapping[str, Any], index: int, count: int) -> None:
    """Adds the info of environment `index` to the joined ones of `count` environments."""
    for key, value in info.items():
        if _is_mask(infos, info, key):
            continue  # a key of this name is the mask of another key
        mask = infos.get(f"_{key}")
        if mask is None:
            mask = np.zeros(count, bool)
        present = infos.get(key)
        if (
            isinstance(value, dict)
            and key != "final_obs"
            and (present is None or isinstance(present, dict))
        ):
            joined: Any = {} if present is None else present
            add_info(joined, value, index, count)
        else:
            joined = _with_value(present, mask, key, value, index, count)
        mask[index] = True
        infos[key], infos[f"_{key}"] = joined, mask


def _is_mask(infos: Info, info: Mapping[str, object], key: object) -> bool:
    if not isinstance(key, str) or not key.startswith("_"):
        return False
    others = info.keys() | infos.keys()
    return any(f"_{other}" == key for other in others)


def _with_value(
    present: np.ndarray | Info | None,
    mask: np.ndarray,
    key: object,
    value: object,
    index: int,
    count: int,
) -> np.ndarray:
    """Adds one value to those of a key, in a new array if it does not fit into the present one."""
    dtype, shape = _kind_of(key, value)
    if present is None:
        present = np.zeros((count, *shape), dtype) if dtype else np.full(count, None, object)
    elif isinstance(present, dict):  # other environments have a dict under this key
        present = _objects(
            [_info_of(present, i) if has else None for i, has in enumerate(mask.tolist())]
        )
    elif present.dtype != object:
        if dtype is None or present.shape[1:] != shape:
            present = _objects([x if has else None for x, has in zip(present, mask, strict=True)])
        elif present.dtype != dtype:
            present = present.astype(_common(present.dtype, dtype), copy=False)
    present[index] = value
    return present


def _kind_of(key: object, value: object) -> tuple[np.dtype | None, tuple[int, ...]]:
    """Type and shape of the array that holds a value; no type for objects."""
    if key == "final_obs":  # not joined: each environment's observation stays as it is
        return None, ()
    if type(value) in (int, float, bool):
        dtype = np.dtype(type(value))
        is_small = type(value) is not int or -(2**63) <= value < 2**63
        return (dtype, ()) if is_small else (None, ())
    if isinstance(value, np.number):
        return value.dtype, ()
    if isinstance(value, np.ndarray):
        return (None if value.dtype == object else value.dtype), value.shape
    return None, ()


def _common(one: np.dtype, other: np.dtype) -> np.dtype:
    """A type that holds the values of both: the common type of numbers, otherwise objects."""
    is_numeric = one.kind in "biufc" and other.kind in "biufc"
    return np.result_type(one, other) if is_numeric else np.dtype(object)


def _objects(values: Sequence[object]) -> np.ndarray:
    array = np.full(len(values), None, object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def _info_of(joined: Info, index: int) -> Info:
    """The dict of one environment, taken out of the joined ones."""
    info = {}
    for key, values in joined.items():
        mask = joined.get(f"_{key}")
        if isinstance(mask, np.ndarray) and mask[index]:
            info[key] = _info_of(values, index) if isinstance(values, dict) else values[index]
    return info
