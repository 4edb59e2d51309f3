"""An agent as arrays and JSON: variables by name, spaces, and checks when they come back."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..training.checkpoint import load_checkpoint, save_checkpoint
from .spaces import space_from_json, space_to_json


def save_agent(agent: Any, path: str | Path, run: Mapping[str, Any] | None) -> None:
    """Writes an agent's network, optimizer, generator, counters and settings to a directory."""
    networks, optimizers = agent.network.variables, agent.optimizer.variables
    manifest = {
        "algorithm": agent.algorithm,
        "config": dataclasses.asdict(agent.config),
        "observation_space": space_to_json(agent.observation_space),
        "action_space": space_to_json(agent.action_space),
        "own_network": agent.own_network,
        "own_optimizer": agent.own_optimizer,
        "network": describe(networks),
        "optimizer": describe(optimizers),
        "generator": agent.policy.generator.bit_generator.state,
        "updates": agent.updates,
        "run": dict(run or {}),
    }
    save_checkpoint(path, pack("network", networks) | pack("optimizer", optimizers), manifest)


def load_agent(cls: type, path: str | Path, *, network, optimizer, device: str) -> Any:
    """Builds the agent that a manifest describes, and restores it."""
    manifest = load_checkpoint(path)[1]
    agent = cls(
        space_from_json(manifest.get("observation_space", {})),
        space_from_json(manifest.get("action_space", {})),
        _checked_config(manifest, cls.algorithm, cls.config_type, network, optimizer),
        network=network,
        optimizer=optimizer,
        device=device,
    )
    agent.restore(path)
    return agent


def restore_agent(agent: Any, path: str | Path, only_network: bool) -> dict[str, Any]:
    """Puts what was saved into an agent; returns what the run kept beside it."""
    tensors, manifest = load_checkpoint(path)
    parts = {"network": agent.network.variables}
    if not only_network:
        parts["optimizer"] = agent.optimizer.variables
    values = {name: checked(name, parts[name], manifest.get(name), tensors) for name in parts}
    try:
        np.random.default_rng().bit_generator.state = manifest["generator"]  # checks it
        updates, run = operator.index(manifest["updates"]), dict(manifest["run"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "A saved agent must hold its generator, its updates and its run. Received: "
            f"{str(path)!r} ({error!r}). The file is damaged; load another one."
        ) from None
    for name, variables in parts.items():  # critical: nothing is changed before all is checked
        for variable, array in zip(variables, values[name], strict=True):
            variable.assign(array)
    if not only_network:
        agent.policy.generator.bit_generator.state = manifest["generator"]
        agent.updates = updates
    return run


def describe(variables: Sequence[keras.Variable]) -> list[dict[str, Any]]:
    """Path, shape and dtype of each variable; numbers that Keras adds to names left out."""
    return [
        {
            "path": re.sub(r"_\d+(?=[/_]|$)", "", variable.path),
            "shape": list(variable.shape),
            "dtype": variable.dtype,
        }
        for variable in variables
    ]


def pack(prefix: str, variables: Sequence[keras.Variable]) -> dict[str, np.ndarray]:
    """The variables' values under `prefix/index`."""
    return {f"{prefix}/{index}": variable.numpy() for index, variable in enumerate(variables)}


def checked(
    prefix: str,
    variables: Sequence[keras.Variable],
    expected: Any,
    tensors: Mapping[str, np.ndarray],
) -> list[np.ndarray]:
    """The saved values of the variables, every one of them checked.

    Raises:
        ValueError: A variable differs from the saved one in path, shape or dtype.
    """
    received, expected = describe(variables), expected if isinstance(expected, list) else []
    for index in range(max(len(expected), len(received))):
        saved = expected[index] if index < len(expected) else "nothing"
        given = received[index] if index < len(received) else "nothing"
        if saved != given:
            raise ValueError(
                f"The {prefix} must have the variables that were saved. Variable {index} was saved "
                f"as {saved}. Received: {given}. Pass one built like the saved one."
            )
    arrays = []
    for index, variable in enumerate(variables):
        array = tensors.get(f"{prefix}/{index}")
        if array is None or array.shape != tuple(variable.shape) or array.dtype != variable.dtype:
            raise ValueError(
                f"A saved agent must hold every variable of its {prefix}. Received: none that fits "
                f"{variable.path}. The file is damaged; load another one."
            )
        arrays.append(array)
    return arrays


def _checked_config(manifest, algorithm: str, config_type: type, network, optimizer) -> Any:
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
