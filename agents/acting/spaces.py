"""Which spaces the agents accept, and spaces as JSON. No TensorFlow in this file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from gymnasium import spaces

from ..configs.config import ActorCriticConfig
from ..configs.fields import brief
from ..configs.registry import ALGORITHMS
from .distributions import Categorical, DiagonalGaussian

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..configs.config import OffPolicyConfig
    from .protocols import ActionDistribution

Saved: TypeAlias = "Mapping[str, Any]"
"""A space as JSON and arrays, read from a file: each value is checked where it is used."""

OTHER = "other"
"""The type in JSON of spaces that no network accepts: entries that agents leave out."""
MAX_NUMBERS = 10**8
"""The most numbers that a space read from a file may have: a network allocates memory for each."""
MAX_RANK, MAX_DEPTH, MAX_ENTRIES = 32, 32, 10_000
"""The most axes of a space, nested spaces, and entries of one space, in a file."""
MAX_LISTED = 1024
"""The most numbers stored as text; more are stored as an array, or as one text if all are equal."""
MAX_FILLED = 2**25
"""The most numbers of a Box with one text for all bounds: a small file must not allocate more."""
TYPES: dict[type, str] = {
    kind: kind.__name__
    for kind in (
        *(spaces.Dict, spaces.Tuple, spaces.Box),
        *(spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
    )
}
"""The names, in files, of the spaces that agents know."""
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
NUMBERS: dict[str, Callable[[str], Any]] = {
    "f": float,
    "i": int,
    "u": int,
    "b": {"False": False, "True": True}.__getitem__,
}
"""From the text of a bound to the number, by the kind of the dtype."""


def host_distribution(
    space: spaces.Space[object], rescale: bool = False, features: int = 0
) -> ActionDistribution:
    """The distribution over the actions of a space.

    Args:
        space: The action space of the environment.
        rescale: Map Box actions to their bounds instead of clipping them.
        features: The number of features of state-dependent exploration; 0 without it.

    Raises:
        ValueError: The space is not Discrete, MultiDiscrete, MultiBinary or a float Box, has no
            components, lacks the bounds for `rescale`, or is discrete and there are features.
    """
    _check_has_components(space)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        if features:
            raise ValueError(
                "use_sde needs actions of a Box, to which it adds noise. Received: "
                f"{space}. Leave it out: discrete actions are sampled."
            )
        return Categorical(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagonalGaussian(space, rescale, features)
    raise ValueError(
        "The action space must be Discrete, MultiDiscrete, MultiBinary or a Box of floats. "
        f"Received: {space}. Wrap the environment with gymnasium.wrappers.TransformAction."
    )


def check_actions(
    algorithm: str, space: spaces.Space[object], config: ActorCriticConfig | OffPolicyConfig
) -> None:
    """Checks an action space against an algorithm, before anything is built.

    Raises:
        ValueError: The algorithm does not accept the space.
    """
    names = ALGORITHMS[algorithm].actions
    if len(names) > 1 and isinstance(config, ActorCriticConfig):
        host_distribution(space, config.rescale_actions, int(config.use_sde))
    elif not _is_one_of(space, names):
        every = ALGORITHMS.values()
        *others, last = [each.name for each in every if _is_one_of(space, each.actions)]
        raise ValueError(
            f"{algorithm} needs actions of a {names[0]}. Received: {space}. "
            f"Use {', '.join(others)} or {last}."
        )
    elif isinstance(space, spaces.Box):
        bounded_box(space)


def _is_one_of(space: spaces.Space[object], names: Sequence[str]) -> bool:
    return isinstance(space, tuple(getattr(spaces, name) for name in names))


def _check_has_components(space: spaces.Space[object]) -> None:
    if 0 in (space.shape or ()):
        raise ValueError(
            f"The action space must have at least one component. Received: {space}. If there is "
            "nothing to choose, use Discrete(1)."
        )


def bounded_box(space: spaces.Space[object]) -> spaces.Box:
    """The space as a Box of floats with bounds on both sides, to which [−1, 1] is mapped.

    Raises:
        ValueError: The space is no such Box, or has no components.
    """
    _check_has_components(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if space.is_bounded():
            return space
    raise ValueError(
        "The action space must be a Box of floats with bounds on both sides. Received: "
        f"{space}. Wrap the environment with gymnasium.wrappers.RescaleAction."
    )


def space_to_json(space: spaces.Space[object]) -> dict[str, object]:
    """A space as JSON and arrays; only the type's name of an unknown one.

    It is the same in every process: it has no memory addresses and no sets.
    """
    # A subclass is stored as its base: agents need no more, and only the base can be read again.
    bases = (name for kind, name in TYPES.items() if isinstance(space, kind))
    data: dict[str, object] = {"type": next(bases, OTHER)}
    if isinstance(space, spaces.Dict):
        entries = [[key, space_to_json(child)] for key, child in space.spaces.items()]
        return data | {"entries": entries}
    if isinstance(space, spaces.Tuple):
        return data | {"entries": [space_to_json(child) for child in space.spaces]}
    known = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    if not isinstance(space, known):
        return {"type": OTHER, "text": type(space).__name__}
    data["dtype"] = np.dtype(space.dtype).name
    if isinstance(space, spaces.Box):
        data |= {name: _bounds_to_json(getattr(space, name)) for name in ("low", "high")}
        return data | {"shape": list(space.shape)}
    if isinstance(space, spaces.Discrete):
        return data | {"n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        if space.nvec.size > MAX_LISTED:
            return data | {"nvec": space.nvec.copy(), "start": space.start.copy()}
        return data | {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
    return data | {"n": np.asarray(space.n).tolist()}  # 3 and (3,) are different spaces


def _bounds_to_json(bounds: np.ndarray) -> str | list[str] | np.ndarray:
    """Bounds as text: JSON has no infinity, and repr is exact. Many bounds are stored as bits."""
    flat = np.ascontiguousarray(bounds).ravel()
    if flat.size <= MAX_LISTED or flat.dtype.name not in DTYPES:
        return [repr(bound.item()) for bound in flat]
    bits = flat.view(_bits_of(flat.dtype))  # arrays of a checkpoint must not hold infinity either
    return repr(flat[0].item()) if (bits == bits[0]).all() else bits.copy()


def _bits_of(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "f" else dtype


def space_from_json(data: Any, most: int = MAX_NUMBERS) -> spaces.Space[object]:
    """The inverse of `space_to_json`; it builds only spaces of the types in `TYPES`.

    Args:
        data: What `space_to_json` returned, or anything that a damaged file contains.
        most: The most numbers of all Boxes together, checked before memory is allocated.

    Raises:
        ValueError: `data` describes no such space, or one beyond the limits above.
    """
    errors = (ArithmeticError, AssertionError, LookupError, RecursionError, TypeError, ValueError)
    try:
        _require(_boxed(data, MAX_DEPTH) <= most, f"at most {most:,} numbers in Boxes")
        with np.errstate(over="raise"):
            space = _space_from_json(data, MAX_DEPTH)
        _require(numbers_of(space) <= MAX_NUMBERS, f"at most {MAX_NUMBERS:,} numbers")
        return space
    except errors as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"A saved space must be readable. Received: {brief(data)} ({reason:.200}). "
            "The file is damaged; load another one."
        ) from None


def is_same_space(first: spaces.Space[object], second: spaces.Space[object]) -> bool:
    """Whether two spaces are equal as JSON: those of unknown types always are."""
    return is_saved_space(first, space_to_json(second))


def is_saved_space(space: spaces.Space[object], saved: object) -> bool:
    """Whether `saved` is what `space_to_json` returned for an equal space, in any process."""
    return _is_same(space_to_json(space), saved)


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        names = set(one) - {"text"}
        return names == set(other) - {"text"} and all(_is_same(one[n], other[n]) for n in names)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


def _space_from_json(data: Saved, depth: int) -> spaces.Space[object]:
    kind = data["type"]
    if kind == OTHER:
        return spaces.Space()
    if kind in ("Dict", "Tuple"):
        entries = data["entries"]
        _require(depth > 0, f"at most {MAX_DEPTH} nested spaces")
        _require(type(entries) is list, "a list of entries")
        _require(len(entries) <= MAX_ENTRIES, f"at most {MAX_ENTRIES:,} entries")
        if kind == "Tuple":
            return spaces.Tuple([_space_from_json(child, depth - 1) for child in entries])
        _require(all(type(key) in (str, int) for key, _ in entries), "keys of text or integers")
        _require(len({key for key, _ in entries}) == len(entries), "every key once")
        return spaces.Dict([(key, _space_from_json(child, depth - 1)) for key, child in entries])
    _require(kind in LEAVES, f"one of {', '.join(LEAVES)}, Dict or Tuple")
    return LEAVES[kind](data)


def _box(data: Saved) -> spaces.Box:
    dtype, shape = _dtype(data, "biuf"), data["shape"]
    _require(type(shape) is list and _are_integers(shape, 1), "a shape of integers")
    _require(len(shape) <= MAX_RANK, f"at most {MAX_RANK} axes")
    _require(all(length >= 0 for length in shape), "no negative lengths")
    low, high = (_bounds(data[name], dtype, tuple(shape)) for name in ("low", "high"))
    return spaces.Box(low, high, tuple(shape), dtype)


def _bounds(data: object, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)
    if isinstance(data, np.ndarray):
        _require(data.dtype == _bits_of(dtype), "the bits of bounds")
        bounds = data
    else:
        listed: Any = [data] if type(data) is str else data
        _require(type(listed) is list, "a list of bounds")
        _require(all(type(bound) is str for bound in listed), "bounds as text")
        bounds = np.array([NUMBERS[dtype.kind](bound) for bound in listed], dtype)
        if type(data) is str:
            _require(count <= MAX_FILLED, f"at most {MAX_FILLED:,} numbers with the same bound")
            bounds = np.broadcast_to(bounds, count)
    _require(bounds.shape == (count,), "as many bounds as its shape has numbers")
    bounds = bounds.view(dtype) if isinstance(data, np.ndarray) else bounds
    _require(not np.isnan(bounds).any(), "bounds that are numbers")
    return bounds.reshape(shape)


def _discrete(data: Saved) -> spaces.Discrete:
    n, start = data["n"], data["start"]
    _require(type(n) is int and type(start) is int, "a size and a start that are integers")
    _require(1 <= n <= MAX_NUMBERS, f"a size between 1 and {MAX_NUMBERS:,}")
    return spaces.Discrete(n, start=start, dtype=_dtype(data, "iu"))


def _multi_discrete(data: Saved) -> spaces.MultiDiscrete:
    dtype = _dtype(data, "iu")
    for name in ("nvec", "start"):
        is_array = isinstance(data[name], np.ndarray) and data[name].dtype == dtype
        _require(
            is_array or _are_integers(data[name], MAX_RANK), "sizes and starts that are integers"
        )
    nvec, start = np.array(data["nvec"], dtype), np.array(data["start"], dtype)
    return spaces.MultiDiscrete(nvec, dtype, start=start)


def _multi_binary(data: Saved) -> spaces.MultiBinary:
    n = data["n"]
    _require(_are_integers(n, 1), "sizes that are integers")
    _require(type(n) is int or len(n) <= MAX_RANK, f"at most {MAX_RANK} axes")
    return spaces.MultiBinary(n)


def _boxed(data: object, depth: int) -> int:
    """The numbers of all Boxes of a space, by their shapes; 0 for malformed entries."""
    if not isinstance(data, dict) or depth < 0:
        return 0
    entries, shape = data.get("entries"), data.get("shape")
    if isinstance(entries, list):
        children = [one[-1] if isinstance(one, list) and one else one for one in entries]
        return sum(_boxed(child, depth - 1) for child in children)
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        return 0
    if not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        return 0
    return math.prod(shape)


def _dtype(data: Saved, kinds: str) -> np.dtype:
    """The dtype that a space names; np.dtype itself would also accept structures and objects."""
    _require(data["dtype"] in DTYPES, f"a dtype of {', '.join(DTYPES)}")
    dtype: np.dtype = np.dtype(data["dtype"])
    _require(dtype.kind in kinds, "a dtype that its type can have")
    return dtype


def _are_integers(data: object, rank: int) -> bool:
    """Whether it is an integer, or a list of integers, nested at most `rank` deep."""
    if isinstance(data, list):
        return rank > 0 and all(_are_integers(child, rank - 1) for child in data)
    return type(data) is int


def numbers_of(space: spaces.Space[object]) -> int:
    """The inputs or outputs of a network for a space; discrete values are one-hot."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return sum(map(numbers_of, children))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return sum(space.nvec.ravel().tolist())  # Python's integers do not overflow
    return math.prod(space.shape or ())


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"it must have {rule}")


LEAVES: dict[str, Callable[[Saved], spaces.Space[object]]] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
}
