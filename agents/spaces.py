"""Which spaces the agents take, and spaces as JSON. No TensorFlow in this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from .host import Categorical, DiagonalGaussian, HostDistribution


def host_distribution(space: spaces.Space) -> HostDistribution:
    """The distribution over the actions of a space.

    Raises:
        ValueError: The space is none of Discrete, MultiDiscrete, MultiBinary, float Box.
    """
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return Categorical(space)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagonalGaussian(space)
    raise ValueError(
        "The action space must be Discrete, MultiDiscrete, MultiBinary or a Box of floats. "
        f"Received: {space}. Wrap the environment with gymnasium.wrappers.TransformAction."
    )


def check_observation_space(space: spaces.Space) -> None:
    """Refuses what the networks cannot take.

    Raises:
        ValueError: The space is not a Box.
    """
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"The observation space must be a Box. Received: {space}. Wrap the environment with "
            "gymnasium.wrappers.FlattenObservation."
        )


def as_batch(observations: Any, space: spaces.Box) -> tuple[np.ndarray, bool]:
    """Observations as float32 `[N, *shape]`, and whether they were a single one `[*shape]`.

    Raises:
        ValueError: They differ from the space in shape or kind.
    """
    received = np.asarray(observations)
    is_single = received.shape == space.shape
    fits = is_single or received.shape[1:] == space.shape
    if not fits or (received.dtype.kind == "f") != (np.dtype(space.dtype).kind == "f"):
        raise ValueError(
            f"Observations must be {space.dtype} of shape {list(space.shape)}, or one more "
            f"axis in front. Received: {received.dtype} of shape {list(received.shape)}. "
            "Reshape them, or cast them with .astype."
        )
    return (received[None] if is_single else received).astype(np.float32), is_single


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """A Box, Discrete, MultiDiscrete or MultiBinary space as JSON."""
    data: dict[str, Any] = {"type": type(space).__name__, "dtype": np.dtype(space.dtype).name}
    if isinstance(space, spaces.Box):
        # As text: JSON has no infinity, and repr keeps every bit.
        bounds = {name: getattr(space, name).ravel() for name in ("low", "high")}
        data |= {name: [repr(float(b)) for b in bound] for name, bound in bounds.items()}
        return data | {"shape": list(space.shape)}
    if isinstance(space, spaces.Discrete):
        return data | {"n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return data | {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return data | {"n": np.asarray(space.n).tolist()}  # 3 and (3,) are different spaces
    raise ValueError(f"A saved space must be of a supported type. Received: {space}.")


def space_from_json(data: Mapping[str, Any]) -> spaces.Space:
    """The inverse of `space_to_json`; builds nothing but these four types.

    Raises:
        ValueError: `data` describes no such space.
    """
    try:
        kind, dtype = data["type"], np.dtype(data["dtype"])
        if kind == "Box":
            low, high = (
                np.array([float(b) for b in data[name]], dtype).reshape(data["shape"])
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
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"A saved space must be readable. Received: {data} ({error}).") from None
    raise ValueError(f"A saved space must be of a supported type. Received: {data}.")
