"""Takes observations apart: paths of the parts, comparisons, and checks of a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from gymnasium import spaces

from .findings import Findings, described, shortened

if TYPE_CHECKING:
    from ..common.types import Space

SEEN = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
Numeric: TypeAlias = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
Parts: TypeAlias = dict[str, Any]
"""The parts of an observation by their paths."""
Bound: TypeAlias = int | np.integer | np.ndarray

MATHS = "Look for a division by zero, and for a logarithm or root outside its domain."


def leaves_of(nest: Any, path: str = "observation") -> Iterator[tuple[str, Any]]:
    """The parts of nested spaces or values, with their paths."""
    if isinstance(nest, spaces.Dict | spaces.Tuple):
        nest = nest.spaces
    if isinstance(nest, Mapping):
        for key, part in nest.items():
            yield from leaves_of(part, f'{path}["{key}"]')
    elif isinstance(nest, tuple):
        for index, part in enumerate(nest):
            yield from leaves_of(part, f"{path}[{index}]")
    else:
        yield path, nest


def paired(
    found: Findings, space: Space, value: object, at: str, path: str = "observation"
) -> Iterator[tuple[str, Space, object]]:
    """Pairs the parts of an observation with their spaces; reports where the two differ."""
    if isinstance(space, spaces.Dict):
        keys = list(space.spaces)
        if not isinstance(value, Mapping) or set(value) != set(keys):
            received = f"keys {list(value)}" if isinstance(value, Mapping) else described(value)
            instead = "Return every key of the space, and no other."
            found.error("shape", f"{path} must be a dict with {keys}", f"{received} {at}", instead)
            return
        for key in keys:
            yield from paired(found, space[key], value[key], at, f'{path}["{key}"]')
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            rule = f"{path} must be a tuple of {len(space.spaces)}"
            found.error(
                "shape", rule, f"{described(value)} {at}", "Return what the space describes."
            )
            return
        for index, part in enumerate(space.spaces):
            yield from paired(found, part, value[index], at, f"{path}[{index}]")
    else:
        yield path, space, value


def check_part(
    found: Findings, path: str, space: Space, value: object, at: str
) -> np.ndarray | None:
    """Checks one part of an observation; returns its finite entries, None without numbers."""
    if not isinstance(space, SEEN):
        if value not in space:
            instead = "Return what the space describes."
            found.error(
                "bounds", f"{path} must be in its space", f"{shortened(value)} {at}", instead
            )
        return None
    is_box = isinstance(space, spaces.Box)
    is_array = isinstance(value, np.ndarray | np.generic)
    array = as_array(value)
    if array.dtype.kind not in ("biuf" if is_box else "biu"):
        numbers = "numbers" if is_box else "whole numbers"
        instead = f"Return an array of {space.dtype}."
        found.error("dtype", f"{path} must hold {numbers}", f"{described(value)} {at}", instead)
        return None
    if array.shape != space.shape:
        received, shape = f"{list(array.shape)} {at}", list(space.shape or ())
        instead = "Reshape it, or correct the space."
        found.error("shape", f"{path} must have the shape {shape}", received, instead)
        return None
    if not is_array and space.shape != ():
        instead = f"Return np.array(..., np.{space.dtype})."
        found.warn("dtype", f"{path} should be a NumPy array", f"{described(value)} {at}", instead)
    elif is_array and is_box and array.dtype != space.dtype:
        instead = f"Return it .astype(np.{space.dtype}), or give the space dtype=np.{array.dtype}."
        rule = f"{path} must be {space.dtype}, as its space is"
        found.error("dtype", rule, f"{array.dtype} {at}", instead)
    finite = np.isfinite(array)
    if not finite.all():
        found.error("finite", f"{path} must be finite", _entries(array, ~finite, at), MATHS)
    if is_box and array.dtype.kind == "f":
        with np.errstate(all="ignore"):
            array = array.astype(space.dtype)  # the type of the bounds
    for side, bound in zip(("below", "above"), _bounds(space), strict=True):
        beyond = finite & (array < bound if side == "below" else array > bound)
        if beyond.any():
            received = _entries(array, beyond, at, bound)
            instead = "Clip it, or widen the space."
            found.error("bounds", f"{path} must not be {side} its space", received, instead)
    return array[finite] if finite.any() else None


def _bounds(space: Numeric) -> tuple[Bound, Bound]:
    """The lowest and the highest values of a space of numbers."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.MultiBinary):
        return 0, 1
    sizes = space.nvec if isinstance(space, spaces.MultiDiscrete) else space.n
    return space.start, space.start + sizes - 1


def _entries(array: np.ndarray, which: np.ndarray, at: str, bound: Bound | None = None) -> str:
    """Describes the first of the chosen entries, and its bound."""
    index = tuple(np.argwhere(which)[0])
    text = f"{array[index]}"
    if bound is not None:
        text += f", the bound is {np.broadcast_to(bound, array.shape)[index]}"
    if index:
        text += f" ([{', '.join(map(str, index))}], {which.sum()} of {which.size} entries)"
    return f"{text} {at}"


def as_array(value: object) -> np.ndarray:
    """Converts any value to an array, if necessary through its text."""
    try:
        return np.asarray(value)
    except Exception:  # ragged lists, tensors on another device
        return np.asarray(repr(value))


def is_same(one: object, other: object) -> bool:
    """Whether two values are equal entry by entry."""
    a, b = as_array(one), as_array(other)
    return a.shape == b.shape and not _differs(a, b).any()


def _differs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a != b) & ~((a != a) & (b != b)))  # NaN equals NaN


def contrast(one: object, other: object) -> str:
    """Describes the first difference between two values."""
    a, b = as_array(one), as_array(other)
    if a.shape != b.shape:
        return f"of shape {list(a.shape)}, then {list(b.shape)}"
    index = tuple(np.argwhere(_differs(a, b))[0])
    return f"{a[index]}, then {b[index]}{_at(index)}"


def _at(index: tuple[int, ...]) -> str:
    return f" at [{', '.join(map(str, index))}]" if index else ""
