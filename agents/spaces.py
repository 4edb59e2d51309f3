"""Which spaces the agents take, and spaces as JSON. No TensorFlow in this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from .host import Categorical, DiagonalGaussian, HostDistribution

OTHER = "other"
"""The type in JSON of spaces that no network takes: entries that agents leave out."""


def host_distribution(space: spaces.Space, rescale: bool = False) -> HostDistribution:
    """The distribution over the actions of a space.

    Args:
        space: What the environment receives.
        rescale: Map Box actions to their bounds instead of clipping them.

    Raises:
        ValueError: The space is none of Discrete, MultiDiscrete, MultiBinary, float Box, or has
            no bounds to map to.
    """
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return Categorical(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagonalGaussian(space, rescale)
    raise ValueError(
        "The action space must be Discrete, MultiDiscrete, MultiBinary or a Box of floats. "
        f"Received: {space}. Wrap the environment with gymnasium.wrappers.TransformAction."
    )


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """A space as JSON; of an unknown type nothing but its name is kept."""
    data: dict[str, Any] = {"type": type(space).__name__}
    if isinstance(space, spaces.Dict):
        entries = [[key, space_to_json(child)] for key, child in space.spaces.items()]
        return data | {"entries": entries}
    if isinstance(space, spaces.Tuple):
        return data | {"entries": [space_to_json(child) for child in space.spaces]}
    known = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    if not isinstance(space, known):
        return {"type": OTHER, "text": str(space)}
    data["dtype"] = np.dtype(space.dtype).name
    if isinstance(space, spaces.Box):
        # As text: JSON has no infinity, and repr keeps every bit.
        bounds = {name: getattr(space, name).ravel() for name in ("low", "high")}
        data |= {name: [repr(b.item()) for b in bound] for name, bound in bounds.items()}
        return data | {"shape": list(space.shape)}
    if isinstance(space, spaces.Discrete):
        return data | {"n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return data | {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
    return data | {"n": np.asarray(space.n).tolist()}  # 3 and (3,) are different spaces


def space_from_json(data: Mapping[str, Any]) -> spaces.Space:
    """The inverse of `space_to_json`; builds nothing but spaces of these types.

    Raises:
        ValueError: `data` describes no such space.
    """
    try:
        return _space_from_json(data)
    except (KeyError, TypeError, ValueError, AssertionError, RecursionError) as error:
        raise ValueError(
            f"A saved space must be readable. Received: {data!r:.200} ({error!r})."
        ) from None


def _space_from_json(data: Mapping[str, Any]) -> spaces.Space:
    kind = data["type"]
    if kind == "Dict":
        return spaces.Dict([(key, _space_from_json(child)) for key, child in data["entries"]])
    if kind == "Tuple":
        return spaces.Tuple([_space_from_json(child) for child in data["entries"]])
    if kind == OTHER:
        return spaces.Space()
    dtype = np.dtype(data["dtype"])
    if kind == "Box":
        number = float if dtype.kind == "f" else int
        low, high = (
            np.array([number(b) for b in data[name]], dtype).reshape(data["shape"])
            for name in ("low", "high")
        )
        return spaces.Box(low, high, tuple(data["shape"]), dtype)
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"], dtype=dtype)
    if kind == "MultiDiscrete":
        start = np.array(data["start"], dtype)
        return spaces.MultiDiscrete(np.array(data["nvec"], dtype), dtype, start=start)
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"])
    raise ValueError(f"unknown type {kind!r}")
