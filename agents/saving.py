"""An agent as arrays and JSON: variables by name, spaces, and checks when they come back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from gymnasium import spaces


def describe(variables: Sequence[keras.Variable]) -> list[dict[str, Any]]:
    """Path, shape and dtype of each variable; numbers that Keras adds to names left out."""
    return [
        {
            "path": re.sub(r"_\d+(?=/|$)", "", variable.path),
            "shape": list(variable.shape),
            "dtype": variable.dtype,
        }
        for variable in variables
    ]


def pack(prefix: str, variables: Sequence[keras.Variable]) -> dict[str, np.ndarray]:
    """The variables' values under `prefix/index`."""
    return {f"{prefix}/{index}": variable.numpy() for index, variable in enumerate(variables)}


def restore(
    prefix: str,
    variables: Sequence[keras.Variable],
    expected: Sequence[Mapping[str, Any]],
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Assigns saved values, after checking every one of them.

    Raises:
        ValueError: A variable differs from the saved one in path, shape or dtype.
    """
    received = describe(variables)
    for index in range(max(len(expected), len(received))):
        saved = expected[index] if index < len(expected) else "nothing"
        given = received[index] if index < len(received) else "nothing"
        if saved != given:
            raise ValueError(
                f"The {prefix} must have the variables that were saved. Variable {index} was saved "
                f"as {saved}. Received: {given}. Pass one built like the saved one."
            )
    arrays = [tensors.get(f"{prefix}/{index}") for index in range(len(variables))]
    for variable, array in zip(variables, arrays, strict=True):
        if array is None or array.shape != tuple(variable.shape) or array.dtype != variable.dtype:
            raise ValueError(
                f"A saved agent must hold every variable of its {prefix}. Received: none that fits "
                f"{variable.path}. The file is damaged; load another one."
            )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


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
        return data | {"n": list(space.shape)}
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


def checked_config(manifest, algorithm: str, config_type: type, network, optimizer) -> Any:
    """The config in a saved agent's manifest, after checking that what is own was passed.

    Raises:
        ValueError: Another algorithm saved it, the config is not readable, or one is missing.
    """
    if manifest.get("algorithm") != algorithm:
        raise ValueError(
            f"The directory must hold a saved {algorithm} agent. Received: one of "
            f"{manifest.get('algorithm')!r}. Load it with that algorithm's class."
        )
    for name, own in (("network", network), ("optimizer", optimizer)):
        if bool(manifest.get(f"own_{name}")) != (own is not None):
            rule = "its own" if manifest.get(f"own_{name}") else "the default"
            raise ValueError(
                f"An agent saved with {rule} {name} must be loaded with it. Received: "
                f"{name}={own!r}. Pass {name}= exactly when it was passed to the saved agent."
            )
    try:
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in manifest["config"].items()
        }
        return config_type(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"A saved agent's config must be readable. Received: {error}.") from None
