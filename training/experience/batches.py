"""Whether what a vector environment returns fits its spaces: a batch at a time.

Those of `make_vec` look at what each of their environments returns, and say so by a class attribute
`fits_its_spaces`; one of somebody else's may cast and broadcast. Nothing that changes a meaning
passes here. Legend: N environments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from gymnasium import spaces

if TYPE_CHECKING:
    from .protocols import Observations, Space, VectorEnvironment

BOOL = np.dtype(bool)
FLOATS = np.dtype("float32"), np.dtype("float64")
Path: TypeAlias = tuple[str | int, ...]  # of keys, to a part of a batch
Check: TypeAlias = Callable[[object], None]


class BatchCheck:
    """Checks observations, rewards and ends of N environments, at next to no cost where they fit.

    Args:
        envs: The vector environment; without `single_observation_space` nothing is known of its
            observations.
    """

    def __init__(self, envs: VectorEnvironment) -> None:
        space, self._rows = getattr(envs, "single_observation_space", None), (envs.num_envs,)
        box = space if isinstance(space, spaces.Box) else None
        self._shape = None if box is None else (*self._rows, *box.shape)
        self._dtype = None if box is None else box.dtype
        self._parts = list(_leaves(space, envs.num_envs)) if isinstance(space, spaces.Space) else []

    def __call__(
        self, observations: Observations, rewards: object, terminated: object, truncated: object
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a step returns: rewards and ends as arrays `[N]`.

        Raises:
            ValueError: The observations do not fit; rewards and ends are not of N environments, or
                no numbers and bools.
        """
        if (  # what nearly always holds, here: calls would take as long as the checks
            type(observations) is not np.ndarray
            or observations.dtype is not self._dtype
            or observations.shape != self._shape
        ):
            self.observations(observations)
        if (
            type(rewards) is type(terminated) is type(truncated) is np.ndarray
            and rewards.dtype in FLOATS
            and terminated.dtype is truncated.dtype is BOOL
            and rewards.shape == terminated.shape == truncated.shape == self._rows
        ):
            return rewards, terminated, truncated
        named = {"rewards": rewards, "terminated": terminated, "truncated": truncated}
        looked_at = [self._looked_at(name, value) for name, value in named.items()]
        return looked_at[0], looked_at[1], looked_at[2]

    def observations(self, batch: Observations) -> None:
        """Of all environments.

        Raises:
            ValueError: They do not fit.
        """
        for path, check in self._parts:
            part: Any = batch
            for key in path:
                holds = Mapping if isinstance(key, str) else tuple | list | Mapping
                if not isinstance(part, holds):
                    raise _misfit(path, f"{type(part).__name__}", f"the entry {key!r}")
                try:
                    part = part[key]  # type: ignore[index]  # a tuple has no texts as keys
                except (KeyError, IndexError):
                    raise _misfit(path, f"none with {key!r}", "every entry of the space") from None
            check(part)

    def _looked_at(self, name: str, value: object) -> np.ndarray:
        array = np.asarray(value)
        is_flag = name != "rewards"
        mask = " with a mask" * isinstance(value, np.ma.MaskedArray)  # NumPy would drop it
        fits = (
            not mask
            and array.shape == self._rows
            and array.dtype.kind in ("biu" if is_flag else "biuf")
        )
        if not fits or (is_flag and not np.isin(array, (0, 1)).all()):
            kind = "True or False" if is_flag else "numbers"
            raise ValueError(
                f"The {name} of a vector environment must be {kind} of shape {list(self._rows)}. "
                f"Received: {array.dtype} of shape {list(array.shape)}{mask}. Return one of every "
                "environment."
            )
        return array


def _leaves(space: Space, count: int, path: Path = ()) -> list[tuple[Path, Check]]:
    if isinstance(space, spaces.Dict):
        children: Any = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        children = enumerate(space.spaces)
    else:
        known = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
        return [(path, _check_of(space, count, path))] if isinstance(space, known) else []
    return [leaf for key, child in children for leaf in _leaves(child, count, (*path, key))]


def _check_of(space: Space, count: int, path: Path) -> Check:
    shape, dtype = (count, *(space.shape or ())), np.dtype(space.dtype)
    is_float = dtype.kind == "f"
    low: Any = None
    high: Any = None
    if isinstance(space, spaces.Discrete):
        low, high = space.start, space.start + space.n - 1
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    elif not is_float and dtype.kind != "b":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    rule = f"{dtype} of shape {list(shape)}"
    chooses = not isinstance(space, spaces.Box)

    def check(part: object) -> None:
        if isinstance(part, np.ma.MaskedArray):  # NumPy would drop the mask
            raise _misfit(path, "an array with a mask", rule)
        array = np.asarray(part)
        if array.shape != shape or array.dtype.kind not in ("biuf" if is_float else "biu"):
            raise _misfit(path, f"{array.dtype} of shape {list(array.shape)}", rule)
        if low is not None and (chooses or not np.can_cast(array.dtype, dtype)):
            if array.size and ((array < low) | (array > high)).any():
                received = f"from {array.min()} to {array.max()}"
                raise _misfit(path, received, f"{rule} within the bounds of the space")

    return check


def _misfit(path: Path, received: str, rule: str) -> ValueError:
    entry = f"entry {'.'.join(map(str, path))!r}: " if path else ""
    return ValueError(
        f"The observations of a vector environment must be {rule}. Received: {entry}{received}. "
        "Return what the space describes, or correct the space."
    )
